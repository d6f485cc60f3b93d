//! The sockets of clients, opened before privileges are dropped: for each thread that serves one at every address.

use super::{Problem, problem};
use crate::base::log;
use crate::base::text::reason;
use crate::http::Listener;
use crate::options::{Address, Listen, Options, Protocol, ReceiveBuffer};
use crate::server::Socket;
use crate::sys::sockets::{self, Inherited};
use crate::sys::uptime::Moment;
use crate::sys::{cores, privileges};
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Milliseconds for which an address may be missing.
const MISSING_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(100);

const CANNOT_SIZE: &str = "cannot set the size of a receive buffer";

/// Opens the sockets of each thread: the first thread's, and more at the same ports for the others. Those that the
/// service manager has opened stand for the ones with their addresses. All threads poll the same socket then, as no
/// other can share its port.
pub fn open_for_threads(
    options: &Options,
    inherited: Vec<OwnedFd>,
) -> Result<Vec<Vec<Socket>>, Problem> {
    let is_shared = options.threads() > 1 && sockets::BALANCES;
    let buffer = options.receive_buffer();
    let root = options.root.as_deref().filter(|_| privileges::is_root());
    let mut listens = options.sockets();
    let (mut opened, mut first): (Vec<_>, Vec<_>) =
        adopt(options, buffer, &mut listens, inherited)?
            .into_iter()
            .map(|(listen, socket)| ((listen, false), socket))
            .unzip();
    if is_shared {
        choose_ports(&mut listens)?;
    }
    for listen in listens {
        if let Some((listen, socket)) = open(&listen, is_shared, root)? {
            let buffer = size_buffer(buffer, &socket, false).map_err(problem(CANNOT_SIZE))?;
            log::line(format_args!("listening on {listen}{buffer}"));
            opened.push((listen, is_shared));
            first.push(socket);
        } else {
            log::line(format_args!(
                "not listening on {listen}: no IPv6 on this host"
            ));
        }
    }
    if let Some((protocol, flag)) = options.unserved() {
        log::line(format_args!("{protocol}: not served: no {flag} given"));
    }
    let mut threads = vec![first];
    for _ in 1..options.threads() {
        let mut more = Vec::new();
        for ((listen, is_shared), socket) in opened.iter().zip(&threads[0]) {
            let action = format!("cannot listen on {listen} with several threads");
            let another = open_another(socket, *is_shared).map_err(problem(&action))?;
            // Another descriptor is of the same buffer.
            if let (true, Socket::Udp(socket)) = (*is_shared, &another) {
                sockets::set_receive_buffer(socket, buffer.bytes);
            }
            more.push(another);
        }
        threads.push(more);
    }
    Ok(threads)
}

/// Sorts out the sockets to open that the service manager has opened. Without any port in the options, its sockets are
/// those of clients.
fn adopt(
    options: &Options,
    buffer: ReceiveBuffer,
    listens: &mut Vec<Listen>,
    inherited: Vec<OwnedFd>,
) -> Result<Vec<(Listen, Socket)>, Problem> {
    if !inherited.is_empty() && !options.has_ports() {
        listens.retain(|listen| listen.is_admin);
    }
    let mut adopted = Vec::new();
    for socket in inherited {
        let socket = sockets::inherit(socket).map_err(problem("LISTEN_FDS: unusable socket"))?;
        let (address, socket) = match socket {
            Inherited::Udp(address, socket) => {
                (Address::Ip(Protocol::Udp, address), Socket::Udp(socket))
            }
            Inherited::Tcp(address, socket) => {
                let socket = Socket::Http(Listener::Tcp(socket));
                (Address::Ip(Protocol::Tcp, address), socket)
            }
            Inherited::Unix(path, socket) => {
                let socket = Socket::Http(Listener::Unix(socket, None));
                (Address::Unix(path), socket)
            }
        };
        let listen = match listens.iter().position(|listen| listen.address == address) {
            Some(position) => listens.remove(position),
            None if options.has_ports() => {
                return Err(format!(
                    "LISTEN_FDS: no option has the address of a socket: {address}"
                )
                .into());
            }
            None => Listen {
                address,
                is_optional: false,
                is_admin: false,
            },
        };
        let buffer = size_buffer(buffer, &socket, true).map_err(problem(CANNOT_SIZE))?;
        log::line(format_args!("listening on {listen}{buffer}, inherited"));
        let socket = for_admins(&listen, socket);
        adopted.push((listen, socket));
    }
    Ok(adopted)
}

/// Sockets that share a port also share it with another tracker, and with each other where two addresses overlap. That
/// includes ports that the system chooses (on Linux, for UDP). Opening all of them without sharing finds a port that is
/// taken, or ports that are free.
fn choose_ports(listens: &mut [Listen]) -> Result<(), Problem> {
    // Each stays open until all are, because a closed one keeps no other from its port.
    let mut opened = Vec::new();
    for listen in listens {
        // A socket of admins shares no port, and is opened after these.
        if listen.is_admin || matches!(listen.address, Address::Unix(_)) {
            continue;
        }
        if let Some((found, socket)) = open(listen, false, None)? {
            *listen = found;
            opened.push(socket);
        }
    }
    Ok(())
}

/// Opens a socket. Its address has the port that the system chose. None if it may be missing on this host.
fn open(
    listen: &Listen,
    is_shared: bool,
    root: Option<&Path>,
) -> Result<Option<(Listen, Socket)>, Problem> {
    let address = &listen.address;
    let open = || open_at(address, is_shared && !listen.is_admin, root);
    let opened = match listen.is_optional {
        true => open(),
        false => retry_at(address, open),
    };
    match opened {
        Ok(socket) => {
            let mut listen = listen.clone();
            if let Some((protocol, address)) = announce_address(&socket) {
                listen.address = Address::Ip(protocol, address);
            }
            let socket = for_admins(&listen, socket);
            Ok(Some((listen, socket)))
        }
        Err(error) if listen.is_optional && sockets::is_without_v6(&error) => Ok(None),
        Err(error) => Err(format!("cannot listen on {listen}: {}", reason(&error)).into()),
    }
}

fn for_admins(listen: &Listen, socket: Socket) -> Socket {
    match socket {
        Socket::Http(listener) if listen.is_admin => Socket::Admin(listener),
        socket => socket,
    }
}

/// Opens a socket at an address that may not be there yet: at boot an interface waits for DHCP, and an IPv6 address is
/// tentative until the host has looked for duplicates of it.
pub fn retry_at<T>(
    address: &dyn Display,
    mut open: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let began = Moment::now();
    let mut is_logged = false;
    loop {
        match open() {
            Err(error) if is_missing(&error) && began.elapsed_ms() < MISSING_MS => {
                if !std::mem::replace(&mut is_logged, true) {
                    let seconds = MISSING_MS / 1000;
                    log::line(format_args!(
                        "{address}: address not available yet: retrying for {seconds} s"
                    ));
                }
                thread::sleep(RETRY);
            }
            opened => return opened,
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
}

fn open_at(address: &Address, is_shared: bool, root: Option<&Path>) -> io::Result<Socket> {
    Ok(match address {
        Address::Ip(Protocol::Udp, address) => Socket::Udp(sockets::udp(*address, is_shared)?),
        Address::Ip(Protocol::Tcp, address) => {
            Socket::Http(Listener::Tcp(sockets::tcp(*address, is_shared)?))
        }
        Address::Unix(path) => {
            let (socket, file) = sockets::unix(path, root)?;
            Socket::Http(Listener::Unix(socket, Some(file)))
        }
    })
}

/// Sets the receive buffer of a UDP socket. An inherited socket keeps a larger one, unless the size was given. Returns
/// the text for the log: the size, and the one requested if the system did not grant it.
fn size_buffer(
    ReceiveBuffer { bytes, is_given }: ReceiveBuffer,
    socket: &Socket,
    is_inherited: bool,
) -> io::Result<String> {
    let Socket::Udp(socket) = socket else {
        return Ok(String::new());
    };
    match is_inherited {
        true => sockets::raise_receive_buffer(socket, bytes, is_given)?,
        false => sockets::set_receive_buffer(socket, bytes),
    }
    let granted = sockets::receive_buffer(socket.as_fd())?;
    let requested = match granted < bytes {
        true => format!(" of {bytes}"),
        false => String::new(),
    };
    Ok(format!(", receive buffer {granted}{requested} bytes"))
}

/// A socket for another thread: one more at the same port if the system balances between them, else another descriptor
/// of the same socket.
fn open_another(socket: &Socket, is_shared: bool) -> io::Result<Socket> {
    if let (true, Some((protocol, address))) = (is_shared, announce_address(socket)) {
        return open_at(&Address::Ip(protocol, address), is_shared, None);
    }
    Ok(match socket {
        Socket::Udp(socket) => Socket::Udp(duplicate(socket)?),
        Socket::Http(listener) => Socket::Http(duplicate_listener(listener)?),
        Socket::Admin(listener) => Socket::Admin(duplicate_listener(listener)?),
    })
}

fn duplicate_listener(listener: &Listener) -> io::Result<Listener> {
    Ok(match listener {
        Listener::Tcp(socket) => Listener::Tcp(duplicate(socket)?),
        Listener::Unix(socket, _) => Listener::Unix(duplicate(socket)?, None),
    })
}

fn duplicate<T: AsFd + From<OwnedFd>>(socket: &T) -> io::Result<T> {
    Ok(socket.as_fd().try_clone_to_owned()?.into())
}

/// The core of each thread; none if threads are not pinned.
pub fn choose_cores(options: &Options) -> Result<Vec<usize>, Problem> {
    if !options.pin_threads {
        return Ok(Vec::new());
    }
    let mut cores = cores::available().map_err(problem("--pin-threads: cannot pin threads"))?;
    let (threads, count) = (options.threads(), cores.len());
    if threads > count {
        return Err(format!(
            "--pin-threads: -j/--threads {threads} requires as many cores, {count} are available"
        )
        .into());
    }
    cores.truncate(threads);
    Ok(cores)
}

/// Gives the sockets of each thread the packets of its core. The first thread's sockets stand for the groups that they
/// share.
pub fn steer(cores: &[usize], sockets: &[Vec<Socket>]) -> Result<(), Problem> {
    let group = sockets.first().filter(|_| !cores.is_empty());
    for socket in group.into_iter().flatten() {
        let socket = match socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Http(Listener::Tcp(socket)) => socket.as_fd(),
            Socket::Http(Listener::Unix(..)) | Socket::Admin(_) => continue,
        };
        let steered = cores::steer(socket, cores);
        steered.map_err(problem("--pin-threads: cannot choose sockets by cores"))?;
    }
    Ok(())
}

/// The address at which a socket takes announces; none for a Unix socket and for one of admins.
pub fn announce_address(socket: &Socket) -> Option<(Protocol, SocketAddr)> {
    match socket {
        Socket::Udp(socket) => Some((Protocol::Udp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Tcp(socket)) => Some((Protocol::Tcp, socket.local_addr().ok()?)),
        Socket::Http(Listener::Unix(..)) | Socket::Admin(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Interest, Poll, Token};
    use std::io::Write;
    use std::time::Instant;

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
                _ => Err(ErrorKind::Unsupported.into()),
            };
            registered.expect("can be polled");
            Loop { poll, socket }
        }

        /// Takes a datagram or a connection.
        fn take(&self) -> io::Result<()> {
            match &self.socket {
                Socket::Udp(socket) => socket.recv_from(&mut [0; 8]).map(drop),
                Socket::Http(Listener::Tcp(socket)) => socket.accept().map(drop),
                _ => Err(ErrorKind::Unsupported.into()),
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
        let other = open_another(&socket, false).expect("a descriptor");
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
        let socket = sockets::udp(any, false).expect("a port");
        let address = socket.local_addr().expect("is bound");
        let client = std::net::UdpSocket::bind(any).expect("a port");
        expect_both_to_serve(Socket::Udp(socket), || client.send_to(b"x", address));
    }

    #[test]
    fn each_thread_is_woken_for_its_duplicate_of_a_tcp_socket() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = sockets::tcp(any, false).expect("a port");
        let address = socket.local_addr().expect("is bound");
        expect_both_to_serve(Socket::Http(Listener::Tcp(socket)), || {
            let mut client = std::net::TcpStream::connect(address).expect("connects");
            // On Linux a connection may be handed over only with its first bytes.
            client.write_all(b"x").expect("is sent");
            client
        });
    }
}
