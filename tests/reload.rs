//! SIGHUP reads configuration files again.

mod common;

use common::http::{Client, Response, get, metric};
use common::{Daemon, Directory, is_root, udp, wait_for};
#[cfg(target_os = "linux")]
use common::{child_of, signal, worker_of};
use std::fs;

const RELOADED: &str = "configuration: reloaded: ";
const FAILED: &str = "configuration: reload failed: ";
const RESTART: &str = "configuration: restart required: ";

const LISTEN: &str = "address 127.0.0.1\ntcp-port 0\nudp-port 0\n";

/// A daemon with one configuration file.
struct Reloading {
    directory: Directory,
    daemon: Daemon,
}

impl Reloading {
    /// `CONF` in the flags is the path of the file, `DIRECTORY` that of its directory.
    fn start(name: &str, text: &str, flags: &str) -> Reloading {
        let directory = Directory::new(&format!("reload-{name}"));
        let conf = directory.write("conf", format!("{LISTEN}{text}"));
        let flags = flags.replace("CONF", &conf);
        let flags = flags.replace("DIRECTORY", directory.path());
        let daemon = Daemon::start_with(&flags.split(' ').collect::<Vec<_>>());
        Reloading { directory, daemon }
    }

    /// Replaces the file by a rename, and reloads; the new lines of the log.
    fn reload(&self, text: &str) -> Vec<String> {
        let new = self.directory.write("new", format!("{LISTEN}{text}"));
        fs::rename(new, self.directory.file("conf")).expect("is replaced");
        self.hang_up()
    }

    /// Reloads; the new lines of the log.
    fn hang_up(&self) -> Vec<String> {
        let before = self.daemon.log().len();
        self.daemon.signal("HUP");
        wait_for("a reload", || {
            let log = self.daemon.log().split_off(before);
            let is_end = |line: &String| line.contains(RELOADED) || line.contains(FAILED);
            log.iter().any(is_end).then_some(log)
        })
    }

    /// Reloads, and expects these flags to have changed.
    fn change(&self, text: &str, changed: &str) {
        let log = self.reload(text);
        let expected = format!("announced: {RELOADED}changed {changed}");
        let is_other = |line: &&String| !line.starts_with("announced: table: ");
        assert!(
            log.iter().filter(is_other).eq([&expected]),
            "{text}: {log:?}"
        );
    }

    fn interval(&self) -> u32 {
        let announce = udp::Announce::default();
        udp::Client::new(self.daemon.udp4())
            .announce(&announce)
            .interval
    }

    /// Waits until every thread announces about this interval: clients of other ports may meet other threads.
    fn expect_interval(&self, interval: u32) {
        for _ in 0..8 {
            let got = self.interval();
            assert!(got.abs_diff(interval) <= interval / 30, "{got}");
        }
    }

    /// A request that a proxy passes on for this client.
    fn get_for(&self, client: &str, path: &str) -> Response {
        let head = format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: {client}\r\n\r\n");
        Client::new(self.daemon.tcp4()).request(head)
    }
}

#[test]
fn an_interval_applies_in_all_threads() {
    for (threads, name) in [("1", "one"), ("2", "two")] {
        let it = Reloading::start(name, "interval 1800", &format!("-f CONF -j {threads}"));
        it.expect_interval(1800);
        it.change("interval 900", "interval");
        it.expect_interval(900);
        // Written in place.
        it.directory.write("conf", format!("{LISTEN}interval 600"));
        it.hang_up();
        it.expect_interval(600);
        // A keyword that is gone returns to its default.
        it.change("", "interval");
        it.expect_interval(1800);
        let log = it.reload("# nothing new");
        assert_eq!(log, [format!("announced: {RELOADED}no change to apply")]);
    }
}

#[test]
fn files_outside_the_root_directory_are_found() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("reload-jail");
    let flags = format!("-f CONF -d {}", directory.path());
    let it = Reloading::start("root", "interval 1800", &flags);
    it.change("interval 900", "interval");
    it.expect_interval(900);
    // The daemon's own user may not read it.
    let conf = it.directory.file("conf");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&conf, mode).expect("is ours");
    let expected =
        format!("announced: {FAILED}-f/--config '{conf}': Permission denied; nothing is changed");
    assert_eq!(it.hang_up(), [expected]);
    it.expect_interval(900);
}

#[test]
fn the_command_line_wins() {
    let it = Reloading::start("wins", "interval 1800", "-f CONF --interval 700");
    let log = it.reload("interval 900");
    assert_eq!(log, [format!("announced: {RELOADED}no change to apply")]);
    it.expect_interval(700);
}

#[test]
fn statistics_redirect_and_full_scrapes_apply() {
    for (threads, name) in [("1", "site-1"), ("2", "site-2")] {
        let proxy = "proxy 127.0.0.1";
        let it = Reloading::start(name, proxy, &format!("-f CONF -j {threads}"));
        let stats = || it.get_for("203.0.113.5", "/stats").status;
        let tcp = it.daemon.tcp4();
        let own = || get(tcp, "/stats").status;
        assert_eq!([stats(), own()], [403; 2]);
        it.change("", "proxy");
        // Now it is from the loopback.
        assert_eq!(own(), 200);
        it.change(proxy, "proxy");
        assert_eq!(own(), 403);
        let admin = format!("{proxy}\naccess.stats 203.0.113.0/24");
        it.change(&admin, "access.stats");
        assert_eq!(stats(), 200);
        assert_eq!(get(tcp, "/").status, 200);
        it.change(&format!("{admin}\nredirect http://t.example/"), "redirect");
        let response = get(tcp, "/");
        assert_eq!(response.header("location"), Some("http://t.example/"));
        it.change(&admin, "redirect");
        assert_eq!(get(tcp, "/").status, 200);
        if cfg!(feature = "full-scrape") {
            it.change("", "access.stats, proxy");
            assert_eq!(get(tcp, "/scrape").status, 200);
            it.change("full-scrape off", "full-scrape");
            assert_eq!(get(tcp, "/scrape").status, 403);
            it.change("", "full-scrape");
            // The one before is remembered.
            assert_eq!(get(tcp, "/scrape").status, 429);
        }
    }
}

#[test]
fn limits_of_replies_and_of_the_table_apply() {
    for (threads, name) in [("1", "table-1"), ("2", "table-2")] {
        let few = "numwant-max 1\nmax-peers 2\nmax-torrents 1";
        let it = Reloading::start(name, few, &format!("-f CONF -j {threads}"));
        let announce = |hash: u8, port| {
            let announce = udp::Announce::leecher(port).of([hash; 20]);
            udp::Client::new(it.daemon.udp4()).announce(&announce)
        };
        let stored = |hash: u8| udp::Client::new(it.daemon.udp4()).scrape(&[[hash; 20]])[0][2];
        announce(1, 1001);
        announce(1, 1002);
        assert_eq!(announce(1, 1003).peers.len(), 1);
        announce(2, 1001);
        assert_eq!((stored(1), stored(2)), (2, 0));
        it.change("", "numwant-max, max-peers, max-torrents");
        assert_eq!(announce(1, 1003).peers.len(), 2);
        announce(2, 1001);
        assert_eq!((stored(1), stored(2)), (3, 1));
        it.change(few, "numwant-max, max-peers, max-torrents");
        announce(1, 1004);
        assert_eq!(announce(1, 1003).peers.len(), 1);
        assert_eq!((stored(1), stored(2)), (3, 1));
    }
}

#[test]
fn the_limit_of_connections_applies() {
    let it = Reloading::start("connections", "max-connections 1", "-f CONF -j 1");
    let connect = || {
        let mut client = Client::new(it.daemon.tcp4());
        assert_eq!(client.request("GET /health HTTP/1.1\r\n\r\n").status, 200);
        client
    };
    let (mut first, mut second) = (connect(), connect());
    assert_eq!(first.read_to_end(), b"", "it had to make room");
    it.change("max-connections 2", "max-connections");
    let mut third = connect();
    for client in [&mut second, &mut third] {
        assert_eq!(client.request("GET /health HTTP/1.1\r\n\r\n").status, 200);
    }
}

#[test]
fn a_limit_of_connections_beyond_the_descriptors_is_logged_when_it_changes() {
    let it = Reloading::start("descriptors", "max-connections 2", "-f CONF");
    let max = || metric(&get(it.daemon.tcp4(), "/metrics").text(), "max_connections");
    assert_eq!(max(), 2);
    let text = "max-connections 1000000";
    let log = it.reload(text);
    let cut = log[0]
        .strip_prefix("announced: at most ")
        .and_then(|line| line.split_once(' '));
    let (available, rest) = cut.expect("a line");
    assert!(
        rest.starts_with("connections: the limit of open descriptors is "),
        "{rest}"
    );
    assert_eq!(
        log[1..],
        [format!("announced: {RELOADED}changed max-connections")]
    );
    assert_eq!(max().to_string(), available);
    assert_eq!(
        it.reload(text),
        [format!("announced: {RELOADED}no change to apply")]
    );
}

#[test]
fn verbosity_applies() {
    let it = Reloading::start("verbose", "interval 1", "-f CONF");
    it.change("interval 1\nverbose\nverbose", "verbose");
    // There is something to sweep.
    udp::Client::new(it.daemon.udp4()).announce(&udp::Announce::default());
    it.daemon.wait_for_line("sweep: finished");
}

#[test]
fn a_target_rate_applies_up_to_an_interval_that_the_peer_timeout_allows() {
    let it = Reloading::start("paced", "interval 120", "-f CONF");
    let log = it
        .reload("interval 60\ninterval-max 121\ntarget-rate 9")
        .join("; ");
    let error = "interval-max: invalid value '121': expected at most 120, two thirds of";
    assert!(log.contains(FAILED) && log.contains(error), "{log}");
    let changed = "interval, interval-max, target-rate";
    it.change("interval 60\ninterval-max 120\ntarget-rate 9", changed);
    wait_for("a shorter interval", || {
        let metrics = get(it.daemon.tcp4(), "/metrics").text();
        (metric(&metrics, "interval_seconds") < 118).then_some(())
    });
    it.change("interval 120", changed);
    it.expect_interval(120);
}

#[test]
fn other_keywords_need_a_restart() {
    let it = Reloading::start("restart", "interval 1800", "-f CONF");
    let text = "interval 900\naccess.stats 10.0.0.0/8\nlisten.udp 127.0.0.1:0\npeer-timeout 5000\ndecoys 5";
    // Again and again, until it is restarted.
    for changed in ["changed access.stats, interval", "no change to apply"] {
        let expected = [
            format!("announced: {RESTART}changed listen.udp, peer-timeout, decoys"),
            format!("announced: {RELOADED}{changed}"),
        ];
        assert_eq!(it.reload(text), expected);
    }
    it.expect_interval(900);
    // The timeout that the start derived from the interval stays, and is no change.
    it.change("interval 600\npeer-timeout 2700", "access.stats, interval");
}

#[test]
fn a_file_with_an_error_changes_nothing() {
    let it = Reloading::start("errors", "interval 1800\nadmin 10.0.0.1", "-f CONF");
    let conf = it.directory.file("conf");
    let above = "expected at most 1800, two thirds of the peer timeout of 2700, which changes only at a restart";
    for (text, error) in [
        (
            "interval 0",
            "interval: invalid value '0': expected a number from 1 to 86400".into(),
        ),
        (
            "interval 1801",
            format!("interval: invalid value '1801': {above}"),
        ),
        (
            "interval 3600\npeer-timeout 9000",
            format!("interval: invalid value '3600': {above}"),
        ),
        (
            "sync-node 10.0.0.1",
            "sync-node requires sync-multicast".into(),
        ),
    ] {
        if text.starts_with("sync") && !cfg!(feature = "cluster") {
            continue;
        }
        let log = it.reload(text);
        let expected = format!("announced: {FAILED}{conf}:4: {error}; nothing is changed");
        assert_eq!(log, [expected]);
        it.expect_interval(1800);
    }
    fs::remove_file(&conf).expect("is there");
    let expected = format!(
        "announced: {FAILED}-f/--config '{conf}': No such file or directory; nothing is changed"
    );
    assert_eq!(it.hang_up(), [expected]);
    it.change("interval 900", "admin, interval");
}

#[cfg(target_os = "linux")]
#[test]
fn the_daemon_goes_on_without_the_process_that_reads_files() {
    let it = Reloading::start("dies", "interval 900", "-f CONF");
    let (monitor, worker) = (child_of(it.daemon.id()), worker_of(it.daemon.id()));
    assert!(signal(monitor, "KILL") && signal(worker, "KILL"));
    it.daemon.wait_for_line("helper: process ended: ");
    let expected = format!("announced: {FAILED}the helper process has ended; nothing is changed");
    // The end may be noticed only now, or before.
    for _ in 0..2 {
        assert_eq!(it.reload("interval 600"), [&*expected]);
    }
    it.expect_interval(900);
}

#[test]
fn each_of_several_files_is_read_again() {
    let directory = Directory::new("reload-second");
    let second = directory.write("second", "interval 1200\nnumwant-max 7");
    let it = Reloading::start("several", "interval 900", &format!("-f CONF -f {second}"));
    it.expect_interval(1200);
    directory.write("second", "numwant-max 7");
    it.change("interval 600\n", "interval");
    it.expect_interval(600);
    directory.write("second", "interval 60");
    let expected = format!("announced: {RELOADED}changed interval, numwant-max");
    assert_eq!(it.hang_up(), [expected]);
    it.expect_interval(60);
}
