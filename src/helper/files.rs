//! The process for files and syslog. It reads and writes one file at a time, at the pace of the daemon.
//!
//! A save is written to a temporary file beside the target. The file is synced and renamed when the daemon has sent all
//! of it. It is removed if the save fails or the daemon ends before. So the target is replaced as a whole or not at
//! all.

use super::syslog::Forwarder;
use super::{
    HASHES, LIST, LIST_FAILED, LOAD_LIST, Plan, SAVE, SAVE_BYTES, SAVE_FAILED, SAVED, frame, list,
};
use crate::base::text;
use crate::sys::{files, privileges, process, sandbox, signals};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

const HASHES_A_FRAME: usize = frame::MAX_PAYLOAD / 20;

/// Drops all that the process does not need, then serves. `name` goes before each line for syslog.
pub fn run(
    plan: &Plan,
    socket: &UnixStream,
    log: Option<UnixDatagram>,
    name: String,
) -> io::Result<()> {
    signals::ignore()?;
    let pidfile = plan.pidfile.as_ref();
    let kept = [
        Some(socket.as_fd()),
        log.as_ref().map(AsFd::as_fd),
        pidfile.map(AsFd::as_fd),
    ];
    process::keep_only(&kept.into_iter().flatten().collect::<Vec<_>>());
    // On a core that both share, clients would wait for this process: a UDP connect 41 ms while a list is read. After
    // the sockets are closed, as a process of low priority may hold them for seconds.
    process::yield_to_others();
    let forwarder = log.map(|log| Forwarder::new(log, name));
    match confine(plan) {
        Ok(()) => serve(plan, socket, forwarder),
        // The daemon meets the same error and ends.
        Err(_) => drop(frame::receive(socket)),
    }
    // Last, as the daemon's lock on it shows whether the daemon has ended.
    pidfile.map_or(Ok(()), |pidfile| pidfile.remove())
}

fn confine(plan: &Plan) -> io::Result<()> {
    if let Some(root) = &plan.root {
        privileges::enter(root)?;
    }
    sandbox::enter(sandbox::FILES)
}

/// Lines that are forwarded in a row before other work has its turn.
const MAX_FORWARDED: u32 = 16;

/// Serves the daemon until it has ended, which is an error of the socket.
pub fn serve(plan: &Plan, socket: &UnixStream, forwarder: Option<Forwarder>) {
    let mut worker = Worker {
        plan,
        socket,
        save: None,
        forwarder,
    };
    while worker.turn(None).is_ok() {}
    worker.forwarder.iter_mut().for_each(Forwarder::finish);
}

struct Worker<'a> {
    plan: &'a Plan,
    socket: &'a UnixStream,
    save: Option<Save>,
    forwarder: Option<Forwarder>,
}

/// Errors are those of the socket.
impl Worker<'_> {
    /// Waits for a request or a line, at most this many milliseconds. Forwards lines and does the request; whether
    /// there was one.
    fn turn(&mut self, max_ms: Option<u16>) -> io::Result<bool> {
        let forwarder = self.forwarder.as_ref();
        let retry_ms = forwarder.and_then(Forwarder::retry_ms);
        // While a line waits the next is not read.
        let log = forwarder.filter(|_| retry_ms.is_none());
        let fds = [Some(self.socket.as_fd()), log.map(AsFd::as_fd)];
        let has_request = match process::wait_readable(fds, max_ms.or(retry_ms)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => false,
            // If polling fails, receiving waits for the next request.
            ready => ready.map_or(max_ms.is_none(), |[has_request, _]| has_request),
        };
        if let Some(forwarder) = &mut self.forwarder {
            // An error recurs at the next attempt.
            let _ = (0..MAX_FORWARDED).all(|_| matches!(forwarder.forward(), Ok(true)));
        }
        if has_request {
            self.serve_one()?;
        }
        Ok(has_request)
    }

    /// Receives a request and does it.
    fn serve_one(&mut self) -> io::Result<()> {
        let (kind, payload) = frame::receive(self.socket)?;
        let done = match (kind, &mut self.save) {
            (LOAD_LIST, _) => return self.send_list(),
            (SAVE, _) => Save::begin(path(&self.plan.state)).map(|save| self.save = Some(save)),
            // The save has failed before, and the daemon has not received that yet.
            (_, None) => Ok(()),
            (SAVE_BYTES, Some(save)) => save.file.write_all(&payload),
            (_, save) => match save.take().map_or(Ok(()), Save::finish) {
                Ok(()) => return frame::send(self.socket, SAVED, &[]),
                failed => failed,
            },
        };
        done.or_else(|error| {
            self.save = None;
            frame::send(self.socket, SAVE_FAILED, text::reason(&error).as_bytes())
        })
    }

    /// Serves other requests between two pieces of a list. The daemon requests one list at a time.
    fn meanwhile(&mut self) -> io::Result<()> {
        while self.turn(Some(0))? {}
        Ok(())
    }

    /// Reading a list may take minutes on a busy machine, so lines are forwarded and saves are done meanwhile.
    fn send_list(&mut self) -> io::Result<()> {
        let plan = self.plan;
        let list = match list::read(path(&plan.list), &mut || self.meanwhile()) {
            Ok(list) => list,
            Err(why) => return frame::send(self.socket, LIST_FAILED, why.as_bytes()),
        };
        let count = u32::try_from(list.hashes.len()).unwrap_or(u32::MAX);
        let head = [&count.to_le_bytes(), list.skipped.as_bytes()].concat();
        frame::send(self.socket, LIST, &head)?;
        for hashes in list.hashes.chunks(HASHES_A_FRAME) {
            self.meanwhile()?;
            frame::send(self.socket, HASHES, hashes.as_flattened())?;
        }
        Ok(())
    }
}

/// Without one, a path that does not exist.
fn path(planned: &Option<PathBuf>) -> &Path {
    planned.as_deref().unwrap_or(Path::new(""))
}

/// A save that is being written.
struct Save {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Save {
    fn begin(target: &Path) -> io::Result<Save> {
        let (file, temporary) = files::create_beside(target)?;
        Ok(Save {
            file,
            temporary,
            target: target.to_owned(),
        })
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_in_place() {
            let why = "another process saves it";
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        fs::rename(&self.temporary, &self.target)?;
        let directory = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Not every file system can sync a directory. The file itself is synced and in its place.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// False once it is finished, or the helper of another daemon has taken the name: one that was started after this
    /// daemon was killed.
    fn is_in_place(&self) -> bool {
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| files::is_at(&self.temporary, &metadata))
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if self.is_in_place() {
            // If this fails, the next save removes the file.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_that_save_the_same_file_do_not_damage_it() {
        let name = format!("announced-two-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("can be made");
        let target = directory.join("state");
        let save = |content: &str| {
            let mut save = Save::begin(&target).expect("begins");
            save.file.write_all(content.as_bytes()).expect("is written");
            save
        };
        let [given_up, late] = ["given up", "late"].map(save);
        let own = save("own");
        drop(given_up);
        let error = late.finish().expect_err("another has begun since");
        assert_eq!(error.to_string(), "another process saves it");
        own.finish().expect("is not disturbed");
        assert_eq!(fs::read(&target).expect("is there"), b"own");
        assert_eq!(fs::read_dir(&directory).expect("is there").count(), 1);
        fs::remove_dir_all(&directory).expect("can be removed");
    }
}
