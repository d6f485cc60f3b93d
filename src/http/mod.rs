//! HTTP: announces, scrapes, statistics and full scrapes, in as much of HTTP/1 as trackers and their clients use.
//!
//! A tracker's requests and replies are short, its connections many, and most of them idle. So a connection owns no
//! buffer while it waits. A request that arrives whole is parsed where it was read and answered from a buffer that all
//! connections share; only bytes that are half-read or half-written cost a connection memory.
//!
//! A request's way: [`Connections::accept`] takes a connection from a [`Listener`] into the pool and queues it. In its
//! turn it reads (`connection`), finds the client behind a proxy (`proxy`), parses the head (`request`), and asks the
//! [`Site`], where a path leads to an announce, a scrape or a report (`site`). The reply is framed (`response`) and
//! sent. A full scrape is made by the slice while it is sent (`full_scrape`, `streaming`), to as many clients as the
//! [`Limiter`] admits. The pool closes connections at their deadlines, and before them where memory or the number of
//! connections is at its limit.

mod connection;
mod connections;
#[cfg(feature = "full-scrape")]
mod full_scrape;
#[cfg(not(feature = "full-scrape"))]
#[path = "no_full_scrape.rs"]
mod full_scrape;
#[cfg(feature = "full-scrape")]
mod limiter;
mod listener;
mod pool;
mod proxy;
pub mod request;
mod response;
mod site;
mod streaming;

pub use connections::{Connections, Context};
pub use full_scrape::Limiter;
pub use listener::Listener;
pub use pool::SharedLimits;
pub use proxy::Proxies;
pub use site::{Policy, Site};
