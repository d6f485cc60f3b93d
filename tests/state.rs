//! State across restarts, of the running daemon: what is kept, what is refused, what fails.

// Some tests are for Linux alone.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use announced::random::Random;
use announced::state::{Writer, wall_ms};
use announced::tracker::{self, Event, Hint, Limits, Peer, Role, Sink, Sinks, Table};
use common::udp::{Announce, Client};
use common::{Daemon, Directory, http, run, skip, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const A: [u8; 20] = [0xaa; 20];
const B: [u8; 20] = [0xbb; 20];

/// Of the files in it, sorted.
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

/// Tells it to stop, and waits until it has, having saved.
fn stop(mut daemon: Daemon) -> Vec<String> {
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(log.iter().any(|line| line.contains("saved ")), "{log:?}");
    log
}

/// Asks for a save and waits for its end.
fn save(daemon: &Daemon) -> String {
    let count = |daemon: &Daemon| daemon.log().iter().filter(|l| is_saved(l)).count();
    let before = count(daemon);
    daemon.signal("USR1");
    wait_for("the save", || (count(daemon) > before).then_some(()));
    let log = daemon.log();
    log.into_iter()
        .rfind(|line| is_saved(line))
        .expect("a line")
}

fn is_saved(line: &str) -> bool {
    line.starts_with("announced: saved ")
}

/// A file as a daemon with this timeout would have written it some seconds ago: two peers of torrent A,
/// the second of which announced 40 seconds before the save.
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
            info_hash: &A,
            peer: Peer::new([10, 0, 0, 1].into(), port),
            role: Role::Seeder,
            event: Event::Completed,
            want: 0,
            hint: Hint::default(),
        };
        let mut sinks = Sinks {
            v4: Sink::new(&mut []),
            v6: Sink::new(&mut []),
        };
        tracker.announce(&announce, &mut Random::seeded(1), &mut sinks);
    }
    let mut bytes = Vec::new();
    let saved_at = wall_ms().saturating_add_signed(-seconds_ago * 1000);
    let mut writer = Writer::new(&table.lock(0, 40_000), saved_at, &mut bytes);
    while writer.step(&table, 40_000, 10, &mut bytes) {}
    fs::write(path, bytes).expect("is written");
}

#[test]
fn a_restart_keeps_swarms_and_counts_of_both_families() {
    let directory = Directory::new("restart");
    let path = directory.file("state");
    let daemon = with_state(&path);
    daemon.wait_for_line(&format!("there is no {path} yet: starting empty"));
    let (v4, v6) = (Client::new(daemon.udp4()), Client::new(daemon.udp6()));
    for port in 1..=700 {
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
    assert!(line.contains("saved 2 torrents, 703 peers in "), "{line}");
    assert!(line.contains(&format!(" bytes to {path}, within ")));
    assert_eq!(names(&directory), ["state"]);
    let permissions = fs::metadata(&path).expect("is there").permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);

    let daemon = with_state(&path);
    daemon.wait_for_line(&format!(
        "from {path}: loaded 2 torrents, 703 peers, saved "
    ));
    let (v4, v6) = (Client::new(daemon.udp4()), Client::new(daemon.udp6()));
    assert_eq!(v4.scrape(&[A, B]), expected);
    // A seeder is told of the leechers of its family.
    let reply = v6.announce(&announce(A, 702, 0, 0));
    let ports: Vec<u16> = reply.peers.iter().map(|peer| peer.port()).collect();
    assert_eq!(ports, [703]);
    // It was known, and as one that had completed.
    v6.announce(&announce(A, 702, 0, 1));
    assert_eq!(v4.scrape(&[A, B]), expected);
}

#[test]
fn peers_are_as_old_as_they_are() {
    let directory = Directory::new("ages");
    let path = directory.file("state");
    let seeders = |seconds_ago, timeout: &str| {
        write_state(&path, 96, seconds_ago);
        let daemon = Daemon::start(&[
            "--state",
            &path,
            "--interval",
            "60",
            "--peer-timeout",
            timeout,
        ]);
        Client::new(daemon.udp4()).scrape(&[A])[0]
    };
    assert_eq!(seeders(0, "96"), [2, 2, 0]);
    assert_eq!(seeders(70, "96"), [1, 2, 0]);
    assert_eq!(seeders(100, "96"), [0, 2, 0]);
    // The new timeout counts.
    assert_eq!(seeders(100, "960"), [2, 2, 0]);

    // A save from the future: ages are as they were.
    write_state(&path, 96, -100_000);
    let daemon = with_state(&path);
    daemon.wait_for_line("2 peers, saved in the future: the clock was set back, ages are as saved");
}

#[test]
fn a_peer_that_was_loaded_expires_on_time() {
    let directory = Directory::new("expires");
    let path = directory.file("state");
    // Of a timeout of a minute, two seconds are left to one and more than 40 to the other.
    write_state(&path, 60, 18);
    let daemon = Daemon::start(&["--state", &path, "--interval", "40", "--peer-timeout", "60"]);
    let client = Client::new(daemon.udp4());
    wait_for("the older peer to expire", || {
        (client.scrape(&[A]) == [[1, 2, 0]]).then_some(())
    });
}

#[test]
fn kill_9_leaves_the_last_whole_save() {
    let directory = Directory::new("kill");
    let path = directory.file("state");
    let mut daemon = with_state(&path);
    let client = Client::new(daemon.udp4());
    client.announce(&announce(A, 1, 1, 2));
    assert!(save(&daemon).contains("saved 1 torrents, 1 peers"));
    client.announce(&announce(A, 2, 1, 2));
    daemon.signal("KILL");
    daemon.wait();
    // As if it had been killed in the middle of another save.
    fs::write(directory.file("state.new"), "half of it").expect("is written");
    let daemon = with_state(&path);
    daemon.wait_for_line("loaded 1 torrents, 1 peers");
    assert_eq!(names(&directory), ["state"]);
}

#[test]
fn damaged_and_foreign_files_are_moved_aside() {
    let directory = Directory::new("damaged");
    let path = directory.file("state");
    write_state(&path, 2700, 0);
    let whole = fs::read(&path).expect("is there");
    let mut flipped = whole.clone();
    flipped[50] ^= 1;
    let mut newer = whole.clone();
    newer[11] = 2;
    let cases: [(&[u8], &str); 6] = [
        (&whole[..whole.len() - 1], "is cut off at byte "),
        (&flipped, "is damaged: its checksum is wrong"),
        (&newer, "has format version 2; wanted is 1"),
        (b"", "is cut off at byte 0"),
        (b"info_hash,peers\n", "is not a state file of announced"),
        (&[0xff; 5000], "is not a state file of announced"),
    ];
    let mut expected = Vec::new();
    for (i, (bytes, why)) in cases.into_iter().enumerate() {
        fs::write(&path, bytes).expect("is written");
        let aside = match i {
            0 => String::from("state.damaged"),
            _ => format!("state.damaged.{}", i + 1),
        };
        let daemon = with_state(&path);
        let moved = format!("moved to {}, starting empty", directory.file(&aside));
        let line = daemon.wait_for_line(&moved);
        assert!(line.contains(why), "{line}");
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
    assert!(save(&daemon).contains("saved 0 torrents"));
}

/// Of which nothing is on the disk, and little may be read.
#[test]
fn two_gigabytes_of_zeros_are_foreign() {
    let directory = Directory::new("zeros");
    let path = directory.file("state");
    let file = fs::File::create(&path).expect("can be made");
    file.set_len(2 << 30).expect("is sparse");
    let daemon = with_state(&path);
    daemon.wait_for_line("is not a state file of announced; moved to");
}

#[test]
fn what_is_no_file_is_an_error_at_the_start() {
    let directory = Directory::new("errors");
    let fifo = directory.file("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("there is a mkfifo").success());
    fs::create_dir(directory.file("directory")).expect("can be made");
    for (path, why) in [
        (directory.file("directory"), "directory"),
        (directory.file("missing/state"), "No such file"),
        (fifo.clone(), "not a regular file"),
        (directory.file("fifo/state"), "Not a directory"),
    ] {
        let (code, _, err) = run(&["-i", "127.0.0.1", "-p", "0", "--state", &path]);
        assert_eq!(code, Some(1), "{err}");
        let start = format!("announced: --state '{path}': ");
        let line = err.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains(why)), "{err}");
    }
    for (path, why) in [
        (directory.file("directory"), "directory"),
        (directory.file("missing"), "No such file"),
        (fifo, "not a regular file"),
    ] {
        let (code, _, err) = run(&["-i", "127.0.0.1", "-p", "0", "-l", &path]);
        assert_eq!(code, Some(1), "{err}");
        let start = format!("announced: -l/--load-dump '{path}': ");
        let line = err.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains(why)), "{err}");
    }
}

/// Root may read and write everything but this.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_takes_no_file_is_an_error_at_the_start() {
    let (code, _, err) = run(&["-i", "127.0.0.1", "-p", "0", "--state", "/proc/state"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("announced: --state '/proc/state': "), "{err}");
}

#[test]
fn it_is_saved_by_time_and_at_a_signal() {
    let directory = Directory::new("interval");
    let path = directory.file("state");
    let daemon = Daemon::start(&["--state", &path, "--state-interval", "1"]);
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    daemon.wait_for_line("saved 1 torrents, 1 peers");
    drop(daemon);
    let daemon = with_state(&path);
    Client::new(daemon.udp4()).announce(&announce(B, 1, 1, 2));
    assert!(save(&daemon).contains("saved 2 torrents, 2 peers"));
    let mut daemon = Daemon::start(&[]);
    daemon.signal("USR1");
    daemon.wait_for_line("SIGUSR1: there is no --state to save");
    assert!(daemon.is_running());
}

/// However many saves are asked for, they do not mix.
#[test]
fn a_save_under_load_is_whole() {
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
    daemon.wait_for_line("loaded 4000 torrents, 8000 peers");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[hash(0), hash(1), hash(3999)]), counts);
}

#[test]
fn a_save_that_fails_is_told_and_the_next_may_succeed() {
    let directory = Directory::new("fails");
    let inner = directory.file("inner");
    fs::create_dir(&inner).expect("can be made");
    let path = format!("{inner}/state");
    let mut daemon = with_state(&path);
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    fs::remove_dir(&inner).expect("is empty");
    daemon.signal("USR1");
    daemon.wait_for_line(&format!("state is not saved to {path}: "));
    assert_eq!(Client::new(daemon.udp4()).scrape(&[A]), [[0, 0, 1]]);
    fs::create_dir(&inner).expect("can be made");
    assert!(save(&daemon).contains("saved 1 torrents"));
    fs::remove_dir_all(&inner).expect("can be removed");
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(1), "{log:?}");
    let last = log.last().map(String::as_str);
    assert_eq!(last, Some("announced: ended without its state saved"));
}

#[cfg(target_os = "linux")]
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        skip("only root can mount and chroot");
    }
    root
}

/// A file system of 64 KiB, gone with its handle.
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
    let line = daemon.wait_for_line("state is not saved to ");
    assert!(line.contains("No space left on device"), "{line}");
    assert!(fs::read(&path).expect("is there") == before);
    assert_eq!(names(&directory), ["state"]);
    assert_eq!(client.scrape(&[A]), [[0, 0, 1]]);
    drop((daemon, mount));
}

#[test]
#[cfg(target_os = "linux")]
fn inside_a_chroot_paths_begin_there() {
    if !is_root() {
        return;
    }
    // Not writable for nobody, whom the daemon becomes.
    let directory = Directory::new("chroot");
    let root = directory.path();
    let start = || Daemon::start(&["-d", root, "--state", "/state", "-l", "/dump"]);
    fs::write(directory.file("dump"), format!("{}:1:9\n", "bb".repeat(20))).expect("is written");
    let daemon = start();
    daemon.wait_for_line("there is no /state yet: starting empty");
    Client::new(daemon.udp4()).announce(&announce(A, 1, 1, 2));
    stop(daemon);
    assert_eq!(names(&directory), ["dump", "state"]);
    let daemon = start();
    daemon.wait_for_line("from /state: loaded 2 torrents, 1 peers");
    daemon.wait_for_line("from /dump: loaded 0 downloaded counts; 1 of torrents known already");
    assert_eq!(
        Client::new(daemon.udp4()).scrape(&[A, B]),
        [[0, 0, 1], [0, 9, 0]]
    );
}

#[test]
fn a_dump_brings_counts_and_its_bad_lines_are_told() {
    let directory = Directory::new("dump");
    let path = directory.file("dump");
    let (a, b) = ("aa".repeat(20), "BB".repeat(20));
    let zero = "cc".repeat(20);
    let mut text = format!("{a}:29000000:12\r\nrubbish\n{b}:0:4294967295\n{zero}:29000000:0\n");
    text.push_str(&"\u{0}\u{1}\n".repeat(30));
    fs::write(&path, text).expect("is written");
    let daemon = Daemon::start(&["-l", &path]);
    let line = daemon.wait_for_line(&format!("from {path}: loaded 2 downloaded counts"));
    assert!(
        line.ends_with("; 1 of nought, not kept; 31 bad lines"),
        "{line}"
    );
    let told = "-l/--load-dump: line ";
    let bad = daemon.log().iter().filter(|l| l.contains(told)).count();
    assert_eq!(bad, 10);
    daemon.wait_for_line("-l/--load-dump: line 2 is not HEX:base:downloaded, skipped");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[A, B]), [[0, 12, 0], [0, u32::MAX, 0]]);
    client.announce(&announce(A, 1, 0, 1));
    assert_eq!(client.scrape(&[A]), [[1, 13, 0]]);

    // Our own dump is one too.
    let dump = http::get(daemon.tcp4(), "/stats?mode=statedump");
    fs::write(&path, &dump.body).expect("is written");
    let daemon = Daemon::start(&["--load-dump", &path]);
    daemon.wait_for_line("loaded 2 downloaded counts");
    let client = Client::new(daemon.udp4());
    assert_eq!(client.scrape(&[A, B]), [[0, 13, 0], [0, u32::MAX, 0]]);
}

#[test]
fn limits_hold_while_loading() {
    let directory = Directory::new("limits");
    let path = directory.file("state");
    write_state(&path, 2700, 0);
    let daemon = Daemon::start(&["--state", &path, "--max-peers", "1"]);
    daemon.wait_for_line(
        "seconds ago; no room for 0 torrents, 1 peers (--max-torrents, --max-peers)",
    );
    assert_eq!(Client::new(daemon.udp4()).scrape(&[A]), [[1, 2, 0]]);
}

#[test]
fn check_tells_what_would_be_kept_and_what_would_end_the_start() {
    let directory = Directory::new("check");
    let (state, dump) = (directory.file("s"), directory.write("d", ""));
    let (code, out, _) = run(&[
        "-n",
        "--state",
        &state,
        "--state-interval",
        "0",
        "-l",
        &dump,
    ]);
    assert_eq!(code, Some(0));
    let kept = format!("keep all that is known in {state}, saved at the end\n");
    assert!(out.contains(&kept), "{out}");
    let loaded = format!("load downloaded counts from opentracker's {dump}\n");
    assert!(out.contains(&loaded), "{out}");
    let (_, out, _) = run(&["-n", "--state", "s"]);
    assert!(out.contains("keep all that is known in s, saved every 600 seconds and at the end\n"));

    let (inside_nothing, below_a_file) = (directory.file("x/s"), directory.file("d/s"));
    for (flag, path) in [
        ("--state", directory.path()),
        ("--state", &inside_nothing),
        ("--state", &below_a_file),
        ("--state", "/dev/null"),
        ("-l", directory.path()),
        ("-l", &state),
    ] {
        for flags in [&["-n", flag, path][..], &["-p", "0", "-P", "0", flag, path]] {
            let (code, out, err) = run(flags);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{flags:?}: {err}");
            assert!(err.contains(&format!(" '{path}': ")), "{flags:?}: {err}");
        }
    }
}

#[test]
fn check_touches_no_save_that_is_being_written() {
    let directory = Directory::new("check-touches");
    let (state, new) = (
        directory.write("s", "damaged"),
        directory.write("s.new", "half"),
    );
    assert_eq!(run(&["-n", "--state", &state]).0, Some(0));
    for (path, content) in [(state, "damaged"), (new, "half")] {
        assert_eq!(std::fs::read_to_string(path).ok().as_deref(), Some(content));
    }
}
