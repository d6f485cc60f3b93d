//! Decoys: random addresses among a swarm's peers in replies, so that being in a reply proves nothing.
//!
//! A decoy is not stored. Each of a swarm's four lists has numbered slots, three for each decoy that is due. A keyed
//! hash of info-hash, list and slot divides the slot's time into epochs, and one of the epoch's number says from when
//! to when in it there is a decoy, and which: a third of the time on average, so that PERCENT of the list's peers are
//! there.
//!
//! An observer who asks every few minutes must not tell decoys from peers by when they come and go:
//!
//! - Lives of every length from minutes to days begin equally often, as those of peers do, and none begins when another
//!   ends. An epoch is a week for half of the slots, half a week for a quarter, and so on; its start and
//!   end within the epoch are uniform.
//! - The number of slots follows the swarm's size with some play, so that a decoy does not flicker when one
//!   peer in 100/PERCENT comes and goes: see [`Followed`].
//! - Replies hold peers and decoys one by one in random order: see [`super::sample`].
//!
//! A decoy never changes its role. One that completed would have to raise the downloaded count, which is stored.

use super::peer::{Family, InfoHash, Peer, Role, of_use};
use crate::base::nets::Net;
use crate::base::random::Random;
use crate::base::siphash::{siphash24, siphash24_128};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Smaller swarms have no decoys: most of their peers would connect to each decoy.
const MIN_PEERS: usize = 4;

/// Slots for each decoy: one in three holds one.
const SLOTS: u64 = 3;

/// Lists of up to this many slots count the decoys that are there, others those that are due: by the time that an
/// observer had been sent all of a larger list, some would have come and gone.
const MAX_COUNTED: usize = 24;

/// The longest epoch, in seconds, and how often it is halved for the shortest.
const EPOCH: u64 = 7 * 24 * 3600;
const HALVINGS: u32 = 7;

/// Entries of [`Followed`] in the whole table: half a megabyte, divided among its shards.
const MAX_FOLLOWED: usize = 25_000;

/// IPv4 networks without decoys, in order: those of RFC 6890 and the IANA registry that follows it, multicast, and
/// whole /8 blocks that are not routed.
const UNROUTED_V4: &str = "0.0.0.0/8 6.0.0.0/7 10.0.0.0/7 21.0.0.0/8 22.0.0.0/8 25.0.0.0/8 26.0.0.0/8 28.0.0.0/7 \
    30.0.0.0/8 33.0.0.0/8 55.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 \
    192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 \
    203.0.113.0/24 214.0.0.0/7 224.0.0.0/3";

/// IPv6 networks with decoys: some that access networks announce whole. Most of 2000::/3 is not routed, and a decoy
/// there would show at once.
const ROUTED_V6: &str = "2001:1c00::/23 2001:2000::/20 2003::/19 2400:2000::/20 2400:4000::/22 2405:200::/29 \
    2408:8000::/20 2409:4000::/22 2409:8000::/20 240e::/20 240f::/24 2600:1700::/28 2600:6c00::/24 2601::/20 \
    2607:fb90::/32 2607:fea8::/32 2804:14c::/31 2a00:2380::/25 2a01:e00::/26 2a01:c000::/19 2a02:c78::/29 \
    2a02:1200::/27 2a02:1800::/24 2a02:2f00::/28 2a02:8100::/27 2a02:a400::/25";

/// The decoys of all swarms of a shard.
#[derive(Clone, Debug)]
pub struct Decoys {
    percent: u64,
    key: [u64; 2],
    /// Seconds since 1970 at second 0 of the tracker.
    start: u64,
    /// [`UNROUTED_V4`] as ranges: halving them, not passing all, makes a reply of 50 with decoys 0.4 µs faster.
    unrouted_v4: Vec<RangeInclusive<u32>>,
    routed_v6: Vec<Net>,
    followed: Box<[Cell<Followed>]>,
}

/// The sizes that a swarm's lists are taken to have: with a play of a quarter and of at most 7 peers, so that a size
/// that goes up and down by a little moves nothing. (With a play of a sixteenth an observer of swarms of 30 could tell
/// decoys by the gaps in their stay.) Swarms that share an entry take it from each other, and start from their real
/// size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    owner: u32,
    sizes: [u32; 4],
}

impl Followed {
    fn follow(self, owner: u32, sizes: [usize; 4]) -> Followed {
        let mut before = self.sizes.into_iter();
        let sizes = sizes.map(|size| {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            let play = (size / 4).min(7);
            let before = before.next().filter(|_| self.owner == owner);
            before
                .unwrap_or(size)
                .clamp(size - play, size.saturating_add(play))
        });
        Followed { owner, sizes }
    }
}

impl Decoys {
    /// `percent` of each swarm's peers, from 0 to 100. Trackers with the same key and the right time have the same
    /// decoys; `start` is the time at which this one was started, in seconds since 1970. The table has `shards` shards.
    pub fn new(percent: u32, key: [u64; 2], start: u64, shards: usize) -> Decoys {
        let entries = (MAX_FOLLOWED / shards.max(1)).max(1);
        Decoys {
            percent: percent.min(100).into(),
            key,
            start,
            unrouted_v4: UNROUTED_V4.split(' ').filter_map(parse_v4).collect(),
            routed_v6: ROUTED_V6.split(' ').filter_map(Net::parse).collect(),
            followed: vec![Cell::default(); entries].into_boxed_slice(),
        }
    }

    /// The decoys of a swarm with so many peers in each list, this many seconds after the start.
    pub fn of_swarm(
        &self,
        info_hash: &InfoHash,
        sizes: [usize; 4],
        now: u32,
    ) -> Option<SwarmDecoys<'_>> {
        if sizes.iter().sum::<usize>() < MIN_PEERS {
            return None;
        }
        let key = siphash24_128(self.key, info_hash);
        let times = siphash24(key, b"times");
        let entry = self.followed.get(times as usize % self.followed.len())?;
        let followed = entry.get().follow((times >> 32) as u32, sizes);
        let mut decoys = SwarmDecoys {
            all: self,
            key,
            times,
            entry,
            followed,
            now: self.start + u64::from(now),
            slots: [0; 4],
            live: [0; 4],
        };
        for (list, size) in followed.sizes.into_iter().enumerate() {
            // Rounded up or down as the swarm's hash says.
            let hundredths = SLOTS * self.percent * u64::from(size) + (times >> (8 * list)) % 100;
            let slots = (hundredths / 100) as usize;
            decoys.slots[list] = slots;
            decoys.live[list] = match slots {
                ..=MAX_COUNTED => (0..slots)
                    .filter(|&slot| decoys.epoch(list, slot).is_some())
                    .count(),
                _ => slots / SLOTS as usize,
            };
        }
        Some(decoys)
    }

    fn is_routed(&self, address: Ipv4Addr) -> bool {
        let address = address.to_bits();
        let nets = &self.unrouted_v4;
        let after = nets.partition_point(|net| *net.start() <= address);
        let last = nets[..after].last();
        !last.is_some_and(|net| net.contains(&address))
    }
}

/// The decoys of one swarm at one time.
#[derive(Clone, Debug)]
pub struct SwarmDecoys<'a> {
    all: &'a Decoys,
    /// The seed of all addresses and of the order in replies.
    key: [u64; 2],
    /// The seed of all times.
    times: u64,
    entry: &'a Cell<Followed>,
    followed: Followed,
    /// Seconds since 1970.
    now: u64,
    slots: [usize; 4],
    live: [usize; 4],
}

impl SwarmDecoys<'_> {
    /// Stores the sizes that the swarm was taken to have.
    pub fn remember(&self) {
        self.entry.set(self.followed);
    }

    /// How many decoys each list counts.
    pub fn live(&self) -> [usize; 4] {
        self.live
    }

    /// Slots of leechers and of seeders for such an asker.
    pub fn slots_for(&self, asker: (Family, Role)) -> [usize; 2] {
        of_use(self.slots, asker)
    }

    /// The number of a slot's epoch, if there is a decoy now.
    fn epoch(&self, list: usize, slot: usize) -> Option<u64> {
        // All of this shows only in times, and is looked at for every slot, so a tenth of a keyed hash has to do.
        let slot = ((list as u64) << 48 | slot as u64).wrapping_add(self.times);
        let nature = Random::seeded(slot).draw();
        let halvings = (nature | 1 << HALVINGS).trailing_zeros();
        let length = EPOCH >> halvings;
        // The upper half of the bits shifts the epochs of a slot against those of others.
        let time = self.now + (nature >> 32);
        let epoch = time / length;
        let bits = Random::seeded(nature.wrapping_add(epoch)).draw();
        let moment = |part: u64| (part * length) >> 32;
        let (a, b) = (moment(bits >> 32), moment(bits & u64::from(u32::MAX)));
        (a.min(b)..a.max(b))
            .contains(&(time % length))
            .then_some(epoch)
    }

    /// The decoy that is in a slot now.
    pub fn decoy(&self, family: Family, role: Role, slot: usize) -> Option<Peer> {
        let list = family.list(role);
        let epoch = self.epoch(list, slot)?;
        let mut number = 0_u8;
        // Hashes, so that no part of an address says what the others are.
        let mut draw = || {
            number = number.wrapping_add(1);
            let place = u64::from(number) << 56 | (list as u64) << 48 | slot as u64;
            let message = u128::from(epoch) << 64 | u128::from(place);
            siphash24(self.key, &message.to_le_bytes())
        };
        let port = port(draw());
        let address = match family {
            Family::V4 => loop {
                let address = Ipv4Addr::from_bits(draw() as u32);
                let is_host = !matches!(address.octets()[3], 0 | 255);
                if is_host && self.all.is_routed(address) {
                    break address.into();
                }
            },
            Family::V6 => {
                let nets = &self.all.routed_v6;
                let net = nets.get(draw() as usize % nets.len().max(1))?;
                // Subnet, and an interface identifier as in RFC 8981.
                net.with_host(u128::from(draw()) << 64 | u128::from(draw()))
            }
        };
        Some(Peer::new(address, port))
    }

    /// A generator for one reply, from a number that need not be secret. The order of a reply that could be foretold
    /// would show which of its peers are decoys.
    pub fn random(&self, number: u64) -> Random {
        Random::seeded(siphash24(self.key, &number.to_le_bytes()))
    }
}

/// The addresses of a network such as `10.0.0.0/7`.
fn parse_v4(net: &str) -> Option<RangeInclusive<u32>> {
    let (address, prefix) = net.split_once('/')?;
    let first = address.parse().map(Ipv4Addr::to_bits).ok()?;
    let prefix: u32 = prefix.parse().ok()?;
    Some(first..=first | u32::MAX.checked_shr(prefix)?)
}

/// A port such as clients listen on: a few have old defaults, most choose one at random.
fn port(bits: u64) -> u16 {
    let (first, last) = match bits >> 60 {
        0 | 1 => (6881, 6881),
        2 => (6882, 6889),
        3 => (51_413, 51_413),
        4..=7 => (1024, 65_535),
        _ => (10_000, 65_535),
    };
    let ports = u64::from(last - first) + 1;
    first + (((bits & u64::from(u32::MAX)) * ports) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::nets::any_contains;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    const MINUTE: u32 = 60;
    const DAY: u32 = 24 * 3600;

    fn decoys(percent: u32) -> Decoys {
        Decoys::new(percent, [7, 8], 1_700_000_000, 1)
    }

    fn hash(n: u32) -> InfoHash {
        let mut hash = [0x5a; 20];
        hash[..4].copy_from_slice(&n.to_le_bytes());
        hash
    }

    /// All decoys of one family.
    fn all(decoys: &SwarmDecoys, family: Family) -> BTreeSet<Vec<u8>> {
        let mut all = BTreeSet::new();
        for role in Role::ALL {
            let slots = 0..decoys.slots[family.list(role)];
            let found = slots.filter_map(|slot| decoys.decoy(family, role, slot));
            all.extend(found.map(|decoy| decoy.endpoint().to_vec()));
        }
        all
    }

    /// As the RFCs and the IANA registries write them.
    const SPECIAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 \
        192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 \
        192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
        255.255.255.255/32 ::1/128 ::/128 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 \
        2001::/23 2001::/32 2001:1::1/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 \
        2001:30::/28 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 \
        ff00::/8";

    #[test]
    fn addresses_are_routable_unicast_and_ports_are_those_of_clients() {
        let special: Vec<Net> = SPECIAL.split_whitespace().filter_map(Net::parse).collect();
        assert_eq!(special.len(), SPECIAL.split_whitespace().count());
        let global = Net::parse("2000::/3").expect("a network");
        let decoys = decoys(100);
        let decoys = decoys
            .of_swarm(&hash(1), [900_000, 0, 900_000, 0], 0)
            .expect("has some");
        let (mut firsts, mut nets) = (BTreeSet::new(), BTreeSet::new());
        let (mut ports, mut count) = ([0; 65536], 0);
        for endpoint in [Family::V4, Family::V6]
            .map(|family| all(&decoys, family))
            .iter()
            .flatten()
        {
            let (address, &[high, low]) = endpoint.split_last_chunk().expect("is longer");
            let ip = match *address {
                [a, b, c, d] => {
                    firsts.insert(a);
                    assert!(!matches!(d, 0 | 255), "{d}");
                    IpAddr::from([a, b, c, d])
                }
                _ => {
                    nets.insert(address[..2].to_vec());
                    let ip = IpAddr::from(<[u8; 16]>::try_from(address).expect("16 bytes"));
                    assert!(global.contains(ip), "{ip}");
                    ip
                }
            };
            assert!(!any_contains(&special, ip), "{ip}");
            ports[usize::from(u16::from_be_bytes([high, low]))] += 1;
            count += 1;
        }
        assert_eq!(firsts.len(), 223 - 16, "all that is left of unicast");
        assert!(nets.len() >= 15, "{nets:?}");
        assert!(ports[..1024].iter().all(|&n| n == 0));
        let share = |ports: &[u32]| f64::from(ports.iter().sum::<u32>()) / f64::from(count);
        assert!((share(&ports[6881..6890]) - 0.1875).abs() < 0.01);
        assert!((share(&ports[51_413..51_414]) - 0.0625).abs() < 0.01);
        assert!(share(&ports[49_152..]) > 0.2);
    }

    #[test]
    fn swarms_of_fewer_than_4_peers_have_no_decoys() {
        let decoys = decoys(100);
        for sizes in [[0; 4], [3, 0, 0, 0], [0, 0, 0, 3], [1, 1, 1, 0]] {
            assert!(decoys.of_swarm(&hash(1), sizes, 0).is_none(), "{sizes:?}");
        }
        assert!(decoys.of_swarm(&hash(1), [1; 4], 0).is_some());
    }

    #[test]
    fn each_list_has_its_percentage_of_decoys_on_average_and_counts_agree() {
        for (percent, sizes) in [
            (1, [400, 0, 0, 9]),
            (10, [4, 50, 7, 0]),
            (100, [30, 2, 0, 60]),
        ] {
            let decoys = decoys(percent);
            let (mut there, mut counted) = ([0; 4], [0; 4]);
            let rounds = 4000;
            for n in 0..rounds {
                let decoys = decoys.of_swarm(&hash(n), sizes, 97 * n).expect("has some");
                for list in 0..4 {
                    let slots = 0..decoys.slots[list];
                    let live = slots
                        .filter(|&slot| decoys.epoch(list, slot).is_some())
                        .count();
                    let is_exact = decoys.slots[list] <= MAX_COUNTED;
                    assert!(!is_exact || decoys.live()[list] == live);
                    there[list] += live;
                    counted[list] += decoys.live()[list];
                }
            }
            for (list, size) in sizes.into_iter().enumerate() {
                let due = (size * percent as usize) as f64 / 100.0;
                for sum in [there[list], counted[list]] {
                    let mean = sum as f64 / f64::from(rounds);
                    assert!((mean - due).abs() <= 0.05 * due.sqrt(), "{mean} for {due}");
                }
            }
        }
    }

    #[test]
    fn a_swarm_that_grows_keeps_its_decoys() {
        let decoys = decoys(15);
        for n in 0..20 {
            let mut before = BTreeSet::new();
            for size in 4..400 {
                let sizes = [size, size / 2, 0, 0];
                let now = decoys.of_swarm(&hash(n), sizes, DAY).expect("has some");
                let now = all(&now, Family::V4);
                assert!(before.is_subset(&now));
                assert!(now.len() <= before.len() + 4);
                before = now;
            }
        }
    }

    /// When each decoy of a swarm was first and last seen and how often it was not seen in between, over
    /// three weeks, looked at every minute; and in how many minutes some came, went, or both.
    fn lives(size: impl Fn(u32) -> usize) -> (Vec<(u32, u32, u32)>, [u32; 3]) {
        let decoys = decoys(20);
        let mut lives: BTreeMap<Vec<u8>, (u32, u32, u32)> = BTreeMap::new();
        let mut before = BTreeSet::new();
        let mut moves = [0; 3];
        for minute in 0..21 * 24 * 60 {
            let now = minute * MINUTE;
            let sizes = [size(minute), 40, 0, 0];
            let of_swarm = decoys.of_swarm(&hash(3), sizes, now).expect("has some");
            let there = all(&of_swarm, Family::V4);
            of_swarm.remember();
            let came = there.difference(&before).count() > 0;
            let went = before.difference(&there).count() > 0;
            for (count, moved) in moves.iter_mut().zip([came, went, came && went]) {
                *count += u32::from(moved && minute > 0);
            }
            for decoy in &there {
                let life = lives.entry(decoy.clone()).or_insert((now, now, 0));
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
        // Both in one minute are as rare as independent events are.
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
        for (from, to, min) in [
            (0, 3600, 0.1),
            (3600, 4 * 3600, 0.1),
            (4 * 3600, DAY, 0.05),
            (DAY, 20 * DAY, 0.005),
        ] {
            let count = lengths.iter().filter(|&&l| (from..to).contains(&l)).count();
            let share = count as f64 / lengths.len() as f64;
            assert!(share > min, "{from} to {to}: {share}");
        }
    }

    #[test]
    fn a_size_that_wobbles_makes_no_decoy_flicker() {
        let (lives, _) = lives(|minute| 100 + (minute * 7 / 5 % 7) as usize);
        assert!(lives.iter().all(|life| life.2 == 0));
    }

    #[test]
    fn another_key_or_torrent_has_other_decoys() {
        let all = |key, n| {
            let decoys = Decoys::new(100, key, 0, 1);
            let decoys = decoys.of_swarm(&hash(n), [500, 500, 0, 0], 0);
            all(&decoys.expect("has some"), Family::V4)
        };
        let some = all([1, 2], 1);
        assert!(some.len() > 900);
        assert_eq!(some, all([1, 2], 1));
        for other in [all([1, 3], 1), all([2, 2], 1), all([1, 2], 2)] {
            assert!(some.is_disjoint(&other));
        }
    }
}
