//! Packets between the workers of one machine, as datagrams over Unix sockets. Each worker receives on a
//! socket of its own, to which all the others send.
//!
//! The sockets are the parent's and outlive the worker. What has no room waits, up to a bound; beyond that
//! it is lost, as it may be in a network, and repaired like that.

use crate::sys::sockets::enlarge_send_buffer;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

/// Bytes of a datagram: the sender's number, and the longest packet.
pub const MOST: usize = 1 + 1500;

/// What the system is asked to hold of what is on its way to a worker, in bytes.
const BUFFER: i32 = 4 << 20;

/// Packets that wait for room on the way to a worker: 1.4 MB.
const MOST_WAITING: usize = 1024;

/// The ends of a worker's socket.
#[derive(Debug)]
pub struct Pair {
    receiving: UnixDatagram,
    sending: UnixDatagram,
}

impl Pair {
    pub fn new() -> io::Result<Pair> {
        let (receiving, sending) = UnixDatagram::pair()?;
        receiving.set_nonblocking(true)?;
        sending.set_nonblocking(true)?;
        let sending = OwnedFd::from(sending);
        enlarge_send_buffer(&sending, BUFFER);
        Ok(Pair {
            receiving,
            sending: sending.into(),
        })
    }
}

#[derive(Debug)]
struct Sibling {
    number: usize,
    socket: UnixDatagram,
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
pub struct Group {
    number: u8,
    receiving: UnixDatagram,
    siblings: Vec<Sibling>,
    datagram: Vec<u8>,
    /// Packets that were lost for want of room.
    pub shed: u64,
}

impl Group {
    /// The group as the worker of this number sees it. What its predecessor has not read is of no use.
    pub fn join(number: usize, pairs: &[Pair]) -> io::Result<Group> {
        let own = pairs.get(number).ok_or(ErrorKind::NotFound)?;
        let mut siblings = Vec::new();
        for (number, pair) in pairs
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
        {
            siblings.push(Sibling {
                number,
                socket: pair.sending.try_clone()?,
                waiting: VecDeque::new(),
            });
        }
        let mut group = Group {
            number: u8::try_from(number).unwrap_or(u8::MAX),
            receiving: own.receiving.try_clone()?,
            siblings,
            datagram: Vec::new(),
            shed: 0,
        };
        let mut datagram = [0; MOST];
        while group.receive(&mut datagram).is_some() {}
        Ok(group)
    }

    /// The addresses of the others, which stand for no host's.
    pub fn siblings(&self) -> Vec<SocketAddr> {
        let numbers = self.siblings.iter().map(|sibling| sibling.number);
        numbers.map(address_of).collect()
    }

    /// A packet that has come, and from whom; none if there is no more.
    pub fn receive<'a>(&mut self, datagram: &'a mut [u8; MOST]) -> Option<(SocketAddr, &'a [u8])> {
        loop {
            match self.receiving.recv(datagram) {
                Ok(length) => {
                    // An empty one is nobody's.
                    if let Some((number, packet)) = datagram.get(..length)?.split_first() {
                        let number = usize::from(*number);
                        let length = packet.len();
                        return Some((address_of(number), datagram.get(1..=length)?));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends a packet to the worker at this address; false if it is none's.
    pub fn send(&mut self, to: SocketAddr, packet: &[u8]) -> bool {
        let Some(sibling) = self
            .siblings
            .iter_mut()
            .find(|s| address_of(s.number) == to)
        else {
            return false;
        };
        self.datagram.clear();
        self.datagram.push(self.number);
        self.datagram.extend_from_slice(packet);
        if !sibling.flush() || !sibling.send(&self.datagram) {
            match sibling.waiting.len() < MOST_WAITING {
                true => sibling.waiting.push_back(self.datagram.clone()),
                false => self.shed += 1,
            }
        }
        true
    }

    /// Whether packets wait for room.
    pub fn is_waiting(&self) -> bool {
        self.siblings
            .iter()
            .any(|sibling| !sibling.waiting.is_empty())
    }

    /// Sends what waits and has room now.
    pub fn flush(&mut self) {
        for sibling in &mut self.siblings {
            sibling.flush();
        }
    }
}

impl Sibling {
    /// Whether nothing waits any more.
    fn flush(&mut self) -> bool {
        while let Some(datagram) = self.waiting.front() {
            if !self.send(datagram) {
                return false;
            }
            self.waiting.pop_front();
        }
        true
    }

    /// Whether there was room.
    fn send(&self, datagram: &[u8]) -> bool {
        loop {
            match self.socket.send(datagram) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // That there is no room has a name of its own on each system.
                sent => return sent.is_ok(),
            }
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.as_fd()
    }
}

/// Whether an address is that of a worker.
pub fn is_sibling(address: SocketAddr) -> bool {
    let is_this_network = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0);
    address.port() == 0 && is_this_network(address.ip())
}

/// Of "this network" (RFC 1122), from which no packet comes, and without a port.
pub fn address_of(number: usize) -> SocketAddr {
    let number = u32::try_from(number).unwrap_or(u32::MAX >> 8);
    SocketAddrV4::new(Ipv4Addr::from_bits(number + 1), 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(count: usize) -> Vec<Group> {
        let pairs: Vec<Pair> = (0..count).map(|_| Pair::new().expect("sockets")).collect();
        let join = |number| Group::join(number, &pairs).expect("sockets");
        (0..count).map(join).collect()
    }

    fn packets(group: &mut Group) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut datagram = [0; MOST];
        let mut packets = Vec::new();
        while let Some((from, packet)) = group.receive(&mut datagram) {
            packets.push((from, packet.to_vec()));
        }
        packets
    }

    #[test]
    fn each_hears_each_by_its_address() {
        let mut groups = groups(3);
        for (number, group) in groups.iter_mut().enumerate() {
            let siblings = group.siblings();
            assert_eq!(siblings.len(), 2);
            assert!(!siblings.contains(&address_of(number)));
            for to in siblings {
                assert!(group.send(to, &[number as u8; 7]));
            }
            assert!(!group.send(address_of(number), b"itself"));
            assert!(!group.send("127.0.0.1:1".parse().expect("an address"), b"a host"));
        }
        for (number, group) in groups.iter_mut().enumerate() {
            let others = (0..3).filter(|other| *other != number);
            let expected: Vec<_> = others.map(|n| (address_of(n), vec![n as u8; 7])).collect();
            assert_eq!(packets(group), expected);
        }
    }

    #[test]
    fn what_has_no_room_waits_and_what_is_too_much_is_shed() {
        let mut groups = groups(2);
        let to = address_of(1);
        let mut sent = 0_u32;
        while groups[0].shed < 10 {
            let mut packet = [0; 1400];
            packet[..4].copy_from_slice(&sent.to_be_bytes());
            groups[0].send(to, &packet);
            sent += 1;
        }
        assert!(groups[0].is_waiting());
        let mut received = Vec::new();
        while groups[0].is_waiting() {
            received.append(&mut packets(&mut groups[1]));
            groups[0].flush();
        }
        received.append(&mut packets(&mut groups[1]));
        let numbers = received.iter().map(|(_, packet)| packet[..4].to_vec());
        let expected = (0..sent - 10).map(|n| n.to_be_bytes().to_vec());
        assert!(numbers.eq(expected), "in order, and all but what was shed");
    }

    #[test]
    fn whoever_comes_after_another_reads_nothing_of_its_past() {
        let pairs = [Pair::new().expect("sockets"), Pair::new().expect("sockets")];
        let mut one = Group::join(0, &pairs).expect("sockets");
        let other = Group::join(1, &pairs).expect("sockets");
        one.send(address_of(1), b"old");
        drop(other);
        let mut other = Group::join(1, &pairs).expect("sockets");
        one.send(address_of(1), b"new");
        assert_eq!(packets(&mut other), [(address_of(0), b"new".to_vec())]);
    }
}
