//! The tracker under test, and a probe that asks it about swarms in the simplest way there is: BEP 15.

use crate::PATIENCE;
use crate::lan::Transport;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub struct Tracker {
    address: SocketAddr,
    process: Child,
    log: PathBuf,
}

/// What a scrape tells of one swarm.
pub struct Swarm {
    pub seeders: u32,
    pub downloaded: u32,
    pub leechers: u32,
}

impl Tracker {
    /// Starts `announced`, as an admin would, and returns once it answers.
    pub fn start(transport: Transport, dir: &Path) -> Tracker {
        let program = std::env::var_os("ANNOUNCED_BIN")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_announced").into());
        let (address, log) = (transport.tracker(), dir.join("announced.log"));
        let [ip, port] = [address.ip().to_string(), address.port().to_string()];
        let process = Command::new(&program)
            .args(["-i", &ip, "-p", &port, "-P", &port])
            .args(["-u", "nobody", "--interval", "1800"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?}: {error}"));
        let mut tracker = Tracker {
            address,
            process,
            log,
        };
        tracker.wait_until_ready();
        tracker
    }

    fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while self.scrape(&[0; 20]).is_none() || TcpStream::connect(self.address).is_err() {
            let ended = self.process.try_wait().expect("the tracker's status");
            assert!(ended.is_none(), "the tracker ended: {}", self.log());
            assert!(
                started.elapsed() < PATIENCE,
                "the tracker does not answer: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks over UDP, whatever the clients use. `None` where no answer came, as for a packet lost.
    pub fn scrape(&self, info_hash: &[u8; 20]) -> Option<Swarm> {
        self.try_scrape(info_hash).ok()
    }

    fn try_scrape(&self, info_hash: &[u8; 20]) -> io::Result<Swarm> {
        let any: IpAddr = if self.address.is_ipv6() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;

        let connect = exchange(&socket, 0x417_2710_1980, 0, &[])?;
        let connection_id = connect.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let reply = exchange(&socket, u64::from_be_bytes(*connection_id), 2, info_hash)?;
        let counts = reply
            .chunks_exact(4)
            .map(|count| u32::from_be_bytes(count.try_into().expect("4 bytes")))
            .collect::<Vec<_>>();
        match counts[..] {
            [seeders, downloaded, leechers] => Ok(Swarm {
                seeders,
                downloaded,
                leechers,
            }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub fn log(&self) -> String {
        format!(
            "--- announced:\n{}",
            fs::read_to_string(&self.log).unwrap_or_default()
        )
    }

    /// Ends it as a service manager would, and fails if it did not end well.
    pub fn stop(mut self) {
        signal(&mut self.process, "TERM");
        let status = wait(&mut self.process, PATIENCE)
            .unwrap_or_else(|| panic!("SIGTERM has no effect: {}", self.log()));
        assert!(
            status.success(),
            "the tracker ended with {status}: {}",
            self.log()
        );
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request and the body of its reply: what comes after action and transaction id.
fn exchange(
    socket: &UdpSocket,
    connection_id: u64,
    action: u32,
    body: &[u8],
) -> io::Result<Vec<u8>> {
    const TRANSACTION: u32 = 0x70_72_6f_62;
    let head = [
        &connection_id.to_be_bytes()[..],
        &action.to_be_bytes(),
        &TRANSACTION.to_be_bytes(),
    ]
    .concat();
    socket.send(&[&head, body].concat())?;
    let mut reply = [0; 1500];
    let length = socket.recv(&mut reply)?;
    match reply[..length].strip_prefix(&head[8..]) {
        Some(body) => Ok(body.to_vec()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a signal by its name, unless the process has ended. The standard library knows only how to kill.
pub fn signal(process: &mut Child, name: &str) {
    if let Ok(None) = process.try_wait() {
        let command = format!("kill -{name} {}", process.id());
        let _ = Command::new("sh").args(["-c", &command]).status();
    }
}

/// Its exit status, once it has ended.
pub fn wait(process: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        match process.try_wait().expect("a child's status") {
            None if started.elapsed() < patience => thread::sleep(Duration::from_millis(20)),
            status => return status,
        }
    }
}
