//! A connection to another node, from the first byte on.

use super::frame::{Hello, Session};
use super::node::ConnId;
use super::records::{self, Contents, Heartbeat, Received};
use crate::stats::cluster::{Failure, LinkReport, WalkReport};
use crate::tracker::Cursor;
use std::net::SocketAddr;

/// Bytes that may wait in a queue before the link loses news.
pub const MAX_QUEUE: usize = 1 << 20;

/// Catch-up frames are made while fewer bytes than this wait.
pub const LOW_QUEUE: usize = 64 * 1024;

/// Milliseconds from the start of an attempt to connect to the first valid frame; from another node's connection to it.
pub const ATTEMPT_MS: u64 = 3000;
pub const HANDSHAKE_MS: u64 = 5000;

/// Milliseconds without a valid frame that end a link, and between two heartbeats.
pub const SILENCE_MS: u64 = 10_000;
pub const HEARTBEAT_MS: u64 = 1000;

/// Milliseconds of silence after which another connection to the same node replaces a link in any case.
pub const STALE_MS: u64 = 3000;

/// A pass over the table, or over the part of it that is left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    pub cursor: Cursor,
    /// Peers stamped before this unit are left out.
    pub since: u64,
    /// Peers learnt from other nodes are sent too.
    pub is_everything: bool,
    pub has_counts: bool,
    /// The first byte of the info-hashes, if it is a slice of the walk.
    pub slice: Option<u8>,
    /// The unit in which it began.
    pub began: u64,
}

/// Bytes and records that have passed through a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
}

#[derive(Debug, Default)]
pub struct Link {
    pub conn: ConnId,
    /// The other node among those that the operator names.
    pub peer: Option<usize>,
    /// None only where there is no link.
    pub address: Option<SocketAddr>,
    pub is_dialler: bool,
    /// When the connection began, then when the link came up.
    pub since: u64,
    /// Hellos; zeros so far.
    pub own: Hello,
    pub theirs: Hello,
    pub session: Option<Session>,
    pub is_up: bool,
    /// Why it ends, once the bytes that wait have been sent.
    pub ending: Option<Failure>,
    pub input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes at the front of `output` that were sent.
    sent: usize,
    /// When the last valid frame came, and the next heartbeat is due.
    pub heard_at: u64,
    pub heartbeat_at: u64,
    /// Added to the other node's units gives this one's.
    pub offset: i64,

    /// The number of the next event to send. Completions before the other number are sent as counted.
    pub next_event: u64,
    pub counted_before: u64,
    /// It takes no news before kept events are sent up to the last one.
    pub is_behind: bool,
    pub pass: Option<Pass>,
    /// The next pass, after the events and the pass under way.
    pub next_pass: Option<Pass>,
    /// The unit before which all local peers were sent; zero so far.
    pub sent_before: u64,
    /// It has been sent all of the present walk.
    pub has_whole_walk: bool,
    /// Requests of the other node, and how many of them were answered.
    pub asked: u64,
    pub answered: u64,

    pub received: Received,
    /// Events up to this number came by an earlier link.
    pub known: u64,
    /// The flags of the last [`records::READY`] that was sent, and how many were sent.
    pub wishes: u64,
    asks: u64,
    /// With the time when it came.
    pub last_heartbeat: Option<(Heartbeat, u64)>,
    /// Milliseconds by which the other node's uptime is ahead of this table's clock. The most so far, as bytes
    /// may have been sent long before they are received.
    pub ahead_ms: Option<i64>,
    pub round_trip_ms: Option<u64>,
    pub clock_ahead_ms: Option<i64>,
    pub is_clock_logged: bool,
    /// Records of the walk that is being received, and the last whole one with its time.
    pub walk: WalkReport,
    pub last_walk: Option<(WalkReport, u64)>,
    pub counters: Counters,
}

impl Link {
    pub fn new(conn: ConnId, peer: Option<usize>, address: SocketAddr, now: u64) -> Link {
        Link {
            conn,
            peer,
            address: Some(address),
            is_dialler: peer.is_some(),
            since: now,
            ..Link::default()
        }
    }

    /// Bytes that wait to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    pub fn queue(&self) -> usize {
        self.output.len() - self.sent
    }

    pub fn sent(&mut self, count: usize) {
        self.counters.bytes_out += count as u64;
        self.sent = self.output.len().min(self.sent + count);
        if self.sent == self.output.len() {
            self.sent = 0;
            self.output.clear();
            // A queue that was long once is seldom long again.
            self.output.shrink_to(LOW_QUEUE);
        } else if self.sent >= MAX_QUEUE {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Where the other node takes connections.
    pub fn home(&self) -> Option<SocketAddr> {
        let address = self.address?;
        Some(SocketAddr::new(address.ip(), self.theirs.port))
    }

    pub fn push_hello(&mut self) {
        self.output.extend_from_slice(&self.own.write());
    }

    /// Sends a frame with this content.
    pub fn push(&mut self, content: &[u8]) {
        if let Some(session) = &mut self.session {
            session.seal(content, &mut self.output);
        }
    }

    pub fn push_all(&mut self, contents: Contents) {
        self.counters.records_out += contents.records;
        for content in contents.finish() {
            self.push(&content);
        }
    }

    /// Whether it takes news and the walk as they are made.
    pub fn keeps_up(&self) -> bool {
        self.is_up && !self.is_behind
    }

    /// Whether catch-up frames are to be made for it now.
    pub fn is_hungry(&self) -> bool {
        let has_more = self.is_behind || self.pass.is_some() || self.next_pass.is_some();
        self.is_up && has_more && self.queue() < LOW_QUEUE
    }

    /// Asks the other node for all after `received`; with flags of [`records::READY`] for more than local peers.
    pub fn ask(&mut self, received: Received, wishes: u64) {
        self.received = received;
        self.known = received.event;
        self.wishes = wishes;
        self.asks += 1;
        let Received { event, unit } = received;
        self.push(&records::numbers(records::READY, &[event, unit, wishes]));
    }

    /// Whether the other node has sent all that it was asked for.
    pub fn is_answered(&self) -> bool {
        let heartbeat = self.last_heartbeat;
        heartbeat.is_some_and(|(theirs, _)| theirs.answers >= self.asks)
    }

    /// Whether all that the other node knows was asked for.
    pub fn is_source(&self) -> bool {
        self.wishes & records::LEARNT != 0
    }

    /// Notes that it was not sent the peers that were stamped from this unit on.
    pub fn lose(&mut self, unit: u64) {
        self.is_behind = true;
        self.has_whole_walk = false;
        let pass = self.next_pass.get_or_insert(Pass {
            since: unit,
            ..Pass::default()
        });
        pass.since = pass.since.min(unit);
    }

    /// A unit of the other node on this node's clock.
    pub fn own_unit(&self, unit: u64) -> u64 {
        unit.saturating_add_signed(self.offset)
    }

    /// Takes note of a heartbeat that came at `now`, by the table's clock at `clock_ms`.
    pub fn hear(&mut self, heartbeat: Heartbeat, now: u64, clock_ms: u64, wall: u64) {
        if heartbeat.echo_ms > 0 {
            let round_trip = now.checked_sub(heartbeat.echo_ms);
            self.round_trip_ms = round_trip.or(self.round_trip_ms);
        }
        let half = self.round_trip_ms.unwrap_or(0) / 2;
        self.clock_ahead_ms = ahead_ms(heartbeat.wall_ms.saturating_add(half), wall);
        self.last_heartbeat = Some((heartbeat, now));
        // Until it is answered it was sent from another position.
        if self.is_answered() {
            if heartbeat.sent.unit > self.received.unit {
                let walk = std::mem::take(&mut self.walk);
                // The first is the end of a catch-up.
                self.last_walk = Some((walk, now)).filter(|_| self.received.unit > 0);
            }
            self.received.event = self.received.event.max(heartbeat.sent.event);
            self.received.unit = self.received.unit.max(heartbeat.sent.unit);
        }
        // One that waited while this node was suspended seems to be ahead by a heartbeat more.
        let ahead = ahead_ms(heartbeat.uptime_ms, clock_ms);
        let most = self
            .ahead_ms
            .map(|ahead| ahead.saturating_add(HEARTBEAT_MS as i64));
        self.ahead_ms = self
            .ahead_ms
            .max(ahead.filter(|ahead| most.is_none_or(|most| *ahead < most)));
    }

    pub fn report(&self, now: u64) -> LinkReport {
        let counters = self.counters;
        LinkReport {
            name: String::new(),
            address: self.address,
            is_up: self.is_up,
            since_ms: now.saturating_sub(self.since),
            failure: None,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            records_in: counters.records_in,
            records_out: counters.records_out,
            queue: self.queue() as u64,
            walk: self.last_walk.map(|(walk, at)| WalkReport {
                ago_ms: now.saturating_sub(at),
                ..walk
            }),
            round_trip_ms: self.round_trip_ms,
            clock_ahead_ms: self.clock_ahead_ms,
            theirs: self.last_heartbeat.map(|(heartbeat, _)| heartbeat.totals),
        }
    }
}

/// Milliseconds by which one clock is ahead of another.
pub fn ahead_ms(one: u64, other: u64) -> Option<i64> {
    i64::try_from(i128::from(one) - i128::from(other)).ok()
}
