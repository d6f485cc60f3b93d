//! The protocols of systemd, which `sd_notify(3)` describes. The service manager here is a stub.

#![cfg(target_os = "linux")]

mod common;

use announced::sys::uptime::monotonic_us;
use common::http::get;
use common::udp::{Announce, Client};
use common::{
    DEADLINE, Daemon, Directory, is_alive, is_root, program, signal, skip, sys, uninterrupted,
    wait_for,
};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

const LISTEN: [&str; 6] = ["-i", "127.0.0.1", "-p", "0", "-P", "0"];

/// A stub of the service manager.
struct Manager {
    socket: UnixDatagram,
    /// `NOTIFY_SOCKET`.
    address: String,
}

impl Manager {
    fn new(directory: &Directory) -> Manager {
        let address = directory.file("notify");
        Manager::at(SocketAddr::from_pathname(&address), address)
    }

    fn at(bound: std::io::Result<SocketAddr>, address: String) -> Manager {
        let socket = UnixDatagram::bind_addr(&bound.expect("an address")).expect("is free");
        socket.set_read_timeout(Some(DEADLINE)).expect("an option");
        Manager { socket, address }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(LISTEN).args(flags);
        command.env("NOTIFY_SOCKET", &self.address);
        command
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        Daemon::spawn(self.command(flags))
    }

    /// The assignments of the next message.
    fn receive(&self) -> Vec<String> {
        let mut message = [0; 1000];
        let received = uninterrupted(|| self.socket.recv(&mut message));
        let length = received.expect("a message");
        let message = String::from_utf8_lossy(&message[..length]);
        message.lines().map(String::from).collect()
    }

    fn expect(&self, message: &[&str]) {
        assert_eq!(self.receive(), message);
    }

    /// Whether a message comes within half a second.
    fn is_silent(&self) -> bool {
        let wait = Some(Duration::from_millis(500));
        self.socket.set_read_timeout(wait).expect("an option");
        let received = uninterrupted(|| self.socket.recv(&mut [0; 1000]));
        self.socket
            .set_read_timeout(Some(DEADLINE))
            .expect("an option");
        received.is_err()
    }

    /// Takes the messages that have been received.
    fn drain(&self) {
        self.socket.set_nonblocking(true).expect("an option");
        while self.socket.recv(&mut [0; 1000]).is_ok() {}
        self.socket.set_nonblocking(false).expect("an option");
    }

    fn expect_ready(&self, daemon: &Daemon) {
        self.expect(&["READY=1", &format!("MAINPID={}", daemon.id())]);
    }

    /// Receives the messages of a reload that began after this time, by the clock of the messages.
    fn expect_reload(&self, after: u64) {
        let message = self.receive();
        let [reloading, time] = &message[..] else {
            panic!("{message:?}");
        };
        assert_eq!(reloading, "RELOADING=1");
        let time = time.strip_prefix("MONOTONIC_USEC=").map(str::parse);
        let is_right = |time: &u64| (after..=monotonic_us()).contains(time);
        assert!(matches!(time, Some(Ok(time)) if is_right(&time)));
        self.expect(&["READY=1"]);
    }
}

/// The id of a thread by its name.
fn thread(daemon: &Daemon, name: &str) -> u32 {
    let tasks = format!("/proc/{}/task", daemon.id());
    let tasks = std::fs::read_dir(tasks).expect("is running");
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |id: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", daemon.id()));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    ids.into_iter().find(is_it).expect("there is such a thread")
}

/// A command that starts the program as a service manager does that has opened these sockets.
fn activated(sockets: &[BorrowedFd], flags: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", &program()]);
    command.args(flags);
    command.env("LISTEN_FDS", sockets.len().to_string());
    sys::pass(&mut command, sockets);
    command
}

/// Runs a command that is to fail; its exit status and the end of its log.
fn failure(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("starts");
    let log = String::from_utf8_lossy(&output.stderr);
    let last = log.lines().last().unwrap_or_default();
    (output.status.code(), last.to_owned())
}

fn stop(mut daemon: Daemon) {
    daemon.signal("TERM");
    assert_eq!(daemon.wait().0.code(), Some(0));
}

#[test]
fn the_manager_is_told_of_the_start_the_table_and_the_end() {
    let directory = Directory::new("notify");
    let manager = Manager::new(&directory);
    let state = ["--state", &directory.file("state")];
    let daemon = manager.start(&state);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=0 torrents, 0 peers"]);
    Client::new(daemon.udp4()).announce(&Announce::default());
    stop(daemon);
    manager.expect(&["STOPPING=1"]);
    let daemon = manager.start(&state);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=1 torrent, 1 peer"]);
    stop(daemon);
}

#[test]
fn the_manager_is_told_of_the_beginning_and_the_end_of_each_reload() {
    let directory = Directory::new("notify-reload");
    let manager = Manager::new(&directory);
    let list = directory.write("list", "aa".repeat(20));
    let conf = directory.write("conf", "interval 1000\n");
    let all = ["-w", &list, "-f", &conf];
    for (flags, result) in [
        (&all[..], "configuration: reloaded"),
        (&[], "SIGHUP: ignored"),
    ] {
        let daemon = manager.start(flags);
        manager.expect_ready(&daemon);
        manager.receive();
        let before = monotonic_us();
        daemon.signal("HUP");
        manager.expect_reload(before);
        daemon.wait_for_line(result);
        if !flags.is_empty() {
            directory.write("list", "nonsense");
            directory.write("conf", "nonsense");
            daemon.signal("HUP");
            manager.expect_reload(before);
            daemon.wait_for_line("whitelist: reload failed");
            daemon.wait_for_line("configuration: reload failed");
        }
        stop(daemon);
        manager.expect(&["STOPPING=1"]);
    }
}

#[test]
fn an_abstract_address_is_that_of_the_manager_too() {
    let name = format!("announced-test-{}", std::process::id());
    let manager = Manager::at(SocketAddr::from_abstract_name(&name), format!("@{name}"));
    let daemon = manager.start(&[]);
    manager.expect_ready(&daemon);
    manager.expect(&["STATUS=0 torrents, 0 peers"]);
}

#[test]
fn the_manager_is_told_from_a_root_directory_by_another_user() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("notify-root");
    let root = Directory::new("notify-inside");
    let manager = Manager::new(&directory);
    let daemon = manager.start(&["-d", root.path()]);
    manager.expect_ready(&daemon);
    manager.receive();
    daemon.signal("HUP");
    manager.expect_reload(0);
    stop(daemon);
    manager.expect(&["STOPPING=1"]);
}

/// systemd accepts messages of the process that it started, and of the one that this names.
#[test]
fn in_the_background_the_manager_is_told_the_process_id_by_both_processes() {
    let directory = Directory::new("notify-daemon");
    let manager = Manager::new(&directory);
    let mut command = manager.command(&["--daemon"]);
    command.stderr(Stdio::null());
    assert!(command.status().expect("starts").success());
    let first = manager.receive();
    let id = first[1].strip_prefix("MAINPID=").map(str::parse);
    let Some(Ok(id)) = id else {
        panic!("{first:?}");
    };
    assert!(is_alive(id));
    let mut rest = [manager.receive(), manager.receive()];
    rest.sort();
    assert_eq!(rest, [first, vec!["STATUS=0 torrents, 0 peers".to_owned()]]);
    assert!(signal(id, "TERM"));
    manager.expect(&["STOPPING=1"]);
    wait_for("the end", || (!is_alive(id)).then_some(()));
}

#[test]
fn a_manager_that_is_not_there_is_logged_and_does_no_harm() {
    for (address, why) in [
        ("/nowhere/at/all", "No such file or directory"),
        ("nonsense", "No such file or directory"),
    ] {
        let mut command = Command::new(program());
        command.args(LISTEN).env("NOTIFY_SOCKET", address);
        let daemon = Daemon::spawn(command);
        daemon.wait_for_line(&format!("NOTIFY_SOCKET '{address}': {why}"));
        Client::new(daemon.udp4()).announce(&Announce::default());
    }
}

/// Its queue takes ten messages or so. The others are sent when there is room.
#[test]
fn a_manager_that_does_not_read_stops_nothing_and_is_told_the_end_of_a_reload_later() {
    let directory = Directory::new("notify-full");
    let manager = Manager::new(&directory);
    let daemon = manager.start(&[]);
    let reloads = 40;
    for count in 1..=reloads {
        daemon.signal("HUP");
        let is_done = || (daemon.count_lines("SIGHUP: ignored") == count).then_some(());
        wait_for("the reload", is_done);
    }
    Client::new(daemon.udp4()).announce(&Announce::default());
    manager.expect_ready(&daemon);
    let mut messages = vec![vec![]];
    manager
        .socket
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("an option");
    let mut buffer = [0; 1000];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        messages.push(buffer[..length].to_vec());
    }
    assert!(
        messages.len() < 2 * reloads,
        "some were dropped: {}",
        messages.len()
    );
    assert_eq!(messages.last().map(|m| &m[..]), Some(&b"READY=1"[..]));
    stop(daemon);
}

#[test]
fn the_watchdog_is_answered_while_every_thread_has_turns() {
    let directory = Directory::new("watchdog");
    let manager = Manager::new(&directory);
    for (threads, name) in [
        ("1", "announced"),
        ("2", "announced"),
        ("2", "announced-0"),
        ("2", "announced-1"),
    ] {
        let mut command = manager.command(&["-j", threads]);
        // An answer each 10 ms.
        command.env("WATCHDOG_USEC", "40000");
        let daemon = Daemon::spawn(command);
        manager.expect_ready(&daemon);
        let expect_answers = || {
            for _ in 0..10 {
                // The first is behind a status.
                while manager.receive() != ["WATCHDOG=1"] {}
            }
        };
        expect_answers();
        let hung = match sys::Hung::new(thread(&daemon, name)) {
            Ok(hung) => hung,
            Err(error) => return skip(&format!("ptrace: {error}")),
        };
        // Some answers were under way, and the thread may have had one more turn.
        let sent = (0..50).take_while(|_| !manager.is_silent()).count();
        assert!(sent < 50, "{sent} answers while {name} of {threads} hangs");
        assert!(manager.is_silent());
        drop(hung);
        expect_answers();
        stop(daemon);
        while manager.receive() != ["STOPPING=1"] {}
        // It is also answered while the daemon stops.
        manager.drain();
    }
}

#[test]
fn the_watchdog_of_another_process_is_not_answered() {
    let directory = Directory::new("watchdog-other");
    let manager = Manager::new(&directory);
    for (usec, id) in [("40000", "1"), ("0", ""), ("x", "")] {
        let mut command = manager.command(&[]);
        command.env("WATCHDOG_USEC", usec);
        if !id.is_empty() {
            command.env("WATCHDOG_PID", id);
        }
        let daemon = Daemon::spawn(command);
        manager.expect_ready(&daemon);
        manager.receive();
        assert!(manager.is_silent(), "{usec} {id}");
        stop(daemon);
        manager.expect(&["STOPPING=1"]);
    }
}

/// The sockets of a service manager at the same port.
fn sockets(ip: Ipv4Addr) -> (UdpSocket, TcpListener) {
    wait_for("a free port", || {
        let udp = UdpSocket::bind((ip, 0)).expect("a port");
        let tcp = TcpListener::bind(udp.local_addr().expect("is bound"));
        tcp.ok().map(|tcp| (udp, tcp))
    })
}

const REQUEST: &[u8] = b"GET /health HTTP/1.0\r\n\r\n";

fn read_all(mut stream: impl Read) -> String {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("is closed");
    reply
}

#[test]
fn inherited_sockets_are_served_by_all_threads_with_the_options_of_own_ones() {
    for (threads, names) in [("1", &[][..]), ("2", &["announced-0", "announced-1"])] {
        let directory = Directory::new(&format!("activation-{threads}"));
        let (udp, tcp) = sockets(Ipv4Addr::UNSPECIFIED);
        let path = directory.file("socket");
        let unix = UnixListener::bind(&path).expect("is free");
        let passed = [udp.as_fd(), tcp.as_fd(), unix.as_fd()];
        let daemon = Daemon::spawn(activated(&passed, &["-j", threads]));
        let port = udp.local_addr().expect("is bound").port();
        assert_eq!(daemon.count_lines("listening on"), 3, "{:?}", daemon.log());
        assert_eq!(daemon.count_lines(", inherited"), 3, "{:?}", daemon.log());
        let own = Daemon::start(&["-j", threads]);
        let buffer = |daemon: &Daemon, address: std::net::SocketAddr| {
            let line = daemon.wait_for_line(&format!("udp {address}, receive buffer"));
            line.split(' ').find_map(|word| word.parse::<u32>().ok())
        };
        let at = udp.local_addr().expect("is bound");
        assert_eq!(buffer(&daemon, at), buffer(&own, own.udp4()));
        let serves = || {
            // The client takes a reply from that address alone.
            let client = Client::new((Ipv4Addr::new(127, 0, 0, 2), port).into());
            client.announce(&Announce::default());
            let health = get((Ipv4Addr::LOCALHOST, port).into(), "/health");
            assert_eq!(health.status, 200);
            let mut client = UnixStream::connect(&path).expect("listens");
            client.write_all(REQUEST).expect("is sent");
            assert!(read_all(client).starts_with("HTTP/1.1 200"));
        };
        serves();
        for name in names {
            let Ok(_hung) = sys::Hung::new(thread(&daemon, name)) else {
                return skip("ptrace");
            };
            serves();
        }
        stop(daemon);
        assert!(
            std::fs::exists(&path).expect("can be asked"),
            "it is the manager's"
        );
    }
}

/// A service may not request as much as its manager has.
#[test]
fn an_inherited_socket_keeps_a_larger_receive_buffer() {
    const BYTES: usize = 32 << 20;
    if !is_root() {
        return;
    }
    for threads in ["1", "2"] {
        let (udp, _) = sockets(Ipv4Addr::LOCALHOST);
        sys::force_receive_buffer(udp.as_fd(), BYTES as i32).expect("root may");
        let mut command = Command::new("sh");
        let start =
            "LISTEN_PID=$$ exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin \"$@\"";
        command.args(["-c", start, "sh", &program(), "-j", threads]);
        command.env("LISTEN_FDS", "1");
        sys::pass(&mut command, &[udp.as_fd()]);
        let daemon = Daemon::spawn(command);
        daemon.wait_for_line(&format!("receive buffer {BYTES} bytes, inherited"));
        let now = socket2::SockRef::from(&udp).recv_buffer_size();
        assert_eq!(now.expect("an option"), 2 * BYTES, "{threads}");
        stop(daemon);
    }
}

#[test]
fn an_inherited_socket_has_the_receive_buffer_that_is_given() {
    let (udp, _) = sockets(Ipv4Addr::LOCALHOST);
    let flags = ["--receive-buffer", "64K"];
    let daemon = Daemon::spawn(activated(&[udp.as_fd()], &flags));
    daemon.wait_for_line(", receive buffer 65536 bytes, inherited");
    stop(daemon);
}

#[test]
fn a_restart_refuses_no_client_of_an_inherited_socket() {
    let (udp, tcp) = sockets(Ipv4Addr::LOCALHOST);
    let passed = [udp.as_fd(), tcp.as_fd()];
    let address = udp.local_addr().expect("is bound");
    stop(Daemon::spawn(activated(&passed, &[])));
    let mut web = TcpStream::connect(address).expect("is queued");
    web.write_all(REQUEST).expect("is sent");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client.set_read_timeout(Some(DEADLINE)).expect("an option");
    client
        .send_to(&common::udp::connect_request(), address)
        .expect("is queued");
    let daemon = Daemon::spawn(activated(&passed, &[]));
    let received = uninterrupted(|| client.recv(&mut [0; 100]));
    assert_eq!(received.expect("a reply"), 16);
    assert!(read_all(web).starts_with("HTTP/1.1 200"));
    stop(daemon);
}

#[test]
fn inherited_sockets_stand_for_the_options_with_their_addresses() {
    let (udp, tcp) = sockets(Ipv4Addr::LOCALHOST);
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let name =
        |address: std::io::Result<std::net::SocketAddr>| address.expect("is bound").to_string();
    let [client, admins] = [name(udp.local_addr()), name(admin.local_addr())];
    let flags = [
        "-P",
        &client,
        "-p",
        "127.0.0.1:0",
        "--admin-listen",
        &admins,
    ];
    let daemon = Daemon::spawn(activated(&[admin.as_fd(), udp.as_fd()], &flags));
    daemon.wait_for_line(&format!("listening on udp {client}, receive buffer"));
    daemon.wait_for_line(&format!("listening on admin {admins}, inherited"));
    assert_eq!(daemon.count_lines(", inherited"), 2);
    assert_eq!(get(daemon.tcp4(), "/metrics").status, 404);
    assert_eq!(
        get(admins.parse().expect("an address"), "/metrics").status,
        200
    );
    stop(daemon);
    let (code, log) = failure(activated(&[tcp.as_fd()], &["-P", "127.0.0.1:0"]));
    let why = format!("announced: LISTEN_FDS: no option has the address of a socket: tcp {client}");
    assert_eq!((code, log), (Some(1), why));
}

#[test]
fn unusable_sockets_of_the_manager_are_errors_and_those_of_others_are_left_alone() {
    let raw = UnixDatagram::unbound().expect("a socket");
    let both = UdpSocket::bind("[::]:0").expect("a port");
    let file = std::fs::File::open("/dev/null").expect("is there");
    for (socket, why) in [
        (raw.as_fd(), "unsupported"),
        (file.as_fd(), "Socket operation on non-socket"),
        (
            both.as_fd(),
            "takes IPv4, too: expected BindIPv6Only=ipv6-only",
        ),
    ] {
        let (code, log) = failure(activated(&[socket], &[]));
        // The words of the C library musl.
        let log = log.replace("Not a socket", "Socket operation on non-socket");
        assert_eq!(
            (code, log),
            (
                Some(1),
                format!("announced: LISTEN_FDS: unusable socket: {why}")
            )
        );
    }
    for (count, why) in [
        ("1", "Bad file descriptor"),
        ("one", "invalid value 'one': expected a number"),
    ] {
        let mut command = activated(&[], &LISTEN);
        command.env("LISTEN_FDS", count);
        let why = format!("announced: LISTEN_FDS: {why}");
        assert_eq!(failure(command), (Some(1), why));
    }
    let mut command = Command::new(program());
    command
        .args(LISTEN)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1");
    let daemon = Daemon::spawn(command);
    assert_eq!(daemon.count_lines("inherited"), 0);
}

fn contrib(name: &str) -> String {
    let path = format!("{}/contrib/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("is there")
}

/// Runs a tool of systemd, which must succeed in silence.
fn succeeds(command: &mut Command) {
    match command.output() {
        Ok(output) => {
            let [out, err] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            assert!(
                output.status.success() && err.is_empty(),
                "{command:?}: {out}{err}"
            );
        }
        Err(error) => skip(&format!("{command:?}: {error}")),
    }
}

/// A service that opens ports below 1024 itself has more rights than one with a socket unit.
#[test]
fn the_units_are_valid_and_confine_the_daemon() {
    let text = contrib("announced.service");
    let text = text.replace("/usr/local/sbin/announced", "/bin/true");
    let without_socket: String = text
        .lines()
        .filter(|line| !["CapabilityBoundingSet=", "PrivateUsers=yes"].contains(line))
        .map(|line| {
            line.strip_prefix('#')
                .filter(|l| l.ends_with("CAP_NET_BIND_SERVICE"))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(
        without_socket
            .matches("\nAmbientCapabilities=CAP_NET_BIND_SERVICE")
            .count(),
        1
    );
    for (variant, text, exposure) in [("socket", text, 12), ("own", without_socket, 15)] {
        let directory = Directory::new(&format!("unit-{variant}"));
        let units = [
            directory.write("announced.service", text),
            directory.write("announced.socket", contrib("announced.socket")),
        ];
        succeeds(
            Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .args(&units),
        );
        let threshold = format!("--threshold={exposure}");
        let mut security = Command::new("systemd-analyze");
        succeeds(security.args([
            "security",
            "--no-pager",
            "--offline=true",
            &threshold,
            &units[0],
        ]));
    }
}

/// The default options take all sockets of the unit, as each must have the address of one.
#[test]
fn the_socket_unit_has_the_sockets_of_the_default_options() {
    let unit = contrib("announced.socket");
    let sockets = unit.lines().filter_map(|line| line.strip_prefix("Listen"));
    let sockets: BTreeSet<String> = sockets
        .map(|socket| {
            socket
                .replace("Datagram=", "udp ")
                .replace("Stream=", "tcp ")
        })
        .collect();
    let limits = common::run(&["-n", "-v"]).1;
    let words = limits
        .lines()
        .filter_map(|line| line.strip_prefix("# listening on "));
    let defaults = words.map(|line| line.split(',').next().unwrap_or_default().to_owned());
    assert_eq!(sockets, defaults.collect());
}

#[test]
fn the_user_of_the_unit_is_made_by_systemd_sysusers() {
    let directory = Directory::new("sysusers");
    std::fs::create_dir(directory.file("etc")).expect("is new");
    let line = contrib("announced.sysusers");
    let line = line
        .lines()
        .find(|line| line.starts_with("u "))
        .expect("a user");
    let mut sysusers = Command::new("systemd-sysusers");
    let root = format!("--root={}", directory.path());
    let output = sysusers.args([&root, "--inline", line]).output();
    let Ok(output) = output else {
        return skip("systemd-sysusers");
    };
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let users = std::fs::read_to_string(directory.file("etc/passwd")).expect("is made");
    let user = users.lines().find(|user| user.starts_with("_announced:"));
    assert!(
        user.is_some_and(|user| user.ends_with(":/var/lib/announced:/usr/sbin/nologin")),
        "{users}"
    );
    assert!(contrib("announced.service").contains("\nUser=_announced\n"));
}
