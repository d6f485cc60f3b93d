//! How many octets an announce with thirty peers costs on the wire: UDP against HTTP.
//!
//! Both are counted as the network layer carries them, headers of IP included, those of Ethernet
//! not. For UDP that is the datagrams' lengths as received and 28 octets of headers each; a
//! client announces far less often than a connection id lives, so the connect is part of it. For
//! HTTP it is request and reply, and the headers of all segments of a real connection, which the
//! kernel counts (TCP_INFO), after both ends have closed: 40 octets each and 12 of timestamps
//! where these are in use, but those with SYN have 20 of options.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::contest::Tally;
use crate::http_load::{self, Connections, Request};
use crate::options::Options;
use crate::population::{Family, Fill, Peer, Population, SOURCES};
use crate::report::{Figure, Goal, Report};
use crate::server::{self, Server};
use crate::sys::{self, Segments};
use crate::udp_load::{self, Event};

/// Peers wanted. The swarm has more of them, so that all can be given.
const WANTED: u32 = 30;

const UDP_HEADERS: u64 = 20 + 8;

pub fn bytes(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = "octets on the wire of an announce with 30 IPv4 peers, UDP to HTTP";
    report.begin(what);
    let population = Population::even(SOURCES, 100, Family::V4);
    let mut servers = server::each_build(&options.builds, Family::V4, &[]);
    servers.push((
        "opentracker",
        Server::opentracker(Family::V4, &[&population]),
    ));
    for (name, server) in servers {
        match server.and_then(|server| compare(&server, &population)) {
            Ok((udp, http)) => {
                let value = udp.octets as f64 / http.octets as f64;
                let figure = Figure {
                    value,
                    text: format!("{value:.2}"),
                };
                let remark = format!(
                    "UDP {} octets in {} packets, connect included; HTTP {} in {}, of which {} are \
                     headers of IP and TCP",
                    udp.octets, udp.packets, http.octets, http.packets, http.headers
                );
                report.row(what, name, &figure, Goal::None, &remark);
            }
            Err(error) => report.skip(what, name, error),
        }
    }
    Ok(())
}

struct Wire {
    packets: u64,
    octets: u64,
    headers: u64,
}

fn compare(server: &Server, population: &Population) -> io::Result<(Wire, Wire)> {
    udp_load::fill(server, population, &mut Fill::all(population))?;
    Ok((
        udp(server.address, population)?,
        http(server.address, population)?,
    ))
}

/// The peer that asks, already in its swarm; a leecher, which may be sent every other.
fn asker(population: &Population) -> Peer {
    let peers = (0..100).map(|index| Peer { torrent: 0, index });
    peers
        .into_iter()
        .find(|&peer| !population.is_seeder(peer))
        .expect("half are leechers")
}

fn udp(server: SocketAddr, population: &Population) -> io::Result<Wire> {
    let peer = asker(population);
    let source = population
        .family
        .source((peer.torrent + peer.index) % SOURCES);
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut octets = 0;
    let mut exchange = |request: &[u8]| -> io::Result<Vec<u8>> {
        socket.send(request)?;
        let mut reply = vec![0; 1500];
        let length = socket.recv(&mut reply)?;
        reply.truncate(length);
        octets += (request.len() + length) as u64;
        Ok(reply)
    };
    let connected = exchange(&udp_load::connect_request(1))?;
    let id = connected.get(8..16).ok_or(ErrorKind::InvalidData)?;
    let reply = exchange(&udp_load::announce_request(
        id,
        peer,
        population,
        WANTED,
        Event::None,
    ))?;
    if reply.len() != 20 + 6 * WANTED as usize {
        let length = reply.len();
        return Err(io::Error::other(format!(
            "{length} octets in reply, not {WANTED} peers"
        )));
    }
    let packets = 4;
    let headers = packets * UDP_HEADERS;
    Ok(Wire {
        packets,
        octets: octets + headers,
        headers,
    })
}

fn http(server: SocketAddr, population: &Population) -> io::Result<Wire> {
    let peer = asker(population);
    let source = population
        .family
        .source((peer.torrent + peer.index) % SOURCES);
    let mut stream = sys::connect_from(source, server)?;
    let mut request = Request::new(server, Connections::New, WANTED);
    let request = request.of(peer, population);
    stream.write_all(request)?;
    let mut tally = Tally::default();
    let mut buffer = [0; 4096];
    until(|| http_load::receive(&stream, &mut buffer, &mut tally))?;
    if tally.errors > 0 {
        return Err(io::Error::other(tally.first_error.unwrap_or_default()));
    }
    // Its end of the connection, then ours, and the last acknowledgement.
    until(|| match sys::receive_now(&stream, &mut buffer)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than one reply")),
    })?;
    stream.shutdown(Shutdown::Write)?;
    thread::sleep(Duration::from_millis(50));
    let (packets, headers) = headers(&sys::segments(&stream)?);
    Ok(Wire {
        packets,
        octets: headers + request.len() as u64 + tally.octets,
        headers,
    })
}

/// Repeats what has nothing to receive yet.
fn until(mut receive: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match receive() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {}
            done => return done,
        }
    }
}

/// Packets of a connection, and the octets of their headers.
fn headers(segments: &Segments) -> (u64, u64) {
    let packets = u64::from(segments.sent + segments.received);
    let options = if segments.timestamps { 12 } else { 0 };
    (packets, packets * 40 + 2 * 20 + (packets - 2) * options)
}
