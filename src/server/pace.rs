//! The interval under `--target-rate`: so long that clients send about this many announces a second.
//!
//! Every second the interval changes by rate / target - 1 seconds: with twice the target it grows by a second, without
//! any announce it shrinks by one. A client is told the interval when it announces, so the rate answers an interval
//! late. Near the target the rule closes a gap at a rate of one part in an interval, which is slower than that answer,
//! whatever the length of the interval: it does not swing.
//!
//! All announces count, also those that no interval holds back (started, stopped): the host answers them as well.

use crate::options::Options;

/// Milliseconds between two steps.
const STEP_MS: u64 = 1000;

/// A longer pause between two steps counts as this one: the clients' announces of the pause come at its end.
const PAUSE_MS: u64 = 10 * STEP_MS;

/// The rate is an average over about so many milliseconds, and over no more than a tenth of the interval, so that a
/// short interval follows soon.
const AVERAGE_MS: i64 = 30_000;

/// In a second the interval grows by at most so many seconds. A crowd that comes within minutes is told rising
/// intervals, and so returns over a longer time than it came in.
const MAX_RISE: i64 = 10;

const MILLION: i64 = 1_000_000;

/// The bounds of the interval, in seconds, and the rate that it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub min: u32,
    pub max: u32,
    /// Announces a second. With 0 the interval is the minimum.
    pub target: u32,
}

impl Rule {
    pub fn of(options: &Options) -> Rule {
        Rule {
            min: options.interval,
            max: options.interval_max(),
            target: options.target_rate,
        }
    }
}

/// The interval, and the rate that it follows.
#[derive(Debug, Default)]
pub struct Pace {
    pub rule: Rule,
    /// In milliseconds.
    interval: i64,
    /// The average of announces, in millionths a second.
    rate: i64,
    /// The time of the last step, and the announces counted until then.
    last: (u64, u64),
}

impl Pace {
    /// `peers` are those that will announce once in an interval.
    pub fn new(rule: Rule, peers: usize) -> Pace {
        let seconds = (peers as u64).checked_div(rule.target.into());
        let mut pace = Pace {
            interval: whole(seconds.unwrap_or(0).saturating_mul(1000)),
            ..Pace::default()
        };
        pace.set_rule(rule);
        pace
    }

    pub fn set_rule(&mut self, rule: Rule) {
        if rule.target != self.rule.target {
            // Nothing is known about the rate, and nothing changes before something is.
            self.rate = MILLION * i64::from(rule.target);
        }
        self.rule = rule;
        self.bound();
    }

    fn bound(&mut self) {
        let [min, max] = [self.rule.min, self.rule.max].map(|seconds| 1000 * i64::from(seconds));
        self.interval = match self.rule.target {
            0 => min,
            _ => self.interval.min(max).max(min),
        };
    }

    /// The interval to tell clients, in seconds.
    pub fn interval(&self) -> u32 {
        u32::try_from((self.interval + 500) / 1000).unwrap_or(self.rule.max)
    }

    /// When the next step is due, in milliseconds since the start; none if the interval is fixed.
    pub fn next_step(&self) -> Option<u64> {
        (self.rule.target > 0).then_some(self.last.0 + STEP_MS)
    }

    /// Takes a step, with the count of announces since the start.
    pub fn advance(&mut self, now_ms: u64, announces: u64) {
        let count = announces.wrapping_sub(self.last.1);
        let passed = now_ms.saturating_sub(self.last.0).clamp(1, PAUSE_MS);
        self.last = (now_ms, announces);
        let passed = whole(passed);
        let target = MILLION * i64::from(self.rule.target).max(1);
        let rate = whole(count).saturating_mul(1000 * MILLION) / passed;
        // Without this limit, the average of a flood would exceed the target long after its end.
        let rate = rate.min(target * (MAX_RISE + 1));
        let average = (self.interval / 10).clamp(1000, AVERAGE_MS).max(passed);
        self.rate += (rate - self.rate).saturating_mul(passed) / average;
        self.interval += (self.rate - target).saturating_mul(passed) / target;
        self.bound();
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
