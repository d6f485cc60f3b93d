//! The client of `--health`: asks a running tracker for `/health` over HTTP, as a load balancer does.
//!
//! It is no part of the daemon: it may block, and it holds the whole reply.

use crate::options::Target;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For each step: to connect to an address, to receive the next bytes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A longer reply is cut.
const MAX_REPLY_BYTES: u64 = 1 << 16;

/// Where only proxies connect, a proxy names the client. Elsewhere the tracker ignores it.
const REQUEST: &[u8] = b"GET /health HTTP/1.0\r\nHost: localhost\r\nX-Forwarded-For: ::1\r\n\r\n";

const CLOSED: &str = "the connection was closed without a reply: it may be a port of --cluster-listen, or one that \
     expects a PROXY header (--proxy-protocol)";

/// The text of the reply, and whether its status is 200.
pub fn ask(target: &Target) -> Result<(String, bool), String> {
    let reply = match target {
        Target::Tcp(address) => connect(address).and_then(exchange),
        Target::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream)
        }),
    };
    let reply = reply.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => String::from("no answer in time"),
        // The system resets a connection that is closed before the request was read.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CLOSED.into(),
        _ => error.to_string(),
    })?;
    judge(&reply)
}

/// Connects to the first of a name's addresses that accepts.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in address.to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn exchange(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(REQUEST)?;
    let mut reply = Vec::new();
    stream.take(MAX_REPLY_BYTES).read_to_end(&mut reply)?;
    Ok(reply)
}

fn judge(reply: &[u8]) -> Result<(String, bool), String> {
    let text = String::from_utf8_lossy(reply);
    if text.is_empty() {
        return Err(CLOSED.into());
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    // The text goes to a terminal.
    let plain = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    match head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)) {
        Some("200") => Ok((body.chars().map(plain).collect(), true)),
        Some("503") => Ok((body.chars().map(plain).collect(), false)),
        Some(status) if status.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("expected status 200 or 503 and got {status}"))
        }
        _ => Err("the server does not speak HTTP".into()),
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

    #[test]
    fn the_status_decides_and_the_text_is_made_safe_to_print() {
        for (reply, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nok\n", Ok(("ok\n", true))),
            (
                "HTTP/1.0 200 OK\r\n\r\nok\u{1b}[2J\n",
                Ok(("ok?[2J\n", true)),
            ),
            ("HTTP/1.1 503 No\r\n\r\nsyncing\n", Ok(("syncing\n", false))),
            (
                "HTTP/1.1 404 Not Found\r\n\r\nno\n",
                Err("expected status 200 or 503 and got 404"),
            ),
            ("SSH-2.0-x\r\n\r\n", Err("the server does not speak HTTP")),
            ("HTTP/1.", Err("the server does not speak HTTP")),
            ("HTTP/1.1 2\u{20ac}", Err("the server does not speak HTTP")),
            ("", Err(CLOSED)),
        ] {
            let expected = expected.map(|(text, is_ok)| (text.to_string(), is_ok));
            assert_eq!(
                judge(reply.as_bytes()),
                expected.map_err(String::from),
                "{reply}"
            );
        }
    }
}
