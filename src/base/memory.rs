//! Vectors that grow and shrink without ending the process when memory runs out.
//!
//! `Vec::push` ends the process if the allocator has no memory. Nearly all memory is in the table, so the table grows
//! its vectors here, and refuses a newcomer if they cannot grow. Everything else (buffers of connections, the cluster's
//! queues, reports) is bounded, small beside the table, and ends the process if it cannot have its memory. Therefore
//! the table never takes the last [`SPARE_BYTES`]: it holds a spare buffer of this size, and gives that back as soon as
//! one of its own allocations fails. It grows again only while it holds the buffer.

use super::lock::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// More than all buffers of a few hundred connections.
const SPARE_BYTES: usize = 4 << 20;

/// Without the spare buffer, one in so many attempts to grow tries to have it again: an attempt takes system calls, and
/// in a flood of newcomers each needs one.
const ATTEMPTS: usize = 64;

/// The buffer, whole, or in pieces where the free memory is in pieces too. Never written to, so that it takes address
/// space and hardly any memory.
static SPARE: Mutex<[Vec<u8>; PIECES]> = Mutex::new([const { Vec::new() }; PIECES]);
const PIECES: usize = 64;
static IS_HELD: AtomicBool = AtomicBool::new(false);
/// Attempts to grow without the spare buffer, wrapping.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Makes room for exactly so many more. None if there is no memory for them.
pub fn reserve_exact<T>(vector: &mut Vec<T>, more: usize) -> Option<()> {
    if vector.len() + more <= vector.capacity() {
        return Some(());
    }
    if !IS_HELD.load(Relaxed) {
        hold_spare()?;
    }
    let grown = vector.try_reserve_exact(more);
    if grown.is_err() {
        release_spare();
    }
    grown.ok()
}

#[cold]
fn hold_spare() -> Option<()> {
    if COUNT.fetch_add(1, Relaxed) % ATTEMPTS != 0 {
        return None;
    }
    let mut spare = lock(&SPARE);
    for count in [1, PIECES] {
        let mut pieces = spare.iter_mut().take(count);
        if pieces.all(|piece| piece.try_reserve_exact(SPARE_BYTES / count).is_ok()) {
            IS_HELD.store(true, Relaxed);
            return Some(());
        }
        *spare = [const { Vec::new() }; PIECES];
    }
    None
}

#[cold]
fn release_spare() {
    *lock(&SPARE) = [const { Vec::new() }; PIECES];
    COUNT.store(1, Relaxed);
    IS_HELD.store(false, Relaxed);
}

/// Makes room for `more` by growing a full vector by an eighth: doubling would leave a quarter of the memory unused on
/// average. None if there is no memory for it.
pub fn reserve<T>(vector: &mut Vec<T>, more: usize) -> Option<()> {
    match vector.len() + more <= vector.capacity() {
        true => Some(()),
        false => reserve_exact(vector, vector.len() / 8 + more),
    }
}

/// The same, so that the vector has room for `length` items in total.
pub fn reserve_total<T>(vector: &mut Vec<T>, length: usize) -> Option<()> {
    let more = length.saturating_sub(vector.len());
    reserve(vector, more)
}

/// Gives back what a shrunken vector no longer needs, keeping an eighth to grow.
pub fn trim<T>(vector: &mut Vec<T>) {
    let length = vector.len();
    if vector.capacity() > length + length / 4 + 4 {
        // `Vec::shrink_to` would end the process if the allocator could not make a smaller copy.
        let mut smaller = Vec::new();
        if smaller.try_reserve_exact(length + length / 8).is_ok() {
            smaller.append(vector);
            *vector = smaller;
        }
    }
}
