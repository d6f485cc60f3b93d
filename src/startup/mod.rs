//! The start, in order: background, signals, pidfile, helper processes, checks, key, sockets; root directory,
//! privileges; lists, state; loops, sandbox, threads. Sockets and key come before privileges are dropped. All
//! files of the root directory come after: other users may own its directories, and place links there. Threads come
//! last, because the daemon never forks after they have started.

#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(not(feature = "cluster"))]
#[path = "no_cluster.rs"]
pub mod cluster;
pub mod data;
mod permissions;
pub mod privileges;
pub mod sockets;
pub mod threads;

use crate::access::Access;
use crate::base::log;
use crate::base::random::Random;
use crate::base::text::reason;
use crate::helper::{Plan, Resolver};
use crate::http::{Limiter, Policy, SharedLimits};
use crate::options::{Options, Source, connection_buffers};
use crate::responder::Responder;
use crate::server::{
    Chores, Live, Manager, Pace, Reload, Rule, Settings, Socket, log_connections, max_connections,
};
use crate::state::{self, Saves};
use crate::stats::Monitor;
use crate::sys::host_memory::HostMemory;
use crate::sys::pidfile::{self, Pidfile};
use crate::sys::privileges::Identity;
use crate::sys::uptime::Moment;
use crate::sys::{daemon, limits, manager, process, sandbox, signals, syslog};
use crate::tracker::Table;
use crate::udp::ConnectionIds;
use cluster::Membership;
use permissions::User;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use threads::{Loops, Parts};

/// Descriptors that are not of a client's connection: of the process, and of each thread's loop.
const RESERVED_DESCRIPTORS: usize = 32;
const DESCRIPTORS_PER_LOOP: usize = 3;

/// An error, as one line for the admin, and the exit status.
pub struct Problem {
    pub text: String,
    pub status: u8,
}

/// The status of an error that no restart mends.
const INVALID: u8 = 2;

impl<T: Into<String>> From<T> for Problem {
    fn from(text: T) -> Problem {
        Problem {
            text: text.into(),
            status: 1,
        }
    }
}

/// The error of an action.
pub fn problem(action: &str) -> impl FnOnce(io::Error) -> Problem {
    move |error| format!("{action}: {}", reason(&error)).into()
}

/// The error of a file that a flag names.
pub fn file_problem(flag: &str, path: &Path) -> impl FnOnce(io::Error) -> Problem {
    move |error| format!("{flag} '{}': {}", path.display(), reason(&error)).into()
}

/// Does all of a start that opens no socket. In the end this process is the daemon's user, in the root directory.
/// `files` are the configuration files.
pub fn check(options: &Options, files: &[PathBuf]) -> Result<(), Problem> {
    HostMemory::find();
    sockets::choose_cores(options)?;
    if let Some(path) = &options.pidfile {
        pidfile::check_file(path).map_err(file_problem("--pidfile", path))?;
    }
    let identity = privileges::identity(options)?;
    cluster::check(options)?;
    check_configuration(options, identity, files)?;
    check_files(options, identity)
}

/// SIGHUP reads the files again, as the daemon's user.
fn check_configuration(
    options: &Options,
    identity: Option<Identity>,
    files: &[PathBuf],
) -> Result<(), Problem> {
    // Standard input is not read again.
    let is_read = |path: &&Path| path.is_file() && !path.starts_with("/dev");
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).filter(is_read).collect();
    apart(|| {
        privileges::become_user(identity)?;
        User::new(options, identity).check_configuration(&files)
    })
}

/// Checks the files of the root directory, as the daemon's user, which this process becomes.
fn check_files(options: &Options, identity: Option<Identity>) -> Result<(), Problem> {
    privileges::enter_root(options)?;
    privileges::become_user(identity)?;
    data::check_fifos(options)?;
    User::new(options, identity).check_files(options)?;
    let list = data::load_list(options)?;
    data::check_state(options, list.as_ref())
}

/// Does this in a process of its own: it may enter the root directory and become another user, which no process can
/// undo. It shows errors of files before any socket is opened.
fn apart(check: impl FnOnce() -> Result<(), Problem>) -> Result<(), Problem> {
    let checked = UnixStream::pair().and_then(|(mut ours, theirs)| {
        process::fork(|| {
            // Standard input may be one of the files.
            process::keep_only(&[io::stdin().as_fd(), theirs.as_fd()]);
            if let Err(why) = check() {
                // The start meets the same error later.
                let _ = (&theirs).write_all(&[&[why.status], why.text.as_bytes()].concat());
            }
        })?;
        drop(theirs);
        let mut why = Vec::new();
        ours.read_to_end(&mut why)?;
        Ok(why)
    });
    let why = checked.map_err(problem("cannot check files"))?;
    match why.split_first() {
        None => Ok(()),
        Some((status, text)) => Err(Problem {
            text: String::from_utf8_lossy(text).into_owned(),
            status: *status,
        }),
    }
}

/// The limits that follow from options and system, as comments of a configuration file.
pub fn limits(options: &Options) -> Result<String, Problem> {
    let mut text = String::new();
    let listens = options.sockets();
    for listen in &listens {
        let condition = match listen.is_optional {
            true => ", if the host has IPv6",
            false => "",
        };
        text += &format!("# listening on {listen}{condition}\n");
    }
    let descriptors = raise_descriptors()?;
    let sockets = listens.len() * options.threads();
    let connections = available_connections(options, descriptors, sockets);
    let connections = max_connections(options, connections);
    let (timeout, bounds) = (options.peer_timeout(), options.bounds());
    text += &format!(
        "# peer timeout: {timeout} s\n\
         # table: {bounds}\n\
         # TCP connections: at most {connections}, with {descriptors} descriptors\n"
    );
    Ok(text)
}

/// Runs the daemon until it is stopped. `source` reads the configuration files again.
pub fn serve(options: &Options, source: Source) -> Result<(), Problem> {
    let (began, started) = (Moment::now(), state::wall_ms() / 1000);
    if (options.syslog || options.daemon) && !syslog::is_there() {
        log::error(format_args!(
            "syslog: no syslog daemon found: log lines wait, and are dropped when there is no more room"
        ));
    }
    let inherited = manager::sockets().map_err(problem("LISTEN_FDS"))?;
    let mut manager = Manager::open();
    // First, because neither threads nor polls would survive it.
    let detach = || daemon::detach(|id| manager.hand_over(id));
    let background = options.daemon.then(detach).transpose();
    let background = background.map_err(problem("cannot go into the background"))?;
    log::set_verbosity(options.verbosity);
    HostMemory::find();
    if options.no_sandbox {
        sandbox::turn_off();
    }
    // Early, so that no signal finds the default action in place once the log says "listening".
    let signals = signals::catch().map_err(problem("cannot catch signals"))?;
    let pidfile = options.pidfile.as_deref();
    let pidfile = pidfile.map(|path| pidfile::take(path).map_err(file_problem("--pidfile", path)));
    let (_locked, pidfile) = pidfile.transpose()?.unzip();
    let identity = privileges::identity(options)?;
    let mut chores = Chores::new(signals, manager);
    let plans = plans(options, identity, pidfile, &source);
    let resolver = start_helpers(options, &plans, &mut chores)?;
    // Before the sockets of clients are opened: a node without its key must not be reachable.
    let membership = Membership::open(options, resolver)?;
    let descriptors = raise_descriptors()?;
    let cores = sockets::choose_cores(options)?;
    let sockets = sockets::open_for_threads(options, inherited)?;
    sockets::steer(&cores, &sockets)?;
    let start = Start {
        chores,
        descriptors,
        sockets,
        cores,
        identity,
        membership,
        source,
        began,
        started,
    };
    let mut loops = build(options, start)?;
    // Last, as the filter of system calls knows serving only. Threads inherit it.
    privileges::enter_sandbox(options)?;
    loops.start().map_err(problem("cannot start threads"))?;
    log::line(format_args!("ready"));
    if let Some(background) = background {
        let left = background.ready();
        left.map_err(problem("cannot leave the terminal"))?;
    }
    log::use_stderr(false);
    match loops.run().map_err(problem("cannot serve"))? {
        true => Ok(()),
        false => Err("the state was not saved at the end".into()),
    }
}

/// The things from before the root directory is entered.
struct Start {
    chores: Chores,
    descriptors: u64,
    /// Of each thread that serves.
    sockets: Vec<Vec<Socket>>,
    /// The core of each of them, if they are pinned.
    cores: Vec<usize>,
    /// The user to become.
    identity: Option<Identity>,
    membership: Membership,
    /// The configuration files.
    source: Source,
    began: Moment,
    /// Seconds since 1970.
    started: u64,
}

/// Enters the root directory, drops privileges, loads files and makes the loops.
fn build(options: &Options, start: Start) -> Result<Loops, Problem> {
    let (membership, mut chores) = (start.membership, start.chores);
    let monitor = Monitor::open(start.started, start.descriptors);
    privileges::enter_root(options)?;
    privileges::give_up(options, start.identity)?;
    chores.access = data::load_list(options)?;
    chores.fifos = data::open_fifos(options)?;
    // With the rights and at the paths that the helper saves with.
    let (table, loaded) = data::load_table(options, chores.access.as_ref())?;
    // All nodes of a cluster have the same decoys, and accept the connection ids of each other.
    let shared_key = membership.connection_key();
    if options.decoys > 0 {
        let key = membership.decoy_key().map_or_else(random_key, Ok)?;
        table.use_decoys(options.decoys, key, state::wall_ms() / 1000);
    }
    let connection_key = match shared_key.or(loaded.connection_key) {
        Some(key) => key,
        None => random_key()?,
    };
    chores.cluster = membership.start(options, &table)?;
    chores.pace = pace(options, &table);
    let own_key = shared_key.is_none().then_some(connection_key);
    let saves = |path| Saves::new(path, options.state_interval, own_key, loaded.saved_at());
    chores.saves = options.state.as_deref().map(saves);
    let mut responder = make_responder(options, table, &chores, monitor)?;
    responder.cluster = chores.cluster.overview();

    let sockets = start.sockets.iter().map(Vec::len).sum();
    let available_connections = available_connections(options, start.descriptors, sockets);
    let max_connections = max_connections(options, available_connections);
    log_connections(options, max_connections, start.descriptors);
    let limits = connection_limits(options, max_connections, &responder.monitor);
    let policy = Arc::new(policy(options, &start.sockets));
    let settings = Settings::new(options, responder.interval(), policy.clone());
    let live = Arc::new(Live::new(settings));
    let has_files = !start.source.files.is_empty();
    chores.reload = has_files.then(|| Reload {
        source: start.source,
        start: options.clone(),
        current: options.clone(),
        limits: limits.clone(),
        available_connections,
    });
    let parts = Parts {
        start: start.began,
        chores,
        policy,
        live,
        limits,
        sockets: start.sockets,
        cores: start.cores,
        responder,
        ids: ConnectionIds::new(connection_key),
    };
    Loops::new(parts).map_err(problem("cannot poll"))
}

fn connection_limits(options: &Options, most: usize, monitor: &Monitor) -> Arc<SharedLimits> {
    let (open, max) = (&monitor.connections, &monitor.max_connections);
    max.store(most, Ordering::Relaxed);
    let (buffers, threads) = (connection_buffers(), options.threads());
    let limits = SharedLimits::new(max.clone(), buffers, threads, open.clone());
    Arc::new(limits)
}

/// The interval that the loaded peers are for. In a cluster they announce to all nodes.
fn pace(options: &Options, table: &Table) -> Pace {
    let peers: usize = table.survey(0).peers.iter().sum();
    let nodes = options.cluster_peers.len() + 1;
    Pace::new(Rule::of(options), peers / nodes)
}

fn make_responder(
    options: &Options,
    table: Arc<Table>,
    chores: &Chores,
    mut monitor: Monitor,
) -> Result<Responder, Problem> {
    monitor.saves = chores.saves.as_ref().map(|saves| saves.job.clone());
    monitor.loads = chores.access.as_ref().map(|access| access.job.clone());
    let numwant_max = options.numwant_max as usize;
    let seeded = Random::seeded(random()?);
    let mut responder = Responder::new(table, chores.pace.interval(), numwant_max, seeded);
    responder.rules = chores.access.as_ref().map(Access::rules);
    responder.addresses = options.addresses().map(Arc::new);
    responder.log_completed = options.log_completed;
    responder.monitor = monitor;
    Ok(responder)
}

/// The work of the helper processes. With a root directory, that inside is apart, and comes second.
fn plans(
    options: &Options,
    identity: Option<Identity>,
    pidfile: Option<Pidfile>,
    source: &Source,
) -> (Plan, Option<Plan>) {
    let files = Plan {
        identity,
        root: options.root.clone(),
        list: options.whitelist.clone().or(options.blacklist.clone()),
        state: options.state.clone(),
        ..Plan::default()
    };
    let all = Plan {
        config: source.files.clone(),
        syslog: options.syslog || options.daemon,
        names: cluster::names(options),
        pidfile,
        ..Plan::default()
    };
    match files.root {
        Some(_) => (Plan { identity, ..all }, Some(files)),
        None => {
            let Plan { list, state, .. } = files;
            (
                Plan {
                    identity,
                    list,
                    state,
                    ..all
                },
                None,
            )
        }
    }
}

/// Starts the helper processes and checks files. The first starts before, so that all log lines reach syslog too, and
/// the one inside the root directory when that is known to be there.
fn start_helpers(
    options: &Options,
    (plan, inside): &(Plan, Option<Plan>),
    chores: &mut Chores,
) -> Result<Option<Resolver>, Problem> {
    let failed = "cannot start the helper process";
    let (helper, resolver) = plan.start().map_err(problem(failed))?;
    chores.helper = helper;
    check_configuration(options, plan.identity, &plan.config)?;
    apart(|| {
        check_files(options, plan.identity)?;
        data::check_saving(options)
    })?;
    if let Some(inside) = inside {
        chores.outside = chores.helper.take();
        chores.helper = inside.start().map_err(problem(failed))?.0;
    }
    Ok(resolver)
}

fn policy(options: &Options, sockets: &[Vec<Socket>]) -> Policy {
    // The sockets of the first thread: those of the others have the same addresses.
    let sockets = sockets.first().into_iter().flatten();
    let sockets = sockets.filter_map(sockets::announce_address).collect();
    Policy::new(options, sockets, Limiter::new(options.full_scrapes))
}

/// Raises the limit of open descriptors as far as the system allows, and returns it.
fn raise_descriptors() -> Result<u64, Problem> {
    limits::raise_descriptors().map_err(problem("cannot raise the descriptor limit"))
}

/// The connections that the limit of open descriptors allows.
fn available_connections(options: &Options, descriptors: u64, sockets: usize) -> usize {
    let loops = DESCRIPTORS_PER_LOOP * (options.threads() + 1);
    let available = usize::try_from(descriptors).unwrap_or(usize::MAX);
    available.saturating_sub(RESERVED_DESCRIPTORS + loops + sockets)
}

fn random() -> Result<u64, Problem> {
    getrandom::u64().map_err(|error| format!("cannot get random bytes: {error}").into())
}

fn random_key() -> Result<[u64; 2], Problem> {
    Ok([random()?, random()?])
}
