//! Hosts with many peers in one swarm: a host that floods it, and hosts that many clients share.

mod common;

use common::http::{self, get};
use common::udp::{Announce, Client};
use common::{Daemon, Directory};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const A: [u8; 20] = [0xaa; 20];
#[cfg(target_os = "linux")]
const B: [u8; 20] = [0xbb; 20];

fn start(flags: &[&str]) -> Daemon {
    Daemon::start(&[&["--max-per-host", "128"], flags].concat())
}

/// The number of peers of each host.
fn by_host(peers: &[SocketAddr]) -> BTreeMap<IpAddr, usize> {
    let mut hosts = BTreeMap::new();
    for peer in peers {
        *hosts.entry(peer.ip()).or_insert(0) += 1;
    }
    hosts
}

/// A client that sends its announces from one address of the loopback.
#[cfg(target_os = "linux")]
fn from(source: [u8; 4], daemon: &Daemon) -> Client {
    let source = IpAddr::from(source).to_string();
    let mut client = Client::from(&source, daemon.udp4());
    client.connect();
    client
}

fn leecher(port: u16) -> Announce {
    Announce::leecher(port).of(A).num_want(0)
}

#[cfg(target_os = "linux")]
#[test]
fn one_address_with_65535_ports_is_stored_up_to_the_bound_and_named_twice() {
    let daemon = start(&[]);
    let flood = from([127, 0, 0, 9], &daemon);
    for port in 1..=u16::MAX {
        let left = u64::from(port % 3);
        flood.announce(&Announce {
            left,
            ..leecher(port)
        });
    }
    flood.announce(&leecher(1).of(B));
    let [[seeders, _, leechers], other] = flood.scrape(&[A, B])[..] else {
        panic!("two counts");
    };
    assert_eq!((seeders + leechers, other), (128, [0, 0, 1]));
    // Nothing else is there, so the first one receives as many as it asks for.
    let honest = |host| from([127, 0, 1, host], &daemon);
    let ask = |client: &Client| client.announce(&leecher(6881).num_want(50)).peers;
    assert_eq!(ask(&honest(1)).len(), 50);
    for host in 2..=60 {
        ask(&honest(host));
    }
    for host in 1..=60 {
        let peers = ask(&honest(host));
        let hosts = by_host(&peers);
        assert_eq!(
            (peers.len(), peers.iter().collect::<BTreeSet<_>>().len()),
            (50, 50)
        );
        assert!(hosts.values().all(|count| *count <= 2), "{hosts:?}");
    }
}

/// Clients that are trusted name an address for each announce.
#[test]
fn a_network_of_64_bits_is_one_host() {
    let daemon = start(&["--trust-ip", "127.0.0.1"]);
    let mut client = http::Client::new(daemon.tcp4());
    let mut announce = |ip: &str, numwant: u32| {
        let hash = "%AA".repeat(20);
        let query = format!("info_hash={hash}&port=7&left=1&ip={ip}&numwant={numwant}");
        let request = format!("GET /announce?{query} HTTP/1.1\r\nHost: tracker\r\n\r\n");
        client.request(request).peers()
    };
    for number in 0..300 {
        announce(&format!("2001:db8::{number:x}:1"), 0);
    }
    assert_eq!(Client::new(daemon.udp4()).scrape(&[A]), [[0, 0, 128]]);
    for number in 1..=40 {
        announce(&format!("2001:db8:0:{number:x}::1"), 0);
    }
    for number in 1..=40 {
        let peers = announce(&format!("2001:db8:0:{number:x}::1"), 30);
        let network = |peer: &&SocketAddr| peer.to_string().starts_with("[2001:db8::");
        assert_eq!(peers.len(), 30);
        assert!(peers.iter().filter(network).count() <= 2);
    }
}

#[test]
fn ten_thousand_hosts_of_which_some_have_60_clients_are_stored_and_served() {
    let daemon = start(&["--trust-ip", "127.0.0.1"]);
    let client = Client::new(daemon.udp4());
    let clients = (0..10_000).flat_map(|host: u32| {
        let ports = if host % 200 == 0 { 60 } else { 1 };
        (0..ports).map(move |port| Announce {
            ip: 0x2000_0000 | host.wrapping_mul(0x9e37_79b1) >> 4,
            left: u64::from(host % 5 == 0 || port > 30),
            ..leecher(6881 + port)
        })
    });
    let clients: Vec<Announce> = clients.collect();
    for announce in &clients {
        client.announce(announce);
    }
    let [[seeders, _, leechers]] = client.scrape(&[A])[..] else {
        panic!("one count");
    };
    assert_eq!(seeders + leechers, 12_950);
    let mut shared = BTreeSet::new();
    for announce in clients.iter().filter(|announce| announce.left > 0) {
        let reply = client.announce(&announce.clone().num_want(100));
        let hosts = by_host(&reply.peers);
        assert_eq!(
            (reply.leechers, reply.seeders, reply.peers.len()),
            (leechers, seeders, 100)
        );
        assert!(hosts.values().all(|count| *count <= 2), "{hosts:?}");
        shared.extend(reply.peers.into_iter().filter(|peer| peer.port() != 6881));
    }
    assert!(shared.len() > 1000, "{}", shared.len());
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_of_mapped_and_trusted_networks_are_exempt() {
    let exempt = ["--map", "127.0.0.2=192.0.2.9", "--trust-ip", "127.0.0.3"];
    let daemon = start(&[&exempt[..], &["--max-per-host", "4"]].concat());
    let stored = |source: [u8; 4], ip: u32| {
        let client = from(source, &daemon);
        for port in 1..=200 {
            client.announce(&Announce {
                ip,
                ..leecher(port)
            });
        }
        let [_, _, leechers] = client.scrape(&[A])[0];
        leechers
    };
    assert_eq!(stored([127, 0, 0, 2], 0), 200);
    assert_eq!(stored([127, 0, 0, 3], 0), 400);
    assert_eq!(stored([127, 0, 0, 4], 0), 404);
    // An address that a trusted client names is known as nothing but an address.
    assert_eq!(stored([127, 0, 0, 3], 0x0102_0304), 408);
    assert_eq!(
        stored([127, 0, 0, 3], u32::from_be_bytes([192, 0, 2, 9])),
        408
    );
}

#[test]
fn a_saved_state_is_loaded_up_to_the_bound() {
    let directory = Directory::new("hosts");
    let state = directory.file("state");
    let flags = ["--state", &state, "--state-interval", "0", "--max-per-host"];
    let mut daemon = start(&[&flags[..], &["0"]].concat());
    let client = Client::new(daemon.udp4());
    (1..=200).for_each(|port| drop(client.announce(&leecher(port))));
    assert_eq!(client.scrape(&[A]), [[0, 0, 200]]);
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    for (bound, stored) in [("50", 50), ("0", 200)] {
        let daemon = start(&[&flags[..], &[bound]].concat());
        let counts = get(
            daemon.tcp4(),
            &format!("/scrape?info_hash={}", "%AA".repeat(20)),
        );
        let text = counts.text();
        assert!(
            text.contains(&format!("10:incompletei{stored}e")),
            "{bound}: {text}"
        );
    }
}
