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
mod troubles;
pub mod walks;

pub use board::Board;
pub use counters::Counters;
pub use metrics::{log_lines, write as write_metrics};

use crate::access::ListSize;
use crate::base::job::Job;
use crate::base::lock::lock;
use crate::sys::host_name;
use crate::sys::limits::Descriptors;
use crate::sys::memory::Resident;
use crate::tracker::{Limits, Table, Tally, Totals};
use cluster::Overview;
use history::{History, Sample};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The values in reports besides counters and the table. Every thread has a copy.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    /// Random, to tell the statistics of several processes apart.
    pub id: u32,
    /// The name of the host.
    pub host: String,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Milliseconds since the start.
    pub now: u64,
    /// TCP connections of all threads.
    pub connections: Arc<AtomicUsize>,
    pub max_connections: Arc<AtomicUsize>,
    pub descriptors: Arc<Descriptors>,
    pub max_descriptors: u64,
    pub resident: Arc<Resident>,
    pub history: Arc<Mutex<History>>,
    /// Saves of the state, with `--state`.
    pub saves: Option<Job>,
    /// Loads of the list, if there is one.
    pub loads: Option<Job>,
}

impl Monitor {
    /// Before the root directory is entered, where the system shows resources in files.
    pub fn open(started: u64, max_descriptors: u64) -> Monitor {
        Monitor {
            id: getrandom::u32().unwrap_or_default(),
            host: host_name(),
            started,
            resident: Arc::new(Resident::open()),
            descriptors: Arc::new(Descriptors::open()),
            max_descriptors,
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

    pub fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
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
    pub limits: Limits,
    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    pub peers: [usize; 4],
    /// Bytes of the table.
    pub table_bytes: [usize; 2],
    /// Seconds that clients are told to wait between two announces.
    pub interval: u32,
    /// None without a list.
    pub list: Option<ListSize>,
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
            peers: self.all_peers() as u64,
            torrents: self.totals.torrents as u64,
        }
    }

    fn all_peers(&self) -> usize {
        self.peers.iter().sum()
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
