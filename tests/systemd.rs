//! The protocols of systemd, which `sd_notify(3)` describes. The service manager here is a stub.

#![cfg(target_os = "linux")]

mod common;

use announced::sys::uptime::monotonic_us;
use common::udp::{Announce, Client};
use common::{
    DEADLINE, Daemon, Directory, is_alive, is_root, program, signal, skip, sys, uninterrupted,
    wait_for,
};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Duration;

const LISTEN: [&str; 6] = ["-i", "127.0.0.1", "-p", "0", "-P", "0"];

/// A stub of the service manager.
struct Manager {
    socket: UnixDatagram,
    /// `NOTIFY_SOCKET`.
    address: String,
}

impl Manager {
    fn new(directory: &Directory) -> Manager {
        let address = directory.file("notify");
        Manager::at(SocketAddr::from_pathname(&address), address)
    }

    fn at(bound: std::io::Result<SocketAddr>, address: String) -> Manager {
        let socket = UnixDatagram::bind_addr(&bound.expect("an address")).expect("is free");
        socket.set_read_timeout(Some(DEADLINE)).expect("an option");
        Manager { socket, address }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(LISTEN).args(flags);
        command.env("NOTIFY_SOCKET", &self.address);
        command
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        Daemon::spawn(self.command(flags))
    }

    /// The assignments of the next message.
    fn receive(&self) -> Vec<String> {
        let mut message = [0; 1000];
        let received = uninterrupted(|| self.socket.recv(&mut message));
        let length = received.expect("a message");
        let message = String::from_utf8_lossy(&message[..length]);
        message.lines().map(String::from).collect()
    }

    fn expect(&self, message: &[&str]) {
        assert_eq!(self.receive(), message);
    }

    /// Whether a message comes within half a second.
    fn is_silent(&self) -> bool {
        let wait = Some(Duration::from_millis(500));
        self.socket.set_read_timeout(wait).expect("an option");
        let received = uninterrupted(|| self.socket.recv(&mut [0; 1000]));
        self.socket
            .set_read_timeout(Some(DEADLINE))
            .expect("an option");
        received.is_err()
    }

    fn expect_ready(&self, daemon: &Daemon) {
        self.expect(&["READY=1", &format!("MAINPID={}", daemon.id())]);
    }

    /// Receives the messages of a reload that began after this time, by the clock of the messages.
    fn expect_reload(&self, after: u64) {
        let message = self.receive();
        let [reloading, time] = &message[..] else {
            panic!("{message:?}");
        };
        assert_eq!(reloading, "RELOADING=1");
        let time = time.strip_prefix("MONOTONIC_USEC=").map(str::parse);
        let is_right = |time: &u64| (after..=monotonic_us()).contains(time);
        assert!(matches!(time, Some(Ok(time)) if is_right(&time)));
        self.expect(&["READY=1"]);
    }
}

/// The id of a thread by its name.
fn thread(daemon: &Daemon, name: &str) -> u32 {
    let tasks = format!("/proc/{}/task", daemon.id());
    let tasks = std::fs::read_dir(tasks).expect("is running");
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |id: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", daemon.id()));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    ids.into_iter().find(is_it).expect("there is such a thread")
}

fn stop(mut daemon: Daemon) {
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
}

#[test]
fn the_manager_is_told_of_the_start_the_table_and_the_end() {
    let directory = Directory::new("notify");
    let manager = Manager::new(&directory);
    let state = ["--state", &directory.file("state")];
    let daemon = manager.start(&state);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=0 torrents, 0 peers"]);
    Client::new(daemon.udp4()).announce(&Announce::default());
    stop(daemon);
    manager.expect(&["STOPPING=1"]);
    let daemon = manager.start(&state);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=1 torrent, 1 peer"]);
    stop(daemon);
}

#[test]
fn the_manager_is_told_of_the_beginning_and_the_end_of_each_reload() {
    let directory = Directory::new("notify-reload");
    let manager = Manager::new(&directory);
    let list = directory.write("list", "aa".repeat(20));
    let conf = directory.write("conf", "interval 1000\n");
    let all = ["-w", &list, "-f", &conf];
    for (flags, result) in [
        (&all[..], "configuration: reloaded"),
        (&[], "SIGHUP: ignored"),
    ] {
        let daemon = manager.start(flags);
        manager.expect_ready(&daemon);
        manager.receive();
        let before = monotonic_us();
        daemon.signal("HUP");
        manager.expect_reload(before);
        daemon.wait_for_line(result);
        if !flags.is_empty() {
            directory.write("list", "nonsense");
            directory.write("conf", "nonsense");
            daemon.signal("HUP");
            manager.expect_reload(before);
            daemon.wait_for_line("whitelist: reload failed");
            daemon.wait_for_line("configuration: reload failed");
        }
        stop(daemon);
        manager.expect(&["STOPPING=1"]);
    }
}

#[test]
fn an_abstract_address_is_that_of_the_manager_too() {
    let name = format!("announced-test-{}", std::process::id());
    let manager = Manager::at(SocketAddr::from_abstract_name(&name), format!("@{name}"));
    let daemon = manager.start(&[]);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=0 torrents, 0 peers"]);
}

#[test]
fn the_manager_is_told_from_a_root_directory_by_another_user() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("notify-root");
    let root = Directory::new("notify-inside");
    let manager = Manager::new(&directory);
    let daemon = manager.start(&["-d", root.path()]);
    manager.expect_ready(&daemon);
    manager.receive();
    daemon.signal("HUP");
    manager.expect_reload(0);
    stop(daemon);
    manager.expect(&["STOPPING=1"]);
}

/// systemd accepts messages of the process that it started, and of the one that this names.
#[test]
fn in_the_background_the_manager_is_told_the_process_id_by_both_processes() {
    let directory = Directory::new("notify-daemon");
    let manager = Manager::new(&directory);
    let mut command = manager.command(&["--daemon"]);
    command.stderr(Stdio::null());
    assert!(command.status().expect("starts").success());
    let first = manager.receive();
    let id = first[1].strip_prefix("MAINPID=").map(str::parse);
    let Some(Ok(id)) = id else {
        panic!("{first:?}");
    };
    assert!(is_alive(id));
    let mut rest = [manager.receive(), manager.receive()];
    rest.sort();
    assert_eq!(rest, [first, vec!["STATUS=0 torrents, 0 peers".to_owned()]]);
    assert!(signal(id, "TERM"));
    manager.expect(&["STOPPING=1"]);
    wait_for("the end", || (!is_alive(id)).then_some(()));
}

#[test]
fn a_manager_that_is_not_there_is_logged_and_does_no_harm() {
    for (address, why) in [
        ("/nowhere/at/all", "No such file or directory"),
        ("nonsense", "No such file or directory"),
    ] {
        let mut command = Command::new(program());
        command.args(LISTEN).env("NOTIFY_SOCKET", address);
        let daemon = Daemon::spawn(command);
        daemon.wait_for_line(&format!("NOTIFY_SOCKET '{address}': {why}"));
        Client::new(daemon.udp4()).announce(&Announce::default());
    }
}

/// Its queue takes ten messages or so. The others are sent when there is room.
#[test]
fn a_manager_that_does_not_read_stops_nothing_and_is_told_the_end_of_a_reload_later() {
    let directory = Directory::new("notify-full");
    let manager = Manager::new(&directory);
    let daemon = manager.start(&[]);
    let reloads = 40;
    for count in 1..=reloads {
        daemon.signal("HUP");
        let is_done = || (daemon.count_lines("SIGHUP: ignored") == count).then_some(());
        wait_for("the reload", is_done);
    }
    Client::new(daemon.udp4()).announce(&Announce::default());
    manager.expect_ready(&daemon);
    let mut messages = vec![vec![]];
    manager
        .socket
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("an option");
    let mut buffer = [0; 1000];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        messages.push(buffer[..length].to_vec());
    }
    assert!(
        messages.len() < 2 * reloads,
        "some were dropped: {}",
        messages.len()
    );
    assert_eq!(messages.last().map(|m| &m[..]), Some(&b"READY=1"[..]));
    stop(daemon);
}

#[test]
fn the_watchdog_is_answered_while_every_thread_has_turns() {
    let directory = Directory::new("watchdog");
    let manager = Manager::new(&directory);
    for (threads, name) in [
        ("1", "announced"),
        ("2", "announced"),
        ("2", "announced-0"),
        ("2", "announced-1"),
    ] {
        let mut command = manager.command(&["-j", threads]);
        // An answer each 10 ms.
        command.env("WATCHDOG_USEC", "40000");
        let daemon = Daemon::spawn(command);
        manager.expect_ready(&daemon);
        let expect_answers = || {
            for _ in 0..10 {
                // The first is behind a status.
                while manager.receive() != ["WATCHDOG=1"] {}
            }
        };
        expect_answers();
        let hung = match sys::Hung::new(thread(&daemon, name)) {
            Ok(hung) => hung,
            Err(error) => return skip(&format!("ptrace: {error}")),
        };
        // Some answers were under way, and the thread may have had one more turn.
        let sent = (0..50).take_while(|_| !manager.is_silent()).count();
        assert!(sent < 50, "{sent} answers while {name} of {threads} hangs");
        assert!(manager.is_silent());
        drop(hung);
        expect_answers();
        stop(daemon);
        while manager.receive() != ["STOPPING=1"] {}
    }
}

#[test]
fn the_watchdog_of_another_process_is_not_answered() {
    let directory = Directory::new("watchdog-other");
    let manager = Manager::new(&directory);
    for (usec, id) in [("40000", "1"), ("0", ""), ("x", "")] {
        let mut command = manager.command(&[]);
        command.env("WATCHDOG_USEC", usec);
        if !id.is_empty() {
            command.env("WATCHDOG_PID", id);
        }
        let daemon = Daemon::spawn(command);
        manager.expect_ready(&daemon);
        manager.receive();
        assert!(manager.is_silent(), "{usec} {id}");
        stop(daemon);
        manager.expect(&["STOPPING=1"]);
    }
}
