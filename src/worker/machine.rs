//! What all workers of a machine have counted, as each of them tells it.

use super::board::{Board, Counts, Gauges};
use crate::stats::Counters;
use crate::stats::cluster::Overview;
use crate::tracker::Tally;

/// Milliseconds from one time that a worker writes its counts to the next.
const EVERY: u64 = 1000;

pub struct Machine {
    board: Board,
    /// What the workers that had this one's number before have counted, beyond its counters.
    before: Counts,
    publish_at: u64,
    pub counters: Counters,
    pub tally: Tally,
    pub workers: Vec<Counts>,
}

impl Machine {
    pub fn new(board: Board) -> Machine {
        Machine {
            before: board.own(),
            board,
            publish_at: 0,
            counters: Counters::default(),
            tally: Tally::new(1),
            workers: Vec::new(),
        }
    }

    /// What this worker's counters begin with.
    pub fn first_counters(&self) -> Counters {
        self.before.counters
    }

    /// Whether this worker knows of the cluster what others do not.
    pub fn is_gateway(&self) -> bool {
        self.board.is_gateway()
    }

    pub fn tell_whole(&self) {
        self.board.tell_whole();
    }

    /// Whether each worker has the whole table, or is one that serves nobody before it does.
    pub fn is_whole(&self) -> bool {
        self.board.is_whole()
    }

    pub fn tell_cluster(&self, overview: &Overview) {
        self.board.tell_cluster(&overview.numbers());
    }

    /// As the gateway has told it last.
    pub fn cluster(&self) -> Option<Overview> {
        let numbers = self.board.cluster()?;
        Some(Overview::of_numbers(&numbers))
    }

    pub fn is_due(&self, now: u64) -> bool {
        self.publish_at <= now
    }

    /// Writes what this worker has counted by now.
    pub fn publish(&mut self, now: u64, counters: &Counters, tally: &Tally, gauges: Gauges) {
        self.publish_at = now + EVERY;
        let mut counts = Counts {
            counters: *counters,
            gauges,
            ..self.before
        };
        counts.completed += tally.completed;
        let renewals = counts.renewals.iter_mut().zip(tally.renewals);
        renewals.for_each(|(sum, count)| *sum += count);
        self.board.publish(counts);
    }

    /// Reads what all have written.
    pub fn gather(&mut self, unit_ms: u64) {
        self.workers.clear();
        self.workers.extend(self.board.workers());
        let sum = self.board.sum();
        self.counters = sum.counters;
        self.tally = Tally {
            completed: sum.completed,
            renewals: sum.renewals,
            unit_ms,
            woodpeckers: None,
        };
    }
}
