//! Statistics, as scripts, Prometheus and browsers read them.

mod common;

use announced::access::ListSize;
use announced::base::job::{Job, Run};
use announced::stats::cluster::{Health, LinkReport, Multicast, Overview, Traffic, WalkReport};
use announced::stats::history::{INTERVAL_MS, Sample};
use announced::stats::modes::{MODES, Report};
use announced::stats::{Counters, Monitor, View, log_lines, page, write_metrics};
use announced::tracker::{Limits, Table, Tally, Totals};
use common::http::{Client, get, metric};
#[cfg(target_os = "linux")]
use common::is_root;
use common::{Daemon, Directory, give_to_nobody, skip, udp, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Debian's, as its modules are packages.
const PYTHON: &str = "/usr/bin/python3";

fn report(daemon: &Daemon, mode: &str) -> String {
    daemon.wait_until_idle();
    let reply = get(daemon.tcp4(), &format!("/stats?mode={mode}"));
    let content_type = reply.header("Content-Type");
    assert_eq!((reply.status, content_type), (200, Some("text/plain")));
    reply.text()
}

/// A request of a client that a trusted proxy names.
fn request_as(client: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n")
}

fn announce_as(daemon: &Daemon, client: &str, torrent: u8, ports: u16, left: u64) {
    let hash = format!("%{torrent:02x}").repeat(20);
    let mut connection = Client::new(daemon.tcp4());
    for port in 1..=ports {
        let target = format!("/announce?info_hash={hash}&port={port}&left={left}");
        connection.request(request_as(client, &target)).bencoded();
    }
}

/// Three peers in two torrents, over HTTP and UDP, one of which completes; and invalid requests. It makes nine
/// connections.
fn with_some_peers() -> Daemon {
    let daemon = Daemon::start(&["-r", "http://t.example/", "--max-peers", "100000000"]);
    let tcp = daemon.tcp4();
    for rest in [
        "port=1001&left=0&event=completed",
        "port=1002&left=5&numwant=7",
        "port=1002&left=5&numwant=7",
    ] {
        let target = format!("/announce?info_hash={}&{rest}", "%01".repeat(20));
        get(tcp, &target).bencoded();
    }
    let client = udp::Client::new(daemon.udp4());
    client.announce(&udp::Announce {
        info_hash: [2; 20],
        num_want: 1000,
        ..udp::Announce::default()
    });
    client.scrape(&[[1; 20]]);
    get(tcp, &format!("/scrape?info_hash={}", "%01".repeat(20)));
    assert!(!get(tcp, "/announce?port=1").failure().is_empty());
    assert_eq!(get(tcp, "/nowhere").status, 404);
    assert_eq!(get(tcp, "/").status, 302);
    let post = Client::new(tcp).request("POST / HTTP/1.1\r\n\r\n");
    let invalid = Client::new(tcp).request("GET\r\n\r\n");
    assert_eq!((post.status, invalid.status), (405, 400));
    daemon
}

#[test]
fn mrtg_reads_two_counts_the_time_and_a_title_with_rates() {
    let daemon = with_some_peers();
    let peers = "3\n1\nopentracker serving 2 torrents\nopentracker";
    assert_eq!(report(&daemon, "peer"), peers);
    assert_eq!(get(daemon.tcp4(), "/stats").text(), peers);
    let torrents = "2\n0\nopentracker serving 2 torrents\nopentracker";
    assert_eq!(report(&daemon, "torr"), torrents);
    // Rates are written as counts since the start, in angle brackets. Each report is another connection.
    #[rustfmt::skip] // A table reads best a line each.
    let reports = [
        ("tcp4", "13\n3\nopentracker tcp4 stats, <13> conns/s :: <3> success/s."),
        ("udp4", "3\n2\nopentracker udp4 stats, <3> conns/s :: <2> success/s."),
        ("conn", "18\n5\nopentracker connections, <18> conns/s :: <5> success/s."),
        ("scrp", "1\n1\nopentracker scrape stats, <2> scrape/s (tcp and udp)"),
        ("fscr", "0\n0\nopentracker full scrape stats, <0> conns/s :: <0> bytes/s."),
        ("completed", "1\n0\nopentracker, 1 completed/h."),
        ("syncs", "0\n0\nopentracker connections, <22> conns/s :: <5> success/s."),
    ];
    for (mode, expected) in reports {
        let text = report(&daemon, mode);
        let mut lines: Vec<&str> = text.split('\n').collect();
        let seconds = lines.remove(2).strip_suffix(" seconds (0 hours)");
        let seconds: u64 = seconds.expect("a time").parse().expect("a number");
        let rated = expected.split('<').map(|part| match part.split_once('>') {
            Some((count, rest)) => {
                let count: u64 = count.parse().expect("a number");
                format!("{}{rest}", count / seconds.max(1))
            }
            None => part.into(),
        });
        assert_eq!(lines.join("\n"), rated.collect::<String>());
    }
    assert_eq!(get(daemon.tcp4(), "/scrape").status, 200);
    // Full scrapes are in thousandths.
    assert!(report(&daemon, "fscr").starts_with("1000\n"));
}

#[test]
fn tables_have_a_line_for_each_row() {
    let daemon = with_some_peers();
    let errors = "302 RED 1\n400 ... 2\n400 PAR 1\n400 COM 0\n403 IP  0\n404 INV 1\n500 SRV 0\n";
    assert_eq!(report(&daemon, "herr"), errors);
    let rows = (0..45).map(|minute| format!("{minute:02} {}\n", u64::from(minute == 0)));
    assert_eq!(report(&daemon, "renew"), rows.collect::<String>());
    let rows = (0..=200).map(|number| {
        let count = match number {
            7 => 2,
            50 | 200 => 1,
            _ => 0,
        };
        format!("{number:03} => {count}\n")
    });
    assert_eq!(report(&daemon, "numwants"), rows.collect::<String>());
    let version = format!("announced {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(report(&daemon, "version"), version);
}

#[test]
fn woodpeckers_are_addresses_that_announce_again_too_early() {
    let daemon = Daemon::start(&["--interval", "4", "--proxy", "127.0.0.1"]);
    let woodpeckers = || get(daemon.tcp6(), "/stats?mode=woodpeckers").text();
    announce_as(&daemon, "203.0.113.9", 1, 1, 5);
    let none = "Networks, limit /32:\n\nNetworks, limit /64:\n\n";
    assert_eq!(woodpeckers(), none);
    wait_for("woodpeckers", || {
        announce_as(&daemon, "203.0.113.7", 1, 1, 5);
        announce_as(&daemon, "2001:db8::7", 1, 1, 5);
        let found = woodpeckers();
        assert!(!found.contains("203.0.113.9"));
        let has_both = found.contains(": 203.0.113.7\n") && found.contains(": 2001:db8::\n");
        has_both.then_some(())
    });
}

#[test]
fn the_largest_torrents_are_ranked_by_peers_seeders_and_leechers() {
    let daemon = Daemon::start(&[]);
    let empty = ["peers", "seeds", "leechers"].map(|by| format!("Top 10 torrents by {by}:\n"));
    assert_eq!(report(&daemon, "top10"), empty.concat());
    let client = udp::Client::new(daemon.udp4());
    for torrent in 1..=120_u8 {
        for port in 1..=1 + u16::from(torrent) % 12 {
            client.announce(&udp::Announce {
                info_hash: [torrent; 20],
                port,
                left: u64::from(port > 1),
                ..udp::Announce::default()
            });
        }
    }
    // The eleventh, twenty-third and so on have twelve peers. Torrents with equal counts are ranked by info-hash.
    let large: Vec<u8> = (11..120).step_by(12).collect();
    let ranking = |by: &str, count: u8, torrents: &[u8]| {
        let hash = |torrent: &u8| format!("{torrent:02X}").repeat(20);
        let line = |torrent| format!("\t{count}\t{}\n", hash(torrent));
        let lines: String = torrents.iter().map(line).collect();
        format!("Top 10 torrents by {by}:\n{lines}")
    };
    let expected = [
        ranking("peers", 12, &large),
        ranking("seeds", 1, &(1..=10).collect::<Vec<u8>>()),
        ranking("leechers", 11, &large),
    ];
    assert_eq!(report(&daemon, "top10"), expected.concat());
    let hundred = report(&daemon, "top100");
    // Ten torrents have one peer and no leecher.
    assert_eq!(hundred.lines().count(), 3 + 300, "{hundred}");
}

#[test]
fn networks_are_ranked_by_peers() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1"]);
    // Few peers in several torrents, and many in a large swarm.
    for (client, torrent, ports, left) in [
        ("192.0.2.1", 1, 1, 0),
        ("192.0.2.17", 1, 2, 0),
        ("2001:db8::1", 1, 3, 0),
        ("192.0.2.1", 2, 1, 5),
        ("203.0.113.255", 2, 1, 5),
        ("198.51.100.1", 3, 300, 5),
        ("198.51.100.9", 3, 300, 5),
    ] {
        announce_as(&daemon, client, torrent, ports, left);
    }
    let expected = "Networks, limit /28:\n00000600: 198.51.100.0\n00000002: 192.0.2.0\n\
        00000002: 192.0.2.16\n00000001: 203.0.113.240\n\n\
        Networks, limit /24:\n00000600: 198.51.100.0\n00000004: 192.0.2.0\n\
        00000001: 203.0.113.0\n\n";
    assert_eq!(get(daemon.tcp6(), "/stats?mode=s24s").text(), expected);
}

/// The output of a program in Python; none if there is no such module.
fn python(module: &str, package: &str, program: &str, input: &str) -> Option<String> {
    let import = format!("import sys\ntry: import {module}\nexcept ImportError: sys.exit(3)\n");
    let child = Command::new(PYTHON)
        .args(["-c", &(import + program)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let output = child.and_then(|mut child| {
        let stdin = child.stdin.take();
        // Without the module the program ends before it reads.
        let _ = stdin.expect("is piped").write_all(input.as_bytes());
        child.wait_with_output()
    });
    match output.as_ref().map(|output| output.status.code()) {
        Ok(Some(0)) => Some(String::from_utf8(output.ok()?.stdout).expect("is text")),
        Ok(code) if code != Some(3) => panic!("{input}"),
        _ => {
            skip(&format!(
                "python3 has no {module} (Debian package {package})"
            ));
            None
        }
    }
}

#[test]
fn everything_is_xml() {
    let daemon = with_some_peers();
    let text = report(&daemon, "everything");
    let dense: String = text.split_whitespace().collect();
    let version = concat!(
        "<version>announced",
        env!("CARGO_PKG_VERSION"),
        "</version>"
    );
    assert!(dense.contains(version), "{text}");
    for part in [
        "<torrents><count_mutex>2</count_mutex><count_iterator>2</count_iterator></torrents>",
        "<peers><count>3</count></peers><seeds><count>1</count></seeds>",
        "<completed><count>1</count></completed>",
        "<announce>3</announce><scrape>1</scrape></tcp>",
        "<udp><overall>3</overall><connect>1</connect><announce>1</announce><scrape>1</scrape>",
        "<missmatch>0</missmatch></udp><livesync><count>0</count></livesync>",
        "<countinterval=\"00\">1</count><countinterval=\"01\">0</count>",
        "<countinterval=\"44\">0</count></renew>",
        "<countcode=\"302Redirect\">1</count><countcode=\"400ParseError\">2</count>",
        "<countcode=\"400InvalidParameter\">1</count>",
        "<countcode=\"404Notfound\">1</count>",
    ] {
        assert!(dense.contains(part), "{part}: {text}");
    }
    let parse = "xml.etree.ElementTree.fromstring(sys.stdin.buffer.read())";
    python("xml.etree.ElementTree", "python3", parse, &text);
}

/// Prometheus's own parser for Python, which is strict about names, types and their order.
const PROMETHEUS: &str = "
from prometheus_client.parser import text_string_to_metric_families as parse
seen = set()
for family in parse(sys.stdin.read()):
    assert family.documentation.endswith('.'), family
    assert family.name not in seen and family.name.startswith('announced_'), family
    seen.add(family.name)
    assert family.type in ('counter', 'gauge') and family.samples, family
    for sample in family.samples:
        assert sample.name.endswith('_total') == (family.type == 'counter'), sample
        labels = ','.join(k + '=' + v for k, v in sample.labels.items())
        print(sample.name[10:] + '{' + labels + '}', int(sample.value))
";

/// The samples as Prometheus reads them, without the prefix of the names.
fn samples(metrics: &str) -> Option<BTreeMap<String, u64>> {
    let (module, package) = ("prometheus_client.parser", "python3-prometheus-client");
    let parsed = python(module, package, PROMETHEUS, metrics)?;
    let samples = parsed.lines().map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("two words");
        (name.to_owned(), value.parse().expect("a number"))
    });
    Some(samples.collect())
}

/// The metrics of a node with two threads, opentracker's live sync, and two links.
fn all_metrics(is_admin: bool) -> String {
    let mut metrics = Vec::new();
    with_view(Monitor::default(), |view| {
        write_metrics(view, is_admin, &mut metrics)
    });
    String::from_utf8(metrics).expect("is text")
}

const BUILD_INFO: &str = concat!("build_info{version=", env!("CARGO_PKG_VERSION"), "}");

#[test]
fn prometheus_reads_the_metrics() {
    let daemon = with_some_peers();
    daemon.wait_until_idle();
    let reply = get(daemon.tcp4(), "/metrics");
    let content_type = Some("text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(
        (reply.status, reply.header("Content-Type")),
        (200, content_type)
    );
    let Some(before) = samples(&reply.text()) else {
        return;
    };
    for (name, value) in [
        (BUILD_INFO, 1),
        ("torrents{}", 2),
        ("peers{family=ipv4,role=leecher}", 2),
        ("peers{family=ipv4,role=seeder}", 1),
        ("peers{family=ipv6,role=leecher}", 0),
        ("requests_total{protocol=http,kind=scrape}", 1),
        ("requests_total{protocol=http,kind=redirect}", 1),
        ("errors_total{protocol=http,kind=failure_reason}", 1),
        ("errors_total{protocol=http,kind=method_not_allowed}", 1),
        ("errors_total{protocol=http,kind=bad_request}", 1),
        ("errors_total{protocol=udp,kind=connection_id}", 0),
        // Of the connect, the announce and the scrape.
        ("received_bytes_total{protocol=udp}", 16 + 98 + 36),
        ("sent_bytes_total{protocol=udp}", 16 + 20 + 20),
        ("dropped_replies_total{reason=no_room}", 0),
        ("connections_accepted_total{}", 9 + 1),
        ("table_bytes{part=torrents}", 64),
    ] {
        assert_eq!(before.get(name), Some(&value), "{name}: {before:#?}");
    }
    // The connections of earlier requests may still be open.
    assert!((1..=10).contains(&before["connections{}"]));
    assert!(before["received_bytes_total{protocol=http}"] > 500);
    assert!(before["sent_bytes_total{protocol=http}"] > 1000);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let now = now.expect("is later").as_secs();
    assert!((now - 1000..=now).contains(&before["start_time_seconds{}"]));
    let later = samples(&get(daemon.tcp4(), "/metrics").text()).expect("the same parser");
    let counts = before.iter().filter(|(name, _)| name.contains("_total"));
    counts.for_each(|(name, count)| assert!(later[name] >= *count, "{name}"));

    let cluster = samples(&all_metrics(true)).expect("the same parser");
    for (name, value) in [
        ("cluster_health{state=syncing}", 1),
        ("cluster_link_up{node=[2001:db8::1]:6970}", 1),
        (
            "cluster_link_records_total{node=192.0.2.1:6970,direction=in}",
            7,
        ),
        ("cluster_failed_handshakes_total{reason=wrong_key}", 0),
        ("multicast_ignored_packets_total{reason=shed}", 0),
        ("thread_requests_total{thread=1,protocol=udp}", 123_456_789),
    ] {
        assert_eq!(cluster.get(name), Some(&value), "{name}: {cluster:#?}");
    }
}

#[test]
fn peers_received_from_other_nodes_are_counted_for_all_clients_and_nodes_named_for_admins() {
    for is_admin in [false, true] {
        let metrics = all_metrics(is_admin);
        assert!(metrics.contains("\nannounced_synced_peers_total 14\n"));
        assert_eq!(metrics.contains("{node="), is_admin);
    }
}

#[test]
fn saves_reloads_and_limits_are_in_the_metrics() {
    let directory = Directory::new("jobs");
    let list = directory.write("list", "aa".repeat(20));
    fs::create_dir(directory.file("states")).expect("can be made");
    give_to_nobody(directory.file("states"));
    let state = directory.file("states/state");
    let flags = "--state-interval 0 --max-peers 1000 --max-torrents 100 --max-connections 50";
    let flags: Vec<&str> = flags
        .split(' ')
        .chain(["-w", &list, "--state", &state])
        .collect();
    let daemon = Daemon::start(&flags);
    let metrics = || get(daemon.tcp4(), "/metrics").text();
    let number = |name: &str| metric(&metrics(), name);
    let started = number("start_time_seconds");
    for (name, value) in [
        ("max_peers", 1000),
        ("max_torrents", 100),
        ("max_connections", 50),
        ("list_hashes", 1),
        ("list_changes", 0),
        ("list_load_success", 1),
        ("state_save_success", 1),
        // Of the start, as nothing was saved yet.
        ("state_save_time_seconds", started),
        ("log_dropped_lines_total", 0),
    ] {
        assert_eq!(number(name), value, "{name}");
    }
    assert!(number("list_load_time_seconds") >= started);
    let (open, max) = (number("descriptors"), number("max_descriptors"));
    assert!((10..100).contains(&open) && open < max, "{open} of {max}");
    assert!(metrics().contains("\nannounced_state_save_duration_seconds 0.000\n"));
    // Neither can be read or written any more.
    fs::remove_dir_all(directory.file("states")).expect("is ours");
    fs::write(&list, "x").expect("is ours");
    for (signal, name) in [("USR1", "state_save"), ("HUP", "list_load")] {
        daemon.signal(signal);
        let name = format!("{name}_success");
        wait_for(&name, || (number(&name) == 0).then_some(()));
    }
    let page = get(daemon.tcp4(), "/stats?mode=html").text();
    let line = "<p class=\"ill\">Not well: the last save of the state failed; \
        the last reload of the whitelist failed.</p>";
    assert!(page.contains(line), "{page}");
    // A tracker without list and state has none of them.
    let metrics = get(Daemon::start(&[]).tcp4(), "/metrics").text();
    assert!(!metrics.contains("announced_list_") && !metrics.contains("announced_state_"));
}

#[test]
fn totals_and_counters_are_json() {
    let daemon = with_some_peers();
    let reply = get(daemon.tcp4(), "/stats?mode=json");
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    let start = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\",");
    assert!(reply.text().starts_with(start), "{}", reply.text());
    let print = "json = json.load(sys.stdin)
print(json['torrents'], json['peers']['ipv4']['leecher'], json['requests_total']['udp']['announce'],
      json['errors_total']['http']['not_found'], json['cpu_seconds_total'] >= 0)";
    let numbers = python("json", "python3", print, &reply.text());
    assert!(numbers.is_none_or(|numbers| numbers == "2 2 1 1 True\n"));
    // A node of a cluster has its own counters in it, and no other node.
    let mode = MODES.iter().find(|mode| mode.name == "json");
    let Some(Report::Json(write)) = mode.map(|mode| mode.report) else {
        panic!("there is such a mode");
    };
    let mut text = Vec::new();
    with_view(Monitor::default(), |view| write(view, &mut text));
    let text = String::from_utf8(text).expect("is text");
    let print = "json = json.load(sys.stdin)
print(json['cluster_health']['syncing'], json['multicast_ignored_packets_total']['shed'], len(json['peers']))";
    let numbers = python("json", "python3", print, &text);
    assert!(numbers.is_none_or(|numbers| numbers == "1 0 2\n"));
    assert!(!text.contains("192.0.2.1"), "{text}");
}

/// The file with the size of the process is opened before the chroot.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_known_in_a_chroot_too() {
    if !is_root() {
        return;
    }
    let resident = |daemon: &Daemon| -> u64 {
        let text = get(daemon.tcp4(), "/metrics").text();
        let mut lines = text.lines();
        let number = lines.find_map(|line| line.strip_prefix("announced_resident_memory_bytes "));
        number.expect("is there").parse().expect("a number")
    };
    let daemon = Daemon::start(&["-u", "65534:65534", "-d", env!("CARGO_TARGET_TMPDIR")]);
    let memory = resident(&daemon);
    // The maximum so far.
    let kilobytes = daemon.proc_status("VmHWM");
    let kilobytes: u64 = kilobytes.trim_end_matches(" kB").parse().expect("a number");
    assert!((200_000..=kilobytes * 1024).contains(&memory), "{memory}");
}

const PRIVATE: &str = "s24s top10 top100 woodpeckers cluster tpbs statedump";

#[test]
fn reports_that_name_torrents_or_peers_are_for_admins_and_others_may_be_public() {
    let names = |is_private| {
        let modes = MODES
            .iter()
            .filter(|mode| !matches!(mode.report, Report::Gone));
        let modes = modes.filter(move |mode| mode.is_private == is_private);
        modes.map(|mode| mode.name)
    };
    assert!(names(true).eq(PRIVATE.split(' ')));
    let paths = |is_private| names(is_private).map(|mode| format!("/stats?mode={mode}"));
    let public: Vec<String> = paths(false)
        .chain(["/metrics".into(), "/stats".into()])
        .collect();
    let private: Vec<String> = paths(true).collect();
    let admins = "--proxy 127.0.0.1 -A 203.0.113.0/24 --admin 2001:db8::/32 --public-stats";
    let flags: Vec<&str> = admins.split(' ').collect();
    let (open, closed) = (Daemon::start(&flags), Daemon::start(&flags[..6]));
    let response = |daemon: &Daemon, client, path: &str| {
        Client::new(daemon.tcp4()).request(request_as(client, path))
    };
    let status = |daemon: &Daemon, client, path: &str| response(daemon, client, path).status;
    let unknown = "/stats?mode=unknown";
    for daemon in [&closed, &open] {
        for admin in ["203.0.113.9", "2001:db8:1::"] {
            for path in public.iter().chain(&private) {
                assert_eq!(status(daemon, admin, path), 200, "{admin} {path}");
            }
            assert_eq!(status(daemon, admin, "/stats?mode=busy"), 404);
            assert_eq!(status(daemon, admin, unknown), 400);
        }
    }
    for other in ["198.51.100.1", "2001:db9::1", "unknown"] {
        for (paths, if_open) in [(&public, 200), (&private, 403)] {
            for path in paths {
                assert_eq!(status(&closed, other, path), 403, "{path}");
                assert_eq!(status(&open, other, path), if_open, "{path}");
            }
        }
        // The names of modes are private too.
        assert_eq!(status(&closed, other, unknown), 403);
        assert_eq!(status(&open, other, unknown), 400);
        for path in ["/health", "/robots.txt", "/"] {
            assert_eq!(status(&closed, other, path), 200, "{path}");
        }
    }
    let forbidden = response(&closed, "192.0.2.1", "/metrics").text();
    assert!(
        forbidden.ends_with(": requires --admin 192.0.2.1\n"),
        "{forbidden}"
    );
}

#[test]
fn head_has_no_body_and_other_methods_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for path in "/stats /stats?mode=html /metrics /health /robots.txt /".split(' ') {
        client.send(format!("HEAD {path} HTTP/1.1\r\n\r\n"));
        let head = client.receive_to("HEAD");
        let length = head.header("Content-Length").expect("has one");
        assert_eq!((head.status, &*head.body), (200, &b""[..]), "{path}");
        assert_ne!(length, "0", "{path}");
        let posted = client.request(format!("POST {path} HTTP/1.1\r\n\r\n"));
        let allowed = posted.header("Allow");
        assert_eq!((posted.status, allowed), (405, Some("GET, HEAD")));
    }
    client.send("HEAD /stats?mode=nonsense HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive_to("HEAD").status, 400);
}

#[test]
fn the_path_can_be_moved() {
    let daemon = Daemon::start(&["--stats-path", "/secret/numbers"]);
    let reply = |target| get(daemon.tcp4(), target);
    for target in ["/stats", "/secret/numbers/"] {
        assert_eq!(reply(target).status, 404);
    }
    for target in [
        "/secret/numbers?mode=torr",
        "//secret/numbers?format=x&mode=torr",
    ] {
        assert!(reply(target).text().starts_with("0\n0\n"));
    }
    assert!(!reply("/").text().contains("secret"));
}

#[test]
fn the_root_lists_the_announce_urls() {
    let daemon = Daemon::start(&[]);
    let (tcp, udp4, udp6) = (daemon.tcp4(), daemon.udp4(), daemon.udp6());
    let introduction = concat!(
        "This is announced ",
        env!("CARGO_PKG_VERSION"),
        ", a BitTorrent tracker. To announce a torrent, put one of these URLs into it:\n\n"
    );
    let ask = |header: &str| {
        let reply = Client::new(tcp).request(format!("GET / HTTP/1.1\r\n{header}\r\n"));
        let content_type = reply.header("Content-Type");
        assert_eq!((reply.status, content_type), (200, Some("text/plain")));
        let text = reply.text();
        text.strip_prefix(introduction).expect(&text).to_owned()
    };
    for (host, name) in [
        ("t.example:8080", "t.example"),
        ("t.example", "t.example"),
        ("[2001:db8::1]:99", "[2001:db8::1]"),
        ("192.0.2.1", "192.0.2.1"),
    ] {
        let (port4, port6) = (udp4.port(), udp6.port());
        let expected = format!(
            "http://{host}/announce\nudp://{name}:{port4}/announce\nudp://{name}:{port6}/announce\n"
        );
        assert_eq!(ask(&format!("Host: {host}\r\n")), expected);
    }
    let tcp6 = daemon.tcp6();
    let addresses = format!(
        "udp://{udp4}/announce\nudp://{udp6}/announce\nhttp://{tcp}/announce\nhttp://{tcp6}/announce\n"
    );
    assert_eq!(ask(""), addresses);
    for host in ["", " <script>", " a b", " x:y"] {
        assert_eq!(ask(&format!("Host:{host}\r\n")), addresses, "{host}");
    }
    let robots = get(tcp, "/robots.txt").text();
    assert_eq!(robots, "User-agent: *\nDisallow: /\n");
    assert_eq!(get(tcp, "/health").text(), "ok\n");
}

#[cfg(target_os = "linux")]
#[test]
fn the_root_lists_a_port_of_several_addresses_once() {
    let [a, b] = [common::free_address(), common::free_address()];
    let sockets = [a, b].map(|it| [a, b].map(|port| format!("{}:{}", it.ip(), port.port())));
    let udp = sockets.as_flattened().iter().flat_map(|it| ["-P", it]);
    let flags: Vec<&str> = ["-p", "127.0.0.1:0"].into_iter().chain(udp).collect();
    let daemon = Daemon::start_with(&flags);
    let reply = Client::new(daemon.tcp4()).request("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    let text = reply.text();
    let urls: Vec<&str> = text.lines().filter(|line| line.contains("://")).collect();
    let expected = [a, b].map(|it| format!("udp://t:{}/announce", it.port()));
    assert_eq!(urls[1..], expected, "{text}");
}

/// The daemon logs them every minute, for which a test does not wait.
#[test]
fn the_log_has_all_counts_that_are_not_zero_however_large() {
    let lines = with_view(Monitor::default(), log_lines);
    let expected = "torrents 860000, peers.ipv4.leecher 600000, peers.ipv4.seeder 1500000, \
        peers.ipv6.leecher 100000, peers.ipv6.seeder 60000, interval_seconds 1800, \
        completed_total 91234, synced_peers_total 14, \
        requests_total.udp.announce 123456789, requests_total.http.announce 4567890, \
        received_bytes_total.udp 98765432100";
    assert_eq!(lines, [expected]);
    let counters = Counters::of(u64::MAX);
    let (lines, metrics) = with_view(Monitor::default(), |view| {
        let (cluster, threads, tally) = (None, Vec::new(), view.tally.clone());
        let view = View {
            counters,
            cluster,
            threads,
            tally,
            ..*view
        };
        let mut metrics = Vec::new();
        write_metrics(&view, false, &mut metrics);
        (
            log_lines(&view),
            String::from_utf8_lossy(&metrics).into_owned(),
        )
    });
    assert!(lines.len() > 1, "{lines:?}");
    let is_whole = |line: &String| line.len() <= announced::base::log::ROOM;
    assert!(lines.iter().all(is_whole), "{lines:?}");
    let largest = format!(" {}", u64::MAX);
    let [logged, all] = [lines.concat(), metrics].map(|text| text.matches(&largest).count());
    assert_eq!(logged, all);
    assert!(all > 20, "{all}");
}

/// A view of a busy tracker with two threads, a node of a cluster.
fn with_view<T>(monitor: Monitor, make: impl FnOnce(&View) -> T) -> T {
    let counters = Counters {
        udp_announces: 123_456_789,
        http_announces: 4_567_890,
        udp_received: 98_765_432_100,
        ..Counters::default()
    };
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 4_000_000,
        max_torrents: 1_000_000,
    };
    let mut tally = Tally::new(28_125);
    tally.completed = 91_234;
    let totals = Totals {
        torrents: 860_000,
        leechers: 700_000,
        seeders: 1_560_000,
    };
    let up = |name: &str| LinkReport {
        name: name.into(),
        is_up: true,
        traffic: Traffic {
            records_in: 7,
            ..Traffic::default()
        },
        walk: Some(WalkReport::default()),
        round_trip_ms: Some(3),
        clock_ahead_ms: Some(0),
        theirs: Some(totals),
        ..LinkReport::default()
    };
    let cluster = Overview {
        links: vec![up("192.0.2.1:6970"), up("[2001:db8::1]:6970")],
        link_records_in: 14,
        multicast: Some(Multicast::default()),
        ..Overview::default()
    };
    make(&View {
        counters,
        threads: vec![counters; 2],
        monitor: &monitor,
        tally,
        table: &Table::new(limits, 1),
        table_now: 0,
        totals,
        interval: 1800,
        limits,
        list: None,
        peers: [600_000, 1_500_000, 100_000, 60_000],
        table_bytes: [1, 2],
        cluster: Some(cluster),
    })
}

fn page(view: &View, is_admin: bool, shows_hour: bool) -> String {
    let mut page = Vec::new();
    page::write(view, is_admin, shows_hour, &mut page);
    String::from_utf8(page).expect("is text")
}

/// The page after more than an hour with many peers.
fn full_page() -> String {
    let monitor = Monitor {
        host: "<t1> & co".into(),
        now: 200_000_000,
        connections: Arc::new(1234.into()),
        max_connections: Arc::new(20_000.into()),
        saves: Some(Job::default()),
        ..Monitor::default()
    };
    let mut sample = Sample::default();
    for n in 0..130 {
        monitor.history().record(n * INTERVAL_MS, sample);
        sample.udp += 240_000 + 40_000 * (n % 10) + 900 * n;
        sample.http += 30_000 + 9_000 * (n % 7);
        sample.dropped += if n / 5 == 7 { 300 } else { 2 };
        sample.peers = 1_900_000 + 3000 * n + 5000 * (n % 5);
        sample.torrents = 812_000 + 400 * n;
    }
    with_view(monitor, |view| page(view, true, true))
}

/// A job whose last run ended after this time.
fn job(ended: u64, has_failed: bool) -> Option<Job> {
    let job = Job::default();
    job.note(Run {
        ended,
        took_ms: 1500,
        has_failed,
    });
    Some(job)
}

/// The page of a node on which all is well, or hardly anything.
fn page_of(is_ill: bool, is_admin: bool) -> String {
    let either = |ill: usize, well: usize| if is_ill { ill } else { well };
    let monitor = Monitor {
        saves: job(3600, is_ill),
        loads: job(3600, is_ill),
        connections: Arc::new(9.into()),
        max_connections: Arc::new(either(9, 10).into()),
        now: 7_200_000,
        ..Monitor::default()
    };
    let sample = Sample {
        dropped: 3,
        ..Sample::default()
    };
    monitor.history().record(0, sample);
    with_view(monitor, |view| {
        let (threads, tally) = (Vec::new(), view.tally.clone());
        let (mut cluster, mut counters, mut limits) =
            (view.cluster.clone(), view.counters, view.limits);
        counters.udp_dropped = either(1237, 3) as u64;
        limits.max_torrents = either(860_000, 860_001);
        if let Some(cluster) = &mut cluster {
            cluster.health = if is_ill { Health::Syncing } else { Health::Ok };
            cluster.links[1].is_up = !is_ill;
        }
        let (name, hashes, changes) = ("whitelist", 12_000, 3);
        let list = Some(ListSize {
            name,
            hashes,
            changes,
        });
        let view = View {
            counters,
            threads,
            tally,
            list,
            limits,
            cluster,
            ..*view
        };
        page(&view, is_admin, false)
    })
}

#[test]
fn the_page_says_in_its_first_line_what_is_not_well() {
    let line = |is_ill: bool, is_admin| {
        let page = page_of(is_ill, is_admin);
        let failed = if is_ill { " <small>failed</small>" } else { "" };
        for part in [
            &format!("<dt>Last save</dt><dd>1 h 0 min ago{failed}</dd>"),
            "<dt>whitelist</dt><dd>12,000 <small>info-hashes, 3 changes</small></dd>",
            "<dt>Peers</dt><dd>2,260,000 <small>of 4,000,000</small></dd>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let line = page.lines().find(|line| line.starts_with("<p class="));
        line.expect("a line").to_owned()
    };
    assert_eq!(line(false, true), "<p class=\"well\">All is well.</p>");
    let others = "the last save of the state failed; the last reload of the whitelist failed; \
        1,234 UDP replies dropped in the last hour; the table is full: 860,000 torrents; \
        all 9 TCP connections are in use.</p>";
    let start = "<p class=\"ill\">Not well: this node is syncing; 1 link down";
    let named = format!("{start}: [2001:db8::1]:6970; {others}");
    assert_eq!(line(true, true), named);
    assert_eq!(line(true, false), format!("{start}; {others}"));
}

/// The labels below a plot, and the first and last position of its line.
fn axis(minutes: u64) -> (Vec<String>, u64, u64) {
    let monitor = Monitor::default();
    for n in 0..=2 * minutes {
        monitor.history().record(n * INTERVAL_MS, Sample::default());
    }
    let page = with_view(monitor, |view| page(view, true, false));
    let (_, svg) = page.split_once("<svg").expect("a plot");
    let (svg, _) = svg.split_once("</svg>").expect("its end");
    let labels = svg.lines().filter(|line| line.contains("y=\"1430\""));
    let text = |line: &str| line.split(['>', '<']).nth(2).unwrap_or_default().to_owned();
    let labels = labels.map(text).collect();
    let (_, path) = svg.split_once("class=\"line a\" d=\"M").expect("a line");
    let (path, _) = path.split_once('"').expect("its end");
    let mut columns = path.split_whitespace().step_by(2);
    let first: u64 = columns.next().expect("a point").parse().expect("a number");
    let last = columns
        .last()
        .map_or(first, |last| last.parse().expect("a number"));
    (labels, first, last)
}

#[test]
fn axes_are_as_long_as_the_uptime_up_to_an_hour() {
    for (minutes, labels) in [
        (7, ["7 min ago", "3.5 min ago", "now"]),
        (60, ["60 min ago", "30 min ago", "now"]),
        (90, ["60 min ago", "30 min ago", "now"]),
    ] {
        assert_eq!(
            axis(minutes),
            (labels.map(String::from).to_vec(), 480, 3960)
        );
    }
}

#[test]
fn the_page_links_private_reports_for_admins_only_and_keeps_its_table_open() {
    let pages = [true, false]
        .map(|is_admin| with_view(Monitor::default(), |view| page(view, is_admin, false)));
    for mode in MODES {
        let is_page = matches!(mode.report, Report::Html | Report::Gone);
        let link = format!("<a href=\"?mode={}\">", mode.name);
        let links = pages.each_ref().map(|page| page.contains(&link));
        assert_eq!(links, [!is_page, !is_page && !mode.is_private], "{link}");
    }
    // A refresh keeps the address of the page, and would close an element that the reader has opened.
    assert!(pages.iter().all(|page| !page.contains("<details")));
    let daemon = Daemon::start(&[]);
    let get = |target: &str| get(daemon.tcp4(), target).text();
    assert!(!get("/stats?mode=html").contains("Minutes ago"));
    assert!(get("/stats?mode=html").contains("href=\"?mode=html&amp;hour=shown\""));
    assert!(get("/stats?mode=html&hour=shown").contains("Minutes ago"));
}

/// Every element is closed, in order. Nothing runs, and nothing is loaded from elsewhere.
const WELL_FORMED: &str = "
from html.parser import HTMLParser
class Check(HTMLParser):
    open = []
    def handle_starttag(self, tag, attributes):
        assert tag not in ('script', 'img', 'link', 'iframe', 'object'), tag
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), attributes
        assert not {'src', 'style'} & set(names) and not any(n.startswith('on') for n in names)
        assert all(value.startswith('?mode=') for name, value in attributes if name == 'href')
        if tag not in ('meta', 'br'): self.open.append(tag)
    def handle_startendtag(self, tag, attributes):
        assert tag == 'path', tag
    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
page = sys.stdin.read()
assert page.startswith('<!DOCTYPE html>\\n<html lang=\"en\">') and 'url(' not in page and '@import' not in page
check = Check()
check.feed(page)
check.close()
assert check.open == []
";

#[test]
fn the_page_is_well_formed_and_whole() {
    let daemon = with_some_peers();
    // Another thread may publish its counts after its reply.
    let reply = wait_for("the counts of all threads", || {
        let reply = get(daemon.tcp4(), "/stats?mode=html");
        let last = "<th scope=\"row\">Refused or invalid</th><td>0</td><td>4</td>";
        reply.text().contains(last).then_some(reply)
    });
    let content_type = Some("text/html; charset=utf-8");
    assert_eq!(reply.header("Content-Type"), content_type);
    let (empty, full) = (reply.text(), full_page());
    for part in [
        "<p class=\"well\">All is well.</p>",
        "<dt>Peers</dt><dd>3 <small>of 100,000,000</small></dd>",
        "The first samples are being taken.",
        "<figcaption>Peers <span class=\"a\"> <b>3</b></span>",
        "<th scope=\"row\">Announces</th><td>1</td><td>3</td>",
    ] {
        assert!(empty.contains(part), "{part}: {empty}");
    }
    for part in [
        "<title>announced on &lt;t1> &amp; co</title>",
        "<h1>announced on &lt;t1> &amp; co</h1>",
        "up 2 d 7 h",
        "<dt>Last save</dt><dd>none</dd>",
        "<dt>Peers over IPv4</dt><dd>2,100,000</dd>",
        "<th scope=\"row\">Received</th><td>91.9 GiB</td><td>0 B</td>",
        "<p>cluster syncing: 2 of 2 other nodes up</p>",
        "<tr><th scope=\"row\">[2001:db8::1]:6970</th><td>up</td>",
    ] {
        assert!(full.contains(part), "{part}: {full}");
    }
    assert_eq!(full.matches("<figure>").count(), 4);
    assert_eq!(full.matches("<tr><th scope=\"row\">").count(), 12 + 9 + 3);
    assert!(!empty.contains("Cluster") && !full.contains('$'));
    for page in [&empty, &full] {
        python("html.parser", "python3", WELL_FORMED, page);
    }
}

/// Runs a browser on a page, which requests nothing else. Returns its output, or nothing without a browser.
fn chromium(profile: &Directory, arguments: &[&str], url: &str) -> Option<String> {
    let flags = "300 chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
                 --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars";
    let output = Command::new("timeout")
        .args(flags.split_whitespace())
        .arg(format!("--user-data-dir={}", profile.file("profile")))
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) if output.status.code() == Some(127) => {
            skip("there is no chromium (Debian package chromium)");
            None
        }
        other => panic!("chromium: {other:?}"),
    }
}

#[test]
fn page_is_drawn_by_a_browser_in_light_and_dark() {
    let daemon = with_some_peers();
    let profile = Directory::new("browser");
    let url = format!("http://{}/stats?mode=html", daemon.tcp4());
    let Some(dom) = chromium(&profile, &["--dump-dom"], &url) else {
        return;
    };
    assert!(dom.contains("<dt>Leechers</dt><dd>2</dd>"), "{dom}");
    assert_eq!(dom.matches("<svg ").count(), 4);
    // Plots are drawn, in the colours of either scheme.
    let file = profile.write("full.html", full_page());
    let file = format!("file://{file}");
    let mut pictures = Vec::new();
    for (name, scheme) in [("light", "1"), ("dark", "0")] {
        let picture = profile.file(&format!("{name}.png"));
        let screenshot = format!("--screenshot={picture}");
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let arguments = [&*screenshot, &scheme, "--window-size=1100,1250"];
        chromium(&profile, &arguments, &file);
        let picture = fs::read(&picture).expect("a picture");
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000);
        pictures.push(picture);
    }
    assert_ne!(pictures[0], pictures[1]);
}
