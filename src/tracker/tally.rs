//! Counts of a shard for statistics: completions, renewals by age, and clients that announce too early.

use super::clock::Clock;
use super::peer::{LOCAL, host};
use super::swarms::Seen;
use super::{Announce, Event};
use crate::base::busiest::Busiest;
use crate::base::random::Random;

/// Counts that only the table knows.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Completed downloads.
    pub completed: u64,
    /// Newcomers that were not stored: the table was full, or the system had no memory.
    pub refused: [u64; 2],
    /// Renewals by the units since the announce before.
    pub renewals: [u64; Tally::RENEWALS],
    /// Milliseconds in a unit.
    pub unit_ms: u64,
    /// An announce without an event is too early at up to this many units after the last one.
    early: u8,
    /// Clients that announce too early, by host; none before the first.
    pub woodpeckers: Option<Box<Busiest>>,
}

impl Tally {
    /// One count for each age that a stamp can have.
    pub const RENEWALS: usize = Clock::STAMPS as usize;

    /// [`Tally::early`] if the timeout is the usual 1.5 intervals, as then two thirds of the interval.
    const EARLY: u8 = 21;

    /// Units after which the counts of woodpeckers are halved: an interval.
    pub(super) const FORGETS: u64 = 32;

    pub fn new(unit_ms: u64) -> Tally {
        Tally {
            completed: 0,
            refused: [0; 2],
            renewals: [0; Tally::RENEWALS],
            unit_ms,
            early: Tally::EARLY,
            woodpeckers: None,
        }
    }

    /// Sets the shortest interval that clients are told, in seconds.
    pub(super) fn set_interval(&mut self, seconds: u32) {
        let units = u64::from(seconds) * 1000 * 2 / 3 / self.unit_ms;
        self.early = u8::try_from(units)
            .unwrap_or(Tally::EARLY)
            .min(Tally::EARLY);
    }

    pub(super) fn count(
        &mut self,
        seen: Seen,
        announce: &Announce,
        clock: Clock,
        random: &mut Random,
    ) {
        self.completed += u64::from(seen.newly_completed);
        let Some((_, tag)) = seen.before else {
            return;
        };
        let age = clock.age(tag);
        if let Some(count) = self.renewals.get_mut(usize::from(age)) {
            *count += 1;
        }
        // The announce before may have been to another node.
        let is_own = tag & LOCAL != 0;
        if age <= self.early && is_own && announce.event == Event::None {
            let woodpeckers = &mut self.woodpeckers;
            let woodpeckers = woodpeckers.get_or_insert_with(|| Busiest::new(random).into());
            woodpeckers.count(host(announce.peer.record()));
        }
    }

    /// Counts a newcomer that was not stored. `had_room`: the bounds would have allowed it.
    #[cold]
    pub(super) fn refuse(&mut self, had_room: bool) {
        self.refused[usize::from(had_room)] += 1;
    }

    pub(super) fn forget(&mut self) {
        if let Some(woodpeckers) = &mut self.woodpeckers {
            woodpeckers.halve();
        }
    }
}
