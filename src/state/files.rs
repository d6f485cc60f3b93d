//! The state file at the start: loaded before the first request, and moved aside if it is damaged.

use super::read::{Damage, read_items};
use super::restore::{Restorer, Summary};
use super::{MAGIC, VERSION};
use crate::sys::files::{create_beside, open_regular, reserve, with_suffix};
use crate::tracker::{Table, Tracked};
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Names that are tried for a damaged file.
const MAX_ASIDE: u32 = 1000;

#[derive(Debug)]
pub enum Loaded {
    /// There is no file: the first start.
    Nothing,
    State(Summary),
    /// The file was moved to this path. The table holds what was loaded before the damage was found, and is of no use.
    Damaged(Damage, PathBuf),
}

/// Loads a state into a new table, except for torrents that are not tracked. `wall_ms` is now, in milliseconds since
/// 1970. An error is one of the file system: the file cannot be read, or another daemon saves to it. The file of a
/// newer release is one, too, of kind `Unsupported`.
pub fn load(path: &Path, table: &Table, tracked: Tracked, wall_ms: u64) -> io::Result<Loaded> {
    let began = Instant::now();
    // Reserved until the process ends, as it saves to this path.
    std::mem::forget(reserve(path)?);
    let file = match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::Nothing),
        other => other?,
    };
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    refuse_newer(&mut file)?;
    let mut restorer = Restorer::new(table, tracked, wall_ms);
    match read_items(&mut file, &mut |item| restorer.take(item))? {
        Ok(()) => {
            let summary = restorer.finish();
            // Peers have grown older while they were loaded.
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
            table.each(0, &mut |tracker| tracker.move_clock(took));
            Ok(Loaded::State(summary))
        }
        Err(damage) => Ok(Loaded::Damaged(damage, move_aside(path)?)),
    }
}

/// Finds the errors of [`load`] that can be found without changing a file: a daemon may be saving there.
pub fn check(path: &Path) -> io::Result<()> {
    match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path).join(".");
            fs::metadata(directory).map(drop)
        }
        other => refuse_newer(&mut BufReader::new(other?)),
    }
}

/// An error if a newer release has written this. It stays in place for that release.
fn refuse_newer(file: &mut impl BufRead) -> io::Result<()> {
    let rest = file.fill_buf()?.strip_prefix(&MAGIC);
    let version = rest.and_then(<[u8]>::first_chunk);
    match version.map(|version| u32::from_be_bytes(*version)) {
        Some(version) if version > VERSION => Err(io::Error::new(
            ErrorKind::Unsupported,
            format!("format version {version} of a newer release, expected 1 to {VERSION}"),
        )),
        _ => Ok(()),
    }
}

/// Creates and removes the file that a save would write first, so that a directory in which none can be created is
/// found now and not in ten minutes.
pub fn check_saving(path: &Path) -> io::Result<()> {
    let _reserved = reserve(path)?;
    match create_beside(path) {
        // The helper of a daemon that was killed is still saving, so saving works.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // If it cannot be removed, the next save does it.
        made => made.map(|(_, new)| drop(fs::remove_file(new))),
    }
}

/// Renames to the first of `.damaged`, `.damaged.2`, `.damaged.3` and so on that does not exist.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 1..=MAX_ASIDE {
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
