//! Two nodes with a wire between them, their chores, and the checks of their tables between two rounds of traffic.

use super::model::Model;
use super::table::Table;
use super::traffic::{
    CHANGING, LISTED, LISTED_PEERS, REFUSED, TORRENTS, TRACKED, check_scrape, files, is_listed,
    torrent,
};
use super::wire::Wire;
use crate::common::bencode::Value;
use crate::common::http::{self, get, metric};
use crate::common::{Daemon, Directory, run, signal, wait_longer, worker_of};
use announced::base::gzip::decompressed;
use announced::base::random::Random;
use std::io::{Cursor, Read};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The limit for saves and reloads, and for a mended link.
const PATIENCE: Duration = Duration::from_secs(60);

/// Log lines of failures that no round may cause.
const FAULTS: [&str; 4] = ["panicked", "save failed", "reload failed", "cannot accept"];

const SAVED: &str = "state: saved: ";
const RESTARTED: &str = "helper: process ended, and was restarted";

#[derive(Clone, Copy, Debug)]
pub enum Chore {
    FullScrape(usize, bool),
    /// A list with the torrents that are refused now and then, or without.
    List(bool),
    Save(usize),
    /// Kills the helper process while it saves.
    Kill(usize),
    Report(usize, &'static str),
}

const REPORTS: [&str; 8] = [
    "/metrics",
    "/stats?mode=everything",
    "/stats?mode=json",
    "/stats?mode=html",
    "/stats?mode=cluster",
    "/stats?mode=top100",
    "/stats?mode=s24s",
    "/stats?mode=tpbs&format=txtp",
];

impl Chore {
    pub fn draw(random: &mut Random) -> Chore {
        let node = random.below(2);
        match random.below(6) {
            0 => Chore::FullScrape(node, false),
            1 => Chore::FullScrape(node, true),
            2 => Chore::List(random.below(2) == 0),
            3 => Chore::Save(node),
            4 => Chore::Kill(node),
            _ => Chore::Report(node, REPORTS[random.below(REPORTS.len())]),
        }
    }
}

pub struct Pair {
    pub nodes: [Daemon; 2],
    pub wire: Wire,
    /// Whether the list of each node has the torrents that are refused now and then.
    pub lists: [AtomicU8; 2],
    directory: Directory,
    descriptors: [u64; 2],
    lines: AtomicU64,
    /// One save or reload at a time.
    signals: Mutex<()>,
}

/// A node with a list and a state. It connects to another if that is known.
fn node(directory: &Directory, number: usize, timeout: u64, other: Option<SocketAddr>) -> Daemon {
    let file = |name: &str| directory.file(&format!("{name}{number}"));
    let (list, state, key) = (file("list"), file("state"), directory.file("key"));
    let (interval, timeout) = ((timeout * 2 / 3).to_string(), timeout.to_string());
    std::fs::write(&list, "").expect("a list");
    let mut flags = vec!["--cluster-listen", "127.0.0.1:0", "--cluster-key", &key];
    // The memory of stops, which is touched at random, has two megabytes then.
    flags.extend(["--max-peers", "1000000"]);
    flags.extend(["-b", &list, "--state", &state, "--state-interval", "0"]);
    flags.extend([
        "--full-scrape",
        "open",
        "--interval",
        &interval,
        "--peer-timeout",
        &timeout,
    ]);
    let other = other.map(|other| other.to_string());
    if let Some(other) = &other {
        flags.extend(["-j", "2", "--cluster-peer", other]);
    }
    Daemon::start(&flags)
}

impl Pair {
    pub fn start(timeout: u64) -> Pair {
        let directory = Directory::new("soak");
        // The helper of a daemon that root starts writes there as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).expect("is ours");
        assert_eq!(run(&["--make-key", &directory.file("key")]).0, Some(0));
        let first = node(&directory, 0, timeout, None);
        let wire = Wire::new(first.cluster());
        let second = node(&directory, 1, timeout, Some(wire.address));
        // Completions are lost while a node joins.
        for node in [&first, &second] {
            wait_longer("a link", PATIENCE, || {
                let report = get(node.tcp4(), "/stats?mode=cluster").text();
                report.starts_with("cluster ok: 1 of 1 ").then_some(())
            });
        }
        let mut pair = Pair {
            nodes: [first, second],
            wire,
            lists: [AtomicU8::new(TRACKED), AtomicU8::new(TRACKED)],
            directory,
            descriptors: [0; 2],
            lines: AtomicU64::new(0),
            signals: Mutex::new(()),
        };
        pair.descriptors = [0, 1].map(|node| metric(&pair.metrics(node), "descriptors"));
        pair
    }

    /// UDP and TCP of both families.
    pub fn addresses(&self) -> [[SocketAddr; 4]; 2] {
        self.nodes
            .each_ref()
            .map(|node| [node.udp4(), node.udp6(), node.tcp4(), node.tcp6()])
    }

    /// Resident memory in KiB, and the events that are kept for nodes that were away.
    pub fn memory(&self, node: usize) -> (u64, u64) {
        let events = metric(&self.metrics(node), "cluster_events_kept");
        (self.nodes[node].resident_kib(), events)
    }

    fn metrics(&self, node: usize) -> String {
        get(self.nodes[node].tcp4(), "/metrics").text()
    }

    pub fn perform(&self, chore: &Chore) {
        match *chore {
            Chore::FullScrape(node, is_gzip) => {
                // One that is under way throughout is in it, whatever comes and goes.
                let found = full_scrape(&self.nodes[node], is_gzip);
                let is_first = |(hash, ..): &(_, _, _)| *hash == torrent(0);
                assert!(
                    found.iter().any(is_first),
                    "{} torrents without the first",
                    found.len()
                );
            }
            Chore::List(is_refusing) => self.change_lists(is_refusing),
            Chore::Save(node) => drop(self.save(node)),
            Chore::Kill(node) => self.kill_helper(node),
            Chore::Report(node, path) => {
                let reply = get(self.nodes[node].tcp4(), path);
                assert_eq!(reply.status, 200, "{path}");
                assert!(!reply.body.is_empty(), "{path}");
            }
        }
    }

    /// Sends a signal and waits for a line of the log that follows.
    fn signal(&self, node: usize, name: &str, part: &str) {
        let _one = self.signals.lock();
        let daemon = &self.nodes[node];
        let before = daemon.count_lines(part);
        daemon.signal(name);
        wait_longer(part, PATIENCE, || {
            // The log is long after an hour.
            thread::sleep(Duration::from_millis(10));
            (daemon.count_lines(part) > before).then_some(())
        });
    }

    /// Another helper process takes over, and repeats the save.
    fn kill_helper(&self, node: usize) {
        let _one = self.signals.lock();
        let daemon = &self.nodes[node];
        let ends = [SAVED, RESTARTED];
        let before = ends.map(|line| daemon.count_lines(line));
        daemon.signal("USR1");
        assert!(signal(worker_of(daemon.id()), "KILL"));
        wait_longer("another helper process, and its save", PATIENCE, || {
            thread::sleep(Duration::from_millis(10));
            let after = ends.map(|line| daemon.count_lines(line));
            (after[0] > before[0] && after[1] > before[1]).then_some(())
        });
    }

    /// Replaces the lists of both nodes, one after the other.
    fn change_lists(&self, is_refusing: bool) {
        let line = |hash: [u8; 20]| hash.map(|byte| format!("{byte:02x}")).concat() + "\n";
        let more = self.lines.fetch_add(777, Ordering::SeqCst);
        let others =
            (0..1000).map(|number| [&(more + number).to_be_bytes()[..], &[7; 12]].concat());
        let others = others.map(|hash| line(hash.try_into().expect("20 bytes")));
        let listed = (TORRENTS..TORRENTS + LISTED).map(|number| line(torrent(number)));
        let listed = listed.filter(|_| is_refusing);
        let text: String = others.chain(listed).collect();
        for node in 0..2 {
            let new = self.directory.write("new", &text);
            std::fs::rename(new, self.directory.file(&format!("list{node}"))).expect("is replaced");
            self.lists[node].store(CHANGING, Ordering::SeqCst);
            self.signal(node, "HUP", "blacklist: loaded: ");
            let state = if is_refusing { REFUSED } else { TRACKED };
            self.lists[node].store(state, Ordering::SeqCst);
        }
    }

    /// Saves the table of a node, and reads it.
    fn save(&self, node: usize) -> Table {
        self.signal(node, "USR1", SAVED);
        Table::read(&self.directory.file(&format!("state{node}"))).0
    }

    /// Checks both tables, while no client announces: against what was announced, and the sums.
    pub fn check(&self, model: &mut Model) {
        let is_linked = self.wire.is_whole();
        let began = Instant::now();
        let mut faults = Vec::new();
        let is_right = |faults: &mut Vec<String>| {
            *faults = (0..2)
                .flat_map(|node| self.table_faults(node, model, is_linked))
                .collect();
            faults.is_empty()
        };
        while !is_right(&mut faults) {
            let count = faults.len();
            let few = &faults[..count.min(9)];
            let is_late = began.elapsed() > PATIENCE || !is_linked;
            assert!(!is_late, "{count} faults, linked: {is_linked}: {few:#?}");
            thread::sleep(Duration::from_millis(100));
        }
        (0..2).for_each(|node| self.check_sums(node, model));
        if is_linked {
            model.agree(began);
        }
    }

    fn table_faults(&self, node: usize, model: &Model, is_linked: bool) -> Vec<String> {
        let from = Instant::now();
        let mut table = self.save(node);
        table.peers.retain(|(hash, _), _| !is_listed(hash));
        let mut faults = model.differences(node, &table.peers, is_linked, [from, Instant::now()]);
        for number in 0..TORRENTS {
            let hash = torrent(number);
            let found = table.downloaded.get(&hash).copied().unwrap_or_default();
            let expected = model.completed(&hash);
            if found > expected || is_linked && found < expected {
                faults.push(format!("torrent {number}: {found} downloads of {expected}"));
            }
        }
        faults
            .iter_mut()
            .for_each(|fault| *fault = format!("node {node}: {fault}"));
        faults
    }

    /// The counts of a full scrape, plain and compressed, add up to the totals, and are those of each torrent.
    fn check_sums(&self, node: usize, model: &Model) {
        wait_longer("a moment in which nothing changes", PATIENCE, || {
            let from = Instant::now();
            let before = self.totals(node);
            let [plain, gzip] =
                [false, true].map(|is_gzip| full_scrape(&self.nodes[node], is_gzip));
            // A lone peer that expires is no longer counted, but is in the totals until the sweep.
            if self.totals(node) != before || plain != gzip {
                return None;
            }
            for (hash, counts, downloaded) in &plain {
                check_scrape(model, hash, node, *counts, *downloaded, from);
            }
            // So are torrents that the list refuses.
            let lone = plain.iter().filter(|(_, counts, _)| *counts == [0, 0]);
            let lone = lone.count() as u64;
            let is_tracking = self.lists[node].load(Ordering::SeqCst) == TRACKED;
            let hidden = if is_tracking { 0 } else { LISTED as u64 };
            let sum = |role: usize| {
                plain
                    .iter()
                    .map(|(_, counts, _)| u64::from(counts[role]))
                    .sum::<u64>()
            };
            let sums = [sum(0), sum(1)];
            let [leechers, seeders, torrents] = before;
            let missing = [leechers, seeders].iter().sum::<u64>() - sums.iter().sum::<u64>();
            let is_right = sums[0] <= leechers
                && sums[1] <= seeders
                && missing <= lone + hidden * LISTED_PEERS as u64;
            assert!(
                is_right && (0..=hidden).contains(&(torrents - plain.len() as u64)),
                "node {node}: sums {sums:?} of {}, totals {before:?}, {lone} without peers",
                plain.len()
            );
            Some(())
        });
    }

    /// Leechers, seeders and torrents by the metrics.
    fn totals(&self, node: usize) -> [u64; 3] {
        let metrics = self.metrics(node);
        let sum = |role: &str| {
            let families = ["ipv4", "ipv6"].into_iter();
            families
                .map(|family| {
                    metric(
                        &metrics,
                        &format!("peers{{family=\"{family}\",role=\"{role}\"}}"),
                    )
                })
                .sum()
        };
        [sum("leecher"), sum("seeder"), metric(&metrics, "torrents")]
    }

    /// Once the clients are gone, their descriptors are closed.
    pub fn expect_few_descriptors(&self) {
        for node in 0..2 {
            wait_longer("descriptors to be closed", PATIENCE, || {
                let open = metric(&self.metrics(node), "descriptors");
                (open <= self.descriptors[node]).then_some(())
            });
        }
    }

    /// Stops both nodes. Neither has logged a fault.
    pub fn end(self) {
        for mut node in self.nodes {
            node.signal("TERM");
            let (status, log) = node.wait();
            assert!(status.success(), "{status}");
            let faults = log
                .iter()
                .filter(|line| FAULTS.iter().any(|fault| line.contains(fault)));
            assert_eq!(faults.collect::<Vec<_>>(), Vec::<&String>::new());
        }
    }
}

/// The torrents of a full scrape in order, with leechers, seeders and downloads.
fn full_scrape(daemon: &Daemon, is_gzip: bool) -> Vec<([u8; 20], [u32; 2], u32)> {
    let encoding = if is_gzip {
        "Accept-Encoding: gzip\r\n"
    } else {
        ""
    };
    let mut client = http::Client::new(daemon.tcp4());
    let reply = client.request(format!(
        "GET /scrape HTTP/1.1\r\nConnection: close\r\n{encoding}\r\n"
    ));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("Content-Encoding").is_some(), is_gzip);
    let mut body = reply.body;
    if is_gzip {
        let mut plain = Vec::new();
        let mut reader = decompressed(Cursor::new(body)).expect("is compressed");
        reader.read_to_end(&mut plain).expect("is whole");
        body = plain;
    }
    files(&Value::parse(&body))
}
