//! The cluster: several trackers that know the same peers.
//!
//! Peers are soft state: every client announces again within an interval. So reliable streams and a periodic walk are
//! enough. Nodes form a full mesh. Each pair has one TCP connection, a *link*.
//!
//! # A link
//!
//! A node connects to every node that its operator names. Each side sends a hello in the clear, derives keys from both
//! hellos and the cluster's key, and then sends frames ([`frame`]). The first frame is *ready*. It shows that its
//! sender has the key, and it is a request for everything after an event and a unit. Another request is another ready.
//! Of two links between the same nodes one stays ([`node`]).
//!
//! # A record's way
//!
//! A client announces to a node. The table stores the peer with the *local* bit and, if the other nodes have to know at
//! once, notes it in the shard's journal ([`crate::tracker`]). [`send`] empties the journals forty times a second,
//! writes their news into frames once, and appends these to the queue of each link. On another node the link verifies
//! the frame, and [`apply`] applies each record whose torrent the list allows: the later version wins.
//!
//! # Frames
//!
//! - **News**, within 100 ms: a peer is new here, changes its role, completes or stops, or renews too late for the
//!   walk. Stops and completions are *events*: they have numbers and are kept for five minutes ([`events`]).
//! - **The walk**, over eight units (a sixth of the peer timeout): the local peers stamped since the walk before
//!   ([`walk`]). Renewals reach the other nodes by the walk, at 8 to 30 bytes each.
//! - **Catch-up**, after a ready: the kept events after the one in the ready, then the local peers stamped in or after
//!   its unit. If events are missing, counts of downloads are sent too. A link is *behind* until the last event was
//!   sent. Meanwhile no news is sent. A link with a full queue falls behind again, and another pass over the table
//!   repeats the lost records. So joining, partitions, restarts and overload are one case.
//! - **A heartbeat** each second, with the position of the receiver in events and units. The receiver puts it into its
//!   next ready.
//!
//! A node that is not *whole* takes only news at first. Once all other nodes are linked, or after three seconds, it
//! asks one whole node for everything, learnt peers included, and the others for their local peers. If none is whole,
//! it asks each for everything. It is whole when a whole node has answered, or all named nodes have. Records learnt
//! from other nodes are sent only to a node that asks for everything. If a link ends before such a request is answered,
//! the next link to that node repeats it.
//!
//! # Why nodes agree
//!
//! A record's version is the unit of its announce and then its state ([`crate::tracker::PeerState`]). The unit is sent
//! as an age against the unit of the frame. When a link comes up, both ends fix the number of units by which their
//! clocks differ. It is a whole number, of opposite sign on the two sides, so that a record does not become newer on
//! its way.
//! For this, units must begin at about the same time on all nodes. So a node takes the phase of the first whole node
//! that it reaches and, before there is one, that of a lower id. Later it takes another phase only if that differs by
//! a quarter of a unit: its clock moves on by up to a unit, and its peers become older by as much than on other nodes.
//! Phases that differ by less than a handshake takes are the same. A record that seems up to two units newer than a
//! local peer does not make it a learnt one: it may be an echo from before a clock was moved.
//!
//! The wall clocks of hosts do not matter. A node whose clock stood still in a suspension notices it at its next link:
//! the other node's uptime has advanced by a unit or more than its own clock. It moves its table's clock on and ends
//! all its links. Only a node that it was linked with before can show it that. A suspension looks like a jump of the
//! wall clock. After one it accepts links only to such nodes for eight seconds.
//!
//! A completion adds one download, unless the peer is marked as counted. Counts merge by maximum. News that waits is
//! sent before a frame with counts is made, and counts follow the records with their marks. So a completion counts once
//! on nodes that are linked. On a node that joins it may be missing if another node sends it just before the counts
//! arrive that do not include it yet. It may count twice if the peer has stopped since and the node that noted it is
//! reached later than the one that sent the counts, or if it is noted while a swarm above the budget of a step is sent.
//! To exclude that, each count would need the last event of every node that it includes.
//!
//! # The parts
//!
//! - [`mesh`]: sockets and names
//! - [`node`]: the life of links; a plain value
//! - [`clocks`]: units, phases, suspensions
//! - [`send`], [`apply`]: the records that a node sends, and those of others
//! - [`whole`]: requests, and when they are answered
//! - [`link`]: one connection; its queue
//! - [`frame`]: hello, keys, frames
//! - [`records`]: the contents of frames
//! - [`walk`], [`events`]: the position of the walk; the events that are kept
//! - [`key`]: the file with the cluster's key
//! - [`opentracker`]: multicast live sync, a transport of its own

mod apply;
mod clocks;
mod events;
pub mod frame;
pub mod key;
mod link;
pub mod mesh;
pub mod node;
pub mod opentracker;
pub mod records;
mod send;
mod walk;
mod whole;
