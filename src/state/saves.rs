//! The times and the progress of saves.

use super::write::StateWriter;
use super::{sizes, wall_ms};
use crate::base::job::{Job, Run};
use crate::base::log;
use crate::base::text::counted;
use crate::helper::Helper;
use crate::tracker::Table;
use std::path::{Path, PathBuf};

/// Torrents and peers that are written between two rounds of requests: some 100 microseconds where memory is slow. The
/// p99 of a UDP connect during saves on one slow core is 0 to 22 ms. With 1024 it was 29 to 52 ms.
const BUDGET: usize = 256;

/// Bytes that a step may write: see [`StateWriter::step`].
const STEP_BYTES: usize = 16 * 1024;

/// At the end of the daemon, milliseconds without progress after which a save is given up: its disk hangs.
const GIVE_UP_MS: u64 = 60_000;

/// Saves, one at a time. The helper replaces the file when a save is complete. If it fails, the file stays as it was.
pub struct Saves {
    path: PathBuf,
    /// The key of UDP connection ids that is saved, if this is not the node of a cluster.
    connection_key: Option<[u64; 2]>,
    interval_ms: Option<u64>,
    /// When the next is due by time.
    next_at: Option<u64>,
    /// Another begins as soon as none runs. Any number of requests is one.
    is_requested: bool,
    /// The one under way was requested.
    is_by_request: bool,
    /// The failure that the log has, until a save succeeds.
    told: Option<String>,
    /// The save under way, and when it began.
    running: Option<(StateWriter, u64)>,
    /// When it last made progress, and the room that the helper had then.
    progress: (u64, usize),
    /// The daemon ends after the next save.
    is_last: bool,
    /// The time of the state in the file, in seconds since 1970.
    saved_at: Option<u64>,
    pub job: Job,
}

impl Saves {
    /// Saves to this file every `interval` seconds; with 0 only on request. `saved_at` is the time of the state that
    /// was loaded from it, in seconds since 1970.
    pub fn new(
        path: &Path,
        interval: u32,
        connection_key: Option<[u64; 2]>,
        saved_at: Option<u64>,
    ) -> Saves {
        let interval_ms = (interval > 0).then_some(u64::from(interval) * 1000);
        Saves {
            path: path.to_owned(),
            connection_key,
            interval_ms,
            next_at: interval_ms,
            is_requested: false,
            is_by_request: false,
            told: None,
            running: None,
            progress: (0, 0),
            is_last: false,
            saved_at,
            job: Job::default(),
        }
    }

    /// Requests a save that begins after this call.
    pub fn request(&mut self) {
        self.is_requested = true;
    }

    /// Begins the save under way anew, as the helper has lost it.
    pub fn repeat(&mut self) {
        self.is_requested |= self.running.take().is_some();
    }

    /// Requests the last save, after which the daemon ends.
    pub fn wind_up(&mut self, now_ms: u64) {
        self.request();
        self.is_last = true;
        self.progress.0 = now_ms;
    }

    /// When there is something to do without an event.
    pub fn next_at(&self) -> Option<u64> {
        match self.is_last {
            true => (!self.is_idle()).then_some(self.progress.0 + GIVE_UP_MS),
            false => self.next_at.filter(|_| self.running.is_none()),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_none() && !self.is_requested
    }

    /// Whether the last save did not fail.
    pub fn is_saved(&self) -> bool {
        !self.job.last().has_failed
    }

    /// Whether [`Saves::step`] has something to do now.
    pub fn can_go_on(&self, helper: &Helper) -> bool {
        match &self.running {
            Some((writer, _)) => !writer.is_at_end() && helper.room() >= STEP_BYTES,
            None => self.is_requested,
        }
    }

    /// Begins the save that is due, or writes a slice of the one under way if the helper has room for it. The times are
    /// now, in milliseconds since the start: of the loop and of the table.
    pub fn step(&mut self, table: &Table, helper: &mut Helper, (now_ms, table_ms): (u64, u64)) {
        if helper.room() != self.progress.1 {
            self.progress = (now_ms, helper.room());
        }
        let is_due = self.next_at().is_some_and(|at| at <= now_ms);
        if is_due && self.is_last {
            self.is_requested = false;
            return self.failed("no progress for 60 seconds", now_ms);
        }
        if !is_due && !self.can_go_on(helper) {
            return;
        }
        let mut slice = Vec::with_capacity(STEP_BYTES);
        match &mut self.running {
            None => {
                let (tracker, key) = (table.lock(0, table_ms), self.connection_key);
                let writer = StateWriter::new(&tracker, wall_ms(), key, &mut slice);
                drop(tracker);
                self.is_by_request = std::mem::take(&mut self.is_requested);
                self.running = Some((writer, now_ms));
                if let Err(why) = helper.save() {
                    return self.failed(why, now_ms);
                }
                helper.save_bytes(&slice);
            }
            Some((writer, _)) => {
                let has_more = writer.step(table, table_ms, BUDGET, &mut slice);
                helper.save_bytes(&slice);
                if !has_more {
                    helper.save_end();
                }
            }
        }
        self.progress = (now_ms, helper.room());
    }

    /// The helper has replaced the file.
    pub fn saved(&mut self, now_ms: u64) {
        self.told = None;
        if let Some((writer, ms)) = self.finish(now_ms, false) {
            let written = writer.written();
            let sizes = sizes(written.torrents, written.peers);
            let bytes = written.bytes;
            self.saved_at = Some((wall_ms() / 1000).saturating_sub(ms / 1000));
            log::line(format_args!(
                "state: saved: {sizes}; {bytes} bytes in {ms} ms"
            ));
        }
    }

    /// Ends the save under way, if there is one. The file is as it was. Saves by time that fail alike are logged once.
    pub fn failed(&mut self, why: &str, now_ms: u64) {
        let before = self.told.replace(why.to_owned());
        let is_news = self.is_by_request || before.as_deref() != Some(why);
        if self.finish(now_ms, true).is_some() && is_news {
            let path = self.path.display();
            log::error(format_args!("state: save failed: '{path}': {why}"));
        }
    }

    /// Logs what is lost, as the last save has failed.
    pub fn log_loss(&self, table: &Table, table_ms: u64) {
        let totals = table.survey(table_ms).totals;
        let peers = (totals.leechers + totals.seeders) as u64;
        let lost = sizes(totals.torrents as u64, peers);
        let saved = match self.saved_at {
            Some(at) => {
                let age = (wall_ms() / 1000).saturating_sub(at);
                format!("the last save is {} old", counted(age, "second"))
            }
            None => String::from("there is no older save"),
        };
        log::error(format_args!("state: lost at exit: {lost}; {saved}"));
    }

    /// The save that ends now, and how many milliseconds it took. The next save by time begins an interval later.
    fn finish(&mut self, now_ms: u64, has_failed: bool) -> Option<(StateWriter, u64)> {
        self.next_at = self.interval_ms.map(|interval| now_ms + interval);
        let (writer, began_ms) = self.running.take()?;
        let took_ms = now_ms.saturating_sub(began_ms);
        self.job.note(Run {
            ended: wall_ms() / 1000,
            took_ms,
            has_failed,
        });
        Some((writer, took_ms))
    }
}
