//! The sockets of a node: it connects to the nodes that the operator names, accepts the connections of others, and
//! moves bytes between these and the [`Node`]. It also keeps the addresses that names are resolved to.
//!
//! A turn reads a bounded number of bytes, so that clients do not wait for other nodes.

use super::node::{ConnId, Node, Settings, World};
use crate::base::log::{self, Seldom};
use crate::base::text::reason;
use crate::options::PeerName;
use crate::stats::cluster::Failure;
use crate::sys::sockets;
use crate::tracker::Table;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};

/// Connections have the tokens from this one downwards.
const LAST_TOKEN: usize = usize::MAX - 1;
const MAX_CONNECTIONS: usize = 1024;

/// Connections accepted in a tick.
const MAX_ACCEPTED: usize = 64;

/// Bytes read in a turn.
const READ_BYTES: usize = 16 * 1024;

/// Bytes written to each connection in a turn.
const WRITE_BYTES: usize = 64 * 1024;

/// Milliseconds between two ticks, and between two resolutions of a silent node's name.
const TICK_MS: u64 = 50;
const RESOLVE_MS: u64 = 60_000;

/// The system is out of descriptors or memory.
static FAULT: Seldom = Seldom::new(60);

/// The name of a node that the operator names.
struct Name {
    name: PeerName,
    /// None for an address.
    resolve_at: Option<u64>,
    is_failure_logged: bool,
}

struct Connection {
    id: ConnId,
    stream: TcpStream,
    /// This node connects, and the other one has not accepted yet.
    is_connecting: bool,
    readable: bool,
    writable: bool,
}

#[derive(Default)]
pub struct Mesh {
    pub node: Node,
    listeners: Vec<TcpListener>,
    names: Vec<Name>,
    connections: Vec<Option<Connection>>,
    next_id: ConnId,
    /// The index of the connection that was read last.
    last_read: usize,
    /// Bytes may be read or written at once.
    has_bytes: bool,
    /// The next tick is due at once.
    is_busy: bool,
    tick_at: u64,
    /// At the end: nothing more is sent.
    is_shut: bool,
}

impl Mesh {
    /// Adds the names and the port of the listeners to the settings of the node.
    pub fn new(
        mut settings: Settings,
        names: &[PeerName],
        listeners: Vec<TcpListener>,
        table: &Table,
    ) -> Mesh {
        settings.peers = names.iter().map(ToString::to_string).collect();
        let address = listeners.first().and_then(|it| it.local_addr().ok());
        settings.port = address.map_or(0, |address| address.port());
        let mut node = Node::new(settings, table, 0);
        for (index, name) in names.iter().enumerate() {
            node.set_addresses(index, name.address().into_iter().collect());
        }
        let names = names.iter().map(|name| Name {
            name: name.clone(),
            resolve_at: name.address().is_none().then_some(0),
            is_failure_logged: false,
        });
        Mesh {
            names: names.collect(),
            node,
            listeners,
            ..Mesh::default()
        }
    }

    pub fn owns(token: Token) -> bool {
        token.0 > LAST_TOKEN - MAX_CONNECTIONS && token.0 <= LAST_TOKEN
    }

    /// A connection can be read or written again.
    pub fn ready(&mut self, token: Token) {
        let connection = self.connections.get_mut(LAST_TOKEN.wrapping_sub(token.0));
        if let Some(Some(connection)) = connection {
            connection.readable = true;
            connection.writable = true;
            self.has_bytes = true;
        }
    }

    pub fn is_busy(&self) -> bool {
        self.is_busy || self.has_bytes
    }

    pub fn next_deadline(&self) -> u64 {
        self.tick_at
    }

    /// A turn, if there is something to do: reads, lets the node work, writes.
    pub fn serve(&mut self, registry: &Registry, world: &World) {
        self.finish_connects(world);
        self.read(world);
        if self.is_busy || world.now >= self.tick_at {
            self.tick_at = world.now + TICK_MS;
            self.accept(registry, world.now);
            self.is_busy = self.node.tick(world);
            self.dial(registry, world.now);
        }
        self.write(world.now);
        for line in self.node.lines.drain(..) {
            log::line(format_args!("cluster: {line}"));
        }
        self.say_goodbye(world.now);
    }

    /// Accepts the connections that wait. The poll does not watch the listeners, since a tick is never far.
    fn accept(&mut self, registry: &Registry, now: u64) {
        let accept = |listener: &TcpListener| match listener.accept() {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                // The others are of one connection, and the next tick is near.
                if sockets::is_shortage(&error) {
                    let why = reason(&error);
                    FAULT.error(
                        now,
                        format_args!("cluster: cannot accept connections: {why}"),
                    );
                }
                None
            }
        };
        let waiting = self.listeners.iter();
        let waiting = waiting.flat_map(|listener| std::iter::from_fn(move || accept(listener)));
        let accepted: Vec<_> = waiting.take(MAX_ACCEPTED).collect();
        for (stream, address) in accepted {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.node.is_crowded(address.ip()) {
                self.node.fail(None, Some(address), Failure::Crowded, now);
            } else if let Some(id) = self.add(registry, stream, false) {
                self.node.open(id, None, address, now);
            }
        }
    }

    /// Makes the poll watch a connection. None if there are too many.
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
        self.has_bytes = true;
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
            let stream = sockets::connect(source(&self.listeners, address), address);
            if let Some(error) = stream.as_ref().err().filter(|e| sockets::is_shortage(e)) {
                let why = reason(error);
                FAULT.error(now, format_args!("cluster: cannot open connections: {why}"));
            }
            match stream
                .ok()
                .and_then(|stream| self.add(registry, stream, true))
            {
                Some(id) => self.node.open(id, Some(index), address, now),
                None => self.node.fail(Some(index), None, Failure::Unreachable, now),
            }
        }
    }

    /// Finds the connections that have been made, and those that could not be.
    fn finish_connects(&mut self, world: &World) {
        let connections = self.connections.iter_mut().flatten();
        for connection in connections.filter(|c| c.is_connecting && c.writable) {
            let stream = &connection.stream;
            let is_made = matches!(stream.take_error(), Ok(None)) && stream.peer_addr().is_ok();
            connection.is_connecting = false;
            let (node, id) = (&mut self.node, connection.id);
            match is_made {
                true => node.connected(id, world),
                false => node.closed(id, Failure::Unreachable, world.now),
            }
        }
    }

    /// Reads from the next connection that has something.
    fn read(&mut self, world: &World) {
        self.has_bytes = false;
        let count = self.connections.len();
        for place in (1..=count).map(|step| (self.last_read + step) % count) {
            let connection = self.connections.get_mut(place).and_then(Option::as_mut);
            let is_readable = |c: &&mut Connection| c.readable && !c.is_connecting;
            let Some(connection) = connection.filter(is_readable) else {
                continue;
            };
            (self.last_read, self.has_bytes) = (place, true);
            let (node, id) = (&mut self.node, connection.id);
            let mut bytes = [0; READ_BYTES];
            match connection.stream.read(&mut bytes) {
                Ok(count @ 1..) => {
                    node.receive(id, bytes.get(..count).unwrap_or_default(), world);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => node.closed(id, Failure::Closed, world.now),
            }
            return;
        }
    }

    /// Writes the bytes that wait, and drops the connections that the node has ended.
    fn write(&mut self, now: u64) {
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
            self.has_bytes |= connection.writable && has_more;
            self.is_busy |= self.node.is_hungry(id);
        }
    }

    /// The index of a name that is to be resolved now. To be called until there is none.
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

    /// Makes all names due to be resolved. Returns their number.
    pub fn resolve_again(&mut self) -> usize {
        let names = self.names.iter_mut();
        let names = names.filter_map(|name| name.resolve_at.as_mut());
        names.map(|at| *at = 0).count()
    }

    /// Takes the addresses of a name, or the reason why it could not be resolved.
    pub fn resolved(&mut self, index: usize, addresses: Result<Vec<IpAddr>, String>) {
        let Some(name) = self.names.get_mut(index) else {
            return;
        };
        let was_logged = std::mem::replace(&mut name.is_failure_logged, addresses.is_err());
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
            Err(_) if was_logged => {}
            Err(why) => log::line(format_args!("cluster: {name}: cannot resolve: {why}")),
        }
    }

    /// Begins the end: the node sends the news and renewals that the others lack.
    pub fn wind_up(&mut self, world: &World) {
        self.listeners.clear();
        self.node.finish(world);
        self.is_busy = true;
    }

    /// When all is sent, shuts down this side and reads until the other nodes close: if a connection is closed with
    /// bytes unread, the system drops those that it has not sent yet.
    fn say_goodbye(&mut self, now: u64) {
        if !self.is_shut && self.node.is_finished(now) {
            self.is_shut = true;
            for connection in self.connections.iter().flatten() {
                // An error means that the connection has ended.
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
        }
    }

    pub fn is_over(&self, now: u64) -> bool {
        self.node.is_late(now) || self.is_shut && self.connections.iter().all(Option::is_none)
    }
}

/// The addresses of a family on which this node accepts connections.
fn own_addresses(listeners: &[TcpListener], family: IpAddr) -> impl Iterator<Item = IpAddr> {
    let addresses = listeners.iter().filter_map(|it| it.local_addr().ok());
    let own = addresses.map(|address| address.ip());
    own.filter(move |own| own.is_ipv4() == family.is_ipv4())
}

/// The address to connect from, by which the other nodes know this one.
fn source(listeners: &[TcpListener], to: SocketAddr) -> Option<IpAddr> {
    own_addresses(listeners, to.ip()).find(|own| !own.is_unspecified())
}
