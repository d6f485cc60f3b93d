//! Pure codecs, bytes to types and back. Nothing here does input or output or knows the tracker's
//! state.

pub mod bencode;
pub mod bep15;
pub mod query;

use crate::sys::chunks::as_chunks;

/// The first place of a byte, eight bytes at a step: requests are searched for little else, and
/// this is several times as fast as going byte by byte.
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

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_byte_is_found_wherever_it_is() {
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
