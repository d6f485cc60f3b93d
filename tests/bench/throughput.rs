//! Announces a second, and the cost of each: UDP and HTTP against the bare loops, several threads against one.
//!
//! All threads of a server share one core, since the other is the load generator's. The figure of N threads is
//! announces a second of processor time of the whole process, times N, against those of one thread: the speedup of N
//! threads with a core each, if the cores do not slow each other down. Each server has as many sources a thread, so
//! that a thread's batches are as long as those of one thread alone.

use std::io;

use super::NUMWANT;
use super::contest::{self, Contestant, Measure};
use super::http_load::HttpLoad;
use super::options::Options;
use super::population::{Family, Population, Reannounce};
use super::report::{Goal, Report, grouped};
use super::server::Server;
use super::udp_load::{self, UdpLoad};

/// The population of a case, and how it is called.
fn population(options: &Options, is_large: bool) -> (Population, String) {
    let (torrents, peers) = match is_large {
        true => (10_000_000, 20_000_000),
        false => (100_000, 1_000_000),
    };
    let torrents = options.torrents.unwrap_or(torrents);
    let peers = options.peers.unwrap_or(peers);
    let family = match options.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let name = format!(
        "{} torrents by power law, numwant {NUMWANT}, {family}",
        grouped(torrents)
    );
    (Population::power_law(torrents, peers, options.family), name)
}

/// The goal is that of the first build, which `make` makes; others are for comparison.
fn goal_of(server: &Server, options: &Options, goal: Goal) -> Goal {
    match server.name == options.builds[0].name {
        true => goal,
        false => Goal::None,
    }
}

fn fill(server: &Server, population: &Population, report: &Report) -> io::Result<()> {
    let filled = udp_load::fill(server, population)?;
    report.detail(&server.name, format_args!("filled: {filled}"));
    Ok(())
}

fn udp_contestant<'a>(
    server: Server,
    population: &'a Population,
    (threads, goal): (u32, Goal),
) -> io::Result<Contestant<'a>> {
    let order = Reannounce::new(population);
    let load = UdpLoad::for_threads(server.address, population, order, threads)?;
    Ok(Contestant {
        server,
        load: Box::new(load),
        goal,
        cores: threads,
    })
}

/// UDP announces a second as a share of the echo loop's, which is to be at least `goal`.
pub fn udp(options: &Options, is_large: bool, goal: f64, report: &mut Report) -> io::Result<()> {
    let (population, name) = population(options, is_large);
    let what = format!("UDP announces a second, {name}");
    report.begin(&what);
    let mut servers = Server::builds(options, &[]);
    // It takes minutes to read a whitelist of ten million.
    if !is_large {
        servers.extend(Server::opentracker(&what, &population, report));
    }
    let echo = Server::bare("udp", options.family);
    let mut contestants = vec![udp_contestant(echo, &population, (1, Goal::None))?];
    for server in servers {
        fill(&server, &population, report)?;
        let goal = goal_of(&server, options, Goal::AtLeast(goal));
        contestants.push(udp_contestant(server, &population, (1, goal))?);
    }
    contest::run(&what, Measure::Rate, contestants, options, report)
}

/// Processor time of an HTTP announce against the epoll loop's.
pub fn http(options: &Options, is_kept: bool, report: &mut Report) -> io::Result<()> {
    let (population, name) = population(options, false);
    let (kind, how) = match is_kept {
        true => ("http", "connections kept"),
        false => ("http-closing", "a connection each"),
    };
    let what = format!("CPU of an HTTP announce, {how}, {name}");
    report.begin(&what);
    let mut servers = Server::builds(options, &[]);
    // It closes every connection after one reply.
    if !is_kept {
        servers.extend(Server::opentracker(&what, &population, report));
    }
    for server in &servers {
        fill(server, &population, report)?;
    }
    servers.insert(0, Server::bare(kind, options.family));
    let contestants = servers.into_iter().map(|server| Contestant {
        load: Box::new(HttpLoad::new(server.address, &population, is_kept)),
        goal: goal_of(&server, options, Goal::AtMost(1.05)),
        cores: 1,
        server,
    });
    let contestants = contestants.collect();
    contest::run(&what, Measure::Cost, contestants, options, report)
}

/// UDP announces a second of several threads, a core each, as a multiple of one thread's.
pub fn threads(options: &Options, is_large: bool, report: &mut Report) -> io::Result<()> {
    let (population, name) = population(options, is_large);
    let what = format!("UDP announces a second of N threads, a core each, {name}");
    report.begin(&what);
    let goals: &[_] = match is_large {
        true => &[(1, Goal::None), (2, Goal::AtLeast(1.8))],
        false => &[
            (1, Goal::None),
            (2, Goal::AtLeast(1.9)),
            (4, Goal::AtLeast(3.6)),
        ],
    };
    for build in &options.builds {
        let mut contestants = Vec::new();
        for &(threads, goal) in goals {
            let server = Server::with_threads(build, threads, options.family);
            fill(&server, &population, report)?;
            contestants.push(udp_contestant(server, &population, (threads, goal))?);
        }
        contest::run(&what, Measure::Rate, contestants, options, report)?;
    }
    Ok(())
}
