//! A node as a plain value: bytes of connections and time go in, bytes come out. The daemon drives it with sockets,
//! a test with a scheduler. This file has the life of a link, from the connection to its end.

use super::clocks::{clock, relate_clocks};
use super::events::Kept;
use super::frame::{Hello, Keys, OVERHEAD, RawHello, Session};
use super::link::{Link, STALE_MS};
use super::opentracker::renewals_from;
use super::records::{self, Heartbeat, JOINING, LATER, LEARNT, Reader, Received, WITH_COUNTS};
use super::walk::Walk;
use crate::base::random::Random;
use crate::base::siphash::siphash24_128;
use crate::stats::cluster::{Failure, Health, LinkReport, Overview, Traffic};
use crate::tracker::{InfoHash, LATE, News, Table, max_events};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

/// A connection, numbered by the driver. A number is used once.
pub type ConnId = u64;

/// Unauthenticated connections from addresses that no `--cluster-peer` has.
const MAX_STRANGERS: usize = 64;

/// Milliseconds until a retry: random between the first two, after a connection to itself the third.
const RETRY_MS: usize = 1000;
const MAX_RETRY_MS: usize = 5000;
const OWN_RETRY_MS: u64 = 60_000;

/// Connections to a peer that are closed in a row before that is logged.
const MAX_CLOSES: u32 = 3;

/// Unnamed addresses whose failures are logged, and milliseconds until the same failure is logged again.
const MAX_LOGGED: usize = 64;
const LOG_AGAIN_MS: u64 = 3_600_000;

/// Milliseconds after which a link that is down is logged.
const DOWN_MS: u64 = 1000;

/// Above this difference of wall clocks, connection ids and decoys differ.
const MAX_CLOCK_DIFFERENCE_MS: u64 = 120_000;

/// Links to nodes that no `--cluster-peer` has, and all links. Each may have a queue of [`super::link::MAX_QUEUE`].
const MAX_GUESTS: usize = 256;
const MAX_LINKS: usize = 2 * MAX_GUESTS;

/// Nodes that are remembered while they are away.
const MAX_REMEMBERED: usize = 1024;

#[derive(Default)]
pub struct Settings {
    pub keys: Keys,
    /// Random at each start.
    pub id: u64,
    /// The seed of nonces and retries.
    pub seed: u64,
    /// In seconds.
    pub peer_timeout: u32,
    pub max_peers: usize,
    pub max_per_host: u32,
    /// The nodes that the operator names.
    pub peers: Vec<String>,
    /// The port on which this node accepts connections.
    pub port: u16,
    /// News is also collected for opentracker's live sync, which needs renewals earlier.
    pub has_live_sync: bool,
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
    name: String,
    /// Tried in turn. A connection from one of them is the peer's.
    addresses: Vec<SocketAddr>,
    next: usize,
    /// The id of the node when it was last reached.
    id: Option<u64>,
    retry_at: u64,
    failure: Option<Failure>,
    /// Connections in a row that were closed before they were links.
    closes: u32,
    is_logged_up: bool,
    /// Of earlier links.
    traffic: Traffic,
    /// When the link went up or down.
    since: u64,
}

/// What this node has of another one, from one link to the next.
#[derive(Debug)]
pub(super) struct Memory {
    id: u64,
    /// The position, and the flags of the next [`records::READY`].
    pub(super) received: Received,
    wishes: u64,
    /// Milliseconds by which its uptime was ahead of this table's clock.
    pub(super) ahead_ms: Option<i64>,
}

/// A failure that was logged: the peer or else the address, and the number.
type Logged = (Option<usize>, Option<IpAddr>, usize);

#[derive(Default)]
pub struct Node {
    pub(super) settings: Settings,
    pub(super) links: Vec<Link>,
    pub(super) peers: Vec<Peer>,
    pub(super) memory: Vec<Memory>,
    pub(super) kept: Kept,
    pub(super) walk: Walk,
    pub(super) news: Vec<News>,
    /// News of all shards for opentracker's live sync, which takes it.
    pub outside: Vec<News>,
    random: Random,
    nonces: u64,
    pub(super) health: Health,
    /// A whole node has sent its whole table.
    pub(super) has_everything: bool,
    /// When a link was last up, or last unanswered.
    pub(super) linked_at: u64,
    pub(super) started: u64,
    pub(super) ticked_at: u64,
    pub(super) collected_at: u64,
    pub(super) granted_at: Option<u64>,
    pub(super) listed_at: Option<u64>,
    /// The link for which catch-up frames were last made.
    pub(super) caught_up: ConnId,
    /// The time limit of the end, once it has begun.
    pub(super) finish_by: Option<u64>,
    /// The last walk has ended.
    pub(super) has_walked: bool,
    /// When the clock was moved on.
    pub(super) moved_at: Option<u64>,
    /// Milliseconds by which the wall clock is ahead of the time since the start.
    pub(super) wall_ahead_ms: Option<i64>,
    /// Until then only remembered nodes are linked: they know whether the clock stood still.
    pub(super) unsure_until: u64,
    /// Milliseconds by which the wall clock was stepped on, for which this node's clock may have stood still; and when
    /// that was noticed.
    pub(super) missing: Option<(u64, u64)>,
    /// The node whose phase of the units was taken, when, and how many were taken within a peer's lifetime: two nodes
    /// in turn would move the clock again and again.
    pub(super) phase_from: Option<(u64, u64, u32)>,
    /// The phase is that of a whole node.
    pub(super) has_phase: bool,
    pub(super) records_in: u64,
    pub(super) refused: u64,
    /// Records refused before the other nodes were last asked because of the list.
    pub(super) refused_before: u64,
    pub(super) is_list_changed: bool,
    failures: [u64; Failure::COUNT],
    /// With the time.
    logged: Vec<(Logged, u64)>,
    /// Lines for the log.
    pub lines: Vec<String>,
}

impl Node {
    /// From now on the table notes news for other nodes.
    pub fn new(settings: Settings, table: &Table, now: u64) -> Node {
        let key = siphash24_128([settings.seed, settings.id], b"stops");
        let renewals_from = match settings.has_live_sync {
            true => renewals_from(table.unit_ms()),
            false => LATE,
        };
        table.join_cluster(key, settings.max_peers, renewals_from, now);
        let (clock_ms, unit) = clock(table, now);
        let peers = settings.peers.iter().map(|name| Peer {
            name: name.clone(),
            ..Peer::default()
        });
        Node {
            peers: peers.collect(),
            kept: Kept::new(max_events(settings.max_peers)),
            walk: Walk::new(clock_ms, unit, table.unit_ms()),
            random: Random::seeded(settings.seed),
            linked_at: now,
            started: now,
            settings,
            ..Node::default()
        }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether it has the peers of all nodes.
    pub(super) fn is_whole(&self) -> bool {
        self.health == Health::Ok
    }

    /// A peer to connect to now, and its address. To be called until there is none.
    pub fn next_dial(&mut self, now: u64) -> Option<(usize, SocketAddr)> {
        if self.finish_by.is_some() {
            return None;
        }
        let links = &self.links;
        let mut peers = self.peers.iter_mut().enumerate();
        let (index, peer) = peers.find(|(index, peer)| {
            let is_its = |link: &Link| {
                link.is_dialler && link.peer == Some(*index)
                    || link.is_up && peer.id == Some(link.theirs.id)
            };
            peer.retry_at <= now && !peer.addresses.is_empty() && !links.iter().any(is_its)
        })?;
        peer.retry_at = now + MAX_RETRY_MS as u64;
        let address = peer.addresses.get(peer.next % peer.addresses.len());
        peer.next = peer.next.wrapping_add(1);
        Some((index, *address?))
    }

    /// Sets the addresses of a peer. If they have changed, it is tried at once.
    pub fn set_addresses(&mut self, index: usize, addresses: Vec<SocketAddr>) {
        let peer = self.peers.get_mut(index);
        if let Some(peer) = peer.filter(|peer| peer.addresses != addresses) {
            (peer.addresses, peer.next, peer.retry_at) = (addresses, 0, 0);
        }
    }

    /// Whether a connection from this address is one too many of unnamed addresses.
    pub fn is_crowded(&self, from: IpAddr) -> bool {
        let is_stranger = |ip| {
            let mut addresses = self.peers.iter().flat_map(|peer| &peer.addresses);
            !addresses.any(|address| address.ip() == ip)
        };
        let waiting = self.links.iter().filter(|link| !link.is_up);
        let addresses = waiting.filter_map(|link| link.address);
        let strangers = addresses.filter(|address| is_stranger(address.ip()));
        is_stranger(from) && strangers.count() >= MAX_STRANGERS
    }

    /// Whether there is no link to this peer. False for the node itself.
    pub fn is_silent(&self, index: usize) -> bool {
        self.peers.get(index).is_some_and(|peer| {
            let is_its = |link: &Link| link.peer == Some(index) || peer.id == Some(link.theirs.id);
            peer.failure != Some(Failure::Own) && !self.ups().any(is_its)
        })
    }

    pub fn overview(&self, now: u64) -> Overview {
        let named = self.peers.iter().enumerate().map(|(index, peer)| {
            let down = LinkReport {
                since_ms: now.saturating_sub(peer.since),
                failure: peer.failure,
                traffic: peer.traffic,
                ..LinkReport::default()
            };
            let link = self.ups().find(|link| link.peer == Some(index));
            LinkReport {
                name: peer.name.clone(),
                is_unresolved: peer.addresses.is_empty(),
                ..link.map_or(down, |link| link.report(now))
            }
        });
        // In the order of their connections. A sort of the standard library would be 6 KB of code.
        let after = |conn: ConnId| {
            let others = self
                .ups()
                .filter(|link| link.peer.is_none() && link.conn > conn);
            others.min_by_key(|link| link.conn)
        };
        let others = std::iter::successors(after(0), |link| after(link.conn));
        let others = others.map(|link| LinkReport {
            name: link.home().map_or_else(String::new, |it| it.to_string()),
            ..link.report(now)
        });
        Overview {
            health: self.health,
            links: named.chain(others).collect(),
            link_records_in: self.records_in,
            events: self.kept.len() as u64,
            events_reach_ms: self.kept.reach_ms(now),
            refused: self.refused,
            failures: self.failures,
            multicast: None,
        }
    }

    /// Makes a line for the log about a peer, or else about an address.
    fn log(&mut self, peer: Option<usize>, address: Option<SocketAddr>, text: &dyn Display) {
        let peer = peer.and_then(|index| self.peers.get(index));
        self.lines.push(match (peer, address) {
            (Some(peer), _) => format!("{}: {text}", peer.name),
            (None, Some(address)) => format!("{address}: {text}"),
            (None, None) => text.to_string(),
        });
    }

    /// Counts a connection that did not become a link, and logs it unless the same failure was logged lately; of a
    /// peer, since its last link.
    pub fn fail(
        &mut self,
        peer: Option<usize>,
        address: Option<SocketAddr>,
        why: Failure,
        now: u64,
    ) {
        if let Some(count) = self.failures.get_mut(why.number()) {
            *count += 1;
        }
        let is_closed = why == Failure::Closed;
        let mut is_logged = !is_closed;
        if let Some(peer) = self.peer_mut(peer) {
            peer.failure = Some(why);
            // A node closes a connection if it has another or moves its clock, but not several in a row.
            peer.closes = if is_closed { peer.closes + 1 } else { 0 };
            is_logged |= peer.closes >= MAX_CLOSES;
        }
        self.logged
            .retain(|((peer, ..), at)| peer.is_some() || at + LOG_AGAIN_MS > now);
        let strangers = self.logged.iter().filter(|((peer, ..), _)| peer.is_none());
        let has_room = peer.is_some() || strangers.count() < MAX_LOGGED;
        let ip = address.filter(|_| peer.is_none()).map(|it| it.ip());
        let failure = (peer, ip, why.number());
        let is_new = self.logged.iter().all(|(other, _)| *other != failure);
        if !is_logged || !has_room || !is_new {
            return;
        }
        self.logged.push((failure, now));
        match why {
            Failure::Unreachable => self.log(peer, address, &"cannot connect"),
            Failure::Own => self.log(peer, address, &"this node itself: not connected"),
            _ => self.log(peer, address, &format_args!("handshake failed: {why}")),
        }
    }

    /// Notes a connection: to a peer, where it is being made, or from another node.
    pub fn open(&mut self, conn: ConnId, peer: Option<usize>, address: SocketAddr, now: u64) {
        self.links.push(Link::new(conn, peer, address, now));
    }

    /// A connection to a peer has been made.
    pub fn connected(&mut self, id: ConnId, world: &World) {
        let own = self.hello(world);
        if let Some(link) = self.link_mut(id) {
            link.push_hello(own);
        }
    }

    fn hello(&mut self, world: &World) -> Hello {
        self.nonces += 1;
        let key = [self.settings.seed, self.settings.id];
        Hello {
            max_per_host: self.settings.max_per_host,
            peer_timeout: self.settings.peer_timeout,
            port: self.settings.port,
            is_whole: self.is_whole(),
            id: self.settings.id,
            nonce: siphash24_128(key, &self.nonces.to_be_bytes()),
            clock_ms: clock(world.table, world.now).0,
            uptime_ms: world.now,
        }
    }

    /// The links that are up.
    pub(super) fn ups(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.is_up)
    }

    pub(super) fn link(&self, id: ConnId) -> Option<&Link> {
        self.links.iter().find(|link| link.conn == id)
    }

    pub(super) fn link_mut(&mut self, id: ConnId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.conn == id)
    }

    fn take_link(&mut self, id: ConnId) -> Option<Link> {
        let at = self.links.iter().position(|link| link.conn == id)?;
        Some(self.links.swap_remove(at))
    }

    fn peer_mut(&mut self, index: Option<usize>) -> Option<&mut Peer> {
        self.peers.get_mut(index?)
    }

    pub(super) fn memory_of(&self, id: u64) -> Option<&Memory> {
        self.memory.iter().find(|memory| memory.id == id)
    }

    /// Whether the next tick makes something to send through a connection.
    pub fn is_hungry(&self, id: ConnId) -> bool {
        self.link(id).is_some_and(Link::is_hungry)
    }

    /// Bytes to be sent. None if the connection is to be closed.
    pub fn output(&self, id: ConnId) -> Option<&[u8]> {
        Some(self.link(id)?.output())
    }

    pub fn sent(&mut self, id: ConnId, count: usize) {
        if let Some(link) = self.link_mut(id) {
            link.sent(count);
        }
    }

    /// A connection has ended, or could not be made.
    pub fn closed(&mut self, id: ConnId, why: Failure, now: u64) {
        if let Some(link) = self.take_link(id) {
            self.end(link, why, now);
        }
    }

    /// Forgets a link that was taken out.
    pub(super) fn end(&mut self, link: Link, why: Failure, now: u64) {
        self.remember(&link);
        let why = link.ending.unwrap_or(why);
        let is_linked = self.ups().any(|other| other.theirs.id == link.theirs.id);
        let wait = RETRY_MS + self.random.below(MAX_RETRY_MS - RETRY_MS);
        let is_moved = self.moved_at == Some(now);
        if let Some(peer) = self.peer_mut(link.peer) {
            if link.is_dialler {
                peer.retry_at = match why {
                    Failure::Own => now + OWN_RETRY_MS,
                    _ if is_moved => now,
                    _ => now + wait as u64,
                };
            }
            if link.is_up && !is_linked {
                peer.since = now;
                peer.failure = Some(why);
            }
        }
        match (link.is_up, is_linked) {
            (true, false) => {
                self.linked_at = now;
                if link.peer.is_none() {
                    self.log(None, link.address, &format_args!("link down: {why}"));
                }
            }
            // The side that connects logs it.
            (false, _) if why == Failure::Own && !link.is_dialler => {}
            (false, is_linked) if !is_linked || why == Failure::WrongKey => {
                self.fail(link.peer, link.address, why, now);
            }
            _ => {}
        }
    }

    /// Takes bytes of a connection, and applies the frames that are complete.
    pub fn receive(&mut self, id: ConnId, bytes: &[u8], world: &World) {
        // Taken out of the others while its bytes change the node.
        let Some(mut link) = self.take_link(id) else {
            return;
        };
        if link.ending.is_some() {
            return self.links.push(link);
        }
        if world.table.is_held(world.now) {
            // The table takes no records before it is swept. The next link asks for them again.
            return self.end(link, Failure::Closed, world.now);
        }
        link.traffic.bytes_in += bytes.len() as u64;
        let mut input = std::mem::take(&mut link.input);
        input.extend_from_slice(bytes);
        let mut rest = &input[..];
        let result = loop {
            match self.take_one(&mut link, rest, world) {
                Ok(0) => break Ok(()),
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(why) => break Err(why),
            }
        };
        link.input = rest.to_vec();
        match result {
            Ok(()) => self.links.push(link),
            Err(why) => self.refuse(link, why, world),
        }
    }

    /// Takes a hello or a frame from the front of these bytes. Returns its length, or 0 if it is not complete.
    fn take_one(&mut self, link: &mut Link, bytes: &[u8], world: &World) -> Result<usize, Failure> {
        let Some(session) = &mut link.session else {
            return match Hello::read(bytes)? {
                Some((hello, raw)) => self.greet(link, hello, &raw, world).map(|()| raw.len()),
                None => Ok(0),
            };
        };
        match session.open(bytes) {
            Ok(None) => Ok(0),
            Ok(Some(content)) => {
                link.heard_at = world.now;
                self.handle(link, content, world)?;
                Ok(OVERHEAD + content.len())
            }
            Err(_) if link.is_up => Err(Failure::Closed),
            Err(why) => Err(why),
        }
    }

    /// Ends a connection because of its bytes. If the other side can learn the reason from this node's hello or first
    /// frame, these are sent before.
    fn refuse(&mut self, mut link: Link, why: Failure, world: &World) {
        match why {
            Failure::Version(_) | Failure::PeerTimeout(_) | Failure::PerHost(_) | Failure::Own
                if !link.is_dialler =>
            {
                link.push_hello(self.hello(world));
            }
            Failure::WrongKey if link.session.is_some() => {}
            _ => return self.end(link, why, world.now),
        }
        link.ending = Some(why);
        self.links.push(link);
    }

    /// Takes the other node's hello: derives the keys, and asks for the records that are missing here.
    fn greet(
        &mut self,
        link: &mut Link,
        theirs: Hello,
        raw: &RawHello,
        world: &World,
    ) -> Result<(), Failure> {
        link.theirs = theirs;
        if !link.is_dialler {
            let home = link.home();
            let is_its = |peer: &Peer| peer.addresses.iter().any(|it| Some(*it) == home);
            link.peer = self.peers.iter().position(is_its);
        }
        if theirs.id == self.settings.id {
            return Err(Failure::Own);
        }
        if theirs.peer_timeout != self.settings.peer_timeout {
            return Err(Failure::PeerTimeout(theirs.peer_timeout));
        }
        if theirs.max_per_host != self.settings.max_per_host {
            return Err(Failure::PerHost(theirs.max_per_host));
        }
        if !link.is_dialler {
            link.push_hello(self.hello(world));
        }
        let (keys, own) = (&self.settings.keys, link.own.write());
        link.session = Some(Session::new(keys, link.is_dialler, &own, raw));
        self.ask(link);
        Ok(())
    }

    /// Asks for everything after the last link to this node. A node that is not whole takes only news for now.
    fn ask(&self, link: &mut Link) {
        let (received, wishes) = match self.memory_of(link.theirs.id) {
            _ if !self.is_whole() => (Received::default(), LATER),
            Some(memory) => (memory.received, memory.wishes),
            None => (Received::default(), 0),
        };
        link.ask(received, wishes);
    }

    fn handle(&mut self, link: &mut Link, content: &[u8], world: &World) -> Result<(), Failure> {
        let Some((&kind, content)) = content.split_first() else {
            return Ok(());
        };
        let mut reader = Reader(content);
        match kind {
            records::READY => match reader.numbers() {
                Some(asked) => {
                    // The first one shows that the other node has the key.
                    if !link.is_up {
                        self.link_up(link, world)?;
                    }
                    self.answer(link, asked);
                }
                None if link.is_up => {}
                None => return Err(Failure::WrongKey),
            },
            _ if !link.is_up => return Err(Failure::WrongKey),
            records::HEARTBEAT => {
                if let Some(heartbeat) = Heartbeat::read(&mut reader) {
                    self.hear(link, heartbeat, world);
                }
            }
            records::RECORDS | records::WALK => self.apply_records(link, kind, reader, world),
            records::COUNTS => self.apply_counts(reader, world),
            _ => {}
        }
        Ok(())
    }

    /// The other node has shown that it has the key. An error if there is to be no link now.
    fn link_up(&mut self, link: &mut Link, world: &World) -> Result<(), Failure> {
        let id = link.theirs.id;
        if !link.is_dialler {
            let known = self.peers.iter().position(|peer| peer.id == Some(id));
            link.peer = known.or(link.peer);
        }
        if let Some(peer) = self.peer_mut(link.peer) {
            peer.id = Some(id);
            // A link from an unnamed address was the same node's.
            let mut links = self.links.iter_mut();
            if let Some(other) = links.find(|other| other.is_up && other.theirs.id == id) {
                other.peer = other.peer.or(link.peer);
            }
        }
        let is_unsure = world.now < self.unsure_until && !self.memory.is_empty();
        if is_unsure && self.memory_of(id).is_none()
            || self.was_suspended(link, world)
            || self.takes_phase(link, world)
            || !self.replaces_others(link, world.now)
        {
            return Err(Failure::Closed);
        }
        let guests = self.ups().filter(|link| link.peer.is_none()).count();
        if self.ups().count() >= MAX_LINKS || link.peer.is_none() && guests >= MAX_GUESTS {
            return Err(Failure::Crowded);
        }
        self.unsure_until = 0;
        relate_clocks(link, world.table.unit_ms());
        link.is_up = true;
        link.since = world.now;
        link.heartbeat_at = world.now;
        if let Some(peer) = self.peer_mut(link.peer) {
            link.traffic = peer.traffic;
            peer.failure = None;
            peer.closes = 0;
            peer.since = world.now;
            self.logged.retain(|((peer, ..), _)| *peer != link.peer);
        } else {
            self.log(None, link.address, &"link up");
        }
        Ok(())
    }

    /// Of two links to a node one stays: the newer one if the same side dialled both, else the one that the lower id
    /// dialled. False if it is not this one.
    fn replaces_others(&mut self, link: &mut Link, now: u64) -> bool {
        let id = link.theirs.id;
        let is_preferred = link.is_dialler == (self.settings.id < id);
        let is_other = |other: &Link| other.is_up && other.theirs.id == id;
        let stays = |other: &Link| {
            let is_stale = other.heard_at + STALE_MS < now;
            other.is_dialler != link.is_dialler && !is_preferred && !is_stale
        };
        let mut links = self.links.iter();
        if links.any(|other| is_other(other) && stays(other)) {
            return false;
        }
        while let Some(at) = self.links.iter().position(is_other) {
            let other = self.links.swap_remove(at);
            self.remember(&other);
        }
        // Frames of the other link may have been received after this one had asked.
        if let Some(memory) = self.memory_of(id) {
            let is_less = memory.received.unit < link.received.unit;
            let lacks_joining = memory.wishes & !link.wishes & JOINING != 0;
            link.received = memory.received;
            link.known = memory.received.event;
            if self.is_whole() && (is_less || lacks_joining) {
                self.ask(link);
            }
        }
        true
    }

    /// Keeps the position in a node's records for the next link to it.
    fn remember(&mut self, link: &Link) {
        if !link.is_up {
            return;
        }
        if let Some(peer) = self.peer_mut(link.peer) {
            peer.traffic = link.traffic;
        }
        // A link that ends before its answer is complete lacks counts. Nor has it a position if it was joining: then
        // the next link joins again, since the completions so far must not be added to counts that include them.
        let wishes = link.wishes & LEARNT | WITH_COUNTS;
        let (received, wishes) = match link.is_answered() {
            true => (link.received, 0),
            false if link.is_joining() => (Received::default(), wishes | JOINING),
            false => (link.received, wishes),
        };
        let memory = Memory {
            id: link.theirs.id,
            received,
            wishes,
            ahead_ms: link.ahead_ms,
        };
        self.memory.retain(|old| old.id != memory.id);
        if self.memory.len() >= MAX_REMEMBERED {
            self.memory.remove(0);
        }
        self.memory.push(memory);
    }

    fn hear(&mut self, link: &mut Link, heartbeat: Heartbeat, world: &World) {
        let (clock_ms, _) = clock(world.table, world.now);
        link.hear(heartbeat, world.now, clock_ms, world.wall);
        // The other node was asked before it was whole, and a third one cannot be reached.
        if self.health == Health::Alone && heartbeat.is_whole && !link.theirs.is_whole {
            link.theirs.is_whole = true;
            link.wishes = LATER;
        }
        let ahead = link.clock_ahead_ms.unwrap_or(0);
        let differs = ahead.unsigned_abs() > MAX_CLOCK_DIFFERENCE_MS;
        if differs && !std::mem::replace(&mut link.is_clock_logged, true) {
            let text = "connection ids and decoys differ too";
            let text = format!("its wall clock differs by {} s: {text}", ahead / 1000);
            self.log(link.peer, link.address, &text);
        }
    }

    /// Logs the peers whose links have come up, or have been down for a moment: a link that is replaced comes up again
    /// at once.
    pub(super) fn log_links(&mut self, now: u64) {
        for index in 0..self.peers.len() {
            let is_up = !self.is_silent(index);
            let Some(peer) = self.peers.get_mut(index) else {
                continue;
            };
            let is_settled = is_up || now >= peer.since + DOWN_MS;
            if peer.is_logged_up != is_up && is_settled && peer.failure != Some(Failure::Own) {
                peer.is_logged_up = is_up;
                let why = peer.failure.unwrap_or(Failure::Closed);
                match is_up {
                    true => self.log(Some(index), None, &"link up"),
                    false => self.log(Some(index), None, &format_args!("link down: {why}")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Announce, Event, Limits, Peer as Address, Role, Sinks};
    use std::net::Ipv4Addr;

    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

    struct Host {
        node: Node,
        table: Table,
    }

    impl Host {
        fn new(id: u64, peers: &[&str]) -> Host {
            Host::with_timeout(id, peers, 2700)
        }

        fn with_timeout(id: u64, peers: &[&str], peer_timeout: u32) -> Host {
            let limits = Limits {
                peer_timeout,
                max_peers: 1 << 20,
                max_torrents: 1 << 20,
            };
            let table = Table::new(limits, 1);
            let settings = Settings {
                keys: Keys::new(&[7; 32]),
                id,
                seed: id,
                peer_timeout,
                max_peers: 1 << 20,
                max_per_host: 0,
                peers: peers.iter().map(ToString::to_string).collect(),
                port: 1,
                has_live_sync: false,
            };
            let mut node = Node::new(settings, &table, 0);
            node.set_addresses(0, vec![ADDRESS]);
            Host { node, table }
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
            let announce = Announce {
                info_hash: hash(number),
                peer: Address::new([192, 0, 2, 1].into(), 7),
                role,
                event,
                want: 0,
                hint: None,
            };
            let mut sinks = Sinks::new(&mut [], &mut []);
            self.table
                .lock(0, now)
                .announce(&announce, &mut Random::seeded(1), &mut sinks);
        }
    }

    fn hash(number: u32) -> InfoHash {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&number.wrapping_mul(0x0100_002b).to_be_bytes());
        hash
    }

    /// Connects one node to the other if that is due. Returns whether it was.
    fn connect(a: &mut Host, b: &mut Host, id: ConnId, now: u64) -> bool {
        let Some((peer, address)) = a.node.next_dial(now) else {
            return false;
        };
        a.node.open(id, Some(peer), address, now);
        a.with(now, |node, world| node.connected(id, world));
        b.node.open(id, None, address, now);
        true
    }

    /// Carries the bytes that both have to send through a connection.
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

    /// Lets both nodes run for 20 seconds, with a connection of this number.
    fn run(a: &mut Host, b: &mut Host, id: ConnId, from: u64) {
        for now in (from..from + 20_000).step_by(100) {
            connect(a, b, id, now);
            pass(a, b, id, now);
            a.with(now, |node, world| node.tick(world));
            b.with(now, |node, world| node.tick(world));
        }
    }

    /// Carries the bytes that one node has to send now, or the end of the connection.
    fn carry(from: &mut Host, to: &mut Host, id: ConnId, at: u64) {
        match from.node.output(id).map(<[u8]>::to_vec) {
            Some(bytes) => {
                from.node.sent(id, bytes.len());
                to.with(at, |node, world| node.receive(id, &bytes, world));
            }
            None => to.node.closed(id, Failure::Closed, at),
        }
    }

    /// A unit of this peer timeout is 41 ms. The hello of one side is made 10 ms after that of the other.
    #[test]
    fn nodes_link_though_a_handshake_takes_a_quarter_of_a_unit() {
        let mut a = Host::with_timeout(1, &["b"], 2);
        let mut b = Host::with_timeout(2, &[], 2);
        let mut id = 0;
        for now in (500..40_000).step_by(20) {
            if connect(&mut a, &mut b, id + 1, now) {
                id += 1;
            }
            carry(&mut a, &mut b, id, now + 10);
            carry(&mut b, &mut a, id, now + 15);
            a.with(now + 15, |node, world| node.tick(world));
            b.with(now + 15, |node, world| node.tick(world));
        }
        let are_up = [&a, &b].map(|host| host.node.ups().count());
        assert_eq!((id, are_up), (1, [1, 1]));
    }

    #[test]
    fn renewals_reach_the_other_node_after_lost_news_and_then_a_lost_link() {
        const UNIT_MS: u64 = 56_250;
        let (mut a, mut b) = (Host::new(1, &["b"]), Host::new(2, &[]));
        let announce_all = |host: &mut Host, now| {
            (0..5000).for_each(|number| host.announce(number, Event::None, Role::Seeder, now));
        };
        announce_all(&mut a, 10);
        let (mut id, mut is_cut) = (0, false);
        let mut sweepers = [(); 2].map(|()| crate::tracker::Sweeper::default());
        for now in (500..55 * UNIT_MS).step_by(500) {
            if !is_cut && connect(&mut a, &mut b, id + 1, now) {
                id += 1;
            }
            for _ in 0..10 {
                pass(&mut a, &mut b, id, now);
                a.with(now, |node, world| node.tick(world));
                b.with(now, |node, world| node.tick(world));
            }
            if now == 9 * UNIT_MS + 250 {
                announce_all(&mut a, now);
            } else if now == 11 * UNIT_MS + 2250 {
                // Between two slices of the first half of a walk.
                let (_, unit) = clock(&a.table, now);
                a.node.links.iter_mut().for_each(|link| link.lose(unit));
            } else if now == 11 * UNIT_MS + 20_250 {
                a.node.closed(id, Failure::Closed, now);
                b.node.closed(id, Failure::Closed, now);
                is_cut = true;
            } else if now == 16 * UNIT_MS {
                is_cut = false;
            }
            for (host, sweeper) in [&a, &b].into_iter().zip(&mut sweepers) {
                sweeper.step(&host.table, now, 1 << 20, None);
            }
        }
        let totals = [&a, &b].map(|host| host.table.survey(55 * UNIT_MS).totals.seeders);
        assert_eq!((id, totals), (2, [5000, 5000]));
    }

    /// The queue fills up within a batch of news: an event of it must not be sent twice.
    #[test]
    fn completions_of_peers_that_stop_are_counted_once_though_a_queue_overflows() {
        const TORRENTS: u32 = 36_000;
        let (mut a, mut b) = (Host::new(1, &["b"]), Host::new(2, &[]));
        let tick = |a: &mut Host, b: &mut Host, now| {
            a.with(now, |node, world| node.tick(world));
            b.with(now, |node, world| node.tick(world));
        };
        for now in (500..20_000).step_by(100) {
            connect(&mut a, &mut b, 1, now);
            pass(&mut a, &mut b, 1, now);
            tick(&mut a, &mut b, now);
        }
        let mut now = 20_000;
        for number in 0..TORRENTS {
            a.announce(number, Event::Completed, Role::Seeder, now);
            a.announce(number, Event::Stopped, Role::Seeder, now);
            if number % 1000 == 999 {
                now += 30;
                tick(&mut a, &mut b, now);
            }
        }
        for _ in 0..400 {
            now += 30;
            pass(&mut a, &mut b, 1, now);
            tick(&mut a, &mut b, now);
        }
        let downloaded = |number: u32| {
            let hash = hash(number);
            let counts = b.table.lock_for(&hash, now).scrape(&hash);
            counts.map_or(0, |counts| counts.downloaded)
        };
        let wrong = (0..TORRENTS).filter(|number| downloaded(*number) != 1);
        assert_eq!(wrong.count(), 0);
    }

    /// The counts that node b has include these completions, so they must come marked as counted again.
    #[test]
    fn completions_are_counted_once_though_a_link_drops_before_a_changed_list_is_answered() {
        let (mut a, mut b) = (Host::new(1, &["b"]), Host::new(2, &[]));
        run(&mut a, &mut b, 1, 500);
        let now = 21_000;
        for number in 0..100 {
            a.announce(number, Event::Completed, Role::Seeder, now);
            a.announce(number, Event::Stopped, Role::Seeder, now);
        }
        run(&mut a, &mut b, 1, now);
        assert!(a.node.is_whole() && b.node.is_whole());
        b.node.refused += 1;
        b.node.list_changed();
        let now = 42_000;
        b.with(now, |node, world| node.tick(world));
        a.node.closed(1, Failure::Closed, now);
        b.node.closed(1, Failure::Closed, now);
        run(&mut a, &mut b, 2, now);
        assert!(a.node.links.iter().all(|link| link.is_up && link.conn == 2));
        let now = 62_000;
        let counts =
            (0..100).map(|number| b.table.lock_for(&hash(number), now).scrape(&hash(number)));
        let wrong = counts.filter(|counts| counts.is_none_or(|counts| counts.downloaded != 1));
        assert_eq!(wrong.count(), 0);
    }

    /// Each node notes completions while the link is down, with a request because of a changed list unanswered. The
    /// maximum of the counts would lack those of one of them.
    #[test]
    fn completions_at_both_nodes_add_up_though_a_link_drops_before_a_changed_list_is_answered() {
        let (mut a, mut b) = (Host::new(1, &["b"]), Host::new(2, &[]));
        let complete = |host: &mut Host, now| {
            host.announce(1, Event::Completed, Role::Seeder, now);
            host.announce(1, Event::Stopped, Role::Seeder, now);
        };
        run(&mut a, &mut b, 1, 500);
        complete(&mut a, 21_000);
        run(&mut a, &mut b, 1, 21_000);
        b.node.refused += 1;
        b.node.list_changed();
        let now = 42_000;
        b.with(now, |node, world| node.tick(world));
        a.node.closed(1, Failure::Closed, now);
        b.node.closed(1, Failure::Closed, now);
        complete(&mut a, now);
        complete(&mut b, now);
        run(&mut a, &mut b, 2, now);
        let hash = hash(1);
        let counts = [&a, &b].map(|host| host.table.lock_for(&hash, 62_000).scrape(&hash));
        assert_eq!(
            counts.map(|counts| counts.map(|it| it.downloaded)),
            [Some(3); 2]
        );
    }
}
