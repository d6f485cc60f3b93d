//! The command line from outside: output and errors.

mod common;

use common::{Daemon, Directory, run};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

#[test]
fn version_and_help_are_printed() {
    let version = concat!("announced ", env!("CARGO_PKG_VERSION"), "\n").to_string();
    for flag in ["-V", "--version"] {
        assert_eq!(run(&[flag]), (Some(0), version.clone(), String::new()));
    }
    for flag in ["-h", "--help"] {
        let (code, out, err) = run(&[flag]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with("usage: announced [options]\n"));
    }
}

#[test]
fn a_bad_flag_exits_2_before_any_socket_is_open() {
    let port = "-p/--tcp-port: invalid value 'x': expected a number from 0 to 65535, IP:PORT, [IPv6]:PORT or \
                unix:/PATH with an absolute path of at most 100 bytes";
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
    let limits =
        format!("# listening on tcp {address}\n# peer timeout: 90 s\n# TCP connections: at most ");
    for part in [
        "interval 60\n#peer-timeout SECONDS\nnumwant-max 200\n",
        "\n#redirect URL\n",
        &limits,
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
        assert_eq!(err, format!("{start}Address already in use\n"));
    }
    let (code, _, err) = run(&["-i", "192.0.2.1", "-P", "0"]);
    assert_eq!(code, Some(1));
    assert!(
        err.starts_with("announced: cannot listen on udp 192.0.2.1:0: "),
        "{err}"
    );
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
