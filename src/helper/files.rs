//! The process for files and syslog. It reads and writes one file at a time, at the pace of the daemon.
//!
//! A save is written to a temporary file beside the target, which is synced and renamed when the daemon says that it is
//! complete, and removed if it fails or the daemon ends before. So the file is replaced as a whole or not at all.

use super::syslog::Forwarder;
use super::{
    HASHES, LIST, LIST_FAILED, LOAD_LIST, Plan, SAVE, SAVE_BYTES, SAVE_FAILED, SAVED, frame, list,
};
use crate::base::text;
use crate::sys::{files, privileges, process, sandbox, signals};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

const HASHES_A_FRAME: usize = frame::MAX_PAYLOAD / 20;

/// Gives up what the process does not need, then serves. `name` goes before each line for syslog.
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
    let forwarder = log.map(|log| Forwarder::new(log, name)).transpose()?;
    if let Some(root) = &plan.root {
        privileges::enter(root)?;
    }
    sandbox::enter(sandbox::FILES)?;
    serve(plan, socket, forwarder)?;
    // Last, as the daemon's lock on it shows whether the daemon has ended.
    pidfile.map_or(Ok(()), |pidfile| pidfile.remove())
}

/// Lines that are forwarded in a row before something else has its turn.
const MAX_FORWARDED: u32 = 16;

/// Does what the daemon requests until it has ended.
pub fn serve(plan: &Plan, socket: &UnixStream, forwarder: Option<Forwarder>) -> io::Result<()> {
    let mut worker = Worker {
        plan,
        socket,
        save: None,
        forwarder,
    };
    loop {
        let forwarder = worker.forwarder.as_ref();
        let retry_ms = forwarder.and_then(Forwarder::retry_ms);
        // With a line at hand the next is not read.
        let log = forwarder.filter(|_| retry_ms.is_none());
        let fds = [Some(socket.as_fd()), log.map(AsFd::as_fd)];
        let [has_request, _] = match process::wait_readable(fds, retry_ms) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        worker.forward();
        if has_request && worker.serve_one().is_err() {
            worker.forwarder.iter_mut().for_each(Forwarder::finish);
            return Ok(());
        }
    }
}

struct Worker<'a> {
    plan: &'a Plan,
    socket: &'a UnixStream,
    save: Option<Save>,
    forwarder: Option<Forwarder>,
}

impl Worker<'_> {
    /// An error is met again at the next attempt.
    fn forward(&mut self) {
        if let Some(forwarder) = &mut self.forwarder {
            let mut attempts = 0..MAX_FORWARDED;
            while attempts.next().is_some() && matches!(forwarder.forward(), Ok(true)) {}
        }
    }

    /// Receives a request and does it. An error is one of the socket.
    fn serve_one(&mut self) -> io::Result<()> {
        let (kind, payload) = frame::receive(self.socket)?;
        let done = match kind {
            LOAD_LIST => return self.send_list(),
            SAVE => Save::begin(path(&self.plan.state)).map(|save| self.save = Some(save)),
            SAVE_BYTES => match &mut self.save {
                Some(save) => save.file.write_all(&payload),
                // The save has failed before, which the daemon did not know yet.
                None => Ok(()),
            },
            _ => match self.save.take().map(Save::finish) {
                Some(Ok(())) => return frame::send(self.socket, SAVED, &[]),
                Some(failed) => failed,
                None => Ok(()),
            },
        };
        done.or_else(|error| {
            self.save = None;
            let why = text::reason(&error).to_string();
            frame::send(self.socket, SAVE_FAILED, why.as_bytes())
        })
    }

    /// Between two pieces of a list: forwards lines, and does what a save requests. The daemon requests one list at a
    /// time. An error is one of the socket.
    fn meanwhile(&mut self) -> io::Result<()> {
        self.forward();
        while let [true] = process::wait_readable([Some(self.socket.as_fd())], Some(0))? {
            self.serve_one()?;
        }
        Ok(())
    }

    /// Reading a list may take minutes on a busy machine, so lines are forwarded and saves are done meanwhile.
    fn send_list(&mut self) -> io::Result<()> {
        let (plan, mut served) = (self.plan, Ok(()));
        let list = list::read(path(&plan.list), &mut || {
            if served.is_ok() {
                served = self.meanwhile();
            }
            served.is_ok()
        });
        served?;
        let list = match list {
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
    is_finished: bool,
}

impl Save {
    /// The temporary file is created anew, so that no link or file of another user can stand in its place. Only
    /// its owner may read it.
    fn begin(target: &Path) -> io::Result<Save> {
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        Ok(Save {
            file: options.open(&temporary)?,
            temporary,
            target: target.to_owned(),
            is_finished: false,
        })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_in_place() {
            let why = "another process saves it";
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        fs::rename(&self.temporary, &self.target)?;
        self.is_finished = true;
        let directory = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Not every file system can sync a directory. The file itself is synced and in its place.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// False once the helper of another daemon, which was started after this one was killed, has taken the name.
    fn is_in_place(&self) -> bool {
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| files::is_at(&self.temporary, &metadata))
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if !self.is_finished && self.is_in_place() {
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
