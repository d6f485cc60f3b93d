//! The worker and the resolver as threads, which do the same work.

use super::*;
use crate::base::random::Random;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of a test's own, with the plan for the files in it.
struct Directory(PathBuf, Plan);

impl Directory {
    fn new(name: &str) -> Directory {
        let name = format!("announced-helper-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("can be made");
        let plan = Plan {
            list: Some(path.join("list")),
            state: Some(path.join("state")),
            ..Plan::default()
        };
        Directory(path, plan)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).expect("is written");
    }

    /// Files other than the state, and the state.
    fn state(&self) -> (usize, Vec<u8>) {
        let files = fs::read_dir(&self.0).expect("is there").count();
        (files - 1, fs::read(self.0.join("state")).expect("is there"))
    }

    /// Lets the daemon's side work with a helper; returns when the helper has ended with it.
    fn with_helper(&self, work: impl FnOnce(&mut Helper)) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        std::thread::scope(|scope| {
            scope.spawn(|| files::serve(&self.1, &theirs, None, None));
            work(&mut Helper::of(ours));
        });
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn next<T>(mut turn: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = turn() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "no answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn save(helper: &mut Helper, mut bytes: &[u8]) {
    assert_eq!(helper.save(), Ok(()));
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(helper.room().min(bytes.len()));
        helper.save_bytes(now);
        bytes = later;
        assert_eq!(helper.turn(), None);
    }
}

#[test]
fn a_list_arrives_sorted() {
    let directory = Directory::new("list");
    let text: String = (0..10_000).rev().map(|n| format!("{n:040x}\n")).collect();
    directory.write("list", &format!("bad\n{text}{text}"));
    directory.with_helper(|helper| {
        for _ in 0..2 {
            assert_eq!(helper.load_list(), Ok(()));
            let head = Answer::List {
                count: 10_000,
                skipped: String::from("skipped line 1: expected an info-hash"),
            };
            assert_eq!(next(|| helper.turn()), head);
            let mut received = Vec::new();
            while received.len() < 10_000 * 20 {
                match next(|| helper.turn()) {
                    Answer::Hashes(hashes) => received.extend(hashes),
                    other => panic!("{other:?}"),
                }
            }
            let hashes = received.chunks(20).map(|hash| hash[18..].to_vec());
            assert!(hashes.eq((0..10_000_u16).map(|n| n.to_be_bytes().to_vec())));
        }
        fs::remove_file(directory.0.join("list")).expect("is there");
        assert_eq!(helper.load_list(), Ok(()));
        let failed = Answer::ListFailed(String::from("No such file or directory"));
        assert_eq!(next(|| helper.turn()), failed);
    });
}

#[test]
fn a_save_replaces_the_file_as_a_whole() {
    let directory = Directory::new("save");
    directory.write("state", "old");
    directory.write("state.new", "left behind");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 11) as u8).collect();
    directory.with_helper(|helper| {
        save(helper, &content);
        helper.save_end();
        assert_eq!(next(|| helper.turn()), Answer::Saved);
        assert!(directory.state() == (0, content));
        save(helper, b"last");
        helper.save_end();
    });
    assert_eq!(
        directory.state(),
        (0, b"last".to_vec()),
        "the daemon has not waited"
    );
    directory.with_helper(|helper| save(helper, b"half"));
    assert_eq!(
        directory.state(),
        (0, b"last".to_vec()),
        "the save was not complete"
    );
}

#[test]
fn a_save_that_fails_is_reported_once() {
    let mut directory = Directory::new("fail");
    directory.1.state = Some(directory.0.join("missing/state"));
    directory.with_helper(|helper| {
        assert_eq!(helper.save(), Ok(()));
        helper.save_bytes(b"for nothing");
        helper.save_end();
        assert!(matches!(next(|| helper.turn()), Answer::SaveFailed(_)));
        assert_eq!(helper.load_list(), Ok(()));
        assert!(matches!(next(|| helper.turn()), Answer::ListFailed(_)));
    });
}

#[test]
fn the_end_of_the_process_is_reported_once() {
    let [(monitor, control), (ours, theirs)] =
        [(); 2].map(|()| UnixStream::pair().expect("a pair"));
    let mut helper = Helper::new(Channel::new(Some(monitor), ours).expect("an option"));
    assert_eq!((helper.save(), helper.load_list()), (Ok(()), Ok(())));
    drop((theirs, control));
    assert_eq!(helper.turn(), Some(Answer::Ended));
    assert_eq!(helper.turn(), None);
    assert_eq!(
        (helper.load_list(), helper.save()),
        (Err(ENDED), Err(ENDED))
    );
    helper.save_bytes(b"x");
    assert_eq!(helper.turn(), None);
}

#[test]
fn a_name_resolves_to_addresses_or_a_reason() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let channel = Channel::new(None, ours).expect("an option");
    // Longer than a name may be, so that no name server is asked.
    let names = ["localhost", &"x".repeat(300), "192.0.2.1"].map(String::from);
    let mut resolver = Resolver::new(channel, names.len());
    std::thread::scope(|scope| {
        scope.spawn(|| names::serve(&names, &theirs));
        for number in [1, 0, 2, 7, 2] {
            resolver.ask(number);
        }
        let (number, addresses) = next(|| resolver.turn());
        assert!(number == 1 && addresses.is_err_and(|why| !why.is_empty()));
        let (number, addresses) = next(|| resolver.turn());
        let addresses = addresses.expect("is known everywhere");
        assert!(number == 0 && !addresses.is_empty());
        assert!(addresses.iter().all(IpAddr::is_loopback));
        let documentation: IpAddr = "192.0.2.1".parse().expect("an address");
        for _ in 0..2 {
            assert_eq!(next(|| resolver.turn()), (2, Ok(vec![documentation])));
            assert_eq!(resolver.turn(), None, "one answer to two questions");
            resolver.ask(2);
        }
        drop(resolver);
    });
}

/// Frames of a daemon that others control: of any kind and length, also of the kinds that exist, with paths, cut, or
/// with a wrong length. `path` is that of a file that no option names.
fn nonsense(random: &mut Random, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(12) {
        let kind = match random.below(4) {
            0 => random.draw() as u8,
            _ => LOAD_LIST + random.below(5) as u8,
        };
        let payload = match random.below(5) {
            0 => Vec::new(),
            1 => path.as_bytes().to_vec(),
            2 => b"../secret".to_vec(),
            3 => (0..random.below(300))
                .map(|_| random.draw() as u8)
                .collect(),
            _ => vec![random.draw() as u8; random.below(MAX_QUEUED)],
        };
        let length = match random.below(6) {
            0 => random.draw() as u16,
            _ => payload.len() as u16,
        };
        let [low, high] = length.to_le_bytes();
        bytes.extend([kind, low, high]);
        bytes.extend(payload);
        if random.below(10) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
    }
    bytes
}

/// What a process answers to these bytes until it ends.
fn answers(bytes: &[u8], serve: impl FnOnce(&UnixStream) + Send) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let mut reader = ours.try_clone().expect("is open");
    std::thread::scope(|scope| {
        scope.spawn(move || serve(&theirs));
        let answers = scope.spawn(move || {
            let mut answers = Vec::new();
            // A process that has ended with bytes unread is an error, too.
            let _ = reader.read_to_end(&mut answers);
            answers
        });
        let _ = ours.write_all(bytes);
        let _ = ours.shutdown(Shutdown::Write);
        answers.join().expect("no panic")
    })
}

impl Directory {
    /// All files but the state.
    fn others(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(&self.0).expect("is there");
        let files = files.map(|file| file.expect("is there").path());
        let others = files.filter(|path| !path.ends_with("state"));
        others
            .map(|path| (path.clone(), fs::read(path).expect("is a file")))
            .collect()
    }
}

#[test]
fn no_message_reaches_a_file_that_no_option_names() {
    let mut directory = Directory::new("nonsense");
    directory.1.config = vec![directory.0.join("conf")];
    directory.write("conf", "interval 1800");
    directory.write("list", &format!("{}\n", "41".repeat(20)));
    directory.write("state", "old");
    directory.write("secret", &format!("{}\n", "5e".repeat(20)));
    let secret = directory.0.join("secret");
    let secret = secret.to_str().expect("is UTF-8");
    let before = directory.others();
    let mut random = Random::seeded(15);
    let mut kinds = BTreeMap::new();
    for round in 0..400 {
        let bytes = nonsense(&mut random, secret);
        let answers = answers(&bytes, |theirs| {
            files::serve(&directory.1, theirs, None, None);
        });
        let mut rest = &answers[..];
        while let [kind, low, high, ..] = *rest {
            let length = 3 + usize::from(u16::from_le_bytes([low, high]));
            *kinds.entry(kind).or_insert(0) += 1;
            rest = rest.get(length..).unwrap_or_default();
        }
        for leak in [&[0x5e; 20][..], "5e".repeat(20).as_bytes()] {
            let is_there = answers.windows(leak.len()).any(|part| part == leak);
            assert!(!is_there, "round {round}: the secret is in an answer");
        }
        assert!(directory.others() == before, "round {round}");
    }
    // Between the nonsense were valid requests, and they were served.
    assert!(
        kinds.contains_key(&SAVED) && kinds.contains_key(&CONFIG_END),
        "{kinds:?}"
    );
}

#[test]
fn paths_in_requests_have_no_effect() {
    let mut directory = Directory::new("paths");
    directory.1.config = vec![directory.0.join("conf")];
    directory.write("conf", "interval 1800");
    directory.write("list", &"41".repeat(20));
    directory.write("secret", &"5e".repeat(20));
    let secret = directory.0.join("secret");
    let secret = secret.to_str().expect("is UTF-8");
    let before = directory.others();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    std::thread::scope(|scope| {
        // Dropped even if the test fails, so that the worker ends.
        let ours = ours;
        scope.spawn(|| files::serve(&directory.1, &theirs, None, None));
        for path in [secret, "../secret", "\0", ""] {
            let send = |kind| frame::send(&ours, kind, path.as_bytes()).expect("is up");
            let receive = || frame::receive(&ours).expect("is up");
            send(LOAD_LIST);
            assert_eq!(receive(), (LIST, vec![1, 0, 0, 0]));
            assert_eq!(receive(), (HASHES, vec![0x41; 20]));
            send(READ_CONFIG);
            assert_eq!(receive(), (CONFIG_TEXT, b"interval 1800".to_vec()));
            assert_eq!(receive(), (CONFIG_FILE_END, Vec::new()));
            assert_eq!(receive(), (CONFIG_END, Vec::new()));
            [SAVE, SAVE_BYTES, SAVE_END].into_iter().for_each(send);
            assert_eq!(receive(), (SAVED, Vec::new()));
            assert!(directory.others() == before);
            assert_eq!(
                fs::read(directory.0.join("state")).expect("is there"),
                path.as_bytes()
            );
        }
    });
}

#[test]
fn no_message_resolves_a_name_that_no_option_names() {
    let names = [String::from("192.0.2.1")];
    let mut random = Random::seeded(15);
    let mut found = 0;
    for _ in 0..400 {
        let bytes = nonsense(&mut random, "\0\0localhost");
        let answers = answers(&bytes, |theirs| drop(names::serve(&names, theirs)));
        let mut rest = &answers[..];
        while let [kind, low, high, ..] = *rest {
            let length = 3 + usize::from(u16::from_le_bytes([low, high]));
            let text = &rest[5..length];
            match kind {
                FOUND => assert_eq!(text, b"192.0.2.1"),
                _ => assert_eq!((kind, text), (NOT_FOUND, &b"no such name"[..])),
            }
            found += u32::from(kind == FOUND);
            rest = &rest[length..];
        }
    }
    assert!(found > 10, "{found} of 400");
}
