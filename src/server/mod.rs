//! The poll loop: it gives each source its turn, and keeps the time.
//!
//! With one thread, one loop serves clients and does the chores between two turns. With more, each thread has a loop
//! that only serves, over sockets of its own, and the first thread's loop does the chores and serves no client:
//! a loop with chores would delay its whole share of clients. The threads share the table, and a [`Crew`] to stop.
//!
//! A round is a poll, a turn for each source with an event, and the work due. A turn is a bounded piece of work. A
//! source that may have more is noted as busy and has a turn in the next round too, as polling is edge-triggered.

mod chores;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "no_cluster.rs"]
mod cluster;
mod manager;
mod pace;
#[cfg(test)]
mod pace_tests;
mod reload;
mod serving;

pub use chores::Chores;
pub use cluster::Cluster;
pub use manager::Manager;
pub use pace::{Pace, Rule};
pub use reload::{Live, Reload, Settings, log_connections, max_connections};
pub use serving::{Serving, Socket};

use crate::http::{Context, Site};
use crate::responder::Responder;
use crate::state::wall_ms;
use crate::sys::uptime::Moment;
use crate::udp::ConnectionIds;
use mio::{Events, Poll, Registry, Token, Waker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// Milliseconds after a stop for which requests that are coming in are read.
const REQUESTS_MS: u64 = 100;

/// Milliseconds after a stop for which replies may still be sent.
const FAREWELL_MS: u64 = 800;

/// Milliseconds between two checks by a thread that waits for the sweep.
const HELD_MS: u64 = 10;

/// Another thread stops, or looks whether this one has turns.
const WAKE: Token = Token(8);

/// The first token of sockets. Behind them are connections, and behind those links to other nodes. Tokens below are of
/// the chores, but for [`WAKE`].
const FIRST_SOCKET: usize = 10;

/// The loop of one thread.
pub struct Server {
    poll: Poll,
    responder: Responder,
    ids: ConnectionIds,
    serving: Option<Serving>,
    chores: Option<Chores>,
    live: Arc<Live>,
    /// The generation of the settings in use.
    generation: usize,
    /// None with one thread.
    pub crew: Option<Arc<Crew>>,
    /// For the crew.
    has_turned: Arc<AtomicBool>,
    /// Sources that have a turn in the next round without an event.
    busy: Vec<Token>,
    start: Moment,
    /// Set when the loop is stopping.
    stop: Option<Stop>,
}

/// A stop under way.
struct Stop {
    began: u64,
    /// No request is answered any more.
    is_closed: bool,
}

/// All threads, for the stop: if one stops, all do. And for the watchdog, which each must have a turn for.
pub struct Crew {
    /// The thread with the chores is the first.
    members: Vec<Member>,
    is_stopping: AtomicBool,
    /// Serving threads that accept no more requests.
    closed: AtomicUsize,
}

/// A thread.
pub struct Member {
    waker: Waker,
    has_turned: Arc<AtomicBool>,
}

impl Crew {
    pub fn new(members: Vec<Member>) -> Crew {
        Crew {
            members,
            is_stopping: AtomicBool::new(false),
            closed: AtomicUsize::new(0),
        }
    }

    /// Whether each thread has finished a turn since this was last true. Wakes the others, which may have nothing to
    /// do. The thread with the chores judges alone at the end, when others have ended.
    fn has_turned(&self) -> bool {
        let mut members = self.members.iter();
        let all = self.is_stopping() || members.all(|member| member.has_turned.load(Relaxed));
        for (number, member) in self.members.iter().enumerate() {
            if all {
                member.has_turned.store(false, Relaxed);
            }
            if number > 0 {
                // This fails only where the loop is gone.
                let _ = member.waker.wake();
            }
        }
        all
    }

    /// Stops all threads.
    pub fn stop(&self) {
        if !self.is_stopping.swap(true, SeqCst) {
            for member in &self.members {
                // This fails only where the loop is gone.
                let _ = member.waker.wake();
            }
        }
    }

    /// Notes that a serving thread accepts no more requests, for which the thread with the chores waits.
    fn close_one(&self) {
        self.closed.fetch_add(1, SeqCst);
        if let Some(member) = self.members.first() {
            let _ = member.waker.wake();
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Whether no thread accepts requests any more.
    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst) + 1 >= self.members.len()
    }
}

/// The context of a turn.
struct Round<'a> {
    registry: &'a Registry,
    responder: &'a mut Responder,
    ids: &'a ConnectionIds,
    live: &'a Live,
    busy: &'a mut Vec<Token>,
}

impl Round<'_> {
    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.responder.monitor.now
    }

    /// Has a source have a turn in the next round without an event.
    fn note_busy(&mut self, token: Token) {
        if !self.busy.contains(&token) {
            self.busy.push(token);
        }
    }

    fn context<'b>(&'b mut self, site: &'b mut Site) -> Context<'b> {
        Context {
            registry: self.registry,
            responder: self.responder,
            site,
        }
    }
}

impl Server {
    /// `start` is when the clock begins, which all threads share with the table.
    pub fn new(
        start: Moment,
        responder: Responder,
        ids: ConnectionIds,
        mut serving: Option<Serving>,
        mut chores: Option<Chores>,
        live: Arc<Live>,
    ) -> io::Result<Server> {
        let poll = Poll::new()?;
        if let Some(serving) = &mut serving {
            serving.register(poll.registry())?;
        }
        if let Some(chores) = &mut chores {
            chores.register(poll.registry())?;
        }
        Ok(Server {
            poll,
            responder,
            ids,
            serving,
            chores,
            live,
            generation: 0,
            crew: None,
            has_turned: Arc::default(),
            busy: Vec::new(),
            start,
            stop: None,
        })
    }

    /// By which the crew stops this loop, and watches it.
    pub fn member(&self) -> io::Result<Member> {
        Ok(Member {
            waker: Waker::new(self.poll.registry(), WAKE)?,
            has_turned: self.has_turned.clone(),
        })
    }

    /// Serves until a signal ends it. Returns false if the last save of the state failed. On an error the other threads
    /// stop too.
    pub fn run(mut self) -> io::Result<bool> {
        if let Some(chores) = &mut self.chores {
            chores.manager.begin_serving();
        }
        let result = self.run_rounds();
        if result.is_err() {
            self.begin_stop();
            self.close();
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
            let now = self.start.elapsed_ms();
            self.responder.advance(now);
            self.ids.advance(now, wall_ms);
            if let Some(settings) = self.live.newer_than(&mut self.generation) {
                settings.apply(&mut self.responder, self.serving.as_mut());
            }
            for token in std::mem::take(&mut self.busy) {
                self.turn(token, false);
            }
            for event in &events {
                self.turn(event.token(), event.is_read_closed());
            }
            self.finish_round();
            if self.has_stopped() {
                let chores = self.chores.as_ref();
                return Ok(chores.is_none_or(|chores| chores.is_saved(&self.responder)));
            }
        }
    }

    /// The time to wait for events; none without a limit.
    fn timeout(&self) -> Option<Duration> {
        let (serving, chores) = (self.serving.as_ref(), self.chores.as_ref());
        if chores.is_none() && self.responder.is_held() {
            return Some(Duration::from_millis(HELD_MS));
        }
        let is_busy = !self.busy.is_empty()
            || serving.is_some_and(Serving::is_busy)
            || chores.is_some_and(Chores::is_busy);
        if is_busy {
            return Some(Duration::ZERO);
        }
        let now = self.start.elapsed_ms();
        // A thread with chores alone does not wait for clients. After these times only the save is waited for, whose
        // end is an event, or is given up.
        let stop = self.stop.as_ref().filter(|_| serving.is_some());
        // By the time of the last round, as a round judges: one that has passed since then still has to wake the loop.
        let round = self.responder.monitor.now;
        let at = |ms| stop.map(|stop| stop.began + ms).filter(|at| *at > round);
        let deadlines = [
            serving.and_then(Serving::next_deadline),
            chores.and_then(|chores| chores.next_deadline(&self.responder)),
            at(REQUESTS_MS),
            at(FAREWELL_MS),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(now)))
    }

    fn turn(&mut self, token: Token, hung_up: bool) {
        if token == WAKE {
            if self.crew.as_ref().is_some_and(|crew| crew.is_stopping()) {
                self.begin_stop();
            }
            return;
        }
        let (mut round, serving, chores) = self.round();
        match (chores, serving) {
            (Some(chores), _) if Chores::owns(token) => chores.turn(token, &mut round),
            (_, Some(serving)) => serving.turn(token, hung_up, &mut round),
            _ => {}
        }
    }

    /// Does the work that is due by time.
    fn finish_round(&mut self) {
        // First, so that the last changes leave in this round.
        if self.chores.as_ref().is_some_and(Chores::is_to_stop) {
            self.begin_stop();
        }
        let (mut round, serving, _) = self.round();
        if let Some(serving) = serving.filter(|_| !round.responder.is_held()) {
            serving.serve_connections(&mut round);
        }
        self.go_on_stopping();
        let (mut round, _, chores) = self.round();
        round.responder.publish();
        if let Some(chores) = chores {
            chores.step(&mut round);
        }
        if let Some(chores) = &mut self.chores {
            chores.step_manager(self.responder.monitor.now, self.crew.as_deref());
        }
        if !self.has_turned.load(Relaxed) {
            self.has_turned.store(true, Relaxed);
        }
    }

    /// The context of a turn, and the two parts of the loop.
    fn round(&mut self) -> (Round<'_>, Option<&mut Serving>, Option<&mut Chores>) {
        let round = Round {
            registry: self.poll.registry(),
            responder: &mut self.responder,
            ids: &self.ids,
            live: &self.live,
            busy: &mut self.busy,
        };
        (round, self.serving.as_mut(), self.chores.as_mut())
    }

    /// Accepts no more datagrams and connections, and stops the other threads. Requests that are coming in, as when the
    /// signal finds a connection that was just accepted, are still answered for [`REQUESTS_MS`].
    fn begin_stop(&mut self) {
        if self.stop.is_none() {
            let (began, is_closed) = (self.responder.monitor.now, false);
            self.stop = Some(Stop { began, is_closed });
            if let Some(serving) = &mut self.serving {
                serving.begin_end();
                // Their sockets are gone.
                self.busy.retain(|token| Chores::owns(*token));
            }
            if let Some(crew) = &self.crew {
                crew.stop();
            }
        }
    }

    fn go_on_stopping(&mut self) {
        let Some(stop) = &self.stop else {
            return;
        };
        let has_time = self.responder.monitor.now < stop.began + REQUESTS_MS;
        let serving = self.serving.as_ref();
        if !serving.is_some_and(|serving| has_time && serving.awaits_requests()) {
            self.close();
        }
        // The state must have every announce that was answered.
        let is_closed = match &self.crew {
            Some(crew) => crew.is_closed(),
            None => self.stop.as_ref().is_some_and(|stop| stop.is_closed),
        };
        if let (Some(chores), true) = (&mut self.chores, is_closed) {
            chores.wind_up(&self.responder);
        }
    }

    /// Answers no more requests. Replies that are under way may still leave.
    fn close(&mut self) {
        let stop = self.stop.as_mut().filter(|stop| !stop.is_closed);
        if let (Some(stop), Some(serving)) = (stop, &mut self.serving) {
            stop.is_closed = true;
            serving.wind_up();
            if let Some(crew) = &self.crew {
                crew.close_one();
            }
        }
    }

    /// Whether replies have left, or had their time, and the chores are done.
    fn has_stopped(&self) -> bool {
        let now = self.responder.monitor.now;
        let (serving, chores) = (self.serving.as_ref(), self.chores.as_ref());
        let has_left =
            |stop: &Stop| stop.began + FAREWELL_MS <= now || serving.is_none_or(Serving::is_over);
        self.stop.as_ref().is_some_and(has_left) && chores.is_none_or(|chores| chores.are_over(now))
    }
}
