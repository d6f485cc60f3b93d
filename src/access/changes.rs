//! What was added to a list and removed from it since it was read.
//!
//! Sorted, in chunks of bounded size, so that a change moves some kilobytes whether there are ten of them
//! or a million.

use crate::tracker::InfoHash;

/// Changes in a chunk.
const CHUNK: usize = 512;

/// Changes that are kept: 21 MB at most.
pub const MOST: usize = 1_000_000;

/// A hash, and whether it is in the list now.
pub type Change = (InfoHash, bool);

#[derive(Debug, Default)]
pub struct Changes {
    /// None is empty.
    chunks: Vec<Vec<Change>>,
    len: usize,
}

impl Changes {
    /// Whether the hash was added or removed, whichever was last.
    pub fn get(&self, hash: &InfoHash) -> Option<bool> {
        let chunk = self.chunks.get(self.chunk_of(hash))?;
        let at = chunk.binary_search_by(|change| change.0.cmp(hash)).ok()?;
        chunk.get(at).map(|change| change.1)
    }

    /// Notes that a hash is in the list from now on, or is not; false if there are [`MOST`] already.
    #[must_use]
    pub fn set(&mut self, hash: InfoHash, listed: bool) -> bool {
        let at = self.chunk_of(&hash);
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        let chunk = &mut self.chunks[at];
        match chunk.binary_search_by(|change| change.0.cmp(&hash)) {
            Ok(found) => chunk[found].1 = listed,
            Err(_) if self.len >= MOST => return false,
            Err(place) => {
                chunk.insert(place, (hash, listed));
                self.len += 1;
                if chunk.len() > CHUNK {
                    let right = chunk.split_off(CHUNK / 2);
                    self.chunks.insert(at + 1, right);
                }
            }
        }
        true
    }

    /// The chunk that a hash belongs to: the last that begins at or before it, or the first.
    fn chunk_of(&self, hash: &InfoHash) -> usize {
        let begins_not_after = |chunk: &Vec<Change>| chunk.first().is_some_and(|c| c.0 <= *hash);
        let after = self.chunks.partition_point(begins_not_after);
        after.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    #[test]
    fn behaves_as_a_map() {
        let mut random = Random::seeded(1);
        let mut changes = Changes::default();
        let mut model = BTreeMap::new();
        for _ in 0..50_000 {
            let mut hash = [0; 20];
            hash[2..4].copy_from_slice(&(random.draw() as u16).to_be_bytes());
            let listed = random.below(2) == 0;
            assert_eq!(changes.get(&hash), model.get(&hash).copied());
            assert!(changes.set(hash, listed));
            model.insert(hash, listed);
        }
        assert_eq!(changes.len, model.len());
        assert!(changes.chunks.len() > 50);
        assert!(
            changes
                .chunks
                .iter()
                .all(|c| (1..=CHUNK).contains(&c.len()))
        );
        assert!(changes.chunks.iter().flatten().copied().eq(model));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut changes = Changes {
            len: MOST - 1,
            ..Changes::default()
        };
        assert!(changes.set([1; 20], true));
        assert!(!changes.set([2; 20], true));
        assert!(changes.set([1; 20], false), "no more than before");
        assert_eq!(changes.get(&[1; 20]), Some(false));
        assert_eq!(changes.get(&[2; 20]), None);
    }
}
