//! A node as a plain value: bytes of connections and time go in, bytes come out. The daemon drives it with sockets,
//! a test with a scheduler.

use super::events::Kept;
use super::frame::{self, Hello, Keys, Opened, Session};
use super::link::{Counters, Link, Pass, STALE_MS, ahead_ms};
use super::records::{self, Heartbeat, Reader, Received};
use super::slots::Slots;
use super::walk::Walk;
use crate::random::Random;
use crate::siphash::siphash24_128;
use crate::stats::cluster::{Failure, Health, Overview};
use crate::tracker::{Cursor, InfoHash, JournalLimits, LIFE, News, Table, max_events};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A connection, named by the driver; a name is used once.
pub type ConnId = u64;

/// All connections.
const MAX_LINKS: usize = 1000;

/// Milliseconds: a retry comes after one to five seconds, after a connection to itself much later.
const RETRY_MS: usize = 1000;
const MAX_RETRY_MS: usize = 5000;
const OWN_RETRY_MS: u64 = 60_000;

/// Connections to a peer that are closed in a row before that is told.
const MAX_CLOSES: u32 = 3;

/// Wall clocks that differ by more make connection ids and decoys differ.
const MAX_CLOCK_DIFFERENCE_MS: u64 = 120_000;

/// Units of two nodes need not begin closer together than this, which a hello may take, or an eighth of a unit.
const MAX_PHASE_MS: u64 = 3000;

/// Milliseconds for which a node whose clock may have stood still waits for one that knows.
const UNSURE_MS: u64 = 8000;

/// Nodes whose positions are remembered while they are away.
const MAX_REMEMBERED: usize = 1024;

/// No bound of peers a host is kept here. All nodes must have the same.
const MAX_PER_HOST: u32 = 0;

pub struct Settings {
    pub keys: Keys,
    /// Random for each start.
    pub id: u64,
    /// Makes nonces.
    pub seed: u64,
    /// In seconds.
    pub peer_timeout: u32,
    pub max_peers: usize,
    /// How many nodes the operator names.
    pub peers: usize,
    /// On which this one takes connections.
    pub port: u16,
    /// Units from which a renewal is noted: [`tracker::LATE`](crate::tracker::LATE), or fewer for opentracker's live sync.
    pub renewals_from: u8,
}

/// The surroundings of a call.
pub struct World<'a> {
    pub table: &'a Table,
    /// Milliseconds since the start.
    pub now: u64,
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Whether the list refuses a torrent.
    pub refuses: &'a dyn Fn(&InfoHash) -> bool,
}

/// A node that the operator names.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) connection: Option<ConnId>,
    /// Where it may be; by these a connection from it is known.
    addresses: Vec<SocketAddr>,
    /// The id that it had when it was last reached.
    pub(super) id: Option<u64>,
    pub(super) retry_at: u64,
    pub(super) failure: Option<Failure>,
    /// How often in a row a connection was closed before it was a link.
    closes: u32,
    /// Failures that were told since it was linked, by number: a bit each.
    told: u16,
    pub(super) is_told_up: bool,
    /// Of its earlier connections.
    counters: Counters,
    /// When it went up or down.
    pub(super) since: u64,
}

/// The state of a node between two connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    received: Received,
    /// Milliseconds by which its uptime was ahead of this table's clock.
    ahead_ms: Option<i64>,
}

/// Something for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Up,
    Down(Failure),
    Failed(Failure),
    /// The table's clock stood still for so many milliseconds.
    Suspended(u64),
    /// The wall clocks differ by so many milliseconds.
    ClocksDiffer(i64),
    Whole,
    Alone,
}

/// The other end that a notice is about: its number if the operator names it, its address.
pub type Other = (Option<usize>, Option<SocketAddr>);

pub struct Node {
    pub(super) settings: Settings,
    pub(super) links: Slots<Link>,
    pub(super) peers: Vec<Peer>,
    pub(super) memory: Slots<Memory>,
    pub(super) kept: Kept,
    pub(super) walk: Walk,
    pub(super) news: Vec<News>,
    /// News of all shards since [`Node::drain_news`] was called last, for opentracker's live sync.
    pub(super) outside: Option<Vec<News>>,
    pub(super) random: Random,
    pub(super) nonces: u64,
    /// How often the clock was moved on: hellos from before are not true any more.
    pub(super) epoch: u64,
    pub(super) started: u64,
    pub(super) ticked_at: u64,
    pub(super) is_whole: bool,
    pub(super) is_alone: bool,
    pub(super) linked_at: u64,
    pub(super) granted_at: u64,
    /// One whole node, or all there were, have sent all that they have.
    pub(super) has_everything: bool,
    /// The link that a catch-up frame was made for last.
    pub(super) caught_up: ConnId,
    pub(super) finish_by: Option<u64>,
    /// The last walk has ended.
    pub(super) has_walked: bool,
    /// The node from which the phase of the units was taken, and when. Two nodes in turn would move the clock on and on.
    phase_from: Option<(u64, u64)>,
    /// Milliseconds by which the wall clock is ahead of the time since the start.
    wall_ahead_ms: Option<i64>,
    /// Until then only nodes that are remembered are linked: they can tell whether the clock stood still.
    unsure_until: u64,
    /// Records that had been refused when the other nodes were asked because of a list.
    pub(super) refused_before: u64,
    pub(super) is_list_changed: bool,
    pub(super) listed_at: u64,
    pub(super) collected_at: u64,
    pub(super) refused_count: u64,
    pub(super) failures: [u64; Failure::COUNT],
    pub notices: VecDeque<(Other, Notice)>,
}

impl Node {
    /// From now on the table notes news for other nodes.
    pub fn new(settings: Settings, table: &Table, now: u64) -> Node {
        let shards = table.shards();
        let limits = JournalLimits::of_shard(shards, settings.max_peers, settings.renewals_from);
        let key = siphash24_128([settings.seed, settings.id], b"stops");
        table.each(now, &mut |tracker| tracker.join_cluster(key, limits));
        let (clock_ms, unit) = clock(table, now);
        Node {
            links: Slots::default(),
            peers: (0..settings.peers).map(|_| Peer::default()).collect(),
            memory: Slots::default(),
            kept: Kept::new(max_events(settings.max_peers)),
            walk: Walk::new(clock_ms, unit),
            news: Vec::new(),
            outside: None,
            random: Random::seeded(settings.seed),
            nonces: 0,
            epoch: 0,
            started: now,
            ticked_at: now,
            is_whole: false,
            is_alone: false,
            linked_at: now,
            granted_at: 0,
            has_everything: false,
            caught_up: 0,
            finish_by: None,
            has_walked: false,
            phase_from: None,
            wall_ahead_ms: None,
            unsure_until: 0,
            refused_before: 0,
            is_list_changed: false,
            listed_at: 0,
            collected_at: 0,
            refused_count: 0,
            failures: [0; Failure::COUNT],
            notices: VecDeque::new(),
            settings,
        }
    }

    /// Collects news for [`Node::drain_news`] from now on.
    pub fn collect_news(&mut self) {
        self.outside = Some(Vec::new());
    }

    /// The news since the last call.
    pub fn drain_news(&mut self) -> Vec<News> {
        self.outside
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub fn health(&self, _now: u64) -> Health {
        match (self.is_whole, self.is_alone) {
            (true, _) => Health::Ok,
            (false, true) => Health::Alone,
            (false, false) => Health::Syncing,
        }
    }

    /// A node that is to be connected to now. To be called until there is none.
    pub fn next_dial(&mut self, now: u64) -> Option<usize> {
        if self.finish_by.is_some() {
            return None;
        }
        let links = &self.links;
        let is_linked = |id| links.values().any(|link| link.is_up && link.id() == id);
        let index = self.peers.iter().position(|peer| {
            peer.connection.is_none() && peer.retry_at <= now && !peer.id.is_some_and(is_linked)
        })?;
        // The connection is opened or has failed before that.
        self.retry(index, now);
        Some(index)
    }

    fn retry(&mut self, index: usize, now: u64) {
        let wait = RETRY_MS + self.random.below(MAX_RETRY_MS - RETRY_MS);
        if let Some(peer) = self.peers.get_mut(index) {
            peer.retry_at = now + wait as u64;
        }
    }

    /// A peer has these addresses now, and is tried again at once.
    pub fn set_addresses(&mut self, index: usize, addresses: &[SocketAddr]) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.addresses = addresses.to_vec();
            peer.retry_at = 0;
        }
    }

    /// Whether no connection to this peer has become a link. False for the node itself.
    pub fn is_silent(&self, index: usize) -> bool {
        self.peers.get(index).is_some_and(|peer| {
            let id = peer.id.unwrap_or(0);
            let is_own = peer.failure == Some(Failure::Own);
            let is_its = |link: &Link| link.peer == Some(index) || link.id() == id;
            !is_own && !self.links.values().any(|link| link.is_up && is_its(link))
        })
    }

    pub fn is_up(&self, id: ConnId) -> bool {
        self.links.get(id).is_some_and(|link| link.is_up)
    }

    /// A connection from this address was closed, as there are too many.
    pub fn refuse_crowd(&mut self, address: SocketAddr) {
        self.fail(None, Some(address), Failure::Crowded);
    }

    /// The report; `names` are those of the nodes that the operator names.
    pub fn overview(&self, names: &[String], now: u64) -> Overview {
        let ups = || self.links.values().filter(|link| link.is_up);
        let named = names
            .iter()
            .zip(&self.peers)
            .enumerate()
            .map(|(index, (name, peer))| {
                let own = ups().find(|link| self.name(link).0 == Some(index));
                let none = Link::default();
                let mut report = own.unwrap_or(&none).report(&peer.counters, now);
                report.name = name.clone();
                report.is_up = own.is_some();
                report.since_ms = now.saturating_sub(own.map_or(peer.since, |link| link.opened_at));
                report.failure = peer.failure.filter(|_| own.is_none());
                report
            });
        let others = ups()
            .filter(|link| self.name(link).0.is_none())
            .map(|link| {
                let mut report = link.report(&Counters::default(), now);
                let port = link.theirs.map_or(0, |theirs| theirs.port);
                let home = link
                    .address
                    .map(|address| SocketAddr::new(address.ip(), port));
                report.name = home.map_or_else(String::new, |home| home.to_string());
                report
            });
        Overview {
            health: self.health(now),
            links: named.chain(others).collect(),
            unresolved: Vec::new(),
            events: self.kept.len() as u64,
            events_reach_ms: self.kept.reach_ms(now),
            refused: self.refused_count,
            failures: self.failures,
            multicast: None,
        }
    }

    pub fn dial_failed(&mut self, index: usize, why: Failure, now: u64) {
        self.fail(Some(index), None, why);
        self.retry(index, now);
    }

    /// Counts a connection that did not become a link. The same failure of a peer is logged once.
    fn fail(&mut self, index: Option<usize>, address: Option<SocketAddr>, why: Failure) {
        if let Some(count) = self.failures.get_mut(why.number()) {
            *count += 1;
        }
        let peer = index.and_then(|index| self.peers.get_mut(index));
        let is_closed = why == Failure::Closed;
        let is_told = match peer {
            Some(peer) => {
                peer.closes = if is_closed { peer.closes + 1 } else { 0 };
                // A node closes a connection when it moves its clock or has another: that is no news before it does so again.
                let bit = 1 << why.number();
                let is_told = peer.told & bit != 0;
                peer.failure = Some(why);
                peer.told |= if is_closed && peer.closes < MAX_CLOSES {
                    0
                } else {
                    bit
                };
                is_told || peer.told & bit == 0
            }
            None => is_closed,
        };
        if !is_told {
            self.notices
                .push_back(((index, address), Notice::Failed(why)));
        }
    }

    /// A connection has been made: by this node to one of its peers, or by another node.
    pub fn open(&mut self, id: ConnId, peer: Option<usize>, address: SocketAddr, world: &World) {
        if self.links.len() >= MAX_LINKS {
            return self.fail(peer, Some(address), Failure::Crowded);
        }
        let mut link = Link::new(peer, address, world.now);
        if peer.is_some() {
            let hello = self.hello(world);
            let raw = hello.write();
            link.push_raw(&raw);
            link.own_hello = Some((hello, raw));
            link.epoch = self.epoch;
        }
        if let Some(peer) = peer.and_then(|peer| self.peers.get_mut(peer)) {
            peer.connection = Some(id);
        }
        self.links.insert(id, link);
    }

    pub(super) fn hello(&mut self, world: &World) -> Hello {
        self.nonces += 1;
        let [a, b] = siphash24_128(
            [self.settings.seed, self.settings.id],
            &self.nonces.to_be_bytes(),
        );
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&a.to_be_bytes());
        nonce[8..].copy_from_slice(&b.to_be_bytes());
        Hello {
            peer_timeout: self.settings.peer_timeout,
            max_per_host: MAX_PER_HOST,
            port: self.settings.port,
            is_whole: self.is_whole,
            id: self.settings.id,
            nonce,
            clock_ms: clock(world.table, world.now).0,
            uptime_ms: world.now,
        }
    }

    /// Whether the next tick has something to send through a connection.
    pub fn is_hungry(&self, id: ConnId) -> bool {
        self.links.get(id).is_some_and(Link::is_hungry)
    }

    /// Bytes to be sent; none if the connection is to be closed.
    pub fn output(&self, id: ConnId) -> Option<&[u8]> {
        Some(self.links.get(id)?.output())
    }

    pub fn sent(&mut self, id: ConnId, count: usize) {
        if let Some(link) = self.links.get_mut(id) {
            link.sent(count);
        }
    }

    /// The connection has ended.
    pub fn closed(&mut self, id: ConnId, world: &World) {
        self.end(id, Failure::Closed, world.now);
    }

    /// Forgets a connection.
    pub(super) fn end(&mut self, id: ConnId, why: Failure, now: u64) {
        self.remember(id);
        let Some(link) = self.links.remove(id) else {
            return;
        };
        let why = link.ending.unwrap_or(why);
        let other = self.name(&link);
        self.detach(id, &link);
        if let Some(index) = link.peer {
            self.retry(index, now);
        }
        let is_same = |other: &Link| other.is_up && other.id() == link.id();
        let is_linked = self.links.values().any(is_same);
        if let Some(peer) = other.0.and_then(|index| self.peers.get_mut(index)) {
            if why == Failure::Own {
                peer.retry_at = now + OWN_RETRY_MS;
            }
            if link.is_up && !is_linked {
                peer.since = now;
                peer.failure = Some(why);
            }
        }
        match (link.is_up, is_linked) {
            (true, false) => {
                self.linked_at = now;
                if other.0.is_none() {
                    self.notices.push_back((other, Notice::Down(why)));
                }
            }
            // The side that connected to itself tells it.
            (false, _) if why == Failure::Own && !link.is_dialler => {}
            (false, is_linked) if !is_linked || why == Failure::WrongKey => {
                self.fail(other.0, other.1, why);
            }
            _ => {}
        }
    }

    /// A peer no longer has this connection, but what went through it counts.
    fn detach(&mut self, id: ConnId, link: &Link) {
        let index = self.name(link).0;
        if let Some(peer) = index.and_then(|index| self.peers.get_mut(index)) {
            peer.counters.add(&link.counters);
            if peer.connection == Some(id) {
                peer.connection = None;
            }
        }
    }

    /// The peer that a link belongs to, whichever side dialled, and its address.
    pub(super) fn name(&self, link: &Link) -> Other {
        let position = |is: &dyn Fn(&Peer) -> bool| self.peers.iter().position(is);
        let index = link.peer.or_else(|| {
            let theirs = link.theirs?;
            let home = SocketAddr::new(link.address?.ip(), theirs.port);
            let by_id = position(&|peer| link.is_up && peer.id == Some(theirs.id));
            by_id.or_else(|| position(&|peer| peer.addresses.contains(&home)))
        });
        (index, link.address)
    }

    fn name_of(&self, id: ConnId) -> Other {
        let link = self.links.get(id);
        link.map_or((None, None), |link| self.name(link))
    }

    /// Notes the id of the peer that has shown the key.
    fn know_id(&mut self, id: ConnId) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        let (index, theirs) = (self.name(link).0, link.id());
        if let Some(peer) = index.and_then(|index| self.peers.get_mut(index)) {
            peer.id = Some(theirs);
        }
    }

    /// Takes bytes that came through a connection, and applies what is complete.
    pub fn receive(&mut self, id: ConnId, bytes: &[u8], world: &World) {
        let Some(link) = self.links.get_mut(id).filter(|link| link.ending.is_none()) else {
            return;
        };
        if world.table.is_held(world.now) {
            // The table takes nothing until it has been swept: it is sent again after that.
            return self.end(id, Failure::Closed, world.now);
        }
        link.counters.bytes_in += bytes.len() as u64;
        let mut input = std::mem::take(&mut link.input);
        input.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            let rest = input.get(done..).unwrap_or_default();
            match self.take_one(id, rest, world) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(why) => return self.refuse(id, why, world),
            }
        }
        input.drain(..done);
        if let Some(link) = self.links.get_mut(id) {
            link.input = input;
        }
    }

    /// Takes a hello or a frame from the front of these bytes; how many bytes that was.
    fn take_one(&mut self, id: ConnId, bytes: &[u8], world: &World) -> Result<usize, Failure> {
        let Some(link) = self.links.get_mut(id) else {
            return Ok(0);
        };
        let Some(session) = &mut link.session else {
            return match Hello::read(bytes)? {
                Some((hello, raw)) => self.greet(id, &hello, &raw, world).map(|()| raw.len()),
                None => Ok(0),
            };
        };
        match session.open(bytes) {
            Opened::Incomplete => Ok(0),
            Opened::Forged if link.is_up => Err(Failure::Closed),
            Opened::Forged => Err(Failure::WrongKey),
            Opened::Frame { length } => {
                link.heard_at = world.now;
                self.handle(id, frame::content(bytes, length), world)?;
                Ok(length)
            }
        }
    }

    /// Ends a connection because of what came through it. The other side learns this node's version and timeout.
    fn refuse(&mut self, id: ConnId, why: Failure, world: &World) {
        let is_told = matches!(
            why,
            Failure::Version(_) | Failure::PeerTimeout(_) | Failure::MaxPerHost(_) | Failure::Own
        );
        let hello = self.hello(world);
        match self.links.get_mut(id) {
            Some(link) if is_told && link.own_hello.is_none() => {
                link.push_raw(&hello.write());
                link.ending = Some(why);
            }
            // The other side learns that this node's first frame is under another key.
            Some(link) if why == Failure::WrongKey => link.ending = Some(why),
            _ => self.end(id, why, world.now),
        }
    }

    /// Takes the other node's hello: derives the keys and relates the clocks.
    fn greet(
        &mut self,
        id: ConnId,
        theirs: &Hello,
        raw: &frame::RawHello,
        world: &World,
    ) -> Result<(), Failure> {
        if let Some(link) = self.links.get_mut(id) {
            link.theirs = Some(*theirs);
        }
        if theirs.id == self.settings.id {
            return Err(Failure::Own);
        }
        if theirs.peer_timeout != self.settings.peer_timeout {
            return Err(Failure::PeerTimeout(theirs.peer_timeout));
        }
        if theirs.max_per_host != MAX_PER_HOST {
            return Err(Failure::MaxPerHost(theirs.max_per_host));
        }
        let own = self.hello(world);
        let Some(link) = self.links.get_mut(id) else {
            return Ok(());
        };
        let (_, own_raw) = *link.own_hello.get_or_insert_with(|| (own, own.write()));
        if !link.is_dialler {
            link.epoch = self.epoch;
            link.push_raw(&own_raw);
        }
        link.session = Some(Session::new(
            &self.settings.keys,
            link.is_dialler,
            &own_raw,
            raw,
        ));
        let memory = self.memory.get(theirs.id);
        let received = memory.map_or(Received::default(), |memory| memory.received);
        link.received = received;
        link.push(&received.write());
        Ok(())
    }

    fn handle(&mut self, id: ConnId, content: &[u8], world: &World) -> Result<(), Failure> {
        let Some((&kind, content)) = content.split_first() else {
            return Ok(());
        };
        let mut reader = Reader(content);
        let Some(link) = self.links.get_mut(id) else {
            return Ok(());
        };
        if !link.is_up {
            let received = Received::read(&mut reader).filter(|_| kind == records::READY);
            return match received {
                Some(received) => self.link_up(id, received, world),
                None => Err(Failure::WrongKey),
            };
        }
        match kind {
            records::ASK => {
                if let Some(flags) = reader.u8() {
                    self.answer(id, flags, world);
                }
            }
            records::HEARTBEAT => {
                if let Some(heartbeat) = Heartbeat::read(&mut reader) {
                    self.hear(id, heartbeat, world);
                }
            }
            records::RECORDS => self.apply_records(id, reader, world),
            records::EVENTS => self.apply_events(id, reader, world),
            records::COUNTS => self.apply_counts(id, reader, world),
            _ => {}
        }
        Ok(())
    }

    /// The other node has shown that it has the key. `received` is what it has of this node.
    fn link_up(&mut self, id: ConnId, received: Received, world: &World) -> Result<(), Failure> {
        if self.is_outdated(id) {
            let dialled = self.links.get(id).and_then(|link| link.peer);
            self.end(id, Failure::Closed, world.now);
            if let Some(peer) = dialled.and_then(|index| self.peers.get_mut(index)) {
                peer.retry_at = world.now;
            }
            return Ok(());
        }
        self.know_id(id);
        let is_remembered = |theirs: Hello| self.memory.get(theirs.id).is_some();
        let theirs = self.links.get(id).and_then(|link| link.theirs);
        let is_unsure = world.now < self.unsure_until && self.memory.len() > 0;
        if is_unsure && !theirs.is_some_and(is_remembered) {
            return Err(Failure::Closed);
        }
        if self.was_suspended(id, world) || self.takes_phase(id, world) {
            return Ok(());
        }
        self.unsure_until = 0;
        if !self.replaces_others(id, world.now) {
            return Err(Failure::Closed);
        }
        self.relate_clocks(id, world);
        let (_, unit) = clock(world.table, world.now);
        let next = self.kept.next();
        let Some(link) = self.links.get_mut(id) else {
            return Ok(());
        };
        link.is_up = true;
        link.heartbeat_at = world.now;
        link.next_event = next;
        match link.theirs.is_some_and(|theirs| theirs.is_whole) {
            // It will ask.
            false => link.awaits_request = true,
            true => {
                let reaches_back = received.event.saturating_add(1) >= self.kept.first();
                link.next_event = (received.event.saturating_add(1)).clamp(self.kept.first(), next);
                link.is_behind = true;
                link.sent_before = received.unit;
                link.pass = Some(Pass {
                    cursor: Some(Cursor::default()),
                    since: received.unit,
                    is_everything: false,
                    has_counts: !reaches_back,
                    began: unit,
                });
            }
        }
        let other = self.name_of(id);
        if let Some(peer) = other.0.and_then(|index| self.peers.get_mut(index)) {
            peer.failure = None;
            peer.closes = 0;
            peer.told = 0;
            peer.since = world.now;
        } else {
            self.notices.push_back((other, Notice::Up));
        }
        Ok(())
    }

    /// Sees whether the wall clock was stepped, or the other clock stood still in a suspension.
    pub(super) fn watch_wall(&mut self, world: &World) {
        let ahead = ahead_ms(world.wall, world.now);
        let jump = ahead
            .zip(self.wall_ahead_ms)
            .map_or(0, |(now, before)| now.abs_diff(before));
        if jump >= world.table.unit_ms() {
            self.unsure_until = world.now + UNSURE_MS;
        }
        self.wall_ahead_ms = ahead;
    }

    /// Whether this node's clock stood still while it was away from the other: by how much less it advanced. Then the
    /// table's clock is moved on, and all links begin anew, as their clocks are related otherwise now.
    fn was_suspended(&mut self, id: ConnId, world: &World) -> bool {
        let Some(theirs) = self.links.get(id).and_then(|link| link.theirs) else {
            return false;
        };
        let before = self
            .memory
            .get(theirs.id)
            .and_then(|memory| memory.ahead_ms);
        let ahead = ahead_ms(theirs.uptime_ms, clock(world.table, world.now).0);
        if let Some(link) = self.links.get_mut(id) {
            link.ahead_ms = ahead;
        }
        let (Some(before), Some(ahead)) = (before, ahead) else {
            return false;
        };
        let missed = u64::try_from(ahead.saturating_sub(before)).unwrap_or(0);
        if missed < world.table.unit_ms() {
            return false;
        }
        self.notices
            .push_back(((None, None), Notice::Suspended(missed)));
        self.move_clock(missed, world);
        // Records that came since it went on were related to the old clock.
        self.memory
            .values_mut()
            .for_each(|memory| memory.received.unit = 0);
        true
    }

    /// Of two links to a node one stays: the newer if the same side dialled both, else the one that the lower id
    /// dialled. False if it is not this one.
    fn replaces_others(&mut self, id: ConnId, now: u64) -> bool {
        let Some(link) = self.links.get(id) else {
            return false;
        };
        let (theirs, is_dialler) = (link.id(), link.is_dialler);
        let is_preferred = is_dialler == (self.settings.id < theirs);
        let others = self.links.iter();
        let others =
            others.filter(|(other, link)| *other != id && link.is_up && link.id() == theirs);
        let others: Vec<_> = others
            .map(|(other, link)| (other, link.is_dialler, link.heard_at + STALE_MS < now))
            .collect();
        let stays =
            |dialled: bool, is_stale: bool| dialled != is_dialler && !is_preferred && !is_stale;
        if others
            .iter()
            .any(|(_, dialled, is_stale)| stays(*dialled, *is_stale))
        {
            return false;
        }
        for (other, ..) in others {
            self.remember(other);
            if let Some(replaced) = self.links.remove(other) {
                self.detach(other, &replaced);
            }
        }
        // The other connection's frames may have come after this one's hello.
        let received = self.memory.get(theirs).map(|memory| memory.received);
        if let (Some(link), Some(received)) = (self.links.get_mut(id), received) {
            link.received = received;
        }
        true
    }

    /// Whether the clock was moved on since this node's hello was made.
    fn is_outdated(&self, id: ConnId) -> bool {
        self.links
            .get(id)
            .is_some_and(|link| link.epoch != self.epoch)
    }

    /// Whether this node gives up the phase of its units for the other's: versions of a peer that come on different ways
    /// compare only if all nodes begin their units at about the same time.
    fn takes_phase(&mut self, id: ConnId, world: &World) -> bool {
        let Some((Some((own, _)), Some(theirs))) =
            self.links.get(id).map(|link| (link.own_hello, link.theirs))
        else {
            return false;
        };
        let is_lower = |link: &Link| link.is_up && link.id() < theirs.id;
        let is_lowest = !self.links.values().any(is_lower);
        let is_leading = match (own.is_whole, theirs.is_whole) {
            (true, false) => false,
            (false, true) => true,
            _ => theirs.id < own.id && is_lowest,
        };
        let unit = i128::from(world.table.unit_ms());
        let later = (i128::from(theirs.clock_ms) - i128::from(own.clock_ms)).rem_euclid(unit);
        let is_other = later.min(unit - later) > i128::from(MAX_PHASE_MS).max(unit / 8);
        let lifetime = LIFE * world.table.unit_ms();
        let is_free = self
            .phase_from
            .is_none_or(|(id, at)| theirs.id <= id || world.now > at + lifetime);
        let takes = is_leading && is_other && is_free;
        if takes {
            self.phase_from = Some((theirs.id, world.now));
            self.move_clock(u64::try_from(later).unwrap_or(0), world);
        }
        takes
    }

    /// Moves the table's clock on. All links begin anew, as their clocks are related otherwise now.
    fn move_clock(&mut self, ms: u64, world: &World) {
        self.epoch += 1;
        world.table.move_clock(ms, world.now);
        let (clock_ms, unit) = clock(world.table, world.now);
        self.walk.resume(clock_ms, unit);
        let all: Vec<ConnId> = self.links.iter().map(|(id, _)| id).collect();
        for id in all {
            self.end(id, Failure::Closed, world.now);
        }
        self.peers
            .iter_mut()
            .for_each(|peer| peer.retry_at = world.now);
    }

    /// Fixes by how many units the clocks differ. Both sides find the same number of opposite sign.
    fn relate_clocks(&mut self, id: ConnId, world: &World) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let (Some((own, _)), Some(theirs)) = (link.own_hello, link.theirs) else {
            return;
        };
        let unit = i128::from(world.table.unit_ms());
        let ahead = i128::from(own.clock_ms) - i128::from(theirs.clock_ms);
        // Rounded so that the sign is the only difference between the two sides.
        let units = match link.is_dialler {
            true => (ahead + unit / 2).div_euclid(unit),
            false => -((unit / 2 - ahead).div_euclid(unit)),
        };
        link.offset = i64::try_from(units).unwrap_or(0);
    }

    /// Keeps what has been received from a node for the next connection to it.
    fn remember(&mut self, id: ConnId) {
        let Some(link) = self.links.get(id).filter(|link| link.is_up) else {
            return;
        };
        let old = self.memory.get(link.id());
        let memory = Memory {
            // Until a request is answered, what was before the link is missing.
            received: match (link.is_answered(), old) {
                (true, _) => link.received,
                (false, Some(old)) => old.received,
                (false, None) => Received::default(),
            },
            ahead_ms: link.ahead_ms,
        };
        let id = link.id();
        if old.is_none() && self.memory.len() >= MAX_REMEMBERED {
            self.memory.remove_oldest();
        }
        self.memory.insert(id, memory);
    }

    fn hear(&mut self, id: ConnId, heartbeat: Heartbeat, world: &World) {
        let (clock_ms, _) = clock(world.table, world.now);
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.hear(heartbeat, world.now, clock_ms, world.wall);
        let ahead = link.clock_ahead_ms.unwrap_or(0);
        if ahead.unsigned_abs() > MAX_CLOCK_DIFFERENCE_MS
            && !std::mem::replace(&mut link.is_clock_told, true)
        {
            let other = self.name_of(id);
            self.notices.push_back((other, Notice::ClocksDiffer(ahead)));
        }
    }
}

/// The table's clock in milliseconds, and its unit.
pub(super) fn clock(table: &Table, now: u64) -> (u64, u64) {
    let shard = table.lock(0, now);
    (shard.clock_ms(), shard.clock().unit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Announce, Event, Limits, Peer as Address, Role, Sink, Sinks};

    struct Host {
        node: Node,
        table: Table,
    }

    impl Host {
        fn new(id: u64, peers: usize) -> Host {
            let limits = Limits {
                peer_timeout: 2700,
                max_peers: 1 << 20,
                max_torrents: 1 << 20,
            };
            let table = Table::new(limits, 1);
            let settings = Settings {
                keys: Keys::new(&[7; 32]),
                id,
                seed: id,
                peer_timeout: 2700,
                max_peers: 1 << 20,
                peers,
                port: 1,
                renewals_from: crate::tracker::LATE,
            };
            Host {
                node: Node::new(settings, &table, 0),
                table,
            }
        }

        fn with<T>(&mut self, now: u64, work: impl FnOnce(&mut Node, &World) -> T) -> T {
            let world = World {
                table: &self.table,
                now,
                wall: now,
                refuses: &|_| false,
            };
            work(&mut self.node, &world)
        }

        fn announce(&mut self, number: u32, event: Event, role: Role, now: u64) {
            let mut hash = [0; 20];
            hash[..4].copy_from_slice(&number.wrapping_mul(0x0100_002b).to_be_bytes());
            let announce = Announce {
                info_hash: &hash,
                peer: Address::new([192, 0, 2, 1].into(), 7),
                role,
                event,
                want: 0,
                hint: crate::tracker::Hint::default(),
            };
            let mut sinks = Sinks {
                v4: Sink::new(&mut []),
                v6: Sink::new(&mut []),
            };
            self.table
                .lock(0, now)
                .announce(&announce, &mut Random::seeded(1), &mut sinks);
        }
    }

    /// Carries what both have to send through a connection.
    fn pass(a: &mut Host, b: &mut Host, id: ConnId, now: u64) {
        loop {
            let mut count = 0;
            for _ in 0..2 {
                let bytes = a.node.output(id).map(<[u8]>::to_vec).unwrap_or_default();
                count += bytes.len();
                a.node.sent(id, bytes.len());
                b.with(now, |node, world| node.receive(id, &bytes, world));
                std::mem::swap(a, b);
            }
            if count == 0 {
                return;
            }
        }
    }

    #[test]
    fn two_nodes_tell_each_other() {
        let (mut a, mut b) = (Host::new(1, 1), Host::new(2, 0));
        for number in 0..5000 {
            a.announce(number, Event::None, Role::Seeder, 10);
        }
        assert_eq!(a.node.next_dial(20), Some(0));
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        a.with(20, |node, world| node.open(1, Some(0), address, world));
        b.with(20, |node, world| node.open(1, None, address, world));
        for now in (20..8000).step_by(50) {
            pass(&mut a, &mut b, 1, now);
            a.with(now, |node, world| while node.tick(world) {});
            while b.with(now, |node, world| node.tick(world)) {}
        }
        assert_eq!(b.table.totals(8000).seeders, 5000);
        assert_eq!(
            (a.node.health(0), b.node.health(0)),
            (Health::Ok, Health::Ok)
        );
        b.announce(1, Event::Stopped, Role::Seeder, 8000);
        b.announce(7777, Event::Completed, Role::Seeder, 8000);
        for now in (8000..8200).step_by(50) {
            a.with(now, |node, world| node.tick(world));
            b.with(now, |node, world| node.tick(world));
            pass(&mut a, &mut b, 1, now);
        }
        assert_eq!(a.table.totals(8200).seeders, 5000);
    }

    #[test]
    fn renewals_are_not_lost_with_news_and_then_with_the_link() {
        const UNIT_MS: u64 = 56_250;
        let (mut a, mut b) = (Host::new(1, 1), Host::new(2, 0));
        let announce_all = |host: &mut Host, now| {
            (0..5000).for_each(|number| host.announce(number, Event::None, Role::Seeder, now));
        };
        announce_all(&mut a, 10);
        let (mut id, mut is_cut) = (0, false);
        let mut sweepers = [(); 2].map(|()| crate::tracker::Sweeper::default());
        for now in (500..55 * UNIT_MS).step_by(500) {
            if !is_cut && a.node.next_dial(now).is_some() {
                id += 1;
                let address = SocketAddr::from(([127, 0, 0, 1], 9));
                a.with(now, |node, world| node.open(id, Some(0), address, world));
                b.with(now, |node, world| node.open(id, None, address, world));
            }
            for _ in 0..10 {
                pass(&mut a, &mut b, id, now);
                a.with(now, |node, world| node.tick(world));
                b.with(now, |node, world| node.tick(world));
            }
            if now == 9 * UNIT_MS + 250 {
                announce_all(&mut a, now);
            } else if now == 11 * UNIT_MS + 2250 {
                // Between two slices of the walk, which is not half through.
                let (_, unit) = clock(&a.table, now);
                a.node.links.values_mut().for_each(|link| link.lose(unit));
            } else if now == 11 * UNIT_MS + 20_250 {
                a.with(now, |node, world| node.closed(id, world));
                b.with(now, |node, world| node.closed(id, world));
                is_cut = true;
            } else if now == 16 * UNIT_MS {
                is_cut = false;
            }
            for (host, sweeper) in [&a, &b].into_iter().zip(&mut sweepers) {
                sweeper.step(&host.table, now, 1 << 20, None);
            }
        }
        let totals = [&a, &b].map(|host| host.table.totals(55 * UNIT_MS).seeders);
        assert_eq!((id, totals), (2, [5000, 5000]));
    }
}
