//! The peers that the clients of the soak have announced, and what the nodes may say of them.
//!
//! A peer announces to one node, its home. There, after the reply, it must be stored until its timeout, and after a
//! stop it must be gone. The other node learns it within moments, or when the link is mended. Between two checks in
//! which both tables were as expected, both states of such a peer are right there.

use announced::base::random::Random;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub type InfoHash = [u8; 20];

/// A daemon may be kept from running for so long by other processes.
const SLACK: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub home: usize,
    pub is_seeder: bool,
    /// A second completion would not be counted.
    pub has_completed: bool,
    has_stopped: bool,
    /// The last announce was sent, and its reply was received.
    sent: Instant,
    acknowledged: Instant,
    /// When it came, stopped, or became a seeder or leecher.
    changed: Instant,
}

/// What the next announce of a peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub home: usize,
    pub is_seeder: bool,
    pub has_stopped: bool,
    pub completes: bool,
}

pub struct Model {
    pub timeout: Duration,
    swarms: BTreeMap<InfoHash, HashMap<SocketAddr, Peer>>,
    /// Peers in the order of their last announces.
    order: VecDeque<(Instant, InfoHash, SocketAddr)>,
    completed: BTreeMap<InfoHash, u32>,
    /// When both tables were last as expected.
    agreed: Instant,
    pub announces: u64,
}

impl Model {
    pub fn new(timeout: Duration) -> Model {
        Model {
            timeout,
            swarms: BTreeMap::new(),
            order: VecDeque::new(),
            completed: BTreeMap::new(),
            agreed: Instant::now(),
            announces: 0,
        }
    }

    /// A unit of the table's clock.
    fn unit(&self) -> Duration {
        self.timeout / 48
    }

    /// How long a peer is certainly stored, and from when on no reply may have it. Its stamp may be two units ahead.
    /// Units are short here: after a hello waited on a slow wire, a node may take a wrong phase of the units, once
    /// in a peer's life, which makes peers older by up to one.
    fn life(&self) -> (Duration, Duration) {
        (
            self.timeout - 3 * self.unit(),
            self.timeout + 4 * self.unit() + SLACK,
        )
    }

    /// How long an expired peer counts: until the end of the next sweep.
    fn counted(&self) -> Duration {
        self.timeout + 16 * self.unit() + SLACK
    }

    /// Notes an acknowledged announce.
    pub fn note(&mut self, info_hash: InfoHash, peer: SocketAddr, said: Said, sent: Instant) {
        self.announces += 1;
        let acknowledged = Instant::now();
        let swarm = self.swarms.entry(info_hash).or_default();
        let before = swarm.get(&peer);
        let stays = |old: &&Peer| {
            let is_known = old.sent + self.timeout > acknowledged;
            is_known && (old.is_seeder, old.has_stopped) == (said.is_seeder, said.has_stopped)
        };
        let changed = before.filter(stays).map_or(sent, |old| old.changed);
        let new = Peer {
            home: said.home,
            is_seeder: said.is_seeder,
            has_completed: said.completes || before.is_some_and(|old| old.has_completed),
            has_stopped: said.has_stopped,
            sent,
            acknowledged,
            changed,
        };
        swarm.insert(peer, new);
        if !said.has_stopped {
            self.order.push_back((sent, info_hash, peer));
        }
        *self.completed.entry(info_hash).or_default() += u32::from(said.completes);
    }

    /// A peer whose last announce is older than this, unless it has stopped.
    pub fn next_due(&mut self, age: Duration) -> Option<(InfoHash, SocketAddr, Peer)> {
        loop {
            let (sent, info_hash, peer) = *self.order.front()?;
            if sent.elapsed() < age {
                return None;
            }
            self.order.pop_front();
            let found = self
                .swarms
                .get(&info_hash)
                .and_then(|swarm| swarm.get(&peer));
            let is_last = |it: &&Peer| it.sent == sent && !it.has_stopped;
            if let Some(found) = found.filter(is_last) {
                return Some((info_hash, peer, *found));
            }
        }
    }

    /// A peer that announced some time ago, chosen at random.
    pub fn some_peer(&self, random: &mut Random) -> Option<(InfoHash, SocketAddr, Peer)> {
        let (sent, info_hash, peer) = *self.order.get(random.below(self.order.len()))?;
        let found = self.swarms.get(&info_hash)?.get(&peer)?;
        let is_last = found.sent == sent && !found.has_stopped;
        is_last.then_some((info_hash, peer, *found))
    }

    /// Peers whose next announce is awaited.
    pub fn waiting(&self) -> usize {
        self.order.len()
    }

    pub fn knows(&self, info_hash: &InfoHash, peer: &SocketAddr) -> bool {
        let swarm = self.swarms.get(info_hash);
        swarm.is_some_and(|swarm| swarm.contains_key(peer))
    }

    pub fn size(&self, info_hash: &InfoHash) -> usize {
        self.swarms.get(info_hash).map_or(0, HashMap::len)
    }

    pub fn completed(&self, info_hash: &InfoHash) -> u32 {
        self.completed.get(info_hash).copied().unwrap_or_default()
    }

    /// The peers of a torrent and the ages of their last announces, for the text of a failure.
    pub fn describe(&self, info_hash: &InfoHash) -> String {
        let peers = self.swarms.get(info_hash).into_iter().flatten();
        let line = |(address, peer): (&SocketAddr, &Peer)| {
            let [sent, changed] = [peer.sent, peer.changed].map(|at| at.elapsed());
            let (home, is_seeder, has_stopped) = (peer.home, peer.is_seeder, peer.has_stopped);
            format!(
                "{address} of node {home}, seeder {is_seeder}, stopped {has_stopped}, {sent:?}, changed {changed:?}\n"
            )
        };
        format!("agreed {:?} ago\n", self.agreed.elapsed()) + &peers.map(line).collect::<String>()
    }

    /// Whether a node must have a peer at this time.
    fn is_certain(&self, peer: &Peer, node: usize, now: Instant) -> bool {
        let (certain, _) = self.life();
        peer.home == node && !peer.has_stopped && now < peer.sent + certain
    }

    /// Whether a node may have a peer, so long after its last announce.
    fn is_possible(&self, peer: &Peer, node: usize, now: Instant, life: Duration) -> bool {
        let is_over = now > peer.acknowledged + life;
        let has_stopped = peer.has_stopped && (peer.home == node || peer.changed < self.agreed);
        !is_over && !has_stopped
    }

    /// The fault if a reply of a node to a request sent at this time may not have this peer.
    pub fn fault(
        &self,
        info_hash: &InfoHash,
        peer: &SocketAddr,
        node: usize,
        sent: Instant,
    ) -> Option<String> {
        let found = self.swarms.get(info_hash).and_then(|swarm| swarm.get(peer));
        let (_, life) = self.life();
        match found {
            None => Some(format!("{peer} was never announced")),
            Some(found) if !self.is_possible(found, node, sent, life) => {
                let age = sent.saturating_duration_since(found.acknowledged);
                Some(format!("{peer} should be gone after {age:?}: {found:?}"))
            }
            Some(_) => None,
        }
    }

    /// The numbers of leechers and seeders that a node may have counted between these times.
    pub fn counts(
        &self,
        info_hash: &InfoHash,
        node: usize,
        from: Instant,
        to: Instant,
    ) -> [RangeInclusive<u32>; 2] {
        let (mut least, mut most) = ([0; 2], [0; 2]);
        for peer in self
            .swarms
            .get(info_hash)
            .into_iter()
            .flat_map(HashMap::values)
        {
            let role = usize::from(peer.is_seeder);
            least[role] += u32::from(self.is_certain(peer, node, to));
            // A record of the other node's peer that had expired before it stopped here counts until the sweep.
            let is_far = peer.home != node && from <= peer.acknowledged + self.counted();
            if is_far || self.is_possible(peer, node, from, self.counted()) {
                most[role] += 1;
                let may_lag = peer.changed > self.agreed || peer.changed + self.counted() > from;
                most[1 - role] += u32::from(is_far && may_lag);
            }
        }
        [least[0]..=most[0], least[1]..=most[1]]
    }

    /// The peers that a client of a node must get if its reply has room: a seeder gets leechers alone.
    pub fn certain_peers(
        &self,
        info_hash: &InfoHash,
        node: usize,
        now: Instant,
    ) -> impl Iterator<Item = (&SocketAddr, &Peer)> {
        let all = self.swarms.get(info_hash).into_iter().flatten();
        all.filter(move |(_, peer)| self.is_certain(peer, node, now))
    }

    /// The differences of a node's saved table from what it must and may have. With `is_linked` it must have the other
    /// node's peers too, but for those whose end is near: a renewal is told within eight units.
    pub fn differences(
        &self,
        node: usize,
        table: &BTreeMap<(InfoHash, SocketAddr), bool>,
        is_linked: bool,
        [from, to]: [Instant; 2],
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let (certain, life) = self.life();
        let renewed = certain.saturating_sub(12 * self.unit() + SLACK);
        for (info_hash, swarm) in &self.swarms {
            for (peer, known) in swarm {
                let found = table.get(&(*info_hash, *peer));
                let is_here = known.home == node || is_linked;
                let certain = if known.home == node { certain } else { renewed };
                let is_certain = is_here && !known.has_stopped && to < known.sent + certain;
                let is_gone = from > known.acknowledged + life || known.has_stopped && is_here;
                let is_right = match found {
                    None => !is_certain,
                    Some(is_seeder) => !is_gone && (!is_here || *is_seeder == known.is_seeder),
                };
                if !is_right {
                    let age = from.saturating_duration_since(known.acknowledged);
                    faults.push(format!(
                        "{:02x?} {peer} {age:?} ago {known:?}: {found:?}",
                        &info_hash[..4]
                    ));
                }
            }
        }
        let unknown: BTreeSet<_> = table
            .keys()
            .filter(|(hash, peer)| !self.knows(hash, peer))
            .collect();
        faults.extend(
            unknown
                .into_iter()
                .map(|(hash, peer)| format!("{:02x?} {peer}: unknown", &hash[..4])),
        );
        faults
    }

    /// Both tables were as expected for all that was announced before this time. Forgets what no node can have.
    pub fn agree(&mut self, at: Instant) {
        self.agreed = at;
        let life = 2 * self.counted();
        for swarm in self.swarms.values_mut() {
            swarm.retain(|_, peer| at.saturating_duration_since(peer.acknowledged) < life);
        }
        self.swarms.retain(|_, swarm| !swarm.is_empty());
    }
}
