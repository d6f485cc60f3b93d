//! Everything that asks the operating system directly: all the `unsafe` there is, and every difference
//! between platforms, behind one name each.

#![allow(unsafe_code)]

mod address;
pub mod limits;
pub mod mmsg;
pub mod prefetch;
pub mod privileges;
pub mod sandbox;
pub mod signals;
pub mod sockets;

use std::io;

/// The usual shape of a system call's result: negative is an error, which `errno` tells.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
