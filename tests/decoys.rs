//! Decoys as clients see them: how many, in which swarms, of which families, and none without the option.
//!
//! Every peer here is on the loopback, so every other address is that of a decoy.

mod common;

use common::http::get;
use common::udp::{Announce, Client};
use common::{Daemon, run, wait_for};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

fn peer(torrent: u8, port: u16, left: u64) -> Announce {
    let announce = Announce {
        left,
        ..Announce::leecher(port)
    };
    announce.of([torrent; 20]).num_want(200)
}

/// Fills a swarm with leechers and then seeders, with ports from [`FIRST`] on.
fn fill(client: &Client, torrent: u8, leechers: u16, seeders: u16) {
    for number in 0..leechers + seeders {
        let left = u64::from(number < leechers);
        client.announce(&peer(torrent, FIRST + number, left));
    }
}

/// The lowest port at which a peer is sent to others.
const FIRST: u16 = 2;

fn decoys(peers: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    let decoys = peers.iter().filter(|peer| !peer.ip().is_loopback());
    decoys.copied().collect()
}

#[test]
fn without_the_option_there_are_none() {
    for flags in [&[][..], &["--decoys", "0"]] {
        let daemon = Daemon::start(flags);
        let client = Client::new(daemon.udp4());
        fill(&client, 1, 60, 60);
        let reply = client.announce(&peer(1, FIRST, 1));
        assert_eq!((reply.leechers, reply.seeders), (60, 60));
        assert_eq!(reply.peers.len(), 119);
        assert!(decoys(&reply.peers).is_empty());
        assert_eq!(client.scrape(&[[1; 20]]), [[60, 0, 60]]);
    }
}

#[test]
fn a_swarm_under_4_peers_has_none() {
    let daemon = Daemon::start(&["--decoys", "100"]);
    let client = Client::new(daemon.udp4());
    for torrent in 0..20 {
        fill(&client, torrent, 2, 1);
        let reply = client.announce(&peer(torrent, FIRST, 1));
        assert_eq!((reply.leechers, reply.seeders), (2, 1));
        assert_eq!(reply.peers.len(), 2);
        assert!(decoys(&reply.peers).is_empty());
    }
    let more: usize = (0..20)
        .map(|torrent| decoys(&client.announce(&peer(torrent, 5, 1)).peers).len())
        .sum();
    // Four each on average.
    assert!((40..=120).contains(&more), "{more}");
}

/// A reply with room for all of a swarm has as many peers as its counts say.
#[test]
fn counts_include_the_decoys_in_replies() {
    let daemon = Daemon::start(&["--decoys", "25"]);
    for tracker in [daemon.udp4(), daemon.udp6()] {
        let client = Client::new(tracker);
        let family = u8::from(tracker.is_ipv6());
        let mut total = 0;
        for torrent in (0..40).map(|n| 2 * n + family) {
            fill(&client, torrent, 12, 8);
            // All of one moment: a decoy may come or go every second.
            let (leecher, counts, seeder, named) = wait_for("one moment", || {
                let leecher = client.announce(&peer(torrent, FIRST, 1));
                let counts = client.scrape(&[[torrent; 20]])[0];
                let seeder = client.announce(&peer(torrent, 20, 0));
                let named = decoys(&leecher.peers);
                let still = decoys(&client.announce(&peer(torrent, 3, 1)).peers);
                (still == named).then_some((leecher, counts, seeder, named))
            });
            assert_eq!(leecher.peers.len(), 19 + named.len());
            assert_eq!(leecher.leechers + leecher.seeders, 20 + named.len() as u32);
            assert!(named.iter().all(|peer| peer.is_ipv6() == tracker.is_ipv6()));
            let [seeders, _, leechers] = counts;
            assert_eq!((leecher.leechers, leecher.seeders), (leechers, seeders));
            // A seeder is sent leechers, and decoys that are.
            assert_eq!(seeder.peers.len(), seeder.leechers as usize);
            assert!(decoys(&seeder.peers).is_subset(&named));
            total += named.len();
        }
        // 5 for each of 40 on average, less up to a quarter, by which they lag behind a swarm that grows.
        assert!((100..=260).contains(&total), "{total}");
    }
}

#[test]
fn replies_hold_numwant_peers_and_their_share_of_decoys() {
    let daemon = Daemon::start(&["--decoys", "25", "--trust-ip", "127.0.0.1"]);
    let client = Client::new(daemon.udp4());
    // Each is a host of its own.
    let peer = |port, left| Announce {
        ip: u32::from(Ipv4Addr::LOCALHOST) + (u32::from(port) << 8),
        ..peer(1, port, left)
    };
    for number in 0..400 {
        client.announce(&peer(FIRST + number, u64::from(number < 250)));
    }
    let mut shares = Vec::new();
    for want in [10, 50, 200] {
        let mut named = 0;
        for _ in 0..100 {
            let reply = client.announce(&peer(7, 1).num_want(want));
            assert_eq!(reply.peers.len(), want as usize);
            let distinct: BTreeSet<_> = reply.peers.iter().collect();
            assert_eq!(distinct.len(), want as usize, "each once");
            let asker: SocketAddr = ([127, 0, 7, 1], 7).into();
            assert!(!distinct.contains(&asker));
            named += decoys(&reply.peers).len();
        }
        shares.push(named as f64 / f64::from(want * 100));
    }
    for share in shares {
        assert!((0.13..0.27).contains(&share), "{share}");
    }
    let [seeders, _, leechers] = client.scrape(&[[1; 20]])[0];
    assert!((290..=330).contains(&leechers), "{leechers}");
    assert!((175..=200).contains(&seeders), "{seeders}");
    let none = client.announce(&peer(7, 1).num_want(0));
    assert!(none.peers.is_empty());
}

/// Each decoy is a host of its own, and each peer here one of the same host.
#[test]
fn decoys_keep_their_share_where_most_peers_are_of_one_host() {
    let daemon = Daemon::start(&["--decoys", "25"]);
    let client = Client::new(daemon.udp4());
    fill(&client, 1, 60, 40);
    let mut named = 0;
    for _ in 0..100 {
        let reply = client.announce(&peer(1, FIRST, 1).num_want(50));
        assert_eq!(reply.peers.len(), 50);
        named += decoys(&reply.peers).len();
    }
    let share = named as f64 / 5000.0;
    assert!((0.08..0.3).contains(&share), "{share}");
}

#[test]
fn http_replies_hold_decoys_of_both_families() {
    let daemon = Daemon::start(&["--decoys", "50"]);
    fill(&Client::new(daemon.udp4()), 0x41, 10, 10);
    fill(&Client::new(daemon.udp6()), 0x41, 10, 10);
    let hash = "A".repeat(20);
    let target = format!("/announce?info_hash={hash}&port={FIRST}&left=1&numwant=200");
    let response = get(daemon.tcp4(), &target);
    let peers = response.peers();
    let named = decoys(&peers);
    let v6 = named.iter().filter(|peer| peer.is_ipv6()).count();
    assert!(v6 > 0 && v6 < named.len(), "{named:?}");
    let value = response.bencoded();
    let all = value.integer("complete") + value.integer("incomplete");
    assert_eq!(all, 40 + named.len() as i64);
    assert_eq!(peers.len(), 39 + named.len());
    let scrape = get(daemon.tcp4(), &format!("/scrape?info_hash={hash}"));
    let (complete, incomplete) = (value.integer("complete"), value.integer("incomplete"));
    let files = format!(
        "d5:filesd20:{hash}d8:completei{complete}e10:downloadedi0e10:incompletei{incomplete}eeee"
    );
    assert_eq!(scrape.text(), files);
}

#[test]
fn each_start_has_its_own_decoys() {
    let named = |_| {
        let daemon = Daemon::start(&["--decoys", "100"]);
        let client = Client::new(daemon.udp4());
        fill(&client, 1, 50, 0);
        decoys(&client.announce(&peer(1, FIRST, 1)).peers)
    };
    let [first, second] = [0, 1].map(named);
    assert!(first.len() > 20 && second.len() > 20);
    assert!(first.is_disjoint(&second));
}

#[test]
fn an_invalid_percentage_is_refused() {
    for bad in ["101", "-1", "10%", "1.5", "", "x"] {
        let (code, _, err) = run(&[&format!("--decoys={bad}")]);
        let message = format!(
            "announced: --decoys: invalid value '{bad}': expected a number from 0 to 100\n"
        );
        assert_eq!((code, err), (Some(2), message));
    }
    let (_, out, _) = run(&["-n", "--decoys", "10"]);
    assert_eq!(out, "decoys 10\n");
}
