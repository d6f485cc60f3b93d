//! A node that joins a cluster: the time until it has the whole table, and how long clients of either node wait
//! meanwhile. Each node has a core of its own; the probes run before the node that joins, on its core.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::common::{Directory, run, wait_longer};
use super::latency::{self, Waits};
use super::options::{Build, Options};
use super::population::Population;
use super::report::{Goal, Report, Spread, grouped};
use super::server::{self, GENERATOR_CORE, SERVER_CORE, Server};
use super::udp_load;

/// A node that reaches no other is alone after ten seconds; one that joins a large table on a slow machine takes
/// longer.
const WITHIN: Duration = Duration::from_secs(120);

/// Joins that are made one after the other, for more than some thousand probes.
const JOINS: usize = 3;

const ALONE: &str = "cluster: cannot reach the other nodes";
const WHOLE: &str = "cluster: received the peers of the other nodes";

pub fn join(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(torrents.saturating_mul(5));
    let population = Population::power_law(torrents, peers, options.family);
    let (torrents, peers) = (grouped(torrents), grouped(peers));
    let what = format!("seconds until a node is whole, {torrents} torrents, {peers} peers");
    report.begin(&what);
    for build in &options.builds {
        let directory = Directory::new("bench-join");
        let key = directory.file("key");
        assert_eq!(run(&["--make-key", &key]).0, Some(0));
        let old = node(build, &population, &key, None, SERVER_CORE);
        let filled = udp_load::fill(&old, &population)?;
        report.detail(&build.name, format_args!("filled: {filled}"));
        wait_for_line(&old, ALONE);
        let joins = (0..JOINS).map(|_| join_once(build, &population, &key, &old, options));
        let joins: Vec<Join> = joins.collect::<io::Result<_>>()?;
        let time = Spread::of(joins.iter().map(|join| join.seconds));
        let figure = (time.median, format!("{time} s"));
        let remark = "from the start of its process";
        report.row(&what, &build.name, figure, Goal::AtMost(2.0), remark);
        for (side, who) in ["sends its table", "joins"].into_iter().enumerate() {
            let what = format!("longest wait of a UDP connect at the node that {who}, above idle");
            let above = Spread::of(joins.iter().map(|join| join.above(side)));
            let figure = (above.median, format!("{above:.1} ms"));
            let (waits, idle) = &joins[0].waits[side];
            let remark = format!("the first join: {waits}; idle: {idle}");
            report.row(&what, &build.name, figure, Goal::AtMost(2.0), &remark);
        }
    }
    Ok(())
}

struct Join {
    /// Time until the node is whole, from the start of its process.
    seconds: f64,
    /// Of the node that sends its table and of the one that joins: waits during the join, and on the idle node.
    waits: [(Waits, Waits); 2],
}

impl Join {
    /// Milliseconds by which the longest wait was longer than on the idle node.
    fn above(&self, side: usize) -> f64 {
        let (waits, idle) = &self.waits[side];
        waits.longest() - idle.longest()
    }
}

fn join_once(
    build: &Build,
    population: &Population,
    key: &str,
    old: &Server,
    options: &Options,
) -> io::Result<Join> {
    let idle_seconds = 3.0 * options.seconds;
    let old_idle = latency::probe_for(old.address, idle_seconds)?;
    let begin = Instant::now();
    let new = node(
        build,
        population,
        key,
        Some(old.daemon().cluster()),
        GENERATOR_CORE,
    );
    let (of_old, (of_new, seconds)) = latency::probe_during(old.address, || {
        latency::probe_during(new.address, || {
            wait_for_line(&new, WHOLE);
            Ok(begin.elapsed().as_secs_f64())
        })
    })?;
    assert_eq!(udp_load::known(&new, population), udp_load::ASKED);
    let new_idle = latency::probe_for(new.address, idle_seconds)?;
    Ok(Join {
        seconds,
        waits: [(of_old, old_idle), (of_new, new_idle)],
    })
}

fn node(
    build: &Build,
    population: &Population,
    key: &str,
    peer: Option<SocketAddr>,
    core: usize,
) -> Server {
    let listen = SocketAddr::new(population.family.server(), 0).to_string();
    let mut arguments = vec!["--cluster-listen", &listen, "--cluster-key", key];
    let peer = peer.map(|peer| peer.to_string());
    if let Some(peer) = &peer {
        arguments.extend(["--cluster-peer", peer]);
    }
    let address = server::address(population.family);
    Server::announced_on(core, build, address, &arguments)
}

fn wait_for_line(node: &Server, line: &str) {
    wait_longer(line, WITHIN, || {
        (node.daemon().count_lines(line) > 0).then_some(())
    });
}
