//! Several threads over one table (`--threads`): whichever thread a request comes to, the reply is the same.
//!
//! `make check-threads` runs the tests of single features with two threads as well. Here is what only several threads
//! can get wrong.

#![cfg(target_os = "linux")]

mod common;

use announced::sys::cores;
use common::bencode::Value;
use common::udp::{Announce, Client, TRANSACTION};
use common::{Daemon, Directory, free_address, http, program, run, skip, uninterrupted, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

type Hash = [u8; 20];

const A: Hash = [0xaa; 20];
const B: Hash = [0xbb; 20];

/// So many clients, each from a port of its own, come to both of two threads but for one time in 2^31.
const MANY: usize = 32;

fn two(flags: &[&str]) -> Daemon {
    Daemon::start(&[&["-j", "2"], flags].concat())
}

/// Hashes of all shards, in no order when counted up.
fn hash(n: u32) -> Hash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    hash
}

fn seeder(info_hash: Hash, port: u16) -> Announce {
    Announce {
        info_hash,
        port,
        left: 0,
        ..Announce::default()
    }
}

fn clients(tracker: SocketAddr) -> Vec<Client> {
    (0..MANY).map(|_| Client::new(tracker)).collect()
}

/// Seeders, completed and leechers as each of many clients is told.
fn scraped(clients: &[Client], hash: Hash) -> Vec<[u32; 3]> {
    let scrape = |client: &Client| client.scrape(&[hash])[0];
    clients.iter().map(scrape).collect()
}

/// What /metrics says, without the prefix of the names. Every reply that has arrived is counted.
fn metrics(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon.wait_until_idle();
    let text = http::get(daemon.tcp4(), "/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.strip_prefix("announced_")?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(number).collect()
}

/// Requests that each thread has answered.
fn answered(daemon: &Daemon, protocol: &str) -> Vec<u64> {
    let start = "thread_requests_total{";
    let end = format!("protocol=\"{protocol}\"}}");
    let metrics = metrics(daemon).into_iter();
    metrics
        .filter(|(name, _)| name.starts_with(start) && name.ends_with(&end))
        .map(|(_, count)| count)
        .collect()
}

/// Both of two threads have answered UDP requests; how many together.
fn both_answered(daemon: &Daemon) -> u64 {
    let answered = answered(daemon, "udp");
    assert!(
        answered.len() == 2 && !answered.contains(&0),
        "{answered:?}"
    );
    answered.iter().sum()
}

/// Stored peers.
fn peers(metrics: &BTreeMap<String, u64>) -> u64 {
    let of = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("peers{"));
    of.map(|(_, count)| count).sum()
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

/// Does this while four threads, of eight clients each, add and remove peers of a thousand torrents as fast as they
/// are answered.
fn under_load<T>(tracker: SocketAddr, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let churn = |first: u32| {
        let clients: Vec<Client> = (0..8).map(|_| Client::new(tracker)).collect();
        for round in 0_u32.. {
            for client in &clients {
                if is_over.load(Relaxed) {
                    return;
                }
                let announce = Announce {
                    event: if round % 2 == 0 { 2 } else { 3 },
                    ..seeder(hash(first + round / 2 % 250), client.address().port())
                };
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
fn counts_of_all_threads_add_up_to_what_was_sent() {
    let daemon = two(&[]);
    let tracker = daemon.udp4();
    const EACH: u16 = 100;
    let sent: usize = thread::scope(|scope| {
        let client = |n: u16| {
            let client = Client::new(tracker);
            let mut replies = 0;
            for port in 1 + n * EACH..=(n + 1) * EACH {
                let completed = Announce {
                    event: 1,
                    ..seeder(hash(u32::from(port % 7)), port)
                };
                let request = client.announce_request(&completed);
                replies += client.exchange(&request).len();
                // A renewal.
                replies += client.exchange(&request).len();
                client.scrape(&[A, B]);
            }
            let mut stranger = Client::from("127.0.0.1", tracker);
            stranger.connection = 1;
            replies + stranger.exchange(&stranger.scrape_request(&[A])).len()
        };
        let clients: Vec<_> = (0..MANY as u16)
            .map(|n| scope.spawn(move || client(n)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .sum()
    });
    for port in 1..=64 {
        let target = format!("/announce?info_hash={}&port={port}", "C".repeat(20));
        assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
        assert_eq!(http::get(daemon.tcp4(), "/nowhere").status, 404);
    }
    let many = MANY as u64;
    let each = many * u64::from(EACH);
    assert_eq!(both_answered(&daemon), many + 3 * each);
    let http = answered(&daemon, "http");
    assert!(!http.contains(&0), "{http:?}");
    let metrics = metrics(&daemon);
    for (name, count) in [
        ("requests_total{protocol=\"udp\",kind=\"connect\"}", many),
        (
            "requests_total{protocol=\"udp\",kind=\"announce\"}",
            2 * each,
        ),
        ("requests_total{protocol=\"udp\",kind=\"scrape\"}", each),
        ("requests_total{protocol=\"http\",kind=\"announce\"}", 64),
        (
            "errors_total{protocol=\"udp\",kind=\"connection_id\"}",
            many,
        ),
        ("errors_total{protocol=\"http\",kind=\"not_found\"}", 64),
        // Three have been asked for such reports.
        ("connections_accepted_total", 128 + 3),
        (
            "received_bytes_total{protocol=\"udp\"}",
            (16 + 36) * many + (2 * 98 + 56) * each,
        ),
        (
            "sent_bytes_total{protocol=\"udp\"}",
            sent as u64 + 16 * many + 32 * each,
        ),
        ("completed_total", each),
        ("renewals_total", each),
        ("torrents", 8),
        ("peers{family=\"ipv4\",role=\"seeder\"}", each),
        ("peers{family=\"ipv4\",role=\"leecher\"}", 64),
    ] {
        assert_eq!(metrics.get(name), Some(&count), "{name}: {metrics:#?}");
    }
    stop(daemon);
}

#[test]
fn every_thread_reports_for_all() {
    let daemon = two(&[]);
    for (port, client) in (1000..).zip(clients(daemon.udp4())) {
        client.announce(&Announce {
            num_want: i32::from(port % 10),
            ..seeder(hash(u32::from(port)), port)
        });
        http::get(daemon.tcp4(), "/nowhere");
    }
    daemon.wait_until_idle();
    for mode in [
        "peer",
        "torr",
        "numwants",
        "renew",
        "herr",
        "completed",
        "top10",
    ] {
        let target = format!("/stats?mode={mode}");
        // Without the line of the uptime, which `completed` contains.
        let report = || -> Vec<String> {
            let text = http::get(daemon.tcp4(), &target).text();
            let lines = text.lines().filter(|line| !line.contains(" seconds ("));
            lines.map(str::to_owned).collect()
        };
        let reports: BTreeSet<Vec<String>> = (0..MANY).map(|_| report()).collect();
        assert_eq!(reports.len(), 1, "{reports:?}");
    }
    assert!(!answered(&daemon, "http").contains(&0));
}

/// The report names an address with the sum of what all shards have counted, whichever thread counted it.
#[test]
fn woodpeckers_are_counted_over_all_threads_and_shards() {
    // Counts are halved once in an interval.
    let daemon = two(&["--interval", "600", "--peer-timeout", "900"]);
    let count_of = |address: &str| -> Option<u32> {
        let report = http::get(daemon.tcp4(), "/stats?mode=woodpeckers").text();
        let mut lines = report.lines().filter_map(|line| line.split_once(": "));
        let (count, _) = lines.find(|(_, named)| *named == address)?;
        count.parse().ok()
    };
    let clients = clients(daemon.udp4());
    let announce_all = |event| {
        for (n, client) in (0..4 * MANY as u16).zip(clients.iter().cycle()) {
            client.announce(&Announce {
                event,
                ..seeder(hash(n.into()), 1 + n)
            });
        }
    };
    announce_all(2);
    announce_all(2);
    assert_eq!(count_of("127.0.0.1"), None);
    announce_all(0);
    assert_eq!(count_of("127.0.0.1"), Some(4 * MANY as u32));
    both_answered(&daemon);
}

#[test]
fn an_announce_is_in_the_next_reply_of_every_thread() {
    let daemon = two(&[]);
    let clients = clients(daemon.udp4());
    for (round, client) in (0..).zip(&clients) {
        let hash = hash(round);
        client.announce(&seeder(hash, 7));
        assert_eq!(scraped(&clients, hash), [[1, 0, 0]; MANY]);
        let other = &clients[(round as usize + 1) % MANY];
        let reply = other.announce(&Announce {
            info_hash: hash,
            port: 8,
            ..Announce::default()
        });
        assert_eq!(reply.peers, ["127.0.0.1:7".parse().expect("an address")]);
        assert_eq!((reply.seeders, reply.leechers), (1, 1));
        let completed = Announce {
            event: 1,
            ..seeder(hash, 8)
        };
        client.announce(&completed);
        assert_eq!(scraped(&clients, hash), [[2, 1, 0]; MANY]);
        for port in [7, 8] {
            let stopped = Announce {
                event: 3,
                ..seeder(hash, port)
            };
            other.announce(&stopped);
        }
        assert_eq!(scraped(&clients, hash), [[0, 1, 0]; MANY]);
    }
    both_answered(&daemon);
}

#[test]
fn an_announce_is_in_the_next_reply_under_load() {
    let daemon = two(&[]);
    let clients = clients(daemon.udp4());
    under_load(daemon.udp4(), || {
        for (port, client) in (1..).zip(&clients) {
            client.announce(&seeder(A, port));
            let expected = [[u32::from(port), 0, 0]; MANY];
            assert_eq!(scraped(&clients, A), expected);
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

/// A Unix socket is one for all threads. Where several clients connect at once, each thread gets some in the end.
#[test]
fn a_unix_socket_is_served_by_all_threads() {
    let directory = Directory::new("threads-unix");
    // The daemon, no longer root, removes the file.
    let writable = PermissionsExt::from_mode(0o777);
    fs::set_permissions(directory.path(), writable).expect("is ours");
    let path = directory.file("socket");
    let listen = format!("unix:{path}");
    let daemon = two(&["-p", &listen, "--proxy", "192.0.2.1"]);
    wait_for("both threads to answer", || {
        let path = Path::new(&path);
        let mut clients: Vec<_> = (0..8).map(|_| http::Client::new_unix(path)).collect();
        for client in &mut clients {
            client.send("GET /health HTTP/1.1\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.receive().text(), "ok\n");
        }
        let text = clients[0]
            .request("GET /metrics HTTP/1.1\r\nX-Forwarded-For: ::1\r\n\r\n")
            .text();
        let accepted = |thread| {
            let name = format!("thread=\"{thread}\",protocol=\"http\"}} ");
            let (_, rest) = text.split_once(&name).expect("is told");
            !rest.starts_with("0\n")
        };
        (accepted(0) && accepted(1)).then_some(())
    });
    stop(daemon);
    assert!(!Path::new(&path).exists(), "the file goes with the daemon");
}

/// Linux takes a port that others share for one that is free, if the system is to choose and all share.
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

#[test]
fn what_ends_the_start_of_one_thread_ends_that_of_two() {
    let flags = "-j 2 -i 127.0.0.1 -P 0 -w /nowhere/list";
    let (code, _, err) = run(&flags.split(' ').collect::<Vec<_>>());
    let last = err.lines().last().unwrap_or_default();
    let start = "announced: -w/--whitelist '/nowhere/list': ";
    assert!(code == Some(1) && last.starts_with(start), "{err}");
}

/// The system allows a user so many threads and no more.
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
    assert!(
        last.starts_with("announced: cannot start threads: "),
        "{log}"
    );
    assert!(!log.contains("announced: ready"), "{log}");
}

#[test]
fn sixty_four_threads_serve_and_more_are_refused() {
    let daemon = Daemon::start(&["-j", "64"]);
    // And the one that does the chores.
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
    let (code, _, err) = run(&["-j", "65"]);
    let message = "announced: -j/--threads '65': wanted is a number from 1 to 64\n";
    assert_eq!((code, err.as_str()), (Some(2), message));
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

/// Open connections, of so many that came one after the other.
fn open_at_limit(limit: usize) -> usize {
    let daemon = two(&["--max-connections", &limit.to_string()]);
    let request = "GET /health HTTP/1.1\r\n\r\n";
    let clients: Vec<http::Client> = (0..2 * MANY)
        .map(|_| {
            let mut client = http::Client::new(daemon.tcp4());
            assert_eq!(client.request(request).status, 200);
            client
        })
        .collect();
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
    // Half of the times the second thread has its first when the first has two.
    for _ in 0..8 {
        assert_eq!(open_at_limit(2), 2);
    }
}

/// Peers that are stored at a limit, of one large swarm and of thousands of small ones.
fn stored_peers(threads: &str) -> u64 {
    let daemon = Daemon::start(&["-j", threads, "--max-peers", "2000"]);
    let clients = clients(daemon.udp4());
    for (n, client) in (0_u16..3000).zip(clients.iter().cycle()) {
        client.announce(&seeder(A, 1 + n));
        client.announce(&seeder(hash(n.into()), 1));
    }
    peers(&metrics(&daemon))
}

#[test]
fn peers_are_limited_for_the_table_as_a_whole() {
    let stored = stored_peers("1");
    assert!((2000..2500).contains(&stored), "{stored}");
    assert_eq!(stored_peers("2"), stored);
    // In one batch of each thread others may be unseen.
    let daemon = two(&["--max-peers", "2000"]);
    let tracker = daemon.udp4();
    let announce = |first: u16| {
        let client = Client::new(tracker);
        for n in first..first + 1000 {
            client.send(&client.announce_request(&seeder(A, 1 + n)));
            client.send(&client.announce_request(&seeder(hash(n.into()), 1)));
            (0..2).for_each(|_| drop(client.receive()));
        }
    };
    thread::scope(|scope| {
        for n in 0..8 {
            let announce = &announce;
            scope.spawn(move || announce(n * 1000));
        }
    });
    let together = peers(&metrics(&daemon));
    assert!((2000..=stored + 64).contains(&together), "{together}");
}

#[test]
fn torrents_are_limited_for_the_table_as_a_whole() {
    // One after the other, to whichever thread they come.
    let daemon = two(&["--max-torrents", "500"]);
    for (n, client) in (0..1000).zip(clients(daemon.udp4()).iter().cycle()) {
        client.announce(&seeder(hash(n), 1));
    }
    both_answered(&daemon);
    assert_eq!(metrics(&daemon).get("torrents"), Some(&500));
    // While a thread answers a batch, it does not see what the other one stores.
    let daemon = two(&["--max-torrents", "500"]);
    let tracker = daemon.udp4();
    thread::scope(|scope| {
        for first in (0..8000).step_by(1000) {
            scope.spawn(move || {
                let client = Client::new(tracker);
                for n in first..first + 1000 {
                    client.announce(&seeder(hash(n), 1));
                }
            });
        }
    });
    let torrents = metrics(&daemon).get("torrents").copied();
    assert!(
        torrents.is_some_and(|count| (500..=564).contains(&count)),
        "{torrents:?}"
    );
}

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
            let reply = Value::parse(&body);
            let Some(Value::Dictionary(files)) = reply.get("files") else {
                panic!("no files: {reply:?}");
            };
            for hash in &staying {
                let counts = files.get(&hash[..]).expect("stays");
                assert_eq!(
                    (counts.integer("complete"), counts.integer("incomplete")),
                    (1, 0)
                );
            }
            // A thousand come and go.
            assert!(files.len() <= staying.len() + 1000, "{}", files.len());
        }
    });
    both_answered(&daemon);
}

/// Stores more torrents than a socket's buffers take in a full scrape.
fn fill(daemon: &Daemon) {
    let clients = clients(daemon.udp4());
    for first in (0..90_000).step_by(MANY) {
        for (n, client) in (first..).zip(&clients) {
            client.send(&client.announce_request(&seeder(hash(n as u32), 1)));
        }
        clients.iter().for_each(|client| drop(client.receive()));
    }
}

/// The start of a full scrape for a client that a trusted proxy names.
fn begin_full_scrape(daemon: &Daemon, client: &str) -> (http::Client, u16) {
    let mut connection = http::Client::new(daemon.tcp4());
    connection.send(format!(
        "GET /scrape HTTP/1.1\r\nX-Forwarded-For: {client}\r\n\r\n"
    ));
    let head = connection.receive_head();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (connection, status.expect("a status"))
}

#[test]
fn four_full_scrapes_at_once_and_one_in_five_minutes_are_the_process_s() {
    let daemon = two(&["--proxy", "127.0.0.1"]);
    fill(&daemon);
    let begin = |n: usize| begin_full_scrape(&daemon, &format!("192.0.2.{n}"));
    let seated: Vec<_> = (0..4).map(begin).collect();
    assert!(seated.iter().all(|(_, status)| *status == 200));
    let statuses = |clients: std::ops::Range<usize>| -> Vec<u16> {
        clients.map(begin).map(|(_, status)| status).collect()
    };
    assert_eq!(statuses(4..20), [503; 16], "no seat");
    drop(seated);
    for client in 0..4 {
        for _ in 0..8 {
            assert_eq!(begin(client).1, 429, "it has read a moment ago");
        }
    }
    assert!(!answered(&daemon, "http").contains(&0));
}

/// The clients do not read on.
#[test]
fn a_signal_ends_all_threads_during_full_scrapes() {
    let daemon = two(&["--full-scrape", "open"]);
    fill(&daemon);
    let readers: Vec<_> = (0..4)
        .map(|n| begin_full_scrape(&daemon, &format!("192.0.2.{n}")))
        .collect();
    assert!(readers.iter().all(|(_, status)| *status == 200));
    stop(daemon);
}

fn hex(hash: Hash) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    digits + "\n"
}

fn is_tracked(client: &Client, hash: Hash) -> bool {
    let reply = client.exchange(&client.announce_request(&seeder(hash, 1)));
    reply[..4] == 1_u32.to_be_bytes()
}

/// Waits until a client is told that a torrent is tracked, or is not; then every other is told so too, at once.
fn all_are_told(clients: &[Client], hash: Hash, expected: bool) {
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
        all_are_told(&clients, A, true);
        all_are_told(&clients, B, false);
        for times in 1..=10 {
            write(&add, B);
            all_are_told(&clients, B, true);
            write(&remove, A);
            all_are_told(&clients, A, false);
            daemon.signal("HUP");
            all_are_told(&clients, A, true);
            all_are_told(&clients, B, false);
            wait_for("one line a reload", || {
                (daemon.count_lines("loaded, 1 hash") == 1 + times).then_some(())
            });
        }
        // A torrent goes and another comes at the same moment.
        directory.write("list", hex(B));
        daemon.signal("HUP");
        all_are_told(&clients, B, true);
        for client in &clients {
            assert!(!is_tracked(client, A));
        }
    });
    both_answered(&daemon);
    let log = stop(daemon);
    let loaded = log.iter().filter(|line| line.contains("loaded, 1 hash"));
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
            daemon.wait_for_line(&format!("loaded 70 torrents, {peers} peers"));
        }
        let clients = clients(daemon.udp4());
        for client in &clients {
            assert_eq!(client.scrape(&hashes), known);
        }
        for (port, client) in (first..).zip(&clients) {
            for info_hash in &hashes {
                client.announce(&Announce {
                    event: 1,
                    ..seeder(*info_hash, port)
                });
            }
        }
        known = known
            .iter()
            .map(|[seeders, completed, _]| [seeders + 32, completed + 32, 0])
            .collect();
        peers += 32 * 70;
        // At the signal and at the end.
        daemon.signal("USR1");
        let line = format!("saved 70 torrents, {peers} peers");
        daemon.wait_for_line(&line);
        let log = stop(daemon);
        let saved = log.iter().filter(|log| log.contains(&line));
        assert_eq!(saved.count(), 2, "{log:?}");
    }
}

/// The peers of the announces that one client made and that were answered, until the daemon is gone: one peer in each
/// of the torrents from this one on.
fn announce_until(
    (is_over, count): (&AtomicBool, &AtomicUsize),
    tracker: SocketAddr,
    first: u32,
) -> Vec<Hash> {
    let client = Client::new(tracker);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(tracker).expect("a route");
    let patience = Some(Duration::from_millis(50));
    socket.set_read_timeout(patience).expect("a timeout");
    let mut answered = Vec::new();
    for info_hash in (first..).map(hash) {
        if socket
            .send(&client.announce_request(&seeder(info_hash, 1)))
            .is_err()
        {
            return answered;
        }
        let mut reply = [0; 100];
        let length = loop {
            match uninterrupted(|| socket.recv(&mut reply)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !is_over.load(Relaxed) => {}
                Err(_) => return answered,
                Ok(length) => break length,
            }
        };
        let head = [1_u32.to_be_bytes(), TRANSACTION.to_be_bytes()].concat();
        assert_eq!((length, &reply[..8]), (20, &head[..]));
        answered.push(info_hash);
        count.fetch_add(1, Relaxed);
    }
    answered
}

/// The same over HTTP.
fn announce_over_http(tracker: SocketAddr, first: u32) -> Vec<Hash> {
    let mut answered = Vec::new();
    for info_hash in (first..).map(hash) {
        let escaped: String = info_hash
            .iter()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        let request = format!("GET /announce?info_hash={escaped}&port=1&left=0 HTTP/1.0\r\n\r\n");
        let mut reply = Vec::new();
        let mut exchange = || {
            let mut stream = TcpStream::connect(tracker)?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut reply)
        };
        if exchange().is_err() || !reply.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return answered;
        }
        answered.push(info_hash);
    }
    answered
}

#[test]
fn a_signal_under_load_ends_all_threads_and_nothing_answered_is_lost() {
    let directory = Directory::new("threads-term");
    let path = directory.file("state");
    let flags = ["--state", &path, "--state-interval", "0"];
    for round in 0..5 {
        let _ = fs::remove_file(&path);
        let mut daemon = two(&flags);
        let (udp, tcp) = (daemon.udp4(), daemon.tcp4());
        let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let answered: Vec<Hash> = thread::scope(|scope| {
            let over = Over(&is_over);
            let (is_over, count) = (&is_over, &count);
            let mut clients = Vec::new();
            for n in 0..16 {
                clients.push(
                    scope.spawn(move || announce_until((is_over, count), udp, n * 1_000_000)),
                );
            }
            for n in 16..20 {
                clients.push(scope.spawn(move || announce_over_http(tcp, n * 1_000_000)));
            }
            wait_for("announces, more in each round", || {
                (count.load(Relaxed) > 200 * (round + 1)).then_some(())
            });
            daemon.signal("TERM");
            let (status, log) = daemon.wait();
            assert_eq!(status.code(), Some(0), "{log:?}");
            assert_eq!(log.last().map(String::as_str), Some("announced: stopped"));
            drop(over);
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("no panic"))
                .collect()
        });
        let daemon = Daemon::start(&[&["-j", "1"], &flags[..]].concat());
        let client = Client::new(daemon.udp4());
        for some in answered.chunks(70) {
            let lost = client
                .scrape(some)
                .iter()
                .filter(|[seeders, ..]| *seeders != 1)
                .count();
            assert_eq!(lost, 0, "of {}", answered.len());
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        skip("privileges can be dropped by root only");
    }
    root
}

/// Of every thread of a daemon.
fn tasks(daemon: &Daemon) -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("is running");
    tasks.map(|task| task.expect("is running").path()).collect()
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
    let tasks = tasks(&daemon);
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        let status = fs::read_to_string(task.join("status")).expect("is running");
        for line in [
            "Uid:\t4711\t4711\t4711\t4711\n",
            "Gid:\t4712\t4712\t4712\t4712\n",
            "CapPrm:\t0000000000000000\n",
            "CapEff:\t0000000000000000\n",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        assert_eq!(groups.map(str::trim), Some("4712"));
        let root = fs::read_link(task.join("root")).expect("is a link");
        assert_eq!(root.to_str(), Some(directory.path()));
    }
    stop(daemon);
}

/// A process and all that it has started, and so on.
fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut next = 0;
    while let Some(id) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let ids = children
            .split_whitespace()
            .map(|id| id.parse().expect("a number"));
        all.extend(ids.collect::<Vec<u32>>());
        next += 1;
    }
    all
}

/// Whether a process is there, and no zombie.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn wait_until_gone(ids: &[u32]) {
    for id in ids {
        wait_for("the end of all", || (!is_alive(*id)).then_some(()));
    }
}

fn kill(signal: &str, ids: &[u32]) {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let mut kill = Command::new("kill");
    kill.args(["-s", signal]).args(&ids).stderr(Stdio::null());
    // Not all of them may still be there: the end of one ends others.
    kill.status().expect("there is a kill");
}

/// As a service manager does that ends all that it has started.
#[test]
fn a_signal_to_every_process_is_one_to_the_daemon() {
    let directory = Directory::new("threads-all");
    let path = directory.file("state");
    let mut daemon = two(&["--state", &path, "--state-interval", "0"]);
    for (port, client) in (1000..).zip(clients(daemon.udp4())) {
        client.announce(&seeder(A, port));
    }
    let all = family(daemon.id());
    assert!(all.len() > 1, "the process that writes the file: {all:?}");
    for (signal, line) in [("USR1", "saved 1 torrents"), ("TERM", "announced: stopped")] {
        kill(signal, &all);
        daemon.wait_for_line(line);
    }
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let saved = log
        .iter()
        .filter(|line| line.contains("saved 1 torrents, 32 peers"));
    assert_eq!(saved.count(), 2, "{log:?}");
    wait_until_gone(&all);
}

#[test]
fn helpers_end_with_a_daemon_that_is_killed() {
    let directory = Directory::new("threads-killed");
    let (pidfile, list) = (directory.file("pid"), directory.write("list", hex(A)));
    let mut daemon = two(&["--pidfile", &pidfile, "-w", &list]);
    let own = format!("{}\n", daemon.id());
    assert_eq!(fs::read_to_string(&pidfile).ok(), Some(own));
    let all = family(daemon.id());
    assert!(all.len() > 1, "{all:?}");
    daemon.signal("KILL");
    daemon.wait();
    wait_until_gone(&all);
    wait_for("the pidfile's end", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
}

#[test]
fn in_the_background_the_pidfile_names_the_process_of_all_threads() {
    let directory = Directory::new("threads-daemon");
    let pidfile = directory.file("pid");
    let status = Command::new(program())
        .args(["-j", "2", "-i", "127.0.0.1", "-p", "0", "-P", "0"])
        .args(["--daemon", "--pidfile", &pidfile])
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("starts").success());
    let id = fs::read_to_string(&pidfile).expect("is there");
    let id: u32 = id.trim().parse().expect("a number");
    let tasks = || fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
    wait_for("two threads and that of the chores", || {
        (tasks() == 3).then_some(())
    });
    let all = family(id);
    kill("TERM", &[id]);
    wait_until_gone(&all);
    wait_for("the pidfile's end", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
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

/// An address that is listened on twice is refused, as one thread refuses it.
#[test]
fn own_addresses_that_overlap_are_refused_with_any_number_of_threads() {
    let address = free_address();
    let (ip, port) = (
        &address.ip().to_string()[..],
        &address.port().to_string()[..],
    );
    for (flags, name) in [
        (&["-i", ip, "-P", port, "-P", port][..], "udp"),
        (&["-i", ip, "-p", port, "-p", port], "tcp"),
        (&["-P", port, "-i", ip, "-P", port], "udp"),
        (&["-i", ip, "-P", port, "-i", "0.0.0.0", "-P", port], "udp"),
        (&["-i", ip, "-p", port, "-i", "0.0.0.0", "-p", port], "tcp"),
    ] {
        let error = |threads| {
            let mut command = Command::new(program());
            command.args(["-j", threads]).args(flags);
            let log = Daemon::try_spawn(command).err();
            let log = log.unwrap_or_else(|| panic!("{threads} threads listen: {flags:?}"));
            log.last().cloned().unwrap_or_default()
        };
        let expected = error("1");
        let start = format!("announced: cannot listen on {name} ");
        assert!(expected.starts_with(&start), "{expected}");
        assert!(expected.contains("Address already in use"), "{expected}");
        assert_eq!(error("2"), expected);
    }
}

/// With many of them, the system would choose some port twice in nearly every run if nothing kept it from that.
#[test]
fn each_socket_at_port_0_has_a_port_of_its_own() {
    const SOCKETS: usize = 400;
    let flags = [
        &["-j", "2", "-i", "127.0.0.1"],
        &["-P", "0"].repeat(SOCKETS)[..],
    ]
    .concat();
    let log = Daemon::start_with(&flags).log();
    let addresses: BTreeSet<&str> = log
        .iter()
        .filter_map(|line| line.strip_prefix("announced: listening on udp "))
        .filter_map(|line| line.split(',').next())
        .collect();
    assert_eq!(addresses.len(), SOCKETS, "{log:?}");
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
    let start =
        format!("announced: cannot listen on udp {address} with several threads: Too many open");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with(&start), "{log}");
    assert_eq!(output.status.code(), Some(1), "{log}");
}
