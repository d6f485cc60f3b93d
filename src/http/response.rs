//! Replies, from the status line to the body.

use super::request::{Method, Request};
use crate::base::text::decimal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Found,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// With the seconds after which to retry.
    TooManyRequests(u64),
    HeadTooLarge,
    /// With the seconds after which to retry.
    Unavailable(u64),
}

impl Status {
    /// Code and reason: an error's body and, without the end of line, the status line.
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

    pub fn code(self) -> u16 {
        let code = self.text().get(..3).and_then(|code| code.parse().ok());
        code.unwrap_or(500)
    }
}

/// Appends a reply. The parts of `header` are whole lines together.
pub fn write(
    out: &mut Vec<u8>,
    status: Status,
    content_type: &str,
    header: &[&[u8]],
    body: &[u8],
    request: &Request,
) {
    write_start(out, status, content_type);
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal(out, body.len() as u64);
    // Each version has a default, which needs no header.
    out.extend_from_slice(match (request.is_1_1, request.keep_alive) {
        (true, false) => b"\r\nConnection: close\r\n",
        (false, true) => b"\r\nConnection: keep-alive\r\n",
        _ => b"\r\n",
    });
    header.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
    if request.method != Method::Head {
        out.extend_from_slice(body);
    }
}

fn write_start(out: &mut Vec<u8>, status: Status, content_type: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.text().trim_ascii_end().as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(content_type.as_bytes());
}

/// Appends the head of a reply whose body is made while it is sent.
pub fn write_streaming(out: &mut Vec<u8>, content_type: &str, request: &Request, is_gzip: bool) {
    write_start(out, Status::Ok, content_type);
    out.extend_from_slice(b"\r\nVary: Accept-Encoding\r\n");
    for (is_sent, line) in [
        (is_gzip, "Content-Encoding: gzip\r\n"),
        (request.is_1_1, "Transfer-Encoding: chunked\r\n"),
        (!request.keep_alive, "Connection: close\r\n"),
        (true, "\r\n"),
    ] {
        if is_sent {
            out.extend_from_slice(line.as_bytes());
        }
    }
}

/// Appends an error. If the body is empty, it is code and reason.
pub fn write_error(out: &mut Vec<u8>, status: Status, body: &[u8], request: &Request) {
    let mut seconds = Vec::new();
    let header: &[&[u8]] = match status {
        Status::MethodNotAllowed => &[b"Allow: GET, HEAD\r\n"],
        Status::TooManyRequests(retry_after) | Status::Unavailable(retry_after) => {
            decimal(&mut seconds, retry_after);
            &[b"Retry-After: ", &seconds, b"\r\n"]
        }
        _ => &[],
    };
    let body = match body {
        [] => status.text().as_bytes(),
        body => body,
    };
    write(out, status, "text/plain", header, body, request);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_framed_by_version_and_method() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n";
        for (method, is_1_1, keep_alive, header, body) in [
            (Method::Get, true, true, "", "body"),
            (Method::Get, true, false, "Connection: close\r\n", "body"),
            (
                Method::Get,
                false,
                true,
                "Connection: keep-alive\r\n",
                "body",
            ),
            (Method::Get, false, false, "", "body"),
            (Method::Head, true, true, "", ""),
        ] {
            let request = Request {
                method,
                is_1_1,
                keep_alive,
                ..Request::INVALID
            };
            let mut out = Vec::new();
            write(&mut out, Status::Ok, "text/plain", &[], b"body", &request);
            let expected = format!("{head}{header}\r\n{body}");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn error_has_its_status_as_its_body() {
        assert_eq!(Status::HeadTooLarge.code(), 431);
        let mut out = Vec::new();
        write_error(&mut out, Status::MethodNotAllowed, b"", &Request::INVALID);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\
             Connection: close\r\nAllow: GET, HEAD\r\n\r\n405 Method Not Allowed\n"
        );
    }
}
