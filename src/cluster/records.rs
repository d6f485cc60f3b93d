//! The contents of frames: records of peers, events, counts, and what nodes tell each other of themselves.
//!
//! A content begins with its kind. Numbers are big-endian, units count on the sender's clock.
//!
//! ```text
//! 1 ready      event 8, unit 8: the last event received from this node, and the unit before which all its peers
//!              were received; zeros if it is new here
//! 2 ask        flags 1: 1 learnt peers too, 2 counts too
//! 3 heartbeat  uptime 8, wall clock 8 (ms since 1970), torrents 8, seeders 8, leechers 8, last event 8, unit 8,
//!              echo 8: the uptime of the last heartbeat received, and 4 the milliseconds since then; requests answered 4
//! 4 records    purpose 1 (0 news, 1 walk, 2 catch-up), unit 8, then groups:
//!              flags 1: 128 IPv6, 64 the torrent of the group before, then the number of records less 1; info-hash 20
//!              unless it is the same; records: state 1, address 4 or 16, port 2
//! 5 events     number of the first 8 (0: not numbered), unit 8, then events:
//!              flags 1: 128 IPv6, 64 a completion and no stop, then the age; info-hash 20, address 4 or 16, port 2
//! 6 counts     so many of: info-hash 20, downloaded 4, seconds without peers 4
//! ```
//! A state is the age in units plus 2, so that units ahead have one; 64 is a seeder, 128 a completion that was counted.

use super::frame::MAX_CONTENT;
use crate::tracker::{COMPLETED, InfoHash, MAX_BATCH, News, Peer, Record, Role, State, Totals};

pub const READY: u8 = 1;
pub const ASK: u8 = 2;
pub const HEARTBEAT: u8 = 3;
pub const RECORDS: u8 = 4;
pub const EVENTS: u8 = 5;
pub const COUNTS: u8 = 6;

/// Why records are sent.
pub const NEWS: u8 = 0;
pub const WALK: u8 = 1;
pub const CATCH_UP: u8 = 2;

/// Bits of an [`ASK`].
pub const LEARNT: u8 = 1;
pub const WITH_COUNTS: u8 = 2;

const V6: u8 = 0x80;
const SAME: u8 = 0x40;
const MAX_GROUP: u8 = 64;
const SEEDER: u8 = 0x40;
const COMPLETION: u8 = 0x40;
const AGE: u8 = 0x3f;

/// Added to ages: a record may be 2 units ahead of its frame.
const AHEAD: u64 = 2;
/// The age of what is older than any peer.
const MAX_AGE: u64 = 60;

/// The most bytes that a record adds: the group's flags, an info-hash, state, address and port.
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

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

fn age_of(unit: u64, now: u64) -> u8 {
    let age = now
        .saturating_add(AHEAD)
        .saturating_sub(unit)
        .min(MAX_AGE + AHEAD);
    u8::try_from(age).unwrap_or(AGE)
}

fn unit_of(state: u8, now: u64) -> u64 {
    now.saturating_add(AHEAD)
        .saturating_sub(u64::from(state & AGE))
}

/// Contents that are being filled: another begins when one is full.
#[derive(Debug, Default)]
pub struct Contents {
    pub full: Vec<Vec<u8>>,
    open: Vec<u8>,
    head: Vec<u8>,
    /// Where the flags of the last group are.
    group: usize,
    last: Option<InfoHash>,
    unit: u64,
    pub records: u64,
}

impl Contents {
    fn new(head: Vec<u8>, unit: u64) -> Contents {
        Contents {
            head,
            unit,
            ..Contents::default()
        }
    }

    /// Of [`RECORDS`]; `unit` is now.
    pub fn records(purpose: u8, unit: u64) -> Contents {
        let mut head = vec![RECORDS, purpose];
        head.extend_from_slice(&unit.to_be_bytes());
        Contents::new(head, unit)
    }

    pub fn counts() -> Contents {
        Contents::new(vec![COUNTS], 0)
    }

    /// Makes room for a record.
    fn begin(&mut self, number: u64) {
        if self.open.len() + MAX_RECORD > MAX_CONTENT {
            self.end();
        }
        if self.open.is_empty() {
            self.open.extend_from_slice(&self.head);
            if self.head.first() == Some(&EVENTS) {
                self.open.extend_from_slice(&number.to_be_bytes());
                self.open.extend_from_slice(&self.unit.to_be_bytes());
            }
            self.last = None;
        }
        self.records += 1;
    }

    fn end(&mut self) {
        if !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
    }

    /// The contents, all of them now.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.full
    }

    /// Appends a record: address and port as on the wire, the role, the unit of the announce.
    pub fn push(
        &mut self,
        info_hash: &InfoHash,
        endpoint: &[u8],
        role: Role,
        unit: u64,
        completed: bool,
    ) {
        self.begin(0);
        let family = if endpoint.len() > 6 { V6 } else { 0 };
        let is_same = self.last.as_ref() == Some(info_hash);
        let flags = self.open.get_mut(self.group).filter(|_| is_same);
        match flags {
            Some(flags) if *flags & V6 == family && (*flags & (MAX_GROUP - 1)) < MAX_GROUP - 1 => {
                *flags += 1;
            }
            _ => {
                self.group = self.open.len();
                self.open.push(if is_same { family | SAME } else { family });
                if !is_same {
                    self.open.extend_from_slice(info_hash);
                    self.last = Some(*info_hash);
                }
            }
        }
        let role = if role == Role::Seeder { SEEDER } else { 0 };
        let completed = if completed { COMPLETED } else { 0 };
        self.open.push(age_of(unit, self.unit) | role | completed);
        self.open.extend_from_slice(endpoint);
    }

    pub fn push_count(&mut self, info_hash: &InfoHash, downloaded: u32, empty_for: u32) {
        self.begin(0);
        self.open.extend_from_slice(info_hash);
        self.open.extend_from_slice(&downloaded.to_be_bytes());
        self.open.extend_from_slice(&empty_for.to_be_bytes());
    }

    /// Of [`EVENTS`]; `unit` is now.
    pub fn events(unit: u64) -> Contents {
        Contents::new(vec![EVENTS], unit)
    }

    /// Appends an event. Those of one content have numbers in a row.
    pub fn push_event(&mut self, number: u64, news: &News) {
        self.begin(number);
        let endpoint = news.record.peer.endpoint();
        let family = if endpoint.len() > 6 { V6 } else { 0 };
        let kind = if news.is_completion { COMPLETION } else { 0 };
        self.open
            .push(age_of(news.record.unit, self.unit) | family | kind);
        self.open.extend_from_slice(&news.info_hash);
        self.open.extend_from_slice(endpoint);
    }
}

/// The head of a content of [`RECORDS`]: purpose, the sender's unit.
pub fn read_head(reader: &mut Reader) -> Option<(u8, u64)> {
    Some((reader.u8()?, reader.u64()?))
}

fn read_record(record: &[u8], now: u64) -> Option<Record> {
    let (&state, endpoint) = record.split_first()?;
    Some(Record {
        peer: peer(endpoint)?,
        state: State::Present(match state & SEEDER {
            0 => Role::Leecher,
            _ => Role::Seeder,
        }),
        completed: state & COMPLETED != 0,
        unit: unit_of(state, now),
    })
}

/// No node stores a peer at port 0.
#[inline]
fn peer(endpoint: &[u8]) -> Option<Peer> {
    match *endpoint {
        [.., 0, 0] => None,
        // The usual case at once.
        [a, b, c, d, high, low] => Some(Peer::V4([a, b, c, d, high, low, 0])),
        _ => Peer::from_endpoint(endpoint),
    }
}

/// Records of one torrent.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    pub info_hash: &'a InfoHash,
    is_v6: bool,
    records: &'a [u8],
}

impl<'a> Group<'a> {
    /// The records, their units on a clock on which the frame was made in unit `now`.
    pub fn records(self, now: u64) -> impl Iterator<Item = Record> + 'a {
        let size = if self.is_v6 { 19 } else { 7 };
        self.records
            .chunks_exact(size)
            .filter_map(move |record| read_record(record, now))
    }

    pub fn count(self) -> usize {
        self.records.len() / if self.is_v6 { 19 } else { 7 }
    }
}

/// Reads the next groups, at most a batch; none at the end or where the rest is malformed.
pub fn read_groups<'a>(
    reader: &mut Reader<'a>,
    last: &mut Option<&'a InfoHash>,
) -> ([Option<Group<'a>>; MAX_BATCH], usize) {
    let mut groups = [None; MAX_BATCH];
    let mut count = 0;
    for place in &mut groups {
        let Some(group) = read_group(reader, last) else {
            break;
        };
        *place = Some(group);
        count += 1;
    }
    (groups, count)
}

fn read_group<'a>(reader: &mut Reader<'a>, last: &mut Option<&'a InfoHash>) -> Option<Group<'a>> {
    let flags = reader.u8()?;
    if flags & SAME == 0 {
        *last = Some(reader.chunk()?);
    }
    let is_v6 = flags & V6 != 0;
    let size = if is_v6 { 19 } else { 7 };
    let count = usize::from(flags & (MAX_GROUP - 1)) + 1;
    Some(Group {
        info_hash: (*last)?,
        is_v6,
        records: reader.bytes(count * size)?,
    })
}

/// The head of a content of [`EVENTS`]: the number of the first, the sender's unit.
pub fn read_events_head(reader: &mut Reader) -> Option<(u64, u64)> {
    Some((reader.u64()?, reader.u64()?))
}

/// The next event of a frame that was made in unit `now`.
pub fn read_event(reader: &mut Reader, now: u64) -> Option<News> {
    let flags = reader.u8()?;
    let info_hash = reader.array()?;
    let endpoint = reader.bytes(if flags & V6 != 0 { 18 } else { 6 })?;
    let is_completion = flags & COMPLETION != 0;
    Some(News {
        info_hash,
        record: Record {
            peer: peer(endpoint)?,
            state: match is_completion {
                true => State::Present(Role::Seeder),
                false => State::Stopped,
            },
            completed: is_completion,
            unit: unit_of(flags, now),
        },
        is_completion,
        renews: None,
    })
}

/// The next count: info-hash, downloaded, seconds without peers.
pub fn read_count(reader: &mut Reader) -> Option<(InfoHash, u32, u32)> {
    Some((reader.array()?, reader.u32()?, reader.u32()?))
}

/// The position of one node in the records of another, in the other's numbers and units; zeros at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub event: u64,
    /// All that was stamped before this unit.
    pub unit: u64,
}

impl Received {
    /// As a content of [`READY`].
    pub fn write(self) -> Vec<u8> {
        let mut out = vec![READY];
        out.extend_from_slice(&self.event.to_be_bytes());
        out.extend_from_slice(&self.unit.to_be_bytes());
        out
    }

    pub fn read(reader: &mut Reader) -> Option<Received> {
        Some(Received {
            event: reader.u64()?,
            unit: reader.u64()?,
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub uptime_ms: u64,
    pub wall_ms: u64,
    pub totals: Totals,
    /// The receiver's position once it has this.
    pub sent: Received,
    /// Requests of the receiver that were answered.
    pub answers: u32,
    pub echo_ms: u64,
    pub held_ms: u32,
}

impl Heartbeat {
    pub fn write(&self) -> Vec<u8> {
        let Totals {
            torrents,
            seeders,
            leechers,
        } = self.totals;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let mut out = vec![HEARTBEAT];
        for number in [
            self.uptime_ms,
            self.wall_ms,
            count(torrents),
            count(seeders),
            count(leechers),
            self.sent.event,
            self.sent.unit,
            self.echo_ms,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.held_ms.to_be_bytes());
        out.extend_from_slice(&self.answers.to_be_bytes());
        out
    }

    pub fn read(reader: &mut Reader) -> Option<Heartbeat> {
        let mut next = || reader.u64();
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let (uptime_ms, wall_ms) = (next()?, next()?);
        let (torrents, seeders, leechers) = (count(next()?), count(next()?), count(next()?));
        let sent = Received {
            event: next()?,
            unit: next()?,
        };
        Some(Heartbeat {
            uptime_ms,
            wall_ms,
            totals: Totals {
                torrents,
                leechers,
                seeders,
            },
            sent,
            echo_ms: next()?,
            held_ms: reader.u32()?,
            answers: reader.u32()?,
        })
    }
}
