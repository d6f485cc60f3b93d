//! Where HTTP is listened for: a TCP port, or a Unix socket for a proxy on the same host.

use crate::sys::sockets::SocketFile;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

pub enum Listener {
    Tcp(TcpListener),
    /// With its file, which goes when the listener does, unless that is another process's to say.
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// A connection and the address that it is from, which over a Unix socket is none.
    pub fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((stream, Some(address.ip())))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                // Nothing is asked of a connection but what a stream socket of any family does.
                Ok((TcpStream::from(OwnedFd::from(stream)), None))
            }
        }
    }

    /// What the poll watches.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }
}
