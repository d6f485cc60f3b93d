//! The worker and the resolver as threads, which do the same work.

use super::*;
use std::fs;
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
            work(&mut Helper::new(
                Channel::new(None, ours).expect("an option"),
            ));
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
        save(helper, b"for nothing");
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
