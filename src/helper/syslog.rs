//! Forwards log lines from the daemon to syslog, one at a time.
//!
//! A datagram is the priority of `syslog(3)`, one byte from 0 to 7, and the line. While syslog accepts none, lines wait
//! in the daemon's socket. When that is full, the daemon drops them and counts: see `base/log.rs`.
//!
//! A syslog daemon may take a line feed for the end of a line, and the next bytes for the line of any program. So
//! control characters are replaced here: an intruder who controls the daemon cannot forge lines of others.

use crate::sys::syslog::Syslog;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Bytes of a datagram.
const MAX_LINE: usize = 1024;

const MAX_RETRY_MS: u16 = 1000;

/// After the daemon's end the last lines wait for room, a second in all. Pauses are counted and no clock is read, as
/// this process has the lowest priority and a pause may take long on a busy machine.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSES: u32 = 10;

pub struct Forwarder {
    daemon: UnixDatagram,
    syslog: Syslog,
    /// The line that syslog did not accept yet, with its priority in front; else empty.
    line: Vec<u8>,
    retry_ms: Option<u16>,
}

impl Forwarder {
    /// Connects to syslog, so that it still works after a chroot. `name` goes before each line.
    /// `daemon` must be non-blocking.
    pub fn new(daemon: UnixDatagram, name: String) -> Forwarder {
        Forwarder {
            daemon,
            syslog: Syslog::open(name),
            line: Vec::with_capacity(MAX_LINE),
            retry_ms: None,
        }
    }

    /// Milliseconds until the next call of [`Forwarder::forward`] while a line waits.
    pub fn retry_ms(&self) -> Option<u16> {
        self.retry_ms
    }

    /// Forwards the line that waits, or the next; false if there is none. `WouldBlock` if syslog has no room.
    pub fn forward(&mut self) -> io::Result<bool> {
        if self.line.is_empty() {
            self.line.resize(MAX_LINE, 0);
            let length = self.daemon.recv(&mut self.line).unwrap_or(0);
            self.line.truncate(length);
            replace_controls(self.line.get_mut(1..).unwrap_or_default());
        }
        let Some((priority, text)) = self.line.split_first() else {
            return Ok(false);
        };
        let sent = self.syslog.send(*priority, text);
        self.retry_ms = match (&sent, self.retry_ms) {
            (Ok(()), _) => None,
            (Err(_), None) => Some(1),
            (Err(_), Some(ms)) => Some((ms * 2).min(MAX_RETRY_MS)),
        };
        if sent.is_ok() {
            self.line.clear();
        }
        sent.map(|()| true)
    }

    /// Forwards the last lines of the daemon, which has ended.
    pub fn finish(&mut self) {
        let mut pauses = 0;
        while pauses < MAX_PAUSES {
            match self.forward() {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(PAUSE);
                    pauses += 1;
                }
                Ok(false) | Err(_) => return,
            }
        }
    }
}

fn replace_controls(text: &mut [u8]) {
    let controls = text.iter_mut().filter(|byte| byte.is_ascii_control());
    controls.for_each(|byte| *byte = b'?');
}

impl AsFd for Forwarder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.daemon.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_end_and_begin_another() {
        let mut text = *b"a\n<13>root: b\r\0\x1b\x7f\xc3\xa9";
        replace_controls(&mut text);
        assert_eq!(text, *b"a?<13>root: b????\xc3\xa9");
    }
}
