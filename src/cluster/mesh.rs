//! The sockets of a node: connects to the nodes that the operator names, takes the connections of others, and moves
//! bytes between them and the [`Node`]. Also where names come to addresses, and notices to lines of the log.
//!
//! A turn reads a bounded number of bytes, so that clients do not wait for other nodes.

use super::node::{ConnId, Node, Notice, Other, Settings, World};
use crate::log;
use crate::options::PeerName;
use crate::stats::cluster::{Failure, Multicast, SharedOverview};
use crate::sys::sockets;
use crate::tracker::{News, Table};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};

/// Connections have the tokens below this, one for each place.
const LAST_TOKEN: usize = usize::MAX - 1;
const MAX_CONNECTIONS: usize = 1024;

/// Connections from addresses that no name resolves to, before they show the key.
const MAX_STRANGERS: usize = 64;

/// Bytes that are read at once, and how often in a round.
const READ_BYTES: usize = 16 * 1024;
const READS_A_ROUND: usize = 1;

/// Bytes that are written to each connection in a round.
const WRITE_BYTES: usize = 64 * 1024;

/// Milliseconds that the end takes at most.
const GOODBYE_MS: u64 = 2000;

/// Milliseconds between two ticks, for a connection attempt, between two questions for a silent node's name, and between
/// two reports.
const TICK_MS: u64 = 50;
const CONNECT_MS: u64 = 3000;
const RESOLVE_MS: u64 = 60_000;
const REPORT_MS: u64 = 1000;

/// Addresses without a name of which failures are told, each once in this many milliseconds.
const MAX_TOLD: usize = 64;
const TELL_AGAIN_MS: u64 = 3_600_000;

/// A node that the operator names.
struct Peer {
    name: PeerName,
    /// Tried in turn.
    addresses: Vec<SocketAddr>,
    next: usize,
    /// When its name is resolved again; none for an address.
    resolve_at: Option<u64>,
    is_failure_told: bool,
}

struct Connection {
    id: ConnId,
    stream: TcpStream,
    address: SocketAddr,
    /// Which node this one connects to.
    peer: Option<usize>,
    /// Until when the connection must be made; none once it is.
    connect_by: Option<u64>,
    is_stranger: bool,
    readable: bool,
    writable: bool,
}

pub struct Mesh {
    node: Node,
    listeners: Vec<TcpListener>,
    peers: Vec<Peer>,
    connections: Vec<Option<Connection>>,
    next_id: ConnId,
    /// The place that was read from last.
    last_read: usize,
    has_unread: bool,
    has_unwritten: bool,
    /// A listener had an error: it is tried again at the next tick.
    retries_accept: bool,
    /// When the end began, and whether nothing more is sent.
    ending_at: Option<u64>,
    is_shut: bool,
    is_busy: bool,
    tick_at: u64,
    report_at: u64,
    /// Failures of connections that are no peer's: the address, the reason, when it was told.
    told: Vec<(IpAddr, Failure, u64)>,
    /// Whether a listener may have more connections to take.
    accepts: bool,
    overview: SharedOverview,
    /// For the report.
    pub multicast: Option<Multicast>,
}

impl Mesh {
    pub fn new(
        settings: Settings,
        names: &[PeerName],
        listeners: Vec<TcpListener>,
        table: &Table,
    ) -> Mesh {
        let peers = names.iter().map(|name| Peer {
            name: name.clone(),
            addresses: name.address().into_iter().collect(),
            next: 0,
            resolve_at: name.address().is_none().then_some(0),
            is_failure_told: false,
        });
        let peers: Vec<Peer> = peers.collect();
        let mut node = Node::new(settings, table, 0);
        for (index, peer) in peers.iter().enumerate() {
            node.set_addresses(index, &peer.addresses);
        }
        Mesh {
            peers,
            node,
            listeners,
            connections: Vec::new(),
            next_id: 0,
            last_read: 0,
            has_unread: false,
            has_unwritten: false,
            retries_accept: false,
            ending_at: None,
            is_shut: false,
            is_busy: false,
            tick_at: 0,
            report_at: 0,
            told: Vec::new(),
            accepts: true,
            overview: SharedOverview::default(),
            multicast: None,
        }
    }

    /// The report that the other threads read.
    pub fn overview(&self) -> SharedOverview {
        self.overview.clone()
    }

    /// Collects news for [`Mesh::drain_news`].
    pub fn collect_news(&mut self) {
        self.node.collect_news();
    }

    /// Appends the news of all shards since the last call.
    pub fn drain_news(&mut self, into: &mut Vec<News>) {
        into.append(&mut self.node.drain_news());
    }

    pub fn owns(token: Token) -> bool {
        token.0 > LAST_TOKEN - MAX_CONNECTIONS && token.0 <= LAST_TOKEN
    }

    /// Has the poll watch the listeners under these tokens.
    pub fn register(&mut self, registry: &Registry, tokens: [Token; 2]) -> io::Result<()> {
        for (listener, token) in self.listeners.iter_mut().zip(tokens) {
            registry.register(listener, token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// Notes that something has happened to a connection, or that a listener has some.
    pub fn ready(&mut self, token: Token) {
        if !Mesh::owns(token) {
            self.accepts = true;
        } else if let Some(Some(connection)) = self.connections.get_mut(LAST_TOKEN - token.0) {
            connection.readable = true;
            connection.writable = true;
            self.has_unread = true;
        }
    }

    pub fn is_busy(&self) -> bool {
        self.is_busy || self.has_unread || self.has_unwritten || self.accepts
    }

    pub fn next_deadline(&self) -> u64 {
        self.tick_at
    }

    /// Whether [`Mesh::serve`] has something to do, as it mostly has not between two batches of requests.
    pub fn is_due(&self, now: u64) -> bool {
        self.is_busy() || now >= self.tick_at
    }

    /// A turn: takes connections, reads, lets the node work, writes.
    pub fn serve(&mut self, registry: &Registry, world: &World) {
        self.accept(registry, world);
        self.connect_on(world);
        self.read(world);
        if self.is_busy || world.now >= self.tick_at {
            self.tick_at = world.now + TICK_MS;
            self.accepts |= std::mem::take(&mut self.retries_accept);
            self.is_busy = self.node.tick(world);
            self.dial(registry, world);
            self.tell(world.now);
        }
        self.has_unwritten = false;
        self.write(world);
        self.report(world);
        self.say_goodbye(world.now);
    }

    fn accept(&mut self, registry: &Registry, world: &World) {
        if !std::mem::take(&mut self.accepts) {
            return;
        }
        let mut accepted = Vec::new();
        for listener in &self.listeners {
            while accepted.len() < MAX_STRANGERS {
                match listener.accept() {
                    Ok(connection) => accepted.push(connection),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Of one connection, or there are too few descriptors.
                    Err(_) => {
                        self.retries_accept = true;
                        break;
                    }
                }
            }
            self.accepts |= accepted.len() >= MAX_STRANGERS;
        }
        for (stream, address) in accepted {
            let ip = address.ip().to_canonical();
            let is_named = self
                .peers
                .iter()
                .flat_map(|peer| &peer.addresses)
                .any(|named| named.ip() == ip);
            let node = &self.node;
            let strangers = self
                .connections
                .iter()
                .flatten()
                .filter(|c| c.is_stranger && !node.is_up(c.id));
            if !is_named && strangers.count() >= MAX_STRANGERS {
                self.node.refuse_crowd(address);
                continue;
            }
            let address = SocketAddr::new(ip, address.port());
            if let Some(id) = self.add(registry, stream, address, None, !is_named, world.now) {
                self.node.open(id, None, address, world);
            }
        }
    }

    /// Has the poll watch a connection; none if there is no place for it.
    fn add(
        &mut self,
        registry: &Registry,
        mut stream: TcpStream,
        address: SocketAddr,
        peer: Option<usize>,
        is_stranger: bool,
        now: u64,
    ) -> Option<ConnId> {
        let free = self.connections.iter().position(Option::is_none);
        let place = free.unwrap_or(self.connections.len());
        if place >= MAX_CONNECTIONS {
            return None;
        }
        sockets::set_cluster_options(&stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry
            .register(&mut stream, Token(LAST_TOKEN - place), interest)
            .ok()?;
        self.next_id += 1;
        let connection = Connection {
            id: self.next_id,
            stream,
            address,
            peer,
            connect_by: peer.map(|_| now + CONNECT_MS),
            is_stranger,
            readable: peer.is_none(),
            writable: peer.is_none(),
        };
        match self.connections.get_mut(place) {
            Some(free) => *free = Some(connection),
            None => self.connections.push(Some(connection)),
        }
        Some(self.next_id)
    }

    /// Connects to the nodes whose time has come.
    fn dial(&mut self, registry: &Registry, world: &World) {
        while let Some(index) = self.node.next_dial(world.now) {
            let Some(peer) = self.peers.get_mut(index) else {
                continue;
            };
            // A name without an address is silent until it is resolved.
            let Some(&address) = peer.addresses.get(peer.next % peer.addresses.len().max(1)) else {
                continue;
            };
            peer.next = peer.next.wrapping_add(1);
            let is_underway = |c: &Connection| c.peer == Some(index) && c.connect_by.is_some();
            if self.connections.iter().flatten().any(is_underway) {
                continue;
            }
            let stream = sockets::connect(source(&self.listeners, address), address);
            let added = stream.ok().and_then(|stream| {
                self.add(registry, stream, address, Some(index), false, world.now)
            });
            if added.is_none() {
                self.node
                    .dial_failed(index, Failure::Unreachable, world.now);
            }
        }
    }

    /// Sees which connections have been made and which have failed.
    fn connect_on(&mut self, world: &World) {
        for place in &mut self.connections {
            let Some(connection) = place else { continue };
            let (Some(by), Some(peer)) = (connection.connect_by, connection.peer) else {
                continue;
            };
            let failure = match (connection.writable, connection.stream.take_error()) {
                (true, Ok(None)) if connection.stream.peer_addr().is_ok() => None,
                (true, _) => Some(Failure::Unreachable),
                (false, _) if by <= world.now => Some(Failure::TimedOut),
                (false, _) => continue,
            };
            match failure {
                None => {
                    connection.connect_by = None;
                    connection.readable = true;
                    self.node
                        .open(connection.id, Some(peer), connection.address, world);
                }
                Some(why) => {
                    self.node.dial_failed(peer, why, world.now);
                    *place = None;
                }
            }
        }
    }

    /// Reads from some of the connections that have something.
    fn read(&mut self, world: &World) {
        if !self.has_unread {
            return;
        }
        let count = self.connections.len();
        let mut left = READS_A_ROUND;
        let mut bytes = [0; READ_BYTES];
        for step in 1..=count {
            let place = (self.last_read + step) % count;
            let Some(Some(connection)) = self.connections.get_mut(place) else {
                continue;
            };
            if !connection.readable || connection.connect_by.is_some() {
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            self.last_read = place;
            let id = connection.id;
            match connection.stream.read(&mut bytes) {
                Ok(0) => self.node.closed(id, world),
                Ok(count) => self
                    .node
                    .receive(id, bytes.get(..count).unwrap_or_default(), world),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.readable = false;
                    left += 1;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.node.closed(id, world),
            }
            if self.node.output(id).is_none() {
                self.connections[place] = None;
            }
        }
        let waits = |c: &Connection| c.readable && c.connect_by.is_none();
        self.has_unread = self.connections.iter().flatten().any(waits);
    }

    /// Writes what waits, and drops the connections that the node has ended.
    fn write(&mut self, world: &World) {
        for place in &mut self.connections {
            let Some(connection) = place.as_mut().filter(|c| c.connect_by.is_none()) else {
                continue;
            };
            let id = connection.id;
            let Some(output) = self.node.output(id) else {
                *place = None;
                continue;
            };
            if output.is_empty() || !connection.writable {
                continue;
            }
            let piece = output.get(..WRITE_BYTES).unwrap_or(output);
            match connection.stream.write(piece) {
                Ok(count) => self.node.sent(id, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.node.closed(id, world),
            }
            let has_more = self.node.output(id).is_none_or(|output| !output.is_empty());
            self.has_unwritten |= connection.writable && has_more;
            self.is_busy |= self.node.is_hungry(id);
        }
    }

    /// Renews the report once a second, and at once if the health has changed.
    fn report(&mut self, world: &World) {
        if world.now < self.report_at && self.overview.health() == self.node.health(world.now) {
            return;
        }
        self.report_at = world.now + REPORT_MS;
        let names: Vec<String> = self
            .peers
            .iter()
            .map(|peer| peer.name.to_string())
            .collect();
        let mut overview = self.node.overview(&names, world.now);
        let nowhere = self.peers.iter().filter(|peer| peer.addresses.is_empty());
        overview.multicast = self.multicast;
        overview.unresolved = nowhere.map(|peer| peer.name.to_string()).collect();
        self.overview.set(overview);
    }

    /// The list of torrents has changed.
    pub fn list_changed(&mut self) {
        self.node.list_changed();
    }

    /// The number of a name that is to be resolved now. To be called until there is none.
    pub fn next_question(&mut self, now: u64) -> Option<usize> {
        let node = &self.node;
        let mut peers = self.peers.iter_mut().enumerate();
        let is_due = |(index, peer): &(usize, &mut Peer)| {
            peer.resolve_at
                .is_some_and(|at| at <= now && (at == 0 || node.is_silent(*index)))
        };
        let (index, peer) = peers.find(is_due)?;
        peer.resolve_at = Some(now + RESOLVE_MS);
        Some(index)
    }

    /// Has all names resolved again; how many there are.
    pub fn resolve_again(&mut self) -> usize {
        let names = self
            .peers
            .iter_mut()
            .filter_map(|peer| peer.resolve_at.as_mut());
        names.map(|at| *at = 0).count()
    }

    /// A name has been resolved, or why it could not be.
    pub fn resolved(&mut self, index: usize, addresses: Result<Vec<IpAddr>, String>) {
        let listeners = &self.listeners;
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        let (name, port) = (&peer.name, peer.name.port);
        match addresses {
            Ok(addresses) => {
                let all = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
                let all: Vec<SocketAddr> = all
                    .filter(|address| has_family_of(listeners, address))
                    .collect();
                if all.is_empty() {
                    log::line(format_args!(
                        "cluster: {name}: no address of a family of --cluster-listen"
                    ));
                } else if all != peer.addresses {
                    peer.addresses = all;
                    peer.next = 0;
                    self.node.set_addresses(index, &peer.addresses);
                }
                peer.is_failure_told = false;
            }
            Err(why) if !std::mem::replace(&mut peer.is_failure_told, true) => {
                log::line(format_args!("cluster: {name}: cannot resolve: {why}"));
            }
            Err(_) => {}
        }
    }

    /// Begins the end: what other nodes do not have yet is sent.
    pub fn wind_up(&mut self, world: &World) {
        self.accepts = false;
        self.listeners.clear();
        self.node.finish(world);
        self.ending_at = Some(world.now);
        self.is_busy = true;
    }

    /// Once all is sent, tells the other nodes so and reads on until they close: a connection that is closed with bytes
    /// unread loses what the system has not sent yet.
    fn say_goodbye(&mut self, now: u64) {
        if self.ending_at.is_some() && !self.is_shut && self.node.is_finished(now) {
            self.is_shut = true;
            for connection in self.connections.iter().flatten() {
                // If it fails the connection has ended already.
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
        }
    }

    pub fn is_over(&self, now: u64) -> bool {
        let is_late = self.ending_at.is_some_and(|at| at + GOODBYE_MS <= now);
        is_late || self.is_shut && self.connections.iter().all(Option::is_none)
    }

    /// Whether this failure was told within the last hour, or there is no room to remember it.
    fn is_told(&mut self, address: IpAddr, why: Failure, now: u64) -> bool {
        self.told.retain(|(.., at)| at + TELL_AGAIN_MS > now);
        if self
            .told
            .iter()
            .any(|(of, reason, _)| (*of, *reason) == (address, why))
        {
            return true;
        }
        let has_room = self.told.len() < MAX_TOLD;
        if has_room {
            self.told.push((address, why, now));
        }
        !has_room
    }

    fn tell(&mut self, now: u64) {
        while let Some((other, notice)) = self.node.notices.pop_front() {
            let is_told = match (other, notice) {
                ((None, Some(address)), Notice::Failed(why)) => {
                    self.is_told(address.ip(), why, now)
                }
                _ => false,
            };
            if !is_told {
                log::line(format_args!(
                    "cluster: {}{}",
                    Named(&self.peers, other),
                    Words(notice)
                ));
            }
        }
    }
}

/// The address to connect from, by which the other nodes know this one.
fn source(listeners: &[TcpListener], to: SocketAddr) -> Option<IpAddr> {
    let addresses = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok());
    let mut own = addresses.map(|address| address.ip());
    own.find(|ip| ip.is_ipv4() == to.is_ipv4() && !ip.is_unspecified())
}

fn has_family_of(listeners: &[TcpListener], to: &SocketAddr) -> bool {
    let addresses = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok());
    addresses
        .into_iter()
        .any(|own| own.is_ipv4() == to.is_ipv4())
}

/// The other end of a connection at the head of a line.
struct Named<'a>(&'a [Peer], Other);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Named(peers, (index, address)) = self;
        match (index.and_then(|index| peers.get(index)), address) {
            (Some(peer), _) => write!(f, "{}: ", peer.name),
            (None, Some(address)) => write!(f, "{address}: "),
            (None, None) => Ok(()),
        }
    }
}

struct Words(Notice);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Notice::Up => f.write_str("link up"),
            Notice::Down(why) => write!(f, "link down: {why}"),
            Notice::Suspended(ms) => {
                write!(
                    f,
                    "the clock of this host stood still for {} s: moved on",
                    ms / 1000
                )
            }
            Notice::ClocksDiffer(ms) => {
                write!(
                    f,
                    "its wall clock differs by {} s: connection ids and decoys differ too",
                    ms / 1000
                )
            }
            Notice::Whole => f.write_str("received the peers of the other nodes"),
            Notice::Alone => f.write_str("cannot reach the other nodes: serving alone"),
            Notice::Failed(Failure::Unreachable) => f.write_str("cannot connect"),
            Notice::Failed(Failure::Own) => f.write_str("this node itself: not connected"),
            Notice::Failed(why) => write!(f, "handshake failed: {why}"),
        }
    }
}
