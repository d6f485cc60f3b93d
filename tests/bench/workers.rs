//! Several processes that serve one port (`--processes`): what an announce costs them together, what they
//! tell each other included, against one process alone.
//!
//! The load has a core to itself, so two processes share the other. Both cores of two could then do twice
//! as much, and the figure says so: it counts announces by the processor time that all processes of a
//! tracker take for them, and gives each process a core of its own.
//!
//! Every announce is to be told to the other process, as nearly all are at usual intervals. For that the
//! peers announce in turn, and the interval is so short that a turn of all is longer than a sixth of the
//! peer timeout, but not so short that any is forgotten that goes on announcing.

use std::io;

use crate::contest::{Contest, Contestant, Measure};
use crate::options::{Build, Options};
use crate::population::{Fill, Population, Turnover};
use crate::report::{Goal, Report, grouped};
use crate::server::{SERVER_CORE, Server};
use crate::throughput::UdpTurns;
use crate::udp_load::{self, Event, UdpLoad};

/// In seconds. All peers in turn take three seconds of a fast server's time and wait as long for the other.
const TIMES: [&str; 4] = ["--interval", "16", "--peer-timeout", "24"];

const PROCESSES: u16 = 2;

pub fn workers(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(100_000);
    let peers = options.peers.unwrap_or(1_000_000);
    let population = Population::power_law(torrents, peers, options.family);
    let what = format!(
        "announces of -j {PROCESSES}, a core each, for one of one process, {} torrents, {} peers",
        grouped(torrents.into()),
        grouped(peers.into())
    );
    report.begin(&what);
    for build in &options.builds {
        if let Err(error) = measure(&what, build, &population, options, report) {
            report.skip(&what, &build.name, error);
        }
    }
    Ok(())
}

fn measure(
    what: &str,
    build: &Build,
    population: &Population,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let mut contestants = Vec::new();
    for processes in [1, PROCESSES] {
        let (server, load) = filled(build, population, processes, options, report)?;
        let goal = match processes {
            1 => Goal::None,
            _ => Goal::AtLeast(1.7),
        };
        let contestant = Contestant::new(server, load, goal);
        contestants.push(contestant.on_cores(processes.into()));
    }
    Contest {
        what: what.to_string(),
        measure: Measure::Rate,
        contestants,
    }
    .run(options, report)
}

fn filled<'a>(
    build: &Build,
    population: &'a Population,
    processes: u16,
    options: &Options,
    report: &Report,
) -> io::Result<(Server, UdpTurns<'a, Turnover<'a>>)> {
    let count = processes.to_string();
    let arguments = [&TIMES[..], &["-j", &count]].concat();
    let mut server = Server::announced_on(SERVER_CORE, build, population.family, &arguments)?;
    server.name = match processes {
        1 => format!("one {}", build.name),
        _ => format!("{} -j {count}", build.name),
    };
    server.count_children()?;
    let filled = udp_load::fill(&server, population, &mut Fill::all(population))?;
    report.say(&server.name, format_args!("filled: {filled}"));
    let mut load = UdpLoad::new(server.address, population)?;
    load.ask(options.numwant, Event::None);
    let requests = Turnover::new(population);
    Ok((server, UdpTurns { load, requests }))
}
