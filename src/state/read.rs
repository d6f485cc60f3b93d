//! From bytes back to torrents and peers, in pieces of any size, whatever the bytes are.

use super::{EMPTY_TORRENT, END, HEADER, KEY, MAGIC, MAX_AGE, TIME, TORRENT, VERSION};
use crate::siphash::Hasher;
use crate::tracker::{COMPLETED, InfoHash, RECORD_SIZES};
use std::fmt;

/// What a state is made of, in the order of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Always first. All in milliseconds: a unit of ages, the time since 1970, and that since the unit
    /// began.
    Header {
        unit_ms: u32,
        saved_at: u64,
        into_unit: u32,
    },
    /// Ages from here on count from so many units after that one.
    Time { units: u64 },
    Torrent {
        info_hash: InfoHash,
        downloaded: u32,
        /// Seconds; none if its peers follow.
        empty_for: Option<u32>,
    },
    /// A peer of the last torrent.
    Peer {
        /// As [`RECORD_SIZES`] has them.
        list: u8,
        /// Address and port as on the wire: 6 or 18 bytes.
        endpoint: &'a [u8],
        completed: bool,
        /// In units.
        age: u8,
    },
}

/// Why bytes are not a state that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Foreign,
    Version(u32),
    /// What is at this byte cannot be there.
    Malformed(u64),
    /// It ends before its end.
    Truncated(u64),
    Checksum,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Damage::Foreign => f.write_str("is not a state file of announced"),
            Damage::Version(version) => {
                write!(f, "has format version {version}; wanted is {VERSION}")
            }
            Damage::Malformed(at) => write!(f, "is damaged at byte {at}"),
            Damage::Truncated(at) => write!(f, "is cut off at byte {at}"),
            Damage::Checksum => f.write_str("is damaged: its checksum is wrong"),
        }
    }
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Header,
    Item,
    /// So many more peers of this list.
    Peers(u8, u16),
    Nothing,
}

/// Takes a state in pieces. Holds the last piece and some dozens of bytes, never more.
pub struct Reader {
    held: Vec<u8>,
    /// Bytes before those held.
    position: u64,
    expect: Expect,
    sum: Hasher,
    torrent: Option<InfoHash>,
    /// Whether the last torrent is one with peers, the list of the last of them, and that.
    may_have_peers: bool,
    list: u8,
    endpoint: Option<[u8; 18]>,
    units: u64,
    torrents: u64,
    peers: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            held: Vec::new(),
            position: 0,
            expect: Expect::Header,
            sum: Hasher::new(KEY),
            torrent: None,
            may_have_peers: false,
            list: 0,
            endpoint: None,
            units: 0,
            torrents: 0,
            peers: 0,
        }
    }
}

impl Reader {
    /// Hands over the items that are complete with this piece. After an error there is nothing more to
    /// be had. Nothing may be relied on before [`Reader::finish`] has found the whole to be sound.
    pub fn feed(&mut self, piece: &[u8], take: &mut dyn FnMut(Item)) -> Result<(), Damage> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(piece);
        let mut done = 0;
        while let Some(rest) = held.get(done..).filter(|rest| !rest.is_empty()) {
            match self.element(rest, take)? {
                0 => break,
                length => {
                    done += length;
                    self.position += length as u64;
                }
            }
        }
        held.drain(..done);
        self.held = held;
        Ok(())
    }

    /// After the last piece.
    pub fn finish(self) -> Result<(), Damage> {
        match self.expect {
            Expect::Nothing => Ok(()),
            _ => Err(Damage::Truncated(self.position + self.held.len() as u64)),
        }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Takes one element from the front; how many bytes that was, none if it is not complete.
    fn element(&mut self, bytes: &[u8], take: &mut dyn FnMut(Item)) -> Result<usize, Damage> {
        let (&kind, body) = match (self.expect, bytes) {
            (Expect::Header, _) => return self.header(bytes, take),
            (Expect::Peers(list, left), _) => return self.peer(bytes, list, left, take),
            (Expect::Item, [kind, body @ ..]) => (kind, body),
            _ => return Err(self.malformed()),
        };
        let length = match kind {
            0..=3 => self.peers_head(kind, body)?,
            TORRENT => self.torrent(kind, body, take)?,
            EMPTY_TORRENT => self.torrent(kind, body, take)?,
            TIME => self.time(body, take)?,
            END => return self.end(bytes),
            _ => return Err(self.malformed()),
        };
        Ok(match length {
            0 => 0,
            _ => self.consume(bytes, length + 1),
        })
    }

    fn malformed(&self) -> Damage {
        Damage::Malformed(self.position)
    }

    fn consume(&mut self, bytes: &[u8], length: usize) -> usize {
        self.sum.update(bytes.get(..length).unwrap_or_default());
        length
    }

    fn header(&mut self, bytes: &[u8], take: &mut dyn FnMut(Item)) -> Result<usize, Damage> {
        // As early as can be told, or a short foreign file would be called cut off.
        let magic = bytes.iter().zip(MAGIC);
        if magic.clone().any(|(&a, b)| a != b) {
            return Err(Damage::Foreign);
        }
        let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
        let Some(version) = fields.u32() else {
            return Ok(0);
        };
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let (Some(flags), Some(unit_ms), Some(saved_at), Some(into_unit)) =
            (fields.u32(), fields.u32(), fields.u64(), fields.u32())
        else {
            return Ok(0);
        };
        if flags != 0 || unit_ms == 0 {
            return Err(self.malformed());
        }
        self.expect = Expect::Item;
        take(Item::Header {
            unit_ms,
            saved_at,
            into_unit,
        });
        Ok(self.consume(bytes, HEADER))
    }

    fn peers_head(&mut self, list: u8, body: &[u8]) -> Result<usize, Damage> {
        let Some(count) = Fields(body).u16() else {
            return Ok(0);
        };
        if !self.may_have_peers || list < self.list || count == 0 {
            return Err(self.malformed());
        }
        if list > self.list {
            self.list = list;
            self.endpoint = None;
        }
        self.expect = Expect::Peers(list, count);
        Ok(2)
    }

    fn peer(
        &mut self,
        bytes: &[u8],
        list: u8,
        left: u16,
        take: &mut dyn FnMut(Item),
    ) -> Result<usize, Damage> {
        let size = RECORD_SIZES
            .get(usize::from(list))
            .copied()
            .unwrap_or_default();
        let Some([endpoint @ .., tag]) = bytes.get(..size) else {
            return Ok(0);
        };
        let age = tag & !COMPLETED;
        let mut padded = [0; 18];
        let is_whole = padded.len() >= endpoint.len();
        padded
            .iter_mut()
            .zip(endpoint)
            .for_each(|(to, &from)| *to = from);
        let is_in_order = self.endpoint.is_none_or(|last| last < padded);
        let has_port = !endpoint.ends_with(&[0, 0]);
        let is_alive = age <= MAX_AGE;
        if !is_whole || !is_in_order || !has_port || !is_alive {
            return Err(self.malformed());
        }
        self.endpoint = Some(padded);
        self.peers += 1;
        self.expect = match left {
            0 | 1 => Expect::Item,
            _ => Expect::Peers(list, left - 1),
        };
        take(Item::Peer {
            list,
            endpoint,
            completed: tag & COMPLETED != 0,
            age,
        });
        Ok(self.consume(bytes, size))
    }

    fn torrent(
        &mut self,
        kind: u8,
        body: &[u8],
        take: &mut dyn FnMut(Item),
    ) -> Result<usize, Damage> {
        let mut fields = Fields(body);
        let (Some(info_hash), Some(downloaded)) = (fields.array(), fields.u32()) else {
            return Ok(0);
        };
        let empty_for = match kind {
            TORRENT => None,
            _ => match fields.u32() {
                None => return Ok(0),
                seconds => seconds,
            },
        };
        if self.torrent.is_some_and(|last| last >= info_hash) {
            return Err(self.malformed());
        }
        self.torrent = Some(info_hash);
        self.may_have_peers = kind == TORRENT;
        self.list = 0;
        self.endpoint = None;
        self.torrents += 1;
        take(Item::Torrent {
            info_hash,
            downloaded,
            empty_for,
        });
        Ok(body.len() - fields.0.len())
    }

    fn time(&mut self, body: &[u8], take: &mut dyn FnMut(Item)) -> Result<usize, Damage> {
        let Some(units) = Fields(body).u64() else {
            return Ok(0);
        };
        if units <= self.units {
            return Err(self.malformed());
        }
        self.units = units;
        take(Item::Time { units });
        Ok(8)
    }

    fn end(&mut self, bytes: &[u8]) -> Result<usize, Damage> {
        let mut fields = Fields(bytes.get(1..).unwrap_or_default());
        let (Some(torrents), Some(peers), Some(sum)) = (fields.u64(), fields.u64(), fields.u64())
        else {
            return Ok(0);
        };
        self.consume(bytes, 17);
        let computed = std::mem::replace(&mut self.sum, Hasher::new(KEY)).finish();
        if sum != computed || torrents != self.torrents || peers != self.peers {
            return Err(Damage::Checksum);
        }
        self.expect = Expect::Nothing;
        Ok(25)
    }
}

/// Big-endian fields, one after the other; none when the bytes are too few.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
