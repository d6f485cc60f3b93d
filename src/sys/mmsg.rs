//! Datagrams by the batch: one system call receives up to 32 requests, another sends the replies.
//!
//! A reply goes back the way its request came: to the same address and, on a wildcard socket, from the address that the
//! request was sent to. The system delivers both with the request. A batch keeps them and hands them back unchanged,
//! except for the interface, which is left to the routing table.

use super::address::SockAddr;
use super::is_full;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

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

#[cfg(not(target_os = "dragonfly"))]
use libc::mmsghdr as Message;

/// The same, which the libc crate lacks for DragonFly.
#[cfg(target_os = "dragonfly")]
#[derive(Clone, Copy)]
struct Message {
    msg_hdr: libc::msghdr,
    msg_len: libc::c_uint,
}

/// Receives or sends several messages, and returns how many: `recvmmsg` and `sendmmsg`, or loops in place of them. The
/// headers must point to buffers that live and are not used otherwise until the call is over.
type Call = unsafe fn(RawFd, &mut [Message]) -> io::Result<usize>;

/// Room for one control message with an address of either family.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// The way back to the source of a request.
#[derive(Clone, Copy)]
struct Way {
    name: SockAddr,
    name_length: libc::socklen_t,
    control: Control,
    control_length: usize,
}

/// A request, and the reply to it.
#[derive(Clone, Copy)]
struct Slot {
    way: Way,
    request_length: usize,
    /// 0: no reply.
    reply_length: usize,
    request: [u8; REQUEST],
    reply: [u8; REPLY],
}

/// The requests that one call has received, and the replies to them.
pub struct Batch {
    slots: Vec<Slot>,
    received: usize,
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
    /// The number of the last error that is not of one address: a fault of the host.
    pub fault: Option<i32>,
}

impl Sent {
    fn note(&mut self, error: &io::Error) {
        let number = error.raw_os_error();
        // Anybody can send from an address that has no route, or from port 0.
        let is_fault = !matches!(
            number,
            Some(libc::EINVAL | libc::EACCES | libc::EHOSTUNREACH)
        );
        if is_fault && error.kind() != io::ErrorKind::WouldBlock {
            self.fault = number;
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        // SAFETY: zeros are valid for integers.
        let slot: Slot = unsafe { std::mem::zeroed() };
        Batch {
            slots: vec![slot; BATCH],
            received: 0,
        }
    }
}

impl Batch {
    /// Receives the datagrams that wait, up to a batch, and drops the last batch. Fewer than [`BATCH`] means that no
    /// more wait.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.receive_by(calls::receive, socket.as_raw_fd())
    }

    fn receive_by(&mut self, receive: Call, fd: RawFd) -> io::Result<usize> {
        self.received = 0;
        let (mut parts, mut messages) = ([NO_PART; BATCH], [NO_MESSAGE; BATCH]);
        let headers = messages.iter_mut().zip(&mut parts);
        for (slot, (message, part)) in self.slots.iter_mut().zip(headers) {
            slot.way.name_length = SockAddr::SIZE;
            slot.way.control_length = size_of::<Control>();
            *message = slot.way.message(part, &mut slot.request);
        }
        // SAFETY: each header points to buffers of its own in `self` and in `parts`, of the sizes given, which live and
        // are not touched until the call is over.
        self.received = unsafe { receive(fd, &mut messages) }?;
        for (slot, message) in self.slots.iter_mut().zip(&messages).take(self.received) {
            let header = &message.msg_hdr;
            slot.request_length = (message.msg_len as usize).min(REQUEST);
            let way = &mut slot.way;
            way.name_length = header.msg_namelen;
            way.control_length = clear_interface(&mut way.control, header.msg_controllen);
            slot.reply_length = 0;
        }
        Ok(self.received)
    }

    /// The requests of the batch.
    pub fn requests(&self) -> impl Iterator<Item = &[u8]> {
        self.slots[..self.received].iter().map(Slot::request)
    }

    /// The datagrams of the batch, with their sources.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let received = self.slots[..self.received].iter();
        received.filter_map(|slot| Some((slot.way.name.get()?, slot.request())))
    }

    /// The exchanges of the batch, in the order in which they were received.
    pub fn exchanges(&mut self) -> impl Iterator<Item = Exchange<'_>> {
        let received = self.slots[..self.received].iter_mut();
        received.map(|slot| Exchange {
            request: &slot.request[..slot.request_length],
            source: slot.way.name.ip().unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            reply: &mut slot.reply,
            reply_length: &mut slot.reply_length,
        })
    }

    /// Sends the replies. One that the system refuses is skipped. When the send buffer is full, the rest is dropped.
    pub fn send(&mut self, socket: &impl AsRawFd) -> Sent {
        self.send_by(calls::send, socket.as_raw_fd())
    }

    fn send_by(&mut self, send: Call, fd: RawFd) -> Sent {
        let (mut parts, mut messages) = ([NO_PART; BATCH], [NO_MESSAGE; BATCH]);
        let mut count = 0;
        let received = self.slots[..self.received].iter_mut();
        let replies = received.filter(|slot| slot.reply_length > 0);
        for (slot, (message, part)) in replies.zip(messages.iter_mut().zip(&mut parts)) {
            let length = slot.reply_length.min(REPLY);
            *message = slot.way.message(part, &mut slot.reply[..length]);
            count += 1;
        }
        send_all(&mut messages[..count], |rest| {
            // SAFETY: as in `receive_by`.
            unsafe { send(fd, rest) }
        })
    }
}

impl Slot {
    fn request(&self) -> &[u8] {
        &self.request[..self.request_length]
    }
}

impl Way {
    /// A header that points to these bytes and to this address.
    fn message(&mut self, part: &mut libc::iovec, bytes: &mut [u8]) -> Message {
        part.iov_base = bytes.as_mut_ptr().cast();
        part.iov_len = bytes.len();
        let mut message = NO_MESSAGE;
        message.msg_len = bytes.len() as _;
        let header = &mut message.msg_hdr;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_name = (&raw mut self.name).cast();
        header.msg_namelen = self.name_length;
        // The BSDs refuse an empty control message.
        if self.control_length > 0 {
            header.msg_control = (&raw mut self.control).cast();
            header.msg_controllen = self.control_length as _;
        }
        message
    }
}

#[cfg(not(target_os = "dragonfly"))]
mod calls {
    use super::{Message, RawFd, io};

    pub unsafe fn receive(fd: RawFd, messages: &mut [Message]) -> io::Result<usize> {
        let (count, no_timeout) = (messages.len() as _, std::ptr::null_mut());
        // SAFETY: the caller promises valid headers, of which the count is given.
        count_of(unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), count, 0, no_timeout) })
    }

    pub unsafe fn send(fd: RawFd, messages: &mut [Message]) -> io::Result<usize> {
        // SAFETY: likewise.
        count_of(unsafe { sendmmsg(fd, messages.as_mut_ptr(), messages.len() as _, 0) })
    }

    #[cfg(not(target_env = "musl"))]
    use libc::sendmmsg;

    /// The system call itself: musl's function of this name calls sendmsg for each message on 64-bit systems. FreeBSD's
    /// libc does so, too, and recvmsg for recvmmsg; it has no system call of either name.
    #[cfg(target_env = "musl")]
    unsafe fn sendmmsg(
        fd: libc::c_int,
        messages: *mut Message,
        count: libc::c_uint,
        flags: libc::c_uint,
    ) -> libc::c_long {
        // SAFETY: these are the types of the call's arguments. Padding of the headers, which musl has and the system
        // does not, is zero.
        unsafe { libc::syscall(libc::SYS_sendmmsg, fd, messages, count, flags) }
    }

    /// The result of a system call, whose type differs between systems.
    fn count_of(result: impl TryInto<usize>) -> io::Result<usize> {
        result.try_into().map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(target_os = "dragonfly")]
use one_by_one as calls;

/// The same with one system call for each message.
#[cfg(any(test, target_os = "dragonfly"))]
mod one_by_one {
    use super::{Message, RawFd, io};

    pub unsafe fn receive(fd: RawFd, messages: &mut [Message]) -> io::Result<usize> {
        // SAFETY: the caller promises valid headers.
        let receive = |header: &mut libc::msghdr| unsafe { libc::recvmsg(fd, header, 0) };
        each(messages, |header| match receive(header) {
            // The error of an earlier reply, which is gone once it is reported. Datagrams may wait behind it.
            -1 if io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock => receive(header),
            length => length,
        })
    }

    pub unsafe fn send(fd: RawFd, messages: &mut [Message]) -> io::Result<usize> {
        // SAFETY: likewise.
        each(messages, |header| unsafe { libc::sendmsg(fd, header, 0) })
    }

    /// Ends before the first message for which the call fails. Its error counts if it is the first of all.
    fn each(
        messages: &mut [Message],
        mut call: impl FnMut(&mut libc::msghdr) -> libc::ssize_t,
    ) -> io::Result<usize> {
        for (done, message) in messages.iter_mut().enumerate() {
            match call(&mut message.msg_hdr) {
                length @ 0.. => message.msg_len = length as _,
                _ if done > 0 => return Ok(done),
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(messages.len())
    }
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
                outcome.note(&error);
                rest.len()
            }
            Err(error) => {
                outcome.refused += 1;
                outcome.note(&error);
                1
            }
        };
        rest = rest.get_mut(done..).unwrap_or_default();
    }
    outcome
}

// SAFETY: zeros are valid for structs of integers and pointers.
const NO_PART: libc::iovec = unsafe { std::mem::zeroed() };
// SAFETY: likewise.
const NO_MESSAGE: Message = unsafe { std::mem::zeroed() };

/// Makes the control message of a request fit for its reply. Returns its length, or 0 if it does not hold the address
/// that the request was sent to. On Linux the length is without the padding at the end: with it the message of IPv6 has
/// 40 bytes, and for more than 36 the system allocates memory.
fn clear_interface(control: &mut Control, length: impl TryInto<usize>) -> usize {
    // The length's type differs between systems.
    let length = length.try_into().unwrap_or(0);
    let start = size_of::<libc::cmsghdr>();
    if length < start || length > size_of::<Control>() {
        return 0;
    }
    // SAFETY: the buffer is aligned for a header (checked below) and longer than one.
    let header = unsafe { control.0.as_ptr().cast::<libc::cmsghdr>().read() };
    // SAFETY: only computes a length. The payload's offset depends on alignment, which the macro knows.
    let payload = unsafe { libc::CMSG_LEN(0) } as usize;
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
    control.0[at..at + size_of::<libc::c_uint>()].fill(0);
    #[allow(clippy::useless_conversion, reason = "musl and the BSDs have 32 bits")]
    let used = usize::try_from(header.cmsg_len).unwrap_or(length);
    if cfg!(target_os = "linux") {
        used.min(length)
    } else {
        length
    }
}

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockets;
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

    type Calls = [Call; 2];
    const AT_ONCE: Calls = [calls::receive, calls::send];
    const ONE_BY_ONE: Calls = [one_by_one::receive, one_by_one::send];

    #[test]
    fn replies_leave_from_the_address_that_the_request_was_sent_to() {
        for calls in [AT_ONCE, ONE_BY_ONE] {
            leave_from_the_address_that_the_request_was_sent_to(calls);
        }
    }

    fn leave_from_the_address_that_the_request_was_sent_to([receive_call, send]: Calls) {
        let wildcards = ["0.0.0.0:0", "[::]:0"];
        // Only Linux has all of 127/8 on its loopback.
        let another = if cfg!(target_os = "linux") {
            "127.0.0.77"
        } else {
            "127.0.0.1"
        };
        let targets = [vec!["127.0.0.1", another], vec!["::1"]];
        for (wildcard, targets) in wildcards.iter().zip(targets) {
            let socket =
                sockets::udp(wildcard.parse().expect("an address"), false).expect("a socket");
            let port = socket.local_addr().expect("bound").port();
            for target in targets {
                let ip: IpAddr = target.parse().expect("an address");
                let client = client((ip, port).into());
                client.send(b"hello").expect("sent");
                let mut batch = Batch::default();
                while batch
                    .receive_by(receive_call, socket.as_raw_fd())
                    .unwrap_or(0)
                    == 0
                {}
                echo(&mut batch);
                assert_eq!(batch.send_by(send, socket.as_raw_fd()).sent, 1);
                let mut reply = [0; 9];
                assert_eq!(receive(&client, &mut reply), 5, "{target}");
            }
        }
    }

    #[test]
    fn a_batch_is_received_in_order_and_answered_where_a_reply_is_set() {
        for calls in [AT_ONCE, ONE_BY_ONE] {
            is_received_in_order_and_answered_where_a_reply_is_set(calls);
        }
    }

    fn is_received_in_order_and_answered_where_a_reply_is_set([receive_call, send]: Calls) {
        let socket =
            sockets::udp("127.0.0.1:0".parse().expect("an address"), false).expect("bound");
        let client = client(socket.local_addr().expect("bound"));
        for n in 0..(BATCH as u8 + 3) {
            client.send(&[n; 3]).expect("sent");
        }
        let mut batch = Batch::default();
        let mut expected = 0;
        let source = client.local_addr().expect("bound");
        for count in [BATCH, 3] {
            assert_eq!(
                batch
                    .receive_by(receive_call, socket.as_raw_fd())
                    .expect("waits"),
                count
            );
            assert!(batch.datagrams().all(|(from, _)| from == source));
            assert_eq!(batch.datagrams().count(), count);
            for exchange in batch.exchanges() {
                assert_eq!(exchange.request, [expected; 3]);
                assert!(exchange.source.is_loopback());
                exchange.reply[0] = expected;
                *exchange.reply_length = usize::from(expected % 2);
                expected += 1;
            }
            batch.send_by(send, socket.as_raw_fd());
        }
        let error = batch
            .receive_by(receive_call, socket.as_raw_fd())
            .expect_err("nothing is left");
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
            fault: None,
        };
        assert_eq!(outcome, expected);
        for (number, [refused, dropped]) in [
            (libc::ENETUNREACH, [10, 0]),
            (libc::ENOMEM, [0, 10]),
            (libc::ENOBUFS, [0, 10]),
        ] {
            let failing = |_: &mut [Message]| Err(io::Error::from_raw_os_error(number));
            let outcome = send_all(&mut messages, failing);
            assert_eq!([outcome.refused, outcome.dropped], [refused, dropped]);
            assert_eq!(outcome.fault, Some(number));
        }
    }
}
