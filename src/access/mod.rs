//! Whitelists and blacklists of info-hashes: which torrents are tracked.
//!
//! A list is one sorted vector, read from a file: by the daemon itself at the start, by the helper process at SIGHUP.
//! The helper sends the hashes sorted, some thousand a turn of the loop, and they are only stored; the old list stays
//! in force until the new one is complete. Changes made through FIFOs are kept beside the list and are dropped with it.

mod changes;
mod fifo;
mod set;

pub use fifo::Fifo;

use crate::base::log;
use crate::helper::{Helper, list};
use crate::sys::chunks::as_chunks;
use crate::tracker::InfoHash;
use changes::Changes;
use set::InfoHashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Only the torrents in it are tracked.
    White,
    /// All torrents but those in it are tracked.
    Black,
}

impl ListKind {
    fn flag(self) -> &'static str {
        match self {
            ListKind::White => "-w/--whitelist",
            ListKind::Black => "-b/--blacklist",
        }
    }

    fn name(self) -> &'static str {
        match self {
            ListKind::White => "whitelist",
            ListKind::Black => "blacklist",
        }
    }

    /// The refusal over HTTP: a `failure reason` and BEP 31's `retry in`. The torrent may be put on a whitelist later:
    /// its author announces it first.
    pub fn failure(self) -> &'static [u8] {
        match self {
            ListKind::White => {
                b"d14:failure reason46:This torrent is not authorized on this tracker8:retry ini30ee"
            }
            ListKind::Black => {
                b"d14:failure reason46:This torrent is not authorized on this tracker8:retry in5:nevere"
            }
        }
    }

    /// The refusal over UDP, which has a message only.
    pub fn message(self) -> &'static str {
        match self {
            ListKind::White => {
                "This torrent is not authorized on this tracker. Retry in 30 minutes."
            }
            ListKind::Black => "This torrent is not authorized on this tracker. Never retry.",
        }
    }
}

/// The list in force. All threads read it, and take the lock for a batch of requests.
pub struct Rules {
    kind: ListKind,
    list: InfoHashSet,
    /// Made through FIFOs since the list was read.
    changes: Changes,
}

impl Rules {
    /// The kind of list that refuses this torrent; none if it is tracked.
    pub fn refuses(&self, hash: &InfoHash) -> Option<ListKind> {
        let changed = self.changes.get(hash);
        let is_listed = changed.unwrap_or_else(|| self.list.contains(hash));
        let is_tracked = is_listed == (self.kind == ListKind::White);
        (!is_tracked).then_some(self.kind)
    }

    /// Prefetches what [`Rules::refuses`] will read.
    pub fn look_ahead(&self, hash: &InfoHash) {
        self.list.prefetch(hash);
    }
}

/// Rules that threads share. A change holds the write lock for some hundred hashes, a reload for a swap.
#[derive(Clone)]
pub struct SharedRules(Arc<RwLock<Rules>>);

impl SharedRules {
    pub fn read(&self) -> RwLockReadGuard<'_, Rules> {
        // A thread that panics ends the process, so no lock is ever found poisoned.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rules> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kind of list that refuses this torrent; none if it is tracked.
    pub fn refuses(&self, hash: &InfoHash) -> Option<ListKind> {
        self.read().refuses(hash)
    }
}

impl Reload {
    fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.list.len() >= count)
    }
}

/// Keeps the rules up to date: reloads the list, and applies changes from FIFOs.
pub struct Access {
    kind: ListKind,
    path: PathBuf,
    rules: SharedRules,
    reload: Option<Reload>,
    /// Another reload was requested while one was under way.
    is_requested: bool,
    /// More changes were made than are kept, which is logged once a list.
    is_full: bool,
    /// The list before, as far as its memory has not been freed.
    old: InfoHashSet,
}

/// A list that the helper reads or sends.
#[derive(Default)]
struct Reload {
    list: InfoHashSet,
    /// How many hashes it has; none until the helper has read the file.
    count: Option<usize>,
    skipped: String,
    /// Made since the reload began. The file need not have them, so they stay in force after it.
    changes: Changes,
}

impl Access {
    /// An empty list, to be loaded from this file.
    pub fn new(kind: ListKind, path: PathBuf) -> Access {
        Access {
            kind,
            path,
            rules: SharedRules(Arc::new(RwLock::new(Rules {
                kind,
                list: InfoHashSet::default(),
                changes: Changes::default(),
            }))),
            reload: None,
            is_requested: false,
            is_full: false,
            old: InfoHashSet::default(),
        }
    }

    /// Reads the file here and now. An error names the file and the flag.
    pub fn load(&mut self) -> Result<(), String> {
        let file = list::read(&self.path, &mut || true).map_err(|why| {
            let path = self.path.as_os_str().to_string_lossy();
            format!("{} '{path}': {why}", self.kind.flag())
        })?;
        let mut list = InfoHashSet::with_capacity(file.hashes.len());
        list.extend(&file.hashes);
        self.rules.write().list = list;
        self.report(&file.skipped);
        Ok(())
    }

    pub fn rules(&self) -> SharedRules {
        self.rules.clone()
    }

    /// Puts info-hashes from a FIFO on the list or takes them off it. `flag` is the FIFO's.
    pub fn change(&mut self, flag: &str, hashes: &[InfoHash], is_listed: bool) {
        let has_room = self.set(hashes, is_listed);
        if !has_room && !self.is_full {
            self.is_full = true;
            let most = changes::MAX_CHANGES;
            log::line(format_args!(
                "{flag}: changes ignored: more than {most} since the last reload"
            ));
        }
    }

    /// False if there was no room for all of them.
    fn set(&mut self, hashes: &[InfoHash], is_listed: bool) -> bool {
        let mut rules = self.rules.write();
        let mut has_room = true;
        for hash in hashes {
            has_room &= rules.changes.set(*hash, is_listed);
            if let Some(reload) = &mut self.reload {
                has_room &= reload.changes.set(*hash, is_listed);
            }
        }
        has_room
    }

    /// Begins a reload, or notes that another is to follow the one under way.
    pub fn reload(&mut self, helper: &mut Helper) {
        self.is_requested = self.reload.is_some();
        if !self.is_requested {
            self.reload = Some(Reload::default());
            if !helper.load_list() {
                self.fail("the helper process has ended");
            }
        }
    }

    /// The helper has read the file and will send so many hashes.
    pub fn begin(&mut self, count: usize, skipped: String) {
        if let Some(reload) = &mut self.reload {
            reload.list = InfoHashSet::with_capacity(count);
            reload.count = Some(count);
            reload.skipped = skipped;
        }
    }

    /// Takes the next hashes of the file.
    pub fn take(&mut self, hashes: &[u8]) {
        if let Some(reload) = &mut self.reload {
            reload.list.extend(as_chunks(hashes).0);
        }
    }

    /// Ends the reload under way, if there is one.
    pub fn fail(&mut self, why: &str) {
        if self.reload.take().is_some() {
            let (name, hashes) = (self.kind.name(), self.hashes());
            log::error(format_args!(
                "{name}: reload failed: {why}; keeping the old list ({hashes})"
            ));
        }
    }

    /// Whether there is something to do now: [`Access::step`].
    pub fn is_busy(&self) -> bool {
        let is_due = match &self.reload {
            Some(reload) => reload.is_complete(),
            None => self.is_requested,
        };
        is_due || self.old.len() > 0
    }

    /// Ends a reload, begins the next, or frees some memory; whether a list has come into force.
    pub fn step(&mut self, helper: &mut Helper) -> bool {
        if self.old.len() > 0 {
            if !self.old.shrink() {
                self.old = InfoHashSet::default();
            }
            return false;
        }
        if let Some(reload) = self.reload.take_if(|reload| reload.is_complete()) {
            self.put_in_force(reload);
            return true;
        }
        if self.is_requested && self.reload.is_none() {
            self.reload(helper);
        }
        false
    }

    fn put_in_force(&mut self, mut reload: Reload) {
        let mut rules = self.rules.write();
        std::mem::swap(&mut rules.list, &mut reload.list);
        std::mem::swap(&mut rules.changes, &mut reload.changes);
        drop(rules);
        self.old = reload.list;
        self.is_full = false;
        self.report(&reload.skipped);
    }

    /// Logs the list that has come into force.
    fn report(&self, skipped: &str) {
        let (name, hashes) = (self.kind.name(), self.hashes());
        if !skipped.is_empty() {
            log::line(format_args!("{name}: {skipped}"));
        }
        log::line(format_args!("{name}: loaded: {hashes}"));
    }

    fn hashes(&self) -> String {
        match self.rules.read().list.len() {
            1 => String::from("1 hash"),
            count => format!("{count} hashes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = [0xab; 20];

    #[test]
    fn torrents_are_refused_by_the_list_and_by_its_changes() {
        for kind in [ListKind::White, ListKind::Black] {
            let mut access = Access::new(kind, PathBuf::new());
            let refused = |listed| (listed != (kind == ListKind::White)).then_some(kind);
            let rules = access.rules();
            assert_eq!(rules.refuses(&HASH), refused(false));
            for listed in [true, false, true] {
                assert!(access.set(&[HASH], listed));
                assert_eq!(rules.refuses(&HASH), refused(listed));
                assert_eq!(rules.refuses(&[0; 20]), refused(false));
            }
        }
    }

    #[test]
    fn changes_made_during_a_reload_outlive_it() {
        let mut access = Access::new(ListKind::White, PathBuf::new());
        let rules = access.rules();
        let [before, during, in_file] = [[1; 20], [2; 20], [3; 20]];
        assert!(access.set(&[before], true));
        access.reload = Some(Reload::default());
        assert!(access.set(&[during], true));
        access.begin(1, String::new());
        let is_tracked = |hash| rules.refuses(&hash).is_none();
        assert_eq!(
            [before, during, in_file].map(is_tracked),
            [true, true, false]
        );
        access.take(&in_file);
        let reload = access.reload.take().expect("is under way");
        assert!(reload.is_complete());
        access.put_in_force(reload);
        assert_eq!(
            [before, during, in_file].map(is_tracked),
            [false, true, true]
        );
    }

    #[test]
    fn a_refusal_is_bencoded_as_in_bep_31() {
        let text = "This torrent is not authorized on this tracker";
        for (kind, retry) in [(ListKind::White, "i30e"), (ListKind::Black, "5:never")] {
            let length = text.len();
            let expected = format!("d14:failure reason{length}:{text}8:retry in{retry}e");
            assert_eq!(kind.failure(), expected.as_bytes());
            assert!(kind.message().starts_with(text));
        }
    }
}
