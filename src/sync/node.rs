//! A node of the cluster as a plain value: packets and time go in, packets come out. It has no socket, no
//! clock and no randomness of its own; a daemon drives it with sockets, a simulator with a scheduler.

use super::clock::{Time, Vote};
use super::counts::{Counting, SETTLED};
use super::link::{Counters, Link, SILENCE};
use super::repair::Repair;
use super::wire::{self, Heartbeat, Hello, Keys, Kind, Nonce, Party, Reader, Rejection};
use crate::siphash::siphash24_128;
use crate::tracker::ledger::Change;
use crate::tracker::{Applied, Hint, InfoHash, STAMP_MASK, Tracker};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

const HEARTBEAT: u64 = 1000;

/// Milliseconds between two slices of looking for counts that differ: nothing waits for it.
const COUNTS: u64 = 10;

/// Batches kept to be sent again: at most 1.4 MB.
const RING: usize = 1024;
/// Milliseconds that a change waits for others to share its packet.
const WAIT: u64 = 1000;
/// Changes that wait to be told. More are left to repair.
const MOST_PENDING: usize = 1 << 17;
/// Before a batch's changes: its number, and the cluster time of the first.
const BATCH_HEAD: usize = 16;

/// Nodes that may come without being configured.
const MOST_LINKS: usize = 1024;
/// Those of them that have yet to show that they are there now: an old hello can be repeated by anybody, and
/// from any address.
const MOST_STRANGERS: usize = 64;
/// Milliseconds of silence after which those are forgotten.
const FORGET: u64 = 60_000;

/// Events that wait to be taken.
const MOST_EVENTS: usize = 256;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Random, not 0, another one at each start.
    pub id: u64,
    /// The bytes of the key file.
    pub secret: Vec<u8>,
    /// Random bits that nobody else knows, from which nonces are made.
    pub entropy: [u64; 2],
    /// In seconds; the same on all nodes.
    pub peer_timeout: u32,
    /// Records that are applied a second. What comes beyond is shed and left to repair.
    pub most_records: u32,
    /// Stops that are remembered.
    pub most_stops: usize,
}

/// Whether a torrent is not tracked.
pub type Refuses<'a> = &'a dyn Fn(&InfoHash) -> bool;

/// What an operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Up(SocketAddr),
    Down(SocketAddr),
    /// It has a peer timeout of so many seconds, and is refused.
    OtherTimeout(SocketAddr, u32),
    /// Cluster time was set by so many milliseconds.
    TimeSet(i64),
}

/// Packets on their way out.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<(SocketAddr, usize)>,
}

impl Outbox {
    pub fn packets(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(to, end)| {
            let packet = &self.bytes[start..*end];
            start = *end;
            (*to, packet)
        })
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.ends.push((to, self.bytes.len()));
        self.bytes.len() - start
    }
}

/// Changes that are sent to all nodes.
#[derive(Debug)]
struct Stream {
    /// Changes that wait to be told, and since when.
    pending: Vec<Change>,
    since: Option<u64>,
    /// Changes that there was no room for.
    untold: u64,
    next_batch: u64,
    ring: VecDeque<Vec<u8>>,
}

impl Stream {
    fn new() -> Stream {
        Stream {
            pending: Vec::new(),
            since: None,
            untold: 0,
            next_batch: 1,
            ring: VecDeque::new(),
        }
    }

    fn next_tick(&self) -> Option<u64> {
        self.since.map(|since| since + WAIT)
    }

    fn push(&mut self, changes: &[Change]) {
        let room = MOST_PENDING.saturating_sub(self.pending.len());
        self.pending.extend(changes.iter().take(room));
        self.untold += changes.len().saturating_sub(room) as u64;
    }

    /// Stamps mean something else from now on, by so many units. What has been sent with the old ones is not
    /// sent again.
    fn restamp(&mut self, by: u8) {
        restamp(&mut self.pending, by);
        self.ring.clear();
    }

    /// The batch of this number, if it is still kept.
    fn kept(&self, batch: u64) -> Option<&Vec<u8>> {
        let oldest = self.next_batch - self.ring.len() as u64;
        let place = usize::try_from(batch.checked_sub(oldest)?).ok()?;
        self.ring.get(place)
    }

    fn keep(&mut self, body: Vec<u8>) {
        self.next_batch += 1;
        if self.ring.len() == RING {
            self.ring.pop_front();
        }
        self.ring.push_back(body);
    }
}

pub struct Node {
    pub(super) id: u64,
    keys: Keys,
    entropy: [u64; 2],
    drawn: u64,
    peer_timeout: u32,
    pub(super) time: Time,
    /// Milliseconds since the start.
    pub(super) now: u64,
    /// It has yet to learn what others know.
    pub is_joining: bool,
    /// The table of one is on its way: until that is here, tables are not compared.
    pub(super) is_fetching: bool,
    /// Until then counts have come with a table that completions told later may be in.
    counted_until: u64,
    pub(super) links: Vec<Link>,
    next_link: u32,
    stream: Stream,
    /// What is to be told by other means than this protocol, if there are any.
    outside: Option<Vec<Change>>,
    heartbeat_at: u64,
    is_ending: bool,
    most_records: u64,
    /// Thousandths of records that may be applied now.
    credit: u64,
    applied: u64,
    refilled_at: u64,
    pub(super) repair: Repair,
    pub(super) counting: Counting,
    /// Of packets that no node can be named for.
    rejections: Counters,
    /// Peers that nodes told of which are forgotten.
    forgotten: u64,
    events: Vec<Event>,
    /// Reused.
    changes: Vec<Change>,
    counts: Vec<(InfoHash, u32)>,
    body: Vec<u8>,
}

/// What is known of another node.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub address: SocketAddr,
    pub id: u64,
    pub is_up: bool,
    /// The operator has named this very node among the others.
    pub is_own: bool,
    pub counters: Counters,
    /// Milliseconds from the first announce of the last batch to its arrival.
    pub lag: u64,
    /// Milliseconds by which its time is ahead.
    pub clock_offset: Option<i64>,
    /// Whether the tables agreed when they were last compared.
    pub agrees: Option<bool>,
}

impl Node {
    /// `own` is the own clock and `cluster` the best guess at cluster time: the wall clock. Both in
    /// milliseconds. The tracker must have been advanced.
    pub fn new(settings: Settings, own: u64, cluster: u64, tracker: &mut Tracker) -> Node {
        let keys = Keys::new(&settings.secret);
        tracker.join_cluster(keys.digests(), settings.most_stops);
        let time = Time::new(own, cluster);
        tracker.set_cluster_time(time.cluster(), false);
        Node {
            id: settings.id,
            keys,
            entropy: settings.entropy,
            drawn: 0,
            peer_timeout: settings.peer_timeout,
            time,
            now: 0,
            is_joining: false,
            is_fetching: false,
            counted_until: 0,
            links: Vec::new(),
            next_link: 0,
            stream: Stream::new(),
            outside: None,
            heartbeat_at: 0,
            is_ending: false,
            most_records: settings.most_records.into(),
            credit: u64::from(settings.most_records) * 1000,
            applied: 0,
            refilled_at: 0,
            repair: Repair::default(),
            counting: Counting::default(),
            rejections: Counters::default(),
            forgotten: 0,
            events: Vec::new(),
            changes: Vec::new(),
            counts: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The nodes at these addresses and no others are to be reached; others may still come by themselves.
    pub fn set_peers(&mut self, addresses: &[SocketAddr]) {
        for link in &mut self.links {
            link.is_configured = addresses.contains(&link.address);
        }
        for address in addresses {
            if !self.links.iter().any(|link| link.address == *address) {
                self.add_link(*address, true);
            }
        }
    }

    fn add_link(&mut self, address: SocketAddr, is_configured: bool) {
        let link = Link::new(self.next_link, address, is_configured, self.now);
        self.next_link += 1;
        self.links.push(link);
    }

    /// Applies what was heard by other means than this protocol, as if it had been announced now; how much
    /// of it was news. Other nodes are not told: they hear by the same means, or find it when tables are
    /// compared.
    pub fn relay(&mut self, changes: &[Change], tracker: &mut Tracker, refuses: Refuses) -> usize {
        let mut news = 0;
        for change in changes {
            let stamp = tracker.stamp_now(change);
            let now = [Change { stamp, ..*change }];
            apply_all(&now, tracker, refuses, &mut |_, applied| {
                news += usize::from(applied == Applied::Changed);
            });
        }
        news
    }

    /// From now on keeps what other nodes are told for those who hear by other means than this protocol.
    pub fn tell_outside(&mut self) {
        self.outside = Some(Vec::new());
    }

    /// Appends the changes that [`Node::tell_outside`] has kept to `to`. It drops those of peers that announced long ago,
    /// because the other protocol has no stamps.
    pub fn take_outside(&mut self, tracker: &Tracker, to: &mut Vec<Change>) {
        if let Some(outside) = &mut self.outside {
            to.extend(outside.drain(..).filter(|change| tracker.is_recent(change)));
        }
    }

    pub fn reports(&self) -> impl Iterator<Item = Report> {
        self.links.iter().map(|link| Report {
            address: link.address,
            id: link.id,
            is_up: link.is_up,
            is_own: link.is_own(self.now),
            counters: link.counters,
            lag: link.lag,
            clock_offset: link.samples.best(),
            agrees: link.agrees,
        })
    }

    /// What others know this node by.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Peers that other nodes told of, since the start: nodes that were forgotten too.
    pub fn synced(&self) -> u64 {
        let told = self.links.iter().map(|link| link.counters.told());
        self.forgotten + told.sum::<u64>()
    }

    /// Changes that wait to be told.
    pub fn pending(&self) -> usize {
        self.stream.pending.len()
    }

    /// Changes that waited to be told and that there was no room for: they are left to repair.
    pub fn untold(&self) -> u64 {
        self.stream.untold
    }

    /// Of packets that no node can be named for, by the number of the [`Rejection`].
    pub fn rejections(&self) -> [u64; Rejection::COUNT] {
        self.rejections.rejections
    }

    /// What has happened since it was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }

    /// Cluster time in milliseconds.
    pub fn cluster_time(&self) -> u64 {
        self.time.cluster()
    }

    /// The key for UDP connection ids that all nodes accept.
    pub fn connection_key(&self) -> [u64; 2] {
        self.keys.connections()
    }

    /// The key for decoys, which all nodes choose alike.
    pub fn decoys_key(&self) -> [u64; 2] {
        self.keys.decoys()
    }

    /// The end is near: from now on changes are told at once.
    pub fn wind_up(&mut self) {
        self.is_ending = true;
    }

    /// The id that this cluster's nodes have in opentracker's live sync: what they tell by it they tell each
    /// other anyway.
    pub fn multicast_id(&self) -> [u8; 4] {
        self.keys.multicast()
    }

    /// Reads the own clock, in milliseconds, and returns what [`Tracker::advance`] is to be given: the
    /// same without steps.
    pub fn advance(&mut self, own: u64) -> u64 {
        self.now = self.time.advance(own);
        self.now
    }

    /// When [`Node::tick`] has something to do, in the time that [`Node::advance`] returns.
    pub fn next_tick(&self, tracker: &Tracker) -> u64 {
        let is_counting = tracker.ledger().is_some_and(|l| l.counted_to.is_some());
        if is_counting {
            return self.now;
        }
        let links = self.links.iter();
        let wanted = links.clone().filter_map(Link::next_wanted).min();
        let pending = self.stream.next_tick().filter(|_| !self.holds_back());
        let hello = links
            .filter(|link| link.is_configured && link.session.is_none())
            .map(Link::next_hello)
            .min();
        let repair = self.repair.next_step(self.now);
        let counting = self.counting.is_busy().then_some(self.now + COUNTS);
        let others = [wanted, pending, hello, repair, counting]
            .into_iter()
            .flatten();
        others.min().unwrap_or(u64::MAX).min(self.heartbeat_at)
    }

    /// Does what is due: tells changes, asks for what is missing, repairs. `budget` is how many peers may
    /// be looked at in walks.
    pub fn tick(&mut self, budget: usize, tracker: &mut Tracker, out: &mut Outbox) {
        self.tick_tracked(budget, tracker, &|_| false, out);
    }

    /// The same where not all torrents are tracked.
    pub fn tick_tracked(
        &mut self,
        budget: usize,
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) {
        self.refill();
        tracker.count_on(budget);
        self.tell(tracker, out);
        self.keep_links(out);
        self.ask(out);
        if self.now >= self.heartbeat_at {
            self.heartbeat_at = self.now + HEARTBEAT;
            self.set_time(tracker);
            for index in 0..self.links.len() {
                self.send_heartbeat(index, tracker, out);
            }
        }
        self.repair_on(budget, tracker, out);
        self.count_on(budget, tracker, refuses, out);
    }

    fn refill(&mut self) {
        let passed = self.now - self.refilled_at;
        self.refilled_at = self.now;
        let most = self.most_records * 1000;
        self.credit = (self.credit + self.most_records * passed).min(most);
        for link in &mut self.links {
            link.refill(self.now);
        }
    }

    /// Records that were applied as they came, since the start.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// From now on so many records are applied a second, whatever the settings were.
    pub fn set_most_records(&mut self, most: u64) {
        self.most_records = most;
        self.credit = self.credit.min(most * 1000);
    }

    /// Takes the tracker's changes, and sends a batch once it fills a packet or has waited long enough.
    fn tell(&mut self, tracker: &mut Tracker, out: &mut Outbox) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        tracker.take_changes(&mut changes);
        if let Some(outside) = &mut self.outside {
            outside.extend_from_slice(&changes);
        }
        if !self.links.is_empty() {
            self.stream.push(&changes);
        }
        self.send_batches(out);
        self.changes = changes;
    }

    /// Whether nobody there would know what stamps of this node's mean: it has yet to be given their time.
    fn holds_back(&self) -> bool {
        let mut up = self.links.iter().filter(|link| link.is_up);
        let has_some = up.clone().next().is_some();
        has_some && !self.is_ending && !up.any(|link| link.shares_time())
    }

    fn send_batches(&mut self, out: &mut Outbox) {
        if self.holds_back() {
            return;
        }
        let stream = &mut self.stream;
        if stream.pending.is_empty() {
            return;
        }
        let since = *stream.since.get_or_insert(self.now);
        let is_due = self.is_ending || self.now >= since + WAIT;
        let room = wire::ROOM - BATCH_HEAD;
        let fills = |pending: &[Change]| {
            let mut left = room;
            pending.iter().any(|change| {
                left = left.saturating_sub(wire::most_bytes(change));
                left == 0
            })
        };
        if !is_due && !fills(&stream.pending) {
            return;
        }
        let mut pending = std::mem::take(&mut stream.pending);
        wire::sort(&mut pending);
        let first = self.time.cluster().saturating_sub(self.now - since);
        let mut done = 0;
        while done < pending.len() && (is_due || fills(&pending[done..])) {
            let mut body = Vec::with_capacity(wire::ROOM);
            body.extend_from_slice(&stream.next_batch.to_be_bytes());
            body.extend_from_slice(&first.to_be_bytes());
            let put = wire::put_changes(&pending[done..], room, &|_| None, &mut body);
            if put == 0 {
                break;
            }
            done += put;
            for link in self.links.iter_mut().filter(|link| link.is_up) {
                send(link, Kind::Records, &body, out);
                link.counters.records_out += put as u64;
            }
            stream.keep(body);
        }
        pending.drain(..done);
        stream.since = (!pending.is_empty()).then_some(self.now);
        stream.pending = pending;
    }

    /// Says hello where there is no session, and forgets who has been silent for long.
    fn keep_links(&mut self, out: &mut Outbox) {
        let now = self.now;
        let mut index = 0;
        while let Some(link) = self.links.get_mut(index) {
            let silent_for = now - link.heard_at;
            if silent_for > FORGET && !link.is_configured {
                self.forget(index);
                continue;
            }
            if link.is_up && silent_for > SILENCE {
                link.is_up = false;
                link.agrees = None;
                let address = link.address;
                self.event(Event::Down(address));
            }
            let wants = self
                .links
                .get_mut(index)
                .is_some_and(|l| l.wants_hello(now));
            if wants {
                self.say_hello(index, None, out);
            }
            index += 1;
        }
    }

    fn forget(&mut self, index: usize) {
        self.forgotten += self.links.swap_remove(index).counters.told();
    }

    /// `parties` is who is in the session that this is for; none is the next one.
    fn say_hello(&mut self, index: usize, parties: Option<(wire::Party, Nonce)>, out: &mut Outbox) {
        let (entropy, drawn) = (self.entropy, &mut self.drawn);
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let (from, echo) =
            parties.unwrap_or_else(|| link.parties(self.id, &mut || fresh(entropy, drawn)));
        let hello = Hello {
            from,
            echo,
            peer_timeout: self.peer_timeout,
            next_batch: self.stream.next_batch,
            pulse: link.pulse(self.now, &self.time),
        };
        let keys = &self.keys;
        let size = out.push(link.address, |packet| hello.seal(keys, packet));
        link.counters.packets_out += 1;
        link.counters.bytes_out += size as u64;
    }

    /// Asks for batches that are missing.
    fn ask(&mut self, out: &mut Outbox) {
        let mut wanted = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.is_up) {
            wanted.clear();
            link.wanted(self.now, &mut wanted);
            for part in wanted.chunks(wire::ROOM / 8) {
                self.body.clear();
                for batch in part {
                    self.body.extend_from_slice(&batch.to_be_bytes());
                }
                send(link, Kind::Missing, &self.body, out);
            }
        }
    }

    fn send_heartbeat(&mut self, index: usize, tracker: &Tracker, out: &mut Outbox) {
        let is_comparable = self.is_comparable();
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let ledger = tracker.ledger().filter(|_| is_comparable);
        let heartbeat = Heartbeat {
            pulse: link.pulse(self.now, &self.time),
            next_batch: self.stream.next_batch,
            digest: ledger.and_then(|l| Some((l.sixth(), l.whole_digest()?))),
        };
        self.body.clear();
        heartbeat.put(&mut self.body);
        send(link, Kind::Heartbeat, &self.body, out);
    }

    /// Takes the time of the first node that is sure of it, rather than wait for the next heartbeat: what the others
    /// tell until then means nothing here.
    fn learn_time(&mut self, index: usize, tracker: &mut Tracker) {
        let is_sure = self.links.get(index).is_some_and(|link| link.sure_for > 0);
        if is_sure && self.time.sure_for() == 0 {
            self.set_time(tracker);
        }
    }

    /// Sets the time by what the others say.
    fn set_time(&mut self, tracker: &mut Tracker) {
        let up = self.links.iter().filter(|link| link.is_up);
        let mut votes: Vec<Vote> = up
            .filter_map(|link| {
                Some(Vote {
                    ahead: link.samples.best()?,
                    sure_for: link.sure_for,
                    id: link.id,
                })
            })
            .collect();
        if let Some((by, has_passed)) = self.time.vote(self.id, &mut votes) {
            for link in &mut self.links {
                link.samples.shift(by);
            }
            let shift = |tracker: &Tracker| tracker.ledger().map_or(0, |ledger| ledger.shift);
            let before = shift(tracker);
            tracker.set_cluster_time(self.time.cluster(), has_passed);
            let turned = shift(tracker).wrapping_sub(before);
            if turned != 0 {
                self.restamp(turned as u8 & STAMP_MASK);
            }
            self.event(Event::TimeSet(by));
        }
    }

    fn restamp(&mut self, by: u8) {
        self.stream.restamp(by);
        if let Some(outside) = &mut self.outside {
            restamp(outside, by);
        }
    }

    /// Takes a packet.
    pub fn hear(
        &mut self,
        from: SocketAddr,
        packet: &[u8],
        tracker: &mut Tracker,
        out: &mut Outbox,
    ) {
        self.hear_tracked(from, packet, tracker, &|_| false, out);
    }

    /// The same where not all torrents are tracked.
    ///
    /// A packet may set the table's clock on so far that it is held. No packet behind it in the same batch is taken
    /// then: its records would be judged by a unit of long ago. They are lost as on the way: the sender sends them
    /// again when asked.
    pub fn hear_tracked(
        &mut self,
        from: SocketAddr,
        packet: &[u8],
        tracker: &mut Tracker,
        refuses: Refuses,
        out: &mut Outbox,
    ) {
        if tracker.is_held() {
            return;
        }
        let (tag, id) = match wire::peek(packet) {
            Ok(peeked) => peeked,
            Err(why) => return self.reject(from, why),
        };
        if tag == 0 {
            return self.hear_hello(from, packet, tracker, out);
        }
        let Some(index) = self.links.iter().position(|link| link.has_session(tag)) else {
            let now = self.now;
            if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
                link.hurry(now);
            }
            return self.reject(from, Rejection::Stale);
        };
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let opened = link.open(packet, tag, self.now);
        let (kind, body, has_begun) = match opened {
            Ok(opened) => opened,
            Err(why) => return link.counters.reject(why),
        };
        link.counters.packets_in += 1;
        link.counters.bytes_in += packet.len() as u64;
        link.address = from;
        self.greet(index, has_begun, tracker, out);
        let shares_time = self.links.get(index).is_some_and(Link::shares_time);
        let is_whole = match kind {
            Kind::Heartbeat => self.hear_heartbeat(index, body, tracker, out),
            Kind::Missing => self.hear_missing(index, body, out),
            Kind::Hello => None,
            // What its stamps mean is not known yet. A batch is not noted, and asked for once more.
            _ if !shares_time => Some(()),
            Kind::Records => self.hear_records(index, body, tracker, refuses),
            _ => self.hear_repair(index, kind, body, tracker, refuses, out),
        };
        if let (None, Some(link)) = (is_whole, self.links.get_mut(index)) {
            link.counters.reject(Rejection::Malformed);
        }
    }

    fn reject(&mut self, from: SocketAddr, why: Rejection) {
        let link = self.links.iter_mut().find(|link| link.address == from);
        let counters = link.map_or(&mut self.rejections, |link| &mut link.counters);
        counters.reject(why);
    }

    fn hear_hello(
        &mut self,
        from: SocketAddr,
        packet: &[u8],
        tracker: &mut Tracker,
        out: &mut Outbox,
    ) {
        let hello = match Hello::open(packet, &self.keys) {
            Ok(hello) => hello,
            Err(why) => return self.reject(from, why),
        };
        if hello.from.id == self.id {
            if let Some(link) = self.links.iter_mut().find(|link| link.address == from) {
                link.own_at = Some(self.now);
            }
            return;
        }
        let is_same = |link: &Link| link.id == hello.from.id;
        let known = self.links.iter().position(is_same);
        let known = known.or_else(|| self.links.iter().position(|link| link.address == from));
        let index = match known {
            Some(index) => index,
            None if !self.make_room(hello.from.id) => return,
            None => {
                self.add_link(from, false);
                self.links.len() - 1
            }
        };
        let (entropy, drawn) = (self.entropy, &mut self.drawn);
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        link.claimed_id = hello.from.id;
        if hello.peer_timeout != self.peer_timeout {
            link.counters.reject(Rejection::Timeout);
            if link.other_timeout.replace(hello.peer_timeout) != Some(hello.peer_timeout) {
                self.event(Event::OtherTimeout(from, hello.peer_timeout));
                // So that the other end can name us too.
                self.say_hello(index, None, out);
            }
            return;
        }
        let (now, keys) = (self.now, &self.keys);
        let (answer, has_begun) =
            link.hear_hello(&hello, self.id, keys, now, &mut || fresh(entropy, drawn));
        if has_begun {
            link.address = from;
            link.counters.packets_in += 1;
            link.counters.bytes_in += packet.len() as u64;
            link.hear_pulse(&hello.pulse, now, self.time.cluster());
        }
        let back = std::mem::replace(&mut link.address, from);
        if answer.is_some() {
            self.say_hello(index, answer, out);
        }
        if let (false, Some(link)) = (has_begun, self.links.get_mut(index)) {
            link.address = back;
        }
        self.learn_time(index, tracker);
        self.greet(index, has_begun, tracker, out);
    }

    /// Whether there is room for one more stranger. Where there are many, the oldest gives way, and before
    /// all others one that says to be the same node: so whoever repeats old hellos displaces only those.
    fn make_room(&mut self, id: u64) -> bool {
        let links = self.links.iter().enumerate();
        let strangers = links.filter(|(_, link)| link.is_stranger());
        if strangers.clone().count() >= MOST_STRANGERS {
            let age = |link: &Link| (link.claimed_id != id, link.number);
            let oldest = strangers.min_by_key(|(_, link)| age(link));
            if let Some((index, _)) = oldest {
                self.forget(index);
            }
        }
        self.links.len() < MOST_LINKS
    }

    /// A node has been heard: it is up, and if it has just come, it is told how things are.
    fn greet(&mut self, index: usize, has_begun: bool, tracker: &Tracker, out: &mut Outbox) {
        let now = self.now;
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        let is_here = link.session.is_some() && now - link.heard_at <= SILENCE;
        if is_here && !link.is_up {
            link.is_up = true;
            let address = link.address;
            self.event(Event::Up(address));
        }
        if has_begun {
            self.send_heartbeat(index, tracker, out);
        }
    }

    fn hear_heartbeat(
        &mut self,
        index: usize,
        body: &[u8],
        tracker: &mut Tracker,
        out: &mut Outbox,
    ) -> Option<()> {
        let heartbeat = Heartbeat::read(body)?;
        let link = self.links.get_mut(index)?;
        link.hear_pulse(&heartbeat.pulse, self.now, self.time.cluster());
        link.expect(heartbeat.next_batch, self.now);
        self.learn_time(index, tracker);
        self.compare(index, heartbeat.digest, tracker, out);
        Some(())
    }

    fn hear_records(
        &mut self,
        index: usize,
        body: &[u8],
        tracker: &mut Tracker,
        refuses: Refuses,
    ) -> Option<()> {
        let mut reader = Reader(body);
        let number = reader.u64()?;
        let first = reader.u64()?;
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        self.counts.clear();
        let is_whole = wire::read_changes(reader.0, &mut changes, &mut self.counts);
        let link = self.links.get_mut(index)?;
        if is_whole.is_some() {
            link.note_batch(number, self.now);
            link.lag = self.time.cluster().saturating_sub(first);
            let cost = changes.len() as u64 * 1000;
            if cost > self.credit {
                link.counters.reject(Rejection::Shed);
            } else {
                self.credit -= cost;
                self.applied += changes.len() as u64;
                link.counters.records_in += changes.len() as u64;
                if self.now < self.counted_until {
                    // Where the count was not in the table yet, the walk over counts finds that.
                    for change in &mut changes {
                        change.newly_completed = false;
                    }
                }
                apply_all(&changes, tracker, refuses, &mut |_, _| {});
            }
        }
        self.changes = changes;
        is_whole
    }

    fn hear_missing(&mut self, index: usize, body: &[u8], out: &mut Outbox) -> Option<()> {
        let link = self.links.get_mut(index)?;
        let stream = &self.stream;
        let mut reader = Reader(body);
        while !reader.0.is_empty() {
            let Some(body) = stream.kept(reader.u64()?) else {
                continue;
            };
            if link.allowance < wire::MOST as u64 {
                break;
            }
            link.allowance -= wire::MOST as u64;
            link.counters.resends += 1;
            send(link, Kind::Records, body, out);
        }
        Some(())
    }
}

/// For the streams on which a node that joins fetches a table.
impl Node {
    /// Who this is on a stream, with a nonce of the stream's own, and the keys.
    pub fn for_stream(&mut self) -> (Party, Keys) {
        let nonce = fresh(self.entropy, &mut self.drawn);
        (Party { id: self.id, nonce }, self.keys.clone())
    }

    /// The table of another node is on its way, or is no longer.
    pub fn set_fetching(&mut self, is_fetching: bool) {
        self.is_fetching = is_fetching;
    }

    /// A piece of a table has come, and with it counts.
    pub fn note_counts(&mut self) {
        self.counted_until = self.now + SETTLED;
    }

    /// In seconds.
    pub fn peer_timeout(&self) -> u32 {
        self.peer_timeout
    }

    /// Whether cluster time is known, and with it what stamps mean.
    pub fn is_sure_of_time(&self) -> bool {
        self.time.sure_for() > 0
    }

    /// Whether the node of this id is there: then it is told what changes.
    pub fn hears(&self, id: u64) -> bool {
        self.links.iter().any(|link| link.is_up && link.id == id)
    }

    /// Whether some node has its packets come from there, or is looked for there.
    pub fn has_link_to(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let mut links = self.links.iter().filter(|link| !link.is_stranger());
        links.any(|link| link.address.ip().to_canonical() == ip)
    }

    /// Whether some of the nodes that are to be reached are not there.
    pub fn is_missing_peers(&self) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.is_configured && !link.is_up)
    }
}

/// Changes that are looked up together: a packet holds few more.
const AHEAD: usize = 64;

/// Applies changes, torrents fetched into the cache ahead; `then` is told what became of each but of
/// those whose torrents are not tracked.
pub(super) fn apply_all(
    changes: &[Change],
    tracker: &mut Tracker,
    refuses: Refuses,
    then: &mut dyn FnMut(&Change, Applied),
) {
    for part in changes.chunks(AHEAD) {
        let mut ahead = [None; AHEAD];
        for (ahead, change) in ahead.iter_mut().zip(part) {
            *ahead = Some(tracker.look_ahead(&change.info_hash));
        }
        let mut hints = [Hint::default(); AHEAD];
        for ((hint, ahead), change) in hints.iter_mut().zip(&ahead).zip(part) {
            if let Some(ahead) = ahead {
                *hint = tracker.look_further(&change.info_hash, ahead);
            }
        }
        for (hint, change) in hints.iter().zip(part) {
            tracker.look_inside(*hint, change.peer);
        }
        for (change, hint) in part.iter().zip(hints) {
            if refuses(&change.info_hash) {
                continue;
            }
            let applied = tracker.apply(change, hint);
            then(change, applied);
        }
    }
}

fn restamp(changes: &mut [Change], by: u8) {
    for change in changes {
        change.stamp = change.stamp.wrapping_add(by) & STAMP_MASK;
    }
}

pub(super) fn send(link: &mut Link, kind: Kind, body: &[u8], out: &mut Outbox) {
    if let Some(session) = &mut link.session {
        let size = out.push(link.address, |packet| session.seal(kind, body, packet));
        link.counters.packets_out += 1;
        link.counters.bytes_out += size as u64;
    }
}

fn fresh(entropy: [u64; 2], drawn: &mut u64) -> Nonce {
    *drawn += 1;
    let words = siphash24_128(entropy, &drawn.to_be_bytes());
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(words.map(u64::to_be_bytes).as_flattened());
    nonce
}

#[cfg(test)]
mod tests;
