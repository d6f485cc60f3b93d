//! Reads a state from a source of untrusted bytes: torrents and peers, checked for order, bounds and checksum.

use super::{EMPTY_TORRENT, END, KEY, MAGIC, MAX_AGE, TIME, TORRENT, VERSION};
use crate::base::siphash::Hasher;
use crate::tracker::{COMPLETED, InfoHash, RECORD_SIZES};
use std::fmt;
use std::io::{self, ErrorKind, Read};

/// The contents of a state, in the order of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateItem<'a> {
    /// Always first.
    Header(Header),
    /// Ages from here on count from this many units after the unit of the header.
    Time(u64),
    Torrent(SavedTorrent),
    /// A peer of the last torrent.
    Peer(SavedPeer<'a>),
}

/// Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// A unit of ages.
    pub unit_ms: u32,
    /// Since 1970.
    pub saved_at: u64,
    /// Since the unit began.
    pub into_unit: u32,
    /// Of UDP connection ids.
    pub connection_key: Option<[u64; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedTorrent {
    pub info_hash: InfoHash,
    pub downloaded: u32,
    /// Seconds; none if its peers follow.
    pub empty_for: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedPeer<'a> {
    /// An index of [`RECORD_SIZES`].
    pub list: u8,
    /// Address and port as on the wire: 6 or 18 bytes.
    pub endpoint: &'a [u8],
    pub completed: bool,
    /// In units.
    pub age: u8,
}

/// Why a state cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It begins with something else.
    Foreign,
    Version(u32),
    /// The item at this byte is invalid there.
    Malformed(u64),
    /// It ends before its last item.
    Truncated(u64),
    Checksum,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Damage::Foreign => f.write_str("not a state file of announced"),
            Damage::Version(version) => {
                write!(f, "format version {version}, expected 1 to {VERSION}")
            }
            Damage::Malformed(at) => write!(f, "damaged at byte {at}"),
            Damage::Truncated(at) => write!(f, "truncated at byte {at}"),
            Damage::Checksum => f.write_str("damaged: wrong checksum"),
        }
    }
}

/// Passes on every item as it is read. The items are trusted only if the whole state is valid. The outer error is one
/// of the source.
pub fn read_items(
    source: &mut impl Read,
    take: &mut dyn FnMut(StateItem),
) -> io::Result<Result<(), Damage>> {
    let mut reader = ItemReader {
        source,
        failure: None,
        position: 0,
        sum: Hasher::new(KEY),
        torrent: None,
        last: Some(NO_PEERS),
        units: 0,
        torrents: 0,
        peers: 0,
    };
    let result = reader.items(take);
    reader.failure.map_or(Ok(result), Err)
}

/// Behind the last list: no peers may follow.
const NO_PEERS: (u8, [u8; 18]) = (RECORD_SIZES.len() as u8, [0; 18]);

struct ItemReader<'a, R> {
    source: &'a mut R,
    /// An error of the source, which ends the reading like the end of the bytes.
    failure: Option<io::Error>,
    /// Bytes read so far.
    position: u64,
    sum: Hasher,
    /// The last torrent, and the list and the endpoint of its last peer, if it had one: the next must be greater.
    torrent: Option<InfoHash>,
    last: Option<(u8, [u8; 18])>,
    units: u64,
    torrents: u64,
    peers: u64,
}

/// The method of an item returns whether the item is valid in its place.
impl<R: Read> ItemReader<'_, R> {
    fn items(&mut self, take: &mut dyn FnMut(StateItem)) -> Result<(), Damage> {
        self.header(take)?;
        loop {
            let start = self.position;
            let [kind] = self.bytes()?;
            let is_valid = match kind {
                0..=3 => self.peers(kind, take)?,
                TORRENT | EMPTY_TORRENT => self.torrent(kind, take)?,
                TIME => self.time(take)?,
                END => return self.end(),
                _ => false,
            };
            if !is_valid {
                return Err(Damage::Malformed(start));
            }
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Damage> {
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.source.read(room) {
                Ok(count @ 1..) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                end => {
                    self.failure = end.err();
                    return Err(Damage::Truncated(self.position));
                }
            }
        }
        self.sum.update(bytes);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).map(|()| bytes)
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn header(&mut self, take: &mut dyn FnMut(StateItem)) -> Result<(), Damage> {
        for expected in MAGIC {
            // Byte by byte, or a short foreign file would count as truncated.
            let [byte] = self.bytes()?;
            if byte != expected {
                return Err(Damage::Foreign);
            }
        }
        let version = self.u32()?;
        if !(1..=VERSION).contains(&version) {
            return Err(Damage::Version(version));
        }
        let (flags, unit_ms, saved_at, into_unit) =
            (self.u32()?, self.u32()?, self.u64()?, self.u32()?);
        if flags != 0 || unit_ms == 0 {
            return Err(Damage::Malformed(0));
        }
        let key = match version {
            1 => [0; 2],
            _ => [self.u64()?, self.u64()?],
        };
        take(StateItem::Header(Header {
            unit_ms,
            saved_at,
            into_unit,
            connection_key: (key != [0; 2]).then_some(key),
        }));
        Ok(())
    }

    fn torrent(&mut self, kind: u8, take: &mut dyn FnMut(StateItem)) -> Result<bool, Damage> {
        let (info_hash, downloaded) = (self.bytes()?, self.u32()?);
        let (last, empty_for) = match kind {
            TORRENT => (None, None),
            _ => (Some(NO_PEERS), Some(self.u32()?)),
        };
        if self.torrent >= Some(info_hash) {
            return Ok(false);
        }
        (self.torrent, self.last) = (Some(info_hash), last);
        self.torrents += 1;
        take(StateItem::Torrent(SavedTorrent {
            info_hash,
            downloaded,
            empty_for,
        }));
        Ok(true)
    }

    /// Some peers of one list.
    fn peers(&mut self, list: u8, take: &mut dyn FnMut(StateItem)) -> Result<bool, Damage> {
        let count = self.bytes().map(u16::from_be_bytes)?;
        // A record is the endpoint and a tag.
        let size = RECORD_SIZES
            .get(usize::from(list))
            .map_or(0, |size| size - 1);
        for _ in 0..count {
            let mut padded = [0; 18];
            let (endpoint, _) = padded.split_at_mut(size);
            self.fill(endpoint)?;
            let [tag] = self.bytes()?;
            let (place, age) = (Some((list, padded)), tag & !COMPLETED);
            if place <= self.last || age > MAX_AGE {
                return Ok(false);
            }
            self.last = place;
            self.peers += 1;
            take(StateItem::Peer(SavedPeer {
                list,
                endpoint: padded.get(..size).unwrap_or_default(),
                completed: tag & COMPLETED != 0,
                age,
            }));
        }
        Ok(count > 0)
    }

    fn time(&mut self, take: &mut dyn FnMut(StateItem)) -> Result<bool, Damage> {
        let units = self.u64()?;
        take(StateItem::Time(units));
        Ok(units > std::mem::replace(&mut self.units, units))
    }

    fn end(&mut self) -> Result<(), Damage> {
        let (torrents, peers) = (self.u64()?, self.u64()?);
        let computed = std::mem::replace(&mut self.sum, Hasher::new(KEY)).finish();
        let sum = self.u64()?;
        if (sum, torrents, peers) != (computed, self.torrents, self.peers) {
            return Err(Damage::Checksum);
        }
        let end = self.position;
        match self.bytes::<1>() {
            Err(_) => Ok(()),
            Ok(_) => Err(Damage::Malformed(end)),
        }
    }
}
