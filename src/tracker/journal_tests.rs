//! A shard as a node of a cluster: what it notes for other nodes, and how it applies what they send.

use super::journal::JournalLimits;
use super::*;
use std::iter::once;

const LEECHER: PeerState = PeerState::Present(Role::Leecher);
const SEEDER: PeerState = PeerState::Present(Role::Seeder);
const STOPPED: PeerState = PeerState::Stopped;

const HASH: InfoHash = [7; 20];

const JOURNAL: JournalLimits = JournalLimits {
    stops: 4096,
    news: 1000,
    renewals_from: LATE,
};

/// A unit is one second.
const LIMITS: Limits = Limits {
    peer_timeout: 48,
    max_peers: usize::MAX,
    max_torrents: usize::MAX,
};

fn node_with(limits: Limits, journal: JournalLimits) -> Tracker {
    let mut tracker = Tracker::new(limits);
    tracker.join_cluster([1, 2], journal);
    tracker
}

fn node() -> Tracker {
    node_with(LIMITS, JOURNAL)
}

fn peer(n: u8) -> Peer {
    match n % 2 {
        0 => Peer::new([192, 0, 2, n].into(), 1000),
        _ => Peer::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()].into(), 1000),
    }
}

fn tell(node: &mut Tracker, n: u8, state: PeerState) {
    match state {
        PeerState::Present(role) => node.tell(&HASH, peer(n), role, Event::None),
        PeerState::Stopped => node.tell(&HASH, peer(n), Role::Leecher, Event::Stopped),
    }
}

/// A record of an announce that is so many units ahead of the clock.
fn record(node: &Tracker, n: u8, state: PeerState, ahead: i64) -> Record {
    Record {
        peer: peer(n),
        state,
        completed: false,
        unit: node.clock.unit().saturating_add_signed(ahead),
    }
}

fn unversioned(record: Record) -> News {
    News {
        info_hash: HASH,
        record,
        renews: None,
    }
}

fn apply(node: &mut Tracker, record: Record) -> u32 {
    node.apply(&HASH, Hint::default(), &mut once(record))
}

fn learn(node: &mut Tracker, n: u8, state: PeerState, ahead: i64) -> u32 {
    apply(node, record(node, n, state, ahead))
}

fn news(node: &mut Tracker) -> Vec<News> {
    let mut news = Vec::new();
    assert_eq!(node.take_news(&mut news), Lost::Nothing);
    news
}

/// State and unit of a peer that is stored, as units ahead of the clock, and whether it is local.
fn stored(node: &Tracker, n: u8) -> Option<(PeerState, i64, bool)> {
    let (role, tag) = *node.stored().get(&(HASH, peer(n).endpoint().to_vec()))?;
    let ahead = node.clock.unit_of(tag) as i64 - node.clock.unit() as i64;
    Some((PeerState::Present(role), ahead, tag & LOCAL != 0))
}

fn downloaded(node: &Tracker) -> Option<u32> {
    node.scrape(&HASH).map(|counts| counts.downloaded)
}

/// All permutations of the numbers below `n` (Heap's algorithm).
fn orders(n: usize) -> Vec<Vec<usize>> {
    fn permute(k: usize, order: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        if k <= 1 {
            return all.push(order.clone());
        }
        for i in 0..k {
            permute(k - 1, order, all);
            order.swap(if k % 2 == 0 { i } else { 0 }, k - 1);
        }
    }
    let mut all = Vec::new();
    permute(n, &mut (0..n).collect(), &mut all);
    all
}

#[test]
fn the_latest_and_then_the_strongest_record_wins_in_any_order_of_arrival() {
    let mut random = Random::seeded(12);
    let orders = orders(5);
    assert_eq!(orders.len(), 120);
    for round in 0..200 {
        let mut records: Vec<Record> = Vec::new();
        for _ in 0..5 {
            let state = [LEECHER, SEEDER, STOPPED][random.below(3)];
            let range = [5, 51][random.below(2)];
            let ahead = 2 - random.below(range) as i64;
            records.push(Record {
                completed: random.below(2) == 0,
                ..record(&node(), round, state, ahead)
            });
        }
        let last = records.iter().map(|r| (r.unit, r.state)).max();
        let (unit, state) = last.expect("there are some");
        let expected = (state != STOPPED).then_some((state, unit as i64 - 64, false));
        for order in &orders {
            let mut node = node();
            for &index in order {
                apply(&mut node, records[index]);
            }
            assert_eq!(stored(&node, round), expected, "{order:?} of {records:?}");
            assert!(news(&mut node).is_empty(), "learnt records make no news");
        }
    }
}

#[test]
fn a_record_from_too_far_ahead_is_moved_back_and_an_expired_one_is_refused() {
    for (ahead, expected) in [
        (9, Some(2)),
        (3, Some(2)),
        (2, Some(2)),
        (-48, Some(-48)),
        (-49, None),
    ] {
        let mut node = node();
        let is_news = learn(&mut node, 1, LEECHER, ahead);
        assert_eq!(
            stored(&node, 1).map(|(_, ahead, _)| ahead),
            expected,
            "{ahead}"
        );
        assert_eq!(is_news, u32::from(expected.is_some()));
    }
    let (mut node, mut far) = (node(), record(&node(), 1, STOPPED, 0));
    (far.unit, far.state) = (u64::MAX, SEEDER);
    assert_eq!(apply(&mut node, far), 1);
    far.unit = 0;
    assert_eq!(apply(&mut node, far), 0);
}

#[test]
fn a_group_of_records_is_applied_and_its_news_are_counted() {
    let mut node = node();
    for n in 0..10 {
        learn(&mut node, n, LEECHER, -3);
    }
    let states = [LEECHER, SEEDER, STOPPED];
    let records = (0..12).map(|n| record(&Tracker::new(LIMITS), n, states[usize::from(n % 3)], 0));
    // Of peers 0 to 9, three change their role and three stop. Peer 10 is new. The stop of peer 11 is no news.
    let count = node.apply(
        &HASH,
        Hint::default(),
        &mut records.collect::<Vec<_>>().into_iter(),
    );
    assert_eq!(count, 3 + 3 + 1);
    let present: Vec<u8> = (0..12).filter(|n| stored(&node, *n).is_some()).collect();
    assert_eq!(present, [0, 1, 3, 4, 6, 7, 9, 10]);
    // The last peer that stops takes the torrent with it, and the next one brings it back.
    let mut one = node_with(LIMITS, JOURNAL);
    learn(&mut one, 1, LEECHER, -3);
    let records = [record(&one, 1, STOPPED, 0), record(&one, 2, SEEDER, 0)];
    assert_eq!(
        one.apply(&HASH, Hint::default(), &mut records.into_iter()),
        2
    );
    assert_eq!((one.totals().torrents, one.totals().seeders), (1, 1));
}

#[test]
fn an_announce_that_contradicts_the_stored_state_takes_the_next_unit_at_most_2_ahead() {
    let cases = [
        // The stored state, its units ahead of the clock, the announced state, the units ahead of that, whether it is
        // noted.
        (SEEDER, 0, LEECHER, 1, true),
        (SEEDER, 1, LEECHER, 2, true),
        (SEEDER, 2, LEECHER, 2, true),
        (SEEDER, -3, LEECHER, 0, true),
        (LEECHER, 0, SEEDER, 0, true),
        (LEECHER, 2, SEEDER, 2, true),
        (STOPPED, 0, LEECHER, 1, true),
        (STOPPED, 0, SEEDER, 1, true),
        (STOPPED, 2, SEEDER, 2, true),
        (STOPPED, -3, LEECHER, 0, true),
        (LEECHER, 0, LEECHER, 0, false),
        (LEECHER, 2, LEECHER, 2, false),
        (SEEDER, -3, SEEDER, 0, false),
        (LEECHER, 0, STOPPED, 0, true),
        (SEEDER, 1, STOPPED, 1, true),
        (SEEDER, -3, STOPPED, 0, true),
    ];
    for (known, ahead, said, expected, is_noted) in cases {
        let (mut here, mut there) = (node(), node());
        for node in [&mut here, &mut there] {
            learn(node, 1, known, ahead);
        }
        tell(&mut here, 1, said);
        let news = news(&mut here);
        let expected = Record {
            unit: Clock::FIRST.saturating_add_signed(expected),
            ..record(&here, 1, said, 0)
        };
        let noted: Vec<Record> = news.iter().map(|news| news.record).collect();
        assert_eq!(
            noted,
            if is_noted { vec![expected] } else { vec![] },
            "{known:?} {ahead}"
        );
        let kept = stored(&here, 1);
        let ahead_now = expected.unit as i64 - Clock::FIRST as i64;
        let is_present = said != STOPPED;
        assert_eq!(kept, is_present.then_some((said, ahead_now, true)));
        // Stamps have room for two contradictions. At the third the stronger state stays.
        apply(&mut there, expected);
        let there = stored(&there, 1).map(|(state, ..)| state);
        if (ahead, said) < (2, LEECHER) {
            assert_eq!(
                there,
                is_present.then_some(said),
                "{known:?} {ahead} {said:?}"
            );
        }
    }
}

#[test]
fn a_stop_of_an_unknown_peer_from_a_node_keeps_older_records_out() {
    let mut node = node_with(
        Limits {
            peer_timeout: 48 * 60,
            ..LIMITS
        },
        JOURNAL,
    );
    assert_eq!(learn(&mut node, 1, STOPPED, 0), 0);
    let old = record(&node, 1, SEEDER, 0);
    assert_eq!(apply(&mut node, old), 0);
    node.pass_to(STOP_MS);
    assert_eq!(apply(&mut node, old), 0);
    assert_eq!(stored(&node, 1), None);
    assert_eq!(learn(&mut node, 1, LEECHER, -4), 1);
    assert_eq!(learn(&mut node, 1, STOPPED, 0), 1);
    // Five minutes and a unit later the stop is forgotten.
    learn(&mut node, 2, STOPPED, 0);
    let old = record(&node, 2, SEEDER, 0);
    node.pass_to(2 * STOP_MS);
    assert_eq!(apply(&mut node, old), 0);
    node.pass_to(2 * STOP_MS + 60_000);
    assert_eq!(apply(&mut node, old), 1);
}

#[test]
fn the_oldest_of_too_many_stops_are_forgotten() {
    let mut node = node_with(
        LIMITS,
        JournalLimits {
            stops: 4,
            ..JOURNAL
        },
    );
    for n in 0..4 {
        learn(&mut node, n, STOPPED, -i64::from(n));
    }
    learn(&mut node, 8, STOPPED, -9);
    let mut is_kept_out = |n| learn(&mut node, n, LEECHER, -10) == 0;
    assert!(
        (0..4).all(&mut is_kept_out),
        "an older stop does not displace them"
    );
    learn(&mut node, 9, STOPPED, 0);
    assert_eq!(learn(&mut node, 3, LEECHER, -10), 1);
    let mut is_kept_out = |n| learn(&mut node, n, LEECHER, -10) == 0;
    assert!([0, 1, 2, 9].into_iter().all(&mut is_kept_out));
}

#[test]
fn a_clients_stops_of_unknown_peers_are_noted_only_as_many_as_are_allowed() {
    let mut node = node();
    // Expired, and not swept yet.
    tell(&mut node, 9, SEEDER);
    node.pass_to(40_000);
    node.advance(49_000);
    assert_eq!(node.totals().seeders, 1);
    news(&mut node);
    for (allowed, expected) in [(0, vec![]), (2, vec![9, 1]), (0, vec![])] {
        node.allow_unknown_stops(allowed);
        for n in [9, 1, 2] {
            tell(&mut node, n, STOPPED);
        }
        let noted: Vec<Peer> = news(&mut node)
            .iter()
            .map(|news| news.record.peer)
            .collect();
        assert_eq!(noted, expected.into_iter().map(peer).collect::<Vec<_>>());
    }
    // A stop that is not noted is not remembered.
    assert_eq!([1, 2].map(|n| learn(&mut node, n, LEECHER, -1)), [0, 1]);
}

#[test]
fn a_renewal_is_noted_36_units_after_the_last_announce_or_as_configured() {
    for renewals_from in [LATE, 11] {
        for age in 0..=48 {
            let mut node = node_with(
                LIMITS,
                JournalLimits {
                    renewals_from,
                    ..JOURNAL
                },
            );
            learn(&mut node, 1, LEECHER, 0);
            tell(&mut node, 2, SEEDER);
            news(&mut node);
            node.pass_to(u64::from(age) * 1000);
            for n in [1, 2] {
                tell(&mut node, n, if n == 1 { LEECHER } else { SEEDER });
                let renews: Vec<_> = news(&mut node).iter().map(|news| news.renews).collect();
                let expected = if age >= renewals_from {
                    vec![Some(age)]
                } else {
                    vec![]
                };
                assert_eq!(renews, expected, "{age}");
                assert!(stored(&node, n).is_some_and(|(_, ahead, local)| ahead == 0 && local));
            }
        }
    }
}

#[test]
fn new_peers_role_changes_completions_and_stops_are_noted() {
    let mut node = node();
    let mut noted = |event, role, units| {
        node.pass_to(units * 1000);
        node.tell(&HASH, peer(1), role, event);
        let news = news(&mut node);
        let [news] = news[..] else {
            return None;
        };
        assert_eq!((news.info_hash, news.record.peer), (HASH, peer(1)));
        assert_eq!(
            (news.record.unit, news.renews),
            (Clock::FIRST + units, None)
        );
        assert_eq!(
            news.is_event(),
            news.record.completed || news.record.state == STOPPED
        );
        Some((news.record.state, news.record.completed))
    };
    let (leecher, seeder) = (Role::Leecher, Role::Seeder);
    assert_eq!(noted(Event::Started, leecher, 0), Some((LEECHER, false)));
    assert_eq!(noted(Event::None, leecher, 1), None);
    assert_eq!(noted(Event::Completed, seeder, 2), Some((SEEDER, true)));
    assert_eq!(noted(Event::Completed, seeder, 3), None);
    assert_eq!(noted(Event::None, leecher, 4), Some((LEECHER, false)));
    assert_eq!(noted(Event::None, seeder, 5), Some((SEEDER, false)));
    assert_eq!(noted(Event::Stopped, seeder, 6), Some((STOPPED, false)));
    assert_eq!(noted(Event::Stopped, seeder, 6), None);
    assert_eq!(noted(Event::None, seeder, 7), Some((SEEDER, false)));
    assert_eq!(noted(Event::Completed, seeder, 8), Some((SEEDER, true)));
}

#[test]
fn a_peer_that_has_expired_and_was_not_swept_away_counts_as_new() {
    let mut node = node();
    tell(&mut node, 1, LEECHER);
    learn(&mut node, 2, LEECHER, 0);
    news(&mut node);
    node.pass_to(40_000);
    node.advance(49_000);
    assert_eq!(node.totals().leechers, 2);
    tell(&mut node, 1, LEECHER);
    let news = news(&mut node);
    assert_eq!((news.len(), news[0].renews), (1, None));
    assert_eq!(learn(&mut node, 2, LEECHER, 0), 1);
    assert_eq!(learn(&mut node, 2, LEECHER, 0), 0);
}

#[test]
fn a_peer_that_is_not_stored_for_lack_of_room_makes_no_news() {
    let mut node = node_with(
        Limits {
            max_peers: 1,
            ..LIMITS
        },
        JOURNAL,
    );
    tell(&mut node, 1, LEECHER);
    tell(&mut node, 2, LEECHER);
    assert_eq!(news(&mut node).len(), 1);
    assert_eq!(learn(&mut node, 3, SEEDER, 0), 0);
    assert_eq!((node.totals().leechers, node.totals().seeders), (1, 0));
}

#[test]
fn an_announce_makes_a_peer_local_and_a_later_record_makes_it_learnt() {
    let mut node = node();
    let is_local = |node: &Tracker| stored(node, 1).map(|(.., is_local)| is_local);
    for said in [LEECHER, SEEDER, LEECHER] {
        tell(&mut node, 1, said);
        assert_eq!(is_local(&node), Some(true));
        let unit = stored(&node, 1).map_or(0, |(_, ahead, _)| ahead);
        assert_eq!(learn(&mut node, 1, said, unit), 0);
        assert_eq!(
            is_local(&node),
            Some(true),
            "a record of the same version changes nothing"
        );
        node.pass_to(node.now_ms - node.unit_ms * Clock::FIRST + 3 * node.unit_ms);
        learn(&mut node, 1, said, 2);
        assert_eq!(is_local(&node), Some(false));
    }
    tell(&mut node, 1, LEECHER);
    learn(&mut node, 1, SEEDER, 2);
    assert_eq!(is_local(&node), Some(false));
}

#[test]
fn a_completion_that_two_nodes_saw_is_counted_once_on_each() {
    let mut nodes = [node(), node(), node()];
    let mut completions = Vec::new();
    for node in &mut nodes[..2] {
        node.tell(&HASH, peer(1), Role::Seeder, Event::Completed);
        completions.extend(news(node));
    }
    assert!(completions.iter().all(|news| news.record.completed));
    for node in &mut nodes {
        for news in &completions {
            node.apply_completion(&news.info_hash, &news.record);
        }
        assert_eq!(downloaded(node), Some(1));
        assert_eq!(node.totals().seeders, 1);
    }
    // A completion counts too if a later state of the peer is stored, and a stop does not revoke it.
    let mut completion = record(&nodes[0], 2, SEEDER, 0);
    completion.completed = true;
    tell(&mut nodes[0], 2, LEECHER);
    learn(&mut nodes[0], 2, LEECHER, 1);
    for _ in 0..2 {
        nodes[0].apply_completion(&HASH, &completion);
        assert_eq!(downloaded(&nodes[0]), Some(2));
        assert_eq!(stored(&nodes[0], 2), Some((LEECHER, 1, true)));
    }
    let mut empty = node();
    learn(&mut empty, 2, STOPPED, 1);
    empty.apply_completion(&HASH, &completion);
    assert_eq!((downloaded(&empty), empty.totals().seeders), (Some(1), 0));
}

#[test]
fn counts_merge_by_maximum_and_empty_torrents_are_remembered_as_long_as_elsewhere() {
    let mut node = node();
    node.raise_downloaded(&HASH, 0, 5);
    node.raise_downloaded(&HASH, 7, KEEP_EMPTY);
    assert_eq!(downloaded(&node), None);
    for (told, expected) in [(7, 7), (5, 7), (9, 9)] {
        node.raise_downloaded(&HASH, told, 5000);
        assert_eq!(downloaded(&node), Some(expected));
    }
    let empty_for = |node: &Tracker| {
        let mut seconds = None;
        node.walk(Cursor::default(), 1, &mut |found| {
            if let Found::Torrent { empty_for, .. } = found {
                seconds = empty_for;
            }
        });
        seconds
    };
    assert_eq!(empty_for(&node), Some(5000));
    node.raise_downloaded(&HASH, 1, 6000);
    assert_eq!(empty_for(&node), Some(5000));
    node.raise_downloaded(&HASH, 1, 4000);
    assert_eq!(empty_for(&node), Some(4000));
}

#[test]
fn a_full_journal_reports_once_that_news_was_lost_and_keeps_events_longer() {
    let mut node = node_with(LIMITS, JournalLimits { news: 3, ..JOURNAL });
    let cases = [
        (LEECHER, 3, 3, Lost::Nothing),
        (SEEDER, 4, 3, Lost::Peers),
        (SEEDER, 4, 0, Lost::Nothing),
        (LEECHER, 8, 3, Lost::Peers),
        (STOPPED, 6, 6, Lost::Nothing),
        (LEECHER, 8, 3, Lost::Peers),
        (STOPPED, 8, 6, Lost::Events),
    ];
    for (said, announces, expected, lost) in cases {
        for n in 0..announces {
            tell(&mut node, n, said);
        }
        let mut taken = Vec::new();
        assert_eq!(node.take_news(&mut taken), lost);
        assert_eq!(taken.len(), expected, "{said:?}");
        assert_eq!(node.take_news(&mut taken), Lost::Nothing);
    }
}

#[test]
fn a_moved_clock_ages_peers_and_is_held_until_a_sweep_if_it_moved_far() {
    for (units, is_held) in [
        (1, false),
        (13, false),
        (14, true),
        (40, true),
        (41, true),
        (1000, true),
    ] {
        let mut node = node();
        tell(&mut node, 1, LEECHER);
        node.pass_to(8000);
        while node.sweep(100, None) == Progress::Underway {}
        tell(&mut node, 2, LEECHER);
        let (before, clock_ms) = (node.clock.unit(), node.clock_ms());
        node.move_clock(units * 1000);
        assert_eq!(node.clock.true_unit(), before + units);
        assert_eq!(node.clock_ms(), clock_ms + units * 1000);
        assert_eq!(node.is_held(), is_held, "{units}");
        if is_held {
            assert_eq!(learn(&mut node, 3, LEECHER, 0), 0);
            assert_eq!(stored(&node, 3), None);
        }
        while node.is_held() {
            node.sweep(100, None);
        }
        // The clock goes on from there.
        node.advance(8500);
        assert_eq!(node.clock.unit(), before + units);
        let ages = [1, 2].map(|n| stored(&node, n).map(|(_, ahead, _)| -ahead));
        let units = units as i64;
        let expected = [8, 0].map(|age| Some(age + units).filter(|age| *age <= 48));
        assert_eq!(ages, expected);
        assert_eq!(learn(&mut node, 3, LEECHER, 0), 1);
    }
}

#[test]
fn a_record_without_a_version_counts_as_of_now_and_is_not_local() {
    let cases = [
        // The stored state, its units ahead of the clock, the record's state, and the units ahead that are stored.
        (LEECHER, -3, LEECHER, 0),
        (SEEDER, 0, LEECHER, 1),
        (STOPPED, 0, SEEDER, 1),
        (LEECHER, 1, SEEDER, 1),
        (SEEDER, 2, STOPPED, 2),
    ];
    for (known, ahead, told, expected) in cases {
        let mut node = node();
        learn(&mut node, 1, known, ahead);
        let told = record(&node, 1, told, 0);
        node.apply_unversioned(&unversioned(told));
        let expected = (told.state != STOPPED).then_some((told.state, expected, false));
        assert_eq!(stored(&node, 1), expected, "{known:?} {ahead}");
        assert!(news(&mut node).is_empty());
    }
    let mut node = node();
    let mut completion = record(&node, 1, SEEDER, 0);
    completion.completed = true;
    for _ in 0..2 {
        node.apply_unversioned(&unversioned(completion));
        assert_eq!(downloaded(&node), Some(1));
    }
    // A stop that is received several times does not keep the peer from returning.
    for _ in 0..4 {
        let stop = record(&node, 2, STOPPED, 0);
        node.apply_unversioned(&unversioned(stop));
    }
    tell(&mut node, 2, LEECHER);
    assert_eq!(stored(&node, 2), Some((LEECHER, 1, true)));
}
