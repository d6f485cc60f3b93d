//! Datagrams by the batch: one system call receives up to 32 requests, another sends the replies.
//!
//! A reply goes back the way its request came: to the same address and, on a wildcard socket, from the address that the
//! request was sent to. The system delivers both with the request. A batch keeps them and hands them back unchanged,
//! except for the interface, which is left to the routing table.

use super::address::SockAddr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// Requests in a batch. Twice as many are answered 4 % slower: their data no longer fits the first-level cache
/// together, and a system call's share in a request is small already.
pub const BATCH: usize = 32;

/// A larger datagram is truncated. The largest valid one is a scrape of 74 torrents, 1496 bytes.
const REQUEST: usize = 1536;

/// The largest reply: with the headers of IPv6 and UDP it is 1280 bytes, which every IPv6 link carries unfragmented
/// (RFC 8200, section 5).
pub const REPLY: usize = 1232;

/// The option that requests the address a datagram was sent to, and the control message that holds it. The same control
/// message sets the source of a reply.
#[cfg(target_os = "linux")]
pub const V4_DESTINATION_OPTION: (libc::c_int, libc::c_int) = (libc::IPPROTO_IP, libc::IP_PKTINFO);
#[cfg(not(target_os = "linux"))]
pub const V4_DESTINATION_OPTION: (libc::c_int, libc::c_int) =
    (libc::IPPROTO_IP, libc::IP_RECVDSTADDR);

use libc::mmsghdr as Message;

/// Room for one control message with an address of either family.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Requests, their sources, and the replies to them.
pub struct Batch {
    requests: Vec<[u8; REQUEST]>,
    replies: Vec<[u8; REPLY]>,
    names: Vec<SockAddr>,
    controls: Vec<Control>,
    /// Of each request received.
    lengths: Vec<Lengths>,
}

#[derive(Clone, Copy)]
struct Lengths {
    request: usize,
    name: libc::socklen_t,
    control: usize,
    /// 0: no reply.
    reply: usize,
}

/// A request and the room for its reply.
pub struct Exchange<'a> {
    pub request: &'a [u8],
    pub source: IpAddr,
    pub reply: &'a mut [u8; REPLY],
    /// Set it to the reply's length; with 0 no reply is sent.
    pub reply_length: &'a mut usize,
}

/// The outcome of a batch of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub sent: usize,
    /// Of those that were sent.
    pub bytes: usize,
    /// The system refused the destination, such as port 0.
    pub refused: usize,
    /// Did not fit into the send buffer.
    pub dropped: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl Batch {
    pub fn new() -> Batch {
        Batch {
            requests: vec![[0; REQUEST]; BATCH],
            replies: vec![[0; REPLY]; BATCH],
            names: vec![SockAddr::zeroed(); BATCH],
            controls: vec![Control([0; 64]); BATCH],
            lengths: Vec::with_capacity(BATCH),
        }
    }

    /// Receives the datagrams that wait, up to a batch, and drops the last batch. Fewer than [`BATCH`] means that no
    /// more wait.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.lengths.clear();
        let mut parts = [NO_PART; BATCH];
        let mut messages = [NO_MESSAGE; BATCH];
        let buffers = self.requests.iter_mut().zip(&mut self.names);
        let buffers = buffers.zip(&mut self.controls).zip(&mut parts);
        for (message, (((request, name), control), part)) in messages.iter_mut().zip(buffers) {
            *part = part_of(request);
            let header = &mut message.msg_hdr;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = SockAddr::SIZE;
            header.msg_control = (&raw mut *control).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: each header points to buffers of its own in `self` and in `parts`, of the sizes given, which live and
        // are not touched until the call is over. The count is that of the messages, and there is no timeout.
        let count = count_of(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as _,
                0,
                std::ptr::null_mut(),
            )
        })?;
        for (i, message) in messages.iter().take(count).enumerate() {
            let header = &message.msg_hdr;
            self.lengths.push(Lengths {
                request: (message.msg_len as usize).min(REQUEST),
                name: header.msg_namelen,
                control: clear_interface(&mut self.controls[i], header.msg_controllen),
                reply: 0,
            });
        }
        Ok(count)
    }

    /// The requests of the batch.
    pub fn requests(&self) -> impl Iterator<Item = &[u8]> {
        let received = self.lengths.iter().zip(&self.requests);
        received.map(|(lengths, request)| &request[..lengths.request])
    }

    /// The datagrams of the batch, with their sources.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let sources = self.requests().zip(&self.names);
        sources.filter_map(|(datagram, name)| Some((name.get()?, datagram)))
    }

    /// The exchanges of the batch, in the order in which they were received.
    pub fn exchanges(&mut self) -> impl Iterator<Item = Exchange<'_>> {
        let requests = self.requests.iter().zip(&mut self.replies);
        let received = self.lengths.iter_mut().zip(requests);
        received
            .zip(&self.names)
            .map(|((lengths, (request, reply)), name)| Exchange {
                request: &request[..lengths.request],
                source: name.ip().unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                reply,
                reply_length: &mut lengths.reply,
            })
    }

    /// Sends the replies. One that the system refuses is skipped. When the send buffer is full, the rest is dropped.
    pub fn send(&mut self, socket: &impl AsRawFd) -> Sent {
        let mut parts = [NO_PART; BATCH];
        let mut messages = [NO_MESSAGE; BATCH];
        let mut count = 0;
        let buffers = self.replies.iter_mut().zip(&mut self.names);
        let buffers = buffers.zip(&mut self.controls).zip(&self.lengths);
        let buffers = buffers.filter(|(_, lengths)| lengths.reply > 0);
        let headers = messages.iter_mut().zip(&mut parts);
        for ((message, part), (((reply, name), control), lengths)) in headers.zip(buffers) {
            *part = part_of(reply);
            part.iov_len = lengths.reply.min(REPLY);
            message.msg_len = part.iov_len as _;
            let header = &mut message.msg_hdr;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = lengths.name;
            if lengths.control > 0 {
                header.msg_control = (&raw mut *control).cast();
                header.msg_controllen = lengths.control as _;
            }
            count += 1;
        }
        send_all(&mut messages[..count], |rest| {
            // SAFETY: as in `receive`.
            count_of(unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, 0)
            })
        })
    }
}

/// The result of a system call, whose type differs between systems.
fn count_of(result: impl TryInto<usize>) -> io::Result<usize> {
    result.try_into().map_err(|_| io::Error::last_os_error())
}

/// Sends until all are sent, refused or dropped.
fn send_all(
    mut rest: &mut [Message],
    mut send: impl FnMut(&mut [Message]) -> io::Result<usize>,
) -> Sent {
    let mut outcome = Sent::default();
    while !rest.is_empty() {
        let done = match send(rest) {
            Ok(sent) => {
                outcome.sent += sent;
                let taken = rest.get(..sent).unwrap_or_default();
                outcome.bytes += taken.iter().map(|m| m.msg_len as usize).sum::<usize>();
                sent.max(1)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) if is_full(&error) => {
                outcome.dropped += rest.len();
                rest.len()
            }
            Err(_) => {
                outcome.refused += 1;
                1
            }
        };
        rest = rest.get_mut(done..).unwrap_or_default();
    }
    outcome
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

const NO_PART: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

// SAFETY: zeros are valid for a struct of integers and pointers.
const NO_MESSAGE: Message = unsafe { std::mem::zeroed() };

fn part_of(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    }
}

/// Makes the control message of a request fit for its reply. Returns its length, or 0 if it does not hold the address
/// that the request was sent to.
fn clear_interface(control: &mut Control, length: impl TryInto<usize>) -> usize {
    // The length's type differs between systems.
    let length = length.try_into().unwrap_or(0);
    let start = size_of::<libc::cmsghdr>();
    if length < start || length > size_of::<Control>() {
        return 0;
    }
    // SAFETY: the buffer is aligned for a header (checked below) and longer than one.
    let header = unsafe { control.0.as_ptr().cast::<libc::cmsghdr>().read() };
    // The payload's offset depends on alignment, which the macro knows.
    // SAFETY: the header is within the buffer; the macro only computes an address.
    let payload = unsafe { libc::CMSG_DATA(control.0.as_ptr().cast()) };
    let payload = (payload as usize).wrapping_sub(control.0.as_ptr() as usize);
    let interface = match (header.cmsg_level, header.cmsg_type) {
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            std::mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex)
        }
        #[cfg(target_os = "linux")]
        V4_DESTINATION_OPTION => std::mem::offset_of!(libc::in_pktinfo, ipi_ifindex),
        #[cfg(not(target_os = "linux"))]
        V4_DESTINATION_OPTION => return length, // The address alone.
        _ => return 0,
    };
    let at = payload + interface;
    match control.0.get_mut(at..at + size_of::<libc::c_uint>()) {
        Some(bytes) => bytes.fill(0),
        None => return 0,
    }
    length
}

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockets::{self, Sharing};
    use std::net::UdpSocket;
    use std::time::Duration;

    fn echo(batch: &mut Batch) {
        for exchange in batch.exchanges() {
            let length = exchange.request.len();
            exchange.reply[..length].copy_from_slice(exchange.request);
            *exchange.reply_length = length;
        }
    }

    fn client(to: SocketAddr) -> UdpSocket {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => "127.0.0.1:0".parse().expect("an address"),
            SocketAddr::V6(_) => "[::1]:0".parse().expect("an address"),
        };
        let client = UdpSocket::bind(any).expect("a port");
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        // Connected, it receives only from the address that it sends to.
        client.connect(to).expect("a route");
        client
    }

    /// The next reply's length. A call with a timeout is interrupted when the process is stopped and goes on.
    fn receive(client: &UdpSocket, reply: &mut [u8]) -> usize {
        loop {
            match client.recv(reply) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.expect("a reply"),
            }
        }
    }

    #[test]
    fn replies_leave_from_the_address_that_the_request_was_sent_to() {
        let wildcards = ["0.0.0.0:0", "[::]:0"];
        // Only Linux has all of 127/8 on its loopback.
        let another = if cfg!(target_os = "linux") {
            "127.0.0.77"
        } else {
            "127.0.0.1"
        };
        let targets = [vec!["127.0.0.1", another], vec!["::1"]];
        for (wildcard, targets) in wildcards.iter().zip(targets) {
            let socket = sockets::udp(wildcard.parse().expect("an address"), Sharing::Off)
                .expect("a socket");
            let port = socket.local_addr().expect("bound").port();
            for target in targets {
                let ip: IpAddr = target.parse().expect("an address");
                let client = client((ip, port).into());
                client.send(b"hello").expect("sent");
                let mut batch = Batch::new();
                while batch.receive(&socket).unwrap_or(0) == 0 {}
                echo(&mut batch);
                assert_eq!(batch.send(&socket).sent, 1);
                let mut reply = [0; 9];
                assert_eq!(receive(&client, &mut reply), 5, "{target}");
            }
        }
    }

    #[test]
    fn a_batch_is_received_in_order_and_answered_where_a_reply_is_set() {
        let socket =
            sockets::udp("127.0.0.1:0".parse().expect("an address"), Sharing::Off).expect("bound");
        let client = client(socket.local_addr().expect("bound"));
        for n in 0..(BATCH as u8 + 3) {
            client.send(&[n; 3]).expect("sent");
        }
        let mut batch = Batch::new();
        let mut expected = 0;
        let source = client.local_addr().expect("bound");
        for count in [BATCH, 3] {
            assert_eq!(batch.receive(&socket).expect("waits"), count);
            assert!(batch.datagrams().all(|(from, _)| from == source));
            assert_eq!(batch.datagrams().count(), count);
            for exchange in batch.exchanges() {
                assert_eq!(exchange.request, [expected; 3]);
                assert!(exchange.source.is_loopback());
                exchange.reply[0] = expected;
                *exchange.reply_length = usize::from(expected % 2);
                expected += 1;
            }
            batch.send(&socket);
        }
        let error = batch.receive(&socket).expect_err("nothing is left");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        for n in (1..expected).step_by(2) {
            let mut reply = [0; 9];
            assert_eq!(receive(&client, &mut reply), 1);
            assert_eq!(reply[0], n);
        }
    }

    #[test]
    fn refused_replies_are_skipped_and_those_without_room_are_dropped() {
        let mut messages = [NO_MESSAGE; 10];
        messages.iter_mut().for_each(|m| m.msg_len = 20);
        let mut calls = 0;
        let outcome = send_all(&mut messages, |rest| {
            calls += 1;
            match calls {
                1 => Ok(2),
                2 => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                3 => Err(io::Error::from_raw_os_error(libc::EINTR)),
                4 => Ok(3),
                _ => {
                    assert_eq!(rest.len(), 4);
                    Err(io::Error::from_raw_os_error(libc::EAGAIN))
                }
            }
        });
        let expected = Sent {
            sent: 5,
            bytes: 100,
            refused: 1,
            dropped: 4,
        };
        assert_eq!(outcome, expected);
    }
}
