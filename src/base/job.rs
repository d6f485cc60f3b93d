//! The last run of a job that the daemon repeats, for reports: a save of the state, a load of the list.

use super::lock::lock;
use std::sync::{Arc, Mutex};

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
        *lock(&self.0)
    }

    pub fn note(&self, run: Run) {
        *lock(&self.0) = run;
    }
}
