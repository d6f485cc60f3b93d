//! Memory: what the table may take, what it takes, and that it does not end the process when the system has none left.

// Linux reports and limits the memory of a process.
#![cfg(target_os = "linux")]

mod common;

use common::http::{get, metric};
use common::udp::{Announce, Client};
use common::{DEADLINE, Daemon, Directory, program, run, skip, wait_for, wait_longer};
use std::process::Command;

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

/// The bounds that a daemon has, and the line of its log that says why.
fn bounds(daemon: &Daemon) -> (u64, u64, String) {
    let report = metrics(daemon);
    let line = daemon.wait_for_line("announced: table: max-peers ");
    let [peers, torrents] = ["max_peers", "max_torrents"].map(|name| metric(&report, name));
    assert!(
        line.contains(&format!("max-peers {peers}, max-torrents {torrents}: ")),
        "{line}"
    );
    (peers, torrents, line)
}

#[test]
fn the_bounds_follow_from_the_least_limit_of_memory() {
    for (option, name) in [("v", "RLIMIT_AS"), ("d", "RLIMIT_DATA")] {
        let line = format!(
            "ulimit -{option} 378880; exec {} -i 127.0.0.1 -p 0 -P 0",
            program()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        let daemon = Daemon::spawn(command);
        // Of 370 MiB, 194 bytes for a torrent and five peers.
        let (peers, torrents, line) = bounds(&daemon);
        assert_eq!((peers, torrents), (4_999_650, 999_930));
        assert!(
            line.ends_with(&format!(": 193986420 bytes, half of {name}")),
            "{line}"
        );
    }
    let (peers, torrents, _) = bounds(&Daemon::start(&["--memory", "64M"]));
    assert_eq!((peers, torrents), (1_729_605, 345_921));
    let (peers, torrents, _) = bounds(&Daemon::start(&["--memory", "64M", "--max-peers", "1000"]));
    assert_eq!((peers, torrents), (1000, 1_048_169));
    let flags = [
        "--memory",
        "64M",
        "--max-peers",
        "1000",
        "--max-torrents",
        "7",
    ];
    let (peers, torrents, line) = bounds(&Daemon::start(&flags));
    assert_eq!((peers, torrents), (1000, 7));
    assert!(
        line.ends_with(": 26448 bytes, less than --memory"),
        "{line}"
    );
    assert!(
        run(&["-nv", "--memory", "64M"])
            .1
            .contains("\n# table: max-peers 1729605, ")
    );
}

#[test]
fn the_bounds_follow_a_reload() {
    let directory = Directory::new("memory");
    let file = directory.write("conf", "memory 64M");
    let daemon = Daemon::start(&["-f", &file]);
    assert_eq!(bounds(&daemon).0, 1_729_605);
    directory.write("conf", "memory 128M\nmax-torrents 100");
    daemon.signal("HUP");
    daemon.wait_for_line("reloaded: changed");
    let report = metrics(&daemon);
    assert_eq!(metric(&report, "max_torrents"), 100);
    assert_eq!(metric(&report, "max_peers"), 5_161_974);
    assert_eq!(
        daemon.count_lines("table: max-peers 5161974, max-torrents 100: "),
        1
    );
}

/// As `MEMORY` of announced.conf(5) has it.
const TORRENT_BYTES: u64 = 64;
const PEER_BYTES: u64 = 26;

/// A timeout that a flood of [`FLOOD`] peers does not reach on a slow machine.
const TIMEOUT: &str = "--interval 20 --peer-timeout 30";
const FLOOD: u32 = 300_000;

/// The last mix that fits no block of a small swarm.
fn nineties(from: u32, count: u32) -> Box<dyn Iterator<Item = Announce>> {
    Box::new((from..from + count).map(|n| announce(n / 96, 2 + n % 96, 2)))
}

/// Fills a table, then waits until all peers have expired.
fn check_size(threads: &str, is_v6: bool, crowd: Crowd) {
    let flags: Vec<&str> = TIMEOUT.split(' ').chain(["-j", threads]).collect();
    let daemon = Daemon::start(&flags);
    let client = Client::new(if is_v6 { daemon.udp6() } else { daemon.udp4() });
    // Everything that the first requests touch.
    flood(&client, crowd(1 << 24, 1000));
    let before = daemon.resident_kib() * 1024;
    flood(&client, crowd(0, FLOOD));
    let report = metrics(&daemon);
    let grown = (daemon.resident_kib() * 1024).saturating_sub(before);
    let family = if is_v6 { "ipv6" } else { "ipv4" };
    let peers = metric(
        &report,
        &format!("peers{{family=\"{family}\",role=\"seeder\"}}"),
    );
    let torrents = metric(&report, "torrents");
    assert_eq!(peers, u64::from(FLOOD) + 1000, "none has expired");
    let max = torrents * TORRENT_BYTES + peers * PEER_BYTES;
    assert!(
        grown < max,
        "{grown} bytes for {torrents} torrents and {peers} peers"
    );
    wait_longer("the memory to be returned", 4 * DEADLINE, || {
        let left = (daemon.resident_kib() * 1024).saturating_sub(before);
        (left < 1 << 20).then_some(())
    });
}

#[test]
fn torrents_of_one_peer_take_no_more_than_the_page_says_and_give_it_back() {
    check_size("1", false, singles);
}

#[test]
fn torrents_of_five_ipv6_peers_take_no_more_than_the_page_says_and_give_it_back() {
    check_size("1", true, fives);
}

#[test]
fn swarms_just_too_large_for_a_block_take_no_more_than_the_page_says_and_give_it_back() {
    check_size("1", true, nineties);
}

#[test]
fn large_swarms_take_no_more_than_the_page_says_and_give_it_back() {
    check_size("1", true, thousands);
}

#[test]
fn with_threads_the_table_takes_no_more_than_the_page_says_and_gives_it_back() {
    check_size("3", true, fives);
}
