//! System calls that the standard library does not have.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Gives a socket a receive buffer of this size, which the kernel doubles and no longer enlarges.
pub fn set_receive_buffer(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    socket2::SockRef::from(stream).set_recv_buffer_size(bytes)
}

/// Moves the calling thread, and no other, into the network of this file: `/proc/PID/ns/net` or what
/// `ip netns` makes.
pub fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: takes two numbers.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
