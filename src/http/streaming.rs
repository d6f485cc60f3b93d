//! A reply whose body is made while it is sent: every torrent, or the findings of a walk over the table.

use crate::responder::Responder;
use crate::stats::walks::TableWalk;
use crate::tracker::{Table, Tracked};

/// Makes a body slice by slice.
pub trait Source: Send {
    /// Bytes that it takes beside its output.
    fn size(&self) -> usize;

    /// Appends the next slice of the table to `slice`. Returns whether there is more.
    fn read(&mut self, table: &Table, now: u64, tracked: Tracked, slice: &mut Vec<u8>) -> bool;

    /// Appends the slice that was read last as it is sent. The caller should hold no lock meanwhile.
    fn write(&mut self, slice: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(slice);
    }

    fn is_full_scrape(&self) -> bool {
        false
    }

    fn is_gzip(&self) -> bool {
        false
    }

    /// Whether its permit was revoked for another client.
    fn is_revoked(&self) -> bool {
        false
    }

    /// Counts bytes that the client has taken by this second.
    fn count(&self, _bytes: usize, _second: u64) {}
}

impl Source for TableWalk {
    fn size(&self) -> usize {
        TableWalk::size(self)
    }

    fn read(&mut self, table: &Table, now: u64, tracked: Tracked, slice: &mut Vec<u8>) -> bool {
        self.step(table, now, tracked, slice)
    }
}

pub struct Streaming {
    pub source: Box<dyn Source>,
    /// In chunks (RFC 9112, 7.1); else the end of the connection is the end of the body.
    is_chunked: bool,
}

/// The size of a chunk in five digits, to be filled in; RFC 9112 allows leading zeros.
const CHUNK_HEAD: &[u8] = b"00000\r\n";
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Streaming {
    pub fn new(source: Box<dyn Source>, is_chunked: bool) -> Streaming {
        Streaming { source, is_chunked }
    }

    /// Bytes that it takes beside its output.
    pub fn size(&self) -> usize {
        size_of::<Streaming>() + size_of_val(&*self.source) + self.source.size()
    }

    /// Appends the next slice of the body, which may be empty, and after the last one the end of the chunks. Returns
    /// whether there is more. `slice` is a buffer.
    pub fn step(
        &mut self,
        responder: &mut Responder,
        slice: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        slice.clear();
        let (table, now) = (&responder.table, responder.table_now());
        // No lock is held when this returns.
        let is_more =
            responder.with_tracked(|tracked| self.source.read(table, now, tracked, slice));
        let start = out.len();
        if self.is_chunked {
            out.extend_from_slice(CHUNK_HEAD);
        }
        let body = out.len();
        self.source.write(slice, out);
        let length = out.len() - body;
        if length == 0 {
            // An empty chunk would be the last.
            out.truncate(start);
        } else if self.is_chunked {
            for (digit, shift) in out[start..].iter_mut().zip([16, 12, 8, 4, 0]) {
                *digit = b"0123456789abcdef"[length >> shift & 15];
            }
            out.extend_from_slice(CHUNK_END);
        }
        if self.is_chunked && !is_more {
            out.extend_from_slice(LAST_CHUNK);
        }
        if self.source.is_full_scrape() {
            responder.counters.full_scrape_bytes += (out.len() - start) as u64;
        }
        is_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use crate::tracker::Limits;
    use std::sync::Arc;

    /// Eleven bytes in the first of two slices, or none.
    struct Body(bool);

    impl Source for Body {
        fn size(&self) -> usize {
            0
        }

        fn read(&mut self, _: &Table, _: u64, _: Tracked, slice: &mut Vec<u8>) -> bool {
            if self.0 {
                slice.extend_from_slice(b"eleven byte");
            }
            std::mem::take(&mut self.0)
        }
    }

    fn streamed(has_bytes: bool, is_chunked: bool) -> Vec<u8> {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1,
            max_torrents: 1,
        };
        let table = Arc::new(Table::new(limits, 1));
        let mut responder = Responder::new(table, 1800, 200, Random::seeded(1));
        let mut streaming = Streaming::new(Box::new(Body(has_bytes)), is_chunked);
        let mut out = Vec::new();
        while streaming.step(&mut responder, &mut Vec::new(), &mut out) {}
        out
    }

    #[test]
    fn body_is_chunked_or_ends_with_the_connection() {
        let chunked = b"0000b\r\neleven byte\r\n0\r\n\r\n";
        assert_eq!(streamed(true, true), chunked);
        assert_eq!(streamed(false, true), LAST_CHUNK);
        assert_eq!(streamed(true, false), b"eleven byte");
        assert_eq!(streamed(false, false), b"");
    }
}
