//! The table against a model: announces, stops, scrapes, sweeps and time, as the bytes say.

use super::Input;
use announced::base::random::Random;
use announced::tracker::{
    Announce, COMPLETED, Counts, Cursor, Event, Found, InfoHash, Limits, Peer, Progress,
    RECORD_SIZES, Role, Sinks, Sweeper, Table,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Seconds, and units of the clock: a peer lives for so many.
const TIMEOUT: u64 = 48;

/// Seconds in which every peer whose time is over is swept away, or the clock is held.
const UNSWEPT: u64 = 16;

/// The counts of torrents without peers are kept for a day. No input goes on for so long.
const END: u64 = 80_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    role: Role,
    /// None: it depends on whether the peer came back before a sweep.
    completed: Option<bool>,
    /// The second of the last announce.
    at: u64,
}

struct Subject {
    table: Table,
    sweeper: Sweeper,
    random: Random,
    now: u64,
    /// Also those whose time is over but who may not have been swept away.
    peers: BTreeMap<(InfoHash, Vec<u8>), Known>,
    downloaded: BTreeMap<InfoHash, u32>,
}

/// Info-hashes near each other and far from each other.
fn hash(input: &mut Input) -> InfoHash {
    let number = input.u8();
    let mut hash = [number & 0x0f; 20];
    hash[0] = number << 4;
    hash
}

/// Peers of several families, hosts and ports, some of which cannot be connected to.
fn peer(input: &mut Input) -> Peer {
    let [host, port] = input.array();
    let address = match host {
        0..0x80 => IpAddr::from([10, 0, host >> 4, host]),
        _ => Ipv6Addr::from([0x2001, 0xdb8, host.into(), 0, 0, 0, 0, host.into()]).into(),
    };
    Peer::new(address, u16::from(port))
}

impl Subject {
    fn new(threads: usize) -> Subject {
        let limits = Limits {
            peer_timeout: TIMEOUT as u32,
            max_peers: 1 << 20,
            max_torrents: 1 << 20,
        };
        let table = Table::new(limits, threads);
        // As at the daemon's start.
        table.note_sweeps(0);
        Subject {
            table,
            sweeper: Sweeper::default(),
            random: Random::seeded(1),
            now: 0,
            peers: BTreeMap::new(),
            downloaded: BTreeMap::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.now * 1000
    }

    fn is_alive(&self, known: &Known) -> bool {
        self.now - known.at <= TIMEOUT
    }

    /// Sweeps until none is due. Requests wait for that after a long pause, as in the daemon.
    fn sweep(&mut self, budget: usize) {
        let now = self.now_ms();
        while self.sweeper.step(&self.table, now, budget, None) != Progress::NotDue {}
        assert!(!self.table.is_held(now));
    }

    fn advance(&mut self, seconds: u64) {
        self.now = (self.now + seconds).min(END);
        if self.table.is_held(self.now_ms()) {
            self.sweep(1000);
        }
        let now = self.now;
        self.peers
            .retain(|_, known| now - known.at <= TIMEOUT + UNSWEPT);
    }

    /// The swarm's peers whose time is not over.
    fn swarm(&self, hash: InfoHash) -> impl Iterator<Item = (&Vec<u8>, &Known)> {
        let all = self.peers.range((hash, Vec::new())..);
        let swarm = all.take_while(move |((other, _), _)| *other == hash);
        let swarm = swarm.filter(|(_, known)| self.is_alive(known));
        swarm.map(|((_, endpoint), known)| (endpoint, known))
    }

    /// Counts may include peers whose time is over until they are swept away.
    fn check_counts(&self, hash: InfoHash, counts: Counts) {
        let count = |role, is_bound: bool| {
            let all = self.peers.range((hash, Vec::new())..);
            let swarm = all.take_while(move |((other, _), _)| *other == hash);
            let of_role = swarm.filter(|(_, known)| known.role == role);
            let counted = of_role.filter(|(_, known)| is_bound || self.is_alive(known));
            u32::try_from(counted.count()).expect("few")
        };
        for (role, counted) in [
            (Role::Seeder, counts.seeders),
            (Role::Leecher, counts.leechers),
        ] {
            let bounds = count(role, false)..=count(role, true);
            assert!(bounds.contains(&counted), "{counts:?} {role:?} {bounds:?}");
        }
        let downloaded = self.downloaded.get(&hash).copied().unwrap_or_default();
        assert_eq!(counts.downloaded, downloaded);
    }

    fn announce(&mut self, input: &mut Input) {
        let (info_hash, peer, [kind, want]) = (hash(input), peer(input), input.array());
        let role = Role::ALL[usize::from(kind & 1)];
        let event = match kind >> 1 & 3 {
            0 => Event::None,
            1 => Event::Started,
            2 => Event::Completed,
            _ => Event::Stopped,
        };
        let announce = Announce {
            info_hash,
            peer,
            role,
            event,
            want: want.min(200).into(),
            hint: None,
        };
        let (mut v4, mut v6) = ([0; 1200], [0; 3600]);
        let mut sinks = Sinks::new(&mut v4, &mut v6);
        let now = self.now_ms();
        let mut tracker = self.table.lock_for(&info_hash, now);
        let outcome = tracker.announce(&announce, &mut self.random, &mut sinks);
        drop(tracker);
        self.note(&announce, outcome.is_completion);
        self.check_counts(info_hash, outcome.counts);
        let v4 = sinks.v4.bytes().chunks(6);
        let named: Vec<&[u8]> = v4.chain(sinks.v6.bytes().chunks(18)).collect();
        self.check_reply(&announce, &named);
    }

    /// Changes the model. A completion counts once, as long as the peer stays.
    fn note(&mut self, announce: &Announce, is_completion: bool) {
        let key = (announce.info_hash, announce.peer.endpoint().to_vec());
        if announce.event == Event::Stopped {
            assert!(!is_completion);
            self.peers.remove(&key);
            return;
        }
        let completes = announce.event == Event::Completed && announce.role == Role::Seeder;
        let before = match self.peers.get(&key) {
            Some(known) if self.is_alive(known) => known.completed,
            Some(known) if known.completed != Some(false) => None,
            _ => Some(false),
        };
        match before {
            Some(before) => assert_eq!(is_completion, completes && !before),
            None => assert!(completes || !is_completion),
        }
        let known = Known {
            role: announce.role,
            completed: if completes { Some(true) } else { before },
            at: self.now,
        };
        self.peers.insert(key, known);
        *self.downloaded.entry(announce.info_hash).or_default() += u32::from(is_completion);
    }

    fn check_reply(&self, announce: &Announce, named: &[&[u8]]) {
        let own = announce.peer.endpoint();
        let is_of_use = |endpoint: &[u8], known: &Known| {
            let [.., high, low] = *endpoint else {
                return false;
            };
            endpoint != own
                && [high, low] > [0, 1]
                && (announce.role == Role::Leecher || known.role == Role::Leecher)
        };
        let swarm = self.swarm(announce.info_hash);
        let all: BTreeSet<&[u8]> = swarm
            .filter(|(endpoint, known)| is_of_use(endpoint, known))
            .map(|(endpoint, _)| &endpoint[..])
            .collect();
        let different: BTreeSet<&[u8]> = named.iter().copied().collect();
        assert_eq!(different.len(), named.len());
        assert!(different.is_subset(&all), "{different:?} {all:?}");
        assert!(named.len() <= announce.want);
        if announce.event == Event::Stopped {
            return assert!(named.is_empty());
        }
        // In a large swarm of which most peers are of no use the search for others is bounded.
        let stored = self
            .peers
            .keys()
            .filter(|(hash, _)| *hash == announce.info_hash);
        let is_searched = stored.count() <= announce.want.max(all.len() + 1);
        assert!(!named.is_empty() || all.is_empty() || announce.want == 0 || !is_searched);
    }

    /// After a sweep the table is the model, but for peers whose time is over since.
    fn check_end(&mut self) {
        for _ in 0..UNSWEPT {
            self.advance(1);
            self.sweep(7);
        }
        let stored = walked(&self.table, self.now_ms());
        let mut alive = self
            .peers
            .values()
            .filter(|known| self.is_alive(known))
            .count();
        for (key, (role, completed)) in &stored {
            let known = self.peers.get(key).expect("a peer that announced");
            assert_eq!(
                (known.role, known.completed.unwrap_or(*completed)),
                (*role, *completed)
            );
            assert!(self.now - known.at <= TIMEOUT + 8, "it is swept away");
            alive -= usize::from(self.is_alive(known));
        }
        assert_eq!(alive, 0, "all others are stored");
    }
}

/// Peers by torrent and endpoint: their roles, and whether a completion of theirs was counted.
type Stored = Vec<((InfoHash, Vec<u8>), (Role, bool))>;

/// All that a table stores, walked in small steps. Torrents and lists are in order, and totals are the sums.
pub fn walked(table: &Table, now_ms: u64) -> Stored {
    let mut torrent: Option<InfoHash> = None;
    let mut last: Option<(u8, Vec<u8>)> = None;
    let (mut torrents, mut all) = (0, Vec::new());
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        cursor = table.walk(from, now_ms, 5, &mut |found| match found {
            Found::Torrent { info_hash, .. } => {
                assert!(torrent < Some(*info_hash));
                (torrent, last) = (Some(*info_hash), None);
                torrents += 1;
            }
            Found::Peers { list, records } => {
                for record in records.chunks(RECORD_SIZES[usize::from(list)]) {
                    let (tag, endpoint) = record.split_last().expect("a tag");
                    let place = (list, endpoint.to_vec());
                    assert!(last.as_ref() < Some(&place));
                    last = Some(place);
                    let key = (torrent.expect("a torrent"), endpoint.to_vec());
                    let role = Role::ALL[usize::from(list % 2)];
                    all.push((key, (role, tag & COMPLETED != 0)));
                }
            }
        });
    }
    let totals = table.survey(now_ms).totals;
    assert_eq!(totals.torrents, torrents);
    assert_eq!(totals.seeders + totals.leechers, all.len());
    all
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut subject = Subject::new(1 + usize::from(input.u8() & 1));
    while !input.is_empty() {
        match input.u8() {
            0..0xa0 => subject.announce(&mut input),
            0xa0..0xc0 => {
                let hash = hash(&mut input);
                let counts = subject
                    .table
                    .lock_for(&hash, subject.now_ms())
                    .scrape(&hash);
                subject.check_counts(hash, counts.unwrap_or_default());
            }
            0xc0..0xe0 => subject.advance(input.u8().into()),
            0xe0..0xf0 => subject.sweep(usize::from(input.u8()) + 1),
            // A host that was suspended.
            _ => subject.advance(u64::from(input.u8()) * 20),
        }
    }
    subject.check_end();
}
