//! UDP announces and scrapes (BEP 15), by the batch.
//!
//! System calls and cache misses are most of what an announce costs. So one call receives up to 32 datagrams, the table
//! is asked for all of their torrents at once, and one call sends the replies.
//!
//! A socket's turn: [`Batch::receive`], [`codec::parse`], then connects and errors are answered at once. Announces
//! go to [`Responder::announce`] together, which writes the peers straight into the packets; the codec puts the header
//! before them. Scrapes follow, and [`Batch::send`] ends the round. A client is known by its connection id, which
//! [`ConnectionIds`] makes and verifies without state per client.

mod connection_id;

pub use connection_id::ConnectionIds;

use crate::base::log::Seldom;
use crate::base::text::reason;
use crate::protocol::udp::{self as codec, ANNOUNCE_HEADER, Action, MAX_SCRAPED};
use crate::responder::{Pending, Reply, Responder};
use crate::sys::mmsg::{BATCH, Batch, Exchange};
use crate::tracker::{Counts, InfoHash, MAX_BATCH, MAX_REPLY_PEERS, Peer, Sinks};
use mio::net::UdpSocket;
use std::io::{self, ErrorKind};

/// A batch is two system calls, beside which the poll between turns is cheap. More batches would only delay the
/// other sockets.
const BATCHES_PER_TURN: usize = 4;

const _: () = assert!(BATCH <= MAX_BATCH);
const _: () = assert!(ANNOUNCE_HEADER + MAX_REPLY_PEERS * 6 <= crate::sys::mmsg::REPLY);
// IPv6 peers that fit beside the header into an unfragmented packet: 67.
const _: () = assert!(ANNOUNCE_HEADER + 67 * 18 <= crate::sys::mmsg::REPLY);

static RECEIVE_FAULT: Seldom = Seldom::new(3600);
static SEND_FAULT: Seldom = Seldom::new(3600);

/// Milliseconds for which a socket may be behind before strangers get no replies. A short burst sheds nobody.
const BEHIND_MS: u64 = 4;

/// Whether a socket is behind: the first turn after which it had datagrams left since it was last drained.
pub type Backlog = Option<u64>;

/// Datagrams without a valid connection id that get a reply in a batch while the socket is behind. With none, a flood
/// of connects would keep all new clients out for as long as it lasts.
const STRANGERS: usize = 2;

/// Serves a socket for one turn. Returns whether more datagrams may be waiting, or the error that keeps all of them
/// waiting.
///
/// Anybody can send connects, under forged addresses too, and more than there is time to answer. While a socket is
/// behind, few datagrams without a valid connection id get a reply, which takes less time, so that clients that have
/// one are answered sooner.
pub fn serve(
    socket: &UdpSocket,
    backlog: &mut Backlog,
    batch: &mut Batch,
    ids: &ConnectionIds,
    responder: &mut Responder,
) -> io::Result<bool> {
    let now = responder.monitor.now;
    let strangers = match *backlog {
        Some(since) if now > since + BEHIND_MS => STRANGERS,
        _ => BATCH,
    };
    let has_more = serve_batches(socket, batch, ids, strangers, responder);
    let is_behind = matches!(has_more, Ok(true));
    *backlog = backlog.or(Some(now)).filter(|_| is_behind);
    has_more
}

fn serve_batches(
    socket: &UdpSocket,
    batch: &mut Batch,
    ids: &ConnectionIds,
    strangers: usize,
    responder: &mut Responder,
) -> io::Result<bool> {
    let (mut has_received, mut failure) = (false, None);
    for _ in 0..BATCHES_PER_TURN {
        let received = match batch.receive(socket) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // It may be the error of an earlier reply, which stands before the next datagram.
            Err(error) => {
                responder.counters.udp_receive_errors += 1;
                let (now, why) = (responder.monitor.now, reason(&error));
                RECEIVE_FAULT.error(now, format_args!("udp: cannot receive: {why}"));
                failure = Some(error);
                continue;
            }
        };
        has_received = true;
        answer_batch(batch, ids, strangers, responder);
        let sent = batch.send(socket);
        responder.counters.udp_sent += sent.bytes as u64;
        responder.counters.udp_undeliverable += sent.refused as u64;
        responder.counters.udp_dropped += sent.dropped as u64;
        if let Some(fault) = sent.fault {
            let (now, why) = (responder.monitor.now, io::Error::from_raw_os_error(fault));
            SEND_FAULT.error(now, format_args!("udp: cannot send: {}", reason(&why)));
        }
        if received < BATCH {
            return Ok(false);
        }
    }
    failure.filter(|_| !has_received).map_or(Ok(true), Err)
}

/// The work that [`answer`] leaves for a datagram, with the transaction id.
#[derive(Clone, Copy)]
enum Todo<'a> {
    /// It has its reply, or gets none.
    Nothing,
    /// The responder answers it with the others of the batch.
    Announce(u32),
    Scrape(u32, &'a [InfoHash]),
}

/// Answers a batch: announces together, as the table is locked shard by shard, and scrapes after them, so that a
/// client finds what it has just announced. At most so many strangers get a reply.
fn answer_batch(
    batch: &mut Batch,
    ids: &ConnectionIds,
    mut strangers: usize,
    responder: &mut Responder,
) {
    let mut hashes = [None; BATCH];
    for (hash, request) in hashes.iter_mut().zip(batch.requests()) {
        *hash = codec::announced_hash(request).copied();
    }
    let hints = responder.prefetch(&hashes);
    let mut received = batch.exchanges();
    let mut exchanges: [Option<Exchange>; BATCH] = std::array::from_fn(|_| received.next());
    let mut announces = [const { None }; BATCH];
    let mut todos = [Todo::Nothing; BATCH];
    let results = announces.iter_mut().zip(&mut todos).zip(hints);
    for (exchange, ((announce, todo), hint)) in exchanges.iter_mut().flatten().zip(results) {
        responder.counters.udp_received += exchange.request.len() as u64;
        *todo = answer(exchange, ids, &mut strangers, responder, announce);
        if let Some(pending) = announce {
            pending.announce.hint = hint;
        }
    }
    let replies = responder.announce(&mut announces);
    let peers = announces.map(|announce| announce.map_or(0, |a| a.sinks.filled()));
    let results = todos.into_iter().zip(replies.into_iter().zip(peers));
    for (exchange, (todo, (reply, peers))) in exchanges.iter_mut().flatten().zip(results) {
        let room = &mut exchange.reply[..];
        *exchange.reply_length = match (todo, reply) {
            (Todo::Announce(transaction), Some(Reply::Accepted(counts, interval))) => {
                codec::write_announce(room, transaction, interval, counts) + peers
            }
            (Todo::Announce(transaction), Some(Reply::Refused(refusal))) => {
                responder.counters.udp_unauthorized += 1;
                match refusal.is_empty_over_udp {
                    true => {
                        let counts = Counts::default();
                        codec::write_announce(room, transaction, refusal.interval, counts)
                    }
                    false => codec::write_error(room, transaction, format_args!("{refusal}")),
                }
            }
            (Todo::Scrape(transaction, hashes), _) => scrape(hashes, transaction, room, responder),
            _ => continue,
        };
    }
}

/// Answers connects and bad requests at once. A datagram without a valid connection id, whose source may be forged,
/// gets no reply longer than itself, and none once there have been enough strangers.
fn answer<'a, 'r>(
    exchange: &'r mut Exchange<'a>,
    ids: &ConnectionIds,
    strangers: &mut usize,
    responder: &mut Responder,
    pending: &mut Option<Pending<'r>>,
) -> Todo<'a> {
    let (source, datagram) = (exchange.source, exchange.request);
    let address = responder.address_of(source, || codec::named(datagram, source));
    let counters = &mut responder.counters;
    let Some(request) = codec::parse(datagram, address) else {
        counters.udp_invalid += 1;
        return Todo::Nothing;
    };
    let transaction = request.transaction;
    let is_connect = matches!(request.action, Action::Connect);
    let is_stranger = is_connect || !ids.verify(source, request.connection);
    if is_stranger {
        let Some(left) = strangers.checked_sub(1) else {
            counters.udp_shed += 1;
            return Todo::Nothing;
        };
        *strangers = left;
    }
    *exchange.reply_length = match request.action {
        Action::Connect => {
            counters.udp_connects += 1;
            codec::write_connect(exchange.reply, transaction, ids.make(source))
        }
        _ if is_stranger => {
            counters.udp_strangers += 1;
            // 22 bytes; the shortest scrape has 36.
            codec::write_error(exchange.reply, transaction, format_args!("Connect again."))
        }
        Action::Announce(announce, peer_id) => {
            counters.udp_announces += 1;
            let (_, peers) = exchange.reply.split_at_mut(ANNOUNCE_HEADER);
            // They are of the client's family.
            let sinks = match announce.peer {
                Peer::V4(_) => Sinks::new(peers, &mut []),
                Peer::V6(_) => Sinks::new(&mut [], peers),
            };
            *pending = Some(Pending {
                announce,
                peer_id: Some(*peer_id),
                sinks,
            });
            return Todo::Announce(transaction);
        }
        Action::Scrape(hashes) => {
            counters.udp_scrapes += 1;
            return Todo::Scrape(transaction, hashes);
        }
    };
    Todo::Nothing
}

/// Writes the reply to a verified scrape.
fn scrape(hashes: &[InfoHash], transaction: u32, reply: &mut [u8], responder: &Responder) -> usize {
    let mut counts = [Counts::default(); MAX_SCRAPED];
    let mut index = 0;
    responder.scrape(hashes, &mut |_, known| {
        if let Some(counts) = counts.get_mut(index) {
            *counts = known.unwrap_or_default();
        }
        index += 1;
    });
    codec::write_scrape(reply, transaction, counts.get(..index).unwrap_or(&counts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use crate::tracker::{Limits, Table};
    use std::sync::Arc;

    fn ids_and_responder() -> (ConnectionIds, Responder) {
        let mut ids = ConnectionIds::new([1, 2]);
        ids.advance(1_200_000, || 1_700_000_000_000);
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1000,
            max_torrents: 1000,
        };
        let table = Arc::new(Table::new(limits, 1));
        (ids, Responder::new(table, 1800, 200, Random::seeded(1)))
    }

    fn datagram(connection: u64, action: u8, length: usize) -> Vec<u8> {
        let mut datagram = connection.to_be_bytes().to_vec();
        datagram.resize(length, 0);
        datagram[11] = action;
        datagram
    }

    /// Replies to connects, to a scrape with a connection id, and to one with a wrong one.
    #[test]
    fn a_socket_that_is_behind_for_some_milliseconds_answers_known_clients_and_few_strangers() {
        const IDLE: usize = BATCH * BATCHES_PER_TURN;
        let (ids, mut responder) = ids_and_responder();
        let address = "127.0.0.1:0".parse().expect("an address");
        let socket = crate::sys::sockets::udp(address, false).expect("a socket");
        let client = std::net::UdpSocket::bind(address).expect("a port");
        client
            .connect(socket.local_addr().expect("bound"))
            .expect("a route");
        client.set_nonblocking(true).expect("an option");
        let id = ids.make([127, 0, 0, 1].into());
        let mut requests = vec![datagram(0x0417_2710_1980, 0, 16); STRANGERS + 1];
        requests.push(datagram(id, 2, 36));
        requests.push(datagram(id ^ 4, 2, 36));
        let all = [STRANGERS + 1, 1, 1];
        let (mut batch, mut backlog) = (Batch::default(), None);
        // The time, the datagrams that follow and leave the socket behind or do not, and how many of each kind are
        // answered.
        for (now, behind, expected) in [
            (0, 0, all),
            (1, IDLE, all),
            (1 + BEHIND_MS, IDLE, all),
            (2 + BEHIND_MS, 0, [STRANGERS, 1, 0]),
            (3 + BEHIND_MS, 0, all),
        ] {
            responder.monitor.now = now;
            let filler = std::iter::repeat_n(&b"x"[..], behind);
            for datagram in requests.iter().map(|request| &request[..]).chain(filler) {
                client.send(datagram).expect("is sent");
            }
            let has_more = serve(&socket, &mut backlog, &mut batch, &ids, &mut responder);
            assert_eq!(has_more.ok(), Some(behind > 0), "at {now}");
            let mut answered = [0; 3];
            let mut reply = [0; 64];
            while let Ok(length) = client.recv(&mut reply) {
                let kind = [16, 20, 22].iter().position(|it| *it == length);
                answered[kind.expect("a length")] += 1;
            }
            assert_eq!(answered, expected, "at {now}");
        }
        assert_eq!(responder.counters.udp_shed, 2);
    }

    #[test]
    fn replies_without_a_valid_connection_id_are_no_longer_than_requests() {
        let (ids, mut responder) = ids_and_responder();
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
            let source = [192, 0, 2, 1].into();
            let mut length = 0;
            let mut exchange = Exchange {
                request: &datagram,
                source,
                reply: &mut reply,
                reply_length: &mut length,
            };
            let mut strangers = random.below(2);
            let is_shed = strangers == 0;
            let todo = answer(
                &mut exchange,
                &ids,
                &mut strangers,
                &mut responder,
                &mut None,
            );
            assert!(matches!(todo, Todo::Nothing));
            assert!(length <= if is_shed { 0 } else { datagram.len() });
        }
        assert_eq!(responder.table.survey(0).totals.torrents, 0);
        let counters = &responder.counters;
        for seen in [
            counters.udp_connects,
            counters.udp_strangers,
            counters.udp_invalid,
            counters.udp_shed,
        ] {
            assert!(seen > 1000, "{counters:?}");
        }
    }
}
