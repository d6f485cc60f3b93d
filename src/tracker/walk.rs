//! The whole table from outside: walked in slices to be saved, and restored.
//!
//! A walk goes on from a key and never from an index, so the table may change under it: what is there throughout is
//! visited exactly once, and in order; what comes or goes meanwhile may be visited or not. A peer that changes its role
//! meanwhile may be visited in both; the later visit is the newer.

use super::peer::{COMPLETED, Peer, RECORD_SIZES, Role, count};
use super::swarms::SwarmCursor;
use super::torrents::{Position, Torrent};
use super::{InfoHash, KEEP_EMPTY, LOOKED_AHEAD, PREFETCHED, Tracker};

/// Where a walk goes on. The default is the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    torrent: InfoHash,
    /// Set in the middle of a swarm.
    pub(super) within: Option<SwarmCursor>,
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

    /// Where to go on in this swarm. A swarm that was left half-way may have gone; a place in it means nothing in the
    /// next one.
    pub(super) fn within(&self, torrent: &InfoHash) -> Option<SwarmCursor> {
        self.within.filter(|_| *torrent == self.torrent)
    }
}

/// An item of a walk: each torrent comes before its peers, lists and records in order.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Torrent {
        info_hash: &'a InfoHash,
        downloaded: u32,
        /// Seconds since it lost its last peer; none while it has some.
        empty_for: Option<u32>,
    },
    /// Whole records of one of the four lists; a long list comes in several pieces.
    Peers { list: u8, records: &'a [u8] },
}

impl Tracker {
    /// Walks on by about `budget` torrents and peers, and at least a torrent or a chunk of a large swarm. None is the
    /// end.
    pub fn walk(
        &self,
        mut from: Cursor,
        budget: usize,
        visit: &mut dyn FnMut(Found),
    ) -> Option<Cursor> {
        let mut spent = 0;
        loop {
            let at = self.torrents.find(&from.torrent).unwrap_or_else(|at| at);
            let torrents = self.torrents.rest_of_leaf(at);
            for (index, torrent) in torrents.iter().enumerate() {
                if let Some(later) = torrents.get(index + LOOKED_AHEAD) {
                    self.swarms.prefetch(&later.peers, PREFETCHED);
                }
                let mut next = Cursor::at(torrent.info_hash);
                if spent >= budget && index > 0 {
                    return Some(next);
                }
                next.within = from.within(&torrent.info_hash);
                next.within = self.walk_torrent(torrent, next.within, budget, &mut spent, visit);
                if next.within.is_some() {
                    return Some(next);
                }
            }
            from = Cursor::at(self.torrents.next_fence(at)?);
            if spent >= budget {
                return Some(from);
            }
        }
    }

    /// Returns where in the swarm to go on if the budget is spent before its end.
    fn walk_torrent(
        &self,
        torrent: &Torrent,
        from: Option<SwarmCursor>,
        budget: usize,
        spent: &mut usize,
        visit: &mut dyn FnMut(Found),
    ) -> Option<SwarmCursor> {
        let empty_for = self.empty_for(torrent);
        if from.is_none() {
            *spent += 1;
            visit(Found::Torrent {
                info_hash: &torrent.info_hash,
                downloaded: torrent.downloaded,
                empty_for,
            });
        }
        let mut next = from.or(empty_for.is_none().then_some(SwarmCursor::START));
        while let Some(from) = next {
            let (records, after) = self.swarms.run(&torrent.peers, from);
            if !records.is_empty() {
                *spent += count(records, RECORD_SIZES[from.list]);
                let list = from.list as u8; // Below 4.
                visit(Found::Peers { list, records });
            }
            next = after;
            if *spent >= budget {
                break;
            }
        }
        next
    }

    /// Restores a torrent without its peers, unless it is known already; none if there is no room. It lost its last
    /// peer `empty_for` seconds ago.
    pub fn restore_torrent(
        &mut self,
        info_hash: &InfoHash,
        downloaded: u32,
        empty_for: u32,
    ) -> Option<Position> {
        let empty_since = self.now.saturating_sub(empty_for);
        match self.torrents.find(info_hash) {
            Ok(at) => Some(at),
            Err(at) => self.add_torrent(at, info_hash, downloaded, empty_since),
        }
    }

    /// Restores a torrent of which only the downloaded count is left. There is no room for it once such torrents
    /// must make room for torrents with peers, and none if it has been empty for too long.
    pub fn restore_memory(
        &mut self,
        info_hash: &InfoHash,
        downloaded: u32,
        empty_for: u32,
    ) -> Option<Position> {
        match self.is_crowded() || empty_for >= KEEP_EMPTY {
            true => None,
            false => self.restore_torrent(info_hash, downloaded, empty_for),
        }
    }

    /// Restores a peer of the torrent that [`Tracker::restore_torrent`] has just restored; `age` is
    /// in units. False if there is no room.
    pub fn restore_peer(
        &mut self,
        torrent: Position,
        peer: Peer,
        role: Role,
        completed: bool,
        age: u8,
    ) -> bool {
        let completed = if completed { COMPLETED } else { 0 };
        let peer = peer.with_tag(self.clock.ago(age).stamp() | completed);
        self.put(torrent, peer, role).is_some()
    }
}
