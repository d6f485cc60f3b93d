//! What nodes of a cluster tell of it: `--cluster-status`, `/stats` and `/metrics`.

mod common;

use announced::random::Random;
use announced::sync::node::{Node, Outbox, Settings};
use announced::tracker::{Announce, Event, Hint, Limits, Peer, Role, Sink, Sinks, Tracker};
use common::http::get;
use common::udp::{self, Client};
use common::{Daemon, Directory, hurry, run, wait_for, wait_longer};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Where a daemon listens for other nodes.
fn cluster_address(daemon: &Daemon) -> String {
    let line = daemon.wait_for_line("listening on cluster ");
    line.rsplit(' ').next().expect("an address").to_owned()
}

fn key(directory: &Directory, name: &str) -> String {
    let path = directory.file(name);
    let made = run(&["--make-key", &path]);
    assert_eq!(made, (Some(0), String::new(), String::new()));
    path
}

fn node(key: &str, peers: &[&str], flags: &[&str]) -> Daemon {
    let mut all = vec!["--cluster-listen", "127.0.0.1:0", "--cluster-key", key];
    for peer in peers {
        all.extend(["--cluster-peer", peer]);
    }
    all.extend(flags);
    Daemon::start(&all)
}

/// What `--cluster-status` says of a daemon: exit code, standard output, standard error.
fn status(daemon: &Daemon) -> (Option<i32>, String, String) {
    run(&["--cluster-status", &daemon.tcp4().to_string()])
}

/// Polls until the cluster is as wanted; the report.
fn wait_for_status(daemon: &Daemon, code: i32, first: &str) -> String {
    wait_for(first, || {
        let (got, out, err) = status(daemon);
        assert_eq!(err, "");
        assert_eq!(got == Some(0), out.starts_with("cluster ok"), "{out}");
        let is_it = got == Some(code) && out.lines().next() == Some(first);
        is_it.then_some(out)
    })
}

fn announce(to: SocketAddr, torrent: u8, port: u16) {
    let hash = format!("%{torrent:02x}").repeat(20);
    get(
        to,
        &format!("/announce?info_hash={hash}&port={port}&left=0"),
    )
    .bencoded();
}

fn metric(daemon: &Daemon, name: &str, labels: &[&str]) -> Option<f64> {
    let text = get(daemon.tcp4(), "/metrics").text();
    let start = format!("announced_{name}");
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(&start);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|l| line.contains(l))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn two_nodes_agree_and_say_so_until_one_is_gone() {
    let directory = Directory::new("status-agree");
    let key = key(&directory, "key");
    let a = node(&key, &[], &[]);
    wait_for_status(&a, 0, "cluster ok: no other node has been heard");
    let a_address = cluster_address(&a);
    let b = node(&key, &[&a_address], &[]);
    let well = "cluster ok: 1 of 1 node up and agreeing";
    wait_for_status(&b, 0, well);
    announce(a.tcp4(), 1, 1001);
    announce(a.tcp4(), 2, 1002);
    wait_for("two peers at the other", || {
        let text = get(b.tcp4(), "/stats?mode=peer").text();
        text.starts_with("2\n2\n").then_some(())
    });
    for daemon in [&a, &b] {
        wait_for_status(daemon, 0, well);
    }
    let report = wait_for_status(&b, 0, well);
    assert!(report.lines().all(|line| line.len() <= 120), "{report}");
    let row = report
        .lines()
        .find(|line| line.starts_with("1  127.0.0.1:"));
    let words: Vec<&str> = row.expect("a row").split_whitespace().collect();
    assert_eq!(
        (words[1], words[3], words[4]),
        (&a_address[..], "up", "agree")
    );
    let same = get(b.tcp4(), "/stats?mode=cluster").text();
    assert_eq!(report.lines().next(), same.lines().next());

    let from_a = format!("node=\"{a_address}\"");
    let at_b = |name: &str| metric(&b, name, &[&from_a]);
    assert_eq!(at_b("sync_up"), Some(1.0));
    assert_eq!(at_b("sync_agrees"), Some(1.0));
    assert_eq!(at_b("sync_received_records_total"), Some(2.0));
    assert_eq!(at_b("sync_sent_records_total"), Some(0.0));
    assert_eq!(at_b("sync_lost_batches_total"), Some(0.0));
    assert!(at_b("sync_received_packets_total") >= Some(3.0));
    assert!(at_b("sync_received_bytes_total") > at_b("sync_received_packets_total"));
    assert!(at_b("sync_lag_seconds") < Some(10.0));
    assert!(at_b("sync_clock_offset_seconds").expect("a number").abs() < 1.0);
    assert_eq!(metric(&b, "synced_peers_total", &[]), Some(2.0));
    assert_eq!(metric(&a, "synced_peers_total", &[]), Some(0.0));
    assert_eq!(metric(&b, "sync_digests_ready", &[]), Some(1.0));
    assert!(metric(&b, "cluster_time_offset_seconds", &[]).is_some());
    let page = get(b.tcp4(), "/stats?mode=html").text();
    assert!(
        page.contains(&format!("<summary>{well}</summary>")),
        "{page}"
    );
    let syncs = get(b.tcp4(), "/stats?mode=syncs").text();
    assert!(syncs.starts_with("2\n0\n"), "{syncs}");
    let everything = get(b.tcp4(), "/stats?mode=everything").text();
    assert!(everything.contains("<livesync>\n      <count>2</count>\n"));

    drop(a);
    let report = wait_for_status(&b, 3, "cluster incomplete: 1 of 1 node down");
    assert!(report.contains("  down   -"), "{report}");
    assert_eq!(at_b("sync_up"), Some(0.0));
    assert_eq!(at_b("sync_agrees"), None);
}

#[test]
fn a_node_with_another_key_is_dropped_and_counted() {
    let directory = Directory::new("status-key");
    let (one, other) = (key(&directory, "one"), key(&directory, "other"));
    let a = node(&one, &[], &[]);
    let b = node(&other, &[&cluster_address(&a)], &[]);
    wait_for("packets that are dropped", || {
        let forged = [r#"node="others""#, r#"reason="forged""#];
        metric(&a, "sync_rejected_packets_total", &forged).filter(|&count| count >= 1.0)
    });
    let report = wait_for_status(&a, 0, "cluster ok: no other node has been heard");
    assert!(report.contains("\ndropped of others: forged "), "{report}");
    wait_for_status(&b, 3, "cluster incomplete: 1 of 1 node down");
}

#[test]
fn a_name_that_has_no_address_is_a_node_that_is_down() {
    let directory = Directory::new("status-name");
    let key = key(&directory, "key");
    let a = node(&key, &["nowhere.invalid:6970"], &[]);
    let report = wait_for_status(&a, 3, "cluster incomplete: 1 of 1 node down");
    assert!(
        report.ends_with("\nno address is known of nowhere.invalid:6970\n"),
        "{report}"
    );
    let up = metric(&a, "sync_up", &["node=\"nowhere.invalid:6970\""]);
    assert_eq!(up, Some(0.0));
}

#[test]
fn where_nodes_are_is_for_admins() {
    let directory = Directory::new("status-admins");
    let key = key(&directory, "key");
    let flags = ["--public-stats", "--proxy", "127.0.0.1"];
    let a = node(&key, &["127.0.0.1:1"], &flags);
    let ask = |client: &str, path: &str| {
        let mut connection = common::http::Client::new(a.tcp4());
        connection.request(format!(
            "GET {path} HTTP/1.1\r\nX-Forwarded-For: {client}\r\n\r\n"
        ))
    };
    let (admin, other) = ("::1", "198.51.100.1");
    assert_eq!(ask(other, "/stats?mode=cluster").status, 403);
    assert_eq!(ask(admin, "/stats?mode=cluster").status, 200);
    for path in ["/metrics", "/stats?mode=html"] {
        assert!(ask(admin, path).text().contains("127.0.0.1:1"), "{path}");
        assert!(!ask(other, path).text().contains("127.0.0.1:1"), "{path}");
    }
    assert!(
        ask(other, "/metrics")
            .text()
            .contains("\nannounced_sync_pending_changes 0\n")
    );
}

/// All nodes may have the same list of nodes.
#[test]
fn a_node_that_is_listed_itself_is_not_missed() {
    let directory = Directory::new("status-self");
    let key = key(&directory, "key");
    let address = common::free_address().to_string();
    let flags = ["--cluster-listen", &address, "--cluster-peer", &address];
    let daemon = Daemon::start(&[&flags[..], &["--cluster-key", &key]].concat());
    let report = wait_for_status(&daemon, 0, "cluster ok: no other node has been heard");
    let row = format!("\n1  {address}  -   self ");
    assert!(report.contains(&row), "{report}");
}

#[test]
fn whoever_cannot_be_asked_is_an_error() {
    let closed = common::free_address().to_string();
    let (code, out, err) = run(&["--cluster-status", &closed]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let start = format!("announced: --cluster-status '{closed}': Connection refused");
    assert!(err.starts_with(&start), "{err}");

    let directory = Directory::new("status-errors");
    let socket = format!("unix:{}", directory.file("http"));
    let daemon = Daemon::start(&["-p", &socket, "--stats-path", "/numbers"]);
    let tcp = daemon.tcp4().to_string();
    let error = |flags: &[&str]| {
        let (code, out, err) = run(flags);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let (_, why) = err.trim_end().split_once("': ").expect("a reason");
        why.to_owned()
    };
    assert_eq!(
        error(&["--cluster-status", &tcp]),
        "404 Not Found: its statistics are not at /stats, see --stats-path"
    );
    let alone = "that tracker is in no cluster";
    assert_eq!(
        error(&["--cluster-status", &tcp, "--stats-path", "/numbers"]),
        alone
    );
    let tcp6 = daemon.tcp6().to_string();
    assert_eq!(
        error(&["--stats-path", "/numbers", "--cluster-status", &tcp6]),
        alone
    );
    assert_eq!(
        error(&["--cluster-status", &socket, "--stats-path", "/numbers"]),
        alone
    );
    let strict = Daemon::start(&["--proxy", "127.0.0.1", "--proxy", "::1"]);
    assert_eq!(
        error(&["--cluster-status", &strict.tcp4().to_string()]),
        "403 Forbidden: only admins are told, see -A/--admin there"
    );
    let relayed = format!("unix:{}", directory.file("relayed"));
    let flags = ["-p", &relayed, "--proxy", "127.0.0.1", "--proxy-protocol"];
    let proxied = Daemon::start(&flags);
    for target in [&relayed, &proxied.tcp4().to_string()] {
        let told = error(&["--cluster-status", target]);
        assert!(told.ends_with(", see --proxy-protocol"), "{told}");
    }
    let other = proxied.tcp6().to_string();
    assert_eq!(error(&["--cluster-status", &other]), alone);
    let missing = format!("unix:{}", directory.file("nothing"));
    assert!(error(&["--cluster-status", &missing]).starts_with("No such file"));
}

#[test]
fn an_address_that_is_none_exits_2() {
    // Nothing that is there is asked.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("is bound").port().to_string();
    for bad in [
        "",
        &port,
        "127.0.0.1",
        "127.0.0.1:0",
        "::1:80",
        "[x]:80",
        "a b:80",
        "a:65536",
    ] {
        let (code, _, err) = run(&["--cluster-status", bad]);
        let wanted = format!(
            "announced: --cluster-status '{bad}': wanted is HOST:PORT, [IPv6]:PORT or unix:/PATH\n"
        );
        assert_eq!((code, err), (Some(2), wanted), "{bad}");
    }
    let directory = Directory::new("status-config");
    let config = directory.write("config", "cluster-status 127.0.0.1:1\n");
    let (code, _, err) = run(&["-f", &config]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("cluster-status is for the command line alone"),
        "{err}"
    );
}

/// A node without clients, of which the test says when it sends what it has to send.
struct Flood {
    socket: UdpSocket,
    node: Node,
    tracker: Tracker,
    random: Random,
    began: Instant,
    out: Outbox,
    packets: Vec<Vec<u8>>,
}

/// Peers of the one torrent that it has.
const CROWD: u32 = 20_000;
const TORRENT: [u8; 20] = [0xcc; 20];

impl Flood {
    fn new(key: &str, to: SocketAddr) -> Flood {
        let mut tracker = Tracker::new(Limits {
            peer_timeout: 2700,
            max_peers: usize::MAX,
            max_torrents: usize::MAX,
        });
        let settings = Settings {
            id: 7,
            secret: std::fs::read(key).expect("can be read"),
            entropy: [1, 2],
            peer_timeout: 2700,
            most_records: 1000,
            most_stops: 1000,
        };
        let mut node = Node::new(settings, 0, announced::state::wall_ms(), &mut tracker);
        node.set_peers(&[to]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("is a socket");
        Flood {
            socket,
            node,
            tracker,
            random: Random::seeded(1),
            began: Instant::now(),
            out: Outbox::default(),
            packets: Vec::new(),
        }
    }

    /// Every peer changes its role; what is to be told of that is kept.
    fn change(&mut self, role: Role) {
        for n in 0..CROWD {
            let [_, a, b, c] = n.to_be_bytes();
            let announce = Announce {
                info_hash: &TORRENT,
                peer: Peer::from_endpoint(&[10, a, b, c, 1, 1]).expect("an endpoint"),
                role,
                event: Event::None,
                want: 0,
                hint: Hint::default(),
            };
            let mut sinks = Sinks {
                v4: Sink::new(&mut []),
                v6: Sink::new(&mut []),
            };
            self.tracker
                .announce(&announce, &mut self.random, &mut sinks);
        }
        self.tick();
    }

    fn tick(&mut self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.tracker.advance(self.node.advance(now));
        self.node.tick(4096, &mut self.tracker, &mut self.out);
        let packets = self.out.packets().map(|(_, packet)| packet.to_vec());
        self.packets.extend(packets);
        self.out.clear();
    }

    fn send(&self, to: SocketAddr, packets: &[Vec<u8>]) {
        for packet in packets {
            // What is lost is asked for again, or found.
            let _ = self.socket.send_to(packet, to);
        }
    }

    /// Does for a while what nodes do.
    fn run(&mut self, to: SocketAddr) {
        let end = Instant::now() + Duration::from_millis(20);
        let mut packet = [0; 2000];
        while Instant::now() < end {
            while let Ok((length, from)) = self.socket.recv_from(&mut packet) {
                let (tracker, packet) = (&mut self.tracker, &packet[..length]);
                self.node.hear(from, packet, tracker, &mut self.out);
            }
            self.tick();
            let packets = std::mem::take(&mut self.packets);
            self.send(to, &packets);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Far more than it may take: some is dropped and counted, clients are answered all along, and in the end
/// nothing is missing.
#[test]
fn what_is_more_than_can_be_applied_is_shed_in_sight_and_mended() {
    let directory = Directory::new("status-flood");
    let key = key(&directory, "key");
    let daemon = node(&key, &[], &[]);
    daemon.wait_for_line("cluster: no other node is there");
    let to = daemon.cluster();
    let mut flood = Flood::new(&key, to);
    wait_for("the node to be up", || {
        flood.run(to);
        (metric(&daemon, "sync_up", &[]) == Some(1.0)).then_some(())
    });
    let mut asking = Client::new(daemon.udp4());
    let shed = || {
        let name = "sync_rejected_packets_total";
        metric(&daemon, name, &["reason=\"shed\"", "127.0.0.1:"]).expect("is there")
    };
    assert_eq!(shed(), 0.0);
    // What would take more than half a core is shed. On a busy machine it must get that much first, and this thread
    // what it takes to send that.
    hurry(&daemon.id().to_string());
    if let Ok(own) = std::fs::read_link("/proc/thread-self") {
        let id = own.file_name().unwrap_or_default();
        hurry(&id.to_string_lossy());
    }
    wait_longer("something to be shed", Duration::from_secs(60), || {
        asking.connect();
        // Made before, so that it comes faster than it could be made.
        for _ in 0..75 {
            flood.change(Role::Leecher);
            flood.change(Role::Seeder);
        }
        let packets = std::mem::take(&mut flood.packets);
        for (number, part) in packets.chunks(32).enumerate() {
            flood.send(to, part);
            std::thread::sleep(Duration::from_millis(1));
            if number % 32 == 0 {
                asking.announce(&udp::Announce::default());
            }
        }
        flood.run(to);
        (shed() > 0.0).then_some(())
    });
    daemon.wait_for_line(" rejected as shed: more than this node can apply; repair will bring it");
    let (_, out, _) = status(&daemon);
    assert!(out.contains("shed "), "{out}");
    wait_longer("both to agree", Duration::from_secs(120), || {
        flood.run(to);
        asking.connect();
        let all = asking.scrape(&[TORRENT]) == [[CROWD, 0, 0]];
        (all && metric(&daemon, "sync_agrees", &[]) == Some(1.0)).then_some(())
    });
}
