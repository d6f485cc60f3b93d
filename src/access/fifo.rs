//! FIFOs through which single info-hashes are added and removed while the daemon runs.

use super::lines::{Line, Lines};
use crate::log;
use crate::tracker::InfoHash;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;

/// Bytes that one turn takes: a hundred lines.
const TURN: usize = 4096;

/// Milliseconds between two lines of the log about one FIFO.
const REPORT: u64 = 60_000;

/// An open FIFO. It is open for writing too, so that it does not come to an end with a writer.
pub struct Fifo {
    file: File,
    flag: &'static str,
    lines: Lines,
    skipped: Skipped,
}

/// Lines that are not info-hashes.
#[derive(Default)]
struct Skipped {
    /// Those that the log does not have yet.
    count: u64,
    /// When it may have them.
    report_at: u64,
}

impl Skipped {
    fn next_report(&self) -> Option<u64> {
        (self.count > 0).then_some(self.report_at)
    }

    /// How many lines to report, if that is due.
    fn report(&mut self, now: u64) -> Option<u64> {
        self.next_report().filter(|at| *at <= now)?;
        self.report_at = now.saturating_add(REPORT);
        Some(std::mem::take(&mut self.count))
    }
}

impl Fifo {
    /// The file must not be blocking. The flag is the one that names it.
    pub fn new(file: File, flag: &'static str) -> Fifo {
        Fifo {
            file,
            flag,
            lines: Lines::default(),
            skipped: Skipped::default(),
        }
    }

    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Reads what has come, up to a bound: the hashes in it. None when nothing has. Other lines are counted for
    /// [`Fifo::report`].
    pub fn turn(&mut self) -> Option<Vec<InfoHash>> {
        let mut bytes = [0; TURN];
        let count = loop {
            match self.file.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return None,
                Ok(count) => break count,
            }
        };
        let mut hashes = Vec::new();
        let skipped = &mut self.skipped.count;
        self.lines.take(&bytes[..count], &mut |line| match line {
            Line::Hash(hash) => hashes.push(hash),
            Line::Nothing => {}
            Line::Bad => *skipped = skipped.saturating_add(1),
        });
        Some(hashes)
    }

    /// When [`Fifo::report`] has something to log.
    pub fn next_report(&self) -> Option<u64> {
        self.skipped.next_report()
    }

    /// Logs how many lines were skipped, at most once a minute.
    pub fn report(&mut self, now: u64) {
        if let Some(count) = self.skipped.report(now) {
            let flag = self.flag;
            let plural = if count == 1 { "" } else { "s" };
            log::line(format_args!(
                "{flag}: skipped {count} line{plural}: expected an info-hash"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_lines_are_reported_at_once_and_then_in_sum_after_a_minute() {
        let mut skipped = Skipped::default();
        assert_eq!((skipped.next_report(), skipped.report(5)), (None, None));
        skipped.count += 3;
        assert_eq!(skipped.report(5), Some(3));
        assert_eq!(skipped.next_report(), None);
        for _ in 0..100 {
            skipped.count += 7;
            assert_eq!(skipped.report(5 + REPORT - 1), None);
        }
        assert_eq!(skipped.next_report(), Some(5 + REPORT));
        assert_eq!(skipped.report(5 + REPORT), Some(700));
        assert_eq!(skipped.report(5 + 2 * REPORT), None, "nothing is left");
    }
}
