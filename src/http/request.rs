//! The head of a request (RFC 9112). Its first line is parsed as liberally as old clients need, and its headers as
//! strictly as proxies in front need, so that all agree on where a request ends.

use super::proxy::Client;
use super::response::Status;
use crate::protocol::{find, split_at_byte, strip_prefix_in_any_case};

/// The longest head, with the empty line that ends it.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// Set if the head alone decides the reply: the method is not served, or the head is invalid.
    pub refusal: Option<Status>,
    /// `HEAD` and not `GET`.
    pub is_head: bool,
    /// The target's path without leading slashes. It may hold escapes, and a space before a `?`.
    pub path: &'a [u8],
    /// The target after the first `?`.
    pub query: &'a [u8],
    /// The lines between the request line and the empty one, for [`fields`].
    pub lines: &'a [u8],
    /// HTTP/1.0 and no later 1.x.
    pub is_1_0: bool,
    /// Whether the connection is kept after the reply.
    pub keep_alive: bool,
    /// Whether a body follows the head. Bodies are not read, so the connection is not kept.
    pub has_body: bool,
    /// Bytes that this request takes in the buffer.
    pub length: usize,
    /// The parser leaves it to the connection.
    pub client: Client,
}

/// Why a buffer holds no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// More bytes are needed.
    Incomplete,
    /// This is not HTTP/1.
    Malformed,
    /// The head is longer than [`MAX_HEAD_BYTES`].
    TooLong,
}

/// Parses the request at the front of the buffer.
pub fn parse(buffer: &[u8]) -> Result<Request<'_>, Invalid> {
    let window = &buffer[..buffer.len().min(MAX_HEAD_BYTES)];
    let unfinished = match buffer.len() < MAX_HEAD_BYTES {
        true => Invalid::Incomplete,
        false => Invalid::TooLong,
    };
    let mut rest = window;
    // Empty lines may come first (RFC 9112, 2.2).
    while let [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] = rest {
        rest = after;
    }
    // Bytes that do not begin as a method, such as a TLS handshake, are refused at once, however many may follow.
    match rest {
        [] | [b'\r'] => return Err(unfinished),
        &[first, ..] if !is_token(first) => return Err(Invalid::Malformed),
        _ => {}
    }
    let line = next_line(&mut rest).ok_or(unfinished)?;
    let mut request = parse_line(line).ok_or(Invalid::Malformed)?;
    let lines = rest;
    loop {
        match next_line(&mut rest).ok_or(unfinished)? {
            [] => break,
            line => parse_field(line, &mut request).ok_or(Invalid::Malformed)?,
        }
    }
    request.keep_alive &= !request.has_body;
    request.length = window.len() - rest.len();
    request.lines = &lines[..lines.len() - rest.len()];
    Ok(request)
}

/// The names and trimmed values of header lines. Few requests need any, so that none pays for storing them.
pub fn fields(mut lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (name, value) = split_at_byte(next_line(&mut lines)?, b':');
        Some((name, trim(value.unwrap_or_default())))
    })
}

impl<'a> Request<'a> {
    /// Takes the place of a request that is not valid. Bytes of a body may follow it.
    pub fn refused(status: Status) -> Request<'static> {
        Request {
            refusal: Some(status),
            has_body: true,
            ..Request::default()
        }
    }

    /// The value of the first header of this name.
    pub fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut fields = fields(self.lines);
        fields.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
    }

    /// Whether the client prefers gzip to the plain reply (RFC 9110, 12.5.3).
    #[allow(dead_code, reason = "full scrapes are an optional part")]
    pub fn accepts_gzip(&self) -> bool {
        let (mut gzip, mut any, mut identity) = (None, None, 0);
        let is_accept = |name: &[u8]| name.eq_ignore_ascii_case(b"accept-encoding");
        let values = fields(self.lines).filter(|(name, _)| is_accept(name));
        for item in values.flat_map(|(_, value)| value.split(|&b| b == b',')) {
            let (coding, parameter) = split_at_byte(item, b';');
            let weight = parameter.map_or(1000, weight);
            match &*trim(coding).to_ascii_lowercase() {
                b"gzip" | b"x-gzip" => gzip = Some(weight),
                b"*" => any = Some(weight),
                b"identity" => identity = weight,
                _ => {}
            }
        }
        let gzip = gzip.or(any).unwrap_or(0);
        gzip > 0 && gzip >= identity
    }
}

/// The thousandths in `q=0.123`; 0 if that is invalid.
fn weight(parameter: &[u8]) -> u16 {
    match trim(parameter) {
        [b'q' | b'Q', b'=', b'1', rest @ ..] if rest.iter().all(|b| b".0".contains(b)) => 1000,
        [b'q' | b'Q', b'=', b'0', b'.', decimals @ ..]
            if decimals.iter().all(u8::is_ascii_digit) =>
        {
            let worths = decimals.iter().zip([100, 10, 1]);
            worths
                .map(|(digit, worth)| u16::from(digit - b'0') * worth)
                .sum()
        }
        _ => 0,
    }
}

/// Takes a line that ends in LF or CR LF off the front.
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, after) = split_at_byte(rest, b'\n');
    *rest = after?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Whether a method or the name of a header may hold this byte (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Removes spaces and tabs at both ends: the white space of RFC 9110, 5.6.3, which is less than ASCII's.
pub fn trim(bytes: &[u8]) -> &[u8] {
    trim_start(trim_end(bytes))
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// `METHOD target HTTP/1.x`. Some clients escape nothing, so the target may hold any byte, spaces too. The exception is
/// CR, at which another parser may end the line (RFC 9112, 2.2).
fn parse_line(line: &[u8]) -> Option<Request<'_>> {
    let (method, rest) = split_at_byte(trim_end(line), b' ');
    let mut words = rest?.rsplitn(2, |&b| b == b' ');
    let [minor @ b'0'..=b'9'] = words.next()?.strip_prefix(b"HTTP/1.")? else {
        return None;
    };
    // An info-hash may end in a space, so the end is not trimmed.
    let target = trim_start(words.next().unwrap_or_default());
    if find(line, b'\r').is_some() || !method.iter().all(|&b| is_token(b)) {
        return None;
    }
    let is_served = [&b"GET"[..], b"HEAD"].contains(&method);
    let (path, query) = match split_target(target) {
        // Other methods may have targets of other forms.
        None if !is_served => Default::default(),
        split => split?,
    };
    let is_1_0 = *minor == b'0';
    Some(Request {
        refusal: (!is_served).then_some(Status::MethodNotAllowed),
        is_head: method == b"HEAD",
        path,
        query,
        is_1_0,
        keep_alive: !is_1_0,
        ..Request::default()
    })
}

/// Path and query of a target in origin-form or absolute-form. `*` is a path that is not found.
fn split_target(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let target = match target {
        // Clients send the second to a tracker whose URL has no path.
        [b'/' | b'?', ..] | b"*" => target,
        _ => {
            let after = |scheme| strip_prefix_in_any_case(target, scheme);
            let rest = after(b"http://").or_else(|| after(b"https://"))?;
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
            &rest[end.unwrap_or(rest.len())..]
        }
    };
    let (path, query) = split_at_byte(target, b'?');
    let slashes = path.iter().take_while(|&&b| b == b'/').count();
    Some((&path[slashes..], query.unwrap_or_default()))
}

/// Applies a header that has an effect, and skips the others. A line that is not `name: value` is malformed: a folded
/// line, a space before the colon (RFC 9112, 5.1 and 5.2), a bare CR or a NUL (RFC 9110, 5.5). Another parser might
/// find a header in it that decides where the body ends. So is a length that is not a number (RFC 9112, 6.3).
fn parse_field(line: &[u8], request: &mut Request) -> Option<()> {
    let end = line.iter().position(|&b| !is_token(b))?;
    let (name, value) = line.split_at(end);
    let value = value.strip_prefix(b":").filter(|_| end > 0)?;
    if find(value, b'\r').or(find(value, b'\0')).is_some() {
        return None;
    }
    // The first letter excludes nearly all headers.
    if !matches!(name.first(), Some(b'C' | b'c' | b'T' | b't')) {
        return Some(());
    }
    let value = trim(value);
    if name.eq_ignore_ascii_case(b"connection") {
        for option in value.split(|&b| b == b',').map(trim) {
            if option.eq_ignore_ascii_case(b"close") {
                request.keep_alive = false;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                request.keep_alive = true;
            }
        }
    } else if name.eq_ignore_ascii_case(b"content-length") {
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return None;
        }
        request.has_body |= value != b"0";
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        // Parsers may disagree on where such a body ends, so the connection ends instead.
        request.has_body = true;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn parsed(text: &str) -> Request<'_> {
        let request = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
        assert_eq!(request.length, text.len());
        request
    }

    fn path_and_query(target: &str) -> Option<(String, String)> {
        let text = format!("GET {target} HTTP/1.1\r\n\r\n");
        let request = parse(text.as_bytes()).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(request.path), text(request.query)))
    }

    #[test]
    fn common_request_is_parsed() {
        let text = "GET /announce?info_hash=x HTTP/1.1\r\nHost: t.example:6969\r\n\
            User-Agent: XX/1\r\nAccept-Encoding: gzip\r\n\r\n";
        let request = parsed(text);
        let expected = Request {
            path: b"announce",
            query: b"info_hash=x",
            lines: b"Host: t.example:6969\r\nUser-Agent: XX/1\r\nAccept-Encoding: gzip\r\n\r\n",
            keep_alive: true,
            length: text.len(),
            ..Request::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn target_is_split_into_path_and_query() {
        let expected = [
            ("/announce?a=b", "announce", "a=b"),
            ("//announce?a=b?c", "announce", "a=b?c"),
            ("/announce ?a=b c", "announce ", "a=b c"),
            ("/a?info_hash=x ", "a", "info_hash=x "),
            ("/", "", ""),
            ("/?x", "", "x"),
            ("*", "*", ""),
            ("http://t.example/announce?a", "announce", "a"),
            ("HTTP://t.example:80//a?b", "a", "b"),
            ("https://t.example", "", ""),
            ("http://t.example?a=b", "", "a=b"),
            ("?a=b", "", "a=b"),
            ("/announce?http://x/y?z", "announce", "http://x/y?z"),
        ];
        for (target, path, query) in expected {
            let expected = Some((path.to_string(), query.to_string()));
            assert_eq!(path_and_query(target), expected, "{target}");
        }
        for bad in ["", "announce", "ftp://x/announce", "t.example:443", "a?b"] {
            assert_eq!(path_and_query(bad), None, "{bad}");
        }
    }

    #[test]
    fn version_and_header_decide_whether_the_connection_is_kept() {
        let keeps = |version: &str, headers: &str| {
            let text = format!("GET / {version}\r\n{headers}\r\n");
            parsed(&text).keep_alive
        };
        assert!(keeps("HTTP/1.1", ""));
        assert!(!keeps("HTTP/1.1", "Connection: close\r\n"));
        assert!(!keeps("HTTP/1.1", "cOnNeCtIoN:  TE , Close\r\n"));
        assert!(!keeps("HTTP/1.0", ""));
        assert!(keeps("HTTP/1.0", "Connection: Keep-Alive\r\n"));
        assert!(keeps("HTTP/1.2", "X-Connection: close\r\n"));
    }

    #[test]
    fn gzip_is_chosen_by_accept_encoding() {
        let accepts = |headers: &str| {
            let text = format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n");
            parsed(&text).accepts_gzip()
        };
        for yes in [
            "Accept-Encoding: gzip",
            "accept-encoding:deflate,  GZIP ;q=0.001",
            "Accept-Encoding: x-gzip",
            "Accept-Encoding: *",
            "Accept-Encoding: br, *;q=0.5",
            "Accept-Encoding: br\r\nHost: x\r\nAccept-Encoding: gzip",
            "Accept-Encoding: identity;q=0.5, gzip;q=1.000",
            "Accept-Encoding: gzip; q=1.0",
        ] {
            assert!(accepts(yes), "{yes}");
        }
        for no in [
            "Host: x",
            "Accept: gzip",
            "Accept-Encoding:",
            "Accept-Encoding: gzip;q=0",
            "Accept-Encoding: gzip;q=0.000, *",
            "Accept-Encoding: *;q=0",
            "Accept-Encoding: br, deflate",
            "Accept-Encoding: gzip;q=0.5, identity",
            "Accept-Encoding: gzip;q=2",
            "Accept-Encoding: gzip;level=9",
            "Accept-Encoding: gzipped",
            "X-Accept-Encoding: gzip",
        ] {
            assert!(!accepts(no), "{no}");
        }
    }

    #[test]
    fn headers_that_announce_a_body_are_found() {
        let has_body = |header: &str| {
            let text = format!("GET / HTTP/1.1\r\n{header}\r\n\r\n");
            parsed(&text).has_body
        };
        assert!(!has_body("Content-Length: 0"));
        assert!(has_body("Content-Length: 5"));
        assert!(has_body("content-length: 00"));
        assert!(!has_body("Content-Length:\t0 \t"));
        assert!(has_body("Transfer-Encoding: chunked"));
    }

    #[test]
    fn content_length_that_is_not_a_number_is_malformed() {
        for value in [
            "", " ", "+5", "-1", "0x5", "5 5", "0, 0", "1.0", "x", "\x0c0", "0\x0b", "\x0c",
        ] {
            let text = format!("GET / HTTP/1.1\r\nContent-Length:{value}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{value:?}");
        }
    }

    /// Clients that escape nothing send other raw bytes in an info-hash.
    #[test]
    fn bare_cr_before_or_in_the_request_line_is_malformed() {
        for text in [
            "GET / HTTP/1.1\r\r\n\r\n",
            "GET / HTTP/1.1\r \n\r\n",
            "GET /\r HTTP/1.1\r\n\r\n",
            "GET /?a=\rb HTTP/1.1\r\n\r\n",
            "GET\r / HTTP/1.1\r\n\r\n",
            "GET \r/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\rX: y\r\n\r\n",
            "POST \r HTTP/1.1\r\n\r\n",
            "\rGET / HTTP/1.1\r\n\r\n",
            "\r\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{text:?}");
        }
        let raw = "GET /a?info_hash=\0\t\x0b\x0c\x7f\u{e9} HTTP/1.1\r\n\r\n";
        assert_eq!(
            parsed(raw).query,
            "info_hash=\0\t\x0b\x0c\x7f\u{e9}".as_bytes()
        );
    }

    #[test]
    fn only_space_and_tab_are_white_space_in_a_request_line() {
        assert!(parse(b"GET \t/ HTTP/1.1 \t\r\n\r\n").is_ok());
        for text in [
            "GET / HTTP/1.1\x0c\r\n\r\n",
            "GET / HTTP/1.1\0\r\n\r\n",
            "GET \x0c/ HTTP/1.1\r\n\r\n",
            "GET\x0b/ HTTP/1.1\r\n\r\n",
            "GET\0 / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{text:?}");
        }
    }

    #[test]
    fn bare_line_feeds_and_leading_empty_lines_are_accepted() {
        assert_eq!(parsed("GET /a HTTP/1.0\n\n").path, b"a");
        assert_eq!(parsed("\r\n\nGET /a HTTP/1.1\nHost: x\r\n\n").path, b"a");
        assert_eq!(parsed("GET /a  HTTP/1.1 \r\nHost: x\r\n\r\n").path, b"a ");
    }

    #[test]
    fn header_line_that_is_not_name_colon_value_is_malformed() {
        let result = |line: &str| {
            let text = format!("GET / HTTP/1.1\r\n{line}\r\nX: y\r\n\r\n");
            parse(text.as_bytes()).map(|request| request.length == text.len())
        };
        for good in [
            "A:",
            "A: ",
            "A:b",
            "A: \t b \t",
            "A: b:c",
            "!#$%&'*+-.^_`|~09: \x7f\x01\u{e9}",
        ] {
            assert_eq!(result(good), Ok(true), "{good:?}");
        }
        for bad in [
            "A : b",
            "A\t: b",
            "A \t: b",
            " A: b",
            "\tA: b",
            " ",
            "\t",
            "A",
            "A b",
            ":",
            ": b",
            "A b: c",
            "A: b\r\n c",
            "A: b\r\n\tc",
            "A: b\r\n ",
            "A: b\rC: d",
            "A: b\r",
            "A: b\0c",
            "A\r: b",
            "A\0: b",
            "A(: b",
            "A\u{e9}: b",
            "\u{feff}A: b",
            "\r",
            "A=b",
        ] {
            assert_eq!(result(bad), Err(Invalid::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn other_methods_than_get_and_head_are_valid_and_refused() {
        let head = parsed("HEAD / HTTP/1.1\r\n\r\n");
        assert_eq!((head.is_head, head.refusal), (true, None));
        for line in [
            "POST /",
            "OPTIONS *",
            "CONNECT host:443",
            "M-SEARCH *",
            "get /",
            "G3T here",
        ] {
            let text = format!("{line} HTTP/1.1\r\n\r\n");
            let refusal = Some(Status::MethodNotAllowed);
            assert_eq!(parsed(&text).refusal, refusal, "{line}");
        }
    }

    #[test]
    fn bytes_that_are_not_http_are_malformed_at_once() {
        let bad: [&[u8]; 11] = [
            b"GET /\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.10\r\n\r\n",
            b"GET / http/1.1\r\n\r\n",
            b"G\xffT / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"(d1:",
            b" GET / HTTP/1.1\r\n\r\n",
            b"\0",
            b"\x00\x00\x04\x17\x27\x10\x19\x80",
        ];
        for bytes in bad {
            assert_eq!(parse(bytes), Err(Invalid::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn truncated_request_is_incomplete() {
        let text =
            b"\r\nGET /announce?info_hash=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), Err(Invalid::Incomplete), "{length}");
        }
        assert!(parse(text).is_ok());
    }

    #[test]
    fn head_has_at_most_8_kib() {
        let head = |length: usize| {
            let mut text = b"GET / HTTP/1.1\r\nX: ".to_vec();
            text.resize(length - 4, b'x');
            text.extend_from_slice(b"\r\n\r\n");
            text
        };
        let longest = head(MAX_HEAD_BYTES);
        assert_eq!(parse(&longest).map(|r| r.length), Ok(MAX_HEAD_BYTES));
        assert_eq!(
            parse(&longest[..MAX_HEAD_BYTES - 1]),
            Err(Invalid::Incomplete)
        );
        assert_eq!(parse(&head(MAX_HEAD_BYTES + 1)), Err(Invalid::TooLong));
        assert_eq!(parse(&[b'A'; MAX_HEAD_BYTES]), Err(Invalid::TooLong));
        assert_eq!(parse(&[b'\n'; MAX_HEAD_BYTES]), Err(Invalid::TooLong));
    }

    #[test]
    fn requests_may_be_pipelined() {
        let text = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        let first = parse(text).expect("the first");
        assert_eq!(first.path, b"a");
        assert_eq!(parse(&text[first.length..]).map(|r| r.path), Ok(&b"b"[..]));
    }

    #[test]
    fn parser_survives_mutated_requests() {
        let good =
            b"GET http://x/announce?info_hash=x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        let mut random = Random::seeded(51);
        for _ in 0..100_000 {
            let mut text = good.to_vec();
            for _ in 0..=random.below(5) {
                let at = random.below(text.len());
                match random.below(3) {
                    0 => text[at] = random.draw() as u8,
                    1 => text[at] = b" \r\n:/?A"[random.below(7)],
                    _ => drop(text.remove(at)),
                }
            }
            if let Ok(request) = parse(&text) {
                assert!(request.length <= text.len());
            }
        }
    }
}
