//! opentracker's live sync: packets to a multicast group, without key, sequence or acknowledgement.
//!
//! ```text
//! 0  tracker id 4, type 4 (0: IPv4, 1: IPv6)
//! 8  records: info-hash 20, address 4 or 16, port 2, flags 1, time 1
//! ```
//! Numbers are big-endian. The time is always 0 on the wire. A packet is sent when it is full, or 15 seconds after its
//! first record. Packets with the own id are dropped. Other packets are accepted by their source address, since nothing
//! else identifies a sender.
//!
//! opentracker sends a peer that is new, has stopped or has completed. It sends other announces only if it has not
//! seen the peer for ten minutes. This module does the same, and sends changes of role too. A renewal is put into a
//! packet when the client announces. The walks of the cluster send none: a burst would overrun the socket of an
//! opentracker. So in a cluster of both kinds each node must take part in the live sync.
//!
//! A record has no age. It is applied like an announce of the present, but the peer is not local, so it is never sent
//! on by multicast.
//!
//! opentracker of 2024 serves both families in one process. It sends packets of type 0 and cannot read them: it stores
//! their records as IPv6 peers that do not exist. It does read IPv4 peers in packets of type 1, as mapped addresses.
//! Before 2024 it read only type 0.

use crate::base::log;
use crate::base::nets::{self, Net};
use crate::base::siphash::siphash24_128;
use crate::base::text::reason;
use crate::stats::cluster::Multicast as Counters;
use crate::sys::mmsg::{BATCH, Batch};
use crate::sys::sockets::Multicast;
use crate::tracker::{InfoHash, LATE, News, Peer, PeerState, Record, Role, Table};
use mio::{Interest, Registry, Token};
use std::io;
use std::net::IpAddr;

/// Bytes of a packet, without the headers of UDP and IP.
const MAX_BYTES: usize = 1480;

/// A record waits at most so many milliseconds for others.
const WAIT_MS: u64 = 15_000;

/// A renewal is sent if it comes so many milliseconds after the last announce.
const RENEWAL_MS: u64 = 600_000;

/// Records accepted in a second, so that a flood takes at most an eighth of a core.
const MAX_RECORDS: u64 = 250_000;

/// Milliseconds between two log lines of one reason: about ignored packets, or packets that cannot be sent.
const LOG_AGAIN_MS: u64 = 3_600_000;

/// Milliseconds between two looks at the membership in the group, which ends with the interface.
const REJOIN_MS: u64 = 5000;

const SEEDING: u8 = 0x80;
const COMPLETED: u8 = 0x40;
const STOPPED: u8 = 0x20;

const V4: u32 = 0;
const V6: u32 = 1;

/// The bytes before an IPv4 address that is mapped into IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The reason why a packet was ignored, in the order of [`Counters::ignored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    Own,
    /// From an address in no `--sync-node`.
    Stranger,
    /// Too short, or of an unknown type.
    Malformed,
    /// Above [`MAX_RECORDS`].
    Shed,
}

/// The id of all nodes of a cluster, so that they ignore the packets of each other: these records have no age.
pub fn cluster_id(secret: &[u8]) -> [u8; 4] {
    let key = siphash24_128([0; 2], secret);
    let [word, _] = siphash24_128(key, b"multicast");
    let [a, b, c, d, ..] = word.to_be_bytes();
    [a, b, c, d]
}

/// A renewal is news if it comes so many units after the last announce.
pub fn renewals_from(unit_ms: u64) -> u8 {
    let units = RENEWAL_MS / unit_ms.max(1);
    u8::try_from(units).unwrap_or(LATE).clamp(1, LATE)
}

/// The live sync as the daemon drives it.
pub struct LiveSync {
    sockets: Multicast,
    batch: Batch,
    filter: Filter,
    packets: Packets,
    pub counters: Counters,
    /// When the next line about ignored packets may be logged, by reason.
    log_at: [u64; 4],
    /// When the next line about packets that cannot be sent may be logged.
    log_unsent_at: u64,
    /// When it is next looked whether the interface was replaced.
    rejoin_at: u64,
    /// The interface is missing, and the log says so.
    is_missing: bool,
}

impl LiveSync {
    /// `id` is that of the cluster, or random.
    /// (opentracker's is seeded by the second of its start: two that start together ignore each other.) Packets from
    /// `nodes` are accepted. With `is_mapping`, IPv4 peers are sent as mapped IPv6 addresses.
    pub fn new(sockets: Multicast, id: [u8; 4], nodes: Vec<Net>, is_mapping: bool) -> LiveSync {
        LiveSync {
            sockets,
            batch: Batch::default(),
            filter: Filter::new(id, nodes),
            packets: Packets::new(id, is_mapping),
            counters: Counters::default(),
            log_at: [0; 4],
            log_unsent_at: 0,
            rejoin_at: REJOIN_MS,
            is_missing: false,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.sockets.input, token, Interest::READABLE)
    }

    /// Applies a batch of the packets that wait to the table. Returns whether more may wait.
    pub fn receive(
        &mut self,
        now: u64,
        table: &Table,
        refuses: &dyn Fn(&InfoHash) -> bool,
    ) -> bool {
        let mut receive = || self.batch.receive(&self.sockets.input);
        // After the error of one call the packets still wait. After that of two, the next packet causes another event.
        let Ok(received) = receive().or_else(|_| receive()) else {
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
                        *at = now + LOG_AGAIN_MS;
                        log::line(format_args!(
                            "multicast: ignored packets from {from}: {why}"
                        ));
                    }
                }
            }
        }
        received == BATCH
    }

    /// Puts news into packets, and sends the packets that are due. To be called at least ten times a second, with or
    /// without news.
    pub fn send_news(&mut self, news: &[News], now: u64) {
        for news in news {
            if let Some(full) = self.packets.put(news, now) {
                self.send(&full, now);
            }
        }
        self.send_due(now, now);
        if self.rejoin_at <= now {
            self.rejoin_at = now + REJOIN_MS;
            self.rejoin();
        }
    }

    /// Joins the group again after the interface was away.
    fn rejoin(&mut self) {
        match self.sockets.rejoin() {
            Ok(true) => log::line(format_args!("multicast: joined the group again")),
            Ok(false) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.is_missing, true) {
                    let why = reason(&error);
                    log::error(format_args!("multicast: cannot join the group: {why}"));
                }
                return;
            }
        }
        self.is_missing = false;
    }

    /// Sends the packets that wait.
    pub fn wind_up(&mut self, now: u64) {
        self.send_due(u64::MAX, now);
    }

    fn send_due(&mut self, due: u64, now: u64) {
        while let Some(packet) = self.packets.take_due(due) {
            self.send(&packet, now);
        }
    }

    /// Sends a packet. If the system does not send it, it is lost, as on any network.
    fn send(&mut self, packet: &Packet, now: u64) {
        let Err(error) = self.sockets.output.send(&packet.bytes) else {
            self.counters.packets_out += 1;
            self.counters.records_out += packet.records;
            return;
        };
        self.counters.unsent += 1;
        if error.kind() != io::ErrorKind::WouldBlock && self.log_unsent_at <= now {
            self.log_unsent_at = now + LOG_AGAIN_MS;
            log::line(format_args!("multicast: cannot send: {error}"));
        }
    }
}

/// Puts records into packets. One packet of each family is being filled.
#[derive(Debug)]
struct Packets {
    id: [u8; 4],
    is_mapping: bool,
    /// By [`V4`] and [`V6`].
    filling: [Packet; 2],
}

#[derive(Debug, Default)]
struct Packet {
    bytes: Vec<u8>,
    records: u64,
    /// When the first record was added.
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

    /// Adds a record. Returns the packet if it is full: with 52 records of IPv4 or 36 of IPv6.
    fn put(&mut self, news: &News, now: u64) -> Option<Packet> {
        let (kind, prefix) = match news.record.peer {
            Peer::V4(_) if self.is_mapping => (V6, &MAPPED[..]),
            Peer::V4(_) => (V4, &[][..]),
            Peer::V6(_) => (V6, &[][..]),
        };
        let packet = &mut self.filling[kind as usize];
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

    /// A packet whose first record is 15 seconds old.
    fn take_due(&mut self, now: u64) -> Option<Packet> {
        let is_due = |p: &&mut Packet| p.records > 0 && now.saturating_sub(p.since) >= WAIT_MS;
        self.filling.iter_mut().find(is_due).map(std::mem::take)
    }
}

/// An opentracker counts a completion whenever it receives one, so renewals of the seeder do not repeat it.
fn flags(news: &News) -> u8 {
    match news.record.state {
        PeerState::Present(Role::Seeder) if news.record.completed => SEEDING | COMPLETED,
        PeerState::Present(Role::Seeder) => SEEDING,
        PeerState::Present(Role::Leecher) => 0,
        PeerState::Stopped => STOPPED,
    }
}

/// Reads the records of packets, unless their sender is not accepted or is too fast.
#[derive(Debug)]
struct Filter {
    id: [u8; 4],
    nodes: Vec<Net>,
    /// Records that may be accepted now, and when the last ones were granted.
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

    /// The records of a packet. An incomplete one at the end is dropped, as by opentracker.
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

/// Reads a record of 28 or 40 bytes.
fn parse(record: &[u8]) -> Option<News> {
    let (info_hash, rest) = record.split_first_chunk()?;
    let (endpoint, &[flags, _time]) = rest.split_last_chunk()?;
    let state = match (flags & STOPPED != 0, flags & SEEDING != 0) {
        (true, _) => PeerState::Stopped,
        (_, true) => PeerState::Present(Role::Seeder),
        (_, false) => PeerState::Present(Role::Leecher),
    };
    // Only a seeder can have completed.
    let completed = flags & COMPLETED != 0 && state == PeerState::Present(Role::Seeder);
    Some(News {
        info_hash: *info_hash,
        record: Record {
            peer: Peer::from_endpoint(endpoint)?,
            state,
            completed,
            unit: 0,
        },
        renews: None,
    })
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

    const LEECHER: PeerState = PeerState::Present(Role::Leecher);
    const SEEDER: PeerState = PeerState::Present(Role::Seeder);

    fn bytes(hex: &[&str]) -> Vec<u8> {
        let digits = hex.iter().flat_map(|part| part.chars());
        let digits: Vec<u32> = digits.filter_map(|c| c.to_digit(16)).collect();
        let pairs = digits.chunks(2);
        pairs.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn news(hash: u8, address: &str, port: u16, state: PeerState, is_completion: bool) -> News {
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

    /// A filter with this id, which accepts packets from 10.77.0.0/16.
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
    fn renewal_after_a_completion_does_not_repeat_it() {
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
            let news = news(7, address, 1, PeerState::Stopped, false);
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
    fn malformed_packets_and_records_are_ignored() {
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
        // A leecher with a completion, and a seeder with a stop.
        let mut odd = bytes(&[HEAD, ONE, TWO]);
        odd[HEADER + 26] = COMPLETED;
        odd[HEADER + 28 + 26] |= STOPPED;
        let [leecher, ..] = captured();
        let stopped = news(0xbb, "10.77.0.1", 2222, PeerState::Stopped, false);
        assert_eq!(read_any(&odd), Ok(vec![leecher, stopped]));
    }

    #[test]
    fn renewals_are_sent_after_ten_minutes_or_after_three_quarters_of_the_peer_timeout() {
        let from = |peer_timeout| renewals_from(Clock::unit_ms(peer_timeout));
        // Units of 56 s: after ten minutes, at least ten of them have begun.
        assert_eq!(from(2700), 10);
        assert_eq!(from(60), LATE);
        assert_eq!(renewals_from(0), LATE);
        assert_eq!(renewals_from(u64::MAX), 1);
    }
}
