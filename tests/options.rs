//! The command line from outside: what is printed, what is refused, and that help, man page and README
//! tell the same.

mod common;

use announced::options::FLAGS;
use common::{Daemon, run};
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
        assert!(out.starts_with("usage: announced [flags]\n"));
    }
}

#[test]
fn a_bad_flag_exits_2_before_any_socket_is_open() {
    for (flags, message) in [
        (
            &["-p", "x"][..],
            "-p/--tcp-port 'x': wanted is a number from 0 to 65535, or unix:/PATH",
        ),
        (
            &["--interval", "0"],
            "--interval '0': wanted is a number from 1 to 86400",
        ),
        (
            &["-P", "0", "--bad"],
            "there is no flag --bad; -h lists them all",
        ),
        (
            &["-P", "0", "--processes", "2"],
            "--processes: use --threads",
        ),
        (
            &["-P", "0", "-r", "http://x/\r\nSet-Cookie: a"],
            "-r/--redirect 'http://x/??Set-Cookie: a': wanted is a URL, http:// or https://, in \
             printable ASCII",
        ),
    ] {
        let (code, out, err) = run(flags);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{flags:?}");
        assert_eq!(err, format!("announced: {message}\n"));
    }
}

#[test]
fn check_tells_what_would_be_done_and_opens_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("is bound");
    let port = address.port().to_string();
    let (code, out, err) = run(&["-n", "-i", "127.0.0.1", "-p", &port, "--interval", "60"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("listen on tcp {address}"));
    assert!(lines.contains(&"ask clients to announce every 60 seconds, forget peers after 90"));
    let (code, _, err) = run(&["--check", "--root", "/nowhere/at/all"]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("announced: -d/--root '/nowhere/at/all': "));
    let (code, _, err) = run(&["--check", "--root", "/dev/null"]);
    assert_eq!(code, Some(1), "{err}");
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
        assert!(err.starts_with(&start) && err.contains("in use"), "{err}");
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

fn source(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn help_man_page_and_readme_name_the_same_flags() {
    let (_, help, _) = run(&["--help"]);
    let man = source("man/announced.8");
    let readme = source("README.md");
    for flag in FLAGS {
        let value = if flag.value.is_empty() { "" } else { " " };
        let long = format!("--{}{value}{}", flag.long, flag.value);
        assert!(help.contains(&format!("{long} ")), "help: {long}");
        assert!(help.contains(flag.help));
        assert!(
            man.lines().any(|line| line == man_item(flag)),
            "man: {}",
            man_item(flag)
        );
        let short = flag
            .short
            .map_or(String::new(), |short| format!("`-{short}` "));
        let row = format!("| {short}`{long}` | {} |", flag.help.replace('|', "\\|"));
        assert!(readme.lines().any(|line| line == row), "README: {row}");
    }
    let items = man
        .lines()
        .filter(|line| line.starts_with(".It Fl "))
        .count();
    assert_eq!(items, FLAGS.len(), "the man page names no others");
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .count();
    assert_eq!(rows, FLAGS.len(), "nor does the README");
}

/// `.It Fl i , Fl -address Ar IP`
fn man_item(flag: &announced::options::Flag) -> String {
    let short = flag
        .short
        .map_or(String::new(), |short| format!("{short} , Fl "));
    let value = if flag.value.is_empty() {
        String::new()
    } else {
        format!(" Ar {}", flag.value)
    };
    format!(".It Fl {short}-{}{value}", flag.long)
}
