//! The life of a TCP connection, and the turns of all that are open.
//!
//! Every connection has one deadline, 30 seconds from when it was accepted or last answered. A newcomer without
//! room takes the place of the connection that has been idle for longest. When the buffers of all connections
//! take too much memory, the connection that holds the most is closed.

use super::listener::Listener;
use super::proxies::{Origin, Proxies};
use super::proxy_protocol;
use super::register::{Entry, Register, Room};
use super::request::{self, Invalid, LONGEST_HEAD, Method, Request};
use super::response::{self, Framing, Status};
use super::routes::Site;
use super::streaming::Streaming;
use crate::access::SharedRules;
use crate::proto::query;
use crate::responder::Responder;
use crate::stats::Counters;
use crate::sys::sockets;
use crate::tracker::{Hint, InfoHash};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;

/// Milliseconds that a request may take to arrive, and its reply to be taken.
const PATIENCE: u64 = 30_000;

/// What one read takes at most: a head of the longest kind, and others behind it.
const INPUT: usize = 2 * LONGEST_HEAD;

/// Connections that are read together, so that what their requests will need from the table is fetched
/// for all at once and not for one after the other.
const GROUP: usize = 16;

/// What a group reads into: requests are mostly a few hundred bytes. If they are not, groups are smaller.
const ROOM: usize = 4 * INPUT;

/// Once so much waits to be sent, no more of a connection's requests are answered before it is.
const OUTPUT: usize = 8 * 1024;

/// Connections that one listener may accept before the others have their turn.
const ACCEPTS_A_TURN: usize = 64;

/// How many connections have a turn, and how many requests are answered, before the datagrams have theirs:
/// about a millisecond's worth of either.
const TURNS_A_ROUND: usize = 256;
const ANSWERS_A_ROUND: usize = 256;

/// A request and the reply to it that are together so long, a scrape of some dozen torrents or a page of
/// statistics, take as long as another answer.
const WEIGHT: usize = 1024;

/// A slice of a streamed reply takes as long as so many answers: one that completes a block of deflate
/// has a thousand torrents to encode.
const SLICE: usize = ANSWERS_A_ROUND;

/// Whether there is more to do without waiting for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Done,
    More,
}

struct Connection {
    stream: TcpStream,
    origin: Origin,
    /// What was read of requests that are not yet answered.
    input: Vec<u8>,
    /// What was not yet taken of the replies.
    output: Vec<u8>,
    /// What makes the rest of the last reply.
    streaming: Option<Box<Streaming>>,
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

/// All open connections.
pub struct Connections {
    register: Register<Connection>,
    /// Connections that something has happened to, or that had more to do than one turn allowed.
    queue: VecDeque<u32>,
    proxies: Proxies,
    /// Requests answered in this round, long ones and those with long replies counted as several.
    answered: usize,
    /// Tokens from here on are connections.
    first_token: usize,
    /// What is being read by a group, one behind the other, and written by one of them.
    input: Box<[u8]>,
    output: Vec<u8>,
}

/// A connection that has read something.
#[derive(Clone, Copy)]
struct Member<'a> {
    index: u32,
    input: &'a [u8],
    /// The first request in the input, and what was found out ahead of answering it.
    first: Result<Request<'a>, Invalid>,
    hint: Hint,
    /// That was all that there was to read.
    drained: bool,
}

/// What a turn of a connection works with.
pub struct Context<'a> {
    pub registry: &'a Registry,
    pub responder: &'a mut Responder,
    pub site: &'a mut Site,
    /// Milliseconds since the start.
    pub now: u64,
}

impl Connections {
    /// `room` is shared by all threads.
    pub fn new(room: Arc<Room>, proxies: Proxies, first_token: usize) -> Connections {
        Connections {
            register: Register::new(room),
            queue: VecDeque::new(),
            proxies,
            answered: 0,
            first_token,
            input: vec![0; ROOM].into_boxed_slice(),
            output: Vec::new(),
        }
    }

    pub fn open(&self) -> usize {
        self.register.len()
    }

    /// When the next connection is to be closed.
    pub fn next_deadline(&self) -> Option<u64> {
        let oldest = self.register.get(self.register.oldest()?)?;
        Some(oldest.deadline)
    }

    /// Closes connections that are overdue.
    pub fn expire(&mut self, now: u64) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.close_oldest();
        }
    }

    /// For the end: closes what is idle. The others get what was already answered, as much of it as can
    /// be had meanwhile, and nothing more.
    pub fn wind_up(&mut self) {
        for index in self.register.indexes() {
            if self.register.get(index).is_some_and(Connection::is_idle) {
                self.close(index);
            } else {
                let drain = |connection: &mut Connection| connection.phase = Phase::Drain;
                self.register.change(index, drain);
                self.enqueue(index);
            }
        }
    }

    /// Accepts connections. An error is one of the system's limits, and closing an idle connection
    /// did not help.
    pub fn accept(&mut self, listener: &Listener, context: &mut Context) -> io::Result<Turn> {
        let mut has_evicted = false;
        let mut answered = 0;
        for _ in 0..ACCEPTS_A_TURN {
            // Making room is as much as a round each time.
            if answered >= ANSWERS_A_ROUND {
                break;
            }
            match listener.accept() {
                Ok((stream, address)) => {
                    // Two leave where another thread, which had none to close, exceeds the limit.
                    for _ in 0..2 {
                        if self.register.room().is_full() && self.open() > 0 {
                            self.make_room(context);
                            answered += self.answered;
                        }
                    }
                    context.responder.counters.tcp_accepted += 1;
                    let origin = self.proxies.accepted(address);
                    self.add(stream, origin, context.now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Done),
                Err(error) if sockets::is_of_one_connection(&error) => {}
                Err(error) if has_evicted || self.open() == 0 => return Err(error),
                Err(_) => {
                    self.make_room(context);
                    has_evicted = true;
                }
            }
        }
        Ok(Turn::More)
    }

    /// Closes the idlest connection, if none closes after its turn that waits for one.
    fn make_room(&mut self, context: &mut Context) {
        let open = self.open();
        self.serve_some(context);
        if self.open() >= open {
            let is_closed = self.close_oldest();
            context.responder.counters.tcp_evicted += u64::from(is_closed);
        }
    }

    fn add(&mut self, stream: TcpStream, origin: Origin, now: u64) {
        let connection = Connection {
            stream,
            origin,
            input: Vec::new(),
            output: Vec::new(),
            streaming: None,
            phase: Phase::Open,
            watched: None,
            hung_up: false,
            queued: false,
            deadline: now + PATIENCE,
        };
        let Some(index) = self.register.add(connection) else {
            return;
        };
        // Nearly always the request is here already, and often it is the only one: then the poll need
        // not hear of the connection at all.
        self.enqueue(index);
    }

    /// Notes an event of a connection's token. `hung_up` says that the client will send no more.
    pub fn ready(&mut self, token: Token, hung_up: bool) {
        let Ok(index) = u32::try_from(token.0.wrapping_sub(self.first_token)) else {
            return;
        };
        // It may have been closed earlier in this round.
        let note = |connection: &mut Connection| connection.hung_up |= hung_up;
        self.register.change(index, note);
        self.enqueue(index);
    }

    /// Whether some have something to do.
    pub fn are_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A turn for those that have waited for longest.
    pub fn serve_some(&mut self, context: &mut Context) {
        self.answered = 0;
        let mut turns = 0;
        // Lent to the groups, whose members borrow from it.
        let mut input = std::mem::take(&mut self.input);
        while !self.queue.is_empty() && turns < TURNS_A_ROUND && self.answered < ANSWERS_A_ROUND {
            turns += self.serve_group(&mut input, context);
        }
        self.input = input;
        debug_assert!(self.register.is_consistent());
    }

    /// Reads from some, looks ahead for all of them, then answers each; how many had their turn.
    fn serve_group(&mut self, input: &mut [u8], context: &mut Context) -> usize {
        let mut turns = 0;
        let mut group = [const { None }; GROUP];
        let mut free = input;
        // A slice of a stream is made as it is read, and ends the round.
        while turns < GROUP && free.len() >= INPUT && self.answered < ANSWERS_A_ROUND {
            let Some(index) = self.queue.pop_front() else {
                break;
            };
            group[turns] = self.read(index, &mut free, context);
            turns += 1;
        }
        look_ahead(&mut group, context.responder);
        for member in group.iter().flatten() {
            self.answer(member, context);
        }
        turns
    }

    /// Reads what a connection's turn is about into the front of what is free; none if there is nothing.
    fn read<'a>(
        &mut self,
        index: u32,
        free: &mut &'a mut [u8],
        context: &mut Context,
    ) -> Option<Member<'a>> {
        // Its place may be another's by now.
        let connection = self.register.get(index).filter(|c| c.queued)?;
        if connection.streaming.is_some() {
            self.pour(index, context);
            return None;
        }
        let proxies = &self.proxies;
        let counters = &mut context.responder.counters;
        let read = |connection: &mut Connection| connection.read(free, proxies, counters);
        match self.register.change(index, read)? {
            Ok((input, drained)) => Some(Member {
                index,
                input,
                first: request::parse(input),
                hint: Hint::default(),
                drained,
            }),
            Err(turn) => {
                self.settle(index, turn, context);
                None
            }
        }
    }

    /// Sends the next slice of a streamed reply, once the one before is out.
    fn pour(&mut self, index: u32, context: &mut Context) {
        self.answered += SLICE;
        let (slice, second) = (&mut self.output, context.now / 1000);
        let poured = self.register.change(index, |connection| {
            connection.queued = false;
            let poured = connection.pour(context.responder, slice)?;
            if let Some(streaming) = &connection.streaming {
                streaming.count(poured.taken, second);
            }
            if poured.taken > 0 {
                connection.deadline = context.now + PATIENCE;
            }
            Ok(poured.turn)
        });
        if let Some(turn) = poured {
            self.settle(index, turn, context);
        }
    }

    /// Answers what a member of a group has read. It may have been closed since, when memory was short.
    fn answer(&mut self, member: &Member, context: &mut Context) {
        let mut desk = Desk {
            output: &mut self.output,
            answered: &mut self.answered,
            proxies: &self.proxies,
        };
        let answer = |connection: &mut Connection| desk.answer(connection, member, context);
        if let Some(turn) = self.register.change(member.index, answer) {
            self.settle(member.index, turn, context);
        }
    }

    /// Closes a connection after its turn, or has the poll or the queue remember it.
    fn settle(&mut self, index: u32, turn: Result<Turn, Gone>, context: &mut Context) {
        let token = Token(self.first_token + index as usize);
        let watch = |connection: &mut Connection| connection.watch(token, context.registry).is_ok();
        match turn {
            Ok(turn) if self.register.change(index, watch) == Some(true) => {
                if turn == Turn::More {
                    self.enqueue(index);
                }
            }
            _ => {
                self.close(index);
            }
        }
        self.bound_memory(context);
    }

    /// Closes connections while the buffers of all take too much memory, the one that holds the most first.
    fn bound_memory(&mut self, context: &mut Context) {
        while self.register.is_out_of_memory() {
            let Some(index) = self.register.heaviest() else {
                return;
            };
            let is_closed = self.close(index);
            context.responder.counters.tcp_evicted += u64::from(is_closed);
        }
    }

    fn enqueue(&mut self, index: u32) {
        let queue = |connection: &mut Connection| std::mem::replace(&mut connection.queued, true);
        if self.register.change(index, queue) == Some(false) {
            self.queue.push_back(index);
        }
    }

    /// Returns whether there was a connection to close.
    fn close_oldest(&mut self) -> bool {
        let oldest = self.register.oldest();
        oldest.is_some_and(|index| self.close(index))
    }

    /// Dropping the stream closes it, and the poll forgets it. Returns whether the connection was still there.
    fn close(&mut self, index: u32) -> bool {
        self.register.remove(index).is_some()
    }
}

/// The connection is at its end.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Gone {
        Gone
    }
}

impl Entry for Connection {
    fn held(&self) -> usize {
        let streaming = self.streaming.as_ref().map_or(0, |s| s.size());
        self.input.capacity() + self.output.capacity() + streaming
    }

    fn deadline(&self) -> u64 {
        self.deadline
    }
}

impl Connection {
    /// Whether nothing of it is underway, neither here nor in the socket.
    fn is_idle(&self) -> bool {
        let unread = self.stream.peek(&mut [0]);
        let nothing = unread.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        let unsent = !self.output.is_empty() || self.streaming.is_some();
        nothing && self.input.is_empty() && !unsent && self.phase == Phase::Open
    }

    /// Asks for what is of interest now.
    fn watch(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let interest = match self.output.is_empty() && self.streaming.is_none() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        match self.watched.replace(interest) {
            Some(before) if before == interest => Ok(()),
            Some(_) => registry.reregister(&mut self.stream, token, interest),
            None => registry.register(&mut self.stream, token, interest),
        }
    }

    /// Reads what this turn is about into the front of what is free: the input, and whether the socket has no
    /// more. Without input the turn is over, and its outcome is the error.
    fn read<'a>(
        &mut self,
        free: &mut &'a mut [u8],
        proxies: &Proxies,
        counters: &mut Counters,
    ) -> Result<(&'a [u8], bool), Result<Turn, Gone>> {
        self.queued = false;
        let (filled, drained) = match self.receive(free, counters).map_err(Err)? {
            Received::Input { filled, drained } => (filled, drained),
            Received::Nothing(turn) => return Err(Ok(turn)),
        };
        let (input, rest) = std::mem::take(free).split_at_mut(filled);
        *free = rest;
        match self.introduce(input, proxies) {
            Ok(input) => Ok((input, drained)),
            Err(Invalid::Incomplete) if drained => Err(Ok(Turn::Done)),
            Err(Invalid::Incomplete) => Err(Ok(Turn::More)),
            Err(_) => {
                counters.count_http_error(Status::BadRequest.code());
                Err(Err(Gone))
            }
        }
    }

    /// Sends what is left, then reads what is to be answered behind what was held of it before.
    fn receive(&mut self, room: &mut [u8], counters: &mut Counters) -> Result<Received, Gone> {
        if !self.flush(counters)? {
            return Ok(Received::Nothing(Turn::Done));
        }
        match self.phase {
            Phase::Last => return Err(Gone),
            Phase::Drain => {
                let _ = self.stream.shutdown(Shutdown::Write);
                // It may hold requests that will not be answered, and leave no room to read.
                self.input = Vec::new();
                self.phase = Phase::Discard;
            }
            Phase::Open | Phase::Behind | Phase::Discard => {}
        }
        let (held, room) = room[..INPUT].split_at_mut(self.input.len());
        held.copy_from_slice(&self.input);
        let held = held.len();
        if self.phase == Phase::Behind {
            return Ok(Received::Input {
                filled: held,
                drained: false,
            });
        }
        let read = self.stream.read(room);
        counters.tcp_received += *read.as_ref().unwrap_or(&0) as u64;
        match read {
            Ok(0) => Err(Gone),
            Ok(_) if self.phase == Phase::Discard => Ok(Received::Nothing(Turn::More)),
            // A short read leaves nothing behind: that needs no second system call.
            Ok(count) => Ok(Received::Input {
                filled: held + count,
                drained: count < room.len() && !self.hung_up,
            }),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(Received::Nothing(Turn::Done)),
                ErrorKind::Interrupted => Ok(Received::Nothing(Turn::More)),
                _ => Err(Gone),
            },
        }
    }

    /// Takes the PROXY header off the front of the input, if one is to come first; keeps what is there
    /// of it if it is incomplete.
    fn introduce<'a>(&mut self, input: &'a [u8], proxies: &Proxies) -> Result<&'a [u8], Invalid> {
        if self.origin != Origin::Unsaid {
            return Ok(input);
        }
        let header = proxy_protocol::parse(input).inspect_err(|error| {
            if *error == Invalid::Incomplete {
                keep(&mut self.input, input);
            }
        })?;
        self.origin = proxies.relayed(header.source);
        Ok(input.get(header.length..).unwrap_or_default())
    }

    /// Sends what is left, then a slice more. What the client does not take is kept, and nothing is made
    /// behind it.
    fn pour(&mut self, responder: &mut Responder, slice: &mut Vec<u8>) -> Result<Poured, Gone> {
        if self.streaming.as_ref().is_some_and(|s| s.is_ended()) {
            responder.counters.tcp_evicted += 1;
            return Err(Gone);
        }
        let before = self.output.len();
        let is_out = self.flush(&mut responder.counters)?;
        let mut taken = before.saturating_sub(self.output.len());
        if !is_out {
            let turn = Turn::Done;
            return Ok(Poured { turn, taken });
        }
        slice.clear();
        if let Some(streaming) = &mut self.streaming {
            let is_more = streaming.step(
                &mut |source, slice| {
                    let rules = responder.rules.as_ref().map(SharedRules::read);
                    let is_tracked = |hash: &InfoHash| {
                        let refused = rules.as_ref().and_then(|rules| rules.refuses(hash));
                        refused.is_none()
                    };
                    let tracked = rules.is_some().then_some(&is_tracked as _);
                    source.read(&responder.table, responder.table_now(), tracked, slice)
                },
                slice,
            );
            if streaming.is_full_scrape() {
                responder.counters.full_scrape_bytes += slice.len() as u64;
            }
            if !is_more {
                self.streaming = None;
            }
        }
        let sent = send(&mut self.stream, slice, &mut responder.counters)?;
        taken += sent;
        keep(&mut self.output, &slice[sent..]);
        let turn = match self.output.is_empty() {
            true => Turn::More,
            false => Turn::Done,
        };
        Ok(Poured { turn, taken })
    }

    /// Sends what is left of earlier replies; whether all is out.
    fn flush(&mut self, counters: &mut Counters) -> Result<bool, Gone> {
        if self.output.is_empty() {
            return Ok(true);
        }
        let sent = send(&mut self.stream, &self.output, counters)?;
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        Ok(self.output.is_empty())
    }
}

/// What a connection had for its turn.
enum Received {
    /// So many bytes; whether the socket has no more.
    Input {
        filled: usize,
        drained: bool,
    },
    Nothing(Turn),
}

/// What came of a slice of a streamed reply.
struct Poured {
    turn: Turn,
    /// Bytes that the client has taken.
    taken: usize,
}

/// Writes until all is sent or the socket takes no more; how much it took.
fn send(stream: &mut TcpStream, bytes: &[u8], counters: &mut Counters) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => {
                sent += count;
                counters.tcp_sent += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Brings what the group's announces will read into the cache, all of one kind before the next.
fn look_ahead(group: &mut [Option<Member>; GROUP], responder: &Responder) {
    let mut hashes = [None; GROUP];
    for (hash, member) in hashes.iter_mut().zip(&*group) {
        let request = member.as_ref().and_then(|member| member.first.ok());
        *hash = request.and_then(|request| query::announced_hash(request.query));
    }
    for (hint, member) in responder.look_ahead(&hashes).iter().zip(group) {
        if let Some(member) = member {
            member.hint = *hint;
        }
    }
}

/// What is shared by all, lent to the connection whose turn it is.
struct Desk<'a> {
    output: &'a mut Vec<u8>,
    answered: &'a mut usize,
    proxies: &'a Proxies,
}

impl Desk<'_> {
    /// Answers the requests in the input, and keeps what is left of them.
    fn answer(
        &mut self,
        connection: &mut Connection,
        member: &Member,
        context: &mut Context,
    ) -> Result<Turn, Gone> {
        let mut rest = member.input;
        let mut next = member.first;
        let mut hint = member.hint;
        self.output.clear();
        connection.phase = Phase::Open;
        while connection.phase == Phase::Open && !rest.is_empty() {
            match next {
                Ok(request) => {
                    let (head, behind) = rest.split_at(request.length);
                    rest = behind;
                    let client = self.proxies.client(connection.origin, head);
                    let (phase, streaming) = answer(&request, client, hint, context, self.output);
                    (connection.phase, connection.streaming) = (phase, streaming);
                    connection.deadline = context.now + PATIENCE;
                    *self.answered += 1 + (request.length + context.site.made()) / WEIGHT;
                }
                Err(Invalid::Incomplete) => break,
                Err(error) => {
                    connection.phase = Phase::Drain;
                    refuse(error, context, self.output);
                }
            }
            let has_had_its_turn = connection.streaming.is_some()
                || self.output.len() > OUTPUT
                || *self.answered >= ANSWERS_A_ROUND;
            if has_had_its_turn && connection.phase == Phase::Open && !rest.is_empty() {
                connection.phase = Phase::Behind;
            }
            next = request::parse(rest);
            hint = Hint::default();
        }
        // What lies behind the last request is not answered.
        if connection.phase == Phase::Last && !rest.is_empty() {
            connection.phase = Phase::Drain;
        }
        if connection.phase == Phase::Drain {
            rest = &[];
        }
        keep(&mut connection.input, rest);
        let counters = &mut context.responder.counters;
        let sent = send(&mut connection.stream, self.output, counters)?;
        keep(&mut connection.output, &self.output[sent..]);
        match connection.phase {
            _ if connection.streaming.is_some() => Ok(Turn::More),
            Phase::Last if connection.output.is_empty() => Err(Gone),
            Phase::Open if member.drained => Ok(Turn::Done),
            _ => Ok(Turn::More),
        }
    }
}

/// Answers one request; what becomes of the connection then, and what makes the rest of the reply.
fn answer(
    request: &Request,
    client: Option<IpAddr>,
    hint: Hint,
    context: &mut Context,
    out: &mut Vec<u8>,
) -> (Phase, Option<Box<Streaming>>) {
    let framing = Framing {
        is_1_1: request.is_1_1,
        keep_alive: request.keep_alive && !request.has_body,
        head_only: request.method == Method::Head,
    };
    let (service, site) = (&mut *context.responder, &mut *context.site);
    let streaming = site.answer(request, client, hint, framing, service, out);
    // Without chunks, the end of the connection is the end of the reply.
    let is_endless = streaming.is_some() && !request.is_1_1;
    let phase = match framing.keep_alive && !is_endless {
        true => Phase::Open,
        false if request.has_body => Phase::Drain,
        false => Phase::Last,
    };
    (phase, streaming)
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
    context.responder.counters.count_http_error(status.code());
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
