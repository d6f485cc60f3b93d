//! Several processes that serve the same ports (`--processes`): they answer as one, outlive each other, and
//! end together.

#![cfg(target_os = "linux")]

mod common;

use common::udp::{Announce, Client};
use common::{Daemon, Directory, http, program, run, skip, uninterrupted, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const A: [u8; 20] = [0xaa; 20];
const B: [u8; 20] = [0xbb; 20];

/// So many clients, each from a port of its own, come to both of two workers but for one time in 2^31.
const MANY: usize = 32;

fn two(flags: &[&str]) -> Daemon {
    Daemon::start(&[&["-j", "2"], flags].concat())
}

/// The process that each worker is now.
fn processes(daemon: &Daemon) -> BTreeMap<usize, u32> {
    let worker = |line: String| {
        let (number, id) = line
            .strip_prefix("announced: worker ")?
            .split_once(" is process ")?;
        Some((number.parse().ok()?, id.parse().ok()?))
    };
    daemon.log().into_iter().filter_map(worker).collect()
}

fn kill(id: u32) {
    let id = id.to_string();
    let status = Command::new("kill").args(["-s", "KILL", &id]).status();
    assert!(status.expect("there is a kill").success());
}

/// Whether a process is there, and no zombie.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Kills a worker and waits until another process is in its place.
fn replace(daemon: &Daemon, worker: usize) -> u32 {
    let before = processes(daemon)[&worker];
    kill(before);
    wait_for("another process", || {
        processes(daemon)
            .get(&worker)
            .copied()
            .filter(|id| *id != before)
    })
}

fn metrics(daemon: &Daemon) -> BTreeMap<String, u64> {
    let text = http::get(daemon.tcp4(), "/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((
            name.strip_prefix("announced_")?.to_owned(),
            value.parse().ok()?,
        ))
    };
    lines.filter_map(number).collect()
}

/// UDP requests that each worker has answered.
fn answered(daemon: &Daemon) -> [u64; 2] {
    let metrics = metrics(daemon);
    [0, 1].map(|worker| {
        let name = format!("worker_requests_total{{worker=\"{worker}\",protocol=\"udp\"}}");
        metrics[&name]
    })
}

/// Waits until both have told that they have answered some, as they do within a second; how many together.
fn both_answered(daemon: &Daemon) -> u64 {
    wait_for("both to have answered", || {
        let [one, other] = answered(daemon);
        (one > 0 && other > 0).then_some(one + other)
    })
}

fn announces(daemon: &Daemon) -> u64 {
    metrics(daemon)["requests_total{protocol=\"udp\",kind=\"announce\"}"]
}

fn seeder(info_hash: [u8; 20], port: u16) -> Announce {
    Announce {
        info_hash,
        port,
        left: 0,
        ..Announce::default()
    }
}

fn clients(tracker: SocketAddr) -> Vec<Client> {
    (0..MANY).map(|_| Client::new(tracker)).collect()
}

/// How many seeders each of many clients is told of.
fn scraped(clients: &[Client], hash: [u8; 20]) -> Vec<u32> {
    clients
        .iter()
        .map(|client| client.scrape(&[hash])[0][0])
        .collect()
}

/// A request that is sent again until it is answered, as a client would: a worker may have died with it.
fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    wait_for("a reply", || {
        socket.send(request).expect("is sent");
        let mut reply = [0; 2048];
        match uninterrupted(|| socket.recv(&mut reply)) {
            Ok(length) => Some(reply[..length].to_vec()),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                None
            }
            Err(error) => panic!("{error}"),
        }
    })
}

/// Whether each of many new clients is answered.
fn serves_everybody(tracker: SocketAddr) {
    for _ in 0..MANY {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.connect(tracker).expect("a route");
        let reply = ask(&socket, &common::udp::connect_request());
        assert_eq!((reply.len(), &reply[..4]), (16, &[0; 4][..]));
    }
}

fn stop(mut daemon: Daemon) -> Vec<String> {
    let workers = processes(&daemon);
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("announced: stopped"));
    assert!(workers.values().all(|id| !is_alive(*id)), "none is left");
    log
}

#[test]
fn all_answer_and_what_they_count_adds_up() {
    let daemon = two(&[]);
    let clients = clients(daemon.udp4());
    for (port, client) in (1000..).zip(&clients) {
        client.announce(&seeder(A, port));
    }
    let sum = wait_for("the counts of both", || {
        Some(announces(&daemon)).filter(|count| *count >= MANY as u64)
    });
    assert_eq!(sum, MANY as u64);
    assert_eq!(
        both_answered(&daemon),
        2 * MANY as u64,
        "connects and announces"
    );
    // Gauges are no sums: there are as many peers as there are.
    wait_for("all peers everywhere", || {
        let all = scraped(&clients, A);
        all.iter()
            .all(|seeders| *seeders == MANY as u32)
            .then_some(())
    });
    let peers = metrics(&daemon)["peers{family=\"ipv4\",role=\"seeder\"}"];
    assert_eq!(peers, MANY as u64);
    stop(daemon);
}

#[test]
fn a_peer_of_one_is_known_to_all_and_so_is_its_end() {
    let daemon = two(&[]);
    let clients = clients(daemon.udp4());
    clients[0].announce(&seeder(A, 7));
    wait_for("the peer", || {
        scraped(&clients, A)
            .iter()
            .all(|seeders| *seeders == 1)
            .then_some(())
    });
    let reply = clients[1].announce(&Announce {
        info_hash: A,
        port: 8,
        ..Announce::default()
    });
    assert_eq!(reply.peers, ["127.0.0.1:7".parse().expect("an address")]);
    let stopped = Announce {
        event: 3,
        ..seeder(A, 7)
    };
    clients[2].announce(&stopped);
    wait_for("its end", || {
        scraped(&clients, A)
            .iter()
            .all(|seeders| *seeders == 0)
            .then_some(())
    });
    both_answered(&daemon);
}

#[test]
fn each_takes_the_connection_ids_of_the_others() {
    let daemon = two(&[]);
    let mut clients = clients(daemon.udp4());
    let id = clients[0].connection;
    for client in &mut clients {
        client.connection = id;
        client.announce(&seeder(A, 9));
    }
    both_answered(&daemon);
}

#[test]
fn http_and_unix_sockets_are_served_by_all() {
    let directory = Directory::new("workers-unix");
    let path = directory.file("socket");
    let listen = format!("unix:{path}");
    let daemon = two(&["-p", &listen, "--proxy", "192.0.2.1"]);
    for port in 0..MANY {
        let target = format!(
            "/announce?info_hash={}&port={}&left=0",
            "A".repeat(20),
            1000 + port
        );
        assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
    }
    let name = |worker| format!("worker_requests_total{{worker=\"{worker}\",protocol=\"http\"}}");
    wait_for("both to have answered", || {
        let metrics = metrics(&daemon);
        (metrics[&name(0)] > 0 && metrics[&name(1)] > 0).then_some(())
    });
    let mut client = http::Client::new_unix(Path::new(&path));
    assert_eq!(
        client.request("GET /health HTTP/1.1\r\n\r\n").text(),
        "ok\n"
    );
    stop(daemon);
    assert!(!Path::new(&path).exists(), "the file goes with the daemon");
}

#[test]
fn a_killed_worker_is_replaced_and_has_the_table_again() {
    for worker in [0, 1] {
        let daemon = two(&[]);
        let clients = clients(daemon.udp4());
        for (port, client) in (1000..).zip(&clients) {
            client.announce(&seeder(A, port));
        }
        wait_for("all peers everywhere", || {
            let all = scraped(&clients, A);
            all.iter()
                .all(|seeders| *seeders == MANY as u32)
                .then_some(())
        });
        let before = announces(&daemon);
        replace(&daemon, worker);
        serves_everybody(daemon.udp4());
        let whole = format!("worker {worker}: cluster: whole: 1 torrent and {MANY} peers in ");
        daemon.wait_for_line(&whole);
        // Whoever answers now knows all.
        let all = scraped(&self::clients(daemon.udp4()), A);
        assert!(all.iter().all(|seeders| *seeders == MANY as u32), "{all:?}");
        // And its own replies are what it has, not what the other drained its sockets with.
        let asked = answered(&daemon);
        wait_for("the new worker to answer", || {
            let all = scraped(&self::clients(daemon.udp4()), A);
            assert!(all.iter().all(|seeders| *seeders == MANY as u32), "{all:?}");
            (answered(&daemon)[worker] > asked[worker]).then_some(())
        });
        assert!(announces(&daemon) >= before, "counts do not go back");
        stop(daemon);
    }
}

/// What is completed while a worker takes the table is told it, and may be in that already: which of these it has
/// to count, it finds out within seconds.
#[test]
fn a_new_worker_soon_counts_downloads_as_the_other_does() {
    let daemon = two(&[]);
    let mut port = 0;
    for worker in [1, 0] {
        let all = clients(daemon.udp4());
        let begin = Instant::now();
        kill(processes(&daemon)[&worker]);
        let whole = format!("announced: worker {worker}: cluster: whole: ");
        // On and on until some time after it has the table.
        let mut later = 0;
        while later < 100 {
            assert!(begin.elapsed() < 2 * common::DEADLINE, "it is not whole");
            for client in &all {
                port = port % 60_000 + 1;
                let completed = Announce {
                    event: 1,
                    ..seeder(A, port)
                };
                // Replies are of no interest, and the worker may be dead.
                client.send(&client.announce_request(&completed));
            }
            later += daemon.count_lines(&whole);
            std::thread::sleep(Duration::from_millis(5));
        }
        let all = clients(daemon.udp4());
        let mut counts = Vec::new();
        let begin = Instant::now();
        // Each of the seeders has completed it.
        let is_counted = |[seeders, completed, _]: &[u32; 3]| seeders == completed;
        while counts.is_empty() || !counts.iter().all(is_counted) {
            assert!(begin.elapsed() < common::DEADLINE, "{counts:?}");
            std::thread::sleep(Duration::from_millis(100));
            let scraped = all.iter().map(|client| client.scrape(&[A])[0]);
            counts = scraped.collect();
        }
        println!("worker {worker} counts all after {:?}", begin.elapsed());
    }
    both_answered(&daemon);
    stop(daemon);
}

/// Waits until a worker that has been replaced so often is whole and its parent knows: the next to be killed has
/// somebody who gives its table.
fn wait_until_back(daemon: &Daemon, worker: usize, times: usize) {
    let whole = format!("worker {worker}: cluster: whole");
    wait_for(&whole, || {
        (daemon.count_lines(&whole) >= times).then_some(())
    });
    let before = answered(daemon)[worker];
    wait_for("it to serve its share", || {
        serves_everybody(daemon.udp4());
        (answered(daemon)[worker] > before).then_some(())
    });
}

/// Linux takes a port that others share for one that is free, if the system is to choose and all share.
#[cfg(target_os = "linux")]
#[test]
fn several_trackers_do_not_share_what_the_system_chose() {
    let test = "several_trackers_do_not_share_what_the_system_chose";
    common::net::in_sandbox(test, |lan| {
        let host = lan.host();
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        let narrowed = host.within(|| fs::write(range, "40000 40002"));
        narrowed.expect("is this network's own");
        let flags = ["-j", "2", "-i", "10.77.0.1", "-P", "0"];
        let daemons = [(); 3].map(|()| host.start(&flags));
        let mut ports = daemons.each_ref().map(|daemon| daemon.udp4().port());
        ports.sort_unstable();
        assert_eq!(ports, [40000, 40001, 40002]);
    });
}

/// Within a second. On a machine that does other things besides it may take longer, but not three times.
#[test]
fn a_killed_workers_share_is_served_again_soon() {
    let daemon = two(&[]);
    let sockets: Vec<UdpSocket> = (0..MANY)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.connect(daemon.udp4()).expect("a route");
            socket
        })
        .collect();
    for worker in [1, 0] {
        let is_soon = (1..=3).any(|times| {
            let begin = Instant::now();
            kill(processes(&daemon)[&worker]);
            for socket in &sockets {
                let reply = ask(socket, &common::udp::connect_request());
                assert_eq!((reply.len(), &reply[..4]), (16, &[0; 4][..]));
            }
            let took = begin.elapsed();
            println!("worker {worker}'s share was served again after {took:?}");
            wait_until_back(&daemon, worker, times);
            took < Duration::from_secs(1)
        });
        assert!(is_soon, "worker {worker}'s share took long three times");
    }
}

#[test]
fn each_has_its_share_of_the_connections() {
    let daemon = two(&["--max-connections", "10"]);
    let request = "GET /health HTTP/1.1\r\n\r\n";
    let mut clients: Vec<http::Client> = Vec::new();
    // So many that each worker gets more than its five.
    for _ in 0..2 * MANY {
        let mut client = http::Client::new(daemon.tcp4());
        assert_eq!(client.request(request).status, 200);
        clients.push(client);
    }
    let is_open = |client: &&http::Client| {
        let stream = client.stream();
        stream.set_nonblocking(true).expect("is a socket");
        matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    let open = || clients.iter().filter(is_open).count();
    wait_for("what is too much to be closed", || {
        (open() <= 10).then_some(())
    });
    assert_eq!(open(), 10, "five for each of two");
}

#[test]
fn what_is_sent_to_a_worker_that_is_dead_is_answered() {
    let daemon = two(&[]);
    let tracker = daemon.udp4();
    let sockets: Vec<UdpSocket> = (0..MANY)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.connect(tracker).expect("a route");
            socket
                .set_read_timeout(Some(common::DEADLINE))
                .expect("a timeout");
            socket
        })
        .collect();
    let id = processes(&daemon)[&1];
    // It holds its share of what follows in its socket, and dies with it.
    let status = Command::new("kill")
        .args(["-s", "STOP", &id.to_string()])
        .status();
    assert!(status.expect("there is a kill").success());
    for socket in &sockets {
        socket
            .send(&common::udp::connect_request())
            .expect("is sent");
    }
    kill(id);
    for socket in &sockets {
        let mut reply = [0; 100];
        let length = uninterrupted(|| socket.recv(&mut reply)).expect("a reply");
        assert_eq!(length, 16, "sent once");
    }
}

#[test]
fn one_that_keeps_dying_is_waited_for_while_another_serves_its_clients() {
    let daemon = two(&[]);
    for _ in 0..3 {
        replace(&daemon, 1);
    }
    let id = processes(&daemon)[&1];
    kill(id);
    daemon.wait_for_line("worker 1 is started again in 1 s");
    serves_everybody(daemon.udp4());
    wait_for("another try", || {
        (processes(&daemon)[&1] != id).then_some(())
    });
    serves_everybody(daemon.udp4());
    stop(daemon);
}

#[test]
fn a_low_port_survives_a_worker_after_root_is_given_up() {
    let id = Command::new("id").arg("-u").output();
    if !id.is_ok_and(|output| output.stdout == b"0\n") {
        return skip("a port below 1024 is root's");
    }
    // An address of its own, so that nothing else on the machine is in the way.
    let daemon = Daemon::start_with(&["-j", "2", "-i", "127.77.88.98", "-P", "80", "-p", "80"]);
    let new = [replace(&daemon, 0), replace(&daemon, 1)];
    serves_everybody(daemon.udp4());
    assert_eq!(http::get(daemon.tcp4(), "/health").text(), "ok\n");
    for id in new {
        wait_for("the rights to be gone", || {
            let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            status
                .contains("Uid:\t65534\t65534\t65534\t65534")
                .then_some(())
        });
    }
    stop(daemon);
}

#[test]
fn the_end_saves_what_any_of_them_was_told_and_the_start_loads_it_into_all() {
    let directory = Directory::new("workers-state");
    let path = directory.file("state");
    let flags = ["--state", &path, "--state-interval", "0"];
    let daemon = two(&flags);
    for (port, client) in (1000..).zip(clients(daemon.udp4())) {
        client.announce(&seeder(A, port));
    }
    // At once: what the gateway has not heard yet is told it in the end.
    let log = stop(daemon);
    let saved = log
        .iter()
        .filter(|line| line.contains("saved 1 torrents, 32 peers"));
    assert_eq!(saved.count(), 1, "{log:?}");
    let daemon = two(&flags);
    let all = scraped(&clients(daemon.udp4()), A);
    assert!(all.iter().all(|seeders| *seeders == MANY as u32), "{all:?}");
    daemon.signal("USR1");
    daemon.wait_for_line("worker 0: saved 1 torrents");
    stop(daemon);
}

/// As a service manager does that ends all that it has started: the parent's word counts all the same.
#[test]
fn a_signal_to_every_process_is_one_to_the_daemon() {
    let directory = Directory::new("workers-all");
    let path = directory.file("state");
    let mut daemon = two(&["--state", &path, "--state-interval", "0"]);
    for (port, client) in (1000..).zip(clients(daemon.udp4())) {
        client.announce(&seeder(A, port));
    }
    let mut all = vec![daemon.id()];
    let mut next = 0;
    while let Some(id) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
        next += 1;
    }
    assert!(all.len() > 3, "workers, and who writes the file: {all:?}");
    let ids: Vec<String> = all.iter().map(u32::to_string).collect();
    for (signal, line) in [("USR1", "saved 1 torrents"), ("TERM", "announced: stopped")] {
        let status = Command::new("kill")
            .args(["-s", signal])
            .args(&ids)
            .stderr(std::process::Stdio::null())
            .status();
        // Not all that are told may still be there: what ends first ends others.
        status.expect("there is a kill");
        daemon.wait_for_line(line);
    }
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let last: Vec<_> = log.iter().filter(|line| line.contains("saved ")).collect();
    assert_eq!(last.len(), 2, "{log:?}");
    assert!(last[1].contains("saved 1 torrents, 32 peers"), "{log:?}");
}

fn hex(hash: [u8; 20]) -> String {
    hash.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        + "\n"
}

/// Waits until all workers track this, or none does.
fn wait_until_tracked(daemon: &Daemon, hash: [u8; 20], is_tracked: bool) {
    let clients = clients(daemon.udp4());
    wait_for("the list to be the same everywhere", || {
        let request = seeder(hash, 1);
        let tracked = |client: &Client| {
            let reply = client.exchange(&client.announce_request(&request));
            reply[..4] == 1_u32.to_be_bytes()
        };
        clients
            .iter()
            .all(|client| tracked(client) == is_tracked)
            .then_some(())
    });
}

#[test]
fn reloads_and_changes_reach_all_and_those_that_come_later() {
    let directory = Directory::new("workers-list");
    let list = directory.write("list", hex(A));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    let daemon = two(&["-w", &list, "--list-add", &add, "--list-remove", &remove]);
    wait_until_tracked(&daemon, A, true);
    wait_until_tracked(&daemon, B, false);
    let write = |fifo: &str, hash| {
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .open(fifo)
            .expect("is there");
        fifo.write_all(hex(hash).as_bytes()).expect("is taken");
    };
    write(&add, B);
    write(&remove, A);
    wait_until_tracked(&daemon, B, true);
    wait_until_tracked(&daemon, A, false);
    for worker in [0, 1] {
        replace(&daemon, worker);
        wait_until_back(&daemon, worker, 1);
        wait_until_tracked(&daemon, B, true);
        wait_until_tracked(&daemon, A, false);
    }
    let loaded = |daemon: &Daemon| {
        let log = daemon.log();
        log.iter()
            .filter(|line| line.contains("loaded, 1 hash"))
            .count()
    };
    let before = loaded(&daemon);
    daemon.signal("HUP");
    wait_for("both to reload", || {
        (loaded(&daemon) == before + 2).then_some(())
    });
    wait_until_tracked(&daemon, A, true);
    wait_until_tracked(&daemon, B, false);
    write(&add, B);
    wait_until_tracked(&daemon, B, true);
    stop(daemon);
}

/// Where a daemon listens for other nodes.
fn cluster_address(daemon: &Daemon) -> String {
    let line = daemon.wait_for_line("listening on cluster ");
    line.rsplit(' ').next().expect("is there").to_owned()
}

#[test]
fn two_groups_are_two_nodes_whatever_becomes_of_their_gateways() {
    let directory = Directory::new("workers-sites");
    let key = directory.file("key");
    assert_eq!(run(&["--make-key", &key]).0, Some(0));
    let listen = ["--cluster-listen", "127.0.0.1:0", "--cluster-key", &key];
    let here = two(&listen);
    let peer = cluster_address(&here);
    let there = two(&[&listen[..], &["--cluster-peer", &peer]].concat());
    let agree = |hash: [u8; 20], count: u32| {
        for daemon in [&here, &there] {
            let clients = clients(daemon.udp4());
            wait_for("the peers everywhere", || {
                let all = scraped(&clients, hash);
                all.iter().all(|seeders| *seeders == count).then_some(())
            });
        }
    };
    for (port, client) in (1000..).zip(clients(here.udp4())) {
        client.announce(&seeder(A, port));
    }
    for (port, client) in (2000..).zip(clients(there.udp4())) {
        client.announce(&seeder(A, port));
    }
    agree(A, 2 * MANY as u32);
    for daemon in [&here, &there] {
        replace(daemon, 0);
        daemon.wait_for_line("worker 0: cluster: whole");
    }
    for (port, client) in (1000..).zip(clients(there.udp4())) {
        client.announce(&seeder(B, port));
    }
    agree(B, MANY as u32);
    agree(A, 2 * MANY as u32);
    // One that comes later takes the table into all of its workers.
    let late = two(&[&listen[..], &["--cluster-peer", &peer]].concat());
    wait_for("all workers to be whole", || {
        let log = late.log();
        let whole = log.iter().filter(|line| line.contains("cluster: whole"));
        (whole.count() == 2).then_some(())
    });
    let all = scraped(&clients(late.udp4()), A);
    assert!(
        all.iter().all(|seeders| *seeders == 2 * MANY as u32),
        "{all:?}"
    );
    stop(late);
    stop(there);
    stop(here);
}

/// What is counted of the cluster, but of packets between the workers themselves.
fn counted(daemon: &Daemon) -> BTreeMap<String, u64> {
    let mut metrics = metrics(daemon);
    metrics.retain(|name, _| {
        let is_count = name.contains("_total");
        is_count && name.starts_with("sync") && !name.contains("\"worker ")
    });
    metrics
}

/// Of a node that it has been told of, and of one that has come by itself.
#[test]
fn what_a_gateway_has_counted_is_counted_on_by_the_next() {
    let directory = Directory::new("workers-counts");
    let key = directory.file("key");
    assert_eq!(run(&["--make-key", &key]).0, Some(0));
    let listen = ["--cluster-listen", "127.0.0.1:0", "--cluster-key", &key];
    let there = Daemon::start(&listen);
    let peer = cluster_address(&there);
    let here = two(&[&listen[..], &["--cluster-peer", &peer]].concat());
    let by_itself =
        Daemon::start(&[&listen[..], &["--cluster-peer", &cluster_address(&here)]].concat());
    let heard = |name: &str, least: u64| {
        let start = format!("{name}{{node=\"127.");
        let all = metrics(&here).into_iter();
        let nodes = all.filter(|(name, count)| name.starts_with(&start) && *count >= least);
        nodes.count()
    };
    wait_for("both nodes", || (heard("sync_up", 1) == 2).then_some(()));
    for (port, node) in [(1000, &there), (2000, &by_itself)] {
        let client = Client::new(node.udp4());
        (0..50).for_each(|n| {
            client.announce(&seeder(A, port + n));
        });
    }
    wait_for("the peers of both", || {
        (metrics(&here)["synced_peers_total"] >= 100).then_some(())
    });
    assert_eq!(heard("sync_received_bytes_total", 100), 2);
    let before = counted(&here);
    for _ in 0..2 {
        replace(&here, 0);
        for _ in 0..MANY {
            let now = counted(&here);
            for (name, count) in &before {
                assert!(now.get(name) >= Some(count), "{name} {count}: {now:?}");
            }
        }
    }
    for daemon in [by_itself, here, there] {
        stop(daemon);
    }
}

#[test]
fn without_the_parent_all_end() {
    let directory = Directory::new("workers-orphans");
    let pidfile = directory.file("pid");
    let mut daemon = two(&["--pidfile", &pidfile]);
    assert_eq!(
        fs::read_to_string(&pidfile).ok(),
        Some(format!("{}\n", daemon.id()))
    );
    let workers = processes(&daemon);
    assert_eq!(workers.len(), 2);
    daemon.signal("KILL");
    daemon.wait();
    for id in workers.values() {
        wait_for("a worker's end", || (!is_alive(*id)).then_some(()));
    }
    wait_for("the pidfile's end", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
}

#[test]
fn one_that_cannot_start_ends_the_start() {
    let flags = "-j 2 -i 127.0.0.1 -P 0 -w /nowhere/list";
    // Often: one in twenty was killed before it had said why.
    for _ in 0..20 {
        let (code, _, err) = run(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!(code, Some(1), "{err}");
        assert!(
            err.contains("announced: worker 0: -w/--whitelist '/nowhere/list': "),
            "{err}"
        );
    }
    let daemon = two(&[]);
    let port = daemon.udp4().port().to_string();
    let (code, _, err) = run(&["-j", "2", "-i", "127.0.0.1", "-P", &port]);
    let last = err.lines().last().unwrap_or_default();
    let start = format!("announced: cannot listen on udp 127.0.0.1:{port}: ");
    assert!(code == Some(1) && last.starts_with(&start), "{err}");
}

#[test]
fn in_the_background_there_is_one_process_to_know() {
    let directory = Directory::new("workers-daemon");
    let pidfile = directory.file("pid");
    let status = Command::new(program())
        .args(["-j", "2", "-i", "127.0.0.1", "-p", "0", "-P", "0"])
        .args(["--daemon", "--pidfile", &pidfile])
        .status();
    assert!(status.expect("starts").success());
    let id = fs::read_to_string(&pidfile).expect("is there");
    let id: u32 = id.trim().parse().expect("a number");
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let children = children.unwrap_or_default();
    let children: Vec<u32> = children
        .split(' ')
        .filter_map(|id| id.parse().ok())
        .collect();
    assert!(children.len() >= 2, "{children:?}");
    let stopped = Command::new("kill").arg(id.to_string()).status();
    assert!(stopped.expect("there is a kill").success());
    for id in children.into_iter().chain([id]) {
        wait_for("the end of all", || (!is_alive(id)).then_some(()));
    }
}
