//! Full scrapes as clients see them: every torrent as one stream, whatever happens meanwhile.

mod common;

use common::bencode::Value;
use common::http::{Client, Response};
use common::{Daemon, skip, udp, uninterrupted, wait_for, wait_longer};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Hash = [u8; 20];

/// Hashes that are in no order when counted up.
fn hash(n: u32) -> Hash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    hash
}

/// Announces a peer in each of these torrents over UDP, some at a time.
fn announce_all(daemon: &Daemon, hashes: &[Hash], announce: &udp::Announce) {
    let client = udp::Client::new(daemon.udp4());
    for some in hashes.chunks(32) {
        for &info_hash in some {
            let announce = announce.clone();
            client.send(&client.announce_request(&udp::Announce {
                info_hash,
                num_want: 0,
                ..announce
            }));
        }
        for _ in some {
            assert_eq!(client.receive()[..4], [0, 0, 0, 1]);
        }
    }
}

fn fill(daemon: &Daemon, count: u32) -> Vec<Hash> {
    let mut hashes: Vec<Hash> = (0..count).map(hash).collect();
    announce_all(daemon, &hashes, &udp::Announce::default());
    hashes.sort();
    hashes
}

/// The hashes of a whole bencoded scrape, in the order that they came in.
fn scraped(body: &[u8]) -> Vec<Hash> {
    let dictionary = Value::parse(body);
    let Some(Value::Dictionary(files)) = dictionary.get("files") else {
        panic!("no files: {dictionary:?}");
    };
    // That they were in order, each once, is what the parser insists on.
    let hash = |key: &Vec<u8>| key.as_slice().try_into().expect("20 bytes");
    files.keys().map(hash).collect()
}

fn request(address: SocketAddr, target: &str, rest: &str) -> Response {
    Client::new(address).request(format!("GET {target} HTTP/1.1\r\n{rest}\r\n"))
}

/// Runs a program on some input, if there is one.
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
fn the_formats_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let (a, b) = (*b"a\0 :+%~./-=$_9Z\xff(\n\r!", [b'b'; 20]);
    let announce = |info_hash, port, left, event| {
        let client = udp::Client::new(daemon.udp4());
        client.announce(&udp::Announce {
            info_hash,
            port,
            left,
            event,
            ..Default::default()
        });
    };
    announce(b, 1, 0, 1);
    announce(b, 1, 0, 3);
    announce(a, 1, 0, 1);
    announce(a, 2, 0, 0);
    announce(a, 3, 7, 0);
    let get = |target: &str| {
        let response = request(daemon.tcp4(), target, "");
        assert_eq!(
            response.head,
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
             Vary: Accept-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        response.body
    };
    let format = |format: &str| get(&format!("/stats?mode=tpbs&format={format}"));
    let text = |name: &str| String::from_utf8(format(name)).expect("is text");
    let ben = [
        b"d5:filesd20:",
        &a[..],
        b"d8:completei2e10:downloadedi1e10:incompletei1ee20:",
        &b,
        b"d8:completei0e10:downloadedi1e10:incompletei0eeee",
    ];
    assert_eq!(get("/scrape"), ben.concat());
    assert_eq!(format("ben"), ben.concat());
    assert_eq!(get("/stats?mode=tpbs"), ben.concat());
    let (hex_a, hex_b) = ("6100203A2B257E2E2F2D3D245F395AFF280A0D21", "62".repeat(20));
    assert_eq!(text("txt"), format!("{hex_a}:2:1\n{hex_b}:0:0\n"));
    assert_eq!(text("txtp"), format!("{hex_a}:2:1:1\n{hex_b}:0:0:1\n"));
    assert_eq!(
        text("url"),
        "a%00%20%3a%2b%25~./-=$_9Z%ff%28%0a%0d%21:2:1\nbbbbbbbbbbbbbbbbbbbb:0:0\n"
    );
    let bin = [&a[..], &[0, 0, 0, 2, 0, 0, 0, 1], &b, &[0; 8]].concat();
    assert_eq!(format("bin"), bin);
    let minute = |time: std::time::SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH);
        since.expect("is later").as_secs() / 60
    };
    let dump = String::from_utf8(get("/stats?mode=statedump")).expect("is text");
    let now = minute(std::time::SystemTime::now());
    let expected = |now| format!("{hex_a}:{now}:1\n{hex_b}:{now}:1\n");
    assert!(
        dump == expected(now) || dump == expected(now - 1),
        "{dump} is not of {now}"
    );
    let bad = request(daemon.tcp4(), "/stats?mode=tpbs&format=xml", "");
    assert_eq!(bad.status, 400);
}

#[test]
fn it_comes_whole_and_in_order_to_any_version() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 5000);
    let chunked = request(daemon.tcp4(), "/scrape", "");
    assert_eq!(scraped(&chunked.body), hashes);
    for rest in ["", "Connection: keep-alive\r\n"] {
        let mut client = Client::new(daemon.tcp4());
        client.send(format!("GET /scrape HTTP/1.0\r\n{rest}\r\n"));
        let all = client.read_to_end();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n");
        let (head, body) = all.split_at(end.expect("a head") + 4);
        let head = String::from_utf8_lossy(head);
        assert!(!head.contains("chunked") && !head.contains("keep-alive"));
        assert!(body == chunked.body, "up to the end of the connection");
    }
    let close = request(daemon.tcp4(), "/scrape?x=y", "Connection: close\r\n");
    assert_eq!(close.header("Connection"), Some("close"));
    assert!(close.body == chunked.body);
    assert_eq!(
        scraped(&request(daemon.tcp6(), "//scrape", "").body),
        hashes
    );
}

#[test]
fn compressed_it_says_the_same() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    fill(&daemon, 20_000);
    let plain = request(daemon.tcp4(), "/scrape", "").body;
    let gzip = request(daemon.tcp4(), "/scrape", "Accept-Encoding: gzip\r\n");
    assert_eq!(gzip.header("Content-Encoding"), Some("gzip"));
    assert!(gzip.body.len() < plain.len() / 2, "it is compressed");
    match pipe("gzip", &["-dc"], &gzip.body) {
        Some(unpacked) => assert!(unpacked == plain),
        None => skip("there is no gzip"),
    }
    let script = "import sys, gzip, zlib; z = sys.stdin.buffer.read(); p = gzip.decompress(z); \
        assert p == zlib.decompress(z, 31); sys.stdout.buffer.write(p)";
    match pipe("python3", &["-c", script], &gzip.body) {
        Some(unpacked) => assert!(unpacked == plain),
        None => skip("there is no python3"),
    }
    let url = format!("http://{}/scrape", daemon.tcp4());
    match pipe("curl", &["-sS", "--compressed", &url], b"") {
        Some(unpacked) => assert!(unpacked == plain),
        None => skip("there is no curl"),
    }
    for (accepted, is_gzip) in [
        ("gzip;q=0", false),
        ("gzip;q=0, *", false),
        ("*", true),
        ("br, x-gzip;q=0.3", true),
        ("identity", false),
    ] {
        let header = format!("Accept-Encoding: {accepted}\r\n");
        let response = request(daemon.tcp4(), "/stats?mode=tpbs", &header);
        let encoding = response.header("Content-Encoding");
        assert_eq!(encoding.is_some(), is_gzip, "{accepted}");
        assert_eq!(response.header("Vary"), Some("Accept-Encoding"));
    }
}

#[test]
fn an_empty_table_is_a_whole_reply_too() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    assert_eq!(request(daemon.tcp4(), "/scrape", "").text(), "d5:filesdee");
    let text = request(daemon.tcp4(), "/stats?mode=tpbs&format=txt", "");
    assert_eq!(text.text(), "");
    let gzip = request(daemon.tcp4(), "/scrape", "Accept-Encoding: gzip\r\n");
    match pipe("gzip", &["-dc"], &gzip.body) {
        Some(unpacked) => assert_eq!(unpacked, b"d5:filesdee"),
        None => skip("there is no gzip"),
    }
}

/// Torrents come and go while a client reads slowly, and others announce as if nothing were.
#[test]
fn what_is_there_throughout_is_told_once() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let staying: BTreeSet<Hash> = fill(&daemon, 90_000).into_iter().collect();
    for encoding in ["identity", "gzip"] {
        let mut client = Client::new(daemon.tcp4());
        client.send(format!(
            "GET /scrape HTTP/1.0\r\nAccept-Encoding: {encoding}\r\n\r\n"
        ));
        let mut all = Vec::new();
        let mut stream = client.stream();
        for round in 0_u32.. {
            let passing: Vec<Hash> = (0..64).map(|n| hash(100_000 + round * 64 + n)).collect();
            let stopped = udp::Announce {
                event: 3,
                ..Default::default()
            };
            announce_all(&daemon, &passing, &udp::Announce::default());
            announce_all(&daemon, &passing[..32], &stopped);
            let mut piece = vec![0; 64 * 1024];
            let count = uninterrupted(|| stream.read(&mut piece)).expect("a piece");
            all.extend_from_slice(&piece[..count]);
            if count == 0 {
                break;
            }
        }
        let start = all.windows(4).position(|w| w == b"\r\n\r\n");
        let mut body = all.split_off(start.expect("a head") + 4);
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
fn head_costs_nothing_and_is_not_counted() {
    let daemon = Daemon::start(&[]);
    fill(&daemon, 10);
    let mut client = Client::new(daemon.tcp4());
    for _ in 0..2 {
        client.send("HEAD /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
        let head = client.receive_to("HEAD");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("Content-Encoding"), Some("gzip"));
    }
    let get = client.request("GET /scrape HTTP/1.1\r\n\r\n");
    assert_eq!(scraped(&get.body).len(), 10);
    client.send("HEAD /scrape HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive_to("HEAD").status, 429);
}

#[test]
fn requests_behind_it_are_answered_after_it() {
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
    assert_eq!(client.read_to_end(), b"", "and what is behind the last not");
}

#[test]
fn several_read_at_once_and_one_not_at_all() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 90_000);
    let mut slow = Client::new(daemon.tcp4());
    slow.send("GET /scrape HTTP/1.1\r\n\r\n");
    let address = daemon.tcp4();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let hashes = &hashes;
            scope.spawn(move || {
                let target = ["/scrape", "/stats?mode=tpbs&format=bin"][n % 2];
                let body = request(address, target, "").body;
                match n % 2 {
                    0 => assert_eq!(scraped(&body), *hashes),
                    _ => assert_eq!(body.len(), hashes.len() * 28),
                }
            });
        }
        let announced = udp::Client::new(daemon.udp4()).announce(&udp::Announce {
            info_hash: hashes[0],
            port: 2,
            ..Default::default()
        });
        assert_eq!(announced.leechers, 2, "others are answered meanwhile");
    });
    assert!(scraped(&slow.receive().body).len() >= hashes.len());
}

/// A memory of a megabyte or so for each would be noticed.
#[cfg(target_os = "linux")]
#[test]
fn who_does_not_read_costs_little() {
    let daemon = Daemon::start(&["--full-scrape", "open"]);
    let hashes = fill(&daemon, 90_000);
    let resident = || -> i64 {
        let text = daemon.proc_status("VmRSS");
        text.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    let before = resident();
    let begin = |_| {
        let mut client = Client::new(daemon.tcp4());
        client.send("GET /scrape HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n");
        client.receive_head();
        client
    };
    let mut clients: Vec<Client> = (0..20).map(begin).collect();
    // Every one of them has been served as far as its socket takes.
    assert_eq!(scraped(&request(daemon.tcp4(), "/scrape", "").body), hashes);
    let each = (resident() - before) / 20;
    assert!(each < 512 + 128, "{each} KiB for each client");
    // All at once, since one that takes nothing for long is cut off.
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| client.take_chunks());
        }
    });
}

/// Asks as a client that a trusted proxy names.
fn ask_as(daemon: &Daemon, client: &str) -> Response {
    request(
        daemon.tcp4(),
        "/scrape",
        &format!("X-Forwarded-For: {client}\r\n"),
    )
}

#[test]
fn the_modest_come_again_in_five_minutes() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    let direct = |rest: &str| request(daemon.tcp6(), "/scrape", rest);
    assert_eq!(direct("").status, 200);
    for rest in ["", "Accept-Encoding: gzip\r\n"] {
        let again = direct(rest);
        assert_eq!(again.status, 429, "admins are not exempt");
        assert_eq!(again.text(), "429 Too Many Requests\n");
        let seconds = again.header("Retry-After").and_then(|s| s.parse().ok());
        assert!((280..=300).contains(&seconds.expect("a number")));
    }
    let asked = request(daemon.tcp6(), "/stats?mode=tpbs", "");
    assert_eq!(asked.status, 200, "that is another thing");
    for (client, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:2::1", 200),
        ("2001:db8:0:3::1", 200),
        // The fifth /64 of a /48.
        ("2001:db8:0:4::1", 429),
        ("2001:db8:1::1", 200),
        ("unknown", 200),
        ("_hidden", 429),
    ] {
        assert_eq!(ask_as(&daemon, client).status, status, "{client}");
    }
}

#[test]
fn the_policies_let_in_whom_they_say() {
    for (policy, admin, stranger) in [
        ("off", [403, 403], 403),
        ("admin", [200, 200], 403),
        ("modest", [200, 429], 200),
        ("open", [200, 200], 200),
    ] {
        let daemon = Daemon::start(&["--full-scrape", policy, "--proxy", "127.0.0.1"]);
        let statuses = [(); 2].map(|()| request(daemon.tcp6(), "/scrape", "").status);
        assert_eq!(statuses, admin, "{policy}");
        assert_eq!(ask_as(&daemon, "192.0.2.1").status, stranger, "{policy}");
        let one = format!("/scrape?info_hash={}", "%aa".repeat(20));
        let other = request(daemon.tcp4(), &one, "X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(other.text(), "d5:filesdee", "{policy}");
        for mode in ["tpbs", "statedump"] {
            let target = format!("/stats?mode={mode}");
            assert_eq!(request(daemon.tcp6(), &target, "").status, 200);
            let header = "X-Forwarded-For: 192.0.2.1\r\n";
            assert_eq!(request(daemon.tcp4(), &target, header).status, 403);
        }
    }
}

/// Four who do not read hold the places; one that goes away leaves its own, and one that takes nothing
/// for too long is closed.
#[test]
fn four_are_served_at_once() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    fill(&daemon, 90_000);
    let mut seated: Vec<Client> = (0..4)
        .map(|n| {
            let mut client = Client::new(daemon.tcp4());
            client.send(format!(
                "GET /scrape HTTP/1.1\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n"
            ));
            assert!(client.receive_head().contains("chunked"));
            client
        })
        .collect();
    let full = ask_as(&daemon, "198.51.100.1");
    assert_eq!(full.status, 503);
    assert_eq!(full.header("Retry-After"), Some("10"));
    assert_eq!(ask_as(&daemon, "192.0.2.3").status, 429);
    drop(seated.pop());
    let mut next = wait_for("a place", || {
        let mut client = Client::new(daemon.tcp4());
        client.send("GET /scrape HTTP/1.1\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
        client.receive_head().contains("200 OK").then_some(client)
    });
    next.take_chunks();
    assert_eq!(ask_as(&daemon, "198.51.100.2").status, 200);
    // A connection that takes nothing is closed, and its reply is cut short.
    let begin = Instant::now();
    let is_alone = || {
        let text = request(daemon.tcp6(), "/metrics", "").text();
        let open = text
            .lines()
            .find(|l| l.starts_with("announced_connections "));
        // The one that asks.
        open.expect("is told").ends_with(" 1")
    };
    while !is_alone() {
        assert!(begin.elapsed() < Duration::from_secs(90), "none is closed");
        std::thread::sleep(Duration::from_millis(100));
    }
    for client in &mut seated {
        let cut = client.read_to_end();
        assert!(!cut.ends_with(b"0\r\n\r\n"));
    }
}

/// Each reader takes a little at a time, the first one least of all, and none of them ever pauses for long.
#[test]
fn slowest_reader_gives_its_place_to_a_newcomer() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    let hashes = fill(&daemon, 40_000);
    let mut readers = [(1, 2048), (2, 6144), (3, 6144), (4, 6144)].map(|(n, piece)| {
        let mut client = Client::new(daemon.tcp4());
        client.send(format!(
            "GET /scrape HTTP/1.1\r\nX-Forwarded-For: 192.0.2.{n}\r\nConnection: close\r\n\r\n"
        ));
        assert!(client.receive_head().contains("200 OK"));
        (client, vec![0; piece])
    });
    let newcomer = wait_longer("a place", Duration::from_secs(90), || {
        for (client, piece) in &mut readers {
            let count = uninterrupted(|| client.stream().read(piece)).expect("a piece");
            assert!(
                count > 0,
                "a reader is cut off before a newcomer has its place"
            );
        }
        // That is 8 KiB/s for the first reader and 24 KiB/s for the others, or less on a busy machine.
        std::thread::sleep(Duration::from_millis(250));
        let response = ask_as(&daemon, "198.51.100.1");
        assert!([200, 503].contains(&response.status), "{}", response.status);
        (response.status == 200).then_some(response)
    });
    assert_eq!(scraped(&newcomer.body), hashes);
    let are_whole = readers.map(|(mut client, _)| client.ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(are_whole, [false, true, true, true]);
}

/// A machine that is busy with other things may take longer over it than the daemon waits, but not five times.
#[test]
fn a_signal_ends_it_all_the_same() {
    assert!((0..5).any(|_| last_one_is_whole()));
}

fn last_one_is_whole() -> bool {
    let mut daemon = Daemon::start(&["--full-scrape", "open"]);
    // More than the socket's buffers take.
    fill(&daemon, 90_000);
    let mut clients = [(); 3].map(|()| {
        let mut client = Client::new(daemon.tcp4());
        client.send("GET /scrape HTTP/1.1\r\n\r\n");
        client.receive_head();
        client
    });
    daemon.signal("TERM");
    let [reading, ..] = &mut clients;
    let is_whole = reading.ends_with(b"\r\n0\r\n\r\n");
    if is_whole {
        reading.take_chunks();
    }
    assert!(daemon.wait().0.success());
    is_whole
}
