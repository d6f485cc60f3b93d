//! Statistics, as scripts, Prometheus and browsers read them.

mod common;

use announced::stats::cluster::{Link, Overview};
use announced::stats::history::{EVERY, Sample};
use announced::stats::{Counters, Monitor, View, page};
use announced::tracker::{Limits, Table, Tally, Totals};
use common::http::{Client, get};
use common::{Daemon, Directory, skip, udp, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A report of a mode.
fn report(daemon: &Daemon, mode: &str) -> String {
    daemon.wait_until_idle();
    let reply = get(daemon.tcp4(), &format!("/stats?mode={mode}"));
    assert_eq!(reply.status, 200, "{mode}");
    assert_eq!(reply.header("Content-Type"), Some("text/plain"), "{mode}");
    reply.text()
}

/// Four lines as MRTG reads them: two counts, the seconds, and the title.
fn mrtg(daemon: &Daemon, mode: &str) -> (u64, u64, u64, String) {
    let text = report(daemon, mode);
    let lines: Vec<&str> = text.split('\n').collect();
    let [first, second, time, title] = lines[..] else {
        panic!("four lines: {text:?}");
    };
    let number = |text: &str| text.parse().expect("a number");
    let (seconds, hours) = time.split_once(" seconds (").expect("a time");
    assert_eq!(hours, "0 hours)");
    (
        number(first),
        number(second),
        number(seconds),
        title.to_owned(),
    )
}

fn announce(to: SocketAddr, torrent: u8, port: u16, rest: &str) {
    let hash = format!("%{torrent:02x}").repeat(20);
    let target = format!("/announce?info_hash={hash}&port={port}&{rest}");
    get(to, &target).bencoded();
}

/// Three peers in two torrents, over HTTP and UDP, one of which completes; and requests that are wrong.
fn with_some_peers() -> Daemon {
    let daemon = Daemon::start(&["-r", "http://t.example/"]);
    let tcp = daemon.tcp4();
    announce(tcp, 1, 1001, "left=0&event=completed");
    announce(tcp, 1, 1002, "left=5&numwant=7");
    announce(tcp, 1, 1002, "left=5&numwant=7");
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
    assert_eq!(
        Client::new(tcp).request("POST / HTTP/1.1\r\n\r\n").status,
        405
    );
    assert_eq!(Client::new(tcp).request("GET\r\n\r\n").status, 400);
    daemon
}

#[test]
fn mrtg_reads_two_counts_and_a_title() {
    let daemon = with_some_peers();
    assert_eq!(
        report(&daemon, "peer"),
        "3\n1\nopentracker serving 2 torrents\nopentracker"
    );
    assert_eq!(get(daemon.tcp4(), "/stats").text(), report(&daemon, "peer"));
    assert_eq!(
        report(&daemon, "torr"),
        "2\n0\nopentracker serving 2 torrents\nopentracker"
    );
    // Ten connections for the requests above and four for the reports, counting this one's.
    let (arrived, succeeded, seconds, title) = mrtg(&daemon, "tcp4");
    assert_eq!((arrived, succeeded), (14, 3));
    let rates = |a: u64, b: u64| {
        format!(
            "{} conns/s :: {} success/s.",
            a / seconds.max(1),
            b / seconds.max(1)
        )
    };
    assert_eq!(title, format!("opentracker tcp4 stats, {}", rates(14, 3)));
    let (arrived, succeeded, _, title) = mrtg(&daemon, "udp4");
    assert_eq!((arrived, succeeded), (3, 2));
    assert!(title.starts_with("opentracker udp4 stats, "), "{title}");
    let (arrived, succeeded, _, title) = mrtg(&daemon, "conn");
    assert_eq!((arrived, succeeded), (16 + 3, 5));
    assert!(title.starts_with("opentracker connections, "), "{title}");
    let (http, udp, seconds, title) = mrtg(&daemon, "scrp");
    assert_eq!((http, udp), (1, 1));
    let rate = 2 / seconds.max(1);
    assert_eq!(
        title,
        format!("opentracker scrape stats, {rate} scrape/s (tcp and udp)")
    );
    let (count, bytes, _, title) = mrtg(&daemon, "fscr");
    assert_eq!((count, bytes), (0, 0));
    assert_eq!(
        title,
        "opentracker full scrape stats, 0 conns/s :: 0 bytes/s."
    );
    let whole = get(daemon.tcp4(), "/scrape");
    let (count, bytes, _, _) = mrtg(&daemon, "fscr");
    assert_eq!((count, whole.status), (1000, 200));
    assert!(bytes > 100 && bytes < 400, "{bytes}");
    let (completed, zero, _, title) = mrtg(&daemon, "completed");
    assert_eq!((completed, zero), (1, 0));
    assert_eq!(title, "opentracker, 1 completed/h.");
    let (synced, zero, _, title) = mrtg(&daemon, "syncs");
    assert_eq!((synced, zero), (0, 0));
    assert!(title.starts_with("opentracker connections, "), "{title}");
}

#[test]
fn tables_have_a_line_for_each_row() {
    let daemon = with_some_peers();
    let expected = "302 RED 1\n400 ... 2\n400 PAR 1\n400 COM 0\n403 IP  0\n404 INV 1\n500 SRV 0\n";
    assert_eq!(report(&daemon, "herr"), expected);
    let renewals = report(&daemon, "renew");
    let rows = (0..45).map(|minute| format!("{minute:02} {}\n", u64::from(minute == 0)));
    assert_eq!(renewals, rows.collect::<String>());
    let wanted = report(&daemon, "numwants");
    let rows = (0..=200).map(|number| {
        let count = match number {
            7 => 2,
            50 | 200 => 1,
            _ => 0,
        };
        format!("{number:03} => {count}\n")
    });
    assert_eq!(wanted, rows.collect::<String>());
    let version = report(&daemon, "version");
    assert_eq!(
        version,
        format!("announced {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn renewals_have_a_row_for_each_minute_of_the_timeout() {
    for (flags, rows) in [
        (&["--interval", "600"][..], 15),
        (&["--interval", "1"], 1),
        (&["--interval", "86400"], 180),
    ] {
        let daemon = Daemon::start(flags);
        assert_eq!(report(&daemon, "renew").lines().count(), rows);
    }
}

#[test]
fn woodpeckers_are_who_comes_again_too_early() {
    let daemon = Daemon::start(&["--interval", "4", "--proxy", "127.0.0.1"]);
    let renew = |client: &str, port: u16| {
        let hash = "%01".repeat(20);
        let request = format!(
            "GET /announce?info_hash={hash}&port={port} HTTP/1.1\r\nHost: x\r\n\
             X-Forwarded-For: {client}\r\n\r\n"
        );
        Client::new(daemon.tcp4()).request(request).bencoded();
    };
    let woodpeckers = || {
        let mut client = Client::new(daemon.tcp4());
        let request = "GET /stats?mode=woodpeckers HTTP/1.1\r\nX-Forwarded-For: ::1\r\n\r\n";
        client.request(request).text()
    };
    let nobody = "Networks, limit /32:\n\nNetworks, limit /64:\n\n";
    renew("203.0.113.9", 1);
    assert_eq!(woodpeckers(), nobody);
    wait_for("woodpeckers", || {
        renew("203.0.113.7", 1);
        renew("2001:db8::7", 1);
        let found = woodpeckers();
        let has_both = found.contains(": 203.0.113.7\n") && found.contains(": 2001:db8::\n");
        assert!(!found.contains("203.0.113.9"));
        has_both.then_some(())
    });
}

/// Debian's, whose modules are packages.
const PYTHON: &str = "/usr/bin/python3";

/// Announces over HTTP as these addresses, each with a port for each peer that it is.
fn announce_as(daemon: &Daemon, torrent: u8, clients: &[(&str, u16)], left: u64) {
    let hash = format!("%{torrent:02x}").repeat(20);
    let mut client = Client::new(daemon.tcp4());
    for &(address, peers) in clients {
        for port in 1..=peers {
            let request = format!(
                "GET /announce?info_hash={hash}&port={port}&left={left} HTTP/1.1\r\n\
                 X-Forwarded-For: {address}\r\n\r\n"
            );
            client.request(request).bencoded();
        }
    }
}

#[test]
fn the_largest_torrents_are_ranked_three_ways() {
    let daemon = Daemon::start(&[]);
    let empty =
        "Top 10 torrents by peers:\nTop 10 torrents by seeds:\nTop 10 torrents by leechers:\n";
    assert_eq!(report(&daemon, "top10"), empty);
    for torrent in 1..=120_u16 {
        let number = u8::try_from(torrent).expect("is small");
        for port in 1..=1 + torrent % 12 {
            announce(
                daemon.tcp4(),
                number,
                port,
                if port == 1 { "left=0" } else { "left=5" },
            );
        }
    }
    let hash = |number: u16| format!("{number:02X}").repeat(20);
    // The eleventh, twenty-third and so on have twelve peers, and among equals the first come first.
    let by_peers: Vec<u16> = (11..120).step_by(12).collect();
    let mut expected = String::from("Top 10 torrents by peers:\n");
    expected.extend(by_peers.iter().map(|&n| format!("\t12\t{}\n", hash(n))));
    expected.push_str("Top 10 torrents by seeds:\n");
    expected.extend((1..=10).map(|n| format!("\t1\t{}\n", hash(n))));
    expected.push_str("Top 10 torrents by leechers:\n");
    expected.extend(by_peers.iter().map(|&n| format!("\t11\t{}\n", hash(n))));
    assert_eq!(report(&daemon, "top10"), expected);
    let hundred = report(&daemon, "top100");
    // The ten of one peer have no leecher.
    assert_eq!(hundred.lines().count(), 3 + 300);
    assert!(
        hundred.starts_with("Top 100 torrents by peers:\n\t12\t0B0B"),
        "{hundred}"
    );
}

#[test]
fn networks_are_ranked_by_peers() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.1", "-A", "127.0.0.0/8"]);
    // Few in many torrents, many in one, which is a large swarm.
    announce_as(
        &daemon,
        1,
        &[("192.0.2.1", 1), ("192.0.2.17", 2), ("2001:db8::1", 3)],
        0,
    );
    announce_as(&daemon, 2, &[("192.0.2.1", 1), ("203.0.113.255", 1)], 5);
    announce_as(
        &daemon,
        3,
        &[("198.51.100.1", 300), ("198.51.100.9", 300)],
        5,
    );
    let mut client = Client::new(daemon.tcp4());
    let request = "GET /stats?mode=s24s HTTP/1.1\r\nX-Forwarded-For: ::1\r\n\r\n";
    let expected = "Networks, limit /28:\n00000600: 198.51.100.0\n00000002: 192.0.2.0\n\
        00000002: 192.0.2.16\n00000001: 203.0.113.240\n\n\
        Networks, limit /24:\n00000600: 198.51.100.0\n00000004: 192.0.2.0\n\
        00000001: 203.0.113.0\n\n";
    assert_eq!(client.request(request).text(), expected);
}

/// Whether python finds a module; that one says so if it does not.
fn python_has(module: &str, package: &str) -> bool {
    let found = Command::new(PYTHON)
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        skip(&format!(
            "python3 has no {module} (Debian package {package})"
        ));
    }
    has
}

/// What a program in Python prints that is given a text.
fn python(program: &str, input: &str) -> String {
    let mut child = Command::new(PYTHON)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("was found a moment ago");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(input.as_bytes()).expect("is read");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{input}");
    String::from_utf8(output.stdout).expect("is text")
}

#[test]
fn everything_is_xml() {
    if !python_has("xml.etree", "python3") {
        return;
    }
    let daemon = with_some_peers();
    let program = "
import sys, xml.etree.ElementTree as tree
def walk(node, path):
    path += '/' + node.tag + ''.join('[' + v + ']' for v in node.attrib.values())
    if len(node) == 0: print(path, (node.text or '').strip())
    for child in node: walk(child, path)
walk(tree.fromstring(sys.stdin.buffer.read()), '')
";
    let parsed = python(program, &report(&daemon, "everything"));
    let values: BTreeMap<&str, &str> = parsed
        .lines()
        .filter_map(|l| l.split_once("] ").or_else(|| l.split_once(' ')))
        .collect();
    for (path, value) in [
        ("/stats/torrents/count_mutex", "2"),
        ("/stats/torrents/count_iterator", "2"),
        ("/stats/peers/count", "3"),
        ("/stats/seeds/count", "1"),
        ("/stats/completed/count", "1"),
        ("/stats/connections/tcp/announce", "3"),
        ("/stats/connections/tcp/scrape", "1"),
        ("/stats/connections/udp/overall", "3"),
        ("/stats/connections/udp/connect", "1"),
        ("/stats/connections/udp/announce", "1"),
        ("/stats/connections/udp/scrape", "1"),
        ("/stats/connections/udp/missmatch", "0"),
        ("/stats/connections/livesync/count", "0"),
        ("/stats/debug/renew/count[00", "1"),
        ("/stats/debug/renew/count[44", "0"),
        ("/stats/debug/http_error/count[302 Redirect", "1"),
        ("/stats/debug/http_error/count[400 Parse Error", "2"),
        ("/stats/debug/http_error/count[400 Invalid Parameter", "1"),
        ("/stats/debug/http_error/count[404 Not found", "1"),
        ("/stats/debug/mutex_stall/count", "0"),
    ] {
        assert_eq!(values.get(path), Some(&value), "{path}: {parsed}");
    }
    let version = format!("announced {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(values.get("/stats/version"), Some(&version.as_str()));
}

/// Prometheus's own parser for Python, which is strict about names, types and their order.
const PROMETHEUS: &str = "
import sys
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
        print(sample.name + '{' + labels + '}', int(sample.value))
";

fn metrics(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon.wait_until_idle();
    let reply = get(daemon.tcp4(), "/metrics");
    assert_eq!(reply.status, 200);
    let content_type = reply.header("Content-Type");
    assert_eq!(
        content_type,
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let parsed = python(PROMETHEUS, &reply.text());
    let samples = parsed.lines().map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("two words");
        (name.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

#[test]
fn prometheus_reads_the_metrics() {
    if !python_has("prometheus_client", "python3-prometheus-client") {
        return;
    }
    let daemon = with_some_peers();
    let samples = metrics(&daemon);
    for (name, value) in [
        ("build_info{version=0.1.0}", 1),
        ("torrents{}", 2),
        ("peers{family=ipv4,role=leecher}", 2),
        ("peers{family=ipv4,role=seeder}", 1),
        ("peers{family=ipv6,role=leecher}", 0),
        ("requests_total{protocol=udp,kind=connect}", 1),
        ("requests_total{protocol=udp,kind=announce}", 1),
        ("requests_total{protocol=udp,kind=scrape}", 1),
        ("requests_total{protocol=http,kind=announce}", 3),
        ("requests_total{protocol=http,kind=scrape}", 1),
        ("errors_total{protocol=http,kind=failure_reason}", 1),
        ("errors_total{protocol=http,kind=not_found}", 1),
        ("errors_total{protocol=http,kind=method_not_allowed}", 1),
        ("errors_total{protocol=http,kind=bad_request}", 1),
        ("errors_total{protocol=udp,kind=connection_id}", 0),
        // 16 for the connect, 98 for the announce, 36 for the scrape.
        ("received_bytes_total{protocol=udp}", 150),
        // 16, 20 and 20.
        ("sent_bytes_total{protocol=udp}", 56),
        ("dropped_replies_total{reason=no_room}", 0),
        ("connections_accepted_total{}", 10),
        ("completed_total{}", 1),
        ("renewals_total{}", 1),
        ("table_bytes{part=torrents}", 64),
    ] {
        let name = format!("announced_{name}");
        assert_eq!(samples.get(&name), Some(&value), "{name}: {samples:#?}");
    }
    let at = |name: &str| samples[&format!("announced_{name}")];
    // Those that the requests above came by may not be closed yet.
    assert!((1..=10).contains(&at("connections{}")));
    assert!(at("received_bytes_total{protocol=http}") > 500);
    assert!(at("sent_bytes_total{protocol=http}") > 1000);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("is later")
        .as_secs();
    assert!((now - 1000..=now).contains(&at("start_time_seconds{}")));
    #[cfg(target_os = "linux")]
    {
        let status = daemon.proc_status("VmHWM");
        let kilobytes: u64 = status.trim_end_matches(" kB").parse().expect("a number");
        let memory = at("resident_memory_bytes{}");
        assert!(
            memory > 200_000 && memory <= kilobytes * 1024,
            "{memory}, {status}"
        );
    }
    // Counts only grow, and bytes are those that travel.
    let mut client = Client::new(daemon.tcp4());
    let reply = client.request("GET /health HTTP/1.1\r\n\r\n");
    let later = metrics(&daemon);
    for (name, value) in &samples {
        assert!(!name.contains("_total") || later[name] >= *value, "{name}");
    }
    assert_eq!(reply.body, b"ok\n");
}

/// Two nodes are missed, the second of which has not even an address.
#[test]
fn prometheus_reads_those_of_a_cluster_too() {
    if !python_has("prometheus_client", "python3-prometheus-client") {
        return;
    }
    let directory = Directory::new("stats-cluster");
    let key = directory.file("key");
    common::run(&["--make-key", &key]);
    // Longer than a name may be, so that no name server is asked.
    let nowhere = format!("{}:6970", "x".repeat(64));
    let flags = "--cluster-listen 127.0.0.1:0 --cluster-listen [::1]:0 --cluster-peer [::1]:1";
    let flags = flags.split_whitespace();
    let flags = flags.chain(["--cluster-peer", &nowhere, "--cluster-key", &key]);
    let daemon = Daemon::start(&flags.collect::<Vec<_>>());
    daemon.wait_for_line(&format!("cluster: {nowhere}: cannot resolve: "));
    let samples = metrics(&daemon);
    for (name, value) in [
        ("health{state=syncing}".into(), 1),
        ("link_up{node=[::1]:1}".into(), 0),
        (format!("link_up{{node={nowhere}}}"), 0),
        ("link_records_total{node=[::1]:1,direction=in}".into(), 0),
        ("failed_handshakes_total{reason=wrong_key}".into(), 0),
        ("events_kept{}".into(), 0),
    ] {
        let name = format!("announced_cluster_{name}");
        assert_eq!(samples.get(&name), Some(&value), "{name}: {samples:#?}");
    }
    let names = samples.keys();
    assert_eq!(names.filter(|name| name.contains("link_up")).count(), 2);
}

#[test]
fn in_a_chroot_memory_is_told_too() {
    let daemon = match Command::new("id").arg("-u").output() {
        Ok(output) if output.stdout == b"0\n" => {
            Daemon::start(&["-u", "65534:65534", "-d", env!("CARGO_TARGET_TMPDIR")])
        }
        _ => return skip("a chroot needs root"),
    };
    let metrics = get(daemon.tcp4(), "/metrics").text();
    let memory = metrics
        .lines()
        .find_map(|l| l.strip_prefix("announced_resident_memory_bytes "));
    let memory: u64 = memory.expect("is there").parse().expect("a number");
    assert!(memory > 200_000, "{memory}");
}

/// A request of a client behind a trusted proxy: the loopback is always the admin's.
fn status_for(daemon: &Daemon, client: &str, target: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
    Client::new(daemon.tcp4()).request(request).status
}

const PUBLIC: [&str; 15] = [
    "peer",
    "conn",
    "scrp",
    "udp4",
    "tcp4",
    "torr",
    "fscr",
    "herr",
    "completed",
    "renew",
    "syncs",
    "version",
    "everything",
    "numwants",
    "html",
];
const PRIVATE: [&str; 7] = [
    "cluster",
    "s24s",
    "top10",
    "top100",
    "tpbs",
    "statedump",
    "woodpeckers",
];

#[test]
fn who_may_see_what() {
    let admins = [
        "--proxy",
        "127.0.0.1",
        "-A",
        "203.0.113.0/24",
        "--admin",
        "2001:db8::/32",
    ];
    let closed = Daemon::start(&admins);
    let open = Daemon::start(&[&admins[..], &["--public-stats"]].concat());
    let paths = |modes: &[&str]| {
        modes
            .iter()
            .map(|mode| format!("/stats?mode={mode}"))
            .collect::<Vec<_>>()
    };
    let public = [paths(&PUBLIC), vec!["/metrics".into(), "/stats".into()]].concat();
    let private = paths(&PRIVATE);
    for daemon in [&closed, &open] {
        for admin in ["203.0.113.9", "2001:db8:1::", "::1"] {
            for path in public.iter().chain(&private) {
                assert_eq!(status_for(daemon, admin, path), 200, "{admin} {path}");
            }
            assert_eq!(status_for(daemon, admin, "/stats?mode=busy"), 404);
            assert_eq!(status_for(daemon, admin, "/stats?mode=fulllog"), 404);
            assert_eq!(status_for(daemon, admin, "/stats?mode=unknown"), 400);
        }
        for path in &private {
            for other in ["198.51.100.1", "unknown"] {
                assert_eq!(status_for(daemon, other, path), 403, "{path}");
            }
        }
    }
    for other in ["198.51.100.1", "2001:db9::1", "unknown"] {
        for path in &public {
            assert_eq!(status_for(&closed, other, path), 403, "{path}");
            assert_eq!(status_for(&open, other, path), 200, "{path}");
        }
        // What there is and is not is not told either.
        assert_eq!(status_for(&closed, other, "/stats?mode=unknown"), 403);
        assert_eq!(status_for(&open, other, "/stats?mode=unknown"), 400);
        for path in ["/health", "/robots.txt", "/"] {
            assert_eq!(status_for(&closed, other, path), 200, "{path}");
        }
    }
    let text = Client::new(closed.tcp4())
        .request("GET /metrics HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        .text();
    assert_eq!(text, "403 Forbidden\n");
}

#[test]
fn head_and_other_methods_are_as_elsewhere() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::new(daemon.tcp4());
    for path in [
        "/stats",
        "/stats?mode=html",
        "/metrics",
        "/health",
        "/robots.txt",
        "/",
    ] {
        client.send(format!("HEAD {path} HTTP/1.1\r\n\r\n"));
        let head = client.receive_to("HEAD");
        assert_eq!(head.status, 200);
        let length: usize = head
            .header("Content-Length")
            .expect("has one")
            .parse()
            .expect("a number");
        assert!(length > 0 && head.body.is_empty(), "{path}");
        let posted = client.request(format!("POST {path} HTTP/1.1\r\n\r\n"));
        assert_eq!(
            (posted.status, posted.header("Allow")),
            (405, Some("GET, HEAD"))
        );
    }
    client.send("HEAD /stats?mode=nonsense HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive_to("HEAD").status, 400);
}

#[test]
fn the_path_can_be_moved() {
    let daemon = Daemon::start(&["--stats-path", "/secret/numbers"]);
    let tcp = daemon.tcp4();
    assert_eq!(get(tcp, "/stats").status, 404);
    assert!(
        get(tcp, "/secret/numbers?mode=torr")
            .text()
            .starts_with("0\n0\n")
    );
    assert!(
        get(tcp, "//secret/numbers?format=x&mode=torr")
            .text()
            .starts_with("0\n0\n")
    );
    assert_eq!(get(tcp, "/secret/numbers/").status, 404);
}

#[test]
fn the_root_says_what_this_is_and_how_to_announce() {
    let daemon = Daemon::start(&[]);
    let (tcp, udp4, udp6) = (daemon.tcp4(), daemon.udp4(), daemon.udp6());
    let introduction = format!(
        "This is announced {}, a BitTorrent tracker. To announce a torrent, put one of these URLs \
         into it:\n\n",
        env!("CARGO_PKG_VERSION")
    );
    let ask = |header: &str| {
        let reply = Client::new(tcp).request(format!("GET / HTTP/1.1\r\n{header}\r\n"));
        assert_eq!(
            (reply.status, reply.header("Content-Type")),
            (200, Some("text/plain"))
        );
        let text = reply.text();
        text.strip_prefix(&introduction)
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    };
    for host in [
        "t.example:8080",
        "t.example",
        "[2001:db8::1]:99",
        "192.0.2.1",
    ] {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => name,
            _ => host,
        };
        let expected = format!(
            "http://{host}/announce\nudp://{name}:{}/announce\nudp://{name}:{}/announce\n",
            udp4.port(),
            udp6.port()
        );
        assert_eq!(ask(&format!("Host: {host}\r\n")), expected);
    }
    let addresses = format!(
        "http://{tcp}/announce\nudp://{udp4}/announce\nhttp://{}/announce\nudp://{udp6}/announce\n",
        daemon.tcp6()
    );
    for header in [
        "",
        "Host:\r\n",
        "Host: <script>\r\n",
        "Host: a b\r\n",
        "Host: x:y\r\n",
    ] {
        assert_eq!(ask(header), addresses, "{header}");
    }
    let robots = get(tcp, "/robots.txt");
    assert_eq!(robots.text(), "User-agent: *\nDisallow: /\n");
    assert_eq!(get(tcp, "/health").text(), "ok\n");
}

#[test]
fn the_log_has_the_counts_by_the_same_table() {
    // The line comes after a minute, which a test does not wait for; it is made of what the metrics are.
    let lines = with_view(Monitor::default(), announced::stats::log_lines);
    let [line] = lines.as_slice() else {
        panic!("one line: {lines:?}");
    };
    assert!(
        line.starts_with("torrents 860000, leechers4 600000, seeders4 1500000, "),
        "{line}"
    );
    assert!(line.contains(", udp-announces 123456789, ") && line.ends_with(", synced 0"));
}

#[test]
fn log_lines_hold_all_counts_however_large_they_are() {
    let most = u64::MAX;
    let counters = Counters {
        udp_connects: most,
        udp_announces: most,
        udp_scrapes: most,
        udp_strangers: most,
        udp_unauthorized: most,
        udp_invalid: most,
        udp_refused: most,
        udp_dropped: most,
        tcp_accepted: most,
        tcp_evicted: most,
        http_announces: most,
        http_scrapes: most,
        http_unauthorized: most,
        http_refused: most,
        ..Counters::default()
    };
    let names = |lines: &[String]| -> Vec<String> {
        let counts = lines.iter().flat_map(|line| line.split(", "));
        let name = |count: &str| Some(count.split_once(' ')?.0.to_string());
        counts.map(|count| name(count).expect(count)).collect()
    };
    let small = with_view(Monitor::default(), announced::stats::log_lines);
    let large = with_view(Monitor::default(), |view| {
        announced::stats::log_lines(&View {
            counters,
            cluster: None,
            threads: Vec::new(),
            tally: view.tally.clone(),
            ..*view
        })
    });
    assert_eq!(names(&large), names(&small));
    assert!(large.concat().contains(&format!("http-refused {most}")));
    for line in &large {
        assert!(line.len() <= announced::log::ROOM, "would be cut: {line}");
    }
}

/// A view of a busy tracker.
fn with_view<T>(monitor: Monitor, make: impl FnOnce(&View) -> T) -> T {
    let counters = Counters {
        udp_announces: 123_456_789,
        http_announces: 4_567_890,
        udp_received: 98_765_432_100,
        ..Counters::default()
    };
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 1,
        max_torrents: 1,
    };
    let mut tally = Tally::new(28_125);
    tally.completed = 91_234;
    let up = |name: &str| Link {
        name: name.into(),
        is_up: true,
        ..Link::default()
    };
    let cluster = Overview {
        links: vec![up("192.0.2.1:6970"), up("[2001:db8::1]:6970")],
        ..Overview::default()
    };
    make(&View {
        counters,
        threads: Vec::new(),
        monitor: &monitor,
        tally,
        table: &Table::new(limits, 1),
        table_now: 0,
        totals: Totals {
            torrents: 860_000,
            leechers: 700_000,
            seeders: 1_560_000,
        },
        peers: [600_000, 1_500_000, 100_000, 60_000],
        table_bytes: [1, 2],
        cluster: Some(cluster),
    })
}

/// The page as it looks after more than an hour with many peers.
fn full_page() -> String {
    let monitor = Monitor {
        now: 200_000_000,
        connections: Arc::new(1234.into()),
        ..Monitor::default()
    };
    let mut sample = Sample::default();
    for n in 0..130 {
        monitor.history().record(n * EVERY, sample);
        sample.udp += 240_000 + 40_000 * (n % 10) + 900 * n;
        sample.http += 30_000 + 9_000 * (n % 7);
        sample.dropped += if n / 5 == 7 { 300 } else { 2 };
        sample.peers = 1_900_000 + 3000 * n + 5000 * (n % 5);
        sample.torrents = 812_000 + 400 * n;
    }
    with_view(monitor, |view| {
        let mut page = Vec::new();
        page::write(view, &mut page);
        String::from_utf8(page).expect("is text")
    })
}

/// Every element is closed, in order, and there are no scripts and nothing from elsewhere.
const WELL_FORMED: &str = "
import sys
from html.parser import HTMLParser
class Check(HTMLParser):
    open = []
    def handle_starttag(self, tag, attributes):
        assert tag not in ('script', 'img', 'link', 'iframe', 'object'), tag
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), attributes
        assert not {'src', 'href', 'style'} & set(names) and not any(n.startswith('on') for n in names)
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
    let reply = get(daemon.tcp4(), "/stats?mode=html");
    assert_eq!(
        reply.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    let (empty, full) = (reply.text(), full_page());
    assert!(empty.contains("<dt>Torrents</dt><dd>2</dd>"));
    assert!(empty.contains("The first samples are being taken."));
    assert!(empty.contains("<figcaption>Peers <span class=\"a\"> <b>3</b></span>"));
    assert!(full.contains("<dt>Peers over IPv4</dt><dd>2,100,000</dd>"));
    assert!(full.contains("up 2 d 7 h"));
    assert_eq!(full.matches("<figure>").count(), 4);
    assert_eq!(full.matches("<tr><th scope=\"row\">").count(), 12 + 9);
    assert!(full.contains("cluster syncing: 2 of 2 other nodes up\n"));
    assert!(full.contains("\n[2001:db8::1]:6970  up ") && !empty.contains("Cluster"));
    assert!(!full.contains('$'), "every number is filled in");
    if python_has("html.parser", "python3") {
        python(WELL_FORMED, &empty);
        python(WELL_FORMED, &full);
    }
}

/// A directory of its own, for what a browser leaves behind.
struct Profile(PathBuf);

impl Profile {
    fn new(name: &str) -> Profile {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Profile(path)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a browser on a page; what it prints. It asks for nothing but the page.
fn chromium(profile: &Profile, arguments: &[&str], url: &str) -> Option<String> {
    let output = Command::new("timeout")
        .args([
            "300",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--disable-sync", "--hide-scrollbars"])
        .arg(format!(
            "--user-data-dir={}",
            profile.0.join("profile").display()
        ))
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
fn a_browser_shows_the_page() {
    let daemon = with_some_peers();
    let profile = Profile::new("browser");
    let url = format!("http://{}/stats?mode=html", daemon.tcp4());
    let Some(dom) = chromium(&profile, &["--dump-dom"], &url) else {
        return;
    };
    assert!(dom.contains("<dt>Leechers</dt><dd>2</dd>"), "{dom}");
    assert_eq!(dom.matches("<svg ").count(), 4);
    // Plots are drawn, in the colours of either scheme.
    let file = profile.0.join("full.html");
    fs::write(&file, full_page()).expect("a file");
    let file = format!("file://{}", file.display());
    let mut sizes = Vec::new();
    for (name, scheme) in [("light", "1"), ("dark", "0")] {
        let picture = profile.0.join(format!("{name}.png"));
        let screenshot = format!("--screenshot={}", picture.display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        chromium(
            &profile,
            &[&screenshot, &scheme, "--window-size=1100,1250"],
            &file,
        );
        sizes.push(fs::read(&picture).expect("a picture"));
    }
    assert!(
        sizes
            .iter()
            .all(|picture| picture.starts_with(b"\x89PNG") && picture.len() > 20_000)
    );
    assert_ne!(sizes[0], sizes[1]);
}
