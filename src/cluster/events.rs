//! Stops and completions of this node, numbered from 1 and kept for five minutes: a node that was away for
//! less is sent what it lacks.

use crate::tracker::{News, STOP_MS};
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct Kept {
    /// With the time when each was noted.
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

    /// The number of the oldest event that is kept, and the number that the next one will have.
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub fn push(&mut self, event: News, now: u64) {
        if self.events.len() >= self.max {
            self.drop_oldest();
        }
        self.events.push_back((now, event));
    }

    /// Forgets what is older than five minutes.
    pub fn forget(&mut self, now: u64) {
        while self
            .events
            .front()
            .is_some_and(|(at, _)| at + STOP_MS < now)
        {
            self.drop_oldest();
        }
        self.events.shrink_to(4 * self.events.len());
    }

    fn drop_oldest(&mut self) {
        self.first += u64::from(self.events.pop_front().is_some());
    }

    /// Events were lost before they had numbers: nodes that are to be sent the next ones find that some are missing.
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

    /// Milliseconds back to the oldest.
    pub fn reach_ms(&self, now: u64) -> u64 {
        self.events
            .front()
            .map_or(0, |(at, _)| now.saturating_sub(*at))
    }
}
