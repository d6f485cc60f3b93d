//! OpenBSD's `pledge(2)`: each process gives up for good what it does not need once it serves.
//!
//! FreeBSD's capsicum and Linux's seccomp would belong here too, but would have to allow what `accept` and `mio` do.

use std::ffi::CStr;
use std::io;

/// For the process that reads and writes files.
pub const FILES: &CStr = c"stdio rpath wpath cpath flock";

/// For the process that resolves names.
pub const NAMES: &CStr = c"stdio dns";

/// For the process that serves, without and with Unix sockets, whose files it removes in the end.
pub const SERVE: &CStr = c"stdio inet";
pub const SERVE_UNIX: &CStr = c"stdio inet unix rpath cpath";

/// The system call that confines this build, if there is one.
pub const NAME: Option<&str> = if cfg!(target_os = "openbsd") {
    Some("pledge")
} else {
    None
};

#[cfg(target_os = "openbsd")]
pub fn enter(promises: &CStr) -> io::Result<()> {
    // SAFETY: a C string that outlives the call, and null for "no promises for a new program".
    super::check(unsafe { libc::pledge(promises.as_ptr(), std::ptr::null()) })?;
    Ok(())
}

#[cfg(not(target_os = "openbsd"))]
pub fn enter(_: &CStr) -> io::Result<()> {
    Ok(())
}
