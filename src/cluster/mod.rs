//! The cluster: several trackers that know the same peers.
//!
//! Peers are soft state: every client announces again within an interval. So reliable streams and a periodic walk
//! are enough. Nodes form a full mesh. Each pair keeps one TCP connection, a *link*.
//!
//! # A link
//!
//! A node connects to every node that its operator names. Each side sends a hello in the clear, derives keys from
//! both hellos and the cluster's key, and sends frames from then on ([`frame`]). The first frame is *ready*: it shows
//! that its sender has the key, and says what the receiver is to send: all after this event and this unit. A node
//! that wants other things sends another ready. Of two links between the same nodes one stays ([`node`]).
//!
//! # A record's way
//!
//! A client announces to a node. The table stores the peer with the *local* bit and, if the other nodes have to know at
//! once, notes it in the shard's journal ([`crate::tracker`]). [`send`] empties the journals some forty times a second,
//! writes their news into frames once, and appends these to the queue of each link. On another node the link checks
//! the frame, and [`apply`] applies each record whose torrent the list allows: the later version wins.
//!
//! # Frames
//!
//! - **News**, within 100 ms: a peer that is new here, changes its role, completes or stops, or renews so late that
//!   the walk would miss it. Stops and completions are *events*: they have numbers and are kept for five minutes
//!   ([`events`]).
//! - **The walk**, over eight units (a sixth of the peer timeout): the local peers stamped since the walk before
//!   ([`walk`]). Renewals reach the other nodes by the walk, at 8 to 30 bytes each.
//! - **Catch-up**, after a ready: the kept events after the one that it names, then the local peers stamped in or
//!   after its unit. Counts of downloads are sent too where events are missing. A link is *behind* until it was sent
//!   the last event; it is not sent news meanwhile. A link whose queue is full falls behind again, and another pass
//!   over the table repeats what it lost. So joining, partitions, restarts and overload are one case.
//! - **A heartbeat** each second, with the position in events and units that the receiver has reached. The receiver
//!   names it in its next ready.
//!
//! A node that is not *whole* takes only news at first. Once all other nodes are linked, or three seconds have
//! passed, it asks one whole node for everything, learnt peers included, and the others for their local peers; if
//! none is whole, it asks each for everything. It is whole when a whole node has answered, or all nodes that the
//! operator names have. Records learnt from other nodes are sent to a node that asks for everything, and otherwise
//! never.
//!
//! # Why nodes agree
//!
//! A record's version is the unit of its announce and then its state ([`crate::tracker::State`]). Its unit travels as
//! an age against the unit of its frame. When a link comes up both ends fix by how many units their clocks differ: a
//! whole number, of opposite sign on the two sides, so that a record does not become newer on its way. That takes
//! units which begin at about the same time on all nodes. So a node takes the phase of the first whole node that it
//! reaches and, as long as there is none, that of a lower id. Later only a difference of a quarter of a unit makes it
//! give up its phase: its clock moves on by up to a unit, and by as much its peers become older than other nodes know
//! them. A record that seems up to two units newer than a local peer does not make it a learnt one: it may be an echo
//! from before a clock was moved.
//!
//! Hosts' wall clocks do not matter. A node whose clock stood still while it was suspended notices when it connects
//! again: the other node's uptime advanced by a unit or more than its own clock. It moves its table's clock on and
//! begins all its links anew. Only a node that it was linked with before can tell it. After a jump of the wall clock,
//! which a suspension looks like, it links no other node for eight seconds.
//!
//! A completion adds one download, unless the peer is marked as counted. Counts merge by maximum. News that waits is
//! sent before a frame with counts is made, and counts follow the records with their marks. So a completion counts
//! once on nodes that are linked. On a node that joins it may be missing if another node tells it just before the
//! counts come, in which it is not included yet. It may count twice if the peer has stopped since and the node that
//! noted it is reached later than the one that sent the counts, or if it is noted while a swarm above the budget of a
//! step is sent. To exclude that, each count would have to name the last event of every node that it includes.
//!
//! # The parts
//!
//! - [`mesh`]: sockets and names
//! - [`node`]: links come up and go; a plain value
//! - [`clocks`]: units, phases, suspensions
//! - [`send`], [`apply`]: the records that a node sends, and those of others
//! - [`whole`]: when a node has what it asked for
//! - [`link`]: one connection; its queue
//! - [`frame`]: hello, keys, frames
//! - [`records`]: the contents of frames
//! - [`walk`], [`events`]: where the walk is; the events that are kept
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
