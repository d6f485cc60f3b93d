//! Decoys: addresses that are named among a swarm's peers and belong to nobody in it, so that being named
//! proves nothing.
//!
//! A decoy is nowhere stored. Every list of a swarm (leechers and seeders of a family) has slots, numbered
//! from 0; a keyed hash of the info-hash and the slot cuts the slot's time into cells, and one of the cell
//! says who is the decoy in it. All that a decoy is follows from key, info-hash, slot, cell and time.
//!
//! Somebody who asks often must not tell decoys from peers by when they come and go. So each slot has
//! its own phase and length of cell, from an hour to a month, and a decoy lives for a part of its cell. Which
//! part depends on the size of the swarm: with N decoys due, that in slot i is there while
//! (i + u) / N is below a height that rises from 0 to 2 and falls to 0 again over the cell, with the summit
//! anywhere. The mean of the height is 1, so N are there on average; lives are of all lengths; no
//! birth falls on another's death. As a swarm grows or shrinks, its decoys come a little earlier and stay
//! a little longer or the reverse, and slots are added or taken at the end, where lives are shortest.
//!
//! Still, whatever follows the size would flicker with it, one join or leave in 100/PERCENT making a
//! decoy come or go. So what is followed is the size with some play: see [`Memory`].
//!
//! Replies in which decoys may be are drawn in single ranks, in random order (`Pool::pick_mixed`). Runs of
//! neighbours would give decoys away, as they have no rank among the peers' addresses.
//!
//! A decoy never changes its role: one that completed would have to raise the downloaded count, which is
//! stored.

use super::peers::{Record, Role, V4, V6};
use super::small::list_number;
use super::torrents::InfoHash;
use crate::random::Random;
use crate::siphash::siphash24;

/// Swarms below this have no decoys: where there is hardly anybody, one more stranger would be asked by
/// everybody.
const FEWEST_PEERS: usize = 4;

/// Up to this many slots of a list are looked at to count its decoys. Beyond that the number due
/// stands for that of those there: nobody can count them all before some have come and gone.
const COUNTED: usize = 16;

/// Bits of a slot's number that are behind the point.
const POINT: u32 = 24;

/// Lengths of a cell, in seconds: each half again as long as the one before.
const CELLS: [u32; 16] = [
    3600, 5582, 8657, 13_424, 20_817, 32_281, 50_058, 77_625, 120_373, 186_662, 289_457, 448_861,
    696_049, 1_079_363, 1_673_768, 2_595_512,
];

/// Entries of [`Memory`] in the whole table: half a megabyte, divided among its shards.
const REMEMBERED: usize = 1 << 17;

/// What a hash is for.
#[derive(Clone, Copy)]
enum Use {
    Port = 1,
    Network,
    Host,
    Order,
}

/// How many decoys swarms have, and what they follow from.
#[derive(Clone, Debug)]
pub struct Decoys {
    percent: u64,
    key: [u64; 2],
    /// Seconds since 1970 at second 0 of the tracker.
    start: u64,
    memory: Box<[Memory]>,
}

/// How large the lists of a swarm are taken to be: with a play of a quarter and of at most 7 peers, so that
/// a size that goes up and down by a little moves nothing. (With a play of a sixteenth an observer of
/// swarms of 30 could tell decoys by the gaps in their stay.)
///
/// A size that is followed is never further than 7 from the real one, so its last four bits are enough to
/// tell it. Entries are found by hash; swarms that share one take it from each other, and start from
/// their real size.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    owner: u16,
    /// Four bits for each list.
    sizes: u16,
}

impl Memory {
    /// What to take these sizes for.
    fn follow(self, sizes: [usize; 4]) -> [usize; 4] {
        let mut list = 0;
        sizes.map(|size| {
            let last_bits = usize::from(self.sizes >> (4 * list) & 15);
            list += 1;
            // How much what was followed is above the size, or below: from -8 to 7.
            let above = last_bits.wrapping_sub(size) & 15;
            let play = Memory::play(size);
            match above {
                0..8 => size + above.min(play),
                _ => size - (16 - above).min(play),
            }
        })
    }

    fn play(size: usize) -> usize {
        (size / 4).min(7)
    }

    fn of(owner: u16, sizes: [usize; 4]) -> Memory {
        let bits = |list: usize| ((sizes[list] & 15) << (4 * list)) as u16;
        Memory {
            owner,
            sizes: bits(0) | bits(1) | bits(2) | bits(3),
        }
    }
}

impl Decoys {
    /// `percent` of each swarm's peers, from 0 to 100. Trackers with the same key and the right time
    /// name the same decoys; `start` is the time at which this one was started, in seconds since 1970.
    /// `shards` is how many shards the table has.
    pub fn new(percent: u32, key: [u64; 2], start: u64, shards: usize) -> Decoys {
        let remembered = (REMEMBERED / shards.max(1)).max(1);
        Decoys {
            percent: percent.min(100).into(),
            key,
            start,
            memory: vec![Memory::default(); remembered].into_boxed_slice(),
        }
    }

    /// The decoys of a swarm with so many IPv4 leechers, IPv4 seeders, IPv6 leechers and IPv6 seeders,
    /// this many seconds after the start.
    pub(super) fn of(&self, info_hash: &InfoHash, sizes: [usize; 4], now: u32) -> Option<Pools> {
        if sizes.iter().sum::<usize>() < FEWEST_PEERS {
            return None;
        }
        let mut message = [0; 21];
        message[..20].copy_from_slice(info_hash);
        let first = siphash24(self.key, &message);
        message[20] = 1;
        let second = siphash24(self.key, &message);
        message[20] = 2;
        let owner = (first >> 48) as u16;
        let place = first as usize % self.memory.len();
        let sizes = match self.memory.get(place) {
            Some(memory) if memory.owner == owner => memory.follow(sizes),
            _ => sizes,
        };
        let mut pools = Pools {
            key: [first, second],
            times: siphash24(self.key, &message),
            memory: (place, Memory::of(owner, sizes)),
            now: self.start + u64::from(now),
            due: sizes.map(|size| (self.percent * size as u64).saturating_mul(1 << POINT) / 100),
            live: [0; 4],
        };
        for list in 0..4 {
            pools.live[list] = pools.count(list);
        }
        Some(pools)
    }

    /// Notes what the swarm's sizes were taken for.
    pub(super) fn remember(&mut self, pools: &Pools) {
        let (place, memory) = pools.memory;
        if let Some(entry) = self.memory.get_mut(place) {
            *entry = memory;
        }
    }
}

/// The decoys of one swarm at one time.
#[derive(Clone, Debug)]
pub struct Pools {
    key: [u64; 2],
    /// What all times follow from.
    times: u64,
    /// Where it is remembered, and what.
    memory: (usize, Memory),
    /// Seconds since 1970.
    now: u64,
    /// Decoys that each list has on average, with [`POINT`] bits behind the point.
    due: [u64; 4],
    live: [usize; 4],
}

impl Pools {
    /// How many decoys a list counts.
    pub fn live(&self, list: usize) -> usize {
        self.live[list]
    }

    /// Decoys of a family that may be named to an asker of this role.
    pub fn live_for<R: Guise>(&self, asker: Role) -> usize {
        let of = |role| self.live[list_number::<R>(role)];
        match asker {
            Role::Leecher => of(Role::Leecher) + of(Role::Seeder),
            Role::Seeder => of(Role::Leecher),
        }
    }

    /// Slots in which decoys for such an asker may be, of leechers and of seeders.
    pub fn slots_for<R: Guise>(&self, asker: Role) -> [usize; 2] {
        let of = |role| self.slots(list_number::<R>(role));
        match asker {
            Role::Leecher => [of(Role::Leecher), of(Role::Seeder)],
            Role::Seeder => [of(Role::Leecher), 0],
        }
    }

    fn slots(&self, list: usize) -> usize {
        let slots = self.due[list].saturating_mul(2).div_ceil(1 << POINT);
        usize::try_from(slots).unwrap_or(usize::MAX)
    }

    fn count(&self, list: usize) -> usize {
        match self.slots(list) {
            slots @ ..=COUNTED => (0..slots).filter(|&s| self.life(list, s).is_some()).count(),
            slots => slots.div_ceil(2),
        }
    }

    /// The cell of a slot in which somebody is there now.
    fn life(&self, list: usize, slot: usize) -> Option<u64> {
        let nature = self.chance(list, slot, 0);
        // The greater of two: long cells are more, so that of the lives, of which short cells have more,
        // enough are long. Half of all leechers stay for under two hours, and of seeders for under
        // three; a tenth stay for half a day, and for more than a day.
        let class = (nature & 15).max(nature >> 4 & 15) as usize;
        let length = match list % 2 {
            0 => CELLS[class * 3 / 4 + 1],
            _ => CELLS[class * 7 / 8 + 2],
        };
        let in_cells = u128::from(u64::MAX / u64::from(length)) * u128::from(self.now);
        let time = in_cells + u128::from(nature);
        let cell = (time >> 64) as u64;
        let seed = self.chance(list, slot, cell);
        // As shares of the cell in 32 bits: how much has passed, and where the summit is.
        let age = (time >> 32) as u64 & u64::from(u32::MAX);
        let summit = seed & u64::from(u32::MAX);
        let (from, to) = match age < summit {
            true => (age, summit),
            false => ((1 << 32) - age, (1 << 32) - summit),
        };
        let place = ((slot as u64) << POINT) + (seed >> (64 - POINT));
        let is_there =
            u128::from(place) * u128::from(to) < 2 * u128::from(self.due[list]) * u128::from(from);
        is_there.then_some(cell)
    }

    /// Who is in a slot now, if there is somebody.
    pub fn decoy<R: Guise>(&self, role: Role, slot: usize) -> Option<R> {
        let list = list_number::<R>(role);
        let cell = self.life(list, slot)?;
        let hash = |purpose| self.hash(purpose, list, slot, cell);
        let port = port(hash(Use::Port));
        Some(R::new(hash(Use::Network), hash(Use::Host), port))
    }

    /// What decides when somebody is there. It is looked at for every slot, is worth a tenth of a hash, and
    /// nothing of it shows but roughly in times.
    fn chance(&self, list: usize, slot: usize, cell: u64) -> u64 {
        let slot = ((list as u64) << 48 | slot as u64).wrapping_add(self.times);
        let of_slot = Random::seeded(slot).draw();
        Random::seeded(of_slot.wrapping_add(cell)).draw()
    }

    /// A generator for one reply, from a number that need not be secret. Whoever could foretell the
    /// order of a reply would know which of its places are decoys'.
    pub fn random(&self, number: u64) -> Random {
        Random::seeded(self.hash(Use::Order, 0, 0, number))
    }

    fn hash(&self, purpose: Use, list: usize, slot: usize, cell: u64) -> u64 {
        let what = (purpose as u64) << 56 | (list as u64) << 48 | slot as u64;
        let mut message = [0; 16];
        message[..8].copy_from_slice(&what.to_le_bytes());
        message[8..].copy_from_slice(&cell.to_le_bytes());
        siphash24(self.key, &message)
    }
}

/// A record that a decoy can be.
pub trait Guise: Record {
    /// From random bits.
    fn new(network: u64, host: u64, port: u16) -> Self;
}

/// Uniform in `0..bound`, from 32 random bits.
fn below(bits: u64, bound: u32) -> u32 {
    (((bits & u64::from(u32::MAX)) * u64::from(bound)) >> 32) as u32
}

/// A port such as clients listen on: a few have defaults of old, most draw one.
fn port(bits: u64) -> u16 {
    let (first, last) = match bits >> 60 {
        0 | 1 => (6881, 6881),
        2 => (6882, 6889),
        3 => (51_413, 51_413),
        4..=7 => (1024, 65_535),
        _ => (10_000, 65_535),
    };
    let port = first + below(bits, last - first + 1);
    u16::try_from(port).unwrap_or(6881)
}

/// IPv4 networks of 24 bits that no decoy is in, from and to, in order: those of RFC 6890 and the IANA
/// registry that follows it, and blocks of whole /8 that are not routed.
const NO_V4: [(u32, u32); 23] = [
    (0x00_0000, 0x00_ffff), // 0.0.0.0/8
    (0x06_0000, 0x07_ffff), // 6/8, 7/8: not routed
    (0x0a_0000, 0x0b_ffff), // 10/8; 11/8: not routed
    (0x15_0000, 0x16_ffff), // 21/8, 22/8: not routed
    (0x19_0000, 0x1a_ffff), // 25/8, 26/8: not routed
    (0x1c_0000, 0x1e_ffff), // 28/8 to 30/8: not routed
    (0x21_0000, 0x21_ffff), // 33/8: not routed
    (0x37_0000, 0x37_ffff), // 55/8: not routed
    (0x64_4000, 0x64_7fff), // 100.64/10
    (0x7f_0000, 0x7f_ffff), // 127/8
    (0xa9_fe00, 0xa9_feff), // 169.254/16
    (0xac_1000, 0xac_1fff), // 172.16/12
    (0xc0_0000, 0xc0_0002), // 192.0.0/24, 192.0.2/24
    (0xc0_1fc4, 0xc0_1fc4), // 192.31.196/24
    (0xc0_34c1, 0xc0_34c1), // 192.52.193/24
    (0xc0_5863, 0xc0_5863), // 192.88.99/24
    (0xc0_a800, 0xc0_a8ff), // 192.168/16
    (0xc0_af30, 0xc0_af30), // 192.175.48/24
    (0xc6_1200, 0xc6_13ff), // 198.18/15
    (0xc6_3364, 0xc6_3364), // 198.51.100/24
    (0xcb_0071, 0xcb_0071), // 203.0.113/24
    (0xd6_0000, 0xd7_ffff), // 214/8, 215/8: not routed
    (0xe0_0000, 0xff_ffff), // 224/4, 240/4
];

/// How many networks are left.
const SOME_V4: u32 = {
    let (mut left, mut i) = (1 << 24, 0);
    while i < NO_V4.len() {
        left -= NO_V4[i].1 - NO_V4[i].0 + 1;
        i += 1;
    }
    left
};

impl Guise for V4 {
    fn new(network: u64, host: u64, port: u16) -> V4 {
        let mut network = below(network, SOME_V4);
        for (first, last) in NO_V4 {
            if network >= first {
                network += last - first + 1;
            }
        }
        let [_, a, b, c] = network.to_be_bytes();
        // Neither of the two that are no hosts in most networks.
        let d = 1 + below(host, 254) as u8;
        let [high, low] = port.to_be_bytes();
        [a, b, c, d, high, low, 0]
    }
}

/// IPv6 networks that decoys are in, the first 32 bits and how many of these count. Most of 2000::/3 is
/// not routed, where a decoy would show at once; these are some that access networks announce whole.
const SOME_V6: [(u32, u8); 26] = [
    (0x2001_1c00, 23),
    (0x2001_2000, 20),
    (0x2003_0000, 19),
    (0x2400_2000, 20),
    (0x2400_4000, 22),
    (0x2405_0200, 29),
    (0x2408_8000, 20),
    (0x2409_4000, 22),
    (0x2409_8000, 20),
    (0x240e_0000, 20),
    (0x240f_0000, 24),
    (0x2600_1700, 28),
    (0x2600_6c00, 24),
    (0x2601_0000, 20),
    (0x2607_fb90, 32),
    (0x2607_fea8, 32),
    (0x2804_014c, 31),
    (0x2a00_2380, 25),
    (0x2a01_0e00, 26),
    (0x2a01_c000, 19),
    (0x2a02_0c78, 29),
    (0x2a02_1200, 27),
    (0x2a02_1800, 24),
    (0x2a02_2f00, 28),
    (0x2a02_8100, 27),
    (0x2a02_a400, 25),
];

impl Guise for V6 {
    /// The network's random bits go into its subnets of 64 bits; the host's are the interface's, as
    /// in RFC 8981.
    fn new(network: u64, host: u64, port: u16) -> V6 {
        let chosen = below(network >> 32, SOME_V6.len() as u32) as usize;
        let (first, bits) = SOME_V6[chosen];
        // The bits that chose are the first five, and no subnet has more than 45.
        let subnet = network & (u64::MAX >> bits);
        let mut record = [0; 19];
        record[..8].copy_from_slice(&(u64::from(first) << 32 | subnet).to_be_bytes());
        record[8..16].copy_from_slice(&host.to_be_bytes());
        record[16..18].copy_from_slice(&port.to_be_bytes());
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::{Net, any_contains};
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const MINUTE: u32 = 60;
    const DAY: u32 = 24 * 3600;

    fn decoys(percent: u32) -> Decoys {
        Decoys::new(percent, [7, 8], 1_700_000_000, 1)
    }

    fn v4_decoys(pools: &Pools) -> BTreeSet<V4> {
        let mut all = BTreeSet::new();
        for role in [Role::Leecher, Role::Seeder] {
            let slots = pools.slots(list_number::<V4>(role));
            all.extend((0..slots).filter_map(|slot| pools.decoy::<V4>(role, slot)));
        }
        all
    }

    fn hash(n: usize) -> InfoHash {
        [(n & 255) as u8; 20]
    }

    /// As the RFCs and the IANA registries write them.
    const SPECIAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 \
        192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 \
        192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
        255.255.255.255/32 ::1/128 ::/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 \
        2001::/23 2001::/32 2001:1::1/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 \
        2001:30::/28 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 \
        ff00::/8";

    #[test]
    fn addresses_are_in_routable_unicast_space_and_ports_as_clients_have_them() {
        let nets = |is_v6| -> Vec<Net> {
            let of_family = SPECIAL
                .split_whitespace()
                .filter(|n| n.contains(':') == is_v6);
            of_family
                .map(|net| Net::parse(net).expect("a network"))
                .collect()
        };
        let (of_v4, of_v6) = (nets(false), nets(true));
        let global = Net::parse("2000::/3").expect("a network");
        let mut random = Random::seeded(1);
        let mut firsts = BTreeSet::new();
        let mut ports = [0; 65536];
        for n in 0..1_000_000_u64 {
            // Both ends of each range too.
            let network = match n {
                0 => 0,
                1 => u64::MAX,
                _ => random.draw(),
            };
            let port = port(random.draw());
            ports[usize::from(port)] += 1;
            let v4 = V4::new(network, random.draw(), port);
            let ip = Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]);
            assert!(!any_contains(&of_v4, IpAddr::V4(ip)), "{ip}");
            assert!(!matches!(v4[3], 0 | 255), "{ip}");
            assert_eq!(v4[4..], [port.to_be_bytes()[0], port.to_be_bytes()[1], 0]);
            firsts.insert(v4[0]);
            let v6 = V6::new(network, random.draw(), port);
            let octets: [u8; 16] = *v6.first_chunk().expect("16 bytes");
            let ip = IpAddr::V6(Ipv6Addr::from(octets));
            assert!(global.contains(ip) && !any_contains(&of_v6, ip), "{ip}");
            assert_eq!(v6[16..], v4[4..]);
        }
        assert_eq!(firsts.len(), 223 - 16, "all that is left of unicast");
        assert!(ports[..1024].iter().all(|&n| n == 0));
        let share = |ports: &[u32]| f64::from(ports.iter().sum::<u32>()) / 1e6;
        assert!((share(&ports[6881..6890]) - 0.1875).abs() < 0.01);
        assert!((share(&ports[51_413..51_414]) - 0.0625).abs() < 0.01);
        assert!(share(&ports[49_152..]) > 0.2);
    }

    #[test]
    fn small_swarms_have_none() {
        let decoys = decoys(100);
        for sizes in [[0; 4], [3, 0, 0, 0], [0, 0, 0, 3], [1, 1, 1, 0]] {
            assert!(decoys.of(&hash(1), sizes, 0).is_none(), "{sizes:?}");
        }
        assert!(decoys.of(&hash(1), [1; 4], 0).is_some());
    }

    #[test]
    fn each_list_has_its_percentage_on_average() {
        for (percent, sizes) in [
            (1, [400, 0, 0, 9]),
            (10, [4, 50, 7, 0]),
            (100, [30, 2, 0, 60]),
        ] {
            let decoys = decoys(percent);
            let mut sums = [0; 4];
            let rounds = 4000;
            for n in 0..rounds {
                let mut id = hash(0);
                id[..8].copy_from_slice(&(n as u64).to_le_bytes());
                let pools = decoys.of(&id, sizes, 97 * n as u32).expect("has some");
                for (list, sum) in sums.iter_mut().enumerate() {
                    *sum += (0..pools.slots(list))
                        .filter(|&s| pools.life(list, s).is_some())
                        .count();
                }
            }
            for (size, sum) in sizes.into_iter().zip(sums) {
                let due = (size * percent as usize) as f64 / 100.0;
                let mean = sum as f64 / f64::from(rounds);
                assert!((mean - due).abs() <= 0.05 * due.sqrt(), "{mean} for {due}");
            }
        }
    }

    #[test]
    fn what_is_counted_is_there_in_small_pools_and_nearly_so_in_large_ones() {
        for (size, slack) in [(4, 0), (20, 0), (80, 0), (800, 60), (100_000, 600)] {
            for n in 0..50 {
                let pools = decoys(10)
                    .of(&hash(n), [size, 0, 0, 0], 0)
                    .expect("has some");
                let there = v4_decoys(&pools).len();
                assert!(pools.live(0).abs_diff(there) <= slack, "{size}: {there}");
            }
        }
    }

    #[test]
    fn a_swarm_that_grows_keeps_its_decoys() {
        for n in 0..20 {
            let mut before = BTreeSet::new();
            for size in 4..400 {
                let pools = decoys(15).of(&hash(n), [size, size / 2, 0, 0], DAY);
                let now = v4_decoys(&pools.expect("has some"));
                assert!(before.is_subset(&now));
                assert!(
                    now.len() <= before.len() + 6,
                    "{n} {size} {} {}",
                    before.len(),
                    now.len()
                );
                before = now;
            }
        }
    }

    /// When each decoy of a swarm was first and last seen and how often it was not seen in between, over
    /// three weeks, looked at every minute; and in how many minutes some came, went, or both.
    fn lives(size: impl Fn(u32) -> usize) -> (Vec<(u32, u32, u32)>, [u32; 3]) {
        let mut decoys = decoys(20);
        let mut lives: BTreeMap<V4, (u32, u32, u32)> = BTreeMap::new();
        let mut before = BTreeSet::new();
        let mut moves = [0; 3];
        for minute in 0..21 * 24 * 60 {
            let now = minute * MINUTE;
            let pools = decoys.of(&hash(3), [size(minute), 40, 0, 0], now);
            let pools = pools.expect("has some");
            decoys.remember(&pools);
            let there = v4_decoys(&pools);
            let came = there.difference(&before).count() > 0;
            let went = before.difference(&there).count() > 0;
            for (count, moved) in moves.iter_mut().zip([came, went, came && went]) {
                *count += u32::from(moved && minute > 0);
            }
            for decoy in &there {
                let life = lives.entry(*decoy).or_insert((now, now, 0));
                life.2 += u32::from(now > life.1 + MINUTE);
                life.1 = now;
            }
            before = there;
        }
        (lives.into_values().collect(), moves)
    }

    #[test]
    fn decoys_come_and_go_one_by_one_after_lives_of_all_lengths() {
        let (lives, [came, went, both]) = lives(|_| 100);
        assert!(lives.len() > 500, "{}", lives.len());
        assert!(lives.iter().all(|life| life.2 == 0), "each is there once");
        // Both in one minute is as rare as with things that have nothing to do with each other.
        let minutes = 21.0 * 24.0 * 60.0;
        let by_chance = f64::from(came) * f64::from(went) / minutes;
        assert!(
            f64::from(both) < 2.0 * by_chance + 10.0,
            "{both}, {by_chance}"
        );
        let whole = lives
            .iter()
            .filter(|(from, to, _)| *from > 0 && *to < 20 * DAY);
        let lengths: Vec<u32> = whole.map(|(from, to, _)| to - from).collect();
        let share = |from, to| {
            let count = lengths.iter().filter(|&&l| (from..to).contains(&l)).count();
            count as f64 / lengths.len() as f64
        };
        for (from, to, least) in [
            (0, 3600, 0.1),
            (3600, 4 * 3600, 0.1),
            (4 * 3600, DAY, 0.05),
            (DAY, 20 * DAY, 0.005),
        ] {
            let share = share(from, to);
            assert!(share > least, "{from} to {to}: {share}");
        }
    }

    #[test]
    fn a_size_that_wobbles_makes_no_decoy_flicker() {
        let (lives, _) = lives(|minute| 100 + (minute * 7 / 5 % 7) as usize);
        assert!(lives.iter().all(|life| life.2 == 0));
    }

    #[test]
    fn sizes_are_followed_with_a_play() {
        let mut memory = Memory::of(1, [0; 4]);
        let mut followed = 0;
        let mut random = Random::seeded(5);
        let (mut size, mut moves, mut steps) = (40, 0, 0);
        for _ in 0..100_000 {
            size = match random.below(2) {
                0 if size > 0 => size - 1,
                _ => size + usize::from(size < 80),
            };
            let taken = memory.follow([size, 7, 0, size])[0];
            let play = Memory::play(size);
            assert!(taken.abs_diff(size) <= play, "{size} as {taken}");
            memory = Memory::of(1, [taken, 7, 0, taken]);
            assert_eq!(memory.follow([size, 7, 0, size]), [taken, 7, 0, taken]);
            moves += taken.abs_diff(followed);
            followed = taken;
            steps += 1;
        }
        assert!(moves < steps / 4, "{moves} of {steps}");
    }

    #[test]
    fn another_key_or_torrent_has_other_decoys() {
        let all = |key, n| {
            let decoys = Decoys::new(100, key, 0, 1);
            v4_decoys(&decoys.of(&hash(n), [500, 500, 0, 0], 0).expect("has some"))
        };
        let some = all([1, 2], 1);
        assert!(some.len() > 900);
        assert_eq!(some, all([1, 2], 1));
        for other in [all([1, 3], 1), all([2, 2], 1), all([1, 2], 2)] {
            assert!(some.is_disjoint(&other));
        }
    }
}
