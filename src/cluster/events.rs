//! Stops and completions of this node, numbered from 1 and kept for five minutes, for nodes that were away.

use crate::tracker::{News, STOP_MS};
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct Kept {
    /// With the time at which each was noted.
    events: VecDeque<(u64, News)>,
    first: u64,
    max: usize,
}

impl Kept {
    /// Keeps at most `max` events.
    pub fn new(max: usize) -> Kept {
        Kept {
            events: VecDeque::new(),
            first: 1,
            max,
        }
    }

    /// The number of the oldest kept event.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub fn push(&mut self, event: News, now: u64) {
        if self.events.len() >= self.max {
            self.drop_oldest();
        }
        self.events.push_back((now, event));
    }

    /// Drops the events that are older than five minutes.
    pub fn forget(&mut self, now: u64) {
        while self.reach_ms(now) > STOP_MS {
            self.drop_oldest();
        }
        self.events.shrink_to(4 * self.events.len());
    }

    fn drop_oldest(&mut self) {
        self.first += u64::from(self.events.pop_front().is_some());
    }

    /// Events were lost before they had numbers. Their number is skipped, so that links notice it.
    pub fn skip(&mut self) {
        self.first = self.next() + 1;
        self.events.clear();
    }

    pub fn get(&self, number: u64) -> Option<&News> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.events.get(index).map(|(_, news)| news)
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Milliseconds since the oldest kept event.
    pub fn reach_ms(&self, now: u64) -> u64 {
        let oldest = self.events.front();
        oldest.map_or(0, |(at, _)| now.saturating_sub(*at))
    }
}
