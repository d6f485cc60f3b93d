//! One line for each thing worth telling, to standard error or, with `--syslog`, to the system's log.
//!
//! A line is written with one call, so that lines of threads and processes do not mix. Whatever is said, no line
//! names a peer's address, but for those that `--log-completed` asks for. Clients must never wait for
//! whoever reads the log: while that does not keep up, lines are dropped and counted, and the count is
//! told once it does.
//!
//! Syslog is reached through the keeper, since the daemon itself may be in a chroot and must not wait.
//! Until the daemon is ready its lines go to standard error as well, where whoever starts it looks.

use crate::sys::stderr_is_writable;
use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// How much a line matters, with the numbers of syslog (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error = 3,
    Notice = 5,
    /// With `-v`.
    Info = 6,
    /// With `-vv`.
    Debug = 7,
}

/// The longest line; what is beyond is cut, and [`CUT`] says so. POSIX's least `PIPE_BUF`, up to which a
/// write to a pipe is whole and, where there is room, does not wait.
const MOST: usize = 512;

/// What a line on standard error begins with; syslog adds the name itself.
const NAME: &[u8] = b"announced: ";

/// The last bytes of a line that was cut.
const CUT: &[u8] = b"...";

/// Bytes of a message that no line cuts.
pub const ROOM: usize = MOST - NAME.len() - "\n".len();

/// The last level that is told.
static TOLD: AtomicU8 = AtomicU8::new(Level::Notice as u8);

/// Lines that were not written since the last one that was.
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// The keeper's socket: a priority, one byte, and the line are a datagram.
static SYSLOG: OnceLock<UnixDatagram> = OnceLock::new();

/// Whether standard error has been left to syslog.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Tells errors and notices; once, also what is worth knowing of how it goes; twice, all.
pub fn set_verbosity(verbosity: u32) {
    let level = match verbosity {
        0 => Level::Notice,
        1 => Level::Info,
        _ => Level::Debug,
    };
    TOLD.store(level as u8, Ordering::Relaxed);
}

/// Sends lines to syslog through this socket, which must not block.
pub fn use_syslog(socket: UnixDatagram) {
    // There is one keeper, and so one socket.
    let _ = SYSLOG.set(socket);
}

/// The start is over: from here on, if there is syslog, lines go there alone.
pub fn leave_stderr() {
    IS_READY.store(true, Ordering::Relaxed);
}

/// Why something does not work.
pub fn error(message: fmt::Arguments) {
    write(Level::Error, message);
}

/// What an admin should see: a notice.
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
    level as u8 <= TOLD.load(Ordering::Relaxed)
}

/// Writes a line, whether its level is told or not.
pub fn write(level: Level, message: fmt::Arguments) {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    let caught_up = dropped == 0
        || put(
            Level::Notice,
            format_args!("{dropped} lines of this log were dropped"),
        );
    // Both together may be more than there is room for.
    match (caught_up, caught_up && put(level, message)) {
        (true, true) => {}
        (true, false) => add_dropped(1),
        (false, _) => add_dropped(dropped + 1),
    }
}

fn add_dropped(lines: usize) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// Whether there was room for the line.
fn put(level: Level, message: fmt::Arguments) -> bool {
    let mut line = Line::new();
    // The only error is that the line is full.
    if line.write_fmt(message).is_err() {
        line.mark_cut();
    }
    match SYSLOG.get().map(|socket| line.send(level, socket)) {
        Some(Ok(has_room)) if IS_READY.load(Ordering::Relaxed) => has_room,
        // Or the keeper is gone, and this is what is left.
        _ => line.print(),
    }
}

/// A line with [`NAME`] before it.
struct Line {
    bytes: [u8; MOST],
    length: usize,
}

impl Line {
    fn new() -> Line {
        let mut bytes = [0; MOST];
        let (name, _) = bytes.split_at_mut(NAME.len());
        name.copy_from_slice(NAME);
        Line {
            bytes,
            length: NAME.len(),
        }
    }

    fn mark_cut(&mut self) {
        let start = self.length.saturating_sub(CUT.len());
        if let Some(end) = self.bytes.get_mut(start..self.length) {
            end.copy_from_slice(CUT);
        }
    }

    /// Whether there was room. The lock is taken first, as another thread could fill the room that this one has found.
    fn print(&mut self) -> bool {
        let mut stderr = io::stderr().lock();
        let has_room = stderr_is_writable();
        if has_room {
            self.bytes[self.length] = b'\n';
            // Standard error failed too; there is nowhere left to report it.
            let _ = stderr.write_all(&self.bytes[..=self.length]);
        }
        has_room
    }

    /// Whether there was room; an error if nobody is at the other end any more. The priority takes the
    /// place of the space after the name.
    fn send(&self, level: Level, socket: &UnixDatagram) -> io::Result<bool> {
        let mut datagram = self.bytes;
        datagram[NAME.len() - 1] = level as u8;
        let sent = socket.send(&datagram[NAME.len() - 1..self.length]);
        match sent.map_err(|error| error.kind()) {
            Ok(_) => Ok(true),
            Err(
                gone @ (ErrorKind::BrokenPipe
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::NotConnected),
            ) => Err(gone.into()),
            // That the socket's buffer is full has more names than one.
            Err(_) => Ok(false),
        }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == MOST - 1 {
                return Err(fmt::Error);
            }
            // A name in an option may hold anything; a line stays one line.
            self.bytes[self.length] = if byte.is_ascii_control() { b'?' } else { byte };
            self.length += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_not_endless() {
        let mut line = Line::new();
        assert!(line.write_str("two\nlines").is_ok());
        assert_eq!(&line.bytes[..line.length], b"announced: two?lines");
        assert!(line.write_str(&"x".repeat(2 * MOST)).is_err());
        assert_eq!(line.length, MOST - 1);
        line.mark_cut();
        assert!(line.bytes[..line.length].ends_with(b"xx..."));
    }

    #[test]
    fn message_of_the_promised_length_fits() {
        let mut line = Line::new();
        assert!(write!(line, "{}", "x".repeat(ROOM)).is_ok());
        assert!(line.write_str("x").is_err());
    }

    #[test]
    fn a_datagram_is_priority_and_line_until_nobody_takes_them() {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        ours.set_nonblocking(true).expect("an option");
        let mut line = Line::new();
        assert!(line.write_str("hello").is_ok());
        assert_eq!(line.send(Level::Error, &ours).ok(), Some(true));
        let mut datagram = [0; 100];
        let length = theirs.recv(&mut datagram).expect("is there");
        assert_eq!(&datagram[..length], b"\x03hello");
        let has_room = || line.send(Level::Info, &ours).expect("there is a reader");
        assert!((0..1_000_000).any(|_| !has_room()));
        drop(theirs);
        assert!(line.send(Level::Info, &ours).is_err());
    }
}
