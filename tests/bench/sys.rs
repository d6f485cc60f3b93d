//! The system calls that the standard library does not have, and all the `unsafe` of the benchmark.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

// Processes

/// Keeps the calling thread, and threads that it starts, on one core.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is an empty set, CPU_SET stays within it for any core below
    // its 1024 bits, and the kernel only reads it.
    check(unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &set)
    })?;
    Ok(())
}

/// Makes the command's process run on one core, and die with the thread that started it.
///
/// Dying with the parent is the second line of defence: the kernel forgets it when the process
/// changes its user, as servers do.
pub fn confine(command: &mut Command, core: usize) -> &mut Command {
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory
    // that is shared or locked.
    unsafe {
        command.pre_exec(move || {
            pin(core)?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            Ok(())
        })
    }
}

/// Lets this thread run before ordinary ones. Only root may: false means that it was refused.
pub fn run_first() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel only reads the one parameter.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) == 0 }
}

pub fn is_root() -> bool {
    // SAFETY: returns a number and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Processor time that all threads of a process have used, to the nanosecond.
///
/// The clock of a process is brought up to date when it is read. /proc/PID/stat counts in ticks
/// of 10 ms, and schedstat is as old as the last tick.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: writes the one clock id.
    match unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } {
        0 => read_clock(clock),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the one timespec.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Processor time of this process: user and system.
pub fn own_processor_time() -> Duration {
    // SAFETY: a zeroed rusage is valid and the call fills it; RUSAGE_SELF cannot fail.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let duration = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// Raises the number of descriptors that this process may have open to what it is allowed.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes the one struct and setrlimit reads it.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(())
}

// Socket options

fn set_option(fd: RawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int, whose size it is told.
    check(unsafe {
        let size = mem::size_of::<c_int>() as socklen_t;
        libc::setsockopt(
            fd,
            level,
            option,
            ptr::from_ref(&value).cast::<c_void>(),
            size,
        )
    })?;
    Ok(())
}

pub fn set_receive_buffer(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    set_option(
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_RCVBUF,
        bytes as c_int,
    )
}

/// Makes one `send` of many times `size` octets send as many datagrams (Linux 4.18).
pub fn set_datagram_size(socket: &UdpSocket, size: usize) -> io::Result<()> {
    set_option(
        socket.as_raw_fd(),
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        size as c_int,
    )
}

/// What the kernel counted on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    pub sent: u32,
    pub received: u32,
    pub timestamps: bool,
}

pub fn segments(stream: &TcpStream) -> io::Result<Segments> {
    // SAFETY: tcp_info is numbers, for which zero is valid; the kernel fills as much of it as it
    // knows and no more than the size that it is told.
    let info = unsafe {
        let mut info: libc::tcp_info = mem::zeroed();
        let mut size = mem::size_of_val(&info) as socklen_t;
        let place = ptr::from_mut(&mut info).cast::<c_void>();
        check(libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            place,
            &mut size,
        ))?;
        info
    };
    const TIMESTAMPS: u8 = 1;
    Ok(Segments {
        sent: info.tcpi_segs_out,
        received: info.tcpi_segs_in,
        timestamps: info.tcpi_options & TIMESTAMPS != 0,
    })
}

/// A connection begun from a given address, not waiting for it to be made.
pub fn connect_from(source: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: makes a descriptor, which is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?) };
    let fd = socket.as_raw_fd();
    // The port is chosen by connect, which takes any that is free towards this server.
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let (from, to) = (
        Address::from(SocketAddr::new(source, 0)),
        Address::from(server),
    );
    // SAFETY: both addresses are whole and as long as said, and the kernel only reads them.
    unsafe {
        check(libc::bind(fd, from.pointer(), from.length))?;
        match check(libc::connect(fd, to.pointer(), to.length)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
    }
    Ok(TcpStream::from(socket))
}

/// A socket address as the kernel has it.
struct Address {
    storage: libc::sockaddr_storage,
    length: socklen_t,
}

impl Address {
    fn pointer(&self) -> *const libc::sockaddr {
        ptr::from_ref(&self.storage).cast()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        // SAFETY: zero is a valid sockaddr_storage, and it is large enough and aligned for the
        // two kinds written into it.
        unsafe {
            let mut storage: libc::sockaddr_storage = mem::zeroed();
            let length = match address {
                SocketAddr::V4(v4) => {
                    let place = ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>();
                    (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                    (*place).sin_port = v4.port().to_be();
                    (*place).sin_addr.s_addr = u32::from_ne_bytes(Ipv4Addr::octets(v4.ip()));
                    mem::size_of::<libc::sockaddr_in>()
                }
                SocketAddr::V6(v6) => {
                    let place = ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>();
                    (*place).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    (*place).sin6_port = v6.port().to_be();
                    (*place).sin6_addr.s6_addr = Ipv6Addr::octets(v6.ip());
                    mem::size_of::<libc::sockaddr_in6>()
                }
            };
            Address {
                storage,
                length: length as socklen_t,
            }
        }
    }
}

/// Receives into the start of `buffer` without waiting.
pub fn receive_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: writes at most the buffer's length.
    let length = unsafe {
        libc::recv(
            stream.as_raw_fd(),
            buffer.as_mut_ptr().cast::<c_void>(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    if length < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(length as usize)
    }
}

/// Accepts a connection, non-blocking like its listener.
pub fn accept(listener: BorrowedFd) -> io::Result<TcpStream> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: asks for no address, and what is returned is a descriptor owned by nobody else.
    unsafe {
        let fd = check(libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            flags,
        ))?;
        Ok(TcpStream::from(OwnedFd::from_raw_fd(fd)))
    }
}

// Epoll

pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new(events: usize) -> io::Result<Epoll> {
        // SAFETY: makes a descriptor, which is owned by nobody else.
        let descriptor =
            unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll {
            descriptor,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; events],
        })
    }

    /// Tells, once each time that it becomes so, when `fd` has something to read.
    pub fn add(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32,
            u64: fd as u64,
        };
        // SAFETY: the kernel only reads the event.
        check(unsafe {
            libc::epoll_ctl(
                self.descriptor.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd,
                &mut event,
            )
        })?;
        Ok(())
    }

    /// Waits, and returns how many descriptors are ready.
    pub fn wait(&mut self) -> io::Result<usize> {
        // SAFETY: writes at most as many events as there is room for.
        let ready = check(unsafe {
            libc::epoll_wait(
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as c_int,
                -1,
            )
        })?;
        Ok(ready as usize)
    }

    pub fn ready(&self, index: usize) -> RawFd {
        self.events[index].u64 as RawFd
    }
}

// Batches of datagrams

/// Room for some datagrams that one system call receives or sends.
pub struct Batch {
    size: usize,
    octets: Vec<u8>,
    /// Where each came from and goes to; empty for a connected socket.
    addresses: Vec<libc::sockaddr_storage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Return at once with what is there.
    No,
    /// Return when there is at least one.
    ForOne,
}

impl Batch {
    /// For sockets that are connected.
    pub fn new(slots: usize, size: usize) -> Batch {
        // SAFETY: null pointers and zero lengths are valid in both structs.
        let (vector, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Batch {
            size,
            octets: vec![0; slots * size],
            addresses: Vec::new(),
            vectors: vec![vector; slots],
            headers: vec![header; slots],
        }
    }

    /// For sockets that receive from everyone, and answer.
    pub fn with_addresses(slots: usize, size: usize) -> Batch {
        // SAFETY: zero is a valid sockaddr_storage.
        let address = unsafe { mem::zeroed() };
        Batch {
            addresses: vec![address; slots],
            ..Batch::new(slots, size)
        }
    }

    pub fn slot(&mut self, index: usize) -> &mut [u8] {
        &mut self.octets[index * self.size..][..self.size]
    }

    /// The first slots, end to end.
    pub fn slots(&self, count: usize) -> &[u8] {
        &self.octets[..count * self.size]
    }

    /// How long the datagram in a slot was, which may be more than there was room for.
    pub fn length(&self, index: usize) -> usize {
        self.headers[index].msg_len as usize
    }

    /// Points the headers at the slots. Done before each call, since the borrow of a slot in
    /// between would make older pointers stale; it costs three stores a slot.
    fn point(&mut self, slots: usize, length: usize) {
        let octets = self.octets.as_mut_ptr();
        let addresses = self.addresses.as_mut_ptr();
        let addressed = !self.addresses.is_empty();
        for (index, (vector, header)) in self
            .vectors
            .iter_mut()
            .zip(&mut self.headers)
            .take(slots)
            .enumerate()
        {
            vector.iov_base = octets.wrapping_add(index * self.size).cast();
            vector.iov_len = length;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            if addressed {
                header.msg_hdr.msg_name = addresses.wrapping_add(index).cast();
            }
        }
    }

    /// Receives into the slots from the first on; returns how many came, none being no error.
    pub fn receive(&mut self, socket: &UdpSocket, wait: Wait) -> io::Result<usize> {
        let slots = self.headers.len();
        self.point(slots, self.size);
        if !self.addresses.is_empty() {
            for header in &mut self.headers {
                header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as socklen_t;
            }
        }
        let flags = match wait {
            Wait::No => libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            Wait::ForOne => libc::MSG_WAITFORONE | libc::MSG_TRUNC,
        };
        // SAFETY: `point` made every header describe memory of this batch, and the kernel is told
        // how many headers there are.
        let received = check(unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers,
                slots as u32,
                flags,
                ptr::null_mut(),
            )
        });
        match received {
            Ok(received) => Ok(received as usize),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Sends the first `count` slots, `length` octets of each; returns how many went.
    pub fn send(&mut self, socket: &UdpSocket, count: usize, length: usize) -> io::Result<usize> {
        assert!(count <= self.headers.len() && length <= self.size);
        self.point(count, length);
        // SAFETY: as in `receive`.
        let sent = check(unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::sendmmsg(socket.as_raw_fd(), headers, count as u32, 0)
        })?;
        Ok(sent as usize)
    }
}
