//! The last hour: a sample every half minute.
//!
//! After the host was suspended, the loop records the missed samples as they are then: nothing has changed meanwhile.

use std::collections::VecDeque;

/// Milliseconds between two samples.
pub const INTERVAL_MS: u64 = 30_000;

/// An hour, both ends included.
pub const MAX_SAMPLES: usize = 121;

/// Counts since the start, and sizes at one moment.
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

    /// When the next sample is due.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Records a sample for each time that has passed since the last call.
    pub fn record(&mut self, now: u64, sample: Sample) {
        if !self.is_due(now) {
            return;
        }
        let missed = (now - self.next) / INTERVAL_MS + 1;
        self.next += missed * INTERVAL_MS;
        for _ in 0..missed.min(MAX_SAMPLES as u64) {
            if self.samples.len() == MAX_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
    }

    pub fn oldest(&self) -> Option<&Sample> {
        self.samples.front()
    }

    /// Each sample but the first, after the one before it; the oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (&Sample, &Sample)> + ExactSizeIterator {
        self.samples.iter().zip(self.samples.iter().skip(1))
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
    fn a_sample_is_recorded_for_each_missed_time() {
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
    fn history_is_bounded_by_an_hour_even_after_a_long_sleep() {
        let mut history = History::default();
        for n in 0..300 {
            history.record(n * INTERVAL_MS, sample(n));
        }
        assert_eq!(counts(&history), (179..300).collect::<Vec<_>>());
        history.record(u64::MAX / 2, sample(7));
        assert_eq!(counts(&history), [7; MAX_SAMPLES]);
        assert!(!history.is_due(u64::MAX / 2));
    }
}
