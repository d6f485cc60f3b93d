//! The last hour, a sample every half minute.
//!
//! With one thread nothing wakes the loop for a sample: while it sleeps nothing changes, so the samples that it
//! slept through are what it finds when it wakes.

use std::collections::VecDeque;

/// Milliseconds between two samples.
pub const EVERY: u64 = 30_000;

/// An hour, both ends included.
pub const MOST: usize = 121;

/// What there was at one moment: counts since the start, and the sizes of then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub udp: u64,
    pub http: u64,
    pub dropped: u64,
    pub peers: u64,
    pub torrents: u64,
}

#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// When the next is due, in milliseconds since the start.
    next: u64,
}

impl History {
    pub fn is_due(&self, now: u64) -> bool {
        self.next <= now
    }

    /// When the next is due.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the samples that are due.
    pub fn record(&mut self, now: u64, sample: Sample) {
        if self.next > now {
            return;
        }
        let missed = (now - self.next) / EVERY + 1;
        self.next += missed * EVERY;
        for _ in 0..missed.min(MOST as u64) {
            if self.samples.len() == MOST {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
    }

    /// Each sample after the first with the one before it, the oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (&Sample, &Sample)> + ExactSizeIterator {
        self.samples
            .iter()
            .zip(self.samples.range(self.samples.len().min(1)..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(udp: u64) -> Sample {
        Sample {
            udp,
            ..Sample::default()
        }
    }

    fn counts(history: &History) -> Vec<u64> {
        history.samples.iter().map(|s| s.udp).collect()
    }

    #[test]
    fn samples_are_taken_when_due_and_made_up_for() {
        let mut history = History::default();
        assert_eq!(history.steps().len(), 0);
        for (now, udp) in [(5, 1), (6, 2), (29_999, 3), (30_000, 4), (100_000, 5)] {
            assert_eq!(history.is_due(now), ![6, 29_999].contains(&now));
            history.record(now, sample(udp));
        }
        assert_eq!(counts(&history), [1, 4, 5, 5]);
        let steps: Vec<_> = history.steps().map(|(a, b)| (a.udp, b.udp)).collect();
        assert_eq!(steps, [(1, 4), (4, 5), (5, 5)]);
    }

    #[test]
    fn it_holds_an_hour_and_a_long_sleep_is_no_loop() {
        let mut history = History::default();
        for n in 0..300 {
            history.record(n * EVERY, sample(n));
        }
        assert_eq!(counts(&history), (179..300).collect::<Vec<_>>());
        history.record(u64::MAX / 2, sample(7));
        assert_eq!(counts(&history), [7; MOST]);
        assert!(!history.is_due(u64::MAX / 2));
    }
}
