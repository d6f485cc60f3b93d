//! Faults of the host: the daemon logs each once, counts what is lost, and goes on.
//!
//! Descriptors, disks, interfaces and receive buffers run out for real. Other errors are injected into the daemon's
//! system calls by `common/faults.c`.

#![cfg(target_os = "linux")]

mod common;

use common::http::{get, metric};
use common::net::{Host, in_sandbox};
use common::udp::{Announce, Client, connect_request};
use common::{Daemon, Directory, program, sandbox, skip, wait_for};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// The calls that can fail, by their number in `faults.c`.
#[derive(Clone, Copy)]
enum Call {
    Accept,
    Receive,
    Send,
    Poll,
}

/// A daemon whose system calls fail on demand.
struct Faulty {
    daemon: Daemon,
    faults: File,
    _directory: Directory,
}

impl Faulty {
    fn start(name: &str, flags: &str) -> Faulty {
        let directory = Directory::new(&format!("faults-{name}"));
        let library = directory.file("faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/faults.c");
        let mut compiler = Command::new("cc");
        let compiled = compiler
            .args(["-shared", "-fPIC", "-O1", "-o", &library, source, "-ldl"])
            .status();
        assert!(
            compiled
                .expect("there is a compiler, as rustc links with it")
                .success()
        );
        let path = directory.write("faults", [0; 4096]);
        let mut command = Command::new(program());
        command.args("-i 127.0.0.1 -p 0 -P 0 --max-per-host 0".split(' '));
        command.args(flags.split_whitespace());
        command.env("LD_PRELOAD", library).env("FAULTS", &path);
        let daemon = Daemon::spawn(command);
        let mut options = File::options();
        let faults = options.read(true).write(true).open(path).expect("was made");
        Faulty {
            daemon,
            faults,
            _directory: directory,
        }
    }

    /// Makes the next calls fail, this many times.
    fn fail(&self, call: Call, error: i32, times: u32) {
        let fault = [error.to_ne_bytes(), times.to_ne_bytes()].concat();
        let written = self.faults.write_all_at(&fault, 8 * call as u64);
        written.expect("is ours");
    }

    /// How many times a call still fails.
    fn left(&self, call: Call) -> u32 {
        let mut left = [0; 4];
        let read = self.faults.read_exact_at(&mut left, 8 * call as u64 + 4);
        read.expect("is ours");
        u32::from_ne_bytes(left)
    }

    fn metric(&self, name: &str) -> u64 {
        self.daemon.wait_until_idle();
        metric(&get(self.daemon.tcp4(), "/metrics").text(), name)
    }

    /// Announces over UDP and HTTP, and gets replies.
    fn expect_to_serve(&self) {
        let reply = Client::new(self.daemon.udp4()).announce(&Announce::default());
        assert!(reply.leechers > 0);
        let path = format!("/announce?info_hash={}&port=6881&left=0", "a".repeat(20));
        assert_eq!(get(self.daemon.tcp4(), &path).status, 200);
    }
}

#[test]
fn a_connection_that_was_aborted_before_it_is_accepted_does_not_delay_the_next() {
    let it = Faulty::start("aborted", "");
    for error in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN] {
        it.fail(Call::Accept, error, 3);
        it.expect_to_serve();
        assert_eq!(it.left(Call::Accept), 0);
    }
    assert_eq!(it.daemon.count_lines("cannot accept"), 0);
}

#[test]
fn without_descriptors_or_memory_accepting_is_retried_and_logged_once_a_minute() {
    for error in [libc::ENFILE, libc::EMFILE, libc::ENOBUFS, libc::ENOMEM] {
        let it = Faulty::start("short", "");
        // Short of something, and again.
        for _ in 0..3 {
            it.fail(Call::Accept, error, 3);
            it.expect_to_serve();
            assert_eq!(it.left(Call::Accept), 0);
        }
        assert_eq!(it.daemon.count_lines("cannot accept connections: "), 1);
        assert_eq!(it.daemon.count_lines("accepting connections again"), 1);
    }
}

#[test]
fn interrupted_calls_are_repeated() {
    let it = Faulty::start("interrupted", "");
    for _ in 0..10 {
        it.fail(Call::Poll, libc::EINTR, 3);
        it.fail(Call::Receive, libc::EINTR, 5);
        it.fail(Call::Send, libc::EINTR, 5);
        it.fail(Call::Accept, libc::EINTR, 5);
        it.expect_to_serve();
    }
    for call in [Call::Poll, Call::Receive, Call::Send, Call::Accept] {
        wait_for("all failures", || (it.left(call) == 0).then_some(()));
    }
    assert_eq!(it.metric("udp_receive_errors_total"), 0);
    assert_eq!(it.daemon.count_lines("cannot"), 0);
}

/// The error of an earlier reply, such as one from ICMP, stands before the next datagram.
#[test]
fn datagrams_that_wait_behind_an_error_are_read_without_another_event() {
    let it = Faulty::start("behind", "");
    let client = Client::new(it.daemon.udp4());
    for error in [libc::ECONNREFUSED, libc::EHOSTUNREACH] {
        it.fail(Call::Receive, error, 2);
        // The poll reports them once.
        assert_eq!(client.exchange(&connect_request()).len(), 16);
        assert_eq!(it.left(Call::Receive), 0);
    }
    assert_eq!(it.metric("udp_receive_errors_total"), 4);
}

#[test]
fn datagrams_wait_while_the_system_cannot_receive_and_it_is_logged_once() {
    let it = Faulty::start("receive", "");
    let client = Client::new(it.daemon.udp4());
    for error in [libc::ENOMEM, libc::ENOBUFS] {
        // In several turns.
        it.fail(Call::Receive, error, 9);
        assert_eq!(client.exchange(&connect_request()).len(), 16);
        assert_eq!(it.left(Call::Receive), 0);
    }
    assert_eq!(it.metric("udp_receive_errors_total"), 18);
    assert_eq!(it.daemon.count_lines("udp: cannot receive: "), 1);
}

#[test]
fn replies_for_which_the_system_has_no_memory_are_counted_and_logged_once() {
    let it = Faulty::start("send", "");
    let client = Client::new(it.daemon.udp4());
    let dropped = "dropped_replies_total{reason=\"no_room\"}";
    for (count, error) in [(1, libc::ENOMEM), (2, libc::ENOBUFS)] {
        it.fail(Call::Send, error, 1);
        client.send(&connect_request());
        wait_for("a drop", || (it.metric(dropped) == count).then_some(()));
        it.expect_to_serve();
    }
    assert_eq!(it.daemon.count_lines("udp: cannot send: "), 1);
}

#[test]
fn a_node_accepts_others_once_the_system_has_descriptors_again() {
    if !cfg!(feature = "cluster") {
        return;
    }
    let directory = Directory::new("faults-key");
    let key = directory.file("key");
    assert_eq!(common::run(&["--make-key", &key]).0, Some(0));
    let cluster = format!("--cluster-listen 127.0.0.1:0 --cluster-key {key} -A 127.0.0.1");
    let it = Faulty::start("cluster", &cluster);
    it.fail(Call::Accept, libc::ENFILE, 30);
    let peer = format!("--cluster-peer {}", it.daemon.cluster());
    let flags = [&cluster, " ", &peer].map(String::from).concat();
    let other = Daemon::start(&flags.split(' ').collect::<Vec<_>>());
    other.wait_for_line("link up");
    assert_eq!(it.left(Call::Accept), 0);
    assert_eq!(
        it.daemon
            .count_lines("cluster: cannot accept connections: "),
        1
    );
}

#[test]
fn datagrams_that_the_receive_buffer_has_no_room_for_are_counted_and_logged_once() {
    let daemon = Daemon::start(&[]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let dropped = || {
        metric(
            &get(daemon.tcp4(), "/metrics").text(),
            "udp_receive_queue_drops_total",
        )
    };
    assert_eq!(dropped(), 0);
    for _ in 0..2 {
        let before = dropped();
        daemon.signal("STOP");
        // Each takes some of the buffer's 16 MiB beside its bytes.
        for _ in 0..40_000 {
            socket.send_to(&[0; 1000], daemon.udp4()).expect("is sent");
        }
        daemon.signal("CONT");
        wait_for("a count", || (dropped() > before).then_some(()));
        // A daemon that is not root has a smaller buffer.
        assert!(dropped() - before < 40_000);
    }
    assert_eq!(daemon.count_lines("udp: the receive buffer overran: "), 1);
    Client::new(daemon.udp4());
}

/// Saves every second to a small file system of its own, on which `fault` has an effect, and `repair` another.
fn save_through(test: &str, why: &str, fault: impl Fn(&str), repair: impl Fn(&str)) {
    let Some(directory) = sandbox::inside() else {
        return match sandbox::missing() {
            Some(what) => skip(&format!("{test}: {what}")),
            None => sandbox::run_inside(test),
        };
    };
    run("ip", &["link", "set", "lo", "up"]);
    let disk = directory.join("disk");
    let disk = disk.to_str().expect("is UTF-8");
    std::fs::create_dir(disk).expect("is ours");
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=256k,mode=777", "disk", disk],
    );
    let state = format!("{disk}/state");
    let daemon = Daemon::start_with(&[
        "-i",
        "127.0.0.1",
        "--state",
        &state,
        "--state-interval",
        "1",
    ]);
    let client = Client::new(daemon.udp4());
    for port in 1..200 {
        client.announce(&Announce::leecher(port).of([port as u8; 20]));
    }
    daemon.wait_for_line("state: saved: 199 torrents");
    fault(disk);
    daemon.wait_for_line(&format!("state: save failed: '{state}': {why}"));
    let ended = || {
        metric(
            &get(daemon.tcp4(), "/metrics").text(),
            "state_save_time_seconds",
        )
    };
    let first = ended();
    wait_for("another failure", || (ended() > first + 1).then_some(()));
    let text = get(daemon.tcp4(), "/metrics").text();
    assert_eq!(metric(&text, "state_save_success"), 0);
    assert_eq!(daemon.count_lines("save failed"), 1);
    client.announce(&Announce::default());
    let saved = daemon.count_lines("state: saved: ");
    repair(disk);
    wait_for("a save", || {
        (daemon.count_lines("state: saved: ") > saved).then_some(())
    });
}

fn run(program: &str, arguments: &[&str]) {
    sandbox::run(program, arguments, Path::new("/"));
}

#[test]
fn a_full_disk_is_logged_once_and_the_state_is_saved_when_there_is_room() {
    let test = "a_full_disk_is_logged_once_and_the_state_is_saved_when_there_is_room";
    let fill = |disk: &str| {
        // As far as it goes.
        let _ = std::fs::write(format!("{disk}/filler"), vec![1; 1 << 20]);
    };
    let empty = |disk: &str| std::fs::remove_file(format!("{disk}/filler")).expect("was made");
    save_through(test, "No space left on device", fill, empty);
}

#[test]
fn a_read_only_directory_is_logged_once_and_the_state_is_saved_when_it_is_writable() {
    let test = "a_read_only_directory_is_logged_once_and_the_state_is_saved_when_it_is_writable";
    // Another file system in its place: the lock of the state is open, so the first cannot become read-only.
    let cover = |disk: &str| run("mount", &["-t", "tmpfs", "-o", "ro", "cover", disk]);
    let uncover = |disk: &str| run("umount", &["-l", disk]);
    save_through(test, "Read-only file system", cover, uncover);
}

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);

#[test]
fn clients_and_multicast_are_served_again_when_a_vanished_interface_has_returned() {
    if !cfg!(feature = "cluster") {
        return;
    }
    let test = "clients_and_multicast_are_served_again_when_a_vanished_interface_has_returned";
    in_sandbox(test, |lan| {
        let [tracker, other] = [lan.host(), lan.host()];
        let flags = format!(
            "-i {} -p 0 -P 0 -i {0} -s 9696 --sync-node 10.77.0.0/16 -A 10.77.0.0/16",
            tracker.v4()
        );
        let daemon = tracker.start(&flags.split(' ').collect::<Vec<_>>());
        let records = || {
            metric(
                &other.get(daemon.tcp4(), "/metrics").text(),
                "multicast_received_records_total",
            )
        };
        for round in 1..=3 {
            other.client(daemon.udp4()).announce(&Announce::default());
            let before = records();
            wait_for("a record", || {
                send_record(&other);
                (records() > before).then_some(())
            });
            assert_eq!(
                daemon.count_lines("multicast: joined the group again"),
                round - 1
            );
            tracker.remove_interface();
            wait_for("a line", || {
                (daemon.count_lines("multicast: cannot join the group: ") == round).then_some(())
            });
            tracker.add_interface();
            wait_for("the membership", || {
                (daemon.count_lines("multicast: joined the group again") == round).then_some(())
            });
        }
    });
}

/// Sends a packet of opentracker's live sync with one peer.
fn send_record(host: &Host) {
    let socket = host.within(|| UdpSocket::bind((host.v4(), 0)).expect("a port"));
    let packet = [
        &[1, 2, 3, 4, 0, 0, 0, 0][..],
        &[0xaa; 20],
        &[10, 77, 0, 9, 4, 0, 0, 0],
    ]
    .concat();
    socket
        .send_to(&packet, SocketAddr::from((GROUP, 9696)))
        .expect("is sent");
}
