//! Signals, and the end of the daemon.

mod common;

use common::http::Client;
use common::{Daemon, Directory, udp, wait_for};
use std::fs;
use std::net::TcpStream;

#[test]
fn term_and_int_stop_the_daemon_without_waiting_for_clients() {
    for name in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&[]);
        let (udp, tcp) = (daemon.udp4(), daemon.tcp4());
        udp::Client::new(udp).announce(&udp::Announce::default());
        let _idle = TcpStream::connect(tcp).expect("connects");
        daemon.signal(name);
        // Within less time than it takes an idle client to time out.
        let (status, log) = daemon.wait();
        assert_eq!(status.code(), Some(0), "{name}: {log:?}");
        assert_eq!(log.last().map(String::as_str), Some("announced: stopped"));
        assert!(TcpStream::connect(tcp).is_err(), "the listener is closed");
    }
}

/// Whether all threads of a process are stopped.
#[cfg(target_os = "linux")]
fn is_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("is running");
    let mut threads = threads.map(|thread| thread.expect("an entry").path().join("stat"));
    threads.all(|stat| fs::read_to_string(stat).expect("a line").contains(") T "))
}

/// The daemon does not run between the requests and the signal, so it finds both at once.
#[cfg(target_os = "linux")]
#[test]
fn requests_that_came_before_the_signal_are_answered() {
    const REQUEST: &str = "GET /a?info_hash=AAAAAAAAAAAAAAAAAAAA&port=1 HTTP/1.1\r\n\r\n";
    let directory = Directory::new("signals");
    let state = directory.file("state");
    for threads in ["1", "2"] {
        let flags = ["-j", threads, "--state", &state, "--state-interval", "0"];
        let mut daemon = Daemon::start(&flags);
        let mut accepted = Client::new(daemon.tcp4());
        let mut kept = Client::new(daemon.tcp4());
        kept.send(REQUEST);
        assert_eq!(kept.receive().status, 200);
        let mut idle = Client::new(daemon.tcp4());
        idle.send(REQUEST);
        assert_eq!(idle.receive().status, 200);
        daemon.signal("STOP");
        wait_for("the daemon to stand still", || {
            is_stopped(daemon.id()).then_some(())
        });
        let mut queued = Client::new(daemon.tcp4());
        let clients = [&mut accepted, &mut kept, &mut queued];
        let ports = [11, 12, 13];
        let clients = std::iter::zip(clients, ports).map(|(client, port)| {
            client.send(REQUEST.replace("port=1 ", &format!("port={port} ")));
            client
        });
        let clients: Vec<&mut Client> = clients.collect();
        daemon.signal("TERM");
        daemon.signal("CONT");
        for client in clients {
            let response = client.receive();
            assert_eq!(response.status, 200, "{threads}");
            // With two threads one may answer before the other one has woken it.
            let is_last = response.header("Connection") == Some("close");
            assert!(is_last || threads == "2", "{}", response.head);
            assert_eq!(client.read_to_end(), b"");
        }
        assert_eq!(idle.read_to_end(), b"");
        let (status, log) = daemon.wait();
        assert_eq!(status.code(), Some(0));
        // The peer of kept and idle, and those of the last three.
        let is_saved = |line: &String| line.contains("state: saved: 1 torrent, 4 peers;");
        assert!(log.iter().any(is_saved), "{log:?}");
        fs::remove_file(&state).expect("is there");
    }
}

/// On a busy machine the client may take longer to read them than the daemon waits, but not five times.
#[test]
fn replies_in_progress_are_sent_before_the_end() {
    assert!((0..5).any(|_| last_reply_is_whole()));
}

fn last_reply_is_whole() -> bool {
    let mut daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    let hash = "A".repeat(20);
    // Replies of some megabytes, more than the buffers of the sockets hold, and none is read yet.
    let request = format!("GET /a?info_hash={hash}&port=1 HTTP/1.1\r\n\r\n").repeat(100);
    let mut sent = 0;
    client.stream().set_nonblocking(true).expect("an option");
    let mut stream = client.stream();
    while std::io::Write::write(&mut stream, request.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent > 0);
    client.stream().set_nonblocking(false).expect("an option");
    assert_eq!(client.receive().status, 200);
    daemon.signal("TERM");
    let is_whole = client.ends_with(b"5:peers0:e");
    assert_eq!(daemon.wait().0.code(), Some(0));
    is_whole
}

#[test]
fn hup_without_a_list_and_pipe_are_ignored() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal("PIPE");
    daemon.signal("HUP");
    daemon.wait_for_line("SIGHUP: ignored: nothing to reload");
    assert!(daemon.is_running());
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
}

#[test]
fn clients_that_close_with_unread_replies_do_no_harm() {
    let mut daemon = Daemon::start(&[]);
    for _ in 0..50 {
        let mut client = Client::new(daemon.tcp4());
        client.send("GET /a?port=1 HTTP/1.1\r\n\r\n".repeat(50));
        // Closed with replies unread: the daemon's next write fails.
        drop(client);
    }
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    assert!(daemon.is_running());
}
