//! How much memory a peer takes, an idle tracker has, and a binary fills on the disk.

use std::fs;
use std::io;

use crate::options::{Build, Options};
use crate::population::{Fill, Population};
use crate::report::{Figure, Goal, Report, grouped, megabytes};
use crate::server::Server;
use crate::udp_load;

/// Torrents, peers in each, and the octets that a peer may take. Sizes about a thousand show
/// whether a thousand was a lucky one.
const SHAPES: [(u32, u32, f64); 7] = [
    (1_000_000, 1, 40.0),
    (100_000, 10, 14.0),
    (1_000, 700, 8.5),
    (1_000, 1_000, 8.5),
    (1_000, 1_100, 8.5),
    (1_000, 1_500, 8.5),
    (10, 50_000, 8.0),
];

/// Growth of the resident set from a tracker just started to one that knows all peers, half of
/// them seeders. Every announce is acknowledged, so the number of peers is exact.
pub fn growth(options: &Options, report: &mut Report) -> io::Result<()> {
    for (torrents, peers, limit) in SHAPES {
        let population = Population::even(torrents, peers, options.family);
        let (t, p) = (grouped(u64::from(torrents)), grouped(u64::from(peers)));
        let what = format!("RSS growth a peer, {t} torrents of {p}");
        report.begin(&what);
        for build in &options.builds {
            let server = Server::announced(build, options.family, &[]);
            grow(
                &what,
                &build.name,
                server,
                &population,
                Goal::AtMost(limit),
                report,
            );
        }
        if options.full {
            let server = Server::opentracker(options.family, &[&population]);
            grow(
                &what,
                "opentracker",
                server,
                &population,
                Goal::None,
                report,
            );
        }
    }
    Ok(())
}

fn grow(
    what: &str,
    name: &str,
    server: io::Result<Server>,
    population: &Population,
    goal: Goal,
    report: &mut Report,
) {
    let grown = server.and_then(|server| {
        let before = server.settled_resident()?;
        let filled = udp_load::fill(&server, population, &mut Fill::all(population))?;
        Ok((before, server.settled_resident()?, filled))
    });
    let (before, after, filled) = match grown {
        Ok(grown) => grown,
        Err(error) => return report.skip(what, name, error),
    };
    let value = after.saturating_sub(before) as f64 / filled.peers as f64;
    let figure = Figure {
        value,
        text: format!("{value:.1} B"),
    };
    let remark = format!("{} to {}; {filled}", megabytes(before), megabytes(after));
    report.row(what, name, &figure, goal, &remark);
}

pub fn idle(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = "idle RSS";
    report.begin(what);
    for build in &options.builds {
        let server = Server::announced(build, options.family, &[]);
        // The static build has no shared library, whose pages count as resident although all processes share them.
        let limit = if is_static(build) { 0.5 } else { 3.5 };
        rest(what, &build.name, server, Goal::AtMost(limit), report)?;
    }
    let server = Server::opentracker(options.family, &[]);
    rest(what, "opentracker", server, Goal::None, report)
}

pub fn rest(
    what: &str,
    name: &str,
    server: io::Result<Server>,
    goal: Goal,
    report: &mut Report,
) -> io::Result<()> {
    match server {
        Ok(server) => {
            let resident = server.settled_resident()?;
            let text = megabytes(resident);
            report.row(
                what,
                name,
                &Figure {
                    value: resident as f64 / 1e6,
                    text,
                },
                goal,
                "",
            );
        }
        Err(error) => report.skip(what, name, error),
    }
    Ok(())
}

pub fn sizes(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = "size of the binary";
    report.begin(what);
    for build in &options.builds {
        match fs::metadata(&build.path) {
            Ok(metadata) => {
                let kibibytes = metadata.len() as f64 / 1024.0;
                let figure = Figure {
                    value: kibibytes,
                    text: format!("{kibibytes:.1} KiB"),
                };
                let goal = Goal::AtMost(match build.name.as_str() {
                    "tiny" => 95.0,
                    "tiny-static" => 128.0,
                    _ => 400.0,
                });
                let octets = format!("{} octets", grouped(metadata.len()));
                report.row(what, &build.name, &figure, goal, &octets);
            }
            Err(error) => report.skip(what, &build.name, error),
        }
    }
    Ok(())
}

fn is_static(build: &Build) -> bool {
    build.name == "tiny-static"
}
