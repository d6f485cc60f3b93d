//! Both ends in one process, with a fixed seed: what arrives, and what nobody can make of it.

use super::*;
use crate::random::Random;
use crate::sync::node::{Node, Outbox, Settings};
use crate::tracker::{Event, Limits};

const LIMITS: Limits = Limits {
    peer_timeout: 2700,
    max_peers: usize::MAX,
    max_torrents: usize::MAX,
};
/// Milliseconds of a unit.
const UNIT: u64 = 28_125;

/// A tracker in a cluster. `own` is what its clock says at the start.
struct Member {
    node: Node,
    tracker: Tracker,
    own: u64,
}

impl Member {
    fn with(limits: Limits, id: u64, own: u64) -> Member {
        let mut tracker = Tracker::new(limits);
        let settings = Settings {
            id,
            secret: vec![7; 32],
            entropy: [id, 1],
            peer_timeout: limits.peer_timeout,
            most_records: 100_000,
            most_stops: 4096,
        };
        let node = Node::new(settings, own, 1_700_000_000_000, &mut tracker);
        Member { node, tracker, own }
    }

    fn new(id: u64) -> Member {
        Member::with(LIMITS, id, 1000 * id)
    }

    fn pass(&mut self, ms: u64) {
        let end = self.own + ms;
        while self.own < end {
            self.own = end.min(self.own + 2000);
            self.tracker.advance(self.node.advance(self.own));
            while self.tracker.sweep(1 << 20, None) == crate::tracker::Progress::Underway {}
            let mut out = Outbox::default();
            self.node.tick(1 << 20, &mut self.tracker, &mut out);
        }
    }

    fn tell(&mut self, torrent: usize, peer: usize, role: Role, event: Event) {
        let peer = endpoint(peer);
        self.tracker.tell(&hash(torrent), peer, role, event);
    }

    /// All that it knows but the stops: peers as they would be told, then counts.
    fn known(&self) -> (Vec<Change>, Vec<(InfoHash, u32)>) {
        let mut peers = Vec::new();
        let tracker = &self.tracker;
        let none = tracker.range(&Key::FIRST, &Key::END, usize::MAX - 1, &mut |item| {
            peers.extend(tracker.change_of(item));
        });
        assert_eq!(none, None);
        let mut counts = Vec::new();
        let mut next = Some([0; 20]);
        while let Some(from) = next {
            next = tracker.scrape_from(&from, 1000, |hash, known, _| {
                counts.push((*hash, known.downloaded));
            });
        }
        (peers, counts)
    }
}

fn hash(n: usize) -> InfoHash {
    let mut hash = [0x5a; 20];
    hash[..4].copy_from_slice(&(n as u32).wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash
}

fn endpoint(n: usize) -> Peer {
    let number = (n as u32).to_be_bytes();
    let mut bytes = match n % 3 {
        0 => vec![0x20; 12],
        _ => vec![],
    };
    bytes.extend_from_slice(&number);
    bytes.extend_from_slice(&[1, n as u8]);
    Peer::from_endpoint(&bytes).expect("an endpoint")
}

/// Some hundred torrents, two of them large, some without peers, over the length of a timeout.
fn populated(seed: u64, announces: usize) -> Member {
    let mut random = Random::seeded(seed);
    let mut member = Member::new(1);
    for step in 0..announces {
        let torrent = match random.below(3) {
            0 => random.below(2),
            _ => random.below(400),
        };
        let peer = 1 + random.below(20_000);
        let (role, event) = match random.below(8) {
            0 => (Role::Leecher, Event::Stopped),
            1 => (Role::Seeder, Event::Completed),
            2 | 3 => (Role::Seeder, Event::None),
            _ => (Role::Leecher, Event::Started),
        };
        member.tell(torrent, peer, role, event);
        if step % (announces / 90).max(1) == 0 {
            member.pass(UNIT);
        }
    }
    for torrent in 500..540 {
        member.tell(torrent, 1, Role::Seeder, Event::Completed);
        member.tell(torrent, 1, Role::Seeder, Event::Stopped);
    }
    member
}

fn us(id: u64, nonce: u8) -> Party {
    Party {
        id,
        nonce: [nonce; 16],
    }
}

fn keys() -> Keys {
    Keys::new(&[7; 32])
}

fn host() -> Host<'static> {
    Host {
        is_whole: true,
        has_place: true,
        peer_timeout: LIMITS.peer_timeout,
        hears: &|id| id == 2,
    }
}

/// What each end has sent.
#[derive(Default)]
struct Recorded {
    asked: Vec<u8>,
    given: Vec<u8>,
}

/// Both ends until one fails or the table is whole; `meanwhile` happens at the other end after each slice.
fn fetch(
    from: &mut Member,
    to: &mut Member,
    refuses: &dyn Fn(&InfoHash) -> bool,
    meanwhile: &mut dyn FnMut(&mut Member, &mut Member),
) -> (Taken, Recorded) {
    let mut random = Random::seeded(9);
    let mut recorded = Recorded::default();
    let mut offer = Offer::new(keys(), us(1, 1));
    let mut asked = Vec::new();
    let mut fetch = Fetch::new(keys(), us(2, 2), LIMITS.peer_timeout, &mut asked);
    let mut given = Vec::new();
    loop {
        recorded.asked.extend_from_slice(&asked);
        for piece in asked.chunks(1 + random.below(40)) {
            offer.feed(piece).expect("is little");
            let said = offer.converse(&host(), &from.tracker, &mut given);
            said.expect("is sound");
        }
        asked.clear();
        if given.is_empty() {
            offer.step(&from.tracker, &mut given).expect("can be given");
        }
        meanwhile(from, to);
        let length = fetch.room().min(given.len()).min(1 + random.below(50_000));
        recorded.given.extend_from_slice(&given[..length]);
        fetch.feed(&given[..length]);
        given.drain(..length);
        for _ in 0..1 + random.below(4) {
            let progress = fetch.step(&mut to.tracker, refuses, &mut asked);
            if progress.expect("is sound") == Progress::Whole {
                assert!(offer.is_over() && given.is_empty());
                assert!(offer.given().is_some());
                return (fetch.taken(), recorded);
            }
        }
    }
}

fn fetch_all(from: &mut Member, to: &mut Member) -> (Taken, Recorded) {
    fetch(from, to, &|_| false, &mut |_, _| ())
}

#[test]
fn a_node_that_joins_knows_the_same() {
    let mut from = populated(1, 30_000);
    let mut to = Member::new(2);
    to.pass(from.own - 1000);
    let (taken, _) = fetch_all(&mut from, &mut to);
    let (peers, counts) = from.known();
    assert!(peers.len() > 5000 && counts.len() > 400);
    assert_eq!(taken.peers, peers.len() as u64);
    assert_eq!(taken.torrents, counts.len() as u64);
    assert!(taken.stops >= 40 && taken.left_out == 0 && taken.refused == 0);
    assert_eq!(to.known(), (peers, counts));
    for member in [&mut from, &mut to] {
        while !member.tracker.count_on(10_000) {}
    }
    let digest = |member: &Member| member.tracker.ledger().map(|l| l.whole_digest());
    assert_eq!(digest(&from), digest(&to));
    assert!(from.known() == to.known());
}

/// Whatever the clocks said at the start, and for however long either has run.
#[test]
fn stamps_are_of_cluster_time() {
    let mut from = populated(2, 2000);
    let mut to = Member::with(LIMITS, 2, 77);
    let ahead = from.node.cluster_time();
    to.tracker.set_cluster_time(ahead, false);
    fetch_all(&mut from, &mut to);
    assert_eq!(to.known(), from.known());
}

/// A stream takes many units, in which peers expire, come and go.
#[test]
fn what_happens_meanwhile_is_no_harm() {
    let mut from = populated(3, 30_000);
    let mut to = Member::new(2);
    to.pass(from.own - 1000);
    let mut told = Vec::new();
    let mut slices = 0_usize;
    fetch(&mut from, &mut to, &|_| false, &mut |from, to| {
        from.pass(UNIT / 8);
        to.pass(UNIT / 8);
        for n in 0..20 {
            slices += 1;
            let (torrent, peer) = (slices % 400, 100_000 + slices);
            from.tell(torrent, peer, Role::Leecher, Event::Started);
            if n % 2 == 0 {
                let stopped = 1 + slices * 7 % 20_000;
                from.tell(torrent, stopped, Role::Leecher, Event::Stopped);
            }
        }
        told.clear();
        from.tracker.take_changes(&mut told);
        apply_all(&told, &mut to.tracker, &|_| false, &mut |_, _| ());
    });
    // What was announced in the last units of either clock may have expired at one.
    let live = |member: &Member| {
        let now = member.tracker.cluster_unit().expect("is in a cluster");
        let (mut peers, _) = member.known();
        peers.retain(|peer| (now as u8).wrapping_sub(peer.stamp) & STAMP_MASK < 90);
        peers
    };
    assert!(slices > 300);
    let (ours, theirs) = (live(&from), live(&to));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours == theirs);
}

#[test]
fn who_has_stopped_stays_away() {
    let mut from = Member::new(1);
    from.tell(1, 1, Role::Leecher, Event::Started);
    from.tell(1, 2, Role::Leecher, Event::Started);
    from.tell(2, 3, Role::Seeder, Event::Started);
    let mut to = Member::new(2);
    // Known here from before, and stopped there since.
    to.tell(2, 4, Role::Leecher, Event::Started);
    from.tell(2, 4, Role::Leecher, Event::Started);
    from.tell(2, 4, Role::Leecher, Event::Stopped);
    // Stopped at a third node, of which the other has not heard.
    let mut told = Vec::new();
    let mut third = Member::new(4);
    third.tell(1, 2, Role::Leecher, Event::Started);
    third.tell(1, 2, Role::Leecher, Event::Stopped);
    third.tracker.take_changes(&mut told);
    apply_all(&told[1..], &mut to.tracker, &|_| false, &mut |_, _| ());
    fetch_all(&mut from, &mut to);
    let (peers, _) = to.known();
    let peers: Vec<Peer> = peers.iter().map(|change| change.peer).collect();
    assert_eq!(peers.len(), 2);
    assert!(peers.contains(&endpoint(1)) && peers.contains(&endpoint(3)));
    // An old packet that comes late.
    let (stale, _) = {
        let mut other = Member::new(3);
        other.tell(2, 4, Role::Leecher, Event::Started);
        other.known()
    };
    apply_all(&stale, &mut to.tracker, &|_| false, &mut |_, applied| {
        assert!(matches!(applied, Applied::Stopped(_)), "{applied:?}");
    });
}

#[test]
fn memories_merge_and_limits_and_lists_hold() {
    let mut from = Member::new(1);
    for _ in 0..3 {
        from.tell(1, 1, Role::Seeder, Event::Completed);
        from.tell(1, 1, Role::Seeder, Event::Stopped);
    }
    from.tell(2, 1, Role::Seeder, Event::Completed);
    for peer in 1..30 {
        from.tell(3, peer, Role::Leecher, Event::Started);
    }
    from.tell(4, 1, Role::Seeder, Event::Completed);
    let limits = Limits {
        max_peers: 10,
        ..LIMITS
    };
    let mut to = Member::with(limits, 2, 2000);
    to.tell(2, 1, Role::Seeder, Event::Completed);
    to.tell(2, 2, Role::Seeder, Event::Completed);
    let refused = hash(4);
    let refuses = |hash: &InfoHash| *hash == refused;
    let (taken, _) = fetch(&mut from, &mut to, &refuses, &mut |_, _| ());
    let counts: Vec<_> = [1, 2, 4]
        .iter()
        .map(|n| to.tracker.scrape(&hash(*n)).map(|known| known.downloaded))
        .collect();
    assert_eq!(counts, [Some(3), Some(2), None]);
    let totals = to.tracker.totals();
    assert_eq!(totals.leechers + totals.seeders, 10);
    assert_eq!((taken.torrents, taken.refused), (3, 1));
    // One of them is known.
    assert_eq!((taken.peers, taken.left_out), (9, 21));
}

/// The answer to a greeting, without its code.
fn answer(host: &Host, keys_of_asker: Keys) -> Result<Option<Answer>, Failure> {
    let from = Member::new(1);
    let mut offer = Offer::new(keys(), us(1, 1));
    let (mut asked, mut given) = (Vec::new(), Vec::new());
    Fetch::new(keys_of_asker.clone(), us(2, 2), 2700, &mut asked);
    offer.feed(&asked)?;
    offer.converse(host, &from.tracker, &mut given)?;
    assert!(!offer.is_proved());
    let greeting = Greeting::open(&given, &keys_of_asker)?;
    Ok(greeting.and_then(|greeting| Some(greeting.answer?.0)))
}

#[test]
fn only_a_node_that_is_whole_and_hears_the_other_gives_its_table() {
    let ask = |change: &dyn Fn(&mut Host)| {
        let mut host = host();
        change(&mut host);
        answer(&host, keys())
    };
    assert_eq!(ask(&|_| ()), Ok(Some(Answer::Yes)));
    let syncing = ask(&|host| host.is_whole = false);
    assert_eq!(syncing, Ok(Some(Answer::Syncing)));
    let busy = ask(&|host| host.has_place = false);
    assert_eq!(busy, Ok(Some(Answer::Busy)));
    let other = ask(&|host| host.peer_timeout = 60);
    assert_eq!(other, Ok(Some(Answer::Timeout)));
    // Not heard yet: it is waited for.
    assert_eq!(ask(&|host| host.hears = &|_| false), Ok(None));
    let foreign = answer(&host(), Keys::new(&[8; 32]));
    assert_eq!(foreign, Err(Failure::Wrong(Wrong::Forged)));
}

#[test]
fn who_is_not_heard_in_time_is_told() {
    let from = Member::new(1);
    let mut offer = Offer::new(keys(), us(1, 1));
    let (mut asked, mut given) = (Vec::new(), Vec::new());
    let mut fetch = Fetch::new(keys(), us(3, 2), 2700, &mut asked);
    offer.feed(&asked).expect("is little");
    let said = offer.converse(&host(), &from.tracker, &mut given);
    assert!(said.is_ok() && offer.is_waiting() && given.is_empty());
    offer.dismiss(&host(), &mut given);
    assert!(offer.is_over());
    fetch.feed(&given);
    let mut to = Member::new(3);
    let result = fetch.step(&mut to.tracker, &|_| false, &mut asked);
    assert_eq!(result, Err(Failure::Refused(Answer::Stranger)));
}

/// Takes recorded bytes as if they came from the other end.
fn take(bytes: &[u8], nonce: u8) -> (Result<Progress, Failure>, Member) {
    let mut to = Member::new(2);
    let mut asked = Vec::new();
    let mut fetch = Fetch::new(keys(), us(2, nonce), LIMITS.peer_timeout, &mut asked);
    let mut rest = bytes;
    loop {
        assert!(fetch.held.len() <= MOST + AROUND);
        let (now, later) = rest.split_at(rest.len().min(fetch.room()));
        fetch.feed(now);
        rest = later;
        match fetch.step(&mut to.tracker, &|_| false, &mut asked) {
            Ok(Progress::Underway) => {}
            Ok(Progress::Waits) if !rest.is_empty() => {}
            result => return (result, to),
        }
    }
}

/// A table of every kind of item, small enough to try everything on its stream.
fn small() -> Recorded {
    let mut from = Member::new(1);
    from.tell(1, 1, Role::Seeder, Event::Completed);
    from.tell(1, 1, Role::Seeder, Event::Stopped);
    for peer in 0..12 {
        let role = [Role::Leecher, Role::Seeder][peer % 2];
        from.tell(2, 1 + peer, role, Event::None);
    }
    fetch_all(&mut from, &mut Member::new(2)).1
}

#[test]
fn no_stream_that_is_cut_off_makes_a_node_whole() {
    let stream = small().given;
    assert_eq!(take(&stream, 2).0, Ok(Progress::Whole));
    for length in 0..stream.len() {
        let (result, _) = take(&stream[..length], 2);
        assert_eq!(result, Ok(Progress::Waits), "{length}");
    }
}

#[test]
fn no_bit_of_a_stream_can_be_changed() {
    let stream = small().given;
    for bit in 0..stream.len() * 8 {
        let mut forged = stream.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let (result, to) = take(&forged, 2);
        assert_ne!(result, Ok(Progress::Whole), "{bit}");
        // Of the frame that was changed nothing was taken; before it there may be sound ones.
        if bit / 8 < GREETING + AROUND {
            assert_eq!(to.tracker.totals().torrents, 0, "{bit}");
        }
    }
}

#[test]
fn nothing_may_follow_the_end() {
    let mut stream = small().given;
    stream.push(0);
    assert!(take(&stream, 2).0.is_err());
}

#[test]
fn an_old_stream_is_of_no_use_to_either_end() {
    let Recorded { asked, given } = small();
    let (result, to) = take(&given, 3);
    assert_eq!(result, Err(Failure::Wrong(Wrong::Forged)));
    assert_eq!(to.tracker.totals().torrents, 0);
    // The greeting alone brings an answer; then the nonce is another one.
    let from = Member::new(1);
    let mut offer = Offer::new(keys(), us(1, 9));
    offer.feed(&asked).expect("is little");
    let mut out = Vec::new();
    let result = offer.converse(&host(), &from.tracker, &mut out);
    assert_eq!(result, Err(Failure::Wrong(Wrong::Forged)));
    assert_eq!(out.len(), GREETING);
    assert!(!offer.is_proved());
}

#[test]
fn what_is_not_of_the_protocol_is_found_early() {
    let from = Member::new(1);
    let mut out = Vec::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0], &[0xff; 90]] {
        let mut offer = Offer::new(keys(), us(1, 1));
        offer.feed(bytes).expect("is little");
        let result = offer.converse(&host(), &from.tracker, &mut out);
        assert_eq!(result, Err(Failure::Wrong(Wrong::Version)));
    }
    let mut offer = Offer::new(keys(), us(1, 1));
    let result = offer.feed(&[1; GREETING + AROUND + 1]);
    assert_eq!(result, Err(Failure::Wrong(Wrong::Malformed)));
    assert!(out.is_empty() && offer.held.is_empty());
}

/// Frames of who has the key, with this as the table.
fn made(table: &[u8], length: Option<u32>) -> Vec<u8> {
    let mut stream = Vec::new();
    let greeting = Greeting {
        from: us(1, 1),
        answer: Some((Answer::Yes, [2; 16])),
        peer_timeout: LIMITS.peer_timeout,
    };
    greeting.seal(&keys(), &mut stream);
    let mut sealer = Sealer::new(&keys(), &us(1, 1), &us(2, 2));
    let packed = miniz_oxide::deflate::compress_to_vec(table, 6);
    sealer.seal(Kind::Piece, &packed, &mut stream);
    if let Some(length) = length {
        stream[GREETING..GREETING + 4].copy_from_slice(&length.to_be_bytes());
    }
    sealer.seal(Kind::End, &[], &mut stream);
    stream
}

#[test]
fn an_absurd_length_is_not_waited_for() {
    for length in [MOST as u32 + 1, u32::MAX] {
        let (result, _) = take(&made(b"", Some(length)), 2);
        assert_eq!(result, Err(Failure::Wrong(Wrong::Malformed)));
    }
}

/// Four million stops of zeros in some ten kilobytes: no step takes more than its slice.
#[test]
fn however_much_is_inflated_it_is_taken_in_slices() {
    let from = Member::new(1);
    let mut table = Vec::new();
    Writer::for_cluster(&from.tracker, &mut table).expect("is in a cluster");
    for _ in 0..60 {
        table.extend_from_slice(&[8, 0xff, 0xff]);
        table.resize(table.len() + 0xffff * 12, 0);
    }
    let stream = made(&table, None);
    assert!(stream.len() < MOST + 200, "{}", stream.len());
    let mut to = Member::new(2);
    let mut out = Vec::new();
    let mut fetch = Fetch::new(keys(), us(2, 2), LIMITS.peer_timeout, &mut out);
    let mut rest = &stream[..];
    let (mut steps, mut before) = (0, 0);
    let result = loop {
        let (now, later) = rest.split_at(rest.len().min(fetch.room()));
        fetch.feed(now);
        rest = later;
        let result = fetch.step(&mut to.tracker, &|_| false, &mut out);
        let stops = fetch.taken().stops;
        assert!(stops - before <= SLICE as u64 / 12 + 1);
        before = stops;
        steps += 1;
        match result {
            Ok(Progress::Underway) => {}
            result => break result,
        }
    };
    assert!(steps >= table.len() / SLICE, "{steps}");
    // It has no end of its own.
    assert!(matches!(result, Err(Failure::Damage(Damage::Truncated(_)))));
    assert_eq!(before, 60 * 0xffff);
}

#[test]
fn whatever_who_has_the_key_sends_nothing_panics() {
    let mut from = populated(4, 500);
    let mut table = Vec::new();
    let mut writer = Writer::for_cluster(&from.tracker, &mut table).expect("is in a cluster");
    while writer.step_shard(&from.tracker, 100, &mut table) {}
    from.pass(1);
    assert_eq!(take(&made(&table, None), 2).0, Ok(Progress::Whole));
    let mut random = Random::seeded(5);
    for _ in 0..1000 {
        let mut bytes = table.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, random.below(9) as u8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes[at] = random.draw() as u8,
            }
        }
        if bytes != table {
            assert_ne!(take(&made(&bytes, None), 2).0, Ok(Progress::Whole));
        }
    }
    // Deflate that is none.
    let mut stream = Vec::new();
    let whole = made(&table, None);
    stream.extend_from_slice(&whole[..GREETING]);
    let mut sealer = Sealer::new(&keys(), &us(1, 1), &us(2, 2));
    sealer.seal(Kind::Piece, &[0xff; 100], &mut stream);
    assert_eq!(take(&stream, 2).0, Err(Failure::Deflate));
}

/// An end that is told to serve when the time of the cluster is set gives up; stamps would be wrong.
#[test]
fn a_table_whose_time_is_set_is_not_given_on() {
    let mut from = populated(6, 20_000);
    let mut giving = Giving::new(Sealer::new(&keys(), &us(1, 1), &us(2, 2)), &from.tracker)
        .expect("is in a cluster");
    let mut out = Vec::new();
    assert_eq!(giving.step(&from.tracker, &mut out), Ok(true));
    let hour = from.node.cluster_time() + 3_600_000;
    from.tracker.set_cluster_time(hour, false);
    assert_eq!(giving.step(&from.tracker, &mut out), Err(Failure::Clock));
}
