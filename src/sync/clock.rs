//! Cluster time: a node's own clock, corrected by what it learns from others.
//!
//! Nobody is master. Each node compares its time with that of all others, by the round trips of their
//! pulses, and takes the middle one of those that are sure of theirs. One clock that is wrong moves
//! nobody; among two, that of whoever has been sure for longer counts. A node that has just started is
//! not sure and takes what the others have; alone, it is sure after a while.

/// The own clock is read far more often than this, in milliseconds: what goes beyond was a step of the
/// clock, or a pause after which others tell how late it is.
const STEP: u64 = 2500;

/// Milliseconds by which the cluster may disagree before a node sets its time.
const TOLERANCE: u64 = 100;

/// Milliseconds after which a node that hears nobody is sure of its own time.
const ALONE: u64 = 10_000;

#[derive(Debug)]
pub struct Time {
    /// What the own clock said last.
    own: u64,
    /// Milliseconds since the start, without the clock's steps.
    steady: u64,
    /// Cluster time at the start.
    origin: u64,
    pub set: u32,
    sure_since: Option<u64>,
    /// It has been compared with that of others: what they are ahead by from then on has passed.
    has_met: bool,
}

impl Time {
    /// `own` is the own clock, `cluster` the best guess at cluster time, both in milliseconds.
    pub fn new(own: u64, cluster: u64) -> Time {
        Time {
            own,
            steady: 0,
            origin: cluster,
            set: 0,
            sure_since: None,
            has_met: false,
        }
    }

    /// Reads the own clock; returns the milliseconds since the start, which never go back.
    pub fn advance(&mut self, own: u64) -> u64 {
        let passed = own.saturating_sub(self.own);
        self.own = own;
        if passed <= STEP {
            self.steady += passed;
        }
        self.steady
    }

    pub fn cluster(&self) -> u64 {
        self.origin.wrapping_add(self.steady)
    }

    /// Milliseconds for which the node has been sure of its time, 0 for not at all.
    pub fn sure_for(&self) -> u32 {
        self.sure_since.map_or(0, |since| {
            u32::try_from(self.steady - since + 1).unwrap_or(u32::MAX)
        })
    }

    /// Takes the others' votes: by how much each is ahead, for how long it has been sure, and its id.
    /// Returns by how much the time is set, and whether so much has passed here unnoticed: not if the node
    /// has been alone until now, with a clock that nobody had set right.
    pub fn vote(&mut self, id: u64, others: &mut Vec<Vote>) -> Option<(i64, bool)> {
        if others.is_empty() {
            if self.steady >= ALONE {
                self.sure_since.get_or_insert(self.steady);
            }
            return None;
        }
        others.push(Vote {
            ahead: 0,
            sure_for: self.sure_for(),
            id,
        });
        if others.iter().any(|vote| vote.sure_for > 0) {
            others.retain(|vote| vote.sure_for > 0);
        }
        let ahead = middle(others)?;
        self.sure_since.get_or_insert(self.steady);
        let had_met = std::mem::replace(&mut self.has_met, true);
        if ahead.unsigned_abs() <= TOLERANCE {
            return None;
        }
        self.origin = self.origin.wrapping_add_signed(ahead);
        self.set = self.set.wrapping_add(1);
        Some((ahead, had_met))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Vote {
    pub ahead: i64,
    pub sure_for: u32,
    pub id: u64,
}

/// Of an even number, the one of the middle two that has been sure for longer.
fn middle(votes: &mut [Vote]) -> Option<i64> {
    votes.sort_unstable_by_key(|vote| (vote.ahead, vote.id));
    let upper = votes.get(votes.len() / 2)?;
    let lower = votes.get((votes.len() - 1) / 2)?;
    // Whole seconds: both must come to the same choice, and each knows the other's only roughly.
    let rank = |vote: &Vote| (vote.sure_for / 4096, u64::MAX - vote.id);
    Some(match rank(lower) > rank(upper) {
        true => lower.ahead,
        false => upper.ahead,
    })
}

/// By how much another node's time is ahead, from its latest pulses.
#[derive(Debug, Default)]
pub struct Samples {
    set: u32,
    /// Round trip and offset, in milliseconds; the oldest is replaced.
    ring: [Option<(u64, i64)>; 8],
    next: usize,
}

impl Samples {
    pub fn add(&mut self, set: u32, round_trip: u64, ahead: i64) {
        if set != self.set {
            *self = Samples {
                set,
                ..Samples::default()
            };
        }
        self.ring[self.next % 8] = Some((round_trip, ahead));
        self.next = (self.next + 1) % 8;
    }

    /// The own time was set.
    pub fn shift(&mut self, by: i64) {
        for (_, ahead) in self.ring.iter_mut().flatten() {
            *ahead = ahead.saturating_sub(by);
        }
    }

    /// That of the shortest round trip: it is the least wrong.
    pub fn best(&self) -> Option<i64> {
        let samples = self.ring.iter().flatten();
        samples
            .min_by_key(|(trip, _)| *trip)
            .map(|(_, ahead)| *ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(ahead: i64, sure_for: u32, id: u64) -> Vote {
        Vote {
            ahead,
            sure_for,
            id,
        }
    }

    #[test]
    fn steps_of_the_own_clock_do_not_count() {
        let mut time = Time::new(1_000_000, 50);
        assert_eq!(time.advance(1_001_000), 1000);
        assert_eq!(time.advance(9_001_000), 1000);
        assert_eq!(time.advance(9_001_500), 1500);
        assert_eq!(time.advance(7), 1500);
        assert_eq!(time.advance(17), 1510);
        assert_eq!(time.cluster(), 1560);
    }

    #[test]
    fn who_starts_takes_the_time_of_who_is_sure() {
        let mut time = Time::new(0, 500_000);
        let mut votes = vec![vote(-400_000, 5000, 1), vote(77, 0, 2)];
        assert_eq!(time.vote(9, &mut votes), Some((-400_000, false)));
        assert_eq!(time.cluster(), 100_000);
        assert!(time.sure_for() > 0);
    }

    #[test]
    fn one_wrong_clock_moves_nobody_and_is_set_right() {
        let mut time = Time::new(0, 0);
        assert_eq!(time.vote(1, &mut vec![vote(0, 9000, 2)]), None);
        let mut votes = vec![vote(3_600_000, 9000, 2), vote(10, 9000, 3)];
        assert_eq!(time.vote(1, &mut votes), None);
        let mut votes = vec![vote(3_600_000, 9000, 2), vote(3_600_010, 9000, 3)];
        assert_eq!(time.vote(1, &mut votes), Some((3_600_000, true)));
    }

    #[test]
    fn what_a_clock_was_wrong_by_has_not_passed() {
        let mut time = Time::new(0, 0);
        for own in 1..=20 {
            time.advance(own * 1000);
            time.vote(1, &mut Vec::new());
        }
        assert!(time.sure_for() > 0);
        let mut votes = vec![vote(3_600_000, 90_000, 2)];
        assert_eq!(time.vote(1, &mut votes), Some((3_600_000, false)));
        // The machine was stopped for a while.
        let mut votes = vec![vote(60_000, 150_000, 2)];
        assert_eq!(time.vote(1, &mut votes), Some((60_000, true)));
    }

    #[test]
    fn of_two_the_one_that_has_been_sure_for_longer_is_right() {
        let mut old = Time::new(0, 0);
        assert_eq!(old.vote(2, &mut vec![vote(0, 0, 1)]), None);
        for own in 1..=20 {
            old.advance(own * 1000);
        }
        assert_eq!(old.vote(2, &mut vec![vote(-9000, 5000, 1)]), None);
        let mut new = Time::new(0, 0);
        assert_eq!(
            new.vote(1, &mut vec![vote(9000, 20_000, 2)]),
            Some((9000, false))
        );
    }

    #[test]
    fn alone_a_node_is_sure_after_a_while() {
        let mut time = Time::new(0, 0);
        for own in 1..=9 {
            time.advance(own * 1000);
            assert_eq!(time.vote(1, &mut Vec::new()), None);
            assert_eq!(time.sure_for(), 0);
        }
        time.advance(10_000);
        time.vote(1, &mut Vec::new());
        assert_eq!(time.sure_for(), 1);
    }

    #[test]
    fn the_shortest_round_trip_is_believed_until_the_other_sets_its_time() {
        let mut samples = Samples::default();
        assert_eq!(samples.best(), None);
        samples.add(0, 100, 50);
        samples.add(0, 10, 5);
        samples.add(0, 200, -90);
        assert_eq!(samples.best(), Some(5));
        samples.shift(5);
        assert_eq!(samples.best(), Some(0));
        samples.add(1, 300, 7);
        assert_eq!(samples.best(), Some(7));
    }
}
