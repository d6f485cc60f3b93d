use super::*;
use crate::random::Random;
use crate::tracker::{Announce, Limits, Peer, Role, Sink, Sinks};

const TIMEOUT: u32 = 2700;

/// A few nodes on a network that loses nothing unless it is told to; what passes is recorded.
struct Net {
    members: Vec<(Node, Tracker)>,
    now: u64,
    /// Each packet that was sent: from, to.
    passed: Vec<(usize, usize, Vec<u8>)>,
    is_cut: bool,
    /// The member whose list allows nothing.
    refusing: Option<usize>,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 7000))
}

fn info_hash(torrent: u32) -> InfoHash {
    let mut info_hash = [0; 20];
    let spread = torrent.wrapping_mul(0x9e37_79b9);
    info_hash[..4].copy_from_slice(&spread.to_be_bytes());
    info_hash
}

fn member(n: usize, count: usize, secret: u8, peer_timeout: u32, draw: u64) -> (Node, Tracker) {
    let mut tracker = Tracker::new(Limits {
        peer_timeout,
        max_peers: usize::MAX,
        max_torrents: usize::MAX,
    });
    let settings = Settings {
        id: n as u64 + 1 + 100 * draw,
        secret: vec![secret; 32],
        entropy: [n as u64, draw],
        peer_timeout,
        most_records: 100_000,
        most_stops: 4096,
    };
    let mut node = Node::new(settings, 0, 1_700_000_000_000, &mut tracker);
    let others = (0..count).filter(|other| *other != n).map(address);
    node.set_peers(&others.collect::<Vec<_>>());
    (node, tracker)
}

impl Net {
    fn new(count: usize) -> Net {
        let members = (0..count).map(|n| member(n, count, 7, TIMEOUT, 0));
        Net {
            members: members.collect(),
            now: 0,
            passed: Vec::new(),
            is_cut: false,
            refusing: None,
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 50;
            for n in 0..self.members.len() {
                let mut out = Outbox::default();
                let (node, tracker) = &mut self.members[n];
                let time = node.advance(self.now);
                tracker.advance(time);
                let is_refused = self.refusing == Some(n);
                node.tick_tracked(2000, tracker, &|_| is_refused, &mut out);
                self.carry(n, &out);
            }
        }
    }

    fn carry(&mut self, from: usize, out: &Outbox) {
        for (to, packet) in out.packets() {
            assert!(packet.len() <= wire::MOST);
            let mut members = 0..self.members.len();
            if let Some(to) = members.find(|n| address(*n) == to) {
                self.passed.push((from, to, packet.to_vec()));
                if !self.is_cut {
                    self.deliver(from, to, packet);
                }
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, packet: &[u8]) {
        self.deliver_from(address(from), to, packet);
    }

    fn deliver_from(&mut self, from: SocketAddr, to: usize, packet: &[u8]) {
        let mut out = Outbox::default();
        let (node, tracker) = &mut self.members[to];
        let time = node.advance(self.now);
        tracker.advance(time);
        let is_refused = self.refusing == Some(to);
        node.hear_tracked(from, packet, tracker, &|_| is_refused, &mut out);
        self.carry(to, &out);
    }

    fn announce(&mut self, n: usize, torrent: u32, peer: u32, role: Role) {
        self.say(n, torrent, peer, role, crate::tracker::Event::None);
    }

    fn stop(&mut self, n: usize, torrent: u32, peer: u32) {
        let event = crate::tracker::Event::Stopped;
        self.say(n, torrent, peer, Role::Leecher, event);
    }

    fn say(&mut self, n: usize, torrent: u32, peer: u32, role: Role, event: crate::tracker::Event) {
        let info_hash = info_hash(torrent);
        let ip: [u8; 4] = (0x0a00_0000 + peer).to_be_bytes();
        let announce = Announce {
            info_hash: &info_hash,
            peer: Peer::new(ip.into(), 6881),
            role,
            event,
            want: 0,
            hint: Hint::default(),
        };
        let mut sinks = Sinks {
            v4: Sink::new(&mut []),
            v6: Sink::new(&mut []),
        };
        let tracker = &mut self.members[n].1;
        tracker.announce(&announce, &mut Random::seeded(1), &mut sinks);
    }

    fn peers(&self) -> Vec<usize> {
        let totals = self.members.iter().map(|(_, tracker)| tracker.totals());
        totals.map(|t| t.leechers + t.seeders).collect()
    }

    fn report(&self, n: usize, of: usize) -> Report {
        let mut reports = self.members[n].0.reports();
        reports
            .find(|r| r.address == address(of))
            .expect("is known")
    }

    fn rejected(&self, n: usize, of: usize, why: Rejection) -> u64 {
        self.report(n, of).counters.rejections[why as usize]
            + self.members[n].0.rejections()[why as usize]
    }
}

/// Other nodes hear it by the same means.
#[test]
fn what_comes_by_other_means_is_not_told_on() {
    let mut net = Net::new(3);
    net.run(3000);
    net.announce(0, 1, 1, Role::Leecher);
    let mut changes = Vec::new();
    net.members[0].1.take_changes(&mut changes);
    let (node, tracker) = &mut net.members[1];
    node.tell_outside();
    assert_eq!(node.relay(&changes, tracker, &|_| false), 1);
    assert_eq!(node.relay(&changes, tracker, &|_| false), 0);
    net.run(2000);
    assert_eq!(net.report(1, 2).counters.records_out, 0);
    let (node, tracker) = &mut net.members[1];
    let mut told = Vec::new();
    node.take_outside(tracker, &mut told);
    assert_eq!(told, []);
}

/// By other means is told what a node's own clients do, and nothing that comes from elsewhere.
#[test]
fn outside_is_told_what_was_announced_here() {
    let mut net = Net::new(2);
    net.run(3000);
    net.members[0].0.tell_outside();
    net.announce(0, 1, 1, Role::Leecher);
    net.announce(0, 9, 1, Role::Leecher);
    net.announce(1, 1, 3, Role::Leecher);
    net.run(3000);
    assert_eq!(net.peers(), [3, 3]);
    let (node, tracker) = &mut net.members[0];
    let mut told = Vec::new();
    node.take_outside(tracker, &mut told);
    let mut hashes: Vec<_> = told.iter().map(|change| change.info_hash).collect();
    hashes.sort_unstable();
    let mut expected = [info_hash(1), info_hash(9)];
    expected.sort_unstable();
    assert_eq!(hashes, expected);
    told.clear();
    node.take_outside(tracker, &mut told);
    assert_eq!(told, [], "once");
}

/// What is said in stamps of a time that the cluster does not have would outdo what is said later.
#[test]
fn what_a_node_says_before_it_has_the_time_means_the_same_to_all() {
    let unit = i64::from(TIMEOUT) * 1000 / 96;
    for off in [-1, 1, 3, -40, 64, 100, 1000, -100_000] {
        let mut net = Net::new(2);
        (0..30).for_each(|peer| net.announce(1, peer % 3, peer, Role::Leecher));
        net.run(15_000);
        assert_eq!(net.peers(), [30, 30]);
        let (mut node, mut tracker) = member(1, 2, 7, TIMEOUT, 1);
        let wrong = net.members[0].0.cluster_time();
        let wrong = wrong.wrapping_add_signed(off * unit);
        node.time = Time::new(net.now, wrong);
        tracker.set_cluster_time(wrong, false);
        net.members[1] = (node, tracker);
        // Half of the peers are heard again, and all of those stop a moment later.
        for peer in 0..30_u32 {
            let (heard, stops) = (peer % 15, (peer + 10) % 15);
            net.announce(1, heard % 3, heard, Role::Seeder);
            net.run(100);
            net.stop(1, stops % 3, stops);
        }
        (0..15).for_each(|peer| net.stop(1, peer % 3, peer));
        net.run(60_000);
        assert_eq!(net.peers(), [15, 15], "{off} units");
    }
}

/// A machine that was suspended is told how late it is, and its table's clock is held for a sweep. Records that come
/// before the sweep has passed would be judged by the unit at which the clock stands.
#[test]
fn no_record_is_taken_while_the_clock_is_held_and_all_are_sent_again() {
    let run = |net: &mut Net, ms: u64| {
        for _ in 0..ms / 50 {
            net.run(50);
            net.members[0].1.sweep(100, None);
        }
    };
    let mut net = Net::new(2);
    // Stamps reach three seconds, so that the link outlives the pause.
    net.members = (0..2).map(|n| member(n, 2, 7, 10, 0)).collect();
    run(&mut net, 5000);
    net.announce(1, 1, 1, Role::Leecher);
    run(&mut net, 500);
    let suspended = net.members.pop().expect("two nodes");
    run(&mut net, 4000);
    net.members.push(suspended);
    while !net.members[1].1.is_held() {
        run(&mut net, 50);
    }
    net.announce(0, 2, 2, Role::Leecher);
    run(&mut net, 1500);
    assert!(net.report(0, 1).counters.records_out > 0);
    assert!(net.members[1].1.is_held());
    assert_eq!(net.peers(), [2, 1]);

    while net.members[1].1.is_held() {
        net.members[1].1.sweep(100, None);
    }
    run(&mut net, 1500);
    assert_eq!(net.peers(), [2, 2]);
    assert!(net.report(0, 1).counters.resends > 0);
}

#[test]
fn nodes_find_each_other_and_tell_within_two_seconds() {
    let mut net = Net::new(3);
    net.run(500);
    assert!((0..3).all(|n| net.members[n].0.reports().all(|r| r.is_up)));
    let events = net.members[0].0.take_events();
    assert_eq!(events, [Event::Up(address(1)), Event::Up(address(2))]);
    net.announce(0, 1, 1, Role::Leecher);
    net.announce(1, 2, 2, Role::Seeder);
    net.run(1500);
    assert_eq!(net.peers(), [2, 2, 2]);
    net.run(2000);
    assert_eq!(net.report(0, 1).agrees, Some(true));
    assert_eq!(net.report(2, 1).counters.records_in, 1);
    assert!(net.report(2, 1).lag >= 1000, "{}", net.report(2, 1).lag);
    assert_eq!(net.report(2, 0).clock_offset, Some(0));
}

#[test]
fn a_node_that_is_not_configured_is_let_in_if_it_has_the_key() {
    let mut net = Net::new(2);
    net.members[0].0.set_peers(&[]);
    net.members[0].0.links.clear();
    net.run(2000);
    net.announce(0, 1, 1, Role::Leecher);
    net.run(2000);
    assert_eq!(net.peers(), [1, 1]);
    // It goes, and is forgotten.
    net.members[1].0.set_peers(&[]);
    net.is_cut = true;
    net.run(70_000);
    assert_eq!(net.members[0].0.reports().count(), 0);
}

#[test]
fn another_key_is_forgery_and_another_timeout_is_refused_by_name() {
    let mut net = Net::new(3);
    net.members[1] = member(1, 3, 8, TIMEOUT, 0);
    net.members[2] = member(2, 3, 7, 1800, 0);
    net.run(5000);
    net.announce(1, 1, 1, Role::Leecher);
    net.announce(2, 1, 1, Role::Leecher);
    net.run(5000);
    assert_eq!(net.peers(), [0, 1, 1]);
    assert!(net.rejected(0, 1, Rejection::Forged) > 1);
    assert!(net.rejected(0, 2, Rejection::Timeout) > 1);
    let events = net.members[0].0.take_events();
    assert_eq!(events, [Event::OtherTimeout(address(2), 1800)]);
    let events = net.members[2].0.take_events();
    assert!(events.contains(&Event::OtherTimeout(address(0), TIMEOUT)));

    // Once it had the right one, another is told of again.
    net.members[2] = member(2, 3, 7, TIMEOUT, 1);
    net.run(5000);
    assert_eq!(net.members[0].0.take_events(), [Event::Up(address(2))]);
    net.members[2] = member(2, 3, 7, 1800, 2);
    net.run(20_000);
    let events = net.members[0].0.take_events();
    assert!(events.contains(&Event::OtherTimeout(address(2), 1800)));
}

/// Until it no longer does: then there may be another one.
#[test]
fn a_node_is_itself_where_its_own_hellos_come_back() {
    let mut net = Net::new(2);
    net.is_cut = true;
    for _ in 0..30 {
        net.run(1000);
        let passed = std::mem::take(&mut net.passed);
        for (_, _, hello) in passed.iter().filter(|(from, ..)| *from == 0) {
            net.deliver_from(address(1), 0, hello);
        }
    }
    assert!(net.report(0, 1).is_own);
    net.run(20_000);
    assert!(!net.report(0, 1).is_own);
}

/// All that ever passed is played back, to the same nodes and to one that has restarted.
#[test]
fn captures_that_are_played_back_do_nothing() {
    let mut net = Net::new(2);
    net.run(1000);
    net.announce(0, 1, 1, Role::Leecher);
    net.announce(1, 1, 2, Role::Seeder);
    net.run(3000);
    let captured = std::mem::take(&mut net.passed);
    let before = net.report(0, 1).counters;
    for (from, to, packet) in &captured {
        net.deliver(*from, *to, packet);
    }
    assert_eq!(net.peers(), [2, 2]);
    let after = net.report(0, 1).counters;
    assert_eq!(after.records_in, before.records_in);
    let to_first = captured
        .iter()
        .filter(|(_, to, packet)| *to == 0 && packet[1] != 1);
    assert_eq!(
        net.rejected(0, 1, Rejection::Replayed),
        to_first.count() as u64
    );
    // The session goes on.
    net.announce(0, 3, 3, Role::Leecher);
    net.run(2000);
    assert_eq!(net.peers(), [3, 3]);

    net.members[1] = member(1, 2, 7, TIMEOUT, 5);
    for (from, to, packet) in captured.iter().filter(|(_, to, _)| *to == 1) {
        net.deliver(*from, *to, packet);
    }
    assert_eq!(
        net.peers(),
        [3, 0],
        "what the old one heard is not for the new one"
    );
    assert!(net.rejected(1, 0, Rejection::Stale) > 0);
    // Hellos of the old one do not bring the old session back, nor do they keep the new one away.
    net.run(2000);
    let session = |net: &Net| net.members[0].0.links[0].session.as_ref().map(|s| s.tag);
    let current = session(&net);
    for (from, to, packet) in captured.iter().filter(|(_, to, _)| *to == 0) {
        net.deliver(*from, *to, packet);
    }
    assert_eq!(session(&net), current);
    net.run(20_000);
    assert_eq!(net.peers(), [3, 3]);
    assert_eq!(session(&net), current);
}

/// Somebody has recorded the hellos of a node that is gone, and sends them from all over.
#[test]
fn repeated_hellos_neither_fill_the_memory_nor_keep_anybody_out() {
    let mut net = Net::new(3);
    net.members[0].0.set_peers(&[address(2)]);
    net.members[0].0.links.clear();
    net.members[0].0.set_peers(&[address(2)]);
    net.run(1000);
    let hellos =
        |(from, to, packet): &&(usize, usize, Vec<u8>)| (*from, *to, packet[1]) == (1, 0, 1);
    let hello = net
        .passed
        .iter()
        .find(hellos)
        .expect("it said hello")
        .2
        .clone();
    net.members[1] = member(1, 3, 7, TIMEOUT, 5);
    net.members[1].0.set_peers(&[]);
    net.members[1].0.links.clear();
    net.run(100_000);
    let there = |n: u32| SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 7000));
    let flood = |net: &mut Net| (0..5000).for_each(|n| net.deliver_from(there(n), 0, &hello));
    flood(&mut net);
    let node = &net.members[0].0;
    assert!(node.links.len() < 100, "{}", node.links.len());
    assert!(
        !(0..5000).any(|n| node.has_link_to(there(n).ip())),
        "may open streams"
    );
    assert!(node.has_link_to(address(2).ip()));
    // One that comes by itself has said hello, and the flood goes on.
    net.is_cut = true;
    net.members[1].0.set_peers(&[address(0)]);
    net.run(50);
    let hello = net
        .passed
        .iter()
        .rfind(|(from, to, _)| (*from, *to) == (1, 0));
    let hello = hello.expect("it said hello").2.clone();
    net.deliver(1, 0, &hello);
    flood(&mut net);
    let links = &net.members[0].0.links;
    assert!(
        links.iter().any(|link| link.address == address(1)),
        "is half in"
    );
    net.is_cut = false;
    net.run(3000);
    net.announce(1, 1, 1, Role::Leecher);
    net.run(2000);
    assert_eq!(net.peers(), [1, 1, 1]);
}

/// A node that has the key and says what cannot be.
#[test]
fn numbers_beyond_bounds_do_no_harm() {
    let mut net = Net::new(2);
    net.run(1000);
    for number in [u64::MAX, 5, u64::MAX - 1, u64::MAX] {
        let link = &mut net.members[0].0.links[0];
        let mut out = Outbox::default();
        let body = [number.to_be_bytes(), number.to_be_bytes()].concat();
        send(link, Kind::Records, &body, &mut out);
        let heartbeat = Heartbeat {
            pulse: wire::Pulse {
                time: number,
                set: number as u32,
                sure_for: u32::MAX,
                cookie: number,
                echo: number,
                held: number as u32,
            },
            next_batch: number,
            digest: Some((number, number)),
        };
        let mut body = Vec::new();
        heartbeat.put(&mut body);
        send(link, Kind::Heartbeat, &body, &mut out);
        net.carry(0, &out);
        net.run(3000);
    }
    net.announce(1, 1, 1, Role::Leecher);
    net.run(2000);
    assert_eq!(net.peers(), [1, 1]);
}

#[test]
fn packets_of_other_versions_and_noise_are_counted_and_dropped() {
    let mut net = Net::new(2);
    net.run(1000);
    let mut random = Random::seeded(91);
    let sample = net.passed.last().expect("something passed").2.clone();
    for round in 0..20_000 {
        let mut packet = sample.clone();
        match round % 3 {
            0 => packet[0] = 2 + random.below(200) as u8,
            1 => packet.truncate(random.below(40)),
            _ => packet
                .iter_mut()
                .skip(1)
                .for_each(|b| *b ^= random.draw() as u8),
        }
        net.deliver(1, 0, &packet);
    }
    assert!(net.rejected(0, 1, Rejection::Version) >= 6667);
    assert!(net.rejected(0, 1, Rejection::Malformed) > 6000);
    assert!(net.rejected(0, 1, Rejection::Stale) > 6000);
    net.announce(1, 1, 1, Role::Leecher);
    net.run(2000);
    assert_eq!(net.peers(), [1, 1]);
}

#[test]
fn lost_batches_are_seen_and_sent_again() {
    let mut net = Net::new(2);
    net.run(1000);
    net.is_cut = true;
    net.announce(0, 1, 1, Role::Leecher);
    net.run(1500);
    net.is_cut = false;
    net.run(2500);
    assert_eq!(net.peers(), [1, 1]);
    assert_eq!(net.report(1, 0).counters.gaps, 1);
    assert_eq!(net.report(0, 1).counters.resends, 1);
    assert_eq!(net.report(1, 0).counters.repairs_in, 0);
}

#[test]
fn what_is_more_than_can_be_applied_is_shed_and_mended_later() {
    let mut net = Net::new(2);
    net.run(1000);
    net.members[1].0.most_records = 100;
    net.members[1].0.credit = 100_000;
    for peer in 0..2000 {
        net.announce(0, peer % 700, peer, Role::Leecher);
    }
    net.run(1500);
    assert!(net.rejected(1, 0, Rejection::Shed) > 5);
    assert!(net.peers()[1] < 500);
    net.run(40_000);
    assert_eq!(net.peers(), [2000, 2000]);
}

/// Two nodes, of which the second has room for so many peers.
fn one_with_room_for(max_peers: usize) -> Net {
    let mut net = Net::new(2);
    let (node, tracker) = &mut net.members[1];
    *tracker = Tracker::new(Limits {
        peer_timeout: TIMEOUT,
        max_peers,
        max_torrents: usize::MAX,
    });
    tracker.join_cluster(node.keys.digests(), 4096);
    tracker.set_cluster_time(node.time.cluster(), false);
    net.run(3000);
    net
}

/// What one node has no room for cannot be mended, and is not to be sent again and again.
#[test]
fn a_table_that_is_full_costs_the_others_little() {
    let mut net = one_with_room_for(100);
    for peer in 0..2000 {
        net.announce(0, peer, peer, Role::Leecher);
    }
    net.run(1_200_000);
    assert_eq!(net.peers(), [2000, 100]);
    // Of which four attempts at 1900 peers are most.
    let bytes = net.report(0, 1).counters.repair_bytes_out;
    assert!(bytes < 2_000_000, "{bytes}");
}

/// What keeps a node from comparing has gone: it does not wait any longer.
#[test]
fn a_node_that_can_take_what_it_could_not_compares_at_once() {
    let mut net = one_with_room_for(100);
    for peer in 0..150 {
        net.announce(0, peer, peer, Role::Leecher);
    }
    net.run(25_000);
    assert!(!net.members[1].0.is_comparable());
    assert_eq!(net.peers(), [150, 100]);
    for peer in 0..100 {
        net.stop(0, peer, peer);
    }
    net.run(25_000);
    assert_eq!(net.peers(), [50, 50]);

    let mut net = Net::new(2);
    net.refusing = Some(1);
    net.run(1000);
    for peer in 0..50 {
        net.announce(0, peer, peer, Role::Leecher);
    }
    net.run(25_000);
    assert!(!net.members[1].0.is_comparable());
    assert_eq!(net.peers(), [50, 0]);
    net.refusing = None;
    net.members[1].0.note_list();
    net.run(25_000);
    assert_eq!(net.peers(), [50, 50]);
}

/// The list refuses the torrent when repair brings its count.
#[test]
fn no_count_of_a_refused_torrent_enters_the_table() {
    let mut net = Net::new(2);
    net.refusing = Some(1);
    net.run(1000);
    for torrent in 0..50 {
        let event = crate::tracker::Event::Completed;
        net.say(0, torrent, torrent, Role::Seeder, event);
    }
    for _ in 0..120 {
        net.run(1000);
        assert_eq!(net.members[1].1.totals().torrents, 0, "at {} ms", net.now);
    }
}

/// The list changes while counts that another node sent wait to be applied.
#[test]
fn a_count_that_waits_is_dropped_if_the_list_refuses_it_by_then() {
    let mut net = Net::new(2);
    net.run(3000);
    let event = crate::tracker::Event::Completed;
    net.say(0, 1, 1, Role::Seeder, event);
    net.stop(0, 1, 1);
    net.members[0].1.take_changes(&mut Vec::new());
    let holds = |net: &Net| net.members[1].0.counting.holds() > 0;
    while !holds(&net) {
        net.run(50);
        assert!(net.now < 200_000, "the count is sent");
    }
    net.refusing = Some(1);
    while holds(&net) {
        net.run(50);
    }
    assert_eq!(net.members[1].1.totals().torrents, 0);
}

/// Fills both nodes alike, behind the protocol's back.
fn fill(net: &mut Net, torrents: u32, peers: u32) {
    for peer in 0..peers {
        for n in 0..2 {
            net.announce(n, peer % torrents, peer, Role::Leecher);
        }
    }
    for (_, tracker) in &mut net.members {
        tracker.take_changes(&mut Vec::new());
    }
}

/// A swarm that never rests has always something on its way.
#[test]
fn what_is_on_its_way_is_no_difference() {
    let mut net = Net::new(2);
    net.run(1000);
    for peer in 0..2400 {
        net.announce((peer % 2) as usize, 1, peer, Role::Leecher);
        net.run(50);
        for (n, other) in [(0, 1), (1, 0)] {
            assert_ne!(net.report(n, other).agrees, Some(false), "after {peer}");
        }
    }
}

/// One percent differs, in many small swarms and in a huge one: that is mended within two minutes, and what
/// is sent for it is at most twenty times what differed, and digests.
#[test]
fn differences_are_mended_for_few_bytes() {
    for torrents in [20_000, 1] {
        let mut net = Net::new(2);
        net.run(1000);
        fill(&mut net, torrents, 40_000);
        for peer in 40_000..40_400 {
            let n = (peer % 2) as usize;
            net.announce(n, peer % torrents, peer, Role::Seeder);
        }
        for (_, tracker) in &mut net.members {
            tracker.take_changes(&mut Vec::new());
        }
        net.passed.clear();
        net.run(60_000);
        assert_eq!(net.peers(), [40_400, 40_400], "{torrents} torrents");
        assert_eq!(net.report(0, 1).agrees, Some(true));
        assert_eq!(net.report(1, 0).agrees, Some(true));
        let of_kind = |kinds: &[Kind]| {
            let is_of = |packet: &[u8]| kinds.iter().any(|kind| packet[1] == *kind as u8);
            let sizes = net.passed.iter().map(|(_, _, packet)| packet);
            sizes.filter(|p| is_of(p)).map(Vec::len).sum::<usize>()
        };
        let moved = of_kind(&[Kind::Items, Kind::Repair]);
        let digests = of_kind(&[Kind::Groups, Kind::Buckets, Kind::Ranges]);
        println!("{torrents} torrents: {moved} bytes of records, {digests} of digests");
        let record = if torrents == 1 { 8 } else { 30 };
        assert!(moved <= 20 * 400 * record + 40 * 400, "{moved}");
        // Some 100 bytes a level for each peer that differs.
        assert!(digests < 400 * 2500, "{digests}");
    }
}

#[test]
fn the_last_word_wins_wherever_it_is_said() {
    let mut net = Net::new(2);
    net.run(1000);
    for round in 0..20 {
        let role = [Role::Leecher, Role::Seeder][round % 2];
        net.announce(round / 2 % 2, 1, 1, role);
        net.run(31_000);
        let totals = net.members.iter().map(|(_, t)| t.totals().seeders);
        assert!(totals.eq([round % 2, round % 2]), "round {round}");
    }
}

/// Counts of torrents that have peers, and of those that have none, differ and no peer does.
#[test]
fn counts_that_no_peer_tells_of_come_to_be_the_same() {
    let mut net = Net::new(3);
    net.run(1000);
    let completed = crate::tracker::Event::Completed;
    for torrent in 0..3000 {
        let n = (torrent % 2) as usize;
        for peer in 0..=torrent % 3 {
            net.say(n, torrent, peer, Role::Seeder, completed);
            net.stop(n, torrent, peer);
        }
        if torrent % 10 == 0 {
            (0..3).for_each(|n| net.announce(n, torrent, 9, Role::Leecher));
        }
    }
    for (_, tracker) in &mut net.members {
        tracker.take_changes(&mut Vec::new());
    }
    net.run(250_000);
    for (_, tracker) in &net.members {
        let mut known = 0;
        tracker.scrape_from(&[0; 20], 10_000, |_, counts, idle| {
            known += 1;
            assert!((1..=3).contains(&counts.downloaded));
            assert_eq!(counts.leechers > 0, idle == 0);
        });
        assert_eq!(known, 3000);
        for torrent in 0..3000 {
            let counts = tracker.scrape(&info_hash(torrent));
            let downloaded = counts.map(|counts| counts.downloaded);
            assert_eq!(downloaded, Some(torrent % 3 + 1), "{torrent}");
        }
    }
    // From then on nothing but digests is sent.
    net.passed.clear();
    net.run(130_000);
    let told = net
        .passed
        .iter()
        .filter(|(_, _, p)| p[1] == Kind::Counts as u8);
    assert_eq!(told.count(), 0);
    let asked = net
        .passed
        .iter()
        .filter(|(_, _, p)| p[1] == Kind::Tallies as u8);
    assert!((300..500).contains(&asked.count()));
}

/// A unit of the clock is 28 seconds here: what is said at one node and then at another comes within it.
#[test]
fn the_last_word_wins_within_a_unit_too() {
    let mut net = Net::new(3);
    net.run(1000);
    let count = |net: &Net| {
        let totals = net.members.iter().map(|(_, t)| t.totals());
        totals.map(|t| (t.leechers, t.seeders)).collect::<Vec<_>>()
    };
    net.announce(0, 1, 1, Role::Seeder);
    net.run(1500);
    net.announce(1, 1, 1, Role::Leecher);
    net.run(1500);
    assert_eq!(count(&net), [(1, 0); 3]);
    net.stop(2, 1, 1);
    net.run(1500);
    assert_eq!(count(&net), [(0, 0); 3]);
    net.announce(0, 1, 1, Role::Leecher);
    net.run(1500);
    assert_eq!(count(&net), [(1, 0); 3]);
    net.run(4000);
    assert!((0..3).all(|n| net.members[n].0.reports().all(|r| r.agrees == Some(true))));
}

/// Bodies of every kind that passes between two nodes.
fn bodies() -> Vec<(Kind, Vec<u8>)> {
    let mut net = Net::new(2);
    net.run(1000);
    // Some are lost, some differ, and so do counts.
    net.is_cut = true;
    net.announce(0, 1, 1, Role::Leecher);
    net.run(1500);
    net.is_cut = false;
    (0..100).for_each(|peer| net.announce(0, 1, 1000 + peer, Role::Leecher));
    for torrent in 0..400 {
        let completed = crate::tracker::Event::Completed;
        net.say(
            (torrent % 2) as usize,
            torrent,
            torrent,
            Role::Seeder,
            completed,
        );
        if torrent % 3 == 0 {
            net.stop((torrent % 2) as usize, torrent, torrent);
        }
    }
    for (_, tracker) in &mut net.members {
        tracker.take_changes(&mut Vec::new());
    }
    net.run(90_000);
    net.announce(0, 500, 1, Role::Leecher);
    net.run(1500);
    let mut bodies: Vec<(Kind, Vec<u8>)> = Vec::new();
    for (_, _, packet) in &net.passed {
        let Some(kind) = Kind::of(packet[1]) else {
            panic!("a packet of no kind");
        };
        // The first one of each kind and the longest.
        let body = packet[wire::HEADER..packet.len() - wire::CODE].to_vec();
        let known: Vec<_> = bodies.iter().filter(|(known, _)| *known == kind).collect();
        let is_longest = known.iter().all(|(_, known)| known.len() < body.len());
        if known.len() < 6 && is_longest {
            bodies.push((kind, body));
        }
    }
    bodies
}

/// What has the key is believed, and may still be wrong: no body of any kind does harm, cut short, with bits
/// turned over, or under the name of another kind.
#[test]
fn genuine_packets_with_nonsense_in_them_do_no_harm() {
    let bodies = bodies();
    for number in 2..=11 {
        let kind = Kind::of(number).expect("is a kind");
        assert!(bodies.iter().any(|(known, _)| *known == kind), "{kind:?}");
    }
    let mut net = Net::new(2);
    net.run(1000);
    fill(&mut net, 100, 1000);
    let mut random = Random::seeded(92);
    let hear = |net: &mut Net, kind: Kind, body: &[u8]| {
        let mut packet = Vec::new();
        let session = net.members[1].0.links[0].session.as_mut();
        session.expect("is up").seal(kind, body, &mut packet);
        let mut out = Outbox::default();
        let (node, tracker) = &mut net.members[0];
        node.hear(address(1), &packet, tracker, &mut out);
        node.tick(1000, tracker, &mut out);
        assert!(out.packets().all(|(_, packet)| packet.len() <= wire::MOST));
    };
    for (kind, body) in &bodies {
        for length in 0..=body.len() {
            hear(&mut net, *kind, &body[..length]);
        }
    }
    for round in 0..30_000 {
        let (kind, body) = &bodies[random.below(bodies.len())];
        let mut body = body.clone();
        for _ in 0..=random.below(8) {
            if let Some(byte) = body.len().checked_sub(1).map(|last| random.below(last + 1)) {
                body[byte] ^= 1 << random.below(8);
            }
        }
        let number = if round % 4 == 0 {
            2 + random.below(10) as u8
        } else {
            *kind as u8
        };
        hear(&mut net, Kind::of(number).expect("is a kind"), &body);
    }
    assert!(net.report(0, 1).counters.rejections[Rejection::Malformed as usize] > 1000);
    // And it goes on.
    net.run(2000);
    net.announce(1, 7, 70_000, Role::Leecher);
    net.run(4000);
    let before = net.report(0, 1).counters.records_in;
    assert!(before > 0);
}

#[test]
fn a_restarted_node_is_whole_again() {
    let mut net = Net::new(3);
    net.run(1000);
    for peer in 0..5000 {
        net.announce((peer % 3) as usize, peer % 900, peer, Role::Leecher);
    }
    net.run(5000);
    assert_eq!(net.peers(), [5000; 3]);
    net.members[1] = member(1, 3, 7, TIMEOUT, 5);
    net.run(40_000);
    assert_eq!(net.peers(), [5000; 3]);
    assert_eq!(net.report(0, 1).agrees, Some(true));
}

/// A peer completed and stopped before another node's table was given: its count came with that.
#[test]
fn a_completion_that_a_table_has_counted_is_not_counted_again() {
    use crate::tracker::Event;
    let mut net = Net::new(2);
    net.run(3000);
    let complete = |net: &mut Net, peer| {
        net.say(0, 1, peer, Role::Seeder, Event::Completed);
        net.say(0, 1, peer, Role::Seeder, Event::Stopped);
        let (node, tracker) = &mut net.members[1];
        node.note_counts();
        let known = tracker.scrape(&info_hash(1)).map_or(0, |c| c.downloaded);
        tracker.merge_memory(&info_hash(1), known + 1, 0);
        net.run(2000);
        let counts = net.members.iter();
        let counts = counts.map(|(_, tracker)| tracker.scrape(&info_hash(1)).map(|c| c.downloaded));
        counts.collect::<Vec<_>>()
    };
    assert_eq!(complete(&mut net, 1), [Some(1); 2]);
    assert_eq!(complete(&mut net, 2), [Some(2); 2]);
    // Later on it counts as it always did.
    net.run(9000);
    net.say(0, 1, 3, Role::Seeder, Event::Completed);
    net.run(2000);
    let count = net.members[1].1.scrape(&info_hash(1));
    assert_eq!(count.map(|c| c.downloaded), Some(3));
}
