//! Several threads over one table (`--threads`), against one thread.
//!
//! All threads of a server share one core, since the other is the load generator's. The figure of N threads is
//! announces per second of processor time of the whole process, times N, against those of one thread: the speedup
//! of N threads with a core each, if the cores do not slow each other down. Each server has as many sources a
//! thread, so that a thread's batches are as long as those of one thread alone.

use std::io;

use crate::contest::{Contest, Contestant, Measure};
use crate::memory;
use crate::options::{Build, Case, Options};
use crate::population::{Fill, Population, Reannounce};
use crate::report::{Figure, Goal, Report, grouped, megabytes};
use crate::server::Server;
use crate::throughput::{self, UdpTurns};
use crate::udp_load::{self, Event, UdpLoad};

/// Threads, and the speedup that they are to have over one.
const SPEEDUPS: [(u32, f64); 2] = [(2, 1.9), (4, 3.6)];
const SPEEDUPS_LARGE: [(u32, f64); 1] = [(2, 1.8)];

/// The threads whose memory is measured.
const MANY: u32 = 4;

/// Torrents, peers in each, and how much more memory many threads may take than one.
const SHAPES: [(u32, u32, f64); 2] = [(1_000_000, 5, 1.1), (100_000, 10, 1.5)];

/// Megabytes of an idle tracker with many threads.
const IDLE_MEGABYTES: f64 = 4.0;

pub fn speedup(options: &Options, case: Case, report: &mut Report) -> io::Result<()> {
    let is_large = case == Case::ThreadsLarge;
    let goals = match is_large {
        true => &SPEEDUPS_LARGE[..],
        false => &SPEEDUPS,
    };
    let population = throughput::population(options, is_large);
    let what = format!(
        "UDP announces a second of N threads, a core each, {}",
        throughput::describe(&population, options)
    );
    report.begin(&what);
    for build in &options.builds {
        let mut entrants = vec![(build, 1, Goal::None)];
        entrants.extend(
            goals
                .iter()
                .map(|&(n, goal)| (build, n, Goal::AtLeast(goal))),
        );
        if let Err(error) = compare(
            &what,
            Measure::Rate,
            &entrants,
            &population,
            options,
            report,
        ) {
            report.skip(&what, &build.name, error);
        }
    }
    Ok(())
}

/// Processor time of an announce with one thread, against each of the other builds.
pub fn cost(options: &Options, report: &mut Report) -> io::Result<()> {
    let population = throughput::population(options, false);
    let what = format!(
        "CPU of a UDP announce, one thread, against another build, {}",
        throughput::describe(&population, options)
    );
    report.begin(&what);
    let [build, others @ ..] = &options.builds[..] else {
        return Ok(());
    };
    if others.is_empty() {
        report.skip(&what, &build.name, "--also names no other build");
    }
    for other in others {
        let entrants = [(other, 1, Goal::None), (build, 1, Goal::AtMost(1.02))];
        let measure = Measure::FullCost;
        if let Err(error) = compare(&what, measure, &entrants, &population, options, report) {
            report.skip(&what, &other.name, error);
        }
    }
    Ok(())
}

/// The first of the entrants, each with its number of threads, is the reference of the others.
fn compare(
    what: &str,
    measure: Measure,
    entrants: &[(&Build, u32, Goal)],
    population: &Population,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    // A build that does not start is found before any is filled.
    let servers: io::Result<Vec<_>> = entrants
        .iter()
        .map(|&(build, threads, _)| start(build, threads, options))
        .collect();
    let mut contestants = Vec::new();
    for (server, &(_, threads, goal)) in servers?.into_iter().zip(entrants) {
        fill(&server, population, report)?;
        let mut load = UdpLoad::for_threads(server.address, population, threads)?;
        load.ask(options.numwant, Event::None);
        let requests = Reannounce::new(population);
        let contestant = Contestant::new(server, UdpTurns { load, requests }, goal);
        contestants.push(contestant.on_cores(threads.into()));
    }
    Contest {
        what: what.to_string(),
        measure,
        contestants,
    }
    .run(options, report)
}

/// A build with so many threads. One thread is the default, for builds that know no threads.
fn start(build: &Build, threads: u32, options: &Options) -> io::Result<Server> {
    if threads == 1 {
        return Server::announced(build, options.family, &[]);
    }
    let count = threads.to_string();
    let mut server = Server::announced(build, options.family, &["-j", &count])?;
    server.name = format!("{} -j {count}", build.name);
    // A build whose -j starts processes must not be measured by its first process alone.
    server.wait_for_threads(threads as usize)?;
    Ok(server)
}

fn fill(server: &Server, population: &Population, report: &Report) -> io::Result<()> {
    let filled = udp_load::fill(server, population, &mut Fill::all(population))?;
    report.say(&server.name, format_args!("filled: {filled}"));
    Ok(())
}

/// Resident memory of many threads against that of one, with peers and without.
pub fn memory(options: &Options, report: &mut Report) -> io::Result<()> {
    for (torrents, peers, limit) in SHAPES {
        let torrents = options.torrents.unwrap_or(torrents);
        let population = Population::even(torrents, peers, options.family);
        let what = format!(
            "RSS of {MANY} threads, {} torrents of {peers}",
            grouped(torrents.into())
        );
        report.begin(&what);
        for build in &options.builds {
            if let Err(error) = grow(&what, build, &population, limit, options, report) {
                report.skip(&what, &build.name, error);
            }
        }
    }
    idle(options, report)
}

fn grow(
    what: &str,
    build: &Build,
    population: &Population,
    limit: f64,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let filled = |threads| -> io::Result<(String, u64)> {
        let server = start(build, threads, options)?;
        fill(&server, population, report)?;
        let resident = server.settled_resident()?;
        Ok((server.name.clone(), resident))
    };
    let ((name, many), (reference, one)) = (filled(MANY)?, filled(1)?);
    let value = many as f64 / one as f64;
    let figure = Figure {
        value,
        text: format!("{value:.3} of {reference}"),
    };
    let remark = format!("{} to {}", megabytes(many), megabytes(one));
    report.row(what, &name, &figure, Goal::AtMost(limit), &remark);
    Ok(())
}

fn idle(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = format!("idle RSS of {MANY} threads");
    report.begin(&what);
    for build in &options.builds {
        let server = start(build, MANY, options);
        let name = format!("{} -j {MANY}", build.name);
        memory::rest(&what, &name, server, Goal::AtMost(IDLE_MEGABYTES), report)?;
    }
    Ok(())
}
