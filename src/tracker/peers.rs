//! Peers as they are stored, and the lists that hold them.
//!
//! A peer is its address and port as they go over the wire, and one byte more: 7 bytes for IPv4, 19
//! for IPv6. Lists are sorted by address and port, so that a peer is found by halving and a list can
//! be walked, stopped and walked on by key. Everything here works on either size through [`Record`].

use super::blocks::{self, Block, Blocks};
use super::clock::Clock;
use crate::sys::chunks::{as_chunks, as_chunks_mut};
use crate::sys::memory::prefetch;
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

/// A record's last byte, the tag: the top bit says that the peer's completion was counted, the next one that it last
/// announced to this node and was not learnt from another. The others are the stamp of its last announce.
pub const COMPLETED: u8 = 0x80;
pub const LOCAL: u8 = 0x40;

const _: () = assert!(COMPLETED | LOCAL == !super::clock::STAMP_MASK);

pub trait Record: Copy + Eq + std::fmt::Debug {
    /// Address and port as a number that sorts as the bytes do.
    type Key: Copy + Ord;
    const SIZE: usize;

    fn key(&self) -> Self::Key;
    fn bytes(&self) -> &[u8];
    fn tag(&self) -> u8;
    fn tag_mut(&mut self) -> &mut u8;
    /// The records that these bytes hold; a remainder is left out.
    fn from_bytes(bytes: &[u8]) -> &[Self];
    fn from_bytes_mut(bytes: &mut [u8]) -> &mut [Self];
    fn to_bytes(records: &[Self]) -> &[u8];

    /// Address and port, as a reply has them.
    fn endpoint(&self) -> &[u8] {
        &self.bytes()[..Self::SIZE - 1]
    }

    fn set_tag(&mut self, tag: u8) {
        *self.tag_mut() = tag;
    }

    fn expired(&self, clock: Clock) -> bool {
        clock.expired(self.tag())
    }

    /// Gives the peer a new tag. A completion that was counted stays counted.
    fn renew(&mut self, tag: u8) {
        *self.tag_mut() = tag | self.tag() & COMPLETED;
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
            fn tag_mut(&mut self) -> &mut u8 {
                &mut self[$size - 1]
            }
            fn from_bytes(bytes: &[u8]) -> &[Self] {
                as_chunks(bytes).0
            }
            fn from_bytes_mut(bytes: &mut [u8]) -> &mut [Self] {
                as_chunks_mut(bytes).0
            }
            fn to_bytes(records: &[Self]) -> &[u8] {
                records.as_flattened()
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

    /// Address and port as on the wire: 6 or 18 bytes.
    pub fn endpoint(&self) -> &[u8] {
        match self {
            Peer::V4(record) => record.endpoint(),
            Peer::V6(record) => record.endpoint(),
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
///
/// The records are in [`Blocks`], which every call is handed; a list that is dropped must have been
/// cleared.
#[derive(Debug)]
pub struct PeerList<R> {
    /// None is empty.
    chunks: Vec<Chunk<R>>,
    ranks: Ranks,
}

#[derive(Clone, Copy, Debug)]
struct Chunk<R> {
    /// Not above any record of this chunk, and above all of those before it. Kept beside the
    /// pointer so that finding a chunk reads no other chunk's memory.
    fence: R,
    count: u16,
    block: Block,
}

impl<R: Record> Chunk<R> {
    /// 520 IPv4 peers or 191 IPv6 ones: half of it is moved by an insert in some 30 ns.
    const MOST: usize = blocks::LARGEST / R::SIZE;
    /// Below this a chunk looks for a neighbour to join.
    const FEW: usize = Self::MOST / 4;

    fn new(records: &[R], blocks: &mut Blocks) -> Option<Self> {
        let block = blocks.take(records.len() * R::SIZE)?;
        R::from_bytes_mut(blocks.get_mut(block))[..records.len()].copy_from_slice(records);
        Some(Chunk {
            fence: *records.first()?,
            count: u16::try_from(records.len()).ok()?,
            block,
        })
    }

    fn len(&self) -> usize {
        usize::from(self.count)
    }

    fn records<'a>(&self, blocks: &'a Blocks) -> &'a [R] {
        &R::from_bytes(blocks.get(self.block))[..self.len()]
    }

    fn records_mut<'a>(&self, blocks: &'a mut Blocks) -> &'a mut [R] {
        &mut R::from_bytes_mut(blocks.get_mut(self.block))[..self.len()]
    }

    /// Inserts where there is room for it.
    fn insert(&mut self, index: usize, record: R, blocks: &mut Blocks) -> Option<()> {
        let used = self.len() * R::SIZE;
        if used + R::SIZE > blocks.get(self.block).len() {
            self.block = blocks.move_to(self.block, used, used + R::SIZE)?;
        }
        // With room for the newcomer: blocks of exactly what there is are among those to move to.
        self.block = blocks.move_together(self.block, used + R::SIZE);
        self.count += 1;
        let records = self.records_mut(blocks);
        records.copy_within(index..records.len() - 1, index + 1);
        records[index] = record;
        Some(())
    }

    /// Moves into a smaller block if this one has become much too large.
    fn trim(&mut self, blocks: &mut Blocks) {
        let used = self.len() * R::SIZE;
        if Blocks::is_roomy(self.block, used) {
            self.block = blocks.move_to(self.block, used, used).unwrap_or(self.block);
        }
    }
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
    /// A list of records that are already in order. None if there is no memory for it.
    pub fn from_sorted(records: &[R], blocks: &mut Blocks) -> Option<Self> {
        let mut list = PeerList::default();
        for part in records.chunks(Chunk::<R>::MOST / 2) {
            reserve_one(&mut list.chunks);
            list.chunks.push(Chunk::new(part, blocks)?);
        }
        list.recount();
        Some(list)
    }

    pub fn clear(&mut self, blocks: &mut Blocks) {
        for chunk in self.chunks.drain(..) {
            blocks.free(chunk.block);
        }
        self.recount();
    }

    pub fn len(&self) -> usize {
        self.ranks.total as usize
    }

    /// The peer's place, or the place where it belongs.
    pub fn find(&self, key: R::Key, blocks: &Blocks) -> Result<Place, Place> {
        let after = self.chunks.partition_point(|c| c.fence.key() <= key);
        let number = after.saturating_sub(1);
        let Some(chunk) = self.chunks.get(number) else {
            return Err((0, 0));
        };
        match chunk.records(blocks).binary_search_by_key(&key, R::key) {
            Ok(index) => Ok((number, index)),
            Err(index) => Err((number, index)),
        }
    }

    /// Prefetches what [`PeerList::find`] will look at first: where halving a chunk thrice leads to. What
    /// remains after that is a few lines.
    pub fn prefetch(&self, key: R::Key, blocks: &Blocks) {
        let after = self.chunks.partition_point(|c| c.fence.key() <= key);
        if let Some(chunk) = self.chunks.get(after.saturating_sub(1)) {
            let records = chunk.records(blocks);
            for eighth in 1..8 {
                if let Some(record) = records.get(records.len() * eighth / 8) {
                    prefetch(record);
                }
            }
        }
    }

    pub fn get_mut<'a>(&self, (chunk, index): Place, blocks: &'a mut Blocks) -> Option<&'a mut R> {
        self.chunks.get(chunk)?.records_mut(blocks).get_mut(index)
    }

    pub fn get<'a>(&self, (chunk, index): Place, blocks: &'a Blocks) -> Option<&'a R> {
        self.chunks.get(chunk)?.records(blocks).get(index)
    }

    /// How many records come before this place.
    pub fn rank(&self, (chunk, index): Place) -> usize {
        self.ranks.before(chunk) + index
    }

    /// The records from this rank to the end of its chunk; none past the end.
    pub fn starting_at<'a>(&self, rank: usize, blocks: &'a Blocks) -> &'a [R] {
        let (chunk, index) = self.ranks.locate(rank);
        let chunk = self.chunks.get(chunk);
        chunk
            .and_then(|c| c.records(blocks).get(index..))
            .unwrap_or_default()
    }

    /// The records from this key on to the end of its chunk, and the fence of the next chunk.
    pub fn run<'a>(&self, from: R::Key, blocks: &'a Blocks) -> (&'a [R], Option<R>) {
        let (number, index) = self.find(from, blocks).unwrap_or_else(|place| place);
        let chunk = self.chunks.get(number);
        let records = chunk.and_then(|c| c.records(blocks).get(index..));
        let next = self.chunks.get(number + 1).map(|c| c.fence);
        (records.unwrap_or_default(), next)
    }

    /// All records, chunk by chunk.
    pub fn chunks<'a>(&'a self, blocks: &'a Blocks) -> impl Iterator<Item = &'a [R]> {
        self.chunks.iter().map(|c| c.records(blocks))
    }

    /// Inserts at the place that [`PeerList::find`] named, and tells the record's rank. None if there
    /// is no memory for it.
    pub fn insert(
        &mut self,
        (mut number, mut index): Place,
        record: R,
        blocks: &mut Blocks,
    ) -> Option<usize> {
        if self.chunks.is_empty() {
            *self = PeerList::from_sorted(&[record], blocks)?;
            return Some(0);
        }
        if self.chunks.get(number)?.len() >= Chunk::<R>::MOST {
            let middle = self.split(number, blocks)?;
            if index > middle {
                (number, index) = (number + 1, index - middle);
            }
        }
        let chunk = self.chunks.get_mut(number)?;
        chunk.insert(index, record, blocks)?;
        if number == 0 && index == 0 {
            chunk.fence = record;
        }
        self.ranks.add(number, 1);
        Some(self.rank((number, index)))
    }

    /// Halves a chunk, both parts trimmed; tells how many stayed.
    fn split(&mut self, number: usize, blocks: &mut Blocks) -> Option<usize> {
        let left = self.chunks.get_mut(number)?;
        let middle = left.len() / 2;
        let moved = left.records(blocks)[middle..].to_vec();
        let right = Chunk::new(&moved, blocks)?;
        left.count -= right.count;
        left.trim(blocks);
        reserve_one(&mut self.chunks);
        self.chunks.insert(number + 1, right);
        self.recount();
        Some(middle)
    }

    pub fn remove(&mut self, (number, index): Place, blocks: &mut Blocks) -> Option<R> {
        let chunk = self.chunks.get_mut(number)?;
        let records = chunk.records_mut(blocks);
        let record = *records.get(index)?;
        records.copy_within(index + 1.., index);
        chunk.count -= 1;
        self.ranks.sub(number, 1);
        self.tidy(number, blocks);
        Some(record)
    }

    /// Drops the expired from the chunk that holds `from`. Returns how many records were looked at,
    /// and the fence of the next chunk if there is one.
    pub fn expire(
        &mut self,
        from: R::Key,
        clock: Clock,
        blocks: &mut Blocks,
    ) -> (usize, Option<R>) {
        let (number, _) = self.find(from, blocks).unwrap_or_else(|place| place);
        let Some(chunk) = self.chunks.get_mut(number) else {
            return (0, None);
        };
        let looked_at = chunk.len();
        let records = chunk.records_mut(blocks);
        let mut kept = 0;
        for i in 0..looked_at {
            if !records[i].expired(clock) {
                records[kept] = records[i];
                kept += 1;
            }
        }
        chunk.count = kept as u16;
        let next = self.chunks.get(number + 1).map(|c| c.fence);
        if kept < looked_at {
            self.ranks.sub(number, looked_at - kept);
            self.tidy(number, blocks);
        }
        (looked_at, next)
    }

    /// After a chunk has shrunk: removes it if it is empty, joins it with a neighbour if both are
    /// small, gives back memory.
    fn tidy(&mut self, number: usize, blocks: &mut Blocks) {
        let length = |list: &Self, i: usize| list.chunks.get(i).map_or(usize::MAX, Chunk::len);
        let here = length(self, number);
        if here == 0 {
            let chunk = self.chunks.remove(number);
            blocks.free(chunk.block);
            trim(&mut self.chunks);
            return self.recount();
        }
        if here < Chunk::<R>::FEW {
            let most = Chunk::<R>::MOST * 3 / 4 - here;
            if length(self, number + 1) <= most {
                return self.join(number, blocks);
            }
            if number > 0 && length(self, number - 1) <= most {
                return self.join(number - 1, blocks);
            }
        }
        self.chunks[number].trim(blocks);
    }

    /// Moves all of the next chunk into this one.
    fn join(&mut self, number: usize, blocks: &mut Blocks) {
        let [left, right] = [self.chunks[number], self.chunks[number + 1]];
        let both = [left.records(blocks), right.records(blocks)].concat();
        let Some(mut joined) = Chunk::new(&both, blocks) else {
            return;
        };
        joined.fence = left.fence;
        blocks.free(left.block);
        blocks.free(right.block);
        self.chunks[number] = joined;
        self.chunks.remove(number + 1);
        trim(&mut self.chunks);
        self.recount();
    }

    fn recount(&mut self) {
        self.ranks.rebuild(self.chunks.iter().map(Chunk::len));
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
        // One chunk alone needs no tree, and most lists have no more.
        let has_tree = lengths.len() > 1;
        if has_tree {
            self.sums.clear();
            self.sums.reserve_exact(lengths.len());
        } else {
            self.sums = Vec::new();
        }
        self.total = 0;
        for length in lengths {
            self.total += length as u32;
            if has_tree {
                self.sums.push(length as u32);
            }
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
            match self.sums.get(chunk + step - 1) {
                Some(&sum) if sum as usize <= rank => {
                    rank -= sum as usize;
                    chunk += step;
                }
                _ => {}
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

    fn contents(list: &PeerList<V4>, blocks: &Blocks) -> Vec<V4> {
        list.chunks(blocks).flatten().copied().collect()
    }

    /// Every invariant that the list promises.
    fn check(list: &PeerList<V4>, blocks: &Blocks, model: &BTreeMap<u64, u8>) {
        let expected: Vec<V4> = model.iter().map(|(&k, &t)| record(k, t)).collect();
        assert_eq!(contents(list, blocks), expected);
        assert_eq!(list.len(), model.len());
        let mut rank = 0;
        for (i, chunk) in list.chunks.iter().enumerate() {
            let records = chunk.records(blocks);
            assert!(!records.is_empty());
            assert!(records.len() <= Chunk::<V4>::MOST);
            assert!(chunk.fence.key() <= records[0].key());
            assert_eq!(list.rank((i, 0)), rank);
            for index in [0, records.len() - 1] {
                assert_eq!(list.starting_at(rank + index, blocks), &records[index..]);
            }
            rank += records.len();
        }
        assert!(list.starting_at(rank, blocks).is_empty());
    }

    #[test]
    fn behaves_as_a_sorted_map_over_a_long_random_life() {
        let mut random = Random::seeded(7);
        let mut list = PeerList::<V4>::default();
        let mut blocks = Blocks::default();
        let mut model = BTreeMap::new();
        // Three tides: mostly inserts, mostly removals, and back.
        for step in 0..60_000 {
            let ebb = (step / 10_000) % 2 == 1;
            let key = random.below(9000) as u64 * 7919;
            let insert = random.below(10) < if ebb { 2 } else { 8 };
            match (list.find(key, &blocks), insert) {
                (Err(place), true) => {
                    let rank = list.insert(place, record(key, 5), &mut blocks);
                    assert_eq!(rank, Some(model.range(..key).count()));
                    model.insert(key, 5);
                }
                (Ok(place), false) => {
                    assert_eq!(list.remove(place, &mut blocks), Some(record(key, 5)));
                    model.remove(&key);
                }
                (Ok(place), true) => {
                    assert_eq!(list.get_mut(place, &mut blocks), Some(&mut record(key, 5)))
                }
                (Err(_), false) => assert!(!model.contains_key(&key)),
            }
            if step % 997 == 0 {
                check(&list, &blocks, &model);
            }
        }
        check(&list, &blocks, &model);
        for key in model.keys() {
            let place = list.find(*key, &blocks).expect("is there");
            list.remove(place, &mut blocks);
        }
        assert!(list.chunks.is_empty());
        assert_eq!(list.len(), 0);
    }

    /// Many lists among the same blocks: chunks move to where others have left room, and must find room
    /// there for one more.
    #[test]
    fn lists_that_share_blocks_keep_apart() {
        let mut random = Random::seeded(8);
        let mut blocks = Blocks::default();
        let mut lists: Vec<(PeerList<V4>, BTreeMap<u64, u8>)> = Vec::new();
        lists.resize_with(40, Default::default);
        for step in 0..150_000 {
            let (list, model) = &mut lists[random.below(40)];
            let key = random.below(3000) as u64;
            let ebb = (step / 30_000) % 2 == 1;
            match list.find(key, &blocks) {
                Err(place) if random.below(10) < if ebb { 2 } else { 8 } => {
                    list.insert(place, record(key, 5), &mut blocks);
                    model.insert(key, 5);
                }
                Ok(place) if random.below(10) < if ebb { 8 } else { 2 } => {
                    list.remove(place, &mut blocks);
                    model.remove(&key);
                }
                _ => {}
            }
        }
        for (list, model) in &lists {
            check(list, &blocks, model);
        }
    }

    #[test]
    fn expiry_walks_chunk_by_chunk_and_drops_only_the_old() {
        let (old, young) = (Clock::at(145), Clock::at(150));
        let mut list = PeerList::<V4>::default();
        let mut blocks = Blocks::default();
        let mut model = BTreeMap::new();
        for key in 0..5000_u64 {
            let tag = if key % 3 == 0 || key < 1500 {
                old
            } else {
                young
            }
            .stamp();
            let place = list.find(key * 11, &blocks).expect_err("is new");
            list.insert(place, record(key * 11, tag), &mut blocks);
            model.insert(key * 11, tag);
        }
        let now = Clock::at(197);
        let mut from = Some(record(0, 0));
        let mut looked_at = 0;
        while let Some(fence) = from {
            let (seen, next) = list.expire(fence.key(), now, &mut blocks);
            assert!(seen <= Chunk::<V4>::MOST);
            looked_at += seen;
            from = next;
        }
        // A chunk that was joined to the one before it is passed again.
        assert!((5000..6000).contains(&looked_at), "{looked_at}");
        model.retain(|_, tag| !now.expired(*tag));
        check(&list, &blocks, &model);
    }

    #[test]
    fn a_list_spends_little_more_than_its_records() {
        let mut random = Random::seeded(3);
        let mut list = PeerList::<V4>::default();
        let mut blocks = Blocks::default();
        for _ in 0..50_000 {
            let key = random.draw() >> 16;
            if let Err(place) = list.find(key, &blocks) {
                list.insert(place, record(key, 0), &mut blocks);
            }
        }
        let sizes = list.chunks.iter().map(|c| blocks.get(c.block).len());
        let room: usize = sizes.sum();
        assert!(
            room < list.len() * 7 * 109 / 100,
            "{room} for {}",
            list.len()
        );
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
        peer.renew(3 | LOCAL | COMPLETED);
        assert_eq!(peer.tag(), 0xc3);
        peer.renew(2);
        assert_eq!(peer.tag(), 0x82);
    }
}
