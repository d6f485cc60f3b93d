//! Hosts with many peers: how many of them a swarm stores, and how many a reply names.

use super::peer::host;
use super::*;
use crate::base::nets::Net;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A unit is one second.
const LIMITS: Limits = Limits {
    peer_timeout: 48,
    max_peers: usize::MAX,
    max_torrents: usize::MAX,
};

const HASH: InfoHash = [7; 20];

const LEECHER: Role = Role::Leecher;
const SEEDER: Role = Role::Seeder;

fn tracker(max_per_host: usize, exempt: &[&str]) -> Tracker {
    let exempt = exempt.iter().map(|net| Net::parse(net).expect("a network"));
    let mut tracker = Tracker::new(LIMITS);
    tracker.hosts = HostBound::new(max_per_host, exempt.collect());
    tracker
}

/// A client of a host by number. Clients of IPv6 differ in their address too.
fn client(is_v6: bool, number: u32, port: u16) -> Peer {
    let scattered = number.wrapping_mul(0x9e37_79b1);
    let v6 = 0x2001_0db8_u128 << 96 | u128::from(scattered) << 64 | u128::from(port % 7) << 30;
    let ip: IpAddr = match is_v6 {
        false => Ipv4Addr::from_bits(scattered & 0x1fff_ffff | 1 << 29).into(),
        true => Ipv6Addr::from_bits(v6).into(),
    };
    Peer::new(ip, port)
}

fn tell(tracker: &mut Tracker, peer: Peer, role: Role) {
    tracker.tell(&HASH, peer, role, Event::None);
}

fn stored(tracker: &Tracker) -> BTreeSet<Vec<u8>> {
    let stored = tracker.stored().into_keys();
    stored.map(|(_, endpoint)| endpoint).collect()
}

/// The endpoints in a reply.
fn ask(
    tracker: &mut Tracker,
    peer: Peer,
    role: Role,
    want: usize,
    random: &mut Random,
) -> Vec<Vec<u8>> {
    let (mut v4, mut v6) = ([0; 1200], [0; 3600]);
    let mut sinks = Sinks::new(&mut v4, &mut v6);
    let announce = Announce {
        info_hash: HASH,
        peer,
        role,
        event: Event::None,
        want,
        hint: None,
    };
    tracker.announce(&announce, random, &mut sinks);
    let (v4, v6) = (sinks.v4.bytes().chunks(6), sinks.v6.bytes().chunks(18));
    v4.chain(v6).map(<[u8]>::to_vec).collect()
}

/// How many of the peers have each host.
fn by_host<'a>(peers: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeMap<(usize, u64), usize> {
    let mut hosts = BTreeMap::new();
    for peer in peers {
        *hosts.entry((peer.len(), host(peer))).or_insert(0) += 1;
    }
    hosts
}

type Swarm = BTreeMap<Vec<u8>, (Peer, Role, bool)>;

/// Peers by endpoint, with roles and whether they have expired.
fn random_swarm(round: usize, has_useless: bool, random: &mut Random) -> Swarm {
    let mut peers = BTreeMap::new();
    let families = [1, 2][round % 2];
    for number in 0..1 + random.below([3, 40, 200][round % 3]) as u32 {
        let clients = match random.below(6) {
            0 => random.below(120),
            1 => 2 + random.below(4),
            _ => 1,
        };
        for _ in 0..clients {
            let port = random.below(if has_useless { 6 } else { 65_000 }) as u16;
            let port = if has_useless { port } else { port + 2 };
            let peer = client(random.below(families) == 1, number, port);
            let role = [LEECHER, SEEDER][random.below(2)];
            let is_expired = has_useless && random.below(4) == 0;
            peers.insert(peer.endpoint().to_vec(), (peer, role, is_expired));
        }
    }
    peers
}

/// Swarms of all kinds: hosts of one client to hundreds, in both roles and families, with expired peers and peers
/// without a port among them.
#[test]
fn a_reply_is_full_and_names_two_peers_of_a_host_at_most_while_others_are_there() {
    let mut random = Random::seeded(1);
    for round in 0..400 {
        let mut tracker = tracker(0, &[]);
        let has_useless = round % 4 == 0;
        let peers = random_swarm(round, has_useless, &mut random);
        for (peer, role, _) in peers.values().filter(|(.., is_expired)| *is_expired) {
            tell(&mut tracker, *peer, *role);
        }
        tracker.advance(6_000);
        for (peer, role, _) in peers.values().filter(|(.., is_expired)| !is_expired) {
            tell(&mut tracker, *peer, *role);
        }
        tracker.advance(50_000);
        for _ in 0..20 {
            let role = [LEECHER, SEEDER][random.below(2)];
            let asker = client(false, 1_000_000, 9);
            let asker = match peers.values().nth(random.below(2 * peers.len())) {
                Some((peer, of, is_expired)) if *of == role && !is_expired => *peer,
                _ => asker,
            };
            let of_use: BTreeSet<Vec<u8>> = peers
                .values()
                .filter(|(peer, of, is_expired)| {
                    let port = peer.endpoint().iter().rev().take(2).rev();
                    let port = port.fold(0, |port, byte| port * 256 + u32::from(*byte));
                    let is_of_use = role == LEECHER || *of == LEECHER;
                    *peer != asker && is_of_use && !is_expired && port >= 2
                })
                .map(|(peer, ..)| peer.endpoint().to_vec())
                .collect();
            let want = [1, 2, 7, 30, 50, 200][random.below(6)];
            let reply = ask(&mut tracker, asker, role, want, &mut random);
            if !peers.contains_key(asker.endpoint()) {
                tracker.tell(&HASH, asker, role, Event::Stopped);
            }
            let named: BTreeSet<_> = reply.iter().cloned().collect();
            assert_eq!(named.len(), reply.len(), "each once");
            assert!(named.is_subset(&of_use));
            if !has_useless || of_use.len() <= want {
                assert_eq!(named.len(), want.min(of_use.len()));
            }
            let hosts = by_host(&named);
            if hosts.values().any(|count| *count > 2) {
                let others = by_host(of_use.difference(&named));
                let has_few = |host| hosts.get(host).is_none_or(|count| *count < 2);
                assert!(!others.keys().any(has_few), "{round} {want} {others:?}");
            }
        }
    }
}

/// (observed - expected)² / expected, summed and divided by what it is for independent picks.
fn unevenness(observed: &[u32]) -> f64 {
    let mean = f64::from(observed.iter().sum::<u32>()) / observed.len() as f64;
    let square = |&n: &u32| (f64::from(n) - mean).powi(2) / mean;
    observed.iter().map(square).sum::<f64>() / observed.len() as f64
}

#[test]
fn beside_a_host_with_most_of_a_swarm_all_other_peers_are_equally_likely() {
    for (own, others, want) in [
        (128, 872, 50),
        (900, 100, 8),
        (9900, 100, 30),
        (300, 2000, 200),
    ] {
        let mut random = Random::seeded(2);
        let mut tracker = tracker(0, &[]);
        let mut all = BTreeMap::new();
        for number in 0..others {
            let peer = client(false, number, 7);
            all.insert(peer.endpoint().to_vec(), 0);
            tell(&mut tracker, peer, [LEECHER, SEEDER][number as usize % 2]);
        }
        let mut crowd = BTreeMap::new();
        for port in 2..2 + own {
            let peer = client(false, 1_000_000, port);
            crowd.insert(peer.endpoint().to_vec(), 0);
            tell(&mut tracker, peer, LEECHER);
        }
        let asker = client(false, 2_000_000, 7);
        for _ in 0..10_000 {
            let reply = ask(&mut tracker, asker, LEECHER, want, &mut random);
            assert_eq!(reply.len(), want);
            for peer in reply {
                let counts = if all.contains_key(&peer) {
                    &mut all
                } else {
                    &mut crowd
                };
                *counts.get_mut(&peer).expect("is there") += 1;
            }
        }
        let [all, crowd] = [all, crowd].map(|all| all.into_values().collect::<Vec<u32>>());
        // Runs of neighbours appear together, which widens the spread by about the run's length.
        let [all, crowd] = [unevenness(&all), unevenness(&crowd)];
        assert!(
            all < 14.0 && crowd < 3.0,
            "{own} of {others}: {all} {crowd}"
        );
    }
}

#[test]
fn ten_thousand_hosts_of_which_some_have_60_clients_are_served_and_found() {
    let mut random = Random::seeded(3);
    let mut tracker = tracker(128, &[]);
    let mut found = BTreeMap::new();
    let mut askers = Vec::new();
    for number in 0..10_000 {
        for port in 0..if number % 200 == 0 { 60 } else { 1 } {
            let peer = client(false, number, 6881 + port);
            let role = [LEECHER, SEEDER][random.below(2)];
            tell(&mut tracker, peer, role);
            askers.extend((role == LEECHER).then_some(peer));
            found.insert(peer.endpoint().to_vec(), (0, number % 200 == 0));
        }
    }
    assert_eq!(stored(&tracker).len(), 12_950);
    assert_eq!(found.len(), 12_950);
    for _ in 0..12 {
        for asker in &askers {
            let reply = ask(&mut tracker, *asker, LEECHER, 50, &mut random);
            assert_eq!(reply.len(), 50);
            assert!(by_host(&reply).into_values().all(|count| count <= 2));
            for peer in reply {
                found.get_mut(&peer).expect("is stored").0 += 1;
            }
        }
    }
    let counts = |is_shared| {
        let found = found.values().filter(move |(_, of)| *of == is_shared);
        found.map(|(count, _)| *count).collect::<Vec<u32>>()
    };
    assert!(!found.values().any(|(count, _)| *count == 0));
    assert!(unevenness(&counts(false)) < 10.0);
    assert!(unevenness(&counts(true)) < 4.0);
}

/// The ports that are stored of a host, whose clients have announced by ports.
fn ports(tracker: &Tracker) -> Vec<u16> {
    let port = |endpoint: Vec<u8>| endpoint.last_chunk().map(|port| u16::from_be_bytes(*port));
    let mut ports: Vec<u16> = stored(tracker).into_iter().filter_map(port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_host_with_65535_peers_is_stored_up_to_the_bound_in_both_roles_together() {
    for is_v6 in [false, true] {
        let mut tracker = tracker(128, &[]);
        for port in 1..=u16::MAX {
            let role = [LEECHER, SEEDER][usize::from(port % 3 == 0)];
            tell(&mut tracker, client(is_v6, 1, port), role);
            tell(
                &mut tracker,
                client(is_v6, 2 + u32::from(port % 90), port),
                role,
            );
        }
        let hosts = by_host(&stored(&tracker));
        assert_eq!(hosts.len(), 91);
        assert!(hosts.into_values().all(|count| count == 128));
        let totals = tracker.totals();
        assert_eq!(totals.leechers + totals.seeders, 91 * 128);
        // The bound is that of a swarm.
        tracker.tell(&[8; 20], client(is_v6, 1, 7), LEECHER, Event::None);
        assert_eq!(tracker.scrape(&[8; 20]).expect("is there").leechers, 1);
    }
}

#[test]
fn a_newcomer_replaces_the_oldest_peer_of_its_host() {
    let mut tracker = tracker(4, &[]);
    for (second, port) in [30, 10, 40, 20].into_iter().enumerate() {
        tracker.advance(second as u64 * 1000);
        tell(&mut tracker, client(false, 1, port), LEECHER);
    }
    tell(&mut tracker, client(false, 2, 9), LEECHER);
    tracker.advance(5_000);
    // These are no newcomers: a renewal, and a change of role.
    tell(&mut tracker, client(false, 1, 30), LEECHER);
    tell(&mut tracker, client(false, 1, 40), SEEDER);
    assert_eq!(ports(&tracker), [9, 10, 20, 30, 40]);
    tell(&mut tracker, client(false, 1, 50), SEEDER);
    assert_eq!(ports(&tracker), [9, 20, 30, 40, 50]);
    tell(&mut tracker, client(false, 1, 60), LEECHER);
    assert_eq!(ports(&tracker), [9, 30, 40, 50, 60]);
    // After a stop there is room.
    let stopping = client(false, 1, 30);
    tracker.tell(&HASH, stopping, LEECHER, Event::Stopped);
    tell(&mut tracker, client(false, 1, 70), LEECHER);
    assert_eq!(ports(&tracker), [9, 40, 50, 60, 70]);
}

#[test]
fn a_full_table_has_room_for_a_newcomer_that_replaces_another() {
    let mut tracker = tracker(1, &[]);
    tell(&mut tracker, client(false, 1, 7), LEECHER);
    tracker.limits.max_peers = 1;
    tell(&mut tracker, client(false, 2, 7), LEECHER);
    assert_eq!(ports(&tracker), [7]);
    tell(&mut tracker, client(false, 1, 8), LEECHER);
    assert_eq!(ports(&tracker), [8]);
}

#[test]
fn peers_with_exempt_addresses_are_stored_without_bound() {
    let [one, other] = [client(false, 1, 7).ip(), client(true, 2, 7).ip()];
    let exempt = [format!("{one}/31"), format!("{other}/64")];
    let mut tracker = tracker(4, &exempt.each_ref().map(String::as_str));
    for port in 7..=106 {
        for (is_v6, number) in [(false, 1), (true, 2), (false, 3), (true, 4)] {
            tell(&mut tracker, client(is_v6, number, port), LEECHER);
        }
    }
    let counts: Vec<usize> = by_host(&stored(&tracker)).into_values().collect();
    assert_eq!(counts.iter().filter(|count| **count == 100).count(), 2);
    assert_eq!(counts.iter().filter(|count| **count == 4).count(), 2);
}

#[test]
fn records_of_other_nodes_are_bounded_and_do_not_replace_later_ones() {
    let mut tracker = tracker(3, &[]);
    tracker.join_cluster(
        [1, 2],
        journal::JournalLimits {
            stops: 64,
            news: 1000,
            renewals_from: LATE,
        },
    );
    tracker.advance(100_000);
    let unit = tracker.clock.unit();
    let mut learn = |port, age| {
        let record = Record {
            peer: client(false, 1, port),
            state: PeerState::Present(SEEDER),
            completed: false,
            unit: unit - age,
        };
        tracker.apply(&HASH, Hint::default(), once(record));
        ports(&tracker)
    };
    learn(10, 20);
    learn(20, 10);
    assert_eq!(learn(30, 30), [10, 20, 30]);
    assert_eq!(learn(40, 31), [10, 20, 30]);
    assert_eq!(learn(50, 25), [10, 20, 50]);
    assert_eq!(learn(60, 25), [10, 20, 60]);
    let news = News {
        info_hash: HASH,
        record: Record {
            peer: client(false, 1, 70),
            state: PeerState::Present(LEECHER),
            completed: false,
            unit: 0,
        },
        renews: None,
    };
    tracker.apply_unversioned(&news);
    assert_eq!(ports(&tracker), [10, 20, 70]);
    // That a peer was replaced is no news, and no stop.
    tell(&mut tracker, client(false, 1, 80), LEECHER);
    let mut told = Vec::new();
    tracker.take_news(&mut told);
    let ports = told.iter().map(|news| news.record.peer.endpoint()[5]);
    assert_eq!(ports.collect::<Vec<u8>>(), [80]);
}

#[test]
fn restored_peers_are_bounded_and_the_oldest_are_left_out() {
    let mut tracker = tracker(3, &[]);
    let at = tracker.restore_torrent(&HASH, 0, 0).expect("has room");
    let mut restore = |port, age| {
        let peer = client(false, 1, port);
        tracker.restore_peer(at, peer, LEECHER, false, age)
    };
    let is_stored =
        [(10, 20), (20, 5), (30, 40), (40, 10), (50, 41)].map(|(port, age)| restore(port, age));
    assert_eq!(is_stored, [true, true, true, true, false]);
    assert_eq!(ports(&tracker), [10, 20, 40]);
}
