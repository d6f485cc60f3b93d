//! Each serving thread owns sockets, connections and a batch of datagrams, and answers clients with them.

use super::{FIRST_SOCKET, Round};
use crate::http::{Connections, Listener, Site, Turn};
use crate::log;
use crate::sys::mmsg::Batch;
use crate::udp;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::io;

/// Milliseconds until accepting is tried again when the system is out of descriptors.
const RETRY_MS: u64 = 500;

/// A socket that does not belong to one client.
pub enum Socket {
    Udp(UdpSocket),
    Http(Listener),
}

pub struct Serving {
    sockets: Vec<Socket>,
    connections: Connections,
    site: Site,
    batch: Batch,
    /// Set while the listeners are out of descriptors: when they are tried again.
    starved_at: Option<u64>,
}

impl Serving {
    /// Tokens of connections begin behind those of the sockets.
    pub fn new(sockets: Vec<Socket>, connections: Connections, site: Site) -> Serving {
        Serving {
            sockets,
            connections,
            site,
            batch: Batch::new(),
            starved_at: None,
        }
    }

    /// The first token that is a connection's.
    pub fn first_connection(sockets: usize) -> usize {
        FIRST_SOCKET + sockets
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (socket, token) in self.sockets.iter_mut().zip(FIRST_SOCKET..) {
            let token = Token(token);
            match socket {
                Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE)?,
                Socket::Http(listener) => {
                    registry.register(listener.source(), token, Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.connections.are_busy()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.connections.next_deadline(), self.starved_at];
        deadlines.into_iter().flatten().min()
    }

    /// Lets a socket do a bounded piece of what waits, or notes what has happened to a connection. While the table's
    /// clock is held, nothing is read and no connection accepted.
    pub(super) fn turn(&mut self, token: Token, hung_up: bool, is_held: bool, round: &mut Round) {
        let index = token.0.wrapping_sub(FIRST_SOCKET);
        let is_busy = match self.sockets.get(index) {
            Some(_) if is_held => true,
            Some(Socket::Udp(socket)) => {
                udp::serve(socket, &mut self.batch, round.ids, round.responder)
            }
            Some(Socket::Http(listener)) => {
                let mut context = round.context(&mut self.site);
                match self.connections.accept(listener, &mut context) {
                    Ok(turn) => turn == Turn::More,
                    Err(error) => {
                        if self.starved_at.is_none() {
                            log::error(format_args!("cannot accept connections: {error}"));
                        }
                        self.starved_at = Some(round.now + RETRY_MS);
                        false
                    }
                }
            }
            None => return self.connections.ready(token, hung_up),
        };
        if is_busy {
            round.busy.add(token);
        }
    }

    /// A turn for some of the connections that have something to do; the others wait for the next round,
    /// so that however many there are, datagrams do not wait for them for long.
    pub(super) fn serve_connections(&mut self, round: &mut Round) {
        let mut context = round.context(&mut self.site);
        self.connections.serve_some(&mut context);
        self.connections.expire(round.now);
        if self.starved_at.is_some_and(|at| at <= round.now) {
            self.retry_accepting(round);
        }
    }

    /// Descriptors were all in use: whether there are some again.
    fn retry_accepting(&mut self, round: &mut Round) {
        let due = self.starved_at;
        for token in (FIRST_SOCKET..).take(self.sockets.len()) {
            self.turn(Token(token), false, false, round);
        }
        if self.starved_at == due {
            self.starved_at = None;
            log::line(format_args!("accepting connections again"));
        }
    }

    /// Closes all that waits for requests.
    pub(super) fn wind_up(&mut self) {
        self.sockets.clear();
        self.starved_at = None;
        self.connections.wind_up();
    }

    /// Whether every reply has left.
    pub(super) fn is_over(&self) -> bool {
        self.connections.open() == 0
    }
}
