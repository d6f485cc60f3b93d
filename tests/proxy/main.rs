//! Clients behind proxies: headers, the PROXY protocol, Unix sockets, and real proxies in front.

#[path = "../common/mod.rs"]
mod common;

mod headers;
mod protocol;
mod real;
mod smuggling;
mod unix;

use common::Directory;
use common::http::{Client, Response};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const HASH: &str = "%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA";

/// A request for an announce from this port, with these header lines.
fn request(port: u16, headers: &[&str]) -> String {
    with_headers(&format!("/announce?info_hash={HASH}&port={port}"), headers)
}

fn with_headers(target: &str, headers: &[&str]) -> String {
    let mut text = format!("GET {target} HTTP/1.1\r\nHost: tracker\r\n");
    for line in headers {
        text += &format!("{line}\r\n");
    }
    text + "\r\n"
}

/// The client of an announce, as the daemon knows it.
fn external_ip(response: &Response) -> IpAddr {
    match *response.bencoded().string("external ip") {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("4 or 16 bytes")),
    }
}

/// The client of an announce with these header lines; none if it was refused as unknown.
fn announced_as(client: &mut Client, headers: &[&str]) -> Option<String> {
    let response = client.request(request(6881, headers));
    if response.status == 400 {
        assert_eq!(
            response.text(),
            "400 Bad Request: this came from a proxy that does not name its client\n"
        );
        return None;
    }
    Some(external_ip(&response).to_string())
}

/// A directory that every user may write to, and the path of a socket in it.
fn directory() -> (Directory, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = Directory::new(&format!("proxy-{count}"));
    let every_user = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), every_user).expect("is ours");
    let socket = directory.file("http").into();
    (directory, socket)
}

/// The value of `-p` for a Unix socket.
fn unix_flag(path: &Path) -> String {
    format!("unix:{}", path.to_str().expect("is UTF-8"))
}
