//! A small swarm: everything about its peers in one block of bytes.
//!
//! ```text
//! 0    how many IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders, a byte each
//! 4    IPv4 leechers, 7 bytes each, sorted; IPv4 seeders, likewise
//! ...  IPv6 leechers, 19 bytes each, sorted; IPv6 seeders, likewise
//! ```
//! What follows is room to grow.

use super::clock::Clock;
use super::peers::{Record, Role};

/// Bytes before the first peer.
pub const HEADER: usize = 4;

/// The most bytes that a small swarm takes: 259 IPv4 peers. An insert moves half of them.
pub const MOST: usize = super::blocks::LARGEST / 2;

/// The lists in their order, with the size of a record in each.
pub const SIZES: [usize; 4] = [7, 7, 19, 19];

/// Which of the four lists holds such records.
pub fn list_number<R: Record>(role: Role) -> usize {
    let family = if R::SIZE == SIZES[0] { 0 } else { 2 };
    family + role as usize
}

/// Bytes that the first `lists` lists take, header included; all four: the whole swarm.
fn end_of(block: &[u8], lists: usize) -> usize {
    let counts = block.iter().zip(SIZES).take(lists);
    HEADER
        + counts
            .map(|(&n, size)| usize::from(n) * size)
            .sum::<usize>()
}

/// Bytes in use.
pub fn used(block: &[u8]) -> usize {
    end_of(block, SIZES.len())
}

/// How many peers of these roles and families: IPv4 leechers, IPv4 seeders, then IPv6.
pub fn counts(block: &[u8]) -> [usize; 4] {
    std::array::from_fn(|i| usize::from(block[i]))
}

pub fn list<R: Record>(block: &[u8], role: Role) -> &[R] {
    let number = list_number::<R>(role);
    let start = end_of(block, number);
    R::from_bytes(&block[start..start + usize::from(block[number]) * R::SIZE])
}

pub fn list_mut<R: Record>(block: &mut [u8], role: Role) -> &mut [R] {
    let number = list_number::<R>(role);
    let start = end_of(block, number);
    let end = start + usize::from(block[number]) * R::SIZE;
    R::from_bytes_mut(&mut block[start..end])
}

/// Whether this list is as long as its count can tell.
pub fn is_full<R: Record>(block: &[u8], role: Role) -> bool {
    block[list_number::<R>(role)] == u8::MAX
}

/// Inserts where the caller found that it belongs and that there is room.
pub fn insert<R: Record>(block: &mut [u8], role: Role, index: usize, record: &R) {
    let number = list_number::<R>(role);
    let at = end_of(block, number) + index * R::SIZE;
    let used = used(block);
    block.copy_within(at..used, at + R::SIZE);
    block[at..at + R::SIZE].copy_from_slice(record.bytes());
    block[number] += 1;
}

/// Drops the expired of all lists in one pass; how many of each list.
pub fn expire(block: &mut [u8], clock: Clock) -> [usize; 4] {
    let mut dropped = [0; 4];
    let (mut from, mut to) = (HEADER, HEADER);
    for (number, size) in SIZES.into_iter().enumerate() {
        for _ in 0..block[number] {
            // The tag is a record's last byte.
            if clock.expired(block[from + size - 1]) {
                dropped[number] += 1;
                block[number] -= 1;
            } else {
                if to < from {
                    block.copy_within(from..from + size, to);
                }
                to += size;
            }
            from += size;
        }
    }
    dropped
}

pub fn remove<R: Record>(block: &mut [u8], role: Role, index: usize) {
    let number = list_number::<R>(role);
    let at = end_of(block, number) + index * R::SIZE;
    let used = used(block);
    block.copy_within(at + R::SIZE..used, at);
    block[number] -= 1;
}
