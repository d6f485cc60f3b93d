//! The UDP protocol (BEP 15) as a client sees it, whole replies byte by byte.

// Some tests are for Linux alone.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use common::udp::{Announce, Client, TRANSACTION, connect_request};
use common::{Daemon, skip, wait_for};
use std::collections::BTreeSet;
use std::net::SocketAddr;

fn seeder(port: u16) -> Announce {
    Announce {
        left: 0,
        port,
        ..Announce::default()
    }
}

fn leecher(port: u16) -> Announce {
    Announce {
        port,
        ..Announce::default()
    }
}

#[test]
fn a_connect_reply_is_16_bytes_and_its_id_is_bound_to_the_source() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.udp4());
    let first = client.connection;
    client.connect();
    assert_eq!(client.connection, first, "the same source in the same slot");
    let mut other = Client::from("127.0.0.2", daemon.udp4());
    other.connect();
    assert_ne!(other.connection, first);
    other.connection = first;
    let reply = other.exchange(&other.announce_request(&leecher(1)));
    assert_eq!(
        reply[..4],
        3_u32.to_be_bytes(),
        "another source's id is no good"
    );
}

#[test]
fn an_announce_reply_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let mut first = Client::from("127.0.0.2", daemon.udp4());
    first.connect();
    let reply = first.exchange(&first.announce_request(&seeder(0x1234)));
    assert_eq!(reply.len(), 20);
    assert_eq!(reply[..8], [0, 0, 0, 1, 1, 2, 3, 4]);
    let interval = u32::from_be_bytes(reply[8..12].try_into().expect("4 bytes"));
    assert!((1740..=1860).contains(&interval), "{interval}");
    assert_eq!(
        reply[12..],
        [0, 0, 0, 0, 0, 0, 0, 1],
        "no leecher, one seeder"
    );

    let second = Client::new(daemon.udp4());
    let reply = second.exchange(&second.announce_request(&leecher(0x5678)));
    assert_eq!(reply[..8], [0, 0, 0, 1, 1, 2, 3, 4]);
    let expected = [0, 0, 0, 1, 0, 0, 0, 1, 127, 0, 0, 2, 0x12, 0x34];
    assert_eq!(reply[12..], expected);
}

#[test]
fn ipv6_peers_are_18_bytes_and_families_do_not_mix() {
    let daemon = Daemon::start(&[]);
    let v4 = Client::new(daemon.udp4());
    v4.announce(&seeder(4));
    let v6 = Client::new(daemon.udp6());
    v6.announce(&seeder(6));
    let reply = v6.exchange(&v6.announce_request(&leecher(66)));
    let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 2];
    expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 6]);
    assert_eq!(reply[12..], expected, "counts are of both, peers of one");
    let reply = v4.announce(&leecher(44));
    assert_eq!(reply.peers, ["127.0.0.1:4".parse().expect("an address")]);
}

#[test]
fn replies_hold_at_most_200_peers_or_67_of_ipv6() {
    let daemon = Daemon::start(&[]);
    let all = |client: &Client, want: i32| {
        let announce = Announce {
            num_want: want,
            ..leecher(1)
        };
        client.exchange(&client.announce_request(&announce)).len()
    };
    for (tracker, size, most) in [(daemon.udp4(), 6, 200), (daemon.udp6(), 18, 67)] {
        let client = Client::new(tracker);
        for port in 1000..1300 {
            client.announce(&seeder(port));
        }
        assert_eq!(all(&client, i32::MAX), 20 + most * size);
        assert_eq!(all(&client, 30), 20 + 30 * size);
        assert_eq!(all(&client, -1), 20 + 50 * size, "the default");
        assert_eq!(all(&client, i32::MIN), 20 + 50 * size);
        assert_eq!(all(&client, 0), 20);
    }
}

#[test]
fn numwant_max_bounds_replies() {
    let daemon = Daemon::start(&["--numwant-max", "7"]);
    let client = Client::new(daemon.udp4());
    for port in 1000..1020 {
        client.announce(&seeder(port));
    }
    assert_eq!(client.announce(&leecher(1)).peers.len(), 7);
}

#[test]
fn a_seeder_hears_of_leechers_only_and_nobody_of_himself() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    client.announce(&seeder(1));
    client.announce(&leecher(2));
    let peers = |announce: &Announce| {
        let reply = client.announce(announce);
        assert_eq!((reply.seeders, reply.leechers), (2, 1));
        reply.peers.iter().map(SocketAddr::port).collect::<Vec<_>>()
    };
    client.announce(&seeder(3));
    assert_eq!(peers(&seeder(3)), [2]);
    assert_eq!(peers(&leecher(2)), [1, 3]);
}

#[test]
fn all_of_a_swarm_is_introduced_in_the_long_run() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    for port in 1000..1200 {
        client.announce(&leecher(port));
    }
    let mut seen = BTreeSet::new();
    wait_for("all to be named", || {
        let reply = client.announce(&leecher(1));
        assert_eq!(reply.peers.len(), 50);
        seen.extend(reply.peers);
        (seen.len() == 200).then_some(())
    });
}

#[test]
fn completed_is_counted_once_and_only_with_nothing_left() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    let hash = Announce::default().info_hash;
    let announce = |event, left| {
        client.announce(&Announce {
            event,
            left,
            ..Announce::default()
        });
        client.scrape(&[hash])[0]
    };
    assert_eq!(announce(2, 5), [0, 0, 1]);
    assert_eq!(announce(1, 5), [0, 0, 1], "it has some left");
    assert_eq!(announce(1, 0), [1, 1, 0]);
    assert_eq!(announce(1, 0), [1, 1, 0], "once");
    assert_eq!(announce(0, 5), [0, 1, 1]);
    assert_eq!(announce(1, 0), [1, 1, 0], "once, whatever happened between");
    assert_eq!(announce(3, 0), [0, 1, 0], "remembered without peers");
}

#[test]
fn paused_and_unknown_events_are_none() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    for event in [0, 4, 5, u32::MAX] {
        let reply = client.announce(&Announce {
            event,
            ..Announce::default()
        });
        assert_eq!(reply.leechers, 1, "event {event}");
    }
}

#[test]
fn a_peer_that_stops_is_gone_and_is_sent_no_peers() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    client.announce(&seeder(1));
    client.announce(&leecher(2));
    let stop = Announce {
        event: 3,
        ..leecher(2)
    };
    let reply = client.announce(&stop);
    assert_eq!((reply.seeders, reply.leechers), (1, 0));
    assert_eq!(reply.peers, []);
    let again = client.announce(&stop);
    assert_eq!((again.seeders, again.leechers), (1, 0), "twice is once");
    client.announce(&Announce {
        event: 3,
        ..seeder(1)
    });
    assert_eq!(client.scrape(&[stop.info_hash]), [[0, 0, 0]]);
}

#[test]
fn a_scrape_answers_in_place_for_up_to_74_torrents() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    for n in [0_u8, 2, 73, 74] {
        client.announce(&Announce {
            info_hash: [n; 20],
            left: u64::from(n),
            ..Announce::default()
        });
    }
    let hashes: Vec<[u8; 20]> = (0..75).map(|n| [n; 20]).collect();
    let mut expected = vec![[0; 3]; 74];
    expected[0] = [1, 0, 0];
    expected[2] = [0, 0, 1];
    expected[73] = [0, 0, 1];
    assert_eq!(client.scrape(&hashes), expected, "the 75th is left out");
    assert_eq!(
        client.scrape(&[[2; 20], [1; 20], [2; 20]]),
        [[0, 0, 1], [0; 3], [0, 0, 1]]
    );
    let reply = client.exchange(&client.scrape_request(&[[0; 20]]));
    assert_eq!(
        reply,
        [0, 0, 0, 2, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn options_and_other_trailing_bytes_are_skipped() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    for tail in [&b"\x02\x0d/announce?x=y\x00"[..], b"\xff", &[0x5a; 1300]] {
        let mut request = client.announce_request(&leecher(1));
        request.extend_from_slice(tail);
        assert_eq!(client.exchange(&request)[..4], 1_u32.to_be_bytes());
        let mut request = client.scrape_request(&[[0xaa; 20]]);
        request.extend_from_slice(&tail[..1]);
        assert_eq!(client.exchange(&request).len(), 20);
        let mut request = connect_request();
        request.extend_from_slice(tail);
        assert_eq!(client.exchange(&request).len(), 16);
    }
}

#[test]
fn the_ip_field_is_not_believed() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    client.announce(&Announce {
        ip: 0x0909_0909,
        ..seeder(1)
    });
    let reply = client.announce(&leecher(2));
    assert_eq!(reply.peers, ["127.0.0.1:1".parse().expect("an address")]);
}

#[test]
fn what_is_not_a_request_gets_silence_or_less_than_it_sent() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
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
    for request in [
        stranger.announce_request(&leecher(1)),
        stranger.scrape_request(&[[0; 20]]),
    ] {
        let reply = stranger.exchange(&request);
        assert_eq!(reply[..8], [0, 0, 0, 3, 1, 2, 3, 4]);
        assert_eq!(&reply[8..], b"Connect again.");
        assert!(reply.len() <= request.len());
    }
    assert_eq!(
        client.scrape(&[[0xaa; 20]]),
        [[0, 0, 0]],
        "nothing was stored"
    );
}

#[test]
fn port_0_is_refused_with_the_reason() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    let reply = client.exchange(&client.announce_request(&leecher(0)));
    assert_eq!(reply[..4], 3_u32.to_be_bytes());
    assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
    let message = String::from_utf8_lossy(&reply[8..]).into_owned();
    assert_eq!(message, "port 0: a port from 1 to 65535 is wanted");
}

#[test]
fn on_a_wildcard_socket_replies_leave_from_the_address_that_was_asked() {
    let daemon = Daemon::start_with(&["-p", "0", "-P", "0"]);
    let port = daemon.udp4().port();
    for target in ["127.0.0.1", "127.0.0.9", "127.1.2.3"] {
        let tracker = SocketAddr::new(target.parse().expect("an address"), port);
        // The client's socket is connected: it hears nobody else.
        let client = Client::new(tracker);
        client.announce(&leecher(1));
    }
    let tracker = SocketAddr::new("::1".parse().expect("an address"), daemon.udp6().port());
    Client::new(tracker).announce(&leecher(1));
}

#[test]
fn a_peer_leaves_when_its_timeout_passes() {
    let daemon = Daemon::start(&["--interval", "1", "--peer-timeout", "2"]);
    let client = Client::new(daemon.udp4());
    // The first may be gone again before the last is there.
    wait_for("everybody to be there", || {
        client.announce(&seeder(1));
        client.announce(&leecher(2));
        client.announce(&Announce {
            info_hash: [1; 20],
            ..leecher(3)
        });
        let counts = client.scrape(&[[0xaa; 20], [1; 20]]);
        (counts == [[1, 0, 1], [0, 0, 1]]).then_some(())
    });
    wait_for("everybody to be gone", || {
        (client.scrape(&[[0xaa; 20], [1; 20]]) == [[0; 3]; 2]).then_some(())
    });
}

#[test]
fn at_its_limits_the_tracker_answers_and_does_not_store() {
    let daemon = Daemon::start(&["--max-peers", "3", "--max-torrents", "1"]);
    let client = Client::new(daemon.udp4());
    for port in 1..=3 {
        client.announce(&leecher(port));
    }
    let reply = client.announce(&leecher(4));
    assert_eq!((reply.leechers, reply.peers.len()), (3, 3));
    let other = Announce {
        info_hash: [1; 20],
        ..leecher(1)
    };
    assert_eq!(client.announce(&other).leechers, 0);
    assert_eq!(
        client.scrape(&[[0xaa; 20], [1; 20]]),
        [[0, 0, 3], [0, 0, 0]]
    );
}

/// A forged source port of 0 cannot be answered; the rest of its batch is.
#[cfg(target_os = "linux")]
#[test]
fn a_reply_that_cannot_be_sent_does_not_hold_up_the_others() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    if !send_from_port_0(daemon.udp4()) {
        return skip("raw sockets need python3 and root");
    }
    for port in 1..=100 {
        client.send(&client.announce_request(&leecher(port)));
    }
    for _ in 1..=100 {
        assert_eq!(client.receive()[..4], 1_u32.to_be_bytes());
    }
}

/// Connect requests from port 0 by a raw socket, which `std` does not have.
#[cfg(target_os = "linux")]
fn send_from_port_0(tracker: SocketAddr) -> bool {
    let script = "import socket, struct, sys\n\
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)\n\
        body = struct.pack('>QII', 0x41727101980, 0, 7)\n\
        head = struct.pack('>HHHH', 0, int(sys.argv[1]), 8 + len(body), 0)\n\
        for _ in range(10): raw.sendto(head + body, ('127.0.0.1', 0))\n";
    let port = tracker.port().to_string();
    let python = std::process::Command::new("python3")
        .args(["-c", script, &port])
        .status();
    python.is_ok_and(|status| status.success())
}

/// Both wait in the socket when the daemon reads them, as one batch.
#[test]
fn a_scrape_right_behind_an_announce_knows_of_it() {
    let daemon = Daemon::start(&[]);
    let client = Client::new(daemon.udp4());
    daemon.signal("STOP");
    client.send(&client.announce_request(&Announce {
        info_hash: [7; 20],
        left: 0,
        ..Announce::default()
    }));
    client.send(&client.scrape_request(&[[7; 20]]));
    daemon.signal("CONT");
    assert_eq!(client.receive()[..4], 1_u32.to_be_bytes());
    let scraped = client.receive();
    assert_eq!(scraped[..4], 2_u32.to_be_bytes());
    assert_eq!(scraped[8..12], 1_u32.to_be_bytes(), "one seeder");
}
