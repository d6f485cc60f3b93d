//! All torrents, in info-hash order.
//!
//! Order makes a full scrape one walk: bencoded dictionaries are sorted. The table is a tree of three levels: branches
//! of leaves of torrents. Each level has fences beside the pointers, so that an insert moves some kilobytes at most, at
//! a thousand torrents or at ten million.
//!
//! Info-hashes are nearly always uniform, so a search starts where the hash would be if they were and
//! gallops from there. In a table full of hashes that an attacker chose it takes a few comparisons more,
//! never a linear search.

use super::lists::{reserve, trim};
use super::peer::InfoHash;
use super::swarms::Peers;
use crate::sys::memory::prefetch;

/// A torrent's entry: 32 bytes.
#[derive(Debug)]
pub struct Torrent {
    pub info_hash: InfoHash,
    /// Completed downloads.
    pub downloaded: u32,
    pub peers: Peers,
}

const _: () = assert!(size_of::<Torrent>() == 32);

#[derive(Debug)]
struct Leaf {
    /// Not above any hash in this leaf, and above all of those before it.
    fence: InfoHash,
    torrents: Vec<Torrent>,
}

#[derive(Debug)]
struct Branch {
    fence: InfoHash,
    leaves: Vec<Leaf>,
}

/// Torrents in a leaf at most: an insert moves 2 KiB on average.
const MAX_TORRENTS: usize = 128;
/// Leaves in a branch at most.
const MAX_LEAVES: usize = 512;

/// Sorted, in leaves, in branches; none of either is empty.
#[derive(Debug, Default)]
pub struct Torrents {
    branches: Vec<Branch>,
    len: usize,
}

/// A position in the table, valid until the next insert or removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    branch: usize,
    leaf: usize,
    index: usize,
}

/// A leaf, and the hashes that it may hold.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    at: Position,
    range: HashRange,
}

impl Torrents {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The torrent's position, or the one where it belongs.
    pub fn find(&self, hash: &InfoHash) -> Result<Position, Position> {
        let (at, range) = self.find_leaf(hash);
        self.find_within(hash, at, &range)
    }

    /// The position of the leaf that the hash belongs to, and the hashes that it may hold.
    fn find_leaf(&self, hash: &InfoHash) -> (Position, HashRange) {
        let mut range = HashRange {
            low: 0,
            high: u64::MAX,
        };
        let branch = last_not_above(&self.branches, hash, &mut range, |g| &g.fence);
        let leaves = self.branches.get(branch).map_or(&[][..], |g| &g.leaves);
        let leaf = last_not_above(leaves, hash, &mut range, |c| &c.fence);
        let at = Position {
            branch,
            leaf,
            index: 0,
        };
        (at, range)
    }

    fn torrents_of(&self, at: Position) -> &[Torrent] {
        let branch = self.branches.get(at.branch);
        let leaf = branch.and_then(|branch| branch.leaves.get(at.leaf));
        leaf.map_or(&[], |leaf| &leaf.torrents)
    }

    /// The torrents of the leaf at this position, from its index on.
    pub fn rest_of_leaf(&self, at: Position) -> &[Torrent] {
        self.torrents_of(at).get(at.index..).unwrap_or_default()
    }

    /// The same, for writing.
    #[inline]
    pub fn rest_of_leaf_mut(&mut self, at: Position) -> &mut [Torrent] {
        let branch = self.branches.get_mut(at.branch);
        let leaf = branch.and_then(|branch| branch.leaves.get_mut(at.leaf));
        leaf.and_then(|leaf| leaf.torrents.get_mut(at.index..))
            .unwrap_or_default()
    }

    fn find_within(
        &self,
        hash: &InfoHash,
        at: Position,
        range: &HashRange,
    ) -> Result<Position, Position> {
        let torrents = self.torrents_of(at);
        let after = count_not_above(torrents, hash, range, |t| &t.info_hash);
        match torrents.get(after.wrapping_sub(1)) {
            Some(torrent) if torrent.info_hash == *hash => Ok(Position {
                index: after - 1,
                ..at
            }),
            _ => Err(Position { index: after, ..at }),
        }
    }

    /// [`Torrents::find`] for a hash that is a little behind the last one in order, at a third of the cost.
    pub fn find_behind(&self, hash: &InfoHash, last: Position) -> Result<Position, Position> {
        /// Entries passed at most: half a kilobyte in a row.
        const REACH: usize = 16;
        let prefix_of_hash = prefix(hash);
        let near = self.rest_of_leaf(last).iter().take(REACH);
        let passed = near.take_while(|torrent| prefix(&torrent.info_hash) < prefix_of_hash);
        let index = last.index + passed.count();
        self.find_near(hash, Position { index, ..last })
    }

    /// Finds the leaf that the hash belongs to, and prefetches the entries where it should be.
    pub fn look_ahead(&self, hash: &InfoHash) -> Ahead {
        /// Entries from the guess, either way: a leaf's hashes are off by five on average in its middle.
        const REACH: usize = 6;
        let (at, range) = self.find_leaf(hash);
        let torrents = self.torrents_of(at);
        let guess = interpolate(prefix(hash), &range, torrents.len());
        // Two entries are a cache line.
        for i in (guess.saturating_sub(REACH)..=guess + REACH).step_by(2) {
            if let Some(torrent) = torrents.get(i) {
                prefetch(torrent);
            }
        }
        Ahead { at, range }
    }

    /// Goes on from there to the torrent, if the table has not changed since.
    pub fn look_further(&self, hash: &InfoHash, ahead: &Ahead) -> Option<(Position, &Torrent)> {
        let at = self.find_within(hash, ahead.at, &ahead.range).ok()?;
        Some((at, self.get(at)?))
    }

    /// The torrent's position, or the one where it belongs, with a guess at it.
    pub fn find_near(&self, hash: &InfoHash, guess: Position) -> Result<Position, Position> {
        match self.get(guess) {
            Some(torrent) if torrent.info_hash == *hash => Ok(guess),
            _ if self.belongs(hash, guess) => Err(guess),
            _ => self.find(hash),
        }
    }

    /// Whether a torrent that is not stored would be inserted between two neighbours there.
    fn belongs(&self, hash: &InfoHash, at: Position) -> bool {
        let torrents = self.torrents_of(at);
        let before = torrents.get(at.index.wrapping_sub(1));
        let is_behind = before.is_some_and(|torrent| torrent.info_hash < *hash);
        is_behind
            && match torrents.get(at.index) {
                Some(next) => next.info_hash > *hash,
                None => {
                    let fence = self.next_fence(at);
                    at.index == torrents.len() && fence.is_none_or(|fence| fence > *hash)
                }
            }
    }

    #[inline]
    pub fn get(&self, at: Position) -> Option<&Torrent> {
        self.rest_of_leaf(at).first()
    }

    pub fn get_mut(&mut self, at: Position) -> Option<&mut Torrent> {
        self.rest_of_leaf_mut(at).first_mut()
    }

    /// Inserts where [`Torrents::find`] said that it belongs; returns where it is now.
    pub fn insert(&mut self, mut at: Position, torrent: Torrent) -> Position {
        self.len += 1;
        if self.branches.is_empty() {
            let (fence, torrents) = (torrent.info_hash, Vec::new());
            let leaves = vec![Leaf { fence, torrents }];
            self.branches.push(Branch { fence, leaves });
        }
        if self.branches[at.branch].leaves[at.leaf].torrents.len() >= MAX_TORRENTS {
            at = self.split_leaf(at);
        }
        let branch = &mut self.branches[at.branch];
        let leaf = &mut branch.leaves[at.leaf];
        // Only the first leaf of a branch gets hashes below its fence: the first of all, or one whose predecessor
        // has gone.
        if at.index == 0 && at.leaf == 0 {
            leaf.fence = torrent.info_hash;
            if at.branch == 0 {
                branch.fence = torrent.info_hash;
            }
        }
        reserve(&mut leaf.torrents, 1);
        leaf.torrents.insert(at.index, torrent);
        at
    }

    /// Halves a full leaf, and its branch if that is full too; returns where `at` has gone.
    fn split_leaf(&mut self, mut at: Position) -> Position {
        if self.branches[at.branch].leaves.len() >= MAX_LEAVES {
            let left = &mut self.branches[at.branch].leaves;
            let middle = left.len() / 2;
            let leaves = left.split_off(middle);
            left.shrink_to_fit();
            let fence = leaves[0].fence;
            reserve(&mut self.branches, 1);
            self.branches
                .insert(at.branch + 1, Branch { fence, leaves });
            if at.leaf >= middle {
                at.branch += 1;
                at.leaf -= middle;
            }
        }
        let leaves = &mut self.branches[at.branch].leaves;
        let left = &mut leaves[at.leaf].torrents;
        let middle = left.len() / 2;
        let torrents = left.split_off(middle);
        left.shrink_to_fit();
        let fence = torrents[0].info_hash;
        reserve(leaves, 1);
        leaves.insert(at.leaf + 1, Leaf { fence, torrents });
        if at.index > middle {
            at.leaf += 1;
            at.index -= middle;
        }
        at
    }

    pub fn remove(&mut self, at: Position) {
        self.retain_in_leaf(at, |index, _| index != at.index);
    }

    /// The fence of the leaf after this position's.
    pub fn next_fence(&self, at: Position) -> Option<InfoHash> {
        let branch = self.branches.get(at.branch)?;
        match branch.leaves.get(at.leaf + 1) {
            Some(leaf) => Some(leaf.fence),
            None => self.branches.get(at.branch + 1).map(|g| g.fence),
        }
    }

    /// Keeps the torrents of this position's leaf for which `keep` is true; joins leaves and branches that become
    /// small.
    pub fn retain_in_leaf(&mut self, at: Position, mut keep: impl FnMut(usize, &Torrent) -> bool) {
        let Some(branch) = self.branches.get_mut(at.branch) else {
            return;
        };
        let Some(leaf) = branch.leaves.get_mut(at.leaf) else {
            return;
        };
        let before = leaf.torrents.len();
        let mut index = 0;
        leaf.torrents.retain(|torrent| {
            index += 1;
            keep(index - 1, torrent)
        });
        let after = leaf.torrents.len();
        self.len -= before - after;
        if after < before {
            trim(&mut leaf.torrents);
            tidy(&mut branch.leaves, at.leaf, MAX_TORRENTS, |c| {
                &mut c.torrents
            });
            tidy(&mut self.branches, at.branch, MAX_LEAVES, |g| &mut g.leaves);
        }
    }
}

/// After one of a row of vectors has shrunk: removes it if it is empty, joins it with the next one or
/// the one before if it is below a quarter of `max` and both are small.
fn tidy<P, T>(row: &mut Vec<P>, shrunk: usize, max: usize, inner: impl Fn(&mut P) -> &mut Vec<T>) {
    let mut length = |i: usize| row.get_mut(i).map_or(usize::MAX, |p| inner(p).len());
    let here = length(shrunk);
    let room = (max * 3 / 4).saturating_sub(here);
    let left = if here == 0 {
        row.remove(shrunk);
        return trim(row);
    } else if here >= max / 4 {
        return;
    } else if length(shrunk + 1) <= room {
        shrunk
    } else if shrunk > 0 && length(shrunk - 1) <= room {
        shrunk - 1
    } else {
        return;
    };
    let mut right = row.remove(left + 1);
    let left = inner(&mut row[left]);
    left.reserve_exact(inner(&mut right).len());
    left.append(inner(&mut right));
    trim(row);
}

/// The first eight bytes of the lowest and of the highest hash that may be found.
#[derive(Clone, Copy, Debug)]
struct HashRange {
    low: u64,
    high: u64,
}

fn prefix(hash: &InfoHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The last item whose hash is not above this one, or the first of all; narrows the range to what lies
/// between its fence and the next.
fn last_not_above<T>(
    items: &[T],
    hash: &InfoHash,
    range: &mut HashRange,
    fence: impl Fn(&T) -> &InfoHash,
) -> usize {
    let after = count_not_above(items, hash, range, &fence);
    if let Some(next) = items.get(after) {
        range.high = prefix(fence(next));
    }
    let found = after.saturating_sub(1);
    if after > 0 {
        range.low = prefix(fence(&items[found]));
    }
    found
}

/// How many items at the front have hashes not above this one. Starts from the place where it would be
/// if all hashes were spread evenly over the range, gallops, then halves.
fn count_not_above<T>(
    items: &[T],
    hash: &InfoHash,
    range: &HashRange,
    fence: impl Fn(&T) -> &InfoHash,
) -> usize {
    let not_above = |item: &T| {
        let other = fence(item);
        match prefix(other).cmp(&prefix(hash)) {
            std::cmp::Ordering::Equal => other <= hash,
            order => order.is_lt(),
        }
    };
    let guess = interpolate(prefix(hash), range, items.len());
    let (mut low, mut high) = (0, items.len());
    let mut step = 2;
    if items.get(guess).is_some_and(not_above) {
        low = guess + 1;
        while let Some(item) = items.get(low + step - 1) {
            if !not_above(item) {
                high = low + step - 1;
                break;
            }
            low += step;
            step *= 2;
        }
    } else {
        high = guess.min(high);
        while high >= step {
            if not_above(&items[high - step]) {
                low = high - step + 1;
                break;
            }
            high -= step;
            step *= 2;
        }
    }
    low + items[low..high].partition_point(not_above)
}

/// Where in `length` items, evenly spread over the range, a prefix would be.
fn interpolate(prefix: u64, range: &HashRange, length: usize) -> usize {
    let width = range.high.saturating_sub(range.low);
    // Down to 32 bits, so that one 64-bit multiplication and division do.
    let shift = (u64::BITS - width.leading_zeros()).saturating_sub(32);
    let offset = prefix.saturating_sub(range.low).min(width) >> shift;
    (offset * length as u64 / ((width >> shift) + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::collections::BTreeMap;

    fn torrent(info_hash: InfoHash, downloaded: u32) -> Torrent {
        Torrent {
            info_hash,
            downloaded,
            peers: Peers::Empty(0),
        }
    }

    fn random_hash(random: &mut Random) -> InfoHash {
        let mut hash = [0; 20];
        for part in hash.chunks_mut(4) {
            part.copy_from_slice(&random.draw().to_le_bytes()[..4]);
        }
        hash
    }

    fn check(table: &Torrents, model: &BTreeMap<InfoHash, u32>) {
        assert_eq!(table.len(), model.len());
        check_fences(table);
        let all: Vec<(InfoHash, u32)> = table
            .branches
            .iter()
            .flat_map(|g| &g.leaves)
            .flat_map(|c| &c.torrents)
            .map(|t| (t.info_hash, t.downloaded))
            .collect();
        assert!(all.iter().copied().eq(model.iter().map(|(h, d)| (*h, *d))));
    }

    /// Each fence is above all that comes before it and not above what it stands for.
    fn check_fences(table: &Torrents) {
        let mut last = None;
        for branch in &table.branches {
            assert!(!branch.leaves.is_empty() && branch.leaves.len() <= MAX_LEAVES);
            assert!(branch.fence <= branch.leaves[0].fence);
            assert!(last.is_none_or(|last| last < branch.fence));
            for leaf in &branch.leaves {
                assert!(!leaf.torrents.is_empty() && leaf.torrents.len() <= MAX_TORRENTS);
                assert!(last.is_none_or(|last| last < leaf.fence));
                assert!(leaf.fence <= leaf.torrents[0].info_hash);
                last = leaf.torrents.last().map(|t| t.info_hash);
            }
        }
    }

    fn numbered(n: u32) -> InfoHash {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        hash
    }

    /// Whole ranges go and come back, at the ends of branches and leaves too: what was below the fence of
    /// a leaf that has become the first of its branch must lower that fence when it returns.
    #[test]
    fn order_is_kept_when_ranges_are_removed_and_inserted_again() {
        let mut random = Random::seeded(22);
        let mut table = Torrents::default();
        let mut model = BTreeMap::new();
        let insert = |table: &mut Torrents, model: &mut BTreeMap<_, _>, n| {
            if let Err(at) = table.find(&numbered(n)) {
                table.insert(at, torrent(numbered(n), n));
                assert!(model.insert(numbered(n), n).is_none());
            }
        };
        for n in 0..60_000 {
            insert(&mut table, &mut model, n * 16);
        }
        assert!(table.branches.len() > 1);
        for _ in 0..600 {
            // Somewhere, or right at the beginning of a branch.
            let fences: Vec<u32> = table
                .branches
                .iter()
                .map(|g| prefix(&g.fence) >> 32)
                .map(|n| n as u32)
                .collect();
            let start = match random.below(2) {
                0 => random.below(60_000 * 16) as u32,
                _ => fences[random.below(fences.len())],
            };
            let end = start + 16 * (1 + random.below(200) as u32);
            for n in start..end {
                if let Ok(at) = table.find(&numbered(n)) {
                    table.remove(at);
                    assert!(model.remove(&numbered(n)).is_some());
                }
            }
            check_fences(&table);
            for _ in 0..random.below(300) {
                insert(
                    &mut table,
                    &mut model,
                    start.saturating_sub(16) + random.below(3300) as u32,
                );
            }
            check_fences(&table);
        }
        check(&table, &model);
        assert!(model.keys().all(|hash| table.find(hash).is_ok()));
    }

    /// A long life of inserts and removals with hashes made by `next`, against a BTreeMap.
    fn live(steps: usize, mut next: impl FnMut(&mut Random) -> InfoHash) {
        let mut random = Random::seeded(21);
        let mut table = Torrents::default();
        let mut model = BTreeMap::new();
        let mut known: Vec<InfoHash> = Vec::new();
        for step in 0..steps {
            let ebb = (step / (steps / 3)) % 2 == 1;
            let insert = known.is_empty() || random.below(10) < if ebb { 2 } else { 8 };
            if insert {
                let hash = next(&mut random);
                match table.find(&hash) {
                    Ok(at) => {
                        let found = table.get_mut(at).expect("found");
                        assert_eq!(model.get(&hash), Some(&found.downloaded));
                    }
                    Err(at) => {
                        let at = table.insert(at, torrent(hash, step as u32));
                        assert_eq!(table.get(at).map(|t| t.info_hash), Some(hash));
                        assert!(model.insert(hash, step as u32).is_none());
                        known.push(hash);
                    }
                }
            } else {
                let hash = known.swap_remove(random.below(known.len()));
                let at = table.find(&hash).expect("is there");
                table.remove(at);
                assert!(table.find(&hash).is_err());
                model.remove(&hash);
            }
        }
        check(&table, &model);
        for hash in known {
            let at = table.find(&hash).expect("is there");
            table.remove(at);
        }
        assert!(table.is_empty() && table.branches.is_empty());
    }

    #[test]
    fn behaves_as_a_sorted_map_with_random_hashes() {
        live(300_000, random_hash);
    }

    #[test]
    fn behaves_as_a_sorted_map_with_hashes_that_share_16_bytes() {
        live(100_000, |random| {
            let mut hash = [0xaa; 20];
            hash[16..].copy_from_slice(&(random.draw() as u32 % 100_000).to_be_bytes());
            hash
        });
    }

    #[test]
    fn behaves_as_a_sorted_map_with_rising_hashes_and_with_the_ends() {
        let mut n = 0_u64;
        live(100_000, |_| {
            let mut hash = [0; 20];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            n += 1;
            hash
        });
        let mut table = Torrents::default();
        for hash in [[0xff; 20], [0; 20]] {
            let at = table.find(&hash).expect_err("is new");
            table.insert(at, torrent(hash, 0));
            assert!(table.find(&hash).is_ok());
        }
    }

    #[test]
    fn leaves_are_walked_by_their_fences() {
        let mut random = Random::seeded(2);
        let mut table = Torrents::default();
        for _ in 0..5000 {
            let hash = random_hash(&mut random);
            if let Err(at) = table.find(&hash) {
                table.insert(at, torrent(hash, 0));
            }
        }
        let mut seen = Vec::new();
        let mut from = Some([0; 20]);
        while let Some(hash) = from {
            let at = table.find(&hash).unwrap_or_else(|at| at);
            seen.extend(table.rest_of_leaf(at).iter().map(|t| t.info_hash));
            from = table.next_fence(at);
        }
        assert_eq!(seen.len(), table.len());
        assert!(seen.is_sorted());
    }

    #[test]
    fn a_search_among_colliding_hashes_stays_short() {
        let mut hashes: Vec<InfoHash> = (0..512_u32)
            .map(|n| {
                let mut hash = [7; 20];
                hash[16..].copy_from_slice(&n.to_be_bytes());
                hash
            })
            .collect();
        hashes.sort_unstable();
        let looks = std::cell::Cell::new(0);
        for (i, hash) in hashes.iter().enumerate() {
            let range = HashRange {
                low: 0,
                high: u64::MAX,
            };
            looks.set(0);
            let count = count_not_above(&hashes, hash, &range, |h| {
                looks.set(looks.get() + 1);
                h
            });
            assert_eq!(count, i + 1);
            assert!(looks.get() < 30, "{} looks", looks.get());
        }
    }
}
