//! The sockets of clients, opened before privileges are dropped: for each serving thread one at every address.

use super::{Problem, problem};
use crate::http::Listener;
use crate::log;
use crate::options::{Address, Listen, Options, Protocol};
use crate::server::Socket;
use crate::sys::sockets::{self, Sharing};
use crate::sys::{cores, privileges};
use mio::net::{TcpListener, UdpSocket};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Opens the sockets of each thread: those of the first, and for the others more at the same ports.
pub fn open_for_threads(options: &Options) -> Result<Vec<Vec<Socket>>, Problem> {
    let sharing = match options.threads > 1 && sockets::BALANCES {
        true => Sharing::Threads,
        false => Sharing::Nobody,
    };
    let mut listens = options.listen.clone();
    if sharing == Sharing::Threads {
        for listen in &mut listens {
            match try_alone(&listen.address) {
                Ok(address) => listen.address = address,
                Err(error) if listen.optional && sockets::is_without_v6(&error) => {}
                Err(error) => return Err(format!("cannot listen on {}: {error}", listen.address)),
            }
        }
    }
    let first = open_all(&listens, sharing, options)?;
    let mut all = Vec::new();
    for _ in 1..options.threads {
        let more: io::Result<Vec<Socket>> = first
            .iter()
            .map(|socket| open_another(socket, sharing))
            .collect();
        all.push(more.map_err(problem("cannot listen with several threads"))?);
    }
    all.insert(0, first);
    Ok(all)
}

/// Sockets that share a port would share it with another tracker's too, also where the system chooses the port
/// (Linux does, for UDP). Opening it without sharing finds that there is one, or a port that is free.
fn try_alone(address: &Address) -> io::Result<Address> {
    Ok(match *address {
        Address::Udp(any) => Address::Udp(sockets::udp(any, Sharing::Nobody)?.local_addr()?),
        Address::Tcp(any) => Address::Tcp(sockets::tcp(any, Sharing::Nobody)?.local_addr()?),
        Address::Unix(_) => address.clone(),
    })
}

/// Opens every socket before any privilege is dropped.
fn open_all(
    listens: &[Listen],
    sharing: Sharing,
    options: &Options,
) -> Result<Vec<Socket>, Problem> {
    let mut sockets = Vec::new();
    for listen in listens {
        match open(&listen.address, sharing, options) {
            Ok(socket) => sockets.push(socket),
            Err(error) if listen.optional && sockets::is_without_v6(&error) => {
                log::line(format_args!("no IPv6 on this host: {error}"));
            }
            Err(error) => return Err(format!("cannot listen on {}: {error}", listen.address)),
        }
    }
    Ok(sockets)
}

fn open(address: &Address, sharing: Sharing, options: &Options) -> io::Result<Socket> {
    match address {
        Address::Udp(address) => {
            let socket = sockets::udp(*address, sharing)?;
            let address = socket.local_addr()?;
            let buffer = sockets::receive_buffer(socket.as_fd())?;
            log::line(format_args!(
                "listening on udp {address}, receive buffer {buffer} bytes"
            ));
            Ok(Socket::Udp(socket))
        }
        Address::Tcp(address) => {
            let socket = sockets::tcp(*address, sharing)?;
            let address = socket.local_addr()?;
            log::line(format_args!("listening on tcp {address}"));
            Ok(Socket::Http(Listener::Tcp(socket)))
        }
        Address::Unix(path) => {
            let root = options.root.as_deref().filter(|_| privileges::is_root());
            let (socket, file) = sockets::unix(path, root)?;
            log::line(format_args!(
                "listening on unix {}",
                path.as_os_str().to_string_lossy()
            ));
            Ok(Socket::Http(Listener::Unix(socket, Some(file))))
        }
    }
}

/// A socket of another thread: one more at the same port where the system spreads what comes to it, else another
/// descriptor of the same socket.
fn open_another(socket: &Socket, sharing: Sharing) -> io::Result<Socket> {
    let is_shared = sharing == Sharing::Threads;
    Ok(match socket {
        Socket::Udp(socket) if is_shared => {
            Socket::Udp(sockets::udp(socket.local_addr()?, sharing)?)
        }
        Socket::Udp(socket) => {
            let socket = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
            Socket::Udp(UdpSocket::from_std(socket))
        }
        Socket::Http(Listener::Tcp(socket)) if is_shared => {
            let socket = sockets::tcp(socket.local_addr()?, sharing)?;
            Socket::Http(Listener::Tcp(socket))
        }
        Socket::Http(Listener::Tcp(socket)) => {
            let socket = std::net::TcpListener::from(socket.as_fd().try_clone_to_owned()?);
            Socket::Http(Listener::Tcp(TcpListener::from_std(socket)))
        }
        Socket::Http(Listener::Unix(socket, _)) => {
            let fd = socket.as_fd().try_clone_to_owned()?;
            let socket = std::os::unix::net::UnixListener::from(fd);
            let socket = mio::net::UnixListener::from_std(socket);
            Socket::Http(Listener::Unix(socket, None))
        }
    })
}

/// Gives each thread a core, and its sockets what that core receives; none if threads are not pinned.
pub fn steer(options: &Options, sockets: &[Vec<Socket>]) -> Result<Vec<usize>, Problem> {
    if !options.pin_threads {
        return Ok(Vec::new());
    }
    let mut cores = cores::available().map_err(problem("--pin-threads"))?;
    let (threads, count) = (options.threads, cores.len());
    if threads > count {
        return Err(format!(
            "--pin-threads: -j/--threads {threads} requires as many cores, {count} are available"
        ));
    }
    cores.truncate(threads);
    for socket in sockets.first().into_iter().flatten() {
        let steered = match socket {
            Socket::Udp(socket) => cores::steer(socket.as_fd(), &cores),
            Socket::Http(Listener::Tcp(socket)) => cores::steer(socket.as_fd(), &cores),
            Socket::Http(Listener::Unix(..)) => Ok(()),
        };
        steered.map_err(problem("--pin-threads: cannot choose sockets by cores"))?;
    }
    Ok(cores)
}

/// Where a socket takes announces; none for a file.
pub fn announce_address(socket: &Socket) -> Option<(Protocol, SocketAddr)> {
    match socket {
        Socket::Udp(socket) => Some((Protocol::Udp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Tcp(socket)) => Some((Protocol::Tcp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Unix(..)) => None,
    }
}
