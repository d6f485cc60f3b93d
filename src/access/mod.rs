//! White and black lists of info-hashes: which torrents are tracked.
//!
//! A list is one sorted vector, read from a file: at the start by the daemon itself, at SIGHUP through
//! the keeper, a slice at a time, while the old one stays in force. What FIFOs add and remove is kept
//! beside it and is forgotten with the list that it changed.

mod changes;
mod fifo;
mod lines;
mod list;
mod load;

pub use fifo::Fifo;

use crate::keeper::{self, Keeper};
use crate::log;
use crate::sys::files;
use crate::tracker::InfoHash;
use changes::Changes;
use list::List;
use load::{Merge, Reader, Skipped, Unfit};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only the torrents in it are tracked.
    White,
    /// All but those.
    Black,
}

impl Kind {
    pub fn flag(self) -> &'static str {
        match self {
            Kind::White => "-w/--whitelist",
            Kind::Black => "-b/--blacklist",
        }
    }

    /// What a client is told over HTTP: a `failure reason` and BEP 31's `retry in`. Whitelists grow, and
    /// whoever makes a torrent announces it first.
    pub fn failure(self) -> &'static [u8] {
        match self {
            Kind::White => {
                b"d14:failure reason46:This torrent is not authorized on this tracker8:retry ini30ee"
            }
            Kind::Black => {
                b"d14:failure reason46:This torrent is not authorized on this tracker8:retry in5:nevere"
            }
        }
    }

    /// The same over UDP, for which there is only a message.
    pub fn message(self) -> &'static str {
        match self {
            Kind::White => "This torrent is not authorized on this tracker. Retry in 30 minutes.",
            Kind::Black => "This torrent is not authorized on this tracker. Never retry.",
        }
    }
}

/// Hashes that are merged in a step: well below a millisecond.
const STEP: usize = 1024;

/// The list in force: all threads read it, and take the lock for a batch of requests.
pub struct Rules {
    kind: Kind,
    list: List,
    /// Made through FIFOs since the list was read.
    changes: Changes,
}

impl Rules {
    /// Why this torrent is not tracked; none if it is.
    pub fn refuses(&self, hash: &InfoHash) -> Option<Kind> {
        let changed = self.changes.get(hash);
        let is_listed = changed.unwrap_or_else(|| self.list.contains(hash));
        let is_tracked = is_listed == (self.kind == Kind::White);
        (!is_tracked).then_some(self.kind)
    }

    /// Brings what [`Rules::refuses`] will read into the cache.
    pub fn look_ahead(&self, hash: &InfoHash) {
        self.list.prefetch(hash);
    }
}

/// Rules that threads share. A change takes the write lock for some hundred hashes, a reload for a swap.
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

    /// By what kind of list this torrent is refused; none if it is tracked.
    pub fn refuses(&self, hash: &InfoHash) -> Option<Kind> {
        self.read().refuses(hash)
    }
}

/// Keeps the rules up to date: reads the file, and takes what FIFOs give.
pub struct Access {
    kind: Kind,
    path: PathBuf,
    rules: SharedRules,
    reload: Reload,
    /// FIFOs gave more changes than are kept, which is logged once for each list.
    full: bool,
    /// Another reload was asked for while one was underway.
    again: bool,
    /// A list that was replaced, as far as its memory is not yet given back.
    old: List,
}

/// How far a reload is.
enum Reload {
    Idle,
    /// The keeper reads the file. What changes from then on is no part of it, and is kept.
    Reading(Reader, Changes),
    Merging(Merge, Skipped, Changes),
}

impl Access {
    /// An empty list, which is to be loaded from this file.
    pub fn new(kind: Kind, path: PathBuf) -> Access {
        Access {
            kind,
            path,
            rules: SharedRules(Arc::new(RwLock::new(Rules {
                kind,
                list: List::default(),
                changes: Changes::default(),
            }))),
            reload: Reload::Idle,
            full: false,
            again: false,
            old: List::default(),
        }
    }

    /// Reads the file while nothing else is to be done; an error names it and the flag.
    pub fn load(&mut self) -> Result<(), String> {
        match read(&self.path) {
            Ok((list, skipped)) => {
                self.rules.write().list = list;
                self.report(&skipped);
                Ok(())
            }
            Err(why) => Err(format!("{}: {why}", self.name())),
        }
    }

    /// The rules as they are and will be.
    pub fn rules(&self) -> SharedRules {
        self.rules.clone()
    }

    /// Puts hashes on the list, or takes them off it; how many there was room for, beside the changes since the
    /// last reload.
    fn set(&mut self, hashes: &[InfoHash], listed: bool) -> usize {
        let mut rules = self.rules.write();
        let mut count = 0;
        for hash in hashes {
            let is_kept = match &mut self.reload {
                Reload::Idle => true,
                Reload::Reading(_, later) | Reload::Merging(_, _, later) => {
                    later.set(*hash, listed)
                }
            };
            count += usize::from(rules.changes.set(*hash, listed) && is_kept);
        }
        count
    }

    /// Takes what a FIFO gave: hashes that are to be on the list or not. `flag` is the FIFO's.
    pub fn change(&mut self, flag: &str, hashes: &[InfoHash], listed: bool) {
        let set = self.set(hashes, listed);
        if set < hashes.len() && !self.full {
            self.full = true;
            let most = changes::MOST;
            log::line(format_args!(
                "{flag}: more than {most} changes; put them into the list and reload it"
            ));
        }
    }

    /// Begins to read the file anew.
    pub fn reload(&mut self, keeper: &mut Keeper) {
        if !matches!(self.reload, Reload::Idle) {
            self.again = true;
        } else if keeper.read(keeper::File::List) {
            self.reload = Reload::Reading(Reader::default(), Changes::default());
        } else {
            self.fail(&"cannot be read: the keeper process has ended");
        }
    }

    /// Takes the next bytes of the file.
    pub fn take(&mut self, bytes: &[u8], keeper: &mut Keeper) {
        let Reload::Reading(reader, _) = &mut self.reload else {
            return;
        };
        match reader.take(bytes) {
            Ok(()) => keeper.read_more(),
            Err(unfit) => {
                keeper.stop_reading();
                self.fail(&unfit);
            }
        }
    }

    /// The file is at its end.
    pub fn end(&mut self) {
        if let Reload::Reading(reader, later) = std::mem::replace(&mut self.reload, Reload::Idle) {
            match reader.end() {
                Ok((merge, skipped)) => self.reload = Reload::Merging(merge, skipped, later),
                Err(unfit) => self.fail(&unfit),
            }
        }
    }

    /// The list stays what it was.
    pub fn fail(&mut self, why: &dyn fmt::Display) {
        self.reload = Reload::Idle;
        let (name, hashes) = (self.name(), self.hashes());
        log::line(format_args!(
            "{name}: {why}; the old list stays in force, with {hashes}"
        ));
    }

    /// Whether there is something to do now: [`Access::step`].
    pub fn is_busy(&self) -> bool {
        let is_going_on = match self.reload {
            Reload::Idle => self.again,
            // The keeper's turn.
            Reload::Reading(..) => false,
            Reload::Merging(..) => true,
        };
        is_going_on || self.old.len() > 0
    }

    /// Goes on with a reload, for a fraction of a millisecond; whether another list has come into force.
    pub fn step(&mut self, keeper: &mut Keeper) -> bool {
        if self.old.len() > 0 {
            if !self.old.shrink() {
                self.old = List::default();
            }
            return false;
        }
        match std::mem::replace(&mut self.reload, Reload::Idle) {
            Reload::Merging(mut merge, skipped, later) => match merge.step(STEP) {
                true => self.reload = Reload::Merging(merge, skipped, later),
                false => {
                    let list = merge.finish();
                    let mut rules = self.rules.write();
                    self.old = std::mem::replace(&mut rules.list, list);
                    let changes = std::mem::replace(&mut rules.changes, later);
                    drop(rules);
                    drop(changes);
                    self.full = false;
                    self.report(&skipped);
                    return true;
                }
            },
            Reload::Idle if self.again => {
                self.again = false;
                self.reload(keeper);
            }
            other => self.reload = other,
        }
        false
    }

    /// What has been loaded.
    fn report(&self, skipped: &Skipped) {
        let (name, hashes) = (self.name(), self.hashes());
        if let Some(text) = skipped.report() {
            log::line(format_args!("{name}: {text}"));
        }
        log::line(format_args!("{name}: loaded, {hashes}"));
    }

    fn hashes(&self) -> String {
        match self.rules.read().list.len() {
            1 => String::from("1 hash"),
            count => format!("{count} hashes"),
        }
    }

    fn name(&self) -> String {
        let path = self.path.as_os_str().to_string_lossy();
        format!("{} '{path}'", self.kind.flag())
    }
}

/// Reads a whole list.
fn read(path: &Path) -> Result<(List, Skipped), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut file = files::open_regular(path).map_err(told)?;
    let mut reader = Reader::default();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match file.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => reader
                .take(&bytes[..count])
                .map_err(|unfit: Unfit| unfit.to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(told(error)),
        }
    }
    let (mut merge, skipped) = reader.end().map_err(|unfit| unfit.to_string())?;
    while merge.step(STEP) {}
    Ok((merge.finish(), skipped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = [0xab; 20];

    #[test]
    fn what_is_listed_depends_on_the_list_and_on_what_changed_since() {
        for kind in [Kind::White, Kind::Black] {
            let mut access = Access::new(kind, PathBuf::new());
            let refused = |listed| (listed != (kind == Kind::White)).then_some(kind);
            let rules = access.rules();
            assert_eq!(rules.refuses(&HASH), refused(false));
            for listed in [true, false, true] {
                assert_eq!(access.set(&[HASH], listed), 1);
                assert_eq!(rules.refuses(&HASH), refused(listed));
                assert_eq!(rules.refuses(&[0; 20]), refused(false));
            }
        }
    }

    #[test]
    fn a_refusal_is_bencoded_as_bep_31_says() {
        let text = "This torrent is not authorized on this tracker";
        for (kind, retry) in [(Kind::White, "i30e"), (Kind::Black, "5:never")] {
            let length = text.len();
            let expected = format!("d14:failure reason{length}:{text}8:retry in{retry}e");
            assert_eq!(kind.failure(), expected.as_bytes());
            assert!(kind.message().starts_with(text));
        }
    }
}
