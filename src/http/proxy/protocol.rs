//! The PROXY header that a proxy sends ahead of a connection that it relays, versions 1 and 2: haproxy's
//! `doc/proxy-protocol.txt`.

use crate::http::request::Invalid;
use crate::protocol::find;
use std::net::IpAddr;

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, with its end of line.
const MAX_V1_BYTES: usize = 107;

/// At most this many bytes follow the first 16 of version 2: addresses, and fields that are skipped.
const MAX_V2_BYTES: usize = 8 * 1024 - 16;

/// Takes the header off the front of a connection's input. Returns the client; none if the proxy does not know it, or
/// has made the connection itself.
pub fn take_header(input: &mut &[u8]) -> Result<Option<IpAddr>, Invalid> {
    let begins_with = |start: &[u8]| input.iter().zip(start).all(|(a, b)| a == b);
    let (source, length) = if begins_with(SIGNATURE) {
        version_2(input)?
    } else if begins_with(b"PROXY ") {
        version_1(input)?
    } else {
        return Err(Invalid::Malformed);
    };
    *input = input.get(length..).unwrap_or_default();
    Ok(source.map(|address| address.to_canonical()))
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 4711 6969`. Returns the source and the length of the header.
fn version_1(bytes: &[u8]) -> Result<(Option<IpAddr>, usize), Invalid> {
    let window = bytes.get(..MAX_V1_BYTES).unwrap_or(bytes);
    let Some(end) = find(window, b'\n') else {
        return Err(match bytes.len() < MAX_V1_BYTES {
            true => Invalid::Incomplete,
            false => Invalid::TooLong,
        });
    };
    let line = String::from_utf8_lossy(&window[..end]);
    let words = line
        .strip_prefix("PROXY ")
        .and_then(|line| line.strip_suffix('\r'));
    let mut words = words.ok_or(Invalid::Malformed)?.split(' ');
    let source = match words.next().unwrap_or_default() {
        "UNKNOWN" => None,
        family => Some(relayed(family, words).ok_or(Invalid::Malformed)?),
    };
    Ok((source, end + 1))
}

/// The source of a connection from its family and, in this order, source, destination and their ports.
fn relayed<'a>(family: &str, mut words: impl Iterator<Item = &'a str>) -> Option<IpAddr> {
    let [source, destination] = [words.next()?, words.next()?].map(str::parse::<IpAddr>);
    let addresses = [source.ok()?, destination.ok()?];
    let is_v4 = family == "TCP4";
    let is_valid = (is_v4 || family == "TCP6")
        && addresses.iter().all(|ip| ip.is_ipv4() == is_v4)
        && is_port(words.next()?)
        && is_port(words.next()?)
        && words.next().is_none();
    is_valid.then_some(addresses[0])
}

/// A number up to 65535 without leading zeros.
fn is_port(text: &str) -> bool {
    text.parse::<u16>()
        .is_ok_and(|port| port.to_string() == text)
}

/// Signature, version and command, family and protocol, length; then as many bytes as that: source, destination,
/// their ports, and fields that are skipped.
fn version_2(bytes: &[u8]) -> Result<(Option<IpAddr>, usize), Invalid> {
    let Some((&[.., command, family, high, low], rest)) = bytes.split_first_chunk::<16>() else {
        return Err(Invalid::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2_BYTES {
        return Err(Invalid::TooLong);
    }
    let min = match (command, family) {
        // The proxy's own connection, whatever family it names.
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        // From a Unix socket: two paths.
        (0x21, 0x31) => 216,
        _ => return Err(Invalid::Malformed),
    };
    if length < min {
        return Err(Invalid::Malformed);
    }
    let addresses = rest.get(..length).ok_or(Invalid::Incomplete)?;
    let source = match min {
        12 => addresses.first_chunk::<4>().map(|&ip| IpAddr::from(ip)),
        36 => addresses.first_chunk::<16>().map(|&ip| IpAddr::from(ip)),
        _ => None,
    };
    Ok((source, 16 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::net::Ipv6Addr;

    /// The source of the header at the front of these bytes, and the length of the header.
    fn parse(bytes: &[u8]) -> Result<(Option<IpAddr>, usize), Invalid> {
        let mut rest = bytes;
        let source = take_header(&mut rest)?;
        Ok((source, bytes.len() - rest.len()))
    }

    fn header(source: &str, length: usize) -> Result<(Option<IpAddr>, usize), Invalid> {
        let source = (!source.is_empty()).then(|| source.parse().expect("an address"));
        Ok((source, length))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("is short").to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    /// Source, destination and ports, of as many bytes as addresses of the family have.
    fn pair(source: &[u8]) -> Vec<u8> {
        [source, &vec![9; source.len()], &[0x12, 0x67, 0x1b, 0x39]].concat()
    }

    #[test]
    fn version_1_headers_are_parsed() {
        for (text, source) in [
            ("TCP4 192.0.2.1 198.51.100.1 4711 6969", "192.0.2.1"),
            (
                "TCP4 255.255.255.255 255.255.255.255 65535 65535",
                "255.255.255.255",
            ),
            ("TCP6 2001:db8::1 2001:db8::2 0 6969", "2001:db8::1"),
            ("TCP6 ::ffff:192.0.2.1 ::1 1 2", "192.0.2.1"),
            (
                "TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 65535 65535",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
            ("UNKNOWN", ""),
            ("UNKNOWN anything at \u{ff}all", ""),
            (
                "UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 65535 65535",
                "",
            ),
        ] {
            let text = format!("PROXY {text}\r\n");
            assert_eq!(parse(text.as_bytes()), header(source, text.len()), "{text}");
            let more = format!("{text}GET / HTTP/1.1\r\n\r\n");
            assert_eq!(parse(more.as_bytes()), header(source, text.len()));
        }
    }

    #[test]
    fn version_1_has_at_most_107_bytes() {
        let text = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(text.len(), MAX_V1_BYTES);
        assert_eq!(parse(text.as_bytes()), header("", MAX_V1_BYTES));
        let text = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(parse(text.as_bytes()), Err(Invalid::TooLong));
        assert_eq!(parse(&text.as_bytes()[..106]), Err(Invalid::Incomplete));
        assert_eq!(parse(&text.as_bytes()[..107]), Err(Invalid::TooLong));
    }

    #[test]
    fn version_2_headers_are_parsed() {
        let v4 = pair(&[192, 0, 2, 1]);
        let v6 = pair(
            &"2001:db8::1"
                .parse::<Ipv6Addr>()
                .expect("an address")
                .octets(),
        );
        let extra = [0x04, 0x00, 0x03, 1, 2, 3];
        for (bytes, source) in [
            (v2(0x21, 0x11, &v4), "192.0.2.1"),
            (v2(0x21, 0x11, &[&v4[..], &extra].concat()), "192.0.2.1"),
            (v2(0x21, 0x21, &v6), "2001:db8::1"),
            (v2(0x21, 0x21, &[&v6[..], &extra].concat()), "2001:db8::1"),
            (v2(0x21, 0x00, &[]), ""),
            (v2(0x21, 0x00, &extra), ""),
            (v2(0x21, 0x31, &[b'/'; 216]), ""),
            (v2(0x20, 0x00, &[]), ""),
            (v2(0x20, 0x11, &v4), ""),
            (v2(0x20, 0x77, &extra), ""),
            (v2(0x20, 0x00, &vec![0; MAX_V2_BYTES]), ""),
        ] {
            assert_eq!(parse(&bytes), header(source, bytes.len()));
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&more), header(source, bytes.len()));
        }
    }

    #[test]
    fn truncated_header_is_incomplete() {
        for text in [
            b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 6969\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(
                0x21,
                0x11,
                &[&pair(&[192, 0, 2, 1])[..], &[4, 0, 1, 0]].concat(),
            ),
            v2(0x21, 0x21, &pair(&[2; 16])),
            v2(0x20, 0x00, &[]),
        ] {
            for length in 0..text.len() {
                assert_eq!(parse(&text[..length]), Err(Invalid::Incomplete), "{length}");
            }
            assert!(parse(&text).is_ok());
        }
    }

    #[test]
    fn invalid_header_is_malformed() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "PROXX",
            "proxy UNKNOWN\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
            "PROXY TCP4 192.0.2.1 2001:db8::1 1 2\r\n",
            "PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 2001:db8::1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{text}");
        }
        let short = pair(&[192, 0, 2, 1]);
        for bytes in [
            v2(0x11, 0x11, &short),
            v2(0x31, 0x11, &short),
            v2(0x22, 0x11, &short),
            v2(0x21, 0x12, &short),
            v2(0x21, 0x41, &short),
            v2(0x21, 0x13, &short),
            v2(0x21, 0x11, &short[..11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
        ] {
            assert_eq!(parse(&bytes), Err(Invalid::Malformed), "{bytes:?}");
        }
        let long = v2(0x20, 0x00, &vec![0; MAX_V2_BYTES + 1]);
        assert_eq!(parse(&long), Err(Invalid::TooLong));
        assert_eq!(parse(b"\r\n\r\nGET"), Err(Invalid::Malformed));
    }

    #[test]
    fn parser_survives_mutated_headers() {
        let good = [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 6969\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
            v2(0x21, 0x11, &pair(&[192, 0, 2, 1])),
        ];
        let mut random = Random::seeded(72);
        for _ in 0..100_000 {
            let mut bytes = good[random.below(2)].clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(2) {
                    0 => bytes[at] = random.draw() as u8,
                    _ => drop(bytes.remove(at)),
                }
            }
            let _ = parse(&bytes);
        }
    }
}
