//! Sorted lists of peers: the peers of one role and family in a swarm.
//!
//! Lists are sorted by address and port, so that a peer is found by a guess or by halving, and a walk can stop and go
//! on by key. A record is 7 or 19 bytes; only what searches or copies records is compiled for either size.

use super::blocks::{self, Block, Blocks};
use super::clock::Clock;
use super::peer::{Peer, count, drop_expired, host, insert_record, prefix};
use crate::base::memory::{reserve_total, trim};
use std::ops::Range;

/// A record's place in a list: the chunk, and the index in it.
pub type ChunkIndex = (usize, usize);

/// A list, however it is stored.
#[derive(Clone, Copy)]
pub enum PeerList<'a> {
    /// Records that lie together, and the bytes of one.
    Slice(&'a [u8], usize),
    Large(&'a LargeList, &'a Blocks),
}

impl<'a> PeerList<'a> {
    /// Bytes of a record.
    #[inline]
    pub fn size(self) -> usize {
        match self {
            PeerList::Slice(_, size) => size,
            PeerList::Large(list, _) => list.size(),
        }
    }

    #[inline]
    pub fn len(self) -> usize {
        match self {
            PeerList::Slice(records, size) => count(records, size),
            PeerList::Large(list, _) => list.len(),
        }
    }

    /// The peer's place, or the one where it belongs.
    #[inline]
    pub fn find(self, peer: &Peer) -> Result<ChunkIndex, ChunkIndex> {
        match self {
            PeerList::Slice(records, _) => match peer.search(records) {
                Ok(index) => Ok((0, index)),
                Err(index) => Err((0, index)),
            },
            PeerList::Large(list, blocks) => list.find(peer, blocks),
        }
    }

    /// The records from this place on, as many as lie together.
    #[inline]
    pub fn records_at(self, at: ChunkIndex) -> &'a [u8] {
        match self {
            PeerList::Slice(records, size) if at.0 == 0 => {
                records.get(at.1 * size..).unwrap_or_default()
            }
            PeerList::Slice(..) => &[],
            PeerList::Large(list, blocks) => list.records(at, blocks),
        }
    }

    /// The records from this rank on, as many as lie together: at least one if the rank exists.
    #[inline]
    pub fn starting_at(self, rank: usize) -> &'a [u8] {
        match self {
            PeerList::Slice(records, size) => records.get(rank * size..).unwrap_or_default(),
            PeerList::Large(list, blocks) => list.records(list.locate(rank), blocks),
        }
    }

    /// How many records come before this place.
    #[inline]
    pub fn rank(self, at: ChunkIndex) -> usize {
        match self {
            PeerList::Slice(..) => at.1,
            PeerList::Large(list, _) => list.rank(at),
        }
    }

    /// The ranks of the peers of this one's host: they are neighbours.
    pub fn of_host(self, peer: &Peer) -> Range<usize> {
        let [first, last] = peer.host_ends();
        let start = self.find(&first).unwrap_or_else(|at| at);
        let end = match self.find(&last) {
            Ok(last) => self.rank(last) + 1,
            Err(end) => self.rank(end),
        };
        self.rank(start)..end
    }

    /// Whether a peer of this one's host is next to the place where this one belongs.
    #[inline]
    pub fn has_host_beside(self, at: ChunkIndex, peer: &Peer) -> bool {
        let (size, own) = (self.size(), host(peer.record()));
        let near = self.records_at((at.0, at.1.saturating_sub(1)));
        // At the ends of a chunk, one of the two is in the next chunk.
        let far = match (at.1, near.len() > size) {
            (0, _) => self
                .rank(at)
                .checked_sub(1)
                .map(|rank| self.starting_at(rank)),
            (_, true) => None,
            (_, false) => self.after_chunk(at),
        };
        let far = far.and_then(|records| records.get(..size));
        let mut both = near.chunks_exact(size).take(2).chain(far);
        both.any(|record| host(record) == own)
    }

    /// The records of these ranks.
    pub fn records_of(self, ranks: Range<usize>) -> impl Iterator<Item = &'a [u8]> {
        let size = self.size();
        let mut next = ranks.start;
        let pieces = std::iter::from_fn(move || {
            let records = self.starting_at(next);
            let wanted = ranks.end.saturating_sub(next).saturating_mul(size);
            let records = records.get(..wanted).unwrap_or(records);
            next += count(records, size);
            (!records.is_empty()).then(|| records.chunks_exact(size))
        });
        pieces.flatten()
    }

    /// The first record of the chunk after this place's.
    pub fn after_chunk(self, (chunk, _): ChunkIndex) -> Option<&'a [u8]> {
        self.records_at((chunk + 1, 0)).get(..self.size())
    }
}

/// A list of a large swarm, in chunks of bounded size: an insert moves at most 3.6 KB, whether the list holds a
/// thousand peers or a million.
///
/// The records are in [`Blocks`], which every call is handed; a list that is dropped must have been cleared.
#[derive(Debug)]
pub struct LargeList {
    /// None is empty.
    chunks: Vec<Chunk>,
    /// From rank to chunk and back: a Fenwick tree over the chunks' counts, so that a random rank in a swarm of a
    /// million is found in a dozen steps. One chunk alone needs none.
    sums: Vec<u32>,
    total: u32,
    /// Bytes of a record.
    size: u8,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// The prefix of a record that is not above any of this chunk and not below any of those before it. Finding a chunk
    /// reads no other chunk's memory, unless prefixes are equal.
    fence: u64,
    block: Block,
    count: u16,
}

const _: () = assert!(size_of::<Chunk>() == 16);

impl Chunk {
    fn new(records: &[u8], size: usize, blocks: &mut Blocks) -> Option<Chunk> {
        let fence = prefix(records.get(..size)?);
        let block = blocks.take(records.len())?;
        blocks.get_mut(block)[..records.len()].copy_from_slice(records);
        Some(Chunk {
            fence,
            block,
            count: u16::try_from(count(records, size)).ok()?,
        })
    }

    fn len(&self) -> usize {
        usize::from(self.count)
    }
}

impl LargeList {
    pub fn new(size: usize) -> LargeList {
        LargeList {
            chunks: Vec::new(),
            sums: Vec::new(),
            total: 0,
            size: size as u8, // 7 or 19.
        }
    }

    fn size(&self) -> usize {
        usize::from(self.size)
    }

    /// Records of a chunk at most: 519 of IPv4 or 191 of IPv6. Half of them are moved by an insert in some 30 ns.
    fn max_in_chunk(&self) -> usize {
        blocks::LARGEST / self.size()
    }

    /// Appends records that are in order and above all others. None if there is no memory for them.
    pub fn append(&mut self, records: &[u8], blocks: &mut Blocks) -> Option<()> {
        self.rebuild(self.chunks.len()..self.chunks.len(), records, blocks)
    }

    /// Replaces these chunks, at most two, by new ones, which hold their records and `more` behind them: as few chunks
    /// as are at most three quarters full. None if there is no memory for them; then nothing has changed.
    fn rebuild(&mut self, chunks: Range<usize>, more: &[u8], blocks: &mut Blocks) -> Option<()> {
        let size = self.size();
        let (mut room, mut used) = ([0; 2 * blocks::LARGEST], 0);
        let old = chunks.clone().map(|chunk| self.records((chunk, 0), blocks));
        for piece in old.chain([more]) {
            room.get_mut(used..used + piece.len())?
                .copy_from_slice(piece);
            used += piece.len();
        }
        let count = used / size;
        let parts = count.div_ceil(self.max_in_chunk() * 3 / 4 + 1);
        // A list that does not get longer needs no memory but for its records.
        let after = self.chunks.len() - chunks.len() + parts;
        reserve_total(&mut self.chunks, after)?;
        if after > 1 {
            reserve_total(&mut self.sums, after)?;
        }
        let mut new = [None; 3];
        let parts = room[..used].chunks((count / parts.max(1) + 1) * size);
        let is_short = std::iter::zip(&mut new, parts).any(|(new, part)| {
            *new = Chunk::new(part, size, blocks);
            new.is_none()
        });
        let new = new.into_iter().flatten();
        if is_short {
            new.for_each(|chunk| blocks.free(chunk.block));
            return None;
        }
        let mut end = chunks.start;
        for chunk in new {
            match chunks.contains(&end) {
                true => blocks.free(std::mem::replace(&mut self.chunks[end], chunk).block),
                false => self.chunks.insert(end, chunk),
            }
            end += 1;
        }
        for old in self.chunks.drain(end..chunks.end.max(end)) {
            blocks.free(old.block);
        }
        trim(&mut self.chunks);
        self.recount();
        Some(())
    }

    pub fn clear(&mut self, blocks: &mut Blocks) {
        for chunk in self.chunks.drain(..) {
            blocks.free(chunk.block);
        }
        *self = LargeList::new(self.size());
    }

    pub fn len(&self) -> usize {
        self.total as usize
    }

    /// The number of the chunk that the peer is in or belongs to.
    fn chunk_of(&self, peer: &Peer, blocks: &Blocks) -> usize {
        let key = prefix(peer.record());
        let below = self.chunks.partition_point(|chunk| chunk.fence < key);
        // Apart from the rare equals, so that each step of the halving compares numbers without a branch: to fill a
        // large swarm takes 5 % less.
        let rest = &self.chunks[below..];
        let equal = match rest.first() {
            Some(first) if first.fence == key => rest.partition_point(|chunk| {
                let first = &blocks.get(chunk.block)[..self.size()];
                chunk.fence == key && peer.search(first) != Err(0)
            }),
            _ => 0,
        };
        (below + equal).saturating_sub(1)
    }

    /// The records from this place to the end of its chunk.
    fn records<'a>(&self, (chunk, index): ChunkIndex, blocks: &'a Blocks) -> &'a [u8] {
        let Some(chunk) = self.chunks.get(chunk) else {
            return &[];
        };
        let bytes = index * self.size()..chunk.len() * self.size();
        blocks.get(chunk.block).get(bytes).unwrap_or_default()
    }

    /// The peer's place, or the one where it belongs.
    pub fn find(&self, peer: &Peer, blocks: &Blocks) -> Result<ChunkIndex, ChunkIndex> {
        let chunk = self.chunk_of(peer, blocks);
        let records = self.records((chunk, 0), blocks);
        let first = self.chunks.get(chunk).map_or(0, |chunk| chunk.fence);
        let last = match self.chunks.get(chunk + 1) {
            Some(next) => next.fence,
            None => records.rchunks(self.size()).next().map_or(0, prefix),
        };
        match peer.search_between([first, last], records) {
            Ok(index) => Ok((chunk, index)),
            Err(index) => Err((chunk, index)),
        }
    }

    pub fn tag_mut<'a>(
        &self,
        (chunk, index): ChunkIndex,
        blocks: &'a mut Blocks,
    ) -> Option<&'a mut u8> {
        let block = self.chunks.get(chunk)?.block;
        blocks.get_mut(block).get_mut((index + 1) * self.size() - 1)
    }

    /// All records, chunk by chunk.
    pub fn pieces<'a>(&'a self, blocks: &'a Blocks) -> impl Iterator<Item = &'a [u8]> {
        (0..self.chunks.len()).map(|chunk| self.records((chunk, 0), blocks))
    }

    /// Inserts a peer where it belongs; returns its rank. None if there is no memory for it.
    pub fn insert(&mut self, at: ChunkIndex, peer: &Peer, blocks: &mut Blocks) -> Option<usize> {
        let (mut at, record, size) = (at, peer.record(), self.size());
        if self.chunks.is_empty() {
            self.append(record, blocks)?;
            return Some(0);
        }
        if self.chunks.get(at.0)?.len() >= self.max_in_chunk() {
            self.rebuild(at.0..at.0 + 1, &[], blocks)?;
            at = self.find(peer, blocks).err()?;
        }
        let chunk = self.chunks.get_mut(at.0)?;
        let (mut block, used) = (chunk.block, chunk.len() * size);
        if used + size > blocks.get(block).len() {
            block = blocks.move_to(block, used, used + size)?;
        }
        chunk.block = blocks.move_together(block, used);
        insert_record(blocks.get_mut(chunk.block), used, at.1 * size, record);
        chunk.count += 1;
        if at == (0, 0) {
            chunk.fence = prefix(peer.record());
        }
        self.add(at.0, 1);
        Some(self.rank(at))
    }

    pub fn remove(&mut self, (number, index): ChunkIndex, blocks: &mut Blocks) {
        let size = self.size();
        if let Some(chunk) = self.chunks.get_mut(number) {
            let bytes = blocks.get_mut(chunk.block);
            bytes.copy_within((index + 1) * size..chunk.len() * size, index * size);
            let kept = chunk.len() - 1;
            self.shrink_chunk(number, kept, blocks);
        }
    }

    /// Drops the expired from the chunk with this number; returns how many records were looked at.
    pub fn expire(&mut self, number: usize, clock: Clock, blocks: &mut Blocks) -> usize {
        let size = self.size();
        let Some(chunk) = self.chunks.get_mut(number) else {
            return 0;
        };
        let looked_at = chunk.len();
        let records = &mut blocks.get_mut(chunk.block)[..looked_at * size];
        let kept = drop_expired(records, size, clock) / size;
        match kept < looked_at {
            true => self.shrink_chunk(number, kept, blocks),
            false => chunk.block = blocks.move_together(chunk.block, kept * size),
        }
        looked_at
    }

    /// Keeps the first records of a chunk: removes it if it is empty, joins it with a neighbour if both are small,
    /// gives back memory.
    fn shrink_chunk(&mut self, number: usize, kept: usize, blocks: &mut Blocks) {
        let max = self.max_in_chunk();
        let chunk = &mut self.chunks[number];
        let dropped = chunk.len() - kept;
        chunk.count -= dropped as u16;
        self.add(number, 0_u32.wrapping_sub(dropped as u32));
        let length = |number: usize| self.chunks.get(number).map_or(usize::MAX, Chunk::len);
        let room = (max * 3 / 4).saturating_sub(kept);
        let is_small = kept < max / 4;
        let joined = if kept == 0 {
            number..number + 1
        } else if is_small && length(number + 1) <= room {
            number..number + 2
        } else if is_small && number > 0 && length(number - 1) <= room {
            number - 1..number + 1
        } else {
            let chunk = &mut self.chunks[number];
            let shrunk = blocks.shrink(chunk.block, kept * usize::from(self.size));
            chunk.block = shrunk.unwrap_or(chunk.block);
            return;
        };
        self.rebuild(joined, &[], blocks);
    }

    /// Builds the Fenwick tree anew.
    fn recount(&mut self) {
        let counts = self.chunks.iter().map(|chunk| u32::from(chunk.count));
        self.total = counts.clone().sum();
        self.sums.clear();
        // There is room for them: `rebuild` has reserved it.
        self.sums.extend(counts.filter(|_| self.chunks.len() > 1));
        trim(&mut self.sums);
        for i in 1..=self.sums.len() {
            let sum = self.sums[i - 1];
            if let Some(parent) = self.sums.get_mut(i + lowest_bit(i) - 1) {
                *parent += sum;
            }
        }
    }

    /// Adds to a chunk's count in the tree; wrapping, so that this subtracts too.
    fn add(&mut self, chunk: usize, count: u32) {
        self.total = self.total.wrapping_add(count);
        let mut i = chunk + 1;
        while let Some(sum) = self.sums.get_mut(i - 1) {
            *sum = sum.wrapping_add(count);
            i += lowest_bit(i);
        }
    }

    /// How many records come before this place.
    pub fn rank(&self, (chunk, index): ChunkIndex) -> usize {
        let (mut i, mut rank) = (chunk, index);
        while let Some(sum) = self.sums.get(i.wrapping_sub(1)) {
            rank += *sum as usize;
            i &= i - 1;
        }
        rank
    }

    /// The place of this rank.
    fn locate(&self, mut rank: usize) -> ChunkIndex {
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
    use crate::base::random::Random;
    use std::collections::BTreeMap;

    /// Peers of either family by number, sorted by it.
    fn peer(n: u64, tag: u8, is_v6: bool) -> Peer {
        let [.., a, b, c, d, high, low] = n.to_be_bytes();
        match is_v6 {
            false => Peer::V4([a, b, c, d, high, low, tag]),
            true => {
                let mut record = [0x20; 19];
                record[12..].copy_from_slice(&[a, b, c, d, high, low, tag]);
                Peer::V6(record)
            }
        }
    }

    /// A list and what must be in it: tags by number.
    struct Subject {
        list: LargeList,
        model: BTreeMap<u64, u8>,
        is_v6: bool,
    }

    impl Subject {
        fn new(is_v6: bool) -> Subject {
            Subject {
                list: LargeList::new(if is_v6 { 19 } else { 7 }),
                model: BTreeMap::new(),
                is_v6,
            }
        }

        fn insert(&mut self, n: u64, tag: u8, blocks: &mut Blocks) {
            let peer = peer(n, tag, self.is_v6);
            if let Err(at) = self.list.find(&peer, blocks) {
                let rank = self.list.insert(at, &peer, blocks);
                assert_eq!(rank, Some(self.model.range(..n).count()));
                assert_eq!(self.model.insert(n, tag), None);
            }
        }

        fn remove(&mut self, n: u64, blocks: &mut Blocks) {
            let found = self.list.find(&peer(n, 0, self.is_v6), blocks);
            assert_eq!(found.is_ok(), self.model.remove(&n).is_some());
            if let Ok(at) = found {
                self.list.remove(at, blocks);
            }
        }

        /// Every invariant that the list promises.
        fn check(&self, blocks: &Blocks) {
            let (list, size) = (&self.list, self.list.size());
            let pieces: Vec<&[u8]> = list.pieces(blocks).collect();
            let peers = self.model.iter().map(|(n, tag)| peer(*n, *tag, self.is_v6));
            let expected: Vec<u8> = peers.flat_map(|peer| peer.record().to_vec()).collect();
            assert!(pieces.concat() == expected);
            assert_eq!(list.len(), self.model.len());
            let view = PeerList::Large(list, blocks);
            let mut rank = 0;
            for (number, records) in pieces.into_iter().enumerate() {
                assert!(!records.is_empty() && records.len() <= list.max_in_chunk() * size);
                assert!(list.chunks[number].fence <= prefix(&records[..size]));
                for index in [0, records.len() / size - 1] {
                    assert_eq!(list.rank((number, index)), rank + index);
                    assert_eq!(view.starting_at(rank + index), &records[index * size..]);
                }
                rank += records.len() / size;
            }
            assert!(view.starting_at(rank).is_empty());
        }
    }

    #[test]
    fn behaves_as_a_sorted_map_over_a_long_random_life() {
        for is_v6 in [false, true] {
            let mut random = Random::seeded(7);
            let mut blocks = Blocks::default();
            let mut subject = Subject::new(is_v6);
            // Three tides: mostly inserts, mostly removals, and back.
            for step in 0..60_000 {
                let is_ebb = (step / 10_000) % 2 == 1;
                let n = random.below(9000) as u64 * 7919;
                match random.below(10) < if is_ebb { 2 } else { 8 } {
                    true => subject.insert(n, 5, &mut blocks),
                    false => subject.remove(n, &mut blocks),
                }
                if step % 997 == 0 {
                    subject.check(&blocks);
                }
            }
            subject.check(&blocks);
            let numbers: Vec<u64> = subject.model.keys().copied().collect();
            numbers
                .into_iter()
                .for_each(|n| subject.remove(n, &mut blocks));
            assert!(subject.list.chunks.is_empty());
            assert_eq!(blocks.bytes, 0);
        }
    }

    /// Chunks move to where others have left room, and must find room there for one more.
    #[test]
    fn lists_that_share_blocks_do_not_overlap() {
        let mut random = Random::seeded(8);
        let mut blocks = Blocks::default();
        let mut subjects: Vec<_> = (0..40).map(|n| Subject::new(n % 4 == 0)).collect();
        for step in 0..150_000 {
            let subject = &mut subjects[random.below(40)];
            let n = random.below(3000) as u64;
            let is_ebb = (step / 30_000) % 2 == 1;
            match random.below(10) < if is_ebb { 2 } else { 8 } {
                true => subject.insert(n, 5, &mut blocks),
                false => subject.remove(n, &mut blocks),
            }
        }
        subjects.iter().for_each(|subject| subject.check(&blocks));
    }

    #[test]
    fn expiry_goes_chunk_by_chunk_and_drops_only_expired_peers() {
        let (old, young) = (Clock::at(145).stamp(), Clock::at(150).stamp());
        let mut blocks = Blocks::default();
        let mut subject = Subject::new(false);
        for n in 0..5000_u64 {
            let is_old = n % 3 == 0 || n < 1500;
            subject.insert(n * 11, if is_old { old } else { young }, &mut blocks);
        }
        let now = Clock::at(197);
        let mut chunk = 0;
        while chunk < subject.list.chunks.len() {
            let count = subject.list.chunks.len();
            let looked_at = subject.list.expire(chunk, now, &mut blocks);
            assert!(looked_at <= subject.list.max_in_chunk());
            chunk += usize::from(subject.list.chunks.len() == count);
        }
        subject.model.retain(|_, tag| !now.expired(*tag));
        subject.check(&blocks);
    }

    #[test]
    fn a_list_takes_at_most_9_percent_more_memory_than_its_records() {
        let mut random = Random::seeded(3);
        let mut blocks = Blocks::default();
        let mut list = LargeList::new(7);
        for _ in 0..50_000 {
            let peer = peer(random.draw() >> 16, 0, false);
            if let Err(at) = list.find(&peer, &blocks) {
                list.insert(at, &peer, &mut blocks);
            }
        }
        let sizes = list
            .chunks
            .iter()
            .map(|chunk| blocks.get(chunk.block).len());
        let room: usize = sizes.sum();
        assert!(
            room < list.len() * 7 * 109 / 100,
            "{room} for {}",
            list.len()
        );
    }
}
