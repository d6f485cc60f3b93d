//! When the state is saved, and how far a save is.

use super::write::StateWriter;
use crate::base::log;
use crate::helper::Helper;
use crate::tracker::Table;
use std::path::{Path, PathBuf};

/// Torrents and peers that are written between two rounds of requests: some 100 microseconds.
const BUDGET: usize = 1024;

/// Bytes that a step may write: see [`StateWriter::step`].
const STEP_BYTES: usize = 48 * 1024;

/// Saves, one at a time. The helper replaces the file when a save is complete; else the file stays as it was.
pub struct Saves {
    path: PathBuf,
    interval_ms: Option<u64>,
    /// When the next is due by time.
    next_at: Option<u64>,
    /// Another begins as soon as none runs. Any number of requests is one.
    is_requested: bool,
    running: Option<RunningSave>,
    slice: Vec<u8>,
    has_failed: bool,
}

struct RunningSave {
    writer: StateWriter,
    /// All bytes were sent to the helper.
    is_written: bool,
    began_ms: u64,
}

impl Saves {
    /// To this file, every so many seconds; with 0 only on request.
    pub fn new(path: &Path, interval: u32) -> Saves {
        let interval_ms = (interval > 0).then_some(u64::from(interval) * 1000);
        Saves {
            path: path.to_owned(),
            interval_ms,
            next_at: interval_ms,
            is_requested: false,
            running: None,
            slice: Vec::new(),
            has_failed: false,
        }
    }

    /// Requests a save that begins after this call.
    pub fn request(&mut self) {
        self.is_requested = true;
    }

    pub fn next_at(&self) -> Option<u64> {
        self.next_at.filter(|_| self.running.is_none())
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_none() && !self.is_requested
    }

    /// Whether the last save did not fail.
    pub fn is_saved(&self) -> bool {
        !self.has_failed
    }

    pub fn is_due(&self, now_ms: u64) -> bool {
        self.running.is_none() && (self.is_requested || self.next_at.is_some_and(|at| at <= now_ms))
    }

    /// Whether [`Saves::step`] has something to do now.
    pub fn can_go_on(&self, helper: &Helper) -> bool {
        match &self.running {
            Some(save) => !save.is_written && helper.room() >= STEP_BYTES,
            None => self.is_requested,
        }
    }

    /// Begins a save. The times are now, in milliseconds: of the loop and of the table since the start, and since 1970.
    pub fn begin(
        &mut self,
        table: &Table,
        helper: &mut Helper,
        (now_ms, table_ms): (u64, u64),
        wall_ms: u64,
    ) {
        self.is_requested = false;
        self.slice.clear();
        let writer = StateWriter::new(&table.lock(0, table_ms), wall_ms, &mut self.slice);
        self.running = Some(RunningSave {
            writer,
            is_written: false,
            began_ms: now_ms,
        });
        match helper.save() {
            true => helper.save_bytes(&self.slice),
            false => self.failed("the helper process has ended", now_ms),
        }
    }

    /// Writes a slice of the save under way, if the helper has room for one.
    pub fn step(&mut self, table: &Table, helper: &mut Helper, table_ms: u64) {
        let Some(save) = self.running.as_mut().filter(|save| !save.is_written) else {
            return;
        };
        if helper.room() < STEP_BYTES {
            return;
        }
        self.slice.clear();
        save.is_written = !save.writer.step(table, table_ms, BUDGET, &mut self.slice);
        helper.save_bytes(&self.slice);
        if save.is_written {
            helper.save_end();
            self.slice = Vec::new();
        }
    }

    /// The helper has replaced the file.
    pub fn saved(&mut self, now_ms: u64) {
        if let Some(save) = self.finish(now_ms) {
            let written = save.writer.written();
            log::line(format_args!(
                "state: saved: {} torrents, {} peers; {} bytes in {} ms",
                written.torrents,
                written.peers,
                written.bytes,
                now_ms.saturating_sub(save.began_ms)
            ));
            self.has_failed = false;
        }
    }

    /// Ends the save under way, if there is one. The file is as it was.
    pub fn failed(&mut self, why: &str, now_ms: u64) {
        if self.finish(now_ms).is_some() {
            let path = self.path.as_os_str().to_string_lossy();
            log::error(format_args!("state: save failed: '{path}': {why}"));
            self.has_failed = true;
        }
    }

    /// The next save by time begins an interval after the end of this one.
    fn finish(&mut self, now_ms: u64) -> Option<RunningSave> {
        self.next_at = self.interval_ms.map(|interval| now_ms + interval);
        self.slice = Vec::new();
        self.running.take()
    }
}
