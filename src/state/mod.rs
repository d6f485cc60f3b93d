//! The table as bytes on disk.
//!
//! All numbers are big-endian. The header has 48 bytes:
//!
//! ```text
//!  0   8  magic: a7 "swarms" 0a
//!  8   4  format version: 2
//! 12   4  flags: 0, others are refused
//! 16   4  unit of ages in milliseconds: a 48th of the peer timeout, rounded down, or a 96th in files of older releases
//! 20   8  time of the save, in milliseconds since 1970
//! 28   4  milliseconds since the clock's unit began
//! 32  16  secret key of UDP connection ids; zeros for none, as in a cluster, which has its own. Not in version 1
//! ```
//!
//! Items follow, each with its kind in the first byte:
//!
//! ```text
//! 0..3  peers of the last torrent: IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders
//!       count 2, then as many of: address 4 or 16, port 2, top bit: completed, others: age in units (0..96) 1
//! 4     a torrent with peers: info-hash 20, downloaded 4
//! 5     a torrent without: info-hash 20, downloaded 4, seconds since it has been without 4
//! 6     ages from here on count from so many units after the one in which the save began: 8
//! 7     the end: torrents 8, peers 8, and SipHash-2-4 with a key of zeros over all bytes before it 8
//! ```
//!
//! Info-hashes rise strictly; so do the lists of a torrent and the addresses in each. A list may come in several
//! pieces. A peer whose role changed while its swarm was being written may be in both lists: the later entry is the
//! newer one.
//!
//! A save takes many turns of the loop, and peers grow older meanwhile: item 6 keeps their ages exact. The checksum
//! guards against failing disks and truncation, not against an attacker who may write the file.
//!
//! Saving: [`Saves`] decides when, [`StateWriter`] walks the table, the helper process writes the file. Loading, at the
//! start: [`load`] opens the file, [`read_items`] checks the bytes, `Restorer` fills the table.

use crate::base::text::counted;
use std::time::{SystemTime, UNIX_EPOCH};

mod dump;
mod files;
mod read;
mod restore;
mod saves;
mod write;

pub use dump::{DumpSummary, load_dump};
pub use files::{Loaded, check, check_saving, load};
pub use read::{Damage, StateItem, read_items};
pub use restore::{Restorer, Summary};
pub use saves::Saves;
pub use write::{StateWriter, Written};

/// Now, in milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// `2 torrents, 1 peer`
pub fn sizes(torrents: u64, peers: u64) -> String {
    let (torrents, peers) = (counted(torrents, "torrent"), counted(peers, "peer"));
    format!("{torrents}, {peers}")
}

const MAGIC: [u8; 8] = *b"\xa7swarms\n";
const VERSION: u32 = 2;
const KEY: [u64; 2] = [0, 0];

/// Kinds of items; 0 to 3 are peers.
const TORRENT: u8 = 4;
const EMPTY_TORRENT: u8 = 5;
const TIME: u8 = 6;
const END: u8 = 7;

/// The greatest age in units, and the most units that a peer timeout has.
const MAX_AGE: u8 = 96;

#[cfg(test)]
mod tests;
