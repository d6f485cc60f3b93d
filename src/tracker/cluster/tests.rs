use super::super::ledger::{BUCKETS, ROW, ROWS};
use super::super::{Announce, Event, Limits, Role, Sink, Sinks};
use super::*;
use crate::random::Random;
use std::collections::BTreeMap;

const KEY: [u64; 2] = [1, 2];

/// A unit of the clock is one second.
fn tracker() -> Tracker {
    let mut tracker = Tracker::new(Limits {
        peer_timeout: 96,
        max_peers: usize::MAX,
        max_torrents: usize::MAX,
    });
    tracker.join_cluster(KEY, 4096);
    while !tracker.count_on(100) {}
    tracker
}

fn hash(n: usize) -> InfoHash {
    let mut hash = [0; 20];
    hash[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    hash
}

fn peer(n: usize) -> Peer {
    let address = match n % 3 {
        0 => std::net::IpAddr::from([n as u16, 1, 2, 3, 4, 5, 6, 7]),
        _ => std::net::IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes()),
    };
    Peer::new(address, 7000 + n as u16)
}

fn announce(tracker: &mut Tracker, torrent: usize, number: usize, role: Role, event: Event) {
    let mut sinks = Sinks {
        v4: Sink::new(&mut []),
        v6: Sink::new(&mut []),
    };
    let announce = Announce {
        info_hash: &hash(torrent),
        peer: peer(number),
        role,
        event,
        want: 0,
        hint: Hint::default(),
    };
    tracker.announce(&announce, &mut Random::seeded(1), &mut sinks);
}

fn changes(tracker: &mut Tracker) -> Vec<Change> {
    let mut changes = Vec::new();
    tracker.take_changes(&mut changes);
    changes
}

fn items(tracker: &Tracker, from: &Key, end: &Key, budget: usize) -> Vec<(Key, Presence)> {
    let mut items = Vec::new();
    let mut next = Some(*from);
    while let Some(key) = next {
        next = tracker.range(&key, end, budget, &mut |item| {
            items.push((Key::of(&item.info_hash, &item.peer), item.presence));
        });
        assert!(next.is_none_or(|next| next > key), "a walk goes forwards");
    }
    items
}

fn digests(tracker: &Tracker) -> Vec<u64> {
    let ledger = tracker.ledger().expect("in a cluster");
    assert!(ledger.counted_to.is_none());
    let mut all: Vec<u64> = (0..BUCKETS).map(|bucket| ledger.digest(bucket)).collect();
    let sum = |digests: &[u64]| digests.iter().fold(0_u64, |a, b| a.wrapping_add(*b));
    for row in 0..ROWS {
        assert_eq!(
            ledger.row_digest(row),
            sum(&all[row * ROW..(row + 1) * ROW])
        );
    }
    assert_eq!(ledger.whole_digest(), Some(sum(&all)));
    all.push(ledger.sixth());
    all
}

/// A life of announces, stops and expiry: what is kept as peers change is what counting anew gives.
#[test]
fn digests_are_those_of_the_table_at_any_time() {
    let mut tracker = tracker();
    let mut random = Random::seeded(81);
    let mut now = 0;
    for round in 0..400 {
        now += random.below(5000) as u64;
        if round % 97 == 96 {
            now += 400_000; // Nobody was there for a while.
        }
        tracker.pass_to(now);
        tracker.sweep(random.below(300), None);
        for _ in 0..random.below(200) {
            let role = [Role::Leecher, Role::Seeder][random.below(2)];
            let event = match random.below(8) {
                0 => Event::Stopped,
                1 => Event::Completed,
                _ => Event::None,
            };
            let scale = 1 << random.below(8);
            let torrent = random.below(scale);
            announce(&mut tracker, torrent, random.below(600), role, event);
        }
        if round % 20 == 19 {
            let kept = digests(&tracker);
            let ledger = tracker.ledger.as_mut().expect("in a cluster");
            ledger.set_shift(ledger.shift, tracker.clock.unit());
            while !tracker.count_on(1 + random.below(50)) {
                // Meanwhile the table changes.
                announce(&mut tracker, 1, 5, Role::Leecher, Event::None);
                announce(&mut tracker, 200, 6, Role::Leecher, Event::None);
            }
            announce(&mut tracker, 1, 5, Role::Leecher, Event::Stopped);
            let counted = digests(&tracker);
            let ledger = tracker.ledger.as_mut().expect("in a cluster");
            ledger.set_shift(ledger.shift, tracker.clock.unit());
            while !tracker.count_on(1000) {}
            assert_eq!(counted, digests(&tracker));
            // Only what was announced meanwhile is another.
            let differ = kept.iter().zip(&counted).filter(|(a, b)| a != b).count();
            assert!(differ <= 2, "{differ}");
        }
    }
}

#[test]
fn ranges_are_walked_in_order_with_any_budget_and_between_any_keys() {
    let mut tracker = tracker();
    let mut random = Random::seeded(82);
    for number in 0..9000 {
        let role = [Role::Leecher, Role::Seeder][random.below(2)];
        // One swarm is large; some torrents have nobody.
        let torrent = if number % 2 == 0 {
            3
        } else {
            random.below(500)
        };
        announce(&mut tracker, torrent, number, role, Event::None);
    }
    let all = items(&tracker, &Key::FIRST, &Key::END, usize::MAX);
    assert_eq!(all.len(), 9000);
    assert!(all.is_sorted());
    for budget in [1, 2, 7, 100, 5000] {
        assert_eq!(items(&tracker, &Key::FIRST, &Key::END, budget), all);
    }
    for _ in 0..300 {
        let mut ends = [random.below(all.len()), random.below(all.len())];
        ends.sort_unstable();
        let [from, end] = ends;
        let found = items(&tracker, &all[from].0, &all[end].0, 1 + random.below(300));
        assert_eq!(found, all[from..end]);
    }
}

/// Three trackers hear all that was told, each in another order and twice: they agree in who is there, in
/// which role, and in which sixth of the timeout it was seen. (Whether a peer that stopped and returned
/// had completed is for repair.)
#[test]
fn the_order_in_which_changes_arrive_does_not_matter() {
    let mut random = Random::seeded(83);
    for _ in 0..200 {
        let mut trackers = [tracker(), tracker(), tracker()];
        let mut told = Vec::new();
        for step in 0..40 {
            for tracker in &mut trackers {
                tracker.pass_to(step * 2000);
            }
            let number = random.below(trackers.len());
            let role = [Role::Leecher, Role::Seeder][random.below(2)];
            let event = [Event::None, Event::Stopped, Event::Completed][random.below(3)];
            let origin = &mut trackers[number];
            announce(origin, 1, random.below(3), role, event);
            told.extend(changes(origin));
        }
        // A renewal that was not told outdoes what others said before it: that is for repair to tell.
        for tracker in &trackers {
            tracker.range(&Key::FIRST, &Key::END, 1000, &mut |item| {
                told.extend(tracker.change_of(item));
            });
        }
        for tracker in &mut trackers {
            let mut mine = [told.clone(), told.clone()].concat();
            while !mine.is_empty() {
                let change = mine.swap_remove(random.below(mine.len()));
                tracker.apply(&change, Hint::default());
            }
            assert_eq!(changes(tracker), [], "what others told is not told on");
        }
        let [a, b, c] = trackers.map(|t| {
            let items = items(&t, &Key::FIRST, &Key::END, 100);
            let seen = |(key, p): (Key, Presence)| (key, p.role, p.unit / 16);
            items.into_iter().map(seen).collect::<Vec<_>>()
        });
        assert_eq!(a, b);
        assert_eq!(a, c);
    }
}

/// A walk over torrents that nobody is left of costs as much as one over others.
#[test]
fn torrents_without_peers_cost_a_walk_too() {
    let mut tracker = tracker();
    for torrent in 0..1000 {
        announce(&mut tracker, torrent, 1, Role::Seeder, Event::Completed);
        announce(&mut tracker, torrent, 1, Role::Seeder, Event::Stopped);
    }
    assert_eq!(tracker.totals().torrents, 1000);
    let mut left = 1500;
    let mut visit = |_: &Item| panic!("nobody is there");
    let next = tracker.range_within(&Key::FIRST, &Key::END, &mut left, &mut visit);
    assert_eq!((next, left), (None, 499));
    let next = tracker.range_within(&Key::FIRST, &Key::END, &mut left, &mut visit);
    assert_eq!((next.is_some(), left), (true, 0));
}

#[test]
fn a_peer_is_told_when_it_is_new_changes_stops_or_reaches_another_sixth() {
    let mut tracker = tracker();
    let mut tell = |now: u64, role, event| {
        tracker.pass_to(now * 1000);
        announce(&mut tracker, 1, 1, role, event);
        let told = changes(&mut tracker);
        told.first().map(|c| (c.state, c.newly_completed))
    };
    let leecher = Some((State::Present(Role::Leecher), false));
    let seeder = |newly| Some((State::Present(Role::Seeder), newly));
    assert_eq!(tell(0, Role::Leecher, Event::Started), leecher);
    assert_eq!(tell(1, Role::Leecher, Event::None), None);
    assert_eq!(tell(15, Role::Leecher, Event::None), None);
    assert_eq!(tell(16, Role::Leecher, Event::None), leecher);
    assert_eq!(tell(17, Role::Seeder, Event::Completed), seeder(true));
    assert_eq!(tell(17, Role::Seeder, Event::Completed), None);
    assert_eq!(tell(18, Role::Leecher, Event::None), leecher);
    assert_eq!(tell(19, Role::Seeder, Event::Completed), seeder(false));
    let stopped = Some((State::Stopped, false));
    assert_eq!(tell(20, Role::Seeder, Event::Stopped), stopped);
    assert_eq!(tell(20, Role::Seeder, Event::Stopped), None);
    assert_eq!(tell(20, Role::Seeder, Event::None), seeder(false));
}

/// Anybody can send stops of peers that never were: they must not displace those of peers that were.
#[test]
fn a_clients_stop_of_an_unknown_peer_is_neither_told_nor_remembered() {
    let (mut here, mut there) = (tracker(), tracker());
    for number in 0..2000 {
        announce(&mut here, 1, number, Role::Leecher, Event::Started);
    }
    let born = changes(&mut here);
    for change in &born {
        there.apply(change, Hint::default());
    }
    for number in 0..2000 {
        announce(&mut there, 1, number, Role::Leecher, Event::Stopped);
    }
    assert_eq!(changes(&mut there).len(), 2000);
    for number in 2000..52_000 {
        announce(&mut there, 1, number, Role::Leecher, Event::Stopped);
    }
    assert_eq!(changes(&mut there), []);
    let applied = born
        .iter()
        .map(|change| there.apply(change, Hint::default()));
    let remembered = applied.filter(|a| matches!(a, Applied::Stopped(_))).count();
    // A few of the sets of four had to hold more.
    assert!(remembered > 1900, "{remembered}");
}

/// Its table is on its way, and others may know the peer.
#[test]
fn a_syncing_node_tells_a_bounded_number_of_stops_of_unknown_peers() {
    let (mut here, mut there) = (tracker(), tracker());
    announce(&mut there, 1, 1, Role::Leecher, Event::Started);
    let born = changes(&mut there);
    here.allow_unknown_stops(5, 3);
    for number in 1..10 {
        announce(&mut here, 1, number, Role::Leecher, Event::Stopped);
    }
    assert_eq!(changes(&mut here).len(), 3);
    let applied = here.apply(&born[0], Hint::default());
    assert!(matches!(applied, Applied::Stopped(_)), "{applied:?}");
    here.allow_unknown_stops(5, 0);
    announce(&mut here, 1, 11, Role::Leecher, Event::Stopped);
    assert_eq!(changes(&mut here), []);
}

/// It is in the table until the sweep passes it.
#[test]
fn a_clients_stop_of_an_expired_peer_is_neither_told_nor_remembered() {
    let mut tracker = tracker();
    announce(&mut tracker, 1, 1, Role::Leecher, Event::Started);
    let born = changes(&mut tracker);
    for second in 1..=97 {
        tracker.pass_to(second * 1000);
        if second < 90 {
            tracker.sweep(100, None);
        }
    }
    assert_eq!(tracker.totals().leechers, 1);
    announce(&mut tracker, 1, 1, Role::Leecher, Event::Stopped);
    assert_eq!(
        (changes(&mut tracker), tracker.totals().leechers),
        (vec![], 0)
    );
    let ledger = tracker.ledger().expect("in a cluster");
    let fingerprint = ledger.fingerprint(&born[0].info_hash, &born[0].peer);
    assert_eq!(ledger.stopped(fingerprint), None);
}

/// The same stop is remembered where another node tells of it.
#[test]
fn a_nodes_stop_of_an_unknown_peer_is_remembered() {
    let (mut here, mut there) = (tracker(), tracker());
    announce(&mut here, 1, 1, Role::Leecher, Event::Started);
    let born = changes(&mut here);
    announce(&mut here, 1, 1, Role::Leecher, Event::Stopped);
    for change in changes(&mut here) {
        assert_eq!(there.apply(&change, Hint::default()), Applied::Changed);
    }
    let applied = there.apply(&born[0], Hint::default());
    assert!(matches!(applied, Applied::Stopped(_)), "{applied:?}");
}

#[test]
fn the_dead_stay_dead_and_who_returns_is_let_in() {
    let (mut here, mut there) = (tracker(), tracker());
    announce(&mut here, 1, 1, Role::Leecher, Event::Started);
    let born = changes(&mut here);
    announce(&mut here, 1, 1, Role::Leecher, Event::Stopped);
    let died = changes(&mut here);
    assert_eq!(there.apply(&died[0], Hint::default()), Applied::Changed);
    let late = there.apply(&born[0], Hint::default());
    assert!(matches!(late, Applied::Stopped(_)), "{late:?}");
    assert_eq!(there.totals().leechers, 0);
    // In the same unit of time: it comes after the stop all the same.
    announce(&mut here, 1, 1, Role::Seeder, Event::Started);
    let back = changes(&mut here);
    assert_eq!(there.apply(&back[0], Hint::default()), Applied::Changed);
    assert_eq!(there.apply(&died[0], Hint::default()), Applied::Known);
    assert_eq!(there.totals().seeders, 1);
}

#[test]
fn downloads_are_counted_once_and_merge_by_maximum() {
    let (mut here, mut there) = (tracker(), tracker());
    for number in 0..5 {
        announce(&mut here, 1, number, Role::Seeder, Event::Completed);
    }
    announce(&mut there, 1, 9, Role::Seeder, Event::Completed);
    let (ours, theirs) = (changes(&mut here), changes(&mut there));
    for _ in 0..2 {
        for change in &ours {
            there.apply(change, Hint::default());
        }
        for change in &theirs {
            here.apply(change, Hint::default());
        }
    }
    let count = |tracker: &Tracker| tracker.scrape(&hash(1)).map(|c| c.downloaded);
    assert_eq!(count(&here), Some(6));
    assert_eq!(count(&there), Some(6));
    let told = |number, downloaded, idle| Downloads {
        info_hash: hash(number),
        downloaded,
        idle,
    };
    there.raise_downloaded(&told(1, 8, 0));
    there.raise_downloaded(&told(1, 7, 0));
    assert_eq!(count(&there), Some(8));
    // Nobody is there, for a while already and for nearly too long.
    there.raise_downloaded(&told(2, 7, 5000));
    there.raise_downloaded(&told(3, 7, 24 * 3600 - 1));
    let mut walked = Vec::new();
    let (mut from, end) = (Some([0; 20]), [0xff; 20]);
    while let Some(hash) = from {
        from = there.tallies(&hash, &end, 1, &mut |downloads| {
            walked.push(*downloads);
            true
        });
    }
    walked.sort_by_key(|downloads| downloads.downloaded);
    assert_eq!(walked, [told(2, 7, 5000), told(1, 8, 0)]);
    let mut stopped = None;
    let next = there.tallies(&[0; 20], &end, 100, &mut |downloads| {
        stopped = Some(downloads.info_hash);
        false
    });
    assert!(stopped < next);
    assert_eq!(there.tallies(&[0; 20], &[0; 20], 9, &mut |_| true), None);
}

#[test]
fn what_is_too_old_or_too_far_ahead_is_not_taken() {
    let mut tracker = tracker();
    tracker.pass_to(500_000);
    let mut taken = BTreeMap::new();
    for stamp in 0..128 {
        let change = Change {
            info_hash: hash(1),
            peer: peer(usize::from(stamp)),
            state: State::Present(Role::Leecher),
            completed: false,
            newly_completed: false,
            stamp,
        };
        let applied = tracker.apply(&change, Hint::default());
        *taken.entry(applied == Applied::Changed).or_insert(0) += 1;
    }
    // Ages 0 to 96, and 4 units to come.
    assert_eq!(taken, BTreeMap::from([(true, 101), (false, 27)]));
    assert_eq!(tracker.totals().leechers, 101);
}

#[test]
fn cluster_time_can_be_corrected_while_the_clock_is_held() {
    let mut tracker = tracker();
    announce(&mut tracker, 1, 1, Role::Leecher, Event::None);
    tracker.set_cluster_time(1_700_000_000_000, false);
    for ahead in [400_000, 400_900, 700_000] {
        tracker.set_cluster_time(1_700_000_000_000 + ahead, true);
        assert!(tracker.is_held());
    }
    while tracker.is_held() {
        tracker.sweep(100, None);
    }
    assert_eq!(tracker.cluster_unit(), Some(1_700_000_700));
    announce(&mut tracker, 1, 1, Role::Leecher, Event::None);
    assert_eq!(items(&tracker, &Key::FIRST, &Key::END, 9).len(), 1);
}

#[test]
fn torrents_that_a_sweep_drops_leave_the_digests() {
    let mut tracker = tracker();
    for number in 0..300 {
        announce(
            &mut tracker,
            number % 20,
            number,
            Role::Leecher,
            Event::None,
        );
    }
    tracker.pass_to(20_000);
    let kept = |hash: &InfoHash| hash[0] < 0x80;
    while tracker.sweep(10, Some(&kept)) != super::super::Progress::Finished {}
    while !tracker.count_on(7) {}
    let left = items(&tracker, &Key::FIRST, &Key::END, 9);
    assert!(left.len() > 50 && left.len() < 250, "{}", left.len());
    let swept = digests(&tracker);
    for (bucket, digest) in swept.iter().take(BUCKETS).enumerate() {
        assert!(*digest == 0 || bucket < BUCKETS / 2);
    }
}

#[test]
fn cluster_time_moves_stamps_and_not_ages_unless_time_has_passed() {
    let mut tracker = tracker();
    tracker.pass_to(10_000);
    tracker.set_cluster_time(1_700_000_000_300, false);
    announce(&mut tracker, 1, 1, Role::Leecher, Event::Started);
    assert_eq!(changes(&mut tracker)[0].stamp, (1_700_000_000 % 128) as u8);
    tracker.pass_to(20_000);
    // An hour back, then a little forth, then back: ages stay.
    for time in [1_699_996_410_300_u64, 1_699_996_411_000, 1_699_996_410_500] {
        tracker.set_cluster_time(time, false);
        let [(_, presence)] = items(&tracker, &Key::FIRST, &Key::END, 9)[..] else {
            panic!("one peer");
        };
        let age = tracker.clock.unit() - presence.unit;
        assert!((10..=11).contains(&age), "{age}");
    }
    announce(&mut tracker, 1, 2, Role::Leecher, Event::Started);
    let stamp = changes(&mut tracker)[0].stamp;
    assert_eq!(stamp, (1_699_996_411 % 128) as u8);
    // The machine slept for an hour.
    tracker.set_cluster_time(1_700_000_010_500, true);
    assert!(items(&tracker, &Key::FIRST, &Key::END, 9).is_empty());
}

/// What is stamped as of now outdoes what was known, whatever that was and however soon it follows.
#[test]
fn what_is_said_now_is_the_last_word() {
    let mut tracker = tracker();
    let mut random = Random::seeded(87);
    let mut now = 0;
    for round in 0..3000 {
        // A contradiction takes a later unit, up to the few that stamps may be ahead.
        now += 1000;
        tracker.pass_to(now);
        let number = random.below(20);
        let said = [
            State::Present(Role::Leecher),
            State::Present(Role::Seeder),
            State::Stopped,
        ][random.below(3)];
        if random.below(4) == 0 {
            announce(&mut tracker, number, number, Role::Seeder, Event::None);
            now += 1000;
            tracker.pass_to(now);
        }
        let mut change = Change {
            info_hash: hash(number),
            peer: peer(number),
            state: said,
            completed: false,
            newly_completed: false,
            stamp: 0,
        };
        change.stamp = tracker.stamp_now(&change);
        tracker.apply(&change, Hint::default());
        let mut found = State::Stopped;
        tracker.range(
            &Key::start_of(&change.info_hash),
            &Key::END,
            1,
            &mut |item| {
                if (item.info_hash, item.peer) == (change.info_hash, change.peer) {
                    found = State::Present(item.presence.role);
                }
            },
        );
        assert_eq!(found, said, "{round}");
        assert!(tracker.is_recent(&change));
    }
    let mut back = Change {
        info_hash: hash(1000),
        peer: peer(1000),
        state: State::Present(Role::Leecher),
        completed: false,
        newly_completed: false,
        stamp: 0,
    };
    // In one unit: there, gone, back.
    for (state, applied) in [
        (State::Present(Role::Leecher), Applied::Changed),
        (State::Stopped, Applied::Changed),
        (State::Present(Role::Leecher), Applied::Changed),
        (State::Present(Role::Leecher), Applied::Known),
    ] {
        back.state = state;
        back.stamp = tracker.stamp_now(&back);
        assert_eq!(tracker.apply(&back, Hint::default()), applied);
    }
    tracker.pass_to(now + 10_000);
    assert!(!tracker.is_recent(&back));
}

/// Who goes on announcing is told often enough not to be forgotten by those who count from when they are
/// told, for the same timeout.
#[test]
fn who_goes_on_announcing_is_told_within_the_timeout() {
    for every in [1, 7, 10, 15, 16, 17, 30, 60, 64] {
        let mut tracker = tracker();
        let mut told = 0;
        for now in (0..2000).step_by(every) {
            tracker.pass_to(now * 1000);
            announce(&mut tracker, 1, 1, Role::Leecher, Event::None);
            if !changes(&mut tracker).is_empty() {
                assert!(now - told <= 96, "every {every}: {}", now - told);
                told = now;
            }
        }
        assert!(told > 1900, "every {every}: {told}");
    }
}
