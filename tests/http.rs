//! HTTP announces and scrapes as clients see them (BEP 3, 7, 23, 24, 48).

mod common;

use common::http::{Client, Response, get};
#[cfg(target_os = "linux")]
use common::wait_for;
use common::{Daemon, udp};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const HASH: &str = "%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA";

fn announce(address: SocketAddr, rest: &str) -> Response {
    get(address, &format!("/announce?info_hash={HASH}&{rest}"))
}

/// A request for an announce, to be pipelined.
fn request(rest: &str) -> String {
    format!("GET /announce?info_hash={HASH}&{rest} HTTP/1.1\r\n\r\n")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn announce_reply_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let response = announce(daemon.tcp4(), "port=4660&left=0");
    let interval = response.bencoded().integer("interval");
    assert!((1740..=1860).contains(&interval));
    let half = interval / 2;
    let expected = format!(
        "d8:completei1e10:downloadedi0e11:external ip4:\x7f\0\0\x0110:incompletei0e\
         8:intervali{interval}e12:min intervali{half}e5:peers0:e"
    );
    assert_eq!(response.text(), expected);
    let length = expected.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    assert_eq!(response.head, head);
    let response = announce(daemon.tcp4(), "port=22136&left=9");
    assert_eq!(response.bencoded().string("peers"), b"\x7f\0\0\x01\x12\x34");
}

#[test]
fn reply_has_peers_of_both_families_and_both_protocols() {
    let daemon = Daemon::start(&[]);
    announce(daemon.tcp4(), "port=4&left=0");
    announce(daemon.tcp6(), "port=6&left=0");
    let response = announce(daemon.tcp6(), "port=66&left=1");
    let peers = [address("127.0.0.1:4"), address("[::1]:6")];
    assert_eq!(response.peers(), peers);
    let value = response.bencoded();
    assert_eq!(value.string("external ip"), [&[0; 15][..], &[1]].concat());
    let keys = "complete,downloaded,external ip,incomplete,interval,min interval,peers,peers6";
    assert_eq!(value.keys().join(","), keys);
    let client = udp::Client::new(daemon.udp4());
    let reply = client.announce(&udp::Announce::default());
    assert_eq!(reply.peers, [address("127.0.0.1:4")]);
    assert_eq!(announce(daemon.tcp4(), "port=44&left=1").peers().len(), 4);
}

#[test]
fn numwant_is_50_by_default_and_at_most_200() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for port in 1000..1300 {
        client.request(request(&format!("port={port}&left=0")));
    }
    for (rest, count) in [
        ("", 50),
        ("&numwant=30", 30),
        ("&numwant=0", 0),
        ("&numwant=-1", 50),
        ("&numwant=nonsense", 50),
        ("&numwant=200", 200),
        ("&numwant=100000", 200),
        ("&event=stopped", 0),
    ] {
        let peers = announce(daemon.tcp4(), &format!("port=1&left=1{rest}")).peers();
        assert_eq!(peers.len(), count, "{rest}");
    }
}

#[test]
fn left_and_event_decide_role_and_counts() {
    let daemon = Daemon::start(&[]);
    for (rest, complete, downloaded, incomplete) in [
        ("left=0", 1, 0, 0),
        ("", 0, 0, 1),
        ("left=18446744073709551615", 0, 0, 1),
        ("left=x", 0, 0, 1),
        ("left=5&event=completed", 0, 0, 1),
        ("left=0&event=completed", 1, 1, 0),
        ("left=0&event=completed", 1, 1, 0),
        ("left=0&event=paused", 1, 1, 0),
        ("left=0&event=stopped", 0, 1, 0),
    ] {
        let value = announce(daemon.tcp4(), &format!("port=1&{rest}")).bencoded();
        let counts = ["complete", "downloaded", "incomplete"].map(|key| value.integer(key));
        assert_eq!(counts, [complete, downloaded, incomplete], "{rest}");
    }
}

#[test]
fn parameters_without_effect_are_accepted() {
    let daemon = Daemon::start(&[]);
    let rest = "port=7&left=0&compact=0&no_peer_id=1&key=xyz&trackerid=1&supportcrypto=1\
        &requirecrypto=1&ip=9.9.9.9&ipv4=9.9.9.9&ipv6=[2001:db8::1]:9&peer_id=short&corrupt=0\
        &azudp=1&&=&x";
    announce(daemon.tcp4(), rest);
    let response = announce(daemon.tcp4(), "port=8&left=1");
    assert_eq!(response.peers(), [address("127.0.0.1:7")]);
}

#[test]
fn published_urls_of_all_kinds_are_announces_and_scrapes() {
    let daemon = Daemon::start(&["-r", "https://tracker.example", "--stats-path", "/about"]);
    for path in [
        "/announce",
        "//announce",
        "/announce.php",
        "/a",
        "/announce ",
        "///a/b",
        "/%61nnounce",
        "http://tracker.example:6969/announce",
        "http://tracker.example",
        "/",
        "",
        "/tracker/announce",
        "/1/announce",
        "/bt/announce.php",
        "/0123456789abcdef0123456789abcdef/announce",
        "/announce/0123456789abcdef",
        "/Announce",
        "/scripts/tracker",
        "/s",
        "/x.php",
        "/announce?passkey=x",
        "/announce?",
        "/metrics/announce",
    ] {
        let target = format!("{path}?info_hash={HASH}&port=1");
        let reply = get(daemon.tcp4(), &target).bencoded();
        assert_eq!(reply.integer("incomplete"), 1, "{path}");
    }
    for path in [
        "/scrape",
        "/scrape.php",
        "//sc",
        "/scrape ",
        "/scrape/",
        "/Scrape",
        "/tracker/SCRAPE.php",
        "/%73%43rape",
        "/scrape?passkey=x",
    ] {
        let response = get(daemon.tcp4(), &format!("{path}?info_hash={HASH}"));
        assert_eq!(response.bencoded().keys(), ["files"], "{path}");
    }
    for path in ["/about", "/metrics", "/health", "/robots.txt"] {
        let response = get(daemon.tcp4(), &format!("{path}?port=1&info_hash={HASH}"));
        assert_eq!(response.status, 400, "{path}");
        assert!(response.text().contains("announce at /announce"), "{path}");
    }
}

#[test]
fn plus_is_a_space_as_in_form_encoding() {
    let daemon = Daemon::start(&[]);
    // As Python's urlencode and a client that escapes all bytes write the same info-hash.
    for (port, hash) in [
        (1, "a+b+c+d+e+f+g+%2B%2B%2B%2B%2B%2B"),
        (2, &escaped(SPACES)),
    ] {
        let target = format!("/announce?info_hash={hash}&port={port}");
        let reply = get(daemon.tcp4(), &target).bencoded();
        assert_eq!(reply.integer("incomplete"), port);
    }
    let scraped = udp::Client::new(daemon.udp4()).scrape(&[*SPACES]);
    assert_eq!(scraped, [[0, 0, 2]]);
}

const SPACES: &[u8; 20] = b"a b c d e f g ++++++";

fn escaped(hash: &[u8; 20]) -> String {
    hash.map(|byte| format!("%{byte:02x}")).concat()
}

#[test]
fn info_hash_is_accepted_percent_encoded_or_raw() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for hash in [
        &b"%ab%cd%EF%2B%2b.-~%00%ff!*'(),/;:@"[..],
        b"\xab\xcd\xef%2b%2B.-~\x00\xff!*'(),/;:@",
        &[0xfe; 20],
    ] {
        let request = [b"GET /announce?port=1&info_hash=", hash, b" HTTP/1.1\n\n"].concat();
        client.request(request).bencoded();
    }
    let hashes = [*b"\xab\xcd\xef++.-~\x00\xff!*'(),/;:@", [0xfe; 20]];
    let scraped = udp::Client::new(daemon.udp4()).scrape(&hashes);
    assert_eq!(scraped, [[0, 0, 1]; 2]);
}

#[test]
fn failure_names_the_parameter_and_what_is_expected() {
    let daemon = Daemon::start(&[]);
    let no_hash = "info_hash is missing: expected 20 bytes, percent-encoded";
    let bad_hash = "invalid info_hash: expected 20 bytes, percent-encoded";
    let bad_port = "invalid port: expected a number from 0 to 65535";
    for (target, failure) in [
        ("/announce?port=1", no_hash),
        ("/announce?port=1&info_hash=%AA", bad_hash),
        ("/scrape?info_hash=aaaaaaaaaaaaaaaaaaa%ZZ", bad_hash),
        ("/a?info_hash=aaaaaaaaaaaaaaaaaaaa&port=65536", bad_port),
    ] {
        assert_eq!(get(daemon.tcp4(), target).failure(), failure, "{target}");
    }
    let scrape = get(daemon.tcp4(), "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa");
    assert_eq!(
        scrape.text(),
        of_nothing("aaaaaaaaaaaaaaaaaaaa"),
        "nothing was stored"
    );
}

/// The reply to a scrape of a torrent that is not known.
fn of_nothing(hash: &str) -> String {
    format!("d5:filesd20:{hash}d8:completei0e10:downloadedi0e10:incompletei0eeee")
}

/// npm's bittorrent-tracker waits forever for a torrent that is left out.
#[test]
fn scrape_lists_each_torrent_once_and_in_sorted_order() {
    let daemon = Daemon::start(&[]);
    let hash = |n: u8| format!("info_hash={}", format!("%{n:02x}").repeat(20));
    for (n, left) in [(3, 0), (1, 5)] {
        let hash = hash(n);
        let target = format!("/announce?{hash}&port=1&left={left}&event=completed");
        get(daemon.tcp4(), &target).bencoded();
    }
    let target = format!("/scrape?{}", [3, 1, 2, 3].map(hash).join("&"));
    let expected = [
        &b"d5:filesd20:"[..],
        &[1; 20],
        b"d8:completei0e10:downloadedi0e10:incompletei1ee20:",
        &[2; 20],
        b"d8:completei0e10:downloadedi0e10:incompletei0ee20:",
        &[3; 20],
        b"d8:completei1e10:downloadedi1e10:incompletei0eeee",
    ];
    assert_eq!(get(daemon.tcp4(), &target).body, expected.concat());
}

#[test]
fn version_and_header_decide_whether_the_connection_is_kept() {
    let daemon = Daemon::start(&[]);
    for (version, connection, is_kept, reply) in [
        ("1.1", "TE", true, None),
        ("1.1", "close", false, Some("close")),
        ("1.0", "TE", false, None),
        ("1.0", "keep-alive", true, Some("keep-alive")),
    ] {
        let target = format!("/scrape?info_hash={HASH}");
        // Bare line feeds and empty lines in front are accepted, and Host may be missing.
        for text in [
            format!("GET {target} HTTP/{version}\r\nConnection: {connection}\r\n\r\n"),
            format!("\n\nGET {target} HTTP/{version}\nConnection: {connection}\n\n"),
        ] {
            let mut client = Client::new(daemon.tcp4());
            let response = client.request(&text);
            assert_eq!(response.status, 200);
            assert_eq!(response.header("Connection"), reply);
            match is_kept {
                true => assert_eq!(client.request(text), response),
                false => assert_eq!(client.read_to_end(), b""),
            }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let requests = (1..=1000).map(|port| request(&format!("port={port}&numwant=0")));
    client.send(requests.collect::<String>());
    for count in 1..=1000 {
        assert_eq!(client.receive().bencoded().integer("incomplete"), count);
    }
}

/// The replies exceed the socket buffers, and the client reads none until the daemon has stopped taking requests.
#[test]
fn no_reply_is_lost_to_a_client_that_reads_late() {
    let daemon = Daemon::start(&[]);
    let mut target = String::from("/scrape?");
    for letter in 'A'..='Z' {
        let hash = letter.to_string().repeat(20);
        get(daemon.tcp4(), &format!("/a?info_hash={hash}&port=1"));
        target += &format!("info_hash={hash}&");
    }
    let expected = get(daemon.tcp4(), &target);
    let mut client = Client::new(daemon.tcp4());
    let mut writer = client.stream().try_clone().expect("a handle");
    writer.set_nonblocking(true).expect("an option");
    let requests = format!("GET {target} HTTP/1.1\r\n\r\n").repeat(20_000);
    let sent = send_until_full(&mut writer, requests.as_bytes());
    assert!(sent < requests.len(), "the daemon reads without limit");
    writer.set_nonblocking(false).expect("an option");
    let sender = std::thread::spawn(move || writer.write_all(&requests.as_bytes()[sent..]));
    for _ in 0..20_000 {
        assert_eq!(client.receive().body, expected.body);
    }
    sender.join().expect("no panic").expect("is sent");
}

/// Writes until the socket has taken nothing for a while. Returns how much it took.
fn send_until_full(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    let mut last = Instant::now();
    while sent < bytes.len() && last.elapsed() < Duration::from_millis(300) {
        match stream.write(&bytes[sent..]) {
            Ok(count) => {
                sent += count;
                last = Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    sent
}

#[test]
fn request_may_arrive_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for _ in 0..2 {
        for byte in request("port=5").as_bytes() {
            client.send([*byte]);
        }
        assert_eq!(client.receive().bencoded().integer("incomplete"), 1);
    }
}

#[test]
fn head_is_get_without_the_body() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let target = format!("/scrape?info_hash={HASH}");
    client.send(format!("HEAD {target} HTTP/1.1\r\n\r\n"));
    let head = client.receive_to("HEAD");
    let get = client.request(format!("GET {target} HTTP/1.1\r\n\r\n"));
    assert_eq!(head.head, get.head);
    assert_eq!(get.bencoded().keys(), ["files"]);
    client.send("HEAD /nowhere HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive_to("HEAD").status, 404);
}

/// One turn answers at most 256 requests.
#[test]
fn client_that_closes_its_side_gets_all_replies_and_then_the_end() {
    let daemon = Daemon::start(&[]);
    for count in [1, 100, 1000, 3000] {
        let mut client = Client::new(daemon.tcp4());
        let mut writer = client.stream().try_clone().expect("a handle");
        daemon.signal("STOP");
        let requests = request("port=1").repeat(count);
        let sender = std::thread::spawn(move || {
            writer.write_all(requests.as_bytes()).expect("is sent");
            writer.shutdown(Shutdown::Write).expect("is open");
        });
        daemon.signal("CONT");
        for _ in 0..count {
            assert_eq!(client.receive().status, 200);
        }
        sender.join().expect("no panic");
        let start = Instant::now();
        assert_eq!(client.read_to_end(), b"");
        let is_noticed = start.elapsed() < Duration::from_secs(15);
        assert!(is_noticed, "closed only at the deadline");
    }
}

/// Another parser of the same bytes may find a body, or a header that ends elsewhere (RFC 9112, 2.2, 5.1, 5.2 and 6.3).
#[test]
fn body_or_ambiguous_header_ends_the_connection() {
    let daemon = Daemon::start(&[]);
    let smuggled = request("port=1");
    for (lines, status) in [
        ("Content-Length: 200", 200),
        ("Transfer-Encoding: chunked", 200),
        ("Content-Length : 200", 400),
        ("X: y\rContent-Length: 200", 400),
        ("Transfer-Encoding:\r\n\tchunked", 400),
    ] {
        let mut client = Client::new(daemon.tcp4());
        let head = format!("GET /scrape?info_hash={HASH} HTTP/1.1\r\n{lines}\r\n\r\n");
        let response = client.request(head + &smuggled);
        assert_eq!(response.status, status, "{lines:?}");
        assert_eq!(response.header("Connection"), Some("close"), "{lines:?}");
        assert_eq!(client.read_to_end(), b"", "{lines:?}");
    }
    let scraped = udp::Client::new(daemon.udp4()).scrape(&[[0xaa; 20]]);
    assert_eq!(scraped, [[0; 3]], "nothing was announced");
}

#[test]
fn no_part_of_a_request_gets_into_the_head_of_its_reply() {
    let daemon = Daemon::start(&["-r", "https://tracker.example/about"]);
    for split in ["%0d%0aX-Split:%20y", "\rX-Split: y", "\0X-Split: y"] {
        for target in [
            format!("/{split}"),
            format!("/?{split}"),
            format!("http://{split}/"),
            format!("/stats?mode={split}"),
            format!("/announce?info_hash={split}&port={split}"),
            format!("/scrape?info_hash={HASH}&{split}"),
        ] {
            let mut client = Client::new(daemon.tcp4());
            let response = client.request(format!(
                "GET {target} HTTP/1.1\r\nHost: %0d%0aX-Split:y\r\nConnection: close\r\n\r\n"
            ));
            assert!(!response.head.contains("Split"), "{response:?}");
            assert_eq!(client.read_to_end(), b"", "{target}");
        }
    }
}

#[test]
fn transport_errors_are_http_statuses_with_a_short_text() {
    let daemon = Daemon::start(&[]);
    let post = "POST /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let long = format!("GET /a?{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let endless = "GET /".to_string() + &"x".repeat(20_000);
    for (request, text) in [
        ("GET /nowhere HTTP/1.1\r\n\r\n", "404 Not Found\n"),
        ("GET /stats2 HTTP/1.1\r\n\r\n", "404 Not Found\n"),
        ("GET /Health HTTP/1.1\r\n\r\n", "404 Not Found\n"),
        ("GET * HTTP/1.1\r\n\r\n", "404 Not Found\n"),
        (post, "405 Method Not Allowed\n"),
        ("M-SEARCH * HTTP/1.1\r\n\r\n", "405 Method Not Allowed\n"),
        ("nonsense\r\n\r\n", "400 Bad Request\n"),
        ("GET /\rx HTTP/1.1\r\n\r\n", "400 Bad Request\n"),
        ("\x16\x03\x01\x00", "400 Bad Request\n"),
        (&long, "431 Request Header Fields Too Large\n"),
        (&many, "431 Request Header Fields Too Large\n"),
        (&endless, "431 Request Header Fields Too Large\n"),
    ] {
        let mut client = Client::new(daemon.tcp4());
        let response = client.request(request);
        let start: String = request.chars().take(30).collect();
        assert_eq!(response.text(), text, "{start}");
        assert!(text.starts_with(&response.status.to_string()), "{start}");
        assert_eq!(response.header("Allow").is_some(), response.status == 405);
        if [400, 431].contains(&response.status) {
            assert_eq!(client.read_to_end(), b"", "{start}");
        }
    }
}

#[test]
fn root_redirects_if_configured() {
    let url = "https://tracker.example/about?x=1";
    let daemon = Daemon::start(&["-r", url]);
    for target in ["/", "//", "/?x", "http://tracker.example"] {
        let response = get(daemon.tcp4(), target);
        assert_eq!((response.status, response.text().as_str()), (302, ""));
        assert_eq!(response.header("Location"), Some(url), "{target}");
    }
    assert_eq!(get(daemon.tcp4(), "/x").status, 404);
}

#[cfg(target_os = "linux")]
#[test]
fn closed_connections_leave_no_descriptors() {
    let daemon = Daemon::start(&[]);
    let path = format!("/proc/{}/fd", daemon.id());
    let descriptors = || std::fs::read_dir(&path).expect("is running").count();
    let before = descriptors();
    let mut clients: Vec<Client> = (0..200).map(|_| Client::new(daemon.tcp4())).collect();
    clients.iter_mut().for_each(|client| client.send("GET /"));
    assert_eq!(announce(daemon.tcp4(), "port=1").status, 200);
    drop(clients);
    wait_for("the descriptors to be closed", || {
        (descriptors() <= before).then_some(())
    });
}
