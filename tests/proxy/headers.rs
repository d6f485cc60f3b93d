//! `X-Forwarded-For` and `Forwarded`, from proxies and from anybody else.

use super::common::Daemon;
use super::common::http::Client;
use super::{HASH, announced_as, external_ip, request, some, with_headers};

/// Everybody here comes from 127.0.0.1, which is a proxy to this daemon; 127.0.0.2 and
/// 2001:db8:ffff::1 are others.
fn daemon() -> Daemon {
    let flags =
        "--proxy 127.0.0.0/8 --proxy 2001:db8:ffff::/48 --proxy 127.0.0.1 -r http://x.example/";
    Daemon::start(&flags.split(' ').collect::<Vec<_>>())
}

#[test]
fn the_right_most_address_that_is_no_proxy_is_the_client() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    for (headers, expected) in [
        (&["X-Forwarded-For: 192.0.2.1"][..], some("192.0.2.1")),
        (&["x-forwarded-for:192.0.2.1:4711"], some("192.0.2.1")),
        (
            &["X-Forwarded-For:  [2001:db8::1]:80 "],
            some("2001:db8::1"),
        ),
        (&["X-Forwarded-For: 2001:db8::1"], some("2001:db8::1")),
        (&["X-Forwarded-For: ::ffff:192.0.2.1"], some("192.0.2.1")),
        (&["X-Forwarded-For: 6.6.6.6, 192.0.2.1"], some("192.0.2.1")),
        (
            &["X-Forwarded-For: 6.6.6.6,192.0.2.1 ,127.0.0.2, 2001:db8:ffff::1"],
            some("192.0.2.1"),
        ),
        (
            &[
                "X-Forwarded-For: 6.6.6.6",
                "X-Forwarded-For: 192.0.2.1",
                "X-Forwarded-For: 127.0.0.9",
            ],
            some("192.0.2.1"),
        ),
        (&["X-Forwarded-For: rubbish, 192.0.2.1"], some("192.0.2.1")),
        (&["X-Forwarded-For: 6.6.6.6, rubbish, 127.0.0.2"], None),
        (&["X-Forwarded-For: 6.6.6.6, rubbish"], None),
        (&["X-Forwarded-For: 6.6.6.6, unknown"], None),
        (&["X-Forwarded-For: 6.6.6.6,"], None),
        (&["X-Forwarded-For:"], None),
        (&["X-Forwarded-For: 127.0.0.3"], None),
        (&["Forwarded: for=192.0.2.1"], some("192.0.2.1")),
        (
            &["forwarded: For=\"[2001:db8::1]:4711\";proto=https;by=_x"],
            some("2001:db8::1"),
        ),
        (
            &["Forwarded: for=6.6.6.6, for=192.0.2.1;host=\"a,b;c\", for=127.0.0.1"],
            some("192.0.2.1"),
        ),
        (
            &["Forwarded: for=6.6.6.6", "Forwarded: for=\"192.0.2.1:99\""],
            some("192.0.2.1"),
        ),
        (&["Forwarded: for=6.6.6.6, for=unknown"], None),
        (&["Forwarded: for=6.6.6.6, for=_hidden"], None),
        (&["Forwarded: for=6.6.6.6, for=\"192.0.2.1"], None),
        (&["Forwarded: for=6.6.6.6, proto=http"], None),
        (
            &["Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1"],
            some("192.0.2.1"),
        ),
        (
            &["Forwarded: for=6.6.6.6", "X-Forwarded-For: 192.0.2.1"],
            None,
        ),
        (
            &["Forwarded: for=192.0.2.1", "X-Forwarded-For: rubbish"],
            None,
        ),
        (&["X-Real-IP: 6.6.6.6"], None),
        (&[], None),
    ] {
        assert_eq!(announced_as(&mut client, headers), expected, "{headers:?}");
    }
}

#[test]
fn peers_are_stored_by_the_address_and_in_the_family_of_the_client() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    client.request(request(1, &["X-Forwarded-For: 192.0.2.1"]));
    client.request(request(2, &["X-Forwarded-For: 2001:db8::2"]));
    let mut over_v6 = Client::new(daemon.tcp6());
    let ignored = over_v6.request(request(3, &["X-Forwarded-For: 192.0.2.3"]));
    assert_eq!(external_ip(&ignored).to_string(), "::1", "::1 is no proxy");
    let response = client.request(request(4, &["Forwarded: for=192.0.2.4"]));
    let peers = ["192.0.2.1:1", "[::1]:3", "[2001:db8::2]:2"].map(|p| p.parse().expect("a peer"));
    assert_eq!(response.peers(), peers);
    // And what the client says of itself has no effect, as ever.
    let target = format!("/announce?info_hash={HASH}&port=5&ip=6.6.6.6");
    let response = client.request(with_headers(&target, &["X-Forwarded-For: 192.0.2.5"]));
    assert_eq!(external_ip(&response).to_string(), "192.0.2.5");
}

#[test]
fn each_request_of_a_connection_has_a_client_of_its_own() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    let all = [
        request(1, &["X-Forwarded-For: 192.0.2.1"]),
        request(2, &["Forwarded: for=192.0.2.2"]),
        request(3, &[]),
        request(4, &["X-Forwarded-For: 2001:db8::4"]),
    ];
    client.send(all.concat());
    assert_eq!(external_ip(&client.receive()).to_string(), "192.0.2.1");
    assert_eq!(external_ip(&client.receive()).to_string(), "192.0.2.2");
    assert_eq!(client.receive().status, 400);
    assert_eq!(external_ip(&client.receive()).to_string(), "2001:db8::4");
    for byte in request(5, &["X-Forwarded-For: 6.6.6.6, 192.0.2.5"]).into_bytes() {
        client.send([byte]);
    }
    assert_eq!(external_ip(&client.receive()).to_string(), "192.0.2.5");
}

#[test]
fn all_but_announces_is_served_to_nobody_in_particular() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    for headers in [&[][..], &["X-Forwarded-For: rubbish"]] {
        let scrape = format!("/scrape?info_hash={HASH}");
        assert_eq!(client.request(with_headers(&scrape, headers)).status, 200);
        assert_eq!(client.request(with_headers("/", headers)).status, 302);
        assert_eq!(
            client.request(with_headers("/nowhere", headers)).status,
            404
        );
        assert_eq!(client.request(request(1, headers)).status, 400);
    }
    assert_eq!(client.request(with_headers("/health", &[])).text(), "ok\n");
    let head = request(1, &[]).replacen("GET", "HEAD", 1);
    client.send(head);
    assert_eq!(client.receive_to("HEAD").status, 400);
}

#[test]
fn what_anybody_else_says_is_passed_over() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.2", "--proxy", "2001:db8::/32"]);
    let mut client = Client::new(daemon.tcp4());
    for header in [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 127.0.0.2",
        "X-Forwarded-For: rubbish",
        "Forwarded: for=192.0.2.1",
        "Forwarded: \"",
        "X-Real-IP: 192.0.2.1",
    ] {
        assert_eq!(
            announced_as(&mut client, &[header]),
            some("127.0.0.1"),
            "{header}"
        );
    }
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp6());
    let headers = ["X-Forwarded-For: 192.0.2.1"];
    assert_eq!(announced_as(&mut client, &headers), some("::1"));
}

#[test]
fn an_admin_is_known_by_the_address_that_the_proxy_names() {
    let flags = ["--proxy", "127.0.0.0/8", "-A", "192.0.2.0/24"];
    let daemon = Daemon::start(&flags);
    let mut client = Client::new(daemon.tcp4());
    for (header, status) in [
        ("X-Forwarded-For: 192.0.2.1", 200),
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 127.0.0.1", 200),
        ("Forwarded: for=192.0.2.1", 200),
        ("X-Forwarded-For: 198.51.100.1", 403),
        ("X-Forwarded-For: 192.0.2.1, 198.51.100.1", 403),
        ("X-Forwarded-For: 192.0.2.1, rubbish", 403),
        ("X-Forwarded-For: 127.0.0.1", 403),
        ("X-Nothing: 1", 403),
    ] {
        for path in ["/stats", "/metrics"] {
            let response = client.request(with_headers(path, &[header]));
            assert_eq!(response.status, status, "{path} {header}");
        }
    }
    // ::1 is no proxy here, and an admin whatever it says.
    let mut client = Client::new(daemon.tcp6());
    let headers = ["X-Forwarded-For: 198.51.100.1"];
    assert_eq!(client.request(with_headers("/stats", &headers)).status, 200);
}

#[test]
fn limits_are_those_of_the_client_that_the_proxy_names() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    let mut scrape = |headers: &[&str]| client.request(with_headers("/scrape", headers)).status;
    for headers in [
        &["X-Forwarded-For: 192.0.2.1"][..],
        &["X-Forwarded-For: 192.0.2.2"],
        // All whom the proxy does not name are one.
        &[],
    ] {
        assert_eq!(scrape(headers), 200, "{headers:?}");
        assert_eq!(scrape(headers), 429, "{headers:?}");
    }
    assert_eq!(scrape(&["X-Forwarded-For: rubbish"]), 429);
    assert_eq!(scrape(&["X-Forwarded-For: 192.0.2.3, 192.0.2.1"]), 429);
}
