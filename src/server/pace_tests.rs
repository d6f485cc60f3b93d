//! Clients under a [`Pace`], in simulation: a step is a second.

use super::pace::{Pace, Rule};
use crate::base::random::Random;
use std::f64::consts::TAU;
use std::ops::Range;

const HOUR: usize = 3600;
const DAY: usize = 24 * HOUR;

const RULE: Rule = Rule {
    min: 1800,
    max: 7200,
    target: 25,
};

/// Clients that announce when they start, an interval after their last announce, or up to ten seconds later, and when
/// they stop.
struct Simulation {
    pace: Pace,
    random: Random,
    /// Seconds that a client stays, on average.
    stay: usize,
    /// Clients that announce in each second to come, and that stop.
    due: Vec<u32>,
    stopping: Vec<u32>,
    clients: u32,
    announces: u64,
    /// Of each second that has passed: announces, and the interval at its end.
    rates: Vec<u32>,
    intervals: Vec<u32>,
}

impl Simulation {
    /// With clients that have been told another interval before, of so many seconds.
    fn new(pace: Pace, (clients, stay): (u32, usize), seconds: usize) -> Simulation {
        let mut random = Random::seeded(7);
        let mut due = vec![0; 5 * DAY];
        for _ in 0..clients {
            due[random.below(seconds)] += 1;
        }
        Simulation {
            pace,
            random,
            stay,
            due,
            stopping: vec![0; 5 * DAY],
            clients,
            announces: 0,
            rates: Vec::new(),
            intervals: Vec::new(),
        }
    }

    /// Runs until this second. In each so many clients start.
    fn run(&mut self, until: usize, starting: impl Fn(usize) -> f64) {
        while self.rates.len() < until {
            let mean = starting(self.rates.len());
            let part = (mean.fract() * 1000.0) as usize;
            let more = u32::from(self.random.below(1000) < part);
            self.step(mean as u32 + more);
        }
    }

    fn step(&mut self, started: u32) {
        let now = self.rates.len();
        let (announces, stopped) = (self.due[now] + started, self.stopping[now]);
        self.clients = self.clients + started - stopped;
        for _ in 0..announces {
            let interval = self.pace.interval() as usize;
            let slack = interval / 30;
            let told = interval - slack + self.random.below(2 * slack + 1);
            if self.random.below(self.stay) < told {
                self.stopping[now + 1 + self.random.below(told)] += 1;
            } else {
                self.due[now + told + self.random.below(10.min(told / 20 + 1))] += 1;
            }
        }
        self.announces += u64::from(announces + stopped);
        self.pace.advance(1000 * (now as u64 + 1), self.announces);
        self.rates.push(announces + stopped);
        self.intervals.push(self.pace.interval());
    }

    /// The number of clients that start in a second and keep the number of all as it is.
    fn replacement(&self) -> f64 {
        f64::from(self.clients) / self.stay as f64
    }

    /// Asserts that the interval stays within a tenth of its mean, and the mean rate of each ten minutes within a fifth
    /// of the target.
    fn expect_calm(&self, seconds: Range<usize>) {
        let intervals = self.intervals[seconds.clone()]
            .iter()
            .map(|it| f64::from(*it));
        let mean = intervals.clone().sum::<f64>() / seconds.len() as f64;
        for (second, interval) in seconds.clone().zip(intervals) {
            let is_calm = (interval / mean - 1.0).abs() <= 0.1;
            assert!(
                is_calm,
                "{interval} s in second {second}, on average {mean} s"
            );
        }
        for at in seconds.step_by(600) {
            self.expect_target(at..at + 600);
        }
    }

    fn expect_target(&self, seconds: Range<usize>) {
        let rate = self.rate(seconds.clone());
        let target = f64::from(self.pace.rule.target);
        assert!(
            (rate / target - 1.0).abs() <= 0.2,
            "{rate}/s in {seconds:?}"
        );
    }

    fn rate(&self, seconds: Range<usize>) -> f64 {
        let sum: u32 = self.rates[seconds.clone()].iter().sum();
        f64::from(sum) / seconds.len() as f64
    }

    /// How often the interval turns around, by more than a tenth.
    fn turns(&self) -> usize {
        let (mut turns, mut is_rising, mut extreme) = (0, true, self.intervals[0]);
        for &interval in &self.intervals {
            let (low, high) = (interval.min(extreme), interval.max(extreme));
            if (interval > extreme) == is_rising {
                extreme = interval;
            } else if low * 11 < high * 10 {
                (turns, is_rising, extreme) = (turns + 1, !is_rising, interval);
            }
        }
        turns
    }
}

#[test]
fn a_flash_crowd_is_spread_out_and_then_served_at_the_target() {
    let mut simulation = Simulation::new(Pace::new(RULE, 0), (5000, 6 * HOUR), 1800);
    let before = simulation.replacement();
    simulation.run(2 * HOUR, |_| before);
    assert_eq!(simulation.pace.interval(), RULE.min);
    let minutes = 2 * HOUR + 300;
    simulation.run(minutes, |_| 100_000.0 / 300.0);
    let after = simulation.replacement();
    simulation.run(DAY, |_| after);
    simulation.expect_calm(4 * HOUR..DAY);
    assert!(simulation.turns() <= 3, "{}", simulation.turns());
}

#[test]
fn the_interval_follows_a_daily_rhythm_without_swings_of_its_own() {
    let mut simulation = Simulation::new(Pace::new(RULE, 70_000), (70_000, 6 * HOUR), 2800);
    simulation.run(4 * DAY, |second| {
        3.2 * (1.0 + 0.8 * (TAU * second as f64 / DAY as f64).sin())
    });
    for at in (DAY..4 * DAY).step_by(600) {
        let ten = at..at + 600;
        let intervals = &simulation.intervals[ten.clone()];
        let is_bound = intervals.iter().any(|it| [RULE.min, RULE.max].contains(it));
        match is_bound {
            true => assert!(simulation.rate(ten) < 1.2 * 25.0),
            false => simulation.expect_target(ten),
        }
    }
    assert!(simulation.turns() <= 8, "{}", simulation.turns());
}

#[test]
fn a_restart_with_the_peers_of_before_goes_on_with_the_interval_of_before() {
    let mut simulation = Simulation::new(Pace::new(RULE, 100_000), (100_000, 4 * DAY), 4000);
    assert_eq!(simulation.pace.interval(), 4000);
    let starting = simulation.replacement();
    simulation.run(DAY, |_| starting);
    simulation.expect_calm(0..DAY);
}

#[test]
fn a_restart_without_peers_finds_the_interval_of_before() {
    let mut simulation = Simulation::new(Pace::new(RULE, 0), (100_000, 4 * DAY), 4000);
    let starting = simulation.replacement();
    simulation.run(DAY, |_| starting);
    simulation.expect_calm(4 * HOUR..DAY);
}

#[test]
fn short_intervals_are_calm_as_well() {
    let rule = Rule {
        min: 5,
        max: 300,
        target: 200,
    };
    let mut simulation = Simulation::new(Pace::new(rule, 0), (3000, HOUR), 50);
    let starting = simulation.replacement();
    simulation.run(HOUR, |_| starting);
    simulation.expect_calm(600..HOUR);
}

#[test]
fn the_interval_stays_between_its_bounds_and_at_the_minimum_without_a_target() {
    let mut pace = Pace::new(RULE, 1_000_000_000);
    assert_eq!(pace.interval(), RULE.max);
    for second in 1..8000 {
        pace.advance(1000 * second, 0);
    }
    assert_eq!(pace.interval(), RULE.min);
    for second in 8000..9000 {
        pace.advance(1000 * second, u64::MAX / 9000 * second);
    }
    assert_eq!(pace.interval(), RULE.max);
    pace.set_rule(Rule { target: 0, ..RULE });
    assert_eq!((pace.interval(), pace.next_step()), (RULE.min, None));
}

#[test]
fn a_pause_of_the_host_changes_the_interval_little() {
    let mut pace = Pace::new(RULE, 100_000);
    pace.advance(1000, 25);
    pace.advance(1000 * HOUR as u64, 500);
    let interval = pace.interval();
    assert!((3980..=4020).contains(&interval), "{interval}");
}
