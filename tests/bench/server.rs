//! A server process on its own core, measured from outside, killed when its handle is dropped.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::common::opentracker::{self, OPENTRACKER, Opentracker};
use super::common::{Daemon, free_address};
use super::options::{Bench, Build};
use super::population::{Family, Population, info_hash};
use super::sys;

/// The server has one core to itself, and the generator the other.
pub const SERVER_CORE: usize = 0;
pub const GENERATOR_CORE: usize = 1;

/// The name of a build in an argument: builds run side by side, and each needs a state file of its own.
pub const BUILD: &str = "BUILD";

pub struct Server {
    pub name: String,
    /// The address of UDP and TCP alike.
    pub address: SocketAddr,
    id: u32,
    daemon: Option<Daemon>,
    _opentracker: Option<Opentracker>,
}

/// A command that runs a program on one core.
fn pinned(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Moves the calling thread to the generator's core, with all threads that it starts.
pub fn pin_generator() {
    let core = GENERATOR_CORE.to_string();
    let id = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-pc", &core, &id]).output();
    let is_pinned = pinned.expect("there is a taskset").status.success();
    assert!(
        is_pinned,
        "the benchmark needs two cores, one for the server"
    );
}

/// Runs this program again in a network of its own, where every address of 2001:db8::/32 is local. Without root it goes
/// on here, and cases with IPv6 fail.
pub fn enter_network() {
    const MARK: &str = "ANNOUNCED_BENCH_NETWORK";
    const ENTER: &str = "ip link set lo up && ip -6 route add local 2001:db8::/32 dev lo && \
        echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind || exit 1; exec \"$0\" \"$@\"";
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", ENTER]).env(MARK, "1");
    command.args(std::env::args_os());
    let can_enter = Command::new("unshare").args(["--net", "true"]).output();
    if can_enter.is_ok_and(|output| output.status.success()) {
        let error = command.exec();
        eprintln!("bench: unshare: {error}");
    }
}

/// Lets the calling thread run before ordinary ones, where it may: root may.
pub fn run_first() {
    let thread = fs::read_link("/proc/thread-self").expect("is there");
    let id = thread.file_name().expect("an id");
    let mut chrt = Command::new("chrt");
    let _ = chrt.args(["-f", "-p", "1"]).arg(id).output();
}

/// An address that was free a moment ago, for UDP and TCP.
fn address(family: Family) -> SocketAddr {
    match family {
        Family::V4 => free_address(),
        Family::V6 => TcpListener::bind((family.server(), 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port"),
    }
}

impl Server {
    /// A build of this tracker on a core, with arguments beside those that say where it listens. [`BUILD`] in them
    /// stands for the name of the build.
    pub fn announced(core: usize, build: &Build, family: Family, arguments: &[&str]) -> Server {
        let address = address(family);
        Server::announced_at(core, build, (address, address.ip()), arguments)
    }

    /// The same at a wildcard address.
    pub fn wildcard(build: &Build, family: Family) -> Server {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut server = Server::announced_at(SERVER_CORE, build, (address(family), any), &[]);
        server.name = format!("{}, wildcard", build.name);
        server
    }

    fn announced_at(
        core: usize,
        build: &Build,
        (address, bound): (SocketAddr, IpAddr),
        arguments: &[&str],
    ) -> Server {
        let (ip, port) = (bound.to_string(), address.port().to_string());
        let mut command = pinned(core, &build.path);
        command.args(["-i", &ip, "-p", &port, "-P", &port]);
        // Peers name addresses, see [`Population::address`].
        command.args(["--trust-ip", "127.0.0.0/8"]);
        command.args(arguments.iter().map(|it| it.replace(BUILD, &build.name)));
        Server::of_daemon(build.name.clone(), address, command)
    }

    fn of_daemon(name: String, address: SocketAddr, command: Command) -> Server {
        let daemon = Daemon::spawn(command);
        Server {
            name,
            address,
            id: daemon.id(),
            daemon: Some(daemon),
            _opentracker: None,
        }
    }

    /// Every build that takes part.
    pub fn builds(bench: &Bench, arguments: &[&str]) -> Vec<Server> {
        Server::builds_for(bench, bench.family, arguments)
    }

    pub fn builds_for(bench: &Bench, family: Family, arguments: &[&str]) -> Vec<Server> {
        let start = |build| Server::announced(SERVER_CORE, build, family, arguments);
        bench.builds.iter().map(start).collect()
    }

    pub fn with_threads(build: &Build, threads: u32, family: Family) -> Server {
        let threads = threads.to_string();
        let mut server = Server::announced(SERVER_CORE, build, family, &["-j", &threads]);
        server.name = format!("{} -j {threads}", build.name);
        server
    }

    /// opentracker, or a row with the reason why it does not take part.
    pub fn opentracker(bench: &Bench, subject: &str, population: &Population) -> Option<Server> {
        let why = match population.family {
            Family::V4 => opentracker::missing(),
            Family::V6 => Some("it is built for IPv4".to_string()),
        };
        if let Some(why) = why {
            bench.skip(subject, "opentracker", &why);
            return None;
        }
        let hashes = (0..population.torrents).map(info_hash);
        let opentracker = Opentracker::start(pinned(SERVER_CORE, OPENTRACKER), hashes);
        Some(Server {
            name: "opentracker".to_string(),
            address: opentracker.address,
            id: opentracker.process.0.id(),
            daemon: None,
            _opentracker: Some(opentracker),
        })
    }

    /// A reference loop, in a process of its own.
    pub fn bare(kind: &str, family: Family) -> Server {
        let address = address(family);
        let program = std::env::current_exe().expect("the path of this program");
        let mut command = pinned(SERVER_CORE, program);
        command.args(["--bare", kind, &address.to_string()]);
        Server::of_daemon(format!("bare {kind} loop"), address, command)
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("opentracker logs nothing")
    }

    /// Processor time of all its threads.
    pub fn processor_time(&self) -> io::Result<Duration> {
        sys::processor_time(self.id)
    }

    /// Seconds of processor time that its threads have spent outside the kernel.
    pub fn user_time(&self) -> f64 {
        const TICKS: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id));
        let stat = stat.expect("is running");
        // The name before may have spaces.
        let (_, fields) = stat.rsplit_once(')').expect("has a name");
        let ticks = fields.split_whitespace().nth(11).expect("has so many");
        ticks.parse::<f64>().expect("a number") / TICKS
    }

    /// Bytes of the resident set. smaps_rollup is exact; statm lags by what each core has not yet added up, which
    /// matters beside the two megabytes of an idle tracker.
    pub fn resident(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id));
        let rollup = rollup.expect("is running");
        let kilobytes = rollup.lines().find_map(|line| {
            let number = line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?;
            number.parse::<u64>().ok()
        });
        kilobytes.expect("a number") * 1024
    }

    /// The resident set when it no longer changes: memory that was needed for a while is given back.
    pub fn settled_resident(&self) -> u64 {
        let mut last = self.resident();
        for _ in 0..40 {
            thread::sleep(Duration::from_millis(50));
            let now = self.resident();
            if now == last {
                break;
            }
            last = now;
        }
        last
    }
}
