//! A reply whose body is made while it is sent, framed as the client's version of HTTP has it.

use super::gate::Seat;
use super::response::Framing;
use crate::fullscrape::FullScrape;
use crate::stats::walks::Walk;
use crate::tracker::{Table, Tracked};

/// The maker of a body.
pub enum Source {
    Torrents(FullScrape),
    Walk(Walk),
}

impl Source {
    /// Reads the next slice of the table, which may append it; whether there is more.
    pub fn read(
        &mut self,
        table: &Table,
        now_ms: u64,
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        match self {
            Source::Torrents(torrents) => torrents.read(table, now_ms, tracked, out),
            Source::Walk(walk) => walk.step(table, now_ms, tracked, out),
        }
    }

    /// Appends what of that is to be compressed.
    fn press(&mut self, out: &mut Vec<u8>) {
        if let Source::Torrents(torrents) = self {
            torrents.press(out);
        }
    }

    fn size(&self) -> usize {
        match self {
            Source::Torrents(torrents) => torrents.size(),
            Source::Walk(walk) => walk.size(),
        }
    }
}

pub struct Streaming {
    source: Source,
    /// In chunks (RFC 9112, 7.1); else the end of the connection is the end of the body.
    is_chunked: bool,
    seat: Option<Seat>,
}

/// The size of a chunk in five digits, to be filled in; RFC 9112 allows zeros in front.
const CHUNK_HEAD: &[u8] = b"00000\r\n";
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Streaming {
    pub fn new(source: Source, framing: Framing, seat: Option<Seat>) -> Streaming {
        Streaming {
            source,
            is_chunked: framing.is_1_1,
            seat,
        }
    }

    pub fn is_full_scrape(&self) -> bool {
        matches!(self.source, Source::Torrents(_))
    }

    /// Whether another client has been given its place.
    pub fn is_ended(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::is_ended)
    }

    /// Counts bytes that the client has taken by this second. What was made and not yet sent is not
    /// among them.
    pub fn count(&self, taken: usize, second: u64) {
        if let Some(seat) = &self.seat {
            seat.count(taken, second);
        }
    }

    /// Bytes that it takes beside its output.
    pub fn size(&self) -> usize {
        size_of::<Streaming>() + self.source.size()
    }

    /// Appends the next slice; whether there is more. `read` is called with the source and is to hold its locks for
    /// no longer. Without more and without a slice the last chunk, where there are chunks, is appended all the same.
    pub fn step(
        &mut self,
        read: &mut dyn FnMut(&mut Source, &mut Vec<u8>) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        if self.is_chunked {
            out.extend_from_slice(CHUNK_HEAD);
        }
        let body = out.len();
        let is_more = read(&mut self.source, out);
        self.source.press(out);
        if !self.is_chunked {
            return is_more;
        }
        let length = out.len() - body;
        if length > 0 {
            write_hex(&mut out[start..body - CHUNK_END.len()], length);
            out.extend_from_slice(CHUNK_END);
        } else {
            // A chunk of nothing would be the last.
            out.truncate(start);
        }
        if !is_more {
            out.extend_from_slice(LAST_CHUNK);
        }
        is_more
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
    use crate::fullscrape::Format;
    use crate::tracker::Limits;

    fn streamed(format: Format, is_1_1: bool) -> Vec<u8> {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1,
            max_torrents: 1,
        };
        let table = Table::new(limits, 1);
        let framing = Framing {
            is_1_1,
            keep_alive: true,
            head_only: false,
        };
        let mut streaming = Streaming::new(
            Source::Torrents(FullScrape::new(format, false)),
            framing,
            None,
        );
        let mut out = Vec::new();
        let mut read = |source: &mut Source, out: &mut _| source.read(&table, 0, None, out);
        while streaming.step(&mut read, &mut out) {}
        out
    }

    #[test]
    fn bodies_are_in_chunks_or_as_they_are() {
        assert_eq!(
            streamed(Format::Ben, true),
            b"0000b\r\nd5:filesdee\r\n0\r\n\r\n"
        );
        assert_eq!(streamed(Format::Txt, true), LAST_CHUNK);
        assert_eq!(streamed(Format::Ben, false), b"d5:filesdee");
        assert_eq!(streamed(Format::Txt, false), b"");
    }

    #[test]
    fn sizes_are_written_in_hex() {
        let mut digits = *b"xxxxx";
        write_hex(&mut digits, 0xfedcb);
        assert_eq!(&digits, b"fedcb");
    }
}
