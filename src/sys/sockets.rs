//! Listening sockets, with the options that `std` and `mio` leave out.

use super::address::SockAddr;
use super::check;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted; the system may hold it lower.
const BACKLOG: libc::c_int = 1024;

/// Send buffer of one TCP client, in bytes; Linux doubles it.
const SEND_BUFFER: libc::c_int = 64 * 1024;

/// Receive buffer of one TCP client, in bytes: the longest head twice. Linux doubles it.
const TCP_RECEIVE_BUFFER: libc::c_int = 16 * 1024;

/// What the receive buffer of a UDP socket is asked to be: a tenth of a second at 500,000 requests.
const RECEIVE_BUFFER: libc::c_int = 8 * 1024 * 1024;

/// Whether the system spreads what comes to a port over the sockets that share it.
pub const BALANCES: bool = SHARE.is_some();

/// The option with which it does. Where it is missing, another of that name gives all to the last socket.
#[cfg(target_os = "linux")]
const SHARE: Option<libc::c_int> = Some(libc::SO_REUSEPORT);

#[cfg(target_os = "freebsd")]
const SHARE: Option<libc::c_int> = Some(libc::SO_REUSEPORT_LB);

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const SHARE: Option<libc::c_int> = None;

/// Who else may have a socket at the same address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Nobody,
    /// Other sockets of this user that say so too.
    Threads,
}

/// A bound UDP socket. On a wildcard address it asks with each datagram for the address that the
/// datagram was sent to, so that the reply can leave from there.
pub fn udp(address: SocketAddr, sharing: Sharing) -> io::Result<mio::net::UdpSocket> {
    let socket = new_socket(address, libc::SOCK_DGRAM)?;
    share(&socket, sharing)?;
    if address.ip().is_unspecified() {
        let (level, name) = match address {
            SocketAddr::V4(_) => super::mmsg::V4_DESTINATION_OPTION,
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(&socket, level, name, 1)?;
    }
    enlarge_receive_buffer(&socket);
    forbid_fragments(&socket, address)?;
    bind(&socket, address)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(mio::net::UdpSocket::from_std(socket))
}

/// Bytes of the send buffer of a connection to another node.
const CLUSTER_SEND_BUFFER: libc::c_int = 256 * 1024;

/// A listening TCP socket for other nodes. They are few and may be far away: how much waits on the way to
/// one is the system's business.
pub fn cluster_tcp(address: SocketAddr) -> io::Result<mio::net::TcpListener> {
    let socket = new_socket(address, libc::SOCK_STREAM)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    listen(socket, address)
}

/// Sets a connection to another node to send at once, from a buffer that bounds how old what it sends may be.
pub fn set_cluster_options(stream: &mio::net::TcpStream) {
    // Both are a matter of speed: the system's values do too.
    let _ = stream.set_nodelay(true);
    let _ = set_option(
        stream,
        libc::SOL_SOCKET,
        libc::SO_SNDBUF,
        CLUSTER_SEND_BUFFER,
    );
}

/// A TCP connection to another node, from this address if one is given. That it failed is told when it is
/// used.
pub fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<mio::net::TcpStream> {
    let socket = new_socket(to, libc::SOCK_STREAM)?;
    if let Some(from) = from {
        bind(&socket, SocketAddr::new(from, 0))?;
    }
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let (raw, size) = SockAddr::new(to);
    // SAFETY: the pointer is to an address of that size, alive for the call.
    let connected = unsafe { libc::connect(stream.as_raw_fd(), (&raw const raw).cast(), size) };
    match check(connected) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(mio::net::TcpStream::from_std(stream)),
    }
}

/// Two UDP sockets, one that takes what comes to this port of a multicast group and one that sends to it,
/// through the interface that has this address or, for 0.0.0.0, through the one that the system chooses.
/// Packets do not leave that network, and do not come back to this host.
pub fn multicast(
    group: SocketAddrV4,
    interface: Ipv4Addr,
) -> io::Result<(mio::net::UdpSocket, mio::net::UdpSocket)> {
    // Bound to the group, so that what anybody sends to an address of this host does not come in.
    let input = multicast_socket(group)?;
    enlarge_receive_buffer(&input);
    // Other processes' memberships, on other interfaces, are not ours.
    #[cfg(target_os = "linux")]
    set_option(&input, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)?;
    let input = std::net::UdpSocket::from(input);
    input.join_multicast_v4(group.ip(), &interface)?;
    let output = multicast_socket(SocketAddrV4::new(interface, group.port()))?;
    send_through(&output, interface)?;
    let output = std::net::UdpSocket::from(output);
    output.set_multicast_ttl_v4(1)?;
    output.set_multicast_loop_v4(false)?;
    // To it alone, so that nothing comes in here.
    output.connect(group)?;
    input.set_nonblocking(true)?;
    output.set_nonblocking(true)?;
    Ok((
        mio::net::UdpSocket::from_std(input),
        mio::net::UdpSocket::from_std(output),
    ))
}

/// Bound to an address that others may be bound to as well, such as a process that this one is to replace.
fn multicast_socket(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = new_socket(address.into(), libc::SOCK_DGRAM)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(&socket, address.into())?;
    Ok(socket)
}

fn send_through(socket: &OwnedFd, interface: Ipv4Addr) -> io::Result<()> {
    let address = interface.octets();
    // SAFETY: the pointer is to four bytes, as long as an `in_addr`, in its order, alive for the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            address.as_ptr().cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// A listening TCP socket.
pub fn tcp(address: SocketAddr, sharing: Sharing) -> io::Result<mio::net::TcpListener> {
    let socket = new_socket(address, libc::SOCK_STREAM)?;
    share(&socket, sharing)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    // Replies are written whole; waiting for more to send would only delay them. Accepted sockets
    // inherit the option.
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // Inherited too: left to itself, the system would hold megabytes for a client that sends and does not read.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER)?;
    set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUF,
        TCP_RECEIVE_BUFFER,
    )?;
    // A connection is handed over with its request, not before: one turn of the loop instead of two.
    #[cfg(target_os = "linux")]
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1)?;
    listen(socket, address)
}

fn listen(socket: OwnedFd, address: SocketAddr) -> io::Result<mio::net::TcpListener> {
    bind(&socket, address)?;
    // SAFETY: a system call on a socket that we own, without pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(mio::net::TcpListener::from_std(listener))
}

/// The file of a listening Unix socket, which is removed in the end if it is still the same and the
/// daemon then may.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A listening Unix socket at this path, with its file. Anybody who reaches the file may connect: which
/// user a proxy runs as is not known, and who reaches a file is for its directory to say, on every system.
/// A file that a socket left behind, on which nobody listens, is replaced.
///
/// `root` is the directory that will be the root one when the file is to be removed.
pub fn unix(path: &Path, root: Option<&Path>) -> io::Result<(mio::net::UnixListener, SocketFile)> {
    let listener = match bind_for_all(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            std::fs::remove_file(path)?;
            bind_for_all(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let within = root.and_then(|root| path.strip_prefix(root).ok());
    let file = SocketFile {
        path: within.map_or(path.into(), |within| Path::new("/").join(within)),
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    Ok((mio::net::UnixListener::from_std(listener), file))
}

/// Whether this is a socket that nobody listens on.
fn is_left_behind(path: &Path) -> bool {
    let metadata = std::fs::symlink_metadata(path);
    // Connecting must not wait, as it would for one that has many to accept.
    metadata.is_ok_and(|metadata| metadata.file_type().is_socket())
        && mio::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Binds and listens; the file's mode is 0666 from the start.
fn bind_for_all(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: a system call without pointers. There are no other threads to make files meanwhile.
    let mask = unsafe { libc::umask(0o111) };
    let bound = UnixListener::bind(path);
    // SAFETY: likewise.
    unsafe { libc::umask(mask) };
    bound
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // In another root the path may lead to something else.
        let is_same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_same {
            // There is nobody to tell; the next start replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether an error of `accept` is that of the connection, which was gone before it was accepted, and
/// not one that the next would meet too. Linux passes errors of the network on to `accept`.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    let numbers = [
        libc::ECONNABORTED,
        libc::EINTR,
        libc::EPROTO,
        libc::EPERM,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

/// Whether an IPv6 socket failed because the host has no IPv6: the kernel does not know it, no address of
/// it is configured, or a jail is not given it (FreeBSD).
pub fn is_without_v6(error: &io::Error) -> bool {
    let numbers = [
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
        libc::EADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

/// Bytes of a socket's receive buffer.
pub fn receive_buffer(socket: BorrowedFd) -> io::Result<libc::c_int> {
    let mut size: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers are to an int and its size, both alive for the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw mut size).cast(),
            &raw mut length,
        )
    })?;
    // Linux doubles what was asked for, to have room for its own bookkeeping, and tells that.
    Ok(if cfg!(target_os = "linux") {
        size / 2
    } else {
        size
    })
}

fn new_socket(address: SocketAddr, kind: libc::c_int) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: a system call without pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a system call on a socket that we own, without pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    if address.is_ipv6() {
        // Each family has its own socket: a mapped address would need undoing at every request.
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(socket)
}

fn share(socket: &OwnedFd, sharing: Sharing) -> io::Result<()> {
    match (sharing, SHARE) {
        (Sharing::Nobody, _) => Ok(()),
        (Sharing::Threads, Some(option)) => set_option(socket, libc::SOL_SOCKET, option, 1),
        (Sharing::Threads, None) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let (raw, size) = SockAddr::new(address);
    // SAFETY: the pointer is to an address of that size, alive for the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), size) })?;
    Ok(())
}

fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer is to an int of the size given, alive for the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Replies fit every path that clients have, so none needs to be fragmented; and on Linux a datagram that
/// must not be needs no identification number, whose making is 3 % of what a reply costs. What routers
/// say of a path's limits is not believed, since anybody can say it.
#[cfg(target_os = "linux")]
fn forbid_fragments(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => set_option(
            socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        ),
        SocketAddr::V6(_) => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn forbid_fragments(_: &OwnedFd, _: SocketAddr) -> io::Result<()> {
    Ok(())
}

/// Asks for [`RECEIVE_BUFFER`], and for less where the system refuses (the BSDs) instead of giving
/// what it has (Linux).
fn enlarge_receive_buffer(socket: &OwnedFd) {
    #[cfg(target_os = "linux")]
    {
        // Past the limit for others, while we are still root.
        let force = libc::SO_RCVBUFFORCE;
        if set_option(socket, libc::SOL_SOCKET, force, RECEIVE_BUFFER).is_ok() {
            return;
        }
    }
    let mut size = RECEIVE_BUFFER;
    while size > 64 * 1024 && set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, size).is_err() {
        size /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// The receive buffer of a connection that a listener accepts.
    fn accepted_receive_buffer(listener: &mio::net::TcpListener) -> libc::c_int {
        let address = listener.local_addr().expect("is bound");
        let mut client = std::net::TcpStream::connect(address).expect("connects");
        // On Linux a connection may be handed over only with its first bytes.
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
    fn connections_of_clients_have_a_small_receive_buffer_and_those_of_nodes_the_default() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // FreeBSD rounds it up to whole segments, which are long on the loopback.
        let most = 2 * TCP_RECEIVE_BUFFER;
        let clients = tcp(loopback, Sharing::Nobody).expect("a port");
        assert!(accepted_receive_buffer(&clients) <= most);
        let nodes = cluster_tcp(loopback).expect("a port");
        assert!(accepted_receive_buffer(&nodes) > most);
    }
}
