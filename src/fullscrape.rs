//! Every torrent of the tracker as one stream, plain or gzip, in the formats that opentracker has.
//!
//! A stream is a value that is asked for its next slice whenever the client has taken the one before. It
//! holds the info-hash to go on from and never an index, so the table may change meanwhile: torrents that
//! are there throughout appear exactly once, and all are in order. The counts are those of the moment.

use crate::gzip::Gzip;
use crate::proto::bencode::{self, decimal};
use crate::tracker::{Counts, InfoHash, Table, Tracked};

/// What a stream tells of each torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bencoded dictionary of a scrape (BEP 48).
    Ben,
    /// `HEX:seeders:leechers`, a line each.
    Txt,
    /// `HEX:seeders:leechers:downloaded`
    Txtp,
    /// The info-hash, seeders and leechers as four bytes each, big-endian.
    Bin,
    /// As [`Format::Txt`], with the hash as a URL has it.
    Url,
    /// `HEX:minute:downloaded`, the minute being that of the last announce, counted from 1970. It is
    /// `now` for torrents that have peers.
    State { now: u64 },
}

impl Format {
    /// The format that goes by this name in `/stats?mode=tpbs&format=`.
    pub fn named(name: &[u8]) -> Option<Format> {
        Some(match name {
            b"ben" => Format::Ben,
            b"txt" => Format::Txt,
            b"txtp" => Format::Txtp,
            b"bin" => Format::Bin,
            b"url" => Format::Url,
            _ => return None,
        })
    }
}

/// The most bytes that a torrent takes.
const LONGEST: usize = 128;

/// Torrents in a slice, plain: up to 32 KiB. With 80, one UDP connect in a hundred waited for more than
/// 1.3 ms, where it is 0.5 now.
const PLAIN: usize = 400;
/// The same compressed. A few slices in a row make nothing, then one makes a block, in three tenths.
const GZIP: usize = 125;
/// Bytes that are compressed into a block: four slices. Blocks so small make the output 0.4 % larger.
const BLOCK: usize = 32 * 1024;

/// A full scrape underway.
pub struct FullScrape {
    format: Format,
    place: Place,
    gzip: Option<Press>,
}

#[derive(Clone, Copy)]
enum Place {
    Start,
    At(InfoHash),
    End,
}

/// A compressor, and the slice that it is fed.
struct Press {
    gzip: Option<Box<Gzip>>,
    slice: Vec<u8>,
    /// Bytes of the block that is not ended.
    in_block: usize,
    is_over: bool,
}

impl FullScrape {
    pub fn new(format: Format, gzip: bool) -> FullScrape {
        FullScrape {
            format,
            place: Place::Start,
            gzip: gzip.then(|| Press {
                gzip: None,
                slice: Vec::new(),
                in_block: 0,
                is_over: false,
            }),
        }
    }

    /// Bytes that it takes beside its output.
    pub fn size(&self) -> usize {
        match self.gzip {
            Some(_) => Gzip::SIZE + GZIP * LONGEST,
            None => 0,
        }
    }

    /// Reads the next slice of the table; whether there is more. Torrents that are no longer tracked are left out.
    /// A plain slice is appended to `out`; one that is to be compressed is kept for [`FullScrape::press`]. `now_ms` is in
    /// milliseconds since the start.
    pub fn read(
        &mut self,
        table: &Table,
        now_ms: u64,
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        let most = match self.gzip {
            Some(_) => GZIP,
            None => PLAIN,
        };
        self.read_most(most, (table, now_ms), tracked, out)
    }

    fn read_most(
        &mut self,
        most: usize,
        table: (&Table, u64),
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        let out = self.gzip.as_mut().map_or(out, |press| &mut press.slice);
        let mut left = most;
        // Shards with few torrents are read together.
        while left > 0 && !matches!(self.place, Place::End) {
            self.place = write_some(self.format, self.place, &mut left, (table, tracked), out);
        }
        !matches!(self.place, Place::End)
    }

    /// Compresses the slice that was read last, if it is to be compressed, and appends the result, which may be empty.
    /// The caller should hold no lock meanwhile.
    pub fn press(&mut self, out: &mut Vec<u8>) {
        let Some(press) = &mut self.gzip else {
            return;
        };
        let gzip = press.gzip.get_or_insert_with(|| Gzip::begin(out));
        gzip.compress(&press.slice, out);
        press.in_block += press.slice.len();
        press.slice.clear();
        if press.in_block >= BLOCK {
            press.in_block = 0;
            gzip.end_block(out);
        }
        if let (Place::End, false) = (self.place, press.is_over) {
            press.is_over = true;
            gzip.finish(out);
        }
    }
}

/// Appends torrents of one shard from this place on, as many as are `left` at most; the place to go on from.
fn write_some(
    format: Format,
    place: Place,
    left: &mut usize,
    ((table, now_ms), tracked): ((&Table, u64), Tracked),
    out: &mut Vec<u8>,
) -> Place {
    let from = match place {
        Place::Start => [0; 20],
        Place::At(hash) => hash,
        Place::End => return Place::End,
    };
    out.reserve(left.saturating_mul(LONGEST).min(PLAIN * LONGEST));
    if format == Format::Ben && matches!(place, Place::Start) {
        out.extend_from_slice(b"d5:filesd");
    }
    let most = *left;
    let next = table.scrape_from(&from, now_ms, most, |hash, counts, idle| {
        *left = left.saturating_sub(1);
        if tracked.is_none_or(|tracked| tracked(hash)) {
            write_one(format, hash, counts, idle, out);
        }
    });
    if let Some(hash) = next {
        return Place::At(hash);
    }
    if format == Format::Ben {
        out.extend_from_slice(b"ee");
    }
    Place::End
}

fn write_one(format: Format, hash: &InfoHash, counts: Counts, idle: u32, out: &mut Vec<u8>) {
    let Counts {
        seeders,
        leechers,
        downloaded,
    } = counts;
    match format {
        Format::Ben => bencode::scraped(out, hash, counts),
        Format::Bin => {
            out.extend_from_slice(hash);
            out.extend_from_slice(&seeders.to_be_bytes());
            out.extend_from_slice(&leechers.to_be_bytes());
        }
        Format::Txt => write_line(out, write_hex, hash, &[seeders.into(), leechers.into()]),
        Format::Url => write_line(out, write_url, hash, &[seeders.into(), leechers.into()]),
        Format::Txtp => {
            let numbers = [seeders.into(), leechers.into(), downloaded.into()];
            write_line(out, write_hex, hash, &numbers);
        }
        Format::State { now } => {
            let minute = now.saturating_sub(u64::from(idle / 60));
            write_line(out, write_hex, hash, &[minute, downloaded.into()]);
        }
    }
}

fn write_line(
    out: &mut Vec<u8>,
    write_hash: fn(&mut Vec<u8>, &InfoHash),
    hash: &InfoHash,
    numbers: &[u64],
) {
    write_hash(out, hash);
    for &number in numbers {
        out.push(b':');
        decimal(out, number);
    }
    out.push(b'\n');
}

fn write_hex(out: &mut Vec<u8>, hash: &InfoHash) {
    for &byte in hash {
        out.extend_from_slice(&hex(byte, b"0123456789ABCDEF"));
    }
}

/// As opentracker writes it: `%` and two small digits for all that has a meaning in a URL, or none.
fn write_url(out: &mut Vec<u8>, hash: &InfoHash) {
    for &byte in hash {
        if byte.is_ascii_alphanumeric() || b"$-./=_~".contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(&hex(byte, b"0123456789abcdef"));
        }
    }
}

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| digits[usize::from(digit)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::sys::chunks::as_chunks;
    use crate::tracker::{Event, Limits, Peer, Role};
    use miniz_oxide::inflate::decompress_to_vec;
    use std::collections::BTreeMap;

    fn table(threads: usize) -> Table {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1 << 20,
            max_torrents: 1 << 20,
        };
        Table::new(limits, threads)
    }

    fn announce(table: &Table, info_hash: &InfoHash, port: u16, role: Role, event: Event) {
        table.lock_for(info_hash, 0).tell(
            info_hash,
            Peer::new([192, 0, 2, 1].into(), port),
            role,
            event,
        );
    }

    fn whole(format: Format, most: usize, table: &Table) -> Vec<u8> {
        let mut scrape = FullScrape::new(format, false);
        let mut out = Vec::new();
        while scrape.read_most(most, (table, 0), None, &mut out) {}
        assert!(
            !scrape.read_most(most, (table, 0), None, &mut out),
            "it stays over"
        );
        out
    }

    /// Two torrents: one with a seeder that has completed and a leecher, one that only was completed.
    fn two() -> (Table, [InfoHash; 2]) {
        let table = table(2);
        let hashes = [*b"aA0$%&\0\xff:+-./=_~!*'(", *b"bbbbbbbbbbbbbbbbbbbb"];
        announce(&table, &hashes[1], 1, Role::Seeder, Event::Completed);
        announce(&table, &hashes[1], 1, Role::Seeder, Event::Stopped);
        announce(&table, &hashes[0], 1, Role::Seeder, Event::Completed);
        announce(&table, &hashes[0], 2, Role::Leecher, Event::None);
        (table, hashes)
    }

    #[test]
    fn the_formats_byte_by_byte() {
        let (table, [a, b]) = two();
        let first = "61413024252600FF3A2B2D2E2F3D5F7E212A2728";
        let second = "6262626262626262626262626262626262626262";
        let text = |format| String::from_utf8(whole(format, 1, &table)).expect("is text");
        assert_eq!(text(Format::Txt), format!("{first}:1:1\n{second}:0:0\n"));
        assert_eq!(
            text(Format::Txtp),
            format!("{first}:1:1:1\n{second}:0:0:1\n")
        );
        assert_eq!(
            text(Format::Url),
            "aA0$%25%26%00%ff%3a%2b-./=_~%21%2a%27%28:1:1\nbbbbbbbbbbbbbbbbbbbb:0:0\n"
        );
        let bin = [&a[..], &[0, 0, 0, 1, 0, 0, 0, 1], &b, &[0; 8]].concat();
        assert_eq!(whole(Format::Bin, 1, &table), bin);
        let ben = [
            b"d5:filesd20:",
            &a[..],
            b"d8:completei1e10:downloadedi1e10:incompletei1ee20:",
            &b,
            b"d8:completei0e10:downloadedi1e10:incompletei0eeee",
        ];
        assert_eq!(whole(Format::Ben, 1, &table), ben.concat());
        table.each(150_000, &mut |_| {});
        let state = whole(Format::State { now: 1000 }, 1, &table);
        let expected = format!("{first}:1000:1\n{second}:998:1\n");
        assert_eq!(String::from_utf8_lossy(&state), expected);
    }

    #[test]
    fn of_no_torrents_too_there_is_a_whole() {
        let table = table(2);
        assert_eq!(whole(Format::Ben, 5, &table), b"d5:filesdee");
        assert_eq!(whole(Format::Txt, 5, &table), b"");
    }

    #[test]
    fn no_entry_is_longer_than_was_thought() {
        let most = Counts {
            seeders: u32::MAX,
            leechers: u32::MAX,
            downloaded: u32::MAX,
        };
        let now = u64::MAX;
        use Format::*;
        for format in [Ben, Txt, Txtp, Bin, Url, State { now }] {
            let mut out = Vec::new();
            write_one(format, &[0xff; 20], most, 0, &mut out);
            assert!(out.len() <= LONGEST, "{format:?}: {}", out.len());
        }
    }

    fn step(scrape: &mut FullScrape, table: &Table, out: &mut Vec<u8>) -> bool {
        let is_more = scrape.read(table, 0, None, out);
        scrape.press(out);
        is_more
    }

    fn random_hash(random: &mut Random) -> InfoHash {
        let mut hash = [0; 20];
        hash[0] = random.below(7) as u8;
        hash[10..18].copy_from_slice(&random.draw().to_be_bytes());
        hash
    }

    /// The hashes of a stream in the format `bin`.
    fn hashes(bin: &[u8]) -> Vec<InfoHash> {
        let entries = as_chunks::<28>(bin).0;
        let hash = |entry: &[u8; 28]| *entry.first_chunk::<20>().expect("is longer");
        entries.iter().map(hash).collect()
    }

    #[test]
    fn what_stays_appears_once_while_the_rest_comes_and_goes() {
        let mut random = Random::seeded(77);
        let table = table(2);
        let staying: BTreeMap<InfoHash, ()> =
            (0..3000).map(|_| (random_hash(&mut random), ())).collect();
        for hash in staying.keys() {
            announce(&table, hash, 1, Role::Leecher, Event::None);
        }
        for most in [1, 2, 7, 127, 128, 129, 1000] {
            let mut scrape = FullScrape::new(Format::Bin, false);
            let mut passing: Vec<InfoHash> = Vec::new();
            let mut out = Vec::new();
            while scrape.read_most(most, (&table, 0), None, &mut out) {
                for _ in 0..random.below(2 * most) {
                    let hash = random_hash(&mut random);
                    announce(&table, &hash, 1, Role::Seeder, Event::None);
                    passing.push(hash);
                }
                while random.below(3) > 0 && !passing.is_empty() {
                    let hash = passing.swap_remove(random.below(passing.len()));
                    announce(&table, &hash, 1, Role::Seeder, Event::Stopped);
                }
            }
            let seen = hashes(&out);
            assert!(seen.is_sorted_by(|a, b| a < b), "by {most}");
            let stayed = seen.iter().filter(|hash| staying.contains_key(*hash));
            assert_eq!(stayed.count(), staying.len(), "by {most}");
            for hash in passing {
                announce(&table, &hash, 1, Role::Seeder, Event::Stopped);
            }
        }
    }

    #[test]
    fn where_it_stopped_may_be_gone_when_it_goes_on() {
        let table = table(1);
        let all: Vec<InfoHash> = (0..200).map(|n| [n; 20]).collect();
        for hash in &all {
            announce(&table, hash, 1, Role::Leecher, Event::None);
        }
        let mut scrape = FullScrape::new(Format::Bin, false);
        let mut out = Vec::new();
        assert!(scrape.read_most(50, (&table, 0), None, &mut out));
        for hash in &all[40..120] {
            announce(&table, hash, 1, Role::Leecher, Event::Stopped);
        }
        while scrape.read_most(50, (&table, 0), None, &mut out) {}
        assert_eq!(hashes(&out), [&all[..50], &all[120..]].concat());
    }

    #[test]
    fn compressed_it_is_the_same() {
        let mut random = Random::seeded(8);
        let table = table(2);
        for _ in 0..5000 {
            let hash = random_hash(&mut random);
            announce(&table, &hash, 1, Role::Leecher, Event::None);
        }
        let mut scrape = FullScrape::new(Format::Ben, true);
        let mut out = Vec::new();
        while step(&mut scrape, &table, &mut out) {}
        let inflated = decompress_to_vec(&out[10..out.len() - 8]).expect("is deflated");
        assert!(inflated == whole(Format::Ben, usize::MAX, &table));
        assert!(out.len() < inflated.len() / 2);
    }
}
