//! The cluster under a scheduler: the nodes that the daemon drives with sockets, over a network that parts, stalls
//! and loses connections, on hosts that crash and sleep, with clocks that step.
//!
//! All of it follows from a seed. A failing test prints it; `ANNOUNCED_SEED=n` runs that one alone, and
//! `ANNOUNCED_TRACE=1` prints faults and the log of the nodes.
//!
//! The model is the clients' view: the node, time and role of the last announce of each. Faults come in storms. 15
//! seconds after a storm every peer that announced to a running node within the peer timeout is on all nodes in its
//! role, and no peer that stopped within five minutes is on any. After a peer timeout without faults all tables are
//! equal to the announces of the clients. The protocol promises no more, and the model allows for that:
//! - A stop is lost if its node ends before it has sent it to the others, or does not know the peer.
//! - Peers of a node that has ended may stay on others until they expire.
//! - If a client changes to a node that knows it, the others learn this by the walk, even if they do not know the peer.
//! - A node whose clock stood still makes its peers younger by as much on nodes that have started meanwhile.
//! - A peer that stopped more than five minutes ago may come back with a node that was away.

mod frames;
mod named;
mod world;

use announced::base::random::Random;
use announced::stats::cluster::Health;
use announced::tracker::{Event, Role};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use world::{FAST, Met, PEER_TIMEOUT, Saved, Sim, UNIT_MS, pairs};

/// The nodes agree within this time after the last fault.
const SETTLE_MS: u64 = 15_000;
/// News arrives within a second: 100 ms, a tick of both sides, a latency, and time in a queue.
const NEWS_MS: u64 = 1000;
const KEPT_MS: u64 = 300_000;
const TIMEOUT_MS: u64 = PEER_TIMEOUT as u64 * 1000;

#[derive(Clone, Debug)]
struct Client {
    torrent: u32,
    role: Role,
    interval: u64,
    /// Announces to come.
    left: usize,
    /// The node and time of the last announce.
    last: Option<(usize, u64)>,
    /// Whether it will complete with its next announce.
    completes: bool,
    has_stopped: bool,
    /// Whether its stop cannot be lost.
    is_certain: bool,
    /// Its last announce was to another node or process than before, which knew it already.
    is_by_walk: bool,
}

#[derive(Debug)]
enum Action {
    Start(usize),
    /// Whether the whole host is gone, and whether the table was saved before.
    Crash(usize, bool, bool),
    Finish(usize),
    /// Whether the whole host sleeps.
    Suspend(usize, bool),
    /// Whether the clock stood still.
    Resume(usize, bool),
    /// The side of each node, for how long, and whether connections are reset at once.
    Cut(Vec<bool>, u64, bool),
    Disconnect(usize, usize, bool),
    Rate(usize, u64),
    StepWall(usize, i64),
}

struct Run {
    sim: Sim,
    random: Random,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    actions: BTreeMap<(u64, usize), Action>,
    saved: Vec<Saved>,
    /// The longest time that a clock has stood still: a node that sends peers before it knows makes them younger by it.
    stood_still: u64,
    /// When all nodes were last found to agree.
    agreed_at: u64,
}

impl Run {
    fn new(nodes: usize, seed: u64) -> Run {
        let mut run = Run {
            sim: Sim::new(nodes, seed),
            random: Random::seeded(!seed),
            clients: Vec::new(),
            due: BinaryHeap::new(),
            actions: BTreeMap::new(),
            saved: (0..nodes).map(|_| Saved::default()).collect(),
            stood_still: 0,
            agreed_at: 0,
        };
        (0..nodes).for_each(|site| run.sim.start(site, &Saved::default()));
        run
    }

    /// Clients start evenly over three and a half timeouts and announce four times on average.
    fn add_clients(&mut self, torrents: usize, announces: usize) {
        let lasts = TIMEOUT_MS as usize * 7 / 2;
        for number in 0..announces * 7 / 20 {
            // Some swarms are large and many small.
            let torrent = match self.random.below(4) {
                0 => self.random.below(1 + torrents / 100),
                _ => self.random.below(torrents),
            };
            self.clients.push(Client {
                torrent: torrent as u32,
                role: [Role::Leecher, Role::Seeder][self.random.below(2)],
                interval: match number % 16 {
                    0 => TIMEOUT_MS * 38 / 45,
                    _ => TIMEOUT_MS * 2 / 3,
                },
                left: 1 + self.random.below(7),
                last: None,
                completes: false,
                has_stopped: false,
                is_certain: true,
                is_by_walk: false,
            });
            // The clients of the beginning are in the middle of their lives.
            let at = self.random.below(lasts) as u64;
            let at = self.sim.now + at.saturating_sub(TIMEOUT_MS / 2);
            self.due.push(Reverse((at, number)));
        }
    }

    fn run_until(&mut self, until: u64) {
        while self.sim.now < until {
            let now = self.sim.now;
            let later = self.actions.split_off(&(now + 1, 0));
            for action in std::mem::replace(&mut self.actions, later).into_values() {
                self.act(action);
            }
            while self.due.peek().is_some_and(|next| next.0.0 <= now) {
                let Reverse((_, number)) = self.due.pop().expect("is there");
                if let Some(wait) = self.announce(number) {
                    self.due.push(Reverse((now + wait, number)));
                }
            }
            self.sim.step();
        }
    }

    /// Makes the next announce of a client. Returns the time until the one after it.
    fn announce(&mut self, number: usize) -> Option<u64> {
        let now = self.sim.now;
        let client = self.clients[number].clone();
        let Some(site) = self.site_for(&client) else {
            return Some(20_000 + self.random.below(60_000) as u64);
        };
        let client = &mut self.clients[number];
        client.left = client.left.checked_sub(1)?;
        let mut event = match client.last.is_none() || client.has_stopped {
            true => Event::Started,
            false => Event::None,
        };
        let known = self.sim.find(site, client.torrent, number as u32);
        client.has_stopped = false;
        match client.role {
            _ if client.last.is_some() && client.left == 0 && self.random.below(3) > 0 => {
                event = Event::Stopped;
                client.has_stopped = true;
                let is_syncing = self.sim.health(site) == Some(Health::Syncing);
                client.is_certain = known.is_some() || is_syncing;
            }
            Role::Leecher if client.completes => {
                event = Event::Completed;
                client.role = Role::Seeder;
            }
            Role::Seeder if self.random.below(20) == 0 => client.role = Role::Leecher,
            _ => {}
        }
        let since = self.sim.member(site).map_or(now, |member| member.since);
        let is_same = |(node, at)| node == site && at >= since;
        let knows_role = known.is_some_and(|known| known.0 == client.role);
        client.is_by_walk =
            !client.last.is_some_and(is_same) && event != Event::Stopped && knows_role;
        client.last = Some((site, now));
        self.sim
            .announce(site, client.torrent, number as u32, client.role, event);
        client.completes = client.role == Role::Leecher && self.random.below(3) == 0;
        match client.has_stopped {
            // Some start again soon, at the same node.
            true if self.random.below(8) == 0 => {
                client.left = 1 + self.random.below(3);
                Some(self.random.below(100_000) as u64)
            }
            true => None,
            false if client.completes => Some(self.random.below(client.interval as usize) as u64),
            false => Some(client.interval),
        }
    }

    /// The node for an announce, if one serves the client now. A client contradicts its last announce at the same node,
    /// or some units later: another node may not know that announce yet, and versions are no finer.
    fn site_for(&mut self, client: &Client) -> Option<usize> {
        let is_same = client.last.is_some_and(|(site, at)| {
            let member = self.sim.member(site);
            self.sim.serves(site) && member.is_some_and(|member| member.since < at)
        });
        if is_same && (client.has_stopped || self.random.below(10) > 0) {
            return client.last.map(|(site, _)| site);
        }
        let soonest = client.last.map_or(0, |(_, at)| at + 4 * UNIT_MS);
        let site = self.random.below(self.sim.nodes());
        (self.sim.now >= soonest && self.sim.serves(site)).then_some(site)
    }

    fn at(&mut self, at: u64, action: Action) {
        let number = self.actions.len() + self.random.below(1 << 40);
        self.actions.insert((at, number), action);
    }

    /// Plans faults that begin from now on and are over after `length`. Returns the time of their end.
    fn plan_storm(&mut self, length: u64, faults: usize) -> u64 {
        let (now, nodes) = (self.sim.now, self.sim.nodes());
        for _ in 0..faults {
            let from = now + self.random.below(length as usize * 3 / 4) as u64;
            // A connection that dies silently is a fault until a node can notice it.
            let longest = (now + length - from - 11_000) as usize;
            let to = from + self.random.below(longest) as u64;
            let (a, b) = (self.random.below(nodes), self.random.below(nodes));
            let coin = self.random.below(2) == 0;
            match self.random.below(8) {
                0 => {
                    let sides = (0..nodes).map(|_| self.random.below(2) == 0).collect();
                    self.at(from, Action::Cut(sides, to - from, coin));
                }
                1 => {
                    self.at(from, Action::Crash(a, coin, false));
                    self.at(to, Action::Start(a));
                }
                2 => {
                    self.at(from, Action::Finish(a));
                    self.at(to, Action::Start(a));
                }
                3 => {
                    // Several start at once, with old tables or none.
                    for site in [a, b, (b + 1) % nodes] {
                        self.at(from, Action::Crash(site, coin, site != a));
                        self.at(to, Action::Start(site));
                    }
                }
                4 => {
                    let ms = if coin { 480_000 } else { 2_400_000 };
                    let ms = length.saturating_sub(11_000).min(ms);
                    let from = now + self.random.below((length - ms - 11_000) as usize + 1) as u64;
                    let stood_still = self.random.below(2) == 0;
                    if stood_still {
                        self.stood_still = self.stood_still.max(ms);
                    }
                    self.at(from, Action::Suspend(a, b % 2 == 0));
                    self.at(from + ms, Action::Resume(a, stood_still));
                }
                5 => self.at(to, Action::Disconnect(a, b, coin)),
                6 => {
                    // The node joins over slow links.
                    let rate = 1 + self.random.below(50) as u64;
                    self.at(from, Action::Rate(a, rate));
                    self.at(from, Action::Crash(a, false, coin));
                    self.at(from + 1000, Action::Start(a));
                    self.at(to.max(from + 1000), Action::Rate(a, FAST));
                }
                _ => {
                    let ms = self.random.below(10_000_000) as i64 - 5_000_000;
                    self.at(from, Action::StepWall(a, ms));
                }
            }
        }
        now + length
    }

    fn act(&mut self, action: Action) {
        if world::is_traced() {
            println!("{} {action:?}", self.sim.now);
        }
        let (now, nodes) = (self.sim.now, self.sim.nodes());
        match action {
            Action::Start(site) if self.sim.is_finishing(site) => {
                self.at(now + 1000, Action::Start(site));
            }
            Action::Start(site) => {
                let saved = std::mem::take(&mut self.saved[site]);
                self.sim.start(site, &saved);
            }
            Action::Crash(site, is_host, saves) if self.sim.members[site].is_some() => {
                if saves && self.sim.serves(site) {
                    self.saved[site] = self.sim.save(site);
                }
                self.sim.crash(site, is_host);
                self.doubt(site);
            }
            Action::Finish(site) if self.sim.member(site).is_some_and(|m| m.is_awake()) => {
                self.saved[site] = self.sim.save(site);
                self.sim.finish(site);
                self.doubt(site);
            }
            Action::Crash(..) | Action::Finish(_) => {}
            Action::Suspend(site, is_host) => self.sim.suspend(site, is_host),
            Action::Resume(site, stood_still) => self.sim.resume(site, stood_still),
            Action::Cut(sides, ms, is_noticed) => {
                for (a, b) in pairs(nodes).filter(|(a, b)| sides[*a] != sides[*b]) {
                    let path = self.sim.path(a, b);
                    path.cut_until = path.cut_until.max(now + ms);
                    if is_noticed {
                        self.sim.disconnect(a, b, true);
                    }
                }
            }
            Action::Disconnect(a, b, is_noticed) => self.sim.disconnect(a, b, is_noticed),
            Action::Rate(site, rate) => {
                for other in (0..nodes).filter(|other| *other != site) {
                    self.sim.path(site, other).rate = rate;
                }
            }
            // Nobody sets the clock of a host that sleeps.
            Action::StepWall(site, ms) => {
                let member = self.sim.members[site].as_mut();
                if let Some(member) = member.filter(|member| member.is_awake()) {
                    member.wall_ahead += ms;
                }
            }
        }
    }

    /// After the end of a node, the stops that it may not have sent are uncertain.
    fn doubt(&mut self, site: usize) {
        for client in &mut self.clients {
            let is_its = |(node, at)| node == site && at + NEWS_MS > self.agreed_at;
            client.is_certain &= !(client.has_stopped && client.last.is_some_and(is_its));
        }
    }

    /// Compares all tables with the announces of the clients.
    fn check(&mut self, is_undisturbed: bool) {
        let now = self.sim.now;
        let mut seen = vec![None; self.clients.len()];
        for site in 0..self.sim.nodes() {
            assert_eq!(self.sim.health(site), Some(Health::Ok), "node {site}");
            seen.fill(None);
            self.sim.visit(site, &mut |met| {
                if let Met::Peer(stored) = met {
                    let number = stored.peer as usize;
                    assert_eq!(stored.torrent, self.clients[number].torrent);
                    assert_eq!(seen[number].replace(stored.role), None, "is stored twice");
                }
            });
            for (number, (client, seen)) in self.clients.iter().zip(&seen).enumerate() {
                let must = self.must(client, is_undisturbed);
                assert!(
                    must.is_none_or(|must| must == *seen),
                    "{now}: peer {number} is {seen:?} on node {site}, expected {must:?}: {client:?}"
                );
            }
        }
        self.agreed_at = now;
    }

    /// The role in which all nodes must have a client, where that is certain: `Some(None)` if none may have it.
    fn must(&self, client: &Client, is_undisturbed: bool) -> Option<Option<Role>> {
        let now = self.sim.now;
        let Some((site, at)) = client.last else {
            return Some(None);
        };
        let age = now - at;
        let member = self.sim.member(site);
        let is_lost = member.is_none_or(|member| member.since >= at);
        match client.has_stopped {
            _ if age < NEWS_MS || client.is_by_walk && age < 9 * UNIT_MS => None,
            // A node does not send the stop of a peer that it did not know.
            true if is_undisturbed && (client.is_certain || age > TIMEOUT_MS + 4 * UNIT_MS) => {
                Some(None)
            }
            true => (client.is_certain && age < KEPT_MS).then_some(None),
            false if age > TIMEOUT_MS + 4 * UNIT_MS + self.stood_still => Some(None),
            false if age > TIMEOUT_MS + 4 * UNIT_MS && is_undisturbed => Some(None),
            false if age > TIMEOUT_MS - 5 * UNIT_MS || is_lost => None,
            false => Some(Some(client.role)),
        }
    }
}

/// The seeds of a test: `count` from `first` on, or `ANNOUNCED_SEED`.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let chosen = std::env::var("ANNOUNCED_SEED").ok();
    let chosen = chosen.map(|seed| seed.parse::<u64>().expect("ANNOUNCED_SEED is a number"));
    chosen.map_or(first..first + count, |seed| seed..seed + 1)
}

fn simulate(nodes: usize, torrents: usize, announces: usize, seed: u64) {
    // The last of these lines in the output of a failure runs it again.
    println!("ANNOUNCED_SEED={seed} cargo test --test simulation");
    let mut run = Run::new(nodes, seed);
    run.add_clients(torrents, announces);
    let begin = run.sim.now;
    run.run_until(begin + TIMEOUT_MS / 4);
    run.check(false);
    while run.sim.now < begin + 2 * TIMEOUT_MS {
        let length = TIMEOUT_MS / 16 + run.random.below(TIMEOUT_MS as usize) as u64;
        let faults = 1 + run.random.below(8 + nodes / 2);
        let end = run.plan_storm(length, faults);
        run.run_until(end + SETTLE_MS);
        run.check(false);
    }
    run.run_until(run.sim.now + TIMEOUT_MS + 4 * UNIT_MS);
    run.check(true);
    let peers = run.sim.contents(0).1.len();
    assert!(peers > announces / 100, "too few peers are left to compare");
}

#[test]
fn twelve_nodes_agree_after_storms_of_faults() {
    seeds(1, 1).for_each(|seed| simulate(12, 100_000, 1_000_000, seed));
}

#[test]
fn fifty_nodes_agree_after_storms_of_faults() {
    seeds(2, 1).for_each(|seed| simulate(50, 10_000, 100_000, seed));
}

#[test]
fn few_nodes_agree_after_storms_of_faults() {
    seeds(100, 20).for_each(|seed| simulate(2 + seed as usize % 5, 200, 4000, seed));
}
