//! The part of the loop that answers clients: sockets, connections, and a batch of datagrams.

use super::{FIRST_SOCKET, Round};
use crate::base::addresses::is_local;
use crate::base::log::{self, Seldom};
use crate::base::text::reason;
use crate::http::{Connections, Listener, Policy, SharedLimits, Site};
use crate::responder::Responder;
use crate::sys::mmsg::Batch;
use crate::sys::sockets;
use crate::udp;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Milliseconds until accepting and receiving are retried when the system is out of descriptors or memory.
const RETRY_MS: u64 = 500;

/// Milliseconds after which it is asked how many datagrams it has dropped, if any was received meanwhile.
const DROPS_MS: u64 = 1000;

static ACCEPT_FAULT: Seldom = Seldom::new(60);
static OVERRUN: Seldom = Seldom::new(3600);

/// A socket for all clients, or for those that are admins.
#[allow(clippy::large_enum_variant, reason = "there are a few, made once")]
pub enum Socket {
    Udp(UdpSocket),
    Http(Listener),
    Admin(Listener),
}

impl Socket {
    /// Whether other networks cannot reach it: its address is loopback or private, or it is a Unix socket.
    fn is_local(&self) -> bool {
        let address = match self {
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Http(Listener::Tcp(socket)) => socket.local_addr(),
            Socket::Admin(_) | Socket::Http(Listener::Unix(..)) => return true,
        };
        address.is_ok_and(|address| is_local(address.ip()))
    }
}

pub struct Serving {
    /// Each, whether other networks cannot reach it, and how far it is behind.
    sockets: Vec<(Socket, bool, udp::Backlog)>,
    connections: Connections,
    site: Site,
    batch: Batch,
    /// The time at which accepting and receiving are retried, while the system is short of something.
    starved_at: Option<u64>,
    /// Whether the log says that no connection is accepted.
    is_starvation_logged: bool,
    /// Of each socket: datagrams that the system had dropped when it was last asked, and when it is next.
    drops: Vec<u32>,
    drops_at: Option<u64>,
}

impl Serving {
    pub fn new(sockets: Vec<Socket>, limits: Arc<SharedLimits>, site: Site) -> Serving {
        // The tokens of connections follow those of the sockets.
        let first_connection = FIRST_SOCKET + sockets.len();
        let with_reach = |socket: Socket| {
            let is_local = socket.is_local();
            (socket, is_local, None)
        };
        Serving {
            drops: vec![0; sockets.len()],
            drops_at: None,
            sockets: sockets.into_iter().map(with_reach).collect(),
            connections: Connections::new(limits, first_connection),
            site,
            batch: Batch::default(),
            starved_at: None,
            is_starvation_logged: false,
        }
    }

    pub(super) fn set_policy(&mut self, policy: Arc<Policy>) {
        self.site.policy = policy;
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for ((socket, ..), token) in self.sockets.iter_mut().zip(FIRST_SOCKET..) {
            let token = Token(token);
            match socket {
                Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE)?,
                Socket::Http(listener) | Socket::Admin(listener) => {
                    registry.register(listener.source(), token, Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.connections.is_busy()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadlines = [
            self.connections.next_deadline(),
            self.starved_at,
            self.drops_at,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does a bounded piece of a socket's work, or notes the event of a connection. While the table's clock is held,
    /// nothing is read and no connection is accepted.
    pub(super) fn turn(&mut self, token: Token, hung_up: bool, round: &mut Round) {
        let index = token.0.wrapping_sub(FIRST_SOCKET);
        let is_busy = match self.sockets.get_mut(index) {
            Some(_) if round.responder.is_held() => true,
            Some((Socket::Udp(socket), is_local, backlog)) => {
                round.responder.begin_turn(*is_local);
                self.drops_at.get_or_insert(round.now() + DROPS_MS);
                let (batch, ids) = (&mut self.batch, round.ids);
                let served = udp::serve(socket, backlog, batch, ids, round.responder);
                served.unwrap_or_else(|_| {
                    self.starved_at = Some(round.now() + RETRY_MS);
                    false
                })
            }
            Some((socket, is_local, _)) => {
                let is_admin = matches!(socket, Socket::Admin(_));
                let (Socket::Http(listener) | Socket::Admin(listener)) = socket else {
                    return;
                };
                let mut context = round.context(&mut self.site);
                let origin = (is_admin, *is_local);
                match self.connections.accept(listener, origin, &mut context) {
                    Ok(is_busy) => is_busy,
                    Err(error) => {
                        let why = reason(&error);
                        let is_logged = ACCEPT_FAULT.error(
                            round.now(),
                            format_args!("cannot accept connections: {why}"),
                        );
                        self.is_starvation_logged |= is_logged;
                        self.starved_at = Some(round.now() + RETRY_MS);
                        false
                    }
                }
            }
            None => return self.connections.ready(token, hung_up),
        };
        if is_busy {
            round.note_busy(token);
        }
    }

    /// Gives a turn to some of the connections with work. The others wait for the next round, so that datagrams do not
    /// wait long, however many connections there are.
    pub(super) fn serve_connections(&mut self, round: &mut Round) {
        let mut context = round.context(&mut self.site);
        self.connections.serve_some(&mut context);
        self.connections.expire(round.now());
        if self.starved_at.is_some_and(|at| at <= round.now()) {
            self.retry(round);
        }
        if self.drops_at.is_some_and(|at| at <= round.now()) {
            self.drops_at = None;
            self.count_drops(round.responder);
        }
    }

    fn count_drops(&mut self, responder: &mut Responder) {
        for ((socket, ..), before) in self.sockets.iter().zip(&mut self.drops) {
            let drops = match socket {
                Socket::Udp(socket) => sockets::receive_drops(socket.as_fd()),
                _ => None,
            };
            let drops = drops.unwrap_or(*before);
            let new = drops.wrapping_sub(std::mem::replace(before, drops));
            responder.counters.udp_overruns += u64::from(new);
            if new > 0 {
                OVERRUN.error(
                    responder.monitor.now,
                    format_args!("udp: the receive buffer overran: {new} datagrams dropped"),
                );
            }
        }
    }

    fn retry(&mut self, round: &mut Round) {
        let due = self.starved_at;
        for token in (FIRST_SOCKET..).take(self.sockets.len()) {
            self.turn(Token(token), false, round);
        }
        // A failure would have set another time.
        if self.starved_at != due {
            return;
        }
        self.starved_at = None;
        if std::mem::take(&mut self.is_starvation_logged) {
            log::line(format_args!("accepting connections again"));
        }
    }

    /// Accepts no more datagrams and connections.
    pub(super) fn begin_end(&mut self) {
        self.sockets.clear();
        self.starved_at = None;
        self.connections.begin_end();
    }

    /// Whether a request is still expected.
    pub(super) fn awaits_requests(&self) -> bool {
        self.connections.awaits_requests()
    }

    /// Accepts no more requests.
    pub(super) fn wind_up(&mut self) {
        self.connections.wind_up();
    }

    /// Whether every reply has left.
    pub(super) fn is_over(&self) -> bool {
        self.connections.open() == 0
    }
}
