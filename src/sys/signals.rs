//! Signals as flags, and a socket that wakes the poll loop when one is raised.

use super::check;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Where the handler writes a byte, so that the loop wakes up.
static WRITER: AtomicI32 = AtomicI32::new(-1);

/// SIGTERM or SIGINT was caught.
static STOP: AtomicBool = AtomicBool::new(false);

/// SIGHUP was caught.
static RELOAD: AtomicBool = AtomicBool::new(false);

/// SIGUSR1 was caught.
static SAVE: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Save,
}

/// What was caught since the last call. However often a signal came, it counts once.
pub fn take() -> impl Iterator<Item = Signal> {
    let stop = STOP.swap(false, Ordering::Acquire).then_some(Signal::Stop);
    let reload = RELOAD
        .swap(false, Ordering::Acquire)
        .then_some(Signal::Reload);
    let save = SAVE.swap(false, Ordering::Acquire).then_some(Signal::Save);
    stop.into_iter().chain(reload).chain(save)
}

/// Catches the signals from here on; after each there are bytes to read on the socket that is returned.
/// SIGPIPE is ignored: a connection that is gone is an error of the write.
pub fn catch() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
        set_action(signal, forward as *const () as libc::sighandler_t)?;
    }
    set_action(libc::SIGPIPE, libc::SIG_IGN)?;
    Ok(mio::net::UnixStream::from_std(reader))
}

/// In a process that was forked off: ignores all that the daemon is sent, which will tell it what to do.
pub fn ignore() -> io::Result<()> {
    let all = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGUSR1,
        libc::SIGPIPE,
    ];
    all.into_iter()
        .try_for_each(|signal| set_action(signal, libc::SIG_IGN))
}

/// In a process that was forked off and holds nothing: it ends when the daemon is told to.
pub fn end_at_once() -> io::Result<()> {
    ignore()?;
    let ends = [libc::SIGTERM, libc::SIGINT];
    ends.into_iter()
        .try_for_each(|signal| set_action(signal, libc::SIG_DFL))
}

/// Lets the system forget processes that were forked off as soon as they have ended.
pub(super) fn forget_children() -> io::Result<()> {
    set_action(libc::SIGCHLD, libc::SIG_IGN)
}

fn set_action(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the struct is valid for the call, and `forward` does only what a handler may.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

/// The handler. If the socket is full, the loop has enough to wake up for.
extern "C" fn forward(signal: libc::c_int) {
    let flag = match signal {
        libc::SIGHUP => &RELOAD,
        libc::SIGUSR1 => &SAVE,
        _ => &STOP,
    };
    flag.store(true, Ordering::Release);
    let byte = 0_u8;
    // SAFETY: `write` is safe in a handler, and the byte lives for the call. The code that was
    // interrupted may be about to read `errno`, of which each thread has its own: it is put back.
    unsafe {
        let errno = errno();
        let saved = *errno;
        libc::write(WRITER.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

#[cfg(target_os = "linux")]
use libc::__errno_location as errno;

#[cfg(any(target_os = "openbsd", target_os = "netbsd", target_os = "android"))]
use libc::__errno as errno;

#[cfg(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_vendor = "apple"
))]
use libc::__error as errno;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_signal_wakes_the_reader_and_is_taken_once() {
        let mut reader = catch().expect("signals can be caught");
        // SAFETY: a system call without pointers; the handler is in place.
        unsafe { libc::raise(libc::SIGHUP) };
        assert_eq!(reader.read(&mut [0]).expect("is there"), 1);
        assert_eq!(take().collect::<Vec<_>>(), [Signal::Reload]);
        assert_eq!(take().count(), 0);
    }
}
