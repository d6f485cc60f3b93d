//! Items of a state put into a tracker that has just begun.
//!
//! Ages go on by the wall clock: a peer that announced ten minutes before the save and comes back an hour
//! after it is seventy minutes old. If the peer timeout was changed meanwhile, ages are kept in time and
//! the new timeout holds. If the wall clock is behind the time of the save, ages are as they were saved.
//! The day that a torrent without peers is remembered for stands still while the tracker is down, for
//! nobody could announce.

use super::read::Item;
use std::fmt;

use crate::tracker::{Hint, InfoHash, LIFE, Peer, Role, Table, Tracked};

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub torrents: u64,
    pub peers: u64,
    /// Peers whose timeout has passed since the save.
    pub expired: u64,
    /// Torrents and peers that the tracker's limits left no room for.
    pub torrents_left_out: u64,
    pub peers_left_out: u64,
    /// Torrents that the list of info-hashes refuses.
    pub refused: u64,
    /// Milliseconds since the save; none if the wall clock is behind it.
    pub age_ms: Option<u64>,
}

/// For the log; what did not happen is left out.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Summary {
            torrents, peers, ..
        } = self;
        write!(f, "loaded {torrents} torrents, {peers} peers")?;
        match self.age_ms {
            Some(age) => write!(f, ", saved {} seconds ago", age / 1000)?,
            None => {
                f.write_str(", saved in the future: the clock was set back, ages are as saved")?
            }
        }
        if self.expired > 0 {
            write!(f, "; {} peers have expired since", self.expired)?;
        }
        let (torrents, peers) = (self.torrents_left_out, self.peers_left_out);
        if torrents + peers > 0 {
            write!(
                f,
                "; no room for {torrents} torrents, {peers} peers (--max-torrents, --max-peers)"
            )?;
        }
        if self.refused > 0 {
            write!(f, "; {} torrents refused by the list", self.refused)?;
        }
        Ok(())
    }
}

/// Puts items into a table whose time is still zero.
pub struct Restorer<'a> {
    table: &'a Table,
    tracked: Tracked<'a>,
    wall_ms: u64,
    unit_ms: u64,
    /// Milliseconds since the unit began in which the save did, and since the one that ages count from.
    since_unit_ms: u64,
    elapsed_ms: u64,
    torrent: Option<Torrent>,
    summary: Summary,
}

/// The last torrent, unless it is refused. It is stored once there is something to store: a peer that has
/// not expired, or a count.
struct Torrent {
    info_hash: InfoHash,
    downloaded: u32,
    empty_for: u32,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    NotStored,
    Stored(Hint),
    LeftOut,
}

impl<'a> Restorer<'a> {
    /// `wall_ms` is now, in milliseconds since 1970. Torrents that are not tracked are skipped.
    pub fn new(table: &'a Table, tracked: Tracked<'a>, wall_ms: u64) -> Restorer<'a> {
        Restorer {
            table,
            tracked,
            wall_ms,
            unit_ms: 1,
            since_unit_ms: 0,
            elapsed_ms: 0,
            torrent: None,
            summary: Summary::default(),
        }
    }

    pub fn take(&mut self, item: Item) {
        match item {
            Item::Header {
                unit_ms,
                saved_at,
                into_unit,
            } => self.begin(unit_ms.into(), saved_at, into_unit.into()),
            Item::Time { units } => {
                let later = units.saturating_mul(self.unit_ms);
                self.elapsed_ms = self.since_unit_ms.saturating_sub(later);
            }
            Item::Torrent {
                info_hash,
                downloaded,
                empty_for,
            } => {
                self.settle();
                let is_tracked = self.tracked.is_none_or(|tracked| tracked(&info_hash));
                self.summary.refused += u64::from(!is_tracked);
                self.torrent = is_tracked.then_some(Torrent {
                    info_hash,
                    downloaded,
                    empty_for: empty_for.unwrap_or(0),
                    place: Place::NotStored,
                });
            }
            Item::Peer {
                list,
                endpoint,
                completed,
                age,
            } => self.peer(list, endpoint, completed, age),
        }
    }

    /// After the last item.
    pub fn finish(mut self) -> Summary {
        self.settle();
        self.summary
    }

    fn begin(&mut self, unit_ms: u64, saved_at: u64, into_unit: u64) {
        self.unit_ms = unit_ms;
        self.summary.age_ms = self.wall_ms.checked_sub(saved_at);
        let age_ms = self.summary.age_ms.unwrap_or(0);
        self.since_unit_ms = age_ms.saturating_add(into_unit);
        self.elapsed_ms = self.since_unit_ms;
        // With units that go on where they were, ages are exact, however often the tracker restarts.
        if unit_ms == self.table.unit_ms() {
            let into_unit = self.elapsed_ms % unit_ms;
            self.table
                .each(0, &mut |tracker| tracker.set_back(into_unit));
        }
    }

    fn peer(&mut self, list: u8, endpoint: &[u8], completed: bool, age: u8) {
        if self.torrent.is_none() {
            return;
        }
        let age_ms = u64::from(age) * self.unit_ms;
        let age = age_ms.saturating_add(self.elapsed_ms) / self.table.unit_ms();
        let age = match u8::try_from(age) {
            Ok(units) if age <= LIFE => units,
            _ => {
                self.summary.expired += 1;
                return;
            }
        };
        let (Some(peer), Some(torrent)) = (Peer::from_endpoint(endpoint), &mut self.torrent) else {
            return;
        };
        let mut shard = self.table.lock_for(&torrent.info_hash, 0);
        if let Place::NotStored = torrent.place {
            let Torrent {
                info_hash,
                downloaded,
                ..
            } = torrent;
            torrent.place = match shard.restore_torrent(info_hash, *downloaded, 0) {
                Some(hint) => Place::Stored(hint),
                None => Place::LeftOut,
            };
        }
        let role = match list % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        };
        let stored = match torrent.place {
            Place::Stored(hint) => shard.restore_peer(hint, peer, role, completed, age),
            _ => false,
        };
        match stored {
            true => self.summary.peers += 1,
            false => self.summary.peers_left_out += 1,
        }
    }

    /// No more peers come for the last torrent.
    fn settle(&mut self) {
        let Some(mut torrent) = self.torrent.take() else {
            return;
        };
        if let (Place::NotStored, 1..) = (torrent.place, torrent.downloaded) {
            let Torrent {
                info_hash,
                downloaded,
                empty_for,
                ..
            } = torrent;
            let mut shard = self.table.lock_for(&info_hash, 0);
            torrent.place = match shard.restore_memory(&info_hash, downloaded, empty_for) {
                Some(hint) => Place::Stored(hint),
                None => Place::LeftOut,
            };
        }
        match torrent.place {
            Place::Stored(_) => self.summary.torrents += 1,
            Place::LeftOut => self.summary.torrents_left_out += 1,
            Place::NotStored => {}
        }
    }
}
