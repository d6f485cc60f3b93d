//! The monitor: it starts the processes that work, again if they end, and ends them when the daemon has ended.
//!
//! Only it keeps the privileges of the start. It reads nothing from the daemon, so that no message can use them: the
//! end of the daemon is the end of a socket, and all that it does then is fixed before. On Linux it has no capability
//! but to become another user. It enters the root directory before its first child, as it could not do so later.

use super::{HELLO, Plan, frame};
use crate::base::text;
use crate::sys::capabilities::{self, SETGID, SETUID};
use crate::sys::process::{self, Forked};
use crate::sys::sandbox::{self, Role};
use crate::sys::uptime::Moment;
use crate::sys::{descriptors, privileges, signals};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

/// Milliseconds between two starts of a child.
const RESTART_MS: u16 = 1000;

/// Milliseconds that the worker has to finish when the daemon has ended. Then it is stopped, or its disk hangs.
const PATIENCE_MS: u16 = 10_000;

/// The two sockets of a child.
pub struct Ends {
    pub daemon: UnixStream,
    /// Nothing is sent. It is at its end when the daemon has ended.
    pub monitor: UnixStream,
}

impl Ends {
    /// Becomes the daemon's user, enters the sandbox, and tells the daemon that the child is ready, or why it is not.
    pub fn confine(&self, plan: &Plan, role: Role) -> io::Result<()> {
        let user = plan.identity.map_or(Ok(()), privileges::become_user);
        let confined = user.and_then(|()| sandbox::enter(role).map(drop));
        let why = confined.as_ref().err().map(text::reason);
        frame::send(&self.daemon, HELLO, why.unwrap_or_default().as_bytes())?;
        confined
    }
}

/// A process that works, and that is started again when it ends.
pub struct Child<'a> {
    work: &'a dyn Fn(Ends) -> io::Result<()>,
    /// Sends the daemon its end of each new stream.
    to_daemon: UnixStream,
    /// The process and its [`Ends::monitor`], which is at its end when the process is.
    running: Option<(Forked, UnixStream)>,
    started: Option<Moment>,
}

impl Child<'_> {
    pub fn new(to_daemon: UnixStream, work: &dyn Fn(Ends) -> io::Result<()>) -> Child<'_> {
        Child {
            work,
            to_daemon,
            running: None,
            started: None,
        }
    }

    /// Milliseconds until it is started; none while it runs.
    fn due_in(&self) -> Option<u16> {
        let since = self.started.map_or(u64::MAX, Moment::elapsed_ms);
        let since = u16::try_from(since).unwrap_or(RESTART_MS);
        let is_due = self.running.is_none();
        is_due.then_some(RESTART_MS.saturating_sub(since))
    }

    fn start(&mut self) -> io::Result<()> {
        self.started = Some(Moment::now());
        let (to_child, daemon) = UnixStream::pair()?;
        let (watch, monitor) = UnixStream::pair()?;
        let process = process::fork(|| {
            // The monitor sees that the process has ended. Nothing else would read an error.
            let _ = (self.work)(Ends { daemon, monitor });
        })?;
        self.running = Some((process, watch));
        descriptors::send(&self.to_daemon, &to_child)
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, watch)| watch.as_fd())
    }

    /// Waits until it ends by itself, for so many milliseconds, and then ends it.
    fn end(mut self, plan: &Plan, patience_ms: u16) {
        let began = Moment::now();
        let left = || u64::from(patience_ms).saturating_sub(began.elapsed_ms());
        if let Some((_, watch)) = &self.running {
            // The process has ended already if this fails.
            let _ = watch.shutdown(Shutdown::Write);
        }
        while self.running.is_some() && left() > 0 {
            let left = u16::try_from(left()).unwrap_or(patience_ms);
            if let Ok([true]) = process::wait_readable([self.watch()], Some(left)) {
                self.running = None;
            }
        }
        if let Some((process, _)) = self.running {
            let user = plan.identity.map_or_else(privileges::user, |user| user.uid);
            // Without a capability for it, root cannot end the process of another user. If this fails, it has ended.
            let _ = privileges::acting_as(user, || process.kill());
        }
    }
}

/// Runs the children until the daemon has ended, which is the end of `daemon`. `log` is passed on to them.
pub fn run(
    plan: &Plan,
    daemon: &UnixStream,
    log: Option<&UnixDatagram>,
    mut children: [Option<Child>; 2],
) -> io::Result<()> {
    signals::ignore()?;
    let mut kept = vec![daemon.as_fd()];
    kept.extend(log.map(AsFd::as_fd));
    kept.extend(plan.pidfile.iter().flat_map(|pidfile| pidfile.fds()));
    kept.extend(
        children
            .iter()
            .flatten()
            .map(|child| child.to_daemon.as_fd()),
    );
    process::keep_only(&kept);
    if let Some(root) = &plan.root {
        privileges::enter(root)?;
    }
    match plan.identity {
        Some(_) => capabilities::keep_only(&[SETUID, SETGID])?,
        // A service manager that gave another user some may also forbid the call.
        None => capabilities::keep_only(&[]).unwrap_or_default(),
    }
    sandbox::enter(Role::Monitor)?;
    while !turn(daemon, &mut children)? {}
    if let Some(pidfile) = &plan.pidfile {
        // A file that stays is not locked, and no error for the next daemon.
        let _ = pidfile.remove();
    }
    let [worker, resolver] = children;
    // A name server may not answer for long.
    resolver.into_iter().for_each(|child| child.end(plan, 0));
    worker
        .into_iter()
        .for_each(|child| child.end(plan, PATIENCE_MS));
    Ok(())
}

/// Starts children that are due, and waits for the next thing to do; whether the daemon has ended.
fn turn(daemon: &UnixStream, children: &mut [Option<Child>; 2]) -> io::Result<bool> {
    for child in children.iter_mut().flatten() {
        if child.due_in() == Some(0) {
            // Retried as if the child had ended.
            let _ = child.start();
        }
    }
    let timeout = children.iter().flatten().filter_map(Child::due_in).min();
    let [worker, resolver] = &children;
    let [worker, resolver] = [worker, resolver].map(|child| child.as_ref()?.watch());
    match process::wait_readable([Some(daemon.as_fd()), worker, resolver], timeout) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
        ready => {
            let [is_over, ended @ ..] = ready?;
            for (child, has_ended) in children.iter_mut().zip(ended) {
                if let (Some(child), true) = (child, has_ended) {
                    child.running = None;
                }
            }
            Ok(is_over)
        }
    }
}
