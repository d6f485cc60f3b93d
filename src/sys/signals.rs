//! Signals as bytes on a socket that the poll loop reads.

use super::check;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};

/// Where the handler writes.
static WRITER: AtomicI32 = AtomicI32::new(-1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

impl Signal {
    /// What a byte that was read from the socket stands for.
    pub fn from_byte(byte: u8) -> Option<Signal> {
        match libc::c_int::from(byte) {
            libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
            libc::SIGHUP => Some(Signal::Reload),
            _ => None,
        }
    }
}

/// Catches the signals from here on; each is a byte on the socket that is returned. SIGPIPE is
/// ignored: a connection that is gone is an error of the write.
pub fn catch() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        set_action(signal, forward as *const () as libc::sighandler_t)?;
    }
    set_action(libc::SIGPIPE, libc::SIG_IGN)?;
    Ok(mio::net::UnixStream::from_std(reader))
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

/// The handler. If the socket is full, signals enough are waiting already.
extern "C" fn forward(signal: libc::c_int) {
    let byte = signal as u8;
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
    fn a_signal_arrives_as_a_byte() {
        let mut reader = catch().expect("signals can be caught");
        // SAFETY: a system call without pointers; the handler is in place.
        unsafe { libc::raise(libc::SIGHUP) };
        let mut byte = [0];
        assert_eq!(reader.read(&mut byte).expect("is there"), 1);
        assert_eq!(Signal::from_byte(byte[0]), Some(Signal::Reload));
        assert_eq!(Signal::from_byte(0), None);
    }
}
