//! Which peers go into a reply.
//!
//! One run of n neighbours would introduce the same peers to each other for ever; n random picks
//! are n cache misses, more than the rest of the request costs. So a reply of n is about n/8 short
//! runs, each from an independent uniform rank. The runs are laid out on the ring of all ranks so
//! that they cannot overlap: draw the starts as if runs had no length, sort them, then push each on
//! by the length of those before it, and turn the whole ring by a uniform angle. Every peer is then
//! equally likely, and so is every pair of peers further apart than a run.
//!
//! Where decoys are mixed in the runs are of one, and in random order.

use super::blocks::Blocks;
use super::clock::Clock;
use super::decoys::{Guise, Pools};
use super::peers::{PeerList, Record, Role};
use crate::random::Random;
use crate::sys::memory::prefetch;

/// Peers in a run: 8 IPv4 peers are a cache line.
const RUN: usize = 8;

/// The most peers of a family in any reply: 200 of IPv4 fill an unfragmented packet.
pub const MOST: usize = 200;

/// Where the peers of a reply go: 6 or 18 bytes each, as many as fit.
#[derive(Debug)]
pub struct Sink<'a> {
    room: &'a mut [u8],
    filled: usize,
}

impl<'a> Sink<'a> {
    pub fn new(room: &'a mut [u8]) -> Sink<'a> {
        Sink { room, filled: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    fn push(&mut self, endpoint: &[u8]) {
        let end = self.filled + endpoint.len();
        if let Some(room) = self.room.get_mut(self.filled..end) {
            room.copy_from_slice(endpoint);
            self.filled = end;
        }
    }

    /// How many endpoints of this size would go in.
    pub fn capacity(&self, endpoint_size: usize) -> usize {
        self.room.len() / endpoint_size
    }
}

/// Sorted peers, however they are kept.
#[derive(Clone, Copy)]
pub enum List<'a, R> {
    Slice(&'a [R]),
    Chunked(&'a PeerList<R>, &'a Blocks),
}

impl<'a, R: Record> List<'a, R> {
    pub fn len(self) -> usize {
        match self {
            List::Slice(slice) => slice.len(),
            List::Chunked(list, _) => list.len(),
        }
    }

    /// Records from this rank on, as many as lie together; at least one if the rank exists.
    fn starting_at(self, rank: usize) -> &'a [R] {
        match self {
            List::Slice(slice) => slice.get(rank..).unwrap_or_default(),
            List::Chunked(list, blocks) => list.starting_at(rank, blocks),
        }
    }
}

/// The peers of one family that a reply may name: leechers, then seeders where they are of use.
pub struct Pool<'a, R> {
    pub leechers: List<'a, R>,
    pub seeders: List<'a, R>,
    /// The asker's rank, which is left out.
    pub asker: Option<usize>,
}

impl<'a, R: Record> Pool<'a, R> {
    pub fn len(&self) -> usize {
        let all = self.leechers.len() + self.seeders.len();
        all - usize::from(self.asker.is_some())
    }

    /// Appends up to `want` different peers that have not expired.
    pub fn pick(&self, want: usize, clock: Clock, random: &mut Random, sink: &mut Sink) {
        let total = self.len();
        let want = want.min(MOST);
        if total <= want {
            return self.copy(0, total, clock, sink);
        }
        let count = want.div_ceil(RUN);
        let mut starts = [0; MOST.div_ceil(RUN)];
        let starts = &mut starts[..count];
        for i in 0..count {
            // Sorted as they are drawn: `sort` would cost kilobytes of code for these few.
            let start = random.below(total - want);
            let place = starts[..i].partition_point(|&s| s <= start);
            starts.copy_within(place..i, place + 1);
            starts[place] = start;
        }
        let turn = random.below(total);
        let length = |i| want / count + usize::from(i < want % count);
        let mut before = turn;
        for (i, start) in starts.iter_mut().enumerate() {
            *start = (*start + before) % total;
            before += length(i);
            // Each run is somewhere else in memory: have all fetched before the first is needed.
            if let Some(record) = self.starting_at(*start).first() {
                prefetch(record);
            }
        }
        for (i, &rank) in starts.iter().enumerate() {
            let until_end = length(i).min(total - rank);
            self.copy(rank, until_end, clock, sink);
            self.copy(0, length(i) - until_end, clock, sink);
        }
    }

    /// Records from this rank on, the asker counted, as many as lie together.
    fn starting_at(&self, rank: usize) -> &'a [R] {
        match rank.checked_sub(self.leechers.len()) {
            None => self.leechers.starting_at(rank),
            Some(rank) => self.seeders.starting_at(rank),
        }
    }

    /// The same with decoys among them: all of both are equally likely, and in random order.
    pub fn pick_mixed(
        &self,
        decoys: &Pools,
        asker: Role,
        want: usize,
        clock: Clock,
        random: &mut Random,
        sink: &mut Sink,
    ) where
        R: Guise,
    {
        let peers = self.len();
        let [leechers, seeders] = decoys.slots_for::<R>(asker);
        let total = peers.saturating_add(leechers).saturating_add(seeders);
        let mut left = want.min(MOST);
        if left == 0 {
            return;
        }
        let mut draws = Draws::new(u32::try_from(total).unwrap_or(u32::MAX));
        let mut drawn = [0; 64];
        while left > 0 {
            // Somewhat more than are wanted: not every slot has a decoy.
            let most = drawn.len().min(left + left / 8 + 1);
            let drawn = draws.fill(&mut drawn[..most], random);
            if drawn.is_empty() {
                return;
            }
            for &rank in drawn.iter().filter(|&&rank| rank < peers) {
                if let Some(record) = self.get(rank) {
                    prefetch(record);
                }
            }
            for &rank in drawn.iter() {
                let chosen = match rank.checked_sub(peers) {
                    None => self.get(rank).copied().filter(|r| !r.expired(clock)),
                    Some(slot) if slot < leechers => decoys.decoy(Role::Leecher, slot),
                    Some(slot) => decoys.decoy(Role::Seeder, slot - leechers),
                };
                if let Some(record) = chosen {
                    sink.push(record.endpoint());
                    left -= 1;
                    if left == 0 {
                        return;
                    }
                }
            }
        }
    }

    /// The record of a rank, ranks counted without the asker.
    fn get(&self, rank: usize) -> Option<&'a R> {
        let asker = self.asker.unwrap_or(usize::MAX);
        self.starting_at(rank + usize::from(rank >= asker)).first()
    }

    /// Copies `count` peers from a rank on, ranks counted without the asker.
    fn copy(&self, rank: usize, count: usize, clock: Clock, sink: &mut Sink) {
        match self.asker {
            Some(asker) if rank + count > asker => {
                let first = asker.saturating_sub(rank);
                self.copy_all(rank, first, clock, sink);
                self.copy_all(rank + first + 1, count - first, clock, sink);
            }
            _ => self.copy_all(rank, count, clock, sink),
        }
    }

    /// The same with the asker counted.
    fn copy_all(&self, mut rank: usize, mut count: usize, clock: Clock, sink: &mut Sink) {
        while count > 0 {
            let records = self.starting_at(rank);
            let records = &records[..count.min(records.len())];
            if records.is_empty() {
                return;
            }
            for record in records.iter().filter(|r| !r.expired(clock)) {
                sink.push(record.endpoint());
            }
            rank += records.len();
            count -= records.len();
        }
    }
}

/// Numbers below a total in random order, each once: the shuffle of Fisher and Yates over a row of which
/// only the places that were changed are kept, in a hash table.
struct Draws {
    /// Place and what is there; a place is kept as one more, so that 0 is none.
    table: [(u32, u32); Draws::ENTRIES],
    total: u32,
    drawn: u32,
}

impl Draws {
    const ENTRIES: usize = 512;

    /// Draws that leave the table room to be quick: nearly twice as many as a reply holds.
    const MOST: u32 = 384;

    fn new(total: u32) -> Draws {
        Draws {
            table: [(0, 0); Draws::ENTRIES],
            total,
            drawn: 0,
        }
    }

    /// Fills the room with as many as there are.
    fn fill<'a>(&mut self, room: &'a mut [usize], random: &mut Random) -> &'a [usize] {
        let mut filled = 0;
        for number in room.iter_mut() {
            let Some(next) = self.next(random) else { break };
            *number = next;
            filled += 1;
        }
        &room[..filled]
    }

    fn next(&mut self, random: &mut Random) -> Option<usize> {
        if self.drawn >= self.total.min(Draws::MOST) {
            return None;
        }
        let among = self.total - self.drawn;
        let place = self.drawn + random.below(among as usize) as u32;
        let first = self.at(self.drawn);
        let chosen = self.at(place);
        let entry = self.find(place);
        self.table[entry] = (place.saturating_add(1), first);
        self.drawn += 1;
        Some(chosen as usize)
    }

    /// What is in a place: at first its own number.
    fn at(&self, place: u32) -> u32 {
        match self.table[self.find(place)] {
            (0, _) => place,
            (_, number) => number,
        }
    }

    /// The entry of a place, or the empty one where it belongs.
    fn find(&self, place: u32) -> usize {
        // Few enough have each their own entry.
        if (self.total as usize) < Draws::ENTRIES {
            return place as usize % Draws::ENTRIES;
        }
        let key = place.saturating_add(1);
        // Times 2^32 over the golden ratio, neighbours are spread well (Knuth, volume 3, 6.4).
        let mut at = (key.wrapping_mul(0x9e37_79b1) >> 23) as usize;
        while self.table[at].0 != key && self.table[at].0 != 0 {
            at = (at + 1) % Draws::ENTRIES;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::chunks::as_chunks;
    use crate::tracker::decoys::Decoys;
    use crate::tracker::peers::V4;
    use std::collections::BTreeSet;

    fn peers(from: u32, count: u32) -> Vec<V4> {
        (from..from + count)
            .map(|n| {
                let [a, b, c, d] = n.to_be_bytes();
                [10, 0, 0, 0, c, d, a | b]
            })
            .collect()
    }

    /// The numbers of the peers that one pick returns.
    fn pick(pool: &Pool<V4>, want: usize, random: &mut Random) -> Vec<usize> {
        let mut room = [0; MOST * 6];
        let mut sink = Sink::new(&mut room);
        pool.pick(want, Clock::at(0), random, &mut sink);
        sink.bytes()
            .chunks(6)
            .map(|e| usize::from(u16::from_be_bytes([e[4], e[5]])))
            .collect()
    }

    /// (observed - expected)² / expected, summed; for d degrees of freedom it is about d ± √(2d).
    fn chi_square(observed: &[u32], expected: f64) -> f64 {
        let square = |&n: &u32| (f64::from(n) - expected).powi(2) / expected;
        observed.iter().map(square).sum()
    }

    #[test]
    fn every_pick_is_whole_and_without_repeats_or_the_asker() {
        let mut random = Random::seeded(11);
        for total in [
            0_u32, 1, 2, 7, 8, 9, 49, 50, 51, 52, 60, 199, 200, 201, 202, 600,
        ] {
            for split in [0, total / 3, total] {
                let (leechers, seeders) = (peers(0, split), peers(split, total - split));
                for asker in [None, Some(0), Some(split / 2), split.checked_sub(1)] {
                    let pool = Pool {
                        leechers: List::Slice(&leechers),
                        seeders: List::Slice(&seeders),
                        asker: asker.filter(|&a| a < split).map(|a| a as usize),
                    };
                    for want in [0, 1, 5, 8, 9, 30, 50, 199, 200] {
                        let mut got = pick(&pool, want, &mut random);
                        assert_eq!(got.len(), want.min(pool.len()), "{total} {want}");
                        got.sort_unstable();
                        got.dedup();
                        assert_eq!(got.len(), want.min(pool.len()));
                        if let Some(asker) = pool.asker {
                            assert!(!got.contains(&asker));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_peer_is_equally_likely() {
        let mut random = Random::seeded(12);
        let (leechers, seeders) = (peers(0, 400), peers(400, 600));
        let mut blocks = Blocks::default();
        let list = PeerList::from_sorted(&leechers, &mut blocks).expect("there is memory");
        let pool = Pool {
            leechers: List::Chunked(&list, &blocks),
            seeders: List::Slice(&seeders),
            asker: Some(123),
        };
        let rounds = 40_000;
        let mut seen = vec![0; 1000];
        for _ in 0..rounds {
            for peer in pick(&pool, 50, &mut random) {
                seen[peer] += 1;
            }
        }
        assert_eq!(seen.remove(123), 0);
        // Runs make neighbours appear together, which widens the spread by about the run's length.
        let chi = chi_square(&seen, f64::from(rounds) * 50.0 / 999.0) / 8.0;
        let (mean, deviation) = (998.0 / 8.0, (2.0 * 998.0 / 8.0_f64).sqrt());
        assert!((chi - mean).abs() < 5.0 * deviation, "{chi} against {mean}");
    }

    #[test]
    fn every_pair_of_distant_peers_is_equally_likely() {
        let mut random = Random::seeded(13);
        let peers = peers(0, 200);
        let pool = Pool {
            leechers: List::Slice(&peers),
            seeders: List::Slice(&[]),
            asker: None,
        };
        // How often two peers at each distance on the ring meet in a reply.
        let rounds = 30_000;
        let mut meetings = [0_u32; 101];
        for _ in 0..rounds {
            let got = pick(&pool, 24, &mut random);
            for (i, a) in got.iter().enumerate() {
                for b in &got[i + 1..] {
                    let distance = a.abs_diff(*b);
                    meetings[distance.min(200 - distance)] += 1;
                }
            }
        }
        let distant = &meetings[24..100];
        let mean = f64::from(distant.iter().sum::<u32>()) / distant.len() as f64;
        for (distance, &n) in distant.iter().enumerate() {
            let off = (f64::from(n) - mean).abs() / mean;
            assert!(off < 0.05, "{}: {n} against {mean}", distance + 24);
        }
    }

    #[test]
    fn the_expired_are_passed_over() {
        let mut all = peers(0, 20);
        for peer in all.iter_mut().step_by(2) {
            peer[6] = Clock::at(50).stamp();
        }
        let pool = Pool {
            leechers: List::Slice(&all),
            seeders: List::Slice(&[]),
            asker: None,
        };
        let mut room = [0; 120];
        let mut sink = Sink::new(&mut room);
        pool.pick(50, Clock::at(55), &mut Random::seeded(1), &mut sink);
        assert_eq!(sink.len(), 60);
        assert!(sink.bytes().chunks(6).all(|e| e[5] % 2 == 0));
    }

    /// The endpoints that one pick with decoys returns, in order. Peers are in 10.0.0.0/8, decoys not.
    fn pick_mixed(
        pool: &Pool<V4>,
        decoys: &Pools,
        want: usize,
        random: &mut Random,
    ) -> Vec<[u8; 6]> {
        let mut room = [0; MOST * 6];
        let mut sink = Sink::new(&mut room);
        let clock = Clock::at(0);
        pool.pick_mixed(decoys, Role::Leecher, want, clock, random, &mut sink);
        as_chunks(sink.bytes()).0.to_vec()
    }

    fn pools(percent: u32, leechers: usize, seeders: usize) -> Pools {
        let decoys = Decoys::new(percent, [3, 4], 1_700_000_000, 1);
        decoys
            .of(&[9; 20], [leechers, seeders, 0, 0], 0)
            .expect("has some")
    }

    /// All decoys for a leecher.
    fn all_decoys(pools: &Pools) -> BTreeSet<[u8; 6]> {
        let [leechers, seeders] = pools.slots_for::<V4>(Role::Leecher);
        let leechers = (0..leechers).filter_map(|s| pools.decoy::<V4>(Role::Leecher, s));
        let seeders = (0..seeders).filter_map(|s| pools.decoy::<V4>(Role::Seeder, s));
        let all = leechers.chain(seeders);
        all.filter_map(|record| record.first_chunk().copied())
            .collect()
    }

    #[test]
    fn mixed_picks_are_whole_and_without_repeats_or_the_asker() {
        let mut random = Random::seeded(21);
        for total in [4_u32, 5, 12, 50, 100, 133, 199, 200, 600, 5000] {
            for percent in [1, 10, 100] {
                let split = total / 3;
                let (leechers, seeders) = (peers(0, split), peers(split, total - split));
                let decoys = pools(percent, leechers.len(), seeders.len());
                let pool = Pool {
                    leechers: List::Slice(&leechers),
                    seeders: List::Slice(&seeders),
                    asker: Some(0),
                };
                let strangers = all_decoys(&decoys);
                let all = pool.len() + strangers.len();
                for want in [0, 1, 30, 50, 200] {
                    let got = pick_mixed(&pool, &decoys, want, &mut random);
                    assert_eq!(got.len(), want.min(all), "{total} {percent} {want}");
                    let set: BTreeSet<_> = got.iter().copied().collect();
                    assert_eq!(set.len(), got.len());
                    assert!(!set.contains(&leechers[0][..6]));
                    assert!(set.iter().all(|e| e[0] == 10 || strangers.contains(e)));
                }
            }
        }
    }

    /// Sorted peers all over the address space.
    fn scattered(count: usize, random: &mut Random) -> Vec<V4> {
        let record = |bits: u64| {
            let [a, b, c, d, high, low, ..] = bits.to_be_bytes();
            [a, b, c, d, high, low, 0]
        };
        let mut peers: Vec<V4> = (0..count).map(|_| record(random.draw())).collect();
        peers.sort_unstable();
        peers
    }

    #[test]
    fn decoys_and_peers_are_equally_likely_in_every_place_and_next_to_each_other() {
        let mut random = Random::seeded(22);
        let (leechers, seeders) = (scattered(150, &mut random), scattered(350, &mut random));
        let mut blocks = Blocks::default();
        let list = PeerList::from_sorted(&seeders, &mut blocks).expect("there is memory");
        let pool = Pool {
            leechers: List::Slice(&leechers),
            seeders: List::Chunked(&list, &blocks),
            asker: Some(77),
        };
        let decoys = pools(20, 150, 350);
        let strangers = all_decoys(&decoys);
        let mut all: Vec<[u8; 6]> = strangers.iter().copied().collect();
        let peers = (0..pool.len()).filter_map(|rank| pool.get(rank)?.first_chunk().copied());
        all.extend(peers);
        all.sort_unstable();
        let total = all.len() as f64;
        let (rounds, want) = (20_000, 50);
        let mut seen = vec![0; all.len()];
        // Of peers and of decoys: how many, the sum of their places in replies, how often a decoy came
        // next, and how often their neighbour in order of address.
        let mut count = [0_u32; 2];
        let mut places = [0; 2];
        let mut decoy_next = [0_u32; 2];
        let mut neighbour_next = [0_u32; 2];
        for _ in 0..rounds {
            let got = pick_mixed(&pool, &decoys, want, &mut random);
            assert_eq!(got.len(), want);
            let ranks: Vec<usize> = got.iter().flat_map(|e| all.binary_search(e)).collect();
            for (place, (endpoint, &rank)) in got.iter().zip(&ranks).enumerate() {
                let kind = usize::from(strangers.contains(endpoint));
                seen[rank] += 1;
                count[kind] += 1;
                places[kind] += place;
                let next = got.get(place + 1);
                decoy_next[kind] += u32::from(next.is_some_and(|n| strangers.contains(n)));
                neighbour_next[kind] += u32::from(ranks.get(place + 1) == Some(&(rank + 1)));
            }
        }
        let expected = f64::from(rounds) * want as f64 / total;
        // Without repeats, counts are spread less than independent ones.
        let chi = chi_square(&seen, expected) / (1.0 - want as f64 / total);
        let deviation = (2.0 * (total - 1.0)).sqrt();
        assert!(
            (chi - total + 1.0).abs() < 5.0 * deviation,
            "{chi} for {total}"
        );
        let share = f64::from(count[1]) / f64::from(count[0] + count[1]);
        assert!((share / (strangers.len() as f64 / total) - 1.0).abs() < 0.01);
        for kind in [0, 1] {
            let mean = places[kind] as f64 / f64::from(count[kind]);
            assert!((mean - 24.5).abs() < 0.2, "{kind}: place {mean}");
            // The last of a reply has nobody next.
            let not_last = f64::from(count[kind]) * 0.98;
            let near = f64::from(decoy_next[kind]) / not_last;
            assert!((near / share - 1.0).abs() < 0.05, "{kind}: {near}");
            let by_chance = not_last / total;
            let off = (f64::from(neighbour_next[kind]) - by_chance).abs();
            assert!(off < 5.0 * by_chance.sqrt(), "{kind}: {off} of {by_chance}");
        }
    }
}
