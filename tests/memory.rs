//! Memory: what the table may take, what it takes, and that it does not end the process when the system has none left.

// Linux reports and limits the memory of a process.
#![cfg(target_os = "linux")]

mod common;

use common::http::{self, get, metric};
use common::udp::{Announce, Client};
use common::{DEADLINE, Daemon, Directory, program, run, skip, wait_for, wait_longer};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
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

/// Runs the daemon after a command that limits its memory.
fn start_after(limit: &str) -> Daemon {
    let listen = "-i 127.0.0.1 -p 0 -P 0 -i ::1 -P 0 --max-per-host 0";
    let line = format!("{limit} && exec {} {listen}", program());
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    Daemon::spawn(command)
}

#[test]
fn the_bounds_follow_from_the_least_limit_of_memory() {
    for (option, name) in [("v", "RLIMIT_AS"), ("d", "RLIMIT_DATA")] {
        let daemon = start_after(&format!("ulimit -{option} 378880"));
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
    // Everything that the first requests touch, those for metrics in every thread.
    flood(&client, crowd(1 << 24, 1000));
    (0..16).for_each(|_| drop(metrics(&daemon)));
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

/// A control group that limits memory. It is removed when its handle is dropped, after the daemon's.
struct Group(PathBuf);

impl Group {
    /// None where groups cannot be made.
    fn new(bytes: u64) -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_after = |start| Some(groups.lines().find_map(|line| line.split_once(start))?.1);
        // A group of version 2 with processes has no groups with limits, so the new one is beside it.
        let (parent, file) = match path_after(":memory:/") {
            Some(path) => (format!("memory/{path}"), "memory.limit_in_bytes"),
            None => (format!("{}/..", path_after("0::/")?), "memory.max"),
        };
        let name = format!("announced-{}-{bytes}", std::process::id());
        let group = Group(Path::new("/sys/fs/cgroup").join(parent).join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(file), bytes.to_string()).ok()?;
        Some(group)
    }

    fn start(&self) -> Daemon {
        start_after(&format!("echo $$ >{}/cgroup.procs", self.0.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Announces over HTTP; the number of peers in the reply.
fn announce_http(web: &mut http::Client, port: u32, rest: &str) -> usize {
    let query = format!("info_hash=aaaaaaaaaaaaaaaaaaaa&port={port}&{rest}");
    web.send(format!("GET /announce?{query} HTTP/1.1\r\nHost: x\r\n\r\n"));
    web.receive().peers().len()
}

/// A newcomer to each of three swarms receives peers, then announces once more.
fn expect_service(daemon: &Daemon, event: u32, rest: &str) {
    let udp = Client::new(daemon.udp4());
    for torrent in [0, 1799] {
        let newcomer = Announce::leecher(60_000).of(announce(torrent, 2, 2).info_hash);
        assert_eq!(udp.announce(&newcomer).peers.len(), 5);
        udp.announce(&newcomer.event(event));
    }
    let mut web = http::Client::new(daemon.tcp4());
    let received = announce_http(&mut web, 60_000, "left=1&numwant=50");
    assert_eq!(received, 50);
    announce_http(&mut web, 60_000, rest);
}

/// A request that takes nearly as much memory as one may, and does not end.
fn unfinished_head() -> Vec<u8> {
    [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 7900]].concat()
}

/// 10,000 peers are stored and served. Then newcomers come until long after the bound, to swarms of the peers that take
/// the most memory. Then connections hold as much as they may.
fn check_on_a_small_host(mut daemon: Daemon, bytes: u64, name: &str) {
    let (max_peers, max_torrents, line) = bounds(&daemon);
    assert!(line.ends_with(&format!("half of {name}")), "{line}");
    assert_eq!(max_torrents, bytes / 2 / (TORRENT_BYTES + 5 * PEER_BYTES));
    assert_eq!(max_peers, 5 * max_torrents);
    let buffer = format!(", receive buffer {} bytes", bytes / 64);
    assert_eq!(daemon.count_lines(&buffer), 2, "{:?}", daemon.log());

    flood(&Client::new(daemon.udp4()), fives(0, 9000));
    let mut web = http::Client::new(daemon.tcp4());
    for port in 1..=1000 {
        announce_http(&mut web, port, "left=0&numwant=0");
    }
    let count = |report: &str, kind| metric(report, &format!("peers{{family={kind}}}"));
    let seeders = "\"ipv4\",role=\"seeder\"";
    assert_eq!(count(&metrics(&daemon), seeders), 10_000);
    expect_service(&daemon, 3, "left=1&event=stopped");

    let sent = u32::try_from(max_peers).expect("few") + 20_000;
    flood(&Client::new(daemon.udp6()), nineties(10_000, sent));
    expect_service(&daemon, 2, "left=1");
    let report = metrics(&daemon);
    assert_eq!(count(&report, seeders), 10_000);
    assert_eq!(count(&report, "\"ipv4\",role=\"leecher\""), 0);
    let stored = count(&report, "\"ipv6\",role=\"seeder\"");
    assert!(stored + 10_000 <= max_peers, "{stored} of {max_peers}");
    let refused = metric(&report, "refused_peers_total{reason=\"full\"}");
    let all = stored + refused + metric(&report, NO_MEMORY);
    // Each of the three newcomers was refused twice.
    assert_eq!(all, u64::from(sent) + 6);

    let most = metric(&report, "max_connections");
    assert_eq!(most, bytes >> 16);
    let heads: Vec<TcpStream> = (0..2 * most)
        .map(|_| {
            let mut stream = TcpStream::connect(daemon.tcp4()).expect("a connection");
            // The daemon closes some of them.
            let _ = stream.write_all(&unfinished_head());
            stream
        })
        .collect();
    expect_service(&daemon, 2, "left=1");
    drop(heads);
    let resident = daemon.proc_status("VmHWM");
    let kib: u64 = resident.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib * 1024 < bytes, "{kib} KiB of {bytes} bytes");
    assert!(daemon.is_running());
}

#[test]
fn on_a_small_host_the_daemon_stays_in_its_control_group() {
    for bytes in [16 << 20, 32 << 20] {
        let Some(group) = Group::new(bytes) else {
            return skip("no control group can be made that limits memory");
        };
        check_on_a_small_host(group.start(), bytes, "the cgroup's memory");
    }
}

#[test]
fn on_a_small_host_the_daemon_stays_in_its_address_space() {
    for bytes in [16 << 20, 32 << 20] {
        let daemon = start_after(&format!("ulimit -v {}", bytes >> 10));
        check_on_a_small_host(daemon, bytes, "RLIMIT_AS");
    }
}
