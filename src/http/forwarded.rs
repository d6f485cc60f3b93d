//! Who sent a request that came through proxies: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Every proxy appends the address that it was connected from. So the list is true from its right end
//! to the first entry that is no proxy of ours: that is the client, and what is left of it was written
//! by the client. An entry that cannot be read is neither believed nor passed over.

use super::request;
use crate::nets::{self, Net};
use crate::proto::find;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest address in quotes, with its port, brackets and escapes taken off.
const LONGEST_NODE: usize = 64;

/// Whom a list names, read from left to right: the last entry that is no proxy's decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    /// There is no such list.
    Absent,
    /// Only proxies, or what cannot be read.
    Nobody,
    Client(IpAddr),
}

impl Named {
    /// Reads on: a hop's address, or none if it cannot be read.
    fn add(&mut self, hop: Option<IpAddr>, proxies: &[Net]) {
        *self = match (hop, *self) {
            (Some(address), Named::Absent) if nets::any_contains(proxies, address) => Named::Nobody,
            (Some(address), before) if nets::any_contains(proxies, address) => before,
            (Some(address), _) => Named::Client(address.to_canonical()),
            (None, _) => Named::Nobody,
        };
    }
}

/// The client that the head of a request names, where the request comes from a proxy. Where there are
/// both headers they must agree: a proxy that writes one may hand on the other as the client wrote it.
pub fn client(head: &[u8], proxies: &[Net]) -> Option<IpAddr> {
    let (mut old, mut new) = (Named::Absent, Named::Absent);
    for line in request::headers(head) {
        if !matches!(line.first(), Some(b'X' | b'x' | b'F' | b'f')) {
            continue;
        }
        let Some((name, value)) = find(line, b':').and_then(|colon| line.split_at_checked(colon))
        else {
            continue;
        };
        let mut rest = value.get(1..);
        if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            while let Some(entry) = piece(&mut rest, b',', false) {
                old.add(x_forwarded_for(entry), proxies);
            }
        } else if name.eq_ignore_ascii_case(b"forwarded") {
            while let Some(element) = piece(&mut rest, b',', true) {
                new.add(forwarded(element), proxies);
            }
        }
    }
    match (old, new) {
        (Named::Client(one), Named::Client(other)) => (one == other).then_some(one),
        (Named::Client(client), Named::Absent) | (Named::Absent, Named::Client(client)) => {
            Some(client)
        }
        _ => None,
    }
}

/// Takes what comes before the next separator, or all; none once everything is taken. Separators within
/// quotes are none, if there are quotes; one that is not closed reaches to the end.
fn piece<'a>(rest: &mut Option<&'a [u8]>, separator: u8, with_quotes: bool) -> Option<&'a [u8]> {
    let text = (*rest)?;
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = text.iter().position(|&byte| {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && byte == b'\\' {
            is_escaped = true;
        } else if with_quotes && byte == b'"' {
            is_quoted = !is_quoted;
        }
        byte == separator && !is_quoted
    });
    let (piece, after) = text.split_at(end.unwrap_or(text.len()));
    *rest = after.get(1..);
    Some(request::trim(piece))
}

/// An entry of `X-Forwarded-For`: an address, with a port or not; brackets matter with a port only.
fn x_forwarded_for(entry: &[u8]) -> Option<IpAddr> {
    v6(entry).or_else(|| node(entry))
}

/// An element of `Forwarded`: `for=192.0.2.1;by=198.51.100.2;proto=http`.
fn forwarded(element: &[u8]) -> Option<IpAddr> {
    let mut rest = Some(element);
    let mut named = None;
    while let Some(pair) = piece(&mut rest, b';', true) {
        let (name, value) = pair.split_at_checked(find(pair, b'=')?)?;
        if name.eq_ignore_ascii_case(b"for") {
            let mut room = [0; LONGEST_NODE];
            let address = node(unquote(value.get(1..)?, &mut room)?)?;
            if named.replace(address).is_some() {
                return None;
            }
        }
    }
    named
}

/// A token as it is, and what a quoted string stands for (RFC 9110, 5.6.4).
fn unquote<'a>(value: &'a [u8], room: &'a mut [u8; LONGEST_NODE]) -> Option<&'a [u8]> {
    let Some(quoted) = value.strip_prefix(b"\"") else {
        return Some(value);
    };
    let mut bytes = quoted.strip_suffix(b"\"")?.iter();
    let mut length = 0;
    while let Some(&byte) = bytes.next() {
        *room.get_mut(length)? = match byte {
            b'"' => return None,
            b'\\' => *bytes.next()?,
            byte => byte,
        };
        length += 1;
    }
    room.get(..length)
}

/// RFC 7239's node, if it is an address and not `unknown` or a name made up: IPv6 in brackets, and both
/// with a port or without. Where a port must be quoted is not insisted on.
fn node(text: &[u8]) -> Option<IpAddr> {
    let (address, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let (address, port) = rest.split_at_checked(find(rest, b']')?)?;
            (v6(address)?, port.get(1..)?)
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

/// Nothing, a colon and a number, or a colon and a made-up name, `_` and what may follow it.
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', b'_', name @ ..] => {
            let may_be_in = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
            !name.is_empty() && name.iter().all(may_be_in)
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
    use crate::random::Random;

    /// Whom these header lines name, where 10/8 and 2001:db8:ffff::/48 are proxies.
    fn named(lines: &[&str]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|net| Net::parse(net).expect(net));
        let head = format!(
            "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n",
            lines.join("\r\n")
        );
        client(head.as_bytes(), &proxies).map(|address| address.to_string())
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
    fn the_right_most_that_is_no_proxy_is_the_client() {
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
    fn addresses_come_with_ports_brackets_and_quotes() {
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
    fn what_cannot_be_read_names_nobody_and_hides_what_is_left_of_it() {
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
    fn only_proxies_or_nothing_name_nobody() {
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
    fn no_truncation_or_mutation_does_harm() {
        let proxies = [Net::parse("10.0.0.0/8").expect("a net")];
        let good = b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1, [2001:db8::1]:80, 10.1.1.1\r\n\
            Forwarded: for=unknown, for=\"[2001:db8::1]:_x\";by=\"a\\\"b\", for=10.1.1.1\r\n\r\n";
        for length in 0..=good.len() {
            let _ = client(&good[..length], &proxies);
        }
        assert!(client(good, &proxies).is_some());
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
            let _ = client(&head, &proxies);
        }
    }
}
