//! Messages to the service manager: systemd, or another that sets `NOTIFY_SOCKET`. See `sd_notify(3)`.

use super::Crew;
use crate::base::log;
use crate::base::text::reason;
use crate::state::sizes;
use crate::stats::history::Sample;
use crate::sys::manager;
use crate::sys::uptime::monotonic_us;
use std::os::unix::net::UnixDatagram;
use std::process;

/// Milliseconds until a message is sent again for which the manager had no room.
const RETRY_MS: u64 = 100;

/// Answers in the time within which the watchdog expects one.
const ANSWERS: u64 = 4;

/// Messages that may wait.
const MAX_WAITING: usize = 16;

/// Without a manager nothing is sent.
#[derive(Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    waiting: Vec<String>,
    retry_at: Option<u64>,
    status: String,
    is_reloading: bool,
    /// With a watchdog: milliseconds between two of its answers, and when the next is due.
    watch: Option<(u64, u64)>,
}

impl Manager {
    /// The manager that the environment names. Call it before the process forks or enters a root directory.
    pub fn open() -> Manager {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| match manager::connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                let (address, why) = (address.to_string_lossy(), reason(&error));
                log::error(format_args!("NOTIFY_SOCKET '{address}': {why}"));
                None
            }
        });
        let period = manager::watchdog_ms().map(|ms| (ms / ANSWERS).max(1));
        Manager {
            watch: period
                .filter(|_| socket.is_some())
                .map(|period| (period, 0)),
            socket,
            ..Manager::default()
        }
    }

    /// Sent by the process that the manager started: this child of it is the daemon.
    pub fn hand_over(&mut self, child: impl Into<i64>) {
        let child = child.into();
        self.send(format!("READY=1\nMAINPID={child}"));
    }

    pub(super) fn begin_serving(&mut self) {
        self.hand_over(process::id());
    }

    pub(super) fn begin_reload(&mut self) {
        self.is_reloading = true;
        let now = monotonic_us();
        self.send(format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    pub(super) fn begin_stop(&mut self) {
        self.send("STOPPING=1".into());
    }

    pub(super) fn send_status(&mut self, sample: &Sample) {
        let sizes = sizes(sample.torrents, sample.peers);
        if sizes != self.status {
            self.send(format!("STATUS={sizes}"));
            self.status = sizes;
        }
    }

    /// When there is something to do without an event.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let watch = self.watch.map(|(_, at)| at);
        self.retry_at.into_iter().chain(watch).min()
    }

    /// Tells it that a reload is over, answers the watchdog if all threads have turns, and sends what waits.
    pub(super) fn step(&mut self, is_reloading: bool, now: u64, crew: Option<&Crew>) {
        // First, since nothing calls this again once the queue is empty.
        self.flush();
        if self.is_reloading && !is_reloading && self.waiting.len() < MAX_WAITING {
            self.is_reloading = false;
            self.send("READY=1".into());
        }
        if let Some((period, at)) = self.watch.as_mut().filter(|(_, at)| *at <= now) {
            *at = now + *period;
            if crew.is_none_or(Crew::has_turned) && self.waiting.is_empty() {
                self.send("WATCHDOG=1".into());
            }
        }
        self.retry_at = (!self.waiting.is_empty()).then_some(now + RETRY_MS);
    }

    fn send(&mut self, message: String) {
        if self.socket.is_some() && self.waiting.len() < MAX_WAITING {
            self.waiting.push(message);
            self.flush();
        }
    }

    /// Sends messages in order. If the manager is gone, they are dropped.
    fn flush(&mut self) {
        if let Some(socket) = &self.socket {
            let is_sent = |message: &&String| manager::send(socket, message);
            let sent = self.waiting.iter().take_while(is_sent).count();
            self.waiting.drain(..sent);
        }
    }
}
