//! The state of the tracker: who is in which swarm.
//!
//! No input or output happens here, no clock is read and no randomness asked for: time and the random
//! generator come in as arguments, so that a test can run a year of announces in a second, the same
//! each time. UDP and HTTP meet here and nowhere else.

mod blocks;
pub mod clock;
mod cluster;
mod decoys;
mod peers;
mod sample;
mod small;
mod swarms;
mod table;
mod torrents;
mod walk;

pub use clock::{Clock, LIFE, STAMP_MASK};
pub use cluster::{LATE, Lost, News, Record, STOP_MS, State, max_events};
pub use decoys::Decoys;
pub use peers::{COMPLETED, LOCAL, Peer, Role};
pub use sample::{MOST as MOST_PEERS, Sink};
pub use table::{Locked, MAX_BATCH, Order, Survey, Sweeper, Table};
pub use torrents::{Ahead, InfoHash};
pub use walk::{Cursor, Found, RECORD_SIZES};

use crate::busiest::Busiest;
use crate::random::Random;
use cluster::Journal;
use decoys::Pools;
use peers::{Record as _, V4, V6};
use swarms::{Peers, Seen, Swarms, Update, Within};
use table::Size;
use torrents::{Position, Torrent, Torrents};

/// How long a torrent without peers is remembered for its downloaded count, in seconds.
const KEEP_EMPTY: u32 = 24 * 3600;

/// What an announce may tell of a change in the peer (BEP 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Also what is paused (libtorrent's event 4) or unknown.
    #[default]
    None,
    Started,
    Completed,
    Stopped,
}

/// An announce, however it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Announce<'a> {
    pub info_hash: &'a InfoHash,
    /// Port 0 is refused before it gets here.
    pub peer: Peer,
    pub role: Role,
    pub event: Event,
    /// Peers that the asker wants to hear of, of both families together.
    pub want: usize,
    pub hint: Hint,
}

/// Where a torrent was a moment ago. Wrong ones do no harm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    at: Position,
    is_known: bool,
}

impl Hint {
    fn found(at: Position) -> Hint {
        Hint { at, is_known: true }
    }

    #[cfg(test)]
    pub fn is_known(self) -> bool {
        self.is_known
    }
}

/// What is known of a swarm. The asker counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub seeders: u32,
    pub leechers: u32,
    pub downloaded: u32,
}

/// What an announce has led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub counts: Counts,
    /// It completed a download, for the first time as far as is known.
    pub is_completion: bool,
}

impl Outcome {
    fn of(counts: Counts) -> Outcome {
        Outcome {
            counts,
            is_completion: false,
        }
    }
}

/// Where the peers of a reply go. A family without room gets none.
#[derive(Debug)]
pub struct Sinks<'a> {
    pub v4: Sink<'a>,
    pub v6: Sink<'a>,
}

impl Sinks<'_> {
    /// Bytes that have gone into both.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seconds after its last announce that a peer is forgotten.
    pub peer_timeout: u32,
    pub max_peers: usize,
    pub max_torrents: usize,
}

/// Torrents between the one that a sweep looks at and the one whose swarm it fetches into the cache.
const SWEEP_AHEAD: usize = 8;

/// Which torrents are tracked, if not all are: a sweep drops the others.
pub type Tracked<'a> = Option<&'a dyn Fn(&InfoHash) -> bool>;

/// Totals for the log and for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub torrents: usize,
    pub leechers: usize,
    pub seeders: usize,
}

/// Counts of what only the table can tell.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Peers that were seen to complete a torrent.
    pub completed: u64,
    /// Announces of peers that are known, by the units since the one before.
    pub renewals: [u64; Tally::RENEWALS],
    /// Milliseconds in a unit.
    pub unit_ms: u64,
    /// Who announces again too early, by [`Tally::source`]; none until somebody does.
    pub woodpeckers: Option<Box<Busiest>>,
}

impl Tally {
    /// Stamps are modulo this.
    pub const RENEWALS: usize = Clock::STAMPS as usize;

    /// Units in the peer timeout.
    pub const LIFE: u64 = clock::LIFE;

    /// An announce without an event is too early at up to this many units after the last one: two thirds of the
    /// interval, if the timeout is the usual 1.5 intervals.
    const EARLY: u8 = 21;

    /// Units after which counts of woodpeckers are halved: an interval.
    const FORGETS: u64 = 32;

    pub fn new(unit_ms: u64) -> Tally {
        Tally {
            completed: 0,
            renewals: [0; Tally::RENEWALS],
            unit_ms,
            woodpeckers: None,
        }
    }

    /// An IPv4 address, or the upper half of an IPv6 one, which is what one host has for itself.
    fn source(peer: Peer) -> u64 {
        match peer {
            Peer::V4([a, b, c, d, ..]) => u32::from_be_bytes([a, b, c, d]).into(),
            Peer::V6([a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    fn count(&mut self, seen: Seen, announce: &Announce, clock: Clock, random: &mut Random) {
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
        if age <= Tally::EARLY && is_own && announce.event == Event::None {
            let woodpeckers = &mut self.woodpeckers;
            let woodpeckers = woodpeckers.get_or_insert_with(|| Busiest::new(random).into());
            woodpeckers.count(Tally::source(announce.peer));
        }
    }

    fn forget(&mut self) {
        if let Some(woodpeckers) = &mut self.woodpeckers {
            woodpeckers.halve();
        }
    }
}

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
pub struct Tracker {
    torrents: Torrents,
    swarms: Swarms,
    limits: Limits,
    /// Peers and torrents in the other shards, which count for the limits too.
    others: Size,
    decoys: Option<Decoys>,
    unit_ms: u64,
    clock: Clock,
    /// Milliseconds that the clock is ahead of the time since the start, so that a restored one's units
    /// begin when they did before.
    ahead_ms: i64,
    now_ms: u64,
    /// Seconds since [`KEEP_EMPTY`] before the start: a torrent whose memory is restored may have been
    /// empty for so long.
    now: u32,
    sweep: Sweep,
    tally: Tally,
    /// For the cluster, if there is one.
    journal: Option<Box<Journal>>,
}

/// The walk that drops what has expired. It stops and goes on by key, so the table may change under
/// it: what is there throughout is passed exactly once.
#[derive(Debug)]
struct Sweep {
    /// The unit in which the last whole sweep began: no stamp is older than a peer's life and what has passed
    /// since.
    vouched: u64,
    /// The unit in which the next one begins.
    next: u64,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    began: u64,
    torrent: InfoHash,
    within: Option<Within>,
}

impl Tracker {
    pub fn new(limits: Limits) -> Tracker {
        let unit_ms = Clock::unit_ms(limits.peer_timeout);
        let start_ms = Clock::FIRST * unit_ms;
        Tracker {
            torrents: Torrents::default(),
            swarms: Swarms::default(),
            limits,
            others: Size::default(),
            decoys: None,
            unit_ms,
            clock: Clock::at(Clock::FIRST),
            ahead_ms: start_ms as i64, // A 48th of 2^32 seconds is the longest unit.
            now_ms: start_ms,
            now: KEEP_EMPTY,
            sweep: Sweep {
                vouched: Clock::FIRST,
                next: Clock::FIRST + Clock::SWEEP_WITHIN / 2,
                running: None,
            },
            tally: Tally::new(unit_ms),
            journal: None,
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    pub fn peers(&self) -> [usize; 4] {
        self.swarms.totals
    }

    /// Mixes decoys into replies and counts from now on.
    pub fn use_decoys(&mut self, decoys: Decoys) {
        self.decoys = Some(decoys);
    }

    /// What is stored: no decoys.
    pub fn totals(&self) -> Totals {
        let [a, b, c, d] = self.swarms.totals;
        Totals {
            torrents: self.torrents.len(),
            leechers: a + c,
            seeders: b + d,
        }
    }

    /// Bytes that torrents take, and swarms beside them.
    pub fn table_bytes(&self) -> [usize; 2] {
        [
            self.torrents.len() * size_of::<Torrent>(),
            self.swarms.bytes(),
        ]
    }

    /// Moves the clock to this many milliseconds since the start.
    ///
    /// After a pause in which no sweep ran (the machine was suspended) stamps would wrap around. The clock is
    /// then held at the last unit at which none does, and until a sweep has passed everything no announce may
    /// be answered ([`Tracker::is_held`]): it would be stamped with a unit of long ago.
    pub fn advance(&mut self, now_ms: u64) {
        let seconds = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        // Threads read the time for themselves, so one that locks a shard later may be a moment behind.
        self.now = self.now.max(KEEP_EMPTY.saturating_add(seconds));
        self.move_to(now_ms.saturating_add_signed(self.ahead_ms));
    }

    /// Moves the table's own clock, which never goes back.
    fn move_to(&mut self, now_ms: u64) {
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
            // One that judges by the true time from its begin.
            self.begin_sweep();
        }
    }

    /// Moves the clock to this unit, or as near to it as stamps allow.
    fn set_clock(&mut self, unit: u64) {
        let last = self.sweep.vouched.saturating_add(Clock::SWEEP_VALID);
        self.clock = Clock::at(unit.min(last)).judging_at(unit);
        if let Some(journal) = &mut self.journal {
            journal.advance(self.clock.unit());
        }
    }

    /// Whether the clock is held until [`Tracker::sweep`] has passed everything.
    pub fn is_held(&self) -> bool {
        self.clock.is_held()
    }

    /// The first step of looking ahead: finds a torrent's chunk and prefetches its entry.
    ///
    /// With a million torrents nearly everything that an announce reads is out of the cache, one
    /// thing after the other. A batch of requests takes each of these steps for all before the
    /// next, so that the memory is waited for once and not once for each.
    pub fn look_ahead(&self, info_hash: &InfoHash) -> Ahead {
        self.torrents.look_ahead(info_hash)
    }

    /// The second step: prefetches the swarm, and returns where the torrent was found.
    pub fn look_further(&self, info_hash: &InfoHash, ahead: &Ahead) -> Hint {
        match self.torrents.look_further(info_hash, ahead) {
            Some((at, torrent)) => {
                self.swarms.prefetch(&torrent.peers);
                Hint::found(at)
            }
            None => Hint::default(),
        }
    }

    /// Both steps at once for a torrent that is a little behind the last one in order.
    pub fn look_behind(&self, info_hash: &InfoHash, last: Hint) -> Hint {
        let found = self.torrents.find_behind(info_hash, last.at);
        if let Some(torrent) = found.ok().and_then(|at| self.torrents.get(at)) {
            self.swarms.prefetch(&torrent.peers);
        }
        Hint::found(found.unwrap_or_else(|at| at))
    }

    /// A step after that, for a peer of a large swarm.
    pub fn look_inside(&self, hint: Hint, peer: Peer) {
        if !hint.is_known {
            return;
        }
        if let Some(torrent) = self.torrents.get(hint.at) {
            self.swarms.prefetch_peer(&torrent.peers, peer);
        }
    }

    /// Answers an announce.
    pub fn announce(
        &mut self,
        announce: &Announce,
        random: &mut Random,
        sinks: &mut Sinks,
    ) -> Outcome {
        let at = self
            .torrents
            .find_near(announce.info_hash, announce.hint.at);
        if announce.event == Event::Stopped {
            self.note_stop(at.ok(), announce.info_hash, announce.peer);
            return match at {
                Ok(at) => Outcome::of(self.remove(at, announce.peer)),
                Err(_) => Outcome::default(),
            };
        }
        let stored = match at {
            Ok(at) => self.renew(at, announce, random),
            Err(at) => self.add_torrent(at, announce, random),
        };
        let Some((at, seen)) = stored else {
            return Outcome::default();
        };
        let Some(torrent) = self.torrents.get(at) else {
            return Outcome::default();
        };
        let asker = seen.map(|seen| seen.rank);
        let (v4_asker, v6_asker) = match announce.peer {
            Peer::V4(_) => (asker, None),
            Peer::V6(_) => (None, asker),
        };
        let swarms = &self.swarms;
        let v4 = swarms.pool::<V4>(&torrent.peers, announce.role, v4_asker);
        let v6 = swarms.pool::<V6>(&torrent.peers, announce.role, v6_asker);
        let decoys = self.decoys_of(torrent);
        let more = decoys.as_ref().map_or((0, 0), |decoys| {
            let role = announce.role;
            (decoys.live_for::<V4>(role), decoys.live_for::<V6>(role))
        });
        let v4_most = (v4.len() + more.0).min(sinks.v4.capacity(V4::SIZE - 1));
        let v6_most = (v6.len() + more.1).min(sinks.v6.capacity(V6::SIZE - 1));
        let (v4_want, v6_want) = share(announce.want, v4_most, v6_most);
        match &decoys {
            None => {
                v4.pick(v4_want, self.clock, random, &mut sinks.v4);
                v6.pick(v6_want, self.clock, random, &mut sinks.v6);
            }
            Some(decoys) => {
                let (role, clock) = (announce.role, self.clock);
                let random = &mut decoys.random(random.draw());
                v4.pick_mixed(decoys, role, v4_want, clock, random, &mut sinks.v4);
                v6.pick_mixed(decoys, role, v6_want, clock, random, &mut sinks.v6);
            }
        }
        let counts = self.counts_with(torrent, decoys.as_ref());
        if let (Some(memory), Some(decoys)) = (&mut self.decoys, &decoys) {
            memory.remember(decoys);
        }
        Outcome {
            counts,
            is_completion: seen.is_some_and(|seen| seen.newly_completed),
        }
    }

    fn decoys_of(&self, torrent: &Torrent) -> Option<Pools> {
        let decoys = self.decoys.as_ref()?;
        let sizes = self.swarms.sizes(&torrent.peers, self.clock);
        decoys.of(
            &torrent.info_hash,
            sizes,
            self.now.saturating_sub(KEEP_EMPTY),
        )
    }

    /// Adds or renews the peer of a torrent that is known; tells the peer's rank if it is stored.
    fn renew(
        &mut self,
        at: Position,
        announce: &Announce,
        random: &mut Random,
    ) -> Option<(Position, Option<Seen>)> {
        let update = self.update(announce);
        let torrent = self.torrents.get_mut(at)?;
        let (swarms, peer) = (&mut self.swarms, announce.peer);
        let seen = swarms.update(&mut torrent.peers, peer, update);
        if let Some(seen) = seen {
            self.tally.count(seen, announce, self.clock, random);
            let completed = u32::from(seen.newly_completed);
            torrent.downloaded = torrent.downloaded.saturating_add(completed);
            let journal = self.journal.as_deref();
            if journal.is_some_and(|journal| journal.is_notable(seen, announce.role, self.clock)) {
                self.note_announce(at, peer, announce.role, seen);
            }
        }
        Some((at, seen))
    }

    /// Adds a torrent with its first peer, if there is room for both.
    fn add_torrent(
        &mut self,
        at: Position,
        announce: &Announce,
        random: &mut Random,
    ) -> Option<(Position, Option<Seen>)> {
        if self.all_torrents() >= self.limits.max_torrents || !self.has_room() {
            return None;
        }
        let torrent = Torrent {
            info_hash: *announce.info_hash,
            downloaded: 0,
            peers: Peers::Empty(self.now),
        };
        let at = self.torrents.insert(at, torrent);
        self.renew(at, announce, random)
    }

    fn update(&self, announce: &Announce) -> Update {
        let completes = announce.event == Event::Completed && announce.role == Role::Seeder;
        let completed = if completes { COMPLETED } else { 0 };
        Update {
            role: announce.role,
            tag: self.clock.stamp() | LOCAL | completed,
            room: self.has_room(),
        }
    }

    /// Peers and torrents that are stored here.
    fn size(&self) -> Size {
        Size {
            peers: self.swarms.totals.iter().sum(),
            torrents: self.torrents.len(),
        }
    }

    fn has_room(&self) -> bool {
        self.size().peers + self.others.peers < self.limits.max_peers
    }

    /// Torrents in the whole table.
    fn all_torrents(&self) -> usize {
        self.torrents.len() + self.others.torrents
    }

    /// Peers that there is room for, each in a torrent of its own.
    pub fn room(&self) -> usize {
        let peers = self.size().peers + self.others.peers;
        let peers = self.limits.max_peers.saturating_sub(peers);
        peers.min(self.limits.max_torrents.saturating_sub(self.all_torrents()))
    }

    /// Whether memories of torrents without peers must make room for torrents with some.
    fn is_crowded(&self) -> bool {
        self.all_torrents() >= self.limits.max_torrents - self.limits.max_torrents / 4
    }

    /// Takes a peer out, and the torrent too if nobody is left and nothing is to be remembered.
    fn remove(&mut self, at: Position, peer: Peer) -> Counts {
        let Some(torrent) = self.torrents.get_mut(at) else {
            return Counts::default();
        };
        self.swarms.remove(&mut torrent.peers, peer, self.now);
        let is_empty = matches!(torrent.peers, Peers::Empty(_));
        let is_forgotten = torrent.downloaded == 0 || self.is_crowded();
        if is_empty && is_forgotten {
            self.torrents.remove(at);
            return Counts::default();
        }
        self.torrents
            .get(at)
            .map_or(Counts::default(), |torrent| self.counts(torrent))
    }

    /// What is known of a torrent; zeros if it is not known.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<Counts> {
        let at = self.torrents.find(info_hash).ok()?;
        Some(self.counts(self.torrents.get(at)?))
    }

    /// Tells of the torrents from this info-hash on, in order and `most` at most: the hash, the counts,
    /// and the seconds since the last peer left. Returns the hash to go on from; none is the end.
    ///
    /// The table may change before it goes on: what is there throughout is told exactly once.
    pub fn scrape_from(
        &self,
        from: &InfoHash,
        most: usize,
        mut tell: impl FnMut(&InfoHash, Counts, u32),
    ) -> Option<InfoHash> {
        let mut next = *from;
        let mut left = most;
        loop {
            let at = self.torrents.find(&next).unwrap_or_else(|at| at);
            let torrents = self.torrents.rest_of_chunk(at);
            let (now, later) = torrents.split_at(left.min(torrents.len()));
            for torrent in now {
                self.swarms.prefetch_counts(&torrent.peers);
            }
            for torrent in now {
                let idle = match torrent.peers {
                    Peers::Empty(since) => self.now.saturating_sub(since),
                    _ => 0,
                };
                tell(&torrent.info_hash, self.counts(torrent), idle);
            }
            if let Some(torrent) = later.first() {
                return Some(torrent.info_hash);
            }
            left -= now.len();
            // Forwards in any case, so that no mistake in the table could make this endless.
            next = self.torrents.next_fence(at).filter(|fence| *fence > next)?;
        }
    }

    /// What clients are told, decoys counted.
    fn counts(&self, torrent: &Torrent) -> Counts {
        self.counts_with(torrent, self.decoys_of(torrent).as_ref())
    }

    fn counts_with(&self, torrent: &Torrent, decoys: Option<&Pools>) -> Counts {
        let mut sizes = self.swarms.sizes(&torrent.peers, self.clock);
        if let Some(decoys) = decoys {
            for (list, size) in sizes.iter_mut().enumerate() {
                *size += decoys.live(list);
            }
        }
        let [v4_leechers, v4_seeders, v6_leechers, v6_seeders] = sizes;
        Counts {
            seeders: u32::try_from(v4_seeders + v6_seeders).unwrap_or(u32::MAX),
            leechers: u32::try_from(v4_leechers + v6_leechers).unwrap_or(u32::MAX),
            downloaded: torrent.downloaded,
        }
    }

    /// Sweeps on by about `budget` records. A new sweep begins so long after the last began that all is passed
    /// within [`Clock::SWEEP_WITHIN`] if it takes no longer than that.
    pub fn sweep(&mut self, budget: usize, tracked: Tracked) -> Progress {
        if self.sweep.running.is_none() {
            if !self.is_held() && self.clock.unit() < self.sweep.next {
                return Progress::NotDue;
            }
            self.begin_sweep();
        }
        match self.sweep_slice(budget, tracked) {
            true => Progress::Underway,
            false => Progress::Finished,
        }
    }

    /// When the next sweep begins, in milliseconds since the start; none while nothing is stored.
    pub fn next_sweep(&self) -> Option<u64> {
        (!self.torrents.is_empty()).then(|| self.sweep_due())
    }

    /// The same, whatever is stored.
    fn sweep_due(&self) -> u64 {
        self.since_start(match self.is_held() {
            true => self.clock.unit(),
            false => self.sweep.next,
        })
    }

    /// When the clock would be held without another sweep, likewise.
    fn held_from(&self) -> u64 {
        self.since_start(self.sweep.vouched + Clock::SWEEP_VALID + 1)
    }

    /// When a unit of the clock begins, in milliseconds since the start.
    fn since_start(&self, unit: u64) -> u64 {
        let begin = unit.saturating_mul(self.unit_ms);
        begin.saturating_add_signed(self.ahead_ms.saturating_neg())
    }

    fn begin_sweep(&mut self) {
        self.sweep.running = Some(Running {
            began: self.clock.true_unit(),
            torrent: [0; 20],
            within: None,
        });
    }

    /// Goes on until the budget is spent, and at least one chunk; false when the sweep is over.
    fn sweep_slice(&mut self, budget: usize, tracked: Tracked) -> bool {
        let mut spent = 0;
        while let Some(running) = &self.sweep.running {
            if spent >= budget {
                return true;
            }
            let Running {
                began,
                torrent,
                within,
            } = *running;
            let budget = budget - spent;
            let (looked_at, next) = self.sweep_chunk(torrent, within, budget, tracked);
            spent += looked_at;
            self.sweep.running = next.map(|(torrent, within)| Running {
                began,
                torrent,
                within,
            });
            if self.sweep.running.is_none() {
                self.sweep.vouched = self.sweep.vouched.max(began);
                let unit = self.clock.true_unit();
                self.set_clock(unit);
                // The next one is taken to last as long as this one, and a unit more.
                let took = unit.saturating_sub(began) + 1;
                self.sweep.next = began + Clock::SWEEP_WITHIN - took.min(Clock::SWEEP_WITHIN / 2);
            }
        }
        false
    }

    /// Sweeps the chunk of the table that holds this torrent, from there on. Returns how many records
    /// were looked at and where to go on.
    fn sweep_chunk(
        &mut self,
        from: InfoHash,
        mut within: Option<Within>,
        budget: usize,
        tracked: Tracked,
    ) -> (usize, Option<(InfoHash, Option<Within>)>) {
        let at = self.torrents.find(&from).unwrap_or_else(|at| at);
        let crowded = self.is_crowded();
        let (swarms, clock, now) = (&mut self.swarms, self.clock, self.now);
        let mut spent = 0;
        let mut stopped = None;
        self.torrents.visit_chunk(at, |torrent, rest| {
            if let Some(later) = rest.get(SWEEP_AHEAD) {
                swarms.prefetch(&later.peers);
            }
            if spent >= budget {
                stopped = Some((torrent.info_hash, None));
                return false;
            }
            // A swarm that was left half-way may have gone; its place in the next one means nothing.
            within = within.take().filter(|_| torrent.info_hash == from);
            let mut clock = clock;
            if tracked.is_some_and(|tracked| !tracked(&torrent.info_hash)) {
                clock = clock.judging_all_expired();
                torrent.downloaded = 0;
            }
            loop {
                let (looked_at, next) = swarms.expire(&mut torrent.peers, within, clock, now);
                spent += looked_at;
                within = next;
                if next.is_none() {
                    return true;
                }
                if spent >= budget {
                    stopped = Some((torrent.info_hash, within.take()));
                    return false;
                }
            }
        });
        // Forwards in any case, so that no mistake in the table could make a sweep endless.
        let fence = self.torrents.next_fence(at).filter(|fence| *fence > from);
        let next = stopped.or_else(|| fence.map(|fence| (fence, None)));
        let is_remembered = |since| !crowded && now.saturating_sub(since) < KEEP_EMPTY;
        self.torrents
            .retain_chunk(at, |_, torrent| match torrent.peers {
                Peers::Empty(since) => torrent.downloaded > 0 && is_remembered(since),
                _ => true,
            });
        (spent, next)
    }
}

/// Splits what is wanted between two families of which so many can be had: all of both if they fit;
/// else a quarter at least of each that has as much, and the rest as the families are large.
fn share(want: usize, v4: usize, v6: usize) -> (usize, usize) {
    if v4 + v6 <= want {
        return (v4, v6);
    }
    let (v4_sure, v6_sure) = (v4.min(want / 4), v6.min(want / 4));
    let (v4_left, v6_left) = (v4 - v4_sure, v6 - v6_sure);
    let rest = want - v4_sure - v6_sure;
    let v4_more = (rest * v4_left).div_ceil((v4_left + v6_left).max(1));
    let v4_share = v4_sure + v4_more.min(v4_left);
    (v4_share, (want - v4_share).min(v6))
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod observer;
#[cfg(test)]
mod tests;
