//! Requests on whose end two readers may disagree. A client must not get a request past a proxy that the proxy has
//! not seen, nor lines of its own into the head of a reply.
//!
//! The hidden request names a client, 6.6.6.6, which a proxy replaces in every request that it sees. So 6.6.6.6 is
//! among the peers only if a request was smuggled.

use super::common::Daemon;
use super::common::http::{Client, Response};
use super::real::{self, Proxy};
use super::{request, with_headers};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

const OTHER_HASH: &str = "%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB";

fn hidden() -> String {
    request(666, &["X-Forwarded-For: 6.6.6.6"])
}

/// Requests with a body that is the hidden request, or would be if the head were read in another way.
fn attacks() -> Vec<String> {
    let hidden = hidden();
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let (whole, behind) = (chunk.len(), 5 + length);
    let attack = |version: &str, lines: &str, body: &str| {
        format!(
            "GET /scrape?info_hash={OTHER_HASH} HTTP/{version}\r\nHost: x\r\n{lines}\r\n\r\n{body}"
        )
    };
    let mut attacks = Vec::new();
    for lines in [
        format!("Content-Length: {length}"),
        format!("Content-Length : {length}"),
        format!("Content-Length\t: {length}"),
        format!(" Content-Length: {length}"),
        format!("X: y\r\n Content-Length: {length}"),
        format!("Content-Length:\r\n {length}"),
        format!("Content-Length {length}"),
        format!("X: y\rContent-Length: {length}"),
        format!("X: y\nContent-Length: {length}"),
        format!("X: y\0\r\nContent-Length: {length}"),
        format!("Content-Length: +{length}"),
        format!("Content-Length: 0{length}"),
        format!("Content-Length: {length}, {length}"),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: {length}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length : {length}"),
        format!("Content_Length: {length}"),
        format!("Connection: Content-Length\r\nContent-Length: {length}"),
        "Content-Length: 0".into(),
        "Content-Length: -1".into(),
        "Expect: 100-continue".into(),
        "Upgrade: h2c\r\nConnection: Upgrade".into(),
    ] {
        attacks.push(attack("1.1", &lines, &hidden));
        attacks.push(attack(
            "1.0",
            &format!("Connection: keep-alive\r\n{lines}"),
            &hidden,
        ));
    }
    for lines in [
        "Transfer-Encoding: chunked".into(),
        "Transfer-Encoding : chunked".into(),
        "Transfer-Encoding:\r\n chunked".into(),
        " Transfer-Encoding: chunked".into(),
        "\x0bTransfer-Encoding: chunked".into(),
        "Transfer-Encoding:\x0bchunked".into(),
        "Transfer-Encoding: xchunked".into(),
        "Transfer-Encoding: identity".into(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".into(),
        "Transfer-Encoding: chunked, identity".into(),
        "Transfer_Encoding: chunked".into(),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {whole}"),
        format!("Content-Length: {whole}\r\nTransfer-Encoding : chunked"),
        "Content-Length: 0\r\nTransfer-Encoding: chunked".into(),
    ] {
        attacks.push(attack("1.1", &lines, &chunk));
        attacks.push(attack(
            "1.0",
            &format!("Connection: keep-alive\r\n{lines}"),
            &chunk,
        ));
    }
    // Here the body ends before the hidden request for one reader and behind it for another.
    for lines in [
        format!("Content-Length: {behind}\r\nTransfer-Encoding : chunked"),
        format!("Content-Length: {behind}\r\nTransfer-Encoding:\r\n chunked"),
        format!("Content-Length: {behind}\r\nTransfer-Encoding: xchunked"),
        format!("Content-Length: {behind}\r\nX: y\rTransfer-Encoding: chunked"),
    ] {
        attacks.push(attack("1.1", &lines, &format!("0\r\n\r\n{hidden}")));
    }
    attacks
}

/// Sends what need not be a request, and reads until there is a reply or the end.
fn send(address: SocketAddr, text: &str) {
    let client = Client::new(address);
    let mut stream = client.stream();
    // The proxy may have refused it already and closed.
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.read(&mut [0; 16]);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

fn scrape(address: SocketAddr) -> Response {
    let target = format!("/scrape?info_hash={OTHER_HASH}");
    Client::new(address).request(with_headers(&target, &[]))
}

/// The peers of the hidden request's torrent.
fn peers(daemon: &Daemon) -> Vec<SocketAddr> {
    let asking = ["X-Forwarded-For: 9.9.9.9"];
    Client::new(daemon.tcp4())
        .request(request(9, &asking))
        .peers()
}

fn assert_nothing_passes(daemon: &Daemon, proxy: &Proxy) {
    let target = format!("/announce?info_hash={OTHER_HASH}&port=1&left=0");
    let known = Client::new(proxy.address).request(with_headers(&target, &[]));
    assert_eq!(known.bencoded().integer("complete"), 1);
    let expected = scrape(proxy.address).text();
    for attack in attacks() {
        send(proxy.address, &attack);
        // A reply left over on a connection of the proxy's would be taken for one of these.
        for _ in 0..3 {
            assert_eq!(scrape(proxy.address).text(), expected, "after {attack:?}");
        }
        let smuggled = peers(daemon)
            .iter()
            .any(|peer| peer.port() == 666 && peer.is_ipv4());
        assert!(!smuggled, "{attack:?}");
    }
    for split in ["%0d%0aX-Split:%20y", "%0D%0A%0D%0AX-Split:y"] {
        for target in [
            format!("/{split}"),
            format!("/?{split}"),
            format!("/announce?info_hash={split}"),
        ] {
            let reply = Client::new(proxy.address).request(with_headers(&target, &[]));
            assert!(!reply.head.contains("Split"), "{reply:?}");
        }
    }
}

/// The hidden request is one that the daemon would obey.
fn assert_hidden_request_counts() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    Client::new(daemon.tcp4()).request(hidden());
    assert_eq!(peers(&daemon), ["6.6.6.6:666".parse().expect("a peer")]);
}

#[test]
fn no_request_is_smuggled_through_nginx() {
    assert_hidden_request_counts();
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    if let Some(nginx) = real::nginx(&daemon.tcp4().to_string(), None) {
        assert_nothing_passes(&daemon, &nginx);
    }
}

#[test]
fn no_request_is_smuggled_through_haproxy() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    let server = daemon.tcp4().to_string();
    let relay = real::of_the_page("defaults\n    mode http\n", &[("127.0.0.1:6969", &server)]);
    if let Some(haproxy) = real::haproxy(&relay) {
        haproxy.wait_for_check("L7OK");
        assert_nothing_passes(&daemon, &haproxy);
    }
}
