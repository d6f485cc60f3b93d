//! A world without sockets: nodes as values, their tables and clocks, and a network between them, in simulated time.
//!
//! Time advances in steps of [`STEP_MS`]. Every node ticks each [`TICK_MS`] of its own time. A connection is a pair of
//! byte pipes that deliver in order, with a latency and a rate; a cut path delays its bytes as TCP does if the cut
//! is short, and loses the connection otherwise, which neither side is told.

use announced::cluster::frame::Keys;
use announced::cluster::node::{self, ConnId, Node, Settings};
use announced::random::Random;
use announced::stats::cluster::{Failure, Health};
use announced::tracker::{
    Announce, COMPLETED, Cursor, Event, Found, Hint, InfoHash, Limits, Peer, RECORD_SIZES, Role,
    Sink, Sinks, Sweeper, Table,
};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

pub const STEP_MS: u64 = 10;
pub const TICK_MS: u64 = 50;
/// What sockets of both sides hold.
const SOCKET_BYTES: usize = 256 << 10;
/// A connection survives a cut that is shorter.
const SURVIVED_MS: u64 = 8000;
pub const FAST: u64 = 10_000;
pub const SECRET: &[u8] = b"a key that all nodes share";

pub fn is_traced() -> bool {
    std::env::var_os("ANNOUNCED_TRACE").is_some()
}

pub fn hash(torrent: u32) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&torrent.wrapping_mul(0x9e37_79b1).to_be_bytes());
    hash[16..].copy_from_slice(&torrent.to_be_bytes());
    hash
}

/// Every eighth peer has an IPv6 address.
pub fn address(peer: u32) -> Peer {
    let ip: IpAddr = match peer % 8 {
        0 => {
            let mut octets = [0x20; 16];
            octets[12..].copy_from_slice(&peer.to_be_bytes());
            octets.into()
        }
        _ => (0x0a00_0000 + peer).to_be_bytes().into(),
    };
    Peer::new(ip, 6881)
}

fn node_address(site: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, site as u8], 6970))
}

fn peer_at(endpoint: &[u8]) -> u32 {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    match endpoint.len() {
        6 => number(&endpoint[..4]).wrapping_sub(0x0a00_0000),
        _ => number(&endpoint[12..16]),
    }
}

/// A peer as a table stores it.
pub struct Stored {
    pub torrent: u32,
    pub peer: u32,
    pub role: Role,
    completed: bool,
    pub age: u8,
}

/// A node, its table and its clocks.
pub struct Member {
    pub node: Node,
    pub table: Table,
    sweeper: Sweeper,
    /// When it started, and when its clock stood at zero: later if the clock stood still.
    pub since: u64,
    zero: i64,
    pub wall_ahead: i64,
    /// Since when, and the table's clock of that time.
    asleep: Option<(u64, u64)>,
    slept: Option<(u64, u64)>,
    /// Since when it was neither down nor asleep.
    ran_since: u64,
    finishing: Option<u64>,
    conns: Vec<ConnId>,
    /// Attempts to connect: to which node, the connection, and when they end.
    dials: Vec<(usize, ConnId, u64)>,
}

impl Member {
    fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(-self.zero)
    }

    fn table_clock(&self, now: u64) -> u64 {
        self.table.lock(0, self.clock(now)).clock_ms()
    }

    pub fn is_awake(&self) -> bool {
        self.asleep.is_none()
    }

    /// Calls the node with the world as it sees it.
    fn with<T>(&mut self, now: u64, call: impl FnOnce(&mut Node, &node::World) -> T) -> T {
        let world = node::World {
            table: &self.table,
            now: self.clock(now),
            wall: (1_700_000_000_000 + now).saturating_add_signed(self.wall_ahead),
            refuses: &|_| false,
        };
        call(&mut self.node, &world)
    }
}

#[derive(Default)]
struct End {
    site: usize,
    is_open: bool,
    /// What is under way to it: when it arrives, and the bytes.
    inbox: VecDeque<(u64, Vec<u8>)>,
    waiting: usize,
    free_at: u64,
    /// When it learns that the connection has ended.
    ends_at: Option<u64>,
}

struct Pipe {
    ends: [End; 2],
    is_dead: bool,
}

#[derive(Clone, Copy)]
pub struct Path {
    pub latency: u64,
    /// Bytes a millisecond.
    pub rate: u64,
    pub cut_until: u64,
}

pub struct Sim {
    pub now: u64,
    pub random: Random,
    timeout: u32,
    pub members: Vec<Option<Box<Member>>>,
    paths: Vec<Path>,
    pipes: Vec<Option<Box<Pipe>>>,
    pub bytes: u64,
}

impl Sim {
    /// All nodes are down.
    pub fn new(nodes: usize, timeout: u32, seed: u64) -> Sim {
        let mut random = Random::seeded(seed);
        let mut paths = vec![
            Path {
                latency: 1,
                rate: FAST,
                cut_until: 0
            };
            nodes * nodes
        ];
        for (a, b) in pairs(nodes) {
            let latency = 1 + random.below(200) as u64;
            paths[a * nodes + b].latency = latency;
            paths[b * nodes + a].latency = latency;
        }
        Sim {
            now: 10_000_000,
            random,
            timeout,
            members: (0..nodes).map(|_| None).collect(),
            paths,
            pipes: Vec::new(),
            bytes: 0,
        }
    }

    /// With all nodes up and linked.
    pub fn started(nodes: usize, timeout: u32, seed: u64) -> Sim {
        let mut sim = Sim::new(nodes, timeout, seed);
        (0..nodes).for_each(|site| sim.start(site, &Saved::default()));
        sim.run(15_000);
        sim
    }

    pub fn is_finishing(&self, site: usize) -> bool {
        self.members[site]
            .as_ref()
            .is_some_and(|member| member.finishing.is_some())
    }

    pub fn nodes(&self) -> usize {
        self.members.len()
    }

    pub fn unit_ms(&self) -> u64 {
        u64::from(self.timeout) * 1000 / 48
    }

    /// Starts a node with what it saved.
    pub fn start(&mut self, site: usize, saved: &Saved) {
        if self.members[site].is_some() {
            return;
        }
        let limits = Limits {
            peer_timeout: self.timeout,
            max_peers: 1 << 23,
            max_torrents: 1 << 23,
        };
        let table = Table::new(limits, 1 + site % 3 / 2);
        let up = self.random.below(200_000) as u64;
        self.restore(&table, up, saved);
        let settings = Settings {
            keys: Keys::new(SECRET),
            id: self.random.draw(),
            seed: self.random.draw(),
            peer_timeout: self.timeout,
            max_peers: limits.max_peers,
            peers: (1..self.nodes())
                .map(|peer| format!("peer {peer}"))
                .collect(),
            port: 6970,
            has_live_sync: false,
        };
        let mut node = Node::new(settings, &table, up);
        for other in (0..self.nodes()).filter(|other| *other != site) {
            node.set_addresses(other - usize::from(other > site), vec![node_address(other)]);
        }
        let wall_ahead = self.random.below(4000) as i64 - 2000;
        self.members[site] = Some(Box::new(Member {
            node,
            table,
            sweeper: Sweeper::default(),
            since: self.now,
            zero: self.now as i64 - up as i64,
            wall_ahead,
            asleep: None,
            slept: None,
            ran_since: self.now,
            finishing: None,
            conns: Vec::new(),
            dials: Vec::new(),
        }));
    }

    fn restore(&self, table: &Table, now: u64, saved: &Saved) {
        let away = self.now.saturating_sub(saved.at).div_ceil(self.unit_ms());
        let units = away.min(100) as u8;
        for ((torrent, downloaded, empty_for), peers) in &saved.torrents {
            let hash = hash(*torrent);
            let mut tracker = table.lock_for(&hash, now);
            let at = tracker
                .restore_torrent(&hash, *downloaded, *empty_for)
                .expect("has room");
            for Stored {
                peer,
                role,
                completed,
                age,
                ..
            } in peers
            {
                if age + units <= 48 {
                    tracker.restore_peer(at, address(*peer), *role, *completed, age + units);
                }
            }
        }
    }

    /// Ends a process: connections are reset, or just silent if the whole host is gone.
    pub fn crash(&mut self, site: usize, is_host: bool) {
        let Some(member) = self.members[site].take() else {
            return;
        };
        for conn in member.conns {
            let Some(pipe) = pipe(&mut self.pipes, conn) else {
                continue;
            };
            pipe.is_dead |= is_host;
            let is_dead = pipe.is_dead;
            let (own, other) = ends(pipe, conn);
            own.is_open = false;
            let path = self.paths[site * self.members.len() + other.site];
            // The system still sends what the process has written.
            if !is_dead && self.now >= path.cut_until {
                other
                    .ends_at
                    .get_or_insert(self.now.max(other.free_at) + path.latency);
            }
        }
    }

    pub fn finish(&mut self, site: usize) {
        let now = self.now;
        if let Some(member) = self.members[site]
            .as_mut()
            .filter(|member| member.is_awake())
        {
            member.with(now, |node, world| node.finish(world));
            member.finishing.get_or_insert(now);
        }
    }

    /// What a node saves when it ends.
    pub fn save(&self, site: usize) -> Saved {
        let mut saved = Saved {
            at: self.now,
            torrents: Vec::new(),
        };
        self.visit(site, &mut |stored| match stored {
            Ok(torrent) => saved.torrents.push((torrent, Vec::new())),
            Err(peer) => saved.torrents.last_mut().expect("a torrent").1.push(peer),
        });
        saved
    }

    /// Suspends a process, or the whole host, whose connections are lost.
    pub fn suspend(&mut self, site: usize, is_host: bool) {
        let Some(member) = self.members[site].as_mut() else {
            return;
        };
        let clock = member.table_clock(self.now);
        member.asleep.get_or_insert((self.now, clock));
        for conn in member.conns.iter().filter(|_| is_host) {
            if let Some(pipe) = pipe(&mut self.pipes, *conn) {
                pipe.is_dead = true;
            }
        }
    }

    /// Goes on; the clock may have stood still, if another node can tell it so.
    pub fn resume(&mut self, site: usize, stood_still: bool) {
        let now = self.now;
        let Some((since, _)) = self.members[site].as_ref().and_then(|member| member.asleep) else {
            return;
        };
        let is_told = (0..self.nodes()).any(|other| {
            let is_near = self.paths[site * self.nodes() + other].cut_until <= now;
            let ran = |member: &Member| member.is_awake() && member.ran_since < since;
            is_near
                && self.members[other]
                    .as_ref()
                    .is_some_and(|member| ran(member))
        });
        if let Some(member) = &mut self.members[site] {
            member.slept = member.asleep.take();
            member.ran_since = now;
            if stood_still && is_told {
                member.zero += (now - since) as i64;
            }
        }
    }

    /// Changes a path in both directions.
    pub fn path(&mut self, a: usize, b: usize, change: impl Fn(&mut Path)) {
        let nodes = self.nodes();
        change(&mut self.paths[a * nodes + b]);
        change(&mut self.paths[b * nodes + a]);
    }

    /// Ends the connections of two nodes: both are told, or neither is.
    pub fn disconnect(&mut self, a: usize, b: usize, is_told: bool) {
        let now = self.now;
        for pipe in self.pipes.iter_mut().flatten() {
            if [pipe.ends[0].site, pipe.ends[1].site] == [a, b]
                || [pipe.ends[0].site, pipe.ends[1].site] == [b, a]
            {
                pipe.is_dead = true;
                if is_told {
                    pipe.ends.iter_mut().for_each(|end| end.ends_at = Some(now));
                }
            }
        }
    }

    /// Whether clients are answered. They are not sent to a node before it knows that its clock stood still.
    pub fn serves(&self, site: usize) -> bool {
        self.members[site].as_ref().is_some_and(|member| {
            member.is_awake()
                && member.finishing.is_none()
                && member.slept.is_none_or(|(at, clock)| {
                    member.table_clock(self.now) + self.unit_ms() > clock + (self.now - at)
                })
                && !member.table.is_held(member.clock(self.now))
        })
    }

    /// A client announces.
    pub fn announce(&mut self, site: usize, torrent: u32, peer: u32, role: Role, event: Event) {
        let member = self.members[site].as_ref().expect("is up");
        let hash = hash(torrent);
        let announce = Announce {
            info_hash: &hash,
            peer: address(peer),
            role,
            event,
            want: 0,
            hint: Hint::default(),
        };
        let mut sinks = Sinks {
            v4: Sink::new(&mut []),
            v6: Sink::new(&mut []),
        };
        let mut tracker = member.table.lock_for(&hash, member.clock(self.now));
        tracker.announce(&announce, &mut self.random, &mut sinks);
    }

    pub fn table_clock(&self, site: usize) -> u64 {
        let member = self.members[site].as_ref().expect("is up");
        member.table_clock(self.now)
    }

    pub fn health(&self, site: usize) -> Option<Health> {
        let member = self.members[site].as_ref()?;
        Some(member.node.health())
    }

    pub fn downloaded(&self, site: usize, torrent: u32) -> u32 {
        let member = self.members[site].as_ref().expect("is up");
        let counts = member.table.scrape(&hash(torrent), member.clock(self.now));
        counts.map_or(0, |counts| counts.downloaded)
    }

    /// A peer's role and age in units on a node.
    pub fn find(&self, site: usize, torrent: u32, peer: u32) -> Option<(Role, u8)> {
        let member = self.members[site].as_ref()?;
        let now = member.clock(self.now);
        let (hash, endpoint) = (hash(torrent), address(peer));
        let tracker = member.table.lock_for(&hash, now);
        let (mut cursor, mut is_in, mut found) = (Some(Cursor::at(hash)), true, None);
        while let (Some(from), true) = (cursor, is_in) {
            cursor = tracker.walk(from, 1, &mut |met| match met {
                Found::Torrent { info_hash, .. } => is_in = *info_hash == hash,
                Found::Peers { list, records } if is_in => {
                    for record in records.chunks(RECORD_SIZES[usize::from(list)]) {
                        let (tag, bytes) = record.split_last().expect("a record");
                        if bytes == endpoint.endpoint() {
                            found = tracker.age(*tag).map(|age| (role_of(list), age));
                        }
                    }
                }
                Found::Peers { .. } => {}
            });
        }
        found
    }

    /// All torrents of a node, each before its peers that have not expired.
    pub fn visit(&self, site: usize, visit: &mut dyn FnMut(Result<SavedTorrent, Stored>)) {
        let member = self.members[site].as_ref().expect("is up");
        let now = member.clock(self.now);
        let clock = member.table.lock(0, now).clock();
        let (mut torrent, mut cursor) = (0, Some(Cursor::default()));
        while let Some(from) = cursor {
            cursor = member.table.walk(from, now, 10_000, &mut |met| match met {
                Found::Torrent {
                    info_hash,
                    downloaded,
                    empty_for,
                } => {
                    torrent = u32::from_be_bytes(info_hash[16..].try_into().expect("four"));
                    assert_eq!(*info_hash, hash(torrent), "no client told of this torrent");
                    visit(Ok((torrent, downloaded, empty_for.unwrap_or(0))));
                }
                Found::Peers { list, records } => {
                    for record in records.chunks(RECORD_SIZES[usize::from(list)]) {
                        let (tag, bytes) = record.split_last().expect("a record");
                        let peer = peer_at(bytes);
                        assert_eq!(
                            address(peer).endpoint(),
                            bytes,
                            "no client has this address"
                        );
                        let completed = tag & COMPLETED != 0;
                        let (role, age) = (role_of(list), clock.age(*tag));
                        if !clock.expired(*tag) {
                            visit(Err(Stored {
                                torrent,
                                peer,
                                role,
                                completed,
                                age,
                            }));
                        }
                    }
                }
            });
        }
    }

    /// Torrents that have peers or were downloaded, and all peers with their roles.
    pub fn contents(&self, site: usize) -> (Vec<u32>, Vec<(u32, u32, Role)>) {
        let (mut torrents, mut peers) = (Vec::new(), Vec::new());
        self.visit(site, &mut |met| match met {
            Ok((torrent, downloaded, _)) if downloaded > 0 => torrents.push(torrent),
            Ok(_) => {}
            Err(stored) => peers.push((stored.torrent, stored.peer, stored.role)),
        });
        torrents.sort_unstable();
        peers.sort_unstable();
        (torrents, peers)
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.now += STEP_MS;
        for site in 0..self.nodes() {
            if (self.now / STEP_MS + site as u64) % (TICK_MS / STEP_MS) == 0 {
                self.tick(site);
            }
        }
    }

    fn tick(&mut self, site: usize) {
        let Some(mut member) = self.members[site].take() else {
            return;
        };
        if member.is_awake() {
            self.connect(site, &mut member);
            self.read(&mut member);
            self.work(site, &mut member);
        }
        let now = member.clock(self.now);
        let is_over = member
            .finishing
            .is_some_and(|begin| member.node.is_finished(now) || self.now > begin + 2500);
        self.members[site] = Some(member);
        if is_over {
            self.crash(site, false);
        }
    }

    fn work(&mut self, site: usize, member: &mut Member) {
        let now = self.now;
        let clock = member.clock(now);
        member.sweeper.step(&member.table, clock, 5000, None);
        for _ in 0..100 {
            let has_more = member.with(now, |node, world| node.tick(world));
            for line in member.node.lines.drain(..).filter(|_| is_traced()) {
                println!("{now} node {site}: {line}");
            }
            self.write(site, member);
            if !has_more {
                break;
            }
        }
        while let Some((peer, address)) = member.node.next_dial(clock) {
            let other = if peer >= site { peer + 1 } else { peer };
            let path = self.paths[site * self.nodes() + other];
            let is_silent = now < path.cut_until
                || self.members[other]
                    .as_ref()
                    .is_some_and(|other| !other.is_awake());
            let takes = if is_silent { 3000 } else { 2 * path.latency };
            let conn = 2 * self.pipes.len() as ConnId;
            self.pipes.push(None);
            member.node.open(conn, Some(peer), address, clock);
            member.dials.push((other, conn, now + takes));
        }
    }

    /// Ends the attempts to connect that are due.
    fn connect(&mut self, site: usize, member: &mut Member) {
        let now = self.now;
        let clock = member.clock(now);
        for (other, conn, at) in std::mem::take(&mut member.dials) {
            if at > now {
                member.dials.push((other, conn, at));
                continue;
            }
            let is_cut = now < self.paths[site * self.nodes() + other].cut_until;
            match &mut self.members[other] {
                _ if member.node.output(conn).is_none() => {}
                Some(callee) if !is_cut && callee.is_awake() => {
                    let end = |site| End {
                        site,
                        is_open: true,
                        ..End::default()
                    };
                    let ends = [end(site), end(other)];
                    self.pipes[conn as usize / 2] = Some(Box::new(Pipe {
                        ends,
                        is_dead: false,
                    }));
                    // From a port of its own.
                    let caller = SocketAddr::new(node_address(site).ip(), 40_000);
                    member.conns.push(conn);
                    callee.conns.push(conn + 1);
                    member.with(now, |node, w| node.connected(conn, w));
                    callee.node.open(conn + 1, None, caller, callee.clock(now));
                }
                Some(_) => member.node.closed(conn, Failure::TimedOut, clock),
                None => member.node.closed(conn, Failure::Unreachable, clock),
            }
        }
    }

    fn read(&mut self, member: &mut Member) {
        let now = self.now;
        for at in (0..member.conns.len()).rev() {
            let conn = member.conns[at];
            let Some(pipe) = pipe(&mut self.pipes, conn) else {
                continue;
            };
            let (own, _) = ends(pipe, conn);
            while own.inbox.front().is_some_and(|chunk| chunk.0 <= now) {
                let (_, bytes) = own.inbox.pop_front().expect("is there");
                own.waiting -= bytes.len();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let most = rest.len().min(64 << 10);
                    let size = match self.random.below(8) {
                        0 => 1 + self.random.below(most),
                        _ => most,
                    };
                    let (piece, behind) = rest.split_at(size);
                    member.with(now, |node, world| node.receive(conn, piece, world));
                    rest = behind;
                }
            }
            if own.ends_at.is_some_and(|at| at <= now) {
                own.is_open = false;
                let clock = member.clock(now);
                member.node.closed(conn, Failure::Closed, clock);
                member.conns.swap_remove(at);
                self.forget(conn);
            }
        }
    }

    fn write(&mut self, site: usize, member: &mut Member) {
        let now = self.now;
        for at in (0..member.conns.len()).rev() {
            let conn = member.conns[at];
            let Some(pipe) = pipe(&mut self.pipes, conn) else {
                continue;
            };
            let is_dead = pipe.is_dead;
            let (own, other) = ends(pipe, conn);
            let path = self.paths[site * self.members.len() + other.site];
            let Some(bytes) = member.node.output(conn) else {
                own.is_open = false;
                if !is_dead && now >= path.cut_until {
                    other
                        .ends_at
                        .get_or_insert(now.max(other.free_at) + path.latency);
                }
                member.conns.swap_remove(at);
                self.forget(conn);
                continue;
            };
            let size = bytes.len().min(SOCKET_BYTES - other.waiting);
            if size == 0 {
                continue;
            }
            if !other.is_open && now >= path.cut_until {
                own.ends_at.get_or_insert(now + 2 * path.latency);
            }
            let is_lost = is_dead || path.cut_until > now + SURVIVED_MS;
            if !is_lost {
                let begins = now.max(other.free_at).max(path.cut_until);
                other.free_at = begins + size as u64 / path.rate;
                let chunk = (other.free_at + path.latency, bytes[..size].to_vec());
                other.inbox.push_back(chunk);
            }
            other.waiting += size;
            self.bytes += size as u64;
            pipe.is_dead |= is_lost;
            member.node.sent(conn, size);
        }
    }

    /// Drops a connection that neither side has open.
    fn forget(&mut self, conn: ConnId) {
        let slot = &mut self.pipes[conn as usize / 2];
        if slot
            .as_ref()
            .is_some_and(|pipe| pipe.ends.iter().all(|end| !end.is_open))
        {
            *slot = None;
        }
    }
}

/// A torrent's number, its downloads, and for how many seconds it has been empty.
pub type SavedTorrent = (u32, u32, u32);

/// A table as it was at some time.
#[derive(Default)]
pub struct Saved {
    at: u64,
    torrents: Vec<(SavedTorrent, Vec<Stored>)>,
}

fn role_of(list: u8) -> Role {
    [Role::Leecher, Role::Seeder][usize::from(list % 2)]
}

fn pipe(pipes: &mut [Option<Box<Pipe>>], conn: ConnId) -> Option<&mut Pipe> {
    pipes[conn as usize / 2].as_deref_mut()
}

/// A side's own end of a connection, and the other one.
fn ends(pipe: &mut Pipe, conn: ConnId) -> (&mut End, &mut End) {
    let [dialler, acceptor] = &mut pipe.ends;
    match conn % 2 {
        0 => (dialler, acceptor),
        _ => (acceptor, dialler),
    }
}

/// All pairs of nodes.
pub fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |b| (0..b).map(move |a| (a, b)))
}
