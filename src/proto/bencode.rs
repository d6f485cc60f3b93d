//! Writing bencoded values (BEP 3). Keys of a dictionary must be written in sorted order; that is
//! left to the caller, who knows them.

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

/// A number as people write it. The formatting machinery of `std` would do the same several times
/// slower, and is large.
pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings() {
        let mut out = Vec::new();
        integer(&mut out, 0);
        integer(&mut out, u64::MAX);
        string(&mut out, b"");
        string(&mut out, b"0123456789");
        assert_eq!(out, b"i0ei18446744073709551615e0:10:0123456789");
    }
}
