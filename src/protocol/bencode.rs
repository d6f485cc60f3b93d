//! Writes bencoded values (BEP 3). The caller writes the keys of a dictionary, in sorted order.

use crate::base::text::decimal;
use crate::tracker::{Counts, InfoHash};

/// `i<number>e`
pub fn integer(out: &mut Vec<u8>, number: u64) {
    out.push(b'i');
    decimal(out, number);
    out.push(b'e');
}

/// `<length>:<bytes>`
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    decimal(out, bytes.len() as u64);
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// A torrent's entry in the `files` of a scrape (BEP 48): its info-hash and its counts.
pub fn scraped(out: &mut Vec<u8>, info_hash: &InfoHash, counts: Counts) {
    string(out, info_hash);
    out.extend_from_slice(b"d8:complete");
    integer(out, counts.seeders.into());
    out.extend_from_slice(b"10:downloaded");
    integer(out, counts.downloaded.into());
    out.extend_from_slice(b"10:incomplete");
    integer(out, counts.leechers.into());
    out.push(b'e');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_are_bencoded() {
        let mut out = Vec::new();
        integer(&mut out, 0);
        integer(&mut out, u64::MAX);
        string(&mut out, b"");
        string(&mut out, b"0123456789");
        assert_eq!(out, b"i0ei18446744073709551615e0:10:0123456789");
    }
}
