//! What lists of info-hashes cost: an announce, and whoever waits while a large one is reloaded.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::contest::{Contest, Contestant, Measure};
use crate::latency;
use crate::options::Options;
use crate::population::{Fill, Population, Reannounce};
use crate::report::{Goal, Report, grouped};
use crate::server::Server;
use crate::throughput::UdpTurns;
use crate::udp_load::{self, Event, UdpLoad};

/// Lines of the list that is reloaded.
const RELOADED: u32 = 1_000_000;

/// How often.
const RELOADS: usize = 5;

const RELOADED_WITHIN: Duration = Duration::from_secs(30);

pub fn lists(options: &Options, report: &mut Report) -> io::Result<()> {
    announces(options, report)?;
    reload(options, report)
}

/// UDP announces a second where a whitelist holds all torrents, as a share of those without a list.
fn announces(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(1_000_000);
    let population = Population::power_law(torrents, peers, options.family);
    let grouped = grouped(u64::from(torrents));
    let what = format!("UDP announces a second with a whitelist of {grouped} torrents");
    report.begin(&what);
    let build = &options.builds[0];
    let mut without = Server::announced(build, options.family, &[])?;
    let mut with = Server::announced_with_list(build, &population)?;
    without.name = "no list".to_string();
    with.name = "whitelist".to_string();
    let mut contestants = Vec::new();
    for (server, goal) in [(without, Goal::None), (with, Goal::AtLeast(0.97))] {
        let filled = udp_load::fill(&server, &population, &mut Fill::all(&population))?;
        report.say(&server.name, format_args!("filled: {filled}"));
        let mut load = UdpLoad::new(server.address, &population)?;
        load.ask(options.numwant, Event::None);
        let requests = Reannounce::new(&population);
        contestants.push(Contestant::new(server, UdpTurns { load, requests }, goal));
    }
    Contest {
        what,
        measure: Measure::Rate,
        contestants,
    }
    .run(options, report)
}

/// A UDP connect every millisecond meanwhile.
fn reload(options: &Options, report: &mut Report) -> io::Result<()> {
    let lines = grouped(u64::from(RELOADED));
    let what = format!("longest wait of a UDP connect while {lines} lines are reloaded");
    report.begin(&what);
    let population = Population::even(RELOADED, 1, options.family);
    for build in &options.builds {
        let server = Server::announced_with_list(build, &population)?;
        let idle = latency::probe_for(server.address, Duration::from_secs(5))?;
        let begin = Instant::now();
        let reloaded = latency::probe_during(server.address, || {
            (0..RELOADS).try_for_each(|_| reload_once(&server))
        })?;
        let each = begin.elapsed().as_secs_f64() * 1e3 / RELOADS as f64;
        let remark = format!("{RELOADS} times, {each:.0} ms each");
        let goal = Goal::AtMost(5.0);
        latency::tell(&what, &build.name, &reloaded, &idle, goal, &remark, report);
    }
    Ok(())
}

fn reload_once(server: &Server) -> io::Result<()> {
    let loaded = || server.logged("loaded, ");
    let (before, deadline) = (loaded(), Instant::now() + RELOADED_WITHIN);
    server.signal("HUP")?;
    while loaded() == before {
        if Instant::now() > deadline {
            return Err(io::Error::other("the list is not reloaded"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
