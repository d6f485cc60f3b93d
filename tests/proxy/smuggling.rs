//! Request smuggling: a proxy and the daemon must agree on where a request ends, or a client gets a request past the
//! proxy unseen.
//!
//! The hidden request names a client, 6.6.6.6. A proxy replaces that in every request that it sees, so 6.6.6.6 is a
//! peer only if the request was smuggled.

use super::common::Daemon;
use super::common::http::{Client, Response};
use super::real::{self, Proxy};
use super::{request, with_headers};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

const OTHER_HASH: &str = "%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB%BB";

fn hidden() -> String {
    request(666, "X-Forwarded-For: 6.6.6.6")
}

/// Header lines before a body that is the hidden request, with its length for `N`.
const LENGTHS: [&str; 22] = [
    "Content-Length: N",
    "Content-Length : N",
    "Content-Length\t: N",
    " Content-Length: N",
    "X: y\r\n Content-Length: N",
    "Content-Length:\r\n N",
    "Content-Length N",
    "X: y\rContent-Length: N",
    "X: y\nContent-Length: N",
    "X: y\0\r\nContent-Length: N",
    "Content-Length: +N",
    "Content-Length: 0N",
    "Content-Length: N, N",
    "Content-Length: 0\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length : N",
    "Content_Length: N",
    "Connection: Content-Length\r\nContent-Length: N",
    "Content-Length: 0",
    "Content-Length: -1",
    "Expect: 100-continue",
    "Upgrade: h2c\r\nConnection: Upgrade",
];

/// Header lines before a body that is the hidden request in a chunk.
const ENCODINGS: [&str; 14] = [
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\r\n chunked",
    " Transfer-Encoding: chunked",
    "\x0bTransfer-Encoding: chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: chunked, identity",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: N",
    "Content-Length: N\r\nTransfer-Encoding : chunked",
    "Content-Length: 0\r\nTransfer-Encoding: chunked",
];

/// Header lines before a body that ends before the hidden request for one parser and after it for another.
const BOTH: [&str; 4] = [
    "Content-Length: N\r\nTransfer-Encoding : chunked",
    "Content-Length: N\r\nTransfer-Encoding:\r\n chunked",
    "Content-Length: N\r\nTransfer-Encoding: xchunked",
    "Content-Length: N\r\nX: y\rTransfer-Encoding: chunked",
];

fn attacks() -> Vec<String> {
    let hidden = hidden();
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let behind = format!("0\r\n\r\n{hidden}");
    let mut attacks = Vec::new();
    for (all, body) in [(&LENGTHS[..], hidden), (&ENCODINGS, chunk), (&BOTH, behind)] {
        for lines in all {
            let lines = lines.replace('N', &body.len().to_string());
            for start in ["1.1\r\n", "1.0\r\nConnection: keep-alive\r\n"] {
                attacks.push(format!(
                    "GET /scrape?info_hash={OTHER_HASH} HTTP/{start}Host: x\r\n{lines}\r\n\r\n{body}"
                ));
            }
        }
    }
    attacks
}

/// Sends bytes, and reads until the proxy closes.
fn send(address: SocketAddr, text: &str) {
    let client = Client::new(address);
    let mut stream = client.stream();
    // The proxy may have closed already.
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.read(&mut [0; 16]);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

fn scrape(address: SocketAddr) -> Response {
    let target = format!("/scrape?info_hash={OTHER_HASH}");
    Client::new(address).request(with_headers(&target, ""))
}

/// The peers of the hidden request's torrent.
fn peers(daemon: &Daemon) -> Vec<SocketAddr> {
    let asking = request(9, "X-Forwarded-For: 9.9.9.9");
    Client::new(daemon.tcp4()).request(asking).peers()
}

fn assert_nothing_passes(daemon: &Daemon, proxy: &Proxy) {
    let target = format!("/announce?info_hash={OTHER_HASH}&port=1&left=0");
    let known = Client::new(proxy.address).request(with_headers(&target, ""));
    assert_eq!(known.bencoded().integer("complete"), 1);
    let expected = scrape(proxy.address).text();
    for attack in attacks() {
        send(proxy.address, &attack);
        // A left-over reply on a connection of the proxy would be taken for one of these.
        for _ in 0..3 {
            assert_eq!(scrape(proxy.address).text(), expected, "after {attack:?}");
        }
        let mut peers = peers(daemon).into_iter();
        let is_smuggled = peers.any(|peer| peer.port() == 666 && peer.is_ipv4());
        assert!(!is_smuggled, "{attack:?}");
    }
}

#[test]
fn hidden_request_is_valid() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    Client::new(daemon.tcp4()).request(hidden());
    assert_eq!(peers(&daemon), ["6.6.6.6:666".parse().expect("a peer")]);
}

#[test]
fn no_request_is_smuggled_through_nginx() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    if let Some(nginx) = real::nginx(&daemon.tcp4().to_string(), None) {
        assert_nothing_passes(&daemon, &nginx);
    }
}

#[test]
fn no_request_is_smuggled_through_haproxy() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    if let Some(haproxy) = real::haproxy(&real::http_relay(&daemon)) {
        haproxy.wait_for_check("L7OK");
        assert_nothing_passes(&daemon, &haproxy);
    }
}
