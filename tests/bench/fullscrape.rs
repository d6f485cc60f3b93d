//! Full scrapes: the processor time and bytes that a torrent costs, beside opentracker, and how long others wait
//! meanwhile.
//!
//! Opentracker was seen to abort on full scrapes of 300,000 torrents, and to cut them short at 100,000. So the
//! comparison is of many of 20,000.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::latency;
use super::options::Options;
use super::population::Population;
use super::report::{Goal, Report, Spread, grouped, megabytes};
use super::server::Server;
use super::udp_load;

/// Without the limit of one in five minutes.
const ARGUMENTS: [&str; 2] = ["--full-scrape", "open"];

/// Full scrapes in a turn of one server.
const A_TURN: u32 = 10;

const ENCODINGS: [&str; 2] = ["plain", "gzip"];

/// Receives a full scrape; the bytes of its body.
fn scrape(server: SocketAddr, encoding: &str) -> io::Result<u64> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let accept = match encoding {
        "gzip" => "Accept-Encoding: gzip\r\n",
        _ => "",
    };
    // A body without chunks, which ends with the connection.
    write!(stream, "GET /scrape HTTP/1.0\r\nHost: x\r\n{accept}\r\n")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut length = stream.read(&mut buffer)?;
    let start = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
    let (head, body) = start.split_once("\r\n\r\n").unwrap_or((&start, ""));
    let is_gzip = head.contains("content-encoding: gzip");
    if !head.contains(" 200 ")
        || body.is_empty() && length > 4096
        || is_gzip != (encoding == "gzip")
    {
        return Err(io::Error::other(head.to_string()));
    }
    let mut bytes = (length - head.len() - 4) as u64;
    while length > 0 {
        length = stream.read(&mut buffer)?;
        bytes += length as u64;
    }
    Ok(bytes)
}

struct Contestant {
    server: Server,
    /// Microseconds of processor time a torrent, turn by turn.
    costs: Vec<f64>,
    /// Bytes of a body.
    bytes: u64,
}

impl Contestant {
    fn play(&mut self, encoding: &str, torrents: u32) -> io::Result<()> {
        let before = self.server.processor_time()?;
        for _ in 0..A_TURN {
            self.bytes = scrape(self.server.address, encoding)?;
        }
        let spent = (self.server.processor_time()? - before).as_secs_f64();
        self.costs.push(spent * 1e6 / f64::from(torrents * A_TURN));
        Ok(())
    }
}

/// Processor time a torrent and size, against opentracker.
pub fn compare(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(20_000);
    let peers = options.peers.unwrap_or(torrents.saturating_mul(10));
    let population = Population::power_law(torrents, peers, options.family);
    let of = format!("of a full scrape of {} torrents", grouped(torrents));
    report.begin(&of);
    let Some(reference) = Server::opentracker(&of, &population, report) else {
        return Ok(());
    };
    let mut contestants = Vec::new();
    for server in [reference]
        .into_iter()
        .chain(Server::builds(options, &ARGUMENTS))
    {
        udp_load::fill(&server, &population)?;
        let (costs, bytes) = (Vec::new(), 0);
        contestants.push(Contestant {
            server,
            costs,
            bytes,
        });
    }
    for encoding in ENCODINGS {
        for contestant in &mut contestants {
            // The first turn fills the caches.
            contestant.play(encoding, torrents)?;
            contestant.costs.clear();
        }
        for _ in 0..options.pairs {
            for contestant in &mut contestants {
                contestant.play(encoding, torrents)?;
            }
        }
        let (reference, others) = contestants.split_first().expect("opentracker");
        let goal = Goal::AtMost(if encoding == "gzip" { 0.5 } else { 0.25 });
        for contestant in others {
            compare_one(&of, encoding, [contestant, reference], goal, report);
        }
    }
    Ok(())
}

fn compare_one(of: &str, encoding: &str, both: [&Contestant; 2], goal: Goal, report: &mut Report) {
    let pairs = both[0].costs.iter().zip(&both[1].costs);
    let ratio = Spread::of(pairs.map(|(own, other)| own / other));
    let text = format!("{ratio}, {} pairs", both[0].costs.len());
    let costs = both.map(|contestant| Spread::of(contestant.costs.iter().copied()).median);
    let remark = format!("{:.3} to {:.3} µs", costs[0], costs[1]);
    let (what, name) = (
        format!("CPU {of}, {encoding}, of opentracker's"),
        &both[0].server.name,
    );
    report.row(&what, name, (ratio.median, text), goal, &remark);
    let bytes = both.map(|contestant| contestant.bytes);
    let size = bytes[0] as f64 / bytes[1] as f64;
    let remark = bytes.map(megabytes).join(" to ");
    let what = format!("size {of}, {encoding}, of opentracker's");
    report.row(
        &what,
        name,
        (size, format!("{size:.3}")),
        Goal::AtMost(1.0),
        &remark,
    );
}

/// A UDP connect every millisecond during one full scrape after the other.
pub fn latency(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let population = Population::even(torrents, 1, options.family);
    for encoding in ENCODINGS {
        let torrents = grouped(torrents);
        let during = format!("while {torrents} torrents are scraped, {encoding}");
        let setup = (&ARGUMENTS[..], &population);
        latency::stalls(&during, setup, latency::GOAL, (options, report), |server| {
            let end = Instant::now() + Duration::from_secs_f64(5.0 * options.seconds);
            while Instant::now() < end {
                scrape(server.address, encoding)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
