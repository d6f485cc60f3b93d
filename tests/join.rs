//! Nodes that join a cluster: whole from the first second, whatever happens meanwhile.

mod common;

use announced::sync::node::{Node, Outbox, Settings};
use announced::tracker::{Limits, Tracker};
use common::http;
use common::udp::{Announce, Client};
use common::{Daemon, Directory, free_address, run, uninterrupted, wait_for};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Torrents of a table that takes a while to be given.
const MANY: u32 = 100_000;

fn hash(n: u32) -> [u8; 20] {
    let mut hash = [7; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash
}

fn key(name: &str) -> (Directory, String) {
    let directory = Directory::new(&format!("join-{name}"));
    let key = directory.file("key");
    let made = run(&["--make-key", &key]);
    assert_eq!(made, (Some(0), String::new(), String::new()));
    (directory, key)
}

/// A node that knows these others; it may not be whole yet.
fn node(key: &str, others: &[&Daemon], flags: &[&str]) -> Daemon {
    let mut all = vec!["--cluster-listen", "127.0.0.1:0", "--cluster-key", key];
    let others: Vec<String> = others.iter().map(|o| o.cluster().to_string()).collect();
    for other in &others {
        all.extend(["--cluster-peer", other]);
    }
    all.extend(flags);
    Daemon::start(&all)
}

/// Status and body.
fn health(node: &Daemon) -> (u16, String) {
    let response = http::get(node.tcp4(), "/health");
    (response.status, response.text())
}

/// Waits until it says that it is whole; what it said before that.
fn wait_until_whole(node: &Daemon) -> usize {
    let begin = Instant::now();
    let mut syncing = 0;
    loop {
        match health(node) {
            (200, text) if text == "ok\n" => return syncing,
            (503, text) if text == "syncing\n" => syncing += 1,
            other => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(100), "is not whole");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A node that found itself alone.
fn alone(key: &str, flags: &[&str]) -> Daemon {
    let node = node(key, &[], flags);
    node.wait_for_line("cluster: no other node is there");
    wait_until_whole(&node);
    node
}

/// Announces of one client, many on their way at once.
fn announce_all(client: &Client, announces: impl Iterator<Item = Announce>) {
    let announces: Vec<Announce> = announces.collect();
    for batch in announces.chunks(64) {
        for announce in batch {
            client.send(&client.announce_request(announce));
        }
        for _ in batch {
            let reply = client.receive();
            assert_eq!(reply[..4], 1_u32.to_be_bytes(), "{reply:?}");
        }
    }
}

/// One peer in each of these torrents, every third a seeder that has just completed it.
fn fill(node: &Daemon, torrents: std::ops::Range<u32>) {
    let announces = torrents.map(|n| Announce {
        info_hash: hash(n),
        left: if n % 3 == 0 { 0 } else { 1 },
        event: if n % 3 == 0 { 1 } else { 2 },
        ..Announce::default()
    });
    announce_all(&Client::new(node.udp4()), announces);
}

/// Seeders, completed and leechers of all of these torrents.
fn counts(node: &Daemon, torrents: std::ops::Range<u32>) -> Vec<[u32; 3]> {
    let client = Client::new(node.udp4());
    let hashes: Vec<_> = torrents.map(hash).collect();
    let batches = hashes.chunks(70);
    batches.flat_map(|batch| client.scrape(batch)).collect()
}

fn leecher(torrent: u32, port: u16) -> Announce {
    Announce {
        info_hash: hash(torrent),
        port,
        ..Announce::default()
    }
}

fn stopped(torrent: u32, port: u16) -> Announce {
    Announce {
        event: 3,
        ..leecher(torrent, port)
    }
}

/// How many torrents it knows.
fn torrents(node: &Daemon) -> usize {
    let text = http::get(node.tcp4(), "/metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("announced_torrents "));
    line.and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn a_node_that_joins_is_whole_and_misses_nothing_meanwhile() {
    let (_directory, key) = key("large");
    let a = alone(&key, &[]);
    fill(&a, 0..MANY);
    let client = Client::new(a.udp4());
    // Until it goes on, the other cannot be whole.
    a.signal("STOP");
    let b = node(&key, &[&a], &[]);
    assert_eq!(health(&b), (503, "syncing\n".into()));
    a.signal("CONT");
    let mut meanwhile = 0;
    loop {
        // A torrent of before and a new one get a peer, and another torrent of before loses its own.
        let n = meanwhile;
        meanwhile += 1;
        announce_all(
            &client,
            [
                leecher(n, 1111),
                leecher(MANY + n, 1111),
                stopped(MANY - 1 - n, 6881),
            ]
            .into_iter(),
        );
        if health(&b).0 == 200 {
            break;
        }
    }
    // It says so once it has all of it, and not before.
    let untouched = counts(&b, meanwhile..MANY - meanwhile);
    assert!(untouched.iter().all(|[s, _, l]| s + l == 1));
    b.wait_for_line("cluster: whole: ");
    a.wait_for_line("cluster: gave ");
    let expected = counts(&a, 0..MANY + meanwhile);
    let of = |n: u32| expected[n as usize];
    assert_eq!(of(MANY - 1).iter().sum::<u32>() - of(MANY - 1)[1], 0);
    assert_eq!(of(MANY), [0, 0, 1]);
    wait_for("the last of what was announced meanwhile", || {
        (counts(&b, 0..MANY + meanwhile) == expected).then_some(())
    });
}

#[test]
fn those_that_start_together_are_whole_soon_and_do_not_repeat_themselves() {
    let (_directory, key) = key("together");
    let a = node(&key, &[], &[]);
    let b = node(&key, &[&a], &[]);
    assert_eq!(health(&a), (503, "syncing\n".into()));
    let response = http::get(b.tcp4(), "/health");
    assert_eq!(response.header("Retry-After"), Some("1"));
    let c = node(&key, &[&a, &b], &[]);
    for node in [&a, &b, &c] {
        wait_until_whole(node);
    }
    let refused = "it is not whole itself yet";
    b.wait_for_line(refused);
    // Each has asked both others about once a second.
    assert!(c.count_lines(refused) <= 2, "{:?}", c.log());
}

#[test]
fn a_node_of_another_key_gets_nothing() {
    let (_directory, ours) = key("ours");
    let (_other_directory, theirs) = key("theirs");
    let a = alone(&ours, &[]);
    fill(&a, 0..10);
    let b = node(&theirs, &[&a], &[]);
    wait_until_whole(&b);
    b.wait_for_line("cluster: no other node is there");
    assert_eq!(torrents(&b), 0);
}

#[test]
fn where_a_node_dies_in_the_middle_another_goes_on() {
    let (_directory, key) = key("dies");
    let c = alone(&key, &[]);
    fill(&c, 0..MANY);
    // What is on its way when a node dies may be all that is missing: then the next one dies.
    for _ in 0..10 {
        let a = node(&key, &[&c], &[]);
        wait_until_whole(&a);
        // The first of its peers is asked first.
        let b = node(&key, &[&a, &c], &[]);
        let from = format!("no table from {}: ", a.cluster());
        wait_for("a part of the table", || (torrents(&b) > 0).then_some(()));
        drop(a);
        wait_until_whole(&b);
        b.wait_for_line("cluster: whole: ");
        let told: Vec<String> = b.log();
        let place = |part: &str| told.iter().position(|line| line.contains(part));
        assert_eq!(counts(&b, 0..MANY), counts(&c, 0..MANY));
        if let Some(failure) = place(&from) {
            assert!(Some(failure) < place("cluster: whole: "), "{told:?}");
            return;
        }
    }
    panic!("ten nodes had all of it before the first died");
}

#[test]
fn whoever_connects_without_the_key_is_of_no_harm() {
    let (_directory, key) = key("strangers");
    let a = alone(&key, &[]);
    fill(&a, 0..1000);
    let target = a.cluster();
    // Nobody is known to be at this address: not even a greeting is waited for.
    let mut early = TcpStream::connect(target).expect("connects");
    assert_eq!(early.read(&mut [0; 64]).unwrap_or(0), 0);
    let b = node(&key, &[&a], &[]);
    wait_until_whole(&b);
    // Now this is an address of a node. More at once than are talked to, some silent, some not.
    let mut strangers = Vec::new();
    for n in 0..300_u32 {
        let mut stream = TcpStream::connect(target).expect("connects");
        let wait = Some(Duration::from_secs(15));
        stream.set_read_timeout(wait).expect("a timeout");
        // They may have been closed already.
        let _ = match n % 5 {
            0 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n"),
            1 => stream.write_all(&[1; 64]),
            2 => stream.write_all(&[1; 5000]),
            3 => stream.write_all(&[1, 1]),
            _ => Ok(()),
        };
        strangers.push(stream);
    }
    // Neither clients nor other nodes notice.
    Client::new(a.udp4()).announce(&leecher(1, 1111));
    let c = node(&key, &[&a], &[]);
    wait_until_whole(&c);
    assert_eq!(counts(&c, 0..1000), counts(&a, 0..1000));
    for mut stream in strangers {
        let read = uninterrupted(|| stream.read(&mut [0; 64]));
        let is_timeout = read.as_ref().is_err_and(|e| {
            let kind = e.kind();
            kind == std::io::ErrorKind::WouldBlock || kind == std::io::ErrorKind::TimedOut
        });
        assert!(!is_timeout && read.unwrap_or(0) == 0);
    }
}

/// A node of which no more than the packets work: its TCP port is closed, or takes connections and is
/// silent. It serves until told to stop.
fn half_a_node(key: &str, peer: SocketAddr, socket: &UdpSocket, is_over: &AtomicBool) {
    let mut tracker = Tracker::new(Limits {
        peer_timeout: 2700,
        max_peers: 1000,
        max_torrents: 1000,
    });
    let settings = Settings {
        id: u64::from(socket.local_addr().expect("is bound").port()),
        secret: std::fs::read(key).expect("can be read"),
        entropy: [1, 2],
        peer_timeout: 2700,
        most_records: 1000,
        most_stops: 1000,
    };
    let begin = Instant::now();
    let mut node = Node::new(settings, 0, announced::state::wall_ms(), &mut tracker);
    node.set_peers(&[peer]);
    let wait = Some(Duration::from_millis(20));
    socket.set_read_timeout(wait).expect("a timeout");
    let (mut out, mut packet) = (Outbox::default(), [0; 2000]);
    while !is_over.load(Ordering::Relaxed) {
        let received = socket.recv_from(&mut packet);
        tracker.advance(node.advance(begin.elapsed().as_millis() as u64));
        if let Ok((length, from)) = received {
            node.hear(from, &packet[..length], &mut tracker, &mut out);
        }
        node.tick(1000, &mut tracker, &mut out);
        for (to, packet) in out.packets() {
            // What is lost is sent again.
            let _ = socket.send_to(packet, to);
        }
        out.clear();
    }
}

#[test]
fn a_node_that_gives_nothing_is_left_for_the_next() {
    let (_directory, key) = key("silent");
    let a = alone(&key, &[]);
    fill(&a, 0..1000);
    for (is_silent, trouble) in [(false, "refused"), (true, "it takes too long")] {
        let half = free_address();
        let socket = UdpSocket::bind(half).expect("is free");
        let _listener = is_silent.then(|| TcpListener::bind(half).expect("the same port"));
        let is_over = AtomicBool::new(false);
        // In any case, or a test that fails would not end.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _end = End(&is_over);
            let listen = free_address().to_string();
            let (half_peer, other) = (half.to_string(), a.cluster().to_string());
            let flags = ["--cluster-listen", &listen, "--cluster-key", &key];
            let peers = ["--cluster-peer", &half_peer, "--cluster-peer", &other];
            let target = listen.parse().expect("an address");
            let (key, socket, is_over) = (&key, &socket, &is_over);
            scope.spawn(move || half_a_node(key, target, socket, is_over));
            // It must be up before the one that gives its table.
            a.signal("STOP");
            let b = Daemon::start(&[&flags[..], &peers[..]].concat());
            b.wait_for_line(&format!("cluster: {half} is up"));
            a.signal("CONT");
            wait_until_whole(&b);
            let told = b.wait_for_line(&format!("no table from {half}: "));
            assert!(told.contains(trouble), "{told}");
            b.wait_for_line("cluster: whole: 1000 torrents and 1000 peers");
            assert_eq!(counts(&b, 0..1000), counts(&a, 0..1000));
        });
    }
}

/// As the manual says: the new one is started, `ok` is waited for, the old one is stopped.
#[test]
fn a_node_is_replaced_without_loss() {
    let (_directory, key) = key("replaced");
    let mut old = alone(&key, &[]);
    fill(&old, 0..20_000);
    let is_done = AtomicBool::new(false);
    let (old_udp, mut announced) = (old.udp4(), 0);
    let new = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let client = Client::new(old_udp);
            let mut count = 0;
            loop {
                announce_all(&client, [leecher(50_000 + count, 1111)].into_iter());
                count += 1;
                if is_done.load(Ordering::Relaxed) {
                    return count;
                }
            }
        });
        let new = node(&key, &[&old], &[]);
        wait_until_whole(&new);
        is_done.store(true, Ordering::Relaxed);
        announced = clients.join().expect("no panic");
        new
    });
    old.signal("TERM");
    assert!(old.wait().0.success());
    let none = |counts: Vec<[u32; 3]>| {
        let numbered = counts.iter().enumerate();
        let missing = numbered.filter(|(_, [seeders, _, leechers])| seeders + leechers == 0);
        missing.map(|(n, _)| n).collect::<BTreeSet<usize>>()
    };
    wait_for("all of it", || {
        let late = none(counts(&new, 50_000..50_000 + announced));
        (none(counts(&new, 0..20_000)).is_empty() && late.is_empty()).then_some(())
    });
}

#[test]
fn a_node_with_a_state_joins_and_its_list_holds() {
    let (directory, key) = key("state");
    let (state, black) = (directory.file("state"), directory.file("black"));
    let hex: String = hash(5).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&black, format!("{hex}\n")).expect("can be written");
    let mut b = alone(&key, &["--state", &state]);
    fill(&b, 0..3);
    b.signal("TERM");
    assert!(b.wait().0.success());

    let a = alone(&key, &[]);
    let client = Client::new(a.udp4());
    // Of what is in the state two have announced elsewhere since, of which one has stopped.
    let since = [leecher(1, 6881), stopped(1, 6881), leecher(2, 6881)];
    announce_all(&client, since.into_iter());
    fill(&a, 3..10);
    let b = node(&key, &[&a], &["--state", &state, "--blacklist", &black]);
    wait_until_whole(&b);
    b.wait_for_line("loaded 3 torrents, 3 peers");
    let known: Vec<u32> = counts(&b, 0..10).iter().map(|[s, _, l]| s + l).collect();
    assert_eq!(known, [1, 0, 1, 1, 1, 0, 1, 1, 1, 1]);
}
