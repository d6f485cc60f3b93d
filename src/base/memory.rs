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

const PIECES: usize = 64;

struct Spare {
    /// Whole, or in pieces where the free memory is in pieces too. Never written to, so that it takes address space and
    /// hardly any memory.
    buffer: Mutex<[Vec<u8>; PIECES]>,
    is_held: AtomicBool,
    /// Attempts to grow without the buffer, wrapping.
    attempts: AtomicUsize,
}

static SPARE: Spare = Spare::new();

/// Makes room for exactly so many more. None if there is no memory for them.
pub fn reserve_exact<T>(vector: &mut Vec<T>, more: usize) -> Option<()> {
    if vector.len() + more <= vector.capacity() {
        return Some(());
    }
    if !SPARE.is_held.load(Relaxed) {
        SPARE.hold()?;
    }
    let grown = vector.try_reserve_exact(more);
    if grown.is_err() {
        SPARE.release();
    }
    grown.ok()
}

impl Spare {
    const fn new() -> Spare {
        Spare {
            buffer: Mutex::new([const { Vec::new() }; PIECES]),
            is_held: AtomicBool::new(false),
            attempts: AtomicUsize::new(0),
        }
    }

    #[cold]
    fn hold(&self) -> Option<()> {
        let mut buffer = lock(&self.buffer);
        // Another thread may have taken it meanwhile, such as at the first announces.
        if self.is_held.load(Relaxed) {
            return Some(());
        }
        if self.attempts.fetch_add(1, Relaxed) % ATTEMPTS != 0 {
            return None;
        }
        for count in [1, PIECES] {
            let mut pieces = buffer.iter_mut().take(count);
            if pieces.all(|piece| piece.try_reserve_exact(SPARE_BYTES / count).is_ok()) {
                self.is_held.store(true, Relaxed);
                return Some(());
            }
            *buffer = [const { Vec::new() }; PIECES];
        }
        None
    }

    #[cold]
    fn release(&self) {
        let mut buffer = lock(&self.buffer);
        *buffer = [const { Vec::new() }; PIECES];
        self.attempts.store(1, Relaxed);
        self.is_held.store(false, Relaxed);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn threads_that_grow_for_the_first_time_together_have_memory() {
        for _ in 0..200 {
            let (spare, start) = (&Spare::new(), &Barrier::new(4));
            std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        spare.hold()
                    })
                });
                for thread in threads {
                    assert!(thread.join().expect("no panic").is_some());
                }
            });
        }
    }

    #[test]
    fn spare_memory_that_was_released_is_taken_again_at_the_64th_attempt() {
        let spare = Spare::new();
        assert!(spare.hold().is_some());
        spare.release();
        let attempts = (1..=ATTEMPTS).position(|_| spare.hold().is_some());
        assert_eq!(attempts, Some(ATTEMPTS - 1));
    }
}
