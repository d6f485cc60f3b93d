//! Lists of info-hashes, as people write them. A line begins with one of these:
//!
//! - an info-hash in 40 hexadecimal digits of either case, and behind it nothing or anything but another digit;
//! - the same in the 64 digits of BitTorrent v2, of which the first 40 count, as in an announce (BEP 52);
//! - a magnet link (BEP 9), and behind it nothing or white space and anything.
//!
//! A byte order mark in front of it is skipped, and so are lines that are empty or begin with `#`.
//!
//! Text arrives in pieces that end anywhere. Of an unfinished line the parser keeps no more than [`MAX_LINE_BYTES`].

use super::query;
use crate::protocol::{find, hex_byte, strip_prefix_in_any_case};
use crate::sys::chunks::{as_chunks, as_chunks_mut};
use crate::tracker::InfoHash;

const DIGITS: usize = 40;
const V2_DIGITS: usize = 64;
const BASE32_DIGITS: usize = 32;

/// What follows is not parsed: of a magnet link with a hundred trackers, all but the first dozens of them.
const MAX_LINE_BYTES: usize = 4096;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The longest URN is `urn:btmh:1220` and 64 digits.
const MAX_URN_BYTES: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Hash(InfoHash),
    /// Of a torrent that clients announce with both hashes: v1 and v2.
    Hybrid([InfoHash; 2]),
    /// Empty, or a comment.
    Nothing,
    /// Invalid.
    Bad,
}

/// A parser of text in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    /// The front of the unfinished line.
    head: Vec<u8>,
    /// Its length so far.
    length: usize,
}

impl Lines {
    /// Takes a piece of text and calls `each` for every line that ends in it.
    pub fn take(&mut self, mut text: &[u8], each: &mut dyn FnMut(Line)) {
        while let Some(end) = find(text, b'\n') {
            let (line, rest) = text.split_at(end);
            text = rest.get(1..).unwrap_or_default();
            match self.length {
                0 => each(parse(line)),
                _ => {
                    self.keep(line);
                    each(self.end());
                }
            }
        }
        self.keep(text);
    }

    /// The length of the unfinished line.
    pub fn unfinished(&self) -> usize {
        self.length
    }

    /// Ends the last line, which may lack a newline.
    pub fn end(&mut self) -> Line {
        let line = parse(&self.head);
        *self = Lines::default();
        line
    }

    fn keep(&mut self, part: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.head.len());
        self.head.extend(part.iter().take(room));
        self.length = self.length.saturating_add(part.len());
    }
}

fn parse(line: &[u8]) -> Line {
    // Of a line in pieces no more is kept.
    let line = line.get(..MAX_LINE_BYTES).unwrap_or(line);
    let is_blank = line.len() < MAX_LINE_BYTES && line.trim_ascii().is_empty();
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    if is_blank || matches!(line, [] | [b'#', ..]) {
        return Line::Nothing;
    }
    match (
        leading_hash(line),
        strip_prefix_in_any_case(line, b"magnet:?"),
    ) {
        (Some(hash), _) => Line::Hash(hash),
        (None, Some(link)) => parse_magnet(link),
        (None, None) => Line::Bad,
    }
}

/// The info-hash in hexadecimal digits that a line begins with.
pub fn leading_hash(line: &[u8]) -> Option<InfoHash> {
    let (digits, rest) = line.split_at_checked(DIGITS)?;
    let hash = hex(digits)?;
    let more = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    [0, V2_DIGITS - DIGITS].contains(&more).then_some(hash)
}

fn hex(digits: &[u8]) -> Option<InfoHash> {
    let mut hash = [0; 20];
    for (byte, digits) in hash.iter_mut().zip(as_chunks(digits).0) {
        *byte = hex_byte(*digits)?;
    }
    Some(hash)
}

/// The torrent of a magnet link, from the bytes after the question mark.
fn parse_magnet(link: &[u8]) -> Line {
    let link = link.split(u8::is_ascii_whitespace).next();
    let mut line = Line::Bad;
    for (name, value) in query::parameters(link.unwrap_or_default()) {
        // As a page's source has it: `&amp;xt=`.
        let name = name.0.strip_prefix(b"amp;").unwrap_or(name.0);
        if !name.eq_ignore_ascii_case(b"xt") {
            continue;
        }
        let urn = value.decode(&mut [0; MAX_URN_BYTES]).and_then(parse_urn);
        line = match (line, urn) {
            (Line::Bad, Some(hash)) => Line::Hash(hash),
            (Line::Hash(first), Some(second)) => Line::Hybrid([first, second]),
            (line, _) => line,
        };
    }
    line
}

fn parse_urn(urn: &[u8]) -> Option<InfoHash> {
    if let Some(digits) = strip_prefix_in_any_case(urn, b"urn:btmh:1220") {
        return leading_hash(digits).filter(|_| digits.len() == V2_DIGITS);
    }
    let digits = strip_prefix_in_any_case(urn, b"urn:btih:")?;
    match digits.len() {
        BASE32_DIGITS => base32(digits),
        DIGITS => hex(digits),
        _ => None,
    }
}

/// Eight digits of five bits are five bytes (RFC 4648, 6).
fn base32(digits: &[u8]) -> Option<InfoHash> {
    let mut hash = [0; 20];
    let (bytes, _) = as_chunks_mut::<5>(&mut hash);
    for (bytes, digits) in bytes.iter_mut().zip(as_chunks::<8>(digits).0) {
        let mut bits = 0_u64;
        for digit in digits {
            let value = match digit.to_ascii_uppercase() {
                letter @ b'A'..=b'Z' => letter - b'A',
                number @ b'2'..=b'7' => number - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        let [_, _, _, low @ ..] = bits.to_be_bytes();
        *bytes = low;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn lines_of(text: &[u8], pieces: &[usize]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut start = 0;
        for &end in pieces.iter().chain([&text.len()]) {
            lines.take(&text[start..end], &mut |line| all.push(line));
            start = end;
        }
        if lines.unfinished() > 0 {
            all.push(lines.end());
        }
        all
    }

    const TEXT: &str = "# a comment\n\
        00112233445566778899aabbccddeeff00112233\n\
        00112233445566778899AABBCCDDEEFF00112233 a name\n\
        \n\
        \x20\r\n\
        00112233445566778899aabbccddeeff0011223\n\
        00112233445566778899aabbccddeeff001122334\n\
        00112233445566778899aabbccddeeff0011223g\n\
        \x2000112233445566778899aabbccddeeff00112233\n\
        00112233445566778899aabbccddeeff00112233\r\n\
        00112233445566778899aabbccddeeff00112233#\n\
        #0112233445566778899aabbccddeeff00112233\n\
        \u{feff}00112233445566778899aabbccddeeff00112233\n\
        \u{feff}\n\
        \u{feff}# a comment\n\
        00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\r\n\
        00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff a name\n\
        00112233445566778899aabbccddeeff00112233445566778899aabbccddeef\n\
        00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff0\n\
        magnet:?xt=urn:btih:00112233445566778899aabbccddeeff00112233&dn=x\n\
        magnet:?xt=urn:btih:aaisem2ekvthpcezvk54zxpo74abcirt a name\n\
        00112233445566778899aabbccddeeff00112233";

    fn expected() -> Vec<Line> {
        let mut hash = [0; 20];
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = 0x11 * (i as u8 % 16);
        }
        let hash = Line::Hash(hash);
        let (bad, nothing) = (Line::Bad, Line::Nothing);
        vec![
            nothing, hash, hash, nothing, nothing, bad, bad, bad, bad, hash, hash, nothing, hash,
            nothing, nothing, hash, hash, bad, bad, hash, hash, hash,
        ]
    }

    #[test]
    fn hashes_comments_and_invalid_lines_are_distinguished() {
        assert_eq!(lines_of(TEXT.as_bytes(), &[]), expected());
        assert_eq!(lines_of(b"", &[]), []);
        assert_eq!(lines_of(b"\n", &[]), [Line::Nothing]);
        let long = "0".repeat(100_000);
        assert_eq!(lines_of(long.as_bytes(), &[7, 50_000]), [Line::Bad]);
        let spaces = format!("{}x\n", " ".repeat(MAX_LINE_BYTES));
        assert_eq!(lines_of(spaces.as_bytes(), &[]), [Line::Bad]);
        assert_eq!(lines_of(spaces.as_bytes(), &[7]), [Line::Bad]);
    }

    #[test]
    fn magnet_links_name_a_torrent_in_hex_or_base32_or_by_its_v2_hash() {
        let hash = leading_hash(b"00112233445566778899aabbccddeeff00112233").expect("is one");
        let hex = "00112233445566778899AABBCCDDEEFF00112233";
        let base32 = "AAISEM2EKVTHPCEZVK54ZXPO74ABCIRT";
        let v2 = format!("{hex}{}", "c".repeat(24));
        for link in [
            format!("magnet:?xt=urn:btih:{hex}"),
            format!("MAGNET:?XT=URN:BTIH:{base32}\r"),
            format!("magnet:?dn=a+b&tr=http%3A%2F%2Fx%2Fannounce&xt=urn:btih:{base32}\tx"),
            format!(
                "magnet:?dn={}&amp;xt=urn%3Abtih%3A{hex}&amp;dn=x",
                "x".repeat(2000)
            ),
            format!("magnet:?xt=urn:btmh:1220{v2}"),
            format!("magnet:?xt=urn:sha1:{base32}&xt=urn:btih:{hex}"),
        ] {
            assert_eq!(parse(link.as_bytes()), Line::Hash(hash), "{link}");
        }
        let other = "ff".repeat(20);
        let hybrid = format!("magnet:?xt=urn:btih:{other}&dn=x&xt=urn:btmh:1220{v2}");
        assert_eq!(parse(hybrid.as_bytes()), Line::Hybrid([[0xff; 20], hash]));
        for bad in [
            "magnet:?".to_owned(),
            format!("magnet:?dn=urn:btih:{hex}"),
            format!("magnet:?xt=urn:btih:{hex}0"),
            format!("magnet:?xt=urn:btih:{}", &hex[1..]),
            format!("magnet:?xt=urn:btih:{}1", &base32[1..]),
            format!("magnet:?xt=urn:btmh:1220{hex}"),
            format!("magnet:?xt=urn:btmh:1114{v2}"),
            format!("magnet:?dn= &xt=urn:btih:{hex}"),
            format!("magnet:xt=urn:btih:{hex}"),
            format!(
                "magnet:?dn={}&xt=urn:btih:{hex}",
                "x".repeat(MAX_LINE_BYTES)
            ),
        ] {
            assert_eq!(parse(bad.as_bytes()), Line::Bad, "{bad}");
        }
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let text = TEXT.as_bytes();
        for end in 0..text.len() {
            assert_eq!(lines_of(text, &[end]), expected(), "{end}");
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert_eq!(lines_of(text, &every), expected());
    }

    #[test]
    fn pieces_and_whole_give_the_same_lines_of_mutated_text() {
        let mut random = Random::seeded(3);
        for _ in 0..10_000 {
            let mut text = TEXT.as_bytes().to_vec();
            for _ in 0..random.below(8) {
                let at = random.below(text.len());
                text[at] = random.draw() as u8;
            }
            let mut ends: Vec<usize> = (0..3).map(|_| random.below(text.len())).collect();
            ends.sort_unstable();
            assert_eq!(lines_of(&text, &ends), lines_of(&text, &[]));
        }
    }
}
