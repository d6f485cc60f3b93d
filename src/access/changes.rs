//! The info-hashes that were added to a list or removed from it since it was read.
//!
//! Sorted, in chunks of bounded size, so that one more change moves some kilobytes, whether there are ten or a million.

use crate::tracker::InfoHash;

/// Changes in a chunk.
const CHUNK: usize = 512;

/// 21 MB.
pub const MAX_CHANGES: usize = 1_000_000;

/// A hash, and whether it is in the list now.
pub type Change = (InfoHash, bool);

#[derive(Debug, Default)]
pub struct Changes {
    /// No chunk is empty.
    chunks: Vec<Vec<Change>>,
    len: usize,
}

impl Changes {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the last change of the hash added it; none if there was no change.
    pub fn get(&self, hash: &InfoHash) -> Option<bool> {
        let chunk = self.chunks.get(self.chunk_of(hash))?;
        let at = chunk.binary_search_by(|change| change.0.cmp(hash)).ok()?;
        chunk.get(at).map(|change| change.1)
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Adds a hash to the list or removes it; false if there are [`MAX_CHANGES`] already.
    #[must_use]
    pub fn set(&mut self, hash: InfoHash, listed: bool) -> bool {
        let at = self.chunk_of(&hash);
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        let chunk = &mut self.chunks[at];
        match chunk.binary_search_by(|change| change.0.cmp(&hash)) {
            Ok(found) => chunk[found].1 = listed,
            Err(_) if self.len >= MAX_CHANGES => return false,
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

    /// The chunk of a hash: the last that begins at or before it, or the first.
    fn chunk_of(&self, hash: &InfoHash) -> usize {
        let begins_not_after = |chunk: &Vec<Change>| chunk.first().is_some_and(|c| c.0 <= *hash);
        let after = self.chunks.partition_point(begins_not_after);
        after.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::collections::BTreeMap;

    #[test]
    fn changes_behave_as_a_map() {
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
    fn the_number_of_changes_is_bounded() {
        let mut changes = Changes {
            len: MAX_CHANGES - 1,
            ..Changes::default()
        };
        assert!(changes.set([1; 20], true));
        assert!(!changes.set([2; 20], true));
        assert!(changes.set([1; 20], false), "no more than before");
        assert_eq!(changes.get(&[1; 20]), Some(false));
        assert_eq!(changes.get(&[2; 20]), None);
    }
}
