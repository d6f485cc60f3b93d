//! An observer who announces often tries to distinguish decoys from peers.
//!
//! For some days, peers of a swarm arrive, announce, and stop or vanish. On the last day an observer announces every
//! minute with numwant 50 and notes the behaviour of each address. For each measure, the chance that a decoy's value is
//! above a peer's must be near one half.

use super::*;
use crate::sys::chunks::as_chunks;
use std::collections::{BTreeMap, BTreeSet};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;
const INTERVAL: u64 = 1800;

type Endpoint = [u8; 6];

/// A peer of the simulation.
struct Visitor {
    peer: [u8; 7],
    role: Role,
    next: u64,
    leaves: u64,
    /// Sends a stop when it leaves.
    is_polite: bool,
}

/// The observer's notes of an address.
struct Noted {
    first: u64,
    last: u64,
    times: u64,
    longest_gap: u64,
    places: u64,
    /// How often the next address in order, of all that were seen, came next in the reply.
    neighbours: u64,
    /// Other addresses that were first seen, or last seen, in the same minute.
    coincidences: u64,
}

struct World {
    tracker: Tracker,
    random: Random,
    visitors: Vec<Visitor>,
    peers: BTreeSet<Endpoint>,
}

impl World {
    fn new(percent: u32, seed: u64) -> World {
        let mut tracker = Tracker::new(Limits {
            peer_timeout: 2700,
            max_peers: usize::MAX,
            max_torrents: usize::MAX,
        });
        tracker.decoys = Some(Decoys::new(percent, [seed, 5], 1_700_000_000, 1));
        World {
            tracker,
            random: Random::seeded(seed),
            visitors: Vec::new(),
            peers: BTreeSet::new(),
        }
    }

    /// Adds a peer that stays for 5 minutes to 3.5 days: as many stay for one to two hours as for two to four.
    fn arrive(&mut self, now: u64) {
        let bits = self.random.draw().to_be_bytes();
        let mut peer = [0; 7];
        peer[..6].copy_from_slice(&bits[..6]);
        peer[4] |= 0x80;
        let doublings = self.random.below(1000) as f64 / 100.0;
        let visitor = Visitor {
            peer,
            role: [Role::Leecher, Role::Seeder][self.random.below(2)],
            next: now,
            leaves: now + (300.0 * doublings.exp2()) as u64,
            is_polite: self.random.below(2) == 0,
        };
        self.peers.extend(peer.first_chunk());
        self.visitors.push(visitor);
    }

    fn announce(&mut self, peer: [u8; 7], role: Role, event: Event) -> Vec<Endpoint> {
        let mut room = [0; 300];
        let mut sinks = Sinks::new(&mut room, &mut []);
        let announce = Announce {
            info_hash: [0x77; 20],
            peer: Peer::V4(peer),
            role,
            event,
            want: 50,
            hint: None,
        };
        self.tracker
            .announce(&announce, &mut self.random, &mut sinks);
        as_chunks(sinks.v4.bytes()).0.to_vec()
    }

    /// Advances a swarm of about `size` peers by a minute.
    fn pass(&mut self, now: u64, size: usize) {
        self.tracker.advance(now * 1000);
        while self.tracker.sweep(10_000, None) == Progress::Underway {}
        // The mean stay is 12.3 hours.
        if self.random.below(738 * 1000) < size * 1000 {
            self.arrive(now);
        }
        let mut visitors = std::mem::take(&mut self.visitors);
        visitors.retain_mut(|visitor| {
            if visitor.leaves <= now {
                if visitor.is_polite {
                    self.announce(visitor.peer, visitor.role, Event::Stopped);
                }
                return false;
            }
            if visitor.next <= now {
                visitor.next = now + INTERVAL;
                self.announce(visitor.peer, visitor.role, Event::None);
            }
            true
        });
        self.visitors = visitors;
    }
}

/// The notes of each address in these replies, without coincidences.
fn note(replies: &[Vec<Endpoint>]) -> BTreeMap<Endpoint, Noted> {
    let all: BTreeSet<Endpoint> = replies.iter().flatten().copied().collect();
    let next_in_order: BTreeMap<Endpoint, Endpoint> = all
        .iter()
        .copied()
        .zip(all.iter().skip(1).copied())
        .collect();
    let mut noted: BTreeMap<Endpoint, Noted> = BTreeMap::new();
    for (minute, reply) in (0..).zip(replies) {
        for (place, endpoint) in (0..).zip(reply) {
            let next = reply.get(place as usize + 1);
            let n = noted.entry(*endpoint).or_insert(Noted {
                first: minute,
                last: minute,
                times: 0,
                longest_gap: 0,
                places: 0,
                neighbours: 0,
                coincidences: 0,
            });
            n.times += 1;
            n.longest_gap = n.longest_gap.max(minute - n.last);
            n.last = minute;
            n.places += place;
            n.neighbours += u64::from(next.is_some() && next == next_in_order.get(endpoint));
        }
    }
    noted
}

/// The notes of a day, of decoys and of peers.
fn observe(size: usize, percent: u32, seed: u64) -> (Vec<Noted>, Vec<Noted>) {
    let mut world = World::new(percent, seed);
    for _ in 0..size {
        world.arrive(0);
    }
    let me = [192, 0, 2, 1, 1, 1, 0];
    let mut replies = Vec::new();
    for minute in 0..4 * 24 * 60 {
        let now = minute * MINUTE;
        world.pass(now, size);
        if now >= 3 * DAY {
            replies.push(world.announce(me, Role::Leecher, Event::None));
        }
    }
    let mut noted = note(&replies);
    let count = |of: fn(&Noted) -> u64| {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for n in noted.values() {
            *counts.entry(of(n)).or_default() += 1;
        }
        counts
    };
    let (firsts, lasts) = (count(|n| n.first), count(|n| n.last));
    for n in noted.values_mut() {
        // An address that was there from the start does not count.
        let came = firsts.get(&n.first).filter(|_| n.first > 5);
        let went = lasts.get(&n.first).filter(|_| n.first > 5);
        n.coincidences = came.map_or(0, |c| c - 1) + went.copied().unwrap_or(0);
    }
    let (mut decoys, mut peers) = (Vec::new(), Vec::new());
    for (endpoint, n) in noted {
        match world.peers.contains(&endpoint) {
            true => peers.push(n),
            false => decoys.push(n),
        }
    }
    (decoys, peers)
}

type Measure = fn(&Noted) -> f64;

/// The chance that a measure is greater for a decoy than for a peer.
fn chance(decoys: &[Noted], peers: &[Noted], of: impl Fn(&Noted) -> f64) -> f64 {
    let mut sum = 0.0;
    for decoy in decoys {
        for peer in peers {
            sum += match of(decoy).total_cmp(&of(peer)) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 1.0,
            };
        }
    }
    sum / (decoys.len() * peers.len()) as f64
}

#[test]
fn announcing_every_minute_for_a_day_does_not_distinguish_decoys_from_peers() {
    for (size, percent, swarms) in [(30, 25, 12), (100, 20, 4), (300, 10, 3)] {
        let (mut decoys, mut peers) = (Vec::new(), Vec::new());
        for seed in 0..swarms {
            let (some, others) = observe(size, percent, 100 * size as u64 + seed);
            decoys.extend(some);
            peers.extend(others);
        }
        assert!(decoys.len() > 150 && peers.len() > 500);
        let measures: [(&str, Measure); 8] = [
            ("stay", |n| (n.last - n.first) as f64),
            ("frequency", |n| {
                n.times as f64 / (n.last - n.first + 1) as f64
            }),
            ("gap", |n| n.longest_gap as f64),
            ("place", |n| n.places as f64 / n.times as f64),
            ("neighbours", |n| n.neighbours as f64 / n.times as f64),
            ("coincidence", |n| n.coincidences as f64),
            ("first", |n| n.first as f64),
            ("last", |n| n.last as f64),
        ];
        for (name, measure) in measures {
            let chance = chance(&decoys, &peers, measure);
            println!("{size} peers: {name} {chance:.3}");
            assert!((chance - 0.5).abs() < 0.1, "{size} peers: {name} {chance}");
        }
    }
}
