//! A small swarm: everything about its peers in one block of bytes.
//!
//! ```text
//! 0    how many IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders, a byte each
//! 4    IPv4 leechers, 7 bytes each, sorted; IPv4 seeders, likewise
//! ...  IPv6 leechers, 19 bytes each, sorted; IPv6 seeders, likewise
//! ```
//! The rest is room to grow.

use super::clock::Clock;
use super::peer::{RECORD_SIZES, V4_BYTES, V6_BYTES, drop_expired, insert_record};
use std::ops::Range;

/// Bytes before the first peer.
pub const HEADER: usize = 4;

/// Bytes of a small swarm at most: 259 IPv4 peers. An insert moves half of them.
pub const MAX_BYTES: usize = super::blocks::LARGEST / 2;

/// Where the records of a list are.
#[inline]
pub fn range(block: &[u8], list: usize) -> Range<usize> {
    let counts = counts(block);
    let [v4_leechers, v4_seeders, v6_leechers, _] = counts;
    // Without a loop, as an announce does this half a dozen times.
    let start = HEADER
        + match list {
            0 => 0,
            1 => v4_leechers * V4_BYTES,
            2 => (v4_leechers + v4_seeders) * V4_BYTES,
            _ => (v4_leechers + v4_seeders) * V4_BYTES + v6_leechers * V6_BYTES,
        };
    start..start + counts[list] * RECORD_SIZES[list]
}

/// Bytes in use.
pub fn used(block: &[u8]) -> usize {
    range(block, RECORD_SIZES.len() - 1).end
}

/// How many peers each list has.
#[inline]
pub fn counts(block: &[u8]) -> [usize; 4] {
    let [a, b, c, d] = *block.first_chunk().unwrap_or(&[0; HEADER]);
    [a.into(), b.into(), c.into(), d.into()]
}

pub fn records(block: &[u8], list: usize) -> &[u8] {
    &block[range(block, list)]
}

/// Whether this list is as long as its count can say.
pub fn is_full(block: &[u8], list: usize) -> bool {
    block[list] == u8::MAX
}

/// Inserts where the caller found that the record belongs and that there is room.
pub fn insert(block: &mut [u8], list: usize, index: usize, record: &[u8]) {
    let at = range(block, list).start + index * record.len();
    insert_record(block, used(block), at, record);
    block[list] += 1;
}

pub fn remove(block: &mut [u8], list: usize, index: usize) {
    let at = range(block, list).start + index * RECORD_SIZES[list];
    block.copy_within(at + RECORD_SIZES[list]..used(block), at);
    block[list] -= 1;
}

/// Drops the expired.
pub fn expire(block: &mut [u8], clock: Clock) {
    for (list, size) in RECORD_SIZES.into_iter().enumerate() {
        let range = range(block, list);
        let kept = drop_expired(&mut block[range.clone()], size, clock);
        if kept < range.len() {
            block.copy_within(range.end..used(block), range.start + kept);
            block[list] = (kept / size) as u8;
        }
    }
}
