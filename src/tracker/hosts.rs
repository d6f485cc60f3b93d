//! The peers of one host in a swarm.
//!
//! A host is an IPv4 address or an IPv6 network of 64 bits. Without bounds a single one owns any swarm: it announces
//! 65,535 ports in half a second. So a reply names at most [`MAX_OF_HOST`] peers of a host while others are there
//! (`sample`), and a swarm stores at most so many as [`HostBound`] says, leechers and seeders together. Hundreds of
//! clients may share an address behind a carrier's NAT, so the second bound is far above the first.
//!
//! At the bound a newcomer replaces the oldest peer of its host. Other nodes are not told of that: each has the same
//! bound and drops the same peer when it receives the newcomer. Of peers that announced in the same unit the one with
//! the lowest port goes, so that nodes that receive the same records keep the same peers.

use super::clock::Clock;
use super::peer::Peer;
use crate::base::nets::{Net, any_contains};
use std::sync::Arc;

/// Peers of a host that a reply names while there are others.
pub const MAX_OF_HOST: usize = 2;

/// How many peers of a host a swarm stores.
#[derive(Clone, Debug)]
pub struct HostBound {
    max: usize,
    /// Addresses of clients that share theirs by the admin's will. They are those that peers are stored under, since
    /// other nodes and a saved state have no others.
    exempt: Arc<[Net]>,
}

impl Default for HostBound {
    fn default() -> HostBound {
        HostBound::new(0, Vec::new())
    }
}

impl HostBound {
    /// No bound for 0.
    pub fn new(max: usize, exempt: Vec<Net>) -> HostBound {
        HostBound {
            max: if max == 0 { usize::MAX } else { max },
            exempt: exempt.into(),
        }
    }

    /// Whether the host of a newcomer, with so many peers in a swarm, has no room for it.
    pub(super) fn is_full(&self, count: usize, newcomer: &Peer) -> bool {
        count >= self.max && !any_contains(&self.exempt, newcomer.ip())
    }
}

/// The room for peers in the table.
#[derive(Clone, Copy, Debug)]
pub struct TableRoom {
    pub left: usize,
    pub max: usize,
}

impl TableRoom {
    /// The reserve is a twentieth of the room.
    const RESERVE: usize = 20;

    /// Whether there is room for one more in a swarm of this size.
    ///
    /// Swarms of fewer than three peers have a reserve: the first seeder of a torrent, and the leecher that finds it,
    /// lose most by not being stored. New torrents have it too, as there the first seeder comes. A flood of random
    /// info-hashes is made of new torrents, but it ends at the maximum of torrents, which by default is a fifth of
    /// the peers. That maximum has no reserve: each new torrent would have a right to it.
    pub fn admits(self, size: usize) -> bool {
        self.left > self.max / Self::RESERVE || (self.left > 0 && size < 3)
    }
}

/// The room for a newcomer.
pub struct Room<'a> {
    pub table: TableRoom,
    /// Whether the table, and then its host, had room for one more peer.
    pub is_free: bool,
    pub hosts: &'a HostBound,
    pub clock: Clock,
}
