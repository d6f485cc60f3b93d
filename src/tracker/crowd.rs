//! Peer selection in a crowded swarm, in which a host has three peers or more: a reply names two of them at most.
//!
//! Lists are sorted by address, so the peers of a host are a block of ranks. Of each block of three or more, the first
//! two ranks are seats and the others are skipped. All seats, and all peers of smaller hosts, are equally likely: a run
//! starts at a rank that is drawn again if it is not a seat, and goes on behind a block after its seats. On the two
//! seats are two peers of the block, which change from reply to reply. Blocks that were found are left out of the ranks
//! to draw from, so that a host with nearly all peers of a swarm costs few draws.
//!
//! A host may have a block among the leechers and another among the seeders. A filter of bits finds the hosts that the
//! reply names already, which are then counted.

use super::hosts::MAX_OF_HOST;
use super::peer::host;
use super::sample::{Audience, MAX_PEERS, Pool, REACH, RUN, Rest, Sink, insert_sorted};
use crate::base::random::Random;
use crate::sys::memory::prefetch;
use std::ops::Range;

const MAX_RUNS: usize = MAX_PEERS.div_ceil(RUN);

/// Blocks that are left out when ranks are drawn, at most.
const MAX_CUTS: usize = 16;

/// Ranks that are drawn again for a reply, at most. Then a run starts behind a block.
const MAX_REDRAWS: usize = 64;

pub struct Crowd<'a> {
    pool: &'a Pool<'a>,
    /// Chooses the peers on the seats.
    turn: usize,
    /// The block that was found last.
    block: Range<usize>,
    /// Records that lie together, and the rank of the first.
    records: (usize, &'a [u8]),
    /// A bit for the hosts in the reply.
    named: [u64; 32],
}

impl<'a> Crowd<'a> {
    pub fn new(pool: &'a Pool<'a>, random: &mut Random) -> Crowd<'a> {
        Crowd {
            pool,
            turn: random.below(usize::MAX / 2),
            block: 0..0,
            records: (0, &[]),
            named: [0; 32],
        }
    }

    /// Appends up to `want` peers, two of a host at most.
    pub fn pick(
        &mut self,
        want: usize,
        audience: Audience,
        random: &mut Random,
        sink: &mut Sink,
    ) -> Rest {
        let (total, want) = (self.pool.len(), want.min(MAX_PEERS));
        let count = want.div_ceil(RUN);
        let mut starts = [0; MAX_RUNS];
        let starts = &mut starts[..count];
        self.draw_starts(starts, random);
        let is_small = total <= REACH * want;
        let [most_of_run, most] = match is_small {
            true => [usize::MAX; 2],
            false => [REACH * RUN, 2 * REACH * want],
        };
        let (mut passed, mut missing) = ([0; MAX_RUNS], 0);
        let first = random.below(count);
        // In the second round the runs go on where they ended, if places are left.
        for is_first_round in [true, false] {
            let mut effort = most;
            for i in (first..count).chain(0..first) {
                if is_first_round {
                    effort = most_of_run;
                    missing += want / count + usize::from(i < want % count);
                }
                let end = match starts.get(i + 1) {
                    Some(next) => *next,
                    None => starts[0] + total,
                };
                let run = starts[i] + passed[i]..end;
                passed[i] += self.walk(run, &mut effort, &mut missing, audience, sink);
            }
        }
        match passed.iter().sum::<usize>() == total {
            true => Rest::OfNamedHosts,
            false => Rest::Others,
        }
    }

    /// Draws ranks to start runs at, sorted.
    fn draw_starts(&mut self, starts: &mut [usize], random: &mut Random) {
        let total = self.pool.len();
        for start in &mut *starts {
            *start = random.below(total);
            prefetch(self.pool.piece(*start));
        }
        // Ranks that are left out, sorted.
        let mut cuts = [(0, 0); MAX_CUTS];
        let (mut known, mut removed, mut redraws) = (0, 0, MAX_REDRAWS);
        for i in 0..starts.len() {
            let mut start = starts[i];
            while redraws > 0 && self.seat(start, true).is_none() {
                redraws -= 1;
                let cut = (self.block.start + MAX_OF_HOST, self.block.end);
                if known < MAX_CUTS && !cuts[..known].contains(&cut) {
                    insert_sorted(&mut cuts, known, cut);
                    known += 1;
                    removed += cut.1 - cut.0;
                }
                start = random.below(total - removed);
                for (from, to) in &cuts[..known] {
                    start += if start >= *from { to - from } else { 0 };
                }
            }
            insert_sorted(starts, i, start);
        }
    }

    /// Names peers of these ranks, which go round the ring of all, until none is missing or the effort is spent.
    /// Returns how many it passed.
    fn walk(
        &mut self,
        ranks: Range<usize>,
        effort: &mut usize,
        missing: &mut usize,
        audience: Audience,
        sink: &mut Sink,
    ) -> usize {
        let (total, mut next) = (self.pool.len(), ranks.start);
        while *missing > 0 && next < ranks.end && *effort > 0 {
            let rank = next.checked_sub(total).unwrap_or(next);
            let is_start = next == ranks.start;
            *missing -= usize::from(self.name_seat(rank, is_start, audience, sink));
            next += 1;
            *effort -= 1;
            // Behind the last seat of a block.
            if self.block.contains(&rank) && rank + 1 >= self.block.start + MAX_OF_HOST {
                next += self.block.end - rank - 1;
                *effort = effort.saturating_sub(RUN);
            }
        }
        next.min(ranks.end) - ranks.start
    }

    /// Appends the peer on a seat. Returns false if the rank is no seat, if the asker does not take the peer, and if
    /// the reply names two of its host.
    pub fn name_seat(
        &mut self,
        rank: usize,
        is_start: bool,
        audience: Audience,
        sink: &mut Sink,
    ) -> bool {
        let record = self.seat(rank, is_start).and_then(|rank| self.record(rank));
        let Some(record) = record.filter(|record| audience.takes_any(record)) else {
            return false;
        };
        let [endpoint @ .., _] = record else {
            return false;
        };
        let bit = host(record).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53;
        let (word, bit) = (&mut self.named[(bit >> 6) as usize], 1 << (bit & 63)); // 11 bits.
        let is_named = *word & bit != 0;
        *word |= bit;
        if is_named && sink.count_of_host(endpoint) >= MAX_OF_HOST {
            return false;
        }
        sink.push(endpoint);
        true
    }

    /// The rank of the peer that has the seat of this rank; none if this is not a seat. Unless it is the start of a
    /// run, the rank before it was looked at.
    fn seat(&mut self, rank: usize, is_start: bool) -> Option<usize> {
        if !self.is_in_block(rank, is_start) {
            return Some(rank);
        }
        let seat = rank - self.block.start;
        let at = (self.turn + seat) % self.block.len();
        (seat < MAX_OF_HOST).then_some(self.block.start + at)
    }

    /// Whether the peer of this rank is one of three of its host or more, which are then the block found last.
    fn is_in_block(&mut self, rank: usize, is_start: bool) -> bool {
        if self.block.contains(&rank) {
            return true;
        }
        let mut is_in_block = self.is_of_host(rank, rank + 2);
        if is_start && !is_in_block {
            let before = |count| rank.checked_sub(count);
            is_in_block = before(1).is_some_and(|before| self.is_of_host(before, rank + 1))
                || before(2).is_some_and(|before| self.is_of_host(before, rank));
        }
        if let (true, Some(record)) = (is_in_block, self.record(rank)) {
            self.block = self.pool.block(rank, record);
        }
        self.block.contains(&rank)
    }

    /// Whether these are ranks of one list and of one host.
    fn is_of_host(&mut self, a: usize, b: usize) -> bool {
        let leechers = self.pool.leecher_count();
        let [a, b] = [a, b].map(|rank| {
            self.record(rank)
                .map(|record| (host(record), rank < leechers))
        });
        a.is_some() && a == b
    }

    fn record(&mut self, rank: usize) -> Option<&'a [u8]> {
        let size = self.pool.leechers.size();
        let (from, records) = self.records;
        let at = rank.checked_sub(from).map(|index| index * size);
        if let Some(record) = at.and_then(|at| records.get(at..at + size)) {
            return Some(record);
        }
        let records = self.pool.piece(rank);
        self.records = (rank, records);
        records.get(..size)
    }
}
