//! Peers that others cannot reach: by their address, or by their port.

mod common;

use common::http::get;
use common::udp::{Announce, Client};
use common::{Daemon, run};
use std::net::SocketAddr;

const HASH: &str = "%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA";

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    let addresses = texts.iter().map(|text| text.parse().expect("an address"));
    addresses.collect()
}

fn udp(source: &str, daemon: &Daemon) -> Client {
    let mut client = Client::from(source, daemon.udp4());
    client.connect();
    client
}

/// The peers that a leecher over HTTP is sent.
fn peers(daemon: &Daemon, rest: &str) -> Vec<SocketAddr> {
    let target = format!("/announce?info_hash={HASH}&left=1&{rest}");
    get(daemon.tcp4(), &target).peers()
}

/// The address under which the tracker stores a client.
fn stored(daemon: &Daemon, rest: &str) -> String {
    let target = format!("/announce?info_hash={HASH}&port=7&{rest}");
    let reply = get(daemon.tcp4(), &target).bencoded();
    let address = reply.string("external ip");
    match <[u8; 4]>::try_from(address) {
        Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
        Err(_) => {
            let v6 = <[u8; 16]>::try_from(address).expect("16 bytes");
            std::net::Ipv6Addr::from(v6).to_string()
        }
    }
}

#[test]
fn clients_that_cannot_be_connected_to_are_counted_and_sent_to_no_one() {
    let daemon = Daemon::start(&[]);
    let client = udp("127.0.0.9", &daemon);
    for port in [0, 1, 2] {
        client.announce(&Announce::seeder(port));
        let source = format!("127.0.0.{}", 2 + port);
        udp(&source, &daemon).announce(&Announce::seeder(port));
    }
    peers(&daemon, "port=0");
    peers(&daemon, "");
    let reply = udp("127.0.0.1", &daemon).announce(&Announce::leecher(1));
    assert_eq!((reply.seeders, reply.leechers), (6, 2));
    let can_be_connected_to = addresses(&["127.0.0.4:2", "127.0.0.9:2"]);
    assert_eq!(reply.peers, can_be_connected_to);
    assert_eq!(peers(&daemon, "port=5"), can_be_connected_to);
    // They leave like any other.
    client.announce(&Announce::seeder(0).event(3));
    assert_eq!(client.scrape(&[[0xaa; 20]])[0][0], 5);
}

#[test]
fn clients_without_a_port_take_no_place_in_a_reply() {
    let daemon = Daemon::start(&[]);
    let client = udp("127.0.0.1", &daemon);
    for host in 2..52 {
        let source = format!("127.0.0.{host}");
        let client = udp(&source, &daemon);
        client.announce(&Announce::seeder(host % 2));
        if host % 5 == 0 {
            client.announce(&Announce::seeder(7));
        }
    }
    for want in [1, 5, 10, 50] {
        let reply = client.announce(&Announce::leecher(9).num_want(want));
        let most = usize::try_from(want).expect("fits").min(10);
        assert_eq!(reply.peers.len(), most);
        assert!(reply.peers.iter().all(|peer| peer.port() == 7));
    }
}

#[test]
fn a_family_whose_peers_are_skipped_leaves_its_places_to_the_other() {
    for (skipped, sent) in [(0, 1), (1, 0)] {
        let daemon = Daemon::start(&["--trust-ip", "127.0.0.1"]);
        let names = ["192.0.2.", "2001:db8::"];
        for host in 1..41 {
            let of = |family: usize, port| format!("ip={}{host}&port={port}", names[family]);
            peers(&daemon, &of(skipped, 1));
            peers(&daemon, &of(sent, 7));
        }
        assert_eq!(peers(&daemon, "numwant=40&port=7").len(), 40, "{skipped}");
    }
}

#[test]
fn mapped_clients_are_stored_under_the_address_of_their_network() {
    let maps = [
        "127.0.0.0/31=192.0.2.1",
        "127.0.0.0/28=192.0.2.2",
        "::1=2001:db8::1",
    ];
    let maps = maps.map(|map| ["--map", map]);
    let daemon = Daemon::start(maps.as_flattened());
    for source in ["127.0.0.1", "127.0.0.2", "127.0.1.3"] {
        udp(source, &daemon).announce(&Announce::seeder(6881));
    }
    let mut v6 = Client::from("::1", daemon.udp6());
    v6.connect();
    v6.announce(&Announce::seeder(6881));
    // A mapped client is sent no loopback peer.
    let mapped = ["192.0.2.1:6881", "192.0.2.2:6881", "[2001:db8::1]:6881"];
    assert_eq!(peers(&daemon, "port=1"), addresses(&mapped));
    assert_eq!(stored(&daemon, ""), "192.0.2.1");
    assert_eq!(
        stored(&daemon, "ip=192.0.2.9&ipv4=192.0.2.9"),
        "192.0.2.1",
        "it is not trusted"
    );
    let local = udp("127.0.1.4", &daemon).announce(&Announce::leecher(6881));
    let all = [
        "127.0.1.3:6881",
        "192.0.2.1:7",
        "192.0.2.1:6881",
        "192.0.2.2:6881",
    ];
    assert_eq!(local.peers, addresses(&all));
}

#[test]
fn trusted_clients_name_their_address() {
    let daemon = Daemon::start(&["--trust-ip", "127.0.0.1", "--trust-ip", "127.0.0.2"]);
    for (rest, address) in [
        ("ip=192.0.2.9", "192.0.2.9"),
        ("ip=2001:db8::9", "2001:db8::9"),
        ("ip=%5B2001%3Adb8%3A%3A9%5D", "2001:db8::9"),
        ("ipv6=[2001:db8::9]", "2001:db8::9"),
        ("ipv6=[2001:db8::9]&ipv4=192.0.2.8", "192.0.2.8"),
        ("ip=tracker.example", "127.0.0.1"),
        ("ip=0.0.0.0", "127.0.0.1"),
        ("ip=", "127.0.0.1"),
    ] {
        assert_eq!(stored(&daemon, rest), address, "{rest}");
    }
    let daemon = Daemon::start(&["--trust-ip", "127.0.0.2"]);
    assert_eq!(stored(&daemon, "ip=192.0.2.9"), "127.0.0.1");
    for source in ["127.0.0.2", "127.0.0.3"] {
        let announce = Announce {
            ip: 0xc000_0207,
            ..Announce::seeder(80)
        };
        udp(source, &daemon).announce(&announce);
    }
    let expected = addresses(&["127.0.0.1:7", "127.0.0.3:80", "192.0.2.7:80"]);
    assert_eq!(peers(&daemon, "port=9"), expected);
    // With no address named, it has its own.
    udp("127.0.0.2", &daemon).announce(&Announce::seeder(81));
    assert!(peers(&daemon, "port=9").contains(&addresses(&["127.0.0.2:81"])[0]));
}

#[test]
fn loopback_peers_are_sent_to_clients_on_the_loopback_only() {
    let daemon = Daemon::start(&["--trust-ip", "127.0.0.2", "--trust-ip", "127.0.0.1"]);
    for source in ["127.0.0.1", "127.0.0.3"] {
        udp(source, &daemon).announce(&Announce::seeder(80));
    }
    get(
        daemon.tcp6(),
        &format!("/announce?info_hash={HASH}&left=0&port=80"),
    );
    peers(&daemon, "ip=192.168.0.7&port=82");
    let private = addresses(&["192.168.0.7:82"]);
    assert_eq!(peers(&daemon, "port=81&ip=192.0.2.7"), private);
    let local = [
        "127.0.0.1:80",
        "127.0.0.3:80",
        "192.0.2.7:81",
        "192.168.0.7:82",
        "[::1]:80",
    ];
    assert_eq!(peers(&daemon, "port=83"), addresses(&local));
}

#[test]
fn the_first_local_peer_on_a_socket_for_everyone_is_logged_once() {
    const LINE: &str = "announced: peers: the first with a loopback or private address announced: ";
    let quiet = Daemon::start(&[]);
    peers(&quiet, "port=7");
    udp("127.0.0.1", &quiet).announce(&Announce::seeder(7));
    assert_eq!(quiet.count_lines(LINE), 0, "{:?}", quiet.log());
    for is_udp in [false, true] {
        let daemon = Daemon::start_with(&["-i", "0.0.0.0", "-p", "0", "-P", "0"]);
        let port = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
        let (tcp, udp) = (port(daemon.tcp4()), port(daemon.udp4()));
        get(tcp, "/stats");
        let mut client = Client::from("127.0.0.1", udp);
        client.connect();
        client.scrape(&[[0xaa; 20]]);
        assert_eq!(daemon.count_lines(LINE), 0, "no peer has announced");
        for _ in 0..2 {
            match is_udp {
                true => drop(client.announce(&Announce::seeder(7))),
                false => drop(get(tcp, &format!("/announce?info_hash={HASH}&port=7"))),
            }
        }
        assert!(daemon.wait_for_line(LINE).contains("--map and --trust-ip"));
        assert_eq!(daemon.count_lines(LINE), 1);
    }
}

#[test]
fn a_network_is_mapped_to_an_address_of_its_family() {
    let check = |map: &str| run(&["-n", "--map", map]);
    for good in [
        "10.0.0.0/8=192.0.2.1",
        "::1/128=2001:db8::1",
        "0.0.0.0/0=192.0.2.1",
    ] {
        assert_eq!(check(good).1, format!("map {good}\n"));
    }
    for bad in [
        "10.0.0.0/8=::1",
        "::/0=192.0.2.1",
        "10.0.0.0/8",
        "10.0.0.0/8=0.0.0.0",
        "10.0.0.0/8=x",
    ] {
        let start = format!("announced: --map: invalid value '{bad}': expected a network and an");
        let (code, _, error) = check(bad);
        assert!(code == Some(2) && error.starts_with(&start), "{error}");
    }
}
