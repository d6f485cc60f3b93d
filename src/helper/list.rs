//! A file of info-hashes, read and sorted. The daemon does this itself at the start, the helper at each reload.
//!
//! A file is rejected if it has lines but no info-hash, or bytes that are not text: it is some other file, named by
//! mistake, and a whitelist made of it would refuse all torrents. In a list, lines without an info-hash are skipped and
//! reported by number.

use crate::base::text;
use crate::protocol::find;
use crate::protocol::hash_list::{Line, Lines};
use crate::sys::files::open_regular;
use crate::tracker::InfoHash;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// 1.3 GB, so that no file can take all memory.
const MAX_HASHES: usize = 1 << 26;

const MAX_LINE_BYTES: usize = 64 * 1024;

/// Skipped lines that are reported by number.
const MAX_REPORTED: usize = 10;

#[derive(Debug, Default)]
pub struct ListFile {
    /// Sorted, without duplicates.
    pub hashes: Vec<InfoHash>,
    /// Which lines were skipped and why; empty if none.
    pub skipped: String,
}

/// Calls `each_piece` before every 64 KiB; its error ends the reading. An error says what is wrong with the file, and
/// in which line.
pub fn read(
    path: &Path,
    each_piece: &mut dyn FnMut() -> io::Result<()>,
) -> Result<ListFile, String> {
    let system = |error| text::reason(&error);
    let mut file = open_regular(path).map_err(system)?;
    let mut reader = Reading::default();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        each_piece().map_err(system)?;
        match file.read(&mut bytes) {
            Ok(0) => return reader.finish(),
            Ok(count) => reader.take(&bytes[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(system(error)),
        }
    }
}

/// A file, as far as it is read.
#[derive(Default)]
struct Reading {
    lines: Lines,
    line_count: usize,
    hashes: Vec<InfoHash>,
    /// The numbers of the first skipped lines, and how many more were skipped.
    skipped: Vec<usize>,
    more_skipped: usize,
}

impl Reading {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(at) = find(bytes, 0) {
            let breaks = bytes.iter().take(at).filter(|byte| **byte == b'\n');
            return Err(format!(
                "line {}: not text",
                self.line_count + breaks.count() + 1
            ));
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.take(bytes, &mut |line| self.add(line));
        self.lines = lines;
        if self.lines.unfinished() > MAX_LINE_BYTES {
            return Err(format!("line {}: over 64 KiB long", self.line_count + 1));
        }
        match self.hashes.len() > MAX_HASHES {
            true => Err(format!("more than {MAX_HASHES} info-hashes")),
            false => Ok(()),
        }
    }

    fn add(&mut self, line: Line) {
        self.line_count += 1;
        match line {
            Line::Hash(hash) => self.hashes.push(hash),
            Line::Hybrid(both) => self.hashes.extend(both),
            Line::Nothing => {}
            Line::Bad if self.skipped.len() < MAX_REPORTED => self.skipped.push(self.line_count),
            Line::Bad => self.more_skipped += 1,
        }
    }

    fn finish(mut self) -> Result<ListFile, String> {
        if self.lines.unfinished() > 0 {
            let last = self.lines.end();
            self.add(last);
        }
        if self.hashes.is_empty() && !self.skipped.is_empty() {
            let lines = text::counted(self.line_count as u64, "line");
            return Err(format!("no info-hash in {lines}"));
        }
        let skipped = self.report();
        let mut hashes = self.hashes;
        hashes.sort_unstable();
        hashes.dedup();
        Ok(ListFile { hashes, skipped })
    }

    fn report(&self) -> String {
        let numbers: Vec<String> = self.skipped.iter().map(usize::to_string).collect();
        let (numbers, plural) = (numbers.join(", "), text::plural(numbers.len() as u64));
        let more = match self.more_skipped {
            _ if self.skipped.is_empty() => return String::new(),
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("skipped line{plural} {numbers}{more}: expected an info-hash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00112233445566778899aabbccddeeff00112233\n";

    fn parse(text: &str, piece: usize) -> Result<ListFile, String> {
        let mut reading = Reading::default();
        for bytes in text.as_bytes().chunks(piece) {
            reading.take(bytes)?;
        }
        reading.finish()
    }

    #[test]
    fn hashes_are_sorted_without_duplicates() {
        let numbers = [7, 3, 9, 3, 7, 1];
        let text: String = numbers.iter().map(|n| format!("{n:040x}\n")).collect();
        for piece in [1, 50, 1000] {
            let list = parse(text.trim_end(), piece).expect("is a list");
            let last: Vec<u8> = list.hashes.iter().map(|hash| hash[19]).collect();
            assert_eq!((last, list.skipped), (vec![1, 3, 7, 9], String::new()));
        }
    }

    #[test]
    fn first_skipped_lines_are_reported_by_number() {
        let skipped = |text: &str| parse(text, 1000).expect("is a list").skipped;
        for (text, lines) in [
            (format!("# x\nbad\n{GOOD}"), "line 2"),
            (format!("bad\n{GOOD}\nbad"), "lines 1, 4"),
            (
                format!("{GOOD}{}", "bad\n".repeat(20)),
                "lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 10 more",
            ),
        ] {
            let expected = format!("skipped {lines}: expected an info-hash");
            assert_eq!(skipped(&text), expected);
        }
    }

    #[test]
    fn a_file_that_is_no_list_is_rejected_and_an_empty_one_is_not() {
        let long = "z".repeat(MAX_LINE_BYTES + 4096);
        for (text, error) in [
            ("", None),
            ("# nothing yet\n\n", None),
            ("x", Some("no info-hash in 1 line")),
            ("x\ny", Some("no info-hash in 2 lines")),
            ("x\0", Some("line 1: not text")),
            ("a\nb\n\0\n\n", Some("line 3: not text")),
            (&long, Some("line 1: over 64 KiB long")),
            (&format!("\n{long}\n"), Some("line 2: over 64 KiB long")),
        ] {
            assert_eq!(parse(text, 4096).err().as_deref(), error);
        }
    }
}
