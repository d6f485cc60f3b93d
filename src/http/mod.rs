//! Announces and scrapes over HTTP: just as much of HTTP/1 as trackers and their clients use.
//!
//! A connection owns no buffer while it waits for a request, and a request that arrives whole is parsed
//! where it was read and answered from one buffer that all connections share. Only what is left
//! half-read or half-written costs a connection memory.

mod connection;
mod forwarded;
mod gate;
mod listener;
mod proxies;
mod proxy_protocol;
mod register;
mod request;
mod response;
mod routes;
mod streaming;

pub use connection::{Connections, Context, Turn};
pub use gate::{FullScrapes, Gate};
pub use listener::Listener;
pub use proxies::Proxies;
pub use register::Room;
pub use routes::{Policy, Site};
