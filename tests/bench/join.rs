//! A node that joins a cluster: how long until it is whole, and how long clients of either node wait
//! meanwhile. Each node has a core of its own; the probes run before the node that joins, on its core.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::latency::{self, Latencies};
use crate::options::{Build, Options};
use crate::population::{Fill, Population};
use crate::report::{Figure, Goal, Report, grouped};
use crate::server::{GENERATOR_CORE, Key, SERVER_CORE, Server, free_address};
use crate::udp_load;

/// A node that reaches no other serves alone after ten seconds; one that joins a large table on a slow
/// machine takes longer.
const WITHIN: Duration = Duration::from_secs(120);

/// Joins that are made one after the other, for more than some thousand probes.
const JOINS: usize = 3;

/// Milliseconds by which a wait may be longer than on idle nodes, and seconds until a node is whole.
const STALL: f64 = 2.0;
const WHOLE: f64 = 2.0;

const ALONE: &str = "cluster: cannot reach the other nodes";
const IS_WHOLE: &str = "cluster: received the peers of the other nodes";

/// What was seen of both.
struct Joined {
    /// From the start of its process.
    whole: Duration,
    /// Of the node that is asked and of the one that joins.
    waits: [Latencies; 2],
    idle: [Latencies; 2],
}

pub fn join(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let peers = options.peers.unwrap_or(torrents.saturating_mul(5));
    let population = Population::power_law(torrents, peers, options.family);
    let (torrents, peers) = (grouped(torrents.into()), grouped(peers.into()));
    let what = format!("seconds until a node is whole, {torrents} torrents, {peers} peers");
    report.begin(&what);
    for build in &options.builds {
        match measure(build, &population, report) {
            Ok(joins) => tell(&what, &build.name, &joins, report),
            Err(error) => report.skip(&what, &build.name, error),
        }
    }
    Ok(())
}

fn measure(build: &Build, population: &Population, report: &mut Report) -> io::Result<Vec<Joined>> {
    let key = Key::new(build)?;
    let first = free_address(population.family)?;
    let old = node(build, population, &key, first, None, SERVER_CORE)?;
    let filled = udp_load::fill(&old, population, &mut Fill::all(population))?;
    report.say(&build.name, format_args!("filled: {filled}"));
    wait_for(&old, ALONE)?;
    (0..JOINS)
        .map(|_| join_once(build, population, &key, &old, first))
        .collect()
}

fn join_once(
    build: &Build,
    population: &Population,
    key: &Key,
    old: &Server,
    first: SocketAddr,
) -> io::Result<Joined> {
    let length = Duration::from_secs(3);
    let old_idle = latency::probe_for(old.address, length)?;
    let begin = Instant::now();
    let second = free_address(population.family)?;
    let new = node(build, population, key, second, Some(first), GENERATOR_CORE)?;
    let mut whole = Duration::ZERO;
    let mut of_new = None;
    let of_old = latency::probe_during(old.address, || {
        of_new = Some(latency::probe_during(new.address, || {
            wait_for(&new, IS_WHOLE)?;
            whole = begin.elapsed();
            Ok(())
        })?);
        Ok(())
    })?;
    let known = udp_load::known(&new, population)?;
    if known < udp_load::ASKED as usize {
        return Err(io::Error::other(format!("{known} torrents are known")));
    }
    let of_new = of_new.ok_or_else(|| io::Error::other("no probes"))?;
    Ok(Joined {
        whole,
        waits: [of_old, of_new],
        idle: [old_idle, latency::probe_for(new.address, length)?],
    })
}

fn node(
    build: &Build,
    population: &Population,
    key: &Key,
    address: SocketAddr,
    peer: Option<SocketAddr>,
    core: usize,
) -> io::Result<Server> {
    let listen = address.to_string();
    let peer = peer.map(|peer| peer.to_string());
    let mut arguments = vec!["--cluster-listen", &listen, "--cluster-key", key.path()];
    if let Some(peer) = &peer {
        arguments.extend(["--cluster-peer", peer]);
    }
    Server::announced_on(core, build, population.family, &arguments)
}

fn wait_for(node: &Server, line: &str) -> io::Result<()> {
    let deadline = Instant::now() + WITHIN;
    while node.logged(line) == 0 {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("its log does not say: {line}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn tell(what: &str, name: &str, joins: &[Joined], report: &mut Report) {
    let mut times: Vec<f64> = joins.iter().map(|join| join.whole.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let figure = Figure {
        value: median,
        text: format!("{median:.2} s"),
    };
    let remark = format!("from the start of its process; all: {times:.2?}");
    report.row(what, name, &figure, Goal::AtMost(WHOLE), &remark);
    for (side, who) in ["gives its table", "joins"].into_iter().enumerate() {
        let what = format!("longest wait of a UDP connect at the node that {who}, above idle");
        let mut above: Vec<(f64, &Joined)> =
            joins.iter().map(|join| (join.above(side), join)).collect();
        above.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let Some((median, join)) = above.get(above.len() / 2) else {
            continue;
        };
        let figure = Figure {
            value: *median,
            text: format!("{median:.3} ms"),
        };
        let all: Vec<f64> = above.iter().map(|(above, _)| *above).collect();
        let (waits, idle) = (&join.waits[side], &join.idle[side]);
        let remark = format!("all: {all:.1?}; {waits}; idle: {idle}");
        report.row(&what, name, &figure, Goal::AtMost(STALL), &remark);
    }
}

impl Joined {
    /// Milliseconds that the longest wait was longer than on an idle node.
    fn above(&self, side: usize) -> f64 {
        let milliseconds = |waits: &Latencies| waits.longest().as_secs_f64() * 1e3;
        milliseconds(&self.waits[side]) - milliseconds(&self.idle[side])
    }
}
