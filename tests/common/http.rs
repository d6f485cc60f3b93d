//! An HTTP client that checks every byte.

use super::bencode::Value;
use super::udp::split_peers;
use super::{DEADLINE, uninterrupted};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

pub struct Client {
    stream: TcpStream,
    /// Bytes read and not yet taken.
    rest: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Status line and headers, with the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn bencoded(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        Value::parse(&self.body)
    }

    /// The failure reason.
    pub fn failure(&self) -> String {
        let value = self.bencoded();
        assert_eq!(value.keys(), ["failure reason"]);
        String::from_utf8(value.string("failure reason").to_vec()).expect("is text")
    }

    /// The IPv4 and IPv6 peers of an announce reply, sorted.
    pub fn peers(&self) -> Vec<SocketAddr> {
        let value = self.bencoded();
        let (mut peers, rest) = split_peers(value.string("peers"), 6);
        assert!(rest.is_empty());
        if value.get("peers6").is_some() {
            let (v6, rest) = split_peers(value.string("peers6"), 18);
            assert!(rest.is_empty() && !v6.is_empty());
            peers.extend(v6);
        }
        peers
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_nodelay(true).expect("an option");
        Client::over(stream)
    }

    /// Over a Unix socket.
    pub fn new_unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("connects");
        Client::over(TcpStream::from(OwnedFd::from(stream)))
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Client {
            stream,
            rest: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("is sent");
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads one response. The body has a length, is chunked, or ends with the connection.
    pub fn receive(&mut self) -> Response {
        self.receive_to("GET")
    }

    /// Reads the response to a request of this method. Without a body if that is HEAD.
    pub fn receive_to(&mut self, method: &str) -> Response {
        let head = self.receive_head();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let mut response = Response {
            status: status.expect("a status"),
            head,
            body: Vec::new(),
        };
        if method == "HEAD" {
            return response;
        }
        response.body = match response.header("Content-Length") {
            Some(length) => self.take(length.parse().expect("a length")),
            None if response.header("Transfer-Encoding") == Some("chunked") => self.take_chunks(),
            None => self.read_to_end(),
        };
        response
    }

    /// Reads status line and headers, with the empty line.
    pub fn receive_head(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.rest.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more();
        };
        let head: Vec<u8> = self.rest.drain(..end).collect();
        String::from_utf8(head).expect("a head is text")
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.rest.len() < length {
            self.read_more();
        }
        self.rest.drain(..length).collect()
    }

    /// Reads a chunked body, which must have no extensions and no trailers.
    pub fn take_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.rest.windows(2).position(|w| w == b"\r\n") {
                    Some(at) => break at,
                    None => self.read_more(),
                }
            };
            let line = String::from_utf8(self.take(end + 2)).expect("is text");
            let length = usize::from_str_radix(line.trim_end(), 16).expect("is hexadecimal");
            body.extend(self.take(length));
            assert_eq!(self.take(2), b"\r\n", "after a chunk");
            if length == 0 {
                return body;
            }
        }
    }

    fn read_more(&mut self) {
        let mut buffer = [0; 65536];
        let count = uninterrupted(|| self.stream.read(&mut buffer)).expect("a response");
        let rest = String::from_utf8_lossy(&self.rest);
        assert!(count > 0, "closed after {rest:?}");
        self.rest.extend_from_slice(&buffer[..count]);
    }

    pub fn request(&mut self, text: impl AsRef<[u8]>) -> Response {
        self.send(text);
        self.receive()
    }

    /// Bytes that have arrived, or the next that do; none if the other side has closed.
    pub fn read_some(&mut self) -> Vec<u8> {
        if self.rest.is_empty() {
            self.rest.resize(65536, 0);
            let count = uninterrupted(|| self.stream.read(&mut self.rest)).expect("bytes");
            self.rest.truncate(count);
        }
        std::mem::take(&mut self.rest)
    }

    /// Reads on until the other side closes. Whether it closes in order, and the bytes not yet taken end like this.
    pub fn ends_with(&mut self, end: &[u8]) -> bool {
        self.stream.read_to_end(&mut self.rest).is_ok() && self.rest.ends_with(end)
    }

    /// Reads on until the other side closes in order. Returns the bytes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        assert!(self.ends_with(b""), "cut off");
        std::mem::take(&mut self.rest)
    }
}

/// Sends a request on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> Response {
    let text = format!("GET {target} HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n\r\n");
    let mut client = Client::new(address);
    let response = client.request(text);
    assert_eq!(client.read_to_end(), b"", "closed after the response");
    response
}

/// The value of a counter or gauge that has no labels, in a text of `/metrics`.
pub fn metric(report: &str, name: &str) -> u64 {
    let start = format!("announced_{name} ");
    let mut lines = report.lines();
    let value = lines.find_map(|line| line.strip_prefix(&start)?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {report}"))
}
