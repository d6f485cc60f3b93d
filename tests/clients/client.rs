//! Four clients, the options with which each uses the tracker and nothing else, and the features that each lacks.
//!
//! A client is started the same way to seed and to fetch: it finds the file in its directory, or it does not.

use crate::Transport;
use crate::common::net::Host;
use crate::common::{Process, signal};
use crate::torrent::Torrent;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Aria2,
    Libtorrent,
    Rtorrent,
    Transmission,
}

pub const CLIENTS: [Client; 4] = [
    Client::Aria2,
    Client::Libtorrent,
    Client::Rtorrent,
    Client::Transmission,
];

/// The use that a client can make of a tracker over one transport.
pub enum Reach {
    /// It announces and finds the peers of the reply.
    Full,
    /// It announces, and can be found, but does not understand the peers of the reply.
    AnnounceOnly(&'static str),
    /// It does not announce.
    No(&'static str),
}

/// Debian's Python, since that is whose libtorrent `python3-libtorrent` is; another may come first on the `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// Cargo runs tests in the directory of the package.
const SCRIPT: &str = "tests/clients/libtorrent_client.py";

/// Each client has a host to itself.
const PORT: u16 = 6881;

impl Client {
    /// The reach of Debian 12's versions.
    pub fn reach(self, transport: Transport) -> Reach {
        match (self, transport) {
            (Client::Aria2, Transport::UdpIpv6) => {
                Reach::No("aria2 1.36 gives UDP trackers the socket of its IPv4 DHT and no other")
            }
            (Client::Rtorrent | Client::Transmission, Transport::UdpIpv6) => Reach::AnnounceOnly(
                "rtorrent 0.9.8 and transmission 3.00 read every UDP reply as IPv4 peers of 6 bytes",
            ),
            _ => Reach::Full,
        }
    }

    /// Whether it announces `completed` when a download ends. Rtorrent 0.9.8 queues that for the next announce, half
    /// an hour later, and drops it if it is stopped before.
    pub fn completes(self) -> bool {
        self != Client::Rtorrent
    }

    /// The reason why this machine cannot run it.
    pub fn missing(self) -> Option<String> {
        let (package, commands) = match self {
            Client::Aria2 => ("aria2", "aria2c --version"),
            Client::Libtorrent => (
                "python3-libtorrent",
                "/usr/bin/python3 -c 'import libtorrent'",
            ),
            Client::Rtorrent => ("rtorrent", "rtorrent -h"),
            Client::Transmission => (
                "transmission-daemon and transmission-cli",
                "transmission-daemon --version && transmission-remote --version",
            ),
        };
        let output = Command::new("sh").args(["-c", commands]).output();
        let runs = output.is_ok_and(|output| output.status.success());
        let missing = format!("`{commands}` fails; install Debian's {package}");
        (!runs).then_some(missing)
    }
}

/// A command on a host, with an environment as small as clients need: a proxy named in it, say, would come between
/// them and the tracker.
fn command(host: &Host, program: &str, home: &Path) -> Command {
    let mut command = host.command(program);
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().env("PATH", path).env("HOME", home);
    command
}

/// The command that joins the swarm, with the client's files in `home`.
fn join(
    client: Client,
    (host, address): &(Host, IpAddr),
    torrent: &Torrent,
    data: &Path,
    home: &Path,
) -> Command {
    let on_host = |program| command(host, program, home);
    match client {
        Client::Aria2 => aria2(on_host("aria2c"), torrent, data, home),
        Client::Libtorrent => {
            let mut command = on_host(PYTHON);
            command.arg(SCRIPT).args([&torrent.path, data]);
            command.arg(SocketAddr::new(*address, PORT).to_string());
            command
        }
        Client::Rtorrent => rtorrent(on_host("rtorrent"), torrent, data, home),
        Client::Transmission => transmission(on_host("transmission-daemon"), torrent, data, home),
    }
}

/// In aria2 UDP trackers are off where the DHT is. So it is on, and the torrent is private.
fn aria2(mut command: Command, torrent: &Torrent, data: &Path, home: &Path) -> Command {
    // Seed without end, and look first whether there is something to seed.
    let options = "--seed-ratio=0.0 --check-integrity=true --no-conf --console-log-level=info --summary-interval=0 \
                   --file-allocation=none --enable-dht=true --enable-dht6=false --enable-peer-exchange=false \
                   --bt-enable-lpd=false";
    let dht = home.join("dht.dat");
    let paths = [("dht-file-path", &*dht), ("dir", data)];
    command.args(options.split(' '));
    command.args(paths.map(|(option, path)| format!("--{option}={}", path.display())));
    command.args(["listen-port", "dht-listen-port"].map(|option| format!("--{option}={PORT}")));
    command.arg(&torrent.path);
    command
}

fn rtorrent(mut command: Command, torrent: &Torrent, data: &Path, home: &Path) -> Command {
    let settings = format!(
        "system.daemon.set = true\n\
         session.path.set = {home}\n\
         directory.default.set = {data}\n\
         network.port_range.set = {PORT}-{PORT}\n\
         dht.mode.set = disable\n\
         protocol.pex.set = no\n\
         trackers.use_udp.set = yes\n\
         method.set_key = event.download.finished, told, \"execute.nothrow = touch, {home}/finished\"\n\
         log.open_file = log, {home}/log\n\
         log.add_output = info, log\n\
         log.add_output = tracker_debug, log\n",
        home = home.display(),
        data = data.display(),
    );
    fs::write(home.join(".rtorrent.rc"), settings).expect("settings");
    command.arg(&torrent.path);
    command
}

fn transmission(mut command: Command, torrent: &Torrent, data: &Path, home: &Path) -> Command {
    let settings = format!(
        r#"{{
            "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
            "utp-enabled": false, "port-forwarding-enabled": false,
            "download-dir": "{}", "peer-port": {PORT}, "rpc-bind-address": "127.0.0.1"
        }}"#,
        data.display()
    );
    fs::write(home.join("settings.json"), settings).expect("settings");
    // It takes files in this directory for torrents of an earlier run, and goes on with them.
    fs::create_dir(home.join("torrents")).expect("a directory for torrents");
    fs::copy(&torrent.path, home.join("torrents/file.torrent")).expect("a copy of the torrent");
    command
        .args(["--foreground", "--log-debug", "--config-dir"])
        .arg(home);
    command
}

/// A client at work on a host. Dropping it ends it.
pub struct Running<'a> {
    client: Client,
    host: &'a Host,
    process: Process,
    home: PathBuf,
    is_leaving: bool,
}

impl<'a> Running<'a> {
    /// Starts it as `seeder`, with the file, or as `fetcher`.
    pub fn start(
        client: Client,
        host: &'a (Host, IpAddr),
        torrent: &Torrent,
        role: &str,
    ) -> Running<'a> {
        let home = torrent.dir.join(role);
        fs::create_dir(&home).expect("a home directory");
        let output = File::create(home.join("output")).expect("a file for output");
        let data = torrent.dir.join(format!("{role}-data"));
        let process = join(client, host, torrent, &data, &home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("ip starts it");
        Running {
            client,
            host: &host.0,
            process: Process(process),
            home,
            is_leaving: false,
        }
    }

    /// Whether a fetcher that has the whole file knows it. Rtorrent closes a finished torrent to check it once more.
    /// If it is asked to leave meanwhile, it does not announce `stopped`.
    pub fn has_finished(&self) -> bool {
        self.client != Client::Rtorrent || self.home.join("finished").exists()
    }

    /// Asks it to leave the swarm in its own time, announcing `stopped`.
    pub fn leave(&mut self) {
        self.is_leaving = true;
        match self.client {
            // On SIGTERM these two end before they have announced.
            Client::Aria2 | Client::Rtorrent => drop(signal(self.process.0.id(), "INT")),
            Client::Libtorrent => drop(signal(self.process.0.id(), "TERM")),
            // On SIGTERM it ends before its announce over HTTP is sent.
            Client::Transmission => {
                let mut remote = command(self.host, "transmission-remote", &self.home);
                let _ = remote.args(["--torrent", "all", "--stop"]).output();
            }
        }
    }

    /// How it ended, if it has without being asked to.
    pub fn ended_early(&mut self) -> Option<String> {
        if self.is_leaving {
            return None;
        }
        let status = self.process.0.try_wait().expect("can be asked")?;
        Some(format!("{:?} ended: {status}", self.client))
    }

    /// The end of its output and log.
    pub fn log(&self) -> String {
        const LINES: usize = 60;
        let end = |name: &str| {
            let log = fs::read(self.home.join(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].join("\n")
        };
        format!("--- {:?}:\n{}\n{}", self.client, end("output"), end("log"))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        signal(self.process.0.id(), "TERM");
        // Then it is killed.
        for _ in 0..250 {
            if let Ok(Some(_)) = self.process.0.try_wait() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
