//! Saved and loaded tables against a plain model, and damaged files, with a fixed seed.

use super::*;
use crate::base::random::Random;
use crate::helper::Helper;
use crate::tracker::{
    COMPLETED, Event, InfoHash, LOCAL, Limits, Locked, Peer, Progress, Role, Table,
};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A unit of the clock is one second.
const LIMITS: Limits = Limits {
    peer_timeout: 48,
    max_peers: usize::MAX,
    max_torrents: usize::MAX,
};

/// Milliseconds since 1970 at which the clocks of these tests began.
const BEGAN: u64 = 1_700_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    role: Role,
    completed: bool,
    /// The second of the last announce.
    at: u64,
}

/// Torrents with their counts, and their peers by address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    torrents: BTreeMap<InfoHash, u32>,
    peers: BTreeMap<(InfoHash, Vec<u8>), Known>,
}

struct Subject {
    table: Table,
    random: Random,
    now: u64,
    model: Model,
}

fn hash(n: usize) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&(n as u32).wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash[16..].copy_from_slice(&(n as u32).to_be_bytes());
    hash
}

fn endpoint(n: usize) -> Vec<u8> {
    let number = (n as u32).wrapping_mul(0x85eb_ca6b).to_be_bytes();
    let mut endpoint = match n % 3 {
        0 => {
            let mut address = vec![0x20; 12];
            address.extend_from_slice(&number);
            address
        }
        _ => number.to_vec(),
    };
    endpoint.extend_from_slice(&((n % 7) as u16).to_be_bytes());
    endpoint
}

impl Subject {
    fn new(seed: u64) -> Subject {
        Subject {
            table: Table::new(LIMITS, 1),
            random: Random::seeded(seed),
            now: 0,
            model: Model::default(),
        }
    }

    fn tracker(&self) -> Locked<'_> {
        self.table.lock(0, self.now * 1000)
    }

    fn advance(&mut self, seconds: u64) {
        self.now += seconds;
        sweep(&mut self.tracker());
        let now = self.now;
        self.model.peers.retain(|_, known| now - known.at <= 48);
    }

    fn announce(&mut self, torrent: usize, peer: usize, role: Role, event: Event) {
        let endpoint = endpoint(peer);
        let key = (hash(torrent), endpoint.clone());
        let asker = Peer::from_endpoint(&endpoint).expect("an endpoint");
        self.tracker().tell(&hash(torrent), asker, role, event);
        let downloaded = self.model.torrents.entry(key.0).or_default();
        let before = self.model.peers.get(&key).is_some_and(|k| k.completed);
        let completed = before || event == Event::Completed;
        *downloaded += u32::from(completed && !before);
        let at = self.now;
        let known = Known {
            role,
            completed,
            at,
        };
        match event {
            Event::Stopped => self.model.peers.remove(&key),
            _ => self.model.peers.insert(key, known),
        };
    }

    /// Some thousand torrents, most with a peer or two, the first with tens of thousands.
    fn populate(&mut self, announces: usize) {
        for step in 0..announces {
            let torrent = match self.random.below(3) {
                0 => 0,
                1 => self.random.below(20),
                _ => self.random.below(3000),
            };
            let peer = self.random.below(40_000);
            let seeds = self.random.below(2) == 1;
            let (role, event) = match (self.random.below(10), seeds) {
                (0, _) => (Role::Leecher, Event::Stopped),
                (1, true) => (Role::Seeder, Event::Completed),
                (_, true) => (Role::Seeder, Event::None),
                (_, false) => (Role::Leecher, Event::Started),
            };
            self.announce(torrent, peer, role, event);
            if step % (announces / 30) == 0 {
                self.advance(1);
            }
        }
    }

    fn save(&self, budget: usize) -> Vec<u8> {
        save(&self.table, BEGAN + self.now * 1000, budget)
    }
}

fn save(table: &Table, wall_ms: u64, budget: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StateWriter::new(&table.lock(0, 0), wall_ms, None, &mut bytes);
    loop {
        let before = bytes.len();
        let more = writer.step(table, 0, budget, &mut bytes);
        assert!(bytes.len() - before <= 29 * budget + 4096);
        if !more {
            break;
        }
    }
    assert_eq!(writer.written().bytes, bytes.len() as u64);
    bytes
}

fn read(bytes: &[u8], take: &mut dyn FnMut(StateItem)) -> Result<(), Damage> {
    read_items(&mut &bytes[..], take).expect("memory has no errors")
}

/// Returns one byte at a time, and an error in place of this one.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        let (first, rest) = self.0.split_at(self.0.len().min(1));
        self.0 = rest;
        room[..first.len()].copy_from_slice(first);
        Ok(first.len())
    }
}

fn restore(bytes: &[u8], limits: Limits, wall_ms: u64) -> (Table, Summary) {
    restore_into(Table::new(limits, 1), bytes, wall_ms)
}

fn restore_into(table: Table, bytes: &[u8], wall_ms: u64) -> (Table, Summary) {
    let mut restorer = Restorer::new(&table, None, wall_ms);
    read(bytes, &mut |item| restorer.take(item)).expect("is valid");
    let summary = restorer.finish();
    (table, summary)
}

fn sweep(tracker: &mut Locked) {
    while tracker.sweep(1 << 20, None) == Progress::Underway {}
}

/// The model of a state, with the times of announces in seconds since [`BEGAN`]. A peer in both lists counts as in the
/// second.
fn model_of(bytes: &[u8]) -> Model {
    let mut model = Model::default();
    let (mut began, mut now, mut torrent) = (0, 0, [0; 20]);
    read(bytes, &mut |item| match item {
        StateItem::Header(header) => {
            assert_eq!(header.unit_ms, 1000);
            began = (header.saved_at - BEGAN) / 1000;
            now = began;
        }
        StateItem::Time(units) => now = began + units,
        StateItem::Torrent(saved) => {
            torrent = saved.info_hash;
            assert_eq!(model.torrents.insert(torrent, saved.downloaded), None);
        }
        StateItem::Peer(peer) => {
            let known = Known {
                role: [Role::Leecher, Role::Seeder][usize::from(peer.list % 2)],
                completed: peer.completed,
                at: now - u64::from(peer.age),
            };
            model.peers.insert((torrent, peer.endpoint.to_vec()), known);
        }
    })
    .expect("is valid");
    model
}

/// The model's torrents that the tracker remembers: those with peers or a count.
fn remembered(mut model: Model) -> Model {
    let Model { torrents, peers } = &mut model;
    torrents.retain(|hash, downloaded| {
        let mut of_torrent = peers.range((*hash, Vec::new())..);
        *downloaded > 0 || of_torrent.next().is_some_and(|((h, _), _)| h == hash)
    });
    model
}

#[test]
fn a_saved_state_is_the_table_whatever_the_budget() {
    let mut subject = Subject::new(1);
    subject.populate(150_000);
    let whole = subject.save(1 << 30);
    assert!(subject.model.peers.len() > 40_000);
    for budget in [1, 100, 2048] {
        assert!(subject.save(budget) == whole);
    }
    // Torrents without peers and count are only in the model.
    assert!(model_of(&whole) == remembered(subject.model.clone()));
    let mut writer = StateWriter::new(&subject.tracker(), 0, None, &mut Vec::new());
    while writer.step(&subject.table, 0, 1000, &mut Vec::new()) {}
    let Written {
        torrents, peers, ..
    } = writer.written();
    assert_eq!(torrents, subject.tracker().totals().torrents as u64);
    assert_eq!(peers, subject.model.peers.len() as u64);
}

#[test]
fn a_loaded_table_is_the_saved_one() {
    let mut subject = Subject::new(2);
    subject.populate(60_000);
    let saved = subject.save(500);
    let (table, summary) = restore(&saved, LIMITS, BEGAN + subject.now * 1000);
    assert_eq!(summary.expired + summary.peers_left_out, 0);
    assert_eq!(summary.peers, subject.model.peers.len() as u64);
    let totals = table.survey(0).totals;
    assert_eq!(summary.torrents, totals.torrents as u64);
    assert_eq!(totals, subject.tracker().totals());
    let again = save(&table, BEGAN + subject.now * 1000, 77);
    // Byte by byte they differ where a list's pieces end.
    assert!(model_of(&again) == model_of(&saved));
}

/// As after a change of `-j`.
#[test]
fn a_table_of_any_number_of_shards_is_saved_and_loaded_the_same() {
    let mut subject = Subject::new(5);
    subject.populate(60_000);
    let (now, mut saved) = (BEGAN + subject.now * 1000, subject.save(500));
    let model = model_of(&saved);
    for threads in [1, 3, 64, 1] {
        let (table, summary) = restore_into(Table::new(LIMITS, threads), &saved, now);
        assert_eq!(summary.peers, model.peers.len() as u64);
        assert_eq!(table.survey(0).totals, subject.tracker().totals());
        saved.clear();
        let mut writer = StateWriter::new(&table.lock(0, 0), now, None, &mut saved);
        while writer.step(&table, 0, 300, &mut saved) {}
        assert!(model_of(&saved) == model, "{threads} threads");
    }
}

#[test]
fn peers_that_do_not_change_during_a_save_are_saved() {
    let mut subject = Subject::new(3);
    subject.populate(60_000);
    let before = remembered(subject.model.clone());
    let mut bytes = Vec::new();
    let wall = BEGAN + subject.now * 1000;
    let mut writer = StateWriter::new(&subject.tracker(), wall, None, &mut bytes);
    let mut steps = 0;
    while writer.step(&subject.table, 0, 700, &mut bytes) {
        steps += 1;
        for _ in 0..300 {
            let (torrent, peer) = (subject.random.below(3), subject.random.below(40_000));
            let (role, event) = match subject.random.below(4) {
                0 => (Role::Leecher, Event::Stopped),
                1 => (Role::Leecher, Event::None),
                _ => (Role::Seeder, Event::Completed),
            };
            subject.announce(torrent, peer, role, event);
        }
        if steps % 10 == 0 {
            subject.advance(1);
        }
    }
    let saved = model_of(&bytes);
    let after = remembered(subject.model.clone());
    let mut unchanged = 0;
    for (key, known) in &before.peers {
        if after.peers.get(key) == Some(known) {
            unchanged += 1;
            assert_eq!(saved.peers.get(key), Some(known));
        }
    }
    assert!(unchanged > 10_000, "{unchanged}");
    let (table, summary) = restore(&bytes, LIMITS, BEGAN + subject.now * 1000);
    assert_eq!(summary.torrents, table.survey(0).totals.torrents as u64);
}

#[test]
fn peers_grow_older_while_the_tracker_is_down() {
    let mut subject = Subject::new(4);
    subject.announce(1, 1, Role::Leecher, Event::Started);
    subject.advance(25);
    subject.announce(1, 2, Role::Seeder, Event::Completed);
    subject.announce(2, 3, Role::Leecher, Event::Started);
    let saved = subject.save(10);
    let counts = |down: u64, later: u64| {
        let (table, _) = restore(&saved, LIMITS, BEGAN + 25_000 + down);
        let mut tracker = table.lock(0, later);
        sweep(&mut tracker);
        let counts = tracker.scrape(&hash(1)).unwrap_or_default();
        (counts.leechers, counts.seeders, counts.downloaded)
    };
    assert_eq!(counts(0, 0), (1, 1, 1));
    assert_eq!(counts(23_999, 0), (1, 1, 1));
    assert_eq!(counts(24_000, 0), (0, 1, 1));
    assert_eq!(counts(48_999, 0), (0, 1, 1));
    // The count stays, and time that the tracker was down does not count against it.
    assert_eq!(counts(49_000, 0), (0, 0, 1));
    assert_eq!(counts(1_000_000_000, 0), (0, 0, 1));
    // So does the age within a unit: restarts every few milliseconds do not stop time.
    assert_eq!(counts(500, 23_499).0, 1);
    assert_eq!(counts(500, 33_000).0, 0);
    let (table, summary) = restore(&saved, LIMITS, BEGAN + 200_000);
    assert_eq!((summary.torrents, summary.expired), (1, 3));
    assert_eq!(table.survey(0).totals.torrents, 1);
}

#[test]
fn ages_stay_exact_over_many_quick_restarts() {
    let mut subject = Subject::new(5);
    subject.announce(1, 1, Role::Leecher, Event::Started);
    let mut saved = subject.save(10);
    let mut wall = BEGAN;
    for _ in 0..95 {
        wall += 400;
        let (table, _) = restore(&saved, LIMITS, wall);
        wall += 85;
        table.lock(0, 85);
        saved = save(&table, wall, 10);
    }
    let (_, summary) = restore(&saved, LIMITS, BEGAN + 48_999);
    assert_eq!((summary.peers, summary.expired), (1, 0));
    let (_, summary) = restore(&saved, LIMITS, BEGAN + 49_000);
    assert_eq!((summary.peers, summary.expired), (0, 1));
}

#[test]
fn ages_outlive_a_change_of_the_timeout_and_a_clock_set_back() {
    let mut subject = Subject::new(6);
    subject.announce(1, 1, Role::Leecher, Event::Started);
    subject.advance(25);
    let saved = subject.save(10);
    let peers = |peer_timeout, wall| {
        let limits = Limits {
            peer_timeout,
            ..LIMITS
        };
        restore(&saved, limits, BEGAN + wall).1.peers
    };
    assert_eq!(peers(48 * 10, 25_000 + 450_000), 1);
    assert_eq!(peers(48 * 10, 25_000 + 470_000), 0);
    assert_eq!(peers(24, 25_000), 0);
    let (table, summary) = restore(&saved, LIMITS, BEGAN - 1_000_000);
    assert_eq!((summary.age_ms, summary.peers), (None, 1));
    assert_eq!(table.survey(0).totals.leechers, 1);
}

/// A file of version 1 with this unit in milliseconds: a torrent whose peers have these tags.
fn file_of(unit_ms: u32, tags: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for field in [1, 0, unit_ms] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes.extend_from_slice(&BEGAN.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.push(TORRENT);
    bytes.extend_from_slice(&[7; 20]);
    bytes.extend_from_slice(&[0, 0, 0, 3, 0]);
    bytes.extend_from_slice(&(tags.len() as u16).to_be_bytes());
    for (number, tag) in (1..).zip(tags) {
        bytes.extend_from_slice(&[192, 0, 2, number, 1, 1, *tag]);
    }
    bytes.push(END);
    bytes.extend_from_slice(&1_u64.to_be_bytes());
    bytes.extend_from_slice(&(tags.len() as u64).to_be_bytes());
    let mut sum = crate::base::siphash::Hasher::new(KEY);
    sum.update(&bytes);
    bytes.extend_from_slice(&sum.finish().to_be_bytes());
    bytes
}

#[test]
fn a_file_with_units_of_a_96th_of_the_timeout_is_loaded() {
    let ages = |wall_ms: u64| {
        let file = file_of(500, &[0, 47, 48, COMPLETED | 64, 95, COMPLETED | 96]);
        let (table, summary) = restore(&file, LIMITS, BEGAN + wall_ms);
        assert_eq!(summary.peers + summary.expired, 6);
        let tracker = table.lock(0, 0);
        let stored = tracker.stored().into_values();
        let ages = stored.map(|(_, tag)| (tracker.age(tag), tag & COMPLETED != 0));
        ages.collect::<Vec<_>>()
    };
    let expected = [
        (0, false),
        (23, false),
        (24, false),
        (32, true),
        (47, false),
        (48, true),
    ];
    assert_eq!(
        ages(0),
        expected.map(|(age, completed)| (Some(age), completed))
    );
    assert_eq!(ages(999).len(), 6);
    assert_eq!(ages(1000).len(), 5);
    assert_eq!(ages(1500).len(), 4);
    let too_old = read(&file_of(500, &[97]), &mut |_| ());
    assert!(matches!(too_old, Err(Damage::Malformed(_))));
}

#[test]
fn the_key_of_connection_ids_is_saved_if_there_is_one() {
    let key_of = |bytes: &[u8]| restore(bytes, LIMITS, BEGAN).1.connection_key;
    for key in [None, Some([0, 7]), Some([u64::MAX, 1 << 63])] {
        let table = Table::new(LIMITS, 1);
        let mut bytes = Vec::new();
        let mut writer = StateWriter::new(&table.lock(0, 0), BEGAN, key, &mut bytes);
        while writer.step(&table, 0, 1, &mut bytes) {}
        assert_eq!(key_of(&bytes), key);
    }
    // Files of older releases have none.
    assert_eq!(key_of(&file_of(1000, &[0])), None);
}

#[test]
fn the_lowest_endpoint_is_a_peer_as_any_other() {
    let table = Table::new(LIMITS, 1);
    for endpoint in [[0; 6], [0, 0, 0, 0, 0, 1]] {
        let peer = Peer::from_endpoint(&endpoint).expect("an endpoint");
        let mut tracker = table.lock(0, 0);
        tracker.tell(&hash(1), peer, Role::Leecher, Event::None);
    }
    let bytes = save(&table, BEGAN, 10);
    let (_, summary) = restore(&bytes, LIMITS, BEGAN);
    assert_eq!((summary.torrents, summary.peers), (1, 2));
}

#[test]
fn loaded_peers_are_not_local() {
    let mut subject = Subject::new(10);
    for peer in 0..300 {
        let role = [Role::Leecher, Role::Seeder][peer % 2];
        subject.announce(peer % 20 / 10 * peer, peer, role, Event::Completed);
    }
    let local = |table: &Table| {
        let stored = table.lock(0, 0).stored().into_values();
        stored.filter(|(_, tag)| tag & LOCAL != 0).count()
    };
    assert_eq!(local(&subject.table), 300);
    let (table, summary) = restore(&subject.save(50), LIMITS, BEGAN);
    assert_eq!((summary.peers, local(&table)), (300, 0));
}

#[test]
fn torrents_without_peers_keep_their_age() {
    let mut subject = Subject::new(7);
    subject.announce(1, 1, Role::Seeder, Event::Completed);
    subject.announce(1, 1, Role::Seeder, Event::Stopped);
    subject.now += 80_000;
    drop(subject.tracker());
    let saved = subject.save(10);
    let left = |seconds: u64| {
        let (table, _) = restore(&saved, LIMITS, BEGAN + subject.now * 1000 + 1_000_000);
        let mut tracker = table.lock(0, seconds * 1000);
        sweep(&mut tracker);
        tracker.totals().torrents
    };
    assert_eq!(left(0), 1);
    assert_eq!(left(6390), 1);
    assert_eq!(left(6410), 0);
}

#[test]
fn limits_hold_and_torrents_and_peers_beyond_them_are_counted() {
    let mut subject = Subject::new(8);
    for n in 0..30 {
        subject.announce(n / 3, n, Role::Leecher, Event::Started);
    }
    let saved = subject.save(10);
    let limits = |max_torrents, max_peers| Limits {
        max_torrents,
        max_peers,
        ..LIMITS
    };
    let (table, summary) = restore(&saved, limits(4, 100), BEGAN);
    assert_eq!(table.survey(0).totals.torrents, 4);
    assert_eq!((summary.torrents, summary.torrents_left_out), (4, 6));
    assert_eq!((summary.peers, summary.peers_left_out), (12, 18));
    let (table, summary) = restore(&saved, limits(100, 7), BEGAN);
    assert_eq!(table.survey(0).totals.leechers, 7);
    assert_eq!((summary.peers, summary.peers_left_out), (7, 23));
    assert_eq!(summary.torrents, table.survey(0).totals.torrents as u64);
}

/// A state of every kind of item, small enough to try everything on it.
fn small() -> Vec<u8> {
    let mut subject = Subject::new(9);
    subject.announce(1, 1, Role::Leecher, Event::Started);
    subject.announce(2, 1, Role::Seeder, Event::Completed);
    subject.announce(2, 1, Role::Seeder, Event::Stopped);
    for peer in 0..8 {
        let role = [Role::Leecher, Role::Seeder][peer / 4];
        subject.announce(3, peer, role, Event::None);
    }
    let mut bytes = Vec::new();
    let mut writer = StateWriter::new(&subject.tracker(), BEGAN, Some([1, 2]), &mut bytes);
    writer.step(&subject.table, 0, 1, &mut bytes);
    subject.advance(2);
    while writer.step(&subject.table, 0, 1, &mut bytes) {}
    bytes
}

#[test]
fn every_truncation_is_found() {
    let whole = small();
    for kind in [0, 1, 2, 3, TORRENT, EMPTY_TORRENT, TIME] {
        assert!(whole.contains(&kind), "there is an item of kind {kind}");
    }
    for length in 0..whole.len() {
        let truncated = Err(Damage::Truncated(length as u64));
        assert_eq!(read(&whole[..length], &mut |_| ()), truncated);
    }
    let longer = [&whole[..], &[0]].concat();
    let end = Damage::Malformed(whole.len() as u64);
    assert_eq!(read(&longer, &mut |_| ()), Err(end));
}

#[test]
fn a_source_may_return_single_bytes_and_its_errors_are_not_damage() {
    let whole = small();
    for length in 0..whole.len() + 1 {
        let failed = read_items(&mut Trickle(&whole, length), &mut |_| ());
        assert_eq!(
            failed.map_err(|error| error.kind()),
            Err(io::ErrorKind::Other)
        );
    }
    let mut source = Trickle(&whole, usize::MAX);
    let result = read_items(&mut source, &mut |_| ());
    assert_eq!(result.expect("no error"), Ok(()));
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = small();
    for at in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let damage = read(&flipped, &mut |_| ()).expect_err("is damaged");
        match at / 8 {
            0..8 => assert_eq!(damage, Damage::Foreign),
            8..12 => assert!(matches!(damage, Damage::Version(_))),
            _ => {}
        }
    }
}

#[test]
fn random_damage_does_not_panic() {
    const HEADER: usize = 48;
    let whole = small();
    let mut random = Random::seeded(10);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(6) {
            let at = HEADER + random.below(bytes.len().saturating_sub(HEADER).max(1));
            let at = at.min(bytes.len() - 1);
            match random.below(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, random.below(8) as u8),
                2 => bytes.truncate(at.max(HEADER + 1)),
                _ => bytes[at] = random.draw() as u8,
            }
        }
        let table = Table::new(LIMITS, 2);
        let mut restorer = Restorer::new(&table, None, random.draw() >> random.below(64));
        let _ = read(&bytes, &mut |item| restorer.take(item));
        restorer.finish();
    }
    assert_eq!(read(&[0; 100_000], &mut |_| ()), Err(Damage::Foreign));
    assert_eq!(read(b"<html>", &mut |_| ()), Err(Damage::Foreign));
}

/// More than the sockets and the queue hold. The worker reads some of it later, and then nothing.
#[test]
fn the_last_save_is_given_up_a_minute_after_its_last_progress() {
    let table = Table::new(LIMITS, 1);
    for n in 0..40_000 {
        table.lock(0, 0).raise_downloaded(&hash(n), 1, 0);
    }
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let mut helper = Helper::of(ours);
    let mut saves = Saves::new(Path::new("/state"), 0, None, None);
    saves.request();
    let mut run = |saves: &mut Saves, now| {
        assert_eq!(helper.turn(), None);
        saves.step(&table, &mut helper, (now, 0));
        while saves.can_go_on(&helper) {
            saves.step(&table, &mut helper, (now, 0));
        }
    };
    run(&mut saves, 1_000);
    // Before the end of the daemon it may take any time.
    run(&mut saves, 1_000_000);
    assert!(!saves.is_idle() && saves.next_at().is_none());
    saves.wind_up(1_000_000);
    assert_eq!(saves.next_at(), Some(1_060_000));
    run(&mut saves, 1_059_000);
    assert_eq!(saves.next_at(), Some(1_060_000));
    theirs.read_exact(&mut [0; 100_000]).expect("is sent");
    run(&mut saves, 1_059_999);
    assert_eq!(saves.next_at(), Some(1_119_999));
    run(&mut saves, 1_119_998);
    assert!(!saves.is_idle() && saves.is_saved());
    run(&mut saves, 1_119_999);
    assert!(saves.is_idle() && !saves.is_saved());
    assert_eq!(saves.next_at(), None);
}
