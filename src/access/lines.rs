//! Lines that name info-hashes: 40 hexadecimal digits of any case, and after them anything that is not
//! another such digit. Empty lines, and those that begin with `#`, name none.
//!
//! Text comes in pieces that end anywhere. Of an unfinished line no more is kept than what may tell a
//! hash.

use crate::proto::find;
use crate::sys::chunks::as_chunks;
use crate::tracker::InfoHash;

const DIGITS: usize = 40;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Hash(InfoHash),
    /// Empty, or a comment.
    Nothing,
    /// Neither.
    Bad,
}

/// A reader of lines.
#[derive(Debug)]
pub struct Lines {
    /// The front of the line that is not yet over.
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
    /// Takes a piece of text; `each` is called for every line that ends in it.
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

    /// The length of the line that is not yet over.
    pub fn unfinished(&self) -> usize {
        self.length
    }

    /// Ends the last line, which no newline may follow.
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

fn parse(line: &[u8]) -> Line {
    // Of a line longer than this only the front may be at hand.
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
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Line::Bad,
        }
    }
    Line::Hash(hash)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

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
    fn lines_are_what_they_say() {
        assert_eq!(lines_of(TEXT.as_bytes(), &[]), expected());
        assert_eq!(lines_of(b"", &[]), []);
        assert_eq!(lines_of(b"\n", &[]), [Line::Nothing]);
        let long = "0".repeat(100_000);
        assert_eq!(lines_of(long.as_bytes(), &[7, 50_000]), [Line::Bad]);
        let spaces = format!("{}x\n", " ".repeat(100));
        assert_eq!(lines_of(spaces.as_bytes(), &[]), [Line::Bad]);
    }

    #[test]
    fn it_does_not_matter_where_pieces_end() {
        let text = TEXT.as_bytes();
        for end in 0..text.len() {
            assert_eq!(lines_of(text, &[end]), expected(), "{end}");
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert_eq!(lines_of(text, &every), expected());
    }

    #[test]
    fn no_bytes_do_harm() {
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
