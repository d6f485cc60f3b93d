//! Codecs: BEP 15's datagrams, query strings, bencoding, lines of info-hashes.
//!
//! They turn bytes into types and back and do nothing else: no input or output, no clock, no state of the tracker. So
//! each can be tested, and fuzzed, with bytes alone. [`udp`] and [`query`] decode requests that the rooms of the same
//! names hand to the responder; [`udp`] and [`bencode`] write the replies; [`hash_list`] reads lists of torrents.

pub mod bencode;
pub mod hash_list;
pub mod query;
pub mod udp;

use crate::sys::chunks::as_chunks;

/// Peers in a reply to a client that does not say how many it wants.
const DEFAULT_NUMWANT: usize = 50;

/// The position of the first such byte. It looks at eight bytes in a step: parsing a request is mostly such searches,
/// and going byte by byte takes several times as long.
pub fn find(haystack: &[u8], needle: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, _) = as_chunks(haystack);
    let pattern = ONES * u64::from(needle);
    for (i, word) in words.iter().enumerate() {
        let different = u64::from_le_bytes(*word) ^ pattern;
        // The lowest bit set marks the first byte that is zero, which is the first that matches.
        let zeros = different.wrapping_sub(ONES) & !different & (ONES << 7);
        if zeros != 0 {
            return Some(i * 8 + (zeros.trailing_zeros() / 8) as usize);
        }
    }
    let start = words.len() * 8;
    let rest = haystack.get(start..)?;
    rest.iter().position(|&b| b == needle).map(|i| start + i)
}

/// The bytes before the first such byte, and those after it if there is one.
pub fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match find(bytes, byte) {
        Some(at) => (&bytes[..at], bytes.get(at + 1..)),
        None => (bytes, None),
    }
}

/// The bytes after a prefix, which is ASCII of either case.
pub fn strip_prefix_in_any_case<'a>(bytes: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = bytes.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The byte that two hexadecimal digits of either case stand for.
pub fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
    // Of other bytes the table has bits that no digit has.
    ((high | low) < 16).then_some(high << 4 | low)
}

/// The values of hexadecimal digits. A table, since the processor cannot predict which kind of digit comes next: with
/// comparisons, each of an info-hash's 40 digits might cost a misprediction.
const HEX: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn find_returns_the_first_match_at_any_offset() {
        for length in 0..40 {
            for at in 0..length {
                let mut bytes = vec![b'\n' ^ 0x80; length];
                bytes[at..].fill(b'\n');
                assert_eq!(find(&bytes, b'\n'), Some(at));
            }
            assert_eq!(find(&vec![0x0b; length], b'\n'), None);
        }
    }
}
