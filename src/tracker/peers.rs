//! Peers as they are stored, and the lists that hold them.
//!
//! A peer is its address and port as they go over the wire, and one byte more: 7 bytes for IPv4, 19
//! for IPv6. Lists are sorted by address and port, so that a peer is found by halving and a list can
//! be walked, stopped and walked on by key. Everything here works on either size through [`Record`].

use super::clock::Clock;
use std::net::IpAddr;

/// A peer's part in a swarm: whether it has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Leecher = 0,
    Seeder = 1,
}

impl Role {
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

/// Address and port, 6 or 18 bytes as on the wire (BEP 15, BEP 7), and the tag.
pub type V4 = [u8; 7];
pub type V6 = [u8; 19];

/// A record's last byte: the top bit says that the peer's completion was counted, the others are the
/// stamp of its last announce.
const COMPLETED: u8 = 0x80;

pub trait Record: Copy + Eq + std::fmt::Debug {
    /// Address and port as a number that sorts as the bytes do.
    type Key: Copy + Ord;
    const SIZE: usize;

    fn key(&self) -> Self::Key;
    fn bytes(&self) -> &[u8];
    fn tag(&self) -> u8;
    fn set_tag(&mut self, tag: u8);
    /// The records that these bytes hold; a remainder is left out.
    fn from_bytes(bytes: &[u8]) -> &[Self];
    fn from_bytes_mut(bytes: &mut [u8]) -> &mut [Self];

    /// Address and port, as a reply has them.
    fn endpoint(&self) -> &[u8] {
        &self.bytes()[..Self::SIZE - 1]
    }

    fn completed(&self) -> bool {
        self.tag() & COMPLETED != 0
    }

    fn expired(&self, clock: Clock) -> bool {
        clock.expired(self.tag())
    }

    /// Marks the peer as seen now. What is completed stays so.
    fn renew(&mut self, clock: Clock, completed: bool) {
        let completed = if completed { COMPLETED } else { 0 };
        self.set_tag(clock.stamp() | completed | self.tag() & COMPLETED);
    }
}

macro_rules! record {
    ($size:literal, $key:ty, |$bytes:ident| $to_key:expr) => {
        impl Record for [u8; $size] {
            type Key = $key;
            const SIZE: usize = $size;

            fn key(&self) -> $key {
                let $bytes = self;
                $to_key
            }
            fn bytes(&self) -> &[u8] {
                self
            }
            fn tag(&self) -> u8 {
                self[$size - 1]
            }
            fn set_tag(&mut self, tag: u8) {
                self[$size - 1] = tag;
            }
            fn from_bytes(bytes: &[u8]) -> &[Self] {
                bytes.as_chunks().0
            }
            fn from_bytes_mut(bytes: &mut [u8]) -> &mut [Self] {
                bytes.as_chunks_mut().0
            }
        }
    };
}

record!(7, u64, |b| u64::from_be_bytes([
    0, 0, b[0], b[1], b[2], b[3], b[4], b[5]
]));
record!(19, (u128, u16), |b| {
    let [address @ .., high, low, _tag] = *b;
    (
        u128::from_be_bytes(address),
        u16::from_be_bytes([high, low]),
    )
});

/// Where a peer listens. IPv4 addresses mapped into IPv6 are IPv4 (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    V4(V4),
    V6(V6),
}

impl Peer {
    pub fn new(address: IpAddr, port: u16) -> Peer {
        let [high, low] = port.to_be_bytes();
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Peer::V4([a, b, c, d, high, low, 0])
            }
            IpAddr::V6(ip) => {
                let mut record = [0; 19];
                record[..16].copy_from_slice(&ip.octets());
                record[16] = high;
                record[17] = low;
                Peer::V6(record)
            }
        }
    }
}

/// Makes room for one more by growing a full vector by an eighth: doubling would leave a quarter of
/// the memory unused on average.
pub fn reserve_one<T>(vector: &mut Vec<T>) {
    if vector.len() == vector.capacity() {
        vector.reserve_exact(vector.len() / 8 + 1);
    }
}

/// Gives back what a shrunken vector no longer needs, keeping an eighth to grow.
pub fn trim<T>(vector: &mut Vec<T>) {
    let length = vector.len();
    if vector.capacity() > length + length / 4 + 4 {
        vector.shrink_to(length + length / 8);
    }
}

/// The sorted peers of one role and family in a large swarm, in chunks of bounded size: an insert
/// moves at most [`Chunk::MOST`] records, whether the list holds a thousand or a million.
#[derive(Debug)]
pub struct PeerList<R> {
    /// None is empty.
    chunks: Vec<Chunk<R>>,
    ranks: Ranks,
}

#[derive(Debug)]
struct Chunk<R> {
    /// Not above any record of this chunk, and above all of those before it. Kept beside the
    /// pointer so that finding a chunk reads no other chunk's memory.
    fence: R,
    records: Vec<R>,
}

impl<R: Record> Chunk<R> {
    /// 512 IPv4 peers or 188 IPv6 ones: half of it is moved by an insert in some 30 ns.
    const MOST: usize = 3584 / R::SIZE;
    /// Below this a chunk looks for a neighbour to join.
    const FEW: usize = Self::MOST / 4;
}

/// A place in a [`PeerList`]: the chunk, and the index in it.
pub type Place = (usize, usize);

impl<R> Default for PeerList<R> {
    fn default() -> Self {
        PeerList {
            chunks: Vec::new(),
            ranks: Ranks::default(),
        }
    }
}

impl<R: Record> PeerList<R> {
    /// A list of records that are already in order.
    pub fn from_sorted(records: &[R]) -> Self {
        let mut list = PeerList::default();
        for part in records.chunks(Chunk::<R>::MOST / 2) {
            list.chunks.push(Chunk {
                fence: part[0],
                records: part.to_vec(),
            });
        }
        list.recount();
        list
    }

    pub fn len(&self) -> usize {
        self.ranks.total as usize
    }

    /// The peer's place, or the place where it belongs.
    pub fn find(&self, key: R::Key) -> Result<Place, Place> {
        let after = self.chunks.partition_point(|c| c.fence.key() <= key);
        let chunk = after.saturating_sub(1);
        let Some(Chunk { records, .. }) = self.chunks.get(chunk) else {
            return Err((0, 0));
        };
        match records.binary_search_by_key(&key, R::key) {
            Ok(index) => Ok((chunk, index)),
            Err(index) => Err((chunk, index)),
        }
    }

    pub fn get_mut(&mut self, (chunk, index): Place) -> Option<&mut R> {
        self.chunks.get_mut(chunk)?.records.get_mut(index)
    }

    /// How many records come before this place.
    pub fn rank(&self, (chunk, index): Place) -> usize {
        self.ranks.before(chunk) + index
    }

    /// The records from this rank to the end of its chunk; none past the end.
    pub fn starting_at(&self, rank: usize) -> &[R] {
        let (chunk, index) = self.ranks.locate(rank);
        self.chunks
            .get(chunk)
            .and_then(|c| c.records.get(index..))
            .unwrap_or_default()
    }

    /// All records, chunk by chunk.
    pub fn chunks(&self) -> impl Iterator<Item = &[R]> {
        self.chunks.iter().map(|c| c.records.as_slice())
    }

    /// Inserts at the place that [`PeerList::find`] named, and tells the record's rank.
    pub fn insert(&mut self, (mut chunk, mut index): Place, record: R) -> usize {
        if self.chunks.is_empty() {
            *self = PeerList::from_sorted(&[record]);
            return 0;
        }
        if self.chunks[chunk].records.len() >= Chunk::<R>::MOST {
            let middle = self.split(chunk);
            if index > middle {
                (chunk, index) = (chunk + 1, index - middle);
            }
        }
        let target = &mut self.chunks[chunk];
        if chunk == 0 && index == 0 {
            target.fence = record;
        }
        reserve_one(&mut target.records);
        target.records.insert(index, record);
        self.ranks.add(chunk, 1);
        self.rank((chunk, index))
    }

    /// Halves a chunk, both parts trimmed; tells how many stayed.
    fn split(&mut self, chunk: usize) -> usize {
        let left = &mut self.chunks[chunk].records;
        let middle = left.len() / 2;
        let records = left.split_off(middle);
        left.shrink_to_fit();
        let fence = records[0];
        reserve_one(&mut self.chunks);
        self.chunks.insert(chunk + 1, Chunk { fence, records });
        self.recount();
        middle
    }

    pub fn remove(&mut self, (chunk, index): Place) -> Option<R> {
        let records = &mut self.chunks.get_mut(chunk)?.records;
        if index >= records.len() {
            return None;
        }
        let record = records.remove(index);
        self.ranks.sub(chunk, 1);
        self.tidy(chunk);
        Some(record)
    }

    /// Drops the expired from the chunk that holds `from`. Returns how many records were looked at,
    /// and the fence of the next chunk if there is one.
    pub fn expire(&mut self, from: R::Key, clock: Clock) -> (usize, Option<R>) {
        let (chunk, _) = self.find(from).unwrap_or_else(|place| place);
        let Some(Chunk { records, .. }) = self.chunks.get_mut(chunk) else {
            return (0, None);
        };
        let looked_at = records.len();
        records.retain(|record| !record.expired(clock));
        let lost = looked_at - records.len();
        let next = self.chunks.get(chunk + 1).map(|c| c.fence);
        if lost > 0 {
            self.ranks.sub(chunk, lost);
            self.tidy(chunk);
        }
        (looked_at, next)
    }

    /// After a chunk has shrunk: removes it if it is empty, joins it with a neighbour if both are
    /// small, gives back memory.
    fn tidy(&mut self, chunk: usize) {
        let length =
            |list: &Self, i: usize| list.chunks.get(i).map_or(usize::MAX, |c| c.records.len());
        let here = length(self, chunk);
        if here == 0 {
            self.chunks.remove(chunk);
            trim(&mut self.chunks);
            return self.recount();
        }
        if here < Chunk::<R>::FEW {
            let most = Chunk::<R>::MOST * 3 / 4 - here;
            if length(self, chunk + 1) <= most {
                return self.join(chunk);
            }
            if chunk > 0 && length(self, chunk - 1) <= most {
                return self.join(chunk - 1);
            }
        }
        trim(&mut self.chunks[chunk].records);
    }

    /// Moves all of the next chunk into this one.
    fn join(&mut self, chunk: usize) {
        let next = self.chunks.remove(chunk + 1);
        let records = &mut self.chunks[chunk].records;
        records.reserve_exact(next.records.len());
        records.extend_from_slice(&next.records);
        trim(records);
        trim(&mut self.chunks);
        self.recount();
    }

    fn recount(&mut self) {
        self.ranks
            .rebuild(self.chunks.iter().map(|c| c.records.len()));
    }
}

/// From rank to chunk and back: a Fenwick tree over the chunks' lengths, four bytes a chunk, so
/// that a random rank in a swarm of a million is found in a dozen steps.
#[derive(Debug, Default)]
struct Ranks {
    sums: Vec<u32>,
    total: u32,
}

impl Ranks {
    fn rebuild(&mut self, lengths: impl ExactSizeIterator<Item = usize>) {
        self.sums.clear();
        self.sums.reserve_exact(lengths.len());
        self.total = 0;
        for length in lengths {
            self.total += length as u32;
            self.sums.push(length as u32);
        }
        for i in 1..=self.sums.len() {
            let parent = i + lowest_bit(i);
            if parent <= self.sums.len() {
                self.sums[parent - 1] += self.sums[i - 1];
            }
        }
    }

    fn add(&mut self, chunk: usize, count: u32) {
        self.total += count;
        let mut i = chunk + 1;
        while let Some(sum) = self.sums.get_mut(i - 1) {
            *sum += count;
            i += lowest_bit(i);
        }
    }

    fn sub(&mut self, chunk: usize, count: usize) {
        self.total -= count as u32;
        let mut i = chunk + 1;
        while let Some(sum) = self.sums.get_mut(i - 1) {
            *sum -= count as u32;
            i += lowest_bit(i);
        }
    }

    fn before(&self, chunk: usize) -> usize {
        let mut i = chunk.min(self.sums.len());
        let mut rank = 0;
        while i > 0 {
            rank += self.sums[i - 1] as usize;
            i &= i - 1;
        }
        rank
    }

    /// The chunk that holds this rank, and the index in it.
    fn locate(&self, mut rank: usize) -> Place {
        let mut chunk = 0;
        let mut step = self.sums.len().checked_ilog2().map_or(0, |log| 1 << log);
        while step > 0 {
            if let Some(&sum) = self.sums.get(chunk + step - 1)
                && sum as usize <= rank
            {
                rank -= sum as usize;
                chunk += step;
            }
            step /= 2;
        }
        (chunk, rank)
    }
}

fn lowest_bit(i: usize) -> usize {
    i & i.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    fn record(key: u64, tag: u8) -> V4 {
        let b = key.to_be_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7], tag]
    }

    fn contents(list: &PeerList<V4>) -> Vec<V4> {
        list.chunks().flatten().copied().collect()
    }

    /// Every invariant that the list promises.
    fn check(list: &PeerList<V4>, model: &BTreeMap<u64, u8>) {
        let expected: Vec<V4> = model.iter().map(|(&k, &t)| record(k, t)).collect();
        assert_eq!(contents(list), expected);
        assert_eq!(list.len(), model.len());
        let mut rank = 0;
        for (i, chunk) in list.chunks.iter().enumerate() {
            assert!(!chunk.records.is_empty());
            assert!(chunk.records.len() <= Chunk::<V4>::MOST);
            assert!(chunk.fence.key() <= chunk.records[0].key());
            assert_eq!(list.rank((i, 0)), rank);
            for index in [0, chunk.records.len() - 1] {
                assert_eq!(list.starting_at(rank + index), &chunk.records[index..]);
            }
            rank += chunk.records.len();
        }
        assert!(list.starting_at(rank).is_empty());
    }

    #[test]
    fn behaves_as_a_sorted_map_over_a_long_random_life() {
        let mut random = Random::seeded(7);
        let mut list = PeerList::<V4>::default();
        let mut model = BTreeMap::new();
        // Three tides: mostly inserts, mostly removals, and back.
        for step in 0..60_000 {
            let ebb = (step / 10_000) % 2 == 1;
            let key = random.below(9000) as u64 * 7919;
            let insert = random.below(10) < if ebb { 2 } else { 8 };
            match (list.find(key), insert) {
                (Err(place), true) => {
                    let rank = list.insert(place, record(key, 5));
                    assert_eq!(rank, model.range(..key).count());
                    model.insert(key, 5);
                }
                (Ok(place), false) => {
                    assert_eq!(list.remove(place), Some(record(key, 5)));
                    model.remove(&key);
                }
                (Ok(place), true) => assert_eq!(list.get_mut(place), Some(&mut record(key, 5))),
                (Err(_), false) => assert!(!model.contains_key(&key)),
            }
            if step % 997 == 0 {
                check(&list, &model);
            }
        }
        check(&list, &model);
        for key in model.keys() {
            let place = list.find(*key).expect("is there");
            list.remove(place);
        }
        assert!(list.chunks.is_empty());
        assert_eq!(list.len(), 0);
    }

    #[test]
    fn expiry_walks_chunk_by_chunk_and_drops_only_the_old() {
        let (old, young) = (Clock::at(100), Clock::at(150));
        let mut list = PeerList::<V4>::default();
        let mut model = BTreeMap::new();
        for key in 0..5000_u64 {
            let tag = if key % 3 == 0 || key < 1500 {
                old
            } else {
                young
            }
            .stamp();
            let place = list.find(key * 11).expect_err("is new");
            list.insert(place, record(key * 11, tag));
            model.insert(key * 11, tag);
        }
        let now = Clock::at(197);
        let mut from = Some(record(0, 0));
        let mut looked_at = 0;
        while let Some(fence) = from {
            let (seen, next) = list.expire(fence.key(), now);
            assert!(seen <= Chunk::<V4>::MOST);
            looked_at += seen;
            from = next;
        }
        // A chunk that was joined to the one before it is passed again.
        assert!((5000..6000).contains(&looked_at), "{looked_at}");
        model.retain(|_, tag| !now.expired(*tag));
        check(&list, &model);
    }

    #[test]
    fn a_list_spends_little_more_than_its_records() {
        let mut random = Random::seeded(3);
        let mut list = PeerList::<V4>::default();
        for _ in 0..50_000 {
            let key = random.draw() >> 16;
            if let Err(place) = list.find(key) {
                list.insert(place, record(key, 0));
            }
        }
        let room: usize = list.chunks.iter().map(|c| c.records.capacity()).sum();
        assert!(room < list.len() * 109 / 100, "{room} for {}", list.len());
    }

    #[test]
    fn mapped_addresses_are_v4() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(Peer::new(mapped, 258), Peer::V4([192, 0, 2, 1, 1, 2, 0]));
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let Peer::V6(record) = Peer::new(v6, 258) else {
            panic!("is v6")
        };
        assert_eq!(record.endpoint()[14..], [0, 1, 1, 2]);
        assert_eq!(record.key(), (0x2001_0db8_u128 << 96 | 1, 258));
    }

    #[test]
    fn what_is_completed_stays_completed() {
        let mut peer = record(1, 0);
        peer.renew(Clock::at(3), true);
        assert_eq!(peer.tag(), 0x83);
        peer.renew(Clock::at(130), false);
        assert_eq!(peer.tag(), 0x82);
        assert!(peer.completed());
    }
}
