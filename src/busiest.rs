//! Which keys come most often, in bounded memory: Misra and Gries's summary (1982).
//!
//! Counts are exact until there are more keys than fit. Then the same number is taken from all, and what
//! is left with none makes room: a count is too low from then on, by less than four parts in
//! [`Busiest::ROOM`] of all that was counted, and whoever comes more often than that is in.

use crate::random::Random;

#[derive(Clone, Debug)]
pub struct Busiest {
    /// Counts of zero are free places. Keys are chosen by strangers, so where they go is not known to
    /// them: the multiplier is random.
    slots: Box<[(u64, u32)]>,
    used: usize,
    multiplier: u64,
}

impl Busiest {
    const BITS: u32 = 11;
    const SLOTS: usize = 1 << Self::BITS;
    /// Keys that are held at most.
    pub const ROOM: usize = Self::SLOTS / 4 * 3;

    /// Bytes that it takes.
    pub const SIZE: usize = Self::SLOTS * size_of::<(u64, u32)>();

    pub fn new(random: &mut Random) -> Busiest {
        Busiest {
            slots: vec![(0, 0); Self::SLOTS].into_boxed_slice(),
            used: 0,
            multiplier: random.draw() | 1,
        }
    }

    pub fn count(&mut self, key: u64) {
        self.add(key, 1);
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.used > Self::ROOM {
            let least = self.least_half();
            self.lower(|count| count.saturating_sub(least));
        }
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Busiest) {
        for &(key, count) in other.slots.iter().filter(|slot| slot.1 > 0) {
            self.add(key, count);
            self.make_room();
        }
    }

    /// Forgets half of everything, so that the present counts for more than the past.
    pub fn halve(&mut self) {
        self.lower(|count| count / 2);
    }

    fn add(&mut self, key: u64, count: u32) {
        let mut place = (key.wrapping_mul(self.multiplier) >> (64 - Self::BITS)) as usize;
        // There is always a free place, as no more than three quarters are used.
        while let Some(slot) = self.slots.get_mut(place) {
            if slot.1 == 0 {
                *slot = (key, count);
                self.used += 1;
                return;
            }
            if slot.0 == key {
                slot.1 = slot.1.saturating_add(count);
                return;
            }
            place = (place + 1) % Self::SLOTS;
        }
    }

    /// A power of two that half of the counts do not exceed.
    fn least_half(&self) -> u32 {
        let mut least = 1;
        while self.slots.iter().filter(|slot| slot.1 > least).count() > self.used / 2 {
            least = least.saturating_mul(2);
        }
        least
    }

    fn lower(&mut self, lower: impl Fn(u32) -> u32) {
        let before = std::mem::replace(
            &mut self.slots,
            vec![(0, 0); Self::SLOTS].into_boxed_slice(),
        );
        self.used = 0;
        for (key, count) in before {
            match lower(count) {
                0 => {}
                count => self.add(key, count),
            }
        }
    }

    /// Those of these keys that came most often, up to so many, with their counts, the busiest first.
    pub fn top(&self, most: usize, is_meant: impl Fn(u64) -> bool) -> Vec<(u64, u32)> {
        let mut top: Vec<(u64, u32)> = Vec::new();
        for &(key, count) in &self.slots {
            let place = top
                .iter()
                .rposition(|&(other, n)| n > count || n == count && other < key);
            let place = place.map_or(0, |place| place + 1);
            if count > 0 && place < most && is_meant(key) {
                top.truncate(most - 1);
                top.insert(place, (key, count));
            }
        }
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(busiest: &Busiest, most: usize) -> Vec<(u64, u32)> {
        busiest.top(most, |_| true)
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
            "what was counted once is gone"
        );
    }

    const ALL: u32 = 2_000_000;
    /// So few that the count of each is several times the error.
    const HEAVY: usize = 50;

    /// Counts a stream of keys, each in one of the summaries; how often each heavy key has come. Half of the keys are
    /// the heavy ones, and the others come once.
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

    /// The busiest are the heavy keys, whose counts are as exact as promised.
    fn expect_heavy(busiest: &Busiest, counts: &[u32; HEAVY]) {
        assert!(busiest.used <= Busiest::ROOM);
        let error = 4 * ALL / Busiest::ROOM as u32;
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
    fn of_many_keys_the_busiest_stay() {
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
    fn merging_full_summaries_keeps_the_busiest() {
        let mut random = Random::seeded(19);
        let mut summaries = [(); 2].map(|()| Busiest::new(&mut random));
        let counts = count_stream(&mut random, &mut summaries);
        let [mut one, other] = summaries;
        assert!(one.used + other.used > Busiest::ROOM, "merging makes room");
        one.merge(&other);
        expect_heavy(&one, &counts);
    }
}
