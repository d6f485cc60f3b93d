//! The harness of the integration tests: daemons, and clients that exchange bytes with them.
//!
//! Every daemon listens on ports that the system chose and is killed when its handle is dropped. Tests wait for an
//! observable event, up to [`DEADLINE`], and never for a fixed time.

#![allow(dead_code)] // Each test program uses its own part.

pub mod bencode;
pub mod http;
#[cfg(target_os = "linux")]
pub mod net;
pub mod opentracker;
#[cfg(target_os = "linux")]
pub mod sandbox;
#[cfg(target_os = "linux")]
pub mod sys;
pub mod udp;

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The limit for events that take no time on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The program under test: `ANNOUNCED_BIN`, or the one just built.
pub fn program() -> String {
    std::env::var("ANNOUNCED_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_announced").into())
}

/// Polls until there is a value. The test fails if there is none in time.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_longer(what, DEADLINE, look)
}

/// The same with a limit of its own.
pub fn wait_longer<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(start.elapsed() < deadline, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal by name, as in `kill -s TERM`; whether the process still exists.
pub fn signal(id: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &id.to_string()]);
    let status = kill.stderr(Stdio::null()).status();
    status.expect("there is a kill").success()
}

/// Gives a process, or a thread, priority over others by its id. Only root may; else nothing changes.
pub fn hurry(id: &str) {
    let mut renice = Command::new("renice");
    let _ = renice.args(["-n", "-20", "-p", id]).output();
}

/// Repeats a system call that was interrupted. A call with a timeout is, when the process is stopped and continued
/// (signal(7)), which may happen on a busy machine.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A port that is free for UDP and TCP. Where all of 127/8 is on the loopback each has an address for itself, so no
/// other process takes the port before it is bound, or while its daemon restarts.
pub fn free_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = 0x7f80_0000 | (std::process::id() & 0x7fff) << 8 | count & 0xff;
    let ip = match cfg!(target_os = "linux") {
        true => Ipv4Addr::from(own),
        false => Ipv4Addr::LOCALHOST,
    };
    let tcp = TcpListener::bind((ip, 0)).expect("a port");
    let address = tcp.local_addr().expect("is bound");
    UdpSocket::bind(address).expect("is free for UDP as well");
    address
}

/// Reports that a test did not run, and why. With `CI=true` all tests must run, and this is a failure.
pub fn skip(reason: &str) {
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!is_ci, "CI=true allows no skipping: {reason}");
    // Past the test harness, which captures `eprintln!`.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Whether this is root; if not, the test is skipped.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|output| output.stdout == b"0\n");
    if !is_root {
        skip("only root can do this");
    }
    is_root
}

/// Creates a FIFO. As root it belongs to [`NOBODY`].
pub fn make_fifo(path: &str) {
    let status = Command::new("mkfifo").arg(path).status();
    assert!(status.expect("there is a mkfifo").success());
    give_to_nobody(path);
}

/// The process that works for a daemon with one monitor.
#[cfg(target_os = "linux")]
pub fn worker_of(id: u32) -> u32 {
    child_of(child_of(id))
}

/// The id of the only child of a process, once those of the start have ended.
#[cfg(target_os = "linux")]
pub fn child_of(id: u32) -> u32 {
    let path = format!("/proc/{id}/task/{id}/children");
    wait_for("one child", || {
        let children = std::fs::read_to_string(&path).unwrap_or_default();
        children.trim().parse().ok()
    })
}

/// Whether there is such a process, and it is not a zombie.
#[cfg(target_os = "linux")]
pub fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a daemon is started with several threads where a test does not say how many.
pub fn has_threads() -> bool {
    std::env::var_os("ANNOUNCED_THREADS").is_some()
}

/// Adds `-j` with the value of `ANNOUNCED_THREADS`, if that is set, to a command that runs the program. A test that
/// gives `-j` keeps its own number.
fn add_threads(command: &mut Command) {
    let Ok(threads) = std::env::var("ANNOUNCED_THREADS") else {
        return;
    };
    let program = program();
    let runs = |word: &OsStr| word == program.as_str();
    let decides = |flag: &OsStr| ["-j", "--threads"].map(OsStr::new).contains(&flag);
    let is_program = runs(command.get_program()) || command.get_args().any(runs);
    if is_program && !command.get_args().any(decides) {
        command.args(["-j", &threads]);
    }
}

/// A process that is killed when its handle is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon.
pub struct Daemon {
    process: Process,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Listens on 127.0.0.1 and ::1, with these additional flags. Peers of one address are not bounded unless these say
    /// so: most tests have no other.
    pub fn start(flags: &[&str]) -> Daemon {
        let listen = "-i 127.0.0.1 -p 0 -P 0 -i ::1 -p 0 -P 0 --max-per-host 0";
        let flags = listen.split(' ').chain(flags.iter().copied());
        Daemon::start_with(&flags.collect::<Vec<_>>())
    }

    /// With these flags alone.
    pub fn start_with(flags: &[&str]) -> Daemon {
        let mut command = Command::new(program());
        command.args(flags);
        Daemon::spawn(command)
    }

    /// Runs a command that becomes the daemon, and waits until it is ready.
    pub fn spawn(command: Command) -> Daemon {
        Daemon::try_spawn(command).unwrap_or_else(|log| panic!("ended: {log:?}"))
    }

    /// The same, or the log if it ended instead.
    pub fn try_spawn(mut command: Command) -> Result<Daemon, Vec<String>> {
        add_threads(&mut command);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().expect("the program starts"));
        let lines = BufReader::new(process.0.stderr.take().expect("is piped")).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().expect("no panic").push(line);
            }
        });
        let mut daemon = Daemon {
            process,
            log,
            reader: Some(reader),
        };
        let ready = wait_for("the daemon to be ready", || {
            let ready = daemon.log().iter().any(|line| line == "announced: ready");
            (ready || !daemon.is_running()).then_some(ready)
        });
        match ready {
            true => Ok(daemon),
            false => Err(daemon.wait().1),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    pub fn wait_for_line(&self, part: &str) -> String {
        wait_for(&format!("a line with '{part}'"), || {
            self.log().into_iter().find(|line| line.contains(part))
        })
    }

    /// The addresses that it listens on, by its log.
    pub fn addresses(&self, protocol: &str) -> Vec<SocketAddr> {
        let start = format!("announced: listening on {protocol} ");
        let address = |line: &String| {
            let rest = line.strip_prefix(&start)?;
            rest.split(',').next()?.parse().ok()
        };
        self.log().iter().filter_map(address).collect()
    }

    fn address(&self, protocol: &str, is_v6: bool) -> SocketAddr {
        let all = self.addresses(protocol);
        let found = all.into_iter().find(|a| a.is_ipv6() == is_v6);
        found.unwrap_or_else(|| panic!("no {protocol} address: {:?}", self.log()))
    }

    pub fn udp4(&self) -> SocketAddr {
        self.address("udp", false)
    }

    pub fn udp6(&self) -> SocketAddr {
        self.address("udp", true)
    }

    pub fn tcp4(&self) -> SocketAddr {
        self.address("tcp", false)
    }

    pub fn tcp6(&self) -> SocketAddr {
        self.address("tcp", true)
    }

    /// The address for other nodes.
    pub fn cluster(&self) -> SocketAddr {
        let all = self.addresses("cluster");
        *all.first()
            .unwrap_or_else(|| panic!("no cluster: {:?}", self.log()))
    }

    /// The number of lines of its log that contain this.
    pub fn count_lines(&self, part: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.contains(part)).count()
    }

    /// Sends a signal by name, as in `kill -s TERM`.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.id(), name), "cannot signal the daemon");
    }

    /// Waits until it has ended by itself; its exit status and whole log.
    pub fn wait(&mut self) -> (ExitStatus, Vec<String>) {
        let status = wait_for("the daemon to end", || {
            self.process.0.try_wait().expect("can be asked")
        });
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        (status, self.log())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().expect("can be asked").is_none()
    }

    /// Waits until each of its threads sleeps, so that every report includes all requests that it has answered: a
    /// thread publishes its counts at the end of a turn, when the replies may have arrived already. Only Linux shows
    /// it.
    pub fn wait_until_idle(&self) {
        #[cfg(target_os = "linux")]
        wait_for("all threads to sleep", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("is running");
            let sleeps = |task: io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                stat.rsplit(") ").next().map(|rest| rest.starts_with('S'))
            };
            let mut tasks = tasks.map(sleeps);
            tasks.all(|sleeps| sleeps == Some(true)).then_some(())
        });
    }

    /// Sets a limit while it runs, by an option of `prlimit`, as its own user: not every root may do that to others.
    /// False if there is no such program.
    #[cfg(target_os = "linux")]
    pub fn limit(&self, option: &str) -> bool {
        let uids = self.proc_status("Uid");
        let uid = uids.split_whitespace().next().expect("an id");
        let command = format!("prlimit --pid {} {option}", self.id());
        let as_user = format!("setpriv --reuid={uid} --regid={uid} --clear-groups {command}");
        [command, as_user].iter().any(|command| {
            let mut shell = Command::new("sh");
            let status = shell.args(["-c", command]).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        })
    }

    #[cfg(target_os = "linux")]
    pub fn resident_kib(&self) -> u64 {
        let text = self.proc_status("VmRSS");
        let number = text.split(' ').next().and_then(|n| n.parse().ok());
        number.expect("a number")
    }

    /// A line of `/proc/PID/status`, such as `VmRSS`, without its name.
    #[cfg(target_os = "linux")]
    pub fn proc_status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("is running");
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(':'));
        value.expect("is there").trim().into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log: {:#?}", self.log());
        }
    }
}

/// The user that root becomes by default.
pub const NOBODY: u32 = 65534;

/// Lets daemons of root own a file. Other users stay its owner.
pub fn give_to_nobody(path: impl AsRef<Path>) {
    let _ = std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY));
}

/// A temporary directory of one test, which every user may enter. As root it belongs to [`NOBODY`], so that daemons can
/// write into it. It is removed when its handle is dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let name = format!("announced-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("can be made");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, open).expect("is ours");
        give_to_nobody(&path);
        Directory(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("is UTF-8")
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path())
    }

    /// Writes a file; its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        std::fs::write(&path, content).expect("can be written");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program until it ends by itself: exit code, standard output, standard error.
pub fn run(flags: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program())
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, err)
}
