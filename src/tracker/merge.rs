//! What one node of a cluster has, taken as a whole by another that joins: in units of cluster time, with
//! the downloaded counts and with whoever has stopped lately.

use super::clock::{Clock, LIFE};
use super::ledger::{Change, Key, Ledger, State};
use super::swarms::Peers;
use super::{Hint, InfoHash, Tracker};

impl Tracker {
    /// The unit that it is now, in cluster time; none outside of a cluster.
    pub fn cluster_unit(&self) -> Option<u64> {
        let ledger = self.ledger.as_deref()?;
        Some(self.clock.unit().wrapping_add(ledger.shift))
    }

    /// Units from the announce of this tag to the last that a stamp can name, which is [`Clock::AHEAD`]
    /// units ahead; none if it has expired.
    pub fn age_from_ahead(&self, tag: u8) -> Option<u8> {
        let age = self.clock.age_from_ahead(tag);
        (u64::from(age) <= LIFE + u64::from(Clock::AHEAD)).then_some(age)
    }

    /// Takes over how often a torrent was downloaded, by maximum, and since when it is without peers if
    /// it is. One that is not known is remembered if there is something to remember and room for it.
    pub fn merge_memory(&mut self, info_hash: &InfoHash, downloaded: u32, empty_for: u32) {
        let known = self.torrents.find(info_hash);
        let Some(torrent) = known.ok().and_then(|at| self.torrents.get_mut(at)) else {
            if downloaded > 0 {
                self.restore_memory(info_hash, downloaded, empty_for);
            }
            return;
        };
        torrent.downloaded = torrent.downloaded.max(downloaded);
        if let Peers::Empty(since) = &mut torrent.peers {
            *since = (*since).max(self.now.saturating_sub(empty_for));
        }
    }

    /// Visits who has stopped lately, from this place in the ring on: fingerprints, and the unit of cluster
    /// time. After about `budget` places tells where to go on; none if that was all.
    pub fn stops(
        &self,
        from: usize,
        budget: usize,
        visit: &mut dyn FnMut(u64, u64),
    ) -> Option<usize> {
        let ledger = self.ledger.as_deref()?;
        ledger.visit_stops(from, budget, &mut |fingerprint, unit| {
            visit(fingerprint, unit.wrapping_add(ledger.shift));
        })
    }

    /// Remembers that somebody has stopped in this unit of cluster time. Whether the table still has it is
    /// for [`Tracker::drop_stopped`] to find.
    pub fn merge_stop(&mut self, fingerprint: u64, unit: u64) {
        if let Some(ledger) = &mut self.ledger {
            ledger.remember_stop(fingerprint, unit.wrapping_sub(ledger.shift));
        }
    }

    /// Drops the peers from this key on that have not announced since they stopped. After about `budget`
    /// peers tells where to go on; none if that was all.
    pub fn drop_stopped(&mut self, from: &Key, budget: usize) -> Option<Key> {
        let ledger = self.ledger.as_deref()?;
        let mut stopped = Vec::new();
        let next = self.range(from, &Key::END, budget, &mut |item| {
            stopped.extend(stop_of(ledger, item));
        });
        for change in &stopped {
            self.apply(change, Hint::default());
        }
        next
    }
}

fn stop_of(ledger: &Ledger, item: &super::Item) -> Option<Change> {
    let fingerprint = ledger.fingerprint(&item.info_hash, &item.peer);
    let unit = ledger.stopped(fingerprint)?;
    (unit >= item.presence.unit).then(|| Change {
        info_hash: item.info_hash,
        peer: item.peer,
        state: State::Stopped,
        completed: false,
        newly_completed: false,
        stamp: ledger.stamp(unit),
    })
}
