//! The cluster: several trackers that know the same peers.
//!
//! # What is told, to whom, and when
//!
//! Every node tells every other one what announces have changed at its own, in batches of a packet or a
//! second, and tells nothing on that it has from others. A peer is told when it is new, when its role
//! changes or it completes, when it stops, and when its stamp reaches another sixth of the peer timeout.
//! So who keeps announcing is forgotten nowhere, who announces often costs no more than others, and nothing
//! need be remembered of what was told. The tracker's [`ledger`](crate::tracker::ledger) notes all that
//! as announces come; without a cluster there is no ledger, and that costs a branch.
//!
//! # Why nodes agree
//!
//! What is known of a peer has a version: the unit of its last announce in cluster time, then what was said.
//! The greater version wins wherever it arrives and however late, so that packets may be lost, doubled
//! and reordered, and it does not matter from whom a version came: to break a tie by node ids would take
//! eight bytes more for each peer, where a record of IPv4 is seven, and is not needed. An announce that
//! contradicts what is stored takes a later unit, so that the last word wins within a unit too; only if two
//! nodes are told different things about one peer before they hear of each other, which takes a second, does the
//! stronger state win: stopped, then seeder, then leecher. A stop is a version too, remembered for five
//! minutes.
//!
//! Loss is seen by the numbers of batches, heartbeats telling the last, and what is missing is asked for
//! again. What that does not mend (a partition, a restart, a node that could not keep up) is found by
//! comparing digests of the tables, and mended by ranges: see [`repair`].
//!
//! Counts of downloads go along with the announces that raise them. They merge by maximum, which is exact as long
//! as every node hears of every completion, and too low after both sides of a partition have counted. What
//! is different afterwards is found by a slow walk, in one to some minutes.
//!
//! # Whom a node believes
//!
//! Who has the key. A handshake gives each session keys of its own, one a direction; a packet is
//! authenticated before it is read, and its number may come once: see [`wire`]. Cluster time is
//! everybody's and nobody's: see [`clock`].
//!
//! # The modules
//!
//! - [`cluster`]: what the daemon drives: the node, the names of the others, what is logged of them
//! - [`key`]: the file with the key
//! - [`node`]: a node as a value: packets and time in, packets out
//! - [`link`]: what a node knows of another
//! - [`repair`]: how differences are found and mended
//! - `counts`: how downloaded counts come to be the same
//! - [`clock`]: cluster time
//! - [`wire`]: packets
//! - [`snapshot`]: the whole table, for a node that joins
//! - [`stream`]: what it travels in
//! - [`multicast`]: opentracker's packets, for clusters of both kinds
//! - [`live`]: these, and the sockets that they go through

pub mod clock;
pub mod cluster;
mod counts;
pub mod key;
pub mod link;
pub mod live;
pub mod multicast;
pub mod node;
pub mod repair;
pub mod snapshot;
pub mod stream;
pub mod wire;
