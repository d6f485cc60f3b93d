//! Debian's opentracker of 2021, which serves IPv4 alone and only the torrents of a whitelist.

use super::{Directory, Process, free_address, http, wait_for};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

pub const OPENTRACKER: &str = "/usr/bin/opentracker";

/// A torrent on every whitelist. It has one peer, which announced until the list had been read.
pub const FIRST: [u8; 20] = [0xff; 20];

pub struct Opentracker {
    pub process: Process,
    /// The address of UDP and TCP alike.
    pub address: SocketAddr,
    _directory: Directory,
}

/// The reason why this machine has no opentracker.
pub fn missing() -> Option<String> {
    let is_there = Path::new(OPENTRACKER).exists();
    (!is_there).then(|| format!("there is no {OPENTRACKER} (Debian package opentracker)"))
}

impl Opentracker {
    /// Starts it with a whitelist, by a command that runs the program.
    pub fn start(mut command: Command, hashes: impl Iterator<Item = [u8; 20]>) -> Opentracker {
        let address = free_address();
        let directory = Directory::new(&format!("opentracker-{address}"));
        let digits = |hash: [u8; 20]| hash.map(|byte| format!("{byte:02x}")).concat() + "\n";
        let list: String = hashes.chain([FIRST]).map(digits).collect();
        directory.write("whitelist", list);
        let config = directory.write("config", "access.stats 127.0.0.1\n");
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        command
            .args(["-f", &config, "-i", &ip, "-p", &port, "-P", &port])
            .args(["-d", directory.path(), "-w", "whitelist"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process(command.spawn().expect("opentracker starts"));
        // It opens its sockets first, and then reads its whitelist.
        wait_for("opentracker to be ready", || {
            let ended = process.0.try_wait().expect("can be asked");
            assert_eq!(ended, None, "opentracker ended");
            TcpStream::connect(address).ok()?;
            let target = format!("/announce?info_hash={}&port=1", "%ff".repeat(20));
            let reply = http::get(address, &target).bencoded();
            reply.get("failure reason").is_none().then_some(())
        });
        Opentracker {
            process,
            address,
            _directory: directory,
        }
    }
}
