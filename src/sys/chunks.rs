//! Slices of bytes as slices of arrays: `as_chunks` and `as_chunks_mut`, which `std` has since Rust 1.88.

use std::slice;

/// The chunks of `N` bytes, and the rest, which is shorter than a chunk.
pub fn as_chunks<const N: usize>(bytes: &[u8]) -> (&[[u8; N]], &[u8]) {
    const { assert!(N > 0) };
    let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % N);
    // SAFETY: `whole` has `N` bytes for each of the arrays, which are aligned like bytes and borrowed as long as
    // `bytes`.
    let chunks = unsafe { slice::from_raw_parts(whole.as_ptr().cast(), whole.len() / N) };
    (chunks, rest)
}

/// The same, for writing.
pub fn as_chunks_mut<const N: usize>(bytes: &mut [u8]) -> (&mut [[u8; N]], &mut [u8]) {
    const { assert!(N > 0) };
    let (whole, rest) = bytes.split_at_mut(bytes.len() - bytes.len() % N);
    // SAFETY: as above. `whole` is not used again, so nothing else refers to the arrays.
    let chunks = unsafe { slice::from_raw_parts_mut(whole.as_mut_ptr().cast(), whole.len() / N) };
    (chunks, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_rest_are_the_whole_slice() {
        let mut bytes: Vec<u8> = (0..24).collect();
        for length in 0..bytes.len() {
            let slice = &mut bytes[..length];
            let (chunks, rest) = as_chunks::<7>(slice);
            assert_eq!((chunks.len(), rest.len()), (length / 7, length % 7));
            assert_eq!([chunks.as_flattened(), rest].concat(), slice);
            let copy = slice.to_vec();
            let (chunks, rest) = as_chunks_mut::<7>(slice);
            chunks.as_flattened_mut().iter_mut().for_each(|b| *b += 1);
            rest.iter_mut().for_each(|b| *b += 1);
            assert!(slice.iter().zip(copy).all(|(new, old)| *new == old + 1));
            slice.iter_mut().for_each(|b| *b -= 1);
        }
    }
}
