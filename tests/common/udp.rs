//! A UDP client (BEP 15), which can also send invalid datagrams.

use super::{DEADLINE, uninterrupted};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

pub struct Client {
    socket: UdpSocket,
    pub connection: u64,
}

/// The fields of an announce, with those of a leecher that starts for defaults.
#[derive(Clone, Debug)]
pub struct Announce {
    pub info_hash: [u8; 20],
    pub left: u64,
    pub event: u32,
    pub ip: u32,
    pub num_want: i32,
    pub port: u16,
}

impl Default for Announce {
    fn default() -> Self {
        Announce {
            info_hash: [0xaa; 20],
            left: 1000,
            event: 2,
            ip: 0,
            num_want: -1,
            port: 6881,
        }
    }
}

impl Announce {
    pub fn leecher(port: u16) -> Announce {
        Announce {
            port,
            ..Announce::default()
        }
    }

    pub fn seeder(port: u16) -> Announce {
        Announce {
            left: 0,
            ..Announce::leecher(port)
        }
    }

    pub fn of(self, info_hash: [u8; 20]) -> Announce {
        Announce { info_hash, ..self }
    }

    pub fn event(self, event: u32) -> Announce {
        Announce { event, ..self }
    }

    pub fn num_want(self, num_want: i32) -> Announce {
        Announce { num_want, ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub interval: u32,
    pub leechers: u32,
    pub seeders: u32,
    pub peers: Vec<SocketAddr>,
}

/// The transaction of every request of [`Client`].
pub const TRANSACTION: u32 = 0x0102_0304;

impl Client {
    /// From an address of the loopback, without a connection id yet.
    pub fn from(source: &str, tracker: SocketAddr) -> Client {
        let source: IpAddr = source.parse().expect("an address");
        let socket = UdpSocket::bind((source, 0)).expect("a port");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        // A connected socket receives no reply from another address than the tracker's.
        socket.connect(tracker).expect("a route");
        Client {
            socket,
            connection: 0,
        }
    }

    /// From the loopback address of the tracker's family, with a connection id.
    pub fn new(tracker: SocketAddr) -> Client {
        let source = ["127.0.0.1", "::1"][usize::from(tracker.is_ipv6())];
        let mut client = Client::from(source, tracker);
        client.connect();
        client
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("is bound")
    }

    pub fn connect(&mut self) {
        let reply = self.exchange(&connect_request());
        assert_eq!(reply.len(), 16);
        assert_eq!(reply[..4], [0; 4]);
        assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
        self.connection = u64::from_be_bytes(reply[8..].try_into().expect("8 bytes"));
    }

    pub fn send(&self, datagram: &[u8]) {
        self.socket.send(datagram).expect("is sent");
    }

    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let length = uninterrupted(|| self.socket.recv(&mut buffer)).expect("a reply");
        buffer[..length].to_vec()
    }

    pub fn exchange(&self, datagram: &[u8]) -> Vec<u8> {
        self.send(datagram);
        self.receive()
    }

    /// Whether a datagram gets no reply: the reply to a connect that is sent after it comes first, and alone.
    pub fn is_silent_on(&self, datagram: &[u8]) -> bool {
        self.send(datagram);
        let reply = self.exchange(&connect_request());
        let mut buffer = [0; 4096];
        let wait = |time| self.socket.set_read_timeout(Some(time)).expect("a timeout");
        wait(Duration::from_millis(1));
        let another = uninterrupted(|| self.socket.recv(&mut buffer));
        wait(DEADLINE);
        let is_late =
            |e: io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        another.is_err_and(is_late) && reply.len() == 16 && reply[..4] == [0; 4]
    }

    pub fn announce(&self, announce: &Announce) -> Reply {
        let reply = self.exchange(&self.announce_request(announce));
        assert_eq!(reply[..4], 1_u32.to_be_bytes(), "{reply:?}");
        assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().expect("4 bytes"));
        let size = if self.address().is_ipv6() { 18 } else { 6 };
        let (peers, rest) = split_peers(&reply[20..], size);
        assert!(rest.is_empty());
        Reply {
            interval: number(8),
            leechers: number(12),
            seeders: number(16),
            peers,
        }
    }

    /// Announces these fields, with defaults for the others.
    pub fn announce_fields(&self, info_hash: [u8; 20], port: u16, left: u64, event: u32) -> Reply {
        let announce = Announce {
            left,
            ..Announce::leecher(port)
        };
        self.announce(&announce.of(info_hash).event(event))
    }

    pub fn announce_request(&self, announce: &Announce) -> Vec<u8> {
        let (downloaded, uploaded, key) = (1_u64, 2_u64, 3_u32);
        let request = [
            &self.head(1)[..],
            &announce.info_hash,
            b"-XX0001-abcdefghijkl",
            &downloaded.to_be_bytes(),
            &announce.left.to_be_bytes(),
            &uploaded.to_be_bytes(),
            &announce.event.to_be_bytes(),
            &announce.ip.to_be_bytes(),
            &key.to_be_bytes(),
            &announce.num_want.to_be_bytes(),
            &announce.port.to_be_bytes(),
        ];
        request.concat()
    }

    /// Seeders, completed, leechers of each.
    pub fn scrape(&self, hashes: &[[u8; 20]]) -> Vec<[u32; 3]> {
        let reply = self.exchange(&self.scrape_request(hashes));
        assert_eq!(reply[..4], 2_u32.to_be_bytes(), "{reply:?}");
        assert_eq!(reply[4..8], TRANSACTION.to_be_bytes());
        let records = reply[8..].chunks_exact(12);
        assert!(records.remainder().is_empty());
        let number = |b: &[u8]| u32::from_be_bytes(b.try_into().expect("4 bytes"));
        records
            .map(|r| [number(&r[..4]), number(&r[4..8]), number(&r[8..])])
            .collect()
    }

    pub fn scrape_request(&self, hashes: &[[u8; 20]]) -> Vec<u8> {
        let mut request = self.head(2);
        request.extend(hashes.iter().flatten());
        request
    }

    pub fn head(&self, action: u32) -> Vec<u8> {
        let mut head = self.connection.to_be_bytes().to_vec();
        head.extend_from_slice(&action.to_be_bytes());
        head.extend_from_slice(&TRANSACTION.to_be_bytes());
        head
    }
}

pub fn connect_request() -> Vec<u8> {
    let mut request = 0x0417_2710_1980_u64.to_be_bytes().to_vec();
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&TRANSACTION.to_be_bytes());
    request
}

/// Compact peers of 6 or 18 bytes, sorted, and the rest of the bytes.
pub fn split_peers(bytes: &[u8], size: usize) -> (Vec<SocketAddr>, &[u8]) {
    let chunks = bytes.chunks_exact(size);
    let rest = chunks.remainder();
    let mut peers: Vec<SocketAddr> = chunks
        .map(|peer| {
            let (ip, port) = peer.split_at(size - 2);
            let port = u16::from_be_bytes(port.try_into().expect("2 bytes"));
            let ip: IpAddr = match <[u8; 4]>::try_from(ip) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(ip).expect("16 bytes").into(),
            };
            (ip, port).into()
        })
        .collect();
    peers.sort_unstable();
    (peers, rest)
}
