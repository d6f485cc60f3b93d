//! The reference loops: servers that move the same bytes as a tracker and do nothing else.
//!
//! They are the ceiling for a tracker, fast by the obvious means: blocking `recvmmsg` and `sendmmsg` for UDP,
//! edge-triggered epoll for HTTP. Each runs in a process of its own, this program started with `--bare`, and is pinned
//! and measured like any server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::sys::Batch;

/// Datagrams or events a system call, as many as trackers take.
const BATCH: usize = 64;

/// Runs the loop of that name: `udp`, `http` (connections are kept) or `http-closing`.
pub fn run(kind: &str, address: SocketAddr) -> io::Result<()> {
    match kind {
        "udp" => udp(address),
        _ => http(address, kind == "http-closing"),
    }
}

fn is_ready() {
    eprintln!("announced: ready");
}

/// Answers every datagram with as many bytes as an announce's reply.
fn udp(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let peer_bytes = if address.is_ipv4() { 6 } else { 18 };
    let mut batch = Batch::new(BATCH, 20 + super::NUMWANT * peer_bytes);
    is_ready();
    loop {
        let received = batch.receive(&socket, libc::MSG_WAITFORONE)?;
        for index in 0..received {
            // A reply begins with action and transaction, and is counted if they are right.
            batch.slot(index).copy_within(8..16, 0);
        }
        batch.send(&socket, received)?;
    }
}

/// Answers every request, which is taken to be whole.
fn http(address: SocketAddr, is_closing: bool) -> io::Result<()> {
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    let accepts = Token(0);
    poll.registry()
        .register(&mut listener, accepts, Interest::READABLE)?;
    let mut events = Events::with_capacity(BATCH);
    let mut connections: Vec<Option<TcpStream>> = vec![None];
    let (reply, mut request) = (reply(), [0; 2048]);
    let mut free = Vec::new();
    is_ready();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == accepts {
                while let Ok((mut stream, _)) = listener.accept() {
                    let place = free.pop().unwrap_or(connections.len());
                    poll.registry()
                        .register(&mut stream, Token(place), Interest::READABLE)?;
                    connections.resize_with(connections.len().max(place + 1), || None);
                    connections[place] = Some(stream);
                }
                continue;
            }
            let connection = &mut connections[event.token().0];
            let Some(stream) = connection else {
                continue;
            };
            let answered = match stream.read(&mut request) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => stream.write_all(&reply),
                Err(error) => Err(error),
            };
            let is_waiting = answered
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            if !is_waiting && (is_closing || answered.is_err()) {
                *connection = None;
                free.push(event.token().0);
            }
        }
    }
}

/// The bytes of an announce's reply with thirty peers.
fn reply() -> Vec<u8> {
    let mut body = b"d8:completei15000e10:downloadedi15000e11:external ip4:".to_vec();
    body.extend([127, 0, 0, 1]);
    body.extend(b"10:incompletei15000e8:intervali1800e12:min intervali900e5:peers180:");
    body.extend([0x5a; 6 * super::NUMWANT]);
    body.push(b'e');
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), body].concat()
}
