//! Counters, and every report made of them: lines of the log, opentracker's `/stats`, metrics, the status page.
//!
//! Counting an event is an addition; everything else is done when a client requests a report. A [`View`] collects the
//! counters of all threads, the table and the cluster, and each report is written from that. Reports on the table
//! itself take longer and are made in steps ([`walks`]).

mod board;
#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "no_cluster.rs"]
pub mod cluster;
pub mod completed;
mod counters;
pub mod history;
mod metrics;
pub mod modes;
pub mod page;
pub mod walks;

pub use board::Board;
pub use counters::Counters;
pub use metrics::{log_lines, write as write_metrics};

use crate::sys::memory::Resident;
use crate::tracker::{Table, Tally, Totals};
use cluster::Overview;
use history::{History, Sample};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The values in reports besides counters and the table. Every thread has a copy.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    /// Random, to tell the statistics of several processes apart.
    pub id: u32,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Milliseconds since the start.
    pub now: u64,
    /// TCP connections of all threads.
    pub connections: Arc<AtomicUsize>,
    pub resident: Arc<Resident>,
    pub history: Arc<Mutex<History>>,
}

impl Monitor {
    pub fn new(id: u32, started: u64, resident: Resident) -> Monitor {
        Monitor {
            id,
            started,
            resident: Arc::new(resident),
            ..Monitor::default()
        }
    }

    /// The present time.
    pub fn seconds_since_1970(&self) -> u64 {
        self.started + self.now / 1000
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        // A panic ends the process: no lock is ever found poisoned.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next sample for the history is due, in milliseconds since the start.
    pub fn next_sample(&self) -> u64 {
        self.history().next()
    }
}

/// The input of a report.
pub struct View<'a> {
    /// The sums over all threads.
    pub counters: Counters,
    /// The counters of each thread, if there are several.
    pub threads: Vec<Counters>,
    pub monitor: &'a Monitor,
    pub tally: Tally,
    pub table: &'a Table,
    /// Milliseconds since the start as the table counts them.
    pub table_now: u64,
    pub totals: Totals,
    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    pub peers: [usize; 4],
    /// Bytes of the table.
    pub table_bytes: [usize; 2],
    /// None without a cluster.
    pub cluster: Option<Overview>,
}

impl View<'_> {
    /// The sample for the history.
    pub fn sample(&self) -> Sample {
        Sample {
            udp: self.counters.requests("udp"),
            http: self.counters.requests("http"),
            dropped: self.counters.dropped(),
            peers: self.peers.iter().sum::<usize>() as u64,
            torrents: self.totals.torrents as u64,
        }
    }

    /// Seconds since the start.
    fn uptime(&self) -> u64 {
        self.monitor.now / 1000
    }

    /// Peers received from other nodes.
    fn synced(&self) -> u64 {
        self.cluster.as_ref().map_or(0, Overview::records_in)
    }
}
