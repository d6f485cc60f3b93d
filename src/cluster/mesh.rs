//! The sockets of a node: connects to the nodes that the operator names, takes the connections of others, and moves
//! bytes between them and the [`Node`]. Also where names come to addresses.
//!
//! A turn reads a bounded number of bytes, so that clients do not wait for other nodes.

use super::node::{ConnId, Node, Settings, World};
use crate::base::log;
use crate::options::PeerName;
use crate::stats::cluster::{Failure, Multicast, SharedOverview};
use crate::sys::sockets;
use crate::tracker::Table;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};

/// Connections have the tokens below this, one for each place.
const LAST_TOKEN: usize = usize::MAX - 1;
const MAX_CONNECTIONS: usize = 1024;

/// Connections that are taken from a listener in a turn.
const MAX_ACCEPTED: usize = 64;

/// Bytes that are read in a turn.
const READ_BYTES: usize = 16 * 1024;

/// Bytes that are written to each connection in a turn.
const WRITE_BYTES: usize = 64 * 1024;

/// Milliseconds that the end takes at most.
const GOODBYE_MS: u64 = 2000;

/// Milliseconds between two ticks, between two questions for a silent node's name, and between two reports.
const TICK_MS: u64 = 50;
const RESOLVE_MS: u64 = 60_000;
const REPORT_MS: u64 = 1000;

/// The name of a node that the operator names.
struct Name {
    name: PeerName,
    /// When it is resolved again; none for an address.
    resolve_at: Option<u64>,
    is_failure_told: bool,
}

struct Connection {
    id: ConnId,
    stream: TcpStream,
    /// This node connects, and the other has not taken the connection yet.
    is_connecting: bool,
    readable: bool,
    writable: bool,
}

pub struct Mesh {
    pub node: Node,
    listeners: Vec<TcpListener>,
    names: Vec<Name>,
    connections: Vec<Option<Connection>>,
    next_id: ConnId,
    /// The place that was read from last.
    last_read: usize,
    has_unread: bool,
    has_unwritten: bool,
    /// Whether a listener may have more connections to take.
    accepts: bool,
    /// A listener had an error: it is tried again at the next tick.
    retries_accept: bool,
    /// When the end began, and whether nothing more is sent.
    ending_at: Option<u64>,
    is_shut: bool,
    is_busy: bool,
    tick_at: u64,
    report_at: u64,
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
        let mut node = Node::new(settings, table, 0);
        for (index, name) in names.iter().enumerate() {
            node.set_addresses(index, name.address().into_iter().collect());
        }
        let names = names.iter().map(|name| Name {
            name: name.clone(),
            resolve_at: name.address().is_none().then_some(0),
            is_failure_told: false,
        });
        Mesh {
            names: names.collect(),
            node,
            listeners,
            connections: Vec::new(),
            next_id: 0,
            last_read: 0,
            has_unread: false,
            has_unwritten: false,
            accepts: true,
            retries_accept: false,
            ending_at: None,
            is_shut: false,
            is_busy: false,
            tick_at: 0,
            report_at: 0,
            overview: SharedOverview::default(),
            multicast: None,
        }
    }

    /// The report that the other threads read.
    pub fn overview(&self) -> SharedOverview {
        self.overview.clone()
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
            self.dial(registry, world.now);
        }
        self.write(world.now);
        for line in self.node.lines.drain(..) {
            log::line(format_args!("cluster: {line}"));
        }
        self.report(world.now);
        self.say_goodbye(world.now);
    }

    fn accept(&mut self, registry: &Registry, world: &World) {
        if !std::mem::take(&mut self.accepts) {
            return;
        }
        let mut accepted = Vec::new();
        for listener in &self.listeners {
            while accepted.len() < MAX_ACCEPTED {
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
            self.accepts |= accepted.len() >= MAX_ACCEPTED;
        }
        for (stream, address) in accepted {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.node.is_crowded(address.ip()) {
                let why = Failure::Crowded;
                self.node.fail(None, Some(address), why, world.now);
            } else if let Some(id) = self.add(registry, stream, false) {
                self.node.open(id, None, address, world.now);
            }
        }
    }

    /// Has the poll watch a connection; none if there is no place for it.
    fn add(
        &mut self,
        registry: &Registry,
        mut stream: TcpStream,
        is_connecting: bool,
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
        let connection = Some(Connection {
            id: self.next_id,
            stream,
            is_connecting,
            readable: !is_connecting,
            writable: !is_connecting,
        });
        match self.connections.get_mut(place) {
            Some(free) => *free = connection,
            None => self.connections.push(connection),
        }
        Some(self.next_id)
    }

    /// Connects to the nodes whose time has come.
    fn dial(&mut self, registry: &Registry, now: u64) {
        while let Some((index, address)) = self.node.next_dial(now) {
            let stream = sockets::connect(source(&self.listeners, address), address).ok();
            match stream.and_then(|stream| self.add(registry, stream, true)) {
                Some(id) => self.node.open(id, Some(index), address, now),
                None => self.node.fail(Some(index), None, Failure::Unreachable, now),
            }
        }
    }

    /// Sees which connections have been made and which have failed.
    fn connect_on(&mut self, world: &World) {
        let connections = self.connections.iter_mut().flatten();
        for connection in connections.filter(|c| c.is_connecting && c.writable) {
            let stream = &connection.stream;
            let is_made = matches!(stream.take_error(), Ok(None)) && stream.peer_addr().is_ok();
            connection.is_connecting = false;
            match is_made {
                true => self.node.connected(connection.id, world),
                false => {
                    let why = Failure::Unreachable;
                    self.node.closed(connection.id, why, world.now);
                }
            }
        }
    }

    /// Reads from the next connection that has something.
    fn read(&mut self, world: &World) {
        let count = self.connections.len();
        let is_readable = |c: &Connection| c.readable && !c.is_connecting;
        let mut places = (1..=count).map(|step| (self.last_read + step) % count);
        let place = places.find(|place| {
            let connection = self.connections.get(*place).and_then(Option::as_ref);
            connection.is_some_and(is_readable)
        });
        self.has_unread = place.is_some();
        let Some(place) = place else { return };
        let Some(Some(connection)) = self.connections.get_mut(place) else {
            return;
        };
        self.last_read = place;
        let id = connection.id;
        let mut bytes = [0; READ_BYTES];
        match connection.stream.read(&mut bytes) {
            Ok(count @ 1..) => {
                let bytes = bytes.get(..count).unwrap_or_default();
                self.node.receive(id, bytes, world);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => connection.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => self.node.closed(id, Failure::Closed, world.now),
        }
    }

    /// Writes the bytes that wait, and drops the connections that the node has ended.
    fn write(&mut self, now: u64) {
        self.has_unwritten = false;
        for place in &mut self.connections {
            let Some(connection) = place else { continue };
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
                Err(_) => self.node.closed(id, Failure::Closed, now),
            }
            let has_more = self.node.output(id).is_none_or(|output| !output.is_empty());
            self.has_unwritten |= connection.writable && has_more;
            self.is_busy |= self.node.is_hungry(id);
        }
    }

    /// Renews the report once a second, and at once if the health has changed.
    fn report(&mut self, now: u64) {
        if now < self.report_at && self.overview.health() == self.node.health() {
            return;
        }
        self.report_at = now + REPORT_MS;
        let mut overview = self.node.overview(now);
        overview.multicast = self.multicast;
        self.overview.set(overview);
    }

    /// The number of a name that is to be resolved now. To be called until there is none.
    pub fn next_question(&mut self, now: u64) -> Option<usize> {
        let node = &self.node;
        let mut names = self.names.iter_mut().enumerate();
        let is_due = |(index, name): &(usize, &mut Name)| {
            name.resolve_at
                .is_some_and(|at| at <= now && (at == 0 || node.is_silent(*index)))
        };
        let (index, name) = names.find(is_due)?;
        name.resolve_at = Some(now + RESOLVE_MS);
        Some(index)
    }

    /// Has all names resolved again; how many there are.
    pub fn resolve_again(&mut self) -> usize {
        let names = self.names.iter_mut();
        let names = names.filter_map(|name| name.resolve_at.as_mut());
        names.map(|at| *at = 0).count()
    }

    /// A name has been resolved, or why it could not be.
    pub fn resolved(&mut self, index: usize, addresses: Result<Vec<IpAddr>, String>) {
        let Some(name) = self.names.get_mut(index) else {
            return;
        };
        let was_told = std::mem::replace(&mut name.is_failure_told, addresses.is_err());
        let name = &name.name;
        match addresses {
            Ok(mut addresses) => {
                addresses.retain(|ip| own_addresses(&self.listeners, *ip).next().is_some());
                if addresses.is_empty() {
                    log::line(format_args!(
                        "cluster: {name}: no address of a family of --cluster-listen"
                    ));
                    return;
                }
                let addresses = addresses.into_iter();
                let addresses = addresses.map(|ip| SocketAddr::new(ip, name.port));
                self.node.set_addresses(index, addresses.collect());
            }
            Err(_) if was_told => {}
            Err(why) => log::line(format_args!("cluster: {name}: cannot resolve: {why}")),
        }
    }

    /// Begins the end: the node sends the news and renewals that the others lack.
    pub fn wind_up(&mut self, world: &World) {
        self.accepts = false;
        self.listeners.clear();
        self.node.finish(world);
        self.ending_at = Some(world.now);
        self.is_busy = true;
    }

    /// Once all is sent, shuts its side down and reads on until the other nodes close: a connection that is closed
    /// with bytes unread loses those that the system has not sent yet.
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
}

/// The addresses of a family on which this node takes connections.
fn own_addresses(listeners: &[TcpListener], family: IpAddr) -> impl Iterator<Item = IpAddr> {
    let addresses = listeners.iter().filter_map(|it| it.local_addr().ok());
    let own = addresses.map(|address| address.ip());
    own.filter(move |own| own.is_ipv4() == family.is_ipv4())
}

/// The address to connect from, by which the other nodes know this one.
fn source(listeners: &[TcpListener], to: SocketAddr) -> Option<IpAddr> {
    own_addresses(listeners, to.ip()).find(|own| !own.is_unspecified())
}
