//! Announces to a table within this process, as a server makes them. What a server would add, system calls most of
//! all, would hide differences between tables.
//!
//! Tables are compared in turns, so that the machine is the same for all.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use announced::base::random::Random;
use announced::tracker::{
    Announce, Event, Hint, InfoHash, Limits, Peer, Progress, Role, Sinks, Sweeper, Table,
};

use super::options::Bench;
use super::population::info_hash;
use super::report::{Goal, Spread};
use super::sys;

/// In seconds: the usual one, for an interval of 30 minutes.
pub const PEER_TIMEOUT: u32 = 2700;

/// Announces whose torrents are looked up ahead, as a server does.
const AHEAD: usize = 32;

/// Peers in each table before it is measured, and announces of a turn.
const PEERS: u32 = 1_000_000;
const A_TURN: u32 = 50_000;

/// A peer of a torrent, by number.
#[derive(Clone, Copy)]
pub struct Member {
    pub torrent: u32,
    pub peer: u32,
    pub is_v6: bool,
}

impl Member {
    fn peer(self) -> Peer {
        let port = 1024 + (self.peer % 60_000) as u16;
        let n = self.peer.wrapping_mul(0x9e37_79b1) ^ self.torrent;
        let v6 = 0x2001_0db8_u128 << 96 | u128::from(n);
        match self.is_v6 {
            true => Peer::new(Ipv6Addr::from_bits(v6).into(), port),
            false => Peer::new(Ipv4Addr::from_bits(n).into(), port),
        }
    }
}

pub fn new_table() -> Table {
    let limits = Limits {
        peer_timeout: PEER_TIMEOUT,
        max_peers: usize::MAX,
        max_torrents: usize::MAX,
    };
    Table::new(limits, 1)
}

/// Lets members announce, odd ones as seeders; the processor time that it takes.
pub fn announce(
    table: &Table,
    hash: fn(u32) -> InfoHash,
    members: &[Member],
    now: u64,
    random: &mut Random,
) -> Duration {
    let before = processor_time();
    let mut tracker = table.lock(0, now);
    for part in members.chunks(AHEAD) {
        let hashes: Vec<_> = part.iter().map(|member| hash(member.torrent)).collect();
        let ahead: Vec<_> = hashes.iter().map(|hash| tracker.look_ahead(hash)).collect();
        let hints = hashes.iter().zip(&ahead);
        let hints: Vec<Hint> = hints.map(|(h, a)| tracker.look_further(h, a)).collect();
        for ((member, info_hash), hint) in part.iter().zip(hashes).zip(hints) {
            let announce = Announce {
                info_hash,
                peer: member.peer(),
                role: [Role::Leecher, Role::Seeder][member.peer as usize % 2],
                event: Event::None,
                want: 0,
                hint,
            };
            let mut sinks = Sinks::new(&mut [], &mut []);
            tracker.announce(&announce, random, &mut sinks);
        }
    }
    processor_time().saturating_sub(before)
}

/// Processor time of this process.
pub fn processor_time() -> Duration {
    sys::processor_time(std::process::id()).expect("a clock of its own")
}

/// Sweeps a whole table.
pub fn sweep(table: &Table, sweeper: &mut Sweeper, now: u64) {
    while sweeper.step(table, now, 1 << 16, None) == Progress::Underway {}
}

/// A table to compare: peers in turn of so many torrents.
struct Side {
    name: &'static str,
    hash: fn(u32) -> InfoHash,
    torrents: u32,
}

impl Side {
    fn new(name: &'static str, hash: fn(u32) -> InfoHash, torrents: u32) -> Side {
        Side {
            name,
            hash,
            torrents,
        }
    }

    fn member(&self, number: u32) -> Member {
        Member {
            torrent: number % self.torrents,
            peer: number / self.torrents,
            is_v6: false,
        }
    }
}

/// Renewals in large swarms against those in swarms of a thousand.
pub fn by_swarm_size(bench: &Bench) -> io::Result<()> {
    let sides = [
        Side::new("of 1000", info_hash, PEERS / 1000),
        Side::new("of 1", info_hash, PEERS),
        Side::new("of 30", info_hash, PEERS / 30),
        Side::new("of 50,000", info_hash, PEERS / 50_000),
        Side::new("of a million", info_hash, 1),
    ];
    let subject = "CPU of a renewal in swarms of each size, of that in swarms of 1000";
    compare(bench, subject, &sides, false, Goal::AtMost(1.5));
    Ok(())
}

/// Announces that are sent peers, in a swarm of each size, and in one in which a host has 99 of 100 peers.
pub fn picks(bench: &Bench) -> io::Result<()> {
    let subject =
        "CPU of an announce with 50 peers in a swarm of each size, of that in one of 1000";
    bench.begin(subject);
    let own_host = |number| Peer::new(Ipv4Addr::from_bits(scattered(number)).into(), 7);
    let one_host = |number: u32| match number % 100 {
        0 => Peer::new(Ipv4Addr::from_bits(scattered(number)).into(), 7),
        _ => Peer::new(
            Ipv4Addr::new(192, 0, 2, 1).into(),
            1024 + (number % 60_000) as u16,
        ),
    };
    let shared = |number: u32| match number % 13 {
        0..3 => Peer::new(
            Ipv4Addr::from_bits(scattered(number / 780)).into(),
            1024 + number as u16,
        ),
        _ => own_host(number),
    };
    let sides: [(_, u32, &dyn Fn(u32) -> Peer); 7] = [
        ("of 1000", 1000, &own_host),
        ("of 30", 30, &own_host),
        ("of 100", 100, &own_host),
        ("of 100,000", 100_000, &own_host),
        ("of 13,000, 3000 of hosts of 180", 13_000, &shared),
        ("of 1000, 990 of a host", 1000, &one_host),
        ("of 50,000, 49,500 of a host", 50_000, &one_host),
    ];
    let mut random = Random::seeded(1);
    let mut swarms = sides.map(|(name, size, peer)| {
        let table = new_table();
        (0..size).for_each(|number| pick(&table, number, peer, 0, &mut random));
        (name, size, peer, table, Vec::new())
    });
    for _ in 0..bench.pairs {
        for (_, size, peer, table, costs) in &mut swarms {
            let before = processor_time();
            for _ in 0..A_TURN {
                let number = random.below(*size as usize) as u32;
                pick(table, number, *peer, 50, &mut random);
            }
            let time = processor_time().saturating_sub(before);
            costs.push(time.as_secs_f64() * 1e9 / f64::from(A_TURN));
        }
    }
    let reference = swarms[0].4.clone();
    for (name, _, _, _, costs) in &swarms {
        let ratio = Spread::of(costs.iter().zip(&reference).map(|(own, other)| own / other));
        let remark = format!("{} ns", Spread::of(costs.iter().copied()));
        bench.row(subject, name, ratio.figure(""), Goal::None, &remark);
    }
    Ok(())
}

/// An address for each number.
fn scattered(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

/// Lets a peer of a single torrent announce.
fn pick(table: &Table, number: u32, peer: &dyn Fn(u32) -> Peer, want: usize, random: &mut Random) {
    let mut room = [0; 6 * 50];
    let announce = Announce {
        info_hash: info_hash(0),
        peer: peer(number),
        role: [Role::Leecher, Role::Seeder][usize::from(number % 3 == 0)],
        event: Event::None,
        want,
        hint: None,
    };
    let mut sinks = Sinks::new(&mut room, &mut []);
    table.lock(0, 0).announce(&announce, random, &mut sinks);
    std::hint::black_box(sinks.filled());
}

/// Torrents whose first 16 bytes are those of a million others against random ones, and peers of a swarm of a million
/// against those of a thousand swarms.
pub fn inserts(bench: &Bench) -> io::Result<()> {
    let hashes = [
        Side::new("random", info_hash, u32::MAX),
        Side::new("16 bytes shared", colliding, u32::MAX),
    ];
    let swarms = [
        Side::new("of 1000", info_hash, 1000),
        Side::new("of a million", info_hash, 1),
    ];
    let subject = "CPU of inserting a torrent with a colliding hash, of one with a random hash";
    compare(bench, subject, &hashes, true, Goal::AtMost(3.0));
    let subject = "CPU of inserting a peer in a swarm of a million, of that in swarms of 1000";
    compare(bench, subject, &swarms, true, Goal::AtMost(2.0));
    Ok(())
}

fn colliding(torrent: u32) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[16..].copy_from_slice(&torrent.wrapping_mul(0x9e37_79b1).to_le_bytes());
    hash
}

/// Lets peers announce to each table in turn, new ones or known ones, and reports each against the first.
fn compare(bench: &Bench, subject: &str, sides: &[Side], is_new: bool, goal: Goal) {
    bench.begin(subject);
    let mut random = Random::seeded(1);
    let fill = |side: &Side| {
        let table = new_table();
        let members: Vec<_> = (0..PEERS).map(|number| side.member(number)).collect();
        announce(&table, side.hash, &members, 0, &mut Random::seeded(2));
        (table, Vec::new())
    };
    let mut tables: Vec<_> = sides.iter().map(fill).collect();
    for turn in 0..bench.pairs as u32 {
        for ((table, costs), side) in tables.iter_mut().zip(sides) {
            let numbers = (0..A_TURN).map(|number| match is_new {
                true => PEERS + turn * A_TURN + number,
                false => random.below(PEERS as usize) as u32,
            });
            let members: Vec<_> = numbers.map(|number| side.member(number)).collect();
            let time = announce(table, side.hash, &members, 0, &mut Random::seeded(2));
            costs.push(time.as_secs_f64() * 1e9 / f64::from(A_TURN));
        }
    }
    let reference = tables[0].1.clone();
    for ((_, costs), side) in tables.iter().zip(sides).skip(1) {
        let ratio = Spread::of(costs.iter().zip(&reference).map(|(own, other)| own / other));
        let medians = [costs, &reference].map(|costs| Spread::of(costs.iter().copied()).median);
        let remark = format!("{:.0} to {:.0} ns", medians[0], medians[1]);
        bench.row(subject, side.name, ratio.figure(""), goal, &remark);
    }
}
