//! Three nodes, each on a host of its own, that all know each other, while clients announce to all of them: over
//! networks that lose, reorder and part, with nodes that die, have wrong clocks or wrong keys, and packets that are
//! sent again by somebody else. After each they agree again, with each other and with what the clients said.
//!
//! Networks need root; where there are none, a test says that it skipped. With `CI=true` that is a failure.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod load;
mod nodes;
mod table;

use common::net::{self, Faults, Host};
use common::{skip, uninterrupted, wait_for};
use nodes::{Links, Mesh};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Sends datagrams that carry their number to another host; the numbers that arrive.
fn numbers(from: &Host, to: &Host, is_v6: bool, count: u32) -> Vec<u32> {
    let address = |host: &Host| SocketAddr::new(if is_v6 { host.v6() } else { host.v4() }, 7);
    let receiver = to.within(|| UdpSocket::bind(address(to)).expect("a port"));
    let wait = Some(Duration::from_secs(3));
    receiver.set_read_timeout(wait).expect("a timeout");
    let sender = from.within(|| UdpSocket::bind(address(from)).expect("a port"));
    for number in 0..count {
        let sent = sender.send_to(&number.to_be_bytes(), address(to));
        assert_eq!(sent.expect("is sent"), 4);
    }
    let mut buffer = [0; 4];
    let mut come = Vec::new();
    while let Ok((_, source)) = uninterrupted(|| receiver.recv_from(&mut buffer)) {
        assert_eq!(source, address(from));
        come.push(u32::from_be_bytes(buffer));
    }
    come
}

#[test]
fn the_network_is_as_bad_as_wanted() {
    net::in_sandbox("the_network_is_as_bad_as_wanted", |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let all: Vec<u32> = (0..200).collect();
        wait_for("the network", || {
            (numbers(&one, &two, false, 1) == [0]).then_some(())
        });
        assert_eq!(numbers(&one, &two, false, 200), all);
        assert_eq!(numbers(&one, &two, true, 200), all);
        one.unplug();
        assert_eq!(numbers(&one, &two, false, 200), []);
        one.plug();
        assert_eq!(numbers(&one, &two, true, 200), all);

        one.set_faults(Faults {
            loss: 50,
            ..Faults::default()
        });
        let come = numbers(&one, &two, false, 200);
        assert!((50..150).contains(&come.len()), "{come:?}");
        assert!(come.is_sorted(), "{come:?}");
        one.set_faults(Faults {
            loss: 0,
            delay: 20,
            overtaking: 50,
        });
        let mut come = numbers(&one, &two, true, 200);
        assert!(!come.is_sorted(), "{come:?}");
        come.sort_unstable();
        assert_eq!(come, all);
        one.set_faults(Faults::default());
        assert_eq!(numbers(&one, &two, false, 200), all);
        assert_eq!(numbers(&two, &one, true, 200), all);
    });
}

/// What is said goes on for so long before and after something happens.
fn a_while() {
    std::thread::sleep(Duration::from_secs(8));
}

#[test]
fn what_one_node_is_told_the_others_know_within_two_seconds() {
    net::in_sandbox(
        "what_one_node_is_told_the_others_know_within_two_seconds",
        |lan| {
            let mesh = Mesh::started(lan, Links::Names);
            let load = mesh.load();
            for from in 0..3 {
                let others: Vec<usize> = (0..3).filter(|node| *node != from).collect();
                mesh.pass_on(from, &others);
            }
            a_while();
            let truth = load.stop();
            mesh.agree(&truth);
            mesh.wait_until_all_is_well();
            mesh.all_count_right(&truth);
        },
    );
}

/// Nodes agree in spite of cables like these, and what gets through is passed on meanwhile.
fn agree_over(lan: &net::Lan, links: Links, faults: Faults) {
    let mesh = Mesh::started(lan, links);
    mesh.hosts.iter().for_each(|host| host.set_faults(faults));
    let load = mesh.load();
    a_while();
    a_while();
    mesh.agree(&load.stop());
    for node in 0..3 {
        assert!(mesh.metric(node, "sync_received_packets_total", "") > 50.0);
    }
    let gaps: f64 = (0..3)
        .map(|node| mesh.metric(node, "sync_gaps_total", ""))
        .sum();
    assert!(gaps > 0.0);
}

#[test]
fn one_per_cent_of_loss() {
    net::in_sandbox("one_per_cent_of_loss", |lan| {
        let faults = Faults {
            loss: 1,
            delay: 5,
            overtaking: 10,
        };
        agree_over(lan, Links::V4, faults);
    });
}

#[test]
fn a_fifth_is_lost_and_half_of_the_rest_overtaken() {
    net::in_sandbox("a_fifth_is_lost_and_half_of_the_rest_overtaken", |lan| {
        let faults = Faults {
            loss: 20,
            delay: 40,
            overtaking: 50,
        };
        agree_over(lan, Links::V6, faults);
    });
}

#[test]
fn a_minute_apart() {
    net::in_sandbox("a_minute_apart", |lan| {
        let mesh = Mesh::started(lan, Links::V4);
        let load = mesh.load();
        a_while();
        mesh.hosts[2].unplug();
        std::thread::sleep(Duration::from_secs(60));
        mesh.hosts[2].plug();
        a_while();
        mesh.agree(&load.stop());
        mesh.pass_on(2, &[0, 1]);
    });
}

/// A node that is not heard but hears, one whose cable is loose, one that stands still.
#[test]
fn nodes_come_and_go() {
    net::in_sandbox("nodes_come_and_go", |lan| {
        let mesh = Mesh::started(lan, Links::V6);
        let load = mesh.load();
        let silent = Faults {
            loss: 100,
            ..Faults::default()
        };
        mesh.hosts[0].set_faults(silent);
        a_while();
        a_while();
        mesh.hosts[0].set_faults(Faults::default());
        for _ in 0..5 {
            mesh.hosts[1].unplug();
            std::thread::sleep(Duration::from_secs(2));
            mesh.hosts[1].plug();
            std::thread::sleep(Duration::from_secs(1));
        }
        load.end(2);
        let still = mesh.daemons[2].as_ref().expect("was started");
        still.signal("STOP");
        a_while();
        still.signal("CONT");
        load.begin(2, &mesh.hosts[2]);
        a_while();
        mesh.agree(&load.stop());
    });
}

#[test]
fn a_node_is_killed_and_starts_again() {
    net::in_sandbox("a_node_is_killed_and_starts_again", |lan| {
        let mut mesh = Mesh::started(lan, Links::V6);
        let load = mesh.load();
        a_while();
        // With a state that will be old.
        mesh.tables();
        a_while();
        load.end_at_once(1);
        mesh.kill(1);
        mesh.start(1);
        load.begin(1, &mesh.hosts[1]);
        a_while();
        // With nothing.
        load.end_at_once(0);
        mesh.kill(0);
        mesh.start_empty(0);
        load.begin(0, &mesh.hosts[0]);
        a_while();
        mesh.agree(&load.stop());
        mesh.pass_on(0, &[1, 2]);
    });
}

#[test]
fn a_clock_is_an_hour_off() {
    let test = "a_clock_is_an_hour_off";
    net::in_sandbox(test, |lan| {
        // Only in here: `faketime` too names things by process id in /dev/shm, and this one is the test's own.
        if let Err(what) = nodes::fake_clock() {
            return skip(&format!("{test}: {what}"));
        }
        let mut mesh = Mesh::new(lan, Links::V4, 3);
        mesh.clocks[2] = 1;
        mesh.start_all();
        let load = mesh.load();
        a_while();
        // A first node with such a clock is joined by another one.
        load.end_at_once(1);
        mesh.kill(1);
        mesh.clocks[1] = -1;
        mesh.start_empty(1);
        load.begin(1, &mesh.hosts[1]);
        a_while();
        mesh.agree(&load.stop());
        mesh.pass_on(1, &[0, 2]);
        let tables = mesh.tables();
        let ahead = |a: usize, b: usize| tables[a].saved_at.saturating_sub(tables[b].saved_at);
        assert!(ahead(2, 0) > 3_500_000 && ahead(0, 1) > 3_500_000);
    });
}

#[test]
fn a_node_is_replaced() {
    net::in_sandbox("a_node_is_replaced", |lan| {
        let mut mesh = Mesh::new(lan, Links::V6, 3);
        mesh.start(0);
        mesh.start(1);
        let load = mesh.load();
        a_while();
        // Nobody hears the new one at first.
        mesh.hosts[2].unplug();
        mesh.start(2);
        assert_eq!(mesh.health(2), (503, "syncing\n".into()));
        mesh.hosts[2].plug();
        wait_for("a node that is whole", || {
            (mesh.health(2) == (200, "ok\n".into())).then_some(())
        });
        // What is said meanwhile is not expected.
        let asked = Instant::now();
        let table = mesh.tables().swap_remove(2);
        let lost = load.truth_before(asked).differences(&table);
        assert!(lost.is_empty(), "{lost:?}");

        load.begin(2, &mesh.hosts[2]);
        a_while();
        // The old one tells what it has just heard before it ends.
        load.end(0);
        let mut old = mesh.daemons[0].take().expect("was started");
        old.signal("TERM");
        let (status, log) = old.wait();
        assert!(status.success(), "{log:#?}");
        mesh.agree(&load.stop());
        mesh.pass_on(2, &[1]);
    });
}

#[test]
fn a_wrong_key() {
    net::in_sandbox("a_wrong_key", |lan| {
        let mut mesh = Mesh::new(lan, Links::V4, 3);
        let right = mesh.keys[2].clone();
        mesh.keys[2] = lan.file("other-key");
        let (code, ..) = common::run(&["--make-key", &mesh.keys[2]]);
        assert_eq!(code, Some(0));
        (0..3).for_each(|node| mesh.start(node));
        let load = mesh.load();
        a_while();
        wait_for("enough to be said to both", || {
            let (theirs, ours) = load.truth().split(2);
            (theirs.said.len() > 100 && ours.said.len() > 100).then_some(())
        });
        let truth = load.stop();
        let (theirs, ours) = truth.clone().split(2);
        let tables = mesh.tables();
        let differ = theirs.differences(&tables[2]);
        assert!(differ.is_empty(), "{differ:?}");
        for node in 0..3 {
            assert!(mesh.metric(node, "sync_rejected_packets_total", "forged") > 0.0);
            assert_eq!(
                mesh.metric(node, "sync_received_records_total", "") > 0.0,
                node != 2
            );
        }
        let odd = mesh.daemons[2].take();
        mesh.agree(&ours);

        // With the right key it comes back, and what it knew is known to all.
        drop(odd);
        mesh.keys[2] = right;
        mesh.start(2);
        mesh.agree(&truth);
        mesh.pass_on(2, &[0, 1]);
    });
}

#[test]
fn packets_are_sent_again_by_somebody_else() {
    net::in_sandbox("packets_are_sent_again_by_somebody_else", |lan| {
        let mut mesh = Mesh::new(lan, Links::V4, 3);
        mesh.hosts[0].record();
        mesh.start_all();
        let load = mesh.load();
        a_while();
        let mut truth = load.stop();
        mesh.agree(&truth);
        // All that the first node said, the handshake included: when it was there, and after the others or it have gone
        // and come back. Nobody believes it, and nobody is disturbed.
        let frames = mesh.hosts[0].recorded();
        assert!(frames.len() > 20, "{}", frames.len());
        for (restarted, reason) in [(None, "replayed"), (Some(1), "stale"), (Some(0), "stale")] {
            if let Some(node) = restarted {
                mesh.kill(node);
                mesh.start_empty(node);
                mesh.agree(&truth);
            }
            truth.stop_some(&mesh.client(0));
            let rejected = || mesh.metric(1, "sync_rejected_packets_total", reason);
            let before = rejected();
            mesh.hosts[0].replay(&frames);
            mesh.pass_on(0, &[1, 2]);
            mesh.hosts[0].replay(&frames);
            mesh.pass_on(1, &[0, 2]);
            mesh.agree(&truth);
            assert!(rejected() > before + 10.0, "{} after {before}", rejected());
        }
    });
}
