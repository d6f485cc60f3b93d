//! Finds and mends what two tables differ in after loss that nothing was resent for.
//!
//! Heartbeats carry a digest of the whole table. With a few of those whose digest differs, its *partners*, a
//! node compares more closely, in rounds of five seconds: it sends digests of 64 rows of info-hashes, and is
//! answered with those of the 64 buckets of each row that differs. Digests are sums, so the difference of two
//! is the sum of what only one of the tables has: where it is the same in two rounds, something is
//! missing, and where it is another one, something was on its way. A row of which the latter is true is
//! looked at by its buckets likewise, and what never is the same counts after some rounds all the same.
//! From there on ranges are cut by what a table holds and not by the
//! bits of keys, so that one huge swarm splits as well as many small ones: [`Kind::Ranges`] carries digests
//! of some dozens of ranges, whoever finds one of them different answers with digests of parts of it, or, if it
//! holds few peers there, with all of those ([`Kind::Items`]); and the other sends what was missing or newer
//! ([`Kind::Repair`]).
//!
//! A bucket is mended with one other node at a time: one that has been away is not sent the same by
//! everybody, yet may be sent parts by several.

use super::link::{Link, REPAIR_WAIT, Rows};
use super::node::{Node, Outbox, Refuses, apply_all, send};
use super::wire::{self, Kind, Reader};
use crate::tracker::ledger::{self, BUCKETS, Change, Key, Ledger, ROW, ROWS, State};
use crate::tracker::{Applied, Downloads, InfoHash, Item, Tracker};
use std::collections::VecDeque;

/// Milliseconds from one comparison to the next; a difference counts when seen in two.
const ROUND: u64 = 5000;
/// The buckets of a row are told when it has been off so often, each time in another way.
const UNSETTLED: u8 = 3;
/// A bucket counts when it has been off so often likewise.
const OFTEN: u8 = 6;
/// In what is told of a row: it was off in the same way in the round before.
const SETTLED: u8 = 0x80;
/// Rounds after which somebody else is compared with, if all but that has been mended.
const ROUNDS: u32 = 3;
/// Rounds without a difference that counts after which tables are said to agree.
const QUIET: u32 = 2;

/// Nodes that are compared with at a time, and that are mended with.
const PARTNERS: usize = 8;

/// Milliseconds without progress after which another node may have a bucket.
const PATIENCE: u64 = 2500;

/// Milliseconds for which a node does not compare tables that was brought what it has no room for or what
/// its list refuses: it would be brought that once more. At first, and at most; another list or room for all
/// that ends it.
const REST: u64 = 60_000;
const LONGEST_REST: u64 = 300_000;

/// Peers of a range that are sent rather than cut once more.
const FEW: u32 = 8;
/// Parts that a range is cut into.
const PARTS: u32 = 40;

/// Ranges that wait to be looked at. What finds no room is found again in the next round.
const MOST_WORKS: usize = 4096;

/// Peers and torrents that are looked at for a range that is to be sent.
const MOST_FOR_ITEMS: usize = 4096;

/// Works taken up in one step.
const WORKS_A_STEP: usize = 256;

#[derive(Debug, Default)]
pub struct Repair {
    /// The sixth of the timeout that all of this is about.
    sixth: u64,
    partners: Vec<Partner>,
    /// Links that are mended with, and when there was progress.
    active: Vec<(u32, u64)>,
    /// By bucket, the link that it is mended with if that is active.
    claims: Vec<u32>,
    works: VecDeque<Work>,
    /// Milliseconds to wait, as all links have had their share of traffic for now.
    wait: u64,
    rest: Rest,
}

/// A pause after what could not be mended.
#[derive(Debug, Default)]
struct Rest {
    until: u64,
    /// How long it is, or was.
    wait: u64,
    /// What was brought since it began.
    sum: Brought,
}

/// What became of peers that repair brought: some were news, some the list refuses, and some there was no
/// room for.
#[derive(Clone, Copy, Debug, Default)]
struct Brought {
    taken: u64,
    refused: u64,
    no_room: u64,
}

impl Brought {
    fn left_out(&self) -> u64 {
        self.refused + self.no_room
    }
}

impl Rest {
    fn note(&mut self, brought: Brought, now: u64) {
        if brought.left_out() > 0 && now >= self.until {
            // The longer, the less was mended the last time.
            self.wait = match self.sum.left_out() > self.sum.taken {
                true => (self.wait * 2).min(LONGEST_REST),
                false => REST,
            };
            *self = Rest {
                until: now + self.wait,
                wait: self.wait,
                ..Rest::default()
            };
        }
        self.sum.taken += brought.taken;
        self.sum.refused += brought.refused;
        self.sum.no_room += brought.no_room;
    }

    /// Ends when there is room for so many peers as there was none for, if that was all.
    fn note_room(&mut self, room: u64) {
        if self.sum.refused == 0 && room >= self.sum.no_room {
            self.until = 0;
        }
    }
}

/// A node that this one compares its table with.
#[derive(Debug)]
struct Partner {
    link: u32,
    asked_at: u64,
    rounds: u32,
    /// Rounds since a difference counted.
    quiet: u32,
    /// When each row's buckets were told last, if they were.
    told_at: [Option<u64>; ROWS],
    /// By bucket, how far off their digest was then and how often it has been off.
    off: Vec<(u64, u8)>,
}

impl Partner {
    fn new(link: u32) -> Partner {
        Partner {
            link,
            asked_at: 0,
            rounds: 0,
            quiet: 0,
            told_at: [None; ROWS],
            off: vec![(0, 0); BUCKETS],
        }
    }

    /// Whether it has been long enough since a row was told that another look at it says more.
    fn is_due(&self, row: usize, now: u64) -> bool {
        let told_at = self.told_at.get(row).copied().flatten();
        told_at.is_none_or(|at| now >= at + ROUND)
    }

    /// Notes how far off a bucket is; whether that is a difference.
    fn note(&mut self, bucket: usize, off: u64) -> Option<Difference> {
        let (before, times) = self.off.get_mut(bucket)?;
        *times = if off == 0 { 0 } else { times.saturating_add(1) };
        let is_settled = std::mem::replace(before, off) == off;
        match (off, is_settled) {
            (0, _) => None,
            (_, true) => Some(Difference::Settled),
            _ => (*times >= OFTEN).then_some(Difference::Suspected),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// Something is missing.
    Settled,
    /// So much is on its way all the time that nothing else can be seen: it is looked at more closely, and
    /// only what that brings tells whether tables differ.
    Suspected,
}

#[derive(Debug)]
struct Work {
    link: u32,
    from: Key,
    end: Key,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// Find out whether the range differs from one with so many peers and this digest; none surely does.
    Compare {
        theirs: Option<(u32, u64)>,
        cursor: Key,
        sum: Sum,
    },
    /// Send digests of parts of it, each of so many peers.
    Cut { size: u32, cursor: Key, cuts: Cuts },
    /// Send all of it.
    Items,
    /// Send what is not among these; `cursor` is how far that is.
    Push {
        cursor: Key,
        theirs: Vec<(u64, u64)>,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u32,
    digest: u64,
}

impl Sum {
    fn add(&mut self, share: u64) {
        self.count = self.count.saturating_add(1);
        self.digest = self.digest.wrapping_add(share);
    }
}

/// The parts of a range so far: where each ends and what it holds.
#[derive(Debug, Default)]
struct Cuts {
    done: Vec<(Key, Sum)>,
    last: Sum,
    /// The last peer met.
    met: Option<Key>,
}

impl Repair {
    /// Whether a node does not compare its table for now. What has been found to differ is mended all the same.
    fn rests(&self, now: u64) -> bool {
        now < self.rest.until
    }

    /// When there is something to do.
    pub fn next_step(&self, now: u64) -> Option<u64> {
        (!self.works.is_empty()).then_some(now + self.wait)
    }

    /// Whether this link is among those that are mended with, or becomes one.
    fn takes(&mut self, link: u32, now: u64) -> bool {
        self.active.retain(|(_, at)| now <= at + PATIENCE);
        if self.touch(link, now) {
            return true;
        }
        let is_free = self.active.len() < PARTNERS;
        if is_free {
            self.active.push((link, now));
        }
        is_free
    }

    /// There was progress with a link; whether it is mended with.
    fn touch(&mut self, link: u32, now: u64) -> bool {
        let mut active = self.active.iter_mut();
        let known = active.find(|(active, _)| *active == link);
        known.map(|(_, at)| *at = now).is_some()
    }

    /// Whether this range is mended with this link from now on: not if a bucket is with another one.
    fn claim(&mut self, link: u32, from: &Key, end: &Key) -> bool {
        if self.claims.is_empty() {
            self.claims = vec![u32::MAX; BUCKETS];
        }
        let first = ledger::bucket(&from.info_hash());
        let is_within = |bucket: &usize| *bucket == first || Key::start_of_bucket(*bucket) < *end;
        let buckets = (first..BUCKETS).take_while(is_within).count();
        let Some(claims) = self.claims.get_mut(first..first + buckets) else {
            return false;
        };
        let active = &self.active;
        let is_active = |link: u32| active.iter().any(|(active, _)| *active == link);
        let is_free = claims
            .iter()
            .all(|claim| *claim == link || !is_active(*claim));
        if is_free {
            claims.fill(link);
        }
        is_free
    }

    /// In another sixth all digests are others.
    fn turn_to(&mut self, sixth: u64) {
        if self.sixth != sixth {
            self.sixth = sixth;
            self.partners.clear();
            let is_kept = |work: &Work| matches!(work.task, Task::Items | Task::Push { .. });
            self.works.retain(is_kept);
        }
    }

    fn add(&mut self, link: u32, from: Key, end: Key, task: Task) {
        if self.works.len() < MOST_WORKS && from < end {
            self.works.push_back(Work {
                link,
                from,
                end,
                task,
            });
        }
    }

    fn compare(&mut self, link: u32, from: Key, end: Key, theirs: Option<(u32, u64)>) {
        let task = Task::Compare {
            theirs,
            cursor: from,
            sum: Sum::default(),
        };
        self.add(link, from, end, task);
    }

    fn push(&mut self, link: u32, from: Key, end: Key, theirs: Vec<(u64, u64)>) {
        let cursor = from;
        self.add(link, from, end, Task::Push { cursor, theirs });
    }
}

/// An item's share of a digest, if it counts.
fn share(ledger: &Ledger, item: &Item) -> Option<(u64, u64)> {
    let fingerprint = ledger.fingerprint(&item.info_hash, &item.peer);
    let share = ledger.counted_share(fingerprint, &item.presence)?;
    Some((fingerprint, share))
}

impl Node {
    /// Whether its table can be compared with others'.
    pub(super) fn is_comparable(&self) -> bool {
        !self.is_fetching && !self.repair.rests(self.now)
    }

    /// A heartbeat told the digest of the other's table.
    pub(super) fn compare(
        &mut self,
        index: usize,
        theirs: Option<(u64, u64)>,
        tracker: &Tracker,
        out: &mut Outbox,
    ) {
        if !self.is_comparable() {
            return;
        }
        let (Some(link), Some((sixth, digest))) = (self.links.get_mut(index), theirs) else {
            return;
        };
        let Some(ledger) = tracker.ledger().filter(|ledger| ledger.sixth() == sixth) else {
            return;
        };
        let Some(ours) = ledger.whole_digest() else {
            return;
        };
        let (repair, number) = (&mut self.repair, link.number);
        repair.turn_to(sixth);
        if ours == digest {
            link.agrees = Some(true);
            repair.partners.retain(|partner| partner.link != number);
            return;
        }
        let known = repair.partners.iter().position(|p| p.link == number);
        let at = match known {
            Some(at) => at,
            None if repair.partners.len() < PARTNERS => {
                repair.partners.push(Partner::new(number));
                repair.partners.len() - 1
            }
            None => return,
        };
        let Some(partner) = repair.partners.get_mut(at) else {
            return;
        };
        if partner.rounds > 0 && self.now < partner.asked_at + ROUND {
            return;
        }
        if partner.rounds >= ROUNDS && partner.quiet >= QUIET {
            repair.partners.swap_remove(at);
            return;
        }
        partner.rounds += 1;
        partner.quiet += 1;
        partner.asked_at = self.now;
        if partner.quiet > QUIET {
            link.agrees = Some(true);
        }
        let mut body = sixth.to_be_bytes().to_vec();
        body.push(link.agrees.map_or(0, |agrees| 1 + u8::from(agrees)));
        for row in 0..ROWS {
            body.extend_from_slice(&ledger.row_digest(row).to_be_bytes());
        }
        send_repair(link, Kind::Groups, &body, out);
    }

    pub(super) fn hear_repair(
        &mut self,
        index: usize,
        kind: Kind,
        body: &[u8],
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) -> Option<()> {
        let mut reader = Reader(body);
        match kind {
            Kind::Items => return self.hear_items(index, &mut reader, tracker, refuses, out),
            Kind::Repair => return self.hear_changes(index, reader.0, tracker, refuses, out),
            Kind::Tallies => return self.hear_tallies(index, &mut reader),
            Kind::Counts => return self.hear_counts(index, &mut reader, tracker, refuses, out),
            _ => {}
        }
        let sixth = reader.u64()?;
        let ledger = tracker.ledger()?;
        if ledger.sixth() != sixth || ledger.counted_to.is_some() {
            return Some(());
        }
        match kind {
            Kind::Groups => self.hear_groups(index, &mut reader, ledger, out),
            Kind::Buckets => self.hear_buckets(index, &mut reader, ledger),
            _ => self.hear_ranges(index, &mut reader),
        }
    }

    /// Answers with the buckets of the rows that differ again, two rows to a packet.
    fn hear_groups(
        &mut self,
        index: usize,
        reader: &mut Reader,
        ledger: &Ledger,
        out: &mut Outbox,
    ) -> Option<()> {
        let is_comparable = self.is_comparable();
        let link = self.links.get_mut(index)?;
        match reader.u8()? {
            0 => {}
            verdict => link.agrees = Some(verdict > 1),
        }
        if link.id < self.id {
            // One of two compares, and both hear what comes of it.
            let number = link.number;
            self.repair
                .partners
                .retain(|partner| partner.link != number);
        }
        let sixth = ledger.sixth();
        if link.rows.sixth != sixth {
            link.rows = Rows {
                sixth,
                ..Rows::default()
            };
        }
        let is_due = link.rows.at.is_none_or(|at| self.now >= at + ROUND);
        if !is_due || !is_comparable {
            return Some(());
        }
        link.rows.at = Some(self.now);
        let head = sixth.to_be_bytes();
        let mut body = head.to_vec();
        for row in 0..ROWS {
            let off = ledger.row_digest(row).wrapping_sub(reader.u64()?);
            let known = link.rows.off.get_mut(row)?;
            let is_settled = off == known.0;
            let times = if off == 0 {
                0
            } else {
                known.1.saturating_add(1)
            };
            *known = (off, times);
            let number = u8::try_from(row).ok()?;
            match (off, is_settled) {
                (0, _) => continue,
                (_, true) => body.push(number | SETTLED),
                _ if times >= UNSETTLED => body.push(number),
                _ => continue,
            }
            for bucket in row * ROW..(row + 1) * ROW {
                body.extend_from_slice(&ledger.digest(bucket).to_be_bytes());
            }
            if body.len() + 1 + ROW * 8 > wire::ROOM {
                send_repair(link, Kind::Buckets, &body, out);
                body.truncate(head.len());
            }
        }
        if body.len() > head.len() {
            send_repair(link, Kind::Buckets, &body, out);
        }
        Some(())
    }

    /// Notes how far the buckets are off, and mends those of which that counts.
    fn hear_buckets(&mut self, index: usize, reader: &mut Reader, ledger: &Ledger) -> Option<()> {
        let link = self.links.get_mut(index)?;
        let (number, now, repair) = (link.number, self.now, &mut self.repair);
        let Some(partner) = repair.partners.iter_mut().find(|p| p.link == number) else {
            return Some(());
        };
        let mut confirmed = Vec::new();
        let mut is_sure = false;
        while !reader.0.is_empty() {
            let number = reader.u8()?;
            let (row, is_settled) = (usize::from(number & !SETTLED), number & SETTLED != 0);
            let is_due = partner.is_due(row, now);
            for bucket in row * ROW..(row + 1) * ROW {
                let off = ledger.digest(bucket).wrapping_sub(reader.u64()?);
                let difference = match off != 0 && is_settled {
                    true => Some(Difference::Settled),
                    false if is_due => partner.note(bucket, off),
                    false => None,
                };
                if let Some(difference) = difference {
                    confirmed.push(bucket);
                    is_sure |= difference == Difference::Settled;
                }
            }
            if is_due {
                *partner.told_at.get_mut(row)? = Some(now);
            }
        }
        if confirmed.is_empty() {
            return Some(());
        }
        if is_sure {
            partner.quiet = 0;
            link.agrees = Some(false);
        }
        if !repair.takes(number, now) {
            return Some(());
        }
        for run in confirmed.chunk_by(|a, b| a + 1 == *b) {
            let (first, last) = (run.first()?, run.last()?);
            let from = Key::start_of_bucket(*first);
            let end = match last + 1 {
                BUCKETS => Key::END,
                next => Key::start_of_bucket(next),
            };
            if repair.claim(number, &from, &end) {
                repair.compare(number, from, end, None);
            }
        }
        Some(())
    }

    fn hear_ranges(&mut self, index: usize, reader: &mut Reader) -> Option<()> {
        let link = self.links.get_mut(index)?;
        let (number, repair) = (link.number, &mut self.repair);
        if !repair.takes(number, self.now) {
            return Some(());
        }
        let mut from = reader.key()?;
        while !reader.0.is_empty() {
            let end = reader.key()?;
            let theirs = (reader.u32()?, reader.u64()?);
            if repair.claim(number, &from, &end) {
                match theirs {
                    (0, _) => repair.push(number, from, end, Vec::new()),
                    _ => repair.compare(number, from, end, Some(theirs)),
                }
            }
            from = end;
        }
        Some(())
    }

    /// All that the other has in a range: takes what is newer, and sends what it lacks.
    fn hear_items(
        &mut self,
        index: usize,
        reader: &mut Reader,
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) -> Option<()> {
        let (from, end) = (reader.key()?, reader.key()?);
        let mut changes = Vec::new();
        wire::read_changes(reader.0, &mut changes, &mut Vec::new())?;
        let theirs = changes.iter().filter_map(|change| {
            let (fingerprint, share) = tracker.share_of(change)?;
            Some((fingerprint, share?))
        });
        let theirs = theirs.collect();
        self.take(index, (&changes, &[]), tracker, refuses, out);
        let number = self.links.get(index)?.number;
        if self.repair.takes(number, self.now) {
            self.repair.push(number, from, end, theirs);
        }
        Some(())
    }

    fn hear_changes(
        &mut self,
        index: usize,
        body: &[u8],
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) -> Option<()> {
        let (mut changes, mut counts) = (Vec::new(), Vec::new());
        wire::read_changes(body, &mut changes, &mut counts)?;
        self.take(index, (&changes, &counts), tracker, refuses, out);
        let number = self.links.get(index)?.number;
        self.repair.touch(number, self.now);
        Some(())
    }

    /// Applies what repair brought. Who is named and has stopped meanwhile is told of in return.
    fn take(
        &mut self,
        index: usize,
        (changes, counts): (&[Change], &[(InfoHash, u32)]),
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) {
        let mut stopped = Vec::new();
        let mut news = Vec::new();
        let mut brought = Brought {
            refused: changes.len() as u64,
            ..Brought::default()
        };
        let mut note = |change: &Change, applied| {
            brought.refused -= 1;
            match applied {
                Applied::Changed => news.push(*change),
                Applied::NoRoom => brought.no_room += 1,
                Applied::Stopped(stamp) => stopped.push(Change {
                    state: State::Stopped,
                    completed: false,
                    newly_completed: false,
                    stamp,
                    ..*change
                }),
                Applied::Known | Applied::Stale => {}
            }
        };
        apply_all(changes, tracker, refuses, &mut note);
        brought.taken = news.len() as u64;
        self.repair.rest.note(brought, self.now);
        raise_counts(counts, tracker, refuses);
        if let Some(link) = self.links.get_mut(index) {
            link.counters.repairs_in += changes.len() as u64;
            // What is recent may have been on its way.
            if !news.iter().all(|change| tracker.is_recent(change)) {
                let number = link.number;
                let mut partners = self.repair.partners.iter_mut();
                if let Some(partner) = partners.find(|partner| partner.link == number) {
                    partner.quiet = 0;
                }
                link.agrees = Some(false);
            }
            send_changes(link, stopped, &|_| None, true, out);
        }
    }

    /// Goes on with what there is to mend.
    pub(super) fn repair_on(&mut self, budget: usize, tracker: &Tracker, out: &mut Outbox) {
        let Some(ledger) = tracker.ledger() else {
            return;
        };
        self.repair.turn_to(ledger.sixth());
        self.repair.rest.note_room(tracker.room() as u64);
        self.repair.wait = 0;
        let mut left = budget;
        let mut held_back = 0;
        for _ in 0..WORKS_A_STEP.min(self.repair.works.len()) {
            let Some(mut work) = self.repair.works.pop_front() else {
                return;
            };
            let is_link = |link: &&mut Link| link.number == work.link && link.is_up;
            let Some(link) = self.links.iter_mut().find(is_link) else {
                continue;
            };
            if left == 0 {
                self.repair.works.push_front(work);
                return;
            }
            self.repair.touch(work.link, self.now);
            if link.allowance < 2 * wire::MOST as u64 {
                held_back += 1;
                self.repair.wait = REPAIR_WAIT;
                self.repair.works.push_back(work);
                continue;
            }
            let is_done = match &mut work.task {
                Task::Compare { cursor, sum, .. } => {
                    add_up(tracker, ledger, cursor, &work.end, &mut left, sum)
                }
                Task::Cut { size, cursor, cuts } => {
                    cut(tracker, ledger, cursor, &work.end, *size, &mut left, cuts)
                }
                Task::Items => {
                    send_items(link, tracker, ledger, &work.from, &work.end, &mut left, out);
                    true
                }
                Task::Push { cursor, theirs } => {
                    let end = &work.end;
                    push(tracker, ledger, cursor, end, theirs, &mut left, link, out)
                }
            };
            if !is_done {
                self.repair.works.push_front(work);
                continue;
            }
            self.finish(work, ledger, out);
        }
        if held_back < self.repair.works.len() {
            self.repair.wait = 0;
        }
    }

    /// Another list of info-hashes is in force: what it was that the one before refused may be welcome.
    pub fn note_list(&mut self) {
        self.repair.rest = Rest::default();
    }

    /// The table has been looked at: does what that calls for.
    fn finish(&mut self, work: Work, ledger: &Ledger, out: &mut Outbox) {
        let Work {
            link,
            from,
            end,
            task,
        } = work;
        let repair = &mut self.repair;
        match task {
            Task::Compare { theirs, sum, .. } => match theirs {
                Some((count, digest)) if (count, digest) == (sum.count, sum.digest) => {}
                _ if sum.count <= FEW => repair.add(link, from, end, Task::Items),
                _ => {
                    let parts = (sum.count / (FEW - 2)).clamp(2, PARTS);
                    let task = Task::Cut {
                        size: sum.count.div_ceil(parts),
                        cursor: from,
                        cuts: Cuts::default(),
                    };
                    repair.add(link, from, end, task);
                }
            },
            Task::Cut { mut cuts, .. } => {
                cuts.done.push((end, cuts.last));
                let link = self.links.iter_mut().find(|l| l.number == link);
                if let Some(link) = link {
                    send_cuts(link, ledger.sixth(), from, &cuts.done, out);
                }
            }
            Task::Items | Task::Push { .. } => {}
        }
    }
}

fn raise_counts(counts: &[(InfoHash, u32)], tracker: &mut Tracker, refuses: Refuses) {
    for (info_hash, downloaded) in counts {
        if refuses(info_hash) {
            continue;
        }
        tracker.raise_downloaded(&Downloads {
            info_hash: *info_hash,
            downloaded: *downloaded,
            idle: 0,
        });
    }
}

/// Adds up the shares from the cursor on; whether the end was reached.
fn add_up(
    tracker: &Tracker,
    ledger: &Ledger,
    cursor: &mut Key,
    end: &Key,
    left: &mut usize,
    sum: &mut Sum,
) -> bool {
    let next = tracker.range_within(cursor, end, left, &mut |item| {
        if let Some((_, share)) = share(ledger, item) {
            sum.add(share);
        }
    });
    go_on(cursor, next)
}

/// Moves the cursor to where there is more; whether there is nothing.
fn go_on(cursor: &mut Key, next: Option<Key>) -> bool {
    if let Some(next) = next {
        *cursor = next;
    }
    next.is_none()
}

/// Cuts a range into parts of so many peers.
fn cut(
    tracker: &Tracker,
    ledger: &Ledger,
    cursor: &mut Key,
    end: &Key,
    size: u32,
    left: &mut usize,
    cuts: &mut Cuts,
) -> bool {
    let next = tracker.range_within(cursor, end, left, &mut |item| {
        let Some((_, share)) = share(ledger, item) else {
            return;
        };
        let key = Key::of(&item.info_hash, &item.peer);
        if let (Some(met), true) = (&cuts.met, cuts.last.count >= size) {
            let last = std::mem::take(&mut cuts.last);
            cuts.done.push((wire::shorten(&key, met), last));
        }
        cuts.met = Some(key);
        cuts.last.add(share);
    });
    go_on(cursor, next)
}

/// Sends what the other lacks, a packet's worth at most; whether that was all.
#[expect(clippy::too_many_arguments)]
fn push(
    tracker: &Tracker,
    ledger: &Ledger,
    cursor: &mut Key,
    end: &Key,
    theirs: &[(u64, u64)],
    left: &mut usize,
    link: &mut Link,
    out: &mut Outbox,
) -> bool {
    /// Peers that fit into a packet at the most.
    const SLICE: usize = 160;
    let mut changes = Vec::new();
    let budget = (*left).min(SLICE);
    let mut rest = budget;
    let next = tracker.range_within(cursor, end, &mut rest, &mut |item| {
        if share(ledger, item).is_some_and(|share| !theirs.contains(&share)) {
            changes.extend(tracker.change_of(item));
        }
    });
    let downloaded = |hash: &InfoHash| {
        let counts = tracker.scrape(hash);
        counts.map(|counts| counts.downloaded).filter(|n| *n > 0)
    };
    send_changes(link, changes, &downloaded, true, out);
    *left -= budget - rest;
    go_on(cursor, next)
}

fn send_changes(
    link: &mut Link,
    mut changes: Vec<Change>,
    downloaded: &dyn Fn(&InfoHash) -> Option<u32>,
    counts: bool,
    out: &mut Outbox,
) {
    wire::sort(&mut changes);
    let mut done = 0;
    while done < changes.len() {
        let mut body = Vec::with_capacity(wire::ROOM);
        let put = wire::put_changes(&changes[done..], wire::ROOM, downloaded, &mut body);
        if put == 0 {
            return;
        }
        done += put;
        if counts {
            link.counters.repairs_out += put as u64;
        }
        send_repair(link, Kind::Repair, &body, out);
    }
}

fn send_cuts(link: &mut Link, sixth: u64, mut from: Key, cuts: &[(Key, Sum)], out: &mut Outbox) {
    let mut body = Vec::with_capacity(wire::ROOM);
    for (end, sum) in cuts {
        if body.len() + 1 + Key::SIZE + 12 > wire::ROOM {
            send_repair(link, Kind::Ranges, &body, out);
            body.clear();
        }
        if body.is_empty() {
            body.extend_from_slice(&sixth.to_be_bytes());
            wire::put_key(&from, &mut body);
        }
        wire::put_key(end, &mut body);
        body.extend_from_slice(&sum.count.to_be_bytes());
        body.extend_from_slice(&sum.digest.to_be_bytes());
        from = *end;
    }
    send_repair(link, Kind::Ranges, &body, out);
}

fn send_items(
    link: &mut Link,
    tracker: &Tracker,
    ledger: &Ledger,
    from: &Key,
    end: &Key,
    left: &mut usize,
    out: &mut Outbox,
) {
    let mut changes = Vec::new();
    // It was few peers a moment ago, among torrents of which all may have expired.
    let mut rest = MOST_FOR_ITEMS;
    let next = tracker.range_within(from, end, &mut rest, &mut |item| {
        if share(ledger, item).is_some() {
            changes.extend(tracker.change_of(item));
        }
    });
    *left = left.saturating_sub(MOST_FOR_ITEMS - rest);
    wire::sort(&mut changes);
    let mut body = Vec::with_capacity(wire::ROOM);
    wire::put_key(from, &mut body);
    // What is beyond is for another round.
    wire::put_key(&next.unwrap_or(*end), &mut body);
    let room = wire::ROOM - body.len();
    let put = wire::put_changes(&changes, room, &|_| None, &mut body);
    if put == changes.len() {
        send_repair(link, Kind::Items, &body, out);
    }
}

pub(super) fn send_repair(link: &mut Link, kind: Kind, body: &[u8], out: &mut Outbox) {
    let before = link.counters.bytes_out;
    send(link, kind, body, out);
    let size = link.counters.bytes_out - before;
    link.counters.repair_bytes_out += size;
    link.allowance = link.allowance.saturating_sub(size);
}
