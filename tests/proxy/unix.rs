//! Unix sockets: what comes over them, and their files.

use super::common::http::Client;
use super::common::{Daemon, run, skip, wait_for};
use super::{Directory, announced_as, external_ip, request, some, unix_flag, with_headers};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

fn start(path: &Path, flags: &[&str]) -> Daemon {
    let port = unix_flag(path);
    let flags = [&["-p", port.as_str()], flags].concat();
    Daemon::start_with(&flags)
}

#[test]
fn connections_are_from_a_proxy() {
    let directory = Directory::new();
    let path = directory.join("http");
    let daemon = start(&path, &[]);
    let line = format!("announced: listening on unix {}", path.display());
    assert!(daemon.log().contains(&line), "{:?}", daemon.log());
    let mut client = Client::new_unix(&path);
    assert_eq!(announced_as(&mut client, &[]), None);
    let headers = ["X-Forwarded-For: 6.6.6.6, 192.0.2.1"];
    assert_eq!(announced_as(&mut client, &headers), some("192.0.2.1"));
    let headers = ["Forwarded: for=\"[2001:db8::1]\""];
    assert_eq!(announced_as(&mut client, &headers), some("2001:db8::1"));
    assert_eq!(announced_as(&mut client, &["X-Forwarded-For: unix:"]), None);
    client.send(with_headers(
        "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa",
        &["Connection: close"],
    ));
    assert_eq!(client.receive().status, 200);
    assert_eq!(client.read_to_end(), b"");
    // Many at once, each with its request in pieces.
    let mut clients: Vec<Client> = (0..100).map(|_| Client::new_unix(&path)).collect();
    let text = request(7, &["X-Forwarded-For: 192.0.2.7"]);
    let (front, back) = text.split_at(40);
    for client in &mut clients {
        client.send(front);
    }
    for client in &mut clients {
        client.send(back);
        assert_eq!(external_ip(&client.receive()).to_string(), "192.0.2.7");
    }
}

#[test]
fn several_listeners_share_one_table() {
    let directory = Directory::new();
    let paths = [directory.join("a"), directory.join("b")];
    let ports = paths.each_ref().map(|path| unix_flag(path));
    let daemon = Daemon::start(&["-p", &ports[0], "--tcp-port", &ports[1]]);
    let mut client = Client::new(daemon.tcp4());
    client.request(request(1, &[]));
    for (path, port) in paths.iter().zip([2, 3]) {
        let mut client = Client::new_unix(path);
        let response = client.request(request(port, &["X-Forwarded-For: 192.0.2.1"]));
        assert_eq!(response.peers().len(), usize::from(port) - 1);
    }
}

#[test]
fn they_begin_with_a_proxy_header_if_proxies_do() {
    let directory = Directory::new();
    let path = directory.join("http");
    let _daemon = start(&path, &["--proxy-protocol"]);
    let mut client = Client::new_unix(&path);
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 4711 6969\r\n");
    assert_eq!(
        announced_as(&mut client, &["X-Forwarded-For: 6.6.6.6"]),
        some("192.0.2.7")
    );
    let mut client = Client::new_unix(&path);
    client.send("PROXY UNKNOWN\r\n");
    assert_eq!(
        announced_as(&mut client, &["X-Forwarded-For: 6.6.6.6"]),
        None
    );
    let mut client = Client::new_unix(&path);
    client.send("nonsense");
    assert_eq!(client.read_to_end(), b"");
}

#[test]
fn anybody_may_connect_and_the_file_goes_in_the_end() {
    let directory = Directory::new();
    let path = directory.join("http");
    let mut daemon = start(&path, &[]);
    let metadata = std::fs::metadata(&path).expect("is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    assert!(!path.exists());
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_ours() {
    let directory = Directory::new();
    let path = directory.join("http");
    let mut daemon = start(&path, &[]);
    std::fs::rename(&path, directory.join("ours")).expect("can be moved");
    std::fs::write(&path, "another's").expect("can be written");
    daemon.signal("TERM");
    daemon.wait();
    assert_eq!(
        std::fs::read_to_string(&path).expect("is there"),
        "another's"
    );
}

#[test]
fn what_a_crash_left_behind_is_replaced() {
    let directory = Directory::new();
    let path = directory.join("http");
    let mut daemon = start(&path, &[]);
    daemon.signal("KILL");
    daemon.wait();
    assert!(path.exists());
    let _daemon = start(&path, &[]);
    let mut client = Client::new_unix(&path);
    assert_eq!(
        announced_as(&mut client, &["X-Forwarded-For: 192.0.2.1"]),
        some("192.0.2.1")
    );
}

#[test]
fn what_is_in_use_or_no_socket_is_left_alone() {
    let directory = Directory::new();
    let refused = |path: &Path, why: &str| {
        let (code, _, err) = run(&["-p", &unix_flag(path)]);
        assert_eq!(code, Some(1), "{err}");
        let start = format!("announced: cannot listen on unix {}: ", path.display());
        assert!(err.starts_with(&start) && err.contains(why), "{err}");
    };
    let path = directory.join("live");
    let _daemon = start(&path, &[]);
    refused(&path, "in use");
    let mut client = Client::new_unix(&path);
    assert_eq!(announced_as(&mut client, &[]), None, "it still listens");
    // And by somebody who never accepts.
    let path = directory.join("full");
    let _listener = UnixListener::bind(&path).expect("a socket");
    refused(&path, "in use");
    let path = directory.join("file");
    std::fs::write(&path, "precious").expect("can be written");
    refused(&path, "in use");
    assert_eq!(
        std::fs::read_to_string(&path).expect("is there"),
        "precious"
    );
    let link = directory.join("link");
    std::os::unix::fs::symlink(&path, &link).expect("can be made");
    refused(&link, "in use");
    refused(&directory.0, "in use");
    refused(&directory.join("nowhere/http"), "No such file");
    refused(&directory.join("file/http"), "Not a directory");
}

#[test]
fn check_shows_it_and_makes_nothing() {
    let directory = Directory::new();
    let path = directory.join("http");
    let flag = unix_flag(&path);
    let (code, out, _) = run(&[
        "-n",
        "-p",
        &flag,
        "--proxy",
        "10.0.0.0/8",
        "--proxy-protocol",
    ]);
    assert_eq!(code, Some(0));
    for line in [
        format!("listen on unix {}", path.display()),
        "believe proxies from 10.0.0.0/8 about their clients".into(),
        "expect a PROXY header on connections from proxies".into(),
    ] {
        assert!(out.lines().any(|l| l == line), "{out}");
    }
    assert!(!path.exists());
}

#[test]
fn after_a_chroot_the_file_is_found_within_the_root_or_left() {
    let id = std::process::Command::new("id").arg("-u").output();
    if !id.is_ok_and(|output| output.stdout == b"0\n") {
        return skip("root alone may change its root directory");
    }
    let (root, outside) = (Directory::new(), Directory::new());
    let paths = [root.join("http"), outside.join("http")];
    let ports = paths.each_ref().map(|path| unix_flag(path));
    let root_flag = root.0.to_str().expect("is UTF-8");
    let flags = ["-p", &ports[0], "-p", &ports[1], "-d", root_flag];
    let mut daemon = Daemon::start_with(&flags);
    for path in &paths {
        let mut client = Client::new_unix(path);
        let headers = ["X-Forwarded-For: 192.0.2.1"];
        assert_eq!(announced_as(&mut client, &headers), some("192.0.2.1"));
    }
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    assert!(!paths[0].exists() && paths[1].exists());
    // Nobody is told "in use" by what is left.
    let _daemon = Daemon::start_with(&flags);
    wait_for("the socket", || paths[1].exists().then_some(()));
}
