//! Which connections come from proxies, and whom a request over each of them is from.

use super::forwarded;
use crate::nets::{self, Net};
use std::net::IpAddr;

/// The proxies that are believed about their clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Where they are; those that come over a Unix socket are believed too.
    pub nets: Vec<Net>,
    /// Whether they begin each connection with a PROXY header.
    pub protocol: bool,
}

/// Whom a connection's requests are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(IpAddr),
    /// A proxy, which names the client in each request's head.
    Proxy,
    /// A proxy whose PROXY header is yet to come.
    Unsaid,
    /// A proxy that relays it from it does not say whom, or speaks for itself. A head is not believed:
    /// the unnamed may have written it.
    Nobody,
}

impl Proxies {
    /// Of a connection from this address; over a Unix socket it has none.
    pub fn accepted(&self, address: Option<IpAddr>) -> Origin {
        match address {
            Some(address) if !nets::any_contains(&self.nets, address) => Origin::Client(address),
            _ if self.protocol => Origin::Unsaid,
            _ => Origin::Proxy,
        }
    }

    /// Of a connection that a proxy relays from this source. That may be another proxy of ours.
    pub fn relayed(&self, source: Option<IpAddr>) -> Origin {
        match source {
            Some(address) if nets::any_contains(&self.nets, address) => Origin::Proxy,
            Some(address) => Origin::Client(address),
            None => Origin::Nobody,
        }
    }

    /// Whom a request with this head is from, if that can be told.
    pub fn client(&self, origin: Origin, head: &[u8]) -> Option<IpAddr> {
        match origin {
            Origin::Client(address) => Some(address),
            Origin::Proxy => forwarded::client(head, &self.nets),
            Origin::Unsaid | Origin::Nobody => None,
        }
    }
}
