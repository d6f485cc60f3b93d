//! Announces over HTTP, on connections that are kept or on a new one each.
//!
//! Each connection has one request at a time. Like the UDP generator, this one must need less processor time than the
//! server, so it never waits on a connection but tries them in the order of their requests, which is the order in
//! which servers answer: a system call to receive, one to send, and the server does not pay for waking this process.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::contest::{Load, Tally};
use super::population::{Order, Peer, Population, Reannounce, info_hash};

/// Connections open at a time; fewer than the 128 that a listener may have waiting by default.
const CONNECTIONS: u32 = 96;

const PAUSE: Duration = Duration::from_micros(20);

/// How long the connection whose turn it is may keep the others waiting.
const TURN: Duration = Duration::from_millis(1);

/// A connection without a reply for so long is given up.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// An announce of fixed length, into which hash, port and seeding are patched.
struct Request {
    text: Vec<u8>,
    hash: usize,
    port: usize,
    left: usize,
    ip: usize,
}

impl Request {
    /// The request of libtorrent, in its order, without the fields that trackers skip.
    fn new(server: SocketAddr, is_kept: bool) -> Request {
        let connection = if is_kept { "" } else { "Connection: close\r\n" };
        let (hash, numwant) = ("%00".repeat(20), super::NUMWANT);
        let text = format!(
            "GET /announce?info_hash={hash}&peer_id=-BN0100-abcdefghijkl&port=00000&uploaded=0&downloaded=0\
             &left=0&key=5A5A5A5A&numwant={numwant}&compact=1&no_peer_id=1&ip=000.000.000.000 HTTP/1.1\r\n\
             Host: {server}\r\nUser-Agent: bench/1.0\r\nAccept-Encoding: gzip\r\n{connection}\r\n"
        );
        let after = |name: &str| text.find(name).expect("just written") + name.len();
        Request {
            hash: after("info_hash="),
            port: after("port="),
            left: after("left="),
            ip: after("&ip="),
            text: text.into_bytes(),
        }
    }

    fn patch(&mut self, peer: Peer, population: &Population) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let escapes = self.text[self.hash..].chunks_exact_mut(3);
        for (escape, byte) in escapes.zip(info_hash(peer.torrent)) {
            escape[1] = DIGITS[usize::from(byte >> 4)];
            escape[2] = DIGITS[usize::from(byte & 15)];
        }
        self.patch_number(self.port, 5, population.port(peer));
        for (place, byte) in (self.ip..).step_by(4).zip(population.address(peer)) {
            self.patch_number(place, 3, byte.into());
        }
        self.text[self.left] = b'1' - u8::from(population.is_seeder(peer));
        &self.text
    }

    fn patch_number(&mut self, place: usize, digits: usize, mut number: u16) {
        for digit in self.text[place..][..digits].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

struct Connection {
    source: u32,
    stream: Option<TcpStream>,
    asked: Instant,
}

pub struct HttpLoad<'a> {
    population: &'a Population,
    order: Reannounce<'a>,
    server: SocketAddr,
    is_kept: bool,
    request: Request,
    connections: Vec<Connection>,
    /// The connection whose reply is expected next.
    turn: usize,
    tally: Tally,
}

impl<'a> HttpLoad<'a> {
    pub fn new(server: SocketAddr, population: &'a Population, is_kept: bool) -> HttpLoad<'a> {
        let connections = (0..CONNECTIONS).map(|index| Connection {
            source: index % population.family.sources(),
            stream: None,
            asked: Instant::now(),
        });
        HttpLoad {
            population,
            order: Reannounce::new(population),
            server,
            is_kept,
            request: Request::new(server, is_kept),
            connections: connections.collect(),
            turn: 0,
            tally: Tally::default(),
        }
    }

    /// Takes the reply of the connection whose turn it is, and asks again. False if there is no reply yet.
    fn visit(&mut self, now: Instant) -> io::Result<bool> {
        let connection = &mut self.connections[self.turn];
        let mut kept = None;
        if let Some(stream) = connection.stream.take() {
            match receive(&stream) {
                Ok(bytes) => {
                    self.tally.replies += 1;
                    self.tally.bytes += bytes as u64;
                    kept = Some(stream).filter(|_| self.is_kept);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if now.duration_since(connection.asked) < LOST_AFTER {
                        connection.stream = Some(stream);
                        return Ok(false);
                    }
                    self.tally.lost += 1;
                }
                Err(error) if self.is_kept || error.kind() == ErrorKind::InvalidData => {
                    return Err(error);
                }
                Err(_) => self.tally.lost += 1,
            }
        }
        let source = self.population.family.source(connection.source);
        let peer = self.order.next(connection.source).expect("has no end");
        let request = self.request.patch(peer, self.population);
        let mut stream = match kept {
            Some(stream) => stream,
            None => connect(source, self.server)?,
        };
        // If the server has closed the connection, the next visit notices.
        let _ = stream.write(request);
        connection.stream = Some(stream);
        connection.asked = now;
        Ok(true)
    }
}

impl Load for HttpLoad<'_> {
    fn run(&mut self, deadline: Instant) -> io::Result<()> {
        let mut progress = Instant::now();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            if self.visit(now)? {
                progress = now;
            } else if now.duration_since(progress) < TURN {
                self.tally.wait(PAUSE);
                continue;
            }
            self.turn = (self.turn + 1) % self.connections.len();
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        let connections = self.connections.iter_mut();
        connections.for_each(|connection| connection.stream = None);
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

/// A connection from a given address. On the loopback it is made at once.
fn connect(source: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&server.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Receives one reply to an announce; its length.
fn receive(mut stream: &TcpStream) -> io::Result<usize> {
    let (mut buffer, mut length) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => return Err(io::Error::other("the server has closed a connection")),
            Ok(more) => length += more,
            // The rest of a reply that has begun is not far.
            Err(error) if error.kind() == ErrorKind::WouldBlock && length > 0 => continue,
            Err(error) => return Err(error),
        }
        let reply = &buffer[..length];
        let Some(body) = body(reply) else {
            continue;
        };
        if !body.starts_with(b"d8:complete") {
            let text = String::from_utf8_lossy(reply).into_owned();
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        return Ok(length);
    }
}

/// The body of a reply, once it is whole.
fn body(reply: &[u8]) -> Option<&[u8]> {
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (head, body) = reply.split_at(end);
    let (_, length) = std::str::from_utf8(head)
        .ok()?
        .split_once("Content-Length: ")?;
    let length: usize = length.lines().next()?.parse().ok()?;
    Some(body).filter(|body| body.len() >= length)
}
