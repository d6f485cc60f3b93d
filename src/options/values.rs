//! The values of options: what they look like, and how they are parsed.

use crate::base::addresses::is_of_a_host;
use crate::base::nets::Net;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The longest name of a host (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

pub fn invalid(value: &OsStr, expected: &str) -> String {
    let value = value.to_string_lossy();
    format!("invalid value '{value}': expected {expected}")
}

/// A number in digits alone: `str::parse` also accepts a plus sign.
pub fn number(text: &str) -> Option<u32> {
    let has_digits_only = text.bytes().all(|b| b.is_ascii_digit());
    has_digits_only.then(|| text.parse().ok()).flatten()
}

/// The units of sizes.
const UNITS: [(char, u64); 3] = [('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// A number of bytes, or of one of the units.
pub fn parse_size(text: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let of_unit = units.find_map(|(name, unit)| Some((text.strip_suffix(*name)?, *unit)));
    let (digits, unit) = of_unit.unwrap_or((text, 1));
    u64::from(number(digits)?).checked_mul(unit)
}

/// In the largest unit of which it is a whole number.
pub fn show_size(bytes: u64) -> String {
    let mut units = UNITS.iter();
    match units.find(|(_, unit)| bytes % unit == 0) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn port(text: &str) -> Option<u16> {
    u16::try_from(number(text)?).ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Ip(Protocol, SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Address::Ip(Protocol::Udp, address) => write!(f, "udp {address}"),
            Address::Ip(Protocol::Tcp, address) => write!(f, "tcp {address}"),
            Address::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// A socket to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: Address,
    /// It was not asked for by address, and may be missing on a host without IPv6.
    pub is_optional: bool,
    /// It serves reports alone, and every client of it is an admin.
    pub is_admin: bool,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.address {
            Address::Ip(_, address) if self.is_admin => write!(f, "admin {address}"),
            address if self.is_admin => write!(f, "admin {address}"),
            address => write!(f, "{address}"),
        }
    }
}

/// Where clients connect. [`fmt::Display`] writes it as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At all addresses.
    Port(u16),
    Socket(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl Endpoint {
    /// `PORT`, `IP:PORT`, `[IPv6]:PORT`, an address without a port, `unix:/PATH`, or opentracker's `IPv6.PORT`.
    pub fn parse(text: &str, default_port: u16) -> Option<Endpoint> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Endpoint::Unix);
        }
        if let Some(port) = port(text) {
            return Some(Endpoint::Port(port));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let is_valid = has_no_zone(&address) && is_of_interface(&address.ip());
            return is_valid.then_some(Endpoint::Socket(address));
        }
        let socket = |ip: IpAddr, port| {
            is_of_interface(&ip).then(|| Endpoint::Socket(SocketAddr::new(ip, port)))
        };
        if let Ok(ip) = text.parse() {
            return socket(ip, default_port);
        }
        let (ip, port_text) = match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            Some(ip) => (ip, None),
            None => text.rsplit_once('.').map(|(ip, port)| (ip, Some(port)))?,
        };
        let ip: Ipv6Addr = ip.parse().ok()?;
        socket(ip.into(), port_text.map_or(Some(default_port), port)?)
    }

    /// `IP:PORT`, `[IPv6]:PORT` or `unix:/PATH`: nothing that opens a port to more addresses than it names.
    pub fn parse_whole(text: &str) -> Option<Endpoint> {
        match text.starts_with("unix:") || text.parse::<SocketAddr>().is_ok() {
            true => Endpoint::parse(text, 0),
            false => None,
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Endpoint::Unix(_))
    }

    /// The sockets to open. As in opentracker, `::` stands for IPv4 too; here each family has its own socket.
    pub fn listens(&self, protocol: Protocol) -> Vec<Listen> {
        let listen = |ip: IpAddr, port, is_optional| {
            let address = Address::Ip(protocol, SocketAddr::new(ip, port));
            Listen {
                address,
                is_optional,
                is_admin: false,
            }
        };
        let all = |port, is_optional| {
            let v4 = listen(Ipv4Addr::UNSPECIFIED.into(), port, false);
            vec![v4, listen(Ipv6Addr::UNSPECIFIED.into(), port, is_optional)]
        };
        match self {
            Endpoint::Port(port) => all(*port, true),
            Endpoint::Socket(address) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                all(address.port(), false)
            }
            Endpoint::Socket(address) => vec![listen(address.ip(), address.port(), false)],
            Endpoint::Unix(path) => {
                let address = Address::Unix(path.clone());
                vec![Listen {
                    address,
                    is_optional: false,
                    is_admin: false,
                }]
            }
        }
    }
}

/// It is absolute because the working directory changes before the file is removed. The system bounds its length, Linux
/// at 107 bytes.
fn unix_path(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let is_short = std::os::unix::net::SocketAddr::from_pathname(&path).is_ok();
    (path.is_absolute() && is_short).then_some(path)
}

/// Whether a socket for clients may have this address, or it stands for all. A link-local one would need a zone.
pub fn is_of_interface(ip: &IpAddr) -> bool {
    let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !is_link_local && !is_broadcast && !ip.is_multicast()
}

/// A zone names an interface of this host, and nothing else does: such an address would need another flag.
fn has_no_zone(address: &SocketAddr) -> bool {
    !matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Endpoint::Port(port) => write!(f, "{port}"),
            Endpoint::Socket(address) => write!(f, "{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host by name or address, and a port: another node, or the tracker that `--health` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
}

impl PeerName {
    /// `HOST:PORT`, where HOST is a name, an IPv4 address or an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<PeerName> {
        let (host, port) = match text.parse::<SocketAddr>() {
            Ok(address) if has_no_zone(&address) => (address.ip().to_string(), address.port()),
            Ok(_) => return None,
            Err(_) => {
                let (host, port_text) = text.rsplit_once(':')?;
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                // A number with dots that is not an address is a mistake, not a name.
                let is_name = host.bytes().all(is_plain)
                    && host.len() <= MAX_NAME_BYTES
                    && host.bytes().any(|b| b.is_ascii_alphabetic());
                (is_name.then(|| host.to_owned())?, port(port_text)?)
            }
        };
        (port > 0).then_some(PeerName { host, port })
    }

    /// None for a name: nothing is resolved here.
    pub fn address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.address() {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Whether an address of a node is that of one host and the same on every interface. IPv4 is written as such.
pub fn is_of_one_host(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => !v4.ip().is_multicast() && !v4.ip().is_broadcast(),
        SocketAddr::V6(v6) => {
            let ip = v6.ip();
            let is_near = ip.is_unicast_link_local() || v6.scope_id() != 0;
            !is_near && !ip.is_multicast() && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// The tracker that `--health` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp(PeerName),
    Unix(PathBuf),
}

impl Target {
    pub fn parse(value: &OsStr) -> Result<Target, String> {
        let text = value.to_str().unwrap_or_default();
        let target = match text.strip_prefix("unix:") {
            Some(path) => unix_path(path).map(Target::Unix),
            None => PeerName::parse(text).map(Target::Tcp),
        };
        target.ok_or_else(|| invalid(value, "HOST:PORT, [IPv6]:PORT or unix:/PATH"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Target::Tcp(name) => write!(f, "{name}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A user other than root, by name or as `UID:GID` in numbers.
pub fn user(text: &str) -> Option<String> {
    let is_user = match text.split_once(':') {
        Some((uid, gid)) => number(uid)? > 0 && number(gid)? > 0,
        None => !text.is_empty() && text != "root",
    };
    is_user.then(|| text.to_owned())
}

/// A URL that is safe in a header, which a line break would not be.
pub fn url(text: &str) -> Option<String> {
    let has_scheme = text.starts_with("http://") || text.starts_with("https://");
    let is_plain = text.bytes().all(|b| b.is_ascii_graphic());
    (has_scheme && is_plain).then(|| text.to_owned())
}

/// The name of a header, in the characters that those of proxies have.
pub fn header_name(text: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (!text.is_empty() && text.bytes().all(is_plain)).then(|| text.to_owned())
}

/// A path that no other request has, with one slash before it. opentracker's files may leave the slash out.
pub fn stats_path(text: &str) -> Option<String> {
    let path = text.trim_start_matches('/');
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    let others = ["", "announce", "scrape", "health", "metrics", "robots.txt"];
    let is_taken = others.contains(&path);
    (!is_taken && path.bytes().all(is_plain)).then(|| format!("/{path}"))
}

/// The reply over UDP to an announce of a torrent that the list refuses: one without peers, and not an error.
pub const EMPTY: &str = "empty";

pub fn refuse_udp(text: &str) -> Option<String> {
    ["error", EMPTY].contains(&text).then(|| text.to_owned())
}

/// A network and the address under which its clients are stored, of one family: `NET=ADDR`.
pub fn map(text: &str) -> Option<(Net, IpAddr)> {
    let (net, address) = text.split_once('=')?;
    let address: IpAddr = address.parse().ok().filter(is_of_a_host)?;
    let (net, address) = (Net::parse(net)?, address.to_canonical());
    (net.is_v4() == address.is_ipv4()).then_some((net, address))
}

/// The clients that may have full scrapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullScrapes {
    Off,
    /// Admins, without limits.
    Admin,
    /// All clients, admins too, with limits on how often and on how many at once.
    #[default]
    Modest,
    /// All clients, without limits.
    Open,
}

impl FullScrapes {
    pub const NAMES: [(FullScrapes, &'static str); 4] = [
        (FullScrapes::Off, "off"),
        (FullScrapes::Admin, "admin"),
        (FullScrapes::Modest, "modest"),
        (FullScrapes::Open, "open"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_ports_or_the_default_one() {
        for (text, expected) in [
            ("80", Some("80")),
            ("0.0.0.0", Some("0.0.0.0:6969")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("::", Some("[::]:6969")),
            ("2001:db8::1", Some("[2001:db8::1]:6969")),
            ("[2001:db8::1]", Some("[2001:db8::1]:6969")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("2001:db8::1.80", Some("[2001:db8::1]:80")),
            ("::ffff:192.0.2.1", Some("[::ffff:192.0.2.1]:6969")),
            ("", None),
            ("65536", None),
            ("+1", None),
            ("-1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("[192.0.2.1]:80", None),
            ("[fe80::1%2]:80", None),
            ("2001:db8::x:80", None),
            ("tracker.example:80", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:65536", None),
        ] {
            let endpoint = Endpoint::parse(text, 6969).map(|endpoint| endpoint.to_string());
            assert_eq!(endpoint.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("512M", Some("512M")),
            ("1048576", Some("1M")),
            ("1536M", Some("1536M")),
            ("2048K", Some("2M")),
            ("1048577", Some("1048577")),
            ("1024G", Some("1024G")),
            ("1000", Some("1000")),
            ("1MM", None),
            ("M", None),
            ("", None),
            ("+1M", None),
            ("-1M", None),
            ("1.5G", None),
            ("1m", None),
            ("1 G", None),
            ("99999999999G", None),
        ] {
            let shown = parse_size(text).map(show_size);
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn peers_are_names_or_addresses_with_a_port() {
        for (text, expected) in [
            ("b.example:6970", Some("b.example:6970")),
            ("localhost:1", Some("localhost:1")),
            ("192.0.2.1:6970", Some("192.0.2.1:6970")),
            ("[2001:0db8::1]:6970", Some("[2001:db8::1]:6970")),
            ("[2001:db8::1%2]:6970", None),
            ("b.example", None),
            ("b.example:0", None),
            ("b.example:65536", None),
            ("b.example:+1", None),
            (":6970", None),
            ("192.0.2.1", None),
            ("192.0.2.1:0", None),
            ("192.0.2.256:6970", None),
            ("2001:db8::1:6970", None),
            ("b example:1", None),
            ("", None),
        ] {
            let peer = PeerName::parse(text).map(|peer| peer.to_string());
            assert_eq!(peer.as_deref(), expected, "{text}");
        }
        assert!(PeerName::parse(&format!("{}:1", "a".repeat(254))).is_none());
    }
}
