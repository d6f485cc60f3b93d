//! The parts of a record of the table: info-hash, role, address and port, tag.

use super::clock::{Clock, STAMP_MASK};
use crate::sys::chunks::as_chunks;
use std::net::{IpAddr, Ipv6Addr};

pub type InfoHash = [u8; 20];

/// A peer's part in a swarm: a seeder has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Leecher = 0,
    Seeder = 1,
}

impl Role {
    pub const ALL: [Role; 2] = [Role::Leecher, Role::Seeder];

    /// The role of a peer that has so many bytes left; one that does not say is a leecher.
    pub fn of_left(left: Option<u64>) -> Role {
        match left {
            Some(0) => Role::Seeder,
            _ => Role::Leecher,
        }
    }

    pub fn other(self) -> Role {
        match self {
            Role::Leecher => Role::Seeder,
            Role::Seeder => Role::Leecher,
        }
    }
}

/// Tag: the peer's completion was counted.
pub const COMPLETED: u8 = 0x80;
/// Tag: the peer last announced to this node and was not learnt from another.
pub const LOCAL: u8 = 0x40;

// The other bits of a tag are the stamp of the last announce.
const _: () = assert!(COMPLETED | LOCAL == !STAMP_MASK);

/// A swarm has four lists: IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders. These are the bytes of a record in
/// each: address and port as on the wire (BEP 15, BEP 7), then the tag.
pub const RECORD_SIZES: [usize; 4] = [V4_BYTES, V4_BYTES, V6_BYTES, V6_BYTES];
pub const V4_BYTES: usize = 7;
pub const V6_BYTES: usize = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn record_bytes(self) -> usize {
        RECORD_SIZES[self.list(Role::Leecher)]
    }

    /// The number of the list of this family and role.
    pub fn list(self, role: Role) -> usize {
        2 * self as usize + role as usize
    }
}

/// A peer as a record. IPv4 addresses mapped into IPv6 are IPv4 (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    V4([u8; V4_BYTES]),
    V6([u8; V6_BYTES]),
}

impl Peer {
    /// With an empty tag.
    pub fn new(address: IpAddr, port: u16) -> Peer {
        let [high, low] = port.to_be_bytes();
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Peer::V4([a, b, c, d, high, low, 0])
            }
            IpAddr::V6(ip) => {
                let mut record = [0; V6_BYTES];
                record[..16].copy_from_slice(&ip.octets());
                record[16..].copy_from_slice(&[high, low, 0]);
                Peer::V6(record)
            }
        }
    }

    /// From address and port as on the wire: 6 or 18 bytes.
    pub fn from_endpoint(endpoint: &[u8]) -> Option<Peer> {
        let (address, &[high, low]) = endpoint.split_last_chunk()?;
        let address = match *address {
            [a, b, c, d] => IpAddr::from([a, b, c, d]),
            _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        };
        Some(Peer::new(address, u16::from_be_bytes([high, low])))
    }

    /// Address and port as on the wire: 6 or 18 bytes.
    pub fn endpoint(&self) -> &[u8] {
        match self {
            Peer::V4([endpoint @ .., _]) => endpoint,
            Peer::V6([endpoint @ .., _]) => endpoint,
        }
    }

    /// From the first record of the list with this number.
    pub(super) fn from_record(list: usize, records: &[u8]) -> Option<Peer> {
        match list {
            0 | 1 => records.first_chunk().copied().map(Peer::V4),
            _ => records.first_chunk().copied().map(Peer::V6),
        }
    }

    pub(super) fn record(&self) -> &[u8] {
        match self {
            Peer::V4(record) => record,
            Peer::V6(record) => record,
        }
    }

    pub(super) fn tag(&self) -> u8 {
        match self {
            Peer::V4([.., tag]) | Peer::V6([.., tag]) => *tag,
        }
    }

    pub(super) fn with_tag(mut self, tag: u8) -> Peer {
        match &mut self {
            Peer::V4([.., old]) | Peer::V6([.., old]) => *old = tag,
        }
        self
    }

    pub fn ip(&self) -> IpAddr {
        match self {
            Peer::V4([address @ .., _, _, _]) => IpAddr::from(*address),
            Peer::V6([address @ .., _, _, _]) => IpAddr::from(*address),
        }
    }

    /// Whether the address is that of the own host, on every host.
    pub fn is_loopback(&self) -> bool {
        match self {
            Peer::V4(record) => is_loopback(record),
            Peer::V6(record) => is_loopback(record),
        }
    }

    pub(super) fn family(&self) -> Family {
        match self {
            Peer::V4(_) => Family::V4,
            Peer::V6(_) => Family::V6,
        }
    }

    /// The lowest and the highest key that a peer of the same host can have.
    pub(super) fn host_ends(&self) -> [Peer; 2] {
        [0, 0xff].map(|byte| {
            let mut end = *self;
            match &mut end {
                Peer::V4([_, _, _, _, rest @ ..]) => rest.fill(byte),
                Peer::V6([_, _, _, _, _, _, _, _, rest @ ..]) => rest.fill(byte),
            }
            end
        })
    }

    /// The number of the list that holds this peer in this role.
    pub(super) fn list(&self, role: Role) -> usize {
        self.family().list(role)
    }

    /// As [`Peer::search`], among records with these prefixes and those between.
    pub(super) fn search_between(&self, ends: [u64; 2], records: &[u8]) -> Result<usize, usize> {
        let (index, is_found) = match self {
            Peer::V4(record) => {
                let (records, _) = as_chunks(records);
                let key = v4_key(record);
                let guess = guess(key, ends, records.len());
                let index = search_near(records, guess, |other| v4_key(other) < key);
                let found = records.get(index);
                (index, found.is_some_and(|other| v4_key(other) == key))
            }
            Peer::V6(record) => {
                let (records, _) = as_chunks(records);
                let (key, guess) = (v6_key(record), guess(prefix(record), ends, records.len()));
                let index = search_near(records, guess, |other| v6_key(other) < key);
                let found = records.get(index);
                (index, found.is_some_and(|other| v6_key(other) == key))
            }
        };
        if is_found { Ok(index) } else { Err(index) }
    }

    /// The index of this peer among sorted records of its family, or the one where it belongs.
    pub(super) fn search(&self, records: &[u8]) -> Result<usize, usize> {
        // Two comparisons that the compiler knows, as this is where an announce of a large swarm spends its time.
        match self {
            Peer::V4(record) => {
                let (records, _) = as_chunks(records);
                records.binary_search_by_key(&v4_key(record), v4_key)
            }
            Peer::V6(record) => {
                let (records, _) = as_chunks(records);
                records.binary_search_by_key(&v6_key(record), v6_key)
            }
        }
    }
}

/// Records up to which halving is as fast as a guess.
const MAX_HALVED: usize = 24;

/// Records that a guess skips at first when it was wrong: a cache line of IPv4 peers.
const FIRST_SKIP: usize = 8;

/// The index of the first record that is not below a key, by a guess: addresses are spread about evenly over the keys
/// from `first` to `last`. From there it skips 8 records, 16, and so on, and then halves. Halving from the start waits
/// for a cache line at each step.
fn search_near<T>(records: &[T], guess: usize, is_below: impl Fn(&T) -> bool) -> usize {
    if records.len() <= MAX_HALVED {
        return records.partition_point(is_below);
    }
    let below = |index: usize| records.get(index).is_some_and(&is_below);
    let (mut low, mut high) = (0, records.len());
    let mut skip = FIRST_SKIP;
    if below(guess) {
        low = guess + 1;
        let mut next = guess + skip;
        while below(next) {
            low = next + 1;
            skip *= 2;
            next += skip;
        }
        high = high.min(next);
    } else {
        high = guess;
        while let Some(next) = high.checked_sub(skip) {
            if below(next) {
                low = next + 1;
                break;
            }
            high = next;
            skip *= 2;
        }
    }
    let rest = records.get(low..high).unwrap_or_default();
    low + rest.partition_point(is_below)
}

/// Where a key is among so many, if they are spread evenly from `first` to `last`.
fn guess(key: u64, [first, last]: [u64; 2], count: usize) -> usize {
    let span = last.saturating_sub(first);
    // So that the product fits.
    let shift = 48_u32.saturating_sub(span.leading_zeros());
    let distance = key.saturating_sub(first).min(span) >> shift;
    let place = distance * count as u64 / ((span >> shift) + 1);
    place as usize
}

/// Whether the address of a record is a loopback address.
#[inline]
pub fn is_loopback<const BYTES: usize>(record: &[u8; BYTES]) -> bool {
    match BYTES {
        V4_BYTES => record[0] == 127,
        _ => record[..16] == Ipv6Addr::LOCALHOST.octets(),
    }
}

fn v4_key(record: &[u8; V4_BYTES]) -> u64 {
    prefix(record)
}

fn v6_key(&[ref address @ .., high, low, _]: &[u8; V6_BYTES]) -> (u128, u16) {
    let port = u16::from_be_bytes([high, low]);
    (u128::from_be_bytes(*address), port)
}

/// The counts of leechers and seeders to pick from for such an asker: a seeder has no use for seeders (BEP 3).
pub fn of_use(lists: [usize; 4], (family, role): (Family, Role)) -> [usize; 2] {
    let seeders = lists[family.list(Role::Seeder)];
    let seeders = if role == Role::Seeder { 0 } else { seeders };
    [lists[family.list(Role::Leecher)], seeders]
}

/// The first sort key of records: address and port of IPv4, the network of 64 bits of IPv6.
pub fn prefix(record: &[u8]) -> u64 {
    match *record {
        [a, b, c, d, high, low, _] => u64::from_be_bytes([0, 0, a, b, c, d, high, low]),
        _ => record
            .first_chunk()
            .map_or(0, |&network| u64::from_be_bytes(network)),
    }
}

/// The host of a record or an endpoint: an IPv4 address, or the network of 64 bits of an IPv6 one, which a host has to
/// itself.
#[inline]
pub fn host(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d, _, _] | [a, b, c, d, _, _, _] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => prefix(bytes),
    }
}

/// How many records these bytes are. Dividing by a constant takes a multiplication.
pub fn count(records: &[u8], size: usize) -> usize {
    match size {
        V4_BYTES => records.len() / V4_BYTES,
        _ => records.len() / V6_BYTES,
    }
}

/// Inserts a record at this offset, with the bytes behind it up to `used` moved on.
pub fn insert_record(bytes: &mut [u8], used: usize, at: usize, record: &[u8]) {
    bytes.copy_within(at..used, at + record.len());
    bytes[at..at + record.len()].copy_from_slice(record);
}

/// Moves the records of peers that have not expired to the front; returns the bytes that these take.
pub fn drop_expired(records: &mut [u8], size: usize, clock: Clock) -> usize {
    let mut kept = 0;
    for at in (0..records.len()).step_by(size) {
        // The tag is a record's last byte.
        if records
            .get(at + size - 1)
            .is_some_and(|tag| !clock.expired(*tag))
        {
            if kept < at {
                records.copy_within(at..at + size, kept);
            }
            kept += size;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_v4() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(Peer::new(mapped, 258), Peer::V4([192, 0, 2, 1, 1, 2, 0]));
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let peer = Peer::new(v6, 258);
        assert_eq!(peer.endpoint()[14..], [0, 1, 1, 2]);
        assert_eq!(peer.ip(), v6);
        assert_eq!(Peer::from_endpoint(peer.endpoint()), Some(peer));
    }

    #[test]
    fn records_sort_as_their_bytes_do_and_tags_do_not_matter() {
        let peers = [[9, 9, 9, 9], [10, 0, 0, 1], [200, 0, 0, 0]];
        for to_ip in [IpAddr::from, |ip: [u8; 4]| {
            let mut octets = [0x20; 16];
            octets[12..].copy_from_slice(&ip);
            octets.into()
        }] {
            let mut records = Vec::new();
            for port in [1, 256] {
                for ip in peers {
                    let peer = Peer::new(to_ip(ip), port);
                    let Err(index) = peer.search(&records) else {
                        panic!("is new")
                    };
                    let at = index * peer.record().len();
                    records.splice(at..at, peer.record().iter().copied());
                }
            }
            let mut found: Vec<&[u8]> = records.chunks(records.len() / 6).collect();
            assert!(found.is_sorted());
            found.dedup();
            assert_eq!(found.len(), 6);
            let peer = Peer::new(to_ip(peers[1]), 256).with_tag(0xff);
            assert_eq!(peer.search(&records), Ok(3));
        }
    }
}
