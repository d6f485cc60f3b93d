//! The parent of several workers, with `--processes`: it starts them, tells them what to do, and starts
//! those again that die.
//!
//! It keeps what must outlive a worker: all sockets, so that what waits at them is not lost and a port below
//! 1024 need not be opened again; the rights of the start; what was put on the list since it was read; and the
//! memory in which workers count. It reads nothing that comes from a network, loads nothing and waits for
//! nothing but its workers: what may take long, such as saving, is done by a [`keeper`](crate::keeper) of each
//! worker that needs one.
//!
//! Each worker serves a socket of its own at every port; the system spreads clients over them. While a worker
//! is not there, or has not its table yet, another serves its sockets too.
//!
//! In the end all are told to stop. The gateway saves the state, so it ends last: when it is told that it is the
//! last, it has heard what the others had to tell.

use crate::access::Changes;
use crate::http::Listener;
use crate::log;
use crate::server::Socket;
use crate::sys::handover;
use crate::sys::process::{self, Child, Interest};
use crate::sys::signals::{self, Signal};
use crate::tracker::InfoHash;
use crate::worker::link::{self, Link, MOST_HASHES, Message};
use crate::worker::{GATEWAY, GIVES, TAKES};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

/// A worker that has not lived for so many milliseconds has died young. So many that do in a row are started
/// again at once; then each waits, from so many milliseconds up to so many.
const YOUNG: u64 = 10_000;
const AT_ONCE: u32 = 3;
const FIRST_WAIT: u64 = 1000;
const LONGEST_WAIT: u64 = 30_000;

/// Milliseconds after which forking is tried again when the system refuses.
const FORK_AGAIN: u64 = 1000;

/// Bytes that wait for a worker: changes of the list beyond that are sent when it has caught up.
const BEHIND: usize = 1 << 20;

/// Messages that are taken from a worker before it is another's turn.
const TURN: usize = 64;

/// Who this process is after a fork, or at the end.
pub enum Outcome {
    /// A worker that has just come to be.
    Worker(Seat),
    /// The parent; whether all ended as it should.
    Ended(bool),
}

/// What a worker gets of its parent.
pub struct Seat {
    pub number: usize,
    pub link: Link,
    /// Where streams to other workers come in.
    pub streams: UnixDatagram,
    /// Whether no other worker has a table.
    pub is_first: bool,
}

pub struct Parent {
    signals: mio::net::UnixStream,
    /// All sockets, to keep them.
    sockets: Vec<Vec<Socket>>,
    hands: Vec<Hand>,
    start: Instant,
    /// All have been ready.
    has_begun: bool,
    is_stopping: bool,
    /// The last one has been told that it is.
    is_last_told: bool,
    /// A worker did not end as it should.
    has_failed: bool,
    /// The gateway has been told to reload, and has not said when it did.
    is_reloading: bool,
    /// What has changed since the list was read.
    journal: Changes,
}

/// A worker, dead or alive.
#[derive(Default)]
struct Hand {
    running: Option<Running>,
    deaths: Deaths,
    start_at: Option<u64>,
    /// Who serves its sockets.
    served_by: Option<usize>,
}

struct Running {
    child: Child,
    link: Link,
    streams: UnixDatagram,
    since: u64,
    is_ready: bool,
    is_done: bool,
    /// It is to be told the changes behind this hash, or all.
    replay: Option<Option<InfoHash>>,
}

/// How often a worker has died young.
#[derive(Default)]
struct Deaths(u32);

impl Deaths {
    /// How long to wait after one that has lived for so long; milliseconds.
    fn wait(&mut self, lived: u64) -> u64 {
        self.0 = match lived < YOUNG {
            true => self.0.saturating_add(1),
            false => 0,
        };
        match self.0.checked_sub(AT_ONCE + 1) {
            Some(times) => (FIRST_WAIT << times.min(10)).min(LONGEST_WAIT),
            None => 0,
        }
    }
}

impl Parent {
    /// `sockets` are those of each worker.
    pub fn new(signals: mio::net::UnixStream, sockets: Vec<Vec<Socket>>) -> Parent {
        // The gateway first: it sees to the state that all begin with.
        let to_start = |number| Hand {
            start_at: (number == GATEWAY).then_some(0),
            ..Hand::default()
        };
        Parent {
            signals,
            hands: (0..sockets.len()).map(to_start).collect(),
            sockets,
            start: Instant::now(),
            has_begun: false,
            is_stopping: false,
            is_last_told: false,
            has_failed: false,
            is_reloading: false,
            journal: Changes::default(),
        }
    }

    /// Runs until all workers have ended for good, or, in a worker, until it has come to be. `begun` is called
    /// once when all workers are ready.
    pub fn run(&mut self, begun: &mut dyn FnMut()) -> io::Result<Outcome> {
        loop {
            let now = self.now();
            self.take_signals();
            if let Some(seat) = self.start_workers(now)? {
                return Ok(Outcome::Worker(seat));
            }
            if !self.has_begun
                && !self.is_stopping
                && (0..self.hands.len()).all(|n| self.is_ready(n))
            {
                self.has_begun = true;
                begun();
            }
            self.assign();
            self.replay();
            if self.is_stopping && self.hands.iter().all(|hand| hand.running.is_none()) {
                return Ok(Outcome::Ended(!self.has_failed));
            }
            self.wait()?;
            for number in 0..self.hands.len() {
                self.hear(number);
            }
        }
    }

    /// For a worker: what it does not serve now it may be told to serve later.
    pub fn into_sockets(mut self) -> Vec<Vec<Socket>> {
        for socket in self.sockets.iter_mut().flatten() {
            if let Socket::Http(Listener::Unix(_, file)) = socket {
                // It is the parent that removes it.
                std::mem::forget(file.take());
            }
        }
        std::mem::take(&mut self.sockets)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wait(&self) -> io::Result<()> {
        let now = self.now();
        let starts = self.hands.iter().filter_map(|hand| hand.start_at);
        let timeout = starts.min().map(|at| at.saturating_sub(now));
        let links = self.hands.iter().filter_map(|hand| hand.running.as_ref());
        let mut interests: Vec<Interest> = links
            .map(|running| Interest {
                fd: running.link.as_fd(),
                writable: running.link.waiting() > 0,
            })
            .collect();
        interests.push(Interest {
            fd: self.signals.as_fd(),
            writable: false,
        });
        process::wait(&interests, timeout)
    }

    fn take_signals(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.signals.read(&mut bytes), Ok(1..)) {}
        for signal in signals::take() {
            match signal {
                Signal::Stop => self.stop(),
                Signal::Save => self.tell(GATEWAY, &Message::Save),
                Signal::Reload if self.hands.get(GATEWAY).is_some_and(|h| h.running.is_some()) => {
                    self.is_reloading = true;
                    self.tell(GATEWAY, &Message::Reload);
                }
                Signal::Reload => self.reload(),
            }
        }
    }

    /// The gateway, if there is one, has begun to read the list anew: what it reports from here on is changed
    /// after that. All others do the same at the same point.
    fn reload(&mut self) {
        self.is_reloading = false;
        self.journal = Changes::default();
        for number in (0..self.hands.len()).filter(|number| *number != GATEWAY) {
            self.tell(number, &Message::Reload);
        }
    }

    fn tell(&mut self, number: usize, message: &Message) {
        let running = self
            .hands
            .get_mut(number)
            .and_then(|hand| hand.running.as_mut());
        if let Some(running) = running {
            running.link.send(message);
        }
    }

    fn stop(&mut self) {
        if self.is_stopping {
            return;
        }
        self.is_stopping = true;
        self.sockets.clear();
        for number in 0..self.hands.len() {
            self.tell(number, &Message::Stop);
            if let Some(hand) = self.hands.get_mut(number) {
                hand.start_at = None;
            }
        }
        self.tell_last();
    }

    /// Once none but the gateway is left, it is told so.
    fn tell_last(&mut self) {
        let mut others = self.hands.iter().skip(GATEWAY + 1);
        if self.is_stopping && !self.is_last_told && others.all(|hand| hand.running.is_none()) {
            self.is_last_told = true;
            self.tell(GATEWAY, &Message::Last);
        }
    }

    /// At the beginning, once the gateway is ready.
    fn start_others(&mut self) {
        let now = self.now();
        if !self.has_begun && !self.is_stopping {
            let others = self.hands.iter_mut().filter(|hand| hand.running.is_none());
            others.for_each(|hand| hand.start_at = Some(now));
        }
    }

    /// Starts what is due; in a worker, tells which it is.
    fn start_workers(&mut self, now: u64) -> io::Result<Option<Seat>> {
        for number in 0..self.hands.len() {
            let is_due = |hand: &Hand| hand.start_at.is_some_and(|at| at <= now);
            if !self.hands.get(number).is_some_and(is_due) {
                continue;
            }
            let has_table = (0..self.hands.len()).any(|number| self.is_ready(number));
            let is_first = !self.has_begun || !has_table;
            let (ours, theirs) = link::pair()?;
            let (our_streams, their_streams) = UnixDatagram::pair()?;
            our_streams.set_nonblocking(true)?;
            their_streams.set_nonblocking(true)?;
            match process::split() {
                Ok(None) => {
                    return Ok(Some(Seat {
                        number,
                        link: theirs,
                        streams: their_streams,
                        is_first,
                    }));
                }
                Ok(Some(child)) => self.has_started(number, child, (ours, our_streams), now),
                Err(error) if !self.has_begun => return Err(error),
                Err(error) => {
                    log::error(format_args!("cannot start worker {number}: {error}"));
                    if let Some(hand) = self.hands.get_mut(number) {
                        hand.start_at = Some(now + FORK_AGAIN);
                    }
                }
            }
        }
        Ok(None)
    }

    fn has_started(
        &mut self,
        number: usize,
        child: Child,
        (link, streams): (Link, UnixDatagram),
        now: u64,
    ) {
        log::line(format_args!("worker {number} is process {}", child.id()));
        let Some(hand) = self.hands.get_mut(number) else {
            return;
        };
        hand.start_at = None;
        hand.running = Some(Running {
            child,
            link,
            streams,
            since: now,
            is_ready: false,
            is_done: false,
            replay: Some(None),
        });
    }

    fn is_ready(&self, number: usize) -> bool {
        let running = self
            .hands
            .get(number)
            .and_then(|hand| hand.running.as_ref());
        running.is_some_and(|running| running.is_ready)
    }

    /// Sees to it that all sockets are served: each by its own worker, or by the next that is ready.
    fn assign(&mut self) {
        if !self.has_begun || self.is_stopping {
            return;
        }
        let count = self.hands.len();
        for number in 0..count {
            let mut candidates = (0..count).map(|step| (number + step) % count);
            let wanted = candidates.find(|candidate| self.is_ready(*candidate));
            let Some(hand) = self.hands.get_mut(number) else {
                continue;
            };
            let before = std::mem::replace(&mut hand.served_by, wanted);
            if before == wanted {
                continue;
            }
            let name = u8::try_from(number).unwrap_or(u8::MAX);
            if let Some(before) = before {
                self.tell(before, &Message::Leave(name));
            }
            if let Some(wanted) = wanted {
                self.tell(wanted, &Message::Serve(name));
            }
        }
    }

    /// Tells those that are new, or were behind, what has changed in the list, as they can take it.
    fn replay(&mut self) {
        for running in self
            .hands
            .iter_mut()
            .filter_map(|hand| hand.running.as_mut())
        {
            while running.link.waiting() == 0 {
                let Some(after) = running.replay else {
                    break;
                };
                let changes: Vec<(InfoHash, bool)> =
                    self.journal.after(after.as_ref(), MOST_HASHES).collect();
                running.replay = changes.last().map(|change| Some(change.0));
                for listed in [true, false] {
                    let of_kind = changes.iter().filter(|change| change.1 == listed);
                    send_changes(&mut running.link, listed, of_kind.map(|change| change.0));
                }
            }
        }
    }

    /// Takes what a worker reports, up to a bound; its end too.
    fn hear(&mut self, number: usize) {
        for _ in 0..TURN {
            let Some(running) = self
                .hands
                .get_mut(number)
                .and_then(|hand| hand.running.as_mut())
            else {
                return;
            };
            running.link.flush();
            match running.link.receive() {
                Ok(Some(Message::Ready)) => {
                    running.is_ready = true;
                    self.start_others();
                }
                Ok(Some(Message::Done)) => running.is_done = true,
                Ok(Some(Message::Ask)) => self.connect(number),
                Ok(Some(Message::Reload)) if number == GATEWAY => self.reload(),
                Ok(Some(Message::Changes { listed, hashes })) if number == GATEWAY => {
                    self.change(listed, hashes);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => return self.has_died(number),
            }
        }
    }

    /// Gives two workers a stream to each other: one that wants the table, and one that should have it. What
    /// fails is asked for again.
    fn connect(&self, asking: usize) {
        let count = self.hands.len();
        let mut others = (0..count).filter(|number| *number != asking);
        let Some(giving) = others.find(|number| self.is_ready(*number)) else {
            return;
        };
        let Ok((one, other)) = UnixStream::pair() else {
            return;
        };
        let are_ready = one.set_nonblocking(true).and(other.set_nonblocking(true));
        if are_ready.is_err() {
            return;
        }
        for (number, name, end) in [(asking, TAKES, one), (giving, GIVES, other)] {
            let hand = self
                .hands
                .get(number)
                .and_then(|hand| hand.running.as_ref());
            if let Some(running) = hand {
                let _ = handover::send(&running.streams, name, end.as_fd());
            }
        }
    }

    /// Notes what the gateway has changed in the list, and tells the others.
    fn change(&mut self, listed: bool, hashes: Vec<InfoHash>) {
        // Each worker says so itself when there are too many.
        let hashes = hashes.into_iter();
        let hashes: Vec<InfoHash> = hashes
            .filter(|hash| self.journal.set(*hash, listed))
            .collect();
        for hand in self.hands.iter_mut().skip(GATEWAY + 1) {
            let Some(running) = &mut hand.running else {
                continue;
            };
            match running.link.waiting() < BEHIND {
                true => send_changes(&mut running.link, listed, hashes.iter().copied()),
                false => running.replay = Some(None),
            }
        }
    }

    fn has_died(&mut self, number: usize) {
        let now = self.now();
        let Some(hand) = self.hands.get_mut(number) else {
            return;
        };
        let Some(running) = hand.running.take() else {
            return;
        };
        let id = running.child.id();
        let how = running.child.end();
        for hand in &mut self.hands {
            hand.served_by = hand.served_by.filter(|by| *by != number);
        }
        if number == GATEWAY && self.is_reloading {
            self.reload();
        }
        if !self.is_stopping || !running.is_done {
            let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
            log::error(format_args!(
                "worker {number} (process {id}) has ended: {how}"
            ));
        }
        if self.is_stopping {
            self.has_failed |= !running.is_done;
            return self.tell_last();
        }
        if !self.has_begun {
            // It has said why.
            self.has_failed = true;
            return self.stop();
        }
        let Some(hand) = self.hands.get_mut(number) else {
            return;
        };
        let wait = hand.deaths.wait(now - running.since);
        hand.start_at = Some(now + wait);
        match wait {
            0 => log::line(format_args!("worker {number} is started again")),
            _ => log::line(format_args!(
                "worker {number} is started again in {} s",
                wait / 1000
            )),
        }
    }
}

fn send_changes(link: &mut Link, listed: bool, hashes: impl Iterator<Item = InfoHash>) {
    let hashes: Vec<InfoHash> = hashes.collect();
    if !hashes.is_empty() {
        link.send(&Message::Changes { listed, hashes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_young_too_often_waits_longer_and_longer() {
        let mut deaths = Deaths::default();
        let waits: Vec<u64> = (0..12).map(|_| deaths.wait(YOUNG - 1) / 1000).collect();
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30]);
        assert_eq!(deaths.wait(YOUNG), 0);
        assert_eq!(deaths.wait(0), 0);
    }
}
