//! Nodes in full mesh, each on a host.

use super::load::Load;
use super::table::{Key, PROBE, Table};
use crate::common::net::{Host, Lan};
use crate::common::udp::Client;
use crate::common::{Daemon, program, run, wait_for, wait_longer};
use std::cell::Cell;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

/// The ports for clients and for nodes.
pub const PORT: u16 = 6969;
pub const CLUSTER_PORT: u16 = 6970;

/// The time limit for a peer and for equal tables.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Node {
    pub host: Host,
    pub daemon: Option<Daemon>,
    pub key: String,
    /// The addresses or names of the other nodes.
    pub peers: Vec<String>,
    pub flags: Vec<String>,
    /// Hours by which the clock of the host is ahead.
    pub clock: i32,
}

pub struct Mesh<'a> {
    pub lan: &'a Lan,
    pub nodes: Vec<Node>,
    probes: Cell<u8>,
}

impl Mesh<'_> {
    /// Three hosts without running nodes.
    pub fn new(lan: &Lan) -> Mesh<'_> {
        let hosts: Vec<Host> = (0..3).map(|_| lan.host()).collect();
        let address = |host: &Host| SocketAddr::new(host.v4(), CLUSTER_PORT).to_string();
        let addresses: Vec<String> = hosts.iter().map(address).collect();
        let key = make_key(lan, "key");
        let nodes = hosts.into_iter().enumerate().map(|(number, host)| Node {
            host,
            daemon: None,
            key: key.clone(),
            peers: [&addresses[..number], &addresses[number + 1..]].concat(),
            flags: Vec::new(),
            clock: 0,
        });
        Mesh {
            lan,
            nodes: nodes.collect(),
            probes: Cell::new(0),
        }
    }

    /// Three nodes with links between all of them.
    pub fn started(lan: &Lan) -> Mesh<'_> {
        let mut mesh = Mesh::new(lan);
        mesh.start_all();
        mesh
    }

    pub fn start_all(&mut self) {
        (0..3).for_each(|node| self.start(node));
        (0..3).for_each(|node| self.wait_for_links(node));
    }

    /// Waits for the links of a node to both others.
    pub fn wait_for_links(&self, node: usize) {
        wait_longer("links", DEADLINE, || {
            let report = self.get(node, "/stats?mode=cluster");
            report.starts_with("cluster ok: 2 of 2 ").then_some(())
        });
    }

    fn state(&self, node: usize) -> String {
        self.lan.file(&format!("state{node}"))
    }

    /// Starts a node with the table that it saved last.
    pub fn start(&mut self, node: usize) {
        let state = self.state(node);
        let node = &mut self.nodes[node];
        let mut command = node.host.command("env");
        if node.clock != 0 {
            let library = fake_clock().expect("is there");
            command.arg(format!("LD_PRELOAD={library}"));
            command.arg(format!("FAKETIME={:+}h", node.clock));
            command.arg("FAKETIME_DONT_FAKE_MONOTONIC=1");
        }
        command.arg(program());
        for ip in [node.host.v4(), node.host.v6()] {
            let listen = SocketAddr::new(ip, CLUSTER_PORT).to_string();
            let (ip, port) = (ip.to_string(), PORT.to_string());
            command.args(["-i", &ip, "-p", &port, "-P", &port]);
            command.args(["--cluster-listen", &listen]);
        }
        command.args(["--admin", "10.77.0.0/16", "--cluster-key", &node.key]);
        command.args(["--max-per-host", "0"]);
        command.args(["--state", &state, "--state-interval", "0"]);
        for peer in &node.peers {
            command.args(["--cluster-peer", peer]);
        }
        command.args(&node.flags);
        node.daemon = Some(Daemon::spawn(command));
    }

    /// Starts a node without a table.
    pub fn start_empty(&mut self, node: usize) {
        let _ = std::fs::remove_file(self.state(node));
        self.start(node);
    }

    /// As `kill -9` does.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].daemon = None;
    }

    pub fn daemon(&self, node: usize) -> &Daemon {
        self.nodes[node].daemon.as_ref().expect("was started")
    }

    /// Clients that announce to all running nodes.
    pub fn load(&self) -> Load {
        let load = Load::new(self.nodes.len());
        for (number, node) in self.nodes.iter().enumerate() {
            if node.daemon.is_some() {
                load.begin(number, &node.host);
            }
        }
        load
    }

    fn get(&self, node: usize, path: &str) -> String {
        let host = &self.nodes[node].host;
        host.get(SocketAddr::new(host.v4(), PORT), path).text()
    }

    /// The handshakes that failed at a node because of the key.
    pub fn wrong_keys(&self, node: usize) -> u64 {
        let name = "announced_cluster_failed_handshakes_total{reason=\"wrong_key\"} ";
        let metrics = self.get(node, "/metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value.expect("is there").parse().expect("a number")
    }

    pub fn client(&self, node: usize) -> Client {
        let host = &self.nodes[node].host;
        host.client(SocketAddr::new(host.v4(), PORT))
    }

    /// The tables of the running nodes in order, each with the time of its save.
    pub fn tables(&self) -> Vec<(Table, u64)> {
        let saves = |daemon: &Daemon| daemon.count_lines("state: saved: ");
        let running = || self.nodes.iter().filter_map(|node| node.daemon.as_ref());
        let before: Vec<usize> = running().map(saves).collect();
        running().for_each(|daemon| daemon.signal("USR1"));
        for (daemon, before) in running().zip(before) {
            wait_for("the save", || (saves(daemon) > before).then_some(()));
        }
        let all = 0..self.nodes.len();
        let running = all.filter(|node| self.nodes[*node].daemon.is_some());
        let tables = running.map(|node| Table::read(&self.state(node)));
        tables.collect()
    }

    /// Waits until the tables of all running nodes are as expected.
    pub fn wait_until_equal(&self, expected: &Table) {
        let running = self.nodes.iter().filter(|node| node.daemon.is_some());
        self.wait_for_tables(&vec![expected; running.count()]);
    }

    /// Waits until the tables of the running nodes are as expected, one for each.
    pub fn wait_for_tables(&self, expected: &[&Table]) {
        let start = Instant::now();
        loop {
            let tables = self.tables();
            let pairs = expected.iter().zip(&tables);
            let mut differences = pairs.map(|(expected, (table, _))| expected.differences(table));
            let Some(some) = differences.find(|differences| !differences.is_empty()) else {
                break;
            };
            let (count, few) = (some.len(), &some[..some.len().min(9)]);
            assert!(
                start.elapsed() < DEADLINE,
                "expected and found differ in {count}: {few:#?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let peers: Vec<usize> = expected.iter().map(|table| table.peers.len()).collect();
        eprintln!("tables of {peers:?} peers after {:?}", start.elapsed());
    }

    /// Stops fifty leechers of the first node. Returns the table without them.
    pub fn stop_some(&self, mut table: Table) -> Table {
        let client = self.client(0);
        let ip = client.address().ip();
        let is_here = |((_, peer), is_seeder): &(&Key, &bool)| peer.ip() == ip && !**is_seeder;
        let here = table.peers.iter().filter(is_here);
        let stopping: Vec<_> = here.take(50).map(|(key, _)| *key).collect();
        for (info_hash, peer) in stopping {
            client.announce_fields(info_hash, peer.port(), 1, 3);
            table.peers.remove(&(info_hash, peer));
        }
        table
    }

    /// Waits until a peer that announces to one node is in the replies of others, and after its stop until it is in
    /// none.
    pub fn pass_on(&self, from: usize, to: &[usize]) {
        self.probes.set(self.probes.get() + 1);
        let mut info_hash = [PROBE; 20];
        info_hash[19] = self.probes.get();
        let client = self.client(from);
        let peer = SocketAddr::new(client.address().ip(), 7777);
        let asking: Vec<Client> = to.iter().map(|node| self.client(*node)).collect();
        for (event, is_expected) in [(2, true), (3, false)] {
            client.announce_fields(info_hash, peer.port(), 1, event);
            for client in &asking {
                wait_longer("a peer to come or go", DEADLINE, || {
                    let peers = client.announce_fields(info_hash, 9, 1, 0).peers;
                    (peers.contains(&peer) == is_expected).then_some(())
                });
            }
        }
    }
}

/// Makes a key. Returns its path.
pub fn make_key(lan: &Lan, name: &str) -> String {
    let key = lan.file(name);
    let (code, _, error) = run(&["--make-key", &key]);
    assert_eq!(code, Some(0), "{error}");
    key
}

/// The library that gives a process a wrong clock, or an error. `faketime` itself would not forward signals.
pub fn fake_clock() -> Result<String, String> {
    let asked = Command::new("faketime")
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output();
    let output = asked.map_err(|error| format!("faketime, of Debian's faketime: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}
