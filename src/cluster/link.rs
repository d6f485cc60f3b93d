//! A connection to another node: a handshake at first, a link once the other node has shown that it has the key.

use super::frame::{Hello, Session};
use super::node::ConnId;
use super::records::{self, Contents, Heartbeat, Received};
use crate::stats::cluster::{Failure, LinkReport, Traffic, WalkReport};
use crate::tracker::Cursor;
use std::net::SocketAddr;

/// Above so many bytes in its queue a link loses news.
pub const MAX_QUEUE: usize = 1 << 20;

/// Catch-up frames are made only below so many bytes in the queue.
pub const LOW_QUEUE: usize = 64 * 1024;

/// Milliseconds in which a handshake must be complete: of a connection that this node makes, and of one that it
/// accepts.
pub const ATTEMPT_MS: u64 = 3000;
pub const HANDSHAKE_MS: u64 = 5000;

/// Milliseconds without a valid frame that end a link, and between two heartbeats.
pub const SILENCE_MS: u64 = 10_000;
pub const HEARTBEAT_MS: u64 = 1000;

/// Milliseconds of silence after which any other connection to the same node replaces a link.
pub const STALE_MS: u64 = 3000;

/// A pass over the table, or over the rest of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    pub cursor: Cursor,
    /// Peers stamped before this unit are skipped.
    pub since: u64,
    /// Peers learnt from other nodes are sent too.
    pub is_everything: bool,
    pub has_counts: bool,
    /// The first byte of the info-hashes, if this is a slice of the walk.
    pub slice: Option<u8>,
    /// The unit in which the pass began.
    pub began: u64,
}

#[derive(Debug, Default)]
pub struct Link {
    pub conn: ConnId,
    /// The other node's index among the named ones.
    pub peer: Option<usize>,
    /// None only in a report on a node without a link.
    pub address: Option<SocketAddr>,
    pub is_dialler: bool,
    /// When the connection began, then when the link came up.
    pub since: u64,
    /// Zeros until it was sent.
    pub own: Hello,
    /// Zeros until it was received.
    pub theirs: Hello,
    pub session: Option<Session>,
    pub is_up: bool,
    /// The reason to close the connection when the queue is empty.
    pub ending: Option<Failure>,
    pub input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes at the front of `output` that were sent.
    sent: usize,
    /// When the last valid frame was received, and when the next heartbeat is due.
    pub heard_at: u64,
    pub heartbeat_at: u64,
    /// Added to a unit of the other node, it gives the unit of this one.
    pub offset: i64,

    /// The number of the next event to send. Completions below `counted_before` are sent as counted.
    pub next_event: u64,
    pub counted_before: u64,
    /// Kept events wait to be sent, and no news is sent before them.
    pub is_behind: bool,
    pub pass: Option<Pass>,
    /// Begins after the kept events and the pass under way.
    pub next_pass: Option<Pass>,
    /// All local peers stamped before this unit were sent.
    pub sent_before: u64,
    /// Requests of the other node, and how many of them were answered.
    pub asked: u64,
    pub answered: u64,

    pub received: Received,
    /// Events up to this number were received before the last request, which is for those after it.
    pub known: u64,
    /// The flags of the last [`records::READY`] sent, and the number of those sent.
    pub wishes: u64,
    asks: u64,
    /// With the time of its arrival.
    pub last_heartbeat: Option<(Heartbeat, u64)>,
    /// Milliseconds by which the other node's uptime is ahead of this table's clock: the maximum so far, since bytes
    /// may be received long after they were sent.
    pub ahead_ms: Option<i64>,
    pub round_trip_ms: Option<u64>,
    pub clock_ahead_ms: Option<i64>,
    pub is_clock_logged: bool,
    /// The walk that is being received. None until the other node has answered, since a catch-up comes first.
    pub walk: Option<WalkReport>,
    /// With the time of its end.
    pub last_walk: Option<(WalkReport, u64)>,
    pub traffic: Traffic,
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
        self.traffic.bytes_out += count as u64;
        self.sent = self.output.len().min(self.sent + count);
        if self.sent == self.output.len() || self.sent >= MAX_QUEUE {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        if self.output.is_empty() {
            // A queue that was long once is seldom long again.
            self.output.shrink_to(LOW_QUEUE);
        }
    }

    /// The address at which the other node accepts connections.
    pub fn home(&self) -> Option<SocketAddr> {
        let address = self.address?;
        Some(SocketAddr::new(address.ip(), self.theirs.port))
    }

    pub fn push_hello(&mut self, own: Hello) {
        self.own = own;
        self.output.extend_from_slice(&own.write());
    }

    /// Sends a frame with this content.
    pub fn push(&mut self, content: &[u8]) {
        if let Some(session) = &mut self.session {
            session.seal(content, &mut self.output);
        }
    }

    pub fn push_all(&mut self, contents: Contents) {
        self.traffic.records_out += contents.records;
        for content in contents.finish() {
            self.push(&content);
        }
    }

    /// Whether it is sent news and the walk as they are made.
    pub fn keeps_up(&self) -> bool {
        self.is_up && !self.is_behind
    }

    /// Whether all that the other node has asked for was sent.
    pub fn has_caught_up(&self) -> bool {
        !self.is_behind && self.pass.is_none() && self.next_pass.is_none()
    }

    /// Whether the next tick makes catch-up frames for it.
    pub fn is_hungry(&self) -> bool {
        self.is_up && !self.has_caught_up() && self.queue() < LOW_QUEUE
    }

    /// Asks the other node for everything after `received`. `wishes` are flags of [`records::READY`].
    pub fn ask(&mut self, received: Received, wishes: u64) {
        self.received = received;
        self.known = received.event;
        self.wishes = wishes;
        self.walk = None;
        self.asks += 1;
        let Received { event, unit } = received;
        self.push(&records::numbers(records::READY, &[event, unit, wishes]));
    }

    /// Asks again for all records and counts, since some were refused. Completions up to the position are in the
    /// counts of this node already.
    pub fn ask_again(&mut self, wishes: u64) {
        let event = self.received.event;
        self.ask(Received::default(), wishes);
        self.received.event = event;
    }

    /// Whether the other node has sent everything that it was asked for.
    pub fn is_answered(&self) -> bool {
        let heartbeat = self.last_heartbeat;
        heartbeat.is_some_and(|(theirs, _)| theirs.answers >= self.asks)
    }

    /// Whether this node has no position in the other's events yet: completions are in the counts that it awaits.
    pub fn is_joining(&self) -> bool {
        let is_later = self.wishes & records::LATER != 0;
        is_later || self.wishes & records::JOINING != 0 && !self.is_answered()
    }

    /// Whether the other node was asked for its whole table.
    pub fn is_source(&self) -> bool {
        self.wishes & records::LEARNT != 0
    }

    /// Notes that peers stamped in or after this unit were not sent.
    pub fn lose(&mut self, unit: u64) {
        self.is_behind = true;
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

    /// Takes a heartbeat that is received at `now`, when the table's clock is at `clock_ms`.
    pub fn hear(&mut self, heartbeat: Heartbeat, now: u64, clock_ms: u64, wall: u64) {
        if heartbeat.echo_ms > 0 {
            let round_trip = now.checked_sub(heartbeat.echo_ms);
            self.round_trip_ms = round_trip.or(self.round_trip_ms);
        }
        let half = self.round_trip_ms.unwrap_or(0) / 2;
        self.clock_ahead_ms = ahead_ms(heartbeat.wall_ms.saturating_add(half), wall);
        self.last_heartbeat = Some((heartbeat, now));
        // An earlier heartbeat belongs to the position before the request.
        if self.is_answered() {
            if self.walk.is_none() || heartbeat.sent.unit > self.received.unit {
                let walk = self.walk.replace(WalkReport::default());
                self.last_walk = walk.map(|walk| (walk, now)).or(self.last_walk);
            }
            self.received.event = self.received.event.max(heartbeat.sent.event);
            self.received.unit = self.received.unit.max(heartbeat.sent.unit);
        }
        // A heartbeat that waited while this node was suspended seems to be ahead by more than a heartbeat.
        let limit = |ahead: i64| ahead.saturating_add(HEARTBEAT_MS as i64);
        let limit = self.ahead_ms.map_or(i64::MAX, limit);
        let ahead = ahead_ms(heartbeat.uptime_ms, clock_ms).filter(|ahead| *ahead < limit);
        self.ahead_ms = self.ahead_ms.max(ahead);
    }

    pub fn report(&self, now: u64) -> LinkReport {
        LinkReport {
            is_up: self.is_up,
            since_ms: now.saturating_sub(self.since),
            traffic: self.traffic,
            queue: self.queue() as u64,
            walk: self.last_walk.map(|(walk, at)| WalkReport {
                ago_ms: now.saturating_sub(at),
                ..walk
            }),
            round_trip_ms: self.round_trip_ms,
            clock_ahead_ms: self.clock_ahead_ms,
            theirs: self.last_heartbeat.map(|(heartbeat, _)| heartbeat.totals),
            ..LinkReport::default()
        }
    }
}

/// Milliseconds by which one clock is ahead of another.
pub fn ahead_ms(one: u64, other: u64) -> Option<i64> {
    i64::try_from(i128::from(one) - i128::from(other)).ok()
}
