//! The options of the cluster: where this node listens for others, which the other nodes are, the key.

use super::{Flag, Wrong, parse_file};
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Names that are taken: more nodes than this would each tell all others.
const MOST_PEERS: usize = 256;

/// The longest name of a host (RFC 1035).
const LONGEST_NAME: usize = 253;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// One of a family at most.
    pub listen: Vec<SocketAddr>,
    pub peers: Vec<PeerName>,
    pub key: Option<PathBuf>,
}

/// Another node, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
}

impl PeerName {
    /// Without asking anybody: none for a name.
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

impl ClusterOptions {
    pub(super) fn add_listen(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        let address = value.to_str().and_then(|text| text.parse().ok());
        let wanted = "an address and a port, such as 192.0.2.1:6970 or [2001:db8::1]:6970";
        let address = address.filter(is_of_one_host);
        let address: SocketAddr = address.ok_or_else(|| flag.wrong(value, wanted))?;
        if self.has_family_of(&address) {
            return Err(flag.wrong(value, "one address of IPv4 and one of IPv6 at most"));
        }
        self.listen.push(address);
        Ok(())
    }

    pub(super) fn add_peer(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        let peer = value.to_str().and_then(parse_peer);
        let wanted =
            "a name or an address and a port, such as b.example:6970 or [2001:db8::1]:6970";
        let peer = peer.ok_or_else(|| flag.wrong(value, wanted))?;
        if self.peers.len() >= MOST_PEERS {
            return Err(flag.wrong(value, "fewer of them, 256 at most"));
        }
        if !self.peers.contains(&peer) {
            self.peers.push(peer);
        }
        Ok(())
    }

    pub(super) fn set_key(&mut self, flag: &Flag, value: &OsStr) -> Result<(), Wrong> {
        self.key = Some(parse_file(flag, value)?);
        Ok(())
    }

    /// Whether the options go together.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let Some(first) = self.listen.first() else {
            let alone = match (self.peers.first(), &self.key) {
                (Some(peer), _) => format!("--cluster-peer '{peer}'"),
                (None, Some(key)) => format!("--cluster-key '{}'", key.to_string_lossy()),
                (None, None) => return Ok(()),
            };
            return Err(format!("{alone}: wanted is a --cluster-listen too"));
        };
        if self.key.is_none() {
            return Err(format!(
                "--cluster-listen '{first}': wanted is a --cluster-key too"
            ));
        }
        let addresses = self.peers.iter().filter_map(PeerName::address);
        for address in addresses {
            if !self.has_family_of(&address) {
                return Err(format!(
                    "--cluster-peer '{address}': wanted is a --cluster-listen of its family too"
                ));
            }
        }
        Ok(())
    }

    fn has_family_of(&self, address: &SocketAddr) -> bool {
        let is_v6 = address.is_ipv6();
        self.listen.iter().any(|listen| listen.is_ipv6() == is_v6)
    }
}

/// Not of many hosts, nor link-local: such an address means something else on each interface. An IPv4 one
/// is written as such.
fn is_of_one_host(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => !v4.ip().is_multicast() && !v4.ip().is_broadcast(),
        SocketAddr::V6(v6) => {
            let ip = v6.ip();
            let is_near = ip.is_unicast_link_local() || v6.scope_id() != 0;
            !is_near && !ip.is_multicast() && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// `HOST:PORT`, the host a name, an IPv4 address or an IPv6 address in brackets.
fn parse_peer(text: &str) -> Option<PeerName> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let host = address.ip().to_string();
        let port = address.port();
        let is_one = is_of_one_host(&address) && !address.ip().is_unspecified();
        return (port > 0 && is_one).then_some(PeerName { host, port });
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = super::digits(port).and_then(|port| u16::try_from(port).ok())?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    // A number with dots that is no address is a mistake, and no name.
    let is_name = host.bytes().all(is_plain)
        && (1..=LONGEST_NAME).contains(&host.len())
        && host.bytes().any(|b| b.is_ascii_alphabetic());
    (is_name && port > 0).then(|| PeerName {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for ClusterOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for address in &self.listen {
            writeln!(f, "take part in a cluster at {address}")?;
        }
        for peer in &self.peers {
            writeln!(f, "share peers with cluster node {peer}")?;
        }
        if let Some(key) = &self.key {
            writeln!(f, "believe who has the key in {}", key.to_string_lossy())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_names_or_addresses_with_a_port() {
        for (text, expected) in [
            ("b.example:6970", Some("b.example:6970")),
            ("localhost:1", Some("localhost:1")),
            ("192.0.2.1:6970", Some("192.0.2.1:6970")),
            ("[2001:db8::1]:6970", Some("[2001:db8::1]:6970")),
            ("[2001:0db8::1]:6970", Some("[2001:db8::1]:6970")),
            ("[fe80::1]:6970", None),
            ("[ff02::1]:6970", None),
            ("[::]:6970", None),
            ("[::ffff:192.0.2.1]:6970", None),
            ("0.0.0.0:6970", None),
            ("224.0.23.5:6970", None),
            ("255.255.255.255:6970", None),
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
            let peer = parse_peer(text).map(|peer| peer.to_string());
            assert_eq!(peer.as_deref(), expected, "{text}");
        }
        assert!(parse_peer(&format!("{}:1", "a".repeat(254))).is_none());
    }
}
