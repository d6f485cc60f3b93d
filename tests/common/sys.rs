//! System calls that the standard library does not have.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives a socket a receive buffer of this size, which the kernel doubles and no longer enlarges.
pub fn set_receive_buffer(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    socket2::SockRef::from(stream).set_recv_buffer_size(bytes)
}

/// The same beyond the limit of the system, which root may exceed.
pub fn force_receive_buffer(socket: BorrowedFd, bytes: libc::c_int) -> io::Result<()> {
    let (fd, value) = (socket.as_raw_fd(), (&raw const bytes).cast());
    let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
    // SAFETY: the kernel reads one int, whose size it is given.
    match unsafe { libc::setsockopt(fd, level, option, value, size_of_val(&bytes) as u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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

/// Passes a command these descriptors as 3, 4 and so on. They must be open when it starts.
pub fn pass(command: &mut Command, descriptors: &[BorrowedFd]) {
    let all: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let pass = move || {
        // First to numbers above those that are given, as one may have the number of another.
        for (fd, number) in all.iter().zip(100..) {
            duplicate(*fd, number)?;
        }
        (0..all.len() as RawFd).try_for_each(|index| duplicate(100 + index, 3 + index))
    };
    // SAFETY: it makes system calls alone.
    unsafe { command.pre_exec(pass) };
}

fn duplicate(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::dup2(from, to) } {
        number if number == to => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A thread of a child process that does nothing until this is dropped, while its other threads go on. A signal would
/// stop all of them; a debugger stops one. The calling thread is the debugger.
pub struct Hung(libc::pid_t);

impl Hung {
    pub fn new(thread: u32) -> io::Result<Hung> {
        let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
        ptrace(libc::PTRACE_SEIZE, thread)?;
        let hung = Hung(thread);
        ptrace(libc::PTRACE_INTERRUPT, thread)?;
        // SAFETY: takes numbers, and no pointer to a status.
        match unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) } {
            id if id == thread => Ok(hung),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Fails if the thread has ended.
        let _ = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: these requests take no pointer.
    match unsafe { libc::ptrace(request as _, thread, 0_usize, 0_usize) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
