//! The clock of a shard, and the sweep that it depends on.
//!
//! Stamps of six bits name a unit without doubt only as long as no stored peer is too old. So the sweep, which drops
//! expired peers, passes everything within [`Clock::SWEEP_WITHIN`] units. After a pause in which no sweep ran (the
//! machine was suspended) the clock is held at the last unit at which every stamp is good, until a sweep that judges
//! by the true time has passed everything. Meanwhile no announce may be answered: it would be stamped with a unit
//! of long ago.
//!
//! The sweep stops and goes on by key, so the table may change under it: a torrent or peer that is there throughout is
//! passed exactly once.

use super::clock::{Clock, LIFE};
use super::swarms::Peers;
use super::{Cursor, KEEP_EMPTY, LOOKED_AHEAD, PREFETCHED, Tally, Tracked, Tracker};

/// How far a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    NotDue,
    /// There is more to do now.
    Underway,
    /// This was its last slice.
    Finished,
}

#[derive(Debug)]
pub struct Sweep {
    /// The unit in which the last whole sweep began: no stored peer had expired then.
    vouched: u64,
    /// The unit in which the next one begins.
    next: u64,
    /// The unit in which the sweep under way began, and where it goes on.
    running: Option<(u64, Cursor)>,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep {
            vouched: Clock::FIRST,
            next: Clock::FIRST + Clock::SWEEP_WITHIN / 2,
            running: None,
        }
    }
}

impl Tracker {
    /// Moves the clock to this many milliseconds since the start.
    pub fn advance(&mut self, now_ms: u64) {
        let seconds = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        // Threads read the time for themselves, so one that locks a shard later may be a moment behind.
        self.now = self.now.max(KEEP_EMPTY.saturating_add(seconds));
        self.move_to(now_ms.saturating_add_signed(self.ahead_ms));
    }

    /// Moves the table's own clock, which never goes back.
    pub(super) fn move_to(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let unit = self.now_ms / self.unit_ms;
        let before = self.clock;
        if unit == before.true_unit() {
            return;
        }
        if unit / Tally::FORGETS != before.true_unit() / Tally::FORGETS {
            self.tally.forget();
        }
        if self.swarms.totals == [0; 4] {
            self.sweep.vouched = unit; // There are no stamps.
        }
        self.set_clock(unit);
        if self.is_held() && !before.is_held() {
            // A sweep that judges by the true time from its beginning.
            self.begin_sweep();
        }
    }

    /// Moves the clock to this unit, or as near to it as stamps allow.
    fn set_clock(&mut self, unit: u64) {
        let last = self.sweep.vouched.saturating_add(Clock::SWEEP_VALID);
        self.clock = Clock::at(unit.min(last)).judging_at(unit);
    }

    /// Whether the clock is held until [`Tracker::sweep`] has passed everything.
    pub fn is_held(&self) -> bool {
        self.clock.is_held()
    }

    /// Sweeps on by about `budget` records. A new sweep begins so long after the last began that all is passed
    /// within [`Clock::SWEEP_WITHIN`] if it takes no longer than that.
    pub fn sweep(&mut self, budget: usize, tracked: Tracked) -> Progress {
        if self.sweep.running.is_none() {
            if self.clock.unit() < self.next_sweep() {
                return Progress::NotDue;
            }
            self.begin_sweep();
        }
        self.sweep_slice(budget, tracked)
    }

    /// When the next sweep begins, in milliseconds since the start.
    pub(super) fn sweep_due(&self) -> u64 {
        self.since_start(self.next_sweep())
    }

    /// The unit in which the next sweep begins. Because of blocks at their bound it is at most one a unit, as a flood
    /// may take all memory in any case.
    fn next_sweep(&self) -> u64 {
        match (self.is_held(), self.swarms.is_short()) {
            (true, _) => self.clock.unit(),
            (_, true) => self.sweep.next.min(self.sweep.vouched + 1),
            _ => self.sweep.next,
        }
    }

    /// When the clock will be held if no sweep ends before, in milliseconds since the start.
    pub(super) fn held_from(&self) -> u64 {
        self.since_start(self.sweep.vouched + Clock::SWEEP_VALID + 1)
    }

    /// When a unit of the clock begins, in milliseconds since the start.
    fn since_start(&self, unit: u64) -> u64 {
        let begin = unit.saturating_mul(self.unit_ms);
        begin.saturating_add_signed(self.ahead_ms.saturating_neg())
    }

    pub(super) fn begin_sweep(&mut self) {
        self.swarms.forget_shortage();
        self.sweep.running = Some((self.clock.true_unit(), Cursor::default()));
    }

    /// Goes on until the budget is spent, and at least one leaf.
    pub(super) fn sweep_slice(&mut self, budget: usize, tracked: Tracked) -> Progress {
        let mut spent = 0;
        while let Some((began, from)) = self.sweep.running {
            if spent >= budget {
                return Progress::Underway;
            }
            let (looked_at, next) = self.sweep_leaf(from, budget - spent, tracked);
            spent += looked_at;
            self.sweep.running = next.map(|next| (began, next));
            if next.is_none() {
                // Its own moves may have lacked a page.
                self.swarms.forget_shortage();
                self.sweep.vouched = self.sweep.vouched.max(began);
                let unit = self.clock.true_unit();
                self.set_clock(unit);
                // The next one is expected to last as long as this one, and a unit more.
                let took = unit.saturating_sub(began) + 1;
                self.sweep.next = began + Clock::SWEEP_WITHIN - took.min(Clock::SWEEP_WITHIN / 2);
            }
        }
        Progress::Finished
    }

    /// Sweeps the leaf of the table that holds this torrent, from there on. Returns how many records
    /// were looked at and where to go on.
    fn sweep_leaf(
        &mut self,
        from: Cursor,
        budget: usize,
        tracked: Tracked,
    ) -> (usize, Option<Cursor>) {
        let at = self.torrents.find(from.torrent()).unwrap_or_else(|at| at);
        let is_crowded = self.is_crowded();
        let (swarms, now) = (&mut self.swarms, self.now);
        let (mut spent, mut stopped) = (0, None);
        let torrents = self.torrents.rest_of_leaf_mut(at);
        for index in 0..torrents.len() {
            if let Some(later) = torrents.get(index + LOOKED_AHEAD) {
                swarms.prefetch(&later.peers, PREFETCHED);
            }
            let torrent = &mut torrents[index];
            let mut next = Cursor::at(torrent.info_hash);
            if spent < budget {
                let mut clock = self.clock;
                if tracked.is_some_and(|tracked| !tracked(&torrent.info_hash)) {
                    clock = clock.judging_all_expired();
                    torrent.downloaded = 0;
                }
                let within = from.within(&torrent.info_hash);
                let (looked_at, within) = swarms.expire(&mut torrent.peers, within, clock, now);
                spent += looked_at;
                next.within = within;
                if within.is_none() {
                    continue;
                }
            }
            stopped = Some(next);
            break;
        }
        // Forwards in any case, so that no mistake in the table could make a sweep endless.
        let fence = self
            .torrents
            .next_fence(at)
            .filter(|fence| fence > from.torrent());
        let next = stopped.or_else(|| fence.map(Cursor::at));
        let is_remembered = |since| !is_crowded && now.saturating_sub(since) < KEEP_EMPTY;
        self.torrents
            .retain_in_leaf(at, |_, torrent| match torrent.peers {
                Peers::Empty(since) => torrent.downloaded > 0 && is_remembered(since),
                _ => true,
            });
        (spent, next)
    }

    /// Milliseconds in a unit of the clock.
    pub fn unit_ms(&self) -> u64 {
        self.unit_ms
    }

    /// How many units ago the peer of this tag announced; none if it has expired.
    pub fn age(&self, tag: u8) -> Option<u8> {
        Some(self.clock.age(tag)).filter(|age| u64::from(*age) <= LIFE)
    }

    /// Milliseconds since the unit began.
    pub fn into_unit_ms(&self) -> u64 {
        self.now_ms
            .saturating_sub(self.clock.unit().saturating_mul(self.unit_ms))
    }
}
