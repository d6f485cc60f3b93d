//! From a request to its reply: which path means what, and what the tracker says.

use super::gate::{Closed, Gate, Seat};
use super::request::{Method, Request};
use super::response::{self, Framing, Status};
use super::streaming::{Source, Streaming};
use crate::fullscrape::{Format, FullScrape};
use crate::nets::{self, Net};
use crate::options::Protocol;
use crate::proto::bencode;
use crate::proto::query::{self, Encoded, Refusal};
use crate::responder::{self, Reply, Responder};
use crate::stats::cluster::Health;
use crate::stats::modes::{self, Report};
use crate::stats::walks::Walk;
use crate::stats::{self, Counters, page};
use crate::tracker::{Hint, InfoHash, MOST_PEERS, Role, Sink, Sinks};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// What the admin decides about the site.
#[derive(Default)]
pub struct Policy {
    /// Where `/` leads to.
    pub redirect: Option<String>,
    /// Who may see all statistics, besides the loopback.
    pub admins: Vec<Net>,
    /// Whether others may see those that name nobody.
    pub public_stats: bool,
    /// Where they are, with the slash in front.
    pub stats_path: String,
    /// The sockets' addresses, for those who ask what this is.
    pub sockets: Vec<(Protocol, SocketAddr)>,
}

/// What the admin of a proxy reads whose clients cannot announce.
const NO_CLIENT: &[u8] = b"400 Bad Request: this came from a proxy that does not name its client\n";

/// Seconds after which a node that joins a cluster may be whole.
const SYNCING: u32 = 1;

/// What is served, and the buffers to make replies in.
pub struct Site {
    policy: Arc<Policy>,
    gate: Gate,
    body: Vec<u8>,
    hashes: Vec<InfoHash>,
    /// Where the tracker puts peers of either family; zeroed once and not for each request.
    v4: Box<[u8]>,
    v6: Box<[u8]>,
}

/// What a path stands for.
enum Route {
    Root,
    Announce,
    Scrape,
    Stats,
    Metrics,
    Health,
    Robots,
    Unknown,
}

impl Route {
    /// Published torrents hold announce URLs of every kind, so only the first letters count, as they
    /// do in opentracker.
    fn of(path: &[u8], stats_path: &str) -> Route {
        let mut letters = Encoded(path).map(Option::unwrap_or_default);
        match (letters.next(), letters.next()) {
            (None, _) => Route::Root,
            (Some(b'a'), _) => Route::Announce,
            (Some(b's'), Some(b'c')) => Route::Scrape,
            _ => match path {
                b"metrics" => Route::Metrics,
                b"health" => Route::Health,
                b"robots.txt" => Route::Robots,
                _ if stats_path.as_bytes().strip_prefix(b"/") == Some(path) => Route::Stats,
                _ => Route::Unknown,
            },
        }
    }
}

/// What a reply brings.
enum Content {
    /// The body that has been made, and its type.
    Body(&'static str),
    /// Every torrent.
    Torrents(Format, Option<Seat>),
    /// What a walk over the table finds.
    Walk(Walk),
}

const TEXT: Content = Content::Body("text/plain");

impl Site {
    /// The policy and the gate are shared by all threads.
    pub fn new(policy: Arc<Policy>, gate: Gate) -> Site {
        Site {
            policy,
            gate,
            body: Vec::new(),
            hashes: Vec::new(),
            v4: vec![0; MOST_PEERS * 6].into_boxed_slice(),
            v6: vec![0; MOST_PEERS * 18].into_boxed_slice(),
        }
    }

    /// Bytes of the body that was made last, whether it was sent or not.
    pub fn made(&self) -> usize {
        self.body.len()
    }

    /// Whether this client may see everything. One that its proxy does not name may not.
    pub fn is_admin(&self, client: Option<IpAddr>) -> bool {
        client.is_some_and(|client| {
            let client = client.to_canonical();
            client.is_loopback() || nets::any_contains(&self.policy.admins, client)
        })
    }

    /// Appends the reply to a request, or its head alone if the body is to be streamed behind it. Who
    /// sent it is not known if a proxy does not say.
    pub fn answer(
        &mut self,
        request: &Request,
        client: Option<IpAddr>,
        hint: Hint,
        framing: Framing,
        responder: &mut Responder,
        out: &mut Vec<u8>,
    ) -> Option<Box<Streaming>> {
        self.body.clear();
        let result = match request.method {
            Method::Other => Err(Status::MethodNotAllowed),
            Method::Get | Method::Head => self.visit(request, client, hint, responder),
        };
        let error = match result {
            Ok(Content::Body(of_type)) => {
                response::write_typed(out, Status::Ok, of_type, &[], &self.body, framing);
                return None;
            }
            Ok(Content::Walk(walk)) => {
                response::write_streaming(out, "text/plain", framing, false);
                let streaming = Streaming::new(Source::Walk(walk), framing, None);
                return (!framing.head_only).then(|| Box::new(streaming));
            }
            Ok(Content::Torrents(format, seat)) => {
                return stream(format, seat, request, framing, responder, out);
            }
            Err(error) => error,
        };
        responder.counters.count_http_error(error.code());
        match (error, &self.policy.redirect) {
            (Status::Found, Some(url)) => {
                let location = [b"Location: ", url.as_bytes(), b"\r\n"];
                response::write(out, error, &location, b"", framing);
            }
            _ if !self.body.is_empty() => {
                response::write_error_saying(out, error, &self.body, framing);
            }
            _ => response::write_error(out, error, framing),
        }
        None
    }

    /// Makes the body of a reply, and tells its type. With an error, a body says more than its name.
    fn visit(
        &mut self,
        request: &Request,
        client: Option<IpAddr>,
        hint: Hint,
        responder: &mut Responder,
    ) -> Result<Content, Status> {
        match Route::of(request.path, &self.policy.stats_path) {
            Route::Announce => match client {
                Some(client) => self.announce(request.query, client, hint, responder),
                None => {
                    self.body.extend_from_slice(NO_CLIENT);
                    return Err(Status::BadRequest);
                }
            },
            Route::Scrape => match query::scrape(request.query, &mut self.hashes) {
                Ok(()) if self.hashes.is_empty() => {
                    return self.full_scrape(request, client, responder);
                }
                Ok(()) => self.scrape(responder),
                Err(refusal) => self.refuse(refusal, responder),
            },
            Route::Root if self.policy.redirect.is_some() => return Err(Status::Found),
            Route::Root => self.greet(request, responder),
            Route::Stats => return self.stats(request.query, client, responder),
            Route::Metrics => return self.metrics(client, responder),
            Route::Health => match responder.health() {
                Some(Health::Syncing) => {
                    // A load balancer then leaves this node out.
                    self.say("syncing\n", responder);
                    return Err(Status::Unavailable(SYNCING));
                }
                Some(Health::Alone) => self.say("alone\n", responder),
                Some(Health::Ok) | None => self.say("ok\n", responder),
            },
            Route::Robots => self.say("User-agent: *\nDisallow: /\n", responder),
            Route::Unknown => return Err(Status::NotFound),
        }
        Ok(TEXT)
    }

    fn metrics(
        &mut self,
        client: Option<IpAddr>,
        responder: &mut Responder,
    ) -> Result<Content, Status> {
        if !self.may_see(client, false) {
            return Err(Status::Forbidden);
        }
        let mut view = responder.view();
        if let Some(cluster) = view.cluster.as_mut().filter(|_| !self.is_admin(client)) {
            cluster.hide_nodes();
        }
        stats::write_metrics(&view, &mut self.body);
        responder.counters.http_others += 1;
        Ok(Content::Body("text/plain; version=0.0.4; charset=utf-8"))
    }

    fn say(&mut self, text: &str, responder: &mut Responder) {
        self.body.extend_from_slice(text.as_bytes());
        responder.counters.http_others += 1;
    }

    /// Whether a client may see a report, which is private if it names torrents or peers.
    fn may_see(&self, client: Option<IpAddr>, is_private: bool) -> bool {
        self.policy.public_stats && !is_private || self.is_admin(client)
    }

    /// A report of `/stats`; tells the type of its text.
    fn stats(
        &mut self,
        query: &[u8],
        client: Option<IpAddr>,
        responder: &mut Responder,
    ) -> Result<Content, Status> {
        if !self.may_see(client, false) {
            return Err(Status::Forbidden);
        }
        // A client that took this for an announce URL should stop.
        if query::value(query, b"info_hash").is_some() {
            return Err(Status::BadRequest);
        }
        let mode = match query::value(query, b"mode") {
            Some(name) => modes::find(&name).ok_or(Status::BadRequest)?,
            None => &modes::MODES[0],
        };
        if !self.may_see(client, mode.is_private) {
            return Err(Status::Forbidden);
        }
        if let Report::Walk(begin) = mode.report {
            responder.counters.http_others += 1;
            return Ok(Content::Walk(begin(&mut responder.random)));
        }
        let mut view = responder.view();
        let of_type = match mode.report {
            Report::Text(write) => {
                write(&view, &mut self.body);
                "text/plain"
            }
            Report::Html => {
                view.cluster = view.cluster.filter(|_| self.is_admin(client));
                page::write(&view, &mut self.body);
                "text/html; charset=utf-8"
            }
            Report::Torrents => {
                let format = match query::value(query, b"format") {
                    Some(name) => Format::named(&name).ok_or(Status::BadRequest)?,
                    None => Format::Ben,
                };
                return Ok(Content::Torrents(format, None));
            }
            Report::State => {
                let now = responder.monitor.seconds_since_1970() / 60;
                return Ok(Content::Torrents(Format::State { now }, None));
            }
            Report::Walk(_) | Report::Gone => return Err(Status::NotFound),
        };
        responder.counters.http_others += 1;
        Ok(Content::Body(of_type))
    }

    /// Says what this is, and how to announce to it.
    fn greet(&mut self, request: &Request, responder: &mut Responder) {
        self.say(
            concat!(
                "This is announced ",
                env!("CARGO_PKG_VERSION"),
                ", a BitTorrent tracker. To announce a torrent, put one of these URLs into it:\n\n"
            ),
            responder,
        );
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
                // By the name that it was asked by, it is above already.
                (Protocol::Tcp, Some(_)) => continue,
            };
            urls.push(url + "/announce\n");
        }
        urls.dedup();
        self.body.extend_from_slice(urls.concat().as_bytes());
    }

    fn announce(&mut self, query: &[u8], client: IpAddr, hint: Hint, responder: &mut Responder) {
        match query::announce(query) {
            Ok(announce) => {
                responder.counters.http_announces += 1;
                let is_logged = responder.logs(announce.event);
                let mut request = [Some(responder::Announce {
                    info_hash: &announce.info_hash,
                    source: client,
                    port: announce.port,
                    role: Role::of_left(announce.left),
                    event: announce.event,
                    numwant: announce.num_want,
                    peer_id: is_logged.then(|| query::peer_id(query)).flatten(),
                    hint,
                    sinks: Sinks {
                        v4: Sink::new(&mut self.v4),
                        v6: Sink::new(&mut self.v6),
                    },
                    reply: Reply::default(),
                })];
                responder.announce(&mut request);
                for request in request.iter().flatten() {
                    write_announce(&mut self.body, request, &mut responder.counters);
                }
            }
            Err(refusal) => self.refuse(refusal, responder),
        }
    }

    /// Scrapes the torrents that were asked for.
    fn scrape(&mut self, responder: &mut Responder) {
        responder.counters.http_scrapes += 1;
        let body = &mut self.body;
        body.extend_from_slice(b"d5:filesd");
        responder.scrape(&self.hashes, &mut |hash, counts| {
            if let Some(counts) = counts {
                bencode::scraped(body, hash, counts);
            }
        });
        body.extend_from_slice(b"ee");
    }

    /// Scrapes all there are, for whom the gate lets in. Those whom a proxy does not name are one.
    fn full_scrape(
        &mut self,
        request: &Request,
        client: Option<IpAddr>,
        responder: &Responder,
    ) -> Result<Content, Status> {
        let is_admin = self.is_admin(client);
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let only_asks = request.method == Method::Head;
        let second = responder.monitor.now / 1000;
        match self.gate.enter(client, is_admin, only_asks, second) {
            Ok(seat) => Ok(Content::Torrents(Format::Ben, Some(seat))),
            Err(Closed::Forbidden) => Err(Status::Forbidden),
            Err(Closed::TooSoon(seconds)) => Err(Status::TooManyRequests(seconds)),
            Err(Closed::Full(seconds)) => Err(Status::Unavailable(seconds)),
        }
    }

    /// Clients show a failure reason to their user (BEP 3), which an HTTP status they do not.
    fn refuse(&mut self, refusal: Refusal, responder: &mut Responder) {
        responder.counters.http_refused += 1;
        self.body.extend_from_slice(b"d14:failure reason");
        bencode::string(&mut self.body, refusal.as_bytes());
        self.body.push(b'e');
    }
}

/// Writes the head of a reply that tells of every torrent; what makes its body.
fn stream(
    format: Format,
    seat: Option<Seat>,
    request: &Request,
    framing: Framing,
    responder: &mut Responder,
    out: &mut Vec<u8>,
) -> Option<Box<Streaming>> {
    let is_gzip = request.accepts_gzip();
    // As opentracker calls all of them.
    response::write_streaming(out, "application/octet-stream", framing, is_gzip);
    if framing.head_only {
        return None;
    }
    responder.counters.full_scrapes += 1;
    let source = Source::Torrents(FullScrape::new(format, is_gzip));
    Some(Box::new(Streaming::new(source, framing, seat)))
}

/// The name or address in a `Host` header, alone and with its port: what a URL may hold, so that it
/// may be shown.
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

/// Writes what an announce is answered: a dictionary with its keys in sorted order.
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
    // Always there: old versions of libtorrent fail without.
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
    fn only_a_host_that_may_be_in_a_url_is_shown() {
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

    #[test]
    fn paths_mean_what_they_say() {
        let route = |path: &str| Route::of(path.as_bytes(), "/stats");
        assert!(matches!(route("announce"), Route::Announce));
        assert!(matches!(route("scrape"), Route::Scrape));
        assert!(matches!(route("stats"), Route::Stats));
        assert!(matches!(route("metrics"), Route::Metrics));
        assert!(matches!(route("health"), Route::Health));
        assert!(matches!(route("robots.txt"), Route::Robots));
        for unknown in [
            "stats2",
            "stat",
            "stats/",
            "robots",
            "Health",
            "favicon.ico",
        ] {
            assert!(matches!(route(unknown), Route::Unknown), "{unknown}");
        }
        assert!(matches!(Route::of(b"s/x", "/s/x"), Route::Stats));
    }
}
