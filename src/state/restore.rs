//! Fills a new table with the items of a state.
//!
//! Ages go on by the wall clock: a peer that announced ten minutes before the save and is loaded an hour after it is
//! seventy minutes old. If the peer timeout was changed meanwhile, ages keep their length in time and the new timeout
//! applies. If the wall clock is behind the time of the save, ages stay as they were saved. The day for which a torrent
//! without peers is remembered does not advance while the tracker is down, as no client can announce then.

use super::read::{Header, SavedPeer, SavedTorrent, StateItem};
use super::sizes;
use crate::base::text::counted;
use crate::tracker::{LIFE, Peer, Position, Role, Table, Tracked};
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
    /// The time of the save, in milliseconds since 1970; 0 for none.
    pub saved_ms: u64,
    /// Milliseconds since the save; none if the wall clock is behind it.
    pub age_ms: Option<u64>,
    /// Of UDP connection ids.
    pub connection_key: Option<[u64; 2]>,
}

impl Summary {
    /// The time of the save, in seconds since 1970.
    pub fn saved_at(&self) -> Option<u64> {
        (self.saved_ms > 0).then_some(self.saved_ms / 1000)
    }
}

/// For the log, without the counts that are 0.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}, ", sizes(self.torrents, self.peers))?;
        match self.age_ms {
            Some(age) => write!(f, "saved {} ago", counted(age / 1000, "second"))?,
            None => f.write_str("saved in the future, so ages are as saved")?,
        }
        if self.expired > 0 {
            write!(f, "; {} expired since", counted(self.expired, "peer"))?;
        }
        if self.torrents_left_out + self.peers_left_out > 0 {
            let left_out = sizes(self.torrents_left_out, self.peers_left_out);
            let limits = "--max-torrents, --max-peers, --max-per-host";
            write!(f, "; no room for {left_out} ({limits})")?;
        }
        if self.refused > 0 {
            let refused = counted(self.refused, "torrent");
            write!(f, "; {refused} refused by the list")?;
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
    /// The last torrent, unless it is refused. It is stored with its first peer that has not expired, or for its count.
    torrent: Option<(SavedTorrent, Storage)>,
    summary: Summary,
}

#[derive(Clone, Copy)]
enum Storage {
    Pending,
    Stored(Position),
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
            StateItem::Header(header) => self.begin(header),
            StateItem::Time(units) => {
                let later = units.saturating_mul(self.unit_ms);
                self.elapsed_ms = self.since_unit_ms.saturating_sub(later);
            }
            StateItem::Torrent(torrent) => {
                self.settle();
                let tracked = self.tracked;
                let is_tracked = tracked.is_none_or(|tracked| tracked(&torrent.info_hash));
                self.summary.refused += u64::from(!is_tracked);
                self.torrent = is_tracked.then_some((torrent, Storage::Pending));
            }
            StateItem::Peer(peer) => self.peer(peer),
        }
    }

    /// After the last item.
    pub fn finish(mut self) -> Summary {
        self.settle();
        self.summary
    }

    fn begin(&mut self, header: Header) {
        self.unit_ms = header.unit_ms.into();
        self.summary.connection_key = header.connection_key;
        self.summary.saved_ms = header.saved_at;
        self.summary.age_ms = self.wall_ms.checked_sub(header.saved_at);
        let age_ms = self.summary.age_ms.unwrap_or(0);
        self.since_unit_ms = age_ms.saturating_add(header.into_unit.into());
        self.elapsed_ms = self.since_unit_ms;
        // Units go on where they were, so that ages stay exact, however often the tracker restarts.
        if self.unit_ms == self.table.unit_ms() {
            let into_unit = self.elapsed_ms % self.unit_ms;
            self.table
                .each(0, &mut |tracker| tracker.move_clock(into_unit));
        }
    }

    fn peer(&mut self, saved: SavedPeer) {
        let peer = Peer::from_endpoint(saved.endpoint);
        let (Some((torrent, storage)), Some(peer)) = (&mut self.torrent, peer) else {
            return;
        };
        let age_ms = u64::from(saved.age) * self.unit_ms;
        let age = age_ms.saturating_add(self.elapsed_ms) / self.table.unit_ms();
        let Some(age) = u8::try_from(age).ok().filter(|age| u64::from(*age) <= LIFE) else {
            self.summary.expired += 1;
            return;
        };
        let mut shard = self.table.lock_for(&torrent.info_hash, 0);
        if let Storage::Pending = storage {
            let hint = shard.restore_torrent(&torrent.info_hash, torrent.downloaded, 0);
            *storage = hint.map_or(Storage::LeftOut, Storage::Stored);
        }
        let role = match saved.list % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        };
        let is_stored = match *storage {
            Storage::Stored(hint) => shard.restore_peer(hint, peer, role, saved.completed, age),
            _ => false,
        };
        match is_stored {
            true => self.summary.peers += 1,
            false => self.summary.peers_left_out += 1,
        }
    }

    /// Stores the last torrent, which has no more peers, if it has a count.
    fn settle(&mut self) {
        let Some((torrent, mut storage)) = self.torrent.take() else {
            return;
        };
        if let (Storage::Pending, 1..) = (storage, torrent.downloaded) {
            let (hash, empty_for) = (&torrent.info_hash, torrent.empty_for.unwrap_or(0));
            let mut shard = self.table.lock_for(hash, 0);
            let hint = shard.restore_memory(hash, torrent.downloaded, empty_for);
            storage = hint.map_or(Storage::LeftOut, Storage::Stored);
        }
        match storage {
            Storage::Stored(_) => self.summary.torrents += 1,
            Storage::LeftOut => self.summary.torrents_left_out += 1,
            Storage::Pending => {}
        }
    }
}
