//! One TCP connection: it reads requests, sends replies, and goes on with a reply that is made while it is sent.

use super::connections::Context;
use super::proxy::Origin;
use super::request::{self, Invalid, MAX_HEAD_BYTES, Request};
use super::response::Status;
use super::streaming::Streaming;
use crate::responder::Responder;
use crate::stats::Counters;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

/// A request must arrive, and its reply be taken, within this time.
const TIMEOUT_MS: u64 = 30_000;

/// A read takes at most this: a head of maximum length, and requests behind it.
pub const INPUT_BYTES: usize = 2 * MAX_HEAD_BYTES;

/// While more than this waits to be sent, no further request of the connection is answered.
const MAX_UNSENT_BYTES: usize = 8 * 1024;

/// Requests that are answered before UDP sockets have their turn: about a millisecond.
pub const WORK_PER_ROUND: usize = 256;

/// For each of these bytes, a request and its reply take as long as another request: a scrape of some dozen torrents, a
/// page of statistics.
const BYTES_PER_WORK: usize = 1024;

/// A slice of a streamed reply takes as long as this many requests. One that completes a block of deflate encodes a
/// thousand torrents.
const WORK_PER_SLICE: usize = WORK_PER_ROUND;

/// Whether a connection has more to do, or waits for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Done,
    More,
}

pub struct Connection {
    stream: TcpStream,
    origin: Origin,
    /// Other networks cannot reach the listener.
    is_local: bool,
    /// Bytes received of requests that are not answered yet.
    input: Vec<u8>,
    /// The socket had no more when it was last read.
    is_drained: bool,
    /// Bytes of replies that are not sent yet.
    output: Vec<u8>,
    /// Makes the rest of the last reply.
    streaming: Option<Box<Streaming>>,
    phase: Phase,
    /// A request has been answered.
    has_replied: bool,
    /// The daemon stops: one more request is answered.
    is_ending: bool,
    /// The events that the poll watches for.
    watched: Option<Interest>,
    /// The client sends no more. No further event reports that, so the end of the input is found by reading.
    pub has_hung_up: bool,
    pub is_queued: bool,
    /// In milliseconds since the start.
    pub deadline: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads requests.
    Open,
    /// `input` may hold requests that wait until the replies before them are sent.
    Behind,
    /// Closes once the last reply is sent.
    Last,
    /// The same, but the client's input was not read to its end. Closing at once would reset the connection and lose
    /// the reply (RFC 9112, 9.6), so only our side closes, and all input is discarded.
    Discard,
}

impl Connection {
    pub fn new(stream: TcpStream, origin: Origin, is_local: bool, now: u64) -> Connection {
        Connection {
            stream,
            origin,
            is_local,
            input: Vec::new(),
            is_drained: false,
            output: Vec::new(),
            streaming: None,
            phase: Phase::Open,
            has_replied: false,
            is_ending: false,
            watched: None,
            has_hung_up: false,
            is_queued: false,
            deadline: now + TIMEOUT_MS,
        }
    }

    /// Bytes in buffers of its own.
    pub fn held(&self) -> usize {
        let streaming = self.streaming.as_ref().map_or(0, |s| s.size());
        self.input.capacity() + self.output.capacity() + streaming
    }

    fn has_unsent(&self) -> bool {
        !self.output.is_empty() || self.streaming.is_some()
    }

    /// Answers the request that is coming in, and no further one: the first request of the connection, or one of which
    /// a part has arrived.
    pub fn begin_end(&mut self) {
        let is_coming = !self.has_replied || !self.input.is_empty() || self.has_unread();
        match self.is_answering() && is_coming && !self.has_unsent() {
            true => self.is_ending = true,
            false => self.finish(),
        }
    }

    /// Whether a request is still expected.
    pub fn is_awaited(&self) -> bool {
        self.is_ending && self.is_answering()
    }

    fn is_answering(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Behind)
    }

    fn has_unread(&self) -> bool {
        let unread = self.stream.peek(&mut [0]);
        !unread.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Answers no further request. If no request or reply is in progress, neither here nor in the socket, the next turn
    /// closes the connection.
    pub fn finish(&mut self) {
        let is_open = self.phase == Phase::Open && self.input.is_empty();
        self.phase = match is_open && !self.has_unread() && !self.has_unsent() {
            true => Phase::Last,
            false => Phase::Discard,
        };
    }

    /// Registers the events that matter now with the poll.
    pub fn watch(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let interest = match self.has_unsent() {
            false => Interest::READABLE,
            true => Interest::READABLE | Interest::WRITABLE,
        };
        match self.watched.replace(interest) {
            Some(before) if before == interest => Ok(()),
            Some(_) => registry.reregister(&mut self.stream, token, interest),
            None => registry.register(&mut self.stream, token, interest),
        }
    }

    /// Begins a turn: sends what is left, then reads into the front of the free space. An error is the outcome of a
    /// turn that has nothing to answer; none closes the connection.
    pub fn begin_turn<'a>(
        &mut self,
        free: &mut &'a mut [u8],
        context: &mut Context,
    ) -> Result<&'a [u8], Option<Turn>> {
        let source = self.streaming.as_ref().map(|s| &s.source);
        if source.is_some_and(|source| source.is_revoked()) {
            context.responder.counters.tcp_evicted += 1;
            return Err(None);
        }
        let unsent = std::mem::take(&mut self.output);
        if !self.send(&unsent, context.responder).ok_or(None)? {
            return Err(Some(Turn::Done));
        }
        if self.streaming.is_some() {
            return Err(self.send_slice(context));
        }
        let counters = &mut context.responder.counters;
        let length = self.receive(&mut free[..INPUT_BYTES], counters)?;
        let (input, rest) = std::mem::take(free).split_at_mut(length);
        *free = rest;
        Ok(input)
    }

    /// Fills the buffer with the input that is held, and reads behind it. Returns the number of bytes.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        counters: &mut Counters,
    ) -> Result<usize, Option<Turn>> {
        if self.phase == Phase::Last {
            return Err(None);
        }
        if self.phase == Phase::Discard {
            let _ = self.stream.shutdown(Shutdown::Write);
            self.input = Vec::new();
        }
        let (held, room) = buffer.split_at_mut(self.input.len());
        held.copy_from_slice(&self.input);
        if self.phase == Phase::Behind {
            self.is_drained = false;
            return Ok(held.len());
        }
        let count = match self.stream.read(room) {
            Ok(0) => return Err(None),
            Ok(count) => count,
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::WouldBlock => Some(Turn::Done),
                    ErrorKind::Interrupted => Some(Turn::More),
                    _ => None,
                });
            }
        };
        counters.tcp_received += count as u64;
        if self.phase == Phase::Discard {
            return Err(Some(Turn::More));
        }
        // A short read leaves nothing behind, which saves a second system call.
        self.is_drained = count < room.len() && !self.has_hung_up;
        Ok(held.len() + count)
    }

    /// Answers the requests in the input, and keeps those that must wait. None: the connection is to be closed.
    pub fn answer(&mut self, mut input: &[u8], context: &mut Context) -> Option<Turn> {
        let proxies = &context.site.policy.proxies;
        let header = proxies.skip_header(&mut self.origin, &mut input);
        if let Err(Invalid::Malformed | Invalid::TooLong) = header {
            let counters = &mut context.responder.counters;
            counters.count_http_error(Status::BadRequest.code());
            return None;
        }
        context.site.output.clear();
        self.phase = Phase::Open;
        while header.is_ok() && self.phase == Phase::Open && !input.is_empty() {
            let request = match request::parse(input) {
                Ok(request) => request,
                Err(Invalid::Incomplete) => break,
                Err(Invalid::Malformed) => Request::refused(Status::BadRequest),
                Err(Invalid::TooLong) => Request::refused(Status::HeadTooLarge),
            };
            input = input.get(request.length..).unwrap_or_default();
            self.answer_one(request, context);
        }
        // Requests behind the last one are not answered.
        if self.phase == Phase::Last && !input.is_empty() {
            self.phase = Phase::Discard;
        }
        keep(&mut self.input, input)?;
        if !self.send(&context.site.output, context.responder)? {
            return Some(Turn::Done);
        }
        match self.phase {
            _ if self.streaming.is_some() => Some(Turn::More),
            Phase::Last => None,
            Phase::Open if self.is_drained => Some(Turn::Done),
            _ => Some(Turn::More),
        }
    }

    fn answer_one(&mut self, mut request: Request, context: &mut Context) {
        let site = &mut *context.site;
        request.client = site.policy.proxies.client(self.origin, request.lines);
        request.keep_alive &= !self.is_ending;
        self.has_replied = true;
        context.responder.begin_turn(self.is_local);
        self.streaming = site.answer(&request, context.responder);
        let is_streaming = self.streaming.is_some();
        site.work += 1 + (request.length + site.body.len()) / BYTES_PER_WORK;
        let must_wait =
            is_streaming || site.output.len() > MAX_UNSENT_BYTES || site.work >= WORK_PER_ROUND;
        // Without chunks, the end of the connection is the end of the reply.
        let is_endless = is_streaming && request.is_1_0;
        self.phase = match request.keep_alive && !is_endless {
            _ if request.has_body => Phase::Discard,
            false => Phase::Last,
            true if must_wait => Phase::Behind,
            true => Phase::Open,
        };
        self.deadline = context.now() + TIMEOUT_MS;
    }

    /// Makes and sends the next slice of a streamed reply.
    fn send_slice(&mut self, context: &mut Context) -> Option<Turn> {
        let site = &mut *context.site;
        site.work += WORK_PER_SLICE;
        site.output.clear();
        let streaming = self.streaming.as_mut()?;
        let is_more = streaming.step(context.responder, &mut site.slice, &mut site.output);
        let is_sent = self.send(&site.output, context.responder)?;
        if !is_more {
            self.streaming = None;
        }
        Some(if is_sent { Turn::More } else { Turn::Done })
    }

    /// Sends bytes, and keeps those that the socket does not take. Returns whether it took all.
    fn send(&mut self, bytes: &[u8], responder: &mut Responder) -> Option<bool> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = rest.get(count..)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        keep(&mut self.output, rest)?;
        let sent = bytes.len() - rest.len();
        responder.counters.tcp_sent += sent as u64;
        if let (Some(streaming), 1..) = (&self.streaming, sent) {
            let now = responder.monitor.now;
            streaming.source.count(sent, now / 1000);
            self.deadline = now + TIMEOUT_MS;
        }
        Some(rest.is_empty())
    }
}

/// Replaces a connection's own buffer, which is nearly always empty before and after. None if there is no memory: then
/// the connection is closed.
fn keep(buffer: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    if bytes.is_empty() {
        *buffer = Vec::new();
        return Some(());
    }
    buffer.clear();
    buffer.try_reserve_exact(bytes.len()).ok()?;
    buffer.extend_from_slice(bytes);
    Some(())
}
