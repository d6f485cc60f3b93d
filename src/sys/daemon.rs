//! Into the background.

use super::check;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A daemon that is still starting: whoever started it waits, and sees what it writes to standard error.
pub struct Starting {
    null: File,
    parent: UnixStream,
}

/// Goes on in a child process with a session of its own. The parent stays until the child is ready or
/// has ended, and then ends with its exit status.
///
/// To be called before there is a thread or a poll: neither survives it (a kqueue is not inherited).
pub fn detach() -> io::Result<Starting> {
    // Opened here, where there is no chroot that might lack it.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (reader, writer) = UnixStream::pair()?;
    // SAFETY: no pointers, and no other thread whose locks the child would find held for ever.
    let child = check(unsafe { libc::fork() })?;
    if child != 0 {
        drop(writer);
        std::process::exit(wait(reader, child));
    }
    // SAFETY: no pointers. A new child leads no process group, so that this cannot fail.
    check(unsafe { libc::setsid() })?;
    Ok(Starting {
        null,
        parent: writer,
    })
}

/// The exit status of the command that was given: the child has said what was wrong, if anything was.
fn wait(mut reader: UnixStream, child: libc::pid_t) -> i32 {
    // Neither end is left open elsewhere for longer than the child lives, so this comes to an end.
    if let Ok(1) = read_byte(&mut reader) {
        return 0;
    }
    let mut status = 0;
    // SAFETY: the pointer is to an integer of the right type, alive for the call.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    match ended == child && libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status).max(1),
        false => 1,
    }
}

fn read_byte(reader: &mut UnixStream) -> io::Result<usize> {
    loop {
        match reader.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Starting {
    /// Lets go of the terminal and of the parent.
    pub fn ready(mut self) -> io::Result<()> {
        for standard in 0..=libc::STDERR_FILENO {
            // SAFETY: no pointers; `std` finds its descriptors again under the same numbers.
            check(unsafe { libc::dup2(self.null.as_raw_fd(), standard) })?;
        }
        // A parent that was killed meanwhile need not be told.
        let _ = self.parent.write_all(&[1]);
        Ok(())
    }
}
