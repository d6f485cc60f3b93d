//! opentracker's live sync, on networks of the tests' own: the packets that are sent and received, byte by byte as
//! they were captured between two opentrackers.

#![cfg(target_os = "linux")]

mod common;

use common::http::get;
use common::net::{Host, Lan, in_sandbox};
use common::udp::{Announce, Client};
use common::{DEADLINE, Daemon, hurry, skip, uninterrupted, wait_for};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);
const PORT: u16 = 9696;

/// How long a record waits for others to fill its packet.
const WAIT: Duration = Duration::from_secs(15);

/// The capture: the sender's id, and a packet of each family without it.
const ID: [u8; 4] = [0x7e, 0x08, 0xf4, 0x79];
const V4: &str = "00000000
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0a4d0001 0457 00 00
    bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0a4d0001 08ae c0 00";
const V6: &str = "00000001
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa fd770000000000000000000000000001 045c 80 00";

const AA: [u8; 20] = [0xaa; 20];
const BB: [u8; 20] = [0xbb; 20];

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.chars().filter_map(|c| c.to_digit(16));
    let digits: Vec<u8> = digits.map(|d| d as u8).collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A packet of the capture's sender.
fn captured(rest: &str) -> Vec<u8> {
    [ID.to_vec(), bytes(rest)].concat()
}

/// A record of IPv4.
fn record(hash: [u8; 20], peer: &str, flags: u8) -> Vec<u8> {
    let peer: SocketAddr = peer.parse().expect("an address");
    let IpAddr::V4(ip) = peer.ip() else {
        panic!("IPv4 is wanted");
    };
    let port = peer.port().to_be_bytes();
    [&hash[..], &ip.octets(), &port, &[flags, 0]].concat()
}

/// A socket that hears the group.
fn listener(host: &Host) -> UdpSocket {
    host.within(|| {
        let socket = UdpSocket::bind((GROUP, PORT)).expect("a port");
        let IpAddr::V4(interface) = host.v4() else {
            panic!("IPv4 is wanted");
        };
        socket.join_multicast_v4(&GROUP, &interface).expect("joins");
        let timeout = Some(WAIT + DEADLINE);
        socket.set_read_timeout(timeout).expect("a timeout");
        socket
    })
}

/// The next packet to the group, and who sent it.
fn hear(listener: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let received = uninterrupted(|| listener.recv_from(&mut buffer));
    let (length, from) = received.expect("a packet");
    (from, buffer[..length].to_vec())
}

/// Something that tells the group what it is given.
fn speaker(host: &Host) -> impl Fn(&[u8]) {
    let socket = host.within(|| UdpSocket::bind((host.v4(), 0)).expect("a port"));
    move |packet: &[u8]| {
        let sent = socket.send_to(packet, (GROUP, PORT));
        assert_eq!(sent.expect("is sent"), packet.len());
    }
}

/// A daemon that serves both families on a host, with these flags besides.
fn start(host: &Host, flags: &str) -> Daemon {
    let (v4, v6) = (host.v4(), host.v6());
    let flags = format!("-i {v6} -P 0 -i {v4} -p 0 -P 0 {flags}");
    host.start(&flags.split_whitespace().collect::<Vec<_>>())
}

/// A client of the host's own addresses.
fn client(host: &Host, tracker: SocketAddr) -> Client {
    let source = match tracker.is_ipv6() {
        true => host.v6(),
        false => host.v4(),
    };
    host.within(|| {
        let mut client = Client::from(&source.to_string(), tracker);
        client.connect();
        client
    })
}

fn announce(client: &Client, info_hash: [u8; 20], port: u16, left: u64, event: u32) {
    client.announce(&Announce {
        info_hash,
        left,
        event,
        port,
        ..Announce::default()
    });
}

/// The announces of the capture, made by the host itself, which must be the first.
fn announce_captured(host: &Host, v4: SocketAddr, v6: SocketAddr) {
    let v4 = client(host, v4);
    announce(&v4, AA, 1111, 5, 2);
    announce(&v4, BB, 2222, 0, 1);
    announce(&client(host, v6), AA, 1116, 0, 2);
}

/// Waits for seeders, completed and leechers of a torrent.
fn wait_for_counts(client: &Client, info_hash: [u8; 20], counts: [u32; 3]) {
    let start = Instant::now();
    loop {
        let found = client.scrape(&[info_hash])[0];
        if found == counts {
            return;
        }
        let late = start.elapsed() > WAIT + DEADLINE;
        assert!(!late, "{found:?} instead of {counts:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Who is in a swarm, as a leecher of another host is told.
fn peers(host: &Host, tracker: SocketAddr, info_hash: [u8; 20]) -> Vec<String> {
    let client = client(host, tracker);
    let reply = client.announce(&Announce {
        info_hash,
        port: 9,
        ..Announce::default()
    });
    announce(&client, info_hash, 9, 5, 3);
    reply.peers.iter().map(SocketAddr::to_string).collect()
}

/// Waits until the metrics of the live sync have these values, `ignored` by reason.
fn wait_for_metrics(host: &Host, daemon: &Daemon, expected: &[(&str, u32)]) {
    let start = Instant::now();
    loop {
        let text = host.within(|| get(daemon.tcp4(), "/metrics").text());
        let is_there = |(name, value): &(&str, u32)| {
            let line = format!("announced_multicast_{name} {value}");
            text.lines().any(|found| found == line)
        };
        if expected.iter().all(is_there) {
            return;
        }
        let late = start.elapsed() > WAIT + DEADLINE;
        assert!(!late, "instead of {expected:?}: {text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn packets_sent_are_those_captured_from_opentracker() {
    in_sandbox(
        "packets_sent_are_those_captured_from_opentracker",
        |lan: &Lan| {
            let [one, two] = [lan.host(), lan.host()];
            one.record();
            let daemon = start(&one, "-s 9696");
            daemon.wait_for_line("listening on multicast 224.0.23.5:9696 through 10.77.0.1");
            let listener = listener(&two);
            let begin = Instant::now();
            announce_captured(&one, daemon.udp4(), daemon.udp6());
            // Who announces again has been told already, however often it completes.
            announce(&client(&one, daemon.udp4()), BB, 2222, 0, 1);
            let mut ids = Vec::new();
            for expected in [V4, V6] {
                let (from, packet) = hear(&listener);
                // The daemon's clock has whole milliseconds.
                let waited = begin.elapsed() + Duration::from_millis(2);
                assert!(waited >= WAIT, "{waited:?}");
                assert_eq!(from.to_string(), "10.77.0.1:9696");
                let (id, rest) = packet.split_at(4);
                assert_eq!(rest, bytes(expected));
                ids.push(id.to_vec());
            }
            assert_eq!(ids[0], ids[1]);
            // To Ethernet's address for the group, and no router passes it on.
            let frames = one.recorded();
            let told: Vec<_> = frames
                .iter()
                .filter(|frame| frame.ends_with(&bytes(V4)))
                .collect();
            assert_eq!(told.len(), 1);
            assert_eq!(told[0][..6], [0x01, 0x00, 0x5e, 0x00, 0x17, 0x05]);
            let time_to_live = told[0][14 + 8];
            assert_eq!(time_to_live, 1);
        },
    );
}

#[test]
fn full_packets_are_sent_at_once_and_the_rest_at_the_end() {
    in_sandbox(
        "full_packets_are_sent_at_once_and_the_rest_at_the_end",
        |lan: &Lan| {
            let [one, two] = [lan.host(), lan.host()];
            let listener = listener(&two);
            for threads in ["-j 1", "-j 2"] {
                let mut daemon = start(&one, &format!("-s 9696 {threads}"));
                let begin = Instant::now();
                let v4 = client(&one, daemon.udp4());
                (1..=53).for_each(|port| announce(&v4, AA, port, 5, 2));
                let v6 = client(&one, daemon.udp6());
                (1..=37).for_each(|port| announce(&v6, AA, port, 5, 2));
                for (kind, size, records) in [(0, 28, 52), (1, 40, 36)] {
                    let (_, packet) = hear(&listener);
                    assert_eq!(packet[4..8], [0, 0, 0, kind]);
                    assert_eq!(packet.len(), 8 + records * size);
                    for (record, port) in packet[8..].chunks(size).zip(1_u16..) {
                        assert_eq!(record[..20], AA);
                        let expected = [&port.to_be_bytes()[..], &[0, 0]].concat();
                        assert_eq!(record[size - 4..], expected);
                    }
                }
                daemon.signal("TERM");
                let rest = [hear(&listener).1, hear(&listener).1];
                assert!(begin.elapsed() < WAIT, "{:?}", begin.elapsed());
                assert_eq!(rest.map(|packet| packet.len()), [8 + 28, 8 + 40]);
                assert!(daemon.wait().0.success());
            }
        },
    );
}

#[test]
fn captured_packets_are_applied() {
    in_sandbox("captured_packets_are_applied", |lan: &Lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let daemon = start(&one, "-s 9696 --sync-node 10.77.0.2");
        let scraper = client(&one, daemon.udp4());
        let tell = speaker(&two);
        tell(&captured(V4));
        tell(&captured(V6));
        wait_for_counts(&scraper, AA, [1, 0, 1]);
        wait_for_counts(&scraper, BB, [1, 1, 0]);
        assert_eq!(peers(&three, daemon.udp4(), AA), ["10.77.0.1:1111"]);
        assert_eq!(peers(&three, daemon.udp4(), BB), ["10.77.0.1:2222"]);
        assert_eq!(peers(&three, daemon.udp6(), AA), ["[fd77::1]:1116"]);

        // It stops; another has stopped and come back before the packet was full.
        let back = [
            captured("00000000"),
            record(AA, "10.77.0.1:1111", 0x20),
            record(BB, "10.77.0.1:2222", 0xa0),
            record(BB, "10.77.0.1:2222", 0),
        ];
        tell(&back.concat());
        wait_for_counts(&scraper, AA, [1, 0, 0]);
        wait_for_counts(&scraper, BB, [0, 1, 1]);
        // What is told last holds.
        tell(&[captured("00000000"), record(BB, "10.77.0.1:2222", 0x80)].concat());
        wait_for_counts(&scraper, BB, [1, 1, 0]);
        tell(&[captured("00000000"), record(BB, "10.77.0.1:2222", 0)].concat());
        wait_for_counts(&scraper, BB, [0, 1, 1]);
    });
}

#[test]
fn packets_of_unnamed_senders_are_ignored() {
    in_sandbox("packets_of_unnamed_senders_are_ignored", |lan: &Lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let daemon = start(&one, "-A 10.77.0.1 -s 9696 --sync-node 10.77.0.2/32");
        let silent = start(&two, "-s 9696");
        silent.wait_for_line("multicast: all packets are ignored, as no --sync-node is given");
        speaker(&three)(&captured(V4));
        let line = "multicast: packets from 10.77.0.3 are ignored: no --sync-node holds it";
        daemon.wait_for_line(line);
        silent.wait_for_line(line);
        // So are packets that a named sender does not send to the group.
        let socket = two.within(|| UdpSocket::bind((two.v4(), 0)).expect("a port"));
        socket
            .send_to(&captured(V4), (one.v4(), PORT))
            .expect("is sent");
        let tell = speaker(&two);
        tell(&captured("00000002"));
        tell(&[captured("00000000"), record([7; 20], "10.77.0.9:0", 0)].concat());
        tell(&captured(V6));
        let scraper = client(&one, daemon.udp4());
        wait_for_counts(&scraper, AA, [1, 0, 0]);
        assert_eq!(scraper.scrape(&[BB, [7; 20]]), [[0; 3]; 2]);
        let expected = [
            ("received_packets_total", 2),
            ("received_records_total", 1),
            ("sent_packets_total", 0),
            ("ignored_packets_total{reason=\"stranger\"}", 1),
            ("ignored_packets_total{reason=\"malformed\"}", 1),
        ];
        wait_for_metrics(&one, &daemon, &expected);
        let scraper = client(&two, silent.udp4());
        assert_eq!(scraper.scrape(&[AA, BB]), [[0; 3]; 2]);
    });
}

#[test]
fn torrents_on_no_whitelist_are_left_out() {
    in_sandbox("torrents_on_no_whitelist_are_left_out", |lan: &Lan| {
        let [one, two] = [lan.host(), lan.host()];
        let list = lan.file("list");
        std::fs::write(&list, "bb".repeat(20)).expect("can be written");
        let daemon = start(&one, &format!("-s 9696 --sync-node 10.77.0.2 -w {list}"));
        speaker(&two)(&captured(V4));
        wait_for_counts(&client(&one, daemon.udp4()), BB, [1, 1, 0]);
        let log = daemon.log();
        std::fs::write(&list, format!("{}\n{}", "aa".repeat(20), "bb".repeat(20)))
            .expect("is ours");
        daemon.signal("HUP");
        wait_for("the list", || {
            (daemon.log().len() > log.len()).then_some(())
        });
        wait_for_counts(&client(&one, daemon.udp4()), AA, [0, 0, 0]);
    });
}

/// Peers of both families, from either to the other; the second is configured as an opentracker is.
#[test]
fn two_daemons_tell_each_other_about_own_clients() {
    in_sandbox(
        "two_daemons_tell_each_other_about_own_clients",
        |lan: &Lan| {
            let [one, two, three] = [lan.host(), lan.host(), lan.host()];
            let listener = listener(&three);
            let conf = lan.file("opentracker.conf");
            let text =
                "livesync.cluster.listen 10.77.0.2:9696\nlivesync.cluster.node_ip 10.77.0.1\n";
            std::fs::write(&conf, text).expect("can be written");
            let first = start(
                &one,
                "-j 2 --sync-multicast 10.77.0.1:9696 --sync-node 10.77.0.0/24",
            );
            let second = start(&two, &format!("-p 0 -f {conf}"));
            announce_captured(&one, first.udp4(), first.udp6());
            announce(&client(&two, second.udp4()), AA, 3333, 0, 2);
            announce(&client(&two, second.udp6()), BB, 4444, 5, 2);
            for (host, daemon) in [(&one, &first), (&two, &second)] {
                let scraper = client(host, daemon.udp4());
                wait_for_counts(&scraper, AA, [2, 0, 1]);
                wait_for_counts(&scraper, BB, [1, 1, 1]);
            }
            let all = ["10.77.0.1:1111", "10.77.0.2:3333"];
            assert_eq!(peers(&three, first.udp4(), AA), all);
            assert_eq!(peers(&three, second.udp4(), AA), all);
            // A stop is told too. Each of them tells of its own clients alone.
            announce(&client(&one, first.udp4()), AA, 1111, 5, 3);
            wait_for_counts(&client(&two, second.udp4()), AA, [2, 0, 0]);
            drop(first);
            let second_stops = |daemon: &mut Daemon| {
                daemon.signal("TERM");
                assert!(daemon.wait().0.success());
            };
            let mut second = second;
            second_stops(&mut second);
            listener.set_nonblocking(true).expect("is ours");
            let mut told = Vec::new();
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = listener.recv_from(&mut buffer) {
                let size = if buffer[7] == 0 { 28 } else { 40 };
                for record in buffer[8..length].chunks(size) {
                    let port = [record[size - 4], record[size - 3]];
                    told.push((from.ip() == two.v4(), u16::from_be_bytes(port)));
                }
            }
            // Port 9 has asked and stopped, here and there.
            told.retain(|(_, port)| *port != 9);
            told.sort_unstable();
            let of_one = [1111, 1111, 1116, 2222].map(|port| (false, port));
            let of_two = [3333, 4444].map(|port| (true, port));
            assert_eq!(told, [&of_one[..], &of_two].concat());
        },
    );
}

/// They tell each other over their links, where records have versions.
#[test]
fn nodes_of_one_key_ignore_each_other_s_packets() {
    in_sandbox(
        "nodes_of_one_key_ignore_each_other_s_packets",
        |lan: &Lan| {
            let [one, two, three] = [lan.host(), lan.host(), lan.host()];
            let key = lan.file("key");
            assert_eq!(common::run(&["--make-key", &key]).0, Some(0));
            let [first, second] = [(&one, &two), (&two, &one)].map(|(own, other)| {
                let flags = format!(
                    "--cluster-listen {}:6970 --cluster-peer {}:6970 --cluster-key {key} -s 9696 \
                 --sync-node 10.77.0.0/16 -A {}",
                    own.v4(),
                    other.v4(),
                    own.v4()
                );
                start(own, &flags)
            });
            announce_captured(&one, first.udp4(), first.udp6());
            wait_for_counts(&client(&two, second.udp4()), AA, [1, 0, 1]);
            // What another one tells, both take.
            speaker(&three)(&[captured("00000000"), record(BB, "10.77.0.3:4", 0)].concat());
            for (host, daemon) in [(&one, &first), (&two, &second)] {
                wait_for_counts(&client(host, daemon.udp4()), BB, [1, 1, 1]);
            }
            let own = [("ignored_packets_total{reason=\"own\"}", 2)];
            wait_for_metrics(&two, &second, &own);
        },
    );
}

#[test]
fn ipv4_peers_can_be_sent_as_mapped_ones() {
    in_sandbox("ipv4_peers_can_be_sent_as_mapped_ones", |lan: &Lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let mut daemon = start(&one, "-s 9696 --sync-mapped");
        let other = start(&two, "-s 9696 --sync-node 10.77.0.1");
        let listener = listener(&three);
        announce(&client(&one, daemon.udp4()), BB, 2222, 0, 1);
        daemon.signal("TERM");
        let (_, packet) = hear(&listener);
        let record =
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 00000000000000000000ffff0a4d0001 08ae c0 00";
        assert_eq!(packet[4..], bytes(&format!("00000001 {record}")));
        wait_for_counts(&client(&two, other.udp4()), BB, [1, 1, 0]);
        assert!(daemon.wait().0.success());
    });
}

/// Clients are answered while somebody sends as much as the network takes.
#[test]
fn flood_does_not_delay_clients() {
    in_sandbox("flood_does_not_delay_clients", |lan: &Lan| {
        let [one, two] = [lan.host(), lan.host()];
        let daemon = start(&one, "-s 9696 --sync-node 10.77.0.2");
        // On a machine without a third of a core for it, it may not get as far as the bound.
        hurry(&daemon.id().to_string());
        let asking = client(&one, daemon.udp4());
        let tell = speaker(&two);
        let records = (1..=52).map(|n| record([n; 20], "10.77.0.2:7", 0));
        let packet = [captured("00000000"), records.collect::<Vec<_>>().concat()].concat();
        let mut answers = 0;
        let shed = || {
            let line = "multicast: packets from 10.77.0.2 are ignored: there are too many";
            daemon.log().iter().any(|logged| logged.ends_with(line))
        };
        let start = Instant::now();
        while !shed() {
            (0..500).for_each(|_| tell(&packet));
            announce(&asking, AA, 1111, 5, 0);
            answers += 1;
            assert!(start.elapsed() < 3 * DEADLINE, "nothing is shed");
        }
        assert!(answers > 0);
        wait_for_counts(&asking, [52; 20], [0, 0, 1]);
    });
}

#[test]
fn group_that_cannot_be_joined_is_named() {
    in_sandbox("group_that_cannot_be_joined_is_named", |lan: &Lan| {
        let one = lan.host();
        let mut command = one.command(&common::program());
        command.args(["-i", "10.77.0.1", "-P", "0", "-s", "10.77.0.2:9696"]);
        let log = Daemon::try_spawn(command).err().expect("ends");
        let line = log.last().expect("a line");
        let start = "announced: cannot join multicast 224.0.23.5:9696 through 10.77.0.2: ";
        assert!(line.starts_with(start), "{log:?}");
    });
}

/// An opentracker, killed when its handle goes.
struct Opentracker(Child);

impl Drop for Opentracker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With an opentracker of 2024 or later, built with `WANT_SYNC_LIVE`, that `OPENTRACKER_LIVE` names.
/// No distribution has one.
#[test]
#[ignore = "OPENTRACKER_LIVE must name an opentracker with live sync"]
fn an_opentracker_and_ours_tell_each_other() {
    let Ok(program) = std::env::var("OPENTRACKER_LIVE") else {
        return skip("OPENTRACKER_LIVE names no opentracker");
    };
    in_sandbox("an_opentracker_and_ours_tell_each_other", |lan: &Lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let conf = lan.file("opentracker.conf");
        let text = format!(
            "listen.tcp_udp 10.77.0.2:6969\nlisten.tcp_udp fd77::2.6969\ntracker.rootdir {}\n\
             livesync.cluster.listen 10.77.0.2:9696\nlivesync.cluster.node_ip 10.77.0.1\n",
            lan.file("")
        );
        std::fs::write(&conf, text).expect("can be written");
        let mut command: Command = two.command(&program);
        command
            .args(["-f", &conf])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _opentracker = Opentracker(command.spawn().expect("starts"));
        let ours = start(&one, "-s 9696 --sync-node 10.77.0.2 --sync-mapped");
        let theirs_v4 = SocketAddr::new(two.v4(), 6969);
        let theirs_v6 = SocketAddr::new(two.v6(), 6969);
        // It does not listen from its first moment on.
        std::thread::sleep(Duration::from_secs(1));

        announce_captured(&one, ours.udp4(), ours.udp6());
        announce(&client(&two, theirs_v4), AA, 3333, 0, 2);
        announce(&client(&two, theirs_v6), BB, 4444, 5, 2);
        let [ours_v4, theirs] = [client(&one, ours.udp4()), client(&two, theirs_v4)];
        for (info_hash, counts) in [(AA, [2, 0, 1]), (BB, [1, 1, 1])] {
            let start = Instant::now();
            // It looks at its clock only when it is asked for something.
            while [&ours_v4, &theirs].map(|client| client.scrape(&[info_hash])[0]) != [counts; 2] {
                assert!(start.elapsed() < WAIT + DEADLINE);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let both = ["10.77.0.1:1111", "10.77.0.2:3333"];
        for tracker in [theirs_v4, ours.udp4()] {
            let mut found = peers(&three, tracker, AA);
            found.retain(|peer| peer != "10.77.0.3:9");
            assert_eq!(found, both);
        }
        for (tracker, peer) in [
            (theirs_v6, "[fd77::1]:1116"),
            (ours.udp6(), "[fd77::1]:1116"),
        ] {
            assert!(peers(&three, tracker, AA).contains(&peer.to_string()));
        }
        for tracker in [theirs_v6, ours.udp6()] {
            assert!(peers(&three, tracker, BB).contains(&"[fd77::2]:4444".to_string()));
        }
    });
}
