//! A UDP socket's turn: a batch of datagrams in, requests, the tracker, a batch out.

use crate::proto::bep15::{self, ANNOUNCE_HEADER, Action, MOST_SCRAPED, Request};
use crate::responder::{Announce, Reply, Responder};
use crate::siphash::siphash24;
use crate::sys::mmsg::{BATCH, Batch, Exchange};
use crate::tracker::{Counts, Hint, MAX_BATCH, MOST_PEERS, Role, Sink, Sinks};
use mio::net::UdpSocket;
use std::io;
use std::net::IpAddr;

/// Batches in a turn. Each is two system calls, beside which the poll that comes between turns is
/// cheap; more would only keep the other sockets waiting.
const BATCHES_A_TURN: usize = 4;

const _: () = assert!(BATCH <= MAX_BATCH);
const _: () = assert!(ANNOUNCE_HEADER + MOST_PEERS * 6 <= crate::sys::mmsg::REPLY);
// IPv6 peers that fit beside the header into an unfragmented packet: 67.
const _: () = assert!(ANNOUNCE_HEADER + 67 * 18 <= crate::sys::mmsg::REPLY);

/// Serves what waits on a socket, up to a few batches; whether more may be waiting.
pub fn serve(
    socket: &UdpSocket,
    batch: &mut Batch,
    ids: &ConnectionIds,
    responder: &mut Responder,
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
        answer_batch(batch, ids, responder);
        let sent = batch.send(socket);
        responder.counters.udp_sent += sent.bytes as u64;
        responder.counters.udp_refused += sent.refused as u64;
        responder.counters.udp_dropped += sent.dropped as u64;
        if received < BATCH {
            return false;
        }
    }
    // An error that stays must not keep the loop awake; the next datagram will.
    !is_failing
}

/// Answers the requests of a batch. Announces are answered together, as the table is locked shard by shard; scrapes
/// come after them, so that a client finds what it has announced.
fn answer_batch(batch: &mut Batch, ids: &ConnectionIds, responder: &mut Responder) {
    let mut hashes = [None; BATCH];
    for (hash, request) in hashes.iter_mut().zip(batch.requests()) {
        *hash = bep15::announced_hash(request).copied();
    }
    let hints = responder.look_ahead(&hashes);
    let mut announces = [const { None }; BATCH];
    let mut transactions = [None; BATCH];
    let places = announces.iter_mut().zip(&mut transactions).zip(hints);
    for (exchange, ((announce, transaction), hint)) in batch.exchanges().zip(places) {
        responder.counters.udp_received += exchange.request.len() as u64;
        if let Some((id, request)) = answer(exchange, ids, responder) {
            *transaction = Some(id);
            *announce = request.map(|request| Announce { hint, ..request });
        }
    }
    responder.announce(&mut announces);
    // The peers of each reply are in their place; what stands before them, or an error, is left.
    let replies = announces.map(|announce| announce.map(|a| (a.reply, a.sinks.len())));
    let replies = replies.into_iter().zip(transactions);
    for (exchange, (reply, transaction)) in batch.exchanges().zip(replies) {
        let Some(transaction) = transaction else {
            continue;
        };
        *exchange.reply_length = match reply {
            Some((Reply::Accepted(counts, interval), peers)) => {
                bep15::write_announce(exchange.reply, transaction, interval, counts) + peers
            }
            Some((Reply::Refused(kind), _)) => {
                responder.counters.udp_unauthorized += 1;
                bep15::write_error(exchange.reply, transaction, kind.message())
            }
            None => scrape(exchange.request, transaction, exchange.reply, responder),
        };
    }
}

/// Writes the reply to a datagram, none if it is invalid; or returns the transaction of an announce, with what is
/// announced, or of a scrape. Until a connection id shows that the source is not forged, no reply is longer than
/// its request.
fn answer<'a>(
    exchange: Exchange<'a>,
    ids: &ConnectionIds,
    responder: &mut Responder,
) -> Option<(u32, Option<Announce<'a>>)> {
    let Exchange {
        request,
        source,
        reply,
        reply_length,
    } = exchange;
    let Ok(request) = bep15::parse(request) else {
        responder.counters.udp_invalid += 1;
        return None;
    };
    let Request {
        connection,
        transaction,
        action,
    } = request;
    *reply_length = match action {
        Action::Connect => {
            responder.counters.udp_connects += 1;
            bep15::write_connect(reply, transaction, ids.make(source))
        }
        _ if !ids.verify(source, connection) => {
            responder.counters.udp_strangers += 1;
            // Shorter than any request that has a connection id in it.
            bep15::write_error(reply, transaction, "Connect again.")
        }
        Action::Announce(announce) if announce.port == 0 => {
            responder.counters.udp_invalid += 1;
            bep15::write_error(
                reply,
                transaction,
                "port 0: a port from 1 to 65535 is wanted",
            )
        }
        Action::Announce(announce) => {
            responder.counters.udp_announces += 1;
            let room = reply.get_mut(ANNOUNCE_HEADER..)?;
            return Some((transaction, Some(decoded(&announce, source, room))));
        }
        Action::Scrape(_) => {
            responder.counters.udp_scrapes += 1;
            return Some((transaction, None));
        }
    };
    None
}

/// Writes the reply to a scrape, which has been verified.
fn scrape(request: &[u8], transaction: u32, reply: &mut [u8], responder: &Responder) -> usize {
    let Ok(Request {
        action: Action::Scrape(hashes),
        ..
    }) = bep15::parse(request)
    else {
        return 0;
    };
    let mut counts = [Counts::default(); MOST_SCRAPED];
    let mut places = counts.iter_mut();
    responder.scrape(hashes, &mut |_, known| {
        if let (Some(place), Some(known)) = (places.next(), known) {
            *place = known;
        }
    });
    let count = hashes.len().min(MOST_SCRAPED);
    bep15::write_scrape(reply, transaction, counts.into_iter().take(count))
}

/// The peers are written straight to their place in the packet; they are of the asker's family.
fn decoded<'a>(announce: &bep15::Announce<'a>, source: IpAddr, room: &'a mut [u8]) -> Announce<'a> {
    let (v4, v6): (&mut [u8], &mut [u8]) = match source.to_canonical() {
        IpAddr::V4(_) => (room, &mut []),
        IpAddr::V6(_) => (&mut [], room),
    };
    Announce {
        info_hash: announce.info_hash,
        source,
        port: announce.port,
        role: Role::of_left(Some(announce.left)),
        event: announce.event,
        numwant: usize::try_from(announce.num_want).ok(),
        peer_id: Some(*announce.peer_id),
        hint: Hint::default(),
        sinks: Sinks {
            v4: Sink::new(v4),
            v6: Sink::new(v6),
        },
        reply: Reply::default(),
    }
}

/// Connection ids that need no memory: a hash of the source address and a slot of time under a secret
/// key, with the slot's low two bits left in it. An id holds in the slot in which it was made and in
/// the next: for two to four minutes, as BEP 15 wants.
///
/// Threads, and nodes of a cluster, share the key and the slots and accept each other's ids. Their clocks differ
/// a little, so that one may get an id of a slot that has not begun for it: ids of the next slot hold too.
#[derive(Clone)]
pub struct ConnectionIds {
    /// The nodes of a cluster have the same key, and slots of wall-clock time.
    pub are_shared: bool,
    key: [u64; 2],
    slot: u64,
}

/// Milliseconds.
const SLOT: u64 = 120_000;
const SLOT_BITS: u64 = 3;

impl ConnectionIds {
    pub fn new(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            are_shared: false,
            key,
            slot: 0,
        }
    }

    /// The same for the nodes of a cluster: the clock counts from 1970.
    pub fn shared(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            are_shared: true,
            ..ConnectionIds::new(key)
        }
    }

    /// Moves the clock to this many milliseconds since the start, or since 1970 where the nodes of a cluster share the key.
    pub fn advance(&mut self, now: u64) {
        self.slot = now / SLOT;
    }

    fn make(&self, source: IpAddr) -> u64 {
        self.of_slot(source, self.slot)
    }

    /// Whether the id was given to this source in this slot, in the one before, or by another clock in the next.
    fn verify(&self, source: IpAddr, id: u64) -> bool {
        let slot = match id.wrapping_sub(self.slot) & SLOT_BITS {
            0 => Some(self.slot),
            1 => self.slot.checked_add(1),
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
    use crate::random::Random;
    use crate::tracker::{Limits, Table};
    use std::sync::Arc;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
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
    fn ids_hold_where_the_clock_is_a_slot_behind_or_ahead() {
        let here = ip("192.0.2.1");
        let [mut one, mut other] = [[1, 2]; 2].map(ConnectionIds::new);
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
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1000,
            max_torrents: 1000,
        };
        let table = Arc::new(Table::new(limits, 1));
        let mut responder = Responder::new(table, 1800, 200, Random::seeded(1));
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
            let mut length = 0;
            let exchange = Exchange {
                request: &datagram,
                source,
                reply: &mut reply,
                reply_length: &mut length,
            };
            assert!(answer(exchange, &ids, &mut responder).is_none());
            assert!(length <= datagram.len());
        }
        assert_eq!(responder.table.survey(0).totals.torrents, 0);
        let counters = &responder.counters;
        for seen in [
            counters.udp_connects,
            counters.udp_strangers,
            counters.udp_invalid,
        ] {
            assert!(seen > 1000, "{counters:?}");
        }
    }
}
