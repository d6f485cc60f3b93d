//! The table as a cluster sees it: what other nodes tell is applied here, ranges of it are walked in the
//! order of keys, and its clock is set to cluster time.

use super::clock::{Clock, LIFE, STAMP_MASK};
use super::ledger::{Change, Key, Ledger, Presence, State};
use super::peers::{Peer, Record, Role, V4, V6};
use super::swarms::{Peers, Update};
use super::torrents::{InfoHash, Position, Torrent};
use super::{Hint, Tracker};

/// What became of a change that another node told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was news.
    Changed,
    /// As new a version, or a newer one, was known.
    Known,
    /// The peer has stopped later, with this stamp.
    Stopped(u8),
    /// Its stamp has expired, or is too far ahead.
    Stale,
    /// There is no room for the peer.
    NoRoom,
}

/// How often a torrent was downloaded, and for how many seconds it has had no peers: 0 if it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloads {
    pub info_hash: InfoHash,
    pub downloaded: u32,
    pub idle: u32,
}

/// Torrents that have had no peers for longer than this many seconds may be forgotten before others hear of
/// them.
const MOST_IDLE: u32 = super::KEEP_EMPTY - 3600;

/// A peer that a walk meets.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub info_hash: InfoHash,
    pub peer: Peer,
    pub presence: Presence,
}

impl Tracker {
    /// From now on notes what announces change. The key is shared by the cluster; stops are remembered
    /// for five minutes, `most_stops` of them at most, at 16 bytes each.
    pub fn join_cluster(&mut self, key: [u64; 2], most_stops: usize) {
        let ledger = Ledger::new(key, most_stops, self.clock, self.unit_ms);
        self.ledger = Some(Box::new(ledger));
    }

    /// None outside of a cluster.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// Lets clients stop so many more peers that are not in the table, up to `most`.
    pub fn allow_unknown_stops(&mut self, more: u64, most: u64) {
        if let Some(ledger) = &mut self.ledger {
            ledger.unknown_stops = ledger.unknown_stops.saturating_add(more).min(most);
        }
    }

    /// What has changed and is to be told to others.
    pub fn take_changes(&mut self, to: &mut Vec<Change>) {
        if let Some(ledger) = &mut self.ledger {
            ledger.take_changes(to);
        }
    }

    /// Relates the table's clock to cluster time, in milliseconds, as of the last [`Tracker::advance`].
    ///
    /// A small correction moves the clock, or lets it stand for a moment. After a large one ages stay as
    /// they are and stamps mean something else than before, unless time has passed for the table too.
    pub fn set_cluster_time(&mut self, cluster_ms: u64, has_passed: bool) {
        if let Some(decoys) = &mut self.decoys {
            let passed = self.now.saturating_sub(super::KEEP_EMPTY);
            decoys.set_start((cluster_ms / 1000).saturating_sub(passed.into()));
        }
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let shifted = u128::from(self.clock.true_unit().wrapping_add(ledger.shift));
        let into = u128::from(self.now_ms % self.unit_ms);
        let reading = shifted * u128::from(self.unit_ms) + into;
        let unit = i128::from(self.unit_ms);
        // Both are below 2^127 by far.
        let off = i128::from(cluster_ms) - i128::try_from(reading).unwrap_or(i128::MAX);
        let (moved, shift) = match off {
            _ if off.abs() < 2 * unit || has_passed && off > 0 => (off, 0),
            _ => (off.rem_euclid(unit), off.div_euclid(unit)),
        };
        if let (Ok(shift), true) = (i64::try_from(shift), shift != 0) {
            let shift = ledger.shift.wrapping_add_signed(shift);
            ledger.set_shift(shift, self.clock.unit());
        }
        let moved = i64::try_from(moved).unwrap_or(0);
        self.ahead_ms = self.ahead_ms.saturating_add(moved);
        self.move_to(self.now_ms.saturating_add_signed(moved));
    }

    /// Makes the digests anew, about so many peers of it; whether they are whole.
    pub fn count_on(&mut self, budget: usize) -> bool {
        let Some(mut ledger) = self.ledger.take() else {
            return true;
        };
        if let Some(from) = ledger.counted_to.take() {
            let next = self.range(&from, &Key::END, budget, &mut |item| {
                let fingerprint = ledger.fingerprint(&item.info_hash, &item.peer);
                let presence = Some(item.presence);
                ledger.count(&item.info_hash, &item.peer, fingerprint, None, presence);
            });
            ledger.counted_to = next;
        }
        let is_whole = ledger.counted_to.is_none();
        self.ledger = Some(ledger);
        is_whole
    }

    /// The peer that a change is about: its fingerprint, and its share of digests if it counts.
    pub fn share_of(&self, change: &Change) -> Option<(u64, Option<u64>)> {
        let ledger = self.ledger.as_deref()?;
        let fingerprint = ledger.fingerprint(&change.info_hash, &change.peer);
        let State::Present(role) = change.state else {
            return Some((fingerprint, None));
        };
        let presence = Presence {
            unit: self.unit_of(ledger, change.stamp),
            role,
            completed: change.completed,
        };
        let share = ledger.counted_share(fingerprint, &presence);
        Some((fingerprint, share))
    }

    /// What others are told of a peer that a walk met.
    pub fn change_of(&self, item: &Item) -> Option<Change> {
        let ledger = self.ledger.as_deref()?;
        Some(Change {
            info_hash: item.info_hash,
            peer: item.peer,
            state: State::Present(item.presence.role),
            completed: item.presence.completed,
            newly_completed: false,
            stamp: ledger.stamp(item.presence.unit),
        })
    }

    fn unit_of(&self, ledger: &Ledger, stamp: u8) -> u64 {
        let tag = stamp.wrapping_sub(ledger.shift as u8) & STAMP_MASK;
        self.clock.unit_of(tag)
    }

    /// Whether a change was announced a few units ago at most: two minutes, with the usual timeout.
    pub fn is_recent(&self, change: &Change) -> bool {
        let ledger = self.ledger.as_deref();
        let unit = ledger.map_or(0, |ledger| self.unit_of(ledger, change.stamp));
        self.clock.unit().saturating_sub(unit) <= 4
    }

    /// The stamp with which what is said of a peer now outdoes what was said of it before, as it does when
    /// the peer announces here.
    pub fn stamp_now(&self, change: &Change) -> u8 {
        let Some(ledger) = self.ledger.as_deref() else {
            return 0;
        };
        let now = self.clock.unit();
        let at = self.torrents.find(&change.info_hash).ok();
        let torrent = at.and_then(|at| self.torrents.get(at));
        let stored = torrent.and_then(|torrent| self.swarms.get(&torrent.peers, change.peer));
        let stored = stored.map(|(role, tag)| Presence::new(role, tag, self.clock));
        let last = now + u64::from(Clock::AHEAD) - 1;
        let contradicted = match (change.state, stored) {
            (State::Stopped, stored) => stored.map_or(0, |stored| stored.unit),
            (State::Present(role), Some(stored)) if stored.role == role => stored.unit.min(last),
            (State::Present(_), Some(stored)) => (stored.unit + 1).min(last),
            (State::Present(_), None) => {
                let stop = ledger.stopped(ledger.fingerprint(&change.info_hash, &change.peer));
                stop.map_or(0, |stop| stop + 1).min(last)
            }
        };
        ledger.stamp(now.max(contradicted))
    }

    /// Applies what another node told, if it is newer than what is known.
    pub fn apply(&mut self, change: &Change, hint: Hint) -> Applied {
        let Some(ledger) = self.ledger.as_deref() else {
            return Applied::Stale;
        };
        let clock = self.clock;
        let unit = self.unit_of(ledger, change.stamp);
        if clock.unit().saturating_sub(unit) > LIFE {
            return Applied::Stale;
        }
        let fingerprint = ledger.fingerprint(&change.info_hash, &change.peer);
        let at = self.torrents.find_near(&change.info_hash, hint.at);
        let first = match change.state {
            State::Present(role) => role,
            State::Stopped => Role::Leecher,
        };
        let torrent = at.ok().and_then(|at| self.torrents.get_mut(at));
        let found = torrent.and_then(|t| self.swarms.find(&mut t.peers, change.peer, first));
        let stored = found.as_ref().map(|found| (found.role, *found.tag));
        let known = stored.filter(|(_, tag)| !clock.expired(*tag));
        let before = known.map(|(role, tag)| Presence::new(role, tag, clock));
        // Of a peer that is here, all stops are older than its stamp.
        let stop = match before {
            None => ledger.stopped(fingerprint).filter(|stop| *stop >= unit),
            Some(_) => None,
        };
        let role = match (change.state, stop) {
            (State::Present(role), None) => role,
            (State::Present(_), Some(stop)) => return Applied::Stopped(ledger.stamp(stop)),
            (State::Stopped, Some(_)) => return Applied::Known,
            (State::Stopped, None) => {
                return self.apply_stop(at.ok(), change, fingerprint, unit, before);
            }
        };
        // An expired peer keeps its mark until it is swept away.
        let was_completed = stored.is_some_and(|(_, tag)| tag & super::COMPLETED != 0);
        let completed = change.completed || was_completed;
        let told = Presence {
            unit,
            role,
            completed,
        };
        let after = match before {
            Some(before) if (before.unit, before.role) >= (unit, role) => Presence {
                completed,
                ..before
            },
            _ => told,
        };
        if before == Some(after) {
            return Applied::Known;
        }
        match found {
            // Of a completion that is news to the table, and of it alone, the torrent's count may go up.
            Some(found) if found.role == after.role && after.completed == was_completed => {
                found.renew(after.completed, Clock::at(after.unit));
            }
            _ => return self.apply_presence(at, change, fingerprint, before, after),
        }
        if let Some(ledger) = &mut self.ledger {
            let (hash, peer) = (&change.info_hash, &change.peer);
            ledger.count(hash, peer, fingerprint, before, Some(after));
        }
        Applied::Changed
    }

    fn apply_stop(
        &mut self,
        at: Option<Position>,
        change: &Change,
        fingerprint: u64,
        unit: u64,
        before: Option<Presence>,
    ) -> Applied {
        let Some(ledger) = &mut self.ledger else {
            return Applied::Stale;
        };
        if before.is_some_and(|before| before.unit > unit) {
            return Applied::Known;
        }
        ledger.remember_stop(fingerprint, unit);
        let (Some(at), Some(_)) = (at, before) else {
            return Applied::Changed;
        };
        ledger.count(&change.info_hash, &change.peer, fingerprint, before, None);
        self.remove(at, change.peer);
        Applied::Changed
    }

    fn apply_presence(
        &mut self,
        at: Result<Position, Position>,
        change: &Change,
        fingerprint: u64,
        before: Option<Presence>,
        after: Presence,
    ) -> Applied {
        let room = self.has_room();
        let at = match at {
            Ok(at) => at,
            Err(_) if !room || self.all_torrents() >= self.limits.max_torrents => {
                return Applied::NoRoom;
            }
            Err(at) => self.torrents.insert(
                at,
                Torrent {
                    info_hash: change.info_hash,
                    downloaded: 0,
                    peers: Peers::Empty(self.now),
                },
            ),
        };
        let Some(torrent) = self.torrents.get_mut(at) else {
            return Applied::NoRoom;
        };
        let update = Update {
            role: after.role,
            completed: after.completed,
            room,
        };
        let then = Clock::at(after.unit);
        let peers = &mut torrent.peers;
        let Some(seen) = self.swarms.update(peers, change.peer, update, then) else {
            return Applied::NoRoom;
        };
        if seen.newly_completed && change.newly_completed {
            torrent.downloaded = torrent.downloaded.saturating_add(1);
        }
        if let Some(ledger) = &mut self.ledger {
            let (hash, peer) = (&change.info_hash, &change.peer);
            ledger.count(hash, peer, fingerprint, before, Some(after));
        }
        Applied::Changed
    }

    /// Whether this raises a count, or is of a torrent that is not known and that there is room for.
    pub fn is_greater(&self, downloads: &Downloads) -> bool {
        let at = self.torrents.find(&downloads.info_hash);
        match at.ok().and_then(|at| self.torrents.get(at)) {
            Some(torrent) => downloads.downloaded > torrent.downloaded,
            None => downloads.idle <= MOST_IDLE && !self.is_crowded(),
        }
    }

    /// Downloaded counts merge by maximum, and so does the time from which on a torrent has had no peers.
    pub fn raise_downloaded(&mut self, downloads: &Downloads) {
        let Downloads {
            info_hash,
            downloaded,
            idle,
        } = *downloads;
        let since = self.now.saturating_sub(idle);
        if !self.is_greater(downloads) {
            return;
        }
        match self.torrents.find(&info_hash) {
            Ok(at) => {
                if let Some(torrent) = self.torrents.get_mut(at) {
                    torrent.downloaded = downloaded;
                    if let Peers::Empty(ours) = &mut torrent.peers {
                        *ours = since.max(*ours);
                    }
                }
            }
            Err(at) => {
                let peers = Peers::Empty(since);
                self.torrents.insert(
                    at,
                    Torrent {
                        info_hash,
                        downloaded,
                        peers,
                    },
                );
            }
        }
    }

    /// Visits the counts of torrents from this info-hash on and below that one, in order, until `visit` says
    /// false or so many torrents have been looked at; tells where to go on, none if that was all. What is
    /// about to be forgotten is left out.
    pub fn tallies(
        &self,
        from: &InfoHash,
        end: &InfoHash,
        most: usize,
        visit: &mut dyn FnMut(&Downloads) -> bool,
    ) -> Option<InfoHash> {
        let (mut next, mut left, mut goes_on) = (*from, most, true);
        loop {
            let at = self.torrents.find(&next).unwrap_or_else(|at| at);
            for torrent in self.torrents.rest_of_chunk(at) {
                if torrent.info_hash >= *end {
                    return None;
                }
                if left == 0 || !goes_on {
                    return Some(torrent.info_hash);
                }
                left -= 1;
                let idle = match torrent.peers {
                    Peers::Empty(since) => self.now.saturating_sub(since),
                    _ => 0,
                };
                if torrent.downloaded > 0 && idle <= MOST_IDLE {
                    goes_on = visit(&Downloads {
                        info_hash: torrent.info_hash,
                        downloaded: torrent.downloaded,
                        idle,
                    });
                }
            }
            // Forwards in any case, so that no mistake in the table could make a walk endless.
            next = self.torrents.next_fence(at).filter(|fence| *fence > next)?;
        }
    }

    /// Visits the peers from this key on and below that one, in order, without those that have expired.
    /// After about `budget` peers and torrents tells where to go on; none if that was all.
    pub fn range(
        &self,
        from: &Key,
        end: &Key,
        budget: usize,
        visit: &mut dyn FnMut(&Item),
    ) -> Option<Key> {
        self.visit_range(from, end, budget, &mut 0, visit)
    }

    /// The same within a budget for several walks, of which it takes what this one costs.
    pub fn range_within(
        &self,
        from: &Key,
        end: &Key,
        left: &mut usize,
        visit: &mut dyn FnMut(&Item),
    ) -> Option<Key> {
        let mut spent = 1;
        let next = self.visit_range(from, end, *left, &mut spent, visit);
        *left = left.saturating_sub(spent);
        next
    }

    fn visit_range(
        &self,
        from: &Key,
        end: &Key,
        budget: usize,
        spent: &mut usize,
        visit: &mut dyn FnMut(&Item),
    ) -> Option<Key> {
        let mut from = *from;
        loop {
            let hash = from.info_hash();
            let at = self.torrents.find(&hash).unwrap_or_else(|at| at);
            for torrent in self.torrents.rest_of_chunk(at) {
                from = from.max(Key::start_of(&torrent.info_hash));
                if from >= *end {
                    return None;
                }
                if *spent > budget {
                    return Some(from);
                }
                *spent += 1;
                let stopped = self.range_of(torrent, &from, end, spent, budget, visit);
                if stopped.is_some() {
                    return stopped.filter(|key| key < end);
                }
            }
            // Forwards in any case, so that no mistake in the table could make a walk endless.
            let fence = self.torrents.next_fence(at).filter(|fence| *fence > hash)?;
            from = Key::start_of(&fence);
        }
    }

    /// The same for one torrent; tells where it stopped.
    fn range_of(
        &self,
        torrent: &Torrent,
        from: &Key,
        end: &Key,
        spent: &mut usize,
        budget: usize,
        visit: &mut dyn FnMut(&Item),
    ) -> Option<Key> {
        let hash = &torrent.info_hash;
        let mut stopped = None;
        let mut meet = |key: Key, peer: Peer, role, tag| {
            if key >= *end || *spent > budget {
                stopped = Some(key);
                return false;
            }
            *spent += 1;
            if !self.clock.expired(tag) {
                let presence = Presence::new(role, tag, self.clock);
                visit(&Item {
                    info_hash: *hash,
                    peer,
                    presence,
                });
            }
            true
        };
        let (swarms, peers) = (&self.swarms, &torrent.peers);
        let goes_on = from.record::<V4>().is_none_or(|first| {
            swarms.in_order::<V4>(peers, first.key(), &mut |role, record| {
                let mut peer = *record;
                peer.set_tag(0);
                let key = Key::of_record(hash, record);
                meet(key, Peer::V4(peer), role, record.tag())
            })
        });
        if !goes_on {
            return stopped;
        }
        if let Some(first) = from.record::<V6>() {
            swarms.in_order::<V6>(peers, first.key(), &mut |role, record| {
                let mut peer = *record;
                peer.set_tag(0);
                let key = Key::of_record(hash, record);
                meet(key, Peer::V6(peer), role, record.tag())
            });
        }
        stopped
    }
}

#[cfg(test)]
mod tests;
