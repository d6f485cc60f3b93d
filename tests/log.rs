//! What is logged, where it goes, and the background with its pidfile.

#![cfg(target_os = "linux")]

mod common;

use common::{DEADLINE, Daemon, Directory, http, program, run, skip, udp, uninterrupted, wait_for};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        skip("this takes root");
    }
    root
}

fn signal(name: &str, id: u32) {
    let id = id.to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.expect("there is a kill").success());
}

/// The fields of `/proc/PID/stat` from the state on, or none if there is no such process.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(String::from).collect())
}

/// The keeper of a daemon.
fn keeper(daemon: u32) -> u32 {
    let path = format!("/proc/{daemon}/task/{daemon}/children");
    let children = fs::read_to_string(path).expect("is running");
    children.trim().parse().expect("one child")
}

/// A daemon in the background, which no handle stops.
struct Background(u32);

impl Drop for Background {
    fn drop(&mut self) {
        if stat(self.0).is_some() {
            signal("KILL", self.0);
        }
    }
}

fn wait_for_end(id: u32) {
    let is_gone = || stat(id).is_none_or(|fields| fields[0] == "Z").then_some(());
    wait_for("the process to end", is_gone);
}

const LISTEN: [&str; 6] = ["-i", "127.0.0.1", "-p", "0", "-P", "0"];

/// With these flags besides `LISTEN`: exit status and standard error, once nobody holds it any more.
fn start(flags: &[&str]) -> (Option<i32>, String) {
    let flags: Vec<&str> = LISTEN.iter().chain(flags).copied().collect();
    let (code, out, err) = run(&flags);
    assert_eq!(out, "");
    (code, err)
}

fn read_id(pidfile: &str) -> u32 {
    let text = fs::read_to_string(pidfile).expect("is there");
    text.strip_suffix('\n')
        .and_then(|id| id.parse().ok())
        .expect("a number and a line's end")
}

#[test]
fn the_command_ends_once_the_daemon_is_ready() {
    let directory = Directory::new("daemon");
    let pidfile = directory.file("pid");
    // `run` returns when standard output and error are closed, by the keeper as well.
    let (code, err) = start(&["--daemon", "--pidfile", &pidfile]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.ends_with("announced: ready\n"), "{err}");
    let id = read_id(&pidfile);
    let daemon = Background(id);
    for id in [id, keeper(id)] {
        for fd in 0..3 {
            let link = fs::read_link(format!("/proc/{id}/fd/{fd}"));
            assert_eq!(link.ok(), Some("/dev/null".into()));
        }
        let fields = stat(id).expect("is running");
        assert_eq!(fields[3], daemon.0.to_string(), "a session of its own");
    }
    let line = err
        .lines()
        .find_map(|line| line.split("listening on udp ").nth(1));
    let address = line.and_then(|line| line.split(',').next()?.parse().ok());
    udp::Client::new(address.expect("an address")).announce(&udp::Announce::default());
    signal("TERM", id);
    wait_for_end(id);
    wait_for("the pidfile to go", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
}

#[test]
fn what_keeps_it_from_starting_is_told_before_the_command_ends() {
    let directory = Directory::new("failing");
    let pidfile = directory.file("pid");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("is bound").port().to_string();
    let (code, err) = start(&["--daemon", "--pidfile", &pidfile, "-P", &port]);
    assert_eq!(code, Some(1));
    let last = err.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("announced: cannot listen on udp 127.0.0.1:"),
        "{err}"
    );
    wait_for("the pidfile to go", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
    let (code, err) = start(&["--daemon", "-P", "x"]);
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn one_process_has_a_pidfile() {
    let directory = Directory::new("pidfile");
    let pidfile = directory.file("pid");
    // Left behind; the number belongs to somebody else by now, who is alive.
    fs::write(&pidfile, format!("{}\n", std::process::id())).expect("can be written");
    let mut first = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(read_id(&pidfile), first.id());
    let (code, err) = start(&["--pidfile", &pidfile]);
    let message = format!(
        "announced: --pidfile '{pidfile}': process {} holds it\n",
        first.id()
    );
    assert_eq!((code, err), (Some(1), message));
    assert_eq!(read_id(&pidfile), first.id());
    // One that crashed leaves nothing that is in the way.
    first.signal("KILL");
    first.wait();
    let mut second = Daemon::start(&["--pidfile", &pidfile]);
    assert_eq!(read_id(&pidfile), second.id());
    second.signal("INT");
    assert_eq!(second.wait().0.code(), Some(0));
    wait_for("the pidfile to go", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
}

/// Another user who may open it could lock it, and so keep the daemon from starting.
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

/// An older version left such a file, and any user may hold its lock since: its number need not be that user's.
#[test]
fn a_locked_pidfile_that_other_users_may_lock_is_to_be_removed() {
    let directory = Directory::new("pidfile-locked");
    let pidfile = directory.file("pid");
    let daemon = Daemon::start(&["--pidfile", &pidfile]);
    for (mode, message) in [
        (0o600, format!("process {} holds it", daemon.id())),
        (
            0o644,
            "locked, and mode 0644 lets other users lock it: remove it if no daemon runs".into(),
        ),
        (
            0o660,
            "locked, and mode 0660 lets other users lock it: remove it if no daemon runs".into(),
        ),
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
fn a_pidfile_is_a_file() {
    let directory = Directory::new("no-pidfile");
    let (target, link, fifo) = (
        directory.file("target"),
        directory.file("link"),
        directory.file("fifo"),
    );
    fs::write(&target, "precious: all the settings\n").expect("can be written");
    std::os::unix::fs::symlink(&target, &link).expect("can be made");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()));
    let missing = directory.file("missing/pid");
    for path in [
        target.as_str(),
        &link,
        &fifo,
        &missing,
        &directory.file("."),
        "/dev/null",
    ] {
        let (code, err) = start(&["--pidfile", path]);
        assert_eq!(code, Some(1), "{path}: {err}");
        assert!(
            err.starts_with(&format!("announced: --pidfile '{path}': ")),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1, "{err}");
        let (code, _, err) = run(&["-n", "--pidfile", path]);
        let expected = i32::from(path != missing);
        assert_eq!(code, Some(expected), "{path}: {err}");
    }
    let (code, _, err) = run(&["-n", "--pidfile", &directory.file("new")]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        fs::read_to_string(&target).ok().as_deref(),
        Some("precious: all the settings\n")
    );
    let (code, err) = start(&["--pidfile", ""]);
    assert_eq!(
        (code, err.as_str()),
        (Some(2), "announced: --pidfile '': wanted is a file\n")
    );
}

#[test]
fn root_s_pidfile_goes_although_the_daemon_is_nobody_in_a_chroot() {
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
    wait_for("the pidfile to go", || {
        (!Path::new(&pidfile).exists()).then_some(())
    });
}

/// Where a daemon sends its lines in a `/dev` that is its own.
struct Syslog {
    directory: Directory,
    socket: UnixDatagram,
}

/// A system's log that anybody may write to.
fn bind_log(directory: &Directory) -> UnixDatagram {
    let path = directory.file("log");
    let socket = UnixDatagram::bind(&path).expect("can be bound");
    socket.set_read_timeout(Some(DEADLINE)).expect("an option");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(path, everybody).expect("is ours");
    socket
}

impl Syslog {
    /// None where there are no mount namespaces to be had.
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

    /// Ends whoever reads it; somebody else does later.
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

    /// The next line: priority and text, the daemon's id taken away.
    fn line(&self, id: u32) -> (String, String) {
        let text = self.receive();
        let text = text.trim_end_matches(['\0', '\n']);
        let (priority, rest) = text
            .strip_prefix('<')
            .and_then(|t| t.split_once('>'))
            .expect(text);
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
fn syslog_has_all_lines_and_standard_error_those_of_the_start() {
    let Some(syslog) = Syslog::new("syslog") else {
        return;
    };
    // Nobody, in a chroot: it is not the daemon itself that reaches /dev/log.
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
    assert_eq!(
        log.last().map(String::as_str),
        Some("announced: ready"),
        "{log:?}"
    );
}

#[test]
fn priorities_tell_errors_from_what_only_debugging_needs() {
    let Some(syslog) = Syslog::new("priorities") else {
        return;
    };
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("is bound").port().to_string();
    let output = syslog
        .daemon(&["--daemon", "-P", &port])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let line = wait_for("an error", || {
        Some(syslog.receive()).filter(|line| line.contains("cannot listen on"))
    });
    assert!(line.starts_with(&format!("<{ERROR}>")), "{line}");
    let daemon = Daemon::spawn(syslog.daemon(&["--syslog", "-vv", "--interval", "1"]));
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    assert_eq!(syslog.wait_for_line(daemon.id(), "swept, ").0, DEBUG);
}

#[test]
fn a_daemon_logs_to_syslog_and_falls_back_when_its_keeper_is_gone() {
    let Some(syslog) = Syslog::new("fallback") else {
        return;
    };
    let daemon = Daemon::spawn(syslog.daemon(&["--syslog"]));
    let id = daemon.id();
    syslog.wait_for_line(id, "ready");
    signal("KILL", keeper(id));
    daemon.wait_for_line("the keeper process has ended");
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    daemon.signal("TERM");
    daemon.wait_for_line("announced: stopped");
}

#[test]
fn a_system_log_that_is_started_again_has_the_next_line() {
    let Some(mut syslog) = Syslog::new("restarted") else {
        return;
    };
    let mut daemon = Daemon::spawn(syslog.daemon(&["--syslog"]));
    syslog.wait_for_line(daemon.id(), "ready");
    syslog.restart();
    daemon.signal("HUP");
    let (priority, _) = syslog.wait_for_line(daemon.id(), "there is nothing to reload");
    assert_eq!(priority, NOTICE);
    // What is said while nobody is there waits for who comes.
    fs::remove_file(syslog.directory.file("log")).expect("is ours");
    syslog.socket = UnixDatagram::unbound().expect("a socket");
    daemon.signal("HUP");
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    syslog.socket = bind_log(&syslog.directory);
    syslog.wait_for_line(daemon.id(), "there is nothing to reload");
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
}

#[test]
fn a_system_log_that_nobody_reads_keeps_nobody_waiting() {
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
    let (id, keeper) = (daemon.id(), keeper(daemon.id()));
    let client = udp::Client::new(daemon.udp4());
    // More than fits into all that is between the two. Everybody is answered.
    for port in 1..=2000 {
        client.announce(&completed(port));
    }
    // The keeper does what else it is for.
    fs::write(&list, "aa".repeat(20)).expect("can be written");
    daemon.signal("HUP");
    wait_for("the list to be reloaded", || {
        let reply = client.exchange(&client.announce_request(&completed(1)));
        (reply[..4] == [0, 0, 0, 3]).then_some(())
    });
    // What was dropped is told once there is room again.
    let (mut seen, mut dropped) = (0, 0);
    wait_for("the counts", || {
        let (_, line) = syslog.line(id);
        if let Some(count) = line.strip_suffix(" lines of this log were dropped") {
            dropped += count.parse::<u32>().expect("a number");
        }
        seen += 1;
        // The list allows none of the torrents of before.
        let other = udp::Announce {
            info_hash: [0xbb; 20],
            ..completed(1 + seen)
        };
        client.announce(&other);
        (dropped > 100).then_some(())
    });
    // Neither the daemon nor its keeper stays for the log's sake.
    for port in 1..=2000 {
        client.announce(&udp::Announce {
            info_hash: [0xcc; 20],
            ..completed(port)
        });
    }
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
    wait_for_end(keeper);
    assert!(!Path::new(&pidfile).exists());
}

#[test]
fn sweeps_are_for_debugging_alone() {
    let flags = ["--interval", "1", "-v"];
    let quiet = Daemon::start(&flags);
    let loud = Daemon::start(&[&flags[..], &["-v"]].concat());
    let clients = [&quiet, &loud].map(|daemon| udp::Client::new(daemon.udp4()));
    for client in &clients {
        client.announce(&udp::Announce::default());
    }
    loud.wait_for_line("swept, 0 torrents left");
    for client in &clients {
        wait_for("the peer to be swept", || {
            (client.scrape(&[[0xaa; 20]]) == [[0; 3]]).then_some(())
        });
    }
    let log = quiet.log();
    assert!(!log.iter().any(|line| line.contains("swept")), "{log:?}");
}

/// An announce that completes the download of a torrent, with the client's own id as in
/// `announce_request`.
fn completed(port: u16) -> udp::Announce {
    udp::Announce {
        event: 1,
        left: 0,
        port,
        ..Default::default()
    }
}

fn completed_lines(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.into_iter()
        .filter(|line| line.contains("event=completed"))
        .collect()
}

/// As `date` has it, in UTC.
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
    let peer_id: String = request[36..56]
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    // Told twice, completed once.
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
    let ids = [
        &peer_id,
        &peer_id,
        "2D5858303030312D00FF0A616263646566676869",
        "",
        "",
    ];
    let addresses = ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.1", "127.0.0.1"];
    for ((line, id), address) in lines.iter().zip(ids).zip(addresses) {
        let (time, rest) = line.split_once(" event").expect(line);
        let end = format!("=completed info_hash={hash} peer_id={id} ip={address}");
        assert_eq!(rest, end);
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "announced: time=0000-00-00T00:00:00+0000");
    }
    assert_eq!(lines.len(), 5);
    let days = [before, today()];
    assert!(
        lines
            .iter()
            .all(|line| days.iter().any(|day| line.contains(day))),
        "{days:?}"
    );
}

#[test]
fn nobody_is_named_unasked() {
    let mut daemon = Daemon::start(&["-vv", "--interval", "1"]);
    udp::Client::new(daemon.udp4()).announce(&completed(1));
    let hash = "%bb".repeat(20);
    let target = format!("/announce?info_hash={hash}&port=1&event=completed&left=0");
    assert_eq!(http::get(daemon.tcp4(), &target).status, 200);
    daemon.wait_for_line("swept, ");
    daemon.signal("TERM");
    let (_, log) = daemon.wait();
    let named: Vec<&String> = log
        .iter()
        .filter(|line| line.contains("127.0.0.1") && !line.contains(": listening on "))
        .collect();
    assert_eq!(named, [&""; 0]);
    assert!(completed_lines(&daemon).is_empty());
}

#[test]
fn a_log_that_nobody_reads_loses_lines_and_keeps_nobody_waiting() {
    let mut command = Command::new(program());
    command.args(LISTEN).arg("--log-completed");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("is piped")).lines();
    let mut read = || lines.next().and_then(Result::ok).expect("a line");
    let address = loop {
        let line = read();
        if let Some((_, rest)) = line.split_once("listening on udp ") {
            break rest
                .split(',')
                .next()
                .and_then(|a| a.parse().ok())
                .expect("an address");
        }
    };
    while read() != "announced: ready" {}
    let client = udp::Client::new(address);
    // Each is a line of 140 bytes; a pipe holds 64 KiB. All are answered.
    for port in 1..=2000 {
        client.announce(&completed(port));
    }
    let mut seen = 0;
    let mut dropped = None;
    // Once what was written is read, the next line brings the count.
    while dropped.is_none() {
        let line = if seen < 100 {
            read()
        } else {
            client.announce(&completed(3000 + seen));
            read()
        };
        let count = line.strip_suffix(" lines of this log were dropped");
        dropped = count.and_then(|count| count.strip_prefix("announced: ")?.parse::<u16>().ok());
        if dropped.is_none() {
            assert!(line.contains("event=completed"), "{line}");
            seen += 1;
        }
    }
    assert!(dropped.is_some_and(|dropped| dropped > 100), "{dropped:?}");
    child
        .kill()
        .and_then(|()| child.wait())
        .expect("can be ended");
}
