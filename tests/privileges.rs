//! From root to nobody. Most of these tests need root, and report that they are skipped without it.

#![cfg(target_os = "linux")]

mod common;

use common::{Daemon, Directory, is_root, program, run, skip, udp};
use std::process::Command;

/// Real, effective, saved and file-system id.
fn ids(daemon: &Daemon, name: &str) -> Vec<u32> {
    let text = daemon.proc_status(name);
    text.split_whitespace()
        .map(|id| id.parse().expect("a number"))
        .collect()
}

#[test]
fn root_becomes_nobody_without_groups_or_capabilities() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(&[]);
    assert_eq!(ids(&daemon, "Uid"), [65534; 4]);
    assert_eq!(ids(&daemon, "Gid"), [65534; 4]);
    assert_eq!(ids(&daemon, "Groups"), [65534]);
    assert_eq!(daemon.proc_status("CapEff"), "0000000000000000");
    assert_eq!(daemon.proc_status("CapPrm"), "0000000000000000");
    daemon.wait_for_line("running as user nobody (65534), group 65534");
}

#[test]
fn users_may_be_names_or_numbers() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(&["-u", "daemon"]);
    assert_eq!(ids(&daemon, "Uid"), [1; 4]);
    let daemon = Daemon::start(&["-u", "4711:4712"]);
    assert_eq!(ids(&daemon, "Uid"), [4711; 4]);
    assert_eq!(ids(&daemon, "Gid"), [4712; 4]);
    assert_eq!(ids(&daemon, "Groups"), [4712]);
}

/// A command in a mount namespace where this file is `/etc/passwd`; none where there are no such namespaces.
fn with_passwd(file: &str, program: &str, flags: &[&str]) -> Option<Command> {
    let command = |program: &str| {
        let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, file, program]);
        command
    };
    let works = command("true").status();
    if !works.is_ok_and(|status| status.success()) {
        skip("there are no mount namespaces");
        return None;
    }
    let mut command = command(program);
    command.args(flags);
    Some(command)
}

/// A directory service may have long entries.
#[test]
fn a_user_with_a_long_entry_is_found() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("passwd");
    for length in [1, 20_000, 300_000] {
        let comment = "x".repeat(length);
        let entry = format!("tracker:x:4711:4712:{comment}:/:/bin/false\n");
        let file = directory.write("passwd", entry);
        let flags = ["-i", "127.0.0.1", "-P", "0", "-u", "tracker"];
        let Some(command) = with_passwd(&file, &program(), &flags) else {
            return;
        };
        let daemon = Daemon::spawn(command);
        daemon.wait_for_line("running as user tracker (4711), group 4712");
    }
}

#[test]
fn root_is_refused_as_user() {
    for user in ["root", "0:0", "0:1", "1:0"] {
        let (code, _, err) = run(&["-P", "0", "-u", user]);
        let start = format!("announced: -u/--user: invalid value '{user}': expected a user other");
        assert!(code == Some(2) && err.starts_with(&start), "{err}");
    }
    if !is_root() {
        return;
    }
    let (code, _, err) = run(&["-i", "127.0.0.1", "-P", "0", "-u", "no-such-user"]);
    assert_eq!(code, Some(1));
    let message = "announced: -u/--user 'no-such-user': no such user";
    assert_eq!(err.lines().last(), Some(message));
}

#[test]
fn low_ports_are_bound_before_root_is_given_up() {
    if !is_root() {
        return;
    }
    // An address of its own, so that nothing else on the machine is in the way.
    let daemon = Daemon::start_with(&["-i", "127.77.88.99", "-P", "80"]);
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    assert_eq!(ids(&daemon, "Uid"), [65534; 4]);
}

#[test]
fn root_is_confined_to_its_directory() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("root");
    let daemon = Daemon::start(&["-d", directory.path()]);
    for name in ["root", "cwd"] {
        let link = std::fs::read_link(format!("/proc/{}/{name}", daemon.id()));
        let link = link.expect("is a link");
        assert_eq!(link.to_str(), Some(directory.path()), "{name}");
    }
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    drop(daemon);
    let (code, _, err) = run(&["-i", "127.0.0.1", "-P", "0", "-d", "/nowhere/at/all"]);
    assert_eq!(code, Some(1));
    let start = "announced: -d/--root '/nowhere/at/all': ";
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with(start), "{err}");
}

#[test]
fn errors_of_files_name_the_root_directory_in_which_they_are_looked_up() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("root-of-files");
    let (root, list) = (directory.path(), directory.write("list", "a".repeat(40)));
    let outside = ["-w", "--list-add", "--list-remove", "--state", "-l"];
    for (flag, first) in outside
        .iter()
        .flat_map(|flag| [(flag, "-n"), (flag, "-p0")])
    {
        // The file or its directory exists outside the root alone.
        let path = if *flag == "-w" {
            list.clone()
        } else {
            format!("{root}/x")
        };
        let (code, _, err) = run(&[first, "-d", root, "-w", "/list", flag, &path]);
        let end = format!("No such file or directory, looked for inside -d/--root '{root}'");
        let last = err.lines().last().unwrap_or_default();
        assert_eq!(code, Some(1), "{first} {flag}: {err}");
        assert!(last.ends_with(&end), "{first} {flag}: {err}");
    }
}

#[test]
fn the_descriptor_limit_is_raised() {
    let daemon = Daemon::start(&[]);
    let path = format!("/proc/{}/limits", daemon.id());
    let limits = std::fs::read_to_string(path).expect("is running");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let fields: Vec<&str> = line.expect("is there").split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "soft and hard");
}
