//! A sorted vector of info-hashes, with an index that tells where to look.
//!
//! The index is by the first bits of a hash and has a bucket for about six: a search reads one number and
//! then two or three cache lines, which can be asked for ahead. Where hashes are not as random as they
//! should be, buckets are large and are searched by halves.

use crate::sys::memory::{self, prefetch};
use crate::tracker::InfoHash;

/// Hashes in a bucket on average, at most.
const BUCKET: usize = 8;

/// The index is 4 MiB at most: larger, it would cost more misses of the cache than it saves.
const MOST_BITS: u32 = 20;

/// Up to here looking at each hash is faster than halving.
const FEW: usize = 24;

/// Bytes of an old list that are given back in one step.
const GIVEN_BACK: usize = 1 << 20;

#[derive(Debug)]
pub struct List {
    /// Sorted, none twice.
    hashes: Vec<InfoHash>,
    /// At `b`, how many hashes are in the buckets before bucket `b`; one more at the end.
    index: Vec<u32>,
    /// How far a hash's first eight bytes are shifted to get its bucket.
    shift: u32,
}

impl Default for List {
    fn default() -> List {
        List::with_capacity(0).finish()
    }
}

impl List {
    /// An unfinished list, for so many hashes.
    pub fn with_capacity(count: usize) -> List {
        let buckets = count.div_ceil(BUCKET).next_power_of_two();
        let bits = buckets.trailing_zeros().clamp(1, MOST_BITS);
        List {
            hashes: Vec::with_capacity(count),
            index: Vec::with_capacity((1 << bits) + 1),
            shift: u64::BITS - bits,
        }
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Appends a hash that is above all others; one that is there already is left out.
    pub fn push(&mut self, hash: InfoHash) {
        if self.hashes.last() == Some(&hash) {
            return;
        }
        let bucket = self.bucket(&hash);
        let before = self.count();
        if self.index.len() <= bucket {
            self.index.resize(bucket + 1, before);
        }
        self.hashes.push(hash);
    }

    /// The list with its index filled up to the end.
    pub fn finish(mut self) -> List {
        let buckets = 1 << (u64::BITS - self.shift);
        self.index.resize(buckets + 1, self.count());
        self
    }

    fn count(&self) -> u32 {
        u32::try_from(self.hashes.len()).unwrap_or(u32::MAX)
    }

    fn bucket(&self, hash: &InfoHash) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> self.shift) as usize
    }

    /// The hashes that begin with the same bits.
    fn neighbours(&self, hash: &InfoHash) -> &[InfoHash] {
        let bucket = self.bucket(hash);
        let bounds = self.index.get(bucket..bucket + 2);
        match bounds {
            Some(&[start, end]) => self.hashes.get(start as usize..end as usize),
            _ => None,
        }
        .unwrap_or_default()
    }

    pub fn contains(&self, hash: &InfoHash) -> bool {
        let neighbours = self.neighbours(hash);
        match neighbours.len() <= FEW {
            true => neighbours.contains(hash),
            false => neighbours.binary_search(hash).is_ok(),
        }
    }

    /// Asks for the cache lines that [`List::contains`] will read.
    pub fn prefetch(&self, hash: &InfoHash) {
        // Three hashes are about a cache line; buckets of more than nine are rare.
        for hash in self.neighbours(hash).iter().take(9).step_by(3) {
            prefetch(hash);
        }
    }

    /// Gives a part of the memory back, as all of a large list at once would take milliseconds; false when
    /// nothing is left.
    pub fn shrink(&mut self) -> bool {
        let rest = self.hashes.len().saturating_sub(GIVEN_BACK / 20);
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
    use crate::random::Random;
    use std::collections::BTreeSet;

    fn hash(n: u64) -> InfoHash {
        let mut hash = [0x55; 20];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        hash
    }

    fn list(hashes: &BTreeSet<InfoHash>) -> List {
        let mut list = List::with_capacity(hashes.len());
        for &hash in hashes {
            list.push(hash);
            list.push(hash);
        }
        list.finish()
    }

    #[test]
    fn what_is_in_it_is_found_and_nothing_else() {
        let mut random = Random::seeded(1);
        for count in [0, 1, 2, 3, 7, 8, 9, 100, 5000] {
            for shift in [0, 40, 60] {
                let set: BTreeSet<InfoHash> =
                    (0..count).map(|_| hash(random.draw() >> shift)).collect();
                let list = list(&set);
                assert_eq!(list.len(), set.len());
                assert!(list.hashes.iter().eq(&set));
                for hash in &set {
                    list.prefetch(hash);
                    assert!(list.contains(hash));
                    for at in [0, 7, 19] {
                        let mut other = *hash;
                        other[at] ^= 1;
                        assert_eq!(list.contains(&other), set.contains(&other));
                    }
                }
                for hash in [[0; 20], [0xff; 20]] {
                    assert_eq!(list.contains(&hash), set.contains(&hash));
                }
            }
        }
        assert!(!List::default().contains(&[0; 20]));
    }

    #[test]
    fn buckets_hold_few() {
        let mut random = Random::seeded(2);
        let set: BTreeSet<InfoHash> = (0..100_000).map(|_| hash(random.draw())).collect();
        let list = list(&set);
        let most = set.iter().map(|hash| list.neighbours(hash).len()).max();
        assert!(most.is_some_and(|most| most <= 30), "{most:?}");
    }

    #[test]
    fn it_goes_bit_by_bit() {
        let set: BTreeSet<InfoHash> = (0..150_000).map(|n| hash(n << 40)).collect();
        let mut list = list(&set);
        let mut steps = 1;
        while list.shrink() {
            steps += 1;
        }
        assert_eq!((steps, list.len()), (3, 0));
    }
}
