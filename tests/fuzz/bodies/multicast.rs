//! opentracker's live sync: a packet that arrives, and the packets that tell the same.

use announced::base::nets::Net;
use announced::cluster::opentracker::LiveSync;
use announced::sys::sockets::Multicast;
use announced::tracker::{Limits, News, Peer, PeerState, Record, Role, Table};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

const OWN: [u8; 4] = *b"self";

thread_local! {
    /// A socket that sends packets to this node, the node's two, and one that receives what it sends.
    static SOCKETS: [UdpSocket; 4] = sockets();
}

fn sockets() -> [UdpSocket; 4] {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a loopback address");
    let [sender, input, output, receiver] = [bind(), bind(), bind(), bind()];
    for (from, to) in [(&sender, &input), (&output, &receiver)] {
        from.connect(to.local_addr().expect("it is bound"))
            .expect("it is there");
        to.set_nonblocking(true).expect("it can be");
    }
    [sender, input, output, receiver]
}

pub fn run(data: &[u8]) {
    let (is_mapping, packet) = match data.split_first() {
        Some((first, packet)) => (first & 1 == 1, packet),
        None => return,
    };
    // A larger one is truncated.
    let packet = &packet[..packet.len().min(1480)];
    SOCKETS.with(|sockets| {
        let [sender, input, output, receiver] = sockets;
        let own = |socket: &UdpSocket| {
            let socket = socket.try_clone().expect("a descriptor");
            mio::net::UdpSocket::from_std(socket)
        };
        let nodes = vec![Net::parse("127.0.0.0/8").expect("a network")];
        // No group, as nothing is joined before some seconds have passed.
        let multicast = Multicast {
            input: own(input),
            output: own(output),
            group: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            interface: Ipv4Addr::LOCALHOST,
        };
        let mut live = LiveSync::new(multicast, OWN, nodes, is_mapping);
        let table = Table::new(limits(), 1);
        table.join_cluster([1, 2], 1000, 36, 0);
        sender.send(packet).expect("the loopback takes it");
        while live.receive(0, &table, &|hash| hash[0] == 0xff) {}
        let expected = decoded(packet).unwrap_or_default();
        assert_eq!(live.counters.records_in, expected.len() as u64);
        check_table(&table, &expected);
        live.send_news(&expected, 0);
        live.wind_up(0);
        let mut room = [0; 2048];
        let mut sent = Vec::new();
        while let Ok(length) = receiver.recv(&mut room) {
            assert!(length <= 1480 && room.starts_with(&OWN));
            // As another node.
            room[0] ^= 1;
            sent.extend(decoded(&room[..length]).expect("is a packet"));
        }
        let by_family = |news: &[News]| {
            let (v4, v6): (Vec<News>, Vec<News>) = news
                .iter()
                .partition(|it| matches!(it.record.peer, Peer::V4(_)));
            (v4, v6)
        };
        assert_eq!(by_family(&sent), by_family(&expected));
        assert_eq!(live.counters.records_out, expected.len() as u64);
    });
}

fn limits() -> Limits {
    Limits {
        peer_timeout: 2700,
        max_peers: 1000,
        max_torrents: 1000,
    }
}

/// The records of a packet, as they are specified. None if it is to be ignored.
fn decoded(packet: &[u8]) -> Option<Vec<News>> {
    let (id, rest) = packet.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let size = match u32::from_be_bytes(*kind) {
        0 => 28,
        1 => 40,
        _ => return None,
    };
    let records = rest.chunks_exact(size).map(|record| {
        let flags = record[size - 2];
        let state = match flags {
            _ if flags & 0x20 != 0 => PeerState::Stopped,
            _ if flags & 0x80 != 0 => PeerState::Present(Role::Seeder),
            _ => PeerState::Present(Role::Leecher),
        };
        let is_seeder = state == PeerState::Present(Role::Seeder);
        News {
            info_hash: *record.first_chunk().expect("is longer"),
            record: Record {
                peer: Peer::from_endpoint(&record[20..size - 2]).expect("an endpoint"),
                state,
                completed: is_seeder && flags & 0x40 != 0,
                unit: 0,
            },
            renews: None,
        }
    });
    (*id != OWN && !rest.is_empty()).then(|| records.collect())
}

/// Contradictions of a peer within a unit for which there are versions: it may be ahead of the clock by two units.
const MAX_CHANGES: usize = 3;

/// The last record of a peer counts; of a torrent that is refused none does.
fn check_table(table: &Table, told: &[News]) {
    let mut last = BTreeMap::new();
    for news in told {
        let key = (news.info_hash, news.record.peer.endpoint());
        let (state, changes) = last.entry(key).or_insert((news.record.state, 0));
        *changes += usize::from(std::mem::replace(state, news.record.state) != news.record.state);
    }
    for news in told {
        let hash = news.info_hash;
        let swarm = last.iter().filter(|((other, _), _)| *other == hash);
        let states: Vec<(PeerState, usize)> = swarm.map(|(_, last)| *last).collect();
        if states.iter().any(|(_, changes)| *changes > MAX_CHANGES) {
            continue;
        }
        let count = |role| {
            let of_role = |state: PeerState| state == PeerState::Present(role) && hash[0] != 0xff;
            let peers = states.iter().filter(|(state, _)| of_role(*state));
            u32::try_from(peers.count()).expect("few")
        };
        let counts = table.lock_for(&hash, 0).scrape(&hash).unwrap_or_default();
        let expected = (count(Role::Seeder), count(Role::Leecher));
        assert_eq!((counts.seeders, counts.leechers), expected);
    }
}
