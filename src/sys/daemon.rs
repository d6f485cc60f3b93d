//! Going into the background.

use super::check;
use super::process::{open_null, redirect_standard};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A daemon that is still starting. The command that started it waits, and shows what the daemon writes to standard
/// error.
pub struct Starting {
    null: File,
    parent: UnixStream,
}

/// Goes on in a child process with a session of its own. The parent waits until the child is ready or has ended, and
/// exits with its status. Before, it calls `ready` with the id of a child that is ready.
///
/// Call it before there are threads or a poll: neither survives it (a kqueue is not inherited).
pub fn detach(ready: impl FnOnce(libc::pid_t)) -> io::Result<Starting> {
    let null = open_null()?;
    let (reader, parent) = UnixStream::pair()?;
    // SAFETY: no pointers, and no other thread whose locks would stay held in the child.
    let child = check(unsafe { libc::fork() })?;
    if child != 0 {
        drop(parent);
        std::process::exit(wait(reader, child, ready));
    }
    // SAFETY: no pointers. A new child leads no process group, so that this cannot fail.
    check(unsafe { libc::setsid() })?;
    Ok(Starting { null, parent })
}

/// The exit status of the parent. The child has reported the error, if there was one.
fn wait(mut reader: UnixStream, child: libc::pid_t, ready: impl FnOnce(libc::pid_t)) -> i32 {
    // Ends with the child at the latest, as only the child holds the other end.
    if reader.read_exact(&mut [0]).is_ok() {
        ready(child);
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

impl Starting {
    /// Releases the terminal and the parent.
    pub fn ready(mut self) -> io::Result<()> {
        redirect_standard(&self.null, &[])?;
        // Fails if the parent has been killed meanwhile.
        let _ = self.parent.write_all(&[1]);
        Ok(())
    }
}
