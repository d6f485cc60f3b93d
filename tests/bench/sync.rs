//! The cost of a cluster: processor time to note announces and to apply what another node sends, bytes on the wire,
//! and the time until two nodes are equal after a partition.
//!
//! All of it is measured on two nodes within this process. A node is a plain value, bytes and time in, bytes out;
//! sockets cost a system call for some thousand records.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use announced::base::random::Random;
use announced::cluster::frame::Keys;
use announced::cluster::node::{Node, Settings, World};
use announced::stats::cluster::Failure;
use announced::tracker::{Sweeper, Table};

use super::options::Bench;
use super::population::{Population, info_hash};
use super::report::{Goal, Spread, grouped};
use super::table::{Member, PEER_TIMEOUT, announce, new_table, processor_time, sweep};

/// Milliseconds of a unit, of an interval and between two walks.
const UNIT_MS: u64 = 56_250;
const INTERVAL_MS: u64 = 1_800_000;
const WALK_MS: u64 = 8 * UNIT_MS;

/// Milliseconds of a step of the clock.
const STEP_MS: u64 = 50;

/// Bytes of a segment, and of the headers of IPv4 and TCP with timestamps.
const SEGMENT: u64 = 1448;
const HEADERS: u64 = 52;

struct Host {
    table: Table,
    node: Node,
    sweeper: Sweeper,
}

impl Host {
    fn new(id: u64) -> Host {
        let table = new_table();
        let settings = Settings {
            keys: Keys::new(&[7; 32]),
            id,
            seed: id,
            peer_timeout: PEER_TIMEOUT,
            max_peers: 1 << 26,
            max_per_host: 0,
            peers: (id..2).map(|_| "other".into()).collect(),
            port: 6970,
            has_live_sync: false,
        };
        let mut node = Node::new(settings, &table, 0);
        if id == 1 {
            node.set_addresses(0, vec![SocketAddr::from(([192, 0, 2, 1], 6970))]);
        }
        let sweeper = Sweeper::default();
        Host {
            table,
            node,
            sweeper,
        }
    }

    fn with<T>(&mut self, now: u64, work: impl FnOnce(&mut Node, &World) -> T) -> T {
        let world = World {
            table: &self.table,
            now,
            wall: now,
            refuses: &|_| false,
        };
        work(&mut self.node, &world)
    }
}

/// Two nodes with a link. Peers announce to the first.
struct Pair {
    hosts: [Host; 2],
    now: u64,
    connection: u64,
    is_cut: bool,
    random: Random,
    /// Processor time of the second to apply what it receives.
    applying: Duration,
    /// Bytes from the first to the second, headers of TCP and IPv4 included.
    bytes: u64,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut pair = Pair {
            hosts: [1, 2].map(Host::new),
            now: 0,
            connection: 0,
            is_cut: false,
            random: Random::seeded(seed),
            applying: Duration::ZERO,
            bytes: 0,
        };
        pair.pass(8000);
        pair
    }

    /// Lets time pass for both.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(STEP_MS) {
            self.now += STEP_MS;
            self.connect();
            let mut is_busy = true;
            while is_busy {
                let now = self.now;
                let ticks = self.hosts.each_mut();
                let ticks = ticks.map(|host| host.with(now, |node, world| node.tick(world)));
                is_busy = ticks.contains(&true) | self.carry(0) | self.carry(1);
            }
            for host in &mut self.hosts {
                sweep(&host.table, &mut host.sweeper, self.now);
            }
        }
    }

    fn connect(&mut self) {
        let now = self.now;
        let dial = self.hosts[0].with(now, |node, world| node.next_dial(world.now));
        let Some((peer, address)) = dial.filter(|_| !self.is_cut) else {
            return;
        };
        self.connection += 1;
        let connection = self.connection;
        let [one, other] = &mut self.hosts;
        one.with(now, |node, world| {
            node.open(connection, Some(peer), address, world.now);
            node.connected(connection, world);
        });
        other.with(now, |node, world| {
            node.open(connection, None, address, world.now)
        });
    }

    /// Carries what one has to send to the other; whether there was something.
    fn carry(&mut self, from: usize) -> bool {
        let connection = self.connection;
        let node = &mut self.hosts[from].node;
        let bytes = node.output(connection).unwrap_or_default().to_vec();
        if bytes.is_empty() {
            return false;
        }
        node.sent(connection, bytes.len());
        let before = processor_time();
        for piece in bytes.chunks(16 * 1024) {
            let to = &mut self.hosts[1 - from];
            to.with(self.now, |node, world| {
                node.receive(connection, piece, world)
            });
        }
        if from == 0 {
            self.applying += processor_time().saturating_sub(before);
            let length = bytes.len() as u64;
            self.bytes += length + length.div_ceil(SEGMENT) * HEADERS;
        }
        true
    }

    /// Cuts the link, so that both notice.
    fn cut(&mut self) {
        self.is_cut = true;
        let (connection, now) = (self.connection, self.now);
        for host in &mut self.hosts {
            host.node.closed(connection, Failure::Closed, now);
        }
    }

    /// These announce to the first; the processor time of it.
    fn announce(&mut self, members: &[Member]) -> Duration {
        let table = &self.hosts[0].table;
        announce(table, info_hash, members, self.now, &mut self.random)
    }

    fn peers(&self) -> [usize; 2] {
        let totals = self
            .hosts
            .each_ref()
            .map(|host| host.table.survey(self.now).totals);
        totals.map(|totals| totals.seeders + totals.leechers)
    }

    /// Records that the second has received.
    fn received(&self) -> u64 {
        self.hosts[1].node.overview(self.now).records_in()
    }
}

/// All peers of a population in random order. If `has_v6`, a tenth have IPv6 addresses.
fn members(population: &Population, has_v6: bool) -> Vec<Member> {
    let of = |torrent| {
        (0..population.peers_of(torrent)).map(move |peer| Member {
            torrent,
            peer,
            is_v6: has_v6 && peer % 10 == 0,
        })
    };
    let mut all: Vec<Member> = (0..population.torrents).flat_map(of).collect();
    let mut random = Random::seeded(2);
    for last in (1..all.len()).rev() {
        all.swap(last, random.below(last + 1));
    }
    all
}

/// Two peers a torrent, by power law.
fn usual_members(bench: &Bench) -> Vec<Member> {
    members(&bench.power_law(1_000_000, 2), true)
}

fn row(bench: &Bench, subject: &str, figure: Spread, limit: f64, remark: &str) {
    let figure = figure.figure("");
    bench.row(subject, "announced", figure, Goal::AtMost(limit), remark);
}

/// Processor time to apply a renewal from a walk: all peers renew theirs once an interval.
pub fn apply(bench: &Bench) -> io::Result<()> {
    /// Walks of an interval.
    const WALKS: usize = 4;
    let subject = "CPU to apply a renewal of another node, of an announce to the same table";
    bench.begin(subject);
    let mut pair = Pair::new(1);
    let members = usual_members(bench);
    let parts: Vec<&[Member]> = members.chunks(members.len().div_ceil(WALKS)).collect();
    for part in &parts {
        for part in part.chunks(1 << 14) {
            pair.announce(part);
            pair.pass(200);
        }
        pair.pass(WALK_MS);
    }
    let (mut costs, mut ratios) = (Vec::new(), Vec::new());
    for part in parts {
        let announcing = pair.announce(part).as_secs_f64() / part.len() as f64;
        let before = pair.received();
        pair.applying = Duration::ZERO;
        pair.pass(WALK_MS + 2000);
        let records = pair.received() - before;
        if (records as usize) < part.len() {
            let error = format!("{records} of {} renewals were received", part.len());
            return Err(io::Error::other(error));
        }
        let cost = pair.applying.as_secs_f64() / records as f64;
        costs.push(cost * 1e6);
        ratios.push(cost / announcing);
    }
    let remark = format!("{} µs", Spread::of(costs));
    row(bench, subject, Spread::of(ratios), 0.15, &remark);
    Ok(())
}

/// Processor time of announces to a table that notes news for other nodes, against one that does not.
pub fn note(bench: &Bench) -> io::Result<()> {
    const ROUNDS: u64 = 8;
    let subject = "CPU of an announce with a cluster, of the same without";
    bench.begin(subject);
    let members = usual_members(bench);
    let tables = [Host::new(1).table, new_table()];
    let mut random = Random::seeded(3);
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let now = round * INTERVAL_MS;
        let mut times = [Duration::ZERO; 2];
        for part in members.chunks(1 << 15) {
            for (table, time) in tables.iter().zip(&mut times) {
                *time += announce(table, info_hash, part, now, &mut random);
                table.lock(0, now).take_news(&mut Vec::new());
            }
        }
        // The first round adds the peers.
        if round > 0 {
            ratios.push(times[0].as_secs_f64() / times[1].as_secs_f64());
        }
        tables
            .iter()
            .for_each(|table| sweep(table, &mut Sweeper::default(), now));
    }
    let remark = "renewals; news is taken now and then";
    row(bench, subject, Spread::of(ratios), 1.03, remark);
    Ok(())
}

/// Bytes to send a renewal, where all peers renew once an interval and stay.
pub fn wire(bench: &Bench) -> io::Result<()> {
    let torrents = bench.torrents.unwrap_or(1_000_000);
    for (torrents, peers, limit) in [(torrents, 5, 21.0), (torrents, 1, 31.0), (1000, 1000, 9.0)] {
        let words = grouped(torrents);
        let subject = format!("bytes on the wire a renewal, {words} torrents of {peers}");
        bench.begin(&subject);
        let mut pair = Pair::new(1);
        let members = members(&Population::even(torrents, peers, bench.family), false);
        let a_second = members.len().div_ceil(INTERVAL_MS as usize / 1000);
        let mut round = || {
            let before = pair.received();
            pair.bytes = 0;
            for part in members.chunks(a_second * 10) {
                pair.announce(part);
                pair.pass(10_000);
            }
            pair.received() - before
        };
        // The first round adds the peers.
        round();
        let received = round();
        let bytes = pair.bytes as f64 / received as f64;
        let (renewals, received) = (grouped(members.len() as u64), grouped(received));
        let remark = format!(
            "headers of TCP and IPv4 and heartbeats included; {renewals} renewals, {received} records"
        );
        row(bench, &subject, Spread::of([bytes]), limit, &remark);
    }
    Ok(())
}

/// Simulated time until two nodes are equal after a partition of a minute.
pub fn heal(bench: &Bench) -> io::Result<()> {
    const TORRENTS: u32 = 100_000;
    const ANNOUNCES_A_SECOND: usize = 5000;
    const PARTITION_S: usize = 60;
    let subject = "simulated s until equal after a partition of 60 s, 5,000 announces/s";
    bench.begin(subject);
    let members = members(&Population::even(TORRENTS, 10, bench.family), true);
    let times = (0..5).map(|seed| {
        let mut pair = Pair::new(seed);
        let seconds = members.chunks(ANNOUNCES_A_SECOND);
        for (second, part) in seconds.take(2 * PARTITION_S).enumerate() {
            if second == PARTITION_S {
                pair.cut();
            }
            pair.announce(part);
            pair.pass(1000);
        }
        pair.is_cut = false;
        let begin = pair.now;
        while pair.peers()[0] != pair.peers()[1] && pair.now < begin + 120_000 {
            pair.pass(STEP_MS);
        }
        (pair.now - begin) as f64 / 1e3
    });
    let remark = "a retry comes after one to five seconds";
    row(bench, subject, Spread::of(times), 10.0, remark);
    Ok(())
}
