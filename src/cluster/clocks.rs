//! The clocks of the nodes: their differences, the phases of their units, and clocks that stood still.

use super::link::{Link, STALE_MS, ahead_ms};
use super::node::{Node, World};
use crate::stats::cluster::Failure;
use crate::tracker::{LIFE, Table};

/// Milliseconds for which a node whose clock may have stood still waits for one that knows.
const UNSURE_MS: u64 = 8000;

/// Phases that are taken within a peer's lifetime, each of which ends the time of all peers up to a unit earlier. A
/// node meets so few that each have a lower id than the one before.
const MAX_PHASES: u32 = 4;

/// Milliseconds below which two phases are the same: the two hellos of a handshake are made one after the other, and
/// the difference of the clocks includes the time between them. With a peer timeout of seconds a unit is no longer
/// than that, and nodes that took this for a phase would end each link.
const MIN_PHASE_MS: i128 = 250;

impl Node {
    /// Notices that the wall clock was stepped, or that the other clock stood still in a suspension. If a link from
    /// before is still alive, there was no suspension.
    pub(super) fn watch_wall(&mut self, world: &World) {
        let ahead = ahead_ms(world.wall, world.now).unwrap_or(0);
        let step = ahead - self.wall_ahead_ms.replace(ahead).unwrap_or(ahead);
        if step.unsigned_abs() >= world.table.unit_ms() {
            self.unsure_until = world.now + UNSURE_MS;
            let (before, _) = self.missing.unwrap_or_default();
            let missing = before.max(u64::try_from(step).unwrap_or(0));
            self.missing = Some((missing, world.now));
        }
        let went_on = |at| {
            let is_older = |link: &Link| link.since < at && link.heard_at > at + STALE_MS;
            self.ups().any(is_older)
        };
        if self.missing.is_some_and(|(_, at)| went_on(at)) {
            self.missing = None;
        }
    }

    /// Whether this node's clock has stood still since the last link: then it advanced less than the other node's, and
    /// the table's clock is moved on by the difference. The wall clock must show it too: a node that lies about its
    /// uptime must not end the time of all peers.
    pub(super) fn was_suspended(&mut self, link: &mut Link, world: &World) -> bool {
        self.watch_wall(world);
        let memory = self.memory_of(link.theirs.id);
        let before = memory.and_then(|memory| memory.ahead_ms);
        link.ahead_ms = ahead_ms(link.theirs.uptime_ms, clock(world.table, world.now).0);
        let (Some(before), Some(ahead)) = (before, link.ahead_ms) else {
            return false;
        };
        let missed = u64::try_from(ahead.saturating_sub(before)).unwrap_or(0);
        let missed = missed.min(self.missing.unwrap_or_default().0);
        if missed < world.table.unit_ms() {
            return false;
        }
        let seconds = missed / 1000;
        self.lines.push(format!(
            "the clock of this host stood still for {seconds} s: moved on"
        ));
        self.missing = None;
        self.move_clock(missed, world);
        // Records received since the suspension were related to the old clock.
        let memory = self.memory.iter_mut();
        memory.for_each(|memory| memory.received.unit = 0);
        true
    }

    /// Whether this node takes the other's phase of the units: versions of a peer that arrive on different ways compare
    /// only if all nodes begin their units at about the same time. Stored peers age by up to a unit. So a node with the
    /// phase of the whole nodes takes another one only if it differs by a quarter of a unit.
    pub(super) fn takes_phase(&mut self, link: &Link, world: &World) -> bool {
        let (own, theirs) = (&link.own, &link.theirs);
        let is_lowest = self.ups().all(|link| link.theirs.id >= theirs.id);
        let lifetime = LIFE * world.table.unit_ms();
        let is_free = self.phase_from.is_none_or(|(id, at, count)| {
            theirs.id < id && count < MAX_PHASES || world.now > at + lifetime
        });
        let has_phase = own.is_whole || self.has_phase;
        let is_leading = match (has_phase, theirs.is_whole) {
            (true, false) => false,
            (false, true) => true,
            _ => theirs.id < own.id && is_lowest && is_free,
        };
        self.has_phase |= theirs.is_whole;
        let unit = i128::from(world.table.unit_ms());
        let later = (i128::from(theirs.clock_ms) - i128::from(own.clock_ms)).rem_euclid(unit);
        let limit = (unit / if has_phase { 4 } else { 64 }).max(MIN_PHASE_MS);
        let takes = is_leading && later.min(unit - later) > limit;
        if takes {
            let lately = self
                .phase_from
                .filter(|(_, at, _)| world.now <= at + lifetime);
            let count = lately.map_or(1, |(.., count)| count + 1);
            self.phase_from = Some((theirs.id, world.now, count));
            self.move_clock(u64::try_from(later).unwrap_or(0), world);
        }
        takes
    }

    /// Moves the table's clock on. All links end, since clocks are related once for each link.
    fn move_clock(&mut self, ms: u64, world: &World) {
        world.table.move_clock(ms, world.now);
        self.moved_at = Some(world.now);
        for link in std::mem::take(&mut self.links) {
            self.end(link, Failure::Closed, world.now);
        }
    }
}

/// Fixes the number of units by which the clocks differ.
pub(super) fn relate_clocks(link: &mut Link, unit_ms: u64) {
    let unit = i128::from(unit_ms);
    let ahead = i128::from(link.own.clock_ms) - i128::from(link.theirs.clock_ms);
    // The two sides must round to the same number of opposite sign.
    let units = match link.is_dialler {
        true => (ahead + unit / 2).div_euclid(unit),
        false => -((unit / 2 - ahead).div_euclid(unit)),
    };
    link.offset = i64::try_from(units).unwrap_or(0);
}

/// The table's clock in milliseconds, and its unit.
pub(super) fn clock(table: &Table, now: u64) -> (u64, u64) {
    let shard = table.lock(0, now);
    (shard.clock_ms(), shard.clock().unit())
}
