//! opentracker's live sync: packets to a multicast group, without a key, an order or an answer.
//!
//! ```text
//! 0  tracker id 4, type 4 (0: IPv4, 1: IPv6)
//! 8  records: info-hash 20, address 4 or 16, port 2, flags 1, time 1
//! ```
//! Numbers are big-endian; the time is always 0 on the wire. A packet goes out when it is full, or 15
//! seconds after its first record. Packets with the own id are one's own; whose others are taken is for the
//! operator to say, by address, for there is nothing else to know a sender by.
//!
//! opentracker tells a peer that is new, has stopped or has completed, and others only if it has not seen
//! them for ten minutes: one that comes more often than that is forgotten elsewhere. Here peers are told
//! as to other nodes of ours, which includes a change of role and a renewal once a sixth of the timeout.
//! So who announces once an interval is told each time, as there, and nobody who goes on announcing is
//! forgotten by an opentracker whose timeout is no shorter than ours.
//!
//! opentracker of 2024, which serves both families in one process, tells packets of type 0 and cannot read
//! them: it stores their records as those of IPv6 peers that there are not. It does read IPv4 peers in packets
//! of type 1, as mapped addresses. Before 2024 it read type 0, and nothing else.

use super::wire::Reader;
use crate::nets::{self, Net};
use crate::tracker::ledger::{Change, State};
use crate::tracker::{Peer, Role};
use std::net::{IpAddr, Ipv4Addr};

pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 23, 5);

/// Where opentracker sends to, whichever port it listens on.
pub const PORT: u16 = 9696;

/// Bytes of a packet, without the headers of UDP and IP.
pub const MOST: usize = 1480;

/// Milliseconds that a record waits at most.
const WAIT: u64 = 15_000;

/// Records that are taken a second: what anybody can flood is not to take more of the processor than an
/// eighth.
const MOST_RECORDS: u64 = 250_000;

const SEEDING: u8 = 0x80;
const COMPLETED: u8 = 0x40;
const STOPPED: u8 = 0x20;

const V4: u32 = 0;
const V6: u32 = 1;

/// What comes before an IPv4 address that is mapped into IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Why a packet was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    Own,
    /// From nobody who may speak here.
    Stranger,
    /// Cut short, or of a type that there is not.
    Malformed,
    /// There were too many.
    Shed,
}

impl Ignored {
    pub const COUNT: usize = 4;
    /// By number.
    pub const NAMES: [&str; Ignored::COUNT] = ["own", "stranger", "malformed", "shed"];
}

/// What came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were read, and the peers that they told of.
    pub packets_in: u64,
    pub records_in: u64,
    pub packets_out: u64,
    pub records_out: u64,
    /// By the number of the [`Ignored`].
    pub ignored: [u64; Ignored::COUNT],
}

/// What is to be sent, one packet of each family, and who may speak.
#[derive(Debug)]
pub struct Multicast {
    id: [u8; 4],
    nodes: Vec<Net>,
    is_mapping: bool,
    waiting: [Waiting; 2],
    /// Records that may be taken now, and when they were granted.
    credit: u64,
    granted_at: u64,
    pub counters: Counters,
}

#[derive(Debug, Default)]
struct Waiting {
    packet: Vec<u8>,
    records: u64,
    since: u64,
}

impl Multicast {
    /// The id is random. (opentracker's is seeded by the second of its start: two that start together
    /// take each other's packets for their own.) `nodes` are those who may speak; `is_mapping` tells
    /// IPv4 peers as mapped IPv6 ones.
    pub fn new(id: [u8; 4], nodes: Vec<Net>, is_mapping: bool) -> Multicast {
        Multicast {
            id,
            nodes,
            is_mapping,
            waiting: Default::default(),
            credit: MOST_RECORDS,
            granted_at: 0,
            counters: Counters::default(),
        }
    }

    /// Tells a change at a time in milliseconds; the packet, if that has filled one: 52 records of IPv4
    /// or 36 of IPv6.
    pub fn tell(&mut self, change: &Change, now: u64) -> Option<Vec<u8>> {
        let (kind, mapped) = match change.peer {
            Peer::V4(_) if self.is_mapping => (V6, &MAPPED[..]),
            Peer::V4(_) => (V4, &[][..]),
            Peer::V6(_) => (V6, &[][..]),
        };
        let waiting = match kind {
            V4 => &mut self.waiting[0],
            _ => &mut self.waiting[1],
        };
        let packet = &mut waiting.packet;
        if packet.is_empty() {
            waiting.since = now;
            packet.extend_from_slice(&self.id);
            packet.extend_from_slice(&kind.to_be_bytes());
        }
        let before = packet.len();
        packet.extend_from_slice(&change.info_hash);
        packet.extend_from_slice(mapped);
        packet.extend_from_slice(change.peer.endpoint());
        packet.extend_from_slice(&[flags(change), 0]);
        waiting.records += 1;
        let size = packet.len() - before;
        (packet.len() + size > MOST).then(|| waiting.take(&mut self.counters))
    }

    /// When [`Multicast::tick`] has a packet.
    pub fn next_tick(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|w| !w.packet.is_empty());
        waiting.map(|w| w.since + WAIT).min()
    }

    /// A packet that has waited long enough. To be called until there is none.
    pub fn tick(&mut self, now: u64) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.iter_mut();
        let is_due = |w: &&mut Waiting| !w.packet.is_empty() && now.saturating_sub(w.since) >= WAIT;
        let due = waiting.find(is_due)?;
        Some(due.take(&mut self.counters))
    }

    /// Reads what another one tells at a time in milliseconds, with stamps of 0. What is cut short at
    /// the end is left out, as there.
    pub fn hear(
        &mut self,
        from: IpAddr,
        packet: &[u8],
        now: u64,
        changes: &mut Vec<Change>,
    ) -> Result<(), Ignored> {
        let before = changes.len();
        let read = match nets::any_contains(&self.nodes, from) {
            true => self.read(packet, now, changes),
            false => Err(Ignored::Stranger),
        };
        match read {
            Ok(()) => {
                self.counters.packets_in += 1;
                self.counters.records_in += (changes.len() - before) as u64;
            }
            Err(why) => self.counters.ignored[why as usize] += 1,
        }
        read
    }

    fn read(&mut self, packet: &[u8], now: u64, changes: &mut Vec<Change>) -> Result<(), Ignored> {
        let mut reader = Reader(packet);
        let id: [u8; 4] = reader.array().ok_or(Ignored::Malformed)?;
        let kind = reader.u32().ok_or(Ignored::Malformed)?;
        if reader.0.is_empty() || kind > V6 {
            return Err(Ignored::Malformed);
        }
        if id == self.id {
            return Err(Ignored::Own);
        }
        let passed = now.saturating_sub(self.granted_at);
        self.granted_at = now;
        let granted = passed.saturating_mul(MOST_RECORDS / 1000);
        self.credit = self.credit.saturating_add(granted).min(MOST_RECORDS);
        // No record is shorter than this.
        let cost = (reader.0.len() / 28) as u64;
        self.credit = self.credit.checked_sub(cost).ok_or(Ignored::Shed)?;
        while let Some(change) = read_record(&mut reader, kind) {
            // Port 0 cannot be reached.
            if !change.peer.endpoint().ends_with(&[0, 0]) {
                changes.push(change);
            }
        }
        Ok(())
    }
}

impl Waiting {
    fn take(&mut self, counters: &mut Counters) -> Vec<u8> {
        counters.packets_out += 1;
        counters.records_out += std::mem::take(&mut self.records);
        std::mem::take(&mut self.packet)
    }
}

/// opentracker counts a completion when it is told of one, and so is told once.
fn flags(change: &Change) -> u8 {
    match change.state {
        State::Present(Role::Seeder) if change.newly_completed => SEEDING | COMPLETED,
        State::Present(Role::Seeder) => SEEDING,
        State::Present(Role::Leecher) => 0,
        State::Stopped => STOPPED,
    }
}

fn read_record(reader: &mut Reader, kind: u32) -> Option<Change> {
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
        stamp: 0,
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
            peer: Peer::new(ip(address), port),
            state,
            completed,
            newly_completed: completed,
            stamp: 0,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn captured() -> [Change; 3] {
        let (leecher, seeder) = (Role::Leecher, Role::Seeder);
        [
            change(0xaa, "10.77.0.1", 1111, State::Present(leecher), false),
            change(0xbb, "10.77.0.1", 2222, State::Present(seeder), true),
            change(0xaa, "fd77::1", 1116, State::Present(seeder), false),
        ]
    }

    /// With the id of the capture or another one; takes what comes from 10.77.0.0/16.
    fn multicast(id: [u8; 4]) -> Multicast {
        let nodes = vec![Net::parse("10.77.0.0/16").expect("a network")];
        Multicast::new(id, nodes, false)
    }

    const CAPTURED: [u8; 4] = [0x7e, 0x08, 0xf4, 0x79];

    fn hear(ours: &mut Multicast, packet: &[u8]) -> Result<Vec<Change>, Ignored> {
        let mut heard = Vec::new();
        let result = ours.hear(ip("10.77.0.1"), packet, 0, &mut heard);
        result.map(|()| heard)
    }

    #[test]
    fn what_is_told_is_what_opentracker_was_seen_to_tell() {
        let mut ours = multicast(CAPTURED);
        for change in captured() {
            assert_eq!(ours.tell(&change, 1000), None);
        }
        assert_eq!(ours.next_tick(), Some(16_000));
        assert_eq!(ours.tick(15_999), None);
        assert_eq!(ours.counters, Counters::default());
        assert_eq!(ours.tick(16_000), Some(bytes(&[HEAD, ONE, TWO])));
        assert_eq!(ours.tick(16_000), Some(bytes(&[SIX])));
        assert_eq!(ours.tick(u64::MAX), None);
        assert_eq!(ours.next_tick(), None);
        assert_eq!(
            (ours.counters.packets_out, ours.counters.records_out),
            (2, 3)
        );
    }

    #[test]
    fn what_opentracker_was_seen_to_tell_is_understood() {
        let mut ours = multicast([1, 2, 3, 4]);
        let [v4, v6] = [bytes(&[HEAD, ONE, TWO]), bytes(&[SIX])];
        let heard = hear(&mut ours, &v4);
        assert_eq!(heard.as_deref(), Ok(&captured()[..2]));
        let heard = hear(&mut ours, &v6);
        assert_eq!(heard.as_deref(), Ok(&captured()[2..]));
        assert_eq!((ours.counters.packets_in, ours.counters.records_in), (2, 3));
    }

    #[test]
    fn a_completion_is_told_once() {
        let mut ours = multicast(CAPTURED);
        let seeder = State::Present(Role::Seeder);
        let mut renewed = change(0xbb, "10.77.0.1", 2222, seeder, true);
        renewed.newly_completed = false;
        ours.tell(&renewed, 0);
        let packet = ours.tick(15_000).expect("is due");
        assert_eq!(packet[HEADER + 26], SEEDING);
    }

    #[test]
    fn ipv4_peers_can_be_told_as_mapped_ones() {
        let mut ours = Multicast::new(CAPTURED, Vec::new(), true);
        for change in captured() {
            ours.tell(&change, 0);
        }
        let told = ours.tick(15_000).expect("is due");
        let mapped = "7e08f479 00000001
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 00000000000000000000ffff 0a4d0001 0457 00 00
            bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 00000000000000000000ffff 0a4d0001 08ae c0 00";
        let six = SIX.split_once(" 00000001 ").expect("a head").1;
        assert_eq!(told, bytes(&[mapped, six]));
        assert_eq!(ours.tick(u64::MAX), None);
        let heard = hear(&mut multicast([1, 2, 3, 4]), &told);
        assert_eq!(heard.as_deref(), Ok(&captured()[..]));
    }

    #[test]
    fn packets_hold_52_peers_or_36() {
        for (address, is_mapping, most, size) in [
            ("192.0.2.1", false, 52, 1464),
            ("192.0.2.1", true, 36, 1448),
            ("2001:db8::1", false, 36, 1448),
        ] {
            let mut ours = Multicast::new([1; 4], Vec::new(), is_mapping);
            let change = change(7, address, 1, State::Stopped, false);
            for _ in 1..most {
                assert_eq!(ours.tell(&change, 0), None);
            }
            let packet = ours.tell(&change, 0).expect("is full");
            assert_eq!(packet.len(), size);
            let heard = hear(&mut multicast([2; 4]), &packet);
            assert_eq!(heard, Ok(vec![change; most]));
            assert_eq!(ours.next_tick(), None);
        }
    }

    #[test]
    fn who_may_not_speak_is_not_heard() {
        let mut ours = multicast(CAPTURED);
        let packet = bytes(&[SIX]);
        let mut heard = Vec::new();
        for from in ["10.78.0.1", "127.0.0.1", "::1"] {
            let result = ours.hear(ip(from), &packet, 0, &mut heard);
            assert_eq!(result, Err(Ignored::Stranger));
        }
        let result = ours.hear(ip("10.77.255.9"), &packet, 0, &mut heard);
        assert_eq!(result, Err(Ignored::Own));
        assert_eq!(heard, []);
        let mut nobody = Multicast::new([1; 4], Vec::new(), false);
        assert_eq!(hear(&mut nobody, &packet), Err(Ignored::Stranger));
        assert_eq!(ours.counters.ignored, [1, 3, 0, 0]);
    }

    #[test]
    fn a_flood_is_held_to_so_many_records_a_second() {
        let mut ours = multicast([1, 2, 3, 4]);
        let mut packet = bytes(&[HEAD]);
        packet.extend_from_slice(&bytes(&[ONE]).repeat(50));
        let mut taken = 0;
        for ms in 0..2000 {
            for _ in 0..100 {
                let mut heard = Vec::new();
                let _ = ours.hear(ip("10.77.0.1"), &packet, ms, &mut heard);
                taken += heard.len() as u64;
            }
        }
        assert!(
            (2 * MOST_RECORDS..=3 * MOST_RECORDS).contains(&taken),
            "{taken}"
        );
        assert_eq!(taken, ours.counters.records_in);
        let shed = ours.counters.ignored[Ignored::Shed as usize];
        assert_eq!(shed + ours.counters.packets_in, 200_000);
    }

    #[test]
    fn whatever_is_cut_short_or_claims_too_much_is_left_out() {
        let mut ours = multicast([1, 2, 3, 4]);
        let whole = bytes(&[HEAD, ONE, TWO]);
        for length in 0..whole.len() {
            let heard = hear(&mut ours, &whole[..length]);
            assert_eq!(heard.is_ok(), length > HEADER, "{length}");
            let records = heard.unwrap_or_default().len();
            assert_eq!(records, length.saturating_sub(HEADER) / 28);
        }
        let unknown = bytes(&["7e08f479 00000002", ONE]);
        assert_eq!(hear(&mut ours, &unknown), Err(Ignored::Malformed));
        // A leecher that says to have completed, one that has stopped as a seeder, and port 0.
        let mut odd = bytes(&[HEAD, ONE, TWO, ONE]);
        odd[8 + 26] = COMPLETED;
        odd[36 + 26] |= STOPPED;
        odd[64 + 24..64 + 26].fill(0);
        let [leecher, mut stopped, _] = captured();
        stopped.state = State::Stopped;
        (stopped.completed, stopped.newly_completed) = (false, false);
        assert_eq!(hear(&mut ours, &odd), Ok(vec![leecher, stopped]));
    }
}
