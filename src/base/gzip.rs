//! gzip (RFC 1952): written in slices, a header, the output of `miniz_oxide`, a checksum; and read from a file.

use crate::base::crc32::Crc32;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress_to_output};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::mem;

/// How the compressor searches: up to eight earlier matches for each position, and lazily.
///
/// Measured on full scrapes of 20,000 torrents against zlib at level 7, as opentracker uses it: fewer matches make
/// the output larger than zlib's, and more make it hardly smaller. Most of the output is info-hashes, which do not
/// compress; the rest is found at once.
const FLAGS: u32 = 8;

/// Deflate, no name, no time, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A block ends after this much input. Otherwise it grows to some 1,800 torrents, and encoding it made clients wait for
/// more than a millisecond. Blocks of this size make the output 0.4 % larger.
const BLOCK_BYTES: usize = 32 * 1024;

/// The output of one slice takes up to 85 KiB.
pub struct Gzip {
    compressor: CompressorOxide,
    checksum: Crc32,
    /// Bytes compressed so far, modulo 2^32.
    length: u32,
    /// Bytes of them in the current block.
    in_block: usize,
    /// Until it is written.
    header: &'static [u8],
}

impl Gzip {
    /// Bytes that a compressor takes.
    pub const SIZE: usize = 330 * 1024;

    #[expect(clippy::new_without_default, reason = "it is not a cheap value")]
    pub fn new() -> Gzip {
        Gzip {
            compressor: CompressorOxide::new(FLAGS),
            checksum: Crc32::new(),
            length: 0,
            in_block: 0,
            header: &HEADER,
        }
    }

    /// Compresses the next bytes, and appends what is complete. Most calls append nothing, then one appends a block.
    pub fn compress(&mut self, bytes: &[u8], is_last: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(mem::take(&mut self.header));
        self.checksum.update(bytes);
        // The trailer has room for 32 bits.
        self.length = self.length.wrapping_add(bytes.len() as u32);
        self.in_block += bytes.len();
        let mut flush = TDEFLFlush::None;
        if is_last {
            flush = TDEFLFlush::Finish;
        } else if self.in_block >= BLOCK_BYTES {
            (flush, self.in_block) = (TDEFLFlush::Sync, 0);
        }
        // It takes all of its input, and fails only if the output is refused.
        compress_to_output(&mut self.compressor, bytes, flush, |compressed| {
            out.extend_from_slice(compressed);
            true
        });
        if is_last {
            out.extend_from_slice(&self.checksum.value().to_le_bytes());
            out.extend_from_slice(&self.length.to_le_bytes());
        }
    }
}

/// The content of a file, which may be compressed.
pub fn decompressed(mut file: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    match file.fill_buf()?.starts_with(&MAGIC) {
        true => Ok(Box::new(BufReader::new(Gunzip::new(file)))),
        false => Ok(Box::new(file)),
    }
}

const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bits of the fourth byte: the header goes on with a checksum, a field of some length, a name, a comment.
const HAS_CHECKSUM: u8 = 2;
const HAS_EXTRA: u8 = 4;
const HAS_NAME: u8 = 8;
const HAS_COMMENT: u8 = 16;

/// The bytes in a file of one or more members.
struct Gunzip<R> {
    file: R,
    /// None between members.
    member: Option<Box<InflateState>>,
    checksum: Crc32,
    /// Bytes of the member so far, modulo 2^32.
    length: u32,
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "damaged gzip")
}

impl<R: BufRead> Gunzip<R> {
    fn new(file: R) -> Gunzip<R> {
        Gunzip {
            file,
            member: None,
            checksum: Crc32::new(),
            length: 0,
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        // A file that is cut off is damaged too.
        self.file.read_exact(&mut bytes).map_err(|_| damaged())?;
        Ok(bytes)
    }

    fn begin_member(&mut self) -> io::Result<()> {
        let [a, b, method, flags, ..] = self.take::<10>()?;
        if [a, b] != MAGIC || method != 8 {
            return Err(damaged());
        }
        if flags & HAS_EXTRA != 0 {
            for _ in 0..u16::from_le_bytes(self.take()?) {
                self.take::<1>()?;
            }
        }
        for flag in [HAS_NAME, HAS_COMMENT] {
            if flags & flag != 0 {
                self.file.skip_until(0)?;
            }
        }
        if flags & HAS_CHECKSUM != 0 {
            self.take::<2>()?;
        }
        self.member = Some(InflateState::new_boxed(DataFormat::Raw));
        Ok(())
    }

    fn end_member(&mut self) -> io::Result<()> {
        let checksum = mem::replace(&mut self.checksum, Crc32::new()).value();
        let expected = [checksum, mem::take(&mut self.length)].map(u32::to_le_bytes);
        self.member = None;
        match [self.take()?, self.take()?] == expected {
            true => Ok(()),
            false => Err(damaged()),
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let is_at_end = self.file.fill_buf()?.is_empty();
            let Some(member) = &mut self.member else {
                match is_at_end || out.is_empty() {
                    true => return Ok(0),
                    false => self.begin_member()?,
                }
                continue;
            };
            let result = inflate(member, self.file.fill_buf()?, out, MZFlush::None);
            let (consumed, written) = (result.bytes_consumed, result.bytes_written);
            self.file.consume(consumed);
            self.checksum.update(out.get(..written).unwrap_or_default());
            // The trailer has room for 32 bits.
            self.length = self.length.wrapping_add(written as u32);
            match result.status {
                Ok(MZStatus::StreamEnd) => self.end_member()?,
                // No progress with all of the file before it: it is cut off.
                Ok(_) | Err(MZError::Buf) if consumed + written > 0 => {}
                _ => return Err(damaged()),
            }
            if written > 0 {
                return Ok(written);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use miniz_oxide::inflate::decompress_to_vec;

    fn unpacked(gzip: &[u8]) -> Vec<u8> {
        let (head, rest) = gzip.split_at(HEADER.len());
        assert_eq!(head, HEADER);
        let (deflated, trailer) = rest.split_at(rest.len() - 8);
        let bytes = decompress_to_vec(deflated).expect("is deflated");
        let mut crc = Crc32::new();
        crc.update(&bytes);
        assert_eq!(trailer[..4], crc.value().to_le_bytes());
        assert_eq!(trailer[4..], (bytes.len() as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn decompressing_gives_the_input_back() {
        let mut random = Random::seeded(1952);
        for length in [0, 1, 2, 100, 10_000, 300_000] {
            for alphabet in [1, 3, 256] {
                let bytes: Vec<u8> = (0..length).map(|_| random.below(alphabet) as u8).collect();
                let mut out = Vec::new();
                let mut gzip = Gzip::new();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (part, behind) = rest.split_at(random.below(rest.len().min(50_000)) + 1);
                    gzip.compress(part, false, &mut out);
                    rest = behind;
                }
                gzip.compress(b"", true, &mut out);
                assert!(unpacked(&out) == bytes, "{length} of {alphabet}");
            }
        }
    }

    /// Reads at most so many bytes at once.
    fn read(file: &[u8], piece: usize) -> Option<Vec<u8>> {
        let file = BufReader::with_capacity(piece, io::Cursor::new(file.to_vec()));
        let mut bytes = Vec::new();
        let mut content = decompressed(file).ok()?;
        content.read_to_end(&mut bytes).ok().map(|_| bytes)
    }

    #[test]
    fn members_with_headers_of_all_kinds_are_decompressed() {
        let mut random = Random::seeded(1953);
        let text: Vec<u8> = (0..100_000).map(|_| random.below(9) as u8).collect();
        let mut plain = Vec::new();
        Gzip::new().compress(&text, true, &mut plain);
        let body = &plain[HEADER.len()..];
        let header = |flags| [0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 5, 6];
        let all = HAS_CHECKSUM | HAS_EXTRA | HAS_NAME | HAS_COMMENT;
        let named = [&header(HAS_NAME)[..], b"dump\0", body].concat();
        let full = [&header(all)[..], b"\x03\0abcname\0comment\0hc", body].concat();
        let twice = [&full[..], &named].concat();
        for piece in [2, 1000, 1 << 20] {
            for file in [&plain, &named, &full] {
                assert!(read(file, piece).as_ref() == Some(&text), "{piece}");
            }
            assert!(read(&twice, piece) == Some([&text[..], &text].concat()));
            assert_eq!(read(b"plain", piece), Some(b"plain".to_vec()));
            assert_eq!(read(b"", piece), Some(vec![]));
        }
        for length in (2..full.len()).rev().step_by(97) {
            assert_eq!(read(&full[..length], 1000), None, "cut off at {length}");
        }
        for at in [2, full.len() - 1, full.len() - 8] {
            let mut changed = full.clone();
            changed[at] ^= 1;
            assert_eq!(read(&changed, 1000), None, "changed at {at}");
        }
        for _ in 0..1000 {
            let mut file = full.clone();
            let at = random.below(file.len());
            file[at] = random.draw() as u8;
            let _ = read(&file, 1000);
        }
    }

    #[test]
    fn output_of_a_slice_is_bounded() {
        let mut random = Random::seeded(85);
        let mut out = Vec::new();
        let mut gzip = Gzip::new();
        let mut max = 0;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..20_000).map(|_| random.draw() as u8).collect();
            let before = out.len();
            gzip.compress(&bytes, false, &mut out);
            max = max.max(out.len() - before);
        }
        assert!(max < 120_000, "{max}");
    }
}
