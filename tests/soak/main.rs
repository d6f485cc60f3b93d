//! Mixed traffic against two nodes of a cluster, with everything happening at once: UDP and HTTP, IPv4 and IPv6,
//! scrapes and full scrapes, lists that change, saves, helper processes that are killed, and a link that is cut, slow
//! or damaged.
//!
//! Throughout, every reply is well-formed and has only peers that are there; every peer whose announce was answered is
//! stored until its timeout, and counted; the counts of all torrents add up to the totals; memory and descriptors do
//! not grow. `make soak SOAK_SECONDS=3600` runs it for an hour; `make check` for some seconds. The random numbers are
//! the same each time, the timing is not.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod model;
mod pair;
#[allow(dead_code, reason = "tests of the mesh use the rest")]
#[path = "../mesh/table.rs"]
mod table;
mod traffic;
mod wire;

use announced::base::random::Random;
use model::Model;
use pair::{Chore, Pair};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use traffic::Traffic;
use wire::State;

/// Seconds without the variable SOAK_SECONDS.
const SECONDS: u64 = 6;

/// The traffic of a round.
const ROUND: Duration = Duration::from_millis(1500);

/// An hour has no more peers than three minutes, so that each is announced often.
const MAX_PEERS: usize = 12_000;

fn seconds() -> u64 {
    let value = std::env::var("SOAK_SECONDS").ok();
    value.map_or(SECONDS, |value| {
        value.parse().expect("SOAK_SECONDS is a number")
    })
}

#[test]
fn counts_replies_and_memory_stay_right_under_mixed_traffic() {
    let seconds = seconds();
    let timeout = (seconds / 4).clamp(6, 48);
    let pair = Pair::start(timeout);
    let mut model = Model::new(Duration::from_secs(timeout));
    let peers = MAX_PEERS.min(seconds as usize * 150);
    let mut traffic = Traffic::new(&pair.addresses(), &pair.lists, peers);
    while model.waiting() < peers {
        traffic.step(&mut model);
    }
    pair.check(&mut model);
    let (start, end) = (Instant::now(), Duration::from_secs(seconds));
    let mut memory = Memory::default();
    memory.check(&pair, false);
    let mut random = Random::seeded(9);
    let mut rounds = 0;
    while start.elapsed() < end {
        let state = match rounds % 6 {
            1 => [State::Cut, State::Slow][random.below(2)],
            // A link ends after ten seconds of silence.
            2 if rounds % 12 == 8 => State::Slow,
            2 => State::Cut,
            4 => State::Damaged,
            _ => State::Whole,
        };
        pair.wire.set(state);
        round(&pair, &mut traffic, &mut model, &mut random);
        pair.check(&mut model);
        memory.check(&pair, start.elapsed() > end / 3);
        rounds += 1;
    }
    let (requests, refused, announces) = (traffic.requests, traffic.refused, model.announces);
    drop(traffic);
    pair.wire.set(State::Whole);
    pair.check(&mut model);
    pair.expect_few_descriptors();
    eprintln!(
        "{rounds} rounds, {requests} requests, {announces} announces, {refused} refused; memory after a third of the \
         time and at most: {:?}, {:?} KiB",
        memory.first, memory.most
    );
    assert!(refused > 0 || seconds < 60, "no announce was refused");
    pair.end();
}

/// Traffic beside chores, until both are done.
fn round(pair: &Pair, traffic: &mut Traffic, model: &mut Model, random: &mut Random) {
    let chores: Vec<Chore> = (0..3 + random.below(5))
        .map(|_| Chore::draw(random))
        .collect();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            chores.iter().for_each(|chore| pair.perform(chore));
            is_done.store(true, Ordering::SeqCst);
        });
        let (start, before) = (Instant::now(), traffic.requests);
        while start.elapsed() < ROUND || !is_done.load(Ordering::SeqCst) {
            traffic.step(model);
            let ahead = traffic::pace(traffic.requests - before).checked_sub(start.elapsed());
            // A sleep is longer than a request takes.
            if let Some(ahead) = ahead.filter(|ahead| *ahead > Duration::from_millis(3)) {
                thread::sleep(ahead);
            }
            if worker.is_finished() && !is_done.load(Ordering::SeqCst) {
                break; // It has failed, which the end of the scope reports.
            }
        }
    });
}

/// Memory of both nodes in KiB without the events that they keep for five minutes: the most in the first third of the
/// time, and the most ever.
#[derive(Default)]
struct Memory {
    first: [u64; 2],
    most: [u64; 2],
}

/// Bytes of an event that is kept for nodes that were away.
const EVENT_BYTES: u64 = 160;

impl Memory {
    fn check(&mut self, pair: &Pair, is_warm: bool) {
        for node in 0..2 {
            let (resident, events) = pair.memory(node);
            let kib = resident.saturating_sub(events * EVENT_BYTES / 1024);
            if !is_warm {
                self.first[node] = self.first[node].max(kib);
            }
            self.most[node] = self.most[node].max(kib);

            let (first, most) = (self.first[node], self.most[node]);
            let limit = first + first / 8 + 2048;
            assert!(most <= limit, "node {node}: {most} KiB after {first}");
        }
    }
}
