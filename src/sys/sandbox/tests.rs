//! The filter of system calls at work: each attempt is made in a process of its own, which it may end.

use super::{Role, enter};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Set in a child process of a test: the number of the attempt.
const ATTEMPT: &str = "ANNOUNCED_TEST_ATTEMPT";

type Attempt = (Role<'static>, fn() -> libc::c_long);

/// Makes the attempts, each after the process has entered the sandbox; the exit status is then 0 or the error.
fn make(test: &str, attempts: &[Attempt]) -> Vec<ExitStatus> {
    if let Ok(number) = std::env::var(ATTEMPT) {
        let number: usize = number.parse().expect("a number");
        let (role, call) = attempts[number];
        let parts = enter(role).expect("Linux has one").expect("is on");
        assert!(parts.iter().all(|(_, part)| part.is_ok()), "{parts:?}");
        let status = match call() {
            result if result < 0 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
            _ => 0,
        };
        // SAFETY: ends the process, whose threads hold nothing.
        unsafe { libc::_exit(status) }
    }
    let test = format!("sys::sandbox::tests::{test}");
    let run = |number: usize| {
        let output = Command::new(std::env::current_exe().expect("is known"))
            .args(["--exact", &test, "--nocapture"])
            .env(ATTEMPT, number.to_string())
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{said}");
        output.status
    };
    (0..attempts.len()).map(run).collect()
}

const NOWHERE: *const libc::c_char = c"/nowhere/at/all".as_ptr();

fn execute() -> libc::c_long {
    let none = [std::ptr::null()];
    // SAFETY: a C string, and two lists without entries.
    unsafe { libc::execve(NOWHERE, none.as_ptr(), none.as_ptr()) }.into()
}

fn mount() -> libc::c_long {
    // SAFETY: C strings, and a pointer to nothing.
    unsafe { libc::syscall(libc::SYS_mount, NOWHERE, NOWHERE, NOWHERE, 0, 0) }
}

fn trace() -> libc::c_long {
    // SAFETY: without pointers; there is no such process.
    unsafe { libc::syscall(libc::SYS_ptrace, 16, -1, 0, 0) }
}

fn remove() -> libc::c_long {
    // SAFETY: a C string.
    unsafe { libc::unlink(NOWHERE) }.into()
}

fn open() -> libc::c_long {
    // SAFETY: a C string.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, NOWHERE, libc::O_RDONLY) }
}

/// A file without a name.
fn create() -> libc::c_long {
    let (directory, flags) = (c"/tmp".as_ptr(), libc::O_WRONLY | libc::O_TMPFILE);
    // SAFETY: a C string.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, directory, flags, 0o600) }
}

fn fork() -> libc::c_long {
    // SAFETY: without pointers. A child would return and exit like this process.
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }
}

fn unknown() -> libc::c_long {
    // SAFETY: there is no such call.
    unsafe { libc::syscall(9999) }
}

fn socket(family: libc::c_int) -> libc::c_long {
    // SAFETY: without pointers.
    unsafe { libc::syscall(libc::SYS_socket, family, libc::SOCK_DGRAM, 0) }
}

fn map(protection: libc::c_int) -> libc::c_long {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory that nothing uses.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { -1 } else { 0 }
}

fn thread() -> libc::c_long {
    std::thread::spawn(|| 0).join().unwrap_or(-1)
}

#[test]
fn calls_of_an_intruder_end_the_process() {
    let attempts: &[Attempt] = &[
        (Role::Serve, execute),
        (Role::Files(None), execute),
        (Role::Names, execute),
        (Role::Serve, mount),
        (Role::Serve, trace),
    ];
    for status in make("calls_of_an_intruder_end_the_process", attempts) {
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
    }
}

#[test]
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
fn calls_of_a_foreign_abi_end_the_process() {
    fn x32() -> libc::c_long {
        // SAFETY: takes nothing.
        unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) }
    }
    fn x86() -> libc::c_long {
        let result: i64;
        // SAFETY: `getpid` of the 32-bit ABI takes nothing, and changes no other register.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    }
    let attempts: &[Attempt] = &[(Role::Serve, x32), (Role::Serve, x86)];
    for status in make("calls_of_a_foreign_abi_end_the_process", attempts) {
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
    }
}

#[test]
fn other_calls_are_not_there_and_other_arguments_are_refused() {
    let attempts: &[(Attempt, libc::c_int)] = &[
        ((Role::Serve, unknown), libc::ENOSYS),
        ((Role::Serve, open), libc::ENOSYS),
        ((Role::Serve, remove), libc::ENOSYS),
        ((Role::ServeUnix(&[]), remove), libc::ENOENT),
        ((Role::Files(None), open), libc::ENOENT),
        ((Role::Files(None), create), libc::EACCES),
        ((Role::Files(Some(Path::new("/tmp"))), create), 0),
        ((Role::Names, create), libc::EACCES),
        ((Role::Serve, fork), libc::EPERM),
        ((Role::Names, fork), libc::EPERM),
        ((Role::Files(None), fork), libc::ENOSYS),
        ((Role::Serve, || socket(libc::AF_INET6)), 0),
        ((Role::Serve, || socket(libc::AF_UNIX)), libc::EPERM),
        ((Role::Files(None), || socket(libc::AF_UNIX)), 0),
        ((Role::Files(None), || socket(libc::AF_INET)), libc::EPERM),
        ((Role::Serve, || map(libc::PROT_READ)), 0),
        ((Role::Serve, || map(libc::PROT_EXEC)), libc::EPERM),
        ((Role::Names, || map(libc::PROT_EXEC)), 0),
        ((Role::Serve, thread), 0),
    ];
    let made: Vec<Attempt> = attempts.iter().map(|(attempt, _)| *attempt).collect();
    let test = "other_calls_are_not_there_and_other_arguments_are_refused";
    for (number, status) in make(test, &made).into_iter().enumerate() {
        let expected = attempts[number].1;
        assert_eq!(status.code(), Some(expected), "attempt {number}: {status}");
    }
}
