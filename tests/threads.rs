//! Several threads over one table (`--threads`): every thread gives the same replies.
//!
//! `make check-threads` runs the tests of single features with two threads as well. These are for failures that need
//! several threads.

#![cfg(target_os = "linux")]

mod common;

use announced::sys::cores;
use common::udp::{Announce, Client, TRANSACTION};
use common::{
    Daemon, Directory, free_address, http, is_root, program, run, skip, uninterrupted, wait_for,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

type Hash = [u8; 20];

const A: Hash = [0xaa; 20];
const B: Hash = [0xbb; 20];

/// With this many clients, each from its own port, both of two threads receive some, except once in 2^31 times.
const MANY: usize = 32;

fn two(flags: &[&str]) -> Daemon {
    Daemon::start(&[&["-j", "2"], flags].concat())
}

/// Info-hashes in all shards, in no order.
fn hash(n: u32) -> Hash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    hash
}

fn seeder(info_hash: Hash, port: u16) -> Announce {
    Announce::seeder(port).of(info_hash)
}

fn clients(tracker: SocketAddr) -> Vec<Client> {
    (0..MANY).map(|_| Client::new(tracker)).collect()
}

/// Seeders, completed and leechers, as each client receives them.
fn scraped(clients: &[Client], hash: Hash) -> Vec<[u32; 3]> {
    let scrape = |client: &Client| client.scrape(&[hash])[0];
    clients.iter().map(scrape).collect()
}

/// The metrics, with names without their prefix and without quotes. They count every reply that has arrived.
fn metrics(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon.wait_until_idle();
    let text = http::get(daemon.tcp4(), "/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.strip_prefix("announced_")?;
        Some((name.replace('"', ""), value.parse().ok()?))
    };
    lines.filter_map(number).collect()
}

/// Requests that each thread has answered.
fn answered(daemon: &Daemon, protocol: &str) -> Vec<u64> {
    let metrics = metrics(daemon);
    let name = |n| format!("thread_requests_total{{thread={n},protocol={protocol}}}");
    (0..)
        .map_while(|n| metrics.get(&name(n)).copied())
        .collect()
}

/// Asserts that both of two threads have answered UDP requests; returns their sum.
fn both_answered(daemon: &Daemon) -> u64 {
    let answered = answered(daemon, "udp");
    let have_both = answered.len() == 2 && !answered.contains(&0);
    assert!(have_both, "{answered:?}");
    answered.iter().sum()
}

/// Stored peers.
fn peers(metrics: &BTreeMap<String, u64>) -> u64 {
    let all = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("peers{"));
    all.map(|(_, count)| count).sum()
}

fn stop(mut daemon: Daemon) -> Vec<String> {
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("announced: stopped"));
    log
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Works while four threads, of eight clients each, add and remove peers of a thousand torrents as fast as they
/// receive replies.
fn under_load<T>(tracker: SocketAddr, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let churn = |first: u32| {
        let clients: Vec<Client> = (0..8).map(|_| Client::new(tracker)).collect();
        for round in 0_u32.. {
            for client in &clients {
                if is_over.load(Relaxed) {
                    return;
                }
                let hash = hash(first + round / 2 % 250);
                let announce = seeder(hash, client.address().port()).event(2 + round % 2);
                client.exchange(&client.announce_request(&announce));
            }
        }
    };
    thread::scope(|scope| {
        let _over = Over(&is_over);
        for n in 0..4 {
            let churn = &churn;
            scope.spawn(move || churn(1_000_000 + n * 250));
        }
        work()
    })
}

#[test]
fn counts_of_all_threads_add_up_to_those_of_the_clients() {
    let daemon = two(&[]);
    const EACH: u16 = 100;
    let mut received = 0;
    for (n, mut client) in (0..).zip(clients(daemon.udp4())) {
        for port in 1 + n * EACH..=(n + 1) * EACH {
            let completed = seeder(hash(u32::from(port % 7)), port).event(1);
            let request = client.announce_request(&completed);
            // The second is a renewal.
            received += client.exchange(&request).len() + client.exchange(&request).len();
            client.scrape(&[A, B]);
        }
        client.connection = 1;
        received += client.exchange(&client.scrape_request(&[A])).len();
    }
    for port in 1..=64 {
        let target = format!("/announce?info_hash={}&port={port}", "C".repeat(20));
        assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
        assert_eq!(http::get(daemon.tcp4(), "/nowhere").status, 404);
    }
    let many = MANY as u64;
    let each = many * u64::from(EACH);
    assert_eq!(both_answered(&daemon), many + 3 * each);
    assert!(!answered(&daemon, "http").contains(&0));
    let metrics = metrics(&daemon);
    for (name, count) in [
        ("requests_total{protocol=udp,kind=connect}", many),
        ("requests_total{protocol=udp,kind=announce}", 2 * each),
        ("requests_total{protocol=udp,kind=scrape}", each),
        ("requests_total{protocol=http,kind=announce}", 64),
        ("errors_total{protocol=udp,kind=connection_id}", many),
        ("errors_total{protocol=http,kind=not_found}", 64),
        // Including three for metrics.
        ("connections_accepted_total", 128 + 3),
        ("received_bytes_total{protocol=udp}", 52 * many + 252 * each),
        (
            "sent_bytes_total{protocol=udp}",
            received as u64 + 16 * many + 32 * each,
        ),
        ("completed_total", each),
        ("renewals_total", each),
        ("torrents", 8),
        ("peers{family=ipv4,role=seeder}", each),
        ("peers{family=ipv4,role=leecher}", 64),
    ] {
        assert_eq!(metrics.get(name), Some(&count), "{name}: {metrics:#?}");
    }
    stop(daemon);
}

#[test]
fn every_thread_reports_for_all() {
    let daemon = two(&[]);
    for (port, client) in (1000..).zip(clients(daemon.udp4())) {
        let announce = seeder(hash(u32::from(port)), port);
        client.announce(&announce.num_want(i32::from(port % 10)));
        http::get(daemon.tcp4(), "/nowhere");
    }
    daemon.wait_until_idle();
    for mode in ["peer", "torr", "numwants", "renew", "herr", "top10"] {
        let target = format!("/stats?mode={mode}");
        let reports = (0..MANY).map(|_| http::get(daemon.tcp4(), &target).text());
        let reports: BTreeSet<String> = reports.collect();
        assert_eq!(reports.len(), 1, "{reports:?}");
    }
    assert!(!answered(&daemon, "http").contains(&0));
}

#[test]
fn woodpeckers_are_counted_over_all_threads_and_shards() {
    // Counts are halved once in an interval.
    let daemon = two(&["--interval", "600", "--peer-timeout", "900"]);
    let woodpeckers = || http::get(daemon.tcp4(), "/stats?mode=woodpeckers").text();
    let clients = clients(daemon.udp4());
    for (event, count) in [(2, None), (2, None), (0, Some(4 * MANY))] {
        for (n, client) in (0..4 * MANY as u16).zip(clients.iter().cycle()) {
            client.announce(&seeder(hash(n.into()), 1 + n).event(event));
        }
        let line = count.map_or(String::new(), |count| format!("{count:08}: 127.0.0.1\n"));
        let expected = format!("Networks, limit /32:\n{line}\nNetworks, limit /64:\n\n");
        assert_eq!(woodpeckers(), expected);
    }
    both_answered(&daemon);
}

#[test]
fn an_announce_is_in_the_next_reply_of_every_thread_under_load() {
    let daemon = two(&[]);
    let clients = clients(daemon.udp4());
    under_load(daemon.udp4(), || {
        for (round, client) in (0..).zip(&clients) {
            let hash = hash(round);
            let other = &clients[(round as usize + 1) % MANY];
            client.announce_fields(hash, 7, 0, 2);
            assert_eq!(scraped(&clients, hash), [[1, 0, 0]; MANY]);
            let reply = other.announce_fields(hash, 8, 1000, 2);
            assert_eq!(reply.peers, ["127.0.0.1:7".parse().expect("an address")]);
            assert_eq!((reply.seeders, reply.leechers), (1, 1));
            client.announce_fields(hash, 8, 0, 1);
            assert_eq!(scraped(&clients, hash), [[2, 1, 0]; MANY]);
            other.announce_fields(hash, 7, 0, 3);
            other.announce_fields(hash, 8, 0, 3);
            assert_eq!(scraped(&clients, hash), [[0, 1, 0]; MANY]);
        }
    });
    both_answered(&daemon);
}

#[test]
fn every_thread_takes_the_connection_ids_of_the_others() {
    let daemon = two(&[]);
    let mut clients = clients(daemon.udp4());
    let id = clients[0].connection;
    for client in &mut clients {
        client.connection = id;
        client.announce(&seeder(A, 9));
    }
    both_answered(&daemon);
}

/// All threads share a Unix socket. If several clients connect at once, each thread accepts some in the end.
#[test]
fn a_unix_socket_is_served_by_all_threads() {
    let directory = Directory::new("threads-unix");
    // The daemon, no longer root, removes the file.
    let writable = PermissionsExt::from_mode(0o777);
    fs::set_permissions(directory.path(), writable).expect("is ours");
    let path = directory.file("socket");
    let daemon = two(&["-p", &format!("unix:{path}"), "-A", "::1"]);
    wait_for("both threads to answer", || {
        let connect = |_| http::Client::new_unix(Path::new(&path));
        let mut clients: Vec<_> = (0..8).map(connect).collect();
        for client in &mut clients {
            client.send("GET /health HTTP/1.1\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.receive().text(), "ok\n");
        }
        let metrics = "GET /metrics HTTP/1.1\r\nX-Forwarded-For: ::1\r\n\r\n";
        let text = clients[0].request(metrics).text();
        let is_idle =
            |thread| text.contains(&format!("{{thread=\"{thread}\",protocol=\"http\"}} 0\n"));
        (!is_idle(0) && !is_idle(1)).then_some(())
    });
    stop(daemon);
    let is_left = Path::new(&path).exists();
    assert!(!is_left, "the daemon removes its socket");
}

/// Where all sockets share ports, Linux may choose a shared port for port 0.
#[test]
fn several_trackers_do_not_share_a_port_that_the_system_chose() {
    let test = "several_trackers_do_not_share_a_port_that_the_system_chose";
    common::net::in_sandbox(test, |lan| {
        let host = lan.host();
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        let narrowed = host.within(|| fs::write(range, "40000 40002"));
        narrowed.expect("is this network's own");
        let flags = ["-j", "2", "-i", "10.77.0.1", "-P", "0"];
        let daemons = [(); 3].map(|()| host.start(&flags));
        let mut ports = daemons.each_ref().map(|daemon| daemon.udp4().port());
        ports.sort_unstable();
        assert_eq!(ports, [40000, 40001, 40002]);
    });
}

#[test]
fn a_port_of_another_tracker_is_refused() {
    let daemon = two(&[]);
    for (flag, protocol, address) in [("-P", "udp", daemon.udp4()), ("-p", "tcp", daemon.tcp4())] {
        let port = address.port().to_string();
        for threads in ["1", "2"] {
            let (code, _, err) = run(&["-j", threads, "-i", "127.0.0.1", flag, &port]);
            let last = err.lines().last().unwrap_or_default();
            let start = format!("announced: cannot listen on {protocol} {address}: ");
            assert!(code == Some(1) && last.starts_with(&start), "{err}");
        }
    }
    stop(daemon);
}

/// The system limits the threads of a user.
#[test]
fn a_thread_that_cannot_start_ends_the_start() {
    if !is_root() {
        return;
    }
    let output = Command::new("prlimit")
        .args(["--nproc=3", &program()])
        .args("-j 8 -i 127.0.0.1 -P 0 -u 4713:4714".split(' '))
        .output();
    let Ok(output) = output else {
        return skip("limits are changed with util-linux's prlimit");
    };
    let log = String::from_utf8_lossy(&output.stderr);
    let last = log.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let is_told = last.starts_with("announced: cannot start threads: ");
    assert!(is_told && !log.contains("announced: ready"), "{log}");
}

#[test]
fn sixty_four_threads_serve() {
    let daemon = Daemon::start(&["-j", "64"]);
    // With the one that does the chores.
    assert_eq!(daemon.proc_status("Threads"), "65");
    for port in 1..=512 {
        let client = Client::new(daemon.udp4());
        client.announce(&seeder(hash(port.into()), port));
    }
    let answered = answered(&daemon, "udp");
    assert_eq!((answered.len(), answered.iter().sum()), (64, 1024_u64));
    let serving = answered.iter().filter(|count| **count > 0).count();
    assert!(serving > 32, "{answered:?}");
    stop(daemon);
}

#[test]
fn one_thread_starts_no_other() {
    for flags in [&[][..], &["-j", "1"]] {
        let listen = ["-i", "127.0.0.1", "-P", "0"];
        let daemon = match flags {
            [] if common::has_threads() => continue,
            _ => Daemon::start_with(&[&listen[..], flags].concat()),
        };
        assert_eq!(daemon.proc_status("Threads"), "1");
    }
}

/// The number of connections that stay open at a limit, of many that are made one after the other.
fn open_at_limit(limit: usize) -> usize {
    let daemon = two(&["--max-connections", &limit.to_string()]);
    let connect = |_| {
        let mut client = http::Client::new(daemon.tcp4());
        client.request("GET /health HTTP/1.1\r\n\r\n");
        client
    };
    let clients: Vec<http::Client> = (0..2 * MANY).map(connect).collect();
    let is_open = |client: &&http::Client| {
        let stream = client.stream();
        stream.set_nonblocking(true).expect("is a socket");
        matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    daemon.wait_until_idle();
    clients.iter().filter(is_open).count()
}

#[test]
fn connections_are_limited_for_the_process_as_a_whole() {
    assert_eq!(open_at_limit(10), 10);
    // In half of the runs the second thread accepts its first connection when the first thread has two.
    for _ in 0..8 {
        assert_eq!(open_at_limit(2), 2);
    }
}

/// Announces from eight clients at once, each in this many torrents and with as many ports in one large swarm.
fn announce_at_once(daemon: &Daemon, each: u16) {
    thread::scope(|scope| {
        for first in (0..8).map(|n| n * each) {
            scope.spawn(move || {
                let client = Client::new(daemon.udp4());
                for n in first..first + each {
                    client.announce(&seeder(A, 1 + n));
                    client.announce(&seeder(hash(n.into()), 1));
                }
            });
        }
    });
}

#[test]
fn peers_are_limited_for_the_table_as_a_whole() {
    let stored = ["1", "2"].map(|threads| {
        let daemon = Daemon::start(&["-j", threads, "--max-peers", "2000"]);
        for (n, client) in (0_u16..3000).zip(clients(daemon.udp4()).iter().cycle()) {
            client.announce(&seeder(A, 1 + n));
            client.announce(&seeder(hash(n.into()), 1));
        }
        peers(&metrics(&daemon))
    });
    assert_eq!(stored[0], stored[1]);
    assert!((2000..2500).contains(&stored[0]), "{stored:?}");
    // While a thread answers a batch, it does not see the peers that another stores.
    let daemon = two(&["--max-peers", "2000"]);
    announce_at_once(&daemon, 1000);
    let together = peers(&metrics(&daemon));
    assert!((2000..=stored[0] + 64).contains(&together), "{together}");
}

#[test]
fn torrents_are_limited_for_the_table_as_a_whole() {
    // One after the other, by either thread.
    let daemon = two(&["--max-torrents", "500"]);
    for (n, client) in (0..1000).zip(clients(daemon.udp4()).iter().cycle()) {
        client.announce(&seeder(hash(n), 1));
    }
    both_answered(&daemon);
    assert_eq!(metrics(&daemon).get("torrents"), Some(&500));
    // While a thread answers a batch, it does not see the torrents that another stores.
    let daemon = two(&["--max-torrents", "500"]);
    announce_at_once(&daemon, 1000);
    let together = metrics(&daemon)["torrents"];
    assert!((500..=564).contains(&together), "{together}");
}

#[cfg(feature = "full-scrape")]
#[test]
fn a_full_scrape_is_whole_and_sorted_while_all_threads_write() {
    let daemon = two(&["--full-scrape", "open"]);
    let clients = clients(daemon.udp4());
    let staying: BTreeSet<Hash> = (0..10_000).map(hash).collect();
    for (hash, client) in staying.iter().zip(clients.iter().cycle()) {
        client.announce(&seeder(*hash, 1));
    }
    under_load(daemon.udp4(), || {
        for _ in 0..16 {
            let body = http::get(daemon.tcp4(), "/scrape").body;
            // The parser insists on keys that are sorted, each once.
            let reply = common::bencode::Value::parse(&body);
            let Some(common::bencode::Value::Dictionary(files)) = reply.get("files") else {
                panic!("no files: {reply:?}");
            };
            for hash in &staying {
                let counts = files.get(&hash[..]).expect("stays");
                let counts = ["complete", "incomplete"].map(|name| counts.integer(name));
                assert_eq!(counts, [1, 0]);
            }
            // The load adds and removes a thousand.
            assert!(files.len() <= staying.len() + 1000, "{}", files.len());
        }
    });
    both_answered(&daemon);
}

/// Stores enough torrents for a full scrape to be larger than a socket's buffers.
#[cfg(feature = "full-scrape")]
fn fill(daemon: &Daemon) {
    let clients = clients(daemon.udp4());
    for first in (0..90_000).step_by(MANY) {
        for (n, client) in (first..).zip(&clients) {
            client.send(&client.announce_request(&seeder(hash(n as u32), 1)));
        }
        clients.iter().for_each(|client| drop(client.receive()));
    }
}

/// Begins a full scrape as the client with this number, behind a trusted proxy; the connection and the status.
#[cfg(feature = "full-scrape")]
fn begin_full_scrape(daemon: &Daemon, n: usize) -> (http::Client, String) {
    let mut connection = http::Client::new(daemon.tcp4());
    let head = format!("GET /scrape HTTP/1.1\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n");
    connection.send(head);
    let head = connection.receive_head();
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (connection, status)
}

#[cfg(feature = "full-scrape")]
#[test]
fn full_scrapes_are_limited_to_four_at_once_and_one_per_client_over_all_threads() {
    let daemon = two(&["--proxy", "127.0.0.1"]);
    fill(&daemon);
    let four: Vec<_> = (0..4).map(|n| begin_full_scrape(&daemon, n)).collect();
    assert!(four.iter().all(|(_, status)| status == "200"));
    for n in 4..20 {
        assert_eq!(begin_full_scrape(&daemon, n).1, "503");
    }
    drop(four);
    for n in (0..4).cycle().take(32) {
        assert_eq!(begin_full_scrape(&daemon, n).1, "429");
    }
    assert!(!answered(&daemon, "http").contains(&0));
}

fn hex(hash: Hash) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    digits + "\n"
}

fn is_tracked(client: &Client, hash: Hash) -> bool {
    let reply = client.exchange(&client.announce_request(&seeder(hash, 1)));
    reply[..4] == 1_u32.to_be_bytes()
}

/// Waits for the change of a torrent in one client's replies; then every other client sees it at once.
fn all_see(clients: &[Client], hash: Hash, expected: bool) {
    let mut some = clients.iter().cycle();
    wait_for("a change of the list", || {
        (is_tracked(some.next()?, hash) == expected).then_some(())
    });
    for client in clients {
        assert_eq!(is_tracked(client, hash), expected);
    }
}

#[test]
fn a_list_changes_for_all_threads_at_once_under_load() {
    let directory = Directory::new("threads-list");
    let list = directory.write("list", hex(A));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    let daemon = two(&["-w", &list, "--list-add", &add, "--list-remove", &remove]);
    let clients = clients(daemon.udp4());
    let write = |fifo: &str, hash| {
        let fifo = fs::OpenOptions::new().write(true).open(fifo);
        let written = fifo.and_then(|mut fifo| fifo.write_all(hex(hash).as_bytes()));
        written.expect("is taken");
    };
    under_load(daemon.udp4(), || {
        all_see(&clients, A, true);
        all_see(&clients, B, false);
        for times in 1..=10 {
            write(&add, B);
            all_see(&clients, B, true);
            write(&remove, A);
            all_see(&clients, A, false);
            daemon.signal("HUP");
            all_see(&clients, A, true);
            all_see(&clients, B, false);
            wait_for("one line a reload", || {
                (daemon.count_lines("loaded: 1 hash") == 1 + times).then_some(())
            });
        }
        // One torrent replaces another at once.
        directory.write("list", hex(B));
        daemon.signal("HUP");
        all_see(&clients, B, true);
        for client in &clients {
            assert!(!is_tracked(client, A));
        }
    });
    both_answered(&daemon);
    let log = stop(daemon);
    let loaded = log.iter().filter(|line| line.contains("loaded: 1 hash"));
    assert_eq!(loaded.count(), 12, "{log:?}");
}

#[test]
fn the_state_is_the_same_whatever_the_number_of_threads() {
    let directory = Directory::new("threads-state");
    let path = directory.file("state");
    let hashes: Vec<Hash> = (0..70).map(hash).collect();
    let mut known = vec![[0; 3]; hashes.len()];
    let mut peers = 0;
    for (threads, first) in [("1", 1000), ("2", 2000), ("4", 3000), ("1", 4000)] {
        let flags = ["-j", threads, "--state", &path, "--state-interval", "0"];
        let daemon = Daemon::start(&flags);
        if peers > 0 {
            daemon.wait_for_line(&format!("loaded: 70 torrents, {peers} peers"));
        }
        let clients = clients(daemon.udp4());
        for client in &clients {
            assert_eq!(client.scrape(&hashes), known);
        }
        for (port, client) in (first..).zip(&clients) {
            for info_hash in &hashes {
                client.announce(&seeder(*info_hash, port).event(1));
            }
        }
        known = known
            .iter()
            .map(|[seeders, completed, _]| [seeders + 32, completed + 32, 0])
            .collect();
        peers += 32 * 70;
        // At the signal and at the end.
        daemon.signal("USR1");
        let line = format!("saved: 70 torrents, {peers} peers");
        daemon.wait_for_line(&line);
        let log = stop(daemon);
        let saved = log.iter().filter(|log| log.contains(&line));
        assert_eq!(saved.count(), 2, "{log:?}");
    }
}

/// Announces over UDP a peer in each of the torrents from this one on, until the daemon is gone; the torrents of the
/// announces that were answered. `client` has a connection id for them.
fn announce_until(
    (is_over, count): (&AtomicBool, &AtomicUsize),
    client: &Client,
    first: u32,
) -> Vec<Hash> {
    let tracker = client.socket().peer_addr().expect("is connected");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(tracker).expect("a route");
    let timeout = Some(Duration::from_millis(50));
    socket.set_read_timeout(timeout).expect("a timeout");
    let mut answered = Vec::new();
    for info_hash in (first..).map(hash) {
        let mut reply = [0; 100];
        let sent = socket.send(&client.announce_request(&seeder(info_hash, 1)));
        let received = sent.and_then(|_| {
            loop {
                match uninterrupted(|| socket.recv(&mut reply)) {
                    Err(error)
                        if error.kind() == ErrorKind::WouldBlock && !is_over.load(Relaxed) => {}
                    result => break result,
                }
            }
        });
        if received.is_err() {
            break;
        }
        let head = [1_u32.to_be_bytes(), TRANSACTION.to_be_bytes()].concat();
        assert!(reply.starts_with(&head), "{reply:?}");
        answered.push(info_hash);
        count.fetch_add(1, Relaxed);
    }
    answered
}

/// The same over HTTP.
fn announce_over_http(tracker: SocketAddr, first: u32) -> Vec<Hash> {
    let is_answered = |hash: &Hash| {
        let escaped = hash.map(|byte| format!("%{byte:02x}")).concat();
        let request = format!("GET /announce?info_hash={escaped}&port=1&left=0 HTTP/1.0\r\n\r\n");
        let mut reply = Vec::new();
        let exchange = TcpStream::connect(tracker).and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut reply)
        });
        exchange.is_ok() && reply.starts_with(b"HTTP/1.1 200 OK\r\n")
    };
    (first..).map(hash).take_while(is_answered).collect()
}

#[test]
fn a_signal_under_load_ends_all_threads_and_the_state_has_every_answered_announce() {
    let directory = Directory::new("threads-term");
    let path = directory.file("state");
    let flags = ["--state", &path, "--state-interval", "0"];
    for round in 0..5 {
        let _ = fs::remove_file(&path);
        let daemon = two(&flags);
        let (udp, tcp) = (daemon.udp4(), daemon.tcp4());
        let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (is_over, count) = (&is_over, &count);
        let client = &Client::new(udp);
        let answered: Vec<Hash> = thread::scope(|scope| {
            let over = Over(is_over);
            let over_udp = (0..16).map(|n| n * 1_000_000);
            let over_udp =
                over_udp.map(|n| scope.spawn(move || announce_until((is_over, count), client, n)));
            let over_http = (16..20).map(|n| n * 1_000_000);
            let over_http = over_http.map(|n| scope.spawn(move || announce_over_http(tcp, n)));
            let clients: Vec<_> = over_udp.chain(over_http).collect();
            wait_for("announces, more in each round", || {
                (count.load(Relaxed) > 200 * (round + 1)).then_some(())
            });
            stop(daemon);
            drop(over);
            let answered = |client: thread::ScopedJoinHandle<_>| client.join().expect("no panic");
            clients.into_iter().flat_map(answered).collect()
        });
        let daemon = Daemon::start(&[&["-j", "1"], &flags[..]].concat());
        let client = Client::new(daemon.udp4());
        for some in answered.chunks(70) {
            let scraped = client.scrape(some);
            let have_all = scraped.iter().all(|[seeders, ..]| *seeders == 1);
            assert!(have_all, "{scraped:?}");
        }
    }
}

#[test]
fn no_thread_has_privileges() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("threads-root");
    // An address of its own, so that nothing else on the machine is in the way.
    let flags = "-j 2 -i 127.77.88.98 -P 80 -p 80 -u 4711:4712 -d";
    let flags = flags.split(' ').chain([directory.path()]);
    let daemon = Daemon::start_with(&flags.collect::<Vec<_>>());
    Client::new(daemon.udp4()).announce(&seeder(A, 1));
    assert_eq!(http::get(daemon.tcp4(), "/health").text(), "ok\n");
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("is running");
    let tasks: Vec<_> = tasks.map(|task| task.expect("is running").path()).collect();
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        let status = fs::read_to_string(task.join("status")).expect("is running");
        for line in [
            "Uid:\t4711\t4711\t4711\t4711\n",
            "Gid:\t4712\t4712\t4712\t4712\n",
            "Groups:\t4712 \n",
            "CapPrm:\t0000000000000000\n",
            "CapEff:\t0000000000000000\n",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let root = fs::read_link(task.join("root")).expect("is a link");
        assert_eq!(root.to_str(), Some(directory.path()));
    }
    stop(daemon);
}

/// On the loopback the core that sends a datagram receives it.
#[test]
fn pinned_threads_answer_what_their_core_receives() {
    let cores = cores::available().expect("can be asked");
    if cores.len() < 2 {
        return skip("pinned threads: one core");
    }
    let daemon = two(&["--pin-threads"]);
    for (thread, core) in cores.into_iter().take(2).enumerate() {
        let before = answered(&daemon, "udp");
        thread::scope(|scope| {
            scope.spawn(|| {
                cores::pin(core).expect("may be pinned");
                for client in clients(daemon.udp4()) {
                    client.announce(&seeder(A, 1));
                }
            });
        });
        let mut expected = before;
        expected[thread] += 2 * MANY as u64;
        assert_eq!(answered(&daemon, "udp"), expected);
    }
}

#[test]
fn threads_are_pinned_only_where_each_has_a_core() {
    let (code, _, err) = run(&["--pin-threads"]);
    let message = "announced: --pin-threads requires -j/--threads with 2 or more\n";
    assert_eq!((code, err.as_str()), (Some(2), message));
    let cores = cores::available().expect("can be asked").len();
    if cores < 64 {
        let message = format!(
            "announced: --pin-threads: -j/--threads 64 requires as many cores, {cores} are available\n"
        );
        for check in [&["-n"][..], &["-i", "127.0.0.1", "-P", "0"]] {
            let (code, _, err) = run(&[check, &["-j", "64", "--pin-threads"]].concat());
            assert!(code == Some(1) && err.ends_with(&message), "{err}");
        }
    }
}

/// Several threads share an address, but no address is listened on twice.
#[test]
fn own_addresses_that_overlap_are_refused_with_any_number_of_threads() {
    let address = free_address();
    let (ip, port) = (address.ip().to_string(), address.port());
    for (flags, name) in [
        (format!("-i {ip} -P {port} -P {port}"), "udp"),
        (format!("-P {port} -i {ip} -P {port}"), "udp"),
        (format!("-i {ip} -p {port} -i 0.0.0.0 -p {port}"), "tcp"),
    ] {
        let [one, two] = ["1", "2"].map(|threads| {
            let mut command = Command::new(program());
            command.args(["-j", threads]).args(flags.split(' '));
            let log = Daemon::try_spawn(command).err().expect(&flags);
            log.last().cloned().unwrap_or_default()
        });
        let start = format!("announced: cannot listen on {name} ");
        assert!(one.starts_with(&start), "{one}");
        assert!(one.ends_with(" in use"), "{one}");
        assert_eq!(two, one);
    }
}

/// With this many sockets the system would choose some port twice in nearly every run.
#[test]
fn each_socket_at_port_0_has_a_port_of_its_own() {
    const SOCKETS: usize = 400;
    let mut flags = vec!["-j", "2", "-i", "127.0.0.1"];
    flags.extend(["-P", "0"].repeat(SOCKETS));
    let addresses = Daemon::start_with(&flags).addresses("udp");
    assert_eq!(BTreeSet::from_iter(addresses).len(), SOCKETS);
}

#[test]
fn a_socket_of_another_thread_that_cannot_open_is_named_by_its_address() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$@\"", "sh", &program()])
        .args("-j 64 -i 127.0.0.1 -P 0".split(' '))
        .output()
        .expect("there is a shell");
    let log = String::from_utf8_lossy(&output.stderr);
    let address = log
        .strip_prefix("announced: listening on udp ")
        .and_then(|rest| rest.split(',').next())
        .unwrap_or_else(|| panic!("{log}"));
    let start = format!("announced: cannot listen on udp {address} with several threads: ");
    let last = log.lines().last().unwrap_or_default();
    // The C libraries glibc and musl.
    let reasons = ["Too many open files", "No file descriptors available"];
    let reason = last.strip_prefix(&start).unwrap_or_else(|| panic!("{log}"));
    assert!(reasons.contains(&reason), "{log}");
    assert_eq!(output.status.code(), Some(1), "{log}");
}
