//! nginx and haproxy in front, configured as the examples say.

use super::common::http::{Client, Response, get, metric};
use super::common::{Daemon, Directory, Process, skip, wait_for};
use super::{
    HASH, SPOOFED, announced_as, directory, external_ip, request, unix_flag, with_headers,
};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// A proxy that listens on ::1. It ends with its handle.
pub struct Proxy {
    process: Process,
    pub address: SocketAddr,
    directory: Directory,
}

impl Proxy {
    /// Starts a program with the configuration for a directory and a port. None: it is not installed.
    fn start(
        program: &str,
        flags: &[&str],
        configuration: impl Fn(&str, u16) -> String,
    ) -> Option<Proxy> {
        let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
            .map(|directory| Path::new(directory).join(program))
            .into_iter()
            .find(|path| path.exists());
        let Some(path) = found else {
            skip(&format!("there is no {program}"));
            return None;
        };
        // Below the ports that systems choose: the daemon of another test could take such a port before the program
        // does.
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let started = (0..100).find_map(|_| {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let offset = (std::process::id() * 64 + u32::from(count)) % 20_000;
            let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 10_000 + offset as u16));
            TcpListener::bind(address).ok()?;
            let (directory, _) = directory();
            let text = configuration(directory.path(), address.port());
            let file = directory.write("conf", text);
            let log = std::fs::File::create(directory.file("log")).expect("can be made");
            let child = Command::new(&path)
                .args(flags)
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a descriptor"))
                .stderr(log)
                .spawn()
                .expect("the program starts");
            let mut proxy = Proxy {
                process: Process(child),
                address,
                directory,
            };
            proxy.is_ready().then_some(proxy)
        });
        Some(started.unwrap_or_else(|| panic!("{program} did not start in a hundred tries")))
    }

    /// Waits until it listens. False: it ended instead.
    fn is_ready(&mut self) -> bool {
        wait_for("the proxy to listen", || {
            if self.process.0.try_wait().expect("can be asked").is_some() {
                let log = std::fs::read_to_string(self.directory.file("log"));
                eprintln!("ended: {log:?}");
                return Some(false);
            }
            TcpStream::connect(self.address).is_ok().then_some(true)
        })
    }

    /// An announce through it by a client that claims to be another.
    fn announce(&self, port: u16) -> Response {
        Client::new(self.address).request(request(port, SPOOFED))
    }

    /// Checks that the daemon knows the client as ::1, and sends it the peers.
    fn assert_client_is_known(&self) {
        for port in 2..5 {
            let response = self.announce(port);
            assert_eq!(external_ip(&response), "::1");
            let mut peers = response.peers();
            peers.sort();
            let expected = (2..port).map(|port| format!("[::1]:{port}").parse().expect("a peer"));
            assert_eq!(peers, expected.collect::<Vec<SocketAddr>>());
        }
    }
}

/// A file of `contrib`, with these pieces replaced.
pub fn example(name: &str, pieces: &[(&str, &str)]) -> String {
    let path = format!("{}/contrib/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("is there");
    pieces.iter().fold(text, |text, (piece, by)| {
        assert!(text.contains(piece), "{piece}");
        text.replace(piece, by)
    })
}

/// A text without the lines that have this.
fn without(text: &str, part: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(part));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A whole configuration of nginx, with the site of the example.
pub fn nginx_around(site: &str, directory: &str) -> String {
    format!(
        "daemon off; pid {directory}/pid; error_log stderr; events {{ worker_connections 64; }}
         http {{
           client_body_temp_path {directory}/1; proxy_temp_path {directory}/2;
           fastcgi_temp_path {directory}/3; uwsgi_temp_path {directory}/4;
           scgi_temp_path {directory}/5;
           {site}
         }}"
    )
}

/// nginx as in the example without TLS, but for its upstream and the headers if given.
pub fn nginx(server: &str, headers: Option<&str>) -> Option<Proxy> {
    const NAMING: &str = "proxy_set_header X-Forwarded-For $remote_addr;";
    const REMOVING: &str = "proxy_set_header Forwarded \"\";";
    let configuration = |directory: &str, port: u16| {
        let listen = format!("listen [::1]:{port};");
        let [naming, removing] = match headers {
            Some(headers) => [headers, ""],
            None => [NAMING, REMOVING],
        };
        let site = example(
            "nginx.conf",
            &[
                ("unix:/run/announced/http", server),
                ("listen 80;\n    listen [::]:80;", &listen),
                (REMOVING, removing),
                (NAMING, naming),
            ],
        );
        let site = without(&without(&site, " ssl;"), "ssl_");
        let one = "master_process off; worker_processes 1;";
        format!("{one}\n{}", nginx_around(&site, directory))
    };
    Proxy::start("nginx", &["-e", "stderr", "-c"], configuration)
}

#[test]
fn nginx_over_tcp() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    let server = daemon.tcp4().to_string();
    if let Some(nginx) = nginx(&server, None) {
        nginx.assert_client_is_known();
    }
    const APPENDED: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header Forwarded \"\";";
    const NONE: &str = "proxy_set_header X-Forwarded-For \"\"; proxy_set_header Forwarded \"\";";
    for (headers, client) in [
        // If nginx appends instead of replacing, the client's own entries are left of its address.
        (APPENDED, "::1"),
        // If it passes on a header that it does not write, that header is not believed.
        ("proxy_set_header X-Forwarded-For $remote_addr;", "400"),
        // If it names no client, the client cannot announce. Scrapes pass.
        (NONE, "400"),
    ] {
        let Some(nginx) = nginx(&server, Some(headers)) else {
            return;
        };
        let announced = announced_as(&mut Client::new(nginx.address), SPOOFED);
        assert_eq!(announced, client, "{headers}");
        let scrape = with_headers(&format!("/scrape?info_hash={HASH}"), "");
        let response = Client::new(nginx.address).request(scrape).bencoded();
        assert_eq!(response.get("files").expect("a scrape").keys().len(), 1);
    }
}

#[test]
fn nginx_over_a_unix_socket_reuses_its_connection() {
    let (_directory, path) = directory();
    let daemon = Daemon::start(&["-p", &unix_flag(&path)]);
    let Some(nginx) = nginx(&unix_flag(&path), None) else {
        return;
    };
    nginx.assert_client_is_known();
    if cfg!(feature = "full-scrape") {
        let everything = Client::new(nginx.address).request(with_headers("/scrape", ""));
        let files = everything.bencoded();
        assert_eq!(files.get("files").expect("a scrape").keys().len(), 1);
    }
    let accepted = || {
        daemon.wait_until_idle();
        let report = get(daemon.tcp4(), "/metrics").text();
        metric(&report, "connections_accepted_total")
    };
    let before = accepted();
    // nginx keeps its connection, and uses it for one client after the other.
    for port in 100..200 {
        assert_eq!(nginx.announce(port).status, 200);
    }
    assert_eq!(accepted(), before + 1, "but for the request for the report");
}

/// The example of haproxy with headers, in front of a daemon.
pub fn http_relay(daemon: &Daemon) -> String {
    let server = daemon.tcp4().to_string();
    example("haproxy.cfg", &[("127.0.0.1:6969", &server)])
}

/// The example of haproxy with the PROXY protocol: its comment instead of its frontend and backend.
pub fn proxy_protocol_relay(pieces: &[(&str, &str)]) -> String {
    let text = example("haproxy.cfg", pieces);
    let (http, _) = text.split_once("frontend ").expect("a frontend");
    let (_, relay) = text.split_once("#listen ").expect("the other example");
    format!("{http}listen {}", relay.replace("\n#", "\n"))
}

/// haproxy with these lines, which listen on port 80, without TLS and with a socket for [`Proxy::wait_for_check`]. By
/// default it would share its port with another test's.
pub fn haproxy(relay: &str) -> Option<Proxy> {
    let configuration = |directory: &str, port: u16| {
        let listen = format!("bind [::1]:{port}");
        let relay = relay.replace("bind :80\n    bind [::]:80 v6only", &listen);
        let relay = without(&relay, " ssl crt ");
        format!("global\n noreuseport\n stats socket {directory}/stats\n{relay}")
    };
    Proxy::start("haproxy", &["-db", "-f"], configuration)
}

impl Proxy {
    /// Waits until haproxy's check of this kind has found its server up.
    pub fn wait_for_check(&self, kind: &str) {
        wait_for("a health check", || {
            let mut stream = UnixStream::connect(self.directory.file("stats")).ok()?;
            stream.write_all(b"show stat\n").ok()?;
            let mut table = String::new();
            stream.read_to_string(&mut table).ok()?;
            let server = table.lines().find(|line| line.contains(",one,"))?;
            let has = |wanted| server.split(',').any(|field| field == wanted);
            // If the first check takes too long, the server is down until two more succeed.
            (has(kind) && has("UP")).then_some(())
        });
    }
}

#[test]
fn haproxy_with_headers() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    let relay = http_relay(&daemon);
    if let Some(haproxy) = haproxy(&relay) {
        haproxy.wait_for_check("L7OK");
        haproxy.assert_client_is_known();
    }
    // If it is not deleted, the client's own line comes before the one that haproxy adds.
    let relay = relay.replace("http-request del-header X-Forwarded-For\n", "\n");
    if let Some(haproxy) = haproxy(&relay) {
        assert_eq!(external_ip(&haproxy.announce(9)), "::1");
    }
}

#[test]
fn haproxy_with_the_proxy_protocol() {
    let (_directory, path) = directory();
    let flags = ["--proxy", "127.0.0.0/8", "--proxy-protocol"];
    let daemon = Daemon::start(&[&flags[..], &["-p", &unix_flag(&path)]].concat());
    let servers = [daemon.tcp4().to_string(), path.display().to_string()];
    // Not on the page: a check by a request, after LOCAL or UNKNOWN.
    let by_request = ["send-proxy-v2", "send-proxy"]
        .map(|version| format!("{version} check\n    option httpchk GET /health"));
    let versions = [
        ("send-proxy-v2 check", "L4OK"),
        ("send-proxy check", "L4OK"),
        (&by_request[0], "L7OK"),
        (&by_request[1], "L7OK"),
    ];
    for (version, check) in versions {
        for server in &servers {
            let pieces = [
                ("127.0.0.1:6969", server.as_str()),
                ("send-proxy-v2 check", version),
            ];
            let relay = proxy_protocol_relay(&pieces);
            let Some(haproxy) = haproxy(&relay) else {
                return;
            };
            haproxy.wait_for_check(check);
            let mut client = Client::new(haproxy.address);
            for port in 2..5 {
                let response = client.request(request(port, SPOOFED));
                assert_eq!(external_ip(&response), "::1");
            }
            assert_eq!(haproxy.announce(5).peers().len(), 3);
        }
    }
}
