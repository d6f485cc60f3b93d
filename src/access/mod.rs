//! Whitelists and blacklists of info-hashes: which torrents are tracked.
//!
//! A list is one sorted vector, read from a file: by the daemon itself at the start, by the helper process at SIGHUP.
//! The helper sends the hashes sorted, some thousand a turn of the loop, and they are only stored; the old list stays
//! in force until the new one is complete. Changes made through FIFOs are kept beside the list and are dropped with it.

mod changes;
mod fifo;
mod set;

pub use fifo::Fifo;

use crate::base::job::{Job, Run};
use crate::base::log;
use crate::base::text::{counted, plural};
use crate::helper::{Helper, list};
use crate::state::wall_ms;
use crate::sys::chunks::as_chunks;
use crate::sys::uptime::Moment;
use crate::tracker::InfoHash;
use changes::Changes;
use set::InfoHashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A kind of list.
#[derive(Debug, PartialEq, Eq)]
pub struct ListKind {
    /// Only the torrents in it are tracked, else only those that are not.
    is_white: bool,
    flag: &'static str,
    name: &'static str,
    /// Clients show it to their users. Transmission 4 stops announcing at `unregistered torrent`.
    pub message: &'static str,
    /// Seconds after which a client should return, unless the admin sets others.
    interval: u32,
}

/// The reply to an announce of a torrent that the list refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: &'static ListKind,
    /// Seconds after which a client should return.
    pub interval: u32,
    /// Whether the reply over UDP is one without peers, and not an error.
    pub is_empty_over_udp: bool,
}

impl ListKind {
    /// The default reply.
    pub fn refusal(&'static self) -> Refusal {
        Refusal {
            kind: self,
            interval: self.interval,
            is_empty_over_udp: false,
        }
    }
}

impl Refusal {
    /// Minutes after which to retry; none for never.
    pub fn retry_minutes(&self) -> Option<u64> {
        let minutes = u64::from(self.interval.div_ceil(60));
        self.kind.is_white.then_some(minutes)
    }
}

/// All in one text, as an error over UDP has no other field.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let message = self.kind.message;
        match self.retry_minutes() {
            Some(n) => write!(f, "{message}. Retry in {n} minute{}.", plural(n)),
            None => write!(f, "{message}. Never retry."),
        }
    }
}

/// A torrent may be added later: its author announces it first.
pub static WHITELIST: ListKind = ListKind {
    is_white: true,
    flag: "-w/--whitelist",
    name: "whitelist",
    message: "This torrent is not authorized on this tracker",
    interval: 1800,
};

pub static BLACKLIST: ListKind = ListKind {
    is_white: false,
    flag: "-b/--blacklist",
    name: "blacklist",
    message: "This torrent is not authorized on this tracker: unregistered torrent",
    interval: 24 * 3600,
};

/// The list in force. All threads read it, and take the lock for a batch of requests.
pub struct Rules {
    refusal: Refusal,
    list: InfoHashSet,
    /// Made through FIFOs since the list was read.
    changes: Changes,
}

impl Rules {
    /// The reply if the list refuses this torrent; none if it is tracked.
    pub fn refuses(&self, hash: &InfoHash) -> Option<Refusal> {
        let changed = self.changes.get(hash);
        let is_listed = changed.unwrap_or_else(|| self.list.contains(hash));
        (is_listed != self.refusal.kind.is_white).then_some(self.refusal)
    }

    pub fn tracks(&self, hash: &InfoHash) -> bool {
        self.refuses(hash).is_none()
    }

    /// Prefetches what [`Rules::refuses`] will read.
    pub fn prefetch(&self, hash: &InfoHash) {
        self.list.prefetch(hash);
    }

    /// The name and the size of the list, for reports.
    pub fn list_size(&self) -> ListSize {
        ListSize {
            name: self.refusal.kind.name,
            hashes: self.list.len(),
            changes: self.changes.len(),
        }
    }

    fn hashes(&self) -> String {
        counted(self.list.len() as u64, "hash")
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ListSize {
    pub name: &'static str,
    /// Those of the file.
    pub hashes: usize,
    /// Made through FIFOs since the file was read.
    pub changes: usize,
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
    pub job: Job,
    /// The beginning of the load under way, or else of the last.
    began: Moment,
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
    /// An empty list, to be loaded from this file, with the reply to the torrents that it refuses.
    pub fn new(refusal: Refusal, path: PathBuf) -> Access {
        let rules = Rules {
            refusal,
            list: InfoHashSet::default(),
            changes: Changes::default(),
        };
        Access {
            kind: refusal.kind,
            path,
            rules: SharedRules(Arc::new(RwLock::new(rules))),
            reload: None,
            is_requested: false,
            is_full: false,
            old: InfoHashSet::default(),
            job: Job::default(),
            began: Moment::now(),
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
            self.began = Moment::now();
            if let Err(why) = helper.load_list() {
                self.fail(why);
            }
        }
    }

    /// Begins the reload under way anew, as the helper has lost it.
    pub fn repeat(&mut self, helper: &mut Helper) {
        if let Some(reload) = &mut self.reload {
            let changes = std::mem::take(&mut reload.changes);
            *reload = Reload {
                changes,
                ..Reload::default()
            };
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
            self.note_end(true);
            let (name, hashes) = (self.kind.name, self.rules.read().hashes());
            log::error(format_args!(
                "{name}: reload failed: {why}; keeping the old list ({hashes})"
            ));
        }
    }

    /// Whether a reload is under way, or is to follow.
    pub fn is_reloading(&self) -> bool {
        self.reload.is_some() || self.is_requested
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

    fn note_end(&self, has_failed: bool) {
        self.job.note(Run {
            ended: wall_ms() / 1000,
            took_ms: self.began.elapsed_ms(),
            has_failed,
        });
    }

    /// Logs and notes that a list has come into force.
    fn report(&self, skipped: &str) {
        self.note_end(false);
        let rules = self.rules.read();
        let (name, hashes) = (self.kind.name, rules.hashes());
        if !skipped.is_empty() {
            log::line(format_args!("{name}: {skipped}"));
        }
        log::line(format_args!("{name}: loaded: {hashes}"));
        if self.kind.is_white && rules.list.len() == 0 && rules.changes.is_empty() {
            log::line(format_args!("{name}: empty: every torrent is refused"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = [0xab; 20];

    #[test]
    fn torrents_are_refused_by_the_list_and_by_its_changes() {
        for kind in [&WHITELIST, &BLACKLIST] {
            let mut access = Access::new(kind.refusal(), PathBuf::new());
            let refused = |listed| (listed != kind.is_white).then_some(kind.refusal());
            let rules = access.rules();
            assert_eq!(rules.read().refuses(&HASH), refused(false));
            for listed in [true, false, true] {
                access.change("flag", &[HASH], listed);
                assert_eq!(rules.read().refuses(&HASH), refused(listed));
                assert_eq!(rules.read().refuses(&[0; 20]), refused(false));
            }
        }
    }

    #[test]
    fn changes_made_during_a_reload_outlive_it() {
        let mut access = Access::new(WHITELIST.refusal(), PathBuf::new());
        let rules = access.rules();
        let [before, during, in_file] = [[1; 20], [2; 20], [3; 20]];
        access.change("flag", &[before], true);
        access.reload = Some(Reload::default());
        access.change("flag", &[during], true);
        access.begin(1, String::new());
        let is_tracked = |hash| rules.read().tracks(&hash);
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
    fn a_refusal_says_when_to_retry() {
        let white = |interval| Refusal {
            interval,
            ..WHITELIST.refusal()
        };
        let text = "This torrent is not authorized on this tracker";
        for (refusal, expected) in [
            (WHITELIST.refusal(), format!("{text}. Retry in 30 minutes.")),
            (white(1), format!("{text}. Retry in 1 minute.")),
            (white(61), format!("{text}. Retry in 2 minutes.")),
            (
                BLACKLIST.refusal(),
                format!("{text}: unregistered torrent. Never retry."),
            ),
        ] {
            assert_eq!(refusal.to_string(), expected);
        }
    }
}
