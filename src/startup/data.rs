//! The files that a start reads: the list of info-hashes and its FIFOs, the state, and opentracker's counts. All are
//! looked for inside the root directory.

use super::{INVALID, Problem, file_problem};
use crate::access::{Access, BLACKLIST, Fifo, WHITELIST};
use crate::base::log;
use crate::options::{EMPTY, Options};
use crate::state::{self, Loaded, Summary};
use crate::sys::files;
use crate::tracker::{HostBound, Limits, Table, Tracked};
use std::io;
use std::path::Path;
use std::sync::Arc;

const STATE: &str = "--state";
const LOAD_DUMP: &str = "-l/--load-dump";

pub fn load_list(options: &Options) -> Result<Option<Access>, Problem> {
    let (kind, path) = match (&options.whitelist, &options.blacklist) {
        (Some(path), _) => (&WHITELIST, path),
        (None, Some(path)) => (&BLACKLIST, path),
        (None, None) => return Ok(None),
    };
    let mut refusal = kind.refusal();
    refusal.interval = options.refusal_interval().unwrap_or(refusal.interval);
    refusal.is_empty_over_udp = options.refuse_udp == EMPTY;
    let mut access = Access::new(refusal, path.clone());
    access.load().map_err(|why| in_root(options, why))?;
    Ok(Some(access))
}

/// An error with the root directory. The path alone would mislead: the one in Debian's opentracker.conf is right only
/// without a chroot.
fn in_root(options: &Options, why: String) -> String {
    match &options.root {
        Some(root) => format!("{why}, looked for inside -d/--root '{}'", root.display()),
        None => why,
    }
}

/// The error of a file of the root directory.
fn data_problem(options: &Options, flag: &str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    move |error| {
        let problem = file_problem(flag, path)(error);
        Problem {
            text: in_root(options, problem.text),
            ..problem
        }
    }
}

/// The FIFOs with their flags, and whether they add to the list.
pub fn fifos(options: &Options) -> impl Iterator<Item = (&'static str, &Path, bool)> {
    let add = options.list_add.as_deref();
    let remove = options.list_remove.as_deref();
    let add = add.map(|path| ("--list-add", path, true));
    let remove = remove.map(|path| ("--list-remove", path, false));
    add.into_iter().chain(remove)
}

/// Judges the FIFOs that exist, and the directories in which the others would be made.
pub fn check_fifos(options: &Options) -> Result<(), Problem> {
    for (flag, path, _) in fifos(options) {
        let checked = match path.metadata() {
            Ok(found) => files::expect_fifo(&found),
            Err(_) => files::directory(path).metadata().map(drop),
        };
        checked.map_err(data_problem(options, flag, path))?;
    }
    Ok(())
}

pub fn open_fifos(options: &Options) -> Result<Vec<Fifo>, Problem> {
    let open = |(flag, path, adds)| {
        let fifo = files::open_fifo(path).map_err(data_problem(options, flag, path))?;
        Ok(Fifo::new(fifo, flag, adds))
    };
    fifos(options).map(open).collect()
}

/// The errors that loading would end with, as far as they show without touching a file. The dump is loaded into a table
/// of its own.
pub fn check_state(options: &Options, access: Option<&Access>) -> Result<(), Problem> {
    if let Some(path) = &options.state {
        state::check(path).map_err(state_problem(options, path))?;
    }
    with_tracked(access, |tracked| {
        load_dump(options, &new_table(options), tracked)
    })
}

/// The error of a state that cannot be loaded. One of a newer release stays so at a restart.
fn state_problem(options: &Options, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    move |error| {
        let is_newer = error.kind() == io::ErrorKind::Unsupported;
        let problem = data_problem(options, STATE, path)(error);
        Problem {
            status: if is_newer { INVALID } else { problem.status },
            ..problem
        }
    }
}

/// The errors of saving the state. To find them touches files, and so disturbs a daemon that saves to the same one.
pub fn check_saving(options: &Options) -> Result<(), Problem> {
    match &options.state {
        Some(path) => state::check_saving(path).map_err(data_problem(options, STATE, path)),
        None => Ok(()),
    }
}

fn new_table(options: &Options) -> Table {
    let bounds = options.bounds();
    let limits = Limits {
        peer_timeout: options.peer_timeout(),
        max_peers: bounds.peers,
        max_torrents: bounds.torrents,
    };
    let table = Table::new(limits, options.threads());
    table.set_interval(options.interval, 0);
    let shared = options.addresses().unwrap_or_default().shared();
    table.bound_hosts(&HostBound::new(options.max_per_host as usize, shared));
    table
}

/// Does work that leaves out torrents that the list refuses.
fn with_tracked<T>(access: Option<&Access>, work: impl FnOnce(Tracked) -> T) -> T {
    let Some(access) = access else {
        return work(None);
    };
    let rules = access.rules();
    let rules = rules.read();
    work(Some(&|hash| rules.tracks(hash)))
}

fn load_dump(options: &Options, table: &Table, tracked: Tracked) -> Result<(), Problem> {
    if let Some(path) = &options.load_dump {
        let loaded = state::load_dump(path, table, tracked);
        let summary = loaded.map_err(data_problem(options, LOAD_DUMP, path))?;
        log::line(format_args!("dump: loaded: {summary}"));
    }
    Ok(())
}

/// The table with the state and the counts from before, and the summary of that state.
pub fn load_table(
    options: &Options,
    access: Option<&Access>,
) -> Result<(Arc<Table>, Summary), Problem> {
    log::line(format_args!("table: {}", options.bounds()));
    let (table, summary) = with_tracked(access, |tracked| load_all(options, tracked))?;
    Ok((Arc::new(table), summary))
}

fn load_all(options: &Options, tracked: Tracked) -> Result<(Table, Summary), Problem> {
    let mut table = new_table(options);
    let mut summary = Summary::default();
    if let Some(path) = &options.state {
        let loaded = state::load(path, &table, tracked, state::wall_ms());
        let loaded = loaded.map_err(state_problem(options, path))?;
        let path = path.display();
        match loaded {
            Loaded::Nothing => log::line(format_args!("state: starting empty: no '{path}' yet")),
            Loaded::State(loaded) => {
                summary = loaded;
                log::line(format_args!("state: loaded: {summary}"));
            }
            Loaded::Damaged(damage, aside) => {
                table = new_table(options);
                let aside = aside.display();
                log::line(format_args!(
                    "state: starting empty: '{path}': {damage}; moved to '{aside}'"
                ));
            }
        }
    }
    load_dump(options, &table, tracked)?;
    Ok((table, summary))
}
