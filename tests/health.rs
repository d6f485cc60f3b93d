//! `--health`: what it prints and how it ends.

mod common;

use common::{Daemon, Directory, free_address, run};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

type Outcome = (Option<i32>, String, String);

fn printed(code: i32, text: &str) -> Outcome {
    (Some(code), text.into(), String::new())
}

/// The outcome of `--health` against a server that reads a request and sends this reply.
fn against(reply: &'static str) -> (Outcome, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("is bound").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).expect("a request");
        assert!(request[..length].starts_with(b"GET /health HTTP/1.0\r\n"));
        stream.write_all(reply.as_bytes()).expect("is sent");
    });
    let outcome = run(&["--health", &address]);
    server.join().expect("no panic");
    (outcome, address)
}

#[test]
fn a_tracker_in_service_exits_0() {
    let directory = Directory::new("health-ok");
    let socket = format!("unix:{}", directory.file("http"));
    let daemon = Daemon::start(&["-p", &socket, "--proxy", "127.0.0.1"]);
    for target in [daemon.tcp4().to_string(), daemon.tcp6().to_string(), socket] {
        assert_eq!(run(&["--health", &target]), printed(0, "ok\n"), "{target}");
    }
    let (outcome, _) = against("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nalone\n");
    assert_eq!(outcome, printed(0, "alone\n"));
}

#[test]
fn a_node_that_is_syncing_exits_1() {
    let (outcome, _) = against("HTTP/1.1 503 Service Unavailable\r\n\r\nsyncing\n");
    assert_eq!(outcome, printed(1, "syncing\n"));
}

#[test]
fn without_an_address_the_first_tcp_listener_of_the_configuration_is_asked() {
    let directory = Directory::new("health-config");
    let (first, second) = (free_address(), free_address());
    let text = format!("listen.udp 127.0.0.1\nlisten.tcp {first}\nlisten.tcp {second}\n");
    let config = directory.write("config", text);
    let (code, out, err) = run(&["-f", &config, "--health"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let start = format!("announced: --health '{first}': Connection refused");
    assert!(err.starts_with(&start), "{err}");

    let port = first.port().to_string();
    let _daemon = Daemon::start_with(&["-i", &first.ip().to_string(), "-p", &port]);
    assert_eq!(run(&["-f", &config, "--health"]), printed(0, "ok\n"));
    assert_eq!(run(&["--health", "-f", &config]), printed(0, "ok\n"));
}

#[test]
fn errors_say_why_and_exit_1_or_2() {
    let error = |code: i32, flags: &[&str]| {
        let (got, out, err) = run(flags);
        assert_eq!((got, out.as_str()), (Some(code), ""), "{err}");
        err.trim_end().to_owned()
    };
    assert_eq!(
        error(2, &["-P", "6969", "--health"]),
        "announced: --health requires an address: no -p/--tcp-port is a TCP port"
    );
    let directory = Directory::new("health-errors");
    let missing = format!("unix:{}", directory.file("nothing"));
    assert!(error(1, &["--health", &missing]).contains(": No such file"));
    let relayed = format!("unix:{}", directory.file("relayed"));
    let _daemon = Daemon::start(&["-p", &relayed, "--proxy-protocol"]);
    assert!(error(1, &["--health", &relayed]).ends_with("a PROXY header (--proxy-protocol)"));

    let ((code, out, err), address) = against("220 mail.example ESMTP\r\n");
    let message = format!("announced: --health '{address}': the server does not speak HTTP\n");
    assert_eq!((code, out.as_str(), err), (Some(1), "", message));
}
