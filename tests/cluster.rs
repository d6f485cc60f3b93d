//! Nodes of a cluster on the loopback: announces, health, failed handshakes, names, the end of a node.

mod common;

use common::http::get;
use common::udp::Client;
use common::{Daemon, Directory, free_address, run, wait_for, wait_longer};
use std::net::SocketAddr;
use std::time::Duration;

const V4: &str = "127.0.0.1:0";

/// A node is alone ten seconds after its start, or later on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a key.
fn key(name: &str) -> (Directory, String) {
    let directory = Directory::new(&format!("cluster-{name}"));
    let key = directory.file("key");
    let made = run(&["--make-key", &key]);
    assert_eq!(made, (Some(0), String::new(), String::new()));
    (directory, key)
}

/// Starts a node that listens on this address and has these peers.
fn node(listen: &str, key: &str, peers: &[&str], flags: &[&str]) -> Daemon {
    let mut all = vec!["--cluster-listen", listen, "--cluster-key", key];
    for peer in peers {
        all.extend(["--cluster-peer", peer]);
    }
    all.extend(flags);
    Daemon::start(&all)
}

/// Two nodes with a link, to which the second one has connected.
fn two(key: &str, flags: &[&str]) -> [Daemon; 2] {
    let a = node(V4, key, &[], flags);
    let b = node(V4, key, &[&a.cluster().to_string()], flags);
    b.wait_for_line(&format!("cluster: {}: link up", a.cluster()));
    a.wait_for_line(": link up");
    [a, b]
}

const TORRENT: [u8; 20] = [0xaa; 20];

/// Waits until the torrent has these seeders, completed downloads and leechers on a node.
fn wait_for_counts(of: &Daemon, expected: [u32; 3]) {
    let client = Client::new(of.udp4());
    wait_longer("counts", PATIENCE, || {
        (client.scrape(&[TORRENT]) == [expected]).then_some(())
    });
}

/// The status and the body of `/health`.
fn health(of: &Daemon) -> (u16, String) {
    let reply = get(of.tcp4(), "/health");
    (reply.status, reply.text())
}

fn wait_for_health(of: &Daemon, word: &str) {
    let expected = (200, format!("{word}\n"));
    wait_longer(word, PATIENCE, || (health(of) == expected).then_some(()));
}

/// Waits until the report of a node contains this.
fn wait_for_report(of: &Daemon, part: &str) {
    wait_for(part, || {
        let report = get(of.tcp4(), "/stats?mode=cluster").text();
        report.contains(part).then_some(())
    });
}

#[test]
fn announces_at_one_node_are_in_replies_and_counts_of_the_other() {
    let (_directory, key) = key("two");
    for threads in ["1", "2"] {
        let [a, b] = two(&key, &["-j", threads]);
        let (at_a, at_b) = (Client::new(a.udp4()), Client::new(b.udp4()));
        at_a.announce_fields(TORRENT, 1111, 1, 2);
        Client::new(a.udp6()).announce_fields(TORRENT, 1116, 1, 2);
        wait_for_counts(&b, [0, 0, 2]);
        let peers = at_b.announce_fields(TORRENT, 2222, 1, 2).peers;
        assert_eq!(peers, [SocketAddr::from(([127, 0, 0, 1], 1111))]);
        at_a.announce_fields(TORRENT, 1111, 0, 1);
        wait_for_counts(&b, [1, 1, 2]);
        at_b.announce_fields(TORRENT, 1111, 0, 3);
        wait_for_counts(&a, [0, 1, 2]);
    }
}

#[test]
fn health_is_syncing_then_alone_then_ok() {
    let (_directory, key) = key("health");
    let other = free_address().to_string();
    let a = node(V4, &key, &[&other], &[]);
    assert_eq!(health(&a), (503, "syncing\n".into()));
    wait_for_health(&a, "alone");
    a.wait_for_line("cluster: cannot reach the other nodes");
    wait_for_report(&a, "cluster alone: 0 of 1 other node up\n");

    let b = node(&other, &key, &[&a.cluster().to_string()], &[]);
    wait_for_health(&a, "ok");
    wait_for_health(&b, "ok");
    drop(b);
    a.wait_for_line(&format!("cluster: {other}: link down"));
    assert_eq!(health(&a), (200, "ok\n".into()));
    wait_for_report(&a, "cluster ok: 0 of 1 other node up\n");
}

#[test]
fn a_node_that_cannot_reach_a_third_is_ok_once_the_second_is_whole() {
    let (_directory, key) = key("third");
    let [other, third] = [free_address(), free_address()].map(|address| address.to_string());
    let a = node(V4, &key, &[&other, &third], &[]);
    let b = node(&other, &key, &[&a.cluster().to_string()], &[]);
    wait_for_health(&b, "ok");
    wait_for_health(&a, "ok");
    wait_for_report(&a, "cluster ok: 1 of 2 other nodes up\n");
}

#[test]
fn failed_handshakes_are_logged_with_the_other_side_and_the_reason() {
    let (directory, key) = key("failures");
    let other_key = directory.file("other");
    assert_eq!(run(&["--make-key", &other_key]).0, Some(0));
    let a = node(V4, &key, &[], &[]);
    let address = a.cluster().to_string();
    let timeouts = ["other peer timeout: 2700 s", "other peer timeout: 3000 s"];
    let bounds = ["0", "4"].map(|max| format!("other bound of peers per host: {max}"));
    let bounds = bounds.each_ref().map(String::as_str);
    for (key, flags, [theirs, ours]) in [
        (&other_key, &[][..], ["wrong key"; 2]),
        (&key, &["--peer-timeout", "3000"], timeouts),
        (&key, &["--max-per-host", "4"], bounds),
    ] {
        let b = node(V4, key, &[&address], flags);
        b.wait_for_line(&format!("cluster: {address}: handshake failed: {theirs}"));
        let line = a.wait_for_line(&format!(": handshake failed: {ours}"));
        assert!(line.starts_with("announced: cluster: 127.0.0.1:"), "{line}");
        assert_eq!(b.count_lines("link up"), 0);
    }
    assert_eq!(a.count_lines("link up"), 0);
    let refused = "announced_cluster_failed_handshakes_total{reason=\"per_host\"} ";
    wait_for("the count of the failure", || {
        let metrics = get(a.tcp4(), "/metrics").text();
        let count = metrics.lines().find_map(|line| line.strip_prefix(refused));
        (count? != "0").then_some(())
    });
}

#[test]
fn node_that_is_its_own_peer_logs_it_once() {
    let (_directory, key) = key("own");
    let own = free_address().to_string();
    let a = node(&own, &key, &[&own], &[]);
    a.wait_for_line(&format!("cluster: {own}: this node itself: not connected"));
    wait_for_report(&a, ": 0 of 0 other nodes up\n");
    assert_eq!(a.count_lines(&format!("cluster: {own}: ")), 1);
}

#[test]
fn node_that_ends_sends_its_last_news() {
    let (_directory, key) = key("last");
    let [mut a, b] = two(&key, &[]);
    Client::new(a.udp4()).announce_fields(TORRENT, 1, 1, 2);
    a.signal("TERM");
    assert!(a.wait().0.success());
    wait_for_counts(&b, [0, 0, 1]);
    b.wait_for_line(&format!("cluster: {}: link down", a.cluster()));
}

#[test]
fn client_connects_at_one_node_and_announces_at_another() {
    let (_directory, key) = key("ids");
    let [a, b] = two(&key, &[]);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let mut client = Client::from("127.0.0.1", other.udp4());
        client.connection = Client::new(one.udp4()).connection;
        client.announce_fields(TORRENT, 5, 1, 2);
    }
}

#[test]
fn names_are_resolved_at_the_start_and_at_sighup() {
    let (_directory, key) = key("names");
    let a = node(V4, &key, &[], &[]);
    let name = format!("localhost:{}", a.cluster().port());
    // Too long for a name, so that no name server is asked.
    let nowhere = format!("{}:1", "x".repeat(64));
    let b = node(V4, &key, &[&name, &nowhere], &[]);
    b.wait_for_line(&format!("cluster: {name}: link up"));
    let failure = format!("cluster: {nowhere}: cannot resolve: ");
    b.wait_for_line(&failure);
    b.signal("HUP");
    b.wait_for_line("SIGHUP: resolving 2 names of nodes");
    assert_eq!((b.count_lines(&failure), b.count_lines("link up")), (1, 1));
}

#[test]
fn nodes_agree_on_the_peers_of_a_host_up_to_the_bound() {
    let (_directory, key) = key("hosts");
    let [a, b] = two(&key, &["--max-per-host", "16"]);
    for (node, ports) in [(&a, 1001..=1500), (&b, 2..=500), (&a, 501..=999)] {
        let client = Client::new(node.udp4());
        ports.for_each(|port| drop(client.announce_fields(TORRENT, port, 1, 2)));
        wait_for_counts(&a, [0, 0, 16]);
        wait_for_counts(&b, [0, 0, 16]);
    }
    let ports = |node: &Daemon| {
        let query = format!("info_hash={}&port=7&left=1", "%AA".repeat(20));
        let peers = get(node.tcp6(), &format!("/announce?{query}")).peers();
        let peers = peers.iter().filter(|peer| peer.is_ipv4());
        peers.map(SocketAddr::port).collect::<Vec<u16>>()
    };
    wait_for("the same peers", || (ports(&a) == ports(&b)).then_some(()));
    assert_eq!(ports(&a).len(), 16);
}
