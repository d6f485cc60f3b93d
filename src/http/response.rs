//! Replies, from the status line to the body.

use super::request::Request;
use crate::base::text::{fill, text, texts};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Found,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// With the seconds after which to retry.
    #[allow(dead_code, reason = "full scrapes are an optional part")]
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
    header: &[&str],
    body: &[u8],
    request: &Request,
) {
    write_start(out, status, content_type);
    fill(out, "Content-Length: $\r\n", &[body.len() as u64]);
    // Each version has a default, which needs no header.
    let connection = match (request.is_1_0, request.keep_alive) {
        (false, false) => "Connection: close\r\n",
        (true, true) => "Connection: keep-alive\r\n",
        _ => "",
    };
    text(out, connection);
    texts(out, header);
    text(out, "\r\n");
    if !request.is_head {
        out.extend_from_slice(body);
    }
}

fn write_start(out: &mut Vec<u8>, status: Status, content_type: &str) {
    texts(out, &["HTTP/1.1 ", status.text().trim_ascii_end()]);
    texts(out, &["\r\nContent-Type: ", content_type, "\r\n"]);
}

/// Appends the head of a reply whose body is made while it is sent.
pub fn write_streaming(out: &mut Vec<u8>, content_type: &str, request: &Request, is_gzip: bool) {
    write_start(out, Status::Ok, content_type);
    for (is_sent, line) in [
        (true, "Vary: Accept-Encoding\r\n"),
        (is_gzip, "Content-Encoding: gzip\r\n"),
        (!request.is_1_0, "Transfer-Encoding: chunked\r\n"),
        (!request.keep_alive, "Connection: close\r\n"),
        (true, "\r\n"),
    ] {
        text(out, if is_sent { line } else { "" });
    }
}

/// Appends an error, or a redirect to a URL. If the body of an error is empty, it is code and reason.
pub fn write_error(out: &mut Vec<u8>, status: Status, url: &str, body: &[u8], request: &Request) {
    let seconds;
    let header: &[&str] = match status {
        Status::Found => &["Location: ", url, "\r\n"],
        Status::MethodNotAllowed => &["Allow: GET, HEAD\r\n"],
        Status::TooManyRequests(retry_after) | Status::Unavailable(retry_after) => {
            seconds = retry_after.to_string();
            &["Retry-After: ", &seconds, "\r\n"]
        }
        _ => &[],
    };
    let body = match body {
        [] if status != Status::Found => status.text().as_bytes(),
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
        for (is_head, is_1_0, keep_alive, header, body) in [
            (false, false, true, "", "body"),
            (false, false, false, "Connection: close\r\n", "body"),
            (false, true, true, "Connection: keep-alive\r\n", "body"),
            (false, true, false, "", "body"),
            (true, false, true, "", ""),
        ] {
            let request = Request {
                is_head,
                is_1_0,
                keep_alive,
                ..Request::default()
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
        let request = Request::default();
        write_error(&mut out, Status::MethodNotAllowed, "", b"", &request);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\
             Connection: close\r\nAllow: GET, HEAD\r\n\r\n405 Method Not Allowed\n"
        );
    }
}
