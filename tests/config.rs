//! Configuration files from outside: opentracker's, announced's, and invalid ones.

mod common;

use announced::options::{self, FLAGS};
use announced::sys::cores;
use common::{Daemon, Directory, is_root, run, skip, udp};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file in a directory of its own.
struct Conf(Directory);

impl Conf {
    fn new(text: impl AsRef<[u8]>) -> Conf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = Directory::new(&format!("conf-{number}"));
        directory.write("announced.conf", text);
        Conf(directory)
    }

    fn path(&self) -> String {
        self.0.file("announced.conf")
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
fn checked_file(text: &str) -> Vec<String> {
    let conf = Conf::new(text);
    checked(&["-f", &conf.path()])
}

/// Exit status and error of a file, whose path is replaced by `FILE`.
fn refused(text: impl AsRef<[u8]>) -> (Option<i32>, String) {
    let conf = Conf::new(text);
    let (code, out, err) = run(&["-i", "127.0.0.1", "-P", "0", "-f", &conf.path()]);
    assert_eq!(out, "");
    (code, err.replace(&conf.path(), "FILE"))
}

#[test]
fn keywords_and_flags_are_equivalent() {
    let live = "livesync.cluster.listen 10.0.0.1\nlivesync.cluster.node_ip 10.0.0.2";
    #[rustfmt::skip] // A table reads best a line each.
    let pairs = [
        ("", ""),
        ("interval 60", "--interval 60"),
        ("\tinterval \t 60\t\r\n", "--interval 60"),
        ("# a\n\n  # b\n \n#\nsyslog # c\n", "--syslog"),
        ("\u{feff}interval 60", "--interval 60"),
        ("root /", "-d /"),
        ("address ::1\ntcp-port 80\nudp-port 81", "-i ::1 -p 80 -P 81"),
        ("address 192.0.2.1", "-i 192.0.2.1"),
        ("log-completed\ndaemon", "--daemon --log-completed"),
        // opentracker's keywords.
        ("listen.tcp 192.0.2.1:80", "-i 192.0.2.1 -p 80"),
        ("listen.udp [2001:db8::1]:8", "-i 2001:db8::1 -P 8"),
        ("listen.tcp_udp 0.0.0.0 # all", "-i 0.0.0.0 -p 6969 -P 6969"),
        ("listen.tcp_udp 10.0.0.5:6969\nlisten.tcp ::1", "-i 10.0.0.5 -p 6969 -P 6969 -i ::1 -p 6969"),
        ("listen.tcp ::1\nlisten.udp 7", "-P 7 -p [::1]"),
        ("listen.tcp ::", "-i :: -p 6969"),
        ("access.stats 10.1.1.23\naccess.stats 10.2.0.0/16", "-A10.1.1.23 -A10.2.0.0/16"),
        ("access.stats_path stat-s", "--stats-path /stat-s"),
        ("access.proxy 2400:cb00::/32", "--proxy 2400:cb00::/32"),
        (live, "-s 10.0.0.1:9696 --sync-node 10.0.0.2"),
        ("tracker.rootdir /", "-d /"),
        ("tracker.user    nobody", "-u nobody"),
        ("tracker.redirect_url https://your.tracker.local/", "-r https://your.tracker.local/"),
    ];
    for (text, flags) in pairs {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert_eq!(checked_file(text), checked(&flags), "{text:?}");
    }
    assert_eq!(checked_file("verbose\nverbose"), ["verbose", "verbose"]);
    let with_a_space = checked_file("pidfile /run/a b");
    assert_eq!(with_a_space, checked(&["--pidfile", "/run/a b"]));
}

#[test]
fn lists_and_their_fifos_have_opentracker_s_names_too() {
    let list = Conf::new("aa".repeat(20));
    let list = &list.path();
    let text = format!("access.whitelist {list}");
    assert_eq!(checked_file(&text), checked(&["-w", list]));
    let (add, remove) = (format!("{list}.add"), format!("{list}.remove"));
    let text =
        format!("access.blacklist {list}\naccess.fifo_add {add}\naccess.fifo_delete {remove}");
    let flags = ["-b", list, "--list-add", &add, "--list-remove", &remove];
    assert_eq!(checked_file(&text), checked(&flags));
    let both = format!("access.blacklist {list}\naccess.whitelist {list}");
    assert_eq!(refused(both).0, Some(2));
}

#[test]
fn the_command_line_overrides_files_and_lists_add_up() {
    let text = "interval 60\nlisten.udp 127.0.0.1:7\nredirect http://a/";
    let first = Conf::new(text);
    let second = Conf::new("interval 61\nlisten.udp 127.0.0.1:8\n");
    let (first, second) = (&first.path(), &second.path());
    let flags = format!("-i ::1 -P9 --interval=62 -f {first} --config {second}");
    let lines = checked(&flags.split(' ').collect::<Vec<_>>());
    let expected = [
        "udp-port 127.0.0.1:7",
        "udp-port 127.0.0.1:8",
        "udp-port [::1]:9",
        "redirect http://a/",
        "interval 62",
    ];
    assert_eq!(lines, expected);
    // A file overrides the files before it.
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

/// The flags that are no keywords.
const COMMAND_LINE: [&str; 6] = ["check", "config", "health", "help", "make-key", "version"];

#[test]
fn printed_options_can_be_read_back() {
    let line = "-i ::1 -p 0 -P 7 -p unix:/run/x -i 192.0.2.1 -p 80 -i :: -P 9 -u 33:44 -d /r -r http://x/ -A \
                10.1.0.0/8 -A ::7 --public-stats --stats-path /s -w l --list-add a --list-remove b \
                --refusal-interval 60 --refuse-udp empty --map 10.0.0.0/8=192.0.2.1 --trust-ip ::3 \
                --full-scrape open --interval 900 --interval-max 901 --target-rate 5 --peer-timeout 1400 \
                --numwant-max 7 --decoys 9 --memory 512M --max-peers 10 --max-torrents 11 --max-per-host 9 \
                --max-connections 12 --receive-buffer 65K -j 2 --state s --state-interval 0 -l dump \
                --cluster-listen 192.0.2.1:1 --cluster-listen [::1]:2 --cluster-peer a.example:3 \
                --cluster-peer [2001:db8::1]:4 --cluster-key k -s 192.0.2.1:9 --sync-node 10.0.0.0/9 \
                --sync-mapped --proxy ::2 --proxy-header X-Real-IP --proxy-protocol --admin-listen 127.0.0.1:1 \
                --admin-listen unix:/run/y -vv --syslog --daemon --pidfile p --no-sandbox --log-completed";
    let pin = if cores::IS_SUPPORTED {
        " --pin-threads"
    } else {
        ""
    };
    let line = format!("{line}{pin}");
    let mut given = parsed(&line.split_whitespace().collect::<Vec<_>>());
    for is_full in [false, true] {
        let text = String::from_utf8(given.to_file(is_full)).expect("is UTF-8");
        for name in FLAGS.iter().map(|flag| flag.long()) {
            let has_line = text
                .lines()
                .any(|line| line.split(' ').next() == Some(name));
            // Ports are printed with their addresses, and one list excludes the other.
            let is_left_out =
                COMMAND_LINE.contains(&name) || ["address", "blacklist"].contains(&name);
            assert_eq!(has_line, !is_left_out, "{name}: {text}");
        }
        let conf = Conf::new(&text);
        assert_eq!(parsed(&["-f", &conf.path()]), given, "{text}");
    }
    // The same for the defaults.
    let text = parsed(&[]).to_file(true);
    let conf = Conf::new(text);
    assert_eq!(parsed(&["-f", &conf.path()]), parsed(&[]));
}

#[test]
fn errors_begin_with_file_and_line() {
    let port = "a number from 0 to 65535, IP:PORT or [IPv6]:PORT, not link-local";
    let node = "an IPv4 address of this host and a port, such as 192.0.2.1:9696, or a port (an -i before it must be \
                IPv4)";
    #[rustfmt::skip] // A table reads best a line each.
    let invalid = [
        ("interval", "0", "a number from 1 to 86400"),
        ("tracker.user", "root", "a user other than root, by name or as UID:GID"),
        ("listen.udp", "192.0.2.1:66666", port),
        ("listen.udp", "example.org:80", port),
        ("memory", "1023K", "a size from 1M to 1024G"),
        ("memory", "1025G", "a size from 1M to 1024G"),
        ("receive-buffer", "65535", "a size from 64K to 512M"),
        ("receive-buffer", "513M", "a size from 64K to 512M"),
        ("listen.udp.workers", "65", "a number from 0 to 64"),
        ("access.proxy", "10.0.0.0/33", "an address or a network, such as 192.0.2.1 or 2001:db8::/32"),
        ("tracker.redirect_url", "ftp://x", "a URL, http:// or https://, in printable ASCII"),
        ("livesync.cluster.listen", "[::1]:9696", node),
    ];
    for (keyword, value, expected) in invalid {
        let error = format!("FILE:1: {keyword}: invalid value '{value}': expected {expected}");
        assert_is_refused(format!("{keyword} {value}"), &error);
    }
    let list = "announced.conf(5) lists all keywords";
    for (text, keyword, hint) in [
        ("nonsense 1", "nonsense", list),
        ("nonsense=1", "nonsense=1", list),
        ("whitelst f", "whitelst", "did you mean 'whitelist'?"),
        ("listen.tcpx 1", "listen.tcpx", "did you mean 'listen.tcp'?"),
    ] {
        let unknown = format!("FILE:1: unknown keyword '{keyword}'; {hint}");
        assert_is_refused(text, &unknown);
    }
    for text in [
        "interval=60",
        "interval= 60",
        "interval =60",
        "interval = 60",
    ] {
        let error = match text {
            // A file may begin so.
            "interval =60" => "interval: invalid value '=60': expected a number from 1 to 86400",
            _ => "unexpected '='; write 'interval 60'",
        };
        assert_is_refused(format!("\n#\n{text}"), &format!("FILE:3: {error}"));
    }
    let sync = "batchsync.cluster.admin_ip";
    let dropped = "sync over HTTP is not supported; opentracker has dropped it too";
    assert_is_refused(
        format!("{sync} 10.1.1.1"),
        &format!("FILE:1: {sync}: {dropped}"),
    );
    #[rustfmt::skip] // A table reads best a line each.
    let others: [(&[u8], &str); 8] = [
        (b"interval", "FILE:1: interval requires a value: SECONDS"),
        (b"tracker.rootdir", "FILE:1: tracker.rootdir requires a value: DIR"),
        (b"verbose yes", "FILE:1: verbose: unexpected value 'yes'"),
        (b"livesync.cluster.node_ip 192.168.0.4", "FILE:1: livesync.cluster.node_ip requires livesync.cluster.listen"),
        (b"tcp-port 80\naddress ::1\n", "FILE:2: address '::1' requires a tcp-port or udp-port after it"),
        (b"interval 60\x07", "FILE:1: control characters: not a configuration file"),
        (b"\x7fELF\x02\x01", "FILE:1: control characters: not a configuration file"),
        (b"\xff\xfe 1", "FILE:1: the keyword is not UTF-8"),
    ];
    for (text, error) in others {
        assert_is_refused(text, error);
    }
}

#[test]
fn errors_of_two_options_keep_line_and_keyword() {
    #[rustfmt::skip] // A table reads best a line each.
    let invalid = [
        ("sync-node 10.0.0.1", "FILE:1: sync-node requires sync-multicast"),
        ("access.whitelist a\nblacklist b", "FILE:2: blacklist conflicts with access.whitelist"),
        ("list-add f\nwhitelist w\naccess.fifo_delete f",
            "FILE:3: access.fifo_delete and list-add require different FIFOs"),
        ("\ninterval 10\npeer-timeout 14",
            "FILE:3: peer-timeout: invalid value '14': expected at least 15, 1.5 times the interval of 10"),
        ("proxy-protocol", "FILE:1: proxy-protocol requires proxy or tcp-port unix:/PATH"),
        ("cluster-key k\ncluster-listen 192.0.2.1:1\ncluster-peer [::1]:1\ncluster-peer 192.0.2.2:1",
            "FILE:3: cluster-peer '[::1]:1' requires a cluster-listen of the same family"),
    ];
    for (text, error) in invalid {
        assert_is_refused(text, error);
    }
    let conf = Conf::new("access.blacklist b\ninterval 10");
    let path = conf.path();
    for (flags, error) in [
        (["-w", "w"], format!("{path}:1: access.blacklist conflicts with -w/--whitelist")),
        (
            ["--peer-timeout", "14"],
            "--peer-timeout: invalid value '14': expected at least 15, 1.5 times the interval of 10".into(),
        ),
    ] {
        let (code, _, err) = run(&[&["-n", "-f", &path], &flags[..]].concat());
        assert_eq!((code, err), (Some(2), format!("announced: {error}\n")));
    }
}

#[test]
fn host_bits_of_a_network_are_warned_of() {
    let conf = Conf::new("#\naccess.stats 192.0.2.1/24\nadmin 10.0.0.0/8\nadmin ::7");
    let map = "--map=10.0.0.1/8=192.0.2.7";
    let (code, out, err) = run(&["-n", "-f", &conf.path(), map, "--proxy", "10.0.0.1/8"]);
    let expected = "admin 192.0.2.0/24\nadmin 10.0.0.0/8\nadmin ::7/128\n\
        map 10.0.0.0/8=192.0.2.7\nproxy 10.0.0.0/8\n";
    assert_eq!((code, &*out), (Some(0), expected));
    let lines = [
        &format!(
            "{}:2: access.stats: '192.0.2.1/24' has host bits: taken as 192.0.2.0/24",
            conf.path()
        ),
        "--map: '10.0.0.1/8' has host bits: taken as 10.0.0.0/8",
        "--proxy: '10.0.0.1/8' has host bits: taken as 10.0.0.0/8",
        "configuration is valid",
    ];
    assert_eq!(
        err,
        lines.map(|line| format!("announced: {line}\n")).concat()
    );
}

#[test]
fn errors_of_files_show_before_any_socket_is_open() {
    for (flags, error) in [
        ("-w /nowhere/a", "-w/--whitelist '/nowhere/a'"),
        ("-w /dev/null/a", "-w/--whitelist '/dev/null/a'"),
        ("--state /nowhere/a", "--state '/nowhere/a'"),
        (
            "--cluster-listen 127.0.0.1:0 --cluster-key /nowhere/a",
            "--cluster-key '/nowhere/a'",
        ),
        ("-w /nowhere/a -d /", "-w/--whitelist '/nowhere/a'"),
        ("-u no-such-user", "-u/--user 'no-such-user'"),
    ] {
        if flags.starts_with("-u") && !is_root()
            || !cfg!(feature = "cluster") && flags.contains("key")
        {
            continue;
        }
        let (code, _, err) = run(&format!("-i 127.0.0.1 -p 0 {flags}")
            .split(' ')
            .collect::<Vec<_>>());
        let start = format!("announced: {error}: ");
        assert!(
            code == Some(1) && err.starts_with(&start) && err.lines().count() == 1,
            "{err}"
        );
    }
}

fn assert_is_refused(text: impl AsRef<[u8]>, error: &str) {
    let expected = (Some(2), format!("announced: {error}\n"));
    assert_eq!(refused(text), expected);
}

#[test]
fn every_long_flag_is_a_keyword() {
    for flag in FLAGS {
        let (name, value) = (flag.long(), flag.value());
        let (text, message) = match value {
            _ if COMMAND_LINE.contains(&name) => {
                ("", " is allowed only on the command line".into())
            }
            "" => (" x", ": unexpected value 'x'".into()),
            _ => ("", format!(" requires a value: {value}")),
        };
        let text = format!("{name}{text}");
        assert_is_refused(&text, &format!("FILE:1: {name}{message}"));
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let conf = Conf::new("");
    for (path, reason) in [
        (&*conf.0.file("missing"), "No such file"),
        (conf.0.path(), "Is a directory"),
        ("", "No such file"),
        ("/dev/zero", "too large"),
    ] {
        let (code, out, err) = run(&["-n", "-f", path]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{path}");
        let start = format!("announced: -f/--config '{path}': ");
        assert!(err.starts_with(&start) && err.contains(reason), "{err}");
    }
    // A sparse file of two gigabytes.
    let zeros = fs::File::create(conf.path()).and_then(|file| file.set_len(2 << 30));
    assert!(zeros.is_ok());
    let (code, _, err) = run(&["-f", &conf.path()]);
    assert!(code == Some(2) && err.contains("too large"), "{err}");
    let long = format!("interval 60\nredirect http://{}\n", "x".repeat(5000));
    assert_is_refused(long, "FILE:2: the line is longer than 4096 bytes");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    if !is_root() {
        return;
    }
    let conf = Conf::new("interval 60");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(conf.path(), mode).expect("is ours");
    // Root may read every file.
    let mut command = Command::new(common::program());
    command.args(["-n", "-f", &conf.path()]).uid(65534);
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
fn a_daemon_starts_from_a_configuration_file() {
    let conf = Conf::new(
        "listen.udp.workers 1\nlisten.tcp_udp 127.0.0.1:0\nlisten.udp [::1]:0\nnumwant-max 1",
    );
    let daemon = Daemon::start_with(&["-f", &conf.path()]);
    udp::Client::new(daemon.udp4()).announce(&udp::Announce::default());
    udp::Client::new(daemon.udp6()).announce(&udp::Announce::default());
    drop(common::http::Client::new(daemon.tcp4()));
}

/// In any order, and in any of several files.
#[test]
fn threads_override_opentracker_s_workers() {
    let threads = |texts: &[&str], flags: &[&str]| {
        let confs: Vec<Conf> = texts.iter().map(Conf::new).collect();
        let files: Vec<String> = confs.iter().map(Conf::path).collect();
        let files = files.iter().flat_map(|file| ["-f", file]);
        parsed(&files.chain(flags.iter().copied()).collect::<Vec<_>>()).threads()
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
fn debian_s_file_for_opentracker_is_valid() {
    let path = "/etc/opentracker/opentracker.conf";
    if !Path::new(path).exists() {
        return skip("Debian's opentracker is not installed");
    }
    // As Debian starts it: as this user, for which the root directory is only the working directory.
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
    // For root the error names the root directory.
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
    assert_eq!(checked_file(&text), [""; 0]);
    // The lines that are commented out are valid, too.
    let is_off = |line: &&str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        rest.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let lines = text.lines().filter(is_off).map(|line| &line[1..]);
    // The lines of a cluster require each other, and so do those of the interval.
    let groups = ["cluster-", "interval-max", "target-rate"];
    let (grouped, mut lines): (Vec<&str>, Vec<&str>) =
        lines.partition(|line| groups.iter().any(|group| line.starts_with(group)));
    assert!(lines.len() >= 8 && grouped.len() >= 5, "{lines:?}");
    let grouped = grouped.join("\n");
    lines.push(&grouped);
    for line in lines {
        let conf = Conf::new(line);
        // A directory may be missing here, but the line is valid.
        let (code, _, err) = run(&["-n", "-f", &conf.path()]);
        assert_ne!(code, Some(2), "{line}: {err}");
    }
}

/// Stand-ins for rc.subr(8) of FreeBSD and NetBSD, rc.d(8) of OpenBSD, and procd of OpenWrt, as far as the scripts use
/// them. They print the command instead of starting it, or the signal. OpenWrt's configuration is in environment
/// variables.
const FREEBSD_SUBR: &str = r#"
load_rc_config() { announced_flags="-j 1"; }
run_rc_command() {
    test -r "$required_files" || exit 1
    case $1 in
    start) $start_precmd && echo $command $announced_flags $command_args ;;
    reload) $reload_precmd && echo HUP ;;
    configtest) $configtest_cmd ;;
    esac
}
"#;
const OPENBSD_SUBR: &str = r#"
rc_cmd() {
    case $1 in
    start) rc_pre && echo $daemon $daemon_flags ;;
    reload) rc_configtest && echo HUP ;;
    configtest) rc_configtest ;;
    esac
}
"#;
const OPENWRT_SUBR: &str = r#"
config_load() { :; }
config_get_bool() { eval $1=$ENABLED; }
config_get() { case $1 in port) port=${PORT:-$4} ;; *) eval $1=$4 ;; esac; }
config_list_foreach() { cat lines | while read line; do $3 "$line"; done; }
network_get_ipaddr() { eval $1=$ADDRESS; test -n "$ADDRESS"; }
logger() { echo "$6" >&2; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { case $1 in command) shift; echo "$@" ;; esac; }
procd_send_signal() { echo HUP; }
procd_running() { test -n "$RUNS"; }
start() { echo start; }
stop() { echo stop; }
restart() { echo restart; }
"#;

#[test]
fn the_rc_scripts_start_the_daemon_and_refuse_a_bad_configuration() {
    let directory = Directory::new("rc");
    let conf = directory.file("announced.conf");
    let program = common::program();
    let flags = format!("{program} -j 1 --daemon --pidfile /var/run/announced.pid -f {conf}\n");
    let scripts = [
        (
            "freebsd/files/announced.in /etc/rc.subr %%PREFIX%%/etc/announced/announced.conf",
            FREEBSD_SUBR,
            flags.clone(),
        ),
        (
            "netbsd/files/announced.sh /etc/rc.subr @PKG_SYSCONFDIR@/announced.conf",
            FREEBSD_SUBR,
            flags,
        ),
        (
            "openbsd/pkg/announced.rc /etc/rc.d/rc.subr ${SYSCONFDIR}/announced/announced.conf",
            OPENBSD_SUBR,
            format!("{program} --daemon -u nobody -f {conf}\n"),
        ),
    ];
    for (names, stub, started) in scripts {
        let names: Vec<&str> = names.split(' ').collect();
        let stub = directory.write("rc.subr", stub);
        let mut text = source(&format!("contrib/{}", names[0]))
            .replace(names[1], &stub)
            .replace(names[2], &conf)
            .replace("@VARBASE@", "/var")
            .replace("_announced", "nobody")
            .replace("nobody_check", "check");
        for prefix in ["%%PREFIX%%", "@PREFIX@", "${TRUEPREFIX}"] {
            text = text.replace(&format!("{prefix}/sbin/announced"), &program);
        }
        let script = directory.write("script", text);
        let run = |action: &str| {
            let output = Command::new("sh").arg(&script).arg(action).output();
            let output = output.expect("there is a shell");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), text)
        };
        directory.write("announced.conf", "listen.udp 127.0.0.1:0\n");
        assert_eq!(run("start"), (true, started), "{names:?}");
        assert_eq!(run("reload"), (true, "HUP\n".into()), "{names:?}");
        assert_eq!(run("configtest"), (true, String::new()), "{names:?}");
        directory.write("announced.conf", "listen.udp nowhere\n");
        assert_eq!(run("start"), (false, String::new()), "{names:?}");
        assert_eq!(run("reload"), (false, String::new()), "{names:?}");
        assert_eq!(run("configtest"), (false, String::new()), "{names:?}");
    }
}

/// The init script of OpenWrt with its stand-ins.
struct Openwrt {
    directory: Directory,
    script: String,
    conf: String,
}

impl Openwrt {
    fn new(name: &str) -> Self {
        let directory = Directory::new(name);
        let conf = directory.file("announced.conf");
        let text = source("contrib/openwrt/files/announced.init")
            .replace(". /lib/functions/network.sh", OPENWRT_SUBR)
            .replace("/usr/sbin/announced", &common::program())
            .replace("/var/run/announced.conf", &conf)
            .replace("-u _announced", "-u nobody")
            .replace("cat lines", &format!("cat {}", directory.file("lines")));
        let script = directory.write("script", text + "\n\"$1\"\n");
        directory.write("lines", "max-peers 20000\nmax-connections 200\n");
        Self {
            directory,
            script,
            conf,
        }
    }

    /// Runs a function. Returns its output, or the last line of its errors if it fails.
    fn run(&self, function: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let mut command = Command::new("sh");
        command.args([&self.script, function]);
        command.envs([("ENABLED", "1"), ("ADDRESS", "127.0.0.1")]);
        command.envs([("PORT", ""), ("RUNS", "1")]);
        let output = command.envs(environment.iter().copied()).output();
        let output = output.expect("there is a shell");
        let text = String::from_utf8(output.stdout).expect("it is text");
        let error = String::from_utf8(output.stderr).expect("it is text");
        match output.status.code() {
            Some(0) => Ok(text),
            Some(1) if text.is_empty() => Err(error.lines().last().unwrap_or("").to_string()),
            code => panic!("{function}: {code:?}: {text} {error}"),
        }
    }

    fn written(&self) -> String {
        fs::read_to_string(&self.conf).expect("it was written")
    }
}

#[test]
fn the_init_script_of_openwrt_writes_the_configuration_and_refuses_a_bad_one() {
    let openwrt = Openwrt::new("openwrt");
    let started = format!("{} -u nobody -f {}\n", common::program(), openwrt.conf);
    assert_eq!(openwrt.run("start_service", &[]), Ok(started));
    let written = "listen.tcp_udp 127.0.0.1:6969\nmax-peers 20000\nmax-connections 200\n";
    assert_eq!(openwrt.written(), written);

    let off = [("ENABLED", "0")];
    assert_eq!(openwrt.run("start_service", &off), Ok("".into()));
    assert_eq!(openwrt.run("reload_service", &off), Ok("stop\n".into()));

    openwrt.directory.write("lines", "max-peers many\n");
    for function in ["start_service", "reload_service"] {
        let error = "network 'lan' has no IPv4 address: not started";
        let without_address = openwrt.run(function, &[("ADDRESS", "")]);
        assert_eq!(without_address, Err(error.into()), "{function}");
        let error = openwrt.run(function, &[]).expect_err("it is invalid");
        assert!(error.contains("max-peers"), "{function}: {error}");
    }
    assert_eq!(openwrt.written(), written);
}

#[test]
fn the_init_script_of_openwrt_restarts_for_another_address_alone() {
    let openwrt = Openwrt::new("openwrt-reload");
    let reload = |environment: &[_]| openwrt.run("reload_service", environment);
    assert_eq!(reload(&[("RUNS", "")]), Ok("start\n".into()));
    openwrt.run("start_service", &[]).expect("it starts");
    openwrt.directory.write("lines", "max-peers 10000\n");
    assert_eq!(reload(&[]), Ok("HUP\n".into()));
    let written = "listen.tcp_udp 127.0.0.1:6969\nmax-peers 10000\n";
    assert_eq!(openwrt.written(), written);

    let port = [("PORT", "6970")];
    assert_eq!(reload(&port), Ok("restart\n".into()));
    assert_eq!(reload(&port), Ok("HUP\n".into()));
    let address = [("PORT", "6970"), ("ADDRESS", "127.0.0.2")];
    assert_eq!(reload(&address), Ok("restart\n".into()));
    assert_eq!(reload(&address), Ok("HUP\n".into()));
}
