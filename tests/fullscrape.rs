//! Full scrapes as clients see them: every torrent in one reply, whatever happens meanwhile.

mod common;

use common::bencode::Value;
use common::http::{Client, Response, metric};
use common::{Daemon, skip, udp, uninterrupted, wait_for, wait_longer};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Hash = [u8; 20];

/// Hashes that are in no order when counted up.
fn hash(n: u32) -> Hash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    hash
}

/// Announces a peer in each of these torrents, some at a time.
fn announce_all(daemon: &Daemon, hashes: &[Hash], event: u32) {
    let client = udp::Client::new(daemon.udp4());
    for some in hashes.chunks(32) {
        for &info_hash in some {
            client.send(&client.announce_request(&udp::Announce {
                info_hash,
                event,
                num_want: 0,
                ..Default::default()
            }));
        }
        for _ in some {
            assert_eq!(client.receive()[..4], [0, 0, 0, 1]);
        }
    }
}

fn fill(daemon: &Daemon, count: u32) -> Vec<Hash> {
    let mut hashes: Vec<Hash> = (0..count).map(hash).collect();
    announce_all(daemon, &hashes, 2);
    hashes.sort();
    hashes
}

/// The hashes of a whole bencoded scrape. The parser insists that they are in order, each once.
fn scraped(body: &[u8]) -> Vec<Hash> {
    let dictionary = Value::parse(body);
    let Some(Value::Dictionary(files)) = dictionary.get("files") else {
        panic!("no files: {dictionary:?}");
    };
    let hash = |key: &Vec<u8>| key.as_slice().try_into().expect("20 bytes");
    files.keys().map(hash).collect()
}

/// A connection that has sent a request.
fn begin(address: SocketAddr, target: &str, rest: &str) -> Client {
    let mut client = Client::new(address);
    client.send(format!("GET {target} HTTP/1.1\r\n{rest}\r\n"));
    client
}

fn request(address: SocketAddr, target: &str, rest: &str) -> Response {
    begin(address, target, rest).receive()
}

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A full scrape by a client that a trusted proxy names.
fn begin_as(daemon: &Daemon, client: &str) -> Client {
    let header = format!("X-Forwarded-For: {client}\r\nConnection: close\r\n");
    begin(daemon.tcp4(), "/scrape", &header)
}

fn request_as(daemon: &Daemon, client: &str) -> Response {
    begin_as(daemon, client).receive()
}

/// Runs a program on some input. None: it is not installed.
fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().expect("is piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    });
    assert!(output.status.success(), "{program} fails");
    Some(output.stdout)
}

#[test]
fn formats_are_chosen_by_name() {
    let daemon = Daemon::start(&[]);
    let hash = *b"a\0 :+%~./-=$_9Z\xff(\n\r!";
    announce_all(&daemon, &[hash], 2);
    let hex = "6100203A2B257E2E2F2D3D245F395AFF280A0D21";
    let counts = b"d8:completei0e10:downloadedi0e10:incompletei1eeee";
    let ben = [b"d5:filesd20:", &hash[..], counts].concat();
    let txt = format!("{hex}:0:1\n").into_bytes();
    let txtp = format!("{hex}:0:1:0\n").into_bytes();
    let url = b"a%00%20%3a%2b%25~./-=$_9Z%ff%28%0a%0d%21:0:1\n".to_vec();
    let bin = [&hash[..], &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
    for (target, body) in [
        ("/scrape", &ben),
        ("/stats?mode=tpbs", &ben),
        ("/stats?mode=tpbs&format=ben", &ben),
        ("/stats?mode=tpbs&format=txt", &txt),
        ("/stats?mode=tpbs&format=txtp", &txtp),
        ("/stats?mode=tpbs&format=url", &url),
        ("/stats?mode=tpbs&format=bin", &bin),
    ] {
        let response = request(daemon.tcp4(), target, "");
        assert_eq!(response.body, *body, "{target}");
        assert_eq!(
            response.head,
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
             Vary: Accept-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }
    let dump = request(daemon.tcp4(), "/stats?mode=statedump", "").text();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let minute = now.expect("is later").as_secs() / 60;
    let expected = [minute, minute - 1].map(|minute| format!("{hex}:{minute}:0\n"));
    assert!(expected.contains(&dump), "{dump}");
    let bad = request(daemon.tcp4(), "/stats?mode=tpbs&format=xml", "");
    assert_eq!(bad.status, 400);
}

#[test]
fn full_scrape_is_whole_in_every_version_and_over_every_socket() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 5000);
    let chunked = request(daemon.tcp4(), "/scrape", "");
    assert_eq!(scraped(&chunked.body), hashes);
    for rest in ["", "Connection: keep-alive\r\n"] {
        let mut client = Client::new(daemon.tcp4());
        client.send(format!("GET /scrape HTTP/1.0\r\n{rest}\r\n"));
        let head = client.receive_head();
        assert!(!head.contains("chunked") && !head.contains("keep-alive"));
        assert!(client.read_to_end() == chunked.body);
    }
    let close = request(daemon.tcp6(), "//scrape?x=y", "Connection: close\r\n");
    assert_eq!(close.header("Connection"), Some("close"));
    assert!(close.body == chunked.body);
}

#[test]
fn gzip_is_chosen_by_accept_encoding_and_decompresses_to_the_plain_scrape() {
    let script = "import sys, gzip, zlib; z = sys.stdin.buffer.read(); p = gzip.decompress(z); \
        assert p == zlib.decompress(z, 31); sys.stdout.buffer.write(p)";
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let url = format!("http://{}/scrape", daemon.tcp4());
    for torrents in [0, 20_000] {
        fill(&daemon, torrents);
        let plain = request(daemon.tcp4(), "/scrape", "").body;
        assert_eq!(plain == b"d5:filesdee", torrents == 0);
        let gzip = request(daemon.tcp4(), "/scrape", GZIP);
        assert_eq!(gzip.header("Content-Encoding"), Some("gzip"));
        assert!(gzip.body.len() < plain.len() / 2 || torrents == 0);
        for (program, arguments) in [
            ("gzip", &["-dc"][..]),
            ("python3", &["-c", script]),
            ("curl", &["-sS", "--compressed", &url]),
        ] {
            match pipe(program, arguments, &gzip.body) {
                Some(unpacked) => assert!(unpacked == plain, "{program}"),
                None => skip(&format!("there is no {program}")),
            }
        }
    }
    let plain = request(daemon.tcp4(), "/scrape", "Accept-Encoding: gzip;q=0, *\r\n");
    assert_eq!(plain.header("Content-Encoding"), None);
}

/// Torrents come and go while a client reads slowly, and others announce.
#[test]
fn torrents_that_stay_appear_once() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let staying: BTreeSet<Hash> = fill(&daemon, 90_000).into_iter().collect();
    for encoding in ["identity", "gzip"] {
        let mut client = Client::new(daemon.tcp4());
        let lines = format!("Accept-Encoding: {encoding}\r\n");
        client.send(format!("GET /scrape HTTP/1.0\r\n{lines}\r\n"));
        client.receive_head();
        let mut body = Vec::new();
        for round in 0_u32.. {
            let passing: Vec<Hash> = (0..64).map(|n| hash(100_000 + round * 64 + n)).collect();
            announce_all(&daemon, &passing, 2);
            announce_all(&daemon, &passing[..32], 3);
            match client.read_some() {
                piece if piece.is_empty() => break,
                piece => body.extend(piece),
            }
        }
        if encoding == "gzip" {
            match pipe("gzip", &["-dc"], &body) {
                Some(unpacked) => body = unpacked,
                None => return skip("there is no gzip"),
            }
        }
        let seen: BTreeSet<Hash> = scraped(&body).into_iter().collect();
        assert!(staying.is_subset(&seen), "{encoding}");
    }
}

#[test]
fn head_is_limited_but_does_not_count() {
    let daemon = Daemon::start(&[]);
    fill(&daemon, 10);
    let mut client = Client::new(daemon.tcp4());
    let mut head = || {
        client.send("HEAD /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
        client.receive_to("HEAD")
    };
    for _ in 0..2 {
        let head = head();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("Content-Encoding"), Some("gzip"));
    }
    let get = request(daemon.tcp4(), "/scrape", "");
    assert_eq!(scraped(&get.body).len(), 10);
    assert_eq!(head().status, 429);
}

#[test]
fn requests_pipelined_after_a_full_scrape_are_answered_after_it() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 5000);
    let mut client = Client::new(daemon.tcp4());
    let announce = format!("/announce?info_hash={}&port=5&left=0", "%aa".repeat(20));
    client.send(format!(
        "GET /scrape HTTP/1.1\r\n\r\nGET {announce} HTTP/1.1\r\n\r\n\
         GET /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\nGET /health HTTP/1.1\r\n\r\nGET /sc"
    ));
    assert_eq!(scraped(&client.receive().body), hashes);
    assert_eq!(client.receive().bencoded().integer("complete"), 1);
    assert_eq!(client.receive().header("Content-Encoding"), Some("gzip"));
    assert_eq!(client.receive().text(), "ok\n");
    client.send("rape HTTP/1.1\r\nConnection: close\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
    assert_eq!(scraped(&client.receive().body).len(), hashes.len() + 1);
    assert_eq!(client.read_to_end(), b"", "nothing follows the last");
}

#[test]
fn several_clients_read_at_once_while_one_does_not() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 90_000);
    let address = daemon.tcp4();
    let mut slow = begin(address, "/scrape", "");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(scraped(&request(address, "/scrape", "").body), hashes));
            scope.spawn(|| {
                let body = request(address, "/stats?mode=tpbs&format=bin", "").body;
                assert_eq!(body.len(), hashes.len() * 28);
            });
        }
        let announced = udp::Client::new(daemon.udp4()).announce(&udp::Announce {
            info_hash: hashes[0],
            port: 2,
            ..Default::default()
        });
        assert_eq!(announced.leechers, 2);
    });
    assert_eq!(scraped(&slow.receive().body).len(), hashes.len());
}

#[cfg(target_os = "linux")]
#[test]
fn client_that_does_not_read_costs_less_than_640_kib() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 90_000);
    let before = daemon.resident_kib();
    let begin = |_| {
        let mut client = begin(daemon.tcp4(), "/scrape", GZIP);
        client.receive_head();
        client
    };
    let mut clients: Vec<Client> = (0..20).map(begin).collect();
    // Once this one is complete, each of the others has been sent as much as its socket takes.
    assert_eq!(scraped(&request(daemon.tcp4(), "/scrape", "").body), hashes);
    let each = daemon.resident_kib().saturating_sub(before) / 20;
    assert!(each < 640, "{each} KiB for each client");
    // All at once, since one that takes nothing for long is closed.
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| client.take_chunks());
        }
    });
}

#[test]
fn full_scrape_is_limited_to_one_per_address_in_5_minutes() {
    let daemon = Daemon::start(&[]);
    let direct = |rest: &str| request(daemon.tcp6(), "/scrape", rest);
    assert_eq!(direct("").status, 200);
    for rest in ["", GZIP] {
        let again = direct(rest);
        assert_eq!(again.status, 429, "admins are not exempt");
        assert_eq!(again.text(), "429 Too Many Requests\n");
        let seconds = again.header("Retry-After").and_then(|s| s.parse().ok());
        assert!((280..=300).contains(&seconds.expect("a number")));
    }
    let report = request(daemon.tcp6(), "/stats?mode=tpbs", "");
    assert_eq!(report.status, 200, "statistics are not limited");
    assert_eq!(
        request(daemon.tcp4(), "/scrape", "").status,
        200,
        "another address"
    );
}

#[test]
fn option_decides_which_clients_get_full_scrapes() {
    for (policy, admin, stranger) in [
        ("off", [403, 403], 403),
        ("admin", [200, 200], 403),
        ("modest", [200, 429], 200),
        ("open", [200, 200], 200),
    ] {
        let daemon = Daemon::start(&["--full-scrape", policy, "--proxy", "127.0.0.1"]);
        let statuses = [(); 2].map(|()| request(daemon.tcp6(), "/scrape", "").status);
        assert_eq!(statuses, admin, "{policy}");
        let status = request_as(&daemon, "192.0.2.1").status;
        assert_eq!(status, stranger, "{policy}");
        let header = "X-Forwarded-For: 192.0.2.1\r\n";
        let one = format!("/scrape?info_hash={}", "%aa".repeat(20));
        assert!(
            request(daemon.tcp4(), &one, header)
                .text()
                .starts_with("d5:filesd20:")
        );
        for target in ["/stats?mode=tpbs", "/stats?mode=statedump"] {
            assert_eq!(request(daemon.tcp6(), target, "").status, 200);
            assert_eq!(request(daemon.tcp4(), target, header).status, 403);
        }
    }
}

/// A client that leaves makes room for another, and one that takes nothing for too long is closed.
#[test]
fn at_most_four_full_scrapes_are_in_progress() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    fill(&daemon, 90_000);
    let begin = |n| {
        let mut client = begin_as(&daemon, &format!("192.0.2.{n}"));
        assert!(client.receive_head().contains("chunked"));
        client
    };
    let mut clients: Vec<Client> = (0..4).map(begin).collect();
    let full = request_as(&daemon, "198.51.100.1");
    assert_eq!(full.status, 503);
    assert_eq!(full.header("Retry-After"), Some("10"));
    assert_eq!(request_as(&daemon, "192.0.2.3").status, 429);
    drop(clients.pop());
    wait_for("a permit", || {
        let response = request_as(&daemon, "198.51.100.1");
        (response.status == 200).then_some(())
    });
    assert_eq!(request_as(&daemon, "198.51.100.2").status, 200);
    wait_longer("all others to be closed", Duration::from_secs(90), || {
        let report = request(daemon.tcp6(), "/metrics", "Connection: close\r\n").text();
        // The connection of this request is open.
        (metric(&report, "connections") == 1).then_some(())
    });
    for client in &mut clients {
        assert!(!client.ends_with(b"0\r\n\r\n"), "is cut short");
    }
}

/// Each client takes a little at a time, the first one least of all, and none of them pauses for long.
#[test]
fn slowest_full_scrape_ends_for_a_newcomer() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    let hashes = fill(&daemon, 40_000);
    let mut clients = [(1, 2048), (2, 6144), (3, 6144), (4, 6144)].map(|(n, piece)| {
        let mut client = begin_as(&daemon, &format!("192.0.2.{n}"));
        assert!(client.receive_head().contains("200 OK"));
        (client, vec![0; piece])
    });
    let newcomer = wait_longer("a permit", Duration::from_secs(90), || {
        for (client, piece) in &mut clients {
            let count = uninterrupted(|| client.stream().read(piece)).expect("a piece");
            assert!(count > 0, "closed before a newcomer is admitted");
        }
        // That is 8 KiB/s for the first client and 24 KiB/s for the others, or less on a busy machine.
        std::thread::sleep(Duration::from_millis(250));
        let response = request_as(&daemon, "198.51.100.1");
        assert!([200, 503].contains(&response.status), "{}", response.status);
        (response.status == 200).then_some(response)
    });
    assert_eq!(scraped(&newcomer.body), hashes);
    let are_whole = clients.map(|(mut client, _)| client.ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(are_whole, [false, true, true, true]);
}

/// On a busy machine reading may take longer than the daemon waits, but not five times.
#[test]
fn full_scrape_in_progress_is_completed_after_a_signal() {
    let is_completed = |_| {
        let mut daemon = Daemon::start(&["--full-scrape", "open"]);
        // More than the socket's buffers take.
        fill(&daemon, 90_000);
        let mut clients = [(); 3].map(|()| begin(daemon.tcp4(), "/scrape", ""));
        for client in &mut clients {
            client.receive_head();
        }
        daemon.signal("TERM");
        let is_completed = clients[0].ends_with(b"\r\n0\r\n\r\n");
        if is_completed {
            clients[0].take_chunks();
        }
        assert!(daemon.wait().0.success());
        is_completed
    };
    assert!((0..5).any(is_completed));
}
