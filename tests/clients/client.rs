//! Four clients, how each is told to use the tracker and nothing else, and what each cannot do.
//!
//! A client is started the same way to seed and to fetch: it finds the file in its directory, or it does not.

use crate::lan::{Host, Transport};
use crate::torrent::Torrent;
use crate::tracker::{signal, wait};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
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

/// What a client can do with a tracker over one transport.
pub enum Reach {
    /// It announces and finds the peers it is told of.
    Full,
    /// It announces, and can be found, but does not understand the peers in the reply.
    AnnounceOnly(&'static str),
    /// It does not announce.
    No(&'static str),
}

/// Debian's Python, since that is whose libtorrent `python3-libtorrent` is; another may come first on the `PATH`.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/clients/libtorrent_client.py"
);

/// Each client has a host to itself.
const PORT: u16 = 6881;

impl Client {
    /// What Debian 12's versions can do.
    pub fn reach(self, transport: Transport) -> Reach {
        match (self, transport) {
            (Client::Aria2, Transport::UdpIpv6) => {
                Reach::No("aria2 1.36 gives UDP trackers the socket of its IPv4 DHT and no other")
            }
            (Client::Rtorrent, Transport::UdpIpv6) => {
                Reach::AnnounceOnly("rtorrent 0.9.8 reads every UDP reply as IPv4 peers of 6 bytes")
            }
            (Client::Transmission, Transport::UdpIpv6) => Reach::AnnounceOnly(
                "transmission 3.00 reads every UDP reply as IPv4 peers of 6 bytes",
            ),
            _ => Reach::Full,
        }
    }

    /// Whether it says `completed` when a download ends. Rtorrent 0.9.8 queues it for the next announce, half an hour
    /// later, and if it is stopped before that never says it.
    pub fn completes(self) -> bool {
        self != Client::Rtorrent
    }

    /// Why this machine cannot run it.
    pub fn missing(self) -> Option<String> {
        let (package, commands): (_, &[&[&str]]) = match self {
            Client::Aria2 => ("aria2", &[&["aria2c", "--version"]]),
            Client::Libtorrent => (
                "python3-libtorrent",
                &[&[PYTHON, "-c", "import libtorrent"]],
            ),
            Client::Rtorrent => ("rtorrent", &[&["rtorrent", "-h"]]),
            Client::Transmission => (
                "transmission-daemon and transmission-cli",
                &[
                    &["transmission-daemon", "--version"],
                    &["transmission-remote", "--version"],
                ],
            ),
        };
        let runs = |command: &&[&str]| {
            Command::new(command[0])
                .args(&command[1..])
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let broken = commands.iter().find(|command| !runs(command))?;
        Some(format!(
            "`{}` does not run; install Debian's {package}",
            broken.join(" ")
        ))
    }

    /// The command that joins the swarm, with the client's files in `home`.
    fn command(self, host: &Host, torrent: &Torrent, data: &Path, home: &Path) -> Command {
        let mut command = match self {
            Client::Aria2 => aria2(host, torrent, data, home),
            Client::Libtorrent => libtorrent(host, torrent, data),
            Client::Rtorrent => rtorrent(host, torrent, data, home),
            Client::Transmission => transmission(host, torrent, data, home),
        };
        command.env("HOME", home);
        command
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Client::Aria2 => "aria2",
            Client::Libtorrent => "libtorrent",
            Client::Rtorrent => "rtorrent",
            Client::Transmission => "transmission",
        })
    }
}

/// In aria2 UDP trackers are a part of the DHT: off with it. It is on, then, for torrents that are not private.
fn aria2(host: &Host, torrent: &Torrent, data: &Path, home: &Path) -> Command {
    let mut command = host.command("aria2c");
    command
        .args([
            "--no-conf",
            "--console-log-level=info",
            "--summary-interval=0",
            "--file-allocation=none",
        ])
        .args(["--enable-dht=true", "--enable-dht6=false"])
        .args(["--enable-peer-exchange=false", "--bt-enable-lpd=false"])
        // Seed for ever, and look first whether there is something to seed.
        .args(["--seed-ratio=0.0", "--check-integrity=true"])
        .arg(format!(
            "--dht-file-path={}",
            home.join("dht.dat").display()
        ))
        .arg(format!("--listen-port={PORT}"))
        .arg(format!("--dht-listen-port={PORT}"))
        .arg(format!("--dir={}", data.display()))
        .arg(&torrent.path);
    command
}

fn libtorrent(host: &Host, torrent: &Torrent, data: &Path) -> Command {
    let mut command = host.command(PYTHON);
    command.arg(SCRIPT).args([&torrent.path, data]);
    command.arg(std::net::SocketAddr::new(host.address, PORT).to_string());
    command
}

fn rtorrent(host: &Host, torrent: &Torrent, data: &Path, home: &Path) -> Command {
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
    let mut command = host.command("rtorrent");
    command.arg(&torrent.path);
    command
}

fn transmission(host: &Host, torrent: &Torrent, data: &Path, home: &Path) -> Command {
    let settings = format!(
        r#"{{
            "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
            "utp-enabled": false, "port-forwarding-enabled": false,
            "download-dir": "{}", "peer-port": {PORT}, "rpc-bind-address": "127.0.0.1"
        }}"#,
        data.display()
    );
    fs::write(home.join("settings.json"), settings).expect("settings");
    // What is in this directory it takes for torrents of an earlier run, and goes on with them.
    fs::create_dir(home.join("torrents")).expect("a directory for torrents");
    fs::copy(&torrent.path, home.join("torrents/file.torrent")).expect("a copy of the torrent");
    let mut command = host.command("transmission-daemon");
    command
        .args(["--foreground", "--log-debug", "--config-dir"])
        .arg(home);
    command
}

/// A client at work on a host. Dropping it ends it.
pub struct Running<'a> {
    client: Client,
    host: &'a Host,
    process: Child,
    home: PathBuf,
    leaving: bool,
}

impl<'a> Running<'a> {
    /// Starts it with the torrent and the directory `data`, which has the file or gets it.
    pub fn start(
        client: Client,
        host: &'a Host,
        torrent: &Torrent,
        data: &Path,
        home: &Path,
    ) -> Running<'a> {
        fs::create_dir(home).expect("a home directory");
        let output = File::create(home.join("output")).expect("a file for output");
        let process = client
            .command(host, torrent, data, home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("ip starts it");
        Running {
            client,
            host,
            process,
            home: home.into(),
            leaving: false,
        }
    }

    /// Whether a fetcher that has the whole file knows it. Rtorrent closes a finished torrent to check it once more, and
    /// if asked to leave meanwhile does not tell the tracker.
    pub fn has_finished(&self) -> bool {
        self.client != Client::Rtorrent || self.home.join("finished").exists()
    }

    /// Asks it to leave the swarm in its own time, saying `stopped` to the tracker.
    pub fn leave(&mut self) {
        self.leaving = true;
        match self.client {
            // On SIGTERM these two end without waiting to see the tracker told.
            Client::Aria2 | Client::Rtorrent => signal(&mut self.process, "INT"),
            Client::Libtorrent => signal(&mut self.process, "TERM"),
            // On SIGTERM it ends before its announce over HTTP is sent.
            Client::Transmission => {
                let _ = self
                    .host
                    .command("transmission-remote")
                    .args(["--torrent", "all", "--stop"])
                    .output();
            }
        }
    }

    /// How it ended, if it has without being asked to.
    pub fn ended_early(&mut self) -> Option<String> {
        if self.leaving {
            return None;
        }
        let status = self.process.try_wait().expect("a child's status")?;
        Some(format!("{} ended: {status}", self.client))
    }

    /// The end of what it wrote about itself.
    pub fn log(&self) -> String {
        const LINES: usize = 60;
        let mut text = format!("--- {} in {}:\n", self.client, self.home.display());
        for name in ["output", "log"] {
            let log = fs::read(self.home.join(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            text.extend(
                lines
                    .iter()
                    .skip(lines.len().saturating_sub(LINES))
                    .map(|line| format!("{line}\n")),
            );
        }
        text
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        signal(&mut self.process, "TERM");
        if wait(&mut self.process, Duration::from_secs(5)).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
