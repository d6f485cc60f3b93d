//! A sorted vector of info-hashes, with an index by their first bits.
//!
//! The index has a bucket for four to eight hashes: a search reads one number and then two or three cache lines, which
//! can be prefetched. Where hashes are not random, buckets are large and are searched by halves.

use crate::sys::memory::{self, prefetch};
use crate::tracker::InfoHash;

/// Hashes in a bucket on average, at most.
const BUCKET: usize = 8;

/// The index is 4 MiB at most: larger, it would cost more cache misses than it saves.
const MAX_BITS: u32 = 20;

/// Up to here a linear search is faster than a binary one.
const MAX_LINEAR: usize = 24;

/// Bytes of an old list that are freed in one step.
const FREED_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct InfoHashSet {
    /// Sorted, without duplicates.
    hashes: Vec<InfoHash>,
    /// At `b`, how many hashes are in the buckets before bucket `b`. It ends with the bucket of the last hash: the
    /// bounds of later buckets are all the number of hashes.
    index: Vec<u32>,
    /// How far a hash's first eight bytes are shifted to get its bucket.
    shift: u32,
}

impl Default for InfoHashSet {
    fn default() -> InfoHashSet {
        InfoHashSet::with_capacity(0)
    }
}

impl InfoHashSet {
    pub fn with_capacity(count: usize) -> InfoHashSet {
        let buckets = count.div_ceil(BUCKET).next_power_of_two();
        let bits = buckets.trailing_zeros().clamp(1, MAX_BITS);
        InfoHashSet {
            hashes: Vec::with_capacity(count),
            index: Vec::with_capacity(1 << bits),
            shift: u64::BITS - bits,
        }
    }

    /// A set of hashes that are sorted and without duplicates. It takes over their memory.
    pub fn of(hashes: Vec<InfoHash>) -> InfoHashSet {
        let mut set = InfoHashSet::with_capacity(hashes.len());
        set.enter(&hashes);
        set.hashes = hashes;
        set
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Appends hashes, in order and above all that are there.
    pub fn extend(&mut self, hashes: &[InfoHash]) {
        self.enter(hashes);
        self.hashes.extend_from_slice(hashes);
    }

    /// Enters the next hashes in the index.
    fn enter(&mut self, hashes: &[InfoHash]) {
        for (before, hash) in (self.hashes.len()..).zip(hashes) {
            let bucket = self.bucket(hash);
            if self.index.len() <= bucket {
                let before = u32::try_from(before).unwrap_or(u32::MAX);
                self.index.resize(bucket + 1, before);
            }
        }
    }

    fn bucket(&self, hash: &InfoHash) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> self.shift) as usize
    }

    /// The hashes of the same bucket.
    fn neighbours(&self, hash: &InfoHash) -> &[InfoHash] {
        let bucket = self.bucket(hash);
        let bound = |bucket| self.index.get(bucket).map_or(self.len(), |n| *n as usize);
        let bounds = bound(bucket)..bound(bucket + 1);
        self.hashes.get(bounds).unwrap_or_default()
    }

    pub fn contains(&self, hash: &InfoHash) -> bool {
        let neighbours = self.neighbours(hash);
        match neighbours.len() <= MAX_LINEAR {
            true => neighbours.contains(hash),
            false => neighbours.binary_search(hash).is_ok(),
        }
    }

    /// Prefetches the cache lines that [`InfoHashSet::contains`] will read.
    pub fn prefetch(&self, hash: &InfoHash) {
        // Three hashes are about a cache line. Buckets of more than nine are rare.
        for hash in self.neighbours(hash).iter().take(9).step_by(3) {
            prefetch(hash);
        }
    }

    /// Frees a part of the memory, as all of a large list at once would take milliseconds; false when nothing is left.
    pub fn shrink(&mut self) -> bool {
        let rest = self.hashes.len().saturating_sub(FREED_BYTES / 20);
        if let Some(end) = self.hashes.get_mut(rest..) {
            memory::discard(end.as_flattened_mut());
        }
        self.hashes.truncate(rest);
        rest > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::collections::BTreeSet;

    fn hash(n: u64) -> InfoHash {
        let mut hash = [0x55; 20];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        hash
    }

    fn set(hashes: &BTreeSet<InfoHash>) -> InfoHashSet {
        let mut set = InfoHashSet::with_capacity(hashes.len());
        let hashes: Vec<InfoHash> = hashes.iter().copied().collect();
        hashes.chunks(100).for_each(|part| set.extend(part));
        set
    }

    #[test]
    fn a_set_contains_its_hashes_and_no_other() {
        let mut random = Random::seeded(1);
        for count in [0, 1, 2, 3, 7, 8, 9, 100, 5000] {
            for shift in [0, 40, 60] {
                let model: BTreeSet<InfoHash> =
                    (0..count).map(|_| hash(random.draw() >> shift)).collect();
                let set = set(&model);
                assert_eq!(set.len(), model.len());
                for hash in &model {
                    set.prefetch(hash);
                    assert!(set.contains(hash));
                    for at in [0, 7, 19] {
                        let mut other = *hash;
                        other[at] ^= 1;
                        assert_eq!(set.contains(&other), model.contains(&other));
                    }
                }
                for hash in [[0; 20], [0xff; 20]] {
                    assert_eq!(set.contains(&hash), model.contains(&hash));
                }
            }
        }
    }

    #[test]
    fn buckets_of_random_hashes_are_small() {
        let mut random = Random::seeded(2);
        let model: BTreeSet<InfoHash> = (0..100_000).map(|_| hash(random.draw())).collect();
        let set = set(&model);
        let most = model.iter().map(|hash| set.neighbours(hash).len()).max();
        assert!(most.is_some_and(|most| most <= 30), "{most:?}");
    }

    #[test]
    fn memory_is_freed_in_steps() {
        let mut set = set(&(0..150_000).map(|n| hash(n << 40)).collect());
        let mut steps = 1;
        while set.shrink() {
            steps += 1;
        }
        assert_eq!((steps, set.len()), (3, 0));
    }
}
