//! Log lines, syslog, the background, and the pidfile.

#![cfg(target_os = "linux")]

mod common;

use common::{
    DEADLINE, Daemon, Directory, child_of, http, is_alive, is_root, make_fifo, program, run,
    signal, skip, udp, uninterrupted, wait_for, worker_of,
};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// A daemon in the background, killed on drop.
struct Background(u32);

impl Drop for Background {
    fn drop(&mut self) {
        if is_alive(self.0) {
            assert!(signal(self.0, "KILL"));
        }
    }
}

fn wait_for_end(id: u32) {
    wait_for("the process to end", || (!is_alive(id)).then_some(()));
}

fn wait_for_removal(path: &str) {
    let is_gone = || !Path::new(path).exists();
    wait_for("the file to be removed", || is_gone().then_some(()));
}

/// A socket on a UDP port, and the port.
fn occupied_port() -> (std::net::UdpSocket, String) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("is bound").port().to_string();
    (socket, port)
}

const LISTEN: [&str; 6] = ["-i", "127.0.0.1", "-p", "0", "-P", "0"];

/// With these flags besides `LISTEN`: exit status and standard error, when all processes have closed it.
fn start(flags: &[&str]) -> (Option<i32>, String) {
    let flags: Vec<&str> = LISTEN.iter().chain(flags).copied().collect();
    let (code, out, err) = run(&flags);
    assert_eq!(out, "");
    (code, err)
}

fn read_id(pidfile: &str) -> u32 {
    let text = fs::read_to_string(pidfile).expect("is there");
    let id = text.strip_suffix('\n').and_then(|id| id.parse().ok());
    id.expect("a number and a line's end")
}

#[test]
fn the_command_ends_once_the_daemon_is_ready() {
    let directory = Directory::new("daemon");
    let pidfile = directory.file("pid");
    // `run` returns when standard output and error are closed, by the helper as well.
    let (code, err) = start(&["--daemon", "--pidfile", &pidfile]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.ends_with("announced: ready\n"), "{err}");
    let id = read_id(&pidfile);
    let daemon = Background(id);
    for id in [id, child_of(id), worker_of(id)] {
        for fd in 0..3 {
            let link = fs::read_link(format!("/proc/{id}/fd/{fd}"));
            assert_eq!(link.ok(), Some("/dev/null".into()));
        }
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("is running");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let session = fields.split(' ').nth(3);
        assert_eq!(session, Some(&*daemon.0.to_string()), "its own session");
    }
    let line = err
        .lines()
        .find_map(|line| line.split("listening on udp ").nth(1));
    let address = line.and_then(|line| line.split(',').next()?.parse().ok());
    udp::Client::new(address.expect("an address")).announce(&udp::Announce::default());
    assert!(signal(id, "TERM"));
    wait_for_end(id);
    wait_for_removal(&pidfile);
}

#[test]
fn errors_of_the_start_are_shown_before_the_command_ends() {
    let directory = Directory::new("failing");
    let pidfile = directory.file("pid");
    let (_socket, port) = occupied_port();
    let (code, err) = start(&["--daemon", "--pidfile", &pidfile, "-P", &port]);
    assert_eq!(code, Some(1));
    let last = err.lines().last().unwrap_or_default();
    let message = "announced: cannot listen on udp 127.0.0.1:";
    assert!(last.starts_with(message), "{err}");
    wait_for_removal(&pidfile);
    // Neither the daemon nor its helper can enter this directory.
    let (code, err) = start(&["--pidfile", &pidfile, "-d", "/nowhere/at/all"]);
    assert_eq!(code, Some(1), "{err}");
    wait_for_removal(&pidfile);
    let (code, err) = start(&["--daemon", "-P", "x"]);
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn a_pidfile_has_one_process() {
    let directory = Directory::new("pidfile");
    let pidfile = directory.file("pid");
    // Left behind. The number belongs to another process by now, which is alive.
    fs::write(&pidfile, format!("{}\n", std::process::id())).expect("can be written");
    let mut first = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(read_id(&pidfile), first.id());
    let (code, err) = start(&["--pidfile", &pidfile]);
    let holder = format!("locked by process {}", first.id());
    let message = format!("announced: --pidfile '{pidfile}': {holder}\n");
    assert_eq!((code, err), (Some(1), message));
    assert_eq!(read_id(&pidfile), first.id());
    // The pidfile of a daemon that crashed is taken over.
    first.signal("KILL");
    first.wait();
    let mut second = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(read_id(&pidfile), second.id());
    second.signal("INT");
    assert_eq!(second.wait().0.code(), Some(0));
    wait_for_removal(&pidfile);
}

/// Another user who may open the file could lock it, which would keep the daemon from starting.
#[test]
fn a_pidfile_is_accessible_to_its_owner_only() {
    let directory = Directory::new("pidfile-mode");
    let pidfile = directory.file("pid");
    let mode = || fs::metadata(&pidfile).expect("is there").mode() & 0o7777;
    let mut daemon = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(mode(), 0o600);
    daemon.signal("KILL");
    daemon.wait();
    fs::write(&pidfile, "1\n").expect("can be written");
    fs::set_permissions(&pidfile, fs::Permissions::from_mode(0o644)).expect("is ours");
    let _daemon = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(mode(), 0o600, "of a file that was left behind");
}

/// An older version left such a file. Any user may have locked it since, so the process that it names need not hold it.
#[test]
fn a_locked_pidfile_that_other_users_may_lock_is_to_be_removed() {
    let directory = Directory::new("pidfile-locked");
    let pidfile = directory.file("pid");
    let daemon = Daemon::start(&["--pidfile", &pidfile]);
    let advice = "lets other users lock it: remove it if no daemon runs";
    for (mode, message) in [
        (0o600, format!("locked by process {}", daemon.id())),
        (0o644, format!("locked, and mode 0644 {advice}")),
        (0o660, format!("locked, and mode 0660 {advice}")),
    ] {
        fs::set_permissions(&pidfile, fs::Permissions::from_mode(mode)).expect("is ours");
        let (code, err) = start(&["--pidfile", &pidfile]);
        let message = format!("announced: --pidfile '{pidfile}': {message}\n");
        assert_eq!((code, err), (Some(1), message));
    }
}

#[test]
fn a_pidfile_of_another_user_ends_the_start() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("pidfile-owner");
    let pidfile = directory.write("pid", "1\n");
    std::os::unix::fs::chown(&pidfile, Some(4711), None).expect("is ours");
    let (code, err) = start(&["--pidfile", &pidfile]);
    let message =
        format!("announced: --pidfile '{pidfile}': owned by user 4711, expected user 0\n");
    assert_eq!((code, err), (Some(1), message.clone()));
    assert_eq!(fs::read_to_string(&pidfile).ok().as_deref(), Some("1\n"));
    let (code, _, err) = run(&["-n", "--pidfile", &pidfile]);
    assert_eq!((code, err), (Some(1), message), "found by a check");
}

#[test]
fn a_pidfile_is_a_short_regular_file() {
    let directory = Directory::new("no-pidfile");
    let [link, fifo, missing] = ["link", "fifo", "missing/pid"].map(|name| directory.file(name));
    let content = "precious: all the settings\n";
    let target = directory.write("target", content);
    std::os::unix::fs::symlink(&target, &link).expect("can be made");
    make_fifo(&fifo);
    let itself = directory.file(".");
    for path in [&*target, &link, &fifo, &missing, &itself, "/dev/null"] {
        let (code, err) = start(&["--pidfile", path]);
        assert_eq!(code, Some(1), "{path}: {err}");
        let start = format!("announced: --pidfile '{path}': ");
        assert!(err.starts_with(&start), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        let (code, _, err) = run(&["-n", "--pidfile", path]);
        let expected = i32::from(path != missing);
        assert_eq!(code, Some(expected), "{path}: {err}");
    }
    let (code, _, err) = run(&["-n", "--pidfile", &directory.file("new")]);
    assert_eq!(code, Some(0), "{err}");
    let left = fs::read_to_string(&target);
    assert_eq!(left.expect("is there"), content);
    let (code, err) = start(&["--pidfile", ""]);
    let message = "announced: --pidfile: invalid value '': expected a file\n";
    assert_eq!((code, err.as_str()), (Some(2), message));
}

#[test]
fn the_pidfile_of_root_is_removed_although_the_daemon_is_in_a_chroot() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("chroot");
    let root = Directory::new("chroot-root");
    let pidfile = directory.file("pid");
    let mut daemon = Daemon::start(&["--pidfile", &pidfile, "-d", root.path()]);
    assert_eq!(read_id(&pidfile), daemon.id());
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
    wait_for_removal(&pidfile);
}

/// The syslog socket of a daemon with its own `/dev`.
struct Syslog {
    directory: Directory,
    socket: UnixDatagram,
}

/// A syslog socket that is writable by every user.
fn bind_log(directory: &Directory) -> UnixDatagram {
    let path = directory.file("log");
    let socket = UnixDatagram::bind(&path).expect("can be bound");
    socket.set_read_timeout(Some(DEADLINE)).expect("an option");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("is ours");
    socket
}

impl Syslog {
    /// None without mount namespaces.
    fn new(name: &str) -> Option<Syslog> {
        let directory = Directory::new(name);
        fs::write(directory.file("null"), "").expect("can be written");
        let socket = bind_log(&directory);
        let syslog = Syslog { directory, socket };
        let works = syslog.command("true", &[]).status();
        if !works.is_ok_and(|status| status.success()) {
            skip("there are no mount namespaces");
            return None;
        }
        Some(syslog)
    }

    /// A command in a namespace where `/dev` has this log and `null`.
    fn command(&self, program: &str, flags: &[&str]) -> Command {
        let script =
            "mount --bind /dev/null \"$0/null\" && mount --rbind \"$0\" /dev && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, &self.directory.file("")]);
        command.arg(program).args(flags);
        command
    }

    fn daemon(&self, flags: &[&str]) -> Command {
        let flags: Vec<&str> = LISTEN.iter().chain(flags).copied().collect();
        self.command(&program(), &flags)
    }

    /// Replaces the socket, as a syslog daemon does that is restarted.
    fn restart(&mut self) {
        fs::remove_file(self.directory.file("log")).expect("is ours");
        self.socket = bind_log(&self.directory);
    }

    fn receive(&self) -> String {
        let mut datagram = [0; 2000];
        let received = uninterrupted(|| self.socket.recv(&mut datagram));
        let length = received.expect("a line in time");
        String::from_utf8_lossy(&datagram[..length]).into_owned()
    }

    /// The next line: priority, and text without the id of the daemon.
    fn line(&self, id: u32) -> (String, String) {
        let text = self.receive();
        let text = text.trim_end_matches(['\0', '\n']);
        let rest = text.strip_prefix('<');
        let (priority, rest) = rest.and_then(|rest| rest.split_once('>')).expect(text);
        let (_, line) = rest.split_once(&format!(" announced[{id}]: ")).expect(text);
        (priority.into(), line.into())
    }

    fn wait_for_line(&self, id: u32, part: &str) -> (String, String) {
        wait_for(part, || {
            Some(self.line(id)).filter(|(_, line)| line.contains(part))
        })
    }
}

const ERROR: &str = "27";
const NOTICE: &str = "29";
const INFO: &str = "30";
const DEBUG: &str = "31";

#[test]
fn syslog_receives_all_lines_and_standard_error_those_of_the_start() {
    let Some(syslog) = Syslog::new("syslog") else {
        return;
    };
    // In a chroot as another user: the daemon itself cannot reach /dev/log.
    let root = Directory::new("syslog-root");
    let flags = ["--syslog", "-d", root.path(), "--log-completed"];
    let mut daemon = Daemon::spawn(syslog.daemon(&flags));
    let id = daemon.id();
    let (priority, line) = syslog.line(id);
    assert!(line.starts_with("listening on "), "{line}");
    assert_eq!(priority, NOTICE);
    assert_eq!(syslog.wait_for_line(id, "ready").0, NOTICE);
    let client = udp::Client::new(daemon.udp4());
    client.announce(&udp::Announce {
        event: 1,
        left: 0,
        ..Default::default()
    });
    let (priority, line) = syslog.wait_for_line(id, "event=completed");
    assert_eq!(priority, INFO, "{line}");
    daemon.signal("TERM");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(0));
    syslog.wait_for_line(id, "stopped");
    assert!(log.ends_with(&["announced: ready".into()]), "{log:?}");
}

#[test]
fn lines_have_the_priority_of_their_level() {
    let Some(syslog) = Syslog::new("priorities") else {
        return;
    };
    let (_socket, port) = occupied_port();
    let output = syslog.daemon(&["--daemon", "-P", &port]).output();
    assert_eq!(output.expect("runs").status.code(), Some(1));
    let line = wait_for("an error", || {
        Some(syslog.receive()).filter(|line| line.contains("cannot listen on"))
    });
    assert!(line.starts_with(&format!("<{ERROR}>")), "{line}");
    let daemon = Daemon::spawn(syslog.daemon(&["--syslog", "-vv", "--interval", "1"]));
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    assert_eq!(syslog.wait_for_line(daemon.id(), "sweep: ").0, DEBUG);
}

/// What a check of this list logs where systemd names a file of this device and inode as its journal.
fn logged(list: &str, journal: impl Fn(u64, u64) -> String) -> String {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let theirs: fs::File = OwnedFd::from(theirs).into();
    let own = theirs.metadata().expect("has one");
    let mut command = Command::new(program());
    command.args(["--check", "-w", list]).stdout(Stdio::null());
    command.env("JOURNAL_STREAM", journal(own.dev(), own.ino()));
    let status = command.stderr(theirs).status().expect("starts");
    drop(command);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("is text");
    assert!(status.code().is_some(), "{text}");
    text
}

#[test]
fn lines_have_the_priority_of_their_level_in_the_journal_only() {
    let directory = Directory::new("journal");
    let list = directory.write("list", "aa".repeat(20));
    let [valid, missing] = [&list, "/nowhere/list"].map(|list| {
        let log = logged(list, |device, inode| format!("{device}:{inode}"));
        let log = log.lines().last().map(str::to_owned).expect("a line");
        // Standard error was redirected, but the variable stays.
        for other in [|_, inode| format!("1:{inode}"), |_, _| String::new()] {
            let plain = logged(list, other);
            assert!(
                plain.lines().all(|line| line.starts_with("announced: ")),
                "{plain}"
            );
            assert!(
                log.ends_with(plain.lines().last().expect("a line")),
                "{log}"
            );
        }
        log
    });
    assert_eq!(valid, "<5>announced: configuration is valid");
    assert!(
        missing.starts_with("<3>announced: -w/--whitelist '/nowhere/list': "),
        "{missing}"
    );
}

#[test]
fn a_missing_syslog_daemon_is_reported_before_the_daemon_detaches() {
    let Some(syslog) = Syslog::new("missing") else {
        return;
    };
    fs::remove_file(syslog.directory.file("log")).expect("is ours");
    for path in ["/run/log", "/var/run/log", "/var/run/logpriv"] {
        if Path::new(path).exists()
            && UnixDatagram::unbound().is_ok_and(|s| s.connect(path).is_ok())
        {
            return skip("there is another syslog daemon");
        }
    }
    let (_socket, port) = occupied_port();
    for flag in ["--daemon", "--syslog"] {
        let output = syslog.daemon(&[flag, "-P", &port]).output().expect("runs");
        let log = String::from_utf8_lossy(&output.stderr);
        let first = log.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("announced: syslog: no syslog daemon found: "),
            "{log}"
        );
    }
}

#[test]
fn a_daemon_logs_to_standard_error_when_its_helper_has_ended() {
    let Some(syslog) = Syslog::new("fallback") else {
        return;
    };
    let daemon = Daemon::spawn(syslog.daemon(&["--syslog"]));
    let id = daemon.id();
    syslog.wait_for_line(id, "ready");
    let (monitor, worker) = (child_of(id), worker_of(id));
    assert!(signal(monitor, "KILL") && signal(worker, "KILL"));
    daemon.wait_for_line("helper: process ended: ");
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    daemon.signal("TERM");
    daemon.wait_for_line("announced: stopped");
}

#[test]
fn a_restarted_syslog_receives_the_next_line() {
    let Some(mut syslog) = Syslog::new("restarted") else {
        return;
    };
    let mut daemon = Daemon::spawn(syslog.daemon(&["--syslog"]));
    syslog.wait_for_line(daemon.id(), "ready");
    syslog.restart();
    daemon.signal("HUP");
    let (priority, _) = syslog.wait_for_line(daemon.id(), "nothing to reload");
    assert_eq!(priority, NOTICE);
    // Without a syslog daemon, lines wait for the next one.
    fs::remove_file(syslog.directory.file("log")).expect("is ours");
    syslog.socket = UnixDatagram::unbound().expect("a socket");
    daemon.signal("HUP");
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    syslog.socket = bind_log(&syslog.directory);
    syslog.wait_for_line(daemon.id(), "nothing to reload");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
}

#[test]
fn a_syslog_that_is_not_read_delays_no_reply_reload_or_exit() {
    let Some(syslog) = Syslog::new("unread") else {
        return;
    };
    let start = |flags: &[&str]| {
        let flags = [&["--syslog", "--log-completed"], flags].concat();
        Daemon::spawn(syslog.daemon(&flags))
    };
    let directory = Directory::new("unread-files");
    let [list, pidfile] = ["list", "pid"].map(|name| directory.file(name));
    fs::write(&list, "").expect("can be written");
    let mut daemon = start(&["-b", &list, "--pidfile", &pidfile]);
    let (id, worker) = (daemon.id(), worker_of(daemon.id()));
    let client = udp::Client::new(daemon.udp4());
    // More lines than fit into both sockets. All announces are answered.
    for port in 1..=2000 {
        client.announce(&completed(port));
    }
    // The worker still reloads the list.
    fs::write(&list, "aa".repeat(20)).expect("can be written");
    daemon.signal("HUP");
    wait_for("the list to be reloaded", || {
        let reply = client.exchange(&client.announce_request(&completed(1)));
        (reply[..4] == [0, 0, 0, 3]).then_some(())
    });
    // The number of dropped lines is logged when there is room again.
    let (mut seen, mut dropped) = (0, 0);
    wait_for("the counts", || {
        let (_, line) = syslog.line(id);
        dropped += dropped_lines(&line);
        seen += 1;
        // The list refuses the torrents from before.
        let other = udp::Announce {
            info_hash: [0xbb; 20],
            ..completed(1 + seen)
        };
        client.announce(&other);
        (dropped > 100).then_some(())
    });
    let metrics = http::get(daemon.tcp4(), "/metrics").text();
    assert!(http::metric(&metrics, "log_dropped_lines_total") >= dropped.into());
    // A full log keeps neither the daemon nor its helpers from ending.
    for port in 1..=2000 {
        client.announce(&udp::Announce {
            info_hash: [0xcc; 20],
            ..completed(port)
        });
    }
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
    wait_for_end(worker);
    assert!(!Path::new(&pidfile).exists());
}

#[test]
fn sweeps_are_logged_with_vv_only() {
    let flags = ["--interval", "1", "-v"];
    let quiet = Daemon::start(&flags);
    let loud = Daemon::start(&[&flags[..], &["-v"]].concat());
    let clients = [&quiet, &loud].map(|daemon| udp::Client::new(daemon.udp4()));
    for client in &clients {
        client.announce(&udp::Announce::default());
    }
    loud.wait_for_line("sweep: finished: 0 torrents left");
    for client in &clients {
        wait_for("the peer to be swept", || {
            (client.scrape(&[[0xaa; 20]]) == [[0; 3]]).then_some(())
        });
    }
    assert_eq!(quiet.count_lines("sweep"), 0);
}

/// An announce that completes the download of a torrent.
fn completed(port: u16) -> udp::Announce {
    udp::Announce {
        event: 1,
        left: 0,
        port,
        ..Default::default()
    }
}

/// How many dropped lines this line reports.
fn dropped_lines(line: &str) -> u32 {
    let count = line.trim_start_matches("announced: ");
    let count = count.strip_prefix("log: dropped ");
    let count = count.and_then(|rest| rest.split_once(" line"));
    count.map_or(0, |(count, _)| count.parse().expect("a number"))
}

fn completed_lines(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.into_iter()
        .filter(|line| line.contains("event=completed"))
        .collect()
}

/// The beginning of a time in UTC, by `date`.
fn today() -> String {
    let date = Command::new("date").args(["-u", "+time=%FT"]).output();
    let date = date.expect("there is a date").stdout;
    String::from_utf8_lossy(&date).trim().into()
}

#[test]
fn completed_downloads_are_logged_as_opentracker_does() {
    let before = today();
    let daemon = Daemon::start(&["--log-completed"]);
    let client = udp::Client::new(daemon.udp4());
    let request = client.announce_request(&completed(1));
    let id = request[36..56].iter();
    let peer_id: String = id.map(|byte| format!("{byte:02X}")).collect();
    // Announced twice, completed once.
    client.exchange(&request);
    client.exchange(&request);
    let v6 = udp::Client::new(daemon.udp6());
    v6.announce(&completed(2));
    let hash = "%aa".repeat(20);
    let over_http = |rest: &str| {
        let target = format!("/announce?info_hash={hash}&left=0&{rest}");
        assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
    };
    over_http("port=3&event=completed&peer_id=-XX0001-%00%ff%0aabcdefghi");
    over_http("port=4&event=completed");
    over_http("port=5&event=completed&peer_id=short");
    over_http("port=6&event=started");
    over_http("port=7");
    let lines = wait_for("five lines", || {
        Some(completed_lines(&daemon)).filter(|lines| lines.len() >= 5)
    });
    let hash = "AA".repeat(20);
    let encoded = "2D5858303030312D00FF0A616263646566676869";
    let ids = [&peer_id, &peer_id, encoded, "", ""];
    let addresses = ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.1", "127.0.0.1"];
    for ((line, id), address) in lines.iter().zip(ids).zip(addresses) {
        let (time, rest) = line.split_once(" event").expect(line);
        let end = format!("=completed info_hash={hash} peer_id={id} ip={address}");
        assert_eq!(rest, end);
        let shape = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(shape, "announced: time=0000-00-00T00:00:00+0000");
    }
    assert_eq!(lines.len(), 5);
    let days = [before, today()];
    let has_day = |line: &String| days.iter().any(|day| line.contains(day));
    assert!(lines.iter().all(has_day), "{days:?}");
}

#[test]
fn no_address_of_a_peer_is_logged_without_log_completed() {
    let mut daemon = Daemon::start(&["-vv", "--interval", "1"]);
    udp::Client::new(daemon.udp4()).announce(&completed(1));
    let hash = "%bb".repeat(20);
    let target = format!("/announce?info_hash={hash}&port=1&event=completed&left=0");
    assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
    daemon.wait_for_line("sweep: ");
    daemon.signal("TERM");
    let (_, log) = daemon.wait();
    let is_own = |line: &String| line.contains(": listening on ");
    let names_peer = |line: &&String| line.contains("127.0.0.1") && !is_own(line);
    assert_eq!(log.iter().find(names_peer), None);
    assert!(completed_lines(&daemon).is_empty());
}

#[test]
fn a_standard_error_that_is_not_read_delays_no_reply() {
    let mut command = Command::new(program());
    command.args(LISTEN).arg("--log-completed");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("is piped")).lines();
    let mut read = || lines.next().and_then(Result::ok).expect("a line");
    let address = loop {
        let line = read();
        if let Some((_, rest)) = line.split_once("listening on udp ") {
            let address = rest.split(',').next().and_then(|a| a.parse().ok());
            break address.expect("an address");
        }
    };
    while read() != "announced: ready" {}
    let client = udp::Client::new(address);
    // Each is a line of 140 bytes; a pipe holds 64 KiB. All are answered.
    for port in 1..=2000 {
        client.announce(&completed(port));
    }
    let (mut seen, mut dropped) = (0, 0);
    // After the lines that were not dropped, the next line reports the number of dropped ones.
    while dropped == 0 {
        if seen >= 100 {
            client.announce(&completed(3000 + seen));
        }
        let line = read();
        dropped = dropped_lines(&line);
        assert!(dropped > 0 || line.contains("event=completed"), "{line}");
        seen += 1;
    }
    assert!(dropped > 100, "{dropped}");
    let ended = child.kill().and_then(|()| child.wait());
    ended.expect("can be ended");
}
