//! Clients that announce, some hundreds of times a second, and remember what they said.

use super::nodes::{PORT, PROBE};
use super::table::{InfoHash, Table};
use crate::common::net::Host;
use crate::common::udp::{Announce, Client};
use announced::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a client said last. It always announces to the same node.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub home: usize,
    pub is_seeder: bool,
    pub has_stopped: bool,
    pub at: Instant,
}

impl Said {
    /// Everybody had the time to hear of it by then.
    fn is_old(&self, then: Instant) -> bool {
        self.at + Duration::from_secs(3) < then
    }
}

/// All that was said, and how often each torrent was completed.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub said: BTreeMap<(InfoHash, SocketAddr), Said>,
    pub completed: BTreeMap<InfoHash, u32>,
    /// Nodes have been apart, which may leave completed downloads uncounted.
    pub has_parted: bool,
    /// Of whom nothing is expected: their node may have died before it told anybody.
    pub unsure: BTreeSet<(InfoHash, SocketAddr)>,
}

impl Truth {
    /// What was said to this node, and what to the others.
    pub fn split(self, node: usize) -> (Truth, Truth) {
        let (theirs, others) = self
            .said
            .into_iter()
            .partition(|(_, said)| said.home == node);
        let of = |said| Truth {
            said,
            completed: self.completed.clone(),
            unsure: self.unsure.clone(),
            has_parted: self.has_parted,
        };
        (of(theirs), of(others))
    }

    /// Fifty of those who announced through this client's address stop.
    pub fn stop_some(&mut self, client: &Client) {
        let ip = client.address().ip();
        let here = self
            .said
            .iter_mut()
            .filter(|((_, peer), said)| peer.ip() == ip && !said.has_stopped);
        for ((info_hash, peer), said) in here.take(50) {
            client.announce(&Announce {
                info_hash: *info_hash,
                event: 3,
                port: peer.port(),
                ..Announce::default()
            });
            said.has_stopped = true;
        }
    }

    /// Seeders, completed and leechers of each torrent, of which there are fewer than a scrape may ask for.
    pub fn counts(&self) -> BTreeMap<InfoHash, [u32; 3]> {
        let mut counts: BTreeMap<InfoHash, [u32; 3]> = BTreeMap::new();
        for ((info_hash, _), said) in &self.said {
            let [seeders, _, leechers] = counts.entry(*info_hash).or_default();
            *seeders += u32::from(said.is_seeder && !said.has_stopped);
            *leechers += u32::from(!said.is_seeder && !said.has_stopped);
        }
        for (info_hash, completed) in &self.completed {
            if let Some(counts) = counts.get_mut(info_hash) {
                counts[1] = *completed;
            }
        }
        counts
    }

    /// What is wrong in the table of a node that has heard of everything.
    pub fn differences(&self, table: &Table) -> Vec<String> {
        let mut found = Vec::new();
        for (key, said) in &self.said {
            let peer = table.peers.get(key);
            let is_right = match peer {
                Some(peer) => !said.has_stopped && peer.is_seeder == said.is_seeder,
                None => said.has_stopped,
            };
            if !is_right {
                found.push(format!("{key:?}: {said:?}, but {peer:?}"));
            }
        }
        for (key, peer) in &table.peers {
            let is_known = self.said.contains_key(key) || self.unsure.contains(key);
            if !is_known && key.0[0] != PROBE {
                found.push(format!("{key:?}: never announced, but {peer:?}"));
            }
        }
        found
    }
}

/// A host's own clients, of IPv4 and IPv6.
type Home = [Client; 2];

#[derive(Default)]
struct Shared {
    /// Locked while a client announces; none where there is no node.
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

/// Runs until it is told to stop.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// At none of so many nodes yet.
    pub fn start(nodes: usize) -> Load {
        let shared = Arc::new(Shared::default());
        shared.homes().resize_with(nodes, || None);
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || announce_on(&shared)
        });
        Load { shared, thread }
    }

    /// From now on clients announce to this node too.
    pub fn begin(&self, node: usize, host: &Host) {
        let client = |ip: std::net::IpAddr| {
            let mut client = Client::from(&ip.to_string(), SocketAddr::new(ip, PORT));
            client.connect();
            client
        };
        let home = host.within(|| [host.v4(), host.v6()].map(client));
        self.shared.homes()[node] = Some(home);
    }

    /// No client announces to this node from now on.
    pub fn end(&self, node: usize) {
        self.shared.homes()[node] = None;
    }

    /// Nor does any expect much: what it heard in the last seconds it may not have told anybody before it died.
    pub fn end_at_once(&self, node: usize) {
        self.end(node);
        let truth = &mut *self.shared.truth();
        let now = Instant::now();
        let is_sure = |said: &Said| said.home != node || said.is_old(now);
        let unsure = truth.said.iter().filter(|(_, said)| !is_sure(said));
        truth.unsure.extend(unsure.map(|(key, _)| *key));
        truth.said.retain(|_, said| is_sure(said));
    }

    /// All that was said so far.
    pub fn truth(&self) -> Truth {
        self.shared.truth().clone()
    }

    /// What was said some seconds before then, and not contradicted since.
    pub fn truth_before(&self, then: Instant) -> Truth {
        let mut truth = self.truth();
        let fresh = truth.said.iter().filter(|(_, said)| !said.is_old(then));
        truth.unsure.extend(fresh.map(|(key, _)| *key));
        truth.said.retain(|_, said| said.is_old(then));
        truth
    }

    /// Ends it; all that was said.
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
    let mut connected = Instant::now();
    while !shared.is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
        let mut homes = shared.homes();
        if connected.elapsed() > Duration::from_secs(60) {
            connected = Instant::now();
            let clients = homes.iter_mut().flatten().flatten();
            clients.for_each(Client::connect);
        }
        for _ in 0..5 {
            number += 1;
            announce(&mut homes, &mut shared.truth(), number, &mut random);
        }
    }
}

/// Somebody new comes, or somebody is heard again, completes or leaves.
fn announce(homes: &mut [Option<Home>], truth: &mut Truth, number: u32, random: &mut Random) {
    let node = random.below(homes.len());
    let action = random.below(10);
    let Some(home) = &mut homes[node] else {
        return;
    };
    let is_new = action < 6;
    let client = &mut home[random.below(2)];
    let (key, before) = match is_new {
        true => (newcomer(client, number, random), None),
        false => match somebody(client, truth, random) {
            Some((key, said)) => (key, Some(said)),
            None => return,
        },
    };
    let was_seeder = before.is_some_and(|said| said.is_seeder);
    let completes = action == 7 && !was_seeder;
    let stops = action == 8;
    let is_seeder = was_seeder || completes || is_new && action == 0;
    let event = match (is_new, completes, stops) {
        (true, ..) => 2,
        (_, true, _) => 1,
        (_, _, true) => 3,
        _ => 0,
    };
    let announce = Announce {
        info_hash: key.0,
        left: u64::from(!is_seeder),
        event,
        num_want: 5,
        port: key.1.port(),
        ..Announce::default()
    };
    say(client, &announce);
    // A node that stood still has taken it only now, and told nobody yet.
    let said = Said {
        home: node,
        is_seeder,
        has_stopped: stops,
        at: Instant::now(),
    };
    truth.said.insert(key, said);
    if completes {
        *truth.completed.entry(key.0).or_default() += 1;
    }
}

/// Half of all are in one swarm, the others in some of fifty.
fn newcomer(client: &Client, number: u32, random: &mut Random) -> (InfoHash, SocketAddr) {
    let torrent = random.below(100).saturating_sub(50);
    let info_hash = [torrent as u8 * 5 + 1; 20];
    let port = u16::try_from(number % 60_000 + 1024).expect("is below 61024");
    (info_hash, SocketAddr::new(client.address().ip(), port))
}

/// One of those who announce through this client.
fn somebody(
    client: &Client,
    truth: &Truth,
    random: &mut Random,
) -> Option<((InfoHash, SocketAddr), Said)> {
    let ip = client.address().ip();
    let from = [random.below(256) as u8; 20];
    let start = (from, SocketAddr::new(ip, random.below(60_000) as u16));
    let mut after = truth.said.range(start..);
    let found = after.find(|((_, address), said)| address.ip() == ip && !said.has_stopped);
    found.map(|(key, said)| (*key, *said))
}

/// Announces, with another connection id if the old one is not taken.
fn say(client: &mut Client, announce: &Announce) {
    for _ in 0..2 {
        let reply = client.exchange(&client.announce_request(announce));
        if reply[..4] == 1_u32.to_be_bytes() {
            return;
        }
        client.connect();
    }
    panic!("the announce was not taken");
}
