//! What `make bench` runs: the figures by which this tracker is judged, measured side by side.
//!
//! Absolute numbers move with the machine, so every figure of speed is a ratio: the tracker and a
//! reference take turns on the same core under the same load, and the median of the turns' ratios
//! is told with its spread. The references are bare loops that do nothing but move bytes
//! ([`bare`]), and opentracker where it is installed. Nothing here is a timed test: figures are
//! printed, and goals are told beside them.
//!
//! - [`options`]: the command line
//! - [`throughput`], [`memory`], [`inserts`], [`latency`], [`wire`], [`fullscrape`], [`lists`],
//!   [`join`], [`sync`], [`threads`]: the cases
//! - [`population`]: which torrents and peers there are, and who announces next
//! - [`udp_load`], [`http_load`]: the load generators
//! - [`server`]: starting, measuring and ending a server process
//! - [`bare`]: the reference loops
//! - [`report`]: numbers for people
//! - [`sys`]: system calls, and all the `unsafe`

#[cfg(target_os = "linux")]
mod bare;
#[cfg(target_os = "linux")]
mod contest;
#[cfg(target_os = "linux")]
mod fullscrape;
#[cfg(target_os = "linux")]
mod http_load;
#[cfg(target_os = "linux")]
mod inserts;
#[cfg(target_os = "linux")]
mod join;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod lists;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod population;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod sync;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod throughput;
#[cfg(target_os = "linux")]
mod udp_load;
#[cfg(target_os = "linux")]
mod wire;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the benchmark needs Linux: it reads /proc and pins processes to cores");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use options::Command;
    let done = match options::parse(std::env::args_os()) {
        Ok(Command::Help) => {
            print!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Bare(loop_)) => bare::run(&loop_),
        Ok(Command::Measure(options)) => measure(&options),
        Err(error) => {
            eprintln!("bench: {error} (--help lists the options)");
            return std::process::ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs the chosen cases in the order of the table, then prints the table. A case that fails has
/// its line, and the others are measured all the same.
#[cfg(target_os = "linux")]
fn measure(options: &options::Options) -> std::io::Result<()> {
    server::prepare_generator()?;
    let mut report = report::Report::new();
    for &case in &options.cases {
        if let Err(error) = run(case, options, &mut report) {
            report.skip(case.name(), "all", error);
        }
    }
    report.print();
    Ok(())
}

#[cfg(target_os = "linux")]
fn run(
    case: options::Case,
    options: &options::Options,
    report: &mut report::Report,
) -> std::io::Result<()> {
    use options::Case;
    match case {
        Case::Udp | Case::UdpLarge => throughput::udp(options, case, report),
        Case::Http | Case::HttpNew => throughput::http(options, case, report),
        Case::Memory => memory::growth(options, report),
        Case::Idle => memory::idle(options, report),
        Case::Size => memory::sizes(options, report),
        Case::InsertHash => inserts::colliding_hashes(options, report),
        Case::InsertPeer => inserts::large_swarm(options, report),
        Case::Wire => wire::bytes(options, report),
        Case::Latency => latency::idle_and_loaded(options, report),
        Case::Sweep => latency::sweep(options, report),
        Case::Lists => lists::lists(options, report),
        Case::State => latency::state(options, report),
        Case::Join => join::join(options, report),
        Case::FullScrape => fullscrape::compare(options, report),
        Case::FullScrapeLarge => fullscrape::large(options, report),
        Case::FullScrapeLatency => fullscrape::latency(options, report),
        Case::SyncApply => sync::apply(options, report),
        Case::SyncNote => sync::note(options, report),
        Case::SyncWire => sync::wire(options, report),
        Case::SyncHeal => sync::heal(options, report),
        Case::Threads | Case::ThreadsLarge => threads::speedup(options, case, report),
        Case::ThreadsCost => threads::cost(options, report),
        Case::ThreadsMemory => threads::memory(options, report),
    }
}
