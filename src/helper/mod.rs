//! The helper processes, which do the blocking work of the poll loop. This is the daemon's side of them.
//!
//! The *monitor* keeps the privileges of the start, as far as it needs them to start its children as the daemon's user:
//! see [`monitor`]. It does nothing on behalf of the daemon, and removes the pidfile when that has ended. Its children
//! work, as the daemon's user:
//!
//! - The *worker* ([`Helper`]) reads lists and configuration files, writes the state, and forwards log lines to syslog.
//!   It opens no file but those of its [`Plan`]: no message names a path. It has the lowest priority on the CPU.
//! - The *resolver* ([`Resolver`]) resolves the names of nodes. It is a process of its own, because it parses the
//!   replies of name servers, and because a save or a line for syslog must not wait for a name server.
//!
//! Lists and state are inside the root directory; configuration files, syslog and the configuration of name resolution
//! are outside. So a daemon with a root directory has two monitors.
//!
//! A monitor is forked before privileges are dropped, only if an option needs it, and ends with its children when the
//! daemon ends. Daemon and children speak the frames of [`frame`] over a socketpair. A list arrives parsed and sorted,
//! so that the loop only stores it. Syslog lines take a datagram socket of their own, which is full while syslog
//! accepts none: see [`syslog`].

pub mod config;
mod files;
mod frame;
pub mod list;
mod monitor;
mod names;
mod syslog;

use crate::base::log;
use crate::sys::pidfile::Pidfile;
use crate::sys::privileges::Identity;
use crate::sys::process;
use frame::{Channel, Turn};
use mio::{Registry, Token};
use monitor::Child;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

/// The first frame of a child. Empty if it is ready, else the reason why it cannot work.
const HELLO: u8 = 0;

// Kinds of frames to the worker. Without payload, but for SAVE_BYTES.
const LOAD_LIST: u8 = 1;
const SAVE: u8 = 2;
const SAVE_BYTES: u8 = 3;
const SAVE_END: u8 = 4;
const READ_CONFIG: u8 = 5;

// Its answers. LIST: number of info-hashes 4, text about skipped lines. HASHES: info-hashes. Failures: the reason.
const LIST: u8 = 6;
const HASHES: u8 = 7;
const LIST_FAILED: u8 = 8;
const SAVED: u8 = 9;
const SAVE_FAILED: u8 = 10;
// The text of each configuration file in pieces, and its end; the end of all or, at any time, the reason why one cannot
// be read.
const CONFIG_TEXT: u8 = 11;
const CONFIG_FILE_END: u8 = 12;
const CONFIG_END: u8 = 13;
const CONFIG_FAILED: u8 = 14;

// To and from the resolver. All begin with the number of a name 2. FOUND: addresses as text, each in a line. NOT_FOUND:
// the reason.
const RESOLVE: u8 = 1;
const FOUND: u8 = 2;
const NOT_FOUND: u8 = 3;

/// Bytes that may wait to be sent to the helper during a save.
const MAX_QUEUED: usize = 256 * 1024;

/// The reason for which a file is not read or written.
pub const ENDED: &str = "the helper process has ended";

/// Everything that a monitor and its children may do, fixed before they are forked. Paths are those inside the root
/// directory.
#[derive(Debug, Default)]
pub struct Plan {
    /// The user of the children, if this is root.
    pub identity: Option<Identity>,
    /// Entered first, as the daemon itself does.
    pub root: Option<PathBuf>,
    pub list: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub config: Vec<PathBuf>,
    pub syslog: bool,
    /// To be resolved.
    pub names: Vec<String>,
    /// Removed when the daemon has ended.
    pub pidfile: Option<Pidfile>,
}

impl Plan {
    /// Forks the monitor and its children, as far as there is anything to do, and waits until they are ready. There
    /// must be no other thread. The daemon must not have entered the root directory yet.
    pub fn start(&self) -> io::Result<(Option<Helper>, Option<Resolver>)> {
        let works = self.list.is_some() || self.state.is_some() || !self.config.is_empty();
        let (worker, for_worker) = pair_if(works || self.syslog)?;
        let (resolver, for_resolver) = pair_if(!self.names.is_empty())?;
        if worker.is_none() && resolver.is_none() && self.pidfile.is_none() {
            return Ok((None, None));
        }
        let (log, their_log) = self.syslog.then(UnixDatagram::pair).transpose()?.unzip();
        for socket in [&log, &their_log].into_iter().flatten() {
            socket.set_nonblocking(true)?;
        }
        // Lines carry the id of the daemon, not that of the worker.
        let name = format!("announced[{}]", std::process::id());
        let (daemon, ours) = UnixStream::pair()?;
        process::fork(|| {
            let work = |ends: monitor::Ends| files::run(self, &ends, their_log.as_ref(), &name);
            let resolve = |ends: monitor::Ends| names::run(self, &ends);
            let children = [
                for_worker.map(|to_daemon| Child::new(to_daemon, &work)),
                for_resolver.map(|to_daemon| Child::new(to_daemon, &resolve)),
            ];
            // The daemon sees that the process has ended. Nothing else would read an error.
            let _ = monitor::run(self, &daemon, their_log.as_ref(), children);
        })?;
        // Open until the daemon has ended: the pidfile may only be removed when its lock is free, after the table has
        // been freed.
        std::mem::forget(ours);
        let helper = worker.map(Channel::open).transpose()?.map(Helper::new);
        let names = self.names.len();
        let resolver = resolver.map(Channel::open).transpose()?;
        log.into_iter().for_each(log::use_syslog);
        Ok((
            helper,
            resolver.map(|channel| Resolver::new(channel, names)),
        ))
    }
}

fn pair_if(is_needed: bool) -> io::Result<(Option<UnixStream>, Option<UnixStream>)> {
    Ok(is_needed.then(UnixStream::pair).transpose()?.unzip())
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
    /// The texts of all configuration files, or why one of them cannot be read.
    Config(Result<Vec<Vec<u8>>, String>),
    /// The worker has ended, and with it the requests under way. Another has taken its place.
    Restarted,
    /// The worker has ended, and with it the requests under way, which should not be repeated.
    Ended,
}

/// The worker.
pub struct Helper {
    channel: Channel,
    /// Reads of the configuration files that were requested and have not ended.
    config_requests: usize,
    /// Of the read under way; the last is that of the file under way.
    texts: Vec<Vec<u8>>,
}

impl Helper {
    fn new(channel: Channel) -> Helper {
        Helper {
            channel,
            config_requests: 0,
            texts: vec![Vec::new()],
        }
    }

    /// One whose worker is the other end of this stream.
    #[cfg(test)]
    pub fn of(stream: UnixStream) -> Helper {
        Helper::new(Channel::new(None, stream).expect("an option"))
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.channel.register(registry, token)
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

    /// Requests the texts of all configuration files.
    pub fn read_config(&mut self) -> Result<(), &'static str> {
        self.request(READ_CONFIG)?;
        self.config_requests += 1;
        Ok(())
    }

    /// Whether a read of the configuration files has not ended.
    pub fn is_reading_config(&self) -> bool {
        self.config_requests > 0
    }

    /// Forgets the reads of configuration files that were requested; whether there was one.
    pub fn give_up_config(&mut self) -> bool {
        self.texts = vec![Vec::new()];
        std::mem::take(&mut self.config_requests) > 0
    }

    /// While there is no worker, the request is lost with those under way: see [`Answer::Restarted`].
    fn request(&mut self, kind: u8) -> Result<(), &'static str> {
        self.channel.send(kind, &[]);
        self.channel.is_up().then_some(()).ok_or(ENDED)
    }

    /// Bytes that [`Helper::save_bytes`] may take now. If there is no room, the poll reports the token when there is.
    pub fn room(&self) -> usize {
        let queued = self.channel.queued();
        queued.map_or(0, |queued| MAX_QUEUED.saturating_sub(queued))
    }

    pub fn save_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(frame::MAX_PAYLOAD) {
            self.channel.send(SAVE_BYTES, part);
        }
    }

    /// Replaces the file by the bytes that were sent.
    pub fn save_end(&mut self) {
        self.channel.send(SAVE_END, &[]);
    }

    /// The next answer. Call this when the poll reports the token, and until there is none.
    pub fn turn(&mut self) -> Option<Answer> {
        loop {
            match self.channel.turn()? {
                Turn::Frame(kind, payload) => {
                    if let Some(answer) = self.answer(kind, payload) {
                        return Some(answer);
                    }
                }
                Turn::Restarted(may_repeat) => return Some(self.restarted(may_repeat)),
                Turn::Ended => {
                    log::use_stderr(true);
                    log::error(format_args!(
                        "helper: process ended: list and state can no longer be read or saved"
                    ));
                    return Some(Answer::Ended);
                }
            }
        }
    }

    fn restarted(&mut self, may_repeat: bool) -> Answer {
        log::error(format_args!("helper: process ended, and was restarted"));
        if !may_repeat {
            return Answer::Ended;
        }
        self.texts = vec![Vec::new()];
        for _ in 0..self.config_requests {
            self.channel.send(READ_CONFIG, &[]);
        }
        Answer::Restarted
    }

    fn answer(&mut self, kind: u8, payload: Vec<u8>) -> Option<Answer> {
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
            SAVE_FAILED => Answer::SaveFailed(text(&payload)),
            CONFIG_TEXT => {
                self.texts.last_mut()?.extend_from_slice(&payload);
                return None;
            }
            CONFIG_FILE_END => {
                self.texts.push(Vec::new());
                return None;
            }
            _ => {
                let mut texts = std::mem::replace(&mut self.texts, vec![Vec::new()]);
                texts.pop();
                self.config_requests = self.config_requests.saturating_sub(1);
                Answer::Config(match kind {
                    CONFIG_END => Ok(texts),
                    _ => Err(text(&payload)),
                })
            }
        })
    }
}

/// The resolver.
pub struct Resolver {
    channel: Channel,
    /// Of each name, whether an answer is outstanding.
    is_asked: Vec<bool>,
    has_reported_end: bool,
}

/// The number of a name, and its addresses, at least one, or why there are none.
pub type Resolved = (usize, Result<Vec<IpAddr>, String>);

impl Resolver {
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
        let (kind, payload) = loop {
            match self.channel.turn()? {
                Turn::Frame(kind, payload) => break (kind, payload),
                Turn::Restarted(may_repeat) => self.restarted(may_repeat),
                Turn::Ended => {}
            }
        };
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

    fn restarted(&mut self, may_repeat: bool) {
        log::error(format_args!("resolver: process ended, and was restarted"));
        for number in 0..self.is_asked.len() {
            if std::mem::take(&mut self.is_asked[number]) && may_repeat {
                self.ask(number);
            }
        }
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

#[cfg(test)]
mod tests;
