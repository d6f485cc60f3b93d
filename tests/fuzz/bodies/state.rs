//! A saved state: read, restored into a table, written and restored again.

use super::table::walked;
use announced::base::siphash::Hasher;
use announced::state::{Damage, Restorer, StateItem, StateWriter, read_items};
use announced::tracker::{COMPLETED, Limits, Table};
use std::io::Read;

/// Items as bytes, without the checksum: pieces of lists are joined.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    torrents: u64,
    peers: u64,
    units: u64,
    /// Where the count of the last piece is, its list, and the count.
    piece: Option<(usize, u8, u16)>,
}

impl Written {
    fn take(&mut self, item: StateItem) {
        let before = self.piece.take();
        match item {
            StateItem::Header(header) => {
                self.bytes
                    .extend_from_slice(b"\xa7swarms\n\0\0\0\x02\0\0\0\0");
                self.bytes.extend_from_slice(&header.unit_ms.to_be_bytes());
                self.bytes.extend_from_slice(&header.saved_at.to_be_bytes());
                self.bytes
                    .extend_from_slice(&header.into_unit.to_be_bytes());
                for half in header.connection_key.unwrap_or_default() {
                    self.bytes.extend_from_slice(&half.to_be_bytes());
                }
            }
            // One that does not rise is passed on before it is refused.
            StateItem::Time(units) if units <= self.units => self.piece = before,
            StateItem::Time(units) => {
                self.units = units;
                self.bytes.push(6);
                self.bytes.extend_from_slice(&units.to_be_bytes());
            }
            StateItem::Torrent(torrent) => {
                self.torrents += 1;
                self.bytes.push(4 + u8::from(torrent.empty_for.is_some()));
                self.bytes.extend_from_slice(&torrent.info_hash);
                self.bytes
                    .extend_from_slice(&torrent.downloaded.to_be_bytes());
                if let Some(seconds) = torrent.empty_for {
                    self.bytes.extend_from_slice(&seconds.to_be_bytes());
                }
            }
            StateItem::Peer(peer) => {
                self.peers += 1;
                let joined = before.filter(|(_, list, count)| *list == peer.list && *count < 999);
                let (at, _, count) = joined.unwrap_or_else(|| {
                    self.bytes.extend_from_slice(&[peer.list, 0, 0]);
                    (self.bytes.len() - 2, peer.list, 0)
                });
                self.bytes[at..at + 2].copy_from_slice(&(count + 1).to_be_bytes());
                self.piece = Some((at, peer.list, count + 1));
                self.bytes.extend_from_slice(peer.endpoint);
                let completed = if peer.completed { COMPLETED } else { 0 };
                self.bytes.push(peer.age | completed);
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(7);
        self.bytes.extend_from_slice(&self.torrents.to_be_bytes());
        self.bytes.extend_from_slice(&self.peers.to_be_bytes());
        let mut sum = Hasher::new([0, 0]);
        sum.update(&self.bytes);
        self.bytes.extend_from_slice(&sum.finish().to_be_bytes());
        self.bytes
    }
}

/// A source that gives few bytes at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let length = room.len().min(3);
        self.0.read(&mut room[..length])
    }
}

fn read(source: &mut impl Read) -> (Result<(), Damage>, Option<Vec<u8>>) {
    let mut written = Written::default();
    let result = read_items(source, &mut |item| written.take(item));
    let has_header = !written.bytes.is_empty();
    let result = result.expect("the source has no errors");
    (result, has_header.then(|| written.finish()))
}

pub fn run(data: &[u8]) {
    let (result, complete) = read(&mut &data[..]);
    assert_eq!(read(&mut Trickle(data)), (result, complete.clone()));
    let Some(complete) = complete else {
        return assert!(result.is_err());
    };
    // As far as it was valid, it is valid as a whole with an end behind it.
    assert_eq!(read(&mut &complete[..]), (Ok(()), Some(complete.clone())));
    let cut = &complete[..complete.len() - 1];
    assert!(read(&mut &cut[..]).0.is_err());
    let days = usize::from(data.last().copied().unwrap_or_default());
    check_restored(&complete, days as u64 * 1_000_000);
}

fn restored(state: &[u8], wall_ms: u64, threads: usize) -> Table {
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 400,
        max_torrents: 100,
    };
    let table = Table::new(limits, threads);
    let mut restorer = Restorer::new(&table, None, wall_ms);
    let result = read_items(&mut &state[..], &mut |item| restorer.take(item));
    assert!(matches!(result, Ok(Ok(()))));
    let summary = restorer.finish();
    let totals = table.survey(0).totals;
    assert_eq!(totals.torrents as u64, summary.torrents);
    let peers = (totals.seeders + totals.leechers) as u64;
    // One that was in both lists is stored once.
    assert!(peers <= summary.peers && peers <= 400);
    walked(&table, 0);
    table
}

fn written(table: &Table, wall_ms: u64, budget: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = StateWriter::new(&table.lock(0, 0), wall_ms, Some([1, 2]), &mut out);
    while writer.step(table, 0, budget, &mut out) {}
    assert_eq!(writer.written().bytes, out.len() as u64);
    out
}

/// A table is the same after it was saved and restored, whatever the number of shards.
fn check_restored(state: &[u8], later_ms: u64) {
    let saved_at = u64::from_be_bytes(*state[20..].first_chunk().expect("a header"));
    let wall_ms = saved_at.saturating_add(later_ms);
    let one = restored(state, wall_ms, 1);
    let first = written(&one, wall_ms, 1);
    assert_eq!(written(&one, wall_ms, 1000), first);
    let other = restored(&first, wall_ms, 2);
    assert_eq!(written(&other, wall_ms, 3), first);
}
