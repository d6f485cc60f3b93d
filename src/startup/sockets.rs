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
        choose_ports(&mut listens)?;
    }
    let first = open_all(&listens, sharing, options)?;
    let mut others = Vec::new();
    for _ in 1..options.threads {
        let more: Result<Vec<Socket>, Problem> = first
            .iter()
            .map(|(address, socket)| {
                open_another(socket, sharing).map_err(problem(format_args!(
                    "cannot listen on {address} with several threads"
                )))
            })
            .collect();
        others.push(more?);
    }
    let mut all = vec![first.into_iter().map(|(_, socket)| socket).collect()];
    all.append(&mut others);
    Ok(all)
}

/// Sockets that share a port would share it with another tracker's too, and with each other where two addresses
/// overlap; also where the system chooses the port (Linux does, for UDP). Opening all of them without sharing finds
/// whether a port is taken, or ports that are free.
fn choose_ports(listens: &mut [Listen]) -> Result<(), Problem> {
    // Each stays open until all are, as one that is closed keeps no other from its port.
    let mut opened = Vec::new();
    for listen in listens {
        match open_alone(&listen.address) {
            Ok((address, socket)) => {
                listen.address = address;
                opened.push(socket);
            }
            Err(error) if listen.optional && sockets::is_without_v6(&error) => {}
            Err(error) => return Err(format!("cannot listen on {}: {error}", listen.address)),
        }
    }
    Ok(())
}

/// A socket that shares its port with none, and its address; none for a file.
fn open_alone(address: &Address) -> io::Result<(Address, Option<Socket>)> {
    Ok(match *address {
        Address::Udp(any) => {
            let socket = sockets::udp(any, Sharing::Nobody)?;
            (
                Address::Udp(socket.local_addr()?),
                Some(Socket::Udp(socket)),
            )
        }
        Address::Tcp(any) => {
            let socket = sockets::tcp(any, Sharing::Nobody)?;
            let address = Address::Tcp(socket.local_addr()?);
            (address, Some(Socket::Http(Listener::Tcp(socket))))
        }
        Address::Unix(_) => (address.clone(), None),
    })
}

/// Opens every socket before any privilege is dropped; each with its address, in which no port is 0.
fn open_all(
    listens: &[Listen],
    sharing: Sharing,
    options: &Options,
) -> Result<Vec<(Address, Socket)>, Problem> {
    let mut sockets = Vec::new();
    for listen in listens {
        match open(&listen.address, sharing, options) {
            Ok(opened) => sockets.push(opened),
            Err(error) if listen.optional && sockets::is_without_v6(&error) => {
                log::line(format_args!("no IPv6 on this host: {error}"));
            }
            Err(error) => return Err(format!("cannot listen on {}: {error}", listen.address)),
        }
    }
    Ok(sockets)
}

fn open(address: &Address, sharing: Sharing, options: &Options) -> io::Result<(Address, Socket)> {
    let (address, socket) = match address {
        Address::Udp(address) => {
            let socket = sockets::udp(*address, sharing)?;
            let address = Address::Udp(socket.local_addr()?);
            let buffer = sockets::receive_buffer(socket.as_fd())?;
            log::line(format_args!(
                "listening on {address}, receive buffer {buffer} bytes"
            ));
            return Ok((address, Socket::Udp(socket)));
        }
        Address::Tcp(address) => {
            let socket = sockets::tcp(*address, sharing)?;
            let address = Address::Tcp(socket.local_addr()?);
            (address, Listener::Tcp(socket))
        }
        Address::Unix(path) => {
            let root = options.root.as_deref().filter(|_| privileges::is_root());
            let (socket, file) = sockets::unix(path, root)?;
            (address.clone(), Listener::Unix(socket, Some(file)))
        }
    };
    log::line(format_args!("listening on {address}"));
    Ok((address, Socket::Http(socket)))
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

/// The core of each thread; none if threads are not pinned.
pub fn choose_cores(options: &Options) -> Result<Vec<usize>, Problem> {
    if !options.pin_threads {
        return Ok(Vec::new());
    }
    let mut cores = cores::available().map_err(problem("--pin-threads: cannot pin threads"))?;
    let (threads, count) = (options.threads, cores.len());
    if threads > count {
        return Err(format!(
            "--pin-threads: -j/--threads {threads} requires as many cores, {count} are available"
        ));
    }
    cores.truncate(threads);
    Ok(cores)
}

/// Gives the sockets of each thread what its core receives. Those of the first stand for the group that they share.
pub fn steer(cores: &[usize], sockets: &[Vec<Socket>]) -> Result<(), Problem> {
    let group = sockets.first().filter(|_| !cores.is_empty());
    for socket in group.into_iter().flatten() {
        let steered = match socket {
            Socket::Udp(socket) => cores::steer(socket.as_fd(), cores),
            Socket::Http(Listener::Tcp(socket)) => cores::steer(socket.as_fd(), cores),
            Socket::Http(Listener::Unix(..)) => Ok(()),
        };
        steered.map_err(problem("--pin-threads: cannot choose sockets by cores"))?;
    }
    Ok(())
}

/// Where a socket takes announces; none for a file.
pub fn announce_address(socket: &Socket) -> Option<(Protocol, SocketAddr)> {
    match socket {
        Socket::Udp(socket) => Some((Protocol::Udp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Tcp(socket)) => Some((Protocol::Tcp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Unix(..)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Interest, Poll, Token};
    use std::io::{ErrorKind, Write};
    use std::time::{Duration, Instant};

    /// A thread's loop, with its descriptor of the one socket.
    struct Loop {
        poll: Poll,
        socket: Socket,
    }

    impl Loop {
        fn new(mut socket: Socket) -> Loop {
            let poll = Poll::new().expect("a poll");
            let (registry, token) = (poll.registry(), Token(0));
            let registered = match &mut socket {
                Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE),
                Socket::Http(Listener::Tcp(socket)) => {
                    registry.register(socket, token, Interest::READABLE)
                }
                Socket::Http(Listener::Unix(..)) => Err(ErrorKind::Unsupported.into()),
            };
            registered.expect("can be polled");
            Loop { poll, socket }
        }

        /// Takes a datagram or a connection.
        fn take(&self) -> io::Result<()> {
            match &self.socket {
                Socket::Udp(socket) => socket.recv_from(&mut [0; 8]).map(drop),
                Socket::Http(Listener::Tcp(socket)) => socket.accept().map(drop),
                Socket::Http(Listener::Unix(..)) => Err(ErrorKind::Unsupported.into()),
            }
        }

        fn has_nothing(&self) -> bool {
            self.take()
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        }

        /// Takes one after an event has told of it.
        fn take_when_woken(&mut self) {
            let mut events = Events::with_capacity(8);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                let polled = self.poll.poll(&mut events, Some(Duration::from_secs(1)));
                match polled.map(|()| events.is_empty()) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
                    Ok(true) => {}
                    Ok(false) => match self.take() {
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                        Ok(()) => return,
                    },
                }
            }
            panic!("no event");
        }
    }

    /// Each of two loops in turn is the only one that looks after its events.
    fn expect_both_to_serve<T>(socket: Socket, send: impl Fn() -> T) {
        let other = open_another(&socket, Sharing::Nobody).expect("a descriptor");
        let mut loops = [Loop::new(socket), Loop::new(other)];
        assert!(loops.iter().all(Loop::has_nothing));
        for turn in [0, 1, 1, 0] {
            let _sent = send();
            loops[turn].take_when_woken();
            assert!(loops.iter().all(Loop::has_nothing), "it is taken once");
        }
    }

    #[test]
    fn each_thread_is_woken_for_its_duplicate_of_a_udp_socket() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = sockets::udp(any, Sharing::Nobody).expect("a port");
        let address = socket.local_addr().expect("is bound");
        let client = std::net::UdpSocket::bind(any).expect("a port");
        expect_both_to_serve(Socket::Udp(socket), || client.send_to(b"x", address));
    }

    #[test]
    fn each_thread_is_woken_for_its_duplicate_of_a_tcp_socket() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = sockets::tcp(any, Sharing::Nobody).expect("a port");
        let address = socket.local_addr().expect("is bound");
        expect_both_to_serve(Socket::Http(Listener::Tcp(socket)), || {
            let mut client = std::net::TcpStream::connect(address).expect("connects");
            // On Linux a connection may be handed over only with its first bytes.
            client.write_all(b"x").expect("is sent");
            client
        });
    }
}
