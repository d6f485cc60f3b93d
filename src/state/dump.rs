//! opentracker's `statedump`: how often each torrent was downloaded, for whoever moves over.
//!
//! A line a torrent: `HEX:base:downloaded`, where `base` is the minute since 1970 in which it was last
//! seen with peers. That is not made use of: what is in the dump is remembered for a day from now.

use crate::log;
use crate::sys::chunks::as_chunks;
use crate::sys::files::open_regular;
use crate::tracker::{InfoHash, Table, Tracked};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The longest line: 40 digits of hash, two numbers of 20 digits at most, and what is between and behind.
const LONGEST: usize = 96;

/// Lines that are told of one by one.
const MOST_TOLD: u64 = 10;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Torrents whose count is remembered now.
    pub remembered: u64,
    /// That were known already, and keep the count that they have.
    pub known: u64,
    /// Never downloaded: there is nothing to remember.
    pub zero: u64,
    /// That the tracker's limits left no room for.
    pub left_out: u64,
    /// That the list of info-hashes refuses.
    pub refused: u64,
    /// Lines that are none.
    pub bad: u64,
}

/// For the log; what did not happen is left out.
impl fmt::Display for DumpSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "loaded {} downloaded counts", self.remembered)?;
        for (count, what) in [
            (self.known, "of torrents known already, which keep theirs"),
            (self.zero, "of nought, not kept"),
            (self.left_out, "beyond --max-torrents"),
            (self.refused, "refused by the list"),
            (self.bad, "bad lines"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Loads a dump into the table, but for torrents that are not tracked. The first bad lines are logged with
/// their numbers, and all are counted.
pub fn load_dump(path: &Path, table: &Table, tracked: Tracked) -> io::Result<DumpSummary> {
    let mut file = open_regular(path)?;
    let mut lines = Lines {
        tracked,
        ..Lines::default()
    };
    let mut piece = vec![0; 64 * 1024];
    let mut bad = |number| {
        log::line(format_args!(
            "-l/--load-dump: line {number} is not HEX:base:downloaded, skipped"
        ));
    };
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => lines.feed(&piece[..length], table, &mut bad),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines.finish(table, &mut bad))
}

/// Splits pieces into lines, and remembers what they say.
#[derive(Default)]
struct Lines<'a> {
    tracked: Tracked<'a>,
    /// The beginning of a line that is not complete; of an overlong one no more than shows that it is.
    held: Vec<u8>,
    number: u64,
    summary: DumpSummary,
}

impl Lines<'_> {
    fn feed(&mut self, piece: &[u8], table: &Table, bad: &mut dyn FnMut(u64)) {
        let mut parts = piece.split(|&byte| byte == b'\n');
        // `split` yields one part at least; the last is not yet a line.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.hold(part);
            self.line(table, bad);
        }
        self.hold(last);
    }

    fn hold(&mut self, part: &[u8]) {
        let room = (LONGEST + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// A last line may be without its end.
    fn finish(mut self, table: &Table, bad: &mut dyn FnMut(u64)) -> DumpSummary {
        if !self.held.is_empty() {
            self.line(table, bad);
        }
        self.summary
    }

    fn line(&mut self, table: &Table, bad: &mut dyn FnMut(u64)) {
        self.number += 1;
        let parsed = parse(&self.held);
        self.held.clear();
        let summary = &mut self.summary;
        let counter = match parsed {
            None => {
                if summary.bad < MOST_TOLD {
                    bad(self.number);
                }
                &mut summary.bad
            }
            Some((_, 0)) => &mut summary.zero,
            Some((hash, _)) if self.tracked.is_some_and(|tracked| !tracked(&hash)) => {
                &mut summary.refused
            }
            Some((info_hash, downloaded)) => {
                let mut tracker = table.lock_for(&info_hash, 0);
                if tracker.scrape(&info_hash).is_some() {
                    &mut summary.known
                } else if tracker.restore_memory(&info_hash, downloaded, 0).is_some() {
                    &mut summary.remembered
                } else {
                    &mut summary.left_out
                }
            }
        };
        *counter += 1;
    }
}

/// `HEX:base:downloaded`, with white space behind it at most. A count beyond what is stored is the most.
fn parse(line: &[u8]) -> Option<(InfoHash, u32)> {
    if line.len() > LONGEST {
        return None;
    }
    let (hex, rest) = line.trim_ascii_end().split_first_chunk::<40>()?;
    let mut info_hash = [0; 20];
    for (byte, pair) in info_hash.iter_mut().zip(as_chunks::<2>(hex).0) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    let mut fields = rest.strip_prefix(b":")?.split(|&byte| byte == b':');
    let (base, downloaded) = (fields.next()?, fields.next()?);
    number(base)?;
    let downloaded = number(downloaded)?;
    match fields.next() {
        Some(_) => None,
        None => Some((info_hash, u32::try_from(downloaded).unwrap_or(u32::MAX))),
    }
}

/// Digits alone.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Limits;

    const HEX: &str = "00112233445566778899aabbccddeeff01234567";

    fn table(max_torrents: usize) -> Table {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1000,
            max_torrents,
        };
        Table::new(limits, 2)
    }

    fn load(table: &Table, text: &[u8], piece: usize) -> (DumpSummary, Vec<u64>) {
        let mut lines = Lines::default();
        let mut told = Vec::new();
        for piece in text.chunks(piece) {
            lines.feed(piece, table, &mut |number| told.push(number));
            assert!(lines.held.len() <= LONGEST + 1);
        }
        let summary = lines.finish(table, &mut |number| told.push(number));
        (summary, told)
    }

    #[test]
    fn a_line_is_a_hash_and_two_numbers() {
        let hash = [
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
            0xff, 1, 0x23, 0x45, 0x67,
        ];
        let parsed = |text: String| parse(text.as_bytes());
        assert_eq!(parsed(format!("{HEX}:29383838:7")), Some((hash, 7)));
        let upper = HEX.to_uppercase();
        assert_eq!(parsed(format!("{upper}:0:0 \r")), Some((hash, 0)));
        let most = Some((hash, u32::MAX));
        assert_eq!(parsed(format!("{HEX}:0:4294967296")), most);
        for bad in [
            String::new(),
            HEX.to_string(),
            format!("{HEX}:1"),
            format!("{HEX}:1:"),
            format!("{HEX}::1"),
            format!("{HEX}:-1:1"),
            format!("{HEX}:1:+1"),
            format!("{HEX}:1:1:1"),
            format!("{HEX}:1:99999999999999999999"),
            format!(" {HEX}:1:1"),
            format!("{}g:1:1", &HEX[1..]),
            format!("{HEX}:1:1{}", " ".repeat(LONGEST)),
        ] {
            assert_eq!(parsed(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn lines_are_counted_and_the_first_bad_ones_told() {
        let mut text = format!("{HEX}:1:7\nrubbish\n\n{}:1:0\n", HEX.replace('1', "2"));
        text.push_str(&"x".repeat(100_000));
        text.push('\n');
        text.push_str(&"bad\n".repeat(20));
        text.push_str(&format!("{HEX}:1:9\n{}:2:3", HEX.replace('1', "3")));
        for piece in [1, 7, 41, 1 << 20] {
            let table = table(100);
            let (summary, told) = load(&table, text.as_bytes(), piece);
            let expected = DumpSummary {
                remembered: 2,
                known: 1,
                zero: 1,
                left_out: 0,
                refused: 0,
                bad: 23,
            };
            assert_eq!(summary, expected);
            assert_eq!(told, [2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
            let hash = parse(format!("{HEX}:1:7").as_bytes()).expect("is one").0;
            assert_eq!(table.scrape(&hash, 0).map(|c| c.downloaded), Some(7));
        }
    }

    #[test]
    fn memories_leave_a_quarter_of_the_torrents_to_those_with_peers() {
        let text: String = (0..100).map(|n| format!("{n:040x}:1:1\n")).collect();
        let table = table(40);
        let (summary, _) = load(&table, text.as_bytes(), 4096);
        assert_eq!((summary.remembered, summary.left_out), (30, 70));
        assert_eq!(table.survey(0).totals.torrents, 30);
    }
}
