//! Bytes between two nodes of a cluster: hello, frames, and what frames hold.

use super::cuts;
use announced::cluster::frame::{Hello, Keys, MAX_CONTENT, Session};
use announced::cluster::records::{self, Contents, Group, Groups, Heartbeat, Reader, read_count};
use announced::tracker::{News, PeerState, Record};

const UNIT: u64 = 1000;

pub fn run(data: &[u8]) {
    check_hello(data);
    check_frame(data);
    check_records(data);
    if let Some(heartbeat) = Heartbeat::read(&mut Reader(data)) {
        let written = heartbeat.write();
        assert_eq!(written[0], records::HEARTBEAT);
        assert_eq!(Heartbeat::read(&mut Reader(&written[1..])), Some(heartbeat));
    }
    let mut counts = Contents::new(records::COUNTS, 0, 0);
    let mut reader = Reader(data);
    let mut expected = Vec::new();
    while let Some(count) = read_count(&mut reader) {
        let (hash, downloaded, empty_for) = count;
        counts.push_count(&hash, downloaded, empty_for);
        expected.push(count);
    }
    let mut read = Vec::new();
    for content in counts.finish() {
        let mut reader = Reader(&content[1..]);
        read.extend(std::iter::from_fn(|| read_count(&mut reader)));
        assert!(content.len() <= MAX_CONTENT && reader.0.is_empty());
    }
    assert_eq!(read, expected);
}

fn check_hello(data: &[u8]) {
    let whole = Hello::read(data);
    if let Ok(Some((hello, raw))) = &whole {
        assert_eq!(raw[..], data[..raw.len()]);
        let written = hello.write();
        assert_eq!(Hello::read(&written), Ok(Some((*hello, written))));
    }
    for cut in cuts(data.len()) {
        match (&whole, Hello::read(&data[..cut])) {
            (Ok(None), part) => assert_eq!(part, Ok(None)),
            (Ok(Some(_)), part) => assert!(part == Ok(None) || part == whole),
            (Err(_), part) => assert!(part == Ok(None) || part == whole),
        }
    }
}

/// A frame opens on the other side and nowhere else, and only whole and unchanged.
fn check_frame(data: &[u8]) {
    let keys = Keys::new(&[7; 32]);
    let hello = |id| {
        let hello = Hello {
            id,
            ..Hello::default()
        };
        hello.write()
    };
    let (one, other) = (hello(1), hello(2));
    let sessions = || {
        let dialler = Session::new(&keys, true, &one, &other);
        (dialler, Session::new(&keys, false, &other, &one))
    };
    let (mut dialler, mut acceptor) = sessions();
    assert!(!matches!(acceptor.open(data), Ok(Some(_))));
    let (_, mut acceptor) = sessions();
    let content = &data[..data.len().min(MAX_CONTENT)];
    let mut frame = Vec::new();
    dialler.seal(content, &mut frame);
    if content.is_empty() {
        return assert!(acceptor.open(&frame).is_err());
    }
    for cut in cuts(frame.len()) {
        assert_eq!(acceptor.open(&frame[..cut]), Ok(None));
    }
    assert_eq!(acceptor.open(&frame), Ok(Some(content)));
    // Neither again, nor back to its sender, nor with another bit.
    assert!(acceptor.open(&frame).is_err());
    assert!(sessions().0.open(&frame).is_err());
    let bit = data
        .iter()
        .fold(0_usize, |sum, byte| sum * 31 % 8191 + usize::from(*byte));
    let length = frame.len();
    frame[bit / 8 % length] ^= 1 << (bit % 8);
    assert!(!matches!(sessions().1.open(&frame), Ok(Some(_))));
}

fn groups(content: &[u8]) -> Vec<Group<'_>> {
    let mut groups = Groups::new(Reader(content));
    let mut all = Vec::new();
    loop {
        let batch = groups.next_batch();
        all.extend(batch.iter().flatten());
        if batch.iter().any(Option::is_none) {
            return all;
        }
    }
}

/// What a group says of one of its records: the news, and whether it is a completion that was counted.
fn news(group: &Group, record: Record) -> (News, bool) {
    let is_present = record.state != PeerState::Stopped;
    let is_counted = group.is_event() && is_present && !group.is_completion();
    let news = News {
        info_hash: *group.info_hash,
        record: Record {
            // Older ones are sent as of that age, and a completion is marked.
            unit: record.unit.max(UNIT - 60),
            completed: record.completed || group.is_completion() || is_counted,
            ..record
        },
        renews: None,
    };
    (news, is_counted)
}

/// Records are the same when they are written and read again.
fn check_records(data: &[u8]) {
    let mut contents = Contents::new(records::RECORDS, UNIT, 1);
    let mut expected = Vec::new();
    for group in groups(data) {
        assert!(group.count() > 0);
        for record in group.records(UNIT) {
            let (news, is_counted) = news(&group, record);
            let record = news.record;
            match (record.state, group.is_event()) {
                (PeerState::Present(role), false) => {
                    let endpoint = record.peer.endpoint();
                    let completed = record.completed;
                    contents.push(&news.info_hash, endpoint, role, record.unit, completed);
                }
                _ => contents.push_news(&news, is_counted),
            }
            expected.push((news, is_counted));
        }
    }
    let count = contents.records;
    let mut read = Vec::new();
    for content in contents.finish() {
        assert!(content.len() <= MAX_CONTENT);
        let mut reader = Reader(&content[1..]);
        let [unit, _number] = reader.numbers().expect("a head");
        assert_eq!(unit, UNIT);
        for group in groups(reader.0) {
            read.extend(group.records(UNIT).map(|record| news(&group, record)));
        }
    }
    assert_eq!(count, expected.len() as u64);
    assert_eq!(read, expected);
}
