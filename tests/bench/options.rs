//! The benchmark's command line.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use lexopt::prelude::*;

use super::common::program;
use super::population::{Family, Population};
use super::{CASES, Case};

const HELP: &str = "\
usage: cargo bench -- [options]

Measures the tracker against bare loops and, where it is installed, opentracker.
The tracker is the one that cargo built, or ANNOUNCED_BIN.

  --only CASE[,CASE...]  run only these cases
  --full                 run all cases, not only those marked with *
  --family 4|6           announce from IPv4 or IPv6 addresses (4)
  --torrents N           number of torrents (depends on the case)
  --peers N              number of peers in them, in total (depends on the case)
  --seconds S            length of one turn of one server (1)
  --pairs N              turns that must count (9)
  --also NAME=PATH       measure another build of the tracker beside the first
  -h, --help             print this text

cases:";

/// A binary of this tracker.
#[derive(Clone, Debug)]
pub struct Build {
    pub name: String,
    pub path: PathBuf,
}

/// The options, and the rows of the table so far.
pub struct Bench {
    pub cases: Vec<&'static Case>,
    pub family: Family,
    pub torrents: Option<u32>,
    pub peers: Option<u32>,
    pub seconds: f64,
    pub pairs: usize,
    pub builds: Vec<Build>,
    pub rows: RefCell<Vec<String>>,
}

impl Bench {
    /// A population by power law, with so many torrents and peers a torrent if the command line does not say.
    pub fn power_law(&self, torrents: u32, peers: u32) -> Population {
        let torrents = self.torrents.unwrap_or(torrents);
        let peers = self.peers.unwrap_or(torrents.saturating_mul(peers));
        Population::power_law(torrents, peers, self.family)
    }
}

pub enum Command {
    Help(String),
    Measure(Bench),
    /// A reference loop, by which this program starts itself.
    Bare(String, SocketAddr),
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let (name, path) = ("announced".to_string(), program().into());
    let mut bench = Bench {
        cases: CASES.iter().filter(|case| case.is_default).collect(),
        family: Family::V4,
        torrents: None,
        peers: None,
        seconds: 1.0,
        pairs: 9,
        builds: vec![Build { name, path }],
        rows: RefCell::default(),
    };
    let mut parser = lexopt::Parser::from_iter(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            // Cargo gives this to every bench program.
            Long("bench") => {}
            Long("bare") => {
                let kind = parser.value()?.string()?;
                return Ok(Command::Bare(kind, parser.value()?.parse()?));
            }
            Short('h') | Long("help") => return Ok(Command::Help(help())),
            Long("full") => bench.cases = CASES.iter().collect(),
            Long("only") => {
                let names = parser.value()?.string()?;
                bench.cases = names.split(',').map(case).collect::<Result<_, _>>()?;
            }
            Long("family") => bench.family = parser.value()?.parse_with(family)?,
            Long("torrents") => bench.torrents = Some(parser.value()?.parse()?),
            Long("peers") => bench.peers = Some(parser.value()?.parse()?),
            Long("seconds") => bench.seconds = parser.value()?.parse()?,
            Long("pairs") => bench.pairs = parser.value()?.parse()?,
            Long("also") => bench.builds.push(parser.value()?.parse_with(build)?),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Command::Measure(bench))
}

fn help() -> String {
    let cases = CASES.iter().map(|case| {
        let mark = if case.is_default { "*" } else { " " };
        format!("\n  {:<20} {mark} {}", case.name, case.about)
    });
    HELP.to_string() + &cases.collect::<String>() + "\n"
}

fn case(name: &str) -> Result<&'static Case, String> {
    let case = CASES.iter().find(|case| case.name == name);
    case.ok_or_else(|| format!("--only: invalid value '{name}': expected a case"))
}

fn family(value: &str) -> Result<Family, &'static str> {
    match value {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("expected 4 or 6"),
    }
}

fn build(value: &str) -> Result<Build, &'static str> {
    let (name, path) = value.split_once('=').ok_or("expected NAME=PATH")?;
    let (name, path) = (name.to_string(), path.into());
    Ok(Build { name, path })
}
