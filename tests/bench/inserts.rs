//! What an insert costs where a table could be slow: hashes that collide, and a huge swarm.
//!
//! Two trackers are filled with as many records each, then grow in turns, so that the machine is
//! the same for both. What is told is processor time an announce, which wants no peers: the cost
//! of the announce itself is in both halves of the ratio, and the insert is what differs.

use std::io;

use crate::options::Options;
use crate::population::{Fill, Hashes, Population};
use crate::report::{Figure, Goal, Report, Spread};
use crate::server::Server;
use crate::udp_load;

/// Records in each table before it is measured.
const BASE: u32 = 1_000_000;

/// Records added a turn.
const STEP: u32 = 50_000;

/// One of the two tables: who is in it at first, and who comes in each turn.
struct Side {
    population: Population,
    base: fn(&Population) -> Fill<'_>,
    step: fn(&Population, u32) -> Fill<'_>,
}

/// A torrent whose hash shares its first 16 octets with a million others, against a random one.
pub fn colliding_hashes(options: &Options, report: &mut Report) -> io::Result<()> {
    let steps = options.pairs as u32;
    let population = Population::even(BASE + steps * STEP, 1, options.family);
    let side = |hashes| Side {
        population: population.clone().with_hashes(hashes),
        base: |population| Fill::part(population, 0..BASE, 0..1),
        step: |population, step| {
            let first = BASE + step * STEP;
            Fill::part(population, first..first + STEP, 0..1)
        },
    };
    let what = "CPU of inserting a torrent, 16 octets shared with a million others, to random";
    // opentracker chooses a vector by the first octets of the hash and keeps it sorted: with all
    // torrents in one, a million were not in after ten minutes.
    compare(
        what,
        [&side(Hashes::SharedPrefix), &side(Hashes::Random)],
        false,
        options,
        report,
    )
}

/// A peer into a swarm of a million, against one into a thousand swarms of a thousand.
pub fn large_swarm(options: &Options, report: &mut Report) -> io::Result<()> {
    const SWARMS: u32 = 1_000;
    let steps = options.pairs as u32;
    let all = BASE + steps * STEP;
    let one = Side {
        population: Population::even(1, all, options.family),
        base: |population| Fill::part(population, 0..1, 0..BASE),
        step: |population, step| {
            let first = BASE + step * STEP;
            Fill::part(population, 0..1, first..first + STEP)
        },
    };
    let many = Side {
        population: Population::even(SWARMS, all / SWARMS, options.family),
        base: |population| Fill::part(population, 0..SWARMS, 0..BASE / SWARMS),
        step: |population, step| {
            let first = (BASE + step * STEP) / SWARMS;
            Fill::part(population, 0..SWARMS, first..first + STEP / SWARMS)
        },
    };
    let what = "CPU of inserting a peer, swarm of a million to swarms of a thousand";
    if one.population.limit() < all {
        report.begin(what);
        report.skip(
            what,
            "all",
            "over IPv6 the loopback has too few addresses for a million peers",
        );
        return Ok(());
    }
    compare(what, [&one, &many], options.full, options, report)
}

fn compare(
    what: &str,
    sides: [&Side; 2],
    with_opentracker: bool,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    report.begin(what);
    for build in &options.builds {
        let start = |_: &Side| Server::announced(build, options.family, &[]);
        tell(
            what,
            &build.name,
            sides,
            start,
            Goal::AtMost(2.0),
            options,
            report,
        )?;
    }
    if with_opentracker {
        let start = |side: &Side| Server::opentracker(options.family, &[&side.population]);
        tell(
            what,
            "opentracker",
            sides,
            start,
            Goal::None,
            options,
            report,
        )?;
    }
    Ok(())
}

fn tell(
    what: &str,
    name: &str,
    sides: [&Side; 2],
    start: impl Fn(&Side) -> io::Result<Server>,
    goal: Goal,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let servers = match (start(sides[0]), start(sides[1])) {
        (Ok(first), Ok(second)) => [first, second],
        (Err(error), _) | (_, Err(error)) => {
            report.skip(what, name, error);
            return Ok(());
        }
    };
    let [hard, easy] = match grow_in_turns(sides, &servers, options.pairs) {
        Ok(costs) => costs,
        Err(error) => {
            report.skip(what, name, error);
            return Ok(());
        }
    };
    let ratios = Spread::of(hard.iter().zip(&easy).map(|(hard, easy)| hard / easy));
    let ratios = ratios.expect("at least one pair");
    let micros = |costs: Vec<f64>| Spread::of(costs).expect("as above").median * 1e6;
    let remark = format!(
        "{:.3} µs to {:.3} µs CPU an announce, {} pairs",
        micros(hard),
        micros(easy),
        options.pairs
    );
    let figure = Figure {
        value: ratios.median,
        text: ratios.to_string(),
    };
    report.row(what, name, &figure, goal, &remark);
    Ok(())
}

/// Processor time an announce of each step, for both sides.
fn grow_in_turns(
    sides: [&Side; 2],
    servers: &[Server; 2],
    steps: usize,
) -> io::Result<[Vec<f64>; 2]> {
    for (side, server) in sides.iter().zip(servers) {
        let population = &side.population;
        udp_load::fill(server, population, &mut (side.base)(population))?;
    }
    let mut costs = [Vec::new(), Vec::new()];
    for step in 0..steps as u32 {
        for ((side, server), costs) in sides.iter().zip(servers).zip(&mut costs) {
            let population = &side.population;
            let filled = udp_load::fill(server, population, &mut (side.step)(population, step))?;
            costs.push(filled.cost);
        }
    }
    Ok(costs)
}
