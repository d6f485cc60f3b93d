//! How long the loop keeps a client waiting: a UDP connect every millisecond.
//!
//! A connect touches no table, so its latency is the time that the loop needs to come back to its
//! socket. What the machine itself adds (waking both processes, other programs) is seen on the
//! idle daemon, whose figures are told beside every other.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::options::{Build, Options};
use crate::population::{Fill, Population, Reannounce};
use crate::report::{Figure, Goal, NOT_COUNTED, Report, grouped};
use crate::server::{self, Server};
use crate::sys;
use crate::udp_load::{self, Event, UdpLoad};

const EVERY: Duration = Duration::from_millis(1);

/// A reply that has not come by then is lost, and counts as so late.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Waiting times of one run, sorted.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    fn quantile(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((last as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        self.quantile(1.0)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [median, p99, longest] =
            [0.5, 0.99, 1.0].map(|share| milliseconds(self.quantile(share)));
        let count = grouped(self.0.len() as u64);
        write!(
            f,
            "median {median}, p99 {p99}, longest {longest} of {count}"
        )
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// Probes until told to stop. A probe that is late because the one before was kept waiting is
/// timed from when it was due, or a stall would count once however long it was.
pub fn probe(server: SocketAddr, stop: impl Fn() -> bool) -> io::Result<Latencies> {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    let mut latencies = Vec::new();
    let mut due = Instant::now();
    let mut transaction = 0u32;
    while !stop() {
        let now = Instant::now();
        let begin = if now < due {
            thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        transaction = transaction.wrapping_add(1);
        socket.send(&udp_load::connect_request(transaction))?;
        await_reply(&socket, transaction)?;
        latencies.push(begin.elapsed());
        due = due.max(begin) + EVERY;
    }
    latencies.sort();
    Ok(Latencies(latencies))
}

fn await_reply(socket: &UdpSocket, transaction: u32) -> io::Result<()> {
    let mut reply = [0; 64];
    loop {
        match socket.recv(&mut reply) {
            Ok(length) if length >= 16 && reply[4..8] == transaction.to_be_bytes() => return Ok(()),
            // A late reply to an earlier probe.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

pub fn probe_for(server: SocketAddr, length: Duration) -> io::Result<Latencies> {
    let end = Instant::now() + length;
    probe(server, || Instant::now() >= end)
}

/// Probes from a thread of its own while `work` is done on this one. The thread runs before the
/// work, where it may, since both are on the generator's core.
pub fn probe_during(
    server: SocketAddr,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<Latencies> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let prober = scope.spawn(|| {
            sys::run_first();
            probe(server, || done.load(Ordering::Relaxed))
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let latencies = prober.join().expect("the probe does not panic")?;
        worked.map(|()| latencies)
    })
}

/// The idle daemon, and one that is given all the announces that it can answer.
pub fn idle_and_loaded(options: &Options, report: &mut Report) -> io::Result<()> {
    let what = "longest wait of a UDP connect under full load";
    report.begin(what);
    let population = Population::power_law(100_000, 1_000_000, options.family);
    let length = Duration::from_secs_f64(options.seconds * 5.0);
    let mut servers = server::each_build(&options.builds, options.family, &[]);
    if options.full {
        servers.push((
            "opentracker",
            Server::opentracker(options.family, &[&population]),
        ));
    }
    for (name, server) in servers {
        let measured = server.and_then(|server| {
            let idle = probe_for(server.address, length)?;
            let loaded = loaded(&server, &population, options.numwant, length)?;
            Ok((idle, loaded))
        });
        match measured {
            Ok((idle, loaded)) => tell(what, name, &loaded, &idle, Goal::None, "", report),
            Err(error) => report.skip(what, name, error),
        }
    }
    Ok(())
}

fn loaded(
    server: &Server,
    population: &Population,
    numwant: u32,
    length: Duration,
) -> io::Result<Latencies> {
    udp_load::fill(server, population, &mut Fill::all(population))?;
    let mut load = UdpLoad::new(server.address, population)?;
    load.ask(numwant, Event::None);
    load.connect()?;
    let mut requests = Reannounce::new(population);
    let end = Instant::now() + length;
    probe_during(server.address, || load.drive(&mut requests, end).map(drop))
}

/// The arguments with which a tracker forgets peers in two minutes, the shortest that leaves time
/// to tell it of ten million.
const SWEEP_ARGUMENTS: [&str; 4] = ["--interval", "60", "--peer-timeout", "120"];
const SWEEP_TIMEOUT: Duration = Duration::from_secs(120);

/// The daemon while ten million torrents of one peer each expire.
pub fn sweep(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(10_000_000);
    let population = Population::even(torrents, 1, options.family);
    let grouped = grouped(u64::from(torrents));
    let what = format!("longest wait of a UDP connect while {grouped} torrents expire");
    report.begin(&what);
    for build in &options.builds {
        sweep_one(
            &what,
            build,
            &SWEEP_ARGUMENTS,
            SWEEP_TIMEOUT,
            &population,
            report,
        )?;
    }
    Ok(())
}

/// One daemon with its arguments, whose peers expire after `timeout`.
fn sweep_one(
    what: &str,
    build: &Build,
    arguments: &[&str],
    timeout: Duration,
    population: &Population,
    report: &mut Report,
) -> io::Result<()> {
    let server = match Server::announced(build, population.family, arguments) {
        Ok(server) => server,
        Err(error) => {
            report.skip(what, &build.name, error);
            return Ok(());
        }
    };
    let idle = probe_for(server.address, Duration::from_secs(5))?;
    let begin = Instant::now();
    let filled = udp_load::fill(&server, population, &mut Fill::all(population))?;
    report.say(&build.name, format_args!("filled: {filled}"));
    // The last peer comes at the end of the fill, and is found by the sweep after its timeout.
    let end = Instant::now() + timeout + timeout / 4;
    let swept = probe(server.address, || Instant::now() >= end)?;
    let left = udp_load::known(&server, population)?;
    let mut remark = format!("of {:.0} s", begin.elapsed().as_secs_f64());
    if left > 0 {
        remark = format!(
            "{left} of {} torrents asked about are left: {NOT_COUNTED}",
            udp_load::ASKED
        );
    }
    tell(
        what,
        &build.name,
        &swept,
        &idle,
        Goal::AtMost(3.0),
        &remark,
        report,
    );
    Ok(())
}

/// Saves that are made one after the other, for more than a handful of probes.
const SAVES: usize = 10;

/// A save that takes longer has failed.
const SAVED_WITHIN: Duration = Duration::from_secs(60);

/// The daemon while it saves the state of a million torrents. The process that writes it shares the
/// daemon's core.
pub fn state(options: &Options, report: &mut Report) -> io::Result<()> {
    let torrents = options.torrents.unwrap_or(1_000_000);
    let population = Population::power_law(torrents, torrents.saturating_mul(2), options.family);
    let grouped = grouped(u64::from(torrents));
    let what = format!("longest wait of a UDP connect while {grouped} torrents are saved");
    report.begin(&what);
    for build in &options.builds {
        match save_one(build, &population, report) {
            Ok((saved, idle)) => {
                let goal = Goal::AtMost(5.0);
                tell(&what, &build.name, &saved, &idle, goal, "", report);
            }
            Err(error) => report.skip(&what, &build.name, error),
        }
    }
    Ok(())
}

fn save_one(
    build: &Build,
    population: &Population,
    report: &mut Report,
) -> io::Result<(Latencies, Latencies)> {
    let name = format!("announced-bench-{}.state", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = path.to_string_lossy();
    let arguments = ["--state", &file, "--state-interval", "0"];
    let server = Server::announced(build, population.family, &arguments)?;
    let filled = udp_load::fill(&server, population, &mut Fill::all(population))?;
    report.say(&build.name, format_args!("filled: {filled}"));
    let idle = probe_for(server.address, Duration::from_secs(3))?;
    let saved = probe_during(server.address, || {
        (1..=SAVES).try_for_each(|count| {
            server.signal("USR1")?;
            wait_for_saves(&server, count)
        })
    });
    let size = std::fs::metadata(&path).map_or(0, |file| file.len());
    report.say(&build.name, format_args!("{} bytes", grouped(size)));
    drop(server);
    let _ = std::fs::remove_file(&path);
    Ok((saved?, idle))
}

/// Until its log tells of so many.
fn wait_for_saves(server: &Server, count: usize) -> io::Result<()> {
    let deadline = Instant::now() + SAVED_WITHIN;
    while server.logged("announced: saved ") < count {
        if Instant::now() > deadline {
            return Err(io::Error::other("the state is not saved in time"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub fn tell(
    what: &str,
    who: &str,
    latencies: &Latencies,
    idle: &Latencies,
    goal: Goal,
    remark: &str,
    report: &mut Report,
) {
    let longest = latencies.longest();
    let figure = Figure {
        value: longest.as_secs_f64() * 1e3,
        text: milliseconds(longest),
    };
    let separator = if remark.is_empty() { "" } else { "; " };
    let remark = format!("{latencies}; idle: {idle}{separator}{remark}");
    report.row(what, who, &figure, goal, &remark);
}
