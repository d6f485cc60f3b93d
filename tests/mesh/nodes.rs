//! Three nodes that all know each other, each on a host.

use super::load::{Load, Truth};
use super::table::{InfoHash, Table};
use crate::common::net::{Host, Lan};
use crate::common::udp::{Announce, Client};
use crate::common::{Daemon, http, program, run, wait_for, wait_longer};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

/// Clients' port, and that of nodes.
pub const PORT: u16 = 6969;
const CLUSTER_PORT: u16 = 6970;

/// Within this nodes have to agree once the announces have stopped.
const BOUND: Duration = Duration::from_secs(120);

/// What is told reaches the others within this.
const SOON: Duration = Duration::from_secs(2);

/// Info-hashes that start with this are for [`Mesh::pass_on`].
pub const PROBE: u8 = 0xee;

/// BEP 15's events.
const STARTED: u32 = 2;
const STOPPED: u32 = 3;

/// How nodes reach each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    V4,
    V6,
    /// By name, over either.
    Names,
}

pub struct Mesh<'a> {
    lan: &'a Lan,
    links: Links,
    pub hosts: Vec<Host>,
    pub daemons: Vec<Option<Daemon>>,
    /// In hours, what each host's clock is ahead.
    pub clocks: Vec<i32>,
    /// The file that each node has its key from.
    pub keys: Vec<String>,
    probes: Cell<u8>,
}

impl Mesh<'_> {
    /// So many hosts; no node has been started yet.
    pub fn new(lan: &Lan, links: Links, hosts: usize) -> Mesh<'_> {
        let key = lan.file("key");
        let (code, _, error) = run(&["--make-key", &key]);
        assert_eq!(code, Some(0), "{error}");
        Mesh {
            lan,
            links,
            hosts: (0..hosts).map(|_| lan.host()).collect(),
            daemons: (0..hosts).map(|_| None).collect(),
            clocks: vec![0; hosts],
            keys: vec![key; hosts],
            probes: Cell::new(0),
        }
    }

    /// Three nodes that hear each other.
    pub fn started(lan: &Lan, links: Links) -> Mesh<'_> {
        let mut mesh = Mesh::new(lan, links, 3);
        mesh.start_all();
        mesh
    }

    /// Starts all nodes, and waits until each hears all others. What was told before that comes by repair, which makes
    /// no sums of downloaded counts.
    pub fn start_all(&mut self) {
        (0..self.hosts.len()).for_each(|node| self.start(node));
        let end = format!(":{CLUSTER_PORT} is up");
        for daemon in self.daemons.iter().flatten() {
            wait_for("the other nodes", || {
                let log = daemon.log();
                let up = log.iter().filter(|line| line.ends_with(&end));
                (up.count() == self.hosts.len() - 1).then_some(())
            });
        }
    }

    fn state(&self, node: usize) -> String {
        self.lan.file(&format!("state{node}"))
    }

    /// Starts a node with what it saved last.
    pub fn start(&mut self, node: usize) {
        let host = &self.hosts[node];
        let mut command = match self.clocks[node] {
            0 => host.command(&program()),
            hours => {
                let mut command = host.command("env");
                command.args([
                    &format!("LD_PRELOAD={}", fake_clock().expect("is there")),
                    &format!("FAKETIME={hours:+}h"),
                    "FAKETIME_DONT_FAKE_MONOTONIC=1",
                    &program(),
                ]);
                command
            }
        };
        self.add_flags(node, &mut command);
        self.daemons[node] = Some(Daemon::spawn(command));
    }

    /// Starts a node that knows nothing.
    pub fn start_empty(&mut self, node: usize) {
        let _ = std::fs::remove_file(self.state(node));
        self.start(node);
    }

    fn add_flags(&self, node: usize, command: &mut Command) {
        let port = PORT.to_string();
        for ip in [self.hosts[node].v4(), self.hosts[node].v6()] {
            let ip = ip.to_string();
            command.args(["-i", &ip, "-p", &port, "-P", &port]);
        }
        // A sixth of the timeout is half a minute, and nobody expires within a test.
        command.args(["--interval", "120", "--peer-timeout", "180"]);
        command.args(["--state", &self.state(node), "--state-interval", "0"]);
        command.args(["--admin", "10.77.0.0/16", "--cluster-key", &self.keys[node]]);
        for ip in self.links_of(&self.hosts[node]) {
            let address = SocketAddr::new(ip, CLUSTER_PORT).to_string();
            command.args(["--cluster-listen", &address]);
        }
        for (other, host) in self.hosts.iter().enumerate() {
            if other == node {
                continue;
            }
            let address = match self.links {
                Links::Names => format!("{}:{CLUSTER_PORT}", host.name),
                _ => SocketAddr::new(self.links_of(host)[0], CLUSTER_PORT).to_string(),
            };
            command.args(["--cluster-peer", &address]);
        }
    }

    fn links_of(&self, host: &Host) -> Vec<IpAddr> {
        match self.links {
            Links::V4 => vec![host.v4()],
            Links::V6 => vec![host.v6()],
            Links::Names => vec![host.v4(), host.v6()],
        }
    }

    /// As `kill -9` does.
    pub fn kill(&mut self, node: usize) {
        drop(self.daemons[node].take());
    }

    pub fn load(&self) -> Load {
        let load = Load::start(self.hosts.len());
        for (node, host) in self.hosts.iter().enumerate() {
            if self.daemons[node].is_some() {
                load.begin(node, host);
            }
        }
        load
    }

    /// Status and text.
    pub fn health(&self, node: usize) -> (u16, String) {
        let host = &self.hosts[node];
        let reply = host.within(|| http::get(SocketAddr::new(host.v4(), PORT), "/health"));
        (reply.status, reply.text())
    }

    /// Waits until whoever answers at any of the nodes counts the peers that there are.
    pub fn all_count_right(&self, truth: &Truth) {
        let start = Instant::now();
        let counts = truth.counts();
        let hashes: Vec<InfoHash> = counts.keys().copied().collect();
        let nodes = (0..self.hosts.len()).filter(|node| self.daemons[*node].is_some());
        let clients: Vec<Client> = nodes.map(|node| self.client(node)).collect();
        for client in &clients {
            loop {
                let told = client.scrape(&hashes);
                let mut pairs = told.iter().zip(&counts);
                let wrong = pairs.find(|(told, (_, right))| {
                    [told[0], told[2]] != [right[0], right[2]]
                        || !truth.has_parted && told[1] != right[1]
                });
                if wrong.is_none() {
                    break;
                }
                let source = client.address();
                assert!(start.elapsed() < BOUND, "{wrong:?} to {source}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    pub fn client(&self, node: usize) -> Client {
        let host = &self.hosts[node];
        let tracker = SocketAddr::new(host.v4(), PORT);
        host.within(|| {
            let mut client = Client::from(&host.v4().to_string(), tracker);
            client.connect();
            client
        })
    }

    /// What the running nodes know, all at about the same time.
    pub fn tables(&self) -> Vec<Table> {
        let saves = |daemon: &Daemon| {
            let log = daemon.log();
            log.iter().filter(|l| l.contains(": saved ")).count()
        };
        let running: Vec<&Daemon> = self.daemons.iter().flatten().collect();
        let before: Vec<usize> = running.iter().map(|daemon| saves(daemon)).collect();
        running.iter().for_each(|daemon| daemon.signal("USR1"));
        for (daemon, before) in running.iter().zip(before) {
            wait_for("the save", || (saves(daemon) > before).then_some(()));
        }
        let nodes = (0..self.hosts.len()).filter(|node| self.daemons[*node].is_some());
        nodes.map(|node| Table::read(&self.state(node))).collect()
    }

    /// Waits until all running nodes agree, with each other and with what was said to them; within the bound.
    pub fn agree(&self, truth: &Truth) {
        let start = Instant::now();
        loop {
            let tables = self.tables();
            let mut found = Vec::new();
            for table in &tables {
                found.extend(truth.differences(table));
                found.extend(tables[0].differences(table));
            }
            if found.is_empty() {
                return;
            }
            let logs: Vec<_> = self.daemons.iter().flatten().map(Daemon::log).collect();
            assert!(
                start.elapsed() < BOUND,
                "{} of {} differ, such as {:#?}\n{logs:#?}",
                found.len(),
                truth.said.len(),
                &found[..found.len().min(5)],
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// A peer that announces to one node is soon in the replies of these others, and gone from them soon after it has
    /// stopped. On a machine that is busy with other things it may take longer, but not three times.
    pub fn pass_on(&self, from: usize, to: &[usize]) {
        let is_soon = (0..3).any(|_| self.passes_on_soon(from, to));
        assert!(is_soon, "from {from} to {to:?} it took long three times");
    }

    /// What a node's metrics of this name that have this label add up to.
    pub fn metric(&self, node: usize, name: &str, label: &str) -> f64 {
        let host = &self.hosts[node];
        let page = host.within(|| http::get(SocketAddr::new(host.v4(), PORT), "/metrics"));
        let start = format!("announced_{name}{{");
        let page = page.text();
        let lines = page
            .lines()
            .filter(|l| l.starts_with(&start) && l.contains(label));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Waits until `--cluster-status` says of each node that all are up and agree.
    pub fn wait_until_all_is_well(&self) {
        for host in &self.hosts {
            let address = SocketAddr::new(host.v4(), PORT).to_string();
            // Whatever stood still for long may have left something to repair.
            wait_longer("a cluster that is well", Duration::from_secs(60), || {
                let mut command = host.command(&program());
                let output = command.args(["--cluster-status", &address]).output();
                let output = output.expect("the program starts");
                let says =
                    String::from_utf8_lossy(&output.stdout).starts_with("cluster ok: 2 of 2 ");
                (output.status.success() && says).then_some(())
            });
        }
    }

    fn passes_on_soon(&self, from: usize, to: &[usize]) -> bool {
        let mut announce = Announce {
            info_hash: self.probe(),
            port: 7777,
            ..Announce::default()
        };
        let client = self.client(from);
        let peer = SocketAddr::new(client.address().ip(), announce.port);
        let asking: Vec<Client> = to.iter().map(|node| self.client(*node)).collect();
        let mut tell = |event: u32| {
            announce.event = event;
            client.announce(&announce);
            let told = Instant::now();
            for client in &asking {
                wait_for("a peer to come or go", || {
                    let is_there = peers(client, announce.info_hash).contains(&peer);
                    (is_there == (event != STOPPED)).then_some(())
                });
            }
            told.elapsed() < SOON
        };
        let (came, went) = (tell(STARTED), tell(STOPPED));
        came && went
    }

    /// A torrent that nothing has been said of.
    fn probe(&self) -> InfoHash {
        let number = self.probes.get() + 1;
        self.probes.set(number);
        let mut info_hash = [PROBE; 20];
        info_hash[19] = number;
        info_hash
    }
}

/// The library that gives a process a wrong clock, or why there is none. What `faketime` runs is a child of its, which
/// no signal would reach: so it is only asked for the library.
pub fn fake_clock() -> Result<String, String> {
    let asked = Command::new("faketime")
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output();
    match asked {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().into())
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into()),
        Err(error) => Err(format!(
            "faketime, of Debian's package of that name: {error}"
        )),
    }
}

/// Who is in the reply to somebody who asks for this, and is a leecher from then on.
fn peers(client: &Client, info_hash: InfoHash) -> Vec<SocketAddr> {
    let announce = Announce {
        info_hash,
        event: 0,
        port: 9,
        ..Announce::default()
    };
    client.announce(&announce).peers
}
