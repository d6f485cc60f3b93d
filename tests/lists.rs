//! Whitelists and blacklists of info-hashes: loaded, reloaded, and changed through FIFOs.

// Some tests are for Linux only.
#![cfg_attr(not(target_os = "linux"), allow(unused_imports))]

mod common;

use common::bencode::Value;
use common::http::{self, get};
use common::udp::{self, Announce};
use common::{
    DEADLINE, Daemon, Directory, is_root, make_fifo, program, run, wait_for, wait_longer,
};
#[cfg(target_os = "linux")]
use common::{child_of, worker_of};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

type Hash = [u8; 20];

const A: Hash = [b'A'; 20];
const B: Hash = [b'B'; 20];
const C: Hash = [b'C'; 20];

const REFUSED: &str = "This torrent is not authorized on this tracker";

/// A directory of a test's own with a list, and the paths of two FIFOs in it.
struct Files {
    directory: Directory,
    list: String,
    add: String,
    remove: String,
}

impl Files {
    fn new(name: &str, hashes: &[Hash]) -> Files {
        let directory = Directory::new(name);
        Files {
            list: directory.write("list", list(hashes)),
            add: directory.file("add"),
            remove: directory.file("remove"),
            directory,
        }
    }

    fn write(&self, content: impl AsRef<[u8]>) {
        self.directory.write("list", content);
    }

    /// `-w` or `-b` with the list.
    fn start(&self, kind: &str) -> Daemon {
        Daemon::start(&[kind, &self.list])
    }

    fn start_with_fifos(&self, kind: &str) -> Daemon {
        let fifos = ["--list-add", &self.add, "--list-remove", &self.remove];
        Daemon::start(&[&[kind, &self.list], &fifos[..]].concat())
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A list of these, a line each.
fn list(hashes: &[Hash]) -> String {
    hashes.iter().map(|hash| hex(hash) + "\n").collect()
}

fn announce(daemon: &Daemon, hash: &Hash, more: &str) -> Value {
    let hash = String::from_utf8_lossy(hash);
    let target = format!("/announce?info_hash={hash}&port=6881{more}");
    get(daemon.tcp4(), &target).bencoded()
}

/// The failure reason of a refusal, its intervals, which are equal, and `retry in`.
fn refusal(reply: &Value) -> (String, i64, String) {
    let keys = ["failure reason", "interval", "min interval", "retry in"];
    assert_eq!(reply.keys(), keys);
    let interval = reply.integer("interval");
    assert_eq!(reply.integer("min interval"), interval);
    let retry = match reply.get("retry in") {
        Some(Value::Integer(minutes)) => minutes.to_string(),
        _ => String::from_utf8_lossy(reply.string("retry in")).into_owned(),
    };
    let reason = String::from_utf8_lossy(reply.string("failure reason"));
    (reason.into_owned(), interval, retry)
}

fn is_tracked(daemon: &Daemon, hash: &Hash) -> bool {
    announce(daemon, hash, "").get("failure reason").is_none()
}

fn tracked(daemon: &Daemon) -> Vec<Hash> {
    let mut all = vec![A, B, C];
    all.retain(|hash| is_tracked(daemon, hash));
    all
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let text = get(daemon.tcp4(), "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until the torrent is tracked, or is not.
fn wait_until(daemon: &Daemon, hash: Hash, tracked: bool) {
    wait_for("the change", || {
        (is_tracked(daemon, &hash) == tracked).then_some(())
    });
}

/// Over UDP, its connection id included.
fn udp_announce(client: &udp::Client, info_hash: Hash, event: u32) -> Vec<u8> {
    client.exchange(&client.announce_request(&Announce {
        info_hash,
        event,
        ..Announce::default()
    }))
}

/// Reloads, and waits for the line of the log with the outcome.
fn reload(daemon: &Daemon, outcome: &str) -> String {
    let is_outcome = |line: &&String| line.contains(": loaded: ") || line.contains(" failed: ");
    let count = || daemon.log().iter().filter(is_outcome).count();
    let before = count();
    daemon.signal("HUP");
    wait_for("the reload", || (count() > before).then_some(()));
    let line = daemon.log().iter().rfind(is_outcome).cloned();
    let line = line.expect("was just seen");
    assert!(line.contains(outcome), "{line}");
    line
}

fn write_to(fifo: &str, text: &str) {
    let fifo = fs::OpenOptions::new().write(true).open(fifo);
    let written = fifo.and_then(|mut fifo| fifo.write_all(text.as_bytes()));
    written.expect("is there and has room");
}

/// The last line of the log of a start that fails with status 1.
fn start_fails(flags: &[&str]) -> String {
    let listen = ["-i", "127.0.0.1", "-P", "0"];
    let flags: Vec<&str> = listen.iter().chain(flags).copied().collect();
    let (code, out, err) = run(&flags);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    err.lines().last().unwrap_or_default().to_string()
}

#[test]
fn a_whitelist_refuses_all_other_torrents() {
    let files = Files::new("white", &[]);
    files.write(format!("# torrents\n\n{} A\n", hex(&A).to_uppercase()));
    let daemon = files.start("-w");
    daemon.wait_for_line("announced: whitelist: loaded: 1 hash");

    assert!(is_tracked(&daemon, &A));
    for event in ["", "&event=started", "&event=completed", "&event=stopped"] {
        let reply = announce(&daemon, &B, event);
        assert_eq!(
            refusal(&reply),
            (REFUSED.to_string(), 1800, "30".into()),
            "{event}"
        );
    }
    let client = udp::Client::new(daemon.udp4());
    for event in 0..4 {
        let reply = udp_announce(&client, B, event);
        assert_eq!(reply[..4], 3_u32.to_be_bytes());
        assert_eq!(reply[4..8], udp::TRANSACTION.to_be_bytes());
        let message = String::from_utf8_lossy(&reply[8..]);
        assert_eq!(message, format!("{REFUSED}. Retry in 30 minutes."));
    }
    assert_eq!(udp_announce(&client, A, 0)[..4], 1_u32.to_be_bytes());

    // A scrape has zeros for it, over UDP and HTTP alike.
    let counts = client.scrape(&[B, A, C]);
    assert_eq!((counts[0], counts[2]), ([0; 3], [0; 3]));
    assert_eq!(counts[1][2], 1);
    let target = "/scrape?info_hash=BBBBBBBBBBBBBBBBBBBB&info_hash=AAAAAAAAAAAAAAAAAAAA";
    let reply = get(daemon.tcp4(), target).bencoded();
    let files = reply.get("files").expect("is there");
    assert_eq!(
        files.keys(),
        [A, B].map(|hash| String::from_utf8_lossy(&hash).into_owned())
    );
    let refused = files.get(&String::from_utf8_lossy(&B)).expect("is there");
    assert_eq!(refused.integer("incomplete"), 0);

    for protocol in ["http", "udp"] {
        let errors =
            format!("announced_errors_total{{protocol=\"{protocol}\",kind=\"unauthorized\"}}");
        assert_eq!(metric(&daemon, &errors), 4);
    }
    assert_eq!(metric(&daemon, "announced_torrents"), 1);
}

/// A byte order mark, BitTorrent v2, and magnet links of both: from a file and through FIFOs.
#[test]
fn lists_are_read_as_people_write_them() {
    let files = Files::new("people", &[]);
    let v2 = |hash: &Hash| hex(hash) + &"0".repeat(24);
    let base32 = "IFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKB";
    let magnet = format!("magnet:?xt=urn:btih:{base32}&dn=A+name&tr=udp%3A%2F%2Ft.example%3A80");
    let hybrid = format!("magnet:?xt=urn:btih:{}&xt=urn:btmh:1220{}", hex(&B), v2(&C));
    let text = format!("\u{feff}{}\r\n{}\r\n", hex(&A), v2(&B));
    files.write(&text);
    let daemon = files.start_with_fifos("-w");
    daemon.wait_for_line("announced: whitelist: loaded: 2 hashes");
    assert_eq!(daemon.count_lines("skipped"), 0);
    assert_eq!(tracked(&daemon), [A, B]);
    files.write(format!("\u{feff}# torrents\n{magnet}\n"));
    reload(&daemon, "loaded: 1 hash");
    assert_eq!(tracked(&daemon), [A]);
    for (fifo, line, expected) in [
        (&files.remove, magnet, vec![]),
        (&files.add, hybrid, vec![B, C]),
        (&files.remove, v2(&B), vec![C]),
    ] {
        write_to(fifo, &format!("{line}\n"));
        wait_for(&line, || (tracked(&daemon) == expected).then_some(()));
    }
}

#[test]
fn an_empty_whitelist_is_loaded_with_a_warning() {
    let warning = "announced: whitelist: empty: every torrent is refused";
    let files = Files::new("empty", &[]);
    files.write("\u{feff}# none yet\n\n");
    let daemon = files.start("-w");
    daemon.wait_for_line(warning);
    assert!(tracked(&daemon).is_empty());
    files.write(list(&[A]));
    reload(&daemon, "loaded: 1 hash");
    files.write("");
    reload(&daemon, "loaded: 0 hashes");
    wait_for("the warning", || {
        (daemon.count_lines(warning) == 2).then_some(())
    });
    let (code, _, err) = run(&["-n", "-w", &files.list]);
    assert_eq!((code, err.contains(warning)), (Some(0), true), "{err}");
    let daemon = files.start("-b");
    assert_eq!(tracked(&daemon), [A, B, C]);
    assert_eq!(daemon.count_lines("refused"), 0);
}

#[test]
fn a_blacklist_refuses_its_torrents() {
    let files = Files::new("black", &[B, C]);
    let daemon = files.start("--blacklist");
    assert_eq!(tracked(&daemon), [A]);
    // At this text Transmission 4 stops announcing.
    let text = format!("{REFUSED}: unregistered torrent");
    let reply = announce(&daemon, &B, "");
    assert_eq!(refusal(&reply), (text.clone(), 86400, "never".into()));
    let reply = udp_announce(&udp::Client::new(daemon.udp4()), C, 0);
    let message = String::from_utf8_lossy(&reply[8..]);
    assert_eq!(message, format!("{text}. Never retry."));
}

#[test]
fn refused_clients_are_asked_to_return_after_the_refusal_interval() {
    for (kind, retry) in [("-w", "7"), ("-b", "never")] {
        let files = Files::new("refusal-interval", &[A]);
        let flags = [kind, &files.list, "--refusal-interval", "400"];
        let daemon = Daemon::start(&flags);
        let hash = if kind == "-w" { B } else { A };
        let (_, interval, retry_in) = refusal(&announce(&daemon, &hash, ""));
        assert_eq!((interval, &*retry_in), (400, retry));
        let reply = udp_announce(&udp::Client::new(daemon.udp4()), hash, 0);
        assert_eq!(reply[..4], 3_u32.to_be_bytes());
    }
}

#[test]
fn refused_clients_over_udp_are_sent_no_peers_instead_of_an_error() {
    let files = Files::new("refuse-udp", &[A]);
    for (kind, interval) in [("-w", 1800_u32), ("-b", 86400)] {
        let daemon = Daemon::start(&[kind, &files.list, "--refuse-udp", "empty"]);
        let client = udp::Client::new(daemon.udp4());
        let [tracked, refused] = if kind == "-w" { [A, B] } else { [B, A] };
        for event in 0..4 {
            udp_announce(&client, tracked, event);
            let reply = udp_announce(&client, refused, event);
            let numbers = [1, udp::TRANSACTION, interval, 0, 0].map(u32::to_be_bytes);
            assert_eq!(reply, numbers.as_flattened());
        }
        assert!(
            announce(&daemon, &refused, "")
                .get("failure reason")
                .is_some()
        );
        let errors = "announced_errors_total{protocol=\"udp\",kind=\"unauthorized\"}";
        assert_eq!(metric(&daemon, errors), 4);
    }
}

#[test]
fn a_source_without_a_connection_id_does_not_learn_what_is_listed() {
    let files = Files::new("stranger", &[A]);
    let daemon = files.start("-w");
    let stranger = udp::Client::from("127.0.0.1", daemon.udp4());
    let replies = [A, B].map(|hash| udp_announce(&stranger, hash, 0));
    assert_eq!(replies[0], replies[1]);
}

#[test]
fn hup_reloads_the_list() {
    let files = Files::new("reload", &[A]);
    let daemon = files.start("-w");
    assert_eq!(tracked(&daemon), [A]);
    files.write(list(&[B, C, B]));
    reload(&daemon, "whitelist: loaded: 2 hashes");
    assert_eq!(tracked(&daemon), [B, C]);
    // Replaced by another file, as `mv` does.
    let new = files.directory.write("new", list(&[C]));
    fs::rename(new, &files.list).expect("is replaced");
    reload(&daemon, "loaded: 1 hash");
    assert_eq!(tracked(&daemon), [C]);
    files.write("");
    reload(&daemon, "loaded: 0 hashes");
    assert!(tracked(&daemon).is_empty());
    files.write(format!("nonsense\n{}", hex(&A)));
    reload(&daemon, "loaded: 1 hash");
    daemon.wait_for_line("whitelist: skipped line 1: expected an info-hash");
    assert_eq!(tracked(&daemon), [A]);
}

#[test]
fn a_reload_that_fails_keeps_the_old_list() {
    let files = Files::new("reload-fails", &[A, B]);
    let daemon = files.start("-b");
    let fails = |why: &str| {
        let line = reload(&daemon, &format!("blacklist: reload failed: {why}"));
        let end = "; keeping the old list (2 hashes)";
        assert!(line.ends_with(end), "{line}");
        assert_eq!(tracked(&daemon), [C]);
    };
    let remove = || fs::remove_file(&files.list).expect("is there");
    remove();
    fails("No such file or directory;");
    fs::create_dir(&files.list).expect("can be made");
    fails("Is a directory;");
    fs::remove_dir(&files.list).expect("is empty");
    make_fifo(&files.list);
    fails("not a regular file");
    remove();
    files.write("neither\nof these\n");
    fails("no info-hash in 2 lines");
    files.write([list(&[C]).as_bytes(), b"\x7fELF\0\0"].concat());
    fails("line 2: not text");
    files.write("z".repeat(200_000));
    fails("line 1: over 64 KiB long");
    files.write(list(&[A]));
    reload(&daemon, "loaded: 1 hash");
    assert_eq!(tracked(&daemon), [B, C]);
}

#[test]
fn an_invalid_list_ends_the_start() {
    let directory = Directory::new("bad");
    let fails = |path: &str, why: &str| {
        for (flag, long) in [("-w", "-w/--whitelist"), ("-b", "-b/--blacklist")] {
            let message = start_fails(&[flag, path]);
            let start = format!("announced: {long} '{path}': {why}");
            assert!(message.starts_with(&start), "{message}");
        }
        assert_eq!(run(&["-n", "-w", path]).0, Some(1), "at a check too");
    };
    fails(&directory.file("missing"), "No such file or directory");
    fails(directory.path(), "Is a directory");
    let fifo = directory.file("fifo");
    make_fifo(&fifo);
    fails(&fifo, "not a regular file");
    fails("/dev/zero", "not a regular file");
    let program = fs::read(env!("CARGO_BIN_EXE_announced")).expect("is there");
    fails(&directory.write("program", program), "line 1: not text");
    let lines = directory.write("lines", "a line\n".repeat(1000));
    fails(&lines, "no info-hash in 1000 lines");
}

/// The address space is an eighth of the file.
#[test]
#[cfg(target_os = "linux")]
fn a_list_of_two_gigabytes_of_zeros_is_rejected_in_little_memory() {
    let directory = Directory::new("zeros");
    let path = directory.file("zeros");
    fs::File::create(&path)
        .and_then(|file| file.set_len(2 << 30))
        .expect("a sparse file");
    let script = "ulimit -v 262144 && exec \"$0\" -i 127.0.0.1 -P 0 -w \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script, &program(), &path])
        .output()
        .expect("there is a shell");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    let message = format!("-w/--whitelist '{path}': line 1: not text\n");
    assert!(err.ends_with(&message), "{err}");
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    #[rustfmt::skip] // A table reads best a line each.
    let cases = [
        ("-w x -b y", "-w/--whitelist conflicts with -b/--blacklist"),
        ("--list-add x", "--list-add requires -w/--whitelist or -b/--blacklist"),
        ("-w x --list-add y --list-remove y", "--list-add and --list-remove require different FIFOs"),
        ("--whitelist=", "-w/--whitelist: invalid value '': expected a file"),
    ];
    for (flags, message) in cases {
        let (code, out, err) = run(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert_eq!(err, format!("announced: {message}\n"));
    }
}

#[test]
fn check_prints_list_and_fifos_and_makes_none() {
    let directory = Directory::new("check");
    let file = directory.write("list", list(&[A]));
    let add = directory.file("add");
    let (code, out, _) = run(&["-n", "-w", &file, "--list-add", &add]);
    assert_eq!(code, Some(0));
    assert_eq!(out, format!("whitelist {file}\nlist-add {add}\n"));
    assert!(!fs::exists(&add).expect("can be asked"));
}

#[test]
fn fifos_change_the_list_at_once() {
    let files = Files::new("fifos", &[A]);
    // A torrent that is added is tracked with a whitelist and refused with a blacklist.
    for (kind, is_listed_tracked) in [("-w", true), ("-b", false)] {
        let daemon = files.start_with_fifos(kind);
        let expect = |hash, listed: bool| wait_until(&daemon, hash, listed == is_listed_tracked);
        expect(A, true);
        expect(B, false);
        write_to(&files.add, &format!("{} with a name\n", hex(&B)));
        expect(B, true);
        write_to(&files.remove, &list(&[A, B]));
        expect(A, false);
        expect(B, false);
        write_to(&files.add, &format!("# back\n\n{}", list(&[A])));
        expect(A, true);
        expect(B, false);
        write_to(&files.remove, &format!("bad\n{}\nworse\n", hex(&A)));
        daemon.wait_for_line("--list-remove: skipped 2 lines: expected an info-hash");
        expect(A, false);
    }
}

#[test]
fn a_partial_line_waits_for_its_end() {
    let files = Files::new("partial", &[A]);
    let daemon = files.start_with_fifos("-w");
    let (start, end) = (&hex(&B)[..17], &hex(&B)[17..]);
    write_to(&files.add, &format!("{}{start}", list(&[C])));
    wait_until(&daemon, C, true);
    assert!(!is_tracked(&daemon, &B));
    // 40 digits, but more may follow.
    write_to(&files.add, end);
    assert!(!is_tracked(&daemon, &B));
    write_to(&files.add, "\n");
    wait_until(&daemon, B, true);
}

#[test]
#[cfg(target_os = "linux")]
fn an_endless_line_takes_no_memory() {
    let files = Files::new("endless", &[]);
    let daemon = files.start_with_fifos("-w");
    let kilobytes = || -> u64 {
        let text = daemon.proc_status("VmRSS");
        let number = text.split_whitespace().next().and_then(|n| n.parse().ok());
        number.expect("a number")
    };
    let before = kilobytes();
    for _ in 0..200 {
        write_to(&files.add, &"z".repeat(20_000));
    }
    write_to(&files.add, &format!("\n{}", list(&[A])));
    daemon.wait_for_line("--list-add: skipped 1 line: expected an info-hash");
    assert!(kilobytes() < before + 2048);
    wait_until(&daemon, A, true);
}

#[test]
fn a_reload_drops_the_changes_made_through_fifos() {
    let files = Files::new("forget", &[A, B]);
    let daemon = files.start_with_fifos("-w");
    write_to(&files.add, &list(&[C]));
    write_to(&files.remove, &list(&[A]));
    wait_until(&daemon, C, true);
    wait_until(&daemon, A, false);
    // A reload that fails keeps them.
    let away = files.directory.file("away");
    fs::rename(&files.list, &away).expect("is there");
    reload(&daemon, "keeping the old list");
    assert_eq!(tracked(&daemon), [B, C]);
    fs::rename(&away, &files.list).expect("is there");
    reload(&daemon, "loaded: 2 hashes");
    assert_eq!(tracked(&daemon), [A, B]);
}

#[test]
fn a_missing_fifo_is_made_for_its_owner_and_an_existing_one_is_used() {
    let files = Files::new("made", &[A]);
    make_fifo(&files.remove);
    set_mode(&files.remove, 0o620);
    let daemon = files.start_with_fifos("-w");
    let made = fs::metadata(&files.add).expect("was made");
    assert!(made.file_type().is_fifo());
    assert_eq!(made.mode() & 0o7777, 0o600);
    let existing = fs::metadata(&files.remove).expect("is there");
    assert_eq!(existing.mode() & 0o7777, 0o620, "left as it is");
    write_to(&files.remove, &list(&[A]));
    wait_until(&daemon, A, false);
}

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
}

/// Asserts that these flags fail with this message, at the start and at a check.
fn start_and_check_fail(flags: &[&str], message: &str) {
    assert_eq!(start_fails(flags), message);
    let (code, _, err) = run(&[&["-n"], flags].concat());
    assert_eq!((code, err.lines().last()), (Some(1), Some(message)));
}

#[test]
fn a_fifo_that_every_user_may_write_ends_the_start() {
    let files = Files::new("writable-fifo", &[A]);
    let fifo = &files.add;
    make_fifo(fifo);
    for flag in ["--list-add", "--list-remove"] {
        let flags = ["-w", &files.list, flag, fifo];
        for mode in [0o602, 0o666] {
            set_mode(fifo, mode);
            let message = format!("announced: {flag} '{fifo}': writable by every user");
            start_and_check_fail(&flags, &message);
        }
        set_mode(fifo, 0o660);
        Daemon::start(&flags);
    }
}

#[test]
fn a_fifo_of_another_user_ends_the_start() {
    if !is_root() {
        return;
    }
    let files = Files::new("foreign-fifo", &[A]);
    let fifo = &files.add;
    make_fifo(fifo);
    set_mode(fifo, 0o600);
    let flags = ["-u", "4711:4712", "-w", &files.list, "--list-add", fifo];
    let give_to = |uid| std::os::unix::fs::chown(fifo, Some(uid), Some(4714)).expect("is ours");
    give_to(4713);
    let message = "owned by user 4713, expected root or user 4711";
    start_and_check_fail(
        &flags,
        &format!("announced: --list-add '{fifo}': {message}"),
    );
    give_to(4711);
    Daemon::start(&flags);
    give_to(0);
    let denied = "not readable by user 4711:4712: mode 0600, owner 0:4714";
    start_and_check_fail(&flags, &format!("announced: --list-add '{fifo}': {denied}"));
    std::os::unix::fs::chown(fifo, None, Some(4712)).expect("is ours");
    set_mode(fifo, 0o660);
    Daemon::start(&flags);
}

#[test]
fn a_file_in_place_of_a_fifo_ends_the_start() {
    let files = Files::new("no-fifo", &[A]);
    for flag in ["--list-add", "--list-remove"] {
        for path in [files.list.as_str(), files.directory.path()] {
            let message = format!("announced: {flag} '{path}': not a FIFO");
            start_and_check_fail(&["-w", &files.list, flag, path], &message);
        }
        let message = format!("announced: {flag} '/nowhere/at/all': No such file or directory");
        start_and_check_fail(&["-w", &files.list, flag, "/nowhere/at/all"], &message);
    }
    let left = fs::read_to_string(&files.list);
    assert_eq!(left.expect("is there"), list(&[A]));
}

/// They stay in the table until the next sweep, two minutes later.
#[cfg(feature = "full-scrape")]
#[test]
fn torrents_no_longer_allowed_are_in_no_full_scrape() {
    let files = Files::new("scraped", &[]);
    let (list_file, add) = (&files.list, &files.add);
    let flags = ["-b", list_file, "--list-add", add, "--full-scrape", "open"];
    let daemon = Daemon::start(&flags);
    for hash in [A, B, C] {
        assert!(is_tracked(&daemon, &hash));
    }
    let seen = |path: &str, of: fn(&Hash) -> String| {
        let mut client = http::Client::new(daemon.tcp4());
        let body = client
            .request(format!("GET {path} HTTP/1.1\r\n\r\n"))
            .text();
        let is_in = |hash: &&Hash| body.contains(&of(hash));
        [A, B, C].iter().filter(is_in).count()
    };
    let raw = |hash: &Hash| String::from_utf8_lossy(hash).into_owned();
    let digits = |hash: &Hash| hex(hash).to_uppercase();
    let all = || {
        [
            seen("/scrape", raw),
            seen("/stats?mode=tpbs&format=txt", digits),
            seen("/stats?mode=statedump", digits),
            seen("/stats?mode=top10", digits),
        ]
    };
    assert_eq!(all(), [3; 4]);
    write_to(add, &list(&[B]));
    wait_until(&daemon, B, false);
    assert_eq!(metric(&daemon, "announced_torrents"), 3, "not yet swept");
    assert_eq!(all(), [2; 4]);
}

/// A sweep begins every 24th of the peer timeout, here every two seconds.
#[test]
fn torrents_no_longer_allowed_are_dropped() {
    let files = Files::new("dropped", &[A, B, C]);
    let (list_file, add) = (&files.list, &files.add);
    let daemon = Daemon::start(&["-w", list_file, "--list-add", add, "--interval", "32"]);
    let mut swarm = http::Client::new(daemon.tcp4());
    for port in 1..=300 {
        // A large swarm, one with a downloaded count, and one that remains.
        for (hash, rest) in [("A", ""), ("B", "&left=0&event=completed"), ("C", "")] {
            let hash = hash.repeat(20);
            let reply = swarm.request(format!(
                "GET /announce?info_hash={hash}&port={port}{rest} HTTP/1.1\r\n\r\n"
            ));
            assert_eq!(reply.status, 200);
        }
    }
    assert_eq!(metric(&daemon, "announced_torrents"), 3);
    files.write(list(&[C]));
    reload(&daemon, "loaded: 1 hash");
    let scrape = || udp::Client::new(daemon.udp4()).scrape(&[A, B, C]);
    assert_eq!(scrape(), [[0; 3], [0; 3], [0, 0, 300]]);
    wait_for("the sweep", || {
        (metric(&daemon, "announced_torrents") == 1).then_some(())
    });
    // Allowed again, they start from zero.
    write_to(add, &list(&[A, B]));
    wait_for("both", || (tracked(&daemon).len() == 3).then_some(()));
    assert_eq!(scrape(), [[0, 0, 1], [0, 0, 1], [0, 0, 301]]);
}

/// The first sweep is two minutes away.
#[test]
fn torrents_that_the_list_refuses_are_not_loaded() {
    let directory = Directory::new("refused-state");
    let state = directory.file("state");
    let mut daemon = Daemon::start(&["--state", &state]);
    for hash in [A, B] {
        announce(&daemon, &hash, "&left=0&event=completed");
    }
    daemon.signal("TERM");
    assert!(daemon.wait().0.success());
    let dump = directory.write("dump", format!("{}:1:7\n{}:1:7\n", hex(&A), hex(&C)));
    let white = directory.write("list", list(&[A]));
    let flags = ["--state", &state, "-l", &dump, "-w", &white];
    let daemon = Daemon::start(&flags);
    assert_eq!(metric(&daemon, "announced_torrents"), 1);
    daemon.wait_for_line("state: loaded: 1 torrent, 1 peer, saved ");
    assert_eq!(daemon.count_lines("; 1 torrent refused by the list"), 1);
    daemon.wait_for_line("dump: loaded: 1 downloaded count; 1 skipped: refused");
    let scrape = udp::Client::new(daemon.udp4()).scrape(&[A, B, C]);
    assert_eq!(scrape, [[1, 7, 0], [0; 3], [0; 3]]);
}

/// A million lines, and B.
fn million() -> String {
    let mut text = String::with_capacity(42_000_000);
    let mut word = 7_u64;
    for _ in 0..1_000_000 {
        for _ in 0..2 {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            text.push_str(&format!("{word:016x}"));
        }
        text.push_str("0a1b2c3d\n");
    }
    text + &list(&[B])
}

#[test]
fn connects_are_answered_while_a_million_lines_are_reloaded() {
    let files = Files::new("million", &[A]);
    let (add, remove) = (&files.add, &files.remove);
    let daemon = files.start_with_fifos("-w");
    assert_eq!(tracked(&daemon), [A]);
    files.write(million());
    let mut client = udp::Client::new(daemon.udp4());
    let is_over = || daemon.count_lines("1000001 hashes") > 0;
    daemon.signal("HUP");
    // Two reloads: the second waits for the first. Two signals count once if they arrive together. When the third
    // datagram is answered, the first signal has been handled.
    (0..3).for_each(|_| client.connect());
    daemon.signal("HUP");
    let (mut answered, mut old) = (0, 0);
    // The worker has the lowest priority: on a busy machine it reads for minutes.
    const PATIENCE: Duration = Duration::from_secs(300);
    wait_longer("the list", PATIENCE, || {
        client.connect();
        let reply = udp_announce(&client, A, 2);
        if !is_over() {
            answered += 1;
            old += u32::from(reply[..4] == 1_u32.to_be_bytes());
        }
        is_over().then_some(())
    });
    assert!(answered >= 5, "{answered} connects were answered");
    assert!(old >= 5, "the old list was in force meanwhile");
    wait_for("the new list", || (tracked(&daemon) == [B]).then_some(()));
    // Changes during the second reload.
    write_to(add, &list(&[C]));
    write_to(remove, &list(&[B]));
    wait_for("changes", || (tracked(&daemon) == [C]).then_some(()));
    let loaded = || daemon.count_lines("1000001 hashes") >= 2;
    // With several threads, answers do not show that the first signal has been handled, and both may count once.
    let mut signalled = Instant::now();
    wait_longer("the second reload", PATIENCE, || {
        if signalled.elapsed() > DEADLINE {
            daemon.signal("HUP");
            signalled = Instant::now();
        }
        loaded().then_some(())
    });
    files.write(list(&[A]));
    daemon.signal("HUP");
    // The start has logged the first of these lines.
    let is_last = || (daemon.count_lines("loaded: 1 hash") >= 2).then_some(());
    wait_longer("the last list", PATIENCE, is_last);
    assert_eq!(tracked(&daemon), [A]);
}

#[test]
fn state_is_saved_while_a_million_lines_are_reloaded() {
    let files = Files::new("million-saved", &[A]);
    let state = format!("{}.state", files.add);
    let daemon = Daemon::start(&["-w", &files.list, "--state", &state]);
    files.write(million());
    daemon.signal("HUP");
    let mut client = udp::Client::new(daemon.udp4());
    (0..3).for_each(|_| client.connect());
    daemon.signal("USR1");
    wait_longer("the list", Duration::from_secs(300), || {
        (daemon.count_lines("1000001 hashes") > 0).then_some(())
    });
    assert_eq!(daemon.count_lines("state: saved"), 1);
    std::fs::remove_file(state).expect("is there");
}

#[test]
fn hup_reloads_a_list_in_a_chroot_that_only_the_user_may_read() {
    if !is_root() {
        return;
    }
    let files = Files::new("chroot", &[A]);
    set_mode(&files.list, 0o600);
    let root = files.directory.path();
    for path in [root, &files.list] {
        std::os::unix::fs::chown(path, Some(4711), Some(4712)).expect("is ours");
    }
    let user = ["-d", root, "-u", "4711:4712"];
    let lists = ["-w", "/list", "--list-add", "/add"];
    let daemon = Daemon::start(&[user, lists].concat());
    daemon.wait_for_line("running as user 4711, group 4712");
    daemon.wait_for_line("whitelist: loaded: 1 hash");
    assert_eq!(tracked(&daemon), [A]);
    files.write(list(&[B]));
    reload(&daemon, "loaded: 1 hash");
    assert_eq!(tracked(&daemon), [B]);
    fs::remove_file(&files.list).expect("is there");
    reload(&daemon, "No such file or directory");
    assert_eq!(tracked(&daemon), [B]);
    let made = fs::metadata(&files.add).expect("was made");
    assert_eq!((made.uid(), made.gid()), (4711, 4712));
    assert_eq!(made.mode() & 0o7777, 0o600);
    write_to(&files.add, &list(&[C]));
    wait_for("the change", || (tracked(&daemon) == [B, C]).then_some(()));
    #[cfg(target_os = "linux")]
    {
        for helper in [child_of(daemon.id()), worker_of(daemon.id())] {
            let inside = fs::read_link(format!("/proc/{helper}/root")).expect("is running");
            assert_eq!(inside.to_str(), Some(root));
        }
    }
}
