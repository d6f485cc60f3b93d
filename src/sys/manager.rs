//! The service manager that has started the daemon: the socket for messages to it, and its watchdog, by the protocols
//! of `sd_notify(3)` and `sd_watchdog_enabled(3)`. That is systemd on Linux, but nothing here depends on it.

use super::is_full;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;

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
    // Not of the process that started this one.
    let is_ours = env::var("WATCHDOG_PID").map_or(true, |id| id == process::id().to_string());
    (us > 0 && is_ours).then_some(us / 1000)
}
