//! Paths, and the reply of each: announces, scrapes, statistics.

use super::full_scrape::{self, Limiter};
use super::proxy::{Client, Proxies};
use super::request::{self, Request};
use super::response::{self, Status};
use super::streaming::{Source, Streaming};
use crate::access::Refusal;
use crate::base::nets::{self, Net};
use crate::base::text::{fill, text, texts};
use crate::options::{Options, Protocol};
use crate::protocol::query::{self, Encoded, FailureReason};
use crate::protocol::{bencode, split_at_byte};
use crate::responder::{Pending, Reply, Responder};
use crate::stats::cluster::Health;
use crate::stats::modes::{self, Report};
use crate::stats::{self, page};
use crate::tracker::{Counts, Hint, InfoHash, MAX_REPLY_PEERS, Peer, Sinks};
use std::borrow::Cow;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The admin's options, and the limits that all threads share.
pub struct Policy {
    /// Where `/` leads to.
    pub redirect: Option<String>,
    /// Clients that may see all statistics, besides the loopback.
    pub admins: Vec<Net>,
    /// Whether others may see the statistics that list no torrents or peers.
    pub public_stats: bool,
    /// The path of the statistics, with the slash in front.
    pub stats_path: String,
    /// Whether statistics are served on sockets of their own, and on no others.
    pub has_admin_sockets: bool,
    /// The addresses that `/` lists.
    pub sockets: Vec<(Protocol, SocketAddr)>,
    pub limiter: Limiter,
    pub proxies: Proxies,
}

impl Policy {
    pub fn new(
        options: &Options,
        sockets: Vec<(Protocol, SocketAddr)>,
        limiter: Limiter,
    ) -> Policy {
        Policy {
            redirect: Some(options.redirect.clone()).filter(|url| !url.is_empty()),
            admins: options.admins.clone(),
            public_stats: options.public_stats,
            stats_path: options.stats_path.clone(),
            has_admin_sockets: options.has_admin_sockets(),
            sockets,
            limiter,
            proxies: Proxies {
                nets: options.proxies.clone(),
                header: options.proxy_header.clone(),
                protocol: options.proxy_protocol,
            },
        }
    }

    /// The same with other options.
    pub fn with(&self, options: &Options) -> Policy {
        let limiter = self.limiter.with(options.full_scrapes);
        Policy::new(options, self.sockets.clone(), limiter)
    }
}

/// For a client that announces where statistics are.
const NO_ANNOUNCES: &str = "400 Bad Request: announce at /announce\n";

/// Seconds after which a node that is syncing may have all peers.
const SYNCING_RETRY_S: u64 = 1;

/// Makes a thread's replies.
pub struct Site {
    pub policy: Arc<Policy>,
    /// Replies to one connection, or the slice of one.
    pub output: Vec<u8>,
    /// A slice of the table before it is compressed and framed.
    pub slice: Vec<u8>,
    /// Work of this round, in requests answered.
    pub work: usize,
    /// The position of the next announce's torrent, if it was looked up ahead.
    pub hint: Hint,
    /// The last body, whether it was sent or not.
    pub body: Vec<u8>,
    hashes: Vec<InfoHash>,
    /// For the peers of a reply; zeroed once and not for each request.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

/// The content of a reply.
enum Content {
    /// The body is made, and has this type.
    Body(&'static str),
    /// The body is made while it is sent: every torrent, or the findings of a walk over the table.
    Streamed(Box<dyn Source>),
}

const TEXT: Content = Content::Body("text/plain");

impl Site {
    pub fn new(policy: Arc<Policy>) -> Site {
        Site {
            policy,
            output: Vec::new(),
            slice: Vec::new(),
            work: 0,
            hint: Hint::default(),
            body: Vec::new(),
            hashes: Vec::new(),
            v4: vec![0; MAX_REPLY_PEERS * 6],
            v6: vec![0; MAX_REPLY_PEERS * 18],
        }
    }

    /// Appends the reply to a request to `output`. If the body is made while it is sent, only the head is appended, and
    /// the maker of the body is returned.
    pub fn answer(
        &mut self,
        request: &Request,
        responder: &mut Responder,
    ) -> Option<Box<Streaming>> {
        self.body.clear();
        let content = self.serve(request, responder);
        let (out, body) = (&mut self.output, &self.body);
        match content {
            Ok(Content::Body(content_type)) => {
                response::write(out, Status::Ok, content_type, &[], body, request);
            }
            Ok(Content::Streamed(source)) => {
                let is_full_scrape = source.is_full_scrape();
                let content_type = match is_full_scrape {
                    // opentracker's type of all formats.
                    true => "application/octet-stream",
                    false => "text/plain",
                };
                response::write_streaming(out, content_type, request, source.is_gzip());
                if !request.is_head {
                    responder.counters.full_scrapes += u64::from(is_full_scrape);
                    return Some(Box::new(Streaming::new(source, !request.is_1_0)));
                }
            }
            Err(status) => {
                responder.counters.count_http_error(status.code());
                let url = self.policy.redirect.as_deref().unwrap_or_default();
                response::write_error(out, status, url, body, request);
            }
        }
        None
    }

    /// Makes the content of a reply. With an error, a body may explain the status.
    ///
    /// Published torrents hold announce URLs of every kind, so the query decides whether a request is an announce or
    /// the scrape of a torrent, and the first letters of the path's last segment which of them.
    fn serve(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        if let Some(status) = request.refusal {
            return Err(status);
        }
        let names_torrent = || query::names_torrent(request.query);
        let content = match (request.path, letters(request.path)) {
            _ if request.client == Client::Admin => self.report(request, responder)?,
            (path, _) if self.takes_no_announce(path) && names_torrent() => {
                self.text(NO_ANNOUNCES);
                return Err(Status::BadRequest);
            }
            (b"robots.txt", _) => self.text("User-agent: *\nDisallow: /\n"),
            (path, _) if self.takes_no_announce(path) => self.report(request, responder)?,
            (_, [b's', b'c']) => return self.scrape(request, responder),
            (_, [b'a', _]) => return self.announce(request, responder),
            _ if names_torrent() => return self.announce(request, responder),
            (b"", _) => self.root(request)?,
            _ => return Err(Status::NotFound),
        };
        // Full scrapes have a counter of their own.
        if !matches!(&content, Content::Streamed(source) if source.is_full_scrape()) {
            responder.counters.http_others += 1;
        }
        Ok(content)
    }

    fn is_stats(&self, path: &[u8]) -> bool {
        self.policy.stats_path.as_bytes().strip_prefix(b"/") == Some(path)
    }

    /// The paths at which an announce is an error.
    fn takes_no_announce(&self, path: &[u8]) -> bool {
        self.is_stats(path) || [&b"metrics"[..], b"health", b"robots.txt"].contains(&path)
    }

    /// Statistics, metrics and health. A socket of admins serves nothing else.
    fn report(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        match request.path {
            b"metrics" => self.metrics(request, responder),
            b"health" => self.health(responder),
            path if self.is_stats(path) => self.stats(request, responder),
            _ => Err(Status::NotFound),
        }
    }

    fn text(&mut self, words: &str) -> Content {
        text(&mut self.body, words);
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

    /// The loopback is an admin, unless a proxy on this host passed the request on. That proxy may be none of ours.
    fn is_admin(&self, request: &Request) -> bool {
        let policy = &self.policy;
        let address = request.client.address().map(|c| c.to_canonical());
        match (request.client, address) {
            (Client::Admin, _) => true,
            (_, Some(c)) if nets::any_contains(&policy.admins, c) => true,
            (Client::Direct(_), Some(c)) => {
                c.is_loopback() && !policy.proxies.is_forwarded(request.lines)
            }
            _ => false,
        }
    }

    /// Refuses a client that may not see statistics, which are private if they list torrents or peers.
    fn check_access(&mut self, request: &Request, is_private: bool) -> Result<(), Status> {
        if self.policy.has_admin_sockets && request.client != Client::Admin {
            return Err(Status::NotFound);
        }
        let is_public = self.policy.public_stats && !is_private;
        match is_public || self.is_admin(request) {
            true => Ok(()),
            false => Err(self.forbid("statistics", request)),
        }
    }

    /// Says what a client needs to be an admin.
    fn forbid(&mut self, what: &str, request: &Request) -> Status {
        let why = match request.client {
            // Else it would be an admin.
            Client::Direct(c) if c.to_canonical().is_loopback() => Cow::Owned(format!(
                "requires --proxy {c} for the proxy that passed this on, and --admin for its client"
            )),
            Client::Direct(c) | Client::Named(c) => Cow::Owned(format!("requires --admin {c}")),
            client => why_unknown(client),
        };
        let body = ["403 Forbidden: ", what, " are for admins: ", &why, "\n"];
        texts(&mut self.body, &body);
        Status::Forbidden
    }

    fn metrics(&mut self, request: &Request, responder: &Responder) -> Result<Content, Status> {
        self.check_access(request, false)?;
        let is_admin = self.is_admin(request);
        stats::write_metrics(&responder.view(), is_admin, &mut self.body);
        Ok(Content::Body("text/plain; version=0.0.4; charset=utf-8"))
    }

    fn stats(&mut self, request: &Request, responder: &mut Responder) -> Result<Content, Status> {
        self.check_access(request, false)?;
        let mode = match query::value(request.query, b"mode") {
            Some(name) => modes::find(&name).ok_or(Status::BadRequest)?,
            None => &modes::MODES[0],
        };
        self.check_access(request, mode.is_private)?;
        Ok(match mode.report {
            Report::Text(write) => {
                write(&responder.view(), &mut self.body);
                TEXT
            }
            Report::Json(write) => {
                write(&responder.view(), &mut self.body);
                Content::Body("application/json")
            }
            Report::Html => {
                let (is_admin, shows_hour) = (
                    self.is_admin(request),
                    query::value(request.query, b"hour").is_some(),
                );
                page::write(&responder.view(), is_admin, shows_hour, &mut self.body);
                Content::Body("text/html; charset=utf-8")
            }
            Report::Torrents => Content::Streamed(full_scrape::report(request, None)?),
            Report::State => {
                let minute = responder.monitor.seconds_since_1970() / 60;
                Content::Streamed(full_scrape::report(request, Some(minute))?)
            }
            Report::Walk(begin) => Content::Streamed(Box::new(begin(&mut responder.random))),
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
        let scheme = scheme(request);
        let own = host.map(|(_, with_port)| format!("{scheme}://{with_port}"));
        let mut urls: Vec<String> = own.into_iter().collect();
        for (protocol, address) in &self.policy.sockets {
            let url = match (protocol, host) {
                (Protocol::Udp, Some((name, _))) => {
                    Some(format!("udp://{name}:{}", address.port()))
                }
                (Protocol::Udp, None) => Some(format!("udp://{address}")),
                (Protocol::Tcp, None) => Some(format!("http://{address}")),
                // The request's own host and port are in the list already.
                (Protocol::Tcp, Some(_)) => None,
            };
            urls.extend(url.filter(|url| !urls.contains(url)));
        }
        let urls: String = urls.iter().map(|url| format!("{url}/announce\n")).collect();
        Ok(self.text(&urls))
    }

    fn announce(
        &mut self,
        request: &Request,
        responder: &mut Responder,
    ) -> Result<Content, Status> {
        let Some(client) = request.client.address() else {
            let why = why_unknown(request.client);
            texts(&mut self.body, &["400 Bad Request: ", &why, "\n"]);
            return Err(Status::BadRequest);
        };
        let address = responder.address_of(client, || query::named(request.query));
        let mut announce = match query::announce(request.query, address) {
            Ok(announce) => announce,
            Err(failure) => return Ok(self.fail(failure, responder)),
        };
        responder.counters.http_announces += 1;
        announce.hint = self.hint.take();
        let is_logged = responder.logs(announce.event);
        let peer = announce.peer;
        let mut announces = [Some(Pending {
            announce,
            peer_id: is_logged.then(|| query::peer_id(request.query)).flatten(),
            sinks: Sinks::new(&mut self.v4, &mut self.v6),
        })];
        let [reply, ..] = responder.announce(&mut announces);
        match (reply, announces) {
            (Some(Reply::Accepted(counts, interval)), [Some(Pending { sinks, .. })]) => {
                write_announce(&mut self.body, counts, interval, peer, &sinks);
            }
            (Some(Reply::Refused(refusal)), _) => {
                responder.counters.http_unauthorized += 1;
                write_refusal(&mut self.body, refusal);
            }
            _ => {}
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
            let second = responder.monitor.now / 1000;
            let scrape = full_scrape::admit(&self.policy.limiter, request, is_admin, second);
            return match scrape {
                Err(Status::Forbidden) if self.policy.limiter.is_off() => {
                    self.text("403 Forbidden: full scrapes are off; scrape with an info_hash\n");
                    Err(Status::Forbidden)
                }
                Err(Status::Forbidden) => Err(self.forbid("full scrapes", request)),
                scrape => Ok(Content::Streamed(scrape?)),
            };
        }
        responder.counters.http_scrapes += 1;
        let body = &mut self.body;
        text(body, "d5:filesd");
        // With zeros as over UDP: there are clients that wait for each torrent that they scrape.
        responder.scrape(&self.hashes, &mut |hash, counts| {
            bencode::scraped(body, hash, counts.unwrap_or_default());
        });
        text(body, "ee");
        Ok(TEXT)
    }

    /// Clients show a failure reason to their users (BEP 3), but not an HTTP status.
    fn fail(&mut self, failure: FailureReason, responder: &mut Responder) -> Content {
        responder.counters.http_failures += 1;
        self.text("d14:failure reason");
        bencode::string(&mut self.body, failure.as_bytes());
        self.text("e")
    }
}

/// Why the client of a request is not known, for the admin of the proxy.
fn why_unknown(client: Client) -> Cow<'static, str> {
    match client {
        Client::Proxy(c) => Cow::Owned(format!(
            "the client that a proxy names, {c}, is itself in a --proxy network"
        )),
        _ => Cow::Borrowed("this came from a proxy that does not name its client"),
    }
}

/// The scheme by which a client reached the first proxy, or this tracker. Only that client is shown it.
fn scheme(request: &Request) -> &'static str {
    let list = request.field(b"x-forwarded-proto").unwrap_or_default();
    let (first, _) = split_at_byte(list, b',');
    match request::trim(first).eq_ignore_ascii_case(b"https") {
        true => "https",
        false => "http",
    }
}

/// The first two letters of the last segment of a path, in lower case; zeros after its end.
fn letters(path: &[u8]) -> [u8; 2] {
    let segment = path.rsplit(|&b| b == b'/').find(|s| !s.is_empty());
    let mut bytes = Encoded(segment.unwrap_or_default()).map(Option::unwrap_or_default);
    [(); 2].map(|()| bytes.next().unwrap_or(0).to_ascii_lowercase())
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

/// Writes the reply to an announce of a torrent that the list refuses. libtorrent obeys the intervals, other clients
/// `retry in` (BEP 31).
fn write_refusal(body: &mut Vec<u8>, refusal: Refusal) {
    text(body, "d14:failure reason");
    bencode::string(body, refusal.kind.message.as_bytes());
    let interval = u64::from(refusal.interval);
    let keys = "8:intervali$e12:min intervali$e8:retry in";
    fill(body, keys, &[interval, interval]);
    match refusal.retry_minutes() {
        Some(minutes) => bencode::integer(body, minutes),
        None => bencode::string(body, b"never"),
    }
    body.push(b'e');
}

/// Writes the reply to an announce, a dictionary with its keys in sorted order.
fn write_announce(body: &mut Vec<u8>, counts: Counts, interval: u32, peer: Peer, sinks: &Sinks) {
    let [address @ .., _, _] = peer.endpoint() else {
        return;
    };
    let [complete, incomplete, downloaded, interval] =
        [counts.seeders, counts.leechers, counts.downloaded, interval].map(u64::from);
    let keys = "d8:completei$e10:downloadedi$e11:external ip";
    fill(body, keys, &[complete, downloaded]);
    bencode::string(body, address);
    let keys = "10:incompletei$e8:intervali$e12:min intervali$e5:peers";
    fill(body, keys, &[incomplete, interval, (interval / 2).max(1)]);
    // Never left out, as old versions of libtorrent fail without it.
    bencode::string(body, sinks.v4.bytes());
    if !sinks.v6.bytes().is_empty() {
        text(body, "6:peers6");
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
