//! The command line from outside: output and errors.

mod common;

use common::{Daemon, Directory, run};
#[cfg(target_os = "linux")]
use common::{Process, net::in_sandbox, program};
#[cfg(target_os = "linux")]
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
#[cfg(target_os = "linux")]
use std::process::Stdio;
use std::time::Instant;

#[test]
fn version_and_help_are_printed() {
    let parts = [
        ("cluster", cfg!(feature = "cluster")),
        ("full-scrape", cfg!(feature = "full-scrape")),
    ];
    let parts: Vec<&str> = parts
        .iter()
        .filter(|part| part.1)
        .map(|part| part.0)
        .collect();
    for flag in ["-V", "--version"] {
        let (code, out, err) = run(&[flag]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        let lines: Vec<&str> = out.lines().collect();
        let [version, target, features, sandbox] = lines[..] else {
            panic!("{out}");
        };
        assert_eq!(version, concat!("announced ", env!("CARGO_PKG_VERSION")));
        // The C library may be another one than that of the test.
        let system = [std::env::consts::ARCH, std::env::consts::OS].join("-");
        assert!(target.starts_with(&format!("target: {system}")), "{target}");
        assert!(target.ends_with("-bit, little-endian") || cfg!(target_endian = "big"));
        let parts = if parts.is_empty() {
            "none".into()
        } else {
            parts.join(", ")
        };
        assert_eq!(features, format!("features: {parts}"));
        let expected = match std::env::consts::OS {
            "linux" => "sandbox: no new privileges, no capabilities",
            "openbsd" => "sandbox: pledge",
            _ => "sandbox: none",
        };
        assert!(sandbox.starts_with(expected), "{sandbox}");
    }
    for flag in ["-h", "--help"] {
        let (code, out, err) = run(&[flag]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with("usage: announced [options]\n"));
    }
}

#[test]
fn a_bad_flag_exits_2_before_any_socket_is_open() {
    let port = "-p/--tcp-port: invalid value 'x': expected a number from 0 to 65535, IP:PORT, [IPv6]:PORT, not \
                link-local, or unix:/PATH, absolute, at most 100 bytes";
    let interval = "--interval: invalid value '0': expected a number from 1 to 86400";
    let url = "-r/--redirect: invalid value 'http://x/??Set-Cookie: a': expected a URL, http:// or https://, in \
               printable ASCII";
    for (flags, message) in [
        (&["-p", "x"][..], port),
        (&["--interval", "0"], interval),
        (
            &["-P0", "--bad"],
            "unknown option --bad; -h lists all options",
        ),
        (&["-P0", "now"], "unexpected argument 'now'"),
        (&["-P0", "-r", "http://x/\r\nSet-Cookie: a"], url),
    ] {
        let (code, out, err) = run(flags);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{flags:?}");
        assert_eq!(err, format!("announced: {message}\n"));
    }
}

#[test]
fn flags_of_parts_that_a_build_lacks_are_refused_by_name_and_not_in_the_help() {
    let directory = Directory::new("parts");
    let file = directory.file("conf");
    let (_, help, _) = run(&["-h"]);
    let (cluster, full_scrape) = (cfg!(feature = "cluster"), cfg!(feature = "full-scrape"));
    for (names, value, why, is_there) in [
        ("--cluster-key", "k", "cluster support", cluster),
        ("--make-key", "k", "cluster support", cluster),
        (
            "-s/--sync-multicast",
            "192.0.2.1",
            "cluster support",
            cluster,
        ),
        ("--full-scrape", "off", "full scrapes", full_scrape),
    ] {
        let (_, name) = names.split_once("--").expect("a name");
        assert_eq!(help.contains(&format!("--{name} ")), is_there, "{name}");
        if is_there {
            continue;
        }
        let (code, _, error) = run(&["-n", &format!("--{name}={value}")]);
        let message = format!("announced: {names}: this build has no {why}\n");
        assert_eq!((code, error), (Some(2), message));
        std::fs::write(&file, format!("{name} {value}")).expect("is written");
        let (code, _, error) = run(&["-n", "-f", &file]);
        let message = format!("announced: {file}:1: {name}: this build has no {why}\n");
        assert_eq!((code, error), (Some(2), message));
    }
}

#[test]
fn check_prints_a_configuration_and_opens_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("is bound");
    let port = address.port().to_string();
    let flags = ["-i", "127.0.0.1", "-p", &port, "--interval", "60"];
    let (code, out, err) = run(&[&["-n"], &flags[..]].concat());
    assert_eq!(
        (code, out),
        (Some(0), format!("tcp-port {address}\ninterval 60\n"))
    );
    assert_eq!(err, "announced: configuration is valid\n");
    assert_eq!(run(&["-n"]).1, "", "defaults");

    let (code, out, _) = run(&[&["-nv"], &flags[..]].concat());
    assert_eq!(code, Some(0));
    let limits = format!("# listening on tcp {address}\n# peer timeout: 90 s\n# table: max-peers ");
    for part in [
        "interval 60\n#interval-max SECONDS\ntarget-rate 0\n#peer-timeout SECONDS\nnumwant-max 200\n",
        "\n#redirect URL\n",
        &limits,
        "\n# TCP connections: at most ",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    for (root, reason) in [
        ("/nowhere/at/all", "No such file or directory"),
        ("/dev/null", "Not a directory"),
    ] {
        let (code, out, err) = run(&["--check", "--root", root]);
        let message = format!("announced: -d/--root '{root}': {reason}\n");
        assert_eq!((code, out, err), (Some(1), String::new(), message));
    }
}

#[test]
fn a_port_in_use_names_the_address_and_exits_1() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("[::1]:0").expect("a port");
    let cases = [
        ("-p", "tcp", tcp.local_addr().expect("is bound")),
        ("-P", "udp", udp.local_addr().expect("is bound")),
    ];
    for (flag, protocol, address) in cases {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let (code, _, err) = run(&["-i", &ip, flag, &port]);
        assert_eq!(code, Some(1));
        let start = format!("announced: cannot listen on {protocol} {address}: ");
        // The C libraries glibc and musl.
        let reasons = ["Address already in use", "Address in use"];
        let expected = reasons.map(|reason| format!("{start}{reason}\n"));
        assert!(expected.contains(&err), "{err}");
    }
}

#[test]
fn an_address_that_the_host_does_not_get_in_ten_seconds_ends_the_start() {
    let began = Instant::now();
    let (code, _, err) = run(&["-i", "192.0.2.1", "-p", "0", "-P", "0"]);
    let lines: Vec<&str> = err.lines().collect();
    let [waiting, failed] = lines[..] else {
        panic!("{err}");
    };
    let line = "announced: udp 192.0.2.1:0: address not available yet: retrying for 10 s";
    assert_eq!((code, waiting), (Some(1), line));
    let failure = "announced: cannot listen on udp 192.0.2.1:0: ";
    assert!(failed.starts_with(failure), "{failed}");
    assert!(began.elapsed().as_secs() >= 10);
}

/// The lines that a daemon logs until it is ready or ends. `act` is called once an address is not available yet.
#[cfg(target_os = "linux")]
fn log_of_start(mut command: Command, act: impl FnOnce()) -> Vec<String> {
    let mut act = Some(act);
    command.stderr(Stdio::piped());
    let mut process = Process(command.spawn().expect("the program starts"));
    let lines = BufReader::new(process.0.stderr.take().expect("is piped")).lines();
    let mut log = Vec::new();
    for line in lines.map_while(Result::ok) {
        if line.contains(": address not available yet: ") {
            act.take().into_iter().for_each(|act| act());
        }
        log.push(line);
        if log.last().is_some_and(|line| line == "announced: ready") {
            break;
        }
    }
    log
}

/// As on a host whose DHCP client is slow.
#[test]
#[cfg(target_os = "linux")]
fn an_address_that_appears_late_is_waited_for_and_logged_once() {
    let test = "an_address_that_appears_late_is_waited_for_and_logged_once";
    in_sandbox(test, |lan| {
        let host = lan.host();
        let shell = |line: &str| {
            let status = host.command("sh").args(["-c", line]).status();
            assert!(status.expect("there is a shell").success(), "{line}");
        };
        let mut command = host.command(&program());
        command.args("-j 2 -i 10.77.0.99 -p 6969 -P 6969 -i fd77::1 -P 6969".split(' '));
        let log = log_of_start(command, || shell("ip address add 10.77.0.99/16 dev eth0"));
        assert_eq!(
            log.last().map(String::as_str),
            Some("announced: ready"),
            "{log:?}"
        );
        let late = "announced: udp 10.77.0.99:6969: address not available yet: retrying for 10 s";
        assert_eq!(log[0], late);
        assert_eq!(
            log.iter()
                .filter(|line| line.contains("not available"))
                .count(),
            1
        );
    });
}

/// An IPv6 address is tentative while the kernel asks the network for another host that has it.
#[test]
#[cfg(target_os = "linux")]
fn a_tentative_ipv6_address_is_waited_for() {
    in_sandbox("a_tentative_ipv6_address_is_waited_for", |lan| {
        let host = lan.host();
        let add = "echo 3 >/proc/sys/net/ipv6/conf/eth0/dad_transmits
            ip address add fd77::99/64 dev eth0";
        let status = host.command("sh").args(["-c", add]).status();
        assert!(status.expect("there is a shell").success());
        let mut command = host.command(&program());
        command.args(["-i", "fd77::99", "-p", "6969", "-P", "6969"]);
        if cfg!(feature = "cluster") {
            let key = lan.file("key");
            assert_eq!(run(&["--make-key", &key]).0, Some(0));
            command.args(["--cluster-listen", "[fd77::99]:6970", "--cluster-key", &key]);
        }
        let log = log_of_start(command, || ());
        assert_eq!(
            log.last().map(String::as_str),
            Some("announced: ready"),
            "{log:?}"
        );
        assert_eq!(
            log.iter()
                .filter(|line| line.contains("not available"))
                .count(),
            1
        );
    });
}

#[test]
fn a_protocol_without_a_port_is_logged_at_the_start() {
    let directory = Directory::new("unserved");
    let socket = format!("unix:{}", directory.file("http"));
    let udp = "announced: udp: not served: no -P/--udp-port given";
    let http = "announced: http: not served: no -p/--tcp-port given";
    for (flags, expected) in [
        (&["-i", "127.0.0.1", "-p", "0"][..], &[udp][..]),
        (&["-p", &socket], &[udp]),
        (&["-i", "127.0.0.1", "-P", "0"], &[http]),
        (&["-i", "127.0.0.1", "-P", "0", "-p", "0"], &[]),
    ] {
        let log = Daemon::start_with(flags).log();
        let told: Vec<&String> = log.iter().filter(|l| l.contains("not served")).collect();
        assert_eq!(told, expected, "{flags:?}");
    }
}

#[test]
fn start_up_names_every_socket() {
    let daemon = Daemon::start_with(&["-i", "::", "-p", "0", "-i", "127.0.0.1", "-P", "0"]);
    let log = daemon.log();
    let count = |start: &str| log.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("announced: listening on tcp 0.0.0.0:"), 1, "{log:?}");
    assert_eq!(count("announced: listening on tcp [::]:"), 1);
    assert_eq!(count("announced: listening on udp 127.0.0.1:"), 1);
    assert_eq!(count("announced: listening on"), 3);
    let buffer = daemon.wait_for_line("listening on udp");
    assert!(
        buffer.contains(", receive buffer ") && buffer.ends_with(" bytes"),
        "{buffer}"
    );
}

/// Linux doubles the size.
#[cfg(target_os = "linux")]
#[test]
fn each_socket_of_each_thread_has_the_receive_buffer_that_is_given() {
    let flags = ["-j", "3", "--receive-buffer", "80K"];
    let daemon = Daemon::start(&flags);
    for address in [daemon.udp4(), daemon.udp6()] {
        let filter = format!("-Huanm src {address}");
        let Ok(output) = Command::new("ss").args(filter.split(' ')).output() else {
            return common::skip("iproute2's ss shows the buffers of sockets");
        };
        let sockets = String::from_utf8_lossy(&output.stdout);
        assert_eq!(sockets.matches(",rb163840,").count(), 3, "{sockets}");
    }
    assert_eq!(daemon.count_lines(", receive buffer 81920 bytes"), 2);
}

/// Only root may exceed the limit of the system.
#[cfg(target_os = "linux")]
#[test]
fn a_receive_buffer_that_is_not_granted_is_logged_with_the_requested_size() {
    if !common::is_root() {
        return;
    }
    let Ok(limit) = std::fs::read_to_string("/proc/sys/net/core/rmem_max") else {
        return common::skip("this network has no limit of its own");
    };
    let limit: u64 = limit.trim().parse().expect("a number");
    let mut command = Command::new("setpriv");
    command.args("--bounding-set=-net_admin --inh-caps=-net_admin".split(' '));
    command.arg(common::program());
    command.args("-i 127.0.0.1 -P 0 --receive-buffer 512M".split(' '));
    let daemon = Daemon::spawn(command);
    daemon.wait_for_line(&format!(", receive buffer {limit} of 536870912 bytes"));
}

#[test]
fn wildcards_of_both_families_and_protocols_share_a_port() {
    // A port that was free a moment ago may be taken by another test.
    let daemon = (0..20).find_map(|_| {
        let free = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = free.local_addr().expect("is bound").port().to_string();
        drop(free);
        let mut command = Command::new(common::program());
        command.args(["-p", &port, "-P", &port]);
        Daemon::try_spawn(command).ok()
    });
    let daemon = daemon.expect("one of twenty ports is free");
    let ports = [daemon.tcp4(), daemon.tcp6(), daemon.udp4(), daemon.udp6()].map(|a| a.port());
    assert_eq!(ports, [ports[0]; 4]);
}
