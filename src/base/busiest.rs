//! The most frequent keys of a stream, in bounded memory: Misra and Gries's summary (1982).
//!
//! Counts are exact until there are more keys than fit. Then the same number is subtracted from all, and keys with
//! nothing left make room. From then on a count may be too low, by less than four parts in [`Busiest::MAX_KEYS`] of
//! the length of the stream. A key with a larger share of the stream is always held.

use crate::base::random::Random;

#[derive(Clone, Debug)]
pub struct Busiest {
    /// An open hash table; a count of zero is a free slot. Clients choose the keys, so the multiplier is random:
    /// they cannot choose keys that collide.
    slots: Box<[(u64, u32)]>,
    used: usize,
    multiplier: u64,
}

impl Busiest {
    const BITS: u32 = 11;
    const SLOTS: usize = 1 << Self::BITS;
    pub const MAX_KEYS: usize = Self::SLOTS / 4 * 3;

    /// Bytes of memory that it takes.
    pub const SIZE: usize = Self::SLOTS * size_of::<(u64, u32)>();

    pub fn new(random: &mut Random) -> Busiest {
        Busiest {
            slots: vec![(0, 0); Self::SLOTS].into(),
            used: 0,
            multiplier: random.draw() | 1,
        }
    }

    pub fn count(&mut self, key: u64) {
        self.add(key, 1);
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Busiest) {
        for &(key, count) in other.slots.iter().filter(|slot| slot.1 > 0) {
            self.add(key, count);
        }
    }

    /// Halves all counts, so that the present weighs more than the past.
    pub fn halve(&mut self) {
        self.lower(|count| count / 2);
    }

    fn add(&mut self, key: u64, count: u32) {
        self.insert(key, count);
        while self.used > Self::MAX_KEYS {
            let half = self.upper_half();
            self.lower(|count| count.saturating_sub(half));
        }
    }

    fn insert(&mut self, key: u64, count: u32) {
        let mut index = (key.wrapping_mul(self.multiplier) >> (64 - Self::BITS)) as usize;
        // There is always a free slot, as at most three quarters are used.
        while let Some(slot) = self.slots.get_mut(index) {
            if slot.1 == 0 {
                *slot = (key, count);
                self.used += 1;
                return;
            }
            if slot.0 == key {
                slot.1 = slot.1.saturating_add(count);
                return;
            }
            index = (index + 1) % Self::SLOTS;
        }
    }

    /// The least power of two that at most half of the counts exceed.
    fn upper_half(&self) -> u32 {
        let mut least = 1;
        while self.slots.iter().filter(|slot| slot.1 > least).count() > self.used / 2 {
            least = least.saturating_mul(2);
        }
        least
    }

    fn lower(&mut self, lower: impl Fn(u32) -> u32) {
        let free = vec![(0, 0); Self::SLOTS].into();
        let before = std::mem::replace(&mut self.slots, free);
        self.used = 0;
        for (key, count) in before {
            let count = lower(count);
            if count > 0 {
                self.insert(key, count);
            }
        }
    }

    /// The most frequent of some keys with their counts, at most `max`.
    pub fn top(&self, max: usize, is_listed: impl Fn(u64) -> bool) -> Vec<(u64, u32)> {
        let mut top = Vec::new();
        for &(key, count) in self.slots.iter().filter(|slot| is_listed(slot.0)) {
            rank(&mut top, max, key, count);
        }
        top
    }
}

/// Inserts a key into a ranking of at most `max`, the largest count first and among equals the lesser key. A count of 0
/// has no rank.
pub fn rank<K: Copy + Ord>(ranking: &mut Vec<(K, u32)>, max: usize, key: K, count: u32) {
    let before = |(other, larger): &(K, u32)| *larger > count || *larger == count && *other < key;
    let index = ranking.iter().rposition(before);
    let index = index.map_or(0, |index| index + 1);
    if count > 0 && index < max {
        ranking.truncate(max - 1);
        ranking.insert(index, (key, count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(busiest: &Busiest, max: usize) -> Vec<(u64, u32)> {
        busiest.top(max, |_| true)
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut busiest = Busiest::new(&mut Random::seeded(5));
        for n in 0..1000_u64 {
            for _ in 0..=n % 10 {
                busiest.count(n << 8);
            }
        }
        let top = all(&busiest, 128);
        assert_eq!(top.len(), 100 + 28);
        assert!(
            top[..100]
                .iter()
                .all(|&(key, count)| count == 10 && (key >> 8) % 10 == 9)
        );
        assert!(top[..100].is_sorted());
        assert_eq!(top[100], (8 << 8, 9));
        let even = busiest.top(3, |key| (key >> 8) % 2 == 0);
        assert_eq!(even, [(8 << 8, 9), (18 << 8, 9), (28 << 8, 9)]);
        assert_eq!(all(&busiest, 0), []);
        busiest.halve();
        assert_eq!(all(&busiest, 1), [(9 << 8, 5)]);
        assert_eq!(
            all(&busiest, 5000).len(),
            900,
            "keys with a count of 1 are gone"
        );
    }

    const ALL: u32 = 2_000_000;
    /// Few enough for the count of each to be several times the error.
    const HEAVY: usize = 50;

    /// Counts a stream of keys, each in one of the summaries; returns the exact counts of the heavy keys. Half of the
    /// stream is heavy keys, and every other key occurs once.
    fn count_stream(random: &mut Random, summaries: &mut [Busiest]) -> [u32; HEAVY] {
        let mut counts = [0; HEAVY];
        for _ in 0..ALL {
            let heavy = random.below(2 * counts.len());
            let chosen = random.below(summaries.len());
            match counts.get_mut(heavy) {
                Some(count) => {
                    *count += 1;
                    summaries[chosen].count(heavy as u64);
                }
                None => summaries[chosen].count(random.draw() | 1 << 63),
            }
        }
        counts
    }

    /// The most frequent are the heavy keys, with counts within the error.
    fn expect_heavy(busiest: &Busiest, counts: &[u32; HEAVY]) {
        assert!(busiest.used <= Busiest::MAX_KEYS);
        let error = 4 * ALL / Busiest::MAX_KEYS as u32;
        let top = all(busiest, counts.len());
        assert_eq!(top.len(), counts.len());
        for (key, count) in top {
            let exact = counts[usize::try_from(key).expect("is one of the heavy ones")];
            assert!(
                count <= exact && count + error >= exact,
                "{count} of {exact}"
            );
        }
    }

    #[test]
    fn the_most_frequent_of_many_keys_are_kept() {
        let mut random = Random::seeded(17);
        let mut busiest = [Busiest::new(&mut random)];
        let counts = count_stream(&mut random, &mut busiest);
        expect_heavy(&busiest[0], &counts);
    }

    #[test]
    fn merged_counts_of_few_keys_are_exact() {
        let mut random = Random::seeded(3);
        let [mut one, mut other] = [(); 2].map(|()| Busiest::new(&mut random));
        for key in 0..600 {
            // A third of the keys is in both.
            (0..5).filter(|_| key < 400).for_each(|_| one.count(key));
            (0..3).filter(|_| key >= 200).for_each(|_| other.count(key));
        }
        let before = all(&other, 5000);
        one.merge(&other);
        one.merge(&Busiest::new(&mut random));
        let sum = |key| (key, 5 * u32::from(key < 400) + 3 * u32::from(key >= 200));
        let mut merged = all(&one, 5000);
        merged.sort_unstable();
        assert!(merged.into_iter().eq((0..600).map(sum)));
        assert_eq!(all(&other, 5000), before);
    }

    #[test]
    fn merging_full_summaries_keeps_the_most_frequent() {
        let mut random = Random::seeded(19);
        let mut summaries = [(); 2].map(|()| Busiest::new(&mut random));
        let counts = count_stream(&mut random, &mut summaries);
        let [mut one, other] = summaries;
        assert!(
            one.used + other.used > Busiest::MAX_KEYS,
            "merging makes room"
        );
        one.merge(&other);
        expect_heavy(&one, &counts);
    }

    #[test]
    fn rankings_are_sorted_and_limited_in_length() {
        let mut ranking = Vec::new();
        for (key, count) in [
            (1, 5),
            (2, 0),
            (3, 7),
            (4, 5),
            (5, 1),
            (6, 9),
            (7, 6),
            (0, 6),
        ] {
            rank(&mut ranking, 5, key, count);
        }
        assert_eq!(ranking, [(6, 9), (3, 7), (0, 6), (7, 6), (1, 5)]);
        rank(&mut ranking, 0, 8, 8);
    }
}
