//! Streams between nodes, and what becomes of them: who is given the table, and, when this node has just
//! started, from whom it takes one.
//!
//! A node that starts is not whole. It looks for another that is, takes the table of the first that gives
//! it, from the next if that one fails, and meanwhile serves and takes live updates. While nobody shows up
//! for [`ALONE`] it is alone, and whole with what it has. Of two that start together neither has more to
//! give than the other: each says so, and both are whole after that time.
//!
//! Strangers cannot keep anybody busy: only a connection from where some node's packets come from is
//! talked to, few at once and briefly before they have shown the key, and a round of the loop does
//! one slice for all of those that are served.

use crate::access::SharedRules;
use crate::log;
use crate::responder::Responder;
use crate::stats::people::plural;
use crate::sync::node::Node;
use crate::sync::snapshot::{Failure, Fetch, Host, Offer, Progress};
use crate::sync::stream::Answer;
use crate::sys::sockets;
use crate::tracker::InfoHash;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// Milliseconds for which a node that starts waits for a sign of another.
const ALONE: u64 = 10_000;

/// Milliseconds after which a node that hears others of which none gives its table is no longer waiting for
/// it: repair brings it, and takes longer.
const HOPELESS: u64 = 60_000;

/// Milliseconds for which the others may still come up once the first is, so that none of them is missed
/// when it tells what changes.
const GATHER: u64 = 1000;

/// Milliseconds from one look for other nodes to the next.
const LOOK: u64 = 50;

/// Milliseconds until those that gave nothing are asked again.
const AGAIN: u64 = 1000;

/// Milliseconds in which an end must have shown the key, may be silent, and must have done with all.
const STRANGE: u64 = 5000;
const SILENT: u64 = 10_000;
const LONGEST: u64 = 3_600_000;

/// Streams to this node, and those of them that are given the table at once, at 0.4 MB each.
const GUESTS: usize = 8;
const MOST_SERVED: usize = 4;

/// Connections accepted in a round.
const ACCEPTS: usize = 16;

/// Milliseconds until accepting is tried again when the system is out of descriptors.
const RETRY: u64 = 500;

/// Slices taken in a round, each of a thousand peers at most; a frame that is opened is one too.
const STEPS: usize = 2;

/// Bytes of one read.
const INPUT: usize = 64 * 1024;

/// Tokens, above all that count connections.
const LISTENERS: usize = usize::MAX - 64;
const FETCH: usize = LISTENERS + 8;
const FIRST_GUEST: usize = FETCH + 1;

/// All streams between this node and others.
pub struct Joins {
    listeners: Vec<TcpListener>,
    /// Connections may wait to be accepted.
    accepting: bool,
    /// Set while the listeners are out of descriptors.
    retry_at: Option<u64>,
    guests: [Option<Guest>; GUESTS],
    /// Whose turn it is to be given a slice.
    turn: usize,
    fetching: Option<Fetching>,
    /// None once the node is whole.
    joining: Option<Joining>,
}

/// A node that starts, and has yet to find another.
struct Joining {
    began: u64,
    /// When it gives up, without another sign of hope.
    until: u64,
    /// When the first other node was seen.
    seen_at: Option<u64>,
    next_look: u64,
    /// Nodes that gave nothing when they were last asked.
    tried: Vec<SocketAddr>,
    /// A node that could have given its table did not.
    has_failed: bool,
    /// What has been logged: nodes that start together ask each other again and again.
    told: Vec<String>,
}

/// A stream, and what the poll has said of it.
struct Io {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// The other end has sent its last.
    is_ended: bool,
    out: Vec<u8>,
    began: u64,
    /// When something was last sent or received.
    moved_at: u64,
}

/// Another node, or somebody who says so.
struct Guest {
    io: Io,
    offer: Offer,
    from: SocketAddr,
}

/// A table on its way in.
struct Fetching {
    io: Io,
    fetch: Fetch,
    from: SocketAddr,
    /// The last step found more to do.
    has_work: bool,
}

/// Why a stream ends before its time.
enum Trouble {
    Failure(Failure),
    Io(io::Error),
    Closed,
    TooSlow,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Trouble::Failure(failure) => failure.fmt(f),
            Trouble::Io(error) => error.fmt(f),
            Trouble::Closed => f.write_str("it closed the connection"),
            Trouble::TooSlow => f.write_str("it takes too long"),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failure(failure)
    }
}

/// Of a table, with so many torrents and peers, for the log.
struct Size(u64, u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let &Size(torrents, peers) = self;
        let [s, t] = [torrents, peers].map(plural);
        write!(f, "{torrents} torrent{s} and {peers} peer{t}")
    }
}

impl Joins {
    /// With listeners for other nodes, if there may be any.
    pub fn new(listeners: Vec<TcpListener>) -> Joins {
        Joins {
            listeners,
            accepting: false,
            retry_at: None,
            guests: [const { None }; GUESTS],
            turn: 0,
            fetching: None,
            joining: None,
        }
    }

    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (listener, token) in self.listeners.iter_mut().zip(LISTENERS..) {
            registry.register(listener, Token(token), Interest::READABLE)?;
        }
        Ok(())
    }

    /// From now on this node is not whole before it has another's table or is found to be alone.
    pub fn begin(&mut self, node: &mut Node, now: u64) {
        node.is_joining = true;
        self.joining = Some(Joining::new(now));
    }

    /// Whether a token is of these streams.
    pub fn owns(token: Token) -> bool {
        token.0 >= LISTENERS
    }

    /// Notes an event.
    pub fn ready(&mut self, token: Token) {
        let io = match token.0 {
            FETCH => self.fetching.as_mut().map(|fetching| &mut fetching.io),
            FIRST_GUEST.. => {
                let guest = self.guests.get_mut(token.0 - FIRST_GUEST);
                guest.and_then(Option::as_mut).map(|guest| &mut guest.io)
            }
            _ => {
                self.accepting = true;
                None
            }
        };
        if let Some(io) = io {
            io.readable = true;
            io.writable = true;
        }
    }

    /// Whether there is something to do without waiting for an event.
    pub fn are_busy(&self) -> bool {
        let fetching = self.fetching.as_ref();
        let mut guests = self.guests.iter().flatten();
        self.accepting || fetching.is_some_and(Fetching::can_go_on) || guests.any(Guest::can_go_on)
    }

    /// When there is something to do without an event.
    pub fn next_deadline(&self) -> Option<u64> {
        let guests = self.guests.iter().flatten().map(Guest::deadline);
        let fetching = self.fetching.iter().map(|fetching| fetching.io.deadline());
        let idle = self.joining.as_ref().filter(|_| self.fetching.is_none());
        let joining = idle.map(|joining| joining.next_look());
        let others = joining.into_iter().chain(self.retry_at);
        guests.chain(fetching).chain(others).min()
    }

    /// Talks to the node at the other end of this stream.
    fn welcome(
        &mut self,
        mut stream: TcpStream,
        from: SocketAddr,
        registry: &Registry,
        responder: &mut Responder,
        now: u64,
    ) {
        let Some(place) = self.make_room() else {
            return;
        };
        let Some(cluster) = &mut responder.cluster else {
            return;
        };
        let token = Token(FIRST_GUEST + place);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, token, interest).is_err() {
            return;
        }
        let (party, keys) = cluster.node_mut().for_stream();
        let guest = Guest {
            io: Io::new(stream, true, now),
            offer: Offer::new(keys, party),
            from,
        };
        if let Some(slot) = self.guests.get_mut(place) {
            *slot = Some(guest);
        }
    }

    /// A place that is free, or that of whoever has been there for longest without having shown the key.
    fn make_room(&mut self) -> Option<usize> {
        if let Some(free) = self.guests.iter().position(Option::is_none) {
            return Some(free);
        }
        let guests = self.guests.iter().enumerate();
        let strangers = guests.filter_map(|(place, guest)| {
            let guest = guest.as_ref().filter(|guest| !guest.offer.is_proved())?;
            Some((guest.io.began, place))
        });
        strangers.min().map(|(_, place)| place)
    }

    /// A round: accepts, gives a slice to one of the others, takes one, and looks for who may give one.
    pub fn serve(&mut self, registry: &Registry, responder: &mut Responder, now: u64) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.accepting = true;
        }
        if self.accepting {
            self.accept(registry, responder, now);
        }
        self.serve_guests(responder, now);
        if self.fetching.is_some() {
            self.fetch_on(responder, now);
        } else if self.joining.is_some() {
            self.look_for_table(registry, responder, now);
        }
    }

    fn accept(&mut self, registry: &Registry, responder: &mut Responder, now: u64) {
        for _ in 0..ACCEPTS {
            let accepted = self.listeners.iter().find_map(|l| match l.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                other => Some(other),
            });
            match accepted {
                None => {
                    self.accepting = false;
                    return;
                }
                Some(Ok((stream, from))) => {
                    let cluster = responder.cluster.as_ref();
                    if cluster.is_some_and(|cluster| cluster.node().has_link_to(from.ip())) {
                        self.welcome(stream, from, registry, responder, now);
                    }
                }
                Some(Err(error)) if sockets::is_of_one_connection(&error) => {}
                Some(Err(_)) => {
                    self.accepting = false;
                    self.retry_at = Some(now + RETRY);
                    return;
                }
            }
        }
    }

    fn serve_guests(&mut self, responder: &Responder, now: u64) {
        let Some(cluster) = &responder.cluster else {
            return;
        };
        let node = cluster.node();
        let giving = self.guests.iter().flatten();
        let giving = giving.filter(|guest| guest.offer.is_giving()).count();
        let host = Host {
            is_whole: !node.is_joining,
            has_place: giving < MOST_SERVED,
            peer_timeout: node.peer_timeout(),
            hears: &|id| node.hears(id),
        };
        self.turn = (self.turn + 1) % GUESTS;
        let mut may_step = true;
        for place in (self.turn..GUESTS).chain(0..self.turn) {
            let Some(slot) = self.guests.get_mut(place) else {
                continue;
            };
            let Some(guest) = slot else {
                continue;
            };
            match guest.turn(&host, responder, &mut may_step, now) {
                Ok(false) => {}
                Ok(true) => {
                    guest.tell(now);
                    *slot = None;
                }
                Err(trouble) => {
                    let from = guest.from;
                    log::info(format_args!("cluster: stream from {from} ended: {trouble}"));
                    *slot = None;
                }
            }
        }
    }

    fn fetch_on(&mut self, responder: &mut Responder, now: u64) {
        let Some(fetching) = &mut self.fetching else {
            return;
        };
        let turn = fetching.turn(responder, now);
        // Who only says that it has no table takes no count away.
        if let (true, Some(cluster)) = (fetching.fetch.has_begun(), &mut responder.cluster) {
            cluster.node_mut().note_counts();
        }
        match turn {
            Ok(false) => {}
            Ok(true) => {
                let taken = fetching.fetch.taken();
                let (from, ms) = (fetching.from, now - fetching.io.began);
                let size = Size(taken.torrents, taken.peers);
                log::line(format_args!(
                    "cluster: whole: {size} in {} bytes from {from}, within {ms} ms",
                    taken.bytes
                ));
                if taken.left_out > 0 {
                    log::line(format_args!(
                        "cluster: no room for {} peer{} more (--max-peers, --max-torrents)",
                        taken.left_out,
                        plural(taken.left_out)
                    ));
                }
                self.end(responder);
            }
            Err(trouble) => {
                let from = fetching.from;
                if let Some(joining) = &mut self.joining {
                    joining.fail(from, fetching.fetch.has_begun(), &trouble, now);
                }
                self.fetching = None;
                if let Some(cluster) = &mut responder.cluster {
                    cluster.node_mut().set_fetching(false);
                }
            }
        }
    }

    /// The node is whole.
    fn end(&mut self, responder: &mut Responder) {
        self.fetching = None;
        self.joining = None;
        if let Some(cluster) = &mut responder.cluster {
            let node = cluster.node_mut();
            node.is_joining = false;
            node.set_fetching(false);
        }
    }

    /// Begins to fetch the table of the next node that may have one, or finds that there is none.
    fn look_for_table(&mut self, registry: &Registry, responder: &mut Responder, now: u64) {
        let (Some(joining), Some(cluster)) = (&mut self.joining, &mut responder.cluster) else {
            return;
        };
        if now < joining.next_look() {
            return;
        }
        let node = cluster.node_mut();
        let is_alone = !node.reports().any(|report| report.is_up);
        if now >= joining.until {
            log::line(format_args!(
                "cluster: {}",
                match (is_alone, joining.has_failed) {
                    (true, _) => "no other node is there",
                    (false, false) => "the other nodes have started just now too",
                    (false, true) => "nobody gave a table: what is missing comes by repair",
                }
            ));
            node.is_joining = false;
            self.joining = None;
            return;
        }
        joining.next_look = now + LOOK;
        if is_alone || !node.is_sure_of_time() {
            return;
        }
        let seen_at = joining.see(now);
        if node.is_missing_peers() && now < seen_at + GATHER {
            return;
        }
        let Some(from) = joining.next(node) else {
            joining.tried.clear();
            joining.next_look = now + AGAIN;
            return;
        };
        let stream = sockets::connect(source(&self.listeners, from), from);
        match stream.and_then(|stream| Fetching::new(stream, from, registry, node, now)) {
            Ok(fetching) => {
                node.set_fetching(true);
                self.fetching = Some(fetching);
            }
            Err(error) => joining.fail(from, false, &Trouble::Io(error), now),
        }
    }
}

/// The address to connect from: where other nodes know this one to be.
fn source(listeners: &[TcpListener], to: SocketAddr) -> Option<IpAddr> {
    let addresses = listeners.iter().filter_map(|l| l.local_addr().ok());
    let mut ours = addresses.map(|address| address.ip());
    ours.find(|ip| ip.is_ipv4() == to.is_ipv4() && !ip.is_unspecified())
}

impl Joining {
    fn new(now: u64) -> Joining {
        Joining {
            began: now,
            until: now + ALONE,
            seen_at: None,
            next_look: now,
            tried: Vec::new(),
            has_failed: false,
            told: Vec::new(),
        }
    }

    fn next_look(&self) -> u64 {
        self.until.min(self.next_look)
    }

    /// Another node is up; when the first was. However late that is, it is asked.
    fn see(&mut self, now: u64) -> u64 {
        let seen_at = *self.seen_at.get_or_insert(now);
        self.until = self.until.max(seen_at + 2 * GATHER);
        seen_at
    }

    /// The next node to ask; none if all have been.
    fn next(&mut self, node: &Node) -> Option<SocketAddr> {
        let mut up = node.reports().filter(|report| report.is_up);
        let next = up.find(|report| !self.tried.contains(&report.address))?;
        self.tried.push(next.address);
        Some(next.address)
    }

    /// A node gave nothing, or not all.
    fn fail(&mut self, from: SocketAddr, has_begun: bool, trouble: &Trouble, now: u64) {
        let later = now + ALONE;
        // One that has just started too knows no more than this one.
        let is_new = matches!(trouble, Trouble::Failure(Failure::Refused(Answer::Syncing)));
        self.has_failed |= !is_new;
        match trouble {
            _ if is_new => {}
            Trouble::Failure(Failure::Refused(Answer::Busy)) => self.until = later,
            _ if has_begun => self.until = later,
            _ => self.until = self.until.max(later.min(self.began + HOPELESS)),
        }
        let line = format!("cluster: no table from {from}: {trouble}");
        if !self.told.contains(&line) {
            log::line(format_args!("{line}"));
            self.told.push(line);
        }
    }
}

impl Io {
    fn new(stream: TcpStream, is_connected: bool, now: u64) -> Io {
        Io {
            stream,
            readable: is_connected,
            writable: is_connected,
            is_ended: false,
            out: Vec::new(),
            began: now,
            moved_at: now,
        }
    }

    fn deadline(&self) -> u64 {
        (self.moved_at + SILENT).min(self.began + LONGEST)
    }

    /// Reads up to so many bytes; none if there are none now.
    fn read<'a>(&mut self, input: &'a mut [u8], now: u64) -> io::Result<&'a [u8]> {
        match self.stream.read(input) {
            Ok(length) => {
                self.is_ended = length == 0;
                self.readable = length > 0;
                self.moved_at = now;
                Ok(input.get(..length).unwrap_or_default())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(&[])
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(&[]),
            Err(error) => Err(error),
        }
    }

    /// Writes what waits, as far as the system takes it.
    fn flush(&mut self, now: u64) -> io::Result<()> {
        while self.writable && !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(length) => {
                    self.out.drain(..length);
                    self.moved_at = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Guest {
    fn can_go_on(&self) -> bool {
        let has_more = !self.io.out.is_empty() || self.offer.is_giving();
        self.io.readable || self.io.writable && has_more
    }

    fn deadline(&self) -> u64 {
        match self.offer.is_proved() {
            true => self.io.deadline(),
            false => self.io.began + STRANGE,
        }
    }

    /// Hears, answers, and gives a slice if it may, in whose place nobody else then gets one. True when all
    /// has been said.
    fn turn(
        &mut self,
        host: &Host,
        responder: &Responder,
        may_step: &mut bool,
        now: u64,
    ) -> Result<bool, Trouble> {
        let (io, offer) = (&mut self.io, &mut self.offer);
        if io.readable {
            let mut input = [0; 256];
            let read = io.read(&mut input, now).map_err(Trouble::Io)?;
            offer.feed(read)?;
        }
        offer.converse(host, &responder.only_shard(), &mut io.out)?;
        io.flush(now).map_err(Trouble::Io)?;
        if *may_step && offer.is_giving() && io.out.is_empty() {
            *may_step = false;
            offer.step(&responder.only_shard(), &mut io.out)?;
            io.flush(now).map_err(Trouble::Io)?;
        }
        if offer.is_over() && io.out.is_empty() {
            return Ok(true);
        }
        if io.is_ended {
            return Err(Trouble::Closed);
        }
        if now >= self.deadline() {
            if self.offer.is_waiting() {
                self.offer.dismiss(host, &mut self.io.out);
                return self.io.flush(now).map(|()| true).map_err(Trouble::Io);
            }
            return Err(Trouble::TooSlow);
        }
        Ok(false)
    }

    /// Tells of a table that was given.
    fn tell(&self, now: u64) {
        let Some(written) = self.offer.given() else {
            return;
        };
        let (from, ms) = (self.from, now - self.io.began);
        let size = Size(written.torrents, written.peers);
        log::line(format_args!(
            "cluster: gave {size} to {from}, within {ms} ms"
        ));
    }
}

impl Fetching {
    fn new(
        mut stream: TcpStream,
        from: SocketAddr,
        registry: &Registry,
        node: &mut Node,
        now: u64,
    ) -> io::Result<Fetching> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(FETCH), interest)?;
        // The poll tells when it is connected, and of one that is already too.
        let mut io = Io::new(stream, false, now);
        let (party, keys) = node.for_stream();
        let fetch = Fetch::new(keys, party, node.peer_timeout(), &mut io.out);
        Ok(Fetching {
            io,
            fetch,
            from,
            has_work: false,
        })
    }

    fn can_go_on(&self) -> bool {
        let (io, fetch) = (&self.io, &self.fetch);
        let can_read = io.readable && !io.is_ended && fetch.room() > 0;
        self.has_work || can_read || io.writable && !io.out.is_empty()
    }

    /// Takes some of the table; true when that was all.
    fn turn(&mut self, responder: &mut Responder, now: u64) -> Result<bool, Trouble> {
        let (io, fetch) = (&mut self.io, &mut self.fetch);
        if io.writable && !io.out.is_empty() {
            // Why it could not be connected, if it could not.
            if let Some(error) = io.stream.take_error().map_err(Trouble::Io)? {
                return Err(Trouble::Io(error));
            }
            io.flush(now).map_err(Trouble::Io)?;
        }
        let room = fetch.room().min(INPUT);
        if io.readable && !io.is_ended && room > 0 {
            let mut input = [0; INPUT];
            let read = io.read(&mut input[..room], now).map_err(Trouble::Io)?;
            fetch.feed(read);
        }
        let rules = responder.rules.as_ref().map(SharedRules::read);
        let refuses = |hash: &InfoHash| {
            let refused = rules.as_ref().and_then(|rules| rules.refuses(hash));
            refused.is_some()
        };
        for _ in 0..STEPS {
            match fetch.step(&mut responder.only_shard(), &refuses, &mut io.out)? {
                Progress::Whole => return Ok(true),
                Progress::Underway => self.has_work = true,
                Progress::Waits => {
                    self.has_work = false;
                    break;
                }
            }
        }
        if self.has_work {
            return Ok(false);
        }
        if io.is_ended {
            return Err(Trouble::Closed);
        }
        match now >= io.deadline() {
            true => Err(Trouble::TooSlow),
            false => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining() -> Joining {
        Joining::new(1000)
    }

    fn refused(answer: Answer) -> Trouble {
        Failure::Refused(answer).into()
    }

    fn fail(joining: &mut Joining, has_begun: bool, trouble: &Trouble, now: u64) -> u64 {
        let site = SocketAddr::from(([192, 0, 2, 1], 6970));
        joining.fail(site, has_begun, trouble, now);
        joining.until
    }

    #[test]
    fn who_has_just_started_too_is_not_waited_for() {
        let mut joining = joining();
        let syncing = refused(Answer::Syncing);
        assert_eq!(fail(&mut joining, false, &syncing, 9000), 11_000);
        assert!(!joining.has_failed);
    }

    #[test]
    fn who_gives_nothing_is_waited_for_up_to_a_minute() {
        let mut joining = joining();
        let stranger = refused(Answer::Stranger);
        assert_eq!(fail(&mut joining, false, &stranger, 500), 11_000);
        assert_eq!(fail(&mut joining, false, &Trouble::Closed, 9000), 19_000);
        assert_eq!(fail(&mut joining, false, &Trouble::TooSlow, 55_000), 61_000);
        assert!(joining.has_failed);
    }

    #[test]
    fn who_is_busy_or_has_given_something_is_waited_for() {
        let mut joining = joining();
        let busy = refused(Answer::Busy);
        assert_eq!(fail(&mut joining, false, &busy, 100_000), 110_000);
        assert_eq!(fail(&mut joining, true, &Trouble::Closed, 200_000), 210_000);
    }
}
