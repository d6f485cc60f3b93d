//! Datagrams of clients, through real sockets of the loopback: a batch of requests, and the replies to them.
//!
//! Each datagram of the input has a byte of flags before it (1: its connection id is made valid, 2: over IPv6) and its
//! length.

use super::Input;
use announced::base::random::Random;
use announced::protocol::udp as codec;
use announced::responder::Responder;
use announced::sys::mmsg::Batch;
use announced::tracker::{Limits, Table};
use announced::udp::{self, ConnectionIds};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

const CONNECT: &[u8; 16] = b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0asks";

/// Datagrams of a batch.
const MAX_DATAGRAMS: usize = 32;

/// A client and a server that are connected with each other.
struct Pair {
    client: UdpSocket,
    server: mio::net::UdpSocket,
    address: IpAddr,
    /// The client's, since a server's time stands still.
    connection: [u8; 8],
}

struct Host {
    pairs: [Pair; 2],
    ids: ConnectionIds,
    batch: Batch,
}

thread_local! {
    /// Sockets outlive an input, as they have no state that an input could leave.
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

impl Pair {
    fn new(address: IpAddr) -> Pair {
        let bind = || UdpSocket::bind((address, 0)).expect("a loopback address");
        let (client, server) = (bind(), bind());
        let target = server.local_addr().expect("it is bound");
        client.connect(target).expect("it is there");
        for socket in [&client, &server] {
            socket.set_nonblocking(true).expect("it can be");
        }
        Pair {
            client,
            server: mio::net::UdpSocket::from_std(server),
            address,
            connection: [0; 8],
        }
    }
}

fn responder() -> Responder {
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 1000,
        max_torrents: 1000,
    };
    Responder::new(
        Arc::new(Table::new(limits, 1)),
        1800,
        200,
        Random::seeded(1),
    )
}

impl Host {
    fn new() -> Host {
        let mut ids = ConnectionIds::new([1, 2]);
        ids.advance(0, || 1_700_000_000_000);
        let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let mut host = Host {
            pairs: addresses.map(Pair::new),
            ids,
            batch: Batch::default(),
        };
        for index in 0..2 {
            let replies = host.exchange(index, &mut responder(), &[CONNECT.to_vec()]);
            let [reply] = &replies[..] else {
                panic!("{replies:?}")
            };
            assert!(reply.len() == 16 && reply.starts_with(b"\0\0\0\0asks"));
            host.pairs[index].connection.copy_from_slice(&reply[8..]);
        }
        host
    }

    /// The replies to datagrams that arrive together.
    fn exchange(
        &mut self,
        pair: usize,
        responder: &mut Responder,
        datagrams: &[Vec<u8>],
    ) -> Vec<Vec<u8>> {
        let Pair { client, server, .. } = &self.pairs[pair];
        for datagram in datagrams {
            client.send(datagram).expect("the loopback takes it");
        }
        let (batch, ids, mut backlog) = (&mut self.batch, &self.ids, None);
        while udp::serve(server, &mut backlog, batch, ids, responder).unwrap_or(false) {}
        let mut room = [0; 2048];
        let received =
            std::iter::from_fn(|| client.recv(&mut room).ok().map(|n| room[..n].to_vec()));
        received.collect()
    }
}

pub fn run(data: &[u8]) {
    HOST.with_borrow_mut(|host| {
        let mut input = Input(data);
        let mut datagrams = [Vec::new(), Vec::new()];
        for _ in 0..MAX_DATAGRAMS {
            if input.is_empty() {
                break;
            }
            let flags = input.u8();
            let mut datagram = input.piece().to_vec();
            // A larger one is truncated.
            datagram.truncate(1536);
            let pair = usize::from(flags >> 1 & 1);
            if let Some(id) = datagram.first_chunk_mut().filter(|_| flags & 1 == 1) {
                *id = host.pairs[pair].connection;
            }
            datagrams[pair].push(datagram);
        }
        let mut responder = responder();
        for (pair, datagrams) in datagrams.iter().enumerate() {
            let replies = host.exchange(pair, &mut responder, datagrams);
            let Pair {
                address,
                connection,
                ..
            } = host.pairs[pair];
            let mut replies = replies.iter();
            for datagram in datagrams {
                check(datagram, address, connection, &mut replies);
            }
            assert_eq!(replies.next(), None, "nothing else is sent");
        }
        assert!(responder.table.survey(0).totals.torrents <= MAX_DATAGRAMS);
    });
}

/// Checks the reply to a datagram, which is the next.
fn check<'a>(
    datagram: &[u8],
    address: IpAddr,
    connection: [u8; 8],
    replies: &mut impl Iterator<Item = &'a Vec<u8>>,
) {
    let Some(request) = codec::parse(datagram, address) else {
        return;
    };
    let reply = replies.next().expect("a valid request has a reply");
    let (action, rest) = reply.split_first_chunk::<4>().expect("an action");
    let (transaction, rest) = rest.split_first_chunk::<4>().expect("a transaction id");
    assert_eq!(*transaction, request.transaction.to_be_bytes());
    let action = u32::from_be_bytes(*action);
    let is_known = request.connection == u64::from_be_bytes(connection);
    match request.action {
        codec::Action::Connect => assert_eq!((action, rest), (0, &connection[..])),
        _ if !is_known => {
            assert!(reply.len() <= datagram.len());
            assert_eq!((action, rest), (3, &b"Connect again."[..]));
        }
        codec::Action::Announce(announce, _) => {
            let size = announce.peer.endpoint().len();
            assert!(action == 1 && reply.len() <= 1232 && (reply.len() - 20) % size == 0);
            let peers: Vec<&[u8]> = reply[20..].chunks(size).collect();
            assert!(peers.len() <= announce.want.min(200));
            assert!(!peers.contains(&announce.peer.endpoint()));
            let different: BTreeSet<&[u8]> = peers.iter().copied().collect();
            assert_eq!(different.len(), peers.len());
            for peer in peers {
                assert!(peer[size - 2..] > [0, 1][..], "it can be connected to");
            }
        }
        codec::Action::Scrape(hashes) => {
            assert_eq!((action, rest.len()), (2, 12 * hashes.len()));
        }
    }
}
