//! The filter of system calls on other processors: a walk through what the daemon does, under qemu, which prints each
//! call. All that are made in the sandbox must be in the table. qemu has no filters, so none is refused here.
//!
//! `make check-walk` builds the programs and runs this. `ANNOUNCED_WALK` is the directory with them.

#![cfg(all(target_os = "linux", feature = "cluster", feature = "full-scrape"))]

mod common;

use common::udp::{Announce, Client};
use common::{Daemon, Directory, give_to_nobody, http, is_alive, wait_longer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// The tables as they are written.
const TABLES: &str = include_str!("../src/sys/sandbox/calls.rs");

/// The text of a constant.
fn constant(name: &str) -> &'static str {
    let start = TABLES
        .find(&format!("const {name}: "))
        .unwrap_or_else(|| panic!("no {name}"));
    let (text, _) = TABLES[start..].split_once(";\n").expect("an end");
    text
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// The calls of a table, such as SERVE.
fn calls(table: &str) -> BTreeSet<&'static str> {
    let parts = words(constant(table)).filter(|word| word.len() > 4 && *word != table);
    let parts = parts.filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    let names = parts.flat_map(|part| words(constant(part)));
    let missed = words(constant("MISSED"));
    names
        .chain(missed)
        .filter_map(|name| name.strip_prefix("SYS_"))
        .collect()
}

/// The ids of the processes that a process has started.
fn children(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .map(|id| id.parse().expect("an id"))
        .collect()
}

/// In place of qemu's name: this processor runs its programs, with a filter by which an unknown call ends the process.
const NATIVE: &str = "";

/// A processor: its target, Debian's name of the libraries for it, qemu's name of it.
struct Processor(&'static str, &'static str, &'static str);

impl Processor {
    fn start(&self, log: &str, flags: &[&str]) -> Daemon {
        let Processor(target, libraries, qemu) = self;
        let home = std::env::var("ANNOUNCED_WALK").expect("ANNOUNCED_WALK is set");
        let program = format!("{home}/{target}/debug/announced");
        let root = format!("/usr/{libraries}");
        // A helper closes all descriptors that are not its own, but may not close qemu's log.
        let mut command = Command::new("strace");
        command
            .args("-D -f -qq -o /dev/null -e trace=close -e inject=close:retval=0 -P".split(' '));
        command.arg(log);
        if *qemu == NATIVE {
            command = Command::new(format!("{root}/lib/ld-linux.so.2"));
            command.args(["--library-path", &format!("{root}/lib")]);
        } else {
            command.arg(format!("qemu-{qemu}-static"));
            command.args(["-L", &root, "-strace", "-D", log]);
        }
        command.arg(program);
        command.args(
            "-i 127.0.0.1 -p 0 -P 0 -i ::1 -p 0 -P 0 --cluster-listen 127.0.0.1:0".split(' '),
        );
        command.args(flags);
        let daemon = Daemon::spawn(command);
        let expected = match *qemu {
            NATIVE => ", seccomp",
            _ => "; missing: seccomp: ",
        };
        daemon.wait_for_line(expected);
        daemon
    }

    fn walk(&self) {
        let directory = Directory::new(&format!("walk-{}", self.2));
        let key = directory.file("key");
        let made = common::run(&["--make-key", &key]);
        assert_eq!(made.0, Some(0), "{made:?}");
        let (state, list) = (directory.file("state"), directory.write("list", ""));
        give_to_nobody(directory.path());
        let text = format!("state {state}\nblacklist {list}\nfull-scrape open\n");
        let config = directory.write("config", text);
        let logs = ["a.log", "b.log"].map(|name| directory.file(name));
        let socket = format!("unix:{}", directory.file("socket"));
        let flags = [
            "-f",
            &config,
            "-j",
            "2",
            "-p",
            &socket,
            "--cluster-key",
            &key,
        ];
        let a = self.start(&logs[0], &flags);
        let peer = format!("localhost:{}", a.cluster().port());
        let b = self.start(&logs[1], &["--cluster-key", &key, "--cluster-peer", &peer]);
        wait_longer("a link", PATIENCE, || {
            (a.count_lines(": link up") > 0).then_some(())
        });
        serve(&a);
        a.signal("HUP");
        wait_longer("a reload", PATIENCE, || {
            (a.count_lines("blacklist: loaded") > 1).then_some(())
        });
        a.signal("USR1");
        wait_longer("a save", PATIENCE, || {
            (a.count_lines("state: saved") > 0).then_some(())
        });
        let mut unknown = BTreeMap::new();
        for (daemon, log, tables) in [
            (a, &logs[0], ["SERVE_UNIX", "FILES"]),
            (b, &logs[1], ["SERVE", "NAMES"]),
        ] {
            unknown.extend(end(daemon, log, tables));
        }
        assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    }
}

/// Requests of all kinds.
fn serve(daemon: &Daemon) {
    for address in [daemon.udp4(), daemon.udp6()] {
        let client = Client::new(address);
        client.announce(&Announce::seeder(7));
        client.scrape(&[[0xaa; 20]]);
    }
    let announce =
        "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&port=7&left=0&peer_id=bbbbbbbbbbbbbbbbbbbb";
    for address in [daemon.tcp4(), daemon.tcp6()] {
        for target in [
            announce,
            "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa",
            "/stats",
            "/metrics",
        ] {
            assert_eq!(http::get(address, target).status, 200, "{target}");
        }
    }
    let mut client = http::Client::new(daemon.tcp4());
    client.send("GET /scrape HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_eq!(client.receive().status, 200);
}

/// Ends a daemon. Returns the calls that it and its helpers made in the sandbox, and that are not in their tables.
fn end(
    mut daemon: Daemon,
    log: &str,
    [server, helper]: [&'static str; 2],
) -> BTreeMap<String, &'static str> {
    let mut tables = BTreeMap::from([(daemon.id(), server)]);
    for monitor in children(daemon.id()) {
        tables.insert(monitor, "MONITOR");
        tables.extend(children(monitor).into_iter().map(|id| (id, helper)));
    }
    assert!(tables.len() >= 3, "{tables:?}");
    assert_eq!(daemon.count_lines("process ended"), 0);
    daemon.signal("TERM");
    assert!(daemon.wait().0.success(), "{:?}", daemon.log());
    let helpers = tables.keys().filter(|id| **id != daemon.id());
    wait_longer("the helpers' end", PATIENCE, || {
        (!helpers.clone().any(|id| is_alive(*id))).then_some(())
    });
    let Ok(log) = fs::read(log) else {
        return BTreeMap::new();
    };
    let log = String::from_utf8_lossy(&log).into_owned();
    let mut unknown = BTreeMap::new();
    let mut confined = BTreeMap::new();
    for (id, call) in made(&log) {
        let Some(table) = tables.get(&id) else {
            continue;
        };
        // The first call of two that would set the filter, the second without a flag.
        let count = confined.entry(id).or_insert(0);
        *count += usize::from(call == "seccomp");
        if *count >= 2 && call != "seccomp" && !calls(table).contains(call) {
            unknown.insert(call.to_owned(), *table);
        }
    }
    assert!(
        tables.keys().all(|id| confined.get(id) > Some(&1)),
        "{confined:?}: {tables:?}"
    );
    unknown
}

/// The calls in qemu's log: `123 read(`, anywhere, as threads write at the same time.
fn made(log: &str) -> impl Iterator<Item = (u32, &str)> {
    log.match_indices('(').filter_map(|(end, _)| {
        let before = &log[log[..end].rfind('\n').map_or(0, |start| start + 1)..end];
        let (before, call) = before.rsplit_once(' ')?;
        let digits = before
            .rfind(|c: char| !c.is_ascii_digit())
            .map_or(0, |at| at + 1);
        let id = before.get(digits..)?.parse().ok()?;
        let is_name = call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (is_name && !call.is_empty()).then_some((id, call))
    })
}

#[test]
#[ignore = "needs programs for other processors"]
fn calls_on_arm_are_in_the_table() {
    Processor("arm-unknown-linux-gnueabihf", "arm-linux-gnueabihf", "arm").walk();
}

#[test]
#[ignore = "needs programs for other processors"]
fn calls_on_aarch64_are_in_the_table() {
    Processor("aarch64-unknown-linux-gnu", "aarch64-linux-gnu", "aarch64").walk();
}

#[test]
#[ignore = "needs programs for other processors"]
fn calls_on_mips_are_in_the_table() {
    Processor("mips-unknown-linux-gnu", "mips-linux-gnu", "mips").walk();
}

#[test]
#[ignore = "needs programs for other processors"]
fn calls_on_riscv64_are_in_the_table() {
    Processor(
        "riscv64gc-unknown-linux-gnu",
        "riscv64-linux-gnu",
        "riscv64",
    )
    .walk();
}

#[test]
#[ignore = "needs programs for other processors"]
fn calls_on_x86_are_in_the_table() {
    Processor("i686-unknown-linux-gnu", "i686-linux-gnu", NATIVE).walk();
}
