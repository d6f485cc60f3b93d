//! `announced`, a BitTorrent tracker: poll loops over one table, no allocation per request.
//!
//! # The way of an announce
//!
//! 1. [`server`] polls. A socket is readable and has its turn: [`udp::serve`] or a connection of [`http`].
//! 2. UDP receives up to 32 datagrams with one call. HTTP reads until a request's head is complete.
//! 3. [`responder`] looks up all torrents of the batch, so that their memory is on its way before it is needed. This
//!    comes before the connection ids are verified: a lookup changes nothing.
//! 4. [`protocol`] decodes the request: `udp` the datagram, `query` the parameters of a path.
//! 5. UDP verifies the connection id. HTTP finds the client's address, its own or the one that a proxy names.
//! 6. [`access`] refuses the torrent, or the responder locks the shard of [`tracker`] that owns its info-hash.
//! 7. The tracker finds the peer's list, renews or inserts the peer, and notes news for the cluster.
//! 8. It picks peers at random ranks and writes them into the reply's own memory.
//! 9. The codec writes the header: counts, interval. [`stats`] counts.
//! 10. One call sends the batch. HTTP writes its reply, or keeps the rest until the socket is writable.
//!
//! # The way of a cluster's record
//!
//! 1. An announce here changes a peer: the shard's journal notes it. Renewals are found by a walk instead.
//! 2. [`cluster`] collects journals and walks, encodes records once, and appends them to the queue of each link.
//! 3. TCP carries frames. The receiver checks each MAC before it reads a record.
//! 4. [`access`] refuses the torrent, or the shard applies the record: the later version of a peer wins.
//! 5. What was lost on a broken or slow link is sent again when the link is up: events, then the local peers.
//!
//! # The rooms
//!
//! Each uses only those below it; `tests/house.rs` holds the imports to this order.

#![deny(unsafe_code)]

/// The order of the start, and the threads that it ends with.
pub mod startup;

/// The client of `--health`.
pub mod health;

/// The poll loop; chores: what is not serving, in bounded steps.
pub mod server;

/// A UDP socket's turn; connection ids.
pub mod udp;

/// Connections, requests, replies, full scrapes, proxies.
pub mod http;

/// An announce or scrape, from the decoded request to counts and peers: what UDP and HTTP share.
pub mod responder;

/// Links to other nodes; opentracker's live sync.
#[cfg(feature = "cluster")]
pub mod cluster;

/// Counters, and every report made of them.
pub mod stats;

/// The command line and configuration files.
pub mod options;

/// Allow and deny lists of info-hashes.
pub mod access;

/// The table as bytes on disk.
pub mod state;

/// The helper process: files, names, syslog.
pub mod helper;

/// Pure codecs: BEP 15, query strings, bencoding, lists of info-hashes.
pub mod protocol;

/// The table: shards, torrents, swarms, peers, selection, sweep, decoys.
pub mod tracker;

/// Log, text, hashes, networks, random numbers, gzip: knows nothing of trackers.
pub mod base;

/// All `unsafe` code and every difference between systems.
pub mod sys;
