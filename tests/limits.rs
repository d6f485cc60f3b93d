//! Limits of descriptors, connections, memory and time.

// Most tests need Linux, which reports the memory, time and descriptors of a process.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod common;

use common::http::{Client, get, metric};
use common::udp;
use common::{Daemon, program, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const TARGET: &str = "/scrape?info_hash=AAAAAAAAAAAAAAAAAAAA";
const REQUEST: &str = "GET /scrape?info_hash=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\n\r\n";

/// The processor time that a daemon uses while the test sleeps, in hundredths of a second.
fn ticks_while_idle(daemon: &Daemon, time: Duration) -> u64 {
    let ticks = || {
        let path = format!("/proc/{}/stat", daemon.id());
        let stat = std::fs::read_to_string(path).expect("is running");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields = fields.split(' ').skip(11).take(2);
        let ticks = fields.map(|field| field.parse::<u64>().expect("a number"));
        ticks.sum::<u64>()
    };
    let before = ticks();
    // Spinning can only show over time.
    std::thread::sleep(time);
    ticks() - before
}

/// A connection whose first request is answered.
fn served(daemon: &Daemon) -> Client {
    let mut client = Client::new(daemon.tcp4());
    assert_eq!(client.request(REQUEST).status, 200);
    client
}

/// With several threads it is the idlest of the thread that accepts the newcomer.
#[test]
fn newcomer_replaces_the_idlest_connection_at_the_limit() {
    let daemon = Daemon::start(&["-j", "1", "--max-connections", "10"]);
    let mut clients: Vec<Client> = (0..11).map(|_| served(&daemon)).collect();
    assert_eq!(clients.remove(0).read_to_end(), b"");
    for client in &mut clients {
        assert_eq!(client.request(REQUEST).status, 200);
    }
}

/// A thread that has no connection exceeds the limit by the one that it accepts, and closes none for it.
#[test]
fn eviction_is_counted_only_if_a_connection_is_closed() {
    let daemon = Daemon::start(&["-j", "2", "--max-connections", "1"]);
    let mut clients: Vec<Client> = (0..40).map(|_| served(&daemon)).collect();
    let last = clients.last_mut().expect("is not closed");
    wait_for("consistent counts", || {
        let report = last.request("GET /metrics HTTP/1.1\r\n\r\n").text();
        let accepted = metric(&report, "connections_accepted_total");
        let open = metric(&report, "connections");
        let evicted = metric(&report, "connections_evicted_total");
        assert!(accepted <= 40 && open <= 2);
        (accepted == 40 && evicted == accepted - open).then_some(())
    });
}

/// Standard streams, signals, poll, listeners and the file that reports the memory in use take 9 descriptors.
#[cfg(target_os = "linux")]
#[test]
fn newcomers_are_served_at_the_descriptor_limit_without_spinning() {
    for (limit, connections) in [(24, 100), (12, 20)] {
        let daemon = start_with_descriptors(limit);
        let idle: Vec<TcpStream> = (0..connections)
            .map(|_| TcpStream::connect(daemon.tcp4()).expect("connects"))
            .collect();
        assert_eq!(get(daemon.tcp4(), TARGET).status, 200);
        let ticks = ticks_while_idle(&daemon, Duration::from_millis(500));
        assert!(ticks < 20, "{ticks} hundredths of a second");
        drop(idle);
        assert_eq!(get(daemon.tcp4(), TARGET).status, 200);
    }
}

/// With no descriptor and no connection to close, the daemon logs it once, serves datagrams, and retries.
#[cfg(target_os = "linux")]
#[test]
fn without_descriptors_accepting_pauses_and_resumes() {
    let daemon = start_with_descriptors(64);
    if !daemon.limit("--nofile=9:64") {
        return common::skip("limits are changed with util-linux's prlimit and setpriv");
    }
    let mut client = Client::new(daemon.tcp4());
    client.send(REQUEST);
    daemon.wait_for_line("cannot accept connections: ");
    // Two retries.
    let ticks = ticks_while_idle(&daemon, Duration::from_millis(1200));
    assert!(ticks < 40, "{ticks} hundredths of a second");
    udp::Client::new(daemon.udp4()).scrape(&[[0; 20]]);
    assert_eq!(daemon.count_lines("cannot accept connections"), 1);
    assert!(daemon.limit("--nofile=64:64"));
    assert_eq!(client.receive().status, 200);
    daemon.wait_for_line("accepting connections again");
}

#[cfg(target_os = "linux")]
fn start_with_descriptors(max: u32) -> Daemon {
    let flags = "-i 127.0.0.1 -p 0 -P 0";
    let line = format!("ulimit -n {max}; exec {} {flags}", program());
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    Daemon::spawn(command)
}

/// Single bytes are not a request, and an answered request restarts the time.
#[test]
fn connection_is_closed_30_seconds_after_its_last_request() {
    let daemon = Daemon::start(&[]);
    let start = Instant::now();
    let mut clients = [(); 3].map(|()| Client::new(daemon.tcp4()));
    for client in &clients {
        let timeout = Some(Duration::from_secs(60));
        let set = client.stream().set_read_timeout(timeout);
        set.expect("an option");
    }
    let [_, slow, kept] = &mut clients;
    assert_eq!(kept.request(REQUEST).status, 200);
    for byte in *b"GET /a HTT" {
        slow.send([byte]);
        std::thread::sleep(Duration::from_secs(2));
    }
    for client in &mut clients {
        assert_eq!(client.read_to_end(), b"");
        let waited = start.elapsed();
        assert!(waited > Duration::from_secs(29), "{waited:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_for_clients_that_send_and_do_not_read_is_bounded() {
    let daemon = Daemon::start(&[]);
    let flood = REQUEST.repeat(2000);
    let clients: Vec<Client> = (0..200).map(|_| Client::new(daemon.tcp4())).collect();
    for client in &clients {
        client.stream().set_nonblocking(true).expect("an option");
    }
    for round in 0..20 {
        for client in &clients {
            let _ = client.stream().write(flood.as_bytes());
        }
        assert_eq!(get(daemon.tcp4(), TARGET).status, 200, "round {round}");
    }
    let resident = daemon.resident_kib();
    assert!(resident < 10_000, "{resident} KiB for 200 connections");
}

/// Announces torrents and returns a request that scrapes all of them, with a reply of 18 KB.
#[cfg(target_os = "linux")]
fn long_scrape(daemon: &Daemon) -> String {
    let hashes: Vec<String> = (0..260).map(|n| format!("{n:020}")).collect();
    let mut client = Client::new(daemon.tcp4());
    for hash in &hashes {
        client.request(format!("GET /a?info_hash={hash}&port=1 HTTP/1.1\r\n\r\n"));
    }
    let hashes = hashes.join("&info_hash=");
    format!("GET /scrape?info_hash={hashes} HTTP/1.1\r\n\r\n")
}

/// Whether a connection answers a request whose head arrives in two segments.
#[cfg(target_os = "linux")]
fn answers_two_segments(daemon: &Daemon, client: &mut Client) -> bool {
    client.send(REQUEST.trim_end());
    // This reply shows that the daemon has read the first segment.
    get(daemon.tcp4(), TARGET);
    let rest = client.stream().write_all(b"\r\n\r\n");
    rest.is_ok() && client.stream().peek(&mut [0]).is_ok_and(|count| count > 0)
}

/// One client that pipelines and reads late fills the buffers of its connection thousands of times. Once sent, that
/// does not count as memory.
#[cfg(target_os = "linux")]
#[test]
fn replies_that_were_read_late_leave_no_bytes_counted() {
    let daemon = Daemon::start(&[]);
    let request = long_scrape(&daemon);
    let mut other = Client::new(daemon.tcp4());
    let reply = other.request(&request);
    let length = reply.head.len() + reply.body.len();
    let late = Client::new(daemon.tcp4());
    common::sys::set_receive_buffer(late.stream(), 32 * 1024).expect("an option");
    let mut writer = late.stream().try_clone().expect("a handle");
    let sender = std::thread::spawn(move || {
        for _ in 0..24_000 {
            writer.write_all(request.as_bytes()).expect("is sent");
        }
    });
    let mut left = 24_000 * length;
    while left > 0 {
        // Each reply to another client shows that the daemon had a turn, in which it wrote one to this client too.
        for _ in 0..10 {
            other.request(REQUEST);
        }
        let mut part = late.stream().take(left.min(128 * 1024) as u64);
        let read = std::io::copy(&mut part, &mut std::io::sink()).expect("replies");
        assert!(read > 0, "cut off");
        left -= read as usize;
    }
    sender.join().expect("no panic");
    let mut idle = served(&daemon);
    let mut newcomer = Client::new(daemon.tcp4());
    assert!(answers_two_segments(&daemon, &mut newcomer));
    assert!(answers_two_segments(&daemon, &mut idle));
}

/// Full scrapes that are not read hold a quarter of a megabyte each. At the bound they are closed, and not the
/// connections that have been idle for longer and hold little or nothing.
#[cfg(target_os = "linux")]
#[cfg(feature = "full-scrape")]
#[test]
fn connections_that_hold_the_most_are_closed_at_the_memory_limit() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let udp = udp::Client::new(daemon.udp4());
    for n in 0..20_000_u32 {
        let part = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
        let info_hash = [part; 5].concat().try_into().expect("20 bytes");
        udp.announce(&udp::Announce {
            info_hash,
            ..udp::Announce::default()
        });
    }
    let mut idle: Vec<Client> = (0..50).map(|_| Client::new(daemon.tcp4())).collect();
    let mut half = Client::new(daemon.tcp4());
    let (front, back) = REQUEST.split_at(REQUEST.len() - 2);
    half.send(front);
    // A slow daemon may take longer than a connection may be idle, or a head be half sent.
    let mut ask_all = || {
        for client in &mut idle {
            assert_eq!(client.request(REQUEST).status, 200);
        }
        half.send(back);
        assert_eq!(half.receive().status, 200);
        half.send(front);
    };
    ask_all();
    let begin = |_| {
        let mut client = Client::new(daemon.tcp4());
        common::sys::set_receive_buffer(client.stream(), 4096).expect("an option");
        client.send("GET /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
        client
    };
    let _greedy: Vec<Client> = (0..150).map(begin).collect();
    wait_for("an eviction", || {
        ask_all();
        let report = get(daemon.tcp4(), "/metrics").text();
        (metric(&report, "connections_evicted_total") > 0).then_some(())
    });
    ask_all();
}

#[cfg(target_os = "linux")]
#[test]
fn invalid_datagrams_and_requests_leave_no_memory_in_use() {
    let daemon = Daemon::start(&[]);
    let send_nonsense = |rounds: u32| {
        let client = udp::Client::new(daemon.udp4());
        for round in 0..rounds {
            let length = round as usize % 1400;
            client.send(&vec![(round % 251) as u8; length]);
            if round % 64 == 0 {
                wait_for("the daemon to keep up", || Some(client.is_silent_on(b"x")));
            }
            if round % 50 == 0 {
                let mut http = Client::new(daemon.tcp4());
                http.send(["GET ", &"x".repeat(length)].concat());
            }
        }
    };
    send_nonsense(5_000);
    let before = daemon.resident_kib();
    send_nonsense(20_000);
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(grown < 512, "{grown} KiB more");
}
