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
use crate::base::text::counted;
use crate::helper::{Helper, list};
use crate::sys::chunks::as_chunks;
use crate::tracker::InfoHash;
use changes::Changes;
use set::InfoHashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A kind of list, and the replies to a torrent that it refuses.
#[derive(Debug, PartialEq, Eq)]
pub struct ListKind {
    /// Only the torrents in it are tracked, else only those that are not.
    is_white: bool,
    flag: &'static str,
    name: &'static str,
    /// Over HTTP: a `failure reason` and BEP 31's `retry in`.
    pub failure: &'static [u8],
    /// Over UDP, where an error has no other field.
    pub message: &'static str,
}

/// A torrent may be added later: its author announces it first.
pub static WHITELIST: ListKind = ListKind {
    is_white: true,
    flag: "-w/--whitelist",
    name: "whitelist",
    failure: b"d14:failure reason46:This torrent is not authorized on this tracker8:retry ini30ee",
    message: "This torrent is not authorized on this tracker. Retry in 30 minutes.",
};

pub static BLACKLIST: ListKind = ListKind {
    is_white: false,
    flag: "-b/--blacklist",
    name: "blacklist",
    failure:
        b"d14:failure reason46:This torrent is not authorized on this tracker8:retry in5:nevere",
    message: "This torrent is not authorized on this tracker. Never retry.",
};

/// The list in force. All threads read it, and take the lock for a batch of requests.
pub struct Rules {
    kind: &'static ListKind,
    list: InfoHashSet,
    /// Made through FIFOs since the list was read.
    changes: Changes,
}

impl Rules {
    /// The kind of list that refuses this torrent; none if it is tracked.
    pub fn refuses(&self, hash: &InfoHash) -> Option<&'static ListKind> {
        let changed = self.changes.get(hash);
        let is_listed = changed.unwrap_or_else(|| self.list.contains(hash));
        (is_listed != self.kind.is_white).then_some(self.kind)
    }

    /// Prefetches what [`Rules::refuses`] will read.
    pub fn look_ahead(&self, hash: &InfoHash) {
        self.list.prefetch(hash);
    }

    fn hashes(&self) -> String {
        counted(self.list.len() as u64, "hash")
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
    pub fn refuses(&self, hash: &InfoHash) -> Option<&'static ListKind> {
        self.read().refuses(hash)
    }
}

/// Keeps the rules up to date: reloads the list, and applies changes from FIFOs.
pub struct Access {
    kind: &'static ListKind,
    path: PathBuf,
    rules: SharedRules,
    reload: Option<Reload>,
    /// Another reload was requested while one was under way.
    is_requested: bool,
    /// Changes beyond the maximum were ignored, which is logged once a list.
    is_full: bool,
    /// The list before, as far as its memory has not been freed.
    old: InfoHashSet,
}

/// A list that the helper reads or sends.
#[derive(Default)]
struct Reload {
    list: InfoHashSet,
    /// The number of its hashes; none until the helper has read the file.
    count: Option<usize>,
    skipped: String,
    /// Made since the reload began. The file need not have them, so they stay in force after it.
    changes: Changes,
}

impl Reload {
    fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.list.len() >= count)
    }
}

impl Access {
    /// An empty list, to be loaded from this file.
    pub fn new(kind: &'static ListKind, path: PathBuf) -> Access {
        let rules = Rules {
            kind,
            list: InfoHashSet::default(),
            changes: Changes::default(),
        };
        Access {
            kind,
            path,
            rules: SharedRules(Arc::new(RwLock::new(rules))),
            reload: None,
            is_requested: false,
            is_full: false,
            old: InfoHashSet::default(),
        }
    }

    /// Reads the file in this process, and blocks meanwhile. An error names the file and the flag.
    pub fn load(&mut self) -> Result<(), String> {
        let file = list::read(&self.path, &mut || Ok(())).map_err(|why| {
            let (flag, path) = (self.kind.flag, self.path.display());
            format!("{flag} '{path}': {why}")
        })?;
        self.rules.write().list = InfoHashSet::of(file.hashes);
        self.report(&file.skipped);
        Ok(())
    }

    pub fn rules(&self) -> SharedRules {
        self.rules.clone()
    }

    /// Adds info-hashes from a FIFO to the list or removes them. `flag` is the FIFO's.
    pub fn change(&mut self, flag: &str, hashes: &[InfoHash], is_listed: bool) {
        let mut rules = self.rules.write();
        let mut has_room = true;
        for hash in hashes {
            has_room &= rules.changes.set(*hash, is_listed);
            if let Some(reload) = &mut self.reload {
                has_room &= reload.changes.set(*hash, is_listed);
            }
        }
        drop(rules);
        if !has_room && !std::mem::replace(&mut self.is_full, true) {
            let max = changes::MAX_CHANGES;
            log::line(format_args!(
                "{flag}: changes ignored: more than {max} since the last reload"
            ));
        }
    }

    /// Begins a reload, or notes that another is to follow the one under way.
    pub fn reload(&mut self, helper: &mut Helper) {
        self.is_requested = self.reload.is_some();
        if !self.is_requested {
            self.reload = Some(Reload::default());
            if let Err(why) = helper.load_list() {
                self.fail(why);
            }
        }
    }

    /// The helper has read the file and will send this many hashes.
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
            let (name, hashes) = (self.kind.name, self.rules.read().hashes());
            log::error(format_args!(
                "{name}: reload failed: {why}; keeping the old list ({hashes})"
            ));
        }
    }

    /// Whether [`Access::step`] has something to do.
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
        } else if let Some(reload) = self.reload.take_if(|reload| reload.is_complete()) {
            self.put_in_force(reload);
            return true;
        } else if self.is_requested && self.reload.is_none() {
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
        let (name, hashes) = (self.kind.name, self.rules.read().hashes());
        if !skipped.is_empty() {
            log::line(format_args!("{name}: {skipped}"));
        }
        log::line(format_args!("{name}: loaded: {hashes}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = [0xab; 20];

    #[test]
    fn torrents_are_refused_by_the_list_and_by_its_changes() {
        for kind in [&WHITELIST, &BLACKLIST] {
            let mut access = Access::new(kind, PathBuf::new());
            let refused = |listed| (listed != kind.is_white).then_some(kind);
            let rules = access.rules();
            assert_eq!(rules.refuses(&HASH), refused(false));
            for listed in [true, false, true] {
                access.change("flag", &[HASH], listed);
                assert_eq!(rules.refuses(&HASH), refused(listed));
                assert_eq!(rules.refuses(&[0; 20]), refused(false));
            }
        }
    }

    #[test]
    fn changes_made_during_a_reload_outlive_it() {
        let mut access = Access::new(&WHITELIST, PathBuf::new());
        let rules = access.rules();
        let [before, during, in_file] = [[1; 20], [2; 20], [3; 20]];
        access.change("flag", &[before], true);
        access.reload = Some(Reload::default());
        access.change("flag", &[during], true);
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
        for (kind, retry) in [(&WHITELIST, "i30e"), (&BLACKLIST, "5:never")] {
            let length = text.len();
            let expected = format!("d14:failure reason{length}:{text}8:retry in{retry}e");
            assert_eq!(kind.failure, expected.as_bytes());
            assert!(kind.message.starts_with(text));
        }
    }
}
