//! A second process: how it comes to be, and what it needs that `std` leaves out.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Splits the process in two. The new one runs `child` and ends; nothing of what it holds is dropped.
/// There must be no other thread, since only this one would go on in the child.
///
/// Nobody needs to wait for the child: the system forgets it when it has ended.
pub fn fork(child: impl FnOnce()) -> io::Result<()> {
    // Before, so that no child can end unseen.
    super::signals::forget_children()?;
    // SAFETY: no pointers. There is one thread, so that the child may do whatever this one could.
    if check(unsafe { libc::fork() })? == 0 {
        child();
        // SAFETY: does not return. Unlike `exit` it leaves buffers alone that are the parent's too.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

/// Microseconds of a processor that this process has used.
pub fn cpu_us() -> u64 {
    // SAFETY: zeros are valid for a struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of the type that is asked for, alive for the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let us = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let rest = u64::try_from(time.tv_usec).unwrap_or(0);
        seconds * 1_000_000 + rest
    };
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Lets every other process go first. An error changes nothing that matters.
pub fn yield_to_others() {
    // SAFETY: no pointers.
    unsafe { libc::nice(19) };
}

/// Has the system end this process at once when the one that it was forked by has ended, whatever it waits for
/// then. Not every system can; and whoever becomes another user after this call must call it again.
#[cfg(target_os = "linux")]
pub fn end_with_parent() {
    // SAFETY: no pointers. It cannot fail, as this is a signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

#[cfg(target_os = "freebsd")]
pub fn end_with_parent() {
    let mut signal = libc::SIGKILL;
    // SAFETY: the pointer is to an integer, as wanted, alive for the call. It cannot fail, as this is a signal.
    unsafe {
        libc::procctl(
            libc::P_PID,
            0,
            libc::PROC_PDEATHSIG_CTL,
            (&raw mut signal).cast(),
        )
    };
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub fn end_with_parent() {}

/// Takes standard input, output and error away, and closes all else but what is to be kept.
pub fn keep_only(kept: &[BorrowedFd]) {
    if let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        for standard in 0..=libc::STDERR_FILENO {
            // SAFETY: no pointers; what the standard descriptors were, nobody else owns.
            unsafe { libc::dup2(null.as_raw_fd(), standard) };
        }
        // Closed below with the rest.
        std::mem::forget(null);
    }
    let is_kept = |fd| kept.iter().any(|kept| kept.as_raw_fd() == fd);
    let beyond = kept.iter().map(AsRawFd::as_raw_fd).max();
    let beyond = beyond.unwrap_or(libc::STDERR_FILENO) + 1;
    for fd in libc::STDERR_FILENO + 1..beyond {
        if !is_kept(fd) {
            // SAFETY: no pointers. Called in a new process, in which nothing uses what its parent
            // had open, and nothing is dropped.
            unsafe { libc::close(fd) };
        }
    }
    close_from(beyond);
}

#[cfg(target_os = "linux")]
fn close_from(first: libc::c_int) {
    // SAFETY: as for `close` above. The function of that name is missing in older C libraries.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if closed < 0 {
        close_each_from(first);
    }
}

#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
fn close_from(first: libc::c_int) {
    // SAFETY: as for `close` above.
    unsafe { libc::closefrom(first) };
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
use close_each_from as close_from;

/// Where there is no call for all: before Linux 5.9, and elsewhere.
#[cfg(not(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
fn close_each_from(first: libc::c_int) {
    for fd in first..1 << 16 {
        // SAFETY: as for `close` above.
        unsafe { libc::close(fd) };
    }
}

/// Waits until one of these has something to read, or is at its end, or for so many milliseconds; which of
/// them do.
pub fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd>; N],
    timeout: Option<u16>,
) -> io::Result<[bool; N]> {
    let timeout = timeout.map_or(-1, libc::c_int::from);
    let mut polled = fds.map(|fd| libc::pollfd {
        // A negative one is passed over.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the pointer is to as many structs as the count says, alive for the call.
    check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) })?;
    Ok(polled.map(|one| one.revents != 0))
}
