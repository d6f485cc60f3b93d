//! What is counted, and the line that tells it.

use crate::tracker::Totals;
use std::fmt;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub udp_connects: u64,
    pub udp_announces: u64,
    pub udp_scrapes: u64,
    /// Connection ids that were wrong or too old.
    pub udp_strangers: u64,
    /// Datagrams that were no request.
    pub udp_invalid: u64,
    /// Replies that the system would not send where they should go.
    pub udp_refused: u64,
    /// Replies for which the send buffer had no room.
    pub udp_dropped: u64,
    pub tcp_accepted: u64,
    /// Connections closed before their time, to make room for others.
    pub tcp_evicted: u64,
    pub http_announces: u64,
    pub http_scrapes: u64,
    /// Replies with another status than 200, and failure reasons.
    pub http_errors: u64,
}

/// All of it in one line.
pub struct Report<'a> {
    pub counters: &'a Counters,
    pub totals: Totals,
    pub connections: usize,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let c = self.counters;
        let fields = [
            ("torrents", self.totals.torrents as u64),
            ("seeders", self.totals.seeders as u64),
            ("leechers", self.totals.leechers as u64),
            ("connections", self.connections as u64),
            ("udp-connects", c.udp_connects),
            ("udp-announces", c.udp_announces),
            ("udp-scrapes", c.udp_scrapes),
            ("udp-strangers", c.udp_strangers),
            ("udp-invalid", c.udp_invalid),
            ("udp-refused", c.udp_refused),
            ("udp-dropped", c.udp_dropped),
            ("tcp-accepted", c.tcp_accepted),
            ("tcp-evicted", c.tcp_evicted),
            ("http-announces", c.http_announces),
            ("http-scrapes", c.http_scrapes),
            ("http-errors", c.http_errors),
        ];
        let mut separator = "";
        for (name, value) in fields {
            write!(f, "{separator}{name} {value}")?;
            separator = ", ";
        }
        Ok(())
    }
}
