//! The benchmark's command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::prelude::*;

use crate::bare::{Bare, Kind};
use crate::population::{Family, SOURCES};
use crate::server;

pub const HELP: &str = "\
usage: cargo bench -- [options]

Measures the tracker against bare loops and, where it is installed, opentracker.
The tracker is the one that cargo built, or ANNOUNCED_BIN.

  --only CASE[,CASE...]  of: udp udp-large http http-new memory idle size
                         insert-hash insert-peer wire latency sweep lists state
                         fullscrape fullscrape-large fullscrape-latency join
                         sync-apply sync-note sync-wire sync-heal threads
                         threads-large
                         threads-cost threads-memory
  --full                 every case, and opentracker in all of them; without it and
                         --only: udp http http-new memory idle size wire latency
                         join fullscrape fullscrape-latency sync-apply
                         sync-note sync-wire sync-heal threads threads-cost threads-memory
  --protocol P           udp, http (connections kept) or http-new (one a request):
                         the same as --only with that name
  --family 4|6           addresses to announce from (4)
  --torrents N           torrents of udp, http, sweep, threads and threads-cost
                         (100,000; 10,000,000 if large), of lists, state and join
                         (1,000,000), and of threads-memory (1,000,000; 100,000)
  --peers N              peers in them, in total (1,000,000; 20,000,000)
  --numwant N            peers asked for (30)
  --seconds S            length of one turn of one server (1)
  --pairs N              turns that must count, at least nine (9)
  --also NAME=PATH       another build of the tracker to measure beside the first;
                         the reference of the first in threads-cost
  -h, --help             this text
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Udp,
    UdpLarge,
    Http,
    HttpNew,
    Memory,
    Idle,
    Size,
    InsertHash,
    InsertPeer,
    Wire,
    Latency,
    Sweep,
    Lists,
    State,
    Join,
    FullScrape,
    FullScrapeLarge,
    FullScrapeLatency,
    SyncApply,
    SyncNote,
    SyncWire,
    SyncHeal,
    Threads,
    ThreadsLarge,
    ThreadsCost,
    ThreadsMemory,
}

/// All cases in the order of the table, by name, and whether each runs when none is chosen.
const CASES: [(&str, Case, bool); 26] = [
    ("udp", Case::Udp, true),
    ("udp-large", Case::UdpLarge, false),
    ("http", Case::Http, true),
    ("http-new", Case::HttpNew, true),
    ("memory", Case::Memory, true),
    ("idle", Case::Idle, true),
    ("size", Case::Size, true),
    ("insert-hash", Case::InsertHash, false),
    ("insert-peer", Case::InsertPeer, false),
    ("wire", Case::Wire, true),
    ("latency", Case::Latency, true),
    ("sweep", Case::Sweep, false),
    ("lists", Case::Lists, false),
    ("state", Case::State, false),
    ("join", Case::Join, true),
    ("fullscrape", Case::FullScrape, true),
    ("fullscrape-large", Case::FullScrapeLarge, false),
    ("fullscrape-latency", Case::FullScrapeLatency, true),
    ("sync-apply", Case::SyncApply, true),
    ("sync-note", Case::SyncNote, true),
    ("sync-wire", Case::SyncWire, true),
    ("sync-heal", Case::SyncHeal, true),
    ("threads", Case::Threads, true),
    ("threads-large", Case::ThreadsLarge, false),
    ("threads-cost", Case::ThreadsCost, true),
    ("threads-memory", Case::ThreadsMemory, true),
];

impl Case {
    pub fn name(self) -> &'static str {
        let known = CASES.iter().find(|&&(_, case, _)| case == self);
        known.map_or("", |(name, _, _)| name)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> Result<Case, String> {
        CASES
            .iter()
            .find_map(|&(known, case, _)| (known == name).then_some(case))
            .ok_or_else(|| format!("{name} is no case"))
    }
}

/// A binary of this tracker, and what to call it.
#[derive(Clone, Debug)]
pub struct Build {
    pub name: String,
    pub path: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub cases: Vec<Case>,
    pub full: bool,
    pub family: Family,
    pub torrents: Option<u32>,
    pub peers: Option<u32>,
    pub numwant: u32,
    pub seconds: f64,
    pub pairs: usize,
    pub builds: Vec<Build>,
}

pub enum Command {
    Help,
    Measure(Options),
    /// Not for people: the loops start this program again.
    Bare(Bare),
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let announced = Build {
        name: "announced".to_string(),
        path: server::announced_binary(),
    };
    let mut options = Options {
        cases: Vec::new(),
        full: false,
        family: Family::V4,
        torrents: None,
        peers: None,
        numwant: 30,
        seconds: 1.0,
        pairs: 9,
        builds: vec![announced],
    };
    let mut parser = lexopt::Parser::from_iter(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            // What cargo says to every bench program.
            Long("bench") => {}
            Long("bare") => return bare(&mut parser),
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("full") => options.full = true,
            Long("only" | "protocol") => {
                let names = parser.value()?.string()?;
                for name in names.split(',') {
                    options.cases.push(name.parse()?);
                }
            }
            Long("family") => options.family = parser.value()?.parse_with(family)?,
            Long("torrents") => options.torrents = Some(parser.value()?.parse_with(torrents)?),
            Long("peers") => options.peers = Some(parser.value()?.parse_with(number)?),
            Long("numwant") => options.numwant = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse_with(seconds)?,
            Long("pairs") => options.pairs = parser.value()?.parse()?,
            Long("also") => options.builds.push(parser.value()?.parse_with(build)?),
            _ => return Err(argument.unexpected()),
        }
    }
    if options.cases.is_empty() {
        let chosen = CASES.iter().filter(|(_, _, short)| *short || options.full);
        options.cases = chosen.map(|&(_, case, _)| case).collect();
    }
    Ok(Command::Measure(options))
}

fn bare(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let kind: Kind = parser.value()?.parse()?;
    let address = parser.value()?.parse()?;
    Ok(Command::Bare(Bare { kind, address }))
}

fn family(value: &str) -> Result<Family, String> {
    match value {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("4 or 6 is wanted".to_string()),
    }
}

/// A count, which may be grouped by commas or underscores.
fn number(value: &str) -> Result<u32, String> {
    let digits: String = value.chars().filter(|c| !matches!(c, ',' | '_')).collect();
    match digits.parse() {
        Ok(0) | Err(_) => Err("a number from 1 on is wanted".to_string()),
        Ok(number) => Ok(number),
    }
}

/// A load needs a torrent for each source.
fn torrents(value: &str) -> Result<u32, String> {
    number(value).and_then(|torrents| match torrents {
        SOURCES.. => Ok(torrents),
        _ => Err(format!("{SOURCES} or more are wanted")),
    })
}

fn seconds(value: &str) -> Result<f64, String> {
    value
        .parse()
        .ok()
        .filter(|seconds| (0.05..=600.0).contains(seconds))
        .ok_or_else(|| "0.05 to 600 is wanted".to_string())
}

fn build(value: &str) -> Result<Build, String> {
    let (name, path) = value.split_once('=').ok_or("NAME=PATH is wanted")?;
    Ok(Build {
        name: name.to_string(),
        path: path.into(),
    })
}
