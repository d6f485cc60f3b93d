//! Descriptors that go from one process to another, each with a byte that says what it is for.

use super::check;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

/// Room for the control message that holds one descriptor, aligned as its header is.
#[repr(C)]
union Control {
    _header: libc::cmsghdr,
    bytes: [u8; ROOM],
}

// SAFETY: the macro, as a function, only adds sizes up.
const ROOM: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as libc::c_uint) } as usize;

/// Calls with a header for one byte and one descriptor.
fn with_header<T>(byte: &mut u8, call: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec {
        iov_base: (&raw mut *byte).cast(),
        iov_len: 1,
    };
    // SAFETY: zeros are valid for a struct of integers and pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = ROOM as _;
    call(&mut header)
}

/// Sends a descriptor; whoever receives it has one of its own for the same.
pub fn send(socket: &UnixDatagram, mut byte: u8, fd: BorrowedFd) -> io::Result<()> {
    with_header(&mut byte, |header| {
        // SAFETY: the header's control buffer has room for one message with one descriptor, so that there is a
        // first header, and data behind it; it need not be aligned.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const *header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) as _;
            let data = libc::CMSG_DATA(message).cast::<RawFd>();
            data.write_unaligned(fd.as_raw_fd());
        }
        // SAFETY: all that the header points to is alive for the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const *header, 0) };
        check(sent as libc::c_int).map(|_| ())
    })
}

/// A descriptor that has come.
pub fn receive(socket: &UnixDatagram) -> io::Result<(u8, OwnedFd)> {
    let mut byte = 0;
    let fd = with_header(&mut byte, |header| {
        // SAFETY: all that the header points to is alive for the call, and as large as it says.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut *header, 0) };
        check(received as libc::c_int)?;
        // SAFETY: the system has filled the buffer with whole messages as the header's length says; with room
        // for one descriptor no more than one came. It is new and nobody else's.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const *header);
            let is_descriptor = !message.is_null()
                && (*message).cmsg_level == libc::SOL_SOCKET
                && (*message).cmsg_type == libc::SCM_RIGHTS
                && (*message).cmsg_len as usize
                    >= libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) as usize;
            match is_descriptor {
                true => {
                    let data = libc::CMSG_DATA(message).cast::<RawFd>();
                    Ok(OwnedFd::from_raw_fd(data.read_unaligned()))
                }
                false => Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
    })?;
    Ok((byte, fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_with_its_byte_and_works() {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("an option");
        let nothing = receive(&theirs).expect_err("is empty");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let (mut here, there) = UnixStream::pair().expect("sockets");
        send(&ours, 7, there.as_fd()).expect("has room");
        drop(there);
        let (byte, fd) = receive(&theirs).expect("is there");
        assert_eq!(byte, 7);
        let mut stream = UnixStream::from(fd);
        stream.write_all(b"hello").expect("has room");
        drop(stream);
        let mut text = String::new();
        here.read_to_string(&mut text).expect("ends");
        assert_eq!(text, "hello");
        ours.send(b"x").expect("has room");
        assert!(receive(&theirs).is_err(), "no descriptor");
    }
}
