//! Requests of a connection: heads, and the replies to them.

use super::cuts;
use announced::base::random::Random;
use announced::http::request::{self, Invalid, MAX_HEAD_BYTES, Request, fields};
use announced::http::{Limiter, Policy, Proxies, Site};
use announced::options::FullScrapes;
use announced::responder::Responder;
use announced::tracker::{Limits, Table};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub fn run(data: &[u8]) {
    check_head(data);
    let policy = Policy {
        redirect: None,
        admins: Vec::new(),
        public_stats: false,
        stats_path: "/stats".into(),
        has_admin_sockets: false,
        sockets: Vec::new(),
        limiter: Limiter::new(FullScrapes::Open),
        proxies: Proxies::default(),
    };
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 1000,
        max_torrents: 1000,
    };
    let table = Arc::new(Table::new(limits, 1));
    let mut responder = Responder::new(table, 1800, 200, Random::seeded(1));
    let mut site = Site::new(Arc::new(policy));
    let mut rest = data;
    while let Ok(mut request) = request::parse(rest) {
        rest = &rest[request.length..];
        // A first bit of the length decides who asks: the loopback may see all statistics.
        let address = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1)][request.length % 2];
        let proxies = &site.policy.proxies;
        let origin = proxies.origin(Some(IpAddr::V4(address)));
        request.client = proxies.client(origin, request.lines);
        site.output.clear();
        let streaming = site.answer(&request, &mut responder);
        let mut streamed = Vec::new();
        let is_streamed = streaming.is_some();
        if let Some(mut streaming) = streaming {
            while streaming.step(&mut responder, &mut Vec::new(), &mut streamed) {}
        }
        check_reply(&site.output, is_streamed.then_some(&streamed), &request);
        if !request.keep_alive {
            break;
        }
    }
}

/// A head means the same however many bytes follow it, and nothing before it is complete.
fn check_head(data: &[u8]) {
    let whole = request::parse(data);
    if let Ok(request) = &whole {
        assert!((1..=data.len().min(MAX_HEAD_BYTES)).contains(&request.length));
        let head = &data[..request.length];
        assert!(head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n"));
        assert!(!request.path.starts_with(b"/") && !request.path.contains(&b'?'));
        assert!(head.ends_with(request.lines));
        assert!(!(request.keep_alive && request.has_body));
        for (name, value) in fields(request.lines) {
            assert!(!name.contains(&b' ') && !value.contains(&b'\r') && !value.contains(&0));
            assert_eq!(request::trim(value), value);
        }
        request.accepts_gzip();
    }
    for cut in cuts(data.len()) {
        let part = request::parse(&data[..cut]);
        match (&whole, &part) {
            (Ok(request), part) if cut >= request.length => {
                assert_eq!(part, &Ok(*request), "{cut} bytes");
            }
            (Ok(_) | Err(Invalid::Incomplete), part) => {
                assert_eq!(part, &Err(Invalid::Incomplete), "{cut} bytes");
            }
            (Err(why), Err(Invalid::Incomplete)) => assert_ne!(*why, Invalid::Incomplete),
            (Err(why), part) => assert_eq!(part, &Err(*why), "{cut} bytes"),
        }
    }
}

/// A reply has a head that a client can parse, and the body that the head promises.
fn check_reply(output: &[u8], streamed: Option<&Vec<u8>>, request: &Request) {
    let text = String::from_utf8_lossy(output);
    let (head, _) = text.split_once("\r\n\r\n").expect("an empty line");
    let body = &output[head.len() + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().expect("a status line");
    let code = status.strip_prefix("HTTP/1.1 ").and_then(|s| s.get(..3));
    let code: u16 = code.and_then(|c| c.parse().ok()).expect("a code");
    let mut length = None;
    let mut is_chunked = false;
    for line in lines {
        let (name, value) = line.split_once(": ").expect(line);
        assert!(!name.contains(' '), "{line}");
        match name {
            "Content-Length" => length = Some(value.parse::<usize>().expect(line)),
            "Transfer-Encoding" => is_chunked = true,
            _ => {}
        }
    }
    match (streamed, request.is_head) {
        (Some(content), _) => {
            assert!(length.is_none() && body.is_empty() && is_chunked != request.is_1_0);
            assert!(!is_chunked || content.ends_with(b"0\r\n\r\n"));
        }
        (None, true) => assert!(body.is_empty()),
        (None, false) => assert_eq!(length, Some(body.len()), "{head}"),
    }
    if code == 200 && streamed.is_none() && !request.is_head && body.starts_with(b"d") {
        assert_eq!(bencoded(body), Some(&b""[..]), "{text}");
    }
}

/// The bytes after a bencoded value.
fn bencoded(bytes: &[u8]) -> Option<&[u8]> {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let (&first, rest) = bytes.split_first()?;
    let end = |byte| rest.iter().position(|b| *b == byte);
    match first {
        b'i' => {
            let at = end(b'e')?;
            number(&rest[..at]).map(|_| &rest[at + 1..])
        }
        b'0'..=b'9' => {
            let colon = bytes.iter().position(|b| *b == b':')?;
            bytes.get(colon + 1 + number(&bytes[..colon])? as usize..)
        }
        b'd' => {
            let (mut rest, mut last) = (rest, None);
            while rest.first()? != &b'e' {
                let after = bencoded(rest)?;
                let key = &rest[..rest.len() - after.len()];
                let key = &key[key.iter().position(|b| *b == b':')? + 1..];
                assert!(last < Some(key), "keys are sorted");
                last = Some(key);
                rest = bencoded(after)?;
            }
            rest.get(1..)
        }
        _ => None,
    }
}
