//! The service manager that has started the daemon: the socket for messages to it, its watchdog, and the sockets that
//! it has opened, by the protocols of `sd_notify(3)`, `sd_watchdog_enabled(3)` and `sd_listen_fds(3)`. That is systemd
//! on Linux, but nothing here depends on it.

use super::{check, is_full};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;

/// The number of the first socket that the manager has opened; the others follow.
const FIRST_SOCKET: RawFd = 3;

/// A socket that sends messages to the manager: to a path, or on Linux to an abstract address, which begins with `@`.
/// It is connected, so that it works in a root directory, and non-blocking.
pub fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let name = address.as_encoded_bytes().strip_prefix(b"@");
    let address = name.map_or_else(|| SocketAddr::from_pathname(address), from_abstract)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends a message; false if there is no room for it now.
pub fn send(socket: &UnixDatagram, message: &str) -> bool {
    let sent = socket.send(message.as_bytes());
    !sent.is_err_and(|error| is_full(&error))
}

#[cfg(target_os = "linux")]
fn from_abstract(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn from_abstract(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Milliseconds within which the manager expects each sign of life; none if it expects none of this process.
pub fn watchdog_ms() -> Option<u64> {
    let us: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let is_ours = is_own_id("WATCHDOG_PID").unwrap_or(true);
    (us > 0 && is_ours).then_some(us / 1000)
}

/// Whether a variable has the id of this process, and not of the one that started it.
fn is_own_id(variable: &str) -> Option<bool> {
    let id = env::var(variable).ok()?;
    Some(id == process::id().to_string())
}

/// The sockets that the manager has opened for this process. Call it once, before anything is opened.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    let count: RawFd = match env::var("LISTEN_FDS") {
        Ok(count) if is_own_id("LISTEN_PID") == Some(true) => {
            let invalid =
                |_| io::Error::other(format!("invalid value '{count}': expected a number"));
            count.parse().map_err(invalid)?
        }
        _ => 0,
    };
    let all = FIRST_SOCKET..FIRST_SOCKET.saturating_add(count);
    all.map(|fd| {
        // SAFETY: no pointers. This fails if it is not open.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        // SAFETY: it is open, and was before this process began, so that nothing else here owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
    .collect()
}
