//! What `--cluster-status` does: asks a running tracker, over HTTP like anybody else, for the table of
//! [`stats::cluster`](crate::stats::cluster), and says by the exit status whether all is well.
//!
//! This is no part of the daemon: it may block, and it holds all that it is sent.

use crate::options::{Inquiry, Target};
use crate::stats::cluster::{NONE, WELL};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For each step: to connect to an address, to be sent the next bytes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reply has some hundred bytes a node; what is longer is something else.
const MOST: u64 = 1 << 20;

const CLOSED: &str = "the connection was closed without a reply, as it is where a PROXY header is expected, see \
     --proxy-protocol";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    /// A node is down, or has other peers, or has not been compared with yet.
    Amiss,
}

/// The report, and what it says in a word; or why there is none.
pub fn ask(inquiry: &Inquiry) -> Result<(String, Health), String> {
    // Where only proxies come, a client is to be named: this host is one. Elsewhere that counts for nothing.
    let request = format!(
        "GET {}?mode=cluster HTTP/1.0\r\nHost: localhost\r\nX-Forwarded-For: ::1\r\n\r\n",
        inquiry.stats_path
    );
    let reply = match &inquiry.target {
        Target::Tcp(address) => connect(address).and_then(|stream| exchange(stream, &request)),
        Target::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, &request)
        }),
    };
    let reply = reply.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => String::from("no answer in time"),
        // A request that was not read makes a close a reset.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CLOSED.into(),
        _ => error.to_string(),
    })?;
    judge(&reply, &inquiry.stats_path)
}

/// To the first of a name's addresses that accepts.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in address.to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, PATIENCE);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(MOST).read_to_end(&mut reply)?;
    Ok(reply)
}

fn judge(reply: &[u8], stats_path: &str) -> Result<(String, Health), String> {
    let text = String::from_utf8_lossy(reply);
    if text.is_empty() {
        return Err(CLOSED.into());
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match status {
        Some("200") if body == NONE => Err("that tracker is in no cluster".into()),
        // It goes to a terminal.
        Some("200") if body.starts_with("cluster ") => {
            let plain = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
            let health = match body.starts_with(WELL) {
                true => Health::Well,
                false => Health::Amiss,
            };
            Ok((body.chars().map(plain).collect(), health))
        }
        Some("403") => Err("403 Forbidden: only admins are told, see -A/--admin there".into()),
        Some("404") => Err(format!(
            "404 Not Found: its statistics are not at {stats_path}, see --stats-path"
        )),
        Some(status) => Err(format!("no report on a cluster, but status {status}")),
        None => Err("what answers there does not speak HTTP".into()),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "'{address}'"),
            Target::Unix(path) => write!(f, "'unix:{}'", path.as_os_str().to_string_lossy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: &str, body: &str) -> Result<(String, Health), String> {
        let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{body}");
        judge(reply.as_bytes(), "/stats")
    }

    #[test]
    fn the_first_line_tells_how_it_is() {
        for (body, health) in [
            ("cluster ok: 2 of 2 nodes up and agreeing\n", Health::Well),
            ("cluster incomplete: 1 of 2 nodes down\n", Health::Amiss),
        ] {
            assert_eq!(judged("200 OK", body), Ok((body.into(), health)));
        }
        let escape = judged("200 OK", "cluster ok\u{1b}[2J\n");
        assert_eq!(escape, Ok(("cluster ok?[2J\n".into(), Health::Well)));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for (status, body, error) in [
            ("200 OK", NONE, "that tracker is in no cluster"),
            ("200 OK", "<html>", "no report on a cluster, but status 200"),
            (
                "400 Bad Request",
                "",
                "no report on a cluster, but status 400",
            ),
            (
                "403 Forbidden",
                "",
                "403 Forbidden: only admins are told, see -A/--admin there",
            ),
            (
                "404 Not Found",
                "",
                "404 Not Found: its statistics are not at /stats, see --stats-path",
            ),
        ] {
            assert_eq!(judged(status, body), Err(error.into()));
        }
        for nonsense in ["x", "HTTP/1.", "HTTP/1.1 2\u{20ac}", "SSH-2.0-x\r\n\r\n"] {
            assert!(judge(nonsense.as_bytes(), "/stats").is_err(), "{nonsense}");
        }
        assert!(judge(b"", "/stats").is_err());
    }
}
