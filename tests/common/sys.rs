//! The system calls that the standard library does not have.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a socket a receive buffer of this size, which the kernel doubles and no longer enlarges.
pub fn set_receive_buffer(stream: &TcpStream, size: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to an int of the size given, alive for the call.
    check(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// Moves the calling thread, and no other, into the network of this file: `/proc/PID/ns/net` or what
/// `ip netns` makes.
pub fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: takes two numbers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// A new Ethernet device in the calling thread's network, which goes when the file is closed. What the network sends
/// through it is read, a frame at a time, and what is written it receives.
pub fn tap(name: &str) -> io::Result<File> {
    let tap = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all bits 0 is a valid ifreq: a name, and a union of numbers and a pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let (_, room) = request.ifr_name.split_last_mut().expect("16 bytes");
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is an ifreq, as TUNSETIFF wants, with a name that ends in 0.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(tap)
}
