//! The bounds of a small table: of the peers of a host in a swarm, of peers and of torrents.

use super::Input;
use super::table::walked;
use announced::base::nets::Net;
use announced::base::random::Random;
use announced::tracker::{
    Announce, Event, HostBound, InfoHash, Limits, Peer, Progress, Role, Sinks, Sweeper, Table,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

const MAX_PER_HOST: usize = 3;
const MAX_PEERS: usize = 20;
const MAX_TORRENTS: usize = 5;

/// Room for peers that only swarms of fewer than three have.
const RESERVE: usize = MAX_PEERS / 20;

/// The networks without a bound.
const EXEMPT: [&str; 2] = ["10.9.0.0/16", "2001:db8:9::/48"];

fn hash(input: &mut Input) -> InfoHash {
    [input.u8() & 7; 20]
}

/// Many peers of few hosts, some of which are exempt.
fn peer(input: &mut Input) -> Peer {
    let [host, port, low] = input.array();
    let network = 8 + (host >> 1 & 1);
    let address = match host & 1 {
        0 => IpAddr::from([10, network, 0, host >> 6]),
        // The last bits are of the same host.
        _ => {
            let network = u16::from(network);
            Ipv6Addr::from([0x2001, 0xdb8, network, 0, 0, 0, 0, u16::from(low)]).into()
        }
    };
    Peer::new(address, u16::from(port))
}

/// The host of an endpoint, and whether it has a bound.
fn host(endpoint: &[u8]) -> (&[u8], bool) {
    match endpoint {
        [10, network, ..] if endpoint.len() == 6 => (&endpoint[..4], *network != 9),
        _ => (&endpoint[..8], endpoint[4..6] != [0, 9]),
    }
}

struct Subject {
    table: Table,
    sweeper: Sweeper,
    random: Random,
    now_ms: u64,
}

impl Subject {
    fn new() -> Subject {
        let limits = Limits {
            peer_timeout: 48,
            max_peers: MAX_PEERS,
            max_torrents: MAX_TORRENTS,
        };
        let table = Table::new(limits, 1);
        let exempt = EXEMPT.map(|net| Net::parse(net).expect("a network"));
        table.bound_hosts(&HostBound::new(MAX_PER_HOST, exempt.into()));
        table.note_sweeps(0);
        Subject {
            table,
            sweeper: Sweeper::default(),
            random: Random::seeded(1),
            now_ms: 0,
        }
    }

    fn sweep(&mut self) {
        while self.sweeper.step(&self.table, self.now_ms, 9, None) != Progress::NotDue {}
    }

    fn advance(&mut self, seconds: u8) {
        self.now_ms += u64::from(seconds) * 1000;
        if self.table.is_held(self.now_ms) {
            self.sweep();
        }
    }

    fn announce(&mut self, input: &mut Input) {
        let (info_hash, peer, kind) = (hash(input), peer(input), input.u8());
        let event = match kind >> 1 & 7 {
            0 => Event::Stopped,
            1 => Event::Completed,
            _ => Event::None,
        };
        let announce = Announce {
            info_hash,
            peer,
            role: Role::ALL[usize::from(kind & 1)],
            event,
            want: 0,
            hint: None,
        };
        let (before, key) = (self.check(), (info_hash, peer.endpoint().to_vec()));
        let mut sinks = Sinks::new(&mut [], &mut []);
        let mut tracker = self.table.lock_for(&info_hash, self.now_ms);
        tracker.announce(&announce, &mut self.random, &mut sinks);
        drop(tracker);
        let after = self.check();
        if event == Event::Stopped {
            return assert!(!after.contains_key(&key));
        }
        let swarm = before.keys().filter(|(hash, _)| *hash == info_hash).count();
        let torrents = self.table.survey(self.now_ms).totals.torrents;
        let is_small = swarm < 3 && before.len() < MAX_PEERS;
        let has_room = before.len() < MAX_PEERS - RESERVE || is_small;
        if before.contains_key(&key) || has_room && (swarm > 0 || torrents < MAX_TORRENTS) {
            assert!(after.contains_key(&key), "{key:?}");
        }
        // It may replace a peer of its host.
        assert!(has_room || after.len() <= before.len(), "{key:?}");
    }

    /// All stored peers, which are within the bounds.
    fn check(&self) -> BTreeMap<(InfoHash, Vec<u8>), (Role, bool)> {
        let stored = BTreeMap::from_iter(walked(&self.table, self.now_ms));
        let mut counts = BTreeMap::new();
        for (hash, endpoint) in stored.keys() {
            let (host, has_bound) = host(endpoint);
            let count = counts.entry((*hash, host)).or_insert(0);
            *count += usize::from(has_bound);
            assert!(*count <= MAX_PER_HOST, "{host:?}");
        }
        let totals = self.table.survey(self.now_ms).totals;
        assert!(totals.torrents <= MAX_TORRENTS && stored.len() <= MAX_PEERS);
        stored
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut subject = Subject::new();
    while !input.is_empty() {
        match input.u8() {
            0..0xe0 => subject.announce(&mut input),
            0xe0..0xf0 => subject.advance(input.u8()),
            _ => subject.sweep(),
        }
    }
}
