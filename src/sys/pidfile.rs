//! A file with the id of the running process, which holds a lock on it until it ends.
//!
//! Only the lock counts, as with `pidfile(3)`: a file left by a crash or a reboot is not mistaken for a running daemon,
//! even if its number belongs to some other process by now.
//!
//! A user who may open the file, if only to read it, may lock it. So only its owner may open it, and the owner is the
//! user that starts the daemon.
//!
//! The daemon keeps a descriptor that it cannot write through: root signals the process that the file names, so an
//! intruder who controls the daemon must not name another one.

use super::files::{directory, is_at, try_lock, unfit};
use super::privileges::{self, acting_as};
use super::{check, filled};
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// A longer file holds something else than a process id.
const MAX_BYTES: u64 = 16;

const MODE: u32 = 0o600;

/// How often a lock is tried: the helper of a daemon that has ended holds it for a moment.
const MAX_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// The file that was opened for writing, and apart from it for the lock, which is its owner's whatever it is open for.
struct Locked {
    file: File,
    lock: File,
}

/// The location of the file, which stays valid in a chroot, and the process that took it.
#[derive(Debug)]
pub struct Pidfile {
    directory: File,
    /// Opened apart from the one that is locked.
    file: File,
    name: CString,
    id: u32,
}

/// Creates the file, or takes over one that is not locked, and writes the id of this process into it. It is locked
/// until the returned file is closed. An error of kind `AlreadyExists` names the process that holds the lock.
pub fn take(path: &Path) -> io::Result<(File, Pidfile)> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let directory = File::open(directory(path))?;
    let Locked { mut file, lock } = lock(path)?;
    let pidfile = Pidfile {
        directory,
        file: flags(File::options().read(true)).open(path)?,
        name: CString::new(OsStr::as_bytes(name))?,
        id: std::process::id(),
    };
    if !pidfile.is_same(&file)? || !pidfile.is_same(&lock)? {
        return Err(unfit("replaced by another process"));
    }
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.set_len(0)?;
    writeln!(file, "{}", pidfile.id)?;
    Ok((lock, pidfile))
}

/// Fails if [`take`] would reject the file at this path. Does not open it, and so does not find out whether it is
/// locked.
pub fn check_file(path: &Path) -> io::Result<()> {
    std::fs::symlink_metadata(path).map_or(Ok(()), |metadata| expect_pidfile(&metadata))
}

/// Neither follows a link nor blocks on a FIFO.
fn flags(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

fn lock(path: &Path) -> io::Result<Locked> {
    let mut options = File::options();
    flags(options.read(true).write(true).create(true).mode(MODE));
    let mut holder = ErrorKind::AlreadyExists.into();
    for _ in 0..MAX_TRIES {
        let file = options.open(path)?;
        let metadata = file.metadata()?;
        expect_pidfile(&metadata)?;
        let lock = flags(File::options().read(true)).open(path)?;
        match try_lock(&lock) {
            // Unless the file has been removed meanwhile, and the lock is on a file without a name.
            Ok(()) if is_at(path, &metadata) => return Ok(Locked { file, lock }),
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
    if !metadata.is_file() {
        Err(unfit("not a file"))
    } else if metadata.len() > MAX_BYTES {
        // A configuration file, for example, that was named by mistake.
        Err(unfit("not a pidfile"))
    } else if owner != user {
        Err(unfit(format!(
            "owned by user {owner}, expected user {user}"
        )))
    } else {
        Ok(())
    }
}

/// The error of a file that another process has locked. If an older version left the file with a wider mode, any user
/// may have locked it, and the process that it names may have ended.
fn held(file: &File, metadata: &Metadata) -> io::Error {
    let mode = metadata.mode() & 0o7777;
    let text = match read_id(file) {
        _ if mode & !MODE != 0 => format!(
            "locked, and mode {mode:04o} lets other users lock it: remove it if no daemon runs"
        ),
        Some(id) => format!("locked by process {id}"),
        None => String::from("locked by another process"),
    };
    io::Error::new(ErrorKind::AlreadyExists, text)
}

fn read_id(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    text.trim_end().parse().ok()
}

impl Pidfile {
    /// Removes the file when the process that took it has ended, unless another process has taken it since. Without a
    /// capability for it, root may not change the directory of another user, so this acts as that user.
    pub fn remove(&self) -> io::Result<()> {
        for _ in 0..MAX_TRIES {
            let is_free = try_lock(&self.file).is_ok();
            if read_id(&self.file) != Some(self.id) {
                break;
            }
            if is_free {
                let owner = self.directory.metadata()?.uid();
                return acting_as(owner, || self.unlink());
            }
            // The system is still closing the descriptors of the process.
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn unlink(&self) -> io::Result<()> {
        let (directory, name) = (self.directory.as_raw_fd(), self.name.as_ptr());
        let no_follow = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: a struct of integers, filled by the call, and a C string that outlives it.
        let at: libc::stat =
            unsafe { filled(|stat| libc::fstatat(directory, name, stat, no_follow)) }?;
        // SAFETY: a struct of integers, filled by the call.
        let own: libc::stat = unsafe { filled(|stat| libc::fstat(self.file.as_raw_fd(), stat)) }?;
        if (at.st_dev, at.st_ino) != (own.st_dev, own.st_ino) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        // SAFETY: a C string that outlives the call.
        check(unsafe { libc::unlinkat(directory, name, 0) }).map(drop)
    }

    fn is_same(&self, file: &File) -> io::Result<bool> {
        let [own, other] = [self.file.metadata()?, file.metadata()?];
        Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
    }

    /// The descriptors that [`Pidfile::remove`] needs.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.directory.as_fd(), self.file.as_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_pidfile_has_one_holder_and_is_taken_over_or_removed_afterwards() {
        let path = std::env::temp_dir().join(format!("announced-pid-{}", std::process::id()));
        fs::write(&path, "12345678901\n").expect("can be written");
        let (locked, pidfile) = take(&path).expect("is free");
        let id = std::process::id();
        assert_eq!(fs::read_to_string(&path).ok(), Some(format!("{id}\n")));
        let second = take(&path).expect_err("is held");
        assert_eq!(second.kind(), ErrorKind::AlreadyExists);
        assert_eq!(second.to_string(), format!("locked by process {id}"));
        assert!(pidfile.remove().is_ok());
        assert!(path.exists(), "a running process keeps its file");
        drop(locked);
        assert!(pidfile.remove().is_ok());
        assert!(!path.exists());
        assert!(check_file(&path).is_ok(), "a missing file is made");
        assert!(take(&std::env::temp_dir()).is_err());
        fs::write(&path, "what is this doing here?").expect("can be written");
        assert!(take(&path).is_err());
        assert_eq!(fs::read(&path).map_or(0, |text| text.len()), 24);
        assert!(fs::remove_file(&path).is_ok());
    }
}
