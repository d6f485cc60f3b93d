//! A server process: started on its own core, measured from outside, ended whatever happens.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::bare::Kind;
use crate::options::Build;
use crate::population::{Family, Population};
use crate::sys;
use crate::udp_load;

/// The server has one core to itself, and what measures it the other.
pub const SERVER_CORE: usize = 0;
pub const GENERATOR_CORE: usize = 1;

const OPENTRACKER: &str = "/usr/bin/opentracker";

/// How long a server may take to answer its first connect. Reading a white list of millions
/// takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a server that answers may take to start the rest of its threads.
const THREADS_WITHIN: Duration = Duration::from_secs(2);

const POLL_EVERY: Duration = Duration::from_millis(5);

/// What is needed of this process to be a good generator.
pub fn prepare_generator() -> io::Result<()> {
    sys::raise_descriptor_limit()?;
    sys::pin(GENERATOR_CORE).map_err(|error| {
        io::Error::other(format!(
            "needs two cores, one for the server and one for itself: {error}"
        ))
    })?;
    Ok(())
}

/// The program that is being measured, as `cargo bench` built it or `ANNOUNCED_BIN` names it.
pub fn announced_binary() -> PathBuf {
    env::var_os("ANNOUNCED_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_announced").into(), PathBuf::from)
}

/// How a server is seen to be ready.
type Probe = fn(SocketAddr) -> io::Result<bool>;

pub struct Server {
    pub name: String,
    /// For UDP and TCP alike.
    pub address: SocketAddr,
    child: Child,
    directory: Directory,
}

/// The name of a list in a server's directory.
const WHITE_LIST: &str = "whitelist";

impl Server {
    /// A build of this tracker, with arguments beside those that say where it listens.
    pub fn announced(build: &Build, family: Family, arguments: &[&str]) -> io::Result<Server> {
        Server::announced_on(SERVER_CORE, build, family, arguments)
    }

    /// The same on this core.
    pub fn announced_on(
        core: usize,
        build: &Build,
        family: Family,
        arguments: &[&str],
    ) -> io::Result<Server> {
        let directory = Directory::new()?;
        let address = free_address(family)?;
        let mut command = Command::new(&build.path);
        command.args(listen(address));
        if sys::is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(arguments);
        Server::start_on(core, &build.name, command, address, directory, udp_answers)
    }

    /// A build of this tracker with a whitelist of the population's torrents.
    pub fn announced_with_list(build: &Build, population: &Population) -> io::Result<Server> {
        let directory = Directory::new()?;
        let list = directory.path.join(WHITE_LIST);
        write_white_list(&list, &[population])?;
        let address = free_address(population.family)?;
        let mut command = Command::new(&build.path);
        command.args(listen(address)).arg("-w").arg(list);
        if sys::is_root() {
            command.args(["-u", "nobody"]);
        }
        Server::start(&build.name, command, address, directory, udp_answers)
    }

    /// The reference tracker. Debian builds it for IPv4 only, and to serve none but the torrents
    /// on its white list: it is given those of the populations.
    pub fn opentracker(family: Family, populations: &[&Population]) -> io::Result<Server> {
        if !Path::new(OPENTRACKER).exists() {
            return Err(io::Error::other(format!("{OPENTRACKER} is not installed")));
        }
        if family == Family::V6 {
            return Err(io::Error::other(format!("{OPENTRACKER} is built for IPv4")));
        }
        let directory = Directory::new()?;
        write_white_list(&directory.path.join(WHITE_LIST), populations)?;
        let address = free_address(Family::V4)?;
        let mut command = Command::new(OPENTRACKER);
        command.args(listen(address));
        // It goes to its directory, as root for good, before it reads the list.
        command
            .arg("-d")
            .arg(&directory.path)
            .args(["-u", "nobody", "-w", WHITE_LIST]);
        let server = Server::start("opentracker", command, address, directory, udp_answers)?;
        // The list is read by a thread of its own, while announces are refused.
        let deadline = Instant::now() + READY_WITHIN;
        for population in populations {
            while !udp_load::serves(address, population)? {
                if Instant::now() > deadline {
                    return Err(io::Error::other("opentracker does not take its white list"));
                }
                thread::sleep(POLL_EVERY);
            }
        }
        Ok(server)
    }

    /// A reference loop, in a process of its own.
    pub fn bare(name: &str, kind: Kind, family: Family) -> io::Result<Server> {
        let address = free_address(family)?;
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("--bare")
            .arg(kind.to_string())
            .arg(address.to_string());
        let answers = if matches!(kind, Kind::Udp(_)) {
            udp_answers
        } else {
            accepts
        };
        Server::start(name, command, address, Directory::new()?, answers)
    }

    fn start(
        name: &str,
        command: Command,
        address: SocketAddr,
        directory: Directory,
        answers: Probe,
    ) -> io::Result<Server> {
        Server::start_on(SERVER_CORE, name, command, address, directory, answers)
    }

    fn start_on(
        core: usize,
        name: &str,
        mut command: Command,
        address: SocketAddr,
        directory: Directory,
        answers: Probe,
    ) -> io::Result<Server> {
        let log = File::create(directory.path.join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = sys::confine(&mut command, core).spawn().map_err(|error| {
            let program = Path::new(command.get_program()).display();
            io::Error::new(
                error.kind(),
                format!("{name}: cannot start {program}: {error}"),
            )
        })?;
        let mut server = Server {
            name: name.to_string(),
            address,
            child,
            directory,
        };
        server.wait_until_ready(answers)?;
        Ok(server)
    }

    /// Asks until it answers. There is nothing else to go by that all servers have.
    fn wait_until_ready(&mut self, answers: Probe) -> io::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let (name, log) = (&self.name, self.log());
                return Err(io::Error::other(format!(
                    "{name} ended with {status}: {log}"
                )));
            }
            // Refused and not answered are the same here: not yet.
            if answers(self.address).unwrap_or(false) {
                return Ok(());
            }
            thread::sleep(POLL_EVERY);
        }
        let (name, log) = (&self.name, self.log());
        Err(io::Error::other(format!(
            "{name} did not answer within {READY_WITHIN:?}: {log}"
        )))
    }

    /// Sends a signal by name, as in `kill -s HUP`.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("cannot signal {}", self.name))),
        }
    }

    /// How often its log says this.
    pub fn logged(&self, part: &str) -> usize {
        let log = fs::read(self.directory.path.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(part).count()
    }

    fn log(&self) -> String {
        let log = fs::read(self.directory.path.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(500)..])
            .trim()
            .to_string()
    }

    /// Waits until it runs so many threads. The first may answer before the last has started.
    pub fn wait_for_threads(&self, threads: usize) -> io::Result<()> {
        let directory = format!("/proc/{}/task", self.child.id());
        let deadline = Instant::now() + THREADS_WITHIN;
        loop {
            let running = fs::read_dir(&directory)?.count();
            if running >= threads {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "{} has {running} of {threads} threads after {THREADS_WITHIN:?}",
                    self.name
                )));
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// Processor time of all its threads.
    pub fn processor_time(&self) -> io::Result<Duration> {
        sys::processor_time(self.child.id())
    }

    /// Resident set in octets. smaps_rollup is exact; statm lags by what each core has not yet
    /// added up, which at a few hundred kilobytes matters beside an idle tracker's two megabytes.
    pub fn resident(&self) -> io::Result<u64> {
        resident(self.child.id())
    }

    /// The resident set when it no longer changes: what was needed for a while is given back.
    pub fn settled_resident(&self) -> io::Result<u64> {
        let mut last = self.resident()?;
        for _ in 0..40 {
            thread::sleep(Duration::from_millis(50));
            let now = self.resident()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its own state is of no interest any more, so it is not asked politely.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn accepts(server: SocketAddr) -> io::Result<bool> {
    TcpStream::connect_timeout(&server, Duration::from_millis(20)).map(|_| true)
}

/// Whether it answers a BEP 15 connect.
fn udp_answers(server: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.send(&udp_load::connect_request(0))?;
    Ok(socket.recv(&mut [0; 64])? >= 16)
}

/// Every build of this tracker, started, or why not.
pub fn each_build<'a>(
    builds: &'a [Build],
    family: Family,
    arguments: &[&str],
) -> Vec<(&'a str, io::Result<Server>)> {
    builds
        .iter()
        .map(|build| {
            (
                build.name.as_str(),
                Server::announced(build, family, arguments),
            )
        })
        .collect()
}

/// The arguments that both trackers take for where they listen.
fn listen(address: SocketAddr) -> [String; 6] {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    [
        "-i".into(),
        ip,
        "-p".into(),
        port.clone(),
        "-P".into(),
        port,
    ]
}

fn resident(process: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let kilobytes = |line: &str| -> Option<u64> {
        let number = line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?;
        number.parse().ok()
    };
    let found = rollup.lines().find_map(kilobytes);
    found
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| io::Error::other("no Rss in smaps_rollup"))
}

/// An address that was free a moment ago, for UDP and TCP.
pub fn free_address(family: Family) -> io::Result<SocketAddr> {
    loop {
        let listener = TcpListener::bind(SocketAddr::new(family.server(), 0))?;
        let address = listener.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// The key of a cluster, gone when it is.
pub struct Key {
    path: String,
    _directory: Directory,
}

impl Key {
    pub fn new(build: &Build) -> io::Result<Key> {
        let directory = Directory::new()?;
        let path = directory.path.join("key").to_string_lossy().into_owned();
        let made = Command::new(&build.path)
            .args(["--make-key", &path])
            .status()?;
        match made.success() {
            true => Ok(Key {
                path,
                _directory: directory,
            }),
            false => Err(io::Error::other("cannot make a key")),
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A directory of its own for a server, gone when it is.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> io::Result<Directory> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(format!("announced-bench-{process}-{number}"));
        fs::create_dir(&path)?;
        let directory = Directory { path };
        // A server that gives up root goes on reading it.
        fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o755))?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn write_white_list(path: &Path, populations: &[&Population]) -> io::Result<()> {
    let mut list = BufWriter::new(File::create(path)?);
    for population in populations {
        for torrent in 0..population.torrents {
            let hash = population.info_hash(torrent);
            let (head, tail) = hash.split_at(16);
            let head = u128::from_be_bytes(head.try_into().expect("sixteen octets"));
            let tail = u32::from_be_bytes(tail.try_into().expect("four octets"));
            writeln!(list, "{head:032x}{tail:08x}")?;
        }
    }
    list.flush()
}

/// How long each core has been idle since the machine started, in clock ticks of 10 ms.
pub fn idle_ticks(core: usize) -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core}");
    let mut fields = stat
        .lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut fields| (fields.next() == Some(&name)).then_some(fields))
        .ok_or_else(|| io::Error::other(format!("no {name} in /proc/stat")))?;
    // user nice system idle
    fields
        .nth(3)
        .and_then(|ticks| ticks.parse().ok())
        .ok_or(io::ErrorKind::InvalidData.into())
}
