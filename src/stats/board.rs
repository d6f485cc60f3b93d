//! The counters of all threads, for the reports of each.
//!
//! A thread counts without a lock, and publishes its counters once a turn. With one thread there is nothing to publish.

use super::Counters;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The board as one thread has it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Of each thread that serves, if there are several.
    all: Arc<[Mutex<Counters>]>,
    /// Which of them this one is. None for the thread of the chores.
    own: Option<usize>,
}

impl Board {
    /// For so many threads that serve.
    pub fn new(threads: usize) -> Board {
        Board {
            all: (0..threads).map(|_| Mutex::default()).collect(),
            own: None,
        }
    }

    /// As the thread of this number has it.
    pub fn of_thread(&self, number: usize) -> Board {
        Board {
            all: self.all.clone(),
            own: Some(number),
        }
    }

    /// Writes this thread's counters.
    pub fn publish(&self, counters: &Counters) {
        if let Some(place) = self.own.and_then(|own| self.all.get(own)) {
            *lock(place) = *counters;
        }
    }

    /// The counters of all threads together; those of this one are given.
    pub fn sum(&self, own: &Counters) -> Counters {
        let mut sum = *own;
        for (number, counters) in self.all.iter().enumerate() {
            if self.own != Some(number) {
                sum.add(&lock(counters));
            }
        }
        sum
    }

    /// The counters of each thread, as it has published them.
    pub fn threads(&self) -> Vec<Counters> {
        self.all.iter().map(|counters| *lock(counters)).collect()
    }
}

/// A thread that panics ends the process, so no lock is ever found poisoned.
fn lock(counters: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(announces: u64) -> Counters {
        Counters {
            udp_announces: announces,
            wanted: [announces; 201],
            ..Counters::default()
        }
    }

    #[test]
    fn reports_of_every_thread_add_up_the_counters_of_all() {
        let chores = Board::new(2);
        let threads = [chores.of_thread(0), chores.of_thread(1)];
        threads[0].publish(&counters(3));
        threads[1].publish(&counters(5));
        let sum = |board: &Board, own| {
            let sum = board.sum(&counters(own));
            assert_eq!(sum.wanted, [sum.udp_announces; 201]);
            sum.udp_announces
        };
        assert_eq!(sum(&chores, 0), 8);
        // A thread's own reports have the counts that it has not published.
        assert_eq!(sum(&threads[0], 4), 9);
        assert_eq!(sum(&threads[1], 5), 8);
        let each = chores.threads();
        assert_eq!(
            each.iter().map(|c| c.udp_announces).collect::<Vec<_>>(),
            [3, 5]
        );
    }

    #[test]
    fn one_thread_has_its_own_counters_alone() {
        let board = Board::default();
        board.publish(&counters(3));
        assert_eq!(board.sum(&counters(4)).udp_announces, 4);
        assert!(board.threads().is_empty());
    }
}
