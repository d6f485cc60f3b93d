//! The options of opentracker's live sync: where its packets go, and from whom they are taken.

use super::{Flag, Wrong, digits};
use crate::cluster::opentracker::{GROUP, PORT};
use crate::nets::Net;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MulticastOptions {
    /// None for no live sync.
    pub group: Option<Group>,
    /// Who may speak.
    pub nodes: Vec<Net>,
    /// Whether IPv4 peers are told as mapped IPv6 ones.
    pub is_mapping: bool,
}

/// The multicast group: by the interface that has this address, or for 0.0.0.0 by the one that the system
/// chooses, and at this port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub interface: Ipv4Addr,
    pub port: u16,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{GROUP}:{} through {}", self.port, self.interface)
    }
}

impl MulticastOptions {
    /// Takes `ADDR:PORT`, a port, which takes the interface from the `-i` before it, or, as opentracker's
    /// files may have it, an address.
    pub(super) fn set_group(
        &mut self,
        flag: &Flag,
        value: &OsStr,
        address: &mut Option<(IpAddr, bool)>,
    ) -> Result<(), Wrong> {
        let wanted = "an IPv4 address of this host and a port, such as 192.0.2.1:9696, or a port";
        let wrong = || flag.wrong(value, wanted);
        let text = value.to_str().ok_or_else(wrong)?;
        let (interface, port) = match text.rsplit_once(':') {
            Some((interface, port)) => (interface.parse().map_err(|_| wrong())?, Some(port)),
            None => match (text.parse(), address) {
                (Ok(interface), _) => (interface, None),
                (Err(_), None) => (Ipv4Addr::UNSPECIFIED, Some(text)),
                (Err(_), Some((given, is_used))) => {
                    *is_used = true;
                    let wanted = "ADDR:PORT, as the address of -i is of IPv6";
                    let interface =
                        interface_of(*given).ok_or_else(|| flag.wrong(value, wanted))?;
                    (interface, Some(text))
                }
            },
        };
        let port = match port {
            Some(port) => digits(port).and_then(|port| u16::try_from(port).ok()),
            None => Some(PORT),
        };
        let port = port.filter(|port| *port > 0).ok_or_else(wrong)?;
        if interface.is_multicast() {
            return Err(wrong());
        }
        self.group = Some(Group { interface, port });
        Ok(())
    }

    /// Whether the options go together.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let alone = match (&self.group, self.nodes.first(), self.is_mapping) {
            (Some(_), _, _) | (None, None, false) => return Ok(()),
            (None, Some(node), _) => format!("--sync-node '{node}'"),
            (None, None, true) => String::from("--sync-mapped"),
        };
        Err(format!("{alone}: wanted is a -s/--sync-multicast too"))
    }
}

fn interface_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        // Stands for both families.
        IpAddr::V6(address) => address.is_unspecified().then_some(Ipv4Addr::UNSPECIFIED),
    }
}

impl fmt::Display for MulticastOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let how = match self.is_mapping {
            true => ", IPv4 peers as mapped IPv6 ones",
            false => "",
        };
        writeln!(f, "tell opentrackers by multicast to {group}{how}")?;
        for net in &self.nodes {
            writeln!(f, "take what is told by multicast from {net}")?;
        }
        if self.nodes.is_empty() {
            writeln!(f, "take nothing that is told by multicast")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{options, parsed};

    /// What `-n` says of the live sync.
    fn shown(line: &str) -> Vec<String> {
        let told = options(line).multicast.to_string();
        told.lines().map(String::from).collect()
    }

    #[test]
    fn the_interface_is_that_of_the_address_or_of_the_one_before() {
        let nothing = "take nothing that is told by multicast";
        for (line, group) in [
            ("-s 9696", "224.0.23.5:9696 through 0.0.0.0"),
            ("-i 192.0.2.1 -s 9697", "224.0.23.5:9697 through 192.0.2.1"),
            (
                "-i 192.0.2.1 -s 192.0.2.2:1",
                "224.0.23.5:1 through 192.0.2.2",
            ),
            (
                "-i ::1 -p 1 -s 192.0.2.2:1",
                "224.0.23.5:1 through 192.0.2.2",
            ),
            ("-i :: -s 9696", "224.0.23.5:9696 through 0.0.0.0"),
            (
                "--sync-multicast 192.0.2.2",
                "224.0.23.5:9696 through 192.0.2.2",
            ),
            (
                "-s 1 -i 192.0.2.2 -s 2 -i 192.0.2.3 -p 1",
                "224.0.23.5:2 through 192.0.2.2",
            ),
        ] {
            let told = format!("tell opentrackers by multicast to {group}");
            assert_eq!(shown(line), [told.as_str(), nothing], "{line}");
        }
        assert_eq!(
            shown("-s 9696 --sync-node 10.0.0.1 --sync-node 10.1.0.0/16 --sync-mapped"),
            [
                "tell opentrackers by multicast to 224.0.23.5:9696 through 0.0.0.0, IPv4 peers as mapped \
                 IPv6 ones",
                "take what is told by multicast from 10.0.0.1/32",
                "take what is told by multicast from 10.1.0.0/16",
            ]
        );
        assert_eq!(shown(""), [""; 0]);
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let wanted = "an IPv4 address of this host and a port, such as 192.0.2.1:9696, or a port";
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
        ] {
            let message = format!("-s/--sync-multicast '{bad}': wanted is {wanted}");
            assert_eq!(parsed(&format!("-s {bad}")), Err(message));
        }
        for (line, message) in [
            (
                "-i ::1 -s 9696",
                "-s/--sync-multicast '9696': wanted is ADDR:PORT, as the address of -i is of IPv6",
            ),
            (
                "--sync-node 10.0.0.1",
                "--sync-node '10.0.0.1/32': wanted is a -s/--sync-multicast too",
            ),
            (
                "--sync-mapped",
                "--sync-mapped: wanted is a -s/--sync-multicast too",
            ),
            (
                "--sync-node x",
                "--sync-node 'x': wanted is an address or a network, such as 192.0.2.1 or 2001:db8::/32",
            ),
        ] {
            assert_eq!(parsed(line), Err(message.to_string()), "{line}");
        }
    }
}
