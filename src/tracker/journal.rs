//! A shard as a node of a cluster sees it: what it notes for the other nodes, and how it applies what they send.
//!
//! The state of a peer has a version: the unit of its last announce, then its state, of which stopped is the
//! strongest and leecher the weakest. The later version wins wherever it comes from and whenever it arrives. An
//! announce that contradicts what is stored or remembered takes the next unit, at most [`Clock::AHEAD`] units ahead
//! of the clock, so that the last word wins within a unit too. A stop is a version as well: it is remembered for five
//! minutes, so that an older record does not bring the peer back.
//!
//! Announces that the other nodes have to know at once go into the [`Journal`], which the cluster empties some ten
//! times a second. An announce that renews a peer costs one comparison.

use super::clock::{Clock, LIFE};
use super::peer::{COMPLETED, InfoHash, LOCAL, Peer, Role};
use super::swarms::{Peers, Seen};
use super::torrents::{Position, Torrent};
use super::{Hint, Table, Tracker};
use crate::base::siphash::siphash24;

/// How long a stop is remembered.
pub const STOP_MS: u64 = 300_000;

/// Units after its last announce from which a renewal is news: the walk would reach the other nodes too late.
pub const LATE: u8 = 36;

/// A peer's state, the stronger the later in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    Present(Role),
    Stopped,
}

/// The state of a peer of a torrent, as nodes send it to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub peer: Peer,
    pub state: PeerState,
    /// Its completion was counted.
    pub completed: bool,
    /// Of the announce, by the table's own clock.
    pub unit: u64,
}

/// An announce that the other nodes have to know at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    pub info_hash: InfoHash,
    /// If it is marked as completed, the torrent's count went up by one with this announce.
    pub record: Record,
    /// Units since the last announce, if this only renews the peer.
    pub renews: Option<u8>,
}

impl News {
    /// Whether it must reach the other nodes exactly once, or never be overtaken by an older record.
    pub fn is_event(&self) -> bool {
        self.record.completed || self.record.state == PeerState::Stopped
    }
}

/// The bounds of a [`Journal`].
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    pub stops: usize,
    pub news: usize,
    /// Units after the last announce from which a renewal is noted.
    pub renewals_from: u8,
}

/// News that was not kept because nothing emptied the journal in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    #[default]
    Nothing,
    /// A pass over the table makes good for it.
    Peers,
    /// Perhaps others too.
    Events,
}

/// News for the other nodes, and the stops that are remembered. There is none without a cluster.
#[derive(Debug)]
pub struct Journal {
    limits: JournalLimits,
    news: Vec<News>,
    lost: Lost,
    stops: Stops,
    /// Stops of unknown peers that may still be noted.
    unknown_stops: u32,
}

/// Stops and completions that a node remembers at most.
pub fn max_events(max_peers: usize) -> usize {
    (max_peers / 64).max(1 << 17)
}

/// News that waits at most, in all shards and in a single one.
const MAX_NEWS: usize = 1 << 17;
const MIN_NEWS: usize = 4096;

impl Journal {
    /// Whether an announce has to be noted, or its stamp corrected. False for nearly all.
    pub(super) fn is_notable(&self, seen: Seen, role: Role, clock: Clock) -> bool {
        let Some((before, tag)) = seen.before else {
            return true;
        };
        let age = clock.age_from_ahead(tag);
        before != role
            || seen.newly_completed
            || age < Clock::AHEAD
            || age >= Clock::AHEAD.saturating_add(self.limits.renewals_from)
    }

    /// The unit of an announce of now that leaves a peer in this state: not before what it contradicts.
    fn unit_for(
        &self,
        clock: Clock,
        info_hash: &InfoHash,
        peer: &Peer,
        state: PeerState,
        stored: Option<(Role, u8)>,
    ) -> u64 {
        let contradicted = match (state, stored) {
            (PeerState::Present(Role::Leecher), Some((Role::Seeder, tag))) => {
                clock.unit_of(tag) + 1
            }
            (_, Some((_, tag))) => clock.unit_of(tag),
            (PeerState::Present(_), None) => {
                let stop = self.stops.get(info_hash, peer, clock, clock.unit());
                stop.map_or(0, |stop| stop + 1)
            }
            (PeerState::Stopped, None) => 0,
        };
        clock.unit().max(clock.nearest(contradicted))
    }

    /// Events have twice the room.
    fn note(&mut self, news: News) {
        let (times, lost) = match news.is_event() {
            true => (2, Lost::Events),
            false => (1, Lost::Peers),
        };
        let has_room = self.news.len() < self.limits.news.saturating_mul(times);
        match has_room && self.news.try_reserve(1).is_ok() {
            true => self.news.push(news),
            false => self.lost = self.lost.max(lost),
        }
    }
}

impl Table {
    /// From now on notes news for other nodes, and renewals if they come so many units after the last announce. `key`
    /// is the secret key of the stops' hash.
    pub fn join_cluster(&self, key: [u64; 2], max_peers: usize, renewals_from: u8, now_ms: u64) {
        let limits = JournalLimits {
            stops: max_events(max_peers) / self.shards(),
            news: (MAX_NEWS / self.shards()).max(MIN_NEWS),
            renewals_from,
        };
        self.each(now_ms, &mut |tracker| tracker.join_cluster(key, limits));
    }
}

impl Tracker {
    pub(super) fn join_cluster(&mut self, key: [u64; 2], limits: JournalLimits) {
        let journal = Journal {
            limits,
            news: Vec::new(),
            lost: Lost::Nothing,
            stops: Stops::new(key, limits.stops, STOP_MS.div_ceil(self.unit_ms)),
            unknown_stops: 0,
        };
        self.journal = Some(Box::new(journal));
    }

    /// Moves the news to `into`. Returns which was lost since the last call.
    pub fn take_news(&mut self, into: &mut Vec<News>) -> Lost {
        let Some(journal) = &mut self.journal else {
            return Lost::Nothing;
        };
        // Without the room that a burst took.
        into.append(&mut std::mem::take(&mut journal.news));
        std::mem::take(&mut journal.lost)
    }

    /// Lets clients stop so many peers that are not in the table from now on.
    pub fn allow_unknown_stops(&mut self, count: u32) {
        if let Some(journal) = &mut self.journal {
            journal.unknown_stops = count;
        }
    }

    /// The table's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The table's clock in milliseconds, of which unit 0 began at 0.
    pub fn clock_ms(&self) -> u64 {
        self.now_ms
    }

    /// Moves the table's clock on.
    pub fn move_clock(&mut self, ms: u64) {
        self.ahead_ms = self.ahead_ms.saturating_add_unsigned(ms);
        self.move_to(self.now_ms.saturating_add(ms));
    }

    /// Notes an announce that [`Journal::is_notable`], and gives it a version that outdoes what it contradicts.
    #[cold]
    pub(super) fn note_announce(&mut self, at: Position, peer: Peer, role: Role, seen: Seen) {
        let clock = self.clock;
        let (Some(torrent), Some(journal)) = (self.torrents.get_mut(at), &mut self.journal) else {
            return;
        };
        // An expired peer that was not swept away yet is new to the others.
        let before = seen.before.filter(|(_, tag)| !clock.expired(*tag));
        let state = PeerState::Present(role);
        let unit = journal.unit_for(clock, &torrent.info_hash, &peer, state, before);
        if unit != clock.unit() {
            if let Some((_, tag)) = self.swarms.find(&mut torrent.peers, peer, role) {
                *tag = Clock::at(unit).stamp() | *tag & (COMPLETED | LOCAL);
            }
        }
        let renews = before.filter(|(before, _)| *before == role && !seen.newly_completed);
        let renews = renews.map(|(_, tag)| clock.age(tag));
        if renews.is_none_or(|age| age >= journal.limits.renewals_from) {
            journal.note(News {
                info_hash: torrent.info_hash,
                record: Record {
                    peer,
                    state,
                    completed: seen.newly_completed,
                    unit,
                },
                renews,
            });
        }
    }

    /// Notes that a client has stopped. A peer that is not in the table is ignored, beyond what
    /// [`Tracker::allow_unknown_stops`] allows: anybody could invent such peers and displace the stops that are
    /// remembered.
    pub(super) fn note_stop(&mut self, at: Option<Position>, info_hash: &InfoHash, peer: Peer) {
        let clock = self.clock;
        if self.journal.is_none() {
            return;
        }
        let stored = self.living(at, peer);
        let Some(journal) = &mut self.journal else {
            return;
        };
        if stored.is_none() {
            let Some(left) = journal.unknown_stops.checked_sub(1) else {
                return;
            };
            journal.unknown_stops = left;
        }
        let unit = journal.unit_for(clock, info_hash, &peer, PeerState::Stopped, stored);
        journal.stops.put(info_hash, &peer, unit);
        journal.note(News {
            info_hash: *info_hash,
            record: Record {
                peer,
                state: PeerState::Stopped,
                completed: false,
                unit,
            },
            renews: None,
        });
    }

    /// The role and the tag of a peer that is stored.
    fn stored_peer(&mut self, at: Option<Position>, peer: Peer) -> Option<(Role, &mut u8)> {
        let torrent = self.torrents.get_mut(at?)?;
        self.swarms.find(&mut torrent.peers, peer, Role::Seeder)
    }

    /// The same of a peer that has not expired.
    fn living(&mut self, at: Option<Position>, peer: Peer) -> Option<(Role, u8)> {
        let clock = self.clock;
        let (role, tag) = self.stored_peer(at, peer)?;
        (!clock.expired(*tag)).then_some((role, *tag))
    }

    /// A torrent that is stored.
    fn torrent_mut(&mut self, info_hash: &InfoHash) -> Option<&mut Torrent> {
        let at = self.torrents.find(info_hash).ok()?;
        self.torrents.get_mut(at)
    }

    /// Applies what another node sent of the peers of a torrent. Returns how many of them were unknown here
    /// or known in another state.
    ///
    /// While the clock is held nothing is applied, as no stamp names a unit of now: the caller has to wait until
    /// the table is swept, as for clients.
    pub fn apply(
        &mut self,
        info_hash: &InfoHash,
        hint: Hint,
        records: impl Iterator<Item = Record>,
    ) -> u32 {
        if self.is_held() {
            return 0;
        }
        let mut news = 0;
        let mut at = self.torrents.find_near(info_hash, hint);
        for record in records {
            if !self.renew_learnt(at, &record) {
                news += u32::from(self.apply_change(info_hash, at, &record));
                let last = at.unwrap_or_else(|at| at);
                at = self.torrents.find_near(info_hash, Some(last));
            }
        }
        news
    }

    /// The common case: a peer that is stored in the same role. False if this is another case.
    fn renew_learnt(&mut self, at: Result<Position, Position>, record: &Record) -> bool {
        let (PeerState::Present(role), Ok(at)) = (record.state, at) else {
            return false;
        };
        let clock = self.clock;
        let torrent = self.torrents.get_mut(at);
        let found = torrent.and_then(|t| self.swarms.find(&mut t.peers, record.peer, role));
        let Some((_, tag)) = found.filter(|(stored, _)| *stored == role) else {
            return false;
        };
        let is_marked = *tag & COMPLETED != 0 || !record.completed;
        if clock.expired(*tag) || !is_marked {
            return false;
        }
        let unit = clock.nearest(record.unit);
        let stored = clock.unit_of(*tag);
        if unit > stored {
            // This node's own news, passed on, may appear that much newer after a clock was moved.
            let is_echo = unit <= stored.saturating_add(Clock::AHEAD.into());
            let kept = COMPLETED | if is_echo { LOCAL } else { 0 };
            *tag = Clock::at(unit).stamp() | *tag & kept;
        }
        true
    }

    /// Applies a record of a peer that is not stored in this state; whether it was news.
    fn apply_change(
        &mut self,
        info_hash: &InfoHash,
        at: Result<Position, Position>,
        record: &Record,
    ) -> bool {
        let clock = self.clock;
        let unit = clock.nearest(record.unit);
        if clock.unit().saturating_sub(unit) > LIFE {
            return false;
        }
        let stored = self.living(at.ok(), record.peer);
        let version = stored.map(|(role, tag)| (clock.unit_of(tag), PeerState::Present(role)));
        let Some(journal) = &mut self.journal else {
            return false;
        };
        match record.state {
            PeerState::Stopped if version.is_none_or(|stored| stored <= (unit, record.state)) => {
                journal.stops.put(info_hash, &record.peer, unit);
                if let (Ok(at), Some(_)) = (at, stored) {
                    self.remove(at, record.peer);
                }
                stored.is_some()
            }
            PeerState::Stopped => false,
            PeerState::Present(_)
                if version.is_some_and(|stored| stored >= (unit, record.state)) =>
            {
                // That a completion was counted is taken over even so.
                if let (Some((_, tag)), true) =
                    (self.stored_peer(at.ok(), record.peer), record.completed)
                {
                    *tag |= COMPLETED;
                }
                false
            }
            PeerState::Present(role) => {
                let stop = journal.stops.get(info_hash, &record.peer, clock, unit);
                if stored.is_none() && stop.is_some() {
                    return false;
                }
                let completed = if record.completed { COMPLETED } else { 0 };
                let peer = record.peer.with_tag(Clock::at(unit).stamp() | completed);
                let Some(at) = self.enter(at, info_hash) else {
                    return false;
                };
                let seen = self.put(at, peer, role);
                if seen.is_none() {
                    self.remove_unused(at);
                }
                seen.is_some() && stored.is_none_or(|(before, _)| before != role)
            }
        }
    }

    /// Applies a completion that another node sent: a record of a seeder, and one more download unless it
    /// was counted here.
    pub fn apply_completion(&mut self, info_hash: &InfoHash, record: &Record) {
        let hint = self.torrents.find(info_hash).ok();
        let stored = self.stored_peer(hint, record.peer);
        let is_counted = stored.is_some_and(|(_, tag)| *tag & COMPLETED != 0);
        self.apply(info_hash, hint, std::iter::once(*record));
        if is_counted {
            return;
        }
        if let Some(torrent) = self.torrent_mut(info_hash) {
            torrent.downloaded = torrent.downloaded.saturating_add(1);
        } else {
            self.restore_memory(info_hash, 1, 0);
        }
    }

    /// Takes over how often a torrent was downloaded, by maximum, and since when it is without peers if
    /// it is. A torrent that is not known is remembered if there is room.
    pub fn raise_downloaded(&mut self, info_hash: &InfoHash, downloaded: u32, empty_for: u32) {
        let empty_since = self.now.saturating_sub(empty_for);
        if let Some(torrent) = self.torrent_mut(info_hash) {
            torrent.downloaded = torrent.downloaded.max(downloaded);
            if let Peers::Empty(since) = &mut torrent.peers {
                *since = empty_since.max(*since);
            }
        } else if downloaded > 0 {
            self.restore_memory(info_hash, downloaded, empty_for);
        }
    }

    /// Applies what a transport without versions told: as if the peer had announced here now, but it is not local.
    pub fn apply_unversioned(&mut self, news: &News) {
        let (info_hash, record) = (&news.info_hash, &news.record);
        let stored = self.living(self.torrents.find(info_hash).ok(), record.peer);
        let Some(journal) = &self.journal else {
            return;
        };
        let record = Record {
            unit: journal.unit_for(self.clock, info_hash, &record.peer, record.state, stored),
            ..*record
        };
        match record.completed {
            true => self.apply_completion(info_hash, &record),
            false => {
                self.apply(info_hash, Hint::default(), std::iter::once(record));
            }
        }
    }
}

/// The peers that stopped lately: a table of bounded size in which the oldest of four gives way.
#[derive(Debug)]
struct Stops {
    key: [u64; 2],
    /// Arrays, for which the system gives pages of zeros that take no memory until they are written to.
    sets: Vec<[Stop; 4]>,
    /// Units for which a stop is remembered.
    keep: u64,
    /// The latest unit in which a peer stopped.
    newest: u64,
}

/// A peer's fingerprint, and the unit in which it stopped.
type Stop = [u64; 2];

impl Stops {
    fn new(key: [u64; 2], max: usize, keep: u64) -> Stops {
        Stops {
            key,
            sets: vec![[[0; 2]; 4]; (max / 4).max(1)],
            keep,
            newest: 0,
        }
    }

    fn place(&self, info_hash: &InfoHash, peer: &Peer) -> (u64, usize) {
        let mut message = [0; 38];
        let endpoint = peer.endpoint();
        message[..20].copy_from_slice(info_hash);
        message[20..20 + endpoint.len()].copy_from_slice(endpoint);
        let fingerprint = siphash24(self.key, &message[..20 + endpoint.len()]);
        (fingerprint, (fingerprint % self.sets.len() as u64) as usize)
    }

    /// The unit in which the peer stopped, if it is remembered and not before this unit.
    fn get(&self, info_hash: &InfoHash, peer: &Peer, clock: Clock, from: u64) -> Option<u64> {
        // Most records are of later announces than all stops, and hashing costs as much as the rest.
        if self.newest < from {
            return None;
        }
        let (fingerprint, set) = self.place(info_hash, peer);
        let mut stops = self.sets.get(set)?.iter();
        let [_, unit] = *stops.find(|[of, _]| *of == fingerprint)?;
        (unit >= from.max(1) && clock.unit().saturating_sub(unit) <= self.keep).then_some(unit)
    }

    fn put(&mut self, info_hash: &InfoHash, peer: &Peer, unit: u64) {
        self.newest = self.newest.max(unit);
        let (fingerprint, set) = self.place(info_hash, peer);
        let Some(set) = self.sets.get_mut(set) else {
            return;
        };
        match set.iter_mut().find(|[of, _]| *of == fingerprint) {
            Some([_, stopped]) => *stopped = unit.max(*stopped),
            None => {
                let oldest = set.iter_mut().min_by_key(|[_, unit]| *unit);
                if let Some(oldest) = oldest.filter(|[_, oldest]| *oldest <= unit) {
                    *oldest = [fingerprint, unit];
                }
            }
        }
    }
}
