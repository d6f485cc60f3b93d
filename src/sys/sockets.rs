//! Listening sockets, with the options that `std` and `mio` leave out.

use super::address::SockAddr;
use super::{check, files};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SO_RCVBUF, SO_REUSEADDR, SO_SNDBUF, SOL_SOCKET};
use libc::{SOCK_DGRAM, SOCK_STREAM, c_int};
use mio::net::{TcpListener, TcpStream, UdpSocket};
use std::fs::Metadata;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted. The system may limit it further.
const BACKLOG: c_int = 1024;

/// Send buffer of one TCP client, in bytes; Linux doubles it.
const SEND_BUFFER: c_int = 64 * 1024;

/// Receive buffer of one TCP client, in bytes: the longest head twice. Linux doubles it.
const TCP_RECEIVE_BUFFER: c_int = 16 * 1024;

/// Send buffer of a connection to another node, in bytes.
const CLUSTER_SEND_BUFFER: c_int = 256 * 1024;

/// Whether the system balances the traffic of a port over the sockets that share it.
pub const BALANCES: bool = SHARE.is_some();

/// The option for that. On other systems SO_REUSEPORT gives everything to the last socket.
#[cfg(target_os = "linux")]
const SHARE: Option<c_int> = Some(libc::SO_REUSEPORT);

#[cfg(target_os = "freebsd")]
const SHARE: Option<c_int> = Some(libc::SO_REUSEPORT_LB);

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const SHARE: Option<c_int> = None;

/// A bound UDP socket. On a wildcard address each datagram comes with the address that it was sent to, so that the
/// reply can leave from there. A shared address may have more sockets of this user that share it, if [`BALANCES`].
pub fn udp(address: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = new_socket(address, SOCK_DGRAM)?;
    share(&socket, is_shared)?;
    set_udp_options(&socket, address)?;
    bind(&socket, address)?;
    Ok(socket.into())
}

fn set_udp_options(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        let (level, name) = match address {
            SocketAddr::V4(_) => super::mmsg::V4_DESTINATION_OPTION,
            SocketAddr::V6(_) => (IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(socket, level, name, 1)?;
    }
    // Replies fit every path, so none needs to be fragmented. A datagram that must not be fragmented needs no
    // identification number, whose making is 3 % of the cost of a reply. Path MTU messages are ignored, as anybody can
    // forge them.
    #[cfg(target_os = "linux")]
    if address.is_ipv4() {
        let option = libc::IP_MTU_DISCOVER;
        set_option(socket, IPPROTO_IP, option, libc::IP_PMTUDISC_PROBE)?;
    }
    Ok(())
}

/// A listening TCP socket for other nodes. They are few and may be far away, so the system sizes the buffers.
pub fn cluster_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    listen(new_socket(address, SOCK_STREAM)?, address)
}

/// Sets a connection to another node to send at once, from a buffer that bounds how old the data in it can be.
pub fn set_cluster_options(stream: &TcpStream) {
    // Both only matter for speed.
    let _ = stream.set_nodelay(true);
    let _ = set_option(stream, SOL_SOCKET, SO_SNDBUF, CLUSTER_SEND_BUFFER);
}

/// Begins a TCP connection to another node, from this address if one is given. A later failure shows when the
/// connection is used.
pub fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(to, SOCK_STREAM)?;
    if let Some(from) = from {
        bind(&socket, SocketAddr::new(from, 0))?;
    }
    let (raw, size) = SockAddr::new(to);
    // SAFETY: the pointer is to an address of that size, alive for the call.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), size) };
    match check(connected) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Two UDP sockets: one receives from a port of a multicast group, the other sends to it. Packets neither leave that
/// network nor come back to this host.
pub struct Multicast {
    pub input: UdpSocket,
    pub output: UdpSocket,
    pub group: SocketAddrV4,
    /// By its address; 0.0.0.0 for the one that the system chooses.
    pub interface: Ipv4Addr,
}

impl Multicast {
    pub fn open(group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<Multicast> {
        // First, since its error is the one of all sockets where the interface has no address yet.
        let output = multicast_socket(SocketAddrV4::new(interface, group.port()))?;
        // Bound to the group, so that packets sent to an address of this host are not received.
        let input = multicast_socket(group)?;
        // Memberships of other processes, on other interfaces, do not count.
        #[cfg(target_os = "linux")]
        set_option(&input, IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)?;
        let (input, output) = (UdpSocket::from(input), UdpSocket::from(output));
        output.set_multicast_ttl_v4(1)?;
        output.set_multicast_loop_v4(false)?;
        let multicast = Multicast {
            input,
            output,
            group,
            interface,
        };
        multicast.direct_output()?;
        multicast.join()?;
        Ok(multicast)
    }

    fn join(&self) -> io::Result<()> {
        self.input
            .join_multicast_v4(self.group.ip(), &self.interface)
    }

    fn leave(&self) {
        // An error means that it is no member.
        let _ = self
            .input
            .leave_multicast_v4(self.group.ip(), &self.interface);
    }

    /// The system keeps the number of the interface, not its address.
    fn direct_output(&self) -> io::Result<()> {
        // Four bytes, as long as an `in_addr`, in its order.
        let octets = self.interface.octets();
        set_option(&self.output, IPPROTO_IP, libc::IP_MULTICAST_IF, octets)?;
        // Connected, so that it receives nothing.
        self.output.connect(self.group.into())
    }

    /// Joins the group again if the interface was replaced, whose membership has gone with it. Returns whether it was.
    pub fn rejoin(&self) -> io::Result<bool> {
        match self.join() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(false),
            Ok(()) => {}
            Err(error) => {
                self.leave();
                return Err(error);
            }
        }
        // Both memberships, as the system keeps also that of the old interface, and allows few.
        self.leave();
        self.leave();
        self.direct_output()?;
        self.join()?;
        Ok(true)
    }
}

/// Bound to an address that other processes may be bound to as well, such as one that this one replaces.
fn multicast_socket(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = new_socket(address.into(), SOCK_DGRAM)?;
    set_option(&socket, SOL_SOCKET, SO_REUSEADDR, 1)?;
    bind(&socket, address.into())?;
    Ok(socket)
}

/// A listening TCP socket. Accepted sockets inherit its options.
pub fn tcp(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = new_socket(address, SOCK_STREAM)?;
    share(&socket, is_shared)?;
    set_tcp_options(&socket)?;
    listen(socket, address)
}

fn set_tcp_options(socket: &OwnedFd) -> io::Result<()> {
    // Replies are written whole, so waiting for more data would only delay them.
    set_option(socket, IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // By default the system would buffer megabytes for a client that sends and does not read.
    set_option(socket, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)?;
    set_option(socket, SOL_SOCKET, SO_RCVBUF, TCP_RECEIVE_BUFFER)?;
    // A connection is accepted with its request, not before: one turn of the loop instead of two.
    #[cfg(target_os = "linux")]
    set_option(socket, IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1)?;
    Ok(())
}

fn listen(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpListener> {
    set_option(&socket, SOL_SOCKET, SO_REUSEADDR, 1)?;
    bind(&socket, address)?;
    set_backlog(&socket)?;
    Ok(socket.into())
}

/// Makes a bound socket listen, or changes the backlog of one that does.
fn set_backlog(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: a system call on a socket that we own, without pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }).map(drop)
}

/// A socket that another process has opened and bound.
pub enum Inherited {
    Udp(SocketAddr, UdpSocket),
    Tcp(SocketAddr, TcpListener),
    Unix(PathBuf, mio::net::UnixListener),
}

/// Gives a socket that another process has opened the options of one's own.
pub fn inherit(socket: OwnedFd) -> io::Result<Inherited> {
    let kind = option(&socket, SOL_SOCKET, libc::SO_TYPE)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    // An error if it is of another family.
    let address = socket.local_addr();
    let socket = OwnedFd::from(socket);
    match (address, kind) {
        (Ok(address), SOCK_DGRAM | SOCK_STREAM) => {
            let is_wildcard = address.is_ipv6() && address.ip().is_unspecified();
            if is_wildcard && option(&socket, IPPROTO_IPV6, libc::IPV6_V6ONLY)? == 0 {
                return Err(io::Error::other(
                    "takes IPv4, too: expected BindIPv6Only=ipv6-only",
                ));
            }
            if kind == SOCK_STREAM {
                set_tcp_options(&socket)?;
                set_backlog(&socket)?;
                return Ok(Inherited::Tcp(address, socket.into()));
            }
            set_udp_options(&socket, address)?;
            Ok(Inherited::Udp(address, socket.into()))
        }
        (Err(_), SOCK_STREAM) => {
            set_backlog(&socket)?;
            let listener = UnixListener::from(socket);
            match listener.local_addr()?.as_pathname() {
                Some(path) => Ok(Inherited::Unix(
                    path.into(),
                    mio::net::UnixListener::from_std(listener),
                )),
                None => Err(io::ErrorKind::Unsupported.into()),
            }
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The file of a listening Unix socket. Dropping it removes the file, if it is still the same and the daemon may.
pub struct SocketFile {
    path: PathBuf,
    metadata: Metadata,
}

/// A listening Unix socket at this path, with its file. Every user who can reach the file may connect: the user of a
/// proxy is not known, and on every system the directory decides who reaches the file. A stale file, of a socket that
/// no process listens on, is replaced.
///
/// `root` is the directory that will be the root directory when the file is removed.
pub fn unix(path: &Path, root: Option<&Path>) -> io::Result<(mio::net::UnixListener, SocketFile)> {
    let listener = match bind_for_all(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, error)?;
            bind_for_all(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let within = root.and_then(|root| path.strip_prefix(root).ok());
    let file = SocketFile {
        path: within.map_or(path.into(), |within| Path::new("/").join(within)),
        metadata,
    };
    Ok((mio::net::UnixListener::from_std(listener), file))
}

/// Removes the file of a socket that no process listens on. Of another socket the error is `in_use`.
fn remove_stale(path: &Path, in_use: io::Error) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("is not a socket"));
    }
    // Non-blocking, as the backlog of the other may be full.
    match mio::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Err(in_use),
    }
}

/// Binds and listens; the file's mode is 0666 from the start.
fn bind_for_all(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: a system call without pointers. There are no other threads that could create files meanwhile.
    let mask = unsafe { libc::umask(0o111) };
    let bound = UnixListener::bind(path);
    // SAFETY: likewise.
    unsafe { libc::umask(mask) };
    bound
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // After a chroot the path may lead to another file.
        if files::is_at(&self.path, &self.metadata) {
            // If this fails, the next start replaces the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether an error of `accept` concerns one connection, which was closed before it was accepted, and not the next one
/// too. Linux returns errors of the network from `accept`.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    let is = |number| error.raw_os_error() == Some(number);
    is(libc::ECONNABORTED)
        || is(libc::EINTR)
        || is(libc::EPROTO)
        || is(libc::EPERM)
        || is(libc::ENETDOWN)
        || is(libc::ENOPROTOOPT)
        || is(libc::EHOSTDOWN)
        || is(libc::EHOSTUNREACH)
        || is(libc::EOPNOTSUPP)
        || is(libc::ENETUNREACH)
}

/// Whether a system call failed because the system or the process is out of descriptors or memory.
pub fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::EMFILE | libc::ENFILE)) || super::is_short_of_memory(error)
}

/// Whether an IPv6 socket failed because the host has no IPv6: the kernel lacks it, no address is configured, or a jail
/// has none (FreeBSD).
pub fn is_without_v6(error: &io::Error) -> bool {
    let is = |number| error.raw_os_error() == Some(number);
    is(libc::EAFNOSUPPORT) || is(libc::EPROTONOSUPPORT) || is(libc::EADDRNOTAVAIL)
}

/// Bytes of a socket's receive buffer.
pub fn receive_buffer(socket: BorrowedFd) -> io::Result<c_int> {
    let size = option(&socket, SOL_SOCKET, SO_RCVBUF)?;
    // Linux doubles the requested size, to have room for its bookkeeping, and reports the double.
    let factor = if cfg!(target_os = "linux") { 2 } else { 1 };
    Ok(size / factor)
}

/// Sets the receive buffer of a UDP socket that was inherited. A larger one stays, unless this size was given.
pub fn raise_receive_buffer(socket: &UdpSocket, size: c_int, is_given: bool) -> io::Result<()> {
    // Another process may have set a larger one than this process may request, and it would shrink.
    let own = new_socket(socket.local_addr()?, SOCK_DGRAM)?;
    set_receive_buffer(&own, size);
    let granted = receive_buffer(own.as_fd())?;
    if granted > receive_buffer(socket.as_fd())? || is_given && granted >= size {
        set_receive_buffer(socket, size);
    }
    Ok(())
}

/// Requests a receive buffer of this size, and less where the system refuses that (the BSDs) instead of granting what
/// it can (Linux).
pub fn set_receive_buffer(socket: &impl AsRawFd, mut size: c_int) {
    // As root, beyond the limit for other users.
    #[cfg(target_os = "linux")]
    if set_option(socket, SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_ok() {
        return;
    }
    while set_option(socket, SOL_SOCKET, SO_RCVBUF, size).is_err() && size > 64 * 1024 {
        size /= 2;
    }
}

/// Datagrams that a socket had no room for in its receive buffer since it was opened, modulo 2^32; none where the
/// system does not say.
#[cfg(target_os = "linux")]
pub fn receive_drops(socket: BorrowedFd) -> Option<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    let (fd, values) = (socket.as_raw_fd(), numbers.as_mut_ptr().cast());
    // SAFETY: the pointers are to an array and its size in bytes, both alive for the call.
    check(unsafe { libc::getsockopt(fd, SOL_SOCKET, libc::SO_MEMINFO, values, &raw mut length) })
        .ok()?;
    // Linux before 4.12 has fewer numbers.
    (length as usize == size_of_val(&numbers)).then_some(numbers[DROPS])
}

#[cfg(not(target_os = "linux"))]
pub fn receive_drops(_: BorrowedFd) -> Option<u32> {
    None
}

/// A non-blocking socket.
fn new_socket(address: SocketAddr, kind: c_int) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call without pointers. The descriptor is new and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?) };
    if address.is_ipv6() {
        // Each family has its own socket, or each request would have to map an address back.
        set_option(&socket, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(socket)
}

fn share(socket: &OwnedFd, is_shared: bool) -> io::Result<()> {
    match SHARE.filter(|_| is_shared) {
        Some(option) => set_option(socket, SOL_SOCKET, option, 1),
        None => Ok(()),
    }
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let (raw, size) = SockAddr::new(address);
    // SAFETY: the pointer is to an address of that size, alive for the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), size) }).map(drop)
}

/// `T` is the C type of the option's value.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    let (fd, size) = (socket.as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the pointer is to a value of the size given, alive for the call. The system only reads it.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) }).map(drop)
}

/// An option whose value is an int.
fn option(socket: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let (mut value, mut length): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
    let (fd, at) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: the pointers are to an int and its size, both alive for the call.
    check(unsafe { libc::getsockopt(fd, level, name, at, &raw mut length) })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receive buffer of a connection that a listener accepts.
    fn accepted_receive_buffer(listener: &TcpListener) -> c_int {
        let address = listener.local_addr().expect("is bound");
        let mut client = std::net::TcpStream::connect(address).expect("connects");
        // On Linux a connection is accepted with its first bytes.
        io::Write::write_all(&mut client, b"x").expect("is sent");
        let start = std::time::Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => return receive_buffer(stream.as_fd()).expect("an option"),
                Err(error) if start.elapsed().as_secs() < 20 => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_larger_receive_buffer_stays_unless_a_size_was_given() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = udp(loopback, false).expect("a port");
        for (kib, is_given, expected) in [
            (90, true, 90),
            (70, false, 90),
            (70, true, 70),
            (100, false, 100),
        ] {
            raise_receive_buffer(&socket, kib << 10, is_given).expect("is set");
            let bytes = receive_buffer(socket.as_fd()).expect("an option");
            assert_eq!(bytes, expected << 10);
        }
    }

    #[test]
    fn clients_have_a_small_receive_buffer_and_nodes_the_default() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // FreeBSD rounds it up to whole segments, which are long on the loopback.
        let most = 2 * TCP_RECEIVE_BUFFER;
        let clients = tcp(loopback, false).expect("a port");
        assert!(accepted_receive_buffer(&clients) <= most);
        let nodes = cluster_tcp(loopback).expect("a port");
        assert!(accepted_receive_buffer(&nodes) > most);
    }
}
