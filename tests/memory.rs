//! Memory: the table does not end the process when the system has none left.

// Linux reports and limits the memory of a process.
#![cfg(target_os = "linux")]

mod common;

use common::http::{get, metric};
use common::udp::{Announce, Client};
use common::{Daemon, skip, wait_for};

/// Requests on their way at once: their replies fit into a socket's buffer.
const WINDOW: usize = 64;

/// Sends announces as fast as they are answered. Every one must be.
fn flood(client: &Client, announces: impl Iterator<Item = Announce>) {
    let requests: Vec<Vec<u8>> = announces.map(|a| client.announce_request(&a)).collect();
    for window in requests.chunks(WINDOW) {
        window.iter().for_each(|request| client.send(request));
        for _ in window {
            let reply = client.receive();
            assert_eq!(reply[..4], 1_u32.to_be_bytes(), "an announce: {reply:?}");
        }
    }
}

/// Announces of seeders that want no peers. The first are those of number `from`.
type Crowd = fn(from: u32, count: u32) -> Box<dyn Iterator<Item = Announce>>;

fn announce(torrent: u32, port: u32, event: u32) -> Announce {
    let mut info_hash = [0x5a; 20];
    info_hash[..4].copy_from_slice(&torrent.wrapping_mul(0x9e37_79b9).to_be_bytes());
    info_hash[4..8].copy_from_slice(&torrent.to_be_bytes());
    let port = u16::try_from(port).expect("a port");
    let announce = Announce::seeder(port).of(info_hash);
    announce.num_want(0).event(event)
}

/// One peer in each torrent.
fn singles(from: u32, count: u32) -> Box<dyn Iterator<Item = Announce>> {
    Box::new((from..from + count).map(|n| announce(n, 2, 2)))
}

/// Five peers in each torrent, which arrive one after the other.
fn fives(from: u32, count: u32) -> Box<dyn Iterator<Item = Announce>> {
    Box::new((from..from + count).map(|n| announce(n / 5, 2 + n % 5, 2)))
}

/// 60,000 peers in each torrent.
fn thousands(from: u32, count: u32) -> Box<dyn Iterator<Item = Announce>> {
    Box::new((from..from + count).map(|n| announce(n / 60_000, 2 + n % 60_000, 2)))
}

const NO_MEMORY: &str = "refused_peers_total{reason=\"no_memory\"}";

fn metrics(daemon: &Daemon) -> String {
    daemon.wait_until_idle();
    get(daemon.tcp4(), "/metrics").text()
}

/// Leaves a running daemon so much memory more than it has. False if there is no `prlimit`.
fn limit_memory(daemon: &Daemon, limit: &str, used: &str, more_kib: u64) -> bool {
    let used = daemon.proc_status(used);
    let used = used.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    let bytes = (used.expect("a number") + more_kib) * 1024;
    daemon.limit(&format!("--{limit}={bytes}:{bytes}"))
}

fn check_without_memory(limit: [&str; 2], threads: &str, is_v6: bool, crowd: Crowd) {
    let daemon = Daemon::start(&["-j", threads]);
    let tracker = if is_v6 { daemon.udp6() } else { daemon.udp4() };
    let client = Client::new(tracker);
    // The spare buffer, and 2 MB.
    if !limit_memory(&daemon, limit[0], limit[1], 6 << 10) {
        return skip("limits are changed with util-linux's prlimit and setpriv");
    }
    let mut sent = 0;
    let refused = wait_for("a lack of memory", || {
        flood(&client, crowd(sent, 20_000));
        sent += 20_000;
        Some(metric(&metrics(&daemon), NO_MEMORY)).filter(|refused| *refused > 20_000)
    });
    let report = metrics(&daemon);
    let peers = metric(&report, "peers{family=\"ipv4\",role=\"seeder\"}")
        + metric(&report, "peers{family=\"ipv6\",role=\"seeder\"}");
    assert_eq!(peers + refused, u64::from(sent), "{report}");
    assert_eq!(metric(&report, "refused_peers_total{reason=\"full\"}"), 0);
    // The first torrent has peers that a newcomer is sent, whether it is stored or not.
    let newcomer = Announce::leecher(65_000).of(announce(0, 2, 2).info_hash);
    assert!(!client.announce(&newcomer).peers.is_empty());
    flood(&client, crowd(0, sent).map(|announce| announce.event(3)));
    assert!(metric(&metrics(&daemon), "torrents") <= 1);
    // Some of the first may be refused, until the daemon tries again.
    flood(&client, crowd(1 << 24, 1000));
    let before = metric(&metrics(&daemon), NO_MEMORY);
    flood(&client, crowd(1 << 25, 1000));
    assert_eq!(metric(&metrics(&daemon), NO_MEMORY), before, "stored again");
}

const ADDRESS_SPACE: [&str; 2] = ["as", "VmSize"];
const DATA: [&str; 2] = ["data", "VmData"];

#[test]
fn without_memory_for_torrents_newcomers_are_served_and_counted() {
    check_without_memory(ADDRESS_SPACE, "1", false, singles);
}

#[test]
fn without_memory_for_small_swarms_newcomers_are_served_and_counted() {
    check_without_memory(DATA, "1", true, fives);
}

#[test]
fn without_memory_for_large_swarms_newcomers_are_served_and_counted() {
    check_without_memory(ADDRESS_SPACE, "1", true, thousands);
}

#[test]
fn without_memory_several_threads_live_too() {
    check_without_memory(ADDRESS_SPACE, "3", true, fives);
}
