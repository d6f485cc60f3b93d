//! Memory a peer, of an idle tracker, and of several threads against one.

use std::io;

use super::options::Options;
use super::population::Population;
use super::report::{Goal, Report, grouped, megabytes};
use super::server::Server;
use super::udp_load;

/// Torrents, peers in each, and the bytes that a peer may take. Sizes about a thousand show whether a thousand was a
/// lucky one.
const SHAPES: [(u32, u32, f64); 7] = [
    (1_000_000, 1, 40.0),
    (100_000, 10, 14.0),
    (1_000, 700, 8.5),
    (1_000, 1_000, 8.5),
    (1_000, 1_100, 8.5),
    (1_000, 1_500, 8.5),
    (10, 50_000, 8.0),
];

/// The threads whose memory is measured, and the share of one thread's that they may take, by torrents and peers in
/// each.
const THREADS: u32 = 4;
const THREADS_SHAPES: [(u32, u32, f64); 2] = [(1_000_000, 5, 1.1), (100_000, 10, 1.5)];

/// A population of this shape, or of fewer torrents if the command line says so, with its name.
fn population(options: &Options, torrents: u32, peers: u32) -> (Population, String) {
    let torrents = options.torrents.map_or(torrents, |most| most.min(torrents));
    let name = format!("{} torrents of {}", grouped(torrents), grouped(peers));
    (Population::even(torrents, peers, options.family), name)
}

/// Growth of the resident set from a tracker just started to one that knows all peers, half of them seeders. Every
/// announce is acknowledged, so the number of peers is exact.
pub fn growth(options: &Options, report: &mut Report) -> io::Result<()> {
    for (torrents, peers, limit) in SHAPES {
        let (population, name) = population(options, torrents, peers);
        let what = format!("RSS growth a peer, {name}");
        report.begin(&what);
        for server in Server::builds(options, &[]) {
            let before = server.settled_resident();
            let filled = udp_load::fill(&server, &population)?;
            let after = server.settled_resident();
            let bytes = after.saturating_sub(before) as f64 / filled.peers as f64;
            let remark = format!("{} to {}; {filled}", megabytes(before), megabytes(after));
            let figure = (bytes, format!("{bytes:.1} B"));
            report.row(&what, &server.name, figure, Goal::AtMost(limit), &remark);
        }
    }
    Ok(())
}

pub fn idle(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = "idle RSS";
    report.begin(what);
    // A static build has no shared library, whose pages count as resident although all processes share them.
    let limit = |name: &str| if name == "tiny-static" { 0.5 } else { 3.5 };
    for server in Server::builds(options, &[]) {
        rest(what, &server, Goal::AtMost(limit(&server.name)), report);
    }
    let nothing = Population::even(0, 0, options.family);
    if let Some(server) = Server::opentracker(what, &nothing, report) {
        rest(what, &server, Goal::None, report);
    }
    Ok(())
}

fn rest(what: &str, server: &Server, goal: Goal, report: &mut Report) {
    let resident = server.settled_resident();
    let figure = (resident as f64 / 1e6, megabytes(resident));
    report.row(what, &server.name, figure, goal, "");
}

/// Resident memory of several threads against that of one, with peers and without.
pub fn threads(options: &Options, report: &mut Report) -> io::Result<()> {
    for (torrents, peers, limit) in THREADS_SHAPES {
        let (population, name) = population(options, torrents, peers);
        let what = format!("RSS of {THREADS} threads, {name}");
        report.begin(&what);
        for build in &options.builds {
            let filled = |threads| {
                let server = Server::with_threads(build, threads, options.family);
                udp_load::fill(&server, &population)?;
                io::Result::Ok(server.settled_resident())
            };
            let (many, one) = (filled(THREADS)?, filled(1)?);
            let ratio = many as f64 / one as f64;
            let figure = (ratio, format!("{ratio:.3} of one thread's"));
            let remark = format!("{} to {}", megabytes(many), megabytes(one));
            report.row(&what, &build.name, figure, Goal::AtMost(limit), &remark);
        }
    }
    let what = format!("idle RSS of {THREADS} threads");
    report.begin(&what);
    for build in &options.builds {
        let server = Server::with_threads(build, THREADS, options.family);
        rest(&what, &server, Goal::AtMost(4.0), report);
    }
    Ok(())
}
