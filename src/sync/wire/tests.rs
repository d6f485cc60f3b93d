use super::*;
use crate::random::Random;

fn party(n: u8) -> Party {
    Party {
        id: n.into(),
        nonce: [n; 16],
    }
}

fn sessions() -> (Session, Session) {
    let keys = Keys::new(&[7; 32]);
    let ours = Session::new(&keys, party(1), party(2));
    let theirs = Session::new(&keys, party(2), party(1));
    (ours, theirs)
}

fn sealed(session: &mut Session, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    session.seal(Kind::Records, body, &mut packet);
    packet
}

#[test]
fn a_packet_is_opened_by_the_other_end_once() {
    let (mut ours, mut theirs) = sessions();
    assert_eq!(ours.tag, theirs.tag);
    let packet = sealed(&mut ours, b"body");
    assert_eq!(peek(&packet), Ok((ours.tag, 1)));
    assert_eq!(theirs.open(&packet), Ok((Kind::Records, &b"body"[..])));
    assert_eq!(theirs.open(&packet), Err(Rejection::Replayed));
    // One's own packet, sent back.
    assert_eq!(ours.open(&packet), Err(Rejection::Forged));
}

#[test]
fn no_bit_of_a_packet_can_be_changed_and_nothing_cut_off() {
    let (mut ours, mut theirs) = sessions();
    let packet = sealed(&mut ours, b"some body");
    for bit in 0..packet.len() * 8 {
        let mut forged = packet.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(theirs.open(&forged), Err(Rejection::Forged), "{bit}");
    }
    for length in 0..packet.len() {
        assert!(theirs.open(&packet[..length]).is_err(), "{length}");
        let is_short = length < HEADER + CODE;
        assert_eq!(peek(&packet[..length]).is_err(), is_short, "{length}");
    }
    assert!(theirs.open(&packet).is_ok());
}

#[test]
fn other_versions_and_sizes_are_told_apart() {
    let (mut ours, _) = sessions();
    let mut packet = sealed(&mut ours, &[0; ROOM]);
    assert_eq!(packet.len(), MOST);
    assert!(peek(&packet).is_ok());
    packet.push(0);
    assert_eq!(peek(&packet), Err(Rejection::Malformed));
    packet[0] = 2;
    assert_eq!(peek(&packet), Err(Rejection::Version));
    assert_eq!(peek(&[]), Err(Rejection::Version));
    assert_eq!(peek(&[VERSION]), Err(Rejection::Malformed));
}

#[test]
fn each_session_and_direction_and_secret_has_keys_of_its_own() {
    let keys = Keys::new(&[7; 32]);
    let mut longer = [7; 64];
    longer[63] = 8;
    let mut seen = Vec::new();
    for keys in [keys, Keys::new(&[8; 32]), Keys::new(&longer)] {
        for (us, them) in [(1, 2), (2, 1), (1, 3)] {
            let session = Session::new(&keys, party(us), party(them));
            seen.push(session.send);
        }
        let mut again = party(1);
        again.nonce[15] = 9;
        seen.push(Session::new(&keys, again, party(2)).send);
        seen.extend([keys.digests(), keys.connections(), keys.hello, keys.master]);
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

/// Against a plain set, with numbers that come out of order, twice and after gaps.
#[test]
fn the_window_takes_each_number_once() {
    let mut random = Random::seeded(71);
    let mut window = Window::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut front = 1_u64;
    for _ in 0..200_000 {
        front += match random.below(1000) {
            0 => random.below(2000) as u64,
            1..500 => 1,
            _ => 0,
        };
        let number = front.saturating_sub(random.below(300) as u64);
        let last = seen.last().copied().unwrap_or(0);
        let is_new = number > 0 && number + Window::SIZE > last && seen.insert(number);
        assert_eq!(window.accept(number), is_new, "{number} after {last}");
    }
    assert!(!window.accept(0));
}

fn random_change(random: &mut Random) -> Change {
    let mut info_hash = [0; 20];
    info_hash[19] = random.below(6) as u8;
    let mut bytes = [0; 18];
    for byte in &mut bytes {
        *byte = random.draw() as u8;
    }
    let peer = match random.below(2) {
        0 => Peer::from_endpoint(&bytes[..6]),
        _ => Peer::from_endpoint(&bytes),
    };
    let states = [
        State::Present(Role::Leecher),
        State::Present(Role::Seeder),
        State::Stopped,
    ];
    Change {
        info_hash,
        peer: peer.expect("of a right length"),
        state: states[random.below(3)],
        completed: random.below(2) == 0,
        newly_completed: random.below(2) == 0,
        stamp: random.below(128) as u8,
    }
}

#[test]
fn changes_survive_packets_and_each_hash_is_written_once() {
    let mut random = Random::seeded(72);
    for round in 0..300 {
        let mut changes: Vec<Change> = (0..random.below(400))
            .map(|_| random_change(&mut random))
            .collect();
        sort(&mut changes);
        let downloaded = |hash: &InfoHash| (round % 2 == 0).then(|| u32::from(hash[19]) + 1000);
        let mut done = 0;
        while done < changes.len() {
            let mut body = Vec::new();
            let put = put_changes(&changes[done..], ROOM, &downloaded, &mut body);
            assert!(put > 0 && body.len() <= ROOM);
            let (mut read, mut counts) = (Vec::new(), Vec::new());
            assert_eq!(read_changes(&body, &mut read, &mut counts), Some(()));
            assert_eq!(read, changes[done..done + put]);
            let groups: Vec<_> = read.chunk_by(|a, b| a.info_hash == b.info_hash).collect();
            let most: usize = groups.len() * (GROUP + 4)
                + read
                    .iter()
                    .map(|c| c.peer.endpoint().len() + 2)
                    .sum::<usize>();
            // A group of more than 127 of a family would be two.
            assert!(
                body.len() <= most + 2 * (GROUP + 4),
                "{} of {most}",
                body.len()
            );
            assert!(
                counts
                    .iter()
                    .all(|(hash, count)| Some(*count) == downloaded(hash))
            );
            assert_eq!(counts.is_empty(), round % 2 != 0);
            for length in 0..body.len() {
                // Cut between groups it is whole; anywhere else it is nothing.
                let (mut read, mut counts) = (Vec::new(), Vec::new());
                let _ = read_changes(&body[..length], &mut read, &mut counts);
                assert!(read.len() <= put);
            }
            done += put;
        }
    }
}

#[test]
fn hellos_and_heartbeats_survive_and_are_whole_or_nothing() {
    let keys = Keys::new(&[7; 32]);
    let pulse = Pulse {
        time: 1,
        set: 2,
        sure_for: 3,
        cookie: 4,
        echo: 5,
        held: 6,
    };
    let hello = Hello {
        from: party(9),
        echo: [5; 16],
        peer_timeout: 2700,
        next_batch: 77,
        pulse,
    };
    let mut packet = Vec::new();
    hello.seal(&keys, &mut packet);
    assert_eq!(peek(&packet), Ok((0, 9)));
    assert_eq!(Hello::open(&packet, &keys), Ok(hello));
    assert_eq!(
        Hello::open(&packet, &Keys::new(&[8; 32])),
        Err(Rejection::Forged)
    );
    for length in 0..packet.len() {
        assert!(Hello::open(&packet[..length], &keys).is_err());
    }
    for digest in [None, Some((3, 4))] {
        let heartbeat = Heartbeat {
            pulse,
            next_batch: 5,
            digest,
        };
        let mut body = Vec::new();
        heartbeat.put(&mut body);
        assert_eq!(Heartbeat::read(&body), Some(heartbeat));
        for length in 0..body.len() {
            let cut = Heartbeat::read(&body[..length]);
            assert!(cut.is_none_or(|cut| cut.digest.is_none() && digest.is_some()));
        }
    }
}

#[test]
fn keys_are_shortened_as_far_as_order_allows() {
    let mut random = Random::seeded(73);
    for _ in 0..10_000 {
        let mut keys = [Key::FIRST; 2];
        for key in &mut keys {
            for byte in &mut key.0 {
                *byte = random.below(3) as u8;
            }
        }
        keys.sort_unstable();
        let [below, key] = keys;
        if below == key {
            continue;
        }
        let short = shorten(&key, &below);
        assert!(below < short && short <= key);
        let mut bytes = Vec::new();
        put_key(&short, &mut bytes);
        assert_eq!(Reader(&bytes).key(), Some(short));
        for length in 0..bytes.len() {
            assert_eq!(Reader(&bytes[..length]).key(), None);
        }
    }
    assert_eq!(Reader(&[40; 41]).key(), None);
}

/// Nothing that comes from outside can make the readers fail in another way than by saying so.
#[test]
fn noise_is_only_noise() {
    let mut random = Random::seeded(74);
    for _ in 0..50_000 {
        let bytes: Vec<u8> = (0..random.below(120))
            .map(|_| random.draw() as u8 >> random.below(8))
            .collect();
        let _ = peek(&bytes);
        let _ = Heartbeat::read(&bytes);
        let _ = Hello::open(&bytes, &Keys::new(&[1; 32]));
        let _ = read_changes(&bytes, &mut Vec::new(), &mut Vec::new());
        let _ = Reader(&bytes).key();
    }
}
