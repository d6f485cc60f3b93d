//! The last run of a job that the daemon repeats, for reports: a save of the state, a load of the list.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A job. The thread that does it and those that report on it share it.
#[derive(Clone, Debug, Default)]
pub struct Job(Arc<Mutex<Run>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The time of its end, in seconds since 1970; 0 before the first.
    pub ended: u64,
    pub took_ms: u64,
    pub has_failed: bool,
}

impl Job {
    pub fn last(&self) -> Run {
        *self.lock()
    }

    pub fn note(&self, run: Run) {
        *self.lock() = run;
    }

    /// A panic ends the process: no lock is ever found poisoned.
    fn lock(&self) -> MutexGuard<'_, Run> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
