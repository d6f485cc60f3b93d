//! The cluster's own packets, bytes to values and back. All numbers are big-endian.
//!
//! ```text
//! 0   version 1, kind 1, zero 2, session 4, node id 8, sequence number 8
//! 24  the body, by kind
//! -16 message authentication code, over all before it
//! ```
//!
//! A packet is at most [`MOST`] bytes. Its code is checked before anything but version, session and node id
//! is read; those name the key. A [`Hello`] is under the key of the cluster, everything else under that of a
//! session and a direction.

use crate::siphash::siphash24_128;
use crate::sys::chunks::as_chunks;
use crate::tracker::ledger::{Change, Key, State};
use crate::tracker::{InfoHash, Peer, Role};

pub const VERSION: u8 = 1;

/// Bytes of a packet: with the headers of UDP and IPv6 below what tunnels leave of 1500.
pub const MOST: usize = 1400;
pub(super) const HEADER: usize = 24;
pub(super) const CODE: usize = 16;
/// Bytes of a body.
pub const ROOM: usize = MOST - HEADER - CODE;

pub type SipKey = [u64; 2];
pub type Nonce = [u8; 16];

/// What is derived from a cluster's secret: keys for each purpose, of which none tells another.
#[derive(Clone, Debug)]
pub struct Keys {
    master: SipKey,
    hello: SipKey,
}

impl Keys {
    /// Of the bytes of the key file, at least 32 of them; all count.
    pub fn new(secret: &[u8]) -> Keys {
        let mut first = [0; 32];
        for (to, from) in first.iter_mut().zip(secret) {
            *to = *from;
        }
        let words = as_chunks(&first).0;
        let words: [u64; 4] = std::array::from_fn(|i| u64::from_le_bytes(words[i]));
        let [a, b, c, d] = words;
        let [e, f] = siphash24_128([a, b], secret);
        let master = siphash24_128([c ^ e, d ^ f], secret);
        let hello = siphash24_128(master, b"hello");
        Keys { master, hello }
    }

    /// For the hashes that digests are made of.
    pub fn digests(&self) -> SipKey {
        siphash24_128(self.master, b"digests")
    }

    /// For UDP connection ids that all nodes accept.
    pub fn connections(&self) -> SipKey {
        siphash24_128(self.master, b"connections")
    }

    /// For decoys that all nodes name.
    pub fn decoys(&self) -> SipKey {
        siphash24_128(self.master, b"decoys")
    }

    /// For the greetings on streams.
    pub fn greetings(&self) -> SipKey {
        siphash24_128(self.master, b"greetings")
    }

    /// By which nodes of this cluster know each other's multicast: not a secret.
    pub fn multicast(&self) -> [u8; 4] {
        let [word, _] = siphash24_128(self.master, b"multicast");
        let [a, b, c, d, ..] = word.to_be_bytes();
        [a, b, c, d]
    }

    /// For what one node says to another in a session that these nonces began.
    fn direction(&self, from: &Party, to: &Party) -> SipKey {
        self.between(b'd', from, to)
    }

    /// The same on a stream.
    pub fn stream(&self, from: &Party, to: &Party) -> SipKey {
        self.between(b's', from, to)
    }

    fn between(&self, purpose: u8, from: &Party, to: &Party) -> SipKey {
        let mut message = [0; 57];
        message[0] = purpose;
        message[1..9].copy_from_slice(&from.id.to_be_bytes());
        message[9..17].copy_from_slice(&to.id.to_be_bytes());
        message[17..33].copy_from_slice(&from.nonce);
        message[33..49].copy_from_slice(&to.nonce);
        siphash24_128(self.master, &message)
    }
}

/// One end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub id: u64,
    pub nonce: Nonce,
}

/// Two keys, and what has been sent and received under them.
#[derive(Clone, Debug)]
pub struct Session {
    pub us: Party,
    pub them: Party,
    send: SipKey,
    receive: SipKey,
    /// Which session a packet belongs to; the same for both.
    pub tag: u32,
    sequence: u64,
    window: Window,
}

impl Session {
    pub fn new(keys: &Keys, us: Party, them: Party) -> Session {
        let send = keys.direction(&us, &them);
        let receive = keys.direction(&them, &us);
        let tag = siphash24_128(send, b"tag")[0] ^ siphash24_128(receive, b"tag")[0];
        Session {
            us,
            them,
            send,
            receive,
            tag: (tag >> 32) as u32,
            sequence: 0,
            window: Window::default(),
        }
    }

    /// Writes a packet.
    pub fn seal(&mut self, kind: Kind, body: &[u8], packet: &mut Vec<u8>) {
        self.sequence += 1;
        let start = packet.len();
        put_header(packet, kind, self.tag, self.us.id, self.sequence);
        packet.extend_from_slice(body);
        put_code(packet, start, self.send);
    }

    /// The kind and the body of a packet of this session, once it has been shown to be genuine and new.
    pub fn open<'a>(&mut self, packet: &'a [u8]) -> Result<(Kind, &'a [u8]), Rejection> {
        let message = check_code(packet, self.receive)?;
        let mut reader = Reader(message);
        let header = read_header(&mut reader).ok_or(Rejection::Malformed)?;
        if !self.window.accept(header.sequence) {
            return Err(Rejection::Replayed);
        }
        let kind = Kind::of(header.kind).ok_or(Rejection::Malformed)?;
        Ok((kind, reader.0))
    }
}

/// Which sequence numbers have been received: the greatest, and the 256 before it.
#[derive(Clone, Debug, Default)]
struct Window {
    last: u64,
    seen: [u64; 4],
}

impl Window {
    const SIZE: u64 = 256;

    /// Whether this number is new; it is not from then on. Numbers too old to tell are not.
    fn accept(&mut self, number: u64) -> bool {
        if number > self.last {
            let skipped = (number - self.last).min(Self::SIZE);
            for ago in 0..skipped {
                let (word, bit) = Self::place(number - ago);
                self.seen[word] &= !bit;
            }
            self.last = number;
        } else if self.last - number >= Self::SIZE {
            return false;
        }
        let (word, bit) = Self::place(number);
        let is_new = number > 0 && self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    fn place(number: u64) -> (usize, u64) {
        ((number / 64 % 4) as usize, 1 << (number % 64))
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Of another version of this protocol, or none of it at all.
    Version,
    /// Cut short, or nonsense within a genuine packet.
    Malformed,
    /// Not made with the key.
    Forged,
    /// Received before.
    Replayed,
    /// Of a session that is over.
    Stale,
    /// From a node that has another peer timeout.
    Timeout,
    /// More than can be applied.
    Shed,
}

impl Rejection {
    pub const COUNT: usize = 7;
    pub const NAMES: [&str; Rejection::COUNT] = [
        "version",
        "malformed",
        "forged",
        "replayed",
        "stale",
        "timeout",
        "shed",
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hello = 1,
    Heartbeat,
    /// Changes, told once.
    Records,
    /// Batches that have not arrived.
    Missing,
    /// Digests of rows of buckets.
    Groups,
    /// Digests of the buckets of a row.
    Buckets,
    /// Digests of ranges of keys.
    Ranges,
    /// All that one has in a range.
    Items,
    /// What the other lacks.
    Repair,
    /// Digests of the counts of torrents.
    Tallies,
    /// Counts of torrents.
    Counts,
}

impl Kind {
    pub(super) fn of(number: u8) -> Option<Kind> {
        use Kind::*;
        let all = [
            Hello, Heartbeat, Records, Missing, Groups, Buckets, Ranges, Items, Repair, Tallies,
            Counts,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

struct Header {
    kind: u8,
    session: u32,
    id: u64,
    sequence: u64,
}

fn put_header(packet: &mut Vec<u8>, kind: Kind, session: u32, id: u64, sequence: u64) {
    packet.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    packet.extend_from_slice(&session.to_be_bytes());
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
}

fn read_header(reader: &mut Reader) -> Option<Header> {
    let [_version, kind, ..] = reader.array::<4>()?;
    Some(Header {
        kind,
        session: reader.u32()?,
        id: reader.u64()?,
        sequence: reader.u64()?,
    })
}

pub(super) fn put_code(packet: &mut Vec<u8>, start: usize, key: SipKey) {
    let code = siphash24_128(key, &packet[start..]);
    packet.extend_from_slice(code.map(u64::to_be_bytes).as_flattened());
}

/// What the code is over, if it is the right one.
pub(super) fn check_code(packet: &[u8], key: SipKey) -> Result<&[u8], Rejection> {
    let (message, code) = packet
        .split_last_chunk::<CODE>()
        .ok_or(Rejection::Malformed)?;
    let [first, second] = siphash24_128(key, message).map(u64::to_be_bytes);
    let (theirs, _) = as_chunks::<8>(code);
    // Both halves in any case: how much of a guess was right is not to be seen in the time it takes.
    let mut wrong = 0;
    for (ours, theirs) in [first, second].iter().zip(theirs) {
        wrong |= u64::from_be_bytes(*ours) ^ u64::from_be_bytes(*theirs);
    }
    match wrong {
        0 => Ok(message),
        _ => Err(Rejection::Forged),
    }
}

/// The session that a packet says to be of, 0 for a hello, and its sender.
pub fn peek(packet: &[u8]) -> Result<(u32, u64), Rejection> {
    match packet.first() {
        Some(&VERSION) => {}
        _ => return Err(Rejection::Version),
    }
    if packet.len() < HEADER + CODE || packet.len() > MOST {
        return Err(Rejection::Malformed);
    }
    let header = read_header(&mut Reader(packet)).ok_or(Rejection::Malformed)?;
    Ok((header.session, header.id))
}

/// The clocks, as they are at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The sender's cluster time, in milliseconds.
    pub time: u64,
    /// How often the sender has set it.
    pub set: u32,
    /// Milliseconds for which the sender has been sure of it; 0 is not at all.
    pub sure_for: u32,
    /// The sender's own clock, to be sent back.
    pub cookie: u64,
    /// The last cookie from the other side, and how long ago it came; 0 is none.
    pub echo: u64,
    pub held: u32,
}

impl Pulse {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.to_be_bytes());
        out.extend_from_slice(&self.set.to_be_bytes());
        out.extend_from_slice(&self.sure_for.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.echo.to_be_bytes());
        out.extend_from_slice(&self.held.to_be_bytes());
    }

    fn read(reader: &mut Reader) -> Option<Pulse> {
        Some(Pulse {
            time: reader.u64()?,
            set: reader.u32()?,
            sure_for: reader.u32()?,
            cookie: reader.u64()?,
            echo: reader.u64()?,
            held: reader.u32()?,
        })
    }
}

/// The handshake. A session begins with the nonces of both, and only once each has seen its own come back,
/// so that an old hello begins nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub from: Party,
    /// The other's nonce; zeros while it is not known.
    pub echo: Nonce,
    /// In seconds.
    pub peer_timeout: u32,
    /// The number of the batch that is told next.
    pub next_batch: u64,
    pub pulse: Pulse,
}

impl Hello {
    pub fn seal(&self, keys: &Keys, packet: &mut Vec<u8>) {
        let start = packet.len();
        put_header(packet, Kind::Hello, 0, self.from.id, 0);
        packet.extend_from_slice(&self.from.nonce);
        packet.extend_from_slice(&self.echo);
        packet.extend_from_slice(&self.peer_timeout.to_be_bytes());
        packet.extend_from_slice(&self.next_batch.to_be_bytes());
        self.pulse.put(packet);
        put_code(packet, start, keys.hello);
    }

    pub fn open(packet: &[u8], keys: &Keys) -> Result<Hello, Rejection> {
        let message = check_code(packet, keys.hello)?;
        Hello::read(&mut Reader(message)).ok_or(Rejection::Malformed)
    }

    fn read(reader: &mut Reader) -> Option<Hello> {
        let header = read_header(reader).filter(|h| h.kind == Kind::Hello as u8)?;
        let id = header.id;
        let nonce = reader.array()?;
        Some(Hello {
            from: Party { id, nonce },
            echo: reader.array()?,
            peer_timeout: reader.u32()?,
            next_batch: reader.u64()?,
            pulse: Pulse::read(reader)?,
        })
        .filter(|_| reader.0.is_empty())
    }
}

/// Once a second: what has been told, what the table is like, and the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub pulse: Pulse,
    pub next_batch: u64,
    /// The sixth of the timeout that it is, and the digest of the whole table; none while it is counted.
    pub digest: Option<(u64, u64)>,
}

impl Heartbeat {
    pub fn put(&self, out: &mut Vec<u8>) {
        self.pulse.put(out);
        out.extend_from_slice(&self.next_batch.to_be_bytes());
        if let Some((sixth, digest)) = self.digest {
            out.extend_from_slice(&sixth.to_be_bytes());
            out.extend_from_slice(&digest.to_be_bytes());
        }
    }

    pub fn read(body: &[u8]) -> Option<Heartbeat> {
        let mut reader = Reader(body);
        Some(Heartbeat {
            pulse: Pulse::read(&mut reader)?,
            next_batch: reader.u64()?,
            digest: match reader.0 {
                [] => None,
                _ => Some((reader.u64()?, reader.u64()?)),
            },
        })
        .filter(|_| reader.0.is_empty())
    }
}

/// Bytes of a change in a packet, the info-hash aside: address and port, what is said, and the stamp.
const V4_CHANGE: usize = 8;
const V6_CHANGE: usize = 20;
/// Info-hash, how many changes of each family, and how often the torrent was downloaded if that is told.
const GROUP: usize = 22;
const COUNTED: u8 = 0x80;
/// Changes of a family in a group.
const MOST_IN_GROUP: usize = 0x7f;

/// Bytes that these changes take at most.
pub fn most_bytes(change: &Change) -> usize {
    match change.peer {
        Peer::V4(_) => GROUP + V4_CHANGE,
        Peer::V6(_) => GROUP + V6_CHANGE,
    }
}

/// How changes go into packets: by info-hash, IPv4 before IPv6.
///
/// Sorting keys of integers apart from the changes, which are twice as large, halves what it takes.
pub fn sort(changes: &mut [Change]) {
    changes.sort_by_cached_key(|change| {
        let [first @ .., a, b, c, d] = change.info_hash;
        let (halves, _) = as_chunks(&first);
        let [one, two] = [0, 1].map(|half| halves.get(half).copied().map_or(0, u64::from_be_bytes));
        let last = u64::from(u32::from_be_bytes([a, b, c, d])) << 1;
        (
            one,
            two,
            last | u64::from(matches!(change.peer, Peer::V6(_))),
        )
    });
}

/// Writes changes, sorted, as far as they fit into so many bytes; tells how many did. Each info-hash is
/// written once. `downloaded` tells a torrent's count where that is to be told too.
pub fn put_changes(
    changes: &[Change],
    room: usize,
    downloaded: &dyn Fn(&InfoHash) -> Option<u32>,
    out: &mut Vec<u8>,
) -> usize {
    let end = out.len() + room;
    let mut done = 0;
    for group in changes.chunk_by(|a, b| a.info_hash == b.info_hash) {
        let Some(first) = group.first() else {
            continue;
        };
        let count = downloaded(&first.info_hash);
        let head = GROUP + if count.is_some() { 4 } else { 0 };
        let start = out.len();
        let mut size = head;
        let mut counts = [0_u8; 2];
        for change in group {
            let (family, bytes) = match change.peer {
                Peer::V4(_) => (0, V4_CHANGE),
                Peer::V6(_) => (1, V6_CHANGE),
            };
            if start + size + bytes > end || usize::from(counts[family]) == MOST_IN_GROUP {
                break;
            }
            size += bytes;
            counts[family] += 1;
        }
        let taken = usize::from(counts[0]) + usize::from(counts[1]);
        if taken == 0 {
            break;
        }
        out.extend_from_slice(&first.info_hash);
        let flag = if count.is_some() { COUNTED } else { 0 };
        out.extend_from_slice(&[counts[0] | flag, counts[1]]);
        if let Some(count) = count {
            out.extend_from_slice(&count.to_be_bytes());
        }
        for change in group.iter().take(taken) {
            out.extend_from_slice(change.peer.endpoint());
            out.extend_from_slice(&[said(change), change.stamp]);
        }
        done += taken;
        if taken < group.len() {
            break;
        }
    }
    done
}

const SEEDER: u8 = 1;
const STOPPED: u8 = 2;
const COMPLETED: u8 = 4;
const NEWLY_COMPLETED: u8 = 8;

fn said(change: &Change) -> u8 {
    let state = match change.state {
        State::Present(Role::Leecher) => 0,
        State::Present(Role::Seeder) => SEEDER,
        State::Stopped => STOPPED,
    };
    let completed = if change.completed { COMPLETED } else { 0 };
    let newly = if change.newly_completed {
        NEWLY_COMPLETED
    } else {
        0
    };
    state | completed | newly
}

/// Reads changes to the end of a body. Nothing is passed on unless all of it is whole.
pub fn read_changes(
    body: &[u8],
    changes: &mut Vec<Change>,
    counts: &mut Vec<(InfoHash, u32)>,
) -> Option<()> {
    let mut reader = Reader(body);
    while !reader.0.is_empty() {
        let info_hash = reader.array()?;
        let [v4, v6] = reader.array()?;
        if v4 & COUNTED != 0 {
            counts.push((info_hash, reader.u32()?));
        }
        let v4 = v4 & !COUNTED;
        for number in 0..v4.checked_add(v6)? {
            let peer = if number < v4 {
                let [a, b, c, d, e, f] = reader.array()?;
                Peer::V4([a, b, c, d, e, f, 0])
            } else {
                let mut record = [0; 19];
                record[..18].copy_from_slice(&reader.array::<18>()?);
                Peer::V6(record)
            };
            let [said, stamp] = reader.array()?;
            changes.push(Change {
                info_hash,
                peer,
                state: match said & (STOPPED | SEEDER) {
                    0 => State::Present(Role::Leecher),
                    SEEDER => State::Present(Role::Seeder),
                    STOPPED => State::Stopped,
                    _ => return None,
                },
                completed: said & COMPLETED != 0,
                newly_completed: said & NEWLY_COMPLETED != 0,
                stamp,
            });
        }
    }
    Some(())
}

/// Writes a key without the zeros at its end: length, then bytes.
pub fn put_key(key: &Key, out: &mut Vec<u8>) {
    let length = key
        .0
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |i| i + 1);
    out.push(length as u8);
    out.extend_from_slice(&key.0[..length]);
}

/// The first bytes of a key that set it apart from one below it, then zeros: still above that one.
pub fn shorten(key: &Key, below: &Key) -> Key {
    let same = key.0.iter().zip(&below.0).take_while(|(a, b)| a == b);
    let length = (same.count() + 1).min(Key::SIZE);
    let mut short = Key::FIRST;
    short.0[..length].copy_from_slice(&key.0[..length]);
    short
}

/// Bytes, from the front.
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn key(&mut self) -> Option<Key> {
        let length = usize::from(self.u8()?);
        let (bytes, rest) = self.0.split_at_checked(length)?;
        let mut key = Key::FIRST;
        key.0.get_mut(..length)?.copy_from_slice(bytes);
        self.0 = rest;
        Some(key)
    }
}

#[cfg(test)]
mod tests;
