//! The walk: in every eight units it passes the whole table once and sends the peers that have announced here since the
//! walk before, so that renewals reach the other nodes.
//!
//! The info-hashes are cut into 256 slices by their first byte, spread evenly over the eight units. For each slice the
//! unit is kept in which the walk last reached it: the next walk sends the peers stamped in or after that unit.

use super::link::Pass;
use crate::tracker::Cursor;

const SLICES: u64 = 256;

/// Units from one walk to the next.
const UNITS: u64 = 8;

#[derive(Debug, Default)]
pub struct Walk {
    /// The number of slices from the table's time 0 to the next one.
    at: u64,
    /// The unit in which the walk began.
    began: u64,
    /// Set in the middle of a slice.
    cursor: Option<Cursor>,
    /// The unit from which on the slice under way is sent.
    since: u64,
    /// By slice, the unit in which it was last reached.
    reached: Vec<u64>,
}

/// The number of the slice that is due at a time of the table's clock.
fn due(clock_ms: u64, unit_ms: u64) -> u64 {
    clock_ms.saturating_mul(SLICES) / (UNITS * unit_ms).max(1)
}

impl Walk {
    pub fn new(clock_ms: u64, unit: u64, unit_ms: u64) -> Walk {
        Walk {
            at: due(clock_ms, unit_ms),
            began: unit,
            since: unit,
            reached: vec![unit; SLICES as usize],
            ..Walk::default()
        }
    }

    fn slice(&self) -> usize {
        (self.at % SLICES) as usize
    }

    /// Goes back to the first slice, so that all that was not sent is sent.
    pub fn restart(&mut self) {
        let slice = self.slice();
        if let (Some(_), Some(reached)) = (self.cursor.take(), self.reached.get_mut(slice)) {
            *reached = self.since;
        }
        self.at -= slice as u64;
    }

    /// The slice that is due, or the rest of it; with `is_last` each one is due. None if none is.
    pub fn next(&mut self, clock_ms: u64, unit: u64, unit_ms: u64, is_last: bool) -> Option<Pass> {
        if self.cursor.is_none() {
            let due = due(clock_ms, unit_ms);
            // Whole walks are skipped after the clock was moved on.
            self.at += due.saturating_sub(self.at) / SLICES * SLICES;
            if due <= self.at && !is_last {
                return None;
            }
            let slice = self.slice();
            let reached = self.reached.get_mut(slice)?;
            self.since = std::mem::replace(reached, unit);
            let mut first = [0; 20];
            first[0] = slice as u8;
            self.cursor = Some(Cursor::at(first));
        }
        Some(Pass {
            cursor: self.cursor?,
            since: self.since,
            slice: Some(self.slice() as u8),
            ..Pass::default()
        })
    }

    /// Takes the cursor after a step. At the end of a walk, returns the unit in which it began, and the next one
    /// begins.
    pub fn passed(&mut self, next: Option<Cursor>, unit: u64) -> Option<u64> {
        let slice = self.slice();
        self.cursor = next.filter(|next| usize::from(next.torrent()[0]) == slice);
        self.at += u64::from(self.cursor.is_none());
        let has_ended = self.cursor.is_none() && self.slice() == 0;
        has_ended.then(|| std::mem::replace(&mut self.began, unit))
    }
}
