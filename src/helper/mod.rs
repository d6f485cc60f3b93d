//! The helper processes, which do the blocking work of the poll loop. This is the daemon's side of them.
//!
//! The first process ([`Helper`]) reads and writes the files that options name, and forwards log lines to syslog. It
//! keeps the privileges of the start and enters the root directory, so that a list can be reloaded and the state saved
//! where the daemon's user may not. It opens no file but those of its [`Plan`]. It has the lowest priority on the CPU.
//!
//! The second ([`Resolver`]) resolves the names of nodes. It is a process of its own, because it parses the replies of
//! name servers and should do so as the daemon's user, and because a save or a line for syslog must not wait for a name
//! server.
//!
//! The third ([`ConfigReader`]) reads configuration files again. It stays outside the root directory, as they are.
//!
//! Each is forked before privileges are dropped, only if an option needs it, and ends when the daemon ends. They
//! speak the frames of [`frame`] over a socketpair. A list arrives parsed and sorted, so that the loop only stores it.
//! Syslog lines take a datagram socket of their own, which is full while syslog accepts none: see [`syslog`].

pub mod config;
mod files;
mod frame;
pub mod list;
mod names;
mod syslog;

use crate::base::log;
use crate::sys::pidfile::Pidfile;
use crate::sys::privileges::Identity;
use crate::sys::process;
use frame::Channel;
use mio::{Registry, Token};
use std::io;
use std::net::IpAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

// Kinds of frames to the process for files. Without payload, but for SAVE_BYTES.
const LOAD_LIST: u8 = 1;
const SAVE: u8 = 2;
const SAVE_BYTES: u8 = 3;
const SAVE_END: u8 = 4;

// Its answers. LIST: number of info-hashes 4, text about skipped lines. HASHES: info-hashes. Failures: the reason.
const LIST: u8 = 5;
const HASHES: u8 = 6;
const LIST_FAILED: u8 = 7;
const SAVED: u8 = 8;
const SAVE_FAILED: u8 = 9;

// To and from the process for names. All begin with the number of a name 2. FOUND: addresses as text, each in a line.
// NOT_FOUND: the reason.
const RESOLVE: u8 = 1;
const FOUND: u8 = 2;
const NOT_FOUND: u8 = 3;

// To and from the process for configuration files. The text of each file in pieces, and its end; the end of all or, at
// any time, the reason why one cannot be read.
const CONFIG_READ: u8 = 1;
const CONFIG_TEXT: u8 = 2;
const CONFIG_FILE_END: u8 = 3;
const CONFIG_END: u8 = 4;
const CONFIG_FAILED: u8 = 5;

/// Bytes that may wait to be sent to the helper during a save.
const MAX_QUEUED: usize = 256 * 1024;

/// The reason for which a file is not read or written.
pub const ENDED: &str = "the helper process has ended";

/// Everything that the helper may do, fixed before it is forked. Paths are those inside the root directory.
#[derive(Debug, Default)]
pub struct Plan {
    /// Entered first, as the daemon itself does.
    pub root: Option<PathBuf>,
    pub list: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub syslog: bool,
    /// Removed when the daemon has ended.
    pub pidfile: Option<Pidfile>,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn needs_helper(&self) -> bool {
        self.list.is_some() || self.state.is_some() || self.syslog || self.pidfile.is_some()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The list is valid, and this many info-hashes follow. The text names the lines that were skipped; empty if none.
    List { count: usize, skipped: String },
    /// The next info-hashes of the list, in order.
    Hashes(Vec<u8>),
    /// The list was not read, for this reason.
    ListFailed(String),
    /// The file has been replaced and will survive a power cut.
    Saved,
    /// The file is as it was, for this reason. Ends a save at any time.
    SaveFailed(String),
    /// The process has ended, and with it the requests under way.
    Ended,
}

/// The process for files and syslog.
pub struct Helper(Channel);

impl Helper {
    /// Forks the process. There must be no other thread. The daemon must not have entered the root directory yet, as
    /// syslog's socket is outside.
    pub fn start(plan: &Plan) -> io::Result<Helper> {
        let (log, their_log) = plan.syslog.then(UnixDatagram::pair).transpose()?.unzip();
        for socket in [&log, &their_log].into_iter().flatten() {
            socket.set_nonblocking(true)?;
        }
        // Lines carry the id of the daemon, not that of the helper.
        let name = format!("announced[{}]", std::process::id());
        let channel = start(|socket| files::run(plan, socket, their_log, name))?;
        log.into_iter().for_each(log::use_syslog);
        Ok(Helper(channel))
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token)
    }

    /// Requests the list, one at a time.
    pub fn load_list(&mut self) -> Result<(), &'static str> {
        self.request(LOAD_LIST)
    }

    /// Begins to save the state, one save at a time. [`Helper::save_bytes`] follows as there is [`Helper::room`], then
    /// [`Helper::save_end`].
    pub fn save(&mut self) -> Result<(), &'static str> {
        self.request(SAVE)
    }

    fn request(&mut self, kind: u8) -> Result<(), &'static str> {
        self.0.send(kind, &[]);
        self.0.is_up().then_some(()).ok_or(ENDED)
    }

    /// Bytes that [`Helper::save_bytes`] may take now. If there is no room, the poll reports the token when there is.
    pub fn room(&self) -> usize {
        MAX_QUEUED.saturating_sub(self.0.queued())
    }

    pub fn save_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(frame::MAX_PAYLOAD) {
            self.0.send(SAVE_BYTES, part);
        }
    }

    /// Replaces the file by the bytes that were sent.
    pub fn save_end(&mut self) {
        self.0.send(SAVE_END, &[]);
    }

    /// The next answer. Call this when the poll reports the token, and until there is none.
    pub fn turn(&mut self) -> Option<Answer> {
        let Ok(frame) = self.0.turn() else {
            log::use_stderr(true);
            log::error(format_args!(
                "helper: process ended: list and state can no longer be read or saved"
            ));
            return Some(Answer::Ended);
        };
        let (kind, payload) = frame?;
        Some(match kind {
            LIST => {
                let (count, skipped) = payload.split_first_chunk()?;
                Answer::List {
                    count: u32::from_le_bytes(*count).try_into().ok()?,
                    skipped: text(skipped),
                }
            }
            HASHES => Answer::Hashes(payload),
            LIST_FAILED => Answer::ListFailed(text(&payload)),
            SAVED => Answer::Saved,
            _ => Answer::SaveFailed(text(&payload)),
        })
    }
}

/// The process for names.
pub struct Resolver {
    channel: Channel,
    /// Of each name, whether an answer is outstanding.
    is_asked: Vec<bool>,
    has_reported_end: bool,
}

/// The number of a name, and its addresses, at least one, or why there are none.
pub type Resolved = (usize, Result<Vec<IpAddr>, String>);

impl Resolver {
    /// Forks the process. There must be no other thread, and the root directory must not have been entered. As root,
    /// the process becomes this user.
    pub fn start(names: &[String], identity: Option<Identity>) -> io::Result<Resolver> {
        let daemon = std::process::id();
        let channel = start(|socket| names::run(names, socket, identity, daemon))?;
        Ok(Resolver::new(channel, names.len()))
    }

    fn new(channel: Channel, names: usize) -> Resolver {
        Resolver {
            channel,
            is_asked: vec![false; names],
            has_reported_end: false,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.channel.register(registry, token)
    }

    /// Requests the addresses of a name, unless an answer is outstanding.
    pub fn ask(&mut self, number: usize) {
        // Not as soon as it ends: that happens at each end of the daemon.
        if !self.channel.is_up() && !self.has_reported_end {
            self.has_reported_end = true;
            log::error(format_args!(
                "resolver: process ended: the addresses of nodes stay as they are"
            ));
        }
        let (Some(is_asked), Ok(name)) = (self.is_asked.get_mut(number), u16::try_from(number))
        else {
            return;
        };
        if !std::mem::replace(is_asked, true) {
            self.channel.send(RESOLVE, &name.to_le_bytes());
        }
    }

    /// The next answer. Call this when the poll reports the token, and until there is none.
    pub fn turn(&mut self) -> Option<Resolved> {
        let (kind, payload) = self.channel.turn().ok()??;
        let (number, rest) = payload.split_first_chunk()?;
        let number = usize::from(u16::from_le_bytes(*number));
        *self.is_asked.get_mut(number)? = false;
        let text = text(rest);
        let addresses = match kind {
            FOUND => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            _ => Err(text),
        };
        Some((number, addresses))
    }
}

/// The process for configuration files.
pub struct ConfigReader {
    channel: Channel,
    /// Reads that were requested and have not ended.
    requests: usize,
    /// Of the read under way; the last is that of the file under way.
    texts: Vec<Vec<u8>>,
}

impl ConfigReader {
    /// Forks the process. There must be no other thread, and the root directory must not have been entered.
    pub fn start(paths: &[PathBuf]) -> io::Result<ConfigReader> {
        Ok(ConfigReader {
            channel: start(|socket| config::run(paths, socket))?,
            requests: 0,
            texts: vec![Vec::new()],
        })
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.channel.register(registry, token)
    }

    /// Requests the texts of all files.
    pub fn read(&mut self) -> Result<(), &'static str> {
        self.requests += 1;
        self.channel.send(CONFIG_READ, &[]);
        self.channel.is_up().then_some(()).ok_or(ENDED)
    }

    /// The texts of all files, or why one of them cannot be read. Call this when the poll reports the token, and until
    /// there is no answer.
    pub fn turn(&mut self) -> Option<Result<Vec<Vec<u8>>, String>> {
        let result = loop {
            let Ok(frame) = self.channel.turn() else {
                break Err(String::from(ENDED));
            };
            let (kind, payload) = frame?;
            match (kind, self.texts.last_mut()) {
                (CONFIG_TEXT, Some(text)) => text.extend_from_slice(&payload),
                (CONFIG_FILE_END, _) => self.texts.push(Vec::new()),
                (CONFIG_FAILED, _) => break Err(text(&payload)),
                _ => break Ok(()),
            }
        };
        let mut texts = std::mem::replace(&mut self.texts, vec![Vec::new()]);
        texts.pop();
        // At the end of the daemon there is none.
        self.requests = self.requests.checked_sub(1)?;
        Some(result.map(|()| texts))
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// Forks a process that does this work and ends.
fn start(work: impl FnOnce(&UnixStream) -> io::Result<()>) -> io::Result<Channel> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    process::fork(|| {
        // The daemon sees that the process has ended. Nothing else would read an error.
        let _ = work(&theirs);
    })?;
    // Keeps the socket open until the daemon has ended: the daemon logs the reason after its `Helper` is dropped, and
    // the pidfile may only be removed when its lock is free, after the table has been freed.
    std::mem::forget(ours.try_clone()?);
    Ok(Channel::new(ours))
}

#[cfg(test)]
mod tests;
