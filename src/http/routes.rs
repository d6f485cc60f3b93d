//! From a request to its reply: which path means what, and what the tracker says.

use super::request::{Method, Request};
use super::response::{self, Framing, Status};
use crate::proto::bencode;
use crate::proto::query::{self, Encoded, Refusal};
use crate::service::Service;
use crate::tracker::{Announce, Hint, InfoHash, MOST_PEERS, Peer, Role, Sink, Sinks};
use std::net::IpAddr;

/// What the admin of a proxy reads whose clients cannot announce.
const NO_CLIENT: &[u8] = b"400 Bad Request: this came from a proxy that does not name its client\n";

/// What is served, and the buffers to make replies in.
pub struct Site {
    /// Where `/` leads to.
    redirect: Option<String>,
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
    Unknown,
}

impl Route {
    /// Published torrents hold announce URLs of every kind, so only the first letters count, as they
    /// do in opentracker.
    fn of(path: &[u8]) -> Route {
        let mut letters = Encoded(path).map(Option::unwrap_or_default);
        match (letters.next(), letters.next()) {
            (None, _) => Route::Root,
            (Some(b'a'), _) => Route::Announce,
            (Some(b's'), Some(b'c')) => Route::Scrape,
            _ => Route::Unknown,
        }
    }
}

impl Site {
    pub fn new(redirect: Option<String>) -> Site {
        Site {
            redirect,
            body: Vec::new(),
            hashes: Vec::new(),
            v4: vec![0; MOST_PEERS * 6].into_boxed_slice(),
            v6: vec![0; MOST_PEERS * 18].into_boxed_slice(),
        }
    }

    /// Appends the reply to a request. Who sent it is not known if a proxy does not say.
    pub fn answer(
        &mut self,
        request: &Request,
        client: Option<IpAddr>,
        hint: Hint,
        framing: Framing,
        service: &mut Service,
        out: &mut Vec<u8>,
    ) {
        let mut error = |status| {
            service.counters.http_errors += 1;
            response::write_error(out, status, framing);
        };
        if request.method == Method::Other {
            return error(Status::MethodNotAllowed);
        }
        self.body.clear();
        match Route::of(request.path) {
            Route::Announce => {
                let Some(client) = client else {
                    service.counters.http_errors += 1;
                    return response::write(out, Status::BadRequest, &[], NO_CLIENT, framing);
                };
                self.announce(request.query, client, hint, service);
            }
            Route::Scrape => self.scrape(request.query, service),
            Route::Root => {
                let Some(url) = &self.redirect else {
                    return error(Status::NotFound);
                };
                let location = [b"Location: ", url.as_bytes(), b"\r\n"];
                return response::write(out, Status::Found, &location, b"", framing);
            }
            Route::Unknown => return error(Status::NotFound),
        }
        response::write(out, Status::Ok, &[], &self.body, framing);
    }

    fn announce(&mut self, query: &[u8], client: IpAddr, hint: Hint, service: &mut Service) {
        match query::announce(query) {
            Ok(announce) => {
                service.counters.http_announces += 1;
                let sinks = Sinks {
                    v4: Sink::new(&mut self.v4),
                    v6: Sink::new(&mut self.v6),
                };
                write_announce(&mut self.body, &announce, client, hint, sinks, service);
            }
            Err(refusal) => self.refuse(refusal, service),
        }
    }

    fn scrape(&mut self, query: &[u8], service: &mut Service) {
        if let Err(refusal) = query::scrape(query, &mut self.hashes) {
            return self.refuse(refusal, service);
        }
        service.counters.http_scrapes += 1;
        let body = &mut self.body;
        body.extend_from_slice(b"d5:filesd");
        for hash in &self.hashes {
            let Some(counts) = service.tracker.scrape(hash) else {
                continue;
            };
            bencode::string(body, hash);
            body.extend_from_slice(b"d8:complete");
            bencode::integer(body, counts.seeders.into());
            body.extend_from_slice(b"10:downloaded");
            bencode::integer(body, counts.downloaded.into());
            body.extend_from_slice(b"10:incomplete");
            bencode::integer(body, counts.leechers.into());
            body.push(b'e');
        }
        body.extend_from_slice(b"ee");
    }

    /// Clients show a failure reason to their user (BEP 3), which an HTTP status they do not.
    fn refuse(&mut self, refusal: Refusal, service: &mut Service) {
        service.counters.http_errors += 1;
        self.body.extend_from_slice(b"d14:failure reason");
        bencode::string(&mut self.body, refusal.as_bytes());
        self.body.push(b'e');
    }
}

/// Announces to the tracker and writes what it answers: a dictionary with its keys in sorted order.
fn write_announce(
    body: &mut Vec<u8>,
    announce: &query::Announce,
    client: IpAddr,
    hint: Hint,
    mut sinks: Sinks,
    service: &mut Service,
) {
    let request = Announce {
        info_hash: &announce.info_hash,
        peer: Peer::new(client, announce.port),
        role: Role::of_left(announce.left),
        event: announce.event,
        want: service.want(announce.num_want),
        hint,
    };
    let counts = service
        .tracker
        .announce(&request, &mut service.random, &mut sinks);
    let interval = service.interval();
    body.extend_from_slice(b"d8:complete");
    bencode::integer(body, counts.seeders.into());
    body.extend_from_slice(b"10:downloaded");
    bencode::integer(body, counts.downloaded.into());
    body.extend_from_slice(b"11:external ip");
    match client.to_canonical() {
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
