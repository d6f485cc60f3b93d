//! What a server does as one of several: it obeys its parent, serves the sockets that it is told to serve, and
//! keeps its table the same as those of the others.

use super::{
    FIRST_SOCKET, GROUP, LIST_ADD, LIST_REMOVE, ORDERS, STREAMS, SWEEP_BUDGET, Server, Socket,
};
use crate::http::Listener;
use crate::log;
use crate::sys::handover;
use crate::worker::group::MOST;
use crate::worker::link::Message;
use crate::worker::{GIVES, Place, TAKES};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Packets from other workers that are taken in a turn.
const PACKETS_A_TURN: usize = 64;

/// Messages of the parent that are taken in a turn.
const MESSAGES_A_TURN: usize = 16;

/// Bytes that may wait for the parent before FIFOs are read no further.
const MOST_WAITING: usize = 1 << 20;

/// Milliseconds after which a stream that did not come is asked for again.
const ASK_AGAIN: u64 = 500;

/// Milliseconds after which packets that had no room are tried again.
const ROOM_AGAIN: u64 = 10;

pub(super) fn register(place: &Place, registry: &Registry) -> io::Result<()> {
    let (link, group) = (place.link.as_fd(), place.group.as_fd());
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&link.as_raw_fd()), ORDERS, both)?;
    let streams = place.streams.as_fd();
    registry.register(
        &mut SourceFd(&streams.as_raw_fd()),
        STREAMS,
        Interest::READABLE,
    )?;
    registry.register(&mut SourceFd(&group.as_raw_fd()), GROUP, Interest::READABLE)
}

impl Server {
    /// Takes what the parent says, up to a bound.
    pub(super) fn obey(&mut self, now: u64) {
        for _ in 0..MESSAGES_A_TURN {
            let Some(place) = &mut self.place else {
                return;
            };
            place.link.flush();
            match place.link.receive() {
                Ok(Some(message)) => self.follow(message, now),
                Ok(None) => return self.read_fifos_on(),
                // Without a parent there is nobody to start what dies. All end, as at its word.
                Err(_) => {
                    self.stop(now);
                    return self.become_last();
                }
            }
        }
        self.is_busy_with(ORDERS);
    }

    fn follow(&mut self, message: Message, now: u64) {
        match message {
            Message::Stop => self.stop(now),
            Message::Last => self.become_last(),
            Message::Save => self.save(),
            Message::Reload => self.reload(),
            Message::Serve(number) => self.take_over(number.into()),
            Message::Leave(number) => self.leave(number.into()),
            Message::Changes { listed, hashes } => {
                let flag = if listed {
                    "--list-add"
                } else {
                    "--list-remove"
                };
                if let Some(access) = &mut self.service.access {
                    access.change(flag, &hashes, listed);
                }
            }
            // Those are to the parent.
            Message::Ready | Message::Ask | Message::Done => {}
        }
    }

    /// The sockets of a worker, by their numbers among all.
    fn sockets_of(&self, worker: usize) -> std::ops::Range<usize> {
        let count = self.place.as_ref().map_or(1, |place| place.count.max(1));
        let share = self.sockets.len() / count;
        let first = worker.saturating_mul(share).min(self.sockets.len());
        first..first + share.min(self.sockets.len() - first)
    }

    fn take_over(&mut self, worker: usize) {
        let is_own = self
            .place
            .as_ref()
            .is_some_and(|place| place.number == worker);
        for index in self.sockets_of(worker) {
            let is_shared = matches!(
                self.sockets.get(index),
                Some(Socket::Http(Listener::Unix(..)))
            );
            // A Unix socket is the same for all of them.
            if !is_own && is_shared {
                continue;
            }
            if let Err(error) = self.begin_serving(index) {
                log::error(format_args!(
                    "cannot serve a socket of worker {worker}: {error}"
                ));
            }
        }
    }

    pub(super) fn begin_serving(&mut self, index: usize) -> io::Result<()> {
        let registry = self.poll.registry();
        let token = Token(FIRST_SOCKET + index);
        if let (Some(socket), Some(served @ false)) =
            (self.sockets.get_mut(index), self.served.get_mut(index))
        {
            match socket {
                Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE)?,
                Socket::Http(listener) => {
                    registry.register(listener.source(), token, Interest::READABLE)?;
                }
            }
            *served = true;
        }
        Ok(())
    }

    fn leave(&mut self, worker: usize) {
        for index in self.sockets_of(worker) {
            self.end_serving(index);
        }
    }

    /// Other processes have the socket too, so that closing it is not enough for the poll to forget it.
    pub(super) fn end_serving(&mut self, index: usize) {
        let registry = self.poll.registry();
        if let (Some(socket), Some(served @ true)) =
            (self.sockets.get_mut(index), self.served.get_mut(index))
        {
            // An error would be that it is not registered.
            let _ = match socket {
                Socket::Udp(socket) => registry.deregister(socket),
                Socket::Http(listener) => registry.deregister(listener.source()),
            };
            *served = false;
            self.busy
                .retain(|token| *token != Token(FIRST_SOCKET + index));
        }
    }

    /// Takes the streams to other workers that the parent hands over.
    pub(super) fn take_streams(&mut self, now: u64) {
        while let Some(place) = &self.place {
            let Ok((name, fd)) = handover::receive(&place.streams) else {
                break;
            };
            // Nothing is asked of it but what a stream socket of any family does.
            let stream = TcpStream::from(fd);
            match name {
                TAKES => self.joins.hand_over(stream),
                GIVES => {
                    let registry = self.poll.registry();
                    self.joins
                        .welcome(stream, None, registry, &mut self.service, now);
                }
                _ => {}
            }
        }
    }

    /// Tells the parent once the table is whole; until then, asks it for a stream to a worker that has one.
    pub(super) fn become_ready(&mut self, now: u64) {
        let Some(place) = &mut self.place else {
            return;
        };
        let is_syncing = self.service.is_syncing();
        if let (false, Some(machine)) = (is_syncing, &self.service.machine) {
            machine.tell_whole();
        }
        if !self.is_ready && (place.is_first || !is_syncing) {
            self.is_ready = true;
            place.link.send(&Message::Ready);
        }
        // Those that start with the gateway have what it has. It looks at other sites.
        let may_ask = !place.is_first || !place.is_gateway();
        if is_syncing && may_ask && now >= self.ask_at && self.joins.wants_stream() {
            self.ask_at = now + ASK_AGAIN;
            place.link.send(&Message::Ask);
        }
    }

    /// Whether there may be nothing but a part of what was saved before.
    pub(super) fn is_partial(&self) -> bool {
        self.place.is_some() && !self.is_ready
    }

    /// Takes what other workers have sent, up to a bound.
    pub(super) fn hear_group(&mut self) {
        let Some(place) = &mut self.place else {
            return;
        };
        let mut datagram = [0; MOST];
        let may_be_more = self.service.with_cluster(&mut |cluster, tracker, refuses| {
            for _ in 0..PACKETS_A_TURN {
                match place.group.receive(&mut datagram) {
                    Some((from, packet)) => cluster.hear(from, packet, tracker, refuses),
                    None => return false,
                }
            }
            true
        });
        if may_be_more {
            self.is_busy_with(GROUP);
        }
    }

    /// Whether this worker still waits for the end of the others.
    pub(super) fn awaits_others(&self) -> bool {
        let is_waiting = |place: &Place| place.is_gateway() && !self.is_last;
        self.place.as_ref().is_some_and(is_waiting)
    }

    /// The others have ended: what they had to tell is there to be read.
    fn become_last(&mut self) {
        if std::mem::replace(&mut self.is_last, true) {
            return;
        }
        while self.is_held() {
            self.service.sweep(SWEEP_BUDGET);
        }
        self.hear_group();
        while self.busy.contains(&GROUP) {
            self.busy.retain(|token| *token != GROUP);
            self.hear_group();
        }
        match (&mut self.saves, self.is_ready) {
            (Some(saves), true) => saves.request(),
            (Some(_), false) => {
                log::error(format_args!("the table is not whole yet: not saved"));
                self.saves = None;
                self.is_unsaved = true;
            }
            (None, _) => {}
        }
    }

    /// Tells the parent what a FIFO has changed.
    pub(super) fn pass_on(&mut self, hashes: Vec<crate::tracker::InfoHash>, listed: bool) {
        if let Some(place) = self.place.as_mut().filter(|_| !hashes.is_empty()) {
            place.link.send(&Message::Changes { listed, hashes });
        }
    }

    /// Whether the FIFOs must wait for the parent to take what they gave.
    pub(super) fn is_behind(&mut self) -> bool {
        let is_behind = |place: &Place| place.link.waiting() > MOST_WAITING;
        self.fifos_wait |= self.place.as_ref().is_some_and(is_behind);
        self.fifos_wait
    }

    fn read_fifos_on(&mut self) {
        let has_room = |place: &Place| place.link.waiting() == 0;
        if self.fifos_wait && self.place.as_ref().is_some_and(has_room) {
            self.fifos_wait = false;
            self.is_busy_with(LIST_ADD);
            self.is_busy_with(LIST_REMOVE);
        }
    }

    /// When packets that had no room are to be tried again.
    pub(super) fn next_flush(&self, now: u64) -> Option<u64> {
        let is_waiting = |place: &Place| place.group.is_waiting();
        self.place
            .as_ref()
            .is_some_and(is_waiting)
            .then_some(now + ROOM_AGAIN)
    }

    /// Tells the parent that all is well.
    pub(super) fn report(&mut self, message: &Message) {
        if let Some(place) = &mut self.place {
            place.link.send(message);
        }
    }
}
