//! Clients behind proxies: which connections come from a proxy, and from which client each of their requests comes.
//!
//! A proxy names its clients in headers of every request ([`forwarded`]), or in front of a connection that it relays
//! ([`protocol`]). Every client can write both, so they count only on connections from `--proxy` networks and Unix
//! sockets.

mod forwarded;
mod protocol;

use super::request::Invalid;
use crate::base::nets::{self, Net};
use std::net::IpAddr;

/// The proxies that are trusted to name their clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses. Connections over Unix sockets are from a proxy too.
    pub nets: Vec<Net>,
    /// Whether they begin each connection with a PROXY header.
    pub protocol: bool,
}

/// The source of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(IpAddr),
    /// A proxy that names the client in each request's head.
    Proxy,
    /// A proxy whose PROXY header has not arrived.
    Pending,
    /// A PROXY header without a source. The head is not believed, as an unknown client may have written it.
    Unknown,
}

impl Proxies {
    /// The origin of a new connection. Over a Unix socket it has no address.
    pub fn origin(&self, address: Option<IpAddr>) -> Origin {
        match address {
            Some(address) if !nets::any_contains(&self.nets, address) => Origin::Client(address),
            _ if self.protocol => Origin::Pending,
            _ => Origin::Proxy,
        }
    }

    /// Takes a PROXY header off the front of the input if one must come first. Its source may be another of our
    /// proxies.
    pub fn skip_header(&self, origin: &mut Origin, input: &mut &[u8]) -> Result<(), Invalid> {
        if *origin == Origin::Pending {
            *origin = match protocol::take_header(input)? {
                Some(address) if nets::any_contains(&self.nets, address) => Origin::Proxy,
                Some(address) => Origin::Client(address),
                None => Origin::Unknown,
            };
        }
        Ok(())
    }

    /// The client of a request with these header lines, if it is known.
    pub fn client(&self, origin: Origin, lines: &[u8]) -> Option<IpAddr> {
        match origin {
            Origin::Client(address) => Some(address),
            Origin::Proxy => forwarded::client(lines, &self.nets),
            Origin::Pending | Origin::Unknown => None,
        }
    }
}
