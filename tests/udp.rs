//! The UDP protocol (BEP 15) as a client sees it, whole replies byte by byte.

mod common;

#[cfg(target_os = "linux")]
use common::skip;
use common::udp::{Announce, Client, TRANSACTION, connect_request};
use common::{Daemon, wait_for};
use std::collections::BTreeSet;
use std::net::SocketAddr;

fn seeder(port: u16) -> Announce {
    Announce::seeder(port)
}

fn leecher(port: u16) -> Announce {
    Announce::leecher(port)
}

fn start(flags: &[&str]) -> (Daemon, Client) {
    let daemon = Daemon::start(flags);
    let client = Client::new(daemon.udp4());
    (daemon, client)
}

/// The action of a reply.
fn action(reply: &[u8]) -> u32 {
    u32::from_be_bytes(reply[..4].try_into().expect("4 bytes"))
}

#[test]
fn connection_id_is_bound_to_its_source() {
    let (daemon, mut client) = start(&[]);
    let first = client.connection;
    client.connect();
    assert_eq!(client.connection, first, "the same source in the same slot");
    let mut other = Client::from("127.0.0.2", daemon.udp4());
    other.connect();
    assert_ne!(other.connection, first);
    other.connection = first;
    let reply = other.exchange(&other.announce_request(&leecher(1)));
    assert_eq!(action(&reply), 3, "another source's id is invalid");
}

#[test]
fn announce_reply_byte_by_byte() {
    let (daemon, second) = start(&[]);
    let mut first = Client::from("127.0.0.2", daemon.udp4());
    first.connect();
    let reply = first.exchange(&first.announce_request(&seeder(0x1234)));
    assert_eq!(reply[..8], [0, 0, 0, 1, 1, 2, 3, 4]);
    let interval = u32::from_be_bytes(reply[8..12].try_into().expect("4 bytes"));
    assert!((1740..=1860).contains(&interval), "{interval}");
    assert_eq!(reply[12..], [0, 0, 0, 0, 0, 0, 0, 1]);
    let reply = second.exchange(&second.announce_request(&leecher(0x5678)));
    assert_eq!(reply[..8], [0, 0, 0, 1, 1, 2, 3, 4]);
    let expected = [0, 0, 0, 1, 0, 0, 0, 1, 127, 0, 0, 2, 0x12, 0x34];
    assert_eq!(reply[12..], expected);
}

#[test]
fn reply_counts_both_families_and_has_peers_of_the_clients_own() {
    let (daemon, v4) = start(&[]);
    v4.announce(&seeder(4));
    let v6 = Client::new(daemon.udp6());
    v6.announce(&seeder(6));
    let reply = v6.exchange(&v6.announce_request(&leecher(66)));
    let peer = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 6];
    assert_eq!(reply[12..], [&[0, 0, 0, 1, 0, 0, 0, 2][..], &peer].concat());
    let reply = v4.announce(&leecher(44));
    assert_eq!(reply.peers, ["127.0.0.1:4".parse().expect("an address")]);
}

#[test]
fn num_want_is_50_by_default_and_at_most_200_or_67_of_ipv6() {
    let daemon = Daemon::start(&[]);
    let limited = Daemon::start(&["--numwant-max", "7"]);
    for (tracker, size, max) in [
        (daemon.udp4(), 6, 200),
        (daemon.udp6(), 18, 67),
        (limited.udp4(), 6, 7),
    ] {
        let client = Client::new(tracker);
        for port in 1000..1300 {
            client.announce(&seeder(port));
        }
        for (num_want, count) in [(i32::MAX, max), (30, 30), (-1, 50), (i32::MIN, 50), (0, 0)] {
            let request = client.announce_request(&leecher(1).num_want(num_want));
            let length = client.exchange(&request).len();
            assert_eq!(length, 20 + count.min(max) * size, "{num_want}");
        }
    }
}

#[test]
fn seeder_is_sent_leechers_only_and_no_peer_is_sent_itself() {
    let (_daemon, client) = start(&[]);
    for announce in [seeder(4), leecher(2), seeder(3)] {
        client.announce(&announce);
    }
    for (announce, expected) in [(seeder(3), &[2][..]), (leecher(2), &[3, 4])] {
        let reply = client.announce(&announce);
        assert_eq!((reply.seeders, reply.leechers), (2, 1));
        let ports: Vec<u16> = reply.peers.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, expected);
    }
}

#[test]
fn every_peer_of_a_swarm_is_sent_sooner_or_later() {
    let (_daemon, client) = start(&[]);
    for port in 1000..1200 {
        client.announce(&leecher(port));
    }
    let mut seen = BTreeSet::new();
    wait_for("all peers", || {
        let reply = client.announce(&leecher(1));
        assert_eq!(reply.peers.len(), 50);
        seen.extend(reply.peers);
        (seen.len() == 200).then_some(())
    });
}

#[test]
fn event_and_left_decide_the_counts() {
    let (_daemon, client) = start(&[]);
    for (event, left, counts) in [
        (2, 5, [0, 0, 1]),
        // Not completed with some left.
        (1, 5, [0, 0, 1]),
        (1, 0, [1, 1, 0]),
        // Completed once, whatever happens between.
        (1, 0, [1, 1, 0]),
        (0, 5, [0, 1, 1]),
        (1, 0, [1, 1, 0]),
        // Paused and unknown events are none.
        (4, 0, [1, 1, 0]),
        (5, 0, [1, 1, 0]),
        (u32::MAX, 0, [1, 1, 0]),
        // Remembered without peers.
        (3, 0, [0, 1, 0]),
    ] {
        client.announce_fields([0xaa; 20], 6881, left, event);
        let scraped = client.scrape(&[[0xaa; 20]]);
        assert_eq!(scraped, [counts], "{event} {left}");
    }
}

#[test]
fn stopped_peer_is_removed_and_is_sent_no_peers() {
    let (_daemon, client) = start(&[]);
    client.announce(&seeder(1));
    client.announce(&leecher(2));
    for _ in 0..2 {
        let reply = client.announce(&leecher(2).event(3));
        assert_eq!((reply.seeders, reply.leechers), (1, 0));
        assert_eq!(reply.peers, []);
    }
    assert_eq!(client.announce(&seeder(1).event(3)).seeders, 0);
}

#[test]
fn scrape_answers_in_order_for_up_to_74_torrents() {
    let (_daemon, client) = start(&[]);
    for n in [0_u8, 2, 73, 74] {
        client.announce_fields([n; 20], 6881, n.into(), 2);
    }
    let hashes: Vec<[u8; 20]> = (0..75).map(|n| [n; 20]).collect();
    let mut expected = vec![[0; 3]; 74];
    expected[0] = [1, 0, 0];
    expected[2] = [0, 0, 1];
    expected[73] = [0, 0, 1];
    assert_eq!(client.scrape(&hashes), expected, "the 75th is left out");
    let counts = client.scrape(&[[2; 20], [1; 20], [2; 20]]);
    assert_eq!(counts, [[0, 0, 1], [0; 3], [0, 0, 1]]);
    let reply = client.exchange(&client.scrape_request(&[[0; 20]]));
    let expected = [0, 0, 0, 2, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(reply, expected);
}

#[test]
fn trailing_bytes_and_the_ip_field_are_ignored() {
    let (_daemon, client) = start(&[]);
    for tail in [&b"\x02\x0d/announce?x=y\x00"[..], b"\xff", &[0x5a; 1300]] {
        let announce = client.announce_request(&Announce {
            ip: 0x0909_0909,
            ..seeder(3)
        });
        let reply = client.exchange(&[&announce, tail].concat());
        assert_eq!(action(&reply), 1);
        let scrape = client.scrape_request(&[[0xaa; 20]]);
        assert_eq!(client.exchange(&[&scrape, &tail[..1]].concat()).len(), 20);
        let reply = client.exchange(&[&connect_request(), tail].concat());
        assert_eq!(reply.len(), 16);
    }
    let reply = client.announce(&leecher(2));
    assert_eq!(reply.peers, ["127.0.0.1:3".parse().expect("an address")]);
}

#[test]
fn invalid_datagrams_get_no_reply_or_a_shorter_one() {
    let (daemon, client) = start(&[]);
    let announce = client.announce_request(&leecher(1));
    for length in 1..98 {
        assert!(client.is_silent_on(&announce[..length]), "cut to {length}");
    }
    let scrape = client.scrape_request(&[[0xaa; 20]]);
    for length in 16..36 {
        assert!(client.is_silent_on(&scrape[..length]), "cut to {length}");
    }
    for action in [3, 4, 255, u32::MAX] {
        assert!(client.is_silent_on(&client.head(action)), "action {action}");
    }
    let mut connect = connect_request();
    connect[7] ^= 1;
    assert!(client.is_silent_on(&connect), "another number");
    let mut stranger = Client::from("127.0.0.1", daemon.udp4());
    stranger.connection = client.connection ^ (1 << 40);
    let (announce, scrape) = (leecher(1), [[0; 20]]);
    for request in [
        stranger.announce_request(&announce),
        stranger.scrape_request(&scrape),
    ] {
        let reply = stranger.exchange(&request);
        assert_eq!(action(&reply), 3);
        assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
        assert_eq!(String::from_utf8_lossy(&reply[8..]), "Connect again.");
        assert!(reply.len() <= request.len());
    }
    let counts = client.scrape(&[[0xaa; 20]]);
    assert_eq!(counts, [[0; 3]], "nothing was stored");
}

#[test]
fn wildcard_socket_replies_from_the_address_of_the_request() {
    let daemon = Daemon::start_with(&["-p", "0", "-P", "0"]);
    let port = daemon.udp4().port();
    for target in ["127.0.0.1", "127.0.0.9", "127.1.2.3"] {
        // A connected socket receives from no other address.
        let tracker = SocketAddr::new(target.parse().expect("an address"), port);
        Client::new(tracker).announce(&leecher(1));
    }
    let tracker = SocketAddr::new("::1".parse().expect("an address"), daemon.udp6().port());
    Client::new(tracker).announce(&leecher(1));
}

#[test]
fn peer_expires_after_its_timeout() {
    let (_daemon, client) = start(&["--interval", "1", "--peer-timeout", "2"]);
    let hashes = [[0xaa; 20], [1; 20]];
    // The first may expire before the last announces.
    wait_for("all peers to be stored", || {
        client.announce(&seeder(1));
        client.announce(&leecher(2));
        client.announce(&leecher(3).of([1; 20]));
        (client.scrape(&hashes) == [[1, 0, 1], [0, 0, 1]]).then_some(())
    });
    wait_for("all peers to expire", || {
        (client.scrape(&hashes) == [[0; 3]; 2]).then_some(())
    });
}

#[test]
fn at_its_limits_the_tracker_answers_and_does_not_store() {
    let (_daemon, client) = start(&["--max-peers", "3", "--max-torrents", "1"]);
    for port in 2..=4 {
        client.announce(&leecher(port));
    }
    let reply = client.announce(&leecher(5));
    assert_eq!((reply.leechers, reply.peers.len()), (3, 3));
    assert_eq!(client.announce(&leecher(1).of([1; 20])).leechers, 0);
    let counts = client.scrape(&[[0xaa; 20], [1; 20]]);
    assert_eq!(counts, [[0, 0, 3], [0, 0, 0]]);
}

/// A datagram from port 0 cannot be answered.
#[cfg(target_os = "linux")]
#[test]
fn reply_that_cannot_be_sent_does_not_delay_the_others_of_its_batch() {
    let (daemon, client) = start(&[]);
    if !send_from_port_0(daemon.udp4()) {
        return skip("raw sockets need python3 and root");
    }
    for port in 1..=100 {
        client.send(&client.announce_request(&leecher(port)));
    }
    for _ in 1..=100 {
        assert_eq!(action(&client.receive()), 1);
    }
}

/// Sends connect requests from port 0 by a raw socket, which `std` does not have.
#[cfg(target_os = "linux")]
fn send_from_port_0(tracker: SocketAddr) -> bool {
    let script = "import socket, struct, sys\n\
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)\n\
        body = struct.pack('>QII', 0x41727101980, 0, 7)\n\
        head = struct.pack('>HHHH', 0, int(sys.argv[1]), 8 + len(body), 0)\n\
        for _ in range(10): raw.sendto(head + body, ('127.0.0.1', 0))\n";
    let port = tracker.port().to_string();
    let mut python = std::process::Command::new("python3");
    let status = python.args(["-c", script, &port]).status();
    status.is_ok_and(|status| status.success())
}

/// Both wait in the socket when the daemon reads them, as one batch.
#[test]
fn scrape_right_after_an_announce_counts_it() {
    let (daemon, client) = start(&[]);
    daemon.signal("STOP");
    client.send(&client.announce_request(&seeder(1)));
    client.send(&client.scrape_request(&[[0xaa; 20]]));
    daemon.signal("CONT");
    assert_eq!(action(&client.receive()), 1);
    let scraped = client.receive();
    assert_eq!(scraped[..4], 2_u32.to_be_bytes());
    assert_eq!(scraped[8..12], 1_u32.to_be_bytes(), "one seeder");
}
