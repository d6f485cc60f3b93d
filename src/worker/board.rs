//! What the workers of one machine count, in memory that they share: each answers for all of them.
//!
//! A worker writes its own counts once a second, and before it tells anybody the sum; nobody else writes
//! them. One that takes the place of a dead one goes on with what that had written, so that no sum that
//! was told goes back.

use super::GATEWAY;
use crate::stats::Counters;
use crate::stats::cluster::numbers::MOST_NUMBERS;
use crate::sys::memory::SharedNumbers;
use crate::tracker::Tally;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Numbers of a worker: its counters, its tally, and its own [`Gauges`].
const SLOT: usize = Counters::COUNT + 1 + Tally::RENEWALS + GAUGES;
const GAUGES: usize = 2;

/// Times that what the gateway tells is read, if it tells meanwhile.
const TRIES: usize = 4;

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
    /// How often the gateway has told of the cluster, then two places for what it tells, each of a length
    /// and so many numbers. It writes them in turn, so that it may die at any moment: the last that is
    /// whole is still there.
    cluster: SharedNumbers,
    /// Of each worker: 1 once it, or one before it, has had the whole table.
    whole: SharedNumbers,
    own: usize,
}

impl Board {
    /// For so many workers, before they are forked.
    pub fn new(workers: usize) -> io::Result<Board> {
        Ok(Board {
            numbers: SharedNumbers::new(workers * SLOT)?,
            cluster: SharedNumbers::new(1 + 2 * (1 + MOST_NUMBERS))?,
            whole: SharedNumbers::new(workers)?,
            own: 0,
        })
    }

    /// As the worker of this number has it.
    pub fn of_worker(self, own: usize) -> Board {
        Board { own, ..self }
    }

    pub fn is_gateway(&self) -> bool {
        self.own == GATEWAY
    }

    /// This worker has the whole table.
    pub fn tell_whole(&self) {
        let own = self.whole.get(self.own);
        // Read first: a line of memory that all have is not to move between them in each round.
        if let Some(own) = own.filter(|own| own.load(Ordering::Relaxed) == 0) {
            own.store(1, Ordering::Relaxed);
        }
    }

    /// Whether each worker has the whole table, or is one that serves nobody before it does.
    pub fn is_whole(&self) -> bool {
        self.whole
            .iter()
            .all(|told| told.load(Ordering::Relaxed) > 0)
    }

    /// Writes what the gateway, and nobody else, knows of the cluster.
    pub fn tell_cluster(&self, numbers: &[u64]) {
        let Some(version) = self.cluster.first() else {
            return;
        };
        let next = version.load(Ordering::Relaxed).wrapping_add(1);
        let Some((length, places)) = self.told(next) else {
            return;
        };
        // Whoever still reads what was there must see that there is something newer.
        fence(Ordering::Release);
        length.store(numbers.len() as u64, Ordering::Relaxed);
        for (place, number) in places.iter().zip(numbers) {
            place.store(*number, Ordering::Relaxed);
        }
        version.store(next, Ordering::Release);
    }

    /// What the gateway, or the one before it, has told last; none if none ever has.
    pub fn cluster(&self) -> Option<Vec<u64>> {
        // Only a reader that was stopped while the gateway told twice has to read again.
        (0..TRIES).find_map(|_| {
            let version = self.cluster.first()?;
            let before = version.load(Ordering::Acquire);
            let (length, places) = self.told(before).filter(|_| before > 0)?;
            let length = length.load(Ordering::Relaxed);
            let places = places.iter().take(usize::try_from(length).ok()?);
            let numbers = places.map(|place| place.load(Ordering::Relaxed)).collect();
            fence(Ordering::Acquire);
            (version.load(Ordering::Relaxed) == before).then_some(numbers)
        })
    }

    /// Where the gateway tells for this time: the length, and the numbers.
    fn told(&self, version: u64) -> Option<(&AtomicU64, &[AtomicU64])> {
        let mut places = self.cluster.get(1..)?.chunks_exact(1 + MOST_NUMBERS);
        places.nth((version & 1) as usize)?.split_first()
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
    fn what_the_gateway_tells_is_read_when_it_is_whole() {
        let board = Board::new(2).expect("memory");
        assert!(board.is_gateway() && board.cluster().is_none());
        for told in [[7, 8, 9], [1, 2, 3]] {
            board.tell_cluster(&told);
            let read = board.cluster().expect("was told");
            assert_eq!(read, told);
        }
        let version = board.cluster[0].load(Ordering::Relaxed);
        let (length, places) = board.told(version + 1).expect("has a place");
        length.store(1, Ordering::Relaxed);
        places[0].store(9, Ordering::Relaxed);
        assert_eq!(board.cluster(), Some(vec![1, 2, 3]), "it died over that");
        board.tell_cluster(&[4]);
        assert_eq!(board.cluster(), Some(vec![4]));
        board.tell_cluster(&[6; MOST_NUMBERS + 1]);
        assert_eq!(board.cluster(), Some(vec![6; MOST_NUMBERS]));
        board.tell_whole();
        assert!(!board.is_whole());
        let other = board.of_worker(1);
        other.tell_whole();
        assert!(other.is_whole() && !other.is_gateway());
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
