//! All torrents, in info-hash order.
//!
//! Bencoded dictionaries are sorted, so a full scrape is one walk. The table is a tree of three levels: branches of
//! leaves of torrents. Fences stand beside the pointers of both upper levels. An insert moves a few kilobytes at most,
//! whether the table holds a thousand torrents or ten million.
//!
//! Info-hashes are nearly always uniform, so a search starts where a uniform hash would be and gallops from there.
//! Among hashes that an attacker chose, a search takes a few more comparisons and is never linear.

use super::peer::InfoHash;
use super::swarms::Peers;
use crate::base::memory::{reserve, reserve_exact, trim};
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

/// A leaf holds torrents, a branch holds leaves.
#[derive(Debug)]
struct Span<T> {
    /// Not above any hash in this span, and above all of those before it.
    fence: InfoHash,
    items: Vec<T>,
}

/// Torrents in a leaf at most: an insert moves 2 KiB on average.
const MAX_TORRENTS: usize = 128;
/// Leaves in a branch at most.
const MAX_LEAVES: usize = 512;

/// Sorted, in leaves, in branches; none of either is empty.
#[derive(Debug, Default)]
pub struct Torrents {
    branches: Vec<Span<Span<Torrent>>>,
    len: usize,
}

/// A position in the table, valid until the next insertion or removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    branch: usize,
    leaf: usize,
    index: usize,
}

/// The position of a leaf, and the hashes that the leaf may hold.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    at: Position,
    range: HashRange,
}

impl Torrents {
    pub fn len(&self) -> usize {
        self.len
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
        let branch = last_not_above(&self.branches, hash, &mut range);
        let leaves = self.branches.get(branch).map_or(&[][..], |b| &b.items);
        let leaf = last_not_above(leaves, hash, &mut range);
        let at = Position {
            branch,
            leaf,
            index: 0,
        };
        (at, range)
    }

    fn torrents_of(&self, at: Position) -> &[Torrent] {
        let branch = self.branches.get(at.branch);
        let leaf = branch.and_then(|branch| branch.items.get(at.leaf));
        leaf.map_or(&[], |leaf| &leaf.items)
    }

    /// The torrents of the leaf at this position, from its index on.
    pub fn rest_of_leaf(&self, at: Position) -> &[Torrent] {
        self.torrents_of(at).get(at.index..).unwrap_or_default()
    }

    /// The same, for writing.
    #[inline]
    pub fn rest_of_leaf_mut(&mut self, at: Position) -> &mut [Torrent] {
        let branch = self.branches.get_mut(at.branch);
        let leaf = branch.and_then(|branch| branch.items.get_mut(at.leaf));
        leaf.and_then(|leaf| leaf.items.get_mut(at.index..))
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

    /// [`Torrents::find`] for a hash that follows shortly after the last one in order, at a third of the cost.
    pub fn find_behind(&self, hash: &InfoHash, last: Position) -> Result<Position, Position> {
        /// The most entries that are passed: half a kilobyte in a row.
        const REACH: usize = 16;
        let prefix_of_hash = prefix(hash);
        let near = self.rest_of_leaf(last).iter().take(REACH);
        let passed = near.take_while(|torrent| prefix(&torrent.info_hash) < prefix_of_hash);
        let index = last.index + passed.count();
        self.find_near(hash, Some(Position { index, ..last }))
    }

    /// Finds the leaf that the hash belongs to, and prefetches the entries where it should be.
    pub fn look_ahead(&self, hash: &InfoHash) -> Ahead {
        /// Entries on each side of the guess: in the middle of a leaf the guess is off by five on average.
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

    /// The torrent's position, if it is in that leaf.
    pub fn look_further(&self, hash: &InfoHash, ahead: &Ahead) -> Option<Position> {
        self.find_within(hash, ahead.at, &ahead.range).ok()
    }

    /// The torrent's position, or the one where it belongs, with a guess at it.
    pub fn find_near(
        &self,
        hash: &InfoHash,
        guess: Option<Position>,
    ) -> Result<Position, Position> {
        let torrent = guess.and_then(|guess| self.get(guess));
        match (guess, torrent) {
            (Some(guess), Some(torrent)) if torrent.info_hash == *hash => Ok(guess),
            (Some(guess), _) if self.belongs(hash, guess) => Err(guess),
            _ => self.find(hash),
        }
    }

    /// Whether a torrent that is not stored would be inserted at this position.
    fn belongs(&self, hash: &InfoHash, at: Position) -> bool {
        let torrents = self.torrents_of(at);
        let before = torrents.get(at.index.wrapping_sub(1));
        let next = torrents.get(at.index).map(|next| next.info_hash);
        let next = next.or_else(|| self.next_fence(at));
        before.is_some_and(|before| before.info_hash < *hash)
            && next.is_none_or(|next| next > *hash)
    }

    #[inline]
    pub fn get(&self, at: Position) -> Option<&Torrent> {
        self.rest_of_leaf(at).first()
    }

    pub fn get_mut(&mut self, at: Position) -> Option<&mut Torrent> {
        self.rest_of_leaf_mut(at).first_mut()
    }

    /// Inserts a torrent at the position that [`Torrents::find`] returned. Returns its final position; none if there is
    /// no memory for it.
    pub fn insert(&mut self, mut at: Position, torrent: Torrent) -> Option<Position> {
        if self.branches.is_empty() {
            return self.insert_first(torrent);
        }
        if self.branches[at.branch].items[at.leaf].items.len() >= MAX_TORRENTS {
            at = self.split_leaf(at)?;
        }
        let branch = &mut self.branches[at.branch];
        let leaf = &mut branch.items[at.leaf];
        reserve(&mut leaf.items, 1)?;
        // Only the first leaf of a branch receives hashes below its fence: it is the first leaf of the table, or the
        // leaf before it was removed.
        if at.index == 0 && at.leaf == 0 {
            leaf.fence = torrent.info_hash;
            if at.branch == 0 {
                branch.fence = torrent.info_hash;
            }
        }
        leaf.items.insert(at.index, torrent);
        self.len += 1;
        Some(at)
    }

    fn insert_first(&mut self, torrent: Torrent) -> Option<Position> {
        let fence = torrent.info_hash;
        let (mut leaf, mut leaves) = (Vec::new(), Vec::new());
        reserve(&mut leaf, 1)?;
        reserve(&mut leaves, 1)?;
        reserve(&mut self.branches, 1)?;
        leaf.push(torrent);
        leaves.push(Span { fence, items: leaf });
        let items = leaves;
        self.branches.push(Span { fence, items });
        self.len = 1;
        Some(Position::default())
    }

    /// Halves a full leaf, and its branch if the branch is full too. Returns the new position of `at`.
    fn split_leaf(&mut self, mut at: Position) -> Option<Position> {
        if self.branches[at.branch].items.len() >= MAX_LEAVES {
            let middle = halve(&mut self.branches, at.branch, |leaf| leaf.fence)?;
            if at.leaf >= middle {
                at.branch += 1;
                at.leaf -= middle;
            }
        }
        let leaves = &mut self.branches[at.branch].items;
        let middle = halve(leaves, at.leaf, |torrent| torrent.info_hash)?;
        if at.index > middle {
            at.leaf += 1;
            at.index -= middle;
        }
        Some(at)
    }

    pub fn remove(&mut self, at: Position) {
        self.retain_in_leaf(at, |index, _| index != at.index);
    }

    /// The fence of the next leaf.
    pub fn next_fence(&self, at: Position) -> Option<InfoHash> {
        let branch = self.branches.get(at.branch)?;
        let leaf = branch.items.get(at.leaf + 1).map(|leaf| leaf.fence);
        leaf.or_else(|| Some(self.branches.get(at.branch + 1)?.fence))
    }

    /// Keeps the torrents of a leaf for which `keep` is true. Joins leaves and branches that become small.
    pub fn retain_in_leaf(&mut self, at: Position, mut keep: impl FnMut(usize, &Torrent) -> bool) {
        let Some(leaves) = self.branches.get_mut(at.branch).map(|b| &mut b.items) else {
            return;
        };
        let Some(torrents) = leaves.get_mut(at.leaf).map(|leaf| &mut leaf.items) else {
            return;
        };
        let before = torrents.len();
        let mut index = 0;
        torrents.retain(|torrent| {
            index += 1;
            keep(index - 1, torrent)
        });
        let dropped = before - torrents.len();
        self.len -= dropped;
        if dropped > 0 {
            trim(torrents);
            tidy(leaves, at.leaf, MAX_TORRENTS);
            tidy(&mut self.branches, at.branch, MAX_LEAVES);
        }
    }
}

/// Moves the upper half of a span into a new one after it. Returns how many items stay.
fn halve<T>(row: &mut Vec<Span<T>>, at: usize, fence: impl Fn(&T) -> InfoHash) -> Option<usize> {
    reserve(row, 1)?;
    let left = &mut row[at].items;
    let middle = left.len() / 2;
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    reserve_exact(&mut lower, middle)?;
    reserve_exact(&mut upper, left.len() - middle)?;
    upper.extend(left.drain(middle..));
    lower.append(left);
    *left = lower;
    let (fence, items) = (fence(upper.first()?), upper);
    row.insert(at + 1, Span { fence, items });
    Some(middle)
}

/// After a span has shrunk: removes it if it is empty, or joins it with the next one or the one before if it is below a
/// quarter of `max` and both are small.
fn tidy<T>(row: &mut Vec<Span<T>>, shrunk: usize, max: usize) {
    let length = |i: usize| row.get(i).map_or(usize::MAX, |span| span.items.len());
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
    let more = length(left + 1);
    if reserve_exact(&mut row[left].items, more).is_some() {
        let mut right = row.remove(left + 1).items;
        row[left].items.append(&mut right);
        trim(row);
    }
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

/// The last span whose fence is not above this hash, or the first of all. Narrows the range to the hashes between its
/// fence and the next one.
fn last_not_above<T>(row: &[Span<T>], hash: &InfoHash, range: &mut HashRange) -> usize {
    let after = count_not_above(row, hash, range, |span| &span.fence);
    if let Some(next) = row.get(after) {
        range.high = prefix(&next.fence);
    }
    let found = after.saturating_sub(1);
    if after > 0 {
        range.low = prefix(&row[found].fence);
    }
    found
}

/// How many items at the front have hashes not above this one. The search starts where the hash would be if all hashes
/// were spread evenly over the range, gallops, then halves.
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
    // With 32 bits, one 64-bit multiplication and one division are enough.
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
            .flat_map(|branch| &branch.items)
            .flat_map(|leaf| &leaf.items)
            .map(|t| (t.info_hash, t.downloaded))
            .collect();
        assert!(all.iter().copied().eq(model.iter().map(|(h, d)| (*h, *d))));
    }

    /// Each fence is above all hashes before its span, and not above the span's first hash.
    fn check_fences(table: &Torrents) {
        let mut last = None;
        for branch in &table.branches {
            assert!(!branch.items.is_empty() && branch.items.len() <= MAX_LEAVES);
            assert!(branch.fence <= branch.items[0].fence);
            assert!(last.is_none_or(|last| last < branch.fence));
            for leaf in &branch.items {
                assert!(!leaf.items.is_empty() && leaf.items.len() <= MAX_TORRENTS);
                assert!(last.is_none_or(|last| last < leaf.fence));
                assert!(leaf.fence <= leaf.items[0].info_hash);
                last = leaf.items.last().map(|t| t.info_hash);
            }
        }
    }

    fn numbered(n: u32) -> InfoHash {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        hash
    }

    /// Whole ranges are removed and inserted again, at the ends of branches and leaves too. A hash below the fence of a
    /// leaf that has become the first of its branch must lower that fence.
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
            // Anywhere, or at the beginning of a branch.
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

    /// Compares a long life of insertions and removals, with hashes made by `next`, with a BTreeMap.
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
                        let inserted = table.insert(at, torrent(hash, step as u32));
                        let at = inserted.expect("there is memory");
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
        assert!(table.len() == 0 && table.branches.is_empty());
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
