//! One TCP connection: it reads requests, sends replies, and goes on with a reply that is made while it is sent.

use super::connections::Context;
use super::proxy::protocol as proxy_protocol;
use super::proxy::{Origin, Proxies};
use super::request::{self, Invalid, MAX_HEAD_BYTES, Request};
use super::response::{self, Status};
use super::streaming::Streaming;
use crate::responder::Responder;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

/// A request must arrive, and its reply be taken, within this time.
const TIMEOUT_MS: u64 = 30_000;

/// A read takes at most this: a head of the longest kind, and others behind it.
pub const INPUT_BYTES: usize = 2 * MAX_HEAD_BYTES;

/// While more than this waits to be sent, no further request of the connection is answered.
const MAX_UNSENT_BYTES: usize = 8 * 1024;

/// Requests that are answered before UDP sockets have their turn: about a millisecond.
pub const WORK_PER_ROUND: usize = 256;

/// A request and its reply that are together this long, such as a scrape of some dozen torrents or a page of
/// statistics, take as long as another request.
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

/// Input of a turn.
pub struct Input<'a> {
    pub requests: &'a [u8],
    /// The socket has no more.
    is_drained: bool,
}

pub struct Connection {
    stream: TcpStream,
    origin: Origin,
    /// Bytes received of requests that are not answered yet.
    input: Vec<u8>,
    /// Bytes of replies that are not sent yet.
    output: Vec<u8>,
    /// Makes the rest of the last reply.
    streaming: Option<Box<Streaming>>,
    phase: Phase,
    /// The events that the poll watches for.
    watched: Option<Interest>,
    /// No event tells of the end of the input any more, so it is found by reading.
    pub has_hung_up: bool,
    pub is_queued: bool,
    deadline: u64,
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
    /// the reply (RFC 9112, 9.6), so only our side closes, and what still arrives is discarded.
    Discard,
}

impl Connection {
    pub fn new(stream: TcpStream, origin: Origin, now: u64) -> Connection {
        Connection {
            stream,
            origin,
            input: Vec::new(),
            output: Vec::new(),
            streaming: None,
            phase: Phase::Open,
            watched: None,
            has_hung_up: false,
            is_queued: false,
            deadline: now + TIMEOUT_MS,
        }
    }

    /// In milliseconds since the start.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Bytes in buffers of its own.
    pub fn held(&self) -> usize {
        let streaming = self.streaming.as_ref().map_or(0, |s| s.size());
        self.input.capacity() + self.output.capacity() + streaming
    }

    fn has_unsent(&self) -> bool {
        !self.output.is_empty() || self.streaming.is_some()
    }

    /// Whether no request or reply is in progress, neither here nor in the socket.
    pub fn is_idle(&self) -> bool {
        let unread = self.stream.peek(&mut [0]);
        let has_unread = !unread.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        let is_open = self.phase == Phase::Open && self.input.is_empty();
        is_open && !has_unread && !self.has_unsent()
    }

    /// Answers no further request.
    pub fn finish(&mut self) {
        self.phase = Phase::Discard;
    }

    /// Has the poll watch for the events that matter now.
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
    ) -> Result<Input<'a>, Option<Turn>> {
        if self.streaming.as_ref().is_some_and(|s| s.is_revoked()) {
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
        let (length, is_drained) = self.receive(&mut free[..INPUT_BYTES], context)?;
        let (input, rest) = std::mem::take(free).split_at_mut(length);
        *free = rest;
        match self.skip_proxy_header(input, &context.site.proxies) {
            Ok(requests) => Ok(Input {
                requests,
                is_drained,
            }),
            Err(Invalid::Incomplete) => {
                keep(&mut self.input, input);
                Err(Some(if is_drained { Turn::Done } else { Turn::More }))
            }
            Err(_) => {
                let counters = &mut context.responder.counters;
                counters.count_http_error(Status::BadRequest.code());
                Err(None)
            }
        }
    }

    /// Fills the buffer with the input that is held, and reads behind it. Returns the bytes in the buffer and whether
    /// the socket has no more.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        context: &mut Context,
    ) -> Result<(usize, bool), Option<Turn>> {
        match self.phase {
            Phase::Last => return Err(None),
            Phase::Discard => {
                let _ = self.stream.shutdown(Shutdown::Write);
                // It may hold requests that are not answered.
                self.input = Vec::new();
            }
            Phase::Open | Phase::Behind => {}
        }
        let (held, room) = buffer.split_at_mut(self.input.len());
        held.copy_from_slice(&self.input);
        if self.phase == Phase::Behind {
            return Ok((held.len(), false));
        }
        let read = self.stream.read(room);
        context.responder.counters.tcp_received += *read.as_ref().unwrap_or(&0) as u64;
        match read {
            Ok(0) => Err(None),
            Ok(_) if self.phase == Phase::Discard => Err(Some(Turn::More)),
            // A short read leaves nothing behind, which saves a second system call.
            Ok(count) => {
                let is_drained = count < room.len() && !self.has_hung_up;
                Ok((held.len() + count, is_drained))
            }
            Err(error) => Err(match error.kind() {
                ErrorKind::WouldBlock => Some(Turn::Done),
                ErrorKind::Interrupted => Some(Turn::More),
                _ => None,
            }),
        }
    }

    /// Takes a PROXY header off the front of the input if one must come first.
    fn skip_proxy_header<'a>(
        &mut self,
        input: &'a [u8],
        proxies: &Proxies,
    ) -> Result<&'a [u8], Invalid> {
        if self.origin != Origin::Pending {
            return Ok(input);
        }
        let header = proxy_protocol::parse(input)?;
        self.origin = proxies.relayed(header.source);
        Ok(input.get(header.length..).unwrap_or_default())
    }

    /// Answers requests, and keeps those that must wait. None: the connection is to be closed.
    pub fn answer(&mut self, input: Input, context: &mut Context) -> Option<Turn> {
        let mut rest = input.requests;
        context.site.output.clear();
        self.phase = Phase::Open;
        while self.phase == Phase::Open && !rest.is_empty() {
            match request::parse(rest) {
                Ok(request) => {
                    rest = rest.get(request.length..).unwrap_or_default();
                    self.answer_one(request, context);
                }
                Err(Invalid::Incomplete) => break,
                Err(error) => {
                    self.phase = Phase::Discard;
                    let status = match error {
                        Invalid::TooLong => Status::HeadTooLarge,
                        _ => Status::BadRequest,
                    };
                    let counters = &mut context.responder.counters;
                    counters.count_http_error(status.code());
                    let out = &mut context.site.output;
                    response::write_error(out, status, b"", &Request::INVALID);
                }
            }
        }
        // Requests behind the last one are not answered.
        if self.phase == Phase::Last && !rest.is_empty() {
            self.phase = Phase::Discard;
        }
        if self.phase == Phase::Discard {
            rest = &[];
        }
        keep(&mut self.input, rest);
        if !self.send(&context.site.output, context.responder)? {
            return Some(Turn::Done);
        }
        match self.phase {
            _ if self.streaming.is_some() => Some(Turn::More),
            Phase::Last => None,
            Phase::Open if input.is_drained => Some(Turn::Done),
            _ => Some(Turn::More),
        }
    }

    fn answer_one(&mut self, request: Request, context: &mut Context) {
        let site = &mut *context.site;
        let client = site.proxies.client(self.origin, request.lines);
        let request = Request { client, ..request };
        self.streaming = site.answer(&request, context.responder);
        // Without chunks, the end of the connection is the end of the reply.
        let is_endless = self.streaming.is_some() && !request.is_1_1;
        site.work += 1 + (request.length + site.body_length()) / BYTES_PER_WORK;
        let must_wait = self.streaming.is_some()
            || site.output.len() > MAX_UNSENT_BYTES
            || site.work >= WORK_PER_ROUND;
        self.phase = match request.keep_alive && !is_endless {
            _ if request.has_body => Phase::Discard,
            false => Phase::Last,
            true if must_wait => Phase::Behind,
            true => Phase::Open,
        };
        self.deadline = context.now + TIMEOUT_MS;
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
        keep(&mut self.output, rest);
        let sent = bytes.len() - rest.len();
        responder.counters.tcp_sent += sent as u64;
        if let (Some(streaming), 1..) = (&self.streaming, sent) {
            let now = responder.monitor.now;
            streaming.count(sent, now / 1000);
            self.deadline = now + TIMEOUT_MS;
        }
        Some(rest.is_empty())
    }
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
