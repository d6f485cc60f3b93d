//! The loops and their threads: one loop for everything, or one for the chores and one for each thread that serves.

use crate::base::log;
use crate::base::random::Random;
use crate::base::text::reason;
use crate::http::{Policy, SharedLimits, Site};
use crate::responder::Responder;
use crate::server::{Chores, Crew, Live, Server, Serving, Socket};
use crate::stats::Board;
use crate::sys::uptime::Moment;
use crate::sys::{cores, memory};
use crate::udp::ConnectionIds;
use std::any::Any;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};

/// A batch of datagrams and its state take some 20 KiB of it.
const STACK_BYTES: usize = 512 * 1024;

/// [`Loops::new`] makes the loops from these.
pub struct Parts {
    /// When their clocks begin.
    pub start: Moment,
    pub responder: Responder,
    pub ids: ConnectionIds,
    pub chores: Chores,
    /// Of each thread that serves.
    pub sockets: Vec<Vec<Socket>>,
    /// The core of each of them, if they are pinned.
    pub cores: Vec<usize>,
    pub policy: Arc<Policy>,
    pub live: Arc<Live>,
    pub limits: Arc<SharedLimits>,
}

/// The loop of this thread, those of the others before they start, their threads after, and the means to end all.
pub struct Loops {
    own: Server,
    others: Vec<Server>,
    threads: Vec<Thread>,
    cores: Vec<usize>,
    crew: Option<Arc<Crew>>,
}

type Thread = JoinHandle<io::Result<()>>;

impl Loops {
    pub fn new(mut parts: Parts) -> io::Result<Loops> {
        let count = parts.sockets.len();
        let serving = |sockets: Vec<Socket>| {
            let site = Site::new(parts.policy.clone());
            Serving::new(sockets, parts.limits.clone(), site)
        };
        let (start, ids, live) = (parts.start, parts.ids, parts.live);
        let server = |responder, serving, chores| {
            Server::new(start, responder, ids.clone(), serving, chores, live.clone())
        };
        let mut others = Vec::new();
        if count > 1 {
            memory::use_one_heap();
            parts.responder.table.note_sweeps(0);
            let board = Board::new(count);
            parts.responder.board = board.clone();
            for (number, sockets) in parts.sockets.drain(..).enumerate() {
                let random = Random::seeded(getrandom::u64().map_err(io::Error::other)?);
                let responder = parts.responder.for_thread(random, board.of_thread(number));
                others.push(server(responder, Some(serving(sockets)), None)?);
            }
        }
        let (serving, chores) = (parts.sockets.pop().map(serving), Some(parts.chores));
        let own = server(parts.responder, serving, chores)?;
        let mut loops = Loops {
            own,
            others,
            threads: Vec::new(),
            cores: parts.cores,
            crew: None,
        };
        if count > 1 {
            loops.join()?;
        }
        Ok(loops)
    }

    /// Lets each loop wake, watch and end all others.
    fn join(&mut self) -> io::Result<()> {
        let loops = std::iter::once(&self.own).chain(&self.others);
        let members: io::Result<Vec<_>> = loops.map(Server::member).collect();
        let crew = Arc::new(Crew::new(members?));
        for server in self.others.iter_mut().chain([&mut self.own]) {
            server.crew = Some(crew.clone());
        }
        self.crew = Some(crew);
        Ok(())
    }

    /// Starts the other threads. If one cannot start, those that have started end.
    pub fn start(&mut self) -> io::Result<()> {
        for (number, server) in self.others.drain(..).enumerate() {
            let core = self.cores.get(number).copied();
            match spawn(number, core, server) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => return end(&mut self.threads, self.crew.as_deref(), Err(error)),
            }
        }
        Ok(())
    }

    /// Serves until a signal ends it. Returns false if the last save of the state failed. An error of one thread ends
    /// all.
    pub fn run(self) -> io::Result<bool> {
        let Loops {
            own,
            mut threads,
            crew,
            ..
        } = self;
        let result = end(&mut threads, crew.as_deref(), own.run());
        if result.is_ok() {
            log::line(format_args!("stopped"));
        }
        result
    }
}

/// Waits until all threads have ended, which an error of this thread makes them do. Returns the first error.
fn end<T>(threads: &mut Vec<Thread>, crew: Option<&Crew>, own: io::Result<T>) -> io::Result<T> {
    if let (Err(_), Some(crew)) = (&own, crew) {
        crew.stop();
    }
    threads.drain(..).fold(own, |result, thread| {
        // A thread that panics ends the process.
        let ended = thread.join().unwrap_or(Ok(()));
        result.and_then(|own| ended.map(|()| own))
    })
}

fn spawn(number: usize, core: Option<usize>, server: Server) -> io::Result<Thread> {
    let thread = Builder::new()
        .name(format!("announced-{number}"))
        .stack_size(STACK_BYTES);
    thread.spawn(move || {
        if let Some(Err(error)) = core.map(cores::pin) {
            let why = reason(&error);
            log::error(format_args!("cannot pin thread {number}: {why}"));
        }
        server.run().map(drop)
    })
}

/// Makes a panic in any thread end the process, under any Cargo profile.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place: &dyn Display = match panic.location() {
            Some(location) => location,
            None => &"an unknown place",
        };
        let message = message(panic.payload());
        log::error(format_args!(
            "panic in thread '{name}' at {place}: {message}"
        ));
        std::process::abort();
    }));
}

/// The message of a panic: `panic!` makes it a `&str` or a `String`.
fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let string = || payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(string).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Set in a child process of the test: the message of its panic.
    const PANIC: &str = "ANNOUNCED_TEST_PANIC";

    #[test]
    fn a_panic_in_any_thread_ends_the_process() {
        if let Ok(message) = std::env::var(PANIC) {
            return panic_in_a_thread(message);
        }
        let test = "startup::threads::tests::a_panic_in_any_thread_ends_the_process";
        for (given, told) in [("", "a literal"), ("made of 2 lines\n", "made of 2 lines?")] {
            let program = std::env::current_exe().expect("is known");
            let child = Command::new(program)
                .args(["--exact", test, "--nocapture"])
                .env(PANIC, given)
                .output()
                .expect("starts");
            let log = String::from_utf8_lossy(&child.stderr);
            assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{log}");
            let start = format!("announced: panic in thread 'announced-1' at {}:", file!());
            let lines: Vec<_> = log.lines().filter(|l| l.starts_with(&start)).collect();
            assert!(
                lines.len() == 1 && lines[0].ends_with(&format!(": {told}")),
                "{log}"
            );
        }
    }

    /// Returns only if the process does not end.
    fn panic_in_a_thread(message: String) {
        abort_on_panic();
        let thread = Builder::new().name("announced-1".to_owned());
        let panic = move || match message.is_empty() {
            true => panic!("a literal"),
            false => panic!("{message}"),
        };
        let thread = thread.spawn(panic).expect("starts");
        drop(thread.join());
    }
}
