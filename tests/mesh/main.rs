//! Three nodes in full mesh, each on its own host, while clients announce to all of them: links are cut, nodes are
//! killed and suspended, clocks and keys are wrong, lists change, and bytes are replayed. Afterwards the tables of all
//! nodes have exactly the peers that the clients announced.
//!
//! Networks need root. Without it a test is skipped; with `CI=true` it fails.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod load;
mod nodes;
mod table;
mod tape;

use common::net::in_sandbox;
use common::{skip, wait_for, wait_longer};
use nodes::{CLUSTER_PORT, Mesh, make_key};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use table::{InfoHash, Table};
use tape::Tape;

/// Waits while a fault lasts.
fn pause(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Node 0 has the others by name. Node 1 has node 2 by its IPv6 address, and has two threads.
#[test]
fn announces_and_stops_at_one_node_are_in_replies_of_the_others() {
    let test = "announces_and_stops_at_one_node_are_in_replies_of_the_others";
    in_sandbox(test, |lan| {
        let mut mesh = Mesh::new(lan);
        mesh.nodes[0].peers = ["node2:6970", "node3:6970"].map(String::from).into();
        let v6 = SocketAddr::new(mesh.nodes[2].host.v6(), CLUSTER_PORT);
        mesh.nodes[1].peers[1] = v6.to_string();
        mesh.nodes[1].flags = ["-j", "2"].map(String::from).into();
        mesh.start_all();
        let load = mesh.load();
        load.wait_for_announces(500);
        for (from, to) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
            mesh.pass_on(from, &to);
        }
        load.wait_for_announces(500);
        mesh.wait_until_equal(&load.stop().table());
    });
}

#[test]
fn tables_are_equal_after_a_partition_of_a_minute() {
    let test = "tables_are_equal_after_a_partition_of_a_minute";
    in_sandbox(test, |lan| {
        let mesh = Mesh::started(lan);
        let load = mesh.load();
        load.wait_for_announces(500);
        mesh.nodes[2].host.unplug();
        pause(60);
        mesh.nodes[2].host.plug();
        load.wait_for_announces(500);
        mesh.wait_until_equal(&load.stop().table());
        mesh.pass_on(2, &[0, 1]);
    });
}

#[test]
fn tables_are_equal_after_short_partitions() {
    in_sandbox("tables_are_equal_after_short_partitions", |lan| {
        let mesh = Mesh::started(lan);
        let load = mesh.load();
        // Links survive the shorter ones.
        for seconds in [2, 1, 3, 12] {
            mesh.nodes[1].host.unplug();
            pause(seconds);
            mesh.nodes[1].host.plug();
            load.wait_for_announces(200);
        }
        mesh.wait_until_equal(&load.stop().table());
    });
}

#[test]
fn tables_are_equal_after_nodes_are_killed_and_start_again() {
    let test = "tables_are_equal_after_nodes_are_killed_and_start_again";
    in_sandbox(test, |lan| {
        let mut mesh = Mesh::started(lan);
        let load = mesh.load();
        load.wait_for_announces(500);
        for (node, others) in [(1, [0, 2]), (0, [1, 2])] {
            load.end(node);
            // Once the others have this peer, they have those that announced before it.
            mesh.pass_on(node, &others);
            mesh.tables();
            mesh.kill(node);
            load.wait_for_announces(200);
            // Node 1 starts with its table, node 0 with none.
            match node {
                0 => mesh.start_empty(node),
                _ => mesh.start(node),
            }
            load.begin(node, &mesh.nodes[node].host);
            load.wait_for_announces(500);
            mesh.wait_for_links(node);
        }
        let expected = load.stop().table();
        // Nodes that joined may lack some completions that were sent meanwhile: see `src/cluster/mod.rs`.
        let mut joined = expected.clone();
        joined.downloaded.clear();
        mesh.wait_for_tables(&[&joined, &joined, &expected]);
        for (table, _) in &mesh.tables()[..2] {
            let differs = |(hash, count): (&_, &u32)| {
                let found = table.downloaded.get(hash);
                u64::from(found.map_or(*count, |found| found.abs_diff(*count)))
            };
            let missing: u64 = expected.downloaded.iter().map(differs).sum();
            assert!(missing <= 5, "{missing} downloads differ");
        }
        mesh.pass_on(0, &[1, 2]);
    });
}

#[test]
fn tables_are_equal_after_a_node_was_stopped_for_30_s() {
    let test = "tables_are_equal_after_a_node_was_stopped_for_30_s";
    in_sandbox(test, |lan| {
        let mesh = Mesh::started(lan);
        let load = mesh.load();
        load.wait_for_announces(500);
        load.end(2);
        mesh.daemon(2).signal("STOP");
        pause(30);
        mesh.daemon(2).signal("CONT");
        load.begin(2, &mesh.nodes[2].host);
        load.wait_for_announces(500);
        mesh.wait_until_equal(&load.stop().table());
        mesh.pass_on(2, &[0, 1]);
    });
}

#[test]
fn tables_are_equal_where_clocks_are_an_hour_off() {
    let test = "tables_are_equal_where_clocks_are_an_hour_off";
    in_sandbox(test, |lan| {
        // In the sandbox, whose /dev/shm is its own: `faketime` names files there by process id.
        if let Err(why) = nodes::fake_clock() {
            return skip(&format!("{test}: {why}"));
        }
        let mut mesh = Mesh::new(lan);
        mesh.nodes[1].clock = -1;
        mesh.nodes[2].clock = 1;
        mesh.start_all();
        let load = mesh.load();
        load.wait_for_announces(1000);
        mesh.wait_until_equal(&load.stop().table());
        mesh.pass_on(1, &[0, 2]);
        let times: Vec<u64> = mesh.tables().iter().map(|(_, time)| *time).collect();
        let is_ahead = |a: usize, b: usize| times[a].saturating_sub(times[b]) > 3_500_000;
        assert!(is_ahead(2, 0) && is_ahead(0, 1), "{times:?}");
        mesh.daemon(0).wait_for_line("wall clock differs by ");
    });
}

#[test]
fn node_with_another_key_receives_nothing_and_sends_nothing() {
    let test = "node_with_another_key_receives_nothing_and_sends_nothing";
    in_sandbox(test, |lan| {
        let mut mesh = Mesh::new(lan);
        let right = std::mem::replace(&mut mesh.nodes[2].key, make_key(lan, "other-key"));
        (0..3).for_each(|node| mesh.start(node));
        let load = mesh.load();
        load.wait_for_announces(500);
        for node in 0..3 {
            wait_for("wrong keys", || (mesh.wrong_keys(node) > 2).then_some(()));
        }
        mesh.daemon(0).wait_for_line("handshake failed: wrong key");
        load.wait_for_announces(500);
        let truth = load.stop();
        let [one, two, odd] = [0, 1, 2].map(|node| &mesh.nodes[node].host);
        let theirs = truth.without(one).without(two).table();
        let ours = truth.without(odd).table();
        assert_eq!(theirs.differences(&mesh.tables()[2].0), [""; 0]);
        mesh.kill(2);
        mesh.wait_until_equal(&ours);

        mesh.nodes[2].key = right;
        mesh.start_empty(2);
        mesh.wait_for_links(2);
        mesh.wait_until_equal(&ours);
        mesh.pass_on(2, &[0, 1]);
    });
}

/// Node 1 connects to node 0 through a relay. A host without the key sends the recorded bytes to both.
#[test]
fn replayed_bytes_change_nothing() {
    in_sandbox("replayed_bytes_change_nothing", |lan| {
        let mut mesh = Mesh::new(lan);
        let other = lan.host();
        let node0 = SocketAddr::new(mesh.nodes[0].host.v4(), CLUSTER_PORT);
        let tape = Tape::start(&other, node0);
        mesh.nodes[0].peers.remove(0);
        mesh.nodes[1].peers[0] = tape.address.to_string();
        mesh.start_all();
        let load = mesh.load();
        load.wait_for_announces(500);
        let truth = load.stop();
        mesh.wait_until_equal(&truth.table());
        let dialler = tape.recorded();
        assert!(dialler.len() > 1000, "{}", dialler.len());
        // Peers in the recorded bytes stop and must not come back.
        let mut expected = mesh.stop_some(truth.table());
        mesh.wait_until_equal(&expected);
        // Node 0 has counts from node 2 before node 1 connects to it, and may count downloads of stopped peers again.
        expected.downloaded.clear();

        for restarted in [None, Some(0), Some(1)] {
            if let Some(node) = restarted {
                mesh.kill(node);
                mesh.start_empty(node);
                mesh.wait_for_links(node);
            }
            for _ in 0..3 {
                let before = mesh.wrong_keys(0);
                let mut stream = other.within(|| TcpStream::connect(node0).expect("is taken"));
                // The node may close the connection before all is written.
                let _ = stream.write_all(&dialler);
                while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
                wait_for("a wrong key", || {
                    (mesh.wrong_keys(0) > before).then_some(())
                });
            }
            let (before, replayed) = (mesh.wrong_keys(1), tape.replayed());
            tape.replay(true);
            wait_longer("a wrong key", Duration::from_secs(60), || {
                (mesh.wrong_keys(1) > before && tape.replayed() > replayed).then_some(())
            });
            tape.replay(false);
            (0..3).for_each(|node| mesh.wait_for_links(node));
            mesh.wait_until_equal(&expected);
            mesh.pass_on(0, &[1, 2]);
        }
    });
}

/// All nodes allow one torrent. One after the other they allow a second one too, and then only that.
#[test]
fn lists_hold_for_peers_and_downloads_of_other_nodes_while_they_change() {
    let test = "lists_hold_for_peers_and_downloads_of_other_nodes_while_they_change";
    in_sandbox(test, |lan| {
        const LISTS: [&[InfoHash]; 3] = [&[[0x11; 20]], &[[0x11; 20], [0x22; 20]], &[[0x22; 20]]];
        let list = |node: usize| lan.file(&format!("list{node}"));
        let line = |hash: &InfoHash| format!("{:02x}", hash[0]).repeat(20) + "\n";
        let text = |hashes: &[InfoHash]| hashes.iter().map(line).collect::<String>();
        let mut mesh = Mesh::new(lan);
        for (number, node) in mesh.nodes.iter_mut().enumerate() {
            std::fs::write(list(number), text(LISTS[0])).expect("is written");
            node.flags = vec!["-w".into(), list(number)];
        }
        mesh.start_all();

        let mut expected = [(); 3].map(|()| Table::default());
        let mut allowed = [LISTS[0]; 3];
        let of_list = |list: &'static [InfoHash]| (0..3).map(move |node| Some((node, list)));
        let changes = LISTS[1..].iter().flat_map(|list| of_list(list));
        let changes = [None].into_iter().chain(changes);
        for (port, change) in (1..).zip(changes) {
            if let Some((node, hashes)) = change {
                std::fs::write(list(node), text(hashes)).expect("is written");
                let loads = || mesh.daemon(node).count_lines("whitelist: loaded: ");
                let before = loads();
                mesh.daemon(node).signal("HUP");
                wait_for("the list", || (loads() > before).then_some(()));
                allowed[node] = hashes;
                if hashes == LISTS[1] {
                    // The first node to allow the new torrent has all of its peers.
                    expected[node] = expected[0].clone();
                    mesh.wait_for_tables(&expected.each_ref());
                }
            }
            // A download of each torrent begins at every node that allows it and is completed.
            for node in 0..3 {
                for &info_hash in allowed[node] {
                    let client = mesh.client(node);
                    client.announce_fields(info_hash, port, 1, 2);
                    client.announce_fields(info_hash, port, 0, 1);
                    let peer = SocketAddr::new(client.address().ip(), port);
                    let tables = expected.iter_mut().zip(allowed);
                    for (table, _) in tables.filter(|(_, all)| all.contains(&info_hash)) {
                        table.peers.insert((info_hash, peer), true);
                        *table.downloaded.entry(info_hash).or_default() += 1;
                    }
                }
            }
            mesh.wait_for_tables(&expected.each_ref());
        }
    });
}
