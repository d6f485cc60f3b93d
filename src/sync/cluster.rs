//! What the daemon's loop drives: the node, with all that it needs of the world but sockets.
//!
//! The loop tells it the time and hands it packets; it knows where the operator's peers are to be found,
//! counts what is sent, and says in the log what has happened, never a line for a packet.
//!
//! Time: `now` is the loop's own, in milliseconds. The node's, in which the tracker lives, is the same but
//! for pauses of the process, which it leaves out: see [`super::clock`].

use super::live::{self, Live};
use super::multicast::{self, Multicast};
use super::node::{Event, Node, Outbox, Refuses, Settings};
use super::wire::Rejection;
use crate::log;
use crate::nets::Net;
use crate::options::PeerName;
use crate::stats::people::plural;
use crate::sys::mmsg::{BATCH, Batch};
use crate::sys::process::cpu_us;
use crate::tracker::Tracker;
use crate::tracker::ledger::Change;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::fmt::Arguments;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Peers that walks look at between two rounds of requests.
const BUDGET: usize = 4096;

/// Records that are applied a second: as many as take half a core, at most so many and at least so many. What
/// one takes, from a quarter of a microsecond up, is measured where they come in full batches.
const MOST_RECORDS: u32 = 1_000_000;
const LEAST_RECORDS: u64 = 10_000;
const HALF_US: u64 = 500_000;

/// Records that tell what one takes.
const MEASURED: u64 = 4096;

/// Stops that are remembered, at 16 bytes each: so many for each peer that may be stored, up to so many.
const PEERS_A_STOP: usize = 64;
const MOST_STOPS: usize = 1 << 20;

/// Milliseconds from one look at the peers and the counters to the next.
const LOOK: u64 = 1000;

/// Stops of unknown peers in a second that a node tells which is syncing.
const UNKNOWN_STOPS: u64 = 1000;

/// Milliseconds for which a peer may be silent before that is told and its name is resolved again.
const SILENT: u64 = 15_000;

/// Milliseconds from one question for a silent peer's name to the next.
const ASK_AGAIN: u64 = 60_000;

/// Milliseconds between two lines about packets that were rejected for the same reason.
const TELL_AGAIN: u64 = 3_600_000;

/// Milliseconds for which others name torrents that the list here refuses before that is told: while a
/// list is reloaded on all nodes, some have it sooner. A pause of so many is an end.
const LISTS_DIFFER: u64 = 120_000;
const PAUSE: u64 = 60_000;

/// Lines in a minute.
const MOST_LINES: u32 = 60;
const MINUTE: u64 = 60_000;

/// What a cluster is made of.
pub struct Plan {
    /// The bytes of the key.
    pub secret: Vec<u8>,
    /// Random and nobody else's business: the node's id, and what its nonces are made from.
    pub random: [u64; 3],
    pub peers: Vec<PeerName>,
    /// Whether there are sockets for IPv4 and for IPv6.
    pub families: [bool; 2],
    /// In seconds.
    pub peer_timeout: u32,
    pub max_peers: usize,
}

/// The sockets for packets between nodes.
#[derive(Default)]
pub struct Sockets {
    pub v4: Option<UdpSocket>,
    pub v6: Option<UdpSocket>,
    pub live: Option<live::Sockets>,
}

/// What is counted beyond what the node counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that the system would not send.
    pub refused: u64,
    /// Packets for which the send buffer had no room.
    pub dropped: u64,
}

pub struct Cluster {
    node: Node,
    /// The loop's time, and that of the node.
    now: u64,
    node_now: u64,
    peers: Vec<Peer>,
    families: [bool; 2],
    peer_timeout: u32,
    out: Outbox,
    /// opentracker's live sync, and what it is to be told.
    live: Option<Live>,
    outside: Vec<Change>,
    pub counters: Counters,
    /// Records of full batches, and the microseconds that they took.
    measured: (u64, u64),
    look_at: u64,
    ticked_at: u64,
    teller: Teller,
    refusals: Refusals,
    /// Of each [`Rejection`], how many have been told, and when that may be done again.
    rejections: [(u64, u64); Rejection::COUNT],
}

/// One of the operator's peers.
struct Peer {
    name: PeerName,
    /// Where it may be; the first is tried.
    addresses: Vec<SocketAddr>,
    /// The id of the node that was found there, which may go on from another address.
    id: u64,
    heard_at: u64,
    is_silence_told: bool,
    is_failure_told: bool,
    /// It is this node itself, which has been told.
    is_own: bool,
    /// When its name is to be resolved; none for an address.
    ask_at: Option<u64>,
}

/// Holds lines back where there are many.
#[derive(Default)]
pub(super) struct Teller {
    minute: u64,
    lines: u32,
}

/// When others named torrents that the list here refuses.
#[derive(Default)]
struct Refusals {
    since: u64,
    last: Option<u64>,
    is_told: bool,
}

impl Cluster {
    /// `now` is 0 for the loop; `wall` is the wall clock in milliseconds since 1970. The tracker must have
    /// been advanced.
    pub fn new(plan: Plan, wall: u64, tracker: &mut Tracker) -> Cluster {
        let [id, entropy @ ..] = plan.random;
        let settings = Settings {
            id: id.max(1),
            secret: plan.secret,
            entropy,
            peer_timeout: plan.peer_timeout,
            most_records: MOST_RECORDS,
            most_stops: (plan.max_peers / PEERS_A_STOP).min(MOST_STOPS),
        };
        let mut cluster = Cluster {
            node: Node::new(settings, 0, wall, tracker),
            now: 0,
            node_now: 0,
            peers: plan.peers.into_iter().map(Peer::new).collect(),
            families: plan.families,
            peer_timeout: plan.peer_timeout,
            out: Outbox::default(),
            live: None,
            outside: Vec::new(),
            counters: Counters::default(),
            measured: (0, 0),
            look_at: 0,
            ticked_at: 0,
            teller: Teller::default(),
            refusals: Refusals::default(),
            rejections: [(0, 0); Rejection::COUNT],
        };
        cluster.set_peers();
        cluster
    }

    /// Takes part in opentracker's live sync too.
    pub fn use_multicast(&mut self, nodes: Vec<Net>, is_mapping: bool) {
        let id = self.node.multicast_id();
        self.live = Some(Live::new(Multicast::new(id, nodes, is_mapping)));
        self.node.tell_outside();
    }

    /// What came and went by opentracker's live sync.
    pub fn multicast(&self) -> Option<&multicast::Counters> {
        self.live.as_ref().map(Live::counters)
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Peers that no address is known for.
    pub fn unresolved(&self) -> impl Iterator<Item = &PeerName> {
        let unknown = self.peers.iter().filter(|peer| peer.addresses.is_empty());
        unknown.map(|peer| &peer.name)
    }

    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Moves the clock to the loop's time; returns the tracker's.
    pub fn advance(&mut self, now: u64) -> u64 {
        self.now = now;
        self.node_now = self.node.advance(now);
        self.node_now
    }

    /// The loop's time for one of the tracker's.
    pub fn loop_time(&self, tracker_time: u64) -> u64 {
        tracker_time.saturating_add(self.now.saturating_sub(self.node_now))
    }

    /// When there is something to do, in the loop's time: within a second.
    pub fn next_tick(&self, tracker: &Tracker) -> u64 {
        let next = self.loop_time(self.node.next_tick(tracker));
        let live = self.live.as_ref().and_then(Live::next_tick);
        next.min(self.look_at).min(live.unwrap_or(u64::MAX))
    }

    /// Takes what waits on a socket, up to a batch; whether more may be waiting.
    pub fn receive(
        &mut self,
        socket: &UdpSocket,
        batch: &mut Batch,
        tracker: &mut Tracker,
        refuses: Refuses,
    ) -> bool {
        // Without a datagram there may be an error of an earlier one: what waits is behind it. The next
        // datagram will tell.
        let Ok(received) = batch.receive(socket) else {
            return false;
        };
        // Then the loop has a turn for this socket again, also where the table's clock is held by now and not all of
        // the batch was taken.
        let is_full = received == BATCH;
        let before = is_full.then(|| (self.node.applied(), cpu_us()));
        for (from, packet) in batch.datagrams() {
            self.node
                .hear_tracked(from, packet, tracker, refuses, &mut self.out);
        }
        if let Some((records, us)) = before {
            self.measure(self.node.applied() - records, cpu_us().saturating_sub(us));
        }
        is_full
    }

    /// So many records took so long: how many may come from now on. Where nothing was applied, packets were
    /// dropped.
    fn measure(&mut self, records: u64, us: u64) {
        if records == 0 {
            return;
        }
        self.measured.0 += records;
        self.measured.1 += us;
        if self.measured.0 >= MEASURED {
            let (records, us) = std::mem::take(&mut self.measured);
            let most = HALF_US * records / us.max(1);
            self.node
                .set_most_records(most.clamp(LEAST_RECORDS, MOST_RECORDS.into()));
        }
    }

    /// The same with what opentrackers have sent.
    pub fn receive_multicast(
        &mut self,
        socket: &UdpSocket,
        batch: &mut Batch,
        tracker: &mut Tracker,
        refuses: Refuses,
    ) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        let node = &mut self.node;
        live.receive(socket, batch, self.now, &mut self.teller, &mut |changes| {
            node.relay(changes, tracker, refuses);
        })
    }

    /// Does what is due.
    pub fn tick(&mut self, tracker: &mut Tracker, refuses: Refuses) {
        let passed = self.now.saturating_sub(self.ticked_at);
        self.ticked_at = self.now;
        match self.node.is_joining {
            true => tracker.allow_unknown_stops(passed, UNKNOWN_STOPS),
            false => tracker.allow_unknown_stops(0, 0),
        }
        self.node
            .tick_tracked(BUDGET, tracker, refuses, &mut self.out);
        self.tell_outside(tracker);
        self.tell_events();
        if self.now >= self.look_at {
            self.look_at = self.now + LOOK;
            self.look_after_peers();
            self.tell_rejections();
        }
    }

    fn tell_outside(&mut self, tracker: &Tracker) {
        if let Some(live) = &mut self.live {
            self.node.take_outside(tracker, &mut self.outside);
            live.tell(&self.outside, self.now);
            self.outside.clear();
        }
    }

    /// The end is near: what waits to be told does not wait any more.
    pub fn wind_up(&mut self) {
        self.node.wind_up();
        if let Some(live) = &mut self.live {
            live.wind_up();
        }
    }

    /// Sends what is to be sent. What the system does not take is lost, as it could be on the way.
    pub fn send(&mut self, sockets: &Sockets) {
        for (to, packet) in self.out.packets() {
            let socket = match to {
                SocketAddr::V4(_) => &sockets.v4,
                SocketAddr::V6(_) => &sockets.v6,
            };
            let Some(socket) = socket else {
                continue;
            };
            match socket.send_to(packet, to) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.counters.dropped += 1;
                }
                Err(_) => self.counters.refused += 1,
            }
        }
        self.out.clear();
        if let (Some(live), Some(sockets)) = (&mut self.live, &sockets.live) {
            let counters = &mut self.counters;
            live.send(&sockets.output, self.now, counters, &mut self.teller);
        }
    }

    /// The number of a peer whose name is to be resolved now.
    pub fn next_question(&mut self) -> Option<usize> {
        let now = self.now;
        let is_due = |peer: &Peer| peer.ask_at.is_some_and(|at| at <= now);
        let number = self.peers.iter().position(is_due)?;
        self.peers.get_mut(number)?.ask_at = Some(now + ASK_AGAIN);
        Some(number)
    }

    /// So many records were of torrents that the list here refuses.
    pub fn note_refused(&mut self, records: u64) {
        if records > 0 && self.refusals.are_to_be_told(self.now) {
            self.teller.tell(
                self.now,
                format_args!("cluster: other nodes have torrents that the list here refuses: wanted is the same list on all"),
            );
        }
    }

    /// Has all names resolved again; how many there are.
    pub fn resolve_again(&mut self) -> usize {
        let now = self.now;
        let asked = self
            .peers
            .iter_mut()
            .filter_map(|peer| peer.ask_at.as_mut());
        asked.map(|at| *at = now).count()
    }

    /// What a peer's name stands for.
    pub fn resolved(&mut self, number: usize, answer: Result<Vec<IpAddr>, String>) {
        let families = self.families;
        let Some(peer) = self.peers.get_mut(number) else {
            return;
        };
        let is_of_use = |ip: &IpAddr| families[usize::from(ip.is_ipv6())];
        let found = answer.and_then(|mut ips| {
            ips.retain(is_of_use);
            match ips.is_empty() {
                true => Err(String::from(
                    "it has no address of a --cluster-listen's family",
                )),
                false => Ok(ips),
            }
        });
        match found {
            Ok(ips) => {
                peer.is_failure_told = false;
                peer.found(ips, self.now);
                self.set_peers();
            }
            Err(why) => {
                if !std::mem::replace(&mut peer.is_failure_told, true) {
                    let name = &peer.name;
                    self.teller.tell(
                        self.now,
                        format_args!("cluster: no address of {name}: {why}; asking again"),
                    );
                }
            }
        }
    }

    fn set_peers(&mut self) {
        let first = |peer: &Peer| peer.addresses.first().copied();
        let addresses: Vec<SocketAddr> = self.peers.iter().filter_map(first).collect();
        self.node.set_peers(&addresses);
    }

    /// Notes which peers are there, and tells once of those that are not.
    fn look_after_peers(&mut self) {
        let now = self.now;
        let mut have_moved = false;
        for peer in &mut self.peers {
            let reports = self.node.reports();
            let mut up = reports.filter(|report| report.is_up || report.is_own);
            let link = up.find(|report| {
                // The other may have found this node first, by another family.
                let is_there = peer.addresses.contains(&report.address);
                is_there || peer.id != 0 && report.id == peer.id
            });
            if let Some(link) = link {
                have_moved |= peer.settle(link.address);
                peer.id = link.id;
                peer.heard_at = now;
                peer.is_silence_told = false;
                let was_own = std::mem::replace(&mut peer.is_own, link.is_own);
                if link.is_own && !was_own {
                    let name = &peer.name;
                    self.teller
                        .tell(now, format_args!("cluster: {name} is this node"));
                }
                // The name is asked for once more when the peer falls silent.
                if let Some(at) = peer.ask_at.as_mut().filter(|at| **at > now) {
                    *at = now + SILENT;
                }
            } else if !peer.addresses.is_empty()
                && now > peer.heard_at + SILENT
                && !std::mem::replace(&mut peer.is_silence_told, true)
            {
                let name = &peer.name;
                self.teller
                    .tell(now, format_args!("cluster: no answer from {name}"));
            }
        }
        if have_moved {
            self.set_peers();
        }
    }

    fn tell_events(&mut self) {
        for event in self.node.take_events() {
            let own = self.peer_timeout;
            let (now, teller) = (self.now, &mut self.teller);
            match event {
                Event::Up(address) => teller.tell(now, format_args!("cluster: {address} is up")),
                Event::Down(address) => {
                    teller.tell(now, format_args!("cluster: {address} has fallen silent"));
                }
                Event::OtherTimeout(address, other) => teller.tell(
                    now,
                    format_args!(
                        "cluster: {address} is refused: its --peer-timeout is {other}, not {own}"
                    ),
                ),
                Event::TimeSet(by) => teller.tell(
                    now,
                    format_args!("cluster: the cluster's time is {by} ms from what it was here"),
                ),
            }
        }
    }

    /// Packets of anybody, by the number of the [`Rejection`].
    fn rejected(&self) -> [u64; Rejection::COUNT] {
        let mut sums = self.node.rejections();
        for report in self.node.reports() {
            let of_link = report.counters.rejections;
            sums.iter_mut().zip(of_link).for_each(|(sum, n)| *sum += n);
        }
        sums
    }

    /// A line for each reason for which packets have been rejected, and again only much later.
    fn tell_rejections(&mut self) {
        let sums = self.rejected();
        let told = sums.iter().zip(&mut self.rejections);
        for ((&sum, (before, again_at)), reason) in told.zip(Rejection::NAMES) {
            // Links that have gone take their counts with them.
            *before = (*before).min(sum);
            let news = sum - *before;
            let Some(why) = explain(reason) else {
                continue;
            };
            if news > 0 && self.now >= *again_at {
                *before = sum;
                *again_at = self.now + TELL_AGAIN;
                let plural = plural(news);
                self.teller.tell(
                    self.now,
                    format_args!("cluster: {news} packet{plural} rejected as {reason}: {why}"),
                );
            }
        }
    }
}

/// What an operator should know of a reason for which packets are rejected; none for one that a sound
/// network has too, or that has a line of its own.
fn explain(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "version" => "no packets of this version of the protocol",
        "malformed" => "cut short on their way",
        "forged" => "made without the key in --cluster-key",
        "shed" => "more than this node can apply; repair will bring it",
        _ => return None,
    })
}

impl Peer {
    fn new(name: PeerName) -> Peer {
        let address = name.address();
        Peer {
            ask_at: address.is_none().then_some(0),
            addresses: address.into_iter().collect(),
            name,
            id: 0,
            heard_at: 0,
            is_silence_told: false,
            is_failure_told: false,
            is_own: false,
        }
    }

    /// It has been found at this address; whether that is another one of its addresses than was tried.
    fn settle(&mut self, address: SocketAddr) -> bool {
        let at = self.addresses.iter().position(|known| *known == address);
        if let Some(at) = at {
            self.addresses.rotate_left(at);
        }
        at.is_some_and(|at| at > 0)
    }

    /// Its name stands for these. The one that it is at stays if it is still among them; a peer that has
    /// been silent is looked for at the next.
    fn found(&mut self, ips: Vec<IpAddr>, now: u64) {
        let before = self.addresses.first().copied();
        let port = self.name.port;
        let all = ips.into_iter().map(|ip| SocketAddr::new(ip, port));
        self.addresses = all.collect();
        let Some(before) = before else {
            self.heard_at = now;
            return;
        };
        if let Some(at) = self.addresses.iter().position(|a| *a == before) {
            let is_silent = now > self.heard_at + SILENT;
            self.addresses.rotate_left(at + usize::from(is_silent));
        }
        if self.addresses.first() != Some(&before) {
            self.id = 0;
        }
    }
}

impl Teller {
    pub(super) fn tell(&mut self, now: u64, line: Arguments) {
        let minute = now / MINUTE;
        if minute != self.minute {
            *self = Teller { minute, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        match self.lines {
            0..=MOST_LINES => log::line(line),
            _ => log::debug(line),
        }
    }
}

impl Refusals {
    /// Notes one; whether it is time to tell of them.
    fn are_to_be_told(&mut self, now: u64) -> bool {
        if self.last.is_none_or(|last| now > last + PAUSE) {
            self.since = now;
            self.is_told = false;
        }
        self.last = Some(now);
        now >= self.since + LISTS_DIFFER && !std::mem::replace(&mut self.is_told, true)
    }
}

impl Sockets {
    /// Registers them for reading, with these tokens.
    pub fn register(
        &mut self,
        registry: &Registry,
        v4: Token,
        v6: Token,
        live: Token,
    ) -> io::Result<()> {
        if let Some(sockets) = &mut self.live {
            registry.register(&mut sockets.input, live, Interest::READABLE)?;
        }
        for (socket, token) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            if let Some(socket) = socket {
                registry.register(socket, token, Interest::READABLE)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_differs_is_told_of_once_and_one_that_is_late_is_not() {
        let mut refusals = Refusals::default();
        let mut told = |from: u64, to: u64| {
            let times = (from..to).step_by(10_000);
            times
                .filter(|now| refusals.are_to_be_told(*now))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(5000, 90_000), []);
        assert_eq!(told(200_000, 1_000_000), [320_000]);
        assert_eq!(told(1_000_000, 9_000_000), []);
        assert_eq!(told(10_000_000, 11_000_000), [10_120_000]);
    }

    #[test]
    fn a_name_that_moves_is_followed_and_a_silent_node_is_looked_for_at_all_its_addresses() {
        let name = PeerName {
            host: "b.example".into(),
            port: 7,
        };
        let ips = |last: &[u8]| -> Vec<IpAddr> {
            let ip = |last: &u8| IpAddr::from([192, 0, 2, *last]);
            last.iter().map(ip).collect()
        };
        let mut peer = Peer::new(name);
        assert_eq!((peer.addresses.len(), peer.ask_at), (0, Some(0)));
        let mut at = |found: &[u8], now| {
            peer.found(ips(found), now);
            peer.addresses.first().map(SocketAddr::to_string)
        };
        let is = |last: u8| Some(format!("192.0.2.{last}:7"));
        assert_eq!(at(&[1, 2, 3], 1000), is(1));
        assert_eq!(at(&[3, 2, 1], 2000), is(1), "it may be there");
        assert_eq!(at(&[2, 3], 3000), is(2), "it is no longer there");
        assert_eq!(at(&[2, 3], 30_000), is(3), "nobody has answered");
        assert_eq!(at(&[2, 3], 90_000), is(2));
        assert_eq!(at(&[2], 150_000), is(2));
        assert_eq!(at(&[2, 3, 4], 151_000), is(3), "nobody has answered");
        let is_at = |last: u8| SocketAddr::from(([192, 0, 2, last], 7));
        assert!(peer.settle(is_at(2)) && !peer.settle(is_at(2)) && !peer.settle(is_at(9)));
        assert_eq!(peer.addresses.first(), Some(&is_at(2)));
    }
}
