//! Replies, status line to body.

use crate::proto::bencode::decimal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Found,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// For so many seconds.
    TooManyRequests(u32),
    HeadTooLarge,
    /// Likewise.
    Unavailable(u32),
}

impl Status {
    /// Code and reason, the body that goes with an error; without the line's end, the status line.
    fn text(self) -> &'static str {
        match self {
            Status::Ok => "200 OK\n",
            Status::Found => "302 Found\n",
            Status::BadRequest => "400 Bad Request\n",
            Status::Forbidden => "403 Forbidden\n",
            Status::NotFound => "404 Not Found\n",
            Status::MethodNotAllowed => "405 Method Not Allowed\n",
            Status::TooManyRequests(_) => "429 Too Many Requests\n",
            Status::HeadTooLarge => "431 Request Header Fields Too Large\n",
            Status::Unavailable(_) => "503 Service Unavailable\n",
        }
    }
}

impl Status {
    pub fn code(self) -> u16 {
        let code = self.text().get(..3).and_then(|code| code.parse().ok());
        code.unwrap_or(500)
    }
}

/// How a reply is to be framed, which follows from the request.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    pub is_1_1: bool,
    pub keep_alive: bool,
    /// Leave the body out: the request was HEAD.
    pub head_only: bool,
}

/// Appends a reply in plain text. `header` is a whole line more with its CR LF, or nothing.
pub fn write(out: &mut Vec<u8>, status: Status, header: &[&[u8]], body: &[u8], framing: Framing) {
    write_typed(out, status, "text/plain", header, body, framing);
}

/// Appends a reply whose body is of this type.
pub fn write_typed(
    out: &mut Vec<u8>,
    status: Status,
    content_type: &str,
    header: &[&[u8]],
    body: &[u8],
    framing: Framing,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.text().trim_ascii_end().as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal(out, body.len() as u64);
    // Each version has its default, which need not be said.
    out.extend_from_slice(match framing {
        Framing {
            is_1_1: true,
            keep_alive: false,
            ..
        } => b"\r\nConnection: close\r\n",
        Framing {
            is_1_1: false,
            keep_alive: true,
            ..
        } => b"\r\nConnection: keep-alive\r\n",
        _ => b"\r\n",
    });
    for part in header {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
    if !framing.head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the head of a reply whose body is made later, in chunks or up to the end of the connection.
pub fn write_streaming(out: &mut Vec<u8>, content_type: &str, framing: Framing, is_gzip: bool) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\nVary: Accept-Encoding\r\n");
    if is_gzip {
        out.extend_from_slice(b"Content-Encoding: gzip\r\n");
    }
    if framing.is_1_1 {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if !framing.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an error: its name is its body.
pub fn write_error(out: &mut Vec<u8>, status: Status, framing: Framing) {
    write_error_saying(out, status, status.text().as_bytes(), framing);
}

/// The same with a body that says more.
pub fn write_error_saying(out: &mut Vec<u8>, status: Status, body: &[u8], framing: Framing) {
    let mut seconds = Vec::new();
    let header: &[&[u8]] = match status {
        Status::MethodNotAllowed => &[b"Allow: GET, HEAD\r\n"],
        Status::TooManyRequests(retry_after) | Status::Unavailable(retry_after) => {
            decimal(&mut seconds, retry_after.into());
            &[b"Retry-After: ", &seconds, b"\r\n"]
        }
        _ => &[],
    };
    write(out, status, header, body, framing);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: Status, is_1_1: bool, keep_alive: bool, head_only: bool) -> String {
        let mut out = Vec::new();
        let framing = Framing {
            is_1_1,
            keep_alive,
            head_only,
        };
        match status {
            Status::Ok => write(&mut out, status, &[], b"body", framing),
            status => write_error(&mut out, status, framing),
        }
        String::from_utf8(out).expect("is text")
    }

    #[test]
    fn replies_are_framed_as_the_request_wants() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n";
        let expected = [
            ((true, true, false), "", "body"),
            ((true, false, false), "Connection: close\r\n", "body"),
            ((false, true, false), "Connection: keep-alive\r\n", "body"),
            ((false, false, false), "", "body"),
            ((true, true, true), "", ""),
        ];
        for ((is_1_1, keep_alive, head_only), header, body) in expected {
            assert_eq!(
                reply(Status::Ok, is_1_1, keep_alive, head_only),
                format!("{head}{header}\r\n{body}")
            );
        }
    }

    #[test]
    fn a_status_knows_its_code() {
        assert_eq!(Status::Ok.code(), 200);
        assert_eq!(Status::HeadTooLarge.code(), 431);
    }

    #[test]
    fn an_error_says_its_name() {
        assert_eq!(
            reply(Status::MethodNotAllowed, true, true, false),
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\
             Allow: GET, HEAD\r\n\r\n405 Method Not Allowed\n"
        );
    }
}
