//! The log: lines on standard error or, with `--syslog`, in the system's log.
//!
//! A line is written with one call, so that lines of threads and processes do not mix. No line names the address of a
//! peer, except those that `--log-completed` requests. The daemon never blocks on the log: while its reader does not
//! keep up, lines are dropped, and their number is logged later.
//!
//! The helper process forwards lines to syslog, as the daemon may be in a chroot and must not block. Until the daemon
//! is ready, its lines go to standard error as well, for the admin who starts it.

use super::text::counted;
use crate::sys::process::{is_stderr_journal, is_stderr_writable};
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// The importance of a line, with the numbers of syslog (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error = 3,
    Notice = 5,
    /// With `-v`.
    Info = 6,
    /// With `-vv`.
    Debug = 7,
}

/// A longer line is cut, and ends in [`CUT`]. This is POSIX's minimum of `PIPE_BUF`: a write of so many bytes to a pipe
/// is not split and, if the pipe has room, does not block.
const MAX_LINE_BYTES: usize = 512;

/// The beginning of a line on standard error. Syslog adds the name itself.
const NAME: &str = "announced: ";

const CUT: &[u8] = b"...";

/// The beginning of a line for systemd's journal, which takes the priority from it: `sd-daemon(3)`.
const PRIORITY: &str = "<3>";

/// Bytes of a message that is not cut.
pub const ROOM: usize = MAX_LINE_BYTES - PRIORITY.len() - NAME.len() - "\n".len();

/// The last level that is logged.
static MAX_LEVEL: AtomicU8 = AtomicU8::new(Level::Notice as u8);

/// Lines dropped since the last that was written.
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Lines dropped since the start.
static ALL_DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Whether standard error leads to the journal.
static IS_JOURNAL: OnceLock<bool> = OnceLock::new();

/// The helper's socket. A datagram is the level, one byte, and the message.
static SYSLOG: OnceLock<UnixDatagram> = OnceLock::new();

/// Whether lines go to standard error, besides syslog.
static USES_STDERR: AtomicBool = AtomicBool::new(true);

/// How often `-v` was given.
pub fn set_verbosity(verbosity: u32) {
    let level = match verbosity {
        0 => Level::Notice,
        1 => Level::Info,
        _ => Level::Debug,
    };
    MAX_LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Sends lines to syslog through this socket, which must be non-blocking.
pub fn use_syslog(socket: UnixDatagram) {
    // There is one helper, and so one socket.
    let _ = SYSLOG.set(socket);
}

/// Whether lines go to standard error, besides syslog: until the daemon is ready, and when the helper has ended.
pub fn use_stderr(uses_stderr: bool) {
    USES_STDERR.store(uses_stderr, Ordering::Relaxed);
}

/// Something does not work.
pub fn error(message: fmt::Arguments) {
    write(Level::Error, message);
}

/// A notice that every admin should see.
pub fn line(message: fmt::Arguments) {
    write(Level::Notice, message);
}

pub fn info(message: fmt::Arguments) {
    if is_told(Level::Info) {
        write(Level::Info, message);
    }
}

pub fn debug(message: fmt::Arguments) {
    if is_told(Level::Debug) {
        write(Level::Debug, message);
    }
}

pub fn is_told(level: Level) -> bool {
    level as u8 <= MAX_LEVEL.load(Ordering::Relaxed)
}

/// Writes a line, whatever the verbosity.
pub fn write(level: Level, message: fmt::Arguments) {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    let lines = || counted(dropped as u64, "line");
    let has_caught_up =
        dropped == 0 || put(Level::Notice, format_args!("log: dropped {}", lines()));
    let is_written = has_caught_up && put(level, message);
    let still_dropped = if has_caught_up { 0 } else { dropped };
    DROPPED.fetch_add(still_dropped + usize::from(!is_written), Ordering::Relaxed);
    ALL_DROPPED.fetch_add(usize::from(!is_written), Ordering::Relaxed);
}

/// The lines about a fault that may come with every event: one is logged, and no other for some time after it.
pub struct Seldom {
    /// Seconds.
    pause: u32,
    /// When the next may be logged, in seconds since the start.
    next: AtomicU32,
}

impl Seldom {
    pub const fn new(pause: u32) -> Seldom {
        let next = AtomicU32::new(0);
        Seldom { pause, next }
    }

    /// Whether it was logged at this time, in milliseconds since the start.
    pub fn error(&self, now_ms: u64, message: fmt::Arguments) -> bool {
        let now = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(self.pause);
        let (load, store) = (Ordering::Relaxed, Ordering::Relaxed);
        // Another thread may be first.
        let is_due = next <= now && self.next.compare_exchange(next, after, store, load).is_ok();
        if is_due {
            error(message);
        }
        is_due
    }
}

/// Lines dropped since the start.
pub fn dropped() -> u64 {
    ALL_DROPPED.load(Ordering::Relaxed) as u64
}

/// Whether there was room for the line.
fn put(level: Level, message: fmt::Arguments) -> bool {
    let line = line_of(message);
    match SYSLOG.get().map(|socket| send(&line, level, socket)) {
        Some(has_room) if !USES_STDERR.load(Ordering::Relaxed) => has_room,
        _ => print(line, level),
    }
}

/// The line without its end.
fn line_of(message: fmt::Arguments) -> Vec<u8> {
    let mut line = format!("{NAME}{message}").into_bytes();
    let max = NAME.len() + ROOM;
    if line.len() > max {
        line.truncate(max - CUT.len());
        line.extend_from_slice(CUT);
    }
    // The value of an option may hold any byte.
    let controls = line.iter_mut().filter(|byte| byte.is_ascii_control());
    controls.for_each(|byte| *byte = b'?');
    line
}

/// Whether there was room on standard error. The lock is taken first, so that no other thread fills the room meanwhile.
fn print(mut line: Vec<u8>, level: Level) -> bool {
    if *IS_JOURNAL.get_or_init(is_stderr_journal) {
        line.splice(..0, [b'<', b'0' + level as u8, b'>']);
    }
    let mut stderr = io::stderr().lock();
    let has_room = is_stderr_writable();
    if has_room {
        line.push(b'\n');
        // Standard error failed too; there is nowhere left to report it.
        let _ = stderr.write_all(&line);
    }
    has_room
}

/// Whether there was room in the socket.
fn send(line: &[u8], level: Level, socket: &UnixDatagram) -> bool {
    let message = line.get(NAME.len()..).unwrap_or_default();
    socket.send(&[&[level as u8], message].concat()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_one_line_and_is_cut_only_beyond_the_promised_length() {
        assert_eq!(line_of(format_args!("two\nlines")), b"announced: two?lines");
        for (length, is_cut) in [(ROOM, false), (ROOM + 1, true), (5000, true)] {
            let line = line_of(format_args!("{}", "x".repeat(length)));
            assert_eq!(PRIORITY.len() + line.len(), MAX_LINE_BYTES - 1);
            assert_eq!(line.ends_with(b"xx..."), is_cut);
        }
    }

    #[test]
    fn a_fault_is_logged_once_in_its_time() {
        let fault = Seldom::new(60);
        let times = [0, 1, 59_999, 60_000, 60_001, 119_999, 500_000];
        let logged = times.map(|ms| fault.error(ms, format_args!("a fault")));
        assert_eq!(logged, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_datagram_is_level_and_message_and_a_full_socket_is_noticed() {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        ours.set_nonblocking(true).expect("an option");
        let line = line_of(format_args!("hello"));
        assert!(send(&line, Level::Error, &ours));
        let mut datagram = [0; 100];
        let length = theirs.recv(&mut datagram).expect("is there");
        assert_eq!(&datagram[..length], b"\x03hello");
        assert!((0..1_000_000).any(|_| !send(&line, Level::Info, &ours)));
    }
}
