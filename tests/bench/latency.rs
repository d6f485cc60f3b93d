//! How long the loop keeps a client waiting: a UDP connect every millisecond.
//!
//! A connect touches no table, so its latency is the time that the loop needs to come back to its socket. The machine
//! itself adds to it (waking both processes, other programs). The idle daemon shows how much, so figures are
//! differences from its own.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::common::udp::connect_request;
use super::common::{Directory, wait_longer};
use super::contest::Load;
use super::options::Bench;
use super::population::{Population, Reannounce};
use super::report::{Goal, grouped};
use super::server::{self, BUILD, Server};
use super::udp_load::{self, ASKED, UdpLoad};

const EVERY: Duration = Duration::from_millis(1);

/// A reply that has not come by then is lost, and counts as so late.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// A save or reload that takes longer has failed.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Saves or reloads that are made one after the other, for more than a handful of probes.
const TIMES: usize = 10;

/// Milliseconds by which the 99th percentile may be above that of the idle daemon.
pub const GOAL: Goal = Goal::AtMost(0.5);

/// Waiting times of one run in milliseconds, sorted.
pub struct Waits(Vec<f64>);

impl Waits {
    fn quantile(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }

    pub fn longest(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [median, p99, longest] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        let count = grouped(self.0.len() as u64);
        write!(f, "median {median:.3}, p99 {p99:.3}, ")?;
        write!(f, "longest {longest:.3} ms of {count}")
    }
}

/// Probes until `stop`. A probe that is late because the one before waited is timed from the moment when it was due.
/// Otherwise a stall would count once, however long it was.
fn probe(server: SocketAddr, stop: impl Fn() -> bool) -> io::Result<Waits> {
    let socket = UdpSocket::bind((server.ip(), 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    let mut waits = Vec::new();
    let mut due = Instant::now();
    let mut request = connect_request();
    let mut reply = [0xff; 64];
    while waits.is_empty() || !stop() {
        let mut begin = due;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
            begin = Instant::now();
        }
        request[12..].copy_from_slice(&(waits.len() as u32).to_be_bytes());
        socket.send(&request)?;
        // Late replies to earlier probes may come first.
        while reply[4..8] != request[12..] {
            match socket.recv(&mut reply) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                received => drop(received?),
            }
        }
        waits.push(begin.elapsed().as_secs_f64() * 1e3);
        due = begin + EVERY;
    }
    waits.sort_by(f64::total_cmp);
    Ok(Waits(waits))
}

/// Probes for a time, as [`probe_during`] does, so that the waits of both can be compared.
pub fn probe_for(server: SocketAddr, seconds: f64) -> io::Result<Waits> {
    let sleep = || {
        thread::sleep(Duration::from_secs_f64(seconds));
        Ok(())
    };
    Ok(probe_during(server, sleep)?.0)
}

/// Probes from a thread of its own while `work` is done on this one. The thread runs before the work, where it may,
/// since both are on the generator's core.
pub fn probe_during<T>(
    server: SocketAddr,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<(Waits, T)> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let prober = scope.spawn(|| {
            server::run_first();
            probe(server, || is_done.load(Ordering::Relaxed))
        });
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        let waits = prober.join().expect("no panic")?;
        Ok((waits, done?))
    })
}

/// Fills each build, measures the waits while it is idle and then those during some work.
pub fn stalls(
    bench: &Bench,
    during: &str,
    arguments: &[&str],
    population: &Population,
    goal: Goal,
    work: impl Fn(&Server) -> io::Result<()>,
) -> io::Result<()> {
    let subject = format!("p99 of the wait of a UDP connect {during}, above idle");
    bench.begin(&subject);
    for server in Server::builds(bench, arguments) {
        udp_load::fill(bench, &server, population)?;
        let idle = probe_for(server.address, 5.0 * bench.seconds)?;
        let begin = Instant::now();
        let (waits, ()) = probe_during(server.address, || work(&server))?;
        let above = waits.quantile(0.99) - idle.quantile(0.99);
        let seconds = begin.elapsed().as_secs_f64();
        let remark = format!("{waits} in {seconds:.1} s; idle: {idle}");
        let figure = (above, format!("{above:.3} ms"));
        bench.row(&subject, &server.name, figure, goal, &remark);
    }
    Ok(())
}

/// A server under a load of all the announces that it can answer.
pub fn load(bench: &Bench) -> io::Result<()> {
    let population = bench.power_law(100_000, 10);
    stalls(
        bench,
        "under full load",
        &[],
        &population,
        Goal::None,
        |server| {
            let order = Reannounce::new(&population);
            let mut load = UdpLoad::new(server.address, &population, order, 1)?;
            load.run(Instant::now() + Duration::from_secs_f64(5.0 * bench.seconds))
        },
    )
}

/// A server whose peers all expire, after two minutes: the shortest time that leaves enough to announce ten million.
pub fn sweep(bench: &Bench) -> io::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(120);
    let torrents = bench.torrents.unwrap_or(10_000_000);
    let population = Population::even(torrents, 1, bench.family);
    let during = format!("while {} torrents expire", grouped(torrents));
    let arguments = ["--interval", "60", "--peer-timeout", "120"];
    stalls(bench, &during, &arguments, &population, GOAL, |server| {
        // The last peer came at the end of the fill. The sweep finds it after its timeout.
        thread::sleep(TIMEOUT + TIMEOUT / 4);
        let left = udp_load::known(server, &population);
        assert_eq!(left, 0, "torrents of {ASKED} are left");
        Ok(())
    })
}

/// A server that reloads a whitelist.
pub fn reload(bench: &Bench) -> io::Result<()> {
    let torrents = bench.torrents.unwrap_or(1_000_000);
    let lines = (0..torrents).map(|line| format!("{line:040x}\n"));
    let directory = Directory::new("bench-reload");
    let list = directory.write("list", lines.collect::<String>());
    let during = format!("while {} lines are reloaded", grouped(torrents));
    let nothing = Population::even(0, 0, bench.family);
    stalls(bench, &during, &["-w", &list], &nothing, GOAL, |server| {
        repeat(server, "HUP", "whitelist");
        Ok(())
    })
}

/// A server that saves its state. The process that writes it shares the daemon's core.
pub fn state(bench: &Bench) -> io::Result<()> {
    let population = bench.power_law(1_000_000, 2);
    let directory = Directory::new("bench-state");
    let file = directory.file(&format!("state-{BUILD}"));
    let during = format!("while {} torrents are saved", grouped(population.torrents));
    let arguments = ["--state", &file, "--state-interval", "0"];
    stalls(bench, &during, &arguments, &population, GOAL, |server| {
        repeat(server, "USR1", "state: saved: ");
        Ok(())
    })
}

/// Sends a signal again and again, and waits each time for a new line of the log with these words.
fn repeat(server: &Server, signal: &str, words: &str) {
    let daemon = server.daemon();
    for _ in 0..TIMES {
        let before = daemon.count_lines(words);
        daemon.signal(signal);
        let is_new = || (daemon.count_lines(words) > before).then_some(());
        wait_longer(words, DONE_WITHIN, is_new);
    }
}
