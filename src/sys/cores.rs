//! Threads pinned to cores, each of which gets what its core receives. Linux alone has both.
//!
//! A thread then answers a datagram on the core that took it from the network card. On a loopback with two threads
//! and a load on each of two cores they answered 1.13 times the announces that the kernel's hash let them (1.05 to
//! 1.30, eight pairs); pinned without the steering, as many as without. Where a card interrupts one core only, that
//! core's thread gets everything, so it is for the admin to ask for.

/// Whether the system has both.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");

#[cfg(target_os = "linux")]
mod linux {
    use super::super::check;
    use std::io;
    use std::mem::size_of;
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// The cores that this process may use; an error where it may not choose among them.
    pub fn available() -> io::Result<Vec<usize>> {
        // SAFETY: zeros are valid for a set of bits.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: the pointer is to a set of that size, alive for the call.
        check(unsafe { libc::sched_getaffinity(0, size, &raw mut set) })?;
        // SAFETY: likewise. Nothing changes, but a sandbox that forbids it says so.
        check(unsafe { libc::sched_setaffinity(0, size, &raw const set) })?;
        // SAFETY: the numbers are those of bits in the set.
        let is_in = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
        Ok((0..size * 8).filter(is_in).collect())
    }

    /// Pins the calling thread to a core.
    pub fn pin(core: usize) -> io::Result<()> {
        // SAFETY: zeros are valid for a set of bits.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::cpu_set_t>();
        if core < size * 8 {
            // SAFETY: the number is that of a bit in the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        // SAFETY: the pointer is to a set of that size, alive for the call.
        check(unsafe { libc::sched_setaffinity(0, size, &raw const set) })?;
        Ok(())
    }

    /// Has a socket of a group with SO_REUSEPORT take what the core at its place receives; what other cores receive is
    /// spread by their numbers. The places are those in which the sockets were bound.
    pub fn steer(socket: BorrowedFd, cores: &[usize]) -> io::Result<()> {
        let mut program = vec![op(
            LOAD_WORD,
            (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32,
            0,
        )];
        for (place, core) in (0..).zip(cores) {
            let core = u32::try_from(*core).unwrap_or(u32::MAX);
            program.push(op(JUMP_UNLESS_EQUAL, core, 1));
            program.push(op(RETURN, place, 0));
        }
        let count = u32::try_from(cores.len()).unwrap_or(1).max(1);
        program.extend([op(MODULO, count, 0), op(RETURN_ACCUMULATOR, 0, 0)]);
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the pointer is to a program of the length that it names, alive for the call.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    // Classic BPF (linux/bpf_common.h): class, size or operation, and source or mode.
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_UNLESS_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const RETURN_ACCUMULATOR: u32 = libc::BPF_RET | BPF_A;
    const BPF_A: u32 = 0x10;

    /// `skip` is how many instructions a comparison that fails passes over.
    fn op(code: u32, k: u32, skip: u8) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16, // All are below 256.
            jt: 0,
            jf: skip,
            k,
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::{available, pin, steer};

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;
    use std::os::fd::BorrowedFd;

    pub fn available() -> io::Result<Vec<usize>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn pin(_: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn steer(_: BorrowedFd, _: &[usize]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(target_os = "linux"))]
pub use other::{available, pin, steer};
