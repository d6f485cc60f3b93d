//! Memory a peer, of an idle tracker, and of several threads against one.

use std::io;

use super::options::Bench;
use super::population::Population;
use super::report::{Goal, grouped, megabytes};
use super::server::{SERVER_CORE, Server};
use super::udp_load::fill;
use announced::tracker::{PEER_BYTES, TORRENT_BYTES};

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

/// A population of this shape, or of fewer torrents if the command line says so, with the words for it.
fn population(bench: &Bench, torrents: u32, peers: u32) -> (Population, String) {
    let torrents = bench.torrents.map_or(torrents, |max| max.min(torrents));
    let words = format!("{} torrents of {}", grouped(torrents), grouped(peers));
    (Population::even(torrents, peers, bench.family), words)
}

/// Growth of the resident set from a tracker just started to one that knows all peers, half of them seeders. Every
/// announce is acknowledged, so the number of peers is exact.
pub fn growth(bench: &Bench) -> io::Result<()> {
    for (torrents, peers, limit) in SHAPES {
        let (population, words) = population(bench, torrents, peers);
        let subject = format!("RSS growth a peer, {words}");
        bench.begin(&subject);
        for server in Server::builds(bench, &[]) {
            let before = server.settled_resident();
            let peers = fill(bench, &server, &population)?;
            let after = server.settled_resident();
            let bytes = after.saturating_sub(before) as f64 / peers as f64;
            let remark = format!("{} to {}", megabytes(before), megabytes(after));
            let figure = (bytes, format!("{bytes:.1} B"));
            bench.row(&subject, &server.name, figure, Goal::AtMost(limit), &remark);
        }
    }
    Ok(())
}

/// Torrents of a flood, and peers in each.
const FLOOD: (u32, u32) = (10_000_000, 5);

/// The resident set after a flood of distinct peers that fill the table, of what MEMORY in announced.conf(5) says.
pub fn flood(bench: &Bench) -> io::Result<()> {
    let (population, words) = population(bench, FLOOD.0, FLOOD.1);
    let subject = format!("RSS of the formula's, {words}");
    bench.begin(&subject);
    let torrents = u64::from(population.torrents);
    let peers = torrents * u64::from(FLOOD.1);
    let most = 8_000_000 + torrents * TORRENT_BYTES + peers * PEER_BYTES;
    let bounds = [torrents, peers].map(|bound| bound.to_string());
    let bounds = ["--max-torrents", &bounds[0], "--max-peers", &bounds[1]];
    for build in &bench.builds {
        let server = Server::announced(SERVER_CORE, build, bench.family, &bounds);
        fill(bench, &server, &population)?;
        let resident = server.resident();
        let ratio = resident as f64 / most as f64;
        let remark = format!("{} of {}", megabytes(resident), megabytes(most));
        let figure = (ratio, format!("{ratio:.3}"));
        bench.row(&subject, &server.name, figure, Goal::AtMost(1.0), &remark);
    }
    Ok(())
}

pub fn idle(bench: &Bench) -> io::Result<()> {
    let subject = "idle RSS";
    bench.begin(subject);
    // A static build has no shared library, whose pages count as resident although all processes share them.
    let limit = |name: &str| if name == "tiny-static" { 0.5 } else { 3.5 };
    for server in Server::builds(bench, &[]) {
        resident(bench, subject, &server, Goal::AtMost(limit(&server.name)));
    }
    let nothing = Population::even(0, 0, bench.family);
    if let Some(server) = Server::opentracker(bench, subject, &nothing) {
        resident(bench, subject, &server, Goal::None);
    }
    Ok(())
}

fn resident(bench: &Bench, subject: &str, server: &Server, goal: Goal) {
    let resident = server.settled_resident();
    let figure = (resident as f64 / 1e6, megabytes(resident));
    bench.row(subject, &server.name, figure, goal, "");
}

/// Resident memory of several threads against that of one, with peers and without.
pub fn threads(bench: &Bench) -> io::Result<()> {
    for (torrents, peers, limit) in THREADS_SHAPES {
        let (population, words) = population(bench, torrents, peers);
        let subject = format!("RSS of {THREADS} threads, {words}");
        bench.begin(&subject);
        for build in &bench.builds {
            let filled = |threads| {
                let server = Server::with_threads(build, threads, bench.family);
                fill(bench, &server, &population)?;
                io::Result::Ok(server.settled_resident())
            };
            let (many, one) = (filled(THREADS)?, filled(1)?);
            let ratio = many as f64 / one as f64;
            let figure = (ratio, format!("{ratio:.3} of one thread's"));
            let remark = format!("{} to {}", megabytes(many), megabytes(one));
            bench.row(&subject, &build.name, figure, Goal::AtMost(limit), &remark);
        }
    }
    let subject = format!("idle RSS of {THREADS} threads");
    bench.begin(&subject);
    for build in &bench.builds {
        let server = Server::with_threads(build, THREADS, bench.family);
        resident(bench, &subject, &server, Goal::AtMost(4.0));
    }
    Ok(())
}
