//! Which peers go into a reply.
//!
//! One run of n neighbours would introduce the same peers to each other for ever; n random picks
//! are n cache misses, more than the rest of the request costs. So a reply of n is about n/8 short
//! runs, each from an independent uniform rank. The runs are laid out on the ring of all ranks so
//! that they cannot overlap: draw the starts as if runs had no length, sort them, then push each on
//! by the length of those before it, and turn the whole ring by a uniform angle. Every peer is then
//! equally likely, and so is every pair of peers further apart than a run.

use super::blocks::Blocks;
use super::clock::Clock;
use super::peers::{PeerList, Record};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::peers::V4;

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
            peer[6] = Clock::at(100).stamp();
        }
        let pool = Pool {
            leechers: List::Slice(&all),
            seeders: List::Slice(&[]),
            asker: None,
        };
        let mut room = [0; 120];
        let mut sink = Sink::new(&mut room);
        pool.pick(50, Clock::at(110), &mut Random::seeded(1), &mut sink);
        assert_eq!(sink.len(), 60);
        assert!(sink.bytes().chunks(6).all(|e| e[5] % 2 == 0));
    }
}
