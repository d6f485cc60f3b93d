//! FIFOs through which single info-hashes are added and removed while the daemon runs.

use super::lines::{Line, Lines};
use crate::tracker::InfoHash;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;

/// Bytes that one turn takes: a hundred lines.
const TURN: usize = 4096;

/// An open FIFO. It is open for writing too, so that it does not come to an end with a writer.
pub struct Fifo {
    file: File,
    lines: Lines,
}

impl Fifo {
    /// The file must not be blocking.
    pub fn new(file: File) -> Fifo {
        Fifo {
            file,
            lines: Lines::default(),
        }
    }

    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Reads what has come, up to a bound: the hashes in it and how many lines are none. None when nothing
    /// has.
    pub fn turn(&mut self) -> Option<(Vec<InfoHash>, usize)> {
        let mut bytes = [0; TURN];
        let count = loop {
            match self.file.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return None,
                Ok(count) => break count,
            }
        };
        let mut hashes = Vec::new();
        let mut bad = 0;
        self.lines.take(&bytes[..count], &mut |line| match line {
            Line::Hash(hash) => hashes.push(hash),
            Line::Nothing => {}
            Line::Bad => bad += 1,
        });
        Some((hashes, bad))
    }
}
