//! The system calls that the standard library does not have, and all the `unsafe` of the benchmark.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::{io, mem, ptr};

use libc::{c_int, socklen_t};

fn check(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Processor time that all threads of a process have used. /proc/PID/stat counts in ticks of 10 ms, and schedstat is
/// as old as the last tick.
pub fn processor_time(process: u32) -> io::Result<Duration> {
    // SAFETY: both calls write only the one value that they are given, for which all bits 0 are valid.
    unsafe {
        let mut clock: libc::clockid_t = 0;
        let mut time: libc::timespec = mem::zeroed();
        match libc::clock_getcpuclockid(process as libc::pid_t, &mut clock) {
            0 => check(libc::clock_gettime(clock, &mut time))?,
            error => return Err(io::Error::from_raw_os_error(error)),
        };
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// Makes one `send` of many times `bytes` send as many datagrams (Linux 4.18).
pub fn set_datagram_bytes(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    let value = c_int::from(bytes);
    // SAFETY: the kernel reads one int, whose size it is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            ptr::from_ref(&value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    })?;
    Ok(())
}

/// Room for some datagrams that one system call receives or sends, with the address of the other side of each.
pub struct Batch {
    bytes: usize,
    buffer: Vec<u8>,
    addresses: Vec<libc::sockaddr_storage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    pub fn new(slots: usize, bytes: usize) -> Batch {
        // SAFETY: null pointers and zeros are valid in all three.
        let (address, vector, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Batch {
            bytes,
            buffer: vec![0; slots * bytes],
            addresses: vec![address; slots],
            vectors: vec![vector; slots],
            headers: vec![header; slots],
        }
    }

    pub fn slot(&mut self, index: usize) -> &mut [u8] {
        &mut self.buffer[index * self.bytes..][..self.bytes]
    }

    /// The length of the datagram in a slot, which may be more than the slot's.
    pub fn length(&self, index: usize) -> usize {
        self.headers[index].msg_len as usize
    }

    /// Points the headers at the slots. Done before each call, since a slot that was borrowed in between would make
    /// older pointers invalid; it costs four stores a slot.
    fn point(&mut self) -> *mut libc::mmsghdr {
        let buffer = self.buffer.as_mut_ptr();
        let addresses = self.addresses.as_mut_ptr();
        let headers = self.headers.iter_mut().zip(&mut self.vectors);
        for (index, (header, vector)) in headers.enumerate() {
            vector.iov_base = buffer.wrapping_add(index * self.bytes).cast();
            vector.iov_len = self.bytes;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = addresses.wrapping_add(index).cast();
        }
        self.headers.as_mut_ptr()
    }

    /// Receives into the slots from the first on; the number of datagrams. With `MSG_DONTWAIT` it may be 0.
    pub fn receive(&mut self, socket: &UdpSocket, flags: c_int) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
        }
        let (fd, slots) = (socket.as_raw_fd(), self.headers.len());
        let flags = flags | libc::MSG_TRUNC;
        let headers = self.point();
        // SAFETY: `point` made all `slots` headers describe memory of this batch.
        match check(unsafe { libc::recvmmsg(fd, headers, slots as u32, flags, ptr::null_mut()) }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            received => received,
        }
    }

    /// Sends the first `count` slots to the addresses that they came from.
    pub fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<()> {
        assert!(count <= self.headers.len());
        let (fd, headers) = (socket.as_raw_fd(), self.point());
        // SAFETY: as in `receive`.
        check(unsafe { libc::sendmmsg(fd, headers, count as u32, 0) })?;
        Ok(())
    }
}
