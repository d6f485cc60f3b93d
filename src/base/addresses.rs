//! The address under which a client is stored, where it is not the one that the client sends from: `--map` and
//! `--trust-ip`.

use super::nets::{Net, any_contains};
use std::net::IpAddr;

/// The admin's rules, and none of them in most trackers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The address under which clients of a network are stored. It applies to clients of its own family.
    pub maps: Vec<(Net, IpAddr)>,
    /// Networks whose clients may name their address.
    pub trusted: Vec<Net>,
}

/// The addresses that a request names for its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// In `ip`: the address of the client.
    pub ip: Option<IpAddr>,
    /// In `ipv4` and `ipv6` (BEP 7): a client names the address of the other family with them too.
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
}

impl Addresses {
    /// The networks of these rules, and the addresses under which they have clients stored: many clients share one.
    pub fn shared(&self) -> Vec<Net> {
        let maps = self.maps.iter();
        let mapped = maps.flat_map(|(net, address)| [*net, Net::from(*address)]);
        mapped.chain(self.trusted.iter().copied()).collect()
    }

    /// The address under which a client is stored. `named` reads the request, which only a trusted client's needs.
    pub fn of(&self, client: IpAddr, named: impl FnOnce() -> Named) -> IpAddr {
        let client = client.to_canonical();
        let named = match any_contains(&self.trusted, client) {
            true => named(),
            false => Named::default(),
        };
        let (own, other) = match client {
            IpAddr::V4(_) => (named.v4, named.v6),
            IpAddr::V6(_) => (named.v6, named.v4),
        };
        let applies = |(net, address): &&(Net, IpAddr)| {
            address.is_ipv4() == client.is_ipv4() && net.contains(client)
        };
        let map = self.maps.iter().find(applies);
        let [ip, own, other] = [named.ip, own, other].map(|named| named.filter(is_of_a_host));
        let mapped = map.map(|(_, address)| *address);
        ip.or(own).or(mapped).or(other).unwrap_or(client)
    }
}

/// Whether a host can have the address.
pub fn is_of_a_host(address: &IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

/// Whether the address is on the loopback or in a private network, so that other networks cannot reach it.
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn clients_have_the_address_that_they_name_or_that_of_their_network() {
        let net = |text| Net::parse(text).expect("a network");
        let map = |from, to| (net(from), ip(to).expect("an address"));
        let addresses = Addresses {
            maps: vec![
                map("10.1.0.0/16", "192.0.2.1"),
                map("10.0.0.0/8", "192.0.2.2"),
                map("::/0", "2001:db8::2"),
            ],
            trusted: vec![net("10.1.0.0/16"), net("127.0.0.1"), net("fd00::1")],
        };
        for (client, [named, v4, v6], stored) in [
            ("10.1.0.1", [""; 3], "192.0.2.1"),
            ("10.2.0.1", [""; 3], "192.0.2.2"),
            ("::ffff:10.2.0.1", [""; 3], "192.0.2.2"),
            ("11.0.0.1", [""; 3], "11.0.0.1"),
            ("fd00::1", [""; 3], "2001:db8::2"),
            ("10.1.0.1", ["192.0.2.9", "192.0.2.8", ""], "192.0.2.9"),
            ("10.1.0.1", ["2001:db8::9", "", ""], "2001:db8::9"),
            ("10.1.0.1", ["", "192.0.2.8", "2001:db8::8"], "192.0.2.8"),
            // The other family's address is one more of the client, and the network has one in this family.
            ("10.1.0.1", ["", "", "2001:db8::8"], "192.0.2.1"),
            ("127.0.0.1", ["", "", "2001:db8::8"], "2001:db8::8"),
            ("fd00::1", ["", "192.0.2.8", "2001:db8::8"], "2001:db8::8"),
            ("10.2.0.1", ["192.0.2.9"; 3], "192.0.2.2"),
            ("127.0.0.1", ["0.0.0.0", "224.0.0.1", ""], "127.0.0.1"),
            ("127.0.0.1", ["255.255.255.255", "", "ff02::1"], "127.0.0.1"),
        ] {
            let named = || Named {
                ip: ip(named),
                v4: ip(v4),
                v6: ip(v6),
            };
            let client = ip(client).expect("an address");
            assert_eq!(Some(addresses.of(client, named)), ip(stored), "{client}");
        }
    }

    #[test]
    fn loopback_and_private_addresses_are_local() {
        for local in [
            "127.0.0.2",
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "::1",
            "fd77::1",
        ] {
            assert!(ip(local).is_some_and(is_local), "{local}");
        }
        for other in ["0.0.0.0", "::", "172.32.0.1", "192.0.2.1", "2001:db8::1"] {
            assert!(!ip(other).is_some_and(is_local), "{other}");
        }
    }
}
