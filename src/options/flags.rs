//! The table of flags. A flag is one row: its names, the name of its value, its help, and the field of [`Options`] that
//! it sets. The type of the field has the parser and the printer of its values, so that options are printed as they are
//! given.

use super::values::{
    Endpoint, FullScrapes, PeerName, header_name, invalid, is_of_interface, is_of_one_host, map,
    number, parse_size, refuse_udp, show_size, stats_path, url, user,
};
use super::{Options, bounds};
use crate::base::nets::Net;
use crate::sys::cores;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

/// A flag as the command line, files, the help and the man page know it.
pub struct Flag {
    /// Its names and the name of its value, as the help shows them.
    names: &'static str,
    pub help: &'static str,
    /// The value that holds unless another is given.
    pub default: &'static str,
    /// Long names of other flags. It has an effect only with one of them.
    pub(super) requires: &'static [&'static str],
    /// SIGHUP changes it. The others need a restart.
    pub is_live: bool,
    pub(super) field: Field,
}

type Place<T> = fn(&mut Options) -> &mut T;
type Set = fn(&mut Options, &str) -> Option<()>;
type Show = fn(&Options, &mut Values);

/// The field that a flag sets, by the type of its values.
pub enum Field {
    /// A flag without a value.
    Switch(Place<bool>),
    /// A flag without a value that is counted.
    Count(Place<u32>),
    /// From a minimum to a maximum. Below the minimum it is not set.
    Number(Place<u32>, u32, u32),
    /// In bytes, from a minimum to a maximum; 0 is not set.
    Size(Place<u64>, u64, u64),
    /// With a parser, and the values that this accepts.
    Text(Place<String>, fn(&str) -> Option<String>, &'static str),
    File(Place<Option<PathBuf>>),
    Directory(Place<Option<PathBuf>>),
    Nets(Place<Vec<Net>>),
    /// Any other, with the values that are accepted.
    Own(Set, Show, &'static str),
    /// Only on the command line.
    CommandLine(Action),
    /// The reason why there is no such flag here.
    Absent(&'static str),
}

#[derive(Clone, Copy)]
pub enum Action {
    Config,
    MakeKey,
    Check,
    Health,
    Version,
    Help,
}

/// The values of a flag, each as it is given.
#[derive(Default, PartialEq, Eq)]
pub struct Values(pub Vec<OsString>);

impl Values {
    fn add(&mut self, value: &dyn Display) {
        self.0.push(value.to_string().into());
    }
}

/// An optional part: the reason why a build without it refuses the part's flags.
type Part = Option<&'static str>;

pub(super) const CLUSTER: Part = match cfg!(feature = "cluster") {
    true => None,
    false => Some("this build has no cluster support"),
};
pub(super) const FULL_SCRAPE: Part = match cfg!(feature = "full-scrape") {
    true => None,
    false => Some("this build has no full scrapes"),
};

const WEEK: u32 = 7 * 24 * 3600;
pub const MAX_THREADS: u32 = 64;
pub const DEFAULT_USER: &str = "nobody";

use Action::{Check, Config, Health, Help, MakeKey, Version};
use Field::{Absent, CommandLine, Count, Directory, File, Nets, Number, Own, Size, Switch, Text};

#[rustfmt::skip]
pub static FLAGS: &[Flag] = &[
    row("-f, --config FILE", "read options from this file, which may be opentracker's", CommandLine(Config)),
    row("-i, --address IP", "listen on this address, with the -p and -P that follow (all)",
        Own(add_address, |_, _| (), "an IPv4 or IPv6 address without a port, such as 192.0.2.1 or ::, not link-local")),
    row("-p, --tcp-port [IP:]PORT", "serve HTTP on this port, or at a Unix socket, unix:/PATH (6969)",
        Own(add_tcp, |o, values| o.tcp.iter().for_each(|endpoint| values.add(endpoint)),
        "a number from 0 to 65535, IP:PORT, [IPv6]:PORT, not link-local, or unix:/PATH, absolute, at most 100 bytes")),
    row("-P, --udp-port [IP:]PORT", "serve UDP on this port (6969)",
        Own(add_udp, |o, values| o.udp.iter().for_each(|endpoint| values.add(endpoint)),
        "a number from 0 to 65535, IP:PORT or [IPv6]:PORT, not link-local")),
    row("-u, --user NAME", "if started as root, run as this user or as UID:GID",
        Text(|o| &mut o.user, user, "a user other than root, by name or as UID:GID")).default(DEFAULT_USER),
    row("-d, --root DIR", "if started as root, chroot to this directory, else enter it", Directory(|o| &mut o.root)),
    row("-r, --redirect URL", "redirect requests for / to this URL",
        Text(|o| &mut o.redirect, url, "a URL, http:// or https://, in printable ASCII")).live(),
    row("-A, --admin NET", "show all statistics to this network (loopback)", Nets(|o| &mut o.admins)).live(),
    row("    --admin-listen ADDR:PORT", "serve statistics at this address or unix:/PATH, not elsewhere",
        Own(add_admin_listen, |o, values| o.admin_listen.iter().for_each(|endpoint| values.add(endpoint)),
        "IP:PORT, [IPv6]:PORT or unix:/PATH with an absolute path of at most 100 bytes")),
    row("    --public-stats", "make statistics public, except those that list torrents or peers",
        Switch(|o| &mut o.public_stats)),
    row("    --stats-path PATH", "serve statistics at this path",
        Text(|o| &mut o.stats_path, stats_path,
        "a path of letters, digits and -._~/, such as /stats, but not /announce, /scrape, /health or /metrics"))
        .default("/stats"),
    row("-w, --whitelist FILE", "track only the torrents in this list", File(|o| &mut o.whitelist)),
    row("-b, --blacklist FILE", "track all torrents except those in this list", File(|o| &mut o.blacklist)),
    row("    --list-add FIFO", "add info-hashes that are written to this FIFO to the list",
        File(|o| &mut o.list_add)).requires(&["whitelist", "blacklist"]),
    row("    --list-remove FIFO", "remove info-hashes that are written to this FIFO from the list",
        File(|o| &mut o.list_remove)).requires(&["whitelist", "blacklist"]),
    row("    --refusal-interval SECONDS", "ask refused clients to return after this time (1800; -b: 86400)",
        Number(|o| &mut o.refusal_interval, 1, WEEK)).requires(&["whitelist", "blacklist"]),
    row("    --refuse-udp HOW", "answer refused clients over UDP so: error or empty",
        Text(|o| &mut o.refuse_udp, refuse_udp, "error or empty"))
        .default("error").requires(&["whitelist", "blacklist"]),
    row("    --full-scrape WHO", "allow full scrapes: off, admin, modest or open",
        Own(set_full_scrapes, show_full_scrapes, "off, admin, modest or open"))
        .default("modest").live().of(FULL_SCRAPE),
    row("    --interval SECONDS", "ask clients to announce at this interval",
        Number(|o| &mut o.interval, 1, 24 * 3600)).default("1800").live(),
    row("    --interval-max SECONDS", "with --target-rate, lengthen the interval up to this",
        Number(|o| &mut o.interval_max, 1, 24 * 3600)).requires(&["target-rate"]).live(),
    row("    --target-rate N", "have clients send this many announces a second; 0: off",
        Number(|o| &mut o.target_rate, 0, 10_000_000)).default("0").requires(&["interval-max"]).live(),
    row("    --peer-timeout SECONDS", "remove a peer this long after its last announce (1.5 intervals)",
        Number(|o| &mut o.peer_timeout, 2, WEEK)),
    row("    --numwant-max N", "send at most this many peers in a reply",
        Number(|o| &mut o.numwant_max, 1, 200)).default("200").live(),
    row("    --decoys PERCENT", "add decoy peers to replies, in percent of the swarm",
        Number(|o| &mut o.decoys, 0, 100)).default("0"),
    row("    --memory SIZE", "let the table take this much memory (half of what there is)",
        Size(|o| &mut o.memory, 1 << 20, 1 << 40)).live(),
    row("    --max-peers N", "store at most this many peers (what fits)",
        Number(|o| &mut o.max_peers, 1, bounds::MAX)).live(),
    row("    --max-torrents N", "store at most this many torrents (a fifth of the peers)",
        Number(|o| &mut o.max_torrents, 1, bounds::MAX)).live(),
    row("    --max-per-host N", "store at most this many peers of one address in a swarm",
        Number(|o| &mut o.max_per_host, 0, 4_000_000_000)).default("128"),
    row("    --max-connections N", "keep at most this many TCP connections (65536 or less)",
        Number(|o| &mut o.max_connections, 1, 1_000_000)).live(),
    row("    --receive-buffer SIZE", "request this receive buffer for each UDP socket (8M or less)",
        Size(|o| &mut o.receive_buffer, 64 << 10, 512 << 20)),
    row("-j, --threads N", "serve clients with this many threads (1)", Number(|o| &mut o.threads, 1, MAX_THREADS)),
    row("    --pin-threads", "pin each thread to the core that receives its packets (Linux)",
        if cores::IS_SUPPORTED { Switch(|o| &mut o.pin_threads) } else { Absent("not supported on this system") }),
    row("    --state FILE", "save torrents and peers to this file, and load them at start", File(|o| &mut o.state)),
    row("    --state-interval SECONDS", "save at this interval; 0: only at exit and SIGUSR1",
        Number(|o| &mut o.state_interval, 0, WEEK)).default("600").requires(&["state"]),
    row("-l, --load-dump FILE", "load downloaded counts from a statedump of opentracker",
        File(|o| &mut o.load_dump)),
    row("    --cluster-listen ADDR:PORT", "accept connections of other cluster nodes at this address",
        Own(add_cluster_listen, |o, values| o.cluster_listen.iter().for_each(|address| values.add(address)),
        "an address and a port, such as 192.0.2.1:6970 or [2001:db8::1]:6970, at most one of each family"))
        .requires(&["cluster-key"]).of(CLUSTER),
    row("    --cluster-peer HOST:PORT", "connect to this node of the cluster",
        Own(add_cluster_peer, |o, values| o.cluster_peers.iter().for_each(|peer| values.add(peer)),
        "a name or an address and a port, such as b.example:6970 or [2001:db8::1]:6970, at most 256 times"))
        .requires(&["cluster-listen"]).of(CLUSTER),
    row("    --cluster-key FILE", "accept nodes that have the key in this file",
        File(|o| &mut o.cluster_key)).requires(&["cluster-listen"]).of(CLUSTER),
    row("    --make-key FILE", "write a new cluster key to this file and exit", CommandLine(MakeKey)).of(CLUSTER),
    row("-s, --sync-multicast [ADDR:]PORT", "sync with opentrackers by multicast from this address",
        Own(set_multicast, |o, values| o.sync_multicast.iter().for_each(|address| values.add(address)),
        "an IPv4 address of this host and a port, such as 192.0.2.1:9696, or a port (an -i before it must be IPv4)"))
        .of(CLUSTER),
    row("    --sync-node NET", "accept multicast packets from this network (none)",
        Nets(|o| &mut o.sync_nodes)).requires(&["sync-multicast"]).of(CLUSTER),
    row("    --sync-mapped", "send IPv4 peers as mapped IPv6, for opentracker since 2024",
        Switch(|o| &mut o.sync_mapped)).requires(&["sync-multicast"]).of(CLUSTER),
    row("    --map NET=ADDR", "store clients in this network under this address",
        Own(add_map, |o, values| o.maps.iter().for_each(|(net, to)| values.add(&format_args!("{net}={to}"))),
        "a network and an address of one family, such as 192.168.0.0/16=203.0.113.7")),
    row("    --trust-ip NET", "let clients in this network name their address", Nets(|o| &mut o.trust_ip)),
    row("    --proxy NET", "trust proxies in this network to name their clients", Nets(|o| &mut o.proxies)).live(),
    row("    --proxy-header NAME", "take the address of a client from this header of a proxy",
        Text(|o| &mut o.proxy_header, header_name, "the name of a header, such as X-Real-IP")).live(),
    row("    --proxy-protocol", "require a PROXY header on each connection of a proxy",
        Switch(|o| &mut o.proxy_protocol)),
    row("-v, --verbose", "log counts every minute; given twice, also every sweep", Count(|o| &mut o.verbosity)).live(),
    row("    --syslog", "log to syslog, facility daemon", Switch(|o| &mut o.syslog)),
    row("    --daemon", "run in the background; implies --syslog", Switch(|o| &mut o.daemon)),
    row("    --pidfile FILE", "write the process id to this file and lock it", File(|o| &mut o.pidfile)),
    row("    --no-sandbox", "do not confine the processes to the system calls that they need",
        Switch(|o| &mut o.no_sandbox)),
    row("    --log-completed", "log completed downloads: time, info-hash, peer id, address",
        Switch(|o| &mut o.log_completed)),
    row("-n, --check", "check options, print the non-default ones (-nv: all), exit", CommandLine(Check)),
    row("    --health [ADDR]", "print the /health of the tracker at HOST:PORT or unix:/PATH, exit",
        CommandLine(Health)),
    row("-V, --version", "print version, target, features and sandbox, and exit", CommandLine(Version)),
    row("-h, --help", "print this help and exit", CommandLine(Help)),
];

const fn row(names: &'static str, help: &'static str, field: Field) -> Flag {
    Flag {
        names,
        help,
        default: "",
        requires: &[],
        is_live: false,
        field,
    }
}

/// The flag of a long name.
pub fn find(long: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.long() == long)
}

impl Flag {
    const fn default(mut self, value: &'static str) -> Flag {
        self.default = value;
        self
    }

    const fn requires(mut self, others: &'static [&'static str]) -> Flag {
        self.requires = others;
        self
    }

    const fn live(mut self) -> Flag {
        self.is_live = true;
        self
    }

    /// Refuses the flag if it is of a part that this build does not have.
    const fn of(mut self, part: Part) -> Flag {
        if let Some(why) = part {
            self.field = Absent(why);
            self.default = "";
        }
        self
    }

    /// Whether the flag exists in this build.
    pub fn is_available(&self) -> bool {
        !matches!(self.field, Absent(_))
    }

    /// Whether it may be given in files.
    pub(super) fn is_keyword(&self) -> bool {
        !matches!(self.field, Absent(_) | CommandLine(_))
    }

    pub fn short(&self) -> Option<char> {
        self.names.chars().nth(1).filter(|short| *short != ' ')
    }

    /// The long name, and the name of the value; empty for a flag without one.
    fn long_and_value(&self) -> (&'static str, &'static str) {
        let long = self.names.get("-x, --".len()..).unwrap_or_default();
        long.split_once(' ').unwrap_or((long, ""))
    }

    pub fn long(&self) -> &'static str {
        self.long_and_value().0
    }

    pub fn value(&self) -> &'static str {
        self.long_and_value().1
    }

    /// `-i/--address`
    pub fn names(&self) -> String {
        match self.short() {
            Some(short) => format!("-{short}/--{}", self.long()),
            None => format!("--{}", self.long()),
        }
    }

    /// The words that it accepts, if it accepts no other value.
    pub fn words(&self) -> Vec<&'static str> {
        let (Text(_, _, expected) | Own(_, _, expected)) = self.field else {
            return Vec::new();
        };
        let words = expected.split(", ").flat_map(|text| text.split(" or "));
        let words: Vec<&str> = words.collect();
        let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        if words.iter().all(is_word) {
            return words;
        }
        Vec::new()
    }

    /// Its line of `--help`.
    pub(super) fn help_line(&self) -> String {
        let mut line = format!("  {:<32} {}", self.names, self.help);
        if !self.default.is_empty() {
            line = [&line, " (", self.default, ")"].concat();
        }
        line
    }
}

impl Field {
    pub fn set(&self, options: &mut Options, value: &OsStr) -> Result<(), String> {
        // No parser accepts the replacement.
        let text = value.to_str().unwrap_or("\u{fffd}");
        let wrong = |expected: &str| invalid(value, expected);
        match self {
            Switch(field) => *field(options) = true,
            Count(field) => *field(options) = field(options).saturating_add(1),
            Number(field, min, max) => {
                let number = number(text).filter(|number| (min..=max).contains(&number));
                let wrong = || wrong(&format!("a number from {min} to {max}"));
                *field(options) = number.ok_or_else(wrong)?;
            }
            Size(field, min, max) => {
                let size = parse_size(text).filter(|size| (min..=max).contains(&size));
                let [min, max] = [min, max].map(|size| show_size(*size));
                let wrong = || wrong(&format!("a size from {min} to {max}"));
                *field(options) = size.ok_or_else(wrong)?;
            }
            Text(field, parse, expected) => {
                *field(options) = parse(text).ok_or_else(|| wrong(expected))?;
            }
            File(field) => *field(options) = Some(parse_file(value)?),
            Directory(_) if value.is_empty() => return Err(wrong("a directory")),
            Directory(field) => *field(options) = Some(value.into()),
            Nets(field) => {
                let expected = "an address or a network, such as 192.0.2.1 or 2001:db8::/32";
                let net = Net::parse(text).ok_or_else(|| wrong(expected))?;
                note_host_bits(options, &net, text);
                field(options).push(net);
            }
            Own(set, _, expected) => set(options, text).ok_or_else(|| wrong(expected))?,
            CommandLine(_) => {}
            Absent(why) => return Err((*why).into()),
        }
        Ok(())
    }

    /// Gives the field of `to` the value that `from` has. Of [`Own`] fields, those with one value.
    pub fn copy(&self, from: &mut Options, to: &mut Options) {
        match self {
            Switch(field) => *field(to) = *field(from),
            Count(field) | Number(field, ..) => *field(to) = *field(from),
            Size(field, ..) => *field(to) = *field(from),
            Text(field, ..) => field(to).clone_from(field(from)),
            File(field) | Directory(field) => field(to).clone_from(field(from)),
            Nets(field) => field(to).clone_from(field(from)),
            Own(..) => {
                for value in self.values(from).0 {
                    // It has been valid before.
                    let _ = self.set(to, &value);
                }
            }
            CommandLine(_) | Absent(_) => {}
        }
    }

    /// The values that would set the field to what it is.
    pub fn values(&self, options: &mut Options) -> Values {
        let mut values = Values::default();
        match self {
            Switch(field) => values.0.resize(usize::from(*field(options)), "".into()),
            Count(field) => values.0.resize(*field(options) as usize, "".into()),
            Number(field, min, _) if *field(options) < *min => {}
            Number(field, ..) => values.add(field(options)),
            Size(field, ..) if *field(options) == 0 => {}
            Size(field, ..) => values.add(&show_size(*field(options))),
            Text(field, ..) if field(options).is_empty() => {}
            Text(field, ..) => values.add(field(options)),
            File(field) | Directory(field) => {
                values.0.extend(field(options).clone().map(OsString::from));
            }
            Nets(field) => field(options).iter().for_each(|net| values.add(net)),
            Own(_, show, _) => show(options, &mut values),
            CommandLine(_) | Absent(_) => {}
        }
        values
    }
}

pub fn parse_file(value: &OsStr) -> Result<PathBuf, String> {
    match value.is_empty() || value.as_encoded_bytes().ends_with(b"/") {
        true => Err(invalid(value, "a file")),
        false => Ok(value.into()),
    }
}

fn add_address(options: &mut Options, text: &str) -> Option<()> {
    let ip = text.parse().ok().filter(is_of_interface)?;
    options.addresses.push((ip, false));
    Some(())
}

fn endpoint(options: &mut Options, text: &str, default_port: u16) -> Option<Endpoint> {
    Endpoint::parse(text, default_port).map(|endpoint| options.at_address(endpoint))
}

fn add_tcp(options: &mut Options, text: &str) -> Option<()> {
    let endpoint = endpoint(options, text, super::DEFAULT_PORT)?;
    options.tcp.push(endpoint);
    Some(())
}

fn add_udp(options: &mut Options, text: &str) -> Option<()> {
    match endpoint(options, text, super::DEFAULT_PORT)? {
        Endpoint::Unix(_) => return None,
        endpoint => options.udp.push(endpoint),
    }
    Some(())
}

fn add_admin_listen(options: &mut Options, text: &str) -> Option<()> {
    options.admin_listen.push(Endpoint::parse_whole(text)?);
    Some(())
}

fn add_map(options: &mut Options, text: &str) -> Option<()> {
    let (net, address) = map(text)?;
    note_host_bits(options, &net, text.split('=').next()?);
    options.maps.push((net, address));
    Some(())
}

fn note_host_bits(options: &mut Options, net: &Net, text: &str) {
    if !net.is_written_as(text) {
        options.warning = Some(format!("'{text}' has host bits: taken as {net}"));
    }
}

fn set_full_scrapes(options: &mut Options, text: &str) -> Option<()> {
    let found = FullScrapes::NAMES.iter().find(|(_, name)| *name == text);
    options.full_scrapes = found?.0;
    Some(())
}

fn show_full_scrapes(options: &Options, values: &mut Values) {
    let mut names = FullScrapes::NAMES.iter();
    let found = names.find(|(full_scrapes, _)| *full_scrapes == options.full_scrapes);
    found.iter().for_each(|(_, name)| values.add(name));
}

fn add_cluster_listen(options: &mut Options, text: &str) -> Option<()> {
    let address = text.parse().ok().filter(is_of_one_host);
    let address = address.filter(|address| !options.listens_like(address))?;
    options.cluster_listen.push(address);
    Some(())
}

fn add_cluster_peer(options: &mut Options, text: &str) -> Option<()> {
    let peer = PeerName::parse(text)?;
    let is_node = |a: SocketAddr| is_of_one_host(&a) && !a.ip().is_unspecified();
    let peers = &mut options.cluster_peers;
    if peer.address().is_some_and(|a| !is_node(a)) || peers.len() >= MAX_CLUSTER_PEERS {
        return None;
    }
    if !peers.contains(&peer) {
        peers.push(peer);
    }
    Some(())
}

/// Each node of a cluster sends to all others.
const MAX_CLUSTER_PEERS: usize = 256;

/// The port that opentracker sends to, whatever port it listens on.
const MULTICAST_PORT: u16 = 9696;

fn set_multicast(options: &mut Options, text: &str) -> Option<()> {
    let (ip, port) = match endpoint(options, text, MULTICAST_PORT)? {
        Endpoint::Port(port) => (Ipv4Addr::UNSPECIFIED.into(), port),
        Endpoint::Socket(address) => (address.ip().to_canonical(), address.port()),
        Endpoint::Unix(_) => return None,
    };
    let ip = match ip {
        IpAddr::V4(ip) if !ip.is_multicast() => ip,
        // It stands for both families.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        _ => return None,
    };
    options.sync_multicast = Some(SocketAddrV4::new(ip, port));
    (port > 0).then_some(())
}
