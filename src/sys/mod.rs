//! System calls that `std` and `mio` lack: all `unsafe`, and every difference between systems, one name each.
//!
//! The systems are Linux, FreeBSD, NetBSD and OpenBSD.

#![allow(unsafe_code)]

mod address;
pub mod chunks;
pub mod cores;
pub mod daemon;
pub mod files;
pub mod limits;
pub mod memory;
pub mod mmsg;
pub mod pidfile;
pub mod privileges;
pub mod process;
pub mod sandbox;
pub mod signals;
pub mod sockets;
pub mod syslog;
pub mod uptime;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// The usual result of a system call: negative is an error, whose number is in `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Whether a datagram was not sent for lack of room. The BSDs have their own error for that.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// A C struct that a system call fills.
///
/// # Safety
///
/// Zeros are valid for `T`, and the call writes no more than one.
unsafe fn filled<T>(call: impl FnOnce(*mut T) -> libc::c_int) -> io::Result<T> {
    // SAFETY: as the caller promises.
    let mut value = unsafe { std::mem::zeroed() };
    check(call(&raw mut value))?;
    Ok(value)
}

/// Standard output without `std`'s buffer, whose code is larger than all that is printed.
pub fn stdout() -> io::Result<File> {
    // SAFETY: it is open: if it was not, `std` has opened it at the start, and nothing closes it.
    let stdout = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
    Ok(stdout.try_clone_to_owned()?.into())
}
