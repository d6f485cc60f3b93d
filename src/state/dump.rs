//! opentracker's `statedump`: how often each torrent was downloaded, for admins who move over.
//!
//! A line a torrent: `HEX:base:downloaded`, where `base` is the minute since 1970 in which the torrent last had peers.
//! It is ignored: a torrent of the dump is remembered for a day from now. opentracker may send the dump compressed.
//!
//! Counts are merged by maximum, so that a dump may be loaded again, and after a state.

use crate::base::text::counted;
use crate::base::{gzip, log};
use crate::protocol::hash_list;
use crate::sys::files::open_regular;
use crate::tracker::{InfoHash, Table, Tracked};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// 40 digits of hash, two numbers of at most 20 digits, and what is between and behind them.
const MAX_LINE_BYTES: usize = 96;

/// Invalid lines that are logged one by one.
const MAX_LOGGED: u64 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpSummary {
    pub loaded: u64,
    /// Not above the counts that are loaded already.
    pub known: u64,
    /// Never downloaded, so there is nothing to remember.
    pub zero: u64,
    /// Beyond the limits of the tracker.
    pub left_out: u64,
    /// Of torrents that the list of info-hashes refuses.
    pub refused: u64,
    pub invalid: u64,
}

/// For the log, without the counts that are 0.
impl fmt::Display for DumpSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&counted(self.loaded, "downloaded count"))?;
        for (count, why) in [
            (self.known, "count already loaded"),
            (self.zero, "count 0"),
            (self.left_out, "beyond --max-torrents"),
            (self.refused, "refused by the list"),
        ] {
            if count > 0 {
                write!(f, "; {count} skipped: {why}")?;
            }
        }
        match self.invalid {
            0 => Ok(()),
            invalid => write!(f, "; {}", counted(invalid, "invalid line")),
        }
    }
}

/// Loads a dump into the table, except for torrents that are not tracked. Invalid lines are counted, and the first are
/// logged by number. A file without a valid line is not a dump.
pub fn load_dump(path: &Path, table: &Table, tracked: Tracked) -> io::Result<DumpSummary> {
    let mut file = gzip::decompressed(BufReader::new(open_regular(path)?))?;
    load(&mut file, table, tracked, &mut |number| {
        log::line(format_args!(
            "dump: skipped line {number}: expected HEX:base:downloaded"
        ));
    })
}

fn load(
    file: &mut impl BufRead,
    table: &Table,
    tracked: Tracked,
    log_invalid: &mut dyn FnMut(u64),
) -> io::Result<DumpSummary> {
    let mut summary = DumpSummary::default();
    let mut line = Vec::new();
    let mut number = 0;
    while read_line(file, &mut line)? {
        number += 1;
        let counter = match parse(&line) {
            None => {
                if summary.invalid < MAX_LOGGED {
                    log_invalid(number);
                }
                &mut summary.invalid
            }
            Some((_, 0)) => &mut summary.zero,
            Some((hash, _)) if tracked.is_some_and(|tracked| !tracked(&hash)) => {
                &mut summary.refused
            }
            Some((hash, downloaded)) => {
                let mut tracker = table.lock_for(&hash, 0);
                let known = tracker.scrape(&hash).map(|counts| counts.downloaded);
                tracker.raise_downloaded(&hash, downloaded, 0);
                match known {
                    Some(known) if known >= downloaded => &mut summary.known,
                    None if tracker.scrape(&hash).is_none() => &mut summary.left_out,
                    _ => &mut summary.loaded,
                }
            }
        };
        *counter += 1;
    }
    if summary.invalid == number {
        let lines = counted(number, "line");
        let why = format!("no valid line in {lines}: expected HEX:base:downloaded");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(summary)
}

/// Reads a line, of a long one no more than shows that it is too long; false at the end of the file.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut front = file.take(MAX_LINE_BYTES as u64 + 2);
    front.read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(true);
    }
    file.skip_until(b'\n')?;
    Ok(!line.is_empty())
}

/// `HEX:base:downloaded`, followed by white space at most. A count above the maximum counts as the maximum.
fn parse(line: &[u8]) -> Option<(InfoHash, u32)> {
    let line = Some(line).filter(|line| line.len() <= MAX_LINE_BYTES)?;
    let info_hash = hash_list::leading_hash(line)?;
    let numbers = line.trim_ascii_end().get(40..)?.strip_prefix(b":")?;
    let mut numbers = numbers.split(|&byte| byte == b':').map(number);
    let (_base, downloaded) = (numbers.next()??, numbers.next()??);
    let downloaded = u32::try_from(downloaded).unwrap_or(u32::MAX);
    numbers.next().is_none().then_some((info_hash, downloaded))
}

/// Digits only.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
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

    /// The numbers are those of the invalid lines that are logged.
    fn load(table: &Table, text: &str, buffer: usize) -> (DumpSummary, Vec<u64>) {
        let mut logged = Vec::new();
        let mut file = BufReader::with_capacity(buffer, text.as_bytes());
        let summary = super::load(&mut file, table, None, &mut |number| logged.push(number));
        (summary.expect("cannot fail"), logged)
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
            format!("{HEX}:1:1{}", " ".repeat(MAX_LINE_BYTES)),
        ] {
            assert_eq!(parsed(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn lines_are_counted_and_the_first_invalid_ones_logged() {
        let mut text = format!("{HEX}:1:7\nrubbish\n\n{}:1:0\n", HEX.replace('1', "2"));
        text.push_str(&"x".repeat(100_000));
        text.push('\n');
        text.push_str(&"bad\n".repeat(20));
        text.push_str(&format!(
            "{HEX}:1:9\n{HEX}:1:8\n{}:2:3",
            HEX.replace('1', "3")
        ));
        for buffer in [1, 7, 41, 1 << 20] {
            let table = table(100);
            let (summary, logged) = load(&table, &text, buffer);
            let expected = DumpSummary {
                loaded: 3,
                known: 1,
                zero: 1,
                left_out: 0,
                refused: 0,
                invalid: 23,
            };
            assert_eq!(summary, expected);
            assert_eq!(logged, [2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
            let hash = parse(format!("{HEX}:1:7").as_bytes()).expect("is one").0;
            let counts = table.lock_for(&hash, 0).scrape(&hash);
            assert_eq!(counts.map(|c| c.downloaded), Some(9), "the maximum");
        }
    }

    #[test]
    fn a_file_without_a_valid_line_is_no_dump() {
        for (text, lines) in [
            ("", "0 lines"),
            ("x", "1 line"),
            ("x:1:1\n\nroot:x:0\n", "3 lines"),
        ] {
            let error = super::load(&mut text.as_bytes(), &table(9), None, &mut |_| ());
            let why = format!("no valid line in {lines}: expected HEX:base:downloaded");
            assert_eq!(error.expect_err(text).to_string(), why);
        }
        let (summary, _) = load(&table(9), &format!("x\n{HEX}:1:0"), 99);
        assert_eq!((summary.zero, summary.invalid), (1, 1));
    }

    #[test]
    fn a_dump_leaves_a_quarter_of_the_torrents_to_those_with_peers() {
        let text: String = (0..100).map(|n| format!("{n:040x}:1:1\n")).collect();
        let table = table(40);
        let (summary, _) = load(&table, &text, 4096);
        assert_eq!((summary.loaded, summary.left_out), (30, 70));
        assert_eq!(table.survey(0).totals.torrents, 30);
    }
}
