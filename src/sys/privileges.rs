//! From root to nobody, for good.

use super::check;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A user, and the group that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// The user that this process is.
pub fn user() -> u32 {
    // SAFETY: cannot fail and takes nothing.
    unsafe { libc::geteuid() }
}

pub fn is_root() -> bool {
    user() == 0
}

/// Bytes of a user's strings for which there is room at first, and at most. An entry of a directory service may
/// be long.
const STRINGS: usize = 16 * 1024;
const MAX_STRINGS: usize = 16 * 1024 * 1024;

/// Looks a user up by name; none if there is no such user. May read files: not after [`enter`].
pub fn find_user(name: &OsStr) -> io::Result<Option<Identity>> {
    let name = CString::new(name.as_bytes())?;
    let mut size = STRINGS;
    loop {
        match find_within(&name, size) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && size < MAX_STRINGS => {
                size *= 2;
            }
            other => return other,
        }
    }
}

/// The same with room for so many bytes of strings; `ERANGE` if the entry has more.
fn find_within(name: &CStr, size: usize) -> io::Result<Option<Identity>> {
    // SAFETY: zeros are valid for a struct of integers and pointers that the call fills.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    let mut strings = vec![0; size];
    // SAFETY: all pointers are to things of the right type that outlive the call, and the buffer's
    // size is its own.
    let error = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut entry,
            strings.as_mut_ptr(),
            strings.len(),
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

/// Enters a directory: as root it becomes the root of all paths, else the working directory.
pub fn enter(root: &Path) -> io::Result<()> {
    match is_root() {
        true => confine(root),
        false => std::env::set_current_dir(root),
    }
}

/// Makes a directory the root of all paths.
fn confine(root: &Path) -> io::Result<()> {
    let path = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: a C string that outlives the call.
    check(unsafe { libc::chroot(path.as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Becomes this user and nobody else: supplementary groups, group, user, in this order, and then
/// makes sure that there is no way back.
pub fn become_user(Identity { uid, gid }: Identity) -> io::Result<()> {
    // SAFETY: the pointer is to one group, as the count says.
    check(unsafe { libc::setgroups(1, &raw const gid) })?;
    // SAFETY: system calls without pointers. As root they set real, effective and saved ids.
    unsafe {
        check(libc::setgid(gid))?;
        check(libc::setuid(uid))?;
    }
    // SAFETY: system calls without pointers.
    let (uids, gids, back) = unsafe {
        (
            [libc::getuid(), libc::geteuid()],
            [libc::getgid(), libc::getegid()],
            libc::setuid(0),
        )
    };
    if uids != [uid; 2] || gids != [gid; 2] || (back == 0 && uid != 0) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}
