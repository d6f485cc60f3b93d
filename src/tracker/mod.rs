//! The table: which peers are in which swarm.
//!
//! [`Table`] is a slice of shards; a [`Tracker`] is one of them. An announce finds its torrent (`torrents`), stores the
//! peer in the torrent's swarm (`swarms`, and under it `small`, `lists` and `blocks`; `hosts`), and copies some of the
//! other peers into the reply (`sample`, `crowd`, `decoys`). The `sweep` drops what has expired. A `walk` visits
//! everything, for saved state and for other nodes, whose announces come in through `journal`.
//!
//! Nothing here does input or output, reads a clock or asks for randomness: time and the random generator are
//! arguments, so that a test can run a year of announces in a second, the same each time.

mod blocks;
pub mod clock;
mod crowd;
mod decoys;
mod hosts;
mod journal;
mod lists;
mod peer;
mod sample;
mod small;
mod swarms;
mod sweep;
mod table;
mod tally;
mod torrents;
mod walk;

pub use clock::{Clock, LIFE, STAMP_MASK};
pub use decoys::Decoys;
pub use hosts::HostBound;
pub use journal::{LATE, Lost, News, PeerState, Record, STOP_MS, max_events};
pub use peer::{COMPLETED, InfoHash, LOCAL, Peer, RECORD_SIZES, Role};
pub use sample::{MAX_PEERS as MAX_REPLY_PEERS, Sink};
pub use sweep::Progress;
pub use table::{Locked, MAX_BATCH, Order, Survey, Sweeper, Table};
pub use tally::Tally;
pub use torrents::{Ahead, Position};
pub use walk::{Cursor, Found};

use crate::base::random::Random;
use decoys::SwarmDecoys;
use hosts::{Room, TableRoom};
use journal::Journal;
use peer::{Family, of_use};
use sample::{Audience, Pool, Rest};
use swarms::{Peers, Seen, Swarms};
use sweep::Sweep;
use table::{Size, add};
use torrents::{Torrent, Torrents};

/// How long the downloaded count of a torrent without peers is remembered, in seconds.
const KEEP_EMPTY: u32 = 24 * 3600;

/// Cache lines of a small swarm that are fetched before it is updated.
const PREFETCHED: usize = 8;

/// Torrents between the one that a walk or a sweep visits and the one whose swarm it prefetches.
const LOOKED_AHEAD: usize = 8;

/// The event of an announce (BEP 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Also paused (libtorrent's event 4) and any unknown event.
    #[default]
    None,
    Started,
    Completed,
    Stopped,
}

/// An announce, however it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    pub info_hash: InfoHash,
    /// With a port of 0 or 1 it cannot be connected to, and no other peer is sent it.
    pub peer: Peer,
    pub role: Role,
    pub event: Event,
    /// Peers that the reply may hold, of both families together.
    pub want: usize,
    pub hint: Hint,
}

/// The position of a torrent a moment ago, if it was looked up. It is verified when it is used.
pub type Hint = Option<Position>;

/// The counts of a swarm, the asker included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub seeders: u32,
    pub leechers: u32,
    pub downloaded: u32,
}

impl Counts {
    fn new(
        [v4_leechers, v4_seeders, v6_leechers, v6_seeders]: [usize; 4],
        downloaded: u32,
    ) -> Counts {
        Counts {
            seeders: u32::try_from(v4_seeders + v6_seeders).unwrap_or(u32::MAX),
            leechers: u32::try_from(v4_leechers + v6_leechers).unwrap_or(u32::MAX),
            downloaded,
        }
    }
}

/// The counts of a swarm after an announce, and whether that completed a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub counts: Counts,
    /// The peer completed a download, and no completion of it was counted before.
    pub is_completion: bool,
}

/// The room of a reply for peers. A family may have none.
#[derive(Debug)]
pub struct Sinks<'a> {
    pub v4: Sink<'a>,
    pub v6: Sink<'a>,
}

impl<'a> Sinks<'a> {
    pub fn new(v4: &'a mut [u8], v6: &'a mut [u8]) -> Sinks<'a> {
        let [v4, v6] = [v4, v6].map(Sink::new);
        Sinks { v4, v6 }
    }

    /// Bytes that are filled in both.
    pub fn filled(&self) -> usize {
        self.v4.bytes().len() + self.v6.bytes().len()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Seconds from a peer's last announce to its end.
    pub peer_timeout: u32,
    pub max_peers: usize,
    pub max_torrents: usize,
}

/// Whether a torrent is tracked, if not all are: a sweep drops the others.
pub type Tracked<'a> = Option<&'a dyn Fn(&InfoHash) -> bool>;

/// Totals for the log and for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub torrents: usize,
    pub leechers: usize,
    pub seeders: usize,
}

impl Totals {
    fn new(torrents: usize, [a, b, c, d]: [usize; 4]) -> Totals {
        Totals {
            torrents,
            leechers: a + c,
            seeders: b + d,
        }
    }
}

#[derive(Debug)]
pub struct Tracker {
    torrents: Torrents,
    swarms: Swarms,
    limits: Limits,
    hosts: HostBound,
    /// That of the other shards, which counts for the limits too.
    others: Size,
    decoys: Option<Decoys>,
    unit_ms: u64,
    clock: Clock,
    /// Milliseconds by which the clock is ahead of the time since the start: the units of restored state begin when
    /// they began before.
    ahead_ms: i64,
    now_ms: u64,
    /// Seconds since [`KEEP_EMPTY`] before the start, as a restored torrent may have been empty for so long.
    now: u32,
    sweep: Sweep,
    tally: Tally,
    /// None without a cluster.
    journal: Option<Box<Journal>>,
}

/// Bytes of resident memory that a torrent and a peer take at most. Of all mixes measured, swarms of 96 IPv6 peers
/// come nearest: they take 0.93 of this. One IPv4 peer in each torrent takes 0.42, a swarm of 1,000 of them 0.31.
pub const TORRENT_BYTES: u64 = 64;
pub const PEER_BYTES: u64 = 26;

impl Limits {
    /// Bytes that blocks of peers may take. Entries of torrents, with room for a quarter more, take the others.
    fn block_bytes(&self) -> usize {
        let bytes = |count: usize, each: u64| (count as u64).saturating_mul(each);
        let torrents = TORRENT_BYTES - size_of::<Torrent>() as u64 * 5 / 4;
        let sum =
            bytes(self.max_torrents, torrents).saturating_add(bytes(self.max_peers, PEER_BYTES));
        usize::try_from(sum).unwrap_or(usize::MAX)
    }
}

impl Tracker {
    pub fn new(limits: Limits) -> Tracker {
        let unit_ms = Clock::unit_ms(limits.peer_timeout);
        let start_ms = Clock::FIRST * unit_ms;
        let mut tracker = Tracker {
            torrents: Torrents::default(),
            swarms: Swarms::default(),
            limits,
            hosts: HostBound::default(),
            others: Size::default(),
            decoys: None,
            unit_ms,
            clock: Clock::at(Clock::FIRST),
            ahead_ms: start_ms as i64, // A 48th of 2^32 seconds is the longest unit.
            now_ms: start_ms,
            now: KEEP_EMPTY,
            sweep: Sweep::default(),
            tally: Tally::new(unit_ms),
            journal: None,
        };
        tracker.bound_blocks();
        tracker
    }

    fn set_bounds(&mut self, max_peers: usize, max_torrents: usize) {
        (self.limits.max_peers, self.limits.max_torrents) = (max_peers, max_torrents);
        self.bound_blocks();
    }

    /// Leaves to the blocks of this shard what those of the others do not take.
    fn bound_blocks(&mut self) {
        let bytes = self.limits.block_bytes();
        self.swarms
            .set_max_bytes(bytes.saturating_sub(self.others.bytes));
    }

    /// Torrents and peers that are stored: no decoys.
    pub fn totals(&self) -> Totals {
        Totals::new(self.torrents.len(), self.swarms.totals)
    }

    /// The first step of looking ahead: finds a torrent's leaf and prefetches its entry.
    ///
    /// With a million torrents nearly everything that an announce reads is out of the cache, one
    /// thing after the other. A batch of requests takes each of these steps for all requests before the
    /// next step, so that it waits for memory once and not once for each request.
    pub fn look_ahead(&self, info_hash: &InfoHash) -> Ahead {
        self.torrents.look_ahead(info_hash)
    }

    /// The second step: prefetches the swarm, and returns where the torrent was found.
    pub fn look_further(&self, info_hash: &InfoHash, ahead: &Ahead) -> Hint {
        let hint = self.torrents.look_further(info_hash, ahead);
        self.prefetch(hint);
        hint
    }

    /// Both steps at once for a torrent that is a little behind the last one in order.
    pub fn look_behind(&self, info_hash: &InfoHash, last: Hint) -> Hint {
        let last = last.unwrap_or_default();
        let found = self.torrents.find_behind(info_hash, last);
        self.prefetch(found.ok());
        Some(found.unwrap_or_else(|at| at))
    }

    fn prefetch(&self, hint: Hint) {
        if let Some(torrent) = hint.and_then(|at| self.torrents.get(at)) {
            self.swarms.prefetch(&torrent.peers, PREFETCHED);
        }
    }

    /// Answers an announce.
    pub fn announce(
        &mut self,
        announce: &Announce,
        random: &mut Random,
        sinks: &mut Sinks,
    ) -> Outcome {
        let found = self.torrents.find_near(&announce.info_hash, announce.hint);
        if announce.event == Event::Stopped {
            self.note_stop(found.ok(), &announce.info_hash, announce.peer);
            let counts = found.map(|at| self.remove(at, announce.peer));
            return Outcome {
                counts: counts.unwrap_or_default(),
                is_completion: false,
            };
        }
        let Some(at) = self.enter(found, &announce.info_hash) else {
            return Outcome::default();
        };
        let seen = self.store(at, announce, random);
        let counts = self.pick_peers(at, announce, seen.map(|seen| seen.rank), random, sinks);
        if seen.is_none() {
            self.remove_unused(at);
        }
        Outcome {
            counts,
            is_completion: seen.is_some_and(|seen| seen.newly_completed),
        }
    }

    /// The position of a torrent, which is added if it is not stored and the table has room for it and a peer.
    fn enter(
        &mut self,
        found: Result<Position, Position>,
        info_hash: &InfoHash,
    ) -> Option<Position> {
        let at = match found {
            Err(at) => at,
            found => return found.ok(),
        };
        let has_room = self.room().admits(0) && self.all_torrents() < self.limits.max_torrents;
        let added = has_room.then(|| self.add_torrent(at, info_hash, 0, self.now));
        let added = added.flatten();
        if added.is_none() {
            self.tally.refuse(has_room);
        }
        added
    }

    /// Adds a torrent without peers, if there is room for it.
    fn add_torrent(
        &mut self,
        at: Position,
        info_hash: &InfoHash,
        downloaded: u32,
        empty_since: u32,
    ) -> Option<Position> {
        let torrent = Torrent {
            info_hash: *info_hash,
            downloaded,
            peers: Peers::Empty(empty_since),
        };
        let has_room = self.all_torrents() < self.limits.max_torrents;
        has_room.then(|| self.torrents.insert(at, torrent))?
    }

    /// Adds or renews a peer of a torrent; the peer's tag is the new one. None if there is no room for it.
    fn put(&mut self, at: Position, peer: Peer, role: Role) -> Option<Seen> {
        let mut room = Room {
            table: self.room(),
            is_free: true,
            hosts: &self.hosts,
            clock: self.clock,
        };
        let torrent = self.torrents.get_mut(at)?;
        let seen = self
            .swarms
            .update(&mut torrent.peers, peer, role, &mut room);
        if seen.is_none() {
            self.tally.refuse(room.is_free);
        }
        seen
    }

    /// Removes a torrent that was added for a peer for which there was no memory then.
    #[cold]
    fn remove_unused(&mut self, at: Position) {
        let torrent = self.torrents.get(at);
        if torrent.is_some_and(|t| t.downloaded == 0 && matches!(t.peers, Peers::Empty(_))) {
            self.torrents.remove(at);
        }
    }

    /// Adds or renews the peer that announces.
    fn store(&mut self, at: Position, announce: &Announce, random: &mut Random) -> Option<Seen> {
        let (role, stamp) = (announce.role, self.clock.stamp());
        let completes = announce.event == Event::Completed && role == Role::Seeder;
        let completed = if completes { COMPLETED } else { 0 };
        let peer = announce.peer.with_tag(stamp | LOCAL | completed);
        let seen = self.put(at, peer, role)?;
        self.tally.count(seen, announce, self.clock, random);
        if seen.newly_completed {
            let torrent = self.torrents.get_mut(at)?;
            torrent.downloaded = torrent.downloaded.saturating_add(1);
        }
        let journal = self.journal.as_deref();
        if journal.is_some_and(|journal| journal.is_notable(seen, role, self.clock)) {
            self.note_announce(at, announce.peer, role, seen);
        }
        Some(seen)
    }

    /// Picks the peers of a reply, and returns its counts. `rank` is the asker's if it is stored.
    fn pick_peers(
        &self,
        at: Position,
        announce: &Announce,
        rank: Option<usize>,
        random: &mut Random,
        sinks: &mut Sinks,
    ) -> Counts {
        let Some(torrent) = self.torrents.get(at) else {
            return Counts::default();
        };
        let role = announce.role;
        let audience = Audience::new(self.clock, &announce.peer);
        let (sizes, decoys) = self.sizes(torrent);
        let rank_in = |family| rank.filter(|_| announce.peer.family() == family);
        let available = |family, sink: &Sink| {
            let asker = rank_in(family).filter(|_| role == Role::Leecher).is_some();
            let [leechers, seeders] = of_use(sizes, (family, role));
            let others = (leechers + seeders).saturating_sub(asker.into());
            others.min(sink.capacity(family))
        };
        let all_v4 = available(Family::V4, &sinks.v4);
        let all_v6 = available(Family::V6, &sinks.v6);
        let (v4, v6) = share(announce.want, all_v4, all_v6);
        let mut mixed = decoys
            .as_ref()
            .map(|decoys| (decoys, decoys.random(random.draw())));
        let swarms = &self.swarms;
        let pool = |family| swarms.pool(&torrent.peers, family, role, rank_in(family));
        let mut rest = [Rest::default(); 2];
        let mut pick = |family, want, sink: &mut Sink| {
            if want == 0 {
                return 0;
            }
            let mut pool = pool(family);
            pool.is_crowded &= (v4, v6) != (all_v4, all_v6) || pool.len() > want;
            rest[family as usize] = match &mut mixed {
                None => pool.pick(want, audience, random, sink),
                Some((decoys, order)) => {
                    pool.pick_mixed(decoys, (family, role), want, audience, order, sink)
                }
            };
            sink.bytes().len() / (family.record_bytes() - 1)
        };
        // Where peers of one family are skipped, the other has more.
        let picked_v4 = pick(Family::V4, v4, &mut sinks.v4);
        let v6 = (v6 + v4 - picked_v4).min(all_v6);
        let picked_v6 = pick(Family::V6, v6, &mut sinks.v6);
        if picked_v6 < v6 && v4 < all_v4 {
            sinks.v4.clear();
            let v4 = (announce.want - picked_v6).min(all_v4);
            pick(Family::V4, v4, &mut sinks.v4);
        }
        if rest.into_iter().max() == Some(Rest::OfNamedHosts) {
            let pools = [Family::V4, Family::V6].map(pool);
            fill_up(pools, announce.want, audience, random, sinks);
        }
        decoys.iter().for_each(SwarmDecoys::remember);
        Counts::new(sizes, torrent.downloaded)
    }

    /// How many peers a reply counts in each list, and the decoys among them.
    fn sizes(&self, torrent: &Torrent) -> ([usize; 4], Option<SwarmDecoys<'_>>) {
        let mut sizes = self.swarms.sizes(&torrent.peers, self.clock);
        let now = self.now.saturating_sub(KEEP_EMPTY);
        let decoys = self.decoys.as_ref();
        let decoys = decoys.and_then(|all| all.of_swarm(&torrent.info_hash, sizes, now));
        if let Some(decoys) = &decoys {
            add(&mut sizes, decoys.live());
        }
        (sizes, decoys)
    }

    fn size(&self) -> Size {
        Size {
            peers: self.swarms.totals.iter().sum(),
            torrents: self.torrents.len(),
            bytes: self.swarms.bytes(),
        }
    }

    fn room(&self) -> TableRoom {
        let max = self.limits.max_peers;
        let all = self.size().peers + self.others.peers;
        let left = max.saturating_sub(all);
        TableRoom { left, max }
    }

    /// Torrents in the whole table.
    fn all_torrents(&self) -> usize {
        self.torrents.len() + self.others.torrents
    }

    /// Whether memories of torrents without peers must make room for torrents with some.
    fn is_crowded(&self) -> bool {
        self.all_torrents() >= self.limits.max_torrents - self.limits.max_torrents / 4
    }

    /// Removes a peer, and the torrent too if it has no other and nothing is to be remembered of it.
    fn remove(&mut self, at: Position, peer: Peer) -> Counts {
        let is_crowded = self.is_crowded();
        let Some(torrent) = self.torrents.get_mut(at) else {
            return Counts::default();
        };
        self.swarms.remove(&mut torrent.peers, peer, self.now);
        let is_empty = matches!(torrent.peers, Peers::Empty(_));
        if is_empty && (torrent.downloaded == 0 || is_crowded) {
            self.torrents.remove(at);
            return Counts::default();
        }
        let torrent = self.torrents.get(at);
        torrent.map_or(Counts::default(), |torrent| self.counts(torrent))
    }

    /// The counts of a torrent; none if it is not known.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<Counts> {
        let at = self.torrents.find(info_hash).ok()?;
        Some(self.counts(self.torrents.get(at)?))
    }

    /// Visits the torrents from this info-hash on, in order and at most `max`: the hash, the counts, and the seconds
    /// since the last peer left. Returns the hash to go on from; none is the end.
    ///
    /// The table may change before it goes on: a torrent that is there throughout is visited exactly once.
    pub fn scrape_from(
        &self,
        from: &InfoHash,
        max: usize,
        mut visit: impl FnMut(&InfoHash, Counts, u32),
    ) -> Option<InfoHash> {
        let mut next = *from;
        let mut left = max;
        loop {
            let at = self.torrents.find(&next).unwrap_or_else(|at| at);
            let torrents = self.torrents.rest_of_leaf(at);
            let (now, later) = torrents.split_at(left.min(torrents.len()));
            for torrent in now {
                self.swarms.prefetch(&torrent.peers, 1);
            }
            for torrent in now {
                let idle = self.empty_for(torrent).unwrap_or(0);
                visit(&torrent.info_hash, self.counts(torrent), idle);
            }
            if let Some(torrent) = later.first() {
                return Some(torrent.info_hash);
            }
            left -= now.len();
            // Forwards in any case, so that no mistake in the table could make this endless.
            next = self.torrents.next_fence(at).filter(|fence| *fence > next)?;
        }
    }

    /// Seconds since the torrent lost its last peer; none while it has some.
    fn empty_for(&self, torrent: &Torrent) -> Option<u32> {
        match torrent.peers {
            Peers::Empty(since) => Some(self.now.saturating_sub(since)),
            _ => None,
        }
    }

    /// The counts that clients are sent, decoys included.
    fn counts(&self, torrent: &Torrent) -> Counts {
        Counts::new(self.sizes(torrent).0, torrent.downloaded)
    }
}

/// Fills up a reply with more peers of the hosts in it, as it names all others.
#[cold]
fn fill_up(
    [v4, v6]: [Pool; 2],
    want: usize,
    audience: Audience,
    random: &mut Random,
    sinks: &mut Sinks,
) {
    let named = sinks.v4.bytes().len() / 6 + sinks.v6.bytes().len() / 18;
    let left = want.saturating_sub(named);
    let filled = v4.fill(left, audience, random, &mut sinks.v4);
    v6.fill(left - filled, audience, random, &mut sinks.v6);
}

/// Splits the peers of a reply between two families that have so many: all of both if they fit; else at least a quarter
/// of each that has as much, and the rest in proportion.
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
mod host_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod observer_tests;
#[cfg(test)]
mod tests;
