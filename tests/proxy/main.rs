//! Clients behind proxies: headers, the PROXY protocol, Unix sockets, and real proxies in front.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod headers;
#[cfg(target_os = "linux")]
mod pasted;
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

/// Headers of a client that claims to be another.
const SPOOFED: &str = "X-Forwarded-For: 6.6.6.6\nForwarded: for=7.7.7.7";

/// A request for an announce from this port, with these header lines.
fn request(port: u16, headers: &str) -> String {
    with_headers(&format!("/announce?info_hash={HASH}&port={port}"), headers)
}

fn with_headers(target: &str, headers: &str) -> String {
    let lines = headers.lines().map(|line| format!("{line}\r\n"));
    let headers: String = lines.collect();
    format!("GET {target} HTTP/1.1\r\nHost: tracker\r\n{headers}\r\n")
}

/// The client of an announce, as the daemon knows it. If it was refused as unknown, `400`; with an address, if that is
/// one of a proxy.
fn external_ip(response: &Response) -> String {
    if response.status == 400 {
        let text = response.text();
        let proxy = text.strip_prefix("400 Bad Request: the client that a proxy names, ");
        let proxy = proxy.and_then(|text| text.strip_suffix(", is itself in a --proxy network\n"));
        let unnamed = "400 Bad Request: this came from a proxy that does not name its client\n";
        assert!(proxy.is_some() || text == unnamed, "{text}");
        return proxy.map_or("400".to_owned(), |proxy| format!("400 {proxy}"));
    }
    let ip = match *response.bencoded().string("external ip") {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("4 or 16 bytes")),
    };
    ip.to_string()
}

/// The same of an announce with these header lines.
fn announced_as(client: &mut Client, headers: &str) -> String {
    external_ip(&client.request(request(6881, headers)))
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
