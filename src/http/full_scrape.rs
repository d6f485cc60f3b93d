//! Full scrapes: every torrent of the tracker in one reply, plain or gzip, in opentracker's formats.
//!
//! A full scrape makes its next slice when the client has taken the one before. It holds the info-hash to go on from
//! and never an index, so the table may change meanwhile: torrents that are there throughout appear exactly once, all
//! are in order, and the counts are those of the moment.

use super::limiter::Permit;
use super::request::Request;
use super::response::Status;
use super::streaming::Source;
use crate::base::gzip::Gzip;
use crate::base::text::{fill, hex, text};
use crate::protocol::{bencode, query};
use crate::tracker::{Counts, InfoHash, Table, Tracked};
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use super::limiter::Limiter;

/// How a torrent is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bencoded dictionary of a scrape (BEP 48).
    Ben,
    /// Lines of `HEX:seeders:leechers`.
    Txt,
    /// `HEX:seeders:leechers:downloaded`
    Txtp,
    /// Info-hash, seeders and leechers, these as four bytes each, big-endian.
    Bin,
    /// As [`Format::Txt`], with the info-hash percent-encoded.
    Url,
    /// `HEX:minute:downloaded`. The minute, counted from 1970, is that of the last announce, or `now` if the torrent
    /// has peers.
    State { now: u64 },
}

impl Format {
    /// The format of this name in `/stats?mode=tpbs&format=`.
    fn named(name: &[u8]) -> Option<Format> {
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

/// Torrents in a slice, plain: up to 32 KiB, in which one UDP connect in a hundred waits for more than 0.5 ms.
const PLAIN_TORRENTS: usize = 400;
/// The same compressed. A slice that completes a block takes three tenths of a millisecond.
const GZIP_TORRENTS: usize = 125;

/// Where a full scrape begins.
const FIRST: InfoHash = [0; 20];

/// A full scrape in progress.
pub struct FullScrape {
    format: Format,
    /// The info-hash to go on from; none at the end.
    next: Option<InfoHash>,
    is_gzip: bool,
    /// Made with the first slice.
    gzip: Option<Box<Gzip>>,
    permit: Option<Arc<Permit>>,
}

/// Begins the reply to a `/scrape` without info-hashes, if the client may have it at this second.
pub fn admit(
    limiter: &Limiter,
    request: &Request,
    is_admin: bool,
    second: u64,
) -> Result<Box<dyn Source>, Status> {
    // All clients that a proxy does not name are one.
    let client = request.client.address();
    let client = client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let permit = limiter.admit(client, is_admin, request.is_head, second)?;
    let mut scrape = FullScrape::new(Format::Ben, request.accepts_gzip());
    scrape.permit = permit;
    Ok(Box::new(scrape))
}

/// Begins a report for admins: with a minute the state, else the format that the query names.
pub fn report(request: &Request, minute: Option<u64>) -> Result<Box<dyn Source>, Status> {
    let format = match (minute, query::value(request.query, b"format")) {
        (Some(now), _) => Format::State { now },
        (None, Some(name)) => Format::named(&name).ok_or(Status::BadRequest)?,
        (None, None) => Format::Ben,
    };
    Ok(Box::new(FullScrape::new(format, request.accepts_gzip())))
}

impl FullScrape {
    fn new(format: Format, is_gzip: bool) -> FullScrape {
        FullScrape {
            format,
            next: Some(FIRST),
            is_gzip,
            gzip: None,
            permit: None,
        }
    }

    fn read_at_most(
        &mut self,
        max: usize,
        (table, now_ms): (&Table, u64),
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        let format = self.format;
        if self.next == Some(FIRST) && format == Format::Ben {
            text(out, "d5:filesd");
        }
        let mut left = max;
        // Shards with few torrents are read together.
        while let (Some(from), 1..) = (self.next, left) {
            self.next = table.scrape_from(&from, now_ms, left, |hash, counts, idle| {
                left = left.saturating_sub(1);
                if tracked.is_none_or(|tracked| tracked(hash)) {
                    write_one(format, hash, counts, idle, out);
                }
            });
        }
        if self.next.is_none() && format == Format::Ben {
            text(out, "ee");
        }
        self.next.is_some()
    }
}

impl Source for FullScrape {
    fn size(&self) -> usize {
        if self.is_gzip { Gzip::SIZE } else { 0 }
    }

    /// Leaves out torrents that are no longer tracked. It must not be called again when there is no more.
    fn read(&mut self, table: &Table, now: u64, tracked: Tracked, slice: &mut Vec<u8>) -> bool {
        let max = match self.is_gzip {
            true => GZIP_TORRENTS,
            false => PLAIN_TORRENTS,
        };
        self.read_at_most(max, (table, now), tracked, slice)
    }

    fn write(&mut self, slice: &[u8], out: &mut Vec<u8>) {
        if self.is_gzip {
            let gzip = self.gzip.get_or_insert_with(|| Box::new(Gzip::new()));
            gzip.compress(slice, self.next.is_none(), out);
        } else {
            out.extend_from_slice(slice);
        }
    }

    fn is_full_scrape(&self) -> bool {
        true
    }

    fn is_gzip(&self) -> bool {
        self.is_gzip
    }

    fn is_revoked(&self) -> bool {
        self.permit.as_ref().is_some_and(|p| p.is_revoked())
    }

    fn count(&self, bytes: usize, second: u64) {
        if let Some(permit) = &self.permit {
            permit.count(bytes, second);
        }
    }
}

fn write_one(format: Format, hash: &InfoHash, counts: Counts, idle: u32, out: &mut Vec<u8>) {
    let [seeders, leechers, downloaded] =
        [counts.seeders, counts.leechers, counts.downloaded].map(u64::from);
    match format {
        Format::Ben => return bencode::scraped(out, hash, counts),
        Format::Bin => {
            out.extend_from_slice(hash);
            out.extend_from_slice(&counts.seeders.to_be_bytes());
            return out.extend_from_slice(&counts.leechers.to_be_bytes());
        }
        Format::Url => url(out, hash),
        Format::Txt | Format::Txtp | Format::State { .. } => hex(out, hash),
    }
    match format {
        Format::Txtp => fill(out, ":$:$:$\n", &[seeders, leechers, downloaded]),
        Format::State { now } => {
            let minute = now.saturating_sub(u64::from(idle / 60));
            fill(out, ":$:$\n", &[minute, downloaded]);
        }
        _ => fill(out, ":$:$\n", &[seeders, leechers]),
    }
}

/// As opentracker does: `%` and two lowercase digits, but for letters, digits and `$-./=_~`.
fn url(out: &mut Vec<u8>, hash: &InfoHash) {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
    for &byte in hash {
        if byte.is_ascii_alphanumeric() || b"$-./=_~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([b'%', digit(byte >> 4), digit(byte)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
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
        while scrape.read_at_most(most, (table, 0), None, &mut out) {}
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
    fn formats_are_opentrackers_byte_by_byte() {
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
    fn empty_table_gives_an_empty_dictionary_or_text() {
        let table = table(2);
        assert_eq!(whole(Format::Ben, 5, &table), b"d5:filesdee");
        assert_eq!(whole(Format::Txt, 5, &table), b"");
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
    fn torrents_that_stay_appear_once_while_others_come_and_go() {
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
            while scrape.read_at_most(most, (&table, 0), None, &mut out) {
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
    fn scrape_goes_on_where_its_next_torrent_was_removed() {
        let table = table(1);
        let all: Vec<InfoHash> = (0..200).map(|n| [n; 20]).collect();
        for hash in &all {
            announce(&table, hash, 1, Role::Leecher, Event::None);
        }
        let mut scrape = FullScrape::new(Format::Bin, false);
        let mut out = Vec::new();
        assert!(scrape.read_at_most(50, (&table, 0), None, &mut out));
        for hash in &all[40..120] {
            announce(&table, hash, 1, Role::Leecher, Event::Stopped);
        }
        while scrape.read_at_most(50, (&table, 0), None, &mut out) {}
        assert_eq!(hashes(&out), [&all[..50], &all[120..]].concat());
    }

    #[test]
    fn gzip_decompresses_to_the_plain_scrape() {
        let mut random = Random::seeded(8);
        let table = table(2);
        for _ in 0..5000 {
            let hash = random_hash(&mut random);
            announce(&table, &hash, 1, Role::Leecher, Event::None);
        }
        let mut scrape = FullScrape::new(Format::Ben, true);
        let mut out = Vec::new();
        let mut is_more = true;
        while is_more {
            let mut slice = Vec::new();
            is_more = scrape.read(&table, 0, None, &mut slice);
            scrape.write(&slice, &mut out);
        }
        let inflated = decompress_to_vec(&out[10..out.len() - 8]).expect("is deflated");
        assert!(inflated == whole(Format::Ben, usize::MAX, &table));
        assert!(out.len() < inflated.len() / 2);
    }
}
