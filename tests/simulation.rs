//! The cluster's protocol under a scheduler: the node that the daemon drives with sockets, a hundred of
//! them, over a network that loses, doubles, delays and parts, between clocks that are wrong and step.
//!
//! All of it follows from a seed. A failing one is printed with the command that runs it again;
//! `SIMULATION_SEED=n` chooses one. `SIMULATION_FULL=1` is the full size: 100,000 torrents and a million
//! announces, for a release build.

use announced::random::Random;
use announced::sync::node::{Node, Outbox, Report, Settings};
use announced::sync::wire::Kind;
use announced::tracker::ledger::Key;
use announced::tracker::{
    Announce, Event, Hint, InfoHash, Limits, Peer, Role, Sink, Sinks, Tracker,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What happens in a run. Times are milliseconds.
#[derive(Clone, Debug)]
struct Plan {
    name: &'static str,
    nodes: usize,
    torrents: usize,
    announces: usize,
    peer_timeout: u32,
    /// For how long clients announce.
    lasts: u64,
    /// Packets of a thousand that are lost, doubled, and held back for long.
    lost: usize,
    doubled: usize,
    late: usize,
    /// How often one of these happens: a partition, a restart, a step of a clock.
    disaster_every: Option<u64>,
    clocks_are_wrong: bool,
}

/// What the cluster is given to agree after the last announce.
const SETTLE: u64 = 120_000;

const SECRET: &[u8; 32] = b"thirty-two bytes that none knows";

enum Happening {
    Packet {
        to: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Tick(usize),
    Announce(usize),
    Disaster,
    Heal,
}

struct Member {
    node: Node,
    tracker: Tracker,
    tick_at: u64,
}

/// Where a node is.
struct Site {
    /// What its clock is ahead of the simulation's.
    clock: i64,
    /// Sites hear each other where this is the same.
    side: usize,
}

/// What a node has sent another in a second, and how much of that was repair.
#[derive(Clone, Copy, Default)]
struct Sent {
    second: u64,
    all: usize,
    repair: usize,
}

struct Client {
    torrent: usize,
    peer: Peer,
    role: Role,
    /// Announces to come.
    left: usize,
    has_started: bool,
}

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    members: Vec<Member>,
    sites: Vec<Site>,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    number: u64,
    outbox: Outbox,
    /// What each client said last: its role, none if it stopped, and when.
    truth: BTreeMap<usize, (Option<Role>, u64)>,
    /// How often each torrent was completed.
    completed: BTreeMap<usize, u32>,
    announced: usize,
    packets: u64,
    /// By sender and receiver, of the last second; with the worst second there was.
    sent: BTreeMap<(usize, usize), Sent>,
    worst: usize,
    /// Bytes of records that repair moved.
    moved: usize,
}

fn hash(n: usize) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[..8].copy_from_slice(
        &(n as u64 + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes(),
    );
    // Some share all but their last bytes.
    if n % 10 == 0 {
        hash[..8].fill(0xaa);
        hash[12..].copy_from_slice(&(n as u64).to_be_bytes());
    }
    hash
}

fn address(n: usize) -> Peer {
    let ip: IpAddr = match n % 4 {
        0 => {
            let mut octets = [0x20; 16];
            octets[12..].copy_from_slice(&(n as u32).to_be_bytes());
            octets.into()
        }
        _ => (0x0a00_0000 + n as u32 / 3).to_be_bytes().into(),
    };
    Peer::new(ip, 1000 + (n % 3) as u16)
}

fn node_address(index: usize) -> SocketAddr {
    let [.., high, low] = index.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(192, 0, high, low), 7000))
}

/// Which node is at this address.
fn node_at(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [.., high, low] = ip.octets();
            u16::from_be_bytes([high, low]).into()
        }
        IpAddr::V6(_) => unreachable!("there are none"),
    }
}

impl World {
    fn new(plan: Plan, seed: u64) -> World {
        let mut world = World {
            random: Random::seeded(seed),
            now: 0,
            members: Vec::new(),
            sites: Vec::new(),
            clients: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            number: 0,
            outbox: Outbox::default(),
            truth: BTreeMap::new(),
            completed: BTreeMap::new(),
            announced: 0,
            packets: 0,
            sent: BTreeMap::new(),
            worst: 0,
            moved: 0,
            plan,
        };
        for _ in 0..world.plan.nodes {
            let clock = match world.plan.clocks_are_wrong {
                true => world.random.below(7_200_000) as i64,
                false => 5_000_000,
            };
            world.sites.push(Site { clock, side: 0 });
        }
        for index in 0..world.plan.nodes {
            let member = world.member(index);
            world.members.push(member);
            let at = world.random.below(1000) as u64;
            world.at(at, Happening::Tick(index));
        }
        world.add_clients();
        if let Some(every) = world.plan.disaster_every {
            world.at(every, Happening::Disaster);
        }
        world
    }

    /// A node that has just started.
    fn member(&mut self, index: usize) -> Member {
        let limits = Limits {
            peer_timeout: self.plan.peer_timeout,
            max_peers: usize::MAX,
            max_torrents: usize::MAX,
        };
        let settings = Settings {
            id: self.random.draw() | 1,
            secret: SECRET.to_vec(),
            entropy: [self.random.draw(), self.random.draw()],
            peer_timeout: self.plan.peer_timeout,
            most_records: 1_000_000,
            // Of five minutes: more are forgotten, and then repair brings the dead back.
            most_stops: if is_full() { 1 << 18 } else { 4096 },
        };
        let own = self.own_clock(index);
        let mut tracker = Tracker::new(limits);
        let mut node = Node::new(settings, own, own, &mut tracker);
        let others = (0..self.plan.nodes).filter(|other| *other != index);
        node.set_peers(&others.map(node_address).collect::<Vec<_>>());
        Member {
            node,
            tracker,
            tick_at: 0,
        }
    }

    fn own_clock(&self, index: usize) -> u64 {
        let clock = self.sites[index].clock;
        self.now.saturating_add_signed(clock)
    }

    /// Clients come evenly over the time, announce four times on average and stop, or just go.
    fn add_clients(&mut self) {
        let count = self.plan.announces / 4;
        let interval = u64::from(self.plan.peer_timeout) * 1000 / 2;
        for number in 0..count {
            // Some swarms are large and many small.
            let torrent = match self.random.below(4) {
                0 => self.random.below(1 + self.plan.torrents / 100),
                _ => self.random.below(self.plan.torrents),
            };
            let left = 1 + self.random.below(7);
            self.clients.push(Client {
                torrent,
                peer: address(number),
                role: [Role::Leecher, Role::Seeder][self.random.below(2)],
                left,
                has_started: false,
            });
            let whole_life = left as u64 * interval / 2;
            let lasts = self.plan.lasts;
            let span = lasts.saturating_sub(whole_life).max(lasts / 2);
            let at = self.random.below(span as usize) as u64;
            self.at(at, Happening::Announce(number));
        }
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.happenings.insert(self.number, happening);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            match self.happenings.remove(&number) {
                Some(Happening::Packet { to, from, bytes }) => self.deliver(to, from, &bytes),
                Some(Happening::Tick(index)) => self.tick(index, at),
                Some(Happening::Announce(client)) => self.announce(client),
                Some(Happening::Disaster) => self.disaster(),
                Some(Happening::Heal) => self.sites.iter_mut().for_each(|site| site.side = 0),
                None => unreachable!("everything in the queue happens"),
            }
        }
        self.now = end;
    }

    fn advance(&mut self, index: usize) {
        let own = self.own_clock(index);
        let member = &mut self.members[index];
        let time = member.node.advance(own);
        member.tracker.advance(time);
        while member.tracker.is_held() {
            member.tracker.sweep(10_000, None);
        }
    }

    fn deliver(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        self.packets += 1;
        self.advance(to);
        let Member { node, tracker, .. } = &mut self.members[to];
        node.hear(from, bytes, tracker, &mut self.outbox);
        self.send(to);
    }

    fn tick(&mut self, index: usize, at: u64) {
        if at < self.members[index].tick_at {
            return; // There has been one meanwhile.
        }
        self.members[index].tick_at = 0;
        self.advance(index);
        let Member { node, tracker, .. } = &mut self.members[index];
        tracker.sweep(10_000, None);
        node.tick(5000, tracker, &mut self.outbox);
        self.send(index);
    }

    /// Sends what the node has for others, and sees to its next tick.
    fn send(&mut self, from: usize) {
        let outbox = std::mem::take(&mut self.outbox);
        for (address, bytes) in outbox.packets() {
            assert!(bytes.len() <= 1400);
            let to = node_at(address);
            self.weigh((from, to), bytes);
            if self.sites[to].side == self.sites[from].side {
                self.carry(from, to, bytes);
            }
        }
        self.outbox = outbox;
        self.outbox.clear();
        let member = &self.members[from];
        // Time runs differently for it, but no slower.
        let wait = member.node.next_tick(&member.tracker);
        let wait = wait.saturating_sub(self.time_of(from)).clamp(5, 1000);
        let at = self.now + wait;
        let member = &mut self.members[from];
        if member.tick_at == 0 || at < member.tick_at {
            member.tick_at = at;
            self.at(at, Happening::Tick(from));
        }
    }

    /// Over a network.
    fn carry(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let copies = match self.random.below(1000) {
            n if n < self.plan.lost => 0,
            n if n < self.plan.lost + self.plan.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = match self.random.below(1000) {
                n if n < self.plan.late => self.random.below(2000),
                _ => 1 + self.random.below(60),
            };
            let at = self.now + delay as u64;
            let (from, bytes) = (node_address(from), bytes.to_vec());
            self.at(at, Happening::Packet { to, from, bytes });
        }
    }

    /// Counts what repair takes of a link, as nodes see it: what is lost later was sent.
    fn weigh(&mut self, between: (usize, usize), bytes: &[u8]) {
        const REPAIR: std::ops::RangeInclusive<u8> = Kind::Groups as u8..=Kind::Counts as u8;
        let kind = bytes[1];
        if [Kind::Items as u8, Kind::Repair as u8].contains(&kind) {
            self.moved += bytes.len();
        }
        let sent = self.sent.entry(between).or_default();
        let second = self.now / 1000;
        if sent.second != second {
            if sent.repair * 10 > sent.all {
                self.worst = self.worst.max(sent.repair);
            }
            *sent = Sent {
                second,
                ..Sent::default()
            };
        }
        sent.all += bytes.len();
        if REPAIR.contains(&kind) {
            sent.repair += bytes.len();
        }
    }

    fn time_of(&mut self, index: usize) -> u64 {
        let own = self.own_clock(index);
        self.members[index].node.advance(own)
    }

    /// A client announces, to any of the nodes.
    fn announce(&mut self, number: usize) {
        if self.now > self.plan.lasts {
            return;
        }
        let index = self.random.below(self.plan.nodes);
        self.advance(index);
        let client = &mut self.clients[number];
        client.left -= 1;
        let event = match client.left {
            0 if self.random.below(3) > 0 => Event::Stopped,
            _ if !client.has_started => Event::Started,
            _ if client.role == Role::Leecher && self.random.below(3) == 0 => {
                client.role = Role::Seeder;
                Event::Completed
            }
            _ => Event::None,
        };
        client.has_started = true;
        if event == Event::Completed {
            *self.completed.entry(client.torrent).or_default() += 1;
        }
        let announce = Announce {
            info_hash: &hash(client.torrent),
            peer: client.peer,
            role: client.role,
            event,
            want: 0,
            hint: Hint::default(),
        };
        let mut sinks = Sinks {
            v4: Sink::new(&mut []),
            v6: Sink::new(&mut []),
        };
        let tracker = &mut self.members[index].tracker;
        tracker.announce(&announce, &mut self.random, &mut sinks);
        let said = (event != Event::Stopped).then_some(client.role);
        self.truth.insert(number, (said, self.now));
        self.announced += 1;
        let interval = u64::from(self.plan.peer_timeout) * 1000 / 2;
        if client.left > 0 {
            // At least 7 seconds: what is told takes up to three to get around where packets are lost.
            let wait = 7000.max(interval / 4) + self.random.below(interval as usize * 3 / 4) as u64;
            self.at(self.now + wait, Happening::Announce(number));
        }
        self.send(index);
    }

    fn disaster(&mut self) {
        let victim = self.random.below(self.plan.nodes);
        match self.random.below(4) {
            0 => {
                self.part();
                let healed = self.now + 5000 + self.random.below(55_000) as u64;
                self.at(healed, Happening::Heal);
            }
            1 => self.restart(victim),
            2 => {
                let ahead = 4000 + self.random.below(7_200_000) as i64;
                self.sites[victim].clock += ahead;
            }
            _ => {
                let back = self.random.below(3_600_000) as i64;
                let clock = &mut self.sites[victim].clock;
                *clock = (*clock - back).max(0);
            }
        }
        if let Some(every) = self.plan.disaster_every {
            let next = self.now + every;
            // The cluster is whole when the announces end.
            if next + 60_000 < self.plan.lasts {
                self.at(next, Happening::Disaster);
            }
        }
    }

    fn part(&mut self) {
        for site in 0..self.sites.len() {
            self.sites[site].side = self.random.below(2);
        }
    }

    fn restart(&mut self, index: usize) {
        let tick_at = self.members[index].tick_at;
        self.members[index] = self.member(index);
        self.members[index].tick_at = tick_at;
    }

    /// Whether all digests are the same.
    fn is_one(&self) -> bool {
        let ledgers = self.members.iter().map(|m| m.tracker.ledger());
        let mut digests = ledgers.map(|l| l.and_then(|l| Some((l.sixth(), l.whole_digest()?))));
        let first = digests.next().flatten();
        first.is_some() && digests.all(|digest| digest == first)
    }

    /// A node's peers, with their roles and the units of their stamps in cluster time.
    fn table(&self, index: usize) -> BTreeMap<Key, (Role, u64)> {
        let tracker = &self.members[index].tracker;
        let ledger = tracker.ledger().expect("is in a cluster");
        let mut table = BTreeMap::new();
        let mut from = Some(Key::FIRST);
        while let Some(key) = from {
            from = tracker.range(&key, &Key::END, 1000, &mut |item| {
                let unit = item.presence.unit.wrapping_add(ledger.shift);
                let key = Key::of(&item.info_hash, &item.peer);
                table.insert(key, (item.presence.role, unit));
            });
        }
        table
    }

    /// How many peers node 0 has that are not about to expire, and in how many others differ: in who is
    /// there, in which role, and in which sixth of the timeout it was seen.
    fn differences(&self) -> (usize, Vec<(usize, usize)>) {
        let tracker = &self.members[0].tracker;
        let shift = tracker.ledger().expect("is in a cluster").shift;
        let oldest = tracker.units().wrapping_add(shift) - 80;
        let first = self.table(0);
        let counted = |(_, unit): &&(Role, u64)| *unit >= oldest;
        let sixth = |(role, unit): &(Role, u64)| (*role, unit / 16);
        let mut wrong = Vec::new();
        for index in 1..self.members.len() {
            let other = self.table(index);
            let off = first.iter().filter(|(key, ours)| {
                let theirs = other.get(key);
                let counts = counted(ours) && theirs.is_none_or(|theirs| counted(&theirs));
                counts && theirs.map(sixth) != Some(sixth(ours))
            });
            let more = other
                .iter()
                .filter(|(key, theirs)| counted(theirs) && !first.contains_key(key));
            let off = off.count() + more.count();
            if off > 0 {
                wrong.push((index, off));
            }
        }
        (first.values().filter(counted).count(), wrong)
    }
}

fn is_full() -> bool {
    std::env::var_os("SIMULATION_FULL").is_some()
}

fn seeds(usual: u64) -> u64 {
    let seed = std::env::var("SIMULATION_SEED");
    seed.map_or(usual, |seed| seed.parse().expect("a number"))
}

/// Runs a plan and returns the world once all nodes are to agree.
fn simulate(plan: Plan, seed: u64) -> World {
    println!("seed {seed}: {plan:?}");
    let mut world = World::new(plan, seed);
    let lasts = world.plan.lasts;
    world.run_until(lasts);
    let last = world.announced;
    let mut one_at = None;
    for after in (0..SETTLE).step_by(5000) {
        if one_at.is_none() && world.is_one() {
            one_at = Some(after / 1000);
        }
        world.run_until(lasts + after + 5000);
    }
    assert_eq!(world.announced, last);
    let (announced, packets) = (world.announced, world.packets);
    println!("{announced} announces, {packets} packets, one after {one_at:?} s");
    println!("{:?}", totals(&world));
    world
}

fn totals(world: &World) -> [(&'static str, u64); 9] {
    let reports = || world.members.iter().flat_map(|m| m.node.reports());
    let sum = |of: &dyn Fn(&Report) -> u64| reports().map(|r| of(&r)).sum();
    [
        ("links up", sum(&|r| r.is_up.into())),
        ("that agree", sum(&|r| (r.agrees == Some(true)).into())),
        ("records", sum(&|r| r.counters.records_in)),
        ("gaps", sum(&|r| r.counters.gaps)),
        ("lost", sum(&|r| r.counters.lost)),
        ("resends", sum(&|r| r.counters.resends)),
        ("repairs", sum(&|r| r.counters.repairs_in)),
        ("repair bytes", sum(&|r| r.counters.repair_bytes_out)),
        ("bytes", sum(&|r| r.counters.bytes_out)),
    ]
}

/// How to run it again.
fn again(plan: &Plan, seed: u64) -> String {
    let (size, release) = match is_full() {
        true => ("SIMULATION_FULL=1 ", "--release "),
        false => ("", ""),
    };
    let name = plan.name;
    format!("{size}SIMULATION_SEED={seed} cargo test {release}--test simulation {name}")
}

fn assert_agreement(world: &World, seed: u64) {
    let again = again(&world.plan, seed);
    let (peers, wrong) = world.differences();
    assert!(peers > 0, "nobody is left to compare: {again}");
    println!("{peers} peers");
    assert!(
        wrong.is_empty(),
        "of {peers} peers, nodes differ from the first in {wrong:?}: {again}"
    );
}

#[test]
fn a_lossy_network_loses_nothing_that_was_announced() {
    let seed = seeds(1);
    let plan = Plan {
        name: "a_lossy_network",
        nodes: 8,
        torrents: 300,
        announces: 6000,
        peer_timeout: 480,
        lasts: 600_000,
        lost: 50,
        doubled: 30,
        late: 30,
        disaster_every: None,
        clocks_are_wrong: false,
    };
    let world = simulate(plan, seed);
    assert_agreement(&world, seed);
    let table = world.table(3);
    let mut compared = 0;
    for (number, (said, at)) in &world.truth {
        let client = &world.clients[*number];
        // Expired or nearly so.
        if world.now - at > 380_000 {
            continue;
        }
        compared += 1;
        let key = Key::of(&hash(client.torrent), &client.peer);
        let role = table.get(&key).map(|(role, _)| *role);
        assert_eq!(role, *said, "client {number}: {}", again(&world.plan, seed));
    }
    assert!(compared > 500, "{compared}");
    for (torrent, completed) in &world.completed {
        for Member { tracker, .. } in &world.members {
            let counts = tracker.scrape(&hash(*torrent));
            let downloaded = counts.map(|counts| counts.downloaded);
            let again = again(&world.plan, seed);
            assert_eq!(downloaded, Some(*completed), "torrent {torrent}: {again}");
        }
    }
}

/// Everything expires at least twice.
fn hundred(name: &'static str) -> Plan {
    let full = is_full();
    Plan {
        name,
        nodes: 100,
        torrents: if full { 100_000 } else { 1000 },
        announces: if full { 1_600_000 } else { 16_000 },
        peer_timeout: if full { 480 } else { 240 },
        lasts: if full { 1_200_000 } else { 500_000 },
        lost: 20,
        doubled: 10,
        late: 20,
        disaster_every: Some(10_000),
        clocks_are_wrong: true,
    }
}

#[test]
fn a_hundred_nodes_agree_in_the_end_whatever_happens() {
    let seed = seeds(2);
    let world = simulate(hundred("a_hundred_nodes"), seed);
    assert_agreement(&world, seed);
}

#[test]
fn few_nodes_agree_after_many_lives() {
    let first = seeds(100);
    for seed in first..first + 4 {
        let plan = Plan {
            name: "few_nodes",
            nodes: 6,
            torrents: 200,
            announces: 6000,
            peer_timeout: 240,
            lasts: 1_000_000,
            lost: 200,
            doubled: 100,
            late: 100,
            disaster_every: Some(30_000),
            clocks_are_wrong: true,
        };
        let world = simulate(plan, seed);
        assert_agreement(&world, seed);
        if std::env::var_os("SIMULATION_SEED").is_some() {
            break;
        }
    }
}

/// Two halves that have not heard each other for two minutes, until the announces end, and some that have just
/// been started.
#[test]
fn a_partition_is_mended_within_two_minutes() {
    let seed = seeds(5);
    let plan = Plan {
        name: "a_partition",
        disaster_every: None,
        lasts: 150_000,
        ..hundred("")
    };
    let mut world = World::new(plan, seed);
    world.run_until(30_000);
    world.part();
    world.run_until(150_000);
    let (_, differ) = world.differences();
    let far = differ.iter().filter(|(_, peers)| *peers > 100);
    assert!(far.count() > 20, "{differ:?}");
    (0..100).step_by(10).for_each(|node| world.restart(node));
    world.sites.iter_mut().for_each(|site| site.side = 0);
    world.run_until(150_000 + SETTLE);
    println!("{:?}", totals(&world));
    assert_agreement(&world, seed);
}

/// What repair moves, and how much of a link it takes.
#[test]
fn repair_is_frugal_and_takes_no_more_than_its_share() {
    let seed = seeds(6);
    let plan = Plan {
        name: "repair_is_frugal",
        nodes: 4,
        torrents: 20_000,
        announces: 240_000,
        peer_timeout: 900,
        lasts: 60_000,
        lost: 0,
        doubled: 0,
        late: 0,
        disaster_every: None,
        clocks_are_wrong: false,
    };
    let again = again(&plan, seed);
    let mut world = World::new(plan, seed);
    world.run_until(60_000);
    world.run_until(90_000);
    println!("{:?}", totals(&world));
    assert!(world.is_one(), "{again}");
    // One node has nothing: all of it is sent again, by the others together, as fast as repair may.
    let peers = world.table(0).len();
    let (before, from) = (world.moved, world.now);
    world.worst = 0;
    world.restart(3);
    world.run_until(from + 60_000);
    assert_agreement(&world, seed);
    let per_peer = (world.moved - before) as f64 / peers as f64;
    println!(
        "{per_peer:.1} bytes for each of {peers} peers, {} in a second",
        world.worst
    );
    assert!(per_peer < 2.0 * 40.0, "{again}");
    let most = (1 << 20) + (256 << 10) + 1400;
    assert!(
        world.worst > 100_000 && world.worst <= most,
        "{}: {again}",
        world.worst
    );
}
