//! `announced`, a BitTorrent tracker: poll loops over one table, no allocation per request.
//!
//! An announce walks one straight line: socket, codec, tracker, codec, socket. UDP and HTTP meet at the
//! tracker and nowhere else. The modules, each using only those below it:

#![deny(unsafe_code)]

/// The command line and configuration files, as options.
pub mod options;

/// Configuration files, as flags.
pub mod config;

/// The client of `--health`.
pub mod health;

/// The order of the start, and the threads that it ends with.
pub mod startup;

/// The poll loop: whose turn it is, what time it is.
pub mod server;

/// A UDP socket's turn; connection ids.
pub mod udp;

/// TCP connections, requests, replies, paths.
pub mod http;

/// Every torrent as one stream, plain or gzip.
pub mod fullscrape;

/// gzip in slices.
pub mod gzip;

/// A checksum.
pub mod crc32;

/// The table as bytes: saved, and loaded again.
pub mod state;

/// An announce or scrape, from the decoded request to counts and peers.
pub mod responder;

/// White and black lists of info-hashes.
pub mod access;

/// The helper process: files and syslog.
pub mod keeper;

/// The helper process that asks for names.
pub mod resolver;

/// Codecs: BEP 15, query strings, bencoding.
pub mod proto;

/// The cluster: several trackers that know the same peers.
pub mod cluster;

/// The state: torrents, peers, sampling, expiry.
pub mod tracker;

/// The line that tells of a completed download.
pub mod completed;

/// Networks of addresses.
pub mod nets;

/// What is counted.
pub mod stats;

/// Lines to standard error or syslog.
pub mod log;

/// Which keys come most often.
pub mod busiest;

/// Numbers that need not be secret.
pub mod random;

/// A keyed hash, for connection ids.
pub mod siphash;

/// Batches of datagrams, sockets, signals, privileges: all the `unsafe` there is.
pub mod sys;
