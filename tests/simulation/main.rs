//! The cluster under a scheduler: the nodes that the daemon drives with sockets, over a network that parts, stalls
//! and loses connections, on hosts that crash and sleep, with clocks that step.
//!
//! All of it follows from a seed. A failing one is printed; `ANNOUNCED_SEED=n` runs that one alone, and
//! `ANNOUNCED_TRACE=1` prints faults and what nodes log.
//!
//! The model is the clients' view: each knows to which node it announced last, when, and in which role. Faults come in
//! storms. 15 seconds after a storm every peer that a running node was told of within the peer timeout is on all
//! nodes in its role, and no peer that stopped within five minutes is on any. After a peer timeout without faults
//! all tables are what the clients told. The protocol does not promise more, and the model allows for that:
//! - A stop is lost if its node ends before it has told the others, or does not know the peer.
//! - Peers of a node that ended live on elsewhere until they expire, or do not.
//! - A client that changes to a node which knows it is told by the walk, even to nodes that do not know it.
//! - A node whose clock stood still makes its peers as much younger to nodes that have been started meanwhile.
//! - A stop that is older than five minutes may come back with a node that was away.

mod frames;
mod named;
mod world;

use announced::random::Random;
use announced::stats::cluster::Health;
use announced::tracker::{Event, Role};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use world::{FAST, Saved, Sim, pairs};

/// What the cluster may take to agree after the last fault.
const SETTLE_MS: u64 = 15_000;
/// News is told within a second: 100 ms, a tick of both sides, a latency, and some for a queue.
const NEWS_MS: u64 = 1000;
const KEPT_MS: u64 = 300_000;

#[derive(Clone, Copy, Debug)]
struct Plan {
    nodes: usize,
    torrents: usize,
    announces: usize,
}

/// Seconds.
const PEER_TIMEOUT: u32 = 2700;

#[derive(Clone)]
struct Client {
    torrent: u32,
    role: Role,
    interval: u64,
    /// Announces to come.
    left: usize,
    /// The node of the last announce, and when that was; none before the first.
    told: Option<(usize, u64)>,
    /// Whether it will complete with its next announce.
    completes: bool,
    has_stopped: bool,
    /// Whether its stop cannot be lost.
    is_certain: bool,
    /// Its last announce was to another node, or another process, than before, which knew it already.
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
    plan: Plan,
    sim: Sim,
    random: Random,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    actions: BTreeMap<(u64, usize), Action>,
    saved: Vec<Saved>,
    /// For how long a clock has stood still: a node that tells peers before it knows that makes them as much younger.
    stood_still: u64,
    /// When all nodes were last found to agree.
    agreed_at: u64,
    announced: usize,
}

impl Run {
    fn new(plan: Plan, seed: u64) -> Run {
        let mut run = Run {
            plan,
            sim: Sim::new(plan.nodes, PEER_TIMEOUT, seed),
            random: Random::seeded(!seed),
            clients: Vec::new(),
            due: BinaryHeap::new(),
            actions: BTreeMap::new(),
            saved: (0..plan.nodes).map(|_| Saved::default()).collect(),
            stood_still: 0,
            agreed_at: 0,
            announced: 0,
        };
        (0..plan.nodes).for_each(|site| run.sim.start(site, &Saved::default()));
        run.add_clients();
        run
    }

    fn timeout_ms(&self) -> u64 {
        u64::from(PEER_TIMEOUT) * 1000
    }

    /// Clients come evenly over three and a half timeouts and announce four times on average.
    fn add_clients(&mut self) {
        let timeout = self.timeout_ms();
        let lasts = timeout as usize * 7 / 2;
        for number in 0..self.plan.announces * 7 / 20 {
            // Some swarms are large and many small.
            let torrent = match self.random.below(4) {
                0 => self.random.below(1 + self.plan.torrents / 100),
                _ => self.random.below(self.plan.torrents),
            };
            self.clients.push(Client {
                torrent: torrent as u32,
                role: [Role::Leecher, Role::Seeder][self.random.below(2)],
                interval: if number % 16 == 0 {
                    timeout * 38 / 45
                } else {
                    timeout * 2 / 3
                },
                left: 1 + self.random.below(7),
                told: None,
                completes: false,
                has_stopped: false,
                is_certain: true,
                is_by_walk: false,
            });
            // Those that are there in the beginning are in the middle of their lives.
            let at = self
                .random
                .below(lasts)
                .saturating_sub(timeout as usize / 2);
            self.due.push(Reverse((self.sim.now + at as u64, number)));
        }
    }

    fn run_until(&mut self, until: u64) {
        while self.sim.now < until {
            let now = self.sim.now;
            while let Some(entry) = self
                .actions
                .first_entry()
                .filter(|entry| entry.key().0 <= now)
            {
                let action = entry.remove();
                self.act(action);
            }
            while let Some(Reverse((_, number))) = self.due.peek().copied().filter(|d| d.0.0 <= now)
            {
                self.due.pop();
                if let Some(wait) = self.announce(number) {
                    self.due.push(Reverse((now + wait, number)));
                }
            }
            self.sim.step();
        }
    }

    /// The next announce of a client; when the one after that is due.
    fn announce(&mut self, number: usize) -> Option<u64> {
        let now = self.sim.now;
        let client = self.clients[number].clone();
        let Some(site) = self.site_for(&client) else {
            return Some(20_000 + self.random.below(60_000) as u64);
        };
        let client = &mut self.clients[number];
        let is_back = client.has_stopped;
        client.left = client.left.checked_sub(1)?;
        let mut event = if client.told.is_none() || is_back {
            Event::Started
        } else {
            Event::None
        };
        client.has_stopped = false;
        match client.role {
            _ if client.told.is_some() && client.left == 0 && self.random.below(3) > 0 => {
                event = Event::Stopped;
                client.has_stopped = true;
                let is_syncing = self.sim.health(site) == Some(Health::Syncing);
                let is_known = self.sim.find(site, client.torrent, number as u32).is_some();
                client.is_certain = is_known || is_syncing;
            }
            Role::Leecher if client.completes => {
                event = Event::Completed;
                client.role = Role::Seeder;
            }
            Role::Seeder if self.random.below(20) == 0 => client.role = Role::Leecher,
            _ => {}
        }
        let since = self.sim.members[site]
            .as_ref()
            .map_or(now, |member| member.since);
        let has_moved = client
            .told
            .is_none_or(|(told, at)| told != site || at < since);
        let known = self
            .sim
            .find(site, client.torrent, number as u32)
            .map(|found| found.0);
        client.is_by_walk = has_moved && event != Event::Stopped && known == Some(client.role);
        client.told = Some((site, now));
        self.sim
            .announce(site, client.torrent, number as u32, client.role, event);
        self.announced += 1;
        client.completes = client.role == Role::Leecher && self.random.below(3) == 0;
        match client.has_stopped {
            // Some come back soon, to the same node.
            true if self.random.below(8) == 0 => {
                client.left = 1 + self.random.below(3);
                Some(self.random.below(100_000) as u64)
            }
            true => None,
            false if client.completes => Some(self.random.below(client.interval as usize) as u64),
            false => Some(client.interval),
        }
    }

    /// The node that a client announces to, if one serves it now. A client that contradicts itself does so on the node that
    /// it told last, or some units later: another node may not know of it yet, and versions are no finer than that.
    fn site_for(&mut self, client: &Client) -> Option<usize> {
        let since = |site: usize| self.sim.members[site].as_ref().map(|member| member.since);
        let is_same = client.told.is_some_and(|(site, at)| {
            self.sim.serves(site) && since(site).is_some_and(|since| since < at)
        });
        if is_same && (client.has_stopped || self.random.below(10) > 0) {
            return client.told.map(|(site, _)| site);
        }
        let soonest = client.told.map_or(0, |(_, at)| at + 4 * self.sim.unit_ms());
        let site = self.random.below(self.plan.nodes);
        (self.sim.now >= soonest && self.sim.serves(site)).then_some(site)
    }

    fn at(&mut self, at: u64, action: Action) {
        let number = self.actions.len() + self.random.below(1 << 40);
        self.actions.insert((at, number), action);
    }

    /// Plans faults for the time from now to `length` later, by when all are over. Returns that time.
    fn plan_storm(&mut self, length: u64, faults: usize) -> u64 {
        let (now, nodes) = (self.sim.now, self.plan.nodes);
        for _ in 0..faults {
            let from = now + self.random.below(length as usize * 3 / 4) as u64;
            // A connection that died in silence is a fault until a node can notice it.
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
                    let ms = (ms * self.timeout_ms() / 2_700_000).min(length - 11_000);
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
                    // It joins over a slow link.
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
        let nodes = self.plan.nodes;
        let now = self.sim.now;
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
            Action::Finish(site)
                if self.sim.members[site]
                    .as_ref()
                    .is_some_and(|m| m.is_awake()) =>
            {
                self.saved[site] = self.sim.save(site);
                self.sim.finish(site);
                self.doubt(site);
            }
            Action::Crash(..) | Action::Finish(_) => {}
            Action::Suspend(site, is_host) => self.sim.suspend(site, is_host),
            Action::Resume(site, stood_still) => self.sim.resume(site, stood_still),
            Action::Cut(sides, ms, is_told) => {
                for (a, b) in pairs(nodes).filter(|(a, b)| sides[*a] != sides[*b]) {
                    self.sim
                        .path(a, b, |path| path.cut_until = path.cut_until.max(now + ms));
                    if is_told {
                        self.sim.disconnect(a, b, true);
                    }
                }
            }
            Action::Disconnect(a, b, is_told) => self.sim.disconnect(a, b, is_told),
            Action::Rate(site, rate) => {
                for other in (0..nodes).filter(|other| *other != site) {
                    self.sim.path(site, other, |path| path.rate = rate);
                }
            }
            Action::StepWall(site, ms) => {
                if let Some(member) = &mut self.sim.members[site] {
                    member.wall_ahead += ms;
                }
            }
        }
    }

    /// A node ends: stops that it may not have told are uncertain.
    fn doubt(&mut self, site: usize) {
        for client in &mut self.clients {
            let is_its = |(told, at)| told == site && at + NEWS_MS > self.agreed_at;
            client.is_certain &= !(client.has_stopped && client.told.is_some_and(is_its));
        }
    }

    /// Compares all tables with what the clients told.
    fn check(&mut self, is_undisturbed: bool) {
        let now = self.sim.now;
        let mut seen = vec![None; self.clients.len()];
        for site in 0..self.plan.nodes {
            assert_eq!(self.sim.health(site), Some(Health::Ok), "node {site}");
            seen.fill(None);
            self.sim.visit(site, &mut |met| match met {
                Ok(_) => {}
                Err(stored) => {
                    let number = stored.peer as usize;
                    assert_eq!(stored.torrent, self.clients[number].torrent);
                    assert_eq!(seen[number].replace(stored.role), None, "is stored twice");
                }
            });
            for (number, seen) in seen.iter().enumerate() {
                let Some(must) = self.must(&self.clients[number], is_undisturbed) else {
                    continue;
                };
                let client = &self.clients[number];
                let ago = client.told.map(|(told, at)| (told, now - at));
                assert_eq!(
                    *seen,
                    must,
                    "peer {number} of torrent {} on node {site}: told (node, ms ago) {ago:?}, stopped: {}, stored: {:?}",
                    client.torrent,
                    client.has_stopped,
                    (0..self.plan.nodes)
                        .map(|site| self.sim.find(site, client.torrent, number as u32))
                        .collect::<Vec<_>>(),
                );
            }
        }
        self.agreed_at = now;
    }

    /// What every node must have of a client, if that is certain: its role, or nothing.
    fn must(&self, client: &Client, is_undisturbed: bool) -> Option<Option<Role>> {
        let (now, unit) = (self.sim.now, self.sim.unit_ms());
        let Some((site, at)) = client.told else {
            return Some(None);
        };
        let age = now - at;
        let has_ended = |member: &world::Member| member.since >= at;
        let is_lost = self.sim.members[site]
            .as_ref()
            .is_none_or(|member| has_ended(member));
        match client.has_stopped {
            _ if age < NEWS_MS || client.is_by_walk && age < 9 * unit => None,
            // A stop at a node that did not know the peer is told to no other node.
            true if is_undisturbed && (client.is_certain || age > self.timeout_ms() + 4 * unit) => {
                Some(None)
            }
            true => (client.is_certain && age < KEPT_MS).then_some(None),
            false if age > self.timeout_ms() + 4 * unit + self.stood_still => Some(None),
            false if age > self.timeout_ms() + 4 * unit && is_undisturbed => Some(None),
            false if age > self.timeout_ms() - 5 * unit || is_lost => None,
            false => Some(Some(client.role)),
        }
    }
}

/// Prints how to run a failing seed again.
struct Again(u64);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "to run this again: ANNOUNCED_SEED={} cargo test --test simulation",
                self.0
            );
        }
    }
}

/// The seeds of a test: those from `first` on, or the one that the environment names.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let chosen = std::env::var("ANNOUNCED_SEED").ok();
    let chosen = chosen.map(|seed| seed.parse::<u64>().expect("ANNOUNCED_SEED is a number"));
    chosen.map_or(first..first + count, |seed| seed..seed + 1)
}

fn simulate(nodes: usize, torrents: usize, announces: usize, seed: u64) {
    let plan = Plan {
        nodes,
        torrents,
        announces,
    };
    let _again = Again(seed);
    let mut run = Run::new(plan, seed);
    let (begin, timeout) = (run.sim.now, run.timeout_ms());
    run.run_until(begin + timeout / 4);
    run.check(false);
    while run.sim.now < begin + 2 * timeout {
        let length = timeout / 16 + run.random.below(timeout as usize) as u64;
        let faults = 1 + run.random.below(8 + plan.nodes / 2);
        let end = run.plan_storm(length, faults);
        run.run_until(end + SETTLE_MS);
        run.check(false);
    }
    let calm = timeout + 4 * run.sim.unit_ms();
    run.run_until(run.sim.now + calm);
    run.check(true);
    let stored = run.sim.contents(0);
    assert!(
        stored.1.len() > plan.announces / 100,
        "too few peers are left to compare"
    );
    println!(
        "seed {seed}: {plan:?}: {} announces, {} MB sent, {} peers at the end",
        run.announced,
        run.sim.bytes >> 20,
        stored.1.len()
    );
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
