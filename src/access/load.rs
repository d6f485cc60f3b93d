//! From the bytes of a file to a sorted list, in slices.
//!
//! What is read is sorted in short runs as it comes. Then the runs are merged, all at once, with a heap of
//! their first hashes: a million hashes are a heap of 500 and one pass.

use super::lines::{Line, Lines};
use super::list::List;
use crate::tracker::InfoHash;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::{self, Write};

/// Hashes in a run: sorting one takes about as long as reading a chunk of the file.
const RUN: usize = 2048;

/// Hashes in a list: 1.3 GB, so that no file can take all memory there is.
const MOST: usize = 1 << 26;

/// Bytes in a line, beyond which the file is no list.
const LONGEST_LINE: usize = 64 * 1024;

/// Lines that are reported by number.
const REPORTED: usize = 10;

/// Why a file is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It holds a byte that is 0, as no text does.
    Binary {
        line: u64,
    },
    /// A line is longer than 64 KiB.
    Long {
        line: u64,
    },
    /// It has lines that are meant to be info-hashes, and none that is one.
    NoHash {
        lines: u64,
    },
    TooMany,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unfit::Binary { line } => write!(f, "not a list: line {line} is no text"),
            Unfit::Long { line } => write!(f, "not a list: line {line} is over 64 KiB long"),
            Unfit::NoHash { lines } => {
                write!(f, "not a list: none of its {lines} lines is an info-hash")
            }
            Unfit::TooMany => write!(f, "more than {MOST} info-hashes"),
        }
    }
}

/// The lines that were skipped.
#[derive(Debug, Default)]
pub struct Skipped {
    /// The numbers of the first ones.
    first: [u64; REPORTED],
    count: u64,
}

impl Skipped {
    fn add(&mut self, line: u64) {
        let known = usize::try_from(self.count).unwrap_or(usize::MAX);
        if let Some(place) = self.first.get_mut(known) {
            *place = line;
        }
        self.count += 1;
    }

    /// What is to be said of them, if there are any.
    pub fn report(&self) -> Option<String> {
        let shown = self.first.iter().filter(|&&line| line > 0);
        let mut text = String::new();
        for line in shown {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{line}");
        }
        match self.count {
            0 => None,
            1 => Some(format!("line {text} is not an info-hash, skipped")),
            count if count > REPORTED as u64 => {
                let more = count - REPORTED as u64;
                let _ = write!(text, " and {more} more");
                Some(format!("lines {text} are not info-hashes, skipped"))
            }
            _ => Some(format!("lines {text} are not info-hashes, skipped")),
        }
    }
}

/// A file that is being read.
#[derive(Debug, Default)]
pub struct Reader {
    lines: Lines,
    found: Found,
}

/// What has been read of it.
#[derive(Debug, Default)]
struct Found {
    lines: u64,
    skipped: Skipped,
    /// Sorted, but for the last.
    runs: Vec<Vec<InfoHash>>,
}

impl Found {
    fn add(&mut self, line: Line) {
        self.lines += 1;
        match line {
            Line::Nothing => {}
            Line::Bad => self.skipped.add(self.lines),
            Line::Hash(hash) => self.push(hash),
        }
    }

    fn push(&mut self, hash: InfoHash) {
        match self.runs.last_mut() {
            Some(run) if run.len() < RUN => run.push(hash),
            last => {
                if let Some(run) = last {
                    run.sort_unstable();
                }
                let mut run = Vec::with_capacity(RUN);
                run.push(hash);
                self.runs.push(run);
            }
        }
    }

    fn count(&self) -> usize {
        let last = self.runs.last().map_or(0, Vec::len);
        self.runs.len().saturating_sub(1) * RUN + last
    }
}

impl Reader {
    /// Takes the next bytes of the file.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        let found = &mut self.found;
        self.lines.take(bytes, &mut |line| found.add(line));
        let line = found.lines + 1;
        if crate::proto::find(bytes, 0).is_some() {
            return Err(Unfit::Binary { line });
        }
        if self.lines.unfinished() > LONGEST_LINE {
            return Err(Unfit::Long { line });
        }
        match found.count() > MOST {
            true => Err(Unfit::TooMany),
            false => Ok(()),
        }
    }

    /// There are no more bytes.
    pub fn end(mut self) -> Result<(Merge, Skipped), Unfit> {
        let mut found = self.found;
        if self.lines.unfinished() > 0 {
            found.add(self.lines.end());
        }
        if found.runs.is_empty() && found.skipped.count > 0 {
            return Err(Unfit::NoHash { lines: found.lines });
        }
        let count = found.count();
        if let Some(run) = found.runs.last_mut() {
            run.sort_unstable();
        }
        Ok((Merge::new(found.runs, count), found.skipped))
    }
}

/// Runs that are being merged.
#[derive(Debug)]
pub struct Merge {
    runs: Vec<std::vec::IntoIter<InfoHash>>,
    /// The first hash of each run, the least of all on top.
    heads: BinaryHeap<Reverse<(InfoHash, usize)>>,
    list: List,
}

impl Merge {
    fn new(runs: Vec<Vec<InfoHash>>, count: usize) -> Merge {
        let mut runs: Vec<_> = runs.into_iter().map(Vec::into_iter).collect();
        let first =
            |(i, run): (usize, &mut std::vec::IntoIter<InfoHash>)| Some(Reverse((run.next()?, i)));
        let heads = runs.iter_mut().enumerate().filter_map(first).collect();
        Merge {
            runs,
            heads,
            list: List::with_capacity(count),
        }
    }

    /// Merges so many hashes more; false when there are none left.
    pub fn step(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(mut least) = self.heads.peek_mut() else {
                return false;
            };
            let Reverse((hash, i)) = *least;
            self.list.push(hash);
            match self.runs.get_mut(i).and_then(Iterator::next) {
                Some(next) => *least = Reverse((next, i)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(least);
                    if let Some(run) = self.runs.get_mut(i) {
                        // Its memory goes now and not with all the others'.
                        *run = Vec::new().into_iter();
                    }
                }
            }
        }
        true
    }

    /// The list, once no step is left.
    pub fn finish(self) -> List {
        self.list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeSet;

    fn hex(hash: &InfoHash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn random_hash(random: &mut Random) -> InfoHash {
        let mut hash = [0; 20];
        for part in hash.chunks_mut(4) {
            part.copy_from_slice(&random.draw().to_le_bytes()[..4]);
        }
        hash
    }

    fn load(text: &str, piece: usize) -> Result<(List, Skipped), Unfit> {
        let mut reader = Reader::default();
        for bytes in text.as_bytes().chunks(piece) {
            reader.take(bytes)?;
        }
        let (mut merge, skipped) = reader.end()?;
        while merge.step(100) {}
        Ok((merge.finish(), skipped))
    }

    #[test]
    fn every_hash_is_in_the_list_once() {
        let mut random = Random::seeded(1);
        for count in [0, 1, 2, RUN - 1, RUN, RUN + 1, 30_000] {
            let set: BTreeSet<InfoHash> = (0..count).map(|_| random_hash(&mut random)).collect();
            let mut lines: Vec<String> = set.iter().map(hex).collect();
            for i in 0..lines.len() {
                lines.swap(i, random.below(count));
            }
            lines.extend_from_within(..count / 3);
            let (list, skipped) = load(&lines.join("\n"), 60_000).expect("is a list");
            assert_eq!(list.len(), set.len());
            assert!(set.iter().all(|hash| list.contains(hash)));
            assert_eq!(skipped.report(), None);
        }
    }

    #[test]
    fn skipped_lines_are_named_up_to_a_number() {
        let good = "00112233445566778899aabbccddeeff00112233\n";
        let report = |text: &str| load(text, 1000).expect("is a list").1.report();
        assert_eq!(
            report(&format!("# x\nbad\n{good}")).as_deref(),
            Some("line 2 is not an info-hash, skipped")
        );
        assert_eq!(
            report(&format!("bad\n{good}\nbad")).as_deref(),
            Some("lines 1, 4 are not info-hashes, skipped")
        );
        assert_eq!(
            report(&format!("{good}{}", "bad\n".repeat(20))).as_deref(),
            Some("lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 10 more are not info-hashes, skipped")
        );
    }

    #[test]
    fn what_is_no_list_is_told_apart_from_an_empty_one() {
        let unfit = |text: &str| load(text, 4096).err();
        assert_eq!(unfit(""), None);
        assert_eq!(unfit("# nothing yet\n\n"), None);
        assert_eq!(unfit("x\ny"), Some(Unfit::NoHash { lines: 2 }));
        assert_eq!(unfit("x\0"), Some(Unfit::Binary { line: 1 }));
        assert_eq!(unfit("a\nb\n\0"), Some(Unfit::Binary { line: 3 }));
        let long = "z".repeat(LONGEST_LINE + 4096);
        assert_eq!(unfit(&long), Some(Unfit::Long { line: 1 }));
        assert_eq!(unfit(&format!("\n{long}\n")), Some(Unfit::Long { line: 2 }));
    }
}
