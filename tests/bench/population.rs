//! The torrents and peers of a run, and the order in which they announce.
//!
//! Nothing is stored. A torrent is its rank and a peer is an index in its torrent; info-hash, size, address and port
//! are computed from these. At ten million torrents a table in the generator would cost it a cache miss a request and
//! take the cache from the server that it measures.
//!
//! Peer `i` of torrent `t` announces from source `(t + i) mod S` of S, so each source has its own peers and takes
//! its next one without regard to the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use announced::base::random::Random;

/// Ports have five digits, so that they are patched into a request of fixed length.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 55_535;

/// Popularity falls with the rank to the power of this. The closed forms below rely on it: x^(1 - 0.8) has the
/// inverse y^5.
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

    /// Addresses that announce. Over IPv6 a peer cannot name another address than its own: with as many hosts, nearly
    /// all announces are of swarms in which no host has three peers, as in those of IPv4.
    pub fn sources(self) -> u32 {
        match self {
            Family::V4 => 32,
            Family::V6 => 2048,
        }
    }

    /// The address of a source, spread over 127.0.x.y; over IPv6 each is a host of its own.
    pub fn source(self, source: u32) -> IpAddr {
        match self {
            Family::V4 => [127, 0, 1 + source as u8, 1 + (source * 37 % 250) as u8].into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, source as u16, 0, 0, 0, 1).into(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub torrent: u32,
    pub index: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Population {
    pub torrents: u32,
    pub family: Family,
    /// Peers of each torrent, and more by popularity: this many of them at the first rank.
    least: u32,
    scale: f64,
}

impl Population {
    /// The same number of peers in every torrent.
    pub fn even(torrents: u32, peers: u32, family: Family) -> Population {
        Population {
            torrents,
            family,
            least: peers,
            scale: 0.0,
        }
    }

    /// About `peers` peers, at least one in each torrent and the others by a power law.
    pub fn power_law(torrents: u32, peers: u32, family: Family) -> Population {
        let scale = scale(torrents, peers.saturating_sub(torrents));
        Population {
            scale,
            ..Population::even(torrents, 1, family)
        }
    }

    /// This never grows with the rank.
    pub fn peers_of(&self, torrent: u32) -> u32 {
        let others = self.scale * (f64::from(torrent) + 1.0).powf(-EXPONENT);
        // One more would have the address and port of another.
        (self.least + others as u32).min(PORTS * self.family.sources())
    }

    /// Ports come in no order, so that no table sees its keys sorted.
    pub fn port(&self, peer: Peer) -> u16 {
        let number = peer.index / self.family.sources();
        assert!(number < PORTS, "addresses and ports would repeat");
        // 40503 is coprime to the number of ports, so this is a permutation of them.
        let scattered = u64::from(number) * 40_503 % u64::from(PORTS);
        (FIRST_PORT + scattered as u32) as u16
    }

    /// The address that a peer names for itself, so that each is a host of its own: a tracker names two peers of one
    /// host at most, and does more work for a swarm in which a host has more. Each number has three digits.
    pub fn address(&self, peer: Peer) -> [u8; 4] {
        let mut number = peer
            .torrent
            .wrapping_add(peer.index.wrapping_mul(0x9e37_79b1));
        std::array::from_fn(|_| {
            let byte = 128 + number % 96;
            number /= 96;
            byte as u8
        })
    }

    /// Half of the peers are seeders.
    pub fn is_seeder(&self, peer: Peer) -> bool {
        let key = u64::from(peer.torrent) << 32 | u64::from(peer.index);
        Random::seeded(key).draw() & 1 == 1
    }
}

pub fn info_hash(torrent: u32) -> [u8; 20] {
    let mut random = Random::seeded(torrent.into());
    let mut hash = [0; 20];
    hash[..8].copy_from_slice(&random.draw().to_le_bytes());
    hash[8..16].copy_from_slice(&random.draw().to_le_bytes());
    hash[16..].copy_from_slice(&torrent.to_le_bytes());
    hash
}

/// The normalising constant of the power law's distribution function, (x^0.2 - 1) / width.
fn width(torrents: u32) -> f64 {
    (f64::from(torrents) + 1.0).powf(1.0 - EXPONENT) - 1.0
}

/// The scale at which popularity shares out `peers` peers, fractions of a peer being dropped.
///
/// Fractions are most of a power law's tail at two peers a torrent: twenty million peers would come to sixteen.
/// Without them the sum has no closed form, so the scale is found by bisection.
fn scale(torrents: u32, peers: u32) -> f64 {
    // The torrents with at least one, at least two, and so on.
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
        match total(middle) < f64::from(peers) {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

/// Decides which peer announces next.
pub trait Order {
    /// The next peer that announces from `source`, or none when that source has no more.
    fn next(&mut self, source: u32) -> Option<Peer>;
}

/// Every peer once, torrents in turn: the first peers of all, then the second ones, as real swarms grow.
pub struct Fill<'a> {
    population: &'a Population,
    next: Vec<Peer>,
}

impl<'a> Fill<'a> {
    pub fn new(population: &'a Population) -> Fill<'a> {
        let sources = population.family.sources();
        let first = |torrent| Peer { torrent, index: 0 };
        let next = (0..sources).map(first).collect();
        Fill { population, next }
    }
}

impl Order for Fill<'_> {
    fn next(&mut self, source: u32) -> Option<Peer> {
        let Population { torrents, .. } = *self.population;
        let sources = self.population.family.sources();
        let next = &mut self.next[source as usize];
        while next.index < self.population.peers_of(0) {
            let peer = *next;
            if peer.torrent < torrents && peer.index < self.population.peers_of(peer.torrent) {
                next.torrent += sources;
                return Some(peer);
            }
            // Torrents of higher ranks are no larger. The first torrent in which the source has the next peer:
            let index = peer.index + 1;
            let torrent = source.wrapping_sub(index) % sources;
            *next = Peer { torrent, index };
        }
        None
    }
}

/// Peers of a filled population announcing again, without end, torrents drawn by popularity.
pub struct Reannounce<'a> {
    population: &'a Population,
    width: f64,
    random: Random,
}

impl<'a> Reannounce<'a> {
    pub fn new(population: &'a Population) -> Reannounce<'a> {
        let sources = population.family.sources();
        assert!(
            population.torrents >= sources,
            "--torrents: expected at least {sources}"
        );
        Reannounce {
            population,
            width: width(population.torrents),
            random: Random::seeded(1),
        }
    }

    /// A rank by the inverse of the distribution function.
    fn torrent(&mut self) -> u32 {
        let unit = self.random.draw() as f64 / u64::MAX as f64;
        let rank = (1.0 + unit * self.width).powi(5);
        (rank as u32 - 1).min(self.population.torrents - 1)
    }
}

impl Order for Reannounce<'_> {
    fn next(&mut self, source: u32) -> Option<Peer> {
        let torrent = self.torrent();
        let peers = self.population.peers_of(torrent);
        let sources = self.population.family.sources();
        if peers >= sources {
            // The source has one peer in each full round of the swarm.
            let round = self.random.below((peers / sources) as usize) as u32;
            let index = round * sources + source.wrapping_sub(torrent) % sources;
            return Some(Peer { torrent, index });
        }
        // The source may have no peer in so small a swarm, but has in one of the neighbours, which are as popular.
        let neighbours = torrent - torrent % sources;
        let in_neighbour = |index: u32| {
            let mut torrent = neighbours + source.wrapping_sub(index) % sources;
            if torrent >= self.population.torrents {
                torrent -= sources;
            }
            Peer { torrent, index }
        };
        let peer = in_neighbour(self.random.below(peers as usize) as u32);
        let exists = peer.index < self.population.peers_of(peer.torrent);
        Some(if exists { peer } else { in_neighbour(0) })
    }
}
