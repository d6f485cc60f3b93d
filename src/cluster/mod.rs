//! The cluster: several trackers that know the same peers.
//!
//! Peers are soft state: every client announces again within an interval. So reliable streams and a periodic walk
//! are enough. Nodes form a full mesh. Each pair keeps one TCP connection, a *link*.
//!
//! # A record's way
//!
//! A client announces to a node. The table stores the peer with the *local* bit and, if the other nodes have to know at
//! once, notes it in the shard's journal ([`crate::tracker`]). [`exchange`] empties the journals some ten times a second,
//! writes their news into frames once, and appends these to the queue of each link. On another node the link checks
//! the frame ([`frame`]), and [`exchange`] applies each record whose torrent the list allows: the later version wins.
//!
//! # What is sent
//!
//! - **News**, within 100 ms: a peer that is new here, changes its role, completes or stops, or renews so late that the walk
//!   would miss it. Stops and completions are *events*: they have numbers and are kept for five minutes ([`events`]).
//! - **The walk**, over eight units (a sixth of the peer timeout): the local peers stamped since the walk before ([`walk`]).
//!   That is how renewals reach the other nodes, at 8 to 30 bytes each.
//! - **Catch-up**, after a link comes up: the kept events that the other node lacks, then the local peers stamped in or after the
//!   unit before which the other node has all. Counts of downloads go along where events are missing. A node that is not whole
//!   asks one whole node for everything, learnt peers included, and the others for their local peers; if none is whole, each for
//!   everything. It is whole when a whole node has answered, or all nodes that the operator names have. A link whose queue is
//!   full loses its news; later its events are sent from those that are kept, and a pass over the table repeats the
//!   rest. So joining, partitions, restarts and overload are one case.
//! - **A heartbeat** each second, which says how much was sent. The receiver names it when it connects again.
//!
//! Records learnt from other nodes are sent to a node that asks for everything, and otherwise never.
//!
//! # Why nodes agree
//!
//! A record's version is the unit of its announce and then its state ([`crate::tracker::State`]). Its unit travels as an age
//! against the unit of its frame. When a link comes up both ends fix by how many units their clocks differ: a whole number, of
//! opposite sign on the two sides, so that a record does not become newer on its way. That takes units which begin at about the
//! same time on all nodes. So a node gives up its phase for that of a node that is whole, or that has a lower id. A record
//! that seems up to two units newer than a local peer does not make it a learnt one: it may be an echo from before a clock was
//! moved.
//!
//! Hosts' wall clocks do not matter. A node whose clock stood still while it was suspended notices when it connects again: the
//! other node's uptime advanced by a unit or more than its own clock. It moves its table's clock on and begins all its links anew.
//! Only a node that it was linked with before can tell it. After a jump of the wall clock, which a suspension looks like, it
//! links no other node for eight seconds.
//!
//! A completion adds one download, unless the peer is marked as counted. Counts merge by maximum. News that waits is
//! sent before a frame with counts is made, and counts follow the records with their marks: no completion counts twice.
//!
//! # The parts
//!
//! - [`mesh`]: sockets, names and the log
//! - [`node`]: links come up and go; a plain value
//! - [`exchange`]: what a node sends and applies
//! - [`link`]: one connection; its queue
//! - [`frame`]: hello, keys, frames
//! - [`records`]: the contents of frames
//! - [`walk`], [`events`]: where the walk is; the events that are kept
//! - [`key`]: the file with the cluster's key
//! - [`opentracker`]: multicast live sync, a transport of its own

mod events;
mod exchange;
pub mod frame;
pub mod key;
mod link;
pub mod mesh;
pub mod node;
pub mod opentracker;
pub mod records;
mod slots;
mod walk;
