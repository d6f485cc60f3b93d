//! Lists of info-hashes: lines in pieces, and a file.

use super::{cuts, with_file};
use announced::helper::list;
use announced::protocol::hash_list::{Line, Lines};
use announced::tracker::InfoHash;

/// The lines of a text that arrives in pieces.
fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
    let mut lines = Lines::default();
    let mut all = Vec::new();
    for piece in pieces {
        lines.take(piece, &mut |line| all.push(line));
    }
    if lines.unfinished() > 0 {
        all.push(lines.end());
    }
    all
}

fn hashes(lines: &[Line]) -> Vec<InfoHash> {
    let mut hashes = Vec::new();
    for line in lines {
        match line {
            Line::Hash(hash) => hashes.push(*hash),
            Line::Hybrid(both) => hashes.extend(both),
            Line::Nothing | Line::Bad => {}
        }
    }
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

pub fn run(data: &[u8]) {
    let whole = lines([data]);
    assert_eq!(lines(data.chunks(1)), whole);
    for cut in cuts(data.len()).step_by(7) {
        let (one, other) = data.split_at(cut);
        assert_eq!(lines([one, other]), whole, "{cut} bytes");
    }
    let newlines = data.iter().filter(|byte| **byte == b'\n').count();
    assert!((newlines..=newlines + 1).contains(&whole.len()));
    let hashes = hashes(&whole);
    let is_bad = whole.contains(&Line::Bad);
    match with_file("list", data, |path| list::read(path, &mut || Ok(()))) {
        Ok(file) => {
            assert_eq!(file.hashes, hashes);
            assert_eq!(file.skipped.is_empty(), !is_bad);
        }
        Err(why) => assert!(data.contains(&0) || hashes.is_empty() && is_bad, "{why}"),
    }
    let hex = |hash: &InfoHash| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let written: Vec<String> = hashes.iter().map(hex).collect();
    let again = lines([written.join("\n").as_bytes()]);
    assert_eq!(self::hashes(&again), hashes);
}
