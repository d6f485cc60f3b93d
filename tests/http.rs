//! HTTP announces and scrapes as clients see them (BEP 3, 7, 23, 24, 48).

// Some tests are for Linux alone.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use common::http::{Client, get};
use common::{Daemon, udp, wait_for};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const HASH: &str = "%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA";

fn announce(address: SocketAddr, rest: &str) -> common::http::Response {
    get(address, &format!("/announce?info_hash={HASH}&{rest}"))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn an_announce_reply_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let response = announce(daemon.tcp4(), "port=4660&left=0");
    assert_eq!(response.header("Content-Type"), Some("text/plain"));
    let value = response.bencoded();
    let interval = value.integer("interval");
    assert!((1740..=1860).contains(&interval));
    let half = interval / 2;
    let expected = format!(
        "d8:completei1e10:downloadedi0e11:external ip4:\x7f\0\0\x0110:incompletei0e\
         8:intervali{interval}e12:min intervali{half}e5:peers0:e"
    );
    assert_eq!(response.text(), expected);
    let length = expected.len();
    assert_eq!(
        response.head,
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        )
    );
    let response = announce(daemon.tcp4(), "port=22136&left=9");
    assert_eq!(response.bencoded().string("peers"), b"\x7f\0\0\x01\x12\x34");
}

#[test]
fn both_families_are_in_one_reply() {
    let daemon = Daemon::start(&[]);
    announce(daemon.tcp4(), "port=4&left=0");
    announce(daemon.tcp6(), "port=6&left=0");
    let response = announce(daemon.tcp6(), "port=66&left=1");
    assert_eq!(
        response.peers(),
        [address("127.0.0.1:4"), address("[::1]:6")]
    );
    let value = response.bencoded();
    let mut loopback = [0; 16];
    loopback[15] = 1;
    assert_eq!(value.string("external ip"), loopback);
    let keys = [
        "complete",
        "downloaded",
        "external ip",
        "incomplete",
        "interval",
        "min interval",
        "peers",
        "peers6",
    ];
    assert_eq!(value.keys(), keys);
    assert_eq!(announce(daemon.tcp4(), "port=44&left=1").peers().len(), 3);
}

#[test]
fn udp_and_http_share_one_table() {
    let daemon = Daemon::start(&[]);
    let client = udp::Client::new(daemon.udp4());
    client.announce(&udp::Announce::default());
    assert_eq!(
        announce(daemon.tcp4(), "port=9&left=0").peers(),
        [address("127.0.0.1:6881")]
    );
    let reply = client.announce(&udp::Announce::default());
    assert_eq!(reply.peers, [address("127.0.0.1:9")]);
}

#[test]
fn numwant_is_50_unless_given_and_at_most_200() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for port in 1000..1300 {
        let target = format!("/announce?info_hash={HASH}&port={port}&left=0");
        client.request(format!("GET {target} HTTP/1.1\r\n\r\n"));
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
fn left_makes_the_role_and_what_is_unreadable_makes_a_leecher() {
    let daemon = Daemon::start(&[]);
    for (rest, seeders) in [
        ("&left=0", 1),
        ("", 0),
        ("&left=", 0),
        ("&left=18446744073709551615", 0),
        ("&left=18446744073709551616", 0),
        ("&left=-1", 0),
        ("&left=x", 0),
        ("&left=000", 1),
    ] {
        let value = announce(daemon.tcp4(), &format!("port=1{rest}")).bencoded();
        assert_eq!(value.integer("complete"), seeders, "{rest}");
        assert_eq!(value.integer("incomplete"), 1 - seeders, "{rest}");
    }
}

#[test]
fn events_have_their_effect_and_others_none() {
    let daemon = Daemon::start(&[]);
    let counts = |rest: &str| {
        let value = announce(daemon.tcp4(), &format!("port=1&{rest}")).bencoded();
        ["complete", "downloaded", "incomplete"].map(|key| value.integer(key))
    };
    assert_eq!(counts("left=5&event=started"), [0, 0, 1]);
    assert_eq!(
        counts("left=5&event=completed"),
        [0, 0, 1],
        "not with some left"
    );
    assert_eq!(counts("left=0&event=completed"), [1, 1, 0]);
    assert_eq!(counts("left=0&event=completed"), [1, 1, 0], "once");
    assert_eq!(counts("left=0&event=paused"), [1, 1, 0]);
    assert_eq!(counts("left=0&event="), [1, 1, 0]);
    assert_eq!(counts("left=0&event=stopped"), [0, 1, 0]);
}

#[test]
fn what_has_no_effect_is_accepted() {
    let daemon = Daemon::start(&[]);
    let rest = "port=7&left=0&compact=0&no_peer_id=1&key=xyz&trackerid=1&supportcrypto=1\
        &requirecrypto=1&ip=9.9.9.9&ipv4=9.9.9.9&ipv6=[2001:db8::1]:9&peer_id=short&corrupt=0\
        &azudp=1&&=&x";
    announce(daemon.tcp4(), rest);
    let response = announce(daemon.tcp4(), "port=8&left=1");
    assert_eq!(
        response.peers(),
        [address("127.0.0.1:7")],
        "compact, and no other address"
    );
}

#[test]
fn published_urls_of_all_kinds_lead_to_the_tracker() {
    let daemon = Daemon::start(&[]);
    let query = format!("info_hash={HASH}&port=1");
    for path in [
        "/announce",
        "//announce",
        "/announce.php",
        "/a",
        "/announce ",
        "///a/b",
        "/%61nnounce",
    ] {
        let response = get(daemon.tcp4(), &format!("{path}?{query}"));
        assert_eq!(response.bencoded().integer("incomplete"), 1, "{path}");
    }
    for path in ["/scrape", "/scrape.php", "//sc", "/scrape "] {
        let response = get(daemon.tcp4(), &format!("{path}?info_hash={HASH}"));
        assert_eq!(response.bencoded().keys(), ["files"], "{path}");
    }
    let absolute = format!("http://tracker.example:6969/announce?{query}");
    assert_eq!(
        get(daemon.tcp4(), &absolute)
            .bencoded()
            .integer("incomplete"),
        1
    );
}

#[test]
fn info_hashes_come_escaped_in_either_case_or_not_at_all() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let mut send = |hash: &[u8]| {
        let request = [b"GET /announce?port=1&info_hash=", hash, b" HTTP/1.1\n\n"].concat();
        client.request(request).bencoded();
    };
    send(b"%ab%cd%EF+%2b.-~%00%ff!*'(),/;:@");
    send(b"\xab\xcd\xef++.-~\x00\xff!*'(),/;:@");
    send(&[0xfe; 20]);
    let hashes = [*b"\xab\xcd\xef++.-~\x00\xff!*'(),/;:@", [0xfe; 20]];
    assert_eq!(
        udp::Client::new(daemon.udp4()).scrape(&hashes),
        [[0, 0, 1]; 2]
    );
}

#[test]
fn a_refusal_names_the_parameter_and_what_is_wanted() {
    let daemon = Daemon::start(&[]);
    let refusal = |target: &str| get(daemon.tcp4(), target).failure();
    for target in ["/announce", "/announce?", "/announce?port=1"] {
        let reason = "info_hash is missing: 20 bytes, percent-encoded, are wanted";
        assert_eq!(refusal(target), reason, "{target}");
    }
    for hash in [
        "",
        "abc",
        "%AA",
        "%ZZ%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA",
    ] {
        let reason = "info_hash is not 20 bytes, percent-encoded";
        assert_eq!(
            refusal(&format!("/announce?port=1&info_hash={hash}")),
            reason
        );
        assert_eq!(refusal(&format!("/scrape?info_hash={hash}")), reason);
    }
    let port = |rest: &str| refusal(&format!("/announce?info_hash={HASH}{rest}"));
    assert_eq!(
        port(""),
        "port is missing: a number from 1 to 65535 is wanted"
    );
    for value in ["0", "65536", "x", "", "-5"] {
        let reason = "port is not a number from 1 to 65535";
        assert_eq!(port(&format!("&port={value}")), reason);
    }
    let scrape = get(daemon.tcp4(), &format!("/scrape?info_hash={HASH}"));
    assert_eq!(scrape.text(), "d5:filesdee", "nothing was stored");
}

#[test]
fn a_scrape_names_what_it_knows_in_sorted_order() {
    let daemon = Daemon::start(&[]);
    let hash = |n: u8| format!("%{n:02x}").repeat(20);
    for (n, left) in [(3, 0), (1, 5)] {
        let target = format!(
            "/announce?info_hash={}&port=1&left={left}&event=completed",
            hash(n)
        );
        get(daemon.tcp4(), &target).bencoded();
    }
    let (a, b, c) = (hash(1), hash(2), hash(3));
    let target = format!("/scrape?info_hash={c}&info_hash={a}&info_hash={b}&info_hash={c}");
    let expected = [
        &b"d5:filesd20:"[..],
        &[1; 20],
        b"d8:completei0e10:downloadedi0e10:incompletei1ee20:",
        &[3; 20],
        b"d8:completei1e10:downloadedi1e10:incompletei0eeee",
    ];
    assert_eq!(get(daemon.tcp4(), &target).body, expected.concat());
}

#[test]
fn connections_are_kept_as_the_version_and_the_header_say() {
    let daemon = Daemon::start(&[]);
    let request = |version: &str, header: &str| {
        format!("GET /scrape?info_hash={HASH} HTTP/{version}\r\n{header}\r\n")
    };
    for (version, header, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ] {
        let mut client = Client::new(daemon.tcp4());
        let response = client.request(request(version, header));
        assert_eq!(response.status, 200);
        let said = response.header("Connection");
        match (version, kept) {
            ("1.1", false) => assert_eq!(said, Some("close")),
            ("1.0", true) => assert_eq!(said, Some("keep-alive")),
            _ => assert_eq!(said, None),
        }
        if kept {
            assert_eq!(client.request(request(version, header)), response);
        } else {
            assert_eq!(client.read_to_end(), b"");
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let mut requests = String::new();
    for port in 1..=1000 {
        requests +=
            &format!("GET /announce?info_hash={HASH}&port={port}&numwant=0 HTTP/1.1\r\n\r\n");
    }
    client.send(requests);
    for count in 1..=1000 {
        assert_eq!(client.receive().bencoded().integer("incomplete"), count);
    }
}

/// More replies than the socket buffers hold, to a client that reads none of them until the daemon
/// has stopped taking its requests: what is left waits, and nothing is lost.
#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let daemon = Daemon::start(&[]);
    let mut target = b"/scrape?".to_vec();
    for letter in b'A'..=b'Z' {
        let hash = String::from_utf8(vec![letter; 20]).expect("ASCII");
        get(daemon.tcp4(), &format!("/a?info_hash={hash}&port=1"));
        target.extend_from_slice(format!("info_hash={hash}&").as_bytes());
    }
    let target = String::from_utf8(target).expect("ASCII");
    let expected = get(daemon.tcp4(), &target);
    let request = format!("GET {target} HTTP/1.1\r\n\r\n");
    let mut client = Client::new(daemon.tcp4());
    let mut writer = client.stream().try_clone().expect("a handle");
    writer.set_nonblocking(true).expect("an option");
    let requests = request.repeat(20_000);
    let sent = send_until_full(&mut writer, requests.as_bytes());
    assert!(
        sent < requests.len(),
        "the daemon does not take requests without end"
    );
    writer.set_nonblocking(false).expect("an option");
    let sender = std::thread::spawn(move || {
        writer
            .write_all(&requests.as_bytes()[sent..])
            .expect("is taken in the end");
    });
    for _ in 0..20_000 {
        assert_eq!(client.receive().body, expected.body);
    }
    sender.join().expect("no panic");
}

/// Writes until the socket has taken nothing for a while; how much it took.
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
fn a_request_may_arrive_byte_by_byte() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let request = format!("GET /announce?info_hash={HASH}&port=5 HTTP/1.1\r\nHost: x\r\n\r\n");
    for round in 1..=2 {
        for byte in request.as_bytes() {
            client.send([*byte]);
        }
        assert_eq!(
            client.receive().bencoded().integer("incomplete"),
            1,
            "{round}"
        );
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
    assert_eq!(get.body, b"d5:filesdee");
    client.send("HEAD /nowhere HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive_to("HEAD").status, 404);
}

#[test]
fn bare_line_feeds_and_no_host_are_fine() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let response = client.request(format!("\n\nGET /a?info_hash={HASH}&port=1 HTTP/1.0\n\n"));
    assert_eq!(response.bencoded().integer("incomplete"), 1);
    assert_eq!(client.read_to_end(), b"");
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_reply() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    client.send(format!("GET /a?info_hash={HASH}&port=1 HTTP/1.1\r\n\r\n"));
    client.stream().shutdown(Shutdown::Write).expect("is open");
    assert_eq!(client.receive().status, 200);
    assert_eq!(client.read_to_end(), b"");
}

/// The same when the end arrives behind more requests than one turn answers.
#[test]
fn a_long_queue_of_requests_and_an_end_are_all_noticed() {
    let daemon = Daemon::start(&[]);
    let request = format!("GET /a?info_hash={HASH}&port=1 HTTP/1.1\r\n\r\n");
    for count in [100, 1000, 3000] {
        let mut client = Client::new(daemon.tcp4());
        let mut writer = client.stream().try_clone().expect("a handle");
        daemon.signal("STOP");
        let requests = request.repeat(count);
        let sender = std::thread::spawn(move || {
            writer.write_all(requests.as_bytes()).expect("is sent");
            writer.shutdown(Shutdown::Write).expect("is open");
        });
        daemon.signal("CONT");
        for _ in 0..count {
            assert_eq!(client.receive().status, 200);
        }
        sender.join().expect("no panic");
        let asked = Instant::now();
        assert_eq!(client.read_to_end(), b"");
        assert!(
            asked.elapsed() < Duration::from_secs(15),
            "not only at the deadline"
        );
    }
}

#[test]
fn a_body_is_not_taken_for_a_request() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let smuggled = format!("GET /a?info_hash={HASH}&port=1 HTTP/1.1\r\n\r\n");
    let length = smuggled.len();
    let request = format!(
        "GET /scrape?info_hash={HASH} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{smuggled}"
    );
    let response = client.request(request);
    assert_eq!(response.text(), "d5:filesdee");
    assert_eq!(response.header("Connection"), Some("close"));
    assert_eq!(client.read_to_end(), b"");
}

/// Another reader of the same bytes may find a body, or a header that ends elsewhere (RFC 9112, 2.2, 5.1, 5.2 and 6.3).
#[test]
fn ambiguous_header_lines_are_answered_400_and_end_the_connection() {
    let daemon = Daemon::start(&[]);
    let smuggled = format!("GET /a?info_hash={HASH}&port=1 HTTP/1.1\r\n\r\n");
    let length = smuggled.len();
    for lines in [
        format!("Content-Length : {length}"),
        format!("Content-Length\t: {length}"),
        format!(" Content-Length: {length}"),
        format!("\tContent-Length: {length}"),
        format!("Host: x\r\n Content-Length: {length}"),
        format!("Content-Length:\r\n {length}"),
        format!("Content-Length {length}"),
        format!("Content-Length\r: {length}"),
        format!("X: y\rContent-Length: {length}"),
        format!("X: y\0\r\nContent-Length: {length}"),
        format!(": x\r\nContent-Length: {length}"),
        "Transfer-Encoding : chunked".into(),
        "Transfer-Encoding:\r\n\tchunked".into(),
        "\x0bTransfer-Encoding: chunked".into(),
        "nonsense".into(),
        format!("Content-Length: +{length}"),
        format!("Content-Length: {length}, {length}"),
        "Content-Length: -1".into(),
        "Content-Length:".into(),
        "Content-Length:\x0c0".into(),
        "Content-Length: 0\x0b".into(),
    ] {
        let mut client = Client::new(daemon.tcp4());
        let response = client.request(format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n{smuggled}"));
        assert_eq!(response.status, 400, "{lines:?}");
        assert_eq!(response.header("Connection"), Some("close"), "{lines:?}");
        assert_eq!(client.read_to_end(), b"", "{lines:?}");
    }
    let scrape = get(daemon.tcp4(), &format!("/scrape?info_hash={HASH}"));
    assert_eq!(
        scrape.text(),
        "d5:filesdee",
        "no body was taken for a request"
    );
}

#[test]
fn nothing_of_a_request_gets_into_the_head_of_its_reply() {
    let daemon = Daemon::start(&["-r", "https://tracker.example/about"]);
    for split in [
        "%0d%0aX-Split:%20y",
        "%0D%0A%0D%0AX-Split: y",
        "\rX-Split: y",
        "\0X-Split: y",
    ] {
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
    let long = format!("GET /a?{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let endless = "GET /".to_string() + &"x".repeat(20_000);
    let cases: [(&str, u16, &str); 17] = [
        ("GET /nowhere HTTP/1.1\r\n\r\n", 404, "404 Not Found\n"),
        ("GET /s HTTP/1.1\r\n\r\n", 404, "404 Not Found\n"),
        ("GET * HTTP/1.1\r\n\r\n", 404, "404 Not Found\n"),
        (
            "POST /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            405,
            "405 Method Not Allowed\n",
        ),
        (
            "M-SEARCH * HTTP/1.1\r\n\r\n",
            405,
            "405 Method Not Allowed\n",
        ),
        ("nonsense\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET /announce\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET / HTTP/1.1\r\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET /\rx HTTP/1.1\r\n\r\n", 400, "400 Bad Request\n"),
        ("\rGET / HTTP/1.1\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET / HTTP/1.1\x0c\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET / HTTP/1.1\0\r\n\r\n", 400, "400 Bad Request\n"),
        ("GET\0 / HTTP/1.1\r\n\r\n", 400, "400 Bad Request\n"),
        ("\x16\x03\x01\x00", 400, "400 Bad Request\n"),
        (&long, 431, "431 Request Header Fields Too Large\n"),
        (&many, 431, "431 Request Header Fields Too Large\n"),
        (&endless, 431, "431 Request Header Fields Too Large\n"),
    ];
    for (request, status, body) in cases {
        let mut client = Client::new(daemon.tcp4());
        let response = client.request(request);
        let shown: String = request.chars().take(30).collect();
        assert_eq!(
            (response.status, response.text().as_str()),
            (status, body),
            "{shown}"
        );
        assert_eq!(response.header("Allow").is_some(), status == 405);
        if matches!(status, 400 | 431) {
            assert_eq!(client.read_to_end(), b"", "{shown}");
        }
    }
}

#[test]
fn the_root_leads_to_the_redirect() {
    let daemon = Daemon::start(&["-r", "https://tracker.example/about?x=1"]);
    for target in ["/", "//", "/?x", "http://tracker.example"] {
        let response = get(daemon.tcp4(), target);
        assert_eq!(response.status, 302, "{target}");
        assert_eq!(
            response.header("Location"),
            Some("https://tracker.example/about?x=1")
        );
        assert_eq!(response.body, b"");
    }
    assert_eq!(get(daemon.tcp4(), "/x").status, 404);
}

#[test]
fn connections_cost_nothing_once_they_are_gone() {
    let daemon = Daemon::start(&["-v"]);
    #[cfg(target_os = "linux")]
    let before = descriptors(&daemon);
    let mut clients: Vec<Client> = (0..200).map(|_| Client::new(daemon.tcp4())).collect();
    for client in &mut clients {
        client.send("GET /");
    }
    let response = get(daemon.tcp4(), &format!("/a?info_hash={HASH}&port=1"));
    assert_eq!(response.status, 200);
    drop(clients);
    #[cfg(target_os = "linux")]
    wait_for("the descriptors to be closed", || {
        (descriptors(&daemon) <= before).then_some(())
    });
}

/// How many descriptors a daemon has open.
#[cfg(target_os = "linux")]
fn descriptors(daemon: &Daemon) -> usize {
    let path = format!("/proc/{}/fd", daemon.id());
    std::fs::read_dir(path).expect("is running").count()
}
