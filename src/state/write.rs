//! Writes the table as bytes, a slice at a time.

use super::{EMPTY_TORRENT, END, KEY, MAGIC, TIME, TORRENT, VERSION};
use crate::base::siphash::Hasher;
use crate::tracker::{COMPLETED, Cursor, Found, RECORD_SIZES, Table, Tracker};

/// Steps in a row in which a save does nothing because another thread holds the shard. Then it waits for the lock, as a
/// lock that is never free would stop the save.
const MAX_SKIPPED: u32 = 16;

/// A save under way. It holds no lock between steps, so the table may change meanwhile.
pub struct StateWriter {
    /// The next torrent; none when all are written.
    cursor: Option<Cursor>,
    sum: Option<Hasher>,
    /// The unit in which the save began, and the one that ages count from now.
    began: u64,
    counted_from: u64,
    /// Steps in a row in which another thread held the shard.
    skipped: u32,
    written: Written,
}

/// The numbers written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub torrents: u64,
    pub peers: u64,
    pub bytes: u64,
}

impl StateWriter {
    /// Begins with the header. `wall_ms` is the present time, in milliseconds since 1970.
    pub fn new(
        tracker: &Tracker,
        wall_ms: u64,
        connection_key: Option<[u64; 2]>,
        out: &mut Vec<u8>,
    ) -> StateWriter {
        let units = tracker.clock().unit();
        let unit_ms = u32::try_from(tracker.unit_ms()).unwrap_or(u32::MAX);
        let into_unit = u32::try_from(tracker.into_unit_ms()).unwrap_or(0);
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&0_u32.to_be_bytes());
        out.extend_from_slice(&unit_ms.to_be_bytes());
        out.extend_from_slice(&wall_ms.to_be_bytes());
        out.extend_from_slice(&into_unit.to_be_bytes());
        for half in connection_key.unwrap_or_default() {
            out.extend_from_slice(&half.to_be_bytes());
        }
        let mut writer = StateWriter {
            cursor: Some(Cursor::default()),
            sum: Some(Hasher::new(KEY)),
            began: units,
            counted_from: units,
            skipped: 0,
            written: Written::default(),
        };
        writer.add_to_sum(out, start);
        writer
    }

    pub fn written(&self) -> Written {
        self.written
    }

    /// Whether all bytes are written.
    pub fn is_at_end(&self) -> bool {
        self.sum.is_none()
    }

    /// Appends about `budget` torrents and peers, at most some 40 bytes each; false when the end is written. While
    /// another thread holds the shard it appends nothing, [`MAX_SKIPPED`] times in a row at most.
    pub fn step(&mut self, table: &Table, now_ms: u64, budget: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let Some(cursor) = self.cursor else {
            self.end(out);
            return false;
        };
        let shard = table.shard_of(cursor.torrent());
        let tracker = match table.try_lock(shard, now_ms) {
            Some(tracker) => tracker,
            None if self.skipped < MAX_SKIPPED => {
                self.skipped += 1;
                return true;
            }
            None => table.lock(shard, now_ms),
        };
        self.skipped = 0;
        let unit = tracker.clock().unit();
        if unit != self.counted_from {
            self.counted_from = unit;
            let units = self.counted_from.saturating_sub(self.began);
            out.push(TIME);
            out.extend_from_slice(&units.to_be_bytes());
        }
        let written = &mut self.written;
        let next = tracker.walk(cursor, budget, &mut |found| {
            write(&tracker, found, out, written);
        });
        drop(tracker);
        self.cursor = next.or_else(|| table.first_behind(shard).map(Cursor::at));
        // The checksum takes a while, so it is computed without the lock.
        self.add_to_sum(out, start);
        true
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(END);
        out.extend_from_slice(&self.written.torrents.to_be_bytes());
        out.extend_from_slice(&self.written.peers.to_be_bytes());
        self.add_to_sum(out, start);
        if let Some(sum) = self.sum.take() {
            out.extend_from_slice(&sum.finish().to_be_bytes());
            self.written.bytes += 8;
        }
    }

    fn add_to_sum(&mut self, out: &[u8], start: usize) {
        let new = out.get(start..).unwrap_or_default();
        self.written.bytes += new.len() as u64;
        if let Some(sum) = &mut self.sum {
            sum.update(new);
        }
    }
}

fn write(tracker: &Tracker, found: Found, out: &mut Vec<u8>, written: &mut Written) {
    match found {
        Found::Torrent {
            info_hash,
            downloaded,
            empty_for,
        } => {
            written.torrents += 1;
            out.push(empty_for.map_or(TORRENT, |_| EMPTY_TORRENT));
            out.extend_from_slice(info_hash);
            out.extend_from_slice(&downloaded.to_be_bytes());
            if let Some(seconds) = empty_for {
                out.extend_from_slice(&seconds.to_be_bytes());
            }
        }
        Found::Peers { list, records } => {
            written.peers += u64::from(write_peers(tracker, list, records, out));
        }
    }
}

/// One piece of a list, unless it is empty; how many peers. A walk passes a chunk at a time, far less than the count
/// allows.
fn write_peers(tracker: &Tracker, list: u8, records: &[u8], out: &mut Vec<u8>) -> u16 {
    let size = RECORD_SIZES.get(usize::from(list)).map_or(1, |size| *size);
    let start = out.len();
    out.extend_from_slice(&[list, 0, 0]);
    let mut count = 0_u16;
    for record in records.chunks_exact(size) {
        let [endpoint @ .., tag] = record else {
            continue;
        };
        if let Some(age) = tracker.age(*tag).filter(|_| count < u16::MAX) {
            out.extend_from_slice(endpoint);
            out.push(age | tag & COMPLETED);
            count += 1;
        }
    }
    match out.get_mut(start + 1..start + 3) {
        Some(room) if count > 0 => room.copy_from_slice(&count.to_be_bytes()),
        _ => out.truncate(start),
    }
    count
}
