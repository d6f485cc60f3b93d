//! PROXY headers, versions 1 and 2.

use super::common::Daemon;
use super::common::http::Client;
use super::{SPOOFED, announced_as, external_ip, request, with_headers};
use std::io::{ErrorKind, Read};
use std::net::Shutdown;

/// Connections from 127.0.0.1 must begin with a PROXY header. 192.0.2.99 is another proxy.
fn start() -> Daemon {
    let flags = "--proxy 127.0.0.0/8 --proxy 192.0.2.99 --proxy-protocol -r http://x.example/";
    Daemon::start(&flags.split(' ').collect::<Vec<_>>())
}

/// A connection that has sent this.
fn connect(daemon: &Daemon, bytes: impl AsRef<[u8]>) -> Client {
    let mut client = Client::new(daemon.tcp4());
    client.send(bytes);
    client
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("is short").to_be_bytes();
    let kind = [command, family];
    [b"\r\n\r\n\0\r\nQUIT\n", &kind[..], &length, rest].concat()
}

/// Headers and their sources.
fn headers() -> [(Vec<u8>, &'static str); 4] {
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x1b, 0x39];
    // A field to skip.
    let extra = [0x04, 0x00, 0x04, b'n', b'o', b'o', b'p'];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(b"\x20\x01\x0d\xb8");
    v6[15] = 7;
    let [tcp4, tcp6] = [
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 6969\r\n",
        "PROXY TCP6 2001:db8::7 2001:db8::1 4711 6969\r\n",
    ];
    [
        (tcp4.into(), "192.0.2.7"),
        (tcp6.into(), "2001:db8::7"),
        (v2(0x21, 0x11, &[&v4[..], &extra].concat()), "192.0.2.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::7"),
    ]
}

#[test]
fn source_is_the_client_of_the_whole_connection() {
    let daemon = start();
    for (header, source) in headers() {
        // Together with the first request, before it, and byte by byte.
        let whole = [&header[..], request(2, "").as_bytes()].concat();
        let mut client = connect(&daemon, &whole);
        assert_eq!(external_ip(&client.receive()), source);
        for headers in ["", SPOOFED, "Forwarded: x"] {
            assert_eq!(announced_as(&mut client, headers), source);
        }
        let mut client = connect(&daemon, &header);
        assert_eq!(announced_as(&mut client, SPOOFED), source);
        let mut client = connect(&daemon, b"");
        for byte in whole {
            client.send([byte]);
        }
        assert_eq!(external_ip(&client.receive()), source);
    }
    let mut client = connect(&daemon, &headers()[0].0);
    let peers = client.request(request(9, "")).peers();
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let expected = "192.0.2.7:2 192.0.2.7:6881 [2001:db8::7]:2 [2001:db8::7]:6881";
    assert_eq!(peers.join(" "), expected);
}

#[test]
fn connection_without_a_source_may_do_all_but_announce() {
    let daemon = start();
    for header in [
        b"PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(),
        v2(0x20, 0x11, &[1; 12]),
        v2(0x20, 0x00, &[0; 8000]),
    ] {
        let mut client = connect(&daemon, &header);
        assert_eq!(announced_as(&mut client, SPOOFED), "400", "{header:?}");
        let scrape = "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa";
        assert_eq!(client.request(with_headers(scrape, "")).status, 200);
        assert_eq!(client.request(with_headers("/", "")).status, 302);
    }
}

#[test]
fn source_that_is_a_proxy_names_its_clients_in_headers() {
    let daemon = start();
    let mut client = connect(&daemon, "PROXY TCP4 192.0.2.99 198.51.100.1 4711 6969\r\n");
    for (headers, source) in [
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.5", "192.0.2.5"),
        ("Forwarded: for=192.0.2.6", "192.0.2.6"),
        ("", "400 192.0.2.99"),
    ] {
        assert_eq!(announced_as(&mut client, headers), source);
    }
}

#[test]
fn connection_without_a_valid_header_is_closed_without_a_reply() {
    let daemon = start();
    let mut too_long = v2(0x20, 0x00, &[]);
    too_long[14] = 0x20;
    for bytes in [
        request(1, "X-Forwarded-For: 192.0.2.1").into_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
        v2(0x21, 0x11, &[0; 11]),
        too_long,
    ] {
        let client = connect(&daemon, &bytes);
        let read = client.stream().read(&mut [0]);
        let is_closed = match &read {
            Ok(count) => *count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(is_closed, "{read:?} after {bytes:?}");
    }
    for (header, _) in headers() {
        let mut truncated = connect(&daemon, &header[..header.len() - 1]);
        let end = truncated.stream().shutdown(Shutdown::Write);
        end.expect("is open");
        assert_eq!(truncated.read_to_end(), b"");
    }
}

#[test]
fn header_of_a_client_that_is_not_a_proxy_is_a_bad_request() {
    for flags in ["--proxy 127.0.0.1", "--proxy 127.0.0.2 --proxy-protocol"] {
        let daemon = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
        for (header, _) in headers() {
            let mut client = connect(&daemon, [&header[..], request(1, "").as_bytes()].concat());
            assert_eq!(client.receive().text(), "400 Bad Request\n");
            assert_eq!(client.read_to_end(), b"");
        }
    }
    let daemon = Daemon::start(&["--proxy", "127.0.0.2", "--proxy-protocol"]);
    let mut client = Client::new(daemon.tcp4());
    assert_eq!(announced_as(&mut client, SPOOFED), "127.0.0.1");
}
