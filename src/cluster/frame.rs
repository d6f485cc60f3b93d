//! Bytes between two nodes: the greeting of each, then authenticated frames.
//!
//! All numbers are big-endian. The node that connected sends its hello first, in the clear:
//!
//! ```text
//!  0   8  magic: "announce"
//!  8   2  protocol version
//! 10   4  peer timeout in seconds
//! 14   4  bound of peers a host; 0 for none
//! 18   2  port on which it takes connections
//! 20   1  flags: 1 it is whole
//! 21   8  id, random for each start of a node
//! 29  16  nonce, random for each connection
//! 45   8  its table's clock in milliseconds
//! 53   8  milliseconds since its start, by a clock that nothing moves on
//! ```
//!
//! Each direction has a key of its own: SipHash-2-4-128 of both hellos and the direction, under a key made of the cluster's key.
//! So a frame is of no use in another connection, nor in the other direction. From then on there are frames:
//!
//! ```text
//!  0   2  length of kind and content
//!  2   1  kind
//!  3   .  content
//!  .   8  SipHash-2-4 of the frame's number (6 bytes, from 0), the length, the kind and the content
//! ```
//!
//! Nothing in a frame is read before its hash is found right. Frames of unknown kinds are skipped.

use super::records::Reader;
use crate::siphash::{Hasher, siphash24_128};
use crate::stats::cluster::Failure;
use crate::sys::chunks::as_chunks;

/// Nodes of different versions refuse each other.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"announce";
pub const HELLO_BYTES: usize = 61;

/// Bytes of a frame, and those of them that are not content.
pub const MAX_FRAME: usize = 16 * 1024;
const OVERHEAD: usize = 3 + MAC_BYTES;
const MAC_BYTES: usize = 8;
pub const MAX_CONTENT: usize = MAX_FRAME - OVERHEAD;

type SipKey = [u64; 2];

/// Keys for each purpose, all made from the bytes of the key file. None reveals another.
#[derive(Clone, Debug)]
pub struct Keys {
    master: SipKey,
}

impl Keys {
    /// `secret` has at least 32 bytes, which all count.
    pub fn new(secret: &[u8]) -> Keys {
        let mut first = [0; 32];
        for (to, from) in first.iter_mut().zip(secret) {
            *to = *from;
        }
        let words = as_chunks(&first).0;
        let [a, b, c, d]: [u64; 4] = std::array::from_fn(|i| u64::from_le_bytes(words[i]));
        let [e, f] = siphash24_128([a, b], secret);
        let master = siphash24_128([c ^ e, d ^ f], secret);
        Keys { master }
    }

    /// For UDP connection ids that all nodes accept.
    pub fn connections(&self) -> SipKey {
        siphash24_128(self.master, b"connections")
    }

    /// For decoys that all nodes name.
    pub fn decoys(&self) -> SipKey {
        siphash24_128(self.master, b"decoys")
    }

    /// For the frames of one direction of a connection.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub peer_timeout: u32,
    pub max_per_host: u32,
    pub port: u16,
    pub is_whole: bool,
    pub id: u64,
    pub nonce: [u8; 16],
    pub clock_ms: u64,
    pub uptime_ms: u64,
}

impl Hello {
    pub fn write(&self) -> RawHello {
        let flags = u8::from(self.is_whole);
        let mut out = [0; HELLO_BYTES];
        let parts: [&[u8]; 10] = [
            &MAGIC,
            &VERSION.to_be_bytes(),
            &self.peer_timeout.to_be_bytes(),
            &self.max_per_host.to_be_bytes(),
            &self.port.to_be_bytes(),
            &[flags],
            &self.id.to_be_bytes(),
            &self.nonce,
            &self.clock_ms.to_be_bytes(),
            &self.uptime_ms.to_be_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// None if there are too few bytes so far. What cannot be a hello of this version is known as early as possible.
    pub fn read(bytes: &[u8]) -> Result<Option<(Hello, RawHello)>, Failure> {
        if MAGIC.iter().zip(bytes).any(|(a, b)| a != b) {
            return Err(Failure::Foreign);
        }
        let mut reader = Reader(bytes.get(MAGIC.len()..).unwrap_or_default());
        match reader.u16() {
            None => return Ok(None),
            Some(VERSION) => {}
            Some(other) => return Err(Failure::Version(other)),
        }
        let Some(raw) = bytes.first_chunk() else {
            return Ok(None);
        };
        let hello = (|| {
            let (peer_timeout, max_per_host) = (reader.u32()?, reader.u32()?);
            let (port, flags) = (reader.u16()?, reader.u8()?);
            Some(Hello {
                peer_timeout,
                max_per_host,
                port,
                is_whole: flags & 1 != 0,
                id: reader.u64()?,
                nonce: reader.array()?,
                clock_ms: reader.u64()?,
                uptime_ms: reader.u64()?,
            })
        })();
        Ok(hello.map(|hello| (hello, *raw)))
    }
}

/// The keys of a connection, and how many frames have passed in each direction.
#[derive(Debug)]
pub struct Session {
    out: (SipKey, u64),
    input: (SipKey, u64),
}

/// The first bytes of what has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// A whole frame has not come yet.
    Incomplete,
    /// This many bytes are a frame with this kind and content.
    Frame { length: usize },
    /// The hash is wrong, or the length.
    Forged,
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

    /// Appends a frame with this content, which begins with the kind and has at most [`MAX_CONTENT`] bytes and the kind.
    pub fn seal(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(content);
        let mac = mac(&mut self.out, content);
        out.extend_from_slice(&mac.to_be_bytes());
    }

    /// Checks the frame at the front of these bytes. Its content, kind first, is `bytes[2..length - 8]`.
    pub fn open(&mut self, bytes: &[u8]) -> Opened {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return Opened::Incomplete;
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > MAX_CONTENT + 1 {
            return Opened::Forged;
        }
        let (Some(content), Some(code)) =
            (rest.get(..length), rest.get(length..length + MAC_BYTES))
        else {
            return Opened::Incomplete;
        };
        match mac(&mut self.input, content).to_be_bytes() == code {
            true => Opened::Frame {
                length: 2 + length + MAC_BYTES,
            },
            false => Opened::Forged,
        }
    }
}

fn mac((key, number): &mut (SipKey, u64), content: &[u8]) -> u64 {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut hasher = Hasher::new(*key);
    // Eight bytes at once keep the words of the content in place.
    let first = *number << 16 | u64::from(length);
    hasher.update(&first.to_be_bytes());
    hasher.update(content);
    *number += 1;
    hasher.finish()
}

/// The content of a complete frame that [`Session::open`] measured.
pub fn content(bytes: &[u8], length: usize) -> &[u8] {
    bytes
        .get(2..length.saturating_sub(MAC_BYTES))
        .unwrap_or_default()
}
