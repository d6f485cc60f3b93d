//! Files, opened with checks that `std` lacks.

use super::check;
use super::privileges;
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Opens a regular file for reading. Opening or reading a FIFO would block, and a device may have no end.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => Err(unfit("not a regular file")),
    }
}

/// A right to a file, or to a directory.
#[derive(Clone, Copy)]
pub enum Right {
    Read,
    Write,
    Search,
}

/// An error if the current user lacks this right. To find that out touches nothing.
pub fn may(path: &Path, right: Right) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let right = match right {
        Right::Read => libc::R_OK,
        Right::Write => libc::W_OK,
        Right::Search => libc::X_OK,
    };
    // SAFETY: a C string that outlives the call.
    check(unsafe { libc::access(path.as_ptr(), right) }).map(drop)
}

/// Creates the file that is to replace this one when it is complete, beside it and with `.new` behind its name. It is
/// created anew, so that no link or file of another user can stand in its place. Only its owner may read it.
pub fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let new = with_suffix(path, ".new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    Ok((options.open(&new)?, new))
}

/// Locks the file until it is closed. `WouldBlock` if another process has locked it.
pub(super) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(|_| ())
}

/// Reserves a path for one process, until the returned file is closed. The lock is on a file with `.lock` behind its
/// name, as the file itself is replaced. That one is never removed: two processes could then hold one each.
pub fn reserve(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(with_suffix(path, ".lock"))?;
    match try_lock(&file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(unfit("locked by another process"))
        }
        // Not every file system has locks.
        _ => Ok(file),
    }
}

/// The directory in which a file is.
pub fn directory(file: &Path) -> &Path {
    let parent = file.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The error of a file that must not be used.
pub(super) fn unfit(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

/// Whether this path still leads to that file, which others may have removed or replaced.
pub fn is_at(path: &Path, file: &Metadata) -> bool {
    let at = std::fs::symlink_metadata(path);
    at.is_ok_and(|at| (at.dev(), at.ino()) == (file.dev(), file.ino()))
}

/// Opens a FIFO for reading and writing, non-blocking: with a writer in this process it has no end. A missing FIFO is
/// created for the current user, and no other. An existing one must pass [`expect_fifo`].
pub fn open_fifo(path: &Path) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C string that outlives the call.
    let made = check(unsafe { libc::mkfifo(name.as_ptr(), 0o600) });
    let is_new = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        other => other.map(|_| true)?,
    };
    // Before it is opened, as opening anything else could have effects.
    expect_fifo(&std::fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    expect_fifo(&file.metadata()?)?;
    if is_new {
        // In spite of the umask.
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// An error unless this is a FIFO that belongs to root or to the current user, and that not every user may write. Its
/// group may: that is the choice of the owner.
pub fn expect_fifo(metadata: &Metadata) -> io::Result<()> {
    let (uid, user) = (metadata.uid(), privileges::user());
    if !metadata.file_type().is_fifo() {
        Err(unfit("not a FIFO"))
    } else if ![0, user].contains(&uid) {
        Err(unfit(format!(
            "owned by user {uid}, expected root or user {user}"
        )))
    } else if metadata.mode() & 0o002 != 0 {
        Err(unfit("writable by every user"))
    } else {
        Ok(())
    }
}
