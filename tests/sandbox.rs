//! The sandbox of each process, as the kernel shows it. That it refuses what it should is tested in `src/sys/sandbox`.

#![cfg(target_os = "linux")]

mod common;

use common::{Daemon, Directory, is_root, udp, wait_for};
use std::fs;

const NONE: &str = "0000000000000000";

/// The status of all threads of the daemon and of its helpers, with the ids of their processes. Those that end
/// meanwhile are left out.
fn statuses(daemon: &Daemon) -> Vec<(u32, String)> {
    let mut ids = vec![daemon.id()];
    let mut statuses = Vec::new();
    while let Some(id) = ids.pop() {
        let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter();
        for thread in threads.flatten().flatten() {
            let read = |name| fs::read_to_string(thread.path().join(name)).ok();
            if let (Some(status), Some(children)) = (read("status"), read("children")) {
                statuses.push((id, status));
                let children = children.split_whitespace();
                ids.extend(children.map(|id| id.parse::<u32>().expect("an id")));
            }
        }
    }
    statuses
}

/// Whether a status has this line.
fn has(status: &str, name: &str, value: &str) -> bool {
    let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
    lines.any(|line| line == (name, value))
}

/// A daemon with two threads and two helpers.
fn start(directory: &Directory, flags: &[&str]) -> Daemon {
    let state = directory.file("state");
    let config = directory.write("config", format!("state {state}\nthreads 2\n"));
    Daemon::start(&[&["-f", &config], flags].concat())
}

#[test]
fn every_process_and_thread_is_confined() {
    let directory = Directory::new("confined");
    let daemon = start(&directory, &[]);
    let line = daemon.wait_for_line("sandbox: no new privileges, no capabilities");
    assert!(line.ends_with("seccomp"), "{line}");
    // A helper may be slower than the daemon.
    let statuses = wait_for("all to be confined", || {
        let statuses = statuses(&daemon);
        let is_confined =
            |status: &str| has(status, "NoNewPrivs", "1") && has(status, "Seccomp", "2");
        let is_done = statuses.len() >= 5 && statuses.iter().all(|(_, status)| is_confined(status));
        is_done.then_some(statuses)
    });
    let own = statuses.iter().filter(|(id, _)| *id == daemon.id());
    assert_eq!(own.clone().count(), 3, "threads");
    for (_, status) in own {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(has(status, set, NONE), "{set}: {status}");
        }
    }
    for (_, status) in &statuses {
        // Another user than root may not reduce this one.
        assert!(has(status, "CapBnd", NONE) || !is_root(), "{status}");
    }
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
}

#[test]
fn nothing_is_confined_without_the_sandbox() {
    let directory = Directory::new("unconfined");
    let daemon = start(&directory, &["--no-sandbox"]);
    daemon.wait_for_line("sandbox: off");
    for (_, status) in statuses(&daemon) {
        assert!(has(&status, "NoNewPrivs", "0"), "{status}");
        assert!(has(&status, "Seccomp", "0"), "{status}");
    }
}
