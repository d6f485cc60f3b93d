//! gzip (RFC 1952) in slices: a header, the output of `miniz_oxide`, a checksum.

use crate::base::crc32::Crc32;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress_to_output};
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
