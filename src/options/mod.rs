//! The command line and the configuration files.
//!
//! A flag is one row of [`FLAGS`], from which the parser, files, `--help` and `-n` follow. Letters mean what they mean
//! in opentracker, except `-v`. Values are written into [`Options`] as they are read, files first, so that the command
//! line has the last word. At the end [`Options::check`] judges once how they go together.

mod bounds;
pub mod file;
mod flags;
mod origins;
mod similar;
mod values;

pub use bounds::{Bounds, ReceiveBuffer, connection_buffers};
pub use flags::{DEFAULT_USER, FLAGS, Flag};
pub use values::{Address, EMPTY, FullScrapes, Listen, PeerName, Protocol, Target};

use crate::base::addresses::Addresses;
use crate::base::log;
use crate::base::nets::Net;
use crate::helper::config;
use crate::sys::{self, sandbox};
use flags::{Action, Field, parse_file};
use origins::Origins;
use similar::similar;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use values::{Endpoint, invalid};

const DEFAULT_PORT: u16 = 6969;

/// The fields have the names of the flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Each `-i`, and whether it is the address of a port. The last one is that of the ports that follow.
    addresses: Vec<(IpAddr, bool)>,
    tcp: Vec<Endpoint>,
    udp: Vec<Endpoint>,
    origins: Origins,
    /// Of the last value that was set, for the admin.
    warning: Option<String>,
    /// A name, or `UID:GID`.
    pub user: String,
    pub root: Option<PathBuf>,
    /// Empty for none.
    pub redirect: String,
    pub admins: Vec<Net>,
    admin_listen: Vec<Endpoint>,
    pub public_stats: bool,
    /// With its slash.
    pub stats_path: String,
    pub whitelist: Option<PathBuf>,
    pub blacklist: Option<PathBuf>,
    pub list_add: Option<PathBuf>,
    pub list_remove: Option<PathBuf>,
    /// 0 for the list's own.
    refusal_interval: u32,
    /// `error`, or [`EMPTY`].
    pub refuse_udp: String,
    pub full_scrapes: FullScrapes,
    pub interval: u32,
    /// 0 if not given.
    interval_max: u32,
    /// 0 for none.
    pub target_rate: u32,
    /// 0 for the least that the interval allows.
    peer_timeout: u32,
    pub numwant_max: u32,
    pub decoys: u32,
    /// In bytes, for the table; 0 for half of what the process may have.
    memory: u64,
    /// 0 for those that follow from memory.
    max_peers: u32,
    max_torrents: u32,
    pub max_per_host: u32,
    max_connections: u32,
    /// In bytes, of each UDP socket; 0 for the size that follows from memory.
    receive_buffer: u64,
    /// 0 if not given.
    threads: u32,
    /// opentracker's threads for a UDP socket, in effect if `threads` is not given.
    udp_workers: u32,
    pub pin_threads: bool,
    pub state: Option<PathBuf>,
    pub state_interval: u32,
    pub load_dump: Option<PathBuf>,
    pub cluster_listen: Vec<SocketAddr>,
    pub cluster_peers: Vec<PeerName>,
    pub cluster_key: Option<PathBuf>,
    /// An interface by its address, 0.0.0.0 for the system's choice, and the port of the group.
    pub sync_multicast: Option<SocketAddrV4>,
    pub sync_nodes: Vec<Net>,
    pub sync_mapped: bool,
    pub maps: Vec<(Net, IpAddr)>,
    pub trust_ip: Vec<Net>,
    pub proxies: Vec<Net>,
    /// Empty for the two that are standard.
    pub proxy_header: String,
    pub proxy_protocol: bool,
    pub verbosity: u32,
    pub syslog: bool,
    pub daemon: bool,
    pub no_sandbox: bool,
    pub pidfile: Option<PathBuf>,
    pub log_completed: bool,
}

/// The action that the command line requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Options),
    /// The options, and whether to print all of them.
    Check(Options, bool),
    /// Writes a key to this file.
    MakeKey(PathBuf),
    Health(Target),
    Version,
    Help,
}

/// Reads the arguments that follow the program's name, and the files that they name. An error names the flag.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    Source::new(arguments).parse()
}

/// The arguments of the start, kept to read the files that they name again.
pub struct Source {
    arguments: Vec<OsString>,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
}

impl Source {
    pub fn new(arguments: impl IntoIterator<Item = OsString>) -> Source {
        Source {
            arguments: arguments.into_iter().collect(),
            files: Vec::new(),
        }
    }

    pub fn parse(&mut self) -> Result<Command, String> {
        let files = &mut self.files;
        parse_with(&self.arguments, &mut |path| {
            files.push(path.into());
            config::read(path.as_ref())
        })
    }

    /// The options that the same arguments give with these texts of the files.
    pub fn parse_again(&self, texts: Vec<Vec<u8>>) -> Result<Options, String> {
        let mut texts = texts.into_iter();
        let mut next = |_: &OsStr| Ok(texts.next().unwrap_or_default());
        match parse_with(&self.arguments, &mut next)? {
            Command::Serve(options) => Ok(options),
            _ => Err("the command line does not start a server".into()),
        }
    }
}

/// Reads a file, or returns the reason why it cannot be read.
type Read<'a> = &'a mut dyn FnMut(&OsStr) -> Result<Vec<u8>, String>;

fn parse_with(arguments: &[OsString], read: Read) -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::new();
    let mut given = Vec::new();
    let mut health = None;
    let mut is_check = false;
    loop {
        expect_two_dashes(&mut parser)?;
        let Some(argument) = parser.next().map_err(explain)? else {
            break;
        };
        let flag = find(&argument)?;
        if let Field::CommandLine(Action::Health) = flag.field {
            health = Some(optional_value(&mut parser));
            continue;
        }
        let value = match flag.value() {
            "" => OsString::new(),
            name => parser
                .value()
                .map_err(|_| format!("{} requires a value: {name}", flag.names()))?,
        };
        match flag.field {
            Field::CommandLine(Action::Help) => return Ok(Command::Help),
            Field::CommandLine(Action::Version) => return Ok(Command::Version),
            Field::CommandLine(Action::MakeKey) => {
                return named(flag, parse_file(&value)).map(Command::MakeKey);
            }
            Field::CommandLine(Action::Config) => {
                let text = read(&value);
                file::apply(&value, text, &mut options)?;
            }
            Field::CommandLine(Action::Check) => is_check = true,
            _ => given.push((flag, value)),
        }
    }
    let mut is_verbose = false;
    for (flag, value) in given {
        match flag.field {
            // It is about the check, not about the server.
            Field::Count(_) if is_check => is_verbose = true,
            _ => {
                options.origins.remove(flag);
                named(flag, flag.field.set(&mut options, &value))?;
                options.warn(&flag.names());
            }
        }
    }
    options.end()?;
    options.check()?;
    Ok(match (health, is_check) {
        (Some(Some(value)), _) => {
            let target = Target::parse(&value).map_err(|why| format!("--health: {why}"));
            Command::Health(target?)
        }
        (Some(None), _) => Command::Health(options.health_target()?),
        (None, true) => Command::Check(options, is_verbose),
        (None, false) => Command::Serve(options),
    })
}

fn find(argument: &lexopt::Arg) -> Result<&'static Flag, String> {
    let (flag, name) = match argument {
        lexopt::Arg::Short(short) => {
            let flag = FLAGS.iter().find(|flag| flag.short() == Some(*short));
            (flag, format!("-{short}"))
        }
        lexopt::Arg::Long(long) => (flags::find(long), format!("--{long}")),
        lexopt::Arg::Value(value) => {
            let value = value.to_string_lossy();
            return Err(format!("unexpected argument '{value}'"));
        }
    };
    flag.ok_or_else(|| unknown(&name))
}

fn unknown(name: &str) -> String {
    let names = FLAGS.iter().filter(|flag| flag.is_available());
    match similar(name.trim_start_matches('-'), names.map(Flag::long)) {
        Some(meant) => format!("unknown option {name}; did you mean --{meant}?"),
        None => format!("unknown option {name}; -h lists all options"),
    }
}

/// A long name, or a word of one, behind a single dash would be read as a letter and its value: `-port` as `-p ort`.
fn expect_two_dashes(parser: &mut lexopt::Parser) -> Result<(), String> {
    let rest = parser.try_raw_args();
    let next = rest.and_then(|rest| rest.peek()?.to_str().map(str::to_owned));
    let next = next.unwrap_or_default();
    let word = next.strip_prefix('-').unwrap_or_default();
    let word = word.split('=').next().unwrap_or_default();
    let has_word = |flag: &Flag| {
        let long = flag.long();
        long == word || long.split('-').any(|part| part == word)
    };
    match FLAGS.iter().any(has_word) {
        true => Err(unknown(&format!("-{word}"))),
        false => Ok(()),
    }
}

fn named<T>(flag: &Flag, result: Result<T, String>) -> Result<T, String> {
    result.map_err(|why| format!("{}: {why}", flag.names()))
}

/// The value of a flag that may have none: behind `=`, or the next argument if that does not begin with `-`.
fn optional_value(parser: &mut lexopt::Parser) -> Option<OsString> {
    if let Some(value) = parser.optional_value() {
        return Some(value);
    }
    let is_value = |argument: &OsStr| !argument.as_encoded_bytes().starts_with(b"-");
    parser.try_raw_args()?.next_if(is_value)
}

/// The only error that splitting the command line itself can have: `--check=yes`.
fn explain(error: lexopt::Error) -> String {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            let value = value.to_string_lossy();
            format!("{option}: unexpected value '{value}'")
        }
        // Formatting lexopt's own errors would bring in tables of Unicode for their quoting.
        _ => String::from("invalid command line"),
    }
}

impl Options {
    /// The defaults.
    fn new() -> Options {
        let mut options = Options::default();
        for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
            // A test holds defaults to be valid.
            let _ = flag.field.set(&mut options, OsStr::new(flag.default));
        }
        options
    }

    /// Logs the warning of the value that was set last.
    fn warn(&mut self, name: &str) {
        if let Some(warning) = self.warning.take() {
            log::line(format_args!("{name}: {warning}"));
        }
    }

    /// Gives a port the address of the last `-i`.
    fn at_address(&mut self, endpoint: Endpoint) -> Endpoint {
        match (endpoint, self.addresses.last_mut()) {
            (Endpoint::Port(port), Some((ip, is_used))) => {
                *is_used = true;
                Endpoint::Socket(SocketAddr::new(*ip, port))
            }
            (endpoint, _) => endpoint,
        }
    }

    /// The command line or a file ends. An address without any port stands for both protocols on the default port.
    fn end(&mut self) -> Result<(), String> {
        if self.tcp.is_empty() && self.udp.is_empty() && !self.addresses.is_empty() {
            let endpoint = self.at_address(Endpoint::Port(DEFAULT_PORT));
            self.udp.push(endpoint.clone());
            self.tcp.push(endpoint);
        }
        match self.addresses.drain(..).find(|(_, is_used)| !is_used) {
            Some((ip, _)) => {
                let is_it = |value: &str| value.parse() == Ok(ip);
                let [tcp, udp] = match self.origins.has("address", is_it) {
                    true => ["tcp-port", "udp-port"],
                    false => ["-p", "-P"],
                };
                let why = format!(" '{ip}' requires a {tcp} or {udp} after it");
                Err(self.origins.error_of("address", is_it, &why))
            }
            None => Ok(()),
        }
    }

    /// Whether the options go together.
    fn check(&mut self) -> Result<(), String> {
        if self.threads == 0 {
            self.threads = self.udp_workers;
        }
        self.check_required()?;
        let origins = &self.origins;
        if self.whitelist.is_some() && self.blacklist.is_some() {
            let both = ["whitelist", "blacklist"];
            return Err(origins.error_of_two(both, " conflicts with ", ""));
        }
        if self.list_add.is_some() && self.list_add == self.list_remove {
            let both = ["list-add", "list-remove"];
            return Err(origins.error_of_two(both, " and ", " require different FIFOs"));
        }
        let has_proxies = !self.proxies.is_empty() || self.tcp.iter().any(Endpoint::is_unix);
        for (is_given, own) in [
            (self.proxy_protocol, "proxy-protocol"),
            (!self.proxy_header.is_empty(), "proxy-header"),
        ] {
            if is_given && !has_proxies {
                let [proxy, port] =
                    ["proxy", "tcp-port"].map(|flag| origins.name_beside(flag, own));
                let why = format!(" requires {proxy} or {port} unix:/PATH");
                return Err(origins.error(own, &why));
            }
        }
        if self.pin_threads && self.threads() == 1 {
            let threads = origins.name_beside("threads", "pin-threads");
            let why = format!(" requires {threads} with 2 or more");
            return Err(origins.error("pin-threads", &why));
        }
        let (interval, least) = (self.interval_max(), self.least_timeout());
        if interval < self.interval {
            let name = origins.name_beside("interval", "interval-max");
            let expected = format!("at least the {name} of {}", self.interval);
            return Err(self.wrong_number("interval-max", interval, &expected));
        }
        if self.peer_timeout == least {
            self.peer_timeout = 0;
        }
        if self.peer_timeout() < least {
            let name = self.origins.name_beside(self.longest(), "peer-timeout");
            let expected = format!("at least {least}, 1.5 times the {name} of {interval}");
            return Err(self.wrong_number("peer-timeout", self.peer_timeout, &expected));
        }
        let origins = &self.origins;
        let mut addresses = self.cluster_peers.iter().filter_map(PeerName::address);
        match addresses.find(|address| !self.listens_like(address)) {
            Some(address) => {
                let listen = origins.name_beside("cluster-listen", "cluster-peer");
                let why = format!(" '{address}' requires a {listen} of the same family");
                let is_it = |value: &str| value.parse() == Ok(address);
                Err(origins.error_of("cluster-peer", is_it, &why))
            }
            None => Ok(()),
        }
    }

    fn check_required(&mut self) -> Result<(), String> {
        let mut defaults = Options::new();
        let mut is_set = |flag: &Flag| flag.field.values(self) != flag.field.values(&mut defaults);
        for flag in FLAGS {
            let others = || flag.requires.iter().filter_map(|long| flags::find(long));
            if !flag.requires.is_empty() && is_set(flag) && !others().any(&mut is_set) {
                let origins = &self.origins;
                let others = others().map(|other| origins.name_beside(other.long(), flag.long()));
                let others: Vec<String> = others.collect();
                let why = format!(" requires {}", others.join(" or "));
                return Err(origins.error(flag.long(), &why));
            }
        }
        Ok(())
    }

    /// The longest interval that a client is sent, and time for its announce to arrive.
    fn least_timeout(&self) -> u32 {
        let interval = self.interval_max();
        (interval + interval.div_ceil(2)).max(2)
    }

    /// The interval that clients are sent at most, but for its spread, in seconds.
    pub fn interval_max(&self) -> u32 {
        match self.target_rate {
            0 => self.interval,
            _ => self.interval_max,
        }
    }

    /// The flag that sets it.
    fn longest(&self) -> &'static str {
        match self.target_rate {
            0 => "interval",
            _ => "interval-max",
        }
    }

    fn wrong_number(&self, flag: &str, value: u32, expected: &str) -> String {
        let wrong = invalid(OsStr::new(&value.to_string()), expected);
        self.origins.error(flag, &format!(": {wrong}"))
    }

    /// In seconds.
    pub fn peer_timeout(&self) -> u32 {
        match self.peer_timeout {
            0 => self.least_timeout(),
            seconds => seconds,
        }
    }

    /// In seconds; none for the list's own.
    pub fn refusal_interval(&self) -> Option<u32> {
        Some(self.refusal_interval).filter(|seconds| *seconds > 0)
    }

    /// The rules by which clients are stored under other addresses, if there are any.
    pub fn addresses(&self) -> Option<Addresses> {
        let addresses = Addresses {
            maps: self.maps.clone(),
            trusted: self.trust_ip.clone(),
        };
        (addresses != Addresses::default()).then_some(addresses)
    }

    pub fn threads(&self) -> usize {
        self.threads.max(1) as usize
    }

    /// Whether a port or a Unix socket for clients is given.
    pub fn has_ports(&self) -> bool {
        !self.tcp.is_empty() || !self.udp.is_empty()
    }

    /// The sockets of clients, then those of admins.
    pub fn sockets(&self) -> Vec<Listen> {
        let default = [Endpoint::Port(DEFAULT_PORT)];
        let (udp, tcp) = match self.has_ports() {
            false => (&default[..], &default[..]),
            true => (&self.udp[..], &self.tcp[..]),
        };
        let udp = udp.iter().map(|endpoint| endpoint.listens(Protocol::Udp));
        let tcp = tcp.iter().map(|endpoint| endpoint.listens(Protocol::Tcp));
        let admin = self.admin_listen.iter().flat_map(|endpoint| {
            let listens = endpoint.listens(Protocol::Tcp).into_iter();
            listens.map(|listen| Listen {
                is_admin: true,
                ..listen
            })
        });
        udp.chain(tcp).flatten().chain(admin).collect()
    }

    /// Whether statistics are served on sockets of their own.
    pub fn has_admin_sockets(&self) -> bool {
        !self.admin_listen.is_empty()
    }

    /// The protocol that no client is served with, since only ports of the other are given, and the flag for it.
    pub fn unserved(&self) -> Option<(&'static str, &'static str)> {
        match (self.tcp.is_empty(), self.udp.is_empty()) {
            (true, false) => Some(("http", "-p/--tcp-port")),
            (false, true) => Some(("udp", "-P/--udp-port")),
            _ => None,
        }
    }

    /// Whether this node listens for others at an address of this family.
    fn listens_like(&self, address: &SocketAddr) -> bool {
        let is_v6 = address.is_ipv6();
        let mut listens = self.cluster_listen.iter();
        listens.any(|listen| listen.is_ipv6() == is_v6)
    }

    /// The directories of Unix sockets, as seen from inside the root directory.
    pub fn unix_directories(&self) -> Vec<PathBuf> {
        let endpoints = self.tcp.iter().chain(&self.admin_listen);
        let parents = endpoints.filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => path.parent(),
            _ => None,
        });
        let within = |path: &Path| {
            let root = self.root.as_deref().unwrap_or(Path::new("/"));
            path.strip_prefix(root)
                .map_or(path.into(), |within| Path::new("/").join(within))
        };
        parents.map(within).collect()
    }

    /// The first TCP listener, or the loopback if that is a wildcard.
    fn health_target(&self) -> Result<Target, String> {
        let tcp = self
            .sockets()
            .into_iter()
            .find_map(|listen| match listen.address {
                Address::Ip(Protocol::Tcp, address) => Some(address),
                _ => None,
            });
        let why = match tcp {
            None => "no -p/--tcp-port is a TCP port",
            Some(address) if address.port() == 0 => "the system chooses port 0 at each start",
            Some(address) => {
                let host = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    ip => ip,
                };
                let (host, port) = (host.to_string(), address.port());
                return Ok(Target::Tcp(PeerName { host, port }));
            }
        };
        Err(format!("--health requires an address: {why}"))
    }

    /// These options, with those of `new` that may change while the tracker runs.
    pub fn reloaded(&self, new: &mut Options) -> Options {
        let mut options = self.clone();
        options.origins = new.origins.clone();
        for flag in FLAGS.iter().filter(|flag| flag.is_live) {
            flag.field.copy(new, &mut options);
        }
        options
    }

    /// The flags with other values than `new` has, by their names. `is_live`: of the flags that may
    /// change while the tracker runs, else of the others.
    pub fn changes(&mut self, new: &mut Options, is_live: bool) -> Vec<String> {
        let is_same_timeout = self.peer_timeout() == new.peer_timeout();
        let is_changed = |flag: &&Flag| {
            // The default follows the interval, and the timeout of the start stays.
            let is_default = flag.long() == "peer-timeout" && is_same_timeout;
            flag.is_live == is_live
                && !is_default
                && flag.field.values(self) != flag.field.values(new)
        };
        let changed = FLAGS.iter().filter(is_changed);
        let changed: Vec<&str> = changed.map(Flag::long).collect();
        let origins = [&new.origins, &self.origins];
        let name = |flag: &str| {
            let of = origins.iter().find(|origins| origins.has(flag, |_| true));
            of.map_or(flag.into(), |of| of.name(flag))
        };
        changed.into_iter().map(name).collect()
    }

    /// The error of an interval that the peer timeout of the start does not allow.
    pub fn check_interval(&self, peer_timeout: u32) -> Result<(), String> {
        if self.least_timeout() <= peer_timeout {
            return Ok(());
        }
        let expected = format!(
            "at most {}, two thirds of the peer timeout of {peer_timeout}, which changes only at a restart",
            2 * peer_timeout / 3
        );
        Err(self.wrong_number(self.longest(), self.interval_max(), &expected))
    }

    /// A configuration file with the options that differ from the defaults, or with all options.
    pub fn to_file(&mut self, is_full: bool) -> Vec<u8> {
        let mut defaults = Options::new();
        let mut text = Vec::new();
        for flag in FLAGS {
            let values = flag.field.values(self).0;
            let mut line = |mark: &str, value: &OsStr| {
                let line = [mark, flag.long(), " "].concat();
                let line = [line.as_bytes(), value.as_encoded_bytes()].concat();
                text.extend_from_slice(line.trim_ascii_end());
                text.push(b'\n');
            };
            if is_full || values != flag.field.values(&mut defaults).0 {
                values.iter().for_each(|value| line("", value));
            }
            let is_option = !matches!(flag.field, Field::CommandLine(_) | Field::Absent(_));
            if is_full && is_option && values.is_empty() {
                line("#", OsStr::new(flag.value()));
            }
        }
        text
    }
}

/// The text of `--version`: the release, and the system, optional parts and sandbox that it was built for.
pub fn version() -> String {
    let parts = [
        ("cluster", flags::CLUSTER),
        ("full-scrape", flags::FULL_SCRAPE),
    ];
    let is_there = |(name, absent): &(&'static str, Option<_>)| absent.is_none().then_some(*name);
    let parts: Vec<&str> = parts.iter().filter_map(is_there).collect();
    format!(
        "announced {}\ntarget: {}\nfeatures: {}\nsandbox: {}\n",
        env!("CARGO_PKG_VERSION"),
        sys::target(),
        if parts.is_empty() {
            "none".into()
        } else {
            parts.join(", ")
        },
        sandbox::NAME,
    )
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text =
        String::from("usage: announced [options]\n\nA BitTorrent tracker over UDP and HTTP.\n\n");
    for flag in FLAGS.iter().filter(|flag| flag.is_available()) {
        text.push_str(&flag.help_line());
        text.push('\n');
    }
    text.push_str("\nSee announced(8).\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cores;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match parsed(line) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The options of a line that differ from the defaults, as lines of a file.
    fn shown(line: &str) -> Vec<String> {
        let text = options(line).to_file(false);
        let text = String::from_utf8(text).expect("is UTF-8");
        text.lines().map(String::from).collect()
    }

    fn sockets(line: &str) -> Vec<String> {
        let all = options(line).sockets();
        let mark = |listen: &Listen| if listen.is_optional { "?" } else { "" };
        let shown = all.iter().map(|listen| format!("{listen}{}", mark(listen)));
        shown.collect()
    }

    #[test]
    fn without_flags_every_option_has_its_default() {
        assert_eq!(
            sockets(""),
            [
                "udp 0.0.0.0:6969",
                "udp [::]:6969?",
                "tcp 0.0.0.0:6969",
                "tcp [::]:6969?"
            ]
        );
        let options = options("");
        assert_eq!((&*options.user, &*options.stats_path), ("nobody", "/stats"));
        assert_eq!((options.interval, options.peer_timeout()), (1800, 2700));
        assert_eq!((options.numwant_max, options.decoys), (200, 0));
        assert_eq!((options.threads(), options.state_interval), (1, 600));
        assert_eq!(options.full_scrapes, FullScrapes::Modest);
        assert_eq!(shown(""), [""; 0]);
    }

    #[test]
    fn the_defaults_of_the_table_are_valid() {
        for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
            let set = flag
                .field
                .set(&mut Options::new(), OsStr::new(flag.default));
            assert_eq!(set, Ok(()), "{}", flag.long());
        }
    }

    #[test]
    fn ports_take_the_address_before_them() {
        assert_eq!(sockets("-p 80"), ["tcp 0.0.0.0:80", "tcp [::]:80?"]);
        assert_eq!(
            sockets("-i 192.0.2.1 -p 80 -P 81 -i 2001:db8::1 -P 82 -P83 -p 192.0.2.2:84"),
            [
                "udp 192.0.2.1:81",
                "udp [2001:db8::1]:82",
                "udp [2001:db8::1]:83",
                "tcp 192.0.2.1:80",
                "tcp 192.0.2.2:84",
            ]
        );
        assert_eq!(
            sockets("-i 192.0.2.1"),
            ["udp 192.0.2.1:6969", "tcp 192.0.2.1:6969"]
        );
        assert_eq!(
            sockets("--address=:: --udp-port=7"),
            ["udp 0.0.0.0:7", "udp [::]:7"]
        );
        assert_eq!(sockets("-i 0.0.0.0 -P 7"), ["udp 0.0.0.0:7"]);
        assert_eq!(
            sockets("-p unix:/run/a.sock -i ::1 -p 80 -punix:/run/b"),
            ["unix /run/a.sock", "tcp [::1]:80", "unix /run/b"]
        );
    }

    #[test]
    fn sockets_of_admins_come_after_those_of_clients_and_have_addresses_of_their_own() {
        let line = "-i 192.0.2.1 -p 80 --admin-listen 127.0.0.1:1 --admin-listen unix:/run/a --admin-listen [::]:2";
        assert_eq!(
            sockets(line),
            [
                "tcp 192.0.2.1:80",
                "admin 127.0.0.1:1",
                "admin unix /run/a",
                "admin 0.0.0.0:2",
                "admin [::]:2"
            ]
        );
        assert_eq!(
            sockets("--admin-listen [::1]:1").len(),
            5,
            "and the default"
        );
        assert!(parsed("--admin-listen unix:/run/a --proxy-protocol").is_err());
    }

    #[test]
    fn unix_sockets_have_absolute_paths_of_limited_length() {
        let long = format!("unix:/{}", "x".repeat(200));
        for path in ["unix:", "unix:run/a.sock", &long] {
            let error = parsed(&format!("-p {path}")).expect_err(path);
            let start = format!("-p/--tcp-port: invalid value '{path}': expected ");
            assert!(error.starts_with(&start), "{error}");
        }
        assert!(parsed("-P unix:/run/a.sock").is_err(), "UDP has none");
        let error = parsed("-i 192.0.2.1 -p unix:/run/a.sock");
        assert!(error.is_err(), "an address without a port");
    }

    #[test]
    fn a_timeout_follows_the_interval_unless_given() {
        assert_eq!(options("--interval 3600").peer_timeout(), 5400);
        assert_eq!(options("--interval 1").peer_timeout(), 2);
        assert_eq!(options("--interval 3 --peer-timeout 5").peer_timeout(), 5);
        let paced = |line| options(&["--target-rate 9 --interval-max 3600", line].concat());
        assert_eq!(paced("").peer_timeout(), 5400);
        assert_eq!(
            paced(" --interval 3600 --peer-timeout 9000").peer_timeout(),
            9000
        );
    }

    #[test]
    fn statistics_have_a_path_of_their_own() {
        for good in ["/stats", "/s", "/S.x-1_~", "/a", "/scores/now", "/metrics2"] {
            assert_eq!(options(&format!("--stats-path {good}")).stats_path, good);
        }
        for bad in [
            "/",
            "/announce",
            "//announce",
            "/scrape",
            "/s?x",
            "/s%61",
            "/é",
            "/metrics",
            "/health",
            "/robots.txt",
        ] {
            let error = parsed(&format!("--stats-path {bad}")).expect_err(bad);
            let start = format!("--stats-path: invalid value '{bad}': expected a path");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn users_are_names_or_numbers_but_not_root() {
        assert_eq!(options("-u 33:44").user, "33:44");
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
            let error = parsed(&format!("-u {bad}")).expect_err(bad);
            let start = format!("-u/--user: invalid value '{bad}': expected a user other than");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn the_interface_of_multicast_is_that_of_its_address_or_of_the_one_before() {
        for (line, interface) in [
            ("-s 9696", "0.0.0.0:9696"),
            ("-i 192.0.2.1 -s 9697", "192.0.2.1:9697"),
            ("-i 192.0.2.1 -P 1 -s 192.0.2.2:1", "192.0.2.2:1"),
            ("-i :: -s 9696", "0.0.0.0:9696"),
            ("--sync-multicast 192.0.2.2", "192.0.2.2:9696"),
            ("-s 1 -i 192.0.2.2 -s 2 -i 192.0.2.3 -p 1", "192.0.2.2:2"),
        ] {
            let expected = format!("sync-multicast {interface}");
            assert_eq!(shown(line).last(), Some(&expected), "{line}");
        }
        for bad in [
            "0",
            "65536",
            "+1",
            "x",
            "192.0.2.1:",
            "192.0.2.1:0",
            ":9696",
            "192.0.2:9696",
            "[::1]:9696",
            "::1",
            "224.0.23.5:9696",
            "tracker.example:9696",
            "unix:/run/a",
        ] {
            let error = parsed(&format!("-s {bad}")).expect_err(bad);
            let start = format!("-s/--sync-multicast: invalid value '{bad}': expected an IPv4");
            assert!(error.starts_with(&start), "{error}");
        }
        assert!(parsed("-i ::1 -s 9696").is_err());
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn nodes_have_addresses_that_mean_one_host() {
        let line =
            |peer| format!("--cluster-key k --cluster-listen 192.0.2.1:1 --cluster-peer {peer}");
        for good in ["b.example:6970", "localhost:1", "192.0.2.1:6970"] {
            assert!(parsed(&line(good)).is_ok(), "{good}");
        }
        for bad in [
            "[fe80::1]:6970",
            "[ff02::1]:6970",
            "[::]:6970",
            "[::ffff:192.0.2.1]:6970",
            "0.0.0.0:6970",
            "224.0.23.5:6970",
            "255.255.255.255:6970",
        ] {
            let error = parsed(&line(bad)).expect_err(bad);
            let start = format!("--cluster-peer: invalid value '{bad}': expected a name or");
            assert!(error.starts_with(&start), "{error}");
        }
        let many: String = (0..257)
            .map(|n| format!(" --cluster-peer n{n}:1"))
            .collect();
        assert!(parsed(&line(&format!("a:1{many}"))).is_err());
    }

    #[test]
    fn the_first_of_help_version_and_error_wins() {
        assert_eq!(parsed("-h --bad"), Ok(Command::Help));
        assert_eq!(parsed("--version"), Ok(Command::Version));
        assert!(parsed("--bad -h").is_err());
    }

    #[test]
    fn verbose_with_check_asks_for_all_options() {
        let check = |is_full| Ok(Command::Check(options("-p 80"), is_full));
        assert_eq!(parsed("-n -p 80"), check(false));
        assert_eq!(parsed("-vp 80 -n"), check(true));
    }

    #[test]
    fn errors_name_the_flag_the_value_and_the_expected_values() {
        let check = |line: &str, message| match parsed(line) {
            // The flag is of an optional part.
            Err(error) if error.contains(": this build has no ") => {}
            other => assert_eq!(other, Err(message), "{line}"),
        };
        let number = "a number from 0 to 65535, IP:PORT or [IPv6]:PORT, not link-local";
        let net = "an address or a network, such as 192.0.2.1 or 2001:db8::/32";
        let ip = "an IPv4 or IPv6 address without a port, such as 192.0.2.1 or ::, not link-local";
        let url = "a URL, http:// or https://, in printable ASCII";
        let listen = "an address and a port, such as 192.0.2.1:6970 or [2001:db8::1]:6970, at most one of each \
                      family";
        for (flag, names, value, expected) in [
            ("-P", "-P/--udp-port", "+1", number),
            ("-P", "-P/--udp-port", "-1", number),
            ("-P", "-P/--udp-port", "65536", number),
            ("-P", "-P/--udp-port", "unix:/run/a", number),
            ("-P", "-P/--udp-port", "[fe80::1]:80", number),
            ("-P", "-P/--udp-port", "224.0.0.1:80", number),
            ("-i", "-i/--address", "1.2.3", ip),
            ("-i", "-i/--address", "fe80::1", ip),
            ("-i", "-i/--address", "192.0.2.1:80", ip),
            ("-i", "-i/--address", "255.255.255.255", ip),
            ("--interval", "--interval", "0", "a number from 1 to 86400"),
            (
                "--numwant-max",
                "--numwant-max",
                "201",
                "a number from 1 to 200",
            ),
            ("--decoys", "--decoys", "101", "a number from 0 to 100"),
            (
                "--full-scrape",
                "--full-scrape",
                "on",
                "off, admin, modest or open",
            ),
            ("-r", "-r/--redirect", "http://a\u{7f}b", url),
            ("-r", "-r/--redirect", "a", url),
            ("-l", "-l/--load-dump", "/tmp/", "a file"),
            ("--make-key", "--make-key", "/tmp/", "a file"),
            ("-A", "-A/--admin", "10.0.0.0/33", net),
            ("--proxy", "--proxy", "10.0.0.1:80", net),
            ("--cluster-listen", "--cluster-listen", "6970", listen),
            (
                "--cluster-listen 192.0.2.1:1 --cluster-listen",
                "--cluster-listen",
                "192.0.2.2:1",
                listen,
            ),
        ] {
            let message = format!("{names}: invalid value '{value}': expected {expected}");
            check(&format!("{flag} {value}"), message);
        }
        for (line, message) in [
            ("--state=", "--state: invalid value '': expected a file"),
            ("-p", "-p/--tcp-port requires a value: [IP:]PORT"),
            ("--check=yes -n", "--check: unexpected value 'yes'"),
            ("--bad", "unknown option --bad; -h lists all options"),
            ("-x", "unknown option -x; -h lists all options"),
            (
                "--port 80",
                "unknown option --port; did you mean --tcp-port?",
            ),
            ("-port 80", "unknown option -port; did you mean --tcp-port?"),
            (
                "-p 80 -port=80",
                "unknown option -port; did you mean --tcp-port?",
            ),
            (
                "-whitelist f",
                "unknown option -whitelist; did you mean --whitelist?",
            ),
            (
                "-n -health",
                "unknown option -health; did you mean --health?",
            ),
            (
                "--intreval=8",
                "unknown option --intreval; did you mean --interval?",
            ),
            ("now", "unexpected argument 'now'"),
            (
                "-i 192.0.2.1 -i 192.0.2.2 -p 80",
                "-i/--address '192.0.2.1' requires a -p or -P after it",
            ),
            (
                "-p 80 -i 192.0.2.1",
                "-i/--address '192.0.2.1' requires a -p or -P after it",
            ),
            (
                "--interval 10 --peer-timeout 14",
                "--peer-timeout: invalid value '14': expected at least 15, 1.5 times the --interval of 10",
            ),
            (
                "--target-rate 9 --interval-max 3000 --peer-timeout 4499",
                "--peer-timeout: invalid value '4499': expected at least 4500, 1.5 times the --interval-max of 3000",
            ),
            (
                "--target-rate 9 --interval-max 1799",
                "--interval-max: invalid value '1799': expected at least the --interval of 1800",
            ),
            ("--target-rate 9", "--target-rate requires --interval-max"),
            (
                "--interval-max 3600",
                "--interval-max requires --target-rate",
            ),
            (
                "--interval-max 3600 --target-rate 0",
                "--interval-max requires --target-rate",
            ),
            ("-w a -b b", "-w/--whitelist conflicts with -b/--blacklist"),
            (
                "--list-remove f",
                "--list-remove requires -w/--whitelist or -b/--blacklist",
            ),
            (
                "-b a --list-add f --list-remove f",
                "--list-add and --list-remove require different FIFOs",
            ),
            ("--state-interval 5", "--state-interval requires --state"),
            (
                "--proxy-protocol",
                "--proxy-protocol requires --proxy or -p/--tcp-port unix:/PATH",
            ),
            (
                "--proxy-header X-Real-IP",
                "--proxy-header requires --proxy or -p/--tcp-port unix:/PATH",
            ),
            (
                "--cluster-listen 192.0.2.1:1",
                "--cluster-listen requires --cluster-key",
            ),
            (
                "--cluster-key k --cluster-peer b.example:1",
                "--cluster-peer requires --cluster-listen",
            ),
            ("--cluster-key k", "--cluster-key requires --cluster-listen"),
            (
                "--cluster-key k --cluster-listen 192.0.2.1:1 --cluster-peer [::1]:1",
                "--cluster-peer '[::1]:1' requires a --cluster-listen of the same family",
            ),
            (
                "--sync-node 10.0.0.1",
                "--sync-node requires -s/--sync-multicast",
            ),
            (
                "--sync-mapped",
                "--sync-mapped requires -s/--sync-multicast",
            ),
        ] {
            check(line, message.to_string());
        }
    }

    #[test]
    fn names_of_flags_are_unique_and_the_flags_that_they_require_exist() {
        let help = help();
        for (i, flag) in FLAGS.iter().enumerate() {
            for other in &FLAGS[i + 1..] {
                assert!(flag.long() != other.long());
                assert!(flag.short().is_none() || flag.short() != other.short());
            }
            let name = format!("--{} ", flag.long());
            assert_eq!(help.contains(&name), flag.is_available(), "{name}");
            assert!(flag.requires.iter().all(|long| flags::find(long).is_some()));
        }
        assert!(help.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn health_takes_an_address_or_the_first_tcp_listener() {
        let health = |line: &str| match parsed(line)? {
            Command::Health(target) => Ok(target.to_string()),
            other => panic!("{line}: {other:?}"),
        };
        for (line, target) in [
            ("--health b.example:80", "b.example:80"),
            ("--health=[::1]:80 -p 81", "[::1]:80"),
            ("-p 81 --health unix:/run/a", "unix:/run/a"),
            ("--health", "127.0.0.1:6969"),
            ("--health -p 80", "127.0.0.1:80"),
            ("-P 80 -i 192.0.2.1 -p 81 -p 82 --health -v", "192.0.2.1:81"),
            ("-i ::1 -p unix:/run/a -p 80 --health", "[::1]:80"),
            ("-i :: --health", "127.0.0.1:6969"),
        ] {
            assert_eq!(health(line).as_deref(), Ok(target), "{line}");
        }
        for bad in [
            "80",
            "127.0.0.1",
            "127.0.0.1:0",
            "::1:80",
            "[x]:80",
            "a:65536",
            ":80",
            "unix:run/a",
        ] {
            let expected = "HOST:PORT, [IPv6]:PORT or unix:/PATH";
            let message = format!("--health: invalid value '{bad}': expected {expected}");
            assert_eq!(health(&format!("--health {bad}")), Err(message));
        }
        for (line, why) in [
            ("--health -P 80", "no -p/--tcp-port is a TCP port"),
            ("--health -p unix:/run/a", "no -p/--tcp-port is a TCP port"),
            ("--health -p 0", "the system chooses port 0 at each start"),
        ] {
            let message = format!("--health requires an address: {why}");
            assert_eq!(health(line), Err(message), "{line}");
        }
        assert!(health("--health=").is_err(), "an empty address");
    }

    #[test]
    fn pinned_threads_are_refused_where_the_system_has_none() {
        match (parsed("-j 2 --pin-threads"), cores::IS_SUPPORTED) {
            (Ok(Command::Serve(options)), true) => assert!(options.pin_threads),
            (Err(error), false) => {
                assert_eq!(error, "--pin-threads: not supported on this system");
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}
