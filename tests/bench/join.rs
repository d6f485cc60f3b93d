//! A node that joins a cluster: the time until it has the whole table, and how long clients of either node wait
//! meanwhile. Each node has a core of its own; the probes run before the node that joins, on its core.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::common::{Directory, run, wait_longer};
use super::latency::{self, Waits};
use super::options::{Bench, Build};
use super::population::Population;
use super::report::{Goal, Spread, grouped};
use super::server::{GENERATOR_CORE, SERVER_CORE, Server};
use super::udp_load;

/// A node that reaches no other is alone after ten seconds. A node that joins a large table on a slow machine takes
/// longer.
const WITHIN: Duration = Duration::from_secs(120);

/// Joins that are made one after the other, for more than some thousand probes.
const JOINS: usize = 3;

const ALONE: &str = "cluster: cannot reach the other nodes";
const WHOLE: &str = "cluster: received the peers of the other nodes";

pub fn join(bench: &Bench) -> io::Result<()> {
    let population = bench.power_law(1_000_000, 5);
    let torrents = grouped(population.torrents);
    let subject = format!("seconds until a node is whole, {torrents} torrents by power law");
    bench.begin(&subject);
    for build in &bench.builds {
        let directory = Directory::new("bench-join");
        let key = directory.file("key");
        assert_eq!(run(&["--make-key", &key]).0, Some(0));
        let old = node(build, &population, &key, None);
        udp_load::fill(bench, &old, &population)?;
        wait_for_line(&old, ALONE);
        let joins = (0..JOINS).map(|_| join_once(bench, build, &population, &key, &old));
        let joins: Vec<Join> = joins.collect::<io::Result<_>>()?;
        let figure = Spread::of(joins.iter().map(|join| join.seconds)).figure(" s");
        let remark = "from the start of its process";
        bench.row(&subject, &build.name, figure, Goal::AtMost(2.0), remark);
        for (side, role) in ["sends its table", "joins"].into_iter().enumerate() {
            let subject =
                format!("longest wait of a UDP connect at a node that {role}, above idle");
            let above = joins.iter().map(|Join { waits, .. }| {
                let (during, idle) = &waits[side];
                during.longest() - idle.longest()
            });
            let figure = Spread::of(above).figure(" ms");
            let (waits, idle) = &joins[0].waits[side];
            let remark = format!("the first join: {waits}; idle: {idle}");
            bench.row(&subject, &build.name, figure, Goal::AtMost(2.0), &remark);
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

fn join_once(
    bench: &Bench,
    build: &Build,
    population: &Population,
    key: &str,
    old: &Server,
) -> io::Result<Join> {
    let idle_seconds = 3.0 * bench.seconds;
    let old_idle = latency::probe_for(old.address, idle_seconds)?;
    let begin = Instant::now();
    let new = node(build, population, key, Some(old.daemon().cluster()));
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

/// The first node, or one that joins it, on the other core.
fn node(build: &Build, population: &Population, key: &str, peer: Option<SocketAddr>) -> Server {
    let listen = SocketAddr::new(population.family.server(), 0).to_string();
    let mut arguments = vec!["--cluster-listen", &listen, "--cluster-key", key];
    let peer = peer.map(|peer| peer.to_string());
    let core = if peer.is_some() {
        GENERATOR_CORE
    } else {
        SERVER_CORE
    };
    arguments.extend(peer.iter().flat_map(|peer| ["--cluster-peer", peer]));
    Server::announced(core, build, population.family, &arguments)
}

fn wait_for_line(node: &Server, line: &str) {
    let has_line = || (node.daemon().count_lines(line) > 0).then_some(());
    wait_longer(line, WITHIN, has_line);
}
