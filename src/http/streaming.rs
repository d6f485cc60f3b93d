//! A reply whose body is made while it is sent: every torrent, or the findings of a walk over the table.

use super::full_scrape::FullScrape;
use super::limiter::Permit;
use crate::access::SharedRules;
use crate::responder::Responder;
use crate::stats::walks::TableWalk;
use crate::tracker::InfoHash;

/// Makes a body.
pub enum Source {
    Torrents(FullScrape),
    Walk(TableWalk),
}

pub struct Streaming {
    source: Source,
    /// In chunks (RFC 9112, 7.1); else the end of the connection is the end of the body.
    is_chunked: bool,
    permit: Option<Permit>,
}

/// The size of a chunk in five digits, to be filled in; RFC 9112 allows leading zeros.
const CHUNK_HEAD: &[u8] = b"00000\r\n";
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Streaming {
    pub fn new(source: Source, is_chunked: bool, permit: Option<Permit>) -> Streaming {
        Streaming {
            source,
            is_chunked,
            permit,
        }
    }

    /// Whether the permit was revoked for another client.
    pub fn is_revoked(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_revoked)
    }

    /// Counts bytes that the client has taken by this second.
    pub fn count(&self, bytes: usize, second: u64) {
        if let Some(permit) = &self.permit {
            permit.count(bytes, second);
        }
    }

    /// Bytes that it takes beside its output.
    pub fn size(&self) -> usize {
        size_of::<Streaming>()
            + match &self.source {
                Source::Torrents(torrents) => torrents.size(),
                Source::Walk(walk) => walk.size(),
            }
    }

    /// Appends the next slice of the body, which may be empty, and what follows the last. Returns whether there is
    /// more. `slice` is a buffer.
    pub fn step(
        &mut self,
        responder: &mut Responder,
        slice: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        slice.clear();
        let is_more = self.read(responder, slice);
        let start = out.len();
        if self.is_chunked {
            out.extend_from_slice(CHUNK_HEAD);
        }
        let body = out.len();
        match &mut self.source {
            Source::Torrents(torrents) => torrents.write(slice, out),
            Source::Walk(_) => out.extend_from_slice(slice),
        }
        let length = out.len() - body;
        if self.is_chunked && length > 0 {
            write_hex(&mut out[start..body - CHUNK_END.len()], length);
            out.extend_from_slice(CHUNK_END);
        } else if self.is_chunked {
            // An empty chunk would be the last.
            out.truncate(start);
        }
        if self.is_chunked && !is_more {
            out.extend_from_slice(LAST_CHUNK);
        }
        if let Source::Torrents(_) = self.source {
            responder.counters.full_scrape_bytes += (out.len() - start) as u64;
        }
        is_more
    }

    /// Reads the next slice of the table. No lock is held when it returns.
    fn read(&mut self, responder: &Responder, slice: &mut Vec<u8>) -> bool {
        let rules = responder.rules.as_ref().map(SharedRules::read);
        let refused = |hash: &InfoHash| rules.as_ref().and_then(|rules| rules.refuses(hash));
        let is_tracked = |hash: &InfoHash| refused(hash).is_none();
        let tracked = rules.is_some().then_some(&is_tracked as _);
        let (table, now) = (&responder.table, responder.table_now());
        match &mut self.source {
            Source::Torrents(torrents) => torrents.read(table, now, tracked, slice),
            Source::Walk(walk) => walk.step(table, now, tracked, slice),
        }
    }
}

/// Fills the digits with a number, from the right.
fn write_hex(digits: &mut [u8], mut number: usize) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[number % 16];
        number /= 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use crate::http::full_scrape::Format;
    use crate::tracker::{Limits, Table};
    use std::sync::Arc;

    fn streamed(format: Format, is_chunked: bool) -> Vec<u8> {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1,
            max_torrents: 1,
        };
        let table = Arc::new(Table::new(limits, 1));
        let mut responder = Responder::new(table, 1800, 200, Random::seeded(1));
        let source = Source::Torrents(FullScrape::new(format, false));
        let mut streaming = Streaming::new(source, is_chunked, None);
        let mut out = Vec::new();
        while streaming.step(&mut responder, &mut Vec::new(), &mut out) {}
        out
    }

    #[test]
    fn body_is_chunked_or_ends_with_the_connection() {
        let chunked = b"0000b\r\nd5:filesdee\r\n0\r\n\r\n";
        assert_eq!(streamed(Format::Ben, true), chunked);
        assert_eq!(streamed(Format::Txt, true), LAST_CHUNK);
        assert_eq!(streamed(Format::Ben, false), b"d5:filesdee");
        assert_eq!(streamed(Format::Txt, false), b"");
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        let mut digits = *b"xxxxx";
        write_hex(&mut digits, 0xfedcb);
        assert_eq!(&digits, b"fedcb");
    }
}
