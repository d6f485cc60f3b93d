//! The examples with TLS as they are, on the ports that they name, in a network and below a `/run` of the test's own.

use super::HASH;
use super::common::http::get;
use super::common::sandbox::{self, run};
use super::common::{Daemon, Process, skip, wait_for};
use super::real::{example, nginx_around, proxy_protocol_relay};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

const CERTIFICATE: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=tracker.example.org \
                           -addext subjectAltName=DNS:tracker.example.org -keyout privkey.pem -out fullchain.pem";

/// Runs the body in a sandbox that has an address for clients and proxies, 192.0.2.9, an empty `/run`, and a
/// certificate in its directory.
fn pasted(test: &str, proxy: &str, body: impl FnOnce(&Path)) {
    let test = format!("pasted::{test}");
    let Some(directory) = sandbox::inside() else {
        let programs = [proxy, "/usr/bin/openssl", "/usr/bin/curl"];
        let missing = programs.iter().find(|program| !Path::new(program).exists());
        let missing = missing.map(|program| format!("there is no {program}"));
        return match missing.or_else(sandbox::missing) {
            Some(why) => skip(&format!("{test}: {why}")),
            None => sandbox::run_inside(&test),
        };
    };
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    run("ip", &words("link set lo up"), &directory);
    run("ip", &words("address add 192.0.2.9 dev lo"), &directory);
    let mount = "-t tmpfs -o mode=755 run /run";
    run("mount", &words(mount), &directory);
    run("openssl", &words(CERTIFICATE), &directory);
    let read = |name| std::fs::read(directory.join(name)).expect("was made");
    let both = [read("fullchain.pem"), read("privkey.pem")].concat();
    std::fs::write(directory.join("both.pem"), both).expect("can be written");
    body(&directory);
}

/// The arguments of the command in an example, where `nobody` stands for a user that this host does not have.
fn arguments(example: &str, command: &str) -> Vec<String> {
    let start = format!("#   {command} ");
    let mut lines = example.lines();
    let line = lines.find_map(|line| line.strip_prefix(&start));
    let words = line.expect(command).split(' ');
    words
        .map(|word| if word == "_announced" { "nobody" } else { word }.into())
        .collect()
}

/// The daemon of an example.
fn daemon(example: &str, flags: &[&str]) -> Daemon {
    let arguments = arguments(example, "announced");
    let arguments = arguments.iter().map(String::as_str);
    Daemon::start_with(&arguments.chain(flags.iter().copied()).collect::<Vec<_>>())
}

/// Starts the proxy with a configuration, and waits until it listens.
fn start(program: &str, flags: &[&str], configuration: &str, directory: &Path) -> Process {
    let file = directory.join("conf");
    std::fs::write(&file, configuration).expect("can be written");
    let mut command = Command::new(program);
    command.args(flags).arg(&file).stdin(Stdio::null());
    let process = Process(command.spawn().expect("is installed"));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    wait_for("the proxy to listen", || TcpStream::connect(address).ok());
    process
}

/// The body of a reply to curl, which claims to be another client.
fn curl(directory: &Path, scheme: &str, path: &str) -> Vec<u8> {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--cacert",
            "fullchain.pem",
            "-H",
            "X-Forwarded-For: 6.6.6.6",
        ])
        .args([
            "-H",
            "Forwarded: for=6.6.6.6",
            "-H",
            "X-Forwarded-Proto: gopher",
        ])
        .args(["--resolve", "tracker.example.org:443:192.0.2.9"])
        .args(["--resolve", "tracker.example.org:80:192.0.2.9"])
        .arg(format!("{scheme}://tracker.example.org{path}"))
        .current_dir(directory)
        .output()
        .expect("is installed");
    assert!(output.status.success(), "{scheme} {path}: {output:?}");
    output.stdout
}

/// Checks that clients of both schemes are known, that they see no statistics, and that Prometheus does beside the
/// proxy.
fn assert_is_in_front(directory: &Path) {
    for scheme in ["http", "https"] {
        assert_eq!(curl(directory, scheme, "/health"), b"ok\n");
        let announce = format!("/announce?info_hash={HASH}&port=1");
        let reply = curl(directory, scheme, &announce);
        let client = b"11:external ip4:\xc0\0\x02\x09";
        let is_known = reply.windows(client.len()).any(|part| part == client);
        assert!(is_known, "{}", String::from_utf8_lossy(&reply));
        for path in ["/metrics", "/stats"] {
            assert_eq!(curl(directory, scheme, path), b"404 Not Found\n");
        }
    }
    let metrics = get(SocketAddr::from((Ipv4Addr::LOCALHOST, 6970)), "/metrics");
    assert!(metrics.text().contains("\nannounced_peers{"), "{metrics:?}");
}

/// Checks that the announce URL is that of the client's scheme.
fn assert_scheme_is_shown(directory: &Path) {
    for scheme in ["http", "https"] {
        let text = curl(directory, scheme, "/");
        let text = String::from_utf8_lossy(&text);
        let url = format!("\n{scheme}://tracker.example.org/announce\n");
        assert!(text.contains(&url), "{text}");
    }
}

#[test]
fn nginx_over_a_unix_socket_that_others_cannot_reach() {
    let (test, program) = (
        "nginx_over_a_unix_socket_that_others_cannot_reach",
        "/usr/sbin/nginx",
    );
    pasted(test, program, |directory| {
        let path = directory.display().to_string();
        let certificates = "/etc/letsencrypt/live/tracker.example.org";
        let site = example("nginx.conf", &[(certificates, &path)]);
        let install = arguments(&site, "install");
        let install: Vec<&str> = install.iter().map(String::as_str).collect();
        run("install", &install, directory);
        let _daemon = daemon(&site, &[]);
        let whole = format!("user www-data;\n{}", nginx_around(&site, &path));
        let _nginx = start(program, &["-e", "stderr", "-c"], &whole, directory);
        assert_is_in_front(directory);
        assert_scheme_is_shown(directory);
        let other = ["--reuid=daemon", "--clear-groups", "ls", "/run/announced"];
        let output = Command::new("setpriv").args(other).output();
        assert!(!output.expect("is installed").status.success());
    });
}

#[test]
fn haproxy_with_headers() {
    let (test, program) = ("haproxy_with_headers", "/usr/sbin/haproxy");
    pasted(test, program, |directory| {
        let certificate = directory.join("both.pem").display().to_string();
        let pieces = [("/etc/haproxy/tracker.example.org.pem", certificate.as_str())];
        let relay = example("haproxy.cfg", &pieces);
        let _daemon = daemon(&relay, &[]);
        let _haproxy = start(program, &["-db", "-f"], &relay, directory);
        assert_is_in_front(directory);
        assert_scheme_is_shown(directory);
    });
}

#[test]
fn haproxy_with_the_proxy_protocol() {
    let (test, program) = ("haproxy_with_the_proxy_protocol", "/usr/sbin/haproxy");
    pasted(test, program, |directory| {
        let certificate = directory.join("both.pem").display().to_string();
        let pieces = [("/etc/haproxy/tracker.example.org.pem", certificate.as_str())];
        let _daemon = daemon(&example("haproxy.cfg", &[]), &["--proxy-protocol"]);
        let relay = proxy_protocol_relay(&pieces);
        let _haproxy = start(program, &["-db", "-f"], &relay, directory);
        assert_is_in_front(directory);
    });
}
