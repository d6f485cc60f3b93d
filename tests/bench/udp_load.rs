//! Announces over UDP, more of them than a server can answer.
//!
//! The generator has one core, as the server has, and must need less of it a request. So requests are built once and
//! only hash, port, seeding and transaction are patched; a window of datagrams goes out in one `send` that the kernel
//! cuts; only action and transaction of a reply are read; sockets are polled in turn and never waited on, so
//! that the server does not pay for waking the generator, which no real client costs it.
//!
//! Each source is a connected socket with a window of requests in flight. The next window is sent when all of them
//! have their reply. Requests whose replies are late are sent again, so a fill ends when every peer has been
//! acknowledged.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::common::udp::{Client, connect_request};
use super::contest::{Load, Tally};
use super::options::Bench;
use super::population::{Fill, Order, Peer, Population, info_hash};
use super::report::grouped;
use super::server::Server;
use super::sys::{self, Batch};

const ANNOUNCE_BYTES: usize = 98;

/// Requests in flight from one source. A server that leaves its receive buffer at the default of 212,992 bytes has
/// room for 255 announces, each counted as 832: all sources together stay below that.
const WINDOW: usize = 6;

/// Sources that announce at a time, for each thread of the server. Where there are more, they take turns.
const ACTIVE: usize = 32;

/// Requests without a reply for so long are sent again. Long, since a server that was kept from running has all
/// requests in its buffer still, and would have no room for them a second time.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// The pause after few sockets had replies. A server takes ten times as long to answer the requests in flight.
const PAUSE: Duration = Duration::from_micros(20);

/// Connection ids are valid for two minutes at least.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// A fill that takes longer, with a million records or ten, is given up.
const FILLED_WITHIN: Duration = Duration::from_secs(600);

/// Bytes of a reply that are received: the head, and enough to quote an error.
const REPLY_BYTES: usize = 64;

/// BEP 15's number of the event `started`.
const STARTED: u8 = 2;

/// Announces every peer of a population to a server as started, with a numwant of 0. Each is acknowledged when this
/// returns their number.
pub fn fill(bench: &Bench, server: &Server, population: &Population) -> io::Result<u64> {
    let mut load = UdpLoad::new(server.address, population, Fill::new(population), 1)?;
    load.set(|request| (request[83], request[95]) = (STARTED, 0));
    let begin = Instant::now();
    while !load.drive(begin + FILLED_WITHIN)? {
        if begin.elapsed() > FILLED_WITHIN {
            let replies = grouped(load.tally.replies);
            let error = format!("only {replies} replies after {FILLED_WITHIN:?}");
            return Err(io::Error::other(error));
        }
    }
    let (peers, seconds) = (grouped(load.drawn), begin.elapsed().as_secs_f64());
    bench.detail(
        &server.name,
        format_args!("filled: {peers} peers in {seconds:.1} s"),
    );
    Ok(load.drawn)
}

/// One source and its window.
struct Link {
    source: u32,
    client: Client,
    requests: [[u8; ANNOUNCE_BYTES]; WINDOW],
    /// A bit for each place whose reply is expected.
    in_flight: u8,
    window: u32,
    sent_at: Instant,
    is_exhausted: bool,
}

pub struct UdpLoad<'a, O> {
    population: &'a Population,
    order: O,
    links: Vec<Link>,
    /// The numbers of the links that announce now.
    active: Vec<usize>,
    replies: Batch,
    connected_at: Option<Instant>,
    /// Peers taken from the order.
    drawn: u64,
    tally: Tally,
}

impl<'a, O: Order> UdpLoad<'a, O> {
    /// A load with as many sockets for each thread of the server as for one that has a single thread.
    pub fn new(
        server: SocketAddr,
        population: &'a Population,
        order: O,
        threads: u32,
    ) -> io::Result<UdpLoad<'a, O>> {
        let sources = (0..threads).flat_map(|_| 0..population.family.sources());
        let links = sources.map(|source| Link::new(source, server, population));
        Ok(UdpLoad {
            population,
            order,
            links: links.collect::<io::Result<_>>()?,
            active: (0..ACTIVE * threads as usize).collect(),
            replies: Batch::new(WINDOW, REPLY_BYTES),
            connected_at: None,
            drawn: 0,
            tally: Tally::default(),
        })
    }

    /// Changes all requests that follow.
    fn set(&mut self, change: impl Fn(&mut [u8; ANNOUNCE_BYTES])) {
        let links = self.links.iter_mut();
        links.flat_map(|link| &mut link.requests).for_each(change);
    }

    /// Gives every source a connection id.
    fn connect(&mut self) -> io::Result<()> {
        self.settle()?;
        for link in &mut self.links {
            let mut reply = link.client.exchange(&connect_request());
            // Late replies to announces may come first.
            while reply[..4] != [0; 4] {
                reply = link.client.receive();
            }
            for request in &mut link.requests {
                request[..8].copy_from_slice(&reply[8..16]);
            }
        }
        self.connected_at = Some(Instant::now());
        Ok(())
    }

    /// Sends requests until `deadline`, or until there are no more and all have their reply: then true.
    pub fn drive(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            if self.connected_at.is_none_or(|at| now - at > RENEW_AFTER) {
                self.connect()?;
            }
            let mut replies = 0;
            for place in 0..self.active.len() {
                let mut index = self.active[place];
                replies += self.receive(index)?;
                if self.links[index].in_flight == 0 {
                    index = (index + self.active.len()) % self.links.len();
                    self.active[place] = index;
                }
                self.send(index, now)?;
            }
            let is_busy = |link: &Link| link.in_flight != 0 || !link.is_exhausted;
            if !self.links.iter().any(is_busy) {
                return Ok(true);
            }
            if replies < self.active.len() {
                self.tally.wait(PAUSE);
            }
        }
    }

    fn receive(&mut self, index: usize) -> io::Result<usize> {
        let link = &mut self.links[index];
        let socket = link.client.socket();
        let received = self.replies.receive(socket, libc::MSG_DONTWAIT)?;
        for slot in 0..received {
            let length = self.replies.length(slot);
            let reply = self.replies.slot(slot);
            if word(reply, 0) != 1 {
                let text = String::from_utf8_lossy(&reply[8..length.clamp(8, REPLY_BYTES)]);
                return Err(io::Error::other(format!("an announce is refused: {text}")));
            }
            let place = word(reply, 4) % 8;
            // Replies to requests that were sent twice may be late.
            if word(reply, 4) == link.transaction(place as usize) {
                link.in_flight &= !(1 << place);
            }
            self.tally.replies += 1;
            self.tally.bytes += length as u64;
        }
        Ok(received)
    }

    fn send(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let link = &mut self.links[index];
        if link.in_flight != 0 {
            if now.duration_since(link.sent_at) > LOST_AFTER {
                self.tally.lost += u64::from(link.in_flight.count_ones());
                link.sent_at = now;
                let places = (0..WINDOW).filter(|place| link.in_flight & 1 << place != 0);
                for place in places {
                    link.client.send(&link.requests[place]);
                }
            }
            return Ok(());
        }
        // Few at a time would cost a system call each.
        let mut count = 0;
        link.window = link.window.wrapping_add(1);
        while count < WINDOW {
            let Some(peer) = self.order.next(link.source) else {
                link.is_exhausted = true;
                break;
            };
            link.patch(count, peer, self.population);
            count += 1;
        }
        self.drawn += count as u64;
        link.in_flight = (1 << count) - 1;
        link.sent_at = now;
        if count > 0 {
            link.client.send(link.requests[..count].as_flattened());
        }
        Ok(())
    }
}

impl<O: Order> Load for UdpLoad<'_, O> {
    fn run(&mut self, deadline: Instant) -> io::Result<()> {
        self.drive(deadline).map(drop)
    }

    fn settle(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + 2 * LOST_AFTER;
        while self.links.iter().any(|link| link.in_flight != 0) && Instant::now() < deadline {
            for index in 0..self.links.len() {
                while self.receive(index)? > 0 {}
            }
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

impl Link {
    fn new(source: u32, server: SocketAddr, population: &Population) -> io::Result<Link> {
        let client = Client::from(&population.family.source(source).to_string(), server);
        sys::set_datagram_bytes(client.socket(), ANNOUNCE_BYTES as u16)?;
        let mut request = [0; ANNOUNCE_BYTES];
        request[11] = 1;
        request[36..56].copy_from_slice(b"-BN0100-abcdefghijkl");
        request[95] = super::NUMWANT as u8;
        Ok(Link {
            source,
            client,
            requests: [request; WINDOW],
            in_flight: 0,
            window: 0,
            sent_at: Instant::now(),
            is_exhausted: false,
        })
    }

    /// The number of the request at a place in the window.
    fn transaction(&self, place: usize) -> u32 {
        self.window << 3 | place as u32
    }

    /// Makes the request at a place in the window that of a peer.
    fn patch(&mut self, place: usize, peer: Peer, population: &Population) {
        let transaction = self.transaction(place);
        let request = &mut self.requests[place];
        request[12..16].copy_from_slice(&transaction.to_be_bytes());
        request[16..36].copy_from_slice(&info_hash(peer.torrent));
        request[71] = u8::from(!population.is_seeder(peer));
        request[84..88].copy_from_slice(&population.address(peer));
        request[96..98].copy_from_slice(&population.port(peer).to_be_bytes());
    }
}

/// The torrents that one scrape can ask about.
pub const ASKED: usize = 74;

/// How many of [`ASKED`] torrents, taken evenly from a population, have peers.
pub fn known(server: &Server, population: &Population) -> usize {
    let torrents = (0..ASKED).map(|index| index * population.torrents as usize / ASKED);
    let hashes: Vec<_> = torrents.map(|torrent| info_hash(torrent as u32)).collect();
    let counts = Client::new(server.address).scrape(&hashes);
    let is_known = |[seeders, _, leechers]: &&[u32; 3]| seeders + leechers > 0;
    counts.iter().filter(is_known).count()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
