//! Networks in CIDR notation, and whether they contain an address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A network of either family. IPv4 is mapped into IPv6, ::ffff:0:0/96, so that both forms of an address match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: u128,
    /// Of 128 bits, also for IPv4.
    prefix: u8,
}

const V4_BITS: u8 = 96;

impl Net {
    /// `192.0.2.0/24`, `2001:db8::/32`, or a single address. Bits beyond the prefix are ignored.
    pub fn parse(text: &str) -> Option<Net> {
        let (ip, digits) = text.split_once('/').unzip();
        let address: IpAddr = ip.unwrap_or(text).parse().ok()?;
        let before = if address.is_ipv4() { V4_BITS } else { 0 };
        let prefix: u8 = match digits {
            // `u8::parse` would accept a plus sign too.
            Some(digits) if digits.starts_with('+') => return None,
            Some(digits) => digits.parse::<u8>().ok()?.checked_add(before)?,
            None => 128,
        };
        if prefix > 128 {
            return None;
        }
        let address = bits(address) & mask(prefix);
        Some(Net { address, prefix })
    }

    /// Whether a valid text names this network by its first address, and so has no host bits.
    pub fn is_written_as(&self, text: &str) -> bool {
        let ip = text.split('/').next().unwrap_or(text);
        ip.parse().is_ok_and(|ip| bits(ip) == self.address)
    }

    /// The address of this network with these bits where the prefix leaves them open.
    pub fn with_host(&self, host: u128) -> IpAddr {
        Ipv6Addr::from_bits(self.address | host & !mask(self.prefix)).into()
    }

    /// Whether all of its addresses are IPv4.
    pub fn is_v4(&self) -> bool {
        let first = Ipv6Addr::from_bits(self.address);
        self.prefix >= V4_BITS && first.to_ipv4_mapped().is_some()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & mask(self.prefix) == self.address
    }
}

/// The network of a single address.
impl From<IpAddr> for Net {
    fn from(address: IpAddr) -> Net {
        Net {
            address: bits(address),
            prefix: 128,
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.address);
        match address.to_ipv4_mapped() {
            Some(v4) if self.is_v4() => write!(f, "{v4}/{}", self.prefix - V4_BITS),
            _ => write!(f, "{address}/{}", self.prefix),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    let host = 128 - u32::from(prefix);
    u128::MAX.checked_shl(host).unwrap_or(0)
}

/// Whether any of the networks holds the address.
pub fn any_contains(nets: &[Net], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(net: &str, address: &str) -> bool {
        let net = Net::parse(net).expect("is a network");
        net.contains(address.parse().expect("is an address"))
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3/8", "10.9.9.9"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(contains("::/0", "1.2.3.4"));
        assert!(contains("::1", "::1"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.1.1"));
    }

    #[test]
    fn invalid_networks_are_rejected() {
        for bad in [
            "",
            "/",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "1.2.3/8",
            "::/129",
            "1.2.3.4/8/8",
            "1.2.3.4/256",
            "localhost",
            " 1.2.3.4",
        ] {
            assert_eq!(Net::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_is_shown_with_its_prefix() {
        for (given, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(
                Net::parse(given).map(|net| net.to_string()).as_deref(),
                Some(shown)
            );
        }
    }
}
