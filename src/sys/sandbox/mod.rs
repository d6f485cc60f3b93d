//! Each process gives up for good what it does not need once it serves. Nobody who breaks in gets it back.
//!
//! On Linux these are capabilities, files and system calls, on OpenBSD what `pledge(2)` takes. FreeBSD's capsicum would
//! have to allow what `accept` and `mio` do.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod landlock;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The work of a process.
#[derive(Clone, Copy)]
pub enum Role<'a> {
    /// Serves clients. All files are open.
    Serve,
    /// The same, with Unix sockets, whose files it removes from these directories in the end.
    ServeUnix(&'a [&'a Path]),
    /// Reads files, and replaces those in this directory.
    Files(Option<&'a Path>),
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
    use super::landlock::{self, Files};
    use super::{Parts, Role, calls, seccomp};
    use std::io;

    /// The parts of which this build is capable.
    pub const NAME: &str = match seccomp::IS_SUPPORTED {
        true => "no new privileges, no capabilities, Landlock, seccomp",
        false => "no new privileges, no capabilities, Landlock",
    };

    /// The filter needs the first part. It comes last, as it refuses the calls of the others.
    pub fn enter(role: Role) -> io::Result<Parts> {
        let mut parts = vec![("no new privileges".into(), forgo_privileges())];
        if !privileges::is_root() {
            parts.push(("no capabilities".into(), capabilities::keep_only(&[])));
        }
        if let Some(files) = files(&role) {
            let version = landlock::version();
            let name = version.as_ref().map_or(String::new(), |v| format!(" {v}"));
            let entered = version.and_then(|version| landlock::enter(version, &files));
            parts.push((format!("Landlock{name}"), entered));
        }
        let table = match role {
            Role::Serve => &calls::SERVE,
            Role::ServeUnix(_) => &calls::SERVE_UNIX,
            Role::Files(_) => &calls::FILES,
            Role::Names => &calls::NAMES,
            Role::Monitor => &calls::MONITOR,
        };
        parts.push(("seccomp".into(), seccomp::enter(table)));
        Ok(parts)
    }

    /// Those that a process needs. Lists may be behind links that change at any time. The monitor removes the pidfile.
    fn files<'a>(role: &'a Role) -> Option<Files<'a>> {
        let none = Files {
            may_read: false,
            replaced: &[],
            removed: &[],
            is_alone: true,
        };
        Some(match role {
            Role::Serve => none,
            Role::ServeUnix(removed) => Files { removed, ..none },
            Role::Files(replaced) => Files {
                may_read: true,
                replaced: replaced.as_slice(),
                ..none
            },
            // Programs of others may talk to name services in any way.
            Role::Names => Files {
                may_read: true,
                is_alone: false,
                ..none
            },
            Role::Monitor => return None,
        })
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
            // The monitor sends the socket to a new helper process, and live sync joins its group again.
            Role::Serve => c"stdio inet mcast recvfd",
            Role::ServeUnix(_) => c"stdio inet mcast recvfd unix rpath cpath",
            Role::Files(_) => c"stdio rpath wpath cpath flock",
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
