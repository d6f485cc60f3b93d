//! opentracker's live sync: packets to a multicast group, without a key, an order or an answer.
//!
//! ```text
//! 0  tracker id 4, type 4 (0: IPv4, 1: IPv6)
//! 8  records: info-hash 20, address 4 or 16, port 2, flags 1, time 1
//! ```
//! Numbers are big-endian; the time is always 0 on the wire. A packet goes out when it is full, or 15
//! seconds after its first record. Packets with the own id are one's own; who else may speak is for the
//! caller to check, by address.
//!
//! opentracker tells a peer that is new, has stopped or has completed, and others only if it has not seen
//! them for ten minutes: one that comes more often than that is forgotten elsewhere. Here peers are told
//! as to other nodes of ours, which includes a change of role and a renewal once a sixth of the timeout.

use super::wire::Reader;
use crate::tracker::ledger::{Change, State};
use crate::tracker::{Peer, Role};

/// Bytes of a packet, without the headers of UDP and IP.
pub const MOST: usize = 1480;

/// Milliseconds that a record waits at most.
const WAIT: u64 = 15_000;

const SEEDING: u8 = 0x80;
const COMPLETED: u8 = 0x40;
const STOPPED: u8 = 0x20;

const V4: u32 = 0;
const V6: u32 = 1;

/// Why a packet was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    Own,
    /// Cut short, or of a type that there is not.
    Malformed,
}

/// What is to be sent, one packet of each family.
#[derive(Debug)]
pub struct Multicast {
    id: [u8; 4],
    waiting: [Waiting; 2],
}

#[derive(Debug, Default)]
struct Waiting {
    packet: Vec<u8>,
    since: u64,
}

impl Multicast {
    /// The id is random. (opentracker's is seeded by the second of its start: two that start together
    /// take each other's packets for their own.)
    pub fn new(id: [u8; 4]) -> Multicast {
        Multicast {
            id,
            waiting: Default::default(),
        }
    }

    /// Tells a change at a time in milliseconds; the packet, if that has filled one: 52 records of IPv4
    /// or 36 of IPv6.
    pub fn tell(&mut self, change: &Change, now: u64) -> Option<Vec<u8>> {
        let (family, kind) = match change.peer {
            Peer::V4(_) => (0, V4),
            Peer::V6(_) => (1, V6),
        };
        let Waiting { packet, since } = &mut self.waiting[family];
        if packet.is_empty() {
            *since = now;
            packet.extend_from_slice(&self.id);
            packet.extend_from_slice(&kind.to_be_bytes());
        }
        let before = packet.len();
        packet.extend_from_slice(&change.info_hash);
        packet.extend_from_slice(change.peer.endpoint());
        packet.extend_from_slice(&[flags(change), 0]);
        let size = packet.len() - before;
        (packet.len() + size > MOST).then(|| std::mem::take(packet))
    }

    /// When [`Multicast::tick`] has a packet.
    pub fn next_tick(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|w| !w.packet.is_empty());
        waiting.map(|w| w.since + WAIT).min()
    }

    /// A packet that has waited long enough. To be called until there is none.
    pub fn tick(&mut self, now: u64) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.iter_mut();
        let due = waiting.find(|w| !w.packet.is_empty() && now >= w.since + WAIT)?;
        Some(std::mem::take(&mut due.packet))
    }

    /// Reads what another one tells; `stamp` is that of an announce made now. What is cut short at the
    /// end is left out, as there.
    pub fn hear(&self, packet: &[u8], stamp: u8, changes: &mut Vec<Change>) -> Result<(), Ignored> {
        let mut reader = Reader(packet);
        let id = reader.array().ok_or(Ignored::Malformed)?;
        let kind = reader.u32().ok_or(Ignored::Malformed)?;
        if reader.0.is_empty() || kind > V6 {
            return Err(Ignored::Malformed);
        }
        if id == self.id {
            return Err(Ignored::Own);
        }
        while let Some(change) = read_record(&mut reader, kind, stamp) {
            // Port 0 cannot be reached.
            if !change.peer.endpoint().ends_with(&[0, 0]) {
                changes.push(change);
            }
        }
        Ok(())
    }
}

fn flags(change: &Change) -> u8 {
    let completed = if change.completed { COMPLETED } else { 0 };
    match change.state {
        State::Present(Role::Seeder) => SEEDING | completed,
        State::Present(Role::Leecher) => completed,
        State::Stopped => STOPPED,
    }
}

fn read_record(reader: &mut Reader, kind: u32, stamp: u8) -> Option<Change> {
    let info_hash = reader.array()?;
    let peer = match kind {
        V4 => Peer::from_endpoint(&reader.array::<6>()?)?,
        _ => Peer::from_endpoint(&reader.array::<18>()?)?,
    };
    let [flags, _time] = reader.array()?;
    let state = match (flags & STOPPED != 0, flags & SEEDING != 0) {
        (true, _) => State::Stopped,
        (_, true) => State::Present(Role::Seeder),
        (_, false) => State::Present(Role::Leecher),
    };
    // Who says to have completed must seed.
    let completed = flags & COMPLETED != 0 && state == State::Present(Role::Seeder);
    Some(Change {
        info_hash,
        peer,
        state,
        completed,
        newly_completed: completed,
        stamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: usize = 8;
    const HEAD: &str = "7e08f479 00000000";
    const ONE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0a4d0001 0457 00 00";
    const TWO: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0a4d0001 08ae c0 00";
    const SIX: &str = "7e08f479 00000001 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        fd770000000000000000000000000001 045c 80 00";

    fn bytes(hex: &[&str]) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .iter()
            .flat_map(|part| part.chars())
            .filter_map(|c| c.to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    fn change(hash: u8, address: &str, port: u16, state: State, completed: bool) -> Change {
        Change {
            info_hash: [hash; 20],
            peer: Peer::new(address.parse().expect("an address"), port),
            state,
            completed,
            newly_completed: completed,
            stamp: 9,
        }
    }

    fn captured() -> [Change; 3] {
        let (leecher, seeder) = (Role::Leecher, Role::Seeder);
        [
            change(0xaa, "10.77.0.1", 1111, State::Present(leecher), false),
            change(0xbb, "10.77.0.1", 2222, State::Present(seeder), true),
            change(0xaa, "fd77::1", 1116, State::Present(seeder), false),
        ]
    }

    #[test]
    fn what_is_told_is_what_opentracker_was_seen_to_tell() {
        let mut ours = Multicast::new([0x7e, 0x08, 0xf4, 0x79]);
        for change in captured() {
            assert_eq!(ours.tell(&change, 1000), None);
        }
        assert_eq!(ours.next_tick(), Some(16_000));
        assert_eq!(ours.tick(15_999), None);
        assert_eq!(ours.tick(16_000), Some(bytes(&[HEAD, ONE, TWO])));
        assert_eq!(ours.tick(16_000), Some(bytes(&[SIX])));
        assert_eq!(ours.tick(u64::MAX), None);
        assert_eq!(ours.next_tick(), None);
    }

    #[test]
    fn what_opentracker_was_seen_to_tell_is_understood() {
        let ours = Multicast::new([1, 2, 3, 4]);
        let mut heard = Vec::new();
        assert_eq!(ours.hear(&bytes(&[HEAD, ONE, TWO]), 9, &mut heard), Ok(()));
        assert_eq!(ours.hear(&bytes(&[SIX]), 9, &mut heard), Ok(()));
        assert_eq!(heard, captured());
        let own = Multicast::new([0x7e, 0x08, 0xf4, 0x79]);
        assert_eq!(own.hear(&bytes(&[SIX]), 9, &mut heard), Err(Ignored::Own));
    }

    #[test]
    fn packets_hold_52_peers_or_36() {
        let mut ours = Multicast::new([1; 4]);
        for (address, most, size) in [("192.0.2.1", 52, 1464), ("2001:db8::1", 36, 1448)] {
            let change = change(7, address, 1, State::Stopped, false);
            for _ in 1..most {
                assert_eq!(ours.tell(&change, 0), None);
            }
            let packet = ours.tell(&change, 0).expect("is full");
            assert_eq!(packet.len(), size);
            let mut heard = Vec::new();
            let other = Multicast::new([2; 4]);
            assert_eq!(other.hear(&packet, 9, &mut heard), Ok(()));
            assert_eq!(heard, vec![change; most]);
        }
    }

    #[test]
    fn whatever_is_cut_short_or_claims_too_much_is_left_out() {
        let ours = Multicast::new([1, 2, 3, 4]);
        let whole = bytes(&[HEAD, ONE, TWO]);
        for length in 0..whole.len() {
            let mut heard = Vec::new();
            let result = ours.hear(&whole[..length], 9, &mut heard);
            assert_eq!(result.is_ok(), length > HEADER, "{length}");
            assert_eq!(heard.len(), length.saturating_sub(HEADER) / 28);
        }
        let mut heard = Vec::new();
        let unknown = bytes(&["7e08f479 00000002", ONE]);
        assert_eq!(ours.hear(&unknown, 9, &mut heard), Err(Ignored::Malformed));
        // A leecher that says to have completed, one that has stopped as a seeder, and port 0.
        let mut odd = bytes(&[HEAD, ONE, TWO, ONE]);
        odd[8 + 26] = COMPLETED;
        odd[36 + 26] |= STOPPED;
        odd[64 + 24..64 + 26].fill(0);
        assert_eq!(ours.hear(&odd, 9, &mut heard), Ok(()));
        let [leecher, mut stopped, _] = captured();
        stopped.state = State::Stopped;
        (stopped.completed, stopped.newly_completed) = (false, false);
        assert_eq!(heard, [leecher, stopped]);
    }
}
