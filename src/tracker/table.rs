//! The table: all torrents, in shards.
//!
//! A shard is a [`Tracker`] behind a lock of its own and owns a range of info-hashes, by their first bits. So the order
//! of the shards is the order of the info-hashes, and a walk over the table is a walk shard after shard. With one
//! thread there is one shard. With N threads there are at least four shards for each thread, so that two threads rarely
//! lock the same one. With many more shards, a batch of datagrams would take too many locks.
//!
//! A thread holds at most one shard's lock, for one slice of a walk or one group of a batch. The bounds on peers and
//! torrents apply to the whole table: a shard knows the sizes of the others from when it was locked, and adds its own
//! change when it is released. Meanwhile each other thread may exceed a bound by one batch.

use super::torrents::Torrent;
use super::{
    Clock, Counts, Cursor, Decoys, Found, HostBound, InfoHash, Limits, Progress, Tally, Totals,
    Tracked, Tracker,
};
use crate::base::busiest::Busiest;
use crate::base::lock::lock;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// More shards would need a second byte of the info-hash, and no host has the cores for them.
const MAX_SHARDS: usize = 256;

/// Shards for each thread. With 64 shards for two threads an announce took more CPU than with 8.
const SHARDS_PER_THREAD: usize = 4;

/// The most info-hashes of a batch, which are looked up together.
pub const MAX_BATCH: usize = 32;

#[derive(Debug)]
pub struct Table {
    shards: Box<[Shard]>,
    unit_ms: u64,
    /// The first bits of an info-hash that are the number of its shard: 0 to 8.
    bits: u32,
    /// The [`Size`] of all shards; not counted if there is only one shard.
    peers: AtomicUsize,
    torrents: AtomicUsize,
    bytes: AtomicUsize,
    /// Units from the start until the clock of a shard is held, if no sweep ends before.
    held_from: AtomicUsize,
}

/// A shard has cache lines of its own (two, since they are fetched in pairs), so that a thread that takes a lock does
/// not take the next shard from another thread's cache.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(Mutex<Tracker>);

/// How many peers and torrents there are, and bytes of the blocks with peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub peers: usize,
    pub torrents: usize,
    pub bytes: usize,
}

/// The info-hashes of a batch in the order of their shards, and within a shard in the order of the batch.
pub struct Order {
    /// Shard, and index in the batch.
    tickets: [(u8, u8); MAX_BATCH],
    length: usize,
}

/// Sums over all shards.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Without woodpeckers.
    pub tally: Tally,
    /// Torrents and peers that are stored: no decoys.
    pub totals: Totals,
    pub limits: Limits,
    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    pub peers: [usize; 4],
    /// Bytes that torrents take, and swarms beside them.
    pub bytes: [usize; 2],
}

pub(super) fn add<T: std::ops::AddAssign, const N: usize>(sums: &mut [T; N], more: [T; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

/// A shard whose lock this thread holds.
pub struct Locked<'a> {
    table: &'a Table,
    tracker: MutexGuard<'a, Tracker>,
    /// Its size when it was locked.
    before: Size,
}

impl Table {
    /// A table with the number of shards that so many threads need.
    pub fn new(limits: Limits, threads: usize) -> Table {
        let count = match threads {
            0 | 1 => 1,
            _ => (threads.min(MAX_SHARDS) * SHARDS_PER_THREAD)
                .next_power_of_two()
                .min(MAX_SHARDS),
        };
        Table {
            shards: (0..count)
                .map(|_| Shard(Mutex::new(Tracker::new(limits))))
                .collect(),
            unit_ms: Clock::unit_ms(limits.peer_timeout),
            bits: count.trailing_zeros(),
            peers: AtomicUsize::new(0),
            torrents: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            held_from: AtomicUsize::new(usize::MAX),
        }
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Milliseconds in a unit of the shards' clocks.
    pub fn unit_ms(&self) -> u64 {
        self.unit_ms
    }

    /// The number of the shard that an info-hash belongs to.
    pub fn shard_of(&self, info_hash: &InfoHash) -> usize {
        usize::from(info_hash[0]) >> (8 - self.bits)
    }

    /// The first info-hash of the next shard; none after the last.
    pub fn first_behind(&self, shard: usize) -> Option<InfoHash> {
        let next = shard + 1;
        let first = u8::try_from(next << (8 - self.bits)).ok()?;
        let mut info_hash = [0; 20];
        info_hash[0] = first;
        (next < self.shards.len()).then_some(info_hash)
    }

    /// Waits for a shard, and moves its clock to this many milliseconds since the start.
    pub fn lock(&self, shard: usize, now_ms: u64) -> Locked<'_> {
        let tracker = lock(&self.shards[shard % self.shards.len()].0);
        self.begin(tracker, now_ms)
    }

    /// The same without waiting; none if another thread holds the shard.
    pub fn try_lock(&self, shard: usize, now_ms: u64) -> Option<Locked<'_>> {
        let tracker = match self.shards.get(shard)?.0.try_lock() {
            Ok(tracker) => tracker,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.begin(tracker, now_ms))
    }

    fn begin<'a>(&'a self, mut tracker: MutexGuard<'a, Tracker>, now_ms: u64) -> Locked<'a> {
        tracker.advance(now_ms);
        let before = match self.shards.len() {
            1 => Size::default(),
            _ => {
                let own = tracker.size();
                tracker.others = Size {
                    peers: self.peers.load(Relaxed).saturating_sub(own.peers),
                    torrents: self.torrents.load(Relaxed).saturating_sub(own.torrents),
                    bytes: self.bytes.load(Relaxed).saturating_sub(own.bytes),
                };
                tracker.bound_blocks();
                own
            }
        };
        Locked {
            table: self,
            tracker,
            before,
        }
    }

    /// Whether requests must wait: after a long pause the clock of a shard is held until the sweep has passed the
    /// shard.
    pub fn is_held(&self, now_ms: u64) -> bool {
        match self.shards.len() {
            1 => self.lock(0, now_ms).is_held(),
            _ => now_ms / self.unit_ms >= self.held_from.load(Relaxed) as u64,
        }
    }

    /// Moves the clocks of all shards on. If they have to be held, requests wait from now on.
    pub fn move_clock(&self, ms: u64, now_ms: u64) {
        self.each(now_ms, &mut |tracker| tracker.move_clock(ms));
        self.note_sweeps(now_ms);
    }

    /// Computes when a clock will be held.
    pub fn note_sweeps(&self, now_ms: u64) {
        let mut from = u64::MAX;
        self.each(now_ms, &mut |tracker| {
            from = from.min(tracker.held_from() / self.unit_ms)
        });
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.held_from.store(from, Relaxed);
    }

    /// Waits for the shard of an info-hash.
    pub fn lock_for(&self, info_hash: &InfoHash, now_ms: u64) -> Locked<'_> {
        self.lock(self.shard_of(info_hash), now_ms)
    }

    /// Locks each shard in turn.
    pub fn each(&self, now_ms: u64, work: &mut dyn FnMut(&mut Tracker)) {
        for shard in 0..self.shards.len() {
            work(&mut self.lock(shard, now_ms));
        }
    }

    /// Changes the bounds. Peers and torrents beyond them stay until their time is over.
    pub fn set_bounds(&self, max_peers: usize, max_torrents: usize, now_ms: u64) {
        self.each(now_ms, &mut |tracker| {
            tracker.set_bounds(max_peers, max_torrents)
        });
    }

    /// Sets the shortest interval that clients are told, in seconds. A client that announces long before it is counted.
    pub fn set_interval(&self, seconds: u32, now_ms: u64) {
        self.each(now_ms, &mut |tracker| tracker.tally.set_interval(seconds));
    }

    /// [`Tracker::scrape_from`] over the whole table: at most `max` torrents of one shard. Returns the info-hash to go
    /// on from; none is the end.
    pub fn scrape_from(
        &self,
        from: &InfoHash,
        now_ms: u64,
        max: usize,
        visit: impl FnMut(&InfoHash, Counts, u32),
    ) -> Option<InfoHash> {
        let shard = self.shard_of(from);
        let next = self.lock(shard, now_ms).scrape_from(from, max, visit);
        next.or_else(|| self.first_behind(shard))
    }

    /// [`Tracker::walk`] over the whole table, likewise.
    pub fn walk(
        &self,
        from: Cursor,
        now_ms: u64,
        budget: usize,
        visit: &mut dyn FnMut(Found),
    ) -> Option<Cursor> {
        let shard = self.shard_of(from.torrent());
        let next = self.lock(shard, now_ms).walk(from, budget, visit);
        next.or_else(|| self.first_behind(shard).map(Cursor::at))
    }

    /// The order in which the info-hashes of a batch are looked up: shard by shard. Those beyond [`MAX_BATCH`] are left
    /// out.
    pub fn order<'a>(&self, hashes: impl Iterator<Item = Option<&'a InfoHash>>) -> Order {
        let mut order = Order {
            tickets: [(0, 0); MAX_BATCH],
            length: 0,
        };
        for (index, hash) in (0..).zip(hashes) {
            let (Some(hash), true) = (hash, order.length < MAX_BATCH) else {
                continue;
            };
            let shard = u8::try_from(self.shard_of(hash)).unwrap_or(0);
            // An insertion sort: the library's would be 7 KB of code.
            let placed = order.tickets.iter().take(order.length);
            let behind = placed.rev().take_while(|(other, _)| *other > shard);
            let place = order.length - behind.count();
            order.tickets.copy_within(place..order.length, place + 1);
            order.tickets[place] = (shard, index);
            order.length += 1;
        }
        order
    }

    /// Calls `work` with the shard of each info-hash and the info-hash's index in the batch. A shard is locked once for
    /// all of its info-hashes. Shards that other threads hold come last, so that no thread waits while it has work.
    pub fn visit(&self, order: &Order, now_ms: u64, work: &mut dyn FnMut(&mut Tracker, usize)) {
        let mut busy = [false; MAX_BATCH];
        for is_last in [false, true] {
            let groups = order.tickets[..order.length].chunk_by(|a, b| a.0 == b.0);
            for (group, is_busy) in groups.zip(&mut busy) {
                let shard = group.first().map_or(0, |(shard, _)| usize::from(*shard));
                let tracker = match (is_last, *is_busy) {
                    (false, _) => self.try_lock(shard, now_ms),
                    (true, true) => Some(self.lock(shard, now_ms)),
                    (true, false) => continue,
                };
                let Some(mut tracker) = tracker else {
                    *is_busy = true;
                    continue;
                };
                for (_, index) in group {
                    work(&mut tracker, usize::from(*index));
                }
            }
            if !busy.contains(&true) {
                return;
            }
        }
    }

    /// From now on stores so many peers of a host in each swarm.
    pub fn bound_hosts(&self, bound: &HostBound) {
        self.each(0, &mut |tracker| tracker.hosts = bound.clone());
    }

    /// From now on mixes decoys into replies and counts.
    pub fn use_decoys(&self, percent: u32, key: [u64; 2], start: u64) {
        self.each(0, &mut |tracker| {
            tracker.decoys = Some(Decoys::new(percent, key, start, self.shards.len()));
        });
    }

    /// Adds up the shards for reports. Each shard is locked once.
    pub fn survey(&self, now_ms: u64) -> Survey {
        let mut survey = Survey {
            tally: Tally::new(self.unit_ms),
            totals: Totals::default(),
            limits: Limits::default(),
            peers: [0; 4],
            bytes: [0; 2],
        };
        self.each(now_ms, &mut |tracker| {
            survey.limits = tracker.limits;
            survey.tally.completed += tracker.tally.completed;
            add(&mut survey.tally.refused, tracker.tally.refused);
            add(&mut survey.tally.renewals, tracker.tally.renewals);
            add(&mut survey.peers, tracker.swarms.totals);
            let torrents = tracker.torrents.len();
            let bytes = [torrents * size_of::<Torrent>(), tracker.swarms.bytes()];
            add(&mut survey.bytes, bytes);
            survey.totals = Totals::new(survey.totals.torrents + torrents, survey.peers);
        });
        survey
    }

    /// The clients that announce again too early, of all shards.
    pub fn woodpeckers(&self, now_ms: u64) -> Option<Busiest> {
        let mut all: Option<Busiest> = None;
        self.each(
            now_ms,
            &mut |tracker| match (&mut all, tracker.tally.woodpeckers.as_deref()) {
                (Some(all), Some(own)) => all.merge(own),
                (None, Some(own)) => all = Some(own.clone()),
                (_, None) => {}
            },
        );
        all
    }

    /// When the next sweep of a shard is due, in milliseconds since the start; none while the only shard is empty.
    pub fn next_sweep(&self, now_ms: u64) -> Option<u64> {
        let is_one = self.shards.len() == 1;
        let mut next: Option<u64> = None;
        self.each(now_ms, &mut |tracker| {
            // An empty shard of several is swept too, as a clock is held unless all shards are.
            if !is_one || tracker.torrents.len() > 0 {
                let due = tracker.sweep_due();
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        });
        next
    }
}

/// The sweep over all shards, which take turns slice by slice.
#[derive(Debug, Default)]
pub struct Sweeper {
    next: usize,
    /// Sweeps of single shards that have ended, modulo the number of shards.
    ended: usize,
}

impl Sweeper {
    /// Sweeps a slice of about `budget` records of the next shard that is due. [`Progress::Finished`] means that as
    /// many sweeps have ended as there are shards.
    pub fn step(
        &mut self,
        table: &Table,
        now_ms: u64,
        budget: usize,
        tracked: Tracked,
    ) -> Progress {
        let count = table.shards.len();
        for shard in (self.next..count).chain(0..self.next) {
            let progress = table.lock(shard, now_ms).sweep(budget, tracked);
            if progress == Progress::NotDue {
                continue;
            }
            self.next = (shard + 1) % count;
            if progress == Progress::Finished {
                table.note_sweeps(now_ms);
                self.ended += 1;
            }
            if self.ended < count {
                return Progress::Underway;
            }
            self.ended = 0;
            return Progress::Finished;
        }
        Progress::NotDue
    }
}

impl Deref for Locked<'_> {
    type Target = Tracker;

    fn deref(&self) -> &Tracker {
        &self.tracker
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Tracker {
        &mut self.tracker
    }
}

/// Adds the change of this shard's size to the table's.
impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.table.shards.len() > 1 {
            let after = self.tracker.size();
            // Wrapping, so that the addition subtracts too.
            for (total, before, after) in [
                (&self.table.peers, self.before.peers, after.peers),
                (&self.table.torrents, self.before.torrents, after.torrents),
                (&self.table.bytes, self.before.bytes, after.bytes),
            ] {
                if after != before {
                    total.fetch_add(after.wrapping_sub(before), Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Announce, Event, Peer, Role, Sinks};
    use super::*;
    use crate::base::random::Random;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    const THREADS: usize = 4;

    /// Announces that a thread applies together.
    const BATCH: usize = MAX_BATCH;

    fn table(max_peers: usize, threads: usize) -> Table {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers,
            max_torrents: 1 << 20,
        };
        Table::new(limits, threads)
    }

    /// Info-hashes that are spread over all shards.
    fn torrent(number: usize) -> InfoHash {
        let mut info_hash = [0; 20];
        let number = u32::try_from(number).expect("is small");
        let spread = number.wrapping_mul(0x0100_002b);
        info_hash[..4].copy_from_slice(&spread.to_be_bytes());
        info_hash
    }

    struct Told {
        info_hash: InfoHash,
        port: u16,
        role: Role,
        event: Event,
    }

    /// Announces a batch as a thread does, and checks that no reply names the same peer twice.
    fn announce_all(table: &Table, batch: &[Told], random: &mut Random) {
        let order = table.order(batch.iter().map(|told| Some(&told.info_hash)));
        table.visit(&order, 0, &mut |tracker, index| {
            let told = &batch[index];
            let mut room = [0; 6 * 50];
            let mut sinks = Sinks::new(&mut room, &mut []);
            let announce = Announce {
                info_hash: told.info_hash,
                peer: Peer::new([192, 0, 2, 1].into(), told.port),
                role: told.role,
                event: told.event,
                want: 50,
                hint: None,
            };
            tracker.announce(&announce, random, &mut sinks);
            let mut peers: Vec<&[u8]> = sinks.v4.bytes().chunks(6).collect();
            let count = peers.len();
            peers.sort_unstable();
            peers.dedup();
            assert_eq!(peers.len(), count);
        });
    }

    type Model = BTreeMap<(InfoHash, u16), Role>;

    /// Sends random announces of peers with a thread's own ports. Returns the peers that must be stored in the end.
    fn run_thread(table: &Table, thread: usize, torrents: usize, batches: usize) -> Model {
        let mut random = Random::seeded(thread as u64);
        let mut model = Model::new();
        for _ in 0..batches {
            let batch: Vec<Told> = (0..BATCH)
                .map(|_| Told {
                    info_hash: torrent(random.below(torrents)),
                    port: u16::try_from(1 + thread + THREADS * random.below(40)).expect("fits"),
                    role: [Role::Leecher, Role::Seeder][random.below(2)],
                    event: [Event::None, Event::Started, Event::Stopped][random.below(3)],
                })
                .collect();
            for told in &batch {
                match told.event {
                    Event::Stopped => model.remove(&(told.info_hash, told.port)),
                    _ => model.insert((told.info_hash, told.port), told.role),
                };
            }
            announce_all(table, &batch, &mut random);
        }
        model
    }

    /// All that the table stores.
    fn stored(table: &Table) -> Model {
        let mut model = Model::new();
        let mut info_hash = [0; 20];
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = table.walk(from, 0, 1000, &mut |found| match found {
                Found::Torrent {
                    info_hash: next, ..
                } => {
                    assert!(info_hash < *next || info_hash == [0; 20]);
                    info_hash = *next;
                }
                Found::Peers { list, records } => {
                    let role = [Role::Leecher, Role::Seeder][usize::from(list % 2)];
                    for record in records.chunks(7) {
                        let port = u16::from_be_bytes([record[4], record[5]]);
                        assert_eq!(model.insert((info_hash, port), role), None);
                    }
                }
            });
        }
        model
    }

    /// Ran once under ThreadSanitizer, with the standard library instrumented too: no report.
    #[test]
    fn announces_from_four_threads_leave_what_each_of_them_announced() {
        const TORRENTS: usize = 200;
        let table = table(1 << 20, THREADS);
        assert_eq!(table.shards(), 16);
        // These torrents stay, so every walk must visit them once and in order.
        let mut random = Random::seeded(9);
        let staying: Vec<Told> = (0..TORRENTS)
            .map(|number| Told {
                info_hash: torrent(number),
                port: 60_000,
                role: Role::Seeder,
                event: Event::None,
            })
            .collect();
        for batch in staying.chunks(BATCH) {
            announce_all(&table, batch, &mut random);
        }
        let is_over = AtomicBool::new(false);
        let mut model = Model::new();
        thread::scope(|scope| {
            let walker = scope.spawn(|| {
                let mut walks = 0;
                while !is_over.load(Relaxed) || walks == 0 {
                    let mut seen = Vec::new();
                    let mut next = Some([0; 20]);
                    while let Some(from) = next {
                        next = table.scrape_from(&from, 0, 7, |hash, _, _| seen.push(*hash));
                    }
                    assert!(seen.is_sorted_by(|a, b| a < b));
                    assert_eq!(seen.len(), TORRENTS);
                    walks += 1;
                }
            });
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let table = &table;
                    scope.spawn(move || run_thread(table, thread, TORRENTS, 1500))
                })
                .collect();
            for thread in threads {
                model.extend(thread.join().expect("does not panic"));
            }
            is_over.store(true, Relaxed);
            walker.join().expect("does not panic");
        });
        let staying = staying.iter().map(|s| ((s.info_hash, s.port), s.role));
        model.extend(staying);
        assert!(stored(&table) == model);
        for number in 0..TORRENTS {
            let hash = torrent(number);
            let of_it = || model.iter().filter(|((of, _), _)| *of == hash);
            let seeders = of_it().filter(|(_, role)| **role == Role::Seeder).count();
            let counts = table.lock_for(&hash, 0).scrape(&hash).expect("is known");
            assert_eq!(counts.seeders as usize, seeders);
            assert_eq!(counts.leechers as usize, of_it().count() - seeders);
        }
        assert_eq!(table.peers.load(Relaxed), model.len());
        assert_eq!(table.torrents.load(Relaxed), TORRENTS);
    }

    #[test]
    fn the_peer_limit_holds_for_all_shards_within_a_batch_of_each_thread() {
        const MAX: usize = 5000;
        let table = table(MAX, THREADS);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let table = &table;
                scope.spawn(move || run_thread(table, thread, 2000, 500));
            }
        });
        let totals = table.survey(0).totals;
        let peers = totals.seeders + totals.leechers;
        assert_eq!(peers, table.peers.load(Relaxed));
        assert!(peers <= MAX + THREADS * BATCH, "{peers}");
        assert!(peers > MAX - MAX / 4, "{peers}");
        // A single thread keeps the limit exactly, and room that one shard frees serves another.
        let mut random = Random::seeded(1);
        let mut told = |number: usize, event| {
            let told = Told {
                info_hash: torrent(number),
                port: 7,
                role: Role::Seeder,
                event,
            };
            announce_all(&table, &[told], &mut random);
        };
        (3000..12_000).for_each(|number| told(number, Event::None));
        assert!(table.peers.load(Relaxed) >= MAX);
        (3000..12_000).for_each(|number| told(number, Event::Stopped));
        let left = table.peers.load(Relaxed);
        (12_000..30_000).for_each(|number| told(number, Event::None));
        let totals = table.survey(0).totals;
        assert_eq!(totals.seeders + totals.leechers, left.max(MAX));
    }

    #[test]
    fn shards_own_ranges_of_info_hashes_in_order() {
        for (threads, shards) in [
            (1, 1),
            (2, 8),
            (3, 16),
            (4, 16),
            (5, 32),
            (64, 256),
            (1000, 256),
        ] {
            let table = table(10, threads);
            assert_eq!(table.shards(), shards);
            let first: Vec<InfoHash> = std::iter::once(Some([0; 20]))
                .chain((0..shards).map(|shard| table.first_behind(shard)))
                .map_while(|first| first)
                .collect();
            assert_eq!(first.len(), shards);
            for (shard, first) in first.iter().enumerate() {
                assert_eq!(table.shard_of(first), shard);
                if let Some(before) = first[0].checked_sub(1) {
                    assert_eq!(table.shard_of(&[before; 20]), shard - 1);
                }
            }
            assert_eq!(table.shard_of(&[0xff; 20]), shards - 1);
        }
    }

    /// A unit is 41 ms with the shortest timeout.
    #[test]
    fn no_clock_is_held_while_sweeps_go_on() {
        let limits = Limits {
            peer_timeout: 2,
            max_peers: 1000,
            max_torrents: 1000,
        };
        let table = Table::new(limits, 2);
        table.note_sweeps(0);
        let mut sweeper = Sweeper::default();
        for now in (0..10_000).step_by(10) {
            assert!(!table.is_held(now), "{now}");
            while sweeper.step(&table, now, 1000, None) == Progress::Underway {}
        }
        assert!(table.is_held(20_000), "after a pause");
    }

    #[test]
    fn a_clock_that_moved_far_is_held_until_every_shard_is_swept() {
        for threads in [1, 2] {
            let table = table(1 << 20, threads);
            run_thread(&table, 0, 500, 200);
            table.note_sweeps(0);
            let unit_ms = table.unit_ms();
            table.move_clock(13 * unit_ms, 0);
            assert!(!table.is_held(0));
            table.move_clock(unit_ms, 0);
            assert!(table.is_held(0));
            let mut sweeper = Sweeper::default();
            while sweeper.step(&table, 0, 100, None) == Progress::Underway {}
            assert!(!table.is_held(0));
            table.each(0, &mut |tracker| {
                assert_eq!(tracker.clock().unit(), Clock::FIRST + 14);
            });
        }
    }

    #[test]
    fn a_sweep_passes_every_shard() {
        let table = table(1 << 20, 2);
        let mut random = Random::seeded(5);
        run_thread(&table, 0, 500, 200);
        let mut sweeper = Sweeper::default();
        let unit_ms = 2_700_000 / 48;
        let mut now = 0;
        while table.survey(now).totals.torrents > 0 {
            now += unit_ms;
            assert!(now < 60 * unit_ms);
            while sweeper.step(&table, now, random.below(200), None) == Progress::Underway {}
        }
        assert!(now > 48 * unit_ms);
        assert_eq!(table.peers.load(Relaxed), 0);
        assert_eq!(table.torrents.load(Relaxed), 0);
    }
}
