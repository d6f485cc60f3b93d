//! `announced`, a BitTorrent tracker: one thread, one poll loop, no allocation per request.
//!
//! The map of the house, arrows pointing down:

#![deny(unsafe_code)]

/// The seven-bit clock, the sorted peers, the table of torrents: announce, scrape, sweep.
pub mod tracker;

/// Numbers that need not be secret.
pub mod random;

/// A keyed hash for connection ids.
pub mod siphash;

/// Batches of datagrams, sockets, signals, privileges.
pub mod sys;
