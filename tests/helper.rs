//! The helper processes: their privileges, their end with the daemon, and their replacement when they end before it.

#![cfg(target_os = "linux")]

mod common;

use common::udp::{Announce, Client};
use common::{
    Daemon, Directory, NOBODY, child_of, is_alive, is_root, run, signal, wait_for, wait_longer,
    worker_of,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

const RESTARTED: &str = "helper: process ended, and was restarted";
const LISTED: &str = "4141414141414141414141414141414141414141\n";

/// A daemon with a list and a state in a directory of its own.
struct Helped {
    daemon: Daemon,
    _directory: Directory,
}

impl Helped {
    fn start(name: &str, flags: &[&str]) -> Helped {
        let directory = Directory::new(&format!("helper-{name}"));
        let list = directory.write("list", LISTED);
        let state = directory.file("state");
        let files = ["-w", &list, "--state", &state, "--state-interval", "0"];
        let daemon = Daemon::start(&[&files, flags].concat());
        Helped {
            daemon,
            _directory: directory,
        }
    }

    fn monitor(&self) -> u32 {
        child_of(self.daemon.id())
    }

    fn worker(&self) -> u32 {
        worker_of(self.daemon.id())
    }

    /// Ends the worker, and waits for the next.
    fn replace_worker(&self) -> u32 {
        let (before, restarts) = (self.worker(), self.daemon.count_lines(RESTARTED));
        assert!(signal(before, "KILL"));
        wait_for("another worker", || {
            (self.daemon.count_lines(RESTARTED) > restarts).then(|| self.worker())
        })
    }

    /// Sends the daemon a signal, and waits for a new line with this in it.
    fn expect(&self, name: &str, part: &str) {
        let before = self.daemon.count_lines(part);
        self.daemon.signal(name);
        self.wait_for_another(part, before);
    }

    fn wait_for_another(&self, part: &str, before: usize) {
        wait_for(part, || {
            (self.daemon.count_lines(part) > before).then_some(())
        });
    }
}

/// A line of `/proc/ID/status`, without its name.
fn status(id: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("is running");
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("is there")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn only_the_monitor_is_root_and_may_only_become_another_user() {
    if !is_root() {
        return;
    }
    let it = Helped::start("root", &[]);
    let (monitor, worker) = (it.monitor(), it.worker());
    assert_eq!(status(monitor, "Uid"), "0 0 0 0");
    // SETGID and SETUID.
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(status(monitor, set), "00000000000000c0");
        assert_eq!(status(worker, set), "0000000000000000");
    }
    for set in ["CapInh", "CapAmb", "CapBnd"] {
        for id in [monitor, worker] {
            assert_eq!(status(id, set), "0000000000000000", "{set}");
        }
    }
    for is_first in [true, false] {
        let id = if is_first {
            worker
        } else {
            it.replace_worker()
        };
        assert_eq!(status(id, "Uid"), "65534 65534 65534 65534");
        assert_eq!(status(id, "Gid"), "65534 65534 65534 65534");
        assert_eq!(status(id, "Groups"), "65534");
        assert_eq!(status(id, "CapPrm"), "0000000000000000");
    }
}

#[test]
fn helpers_ignore_signals_and_end_with_the_daemon() {
    for (name, code) in [("TERM", Some(0)), ("KILL", None)] {
        let mut it = Helped::start("ends", &[]);
        let (monitor, worker) = (it.monitor(), it.worker());
        for id in [monitor, worker] {
            for ignored in ["TERM", "INT", "HUP", "USR1", "PIPE"] {
                assert!(signal(id, ignored));
            }
            // It has no descriptor of the daemon but a socket.
            let open = fs::read_dir(format!("/proc/{id}/fd")).expect("is alive");
            let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            let targets: Vec<String> = targets
                .map(|target| target.to_string_lossy().into_owned())
                .filter(|target| target != "/dev/null")
                .collect();
            let are_sockets = targets.iter().all(|target| target.starts_with("socket:"));
            assert!(are_sockets && targets.len() <= 3, "{targets:?}");
        }
        it.expect("HUP", "whitelist: loaded: 1 hash");
        it.daemon.signal(name);
        assert_eq!(it.daemon.wait().0.code(), code);
        for id in [monitor, worker] {
            wait_for("the end of a helper", || (!is_alive(id)).then_some(()));
        }
    }
}

#[test]
fn a_stopped_worker_is_ended_after_the_daemon() {
    let mut it = Helped::start("stopped", &[]);
    let (monitor, worker) = (it.monitor(), it.worker());
    assert!(signal(worker, "STOP"));
    it.daemon.signal("KILL");
    it.daemon.wait();
    for id in [monitor, worker] {
        wait_for("the end of a helper", || (!is_alive(id)).then_some(()));
    }
}

/// Takes a minute. A stopped worker accepts no more than one whose disk hangs.
#[test]
fn a_save_that_hangs_ends_the_daemon_after_a_minute() {
    let mut it = Helped::start("hangs", &[]);
    Client::new(it.daemon.udp4()).announce(&Announce::leecher(1000).of([0x41; 20]));
    it.expect("USR1", "state: saved: 1 torrent, 1 peer");
    Client::new(it.daemon.udp4()).announce(&Announce::leecher(1001).of([0x41; 20]));
    let (monitor, worker) = (it.monitor(), it.worker());
    assert!(signal(worker, "STOP"));
    let began = Instant::now();
    it.daemon.signal("TERM");
    wait_longer("the end", Duration::from_secs(180), || {
        (!it.daemon.is_running()).then_some(())
    });
    assert!(began.elapsed() >= Duration::from_secs(60));
    let (status, log) = it.daemon.wait();
    assert_eq!(status.code(), Some(1), "{log:?}");
    let [.., failed, lost, _stopped, last] = &log[..] else {
        panic!("{log:?}");
    };
    assert!(
        failed.starts_with("announced: state: save failed: '"),
        "{failed}"
    );
    assert!(
        failed.ends_with("': no progress for 60 seconds"),
        "{failed}"
    );
    let start = "announced: state: lost at exit: 1 torrent, 2 peers; the last save is ";
    assert!(lost.starts_with(start), "{lost}");
    assert_eq!(last, "announced: the state was not saved at the end");
    for id in [monitor, worker] {
        wait_for("the end of a helper", || (!is_alive(id)).then_some(()));
    }
}

#[test]
fn a_worker_that_ends_is_replaced_once_a_second_at_most() {
    let it = Helped::start("replaced", &[]);
    it.replace_worker();
    let replaced = Instant::now();
    for _ in 0..2 {
        it.replace_worker();
    }
    assert!(replaced.elapsed() >= Duration::from_millis(1900));
    it.expect("HUP", "whitelist: loaded: 1 hash");
    it.expect("USR1", "state: saved");
}

#[test]
fn what_a_worker_had_not_done_is_repeated_by_the_next() {
    let conf = Directory::new("helper-conf");
    let conf = conf.write("conf", "interval 1000");
    let it = Helped::start("repeated", &["-f", &conf]);
    Client::new(it.daemon.udp4()).announce(&Announce::leecher(1000).of([0x41; 20]));
    fs::write(&conf, "interval 900").expect("is ours");
    let lines = [
        "state: saved: 1 torrent, 1 peer",
        "whitelist: loaded",
        "reloaded: changed interval",
    ];
    let before = lines.map(|line| it.daemon.count_lines(line));
    assert!(signal(it.worker(), "STOP"));
    for name in ["USR1", "HUP"] {
        it.daemon.signal(name);
    }
    // The requests wait in the socket, or are not even sent.
    it.replace_worker();
    for (line, before) in lines.into_iter().zip(before) {
        it.wait_for_another(line, before);
    }
}

#[test]
fn the_daemon_goes_on_without_its_helpers() {
    let it = Helped::start("gone", &[]);
    let (monitor, worker) = (it.monitor(), it.worker());
    assert!(signal(monitor, "KILL") && signal(worker, "KILL"));
    it.daemon.wait_for_line("helper: process ended: ");
    for _ in 0..2 {
        it.expect("HUP", "reload failed: the helper process has ended");
        it.expect("USR1", "the helper process has ended");
        Client::new(it.daemon.udp4()).announce(&Announce::leecher(1000).of([0x41; 20]));
    }
    assert_eq!(it.daemon.count_lines("helper: process ended"), 1);
}

#[test]
fn the_pidfile_is_removed_from_a_directory_of_any_owner() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("helper-pidfile");
    let pidfile = directory.file("pid");
    for (owner, mode) in [(0, 0o755), (NOBODY, 0o755), (NOBODY, 0o700), (4711, 0o700)] {
        chown(directory.path(), Some(owner), Some(owner)).expect("is ours");
        set_mode(directory.path(), mode);
        for name in ["TERM", "KILL"] {
            let mut daemon = Daemon::start(&["--pidfile", &pidfile]);
            assert!(Path::new(&pidfile).exists());
            daemon.signal(name);
            daemon.wait();
            wait_for("its removal", || {
                (!Path::new(&pidfile).exists()).then_some(())
            });
        }
    }
}

/// Root signals the process that the file names. The last digit of the flags is the access mode: 0 is reading.
#[test]
fn no_process_can_write_the_pidfile() {
    let directory = Directory::new("helper-pidfile-descriptors");
    let pidfile = directory.file("pid");
    let it = Helped::start("pidfile-descriptors", &["--pidfile", &pidfile]);
    let mut found = 0;
    for process in [it.daemon.id(), it.monitor(), it.worker()] {
        let folder = format!("/proc/{process}/fd");
        for entry in fs::read_dir(folder).expect("is running") {
            let path = entry.expect("is running").path();
            let name = path.file_name().expect("a number").to_string_lossy();
            if fs::read_link(&path).is_ok_and(|target| target == Path::new(&pidfile)) {
                let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{name}"));
                let info = info.expect("is open");
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                assert!(flags.expect("a line").ends_with('0'), "{process}: {info}");
                found += 1;
            }
        }
    }
    assert!(found > 0, "no process holds the lock");
}

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
}

/// Asserts that these flags fail with this message, at the start and at a check.
fn start_and_check_fail(flags: &[&str], message: &str) {
    for first in ["-n", "-v"] {
        let (code, _, err) = run(&[&[first, "-i", "127.0.0.1", "-p0"], flags].concat());
        let message = format!("announced: {message}");
        assert_eq!(
            (code, err.lines().last()),
            (Some(1), Some(&*message)),
            "{first}"
        );
    }
}

#[test]
fn files_that_the_user_may_not_use_end_the_start() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("helper-denied");
    let (list, inner) = (directory.write("list", LISTED), directory.file("inner"));
    let conf = directory.write("conf", "interval 1000");
    fs::create_dir(&inner).expect("can be made");
    let (state, lock, saved) = (
        directory.file("inner/state"),
        directory.file("inner/state.lock"),
        directory.write("saved", ""),
    );
    for path in [&list, &conf, &saved] {
        set_mode(path, 0o600);
    }
    let denied = |right: &str| format!("not {right} by user nobody: mode 0600, owner 0:0");
    let readable = denied("readable");
    for (flag, path) in [
        ("-w/--whitelist", &list),
        ("-b/--blacklist", &list),
        ("-l/--load-dump", &list),
        ("--state", &saved),
        ("-f/--config", &conf),
    ] {
        let (short, long) = flag.split_once('/').unwrap_or((flag, flag));
        for given in [short, long] {
            start_and_check_fail(&[given, path], &format!("{flag} '{path}': {readable}"));
        }
    }
    let closed = format!("--state '{state}': directory '{inner}' not");
    let owner = "by user nobody: mode 0755, owner 0:0";
    start_and_check_fail(&["--state", &state], &format!("{closed} writable {owner}"));
    set_mode(&inner, 0o700);
    let owner = "by user nobody: mode 0700, owner 0:0";
    start_and_check_fail(
        &["--state", &state],
        &format!("{closed} searchable {owner}"),
    );
    chown(&inner, Some(NOBODY), Some(NOBODY)).expect("is ours");
    fs::write(&lock, "").expect("is written");
    set_mode(&lock, 0o600);
    let writable = denied("writable");
    start_and_check_fail(
        &["--state", &state],
        &format!("--state '{state}': '{lock}' {writable}"),
    );
    chown(&lock, Some(NOBODY), None).expect("is ours");
    Daemon::start(&["--state", &state]);
    // Groups count as the system counts them.
    chown(&list, Some(0), Some(4712)).expect("is ours");
    set_mode(&list, 0o640);
    set_mode(directory.path(), 0o750);
    chown(directory.path(), None, Some(4712)).expect("is ours");
    Daemon::start(&["-u", "4711:4712", "-w", &list]);
    let owner = "not readable by user 4711:4713: mode 0750, owner 65534:4712";
    let searchable = owner.replace("readable", "searchable");
    let path = directory.path();
    start_and_check_fail(
        &["-u", "4711:4713", "-w", &list],
        &format!("-w/--whitelist '{list}': directory '{path}' {searchable}"),
    );
}

/// As container platforms mount them: `list` leads to `..data/list`, and `..data` to a directory that is replaced.
#[test]
fn a_list_behind_links_is_reloaded() {
    let directory = Directory::new("helper-links");
    let conf = |version: &str| format!("{version}/conf");
    for (version, interval) in [("one", "1000"), ("two", "900")] {
        fs::create_dir(directory.file(version)).expect("can be made");
        directory.write(&format!("{version}/list"), LISTED);
        directory.write(&conf(version), format!("interval {interval}"));
    }
    directory.write("two/list", format!("{LISTED}{}", LISTED.replace('4', "5")));
    symlink("one", directory.file("..data")).expect("can be made");
    for name in ["list", "conf"] {
        symlink(format!("..data/{name}"), directory.file(name)).expect("can be made");
    }
    let daemon = Daemon::start(&["-f", &directory.file("conf"), "-w", &directory.file("list")]);
    daemon.wait_for_line("whitelist: loaded: 1 hash");
    symlink("two", directory.file("..new")).expect("can be made");
    fs::rename(directory.file("..new"), directory.file("..data")).expect("is replaced");
    daemon.signal("HUP");
    daemon.wait_for_line("whitelist: loaded: 2 hashes");
    daemon.wait_for_line("configuration: reloaded: changed interval");
}
