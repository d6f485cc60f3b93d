//! Listeners: a TCP port, or a Unix socket for a proxy on the same host.

use crate::sys::sockets::SocketFile;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

pub enum Listener {
    Tcp(TcpListener),
    /// With its file, which is removed with the listener, unless another process does that.
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// Accepts a connection. Over a Unix socket it has no address.
    pub fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((stream, Some(address.ip())))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                // A connection uses only what stream sockets of all families have in common.
                Ok((TcpStream::from(OwnedFd::from(stream)), None))
            }
        }
    }

    /// For the poll to watch.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }
}
