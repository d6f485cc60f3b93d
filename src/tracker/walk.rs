//! The whole table from outside: walked in slices to be saved, and put back.
//!
//! A walk holds the key that it goes on from and never an index, so the table may change under it: what
//! is there throughout is met exactly once, and in order; what comes or goes meanwhile may or may not be
//! met. A peer that changes its role meanwhile may be met in both; the later is the newer.

use super::clock::LIFE;
use super::peers::{COMPLETED, Peer, Role};
use super::small;
use super::swarms::{self, Peers, Update, Within};
use super::torrents::Torrent;
use super::{Hint, InfoHash, KEEP_EMPTY, Tracker};

/// Bytes of a peer's record in each list of a swarm: IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6
/// seeders. Address and port as on the wire, and the tag.
pub const RECORD_SIZES: [usize; 4] = small::SIZES;

/// Where a walk goes on. The default is the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    torrent: InfoHash,
    /// Set in the middle of a swarm.
    within: Option<Within>,
}

impl Cursor {
    /// At this torrent, or where it would be.
    pub fn at(torrent: InfoHash) -> Cursor {
        Cursor {
            torrent,
            within: None,
        }
    }

    /// The torrent to go on with, or one that was there.
    pub fn torrent(&self) -> &InfoHash {
        &self.torrent
    }
}

/// What a walk meets: each torrent before its peers, lists and records in order.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Torrent {
        info_hash: &'a InfoHash,
        downloaded: u32,
        /// Seconds since it has been without peers; none while it has some.
        empty_for: Option<u32>,
    },
    /// Whole records of one of the four lists; a long list comes in several pieces.
    Peers { list: u8, records: &'a [u8] },
}

/// Torrents between the one that a walk meets and the one whose swarm it prefetches.
const WALK_AHEAD: usize = 8;

impl Tracker {
    /// Walks on by about `budget` torrents and peers, a chunk of a large swarm at least. None is the end.
    pub fn walk(
        &self,
        from: Cursor,
        budget: usize,
        visit: &mut dyn FnMut(Found),
    ) -> Option<Cursor> {
        let mut cursor = from;
        let mut spent = 0;
        loop {
            let at = self.torrents.find(&cursor.torrent).unwrap_or_else(|at| at);
            let torrents = self.torrents.rest_of_chunk(at);
            for (index, torrent) in torrents.iter().enumerate() {
                if let Some(later) = torrents.get(index + WALK_AHEAD) {
                    self.swarms.prefetch(&later.peers);
                }
                if spent >= budget && torrent.info_hash != cursor.torrent {
                    cursor.torrent = torrent.info_hash;
                    return Some(cursor);
                }
                // A swarm that was left half-way may have gone; its place in the next one means nothing.
                let resumed = cursor.within.take();
                let resumed = resumed.filter(|_| torrent.info_hash == cursor.torrent);
                cursor.within = self.walk_torrent(torrent, resumed, budget, &mut spent, visit);
                if cursor.within.is_some() {
                    cursor.torrent = torrent.info_hash;
                    return Some(cursor);
                }
            }
            cursor = Cursor::at(self.torrents.next_fence(at)?);
            if spent >= budget {
                return Some(cursor);
            }
        }
    }

    /// Tells where in the swarm to go on if the budget is spent before its end.
    fn walk_torrent(
        &self,
        torrent: &Torrent,
        resumed: Option<Within>,
        budget: usize,
        spent: &mut usize,
        visit: &mut dyn FnMut(Found),
    ) -> Option<Within> {
        if resumed.is_none() {
            *spent += 1;
            visit(Found::Torrent {
                info_hash: &torrent.info_hash,
                downloaded: torrent.downloaded,
                empty_for: match torrent.peers {
                    Peers::Empty(since) => Some(self.now.saturating_sub(since)),
                    _ => None,
                },
            });
        }
        let mut next = match torrent.peers {
            Peers::Empty(_) => None,
            _ => Some(resumed.unwrap_or(swarms::FIRST)),
        };
        while let Some(within) = next {
            let (records, after) = self.swarms.run(&torrent.peers, within);
            next = after;
            let size = RECORD_SIZES.get(usize::from(within.list));
            if let Some(size) = size.filter(|_| !records.is_empty()) {
                *spent += records.len() / size;
                let list = within.list;
                visit(Found::Peers { list, records });
            }
            if *spent >= budget {
                break;
            }
        }
        next
    }

    /// Milliseconds in a unit of the clock.
    pub fn unit_ms(&self) -> u64 {
        self.unit_ms
    }

    /// Units since the start.
    pub fn units(&self) -> u64 {
        self.clock.unit()
    }

    /// How many units ago the peer of this tag announced; none if it has expired.
    pub fn age(&self, tag: u8) -> Option<u8> {
        Some(self.clock.age(tag)).filter(|age| u64::from(*age) <= LIFE)
    }

    /// Milliseconds since the unit began.
    pub fn into_unit_ms(&self) -> u64 {
        self.now_ms
            .saturating_sub(self.units().saturating_mul(self.unit_ms))
    }

    /// Takes the start to have been so many milliseconds earlier.
    pub fn set_back(&mut self, ms: u64) {
        self.ahead_ms = self.ahead_ms.saturating_add_unsigned(ms);
    }

    /// Puts back a torrent without its peers, unless it is known already; none if there is no room.
    /// `empty_for` is how many seconds ago it had its last peer.
    pub fn restore_torrent(
        &mut self,
        info_hash: &InfoHash,
        downloaded: u32,
        empty_for: u32,
    ) -> Option<Hint> {
        let at = match self.torrents.find(info_hash) {
            Ok(at) => return Some(Hint::found(at)),
            Err(at) => at,
        };
        if self.all_torrents() >= self.limits.max_torrents {
            return None;
        }
        let torrent = Torrent {
            info_hash: *info_hash,
            downloaded,
            peers: Peers::Empty(self.now.saturating_sub(empty_for)),
        };
        Some(Hint::found(self.torrents.insert(at, torrent)))
    }

    /// The same for a torrent of which only the count is left. There is no room for it once memories
    /// must make room for torrents with peers, and none for one that has been empty for too long.
    pub fn restore_memory(
        &mut self,
        info_hash: &InfoHash,
        downloaded: u32,
        empty_for: u32,
    ) -> Option<Hint> {
        match self.is_crowded() || empty_for >= KEEP_EMPTY {
            true => None,
            false => self.restore_torrent(info_hash, downloaded, empty_for),
        }
    }

    /// Puts a peer back into the torrent that [`Tracker::restore_torrent`] has just put back; `age` is
    /// in units. False if there is no room.
    pub fn restore_peer(
        &mut self,
        torrent: Hint,
        peer: Peer,
        role: Role,
        completed: bool,
        age: u8,
    ) -> bool {
        let completed = if completed { COMPLETED } else { 0 };
        let update = Update {
            role,
            tag: self.clock.ago(age).stamp() | completed,
            room: self.has_room(),
        };
        let Some(torrent) = self.torrents.get_mut(torrent.at) else {
            return false;
        };
        let seen = self.swarms.update(&mut torrent.peers, peer, update);
        seen.is_some()
    }
}
