//! A file that holds the id of the running process, and a lock on it for as long as it runs.
//!
//! It is the lock that counts, as with `pidfile(3)`: a file that a crash or a reboot left behind is not
//! mistaken for a running daemon, even where its number belongs to some other process by now.
//!
//! A user who may open the file may lock it, even one who may only read it. So the file is its owner's alone, and
//! its owner is the user that starts the daemon.

use super::check;
use super::files::is_at;
use super::privileges;
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Bytes of the longest file that is taken over: a process id, whoever wrote it.
const LONGEST: u64 = 16;

/// Nobody else may open it.
const MODE: u32 = 0o600;

/// How often a lock that is held is tried again: whoever removes a file that is left over has it for a
/// moment.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Where it is, also for a process that is in a chroot by now.
#[derive(Debug)]
pub struct Place {
    directory: File,
    name: CString,
    id: u32,
}

/// Makes the file, or takes over one that nobody holds, and writes this process's id into it. It is locked
/// until the file that is returned is closed. An error of kind `AlreadyExists` names the process that
/// holds it.
pub fn take(path: &Path) -> io::Result<(File, Place)> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let place = Place {
        directory: File::open(parent)?,
        name: CString::new(OsStr::as_bytes(name))?,
        id: std::process::id(),
    };
    let mut file = lock(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.set_len(0)?;
    writeln!(file, "{}", place.id)?;
    Ok((file, place))
}

/// Fails if [`take`] would refuse the file at this path. It does not open the file, and so cannot tell whether a daemon
/// holds it.
pub fn check_file(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => expect_pidfile(&metadata),
        Err(_) => Ok(()),
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    // Nobody's link is followed, and nothing is waited for.
    options
        .read(true)
        .write(true)
        .create(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut holder = ErrorKind::AlreadyExists.into();
    for _ in 0..TRIES {
        let file = options.open(path)?;
        let metadata = file.metadata()?;
        expect_pidfile(&metadata)?;
        match try_lock(&file) {
            // Unless it has been removed meanwhile, and the lock is on a file without a name.
            Ok(()) if is_at(path, &metadata) => return Ok(file),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                holder = held(&file, &metadata);
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Err(holder)
}

/// An error if this file is not to be taken over.
fn expect_pidfile(metadata: &Metadata) -> io::Result<()> {
    let (owner, user) = (metadata.uid(), privileges::user());
    let unfit = if !metadata.is_file() {
        String::from("not a file")
    } else if metadata.len() > LONGEST {
        // Somebody's configuration, say, that was named by mistake.
        String::from("not a pidfile")
    } else if owner != user {
        format!("owned by user {owner}, expected user {user}")
    } else {
        return Ok(());
    };
    Err(io::Error::new(ErrorKind::InvalidInput, unfit))
}

/// Locks the file until it is closed. The error of a file that another process has locked is `WouldBlock`.
fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(|_| ())
}

/// The error of a file that another process has locked. Of a file that an older version left with a wider mode, any
/// user may have locked it, and the process that it names may have ended.
fn held(file: &File, metadata: &Metadata) -> io::Error {
    let mode = metadata.mode() & 0o7777;
    let text = match read_id(file) {
        _ if mode & !MODE != 0 => format!(
            "locked, and mode {mode:04o} lets other users lock it: remove it if no daemon runs"
        ),
        Some(id) => format!("process {id} holds it"),
        None => String::from("another process holds it"),
    };
    io::Error::new(ErrorKind::AlreadyExists, text)
}

fn read_id(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    text.trim_end().parse().ok()
}

impl Place {
    /// Removes the file once the process that took it has ended, unless another has taken it since.
    pub fn tidy(&self) -> io::Result<()> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let directory = self.directory.as_raw_fd();
        // SAFETY: a C string that outlives the call; no mode is needed, as no file is made.
        let fd = check(unsafe { libc::openat(directory, self.name.as_ptr(), flags) })?;
        // SAFETY: it is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        for _ in 0..TRIES {
            let is_free = try_lock(&file).is_ok();
            if read_id(&file) != Some(self.id) {
                break;
            }
            if is_free {
                // SAFETY: a C string that outlives the call.
                check(unsafe { libc::unlinkat(directory, self.name.as_ptr(), 0) })?;
                break;
            }
            // The system is still closing what the process had open.
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_holds_it_and_what_is_left_over_is_taken_or_removed() {
        let path = std::env::temp_dir().join(format!("announced-pid-{}", std::process::id()));
        fs::write(&path, "12345678901\n").expect("can be written");
        let (locked, place) = take(&path).expect("nobody holds it");
        let id = std::process::id();
        assert_eq!(fs::read_to_string(&path).ok(), Some(format!("{id}\n")));
        let second = take(&path).expect_err("is held");
        assert_eq!(second.kind(), ErrorKind::AlreadyExists);
        assert_eq!(second.to_string(), format!("process {id} holds it"));
        assert!(place.tidy().is_ok());
        assert!(path.exists(), "a running process keeps its file");
        drop(locked);
        assert!(place.tidy().is_ok());
        assert!(!path.exists());
        assert!(check_file(&path).is_ok(), "a missing file is made");
        assert!(take(&std::env::temp_dir()).is_err());
        fs::write(&path, "what is this doing here?").expect("can be written");
        assert!(take(&path).is_err());
        assert_eq!(fs::read(&path).map_or(0, |text| text.len()), 24);
        assert!(fs::remove_file(&path).is_ok());
    }
}
