//! At the limits of descriptors and connections, and with clients that take their time.

// Some tests are for Linux alone.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use common::http::{Client, get};
use common::{Daemon, program, wait_for};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const TARGET: &str = "/scrape?info_hash=AAAAAAAAAAAAAAAAAAAA";

/// The processor time of a daemon so far, in hundredths of a second.
#[cfg(target_os = "linux")]
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id())).expect("is running");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    let number = |i: usize| fields[i].parse::<u64>().expect("a number");
    number(11) + number(12)
}

/// With several threads it is the idlest of the thread that accepts the newcomer.
#[test]
fn at_the_connection_limit_the_idlest_makes_room() {
    let daemon = Daemon::start(&["-j", "1", "--max-connections", "10"]);
    let request = format!("GET {TARGET} HTTP/1.1\r\n\r\n");
    let mut old = Client::new(daemon.tcp4());
    old.request(&request);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = Client::new(daemon.tcp4());
        assert_eq!(client.request(&request).status, 200);
        clients.push(client);
    }
    assert_eq!(
        old.read_to_end(),
        b"",
        "the one that was idle for longest is closed"
    );
    for client in &mut clients {
        assert_eq!(client.request(&request).status, 200, "the others are not");
    }
}

/// The value of a counter or gauge that has no labels.
fn metric(report: &str, name: &str) -> Option<u64> {
    let start = format!("announced_{name} ");
    let mut lines = report.lines();
    lines.find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

/// A thread that has no connection exceeds the limit by the one that it accepts, and closes none for it.
#[test]
fn an_eviction_is_counted_only_where_a_connection_is_closed() {
    let daemon = Daemon::start(&["-j", "2", "--max-connections", "1"]);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..40 {
        let mut client = Client::new(daemon.tcp4());
        client.request(format!("GET {TARGET} HTTP/1.1\r\n\r\n"));
        clients.push(client);
    }
    let last = clients.last_mut().expect("is not closed");
    wait_for("counts that add up", || {
        let report = last.request("GET /metrics HTTP/1.1\r\n\r\n").text();
        let accepted = metric(&report, "connections_accepted_total")?;
        let open = metric(&report, "connections")?;
        let evicted = metric(&report, "connections_evicted_total")?;
        assert!(accepted <= 40 && open <= 2);
        (accepted == 40 && evicted == accepted - open).then_some(())
    });
}

/// A process that may open only a few descriptors goes on serving newcomers, and does not spin while
/// it is full.
#[cfg(target_os = "linux")]
#[test]
fn at_the_descriptor_limit_it_goes_on_and_does_not_spin() {
    let daemon = start_with_descriptors(24);
    let idle: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(daemon.tcp4()).expect("connects"))
        .collect();
    assert_eq!(get(daemon.tcp4(), TARGET).status, 200);
    let before = ticks(&daemon);
    std::thread::sleep(Duration::from_millis(500)); // The time over which spinning would show.
    let spent = ticks(&daemon) - before;
    assert!(
        spent < 20,
        "{spent} hundredths of a second in half a second of nothing to do"
    );
    drop(idle);
    assert_eq!(get(daemon.tcp4(), TARGET).status, 200);
}

/// With room for a single connection, each newcomer takes the place of the one before.
#[cfg(target_os = "linux")]
#[test]
fn with_one_descriptor_left_every_newcomer_is_served() {
    // Standard streams, signals, poll, listeners and the file that tells of memory take 9.
    let daemon = start_with_descriptors(10);
    let _held: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(daemon.tcp4()).expect("connects"))
        .collect();
    assert_eq!(get(daemon.tcp4(), TARGET).status, 200);
}

/// With none left there is no connection to close either: it says so once, waits without spinning,
/// serves datagrams meanwhile, and goes on when there are descriptors again.
#[cfg(target_os = "linux")]
#[test]
fn without_a_single_descriptor_left_it_waits_and_recovers() {
    let daemon = start_with_descriptors(64);
    if !limit_descriptors(&daemon, "9:64") {
        return common::skip("limits are changed with util-linux's prlimit and setpriv");
    }
    let mut client = Client::new(daemon.tcp4());
    client.send(format!("GET {TARGET} HTTP/1.1\r\n\r\n"));
    daemon.wait_for_line("cannot accept connections: ");
    let before = ticks(&daemon);
    std::thread::sleep(Duration::from_millis(1200)); // Two retries, and time for spinning to show.
    let spent = ticks(&daemon) - before;
    assert!(spent < 40, "{spent} hundredths of a second while waiting");
    common::udp::Client::new(daemon.udp4()).scrape(&[[0; 20]]);
    let complaints = |part: &str| daemon.log().iter().filter(|l| l.contains(part)).count();
    assert_eq!(
        complaints("cannot accept connections"),
        1,
        "once, not at each retry"
    );
    assert!(limit_descriptors(&daemon, "64:64"));
    assert_eq!(client.receive().status, 200);
    daemon.wait_for_line("accepting connections again");
}

/// Sets the soft and hard limit of a running daemon, as its own user: not every root may do that to others.
#[cfg(target_os = "linux")]
fn limit_descriptors(daemon: &Daemon, limits: &str) -> bool {
    let uids = daemon.proc_status("Uid");
    let uid = uids.split_whitespace().next().expect("an id");
    let id = daemon.id().to_string();
    let limits = format!("--nofile={limits}");
    let own = Command::new("prlimit")
        .args(["--pid", &id, &limits])
        .status();
    let is_done = |status: std::io::Result<std::process::ExitStatus>| {
        status.is_ok_and(|status| status.success())
    };
    let user = [
        format!("--reuid={uid}"),
        format!("--regid={uid}"),
        "--clear-groups".into(),
    ];
    is_done(own)
        || is_done(
            Command::new("setpriv")
                .args(&user)
                .args(["prlimit", "--pid", &id, &limits])
                .status(),
        )
}

#[cfg(target_os = "linux")]
fn start_with_descriptors(most: u32) -> Daemon {
    let mut command = Command::new("sh");
    let flags = "-i 127.0.0.1 -p 0 -P 0";
    let line = format!("ulimit -n {most}; exec {} {flags}", program());
    command.args(["-c", &line]);
    Daemon::spawn(command)
}

#[test]
fn an_idle_connection_is_closed_after_30_seconds() {
    let daemon = Daemon::start(&[]);
    let start = Instant::now();
    let mut idle = Client::new(daemon.tcp4());
    let mut slow = Client::new(daemon.tcp4());
    let mut kept = Client::new(daemon.tcp4());
    assert_eq!(
        kept.request(format!("GET {TARGET} HTTP/1.1\r\n\r\n"))
            .status,
        200
    );
    for client in [&idle, &slow, &kept] {
        let timeout = Some(Duration::from_secs(60));
        client
            .stream()
            .set_read_timeout(timeout)
            .expect("an option");
    }
    // A byte now and then does not count as a request.
    for byte in *b"GET /a HTT" {
        slow.send([byte]);
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(start.elapsed() < Duration::from_secs(28), "not yet");
    for client in [&mut idle, &mut slow, &mut kept] {
        assert_eq!(client.read_to_end(), b"");
    }
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(29), "{waited:?}");
}

/// Clients that ask much, read nothing and stay are the dearest; all of them together must stay cheap.
#[cfg(target_os = "linux")]
#[test]
fn clients_that_do_not_read_cost_a_bounded_amount() {
    let daemon = Daemon::start(&[]);
    let mut clients = Vec::new();
    let flood = format!("GET {TARGET} HTTP/1.1\r\n\r\n").repeat(2000);
    for _ in 0..200 {
        let client = Client::new(daemon.tcp4());
        client.stream().set_nonblocking(true).expect("an option");
        clients.push(client);
    }
    for round in 0..20 {
        for client in &clients {
            let _ = std::io::Write::write(&mut client.stream(), flood.as_bytes());
        }
        assert_eq!(get(daemon.tcp4(), TARGET).status, 200, "round {round}");
    }
    let kilobytes = resident(&daemon);
    assert!(kilobytes < 10_000, "{kilobytes} kB for 200 connections");
}

/// Announces torrents and returns a target that scrapes all of them, in a reply of 18 KB.
#[cfg(target_os = "linux")]
fn long_scrape(daemon: &Daemon) -> String {
    let hashes: Vec<String> = (0..260).map(|n| format!("{n:020}")).collect();
    let mut client = Client::new(daemon.tcp4());
    for hash in &hashes {
        client.request(format!("GET /a?info_hash={hash}&port=1 HTTP/1.1\r\n\r\n"));
    }
    format!("/scrape?info_hash={}", hashes.join("&info_hash="))
}

/// Whether a connection answers a request whose head arrives in two segments.
#[cfg(target_os = "linux")]
fn answers_two_segments(daemon: &Daemon, client: &mut Client) -> bool {
    client.send(format!("GET {TARGET} HTTP/1.1\r\n"));
    // Its reply shows that the daemon has read the half before.
    get(daemon.tcp4(), TARGET);
    let rest = std::io::Write::write_all(&mut client.stream(), b"\r\n");
    rest.is_ok() && client.stream().peek(&mut [0]).is_ok_and(|count| count > 0)
}

/// One client that pipelines and reads late fills the buffers of its connection thousands of times. None of
/// that counts against others once it is sent.
#[cfg(target_os = "linux")]
#[test]
fn late_reading_of_pipelined_replies_leaves_no_bytes_counted() {
    let daemon = Daemon::start(&[]);
    let target = long_scrape(&daemon);
    let request = format!("GET {target} HTTP/1.1\r\n\r\n");
    let mut other = Client::new(daemon.tcp4());
    let reply = other.request(&request);
    let length = reply.head.len() + reply.body.len();

    let short = format!("GET {TARGET} HTTP/1.1\r\n\r\n");
    let late = Client::new(daemon.tcp4());
    common::sys::set_receive_buffer(late.stream(), 32 * 1024).expect("an option");
    let mut writer = late.stream().try_clone().expect("a handle");
    let sender = std::thread::spawn(move || {
        for _ in 0..24_000 {
            std::io::Write::write_all(&mut writer, request.as_bytes()).expect("is sent");
        }
    });
    let mut left = 24_000 * length;
    while left > 0 {
        // Each of another's replies shows that the daemon had a turn, in which it wrote a reply to this one too.
        for _ in 0..10 {
            other.request(&short);
        }
        let mut part = std::io::Read::take(late.stream(), left.min(128 * 1024) as u64);
        let read = std::io::copy(&mut part, &mut std::io::sink()).expect("replies");
        assert!(read > 0, "cut off");
        left -= read as usize;
    }
    sender.join().expect("no panic");

    let mut idle = Client::new(daemon.tcp4());
    idle.request(&short);
    let mut newcomer = Client::new(daemon.tcp4());
    assert!(answers_two_segments(&daemon, &mut newcomer));
    assert!(
        answers_two_segments(&daemon, &mut idle),
        "closed while idle"
    );
}

/// Full scrapes that nobody reads hold a quarter of a megabyte each. At the bound they are closed, and not the
/// connections that have been idle for longer and hold nothing.
#[cfg(target_os = "linux")]
#[test]
fn connections_that_hold_nothing_survive_those_that_do_not_read() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hash = |n: u32| [&n.wrapping_mul(0x9e37_79b1).to_be_bytes()[..]; 5].concat();
    let udp = common::udp::Client::new(daemon.udp4());
    for n in 0..20_000 {
        let info_hash = hash(n).try_into().expect("20 bytes");
        udp.announce(&common::udp::Announce {
            info_hash,
            ..Default::default()
        });
    }

    let mut idle: Vec<Client> = (0..50).map(|_| Client::new(daemon.tcp4())).collect();
    let request = format!("GET {TARGET} HTTP/1.1\r\n\r\n");
    for client in &mut idle {
        client.request(&request);
    }
    let mut half = Client::new(daemon.tcp4());
    let half_head = format!("GET {TARGET} HTTP/1.1\r\n");
    half.send(&half_head);
    let greedy: Vec<Client> = (0..150)
        .map(|_| {
            let mut client = Client::new(daemon.tcp4());
            common::sys::set_receive_buffer(client.stream(), 4096).expect("an option");
            client.send("GET /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
            client
        })
        .collect();
    wait_for("an eviction", || {
        // A slow daemon may take longer than a connection may be idle, or a head be half sent.
        for client in &mut idle {
            assert_eq!(client.request(&request).status, 200);
        }
        half.send("\r\n");
        assert_eq!(half.receive().status, 200);
        half.send(&half_head);
        let report = get(daemon.tcp4(), "/metrics").text();
        (metric(&report, "connections_evicted_total")? > 0).then_some(())
    });
    for client in &mut idle {
        assert_eq!(client.request(&request).status, 200);
    }
    half.send("\r\n");
    assert_eq!(half.receive().status, 200);
    drop(greedy);
}

/// A log that nobody reads is no reason to stop serving.
#[cfg(target_os = "linux")]
#[test]
fn a_log_that_is_not_read_holds_nothing_up() {
    let mut child = Command::new(program())
        .args(["-i", "127.0.0.1", "-P", "0"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut log = BufReader::new(child.stderr.take().expect("is piped"));
    let mut line = String::new();
    while !line.contains("listening on udp") {
        line.clear();
        log.read_line(&mut line).expect("is a line");
    }
    let address = line.split([' ', ',']).nth(4).and_then(|a| a.parse().ok());
    let mut client = common::udp::Client::new(address.expect("an address"));
    let id = child.id().to_string();
    // Some 50 bytes a line: twice what a pipe holds.
    for _ in 0..3000 {
        let sent = Command::new("kill").args(["-s", "HUP", &id]).status();
        assert!(sent.expect("there is a kill").success());
        // It may all take longer than one connection id is good for.
        client.connect();
        client.scrape(&[[0; 20]]);
    }
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.expect("there is a kill").success());
    let status = wait_for("its end", || child.try_wait().expect("can be asked"));
    assert_eq!(status.code(), Some(0));
}

#[cfg(target_os = "linux")]
fn resident(daemon: &Daemon) -> u64 {
    let text = daemon.proc_status("VmRSS");
    text.split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("kilobytes")
}

/// Whatever is sent, nothing is kept of it.
#[cfg(target_os = "linux")]
#[test]
fn nonsense_costs_no_memory() {
    let daemon = Daemon::start(&[]);

    let pelt = |rounds: u32| {
        let client = common::udp::Client::new(daemon.udp4());
        for round in 0..rounds {
            let length = round as usize % 1400;
            client.send(&vec![(round % 251) as u8; length]);
            if round % 64 == 0 {
                wait_for("it to keep up", || Some(client.is_silent_on(b"x")));
            }
            if round % 50 == 0 {
                let mut http = Client::new(daemon.tcp4());
                http.send(["GET ", &"x".repeat(length)].concat());
            }
        }
    };
    pelt(5_000);
    let before = resident(&daemon);
    pelt(20_000);
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 512, "{grown} kB more");
}
