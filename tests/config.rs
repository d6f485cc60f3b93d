//! Configuration files from outside: opentracker's, ours, and files that are none.

mod common;

use announced::options::{self, FLAGS};
use announced::sys::cores;
use common::{Daemon, run, skip, udp};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file in a directory of its own; both go with it.
struct Conf(PathBuf);

impl Conf {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Conf {
        let directory = format!("announced-conf-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).expect("can be made");
        let path = directory.join("announced.conf");
        fs::write(&path, text).expect("can be written");
        Conf(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("is UTF-8")
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

/// The lines that `-n` prints for these flags.
fn checked(flags: &[&str]) -> Vec<String> {
    let flags: Vec<&str> = ["-n"].into_iter().chain(flags.iter().copied()).collect();
    let (code, out, err) = run(&flags);
    assert_eq!(code, Some(0), "{flags:?}: {err}");
    out.lines().map(String::from).collect()
}

/// The lines that `-n` prints for a file.
fn checked_file(name: &str, text: &str) -> Vec<String> {
    let conf = Conf::new(name, text);
    checked(&["-f", conf.path()])
}

/// Exit status and error of a file, its name taken away.
fn refused(name: &str, text: impl AsRef<[u8]>) -> (Option<i32>, String) {
    let conf = Conf::new(name, text);
    let (code, out, err) = run(&["-i", "127.0.0.1", "-P", "0", "-f", conf.path()]);
    assert_eq!(out, "");
    (code, err.replace(conf.path(), "FILE"))
}

#[test]
fn a_file_and_the_command_line_say_the_same() {
    let pairs: &[(&str, &[&str])] = &[
        ("", &[]),
        ("interval 60", &["--interval", "60"]),
        ("\tinterval \t 60\t\r\n", &["--interval", "60"]),
        ("# a\n\n  # b\n \n#\nsyslog # c\n", &["--syslog"]),
        ("\u{feff}interval 60", &["--interval", "60"]),
        ("root /", &["-d", "/"]),
        (
            "address ::1\ntcp-port 80\nudp-port 81",
            &["-i", "::1", "-p", "80", "-P", "81"],
        ),
        ("address 192.0.2.1", &["-i", "192.0.2.1"]),
        (
            "syslog\npidfile /run/a b",
            &["--syslog", "--pidfile", "/run/a b"],
        ),
        ("log-completed\ndaemon", &["--daemon", "--log-completed"]),
        // opentracker's words.
        ("listen.tcp 192.0.2.1:80", &["-i", "192.0.2.1", "-p", "80"]),
        (
            "listen.udp [2001:db8::1]:8",
            &["-i", "2001:db8::1", "-P", "8"],
        ),
        (
            "listen.tcp_udp 0.0.0.0 # all",
            &["-i", "0.0.0.0", "-p", "6969", "-P", "6969"],
        ),
        (
            "listen.tcp_udp 10.0.0.5:6969\nlisten.tcp ::1",
            &[
                "-i", "10.0.0.5", "-p", "6969", "-P", "6969", "-i", "::1", "-p", "6969",
            ],
        ),
        ("listen.tcp ::1\nlisten.udp 7", &["-P", "7", "-p", "[::1]"]),
        ("listen.tcp ::", &["-i", "::", "-p", "6969"]),
        (
            "access.stats 10.1.1.23\naccess.stats 10.2.0.0/16",
            &["-A10.1.1.23", "-A10.2.0.0/16"],
        ),
        ("access.stats_path stat-s", &["--stats-path", "/stat-s"]),
        (
            "access.proxy 2400:cb00::/32",
            &["--proxy", "2400:cb00::/32"],
        ),
        (
            "livesync.cluster.listen 10.0.0.1\nlivesync.cluster.node_ip 10.0.0.2",
            &["-s", "10.0.0.1:9696", "--sync-node", "10.0.0.2"],
        ),
        ("tracker.rootdir /", &["-d", "/"]),
        ("tracker.user    nobody", &["-u", "nobody"]),
        (
            "tracker.redirect_url https://your.tracker.local/",
            &["-r", "https://your.tracker.local/"],
        ),
    ];
    for (text, flags) in pairs {
        assert_eq!(checked_file("same", text), checked(flags), "{text:?}");
    }
    assert_eq!(
        checked_file("verbose", "verbose\nverbose"),
        ["verbose", "verbose"]
    );
}

#[test]
fn lists_and_their_fifos_have_opentracker_s_names_too() {
    let list = Conf::new("list", "aa".repeat(20));
    let list = list.path();
    let text = format!("access.whitelist {list}");
    assert_eq!(checked_file("white", &text), checked(&["-w", list]));
    let (add, remove) = (format!("{list}.add"), format!("{list}.remove"));
    let text =
        format!("access.blacklist {list}\naccess.fifo_add {add}\naccess.fifo_delete {remove}");
    let flags = ["-b", list, "--list-add", &add, "--list-remove", &remove];
    assert_eq!(checked_file("black", &text), checked(&flags));
    let both = format!("access.blacklist {list}\naccess.whitelist {list}");
    assert_eq!(refused("both", both).0, Some(2));
}

#[test]
fn the_command_line_has_the_last_word_and_lists_add_up() {
    let first = Conf::new(
        "first",
        "interval 60\nlisten.udp 127.0.0.1:7\nredirect http://a/",
    );
    let second = Conf::new("second", "interval 61\nlisten.udp 127.0.0.1:8\n");
    let (first, second) = (first.path(), second.path());
    let lines = checked(&[
        "-i",
        "::1",
        "-P9",
        "--interval=62",
        "-f",
        first,
        "--config",
        second,
    ]);
    let expected = [
        "udp-port 127.0.0.1:7",
        "udp-port 127.0.0.1:8",
        "udp-port [::1]:9",
        "redirect http://a/",
        "interval 62",
    ];
    assert_eq!(lines, expected);
    // Among files, the last has it.
    let lines = checked(&["-f", first, "-f", second]);
    assert_eq!(lines.last().map(String::as_str), Some("interval 61"));
}

/// The options of a command line.
fn parsed(arguments: &[&str]) -> options::Options {
    match options::parse(arguments.iter().map(OsString::from)) {
        Ok(options::Command::Serve(options)) => options,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

/// The flags that files do not have.
const COMMAND_LINE: [&str; 6] = ["check", "config", "health", "help", "make-key", "version"];

#[test]
fn printed_options_can_be_read_back() {
    let line = "-i ::1 -p 0 -P 7 -p unix:/run/x -i 192.0.2.1 -p 80 -i :: -P 9 -u 33:44 -d /r -r http://x/ -A \
                10.1.0.0/8 -A ::7 --public-stats --stats-path /s -w l --list-add a --list-remove b \
                --full-scrape open --interval 900 --peer-timeout 1400 --numwant-max 7 --decoys 9 --max-peers \
                10 --max-torrents 11 --max-connections 12 -j 2 --state s --state-interval 0 -l dump \
                --cluster-listen 192.0.2.1:1 --cluster-listen [::1]:2 --cluster-peer a.example:3 \
                --cluster-peer [2001:db8::1]:4 --cluster-key k -s 192.0.2.1:9 --sync-node 10.0.0.0/9 \
                --sync-mapped --proxy ::2 --proxy-protocol -vv --syslog --daemon --pidfile p --log-completed";
    let pin = if cores::IS_SUPPORTED {
        " --pin-threads"
    } else {
        ""
    };
    let line = format!("{line}{pin}");
    let mut given = parsed(&line.split_whitespace().collect::<Vec<_>>());
    for is_full in [false, true] {
        let text = String::from_utf8(given.to_file(is_full)).expect("is UTF-8");
        for flag in FLAGS
            .iter()
            .filter(|flag| !COMMAND_LINE.contains(&flag.long()))
        {
            let has_line = text
                .lines()
                .any(|line| line.split(' ').next() == Some(flag.long()));
            // Ports are printed with their addresses, and one list excludes the other.
            assert!(
                has_line || ["address", "blacklist"].contains(&flag.long()),
                "{}: {text}",
                flag.long()
            );
        }
        let conf = Conf::new("back", &text);
        assert_eq!(parsed(&["-f", conf.path()]), given, "{text}");
    }
    // The same for the defaults.
    let text = parsed(&[]).to_file(true);
    let conf = Conf::new("back-defaults", text);
    assert_eq!(parsed(&["-f", conf.path()]), parsed(&[]));
}

#[test]
fn errors_begin_with_file_and_line() {
    let invalid: &[(&str, &str, &str)] = &[
        ("interval", "0", "a number from 1 to 86400"),
        (
            "tracker.user",
            "root",
            "a user other than root, by name or as UID:GID",
        ),
        (
            "listen.udp",
            "192.0.2.1:66666",
            "a number from 0 to 65535, IP:PORT or [IPv6]:PORT",
        ),
        (
            "listen.udp",
            "example.org:80",
            "a number from 0 to 65535, IP:PORT or [IPv6]:PORT",
        ),
        ("listen.udp.workers", "65", "a number from 0 to 64"),
        (
            "access.proxy",
            "10.0.0.0/33",
            "an address or a network, such as 192.0.2.1 or 2001:db8::/32",
        ),
        (
            "tracker.redirect_url",
            "ftp://x",
            "a URL, http:// or https://, in printable ASCII",
        ),
        (
            "livesync.cluster.listen",
            "[::1]:9696",
            "an IPv4 address of this host and a port, such as 192.0.2.1:9696, or a port (an -i before it must be IPv4)",
        ),
    ];
    let invalid = invalid.iter().map(|(keyword, value, expected)| {
        let error = format!("FILE:1: {keyword}: invalid value '{value}': expected {expected}");
        (format!("{keyword} {value}").into_bytes(), error)
    });
    let others: &[(&[u8], &str)] = &[
        (
            b"nonsense 1",
            "FILE:1: unknown keyword 'nonsense'; announced.conf(5) lists all keywords",
        ),
        (
            b"\n#\ninterval=60",
            "FILE:3: unknown keyword 'interval=60'; announced.conf(5) lists all keywords",
        ),
        (
            b"listen.tcpx 1",
            "FILE:1: unknown keyword 'listen.tcpx'; announced.conf(5) lists all keywords",
        ),
        (b"interval", "FILE:1: interval requires a value: SECONDS"),
        (
            b"tracker.rootdir",
            "FILE:1: tracker.rootdir requires a value: DIR",
        ),
        (b"verbose yes", "FILE:1: verbose: unexpected value 'yes'"),
        (
            b"config other.conf",
            "FILE:1: config is allowed only on the command line",
        ),
        (
            b"livesync.cluster.node_ip 192.168.0.4",
            "--sync-node requires -s/--sync-multicast",
        ),
        (
            b"batchsync.cluster.admin_ip 10.1.1.1",
            "FILE:1: batchsync.cluster.admin_ip: sync over HTTP is not supported; opentracker has dropped it too",
        ),
        (
            b"tcp-port 80\naddress ::1\n",
            "FILE: -i/--address '::1' requires a -p or -P after it",
        ),
        (
            b"interval 60\x07",
            "FILE:1: control characters: not a configuration file",
        ),
        (
            b"\x7fELF\x02\x01",
            "FILE:1: control characters: not a configuration file",
        ),
        (b"\xff\xfe 1", "FILE:1: the keyword is not UTF-8"),
    ];
    let others = others
        .iter()
        .map(|(text, error)| (text.to_vec(), error.to_string()));
    for (text, error) in invalid.chain(others) {
        let expected = (Some(2), format!("announced: {error}\n"));
        assert_eq!(refused("wrong", &text), expected, "{text:?}");
    }
}

#[test]
fn every_long_flag_is_a_keyword() {
    for flag in FLAGS {
        let (name, value) = (flag.long(), flag.value());
        let (text, message) = match (name, value) {
            _ if COMMAND_LINE.contains(&name) => (
                name.to_string(),
                format!("{name} is allowed only on the command line"),
            ),
            (_, "") => (format!("{name} x"), format!("{name}: unexpected value 'x'")),
            _ => (
                name.to_string(),
                format!("{name} requires a value: {value}"),
            ),
        };
        let expected = (Some(2), format!("announced: FILE:1: {message}\n"));
        assert_eq!(refused("flags", text), expected);
    }
}

#[test]
fn other_files_are_refused_soon() {
    let conf = Conf::new("odd", "");
    let directory = conf.0.parent().and_then(Path::to_str).expect("UTF-8");
    let missing = format!("{directory}/missing");
    for (path, reason) in [
        (missing.as_str(), "No such file"),
        (directory, "Is a directory"),
        ("", "No such file"),
        ("/dev/zero", "too large"),
    ] {
        let (code, out, err) = run(&["-n", "-f", path]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{path}");
        let start = format!("announced: -f/--config '{path}': ");
        assert!(err.starts_with(&start) && err.contains(reason), "{err}");
    }
    // Two gigabytes of zeros, and not a byte of them on the disk.
    let zeros = fs::File::create(&conf.0).and_then(|file| file.set_len(2 << 30));
    assert!(zeros.is_ok());
    let (code, _, err) = run(&["-f", conf.path()]);
    assert!(code == Some(2) && err.contains("too large"), "{err}");
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (code, err) = refused("garbage", garbage);
    assert!(
        code == Some(2) && err.starts_with("announced: FILE:1: "),
        "{err}"
    );
    let long = format!("interval 60\nredirect http://{}\n", "x".repeat(5000));
    let expected = "announced: FILE:2: the line is longer than 4096 bytes\n".to_string();
    assert_eq!(refused("long", long), (Some(2), expected));
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let conf = Conf::new("secret", "interval 60");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(&conf.0, mode).expect("is ours");
    let mut command = Command::new(common::program());
    command.args(["-n", "-f", conf.path()]);
    let id = Command::new("id")
        .arg("-u")
        .output()
        .expect("there is an id");
    if id.stdout == b"0\n" {
        // Nothing is kept from root.
        command.uid(65534);
    }
    match command.output() {
        Ok(output) => {
            let err = String::from_utf8_lossy(&output.stderr);
            let start = format!(
                "announced: -f/--config '{}': Permission denied",
                conf.path()
            );
            assert_eq!(output.status.code(), Some(2), "{err}");
            assert!(err.starts_with(&start), "{err}");
        }
        Err(error) => skip(&format!("another user cannot run the program: {error}")),
    }
}

#[test]
fn a_daemon_does_what_its_file_says() {
    let conf = Conf::new(
        "daemon",
        "listen.udp.workers 1\nlisten.tcp_udp 127.0.0.1:0\nlisten.udp [::1]:0\nnumwant-max 1",
    );
    let daemon = Daemon::start_with(&["-f", conf.path()]);
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    udp::Client::new(daemon.udp6()).announce(&udp::Announce::default());
    drop(common::http::Client::new(daemon.tcp4()));
}

/// In any order, and in any of several files.
#[test]
fn threads_override_opentracker_s_workers() {
    let threads = |texts: &[&str], flags: &[&str]| {
        let name = |n: usize| format!("threads-{n}");
        let confs = texts.iter().enumerate();
        let confs: Vec<Conf> = confs.map(|(n, text)| Conf::new(&name(n), text)).collect();
        let files = confs.iter().flat_map(|conf| ["-f", conf.path()]);
        let arguments = files.chain(flags.iter().copied()).map(OsString::from);
        match options::parse(arguments) {
            Ok(options::Command::Serve(options)) => options.threads(),
            other => panic!("{texts:?}: {other:?}"),
        }
    };
    assert_eq!(threads(&["interval 60"], &[]), 1);
    assert_eq!(threads(&["listen.udp.workers 4"], &[]), 4);
    assert_eq!(threads(&["listen.udp.workers 0"], &[]), 1);
    assert_eq!(
        threads(&["listen.udp.workers 4", "listen.udp.workers 3"], &[]),
        3
    );
    assert_eq!(threads(&["listen.udp.workers 4\nthreads 2"], &[]), 2);
    assert_eq!(threads(&["threads 2\nlisten.udp.workers 4"], &[]), 2);
    assert_eq!(threads(&["threads 2", "listen.udp.workers 4"], &[]), 2);
    assert_eq!(threads(&["listen.udp.workers 4"], &["-j", "2"]), 2);
}

#[test]
fn debian_s_file_for_opentracker_does_as_it_is() {
    let path = "/etc/opentracker/opentracker.conf";
    if !Path::new(path).exists() {
        return skip("Debian's opentracker is not installed");
    }
    // As Debian starts it: as this user, to whom a root directory is one to work in.
    let id = Command::new("id").args(["-u", "_opentracker"]).output();
    let id = id.map(|output| String::from_utf8_lossy(&output.stdout).trim().parse());
    let Ok(Ok(id)) = id else {
        return skip("there is no user _opentracker");
    };
    let mut command = Command::new(common::program());
    let output = match command.args(["-n", "-f", path]).uid(id).output() {
        Ok(output) => output,
        Err(error) => return skip(&format!("another user cannot run the program: {error}")),
    };
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    for part in [
        "user _opentracker\n",
        "root /etc/opentracker\n",
        "whitelist /etc/opentracker/whitelist.txt\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // Root is told why the same path does not lead there.
    let (code, _, err) = run(&["-n", "-f", path]);
    let end = "looked for inside -d/--root '/etc/opentracker'\n";
    assert!(code == Some(0) || err.ends_with(end), "{err}");
}

fn source(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_example_has_the_defaults() {
    let text = source("contrib/announced.conf");
    assert_eq!(checked_file("example", &text), [""; 0]);
    // The lines that are switched off in it are valid, too.
    let is_off = |line: &&str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        rest.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let lines = text.lines().filter(is_off).map(|line| &line[1..]);
    // The lines of a cluster require each other.
    let (cluster, mut lines): (Vec<&str>, Vec<&str>) =
        lines.partition(|line| line.starts_with("cluster-"));
    assert!(lines.len() >= 8 && cluster.len() >= 3, "{lines:?}");
    let cluster = cluster.join("\n");
    lines.push(&cluster);
    for line in lines {
        let conf = Conf::new("example-line", line);
        // A directory may be missing here, but nothing is wrong with the line.
        let (code, _, err) = run(&["-n", "-f", conf.path()]);
        assert_ne!(code, Some(2), "{line}: {err}");
    }
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let conf = Conf::new("unit", "");
    let unit = conf.0.with_file_name("announced.service");
    let text =
        source("contrib/announced.service").replace("/usr/local/sbin/announced", "/bin/true");
    fs::write(&unit, text).expect("can be written");
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&unit).output();
    let _ = fs::remove_file(&unit);
    match output {
        Ok(output) => {
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && err.is_empty(), "{err}");
        }
        Err(error) => skip(&format!("systemd-analyze: {error}")),
    }
}

#[test]
fn the_rc_scripts_are_scripts() {
    for name in ["announced.freebsd", "announced.openbsd"] {
        let path = format!("{}/contrib/{name}", env!("CARGO_MANIFEST_DIR"));
        let status = Command::new("sh").args(["-n", &path]).status();
        assert!(status.is_ok_and(|status| status.success()), "{path}");
    }
}

/// What rc.subr(8) of FreeBSD and rc.d(8) of OpenBSD do with the scripts' variables and functions, as far as
/// these go; what would be started is printed.
const FREEBSD_SUBR: &str = r#"
load_rc_config() { announced_flags="-j 1"; }
run_rc_command() {
    test -r "$required_files" || exit 1
    case $1 in
    start) $start_precmd && echo $command $announced_flags $command_args ;;
    configtest) $configtest_cmd ;;
    esac
}
"#;
const OPENBSD_SUBR: &str = r#"
rc_cmd() {
    case $1 in
    start) rc_pre && echo $daemon $daemon_flags ;;
    configtest) rc_configtest ;;
    esac
}
"#;

#[test]
fn the_rc_scripts_start_the_daemon_and_refuse_a_bad_configuration() {
    let conf = Conf::new("rc", "listen.udp 127.0.0.1:0\n");
    let directory = common::Directory::new("rc");
    let path = conf.0.to_str().expect("is UTF-8");
    let program = common::program();
    let scripts = [
        (
            [
                "announced.freebsd",
                "/etc/rc.subr",
                "/usr/local/etc/announced.conf",
            ],
            FREEBSD_SUBR,
            format!("{program} -j 1 --daemon --pidfile /var/run/announced.pid -f {path}\n"),
        ),
        (
            [
                "announced.openbsd",
                "/etc/rc.d/rc.subr",
                "/etc/announced.conf",
            ],
            OPENBSD_SUBR,
            format!("{program} --daemon -f {path}\n"),
        ),
    ];
    for ([name, subr, config], stub, started) in scripts {
        let stub = directory.write("rc.subr", stub);
        let text = source(&format!("contrib/{name}"))
            .replace(subr, &stub)
            .replace("/usr/local/sbin/announced", &program)
            .replace(config, path);
        let script = directory.write(name, text);
        let run = |action: &str| {
            let output = Command::new("sh").arg(&script).arg(action).output();
            let output = output.expect("there is a shell");
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stdout).into_owned(),
            )
        };
        fs::write(&conf.0, "listen.udp 127.0.0.1:0\n").expect("can be written");
        assert_eq!(run("start"), (true, started), "{name}");
        assert_eq!(run("configtest"), (true, String::new()), "{name}");
        fs::write(&conf.0, "listen.udp nowhere\n").expect("can be written");
        assert_eq!(run("start"), (false, String::new()), "{name}");
        assert_eq!(run("configtest"), (false, String::new()), "{name}");
    }
}
