//! The daemon under attack, the honest client, and the row of an attack.

use super::common::udp::{Announce, Client};
use super::common::{Daemon, Directory, hurry, program};
use super::{datagrams, files, nodes, streams, sys};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The daemon has one core to itself, and all clients the other.
const DAEMON_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

/// Between two announces of the honest client. A reply that is later than this is lost.
const EVERY: Duration = Duration::from_millis(2);
const LOST_AFTER: Duration = Duration::from_secs(1);

const BEFORE: Duration = Duration::from_millis(500);
const DURING: Duration = Duration::from_secs(3);
/// The daemon has a second to recover.
const RECOVERY: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_millis(500);

/// Torrents with a peer each that are there before the attack.
const TORRENTS: u32 = 20_000;

pub struct Attack {
    pub name: &'static str,
    /// Flags of the daemon. `DIR` stands for a directory of the attack's own.
    pub flags: &'static str,
    /// Prepares what the daemon needs at its start.
    pub prepare: fn(&Directory),
    /// Attacks until [`Target::is_over`], and returns a remark.
    pub run: fn(&Target) -> String,
}

pub const fn attack(name: &'static str, flags: &'static str, run: fn(&Target) -> String) -> Attack {
    let prepare = |_: &Directory| {};
    Attack {
        name,
        flags,
        prepare,
        run,
    }
}

pub struct Target {
    pub daemon: Daemon,
    pub directory: Directory,
    begin: Instant,
    over: AtomicBool,
    /// Of the measurement: 0 before the attack, 1 during it, 3 after it. Times of phase 2 are not reported. None ends
    /// the honest client.
    phase: Arc<Mutex<Option<usize>>>,
}

impl Target {
    fn start(attack: &Attack) -> Target {
        let directory = Directory::new("attack");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).expect("is ours");
        (attack.prepare)(&directory);
        let mut command = Command::new("taskset");
        command.args(["-c", DAEMON_CORE]);
        if attack.name.starts_with("clock") {
            files::fake_clock(&mut command, &directory);
        }
        command.args([&program(), "-i", "127.0.0.1", "-p", "0", "-P", "0"]);
        let flags = attack.flags.replace("DIR", directory.path());
        command.args(flags.split_whitespace());
        let daemon = Daemon::spawn(command);
        // Other programs on its core would be part of the waiting times.
        hurry(&daemon.id().to_string());
        let over = AtomicBool::new(false);
        let begin = Instant::now();
        Target {
            daemon,
            directory,
            begin,
            over,
            phase: Arc::new(Mutex::new(Some(0))),
        }
    }

    fn enter(&self, phase: Option<usize>) {
        *self.phase.lock().expect("no panic") = phase;
    }

    /// Does something during the attack that is not part of it.
    pub fn prepare<T>(&self, work: impl FnOnce() -> T) -> T {
        self.enter(Some(2));
        let done = work();
        thread::sleep(RECOVERY);
        self.enter(Some(1));
        done
    }

    pub fn udp(&self) -> SocketAddr {
        self.daemon.udp4()
    }

    pub fn tcp(&self) -> SocketAddr {
        self.daemon.tcp4()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Since the attack began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Repeats something until the attack is over; how often.
    pub fn repeat(&self, mut act: impl FnMut(u64)) -> u64 {
        let mut count = 0;
        while !self.is_over() {
            act(count);
            count += 1;
        }
        count
    }

    fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.daemon.id()));
        open.map_or(0, Iterator::count)
    }

    fn resident(&self) -> f64 {
        self.daemon.resident_kib() as f64 / 1024.0
    }

    fn processor(&self) -> Duration {
        sys::processor_time(self.daemon.id()).unwrap_or_default()
    }
}

/// An info-hash that no other number has.
pub fn hash(number: u64) -> [u8; 20] {
    let mut hash = [0x77; 20];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    hash
}

/// A client of an address of its own, so that no attack is limited for the honest client's sake.
pub fn client(source: u8, to: SocketAddr) -> Client {
    let mut client = Client::from(&Ipv4Addr::new(127, 0, 9, source).to_string(), to);
    client.connect();
    client
}

fn fill(target: &Target) {
    let client = client(250, target.udp());
    for first in (0..TORRENTS).step_by(64) {
        let numbers = first..TORRENTS.min(first + 64);
        for number in numbers.clone() {
            let announce = Announce::default().of(hash(number.into())).num_want(0);
            client.send(&client.announce_request(&announce));
        }
        numbers.for_each(|_| drop(client.receive()));
    }
}

/// Waiting times in milliseconds, and lost replies.
#[derive(Default)]
struct Waits {
    times: Vec<f64>,
    lost: usize,
}

impl Waits {
    fn text(&mut self) -> String {
        self.times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (self.times.len() as f64 * share) as usize;
            self.times.get(index).copied().unwrap_or(f64::INFINITY)
        };
        let all = self.times.len() + self.lost;
        let loss = 100.0 * self.lost as f64 / all.max(1) as f64;
        format!("{:.2} / {:.2} / {loss:.1} %", at(0.5), at(0.99))
    }
}

/// Gives the calling thread priority over those of the attack.
fn run_first() {
    let thread = std::fs::read_link("/proc/thread-self").expect("is there");
    hurry(&thread.file_name().expect("an id").to_string_lossy());
}

/// The honest client: announces when it is due, whether the replies before have come or not, until there is no phase.
/// One thread sends and another receives, since a receive with a timeout is late by up to some milliseconds.
fn probe(to: SocketAddr, phase: &Mutex<Option<usize>>) -> [Waits; 4] {
    let client = client(251, to);
    let socket = client.socket();
    let now = || *phase.lock().expect("no panic");
    // When each announce was due, and its phase.
    let sent: Mutex<Vec<(Instant, usize)>> = Mutex::default();
    let mut waits: [Waits; 4] = Default::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            run_first();
            let mut request = client.announce_request(&Announce::leecher(7000).of([9; 20]));
            let mut due = Instant::now();
            while let Some(phase) = now() {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut sent = sent.lock().expect("no panic");
                request[12..16].copy_from_slice(&(sent.len() as u32).to_be_bytes());
                sent.push((due, phase));
                drop(sent);
                let _ = socket.send(&request);
                due += EVERY;
            }
        });
        run_first();
        socket
            .set_read_timeout(Some(LOST_AFTER / 10))
            .expect("a timeout");
        while now().is_some() {
            let mut reply = [0; 1500];
            if !socket.recv(&mut reply).is_ok_and(|length| length >= 20) {
                continue;
            }
            let number = u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]);
            let found = sent.lock().expect("no panic").get(number as usize).copied();
            if let Some((due, phase)) = found.filter(|(due, _)| due.elapsed() <= LOST_AFTER) {
                waits[phase].times.push(due.elapsed().as_secs_f64() * 1e3);
            }
        }
    });
    for (number, waits) in waits.iter_mut().enumerate() {
        let is_over =
            |(due, phase): &&(Instant, usize)| *phase == number && due.elapsed() > LOST_AFTER;
        let all = sent
            .lock()
            .expect("no panic")
            .iter()
            .filter(is_over)
            .count();
        waits.lost = all.saturating_sub(waits.times.len());
    }
    waits
}

/// Runs an attack; its row.
fn measure(attack: &Attack) -> String {
    let mut target = Target::start(attack);
    fill(&target);
    let (to, phase) = (target.udp(), Arc::clone(&target.phase));
    let prober = thread::spawn(move || probe(to, &phase));
    thread::sleep(BEFORE);
    target.enter(Some(1));
    target.begin = Instant::now();
    let before = (target.resident(), target.processor());
    let (mut memory, mut descriptors) = (before.0, target.descriptors());
    let mut load = 0.0;
    let remark = thread::scope(|scope| {
        let attacker = scope.spawn(|| (attack.run)(&target));
        while target.elapsed() < DURING && !attacker.is_finished() {
            thread::sleep(Duration::from_millis(100));
            memory = memory.max(target.resident());
            descriptors = descriptors.max(target.descriptors());
        }
        let used = target.processor() - before.1;
        load = 100.0 * used.as_secs_f64() / target.elapsed().as_secs_f64();
        target.enter(Some(2));
        target.over.store(true, Ordering::Relaxed);
        attacker
            .join()
            .unwrap_or_else(|_| "the attack failed, see above".into())
    });
    thread::sleep(RECOVERY);
    target.enter(Some(3));
    thread::sleep(AFTER);
    let [at_first, during, _, after] = {
        // The last replies.
        thread::sleep(LOST_AFTER);
        target.enter(None);
        &mut prober.join().expect("no panic")
    };
    format!(
        "| {} | {} | {} | {} | {:.1} / {memory:.1} / {:.1} | {load:.0} | {descriptors} | {remark} |",
        attack.name,
        at_first.text(),
        during.text(),
        after.text(),
        before.0,
        target.resident(),
    )
}

pub fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let id = std::process::id().to_string();
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).arg(&id).output();
        done.is_ok_and(|output| output.status.success())
    };
    assert!(run("taskset", &["-pc", CLIENT_CORE]), "needs two cores");
    run("prlimit", &["--nofile=60000:60000", "--pid"]);
    println!(
        "Times of an honest client's UDP announce in ms: median / 99th percentile / lost. RSS in MB before, at most, \
         and after. CPU of the daemon in percent of its core.\n\n\
         | attack | before | during | a second after | RSS | CPU | descriptors | remark |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let all = [
        datagrams::ATTACKS,
        streams::ATTACKS,
        files::ATTACKS,
        nodes::ATTACKS,
    ];
    let is_chosen = |attack: &&Attack| {
        only.as_ref()
            .is_none_or(|only| attack.name.contains(only.as_str()))
    };
    for attack in all.into_iter().flatten().filter(is_chosen) {
        println!("{}", measure(attack));
    }
}
