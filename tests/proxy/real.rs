//! nginx and haproxy in front, configured as the man page says.

use super::common::http::{Client, Response};
use super::common::{DEADLINE, Daemon, skip, wait_for};
use super::{Directory, external_ip, request, unix_flag, with_headers};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A proxy that listens on ::1; it ends when its handle goes.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    directory: Directory,
}

impl Proxy {
    /// Starts a program with a configuration made for a directory and a port; none where there is no
    /// such program.
    fn start(
        program: &str,
        flags: &[&str],
        configuration: impl Fn(&Path, u16) -> String,
    ) -> Option<Proxy> {
        let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
            .map(|directory| Path::new(directory).join(program))
            .into_iter()
            .find(|path| path.exists());
        let Some(path) = found else {
            skip(&format!("there is no {program}"));
            return None;
        };
        // A port that was free a moment ago may be taken by another test.
        let started = (0..20).find_map(|_| {
            let free = TcpListener::bind("[::1]:0").expect("a port");
            let address = free.local_addr().expect("is bound");
            drop(free);
            let directory = Directory::new();
            let file = directory.join("conf");
            let text = configuration(&directory.0, address.port());
            std::fs::write(&file, text).expect("can be written");
            let log = std::fs::File::create(directory.join("log")).expect("can be made");
            let child = Command::new(&path)
                .args(flags)
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a descriptor"))
                .stderr(log)
                .spawn()
                .expect("the program starts");
            let mut proxy = Proxy {
                child,
                address,
                directory,
            };
            proxy.is_ready().then_some(proxy)
        });
        Some(started.unwrap_or_else(|| panic!("{program} did not start in twenty tries")))
    }

    /// Whether it listens; false if it ended instead.
    fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if self.child.try_wait().expect("can be asked").is_some() {
                let log = std::fs::read_to_string(self.directory.join("log"));
                eprintln!("ended: {log:?}");
                return false;
            }
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        false
    }

    /// An announce through it that pretends to be another's.
    fn announce(&self, port: u16) -> Response {
        let spoofed = ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=7.7.7.7"];
        Client::new(self.address).request(request(port, &spoofed))
    }

    /// The client, ::1, is known as itself, and peers are known to each other.
    fn assert_client_is_known(&self) {
        for port in 1..4 {
            let response = self.announce(port);
            assert_eq!(external_ip(&response).to_string(), "::1");
            let mut peers = response.peers();
            peers.sort();
            let expected = (1..port).map(|port| format!("[::1]:{port}").parse().expect("a peer"));
            assert_eq!(peers, expected.collect::<Vec<SocketAddr>>());
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An example of the man page, told by how it begins, with these pieces replaced.
pub fn of_the_page(start: &str, pieces: &[(&str, &str)]) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/announced.8");
    let page = std::fs::read_to_string(page).expect("is there");
    let mut displays = page.split(".Bd -literal -offset indent\n").skip(1);
    let display = displays.find(|text| text.starts_with(start));
    let (text, _) = display.and_then(|d| d.split_once(".Ed\n")).expect(start);
    pieces.iter().fold(text.to_owned(), |text, (piece, by)| {
        assert!(text.contains(piece), "{piece}");
        text.replace(piece, by)
    })
}

/// nginx as on the page, but for its upstream and perhaps the headers.
pub fn nginx(server: &str, headers: Option<&str>) -> Option<Proxy> {
    const HEADERS: &str = "proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header Forwarded \"\";";
    let configuration = |directory: &Path, port: u16| {
        let directory = directory.display();
        let listen = format!("listen [::1]:{port};");
        let site = of_the_page(
            "upstream announced {",
            &[
                ("unix:/run/announced/http", server),
                ("listen 80;\n    listen [::]:80;", &listen),
                (HEADERS, headers.unwrap_or(HEADERS)),
            ],
        );
        format!(
            "daemon off; master_process off; worker_processes 1; pid {directory}/pid;
             error_log stderr; events {{ worker_connections 64; }}
             http {{
               access_log off;
               client_body_temp_path {directory}/1; proxy_temp_path {directory}/2;
               fastcgi_temp_path {directory}/3; uwsgi_temp_path {directory}/4;
               scgi_temp_path {directory}/5;
               {site}
             }}"
        )
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
    // Appending instead of replacing, the client's own entries are left of its address.
    let appending = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                     proxy_set_header Forwarded \"\";";
    if let Some(nginx) = nginx(&server, Some(appending)) {
        assert_eq!(external_ip(&nginx.announce(9)).to_string(), "::1");
    }
    // Handing on a header that it does not write, it is not believed.
    let careless = "proxy_set_header X-Forwarded-For $remote_addr;";
    if let Some(nginx) = nginx(&server, Some(careless)) {
        assert_eq!(nginx.announce(10).status, 400);
    }
    // Naming nobody, it can announce nothing; scrapes go through, info-hashes as they came.
    let silent = "proxy_set_header X-Forwarded-For \"\"; proxy_set_header Forwarded \"\";";
    if let Some(nginx) = nginx(&server, Some(silent)) {
        assert_eq!(nginx.announce(11).status, 400);
        let scrape = format!("/scrape?info_hash={}", super::HASH);
        let response = Client::new(nginx.address).request(with_headers(&scrape, &[]));
        let files = response.bencoded();
        let files = files.get("files").expect("a scrape");
        assert_eq!(files.keys().len(), 1);
    }
}

#[test]
fn nginx_over_a_unix_socket_keeps_its_connections() {
    let directory = Directory::new();
    let path = directory.join("http");
    let daemon = Daemon::start(&["-p", &unix_flag(&path)]);
    let Some(nginx) = nginx(&unix_flag(&path), None) else {
        return;
    };
    nginx.assert_client_is_known();
    let everything = Client::new(nginx.address).request(with_headers("/scrape", &[]));
    let files = everything.bencoded();
    assert_eq!(files.get("files").expect("a scrape").keys().len(), 1);
    // Kept on both sides, and the pool of nginx is used by one client after the other.
    let mut client = Client::new(nginx.address);
    for port in 100..200 {
        assert_eq!(client.request(request(port, &[])).status, 200);
    }
    if cfg!(target_os = "linux") {
        assert_eq!(connections_of(&daemon), 1);
    }
}

/// How many connections over nginx's Unix socket the daemon has accepted and not closed.
fn connections_of(daemon: &Daemon) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").expect("is Linux");
    let of_inode = |inode: &str| {
        table.lines().any(|line| {
            let mut fields = line.split_whitespace();
            let state = fields.nth(5);
            // Connected and not listening.
            state == Some("03") && fields.next() == Some(inode) && line.ends_with("/http")
        })
    };
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("is running");
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let inodes = links.filter_map(|link| {
        let name = link.to_str()?.strip_prefix("socket:[")?;
        Some(name.strip_suffix(']')?.to_owned())
    });
    inodes.filter(|inode| of_inode(inode)).count()
}

/// haproxy with these lines, which listen on port 80, and a place to ask it how its server is. It would
/// share its port with another test's.
pub fn haproxy(relay: &str) -> Option<Proxy> {
    let configuration = |directory: &Path, port: u16| {
        let directory = directory.display();
        let listen = format!("bind [::1]:{port}");
        let relay = relay.replace("bind :80\n    bind [::]:80 v6only", &listen);
        format!("global\n noreuseport\n stats socket {directory}/stats\n{relay}")
    };
    Proxy::start("haproxy", &["-db", "-f"], configuration)
}

impl Proxy {
    /// Waits until haproxy has found its server well, by this kind of check.
    pub fn wait_for_check(&self, kind: &str) {
        wait_for("a health check", || {
            let mut stream = UnixStream::connect(self.directory.join("stats")).ok()?;
            stream.write_all(b"show stat\n").ok()?;
            let mut table = String::new();
            stream.read_to_string(&mut table).ok()?;
            let server = table.lines().find(|line| line.contains(",one,"))?;
            let fields: Vec<&str> = server.split(',').collect();
            // After a first check that took too long it is down until there have been two more.
            [kind, "UP"]
                .iter()
                .all(|field| fields.contains(field))
                .then_some(())
        });
    }
}

#[test]
fn haproxy_with_headers() {
    let daemon = Daemon::start(&["--proxy", "127.0.0.0/8"]);
    let server = daemon.tcp4().to_string();
    let relay = of_the_page("defaults\n    mode http\n", &[("127.0.0.1:6969", &server)]);
    if let Some(haproxy) = haproxy(&relay) {
        haproxy.wait_for_check("L7OK");
        haproxy.assert_client_is_known();
    }
    // Left alone, the client's own line comes before the one that haproxy adds.
    let relay = relay.replace("http-request del-header X-Forwarded-For\n", "\n");
    if let Some(haproxy) = haproxy(&relay) {
        assert_eq!(external_ip(&haproxy.announce(9)).to_string(), "::1");
    }
}

#[test]
fn haproxy_with_the_proxy_protocol() {
    let directory = Directory::new();
    let path = directory.join("http");
    let flags = ["--proxy", "127.0.0.0/8", "--proxy-protocol"];
    let daemon = Daemon::start(&[&flags[..], &["-p", &unix_flag(&path)]].concat());
    let servers = [daemon.tcp4().to_string(), path.display().to_string()];
    let versions = [
        ("send-proxy-v2 check", "L4OK"),
        ("send-proxy check", "L4OK"),
        // Not on the page: a check by a request, behind LOCAL or UNKNOWN.
        (
            "send-proxy-v2 check\n    option httpchk GET /health",
            "L7OK",
        ),
        ("send-proxy check\n    option httpchk GET /health", "L7OK"),
    ];
    for (version, check) in versions {
        for server in &servers {
            let pieces = [
                ("127.0.0.1:6969", server.as_str()),
                ("send-proxy-v2 check", version),
            ];
            let relay = of_the_page("listen tracker\n    mode tcp\n", &pieces);
            let Some(haproxy) = haproxy(&relay) else {
                return;
            };
            haproxy.wait_for_check(check);
            let mut client = Client::new(haproxy.address);
            for port in 1..4 {
                let response = client.request(request(port, &["X-Forwarded-For: 6.6.6.6"]));
                assert_eq!(external_ip(&response).to_string(), "::1");
            }
            assert_eq!(haproxy.announce(4).peers().len(), 3);
        }
    }
}
