//! The poll loop: which source has its turn, and what time it is.
//!
//! With one thread, one loop serves clients and does the chores between two turns. With more, each thread has a loop
//! that only serves, over sockets of its own, and the first thread's loop does the chores and serves no client:
//! a loop with chores would delay its whole share of clients. The threads of a [`Crew`] share the table, and tell
//! each other when to stop.

mod chores;
mod cluster;
mod crew;
mod serving;

pub use chores::{Chores, Fifos};
pub use cluster::Cluster;
pub use crew::Crew;
pub use serving::{Serving, Socket};

use crate::http::{Context, Site};
use crate::responder::Responder;
use crate::state::wall_ms;
use crate::sys::uptime::Moment;
use crate::udp::ConnectionIds;
use mio::{Events, Poll, Registry, Token, Waker};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds after which the end no longer waits for replies to be taken.
const FAREWELL_MS: u64 = 800;

/// Milliseconds after which a thread that waits for the sweep looks again.
const HELD_MS: u64 = 10;

/// Another thread has something to say.
const WAKE: Token = Token(8);

/// Tokens below are the chores', but for [`WAKE`]. From here on there are sockets and connections, and behind them
/// streams between nodes.
const FIRST_SOCKET: usize = 9;

/// One thread's loop.
pub struct Server {
    poll: Poll,
    responder: Responder,
    ids: ConnectionIds,
    serving: Option<Serving>,
    chores: Option<Chores>,
    crew: Option<Arc<Crew>>,
    /// Sources that may have more to do, although no new event will tell.
    busy: Busy,
    start: Moment,
    stop_at: Option<u64>,
}

/// Tokens of sources that have a turn in the next round too.
#[derive(Default)]
struct Busy(Vec<Token>);

impl Busy {
    pub fn add(&mut self, token: Token) {
        if !self.0.contains(&token) {
            self.0.push(token);
        }
    }
}

/// A source of events uses these during its turn.
struct Round<'a> {
    registry: &'a Registry,
    responder: &'a mut Responder,
    ids: &'a ConnectionIds,
    busy: &'a mut Busy,
    /// Milliseconds since the start.
    now: u64,
}

impl Round<'_> {
    fn context<'b>(&'b mut self, site: &'b mut Site) -> Context<'b> {
        Context {
            registry: self.registry,
            responder: self.responder,
            site,
            now: self.now,
        }
    }
}

impl Server {
    /// A loop whose clock begins at `start`, which all threads share as they share the table.
    pub fn new(start: Moment, responder: Responder, ids: ConnectionIds) -> io::Result<Server> {
        Ok(Server {
            poll: Poll::new()?,
            responder,
            ids,
            serving: None,
            chores: None,
            crew: None,
            busy: Busy::default(),
            start,
            stop_at: None,
        })
    }

    /// From now on it serves clients.
    pub fn serve(&mut self, mut serving: Serving) -> io::Result<()> {
        serving.register(self.poll.registry())?;
        self.serving = Some(serving);
        Ok(())
    }

    /// From now on it does the chores.
    pub fn do_chores(&mut self, mut chores: Chores) -> io::Result<()> {
        chores.register(self.poll.registry())?;
        self.chores = Some(chores);
        Ok(())
    }

    /// Other threads wake this loop with it.
    pub fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    pub fn join(&mut self, crew: Arc<Crew>) {
        self.crew = Some(crew);
    }

    /// Serves until a signal ends it; false if the state was to be saved then and could not be.
    /// On an error the other threads stop too.
    pub fn run(mut self) -> io::Result<bool> {
        let result = self.run_rounds();
        if result.is_err() {
            self.stop(self.now());
        }
        result
    }

    fn run_rounds(&mut self) -> io::Result<bool> {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = self.now();
            self.responder.advance(now);
            self.ids
                .advance(if self.ids.are_shared { wall_ms() } else { now });
            for token in std::mem::take(&mut self.busy.0) {
                self.turn(token, false, now);
            }
            for event in &events {
                self.turn(event.token(), event.is_read_closed(), now);
            }
            self.finish_round(now);
            if self.has_stopped(now) {
                return Ok(self.chores.as_ref().is_none_or(Chores::is_saved));
            }
        }
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.start.elapsed_ms()
    }

    /// How long there is nothing to do but wait; none is for ever.
    fn timeout(&self) -> Option<Duration> {
        let (serving, chores) = (self.serving.as_ref(), self.chores.as_ref());
        if chores.is_none() && self.responder.is_held() {
            return Some(Duration::from_millis(HELD_MS));
        }
        let is_busy = !self.busy.0.is_empty()
            || serving.is_some_and(Serving::is_busy)
            || chores.is_some_and(|chores| chores.is_busy());
        if is_busy {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            serving.and_then(Serving::next_deadline),
            chores.and_then(|chores| chores.next_deadline(&self.responder)),
            // Chores tell when they are done.
            self.stop_at.filter(|_| serving.is_some()),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now())))
    }

    /// Lets a source do a bounded piece of what waits.
    fn turn(&mut self, token: Token, hung_up: bool, now: u64) {
        if token == WAKE {
            return self.obey(now);
        }
        let (mut round, serving, chores) = self.round(now);
        let is_held = round.responder.is_held();
        match (chores, serving) {
            (Some(chores), _) if Chores::owns(token) => chores.turn(token, is_held, &mut round),
            (_, Some(serving)) => serving.turn(token, hung_up, is_held, &mut round),
            _ => {}
        }
    }

    /// Ends a round: does the work that is due at this time, and the work that all clients share.
    fn finish_round(&mut self, now: u64) {
        // First, so that the last changes leave in this round.
        if self.chores.as_ref().is_some_and(Chores::is_to_stop) {
            self.stop(now);
        }
        let (mut round, serving, chores) = self.round(now);
        let is_held = round.responder.is_held();
        if let Some(serving) = serving.filter(|_| !is_held) {
            serving.serve_connections(&mut round);
        }
        round.responder.publish();
        if let Some(chores) = chores {
            chores.step(is_held, &mut round);
        }
    }

    /// The two parts of the loop, and what a turn of either works with.
    fn round(&mut self, now: u64) -> (Round<'_>, Option<&mut Serving>, Option<&mut Chores>) {
        let round = Round {
            registry: self.poll.registry(),
            responder: &mut self.responder,
            ids: &self.ids,
            busy: &mut self.busy,
            now,
        };
        (round, self.serving.as_mut(), self.chores.as_mut())
    }

    /// Stops if that is why another thread woke this one.
    fn obey(&mut self, now: u64) {
        if self.crew.as_ref().is_some_and(|crew| crew.is_stopping()) {
            self.stop(now);
        }
    }

    /// Closes all that waits for requests; replies that are on their way may still leave.
    fn stop(&mut self, now: u64) {
        if self.stop_at.is_none() {
            self.stop_at = Some(now + FAREWELL_MS);
            if let Some(serving) = &mut self.serving {
                serving.wind_up();
                // Their events do not come twice.
                self.busy.0.retain(|token| Chores::owns(*token));
            }
            if let Some(crew) = &self.crew {
                crew.stop(self.serving.is_some());
            }
        }
        // No announce that was answered may be missing in the state.
        let is_closed = self.crew.as_ref().is_none_or(|crew| crew.is_closed());
        if let (Some(chores), true) = (&mut self.chores, is_closed) {
            chores.wind_up(&self.responder);
        }
    }

    /// Whether the end has come: replies have left or had their time, and the chores are done.
    fn has_stopped(&self, now: u64) -> bool {
        let Some(end) = self.stop_at else {
            return false;
        };
        let is_served = end <= now || self.serving.as_ref().is_none_or(Serving::is_over);
        is_served
            && self
                .chores
                .as_ref()
                .is_none_or(|chores| chores.are_over(now))
    }
}
