//! The contents of frames: records of peers, counts, requests and heartbeats.
//!
//! A content begins with its kind. Numbers are big-endian. Units are those of the sender's clock.
//!
//! ```text
//! 1 ready      a request for events after this number 8 and peers stamped in or after this unit 8; flags 8:
//!              1 learnt peers too, 2 counts too, 4 counts include the completions so far, 8 only news for now
//! 2 heartbeat  uptime 8, wall clock 8 (ms since 1970), torrents 8, seeders 8, leechers 8, number of the last
//!              event sent 8, unit before which all peers were sent 8, contents of kind 1 that were answered 8,
//!              echo 8: the last uptime received, and the milliseconds since then; 8: 1 if the sender is whole
//! 3 records    unit 8, number of the first event 8, then groups:
//!              flags 1: 128 IPv6, 64 same torrent as the group before, 48 its kind, 15 the number of records less 1;
//!              info-hash 20 unless it is the same; records: state 1, address 4 or 16, port 2
//! 4 walk       like records
//! 5 counts     each: info-hash 20, downloaded 4, seconds without peers 4
//! ```
//! A group holds peers that are present (kind 0) or one event: 16 a stop, 32 a completion, 48 a completion that is
//! included in the counts sent later. A state is the age in units plus 2, since a unit may be ahead of the clock; 64
//! means a seeder, 128 a peer whose completion was counted.

use super::frame::MAX_CONTENT;
use crate::tracker::{COMPLETED, InfoHash, MAX_BATCH, News, Peer, PeerState, Record, Role, Totals};

pub const READY: u8 = 1;
pub const HEARTBEAT: u8 = 2;
pub const RECORDS: u8 = 3;
pub const WALK: u8 = 4;
pub const COUNTS: u8 = 5;

/// Flags of [`READY`].
pub const LEARNT: u64 = 1;
pub const WITH_COUNTS: u64 = 2;
pub const JOINING: u64 = 4;
pub const LATER: u64 = 8;

/// Flags of a group.
const V6: u8 = 0x80;
const SAME: u8 = 0x40;
const EVENT: u8 = 0x30;
const STOP: u8 = 0x10;
const COMPLETION: u8 = 0x20;
const COUNTED: u8 = 0x30;
const MAX_GROUP: u8 = 16;

/// Parts of a state; [`COMPLETED`] is the third.
const SEEDER: u8 = 0x40;
const AGE: u8 = 0x3f;

/// Added to ages: a record may be 2 units ahead of its frame.
const AHEAD: u64 = 2;
/// The age of records that are older than any peer.
const MAX_AGE: u64 = 60;

/// A record adds at most the flags of a group, an info-hash, state, address and port.
const MAX_RECORD: usize = 1 + 20 + 1 + 18;

/// Reads fields from the front of bytes.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.chunk().copied()
    }

    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(first)
    }

    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    /// Numbers of eight bytes.
    pub fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.array().map(u64::from_be_bytes)?;
        }
        Some(numbers)
    }
}

/// A content of numbers.
pub fn numbers(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let bytes = numbers.iter().flat_map(|number| number.to_be_bytes());
    std::iter::once(kind).chain(bytes).collect()
}

fn state_of(role: Role, completed: bool, unit: u64, now: u64) -> u8 {
    let age = (now.saturating_add(AHEAD).saturating_sub(unit)).min(MAX_AGE + AHEAD);
    let role = if role == Role::Seeder { SEEDER } else { 0 };
    let completed = if completed { COMPLETED } else { 0 };
    u8::try_from(age).unwrap_or(AGE) | role | completed
}

/// Contents that are being filled: when one is full, the next begins.
#[derive(Debug, Default)]
pub struct Contents {
    kind: u8,
    unit: u64,
    /// The number of the next event.
    number: u64,
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
    /// The index of the last group's flags.
    group: usize,
    last: Option<InfoHash>,
    pub records: u64,
}

impl Contents {
    /// `unit` is the present one, `number` the number of the first event.
    pub fn new(kind: u8, unit: u64, number: u64) -> Contents {
        Contents {
            kind,
            unit,
            number,
            ..Contents::default()
        }
    }

    /// Makes room for a record.
    fn begin(&mut self) {
        if self.open.len() + MAX_RECORD > MAX_CONTENT {
            self.full.push(std::mem::take(&mut self.open));
        }
        if self.open.is_empty() {
            self.open = match self.kind {
                COUNTS => vec![COUNTS],
                kind => numbers(kind, &[self.unit, self.number]),
            };
            self.last = None;
        }
    }

    pub fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.open.is_empty() {
            self.full.push(self.open);
        }
        self.full
    }

    /// Appends a peer that is present. `endpoint` is address and port as on the wire.
    pub fn push(
        &mut self,
        info_hash: &InfoHash,
        endpoint: &[u8],
        role: Role,
        unit: u64,
        completed: bool,
    ) {
        let state = state_of(role, completed, unit, self.unit);
        self.push_record(0, info_hash, endpoint, state);
    }

    /// Appends news. A completion `is_counted` if the counts sent later include it.
    pub fn push_news(&mut self, news: &News, is_counted: bool) {
        let record = news.record;
        let (what, role) = match record.state {
            PeerState::Stopped => (STOP, Role::Leecher),
            PeerState::Present(role) if !record.completed => (0, role),
            PeerState::Present(role) if is_counted => (COUNTED, role),
            PeerState::Present(role) => (COMPLETION, role),
        };
        let state = state_of(role, record.completed, record.unit, self.unit);
        self.push_record(what, &news.info_hash, record.peer.endpoint(), state);
        self.number += u64::from(what != 0);
    }

    fn push_record(&mut self, what: u8, info_hash: &InfoHash, endpoint: &[u8], state: u8) {
        self.begin();
        self.records += 1;
        let kind = what | if endpoint.len() > 6 { V6 } else { 0 };
        let is_same = self.last.as_ref() == Some(info_hash);
        let joins = |flags: u8| {
            let is_full = flags & (MAX_GROUP - 1) == MAX_GROUP - 1;
            is_same && what == 0 && flags & (V6 | EVENT) == kind && !is_full
        };
        match self.open.get_mut(self.group) {
            Some(flags) if joins(*flags) => *flags += 1,
            _ => {
                self.group = self.open.len();
                self.open.push(if is_same { kind | SAME } else { kind });
                if !is_same {
                    self.open.extend_from_slice(info_hash);
                    self.last = Some(*info_hash);
                }
            }
        }
        self.open.push(state);
        self.open.extend_from_slice(endpoint);
    }

    pub fn push_count(&mut self, info_hash: &InfoHash, downloaded: u32, empty_for: u32) {
        self.begin();
        self.open.extend_from_slice(info_hash);
        self.open.extend_from_slice(&downloaded.to_be_bytes());
        self.open.extend_from_slice(&empty_for.to_be_bytes());
    }
}

/// Records of one torrent.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    pub info_hash: &'a InfoHash,
    flags: u8,
    size: usize,
    records: &'a [u8],
}

impl<'a> Group<'a> {
    /// The records, with units by the clock by which the frame was made in unit `now`.
    pub fn records(self, now: u64) -> impl Iterator<Item = Record> + 'a {
        let is_stop = self.flags & EVENT == STOP;
        let records = self.records.chunks_exact(self.size);
        records.filter_map(move |record| read_record(record, is_stop, now))
    }

    pub fn count(&self) -> u64 {
        (self.records.len() / self.size) as u64
    }

    pub fn is_event(&self) -> bool {
        self.flags & EVENT != 0
    }

    pub fn is_completion(&self) -> bool {
        self.flags & EVENT == COMPLETION
    }
}

fn read_record(record: &[u8], is_stop: bool, now: u64) -> Option<Record> {
    let (&state, endpoint) = record.split_first()?;
    let age = u64::from(state & AGE);
    Some(Record {
        peer: peer(endpoint)?,
        state: match state & SEEDER {
            _ if is_stop => PeerState::Stopped,
            0 => PeerState::Present(Role::Leecher),
            _ => PeerState::Present(Role::Seeder),
        },
        completed: state & COMPLETED != 0,
        unit: now.saturating_add(AHEAD).saturating_sub(age),
    })
}

#[inline]
fn peer(endpoint: &[u8]) -> Option<Peer> {
    match *endpoint {
        // The common case without a call.
        [a, b, c, d, high, low] => Some(Peer::V4([a, b, c, d, high, low, 0])),
        _ => Peer::from_endpoint(endpoint),
    }
}

/// Reads the groups of a content.
pub struct Groups<'a> {
    reader: Reader<'a>,
    last: Option<&'a InfoHash>,
}

impl<'a> Groups<'a> {
    pub fn new(reader: Reader<'a>) -> Groups<'a> {
        Groups { reader, last: None }
    }

    /// The next groups; none at the end, nor if the rest is malformed.
    pub fn next_batch(&mut self) -> [Option<Group<'a>>; MAX_BATCH] {
        std::array::from_fn(|_| {
            let group = self.next();
            if group.is_none() {
                self.reader = Reader(&[]);
            }
            group
        })
    }

    fn next(&mut self) -> Option<Group<'a>> {
        let [flags] = self.reader.array()?;
        if flags & SAME == 0 {
            self.last = Some(self.reader.chunk()?);
        }
        let size = if flags & V6 != 0 { 19 } else { 7 };
        let count = usize::from(flags & (MAX_GROUP - 1)) + 1;
        Some(Group {
            info_hash: self.last?,
            flags,
            size,
            records: self.reader.bytes(count * size)?,
        })
    }
}

/// The next count: info-hash, downloaded, seconds without peers.
pub fn read_count(reader: &mut Reader) -> Option<(InfoHash, u32, u32)> {
    let info_hash = reader.array()?;
    let mut number = || reader.array().map(u32::from_be_bytes);
    Some((info_hash, number()?, number()?))
}

/// The position of one node in the records of another, by the other's numbers and clock; zeros at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub event: u64,
    /// All local peers stamped before this unit were received.
    pub unit: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub uptime_ms: u64,
    pub wall_ms: u64,
    pub totals: Totals,
    /// The position of the receiver when it has read this.
    pub sent: Received,
    /// Contents of [`READY`] that were answered.
    pub answers: u64,
    /// The receiver's uptime now, less the time that bytes take both ways; zero if it is unknown.
    pub echo_ms: u64,
    /// Whether the sender has the peers of all nodes.
    pub is_whole: bool,
}

impl Heartbeat {
    pub fn write(&self) -> Vec<u8> {
        let fields = [
            self.uptime_ms,
            self.wall_ms,
            self.totals.torrents as u64,
            self.totals.seeders as u64,
            self.totals.leechers as u64,
            self.sent.event,
            self.sent.unit,
            self.answers,
            self.echo_ms,
            self.is_whole.into(),
        ];
        numbers(HEARTBEAT, &fields)
    }

    pub fn read(reader: &mut Reader) -> Option<Heartbeat> {
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let [uptime_ms, wall_ms] = reader.numbers()?;
        let [torrents, seeders, leechers] = reader.numbers()?.map(count);
        let [event, unit, answers, echo_ms] = reader.numbers()?;
        // Older nodes do not send it.
        let is_whole = reader.numbers().is_some_and(|[number]| number == 1);
        Some(Heartbeat {
            uptime_ms,
            wall_ms,
            totals: Totals {
                torrents,
                leechers,
                seeders,
            },
            sent: Received { event, unit },
            answers,
            echo_ms,
            is_whole,
        })
    }
}
