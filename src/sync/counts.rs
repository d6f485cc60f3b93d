//! How often torrents were downloaded, and for how long those without peers have had none.
//!
//! Counts go along with the announces that raise them, so nodes that hear each other have the same ones. What
//! a partition or a restart has left different is in no digest of peers; it is found by a slow walk: each second a
//! node sends one other the digests of the counts in one of 64 rows of info-hashes ([`Kind::Tallies`]).
//! Where they differ it is sent the counts ([`Kind::Counts`]), and answers with those of its own that are
//! greater. Counts merge by maximum.
//!
//! A greater count may be ahead of the announces that made it so and are still on their way; raised at
//! once, it would be raised by them once more. So what others say waits for some seconds before it
//! counts.

use super::link::Link;
use super::node::{Node, Outbox, Refuses};
use super::repair::send_repair;
use super::wire::{self, Kind, Reader};
use crate::tracker::ledger::{self, BUCKETS, Key, ROW, ROWS};
use crate::tracker::{Downloads, InfoHash, Tracker};
use std::collections::VecDeque;

/// Milliseconds from one row to the next.
const PACE: u64 = 1000;

/// Milliseconds until all has come that was told before now, sent again or not.
pub(super) const SETTLED: u64 = 10_000;

/// Counts that wait, at 40 bytes each. What finds no room is told again in a minute or so.
const MOST_HELD: usize = 1 << 14;

/// Rows that are looked at at a time: an own one, and others' that ask.
const MOST_JOBS: usize = 8;

/// Bytes of a count in a packet: info-hash, downloads, seconds without peers.
const COUNT: usize = 28;
/// Before them: whether an answer is wanted, and the range of info-hashes that they are all of.
const HEAD: usize = 41;
const MOST_COUNTS: usize = (wire::ROOM - HEAD) / COUNT;

/// Packets in an answer, and torrents that are looked at for it.
const MOST_ANSWERS: usize = 8;
const MOST_LOOKED_AT: usize = 4096;

#[derive(Debug, Default)]
pub struct Counting {
    next_at: u64,
    next_row: usize,
    /// Counts up; whose turn it is.
    turn: usize,
    jobs: VecDeque<Job>,
    /// Until when.
    held: VecDeque<(u64, Downloads)>,
}

#[derive(Debug)]
struct Job {
    link: u32,
    row: usize,
    cursor: InfoHash,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// Add up the row's buckets, to ask or to compare with what was asked.
    Add {
        ours: Box<[u64; ROW]>,
        theirs: Option<Box<[u64; ROW]>>,
    },
    /// Tell the counts of these buckets, a bit each.
    Tell(u64),
}

impl Counting {
    pub fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    fn add(&mut self, link: u32, row: usize, theirs: Option<Box<[u64; ROW]>>) {
        if self.jobs.len() < MOST_JOBS {
            let ours = Box::new([0; ROW]);
            self.jobs.push_back(Job {
                link,
                row,
                cursor: start_of(row * ROW),
                task: Task::Add { ours, theirs },
            });
        }
    }

    /// What another node says waits for what is on its way from others.
    pub fn hold(&mut self, tally: Downloads, now: u64) {
        if self.held.len() < MOST_HELD {
            self.held.push_back((now + SETTLED, tally));
        }
    }

    /// Counts that wait.
    #[cfg(test)]
    pub fn holds(&self) -> usize {
        self.held.len()
    }

    /// Applies what has waited long enough. The list may have changed meanwhile.
    fn release(&mut self, now: u64, tracker: &mut Tracker, refuses: Refuses) {
        while let Some((_, tally)) = self.held.front().filter(|(due, _)| *due <= now) {
            if !refuses(&tally.info_hash) {
                tracker.raise_downloaded(tally);
            }
            self.held.pop_front();
        }
    }
}

/// The first info-hash of a bucket; the last of all for what would come after the last bucket.
fn start_of(bucket: usize) -> InfoHash {
    Key::start_of_bucket(bucket).info_hash()
}

/// A count's share of a digest. No more than mistakes are to be found by it.
fn share(tally: &Downloads) -> u64 {
    let mut z = u64::from(tally.downloaded);
    for word in tally.info_hash.chunks(4) {
        let word = word
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        z = (z ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 31;
    }
    z
}

impl Node {
    /// Begins a row when it is time for one, and goes on with what has begun.
    pub(super) fn count_on(
        &mut self,
        budget: usize,
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) {
        let counting = &mut self.counting;
        counting.release(self.now, tracker, refuses);
        if self.now >= counting.next_at {
            counting.next_at = self.now + PACE;
            let up = || self.links.iter().filter(|link| link.is_up);
            if let Some(link) = up().nth(counting.turn % up().count().max(1)) {
                let row = counting.next_row;
                counting.next_row = (row + 1) % ROWS;
                // Another one for this row the next time.
                counting.turn = counting.turn.wrapping_add(1 + usize::from(row == 0));
                counting.add(link.number, row, None);
            }
        }
        let mut left = budget;
        for _ in 0..self.counting.jobs.len() {
            let Some(job) = self.counting.jobs.pop_front() else {
                return;
            };
            let is_link = |link: &&mut Link| link.number == job.link && link.is_up;
            let Some(link) = self.links.iter_mut().find(is_link) else {
                continue;
            };
            if left == 0 || link.allowance < 2 * wire::MOST as u64 {
                self.counting.jobs.push_back(job);
                continue;
            }
            if let Some(job) = job.go_on(&mut left, link, tracker, out) {
                self.counting.jobs.push_back(job);
            }
        }
    }

    /// Another node's digests of a row.
    pub(super) fn hear_tallies(&mut self, index: usize, reader: &mut Reader) -> Option<()> {
        let row = usize::from(reader.u8()?);
        let mut theirs = Box::new([0; ROW]);
        for digest in theirs.iter_mut() {
            *digest = reader.u64()?;
        }
        if row >= ROWS {
            return None;
        }
        let link = self.links.get(index)?.number;
        self.counting.add(link, row, Some(theirs));
        Some(())
    }

    /// All the counts that another node has in a range, or those that are greater than the ones it was told.
    pub(super) fn hear_counts(
        &mut self,
        index: usize,
        reader: &mut Reader,
        tracker: &Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) -> Option<()> {
        let wants_answer = reader.u8()? != 0;
        let (from, end): (InfoHash, InfoHash) = (reader.array()?, reader.array()?);
        let mut theirs = Vec::new();
        while !reader.0.is_empty() {
            theirs.push(Downloads {
                info_hash: reader.array()?,
                downloaded: reader.u32()?,
                idle: reader.u32()?,
            });
        }
        for tally in &theirs {
            if tracker.is_greater(tally) && !refuses(&tally.info_hash) {
                self.counting.hold(*tally, self.now);
            }
        }
        if !wants_answer {
            return Some(());
        }
        theirs.sort_unstable_by_key(|tally| tally.info_hash);
        let mut greater = Vec::new();
        tracker.tallies(&from, &end, MOST_LOOKED_AT, &mut |ours| {
            let found = theirs.binary_search_by_key(&ours.info_hash, |tally| tally.info_hash);
            let known = found.ok().and_then(|at| theirs.get(at));
            if known.is_none_or(|theirs| theirs.downloaded < ours.downloaded) {
                greater.push(*ours);
            }
            greater.len() < MOST_ANSWERS * MOST_COUNTS
        });
        let link = self.links.get_mut(index)?;
        for part in greater.chunks(MOST_COUNTS) {
            if link.allowance >= wire::MOST as u64 {
                send_counts(link, false, &from, &end, part, out);
            }
        }
        Some(())
    }
}

impl Job {
    /// Goes on with it; returns it if there is more to do.
    fn go_on(
        mut self,
        left: &mut usize,
        link: &mut Link,
        tracker: &Tracker,
        out: &mut Outbox,
    ) -> Option<Job> {
        let end = start_of((self.row + 1) * ROW);
        match &mut self.task {
            Task::Add { ours, theirs } => {
                let next = tracker.tallies(&self.cursor, &end, *left, &mut |tally| {
                    let bucket = ledger::bucket(&tally.info_hash) % ROW;
                    ours[bucket] = ours[bucket].wrapping_add(share(tally));
                    true
                });
                if let Some(next) = next {
                    *left = 0;
                    self.cursor = next;
                    return Some(self);
                }
                let Some(theirs) = theirs else {
                    send_tallies(link, self.row, ours, out);
                    return None;
                };
                let pairs = ours.iter().zip(theirs.iter()).enumerate();
                let differ = pairs.filter(|(_, (ours, theirs))| ours != theirs);
                let mask = differ.fold(0, |mask, (bucket, _)| mask | 1 << bucket);
                self.cursor = start_of(self.row * ROW);
                self.task = Task::Tell(mask);
                (mask != 0).then_some(self)
            }
            Task::Tell(mask) => {
                // To the next of the buckets, if the cursor is in none.
                let at = ledger::bucket(&self.cursor);
                let later =
                    (at..(self.row + 1) * ROW).find(|bucket| *mask >> (bucket % ROW) & 1 != 0)?;
                let from = self.cursor.max(start_of(later));
                let end = start_of(later + 1);
                let mut tallies = Vec::with_capacity(MOST_COUNTS);
                let next = tracker.tallies(&from, &end, MOST_LOOKED_AT, &mut |tally| {
                    tallies.push(*tally);
                    tallies.len() < MOST_COUNTS
                });
                *left = left.saturating_sub(tallies.len());
                self.cursor = next.unwrap_or(end);
                send_counts(link, true, &from, &self.cursor, &tallies, out);
                (later + 1 < BUCKETS || next.is_some()).then_some(self)
            }
        }
    }
}

/// Nobody need be asked who has nothing: others ask.
fn send_tallies(link: &mut Link, row: usize, digests: &[u64; ROW], out: &mut Outbox) {
    let (Ok(row), true) = (u8::try_from(row), digests.iter().any(|digest| *digest != 0)) else {
        return;
    };
    let mut body = vec![row];
    for digest in digests {
        body.extend_from_slice(&digest.to_be_bytes());
    }
    send_repair(link, Kind::Tallies, &body, out);
}

fn send_counts(
    link: &mut Link,
    wants_answer: bool,
    from: &InfoHash,
    end: &InfoHash,
    tallies: &[Downloads],
    out: &mut Outbox,
) {
    let mut body = Vec::with_capacity(wire::ROOM);
    body.push(wants_answer.into());
    body.extend_from_slice(from);
    body.extend_from_slice(end);
    for tally in tallies {
        body.extend_from_slice(&tally.info_hash);
        body.extend_from_slice(&tally.downloaded.to_be_bytes());
        body.extend_from_slice(&tally.idle.to_be_bytes());
    }
    send_repair(link, Kind::Counts, &body, out);
}
