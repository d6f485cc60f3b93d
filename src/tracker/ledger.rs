//! What a cluster wants to know of the table: what announces have changed, who has stopped, and digests
//! by which two nodes find out where they differ.
//!
//! A peer's version is the unit of its last announce and, within a unit, what was said: to have stopped
//! outdoes to seed, and that to leech. The table has no room for a node's id beside each peer, and needs
//! none: the greater version wins wherever and in whatever order versions meet, so nodes that have heard
//! the same agree. An announce that contradicts what is stored takes a later unit than that, up to
//! [`Clock::AHEAD`] units ahead of the clock, so that the last word wins within a unit too.
//!
//! Digests are kept as peers change, so that nobody walks the table to learn that it is the same
//! elsewhere: for each of 4096 ranges of info-hashes and each sixth of the timeout, the sum of a hash of
//! all peers that were last seen then. What is about to expire is left out by leaving a sixth out.

use super::clock::{Clock, LIFE, STAMP_MASK};
use super::peers::{COMPLETED, Peer, Record, Role};
use super::swarms::{Seen, Swarms, Update};
use super::torrents::{InfoHash, Torrent};
use crate::siphash::siphash24;

/// Ranges of info-hashes that have digests of their own: by the first 12 bits.
pub const BUCKETS: usize = 4096;

/// Buckets whose digests are summed up once more.
pub const ROW: usize = 64;
pub const ROWS: usize = BUCKETS / ROW;

/// Units in a sixth of the peer timeout. Stamps tell eight sixths apart.
const SIXTH: u64 = LIFE / 6;
const SIXTHS: usize = 8;

/// Changes that wait to be told. More are forgotten, counted, and left to repair.
const MOST_CHANGES: usize = 1 << 16;

/// How long it is remembered that a peer has stopped, in milliseconds.
const STOPS_MS: u64 = 300_000;

/// What one node tells another about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub info_hash: InfoHash,
    pub peer: Peer,
    pub state: State,
    /// Its completion has been counted.
    pub completed: bool,
    /// ... with this very announce.
    pub newly_completed: bool,
    /// The unit of the announce in cluster time, modulo [`Clock::STAMPS`].
    pub stamp: u8,
}

/// Greater is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Present(Role),
    Stopped,
}

/// A peer as the table has it. Greater is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Presence {
    /// Of the last announce, as the table counts.
    pub unit: u64,
    pub role: Role,
    pub completed: bool,
}

impl Presence {
    pub fn new(role: Role, tag: u8, clock: Clock) -> Presence {
        Presence {
            unit: clock.unit_of(tag),
            role,
            completed: tag & COMPLETED != 0,
        }
    }
}

/// An info-hash, a family and an address with port, in the order in which the table is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; Key::SIZE]);

impl Key {
    pub const SIZE: usize = 39;
    pub const FIRST: Key = Key([0; Key::SIZE]);
    /// Above all peers' keys.
    pub const END: Key = Key([0xff; Key::SIZE]);

    pub fn of(info_hash: &InfoHash, peer: &Peer) -> Key {
        match peer {
            Peer::V4(record) => Key::of_record(info_hash, record),
            Peer::V6(record) => Key::of_record(info_hash, record),
        }
    }

    pub fn of_record<R: Record>(info_hash: &InfoHash, record: &R) -> Key {
        let mut key = Key::start_of(info_hash);
        let endpoint = record.endpoint();
        key.0[20] = u8::from(endpoint.len() == 18);
        key.0[21..21 + endpoint.len()].copy_from_slice(endpoint);
        key
    }

    /// Not above any peer of this torrent.
    pub fn start_of(info_hash: &InfoHash) -> Key {
        let mut key = Key::FIRST;
        key.0[..20].copy_from_slice(info_hash);
        key
    }

    /// Not above any peer of this range of info-hashes or of the later ones.
    pub fn start_of_bucket(bucket: usize) -> Key {
        let mut key = Key::FIRST;
        match u16::try_from(bucket << 4) {
            Ok(start) => key.0[..2].copy_from_slice(&start.to_be_bytes()),
            Err(_) => key = Key::END,
        }
        key
    }

    pub fn info_hash(&self) -> InfoHash {
        let mut hash = [0; 20];
        hash.copy_from_slice(&self.0[..20]);
        hash
    }

    /// The endpoint as a record of this family, if the key has not passed that family.
    pub fn record<R: Record>(&self) -> Option<R> {
        let is_v6 = R::SIZE == 19;
        let mut bytes = [0; 19];
        if is_v6 == (self.0[20] != 0) {
            bytes[..18].copy_from_slice(&self.0[21..]);
        } else if !is_v6 {
            return None;
        }
        R::from_bytes(&bytes).first().copied()
    }
}

/// Which range of info-hashes this one is in.
pub fn bucket(info_hash: &InfoHash) -> usize {
    usize::from(info_hash[0]) << 4 | usize::from(info_hash[1] >> 4)
}

/// Sums of the shares of peers: of all, of rows of buckets, of buckets.
#[derive(Clone, Debug)]
struct Digests {
    all: u64,
    rows: [u64; ROWS],
    buckets: [u64; BUCKETS],
}

impl Digests {
    const NONE: Digests = Digests {
        all: 0,
        rows: [0; ROWS],
        buckets: [0; BUCKETS],
    };

    fn add(&mut self, bucket: usize, share: u64) {
        self.all = self.all.wrapping_add(share);
        let row = &mut self.rows[bucket / ROW % ROWS];
        *row = row.wrapping_add(share);
        let digest = &mut self.buckets[bucket % BUCKETS];
        *digest = digest.wrapping_add(share);
    }
}

#[derive(Debug)]
pub struct Ledger {
    key: [u64; 2],
    /// What makes cluster units of the table's; wrapping.
    pub shift: u64,
    /// Now, in cluster time.
    sixth: u64,
    /// Of each sixth.
    digests: Vec<Digests>,
    /// Set while the digests are made anew: what is at or above this is not in them yet.
    pub counted_to: Option<Key>,
    /// Stops of peers that are not in the table which clients may still send: none, but on a node that is syncing
    /// and may be told of the peer later. Without a bound, a client could flush the genuine ones.
    pub unknown_stops: u64,
    stops: Stops,
    changes: Vec<Change>,
    /// Changes that there was no room for.
    pub lost: u64,
}

impl Ledger {
    /// The key must be the same on all nodes and known to nobody else: then nobody can choose peers whose
    /// hashes cancel out.
    pub fn new(key: [u64; 2], most_stops: usize, clock: Clock, unit_ms: u64) -> Ledger {
        Ledger {
            key,
            shift: 0,
            sixth: clock.unit() / SIXTH,
            digests: vec![Digests::NONE; SIXTHS],
            counted_to: Some(Key::FIRST),
            unknown_stops: 0,
            stops: Stops::new(most_stops, STOPS_MS / unit_ms + 1, clock.unit()),
            changes: Vec::new(),
            lost: 0,
        }
    }

    /// The hash that stands for a peer of a torrent.
    pub fn fingerprint(&self, info_hash: &InfoHash, peer: &Peer) -> u64 {
        let mut message = [0; 38];
        message[..20].copy_from_slice(info_hash);
        let endpoint = peer.endpoint();
        let end = 20 + endpoint.len();
        message[20..end].copy_from_slice(endpoint);
        siphash24(self.key, &message[..end])
    }

    fn sixth_of(&self, unit: u64) -> u64 {
        unit.wrapping_add(self.shift) / SIXTH
    }

    /// The unit in cluster time, modulo [`Clock::STAMPS`].
    pub fn stamp(&self, unit: u64) -> u8 {
        unit.wrapping_add(self.shift) as u8 & STAMP_MASK
    }

    /// The sixth of the timeout that it is now, in cluster time.
    pub fn sixth(&self) -> u64 {
        self.sixth
    }

    /// A peer's share of a digest.
    fn share(&self, fingerprint: u64, presence: &Presence) -> (usize, u64) {
        let sixth = (self.sixth_of(presence.unit) % SIXTHS as u64) as usize;
        let said = (sixth as u64) << 2 | u64::from(presence.completed) << 1;
        let mut z = fingerprint ^ (said | presence.role as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (sixth, z ^ (z >> 31))
    }

    /// The share of a peer that counts: none of one in the sixth that is about to expire.
    pub fn counted_share(&self, fingerprint: u64, presence: &Presence) -> Option<u64> {
        let (sixth, share) = self.share(fingerprint, presence);
        (sixth != self.left_out()).then_some(share)
    }

    /// The sixth whose peers may have expired here and not yet there. A stamp of the one after it can
    /// only be ahead of the clock.
    fn left_out(&self) -> usize {
        (self.sixth.wrapping_sub(6) % SIXTHS as u64) as usize
    }

    /// A peer has changed: takes what was known out of the digests and puts in what is.
    pub fn count(
        &mut self,
        info_hash: &InfoHash,
        peer: &Peer,
        fingerprint: u64,
        before: Option<Presence>,
        after: Option<Presence>,
    ) {
        let counted_to = self.counted_to.as_ref();
        if counted_to.is_some_and(|end| Key::of(info_hash, peer) >= *end) {
            return;
        }
        let bucket = bucket(info_hash);
        if let Some(before) = before {
            let (sixth, share) = self.share(fingerprint, &before);
            self.digests[sixth].add(bucket, share.wrapping_neg());
        }
        if let Some(after) = after {
            let (sixth, share) = self.share(fingerprint, &after);
            self.digests[sixth].add(bucket, share);
        }
    }

    /// The clock has come to this unit. Nobody is left in the sixth that stamps will name next, so its
    /// digests begin anew; peers that expire need not be taken out one by one.
    pub fn advance(&mut self, unit: u64) {
        self.stops.now = unit;
        let now = self.sixth_of(unit);
        let passed = now.wrapping_sub(self.sixth).min(SIXTHS as u64);
        self.sixth = now;
        for ago in 0..passed {
            let next = (now.wrapping_sub(ago).wrapping_add(1) % SIXTHS as u64) as usize;
            self.digests[next] = Digests::NONE;
        }
    }

    /// Relates the table's units to those of the cluster; all is to be counted again.
    pub fn set_shift(&mut self, shift: u64, unit: u64) {
        self.shift = shift;
        self.sixth = self.sixth_of(unit);
        self.count_again();
    }

    /// Peers that had not expired have gone without being counted out: the digests are made anew.
    pub fn count_again(&mut self) {
        self.digests.fill(Digests::NONE);
        self.counted_to = Some(Key::FIRST);
    }

    fn sum(&self, part: impl Fn(&Digests) -> u64) -> u64 {
        let left_out = self.left_out();
        let sixths = self.digests.iter().enumerate();
        let counted = sixths.filter(|(sixth, _)| *sixth != left_out);
        counted.fold(0, |sum, (_, digests)| sum.wrapping_add(part(digests)))
    }

    /// The digest of one of the [`BUCKETS`].
    pub fn digest(&self, bucket: usize) -> u64 {
        self.sum(|digests| digests.buckets.get(bucket).copied().unwrap_or(0))
    }

    /// The digest of one of the [`ROWS`].
    pub fn row_digest(&self, row: usize) -> u64 {
        self.sum(|digests| digests.rows.get(row).copied().unwrap_or(0))
    }

    /// The digest of everything; none while it is made anew.
    pub fn whole_digest(&self) -> Option<u64> {
        let is_counted = self.counted_to.is_none();
        is_counted.then(|| self.sum(|digests| digests.all))
    }

    fn tell(&mut self, change: Change) {
        if self.changes.len() < MOST_CHANGES {
            self.changes.push(change);
        } else {
            self.lost += 1;
        }
    }

    /// Changes that are to be told; they are handed over once.
    pub fn take_changes(&mut self, to: &mut Vec<Change>) {
        to.append(&mut self.changes);
    }

    /// Does with a peer that announced here what [`Swarms::update`] does, and notes what is to be told.
    pub fn update(
        &mut self,
        swarms: &mut Swarms,
        torrent: &mut Torrent,
        peer: Peer,
        update: Update,
        clock: Clock,
    ) -> Option<Seen> {
        let fingerprint = self.fingerprint(&torrent.info_hash, &peer);
        let found = swarms.find(&mut torrent.peers, peer, update.role);
        let stored = found.as_ref().map(|found| (found.role, *found.tag));
        let before = stored.map(|(role, tag)| Presence::new(role, tag, clock));
        let contradicted = match before {
            Some(before) if before.role == update.role => before.unit,
            Some(before) => before.unit + 1,
            None => self.stops.get(fingerprint).map_or(0, |stop| stop + 1),
        };
        let last = clock.unit() + u64::from(Clock::AHEAD) - 1;
        let unit = clock.unit().max(contradicted.min(last));
        let then = Clock::at(unit);
        let seen = match found {
            Some(found) if found.role == update.role => found.renew(update.completed, then),
            _ => swarms.update(&mut torrent.peers, peer, update, then)?,
        };
        let after = Presence {
            unit,
            role: update.role,
            completed: update.completed || before.is_some_and(|before| before.completed),
        };
        // Who has expired without being swept away yet is new to the others.
        let before = before.filter(|_| stored.is_some_and(|(_, tag)| !clock.expired(tag)));
        self.count(&torrent.info_hash, &peer, fingerprint, before, Some(after));
        let is_news = before.is_none_or(|before| {
            before.role != after.role
                || before.completed != after.completed
                || self.sixth_of(before.unit) != self.sixth_of(unit)
        });
        if is_news {
            self.tell(Change {
                info_hash: torrent.info_hash,
                peer,
                state: State::Present(after.role),
                completed: after.completed,
                newly_completed: seen.newly_completed,
                stamp: self.stamp(unit),
            });
        }
        Some(seen)
    }

    /// Notes that a peer has stopped that was known as this. A stop of an unknown peer counts only where others
    /// may know it: see [`Ledger::unknown_stops`].
    pub fn stop(
        &mut self,
        info_hash: &InfoHash,
        peer: Peer,
        before: Option<Presence>,
        clock: Clock,
    ) {
        if before.is_none() {
            let Some(left) = self.unknown_stops.checked_sub(1) else {
                return;
            };
            self.unknown_stops = left;
        }
        let fingerprint = self.fingerprint(info_hash, &peer);
        let unit = before.map_or(0, |before| before.unit).max(clock.unit());
        self.count(info_hash, &peer, fingerprint, before, None);
        self.stops.put(fingerprint, unit);
        self.tell(Change {
            info_hash: *info_hash,
            peer,
            state: State::Stopped,
            completed: false,
            newly_completed: false,
            stamp: self.stamp(unit),
        });
    }

    /// When the peer stopped, if it is remembered.
    pub fn stopped(&self, fingerprint: u64) -> Option<u64> {
        self.stops.get(fingerprint)
    }

    pub fn remember_stop(&mut self, fingerprint: u64, unit: u64) {
        self.stops.put(fingerprint, unit);
    }

    /// Visits the stops from this place of the ring on, about so many; where to go on, if there are more.
    pub fn visit_stops(
        &self,
        from: usize,
        budget: usize,
        visit: &mut dyn FnMut(u64, u64),
    ) -> Option<usize> {
        let stops = &self.stops;
        let end = from
            .saturating_add(budget.div_ceil(4))
            .min(stops.sets.len());
        for &[fingerprint, unit] in stops.sets.get(from..end).unwrap_or_default().as_flattened() {
            if unit > 0 && stops.get(fingerprint) == Some(unit) {
                visit(fingerprint, unit);
            }
        }
        (end < stops.sets.len()).then_some(end)
    }
}

/// Who has stopped lately: a table of bounded size in which the oldest of four gives way.
#[derive(Debug)]
struct Stops {
    /// Of arrays, for which the system gives pages of zeros that take no memory until one is written to.
    sets: Vec<[Stop; 4]>,
    keep: u64,
    now: u64,
}

/// A peer's fingerprint, and the unit in which it stopped.
type Stop = [u64; 2];

impl Stops {
    fn new(most: usize, keep: u64, now: u64) -> Stops {
        Stops {
            sets: vec![[[0; 2]; 4]; (most / 4).max(1)],
            keep,
            now,
        }
    }

    fn set(&self, fingerprint: u64) -> usize {
        (fingerprint % self.sets.len() as u64) as usize
    }

    fn get(&self, fingerprint: u64) -> Option<u64> {
        let set = self.sets.get(self.set(fingerprint))?;
        let [_, unit] = *set.iter().find(|[of, _]| *of == fingerprint)?;
        (self.now.saturating_sub(unit) <= self.keep).then_some(unit)
    }

    fn put(&mut self, fingerprint: u64, unit: u64) {
        let set = self.set(fingerprint);
        let Some(set) = self.sets.get_mut(set) else {
            return;
        };
        let known = set.iter_mut().find(|[of, _]| *of == fingerprint);
        match known {
            Some([_, stopped]) => *stopped = unit.max(*stopped),
            None => {
                if let Some(oldest) = set.iter_mut().min_by_key(|[_, unit]| *unit) {
                    *oldest = [fingerprint, unit];
                }
            }
        }
    }
}
