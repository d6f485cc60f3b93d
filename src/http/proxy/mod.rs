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
    /// The header that names a client. Empty for `X-Forwarded-For` and `Forwarded`.
    pub header: String,
    /// Whether they begin each connection with a PROXY header.
    pub protocol: bool,
}

/// The source of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(IpAddr),
    /// A client that a PROXY header names.
    Relayed(IpAddr),
    /// Any client of a socket of admins.
    Admin,
    /// A proxy that names the client in each request's head. With its address if a PROXY header named it.
    Proxy(Option<IpAddr>),
    /// A proxy whose PROXY header has not arrived.
    Pending,
    /// A PROXY header without a source. The head is not believed, as an unknown client may have written it.
    Unknown,
}

/// The client of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// A proxy does not name it.
    #[default]
    Unknown,
    /// A proxy names this address, which is that of a proxy.
    Proxy(IpAddr),
    /// A proxy names it.
    Named(IpAddr),
    /// The connection is its own.
    Direct(IpAddr),
    /// It is connected to a socket of admins.
    Admin,
}

impl Client {
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Client::Named(address) | Client::Direct(address) => Some(address),
            Client::Unknown | Client::Proxy(_) | Client::Admin => None,
        }
    }
}

impl Proxies {
    /// The origin of a new connection. Over a Unix socket it has no address.
    pub fn origin(&self, address: Option<IpAddr>) -> Origin {
        match address {
            Some(address) if !nets::any_contains(&self.nets, address) => Origin::Client(address),
            _ if self.protocol => Origin::Pending,
            _ => Origin::Proxy(None),
        }
    }

    /// Takes a PROXY header off the front of the input if one must come first. Its source may be another of our
    /// proxies.
    pub fn skip_header(&self, origin: &mut Origin, input: &mut &[u8]) -> Result<(), Invalid> {
        if *origin == Origin::Pending {
            *origin = match protocol::take_header(input)? {
                Some(address) if nets::any_contains(&self.nets, address) => {
                    Origin::Proxy(Some(address))
                }
                Some(address) => Origin::Relayed(address),
                None => Origin::Unknown,
            };
        }
        Ok(())
    }

    /// The client of a request with these header lines.
    pub fn client(&self, origin: Origin, lines: &[u8]) -> Client {
        match origin {
            Origin::Client(address) => Client::Direct(address),
            Origin::Relayed(address) => Client::Named(address),
            Origin::Admin => Client::Admin,
            Origin::Proxy(relayed) => match forwarded::client(lines, &self.header, &self.nets) {
                Client::Unknown => relayed.map_or(Client::Unknown, Client::Proxy),
                client => client,
            },
            Origin::Pending | Origin::Unknown => Client::Unknown,
        }
    }

    /// Whether a proxy has passed on a request with these header lines, as far as they show it.
    pub fn is_forwarded(&self, lines: &[u8]) -> bool {
        forwarded::is_forwarded(lines, &self.header)
    }
}
