//! System calls that `std` and `mio` lack: all `unsafe`, and every difference between systems, one name each.
//!
//! The systems are Linux, FreeBSD, NetBSD and OpenBSD.

#![allow(unsafe_code)]

mod address;
#[cfg(target_os = "linux")]
mod bpf;
pub mod capabilities;
pub mod chunks;
pub mod cores;
pub mod daemon;
pub mod descriptors;
pub mod files;
pub mod host_memory;
pub mod limits;
pub mod manager;
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

use std::env::consts;
use std::ffi::CStr;
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

/// Whether a datagram was not sent for lack of room.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || is_short_of_memory(error)
}

/// Whether the system has no memory for a datagram. The BSDs also say so if it had to wait.
fn is_short_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
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

/// The system and processor that this program was compiled for: `x86_64-linux-gnu, 64-bit, little-endian`. Cargo tells
/// the exact name of the target to build scripts only.
pub fn target() -> String {
    let environment = match (cfg!(target_env = "gnu"), cfg!(target_env = "musl")) {
        (true, _) => "-gnu",
        (_, true) => "-musl",
        _ => "",
    };
    let endian = if cfg!(target_endian = "big") {
        "big"
    } else {
        "little"
    };
    let (processor, system, bits) = (consts::ARCH, consts::OS, usize::BITS);
    format!("{processor}-{system}{environment}, {bits}-bit, {endian}-endian")
}

/// The resources that the process has used.
fn usage() -> io::Result<libc::rusage> {
    // SAFETY: a struct of integers, filled by the call.
    unsafe { filled(|usage| libc::getrusage(libc::RUSAGE_SELF, usage)) }
}

/// The name of the host; empty if it is not UTF-8.
pub fn host_name() -> String {
    // Longer than the maximum of every system.
    let mut name = [0_u8; 512];
    // SAFETY: room for so many bytes but one, so that a zero follows in any case.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    name.to_str().unwrap_or_default().to_owned()
}

/// Standard output without `std`'s buffer, whose code is larger than all that is printed.
pub fn stdout() -> io::Result<File> {
    // SAFETY: it is open: if it was not, `std` has opened it at the start, and nothing closes it.
    let stdout = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
    Ok(stdout.try_clone_to_owned()?.into())
}
