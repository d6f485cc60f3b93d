//! A node of a cluster among others that send it anything, most of which have the key.

use super::Input;
use super::table::walked;
use announced::base::random::Random;
use announced::cluster::frame::{Hello, Keys, OVERHEAD, RawHello, Session};
use announced::cluster::node::{ConnId, Node, Settings, World};
use announced::cluster::records::{self, Heartbeat, Reader};
use announced::stats::cluster::Failure;
use announced::tracker::{Announce, Event, Limits, Peer, Progress, Role, Sinks, Sweeper, Table};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const MAX_PEERS: usize = 300;
const NAMED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 9);

/// The other side of a connection.
struct Remote {
    conn: ConnId,
    is_dialler: bool,
    hello: RawHello,
    session: Option<Session>,
    /// Bytes from the node that are not a whole frame yet.
    input: Vec<u8>,
}

struct Subject {
    node: Node,
    table: Table,
    sweeper: Sweeper,
    keys: Keys,
    now: u64,
    remotes: Vec<Remote>,
    conns: ConnId,
}

impl Subject {
    fn new() -> Subject {
        let limits = Limits {
            peer_timeout: 48,
            max_peers: MAX_PEERS,
            max_torrents: 100,
        };
        let table = Table::new(limits, 1);
        let keys = Keys::new(&[7; 32]);
        let settings = Settings {
            max_per_host: 0,
            keys: keys.clone(),
            id: 100,
            seed: 1,
            peer_timeout: 48,
            max_peers: MAX_PEERS,
            peers: vec!["b".into()],
            port: 1,
            has_live_sync: false,
        };
        let mut node = Node::new(settings, &table, 0);
        node.set_addresses(0, vec![NAMED]);
        Subject {
            node,
            table,
            sweeper: Sweeper::default(),
            keys,
            now: 0,
            remotes: Vec::new(),
            conns: 0,
        }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Node, &World) -> T) -> T {
        let world = World {
            table: &self.table,
            now: self.now,
            wall: self.now,
            refuses: &|hash| hash[0] == 0xff,
        };
        work(&mut self.node, &world)
    }

    /// A connection from another node, or to the one that is named, with a hello of any content.
    fn connect(&mut self, input: &mut Input) {
        let [flags, id] = input.array();
        let clock_ms = self.now.wrapping_add(input.u16().into());
        let hello = Hello {
            max_per_host: 0,
            peer_timeout: if flags & 1 == 0 { 48 } else { 49 },
            port: 9,
            is_whole: flags & 2 != 0,
            id: 98 + u64::from(id & 3),
            nonce: [1, 2],
            clock_ms: if flags & 4 == 0 {
                clock_ms
            } else {
                u64::MAX - clock_ms
            },
            uptime_ms: if flags & 8 == 0 {
                clock_ms
            } else {
                u64::MAX - clock_ms
            },
        };
        let now = self.now;
        self.conns += 1;
        let conn = self.conns;
        let dialled = match flags & 16 {
            0 => None,
            _ => self.node.next_dial(now),
        };
        match dialled {
            Some((peer, address)) => {
                self.node.open(conn, Some(peer), address, now);
                self.with(|node, world| node.connected(conn, world));
            }
            None => {
                let address = SocketAddr::from(([192, 0, 2, id & 7], 1000));
                if self.node.is_crowded(address.ip()) {
                    return;
                }
                self.node.open(conn, None, address, now);
            }
        }
        let hello = hello.write();
        self.with(|node, world| node.receive(conn, &hello, world));
        self.remotes.push(Remote {
            conn,
            is_dialler: dialled.is_none(),
            hello,
            session: None,
            input: Vec::new(),
        });
        self.drain();
    }

    /// Takes everything that the node sends, which must be valid.
    fn drain(&mut self) {
        for remote in &mut self.remotes {
            let conn = remote.conn;
            while let Some(bytes) = self.node.output(conn).filter(|bytes| !bytes.is_empty()) {
                remote.input.extend_from_slice(bytes);
                let count = bytes.len();
                self.node.sent(conn, count);
            }
            remote.read(&self.keys);
        }
        let (node, now) = (&mut self.node, self.now);
        self.remotes.retain(|remote| {
            let is_open = node.output(remote.conn).is_some();
            if !is_open {
                node.closed(remote.conn, Failure::Closed, now);
            }
            is_open
        });
        assert!(self.node.lines.drain(..).all(|line| !line.is_empty()));
    }

    /// Sends a frame, or bytes as they are, through one of the connections, whole or byte by byte.
    fn send(&mut self, input: &mut Input, is_sealed: bool) {
        let [which, pieces] = input.array();
        let mut content = input.piece().to_vec();
        content.truncate(8 * 1024);
        let count = self.remotes.len().max(1);
        let Some(remote) = self.remotes.get_mut(usize::from(which) % count) else {
            return;
        };
        let conn = remote.conn;
        let mut bytes = content.clone();
        if is_sealed {
            let Some(session) = &mut remote.session else {
                return;
            };
            bytes.clear();
            session.seal(&content, &mut bytes);
        }
        let size = if pieces == 0 {
            bytes.len().max(1)
        } else {
            pieces.into()
        };
        for piece in bytes.chunks(size) {
            self.with(|node, world| node.receive(conn, piece, world));
        }
        self.drain();
    }

    fn announce(&mut self, input: &mut Input) {
        let [torrent, port, kind] = input.array();
        let announce = Announce {
            info_hash: [torrent; 20],
            peer: Peer::new([192, 0, 2, 1].into(), port.into()),
            role: Role::ALL[usize::from(kind & 1)],
            event: [Event::None, Event::Completed, Event::Stopped][usize::from(kind >> 1) % 3],
            want: 0,
            hint: None,
        };
        // The list refuses it before the table sees it.
        if torrent != 0xff && !self.table.is_held(self.now) {
            let mut sinks = Sinks::new(&mut [], &mut []);
            let mut tracker = self.table.lock(0, self.now);
            tracker.announce(&announce, &mut Random::seeded(1), &mut sinks);
        }
    }

    fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.with(|node, world| {
            for _ in 0..8 {
                if !node.tick(world) {
                    break;
                }
            }
        });
        self.drain();
        while self.sweeper.step(&self.table, self.now, 1000, None) == Progress::Underway {}
        let open = self.remotes.len();
        self.node.overview(self.now);
        assert!(open <= 64 + 2);
    }
}

impl Remote {
    /// Reads the node's hello, then its frames.
    fn read(&mut self, keys: &Keys) {
        if self.session.is_none() {
            let Some((_, raw)) = Hello::read(&self.input).expect("a hello") else {
                return;
            };
            self.input.drain(..raw.len());
            let session = Session::new(keys, self.is_dialler, &self.hello, &raw);
            self.session = Some(session);
        }
        let session = self.session.as_mut().expect("is there now");
        while let Some(content) = session.open(&self.input).expect("a valid frame") {
            assert!((records::READY..=records::COUNTS).contains(&content[0]));
            if content[0] == records::HEARTBEAT {
                assert!(Heartbeat::read(&mut Reader(&content[1..])).is_some());
            }
            let length = OVERHEAD + content.len();
            self.input.drain(..length);
        }
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut subject = Subject::new();
    while !input.is_empty() {
        match input.u8() % 8 {
            0 => subject.connect(&mut input),
            1 | 2 => subject.send(&mut input, true),
            3 => subject.send(&mut input, false),
            4 => subject.announce(&mut input),
            5 => subject.advance(u64::from(input.u8()) * 10),
            6 => subject.advance(u64::from(input.u16()) * 10),
            _ => {
                let count = subject.remotes.len().max(1);
                let which = usize::from(input.u8()) % count;
                if which < subject.remotes.len() {
                    let conn = subject.remotes.swap_remove(which).conn;
                    subject.node.closed(conn, Failure::Closed, subject.now);
                }
            }
        }
    }
    let stored = walked(&subject.table, subject.now);
    assert!(stored.len() <= MAX_PEERS);
    assert!(stored.iter().all(|((hash, _), _)| hash[0] != 0xff));
}
