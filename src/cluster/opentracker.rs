//! opentracker's live sync: packets to a multicast group, without a key, an order or an answer.
//!
//! ```text
//! 0  tracker id 4, type 4 (0: IPv4, 1: IPv6)
//! 8  records: info-hash 20, address 4 or 16, port 2, flags 1, time 1
//! ```
//! Numbers are big-endian; the time is always 0 on the wire. A packet is sent when it is full, or 15 seconds
//! after its first record. Packets with the own id are dropped; other packets are accepted by their source address
//! alone, as there is nothing else to know a sender by.
//!
//! opentracker sends a peer that is new, has stopped or has completed. It sends other announces only if it has not
//! seen the peer for ten minutes. The same is done here, and a change of role is sent too. A renewal goes into a
//! packet when the client makes it. The walks of the cluster send none: a burst would overrun the socket of an
//! opentracker. So in a cluster of both kinds each node must take part in the live sync.
//!
//! Nothing in a record says how old it is. A record that arrives is applied as an announce of now, but the peer is
//! not local, so it is never sent on by multicast.
//!
//! opentracker of 2024, which serves both families in one process, sends packets of type 0 and cannot read
//! them: it stores their records as IPv6 peers that do not exist. It does read IPv4 peers in packets
//! of type 1, as mapped addresses. Before 2024 it read type 0, and nothing else.

use crate::base::log;
use crate::base::nets::{self, Net};
use crate::base::siphash::siphash24_128;
use crate::stats::cluster::Multicast as Counters;
use crate::sys::mmsg::{BATCH, Batch};
use crate::tracker::{InfoHash, LATE, News, Peer, Record, Role, State, Table};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::io;
use std::net::IpAddr;

/// Bytes of a packet, without the headers of UDP and IP.
const MAX_BYTES: usize = 1480;

/// Milliseconds that a record waits at most.
const WAIT_MS: u64 = 15_000;

/// Milliseconds from a peer's last announce from which on its next one is sent.
const RENEWAL_MS: u64 = 600_000;

/// Records that are accepted in a second. A flood takes at most an eighth of a core.
const MAX_RECORDS: u64 = 250_000;

/// Milliseconds between two lines about ignored packets, and at least from one about a packet that cannot be sent to
/// the next.
const IGNORED_AGAIN_MS: u64 = 3_600_000;
const FAILURE_AGAIN_MS: u64 = 60_000;

const SEEDING: u8 = 0x80;
const COMPLETED: u8 = 0x40;
const STOPPED: u8 = 0x20;

const V4: u32 = 0;
const V6: u32 = 1;

/// The bytes before an IPv4 address that is mapped into IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Why a packet was not read, in the order of [`Counters::ignored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    Own,
    /// From an address that no `--sync-node` holds.
    Stranger,
    /// Cut short, or of an unknown type.
    Malformed,
    /// There were too many.
    Shed,
}

/// The id of a cluster's nodes, by which they leave each other's packets alone: records would come back to them
/// without their age.
pub fn cluster_id(secret: &[u8]) -> [u8; 4] {
    let key = siphash24_128([0; 2], secret);
    let [word, _] = siphash24_128(key, b"multicast");
    let [a, b, c, d, ..] = word.to_be_bytes();
    [a, b, c, d]
}

/// Units after a peer's last announce from which on its next one is news.
pub fn renewals_from(unit_ms: u64) -> u8 {
    let units = RENEWAL_MS / unit_ms.max(1);
    u8::try_from(units).unwrap_or(LATE).clamp(1, LATE)
}

/// The live sync as the daemon drives it.
pub struct LiveSync {
    input: UdpSocket,
    output: UdpSocket,
    batch: Batch,
    filter: Filter,
    packets: Packets,
    counters: Counters,
    /// When the next line about ignored packets may be logged, by reason.
    log_at: [u64; 4],
    /// When the log said that packets cannot be sent, if it has not said otherwise.
    failing_since: Option<u64>,
}

impl LiveSync {
    /// `input` receives what is sent to the group, `output` sends to it. `id` is that of the cluster, or random.
    /// (opentracker's is seeded by the second of its start: two that start together ignore each other.) `nodes`
    /// are the senders that are accepted; `is_mapping` sends IPv4 peers as mapped IPv6 ones.
    pub fn new(
        input: UdpSocket,
        output: UdpSocket,
        id: [u8; 4],
        nodes: Vec<Net>,
        is_mapping: bool,
    ) -> LiveSync {
        LiveSync {
            input,
            output,
            batch: Batch::new(),
            filter: Filter::new(id, nodes),
            packets: Packets::new(id, is_mapping),
            counters: Counters::default(),
            log_at: Default::default(),
            failing_since: None,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.input, token, Interest::READABLE)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a batch of the packets that wait and applies them to the table; whether more may wait.
    pub fn receive(
        &mut self,
        now: u64,
        table: &Table,
        refuses: &dyn Fn(&InfoHash) -> bool,
    ) -> bool {
        // After an error the next packet brings an event again.
        let Ok(received) = self.batch.receive(&self.input) else {
            return false;
        };
        for (from, packet) in self.batch.datagrams() {
            let from = from.ip();
            match self.filter.read(from, packet, now) {
                Ok(records) => {
                    self.counters.packets_in += 1;
                    for news in records {
                        self.counters.records_in += 1;
                        if !refuses(&news.info_hash) {
                            let mut tracker = table.lock_for(&news.info_hash, now);
                            tracker.apply_unversioned(&news);
                        }
                    }
                }
                Err(why) => {
                    self.counters.ignored[why as usize] += 1;
                    let at = &mut self.log_at[why as usize];
                    let why = match why {
                        Ignored::Stranger => "not in a --sync-node",
                        Ignored::Shed => "too many",
                        Ignored::Own | Ignored::Malformed => continue,
                    };
                    if *at <= now {
                        *at = now + IGNORED_AGAIN_MS;
                        log::line(format_args!(
                            "multicast: ignored packets from {from}: {why}"
                        ));
                    }
                }
            }
        }
        received == BATCH
    }

    /// Puts news into packets, and sends the packets that are full or have waited for long enough. To be called
    /// some ten times a second, without news too.
    pub fn tell(&mut self, news: &[News], now: u64) {
        for news in news {
            if let Some(full) = self.packets.put(news, now) {
                self.send(&full, now);
            }
        }
        self.send_due(now, now);
    }

    /// Sends all that waits.
    pub fn wind_up(&mut self, now: u64) {
        self.send_due(u64::MAX, now);
    }

    fn send_due(&mut self, due: u64, now: u64) {
        while let Some(packet) = self.packets.take_due(due) {
            self.send(&packet, now);
        }
    }

    /// Sends a packet. If the system refuses it, it is lost, as it could be on its way.
    fn send(&mut self, packet: &Packet, now: u64) {
        match self.output.send(&packet.bytes) {
            Ok(_) => {
                self.counters.packets_out += 1;
                self.counters.records_out += packet.records;
                let since = self.failing_since;
                if since.is_some_and(|since| since + FAILURE_AGAIN_MS <= now) {
                    self.failing_since = None;
                    log::line(format_args!("multicast: packets can be sent again"));
                }
            }
            Err(error) => {
                self.counters.unsent += 1;
                if error.kind() != io::ErrorKind::WouldBlock && self.failing_since.is_none() {
                    self.failing_since = Some(now);
                    log::line(format_args!("multicast: cannot send: {error}"));
                }
            }
        }
    }
}

/// Records become packets: one of each family is being filled.
#[derive(Debug)]
struct Packets {
    id: [u8; 4],
    is_mapping: bool,
    /// By type.
    filling: [Packet; 2],
}

#[derive(Debug, Default)]
struct Packet {
    bytes: Vec<u8>,
    records: u64,
    /// When the first record came.
    since: u64,
}

impl Packets {
    fn new(id: [u8; 4], is_mapping: bool) -> Packets {
        Packets {
            id,
            is_mapping,
            filling: Default::default(),
        }
    }

    /// Adds a record; the packet, if that has filled it: with 52 records of IPv4 or 36 of IPv6.
    fn put(&mut self, news: &News, now: u64) -> Option<Packet> {
        let [v4, v6] = &mut self.filling;
        let (kind, packet, prefix) = match news.record.peer {
            Peer::V4(_) if self.is_mapping => (V6, v6, &MAPPED[..]),
            Peer::V4(_) => (V4, v4, &[][..]),
            Peer::V6(_) => (V6, v6, &[][..]),
        };
        let bytes = &mut packet.bytes;
        if bytes.is_empty() {
            packet.since = now;
            bytes.reserve_exact(MAX_BYTES);
            bytes.extend_from_slice(&self.id);
            bytes.extend_from_slice(&kind.to_be_bytes());
        }
        let before = bytes.len();
        bytes.extend_from_slice(&news.info_hash);
        bytes.extend_from_slice(prefix);
        bytes.extend_from_slice(news.record.peer.endpoint());
        bytes.extend_from_slice(&[flags(news), 0]);
        packet.records += 1;
        let size = bytes.len() - before;
        (bytes.len() + size > MAX_BYTES).then(|| std::mem::take(packet))
    }

    /// A packet that has waited for long enough.
    fn take_due(&mut self, now: u64) -> Option<Packet> {
        let is_due = |p: &&mut Packet| p.records > 0 && now.saturating_sub(p.since) >= WAIT_MS;
        self.filling.iter_mut().find(is_due).map(std::mem::take)
    }
}

/// An opentracker counts a completion each time that it receives one, so it is sent once.
fn flags(news: &News) -> u8 {
    match news.record.state {
        State::Present(Role::Seeder) if news.record.completed => SEEDING | COMPLETED,
        State::Present(Role::Seeder) => SEEDING,
        State::Present(Role::Leecher) => 0,
        State::Stopped => STOPPED,
    }
}

/// Packets become records, if their senders are accepted and are not too fast.
#[derive(Debug)]
struct Filter {
    id: [u8; 4],
    nodes: Vec<Net>,
    /// Records that may be accepted now, and when they were granted.
    credit: u64,
    granted_at: u64,
}

impl Filter {
    fn new(id: [u8; 4], nodes: Vec<Net>) -> Filter {
        Filter {
            id,
            nodes,
            credit: MAX_RECORDS,
            granted_at: 0,
        }
    }

    /// The records of a packet. A record that is cut short at the end is dropped, as opentracker does.
    fn read<'a>(
        &mut self,
        from: IpAddr,
        packet: &'a [u8],
        now: u64,
    ) -> Result<impl Iterator<Item = News> + use<'a>, Ignored> {
        if !nets::any_contains(&self.nodes, from) {
            return Err(Ignored::Stranger);
        }
        let (id, rest) = packet.split_first_chunk().ok_or(Ignored::Malformed)?;
        let (kind, rest) = rest.split_first_chunk().ok_or(Ignored::Malformed)?;
        let size = match u32::from_be_bytes(*kind) {
            V4 if !rest.is_empty() => 28,
            V6 if !rest.is_empty() => 40,
            _ => return Err(Ignored::Malformed),
        };
        if *id == self.id {
            return Err(Ignored::Own);
        }
        let passed = now.saturating_sub(self.granted_at);
        self.granted_at = now;
        let granted = passed.saturating_mul(MAX_RECORDS / 1000);
        self.credit = self.credit.saturating_add(granted).min(MAX_RECORDS);
        let cost = rest.len().div_ceil(size) as u64;
        self.credit = self.credit.checked_sub(cost).ok_or(Ignored::Shed)?;
        Ok(rest.chunks_exact(size).filter_map(parse))
    }
}

/// Reads a record of 28 or 40 bytes; none if its port is 0: no peer can be connected to there.
fn parse(record: &[u8]) -> Option<News> {
    let (info_hash, rest) = record.split_first_chunk()?;
    let (endpoint, &[flags, _time]) = rest.split_last_chunk()?;
    let state = match (flags & STOPPED != 0, flags & SEEDING != 0) {
        (true, _) => State::Stopped,
        (_, true) => State::Present(Role::Seeder),
        (_, false) => State::Present(Role::Leecher),
    };
    // Only a seeder can have completed.
    let completed = flags & COMPLETED != 0 && state == State::Present(Role::Seeder);
    let news = News {
        info_hash: *info_hash,
        record: Record {
            peer: Peer::from_endpoint(endpoint)?,
            state,
            completed,
            unit: 0,
        },
        renews: None,
    };
    (!endpoint.ends_with(&[0, 0])).then_some(news)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Clock;

    const HEADER: usize = 8;
    /// As captured between two opentrackers.
    const HEAD: &str = "7e08f479 00000000";
    const ONE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0a4d0001 0457 00 00";
    const TWO: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0a4d0001 08ae c0 00";
    const SIX: &str = "7e08f479 00000001 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        fd770000000000000000000000000001 045c 80 00";
    const CAPTURED: [u8; 4] = [0x7e, 0x08, 0xf4, 0x79];

    const LEECHER: State = State::Present(Role::Leecher);
    const SEEDER: State = State::Present(Role::Seeder);

    fn bytes(hex: &[&str]) -> Vec<u8> {
        let digits = hex.iter().flat_map(|part| part.chars());
        let digits: Vec<u32> = digits.filter_map(|c| c.to_digit(16)).collect();
        let pairs = digits.chunks(2);
        pairs.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn news(hash: u8, address: &str, port: u16, state: State, is_completion: bool) -> News {
        News {
            info_hash: [hash; 20],
            record: Record {
                peer: Peer::new(ip(address), port),
                state,
                completed: is_completion,
                unit: 0,
            },
            renews: None,
        }
    }

    fn captured() -> [News; 3] {
        [
            news(0xaa, "10.77.0.1", 1111, LEECHER, false),
            news(0xbb, "10.77.0.1", 2222, SEEDER, true),
            news(0xaa, "fd77::1", 1116, SEEDER, false),
        ]
    }

    /// The packet that is due after 15 seconds.
    fn due(packets: &mut Packets) -> Option<Vec<u8>> {
        packets.take_due(WAIT_MS).map(|packet| packet.bytes)
    }

    /// With this id, accepts packets from 10.77.0.0/16.
    fn filter(id: [u8; 4]) -> Filter {
        Filter::new(id, vec![Net::parse("10.77.0.0/16").expect("a network")])
    }

    fn read(filter: &mut Filter, from: &str, packet: &[u8]) -> Result<Vec<News>, Ignored> {
        let result = filter.read(ip(from), packet, 0);
        result.map(Iterator::collect)
    }

    fn read_any(packet: &[u8]) -> Result<Vec<News>, Ignored> {
        read(&mut filter([1, 2, 3, 4]), "10.77.0.1", packet)
    }

    #[test]
    fn packets_are_those_captured_from_opentracker_and_wait_for_15_seconds() {
        let mut packets = Packets::new(CAPTURED, false);
        for news in captured() {
            assert!(packets.put(&news, 1000).is_none());
        }
        assert!(packets.take_due(15_999).is_none());
        let mut due = || packets.take_due(16_000).map(|p| (p.bytes, p.records));
        assert_eq!(due(), Some((bytes(&[HEAD, ONE, TWO]), 2)));
        assert_eq!(due(), Some((bytes(&[SIX]), 1)));
        assert!(packets.take_due(u64::MAX).is_none());
    }

    #[test]
    fn packets_captured_from_opentracker_are_read() {
        let v4 = read_any(&bytes(&[HEAD, ONE, TWO]));
        assert_eq!(v4.as_deref(), Ok(&captured()[..2]));
        let v6 = read_any(&bytes(&[SIX]));
        assert_eq!(v6.as_deref(), Ok(&captured()[2..]));
    }

    #[test]
    fn completion_is_sent_once() {
        let mut packets = Packets::new(CAPTURED, false);
        let renewed = news(0xbb, "10.77.0.1", 2222, SEEDER, false);
        packets.put(&renewed, 0);
        assert_eq!(due(&mut packets).expect("is due")[HEADER + 26], SEEDING);
    }

    #[test]
    fn ipv4_peers_can_be_sent_as_mapped_ones() {
        let mut packets = Packets::new(CAPTURED, true);
        for news in captured() {
            packets.put(&news, 0);
        }
        let sent = due(&mut packets).expect("is due");
        let mapped = "7e08f479 00000001
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 00000000000000000000ffff 0a4d0001 0457 00 00
            bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 00000000000000000000ffff 0a4d0001 08ae c0 00";
        let six = SIX.split_once(" 00000001 ").expect("a head").1;
        assert_eq!(sent, bytes(&[mapped, six]));
        assert_eq!(due(&mut packets), None);
        assert_eq!(read_any(&sent).as_deref(), Ok(&captured()[..]));
    }

    #[test]
    fn packet_holds_52_ipv4_peers_or_36_ipv6_peers() {
        for (address, is_mapping, most, size) in [
            ("192.0.2.1", false, 52, 1464),
            ("192.0.2.1", true, 36, 1448),
            ("2001:db8::1", false, 36, 1448),
        ] {
            let mut packets = Packets::new([1; 4], is_mapping);
            let news = news(7, address, 1, State::Stopped, false);
            for _ in 1..most {
                assert!(packets.put(&news, 0).is_none());
            }
            let packet = packets.put(&news, 0).expect("is full");
            assert_eq!((packet.bytes.len(), packet.records), (size, most));
            assert_eq!(read_any(&packet.bytes), Ok(vec![news; most as usize]));
            assert_eq!(due(&mut packets), None);
        }
    }

    #[test]
    fn own_packets_and_those_of_strangers_are_ignored() {
        let packet = bytes(&[SIX]);
        let mut ours = filter(CAPTURED);
        for from in ["10.78.0.1", "127.0.0.1", "::1"] {
            assert_eq!(read(&mut ours, from, &packet), Err(Ignored::Stranger));
        }
        let own = read(&mut ours, "10.77.255.9", &packet);
        assert_eq!(own, Err(Ignored::Own));
        let mut none = Filter::new([1; 4], Vec::new());
        let result = read(&mut none, "10.77.0.1", &packet);
        assert_eq!(result, Err(Ignored::Stranger));
    }

    #[test]
    fn flood_is_limited_to_250000_records_a_second() {
        for record in [&bytes(&[ONE])[..], &[7; 27]] {
            let mut filter = filter([1, 2, 3, 4]);
            let packet = [&bytes(&[HEAD])[..], &record.repeat(50)].concat();
            let cost = (50 * record.len()).div_ceil(28);
            let mut taken = 0;
            for ms in 0..2000 {
                for _ in 0..100 {
                    match filter.read(ip("10.77.0.1"), &packet, ms) {
                        Ok(_) => taken += cost as u64,
                        Err(why) => assert_eq!(why, Ignored::Shed),
                    }
                }
            }
            let bounds = 2 * MAX_RECORDS..=3 * MAX_RECORDS;
            assert!(bounds.contains(&taken), "{taken}");
        }
    }

    #[test]
    fn malformed_packets_and_records_are_left_out() {
        let whole = bytes(&[HEAD, ONE, TWO]);
        for length in 0..whole.len() {
            let records = read_any(&whole[..length]);
            let expected = match length.checked_sub(HEADER) {
                None | Some(0) => Err(Ignored::Malformed),
                Some(rest) => Ok(rest / 28),
            };
            assert_eq!(records.map(|records| records.len()), expected, "{length}");
        }
        let unknown = bytes(&["7e08f479 00000002", ONE]);
        assert_eq!(read_any(&unknown), Err(Ignored::Malformed));
        // A leecher that has completed, a seeder that has stopped, and port 0.
        let mut odd = bytes(&[HEAD, ONE, TWO, ONE]);
        odd[HEADER + 26] = COMPLETED;
        odd[HEADER + 28 + 26] |= STOPPED;
        odd[HEADER + 56 + 24..][..2].fill(0);
        let [leecher, ..] = captured();
        let stopped = news(0xbb, "10.77.0.1", 2222, State::Stopped, false);
        assert_eq!(read_any(&odd), Ok(vec![leecher, stopped]));
    }

    #[test]
    fn renewals_are_sent_after_ten_minutes_or_as_late_as_other_nodes_are_told() {
        let from = |peer_timeout| renewals_from(Clock::unit_ms(peer_timeout));
        // Units of 56 s: after ten minutes, at least ten of them have begun.
        assert_eq!(from(2700), 10);
        assert_eq!(from(60), LATE);
        assert_eq!(renewals_from(0), LATE);
        assert_eq!(renewals_from(u64::MAX), 1);
    }
}
