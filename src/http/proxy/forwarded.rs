//! The client of a request that came through proxies: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Every proxy appends the address that it was connected from. So the list is true from its right end to the first
//! entry that is not one of our proxies. That entry is the client; the client may have written all that is left of it.
//! An entry that cannot be parsed is neither believed nor skipped. Another header that the admin names, such as
//! `X-Real-IP`, is read as `X-Forwarded-For` is, and instead of both.

use super::Client;
use crate::base::nets::{self, Net};
use crate::http::request;
use crate::protocol::{find, split_at_byte};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest address in quotes, with port and brackets, after escapes are resolved.
const MAX_NODE_BYTES: usize = 64;

/// Reads the address in an entry of a list.
type Parser = fn(&[u8]) -> Option<IpAddr>;

/// Headers of proxies that clients do not send, besides those that begin with [`X_FORWARDED`].
const OF_PROXIES: [&str; 6] = [
    "Forwarded",
    "Via",
    "X-Real-IP",
    "X-Client-IP",
    "CF-Connecting-IP",
    "True-Client-IP",
];

const X_FORWARDED: &[u8] = b"X-Forwarded-";

/// Whether a proxy wrote one of these header lines. `header`: the name of one more header by which it names clients.
pub fn is_forwarded(lines: &[u8], header: &str) -> bool {
    let of_proxies = OF_PROXIES.iter().chain([&header]);
    // The empty line at the end has an empty name.
    let mut fields = request::fields(lines).filter(|(name, _)| !name.is_empty());
    fields.any(|(name, _)| {
        let start = name.get(..X_FORWARDED.len()).unwrap_or_default();
        let mut known = of_proxies.clone().map(|known| known.as_bytes());
        start.eq_ignore_ascii_case(X_FORWARDED) || known.any(|k| name.eq_ignore_ascii_case(k))
    })
}

/// The client that these header lines of a proxy's request name: in `header`, or if that is empty in the two that are
/// standard. If both of these are there, they must agree: a proxy that writes one may pass on the other as the client
/// wrote it.
pub fn client(lines: &[u8], header: &str, proxies: &[Net]) -> Client {
    // None before the first entry. Then the client as far as the list is read.
    let (mut old, mut new): (Option<Client>, Option<Client>) = (None, None);
    for (name, value) in request::fields(lines) {
        let is_new = name.eq_ignore_ascii_case(b"forwarded");
        let is_read = match header {
            "" => is_new || name.eq_ignore_ascii_case(b"x-forwarded-for"),
            header => name.eq_ignore_ascii_case(header.as_bytes()),
        };
        let (client, parse): (_, Parser) = match is_new {
            _ if !is_read => continue,
            true => (&mut new, forwarded),
            false => (&mut old, x_forwarded_for),
        };
        for entry in parts(value, b',', is_new) {
            *client = Some(match parse(entry) {
                Some(address) if nets::any_contains(proxies, address) => {
                    client.unwrap_or(Client::Proxy(address.to_canonical()))
                }
                Some(address) => Client::Named(address.to_canonical()),
                None => Client::Unknown,
            });
        }
    }
    match (old, new) {
        (Some(one), Some(other)) if one != other => Client::Unknown,
        (client, None) | (_, client) => client.unwrap_or_default(),
    }
}

/// The text between separators, trimmed. If it `has_quotes`, separators within them do not count; one that is not
/// closed reaches to the end.
fn parts(text: &[u8], separator: u8, has_quotes: bool) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && byte == b'\\' {
            is_escaped = true;
        } else if has_quotes && byte == b'"' {
            is_quoted = !is_quoted;
        }
        byte == separator && !is_quoted
    });
    parts.map(request::trim)
}

/// An entry of `X-Forwarded-For`: an address, with or without a port. IPv6 needs brackets only with a port.
fn x_forwarded_for(entry: &[u8]) -> Option<IpAddr> {
    v6(entry).or_else(|| node(entry))
}

/// An element of `Forwarded`: `for=192.0.2.1;by=198.51.100.2;proto=http`.
fn forwarded(element: &[u8]) -> Option<IpAddr> {
    let mut client = None;
    for pair in parts(element, b';', true) {
        let (name, value) = split_at_byte(pair, b'=');
        let value = value?;
        if name.eq_ignore_ascii_case(b"for") {
            let address = node(unquote(value, &mut [0; MAX_NODE_BYTES])?)?;
            if client.replace(address).is_some() {
                return None;
            }
        }
    }
    client
}

/// The value of a token or a quoted string (RFC 9110, 5.6.4).
fn unquote<'a>(value: &'a [u8], buffer: &'a mut [u8; MAX_NODE_BYTES]) -> Option<&'a [u8]> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        return Some(value);
    };
    let mut bytes = quoted.strip_suffix(b"\"")?.iter();
    let mut length = 0;
    while let Some(&byte) = bytes.next() {
        *buffer.get_mut(length)? = match byte {
            b'"' => return None,
            b'\\' => *bytes.next()?,
            byte => byte,
        };
        length += 1;
    }
    buffer.get(..length)
}

/// RFC 7239's node, if it is an address and not `unknown` or an invented name: IPv4, or IPv6 in brackets, with or
/// without a port. The quotes that a port requires may be missing.
fn node(text: &[u8]) -> Option<IpAddr> {
    let (address, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let (address, port) = split_at_byte(rest, b']');
            (v6(address)?, port?)
        }
        None => {
            let colon = find(text, b':').unwrap_or(text.len());
            let (address, port) = text.split_at_checked(colon)?;
            let address: Ipv4Addr = std::str::from_utf8(address).ok()?.parse().ok()?;
            (IpAddr::V4(address), port)
        }
    };
    is_port(port).then_some(address)
}

fn v6(text: &[u8]) -> Option<IpAddr> {
    let address: Ipv6Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(IpAddr::V6(address))
}

/// Nothing, or a colon with a number or an invented name, which begins with `_`.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', b'_', name @ ..] => {
            let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
            !name.is_empty() && name.iter().all(is_allowed)
        }
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    /// The client that these header lines name, where 10/8 and 2001:db8:ffff::/48 are proxies.
    fn named(lines: &[&str]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|net| Net::parse(net).expect(net));
        let lines = format!("Host: x\r\n{}\r\n\r\n", lines.join("\r\n"));
        let client = client(lines.as_bytes(), "", &proxies);
        client.address().map(|address| address.to_string())
    }

    fn x(list: &str) -> Option<String> {
        named(&[&format!("X-Forwarded-For: {list}")])
    }

    fn f(list: &str) -> Option<String> {
        named(&[&format!("Forwarded: {list}")])
    }

    fn some(address: &str) -> Option<String> {
        Some(address.into())
    }

    #[test]
    fn rightmost_address_that_is_not_a_proxy_is_the_client() {
        for list in [
            "192.0.2.1",
            "192.0.2.1, 10.0.0.1",
            "192.0.2.1,10.0.0.1,\t10.255.0.1 , 2001:db8:ffff::7",
            "6.6.6.6, 192.0.2.1",
            "6.6.6.6, 7.7.7.7, 192.0.2.1, 10.0.0.1",
            "nonsense, , 192.0.2.1, 10.0.0.1",
            "10.0.0.1, 192.0.2.1",
            "192.0.2.1, ::ffff:10.0.0.1",
            "::ffff:192.0.2.1",
        ] {
            assert_eq!(x(list), some("192.0.2.1"), "{list}");
        }
        for list in [
            "for=192.0.2.1",
            "for=6.6.6.6, for=192.0.2.1;proto=http;by=203.0.113.43, FOR=10.0.0.1",
            "for=unknown, for=192.0.2.1",
            "by=10.0.0.1;for=192.0.2.1 , for=\"[2001:db8:ffff::1]:80\"",
            "for=192.0.2.1;ext=\"a,b;for=6.6.6.6\\\",for=7.7.7.7\", for=10.0.0.1",
        ] {
            assert_eq!(f(list), some("192.0.2.1"), "{list}");
        }
    }

    #[test]
    fn ports_brackets_and_quotes_are_accepted() {
        for entry in ["192.0.2.1:4711", "192.0.2.1:0", "192.0.2.1:_a.b-c"] {
            assert_eq!(x(entry), some("192.0.2.1"), "{entry}");
            assert_eq!(f(&format!("for=\"{entry}\"")), some("192.0.2.1"), "{entry}");
            assert_eq!(f(&format!("for={entry}")), some("192.0.2.1"), "{entry}");
        }
        for entry in ["[2001:db8::1]", "[2001:db8::1]:4711", "[2001:DB8:0::1]:_x"] {
            assert_eq!(x(entry), some("2001:db8::1"), "{entry}");
            assert_eq!(
                f(&format!("for=\"{entry}\"")),
                some("2001:db8::1"),
                "{entry}"
            );
        }
        assert_eq!(x("2001:db8::1"), some("2001:db8::1"));
        assert_eq!(f("for=\"192.0.2.\\1\""), some("192.0.2.1"));
    }

    #[test]
    fn invalid_entry_hides_all_entries_to_its_left() {
        for entry in [
            "",
            "unknown",
            "localhost",
            "192.0.2",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:123456",
            "192.0.2.1:_",
            "192.0.2.1:_a/b",
            "192.0.2.256",
            "192.0.2.01",
            "192.0.2.1 6.6.6.6",
            "[2001:db8::1",
            "[2001:db8::1]x",
            "[192.0.2.1]",
            "2001:db8::1]",
            "fe80::1%eth0",
            "\"192.0.2.1\"",
            "unix:",
            "\u{ff}",
        ] {
            for list in [
                entry.to_string(),
                format!("6.6.6.6, {entry}"),
                format!("6.6.6.6, {entry}, 10.0.0.1"),
            ] {
                assert_eq!(x(&list), None, "{list}");
            }
        }
    }

    #[test]
    fn invalid_element_hides_all_elements_to_its_left() {
        for element in [
            "",
            "for=unknown",
            "for=_hidden",
            "for=",
            "for",
            "=192.0.2.1",
            "192.0.2.1",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=2001:db8::1",
            "for=\"2001:db8::1\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=\"192.0.2.1\"x",
            "for=\"192.0.2.1\\\"",
            "for=\"192.0.2.1\"\"",
            "for=192.0.2.1;",
            "for=192.0.2.1;proto",
            "for=192.0.2.1;for=192.0.2.1",
            "by=192.0.2.1",
            "for=\"0000000000000000000000000000000000000000000000000000000000000000192.0.2.1\"",
        ] {
            for list in [
                element.to_string(),
                format!("for=6.6.6.6, {element}"),
                format!("for=6.6.6.6, {element}, for=10.0.0.1"),
            ] {
                assert_eq!(f(&list), None, "{list}");
            }
        }
        assert_eq!(f("for=\"6.6.6.6, for=192.0.2.1"), None, "within a quote");
    }

    #[test]
    fn list_of_proxies_alone_names_no_client() {
        assert_eq!(named(&[]), None);
        assert_eq!(x("10.0.0.1"), None);
        assert_eq!(x("10.0.0.1, 10.0.0.2"), None);
        assert_eq!(f("for=10.0.0.1"), None);
        assert_eq!(named(&["X-Forwarded-Fo: 192.0.2.1"]), None);
        assert_eq!(named(&["X-Forwarded-For 192.0.2.1"]), None);
        assert_eq!(named(&["X-Real-IP: 192.0.2.1", "From: 192.0.2.1"]), None);
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [
            "x-forwarded-for: 6.6.6.6",
            "Via: x",
            "X-FORWARDED-FOR: 192.0.2.1",
        ];
        assert_eq!(named(&lines), some("192.0.2.1"));
        let lines = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.1"];
        assert_eq!(named(&lines), some("192.0.2.1"));
        let lines = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: x"];
        assert_eq!(named(&lines), None);
        let lines = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For:"];
        assert_eq!(named(&lines), None);
        let lines = [
            "Forwarded: for=6.6.6.6",
            "forwarded: for=192.0.2.1, for=10.1.1.1",
        ];
        assert_eq!(named(&lines), some("192.0.2.1"));
        let lines = ["Forwarded: for=\"6.6.6.6", "Forwarded: for=192.0.2.1"];
        assert_eq!(
            named(&lines),
            some("192.0.2.1"),
            "a quote ends with its line"
        );
    }

    #[test]
    fn both_headers_must_agree() {
        let both = |old: &str, new: &str| {
            named(&[
                &format!("X-Forwarded-For: {old}"),
                &format!("Forwarded: {new}"),
            ])
        };
        assert_eq!(both("192.0.2.1", "for=192.0.2.1"), some("192.0.2.1"));
        assert_eq!(
            both("192.0.2.1, 10.1.1.1", "for=192.0.2.1"),
            some("192.0.2.1")
        );
        assert_eq!(both("192.0.2.1", "for=6.6.6.6"), None);
        assert_eq!(both("192.0.2.1", "for=unknown"), None);
        assert_eq!(both("192.0.2.1", "for=10.0.0.1"), None);
        assert_eq!(both("x", "for=192.0.2.1"), None);
    }

    #[test]
    fn header_of_the_admin_is_read_instead_of_both() {
        let proxies = [Net::parse("10.0.0.0/8").expect("a net")];
        let named = |header, lines: &str| client(lines.as_bytes(), header, &proxies);
        let [client, proxy] = ["192.0.2.1", "10.0.0.1"].map(|a| a.parse().expect("an address"));
        for (header, lines, expected) in [
            (
                "X-Real-IP",
                "x-real-ip: 192.0.2.1\r\n",
                Client::Named(client),
            ),
            (
                "X-Real-IP",
                "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: [::ffff:192.0.2.1]:80\r\nForwarded: for=7.7.7.7\r\n",
                Client::Named(client),
            ),
            (
                "CF-Connecting-IP",
                "X-Real-IP: 192.0.2.1\r\n",
                Client::Unknown,
            ),
            (
                "X-Real-IP",
                "X-Real-IP: 6.6.6.6\r\nX-Real-IP: 192.0.2.1\r\n",
                Client::Named(client),
            ),
            (
                "X-Real-IP",
                "X-Real-IP: 6.6.6.6\r\nX-Real-IP:\r\n",
                Client::Unknown,
            ),
            ("X-Real-IP", "X-Real-IP: 10.0.0.1\r\n", Client::Proxy(proxy)),
            (
                "forwarded",
                "Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 6.6.6.6\r\n",
                Client::Named(client),
            ),
            (
                "",
                "X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n",
                Client::Proxy(proxy),
            ),
            ("", "X-Forwarded-For: x, 10.0.0.2\r\n", Client::Unknown),
            (
                "",
                "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=192.0.2.1\r\n",
                Client::Unknown,
            ),
        ] {
            assert_eq!(named(header, lines), expected, "{header}: {lines}");
        }
    }

    #[test]
    fn request_of_a_proxy_is_known_by_its_headers() {
        for name in
            OF_PROXIES
                .iter()
                .chain(&["X-Forwarded-For", "x-forwarded-proto", "Fly-Client-IP"])
        {
            let lines = format!("Host: x\r\n{name}: y\r\n\r\n");
            assert!(is_forwarded(lines.as_bytes(), "fly-client-ip"), "{name}");
        }
        for lines in [
            "\r\n",
            "Host: x\r\nUser-Agent: curl\r\nX-Forwarded: no\r\nFly-Client-IP: y\r\n\r\n",
        ] {
            assert!(!is_forwarded(lines.as_bytes(), ""), "{lines}");
        }
    }

    #[test]
    fn parser_survives_truncated_and_mutated_heads() {
        let proxies = [Net::parse("10.0.0.0/8").expect("a net")];
        let good = b"X-Forwarded-For: 192.0.2.1, [2001:db8::1]:80, 10.1.1.1\r\n\
            Forwarded: for=unknown, for=\"[2001:db8::1]:_x\";by=\"a\\\"b\", for=10.1.1.1\r\n\r\n";
        for length in 0..=good.len() {
            let _ = client(&good[..length], "", &proxies);
        }
        assert!(client(good, "", &proxies).address().is_some());
        let mut random = Random::seeded(71);
        for _ in 0..100_000 {
            let mut head = good.to_vec();
            for _ in 0..=random.below(5) {
                let at = random.below(head.len());
                match random.below(3) {
                    0 => head[at] = random.draw() as u8,
                    1 => head[at] = b" \r\n:;,=\"\\[]"[random.below(11)],
                    _ => drop(head.remove(at)),
                }
            }
            let _ = client(&head, "", &proxies);
        }
    }
}
