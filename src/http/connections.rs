//! All connections of a thread: accepting them, their turns, and closing them at the limits of time, number and memory.
//!
//! A connection is closed 30 seconds after it was accepted or last answered, or after the last piece of a streamed
//! reply. At the limit of connections a newcomer replaces the one that has been idle for longest. At the limit of
//! memory the connection that holds the most bytes is closed.

use super::connection::{Connection, INPUT_BYTES, Turn, WORK_PER_ROUND};
use super::listener::Listener;
use super::pool::{ConnectionPool, SharedLimits};
use super::proxy::Origin;
use super::site::Site;
use crate::protocol::query;
use crate::responder::Responder;
use crate::sys::sockets;
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// Connections that one listener may accept before the others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Connections that have a turn before UDP sockets have theirs: about a millisecond.
const TURNS_PER_ROUND: usize = 256;

/// Connections that read before the first of them is answered, so that the torrents of all are looked up at once.
/// Without groups an announce takes 9 % more CPU.
const GROUP: usize = 16;

/// Space for a group's input. Most requests are a few hundred bytes; if they are longer, groups are smaller.
const GROUP_BYTES: usize = 4 * INPUT_BYTES;

pub struct Connections {
    pool: ConnectionPool<Connection>,
    /// Connections that had an event, or more to do than one turn allowed.
    queue: VecDeque<u32>,
    /// The first token of a connection; its index counts from there.
    first_token: usize,
    input: Box<[u8]>,
}

/// A thread's parts that a connection uses during its turn.
pub struct Context<'a> {
    pub registry: &'a Registry,
    pub responder: &'a mut Responder,
    pub site: &'a mut Site,
}

impl Context<'_> {
    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        self.responder.monitor.now
    }
}

impl Connections {
    pub fn new(limits: Arc<SharedLimits>, first_token: usize) -> Connections {
        Connections {
            pool: ConnectionPool::new(limits),
            queue: VecDeque::new(),
            first_token,
            input: vec![0; GROUP_BYTES].into_boxed_slice(),
        }
    }

    pub fn open(&self) -> usize {
        self.pool.len()
    }

    /// No connection expires earlier.
    pub fn next_deadline(&self) -> Option<u64> {
        self.pool.next_deadline()
    }

    /// Closes connections whose deadline has passed.
    pub fn expire(&mut self, now: u64) {
        while let Some(index) = self.pool.expired(now) {
            self.pool.remove(index);
        }
    }

    /// Closes idle connections, and lets the others send the reply to the request that is coming in.
    pub fn begin_end(&mut self) {
        self.end(Connection::begin_end);
    }

    /// Whether a request is still expected.
    pub fn awaits_requests(&self) -> bool {
        let mut open = self.pool.indexes().filter_map(|index| self.pool.get(index));
        open.any(Connection::is_awaited)
    }

    /// Lets connections send the replies that they have, and no more.
    pub fn wind_up(&mut self) {
        self.end(Connection::finish);
    }

    fn end(&mut self, end: fn(&mut Connection)) {
        for index in self.pool.indexes() {
            if let Some(connection) = self.pool.get_mut(index) {
                end(connection);
                self.enqueue(index);
            }
        }
    }

    /// Accepts connections of a listener: of admins alone if `is_admin`, of networks that others cannot reach if
    /// `is_local`. Returns whether more may be waiting. An error is a limit of the system that stayed after an idle
    /// connection was closed.
    pub fn accept(
        &mut self,
        listener: &Listener,
        (is_admin, is_local): (bool, bool),
        context: &mut Context,
    ) -> io::Result<bool> {
        let mut has_evicted = false;
        let mut work = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            // Making room may take a whole round each time.
            if work >= WORK_PER_ROUND {
                break;
            }
            match listener.accept() {
                Ok((stream, address)) => {
                    // Two leave where another thread, which had none to close, exceeds the limit.
                    for _ in 0..2 {
                        if self.pool.is_full() && self.open() > 0 {
                            self.make_room(context);
                            work += context.site.work;
                        }
                    }
                    context.responder.counters.tcp_accepted += 1;
                    let origin = match is_admin {
                        true => Origin::Admin,
                        false => context.site.policy.proxies.origin(address),
                    };
                    let connection = Connection::new(stream, origin, is_local, context.now());
                    let deadline = connection.deadline;
                    // The request has mostly arrived. If it is the only one, the poll never watches the connection.
                    if let Some(index) = self.pool.add(connection, deadline) {
                        self.enqueue(index);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if sockets::is_of_one_connection(&error) => {}
                Err(error) if has_evicted || self.open() == 0 => return Err(error),
                Err(_) => {
                    self.make_room(context);
                    has_evicted = true;
                }
            }
        }
        Ok(true)
    }

    /// Closes the connection that has been idle for longest, unless one of those that wait for a turn closes in it.
    fn make_room(&mut self, context: &mut Context) {
        let open = self.open();
        self.serve_some(context);
        if self.open() >= open {
            if let Some(index) = self.pool.oldest() {
                self.evict(index, context);
            }
        }
    }

    fn evict(&mut self, index: u32, context: &mut Context) {
        context.responder.counters.tcp_evicted += u64::from(self.pool.remove(index));
    }

    /// Queues the connection of an event. `has_hung_up`: the client will send no more.
    pub fn ready(&mut self, token: Token, has_hung_up: bool) {
        let Ok(index) = u32::try_from(token.0.wrapping_sub(self.first_token)) else {
            return;
        };
        if let Some(connection) = self.pool.get_mut(index) {
            connection.has_hung_up |= has_hung_up;
            self.enqueue(index);
        }
    }

    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Gives turns to the connections that have waited for longest, up to a round.
    pub fn serve_some(&mut self, context: &mut Context) {
        context.site.work = 0;
        let mut turns = 0;
        // The members of a group borrow from it.
        let mut input = std::mem::take(&mut self.input);
        while self.is_busy() && turns < TURNS_PER_ROUND && context.site.work < WORK_PER_ROUND {
            turns += self.serve_group(&mut input, context);
        }
        self.input = input;
    }

    /// Returns the number of connections that had a turn.
    fn serve_group(&mut self, mut free: &mut [u8], context: &mut Context) -> usize {
        let mut group = [const { None }; GROUP];
        let mut turns = 0;
        // A slice of a streamed reply is made and sent at once, and ends the round.
        while turns < GROUP && free.len() >= INPUT_BYTES && context.site.work < WORK_PER_ROUND {
            let Some(index) = self.queue.pop_front() else {
                break;
            };
            group[turns] = self.receive(index, &mut free, context);
            turns += 1;
        }
        let hash = |member: &Option<(u32, &[u8])>| query::guess_hash(member.as_ref()?.1);
        let hints = context.responder.prefetch(&group.each_ref().map(hash));
        for (member, hint) in group.into_iter().zip(hints) {
            let Some((index, input)) = member else {
                continue;
            };
            context.site.hint = hint;
            // It may have been closed since, when memory was short.
            if let Some(connection) = self.pool.get_mut(index) {
                let turn = connection.answer(input, context);
                self.settle(index, turn, context);
            }
        }
        turns
    }

    /// Has a connection begin its turn. None: it has nothing to answer.
    fn receive<'a>(
        &mut self,
        index: u32,
        free: &mut &'a mut [u8],
        context: &mut Context,
    ) -> Option<(u32, &'a [u8])> {
        // The index may be another connection's by now.
        let connection = self.pool.get_mut(index).filter(|c| c.is_queued)?;
        connection.is_queued = false;
        let begun = connection.begin_turn(free, context);
        let unanswered = |turn| self.settle(index, turn, context);
        Some((index, begun.map_err(unanswered).ok()?))
    }

    /// Ends a connection's turn: closes the connection, or has the poll or the queue remember it.
    fn settle(&mut self, index: u32, turn: Option<Turn>, context: &mut Context) {
        let Some(connection) = self.pool.get_mut(index) else {
            return;
        };
        let token = Token(self.first_token + index as usize);
        let turn = turn.filter(|_| connection.watch(token, context.registry).is_ok());
        if turn.is_some() {
            let (deadline, held) = (connection.deadline, connection.held());
            self.pool.update(index, deadline, held);
        } else {
            self.pool.remove(index);
        }
        if turn == Some(Turn::More) {
            self.enqueue(index);
        }
        while let Some(index) = self.pool.heaviest_to_close() {
            self.evict(index, context);
        }
    }

    fn enqueue(&mut self, index: u32) {
        if let Some(connection) = self.pool.get_mut(index) {
            if !std::mem::replace(&mut connection.is_queued, true) {
                self.queue.push_back(index);
            }
        }
    }
}
