//! Fills a new table with the items of a state.
//!
//! Ages go on by the wall clock: a peer that announced ten minutes before the save and is loaded an hour after it is
//! seventy minutes old. If the peer timeout was changed meanwhile, ages keep their length in time and the new timeout
//! applies. If the wall clock is behind the time of the save, ages stay as they were saved. The day for which a torrent
//! without peers is remembered does not advance while the tracker is down, as no client can announce then.

use super::read::StateItem;
use crate::tracker::{Hint, InfoHash, LIFE, Peer, Role, Table, Tracked};
use std::fmt;

/// The numbers that were loaded, and those that were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub torrents: u64,
    pub peers: u64,
    /// Peers whose timeout has passed since the save.
    pub expired: u64,
    /// Beyond the limits of the tracker.
    pub torrents_left_out: u64,
    pub peers_left_out: u64,
    /// Torrents that the list of info-hashes refuses.
    pub refused: u64,
    /// Milliseconds since the save; none if the wall clock is behind it.
    pub age_ms: Option<u64>,
}

/// For the log, without the counts that are 0.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Summary {
            torrents, peers, ..
        } = self;
        write!(f, "{torrents} torrents, {peers} peers, ")?;
        match self.age_ms {
            Some(age) => write!(f, "saved {} seconds ago", age / 1000)?,
            None => f.write_str("saved in the future, so ages are as saved")?,
        }
        if self.expired > 0 {
            write!(f, "; {} peers expired since", self.expired)?;
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

/// Fills a table whose time is still zero.
pub struct Restorer<'a> {
    table: &'a Table,
    tracked: Tracked<'a>,
    wall_ms: u64,
    unit_ms: u64,
    /// Milliseconds since the beginning of the unit in which the save began, and of the unit that ages count from.
    since_unit_ms: u64,
    elapsed_ms: u64,
    torrent: Option<LastTorrent>,
    summary: Summary,
}

/// The last torrent, unless it is refused. It is stored with its first peer that has not expired, or for its count.
struct LastTorrent {
    info_hash: InfoHash,
    downloaded: u32,
    empty_for: u32,
    storage: Storage,
}

#[derive(Clone, Copy)]
enum Storage {
    Pending,
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

    pub fn take(&mut self, item: StateItem) {
        match item {
            StateItem::Header {
                unit_ms,
                saved_at,
                into_unit,
            } => self.begin(unit_ms.into(), saved_at, into_unit.into()),
            StateItem::Time { units } => {
                let later = units.saturating_mul(self.unit_ms);
                self.elapsed_ms = self.since_unit_ms.saturating_sub(later);
            }
            StateItem::Torrent {
                info_hash,
                downloaded,
                empty_for,
            } => {
                self.settle();
                let is_tracked = self.tracked.is_none_or(|tracked| tracked(&info_hash));
                self.summary.refused += u64::from(!is_tracked);
                self.torrent = is_tracked.then_some(LastTorrent {
                    info_hash,
                    downloaded,
                    empty_for: empty_for.unwrap_or(0),
                    storage: Storage::Pending,
                });
            }
            StateItem::Peer {
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
        // Units go on where they were, so that ages stay exact, however often the tracker restarts.
        if unit_ms == self.table.unit_ms() {
            let into_unit = self.elapsed_ms % unit_ms;
            self.table
                .each(0, &mut |tracker| tracker.set_back(into_unit));
        }
    }

    fn peer(&mut self, list: u8, endpoint: &[u8], completed: bool, age: u8) {
        let (Some(torrent), Some(peer)) = (&mut self.torrent, Peer::from_endpoint(endpoint)) else {
            return;
        };
        let age_ms = u64::from(age) * self.unit_ms;
        let age = age_ms.saturating_add(self.elapsed_ms) / self.table.unit_ms();
        let Some(age) = u8::try_from(age).ok().filter(|age| u64::from(*age) <= LIFE) else {
            self.summary.expired += 1;
            return;
        };
        let mut shard = self.table.lock_for(&torrent.info_hash, 0);
        if let Storage::Pending = torrent.storage {
            let hint = shard.restore_torrent(&torrent.info_hash, torrent.downloaded, 0);
            torrent.storage = hint.map_or(Storage::LeftOut, Storage::Stored);
        }
        let role = match list % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        };
        let is_stored = match torrent.storage {
            Storage::Stored(hint) => shard.restore_peer(hint, peer, role, completed, age),
            _ => false,
        };
        match is_stored {
            true => self.summary.peers += 1,
            false => self.summary.peers_left_out += 1,
        }
    }

    /// Stores the last torrent, which has no more peers, if it has a count.
    fn settle(&mut self) {
        let Some(mut torrent) = self.torrent.take() else {
            return;
        };
        if let (Storage::Pending, 1..) = (torrent.storage, torrent.downloaded) {
            let hash = &torrent.info_hash;
            let mut shard = self.table.lock_for(hash, 0);
            let hint = shard.restore_memory(hash, torrent.downloaded, torrent.empty_for);
            torrent.storage = hint.map_or(Storage::LeftOut, Storage::Stored);
        }
        match torrent.storage {
            Storage::Stored(_) => self.summary.torrents += 1,
            Storage::LeftOut => self.summary.torrents_left_out += 1,
            Storage::Pending => {}
        }
    }
}
