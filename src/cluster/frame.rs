//! Bytes between two nodes: a hello of each, then authenticated frames.
//!
//! All numbers are big-endian. The node that connects sends its hello first, in the clear:
//!
//! ```text
//!  0   8  magic: "announce"
//!  8   2  protocol version
//! 10   4  bound of peers of a host in a swarm, or 0
//! 14   8  peer timeout in seconds
//! 22   8  port on which it accepts connections
//! 30   8  1 if it is whole, else 0
//! 38   8  id, random for each start of a node
//! 46  16  nonce, random for each connection
//! 62   8  its table's clock in milliseconds
//! 70   8  milliseconds since its start, by a clock that is never moved
//! ```
//!
//! Each direction has a key of its own: SipHash-2-4-128 of both hellos and the direction, under a key made from the
//! cluster's key. So a frame is valid neither in another connection nor in the other direction. Frames follow:
//!
//! ```text
//!  0   2  length of kind and content
//!  2   1  kind
//!  3   .  content
//!  .   8  SipHash-2-4 of the frame's number (6 bytes, from 0), the length, the kind and the content
//! ```
//!
//! The hash of a frame is verified before its content is read. Frames of unknown kinds are skipped.

use super::records::Reader;
use crate::base::siphash::{Hasher, siphash24_128};
use crate::stats::cluster::Failure;
use crate::sys::chunks::as_chunks;

/// Nodes of different versions refuse each other.
pub const VERSION: u16 = 3;

const MAGIC: [u8; 8] = *b"announce";
pub const HELLO_BYTES: usize = 78;

/// Bytes of a frame, and of its parts besides kind and content.
pub const MAX_FRAME: usize = 16 * 1024;
pub const OVERHEAD: usize = 2 + MAC_BYTES;
const MAC_BYTES: usize = 8;
pub const MAX_CONTENT: usize = MAX_FRAME - OVERHEAD;

type SipKey = [u64; 2];

/// A key for each purpose, all made from the bytes of the key file. None reveals another.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    master: SipKey,
}

impl Keys {
    /// `secret` has at least 32 bytes. All of them count.
    pub fn new(secret: &[u8]) -> Keys {
        let mut first = [0; 32];
        first
            .iter_mut()
            .zip(secret)
            .for_each(|(to, from)| *to = *from);
        let words = as_chunks(&first).0;
        let [a, b, c, d]: [u64; 4] = std::array::from_fn(|i| u64::from_le_bytes(words[i]));
        let [e, f] = siphash24_128([a, b], secret);
        let master = siphash24_128([c ^ e, d ^ f], secret);
        Keys { master }
    }

    /// The key of UDP connection ids, which all nodes accept.
    pub fn connections(&self) -> SipKey {
        siphash24_128(self.master, b"connections")
    }

    /// The key of decoys, which are the same on all nodes.
    pub fn decoys(&self) -> SipKey {
        siphash24_128(self.master, b"decoys")
    }

    /// The key of the frames of one direction of a connection.
    fn direction(&self, is_from_dialler: bool, dialler: &RawHello, acceptor: &RawHello) -> SipKey {
        let mut message = [0; 1 + 2 * HELLO_BYTES];
        message[0] = u8::from(is_from_dialler);
        message[1..=HELLO_BYTES].copy_from_slice(dialler);
        message[1 + HELLO_BYTES..].copy_from_slice(acceptor);
        siphash24_128(self.master, &message)
    }
}

pub type RawHello = [u8; HELLO_BYTES];

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub max_per_host: u32,
    pub peer_timeout: u32,
    pub port: u16,
    pub is_whole: bool,
    pub id: u64,
    pub nonce: [u64; 2],
    pub clock_ms: u64,
    pub uptime_ms: u64,
}

impl Hello {
    pub fn write(&self) -> RawHello {
        let [high, low] = self.nonce;
        let numbers = [
            self.peer_timeout.into(),
            self.port.into(),
            self.is_whole.into(),
            self.id,
            high,
            low,
            self.clock_ms,
            self.uptime_ms,
        ];
        let head = MAGIC.into_iter().chain(VERSION.to_be_bytes());
        let head = head.chain(self.max_per_host.to_be_bytes());
        let bytes = head.chain(numbers.into_iter().flat_map(u64::to_be_bytes));
        let mut raw = [0; HELLO_BYTES];
        raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        raw
    }

    /// None if there are too few bytes so far. An error as soon as they cannot become a hello of this version.
    pub fn read(bytes: &[u8]) -> Result<Option<(Hello, RawHello)>, Failure> {
        if MAGIC.iter().zip(bytes).any(|(a, b)| a != b) {
            return Err(Failure::Foreign);
        }
        let mut reader = Reader(bytes.get(MAGIC.len()..).unwrap_or_default());
        match reader.array().map(u16::from_be_bytes) {
            None => return Ok(None),
            Some(VERSION) => {}
            Some(other) => return Err(Failure::Version(other)),
        }
        let Some(max_per_host) = reader.array().map(u32::from_be_bytes) else {
            return Ok(None);
        };
        let numbers = reader.numbers();
        let hello = numbers.map(
            |[timeout, port, whole, id, high, low, clock_ms, uptime_ms]| Hello {
                max_per_host,
                peer_timeout: u32::try_from(timeout).unwrap_or(u32::MAX),
                port: u16::try_from(port).unwrap_or(0),
                is_whole: whole != 0,
                id,
                nonce: [high, low],
                clock_ms,
                uptime_ms,
            },
        );
        Ok(hello.zip(bytes.first_chunk().copied()))
    }
}

/// The keys of a connection, and how many frames have passed in each direction.
#[derive(Debug)]
pub struct Session {
    out: (SipKey, u64),
    input: (SipKey, u64),
}

impl Session {
    pub fn new(keys: &Keys, is_dialler: bool, own: &RawHello, theirs: &RawHello) -> Session {
        let (dialler, acceptor) = match is_dialler {
            true => (own, theirs),
            false => (theirs, own),
        };
        let key = |is_from_dialler| (keys.direction(is_from_dialler, dialler, acceptor), 0);
        Session {
            out: key(is_dialler),
            input: key(!is_dialler),
        }
    }

    /// Appends a frame with this content, which begins with the kind and has at most [`MAX_CONTENT`] bytes.
    pub fn seal(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(&mac(&mut self.out, content));
    }

    /// The content of the frame at the front of these bytes; none before it is complete.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Failure> {
        let mut reader = Reader(bytes);
        let Some(length) = reader.array().map(u16::from_be_bytes).map(usize::from) else {
            return Ok(None);
        };
        if length == 0 || length > MAX_CONTENT {
            return Err(Failure::WrongKey);
        }
        let (Some(content), Some(code)) = (reader.bytes(length), reader.array()) else {
            return Ok(None);
        };
        match mac(&mut self.input, content) == code {
            true => Ok(Some(content)),
            false => Err(Failure::WrongKey),
        }
    }
}

fn mac((key, number): &mut (SipKey, u64), content: &[u8]) -> [u8; MAC_BYTES] {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut hasher = Hasher::new(*key);
    // Eight bytes, so that the words of the content stay aligned.
    let first = *number << 16 | u64::from(length);
    hasher.update(&first.to_be_bytes());
    hasher.update(content);
    *number += 1;
    hasher.finish().to_be_bytes()
}
