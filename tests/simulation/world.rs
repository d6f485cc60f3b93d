//! A world without sockets: nodes as values, their tables and clocks, and a network between them, in simulated time.
//!
//! Time advances in steps of [`STEP_MS`]. Every node ticks each [`TICK_MS`]. A connection is a pair of byte pipes that
//! deliver in order, with a latency and a rate. A short cut of a path delays its bytes, as with TCP. A longer one loses
//! the connection without notice.

use announced::base::random::Random;
use announced::cluster::frame::Keys;
use announced::cluster::node::{self, ConnId, Node, Settings};
use announced::stats::cluster::{Failure, Health};
use announced::tracker::{
    Announce, COMPLETED, Cursor, Event, Found, InfoHash, Limits, Peer, RECORD_SIZES, Role, Sinks,
    Sweeper, Table,
};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Seconds.
pub const PEER_TIMEOUT: u32 = 2700;
pub const UNIT_MS: u64 = PEER_TIMEOUT as u64 * 1000 / 48;
pub const STEP_MS: u64 = 10;
pub const TICK_MS: u64 = 50;
/// Bytes in the buffers of both sockets of a connection.
const SOCKET_BYTES: usize = 256 << 10;
/// A connection survives a shorter cut.
const SURVIVED_MS: u64 = 8000;
pub const FAST: u64 = 10_000;
const MAX_PEERS: usize = 1 << 23;
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
    match endpoint.len() {
        6 => number(&endpoint[..4]).wrapping_sub(0x0a00_0000),
        _ => number(&endpoint[12..16]),
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

pub fn new_table(shards: usize) -> Table {
    let limits = Limits {
        peer_timeout: PEER_TIMEOUT,
        max_peers: MAX_PEERS,
        max_torrents: MAX_PEERS,
    };
    Table::new(limits, shards)
}

pub fn settings(id: u64, seed: u64, peers: usize) -> Settings {
    Settings {
        keys: Keys::new(SECRET),
        id,
        seed,
        peer_timeout: PEER_TIMEOUT,
        max_peers: MAX_PEERS,
        max_per_host: 0,
        peers: (0..peers).map(|peer| format!("peer {peer}")).collect(),
        port: 6970,
        has_live_sync: false,
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
    pub since: u64,
    /// When its clock was at zero. Later than in truth if the clock stood still.
    zero: i64,
    pub wall_ahead: i64,
    /// The time of its suspension, and the table's clock then: while it sleeps, and of the last one.
    asleep: Option<(u64, u64)>,
    slept: Option<(u64, u64)>,
    /// When it was last down or asleep.
    ran_since: u64,
    is_finishing: bool,
    conns: Vec<ConnId>,
    /// Attempts to connect: the other node, the connection, the time of the end.
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
    /// Chunks of bytes under way to this end, with the times of their arrival.
    inbox: VecDeque<(u64, Vec<u8>)>,
    waiting: usize,
    free_at: u64,
    /// When this end notices the end of the connection.
    ends_at: Option<u64>,
}

#[derive(Default)]
struct Pipe {
    ends: [End; 2],
    is_dead: bool,
}

impl Pipe {
    /// A new connection. The first node has dialled.
    fn new(sites: [usize; 2]) -> Pipe {
        let mut pipe = Pipe::default();
        for (end, site) in pipe.ends.iter_mut().zip(sites) {
            (end.site, end.is_open) = (site, true);
        }
        pipe
    }

    /// Closes a side's own end. The other side notices it when all bytes have arrived, unless the path is cut.
    fn close(&mut self, conn: ConnId, path: impl Fn(usize) -> Path, now: u64) {
        let is_dead = self.is_dead;
        let (own, other) = ends(self, conn);
        own.is_open = false;
        let path = path(other.site);
        if !is_dead && now >= path.cut_until {
            let at = now.max(other.free_at) + path.latency;
            other.ends_at.get_or_insert(at);
        }
    }
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
    pub members: Vec<Option<Box<Member>>>,
    /// Of each pair of nodes, at [`path_at`].
    paths: Vec<Path>,
    pipes: Vec<Option<Box<Pipe>>>,
}

impl Sim {
    /// All nodes are down.
    pub fn new(nodes: usize, seed: u64) -> Sim {
        let mut random = Random::seeded(seed);
        let path = Path {
            latency: 1,
            rate: FAST,
            cut_until: 0,
        };
        let mut paths = vec![path; nodes * nodes];
        for (a, b) in pairs(nodes) {
            paths[a + b * nodes].latency = 1 + random.below(200) as u64;
        }
        Sim {
            now: 10_000_000,
            random,
            members: (0..nodes).map(|_| None).collect(),
            paths,
            pipes: Vec::new(),
        }
    }

    /// All nodes are up and linked.
    pub fn started(nodes: usize, seed: u64) -> Sim {
        let mut sim = Sim::new(nodes, seed);
        (0..nodes).for_each(|site| sim.start(site, &Saved::default()));
        sim.run(15_000);
        sim
    }

    /// The node at a site, if one is up.
    pub fn member(&self, site: usize) -> Option<&Member> {
        self.members[site].as_deref()
    }

    pub fn is_finishing(&self, site: usize) -> bool {
        self.member(site).is_some_and(|it| it.is_finishing)
    }

    pub fn nodes(&self) -> usize {
        self.members.len()
    }

    /// Starts a node with the table that it saved.
    pub fn start(&mut self, site: usize, saved: &Saved) {
        if self.members[site].is_some() {
            return;
        }
        let table = new_table(1 + site % 3 / 2);
        let up = self.random.below(200_000) as u64;
        self.restore(&table, up, saved);
        let (id, seed) = (self.random.draw(), self.random.draw());
        let settings = settings(id, seed, self.nodes() - 1);
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
            is_finishing: false,
            conns: Vec::new(),
            dials: Vec::new(),
        }));
    }

    fn restore(&self, table: &Table, now: u64, saved: &Saved) {
        let away = self.now.saturating_sub(saved.at).div_ceil(UNIT_MS);
        let units = away.min(100) as u8;
        let mut at = None;
        for met in &saved.table {
            match met {
                Met::Torrent((torrent, downloaded, empty_for)) => {
                    let hash = hash(*torrent);
                    let mut tracker = table.lock_for(&hash, now);
                    at = tracker.restore_torrent(&hash, *downloaded, *empty_for);
                }
                Met::Peer(stored) if stored.age + units <= 48 => {
                    let (peer, age) = (address(stored.peer), stored.age + units);
                    let mut tracker = table.lock_for(&hash(stored.torrent), now);
                    let at = at.expect("has room");
                    tracker.restore_peer(at, peer, stored.role, stored.completed, age);
                }
                Met::Peer(_) => {}
            }
        }
    }

    /// Ends a process: its connections are reset, or silent if the whole host is gone.
    pub fn crash(&mut self, site: usize, is_host: bool) {
        let Some(member) = self.members[site].take() else {
            return;
        };
        let nodes = self.members.len();
        for conn in member.conns {
            if let Some(pipe) = pipe(&mut self.pipes, conn) {
                pipe.is_dead |= is_host;
                // The system sends the bytes that the process has written.
                let path_to = |other| self.paths[path_at(site, other, nodes)];
                pipe.close(conn, path_to, self.now);
            }
        }
    }

    pub fn finish(&mut self, site: usize) {
        let now = self.now;
        let member = self.members[site].as_mut();
        if let Some(member) = member.filter(|member| member.is_awake()) {
            member.with(now, |node, world| node.finish(world));
            member.is_finishing = true;
        }
    }

    /// The table of a node, as it saves it.
    pub fn save(&self, site: usize) -> Saved {
        let mut table = Vec::new();
        self.visit(site, &mut |met| table.push(met));
        let at = self.now;
        Saved { at, table }
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

    /// Ends a suspension. The clock may have stood still only if another node can notice it.
    pub fn resume(&mut self, site: usize, stood_still: bool) {
        let now = self.now;
        let Some((since, _)) = self.member(site).and_then(|member| member.asleep) else {
            return;
        };
        let ran = |member: &Member| member.is_awake() && member.ran_since < since;
        let is_noticed = (0..self.nodes()).any(|other| {
            let path = self.paths[path_at(site, other, self.nodes())];
            path.cut_until <= now && self.member(other).is_some_and(ran)
        });
        if let Some(member) = &mut self.members[site] {
            member.slept = member.asleep.take();
            member.ran_since = now;
            if stood_still && is_noticed {
                member.zero += (now - since) as i64;
            }
        }
    }

    /// The path between two nodes, the same in either direction.
    pub fn path(&mut self, a: usize, b: usize) -> &mut Path {
        let nodes = self.nodes();
        &mut self.paths[path_at(a, b, nodes)]
    }

    /// Ends the connections between two nodes. Either both notice it or neither does.
    pub fn disconnect(&mut self, a: usize, b: usize, is_noticed: bool) {
        let now = self.now;
        for pipe in self.pipes.iter_mut().flatten() {
            let sites = pipe.ends.each_ref().map(|end| end.site);
            if sites == [a, b] || sites == [b, a] {
                pipe.is_dead = true;
                if is_noticed {
                    pipe.ends.iter_mut().for_each(|end| end.ends_at = Some(now));
                }
            }
        }
    }

    /// Whether clients are answered. None announces to a node before it knows that its clock stood still.
    pub fn serves(&self, site: usize) -> bool {
        let now = self.now;
        // The table of a node that sleeps must not be locked: its clock would advance.
        let member = self.member(site).filter(|member| member.is_awake());
        member.is_some_and(|member| {
            let knows_time = member
                .slept
                .is_none_or(|(at, clock)| member.table_clock(now) + UNIT_MS > clock + (now - at));
            let is_held = member.table.is_held(member.clock(now));
            !member.is_finishing && knows_time && !is_held
        })
    }

    /// A client announces.
    pub fn announce(&mut self, site: usize, torrent: u32, peer: u32, role: Role, event: Event) {
        let member = self.members[site].as_ref().expect("is up");
        let hash = hash(torrent);
        let announce = Announce {
            info_hash: hash,
            peer: address(peer),
            role,
            event,
            want: 0,
            hint: None,
        };
        let mut tracker = member.table.lock_for(&hash, member.clock(self.now));
        let mut sinks = Sinks::new(&mut [], &mut []);
        tracker.announce(&announce, &mut self.random, &mut sinks);
    }

    pub fn table_clock(&self, site: usize) -> u64 {
        let member = self.members[site].as_ref().expect("is up");
        member.table_clock(self.now)
    }

    pub fn health(&self, site: usize) -> Option<Health> {
        Some(self.member(site)?.node.health())
    }

    pub fn downloaded(&self, site: usize, torrent: u32) -> u32 {
        let member = self.member(site).expect("is up");
        let (hash, now) = (hash(torrent), member.clock(self.now));
        let counts = member.table.lock_for(&hash, now).scrape(&hash);
        counts.map_or(0, |counts| counts.downloaded)
    }

    /// The role and the age in units of a peer on a node.
    pub fn find(&self, site: usize, torrent: u32, peer: u32) -> Option<(Role, u8)> {
        let (member, mut found) = (self.member(site)?, None);
        self.walk(member, Cursor::at(hash(torrent)), 1, &mut |met| match met {
            Met::Torrent((other, ..)) => other == torrent,
            Met::Peer(stored) => {
                if stored.peer == peer {
                    found = Some((stored.role, stored.age));
                }
                found.is_none()
            }
        });
        found
    }

    /// Visits all torrents of a node, each before its peers that have not expired.
    pub fn visit(&self, site: usize, visit: &mut dyn FnMut(Met)) {
        let member = self.member(site).expect("is up");
        self.walk(member, Cursor::default(), 10_000, &mut |met| {
            visit(met);
            true
        });
    }

    /// Visits torrents and peers from a cursor on, until `visit` returns false.
    fn walk(
        &self,
        member: &Member,
        from: Cursor,
        budget: usize,
        visit: &mut dyn FnMut(Met) -> bool,
    ) {
        let now = member.clock(self.now);
        let clock = member.table.lock(0, now).clock();
        let (mut torrent, mut cursor, mut goes_on) = (0, Some(from), true);
        while let (Some(from), true) = (cursor, goes_on) {
            cursor = member.table.walk(from, now, budget, &mut |met| match met {
                _ if !goes_on => {}
                Found::Torrent {
                    info_hash,
                    downloaded,
                    empty_for,
                } => {
                    torrent = number(&info_hash[16..]);
                    assert_eq!(*info_hash, hash(torrent), "never announced");
                    goes_on = visit(Met::Torrent((torrent, downloaded, empty_for.unwrap_or(0))));
                }
                Found::Peers { list, records } => {
                    for record in records.chunks(RECORD_SIZES[usize::from(list)]) {
                        let (tag, bytes) = record.split_last().expect("a record");
                        let peer = peer_at(bytes);
                        assert_eq!(bytes, address(peer).endpoint(), "no client's");
                        if goes_on && !clock.expired(*tag) {
                            goes_on = visit(Met::Peer(Stored {
                                torrent,
                                peer,
                                role: [Role::Leecher, Role::Seeder][usize::from(list % 2)],
                                completed: tag & COMPLETED != 0,
                                age: clock.age(*tag),
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
            Met::Torrent((torrent, downloaded, _)) if downloaded > 0 => torrents.push(torrent),
            Met::Torrent(_) => {}
            Met::Peer(stored) => peers.push((stored.torrent, stored.peer, stored.role)),
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
        let is_over = member.node.is_finished(member.clock(self.now));
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
            let path = *self.path(site, other);
            let sleeps = self.member(other).is_some_and(|other| !other.is_awake());
            let is_silent = now < path.cut_until || sleeps;
            let takes = if is_silent { 3000 } else { 2 * path.latency };
            let conn = 2 * self.pipes.len() as ConnId;
            self.pipes.push(None);
            member.node.open(conn, Some(peer), address, clock);
            member.dials.push((other, conn, now + takes));
        }
    }

    /// Completes the attempts to connect that are due.
    fn connect(&mut self, site: usize, member: &mut Member) {
        let now = self.now;
        let clock = member.clock(now);
        let dials = std::mem::take(&mut member.dials).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = dials.partition(|dial| dial.2 <= now);
        member.dials = later;
        for (other, conn, _) in due {
            let is_cut = now < self.path(site, other).cut_until;
            match &mut self.members[other] {
                _ if member.node.output(conn).is_none() => {}
                Some(callee) if !is_cut && callee.is_awake() => {
                    self.pipes[conn as usize / 2] = Some(Box::new(Pipe::new([site, other])));
                    // An ephemeral port.
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
            let nodes = self.members.len();
            let path_to = |other| self.paths[path_at(site, other, nodes)];
            let Some(bytes) = member.node.output(conn) else {
                pipe.close(conn, path_to, now);
                member.conns.swap_remove(at);
                self.forget(conn);
                continue;
            };
            let is_dead = pipe.is_dead;
            let (own, other) = ends(pipe, conn);
            let path = path_to(other.site);
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
            pipe.is_dead |= is_lost;
            member.node.sent(conn, size);
        }
    }

    /// Drops a connection that both sides have closed.
    fn forget(&mut self, conn: ConnId) {
        let slot = &mut self.pipes[conn as usize / 2];
        let is_open = |pipe: &Pipe| pipe.ends.iter().any(|end| end.is_open);
        if slot.as_ref().is_some_and(|pipe| !is_open(pipe)) {
            *slot = None;
        }
    }
}

/// A torrent's number, its downloads, and for how many seconds it has been empty.
type SavedTorrent = (u32, u32, u32);

/// A torrent or peer in a walk over a table.
pub enum Met {
    Torrent(SavedTorrent),
    Peer(Stored),
}

/// A table and the time at which it was saved.
#[derive(Default)]
pub struct Saved {
    at: u64,
    table: Vec<Met>,
}

fn pipe(pipes: &mut [Option<Box<Pipe>>], conn: ConnId) -> Option<&mut Pipe> {
    pipes[conn as usize / 2].as_deref_mut()
}

/// A side's own end of a connection, and the other end.
fn ends(pipe: &mut Pipe, conn: ConnId) -> (&mut End, &mut End) {
    let [dialler, acceptor] = &mut pipe.ends;
    match conn % 2 {
        0 => (dialler, acceptor),
        _ => (acceptor, dialler),
    }
}

fn path_at(a: usize, b: usize, nodes: usize) -> usize {
    a.min(b) + a.max(b) * nodes
}

/// All pairs of nodes, the lower one first.
pub fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |b| (0..b).map(move |a| (a, b)))
}
