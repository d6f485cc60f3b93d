//! Clients that announce 500 times a second, and the table expected from their announces.

use super::nodes::PORT;
use super::table::{Key, Table};
use crate::common::net::Host;
use crate::common::udp::{Announce, Client};
use announced::base::random::Random;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// The last announce of a peer, which always announces to the same node.
#[derive(Clone, Copy, Debug)]
struct Said {
    is_seeder: bool,
    has_stopped: bool,
}

/// The last announce of every peer, and the completed downloads.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    said: BTreeMap<Key, Said>,
    completed: BTreeMap<Key, u32>,
}

impl Truth {
    /// Without the peers of a host.
    pub fn without(&self, host: &Host) -> Truth {
        let is_left = |(_, peer): &Key| ![host.v4(), host.v6()].contains(&peer.ip());
        let mut truth = self.clone();
        truth.said.retain(|key, _| is_left(key));
        truth.completed.retain(|key, _| is_left(key));
        truth
    }

    pub fn table(&self) -> Table {
        let mut table = Table::default();
        let running = self.said.iter().filter(|(_, said)| !said.has_stopped);
        let running = running.map(|(key, said)| (*key, said.is_seeder));
        table.peers.extend(running);
        for ((info_hash, _), count) in self.completed.iter().filter(|(_, count)| **count > 0) {
            *table.downloaded.entry(*info_hash).or_default() += count;
        }
        table
    }
}

/// The IPv4 and the IPv6 client of a host.
type Home = [Client; 2];

#[derive(Default)]
struct Shared {
    /// By node; none while its clients do not announce. Locked during an announce.
    homes: Mutex<Vec<Option<Home>>>,
    truth: Mutex<Truth>,
    is_over: AtomicBool,
}

impl Shared {
    fn homes(&self) -> MutexGuard<'_, Vec<Option<Home>>> {
        self.homes.lock().expect("no panic")
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("no panic")
    }
}

/// Runs until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Clients announce to a node from [`Load::begin`] on.
    pub fn new(nodes: usize) -> Load {
        let shared = Arc::new(Shared::default());
        shared.homes().resize_with(nodes, || None);
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || announce_on(&shared)
        });
        Load { shared, thread }
    }

    /// Clients on this host announce to the node there from now on.
    pub fn begin(&self, node: usize, host: &Host) {
        let home = [host.v4(), host.v6()].map(|ip| host.client(SocketAddr::new(ip, PORT)));
        self.shared.homes()[node] = Some(home);
    }

    /// No client announces to this node from now on.
    pub fn end(&self, node: usize) {
        self.shared.homes()[node] = None;
    }

    /// Waits until so many more peers have announced.
    pub fn wait_for_announces(&self, count: usize) {
        let known = || self.shared.truth().said.len();
        let goal = known() + count;
        crate::common::wait_for("announces", || (known() >= goal).then_some(()));
    }

    pub fn stop(self) -> Truth {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        self.shared.truth().clone()
    }
}

/// Five announces every ten milliseconds.
fn announce_on(shared: &Shared) {
    let mut random = Random::seeded(5);
    let mut number = 0;
    while !shared.is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
        let mut homes = shared.homes();
        for _ in 0..5 {
            number += 1;
            announce(&mut homes, &mut shared.truth(), number, &mut random);
        }
    }
}

/// A peer starts, or a running one announces again, completes or stops.
fn announce(homes: &mut [Option<Home>], truth: &mut Truth, number: u32, random: &mut Random) {
    let (node, action) = (random.below(homes.len()), random.below(10));
    let Some(home) = &mut homes[node] else {
        return;
    };
    let client = &mut home[random.below(2)];
    let starts = action < 6;
    let (key, before) = match starts {
        true => (newcomer(client, number, random), None),
        false => match running(client, truth, random) {
            Some((key, said)) => (key, Some(said)),
            None => return,
        },
    };
    let was_seeder = before.is_some_and(|said| said.is_seeder);
    let completes = action == 7 && !was_seeder;
    let said = Said {
        is_seeder: was_seeder || completes || starts && action == 0,
        has_stopped: action == 8,
    };
    let announce = Announce {
        info_hash: key.0,
        left: u64::from(!said.is_seeder),
        event: match (starts, completes, said.has_stopped) {
            (true, ..) => 2,
            (_, true, _) => 1,
            (.., true) => 3,
            _ => 0,
        },
        num_want: 5,
        port: key.1.port(),
        ..Announce::default()
    };
    // The connection id may be too old, or made by a wrong clock.
    if client.exchange(&client.announce_request(&announce))[..4] != 1_u32.to_be_bytes() {
        client.connect();
        client.announce(&announce);
    }
    truth.said.insert(key, said);
    *truth.completed.entry(key).or_default() += u32::from(completes);
}

/// Half of the peers are in one swarm, the others in 49.
fn newcomer(client: &Client, number: u32, random: &mut Random) -> Key {
    let torrent = random.below(100).saturating_sub(50);
    let port = u16::try_from(number % 60_000 + 1024).expect("is below 61024");
    let peer = SocketAddr::new(client.address().ip(), port);
    ([torrent as u8 * 3 + 1; 20], peer)
}

/// A peer that announces through this client.
fn running(client: &Client, truth: &Truth, random: &mut Random) -> Option<(Key, Said)> {
    let ip = client.address().ip();
    let peer = SocketAddr::new(ip, random.below(60_000) as u16);
    let mut after = truth.said.range(([random.below(256) as u8; 20], peer)..);
    let found = after.find(|((_, peer), said)| peer.ip() == ip && !said.has_stopped);
    found.map(|(key, said)| (*key, *said))
}
