//! Memory for peers: blocks of a few dozen sizes, packed into pages.
//!
//! Most torrents that have a swarm at all have a handful of peers. An allocation each would cost a
//! pointer's home, the allocator's header and its rounding, about 40 bytes where ten peers take 70.
//! Here a block has a number of five bytes that fits into the torrent's own entry, and blocks of one size
//! are contiguous. Large swarms keep their chunks here too: as vectors that grow by an
//! eighth they would leave holes behind that the next, larger ones do not fit into, which took 11.7
//! bytes of memory for a peer of 7. All pages are of one size, and one whose last block is freed is
//! given back.
//!
//! A page is kept as long as one block of it is in use. Swarms that stop to grow at different sizes, chosen so that
//! each is alone on its page, took six times the memory of their peers until the sweep moved them together. So pages
//! have a bound, and at that the sweep comes early.

use super::peer::V4_BYTES;
use crate::base::memory::{reserve_exact, reserve_total};
use crate::sys::memory::discard;

/// Bytes of a page. With its header it fits into 32,752 bytes, a size of musl's allocator. The next size is 37,440:
/// pages of 32,768 bytes took 12 % more memory.
const PAGE: usize = 32 * 1024 - 32;

/// The smallest block: the header of a small swarm and two IPv4 peers.
const SMALLEST: usize = super::small::HEADER + 2 * V4_BYTES;

/// The largest block: nine of them are a page.
pub const LARGEST: usize = PAGE / 9;

/// Room for one IPv4 peer more, later an eighth more, and such that a page is filled.
fn next_size(size: usize) -> usize {
    if size < SMALLEST + 14 * V4_BYTES {
        return size + V4_BYTES;
    }
    let in_a_page = PAGE / size;
    let next = PAGE / (in_a_page - (in_a_page / 9).max(1));
    next.min(LARGEST)
}

/// Which block: its size by number, and its place among the blocks of that size. The place is bytes, so that nothing
/// has to be aligned: an entry that holds a block has a byte or two beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    class: u8,
    place: [u8; 4],
}

impl Block {
    fn place(self) -> u32 {
        u32::from_ne_bytes(self.place)
    }
}

#[derive(Debug)]
pub struct Blocks {
    /// By size.
    classes: Vec<Class>,
    /// Bytes of the pages in use, and those from which on no page is added.
    pub bytes: usize,
    pub max_bytes: usize,
    /// A page was not added because of that.
    pub is_short: bool,
}

impl Default for Blocks {
    fn default() -> Self {
        let next = |size: &usize| (*size < LARGEST).then(|| next_size(*size));
        let sizes = std::iter::successors(Some(SMALLEST), next);
        Blocks {
            classes: sizes.map(Class::new).collect(),
            bytes: 0,
            max_bytes: usize::MAX,
            is_short: false,
        }
    }
}

impl Blocks {
    /// A block of at least this many bytes, its contents undefined; none for more than [`LARGEST`],
    /// when four billion are in use, or if it needs a page beyond the bound.
    pub fn take(&mut self, bytes: usize) -> Option<Block> {
        let class = self.classes.partition_point(|class| class.size < bytes);
        let found = self.classes.get_mut(class)?;
        let needs_page = found.roomy.is_empty();
        if needs_page && self.bytes >= self.max_bytes {
            self.is_short = true;
            return None;
        }
        let place = found.take()?;
        self.bytes += if needs_page { PAGE } else { 0 };
        Some(Block {
            class: u8::try_from(class).ok()?,
            place: place.to_ne_bytes(),
        })
    }

    pub fn free(&mut self, block: Block) {
        let class = self.class_mut(block);
        let before = class.pages_used;
        class.free(block.place());
        let freed = before - class.pages_used;
        self.bytes -= freed * PAGE;
    }

    pub fn get(&self, block: Block) -> &[u8] {
        self.class(block).get(block.place())
    }

    pub fn get_mut(&mut self, block: Block) -> &mut [u8] {
        self.class_mut(block).get_mut(block.place())
    }

    /// A block of at least `size` bytes that begins as this one does, up to `used`; this one is freed.
    /// None leaves it as it is.
    pub fn move_to(&mut self, block: Block, used: usize, size: usize) -> Option<Block> {
        let mut copy = [0; LARGEST];
        let copy = copy.get_mut(..used)?;
        copy.copy_from_slice(self.get(block).get(..used)?);
        let target = self.take(size)?;
        self.get_mut(target)[..used].copy_from_slice(copy);
        self.free(block);
        Some(target)
    }

    /// Moves a block into the room that others of its size have left, if that is worth it. As swarms
    /// grow they leave one size for the next, and every page on which one of them stays behind would
    /// be kept for it: a thousand swarms of 1,500 peers took 9.2 bytes a peer, and take 8.2 since those
    /// that are touched move together. The sweep touches all.
    pub fn move_together(&mut self, block: Block, used: usize) -> Block {
        let is_stray = self.class(block).is_stray(block.place());
        let size = self.class(block).size;
        let moved = is_stray.then(|| self.move_to(block, used, size));
        moved.flatten().unwrap_or(block)
    }

    /// The bytes of pages with which each size has one.
    pub fn least_bytes(&self) -> usize {
        self.classes.len() * PAGE
    }

    /// Moves the used bytes of a block into a clearly smaller one, if they fit.
    pub fn shrink(&mut self, block: Block, used: usize) -> Option<Block> {
        // One size too large is the room to grow; giving it up at once would make a swarm whose
        // peers come and go move at each step.
        let smaller = usize::from(block.class).checked_sub(2)?;
        let is_roomy = self.classes.get(smaller)?.size >= used;
        is_roomy.then(|| self.move_to(block, used, used))?
    }

    fn class(&self, block: Block) -> &Class {
        &self.classes[usize::from(block.class)]
    }

    fn class_mut(&mut self, block: Block) -> &mut Class {
        &mut self.classes[usize::from(block.class)]
    }
}

/// A block's place is the number of its page, and its own within the page.
const PLACE_BITS: u32 = 11;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;
const _: () = assert!(PAGE / SMALLEST < 1 << PLACE_BITS);

/// All blocks of one size.
#[derive(Debug)]
struct Class {
    size: usize,
    per_page: usize,
    /// Blocks in use, and pages with any of them.
    used: usize,
    pages_used: usize,
    pages: Vec<Page>,
    /// The pages in use that have room, the last ones first. Blocks are taken from the end, so that the later pages run
    /// empty and can be freed.
    roomy: Vec<u32>,
    /// The numbers of pages that ran empty.
    empty: Vec<u32>,
}

#[derive(Debug, Default)]
struct Page {
    /// Grows a block at a time up to [`PAGE`] bytes, within one allocation.
    bytes: Vec<u8>,
    used: u16,
    /// The first free block, which names the next in its first two bytes.
    free: u16,
}

const NONE: u16 = u16::MAX;

impl Class {
    fn new(size: usize) -> Class {
        Class {
            size,
            per_page: PAGE / size,
            used: 0,
            pages_used: 0,
            pages: Vec::new(),
            roomy: Vec::new(),
            empty: Vec::new(),
        }
    }

    fn take(&mut self) -> Option<u32> {
        let number = match self.roomy.last() {
            Some(&number) => number,
            None => self.open_page()?,
        };
        let page = self.pages.get_mut(number as usize)?;
        self.used += 1;
        let slot = page.take(self.size);
        if usize::from(page.used) == self.per_page {
            self.roomy.pop();
        }
        Some(number << PLACE_BITS | u32::from(slot))
    }

    /// Gives memory to an empty page, which becomes the only one with room. None if there is none.
    fn open_page(&mut self) -> Option<u32> {
        if self.empty.is_empty() {
            self.add_page()?;
        }
        let number = *self.empty.last()?;
        self.pages.get_mut(number as usize)?.open()?;
        self.empty.pop();
        self.roomy.push(number);
        self.pages_used += 1;
        Some(number)
    }

    /// Adds an empty page, and room for it in both lists of pages, so that to free a block never allocates.
    fn add_page(&mut self) -> Option<()> {
        let number = u32::try_from(self.pages.len()).ok()?;
        if number > u32::MAX >> PLACE_BITS {
            return None;
        }
        let count = self.pages.len() + 1;
        reserve_total(&mut self.pages, count)?;
        reserve_total(&mut self.roomy, count)?;
        reserve_total(&mut self.empty, count)?;
        self.pages.push(Page::default());
        self.empty.push(number);
        Some(())
    }

    fn free(&mut self, place: u32) {
        let number = place >> PLACE_BITS;
        let page = &mut self.pages[number as usize];
        let was_full = usize::from(page.used) == self.per_page;
        page.free((place & PLACE_MASK) as u16, self.size);
        self.used -= 1;
        let is_empty = page.used == 0;
        let at = |roomy: &[u32]| roomy.partition_point(|&other| other > number);
        if was_full {
            self.roomy.insert(at(&self.roomy), number);
        } else if is_empty {
            self.roomy.remove(at(&self.roomy));
            self.empty.push(number);
            self.pages_used -= 1;
        }
    }

    /// Whether there is room for a page of blocks, some of it on an earlier page than this one.
    fn is_stray(&self, place: u32) -> bool {
        let room = self.pages_used * self.per_page - self.used;
        let first = self.roomy.last().copied().unwrap_or(u32::MAX);
        room >= self.per_page && first < place >> PLACE_BITS
    }

    fn get(&self, place: u32) -> &[u8] {
        let start = (place & PLACE_MASK) as usize * self.size;
        &self.pages[(place >> PLACE_BITS) as usize].bytes[start..start + self.size]
    }

    fn get_mut(&mut self, place: u32) -> &mut [u8] {
        let start = (place & PLACE_MASK) as usize * self.size;
        &mut self.pages[(place >> PLACE_BITS) as usize].bytes[start..start + self.size]
    }
}

impl Page {
    fn open(&mut self) -> Option<()> {
        // Of one size whatever is in it, so that any page fits where another was.
        reserve_exact(&mut self.bytes, PAGE)?;
        self.free = NONE;
        Some(())
    }

    fn take(&mut self, size: usize) -> u16 {
        self.used += 1;
        if self.free == NONE {
            let slot = self.bytes.len() / size;
            self.bytes.resize(self.bytes.len() + size, 0);
            return slot as u16;
        }
        let slot = self.free;
        let start = usize::from(slot) * size;
        self.free = u16::from_ne_bytes([self.bytes[start], self.bytes[start + 1]]);
        slot
    }

    fn free(&mut self, slot: u16, size: usize) {
        self.used -= 1;
        if self.used == 0 {
            discard(&mut self.bytes);
            self.bytes = Vec::new();
            return;
        }
        let start = usize::from(slot) * size;
        self.bytes[start..start + 2].copy_from_slice(&self.free.to_ne_bytes());
        self.free = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    #[test]
    fn blocks_do_not_overlap_and_empty_pages_are_freed() {
        let mut random = Random::seeded(5);
        let mut blocks = Blocks::default();
        let mut held: Vec<(Block, u8, usize)> = Vec::new();
        for step in 0..200_000_usize {
            let grow = (step / 50_000) % 2 == 0;
            if random.below(10) < if grow { 7 } else { 3 } {
                let most = LARGEST.min(18 << random.below(8));
                let bytes = 1 + random.below(most);
                let block = blocks.take(bytes).expect("room");
                let mark = random.draw() as u8;
                assert!(blocks.get(block).len() >= bytes);
                blocks.get_mut(block).fill(mark);
                held.push((block, mark, bytes));
            } else if !held.is_empty() {
                let (block, mark, _) = held.swap_remove(random.below(held.len()));
                assert!(blocks.get(block).iter().all(|&b| b == mark));
                blocks.free(block);
            }
        }
        for (block, mark, _) in held {
            assert!(blocks.get(block).iter().all(|&b| b == mark));
            blocks.free(block);
        }
        let kept: usize = blocks
            .classes
            .iter()
            .flat_map(|c| &c.pages)
            .map(|p| p.bytes.capacity())
            .sum();
        assert_eq!(kept, 0, "empty pages are given back");
    }

    #[test]
    fn stray_blocks_move_together() {
        let mut blocks = Blocks::default();
        let all: Vec<Block> = (0..900).filter_map(|_| blocks.take(LARGEST)).collect();
        let (mut left, gone): (Vec<Block>, Vec<Block>) =
            all.into_iter().partition(|block| block.place() % 7 == 3);
        for block in gone {
            blocks.free(block);
        }
        for (mark, &block) in left.iter().enumerate() {
            blocks.get_mut(block).fill(mark as u8);
        }
        let pages = |blocks: &Blocks| blocks.classes[blocks.classes.len() - 1].pages_used;
        let before = pages(&blocks);
        for block in &mut left {
            *block = blocks.move_together(*block, LARGEST);
        }
        assert!(
            pages(&blocks) * 9 < left.len() + 9,
            "{} of {before}",
            pages(&blocks)
        );
        for (mark, &block) in left.iter().enumerate() {
            assert!(blocks.get(block).iter().all(|&b| b == mark as u8));
        }
    }

    #[test]
    fn sizes_grow_by_an_eighth_and_fill_pages() {
        let mut blocks = Blocks::default();
        let sizes: Vec<usize> = blocks.classes.iter().map(|class| class.size).collect();
        assert_eq!(sizes[..4], [18, 25, 32, 39]);
        for pair in sizes.windows(2) {
            let step = pair[1] - pair[0];
            assert!(step > 0 && step <= (pair[0] / 7).max(7), "{pair:?}");
        }
        assert!(sizes.iter().all(|size| PAGE % size <= PAGE / 200));
        assert_eq!(sizes.last(), Some(&LARGEST));
        assert!(blocks.take(LARGEST).is_some());
        assert_eq!(blocks.take(LARGEST + 1), None);
    }
}
