//! The torrents and peers of a run, and who announces next.
//!
//! Nothing is stored. A torrent is its rank and a peer is an index in its torrent; hash, size,
//! address and port are computed from these, because at ten million torrents a table in the
//! generator would cost it a cache miss a request and take the cache from the server it measures.
//!
//! Peer `i` of torrent `t` announces from source address `(t + i) mod SOURCES`, so each source has
//! its own peers and can ask for its next one without regard to the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// How many source addresses (over IPv6: sockets, since the loopback has one address) announce.
pub const SOURCES: u32 = 32;

/// Ports begin at five digits, so that they are patched into a request of fixed length.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 55_535;

/// Popularity falls with the rank to the power of this. The closed forms below rely on it:
/// x^(1 - 0.8) has the inverse y^5.
const EXPONENT: f64 = 0.8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The address that servers listen on.
    pub fn server(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The address of a source, spread over 127.0.x.y.
    pub fn source(self, source: u32) -> IpAddr {
        match self {
            Family::V4 => {
                Ipv4Addr::new(127, 0, 1 + source as u8, 1 + (source * 37 % 250) as u8).into()
            }
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Octets of a compact peer in a reply.
    pub fn peer_size(self) -> usize {
        match self {
            Family::V4 => 6,
            Family::V6 => 18,
        }
    }
}

/// What the info-hashes look like.
#[derive(Clone, Copy, Debug)]
pub enum Hashes {
    Random,
    /// All alike in the first sixteen octets: what a stranger would send to make a table slow.
    SharedPrefix,
}

/// How many peers each torrent has; never more than the torrent of the rank before.
#[derive(Clone, Copy, Debug)]
enum Sizes {
    Even(u32),
    /// One each, and others by popularity: `scale` of them at the first rank.
    PowerLaw {
        scale: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub torrent: u32,
    pub index: u32,
}

#[derive(Clone, Debug)]
pub struct Population {
    pub torrents: u32,
    pub family: Family,
    hashes: Hashes,
    sizes: Sizes,
}

impl Population {
    /// The same number of peers in every torrent.
    pub fn even(torrents: u32, peers: u32, family: Family) -> Population {
        Population {
            torrents,
            family,
            hashes: Hashes::Random,
            sizes: Sizes::Even(peers),
        }
    }

    /// About `peers` peers, at least one in each torrent and the others by a power law.
    pub fn power_law(torrents: u32, peers: u32, family: Family) -> Population {
        let scale = scale(torrents, peers.saturating_sub(torrents));
        Population {
            torrents,
            family,
            hashes: Hashes::Random,
            sizes: Sizes::PowerLaw { scale },
        }
    }

    pub fn with_hashes(self, hashes: Hashes) -> Population {
        Population { hashes, ..self }
    }

    /// The most peers that a torrent can have before addresses and ports repeat.
    pub fn limit(&self) -> u32 {
        match self.family {
            Family::V4 => PORTS * SOURCES,
            Family::V6 => PORTS,
        }
    }

    pub fn peers_of(&self, torrent: u32) -> u32 {
        match self.sizes {
            Sizes::Even(peers) => peers,
            Sizes::PowerLaw { scale } => {
                let others = scale * (f64::from(torrent) + 1.0).powf(-EXPONENT);
                (1 + others as u32).min(self.limit())
            }
        }
    }

    pub fn info_hash(&self, torrent: u32) -> [u8; 20] {
        let mut hash = [0x5a; 20];
        match self.hashes {
            Hashes::Random => {
                let first = mix(u64::from(torrent));
                let second = mix(first);
                hash[..8].copy_from_slice(&first.to_le_bytes());
                hash[8..16].copy_from_slice(&second.to_le_bytes());
                hash[16..].copy_from_slice(&torrent.to_le_bytes());
            }
            Hashes::SharedPrefix => {
                let scattered = torrent.wrapping_mul(0x9e37_79b1);
                hash[16..].copy_from_slice(&scattered.to_le_bytes());
            }
        }
        hash
    }

    /// Ports come in no order, so that no table sees its keys sorted.
    pub fn port(&self, peer: Peer) -> u16 {
        let turn = match self.family {
            Family::V4 => peer.index / SOURCES,
            Family::V6 => peer.index,
        };
        debug_assert!(turn < PORTS);
        // 40503 is coprime to the number of ports, so this is a permutation of them.
        let scattered = u64::from(turn) * 40_503 % u64::from(PORTS);
        (FIRST_PORT + scattered as u32) as u16
    }

    /// Half of the peers are seeders.
    pub fn is_seeder(&self, peer: Peer) -> bool {
        mix(u64::from(peer.torrent) << 32 | u64::from(peer.index)) & 1 == 1
    }
}

/// The normalising constant of the power law's distribution function, (x^0.2 - 1) / width.
fn width(torrents: u32) -> f64 {
    (f64::from(torrents) + 1.0).powf(1.0 - EXPONENT) - 1.0
}

/// The scale at which popularity shares out so many peers, fractions of a peer being dropped.
///
/// Without them sums have no closed form, and at two peers a torrent most of a power law's tail
/// is fractions: twenty million peers would come to sixteen.
fn scale(torrents: u32, peers: u32) -> f64 {
    // How many torrents have at least one, at least two, and so on.
    let total = |scale: f64| -> f64 {
        let having = |least: u32| (scale / f64::from(least)).powf(1.0 / EXPONENT).floor();
        (1..=scale as u32)
            .map(|least| having(least).min(f64::from(torrents)))
            .sum()
    };
    let mut low = f64::from(peers) * (1.0 - EXPONENT) / width(torrents) / 2.0;
    let mut high = low * 16.0;
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if total(middle) < f64::from(peers) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Where a load takes its requests from. A source asks for its own next peer.
pub trait Requests {
    /// The next peer that announces from `source`, or none when that source has no more.
    fn next(&mut self, source: u32) -> Option<Peer>;
}

/// Every peer of a part of the population once, torrents in turn: the first peers of all, then the
/// second ones, as swarms grow in life.
pub struct Fill<'a> {
    population: &'a Population,
    torrents: Range<u32>,
    indices: Range<u32>,
    cursors: Vec<Peer>,
}

impl<'a> Fill<'a> {
    pub fn all(population: &'a Population) -> Fill<'a> {
        Fill::part(
            population,
            0..population.torrents,
            0..population.peers_of(0),
        )
    }

    pub fn part(population: &'a Population, torrents: Range<u32>, indices: Range<u32>) -> Fill<'a> {
        assert!(
            indices.end <= population.limit(),
            "addresses and ports would repeat"
        );
        let mut fill = Fill {
            population,
            torrents,
            indices,
            cursors: Vec::new(),
        };
        fill.cursors = (0..SOURCES)
            .map(|source| fill.first(source, fill.indices.start))
            .collect();
        fill
    }

    /// The first torrent in which the peer `index` announces from `source`.
    fn first(&self, source: u32, index: u32) -> Peer {
        let start = self.torrents.start;
        let torrent = start + source.wrapping_sub(start).wrapping_sub(index) % SOURCES;
        Peer { torrent, index }
    }
}

impl Requests for Fill<'_> {
    fn next(&mut self, source: u32) -> Option<Peer> {
        loop {
            let peer = self.cursors[source as usize];
            if peer.index >= self.indices.end {
                return None;
            }
            let exists = peer.torrent < self.torrents.end
                && self.population.peers_of(peer.torrent) > peer.index;
            self.cursors[source as usize] = if exists {
                Peer {
                    torrent: peer.torrent + SOURCES,
                    ..peer
                }
            } else {
                self.first(source, peer.index + 1)
            };
            if exists {
                return Some(peer);
            }
        }
    }
}

/// Peers of a filled population announcing again, for ever, torrents drawn by popularity.
pub struct Reannounce<'a> {
    population: &'a Population,
    width: f64,
    random: Random,
}

impl<'a> Reannounce<'a> {
    pub fn new(population: &'a Population) -> Reannounce<'a> {
        assert!(
            population.torrents >= SOURCES,
            "a load needs at least {SOURCES} torrents"
        );
        Reannounce {
            population,
            width: width(population.torrents),
            random: Random(0x616e_6e6f_756e_6365),
        }
    }

    /// A rank by the inverse of the distribution function.
    fn torrent(&mut self) -> u32 {
        let root = 1.0 + self.random.unit() * self.width;
        let rank = root * root * root * root * root;
        (rank as u32 - 1).min(self.population.torrents - 1)
    }
}

impl Requests for Reannounce<'_> {
    fn next(&mut self, source: u32) -> Option<Peer> {
        let torrent = self.torrent();
        let peers = self.population.peers_of(torrent);
        if peers >= SOURCES {
            // The source has one peer in each full round of the swarm: one of these.
            let round = self.random.below(peers / SOURCES);
            let index = round * SOURCES + source.wrapping_sub(torrent) % SOURCES;
            return Some(Peer { torrent, index });
        }
        // The source may have no peer in so small a swarm, but has in one of the neighbours,
        // which are as popular.
        let neighbours = torrent - torrent % SOURCES;
        let index = self.random.below(peers);
        let in_neighbour = |index: u32| {
            let torrent = neighbours + source.wrapping_sub(index) % SOURCES;
            let beyond = torrent >= self.population.torrents;
            Peer {
                torrent: if beyond { torrent - SOURCES } else { torrent },
                index,
            }
        };
        let peer = in_neighbour(index);
        let exists = index < self.population.peers_of(peer.torrent);
        Some(if exists { peer } else { in_neighbour(0) })
    }
}

/// Splitmix64: two multiplications, and good enough to choose torrents with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }
}

fn mix(value: u64) -> u64 {
    finish(value.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

fn finish(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
