//! The reference loops: servers that move the same bytes as a tracker and do nothing else.
//!
//! They are the ceiling that a tracker is measured against, so they are what one would write to
//! be fast and no cleverer: blocking `recvmmsg` and `sendmmsg` for UDP, edge-triggered epoll for
//! HTTP. They run in a process of their own, this program started with `--bare`, and are pinned
//! and measured like any server.

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use crate::sys::{self, Batch, Epoll, Wait};

/// Which loop, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bare {
    pub kind: Kind,
    pub address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers every datagram with this many octets.
    Udp(usize),
    /// Answers every HTTP request and waits for the next.
    Http,
    /// Answers one HTTP request and closes.
    HttpClosing,
}

/// As it is written on the command line of the loop's process.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Kind::Udp(length) => write!(f, "udp:{length}"),
            Kind::Http => f.write_str("http"),
            Kind::HttpClosing => f.write_str("http-closing"),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(kind: &str) -> Result<Kind, String> {
        match (kind, kind.strip_prefix("udp:").map(str::parse)) {
            (_, Some(Ok(length @ 16..=1232))) => Ok(Kind::Udp(length)),
            ("http", _) => Ok(Kind::Http),
            ("http-closing", _) => Ok(Kind::HttpClosing),
            _ => Err(format!("{kind} is no reference loop")),
        }
    }
}

pub fn run(bare: &Bare) -> io::Result<()> {
    match bare.kind {
        Kind::Udp(length) => udp(bare.address, length),
        Kind::Http => http(bare.address, false),
        Kind::HttpClosing => http(bare.address, true),
    }
}

/// Datagrams a system call, as many as trackers take.
const BATCH: usize = 64;

fn udp(address: SocketAddr, length: usize) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    sys::set_receive_buffer(&socket, 8 << 20)?;
    let mut batch = Batch::with_addresses(BATCH, length);
    loop {
        let received = batch.receive(&socket, Wait::ForOne)?;
        for index in 0..received {
            // Action and transaction are where a reply begins, so that it counts as one.
            batch.slot(index).copy_within(8..16, 0);
        }
        batch.send(&socket, received, length)?;
    }
}

fn http(address: SocketAddr, closing: bool) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new(BATCH)?;
    epoll.add(listener.as_raw_fd())?;
    // By descriptor, which the kernel keeps small.
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let reply = reply();
    let mut request = [0; 2048];
    loop {
        for index in 0..epoll.wait()? {
            let ready = epoll.ready(index);
            if ready == listener.as_raw_fd() {
                accept_all(&listener, &epoll, &mut connections)?;
                continue;
            }
            let place = &mut connections[ready as usize];
            match answer(place.as_ref(), &mut request, &reply) {
                Ok(()) if !closing => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => *place = None,
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<TcpStream>>,
) -> io::Result<()> {
    while let Ok(stream) = sys::accept(listener.as_fd()) {
        let descriptor = stream.as_raw_fd();
        epoll.add(descriptor)?;
        if connections.len() <= descriptor as usize {
            connections.resize_with(descriptor as usize + 1, || None);
        }
        connections[descriptor as usize] = Some(stream);
    }
    Ok(())
}

/// One request, taken to be whole, and one reply. An error is the end of the connection, unless
/// there was nothing yet.
fn answer(stream: Option<&TcpStream>, request: &mut [u8], reply: &[u8]) -> io::Result<()> {
    let mut stream = stream.ok_or(io::ErrorKind::NotConnected)?;
    match sys::receive_now(stream, request)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => stream.write_all(reply),
    }
}

/// The octets of an announce's reply with thirty peers.
fn reply() -> Vec<u8> {
    let mut body = b"d8:completei15000e10:downloadedi15000e11:external ip4:".to_vec();
    body.extend([127, 0, 0, 1]);
    body.extend(b"10:incompletei15000e8:intervali1800e12:min intervali900e5:peers180:");
    body.extend([0x5a; 180]);
    body.push(b'e');
    let mut reply = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    reply.extend(body);
    reply
}
