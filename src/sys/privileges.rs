//! Dropping root's privileges for good.

use super::{capabilities, check, sandbox};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A user, and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// The effective user of this process.
pub fn user() -> u32 {
    // SAFETY: cannot fail and takes nothing.
    unsafe { libc::geteuid() }
}

pub fn is_root() -> bool {
    user() == 0
}

/// Room for the strings of a user. An entry of a directory service may be long.
const MAX_STRING_BYTES: usize = 1024 * 1024;

/// Looks a user up by name; none if there is no such user. Reads files: call it before [`enter`].
pub fn find_user(name: &OsStr) -> io::Result<Option<Identity>> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: zeros are valid for a struct of integers and pointers that the call fills.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    let mut strings = vec![0; MAX_STRING_BYTES];
    let (name, buffer) = (name.as_ptr(), strings.as_mut_ptr());
    // SAFETY: all pointers are to values of the right type that outlive the call, and the size is that of the buffer.
    let error = unsafe {
        libc::getpwnam_r(
            name,
            &raw mut entry,
            buffer,
            MAX_STRING_BYTES,
            &raw mut found,
        )
    };
    match error {
        // Some systems report a missing user as an error.
        0 | libc::ENOENT | libc::ESRCH if found.is_null() => Ok(None),
        0 => Ok(Some(Identity {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        })),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Enters a directory: for root it becomes the root directory, for other users the working directory.
pub fn enter(root: &Path) -> io::Result<()> {
    if !is_root() {
        return std::env::set_current_dir(root);
    }
    let path = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: a C string that outlives the call.
    check(unsafe { libc::chroot(path.as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Does this as another user, whose rights to files and processes count meanwhile. Root needs it if it has no
/// capability to override them. Other users do it as themselves.
pub fn acting_as<T>(uid: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = user();
    if own != 0 {
        return work();
    }
    // SAFETY: system calls without pointers. The real id stays root's, so there is a way back.
    check(unsafe { libc::seteuid(uid) })?;
    let done = work();
    // SAFETY: likewise.
    check(unsafe { libc::seteuid(own) })?;
    done
}

/// Becomes this user: supplementary groups, group, user, in this order. Then checks that there is no way back.
pub fn become_user(Identity { uid, gid }: Identity) -> io::Result<()> {
    if sandbox::is_on() {
        // A sandbox around this one may forbid it; the user has none of them in any case.
        let _ = capabilities::keep_only(&[capabilities::SETGID, capabilities::SETUID]);
    }
    // SAFETY: the pointer is to one group, as the count says.
    check(unsafe { libc::setgroups(1, &raw const gid) })?;
    // SAFETY: system calls without pointers. As root they set real, effective and saved ids.
    unsafe {
        check(libc::setgid(gid))?;
        check(libc::setuid(uid))?;
    }
    // SAFETY: system calls without pointers.
    let is_final = unsafe {
        [libc::getuid(), libc::geteuid()] == [uid; 2]
            && [libc::getgid(), libc::getegid()] == [gid; 2]
            && (uid == 0 || libc::setuid(0) != 0)
    };
    match is_final {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}
