//! The state file of a running daemon: restarts, damaged files, failed saves, and opentracker's dump.

// Some tests are for Linux only.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use announced::base::random::Random;
use announced::state::{StateWriter, wall_ms};
use announced::tracker::{self, Event, Limits, Peer, Role, Sinks, Table};
use common::udp::{Announce, Client};
use common::{
    Daemon, Directory, free_address, give_to_nobody, http, is_root, make_fifo, run, skip, wait_for,
};
#[cfg(target_os = "linux")]
use common::{signal, worker_of};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const A: [u8; 20] = [0xaa; 20];
const B: [u8; 20] = [0xbb; 20];

/// The names of its files, sorted.
fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).expect("can be read");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("is there").file_name())
        .map(|name| name.into_string().expect("is UTF-8"))
        .collect();
    names.sort();
    names
}

fn announce(info_hash: [u8; 20], port: u16, left: u64, event: u32) -> Announce {
    Announce {
        info_hash,
        port,
        left,
        event,
        ..Announce::default()
    }
}

fn with_state(path: &str) -> Daemon {
    Daemon::start(&["--state", path, "--state-interval", "0"])
}

/// Stops the daemon, which saves its state.
fn stop(mut daemon: Daemon) -> Vec<String> {
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(log.iter().any(|line| is_saved(line)), "{log:?}");
    log
}

/// Requests a save and waits for its end.
fn save(daemon: &Daemon) -> String {
    let lines = || daemon.log().into_iter().filter(|line| is_saved(line));
    let before = lines().count();
    daemon.signal("USR1");
    wait_for("the save", || lines().nth(before))
}

fn is_saved(line: &str) -> bool {
    line.starts_with("announced: state: saved: ")
}

/// Asserts that this path ends a start for this reason, and a check too.
fn start_and_check_fail(flag: &str, path: &str, why: &str) {
    for first in ["-n", "-p0"] {
        let (code, out, err) = run(&[first, flag, path]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{first} {flag}: {err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("{flag} '{path}': {why}")), "{err}");
    }
}

/// A file of a daemon with this timeout, saved some seconds ago: two peers of torrent A, of which one announced 40
/// seconds before the save.
fn write_state(path: &str, peer_timeout: u32, seconds_ago: i64) {
    let limits = Limits {
        peer_timeout,
        max_peers: 100,
        max_torrents: 100,
    };
    let table = Table::new(limits, 1);
    for (port, at_ms) in [(2, 0), (1, 40_000)] {
        let mut tracker = table.lock(0, at_ms);
        while tracker.is_held() {
            tracker.sweep(100, None);
        }
        let announce = tracker::Announce {
            info_hash: A,
            peer: Peer::new([10, 0, 0, 1].into(), port),
            role: Role::Seeder,
            event: Event::Completed,
            want: 0,
            hint: None,
        };
        let mut sinks = Sinks::new(&mut [], &mut []);
        tracker.announce(&announce, &mut Random::seeded(1), &mut sinks);
    }
    let mut bytes = Vec::new();
    let saved_at = wall_ms().saturating_add_signed(-seconds_ago * 1000);
    let mut writer = StateWriter::new(&table.lock(0, 40_000), saved_at, None, &mut bytes);
    while writer.step(&table, 40_000, 10, &mut bytes) {}
    fs::write(path, bytes).expect("is written");
}

#[test]
fn a_restart_keeps_swarms_and_counts_of_both_families() {
    let directory = Directory::new("restart");
    let path = directory.file("state");
    let daemon = with_state(&path);
    daemon.wait_for_line(&format!("state: starting empty: no '{path}' yet"));
    let (v4, v6) = (Client::new(daemon.udp4()), Client::new(daemon.udp6()));
    // A client without a port announces 0.
    for port in (1..=700).filter(|port| *port != 5).chain([0]) {
        v4.announce(&announce(A, port, 1, 2));
    }
    v4.announce(&announce(A, 701, 0, 1));
    v6.announce(&announce(A, 702, 0, 1));
    v6.announce(&announce(A, 703, 5, 2));
    v4.announce(&announce(B, 704, 0, 1));
    v4.announce(&announce(B, 704, 0, 3));
    let expected = [[2, 2, 701], [0, 1, 0]];
    assert_eq!(v4.scrape(&[A, B]), expected);
    let log = stop(daemon);
    let line = log.iter().find(|line| is_saved(line)).expect("a line");
    assert!(line.contains("saved: 2 torrents, 703 peers; "), "{line}");
    assert_eq!(names(&directory), ["state", "state.lock"]);
    let permissions = fs::metadata(&path).expect("is there").permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);

    let daemon = with_state(&path);
    daemon.wait_for_line("state: loaded: 2 torrents, 703 peers, saved ");
    let (v4, v6) = (Client::new(daemon.udp4()), Client::new(daemon.udp6()));
    assert_eq!(v4.scrape(&[A, B]), expected);
    // A seeder receives the leechers of its family.
    let reply = v6.announce(&announce(A, 702, 0, 0));
    let ports: Vec<u16> = reply.peers.iter().map(|peer| peer.port()).collect();
    assert_eq!(ports, [703]);
    // It was loaded as a peer that had completed.
    v6.announce(&announce(A, 702, 0, 1));
    assert_eq!(v4.scrape(&[A, B]), expected);
}

/// A client that connected before the restart announces with the id that it has.
#[test]
fn a_connection_id_from_before_a_restart_is_valid_after_it() {
    let directory = Directory::new("ids");
    let path = directory.file("state");
    let address = free_address();
    let port = address.to_string();
    let start = || Daemon::start_with(&["-P", &port, "--state", &path]);
    let daemon = start();
    let client = Client::new(address);
    client.announce(&announce(A, 1, 1, 2));
    stop(daemon);
    let mut daemon = start();
    assert_eq!(client.announce(&announce(A, 2, 0, 2)).leechers, 1);
    // A kill leaves the last save, and the key in it.
    daemon.signal("KILL");
    daemon.wait();
    let daemon = start();
    assert_eq!(client.announce(&announce(A, 2, 0, 2)).leechers, 1);
    stop(daemon);
    // Without the file the key is another one.
    fs::remove_file(&path).expect("is there");
    let _daemon = start();
    let reply = client.exchange(&client.announce_request(&announce(A, 1, 1, 2)));
    assert_eq!(reply[..4], 3_u32.to_be_bytes());
    assert_eq!(&reply[8..], b"Connect again.");
}

/// The nodes of a cluster make connection ids from its key.
#[test]
#[cfg(feature = "cluster")]
fn with_a_cluster_key_the_state_holds_no_key() {
    let directory = Directory::new("ids-cluster");
    let (path, key) = (directory.file("state"), directory.file("key"));
    assert_eq!(run(&["--make-key", &key]).0, Some(0));
    let saved_key = |flags: &[&str]| {
        stop(Daemon::start(&[&["--state", &path], flags].concat()));
        fs::read(&path).expect("is saved")[32..48].to_vec()
    };
    let own = saved_key(&[]);
    assert_ne!(own, [0; 16]);
    assert_eq!(saved_key(&[]), own);
    let cluster = ["--cluster-listen", "127.0.0.1:0", "--cluster-key", &key];
    assert_eq!(saved_key(&cluster), [0; 16]);
}

#[test]
fn loaded_peers_keep_their_age() {
    let directory = Directory::new("ages");
    let path = directory.file("state");
    let seeders = |seconds_ago, timeout: &str| {
        write_state(&path, 96, seconds_ago);
        let flags = format!("--state {path} --interval 60 --peer-timeout {timeout}");
        let daemon = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
        Client::new(daemon.udp4()).scrape(&[A])[0]
    };
    assert_eq!(seeders(0, "96"), [2, 2, 0]);
    assert_eq!(seeders(70, "96"), [1, 2, 0]);
    assert_eq!(seeders(100, "96"), [0, 2, 0]);
    // The new timeout applies.
    assert_eq!(seeders(100, "960"), [2, 2, 0]);

    // Saved in the future: ages are as saved.
    write_state(&path, 96, -100_000);
    let daemon = with_state(&path);
    daemon.wait_for_line("2 peers, saved in the future, so ages are as saved");
}

#[test]
fn a_loaded_peer_expires_on_time() {
    let directory = Directory::new("expires");
    let path = directory.file("state");
    // With a timeout of a minute, one peer has two seconds left and the other more than 40.
    write_state(&path, 60, 18);
    let daemon = Daemon::start(&["--state", &path, "--interval", "40", "--peer-timeout", "60"]);
    let client = Client::new(daemon.udp4());
    wait_for("the older peer to expire", || {
        (client.scrape(&[A]) == [[1, 2, 0]]).then_some(())
    });
}

#[test]
fn kill_9_leaves_the_last_complete_save() {
    let directory = Directory::new("kill");
    let path = directory.file("state");
    let mut daemon = with_state(&path);
    let client = Client::new(daemon.udp4());
    client.announce(&announce(A, 1, 1, 2));
    assert!(save(&daemon).contains("saved: 1 torrent, 1 peer; "));
    client.announce(&announce(A, 2, 1, 2));
    daemon.signal("KILL");
    daemon.wait();
    // As if it had been killed in the middle of another save.
    fs::write(directory.file("state.new"), "half of it").expect("is written");
    let daemon = with_state(&path);
    daemon.wait_for_line("loaded: 1 torrent, 1 peer, saved ");
    assert_eq!(names(&directory), ["state", "state.lock"]);
}

#[test]
fn damaged_and_foreign_files_are_moved_aside() {
    let directory = Directory::new("damaged");
    let path = directory.file("state");
    write_state(&path, 2700, 0);
    let whole = fs::read(&path).expect("is there");
    let mut flipped = whole.clone();
    flipped[50] ^= 1;
    let mut older = whole.clone();
    older[11] = 0;
    let cases: [(&[u8], &str); 5] = [
        (&whole[..whole.len() - 1], "truncated at byte "),
        (&flipped, "damaged: wrong checksum"),
        (&older, "format version 0, expected 1 to 2"),
        (b"", "truncated at byte 0"),
        (b"info_hash,peers\n", "not a state file of announced"),
    ];
    let mut expected = vec![String::from("state.lock")];
    for (number, (bytes, why)) in (1..).zip(cases) {
        fs::write(&path, bytes).expect("is written");
        let aside = match number {
            1 => String::from("state.damaged"),
            _ => format!("state.damaged.{number}"),
        };
        let daemon = with_state(&path);
        let moved = format!("; moved to '{}'", directory.file(&aside));
        let line = daemon.wait_for_line(&moved);
        let start = format!("announced: state: starting empty: '{path}': {why}");
        assert!(line.starts_with(&start), "{line}");
        assert_eq!(fs::read(directory.file(&aside)).expect("is there"), bytes);
        assert_eq!(
            Client::new(daemon.udp4()).scrape(&[A]),
            [[0; 3]],
            "{why}: nothing of it is left"
        );
        expected.push(aside);
        expected.sort();
        assert_eq!(names(&directory), expected);
    }
    let daemon = with_state(&path);
    assert!(save(&daemon).contains("saved: 0 torrents"));
}

/// With a status that keeps a supervisor from trying again.
#[test]
fn a_file_of_a_newer_release_is_left_in_place_and_ends_the_start_with_status_2() {
    let directory = Directory::new("newer");
    let path = directory.file("state");
    write_state(&path, 2700, 0);
    let mut newer = fs::read(&path).expect("is there");
    newer[11] = 3;
    // It may be shorter than any of this release.
    for bytes in [&newer[..], &newer[..12]] {
        fs::write(&path, bytes).expect("is written");
        let before = names(&directory);
        let why = format!(
            "announced: --state '{path}': format version 3 of a newer release, expected 1 to 2\n"
        );
        let listen = ["-i", "127.0.0.1", "-p", "0", "-P", "0", "--state", &path];
        for flags in [&listen[..], &[&listen[..], &["-n"]].concat()] {
            let (code, _, log) = run(flags);
            assert_eq!((code, log), (Some(2), why.clone()), "no socket was opened");
        }
        assert_eq!(fs::read(&path).expect("is there"), bytes);
        assert_eq!(names(&directory), before);
    }
}

/// A sparse file. Only its start is read.
#[test]
fn two_gigabytes_of_zeros_are_foreign() {
    let directory = Directory::new("zeros");
    let path = directory.file("state");
    let file = fs::File::create(&path).expect("can be made");
    file.set_len(2 << 30).expect("is sparse");
    let daemon = with_state(&path);
    daemon.wait_for_line("not a state file of announced; moved to");
}

#[test]
fn a_path_that_is_no_file_ends_the_start() {
    let directory = Directory::new("errors");
    let (fifo, inner) = (directory.file("fifo"), directory.file("directory"));
    make_fifo(&fifo);
    fs::create_dir(&inner).expect("can be made");
    let missing = directory.file("missing");
    for flag in ["--state", "--load-dump"] {
        start_and_check_fail(flag, &inner, "Is a directory");
        start_and_check_fail(flag, &fifo, "not a regular file");
    }
    start_and_check_fail("--load-dump", &missing, "No such file");
    start_and_check_fail("--state", &format!("{missing}/state"), "No such file");
    start_and_check_fail("--state", &format!("{fifo}/state"), "Not a directory");
}

/// Root may write everywhere but in this directory. A check does not find that, as it writes nothing.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_takes_no_file_ends_the_start() {
    let (code, _, err) = run(&["-i", "127.0.0.1", "-p", "0", "--state", "/proc/state"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("announced: --state '/proc/state': "), "{err}");
    assert!(!err.contains("listening"), "{err}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_daemon_that_waits_for_its_last_save_uses_no_cpu() {
    let directory = Directory::new("waits");
    let mut daemon = with_state(&directory.file("state"));
    let (id, worker) = (daemon.id(), worker_of(daemon.id()));
    // User and system time in ticks of 10 ms.
    let ticks = || -> u32 {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("is running");
        let (_, numbers) = stat.rsplit_once(") ").expect("a name");
        let times = numbers.split(' ').skip(11).take(2);
        times
            .map(|ticks| ticks.parse::<u32>().expect("a number"))
            .sum()
    };
    assert!(signal(worker, "STOP"));
    daemon.signal("TERM");
    let before = ticks();
    // Clients that read slowly have 0.8 s; after that only the save is left. Nothing tells the end of an absence.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let used = ticks() - before;
    assert!(signal(worker, "CONT"));
    assert_eq!(daemon.wait().0.code(), Some(0));
    assert!(used < 50, "{used} ticks of 300");
}

#[test]
fn a_second_daemon_with_the_same_state_does_not_start() {
    let directory = Directory::new("two");
    let path = directory.file("state");
    let daemon = with_state(&path);
    daemon.wait_for_line("state: starting empty");
    let (code, _, err) = run(&["-i", "127.0.0.1", "-p", "0", "--state", &path]);
    let why = format!("announced: --state '{path}': locked by another process\n");
    assert_eq!((code, err), (Some(1), why));
    assert_eq!(run(&["-n", "--state", &path]).0, Some(0));
    save(&daemon);
    stop(daemon);
    stop(with_state(&path));
}

#[test]
fn the_state_is_saved_at_intervals_and_at_sigusr1() {
    let directory = Directory::new("interval");
    let path = directory.file("state");
    let daemon = Daemon::start(&["--state", &path, "--state-interval", "1"]);
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    daemon.wait_for_line("saved: 1 torrent, 1 peer; ");
    drop(daemon);
    let daemon = with_state(&path);
    Client::new(daemon.udp4()).announce(&announce(B, 1, 1, 2));
    assert!(save(&daemon).contains("saved: 2 torrents, 2 peers"));
    let mut daemon = Daemon::start(&[]);
    daemon.signal("USR1");
    daemon.wait_for_line("SIGUSR1: ignored: no --state given");
    assert!(daemon.is_running());
}

/// With many requests for saves.
#[test]
fn a_save_under_load_is_complete() {
    let directory = Directory::new("load");
    let path = directory.file("state");
    let daemon = with_state(&path);
    let client = Client::new(daemon.udp4());
    let hash = |n: u32| {
        let mut hash = [n as u8; 20];
        hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        hash
    };
    for n in 0..4000 {
        client.announce(&announce(hash(n), 1, 1, 2));
    }
    for n in 0..4000 {
        client.announce(&announce(hash(n % 7), 2 + n as u16, 0, 1));
        if n % 100 == 0 {
            daemon.signal("USR1");
        }
    }
    let counts = client.scrape(&[hash(0), hash(1), hash(3999)]);
    stop(daemon);
    let daemon = with_state(&path);
    daemon.wait_for_line("loaded: 4000 torrents, 8000 peers");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[hash(0), hash(1), hash(3999)]), counts);
}

#[test]
fn a_save_that_fails_is_logged_and_the_next_may_succeed() {
    let directory = Directory::new("fails");
    let inner = directory.file("inner");
    let make_inner = || {
        fs::create_dir(&inner).expect("can be made");
        give_to_nobody(&inner);
    };
    make_inner();
    let path = format!("{inner}/state");
    let mut daemon = with_state(&path);
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    fs::remove_dir_all(&inner).expect("can be removed");
    daemon.signal("USR1");
    daemon.wait_for_line(&format!("state: save failed: '{path}': No such file"));
    assert_eq!(Client::new(daemon.udp4()).scrape(&[A]), [[0, 0, 1]]);
    make_inner();
    assert!(save(&daemon).contains("saved: 1 torrent, "));
    fs::remove_dir_all(&inner).expect("can be removed");
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(1), "{log:?}");
    let last = log.last().map(String::as_str);
    assert_eq!(last, Some("announced: the state was not saved at the end"));
}

/// A mounted file system, unmounted on drop.
#[cfg(target_os = "linux")]
struct Mount<'a>(&'a Path);

#[cfg(target_os = "linux")]
impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_file_as_it_was() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("full");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]);
    let mounted = mount.arg(directory.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip("a tmpfs can be mounted");
    }
    let mount = Mount(Path::new(directory.path()));
    let path = directory.file("state");
    let daemon = with_state(&path);
    let client = Client::new(daemon.udp4());
    client.announce(&announce(A, 1, 1, 2));
    save(&daemon);
    let before = fs::read(&path).expect("is there");
    for n in 0..3000_u16 {
        let mut hash = [0x33; 20];
        hash[..2].copy_from_slice(&n.to_be_bytes());
        client.announce(&announce(hash, 1, 1, 2));
    }
    daemon.signal("USR1");
    let line = daemon.wait_for_line("state: save failed: ");
    assert!(line.contains("No space left on device"), "{line}");
    assert!(fs::read(&path).expect("is there") == before);
    assert_eq!(names(&directory), ["state", "state.lock"]);
    assert_eq!(client.scrape(&[A]), [[0, 0, 1]]);
    drop((daemon, mount));
}

#[test]
#[cfg(target_os = "linux")]
fn inside_a_chroot_paths_begin_there() {
    if !is_root() {
        return;
    }
    // The user that the daemon becomes may not write there.
    let directory = Directory::new("chroot");
    let root = directory.path();
    let start = || Daemon::start(&["-d", root, "--state", "/state", "-l", "/dump"]);
    fs::write(directory.file("dump"), format!("{}:1:9\n", "bb".repeat(20))).expect("is written");
    let daemon = start();
    daemon.wait_for_line("state: starting empty: no '/state' yet");
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    stop(daemon);
    assert_eq!(names(&directory), ["dump", "state", "state.lock"]);
    let daemon = start();
    daemon.wait_for_line("state: loaded: 2 torrents, 1 peer, saved ");
    daemon.wait_for_line("dump: loaded: 0 downloaded counts; 1 skipped: count already loaded");
    assert_eq!(
        Client::new(daemon.udp4()).scrape(&[A, B]),
        [[0, 0, 1], [0, 9, 0]]
    );
}

#[test]
fn a_dump_is_loaded_and_its_first_invalid_lines_are_logged() {
    let directory = Directory::new("dump");
    let path = directory.file("dump");
    let (a, b) = ("aa".repeat(20), "BB".repeat(20));
    let zero = "cc".repeat(20);
    let mut text = format!("{a}:29000000:12\r\nrubbish\n{b}:0:4294967295\n{zero}:29000000:0\n");
    text.push_str(&"\u{0}\u{1}\n".repeat(30));
    fs::write(&path, text).expect("is written");
    let daemon = Daemon::start(&["-l", &path]);
    let loaded = "dump: loaded: 2 downloaded counts; 1 skipped: count 0; 31 invalid lines";
    daemon.wait_for_line(loaded);
    assert_eq!(daemon.count_lines("dump: skipped line "), 10);
    daemon.wait_for_line("dump: skipped line 2: expected HEX:base:downloaded");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[A, B]), [[0, 12, 0], [0, u32::MAX, 0]]);
    client.announce(&announce(A, 1, 0, 1));
    assert_eq!(client.scrape(&[A]), [[1, 13, 0]]);

    // A dump of our own has the same format.
    if cfg!(not(feature = "full-scrape")) {
        return;
    }
    let dump = http::get(daemon.tcp4(), "/stats?mode=statedump");
    fs::write(&path, &dump.body).expect("is written");
    let daemon = Daemon::start(&["--load-dump", &path]);
    daemon.wait_for_line("loaded: 2 downloaded counts");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[A, B]), [[0, 13, 0], [0, u32::MAX, 0]]);
}

/// Such a file was named by mistake. Once the tracker has served clients, the counts of the right one come late.
#[test]
fn a_file_that_is_no_dump_ends_the_start() {
    let directory = Directory::new("no-dump");
    for (text, lines) in [("", "0 lines"), ("root:x:0:0\n\n<html>", "3 lines")] {
        let path = directory.write("dump", text);
        let why = format!("no valid line in {lines}: expected HEX:base:downloaded");
        start_and_check_fail("--load-dump", &path, &why);
    }
    let why = match cfg!(feature = "full-scrape") {
        true => "damaged gzip",
        false => "compressed with gzip, and this build has no full scrapes and no gzip",
    };
    let path = directory.write("dump", b"\x1f\x8b\x08\0");
    start_and_check_fail("--load-dump", &path, why);
}

#[test]
fn counts_of_dump_and_state_are_merged_by_maximum() {
    let directory = Directory::new("merged");
    let state = directory.file("state");
    let daemon = with_state(&state);
    let client = Client::new(daemon.udp4());
    for port in 1..=3 {
        client.announce(&announce(A, port, 0, 1));
        client.announce(&announce(B, port, 0, 1));
    }
    stop(daemon);
    let (a, b) = ("aa".repeat(20), "bb".repeat(20));
    let dump = directory.write("dump", format!("{a}:1:2\n{b}:1:9\n"));
    for loaded in ["1 downloaded count;", "0 downloaded counts; 2 skipped"] {
        let daemon = Daemon::start(&["--state", &state, "-l", &dump]);
        daemon.wait_for_line(&format!("dump: loaded: {loaded}"));
        let counts = Client::new(daemon.udp4()).scrape(&[A, B]);
        assert_eq!(counts, [[3, 3, 0], [3, 9, 0]]);
        stop(daemon);
    }
}

#[test]
fn limits_hold_while_loading() {
    let directory = Directory::new("limits");
    let path = directory.file("state");
    write_state(&path, 2700, 0);
    let daemon = Daemon::start(&["--state", &path, "--max-peers", "1"]);
    daemon.wait_for_line(
        "seconds ago; no room for 0 torrents, 1 peer (--max-torrents, --max-peers, --max-per-host)",
    );
    assert_eq!(Client::new(daemon.udp4()).scrape(&[A]), [[1, 2, 0]]);
}

#[test]
fn check_shows_the_files_that_would_be_loaded() {
    let directory = Directory::new("check");
    let dump = directory.write("d", format!("{}:1:7\n", "aa".repeat(20)));
    let state = directory.file("s");
    let flags = format!("-n --state {state} --state-interval 0 -l {dump}");
    let (code, out, err) = run(&flags.split(' ').collect::<Vec<_>>());
    let expected = format!("state {state}\nstate-interval 0\nload-dump {dump}\n");
    assert_eq!((code, out), (Some(0), expected));
    assert!(err.contains("dump: loaded: 1 downloaded count\n"), "{err}");
}

#[test]
fn check_leaves_a_save_under_way_alone() {
    let directory = Directory::new("check-touches");
    let files = [("s", "damaged"), ("s.new", "half")];
    let [state, new] = files.map(|(name, content)| directory.write(name, content));
    assert_eq!(run(&["-n", "--state", &state]).0, Some(0));
    let left = [&state, &new].map(|path| fs::read_to_string(path).expect("is there"));
    assert_eq!(left, ["damaged", "half"]);
}
