//! What the workers of one machine count, in memory that they share: each answers for all of them.
//!
//! A worker writes its own counts once a second, and before it tells anybody the sum; nobody else writes
//! them. One that takes the place of a dead one goes on with what that had written, so that no sum that
//! was told goes back.

use crate::stats::Counters;
use crate::sys::memory::SharedNumbers;
use crate::tracker::Tally;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of a worker: its counters, its tally, and its own [`Gauges`].
const SLOT: usize = Counters::COUNT + 1 + Tally::RENEWALS + GAUGES;
const GAUGES: usize = 2;

/// What is a worker's own and makes no sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    pub connections: u64,
    pub resident: u64,
}

/// The counts of a worker, or of all.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub counters: Counters,
    pub completed: u64,
    pub renewals: [u64; Tally::RENEWALS],
    pub gauges: Gauges,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            counters: Counters::default(),
            completed: 0,
            renewals: [0; Tally::RENEWALS],
            gauges: Gauges::default(),
        }
    }
}

impl Counts {
    /// Calls for each number, always in the same order; gauges are the last.
    fn each(&mut self, take: &mut dyn FnMut(&mut u64)) {
        self.counters.each(take);
        take(&mut self.completed);
        self.renewals.iter_mut().for_each(&mut *take);
        take(&mut self.gauges.connections);
        take(&mut self.gauges.resident);
    }
}

#[derive(Debug)]
pub struct Board {
    numbers: SharedNumbers,
    own: usize,
}

impl Board {
    /// For so many workers, before they are forked.
    pub fn new(workers: usize) -> io::Result<Board> {
        Ok(Board {
            numbers: SharedNumbers::new(workers * SLOT)?,
            own: 0,
        })
    }

    /// As the worker of this number has it.
    pub fn of_worker(self, own: usize) -> Board {
        Board { own, ..self }
    }

    fn slots(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.numbers.chunks_exact(SLOT)
    }

    /// What this worker, or the one before it, has written last.
    pub fn own(&self) -> Counts {
        self.slots().nth(self.own).map(read).unwrap_or_default()
    }

    /// Writes this worker's counts.
    pub fn publish(&self, mut counts: Counts) {
        let mut slot = self.slots().nth(self.own).unwrap_or_default().iter();
        counts.each(&mut |number| {
            if let Some(place) = slot.next() {
                place.store(*number, Ordering::Relaxed);
            }
        });
    }

    /// The counts of each worker.
    pub fn workers(&self) -> impl Iterator<Item = Counts> {
        self.slots().map(read)
    }

    /// The counts of all together, gauges too.
    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for slot in self.slots() {
            let mut slot = slot.iter();
            sum.each(&mut |number| {
                let count = slot.next().map_or(0, |place| place.load(Ordering::Relaxed));
                *number = number.wrapping_add(count);
            });
        }
        sum
    }
}

fn read(slot: &[AtomicU64]) -> Counts {
    let mut counts = Counts::default();
    let mut slot = slot.iter();
    counts.each(&mut |number| *number = slot.next().map_or(0, |at| at.load(Ordering::Relaxed)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_have_a_place_of_their_own() {
        let mut counts = Counts::default();
        let mut number = 0;
        counts.each(&mut |place| {
            number += 1;
            *place = number;
        });
        assert_eq!(number, SLOT as u64);
        let board = Board::new(3).expect("memory").of_worker(1);
        board.publish(counts);
        let mut expected = 0;
        board.own().each(&mut |place| {
            expected += 1;
            assert_eq!(*place, expected);
        });
    }

    #[test]
    fn counts_add_up_and_whoever_comes_after_goes_on() {
        let board = Board::new(2).expect("memory");
        let mut counts = Counts::default();
        counts.counters.udp_announces = 5;
        counts.gauges.connections = 1;
        board.publish(counts);
        let board = board.of_worker(1);
        counts.counters.udp_announces = 7;
        board.publish(counts);
        let sum = board.sum();
        assert_eq!(
            (sum.counters.udp_announces, sum.gauges.connections),
            (12, 2)
        );
        let each: Vec<u64> = board.workers().map(|c| c.counters.udp_announces).collect();
        assert_eq!(each, [5, 7]);
        let board = board.of_worker(0);
        assert_eq!(board.own().counters.udp_announces, 5);
    }
}
