//! What the process gives up for good once it serves.
//!
//! On OpenBSD it promises to use nothing but its sockets, and to remove their files. FreeBSD's capsicum
//! and Linux's seccomp belong here too: both would have to allow what `accept` and `mio` do.

use std::io;

/// For the process that reads and writes files.
#[cfg(target_os = "openbsd")]
pub fn enter_with_files() -> io::Result<()> {
    // SAFETY: as below.
    super::check(unsafe {
        libc::pledge(c"stdio rpath wpath cpath flock".as_ptr(), std::ptr::null())
    })?;
    Ok(())
}

#[cfg(not(target_os = "openbsd"))]
pub fn enter_with_files() -> io::Result<()> {
    Ok(())
}

/// For the process that resolves names.
#[cfg(target_os = "openbsd")]
pub fn enter_with_names() -> io::Result<()> {
    // SAFETY: as below.
    super::check(unsafe { libc::pledge(c"stdio dns".as_ptr(), std::ptr::null()) })?;
    Ok(())
}

#[cfg(not(target_os = "openbsd"))]
pub fn enter_with_names() -> io::Result<()> {
    Ok(())
}

/// For the process that serves; `has_files` says whether files of sockets are to be removed in the end.
#[cfg(target_os = "openbsd")]
pub fn enter(has_files: bool) -> io::Result<()> {
    let promises = match has_files {
        true => c"stdio inet unix rpath cpath",
        false => c"stdio inet",
    };
    // SAFETY: a static C string, and null for "no promises for a new program".
    super::check(unsafe { libc::pledge(promises.as_ptr(), std::ptr::null()) })?;
    Ok(())
}

#[cfg(not(target_os = "openbsd"))]
pub fn enter(_: bool) -> io::Result<()> {
    Ok(())
}
