//! The threads that serve together, and how each learns that all are to stop.

use mio::Waker;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

pub struct Crew {
    /// Of each thread, that of the chores first.
    wakers: Vec<Waker>,
    is_stopping: AtomicBool,
    /// Threads that take no more requests.
    closed: AtomicUsize,
}

impl Crew {
    /// `wakers` are those of all threads, that of the chores first.
    pub fn new(wakers: Vec<Waker>) -> Crew {
        Crew {
            wakers,
            is_stopping: AtomicBool::new(false),
            closed: AtomicUsize::new(0),
        }
    }

    /// Has all threads stop. A serving thread sets `is_closed` when it takes no more requests, and the call wakes the
    /// thread of the chores.
    pub fn stop(&self, is_closed: bool) {
        self.closed.fetch_add(usize::from(is_closed), SeqCst);
        match self.is_stopping.swap(true, SeqCst) {
            false => self.wakers.iter().for_each(wake),
            true => self.wakers.iter().take(1).for_each(wake),
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Whether no thread takes requests any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst) + 1 >= self.wakers.len()
    }
}

fn wake(waker: &Waker) {
    // It fails only where the loop is gone.
    let _ = waker.wake();
}
