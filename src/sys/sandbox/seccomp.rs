//! Linux's filter of system calls (`seccomp(2)`), as a program of classic BPF that the kernel runs before each call.
//!
//! A call that is not in the table fails with ENOSYS, as one that the kernel does not have: a C library then does
//! without, or with an older call. So a new version of it does not end the daemon. A call of [`calls::KILLED`] ends the
//! process, and so does one of a foreign ABI, whose numbers mean other calls.

use super::super::bpf::{
    JUMP, JUMP_IF_LESS, JUMP_UNLESS_ANY_BIT, JUMP_UNLESS_EQUAL, LOAD_WORD, RETURN, op, program,
};
use super::super::check;
use super::calls::{self, Calls, Checked, Expected};
use libc::{c_int, c_uint, seccomp_data, sock_filter};
use std::io;
use std::mem::offset_of;

/// The processor as the kernel names it to a filter (linux/audit.h), if the table was compared with all calls that are
/// made on it.
const ARCHITECTURE: Option<u32> = {
    let machine = match () {
        _ if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) => libc::EM_X86_64,
        _ if cfg!(target_arch = "x86") => libc::EM_386,
        _ if cfg!(target_arch = "aarch64") => libc::EM_AARCH64,
        _ if cfg!(target_arch = "arm") => libc::EM_ARM,
        _ if cfg!(target_arch = "mips") => libc::EM_MIPS,
        _ if cfg!(target_arch = "riscv64") => libc::EM_RISCV,
        _ => 0,
    };
    let is_64 = (cfg!(target_pointer_width = "64") as u32) << 31;
    let is_little = (cfg!(target_endian = "little") as u32) << 30;
    match machine {
        0 => None,
        machine => Some(machine as u32 | is_64 | is_little),
    }
};

pub const IS_SUPPORTED: bool = ARCHITECTURE.is_some();

/// Calls of x86-64's 32-bit ABI have this bit.
const X32: u32 = 0x4000_0000;

const ALLOW: sock_filter = end(libc::SECCOMP_RET_ALLOW);
const REFUSE: sock_filter = end(libc::SECCOMP_RET_ERRNO | libc::EPERM as c_uint);
const KILL: sock_filter = end(libc::SECCOMP_RET_KILL_PROCESS);

const MISS: sock_filter = end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as c_uint);

/// With this variable set when the program is compiled, a call that is not in the table ends the process, so that tests
/// find it.
const UNKNOWN: sock_filter = match option_env!("ANNOUNCED_KILL_UNKNOWN_CALLS") {
    Some(_) => KILL,
    None => MISS,
};

const fn end(action: c_uint) -> sock_filter {
    op(RETURN, action, 0)
}

/// Has the kernel filter the calls of this thread, and of those that it starts. `PR_SET_NO_NEW_PRIVS` must be set.
pub fn enter(calls: &Calls) -> io::Result<()> {
    let Some(architecture) = ARCHITECTURE else {
        return Err(io::Error::other("no table of calls for this processor"));
    };
    let mut steps = filter(architecture, calls);
    let program = program(&mut steps)?;
    // Without the flag, kernels before Linux 5.16 slow the process down, to protect it from code of others that it
    // might run. Kernels before 4.17 lack the flag.
    set(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as c_uint, &program).or_else(|_| set(0, &program))
}

fn set(flags: c_uint, program: &libc::sock_fprog) -> io::Result<()> {
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the pointer is to a program, alive for the call, with its length.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const *program) };
    check(set as c_int).map(drop)
}

fn filter(architecture: u32, calls: &Calls) -> Vec<sock_filter> {
    let load = |offset: usize| op(LOAD_WORD, offset as u32, 0);
    let mut steps = vec![
        load(offset_of!(seccomp_data, arch)),
        op(JUMP_UNLESS_EQUAL, architecture, 1),
        op(JUMP, 1, 0),
        KILL,
        load(offset_of!(seccomp_data, nr)),
    ];
    if cfg!(target_arch = "x86_64") {
        steps.extend([op(JUMP_IF_LESS, X32, 1), KILL]);
    }
    let [killed, missed] = [[calls::KILLED], [calls::MISSED]];
    for (calls, action) in [(calls.plain, ALLOW), (&killed, KILL), (&missed, MISS)] {
        // Those that this processor does not have are negative.
        let numbers = calls.iter().copied().flatten();
        for number in numbers.filter_map(|call| u32::try_from(*call).ok()) {
            steps.extend([op(JUMP_UNLESS_EQUAL, number, 1), action]);
        }
    }
    for checked in calls.checked.iter().copied().flatten() {
        let Ok(number) = u32::try_from(checked.call) else {
            continue;
        };
        let judged = judge(checked);
        steps.push(op(JUMP_UNLESS_EQUAL, number, judged.len() as u8));
        steps.extend(judged);
    }
    steps.push(UNKNOWN);
    steps
}

/// Decides by the low 32 bits of an argument.
fn judge(checked: &Checked) -> Vec<sock_filter> {
    let half = if cfg!(target_endian = "big") { 4 } else { 0 };
    let argument = offset_of!(seccomp_data, args) + 8 * usize::from(checked.argument);
    let mut steps = vec![op(LOAD_WORD, (argument + half) as u32, 0)];
    match checked.expected {
        Expected::OneOf(values) => {
            for value in values {
                steps.extend([op(JUMP_UNLESS_EQUAL, *value, 1), ALLOW]);
            }
            steps.push(REFUSE);
        }
        Expected::With(bit) => steps.extend([op(JUMP_UNLESS_ANY_BIT, bit, 1), ALLOW, REFUSE]),
        Expected::Without(bit) => steps.extend([op(JUMP_UNLESS_ANY_BIT, bit, 1), REFUSE, ALLOW]),
    }
    steps
}
