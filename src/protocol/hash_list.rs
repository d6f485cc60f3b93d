//! Lists of info-hashes: a line is 40 hexadecimal digits of either case, then nothing or anything but another digit.
//! Lines that are empty or begin with `#` are skipped.
//!
//! Text arrives in pieces that end anywhere. Of an unfinished line the parser keeps only the bytes that an info-hash
//! takes.

use crate::protocol::{find, hex_byte};
use crate::sys::chunks::as_chunks;
use crate::tracker::InfoHash;

const DIGITS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Hash(InfoHash),
    /// Empty, or a comment.
    Nothing,
    /// Invalid.
    Bad,
}

/// A parser of text in pieces.
#[derive(Debug)]
pub struct Lines {
    /// The front of the unfinished line.
    head: [u8; DIGITS + 1],
    /// Its length so far.
    length: usize,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            head: [0; DIGITS + 1],
            length: 0,
        }
    }
}

impl Lines {
    /// Takes a piece of text and calls `each` for every line that ends in it.
    pub fn take(&mut self, mut text: &[u8], each: &mut dyn FnMut(Line)) {
        while let Some(end) = find(text, b'\n') {
            let (line, rest) = text.split_at(end);
            text = rest.get(1..).unwrap_or_default();
            match self.length {
                0 => each(parse(line)),
                _ => {
                    self.keep(line);
                    each(self.end());
                }
            }
        }
        self.keep(text);
    }

    /// The length of the unfinished line.
    pub fn unfinished(&self) -> usize {
        self.length
    }

    /// Ends the last line, which may lack a newline.
    pub fn end(&mut self) -> Line {
        let length = std::mem::take(&mut self.length);
        parse(self.head.get(..length).unwrap_or(&self.head))
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some(room) = self.head.get_mut(self.length..) {
            let (room, part) = (room.iter_mut(), part.iter());
            room.zip(part).for_each(|(room, byte)| *room = *byte);
        }
        self.length = self.length.saturating_add(part.len());
    }
}

pub fn parse(line: &[u8]) -> Line {
    // Only the front of a longer line may have been kept.
    let is_blank = line.len() <= DIGITS && line.trim_ascii().is_empty();
    if is_blank || line.first() == Some(&b'#') {
        return Line::Nothing;
    }
    let (digits, rest) = line.split_at(line.len().min(DIGITS));
    let (pairs, _) = as_chunks(digits);
    let mut hash = [0; 20];
    let is_longer = rest.first().is_some_and(u8::is_ascii_hexdigit);
    if pairs.len() != hash.len() || is_longer {
        return Line::Bad;
    }
    for (byte, digits) in hash.iter_mut().zip(pairs) {
        match hex_byte(*digits) {
            Some(value) => *byte = value,
            None => return Line::Bad,
        }
    }
    Line::Hash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn lines_of(text: &[u8], pieces: &[usize]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut start = 0;
        for &end in pieces.iter().chain([&text.len()]) {
            lines.take(&text[start..end], &mut |line| all.push(line));
            start = end;
        }
        if lines.unfinished() > 0 {
            all.push(lines.end());
        }
        all
    }

    const TEXT: &str = "# a comment\n\
        00112233445566778899aabbccddeeff00112233\n\
        00112233445566778899AABBCCDDEEFF00112233 a name\n\
        \n\
        \x20\r\n\
        00112233445566778899aabbccddeeff0011223\n\
        00112233445566778899aabbccddeeff001122334\n\
        00112233445566778899aabbccddeeff0011223g\n\
        \x2000112233445566778899aabbccddeeff00112233\n\
        00112233445566778899aabbccddeeff00112233\r\n\
        00112233445566778899aabbccddeeff00112233#\n\
        #0112233445566778899aabbccddeeff00112233\n\
        00112233445566778899aabbccddeeff00112233";

    fn expected() -> Vec<Line> {
        let mut hash = [0; 20];
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = 0x11 * (i as u8 % 16);
        }
        let hash = Line::Hash(hash);
        let (bad, nothing) = (Line::Bad, Line::Nothing);
        vec![
            nothing, hash, hash, nothing, nothing, bad, bad, bad, bad, hash, hash, nothing, hash,
        ]
    }

    #[test]
    fn hashes_comments_and_invalid_lines_are_distinguished() {
        assert_eq!(lines_of(TEXT.as_bytes(), &[]), expected());
        assert_eq!(lines_of(b"", &[]), []);
        assert_eq!(lines_of(b"\n", &[]), [Line::Nothing]);
        let long = "0".repeat(100_000);
        assert_eq!(lines_of(long.as_bytes(), &[7, 50_000]), [Line::Bad]);
        let spaces = format!("{}x\n", " ".repeat(100));
        assert_eq!(lines_of(spaces.as_bytes(), &[]), [Line::Bad]);
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let text = TEXT.as_bytes();
        for end in 0..text.len() {
            assert_eq!(lines_of(text, &[end]), expected(), "{end}");
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert_eq!(lines_of(text, &every), expected());
    }

    #[test]
    fn pieces_and_whole_give_the_same_lines_of_mutated_text() {
        let mut random = Random::seeded(3);
        for _ in 0..20_000 {
            let mut text = TEXT.as_bytes().to_vec();
            for _ in 0..random.below(8) {
                let at = random.below(text.len());
                text[at] = random.draw() as u8;
            }
            let mut ends: Vec<usize> = (0..3).map(|_| random.below(text.len())).collect();
            ends.sort_unstable();
            assert_eq!(lines_of(&text, &ends), lines_of(&text, &[]));
        }
    }
}
