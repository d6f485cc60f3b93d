//! Start-up, in order: options, sockets, files, privileges, loop.

#![forbid(unsafe_code)]

use announced::access::{Access, Fifo};
use announced::cluster::frame::Keys;
use announced::cluster::key;
use announced::health;
use announced::http::{Gate, Policy, Proxies, Room};
use announced::keeper::{self, Keeper, Plan};
use announced::log;
use announced::options::{self, Address, Command, Listen, Options, Target, User};
use announced::random::Random;
use announced::resolver::{self, Resolver};
use announced::responder::Responder;
use announced::server::{Chores, Fifos, Socket};
use announced::startup::cluster::{cluster_keys, open_listeners, start_cluster};
use announced::startup::sockets::{announce_address, choose_cores, open_for_threads, steer};
use announced::startup::threads::{self, Loops, Parts};
use announced::startup::{Problem, problem};
use announced::state::{self, Loaded, Saves};
use announced::stats::Monitor;
use announced::sys::pidfile::{self, Place};
use announced::sys::privileges::{self, Identity};
use announced::sys::uptime::Moment;
use announced::sys::{daemon, files, limits, memory, sandbox, signals};
use announced::tracker::{InfoHash, Limits, Table, Tracked};
use announced::udp::ConnectionIds;
use mio::net::{TcpListener, UnixStream};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

/// Descriptors for all that is not a client's connection: in the process, and of each thread's loop.
const RESERVED_DESCRIPTORS: usize = 32;
const DESCRIPTORS_A_LOOP: usize = 3;

fn main() -> ExitCode {
    threads::abort_on_panic();
    let command = match options::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(wrong) => {
            log::error(format_args!("{wrong}"));
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Help => print(&options::help()),
        Command::Version => print(concat!("announced ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::MakeKey(path) => {
            let shown = path.as_os_str().to_string_lossy();
            key::make(&path).map_err(problem(format_args!("--make-key '{shown}'")))
        }
        Command::Check(options) => check(&options),
        Command::Health(target) => match print_health(&target) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(problem) => Err(problem),
        },
        Command::Serve(options) => serve(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            log::error(format_args!("{problem}"));
            ExitCode::FAILURE
        }
    }
}

fn root_flag(root: &Path) -> String {
    format!("-d/--root '{}'", root.as_os_str().to_string_lossy())
}

fn print(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(problem("cannot write to standard output"))
}

/// Prints the health of a tracker that runs; whether it is in service.
fn print_health(target: &Target) -> Result<bool, Problem> {
    let (text, is_in_service) =
        health::ask(target).map_err(|why| format!("--health {target}: {why}"))?;
    print(&text)?;
    Ok(is_in_service)
}

/// Does all that can be done without opening a socket or giving anything up.
fn check(options: &Options) -> Result<(), Problem> {
    choose_cores(options)?;
    if let Some(path) = &options.pidfile {
        pidfile::check_file(path).map_err(pidfile_problem(path))?;
    }
    let identity = identity(options)?;
    read_key(options)?;
    enter_root(options)?;
    load_list(options)?;
    check_fifos(options, identity)?;
    check_state(options)?;
    print(&options.to_string())
}

fn serve(options: &Options) -> Result<(), Problem> {
    let (began, started) = (Moment::now(), SystemTime::now());
    // First, as neither a thread nor a poll would survive it.
    let background = match options.daemon {
        true => Some(daemon::detach().map_err(problem("cannot go into the background"))?),
        false => None,
    };
    log::set_verbosity(options.verbosity);
    // Early, so that no signal finds the default action in place once the log says "listening".
    let signals = signals::catch().map_err(problem("cannot catch signals"))?;
    let (_locked, pidfile) = options
        .pidfile
        .as_deref()
        .map(take_pidfile)
        .transpose()?
        .unzip();
    let keeper = start_keeper(keeper_plan(options, pidfile))?;
    let key = read_key(options)?;
    let descriptors =
        limits::raise_descriptors().map_err(problem("cannot raise the descriptor limit"))?;
    let cores = choose_cores(options)?;
    let sockets = open_for_threads(options)?;
    steer(&cores, &sockets)?;
    let start = Start {
        signals,
        keeper,
        descriptors,
        cores,
        sockets,
        nodes: open_listeners(options)?,
        key,
        began,
        started,
        background,
    };
    work(options, start)
}

/// The things that serving begins with.
struct Start {
    signals: UnixStream,
    keeper: Option<Keeper>,
    descriptors: u64,
    /// Of each thread that serves.
    sockets: Vec<Vec<Socket>>,
    /// The core of each of them, if they are pinned.
    cores: Vec<usize>,
    /// For connections of other nodes.
    nodes: Vec<TcpListener>,
    key: Option<Vec<u8>>,
    began: Moment,
    started: SystemTime,
    background: Option<daemon::Starting>,
}

fn work(options: &Options, start: Start) -> Result<(), Problem> {
    let identity = identity(options)?;
    let resolver = start_resolver(options, identity)?;
    let resident = memory::Resident::open();
    enter_root(options)?;
    let access = load_list(options)?;
    let fifos = open_fifos(options, identity)?;
    // With the rights that the keeper saves with, and where its paths are.
    let table = load_table(options, access.as_ref())?;
    let mut responder = new_responder(options, table, access.as_ref(), resident, &start)?;
    let keys = cluster_keys(start.key.as_deref());
    let ids = match &keys {
        Some(keys) => ConnectionIds::shared(keys.connections()),
        None => ConnectionIds::new([secret()?, secret()?]),
    };
    use_decoys(options, keys.as_ref(), &responder)?;
    let mut cluster = start_cluster(options, start.key.as_deref(), start.nodes, &responder.table)?;
    cluster.resolver = resolver;
    responder.cluster = cluster.overview();
    give_up_rights(options, identity)?;
    let mut chores = Chores::new(start.signals);
    chores.keeper = start.keeper;
    chores.access = access;
    chores.fifos = fifos;
    chores.cluster = cluster;
    let saves = options.state.as_deref();
    chores.saves = saves.map(|path| Saves::new(path, options.state_interval));
    let sockets = start.sockets.iter().map(Vec::len).sum();
    let max_connections = max_connections(options, start.descriptors, sockets);
    let parts = Parts {
        start: start.began,
        chores,
        policy: Arc::new(policy(options, &start.sockets)),
        gate: Gate::new(options.full_scrapes),
        room: Arc::new(Room::new(
            max_connections,
            options.threads,
            responder.monitor.connections.clone(),
        )),
        sockets: start.sockets,
        cores: start.cores,
        proxies: Proxies {
            nets: options.proxies.clone(),
            protocol: options.proxy_protocol,
        },
        responder,
        ids,
    };
    run(parts, start.background)
}

/// Serves until that is to end.
fn run(parts: Parts, background: Option<daemon::Starting>) -> Result<(), Problem> {
    let mut loops = Loops::new(parts).map_err(problem("cannot poll"))?;
    loops.start().map_err(problem("cannot start threads"))?;
    log::line(format_args!("ready"));
    leave_terminal(background)?;
    match loops.run().map_err(problem("cannot serve"))? {
        true => Ok(()),
        false => Err(String::from("ended without its state saved")),
    }
}

fn leave_terminal(background: Option<daemon::Starting>) -> Result<(), Problem> {
    if let Some(background) = background {
        background
            .ready()
            .map_err(problem("cannot leave the terminal"))?;
    }
    log::leave_stderr();
    Ok(())
}

/// The table with all that is known from before.
fn load_table(options: &Options, access: Option<&Access>) -> Result<Arc<Table>, Problem> {
    let limits = Limits {
        peer_timeout: options.peer_timeout,
        max_peers: options.max_peers,
        max_torrents: options.max_torrents,
    };
    let mut table = Table::new(limits, options.threads);
    let rules = access.map(Access::rules);
    let is_tracked = |hash: &InfoHash| {
        let refused = rules.as_ref().and_then(|rules| rules.refuses(hash));
        refused.is_none()
    };
    let tracked: Tracked = rules.is_some().then_some(&is_tracked);
    if let Some(path) = &options.state {
        let shown = path.as_os_str().to_string_lossy();
        let loaded = state::load(path, &table, tracked, state::wall_ms());
        match loaded.map_err(problem(format_args!("--state '{shown}'")))? {
            Loaded::Nothing => log::line(format_args!("there is no {shown} yet: starting empty")),
            Loaded::State(summary) => log::line(format_args!("from {shown}: {summary}")),
            Loaded::Damaged(damage, aside) => {
                table = Table::new(limits, options.threads);
                let aside = aside.as_os_str().to_string_lossy();
                log::line(format_args!(
                    "{shown} {damage}; moved to {aside}, starting empty"
                ));
            }
        }
    }
    load_counts(options, tracked, &table)?;
    Ok(Arc::new(table))
}

fn new_responder(
    options: &Options,
    table: Arc<Table>,
    access: Option<&Access>,
    resident: memory::Resident,
    start: &Start,
) -> Result<Responder, Problem> {
    let random = Random::seeded(secret()?);
    let mut responder = Responder::new(table, options.interval, options.numwant_max, random);
    responder.rules = access.map(Access::rules);
    responder.log_completed = options.log_completed;
    let id = getrandom::u32().unwrap_or_default();
    responder.monitor = Monitor::new(id, start.started, resident);
    Ok(responder)
}

/// All nodes of a cluster name the same decoys.
fn use_decoys(
    options: &Options,
    keys: Option<&Keys>,
    responder: &Responder,
) -> Result<(), Problem> {
    if options.decoys > 0 {
        let key = match keys {
            Some(keys) => keys.decoys(),
            None => [secret()?, secret()?],
        };
        let now = state::wall_ms() / 1000;
        responder.table.use_decoys(options.decoys, key, now);
    }
    Ok(())
}

fn policy(options: &Options, sockets: &[Vec<Socket>]) -> Policy {
    // Those of the first thread: the others have the same addresses.
    let sockets = sockets.first().map_or(&[][..], Vec::as_slice);
    Policy {
        redirect: options.redirect.clone(),
        admins: options.admins.clone(),
        public_stats: options.public_stats,
        stats_path: options.stats_path.clone(),
        sockets: sockets.iter().filter_map(announce_address).collect(),
    }
}

/// `--max-connections`, as far as the system's limit of descriptors allows it.
fn max_connections(options: &Options, descriptors: u64, sockets: usize) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let loops = DESCRIPTORS_A_LOOP * (options.threads + 1);
    let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS + loops + sockets);
    let wanted = options.max_connections.max(1);
    let most = most.clamp(1, wanted);
    if most < wanted {
        log::line(format_args!(
            "at most {most} connections, as {descriptors} descriptors may be open"
        ));
    }
    most
}

fn load_counts(options: &Options, tracked: Tracked, table: &Table) -> Result<(), Problem> {
    if let Some(path) = &options.load_dump {
        let shown = path.as_os_str().to_string_lossy();
        let loaded = state::load_dump(path, table, tracked);
        let summary = loaded.map_err(problem(format_args!("-l/--load-dump '{shown}'")))?;
        log::line(format_args!("from {shown}: {summary}"));
    }
    Ok(())
}

fn check_state(options: &Options) -> Result<(), Problem> {
    if let Some(path) = &options.state {
        let shown = path.as_os_str().to_string_lossy();
        state::check(path).map_err(problem(format_args!("--state '{shown}'")))?;
    }
    if let Some(path) = &options.load_dump {
        let shown = path.as_os_str().to_string_lossy();
        files::open_regular(path).map_err(problem(format_args!("-l/--load-dump '{shown}'")))?;
    }
    Ok(())
}

fn take_pidfile(path: &Path) -> Result<(File, Place), Problem> {
    pidfile::take(path).map_err(pidfile_problem(path))
}

fn pidfile_problem(path: &Path) -> impl FnOnce(io::Error) -> Problem {
    problem(format!(
        "--pidfile '{}'",
        path.as_os_str().to_string_lossy()
    ))
}

fn secret() -> Result<u64, Problem> {
    getrandom::u64().map_err(|error| format!("cannot get random bytes: {error}"))
}

/// The key of the cluster, if this is to be a node of one. Before the sockets are opened, so that a node
/// without its key is nowhere to be found.
fn read_key(options: &Options) -> Result<Option<Vec<u8>>, Problem> {
    let Some(path) = &options.cluster.key else {
        return Ok(None);
    };
    let shown = path.as_os_str().to_string_lossy();
    let key = key::read(path).map_err(problem(format_args!("--cluster-key '{shown}'")))?;
    Ok(Some(key))
}

/// While the files that tell how names are resolved can be read.
fn start_resolver(
    options: &Options,
    identity: Option<Identity>,
) -> Result<Option<Resolver>, Problem> {
    let peers = &options.cluster.peers;
    if peers.iter().all(|peer| peer.address().is_some()) {
        return Ok(None);
    }
    let names = peers.iter().map(|peer| peer.host.clone()).collect();
    let started = resolver::start(names, identity);
    Ok(Some(started.map_err(problem(
        "cannot start the process that resolves names",
    ))?))
}

/// Who to become; none if not root.
fn identity(options: &Options) -> Result<Option<Identity>, Problem> {
    if !privileges::is_root() {
        return Ok(None);
    }
    let identity = match &options.user {
        &User::Ids { uid, gid } => Identity { uid, gid },
        User::Name(name) => {
            let shown = name.to_string_lossy();
            privileges::find_user(name)
                .map_err(problem(format_args!("cannot look up user '{shown}'")))?
                .ok_or_else(|| format!("-u/--user '{shown}': there is no such user"))?
        }
    };
    if identity.uid == 0 || identity.gid == 0 {
        return Err(
            "-u/--user: a user other than root, in a group other than root's, is wanted".into(),
        );
    }
    Ok(Some(identity))
}

fn keeper_plan(options: &Options, pidfile: Option<Place>) -> Plan {
    Plan {
        root: options.root.clone(),
        list: options.list.as_ref().map(|list| list.file.clone()),
        syslog: options.syslog,
        pidfile: pidfile.map(Arc::new),
        state: options.state.clone(),
    }
}

/// Before the sockets are opened, so that all that is logged of them reaches syslog too.
fn start_keeper(plan: Plan) -> Result<Option<Keeper>, Problem> {
    if !plan.needs_keeper() {
        return Ok(None);
    }
    let mut keeper = keeper::start(&plan).map_err(problem("cannot start the keeper process"))?;
    if let Some(socket) = keeper.take_log() {
        log::use_syslog(socket);
    }
    Ok(Some(keeper))
}

fn enter_root(options: &Options) -> Result<(), Problem> {
    match &options.root {
        Some(root) => privileges::enter(root).map_err(problem(root_flag(root))),
        None => Ok(()),
    }
}

fn load_list(options: &Options) -> Result<Option<Access>, Problem> {
    let Some(list) = &options.list else {
        return Ok(None);
    };
    let mut access = Access::new(list.kind, list.file.clone());
    // The path alone would mislead: Debian's opentracker.conf has one that is right without a chroot only.
    access.load().map_err(|why| match &options.root {
        Some(root) => format!("{why}, looked for inside {}", root_flag(root)),
        None => why,
    })?;
    Ok(Some(access))
}

/// The FIFOs, with the flags that name them.
fn fifos(options: &Options) -> [(&'static str, Option<&Path>); 2] {
    let list = options.list.as_ref();
    [
        ("--list-add", list.and_then(|list| list.add.as_deref())),
        (
            "--list-remove",
            list.and_then(|list| list.remove.as_deref()),
        ),
    ]
}

/// Those that are missing would be made.
fn check_fifos(options: &Options, owner: Option<Identity>) -> Result<(), Problem> {
    for (flag, path) in fifos(options) {
        let Some(path) = path else {
            continue;
        };
        if let Ok(found) = path.metadata() {
            let shown = path.as_os_str().to_string_lossy();
            files::expect_fifo(&found, owner).map_err(problem(format_args!("{flag} '{shown}'")))?;
        }
    }
    Ok(())
}

fn open_fifos(options: &Options, owner: Option<Identity>) -> Result<Fifos, Problem> {
    let mut opened = [None, None];
    for (opened, (flag, path)) in opened.iter_mut().zip(fifos(options)) {
        if let Some(path) = path {
            let shown = path.as_os_str().to_string_lossy();
            let fifo = files::open_fifo(path, owner);
            let fifo = fifo.map_err(problem(format_args!("{flag} '{shown}'")))?;
            *opened = Some(Fifo::new(fifo, flag));
        }
    }
    let [add, remove] = opened;
    Ok(Fifos { add, remove })
}

/// Keeps what it takes to serve, and nothing else.
fn give_up_rights(options: &Options, identity: Option<Identity>) -> Result<(), Problem> {
    drop_privileges(options, identity)?;
    let is_unix = |listen: &Listen| matches!(listen.address, Address::Unix(_));
    sandbox::enter(options.listen.iter().any(is_unix)).map_err(problem("cannot enter the sandbox"))
}

/// As root: becomes somebody else for good. As anybody else there is nothing to give up.
fn drop_privileges(options: &Options, identity: Option<Identity>) -> Result<(), Problem> {
    match identity {
        Some(identity) => {
            privileges::become_user(identity).map_err(problem("cannot drop privileges"))?;
            let Identity { uid, gid } = identity;
            log::line(format_args!("running as user {uid}, group {gid}"));
        }
        None if options.user_given => {
            log::line(format_args!("not started as root: -u/--user has no effect"));
        }
        None => {}
    }
    Ok(())
}
