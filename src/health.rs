//! The client of `--health`: it requests `/health` of a running tracker over HTTP, as a load balancer does.
//!
//! It runs outside the daemon, so it may block and may hold the whole reply.

use crate::base::text::reason;
use crate::options::{PeerName, Target};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For each step: connecting to an address, receiving the next bytes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A longer reply is truncated.
const MAX_REPLY_BYTES: u64 = 1 << 16;

/// Where only proxies connect, a proxy names the client. Elsewhere the tracker ignores it.
const REQUEST: &[u8] = b"GET /health HTTP/1.0\r\nHost: localhost\r\nX-Forwarded-For: ::1\r\n\r\n";

const CLOSED: &str = "the connection was closed without a reply: it may be a port of --cluster-listen, or one that \
     expects a PROXY header (--proxy-protocol)";

/// The text of the reply, and whether its status is 200.
pub fn ask(target: &Target) -> Result<(String, bool), String> {
    let stream = match target {
        Target::Tcp(name) => connect(name),
        // To the system both are streams.
        Target::Unix(path) => UnixStream::connect(path).map(|s| TcpStream::from(OwnedFd::from(s))),
    };
    match stream.and_then(exchange) {
        Ok(reply) => judge(&reply),
        Err(error) => Err(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".into(),
            // The system resets a connection that is closed before the request was read.
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => CLOSED.into(),
            _ => reason(&error),
        }),
    }
}

/// Connects to the first of a name's addresses that accepts.
fn connect(name: &PeerName) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in (name.host.as_str(), name.port).to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn exchange(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    let mut reply = Vec::new();
    stream.take(MAX_REPLY_BYTES).read_to_end(&mut reply)?;
    Ok(reply)
}

fn judge(reply: &[u8]) -> Result<(String, bool), String> {
    if reply.is_empty() {
        return Err(CLOSED.into());
    }
    let status = reply.strip_prefix(b"HTTP/1.").and_then(|s| s.get(2..5));
    let is_ok = match status {
        Some(b"200") => true,
        Some(b"503") => false,
        Some(status) if status.iter().all(u8::is_ascii_digit) => {
            let status = String::from_utf8_lossy(status);
            return Err(format!("expected status 200 or 503, received {status}"));
        }
        _ => return Err("the server does not speak HTTP".into()),
    };
    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = end.and_then(|end| reply.get(end + 4..)).unwrap_or_default();
    // The text goes to a terminal, on which control characters have effects.
    let plain = |&byte: &u8| match byte {
        b'\n' | b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    Ok((body.iter().map(plain).collect(), is_ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_decides_and_control_characters_are_replaced() {
        for (reply, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nok\n", Ok(("ok\n", true))),
            (
                "HTTP/1.0 200 OK\r\n\r\nok\u{1b}[2J\n",
                Ok(("ok?[2J\n", true)),
            ),
            ("HTTP/1.1 503 No\r\n\r\nsyncing\n", Ok(("syncing\n", false))),
            (
                "HTTP/1.1 404 Not Found\r\n\r\nno\n",
                Err("expected status 200 or 503, received 404"),
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
