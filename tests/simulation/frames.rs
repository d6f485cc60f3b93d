//! Bytes that strangers, broken networks and hostile nodes with the key send to a node.

use crate::world::{SECRET, address, hash, new_table, settings};
use announced::base::random::Random;
use announced::cluster::frame::{HELLO_BYTES, Hello, Keys, MAX_CONTENT, Session};
use announced::cluster::node::{Node, World};
use announced::stats::cluster::{Failure, Health};
use announced::tracker::{Hint, PeerState, Record, Role, Table};

const CONN: u64 = 1;
/// The request of a new node for local peers.
const READY: [u8; 25] = {
    let mut content = [0; 25];
    content[0] = 1;
    content
};

/// A node to which another one connects.
struct Target {
    node: Node,
    table: Table,
    now: u64,
}

impl Target {
    fn new() -> Target {
        let table = new_table(1);
        let node = Node::new(settings(1, 2, 0), &table, 0);
        let now = 0;
        let mut target = Target { node, table, now };
        target
            .node
            .open(CONN, None, ([192, 0, 2, 1], 9).into(), now);
        target
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Node, &World) -> T) -> T {
        let world = World {
            table: &self.table,
            now: self.now,
            wall: self.now,
            refuses: &|_| false,
        };
        call(&mut self.node, &world)
    }

    /// Receives bytes, and ticks.
    fn receive(&mut self, bytes: &[u8]) {
        self.with(|node, world| node.receive(CONN, bytes, world));
        self.now += 50;
        self.with(|node, world| node.tick(world));
    }

    fn is_open(&self) -> bool {
        self.node.output(CONN).is_some()
    }

    /// The connection ends at the latest after ten seconds without a valid frame.
    fn assert_ends(&mut self, case: usize) {
        (0..240).for_each(|_| self.receive(&[]));
        assert!(!self.is_open(), "case {case}");
        assert_eq!(self.peers(), 0, "case {case}");
    }

    fn peers(&self) -> usize {
        let totals = self.table.survey(self.now).totals;
        totals.seeders + totals.leechers
    }

    /// Completes the handshake with this hello, of which `sent` is the part that was not sent yet.
    fn greet(&mut self, hello: &[u8; HELLO_BYTES], sent: &[u8]) -> Option<Session> {
        self.receive(sent);
        let output = self.node.output(CONN)?.to_vec();
        let (_, theirs) = Hello::read(&output).ok()??;
        self.with(|node, _| node.sent(CONN, output.len()));
        Some(Session::new(&Keys::new(SECRET), true, hello, &theirs))
    }

    /// A target with a link.
    fn linked() -> (Target, Session) {
        let mut target = Target::new();
        let mut session = target.greet(&hello(), &hello()).expect("has the key");
        target.receive(&seal(&mut session, &READY));
        assert!(target.is_open());
        (target, session)
    }
}

fn hello() -> [u8; HELLO_BYTES] {
    hello_at(64 * 56_250 + 99)
}

fn hello_at(clock_ms: u64) -> [u8; HELLO_BYTES] {
    hello_of(7, clock_ms, 99)
}

fn hello_of(id: u64, clock_ms: u64, uptime_ms: u64) -> [u8; HELLO_BYTES] {
    let hello = Hello {
        max_per_host: 0,
        peer_timeout: 2700,
        port: 6970,
        is_whole: true,
        id,
        nonce: [9; 2],
        clock_ms,
        uptime_ms,
    };
    hello.write()
}

fn seal(session: &mut Session, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.seal(content, &mut out);
    out
}

/// The content of a frame with a seeder that announces now.
fn news(peer: u32) -> Vec<u8> {
    let mut content = vec![3];
    content.extend_from_slice(&64u64.to_be_bytes());
    content.extend_from_slice(&0u64.to_be_bytes());
    content.push(if peer % 8 == 0 { 0x80 } else { 0 });
    content.extend_from_slice(&hash(peer));
    content.push(2 | 0x40);
    content.extend_from_slice(address(peer).endpoint());
    content
}

#[test]
fn frame_is_applied_when_its_last_byte_has_arrived_and_not_before() {
    let (_, mut session) = Target::linked();
    let length = seal(&mut session, &news(1)).len();
    for cut in 0..length {
        let (mut target, mut session) = Target::linked();
        let frame = seal(&mut session, &news(1));
        target.receive(&frame[..cut]);
        assert!(target.is_open() && target.peers() == 0, "cut at {cut}");
        target.receive(&frame[cut..]);
        assert!(target.is_open() && target.peers() == 1, "cut at {cut}");
    }
}

#[test]
fn hello_may_arrive_in_two_pieces() {
    for cut in 0..HELLO_BYTES {
        let mut target = Target::new();
        target.receive(&hello()[..cut]);
        assert_eq!(target.node.output(CONN), Some(&[][..]), "cut at {cut}");
        let session = target.greet(&hello(), &hello()[cut..]);
        assert!(session.is_some(), "cut at {cut}");
    }
}

#[test]
fn frame_with_any_bit_flipped_is_not_applied_and_ends_the_link() {
    let (_, mut session) = Target::linked();
    for bit in 0..8 * seal(&mut session, &news(1)).len() {
        let (mut target, mut session) = Target::linked();
        let mut frame = seal(&mut session, &news(1));
        frame[bit / 8] ^= 1 << (bit % 8);
        target.receive(&frame);
        // The node waits for a longer frame.
        assert!(!target.is_open() || bit < 16, "bit {bit}");
        target.assert_ends(bit);
    }
}

#[test]
fn hello_with_any_bit_flipped_makes_no_link() {
    for bit in 0..8 * HELLO_BYTES {
        let mut target = Target::new();
        let mut sent = hello();
        sent[bit / 8] ^= 1 << (bit % 8);
        if let Some(mut session) = target.greet(&hello(), &sent) {
            target.receive(&seal(&mut session, &READY));
            target.receive(&seal(&mut session, &news(1)));
        }
        target.assert_ends(bit);
    }
}

#[test]
fn replayed_and_reordered_frames_end_the_link() {
    for is_again in [false, true] {
        let (mut target, mut session) = Target::linked();
        let first = seal(&mut session, &[200]);
        let second = seal(&mut session, &news(1));
        target.receive(if is_again { &first } else { &second });
        target.receive(&first);
        target.assert_ends(is_again.into());
    }
}

#[test]
fn random_bytes_before_and_after_the_handshake_are_not_applied() {
    for seed in 0..300 {
        let mut random = Random::seeded(seed);
        let mut target = match seed % 2 {
            0 => Target::new(),
            _ => Target::linked().0,
        };
        for _ in 0..random.below(4) {
            let size = random.below(20_000);
            let bytes: Vec<u8> = (0..size).map(|_| random.draw() as u8).collect();
            target.receive(&bytes);
        }
        target.assert_ends(seed as usize);
    }
}

/// Valid contents: their mutations get past the first byte.
fn contents() -> Vec<Vec<u8>> {
    let mut records = news(2);
    records[17] = 15;
    (3..18).for_each(|peer| records.extend_from_slice(&[&[2], address(peer).endpoint()].concat()));
    let events = |what: u8| {
        let mut event = news(5);
        event[16] = 1;
        event[17] |= what;
        event
    };
    let counts = [&[5][..], &hash(6), &[0xff; 8]].concat();
    vec![
        READY.to_vec(),
        [&[2][..], &[0; 72]].concat(),
        news(1),
        records,
        events(0x10),
        events(0x20),
        events(0x30),
        counts,
    ]
}

#[test]
fn node_still_works_after_valid_frames_with_random_content() {
    for seed in 0..300 {
        let mut random = Random::seeded(seed);
        let (mut target, mut session) = Target::linked();
        for _ in 0..40 {
            let contents = contents();
            let mut content = contents[random.below(contents.len())].clone();
            match random.below(4) {
                0 => content[1..].fill(0xff),
                1 => content.truncate(1 + random.below(content.len())),
                2 => content.resize(1 + random.below(MAX_CONTENT), random.draw() as u8),
                _ => {}
            }
            for _ in 0..random.below(8) {
                let at = random.below(content.len());
                content[at] = random.draw() as u8;
            }
            let frame = seal(&mut session, &content);
            target.receive(&frame);
            let sent = target.node.output(CONN).map_or(0, <[u8]>::len);
            target.with(|node, _| node.sent(CONN, sent));
        }
        let (now, clock) = (target.now, target.table.lock(0, target.now).clock_ms());
        assert_eq!(clock, 64 * 56_250 + now, "the clock was moved");
        assert!(target.peers() < 40 * (MAX_CONTENT / 7));
        // The table still takes records.
        target.node.closed(CONN, Failure::Closed, target.now);
        let record = Record {
            peer: address(9),
            state: PeerState::Present(Role::Seeder),
            completed: false,
            unit: 64,
        };
        let mut tracker = target.table.lock(0, now);
        let before = tracker.totals().seeders;
        tracker.apply(&[0xab; 20], Hint::default(), [record].into_iter());
        assert_eq!(tracker.totals().seeders, before + 1);
    }
}

#[test]
fn hellos_with_extreme_clocks_and_positions_do_no_harm() {
    for clock_ms in [0, 1, 1 << 40, u64::MAX] {
        let mut target = Target::new();
        let hello = hello_at(clock_ms);
        let mut session = target.greet(&hello, &hello).expect("has the key");
        target.receive(&seal(&mut session, &[&[1][..], &[0xff; 24]].concat()));
        target.receive(&seal(&mut session, &news(1)));
        (0..240).for_each(|_| target.receive(&[]));
        assert!(!target.is_open() && target.peers() <= 1, "{clock_ms}");
    }
}

/// A node with the key may lie about its uptime and its units, again and again and under other ids. The peers of this
/// node keep nearly all of their time.
#[test]
fn node_that_lies_about_its_clocks_does_not_end_the_time_of_peers() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let mut target = Target::linked().0;
        let before = target.table.lock(0, target.now).clock_ms() - target.now;
        for attempt in 0..200 {
            target.node.closed(CONN, Failure::Closed, target.now);
            let from = ([192, 0, 2, 1], 9).into();
            target.node.open(CONN, None, from, target.now);
            let id = [7, 6 * 256 - attempt][random.below(2)];
            let (clock_ms, uptime_ms) = (random.draw() >> 30, attempt << random.below(30));
            let hello = hello_of(id, clock_ms, uptime_ms);
            if let Some(mut session) = target.greet(&hello, &hello) {
                target.receive(&seal(&mut session, &READY));
            }
        }
        let moved = target.table.lock(0, target.now).clock_ms() - target.now - before;
        assert!(moved <= 5 * 56_250, "seed {seed}: {moved} ms");
        assert!(!target.table.is_held(target.now), "seed {seed}");
    }
}

/// Nor may it take all memory with links.
#[test]
fn links_of_unnamed_nodes_are_at_most_256() {
    let mut target = Target::new();
    target.node.closed(CONN, Failure::Closed, target.now);
    for conn in 2..400 {
        let from = ([192, 0, 2, 1], 9).into();
        target.node.open(conn, None, from, target.now);
        let hello = hello_of(conn, 64 * 56_250 + target.now, 99);
        target.with(|node, world| node.receive(conn, &hello, world));
        let output = target.node.output(conn).expect("greets").to_vec();
        let (_, theirs) = Hello::read(&output).expect("a hello").expect("is whole");
        let mut session = Session::new(&Keys::new(SECRET), true, &hello, &theirs);
        let ready = seal(&mut session, &READY);
        target.with(|node, world| node.receive(conn, &ready, world));
        let is_linked = target.node.output(conn).is_some();
        assert_eq!(is_linked, conn < 2 + 256, "{conn}");
    }
}

/// Nor keep this node from saying that it serves.
#[test]
fn node_whose_questions_are_never_answered_serves_alone_after_ten_minutes() {
    let (mut target, mut session) = Target::linked();
    for second in 0..600 {
        assert_eq!(target.node.health(), Health::Syncing, "after {second} s");
        target.now = second * 1000;
        target.receive(&seal(&mut session, &[200]));
        let sent = target.node.output(CONN).expect("is linked").len();
        target.with(|node, _| node.sent(CONN, sent));
    }
    target.now = 600_000;
    target.receive(&[]);
    assert_eq!(target.node.health(), Health::Alone);
}
