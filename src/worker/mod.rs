//! A worker's place among several processes that serve the same ports: all the cores of one machine.
//!
//! The [`parent`](crate::parent) forks them. Each is a whole tracker with a table of its own, as a process
//! alone would be; they keep their tables the same as nodes of a cluster do, over Unix sockets.
//!
//! - [`link`]: the stream to the parent: what is ordered, what is reported
//! - [`board`], [`machine`]: what all have counted
//! - [`group`]: the sockets to the other workers

pub mod board;
pub mod group;
pub mod link;
pub mod machine;

use group::Group;
use link::Link;
use std::os::unix::net::UnixDatagram;

/// What a worker is given by its parent.
pub struct Place {
    pub number: usize,
    /// How many workers there are.
    pub count: usize,
    pub link: Link,
    pub group: Group,
    /// Where streams to other workers come in.
    pub streams: UnixDatagram,
    /// Whether any other worker has a table to take: else what was saved is loaded.
    pub is_first: bool,
}

/// The worker that speaks for all: it has the cluster's sockets, the FIFOs and the state.
pub const GATEWAY: usize = 0;

/// What a stream to another worker is for, that the parent hands over: to take the other's table, or to give
/// this one's.
pub const TAKES: u8 = 1;
pub const GIVES: u8 = 2;

impl Place {
    pub fn is_gateway(&self) -> bool {
        self.number == GATEWAY
    }
}
