//! Peer selection: which peers a reply holds.
//!
//! One run of n neighbours would introduce the same peers to each other for ever; n random picks
//! are n cache misses, more than the rest of the request costs. So a reply of n is about n/8 short
//! runs, each from an independent uniform rank. The runs are laid out on the ring of all ranks so
//! that they cannot overlap: draw the starts as if runs had no length, sort them, then push each on
//! by the length of those before it, and turn the whole ring by a uniform angle. Every peer is then
//! equally likely, and so is every pair of peers further apart than a run.
//!
//! A peer that the asker has no use for is skipped, and its run goes on behind it: a client that cannot be connected to
//! takes no place in a reply. A run never reaches the next one; the others make up for what it lacks. Beyond [`REACH`]
//! times its length it ends, so that a reply from a large swarm of such clients costs no more than a few others.
//!
//! In a swarm in which a host has three peers or more, `crowd` picks instead: two peers of a host at most.
//!
//! With decoys, peers and decoys are picked one by one, in random order: a decoy has no rank among the peers'
//! addresses, so runs of neighbours would give it away.

use super::clock::Clock;
use super::crowd::Crowd;
use super::decoys::SwarmDecoys;
use super::hosts::MAX_OF_HOST;
use super::lists::PeerList;
use super::peer::{Family, Peer, Role, V4_BYTES, V6_BYTES, host, is_loopback, of_use};
use crate::base::random::Random;
use crate::sys::chunks::as_chunks;
use crate::sys::memory::prefetch;
use std::ops::Range;

/// Peers in a run: 8 IPv4 peers are a cache line.
pub(super) const RUN: usize = 8;

/// Peers that are looked at for each place in a reply, at most.
pub(super) const REACH: usize = 8;

/// Peers below this port cannot be connected to: clients that have no port announce 0, libtorrent behind a proxy 1.
const MIN_PORT: u16 = 2;

/// Peers of a family in any reply at most: 200 of IPv4 fill an unfragmented packet.
pub const MAX_PEERS: usize = 200;

/// The asker, as far as it matters which peers it can connect to.
#[derive(Clone, Copy)]
pub struct Audience {
    pub clock: Clock,
    pub is_loopback: bool,
}

impl Audience {
    pub fn new(clock: Clock, asker: &Peer) -> Audience {
        Audience {
            clock,
            is_loopback: asker.is_loopback(),
        }
    }

    /// Whether the peer of this record has not expired and can be connected to. A peer on the loopback is of use to
    /// askers on the loopback only.
    #[inline]
    fn takes<const BYTES: usize>(self, record: &[u8; BYTES]) -> bool {
        let port = u16::from_be_bytes([record[BYTES - 3], record[BYTES - 2]]);
        let is_near = self.is_loopback | !is_loopback(record);
        !self.clock.expired(record[BYTES - 1]) & (port >= MIN_PORT) & is_near
    }

    /// The same of a record of either family.
    pub(super) fn takes_any(self, record: &[u8]) -> bool {
        match *record {
            [a, b, c, d, high, low, tag] => self.takes(&[a, b, c, d, high, low, tag]),
            _ => <&[u8; V6_BYTES]>::try_from(record).is_ok_and(|record| self.takes(record)),
        }
    }
}

/// The peers that a pick left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// Perhaps any, but none for the hosts that they are of.
    #[default]
    Any,
    /// Only peers of hosts that have their part of the reply.
    OfNamedHosts,
    /// Those, and perhaps others.
    Others,
}

/// The room of a reply for the peers of one family: 6 or 18 bytes each.
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

    /// How many endpoints of this family the room has space for.
    pub fn capacity(&self, family: Family) -> usize {
        self.room.len() / (family.record_bytes() - 1)
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    #[inline]
    pub fn push(&mut self, endpoint: &[u8]) {
        let end = self.filled + endpoint.len();
        if let Some(room) = self.room.get_mut(self.filled..end) {
            room.copy_from_slice(endpoint);
            self.filled = end;
        }
    }

    /// How many of the endpoints have the host of this one.
    pub(super) fn count_of_host(&self, endpoint: &[u8]) -> usize {
        let endpoints = self.bytes().chunks_exact(endpoint.len().max(1));
        let same = endpoints.filter(|other| host(other) == host(endpoint));
        same.count()
    }

    /// Appends the peers of these records, at most `max` of them, that the asker takes. Returns how many records were
    /// passed, and how many of them were appended.
    fn push_taken<const BYTES: usize>(
        &mut self,
        records: &[u8],
        max: usize,
        audience: Audience,
    ) -> (usize, usize) {
        let (records, _) = as_chunks::<BYTES>(records);
        let records = &records[..max.min(records.len())];
        let mut filled = self.filled;
        for record in records {
            if audience.takes(record) {
                if let Some(room) = self.room.get_mut(filled..filled + BYTES - 1) {
                    room.copy_from_slice(&record[..BYTES - 1]);
                    filled += BYTES - 1;
                }
            }
        }
        let appended = (filled - self.filled) / (BYTES - 1);
        self.filled = filled;
        (records.len(), appended)
    }
}

/// The peers of one family that a reply may hold: leechers, then seeders if they are of use to the asker.
pub struct Pool<'a> {
    pub leechers: PeerList<'a>,
    pub seeders: PeerList<'a>,
    /// The asker's rank, which is left out.
    pub asker: Option<usize>,
    /// Some host may have more peers than a reply is to name of it.
    pub is_crowded: bool,
}

impl<'a> Pool<'a> {
    pub fn len(&self) -> usize {
        let all = self.leechers.len() + self.seeders.len();
        all - usize::from(self.asker.is_some())
    }

    /// Appends up to `want` different peers that the asker takes.
    pub fn pick(
        &self,
        want: usize,
        audience: Audience,
        random: &mut Random,
        sink: &mut Sink,
    ) -> Rest {
        let total = self.len();
        let want = want.min(MAX_PEERS);
        if self.is_crowded {
            return Crowd::new(self, random).pick(want, audience, random, sink);
        }
        if total <= want {
            self.copy(0, total, audience, sink);
            return Rest::Any;
        }
        let count = want.div_ceil(RUN);
        let mut starts = [0; MAX_PEERS.div_ceil(RUN)];
        let starts = &mut starts[..count];
        for i in 0..count {
            insert_sorted(starts, i, random.below(total - want));
        }
        let turn = random.below(total);
        let length = |i| want / count + usize::from(i < want % count);
        let mut before = turn;
        for (i, start) in starts.iter_mut().enumerate() {
            *start += before;
            if *start >= total {
                *start -= total;
            }
            before += length(i);
            // Each run is somewhere else in memory: have all fetched before the first is needed.
            prefetch(self.starting_at(*start));
        }
        let mut passed = [0; MAX_PEERS.div_ceil(RUN)];
        let mut missing = 0;
        let lengths = (0..count).map(|i| (i, length(i)));
        // In the second round the runs go on where they ended, if places are left.
        for (i, length) in lengths.chain((0..count).map(|i| (i, 0))) {
            missing += length;
            if missing == 0 {
                break;
            }
            let (start, next) = (starts[i], starts[(i + 1) % count]);
            let room = if next > start { next } else { next + total } - start;
            let reach = match total <= REACH * want {
                true => room,
                false => room.min(REACH * want / count),
            };
            let run = start + passed[i]..start + reach;
            passed[i] += self.copy_run(run, &mut missing, audience, sink);
        }
        Rest::Any
    }

    /// Copies peers of these ranks, which go round the ring of all, until none is missing. Returns how many it passed.
    fn copy_run(
        &self,
        ranks: Range<usize>,
        missing: &mut usize,
        audience: Audience,
        sink: &mut Sink,
    ) -> usize {
        let (total, mut next) = (self.len(), ranks.start);
        while *missing > 0 && next < ranks.end {
            let rank = next.checked_sub(total).unwrap_or(next);
            let count = (*missing).min(ranks.end - next).min(total - rank);
            *missing -= self.copy(rank, count, audience, sink);
            next += count;
        }
        next - ranks.start
    }

    /// The same with decoys among the peers: all are equally likely, in random order.
    pub fn pick_mixed(
        &self,
        decoys: &SwarmDecoys,
        asker: (Family, Role),
        want: usize,
        audience: Audience,
        random: &mut Random,
        sink: &mut Sink,
    ) -> Rest {
        let peers = self.len();
        let [leechers, seeders] = decoys.slots_for(asker);
        let total = peers + leechers + seeders;
        let ranks = Permutation::new(total, random);
        let mut ranks = ranks.numbers().filter(|&rank| rank < total);
        let (mut first, mut count) = ([0; MAX_PEERS], 0);
        for (entry, rank) in first.iter_mut().take(want).zip(&mut ranks) {
            *entry = rank;
            count += 1;
            if rank < peers {
                prefetch(self.starting_at(rank));
            }
        }
        let mut crowd = self.is_crowded.then(|| Crowd::new(self, random));
        let mut left = self.max_decoys(decoys, asker, want, random);
        let max_ranks = REACH * want + MAX_PEERS;
        let full = sink.filled + want * (asker.0.record_bytes() - 1);
        let ranks = first.into_iter().take(count).chain(ranks);
        // Most slots of decoys are empty, so a short reply looks at more ranks for each place.
        for rank in ranks.take(max_ranks) {
            if sink.filled >= full {
                break;
            }
            match (rank.checked_sub(peers), &mut crowd) {
                (None, None) => drop(self.copy(rank, 1, audience, sink)),
                (None, Some(crowd)) => drop(crowd.name_seat(rank, true, audience, sink)),
                (Some(_), _) if left == 0 => {}
                (Some(slot), _) => {
                    let (role, slot) = match slot.checked_sub(leechers) {
                        None => (Role::Leecher, slot),
                        Some(slot) => (Role::Seeder, slot),
                    };
                    let decoy = decoys.decoy(asker.0, role, slot);
                    if let Some(decoy) = decoy {
                        sink.push(decoy.endpoint());
                        left -= 1;
                    }
                }
            }
        }
        match (self.is_crowded, total <= max_ranks) {
            (false, _) => Rest::Any,
            (true, true) => Rest::OfNamedHosts,
            (true, false) => Rest::Others,
        }
    }

    /// How many decoys a reply may name. Each is of a host of its own, so in a crowded swarm they would take the places
    /// of peers of which two of the host are named: there they have their share and no more.
    fn max_decoys(
        &self,
        decoys: &SwarmDecoys,
        asker: (Family, Role),
        want: usize,
        random: &mut Random,
    ) -> usize {
        if !self.is_crowded {
            return want;
        }
        let live: usize = of_use(decoys.live(), asker).iter().sum();
        let all = (self.len() + live).max(1);
        (want * live + random.below(all)) / all
    }

    /// Appends up to `max` other peers that the asker takes, those of hosts with too few of them first. Returns how
    /// many.
    #[cold]
    pub fn fill(
        &self,
        max: usize,
        audience: Audience,
        random: &mut Random,
        sink: &mut Sink,
    ) -> usize {
        let (total, size, named) = (self.len(), self.leechers.size(), sink.filled);
        let full = (named + max * (size - 1)).min(sink.room.len());
        let runs = total.div_ceil(RUN);
        let order = Permutation::new(runs, random);
        for max_of_host in [MAX_OF_HOST, MAX_PEERS] {
            let ranks = order.numbers().filter(|&run| run < runs);
            let ranks = ranks.flat_map(|run| run * RUN..total.min((run + 1) * RUN));
            for rank in ranks.take(REACH * max + MAX_PEERS) {
                if sink.filled >= full {
                    break;
                }
                let record = self.piece(rank).get(..size).unwrap_or_default();
                let endpoint = record.get(..size - 1).unwrap_or_default();
                let is_new = |other| other != endpoint;
                if audience.takes_any(record)
                    && sink.bytes().chunks_exact(size - 1).all(is_new)
                    && sink.count_of_host(endpoint) < max_of_host
                {
                    sink.push(endpoint);
                }
            }
        }
        (sink.filled - named) / (size - 1)
    }

    /// How many of the ranks, which are counted without the asker, are those of leechers.
    pub(super) fn leecher_count(&self) -> usize {
        self.leechers.len() - usize::from(self.asker.is_some())
    }

    /// The ranks of the peers of a record's host in the list of this rank.
    pub(super) fn block(&self, rank: usize, record: &[u8]) -> Range<usize> {
        let family = if record.len() == V4_BYTES {
            Family::V4
        } else {
            Family::V6
        };
        let Some(peer) = Peer::from_record(family.list(Role::Leecher), record) else {
            return 0..0;
        };
        let leechers = self.leecher_count();
        if rank >= leechers {
            let block = self.seeders.of_host(&peer);
            return leechers + block.start..leechers + block.end;
        }
        let block = self.leechers.of_host(&peer);
        let is_behind = |rank| self.asker.is_some_and(|asker| asker < rank);
        let [start, end] = [block.start, block.end].map(|rank| rank - usize::from(is_behind(rank)));
        start..end
    }

    /// Records from this rank on, the asker counted, as many as lie together.
    fn starting_at(&self, rank: usize) -> &'a [u8] {
        match rank.checked_sub(self.leechers.len()) {
            None => self.leechers.starting_at(rank),
            Some(rank) => self.seeders.starting_at(rank),
        }
    }

    /// Records from this rank on, ranks counted without the asker, as many as lie together.
    #[inline]
    pub(super) fn piece(&self, rank: usize) -> &'a [u8] {
        let until_asker = self.asker.and_then(|asker| asker.checked_sub(rank));
        match (self.asker, until_asker) {
            (_, Some(count @ 1..)) => {
                let records = self.starting_at(rank);
                let count = count.saturating_mul(self.leechers.size());
                records.get(..count).unwrap_or(records)
            }
            (None, _) => self.starting_at(rank),
            (Some(_), _) => self.starting_at(rank + 1),
        }
    }

    /// Copies those that the asker takes of `count` peers from a rank on, ranks counted without the asker. Returns how
    /// many it takes.
    fn copy(
        &self,
        mut rank: usize,
        mut count: usize,
        audience: Audience,
        sink: &mut Sink,
    ) -> usize {
        let asker = self.asker.unwrap_or(usize::MAX);
        let mut taken = 0;
        while count > 0 {
            // The asker has a record too.
            let (first, until) = match rank < asker {
                true => (rank, asker - rank),
                false => (rank + 1, usize::MAX),
            };
            // Copies of a length that the compiler knows.
            let (records, max) = (self.starting_at(first), count.min(until));
            let (passed, appended) = match self.leechers.size() {
                V4_BYTES => sink.push_taken::<V4_BYTES>(records, max, audience),
                _ => sink.push_taken::<V6_BYTES>(records, max, audience),
            };
            if passed == 0 {
                break;
            }
            rank += passed;
            count -= passed;
            taken += appended;
        }
        taken
    }
}

/// Puts a value where it belongs among the first `count`, which are sorted: `sort` would cost kilobytes of code.
pub(super) fn insert_sorted<T: Ord + Copy>(sorted: &mut [T], count: usize, mut value: T) {
    for entry in &mut sorted[..count] {
        (*entry, value) = (value.min(*entry), value.max(*entry));
    }
    sorted[count] = value;
}

/// The numbers below a power of two in an order that only the generator knows: three rounds, each of which maps
/// different numbers to different ones.
struct Permutation {
    mask: u64,
    shift: u32,
    /// Factor, odd, and summand of each round.
    keys: [(u64, u64); 3],
}

impl Permutation {
    /// Of all numbers below `total`, and fewer than as many others.
    fn new(total: usize, random: &mut Random) -> Permutation {
        let mask = (total.max(2) as u64).next_power_of_two() - 1;
        Permutation {
            mask,
            shift: mask.count_ones().div_ceil(2),
            keys: std::array::from_fn(|_| (random.draw() | 1, random.draw())),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        let round = |number: u64, (factor, summand)| {
            let number = number.wrapping_mul(factor).wrapping_add(summand) & self.mask;
            number ^ number >> self.shift
        };
        let [a, b, c] = self.keys;
        (0..=self.mask).map(move |number| round(round(round(number, a), b), c) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::blocks::Blocks;
    use crate::tracker::decoys::Decoys;
    use crate::tracker::lists::LargeList;
    use std::collections::BTreeSet;

    fn audience(unit: u64) -> Audience {
        Audience {
            clock: Clock::at(unit),
            is_loopback: false,
        }
    }

    /// Their numbers are their ports, from the lowest that can be connected to.
    fn peers(from: u32, count: u32) -> Vec<[u8; 7]> {
        (from + 2..from + 2 + count)
            .map(|n| {
                let [a, b, c, d] = n.to_be_bytes();
                [10, 0, 0, 0, c, d, a | b]
            })
            .collect()
    }

    fn large(records: &[[u8; 7]], blocks: &mut Blocks) -> LargeList {
        let mut list = LargeList::new(7);
        for records in records.chunks(390) {
            let appended = list.append(records.as_flattened(), blocks);
            appended.expect("there is memory");
        }
        list
    }

    /// The numbers of the peers that one pick returns.
    fn pick(pool: &Pool, want: usize, random: &mut Random) -> Vec<usize> {
        let mut room = [0; MAX_PEERS * 6];
        let mut sink = Sink::new(&mut room);
        pool.pick(want, audience(0), random, &mut sink);
        sink.bytes()
            .chunks(6)
            .map(|e| usize::from(u16::from_be_bytes([e[4], e[5]])) - 2)
            .collect()
    }

    /// (observed - expected)² / expected, summed; for d degrees of freedom it is about d ± √(2d).
    fn chi_square(observed: &[u32], expected: f64) -> f64 {
        let square = |&n: &u32| (f64::from(n) - expected).powi(2) / expected;
        observed.iter().map(square).sum()
    }

    #[test]
    fn every_pick_is_full_without_repeats_and_without_the_asker() {
        let mut random = Random::seeded(11);
        for total in [
            0_u32, 1, 2, 7, 8, 9, 49, 50, 51, 52, 60, 199, 200, 201, 202, 600,
        ] {
            for split in [0, total / 3, total] {
                let (leechers, seeders) = (peers(0, split), peers(split, total - split));
                for asker in [None, Some(0), Some(split / 2), split.checked_sub(1)] {
                    let pool = Pool {
                        leechers: PeerList::Slice(leechers.as_flattened(), 7),
                        seeders: PeerList::Slice(seeders.as_flattened(), 7),
                        asker: asker.filter(|&a| a < split).map(|a| a as usize),
                        is_crowded: false,
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
        let list = large(&leechers, &mut blocks);
        let pool = Pool {
            leechers: PeerList::Large(&list, &blocks),
            seeders: PeerList::Slice(seeders.as_flattened(), 7),
            asker: Some(123),
            is_crowded: false,
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
            leechers: PeerList::Slice(peers.as_flattened(), 7),
            seeders: PeerList::Slice(&[], 7),
            asker: None,
            is_crowded: false,
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
    fn expired_peers_are_not_picked() {
        let mut all = peers(0, 20);
        for peer in all.iter_mut().step_by(2) {
            peer[6] = Clock::at(50).stamp();
        }
        let pool = Pool {
            leechers: PeerList::Slice(all.as_flattened(), 7),
            seeders: PeerList::Slice(&[], 7),
            asker: None,
            is_crowded: false,
        };
        let mut room = [0; 120];
        let mut sink = Sink::new(&mut room);
        pool.pick(50, audience(55), &mut Random::seeded(1), &mut sink);
        assert_eq!(sink.bytes().len(), 60);
        assert!(sink.bytes().chunks(6).all(|e| e[5] % 2 == 0));
    }

    /// Peers with these ports in turn, each of a host of its own in this network.
    fn with_ports(first: u8, ports: &[u8], count: u16) -> Vec<[u8; 7]> {
        let ports = ports.iter().cycle();
        let hosts = (0..count).map(u16::to_be_bytes);
        let peers = hosts
            .zip(ports)
            .map(|([c, d], port)| [first, 0, c, d, 0, *port, 0]);
        peers.collect()
    }

    #[test]
    fn peers_that_cannot_be_connected_to_take_no_place() {
        let mut random = Random::seeded(14);
        let decoys = decoys(10);
        for (ports, count) in [(&[0, 1, 7][..], 300), (&[1, 7], 100), (&[7, 0], 20_000)] {
            let all = with_ports(10, ports, count);
            let mut blocks = Blocks::default();
            let list = large(&all, &mut blocks);
            let pool = Pool {
                leechers: PeerList::Large(&list, &blocks),
                seeders: PeerList::Slice(&[], 7),
                asker: Some(2),
                is_crowded: false,
            };
            for want in [1, 8, 30, 45] {
                let mut places = 0;
                for _ in 0..100 {
                    let mut room = [0; MAX_PEERS * 6];
                    let mut sink = Sink::new(&mut room);
                    pool.pick(want, audience(0), &mut random, &mut sink);
                    let endpoints = as_chunks::<6>(sink.bytes()).0;
                    let different: BTreeSet<_> = endpoints.iter().collect();
                    places += endpoints.len();
                    assert_eq!(different.len(), endpoints.len());
                    assert!(endpoints.iter().all(|e| e[5] == 7 && e[2..4] != [0, 2]));
                    let decoys = of_swarm(&decoys, pool.leechers.len(), 0);
                    let mixed = pick_mixed(&pool, &decoys, want, &mut random);
                    assert_eq!(mixed.len(), want);
                    assert!(mixed.iter().all(|e| e[4] > 0 || e[5] == 7));
                }
                assert_eq!(places, 100 * want, "{count} {want}");
            }
        }
    }

    #[test]
    fn a_swarm_without_peers_to_connect_to_costs_a_bounded_search() {
        let all = with_ports(10, &[1], 60_000);
        let pool = Pool {
            leechers: PeerList::Slice(all.as_flattened(), 7),
            seeders: PeerList::Slice(&[], 7),
            asker: None,
            is_crowded: false,
        };
        let mut random = Random::seeded(15);
        assert!(pick(&pool, 200, &mut random).is_empty());
        let decoys = decoys(0);
        assert!(pick_mixed(&pool, &of_swarm(&decoys, 60_000, 0), 200, &mut random).is_empty());
    }

    #[test]
    fn loopback_peers_are_for_askers_on_the_loopback() {
        let v4 = with_ports(127, &[7], 4);
        let [mut local, mut global] = [[0; 19]; 2];
        local[15..18].copy_from_slice(&[1, 0, 7]);
        global[14..18].copy_from_slice(&[1, 1, 0, 7]);
        let v6 = [local, global];
        for (is_loopback, found) in [(false, [0, 1]), (true, [4, 2])] {
            let audience = Audience {
                is_loopback,
                ..audience(0)
            };
            let lists = [(v4.as_flattened(), 7), (v6.as_flattened(), 19)];
            let picked = lists.map(|(records, size)| {
                let pool = Pool {
                    leechers: PeerList::Slice(records, size),
                    seeders: PeerList::Slice(&[], size),
                    asker: None,
                    is_crowded: false,
                };
                let mut room = [0; 100];
                let mut sink = Sink::new(&mut room);
                pool.pick(50, audience, &mut Random::seeded(1), &mut sink);
                sink.bytes().len() / (size - 1)
            });
            assert_eq!(picked, found);
        }
    }

    const ASKER: (Family, Role) = (Family::V4, Role::Leecher);

    /// The endpoints that one pick with decoys returns, in order.
    fn pick_mixed(
        pool: &Pool,
        decoys: &SwarmDecoys,
        want: usize,
        random: &mut Random,
    ) -> Vec<[u8; 6]> {
        let mut room = [0; MAX_PEERS * 6];
        let mut sink = Sink::new(&mut room);
        pool.pick_mixed(decoys, ASKER, want, audience(0), random, &mut sink);
        as_chunks(sink.bytes()).0.to_vec()
    }

    fn decoys(percent: u32) -> Decoys {
        Decoys::new(percent, [3, 4], 1_700_000_000, 1)
    }

    fn of_swarm(decoys: &Decoys, leechers: usize, seeders: usize) -> SwarmDecoys<'_> {
        let sizes = [leechers, seeders, 0, 0];
        decoys.of_swarm(&[9; 20], sizes, 0).expect("has some")
    }

    /// All decoys for a leecher.
    fn all_decoys(decoys: &SwarmDecoys) -> BTreeSet<[u8; 6]> {
        let mut all = BTreeSet::new();
        for (role, slots) in Role::ALL.into_iter().zip(decoys.slots_for(ASKER)) {
            let decoys = (0..slots).filter_map(|slot| decoys.decoy(Family::V4, role, slot));
            all.extend(decoys.filter_map(|decoy| decoy.endpoint().first_chunk().copied()));
        }
        all
    }

    #[test]
    fn picks_with_decoys_are_full_without_repeats_and_without_the_asker() {
        let mut random = Random::seeded(21);
        for total in [4_u32, 5, 12, 50, 100, 133, 199, 200, 600, 5000] {
            for percent in [1, 10, 100] {
                let split = total / 3;
                let (leechers, seeders) = (peers(0, split), peers(split, total - split));
                let decoys = decoys(percent);
                let decoys = of_swarm(&decoys, leechers.len(), seeders.len());
                let pool = Pool {
                    leechers: PeerList::Slice(leechers.as_flattened(), 7),
                    seeders: PeerList::Slice(seeders.as_flattened(), 7),
                    asker: Some(0),
                    is_crowded: false,
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
    fn scattered(count: usize, random: &mut Random) -> Vec<[u8; 7]> {
        let record = |bits: u64| {
            let [a, b, c, d, high, low, ..] = bits.to_be_bytes();
            [a, b, c, d, high, low, 0]
        };
        let mut peers: Vec<[u8; 7]> = (0..count).map(|_| record(random.draw())).collect();
        peers.sort_unstable();
        peers
    }

    #[test]
    fn decoys_and_peers_are_equally_likely_in_every_place_and_next_to_each_other() {
        let mut random = Random::seeded(22);
        let (leechers, seeders) = (scattered(150, &mut random), scattered(350, &mut random));
        let mut blocks = Blocks::default();
        let list = large(&seeders, &mut blocks);
        let pool = Pool {
            leechers: PeerList::Slice(leechers.as_flattened(), 7),
            seeders: PeerList::Large(&list, &blocks),
            asker: Some(77),
            is_crowded: false,
        };
        let decoys = decoys(20);
        let decoys = of_swarm(&decoys, 150, 350);
        let strangers = all_decoys(&decoys);
        let mut all: Vec<[u8; 6]> = strangers.iter().copied().collect();
        let peers = [&leechers[..77], &leechers[78..], &seeders].concat();
        all.extend(peers.iter().filter_map(|peer| peer.first_chunk()));
        all.sort_unstable();
        let total = all.len() as f64;
        let (rounds, want) = (20_000, 50);
        let mut seen = vec![0; all.len()];
        // Of peers and of decoys: how many, the sum of their places in replies, how often a decoy came
        // next, and how often their neighbour in order of address.
        let (mut count, mut places) = ([0_u32; 2], [0; 2]);
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
            // The last of a reply has no next one.
            let not_last = f64::from(count[kind]) * 0.98;
            let near = f64::from(decoy_next[kind]) / not_last;
            assert!((near / share - 1.0).abs() < 0.05, "{kind}: {near}");
            let by_chance = not_last / total;
            let off = (f64::from(neighbour_next[kind]) - by_chance).abs();
            assert!(off < 5.0 * by_chance.sqrt(), "{kind}: {off} of {by_chance}");
        }
    }
}
