//! The keeper: a second, small process that does for the loop what may block. It reads and writes the
//! files that were named at the start, and passes lines on to syslog.
//!
//! It is forked before privileges are dropped and keeps those of the start, in the same root directory,
//! so that a list can be reloaded and state be saved where the daemon's own user may not. It touches no
//! network, opens no file but those of its [`Plan`], and ends when the daemon does. It is started only
//! when an option needs it.
//!
//! The two talk over a stream socket, in frames: kind 1, file 1, length 2 (little-endian), payload.
//! A file is read chunk by chunk, each asked for, so that the loop sets the pace and nothing piles up; what
//! is saved is held back by [`Keeper::room`].
//!
//! # How the loop uses it
//!
//! Reading: [`Keeper::read`], then for each [`Event::Bytes`] either [`Keeper::read_more`] or
//! [`Keeper::stop_reading`], until [`Event::End`] or [`Event::ReadFailed`]. Nothing else comes meanwhile but
//! events of a save. One file at a time is read.
//!
//! Saving: [`Keeper::save`], then [`Keeper::save_bytes`] as there is [`Keeper::room`] (when there is none,
//! a turn of the keeper's token comes with some), then [`Keeper::save_end`] and at last [`Event::Saved`].
//! [`Event::SaveFailed`] may come at any time after `save` and ends it. The file is replaced as a whole:
//! what is written is a temporary file beside it, which is synced and renamed, or removed if the save or
//! the daemon ends before it is whole.
//!
//! When the keeper has died, that is logged once, what was underway fails, and `read` and `save` say
//! no. Syslog lines go through a socket of their own: see [`Keeper::take_log`].

use crate::log;
use crate::sys::pidfile::Place;
use crate::sys::process;
use crate::sys::syslog::Syslog;
use crate::sys::{files, privileges, sandbox, signals};
use mio::{Interest, Registry, Token};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The files that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    List,
    State,
}

/// All that a keeper will ever do, told before it is forked. Paths are those inside the root directory.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be entered first, as the daemon itself does.
    pub root: Option<PathBuf>,
    pub list: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub syslog: bool,
    /// To be removed when the daemon has ended.
    pub pidfile: Option<Arc<Place>>,
}

/// The longest payload of a frame. Four more make 64 KiB.
const MOST: usize = 65_532;
const HEADER: usize = 4;

/// Bytes that may wait to be sent to the keeper.
const MOST_WAITING: usize = 4 * (HEADER + MOST);

/// Characters of an error's text.
const MOST_TEXT: usize = 300;

/// The longest line for syslog that is taken, with its priority before it.
pub const MOST_LINE: usize = 1024;

// To the keeper.
const READ: u8 = 1;
const READ_MORE: u8 = 2;
const STOP_READING: u8 = 3;
const SAVE: u8 = 4;
const SAVE_BYTES: u8 = 5;
const SAVE_END: u8 = 6;
const SAVE_ABORT: u8 = 7;

// From the keeper.
const BYTES: u8 = 11;
const END: u8 = 12;
const READ_FAILED: u8 = 13;
const SAVED: u8 = 14;
const SAVE_FAILED: u8 = 15;

/// What the keeper tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next bytes of the file that is being read; never none.
    Bytes(Vec<u8>),
    /// The file has been read to its end.
    End,
    /// Why it cannot be read, or not to its end. The reading is over.
    ReadFailed(String),
    /// The file has been replaced and will survive a power cut.
    Saved,
    /// Why not; the file is as it was. The save is over.
    SaveFailed(String),
}

/// The loop's end of it.
pub struct Keeper {
    /// None once the keeper is gone.
    link: Option<mio::net::UnixStream>,
    log: Option<UnixDatagram>,
    /// The frame that is being received, as far as it is.
    input: Vec<u8>,
    output: Vec<u8>,
    reading: bool,
    saving: bool,
    /// There may be more to receive, although no event will tell.
    busy: bool,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn needs_keeper(&self) -> bool {
        self.list.is_some() || self.state.is_some() || self.syslog || self.pidfile.is_some()
    }
}

/// Forks a keeper. There must be no other thread; the daemon must have gone to the background already, if
/// it is to, and not yet have entered the root directory, since the system's log is outside of it.
pub fn start(plan: &Plan) -> io::Result<Keeper> {
    let (ours, theirs) = UnixStream::pair()?;
    let (log, their_log) = match plan.syslog {
        true => UnixDatagram::pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        false => (None, None),
    };
    ours.set_nonblocking(true)?;
    if let Some(log) = &log {
        log.set_nonblocking(true)?;
    }
    // The daemon's id: it is the one that people look for.
    let name = format!("announced[{}]", std::process::id());
    process::fork(|| {
        // Whoever might be told of an error is the daemon, which sees that the keeper has ended.
        let _ = become_keeper(plan, &theirs, their_log.as_ref(), name);
    })?;
    // The link ends with this process and not before: why it ends is told last of all, when the `Keeper` is
    // gone, and the pidfile goes when its lock is free, while tables take their time to be freed.
    std::mem::forget(ours.try_clone()?);
    Ok(Keeper::new(ours, log))
}

impl Keeper {
    fn new(link: UnixStream, log: Option<UnixDatagram>) -> Keeper {
        Keeper {
            link: Some(mio::net::UnixStream::from_std(link)),
            log,
            input: Vec::new(),
            output: Vec::new(),
            reading: false,
            saving: false,
            busy: false,
        }
    }

    /// The socket for syslog's lines, if the plan has it; it is not blocking. A datagram is the priority
    /// of `syslog(3)`, one byte from 0 to 7, and the line, together [`MOST_LINE`] bytes at most. It fills
    /// while the system's log takes none.
    pub fn take_log(&mut self) -> Option<UnixDatagram> {
        self.log.take()
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.link {
            Some(link) => registry.register(link, token, Interest::READABLE | Interest::WRITABLE),
            None => Ok(()),
        }
    }

    /// Begins to read a file; false if the keeper is gone, or still reads another.
    #[must_use]
    pub fn read(&mut self, file: File) -> bool {
        if self.link.is_none() || self.reading {
            return false;
        }
        self.reading = true;
        self.queue(READ, file as u8, &[]);
        true
    }

    /// Asks for what follows the last [`Event::Bytes`].
    pub fn read_more(&mut self) {
        if self.reading {
            self.queue(READ_MORE, 0, &[]);
        }
    }

    /// Does without the rest of the file, in place of [`Keeper::read_more`].
    pub fn stop_reading(&mut self) {
        if self.reading {
            self.reading = false;
            self.queue(STOP_READING, 0, &[]);
        }
    }

    /// Begins to save a file; false if the keeper is gone, or another save is underway.
    #[must_use]
    pub fn save(&mut self, file: File) -> bool {
        if self.link.is_none() || self.saving {
            return false;
        }
        self.saving = true;
        self.queue(SAVE, file as u8, &[]);
        true
    }

    /// How many bytes [`Keeper::save_bytes`] may be given now.
    pub fn room(&self) -> usize {
        match self.saving {
            true => MOST_WAITING.saturating_sub(self.output.len()),
            false => 0,
        }
    }

    pub fn save_bytes(&mut self, bytes: &[u8]) {
        if self.saving {
            for part in bytes.chunks(MOST) {
                self.queue(SAVE_BYTES, 0, part);
            }
        }
    }

    /// That was all: the file is to be replaced.
    pub fn save_end(&mut self) {
        if self.saving {
            self.queue(SAVE_END, 0, &[]);
        }
    }

    /// Gives a save up that has not been ended: [`Event::SaveFailed`] follows.
    pub fn save_abort(&mut self) {
        if self.saving {
            self.queue(SAVE_ABORT, 0, &[]);
        }
    }

    /// Whether a turn would have more to do without waiting for an event.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Sends what waits and receives what has come, up to one event. To be called when the poll tells of
    /// the keeper's token, and while [`Keeper::is_busy`].
    pub fn turn(&mut self) -> Option<Event> {
        let received = self.flush().and_then(|()| self.receive());
        match received {
            Ok(event) => {
                self.busy = event.is_some();
                event
            }
            Err(error) => self.lose(&error),
        }
    }

    /// One thing that was underway fails with each call.
    fn lose(&mut self, error: &io::Error) -> Option<Event> {
        if self.link.take().is_some() {
            log::line(format_args!(
                "the keeper process has ended ({error}): files can be neither read nor saved any more"
            ));
            self.input = Vec::new();
            self.output = Vec::new();
        }
        let why = String::from("the keeper process has ended");
        let event = if std::mem::take(&mut self.reading) {
            Some(Event::ReadFailed(why))
        } else if std::mem::take(&mut self.saving) {
            Some(Event::SaveFailed(why))
        } else {
            None
        };
        self.busy = event.is_some();
        event
    }

    fn queue(&mut self, kind: u8, file: u8, payload: &[u8]) {
        put_frame(&mut self.output, kind, file, payload);
        // An error is found again, and dealt with, in the turn.
        self.busy |= self.flush().is_err();
    }

    fn flush(&mut self) -> io::Result<()> {
        let link = self.link.as_mut().ok_or(ErrorKind::NotConnected)?;
        let mut sent = 0;
        let result = loop {
            if sent == self.output.len() {
                break Ok(());
            }
            match link.write(&self.output[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        result
    }

    /// A frame, once it is whole.
    fn receive(&mut self) -> io::Result<Option<Event>> {
        let link = self.link.as_mut().ok_or(ErrorKind::NotConnected)?;
        loop {
            let wanted = match self.input.first_chunk() {
                Some(header) => HEADER + payload_length(*header),
                None => HEADER,
            };
            let filled = self.input.len();
            if filled == wanted {
                break;
            }
            self.input.resize(wanted, 0);
            let read = link.read(&mut self.input[filled..]);
            self.input
                .truncate(filled + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut payload = std::mem::take(&mut self.input);
        let kind = payload.first().copied();
        payload.drain(..HEADER);
        let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
        let event = match kind {
            Some(BYTES) => Event::Bytes(payload),
            Some(END) => Event::End,
            Some(READ_FAILED) => Event::ReadFailed(text(payload)),
            Some(SAVED) => Event::Saved,
            Some(SAVE_FAILED) => Event::SaveFailed(text(payload)),
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        match event {
            Event::Bytes(_) => {}
            Event::End | Event::ReadFailed(_) => self.reading = false,
            Event::Saved | Event::SaveFailed(_) => self.saving = false,
        }
        Ok(Some(event))
    }
}

fn payload_length(header: [u8; HEADER]) -> usize {
    let [_, _, low, high] = header;
    usize::from(u16::from_le_bytes([low, high]))
}

/// Appends a frame; payloads are at most [`MOST`] bytes, and what is beyond is cut.
fn put_frame(out: &mut Vec<u8>, kind: u8, file: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len().min(MOST)).unwrap_or(0);
    out.extend_from_slice(&[kind, file]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&payload[..usize::from(length)]);
}

/// In the new process: gives up what it does not need, then serves.
fn become_keeper(
    plan: &Plan,
    link: &UnixStream,
    log: Option<&UnixDatagram>,
    name: String,
) -> io::Result<()> {
    signals::ignore()?;
    let pidfile = plan.pidfile.as_ref();
    let kept = [
        Some(link.as_fd()),
        log.map(AsFd::as_fd),
        pidfile.map(AsFd::as_fd),
    ];
    process::keep_only(&kept.into_iter().flatten().collect::<Vec<_>>());
    // Where the two share a core, clients would wait for it: a UDP connect 41 ms while a list is read. Not
    // before the sockets are closed, since what comes last may hold them for seconds.
    process::yield_to_others();
    let scribe = log.map(|log| Scribe::new(log, name)).transpose()?;
    if let Some(root) = &plan.root {
        privileges::enter(root)?;
    }
    sandbox::enter_with_files()?;
    let served = serve(plan, link, scribe);
    // Only now, as the lock tells that the daemon is gone.
    pidfile.map_or(Ok(()), |place| place.tidy()).and(served)
}

/// Does what it is told until the daemon is gone.
fn serve(plan: &Plan, link: &UnixStream, mut scribe: Option<Scribe>) -> io::Result<()> {
    let mut desk = Desk {
        plan,
        link,
        frame: Vec::new(),
        reading: None,
        saving: None,
    };
    loop {
        let wait = scribe.as_ref().and_then(|scribe| scribe.wait);
        // Who has a line at hand takes no other.
        let log = scribe.as_ref().filter(|_| wait.is_none());
        let fds = [Some(link.as_fd()), log.map(|scribe| scribe.log.as_fd())];
        let [told, _] = match process::wait_readable(fds, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        if let Some(scribe) = &mut scribe {
            scribe.pass_on();
        }
        // An error of the link is its end too.
        if told && !desk.obey().unwrap_or(false) {
            if let Some(scribe) = &mut scribe {
                scribe.finish();
            }
            // An unfinished save goes with the desk.
            return Ok(());
        }
    }
}

/// Passes lines on to the system's log, one at a time. While that takes none they wait in the daemon's
/// socket, and when that is full the daemon drops and counts them.
struct Scribe<'a> {
    log: &'a UnixDatagram,
    syslog: Syslog,
    /// The one at hand, with its priority before it; empty if there is none.
    line: Vec<u8>,
    /// Milliseconds until it is tried again, if it has been.
    wait: Option<u16>,
}

/// How a line fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    /// There is no line.
    None,
    /// It is still at hand: there was no room for it, or nobody to take it.
    NoRoom,
    Nobody,
}

impl Scribe<'_> {
    /// Milliseconds after which a line is tried again: the shortest and, doubled each time, the longest.
    const WAIT: u16 = 1;
    const LONGEST_WAIT: u16 = 1000;

    /// How long, and how often, what was said last waits for room: a second together. It is not the clock
    /// that ends it, as this process comes last and may not have run when a second is over; and on a busy
    /// machine each pause takes half a second more.
    const PAUSE: Duration = Duration::from_millis(100);
    const PAUSES: u32 = 10;

    fn new(log: &UnixDatagram, name: String) -> io::Result<Scribe<'_>> {
        log.set_nonblocking(true)?;
        Ok(Scribe {
            log,
            syslog: Syslog::open(name),
            line: Vec::with_capacity(MOST_LINE),
            wait: None,
        })
    }

    /// Passes a line on, if there is one: that at hand, or the next.
    fn pass_on(&mut self) -> Fate {
        if self.line.is_empty() {
            self.line.resize(MOST_LINE, 0);
            let length = self.log.recv(&mut self.line).unwrap_or(0);
            self.line.truncate(length);
        }
        let Some((priority, text)) = self.line.split_first() else {
            return Fate::None;
        };
        let fate = match self.syslog.send(*priority, text) {
            Ok(()) => Fate::Passed,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Fate::NoRoom,
            Err(_) => Fate::Nobody,
        };
        self.wait = match (fate, self.wait) {
            (Fate::Passed, _) => None,
            (_, None) => Some(Self::WAIT),
            (_, Some(wait)) => Some((wait * 2).min(Self::LONGEST_WAIT)),
        };
        if fate == Fate::Passed {
            self.line.clear();
        }
        fate
    }

    /// The daemon has ended: passes on what it said last, as far as there soon is room.
    fn finish(&mut self) {
        let mut pauses = 0;
        while pauses < Self::PAUSES {
            match self.pass_on() {
                Fate::Passed => {}
                Fate::NoRoom => {
                    std::thread::sleep(Self::PAUSE);
                    pauses += 1;
                }
                Fate::None | Fate::Nobody => return,
            }
        }
    }
}

/// What the keeper is at.
struct Desk<'a> {
    plan: &'a Plan,
    link: &'a UnixStream,
    /// The frame that is read or written.
    frame: Vec<u8>,
    reading: Option<fs::File>,
    saving: Option<Save>,
}

impl Desk<'_> {
    /// Receives a frame and does what it says; false if there is no more. An error is one of the link.
    fn obey(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER];
        match self.link.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        let [kind, file, ..] = header;
        self.frame.resize(payload_length(header), 0);
        self.link.read_exact(&mut self.frame)?;
        let path = match file {
            0 => self.plan.list.as_deref(),
            _ => self.plan.state.as_deref(),
        };
        match kind {
            READ => {
                let opened = path.ok_or_else(no_such_file).and_then(files::open_regular);
                match opened {
                    Ok(file) => self.reading = Some(file),
                    Err(error) => return self.fail(READ_FAILED, &error),
                }
                self.read_on()?;
            }
            READ_MORE => self.read_on()?,
            STOP_READING => self.reading = None,
            SAVE => {
                self.saving = None;
                let begun = path.ok_or_else(no_such_file).and_then(Save::begin);
                match begun {
                    Ok(save) => self.saving = Some(save),
                    Err(error) => return self.fail(SAVE_FAILED, &error),
                }
            }
            SAVE_BYTES => {
                let written = self.saving.as_mut().map(|s| s.file.write_all(&self.frame));
                if let Some(Err(error)) = written {
                    self.saving = None;
                    return self.fail(SAVE_FAILED, &error);
                }
            }
            SAVE_END => match self.saving.take().map(Save::finish) {
                Some(Ok(())) => self.answer(SAVED, &[])?,
                Some(Err(error)) => return self.fail(SAVE_FAILED, &error),
                // It has failed before, which was told.
                None => {}
            },
            // SAVE_ABORT. There is one answer to each save.
            _ => {
                if self.saving.take().is_some() {
                    return self.fail(SAVE_FAILED, &ErrorKind::Interrupted.into());
                }
            }
        }
        Ok(true)
    }

    fn read_on(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.reading else {
            return Ok(());
        };
        let mut bytes = vec![0; MOST];
        match read_some(file, &mut bytes) {
            Ok(0) => {
                self.reading = None;
                self.answer(END, &[])
            }
            Ok(count) => self.answer(BYTES, &bytes[..count]),
            Err(error) => {
                self.reading = None;
                self.fail(READ_FAILED, &error).map(|_| ())
            }
        }
    }

    fn fail(&mut self, kind: u8, error: &io::Error) -> io::Result<bool> {
        let mut text = error.to_string();
        while text.len() > MOST_TEXT {
            text.pop();
        }
        self.answer(kind, text.as_bytes())?;
        Ok(true)
    }

    fn answer(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.frame.clear();
        put_frame(&mut self.frame, kind, 0, payload);
        self.link.write_all(&self.frame)
    }
}

fn no_such_file() -> io::Error {
    ErrorKind::NotFound.into()
}

fn read_some(file: &mut fs::File, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A file that is being written, beside the one that it is to replace.
struct Save {
    file: fs::File,
    temporary: PathBuf,
    target: PathBuf,
    is_whole: bool,
}

impl Save {
    /// The temporary file has the target's name with `.new` behind it. It is made anew, so that nobody can
    /// have put a link or a file of their own in its place; only its owner may read it.
    fn begin(target: &Path) -> io::Result<Save> {
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(Save {
            file,
            temporary,
            target: target.to_owned(),
            is_whole: false,
        })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_there() {
            let why = "another process saves it";
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        fs::rename(&self.temporary, &self.target)?;
        self.is_whole = true;
        let directory = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Not every file system can sync a directory; the file itself is safe and in its place.
        let _ = fs::File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// False once the name is that of another keeper's file: of a daemon that was started since this one's
    /// was killed.
    fn is_there(&self) -> bool {
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| files::is_at(&self.temporary, &metadata))
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if !self.is_whole && self.is_there() {
            // It is only in the way, and the next save removes it too.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A directory of a test's own.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let name = format!("announced-keeper-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("can be made");
            Directory(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("can be read");
            let name = |entry: io::Result<fs::DirEntry>| entry.expect("is there").file_name();
            let mut names: Vec<String> = entries
                .map(|entry| name(entry).into_string().expect("is UTF-8"))
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A keeper that is a thread: it does all that the process does but for what makes it one.
    fn keeper(plan: &Plan) -> (Keeper, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let plan = plan.clone();
        let thread = std::thread::spawn(move || {
            serve(&plan, &theirs, None).expect("ends in order");
        });
        (Keeper::new(ours, None), thread)
    }

    fn next(keeper: &mut Keeper) -> Event {
        let start = Instant::now();
        loop {
            if let Some(event) = keeper.turn() {
                return event;
            }
            assert!(start.elapsed() < DEADLINE, "no event");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn save(keeper: &mut Keeper, bytes: &[u8]) {
        assert!(keeper.save(File::State));
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(keeper.room().min(rest.len()));
            keeper.save_bytes(now);
            assert!(keeper.output.len() <= MOST_WAITING + 64 * HEADER);
            rest = later;
            assert_eq!(keeper.turn(), None);
        }
        keeper.save_end();
    }

    fn plan(directory: &Directory) -> Plan {
        Plan {
            list: Some(directory.0.join("list")),
            state: Some(directory.0.join("state")),
            ..Plan::default()
        }
    }

    #[test]
    fn a_file_is_read_as_it_is_asked_for() {
        let directory = Directory::new("read");
        let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect();
        fs::write(directory.0.join("list"), &content).expect("is written");
        let (mut keeper, thread) = keeper(&plan(&directory));
        assert!(keeper.read(File::List));
        assert!(!keeper.read(File::List), "one at a time");
        let mut all = Vec::new();
        loop {
            match next(&mut keeper) {
                Event::Bytes(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= MOST);
                    all.extend_from_slice(&bytes);
                    keeper.read_more();
                }
                Event::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(all == content);
        assert!(keeper.read(File::List));
        assert!(matches!(next(&mut keeper), Event::Bytes(_)));
        keeper.stop_reading();
        fs::write(directory.0.join("list"), "").expect("is written");
        assert!(keeper.read(File::List));
        assert_eq!(next(&mut keeper), Event::End);
        drop(keeper);
        thread.join().expect("ends with the daemon");
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let directory = Directory::new("unreadable");
        let (mut keeper, _thread) = keeper(&plan(&directory));
        assert!(keeper.read(File::List));
        assert!(
            matches!(next(&mut keeper), Event::ReadFailed(why) if why.contains("No such file"))
        );
        fs::create_dir(directory.0.join("list")).expect("is made");
        assert!(keeper.read(File::List));
        assert!(matches!(next(&mut keeper), Event::ReadFailed(why) if why.contains("directory")));
    }

    #[test]
    fn a_save_replaces_the_file_as_a_whole() {
        let directory = Directory::new("save");
        let target = directory.0.join("state");
        fs::write(&target, "old").expect("is written");
        fs::write(directory.0.join("state.new"), "left behind").expect("is written");
        let (mut keeper, thread) = keeper(&plan(&directory));
        assert_eq!(keeper.room(), 0, "nothing is being saved");
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 11) as u8).collect();
        save(&mut keeper, &content);
        assert_eq!(next(&mut keeper), Event::Saved);
        assert!(fs::read(&target).expect("is there") == content);
        assert_eq!(directory.names(), ["state"]);
        // Whole, but nobody waits for it.
        save(&mut keeper, b"last");
        drop(keeper);
        thread.join().expect("ends with the daemon");
        assert_eq!(fs::read(&target).expect("is there"), b"last");
    }

    #[test]
    fn a_save_that_does_not_end_leaves_nothing() {
        let directory = Directory::new("abort");
        let target = directory.0.join("state");
        fs::write(&target, "old").expect("is written");
        let (mut keeper, thread) = keeper(&plan(&directory));
        assert!(keeper.save(File::State));
        keeper.save_bytes(b"half");
        keeper.save_abort();
        assert!(matches!(next(&mut keeper), Event::SaveFailed(_)));
        assert_eq!(directory.names(), ["state"]);
        assert!(keeper.save(File::State));
        keeper.save_bytes(b"half again");
        drop(keeper);
        thread.join().expect("ends with the daemon");
        assert_eq!(directory.names(), ["state"]);
        assert_eq!(fs::read(&target).expect("is there"), b"old");
    }

    #[test]
    fn two_that_save_the_same_file_do_not_spoil_it() {
        let directory = Directory::new("two");
        let target = directory.0.join("state");
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
        assert_eq!(directory.names(), ["state"]);
    }

    #[test]
    fn a_save_that_fails_is_told_once() {
        let directory = Directory::new("fail");
        let plan = Plan {
            state: Some(directory.0.join("missing/state")),
            ..Plan::default()
        };
        let (mut keeper, _thread) = keeper(&plan);
        assert!(keeper.save(File::State));
        keeper.save_bytes(b"for nothing");
        keeper.save_end();
        assert!(matches!(next(&mut keeper), Event::SaveFailed(_)));
        assert!(!keeper.read(File::List) || matches!(next(&mut keeper), Event::ReadFailed(_)));
        assert_eq!(keeper.turn(), None);
    }

    #[test]
    fn without_a_keeper_everything_fails_and_nothing_spins() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let mut keeper = Keeper::new(ours, None);
        assert!(keeper.read(File::List) && keeper.save(File::State));
        drop(theirs);
        assert!(matches!(next(&mut keeper), Event::ReadFailed(_)));
        assert!(keeper.is_busy());
        assert!(matches!(next(&mut keeper), Event::SaveFailed(_)));
        assert_eq!(keeper.turn(), None);
        assert!(!keeper.is_busy());
        assert!(!keeper.read(File::List) && !keeper.save(File::State));
        keeper.save_bytes(b"x");
        keeper.read_more();
        assert_eq!((keeper.turn(), keeper.room()), (None, 0));
    }
}
