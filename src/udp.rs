//! A UDP socket's turn: a batch of datagrams in, requests, the tracker, a batch out.

use crate::completed::Completing;
use crate::proto::bep15::{self, ANNOUNCE_HEADER, Action, Request};
use crate::service::Service;
use crate::siphash::siphash24;
use crate::sys::mmsg::{BATCH, Batch};
use crate::tracker::{Announce, Counts, Hint, MOST_PEERS, Peer, Role, Sink, Sinks};
use mio::net::UdpSocket;
use std::io;
use std::net::IpAddr;

/// Batches in a turn. Each is two system calls, beside which the poll that comes between turns is
/// cheap; more would only keep the other sockets waiting.
const BATCHES_A_TURN: usize = 4;

const _: () = assert!(ANNOUNCE_HEADER + MOST_PEERS * 6 <= crate::sys::mmsg::REPLY);
// IPv6 peers that fit beside the header into an unfragmented packet: 67.
const _: () = assert!(ANNOUNCE_HEADER + 67 * 18 <= crate::sys::mmsg::REPLY);

/// Serves what waits on a socket, up to a few batches; whether more may be waiting.
pub fn serve(
    socket: &UdpSocket,
    batch: &mut Batch,
    ids: &ConnectionIds,
    service: &mut Service,
) -> bool {
    let mut is_failing = false;
    for _ in 0..BATCHES_A_TURN {
        let received = match batch.receive(socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // An interruption, or an error of an earlier reply: what waits is behind it.
            Err(_) => {
                is_failing = true;
                continue;
            }
        };
        let hints = look_ahead(batch, service);
        for (exchange, hint) in batch.exchanges().zip(hints) {
            let (source, request) = (exchange.source, exchange.request);
            *exchange.reply_length = answer(source, request, hint, exchange.reply, ids, service);
            service.counters.udp_received += request.len() as u64;
        }
        let sent = batch.send(socket);
        service.counters.udp_sent += sent.bytes as u64;
        service.counters.udp_refused += sent.refused as u64;
        service.counters.udp_dropped += sent.dropped as u64;
        if received < BATCH {
            return false;
        }
    }
    // An error that stays must not keep the loop awake; the next datagram will.
    !is_failing
}

/// Brings what the batch's announces will read into the cache, all of one kind before the next.
fn look_ahead(batch: &Batch, service: &Service) -> [Hint; BATCH] {
    let mut ahead = [None; BATCH];
    for (ahead, request) in ahead.iter_mut().zip(batch.requests()) {
        let hash = bep15::announced_hash(request);
        *ahead = hash.map(|hash| service.look_ahead(hash));
    }
    let mut hints = [Hint::default(); BATCH];
    for ((hint, ahead), request) in hints.iter_mut().zip(&ahead).zip(batch.requests()) {
        if let (Some(ahead), Some(hash)) = (ahead, bep15::announced_hash(request)) {
            *hint = service.tracker.look_further(hash, ahead);
        }
    }
    hints
}

/// Writes the reply to a datagram and returns its length, 0 for none. Until a connection id shows that
/// the source is not forged, no reply is longer than what came.
fn answer(
    source: IpAddr,
    datagram: &[u8],
    hint: Hint,
    reply: &mut [u8],
    ids: &ConnectionIds,
    service: &mut Service,
) -> usize {
    let Ok(request) = bep15::parse(datagram) else {
        service.counters.udp_invalid += 1;
        return 0;
    };
    let Request {
        connection,
        transaction,
        action,
    } = request;
    if action == Action::Connect {
        service.counters.udp_connects += 1;
        return bep15::write_connect(reply, transaction, ids.make(source));
    }
    if !ids.verify(source, connection) {
        service.counters.udp_strangers += 1;
        // Shorter than any request that has a connection id in it.
        return bep15::write_error(reply, transaction, "Connect again.");
    }
    match action {
        Action::Announce(announce) if announce.port == 0 => {
            service.counters.udp_invalid += 1;
            bep15::write_error(
                reply,
                transaction,
                "port 0: a port from 1 to 65535 is wanted",
            )
        }
        Action::Announce(announce) => {
            service.counters.udp_announces += 1;
            if let Some(kind) = service.refuses(announce.info_hash) {
                service.counters.udp_unauthorized += 1;
                return bep15::write_error(reply, transaction, kind.message());
            }
            write_announce(reply, transaction, &announce, source, hint, service)
        }
        Action::Scrape(hashes) => {
            service.counters.udp_scrapes += 1;
            let counts = hashes.iter().map(|hash| service.scrape(hash));
            bep15::write_scrape(reply, transaction, counts.map(Option::unwrap_or_default))
        }
        Action::Connect => 0, // Answered above.
    }
}

/// The peers are written straight to their place in the packet; they are of the asker's family.
fn write_announce(
    reply: &mut [u8],
    transaction: u32,
    announce: &bep15::Announce,
    source: IpAddr,
    hint: Hint,
    service: &mut Service,
) -> usize {
    let Some((head, room)) = reply.split_at_mut_checked(ANNOUNCE_HEADER) else {
        return 0;
    };
    let peer = Peer::new(source, announce.port);
    let (v4, v6): (&mut [u8], &mut [u8]) = match peer {
        Peer::V4(_) => (room, &mut []),
        Peer::V6(_) => (&mut [], room),
    };
    let mut sinks = Sinks {
        v4: Sink::new(v4),
        v6: Sink::new(v6),
    };
    let request = Announce {
        info_hash: announce.info_hash,
        peer,
        role: Role::of_left(Some(announce.left)),
        event: announce.event,
        want: service.want(usize::try_from(announce.num_want).ok()),
        hint,
    };
    let completing = Completing::watch(service, &request);
    let counts: Counts = service
        .tracker
        .announce(&request, &mut service.random, &mut sinks);
    if let Some(completing) = completing {
        completing.log(&request, counts, Some(announce.peer_id), source);
    }
    let peers = sinks.v4.len() + sinks.v6.len();
    bep15::write_announce(head, transaction, service.interval(), counts) + peers
}

/// Connection ids that need no memory: a hash of the source address and a slot of time under a secret
/// key, with the slot's low two bits left in it. An id holds in the slot in which it was made and in
/// the next: for two to four minutes, as BEP 15 wants.
///
/// Nodes of a cluster share the key and the slots and take each other's ids, whichever of them a client's
/// datagrams come to. One whose slot has just begun may have given an id that another is to take before its
/// own begins: they take those of the next slot too.
pub struct ConnectionIds {
    key: [u64; 2],
    slot: u64,
    is_shared: bool,
}

/// Milliseconds.
const SLOT: u64 = 120_000;
const SLOT_BITS: u64 = 3;

impl ConnectionIds {
    pub fn new(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            key,
            slot: 0,
            is_shared: false,
        }
    }

    /// Ids of a cluster: the key is its own, and [`ConnectionIds::advance`] is given its time.
    pub fn shared(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            is_shared: true,
            ..ConnectionIds::new(key)
        }
    }

    /// Moves the clock to this many milliseconds since the start, or of cluster time.
    pub fn advance(&mut self, now: u64) {
        self.slot = now / SLOT;
    }

    fn make(&self, source: IpAddr) -> u64 {
        self.of_slot(source, self.slot)
    }

    /// Whether the id was given to this source in this slot or in the one before, or by another node in the
    /// next one.
    fn verify(&self, source: IpAddr, id: u64) -> bool {
        let slot = match id.wrapping_sub(self.slot) & SLOT_BITS {
            0 => Some(self.slot),
            1 if self.is_shared => self.slot.checked_add(1),
            SLOT_BITS => self.slot.checked_sub(1),
            _ => None,
        };
        slot.is_some_and(|slot| self.of_slot(source, slot) == id)
    }

    fn of_slot(&self, source: IpAddr, slot: u64) -> u64 {
        let mut message = [0; 24];
        let address = match source {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        message[..16].copy_from_slice(&address.octets());
        message[16..].copy_from_slice(&slot.to_le_bytes());
        siphash24(self.key, &message) & !SLOT_BITS | slot & SLOT_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Kind};
    use crate::random::Random;
    use crate::tracker::{Event, Limits, Progress};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn service() -> Service {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1000,
            max_torrents: 1000,
        };
        Service::new(limits, 1800, 200, Random::seeded(1))
    }

    #[test]
    fn an_id_holds_for_two_slots_and_for_one_source() {
        let mut ids = ConnectionIds::new([1, 2]);
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for slot in 0..20 {
            ids.advance(slot * SLOT);
            let id = ids.make(here);
            for later in 0..10 {
                ids.advance((slot + later) * SLOT + SLOT - 1);
                assert_eq!(ids.verify(here, id), later <= 1, "{slot} + {later}");
                assert!(!ids.verify(there, id));
                assert!(!ids.verify(here, id ^ (1 << 63)));
            }
        }
        let other = ConnectionIds::new([1, 3]);
        assert_ne!(other.make(here), ConnectionIds::new([1, 2]).make(here));
        assert_eq!(other.make(here), other.make(ip("::ffff:192.0.2.1")));
    }

    #[test]
    fn ids_of_a_cluster_hold_at_nodes_that_are_a_slot_behind_or_ahead() {
        let here = ip("192.0.2.1");
        let [mut one, mut other] = [[1, 2]; 2].map(ConnectionIds::shared);
        for slot in 14_000_000..14_000_008 {
            one.advance(slot * SLOT);
            let id = one.make(here);
            for ahead in 0..8 {
                other.advance((slot + ahead - 4) * SLOT);
                assert_eq!(other.verify(here, id), (3..=5).contains(&ahead), "{ahead}");
                assert!(!other.verify(ip("192.0.2.2"), id));
            }
        }
    }

    /// Whatever arrives, a source that has not shown itself gets no more than it sent.
    #[test]
    fn strangers_get_no_more_than_they_send() {
        let mut ids = ConnectionIds::new([1, 2]);
        ids.advance(10 * SLOT);
        let mut service = service();
        let mut random = Random::seeded(61);
        let mut reply = [0; 1232];
        for _ in 0..100_000 {
            let mut datagram: Vec<u8> = (0..random.below(120))
                .map(|_| random.draw() as u8)
                .collect();
            if let Some(head) = datagram.first_chunk_mut::<12>() {
                if random.below(2) == 0 {
                    head[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
                }
                head[8..].copy_from_slice(&[0, 0, 0, random.below(4) as u8]);
            }
            let source = ip("192.0.2.1");
            let hint = Hint::default();
            let length = answer(source, &datagram, hint, &mut reply, &ids, &mut service);
            assert!(length <= datagram.len());
        }
        assert_eq!(service.tracker.totals().torrents, 0);
        let counters = &service.counters;
        for seen in [
            counters.udp_connects,
            counters.udp_strangers,
            counters.udp_invalid,
        ] {
            assert!(seen > 1000, "{counters:?}");
        }
    }

    /// However the torrent came into the table, the list decides.
    #[test]
    fn an_announce_of_a_torrent_in_the_table_is_refused_if_the_list_refuses_it() {
        let (listed, other) = ([7; 20], [8; 20]);
        let mut service = service();
        let mut access = Access::new(Kind::White, "list".into());
        access.change("flag", &[listed], true);
        service.access = Some(access);
        service.tracker.advance(200_000);
        while service.sweep(1) == Progress::Underway {}
        let (source, ids) = (ip("192.0.2.1"), ConnectionIds::new([1, 2]));
        for (hash, action) in [(listed, 1), (other, 3)] {
            let peer = Peer::new(source, 1);
            service.tracker.tell(&hash, peer, Role::Seeder, Event::None);
            let mut datagram = [0; 98];
            datagram[..8].copy_from_slice(&ids.make(source).to_be_bytes());
            datagram[11] = 1;
            datagram[16..36].copy_from_slice(&hash);
            datagram[97] = 1;
            let ahead = service.look_ahead(&hash);
            let hint = service.tracker.look_further(&hash, &ahead);
            let mut reply = [0; 1232];
            assert!(answer(source, &datagram, hint, &mut reply, &ids, &mut service) > 8);
            assert_eq!(reply[3], action);
        }
    }
}
