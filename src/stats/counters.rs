//! The counters: one row each, from which follow the field, the sum over threads, the metric and the name in the log.
//!
//! Counting is an addition to a field of the thread's own [`Counters`], without a lock or an atomic. A thread publishes
//! its counters on the [`Board`](super::Board) once a turn.

use super::metrics::{Row, metrics, rows};
use crate::tracker::MAX_REPLY_PEERS;

/// Declares the counters by family: name and help of the metric, then each field with its labels.
macro_rules! counters {
    ($($family:literal $help:literal { $($(#[$doc:meta])* $field:ident $labels:literal)+ })+) => {
        /// Counts since the start.
        #[derive(Clone, Copy, Debug)]
        pub struct Counters {
            $($($(#[$doc])* pub $field: u64,)+)+
            /// Announces by numwant.
            pub numwants: [u64; MAX_REPLY_PEERS + 1],
        }

        impl Counters {
            /// Counters that all have this count.
            pub fn of(count: u64) -> Counters {
                Counters { $($($field: count,)+)+ numwants: [count; MAX_REPLY_PEERS + 1] }
            }

            /// Adds the counts of another thread.
            pub fn add(&mut self, other: &Counters) {
                $($(self.$field = self.$field.wrapping_add(other.$field);)+)+
                for (sum, count) in self.numwants.iter_mut().zip(other.numwants) {
                    *sum = sum.wrapping_add(count);
                }
            }
        }

        metrics! {
            COUNTERS, counts(counters: &Counters) -> u64;
            $($family $help { $($field $labels = counters.$field;)+ })+
        }
    };
}

#[rustfmt::skip]
counters! {
    "connections_accepted_total" "TCP connections accepted." { tcp_accepted "" }
    "connections_evicted_total" "TCP connections closed early to make room for others." { tcp_evicted "" }
    "requests_total" "Requests answered." {
        udp_connects "protocol=udp,kind=connect"
        udp_announces "protocol=udp,kind=announce"
        udp_scrapes "protocol=udp,kind=scrape"
        http_announces "protocol=http,kind=announce"
        http_scrapes "protocol=http,kind=scrape"
        full_scrapes "protocol=http,kind=full_scrape"
        http_redirects "protocol=http,kind=redirect"
        /// Statistics, health checks and the like.
        http_others "protocol=http,kind=other"
    }
    "errors_total" "Requests refused, and invalid requests." {
        /// Connection ids that are wrong or too old.
        udp_strangers "protocol=udp,kind=connection_id"
        /// Announces of torrents that the list refuses.
        udp_unauthorized "protocol=udp,kind=unauthorized"
        /// Datagrams that are not a request.
        udp_invalid "protocol=udp,kind=invalid"
        /// Announces of torrents that the list refuses.
        http_unauthorized "protocol=http,kind=unauthorized"
        /// Announces and scrapes answered with any other failure reason.
        http_failures "protocol=http,kind=failure_reason"
        http_bad_requests "protocol=http,kind=bad_request"
        http_forbidden "protocol=http,kind=forbidden"
        http_not_found "protocol=http,kind=not_found"
        http_wrong_methods "protocol=http,kind=method_not_allowed"
        http_too_many "protocol=http,kind=too_many_requests"
        http_large_heads "protocol=http,kind=head_too_large"
        http_unavailable "protocol=http,kind=unavailable"
    }
    "received_bytes_total" "Bytes of requests." {
        /// Without the headers of datagrams.
        udp_received "protocol=udp"
        tcp_received "protocol=http"
    }
    "sent_bytes_total" "Bytes of replies." {
        udp_sent "protocol=udp"
        tcp_sent "protocol=http"
    }
    "dropped_replies_total" "UDP replies not sent." {
        /// The socket's send buffer was full.
        udp_dropped "reason=no_room"
        /// The system refused to send to the address.
        udp_undeliverable "reason=refused"
        /// To connects and unknown connection ids, while a socket was behind.
        udp_shed "reason=overload"
    }
    "udp_receive_errors_total" "Errors of the system on receiving datagrams." { udp_receive_errors "" }
    "udp_receive_queue_drops_total" "Datagrams that the system dropped, as a receive buffer had no room (Linux)."
        { udp_overruns "" }
    "full_scrape_bytes_total" "Bytes of full scrapes." { full_scrape_bytes "" }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters::of(0)
    }
}

impl Counters {
    /// Counts a reply of another status than 200.
    pub fn count_http_error(&mut self, status: u16) {
        let count = match status {
            302 => &mut self.http_redirects,
            400 => &mut self.http_bad_requests,
            403 => &mut self.http_forbidden,
            404 => &mut self.http_not_found,
            405 => &mut self.http_wrong_methods,
            429 => &mut self.http_too_many,
            431 => &mut self.http_large_heads,
            _ => &mut self.http_unavailable,
        };
        *count += 1;
    }

    pub(super) fn requests(&self, protocol: &str) -> u64 {
        self.sum("requests_total", protocol)
    }

    pub(super) fn errors(&self, protocol: &str) -> u64 {
        self.sum("errors_total", protocol)
    }

    fn sum(&self, family: &str, protocol: &str) -> u64 {
        let is_of = |row: &Row| {
            let labels = row.labels.strip_prefix("protocol=").unwrap_or_default();
            row.family == family && labels.starts_with(protocol)
        };
        rows(COUNTERS)
            .zip(counts(self))
            .filter(|(row, _)| is_of(row))
            .fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }

    /// UDP replies not sent.
    pub(super) fn dropped(&self) -> u64 {
        self.udp_dropped + self.udp_undeliverable + self.udp_shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_errors_are_counted_by_status() {
        let mut counters = Counters::default();
        for status in [404, 404, 302, 503] {
            counters.count_http_error(status);
        }
        let counted = (counters.http_not_found, counters.http_redirects);
        assert_eq!((counted, counters.http_unavailable), ((2, 1), 1));
        assert_eq!((counters.errors("http"), counters.requests("http")), (3, 1));
        assert_eq!((counters.errors("udp"), counters.requests("udp")), (0, 0));
    }
}
