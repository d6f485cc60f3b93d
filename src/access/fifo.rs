//! A FIFO through which single info-hashes are added to the list or removed while the daemon runs.

use crate::base::log;
use crate::base::text::counted;
use crate::protocol::hash_list::{Line, Lines};
use crate::tracker::InfoHash;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;

/// Bytes that one turn reads: a hundred lines.
const TURN_BYTES: usize = 4096;

/// Milliseconds between two log lines about one FIFO.
const REPORT_MS: u64 = 60_000;

/// An open FIFO. It is open for writing too, so that the end of a writer is not the end of the file.
pub struct Fifo {
    file: File,
    pub flag: &'static str,
    /// Whether its info-hashes are added to the list, or else removed.
    pub adds: bool,
    lines: Lines,
    /// Lines without an info-hash since the last report.
    skipped: u64,
    /// The earliest time of the next report.
    report_at: u64,
}

impl Fifo {
    /// The file must be non-blocking.
    pub fn new(file: File, flag: &'static str, adds: bool) -> Fifo {
        Fifo {
            file,
            flag,
            adds,
            lines: Lines::default(),
            skipped: 0,
            report_at: 0,
        }
    }

    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Reads a bounded piece of the text that has arrived, and returns its info-hashes; none if there is no text.
    pub fn turn(&mut self) -> Option<Vec<InfoHash>> {
        let mut bytes = [0; TURN_BYTES];
        let count = loop {
            match self.file.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return None,
                Ok(count) => break count,
            }
        };
        let mut hashes = Vec::new();
        let skipped = &mut self.skipped;
        self.lines.take(&bytes[..count], &mut |line| match line {
            Line::Hash(hash) => hashes.push(hash),
            Line::Hybrid(both) => hashes.extend(both),
            Line::Nothing => {}
            Line::Bad => *skipped = skipped.saturating_add(1),
        });
        Some(hashes)
    }

    /// When [`Fifo::report`] has something to log.
    pub fn next_report(&self) -> Option<u64> {
        (self.skipped > 0).then_some(self.report_at)
    }

    /// Logs how many lines were skipped, at most once a minute.
    pub fn report(&mut self, now: u64) {
        if self.next_report().is_some_and(|at| at <= now) {
            self.report_at = now.saturating_add(REPORT_MS);
            let lines = counted(std::mem::take(&mut self.skipped), "line");
            let flag = self.flag;
            log::line(format_args!(
                "{flag}: skipped {lines}: expected an info-hash"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_lines_are_reported_at_once_and_then_in_sum_after_a_minute() {
        let mut fifo = Fifo::new(
            File::open("/dev/null").expect("is there"),
            "--list-add",
            true,
        );
        let mut skip = |lines, now| {
            fifo.skipped += lines;
            fifo.report(now);
            (fifo.skipped, fifo.next_report())
        };
        assert_eq!(skip(0, 5), (0, None));
        assert_eq!(skip(3, 5), (0, None));
        let next = 5 + REPORT_MS;
        assert_eq!(skip(7, next - 1), (7, Some(next)));
        assert_eq!(skip(7, next - 1), (14, Some(next)));
        assert_eq!(skip(0, next), (0, None));
        assert_eq!(skip(1, next), (1, Some(next + REPORT_MS)));
    }
}
