//! Full scrapes: the processor time and bytes that one takes, beside opentracker, and how long others wait meanwhile.
//!
//! opentracker aborted on full scrapes of 300,000 torrents, and truncated those of 100,000. So the comparison is of
//! many of 20,000.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::contest::{self, Contestant, Load, Measure, Tally};
use super::latency;
use super::options::Bench;
use super::population::Population;
use super::report::{Goal, grouped};
use super::server::Server;
use super::udp_load::fill;

/// Without the limit of one in five minutes.
const ARGUMENTS: [&str; 2] = ["--full-scrape", "open"];

/// Names of encodings, and whether each is gzip.
const ENCODINGS: [(&str, bool); 2] = [("plain", false), ("gzip", true)];

/// Full scrapes one after the other.
struct Scrapes {
    server: SocketAddr,
    is_gzip: bool,
    tally: Tally,
}

impl Scrapes {
    fn new(server: &Server, is_gzip: bool) -> Scrapes {
        Scrapes {
            server: server.address,
            is_gzip,
            tally: Tally::default(),
        }
    }
}

impl Load for Scrapes {
    fn run(&mut self, deadline: Instant) -> io::Result<()> {
        while Instant::now() < deadline {
            self.tally.bytes += scrape(self.server, self.is_gzip)?;
            self.tally.replies += 1;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

/// Receives a full scrape; the bytes of its body.
fn scrape(server: SocketAddr, is_gzip: bool) -> io::Result<u64> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let accept = if is_gzip {
        "Accept-Encoding: gzip\r\n"
    } else {
        ""
    };
    // A body without chunks, which ends with the connection.
    write!(stream, "GET /scrape HTTP/1.0\r\nHost: x\r\n{accept}\r\n")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut length = stream.read(&mut buffer)?;
    let start = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
    let (head, _) = start.split_once("\r\n\r\n").unwrap_or((&start, ""));
    if !head.contains(" 200 ") || head.contains("content-encoding: gzip") != is_gzip {
        return Err(io::Error::other(head.to_string()));
    }
    let mut bytes = (length - head.len() - 4) as u64;
    while length > 0 {
        length = stream.read(&mut buffer)?;
        bytes += length as u64;
    }
    Ok(bytes)
}

/// Processor time and size, against opentracker.
pub fn compare(bench: &Bench) -> io::Result<()> {
    let population = bench.power_law(20_000, 10);
    let of = format!(
        "of a full scrape of {} torrents",
        grouped(population.torrents)
    );
    bench.begin(&of);
    let Some(reference) = Server::opentracker(bench, &of, &population) else {
        return Ok(());
    };
    let mut servers = vec![reference];
    servers.extend(Server::builds(bench, &ARGUMENTS));
    for server in &servers {
        fill(bench, server, &population)?;
    }
    for (encoding, is_gzip) in ENCODINGS {
        let goal = Goal::AtMost(if is_gzip { 0.5 } else { 0.25 });
        let contestants = servers
            .iter()
            .enumerate()
            .map(|(index, server)| Contestant {
                server,
                load: Box::new(Scrapes::new(server, is_gzip)),
                goal: if index == 0 { Goal::None } else { goal },
                cores: 1,
            });
        let subject = format!("CPU {of}, {encoding}, of opentracker's");
        contest::run(bench, &subject, Measure::Cost, contestants.collect())?;
    }
    Ok(())
}

/// A UDP connect every millisecond during one full scrape after the other.
pub fn latency(bench: &Bench) -> io::Result<()> {
    let population = Population::even(bench.torrents.unwrap_or(1_000_000), 1, bench.family);
    for (encoding, is_gzip) in ENCODINGS {
        let torrents = grouped(population.torrents);
        let during = format!("while {torrents} torrents are scraped, {encoding}");
        latency::stalls(
            bench,
            &during,
            &ARGUMENTS,
            &population,
            latency::GOAL,
            |server| {
                let time = Duration::from_secs_f64(5.0 * bench.seconds);
                Scrapes::new(server, is_gzip).run(Instant::now() + time)
            },
        )?;
    }
    Ok(())
}
