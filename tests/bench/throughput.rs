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
use super::options::Bench;
use super::population::{Family, Population, Reannounce};
use super::report::{Goal, grouped};
use super::server::{SERVER_CORE, Server};
use super::udp_load::{UdpLoad, fill};

/// The population of a case, and the words for it.
fn population(bench: &Bench, is_large: bool) -> (Population, String) {
    population_of(bench, bench.family, is_large)
}

fn population_of(bench: &Bench, family: Family, is_large: bool) -> (Population, String) {
    let mut population = match is_large {
        true => bench.power_law(10_000_000, 2),
        false => bench.power_law(100_000, 10),
    };
    population.family = family;
    let torrents = grouped(population.torrents);
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let words = format!("{torrents} torrents by power law, numwant {NUMWANT}, {family}");
    (population, words)
}

/// A reference loop, the builds, which are held to the goal, and opentracker where it takes part, all filled.
fn servers(
    bench: &Bench,
    (subject, population): (&str, &Population),
    reference: &str,
    goal: Goal,
    has_opentracker: bool,
) -> io::Result<Vec<(Server, Goal)>> {
    let reference = Server::bare(reference, population.family);
    let mut servers = vec![(reference, Goal::None)];
    servers.extend(
        Server::builds_for(bench, population.family, &[])
            .into_iter()
            .map(|server| (server, goal)),
    );
    if has_opentracker {
        let opentracker = Server::opentracker(bench, subject, population);
        servers.extend(opentracker.map(|server| (server, Goal::None)));
    }
    for (server, _) in &servers[1..] {
        fill(bench, server, population)?;
    }
    Ok(servers)
}

fn udp_contestant<'a>(
    server: &'a Server,
    population: &'a Population,
    threads: u32,
    goal: Goal,
) -> io::Result<Contestant<'a>> {
    let order = Reannounce::new(population);
    let load = UdpLoad::new(server.address, population, order, threads)?;
    Ok(Contestant {
        server,
        load: Box::new(load),
        goal,
        cores: threads,
    })
}

/// UDP announces a second as a share of the echo loop's. The goal is at least this share.
pub fn udp(bench: &Bench, family: Family, is_large: bool, goal: f64) -> io::Result<()> {
    let (population, words) = population_of(bench, family, is_large);
    let subject = format!("UDP announces a second, {words}");
    bench.begin(&subject);
    let goal = Goal::AtLeast(goal);
    // opentracker takes minutes to read a whitelist of ten million.
    let servers = servers(bench, (&subject, &population), "udp", goal, !is_large)?;
    let contestants = servers
        .iter()
        .map(|(server, goal)| udp_contestant(server, &population, 1, *goal));
    let contestants = contestants.collect::<io::Result<_>>()?;
    contest::run(bench, &subject, Measure::Rate, contestants)
}

/// UDP announces a second at a wildcard address, of those at the address itself.
pub fn wildcard(bench: &Bench) -> io::Result<()> {
    let (population, words) = population(bench, false);
    let subject = format!("UDP announces a second at a wildcard address, {words}");
    bench.begin(&subject);
    for build in &bench.builds {
        let bound = Server::announced(SERVER_CORE, build, bench.family, &[]);
        let servers = [
            (bound, Goal::None),
            (Server::wildcard(build, bench.family), Goal::AtLeast(0.97)),
        ];
        for (server, _) in &servers {
            fill(bench, server, &population)?;
        }
        let contestants = servers
            .iter()
            .map(|(server, goal)| udp_contestant(server, &population, 1, *goal));
        let contestants = contestants.collect::<io::Result<_>>()?;
        contest::run(bench, &subject, Measure::Rate, contestants)?;
    }
    Ok(())
}

/// Processor time of an HTTP announce against the epoll loop's.
pub fn http(bench: &Bench, is_kept: bool) -> io::Result<()> {
    let (population, words) = population(bench, false);
    let (reference, how, goal) = match is_kept {
        true => ("http", "connections kept", 1.05),
        false => ("http-closing", "a connection each", 0.88),
    };
    let subject = format!("CPU of an HTTP announce, {how}, {words}");
    bench.begin(&subject);
    let goal = Goal::AtMost(goal);
    // opentracker closes every connection after one reply.
    let servers = servers(bench, (&subject, &population), reference, goal, !is_kept)?;
    let contestants = servers.iter().map(|(server, goal)| Contestant {
        server,
        load: Box::new(HttpLoad::new(server.address, &population, is_kept)),
        goal: *goal,
        cores: 1,
    });
    contest::run(bench, &subject, Measure::Cost, contestants.collect())
}

/// UDP announces a second of several threads, a core each, as a multiple of one thread's.
pub fn threads(bench: &Bench, is_large: bool) -> io::Result<()> {
    let (population, words) = population(bench, is_large);
    let subject = format!("UDP announces a second of N threads, a core each, {words}");
    bench.begin(&subject);
    let goals: &[_] = match is_large {
        true => &[(1, Goal::None), (2, Goal::AtLeast(1.8))],
        false => &[
            (1, Goal::None),
            (2, Goal::AtLeast(1.9)),
            (4, Goal::AtLeast(3.6)),
        ],
    };
    for build in &bench.builds {
        let start =
            |(threads, _): &(u32, Goal)| Server::with_threads(build, *threads, bench.family);
        let servers: Vec<Server> = goals.iter().map(start).collect();
        let mut contestants = Vec::new();
        for (server, (threads, goal)) in servers.iter().zip(goals) {
            fill(bench, server, &population)?;
            contestants.push(udp_contestant(server, &population, *threads, *goal)?);
        }
        contest::run(bench, &subject, Measure::Rate, contestants)?;
    }
    Ok(())
}
