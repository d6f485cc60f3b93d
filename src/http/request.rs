//! The head of a request (RFC 9112). Its first line is read as liberally as old clients need, and its headers as
//! strictly as proxies in front need, so that all agree on where a request ends.

use crate::proto::find;

/// The longest head, in bytes, with the empty line that ends it.
pub const LONGEST_HEAD: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    /// Well-formed and not served.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: Method,
    /// The target's path, without the slashes in front; may hold escapes, and a space before a `?`.
    pub path: &'a [u8],
    /// What comes after the first `?`.
    pub query: &'a [u8],
    /// The lines between the request line and the empty one, for [`Request::field`].
    pub fields: &'a [u8],
    /// HTTP/1.1 or a later 1.x.
    pub is_1_1: bool,
    /// Whether the connection is to be kept after the reply.
    pub keep_alive: bool,
    /// Whether a body comes after the head.
    pub has_body: bool,
    /// Bytes that this request takes in the buffer.
    pub length: usize,
}

/// Why a buffer holds no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// More bytes are needed.
    Incomplete,
    /// This is not HTTP/1.
    Malformed,
    /// The head is longer than [`LONGEST_HEAD`].
    TooLong,
}

/// Reads the request at the front of the buffer.
pub fn parse(buffer: &[u8]) -> Result<Request<'_>, Invalid> {
    let window = &buffer[..buffer.len().min(LONGEST_HEAD)];
    let mut lines = Lines { rest: window };
    let line = lines.request_line()?;
    let mut request = match line {
        Some(line) => parse_line(line)?,
        None => return Err(lines.unfinished(buffer)),
    };
    request.fields = lines.rest;
    loop {
        match lines.next() {
            Some([]) => break,
            Some(line) => read_header(line, &mut request)?,
            None => return Err(lines.unfinished(buffer)),
        }
    }
    request.length = window.len() - lines.rest.len();
    let fields = request.fields.len() - lines.rest.len();
    request.fields = &request.fields[..fields];
    Ok(request)
}

/// The lines of a whole head, without the one that it begins with and the empty one at its end.
pub fn headers(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lines = Lines { rest: head };
    let _ = lines.request_line();
    std::iter::from_fn(move || lines.next())
}

impl<'a> Request<'a> {
    /// Whether the client would have the reply as gzip (RFC 9110, 12.5.3).
    pub fn accepts_gzip(&self) -> bool {
        let mut lines = Lines { rest: self.fields };
        let (mut gzip, mut any, mut identity) = (None, None, None);
        while let Some(line) = lines.next() {
            let (name, value) = line.split_at(find(line, b':').unwrap_or(line.len()));
            if !name.eq_ignore_ascii_case(b"accept-encoding") {
                continue;
            }
            for item in value.get(1..).unwrap_or_default().split(|&b| b == b',') {
                let (coding, weight) = item.split_at(find(item, b';').unwrap_or(item.len()));
                let known = match trim(coding) {
                    b"*" => &mut any,
                    coding if coding.eq_ignore_ascii_case(b"identity") => &mut identity,
                    coding if coding.eq_ignore_ascii_case(b"gzip") => &mut gzip,
                    coding if coding.eq_ignore_ascii_case(b"x-gzip") => &mut gzip,
                    _ => continue,
                };
                *known = Some(read_weight(weight));
            }
        }
        let gzip = gzip.or(any).unwrap_or(0);
        gzip > 0 && gzip >= identity.unwrap_or(0)
    }

    /// The value of the first header of this name. Few requests are asked for any, so that none pays
    /// for keeping them apart.
    pub fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut lines = Lines { rest: self.fields };
        loop {
            let line = lines.next()?;
            let (found, value) = line.split_at(find(line, b':').unwrap_or(line.len()));
            if found.eq_ignore_ascii_case(name) && !value.is_empty() {
                return Some(trim(value.get(1..)?));
            }
        }
    }
}

/// The thousandths of `;q=0.123`; a thousand where there is none, nothing where it is garbled.
fn read_weight(parameter: &[u8]) -> u16 {
    let parameter = trim(parameter);
    if parameter.is_empty() {
        return 1000;
    }
    let parameter = trim(parameter.get(1..).unwrap_or_default());
    let digits = match parameter {
        [b'q' | b'Q', b'=', digits @ ..] => digits,
        _ => return 0,
    };
    match digits {
        [b'1', rest @ ..] if rest.iter().all(|b| b".0".contains(b)) => 1000,
        [b'0', b'.', decimals @ ..] if decimals.iter().all(u8::is_ascii_digit) => decimals
            .iter()
            .zip([100, 10, 1])
            .map(|(digit, worth)| u16::from(digit - b'0') * worth)
            .sum(),
        _ => 0,
    }
}

/// Lines that end in LF or CR LF.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = find(self.rest, b'\n')?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// The first line that is not empty (RFC 9112, 2.2), if it is whole. What does not begin as a
    /// method does, a TLS handshake for one, is refused at once, however long the line may become.
    fn request_line(&mut self) -> Result<Option<&'a [u8]>, Invalid> {
        while let [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] = self.rest {
            self.rest = rest;
        }
        match self.rest {
            [] | [b'\r'] => Ok(None),
            &[first, ..] if is_token(first) => Ok(self.next()),
            _ => Err(Invalid::Malformed),
        }
    }

    fn unfinished(&self, buffer: &[u8]) -> Invalid {
        if buffer.len() >= LONGEST_HEAD {
            Invalid::TooLong
        } else {
            Invalid::Incomplete
        }
    }
}

/// Whether a method or the name of a header may hold this byte (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without the spaces and tabs at both ends: the white space of RFC 9110, 5.6.3, which is less than ASCII's.
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

/// `METHOD target HTTP/1.x`. The target may hold spaces: the last word is the version. It may hold any other byte too,
/// as some clients escape nothing, but for a CR, at which another reader may end the line (RFC 9112, 2.2).
fn parse_line(line: &[u8]) -> Result<Request<'_>, Invalid> {
    if find(line, b'\r').is_some() {
        return Err(Invalid::Malformed);
    }
    let line = trim_end(line);
    let first = find(line, b' ').ok_or(Invalid::Malformed)?;
    let last = line.iter().rposition(|&b| b == b' ').unwrap_or(first);
    let is_1_1 = match line.get(last + 1..) {
        Some(b"HTTP/1.0") => false,
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9']) => true,
        _ => return Err(Invalid::Malformed),
    };
    let method = match line.get(..first).unwrap_or_default() {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        name if name.iter().copied().all(is_token) => Method::Other,
        _ => return Err(Invalid::Malformed),
    };
    // An info-hash may end in a space, so nothing is cut off at the end.
    let target = line.get(first + 1..last).unwrap_or_default();
    let (path, query) = match split_target(trim_start(target)) {
        Some(split) => split,
        // What other methods do with their targets is none of ours.
        None if method == Method::Other => Default::default(),
        None => return Err(Invalid::Malformed),
    };
    Ok(Request {
        method,
        path,
        query,
        fields: &[],
        is_1_1,
        keep_alive: is_1_1,
        has_body: false,
        length: 0,
    })
}

/// Path and query of an origin-form or absolute-form target; `*` is a path that leads nowhere.
fn split_target(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let target = match target {
        [b'/', ..] | b"*" => target,
        _ => {
            let scheme = target.get(..7)?;
            let length = match scheme.eq_ignore_ascii_case(b"http://") {
                true => 7,
                false if target.get(..8)?.eq_ignore_ascii_case(b"https://") => 8,
                false => return None,
            };
            let rest = &target[length..];
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
            &rest[end.unwrap_or(rest.len())..]
        }
    };
    let question = find(target, b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(question);
    let slashes = path.iter().take_while(|&&b| b == b'/').count();
    Some((&path[slashes..], query.get(1..).unwrap_or_default()))
}

/// Takes from a header what matters here, and passes over the others. A line that is not `name: value` is
/// refused: a folded line, a space before the colon (RFC 9112, 5.1 and 5.2), a bare CR or a NUL (RFC 9110, 5.5).
/// Another reader might find a header in it that says where the body ends. So is a length that is not a number
/// (RFC 9112, 6.3).
fn read_header(line: &[u8], request: &mut Request) -> Result<(), Invalid> {
    let end = line.iter().position(|&b| !is_token(b));
    let (name, value) = line.split_at(end.unwrap_or(line.len()));
    let value = match value {
        [b':', value @ ..] if !name.is_empty() => value,
        _ => return Err(Invalid::Malformed),
    };
    if find(value, b'\r').or(find(value, b'\0')).is_some() {
        return Err(Invalid::Malformed);
    }
    // Nearly all headers are told apart by their first letter.
    if !matches!(name.first(), Some(b'C' | b'c' | b'T' | b't')) {
        return Ok(());
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
            return Err(Invalid::Malformed);
        }
        request.has_body |= value != b"0";
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        // There is a body, of which nothing is wanted. Where the next request would begin is then
        // a matter on which others may disagree, so there is none.
        request.has_body = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

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
    fn a_common_request() {
        let text = "GET /announce?info_hash=x HTTP/1.1\r\nHost: t.example:6969\r\n\
            User-Agent: XX/1\r\nAccept-Encoding: gzip\r\n\r\n";
        let request = parsed(text);
        let expected = Request {
            method: Method::Get,
            path: b"announce",
            query: b"info_hash=x",
            fields: b"Host: t.example:6969\r\nUser-Agent: XX/1\r\nAccept-Encoding: gzip\r\n\r\n",
            is_1_1: true,
            keep_alive: true,
            has_body: false,
            length: text.len(),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn targets_of_all_kinds() {
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
            ("/announce?http://x/y?z", "announce", "http://x/y?z"),
        ];
        for (target, path, query) in expected {
            let expected = Some((path.to_string(), query.to_string()));
            assert_eq!(path_and_query(target), expected, "{target}");
        }
        for bad in ["", "announce", "ftp://x/announce", "t.example:443", "?a=b"] {
            assert_eq!(path_and_query(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_decide_whether_the_connection_is_kept() {
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
    fn gzip_is_for_those_who_would_have_it() {
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
    fn a_body_is_noticed() {
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
    fn a_content_length_that_is_not_a_number_is_malformed() {
        for value in [
            "", " ", "+5", "-1", "0x5", "5 5", "0, 0", "1.0", "x", "\x0c0", "0\x0b", "\x0c",
        ] {
            let text = format!("GET / HTTP/1.1\r\nContent-Length:{value}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{value:?}");
        }
    }

    /// Clients that escape nothing send other raw bytes in an info-hash.
    #[test]
    fn a_bare_cr_is_malformed_before_and_in_the_request_line() {
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
    fn white_space_in_a_request_line_is_space_and_tab() {
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
    fn line_ends_may_be_bare_and_empty_lines_may_come_first() {
        assert_eq!(parsed("GET /a HTTP/1.0\n\n").path, b"a");
        assert_eq!(parsed("\r\n\nGET /a HTTP/1.1\nHost: x\r\n\n").path, b"a");
        assert_eq!(parsed("GET /a  HTTP/1.1 \r\nHost: x\r\n\r\n").path, b"a ");
    }

    #[test]
    fn a_header_line_is_a_name_a_colon_and_a_value() {
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
    fn methods_are_told_apart() {
        assert_eq!(parsed("HEAD / HTTP/1.1\r\n\r\n").method, Method::Head);
        assert_eq!(parsed("POST / HTTP/1.1\r\n\r\n").method, Method::Other);
        for line in [
            "OPTIONS *",
            "CONNECT host:443",
            "M-SEARCH *",
            "get /",
            "G3T here",
        ] {
            let text = format!("{line} HTTP/1.1\r\n\r\n");
            assert_eq!(parsed(&text).method, Method::Other, "{line}");
        }
    }

    #[test]
    fn what_is_not_http_is_malformed_at_once() {
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
    fn every_truncation_is_incomplete() {
        let text =
            b"\r\nGET /announce?info_hash=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), Err(Invalid::Incomplete), "{length}");
        }
        assert!(parse(text).is_ok());
    }

    #[test]
    fn a_head_has_8_kib() {
        let head = |length: usize| {
            let mut text = b"GET / HTTP/1.1\r\nX: ".to_vec();
            text.resize(length - 4, b'x');
            text.extend_from_slice(b"\r\n\r\n");
            text
        };
        let longest = head(LONGEST_HEAD);
        assert_eq!(parse(&longest).map(|r| r.length), Ok(LONGEST_HEAD));
        assert_eq!(
            parse(&longest[..LONGEST_HEAD - 1]),
            Err(Invalid::Incomplete)
        );
        assert_eq!(parse(&head(LONGEST_HEAD + 1)), Err(Invalid::TooLong));
        assert_eq!(parse(&[b'A'; LONGEST_HEAD]), Err(Invalid::TooLong));
        assert_eq!(parse(&[b'\n'; LONGEST_HEAD]), Err(Invalid::TooLong));
    }

    #[test]
    fn requests_may_follow_each_other() {
        let text = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        let first = parse(text).expect("the first");
        assert_eq!(first.path, b"a");
        assert_eq!(parse(&text[first.length..]).map(|r| r.path), Ok(&b"b"[..]));
    }

    #[test]
    fn no_mutation_does_harm() {
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
