//! Paths, and the reply of each: announces, scrapes, statistics.

use super::full_scrape::{Format, FullScrape};
use super::limiter::{Limiter, Permit};
use super::proxy::Proxies;
use super::request::{Method, Request};
use super::response::{self, Status};
use super::streaming::{Source, Streaming};
use crate::base::nets::{self, Net};
use crate::options::Protocol;
use crate::protocol::bencode;
use crate::protocol::query::{self, Encoded, FailureReason};
use crate::responder::{self, Reply, Responder};
use crate::stats::cluster::Health;
use crate::stats::modes::{self, Report};
use crate::stats::walks::TableWalk;
use crate::stats::{self, Counters, page};
use crate::tracker::{Hint, InfoHash, MAX_REPLY_PEERS, Role, Sink, Sinks};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The admin's options.
#[derive(Default)]
pub struct Policy {
    /// Where `/` leads to.
    pub redirect: Option<String>,
    /// Clients that may see all statistics, besides the loopback.
    pub admins: Vec<Net>,
    /// Whether others may see the statistics that list no torrents or peers.
    pub public_stats: bool,
    /// The path of the statistics, with the slash in front.
    pub stats_path: String,
    /// The addresses that `/` lists.
    pub sockets: Vec<(Protocol, SocketAddr)>,
}

/// For the admin of a proxy whose clients cannot announce.
const NO_CLIENT: &str = "400 Bad Request: this came from a proxy that does not name its client\n";

/// Seconds after which a node that is joining a cluster may have all peers.
const SYNCING_RETRY_S: u64 = 1;

/// Makes a thread's replies.
pub struct Site {
    policy: Arc<Policy>,
    limiter: Limiter,
    pub proxies: Proxies,
    /// Replies to one connection, or the slice of one.
    pub output: Vec<u8>,
    /// A slice of the table before it is compressed and framed.
    pub slice: Vec<u8>,
    /// Work of this round, in requests answered.
    pub work: usize,
    /// The position of the next announce's torrent, if it was looked up ahead.
    pub hint: Hint,
    body: Vec<u8>,
    hashes: Vec<InfoHash>,
    /// For the peers of a reply; zeroed once and not for each request.
    v4: Box<[u8]>,
    v6: Box<[u8]>,
}

/// The content of a reply.
enum Content {
    /// The body is made, and has this type.
    Body(&'static str),
    /// Every torrent.
    Torrents(Format, Option<Permit>),
    /// The findings of a walk over the table.
    Walk(TableWalk),
}

const TEXT: Content = Content::Body("text/plain");

impl Site {
    pub fn new(policy: Arc<Policy>, limiter: Limiter, proxies: Proxies) -> Site {
        Site {
            policy,
            limiter,
            proxies,
            output: Vec::new(),
            slice: Vec::new(),
            work: 0,
            hint: Hint::default(),
            body: Vec::new(),
            hashes: Vec::new(),
            v4: vec![0; MAX_REPLY_PEERS * 6].into_boxed_slice(),
            v6: vec![0; MAX_REPLY_PEERS * 18].into_boxed_slice(),
        }
    }

    /// Bytes of the last body, whether it was sent or not.
    pub fn body_length(&self) -> usize {
        self.body.len()
    }

    /// Appends the reply to a request to `output`. If the body is made while it is sent, only the head is appended, and
    /// the maker of the body is returned.
    pub fn answer(
        &mut self,
        request: &Request,
        responder: &mut Responder,
    ) -> Option<Box<Streaming>> {
        let is_head = request.method == Method::Head;
        self.body.clear();
        let content = self.serve(request, responder);
        let out = &mut self.output;
        let (source, permit) = match content {
            Ok(Content::Body(content_type)) => {
                response::write(out, Status::Ok, content_type, &[], &self.body, request);
                return None;
            }
            Ok(Content::Walk(walk)) => {
                response::write_streaming(out, "text/plain", request, false);
                (Source::Walk(walk), None)
            }
            Ok(Content::Torrents(format, permit)) => {
                let is_gzip = request.accepts_gzip();
                // opentracker's type of all formats.
                response::write_streaming(out, "application/octet-stream", request, is_gzip);
                if is_head {
                    return None;
                }
                responder.counters.full_scrapes += 1;
                (Source::Torrents(FullScrape::new(format, is_gzip)), permit)
            }
            Err(status) => {
                responder.counters.count_http_error(status.code());
                self.write_error(status, request);
                return None;
            }
        };
        let streaming = Streaming::new(source, request.is_1_1, permit);
        (!is_head).then(|| Box::new(streaming))
    }

    fn write_error(&mut self, status: Status, request: &Request) {
        let out = &mut self.output;
        match (status, &self.policy.redirect) {
            (Status::Found, Some(url)) => {
                let location = [b"Location: ", url.as_bytes(), b"\r\n"];
                response::write(out, status, "text/plain", &location, b"", request);
            }
            _ => response::write_error(out, status, &self.body, request),
        }
    }

    /// Makes the content of a reply. With an error, a body says more than the status.
    ///
    /// Published torrents hold announce URLs of every kind, so an announce or a scrape is known by the first letters
    /// of its path, as in opentracker.
    fn serve(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        if request.method == Method::Other {
            return Err(Status::MethodNotAllowed);
        }
        let mut letters = Encoded(request.path).map(Option::unwrap_or_default);
        let content = match (letters.next(), letters.next(), request.path) {
            (Some(b'a'), ..) => return self.announce(request, responder),
            (Some(b's'), Some(b'c'), _) => return self.scrape(request, responder),
            (None, ..) => self.root(request)?,
            (.., b"metrics") => self.metrics(request, responder)?,
            (.., b"health") => self.health(responder)?,
            (.., b"robots.txt") => self.text("User-agent: *\nDisallow: /\n"),
            (.., path) if self.policy.stats_path.as_bytes().strip_prefix(b"/") == Some(path) => {
                self.stats(request, responder)?
            }
            _ => return Err(Status::NotFound),
        };
        // Full scrapes have a counter of their own.
        if !matches!(content, Content::Torrents(..)) {
            responder.counters.http_others += 1;
        }
        Ok(content)
    }

    fn text(&mut self, text: &str) -> Content {
        self.body.extend_from_slice(text.as_bytes());
        TEXT
    }

    /// A load balancer leaves out a node whose health is 503.
    fn health(&mut self, responder: &Responder) -> Result<Content, Status> {
        match responder.health() {
            Some(Health::Syncing) => {
                self.text("syncing\n");
                Err(Status::Unavailable(SYNCING_RETRY_S))
            }
            Some(Health::Alone) => Ok(self.text("alone\n")),
            Some(Health::Ok) | None => Ok(self.text("ok\n")),
        }
    }

    fn is_admin(&self, request: &Request) -> bool {
        request.client.is_some_and(|client| {
            let client = client.to_canonical();
            client.is_loopback() || nets::any_contains(&self.policy.admins, client)
        })
    }

    /// Refuses a client that may not see statistics, which are private if they list torrents or peers.
    fn check_access(&self, request: &Request, is_private: bool) -> Result<(), Status> {
        let is_public = self.policy.public_stats && !is_private;
        match is_public || self.is_admin(request) {
            true => Ok(()),
            false => Err(Status::Forbidden),
        }
    }

    fn metrics(&mut self, request: &Request, responder: &Responder) -> Result<Content, Status> {
        self.check_access(request, false)?;
        let mut view = responder.view();
        if let Some(cluster) = view.cluster.as_mut().filter(|_| !self.is_admin(request)) {
            cluster.hide_nodes();
        }
        stats::write_metrics(&view, &mut self.body);
        Ok(Content::Body("text/plain; version=0.0.4; charset=utf-8"))
    }

    fn stats(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        let value = |name: &[u8]| query::value(request.query, name);
        self.check_access(request, false)?;
        // A client that took this for an announce URL should stop.
        if value(b"info_hash").is_some() {
            return Err(Status::BadRequest);
        }
        let mode = match value(b"mode") {
            Some(name) => modes::find(&name).ok_or(Status::BadRequest)?,
            None => &modes::MODES[0],
        };
        self.check_access(request, mode.is_private)?;
        Ok(match mode.report {
            Report::Text(write) => {
                write(&responder.view(), &mut self.body);
                TEXT
            }
            Report::Html => {
                let mut view = responder.view();
                view.cluster = view.cluster.filter(|_| self.is_admin(request));
                page::write(&view, &mut self.body);
                Content::Body("text/html; charset=utf-8")
            }
            Report::Torrents => {
                let format = match value(b"format") {
                    Some(name) => Format::named(&name).ok_or(Status::BadRequest)?,
                    None => Format::Ben,
                };
                Content::Torrents(format, None)
            }
            Report::State => {
                let now = responder.monitor.seconds_since_1970() / 60;
                Content::Torrents(Format::State { now }, None)
            }
            Report::Walk(begin) => Content::Walk(begin(&mut responder.random)),
            Report::Gone => return Err(Status::NotFound),
        })
    }

    /// Redirects, or lists the announce URLs.
    fn root(&mut self, request: &Request) -> Result<Content, Status> {
        if self.policy.redirect.is_some() {
            return Err(Status::Found);
        }
        self.text(concat!(
            "This is announced ",
            env!("CARGO_PKG_VERSION"),
            ", a BitTorrent tracker. To announce a torrent, put one of these URLs into it:\n\n"
        ));
        let host = request.field(b"host").and_then(host_name);
        let mut urls = Vec::new();
        if let Some((_, with_port)) = host {
            urls.push(format!("http://{with_port}/announce\n"));
        }
        for (protocol, address) in &self.policy.sockets {
            let url = match (protocol, host) {
                (Protocol::Udp, Some((name, _))) => format!("udp://{name}:{}", address.port()),
                (Protocol::Udp, None) => format!("udp://{address}"),
                (Protocol::Tcp, None) => format!("http://{address}"),
                // The request's own host and port are in the list already.
                (Protocol::Tcp, Some(_)) => continue,
            };
            urls.push(url + "/announce\n");
        }
        urls.dedup();
        Ok(self.text(&urls.concat()))
    }

    fn announce(
        &mut self,
        request: &Request,
        responder: &mut Responder,
    ) -> Result<Content, Status> {
        let Some(client) = request.client else {
            self.text(NO_CLIENT);
            return Err(Status::BadRequest);
        };
        let announce = match query::announce(request.query) {
            Ok(announce) => announce,
            Err(failure) => return Ok(self.fail(failure, responder)),
        };
        responder.counters.http_announces += 1;
        let is_logged = responder.logs(announce.event);
        let mut announces = [Some(responder::Announce {
            info_hash: &announce.info_hash,
            source: client,
            port: announce.port,
            role: Role::of_left(announce.left),
            event: announce.event,
            numwant: announce.num_want,
            peer_id: is_logged.then(|| query::peer_id(request.query)).flatten(),
            hint: std::mem::take(&mut self.hint),
            sinks: Sinks {
                v4: Sink::new(&mut self.v4),
                v6: Sink::new(&mut self.v6),
            },
            reply: Reply::default(),
        })];
        responder.announce(&mut announces);
        for announce in announces.iter().flatten() {
            write_announce(&mut self.body, announce, &mut responder.counters);
        }
        Ok(TEXT)
    }

    /// Scrapes the torrents in the query, or all of them if there are none.
    fn scrape(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        if let Err(failure) = query::scrape(request.query, &mut self.hashes) {
            return Ok(self.fail(failure, responder));
        }
        if self.hashes.is_empty() {
            let is_admin = self.is_admin(request);
            // All clients that a proxy does not name are one.
            let client = request.client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            let is_head = request.method == Method::Head;
            let second = responder.monitor.now / 1000;
            let permit = self.limiter.admit(client, is_admin, is_head, second)?;
            return Ok(Content::Torrents(Format::Ben, permit));
        }
        responder.counters.http_scrapes += 1;
        let body = &mut self.body;
        body.extend_from_slice(b"d5:filesd");
        responder.scrape(&self.hashes, &mut |hash, counts| {
            if let Some(counts) = counts {
                bencode::scraped(body, hash, counts);
            }
        });
        body.extend_from_slice(b"ee");
        Ok(TEXT)
    }

    /// Clients show a failure reason to their users (BEP 3), but not an HTTP status.
    fn fail(&mut self, failure: FailureReason, responder: &mut Responder) -> Content {
        responder.counters.http_refused += 1;
        self.body.extend_from_slice(b"d14:failure reason");
        bencode::string(&mut self.body, failure.as_bytes());
        self.body.push(b'e');
        TEXT
    }
}

/// The name or address in a `Host` header, alone and with its port, if a URL may hold them.
fn host_name(field: &[u8]) -> Option<(&str, &str)> {
    let field = std::str::from_utf8(field).ok()?;
    let (name, port) = match field.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (field, ""),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_valid = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.len() <= 253 && name.bytes().all(is_name),
    };
    let is_port = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    (is_valid && is_port).then_some((name, field))
}

/// Writes the reply to an announce, a dictionary with its keys in sorted order.
fn write_announce(body: &mut Vec<u8>, request: &responder::Announce, counters: &mut Counters) {
    let (counts, interval) = match request.reply {
        Reply::Accepted(counts, interval) => (counts, interval),
        Reply::Refused(kind) => {
            counters.http_unauthorized += 1;
            return body.extend_from_slice(kind.failure());
        }
    };
    let sinks = &request.sinks;
    body.extend_from_slice(b"d8:complete");
    bencode::integer(body, counts.seeders.into());
    body.extend_from_slice(b"10:downloaded");
    bencode::integer(body, counts.downloaded.into());
    body.extend_from_slice(b"11:external ip");
    match request.source.to_canonical() {
        IpAddr::V4(ip) => bencode::string(body, &ip.octets()),
        IpAddr::V6(ip) => bencode::string(body, &ip.octets()),
    }
    body.extend_from_slice(b"10:incomplete");
    bencode::integer(body, counts.leechers.into());
    body.extend_from_slice(b"8:interval");
    bencode::integer(body, interval.into());
    body.extend_from_slice(b"12:min interval");
    bencode::integer(body, (interval / 2).max(1).into());
    // Never left out, as old versions of libtorrent fail without it.
    body.extend_from_slice(b"5:peers");
    bencode::string(body, sinks.v4.bytes());
    if !sinks.v6.is_empty() {
        body.extend_from_slice(b"6:peers6");
        bencode::string(body, sinks.v6.bytes());
    }
    body.push(b'e');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_shown_only_if_a_url_may_hold_it() {
        for (field, name) in [
            ("t.example", "t.example"),
            ("t.example:80", "t.example"),
            ("192.0.2.1:6969", "192.0.2.1"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
            ("t.example:", "t.example"),
        ] {
            assert_eq!(host_name(field.as_bytes()), Some((name, field)));
        }
        for bad in [
            "", ":80", "a b", "<b>", "x\u{e9}", "a:b", "[::1", "[x]", "::1", "a/b", "u@h",
            "a:80:90",
        ] {
            assert_eq!(host_name(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(host_name(&[b'a'; 254]), None);
        assert_eq!(host_name(b"\xff"), None);
    }
}
