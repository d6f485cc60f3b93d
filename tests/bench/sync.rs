//! What a cluster costs: processor time to note what is announced and to apply what another node sends, bytes on the
//! wire, and the time until two nodes are equal after a partition.
//!
//! All of it is measured on two nodes within this process. A node is a plain value, bytes and time in, bytes out;
//! sockets cost a system call for some thousand records.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use announced::cluster::frame::Keys;
use announced::cluster::node::{Node, Settings, World};
use announced::random::Random;
use announced::stats::cluster::Failure;
use announced::tracker::{Announce, Event, Hint, Limits, Peer, Role, Sink, Sinks, Sweeper, Table};

use crate::options::Options;
use crate::population::{Family, Population};
use crate::report::{Figure, Goal, Report, Spread, grouped};
use crate::sys;

/// In seconds: the usual one, for an interval of 30 minutes.
const PEER_TIMEOUT: u32 = 2700;

/// Milliseconds of a unit, of an interval and between two walks.
const UNIT_MS: u64 = 56_250;
const INTERVAL_MS: u64 = 1_800_000;
const WALK_MS: u64 = 8 * UNIT_MS;

/// Milliseconds of a step of the clock.
const STEP_MS: u64 = 50;

/// Announces whose torrents are fetched ahead, as the tracker does.
const AHEAD: usize = 32;

/// Bytes of a segment, and of the headers of IPv4 and TCP with timestamps.
const SEGMENT: u64 = 1448;
const HEADERS: u64 = 52;

/// A peer of a torrent, by number.
#[derive(Clone, Copy)]
struct Member {
    torrent: u32,
    peer: u32,
}

impl Member {
    fn peer(self, has_v6: bool) -> Peer {
        let port = 1024 + (self.peer % 60_000) as u16;
        let n = self.peer.wrapping_mul(0x9e37_79b1) ^ self.torrent;
        match has_v6 && self.peer % 10 == 0 {
            true => Peer::new(
                Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)).into(),
                port,
            ),
            false => Peer::new(Ipv4Addr::from(n).into(), port),
        }
    }

    fn role(self) -> Role {
        match self.peer % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        }
    }
}

struct Host {
    table: Table,
    node: Option<Node>,
}

/// Two nodes with a link. Peers announce to the first.
struct Pair {
    hosts: [Host; 2],
    now: u64,
    connection: u64,
    is_cut: bool,
    has_v6: bool,
    random: Random,
    sweeper: [Sweeper; 2],
    /// What the second spends to apply what comes.
    applying: Duration,
    /// Bytes from the first to the second, headers of TCP and IPv4 included.
    bytes: u64,
}

fn table() -> Table {
    let limits = Limits {
        peer_timeout: PEER_TIMEOUT,
        max_peers: usize::MAX,
        max_torrents: usize::MAX,
    };
    Table::new(limits, 1)
}

fn host(id: u64) -> Host {
    let table = table();
    let settings = Settings {
        keys: Keys::new(&[7; 32]),
        id,
        seed: id,
        peer_timeout: PEER_TIMEOUT,
        max_peers: 1 << 26,
        peers: (id..2).map(|_| "other".into()).collect(),
        port: 6970,
        has_live_sync: false,
    };
    let mut node = Node::new(settings, &table, 0);
    node.set_addresses(0, vec![SocketAddr::from(([192, 0, 2, 1], 6970))]);
    Host {
        table,
        node: Some(node),
    }
}

impl Pair {
    fn new(has_v6: bool) -> Pair {
        let mut pair = Pair {
            hosts: [1, 2].map(host),
            now: 0,
            connection: 0,
            is_cut: false,
            has_v6,
            random: Random::seeded(1),
            sweeper: Default::default(),
            applying: Duration::ZERO,
            bytes: 0,
        };
        pair.pass(8000);
        pair
    }

    fn with<T>(&mut self, host: usize, work: impl FnOnce(&mut Node, &World) -> T) -> Option<T> {
        let Host { table, node } = &mut self.hosts[host];
        let world = World {
            table,
            now: self.now,
            wall: self.now,
            refuses: &|_| false,
        };
        node.as_mut().map(|node| work(node, &world))
    }

    /// Lets time pass for both.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(STEP_MS) {
            self.now += STEP_MS;
            self.connect();
            loop {
                let mut is_busy = false;
                for host in 0..2 {
                    is_busy |= self.with(host, |node, world| node.tick(world)) == Some(true);
                }
                let has_carried = self.carry(0) | self.carry(1);
                if !is_busy && !has_carried {
                    break;
                }
            }
            for (host, sweeper) in self.hosts.iter().zip(&mut self.sweeper) {
                while sweeper.step(&host.table, self.now, 1 << 16, None)
                    == announced::tracker::Progress::Underway
                {}
            }
        }
    }

    fn connect(&mut self) {
        let dial = self.with(0, |node, world| node.next_dial(world.now));
        let Some((peer, address)) = dial.flatten().filter(|_| !self.is_cut) else {
            return;
        };
        self.connection += 1;
        let connection = self.connection;
        self.with(0, |node, world| {
            node.open(connection, Some(peer), address, world.now);
            node.connected(connection, world);
        });
        self.with(1, |node, world| {
            node.open(connection, None, address, world.now)
        });
    }

    /// Carries what one has to send to the other; whether there was something.
    fn carry(&mut self, from: usize) -> bool {
        let connection = self.connection;
        let output = self.with(from, |node, _| node.output(connection).map(<[u8]>::to_vec));
        let Some(bytes) = output.flatten().filter(|bytes| !bytes.is_empty()) else {
            return false;
        };
        self.with(from, |node, _| node.sent(connection, bytes.len()));
        if from == 0 {
            let length = bytes.len() as u64;
            self.bytes += length + length.div_ceil(SEGMENT) * HEADERS;
        }
        let before = sys::own_processor_time();
        for piece in bytes.chunks(16 * 1024) {
            self.with(1 - from, |node, world| {
                node.receive(connection, piece, world)
            });
        }
        if from == 0 {
            self.applying += sys::own_processor_time().saturating_sub(before);
        }
        true
    }

    /// Cuts the link, so that both notice.
    fn cut(&mut self) {
        self.is_cut = true;
        let connection = self.connection;
        for host in 0..2 {
            self.with(host, |node, world| {
                node.closed(connection, Failure::Closed, world.now)
            });
        }
    }

    /// These announce to the first; what that takes.
    fn announce(&mut self, population: &Population, members: &[Member], event: Event) -> Duration {
        let before = sys::own_processor_time();
        announce(
            &self.hosts[0].table,
            population,
            members,
            (event, self.has_v6),
            self.now,
            &mut self.random,
        );
        sys::own_processor_time().saturating_sub(before)
    }

    fn peers(&self, host: usize) -> usize {
        let totals = self.hosts[host].table.totals(self.now);
        totals.seeders + totals.leechers
    }

    fn received(&self) -> u64 {
        let overview = self.hosts[1].node.as_ref().map(|n| n.overview(self.now));
        overview.map_or(0, |overview| overview.records_in())
    }
}

fn announce(
    table: &Table,
    population: &Population,
    members: &[Member],
    (event, has_v6): (Event, bool),
    now: u64,
    random: &mut Random,
) {
    let mut tracker = table.lock(0, now);
    for part in members.chunks(AHEAD) {
        let hashes: Vec<_> = part
            .iter()
            .map(|m| population.info_hash(m.torrent))
            .collect();
        let ahead: Vec<_> = hashes.iter().map(|hash| tracker.look_ahead(hash)).collect();
        let hints = hashes.iter().zip(&ahead);
        let hints: Vec<Hint> = hints.map(|(h, a)| tracker.look_further(h, a)).collect();
        for ((member, info_hash), hint) in part.iter().zip(&hashes).zip(hints) {
            let announce = Announce {
                info_hash,
                peer: member.peer(has_v6),
                role: member.role(),
                event,
                want: 0,
                hint,
            };
            let mut sinks = Sinks {
                v4: Sink::new(&mut []),
                v6: Sink::new(&mut []),
            };
            tracker.announce(&announce, random, &mut sinks);
        }
    }
}

/// All peers of a population, in no order.
fn members(population: &Population, random: &mut Random) -> Vec<Member> {
    let mut all: Vec<Member> = (0..population.torrents)
        .flat_map(|torrent| {
            let peers = 0..population.peers_of(torrent);
            peers.map(move |peer| Member { torrent, peer })
        })
        .collect();
    for last in (1..all.len()).rev() {
        all.swap(last, random.below(last + 1));
    }
    all
}

/// Processor time to apply a renewal from a walk: all peers renew theirs once an interval.
pub fn apply(options: &Options, report: &mut Report) -> io::Result<()> {
    /// Walks of an interval.
    const WALKS: usize = 4;
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(2 * torrents);
    let what = format!(
        "µs CPU to apply a renewal of another node, {} torrents",
        grouped(torrents.into())
    );
    report.begin(&what);
    let population = Population::power_law(torrents, peers, Family::V4);
    let mut pair = Pair::new(true);
    let members = members(&population, &mut Random::seeded(2));
    let parts: Vec<&[Member]> = members.chunks(members.len().div_ceil(WALKS)).collect();
    for part in &parts {
        for part in part.chunks(1 << 14) {
            pair.announce(&population, part, Event::None);
            pair.pass(200);
        }
        pair.pass(WALK_MS);
    }
    let (mut costs, mut ratios) = (Vec::new(), Vec::new());
    for part in parts {
        let announcing = pair.announce(&population, part, Event::None);
        let before = pair.received();
        pair.applying = Duration::ZERO;
        pair.pass(WALK_MS + 2000);
        let records = pair.received() - before;
        if (records as usize) < part.len() {
            return Err(io::Error::other(format!(
                "{records} of {} renewals were received",
                part.len()
            )));
        }
        let cost = pair.applying.as_secs_f64() / records as f64;
        costs.push(cost * 1e6);
        ratios.push(cost * part.len() as f64 / announcing.as_secs_f64());
    }
    let (Some(cost), Some(ratio)) = (Spread::of(costs), Spread::of(ratios)) else {
        return Ok(());
    };
    let figure = Figure {
        value: ratio.median,
        text: ratio.to_string(),
    };
    let remark = format!("of what an announce costs the same table; {cost} µs");
    report.row(&what, "announced", &figure, Goal::AtMost(0.15), &remark);
    Ok(())
}

/// Processor time of announces to a table that notes news for other nodes, against one that does not.
pub fn note(options: &Options, report: &mut Report) -> io::Result<()> {
    const ROUNDS: u64 = 8;
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(2 * torrents);
    let what = "CPU an announce with a cluster, of the same without";
    report.begin(what);
    let population = Population::power_law(torrents, peers, Family::V4);
    let members = members(&population, &mut Random::seeded(2));
    let tables = [host(1).table, table()];
    let mut random = Random::seeded(3);
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let now = round * INTERVAL_MS;
        let mut times = [Duration::ZERO; 2];
        // In turns, as the machine's speed changes.
        for part in members.chunks(1 << 15) {
            for (table, time) in tables.iter().zip(&mut times) {
                let before = sys::own_processor_time();
                announce(
                    table,
                    &population,
                    part,
                    (Event::None, true),
                    now,
                    &mut random,
                );
                *time += sys::own_processor_time().saturating_sub(before);
                table.lock(0, now).take_news(&mut Vec::new());
            }
        }
        // The first round adds the peers.
        if round > 0 {
            ratios.push(times[0].as_secs_f64() / times[1].as_secs_f64());
        }
        for table in &tables {
            let mut sweeper = Sweeper::default();
            while sweeper.step(table, now, 1 << 16, None) == announced::tracker::Progress::Underway
            {
            }
        }
    }
    if let Some(ratio) = Spread::of(ratios) {
        let figure = Figure {
            value: ratio.median,
            text: ratio.to_string(),
        };
        let remark = "renewals; news is taken now and then";
        report.row(what, "announced", &figure, Goal::AtMost(1.03), remark);
    }
    Ok(())
}

/// Bytes to send a renewal, where all peers renew once an interval and stay.
pub fn wire(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    for (torrents, peers, goal) in [(torrents, 5, 21.0), (torrents, 1, 31.0), (1000, 1000, 9.0)] {
        let what = format!(
            "bytes on the wire a renewal, {} torrents of {peers}",
            grouped(torrents.into())
        );
        report.begin(&what);
        let population = Population::even(torrents, peers, Family::V4);
        let mut pair = Pair::new(false);
        let members = members(&population, &mut Random::seeded(3));
        let a_second = members.len().div_ceil(INTERVAL_MS as usize / 1000);
        let (mut before, mut renewals) = (0, 0);
        for round in 0..2 {
            (before, renewals) = (pair.received(), 0);
            pair.bytes = 0;
            for part in members.chunks(a_second * 10) {
                pair.announce(&population, part, Event::None);
                renewals += part.len();
                pair.pass(10_000);
            }
            if round == 0 {
                pair.pass(1000);
            }
        }
        let received = pair.received() - before;
        let value = pair.bytes as f64 / received as f64;
        let figure = Figure {
            value,
            text: format!("{value:.1}"),
        };
        let remark = format!(
            "headers of TCP and IPv4 and heartbeats included; {} renewals, {} records",
            grouped(renewals as u64),
            grouped(received)
        );
        report.row(&what, "announced", &figure, Goal::AtMost(goal), &remark);
    }
    Ok(())
}

/// Simulated time until two nodes are equal after a partition of a minute.
pub fn heal(_: &Options, report: &mut Report) -> io::Result<()> {
    const TORRENTS: u32 = 100_000;
    const ANNOUNCES_A_SECOND: usize = 5000;
    const PARTITION_S: usize = 60;
    let what = "simulated s until equal after a partition of 60 s, 5,000 announces/s";
    report.begin(what);
    let population = Population::even(TORRENTS, 10, Family::V4);
    let members = members(&population, &mut Random::seeded(4));
    let mut times = Vec::new();
    for round in 0..5 {
        let mut pair = Pair::new(true);
        pair.random = Random::seeded(round);
        let seconds = members.chunks(ANNOUNCES_A_SECOND);
        for (second, part) in seconds.take(2 * PARTITION_S).enumerate() {
            if second == PARTITION_S {
                pair.cut();
            }
            pair.announce(&population, part, Event::None);
            pair.pass(1000);
        }
        pair.is_cut = false;
        let begin = pair.now;
        while pair.peers(0) != pair.peers(1) && pair.now < begin + 120_000 {
            pair.pass(STEP_MS);
        }
        times.push((pair.now - begin) as f64 / 1e3);
    }
    if let Some(time) = Spread::of(times) {
        let figure = Figure {
            value: time.median,
            text: time.to_string(),
        };
        let remark = "a retry comes after one to five seconds";
        report.row(what, "announced", &figure, Goal::AtMost(10.0), remark);
    }
    Ok(())
}
