//! Networks of a test's own: hosts on one bridge, each with a network namespace, all in a sandbox.
//!
//! [`in_sandbox`] runs the test again where there is no network but the one it makes, with the bridge in the
//! sandbox's own namespace. No name can collide with another test's, no packet gets out, and however the test ends,
//! the kernel removes all of it.
//!
//! A host's cable can be pulled, and a socket receives the frames that pass through it.

use super::http::{self, Response};
use super::sandbox::{self, run};
use super::udp::Client;
use super::{DEADLINE, Daemon, skip, sys};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

/// Runs the test of that name again in a sandbox, and there `body` with a network. Where that is impossible, the test
/// skips.
pub fn in_sandbox(test: &str, body: impl FnOnce(&Lan)) {
    if let Some(dir) = sandbox::inside() {
        return body(&Lan::new(&dir));
    }
    match sandbox::missing().or_else(missing) {
        Some(what) => skip(&format!("{test}: {what}")),
        None => sandbox::run_inside(test),
    }
}

fn missing() -> Option<String> {
    let output = Command::new("ip").arg("-Version").output();
    output
        .err()
        .map(|e| format!("ip, of Debian's iproute2: {e}"))
}

/// The bridge. Hosts are 1, 2, ...: 10.77.0.1 and fd77::1, `node1` by name, and so on.
pub struct Lan {
    hosts: AtomicU16,
    dir: String,
}

impl Lan {
    /// `dir` is for files.
    fn new(dir: &Path) -> Lan {
        let names: String = (1..10)
            .map(|n| format!("{} node{n}\n{} node{n}\n", v4(n), v6(n)))
            .collect();
        let hosts = dir.join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{names}")).expect("hosts");
        let hosts = hosts.display();
        command(&format!("mount --bind {hosts} /etc/hosts"));
        // `ip netns` keeps its namespaces here; with a file system of its own they stay in the sandbox.
        command("mkdir -p /run/netns");
        command("mount -t tmpfs netns /run/netns");
        // libfaketime names its files there by process id, which is not unique across sandboxes.
        command("mount -t tmpfs shm /dev/shm");
        // Without an address of its own a bridge takes the lowest of its ports'. With snooping
        // a bridge forwards multicast only after the queries of a router, and there is none here.
        command("ip link add lan address 02:00:00:00:00:ff type bridge mcast_snooping 0");
        command("ip link set lan up");
        Lan {
            hosts: AtomicU16::new(0),
            dir: dir.display().to_string(),
        }
    }

    /// A file's path, in a directory that goes with the test.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// A new host, with its cable plugged in.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("node{number}");
        command(&format!("ip netns add {name}"));
        command(&format!("ip -n {name} link set lo up"));
        let namespace = File::open(format!("/run/netns/{name}")).expect("was made");
        let host = Host {
            number,
            name,
            namespace,
        };
        host.add_interface();
        host
    }
}

fn v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() | u32::from(number))
}

fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number)
}

fn command(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a word");
    run(program, &words.collect::<Vec<_>>(), Path::new("/"));
}

/// A host, up to the end of the sandbox.
pub struct Host {
    number: u16,
    pub name: String,
    namespace: File,
}

impl Host {
    pub fn v4(&self) -> IpAddr {
        v4(self.number).into()
    }

    pub fn v6(&self) -> IpAddr {
        v6(self.number).into()
    }

    /// A command that runs on the host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A UDP client on it, with a connection id, from its own address of the tracker's family.
    pub fn client(&self, tracker: SocketAddr) -> Client {
        let source = match tracker.is_ipv6() {
            true => self.v6(),
            false => self.v4(),
        };
        self.within(|| {
            let mut client = Client::from(&source.to_string(), tracker);
            client.connect();
            client
        })
    }

    /// The response to a request that the host makes.
    pub fn get(&self, server: SocketAddr, path: &str) -> Response {
        self.within(|| http::get(server, path))
    }

    /// A daemon that runs on the host, with these flags alone.
    pub fn start(&self, flags: &[&str]) -> Daemon {
        let mut command = self.command(&super::program());
        command.args(flags);
        Daemon::spawn(command)
    }

    /// Runs a function on the host. Sockets that it makes stay there, whichever thread uses them.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let act = || {
            sys::enter_network(&self.namespace).expect("may enter");
            act()
        };
        let done = thread::scope(|scope| scope.spawn(act).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// For [`sys::enter_network`].
    pub fn network(&self) -> File {
        self.namespace.try_clone().expect("a descriptor")
    }

    /// Removes its interface, with the addresses.
    pub fn remove_interface(&self) {
        command(&format!("ip -n {} link del eth0", self.name));
    }

    pub fn add_interface(&self) {
        let Host { name, number, .. } = self;
        command(&format!(
            "ip link add {name} type veth peer name eth0 address 02:00:00:00:00:{number:02x} netns {name}"
        ));
        let (v4, v6) = (self.v4(), self.v6());
        command(&format!("ip -n {name} address add {v4}/16 dev eth0"));
        // Duplicate address detection keeps an address from use for a second.
        command(&format!("ip -n {name} address add {v6}/64 dev eth0 nodad"));
        command(&format!("ip -n {name} link set eth0 up"));
        self.plug();
    }

    /// Pulls the cable. The host does not notice: its packets are lost.
    pub fn unplug(&self) {
        command(&format!("ip link set {} nomaster", self.name));
    }

    pub fn plug(&self) {
        command(&format!("ip link set {} master lan up", self.name));
    }

    /// A socket that receives all Ethernet frames of the host from now on, in either direction.
    pub fn frames(&self) -> Socket {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let family = Domain::from(libc::AF_PACKET);
        let socket = self.within(|| Socket::new(family, Type::from(libc::SOCK_RAW), Some(all)));
        let socket = socket.expect("root may capture");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket
    }
}
