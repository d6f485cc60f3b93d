//! Signals as flags, and a socket that wakes the poll loop when one is raised.

use super::check;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The descriptor to which the handler writes a byte, to wake the loop.
static WRITER: AtomicI32 = AtomicI32::new(-1);

/// The signals that the daemon handles.
const HANDLED: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Save,
}

/// Whether each was caught, in the order of [`Signal`].
static CAUGHT: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// The signals caught since the last call. However often one came, it counts once.
pub fn take() -> impl Iterator<Item = Signal> {
    let signals = [Signal::Stop, Signal::Reload, Signal::Save];
    let caught = signals.into_iter().zip(&CAUGHT);
    caught.filter_map(|(signal, flag)| flag.swap(false, Ordering::Acquire).then_some(signal))
}

/// Catches the signals from here on. After each, the returned socket is readable. SIGPIPE is ignored: a write to a
/// closed connection returns an error instead.
pub fn catch() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
    set_action(&HANDLED, forward as *const () as libc::sighandler_t)?;
    set_action(&[libc::SIGPIPE], libc::SIG_IGN)?;
    Ok(mio::net::UnixStream::from_std(reader))
}

/// In a child process: ignores the signals of the daemon, which ends the process by closing the socket between them.
pub fn ignore() -> io::Result<()> {
    set_action(&HANDLED, libc::SIG_IGN)?;
    // A file beyond the limit of its size is an error of the write.
    set_action(&[libc::SIGPIPE, libc::SIGXFSZ], libc::SIG_IGN)
}

/// Has the system reap child processes when they end.
pub(super) fn reap_children() -> io::Result<()> {
    set_action(&[libc::SIGCHLD], libc::SIG_IGN)
}

fn set_action(signals: &[libc::c_int], handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    for &signal in signals {
        // SAFETY: the struct is valid for the call, and `forward` does only what a handler may.
        check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// The handler. If the socket is full, the loop wakes up anyway.
extern "C" fn forward(signal: libc::c_int) {
    let [stop, reload, save] = &CAUGHT;
    let flag = match signal {
        libc::SIGHUP => reload,
        libc::SIGUSR1 => save,
        _ => stop,
    };
    flag.store(true, Ordering::Release);
    let byte = 0_u8;
    // SAFETY: `write` is safe in a handler, and the byte lives for the call. The interrupted code may be about to read
    // `errno`, of which each thread has its own, so it is restored.
    unsafe {
        let errno = errno();
        let saved = *errno;
        libc::write(WRITER.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

#[cfg(any(target_os = "linux", target_os = "dragonfly"))]
use libc::__errno_location as errno;

#[cfg(target_os = "freebsd")]
use libc::__error as errno;

#[cfg(any(target_os = "openbsd", target_os = "netbsd"))]
use libc::__errno as errno;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_signal_makes_the_socket_readable_and_is_taken_once() {
        let mut reader = catch().expect("signals can be caught");
        // SAFETY: a system call without pointers; the handler is in place.
        unsafe { libc::raise(libc::SIGHUP) };
        assert_eq!(reader.read(&mut [0]).expect("is there"), 1);
        assert_eq!(take().collect::<Vec<_>>(), [Signal::Reload]);
        assert_eq!(take().count(), 0);
    }
}
