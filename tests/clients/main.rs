//! Real BitTorrent clients meet through the tracker and give each other a file.
//!
//! Every other test speaks to the tracker in our own reading of the protocols. Here four clients written by other
//! people do it: each ordered pair of them seeds and fetches a file of random bytes, over HTTP and UDP, IPv4 and IPv6.
//! DHT, peer exchange and local discovery are off and the torrent is private, so that a file which arrives is a file
//! whose source the tracker named. The tracker is asked too, by scrape: it must know of the first client before the
//! second one starts, must count the download, and must have forgotten both once they have left.
//!
//! Whoever comes second learns of the other from the reply to its first announce: nobody waits for an interval to
//! pass. A client that can announce over a transport but not read the peers it is sent comes first, so that the
//! other one finds it; [`client::Client::reach`] says which those are, and why.
//!
//! The pairs run in a network of their own ([`sandbox`], [`lan`]), a few at a time, since clients mostly wait. Without
//! root, or where a client is missing, a test says that it skipped and why; with `CI=true` in the environment that
//! is a failure.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod client;
mod lan;
#[path = "../common/sandbox.rs"]
mod sandbox;
mod torrent;
mod tracker;

use client::{CLIENTS, Client, Reach, Running};
use lan::{Lan, Transport};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use torrent::Torrent;
use tracker::{Swarm, Tracker};

#[test]
fn meet_over_http() {
    meet_in_a_sandbox("meet_over_http", Transport::Http);
}

#[test]
fn meet_over_http_ipv6() {
    meet_in_a_sandbox("meet_over_http_ipv6", Transport::HttpIpv6);
}

#[test]
fn meet_over_udp() {
    meet_in_a_sandbox("meet_over_udp", Transport::Udp);
}

#[test]
fn meet_over_udp_ipv6() {
    meet_in_a_sandbox("meet_over_udp_ipv6", Transport::UdpIpv6);
}

/// How long anything that one waits for may take. The slowest client, transmission, looks at its peers every ten
/// seconds; the rest is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pairs at work at once. They wait for timers more than they compute.
const AT_ONCE: usize = 6;

/// Runs the named test again inside a sandbox, and there lets all pairs meet.
fn meet_in_a_sandbox(test: &str, transport: Transport) {
    match sandbox::inside() {
        Some(dir) => meet(&dir, transport),
        None => match missing(transport) {
            Some(what) => skip(&format!("{test}: {what}")),
            None => sandbox::run_inside(test),
        },
    }
}

/// What keeps the whole test from running on this machine.
fn missing(transport: Transport) -> Option<String> {
    if transport.is_ipv6() && !Path::new("/proc/net/if_inet6").exists() {
        return Some("the kernel has no IPv6".into());
    }
    sandbox::missing().or_else(|| torrent::missing().or_else(lan::missing))
}

/// Says what did not run, past the test harness's capture: a skip that nobody sees is a test that nobody has.
fn skip(what: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "CI=true allows no skipping: {what}"
    );
    say(&format!("skipped {what}"));
}

fn say(line: &str) {
    use std::io::Write;
    // Nothing is lost where stderr is closed but the line itself.
    let _ = writeln!(std::io::stderr(), "clients: {line}");
}

/// All pairs over one transport, in this sandbox.
fn meet(dir: &Path, transport: Transport) {
    let lan = Lan::new(transport, dir);
    let tracker = Tracker::start(transport, dir);
    let pairs = pairs(transport);
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    match pair.meet(&lan, &tracker, dir) {
                        Ok(()) => say(&format!("{pair}: {:.1} s", started.elapsed().as_secs_f32())),
                        Err(why) => failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{pair}: {why}")),
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        tracker.log()
    );
    tracker.stop();
}

/// The ordered pairs of different clients that can meet over `transport`, saying which are left out. The slowest
/// client's come first, so that none is left to run alone at the end.
fn pairs(transport: Transport) -> Vec<Pair> {
    let here: Vec<Client> = CLIENTS
        .into_iter()
        .filter(|client| is_here(*client))
        .collect();
    let mut pairs = Vec::new();
    for &seeder in &here {
        for &fetcher in here.iter().filter(|&&fetcher| fetcher != seeder) {
            match Pair::new(seeder, fetcher, transport) {
                Ok(pair) => pairs.push(pair),
                Err(why) => say(&format!(
                    "{seeder} to {fetcher} over {transport} cannot be: {why}"
                )),
            }
        }
    }
    pairs.sort_by_key(|pair| ![pair.seeder, pair.fetcher].contains(&Client::Transmission));
    pairs
}

fn is_here(client: Client) -> bool {
    let missing = client.missing();
    if let Some(what) = &missing {
        skip(&format!("{client}: {what}"));
    }
    missing.is_none()
}

/// Two clients and the way they reach the tracker.
struct Pair {
    seeder: Client,
    fetcher: Client,
    transport: Transport,
    seeder_first: bool,
}

impl Pair {
    /// Decides who announces first; the error is why these two can never meet.
    fn new(seeder: Client, fetcher: Client, transport: Transport) -> Result<Pair, &'static str> {
        let seeder_first = match (seeder.reach(transport), fetcher.reach(transport)) {
            (Reach::No(why), _) | (_, Reach::No(why)) => return Err(why),
            (_, Reach::Full) => true,
            (Reach::Full, _) => false,
            (Reach::AnnounceOnly(why), Reach::AnnounceOnly(_)) => return Err(why),
        };
        Ok(Pair {
            seeder,
            fetcher,
            transport,
            seeder_first,
        })
    }

    /// Lets the clients meet, once more with another file if the first attempt fails: two clients that connect to
    /// each other at the same time can end with a connection that neither uses. The error tells both attempts.
    fn meet(&self, lan: &Lan, tracker: &Tracker, dir: &Path) -> Result<(), String> {
        self.attempt(1, lan, tracker, dir).or_else(|first| {
            say(&format!("{self}: retry after: {first}"));
            self.attempt(2, lan, tracker, dir)
                .map_err(|second| format!("{first}\n{second}"))
        })
    }

    /// Moves one file from the seeder to the fetcher. The error tells which step failed and what the clients logged.
    fn attempt(&self, attempt: u8, lan: &Lan, tracker: &Tracker, dir: &Path) -> Result<(), String> {
        let dir = dir.join(format!("{}-{}-{attempt}", self.seeder, self.fetcher));
        let torrent = Torrent::new(&dir, &self.transport.announce_url());
        let swarm = |is: fn(&Swarm) -> bool| {
            tracker
                .scrape(&torrent.info_hash)
                .is_some_and(|swarm| is(&swarm))
        };
        let [seeder_host, fetcher_host] = [lan.host(), lan.host()];
        let seed = || {
            Running::start(
                self.seeder,
                &seeder_host,
                &torrent,
                &torrent.seeded,
                &dir.join("seeder"),
            )
        };
        let fetch = || {
            Running::start(
                self.fetcher,
                &fetcher_host,
                &torrent,
                &torrent.fetched,
                &dir.join("fetcher"),
            )
        };

        let (mut seeder, mut fetcher);
        if self.seeder_first {
            seeder = seed();
            wait_until("a seeder in the swarm", &mut [&mut seeder], |_| {
                swarm(|swarm| swarm.seeders == 1)
            })?;
            fetcher = fetch();
        } else {
            fetcher = fetch();
            wait_until("a leecher in the swarm", &mut [&mut fetcher], |_| {
                swarm(|swarm| swarm.leechers == 1)
            })?;
            seeder = seed();
        }
        let both = &mut [&mut seeder, &mut fetcher];
        wait_until("the file", both, |both| {
            torrent.is_fetched() && both[1].has_finished()
        })?;
        if self.fetcher.completes() {
            wait_until("the download to be counted", both, |_| {
                swarm(|swarm| swarm.downloaded == 1)
            })?;
        }

        both.iter_mut().for_each(|running| running.leave());
        wait_until("both clients to leave the swarm", both, |_| {
            swarm(|swarm| swarm.seeders + swarm.leechers == 0)
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {} over {}",
            self.seeder, self.fetcher, self.transport
        )
    }
}

/// Polls until `done`, or until patience ends, or one of the clients does that was not asked to.
fn wait_until(
    what: &str,
    clients: &mut [&mut Running],
    mut done: impl FnMut(&[&mut Running]) -> bool,
) -> Result<(), String> {
    let started = Instant::now();
    while !done(clients) {
        let ended = clients.iter_mut().find_map(|running| running.ended_early());
        let why = match ended {
            Some(ended) => format!("waited for {what}, but {ended}"),
            None if started.elapsed() > PATIENCE => format!("waited {PATIENCE:?} for {what}"),
            None => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let logs: Vec<String> = clients.iter().map(|running| running.log()).collect();
        return Err(format!("{why}\n{}", logs.join("\n")));
    }
    Ok(())
}
