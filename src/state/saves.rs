//! When the state is saved, and how far the save is that runs.

use super::write::Writer;
use crate::keeper::{File, Keeper};
use crate::log;
use crate::tracker::Table;
use std::path::{Path, PathBuf};

/// Torrents and peers that are written between two rounds of requests: some 100 microseconds.
const BUDGET: usize = 1024;

/// Bytes that a step may write: see [`Writer::step`].
const ROOM: usize = 48 * 1024;

/// Saves, one at a time. The file is replaced by the keeper when a save is whole, and otherwise stays as it
/// was.
pub struct Saves {
    path: PathBuf,
    interval_ms: Option<u64>,
    /// When the next is due by time.
    next_at: Option<u64>,
    /// Another is to begin as soon as none runs; however often it was asked for, it is one.
    wanted: bool,
    running: Option<Running>,
    slice: Vec<u8>,
    last_failed: bool,
}

struct Running {
    writer: Writer,
    /// All has been handed to the keeper.
    is_written: bool,
    began_ms: u64,
}

impl Saves {
    /// To this file, every so many seconds; with 0 only when asked for.
    pub fn new(path: &Path, interval: u32) -> Saves {
        let interval_ms = (interval > 0).then_some(u64::from(interval) * 1000);
        Saves {
            path: path.to_owned(),
            interval_ms,
            next_at: interval_ms,
            wanted: false,
            running: None,
            slice: Vec::new(),
            last_failed: false,
        }
    }

    /// Asks for a save that begins after this.
    pub fn request(&mut self) {
        self.wanted = true;
    }

    pub fn next_at(&self) -> Option<u64> {
        self.next_at.filter(|_| self.running.is_none())
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_none() && !self.wanted
    }

    /// Whether the last save that ended was one that did not fail.
    pub fn is_saved(&self) -> bool {
        !self.last_failed
    }

    /// Whether a save is to begin.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.running.is_none() && (self.wanted || self.next_at.is_some_and(|at| at <= now_ms))
    }

    /// Whether [`Saves::step`] has something to do without waiting for the keeper.
    pub fn can_go_on(&self, keeper: &Keeper) -> bool {
        let is_writing = self.running.as_ref().is_some_and(|save| !save.is_written);
        is_writing && keeper.room() >= ROOM || self.running.is_none() && self.wanted
    }

    /// Begins a save. The times are now, in milliseconds since the start, as the loop and as the table count
    /// them, and since 1970.
    pub fn begin(
        &mut self,
        table: &Table,
        keeper: &mut Keeper,
        (now_ms, table_ms): (u64, u64),
        wall_ms: u64,
    ) {
        self.wanted = false;
        self.slice.clear();
        let writer = Writer::new(&table.lock(0, table_ms), wall_ms, &mut self.slice);
        self.running = Some(Running {
            writer,
            is_written: false,
            began_ms: now_ms,
        });
        match keeper.save(File::State) {
            true => keeper.save_bytes(&self.slice),
            false => self.failed("the keeper process has ended", now_ms),
        }
    }

    /// Writes a slice of the save that runs, if the keeper has room for one.
    pub fn step(&mut self, table: &Table, keeper: &mut Keeper, table_ms: u64) {
        let Some(save) = self.running.as_mut().filter(|save| !save.is_written) else {
            return;
        };
        if keeper.room() < ROOM {
            return;
        }
        self.slice.clear();
        save.is_written = !save.writer.step(table, table_ms, BUDGET, &mut self.slice);
        keeper.save_bytes(&self.slice);
        if save.is_written {
            keeper.save_end();
            self.slice = Vec::new();
        }
    }

    /// The keeper has put the file in its place.
    pub fn saved(&mut self, now_ms: u64) {
        if let Some(save) = self.finish(now_ms) {
            let written = save.writer.written();
            log::line(format_args!(
                "saved {} torrents, {} peers in {} bytes to {}, within {} ms",
                written.torrents,
                written.peers,
                written.bytes,
                self.path.as_os_str().to_string_lossy(),
                now_ms.saturating_sub(save.began_ms)
            ));
            self.last_failed = false;
        }
    }

    /// The keeper could not, and has left the file as it was.
    pub fn failed(&mut self, why: &str, now_ms: u64) {
        if self.finish(now_ms).is_some() {
            let path = self.path.as_os_str().to_string_lossy();
            log::line(format_args!("state is not saved to {path}: {why}"));
            self.last_failed = true;
        }
    }

    /// The next by time comes an interval after the end of this one.
    fn finish(&mut self, now_ms: u64) -> Option<Running> {
        self.next_at = self.interval_ms.map(|interval| now_ms + interval);
        self.slice = Vec::new();
        self.running.take()
    }
}
