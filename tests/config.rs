//! Configuration files from outside: opentracker's, our own, and whatever else may be given as one.

mod common;

use announced::config::{KEYWORDS, Meaning};
use announced::options::{self, FLAGS};
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

/// What `-n` says of these flags.
fn checked(flags: &[&str]) -> Vec<String> {
    let flags: Vec<&str> = ["-n"].into_iter().chain(flags.iter().copied()).collect();
    let (code, out, err) = run(&flags);
    assert_eq!(code, Some(0), "{flags:?}: {err}");
    out.lines().map(String::from).collect()
}

/// What `-n` says of a file, but for that line which names it.
fn checked_file(name: &str, text: &str) -> Vec<String> {
    let conf = Conf::new(name, text);
    let mut lines = checked(&["-f", conf.path()]);
    let first = format!("configured by {}", conf.path());
    assert_eq!(lines.remove(0), first, "{text:?}");
    lines
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
        ("# a\n\n  # b\n \n#\nverbose # c\nverbose", &["-vv"]),
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
        ("listen.udp 7", &["-P", "7"]),
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
        format!("configured by {first}"),
        format!("configured by {second}"),
        "listen on udp 127.0.0.1:7".into(),
        "listen on udp 127.0.0.1:8".into(),
        "listen on udp [::1]:9".into(),
    ];
    assert_eq!(lines[..5], expected);
    assert!(lines.contains(&"redirect / to http://a/".into()));
    assert!(
        lines.contains(&"ask clients to announce every 62 seconds, forget peers after 93".into())
    );
    // Of the files, the last has it.
    let lines = checked(&["-f", first, "-f", second]);
    assert!(
        lines.contains(&"ask clients to announce every 61 seconds, forget peers after 92".into())
    );
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    for (text, message) in [
        (
            "nonsense 1",
            "FILE:1: there is no keyword 'nonsense'; announced.conf(5) lists them all",
        ),
        (
            "\n#\ninterval=60",
            "FILE:3: there is no keyword 'interval=60'; announced.conf(5) lists them all",
        ),
        (
            "interval 0",
            "FILE:1: interval '0': wanted is a number from 1 to 86400",
        ),
        ("interval", "FILE:1: interval wants a value: SECONDS"),
        ("verbose yes", "FILE:1: verbose 'yes': wanted is no value"),
        (
            "config other.conf",
            "FILE:1: config is for the command line alone",
        ),
        ("help", "FILE:1: help is for the command line alone"),
        (
            "tracker.user root",
            "FILE:1: tracker.user 'root': wanted is a user's name, or UID:GID in numbers, other than \
             root",
        ),
        (
            "tracker.rootdir",
            "FILE:1: tracker.rootdir wants a value: DIR",
        ),
        (
            "listen.udp 192.0.2.1:66666",
            "FILE:1: listen.udp '66666': wanted is a number from 0 to 65535",
        ),
        (
            "listen.udp example.org:80",
            "FILE:1: listen.udp 'example.org': wanted is an IPv4 or IPv6 address, such as 192.0.2.1 \
             or ::",
        ),
        (
            "listen.tcp [::1]80",
            "FILE:1: listen.tcp '[::1]80': wanted is an IP, IP:PORT, [IPv6]:PORT or PORT",
        ),
        (
            "access.proxy 10.0.0.0/33",
            "FILE:1: access.proxy '10.0.0.0/33': wanted is an address or a network, such as \
             192.0.2.1 or 2001:db8::/32",
        ),
        (
            "tracker.redirect_url ftp://x",
            "FILE:1: tracker.redirect_url 'ftp://x': wanted is a URL, http:// or https://, in \
             printable ASCII",
        ),
        (
            "livesync.cluster.listen [::1]:9696",
            "FILE:1: livesync.cluster.listen '[::1]:9696': wanted is an IPv4 address of this host and a \
             port, such as 192.0.2.1:9696, or a port",
        ),
        (
            "livesync.cluster.node_ip 192.168.0.4",
            "--sync-node '192.168.0.4/32': wanted is a -s/--sync-multicast too",
        ),
        (
            "batchsync.cluster.admin_ip 10.1.1.1",
            "FILE:1: batchsync.cluster.admin_ip: there is no sync over HTTP, and opentracker has none \
             any more",
        ),
        (
            "tcp-port 80\naddress ::1\n",
            "FILE: -i/--address '::1': wanted is a -p or -P after it",
        ),
        (
            "interval 60\x07",
            "FILE:1: control characters: this is no configuration",
        ),
    ] {
        let expected = (Some(2), format!("announced: {message}\n"));
        assert_eq!(refused("wrong", text), expected, "{text:?}");
    }
}

#[test]
fn every_long_flag_is_a_keyword() {
    for flag in FLAGS {
        let (name, value) = (flag.long, flag.value);
        let (text, message) = match (name, value) {
            ("config" | "health" | "help" | "make-key" | "version", _) => (
                name.to_string(),
                format!("{name} is for the command line alone"),
            ),
            (_, "") => (
                format!("{name} x"),
                format!("{name} 'x': wanted is no value"),
            ),
            _ => (name.to_string(), format!("{name} wants a value: {value}")),
        };
        let expected = (Some(2), format!("announced: FILE:1: {message}\n"));
        assert_eq!(refused("flags", text), expected);
    }
}

#[test]
fn what_is_no_configuration_is_refused_soon() {
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

/// Whichever is first, and whichever file of several it is in.
#[test]
fn threads_outdo_those_of_opentracker() {
    let threads = |texts: &[&str], flags: &[&str]| {
        let name = |n: usize| format!("threads-{n}");
        let confs = texts.iter().enumerate();
        let confs: Vec<Conf> = confs.map(|(n, text)| Conf::new(&name(n), text)).collect();
        let files = confs.iter().flat_map(|conf| ["-f", conf.path()]);
        let arguments = files.chain(flags.iter().copied()).map(OsString::from);
        match options::parse(arguments) {
            Ok(options::Command::Serve(options)) => options.threads,
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
    assert_eq!(
        refused("threads", "listen.udp.workers 65"),
        (
            Some(2),
            "announced: FILE:1: listen.udp.workers '65': wanted is a number from 0 to 64\n".into()
        )
    );
    assert_eq!(
        refused("processes", "processes 2"),
        (
            Some(2),
            "announced: FILE:1: processes: use threads\n".into()
        )
    );
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
        "configured by /etc/opentracker/opentracker.conf\n",
        "chroot to /etc/opentracker if started as root",
        "become user _opentracker",
        "/etc/opentracker/whitelist.txt",
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
fn the_example_says_what_holds_without_it() {
    let text = source("contrib/announced.conf");
    assert_eq!(checked_file("example", &text), checked(&["-u", "nobody"]));
    // What is switched off in it would do, too.
    let is_off = |line: &&str| {
        let rest = line.strip_prefix('#').unwrap_or_default();
        rest.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let lines = text.lines().filter(is_off).map(|line| &line[1..]);
    // The lines of a cluster want each other.
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
fn the_man_page_has_every_keyword_and_its_flag() {
    let man = source("man/announced.conf.5");
    let items: Vec<(&str, &str)> = man
        .split(".It Cm ")
        .skip(1)
        .map(|item| item.split_once([' ', '\n']).expect("more lines follow"))
        .collect();
    let names: Vec<&str> = items.iter().map(|(name, _)| *name).collect();
    let expected: Vec<&str> = KEYWORDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected);
    for ((name, meaning), (_, text)) in KEYWORDS.iter().zip(items) {
        let is_flag = |flag: &str| FLAGS.iter().any(|f| f.long == flag);
        match meaning {
            Meaning::Flag(flag) | Meaning::Path(flag) => {
                assert!(
                    is_flag(flag) && text.contains(&format!(".Cm {flag} ")),
                    "{name}"
                );
            }
            Meaning::Listen(flags) => assert!(flags.iter().all(|flag| is_flag(flag)), "{name}"),
            Meaning::Refused(_) => assert!(text.contains("An error: "), "{name}"),
        }
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
