//! The network of one sandbox: a bridge that the tracker sits on, and a host on it for each client.
//!
//! The loopback would not do: transmission 3.00 ignores peers in 127/8, and clients that share a host share its ports.

use crate::sandbox::run;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// How clients reach the tracker. The network has addresses of that family only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Http,
    HttpIpv6,
    Udp,
    UdpIpv6,
}

/// What `/etc/hosts` in the sandbox calls the tracker.
const NAME: &str = "tracker.test";

const PORT: u16 = 6969;

impl Transport {
    pub fn is_ipv6(self) -> bool {
        matches!(self, Transport::HttpIpv6 | Transport::UdpIpv6)
    }

    /// The address of the host with that number; 1 is the tracker's. Transmission looks for an IPv6 address in 2000::/3
    /// before it uses IPv6 for UDP, so these are from the block for documentation, not from fd00::/8.
    pub fn address(self, host: u16) -> IpAddr {
        if self.is_ipv6() {
            Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, host).into()
        } else {
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() | u32::from(host)).into()
        }
    }

    fn prefix_length(self) -> u8 {
        if self.is_ipv6() { 64 } else { 16 }
    }

    pub fn tracker(self) -> SocketAddr {
        SocketAddr::new(self.address(1), PORT)
    }

    /// By address, except for UDP over IPv6: transmission 3.00 cuts the host of a UDP URL at its first colon.
    pub fn announce_url(self) -> String {
        match self {
            Transport::Http | Transport::HttpIpv6 => format!("http://{}/announce", self.tracker()),
            Transport::Udp => format!("udp://{}/announce", self.tracker()),
            Transport::UdpIpv6 => format!("udp://{NAME}:{PORT}/announce"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Http => "HTTP",
            Transport::HttpIpv6 => "HTTP and IPv6",
            Transport::Udp => "UDP",
            Transport::UdpIpv6 => "UDP and IPv6",
        })
    }
}

/// Why this machine has no such network.
pub fn missing() -> Option<String> {
    Command::new("ip")
        .arg("-Version")
        .output()
        .err()
        .map(|error| format!("ip, of Debian's iproute2: {error}"))
}

/// The bridge, in the sandbox's own network namespace.
pub struct Lan {
    transport: Transport,
    hosts: AtomicU16,
}

impl Lan {
    pub fn new(transport: Transport, dir: &Path) -> Lan {
        let hosts = dir.join("hosts");
        let names = format!(
            "127.0.0.1 localhost\n::1 localhost\n{} {NAME}\n",
            transport.address(1)
        );
        fs::write(&hosts, names).expect("hosts");
        run(
            "mount",
            &["--bind", &hosts.display().to_string(), "/etc/hosts"],
            dir,
        );
        // `ip netns` keeps its namespaces here; with a file system of its own they stay in the sandbox.
        run("mkdir", &["-p", "/run/netns"], dir);
        run("mount", &["-t", "tmpfs", "netns", "/run/netns"], dir);

        ip("link set lo up");
        // A bridge takes the lowest address of its ports for its own, unless it has one: each host that came or went
        // could make the others send to an address that is no longer the tracker's.
        ip("link add lan address 02:00:00:00:00:01 type bridge");
        ip(&format!("address add {}", address_on(transport, 1, "lan")));
        ip("link set lan up");
        Lan {
            transport,
            hosts: AtomicU16::new(1),
        }
    }

    /// A new host with a network namespace of its own.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("host{number}");
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {name} type veth peer name eth0 netns {name}"
        ));
        ip(&format!("link set {name} master lan up"));
        ip(&format!("-netns {name} link set lo up"));
        ip(&format!(
            "-netns {name} address add {}",
            address_on(self.transport, number, "eth0")
        ));
        ip(&format!("-netns {name} link set eth0 up"));
        // Transmission takes a host without a way to the world for one without IPv6.
        let gateway = self.transport.address(1);
        ip(&format!("-netns {name} route add default via {gateway}"));
        if self.transport.is_ipv6() {
            // Nor does it open its remote control, on 127.0.0.1, without an IPv4 address besides. From this one there
            // is no way to another host.
            ip(&format!("-netns {name} address add 192.0.2.1/32 dev eth0"));
        }
        Host {
            name,
            address: self.transport.address(number),
        }
    }
}

/// Duplicate address detection keeps an IPv6 address from use for a second, for nothing here.
fn address_on(transport: Transport, host: u16, device: &str) -> String {
    let (address, length) = (transport.address(host), transport.prefix_length());
    let nodad = if transport.is_ipv6() { " nodad" } else { "" };
    format!("{address}/{length} dev {device}{nodad}")
}

fn ip(arguments: &str) {
    run(
        "ip",
        &arguments.split(' ').collect::<Vec<_>>(),
        Path::new("/"),
    );
}

/// A host on the network, gone on drop.
pub struct Host {
    name: String,
    pub address: IpAddr,
}

impl Host {
    /// A command that runs there, with an environment as small as clients need: a proxy named in it, say, would come
    /// between them and the tracker.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command.env_clear().env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The sandbox's end removes it, if this does not.
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
    }
}
