//! What a cluster costs: processor time to apply what another node tells, and octets to tell it.
//!
//! Both are measured on two nodes within this process. The protocol is a plain value, packets and time in,
//! packets out, and what sockets cost is the same as for announces.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use announced::random::Random;
use announced::sync::node::{Node, Outbox, Settings};
use announced::tracker::{Announce, Event, Hint, Limits, Peer, Role, Sink, Sinks, Tracker};

use crate::options::Options;
use crate::population::{Family, Population};
use crate::report::{Figure, Goal, Report, Spread, grouped};
use crate::sys;

/// In seconds: the usual one, for an interval of 30 minutes.
const PEER_TIMEOUT: u32 = 2700;
const INTERVAL: u64 = 1800;

/// Requests of which torrents are fetched ahead, as the tracker does.
const AHEAD: usize = 32;

const UDP_HEADERS: u64 = 20 + 8;

/// A peer of a torrent, by number.
#[derive(Clone, Copy)]
struct Member {
    torrent: u32,
    peer: u32,
}

impl Member {
    /// One in ten has an IPv6 address.
    fn peer(self) -> Peer {
        let port = 1024 + (self.peer % 60_000) as u16;
        let n = self.peer.wrapping_mul(0x9e37_79b1) ^ self.torrent;
        match self.peer % 10 {
            0 => Peer::new(
                Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)).into(),
                port,
            ),
            _ => Peer::new(Ipv4Addr::from(n).into(), port),
        }
    }

    fn role(self) -> Role {
        match self.peer % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        }
    }
}

/// Two nodes that hear each other.
struct Pair {
    nodes: [(Node, Tracker); 2],
    now: u64,
    random: Random,
    /// What the second spends to hear the first.
    hearing: Duration,
    /// Octets of the first one's packets, headers of UDP and IPv4 included.
    octets: u64,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair {
            nodes: [1, 2].map(node),
            now: 0,
            random: Random::seeded(1),
            hearing: Duration::ZERO,
            octets: 0,
        };
        pair.pass(3000);
        pair
    }

    /// Lets time pass for both.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(500) {
            self.now += 500;
            for n in 0..2 {
                self.turn(n);
            }
        }
    }

    fn turn(&mut self, n: usize) {
        let (node, tracker) = &mut self.nodes[n];
        tracker.advance(node.advance(self.now));
        while tracker.sweep(1 << 16, None) == announced::tracker::Progress::Underway {}
        let mut out = Outbox::default();
        node.tick(1 << 20, tracker, &mut out);
        self.carry(n, &out);
    }

    fn carry(&mut self, from: usize, out: &Outbox) {
        let mut answers = Outbox::default();
        let (node, tracker) = &mut self.nodes[1 - from];
        let before = sys::own_processor_time();
        for (_, packet) in out.packets() {
            node.hear(address(from), packet, tracker, &mut answers);
        }
        if from == 0 {
            self.hearing += sys::own_processor_time().saturating_sub(before);
            let octets = |(_, packet): (_, &[u8])| packet.len() as u64 + UDP_HEADERS;
            self.octets += out.packets().map(octets).sum::<u64>();
        }
        if !answers.is_empty() {
            self.carry(1 - from, &answers);
        }
    }

    /// These announce to one of the nodes; what that takes.
    fn announce(
        &mut self,
        n: usize,
        population: &Population,
        members: &[Member],
        event: Event,
    ) -> Duration {
        let tracker = &mut self.nodes[n].1;
        let before = sys::own_processor_time();
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
                    peer: member.peer(),
                    role: member.role(),
                    event,
                    want: 0,
                    hint,
                };
                let mut sinks = Sinks {
                    v4: Sink::new(&mut []),
                    v6: Sink::new(&mut []),
                };
                tracker.announce(&announce, &mut self.random, &mut sinks);
            }
        }
        sys::own_processor_time().saturating_sub(before)
    }

    /// Both know these, and neither has anything to tell.
    fn fill(&mut self, population: &Population, members: &[Member]) {
        for part in members.chunks(1 << 15) {
            for n in 0..2 {
                self.announce(n, population, part, Event::Started);
                self.nodes[n].1.take_changes(&mut Vec::new());
            }
        }
    }

    fn heard(&self) -> u64 {
        let mut reports = self.nodes[1].0.reports();
        reports
            .next()
            .map_or(0, |report| report.counters.records_in)
    }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 6969))
}

fn node(id: u64) -> (Node, Tracker) {
    let mut tracker = Tracker::new(Limits {
        peer_timeout: PEER_TIMEOUT,
        max_peers: usize::MAX,
        max_torrents: usize::MAX,
    });
    let settings = Settings {
        id,
        secret: vec![7; 32],
        entropy: [id, 9],
        peer_timeout: PEER_TIMEOUT,
        most_records: u32::MAX,
        most_stops: 1 << 20,
    };
    let mut node = Node::new(settings, 0, 0, &mut tracker);
    node.set_peers(&[address(2 - id as usize)]);
    (node, tracker)
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

/// Processor time to take in a record, from the packet to the table: all peers renew theirs in turn.
pub fn apply(options: &Options, report: &mut Report) -> io::Result<()> {
    /// Each peer renews once in so many turns of a sixth of the timeout.
    const TURNS: usize = 5;
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(2 * torrents);
    let what = format!(
        "µs CPU to apply a synced record, {} torrents",
        grouped(torrents.into())
    );
    report.begin(&what);
    let population = Population::power_law(torrents, peers, Family::V4);
    let mut pair = Pair::new();
    let members = members(&population, &mut Random::seeded(2));
    pair.fill(&population, &members);
    let (mut costs, mut ratios) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        pair.pass(u64::from(PEER_TIMEOUT) * 1000 / 6 + 3000);
        let part = members.len() / TURNS;
        let members = &members[turn * part..(turn + 1) * part];
        let (mut announcing, before) = (Duration::ZERO, pair.heard());
        pair.hearing = Duration::ZERO;
        for members in members.chunks(1 << 15) {
            announcing += pair.announce(0, &population, members, Event::None);
            pair.pass(1000);
        }
        pair.pass(1500);
        let records = pair.heard() - before;
        if records as usize != members.len() {
            let (told, of) = (grouped(records), members.len());
            return Err(io::Error::other(format!(
                "{told} of {of} renewals were told"
            )));
        }
        costs.push(pair.hearing.as_secs_f64() * 1e6 / records as f64);
        ratios.push(pair.hearing.as_secs_f64() / announcing.as_secs_f64());
    }
    let (Some(cost), Some(ratio)) = (Spread::of(costs), Spread::of(ratios)) else {
        return Ok(());
    };
    let figure = Figure {
        value: cost.median,
        text: cost.to_string(),
    };
    let remark = format!("{ratio} of what an announce costs the same table");
    report.row(&what, "announced", &figure, Goal::AtMost(0.25), &remark);
    Ok(())
}

/// Octets to tell another node of an announce, where all come every half hour and one in ten is a peer's
/// last, who stops and makes way for a new one.
pub fn wire(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(500_000);
    let peers = options.peers.unwrap_or(2 * torrents);
    let what = "octets on the wire an announce, to each other node";
    report.begin(what);
    let population = Population::power_law(torrents, peers, Family::V4);
    let mut pair = Pair::new();
    let mut random = Random::seeded(3);
    let mut members = members(&population, &mut random);
    pair.fill(&population, &members);
    pair.pass(INTERVAL * 1000);
    pair.octets = 0;
    let (before, mut announces, mut renewals) = (pair.heard(), 0, 0);
    let a_second = members.len() / INTERVAL as usize;
    let mut next_peer = 1 << 24;
    for members in members.chunks_mut(a_second) {
        let (leaving, staying) = members.split_at_mut(members.len() / 10);
        pair.announce(0, &population, leaving, Event::Stopped);
        for member in leaving.iter_mut() {
            next_peer += 1;
            member.peer = next_peer;
        }
        pair.announce(0, &population, leaving, Event::Started);
        pair.announce(0, &population, staying, Event::None);
        announces += 2 * leaving.len() + staying.len();
        renewals += staying.len();
        pair.pass(1000);
    }
    pair.pass(2000);
    let told = pair.heard() - before;
    let others = (announces - renewals) as u64;
    let figure = Figure {
        value: pair.octets as f64 / announces as f64,
        text: format!("{:.1}", pair.octets as f64 / announces as f64),
    };
    let share = told.saturating_sub(others) as f64 * 100.0 / renewals as f64;
    let remark = format!(
        "headers and heartbeats included; {} announces, {a_second} renewals a second, {share:.1} % of \
         them told",
        grouped(announces as u64)
    );
    report.row(what, "announced", &figure, Goal::None, &remark);
    Ok(())
}
