//! The state file at the start: loaded before the first request, and moved aside if it is of no use.

use super::read::{Damage, Reader};
use super::restore::{Restorer, Summary};
use crate::sys::files::open_regular;
use crate::tracker::{Table, Tracked};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Names that are tried for a damaged file before giving up.
const MOST_ASIDE: u32 = 1000;

/// What there was.
#[derive(Debug)]
pub enum Loaded {
    /// No such file: the first start.
    Nothing,
    State(Summary),
    /// Moved to this path. What was loaded until the damage was found is to be thrown away.
    Damaged(Damage, PathBuf),
}

/// Loads a state into a table that has just begun, but for torrents that are not tracked; `wall_ms` is now,
/// in milliseconds since 1970. An error is one of the file system: nothing was loaded that could be relied on,
/// or nothing could be saved.
pub fn load(path: &Path, table: &Table, tracked: Tracked, wall_ms: u64) -> io::Result<Loaded> {
    let began = Instant::now();
    make_sure_of_saving(path)?;
    let mut file = match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::Nothing),
        other => other?,
    };
    let mut restorer = Restorer::new(table, tracked, wall_ms);
    match read(&mut file, &mut restorer)? {
        Ok(()) => {
            let summary = restorer.finish();
            // However long that took, peers have grown older by as much.
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
            table.each(0, &mut |tracker| tracker.set_back(took));
            Ok(Loaded::State(summary))
        }
        Err(damage) => Ok(Loaded::Damaged(damage, move_aside(path)?)),
    }
}

fn read(file: &mut File, restorer: &mut Restorer) -> io::Result<Result<(), Damage>> {
    let mut reader = Reader::default();
    let mut piece = vec![0; PIECE];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return Ok(reader.finish()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let fed = reader.feed(&piece[..length], &mut |item| restorer.take(item));
        if fed.is_err() {
            return Ok(fed);
        }
    }
}

/// What `load` would end with, as far as that can be told without touching anything: a daemon may be saving
/// there.
pub fn check(path: &Path) -> io::Result<()> {
    match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path).join(".");
            fs::metadata(directory).map(drop)
        }
        other => other.map(drop),
    }
}

/// Makes and removes the file that a save would write first, so that a directory in which none can be
/// made is found now and not in ten minutes.
fn make_sure_of_saving(path: &Path) -> io::Result<()> {
    let probe = with_suffix(path, ".new");
    remove_if_there(&probe)?;
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    match made {
        // The keeper of one that was killed saves what it has yet: it can be done.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        other => drop(other?),
    }
    remove_if_there(&probe)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames to the first of `.damaged`, `.damaged.2`, `.damaged.3` and so on that is not taken.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 1..=MOST_ASIDE {
        let aside = match number {
            1 => with_suffix(path, ".damaged"),
            _ => with_suffix(path, &format!(".damaged.{number}")),
        };
        match fs::symlink_metadata(&aside) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return fs::rename(path, &aside).map(|()| aside);
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
