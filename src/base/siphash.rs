//! SipHash-2-4 (Aumasson, Bernstein 2012): a short keyed hash that strangers cannot predict.

use crate::sys::chunks::as_chunks;

/// The 64-bit hash of a message under a 128-bit key.
pub fn siphash24(key: [u64; 2], message: &[u8]) -> u64 {
    let mut state = State::new(key);
    state.absorb_all(message);
    state.finish()
}

/// The 128-bit hash, of the reference implementation's later variant: a pseudorandom function and a code
/// that authenticates messages. The result can be a key again.
pub fn siphash24_128(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    let mut state = State::new(key);
    state.0[1] ^= 0xee;
    state.absorb_all(message);
    state.finish_long()
}

/// The same of a message that comes in pieces.
pub struct Hasher {
    state: State,
    /// The bytes that do not fill a word yet.
    rest: [u8; 8],
    length: usize,
}

impl Hasher {
    pub fn new(key: [u64; 2]) -> Hasher {
        Hasher {
            state: State::new(key),
            rest: [0; 8],
            length: 0,
        }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.length % 8;
        self.length = self.length.wrapping_add(bytes.len());
        if held > 0 {
            let (first, others) = bytes.split_at(bytes.len().min(8 - held));
            self.rest[held..held + first.len()].copy_from_slice(first);
            if held + first.len() < 8 {
                return;
            }
            self.state.absorb(u64::from_le_bytes(self.rest));
            bytes = others;
        }
        let rest = self.state.absorb_words(bytes);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    pub fn finish(mut self) -> u64 {
        self.state
            .absorb_last(&self.rest[..self.length % 8], self.length);
        self.state.finish()
    }
}

struct State([u64; 4]);

impl State {
    fn new([k0, k1]: [u64; 2]) -> State {
        State([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    /// Inlined in any case: as a call it would cost twice as much.
    #[inline(always)]
    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v1);
        *v0 = v0.wrapping_add(*v3);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }

    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    fn absorb_all(&mut self, message: &[u8]) {
        let rest = self.absorb_words(message);
        self.absorb_last(rest, message.len());
    }

    /// Returns the bytes that do not fill a word.
    fn absorb_words<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (words, rest) = as_chunks(bytes);
        for word in words {
            self.absorb(u64::from_le_bytes(*word));
        }
        rest
    }

    /// The last word holds the remaining bytes, with the low byte of the message's length on top.
    fn absorb_last(&mut self, rest: &[u8], length: usize) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = (length & 0xff) as u8;
        self.absorb(u64::from_le_bytes(last));
    }

    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.squeeze()
    }

    fn finish_long(mut self) -> [u64; 2] {
        self.0[2] ^= 0xee;
        let low = self.squeeze();
        self.0[1] ^= 0xdd;
        [low, self.squeeze()]
    }

    fn squeeze(&mut self) -> u64 {
        for _ in 0..4 {
            self.round();
        }
        let [v0, v1, v2, v3] = self.0;
        v0 ^ v1 ^ v2 ^ v3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key 00 01 .. 0f and the message 00 01 .. 0e of the paper's appendix A, and two of the test
    /// vectors of the reference implementation.
    #[test]
    fn agrees_with_the_published_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(siphash24(key, &message), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash24(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(key, &message[..8]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn pieces_of_any_size_hash_as_the_whole() {
        let message: Vec<u8> = (0..100).collect();
        for length in 0..message.len() {
            for piece in 1..20 {
                let mut hasher = Hasher::new([1, 2]);
                for part in message[..length].chunks(piece) {
                    hasher.update(part);
                    hasher.update(&[]);
                }
                assert_eq!(hasher.finish(), siphash24([1, 2], &message[..length]));
            }
        }
    }

    /// Of the reference implementation's 64 vectors for 128 bits, with the same key: messages of 0, 1, 15
    /// and 63 bytes.
    #[test]
    fn agrees_with_the_published_long_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..63).collect();
        let vectors: [(usize, u128); 4] = [
            (0, 0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293),
            (1, 0xda87_c1d8_6b99_af44_3476_5911_9b22_fc45),
            (15, 0x5493_e999_33b0_a811_7e08_ec0f_97cf_c3d9),
            (63, 0x5150_d177_2f50_834a_503e_069a_973f_bd7c),
        ];
        for (length, expected) in vectors {
            let words = siphash24_128(key, &message[..length]);
            let bytes = words.map(u64::to_le_bytes);
            assert_eq!(bytes.as_flattened(), expected.to_be_bytes());
        }
    }
}
