//! A shard against a plain model, over long random lives with a fixed seed.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A unit of the clock is one second with this timeout.
const LIMITS: Limits = Limits {
    peer_timeout: 48,
    max_peers: usize::MAX,
    max_torrents: usize::MAX,
};

impl Tracker {
    /// Moves the clock, and sweeps for as long as it is held, as no announce is answered until then.
    pub fn pass_to(&mut self, now_ms: u64) {
        self.advance(now_ms);
        while self.is_held() {
            self.sweep(1000, None);
        }
    }

    /// Announces with numwant 0, also for tests of other modules.
    pub fn tell(&mut self, info_hash: &InfoHash, peer: Peer, role: Role, event: Event) {
        let announce = Announce {
            info_hash: *info_hash,
            peer,
            role,
            event,
            want: 0,
            hint: None,
        };
        let mut sinks = Sinks::new(&mut [], &mut []);
        self.announce(&announce, &mut Random::seeded(1), &mut sinks);
    }

    /// Role and tag of each peer by torrent, address and port.
    pub fn stored(&self) -> BTreeMap<(InfoHash, Vec<u8>), (Role, u8)> {
        let mut stored = BTreeMap::new();
        let mut torrent = [0; 20];
        self.walk(Cursor::default(), usize::MAX, &mut |found| match found {
            Found::Torrent { info_hash, .. } => torrent = *info_hash,
            Found::Peers { list, records } => {
                let role = [Role::Leecher, Role::Seeder][usize::from(list % 2)];
                for record in records.chunks_exact(RECORD_SIZES[usize::from(list)]) {
                    let (tag, endpoint) = record.split_last().expect("is not empty");
                    stored.insert((torrent, endpoint.to_vec()), (role, *tag));
                }
            }
        });
        stored
    }
}

fn hash(n: usize) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&(n as u32).wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash[16..].copy_from_slice(&(n as u32).to_be_bytes());
    hash
}

fn address(n: usize) -> Peer {
    let ip: IpAddr = if n % 3 == 0 {
        let mut octets = [0x20; 16];
        octets[12..].copy_from_slice(&(n as u32).to_be_bytes());
        octets.into()
    } else {
        (0x0a00_0000 + n as u32 / 4).to_be_bytes().into()
    };
    Peer::new(ip, 1000 + (n % 4) as u16)
}

fn endpoint(peer: Peer) -> Vec<u8> {
    peer.endpoint().to_vec()
}

/// A tracker, and buffers for its replies.
struct Subject {
    tracker: Tracker,
    random: Random,
    v4: [u8; 1200],
    v6: [u8; 3600],
}

struct Received {
    counts: Counts,
    peers: Vec<Vec<u8>>,
}

impl Subject {
    fn new(limits: Limits) -> Subject {
        Subject {
            tracker: Tracker::new(limits),
            random: Random::seeded(99),
            v4: [0; 1200],
            v6: [0; 3600],
        }
    }

    fn announce(&mut self, torrent: usize, peer: usize, role: Role, event: Event) -> Received {
        self.announce_wanting(torrent, peer, role, event, 50)
    }

    fn announce_wanting(
        &mut self,
        torrent: usize,
        peer: usize,
        role: Role,
        event: Event,
        want: usize,
    ) -> Received {
        let mut sinks = Sinks::new(&mut self.v4, &mut self.v6);
        let announce = Announce {
            info_hash: hash(torrent),
            peer: address(peer),
            role,
            event,
            want,
            hint: None,
        };
        let counts = self
            .tracker
            .announce(&announce, &mut self.random, &mut sinks)
            .counts;
        let v4 = sinks.v4.bytes().chunks(6);
        let v6 = sinks.v6.bytes().chunks(18);
        Received {
            counts,
            peers: v4.chain(v6).map(<[u8]>::to_vec).collect(),
        }
    }

    fn sweep_if_due(&mut self, budget: usize) {
        while self.tracker.sweep(budget, None) == Progress::Underway {}
    }

    fn sweep_all(&mut self) {
        self.tracker.begin_sweep();
        while self.tracker.sweep_slice(100, None) == Progress::Underway {}
    }
}

#[derive(Clone, Copy)]
struct ModelPeer {
    role: Role,
    completed: bool,
    seen: u64,
}

#[derive(Default)]
struct ModelTorrent {
    downloaded: u32,
    peers: BTreeMap<usize, ModelPeer>,
}

impl ModelTorrent {
    fn expire(&mut self, now: u64) {
        self.peers.retain(|_, peer| now - peer.seen <= 48);
    }

    fn count(&self, role: Role) -> u32 {
        self.peers.values().filter(|p| p.role == role).count() as u32
    }

    /// Applies an announce as BEP 3 and the design have it.
    fn announce(&mut self, peer: usize, role: Role, event: Event, now: u64) {
        if event == Event::Stopped {
            self.peers.remove(&peer);
            return;
        }
        let known = self.peers.get(&peer);
        let was_completed = known.is_some_and(|p| p.completed);
        let completes = event == Event::Completed && role == Role::Seeder;
        self.downloaded += u32::from(completes && !was_completed);
        let completed = completes || was_completed;
        let seen = now;
        let new = ModelPeer {
            role,
            completed,
            seen,
        };
        self.peers.insert(peer, new);
    }

    /// The endpoints that a reply to this asker may name, of peers last seen at `since` or later.
    fn eligible(&self, asker: usize, role: Role, since: u64) -> BTreeSet<Vec<u8>> {
        let useful = |p: &ModelPeer| role == Role::Leecher || p.role == Role::Leecher;
        self.peers
            .iter()
            .filter(|(n, p)| **n != asker && useful(p) && p.seen >= since)
            .map(|(n, _)| endpoint(address(*n)))
            .collect()
    }
}

fn random_event(random: &mut Random) -> Event {
    match random.below(20) {
        0..5 => Event::Started,
        5..9 => Event::Completed,
        9..14 => Event::Stopped,
        _ => Event::None,
    }
}

/// Few torrents are large and many small.
fn random_torrent(random: &mut Random) -> usize {
    let scale = 1 << random.below(9);
    random.below(scale)
}

#[test]
fn agrees_with_a_plain_model_over_a_long_life() {
    let mut subject = Subject::new(LIMITS);
    let mut model: BTreeMap<usize, ModelTorrent> = BTreeMap::new();
    let mut random = Random::seeded(2024);
    let mut now = 0;
    for step in 0..240_000_usize {
        // Tides: swarms grow into large ones and shrink to nothing.
        let ebb = (step / 30_000) % 2 == 1;
        if step % if ebb { 200 } else { 2000 } == 0 {
            now += random.below(3) as u64;
            subject.tracker.advance(now * 1000);
        }
        subject.tracker.sweep(1 + random.below(200), None);
        let torrent = random_torrent(&mut random);
        let scale = 20 << random.below(9);
        let peer = random.below(scale);
        let mut event = random_event(&mut random);
        if ebb && random.below(2) == 0 {
            event = Event::Stopped;
        }
        let role = [Role::Leecher, Role::Seeder][random.below(2)];
        let entry = model.entry(torrent).or_default();
        let known = entry.peers.get(&peer);
        if known.is_some_and(|p| now - p.seen > 48) {
            continue; // The model does not know whether the sweep has passed the peer.
        }
        entry.announce(peer, role, event, now);
        let reply = subject.announce(torrent, peer, role, event);
        check_reply(&reply, entry, peer, role, event, now);
        if step % 20_000 == 19_999 {
            subject.sweep_all();
            for torrent in model.values_mut() {
                torrent.expire(now);
            }
            check_all(&subject.tracker, &model);
        }
    }
    now += 200;
    subject.tracker.advance(now * 1000);
    for torrent in model.values_mut() {
        torrent.expire(now);
    }
    subject.sweep_all();
    check_all(&subject.tracker, &model);
    let totals = subject.tracker.totals();
    assert_eq!((totals.leechers, totals.seeders), (0, 0));
}

fn check_reply(
    reply: &Received,
    model: &ModelTorrent,
    asker: usize,
    role: Role,
    event: Event,
    now: u64,
) {
    // If a lone peer stops and nothing was downloaded, its torrent is removed.
    let Counts {
        leechers, seeders, ..
    } = reply.counts;
    assert!(leechers <= model.count(Role::Leecher));
    assert!(seeders <= model.count(Role::Seeder));
    if event == Event::Stopped {
        assert!(reply.peers.is_empty());
        return;
    }
    assert_eq!(reply.counts.downloaded, model.downloaded);
    let named: BTreeSet<_> = reply.peers.iter().cloned().collect();
    assert_eq!(named.len(), reply.peers.len(), "each once");
    let alive = model.eligible(asker, role, now.saturating_sub(48));
    assert!(named.is_subset(&alive), "only living peers that are of use");
    let all = model.eligible(asker, role, 0);
    if all.len() == alive.len() {
        assert_eq!(named.len(), alive.len().min(50));
    }
}

fn check_all(tracker: &Tracker, model: &BTreeMap<usize, ModelTorrent>) {
    let mut totals = Totals::default();
    for (&n, torrent) in model {
        let expected = Counts {
            seeders: torrent.count(Role::Seeder),
            leechers: torrent.count(Role::Leecher),
            downloaded: torrent.downloaded,
        };
        let known = tracker.scrape(&hash(n));
        if torrent.peers.is_empty() && torrent.downloaded == 0 {
            assert_eq!(known, None);
            continue;
        }
        assert_eq!(known, Some(expected), "torrent {n}");
        totals.torrents += 1;
        totals.leechers += expected.leechers as usize;
        totals.seeders += expected.seeders as usize;
    }
    assert_eq!(tracker.totals(), totals);
}

#[test]
fn a_peer_leaves_when_its_timeout_passes_and_the_torrent_after_a_day() {
    let mut subject = Subject::new(LIMITS);
    subject.announce(1, 1, Role::Seeder, Event::Completed);
    subject.announce(2, 1, Role::Leecher, Event::Started);
    let one = Counts {
        seeders: 1,
        leechers: 0,
        downloaded: 1,
    };
    for second in 0..=48 {
        subject.tracker.advance(second * 1000);
        subject.sweep_if_due(1);
        assert_eq!(subject.tracker.scrape(&hash(1)), Some(one));
    }
    let mut left = None;
    for second in 49..90_000 {
        subject.tracker.advance(second * 1000);
        subject.sweep_if_due(1);
        match subject.tracker.scrape(&hash(1)) {
            Some(counts) => assert_eq!((counts.seeders, counts.downloaded), (0, 1)),
            None => left = left.or(Some(second)),
        }
        if second > 48 + 8 {
            assert_eq!(subject.tracker.scrape(&hash(2)), None);
        }
    }
    let left = left.expect("is forgotten in the end");
    assert!((86_400 + 49..86_400 + 49 + 16).contains(&left), "{left}");
}

#[test]
fn only_expired_peers_are_gone_after_a_suspend() {
    for pause in [
        6, 13, 14, 25, 45, 48, 49, 62, 63, 64, 65, 100, 1000, 100_000,
    ] {
        let mut subject = Subject::new(LIMITS);
        for peer in 0..2000 {
            subject.tracker.advance(peer as u64 * 20);
            subject.sweep_if_due(1000);
            subject.announce(peer % 3, peer, Role::Leecher, Event::Started);
        }
        subject.tracker.advance((40 + pause) * 1000);
        subject.sweep_all();
        let alive = (0..2000).filter(|&peer| {
            let seen = peer * 20 / 1000;
            40 + pause - seen <= 48
        });
        let totals = subject.tracker.totals();
        assert_eq!(totals.leechers, alive.count(), "after a pause of {pause}");
    }
}

/// After a long pause the sweep works in slices. Time goes on between them, and no client is served until the end. Then
/// all peers whose time is over are gone, and no others.
#[test]
fn agrees_with_a_plain_model_over_random_pauses() {
    let mut random = Random::seeded(4711);
    let (mut pauses, mut most_slices) = (0, 0);
    for life in 0..60 {
        let mut subject = Subject::new(LIMITS);
        let mut seen: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..60 {
            for _ in 0..random.below(300) {
                let (torrent, peer) = (random_torrent(&mut random), random.below(400));
                let role = [Role::Leecher, Role::Seeder][random.below(2)];
                let event = match random.below(8) {
                    0 => Event::Stopped,
                    _ => Event::None,
                };
                subject.announce(torrent, peer, role, event);
                match event {
                    Event::Stopped => seen.remove(&(torrent, peer)),
                    _ => seen.insert((torrent, peer), now),
                };
            }
            // Pauses of one unit to a hundred thousand, as many short ones as long ones.
            let scale = [3, 30, 100, 200, 1000, 100_000][random.below(6)];
            now += 1 + random.below(scale) as u64;
            let before = subject.tracker.totals();
            subject.tracker.advance(now * 1000);
            assert_eq!(subject.tracker.totals(), before, "no work is done at once");
            let was_held = subject.tracker.is_held();
            let mut slices = 0;
            while subject.tracker.is_held() {
                let before = subject.tracker.totals();
                assert_ne!(subject.tracker.sweep(100, None), Progress::NotDue);
                let after = subject.tracker.totals();
                let dropped = before.leechers + before.seeders - after.leechers - after.seeders;
                assert!(dropped <= 100 + 400, "{dropped} in a slice");
                slices += 1;
                if random.below(10) == 0 {
                    now += random.below(scale.min(40)) as u64;
                    subject.tracker.advance(now * 1000);
                }
            }
            pauses += u32::from(was_held);
            most_slices = most_slices.max(slices);
            seen.retain(|_, at| now - *at <= 48);
            check_stamps(&subject.tracker, &seen, life);
            if !was_held {
                subject.sweep_if_due(1 + random.below(1000));
            }
        }
    }
    assert!(pauses > 1000 && most_slices > 10, "{pauses} {most_slices}");
}

/// Each living peer, and no other, is stored with the unit in which it announced.
fn check_stamps(tracker: &Tracker, seen: &BTreeMap<(usize, usize), u64>, life: usize) {
    let stored = tracker.stored().into_iter();
    let stored: BTreeMap<_, _> = stored
        .filter(|(_, (_, tag))| tracker.age(*tag).is_some())
        .map(|(key, (_, tag))| (key, tracker.clock.unit_of(tag) - Clock::FIRST))
        .collect();
    let seen = seen
        .iter()
        .map(|((torrent, peer), at)| ((hash(*torrent), endpoint(address(*peer))), *at));
    assert_eq!(stored, seen.collect(), "life {life}");
}

#[test]
fn an_empty_table_holds_no_clock() {
    let mut subject = Subject::new(LIMITS);
    subject.tracker.advance(1_000_000);
    assert!(!subject.tracker.is_held());
    subject.announce(1, 1, Role::Leecher, Event::Started);
    let unit = subject.tracker.clock.unit();
    assert_eq!(unit, Clock::FIRST + 1000);
    subject.tracker.advance((1000 + Clock::SWEEP_VALID) * 1000);
    assert!(!subject.tracker.is_held());
    subject.tracker.advance((1001 + Clock::SWEEP_VALID) * 1000);
    assert!(subject.tracker.is_held());
}

#[test]
fn at_the_limits_newcomers_are_served_and_not_stored() {
    let mut subject = Subject::new(Limits {
        max_peers: 3,
        max_torrents: 2,
        ..LIMITS
    });
    for peer in [1, 2, 4] {
        subject.announce(1, peer, Role::Leecher, Event::Started);
    }
    let reply = subject.announce(1, 5, Role::Leecher, Event::Started);
    assert_eq!((reply.counts.leechers, reply.peers.len()), (3, 3));
    let reply = subject.announce(2, 1, Role::Leecher, Event::Started);
    assert_eq!((reply.counts, reply.peers.len()), (Counts::default(), 0));
    // Stored peers may change their role and leave, which makes room.
    let reply = subject.announce(1, 4, Role::Seeder, Event::Completed);
    assert_eq!((reply.counts.seeders, reply.counts.leechers), (1, 2));
    subject.announce(1, 4, Role::Seeder, Event::Stopped);
    subject.announce(2, 1, Role::Leecher, Event::Started);
    subject.announce(2, 1, Role::Leecher, Event::Stopped);
    assert_eq!(subject.tracker.totals().torrents, 1);
    subject.announce(2, 1, Role::Leecher, Event::Started);
    subject.announce(1, 1, Role::Leecher, Event::Stopped);
    subject.announce(3, 1, Role::Leecher, Event::Started);
    assert_eq!(subject.tracker.totals().torrents, 2);
}

/// The reserve is a twentieth: here two peers.
#[test]
fn small_swarms_have_a_reserve_of_peers() {
    let mut subject = Subject::new(Limits {
        max_peers: 40,
        max_torrents: 4,
        ..LIMITS
    });
    let mut announce = |torrent, peer| {
        subject.announce(torrent, peer, Role::Leecher, Event::None);
        let all: usize = subject.tracker.swarms.totals.iter().sum();
        (all, subject.tracker.tally.refused)
    };
    for peer in 1..=37 {
        announce(1, peer);
    }
    assert_eq!(announce(2, 1), (38, [0, 0]));
    assert_eq!(announce(1, 38), (38, [1, 0]), "a large swarm");
    assert_eq!(announce(1, 37), (38, [1, 0]), "a renewal");
    assert_eq!(announce(3, 1), (39, [1, 0]), "a new torrent");
    assert_eq!(announce(2, 2), (40, [1, 0]));
    assert_eq!(announce(2, 3), (40, [2, 0]), "nothing is left");
    assert_eq!(announce(4, 1), (40, [3, 0]));
    subject.tracker.set_bounds(100, 3);
    for peer in 3..=5 {
        subject.announce(2, peer, Role::Leecher, Event::None);
    }
    subject.announce(4, 1, Role::Leecher, Event::None);
    let size = subject.tracker.size();
    assert_eq!((size.peers, size.torrents), (43, 3));
    assert_eq!(subject.tracker.tally.refused, [4, 0]);
}

#[test]
fn families_share_a_reply_in_proportion_and_each_has_at_least_a_quarter() {
    assert_eq!(share(50, 10, 20), (10, 20));
    assert_eq!(share(50, 1000, 0), (50, 0));
    assert_eq!(share(50, 0, 1000), (0, 50));
    assert_eq!(share(0, 5, 5), (0, 0));
    assert_eq!(share(1, 5, 5), (1, 0));
    for (want, v4, v6) in [
        (50, 1000, 1000),
        (50, 1000, 12),
        (50, 3, 1000),
        (200, 190, 67),
    ] {
        let (a, b) = share(want, v4, v6);
        assert_eq!(a + b, want);
        assert!(a <= v4 && b <= v6);
        assert!(a >= v4.min(want / 4) && b >= v6.min(want / 4));
    }
}

#[test]
fn a_seeder_is_sent_leechers_only() {
    let mut subject = Subject::new(LIMITS);
    for peer in 1..6 {
        subject.announce(1, peer, Role::Seeder, Event::None);
    }
    assert!(
        subject
            .announce(1, 6, Role::Seeder, Event::None)
            .peers
            .is_empty()
    );
    let reply = subject.announce(1, 7, Role::Leecher, Event::None);
    assert_eq!(reply.peers.len(), 6);
    let reply = subject.announce(1, 6, Role::Seeder, Event::None);
    assert_eq!(reply.peers, [endpoint(address(7))]);
    let none = subject.announce_wanting(1, 7, Role::Leecher, Event::None, 0);
    assert!(none.peers.is_empty());
}

/// Each sweep begins as late as it can and takes up to half of its limit.
#[test]
fn a_peer_is_removed_within_8_units_of_its_timeout() {
    for units_a_sweep in 1..=4 {
        let mut subject = Subject::new(LIMITS);
        let mut oldest = 0;
        for second in 0..400 {
            subject.tracker.advance(second as u64 * 1000);
            for peer in second * 10..(second + 1) * 10 {
                subject.announce(peer, peer, Role::Leecher, Event::Started);
            }
            subject.tracker.sweep(570 / units_a_sweep, None);
            while subject.tracker.scrape(&hash(oldest)).is_none() {
                oldest += 1;
            }
            let age = second - oldest / 10;
            assert!(
                age <= 48 + 8,
                "{age} at {second}, {units_a_sweep} units a sweep"
            );
        }
    }
}

#[test]
fn a_sweep_goes_on_within_a_large_swarm_that_changes_meanwhile() {
    let mut subject = Subject::new(LIMITS);
    for peer in 0..3000 {
        subject.announce(1, peer, Role::Leecher, Event::None);
    }
    subject.tracker.advance(42_000);
    subject.sweep_if_due(10_000);
    for peer in 3000..6000 {
        subject.announce(1, peer, Role::Seeder, Event::None);
    }
    subject.tracker.advance(49_000);
    let mut next = 6000;
    while subject.tracker.sweep(1, None) == Progress::Underway {
        subject.announce(1, next, Role::Leecher, Event::None);
        subject.announce(1, next - 3000, Role::Seeder, Event::Stopped);
        next += 1;
    }
    let totals = subject.tracker.totals();
    assert_eq!(totals.leechers, next - 6000);
    assert_eq!(totals.seeders, 3000 - (next - 6000));
}

#[test]
fn empty_torrents_make_room_for_torrents_with_peers() {
    let mut subject = Subject::new(Limits {
        max_torrents: 100,
        ..LIMITS
    });
    for n in 0..200 {
        subject.announce(n, 1, Role::Seeder, Event::Completed);
        subject.announce(n, 1, Role::Seeder, Event::Stopped);
    }
    assert!(subject.tracker.totals().torrents <= 75);
    for n in 200..225 {
        subject.announce(n, 1, Role::Leecher, Event::Started);
    }
    assert!(subject.tracker.totals().torrents >= 99);
    subject.sweep_all();
    let totals = subject.tracker.totals();
    assert_eq!(
        (totals.torrents, totals.leechers),
        (25, 25),
        "a crowded table keeps no empty torrents"
    );
}

#[test]
fn a_sweep_drops_untracked_torrents_in_slices() {
    let mut subject = Subject::new(LIMITS);
    for torrent in 0..300 {
        for peer in 0..=torrent % 4 * 20 {
            subject.announce(torrent, peer, Role::Seeder, Event::Completed);
        }
    }
    for peer in 0..5000 {
        subject.announce(1000, peer, Role::Leecher, Event::None);
    }
    // This torrent is remembered for its count alone.
    subject.announce(2000, 1, Role::Seeder, Event::Completed);
    subject.announce(2000, 1, Role::Seeder, Event::Stopped);
    let kept: BTreeSet<InfoHash> = (0..300).step_by(3).map(hash).collect();
    let is_tracked = |torrent: &InfoHash| kept.contains(torrent);
    subject.tracker.advance(4000);
    let mut slices = 1;
    while subject.tracker.sweep(100, Some(&is_tracked)) == Progress::Underway {
        slices += 1;
    }
    assert!(slices > 50, "{slices}");
    let seeders = (0..300).step_by(3).map(|n| n % 4 * 20 + 1).sum();
    let expected = Totals {
        torrents: 100,
        leechers: 0,
        seeders,
    };
    assert_eq!(subject.tracker.totals(), expected);
    assert!((0..300).all(|n| subject.tracker.scrape(&hash(n)).is_some() == (n % 3 == 0)));
}

#[test]
fn renewals_are_counted_by_age_and_early_ones_by_address() {
    let mut tracker = Tracker::new(LIMITS);
    let mut announce_at = |unit: u64, peer: Peer, event| {
        tracker.pass_to(unit * tracker.tally.unit_ms);
        tracker.tell(&[7; 20], peer, Role::Seeder, event);
    };
    let v4 = |n: u8| Peer::new([192, 0, 2, n].into(), 1);
    let v6 = Peer::new("2001:db8:1:2:3::4".parse().expect("an address"), 1);
    for (unit, peer) in [(0, v4(1)), (0, v4(2)), (0, v6), (0, v4(1)), (5, v4(1))] {
        announce_at(unit, peer, Event::None);
    }
    announce_at(10, v4(1), Event::Completed);
    announce_at(10, v4(1), Event::Completed);
    announce_at(21, v6, Event::None);
    announce_at(22, v4(2), Event::None);
    let tally = &tracker.tally;
    let ages = (0..).zip(tally.renewals).filter(|(_, count)| *count > 0);
    assert_eq!(ages.collect::<Vec<_>>(), [(0, 2), (5, 2), (21, 1), (22, 1)]);
    assert_eq!(tally.completed, 1);
    let busiest = |tracker: &Tracker| {
        let woodpeckers = tracker.tally.woodpeckers.as_ref();
        woodpeckers.expect("there are some").top(9, |_| true)
    };
    let expected = [(0xc000_0201, 2), (0x2001_0db8_0001_0002, 1)];
    assert_eq!(busiest(&tracker), expected);
    tracker.advance(32 * tracker.tally.unit_ms);
    assert_eq!(busiest(&tracker), [(0xc000_0201, 1)]);
    // The peer timeout is 48 seconds, and two thirds of the interval are 6.
    tracker.tally.set_interval(9);
    for unit in [33, 40, 46] {
        tracker.pass_to(unit * tracker.tally.unit_ms);
        tracker.tell(&[7; 20], v4(1), Role::Seeder, Event::None);
    }
    assert_eq!(busiest(&tracker), [(0xc000_0201, 2)]);
}

/// Swarms that grow together leave those behind that do not, each alone on a page of its own size.
#[test]
fn swarms_that_stay_behind_take_no_more_memory_than_the_bounds_allow() {
    const SWARMS: usize = 20_000;
    const SIZES: usize = 60;
    let limits = Limits {
        max_peers: SWARMS * (SIZES + 1) / 2,
        max_torrents: SWARMS,
        ..LIMITS
    };
    let mut tracker = Tracker::new(limits);
    let mut most = 0;
    for round in 0..SIZES {
        for swarm in (0..SWARMS).filter(|swarm| swarm * 7 % SIZES >= round) {
            let mut octets = [0x20; 16];
            octets[..4].copy_from_slice(&(round as u32).to_be_bytes());
            let peer = Peer::new(IpAddr::from(octets), 1000);
            tracker.tell(&hash(swarm), peer, Role::Leecher, Event::None);
        }
        most = most.max(tracker.swarms.bytes());
    }
    let formula = limits.max_peers * 26 + limits.max_torrents * 64;
    let torrents = SWARMS * size_of::<Torrent>();
    assert!(
        most + torrents <= formula + (2 << 20),
        "{most} of {formula}"
    );
    let refused = tracker.tally.refused;
    assert!(refused[1] > 100_000 && refused[0] == 0, "{refused:?}");
    // The sweep moves together what is left, and newcomers are stored again.
    tracker.advance(2 * tracker.unit_ms);
    while tracker.sweep(1000, None) == Progress::Underway {}
    assert!(
        tracker.swarms.bytes() < most / 3,
        "{}",
        tracker.swarms.bytes()
    );
    for swarm in 0..SWARMS {
        tracker.tell(&hash(swarm), address(1), Role::Seeder, Event::None);
    }
    assert_eq!(
        (tracker.totals().seeders, tracker.tally.refused),
        (SWARMS, refused)
    );
}
