//! Announces over HTTP, on connections that are kept or on a new one each.
//!
//! Each connection has one request at a time. Like the UDP generator, this one must need less
//! processor time than the server, so connections are not waited on but tried in the order in
//! which they asked, which is the order in which servers answer: a system call to receive, one to
//! send, and the server is spared the cost of waking anyone.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::contest::Tally;
use crate::population::{Peer, Population, Requests, SOURCES};
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    Kept,
    New,
}

/// Connections open at a time; fewer than the 128 that a listener may have waiting by default.
const CONNECTIONS: usize = 96;

const PAUSE: Duration = Duration::from_micros(20);

/// How long the connection whose turn it is may keep the others waiting.
const PATIENCE: Duration = Duration::from_millis(1);

/// A connection without a reply for so long is given up.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// The octets that an announce's reply begins with.
const ANNOUNCE_REPLY: &[u8] = b"d8:complete";

/// An announce of fixed length, into which hash, port and seeding are patched.
#[derive(Clone)]
pub struct Request {
    text: Vec<u8>,
    hash: usize,
    port: usize,
    left: usize,
}

impl Request {
    /// What libtorrent sends, in its order, without what trackers skip anyway.
    pub fn new(server: SocketAddr, connections: Connections, numwant: u32) -> Request {
        let connection = match connections {
            Connections::Kept => "",
            Connections::New => "Connection: close\r\n",
        };
        let text = format!(
            "GET /announce?info_hash=%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00\
             &peer_id=-BN0100-abcdefghijkl&port=00000&uploaded=0&downloaded=0&left=0\
             &key=5A5A5A5A&numwant={numwant}&compact=1&no_peer_id=1 HTTP/1.1\r\n\
             Host: {server}\r\nUser-Agent: bench/1.0\r\nAccept-Encoding: gzip\r\n{connection}\r\n"
        );
        let after = |name: &str| text.find(name).expect("just written") + name.len();
        let (hash, port, left) = (after("info_hash="), after("port="), after("left="));
        Request {
            hash,
            port,
            left,
            text: text.into_bytes(),
        }
    }

    pub fn of(&mut self, peer: Peer, population: &Population) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let escapes = self.text[self.hash..].chunks_exact_mut(3);
        for (escape, octet) in escapes.zip(population.info_hash(peer.torrent)) {
            escape[1] = DIGITS[usize::from(octet >> 4)];
            escape[2] = DIGITS[usize::from(octet & 15)];
        }
        let mut port = population.port(peer);
        for digit in self.text[self.port..][..5].iter_mut().rev() {
            *digit = b'0' + (port % 10) as u8;
            port /= 10;
        }
        self.text[self.left] = if population.is_seeder(peer) {
            b'0'
        } else {
            b'1'
        };
        &self.text
    }
}

struct Connection {
    source: u32,
    stream: Option<TcpStream>,
    asked: Instant,
}

pub struct HttpLoad<'a> {
    population: &'a Population,
    server: SocketAddr,
    kind: Connections,
    request: Request,
    reply: Vec<u8>,
    connections: Vec<Connection>,
    /// Whose reply is expected next.
    turn: usize,
    pub tally: Tally,
}

impl<'a> HttpLoad<'a> {
    pub fn new(
        server: SocketAddr,
        population: &'a Population,
        kind: Connections,
        numwant: u32,
    ) -> HttpLoad<'a> {
        let connection = |index| Connection {
            source: index as u32 % SOURCES,
            stream: None,
            asked: Instant::now(),
        };
        HttpLoad {
            population,
            server,
            kind,
            request: Request::new(server, kind, numwant),
            reply: vec![0; 4096],
            connections: (0..CONNECTIONS).map(connection).collect(),
            turn: 0,
            tally: Tally::default(),
        }
    }

    pub fn close(&mut self) {
        for connection in &mut self.connections {
            connection.stream = None;
        }
    }

    pub fn drive(&mut self, requests: &mut dyn Requests, deadline: Instant) -> io::Result<()> {
        let mut progress = Instant::now();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            if self.visit(now, requests)? {
                progress = now;
            } else if now.duration_since(progress) < PATIENCE {
                self.tally.wait(PAUSE);
                continue;
            }
            self.turn = (self.turn + 1) % CONNECTIONS;
        }
    }

    /// Takes the reply of the connection whose turn it is, and asks again. False if there is no
    /// reply yet.
    fn visit(&mut self, now: Instant, requests: &mut dyn Requests) -> io::Result<bool> {
        let connection = &mut self.connections[self.turn];
        if let Some(stream) = &connection.stream {
            let keep = match receive(stream, &mut self.reply, &mut self.tally) {
                Ok(()) => self.kind == Connections::Kept,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if now.duration_since(connection.asked) < LOST_AFTER {
                        return Ok(false);
                    }
                    self.tally.lost += 1;
                    false
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(error),
                Err(_) => {
                    match self.kind {
                        Connections::Kept => self.tally.closed += 1,
                        Connections::New => self.tally.lost += 1,
                    }
                    false
                }
            };
            if !keep {
                connection.stream = None;
            }
        }
        let peer = requests
            .next(connection.source)
            .expect("announces without end");
        let request = self.request.of(peer, self.population);
        let mut stream = match connection.stream.take() {
            Some(stream) => stream,
            None => sys::connect_from(
                self.population.family.source(connection.source),
                self.server,
            )?,
        };
        // On the loopback a connection is made by the time that connect returns. If not, or if
        // the server has closed it, the next visit finds nothing and begins anew.
        let _ = stream.write(request);
        connection.stream = Some(stream);
        connection.asked = now;
        Ok(true)
    }
}

/// Receives one reply; an error where there is none.
pub fn receive(stream: &TcpStream, buffer: &mut [u8], tally: &mut Tally) -> io::Result<()> {
    let mut length = 0;
    loop {
        match sys::receive_now(stream, &mut buffer[length..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => length += more,
            // The rest of a reply that has begun is not far.
            Err(error) if error.kind() == ErrorKind::WouldBlock && length > 0 => continue,
            Err(error) => return Err(error),
        }
        let reply = &buffer[..length];
        if let Some(body) = body(reply) {
            tally.replies += 1;
            tally.octets += length as u64;
            if !body.starts_with(ANNOUNCE_REPLY) {
                tally.errors += 1;
                let text = String::from_utf8_lossy(&reply[..length.min(300)]);
                tally.first_error.get_or_insert_with(|| text.into_owned());
            }
            return Ok(());
        }
    }
}

/// The body of a reply, once it is whole.
fn body(reply: &[u8]) -> Option<&[u8]> {
    const LENGTH: &[u8] = b"content-length:";
    let mut rest = reply;
    let mut length = None;
    loop {
        let end = rest.iter().position(|&octet| octet == b'\n')?;
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Some(rest).filter(|body| length.is_some_and(|length| body.len() >= length));
        }
        let Some((name, value)) = line.split_at_checked(LENGTH.len()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(LENGTH) {
            length = std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok();
        }
    }
}
