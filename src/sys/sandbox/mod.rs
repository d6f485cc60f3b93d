//! Each process gives up for good what it does not need once it serves. Nobody who breaks in gets it back.
//!
//! On Linux these are capabilities and system calls, on OpenBSD what `pledge(2)` takes. FreeBSD's capsicum would have
//! to allow what `accept` and `mio` do.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The work of a process.
#[derive(Clone, Copy)]
pub enum Role {
    /// Serves clients, without and with Unix sockets, whose files it removes in the end.
    Serve,
    ServeUnix,
    /// Reads and writes files.
    Files,
    /// Resolves names.
    Names,
    /// Starts processes of the last two kinds, and ends them. They inherit its sandbox.
    Monitor,
}

/// The parts of the sandbox by name, each with the reason if it is not there.
pub type Parts = Vec<(String, io::Result<()>)>;

static IS_OFF: AtomicBool = AtomicBool::new(false);

/// For `--no-sandbox`: neither this process nor those that it forks enter a sandbox.
pub fn turn_off() {
    IS_OFF.store(true, Ordering::Relaxed);
}

/// Confines this process, which has no other thread, to its work; none if the sandbox is off.
pub fn enter(role: Role) -> io::Result<Option<Parts>> {
    is_on().then(|| system::enter(role)).transpose()
}

/// Whether processes enter a sandbox.
pub(super) fn is_on() -> bool {
    !IS_OFF.load(Ordering::Relaxed)
}

pub use system::NAME;

#[cfg(target_os = "linux")]
mod system {
    use super::super::{capabilities, check, privileges};
    use super::{Parts, Role, calls, seccomp};
    use std::io;

    /// The parts of which this build is capable.
    pub const NAME: &str = match seccomp::IS_SUPPORTED {
        true => "no new privileges, no capabilities, seccomp",
        false => "no new privileges, no capabilities",
    };

    /// The filter needs the first part. It comes last, as it refuses the calls of the others.
    pub fn enter(role: Role) -> io::Result<Parts> {
        let mut parts = vec![("no new privileges".into(), forgo_privileges())];
        if !privileges::is_root() {
            parts.push(("no capabilities".into(), capabilities::keep_only(&[])));
        }
        let table = match role {
            Role::Serve | Role::ServeUnix => &calls::SERVE,
            Role::Files => &calls::FILES,
            Role::Names => &calls::NAMES,
            Role::Monitor => &calls::MONITOR,
        };
        parts.push(("seccomp".into(), seccomp::enter(table)));
        Ok(parts)
    }

    /// No program that is executed gets any privilege, not even one that is setuid.
    fn forgo_privileges() -> io::Result<()> {
        let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
        let option = libc::PR_SET_NO_NEW_PRIVS;
        // SAFETY: no pointers.
        check(unsafe { libc::prctl(option, yes, unused, unused, unused) }).map(drop)
    }
}

#[cfg(target_os = "openbsd")]
mod system {
    use super::{Parts, Role};
    use std::io;

    pub const NAME: &str = "pledge";

    pub fn enter(role: Role) -> io::Result<Parts> {
        let promises = match role {
            Role::Serve => c"stdio inet",
            Role::ServeUnix => c"stdio inet unix rpath cpath",
            Role::Files => c"stdio rpath wpath cpath flock",
            Role::Names => c"stdio dns",
            // Its children pledge themselves.
            Role::Monitor => return Ok(Vec::new()),
        };
        // SAFETY: a C string that outlives the call, and null for "no promises for a new program".
        let pledged = unsafe { libc::pledge(promises.as_ptr(), std::ptr::null()) };
        super::super::check(pledged)?;
        Ok(vec![(NAME.into(), Ok(()))])
    }
}

#[cfg(not(any(target_os = "linux", target_os = "openbsd")))]
mod system {
    use super::{Parts, Role};
    use std::io;

    pub const NAME: &str = "none";

    pub fn enter(_: Role) -> io::Result<Parts> {
        Ok(Vec::new())
    }
}
