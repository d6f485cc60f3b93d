//! Landlock, Linux's rules for files (`landlock(7)`): a process and those that it forks open, create and remove only
//! what these allow. Files that are open stay so.
//!
//! The calls and constants are those of linux/landlock.h; `libc` has only the numbers of the calls.

use super::super::check;
use libc::{c_int, c_long};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The last version of the kernel's interface of which the rights below are.
const MAX_VERSION: c_int = 6;

const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const READ: u64 = READ_FILE | READ_DIR;

const WRITE_FILE: u64 = 1 << 1;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REG: u64 = 1 << 8;
const TRUNCATE: u64 = 1 << 14;
const REPLACE: u64 = WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE;

/// The rights that each version knows, from the first: execute to make-symlink, refer, truncate, and ioctl of devices.
const RIGHTS: [u64; 5] = [
    (1 << 13) - 1,
    (1 << 14) - 1,
    (1 << 15) - 1,
    (1 << 15) - 1,
    (1 << 16) - 1,
];

/// Sockets in the abstract namespace, and signals, of processes outside.
const SCOPES: u64 = 0b11;

/// The files that a process may use from now on.
pub struct Files<'a> {
    /// Whether it may read all that its user may read.
    pub may_read: bool,
    /// Directories whose files it may create, write, replace and remove.
    pub replaced: &'a [&'a Path],
    /// Directories whose files it may remove.
    pub removed: &'a [&'a Path],
    /// Whether it may neither connect to abstract sockets nor send signals to other processes.
    pub is_alone: bool,
}

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: c_int,
}

/// The version that the kernel has, as far as it is known here.
pub fn version() -> io::Result<c_int> {
    const VERSION: c_int = 1;
    let (none, zero) = (std::ptr::null::<Ruleset>(), 0_usize);
    // SAFETY: with this flag the call takes no ruleset.
    let version =
        call(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, zero, VERSION) })?;
    Ok(version.clamp(1, MAX_VERSION))
}

/// `PR_SET_NO_NEW_PRIVS` must be set.
pub fn enter(version: c_int, files: &Files) -> io::Result<()> {
    let known = usize::try_from(version).unwrap_or(1).min(RIGHTS.len());
    let all = RIGHTS[known - 1];
    let ruleset = Ruleset {
        files: all,
        network: 0,
        scopes: if version >= 6 && files.is_alone {
            SCOPES
        } else {
            0
        },
    };
    // Kernels that know a shorter struct accept zeros behind it.
    let size = size_of::<Ruleset>();
    // SAFETY: the pointer is to a struct of this size, alive for the call. The descriptor is new and has one owner.
    let rules = unsafe {
        let pointer = &raw const ruleset;
        OwnedFd::from_raw_fd(call(libc::syscall(
            libc::SYS_landlock_create_ruleset,
            pointer,
            size,
            0,
        ))?)
    };
    if files.may_read {
        allow(&rules, Path::new("/"), READ & all)?;
    }
    for (directories, rights) in [(files.replaced, REPLACE), (files.removed, REMOVE_FILE)] {
        for directory in directories {
            // One that is not there, or that the user may not enter.
            let _ = allow(&rules, directory, rights & all);
        }
    }
    // SAFETY: without pointers.
    call(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) })?;
    Ok(())
}

/// Allows this in a directory and below.
fn allow(rules: &OwnedFd, directory: &Path, allowed: u64) -> io::Result<()> {
    const PATH_BENEATH: c_int = 1;
    let mut options = File::options();
    let opened = options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let opened = opened.open(directory)?;
    let rule = Beneath {
        allowed,
        parent: opened.as_raw_fd(),
    };
    let (rules, rule) = (rules.as_raw_fd(), &raw const rule);
    // SAFETY: the pointer is to a struct of this kind, alive for the call.
    call(unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules, PATH_BENEATH, rule, 0) })?;
    Ok(())
}

/// The results of these calls are descriptors or small numbers.
fn call(result: c_long) -> io::Result<c_int> {
    check(c_int::try_from(result).unwrap_or(-1))
}
