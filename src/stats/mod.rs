//! What is counted, and every report that is made of it: the log's line, opentracker's `/stats`, the
//! metrics and the page for people.
//!
//! Counting is an addition where something happens; everything else is done when somebody asks. A
//! report is bytes pushed behind each other, as the formatting machinery of `std` is large.

mod board;
pub mod cluster;
pub mod history;
mod metrics;
pub mod modes;
pub mod page;
pub mod people;
pub mod walks;

pub use board::Board;
pub use metrics::{log_lines, write as write_metrics};

use crate::proto::bencode::decimal;
use crate::sys::memory::Resident;
use crate::tracker::{MOST_PEERS, Table, Tally, Totals};
use cluster::Overview;
use history::{History, Sample};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Declares the counters, their start at zero, and their sum.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*; $($(#[$list_doc:meta])* $list:ident: $length:expr,)*) => {
        /// Counts since the start.
        #[derive(Clone, Copy, Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$list_doc])* pub $list: [u64; $length],)*
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters { $($name: 0,)* $($list: [0; $length],)* }
            }
        }

        impl Counters {
            /// Adds the counts of another thread.
            fn add(&mut self, other: &Counters) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
                $(for (sum, count) in self.$list.iter_mut().zip(other.$list) {
                    *sum = sum.wrapping_add(count);
                })*
            }
        }
    };
}

counters! {
    udp_connects,
    udp_announces,
    udp_scrapes,
    /// Connection ids that were wrong or too old.
    udp_strangers,
    /// Announces of torrents that are not tracked.
    udp_unauthorized,
    /// Datagrams that were no request.
    udp_invalid,
    /// Replies that the system would not send where they should go.
    udp_refused,
    /// Replies for which the send buffer had no room.
    udp_dropped,
    /// Bytes of datagrams, without their headers.
    udp_received,
    udp_sent,
    tcp_accepted,
    /// Connections closed before their time, to make room for others.
    tcp_evicted,
    tcp_received,
    tcp_sent,
    http_announces,
    http_scrapes,
    /// Statistics, health checks and the like.
    http_others,
    /// Announces of torrents that are not tracked.
    http_unauthorized,
    /// Announces and scrapes that were answered with any other failure reason.
    http_refused,
    full_scrapes,
    /// Bytes as they were sent.
    full_scrape_bytes,
    ;
    /// Replies of another status than 200, in the order of [`HTTP_ERRORS`].
    http_errors: HTTP_ERRORS.len(),
    /// Announces by how many peers they want.
    wanted: MOST_PEERS + 1,
}

/// The statuses that are counted.
pub const HTTP_ERRORS: [u16; 9] = [302, 400, 403, 404, 405, 429, 431, 500, 503];

impl Counters {
    pub fn count_http_error(&mut self, status: u16) {
        let place = HTTP_ERRORS.iter().position(|&code| code == status);
        if let Some(count) = place.and_then(|place| self.http_errors.get_mut(place)) {
            *count += 1;
        }
    }

    fn http_requests(&self) -> u64 {
        self.http_announces + self.http_scrapes + self.full_scrapes + self.http_others
    }

    /// Replies that did not leave.
    fn dropped(&self) -> u64 {
        self.udp_dropped + self.udp_refused
    }

    /// Replies of an error's status.
    fn http_failures(&self) -> u64 {
        self.http_errors.iter().sum::<u64>() - self.http_error(302)
    }

    fn http_error(&self, status: u16) -> u64 {
        let mut counts = HTTP_ERRORS.iter().zip(self.http_errors);
        counts
            .find(|(code, _)| **code == status)
            .map_or(0, |(_, count)| count)
    }

    /// Datagrams that arrived.
    fn udp_packets(&self) -> u64 {
        self.udp_requests() + self.udp_strangers + self.udp_invalid
    }

    fn udp_requests(&self) -> u64 {
        self.udp_connects + self.udp_announces + self.udp_scrapes
    }
}

/// Every thread has a copy of these values, which its reports contain beside the counts.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    /// Names this process to those who read statistics of several.
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
    pub fn new(id: u32, started: SystemTime, resident: Resident) -> Monitor {
        let started = started.duration_since(UNIX_EPOCH);
        Monitor {
            id,
            started: started.map_or(0, |since| since.as_secs()),
            resident: Arc::new(resident),
            ..Monitor::default()
        }
    }

    /// Since the start.
    fn seconds(&self) -> u64 {
        self.now / 1000
    }

    /// What time it is.
    pub fn seconds_since_1970(&self) -> u64 {
        self.started + self.seconds()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        // A thread that panics ends the process, so no lock is ever found poisoned.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next sample for the history is due, in milliseconds since the start.
    pub fn next_sample(&self) -> u64 {
        self.history().next()
    }
}

/// All that a report may tell.
pub struct View<'a> {
    /// Of all threads together.
    pub counters: Counters,
    /// Of each thread, if there are several.
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
    /// If this is a node of one.
    pub cluster: Option<Overview>,
}

impl View<'_> {
    /// What the history keeps.
    pub fn sample(&self) -> Sample {
        Sample {
            udp: self.counters.udp_requests(),
            http: self.counters.http_requests(),
            dropped: self.counters.dropped(),
            peers: self.peers.iter().sum::<usize>() as u64,
            torrents: self.totals.torrents as u64,
        }
    }

    /// Seconds since the start.
    fn uptime(&self) -> u64 {
        self.monitor.seconds()
    }

    /// Peers that other nodes told of.
    fn synced(&self) -> u64 {
        self.cluster.as_ref().map_or(0, Overview::records_in)
    }

    fn per_second(&self, count: u64) -> u64 {
        count / self.uptime().max(1)
    }
}

/// Appends a text with numbers where it has a `$`.
fn fill(out: &mut Vec<u8>, text: &str, numbers: &[u64]) {
    let mut numbers = numbers.iter();
    for part in text.split_inclusive('$') {
        match part.strip_suffix('$').zip(numbers.next()) {
            Some((part, &number)) => {
                out.extend_from_slice(part.as_bytes());
                decimal(out, number);
            }
            None => out.extend_from_slice(part.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_where_they_belong() {
        let mut out = Vec::new();
        fill(&mut out, "$ of $\n", &[7, 10]);
        fill(&mut out, "none", &[]);
        fill(&mut out, "$", &[u64::MAX]);
        assert_eq!(out, b"7 of 10\nnone18446744073709551615");
    }

    #[test]
    fn statuses_are_counted_apart() {
        let mut counters = Counters::default();
        for status in [404, 404, 302, 200, 999] {
            counters.count_http_error(status);
        }
        assert_eq!(counters.http_error(404), 2);
        assert_eq!(counters.http_error(302), 1);
        assert_eq!(counters.http_error(200), 0);
        assert_eq!(counters.http_errors.iter().sum::<u64>(), 3);
    }
}
