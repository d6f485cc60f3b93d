//! How many announces a second, and what each costs: UDP and HTTP against the bare loops.

use std::io;
use std::time::Instant;

use crate::bare::Kind;
use crate::contest::{Contest, Contestant, Load, Measure, Tally};
use crate::http_load::{Connections, HttpLoad};
use crate::options::{Case, Options};
use crate::population::{Family, Fill, Population, Reannounce, Requests};
use crate::report::{Goal, Report, grouped};
use crate::server::{self, Server};
use crate::udp_load::{self, Event, UdpLoad};

pub struct UdpTurns<'a, R> {
    pub load: UdpLoad<'a>,
    pub requests: R,
}

impl<R: Requests> Load for UdpTurns<'_, R> {
    fn begin(&mut self) -> io::Result<()> {
        self.load.connect()
    }

    fn run(&mut self, deadline: Instant) -> io::Result<()> {
        self.load.drive(&mut self.requests, deadline).map(drop)
    }

    fn end(&mut self) -> io::Result<()> {
        self.load.settle()
    }

    fn tally(&self) -> &Tally {
        &self.load.tally
    }
}

struct HttpTurns<'a> {
    load: HttpLoad<'a>,
    requests: Reannounce<'a>,
}

impl Load for HttpTurns<'_> {
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn run(&mut self, deadline: Instant) -> io::Result<()> {
        self.load.drive(&mut self.requests, deadline)
    }

    fn end(&mut self) -> io::Result<()> {
        self.load.close();
        Ok(())
    }

    fn tally(&self) -> &Tally {
        &self.load.tally
    }
}

pub fn population(options: &Options, large: bool) -> Population {
    let (torrents, peers) = if large {
        (10_000_000, 20_000_000)
    } else {
        (100_000, 1_000_000)
    };
    let torrents = options.torrents.unwrap_or(torrents);
    Population::power_law(torrents, options.peers.unwrap_or(peers), options.family)
}

/// The trackers that take part, each with the whole population in its table. One that does not
/// start has a line that says why.
fn filled_trackers(
    what: &str,
    population: &Population,
    options: &Options,
    with_opentracker: bool,
    report: &mut Report,
) -> Vec<Server> {
    let mut started = server::each_build(&options.builds, options.family, &[]);
    if with_opentracker {
        let server = Server::opentracker(options.family, &[population]);
        started.push(("opentracker", server));
    }
    let mut servers = Vec::new();
    for (name, server) in started {
        let filled = server.and_then(|server| {
            let filled = udp_load::fill(&server, population, &mut Fill::all(population))?;
            Ok((server, filled))
        });
        match filled {
            Ok((server, filled)) => {
                report.say(name, format_args!("filled: {filled}"));
                servers.push(server);
            }
            Err(error) => report.skip(what, name, error),
        }
    }
    servers
}

/// The goal is that of the first build, which is what `make` makes; others are told beside it.
fn goal_of(server: &Server, options: &Options, goal: Goal) -> Goal {
    if server.name == options.builds[0].name {
        goal
    } else {
        Goal::None
    }
}

/// UDP announces a second as a share of the echo loop's.
pub fn udp(options: &Options, case: Case, report: &mut Report) -> io::Result<()> {
    let large = case == Case::UdpLarge;
    let population = population(options, large);
    let what = format!("UDP announces a second, {}", describe(&population, options));
    report.begin(&what);
    let full_reply = 20 + options.numwant as usize * options.family.peer_size();
    let kind = Kind::Udp(full_reply.min(1232));
    let echo = Server::bare("bare echo loop", kind, options.family)?;
    let mut servers = vec![echo];
    servers.extend(filled_trackers(&what, &population, options, !large, report));
    let mut contestants = Vec::new();
    for server in servers {
        let mut load = UdpLoad::new(server.address, &population)?;
        load.ask(options.numwant, Event::None);
        let requests = Reannounce::new(&population);
        let goal = goal_of(
            &server,
            options,
            Goal::AtLeast(if large { 0.80 } else { 0.93 }),
        );
        contestants.push(Contestant::new(server, UdpTurns { load, requests }, goal));
    }
    Contest {
        what,
        measure: Measure::Rate,
        contestants,
    }
    .run(options, report)
}

/// Processor time of an HTTP announce against the epoll loop's.
pub fn http(options: &Options, case: Case, report: &mut Report) -> io::Result<()> {
    let (connections, kind, how, goal) = match case {
        Case::HttpNew => (
            Connections::New,
            Kind::HttpClosing,
            "a connection each",
            1.05,
        ),
        _ => (Connections::Kept, Kind::Http, "connections kept", 1.10),
    };
    let population = population(options, false);
    let what = format!(
        "CPU of an HTTP announce, {how}, {}",
        describe(&population, options)
    );
    report.begin(&what);
    let mut servers = vec![Server::bare("bare epoll loop", kind, options.family)?];
    let closes = connections == Connections::Kept;
    if closes {
        report.skip(
            &what,
            "opentracker",
            "it closes every connection after one reply",
        );
    }
    servers.extend(filled_trackers(
        &what,
        &population,
        options,
        !closes,
        report,
    ));
    let mut contestants = Vec::new();
    for server in servers {
        let load = HttpLoad::new(server.address, &population, connections, options.numwant);
        let requests = Reannounce::new(&population);
        let goal = goal_of(&server, options, Goal::AtMost(goal));
        contestants.push(Contestant::new(server, HttpTurns { load, requests }, goal));
    }
    Contest {
        what,
        measure: Measure::Cost,
        contestants,
    }
    .run(options, report)
}

pub fn describe(population: &Population, options: &Options) -> String {
    let family = if population.family == Family::V4 {
        "IPv4"
    } else {
        "IPv6"
    };
    let torrents = grouped(u64::from(population.torrents));
    format!(
        "{torrents} torrents by power law, numwant {}, {family}",
        options.numwant
    )
}
