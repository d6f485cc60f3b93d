//! Full scrapes: what a torrent costs in processor time and bytes, beside opentracker; whether ten
//! million come whole and sorted to several clients at once; how long others wait meanwhile.
//!
//! Opentracker was seen to abort on full scrapes of 300,000 torrents, and to cut them short at 100,000.
//! So the comparison is of many of 20,000.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::latency;
use crate::options::Options;
use crate::population::{Fill, Population};
use crate::report::{Figure, Goal, Report, Spread, grouped, megabytes};
use crate::server::{self, Server};
use crate::udp_load;

/// Without the limit of one every five minutes.
const ARGUMENTS: [&str; 2] = ["--full-scrape", "open"];

/// Full scrapes in a turn of one server.
const A_TURN: u32 = 10;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Encoding::Plain => "plain",
            Encoding::Gzip => "gzip",
        }
    }
}

/// Asks for a full scrape; hands on its body piece by piece. Octets of the body.
fn scrape(
    server: SocketAddr,
    encoding: Encoding,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let accept = match encoding {
        Encoding::Plain => "",
        Encoding::Gzip => "Accept-Encoding: gzip\r\n",
    };
    write!(stream, "GET /scrape HTTP/1.1\r\nHost: x\r\n{accept}\r\n")?;
    let mut reply = Chunks::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut octets = 0;
    while !reply.is_over {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("the reply is cut short"));
        }
        let mut counted = |piece: &[u8]| {
            octets += piece.len() as u64;
            take(piece)
        };
        reply.read(&buffer[..count], &mut counted)?;
    }
    if (encoding == Encoding::Gzip) != reply.is_gzip {
        return Err(io::Error::other("the reply is not encoded as asked"));
    }
    Ok(octets)
}

/// Takes a reply apart, in chunks or, as Debian's opentracker sends it, of a known length.
#[derive(Default)]
struct Chunks {
    /// What was read of the head or of a chunk's first line.
    line: Vec<u8>,
    is_in_body: bool,
    is_gzip: bool,
    /// Octets that are left of the chunk, and of the line end behind it; or of the body.
    left: usize,
    is_chunked: bool,
    is_over: bool,
}

impl Chunks {
    fn read(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
                let line_end = if self.is_chunked { 2 } else { 0 };
                let data = self.left.saturating_sub(line_end).min(piece.len());
                take(&piece[..data])?;
                self.left -= piece.len();
                self.is_over |= !self.is_chunked && self.left == 0;
                bytes = rest;
                continue;
            }
            let (&byte, rest) = bytes.split_first().expect("is not empty");
            self.line.push(byte);
            bytes = rest;
            if self.is_in_body && self.line.ends_with(b"\r\n") {
                self.begin_chunk()?;
            } else if self.line.ends_with(b"\r\n\r\n") {
                self.end_head()?;
            }
        }
        Ok(())
    }

    fn end_head(&mut self) -> io::Result<()> {
        let head = String::from_utf8_lossy(&self.line).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        self.is_chunked = head.contains("chunked");
        self.left = length.unwrap_or(0);
        if !head.contains(" 200 ") || self.is_chunked == length.is_some() {
            return Err(io::Error::other(head));
        }
        self.is_gzip = head.contains("content-encoding: gzip");
        self.is_in_body = true;
        self.line.clear();
        Ok(())
    }

    fn begin_chunk(&mut self) -> io::Result<()> {
        let size = String::from_utf8_lossy(&self.line);
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        self.line.clear();
        self.is_over = size == 0;
        self.left = size + 2;
        Ok(())
    }
}

struct Contestant {
    server: Server,
    /// Microseconds of processor time a torrent, turn by turn.
    costs: Vec<f64>,
    /// Of a body.
    octets: u64,
}

impl Contestant {
    fn play(&mut self, encoding: Encoding, torrents: u32) -> io::Result<()> {
        let before = self.server.processor_time()?;
        for _ in 0..A_TURN {
            self.octets = scrape(self.server.address, encoding, |_| Ok(()))?;
        }
        let spent = self.server.processor_time()? - before;
        let all = f64::from(torrents) * f64::from(A_TURN);
        self.costs.push(spent.as_secs_f64() * 1e6 / all);
        Ok(())
    }
}

/// Processor time a torrent and size, against opentracker.
pub fn compare(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(20_000);
    let peers = options.peers.unwrap_or(torrents.saturating_mul(10));
    let population = Population::power_law(torrents, peers, options.family);
    let mut servers = vec![Server::opentracker(options.family, &[&population])?];
    for (_, server) in server::each_build(&options.builds, options.family, &ARGUMENTS) {
        servers.push(server?);
    }
    let mut contestants = Vec::new();
    for server in servers {
        udp_load::fill(&server, &population, &mut Fill::all(&population))?;
        contestants.push(Contestant {
            server,
            costs: Vec::new(),
            octets: 0,
        });
    }
    for encoding in [Encoding::Plain, Encoding::Gzip] {
        let (name, grouped) = (encoding.name(), grouped(u64::from(torrents)));
        let what = format!("CPU a torrent of a full scrape of {grouped}, {name}");
        report.begin(&what);
        for contestant in &mut contestants {
            contestant.costs.clear();
            // What the first one needs and the others find.
            contestant.play(encoding, torrents)?;
            contestant.costs.clear();
        }
        for _ in 0..options.pairs {
            for contestant in &mut contestants {
                contestant.play(encoding, torrents)?;
            }
        }
        tell(&what, encoding, &contestants, report);
    }
    Ok(())
}

fn tell(what: &str, encoding: Encoding, contestants: &[Contestant], report: &mut Report) {
    let Some((reference, others)) = contestants.split_first() else {
        return;
    };
    let median = |c: &Contestant| Spread::of(c.costs.iter().copied()).map_or(0.0, |s| s.median);
    let remark = |c: &Contestant| format!("{:.3} µs, {}", median(c), megabytes(c.octets));
    let figure = |value, text| Figure { value, text };
    let first = figure(1.0, "the reference".to_string());
    let name = &reference.server.name;
    report.row(what, name, &first, Goal::None, &remark(reference));
    for contestant in others {
        let pairs = contestant.costs.iter().zip(&reference.costs);
        let Some(ratio) = Spread::of(pairs.map(|(own, other)| own / other)) else {
            continue;
        };
        let text = format!("{ratio} of {name}, {} pairs", contestant.costs.len());
        let own = &contestant.server.name;
        let figure_ = figure(ratio.median, text);
        report.row(what, own, &figure_, Goal::AtMost(0.5), &remark(contestant));
        let size = contestant.octets as f64 / reference.octets as f64;
        let what = format!("size of a full scrape, {}", encoding.name());
        let figure_ = figure(size, format!("{size:.3} of {name}"));
        report.row(&what, own, &figure_, Goal::AtMost(1.0), "");
    }
}

/// Reads the entries of a bencoded full scrape: counts them, and insists on their order.
#[derive(Default)]
struct Entries {
    rest: Vec<u8>,
    has_begun: bool,
    last: Option<[u8; 20]>,
    count: u64,
}

impl Entries {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        if !self.has_begun && self.rest.len() >= 9 {
            self.has_begun = self.rest.starts_with(b"d5:filesd");
            at = 9;
        }
        while self.has_begun {
            match self.entry(at) {
                Ok(Some(length)) => at += length,
                Ok(None) => break,
                Err(what) => return Err(io::Error::other(what)),
            }
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// The length of the entry there, if it is whole.
    fn entry(&mut self, at: usize) -> Result<Option<usize>, &'static str> {
        let rest = &self.rest[at..];
        let Some((head, counts)) = rest.split_first_chunk::<23>() else {
            return Ok(None);
        };
        let Some(end) = counts.windows(2).position(|w| w == b"ee") else {
            return Ok(None);
        };
        let [b'2', b'0', b':', hash @ ..] = *head else {
            return Err("an entry does not begin with a hash");
        };
        if !counts.starts_with(b"d8:completei") {
            return Err("a hash is not followed by counts");
        }
        if self.last.is_some_and(|last| last >= hash) {
            return Err("the hashes are not in order");
        }
        self.last = Some(hash);
        self.count += 1;
        Ok(Some(head.len() + end + 2))
    }

    fn is_whole(&self) -> bool {
        self.rest == b"ee"
    }
}

const CLIENTS: usize = 4;

/// Ten million torrents to four clients at once.
pub fn large(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(10_000_000);
    let population = Population::even(torrents, 1, options.family);
    let grouped = grouped(u64::from(torrents));
    let what = format!("full scrapes of {grouped} torrents by {CLIENTS} clients at once");
    report.begin(&what);
    for build in &options.builds {
        let server = Server::announced(build, options.family, &ARGUMENTS)?;
        udp_load::fill(&server, &population, &mut Fill::all(&population))?;
        let before = server.resident()?;
        let begin = Instant::now();
        let address = server.address;
        let whole = thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| {
                scope.spawn(move || {
                    let mut entries = Entries::default();
                    scrape(address, Encoding::Plain, |piece| entries.take(piece))?;
                    let all = entries.is_whole() && entries.count == u64::from(torrents);
                    io::Result::Ok(all)
                })
            });
            let results = clients.map(|client| client.join().expect("does not panic"));
            results.into_iter().collect::<io::Result<Vec<bool>>>()
        })?;
        let whole = whole.into_iter().filter(|&whole| whole).count();
        let figure = Figure {
            value: whole as f64,
            text: format!("{whole} whole and sorted"),
        };
        let remark = format!(
            "in {:.1} s; RSS {} before, {} after",
            begin.elapsed().as_secs_f64(),
            megabytes(before),
            megabytes(server.resident()?)
        );
        let goal = Goal::AtLeast(CLIENTS as f64);
        report.row(&what, &build.name, &figure, goal, &remark);
    }
    Ok(())
}

/// A UDP connect every millisecond while a million torrents are scraped, again and again.
pub fn latency(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let population = Population::even(torrents, 1, options.family);
    let length = Duration::from_secs_f64(options.seconds * 5.0);
    for build in &options.builds {
        let server = Server::announced(build, options.family, &ARGUMENTS)?;
        udp_load::fill(&server, &population, &mut Fill::all(&population))?;
        let idle = latency::probe_for(server.address, length)?;
        for encoding in [Encoding::Plain, Encoding::Gzip] {
            let (name, grouped) = (encoding.name(), grouped(u64::from(torrents)));
            let what = format!("longest wait of a UDP connect, {grouped} torrents scraped {name}");
            report.begin(&what);
            let mut scrapes = 0;
            let waits = latency::probe_during(server.address, || {
                let end = Instant::now() + length;
                while Instant::now() < end {
                    scrape(server.address, encoding, |_| Ok(()))?;
                    scrapes += 1;
                }
                Ok(())
            })?;
            let remark = format!("{scrapes} full scrapes");
            let goal = Goal::AtMost(5.0);
            latency::tell(&what, &build.name, &waits, &idle, goal, &remark, report);
        }
    }
    Ok(())
}
