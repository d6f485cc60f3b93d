//! Behind proxies: who is believed, what is read, and real ones in front.

#[path = "../common/mod.rs"]
mod common;

mod headers;
mod protocol;
mod real;
mod smuggling;
mod unix;

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

/// Whom an announce was taken to be from.
fn external_ip(response: &Response) -> IpAddr {
    match *response.bencoded().string("external ip") {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("4 or 16 bytes")),
    }
}

/// The same of an announce with these header lines; none if it was refused for want of a client.
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

fn some(address: &str) -> Option<String> {
    Some(address.into())
}

/// A directory that anybody may write to and that goes with its handle.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("announced-proxy-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("can be made");
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, everybody).expect("is ours");
        Directory(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The value of `-p` for a Unix socket.
fn unix_flag(path: &Path) -> String {
    format!("unix:{}", path.to_str().expect("is UTF-8"))
}
