//! A connection to another node, from the first byte on.

use super::frame::{Hello, RawHello, Session};
use super::records::{self, Heartbeat, Received};
use crate::stats::cluster::{self, Failure, Walk};
use crate::tracker::Cursor;
use std::net::SocketAddr;

/// Bytes that may wait in a queue before the link loses news.
pub const MAX_QUEUE: usize = 1 << 20;

/// Catch-up frames are made while fewer bytes than this wait.
pub const LOW_QUEUE: usize = 64 * 1024;

/// Milliseconds from the connection to the first valid frame.
pub const HANDSHAKE_MS: u64 = 3000;

/// Milliseconds without a valid frame that end a link, and between two heartbeats.
pub const SILENCE_MS: u64 = 10_000;
pub const HEARTBEAT_MS: u64 = 1000;

/// Milliseconds of silence after which another connection to the same node replaces a link in any case.
pub const STALE_MS: u64 = 3000;

/// A pass over the table for one link.
#[derive(Debug)]
pub struct Pass {
    pub cursor: Option<Cursor>,
    /// Peers stamped before this unit are left out.
    pub since: u64,
    /// Peers learnt from other nodes are sent too.
    pub is_everything: bool,
    pub has_counts: bool,
    /// The unit in which it began.
    pub began: u64,
}

/// The request for peers that a node which is not whole makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    #[default]
    Not,
    Local,
    Everything,
}

/// Bytes and records that have passed through a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
}

impl Counters {
    pub fn add(&mut self, more: &Counters) {
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        self.records_in += more.records_in;
        self.records_out += more.records_out;
    }
}

#[derive(Debug, Default)]
pub struct Link {
    /// The number of the node among those that the operator names, if this node connected to it.
    pub peer: Option<usize>,
    /// None only where there is no link.
    pub address: Option<SocketAddr>,
    pub is_dialler: bool,
    pub opened_at: u64,
    /// Sent, from the time when it was made.
    pub own_hello: Option<(Hello, RawHello)>,
    /// The [`Node::epoch`](super::node::Node) of that time.
    pub epoch: u64,
    pub theirs: Option<Hello>,
    pub session: Option<Session>,
    pub is_up: bool,
    /// Why it is to end, once what waits has been sent.
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

    /// The number of the next event to send.
    pub next_event: u64,
    /// It lost news: events are sent from those that are kept, and then a pass is made from this unit.
    pub is_behind: bool,
    pub lost_from: Option<u64>,
    pub has_lost_counts: bool,
    /// Kept stops that are still to be sent without numbers.
    pub stops: std::ops::Range<u64>,
    pub pass: Option<Pass>,
    /// The unit before which all local peers were sent; zero so far.
    pub sent_before: u64,
    /// It has been sent all of the present walk.
    pub has_whole_walk: bool,
    /// The other node is not whole and has not asked yet.
    pub awaits_request: bool,

    pub received: Received,
    pub asked: Asked,
    /// Requests sent, requests received, and the number of those that were answered.
    pub requests_out: u32,
    pub requests_in: u32,
    pub requests_answered: u32,
    /// With the time when it came.
    pub last_heartbeat: Option<(Heartbeat, u64)>,
    /// Milliseconds by which the other node's uptime is ahead of this table's clock. The most so far, as what is
    /// received may have been sent long ago.
    pub ahead_ms: Option<i64>,
    pub round_trip_ms: Option<u64>,
    pub clock_ahead_ms: Option<i64>,
    pub is_clock_told: bool,
    /// Records of the walk that is being received, and the last whole one with its time.
    pub walk: Walk,
    pub last_walk: Option<(Walk, u64)>,
    pub counters: Counters,
}

impl Link {
    pub fn new(peer: Option<usize>, address: SocketAddr, now: u64) -> Link {
        Link {
            peer,
            address: Some(address),
            is_dialler: peer.is_some(),
            opened_at: now,
            heard_at: now,
            ..Link::default()
        }
    }

    pub fn id(&self) -> u64 {
        self.theirs.map_or(0, |theirs| theirs.id)
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

    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends a frame with this content.
    pub fn push(&mut self, content: &[u8]) {
        if let Some(session) = &mut self.session {
            session.seal(content, &mut self.output);
        }
    }

    /// Whether it takes news and the walk as they are made.
    pub fn keeps_up(&self) -> bool {
        self.is_up && !self.is_behind
    }

    /// Whether catch-up frames are to be made for it now.
    pub fn is_hungry(&self) -> bool {
        let has_more = self.is_behind
            || self.pass.is_some()
            || !self.stops.is_empty()
            || self.lost_from.is_some();
        self.is_up && has_more && self.queue() < LOW_QUEUE
    }

    /// Whether the other node waits for a request, as this one was not whole when they met.
    pub fn awaits_own_request(&self) -> bool {
        self.own_hello.is_some_and(|(hello, _)| !hello.is_whole)
    }

    /// Asks the other node for peers.
    pub fn ask(&mut self, flags: u8) {
        self.requests_out += 1;
        self.push(&[records::ASK, flags]);
    }

    /// Whether the other node has sent all that it was asked for.
    pub fn is_answered(&self) -> bool {
        let answers = self.last_heartbeat.map_or(0, |(theirs, _)| theirs.answers);
        answers >= self.requests_out.max(u32::from(self.awaits_own_request()))
    }

    /// Notes that it was not sent what was stamped from this unit on.
    pub fn lose(&mut self, unit: u64) {
        self.is_behind = true;
        self.has_whole_walk = false;
        self.lost_from = Some(self.lost_from.map_or(unit, |lost| lost.min(unit)));
    }

    /// A unit of the other node on this node's clock.
    pub fn own_unit(&self, unit: u64) -> u64 {
        unit.saturating_add_signed(self.offset)
    }

    /// Takes note of a heartbeat that came at `now`, by the table's clock at `clock_ms`.
    pub fn hear(&mut self, heartbeat: Heartbeat, now: u64, clock_ms: u64, wall: u64) {
        let passed = now.checked_sub(heartbeat.echo_ms);
        let round_trip = passed.and_then(|passed| passed.checked_sub(heartbeat.held_ms.into()));
        if heartbeat.echo_ms > 0 {
            self.round_trip_ms = round_trip.or(self.round_trip_ms);
        }
        let half = self.round_trip_ms.unwrap_or(0) / 2;
        let ahead = i128::from(heartbeat.wall_ms) + i128::from(half) - i128::from(wall);
        self.clock_ahead_ms = i64::try_from(ahead).ok();
        if heartbeat.sent.unit > self.received.unit {
            let walk = std::mem::take(&mut self.walk);
            // The first is the end of a catch-up.
            self.last_walk = Some((walk, now)).filter(|_| self.received.unit > 0);
        }
        self.received.event = self.received.event.max(heartbeat.sent.event);
        self.received.unit = self.received.unit.max(heartbeat.sent.unit);
        // One that waited while this node was suspended seems to be ahead by a heartbeat more.
        let ahead = ahead_ms(heartbeat.uptime_ms, clock_ms);
        let most = self
            .ahead_ms
            .map(|ahead| ahead.saturating_add(HEARTBEAT_MS as i64));
        self.ahead_ms = self
            .ahead_ms
            .max(ahead.filter(|ahead| most.is_none_or(|most| *ahead < most)));
        self.last_heartbeat = Some((heartbeat, now));
    }

    /// `before` is what went through earlier connections to the same node.
    pub fn report(&self, before: &Counters, now: u64) -> cluster::Link {
        let mut counters = self.counters;
        counters.add(before);
        cluster::Link {
            name: String::new(),
            address: self.address,
            is_up: self.is_up,
            since_ms: now.saturating_sub(self.opened_at),
            failure: None,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            records_in: counters.records_in,
            records_out: counters.records_out,
            queue: self.queue() as u64,
            walk: self.last_walk.map(|(walk, at)| Walk {
                ago_ms: now.saturating_sub(at),
                ..walk
            }),
            round_trip_ms: self.round_trip_ms,
            clock_ahead_ms: self.clock_ahead_ms,
            theirs: self.last_heartbeat.map(|(heartbeat, _)| heartbeat.totals),
        }
    }
}

/// Milliseconds by which a node's uptime is ahead of a table's clock.
pub fn ahead_ms(uptime_ms: u64, clock_ms: u64) -> Option<i64> {
    i64::try_from(i128::from(uptime_ms) - i128::from(clock_ms)).ok()
}
