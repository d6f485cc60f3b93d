//! Query strings of announces and scrapes over HTTP (BEP 3, 48).
//!
//! Published torrents and old clients cannot change, so the parser accepts all that it can make sense of. Only an
//! invalid `info_hash` or `port` is an error. A client without a port announces port 0: it cannot be connected to.

use super::{DEFAULT_NUMWANT, find, hex_byte, split_at_byte};
use crate::base::addresses::Named;
use crate::tracker::{Announce, Event, InfoHash, Peer, Role};
use std::net::{IpAddr, Ipv6Addr};

/// A failure reason, which clients show to their users.
pub type FailureReason = &'static str;

const NO_INFO_HASH: FailureReason = "info_hash is missing: expected 20 bytes, percent-encoded";
const BAD_INFO_HASH: FailureReason = "invalid info_hash: expected 20 bytes, percent-encoded";
const TWO_INFO_HASHES: FailureReason = "info_hash is given twice: an announce is for one torrent";
const BAD_PORT: FailureReason = "invalid port: expected a number from 0 to 65535";

/// Parses an announce of a client at this address. `compact`, `no_peer_id`, `key` and all other parameters that are not
/// named here have no effect.
pub fn announce(query: &[u8], source: IpAddr) -> Result<Announce, FailureReason> {
    let mut info_hash = None;
    let mut port = 0;
    let mut left = None;
    let mut event = Event::None;
    let mut num_want = None;
    for (name, value) in parameters(query) {
        match name.decode(&mut [0; MAX_DECODED]) {
            Some(b"info_hash") if info_hash.is_some() => return Err(TWO_INFO_HASHES),
            Some(b"info_hash") => info_hash = Some(value.hash().ok_or(BAD_INFO_HASH)?),
            Some(b"port") => port = value.port().ok_or(BAD_PORT)?,
            Some(b"left") => left = value.number(),
            Some(b"event") => event = value.event(),
            Some(b"numwant") => num_want = value.number().and_then(|n| usize::try_from(n).ok()),
            _ => {}
        }
    }
    Ok(Announce {
        info_hash: info_hash.ok_or(NO_INFO_HASH)?,
        peer: Peer::new(source, port),
        role: Role::of_left(left),
        event,
        want: num_want.unwrap_or(DEFAULT_NUMWANT),
        hint: None,
    })
}

/// The addresses that an announce names for its client.
pub fn named(query: &[u8]) -> Named {
    let mut named = Named::default();
    for (name, value) in parameters(query) {
        match name.decode(&mut [0; MAX_DECODED]) {
            Some(b"ip") => named.ip = value.address(),
            Some(b"ipv4" | b"ipv6") => match value.address() {
                Some(v4 @ IpAddr::V4(_)) => named.v4 = Some(v4),
                Some(v6 @ IpAddr::V6(_)) => named.v6 = Some(v6),
                None => {}
            },
            _ => {}
        }
    }
    named
}

/// A guess at the info-hash of an announce, from the bytes of a request that is not parsed yet.
pub fn guess_hash(request: &[u8]) -> Option<InfoHash> {
    let (_, query) = split_at_byte(request, b'?');
    let (_, value) = parameters(query?).find(|(name, _)| name.0 == b"info_hash")?;
    value.hash()
}

/// The peer's id, which is decoded only to log completed downloads.
pub fn peer_id(query: &[u8]) -> Option<[u8; 20]> {
    let (_, value) = parameters(query).find(|(name, _)| name.0 == b"peer_id")?;
    value.hash()
}

/// Collects the info-hashes of a scrape, sorted and without repeats, as the bencoded reply needs them. No info-hash
/// asks for a full scrape.
pub fn scrape(query: &[u8], hashes: &mut Vec<InfoHash>) -> Result<(), FailureReason> {
    hashes.clear();
    for (name, value) in parameters(query) {
        if name.decode(&mut [0; MAX_DECODED]) == Some(b"info_hash") {
            let hash = value.hash().ok_or(BAD_INFO_HASH)?;
            if let Err(index) = hashes.binary_search(&hash) {
                hashes.insert(index, hash);
            }
        }
    }
    Ok(())
}

/// The first value of this name, decoded; empty if it cannot be decoded.
pub fn value(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let value = first(query, name)?;
    Some(value.collect::<Option<_>>().unwrap_or_default())
}

/// Whether this is the query of an announce or of the scrape of a torrent, valid or not.
pub fn names_torrent(query: &[u8]) -> bool {
    first(query, b"info_hash").is_some()
}

fn first<'a>(query: &'a [u8], name: &[u8]) -> Option<Encoded<'a>> {
    let is_it = |found: Encoded| found.decode(&mut [0; MAX_DECODED]) == Some(name);
    let (_, value) = parameters(query).find(|(found, _)| is_it(*found))?;
    Some(value)
}

/// The longest name or number that has a meaning is 2^64 in 20 digits.
const MAX_DECODED: usize = 24;

/// An IPv6 address whose last bytes are written as IPv4, in brackets.
const MAX_ADDRESS: usize = 47;

/// `name=value` pairs between ampersands. A name without `=` has an empty value.
pub(super) fn parameters(query: &[u8]) -> impl Iterator<Item = (Encoded<'_>, Encoded<'_>)> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        let query = rest?;
        let (mut pair, mut after) = split_at_byte(query, b'&');
        if let Some(at) = second_query(pair) {
            (pair, after) = (&pair[..at], query.get(at + 1..));
        }
        rest = after;
        let (name, value) = split_at_byte(pair, b'=');
        Some((Encoded(name), Encoded(value.unwrap_or_default())))
    })
}

/// Where a client appended its query, with the question mark, to the query of an announce URL. Any other question mark
/// is part of a value: clients that escape nothing send it in an info-hash.
fn second_query(pair: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"?info_hash=";
    let first = find(pair, b'?')?;
    let mut windows = pair.get(first..)?.windows(MARK.len());
    windows
        .position(|window| window == MARK)
        .map(|at| first + at)
}

/// Percent-encoded bytes, in either case. `+` is a space, as in form encoding. All others stand for themselves, 8-bit
/// bytes too.
#[derive(Clone, Copy)]
pub struct Encoded<'a>(pub &'a [u8]);

impl Iterator for Encoded<'_> {
    /// A byte; none for a `%` without two digits after it.
    type Item = Option<u8>;

    fn next(&mut self) -> Option<Option<u8>> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        match byte {
            b'%' => {}
            b'+' => return Some(Some(b' ')),
            _ => return Some(Some(byte)),
        }
        let Some((digits, rest)) = rest.split_first_chunk() else {
            return Some(None);
        };
        self.0 = rest;
        Some(hex_byte(*digits))
    }
}

impl Encoded<'_> {
    /// All bytes decoded; none if the buffer is too short or one is invalid.
    pub(super) fn decode<'a>(self, buffer: &'a mut [u8]) -> Option<&'a [u8]>
    where
        Self: 'a,
    {
        // Names and numbers are rarely encoded.
        let is_plain = |bytes| find(bytes, b'%').or(find(bytes, b'+')).is_none();
        if self.0.len() <= buffer.len() && is_plain(self.0) {
            return Some(self.0);
        }
        let mut length = 0;
        for byte in self {
            *buffer.get_mut(length)? = byte?;
            length += 1;
        }
        buffer.get(..length)
    }

    fn hash(self) -> Option<InfoHash> {
        self.decode(&mut [0; 20])?.try_into().ok()
    }

    fn number(self) -> Option<u64> {
        let mut buffer = [0; MAX_DECODED];
        let digits = self.decode(&mut buffer)?;
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .filter(|_| is_number)
    }

    fn port(self) -> Option<u16> {
        u16::try_from(self.number()?).ok()
    }

    /// An address literal. One of IPv6 may be in brackets, as in a URL.
    fn address(self) -> Option<IpAddr> {
        let mut buffer = [0; MAX_ADDRESS];
        let text = std::str::from_utf8(self.decode(&mut buffer)?).ok()?;
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let address: IpAddr = match inner {
            Some(v6) => v6.parse::<Ipv6Addr>().ok()?.into(),
            None => text.parse().ok()?,
        };
        Some(address.to_canonical())
    }

    fn event(self) -> Event {
        match self.decode(&mut [0; MAX_DECODED]) {
            Some(b"started") => Event::Started,
            Some(b"completed") => Event::Completed,
            Some(b"stopped") => Event::Stopped,
            _ => Event::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    const HASH: &str = "%124Vx%9a%BC%de%f1%23Eg%89%ab%cd%ef%124Vx%9a";
    const BYTES: InfoHash = *b"\x124Vx\x9a\xbc\xde\xf1#Eg\x89\xab\xcd\xef\x124Vx\x9a";

    const CLIENT: [u8; 4] = [192, 0, 2, 1];

    fn announce(query: &[u8]) -> Result<Announce, FailureReason> {
        super::announce(query, CLIENT.into())
    }

    fn parse(rest: &str) -> Result<Announce, FailureReason> {
        announce(format!("info_hash={HASH}&{rest}").as_bytes())
    }

    #[test]
    fn all_known_parameters_are_read() {
        let expected = Announce {
            info_hash: BYTES,
            peer: Peer::new(CLIENT.into(), 6881),
            role: Role::Seeder,
            event: Event::Completed,
            want: 30,
            hint: None,
        };
        let query = "peer_id=-XX0001-%00bcdefghijkl&port=6881&uploaded=1&downloaded=2&left=0\
            &corrupt=0&key=ABCD&event=completed&numwant=30&compact=1&no_peer_id=1&ip=9.9.9.9\
            &supportcrypto=1&trackerid=x&&=&odd";
        assert_eq!(parse(query), Ok(expected));
    }

    #[test]
    fn only_info_hash_is_required() {
        let least = parse("port=1").expect("is enough");
        assert_eq!((least.role, least.event), (Role::Leecher, Event::None));
        assert_eq!(least.want, DEFAULT_NUMWANT);
        assert_eq!(announce(b"port=1"), Err(NO_INFO_HASH));
        assert_eq!(announce(b""), Err(NO_INFO_HASH));
        for none in ["", "port=0", "port=%30"] {
            let peer = Peer::new(CLIENT.into(), 0);
            assert_eq!(parse(none).map(|a| a.peer), Ok(peer), "{none}");
        }
        for bad in [
            "65536",
            "-1",
            "",
            "80x",
            "6881.0",
            "%",
            "%3",
            "%zz",
            "99999999999999999999999",
        ] {
            assert_eq!(parse(&format!("port={bad}")), Err(BAD_PORT), "{bad}");
        }
        let peer = Peer::new(CLIENT.into(), 6881);
        assert_eq!(parse("port=%36881").map(|a| a.peer), Ok(peer));
        assert_eq!(parse("%70ort=6881").map(|a| a.peer), Ok(peer));
        assert_eq!(
            parse(&format!("port=1&info_hash={HASH}")),
            Err(TWO_INFO_HASHES)
        );
    }

    #[test]
    fn a_peer_is_a_seeder_only_if_left_is_the_number_0() {
        let role = |text: &str| parse(&format!("port=1&left={text}")).map(|a| a.role);
        for text in ["0", "0000", "%30"] {
            assert_eq!(role(text), Ok(Role::Seeder), "{text}");
        }
        let numbers = ["1", "18446744073709551615", "18446744073709551616"];
        for text in ["-0", "", "x", "0e3", "%", "0%zz"].iter().chain(&numbers) {
            assert_eq!(role(text), Ok(Role::Leecher), "{text}");
        }
    }

    #[test]
    fn invalid_numwant_and_event_have_defaults() {
        let want = |text: &str| parse(&format!("port=1&numwant={text}")).map(|a| a.want);
        assert_eq!(want("0"), Ok(0));
        assert_eq!(want("4000000000"), Ok(4_000_000_000));
        for text in ["-1", "", "many", "-9999"] {
            assert_eq!(want(text), Ok(DEFAULT_NUMWANT), "{text}");
        }
        let event = |text: &str| parse(&format!("port=1&event={text}")).map(|a| a.event);
        assert_eq!(event("started"), Ok(Event::Started));
        assert_eq!(event("stopped"), Ok(Event::Stopped));
        for text in ["", "paused", "Started", "none", "startedx", "%"] {
            assert_eq!(event(text), Ok(Event::None), "{text}");
        }
    }

    #[test]
    fn info_hash_is_accepted_percent_encoded_or_raw() {
        let with = |hash: &[u8]| {
            let query = [b"port=1&info_hash=", hash].concat();
            announce(&query).map(|a| a.info_hash)
        };
        assert_eq!(
            with(HASH.to_lowercase().as_bytes()),
            Ok(*b"\x124vx\x9a\xbc\xde\xf1#eg\x89\xab\xcd\xef\x124vx\x9a")
        );
        assert_eq!(with(&[0xfe; 20]), Ok([0xfe; 20]), "8-bit bytes as they are");
        for spaces in ["a b c d e f g h i j ", "a+b+c+d+e+f%20g+h+i+j+"] {
            assert_eq!(with(spaces.as_bytes()), Ok(*b"a b c d e f g h i j "));
        }
        assert_eq!(with(&[b'+'; 20]), Ok([b' '; 20]), "as in form encoding");
        assert_eq!(with("%2b".repeat(20).as_bytes()), Ok([b'+'; 20]));
        for bad in [
            &b""[..],
            b"%",
            b"abc",
            &[b'a'; 19],
            &[b'a'; 21],
            b"aaaaaaaaaaaaaaaaaaa%",
        ] {
            assert_eq!(with(bad), Err(BAD_INFO_HASH));
        }
        assert_eq!(with(b"aaaaaaaaaaaaaaaaaaa%g0"), Err(BAD_INFO_HASH));
    }

    #[test]
    fn question_mark_before_info_hash_separates_parameters() {
        let query = |front: &str| format!("{front}?info_hash={HASH}&port=6881&left=0");
        let expected = announce(&query("").as_bytes()[1..]);
        assert!(expected.is_ok());
        for front in ["", "k=v", "port=1&k=v?w", "k", "k=?", "&", "info_has"] {
            let query = query(front);
            assert_eq!(announce(query.as_bytes()), expected, "{query}");
            assert!(names_torrent(query.as_bytes()), "{query}");
            let request = format!("GET /x?{query} HTTP/1.1\r\n");
            assert_eq!(guess_hash(request.as_bytes()), Some(BYTES), "{query}");
        }
        let raw = b"info_hash=?info_hash?info_hash&port=1";
        let hash = announce(raw).map(|announce| announce.info_hash);
        assert_eq!(hash, Ok(*b"?info_hash?info_hash"), "part of a value");
        let parts = [&b"info_hash=?"[..], raw].concat();
        assert_eq!(announce(&parts), Err(BAD_INFO_HASH));
        for query in ["", "x?info_hash", "info_hashes=1", "a=info_hash=1"] {
            assert!(!names_torrent(query.as_bytes()), "{query}");
        }
    }

    #[test]
    fn guess_is_the_hash_that_the_parser_finds() {
        let mut random = Random::seeded(42);
        for _ in 0..20_000 {
            let mut query = b"a=b?info_hash=%aa+bcdefghijklmnopqr&info_hash=&port=1".to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(query.len());
                query[at] = b"%&=+? af1"[random.below(9)];
            }
            let request = [b"GET /announce?", &query[..], b" HTTP/1.1\r\n\r\n"].concat();
            if let (Some(guess), Ok(announce)) = (guess_hash(&request), announce(&query)) {
                assert_eq!(guess, announce.info_hash, "{}", query.escape_ascii());
            }
        }
    }

    #[test]
    fn scrape_is_sorted_and_without_repeats() {
        let mut hashes = Vec::new();
        let query = [
            &b"info_hash="[..],
            &[b'b'; 20],
            b"&x=y&info_hash=",
            &[b'a'; 20],
            b"&info_hash=",
            &[b'b'; 20],
        ];
        assert_eq!(scrape(&query.concat(), &mut hashes), Ok(()));
        assert_eq!(hashes, [[b'a'; 20], [b'b'; 20]]);
        assert_eq!(scrape(b"x=y", &mut hashes), Ok(()));
        assert!(hashes.is_empty());
        assert_eq!(scrape(b"info_hash=short", &mut hashes), Err(BAD_INFO_HASH));
    }

    #[test]
    fn addresses_are_named_by_ip_ipv4_and_ipv6() {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        for (text, address) in [
            ("192.0.2.9", ip("192.0.2.9")),
            ("192%2E0.2.9", ip("192.0.2.9")),
            ("2001:db8::9", ip("2001:db8::9")),
            ("[2001:db8::9]", ip("2001:db8::9")),
            ("%5B2001%3Adb8%3A%3A9%5D", ip("2001:db8::9")),
            ("::ffff:192.0.2.9", ip("192.0.2.9")),
            (
                "[1111:1111:1111:1111:1111:1111:255.255.255.255]",
                ip("1111:1111:1111:1111:1111:1111:ffff:ffff"),
            ),
            ("", None),
            ("[192.0.2.9]", None),
            ("192.0.2.9:80", None),
            ("tracker.example", None),
            ("%", None),
        ] {
            assert_eq!(
                named(format!("x=y&ip={text}&port=1").as_bytes()).ip,
                address,
                "{text}"
            );
        }
        let expected = Named {
            ip: None,
            v4: ip("192.0.2.9"),
            v6: ip("2001:db8::9"),
        };
        assert_eq!(named(b"ipv6=[2001:db8::9]&ipv4=192.0.2.9&ip=x"), expected);
    }

    #[test]
    fn value_is_found_by_its_name() {
        assert_eq!(
            value(b"a=1&mode=p%65er&mode=x", b"mode"),
            Some(b"peer".to_vec())
        );
        assert_eq!(value(b"m%6fde", b"mode"), Some(vec![]));
        assert_eq!(value(b"mode=%", b"mode"), Some(vec![]));
        assert_eq!(value(b"modes=1", b"mode"), None);
    }

    #[test]
    fn parser_survives_truncated_and_mutated_queries() {
        let good = format!("info_hash={HASH}&peer_id=abc&port=6881&left=5&event=started&numwant=9");
        let mut random = Random::seeded(41);
        let mut hashes = Vec::new();
        for length in 0..good.len() {
            let _ = announce(&good.as_bytes()[..length]);
        }
        for _ in 0..100_000 {
            let mut query = good.clone().into_bytes();
            for _ in 0..=random.below(5) {
                let at = random.below(query.len());
                match random.below(3) {
                    0 => query[at] = random.draw() as u8,
                    1 => query[at] = b"%&=+? \0"[random.below(7)],
                    _ => drop(query.remove(at)),
                }
            }
            let _ = announce(&query);
            let _ = scrape(&query, &mut hashes);
        }
    }
}
