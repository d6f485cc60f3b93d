//! PROXY headers, versions 1 and 2.

use super::common::Daemon;
use super::common::http::Client;
use super::{HASH, announced_as, external_ip, request, some, with_headers};
use std::io::ErrorKind;
use std::net::Shutdown;

const X_SPOOFED: &str = "X-Forwarded-For: 6.6.6.6";

/// Connections from 127.0.0.1 must begin with a PROXY header. 192.0.2.99 is another proxy.
fn daemon() -> Daemon {
    let flags = "--proxy 127.0.0.0/8 --proxy 192.0.2.99 --proxy-protocol -r http://x.example/";
    Daemon::start(&flags.split(' ').collect::<Vec<_>>())
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("is short").to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        rest,
    ]
    .concat()
}

/// From 192.0.2.7 or 2001:db8::7, with something to skip.
fn v2_tcp4() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x1b, 0x39];
    let extra = [0x04, 0x00, 0x04, b'n', b'o', b'o', b'p'];
    v2(0x21, 0x11, &[&addresses[..], &extra].concat())
}

fn v2_tcp6() -> Vec<u8> {
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(b"\x20\x01\x0d\xb8");
    addresses[15] = 7;
    v2(0x21, 0x21, &addresses)
}

fn v1_tcp4() -> Vec<u8> {
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 6969\r\n".to_vec()
}

fn v1_tcp6() -> Vec<u8> {
    b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 6969\r\n".to_vec()
}

#[test]
fn the_source_is_the_client_of_the_whole_connection() {
    let daemon = daemon();
    for (header, source) in [
        (v1_tcp4(), "192.0.2.7"),
        (v1_tcp6(), "2001:db8::7"),
        (v2_tcp4(), "192.0.2.7"),
        (v2_tcp6(), "2001:db8::7"),
    ] {
        // With the first request, before it, and byte by byte.
        let mut client = Client::new(daemon.tcp4());
        let first = client.request([&header[..], request(1, &[]).as_bytes()].concat());
        assert_eq!(external_ip(&first).to_string(), source);
        for headers in [
            &[][..],
            &[X_SPOOFED],
            &["Forwarded: for=6.6.6.6"],
            &["Forwarded: x"],
        ] {
            assert_eq!(announced_as(&mut client, headers), some(source));
        }
        let mut client = Client::new(daemon.tcp4());
        client.send(&header);
        assert_eq!(announced_as(&mut client, &[X_SPOOFED]), some(source));
        let mut client = Client::new(daemon.tcp4());
        for byte in [&header[..], request(2, &[]).as_bytes()].concat() {
            client.send([byte]);
        }
        assert_eq!(external_ip(&client.receive()).to_string(), source);
    }
    let mut client = Client::new(daemon.tcp4());
    client.send(v1_tcp4());
    let peers = client.request(request(9, &[])).peers();
    let expected = ["192.0.2.7:1", "192.0.2.7:2", "192.0.2.7:6881"];
    let v4: Vec<String> = peers
        .iter()
        .filter(|p| p.is_ipv4())
        .map(ToString::to_string)
        .collect();
    assert_eq!(v4, expected);
    assert_eq!(peers.len(), 6, "and as many of IPv6: {peers:?}");
}

#[test]
fn who_is_not_named_may_do_all_but_announce() {
    let daemon = daemon();
    let from_unix = v2(0x21, 0x31, &[b'x'; 216]);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &[1; 12]),
        v2(0x21, 0x00, &[]),
        from_unix,
        v2(0x20, 0x00, &[0; 8000]),
    ] {
        let mut client = Client::new(daemon.tcp4());
        client.send(&header);
        assert_eq!(announced_as(&mut client, &[]), None, "{header:?}");
        assert_eq!(announced_as(&mut client, &[X_SPOOFED]), None);
        let scrape = format!("/scrape?info_hash={HASH}");
        assert_eq!(client.request(with_headers(&scrape, &[])).status, 200);
        assert_eq!(client.request(with_headers("/", &[])).status, 302);
    }
}

#[test]
fn a_source_that_is_a_proxy_names_its_clients_in_headers() {
    let daemon = daemon();
    let mut client = Client::new(daemon.tcp4());
    client.send("PROXY TCP4 192.0.2.99 198.51.100.1 4711 6969\r\n");
    let headers = ["X-Forwarded-For: 6.6.6.6, 192.0.2.5"];
    assert_eq!(announced_as(&mut client, &headers), some("192.0.2.5"));
    assert_eq!(
        announced_as(&mut client, &["Forwarded: for=192.0.2.6"]),
        some("192.0.2.6")
    );
    assert_eq!(announced_as(&mut client, &[]), None);
}

#[test]
fn what_does_not_begin_with_a_header_is_closed_without_a_word() {
    let daemon = daemon();
    let mut long = b"PROXY UNKNOWN ".to_vec();
    long.resize(107, b'x');
    let mut too_long = v2(0x20, 0x00, &[]);
    too_long[14] = 0x20;
    for bytes in [
        request(1, &[]).into_bytes(),
        request(1, &["X-Forwarded-For: 192.0.2.1"]).into_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 198.51.100.1 4711 6969\r\n".to_vec(),
        b"PROXY UNKNOWN\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
        v2(0x11, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x22, 0x00, &[]),
        long,
        too_long,
    ] {
        let mut client = Client::new(daemon.tcp4());
        client.send(&bytes);
        assert_eq!(read_to_close(&client), 0, "{bytes:?}");
    }
}

/// Bytes that came before the connection was closed, in order or not.
fn read_to_close(client: &Client) -> usize {
    let mut count = 0;
    loop {
        let mut room = [0; 4096];
        match std::io::Read::read(&mut client.stream(), &mut room) {
            Ok(0) => return count,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return count,
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

#[test]
fn a_header_that_never_becomes_whole_is_closed_with_its_connection() {
    let daemon = daemon();
    for header in [v1_tcp4(), v1_tcp6(), v2_tcp4(), v2_tcp6()] {
        for length in 0..header.len() {
            let mut client = Client::new(daemon.tcp4());
            client.send(&header[..length]);
            client.stream().shutdown(Shutdown::Write).expect("is open");
            assert_eq!(client.read_to_end(), b"", "{length}");
        }
    }
    let mut client = Client::new(daemon.tcp4());
    client.send(v2_tcp4());
    assert_eq!(announced_as(&mut client, &[]), some("192.0.2.7"));
}

#[test]
fn a_header_from_anybody_else_is_no_http() {
    for flags in [
        &[][..],
        &["--proxy", "127.0.0.1"],
        &["--proxy", "127.0.0.2", "--proxy-protocol"],
    ] {
        let daemon = Daemon::start(flags);
        for header in [
            v1_tcp4(),
            v1_tcp6(),
            v2_tcp4(),
            v2_tcp6(),
            b"PROXY UNKNOWN\r\n".to_vec(),
        ] {
            let mut client = Client::new(daemon.tcp4());
            client.send([&header[..], request(1, &[]).as_bytes()].concat());
            let response = client.receive();
            assert_eq!(
                (response.status, response.text().as_str()),
                (400, "400 Bad Request\n")
            );
            assert_eq!(client.read_to_end(), b"");
        }
    }
    let daemon = Daemon::start(&["--proxy", "127.0.0.2", "--proxy-protocol"]);
    let mut client = Client::new(daemon.tcp4());
    assert_eq!(
        announced_as(&mut client, &[X_SPOOFED]),
        some("127.0.0.1"),
        "plain HTTP goes on"
    );
}
