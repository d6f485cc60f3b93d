//! Everything that asks the operating system directly: all the `unsafe` there is, and every difference
//! between platforms, behind one name each.

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

use std::io;

/// The usual shape of a system call's result: negative is an error, which `errno` tells.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Whether standard error takes a line without waiting: a pipe that `poll` calls writable has room for
/// `PIPE_BUF` bytes (POSIX), which a line is not longer than; terminals and files take what they are
/// given.
pub fn stderr_is_writable() -> bool {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is to the one struct that the count says, alive for the call.
    let ready = unsafe { libc::poll(&raw mut stderr, 1, 0) };
    ready > 0
}
