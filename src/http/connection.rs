//! The life of a TCP connection, and the register of all that are open.
//!
//! Every connection has one deadline, 30 seconds from when it was accepted or last answered, so the
//! register is a list in the order of their last answers: the next to expire, and the idlest when room
//! is needed, is its head.

use super::request::{self, Invalid, LONGEST_HEAD, Method, Request};
use super::response::{self, Framing, Status};
use super::routes::Site;
use crate::service::Service;
use crate::sys::sockets;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};

/// Milliseconds that a request may take to arrive, and its reply to be taken.
const PATIENCE: u64 = 30_000;

/// What one read takes at most: a head of the longest kind, and others behind it.
const INPUT: usize = 2 * LONGEST_HEAD;

/// Once so much waits to be sent, no more of a connection's requests are answered before it is.
const OUTPUT: usize = 8 * 1024;

/// What all connections together may leave half-read and half-written. Beyond that the idlest are closed.
/// It is reached only by clients that send and do not read, many at once.
const MOST_HELD: usize = 32 * 1024 * 1024;

/// What one connection or listener may do before the others have their turn.
const READS_A_TURN: usize = 2;
const ACCEPTS_A_TURN: usize = 64;

/// How many connections have a turn, and how many requests are answered, before the datagrams have theirs:
/// about a millisecond's worth of either.
const TURNS_A_ROUND: usize = 256;
const ANSWERS_A_ROUND: usize = 256;

/// Whether there is more to do without waiting for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Done,
    More,
}

struct Connection {
    stream: TcpStream,
    client: IpAddr,
    /// What was read of requests that are not yet answered.
    input: Vec<u8>,
    /// What was not yet taken of the replies.
    output: Vec<u8>,
    phase: Phase,
    /// What the poll was asked to tell of it, once it was asked.
    watched: Option<Interest>,
    /// The client will send no more: what is read last is its end, of which no new event tells.
    hung_up: bool,
    /// It is in the queue of those that are to have a turn.
    queued: bool,
    deadline: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reading requests.
    Open,
    /// `input` holds whole requests, left for when the replies before them are out.
    Behind,
    /// To be closed once the last reply is out.
    Last,
    /// The same after a reply to something that was not read to its end. Closing at once would
    /// reset the connection, and the reply would be lost (RFC 9112, 9.6).
    Drain,
    /// That reply is out and our side is closed; what still comes is thrown away.
    Discard,
}

/// A place in the register, linked to its neighbours in the order of deadlines.
struct Slot {
    connection: Option<Connection>,
    before: Option<u32>,
    after: Option<u32>,
}

/// All open connections.
pub struct Connections {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    oldest: Option<u32>,
    newest: Option<u32>,
    /// Connections that something has happened to, or that had more to do than one turn allowed.
    queue: VecDeque<u32>,
    open: usize,
    most: usize,
    /// Bytes in the connections' own buffers.
    held: usize,
    /// Requests answered in this round.
    answered: usize,
    /// Tokens from here on are connections.
    first_token: usize,
    /// What is being read and written, whoever's turn it is.
    input: Box<[u8]>,
    output: Vec<u8>,
}

/// What a turn of a connection works with.
pub struct Context<'a> {
    pub registry: &'a Registry,
    pub service: &'a mut Service,
    pub site: &'a mut Site,
    /// Milliseconds since the start.
    pub now: u64,
}

impl Connections {
    pub fn new(most: usize, first_token: usize) -> Connections {
        Connections {
            slots: Vec::new(),
            vacant: Vec::new(),
            oldest: None,
            newest: None,
            queue: VecDeque::new(),
            open: 0,
            most,
            held: 0,
            answered: 0,
            first_token,
            input: vec![0; INPUT].into_boxed_slice(),
            output: Vec::new(),
        }
    }

    pub fn open(&self) -> usize {
        self.open
    }

    /// When the next connection is to be closed.
    pub fn next_deadline(&self) -> Option<u64> {
        let slot = self.slots.get(self.oldest? as usize)?;
        slot.connection.as_ref().map(|c| c.deadline)
    }

    /// Closes connections that are overdue.
    pub fn expire(&mut self, now: u64) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.close_oldest();
        }
    }

    /// For the end: closes what is idle. The others get what was already answered and nothing more.
    pub fn wind_up(&mut self) {
        for (index, slot) in (0..).zip(0..self.slots.len()) {
            match &mut self.slots[slot].connection {
                Some(connection) if !connection.is_idle() => {
                    connection.phase = Phase::Drain;
                    self.enqueue(index);
                }
                _ => self.close(index),
            }
        }
    }

    /// Accepts connections. An error is one of the system's limits, and closing an idle connection
    /// did not help.
    pub fn accept(&mut self, listener: &TcpListener, context: &mut Context) -> io::Result<Turn> {
        let mut has_evicted = false;
        for _ in 0..ACCEPTS_A_TURN {
            match listener.accept() {
                Ok((stream, address)) => {
                    if self.open >= self.most {
                        self.evict(context);
                    }
                    context.service.counters.tcp_accepted += 1;
                    self.add(stream, address.ip(), context);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Done),
                Err(error) if sockets::is_of_one_connection(&error) => {}
                Err(error) if has_evicted || self.open == 0 => return Err(error),
                Err(_) => {
                    self.evict(context);
                    has_evicted = true;
                }
            }
        }
        Ok(Turn::More)
    }

    fn evict(&mut self, context: &mut Context) {
        context.service.counters.tcp_evicted += 1;
        self.close_oldest();
    }

    fn add(&mut self, stream: TcpStream, client: IpAddr, context: &mut Context) {
        let connection = Connection {
            stream,
            client,
            input: Vec::new(),
            output: Vec::new(),
            phase: Phase::Open,
            watched: None,
            hung_up: false,
            queued: false,
            deadline: context.now + PATIENCE,
        };
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                let Ok(index) = u32::try_from(self.slots.len()) else {
                    return;
                };
                self.slots.push(Slot {
                    connection: None,
                    before: None,
                    after: None,
                });
                index
            }
        };
        self.slots[index as usize].connection = Some(connection);
        self.open += 1;
        self.link(index);
        // Nearly always the request is here already, and often it is the only one: then the poll need
        // not hear of the connection at all.
        self.serve(index, context);
    }

    /// Notes an event of a connection's token. `hung_up` says that the client will send no more.
    pub fn ready(&mut self, token: Token, hung_up: bool) {
        let Ok(index) = u32::try_from(token.0.wrapping_sub(self.first_token)) else {
            return;
        };
        // It may have been closed earlier in this round.
        if let Some(connection) = self.get_mut(index) {
            connection.hung_up |= hung_up;
            self.enqueue(index);
        }
    }

    /// Whether some have something to do.
    pub fn are_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A turn for those that have waited for longest.
    pub fn serve_some(&mut self, context: &mut Context) {
        self.answered = 0;
        for _ in 0..TURNS_A_ROUND {
            if self.answered >= ANSWERS_A_ROUND {
                return;
            }
            let Some(index) = self.queue.pop_front() else {
                return;
            };
            // Its place may be another's by now.
            if let Some(connection) = self.get_mut(index)
                && connection.queued
            {
                connection.queued = false;
                self.serve(index, context);
            }
        }
    }

    fn enqueue(&mut self, index: u32) {
        if let Some(connection) = self.get_mut(index)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(index);
        }
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)?.connection.as_mut()
    }

    fn serve(&mut self, index: u32, context: &mut Context) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let Some(connection) = &mut slot.connection else {
            return;
        };
        let mut desk = Desk {
            input: &mut self.input,
            output: &mut self.output,
            answered: &mut self.answered,
        };
        let (deadline, held) = (connection.deadline, connection.held());
        let turn = desk.serve(connection, context);
        self.held = self.held - held + connection.held();
        let is_answered = connection.deadline != deadline;
        let token = Token(self.first_token + index as usize);
        match turn {
            Ok(turn) if connection.watch(token, context.registry).is_ok() => {
                if turn == Turn::More {
                    self.enqueue(index);
                }
                if is_answered {
                    self.unlink(index);
                    self.link(index);
                }
            }
            _ => self.close(index),
        }
        while self.held > MOST_HELD {
            self.evict(context);
        }
    }

    fn close_oldest(&mut self) {
        if let Some(index) = self.oldest {
            self.close(index);
        }
    }

    /// Dropping the stream closes it, and the poll forgets it.
    fn close(&mut self, index: u32) {
        let slot = self.slots.get_mut(index as usize);
        if let Some(connection) = slot.and_then(|slot| slot.connection.take()) {
            self.held -= connection.held();
            self.unlink(index);
            self.open -= 1;
            self.vacant.push(index);
        }
    }

    /// Puts a connection at the end of the list.
    fn link(&mut self, index: u32) {
        let before = self.newest.replace(index);
        let slot = &mut self.slots[index as usize];
        slot.before = before;
        slot.after = None;
        match before {
            Some(before) => self.slots[before as usize].after = Some(index),
            None => self.oldest = Some(index),
        }
    }

    fn unlink(&mut self, index: u32) {
        let Slot { before, after, .. } = self.slots[index as usize];
        match before {
            Some(before) => self.slots[before as usize].after = after,
            None => self.oldest = after,
        }
        match after {
            Some(after) => self.slots[after as usize].before = before,
            None => self.newest = before,
        }
    }
}

/// The connection is at its end.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Gone {
        Gone
    }
}

impl Connection {
    /// Whether nothing of it is underway, neither here nor in the socket.
    fn is_idle(&self) -> bool {
        let unread = self.stream.peek(&mut [0]);
        let nothing = unread.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        nothing && self.input.is_empty() && self.output.is_empty() && self.phase == Phase::Open
    }

    fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Asks for what is of interest now.
    fn watch(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let interest = match self.output.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        match self.watched.replace(interest) {
            Some(before) if before == interest => Ok(()),
            Some(_) => registry.reregister(&mut self.stream, token, interest),
            None => registry.register(&mut self.stream, token, interest),
        }
    }

    /// Sends what is left of earlier replies; whether all is out.
    fn flush(&mut self) -> Result<bool, Gone> {
        if self.output.is_empty() {
            return Ok(true);
        }
        let sent = send(&mut self.stream, &self.output)?;
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        Ok(self.output.is_empty())
    }
}

/// Writes until all is sent or the socket takes no more; how much it took.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// The buffers that are shared by all, lent to the connection whose turn it is.
struct Desk<'a> {
    input: &'a mut [u8],
    output: &'a mut Vec<u8>,
    answered: &'a mut usize,
}

impl Desk<'_> {
    /// Reads, answers and sends until the socket has no more or the turn is over.
    fn serve(&mut self, connection: &mut Connection, context: &mut Context) -> Result<Turn, Gone> {
        for _ in 0..READS_A_TURN {
            if !connection.flush()? {
                return Ok(Turn::Done);
            }
            match connection.phase {
                Phase::Last => return Err(Gone),
                Phase::Drain => {
                    let _ = connection.stream.shutdown(Shutdown::Write);
                    // It may hold requests that will not be answered, and leave no room to read.
                    connection.input = Vec::new();
                    connection.phase = Phase::Discard;
                }
                Phase::Open | Phase::Behind | Phase::Discard => {}
            }
            let held = connection.input.len();
            self.input[..held].copy_from_slice(&connection.input);
            let mut filled = held;
            let mut drained = false;
            if connection.phase != Phase::Behind {
                let room = &mut self.input[held..];
                match connection.stream.read(room) {
                    Ok(0) => return Err(Gone),
                    Ok(count) => {
                        drained = count < room.len() && !connection.hung_up;
                        filled += count;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Done),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => return Err(Gone),
                }
            }
            if connection.phase != Phase::Discard {
                self.answer(connection, filled, context)?;
            }
            // A short read leaves nothing behind: that needs no second system call.
            if drained && connection.phase == Phase::Open {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    /// Answers the requests in the first `filled` bytes of the input, and keeps what is left of them.
    fn answer(
        &mut self,
        connection: &mut Connection,
        filled: usize,
        context: &mut Context,
    ) -> Result<(), Gone> {
        let mut rest = &self.input[..filled];
        self.output.clear();
        connection.phase = Phase::Open;
        while connection.phase == Phase::Open && !rest.is_empty() {
            if self.output.len() > OUTPUT {
                connection.phase = Phase::Behind;
                break;
            }
            match request::parse(rest) {
                Ok(request) => {
                    rest = &rest[request.length..];
                    *self.answered += 1;
                    connection.phase = answer(&request, connection.client, context, self.output);
                    connection.deadline = context.now + PATIENCE;
                }
                Err(Invalid::Incomplete) => break,
                Err(error) => {
                    connection.phase = Phase::Drain;
                    refuse(error, context, self.output);
                }
            }
        }
        // What lies behind the last request is not answered.
        if connection.phase == Phase::Last && !rest.is_empty() {
            connection.phase = Phase::Drain;
        }
        if connection.phase == Phase::Drain {
            rest = &[];
        }
        keep(&mut connection.input, rest);
        let sent = send(&mut connection.stream, self.output)?;
        keep(&mut connection.output, &self.output[sent..]);
        Ok(())
    }
}

/// Answers one request; what becomes of the connection then.
fn answer(request: &Request, client: IpAddr, context: &mut Context, out: &mut Vec<u8>) -> Phase {
    let framing = Framing {
        is_1_1: request.is_1_1,
        keep_alive: request.keep_alive && !request.has_body,
        head_only: request.method == Method::Head,
    };
    let (service, site) = (&mut *context.service, &mut *context.site);
    site.answer(request, client, framing, service, out);
    match framing.keep_alive {
        true => Phase::Open,
        false if request.has_body => Phase::Drain,
        false => Phase::Last,
    }
}

/// Answers what is not a request.
fn refuse(error: Invalid, context: &mut Context, out: &mut Vec<u8>) {
    let status = match error {
        Invalid::TooLong => Status::HeadTooLarge,
        Invalid::Malformed | Invalid::Incomplete => Status::BadRequest,
    };
    let framing = Framing {
        is_1_1: true,
        keep_alive: false,
        head_only: false,
    };
    context.service.counters.http_errors += 1;
    response::write_error(out, status, framing);
}

/// Replaces a connection's own buffer, which is nearly always empty before and after.
fn keep(buffer: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        *buffer = Vec::new();
    } else {
        buffer.clear();
        buffer.extend_from_slice(bytes);
    }
}
