//! The system calls that each process makes once it serves, in one table for all processors and C libraries.
//!
//! Old calls stand beside those that replace them, and on 32-bit processors calls beside the ones with a 64-bit time,
//! since each C library makes its own choice. A name that `libc` lacks for a processor is taken from [`absent`].
//!
//! The filter compares one call after the other, so frequent calls come first. That matters before Linux 5.11 only:
//! since then the kernel asks the filter once which calls it always allows, and keeps a bit for each.

#![allow(non_upper_case_globals)]

use libc::c_long;

/// The calls of a process.
pub struct Calls {
    /// With any argument.
    pub plain: &'static [&'static [c_long]],
    pub checked: &'static [&'static [Checked]],
}

/// A call that is allowed with some values of one argument, of which the low 32 bits count. Others are EPERM.
pub struct Checked {
    pub call: c_long,
    pub argument: u8,
    pub expected: Expected,
}

pub enum Expected {
    OneOf(&'static [u32]),
    /// The bit is set.
    With(u32),
    /// The bit is not set.
    Without(u32),
}

use Expected::{OneOf, With, Without};

/// The names of `libc` go before those of [`absent`].
macro_rules! table {
    ($table:expr) => {{
        #[allow(unused_imports)]
        use absent::*;
        {
            use libc::*;
            $table
        }
    }};
}

/// Threads serve clients and talk to other nodes. All files are open. There is no way to another process.
pub const SERVE: Calls = Calls {
    plain: &[SERVING, COMMON, STATUS],
    checked: &[NO_CODE, SERVING_CHECKED],
};

/// The same, and removes the files of Unix sockets in the end.
pub const SERVE_UNIX: Calls = Calls {
    plain: &[SERVING, COMMON, STATUS, REMOVING],
    checked: &[NO_CODE, SERVING_CHECKED],
};

/// Reads and replaces files, and sends lines to syslog.
pub const FILES: Calls = Calls {
    plain: &[COMMON, STATUS, OPENING, REPLACING, TALKING],
    checked: &[NO_CODE, LOCAL_SOCKETS],
};

/// Resolves names with the modules of the C library, which are loaded when the first name is resolved.
pub const NAMES: Calls = Calls {
    plain: &[COMMON, STATUS, OPENING, TALKING, RESOLVING],
    checked: &[THREADS, RESOLVING_CHECKED],
};

/// Makes these calls and those of its children, who inherit the filter.
pub const MONITOR: Calls = Calls {
    plain: &[
        COMMON, STATUS, OPENING, REPLACING, TALKING, RESOLVING, STARTING,
    ],
    checked: &[RESOLVING_CHECKED],
};

#[rustfmt::skip]
const SERVING: &[c_long] = table!(&[
    // Of each batch of datagrams, and of each request over TCP.
    SYS_epoll_wait, SYS_epoll_pwait, SYS_recvmmsg, SYS_recvmmsg_time64, SYS_sendmmsg, SYS_recvfrom, SYS_recv,
    SYS_sendto, SYS_send, SYS_writev, SYS_accept4, SYS_epoll_ctl, SYS_shutdown,
    #[cfg(target_arch = "x86")]
    SYS_socketcall,
    SYS_recvmsg, SYS_sendmsg, SYS_accept, SYS_epoll_pwait2,
    // Nodes, and the sockets of clients.
    SYS_connect, SYS_bind, SYS_getsockopt, SYS_setsockopt, SYS_getsockname, SYS_getpeername,
    // Statistics, threads and their cores, the end.
    SYS_pread64, SYS_getrusage, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_dup2, SYS_dup3,
]);

const SERVING_CHECKED: &[Checked] = table!(&[
    argument(SYS_socket, 0, OneOf(&[AF_INET as u32, AF_INET6 as u32])),
    argument(SYS_ioctl, 1, OneOf(&[FIONBIO as u32])),
    argument(SYS_prctl, 0, OneOf(&[PR_SET_NAME as u32])),
    // A thread, not a process.
    argument(SYS_clone, 0, With(CLONE_THREAD as u32)),
    // A panic aborts.
    argument(SYS_tgkill, 2, OneOf(&[SIGABRT as u32])),
    argument(SYS_tkill, 1, OneOf(&[SIGABRT as u32])),
]);

/// Of every process: memory, time, threads, signals, open files.
#[rustfmt::skip]
const COMMON: &[c_long] = table!(&[
    SYS_read, SYS_write, SYS_close, SYS_clock_gettime, SYS_clock_gettime64, SYS_futex, SYS_futex_time64,
    SYS_brk, SYS_madvise, SYS_mremap, SYS_munmap,
    SYS_readv, SYS_writev, SYS_poll, SYS_ppoll, SYS_ppoll_time64, SYS_fcntl, SYS_fcntl64, SYS_getrandom,
    SYS_gettimeofday, SYS_time, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_nanosleep_time64, SYS_restart_syscall,
    SYS_rt_sigreturn, SYS_sigreturn, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_sigaltstack,
    SYS_getpid, SYS_gettid, SYS_sched_yield, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group,
]);

/// The status of files, by descriptor or path: it tells their size, not their content.
#[rustfmt::skip]
const STATUS: &[c_long] = table!(&[
    SYS_fstat, SYS_fstat64, SYS_newfstatat, SYS_fstatat64, SYS_statx, SYS_stat, SYS_stat64, SYS_lstat, SYS_lstat64,
]);

#[rustfmt::skip]
const OPENING: &[c_long] = table!(&[
    SYS_open, SYS_openat, SYS_lseek, SYS__llseek, SYS_pread64,
]);

#[rustfmt::skip]
const REPLACING: &[c_long] = table!(&[
    SYS_fsync, SYS_fdatasync, SYS_rename, SYS_renameat, SYS_renameat2, SYS_unlink, SYS_unlinkat, SYS_flock,
]);

const REMOVING: &[c_long] = table!(&[SYS_unlink, SYS_unlinkat]);

#[rustfmt::skip]
const TALKING: &[c_long] = table!(&[
    SYS_recvfrom, SYS_recv, SYS_recvmsg, SYS_sendto, SYS_send, SYS_sendmsg, SYS_connect,
    #[cfg(target_arch = "x86")]
    SYS_socketcall,
]);

/// Programs of others run here: name services of the host.
#[rustfmt::skip]
const RESOLVING: &[c_long] = table!(&[
    SYS_bind, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_sendmmsg, SYS_recvmmsg,
    SYS_recvmmsg_time64, SYS_shutdown, SYS_socketpair,
    SYS_select, SYS__newselect, SYS_pselect6, SYS_pselect6_time64, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait,
    SYS_epoll_pwait, SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_settime64,
    SYS_access, SYS_faccessat, SYS_faccessat2, SYS_readlink, SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_statfs,
    SYS_statfs64, SYS_fstatfs, SYS_fstatfs64, SYS_dup, SYS_dup2, SYS_dup3,
    SYS_uname, SYS_sysinfo, SYS_getuid, SYS_getuid32, SYS_geteuid, SYS_geteuid32, SYS_getgid, SYS_getgid32,
    SYS_getegid, SYS_getegid32, SYS_getppid, SYS_sched_getaffinity, SYS_getrlimit, SYS_ugetrlimit, SYS_prlimit64,
    SYS_tgkill, SYS_mmap, SYS_mmap2, SYS_mprotect, SYS_prctl,
]);

/// A process, its user and its sandbox, until it is complete.
#[rustfmt::skip]
const STARTING: &[c_long] = table!(&[
    SYS_clone, SYS_fork, SYS_set_tid_address, SYS_kill, SYS_close_range, SYS_getpriority, SYS_setpriority, SYS_nice,
    SYS_setgroups, SYS_setgroups32, SYS_setgid, SYS_setgid32, SYS_setuid, SYS_setuid32, SYS_setresuid, SYS_setresuid32,
    SYS_setreuid, SYS_setreuid32, SYS_capget, SYS_capset, SYS_seccomp,
    SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self,
]);

const RESOLVING_CHECKED: &[Checked] = table!(&[
    argument(
        SYS_socket,
        0,
        OneOf(&[
            AF_INET as u32,
            AF_INET6 as u32,
            AF_UNIX as u32,
            AF_NETLINK as u32
        ])
    ),
    argument(SYS_ioctl, 1, OneOf(&[FIONBIO as u32, FIONREAD as u32])),
]);

const LOCAL_SOCKETS: &[Checked] = table!(&[
    argument(SYS_socket, 0, OneOf(&[AF_UNIX as u32])),
    argument(SYS_ioctl, 1, OneOf(&[FIONBIO as u32])),
]);

const THREADS: &[Checked] = table!(&[argument(SYS_clone, 0, With(CLONE_THREAD as u32))]);

/// Memory never becomes code.
const NO_CODE: &[Checked] = table!(&[
    // There it takes a pointer to its arguments, and no C library uses it.
    #[cfg(not(target_arch = "x86"))]
    argument(SYS_mmap, 2, Without(PROT_EXEC as u32)),
    argument(SYS_mmap2, 2, Without(PROT_EXEC as u32)),
    argument(SYS_mprotect, 2, Without(PROT_EXEC as u32)),
]);

/// Nothing here makes these calls, whatever the C library: somebody has broken in.
#[rustfmt::skip]
pub const KILLED: &[c_long] = table!(&[
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_bpf,
    SYS_mount, SYS_umount, SYS_umount2, SYS_move_mount, SYS_mount_setattr, SYS_open_tree, SYS_fsopen, SYS_fsconfig,
    SYS_fsmount, SYS_fspick, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load,
]);

/// C libraries try these calls first and do without. `clone3` takes its flags where a filter cannot see them.
pub const MISSED: &[c_long] = table!(&[SYS_clone3]);

const fn argument(call: c_long, argument: u8, expected: Expected) -> Checked {
    Checked {
        call,
        argument,
        expected,
    }
}

/// Calls that not every processor has, and those of a 64-bit time, which `libc` lacks for most.
#[allow(dead_code)]
mod absent {
    use libc::c_long;

    macro_rules! absent {
        ($($name:ident)*) => { $(pub const $name: c_long = -1;)* };
    }

    // Of old processors.
    absent! {
        SYS_accept SYS_access SYS_dup2 SYS_epoll_wait SYS_getrlimit SYS_lstat SYS_newfstatat SYS_open SYS_poll
        SYS_readlink SYS_recv SYS_rename SYS_renameat SYS_select SYS_send SYS_stat SYS_time SYS_umount SYS_unlink
        SYS_fork SYS_nice
    }
    // Of 32-bit processors, or not of them.
    absent! {
        SYS__llseek SYS_fcntl64 SYS_fstat64 SYS_fstatfs64 SYS_getegid32 SYS_geteuid32
        SYS_getgid32 SYS_getuid32 SYS_lstat64 SYS_mmap SYS_mmap2 SYS_sigreturn SYS_socketcall SYS_stat64 SYS_statfs64
        SYS_ugetrlimit SYS_kexec_file_load SYS_setgroups32 SYS_setgid32 SYS_setuid32
        SYS_setresuid32 SYS_setreuid32 SYS_fstat SYS_lseek SYS_statfs SYS_fstatfs SYS_fcntl
    }
    // musl never makes it, and `libc` lacks it for musl on 32-bit processors.
    absent! { SYS_rseq }
    // Not of 32-bit processors that are younger than those of a 64-bit time.
    absent! {
        SYS_clock_gettime SYS_clock_nanosleep SYS_futex SYS_gettimeofday SYS_nanosleep SYS_ppoll SYS_pselect6
        SYS_recvmmsg SYS_timerfd_settime
    }

    /// The numbers of new calls are the same on all processors (asm-generic/unistd.h), but for this.
    const FIRST: c_long = if cfg!(target_arch = "mips") { 4000 } else { 0 };

    const fn time64(number: c_long) -> c_long {
        match cfg!(target_pointer_width = "32") {
            true => FIRST + number,
            false => -1,
        }
    }

    /// Calls that musl makes on MIPS, and that `libc` lacks there.
    const fn of_mips(number: c_long) -> c_long {
        match cfg!(target_arch = "mips") {
            true => FIRST + number,
            false => -1,
        }
    }

    pub const SYS__newselect: c_long = of_mips(142);
    pub const SYS_pread64: c_long = of_mips(200);
    pub const SYS_fstatat64: c_long = of_mips(293);
    pub const SYS_clock_gettime64: c_long = time64(403);
    pub const SYS_clock_nanosleep_time64: c_long = time64(407);
    pub const SYS_timerfd_settime64: c_long = time64(411);
    pub const SYS_pselect6_time64: c_long = time64(413);
    pub const SYS_ppoll_time64: c_long = time64(414);
    pub const SYS_recvmmsg_time64: c_long = time64(417);
    pub const SYS_futex_time64: c_long = time64(422);
    pub const SYS_epoll_pwait2: c_long = FIRST + 441;
}
