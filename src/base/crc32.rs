//! The checksum of gzip (RFC 1952, 8), eight bytes in a step.
//!
//! One table and a byte in a step would take 2 ns a byte, a tenth of the cost of compression. The eight tables take
//! 8 KiB, so they are computed when they are needed and not stored in the binary.

use crate::sys::chunks::as_chunks;

/// The polynomial of ISO 3309, its lowest power in the highest bit.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The checksum of bytes that come in parts.
pub struct Crc32 {
    /// `tables[n][i]` is what the byte `i` adds with `n` bytes behind it.
    tables: Box<[[u32; 256]; 8]>,
    register: u32,
}

impl Crc32 {
    #[expect(clippy::new_without_default, reason = "it is not a cheap value")]
    pub fn new() -> Crc32 {
        let mut tables = Box::new([[0; 256]; 8]);
        for byte in 0..=u8::MAX {
            let mut register = u32::from(byte);
            for table in &mut *tables {
                for _ in 0..8 {
                    let carry = POLYNOMIAL & (register & 1).wrapping_neg();
                    register = (register >> 1) ^ carry;
                }
                table[usize::from(byte)] = register;
            }
        }
        Crc32 {
            tables,
            register: u32::MAX,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = &*self.tables;
        let mut register = self.register;
        let (words, rest) = as_chunks(bytes);
        for &[a, b, c, d, e, f, g, h] in words {
            let [a, b, c, d] = (u32::from_le_bytes([a, b, c, d]) ^ register).to_le_bytes();
            let at = |table: &[u32; 256], byte: u8| table[usize::from(byte)];
            register = at(t7, a) ^ at(t6, b) ^ at(t5, c) ^ at(t4, d);
            register ^= at(t3, e) ^ at(t2, f) ^ at(t1, g) ^ at(t0, h);
        }
        for byte in rest {
            let [low, ..] = register.to_le_bytes();
            register = (register >> 8) ^ t0[usize::from(low ^ byte)];
        }
        self.register = register;
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u32 {
        !self.register
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn sum(bytes: &[u8]) -> u32 {
        let mut crc = Crc32::new();
        crc.update(bytes);
        crc.value()
    }

    #[test]
    fn checksums_of_known_values() {
        assert_eq!(sum(b""), 0);
        assert_eq!(sum(b"a"), 0xe8b7_be43);
        assert_eq!(sum(b"123456789"), 0xcbf4_3926);
        assert_eq!(sum(&[0; 32]), 0x190a_55ad);
        assert_eq!(sum(&[0xff; 32]), 0xff6c_ab0b);
    }

    #[test]
    fn checksum_of_parts_is_that_of_the_whole_bit_by_bit() {
        let mut random = Random::seeded(32);
        let bytes: Vec<u8> = (0..1000).map(|_| random.draw() as u8).collect();
        let mut register = u32::MAX;
        for byte in &bytes {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = if register & 1 == 1 { POLYNOMIAL } else { 0 };
                register = (register >> 1) ^ carry;
            }
        }
        for _ in 0..200 {
            let mut crc = Crc32::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(random.below(rest.len().min(40) + 1));
                crc.update(part);
                rest = behind;
            }
            assert_eq!(crc.value(), !register);
        }
    }
}
