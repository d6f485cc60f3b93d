//! Files, opened with what `std` leaves out.

use super::check;
use super::privileges::{self, Identity};
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens a file for reading if it is a regular one. A FIFO would keep whoever opens or reads it waiting,
/// and a device may have no end.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    match kind.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}

/// Whether this name is still that file's, which others may have removed, or put theirs in its place.
pub fn is_at(path: &Path, file: &Metadata) -> bool {
    let at = std::fs::symlink_metadata(path);
    at.is_ok_and(|at| (at.dev(), at.ino()) == (file.dev(), file.ino()))
}

/// Opens a FIFO, not blocking, for reading and for writing: with a writer of its own it never comes to an
/// end. A missing one is made, for this owner (or, without, the user that this is) and for nobody else. One that
/// exists must be as [`expect_fifo`] says.
pub fn open_fifo(path: &Path, owner: Option<Identity>) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C string that outlives the call.
    let made = check(unsafe { libc::mkfifo(name.as_ptr(), 0o600) });
    let is_new = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        other => other.map(|_| true)?,
    };
    // Before it is opened, as that could do something to anything else.
    expect_fifo(&std::fs::metadata(path)?, owner)?;
    // Nobody may have put a link in the place of one that was just made.
    let flags = libc::O_NONBLOCK | if is_new { libc::O_NOFOLLOW } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    let file = options.open(path)?;
    expect_fifo(&file.metadata()?, owner)?;
    if is_new {
        // Whatever the umask has left.
        file.set_permissions(Permissions::from_mode(0o600))?;
        if let Some(Identity { uid, gid }) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
    }
    Ok(file)
}

/// An error unless this is a FIFO that belongs to root or to this owner (or, without, to the user that this is), and
/// that not every user may write. Its group may: that is the owner's choice.
pub fn expect_fifo(metadata: &Metadata, owner: Option<Identity>) -> io::Result<()> {
    let uid = metadata.uid();
    let user = owner.map_or_else(privileges::user, |owner| owner.uid);
    let unfit = if !metadata.file_type().is_fifo() {
        String::from("not a FIFO")
    } else if ![0, user].contains(&uid) {
        format!("owned by user {uid}, expected root or user {user}")
    } else if metadata.mode() & 0o002 != 0 {
        String::from("writable by every user")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, unfit))
}
