//! Child processes, the polling of single descriptors, and the kind of standard error.

use super::{check, usage};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;

/// A child process, by its id.
#[derive(Debug)]
pub struct Forked(libc::pid_t);

/// Forks. The new process runs `child` and exits without dropping anything. There must be no other thread, since only
/// the calling one goes on in the child. The child needs no `wait`: the system reaps it.
pub fn fork(child: impl FnOnce()) -> io::Result<Forked> {
    super::signals::reap_children()?;
    // SAFETY: no pointers. There is one thread, so the child may do all that this one could.
    let id = check(unsafe { libc::fork() })?;
    if id == 0 {
        child();
        // SAFETY: does not return. Unlike `exit` it does not flush buffers, which are copies of the parent's.
        unsafe { libc::_exit(0) }
    }
    Ok(Forked(id))
}

impl Forked {
    /// Ends the process, even if it is stopped. It must not have ended yet.
    pub fn kill(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        check(unsafe { libc::kill(self.0, libc::SIGKILL) }).map(drop)
    }
}

/// Gives all other processes precedence on the CPU. A failure does no harm.
pub fn yield_to_others() {
    // SAFETY: no pointers.
    unsafe { libc::nice(19) };
}

/// Opens /dev/null for [`redirect_standard`], before a chroot, which may lack it.
pub(super) fn open_null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Redirects standard input, output and error to this file, except the kept descriptors.
pub(super) fn redirect_standard(to: &File, kept: &[RawFd]) -> io::Result<()> {
    for standard in (0..=libc::STDERR_FILENO).filter(|fd| !kept.contains(fd)) {
        // SAFETY: no pointers. `std` finds its descriptors under the same numbers.
        check(unsafe { libc::dup2(to.as_raw_fd(), standard) })?;
    }
    Ok(())
}

/// In a new process: redirects standard input, output and error to /dev/null, and closes all other descriptors but
/// these.
pub fn keep_only(kept: &[BorrowedFd]) {
    let kept: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    // If /dev/null is missing, the process keeps those of its parent.
    let _ = open_null().and_then(|null| redirect_standard(&null, &kept));
    let last = kept.iter().copied().fold(libc::STDERR_FILENO, i32::max);
    let between = libc::STDERR_FILENO + 1..last;
    for fd in between.filter(|fd| !kept.contains(fd)) {
        // SAFETY: no pointers. Nothing uses what the parent had open, and nothing is dropped.
        unsafe { libc::close(fd) };
    }
    close_from(last + 1);
}

#[cfg(target_os = "linux")]
fn close_from(first: libc::c_int) {
    // SAFETY: as for `close` above. Older C libraries lack the function `close_range`.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if closed < 0 {
        // Before Linux 5.9.
        for fd in first..1 << 16 {
            // SAFETY: likewise.
            unsafe { libc::close(fd) };
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn close_from(first: libc::c_int) {
    // SAFETY: as for `close` above.
    unsafe { libc::closefrom(first) };
}

/// Waits until one of these is readable or at its end, or for so many milliseconds; which of them are.
pub fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd>; N],
    timeout_ms: Option<u16>,
) -> io::Result<[bool; N]> {
    let timeout = timeout_ms.map_or(-1, libc::c_int::from);
    // The system skips a negative descriptor.
    let fds = fds.map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()));
    poll(fds, libc::POLLIN, timeout)
}

/// Whether standard error takes a line without blocking. A pipe that `poll` reports writable has room for `PIPE_BUF`
/// bytes (POSIX), which is at least a line. Terminals and files always take it.
pub fn is_stderr_writable() -> bool {
    poll([libc::STDERR_FILENO], libc::POLLOUT, 0).is_ok_and(|[is_ready]| is_ready)
}

/// Whether standard error leads to systemd's journal: `JOURNAL_STREAM` has its device and inode. A process that
/// redirects standard error passes the variable on too.
pub fn is_stderr_journal() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let status = stderr.and_then(|stderr| File::from(stderr).metadata());
    let journal = std::env::var("JOURNAL_STREAM");
    status.is_ok_and(|own| journal.is_ok_and(|j| j == format!("{}:{}", own.dev(), own.ino())))
}

/// The CPU time of all threads, in milliseconds.
pub fn cpu_ms() -> u64 {
    let ms = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds * 1000 + u64::try_from(time.tv_usec).unwrap_or(0) / 1000
    };
    usage().map_or(0, |usage| ms(usage.ru_utime) + ms(usage.ru_stime))
}

fn poll<const N: usize>(
    fds: [libc::c_int; N],
    events: libc::c_short,
    timeout: libc::c_int,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events,
        revents: 0,
    });
    // SAFETY: the pointer is to as many structs as the count says, alive for the call.
    check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) })?;
    Ok(polled.map(|one| one.revents != 0))
}
