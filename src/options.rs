//! The command line and the configuration files.
//!
//! Every flag is a row of [`FLAGS`]: its names, its value, its line of help. The parser, `--help` and,
//! held to it by a test, the man page and the README all come from there. Letters that opentracker has
//! mean what they mean there, but for `-v`.

mod cluster;
mod multicast;

pub use cluster::{ClusterOptions, PeerName};
pub use multicast::{Group, MulticastOptions};

use crate::access;
use crate::config::{self, Setting};
use crate::http::FullScrapes;
use crate::nets::Net;
use crate::sys::cores;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A flag as the command line, the help and the man page know it.
pub struct Flag {
    id: Id,
    pub short: Option<char>,
    pub long: &'static str,
    /// What its value is called; empty for a flag without one.
    pub value: &'static str,
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Id {
    Config,
    Address,
    TcpPort,
    UdpPort,
    User,
    Root,
    Redirect,
    FullScrape,
    Admin,
    PublicStats,
    StatsPath,
    Whitelist,
    Blacklist,
    ListAdd,
    ListRemove,
    Interval,
    PeerTimeout,
    NumwantMax,
    Decoys,
    MaxPeers,
    MaxTorrents,
    MaxConnections,
    Threads,
    PinThreads,
    State,
    StateInterval,
    LoadDump,
    ClusterListen,
    ClusterPeer,
    ClusterKey,
    MakeKey,
    SyncMulticast,
    SyncNode,
    SyncMapped,
    Proxy,
    ProxyProtocol,
    Verbose,
    Syslog,
    Daemon,
    Pidfile,
    LogCompleted,
    Check,
    Health,
    Version,
    Help,
}

const fn flag(
    id: Id,
    short: char,
    long: &'static str,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        id,
        short: if short == '-' { None } else { Some(short) },
        long,
        value,
        help,
    }
}

#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag(Id::Config, 'f', "config", "FILE", "read these options, or opentracker's, from a file"),
    flag(Id::Address, 'i', "address", "IP", "listen on this address, for the -p and -P that follow (all)"),
    flag(Id::TcpPort, 'p', "tcp-port", "PORT", "serve HTTP on this port or on unix:/PATH (6969)"),
    flag(Id::UdpPort, 'P', "udp-port", "PORT", "serve UDP on this port (6969)"),
    flag(Id::User, 'u', "user", "NAME", "become this user, or UID:GID, if started as root (nobody)"),
    flag(Id::Root, 'd', "root", "DIR", "chroot to this directory; if not root, work in it"),
    flag(Id::Redirect, 'r', "redirect", "URL", "redirect / to this URL"),
    flag(Id::Admin, 'A', "admin", "NET", "show statistics to this network (loopback)"),
    flag(Id::PublicStats, '-', "public-stats", "", "show everybody what names no torrent or peer"),
    flag(Id::StatsPath, '-', "stats-path", "PATH", "serve statistics at this path (/stats)"),
    flag(Id::Whitelist, 'w', "whitelist", "FILE", "track only the torrents in this list"),
    flag(Id::Blacklist, 'b', "blacklist", "FILE", "track all torrents but those in this list"),
    flag(Id::ListAdd, '-', "list-add", "FIFO", "put what is written to this FIFO on the list"),
    flag(Id::ListRemove, '-', "list-remove", "FIFO", "take what is written to this FIFO off the list"),
    flag(Id::FullScrape, '-', "full-scrape", "WHO", "full scrapes for off, admin, modest or open (modest)"),
    flag(Id::Interval, '-', "interval", "SECONDS", "ask clients to announce this often (1800)"),
    flag(Id::PeerTimeout, '-', "peer-timeout", "SECONDS", "forget peers after this long (1.5 intervals)"),
    flag(Id::NumwantMax, '-', "numwant-max", "N", "send at most this many peers in a reply (200)"),
    flag(Id::Decoys, '-', "decoys", "PERCENT", "name so many strangers among a swarm's peers (0)"),
    flag(Id::MaxPeers, '-', "max-peers", "N", "store at most this many peers (100000000)"),
    flag(Id::MaxTorrents, '-', "max-torrents", "N", "store at most this many torrents (20000000)"),
    flag(Id::MaxConnections, '-', "max-connections", "N", "keep at most this many TCP connections (65536)"),
    flag(Id::Threads, 'j', "threads", "N", "serve with this many threads, to use more cores (1)"),
    flag(Id::PinThreads, '-', "pin-threads", "", "pin each thread to a core, give it what that core receives (Linux)"),
    flag(Id::State, '-', "state", "FILE", "keep all that is known in this file across restarts"),
    flag(Id::StateInterval, '-', "state-interval", "SECONDS", "save the state this often; 0: at the end only (600)"),
    flag(Id::LoadDump, 'l', "load-dump", "FILE", "load the downloaded counts of opentracker's statedump"),
    flag(Id::ClusterListen, '-', "cluster-listen", "ADDR:PORT", "share peers with other nodes through this address"),
    flag(Id::ClusterPeer, '-', "cluster-peer", "HOST:PORT", "another node of the cluster"),
    flag(Id::ClusterKey, '-', "cluster-key", "FILE", "believe nodes that have the key in this file"),
    flag(Id::MakeKey, '-', "make-key", "FILE", "write a new key for a cluster to this file, exit"),
    flag(Id::SyncMulticast, 's', "sync-multicast", "[ADDR:]PORT", "sync with opentrackers by multicast from this address"),
    flag(Id::SyncNode, '-', "sync-node", "NET", "take what this network tells by multicast (none)"),
    flag(Id::SyncMapped, '-', "sync-mapped", "", "tell IPv4 peers as mapped IPv6, for opentracker of 2024 on"),
    flag(Id::Proxy, '-', "proxy", "NET", "believe what proxies from this network say of their clients"),
    flag(Id::ProxyProtocol, '-', "proxy-protocol", "", "expect proxies to begin connections with a PROXY header"),
    flag(Id::Verbose, 'v', "verbose", "", "log a line of counts a minute; twice: every sweep too"),
    flag(Id::Syslog, '-', "syslog", "", "log to syslog, as daemon"),
    flag(Id::Daemon, '-', "daemon", "", "go into the background once ready; implies --syslog"),
    flag(Id::Pidfile, '-', "pidfile", "FILE", "keep the process id in this file, and one process at most"),
    flag(Id::LogCompleted, '-', "log-completed", "", "log who completed what: time, info-hash, peer id, address"),
    flag(Id::Check, 'n', "check", "", "check the options, say what they mean, exit"),
    flag(Id::Health, '-', "health", "[ADDR]", "print the /health of the tracker at ADDR:PORT or unix:/PATH, exit"),
    flag(Id::Version, 'V', "version", "", "print the version, exit"),
    flag(Id::Help, 'h', "help", "", "print this help, exit"),
];

const DEFAULT_PORT: u16 = 6969;
const DEFAULT_INTERVAL: u32 = 1800;
const LONGEST_INTERVAL: u32 = 24 * 3600;
const LONGEST_TIMEOUT: u32 = 7 * 24 * 3600;
const MAX_THREADS: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// Where to listen, and for what: HTTP comes over TCP and Unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Udp(SocketAddr),
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Address::Udp(address) => write!(f, "udp {address}"),
            Address::Tcp(address) => write!(f, "tcp {address}"),
            Address::Unix(path) => write!(f, "unix {}", path.as_os_str().to_string_lossy()),
        }
    }
}

/// A socket to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: Address,
    /// Nobody asked for it by address: it may be missing where the host has no IPv6.
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Name(OsString),
    Ids { uid: u32, gid: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The configuration files that were read.
    pub config: Vec<PathBuf>,
    pub listen: Vec<Listen>,
    pub user: User,
    /// Whether the user was asked for.
    pub user_given: bool,
    pub root: Option<PathBuf>,
    pub redirect: Option<String>,
    pub full_scrapes: FullScrapes,
    /// Who may see statistics, besides the loopback.
    pub admins: Vec<Net>,
    pub public_stats: bool,
    /// With its slash.
    pub stats_path: String,
    pub list: Option<List>,
    /// Seconds.
    pub interval: u32,
    pub peer_timeout: u32,
    pub numwant_max: usize,
    /// In percent of a swarm's peers.
    pub decoys: u32,
    pub max_peers: usize,
    pub max_torrents: usize,
    pub max_connections: usize,
    pub threads: usize,
    pub pin_threads: bool,
    pub state: Option<PathBuf>,
    /// Seconds; 0 for never by time.
    pub state_interval: u32,
    pub load_dump: Option<PathBuf>,
    pub cluster: ClusterOptions,
    pub multicast: MulticastOptions,
    /// Whose word is taken for who their clients are.
    pub proxies: Vec<Net>,
    pub proxy_protocol: bool,
    pub verbosity: u32,
    pub syslog: bool,
    pub daemon: bool,
    pub pidfile: Option<PathBuf>,
    pub log_completed: bool,
}

/// Which torrents are tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub kind: access::Kind,
    pub file: PathBuf,
    /// The FIFOs through which it is changed.
    pub add: Option<PathBuf>,
    pub remove: Option<PathBuf>,
}

/// The tracker that `--health` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `HOST:PORT` or `[IPv6]:PORT`.
    Tcp(String),
    Unix(PathBuf),
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Options),
    Check(Options),
    /// Writes a key to this file.
    MakeKey(PathBuf),
    Health(Target),
    Version,
    Help,
}

/// Why the command line cannot be followed; names the flag, what was given and what is wanted.
pub type Wrong = String;

/// Reads the arguments that follow the program's name, and the files that they name. The files are first,
/// so that the command line has the last word.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Wrong> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut draft = Draft::default();
    let mut given = Vec::new();
    while let Some(argument) = parser.next().map_err(explain)? {
        let flag = match &argument {
            lexopt::Arg::Short(c) => FLAGS.iter().find(|f| f.short == Some(*c)),
            lexopt::Arg::Long(name) => FLAGS.iter().find(|f| f.long == *name),
            lexopt::Arg::Value(value) => {
                let value = value.to_string_lossy();
                return Err(format!(
                    "'{value}' is not a flag, and nothing else is wanted"
                ));
            }
        };
        if matches!(argument, lexopt::Arg::Long("processes")) {
            return Err(String::from("--processes: use --threads"));
        }
        let Some(flag) = flag else {
            let name = match argument {
                lexopt::Arg::Short(c) => format!("-{c}"),
                lexopt::Arg::Long(name) => format!("--{name}"),
                lexopt::Arg::Value(_) => String::new(),
            };
            return Err(format!("there is no flag {name}; -h lists them all"));
        };
        if flag.id == Id::Health {
            draft.set_health(flag, optional_value(&mut parser))?;
            continue;
        }
        let value = match flag.value {
            "" => OsString::new(),
            name => parser
                .value()
                .map_err(|_| format!("{} wants a value: {name}", flag.names()))?,
        };
        match flag.id {
            Id::Help => return Ok(Command::Help),
            Id::Version => return Ok(Command::Version),
            Id::MakeKey => return Ok(Command::MakeKey(parse_file(flag, &value)?)),
            Id::Config => draft.include(flag, &value)?,
            _ => given.push((flag, value)),
        }
    }
    for (flag, value) in given {
        draft.set(flag, &value)?;
    }
    draft.finish()
}

/// The value of a flag that may have none: behind `=`, or the next argument if that does not begin with `-`.
fn optional_value(parser: &mut lexopt::Parser) -> Option<OsString> {
    if let Some(value) = parser.optional_value() {
        return Some(value);
    }
    let is_value = |argument: &OsStr| !argument.as_bytes().starts_with(b"-");
    parser.try_raw_args()?.next_if(is_value)
}

/// The one thing that the splitting of the command line itself finds wrong: `--check=yes`.
fn explain(error: lexopt::Error) -> Wrong {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            let value = value.to_string_lossy();
            format!("{option} '{value}': wanted is no value")
        }
        // Formatting lexopt's own errors would bring in tables of Unicode for their quoting.
        _ => String::from("the command line cannot be read"),
    }
}

impl Flag {
    /// `-i/--address`
    pub fn names(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}/--{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn wrong(&self, given: &OsStr, wanted: &str) -> Wrong {
        let given = given.to_string_lossy();
        format!("{} '{given}': wanted is {wanted}", self.names())
    }

    fn text<'a>(&self, value: &'a OsStr) -> Result<&'a str, Wrong> {
        value
            .to_str()
            .ok_or_else(|| self.wrong(value, "text in UTF-8"))
    }

    fn number(&self, value: &OsStr, least: u64, most: u64) -> Result<u64, Wrong> {
        let number = value.to_str().and_then(digits);
        number
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| self.wrong(value, &format!("a number from {least} to {most}")))
    }

    fn port(&self, value: &OsStr) -> Result<u16, Wrong> {
        let number = self.number(value, 0, u16::MAX.into())?;
        u16::try_from(number).map_err(|_| self.wrong(value, "less"))
    }

    fn number_u32(&self, value: &OsStr, least: u32, most: u32) -> Result<u32, Wrong> {
        let number = self.number(value, least.into(), most.into())?;
        u32::try_from(number).map_err(|_| self.wrong(value, "less"))
    }

    fn number_usize(&self, value: &OsStr, least: u64, most: u64) -> Result<usize, Wrong> {
        let number = self.number(value, least, most)?;
        usize::try_from(number).map_err(|_| self.wrong(value, "less"))
    }
}

/// A number in digits alone: `str::parse` would take a plus sign too.
fn digits(text: &str) -> Option<u64> {
    let all_digits = text.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

/// The options as far as they have been read.
#[derive(Default)]
struct Draft {
    /// The last address given, and whether a port followed it.
    address: Option<(IpAddr, bool)>,
    config: Vec<PathBuf>,
    listen: Vec<Listen>,
    user: Option<User>,
    root: Option<PathBuf>,
    redirect: Option<String>,
    full_scrapes: FullScrapes,
    admins: Vec<Net>,
    public_stats: bool,
    stats_path: Option<String>,
    whitelist: Option<PathBuf>,
    blacklist: Option<PathBuf>,
    list_add: Option<PathBuf>,
    list_remove: Option<PathBuf>,
    interval: Option<u32>,
    peer_timeout: Option<u32>,
    numwant_max: Option<usize>,
    decoys: u32,
    max_peers: Option<usize>,
    max_torrents: Option<usize>,
    max_connections: Option<usize>,
    threads: Option<usize>,
    pin_threads: bool,
    /// How many threads opentracker would have per UDP socket.
    udp_threads: Option<usize>,
    state: Option<PathBuf>,
    state_interval: Option<u32>,
    load_dump: Option<PathBuf>,
    cluster: ClusterOptions,
    multicast: MulticastOptions,
    proxies: Vec<Net>,
    proxy_protocol: bool,
    verbosity: u32,
    syslog: bool,
    daemon: bool,
    pidfile: Option<PathBuf>,
    log_completed: bool,
    check: bool,
    health: bool,
    target: Option<Target>,
}

impl Draft {
    /// Takes what a configuration file sets.
    fn include(&mut self, flag: &Flag, path: &OsStr) -> Result<(), Wrong> {
        let shown = path.to_string_lossy();
        let text = config::load(Path::new(path))
            .map_err(|error| format!("{} '{shown}': {error}", flag.names()))?;
        config::read(&shown, &text, &mut |setting| self.set_by_name(setting))?;
        self.end_of_flags()
            .map_err(|wrong| format!("{shown}: {wrong}"))?;
        // The next file, or the command line, starts anew.
        self.address = None;
        self.config.push(path.into());
        Ok(())
    }

    /// Takes what a line of a configuration file sets; errors name its keyword.
    fn set_by_name(&mut self, setting: &Setting) -> Result<(), Wrong> {
        let &Setting {
            keyword,
            flag,
            value,
        } = setting;
        let Some(flag) = FLAGS.iter().find(|f| f.long == flag) else {
            if keyword == "processes" {
                return Err(String::from("processes: use threads"));
            }
            return Err(format!(
                "there is no keyword '{keyword}'; announced.conf(5) lists them all"
            ));
        };
        let set = match (flag.id, flag.value) {
            (Id::Config | Id::Health | Id::Help | Id::Version | Id::MakeKey, _) => {
                return Err(format!("{keyword} is for the command line alone"));
            }
            (_, "") if !value.is_empty() => Err(flag.wrong(value, "no value")),
            (_, name) if !name.is_empty() && value.is_empty() => {
                return Err(format!("{keyword} wants a value: {name}"));
            }
            _ if keyword == config::UDP_THREADS => self.set_udp_threads(flag, value),
            _ => self.set(flag, value),
        };
        set.map_err(|wrong| match wrong.strip_prefix(&flag.names()) {
            Some(rest) => format!("{keyword}{rest}"),
            None => wrong,
        })
    }

    fn set(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        match flag.id {
            Id::Address => {
                self.expect_port(flag)?;
                let address = value.to_str().and_then(|v| v.parse().ok());
                let wanted = "an IPv4 or IPv6 address, such as 192.0.2.1 or ::";
                let address = address.ok_or_else(|| flag.wrong(value, wanted))?;
                self.address = Some((address, false));
            }
            Id::TcpPort => self.set_tcp(flag, value)?,
            Id::UdpPort => self.add_port(Protocol::Udp, flag.port(value)?),
            Id::User => self.user = Some(parse_user(flag, value)?),
            Id::Root => match value.is_empty() {
                true => return Err(flag.wrong(value, "a directory")),
                false => self.root = Some(value.into()),
            },
            Id::Redirect => self.redirect = Some(parse_url(flag, value)?),
            Id::Admin => self.admins.push(parse_net(flag, value)?),
            Id::PublicStats => self.public_stats = true,
            Id::StatsPath => self.stats_path = Some(parse_stats_path(flag, value)?),
            Id::Whitelist => self.whitelist = Some(parse_file(flag, value)?),
            Id::Blacklist => self.blacklist = Some(parse_file(flag, value)?),
            Id::ListAdd => self.list_add = Some(parse_file(flag, value)?),
            Id::ListRemove => self.list_remove = Some(parse_file(flag, value)?),
            Id::FullScrape => self.full_scrapes = parse_full_scrapes(flag, value)?,
            Id::Interval => self.interval = Some(flag.number_u32(value, 1, LONGEST_INTERVAL)?),
            Id::PeerTimeout => {
                self.peer_timeout = Some(flag.number_u32(value, 2, LONGEST_TIMEOUT)?);
            }
            Id::NumwantMax => self.numwant_max = Some(flag.number_usize(value, 1, 200)?),
            Id::Decoys => self.decoys = flag.number_u32(value, 0, 100)?,
            Id::MaxPeers => self.max_peers = Some(flag.number_usize(value, 1, 4_000_000_000)?),
            Id::MaxTorrents => {
                self.max_torrents = Some(flag.number_usize(value, 1, 4_000_000_000)?);
            }
            Id::MaxConnections => {
                self.max_connections = Some(flag.number_usize(value, 1, 1_000_000)?);
            }
            Id::Threads => self.threads = Some(flag.number_usize(value, 1, MAX_THREADS)?),
            Id::PinThreads => match cores::IS_SUPPORTED {
                true => self.pin_threads = true,
                false => return Err(format!("{}: not supported on this system", flag.names())),
            },
            Id::Proxy => self.proxies.push(parse_net(flag, value)?),
            Id::ProxyProtocol => self.proxy_protocol = true,
            Id::Verbose => self.verbosity = self.verbosity.saturating_add(1),
            Id::Syslog => self.syslog = true,
            Id::Daemon => self.daemon = true,
            Id::Pidfile => self.pidfile = Some(parse_file(flag, value)?),
            Id::LogCompleted => self.log_completed = true,
            Id::State => self.state = Some(parse_file(flag, value)?),
            Id::StateInterval => {
                self.state_interval = Some(flag.number_u32(value, 0, LONGEST_TIMEOUT)?);
            }
            Id::LoadDump => self.load_dump = Some(parse_file(flag, value)?),
            Id::ClusterListen => self.cluster.add_listen(flag, value)?,
            Id::ClusterPeer => self.cluster.add_peer(flag, value)?,
            Id::ClusterKey => self.cluster.set_key(flag, value)?,
            Id::SyncMulticast => {
                self.multicast.set_group(flag, value, &mut self.address)?;
            }
            Id::SyncNode => self.multicast.nodes.push(parse_net(flag, value)?),
            Id::SyncMapped => self.multicast.is_mapping = true,
            Id::Check => self.check = true,
            // Dealt with where they are read.
            Id::Config | Id::MakeKey | Id::Health | Id::Version | Id::Help => {}
        }
        Ok(())
    }

    fn set_health(&mut self, flag: &Flag, value: Option<OsString>) -> Result<(), Wrong> {
        self.health = true;
        if let Some(value) = value {
            self.target = Some(parse_target(flag, &value)?);
        }
        Ok(())
    }

    /// The address that `--health` has, or else the first TCP listener; the loopback if that is a wildcard.
    fn health_target(self) -> Result<Target, Wrong> {
        if let Some(target) = self.target {
            return Ok(target);
        }
        let mut listeners = self
            .listen
            .iter()
            .filter_map(|listen| match listen.address {
                Address::Tcp(address) => Some(address),
                Address::Udp(_) | Address::Unix(_) => None,
            });
        let wrong = |why| Err(format!("--health requires an address: {why}"));
        match listeners.next() {
            None => wrong("no -p/--tcp-port has a number"),
            Some(address) if address.port() == 0 => {
                wrong("the system chooses port 0 at each start")
            }
            Some(mut address) => {
                match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => {
                        address.set_ip(Ipv4Addr::LOCALHOST.into())
                    }
                    IpAddr::V6(ip) if ip.is_unspecified() => {
                        address.set_ip(Ipv6Addr::LOCALHOST.into())
                    }
                    _ => {}
                }
                Ok(Target::Tcp(address.to_string()))
            }
        }
    }

    /// The threads of opentracker, where `threads` does not say how many. With 0 it has one.
    fn set_udp_threads(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        let threads = flag.number_usize(value, 0, MAX_THREADS)?;
        self.udp_threads = Some(threads.max(1));
        Ok(())
    }

    fn set_tcp(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        if value.as_bytes().starts_with(UNIX) {
            self.listen.push(Listen {
                address: Address::Unix(parse_socket_path(flag, value)?),
                optional: false,
            });
            return Ok(());
        }
        let port = flag.port(value);
        let port =
            port.map_err(|_| flag.wrong(value, "a number from 0 to 65535, or unix:/PATH"))?;
        self.add_port(Protocol::Tcp, port);
        Ok(())
    }

    fn add_port(&mut self, protocol: Protocol, port: u16) {
        let wildcards = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let given = self.address.as_mut().map(|(address, used)| {
            *used = true;
            [*address]
        });
        let addresses: &[IpAddr] = match &given {
            // As with opentracker, whose `::` takes IPv4 too. Ours are sockets of their own.
            Some([IpAddr::V6(Ipv6Addr::UNSPECIFIED)]) | None => &wildcards,
            Some(address) => address,
        };
        for &address in addresses {
            let socket_address = SocketAddr::new(address, port);
            self.listen.push(Listen {
                address: match protocol {
                    Protocol::Udp => Address::Udp(socket_address),
                    Protocol::Tcp => Address::Tcp(socket_address),
                },
                optional: given.is_none() && address.is_ipv6(),
            });
        }
    }

    /// An address to which no port belongs would be ignored, which nobody means.
    fn expect_port(&self, flag: &Flag) -> Result<(), Wrong> {
        match self.address {
            Some((address, false)) => {
                let names = flag.names();
                Err(format!(
                    "{names} '{address}': wanted is a -p or -P after it"
                ))
            }
            _ => Ok(()),
        }
    }

    /// The command line or a file is over. One address alone stands for both protocols on the usual port.
    fn end_of_flags(&mut self) -> Result<(), Wrong> {
        if let (true, Some(_)) = (self.listen.is_empty(), self.address) {
            self.add_port(Protocol::Udp, DEFAULT_PORT);
            self.add_port(Protocol::Tcp, DEFAULT_PORT);
        }
        let address = FLAGS.iter().find(|flag| flag.id == Id::Address);
        address.map_or(Ok(()), |flag| self.expect_port(flag))
    }

    fn take_list(&mut self) -> Result<Option<List>, Wrong> {
        let (add, remove) = (self.list_add.take(), self.list_remove.take());
        let (kind, file) = match (self.whitelist.take(), self.blacklist.take()) {
            (Some(file), None) => (access::Kind::White, file),
            (None, Some(file)) => (access::Kind::Black, file),
            (Some(_), Some(file)) => {
                let file = file.to_string_lossy();
                return Err(format!(
                    "-b/--blacklist '{file}': wanted is this or -w/--whitelist, not both"
                ));
            }
            (None, None) => {
                let fifo = match (add, remove) {
                    (Some(fifo), _) => ("--list-add", fifo),
                    (None, Some(fifo)) => ("--list-remove", fifo),
                    (None, None) => return Ok(None),
                };
                let (flag, fifo) = (fifo.0, fifo.1.to_string_lossy());
                return Err(format!(
                    "{flag} '{fifo}': wanted is a -w/--whitelist or -b/--blacklist too"
                ));
            }
        };
        if let Some(remove) = remove.as_ref().filter(|_| add == remove) {
            let fifo = remove.to_string_lossy();
            return Err(format!(
                "--list-remove '{fifo}': wanted is another FIFO than --list-add's"
            ));
        }
        Ok(Some(List {
            kind,
            file,
            add,
            remove,
        }))
    }

    fn finish(mut self) -> Result<Command, Wrong> {
        self.end_of_flags()?;
        if self.listen.is_empty() {
            self.add_port(Protocol::Udp, DEFAULT_PORT);
            self.add_port(Protocol::Tcp, DEFAULT_PORT);
        }
        self.expect_company()?;
        let times = self.times()?;
        let list = self.take_list()?;
        self.cluster.check()?;
        self.multicast.check()?;
        let stats_path = self.stats_path.take();
        let stats_path = stats_path.unwrap_or_else(|| "/stats".into());
        if self.health {
            return Ok(Command::Health(self.health_target()?));
        }
        Ok(match self.check {
            true => Command::Check(self.into_options(times, list, stats_path)),
            false => Command::Serve(self.into_options(times, list, stats_path)),
        })
    }

    /// Some flags mean nothing without others.
    fn expect_company(&self) -> Result<(), Wrong> {
        let is_unix = |listen: &Listen| matches!(listen.address, Address::Unix(_));
        if self.proxy_protocol && self.proxies.is_empty() && !self.listen.iter().any(is_unix) {
            return Err("--proxy-protocol: wanted is a --proxy or a -p unix:/PATH too".into());
        }
        if self.pin_threads && self.threads() == 1 {
            return Err("--pin-threads requires -j/--threads with 2 or more".into());
        }
        match (&self.state, self.state_interval) {
            (None, Some(seconds)) => Err(format!(
                "--state-interval '{seconds}': wanted is a --state with it"
            )),
            _ => Ok(()),
        }
    }

    fn threads(&self) -> usize {
        self.threads.or(self.udp_threads).unwrap_or(1)
    }

    /// The interval and the peer timeout, which go together.
    fn times(&self) -> Result<[u32; 2], Wrong> {
        let interval = self.interval.unwrap_or(DEFAULT_INTERVAL);
        // The longest interval handed out, and time for the announce to arrive.
        let least_timeout = (interval + interval.div_ceil(2)).max(2);
        let peer_timeout = self.peer_timeout.unwrap_or(least_timeout);
        match peer_timeout < least_timeout {
            true => Err(format!(
                "--peer-timeout '{peer_timeout}': wanted is {least_timeout} or more, 1.5 times the \
                 --interval of {interval}"
            )),
            false => Ok([interval, peer_timeout]),
        }
    }

    fn into_options(self, times: [u32; 2], list: Option<List>, stats_path: String) -> Options {
        let [interval, peer_timeout] = times;
        let threads = self.threads();
        Options {
            config: self.config,
            list,
            listen: self.listen,
            user_given: self.user.is_some(),
            user: self.user.unwrap_or_else(|| User::Name("nobody".into())),
            root: self.root,
            redirect: self.redirect,
            full_scrapes: self.full_scrapes,
            admins: self.admins,
            public_stats: self.public_stats,
            stats_path,
            interval,
            peer_timeout,
            numwant_max: self.numwant_max.unwrap_or(200),
            decoys: self.decoys,
            max_peers: self.max_peers.unwrap_or(100_000_000),
            max_torrents: self.max_torrents.unwrap_or(20_000_000),
            max_connections: self.max_connections.unwrap_or(65_536),
            threads,
            pin_threads: self.pin_threads,
            state_interval: self.state_interval.unwrap_or(600),
            state: self.state,
            load_dump: self.load_dump,
            cluster: self.cluster,
            multicast: self.multicast,
            proxies: self.proxies,
            proxy_protocol: self.proxy_protocol,
            verbosity: self.verbosity,
            syslog: self.syslog || self.daemon,
            daemon: self.daemon,
            pidfile: self.pidfile,
            log_completed: self.log_completed,
        }
    }
}

fn parse_file(flag: &Flag, value: &OsStr) -> Result<PathBuf, Wrong> {
    match value.is_empty() || value.as_bytes().ends_with(b"/") {
        true => Err(flag.wrong(value, "a file")),
        false => Ok(value.into()),
    }
}

fn parse_user(flag: &Flag, value: &OsStr) -> Result<User, Wrong> {
    let wrong = || {
        flag.wrong(
            value,
            "a user's name, or UID:GID in numbers, other than root",
        )
    };
    let id = |text| digits(text).and_then(|n| u32::try_from(n).ok());
    let ids = value.to_str().and_then(|text| text.split_once(':'));
    let user = match ids.map(|(uid, gid)| (id(uid), id(gid))) {
        Some((Some(uid), Some(gid))) if uid > 0 && gid > 0 => User::Ids { uid, gid },
        Some(_) => return Err(wrong()),
        None if value.is_empty() || value == "root" => return Err(wrong()),
        None => User::Name(value.to_owned()),
    };
    Ok(user)
}

/// What comes before the path of a Unix socket.
const UNIX: &[u8] = b"unix:";

/// The length of a socket's path is limited, on Linux to 107 bytes. It is absolute because the working
/// directory changes before the file is removed.
fn parse_socket_path(flag: &Flag, value: &OsStr) -> Result<PathBuf, Wrong> {
    let path = value.as_bytes().strip_prefix(UNIX).unwrap_or_default();
    let path = PathBuf::from(OsStr::from_bytes(path));
    if !path.is_absolute() {
        return Err(flag.wrong(value, "an absolute path after unix:"));
    }
    match std::os::unix::net::SocketAddr::from_pathname(&path) {
        Ok(_) => Ok(path),
        Err(_) => Err(flag.wrong(value, "a path of about a hundred bytes at most")),
    }
}

fn parse_target(flag: &Flag, value: &OsStr) -> Result<Target, Wrong> {
    if value.as_bytes().starts_with(UNIX) {
        return Ok(Target::Unix(parse_socket_path(flag, value)?));
    }
    let wanted = "HOST:PORT, [IPv6]:PORT or unix:/PATH";
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b':'),
    };
    let is_port = |port: &str| digits(port).is_some_and(|n| (1..=65535).contains(&n));
    match value.to_str().and_then(|text| text.rsplit_once(':')) {
        Some((host, port)) if is_host(host) && is_port(port) => {
            Ok(Target::Tcp(format!("{host}:{port}")))
        }
        _ => Err(flag.wrong(value, wanted)),
    }
}

/// Only what is safe in a header: a line break would let the URL write headers of its own.
fn parse_url(flag: &Flag, value: &OsStr) -> Result<String, Wrong> {
    let url = flag.text(value)?;
    let has_scheme = url.starts_with("http://") || url.starts_with("https://");
    match has_scheme && url.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(url.to_owned()),
        false => Err(flag.wrong(value, "a URL, http:// or https://, in printable ASCII")),
    }
}

fn parse_net(flag: &Flag, value: &OsStr) -> Result<Net, Wrong> {
    let wanted = "an address or a network, such as 192.0.2.1 or 2001:db8::/32";
    let net = value.to_str().and_then(Net::parse);
    net.ok_or_else(|| flag.wrong(value, wanted))
}

/// A path that is not taken for something else.
fn parse_stats_path(flag: &Flag, value: &OsStr) -> Result<String, Wrong> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    let taken = ["a", "sc", "/"];
    match value.to_str().and_then(|path| path.strip_prefix('/')) {
        Some(path)
            if !path.is_empty()
                && path.bytes().all(is_plain)
                && !taken.iter().any(|start| path.starts_with(start))
                && !["health", "metrics", "robots.txt"].contains(&path) =>
        {
            Ok(format!("/{path}"))
        }
        _ => Err(flag.wrong(
            value,
            "a path such as /stats, of letters, digits and -._~/, that is not another's: /a... are \
             announces, /sc... scrapes",
        )),
    }
}

fn parse_full_scrapes(flag: &Flag, value: &OsStr) -> Result<FullScrapes, Wrong> {
    let found = FullScrapes::ALL.iter().find(|(_, name)| value == *name);
    let (who, _) = found.ok_or_else(|| flag.wrong(value, "off, admin, modest or open"))?;
    Ok(*who)
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text =
        String::from("usage: announced [flags]\n\nA BitTorrent tracker over UDP and HTTP.\n\n");
    for flag in FLAGS {
        let short = match flag.short {
            Some(short) => format!("-{short}, "),
            None => String::from("    "),
        };
        let long = format!("--{} {}", flag.long, flag.value);
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {short}{long:<26} {}", flag.help);
    }
    text.push_str("\nSee announced(8).\n");
    text
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let which = match self.kind {
            access::Kind::White => "only the torrents",
            access::Kind::Black => "all torrents but those",
        };
        writeln!(f, "track {which} in {}", self.file.to_string_lossy())?;
        if let Some(fifo) = &self.add {
            writeln!(f, "add to the list from FIFO {}", fifo.to_string_lossy())?;
        }
        if let Some(fifo) = &self.remove {
            writeln!(
                f,
                "remove from the list from FIFO {}",
                fifo.to_string_lossy()
            )?;
        }
        Ok(())
    }
}

/// What a server with these options would do, for people.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for path in &self.config {
            writeln!(f, "configured by {}", path.as_os_str().to_string_lossy())?;
        }
        self.fmt_place(f)?;
        self.fmt_site(f)?;
        self.fmt_answers(f)?;
        for net in &self.proxies {
            writeln!(f, "believe proxies from {net} about their clients")?;
        }
        if self.proxy_protocol {
            writeln!(f, "expect a PROXY header on connections from proxies")?;
        }
        self.fmt_state(f)?;
        write!(f, "{}", self.cluster)?;
        write!(f, "{}", self.multicast)?;
        self.fmt_log(f)
    }
}

impl Options {
    fn fmt_place(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for Listen { address, optional } in &self.listen {
            let unless = if *optional {
                ", if the host has IPv6"
            } else {
                ""
            };
            writeln!(f, "listen on {address}{unless}")?;
        }
        match &self.user {
            User::Name(name) => write!(f, "become user {}", name.to_string_lossy())?,
            User::Ids { uid, gid } => write!(f, "become user {uid} of group {gid}")?,
        }
        writeln!(f, ", if started as root")?;
        if let Some(root) = &self.root {
            let root = root.as_os_str().to_string_lossy();
            writeln!(f, "chroot to {root} if started as root, else work in it")?;
        }
        Ok(())
    }

    fn fmt_site(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(url) = &self.redirect {
            writeln!(f, "redirect / to {url}")?;
        }
        write!(f, "show statistics at {} to the loopback", self.stats_path)?;
        for net in &self.admins {
            write!(f, ", {net}")?;
        }
        if self.public_stats {
            f.write_str(", and to all what names no torrent and no peer")?;
        }
        writeln!(f)
    }

    fn fmt_answers(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(list) = &self.list {
            write!(f, "{list}")?;
        }
        writeln!(f, "full scrapes {}", self.full_scrapes)?;
        writeln!(
            f,
            "ask clients to announce every {} seconds, forget peers after {}",
            self.interval, self.peer_timeout
        )?;
        writeln!(f, "send at most {} peers in a reply", self.numwant_max)?;
        writeln!(f, "mix in decoys, {} % of a swarm's peers", self.decoys)?;
        writeln!(
            f,
            "store at most {} peers in {} torrents, keep at most {} connections",
            self.max_peers, self.max_torrents, self.max_connections
        )?;
        match self.threads {
            1 => Ok(()),
            threads => {
                let how = if self.pin_threads {
                    ", each on a core"
                } else {
                    ""
                };
                writeln!(f, "serve with {threads} threads{how}")
            }
        }
    }

    fn fmt_log(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let place = if self.syslog {
            "syslog"
        } else {
            "standard error"
        };
        let detail = match self.verbosity {
            0 => "errors and notices",
            1 => "errors, notices and counts",
            _ => "all there is",
        };
        writeln!(f, "log {detail} to {place}")?;
        if self.log_completed {
            writeln!(f, "log completed downloads with the peers' addresses")?;
        }
        if self.daemon {
            writeln!(f, "go into the background once ready")?;
        }
        if let Some(path) = &self.pidfile {
            let path = path.as_os_str().to_string_lossy();
            writeln!(f, "keep the process id in {path}")?;
        }
        Ok(())
    }

    fn fmt_state(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(state) = &self.state {
            let state = state.as_os_str().to_string_lossy();
            write!(f, "keep all that is known in {state}, saved ")?;
            match self.state_interval {
                0 => writeln!(f, "at the end"),
                seconds => writeln!(f, "every {seconds} seconds and at the end"),
            }?;
        }
        if let Some(dump) = &self.load_dump {
            let dump = dump.as_os_str().to_string_lossy();
            writeln!(f, "load downloaded counts from opentracker's {dump}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parsed(line: &str) -> Result<Command, Wrong> {
        parse(line.split_whitespace().map(OsString::from))
    }

    pub(super) fn options(line: &str) -> Options {
        match parsed(line) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn listens(line: &str) -> Vec<String> {
        let all = options(line).listen;
        all.iter()
            .map(|l| format!("{}{}", l.address, if l.optional { "?" } else { "" }))
            .collect()
    }

    #[test]
    fn without_flags_all_has_its_default() {
        assert_eq!(
            listens(""),
            [
                "udp 0.0.0.0:6969",
                "udp [::]:6969?",
                "tcp 0.0.0.0:6969",
                "tcp [::]:6969?"
            ]
        );
        let options = options("");
        assert_eq!(options.user, User::Name("nobody".into()));
        assert_eq!((options.interval, options.peer_timeout), (1800, 2700));
        assert_eq!((options.numwant_max, options.decoys), (200, 0));
    }

    #[test]
    fn ports_take_the_address_before_them() {
        assert_eq!(listens("-p 80"), ["tcp 0.0.0.0:80", "tcp [::]:80?"]);
        assert_eq!(
            listens("-i 192.0.2.1 -p 80 -P 81 -i 2001:db8::1 -P 82 -P83"),
            [
                "tcp 192.0.2.1:80",
                "udp 192.0.2.1:81",
                "udp [2001:db8::1]:82",
                "udp [2001:db8::1]:83"
            ]
        );
        assert_eq!(
            listens("-i 192.0.2.1"),
            ["udp 192.0.2.1:6969", "tcp 192.0.2.1:6969"]
        );
        assert_eq!(
            listens("--address=:: --udp-port=7"),
            ["udp 0.0.0.0:7", "udp [::]:7"]
        );
        assert_eq!(listens("-i 0.0.0.0 -P 7"), ["udp 0.0.0.0:7"]);
    }

    #[test]
    fn the_rest_is_read_as_given() {
        let options = options(
            "-u www -d /var/empty -r http://x.example/ --interval 900 --peer-timeout 1350 \
             -A 10.0.0.0/8 --admin ::7 --public-stats --stats-path /s/x \
             --numwant-max 50 --max-peers 10 --max-torrents 5 --max-connections 7 -vv",
        );
        assert_eq!(options.user, User::Name("www".into()));
        assert!(options.user_given);
        assert_eq!(options.root, Some("/var/empty".into()));
        assert_eq!(options.redirect.as_deref(), Some("http://x.example/"));
        let admins: Vec<String> = options.admins.iter().map(Net::to_string).collect();
        assert_eq!(admins, ["10.0.0.0/8", "::7/128"]);
        assert!(options.public_stats);
        assert_eq!(options.stats_path, "/s/x");
        assert_eq!((options.interval, options.peer_timeout), (900, 1350));
        assert_eq!((options.numwant_max, options.max_peers), (50, 10));
        assert_eq!((options.max_torrents, options.max_connections), (5, 7));
        assert_eq!(options.verbosity, 2);
    }

    #[test]
    fn unix_sockets_have_absolute_paths() {
        assert_eq!(
            listens("-p unix:/run/a.sock -i ::1 -p 80 -punix:/run/b"),
            ["unix /run/a.sock", "tcp [::1]:80", "unix /run/b"]
        );
        let long = format!("unix:/{}", "x".repeat(200));
        for (path, wanted) in [
            ("unix:", "an absolute path after unix:"),
            ("unix:run/a.sock", "an absolute path after unix:"),
            (long.as_str(), "a path of about a hundred bytes at most"),
        ] {
            let message = format!("-p/--tcp-port '{path}': wanted is {wanted}");
            assert_eq!(parsed(&format!("-p {path}")), Err(message));
        }
        let alone = parsed("-i 192.0.2.1 -p unix:/run/a.sock");
        assert!(alone.is_err(), "an address without a port");
    }

    #[test]
    fn proxies_are_networks_and_may_overlap() {
        let options = options("--proxy 10.0.0.0/8 --proxy 10.1.2.3 --proxy ::1 --proxy-protocol");
        let shown: Vec<String> = options.proxies.iter().map(Net::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "10.1.2.3/32", "::1/128"]);
        assert!(options.proxy_protocol);
        let told = options.to_string();
        assert!(told.contains("believe proxies from 10.1.2.3/32 about their clients\n"));
        assert!(told.contains("\nexpect a PROXY header on connections from proxies\n"));
        for bad in ["x", "10.0.0.0/33", "10.0.0.1:80", "[::1]"] {
            let message = format!(
                "--proxy '{bad}': wanted is an address or a network, such as 192.0.2.1 or 2001:db8::/32"
            );
            assert_eq!(parsed(&format!("--proxy {bad}")), Err(message));
        }
        let message = "--proxy-protocol: wanted is a --proxy or a -p unix:/PATH too";
        assert_eq!(parsed("--proxy-protocol"), Err(message.into()));
        assert!(parsed("--proxy-protocol -p unix:/run/a.sock").is_ok());
    }

    #[test]
    fn a_timeout_follows_the_interval_unless_given() {
        assert_eq!(options("--interval 3600").peer_timeout, 5400);
        assert_eq!(options("--interval 1").peer_timeout, 2);
        assert_eq!(options("--interval 3 --peer-timeout 5").peer_timeout, 5);
    }

    #[test]
    fn statistics_have_a_path_of_their_own() {
        for good in ["/stats", "/s", "/S.x-1_~", "/stats/now", "/metrics2"] {
            assert_eq!(options(&format!("--stats-path {good}")).stats_path, good);
        }
        for bad in [
            "stats",
            "/",
            "//x",
            "/announce",
            "/a",
            "/scrape",
            "/sc",
            "/s?x",
            "/s%61",
            "/é",
            "/metrics",
            "/health",
            "/robots.txt",
        ] {
            let wrong = parsed(&format!("--stats-path {bad}")).expect_err(bad);
            assert!(wrong.starts_with(&format!("--stats-path '{bad}': wanted is a path")));
        }
    }

    #[test]
    fn users_are_names_or_numbers_but_not_root() {
        assert_eq!(options("-u 33:44").user, User::Ids { uid: 33, gid: 44 });
        for bad in [
            "0:0",
            "33:0",
            "0:33",
            "root",
            "33:",
            "a:b",
            "1:2:3",
            "99999999999:1",
        ] {
            let wrong = parsed(&format!("-u {bad}")).expect_err(bad);
            assert!(
                wrong.starts_with(&format!("-u/--user '{bad}': wanted is")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_first_of_help_version_and_error_wins() {
        assert_eq!(parsed("-h --bad"), Ok(Command::Help));
        assert_eq!(parsed("--version"), Ok(Command::Version));
        assert!(parsed("--bad -h").is_err());
        assert!(matches!(parsed("-n -p 80"), Ok(Command::Check(_))));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_wanted() {
        let expected = [
            (
                "-p x",
                "-p/--tcp-port 'x': wanted is a number from 0 to 65535, or unix:/PATH",
            ),
            (
                "-p 65536",
                "-p/--tcp-port '65536': wanted is a number from 0 to 65535, or unix:/PATH",
            ),
            (
                "-P +1",
                "-P/--udp-port '+1': wanted is a number from 0 to 65535",
            ),
            (
                "-P -1",
                "-P/--udp-port '-1': wanted is a number from 0 to 65535",
            ),
            ("-p", "-p/--tcp-port wants a value: PORT"),
            (
                "-i 1.2.3",
                "-i/--address '1.2.3': wanted is an IPv4 or IPv6 address, such as 192.0.2.1 or ::",
            ),
            (
                "-i 192.0.2.1 -i 192.0.2.2",
                "-i/--address '192.0.2.1': wanted is a -p or -P after it",
            ),
            (
                "-p 80 -i 192.0.2.1",
                "-i/--address '192.0.2.1': wanted is a -p or -P after it",
            ),
            (
                "--interval 0",
                "--interval '0': wanted is a number from 1 to 86400",
            ),
            (
                "--interval 10 --peer-timeout 14",
                "--peer-timeout '14': wanted is 15 or more, 1.5 times the --interval of 10",
            ),
            (
                "-w a -b b",
                "-b/--blacklist 'b': wanted is this or -w/--whitelist, not both",
            ),
            (
                "--list-remove f",
                "--list-remove 'f': wanted is a -w/--whitelist or -b/--blacklist too",
            ),
            (
                "-b a --list-add f --list-remove f",
                "--list-remove 'f': wanted is another FIFO than --list-add's",
            ),
            (
                "--numwant-max 201",
                "--numwant-max '201': wanted is a number from 1 to 200",
            ),
            (
                "--decoys 101",
                "--decoys '101': wanted is a number from 0 to 100",
            ),
            (
                "--full-scrape on",
                "--full-scrape 'on': wanted is off, admin, modest or open",
            ),
            (
                "-r http://a\u{7f}b",
                "-r/--redirect 'http://a\u{7f}b': wanted is a URL, http:// or https://, in printable \
                 ASCII",
            ),
            (
                "--state-interval 5",
                "--state-interval '5': wanted is a --state with it",
            ),
            (
                "--state a --state-interval x",
                "--state-interval 'x': wanted is a number from 0 to 604800",
            ),
            ("--state=", "--state '': wanted is a file"),
            ("-l /tmp/", "-l/--load-dump '/tmp/': wanted is a file"),
            (
                "-r a",
                "-r/--redirect 'a': wanted is a URL, http:// or https://, in printable ASCII",
            ),
            (
                "-A 10.0.0.0/33",
                "-A/--admin '10.0.0.0/33': wanted is an address or a network, such as 192.0.2.1 or \
                 2001:db8::/32",
            ),
            (
                "--cluster-listen 6970",
                "--cluster-listen '6970': wanted is an address and a port, such as 192.0.2.1:6970 or \
                 [2001:db8::1]:6970",
            ),
            (
                "--cluster-listen 192.0.2.1:1 --cluster-listen 192.0.2.2:1",
                "--cluster-listen '192.0.2.2:1': wanted is one address of IPv4 and one of IPv6 at most",
            ),
            (
                "--cluster-listen 192.0.2.1:1",
                "--cluster-listen '192.0.2.1:1': wanted is a --cluster-key too",
            ),
            (
                "--cluster-key k --cluster-peer b.example:1",
                "--cluster-peer 'b.example:1': wanted is a --cluster-listen too",
            ),
            (
                "--cluster-key k",
                "--cluster-key 'k': wanted is a --cluster-listen too",
            ),
            (
                "--cluster-peer b.example",
                "--cluster-peer 'b.example': wanted is a name or an address and a port, such as \
                 b.example:6970 or [2001:db8::1]:6970",
            ),
            (
                "--cluster-key k --cluster-listen 192.0.2.1:1 --cluster-peer [::1]:1",
                "--cluster-peer '[::1]:1': wanted is a --cluster-listen of its family too",
            ),
            ("--make-key /tmp/", "--make-key '/tmp/': wanted is a file"),
            ("--check=yes -n", "--check 'yes': wanted is no value"),
            (
                "--cluster-status 192.0.2.1:1",
                "there is no flag --cluster-status; -h lists them all",
            ),
            ("--bad", "there is no flag --bad; -h lists them all"),
            ("-x", "there is no flag -x; -h lists them all"),
            ("now", "'now' is not a flag, and nothing else is wanted"),
        ];
        for (line, message) in expected {
            assert_eq!(parsed(line), Err(message.to_string()), "{line}");
        }
    }

    #[test]
    fn flags_are_told_apart() {
        for (i, flag) in FLAGS.iter().enumerate() {
            for other in &FLAGS[i + 1..] {
                assert!(flag.long != other.long && flag.id != other.id);
                assert!(flag.short.is_none() || flag.short != other.short);
            }
            assert!(help().contains(&format!("--{}", flag.long)));
        }
        assert!(help().lines().all(|line| line.len() <= 100));
    }

    /// The address that `--health` asks.
    fn health(line: &str) -> Result<String, Wrong> {
        match parsed(line)? {
            Command::Health(target) => Ok(target.to_string()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn health_takes_an_address_or_the_first_tcp_listener() {
        for (line, target) in [
            ("--health b.example:80", "'b.example:80'"),
            ("--health=[::1]:80 -p 81", "'[::1]:80'"),
            ("-p 81 --health unix:/run/a", "'unix:/run/a'"),
            ("--health", "'127.0.0.1:6969'"),
            ("--health -p 80", "'127.0.0.1:80'"),
            (
                "-P 80 -i 192.0.2.1 -p 81 -p 82 --health -v",
                "'192.0.2.1:81'",
            ),
            ("-i ::1 -p unix:/run/a -p 80 --health", "'[::1]:80'"),
            ("-i :: --health", "'127.0.0.1:6969'"),
        ] {
            assert_eq!(health(line).as_deref(), Ok(target), "{line}");
        }
        let wanted = "HOST:PORT, [IPv6]:PORT or unix:/PATH";
        for bad in [
            "80",
            "127.0.0.1",
            "127.0.0.1:0",
            "::1:80",
            "[x]:80",
            "a:65536",
            ":80",
        ] {
            let message = format!("--health '{bad}': wanted is {wanted}");
            assert_eq!(health(&format!("--health {bad}")), Err(message));
        }
        for (line, why) in [
            ("--health -P 80", "no -p/--tcp-port has a number"),
            ("--health -p unix:/run/a", "no -p/--tcp-port has a number"),
            ("--health -p 0", "the system chooses port 0 at each start"),
        ] {
            let message = format!("--health requires an address: {why}");
            assert_eq!(health(line), Err(message), "{line}");
        }
        assert!(health("--health=").is_err(), "an empty address");
    }

    #[test]
    fn threads_go_together_with_a_cluster_and_with_multicast() {
        let line = "-j 2 --cluster-listen 192.0.2.1:1 --cluster-key k -s 9696";
        assert_eq!(options(line).threads, 2);
    }

    #[test]
    fn pinned_threads_are_refused_where_the_system_has_none() {
        match (parsed("-j 2 --pin-threads"), cores::IS_SUPPORTED) {
            (Ok(Command::Serve(options)), true) => assert!(options.pin_threads),
            (Err(wrong), false) => {
                assert_eq!(wrong, "--pin-threads: not supported on this system");
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}
