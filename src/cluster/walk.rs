//! The walk: every eight units it passes the whole table and sends the peers that have announced here since the last
//! one, so that renewals reach the other nodes.
//!
//! The info-hashes are cut into 256 slices by their first byte. For each slice the unit is kept in which the walk
//! reached it last: the next walk sends what was stamped in or after that unit. Slices are spread evenly over the
//! eight units.

use super::link::Pass;
use crate::tracker::Cursor;

const SLICES: u64 = 256;

/// Units from one walk to the next.
const UNITS: u64 = 8;

#[derive(Debug, Default)]
pub struct Walk {
    /// When it began, by the table's clock, and in which unit.
    began_ms: u64,
    pub began: u64,
    slice: usize,
    /// Set in the middle of a slice.
    cursor: Option<Cursor>,
    /// The unit from which the slice under way is sent.
    since: u64,
    /// Of each slice, the unit in which it was reached last.
    reached: Vec<u64>,
}

impl Walk {
    pub fn new(clock_ms: u64, unit: u64) -> Walk {
        Walk {
            began_ms: clock_ms,
            began: unit,
            since: unit,
            reached: vec![unit; SLICES as usize],
            ..Walk::default()
        }
    }

    /// Begins anew, so that all that was not sent is sent.
    pub fn restart(&mut self) {
        if let (Some(_), Some(reached)) = (self.cursor.take(), self.reached.get_mut(self.slice)) {
            *reached = self.since;
        }
        self.slice = 0;
    }

    /// Goes on where it is after the clock was moved on.
    pub fn resume(&mut self, clock_ms: u64, unit: u64) {
        self.began_ms = clock_ms;
        self.began = unit;
    }

    /// The slice that is due now, or its rest; with `is_last` all are due. None if none is.
    pub fn next(&mut self, clock_ms: u64, unit: u64, unit_ms: u64, is_last: bool) -> Option<Pass> {
        let first_byte = u8::try_from(self.slice).ok()?;
        if self.cursor.is_none() {
            let passed = clock_ms.saturating_sub(self.began_ms);
            let due = passed.saturating_mul(SLICES) / (UNITS * unit_ms).max(1);
            if due <= self.slice as u64 && !is_last {
                return None;
            }
            let reached = self.reached.get_mut(self.slice)?;
            self.since = std::mem::replace(reached, unit);
            let mut first = [0; 20];
            first[0] = first_byte;
            self.cursor = Some(Cursor::at(first));
        }
        Some(Pass {
            cursor: self.cursor?,
            since: self.since,
            slice: Some(first_byte),
            ..Pass::default()
        })
    }

    /// Notes how far it came in this slice; true if that was the end of the walk.
    pub fn passed(&mut self, next: Option<Cursor>) -> bool {
        let slice = self.slice;
        self.cursor = next.filter(|next| usize::from(next.torrent()[0]) == slice);
        self.slice += usize::from(self.cursor.is_none());
        self.slice >= SLICES as usize
    }

    /// Begins the next walk.
    pub fn begin(&mut self, clock_ms: u64, unit: u64, unit_ms: u64) {
        // Without a pause, so that each slice comes every eight units.
        let due = self.began_ms.saturating_add(UNITS * unit_ms);
        let is_late = clock_ms > due.saturating_add(UNITS * unit_ms);
        self.began_ms = if is_late { clock_ms } else { due };
        self.began = unit;
        self.slice = 0;
        self.cursor = None;
    }
}
