//! The counters of all threads, from which each makes its reports.
//!
//! A thread counts without a lock, and publishes a copy of its counters once a turn. A single thread publishes nothing.

use super::Counters;
use crate::base::lock::lock;
use std::sync::{Arc, Mutex};

/// The board, and the place of one thread on it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// One for each thread that serves, if there are several.
    all: Arc<[Mutex<Counters>]>,
    /// The number of this thread. None for the one that does the chores.
    own: Option<usize>,
}

impl Board {
    /// A board for this many threads that serve.
    pub fn new(threads: usize) -> Board {
        Board {
            all: (0..threads).map(|_| Mutex::default()).collect(),
            own: None,
        }
    }

    /// The board for the thread of this number.
    pub fn of_thread(&self, number: usize) -> Board {
        Board {
            all: self.all.clone(),
            own: Some(number),
        }
    }

    pub fn publish(&self, counters: &Counters) {
        if let Some(published) = self.own.and_then(|own| self.all.get(own)) {
            *lock(published) = *counters;
        }
    }

    /// The sums over all threads, with this thread's own counters as they are now.
    pub fn sum(&self, own: &Counters) -> Counters {
        let mut sum = *own;
        for (number, counters) in self.all.iter().enumerate() {
            if self.own != Some(number) {
                sum.add(&lock(counters));
            }
        }
        sum
    }

    /// The counters that each thread has published.
    pub fn threads(&self) -> Vec<Counters> {
        self.all.iter().map(|counters| *lock(counters)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(announces: u64) -> Counters {
        Counters {
            udp_announces: announces,
            numwants: [announces; 201],
            ..Counters::default()
        }
    }

    #[test]
    fn every_thread_reports_the_sums_over_all() {
        let chores = Board::new(2);
        let threads = [chores.of_thread(0), chores.of_thread(1)];
        threads[0].publish(&counters(3));
        threads[1].publish(&counters(5));
        let sum = |board: &Board, own| {
            let sum = board.sum(&counters(own));
            assert_eq!(sum.numwants, [sum.udp_announces; 201]);
            sum.udp_announces
        };
        assert_eq!(sum(&chores, 0), 8);
        // A thread's own reports include counts that it has not published yet.
        assert_eq!(sum(&threads[0], 4), 9);
        assert_eq!(sum(&threads[1], 5), 8);
        let each = chores.threads();
        assert_eq!(
            each.iter().map(|c| c.udp_announces).collect::<Vec<_>>(),
            [3, 5]
        );
    }

    #[test]
    fn a_single_thread_reports_its_own_counters() {
        let board = Board::default();
        board.publish(&counters(3));
        assert_eq!(board.sum(&counters(4)).udp_announces, 4);
        assert!(board.threads().is_empty());
    }
}
