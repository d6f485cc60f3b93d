//! Announces over UDP, more of them than a server can answer.
//!
//! The generator has one core, as the server has, and must need less of it a request. So: requests
//! are built once and only hash, port, seeding and transaction are patched; many datagrams go out
//! in one `send` that the kernel cuts (or in one `sendmmsg` where it cannot); replies are looked
//! at no further than their transaction; sockets are polled in turn and never waited on, which
//! also spares the server the cost of waking the generator, that no real client causes it.
//!
//! Each source address is a connected socket with a window of requests in flight. The transaction
//! number counts up, and servers answer one socket in order, so a reply also tells that older
//! requests without one are lost. These are sent again, and a fill ends when each has its reply.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::contest::Tally;
use crate::population::{Peer, Population, Requests, SOURCES};
use crate::report::grouped;
use crate::server::Server;
use crate::sys::{self, Batch, Wait};

pub const ANNOUNCE_SIZE: usize = 98;
const CONNECT_SIZE: usize = 16;

/// Requests in flight from one source. A server that leaves its receive buffer at the default of
/// 212,992 octets has room for 255 announces, each counted as 832: all sources together stay below
/// that.
const WINDOW: u32 = 6;

/// A window whose replies are this late is lost. Long, since a server that was kept from running
/// has all requests in its buffer still, and would have no room for them a second time.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// How long to leave the sockets alone when few of them had replies. A server takes ten times as
/// long to answer what is in flight.
const PAUSE: Duration = Duration::from_micros(20);

/// Connection ids are good for two minutes at least.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// A table that takes longer to fill, by a million records or ten, is not worth waiting for.
const FILLED_WITHIN: Duration = Duration::from_secs(600);

/// Octets of a reply that are looked at: the head, and enough to quote an error.
const REPLY_SIZE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    None = 0,
    Started = 2,
    Stopped = 3,
}

pub fn connect_request(transaction: u32) -> [u8; CONNECT_SIZE] {
    let mut request = [0; CONNECT_SIZE];
    request[..8].copy_from_slice(&0x417_2710_1980u64.to_be_bytes());
    request[12..].copy_from_slice(&transaction.to_be_bytes());
    request
}

/// An announce without transaction, hash, port and connection id.
fn announce_template(numwant: u32, event: Event) -> [u8; ANNOUNCE_SIZE] {
    let mut request = [0; ANNOUNCE_SIZE];
    request[8..12].copy_from_slice(&1u32.to_be_bytes());
    request[36..56].copy_from_slice(b"-BN0100-abcdefghijkl");
    request[80..84].copy_from_slice(&(event as u32).to_be_bytes());
    request[92..96].copy_from_slice(&numwant.to_be_bytes());
    request
}

/// Makes an announce that of a peer.
fn patch(request: &mut [u8], transaction: u32, peer: Peer, population: &Population) {
    request[12..16].copy_from_slice(&transaction.to_be_bytes());
    request[16..36].copy_from_slice(&population.info_hash(peer.torrent));
    request[71] = u8::from(!population.is_seeder(peer));
    request[96..98].copy_from_slice(&population.port(peer).to_be_bytes());
}

/// A single announce under a connection id.
pub fn announce_request(
    id: &[u8],
    peer: Peer,
    population: &Population,
    numwant: u32,
    event: Event,
) -> [u8; ANNOUNCE_SIZE] {
    let mut request = announce_template(numwant, event);
    request[..8].copy_from_slice(id);
    patch(&mut request, 1, peer, population);
    request
}

/// What a fill came to.
pub struct Filled {
    pub peers: u64,
    pub seconds: f64,
    /// Processor time of the server for an announce, in seconds.
    pub cost: f64,
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (peers, micros) = (grouped(self.peers), self.cost * 1e6);
        write!(
            f,
            "{peers} peers in {:.1} s, {micros:.3} µs CPU each",
            self.seconds
        )
    }
}

/// Announces every peer of `requests` to a server as started, wanting no peers; each is
/// acknowledged when this returns.
pub fn fill(
    server: &Server,
    population: &Population,
    requests: &mut dyn Requests,
) -> io::Result<Filled> {
    let mut load = UdpLoad::new(server.address, population)?;
    load.ask(0, Event::Started);
    let (begin, cost) = (Instant::now(), server.processor_time()?);
    load.fill(requests)?;
    if load.tally.errors > 0 {
        let first = load.tally.first_error.unwrap_or_default();
        return Err(io::Error::other(format!(
            "{} refuses announces: {first:?}",
            server.name
        )));
    }
    Ok(Filled {
        peers: load.drawn,
        seconds: begin.elapsed().as_secs_f64(),
        // Some are asked and answered twice.
        cost: (server.processor_time()? - cost).as_secs_f64() / load.tally.replies.max(1) as f64,
    })
}

/// One source address and its window.
struct Link {
    source: u32,
    socket: UdpSocket,
    requests: Batch,
    /// Who asked in each place of the window, to ask again when it is lost.
    asked: [Peer; WINDOW as usize],
    again: VecDeque<Peer>,
    /// Transactions: the next to send, and the oldest without a reply.
    next: u32,
    oldest: u32,
    heard: Instant,
    exhausted: bool,
}

pub struct UdpLoad<'a> {
    population: &'a Population,
    links: Vec<Link>,
    replies: Batch,
    /// Whether the kernel cuts what is sent into datagrams.
    cuts: bool,
    /// Peers taken from the requests.
    drawn: u64,
    pub tally: Tally,
}

impl<'a> UdpLoad<'a> {
    pub fn new(server: SocketAddr, population: &'a Population) -> io::Result<UdpLoad<'a>> {
        UdpLoad::for_threads(server, population, 1)
    }

    /// As many sockets a thread of the server as for one that has a single thread.
    pub fn for_threads(
        server: SocketAddr,
        population: &'a Population,
        threads: u32,
    ) -> io::Result<UdpLoad<'a>> {
        let mut cuts = true;
        let mut links = Vec::new();
        for source in (0..threads).flat_map(|_| 0..SOURCES) {
            let socket = UdpSocket::bind(SocketAddr::new(population.family.source(source), 0))?;
            socket.connect(server)?;
            cuts &= sys::set_datagram_size(&socket, ANNOUNCE_SIZE).is_ok();
            links.push(Link::new(source, socket));
        }
        Ok(UdpLoad {
            population,
            links,
            replies: Batch::new(WINDOW as usize, REPLY_SIZE),
            cuts,
            drawn: 0,
            tally: Tally::default(),
        })
    }

    /// Prepares the requests that follow: how many peers they want, and which event they are.
    pub fn ask(&mut self, numwant: u32, event: Event) {
        let template = announce_template(numwant, event);
        for link in &mut self.links {
            for index in 0..WINDOW as usize {
                link.requests.slot(index).copy_from_slice(&template);
            }
        }
    }

    /// Gets every source a connection id.
    pub fn connect(&mut self) -> io::Result<()> {
        for link in &mut self.links {
            link.connect()?;
        }
        Ok(())
    }

    /// Sends all requests there are and returns when each has a reply.
    fn fill(&mut self, requests: &mut dyn Requests) -> io::Result<()> {
        let begin = Instant::now();
        for link in &mut self.links {
            link.exhausted = false;
        }
        loop {
            self.connect()?;
            if self.drive(requests, Instant::now() + RENEW_AFTER)? {
                return Ok(());
            }
            self.settle()?;
            if begin.elapsed() > FILLED_WITHIN {
                let replies = grouped(self.tally.replies);
                return Err(io::Error::other(format!(
                    "after {FILLED_WITHIN:?} only {replies} replies"
                )));
            }
        }
    }

    /// Sends requests until `deadline`, or until there are no more and all have their reply:
    /// then true.
    pub fn drive(&mut self, requests: &mut dyn Requests, deadline: Instant) -> io::Result<bool> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            let (mut replies, mut busy) = (0, false);
            for index in 0..self.links.len() {
                replies += self.receive(index, now)?;
                self.send(index, requests)?;
                let link = &self.links[index];
                busy |= link.in_flight() > 0 || !link.exhausted;
            }
            if !busy {
                return Ok(true);
            }
            if replies < self.links.len() {
                self.tally.wait(PAUSE);
            }
        }
    }

    /// Waits for what is in flight, so that the next turn begins with empty windows.
    pub fn settle(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + 2 * LOST_AFTER;
        while self.links.iter().any(|link| link.in_flight() > 0) && Instant::now() < deadline {
            for index in 0..self.links.len() {
                self.receive(index, Instant::now())?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, now: Instant) -> io::Result<usize> {
        let link = &mut self.links[index];
        let received = match self.replies.receive(&link.socket, Wait::No) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return Err(io::Error::other("the server is gone"));
            }
            received => received?,
        };
        for slot in 0..received {
            let length = self.replies.length(slot);
            let reply = self.replies.slot(slot);
            let transaction = word(reply, 4);
            if word(reply, 0) != 1 {
                self.tally.errors += 1;
                let text = &reply[8..length.clamp(8, REPLY_SIZE)];
                self.tally
                    .first_error
                    .get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
            }
            self.tally.replies += 1;
            self.tally.octets += length as u64;
            self.tally.lost += link.answered(transaction);
        }
        if received > 0 {
            link.heard = now;
        } else if link.in_flight() > 0 && now.duration_since(link.heard) > LOST_AFTER {
            self.tally.lost += link.answered(link.next.wrapping_sub(1)) + 1;
            // The newest is lost as well.
            let newest = link.asked[(link.next.wrapping_sub(1) % WINDOW) as usize];
            link.again.push_back(newest);
            link.heard = now;
        }
        Ok(received)
    }

    fn send(&mut self, index: usize, requests: &mut dyn Requests) -> io::Result<()> {
        let link = &mut self.links[index];
        // Few at a time would cost a system call each.
        if link.in_flight() > 0 {
            return Ok(());
        }
        let mut count = 0;
        while link.in_flight() < WINDOW {
            let peer = match link.again.pop_front() {
                Some(peer) => peer,
                None => match requests.next(link.source) {
                    Some(peer) => {
                        self.drawn += 1;
                        peer
                    }
                    None => {
                        link.exhausted = true;
                        break;
                    }
                },
            };
            link.patch(count, peer, self.population);
            count += 1;
        }
        match link.transmit(count, self.cuts) {
            // What is not sent is as good as lost on the way.
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error),
            _ => Ok(()),
        }
    }
}

impl Link {
    fn new(source: u32, socket: UdpSocket) -> Link {
        Link {
            source,
            socket,
            requests: Batch::new(WINDOW as usize, ANNOUNCE_SIZE),
            asked: [Peer {
                torrent: 0,
                index: 0,
            }; WINDOW as usize],
            again: VecDeque::new(),
            next: 0,
            oldest: 0,
            heard: Instant::now(),
            exhausted: false,
        }
    }

    fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.oldest)
    }

    /// Takes note of a reply; returns how many older requests it shows to be lost.
    fn answered(&mut self, transaction: u32) -> u64 {
        let skipped = transaction.wrapping_sub(self.oldest);
        if skipped >= self.in_flight() {
            // A late reply to what was given up.
            return 0;
        }
        for lost in 0..skipped {
            let place = self.oldest.wrapping_add(lost) % WINDOW;
            self.again.push_back(self.asked[place as usize]);
        }
        self.oldest = transaction.wrapping_add(1);
        u64::from(skipped)
    }

    /// Makes the request in a slot that of a peer.
    fn patch(&mut self, slot: usize, peer: Peer, population: &Population) {
        self.asked[(self.next % WINDOW) as usize] = peer;
        patch(self.requests.slot(slot), self.next, peer, population);
        self.next = self.next.wrapping_add(1);
    }

    fn transmit(&mut self, count: usize, cut: bool) -> io::Result<()> {
        match count {
            0 => {}
            _ if cut => drop(self.socket.send(self.requests.slots(count))?),
            _ => drop(self.requests.send(&self.socket, count, ANNOUNCE_SIZE)?),
        }
        Ok(())
    }

    fn connect(&mut self) -> io::Result<()> {
        let id = connection_id(&self.socket)?;
        for index in 0..WINDOW as usize {
            self.requests.slot(index)[..8].copy_from_slice(&id);
        }
        Ok(())
    }
}

/// Asks for a connection id until there is one.
fn connection_id(socket: &UdpSocket) -> io::Result<[u8; 8]> {
    const TRIES: u32 = 50;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    for transaction in 0..TRIES {
        socket.send(&connect_request(transaction))?;
        let mut reply = [0; 64];
        // Replies to older requests may come first.
        while let Ok(length) = socket.recv(&mut reply) {
            if length >= 16 && word(&reply, 0) == 0 && word(&reply, 4) == transaction {
                return Ok(reply[8..16].try_into().expect("eight octets"));
            }
        }
    }
    Err(io::Error::new(
        ErrorKind::TimedOut,
        "no reply to a connect in five seconds",
    ))
}

/// Whether a tracker serves the population's torrents. The peer that asks leaves, and was never
/// there, so the table stays as it is.
pub fn serves(server: SocketAddr, population: &Population) -> io::Result<bool> {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0))?;
    socket.connect(server)?;
    let id = connection_id(&socket)?;
    let peer = Peer {
        torrent: population.torrents - 1,
        index: 0,
    };
    socket.send(&announce_request(&id, peer, population, 0, Event::Stopped))?;
    let mut reply = [0; 64];
    Ok(socket.recv(&mut reply)? >= 20 && word(&reply, 0) == 1)
}

/// As many torrents as one scrape can ask about.
pub const ASKED: u32 = 74;

/// How many of some torrents, taken evenly from all, have peers.
pub fn known(server: &Server, population: &Population) -> io::Result<usize> {
    let socket = UdpSocket::bind(SocketAddr::new(server.address.ip(), 0))?;
    socket.connect(server.address)?;
    let mut request = connection_id(&socket)?.to_vec();
    request.extend(2u32.to_be_bytes());
    request.extend(ASKED.to_be_bytes());
    for index in 0..u64::from(ASKED) {
        let torrent = index * u64::from(population.torrents) / u64::from(ASKED);
        request.extend(population.info_hash(torrent as u32));
    }
    socket.send(&request)?;
    let mut reply = [0; 8 + 12 * ASKED as usize];
    let length = socket.recv(&mut reply)?;
    if length < reply.len() || word(&reply, 0) != 2 {
        return Err(io::Error::other(format!(
            "{length} octets in reply to a scrape"
        )));
    }
    let counts = reply[8..].chunks_exact(12);
    Ok(counts
        .filter(|counts| word(counts, 0) + word(counts, 8) > 0)
        .count())
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(octets[at..at + 4].try_into().expect("four octets"))
}
