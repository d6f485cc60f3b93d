//! Unix sockets, and their files.

use super::common::http::Client;
use super::common::{Daemon, is_root, run, wait_for};
use super::{announced_as, directory, request, unix_flag};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

fn start(path: &Path, flags: &[&str]) -> Daemon {
    let port = unix_flag(path);
    let flags = [&["-p", port.as_str()], flags].concat();
    Daemon::start_with(&flags)
}

const HEADER: &str = "X-Forwarded-For: 192.0.2.1";

fn is_served(path: &Path) -> bool {
    announced_as(&mut Client::new_unix(path), HEADER) == "192.0.2.1"
}

#[test]
fn connections_are_from_a_proxy() {
    let (_directory, path) = directory();
    let daemon = start(&path, &[]);
    let line = format!("announced: listening on unix {}", path.display());
    assert!(daemon.log().contains(&line), "{:?}", daemon.log());
    let mut client = Client::new_unix(&path);
    for (header, expected) in [
        ("X: y", "400"),
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("Forwarded: for=\"[2001:db8::1]\"", "2001:db8::1"),
        ("X-Forwarded-For: unix:", "400"),
    ] {
        assert_eq!(announced_as(&mut client, header), expected);
    }
    // Many at once, each with its request in pieces.
    let mut clients: Vec<Client> = (0..100).map(|_| Client::new_unix(&path)).collect();
    let text = request(7, &format!("Connection: close\n{HEADER}"));
    let (front, back) = text.split_at(40);
    clients.iter_mut().for_each(|client| client.send(front));
    for client in &mut clients {
        assert_eq!(client.request(back).status, 200);
        assert_eq!(client.read_to_end(), b"");
    }
}

#[test]
fn several_listeners_share_one_table() {
    let (one, other) = (directory(), directory());
    let paths = [&one.1, &other.1];
    let ports = paths.map(|path| unix_flag(path));
    let daemon = Daemon::start(&["-p", &ports[0], "--tcp-port", &ports[1]]);
    let mut client = Client::new(daemon.tcp4());
    client.request(request(7, ""));
    for (path, port) in paths.iter().zip([2, 3]) {
        let mut client = Client::new_unix(path);
        let response = client.request(request(port, "X-Forwarded-For: 127.0.0.2"));
        assert_eq!(response.peers().len(), usize::from(port) - 1);
    }
}

#[test]
fn connections_begin_with_a_proxy_header_if_those_of_proxies_do() {
    let (_directory, path) = directory();
    let _daemon = start(&path, &["--proxy-protocol"]);
    for (start, expected) in [
        ("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n", "192.0.2.7"),
        ("PROXY UNKNOWN\r\n", "400"),
    ] {
        let mut client = Client::new_unix(&path);
        client.send(start);
        assert_eq!(announced_as(&mut client, HEADER), expected);
    }
    let mut client = Client::new_unix(&path);
    client.send("nonsense");
    assert_eq!(client.read_to_end(), b"");
}

#[test]
fn every_user_may_connect_and_the_file_is_removed_at_the_end() {
    let (_directory, path) = directory();
    let mut daemon = start(&path, &[]);
    let metadata = std::fs::metadata(&path).expect("is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    assert!(!path.exists());
}

#[test]
fn file_that_was_replaced_is_not_removed() {
    let (directory, path) = directory();
    let mut daemon = start(&path, &[]);
    std::fs::rename(&path, directory.file("ours")).expect("can be moved");
    std::fs::write(&path, "another's").expect("can be written");
    daemon.signal("TERM");
    daemon.wait();
    let content = std::fs::read_to_string(&path);
    assert_eq!(content.expect("is there"), "another's");
}

#[test]
fn file_that_a_crash_left_is_replaced() {
    let (_directory, path) = directory();
    let mut daemon = start(&path, &[]);
    daemon.signal("KILL");
    daemon.wait();
    assert!(path.exists());
    let _daemon = start(&path, &[]);
    assert!(is_served(&path));
}

#[test]
fn socket_in_use_and_other_files_are_not_replaced() {
    let (directory, live) = directory();
    let _daemon = start(&live, &[]);
    // A process that never accepts.
    let full = directory.file("full");
    let _listener = UnixListener::bind(&full).expect("a socket");
    let file = directory.write("file", "precious");
    let link = directory.file("link");
    std::os::unix::fs::symlink(&file, &link).expect("can be made");
    for (name, why) in [
        ("http", "in use"),
        ("full", "in use"),
        ("file", "is not a socket"),
        ("link", "is not a socket"),
        (".", "is not a socket"),
        ("nowhere/http", "No such file"),
        ("file/http", "Not a directory"),
    ] {
        let path = directory.file(name);
        let (code, _, err) = run(&["-p", &format!("unix:{path}")]);
        assert_eq!(code, Some(1), "{err}");
        let start = format!("announced: cannot listen on unix {path}: ");
        assert!(err.starts_with(&start) && err.contains(why), "{err}");
    }
    assert!(is_served(&live));
    let content = std::fs::read_to_string(&file);
    assert_eq!(content.expect("is there"), "precious");
}

#[test]
fn configuration_check_makes_no_socket() {
    let (_directory, path) = directory();
    let (code, _, _) = run(&["-n", "-p", &unix_flag(&path), "--proxy-protocol"]);
    assert_eq!(code, Some(0));
    assert!(!path.exists());
}

#[test]
fn after_a_chroot_only_a_file_within_the_root_is_removed() {
    if !is_root() {
        return;
    }
    let (root, outside) = (directory(), directory());
    let paths = [&root.1, &outside.1];
    let ports = paths.map(|path| unix_flag(path));
    let flags = ["-p", &ports[0], "-p", &ports[1], "-d", root.0.path()];
    let mut daemon = Daemon::start_with(&flags);
    assert!(paths.iter().all(|path| is_served(path)));
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    assert!(!paths[0].exists() && paths[1].exists());
    // The file that is left is not in use.
    let _daemon = Daemon::start_with(&flags);
    wait_for("the socket", || paths[1].exists().then_some(()));
}
