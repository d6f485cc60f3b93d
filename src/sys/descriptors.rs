//! Open descriptors, sent from one process to another over a Unix socket.

use super::check;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Room for one control message with a descriptor.
#[repr(C, align(8))]
struct Control([u8; 64]);

const FD_BYTES: libc::c_uint = size_of::<RawFd>() as libc::c_uint;

/// Calls `sendmsg` or `recvmsg` with one byte, and with room for one descriptor.
fn with_message<T>(control: &mut Control, call: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: zeros are valid for a struct of integers and pointers. Some C libraries have padding in it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: it computes a size.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(FD_BYTES) } as _;
    call(&mut message)
}

/// Sends a duplicate of this descriptor.
pub fn send(socket: &impl AsFd, fd: &impl AsFd) -> io::Result<()> {
    let (socket, fd) = (socket.as_fd().as_raw_fd(), fd.as_fd().as_raw_fd());
    let mut control = Control([0; 64]);
    with_message(&mut control, |message| {
        // SAFETY: the control buffer is aligned for a header and has room for it and one descriptor. All pointers of
        // the message are to values that outlive the call.
        let sent = unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(FD_BYTES) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
            libc::sendmsg(socket, message, 0)
        };
        check(if sent < 0 { -1 } else { 0 }).map(drop)
    })
}

/// Receives a descriptor; an error of kind `UnexpectedEof` if the other end is closed.
pub fn receive(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let socket = socket.as_fd().as_raw_fd();
    let mut control = Control([0; 64]);
    with_message(&mut control, |message| {
        // SAFETY: all pointers of the message are to values that outlive the call.
        let received = unsafe { libc::recvmsg(socket, message, 0) };
        check(if received < 0 { -1 } else { 0 })?;
        // SAFETY: the system has filled the control buffer as far as the message says. A header of this kind is
        // followed by a descriptor, which is new and has no other owner.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null()
                || (*header).cmsg_level != libc::SOL_SOCKET
                || (*header).cmsg_type != libc::SCM_RIGHTS
                || (*header).cmsg_len as usize != libc::CMSG_LEN(FD_BYTES) as usize
            {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            Ok(OwnedFd::from_raw_fd(fd))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_and_works() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut end, other) = UnixStream::pair().expect("a pair");
        send(&ours, &other).expect("is sent");
        drop(other);
        let mut other = UnixStream::from(receive(&theirs).expect("arrives"));
        end.write_all(b"x").expect("is sent");
        let mut byte = [0];
        other.read_exact(&mut byte).expect("arrives");
        assert_eq!(&byte, b"x");
        theirs.set_nonblocking(true).expect("an option");
        let empty = receive(&theirs).expect_err("there is no other");
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);
        (&ours).write_all(b"x").expect("is sent");
        let plain = receive(&theirs).expect_err("a byte alone");
        drop(ours);
        let end = receive(&theirs).expect_err("is closed");
        assert_eq!([plain.kind(), end.kind()], [ErrorKind::UnexpectedEof; 2]);
    }
}
