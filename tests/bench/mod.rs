//! The figures by which this tracker is judged, measured side by side.
//!
//! Absolute numbers move with the machine, so every figure of speed is a ratio: the tracker and a reference take
//! turns on the same core under the same load, and the report gives the median of the turns' ratios with its spread.
//! The references are bare loops that do nothing but move bytes ([`bare`]), and opentracker where it is installed.
//! Nothing here is a timed test: figures are printed with the goals beside them.
//!
//! - [`options`]: the command line
//! - [`throughput`], [`memory`], [`latency`], [`fullscrape`], [`join`]: cases that measure server processes
//! - [`table`], [`sync`]: cases that measure tables and nodes of a cluster within this process
//! - [`population`]: the torrents and peers, and the order in which they announce
//! - [`contest`]: servers taking turns; [`udp_load`], [`http_load`]: the load generators
//! - [`server`]: a server process on its own core
//! - [`report`]: the printed figures
//! - [`sys`]: system calls, and all the `unsafe`

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod contest;
mod fullscrape;
mod http_load;
mod join;
mod latency;
mod memory;
mod options;
mod population;
mod report;
mod server;
mod sync;
mod sys;
mod table;
mod throughput;
mod udp_load;

use options::{Bench, Command};
use population::Family;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// The numwant of all announces under load.
const NUMWANT: usize = 30;

type Run = fn(&Bench) -> io::Result<()>;

struct Case {
    name: &'static str,
    /// Whether it runs when no case is chosen.
    is_default: bool,
    about: &'static str,
    run: Run,
}

#[rustfmt::skip]
const fn case(name: &'static str, is_default: bool, about: &'static str, run: Run) -> Case {
    Case { name, is_default, about, run }
}

/// All cases in the order of the table.
#[rustfmt::skip] // One row a case.
const CASES: &[Case] = &[
    case("udp", true, "UDP announces, of a bare echo loop's", |b| throughput::udp(b, b.family, false, 0.93)),
    case("udp-ipv6", true, "the same over IPv6", |b| throughput::udp(b, Family::V6, false, 0.90)),
    case("udp-large", false, "with 10 million torrents", |b| throughput::udp(b, b.family, true, 0.90)),
    case("udp-wildcard", true, "UDP announces at a wildcard address, of those at a bound one", throughput::wildcard),
    case("http", true, "HTTP announces, of a bare epoll loop's", |b| throughput::http(b, true)),
    case("http-new", true, "with a connection each", |b| throughput::http(b, false)),
    case("threads", true, "UDP announces of 2 and 4 threads, of one's", |b| throughput::threads(b, false)),
    case("threads-large", false, "with 10 million torrents", |b| throughput::threads(b, true)),
    case("threads-memory", true, "memory of 4 threads, of one's", memory::threads),
    case("memory", true, "memory a peer", memory::growth),
    case("memory-flood", false, "memory of 50 million peers, of the formula's", memory::flood),
    case("idle", true, "memory without peers", memory::idle),
    case("table", true, "announces to a table, by size of the swarms", table::by_swarm_size),
    case("picks", true, "announces that are sent peers, by size of the swarm", table::picks),
    case("inserts", false, "torrents with colliding hashes, and large swarms", table::inserts),
    case("latency", true, "wait of a UDP connect under full load", latency::load),
    case("sweep", false, "the same while 10 million torrents expire", latency::sweep),
    case("reload", false, "the same while a million lines are reloaded", latency::reload),
    case("state", false, "the same while a million torrents are saved", latency::state),
    case("fullscrape-latency", true, "the same during full scrapes", fullscrape::latency),
    case("fullscrape", true, "full scrapes, of opentracker's", fullscrape::compare),
    case("join", true, "a node that joins a cluster", join::join),
    case("sync-apply", true, "CPU of a renewal from another node", sync::apply),
    case("sync-note", true, "CPU of an announce with a cluster", sync::note),
    case("sync-wire", true, "bytes on the wire of a renewal", sync::wire),
    case("sync-heal", true, "time to agree after a partition", sync::heal),
];

pub fn main() -> ExitCode {
    match options::parse(std::env::args_os()) {
        Ok(Command::Help(text)) => print!("{text}"),
        Ok(Command::Bare(kind, address)) => {
            if let Err(error) = bare::run(&kind, address) {
                eprintln!("bench: {kind}: {error}");
            }
        }
        Ok(Command::Measure(bench)) => measure(&bench),
        Err(error) => {
            eprintln!("bench: {error} (--help lists the options)");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Runs the chosen cases, then prints the table. A case that fails has its row, and the others run all the same.
fn measure(bench: &Bench) {
    server::enter_network();
    server::pin_generator();
    for case in &bench.cases {
        let error = match catch_unwind(AssertUnwindSafe(|| (case.run)(bench))) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a panic, see above".to_string(),
        };
        bench.skip(case.name, "all", &error);
    }
    bench.print();
}
