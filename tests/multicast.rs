//! opentracker's live sync, on networks of the tests' own: packets sent and received, byte by byte as captured between
//! two opentrackers.

#![cfg(target_os = "linux")]

mod common;

use common::net::{Host, in_sandbox};
use common::udp::Client;
use common::{DEADLINE, Daemon, Process, hurry, skip, uninterrupted, wait_for, wait_longer};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);
const PORT: u16 = 9696;

/// The time that a record waits for others to fill its packet.
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

/// A packet of that sender with records of IPv4.
fn packet(records: &[([u8; 20], &str, u8)]) -> Vec<u8> {
    let mut packet = captured("00000000");
    for (hash, peer, flags) in records {
        let peer: SocketAddr = peer.parse().expect("an address");
        packet.extend([&hash[..], &v4(peer.ip()).octets()].concat());
        packet.extend([&peer.port().to_be_bytes()[..], &[*flags, 0]].concat());
    }
    packet
}

fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("expected an IPv4 address: {v6}"),
    }
}

/// A socket that receives the group's packets.
fn listener(host: &Host) -> UdpSocket {
    host.within(|| {
        let socket = UdpSocket::bind((GROUP, PORT)).expect("a port");
        let joined = socket.join_multicast_v4(&GROUP, &v4(host.v4()));
        joined.expect("joins");
        let timeout = Some(WAIT + DEADLINE);
        socket.set_read_timeout(timeout).expect("a timeout");
        socket
    })
}

/// The next packet to the group, and its sender.
fn receive(listener: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let received = uninterrupted(|| listener.recv_from(&mut buffer));
    let (length, from) = received.expect("a packet");
    (from, buffer[..length].to_vec())
}

/// Returns a function that sends packets to the group. The host's link is up then: a client has got a reply.
fn sender(host: &Host, daemon: &Daemon) -> impl Fn(&[u8]) {
    host.client(daemon.udp4());
    let socket = host.within(|| UdpSocket::bind((host.v4(), 0)).expect("a port"));
    move |packet: &[u8]| {
        let sent = socket.send_to(packet, (GROUP, PORT));
        assert_eq!(sent.expect("is sent"), packet.len());
    }
}

/// Starts a daemon on both families of a host, with these flags too.
fn start(host: &Host, flags: &str) -> Daemon {
    let (v4, v6) = (host.v4(), host.v6());
    let flags = format!("-i {v6} -P 0 -i {v4} -p 0 -P 0 {flags}");
    host.start(&flags.split_whitespace().collect::<Vec<_>>())
}

/// Makes the announces of the capture. The host must be the first one, which has the captured addresses.
fn announce_captured(host: &Host, v4: SocketAddr, v6: SocketAddr) {
    let v4 = host.client(v4);
    v4.announce_fields(AA, 1111, 5, 2);
    v4.announce_fields(BB, 2222, 0, 1);
    host.client(v6).announce_fields(AA, 1116, 0, 2);
}

/// Waits for seeders, completed and leechers of a torrent.
fn wait_for_counts(client: &Client, info_hash: [u8; 20], counts: [u32; 3]) {
    wait_longer(&format!("counts of {counts:?}"), WAIT + DEADLINE, || {
        (client.scrape(&[info_hash]) == [counts]).then_some(())
    });
}

/// The peers of a swarm in the reply to a leecher on another host.
fn peers(host: &Host, tracker: SocketAddr, info_hash: [u8; 20]) -> Vec<String> {
    let client = host.client(tracker);
    let reply = client.announce_fields(info_hash, 9, 5, 2);
    client.announce_fields(info_hash, 9, 5, 3);
    reply.peers.iter().map(SocketAddr::to_string).collect()
}

/// Waits until the metrics of the live sync have these values, `ignored` by reason.
fn wait_for_metrics(host: &Host, daemon: &Daemon, expected: &[(&str, u32)]) {
    for (name, value) in expected {
        let line = format!("announced_multicast_{name} {value}");
        wait_longer(&line, WAIT + DEADLINE, || {
            let text = host.get(daemon.tcp4(), "/metrics").text();
            text.lines().any(|found| found == line).then_some(())
        });
    }
}

#[test]
fn packets_sent_are_those_captured_from_opentracker() {
    let test = "packets_sent_are_those_captured_from_opentracker";
    in_sandbox(test, |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let mut frames = one.frames();
        let daemon = start(&one, "-s 9696");
        daemon.wait_for_line("listening on multicast 224.0.23.5:9696 through 10.77.0.1");
        let listener = listener(&two);
        let begin = Instant::now();
        announce_captured(&one, daemon.udp4(), daemon.udp6());
        // A peer that was sent is not sent again with another completion.
        one.client(daemon.udp4()).announce_fields(BB, 2222, 0, 1);
        let mut ids = Vec::new();
        for expected in [V4, V6] {
            let (from, packet) = receive(&listener);
            // The daemon's clock has whole milliseconds.
            let waited = begin.elapsed() + Duration::from_millis(2);
            assert!(waited >= WAIT, "{waited:?}");
            assert_eq!(from.to_string(), "10.77.0.1:9696");
            let (id, rest) = packet.split_at(4);
            assert_eq!(rest, bytes(expected));
            ids.push(id.to_vec());
        }
        assert_eq!(ids[0], ids[1]);
        // Sent to the Ethernet address of the group, for no router to forward.
        let (mut frame, mut length) = ([0; 2048], 0);
        while !frame[..length].ends_with(&bytes(V4)) {
            length = frames.read(&mut frame).expect("a frame");
        }
        assert_eq!(frame[..6], [0x01, 0x00, 0x5e, 0x00, 0x17, 0x05]);
        let time_to_live = frame[14 + 8];
        assert_eq!(time_to_live, 1);
    });
}

#[test]
fn full_packets_are_sent_at_once_and_the_rest_at_the_end() {
    let test = "full_packets_are_sent_at_once_and_the_rest_at_the_end";
    in_sandbox(test, |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let listener = listener(&two);
        for threads in ["-j 1", "-j 2"] {
            let mut daemon = start(&one, &format!("-s 9696 {threads}"));
            let begin = Instant::now();
            let v4 = one.client(daemon.udp4());
            (1..=53).for_each(|port| drop(v4.announce_fields(AA, port, 5, 2)));
            let v6 = one.client(daemon.udp6());
            (1..=37).for_each(|port| drop(v6.announce_fields(AA, port, 5, 2)));
            for (kind, size, records) in [(0, 28, 52), (1, 40, 36)] {
                let (_, packet) = receive(&listener);
                assert_eq!(packet[4..8], [0, 0, 0, kind]);
                assert_eq!(packet.len(), 8 + records * size);
                for (record, port) in packet[8..].chunks(size).zip(1_u16..) {
                    assert_eq!(record[..20], AA);
                    let expected = [&port.to_be_bytes()[..], &[0, 0]].concat();
                    assert_eq!(record[size - 4..], expected);
                }
            }
            daemon.signal("TERM");
            let rest = [receive(&listener).1, receive(&listener).1];
            assert!(begin.elapsed() < WAIT, "{:?}", begin.elapsed());
            assert_eq!(rest.map(|packet| packet.len()), [8 + 28, 8 + 40]);
            assert!(daemon.wait().0.success());
        }
    });
}

#[test]
fn captured_packets_are_applied() {
    in_sandbox("captured_packets_are_applied", |lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let daemon = start(&one, "-s 9696 --sync-node 10.77.0.2");
        let scraper = one.client(daemon.udp4());
        let send = sender(&two, &daemon);
        send(&captured(V4));
        send(&captured(V6));
        wait_for_counts(&scraper, AA, [1, 0, 1]);
        wait_for_counts(&scraper, BB, [1, 1, 0]);
        assert_eq!(peers(&three, daemon.udp4(), AA), ["10.77.0.1:1111"]);
        assert_eq!(peers(&three, daemon.udp4(), BB), ["10.77.0.1:2222"]);
        assert_eq!(peers(&three, daemon.udp6(), AA), ["[fd77::1]:1116"]);

        // One peer stops. Another has stopped and started again before the packet was full.
        send(&packet(&[
            (AA, "10.77.0.1:1111", 0x20),
            (BB, "10.77.0.1:2222", 0xa0),
            (BB, "10.77.0.1:2222", 0),
        ]));
        wait_for_counts(&scraper, AA, [1, 0, 0]);
        wait_for_counts(&scraper, BB, [0, 1, 1]);
        // The last record is valid.
        send(&packet(&[(BB, "10.77.0.1:2222", 0x80)]));
        wait_for_counts(&scraper, BB, [1, 1, 0]);
        send(&packet(&[(BB, "10.77.0.1:2222", 0)]));
        wait_for_counts(&scraper, BB, [0, 1, 1]);
    });
}

#[test]
fn packets_of_senders_without_sync_node_are_ignored() {
    let test = "packets_of_senders_without_sync_node_are_ignored";
    in_sandbox(test, |lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let daemon = start(&one, "-A 10.77.0.1 -s 9696 --sync-node 10.77.0.2/32");
        let silent = start(&two, "-s 9696");
        silent.wait_for_line("multicast: send only: no --sync-node given");
        let send = sender(&two, &daemon);
        sender(&three, &daemon)(&captured(V4));
        let line = "multicast: ignored packets from 10.77.0.3: not in a --sync-node";
        daemon.wait_for_line(line);
        silent.wait_for_line(line);
        // Packets of a named sender are ignored if they are not sent to the group.
        let socket = two.within(|| UdpSocket::bind((two.v4(), 0)).expect("a port"));
        socket
            .send_to(&captured(V4), (one.v4(), PORT))
            .expect("is sent");
        send(&captured("00000002"));
        send(&packet(&[([7; 20], "10.77.0.9:0", 0)]));
        send(&captured(V6));
        let scraper = one.client(daemon.udp4());
        wait_for_counts(&scraper, AA, [1, 0, 0]);
        let with_port_0 = scraper.scrape(&[BB, [7; 20]]);
        assert_eq!(with_port_0, [[0; 3], [0, 0, 1]]);
        let expected = [
            ("received_packets_total", 2),
            ("received_records_total", 2),
            ("sent_packets_total", 0),
            ("ignored_packets_total{reason=\"stranger\"}", 1),
            ("ignored_packets_total{reason=\"malformed\"}", 1),
        ];
        wait_for_metrics(&one, &daemon, &expected);
        let scraper = two.client(silent.udp4());
        assert_eq!(scraper.scrape(&[AA, BB]), [[0; 3]; 2]);
    });
}

#[test]
fn torrents_that_the_whitelist_lacks_are_ignored() {
    let test = "torrents_that_the_whitelist_lacks_are_ignored";
    in_sandbox(test, |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let list = lan.file("list");
        std::fs::write(&list, "bb".repeat(20)).expect("can be written");
        let daemon = start(&one, &format!("-s 9696 --sync-node 10.77.0.2 -w {list}"));
        sender(&two, &daemon)(&captured(V4));
        wait_for_counts(&one.client(daemon.udp4()), BB, [1, 1, 0]);
        let log = daemon.log();
        std::fs::write(&list, format!("{}\n{}", "aa".repeat(20), "bb".repeat(20)))
            .expect("is ours");
        daemon.signal("HUP");
        wait_for("the list", || {
            (daemon.log().len() > log.len()).then_some(())
        });
        wait_for_counts(&one.client(daemon.udp4()), AA, [0, 0, 0]);
    });
}

/// Peers of both families, in both directions. The second daemon has an opentracker's configuration file.
#[test]
fn two_daemons_send_each_other_their_own_clients() {
    let test = "two_daemons_send_each_other_their_own_clients";
    in_sandbox(test, |lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let listener = listener(&three);
        let conf = lan.file("opentracker.conf");
        let text = "livesync.cluster.listen 10.77.0.2:9696\nlivesync.cluster.node_ip 10.77.0.1\n";
        std::fs::write(&conf, text).expect("can be written");
        let flags = "-j 2 --sync-multicast 10.77.0.1:9696 --sync-node 10.77.0.0/24";
        let first = start(&one, flags);
        let mut second = start(&two, &format!("-p 0 -f {conf}"));
        announce_captured(&one, first.udp4(), first.udp6());
        two.client(second.udp4()).announce_fields(AA, 3333, 0, 2);
        two.client(second.udp6()).announce_fields(BB, 4444, 5, 2);
        for (host, daemon) in [(&one, &first), (&two, &second)] {
            let scraper = host.client(daemon.udp4());
            wait_for_counts(&scraper, AA, [2, 0, 1]);
            wait_for_counts(&scraper, BB, [1, 1, 1]);
        }
        let all = ["10.77.0.1:1111", "10.77.0.2:3333"];
        assert_eq!(peers(&three, first.udp4(), AA), all);
        assert_eq!(peers(&three, second.udp4(), AA), all);
        // A stop is sent too. Each daemon sends only its own clients.
        one.client(first.udp4()).announce_fields(AA, 1111, 5, 3);
        wait_for_counts(&two.client(second.udp4()), AA, [2, 0, 0]);
        drop(first);
        second.signal("TERM");
        assert!(second.wait().0.success());
        listener.set_nonblocking(true).expect("is ours");
        let mut sent = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = listener.recv_from(&mut buffer) {
            let size = if buffer[7] == 0 { 28 } else { 40 };
            for record in buffer[8..length].chunks(size) {
                let port = [record[size - 4], record[size - 3]];
                sent.push((from.ip() == two.v4(), u16::from_be_bytes(port)));
            }
        }
        // The leecher with port 9 announced to both and stopped.
        sent.retain(|(_, port)| *port != 9);
        sent.sort_unstable();
        let of_one = [1111, 1111, 1116, 2222].map(|port| (false, port));
        let of_two = [3333, 4444].map(|port| (true, port));
        assert_eq!(sent, [&of_one[..], &of_two].concat());
    });
}

/// Their links carry the same records with versions.
#[test]
fn nodes_with_one_key_ignore_packets_of_each_other() {
    let test = "nodes_with_one_key_ignore_packets_of_each_other";
    in_sandbox(test, |lan| {
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
        wait_for_counts(&two.client(second.udp4()), AA, [1, 0, 1]);
        // Both accept the records of another sender.
        sender(&three, &first)(&packet(&[(BB, "10.77.0.3:4", 0)]));
        for (host, daemon) in [(&one, &first), (&two, &second)] {
            wait_for_counts(&host.client(daemon.udp4()), BB, [1, 1, 1]);
        }
        let own = [("ignored_packets_total{reason=\"own\"}", 2)];
        wait_for_metrics(&two, &second, &own);
    });
}

#[test]
fn sync_mapped_sends_ipv4_peers_as_mapped_ipv6() {
    let test = "sync_mapped_sends_ipv4_peers_as_mapped_ipv6";
    in_sandbox(test, |lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let mut daemon = start(&one, "-s 9696 --sync-mapped");
        let other = start(&two, "-s 9696 --sync-node 10.77.0.1");
        let listener = listener(&three);
        one.client(daemon.udp4()).announce_fields(BB, 2222, 0, 1);
        daemon.signal("TERM");
        let (_, packet) = receive(&listener);
        let record =
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 00000000000000000000ffff0a4d0001 08ae c0 00";
        assert_eq!(packet[4..], bytes(&format!("00000001 {record}")));
        wait_for_counts(&two.client(other.udp4()), BB, [1, 1, 0]);
        assert!(daemon.wait().0.success());
    });
}

/// Clients get replies while a sender sends as fast as it can.
#[test]
fn flood_does_not_delay_clients() {
    in_sandbox("flood_does_not_delay_clients", |lan| {
        let [one, two] = [lan.host(), lan.host()];
        let daemon = start(&one, "-s 9696 --sync-node 10.77.0.2");
        // With less than a third of a core, the daemon may not reach the limit.
        hurry(&daemon.id().to_string());
        let asking = one.client(daemon.udp4());
        let send = sender(&two, &daemon);
        let records = (1..=52).map(|n| ([n; 20], "10.77.0.2:7", 0));
        let packet = packet(&records.collect::<Vec<_>>());
        let shed = || {
            let line = "multicast: ignored packets from 10.77.0.2: too many";
            daemon.log().iter().any(|logged| logged.ends_with(line))
        };
        let start = Instant::now();
        while !shed() {
            (0..500).for_each(|_| send(&packet));
            asking.announce_fields(AA, 1111, 5, 0);
            assert!(start.elapsed() < 3 * DEADLINE, "nothing is shed");
        }
        wait_for_counts(&asking, [52; 20], [0, 0, 1]);
    });
}

#[test]
fn group_that_cannot_be_joined_is_in_the_error() {
    let test = "group_that_cannot_be_joined_is_in_the_error";
    in_sandbox(test, |lan| {
        let one = lan.host();
        let mut command = one.command(&common::program());
        command.args(["-i", "10.77.0.1", "-P", "0", "-s", "10.77.0.2:9696"]);
        let log = Daemon::try_spawn(command).err().expect("ends");
        let line = log.last().expect("a line");
        let start = "announced: cannot join multicast 224.0.23.5:9696 through 10.77.0.2: ";
        assert!(line.starts_with(start), "{log:?}");
    });
}

/// With an opentracker of 2024 or later, built with `WANT_SYNC_LIVE`, that `OPENTRACKER_LIVE` names.
/// No distribution has one.
#[test]
#[ignore = "OPENTRACKER_LIVE must name an opentracker with live sync"]
fn opentracker_and_announced_send_each_other_peers() {
    let Ok(program) = std::env::var("OPENTRACKER_LIVE") else {
        return skip("OPENTRACKER_LIVE names no opentracker");
    };
    let test = "opentracker_and_announced_send_each_other_peers";
    in_sandbox(test, |lan| {
        let [one, two, three] = [lan.host(), lan.host(), lan.host()];
        let conf = lan.file("opentracker.conf");
        let text = format!(
            "listen.tcp_udp 10.77.0.2:6969\nlisten.tcp_udp fd77::2.6969\ntracker.rootdir {}\n\
             livesync.cluster.listen 10.77.0.2:9696\nlivesync.cluster.node_ip 10.77.0.1\n",
            lan.file("")
        );
        std::fs::write(&conf, text).expect("can be written");
        let mut command = two.command(&program);
        command.args(["-f", &conf]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let _opentracker = Process(command.spawn().expect("starts"));
        let ours = start(&one, "-s 9696 --sync-node 10.77.0.2 --sync-mapped");
        let theirs_v4 = SocketAddr::new(two.v4(), 6969);
        let theirs_v6 = SocketAddr::new(two.v6(), 6969);
        // It does not listen at once.
        std::thread::sleep(Duration::from_secs(1));

        announce_captured(&one, ours.udp4(), ours.udp6());
        two.client(theirs_v4).announce_fields(AA, 3333, 0, 2);
        two.client(theirs_v6).announce_fields(BB, 4444, 5, 2);
        let [ours_v4, theirs] = [one.client(ours.udp4()), two.client(theirs_v4)];
        for (info_hash, counts) in [(AA, [2, 0, 1]), (BB, [1, 1, 1])] {
            // opentracker reads its clock only at a request, so both are asked in turn.
            wait_longer("equal counts", WAIT + DEADLINE, || {
                let found = [&ours_v4, &theirs].map(|client| client.scrape(&[info_hash])[0]);
                (found == [counts; 2]).then_some(())
            });
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
