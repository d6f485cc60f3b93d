//! Instructions of classic BPF (linux/bpf_common.h), in which the kernel takes filters of packets and of system calls.

use std::io;

// Class, size or operation, and source or mode.
pub const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
pub const JUMP_UNLESS_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub const JUMP_IF_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
pub const JUMP_UNLESS_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
pub const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
pub const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
pub const RETURN_ACCUMULATOR: u32 = libc::BPF_RET | BPF_A;
const BPF_A: u32 = 0x10;

/// `skip` is how many instructions a comparison that fails skips.
pub const fn op(code: u32, k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16, // All are below 256.
        jt: 0,
        jf: skip,
        k,
    }
}

/// The kernel reads `program` where this points.
pub fn program(program: &mut [libc::sock_filter]) -> io::Result<libc::sock_fprog> {
    Ok(libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    })
}
