//! The worker: the process for files and syslog. It reads and writes one file at a time, at the pace of the daemon.
//!
//! A save is written to a temporary file beside the target. The file is synced and renamed when the daemon has sent all
//! of it. It is removed if the save fails or the daemon ends before. So the target is replaced as a whole or not at
//! all.

use super::monitor::Ends;
use super::syslog::Forwarder;
use super::{
    HASHES, LIST, LIST_FAILED, LOAD_LIST, Plan, READ_CONFIG, SAVE, SAVE_BYTES, SAVE_END,
    SAVE_FAILED, SAVED, config, frame, list,
};
use crate::base::text;
use crate::sys::sandbox::Role;
use crate::sys::{files, process};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

const HASHES_A_FRAME: usize = frame::MAX_PAYLOAD / 20;

/// Drops all that the process does not need, then serves. `name` goes before each line for syslog.
pub fn run(plan: &Plan, ends: &Ends, log: Option<&UnixDatagram>, name: &str) -> io::Result<()> {
    let (daemon, monitor) = (ends.daemon.as_fd(), ends.monitor.as_fd());
    let kept = [Some(daemon), Some(monitor), log.map(AsFd::as_fd)];
    process::keep_only(&kept.into_iter().flatten().collect::<Vec<_>>());
    // On a core that both share, clients would wait for this process: a UDP connect 41 ms while a list is read. After
    // the sockets are closed, as a process of low priority may hold them for seconds.
    process::yield_to_others();
    // With the rights of the start: FreeBSD has a socket of syslog that only root may use.
    let log = log.map(UnixDatagram::try_clone).transpose()?;
    let forwarder = log.map(|log| Forwarder::new(log, name.to_owned()));
    let directory = plan.state.as_deref().map(files::directory);
    ends.confine(plan, Role::Files(directory))?;
    serve(plan, &ends.daemon, Some(&ends.monitor), forwarder);
    Ok(())
}

/// Lines that are forwarded in a row before other work has its turn.
const MAX_FORWARDED: u32 = 16;

/// The error of a save where the sandbox keeps this process out. It ends, and the monitor starts another.
const OUTSIDE: ErrorKind = ErrorKind::PermissionDenied;

/// Serves the daemon until it has ended, which is an error of its socket and of the monitor's. The last lines come
/// after the first of these.
pub fn serve(
    plan: &Plan,
    daemon: &UnixStream,
    monitor: Option<&UnixStream>,
    forwarder: Option<Forwarder>,
) {
    let mut worker = Worker {
        plan,
        confined_to: plan.state.as_deref().and_then(identity),
        socket: daemon,
        save: None,
        forwarder,
    };
    let end = loop {
        if let Err(end) = worker.turn(None) {
            break end;
        }
    };
    worker.save = None;
    let is_replaced = end.kind() == OUTSIDE;
    if let Some(monitor) = monitor.filter(|_| !is_replaced) {
        worker.socket = monitor;
        while worker.turn(None).is_ok() {}
    }
    worker.forwarder.iter_mut().for_each(Forwarder::finish);
}

struct Worker<'a> {
    plan: &'a Plan,
    /// The directory of the state.
    confined_to: Option<(u64, u64)>,
    socket: &'a UnixStream,
    save: Option<Save>,
    forwarder: Option<Forwarder>,
}

/// Errors are those of the socket, and [`OUTSIDE`].
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
        if kind == SAVE && self.has_other_directory() {
            return Err(OUTSIDE.into());
        }
        let done = match (kind, &mut self.save) {
            (LOAD_LIST, _) => return self.send_list(),
            (READ_CONFIG, _) => return config::send(&self.plan.config, self.socket),
            (SAVE, _) => Save::begin(path(&self.plan.state)).map(|save| self.save = Some(save)),
            // The save has failed before, and the daemon has not received that yet.
            (SAVE_BYTES | SAVE_END, None) => Ok(()),
            (SAVE_BYTES, Some(save)) => save.write(&payload),
            (SAVE_END, save) => match save.take().map_or(Ok(()), Save::finish) {
                Ok(()) => return frame::send(self.socket, SAVED, &[]),
                failed => failed,
            },
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        done.or_else(|error| {
            self.save = None;
            frame::send(self.socket, SAVE_FAILED, text::reason(&error).as_bytes())
        })
    }

    /// Whether the directory of the state has been replaced: another file system has been mounted, for example.
    fn has_other_directory(&self) -> bool {
        let now = self.plan.state.as_deref().and_then(identity);
        now.is_some() && now != self.confined_to
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

/// Device and inode of the directory in which a file is.
fn identity(file: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(files::directory(file)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Without one, a path that does not exist.
fn path(planned: &Option<PathBuf>) -> &Path {
    planned.as_deref().unwrap_or(Path::new(""))
}

/// Bytes of a save that are synced at once, so that the last sync does not take longer than the daemon waits without
/// progress.
const SYNC_BYTES: usize = 16 << 20;

/// A save that is being written.
struct Save {
    file: File,
    unsynced: usize,
    temporary: PathBuf,
    target: PathBuf,
}

impl Save {
    fn begin(target: &Path) -> io::Result<Save> {
        let (file, temporary) = files::create_beside(target)?;
        Ok(Save {
            file,
            unsynced: 0,
            temporary,
            target: target.to_owned(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced < SYNC_BYTES {
            return Ok(());
        }
        self.unsynced = 0;
        self.file.sync_data()
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_in_place() {
            let why = "another process saves it";
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        fs::rename(&self.temporary, &self.target)?;
        // Not every file system can sync a directory. The file itself is synced and in its place.
        let _ =
            File::open(files::directory(&self.target)).and_then(|directory| directory.sync_all());
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
