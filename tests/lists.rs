//! White and black lists of info-hashes, as files, reloaded, and through FIFOs.

mod common;

use common::bencode::Value;
use common::http::{self, get};
use common::udp::{self, Announce};
use common::{Daemon, Directory, program, run, skip, wait_for, wait_longer};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

type Hash = [u8; 20];

const A: Hash = [b'A'; 20];
const B: Hash = [b'B'; 20];
const C: Hash = [b'C'; 20];
const D: Hash = [b'D'; 20];

const REFUSED: &str = "This torrent is not authorized on this tracker";

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A list of these, a line each.
fn list(hashes: &[Hash]) -> String {
    hashes.iter().map(|hash| hex(hash) + "\n").collect()
}

fn announce(daemon: &Daemon, hash: &Hash, more: &str) -> Value {
    let hash = String::from_utf8_lossy(hash);
    get(
        daemon.tcp4(),
        &format!("/announce?info_hash={hash}&port=6881{more}"),
    )
    .bencoded()
}

fn is_tracked(daemon: &Daemon, hash: &Hash) -> bool {
    announce(daemon, hash, "").get("failure reason").is_none()
}

fn tracked(daemon: &Daemon) -> Vec<Hash> {
    let all = [A, B, C];
    all.into_iter()
        .filter(|hash| is_tracked(daemon, hash))
        .collect()
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let text = get(daemon.tcp4(), "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Reloads, and waits for the line of the log that tells what came of it.
fn reload(daemon: &Daemon, outcome: &str) -> String {
    let is_outcome = |line: &&String| line.contains("hash") && !line.contains("skipped");
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
    let mut fifo = fs::OpenOptions::new()
        .write(true)
        .open(fifo)
        .expect("is there");
    fifo.write_all(text.as_bytes()).expect("is taken");
}

/// A start that fails with status 1; what it said last.
fn start_fails(flags: &[&str]) -> String {
    let listen = ["-i", "127.0.0.1", "-P", "0"];
    let flags: Vec<&str> = listen.iter().chain(flags).copied().collect();
    let (code, out, err) = run(&flags);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    err.lines().last().unwrap_or_default().to_string()
}

#[test]
fn a_whitelist_lets_nothing_else_in() {
    let directory = Directory::new("white");
    let text = format!("# torrents\n\n{} A, as it is\n", hex(&A).to_uppercase());
    let file = directory.write("list", text);
    let daemon = Daemon::start(&["-w", &file]);
    let line = daemon.wait_for_line(&format!("-w/--whitelist '{file}': loaded, "));
    assert!(line.ends_with(" 1 hash"), "{line}");

    assert!(is_tracked(&daemon, &A));
    for event in ["", "&event=started", "&event=completed", "&event=stopped"] {
        let reply = announce(&daemon, &B, event);
        assert_eq!(reply.keys(), ["failure reason", "retry in"], "{event}");
        assert_eq!(reply.string("failure reason"), REFUSED.as_bytes());
        assert_eq!(reply.integer("retry in"), 30);
    }
    let client = udp::Client::new(daemon.udp4());
    for event in 0..4 {
        let request = client.announce_request(&Announce {
            info_hash: B,
            event,
            ..Announce::default()
        });
        let reply = client.exchange(&request);
        assert_eq!(reply[..4], 3_u32.to_be_bytes());
        assert_eq!(reply[4..8], udp::TRANSACTION.to_be_bytes());
        let message = String::from_utf8_lossy(&reply[8..]);
        assert_eq!(message, format!("{REFUSED}. Retry in 30 minutes."));
    }
    let reply = client.announce(&Announce {
        info_hash: A,
        ..Announce::default()
    });
    assert!(reply.leechers > 0);

    // Positional over UDP, and left out over HTTP.
    let counts = client.scrape(&[B, A, C]);
    assert_eq!((counts[0], counts[2]), ([0; 3], [0; 3]));
    assert_eq!(counts[1][2], 1);
    let target = "/scrape?info_hash=BBBBBBBBBBBBBBBBBBBB&info_hash=AAAAAAAAAAAAAAAAAAAA";
    let reply = get(daemon.tcp4(), target).bencoded();
    let files = reply.get("files").expect("is there");
    assert_eq!(files.keys(), [String::from_utf8_lossy(&A)]);

    let error = "announced_errors_total{protocol=";
    assert_eq!(
        metric(&daemon, &format!("{error}\"http\",kind=\"unauthorized\"}}")),
        4
    );
    assert_eq!(
        metric(&daemon, &format!("{error}\"udp\",kind=\"unauthorized\"}}")),
        4
    );
    assert_eq!(metric(&daemon, "announced_torrents"), 1);
}

#[test]
fn a_blacklist_keeps_out_what_is_in_it() {
    let directory = Directory::new("black");
    let file = directory.write("list", list(&[B, C]));
    let daemon = Daemon::start(&["--blacklist", &file]);
    assert_eq!(tracked(&daemon), [A]);
    let reply = announce(&daemon, &B, "");
    assert_eq!(reply.string("failure reason"), REFUSED.as_bytes());
    assert_eq!(reply.string("retry in"), b"never");
    let client = udp::Client::new(daemon.udp4());
    let request = client.announce_request(&Announce {
        info_hash: C,
        ..Announce::default()
    });
    let reply = client.exchange(&request);
    let message = String::from_utf8_lossy(&reply[8..]);
    assert_eq!(message, format!("{REFUSED}. Never retry."));
}

#[test]
fn a_source_without_a_connection_id_learns_nothing() {
    let directory = Directory::new("stranger");
    let file = directory.write("list", list(&[A]));
    let daemon = Daemon::start(&["-w", &file]);
    let stranger = udp::Client::from("127.0.0.1", daemon.udp4());
    let replies = [A, B].map(|info_hash| {
        stranger.exchange(&stranger.announce_request(&Announce {
            info_hash,
            ..Announce::default()
        }))
    });
    assert_eq!(replies[0], replies[1]);
}

#[test]
fn hup_reloads() {
    let directory = Directory::new("reload");
    let file = directory.write("list", list(&[A]));
    let daemon = Daemon::start(&["-w", &file]);
    assert_eq!(tracked(&daemon), [A]);
    directory.write("list", list(&[B, C, B]));
    reload(&daemon, "loaded, 2 hashes");
    assert_eq!(tracked(&daemon), [B, C]);
    // Replaced by another file, as `mv` does.
    let new = directory.write("new", list(&[C]));
    fs::rename(new, &file).expect("is replaced");
    reload(&daemon, "loaded, 1 hash");
    assert_eq!(tracked(&daemon), [C]);
    directory.write("list", "");
    reload(&daemon, "loaded, 0 hashes");
    assert!(tracked(&daemon).is_empty());
    directory.write("list", format!("nonsense\n{}", hex(&A)));
    reload(&daemon, "loaded, 1 hash");
    daemon.wait_for_line("line 1 is not an info-hash, skipped");
    assert_eq!(tracked(&daemon), [A]);
}

#[test]
fn a_reload_that_fails_leaves_the_old_list_in_force() {
    let directory = Directory::new("reload-fails");
    let file = directory.write("list", list(&[A, B]));
    let daemon = Daemon::start(&["-b", &file]);
    let fails = |why: &str| {
        let line = reload(&daemon, why);
        assert!(line.starts_with(&format!("announced: -b/--blacklist '{file}': ")));
        assert!(line.ends_with("; the old list stays in force, with 2 hashes"));
        assert_eq!(tracked(&daemon), [C]);
    };
    fs::remove_file(&file).expect("is there");
    fails("No such file or directory");
    fs::create_dir(&file).expect("can be made");
    fails("Is a directory");
    fs::remove_dir(&file).expect("is empty");
    make_fifo(&file);
    fails("not a regular file");
    fs::remove_file(&file).expect("is there");
    directory.write("list", "neither\nof these\n");
    fails("not a list: none of its 2 lines is an info-hash");
    directory.write(
        "list",
        [&list(&[C]).into_bytes()[..], b"\x7fELF\0\0"].concat(),
    );
    fails("not a list: line 2 is no text");
    directory.write("list", "z".repeat(200_000));
    fails("not a list: line 1 is over 64 KiB long");
    fs::File::create(&file)
        .and_then(|file| file.set_len(2 << 30))
        .expect("a sparse file");
    fails("not a list: line 1 is no text");
    directory.write("list", list(&[A]));
    reload(&daemon, "loaded, 1 hash");
    assert_eq!(tracked(&daemon), [B, C]);
}

fn make_fifo(path: &str) {
    let status = Command::new("mkfifo").arg(path).status();
    assert!(status.expect("there is a mkfifo").success());
}

#[test]
fn a_bad_list_ends_the_start() {
    let directory = Directory::new("bad");
    let fails = |path: &str, why: &str| {
        for flag in ["-w", "-b"] {
            let message = start_fails(&[flag, path]);
            let long = ["-w/--whitelist", "-b/--blacklist"][usize::from(flag == "-b")];
            let start = format!("announced: {long} '{path}': {why}");
            assert!(message.starts_with(&start), "{message}");
        }
        let (code, _, _) = run(&["-n", "-w", path]);
        assert_eq!(code, Some(1), "--check finds it too");
    };
    fails(&directory.file("missing"), "No such file or directory");
    fails(directory.path(), "Is a directory");
    let fifo = directory.file("fifo");
    make_fifo(&fifo);
    fails(&fifo, "not a regular file");
    fails("/dev/zero", "not a regular file");
    let mut garbage = Vec::new();
    let mut word = 1_u32;
    while garbage.len() < 100_000 {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        garbage.extend_from_slice(&word.to_le_bytes());
    }
    fails(&directory.write("garbage", garbage), "not a list: line ");
    let lines = directory.write("lines", "a line\n".repeat(1000));
    fails(&lines, "not a list: none of its 1000 lines is an info-hash");
}

/// With 256 MB of address space, in which neither the file nor a tenth of it would fit.
#[test]
#[cfg(target_os = "linux")]
fn two_gigabytes_of_zeros_are_no_list_and_take_no_memory() {
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
    assert!(
        err.ends_with(&format!(
            "-w/--whitelist '{path}': not a list: line 1 is no text\n"
        )),
        "{err}"
    );
}

#[test]
fn an_unreadable_list_ends_the_start() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("unreadable");
    let path = directory.write("list", list(&[A]));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("is ours");
    // As a user who may not read it; the program may lie where that user may not look.
    let binary = directory.file("announced");
    // By another process: one that this one forks meanwhile would hold the file open for writing.
    let copied = Command::new("cp").args([&program(), &binary]).status();
    assert!(copied.expect("there is a cp").success());
    let output = std::os::unix::process::CommandExt::uid(&mut Command::new(&binary), 65534)
        .args(["-i", "127.0.0.1", "-P", "0", "-w", &path])
        .output()
        .expect("starts");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    let message = format!("announced: -w/--whitelist '{path}': Permission denied");
    assert!(err.contains(&message), "{err}");
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    for (flags, message) in [
        (
            &["-w", "x", "-b", "y"][..],
            "-b/--blacklist 'y': wanted is this or -w/--whitelist, not both",
        ),
        (
            &["--list-add", "x"],
            "--list-add 'x': wanted is a -w/--whitelist or -b/--blacklist too",
        ),
        (
            &["-w", "x", "--list-add", "y", "--list-remove", "y"],
            "--list-remove 'y': wanted is another FIFO than --list-add's",
        ),
        (&["-w", ""], "-w/--whitelist '': wanted is a file"),
    ] {
        let (code, out, err) = run(flags);
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert_eq!(err, format!("announced: {message}\n"));
    }
}

#[test]
fn check_says_what_the_list_is_for_and_makes_no_fifo() {
    let directory = Directory::new("check");
    let file = directory.write("list", list(&[A]));
    let add = directory.file("add");
    let (code, out, _) = run(&["-n", "-w", &file, "--list-add", &add]);
    assert_eq!(code, Some(0));
    assert!(out.contains(&format!("\ntrack only the torrents in {file}\n")));
    assert!(out.contains(&format!("\nadd to the list from FIFO {add}\n")));
    assert!(!fs::exists(&add).expect("can be asked"));
    directory.write("add", "");
    let (code, _, err) = run(&["-n", "-w", &file, "--list-add", &add]);
    assert_eq!(code, Some(1));
    let message = format!("announced: --list-add '{add}': not a FIFO\n");
    assert!(err.ends_with(&message), "{err}");
}

#[test]
fn fifos_change_the_list_at_once() {
    let directory = Directory::new("fifos");
    let file = directory.write("list", list(&[A]));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    // Both kinds of list: what is added is allowed by one and forbidden by the other.
    for (flag, is_listed_tracked) in [("-w", true), ("-b", false)] {
        let daemon = Daemon::start(&[flag, &file, "--list-add", &add, "--list-remove", &remove]);
        let expect = |hash: Hash, listed: bool| {
            wait_for("the change", || {
                (is_tracked(&daemon, &hash) == (listed == is_listed_tracked)).then_some(())
            });
        };
        expect(A, true);
        expect(B, false);
        write_to(&add, &format!("{} with a name\n", hex(&B)));
        expect(B, true);
        write_to(&remove, &list(&[A, B]));
        expect(A, false);
        expect(B, false);
        write_to(&add, &format!("# back\n\n{}", list(&[A])));
        expect(A, true);
        expect(B, false);
        write_to(&remove, &format!("bad\n{}\nworse\n", hex(&A)));
        daemon.wait_for_line("--list-remove: skipped 2 lines: expected an info-hash");
        expect(A, false);
    }
}

#[test]
fn a_partial_line_waits_for_its_end() {
    let directory = Directory::new("partial");
    let file = directory.write("list", list(&[A]));
    let add = directory.file("add");
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add]);
    let (start, end) = (&hex(&B)[..17], &hex(&B)[17..]);
    write_to(&add, &format!("{}{start}", list(&[C])));
    wait_for("the whole line", || is_tracked(&daemon, &C).then_some(()));
    assert!(!is_tracked(&daemon, &B));
    // All digits, and still the line may go on with another.
    write_to(&add, end);
    assert!(!is_tracked(&daemon, &B));
    write_to(&add, "\n");
    wait_for("the rest", || is_tracked(&daemon, &B).then_some(()));
}

#[test]
#[cfg(target_os = "linux")]
fn of_an_endless_line_only_the_front_is_kept() {
    let directory = Directory::new("endless");
    let file = directory.write("list", "");
    let add = directory.file("add");
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add]);
    let daemon_rss = || daemon.proc_status("VmRSS");
    let before = daemon_rss();
    for _ in 0..200 {
        write_to(&add, &"z".repeat(20_000));
    }
    write_to(&add, &format!("\n{}", list(&[A])));
    daemon.wait_for_line("--list-add: skipped 1 line: expected an info-hash");
    let kilobytes = |text: String| -> u64 {
        let number = text.split_whitespace().next().and_then(|n| n.parse().ok());
        number.expect("a number")
    };
    assert!(kilobytes(daemon_rss()) < kilobytes(before) + 2048);
    wait_for("the next line", || is_tracked(&daemon, &A).then_some(()));
}

#[test]
fn a_reload_forgets_what_fifos_changed() {
    let directory = Directory::new("forget");
    let file = directory.write("list", list(&[A, B]));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add, "--list-remove", &remove]);
    write_to(&add, &list(&[C]));
    write_to(&remove, &list(&[A]));
    wait_for("both changes", || {
        (tracked(&daemon) == [B, C]).then_some(())
    });
    // One that fails forgets nothing.
    fs::rename(&file, directory.file("away")).expect("is there");
    reload(&daemon, "the old list stays in force");
    assert_eq!(tracked(&daemon), [B, C]);
    fs::rename(directory.file("away"), &file).expect("is there");
    reload(&daemon, "loaded, 2 hashes");
    assert_eq!(tracked(&daemon), [A, B]);
}

#[test]
fn fifos_are_made_for_their_owner_alone_and_used_if_they_are_there() {
    let directory = Directory::new("made");
    let file = directory.write("list", list(&[A]));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    make_fifo(&remove);
    let mode = fs::Permissions::from_mode(0o620);
    fs::set_permissions(&remove, mode).expect("is ours");
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add, "--list-remove", &remove]);
    let made = fs::metadata(&add).expect("was made");
    assert!(made.file_type().is_fifo());
    assert_eq!(made.mode() & 0o7777, 0o600);
    let there = fs::metadata(&remove).expect("is there");
    assert_eq!(there.mode() & 0o7777, 0o620, "left as it is");
    write_to(&remove, &list(&[A]));
    wait_for("the change", || (!is_tracked(&daemon, &A)).then_some(()));
}

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
}

#[test]
fn a_fifo_that_others_may_write_ends_the_start() {
    let directory = Directory::new("writable-fifo");
    let file = directory.write("list", list(&[A]));
    let fifo = directory.file("fifo");
    make_fifo(&fifo);
    for flag in ["--list-add", "--list-remove"] {
        let expected = format!("announced: {flag} '{fifo}': writable by every user");
        for mode in [0o602, 0o666] {
            set_mode(&fifo, mode);
            assert_eq!(start_fails(&["-w", &file, flag, &fifo]), expected);
            let (code, _, err) = run(&["-n", "-w", &file, flag, &fifo]);
            assert_eq!((code, err.lines().last()), (Some(1), Some(&*expected)));
        }
        set_mode(&fifo, 0o660);
        Daemon::start(&["-w", &file, flag, &fifo]);
    }
}

#[test]
fn a_fifo_of_another_user_ends_the_start() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("foreign-fifo");
    let file = directory.write("list", list(&[A]));
    let fifo = directory.file("fifo");
    make_fifo(&fifo);
    set_mode(&fifo, 0o600);
    let user = ["-u", "4711:4712", "-w", &file, "--list-add", &fifo];
    let give_to = |uid| std::os::unix::fs::chown(&fifo, Some(uid), Some(4714)).expect("is ours");
    give_to(4713);
    let expected =
        format!("announced: --list-add '{fifo}': owned by user 4713, expected root or user 4711");
    assert_eq!(start_fails(&user), expected);
    let (code, _, err) = run(&[&["-n"], &user[..]].concat());
    assert_eq!((code, err.lines().last()), (Some(1), Some(&*expected)));
    for uid in [0, 4711] {
        give_to(uid);
        Daemon::start(&user);
    }
}

/// Under a whitelist, so that it shows when all that was written has been read.
#[test]
fn invalid_lines_of_a_fifo_are_logged_once_a_minute() {
    let directory = Directory::new("garbage");
    let file = directory.write("list", "");
    let add = directory.file("add");
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add]);
    let start = Instant::now();
    for _ in 0..50 {
        write_to(&add, &"garbage\n".repeat(512));
    }
    write_to(&add, &list(&[A]));
    wait_for("the last line", || is_tracked(&daemon, &A).then_some(()));
    daemon.wait_for_line("--list-add: skipped ");
    let lines = daemon.count_lines("--list-add: skipped ");
    let minutes = start.elapsed().as_secs() / 60;
    assert!(lines as u64 <= 1 + minutes, "{:?}", daemon.log());
}

#[test]
fn what_is_no_fifo_ends_the_start() {
    let directory = Directory::new("no-fifo");
    let file = directory.write("list", list(&[A]));
    for flag in ["--list-add", "--list-remove"] {
        let message = start_fails(&["-w", &file, flag, &file]);
        assert_eq!(message, format!("announced: {flag} '{file}': not a FIFO"));
        assert_eq!(fs::read_to_string(&file).expect("is there"), list(&[A]));
        let path = directory.path();
        let message = start_fails(&["-w", &file, flag, path]);
        assert_eq!(message, format!("announced: {flag} '{path}': not a FIFO"));
        let message = start_fails(&["-w", &file, flag, "/nowhere/at/all"]);
        assert!(
            message.starts_with(&format!(
                "announced: {flag} '/nowhere/at/all': No such file"
            )),
            "{message}"
        );
    }
}

/// They are in the table until the next sweep, which here is two minutes away.
#[test]
fn torrents_no_longer_allowed_are_in_no_full_scrape() {
    let directory = Directory::new("scraped");
    let file = directory.write("list", "");
    let add = directory.file("add");
    let flags = ["-b", &file, "--list-add", &add, "--full-scrape", "open"];
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
    write_to(&add, &list(&[B]));
    wait_for("the change", || (!is_tracked(&daemon, &B)).then_some(()));
    assert_eq!(metric(&daemon, "announced_torrents"), 3, "not yet swept");
    assert_eq!(all(), [2; 4]);
}

/// A sweep begins every 24th of the peer timeout, here every two seconds.
#[test]
fn torrents_no_longer_allowed_are_dropped() {
    let directory = Directory::new("dropped");
    let file = directory.write("list", list(&[A, B, C]));
    let add = directory.file("add");
    let flags = ["-w", &file, "--list-add", &add];
    let daemon = Daemon::start(&[&flags[..], &["--interval", "32"]].concat());
    let mut swarm = http::Client::new(daemon.tcp4());
    for port in 1..=300 {
        // A large swarm, one that is remembered for its count, and one that stays.
        for (hash, rest) in [("A", ""), ("B", "&left=0&event=completed"), ("C", "")] {
            let hash = hash.repeat(20);
            let reply = swarm.request(format!(
                "GET /announce?info_hash={hash}&port={port}{rest} HTTP/1.1\r\n\r\n"
            ));
            assert_eq!(reply.status, 200);
        }
    }
    assert_eq!(metric(&daemon, "announced_torrents"), 3);
    directory.write("list", list(&[C]));
    reload(&daemon, "loaded, 1 hash");
    let scrape = || udp::Client::new(daemon.udp4()).scrape(&[A, B, C]);
    assert_eq!(scrape(), [[0; 3], [0; 3], [0, 0, 300]]);
    wait_for("the sweep", || {
        (metric(&daemon, "announced_torrents") == 1).then_some(())
    });
    // Allowed again, they begin anew.
    write_to(&add, &list(&[A, B]));
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
    daemon.wait_for_line("loaded 1 torrents, 1 peers");
    assert_eq!(daemon.count_lines("; 1 torrents refused by the list"), 1);
    assert_eq!(daemon.count_lines("; 1 refused by the list"), 1);
    let scrape = udp::Client::new(daemon.udp4()).scrape(&[A, B, C]);
    assert_eq!(scrape, [[1, 1, 0], [0; 3], [0; 3]]);
}

/// A million lines, and one that is not among them.
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
    let directory = Directory::new("million");
    let file = directory.write("list", list(&[A]));
    let (add, remove) = (directory.file("add"), directory.file("remove"));
    let daemon = Daemon::start(&["-w", &file, "--list-add", &add, "--list-remove", &remove]);
    assert_eq!(tracked(&daemon), [A]);
    directory.write("list", million());
    let mut client = udp::Client::new(daemon.udp4());
    let is_over = || {
        daemon
            .log()
            .iter()
            .any(|line| line.contains("1000001 hashes"))
    };
    daemon.signal("HUP");
    // Twice: the second waits for the first. Signals count once if they come before they are taken: this change, which
    // comes between the two, shows that the first was.
    write_to(&add, &list(&[D]));
    wait_for("a change", || is_tracked(&daemon, &D).then_some(()));
    daemon.signal("HUP");
    let (mut answered, mut old) = (0, 0);
    // The keeper comes last: where others take all of the machine, it reads for minutes.
    const PATIENCE: Duration = Duration::from_secs(300);
    wait_longer("the list", PATIENCE, || {
        client.connect();
        let reply = client.exchange(&client.announce_request(&Announce {
            info_hash: A,
            ..Announce::default()
        }));
        if !is_over() {
            answered += 1;
            old += u32::from(reply[..4] == 1_u32.to_be_bytes());
        }
        is_over().then_some(())
    });
    assert!(answered >= 5, "{answered} connects were answered");
    assert!(old >= 5, "the old list was in force meanwhile");
    wait_for("the new list", || (tracked(&daemon) == [B]).then_some(()));
    // Both lists at work, and the second reload over the first's list of the same size.
    write_to(&add, &list(&[C]));
    write_to(&remove, &list(&[B]));
    wait_for("changes", || (tracked(&daemon) == [C]).then_some(()));
    let loaded = || daemon.count_lines("1000001 hashes") >= 2;
    wait_longer("the second reload", PATIENCE, || loaded().then_some(()));
    directory.write("list", list(&[A]));
    reload(&daemon, "loaded, 1 hash");
    assert_eq!(tracked(&daemon), [A]);
}

/// Its only child.
#[cfg(target_os = "linux")]
fn keeper_of(daemon: &Daemon) -> u32 {
    let id = daemon.id();
    let path = format!("/proc/{id}/task/{id}/children");
    let children = fs::read_to_string(path).expect("is running");
    children.trim().parse().expect("one child")
}

#[cfg(target_os = "linux")]
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
#[cfg(target_os = "linux")]
fn the_keeper_ends_with_the_daemon_and_ignores_signals() {
    let directory = Directory::new("keeper-ends");
    let file = directory.write("list", list(&[A]));
    for (name, code) in [("TERM", Some(0)), ("KILL", None)] {
        let mut daemon = Daemon::start(&["-w", &file]);
        let keeper = keeper_of(&daemon);
        for signal in ["TERM", "INT", "HUP", "USR1", "PIPE"] {
            let id = keeper.to_string();
            let status = Command::new("kill").args(["-s", signal, &id]).status();
            assert!(status.expect("there is a kill").success());
        }
        directory.write("list", list(&[A, B]));
        reload(&daemon, "loaded, 2 hashes");
        // Nothing of the daemon's but the socket between the two.
        let open = fs::read_dir(format!("/proc/{keeper}/fd")).expect("is alive");
        let open: Vec<String> = open
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .filter(|target| target != "/dev/null")
            .collect();
        assert!(
            open.len() == 1 && open[0].starts_with("socket:"),
            "{open:?}"
        );
        daemon.signal(name);
        assert_eq!(daemon.wait().0.code(), code);
        wait_for("the keeper's end", || (!is_alive(keeper)).then_some(()));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn without_its_keeper_the_daemon_goes_on() {
    let directory = Directory::new("keeper-dies");
    let file = directory.write("list", list(&[A]));
    let daemon = Daemon::start(&["-w", &file]);
    let keeper = keeper_of(&daemon).to_string();
    let status = Command::new("kill").args(["-s", "KILL", &keeper]).status();
    assert!(status.expect("there is a kill").success());
    daemon.wait_for_line("the keeper process has ended");
    for _ in 0..2 {
        reload(&daemon, "cannot be read: the keeper process has ended");
        assert_eq!(tracked(&daemon), [A]);
    }
    let log = daemon.log();
    let told = log
        .iter()
        .filter(|line| line.contains("neither read nor saved"));
    assert_eq!(told.count(), 1, "{log:?}");
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        skip("only root may become others");
    }
    root
}

#[test]
fn inside_a_chroot_without_privileges_hup_reloads() {
    if !is_root() {
        return;
    }
    let directory = Directory::new("chroot");
    let file = directory.write("list", list(&[A]));
    let nobody_else = || fs::Permissions::from_mode(0o600);
    fs::set_permissions(&file, nobody_else()).expect("is ours");
    let daemon = Daemon::start(&[
        "-d",
        directory.path(),
        "-u",
        "4711:4712",
        "-w",
        "/list",
        "--list-add",
        "/add",
    ]);
    daemon.wait_for_line("running as user 4711, group 4712");
    daemon.wait_for_line("-w/--whitelist '/list': loaded, 1 hash");
    assert_eq!(tracked(&daemon), [A]);
    directory.write("list", list(&[B]));
    reload(&daemon, "loaded, 1 hash");
    assert_eq!(tracked(&daemon), [B]);
    fs::remove_file(&file).expect("is there");
    reload(&daemon, "No such file or directory");
    assert_eq!(tracked(&daemon), [B]);
    let add = directory.file("add");
    let made = fs::metadata(&add).expect("was made");
    assert_eq!((made.uid(), made.gid()), (4711, 4712));
    assert_eq!(made.mode() & 0o7777, 0o600);
    write_to(&add, &list(&[C]));
    wait_for("the change", || (tracked(&daemon) == [B, C]).then_some(()));
    // The keeper is in the same place.
    #[cfg(target_os = "linux")]
    {
        let root = fs::read_link(format!("/proc/{}/root", keeper_of(&daemon)));
        assert_eq!(root.expect("is running").to_str(), Some(directory.path()));
    }
}
