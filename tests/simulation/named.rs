//! One test for each way in which a simpler design fails.

use crate::world::{FAST, Saved, Sim, UNIT_MS};
use announced::stats::cluster::Health;
use announced::tracker::Event::{Completed, None as Renewal, Started, Stopped};
use announced::tracker::Role::{self, Leecher, Seeder};

const MINUTE: u64 = 60_000;
const SETTLE: u64 = 15_000;

fn assert_equal(sim: &Sim) {
    let first = sim.contents(0);
    for site in 0..sim.nodes() {
        let other = sim.contents(site);
        let counts = [&first, &other].map(|(torrents, peers)| (torrents.len(), peers.len()));
        assert_eq!(counts[0], counts[1], "node {site}");
        assert!(first == other, "node {site}");
        assert_eq!(sim.health(site), Some(Health::Ok), "node {site}");
    }
}

/// Asserts the role of a peer on all nodes.
fn assert_role(sim: &Sim, peer: u32, role: Option<Role>, case: u64) {
    for site in 0..sim.nodes() {
        let found = sim.find(site, peer % 1000, peer).map(|found| found.0);
        assert_eq!(found, role, "peer {peer} on node {site}, case {case}");
    }
}

/// Asserts the time of a peer's last announce on a node, within two units.
fn assert_age(sim: &Sim, site: usize, peer: u32, since: u64) {
    let (_, age) = sim.find(site, peer % 1000, peer).expect("is not expired");
    let units = (sim.now - since) / UNIT_MS;
    let is_right = units.abs_diff(age.into()) <= 2;
    assert!(is_right, "node {site}: {age} units, not {units}");
}

fn fill(sim: &mut Sim, site: usize, peers: std::ops::Range<u32>) {
    for peer in peers {
        sim.announce(site, peer % 1000, peer, Leecher, Started);
    }
}

#[test]
fn news_and_stops_reach_every_node_within_a_second() {
    let mut sim = Sim::started(5, 1);
    sim.announce(1, 7, 7, Leecher, Started);
    sim.run(1000);
    assert_role(&sim, 7, Some(Leecher), 0);
    sim.announce(3, 7, 7, Seeder, Completed);
    sim.run(1000);
    assert_role(&sim, 7, Some(Seeder), 0);
    (0..5).for_each(|site| assert_eq!(sim.downloaded(site, 7), 1));
    sim.announce(2, 7, 7, Seeder, Stopped);
    sim.run(1000);
    assert_role(&sim, 7, None, 0);
}

#[test]
fn stop_is_not_lost_with_a_dropped_queue() {
    let mut sim = Sim::started(3, 2);
    fill(&mut sim, 0, 0..1000);
    sim.run(1000);
    sim.path(0, 1).rate = 1;
    fill(&mut sim, 0, 1000..200_000);
    sim.run(2000);
    (0..1000).for_each(|peer| sim.announce(0, peer, peer, Leecher, Stopped));
    fill(&mut sim, 0, 200_000..300_000);
    sim.run(5000);
    assert!(sim.find(1, 3, 3).is_some(), "the queue was not full");
    sim.path(0, 1).rate = FAST;
    sim.run(SETTLE);
    assert_eq!(sim.find(1, 3, 3), None);
    assert_equal(&sim);
}

/// Node 2 learns a peer from node 1 while it is cut off from node 0. Then the peer stops there in the same unit.
#[test]
fn record_that_was_passed_on_is_not_newer_than_its_original() {
    for seed in 0..24 {
        let mut sim = Sim::started(3, seed);
        let phase = seed * UNIT_MS / 24;
        sim.run(phase);
        sim.announce(0, 1, 1, Seeder, Started);
        sim.announce(0, 2, 2, Seeder, Started);
        sim.run(1000);
        sim.crash(2, false);
        sim.path(0, 2).cut_until = u64::MAX;
        sim.start(2, &Saved::default());
        sim.run(SETTLE);
        assert!(sim.find(2, 1, 1).is_some(), "seed {seed}");
        sim.announce(0, 1, 1, Seeder, Stopped);
        sim.announce(0, 2, 2, Leecher, Renewal);
        sim.run(1000);
        sim.path(0, 2).cut_until = 0;
        sim.run(SETTLE);
        assert_role(&sim, 1, None, seed);
        assert_role(&sim, 2, Some(Leecher), seed);
    }
}

/// Nodes that lose their tables in turn learn a peer from each other. The peer must not live longer for that.
#[test]
fn record_that_is_passed_on_repeatedly_does_not_become_younger() {
    for seed in 0..4 {
        let mut sim = Sim::started(3, seed);
        sim.announce(0, 1, 1, Seeder, Started);
        let begin = sim.now;
        sim.run(1000);
        sim.crash(0, false);
        let mut restarts: u64 = 0;
        while sim.now - begin < 44 * UNIT_MS {
            let site = 1 + restarts as usize % 2;
            restarts += 1;
            sim.crash(site, false);
            sim.start(site, &Saved::default());
            sim.run(45_000);
            assert_age(&sim, site, 1, begin);
        }
        assert!(restarts > 40);
        sim.run(7 * UNIT_MS);
        assert_role(&sim, 1, None, seed);
    }
}

/// Counts and walks are sent while news of the same completions is under way, over two links.
#[test]
fn completion_is_counted_once_though_a_walk_overtakes_the_news() {
    const TORRENTS: u32 = 3000;
    for seed in 0..8 {
        let mut sim = Sim::started(4, seed);
        fill(&mut sim, 0, 0..TORRENTS);
        sim.run(2000);
        for torrent in 0..TORRENTS {
            if torrent == TORRENTS / 10 {
                sim.crash(3, false);
                sim.start(3, &Saved::default());
            }
            if torrent == TORRENTS / 2 {
                sim.disconnect(0, 1, true);
                sim.disconnect(0, 3, false);
            }
            let site = torrent as usize % 3;
            sim.announce(site, torrent % 1000, torrent, Seeder, Completed);
            sim.step();
        }
        sim.run(2 * SETTLE);
        for site in 0..4 {
            let downloaded: u32 = (0..1000).map(|torrent| sim.downloaded(site, torrent)).sum();
            // The joiner may miss those that were sent while it joined.
            let missed = if site == 3 { 30 } else { 0 };
            let expected = TORRENTS - missed..=TORRENTS;
            assert!(
                expected.contains(&downloaded),
                "seed {seed}, node {site}: {downloaded}"
            );
        }
    }
}

#[test]
fn client_that_renews_after_38_minutes_is_never_missing() {
    let mut sim = Sim::started(4, 4);
    for round in 0..5 * 38 * 6 {
        if round % (38 * 6) == 0 {
            sim.announce(1, 1, 1, Seeder, Renewal);
            sim.run(1000);
        }
        assert_role(&sim, 1, Some(Seeder), round);
        sim.run(10_000);
    }
}

#[test]
fn joiner_whose_queue_overflows_repeatedly_becomes_whole() {
    let mut sim = Sim::started(3, 5);
    sim.crash(2, false);
    fill(&mut sim, 0, 0..60_000);
    fill(&mut sim, 1, 60_000..70_000);
    sim.run(5000);
    (0..2).for_each(|site| sim.path(site, 2).rate = 20);
    sim.start(2, &Saved::default());
    let mut peer = 100_000;
    for _ in 0..6 {
        // More than a megabyte of news at once.
        fill(&mut sim, 0, peer..peer + 60_000);
        peer += 60_000;
        sim.run(40_000);
        let stopped = peer - 60_000..peer - 1000;
        stopped.for_each(|peer| sim.announce(0, peer % 1000, peer, Leecher, Stopped));
        sim.run(40_000);
    }
    let passed = (0..60_000).filter(|peer| sim.find(2, peer % 1000, *peer).is_some());
    assert!(passed.count() > 55_000, "the pass did not go on");
    (0..2).for_each(|site| sim.path(site, 2).rate = FAST);
    sim.run(SETTLE);
    assert_equal(&sim);
}

/// Its peers would age by up to a unit, and announces of the next minute would seem older than the stops before them.
#[test]
fn node_that_joins_slowly_does_not_take_the_phase_of_another_joiner() {
    for seed in 0..8 {
        let mut sim = Sim::started(3, seed);
        fill(&mut sim, 0, 0..60_000);
        sim.run(1000);
        sim.crash(1, false);
        (0..3).for_each(|site| sim.path(site, 1).rate = 10);
        sim.start(1, &Saved::default());
        sim.run(5000);
        let ahead = |sim: &Sim| sim.table_clock(1).abs_diff(sim.now);
        let before = ahead(&sim);
        sim.crash(2, false);
        sim.start(2, &Saved::default());
        sim.run(5000);
        assert_eq!(sim.health(1), Some(Health::Syncing), "seed {seed}");
        assert_eq!(ahead(&sim), before, "seed {seed}");
    }
}

#[test]
fn counts_of_torrents_without_local_peers_reach_a_joiner() {
    let mut sim = Sim::started(3, 6);
    sim.crash(2, false);
    for peer in 0..100 {
        sim.announce(0, peer, peer, Leecher, Started);
        sim.announce(0, peer, peer, Seeder, Completed);
        sim.run(10);
        if peer % 2 == 0 {
            sim.announce(0, peer, peer, Seeder, Stopped);
        }
    }
    sim.run(6 * MINUTE);
    sim.crash(0, false);
    sim.start(2, &Saved::default());
    sim.run(SETTLE);
    (0..100).for_each(|torrent| assert_eq!(sim.downloaded(2, torrent), 1, "torrent {torrent}"));
    assert!((0..100).all(|peer| sim.find(2, peer, peer).is_some() == (peer % 2 == 1)));
}

#[test]
fn three_nodes_that_start_at_once_share_the_table_that_each_saved() {
    for seed in 0..8 {
        let mut sim = Sim::new(3, seed);
        let saved: Vec<_> = (0..3)
            .map(|site| {
                let mut alone = Sim::started(1, seed);
                fill(&mut alone, 0, site * 1000..site * 1000 + 1500);
                alone.save(0)
            })
            .collect();
        for (site, saved) in saved.iter().enumerate() {
            sim.start(site, saved);
            sim.run(seed * 100);
        }
        sim.run(SETTLE);
        assert_equal(&sim);
        assert_eq!(sim.contents(1).1.len(), 3500, "seed {seed}");
    }
}

#[test]
fn nodes_without_tables_that_start_at_once_are_ok_within_15_seconds() {
    let mut sim = Sim::started(3, 8);
    fill(&mut sim, 1, 0..2000);
    sim.run(1000);
    assert_equal(&sim);
    assert_eq!(sim.contents(2).1.len(), 2000);
}

/// Suspends a process or a whole host, whose clock runs on or stands still.
fn suspend(minutes: u64) {
    for case in 0..4 {
        let mut sim = Sim::started(3, 10 + case);
        fill(&mut sim, 0, 0..1000);
        fill(&mut sim, 1, 1000..2000);
        sim.run(10_000);
        let begin = sim.now;
        sim.suspend(0, case % 2 == 0);
        sim.run((minutes - 2) * MINUTE);
        fill(&mut sim, 2, 2000..3000);
        // These announced to the suspended node before.
        (0..100).for_each(|peer| sim.announce(1, peer, peer, Leecher, Stopped));
        (100..200).for_each(|peer| sim.announce(2, peer, peer, Seeder, Completed));
        sim.run(2 * MINUTE);
        sim.resume(0, case / 2 == 0);
        sim.run(SETTLE);
        assert_equal(&sim);
        assert_eq!(sim.contents(0).1.len(), 2900, "case {case}");
        assert_role(&sim, 150, Some(Seeder), case);
        (0..3).for_each(|site| assert_age(&sim, site, 500, begin));
        // No peer lives longer for the suspension.
        let units = (sim.now - begin) / UNIT_MS;
        sim.run((48 - units + 2) * UNIT_MS);
        assert_role(&sim, 500, None, case);
        assert_role(&sim, 2500, Some(Leecher), case);
    }
}

#[test]
fn node_that_was_suspended_for_8_minutes_agrees_afterwards() {
    suspend(8);
}

#[test]
fn node_that_was_suspended_for_40_minutes_agrees_afterwards() {
    suspend(40);
}

/// So a planned restart loses no renewals.
#[test]
fn node_that_is_terminated_sends_the_renewals_since_its_last_walk() {
    let mut sim = Sim::started(3, 20);
    fill(&mut sim, 0, 0..2000);
    sim.run(34 * UNIT_MS);
    (0..2000).for_each(|peer| sim.announce(0, peer % 1000, peer, Leecher, Renewal));
    sim.run(100);
    sim.finish(0);
    sim.run(5000);
    assert!(sim.members[0].is_none());
    for peer in 0..2000 {
        let (_, age) = sim.find(1, peer % 1000, peer).expect("is known");
        assert!(age <= 2, "{age}");
    }
}
