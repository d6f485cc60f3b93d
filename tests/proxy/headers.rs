//! `X-Forwarded-For` and `Forwarded`, from proxies and from other clients.

use super::common::Daemon;
use super::common::http::Client;
use super::{HASH, SPOOFED, announced_as, external_ip, request, with_headers};

/// Every test client is 127.0.0.1, which is a proxy to this daemon. 127.0.0.2 and 2001:db8:ffff::1 are others.
fn start() -> (Daemon, Client) {
    let flags = "--proxy 127.0.0.0/8 --proxy 2001:db8:ffff::/48 -r http://x.example/";
    let daemon = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
    let client = Client::new(daemon.tcp4());
    (daemon, client)
}

/// Headers and the client that they name.
const CASES: &str = r#"X-Forwarded-For: 192.0.2.1 => 192.0.2.1
    X-Forwarded-For:  [2001:db8::1]:80  => 2001:db8::1
    X-Forwarded-For: 6.6.6.6,192.0.2.1 ,127.0.0.2, 2001:db8:ffff::1 => 192.0.2.1
    X-Forwarded-For: 6.6.6.6, rubbish, 127.0.0.2 => 400
    forwarded: For="[2001:db8::1]:4711";proto=https;by=_x => 2001:db8::1
    Forwarded: for=6.6.6.6, for=192.0.2.1;host="a,b;c", for=127.0.0.1 => 192.0.2.1
    Forwarded: for=192.0.2.1 & X-Forwarded-For: 192.0.2.1 => 192.0.2.1
    Forwarded: for=6.6.6.6 & X-Forwarded-For: 192.0.2.1 => 400
    X-Forwarded-For: 127.0.0.2, 127.0.0.3 => 400 127.0.0.2
    Forwarded: for=127.0.0.2 => 400 127.0.0.2
    X-Real-IP: 6.6.6.6 => 400"#;

#[test]
fn rightmost_address_that_is_not_a_proxy_is_the_client() {
    let (_daemon, mut client) = start();
    for line in CASES.lines() {
        let (headers, expected) = line.trim().split_once(" => ").expect("a case");
        let announced = announced_as(&mut client, &headers.replace(" & ", "\n"));
        assert_eq!(announced, expected, "{headers}");
    }
    assert_eq!(announced_as(&mut client, ""), "400");
}

#[test]
fn a_header_that_the_admin_names_is_read_instead() {
    let flags = [
        "--proxy",
        "127.0.0.0/8",
        "--proxy-header",
        "CF-Connecting-IP",
    ];
    let daemon = Daemon::start(&flags);
    let mut client = Client::new(daemon.tcp4());
    for (headers, expected) in [
        ("cf-connecting-ip: 192.0.2.1", "192.0.2.1"),
        (
            &format!("{SPOOFED}\nCF-Connecting-IP: 2001:db8::1"),
            "2001:db8::1",
        ),
        (SPOOFED, "400"),
        ("CF-Connecting-IP: 127.0.0.2", "400 127.0.0.2"),
    ] {
        assert_eq!(announced_as(&mut client, headers), expected, "{headers}");
    }
    // ::1 is not a proxy.
    let mut other = Client::new(daemon.tcp6());
    assert_eq!(
        announced_as(&mut other, "CF-Connecting-IP: 192.0.2.1"),
        "::1"
    );
}

#[test]
fn peers_have_the_address_and_family_of_the_client() {
    let (daemon, mut client) = start();
    client.request(request(5, "X-Forwarded-For: 192.0.2.1"));
    client.request(request(2, "X-Forwarded-For: 2001:db8::2"));
    // ::1 is not a proxy. Its peer is of use to clients on the loopback only.
    Client::new(daemon.tcp6()).request(request(3, "X-Forwarded-For: 192.0.2.3"));
    let target = format!("/announce?info_hash={HASH}&port=4&ip=6.6.6.6");
    let response = client.request(with_headers(&target, "Forwarded: for=192.0.2.4"));
    let peer = |peer: &str| peer.parse().expect("a peer");
    let mut peers = vec![peer("192.0.2.1:5"), peer("[2001:db8::2]:2")];
    assert_eq!(response.peers(), peers);
    let response = Client::new(daemon.tcp6()).request(request(6, ""));
    peers.splice(1..1, ["192.0.2.4:4", "[::1]:3"].map(peer));
    assert_eq!(response.peers(), peers);
}

#[test]
fn each_request_of_a_connection_has_its_own_client() {
    let (_daemon, mut client) = start();
    let headers = [
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=2001:db8::2",
        "",
    ];
    client.send(headers.map(|header| request(1, header)).concat());
    // IPv6 needs quotes.
    for expected in ["192.0.2.1", "400", "400"] {
        assert_eq!(external_ip(&client.receive()), expected);
    }
    for byte in request(5, "X-Forwarded-For: 6.6.6.6, 192.0.2.5").into_bytes() {
        client.send([byte]);
    }
    assert_eq!(external_ip(&client.receive()), "192.0.2.5");
}

#[test]
fn unknown_client_may_do_all_but_announce() {
    let (_daemon, mut client) = start();
    for (target, status) in [
        ("/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa", 200),
        ("/health", 200),
        ("/", 302),
        ("/nowhere", 404),
        ("/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&port=1", 400),
    ] {
        let response = client.request(with_headers(target, "X-Forwarded-For: rubbish"));
        assert_eq!(response.status, status, "{target}");
    }
    client.send(request(1, "").replacen("GET", "HEAD", 1));
    assert_eq!(client.receive_to("HEAD").status, 400);
}

#[test]
fn headers_of_clients_that_are_not_proxies_are_ignored() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.2", "--proxy", "2001:db8::/32"]);
    let without = Daemon::start(&[]);
    for (address, source) in [(daemon.tcp4(), "127.0.0.1"), (without.tcp6(), "::1")] {
        let mut client = Client::new(address);
        for headers in [SPOOFED, "X-Forwarded-For: 127.0.0.2", "Forwarded: \""] {
            assert_eq!(announced_as(&mut client, headers), source, "{headers}");
        }
    }
}

#[test]
fn admins_are_known_by_the_address_that_the_proxy_names() {
    let flags = ["--proxy", "127.0.0.0/8", "-A", "192.0.2.0/24"];
    let daemon = Daemon::start(&flags);
    let mut client = Client::new(daemon.tcp4());
    for (header, status) in [
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 127.0.0.1", 200),
        ("Forwarded: for=192.0.2.1", 200),
        ("X-Forwarded-For: 192.0.2.1, 198.51.100.1", 403),
        ("X-Forwarded-For: 192.0.2.1, rubbish", 403),
        ("X-Forwarded-For: 127.0.0.1", 403),
        ("", 403),
    ] {
        for path in ["/stats", "/metrics"] {
            let response = client.request(with_headers(path, header));
            assert_eq!(response.status, status, "{path} {header}");
        }
    }
}

#[test]
fn loopback_is_an_admin_unless_a_proxy_there_passed_the_request_on() {
    let flags = "--proxy 127.0.0.1 --proxy-header Fly-Client-IP";
    let daemon = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
    let mut client = Client::new(daemon.tcp6());
    for (header, status) in [
        ("", 200),
        ("User-Agent: curl", 200),
        ("X-Forwarded-For: 198.51.100.1", 403),
        ("x-forwarded-proto: https", 403),
        ("Forwarded: for=198.51.100.1", 403),
        ("X-Real-IP: 198.51.100.1", 403),
        ("CF-Connecting-IP: 198.51.100.1", 403),
        ("Fly-Client-IP: 198.51.100.1", 403),
        ("Via: 1.1 proxy", 403),
    ] {
        for path in ["/stats", "/metrics"] {
            let response = client.request(with_headers(path, header));
            assert_eq!(response.status, status, "{path} {header}");
        }
    }
    // Another host's loopback is not this one's.
    let request = with_headers("/stats", "Fly-Client-IP: ::1");
    assert_eq!(Client::new(daemon.tcp4()).request(request).status, 403);
}

#[test]
fn forbidden_reply_says_what_is_required() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    let text = |address, path, header| {
        let response = Client::new(address).request(with_headers(path, header));
        assert_eq!(response.status, 403);
        let text = response.text();
        let rest = text.strip_prefix("403 Forbidden: statistics are for admins: ");
        rest.expect(&text).trim_end().to_owned()
    };
    for (header, expected) in [
        ("X-Forwarded-For: 192.0.2.1", "requires --admin 192.0.2.1"),
        (
            "X-Forwarded-For: 2001:db8::1",
            "requires --admin 2001:db8::1",
        ),
        ("", "this came from a proxy that does not name its client"),
        (
            "X-Forwarded-For: 127.0.0.2",
            "the client that a proxy names, 127.0.0.2, is itself in a --proxy network",
        ),
    ] {
        for path in ["/stats", "/metrics", "/stats?mode=top10"] {
            assert_eq!(text(daemon.tcp4(), path, header), expected);
        }
    }
    assert_eq!(
        text(daemon.tcp6(), "/stats", "X-Forwarded-For: 192.0.2.1"),
        "requires --proxy ::1 for the proxy that passed this on, and --admin for its client"
    );
    for (policy, expected) in [
        (
            "admin",
            "full scrapes are for admins: requires --admin 192.0.2.1",
        ),
        ("off", "full scrapes are off; scrape with an info_hash"),
    ] {
        if cfg!(feature = "full-scrape") {
            let daemon = Daemon::start(&["--proxy", "127.0.0.1", "--full-scrape", policy]);
            let request = with_headers("/scrape", "X-Forwarded-For: 192.0.2.1");
            let text = Client::new(daemon.tcp4()).request(request).text();
            assert_eq!(text, format!("403 Forbidden: {expected}\n"));
        }
    }
}

#[test]
fn announce_urls_have_the_scheme_of_the_client_and_the_port_of_its_request() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    let mut client = Client::new(daemon.tcp4());
    for (host, proto, url) in [
        ("t.example", "https", "https://t.example/announce"),
        (
            "t.example:8443",
            "HTTPS, http",
            "https://t.example:8443/announce",
        ),
        (
            "[2001:db8::1]:8080",
            "http",
            "http://[2001:db8::1]:8080/announce",
        ),
        ("t.example", "gopher://x", "http://t.example/announce"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {proto}\r\n\r\n");
        let text = client.request(head).text();
        let urls: Vec<&str> = text.lines().filter(|line| line.contains("://")).collect();
        assert_eq!(urls[0], url, "{text}");
        assert!(
            urls[1..].iter().all(|url| url.starts_with("udp://")),
            "{text}"
        );
    }
}

#[cfg(feature = "full-scrape")]
#[test]
fn full_scrapes_are_limited_by_the_client_that_the_proxy_names() {
    let (_daemon, mut client) = start();
    for (header, status) in [
        ("X-Forwarded-For: 192.0.2.1", 200),
        ("X-Forwarded-For: 192.0.2.1", 429),
        ("X-Forwarded-For: 192.0.2.2", 200),
        ("X-Forwarded-For: 192.0.2.3, 192.0.2.1", 429),
        // All clients that the proxy does not name are one.
        ("", 200),
        ("X-Forwarded-For: rubbish", 429),
    ] {
        let response = client.request(with_headers("/scrape", header));
        assert_eq!(response.status, status, "{header}");
    }
}
