//! One line to standard error for each thing worth telling.
//!
//! A line is written with one call, so that lines of two processes do not mix. Whatever is said, no line
//! names a peer's address. Clients must never wait for whoever reads the log: while that does not keep
//! up, lines are dropped and counted, and the count is told once it does.

use crate::sys::stderr_is_writable;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest line; what is beyond is cut. POSIX's least `PIPE_BUF`, up to which a write to a pipe is
/// whole and, where there is room, does not wait.
const MOST: usize = 512;

/// Lines that were not written since the last one that was.
static DROPPED: AtomicU64 = AtomicU64::new(0);

pub fn line(message: fmt::Arguments) {
    if !stderr_is_writable() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    match DROPPED.swap(0, Ordering::Relaxed) {
        0 => write_line(message),
        dropped => {
            write_line(format_args!("{dropped} lines of this log were dropped"));
            // Both together may be more than there is room for.
            line(message);
        }
    }
}

fn write_line(message: fmt::Arguments) {
    let mut line = Line {
        bytes: [0; MOST],
        length: 0,
    };
    // The only error is that the line is full, and then it is cut.
    let _ = write!(line, "announced: {message}");
    line.bytes[line.length] = b'\n';
    // Nobody is left to be told that nobody listens.
    let _ = std::io::stderr().write_all(&line.bytes[..=line.length]);
}

struct Line {
    bytes: [u8; MOST],
    length: usize,
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
        let mut line = Line {
            bytes: [0; MOST],
            length: 0,
        };
        assert!(line.write_str("two\nlines").is_ok());
        assert_eq!(&line.bytes[..line.length], b"two?lines");
        assert!(line.write_str(&"x".repeat(2 * MOST)).is_err());
        assert_eq!(line.length, MOST - 1);
    }
}
