//! Clients of both nodes: they announce and scrape over UDP and HTTP, IPv4 and IPv6, and check every reply.

use super::model::{InfoHash, Model, Peer, Said};
use super::table::PROBE;
use crate::common::bencode::Value;
use crate::common::{http, udp};
use announced::base::random::Random;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Torrents that always have peers. A third of the newcomers to these join the first one.
pub const TORRENTS: usize = 200;

/// Torrents that the blacklist has now and then.
pub const LISTED: usize = 8;

/// Their peers at most.
pub const LISTED_PEERS: usize = 4;

/// IPv4 addresses of clients. In a swarm of more peers than the second, none is used more than the others, so that no
/// swarm reaches the bound for a host.
const SOURCES: usize = 48;
const CROWD: usize = 60;

/// The states of the list at a node.
pub const TRACKED: u8 = 0;
pub const CHANGING: u8 = 1;
pub const REFUSED: u8 = 2;

/// The torrent of a number: those that always have peers, then those on the list.
pub fn torrent(number: usize) -> InfoHash {
    draw(&mut Random::seeded(number as u64))
}

/// An info-hash that [`Table`](super::table::Table) reads.
fn draw(random: &mut Random) -> InfoHash {
    let mut hash: InfoHash = std::array::from_fn(|_| random.draw() as u8);
    hash[0] ^= u8::from(hash[0] == PROBE);
    hash
}

pub fn is_listed(info_hash: &InfoHash) -> bool {
    (TORRENTS..TORRENTS + LISTED).any(|number| torrent(number) == *info_hash)
}

/// The clients of one node.
struct Clients {
    /// Those with an IPv4 address each, and one with IPv6.
    udp: Vec<udp::Client>,
    http: [Kept; 2],
}

/// A kept connection, and when it was last used.
struct Kept(SocketAddr, http::Client, Instant);

impl Kept {
    fn new(address: SocketAddr) -> Kept {
        Kept(address, http::Client::new(address), Instant::now())
    }

    /// The daemon closes it after 30 seconds without a request.
    fn client(&mut self) -> &mut http::Client {
        if self.2.elapsed() > Duration::from_secs(15) {
            *self = Kept::new(self.0);
        }
        self.2 = Instant::now();
        &mut self.1
    }
}

pub struct Traffic<'a> {
    clients: Vec<Clients>,
    /// The state of the list at each node.
    lists: &'a [AtomicU8; 2],
    random: Random,
    /// Peers that are kept.
    peers: usize,
    next_port: usize,
    pub requests: u64,
    pub refused: u64,
}

impl Traffic<'_> {
    pub fn new<'a>(
        nodes: &[[SocketAddr; 4]],
        lists: &'a [AtomicU8; 2],
        peers: usize,
    ) -> Traffic<'a> {
        let clients = |[udp4, udp6, tcp4, tcp6]: &[SocketAddr; 4]| {
            let sources = (0..=SOURCES).map(source);
            let udp = sources.map(|ip| {
                let mut client =
                    udp::Client::from(&ip.to_string(), if ip.is_ipv4() { *udp4 } else { *udp6 });
                client.connect();
                client
            });
            Clients {
                udp: udp.collect(),
                http: [*tcp4, *tcp6].map(Kept::new),
            }
        };
        Traffic {
            clients: nodes.iter().map(clients).collect(),
            lists,
            random: Random::seeded(15),
            peers,
            next_port: 0,
            requests: 0,
            refused: 0,
        }
    }

    /// One request, or a few on one connection.
    pub fn step(&mut self, model: &mut Model) {
        if let Some((info_hash, peer, known)) = model.next_due(model.timeout / 2) {
            return self.renew(model, info_hash, peer, known);
        }
        let is_full = model.waiting() >= self.peers;
        match self.random.below(if is_full { 10 } else { 40 }) {
            0 => self.scrape_udp(model),
            1 => self.scrape_http(model),
            2 => self.announce_listed(),
            3 => self.send_garbage(),
            4..10 => {
                if let Some((info_hash, peer, known)) = model.some_peer(&mut self.random) {
                    self.renew(model, info_hash, peer, known);
                }
            }
            _ => self.start(model),
        }
    }

    /// A peer that no node knows announces for the first time. One in eight is in a torrent of its own.
    fn start(&mut self, model: &mut Model) {
        let number = self
            .random
            .below(TORRENTS * 3 / 2)
            .saturating_sub(TORRENTS / 2);
        let info_hash = match self.random.below(8) {
            0 => draw(&mut self.random),
            _ => torrent(number),
        };
        let is_crowded = number == 0 || model.size(&info_hash) >= CROWD;
        let index = match self.random.below(8) {
            0 if !is_crowded => 0,
            1 | 2 if !is_crowded => SOURCES,
            _ => self.random.below(SOURCES),
        };
        self.next_port += 1;
        let port = self.next_port % 60_000 + 2;
        let peer = SocketAddr::new(source(index), port as u16);
        if model.knows(&info_hash, &peer) {
            return;
        }
        let said = Said {
            home: self.random.below(2),
            is_seeder: self.random.below(3) == 0,
            has_stopped: false,
            completes: false,
        };
        self.announce(model, info_hash, peer, said, 2);
    }

    /// A peer announces again, completes, loses a file or stops. One in twenty is never heard of again.
    fn renew(&mut self, model: &mut Model, info_hash: InfoHash, peer: SocketAddr, known: Peer) {
        let mut said = Said {
            home: known.home,
            is_seeder: known.is_seeder,
            has_stopped: false,
            completes: false,
        };
        let mut event = 0;
        let is_lasting = (0..TORRENTS).any(|number| torrent(number) == info_hash);
        match self.random.below(20) {
            0 => return,
            1 | 2 => (said.has_stopped, event) = (true, 3),
            // The count of a torrent without peers is kept for a day.
            3 | 4 if !known.is_seeder && !known.has_completed && is_lasting => {
                (said.is_seeder, said.completes, event) = (true, true, 1);
            }
            5 => said.is_seeder = !known.is_seeder,
            _ => {}
        }
        self.announce(model, info_hash, peer, said, event);
    }

    fn announce(
        &mut self,
        model: &mut Model,
        info_hash: InfoHash,
        peer: SocketAddr,
        said: Said,
        event: u32,
    ) {
        let want = self.random.below(60);
        let has_http = peer.ip() == source(0) || peer.is_ipv6();
        let before = Instant::now();
        let is_http = has_http && self.random.below(2) == 0;
        let (counts, peers) = match is_http {
            true => self.announce_http(&info_hash, peer, said, event, want),
            false => {
                let request = udp::Announce {
                    info_hash,
                    left: u64::from(!said.is_seeder),
                    event,
                    ip: 0,
                    num_want: want as i32,
                    port: peer.port(),
                };
                let reply = self.exchange(said.home, peer.ip(), |client| {
                    client.announce_request(&request)
                });
                read_announce(&reply, peer.is_ipv6())
            }
        };
        model.note(info_hash, peer, said, before);
        let expected = model.counts(&info_hash, said.home, before, Instant::now());
        for (count, range) in counts.iter().zip(&expected) {
            assert!(
                range.contains(count),
                "{info_hash:02x?} {peer} {said:?}, event {event}: {counts:?}, expected {expected:?}"
            );
        }
        self.check_peers(
            model,
            &info_hash,
            (peer, said),
            (want, is_http),
            &peers,
            before,
        );
    }

    /// Every peer of a reply is one that announced, and the reply is full if there are enough.
    fn check_peers(
        &self,
        model: &Model,
        info_hash: &InfoHash,
        (asker, said): (SocketAddr, Said),
        (want, is_http): (usize, bool),
        peers: &[SocketAddr],
        sent: Instant,
    ) {
        let faults = peers
            .iter()
            .filter_map(|peer| model.fault(info_hash, peer, said.home, sent));
        let faults: Vec<_> = faults.collect();
        assert!(
            faults.is_empty(),
            "node {}, {info_hash:02x?}: {faults:#?}",
            said.home
        );
        assert!(!peers.contains(&asker), "{asker} was sent its own address");
        assert!(
            peers.windows(2).all(|pair| pair[0] != pair[1]),
            "a peer twice: {peers:?}"
        );
        assert!(peers.len() <= want, "{} peers of {want}", peers.len());
        if said.has_stopped {
            assert!(peers.is_empty(), "a reply to a stop has peers");
            return;
        }
        // In a large swarm a reply looks at eight peers for each place, and some may have expired.
        if model.size(info_hash) > 8 * want {
            return;
        }
        let now = Instant::now();
        let others = model
            .certain_peers(info_hash, said.home, now)
            .filter(|(other, peer)| {
                let is_of_use = !(said.is_seeder && peer.is_seeder);
                **other != asker && is_of_use && (is_http || other.is_ipv6() == asker.is_ipv6())
            });
        let least = others.take(want).count();
        assert!(
            peers.len() >= least,
            "{} of {least} peers, {want} wanted",
            peers.len()
        );
    }

    fn announce_http(
        &mut self,
        info_hash: &InfoHash,
        peer: SocketAddr,
        said: Said,
        event: u32,
        want: usize,
    ) -> ([u32; 2], Vec<SocketAddr>) {
        let event = ["", "&event=completed", "&event=started", "&event=stopped"][event as usize];
        let (hash, port, left) = (escaped(info_hash), peer.port(), u8::from(!said.is_seeder));
        let request = format!(
            "GET /announce?info_hash={hash}&port={port}&left={left}&numwant={want}&compact=1{event} HTTP/1.1\r\n\r\n"
        );
        self.requests += 1;
        let client = self.clients[said.home].http[usize::from(peer.is_ipv6())].client();
        let reply = client.request(request);
        let value = reply.bencoded();
        let counts = ["incomplete", "complete"].map(|key| value.integer(key) as u32);
        (counts, reply.peers())
    }

    /// Several torrents at once, known and unknown.
    fn scrape_udp(&mut self, model: &Model) {
        let hashes: Vec<InfoHash> = (0..=self.random.below(74))
            .map(|_| self.any_torrent())
            .collect();
        let (node, index) = (self.random.below(2), self.random.below(SOURCES + 1));
        let before = Instant::now();
        let reply = self.exchange(node, source(index), |client| client.scrape_request(&hashes));
        assert_eq!(reply.len(), 8 + 12 * hashes.len(), "{reply:?}");
        assert_eq!(word(&reply, 0), 2);
        for (record, hash) in reply[8..].chunks_exact(12).zip(&hashes) {
            let counts = [word(record, 8), word(record, 0)];
            check_scrape(model, hash, node, counts, word(record, 4), before);
        }
    }

    /// Some requests at once on one connection.
    fn scrape_http(&mut self, model: &Model) {
        let (node, family) = (self.random.below(2), self.random.below(2));
        let count = 1 + self.random.below(4);
        let asked: Vec<Vec<InfoHash>> = (0..count)
            .map(|_| {
                (0..=self.random.below(10))
                    .map(|_| self.any_torrent())
                    .collect()
            })
            .collect();
        let request = |hashes: &Vec<InfoHash>| {
            let hashes: Vec<_> = hashes
                .iter()
                .map(|hash| format!("info_hash={}", escaped(hash)))
                .collect();
            format!("GET /scrape?{} HTTP/1.1\r\n\r\n", hashes.join("&"))
        };
        let before = Instant::now();
        self.requests += count as u64;
        let client = self.clients[node].http[family].client();
        client.send(asked.iter().map(request).collect::<String>());
        for hashes in &asked {
            let reply = client.receive().bencoded();
            for (hash, counts, downloaded) in files(&reply) {
                assert!(hashes.contains(&hash), "{hash:02x?} was not asked for");
                check_scrape(model, &hash, node, counts, downloaded, before);
            }
        }
    }

    fn any_torrent(&mut self) -> InfoHash {
        torrent(self.random.below(TORRENTS + TORRENTS / 10))
    }

    /// A torrent on the list is refused while the list is in force, and at no other time.
    fn announce_listed(&mut self) {
        let node = self.random.below(2);
        let info_hash = torrent(TORRENTS + self.random.below(LISTED));
        let request = udp::Announce {
            info_hash,
            port: 2,
            ..udp::Announce::default()
        };
        let before = self.lists[node].load(Ordering::SeqCst);
        let ip = source(self.random.below(LISTED_PEERS));
        let reply = self.exchange(node, ip, |client| client.announce_request(&request));
        let after = self.lists[node].load(Ordering::SeqCst);
        let is_refused = word(&reply, 0) == 3;
        self.refused += u64::from(is_refused);
        if is_refused {
            let text = String::from_utf8_lossy(&reply[8..]);
            assert!(text.contains("not authorized"), "{text}");
        }
        if before == after && before != CHANGING {
            assert_eq!(is_refused, before == REFUSED, "node {node}: {reply:?}");
        }
    }

    /// Datagrams and requests that are not valid.
    fn send_garbage(&mut self) {
        let (node, ip) = (self.random.below(2), source(self.random.below(SOURCES + 1)));
        let index = index_of(ip);
        let client = &mut self.clients[node].udp[index];
        let mut bytes: Vec<u8> = (0..self.random.below(200))
            .map(|_| self.random.draw() as u8)
            .collect();
        if let Some(action) = bytes.get_mut(8..12) {
            action.copy_from_slice(&[0, 0, 0, 9]);
        }
        client.send(&bytes);
        let own = std::mem::replace(&mut client.connection, self.random.draw());
        let reply = client.exchange(&client.scrape_request(&[[1; 20]]));
        assert_eq!(&reply[8..], b"Connect again.");
        client.connection = own;
        let client = self.clients[node].http[0].client();
        let reply = client.request("GET /announce?info_hash=short&port=1 HTTP/1.1\r\n\r\n");
        reply.failure();
        self.requests += 3;
    }

    /// Sends a request from this address. A client whose connection id is too old makes a new one.
    fn exchange(
        &mut self,
        node: usize,
        ip: IpAddr,
        request: impl Fn(&udp::Client) -> Vec<u8>,
    ) -> Vec<u8> {
        self.requests += 1;
        let client = &mut self.clients[node].udp[index_of(ip)];
        let reply = client.exchange(&request(client));
        assert_eq!(word(&reply, 4), udp::TRANSACTION, "{reply:?}");
        if reply[8..] != b"Connect again."[..] {
            return reply;
        }
        client.connect();
        client.exchange(&request(client))
    }
}

fn source(index: usize) -> IpAddr {
    match index {
        SOURCES => Ipv6Addr::LOCALHOST.into(),
        index => Ipv4Addr::new(127, 0, 0, 1 + index as u8).into(),
    }
}

fn index_of(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        IpAddr::V6(_) => SOURCES,
    }
}

/// Leechers, seeders and peers.
fn read_announce(reply: &[u8], is_v6: bool) -> ([u32; 2], Vec<SocketAddr>) {
    assert!(reply.len() >= 20 && word(reply, 0) == 1, "{reply:?}");
    let (peers, rest) = udp::split_peers(&reply[20..], if is_v6 { 18 } else { 6 });
    assert!(rest.is_empty(), "{reply:?}");
    ([word(reply, 12), word(reply, 16)], peers)
}

/// The torrents of a bencoded scrape: each with leechers, seeders and downloads.
pub fn files(reply: &Value) -> Vec<(InfoHash, [u32; 2], u32)> {
    let Some(Value::Dictionary(files)) = reply.get("files") else {
        panic!("no files: {reply:?}");
    };
    let file = |(hash, counts): (&Vec<u8>, &Value)| {
        assert_eq!(counts.keys(), ["complete", "downloaded", "incomplete"]);
        let number = |key| u32::try_from(counts.integer(key)).expect("a count");
        let hash = hash.as_slice().try_into().expect("an info-hash");
        (
            hash,
            [number("incomplete"), number("complete")],
            number("downloaded"),
        )
    };
    files.iter().map(file).collect()
}

/// Checks the counts of a torrent that were asked for at this time.
pub fn check_scrape(
    model: &Model,
    info_hash: &InfoHash,
    node: usize,
    counts: [u32; 2],
    downloaded: u32,
    from: Instant,
) {
    if is_listed(info_hash) {
        return;
    }
    let expected = model.counts(info_hash, node, from, Instant::now());
    let most = model.completed(info_hash);
    let is_right = counts
        .iter()
        .zip(&expected)
        .all(|(count, range)| range.contains(count));
    assert!(
        is_right && downloaded <= most,
        "node {node}, {info_hash:02x?}: {counts:?} and {downloaded}, expected {expected:?} and at most {most}\n{}",
        model.describe(info_hash)
    );
}

fn escaped(info_hash: &InfoHash) -> String {
    info_hash
        .iter()
        .map(|byte| format!("%{byte:02x}"))
        .collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The time that a number of requests takes at a modest rate, beside which other tests can run.
pub fn pace(requests: u64) -> Duration {
    Duration::from_micros(requests * 300)
}
