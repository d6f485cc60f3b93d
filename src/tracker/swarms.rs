//! Swarms: all peers of a torrent, stored in whichever of four shapes is the smallest.
//!
//! None; one IPv4 peer, in the torrent's own entry; a few peers of any kind, in a block of [`Blocks`]; many, in four
//! [`LargeList`]s. A swarm changes its shape as it grows and shrinks, and nothing outside this module can tell. To
//! announce is to find the peer and renew its tag; everything else (newcomers, changes of role, changes of shape) is
//! rarer by far, and done by [`Swarms::insert`] and [`Swarms::take_out`].
//!
//! The cache lines that an announce of IPv4 touches, beside the fences of torrents, which stay in the cache:
//!
//! | peers | data read | lines |
//! |---|---|---|
//! | 1 | the torrent's entry | 1 |
//! | 30 | the entry; the page's place; the block of 214 bytes | 1 + 1 + 4 |
//! | 50,000 | the entry; the swarm's lists; fences of chunks, halved; the page's place; the peer | 1 + 2 + 5 + 1 + 2 |
//! | | its rank; for a reply of 30, four runs of 8 peers, each by its rank | 4 + 4 * 4 |
//!
//! Entries, blocks and the first line of a large swarm's lists are prefetched for a batch, and the runs of a reply
//! together.

use super::blocks::{Block, Blocks};
use super::clock::Clock;
use super::hosts::{MAX_OF_HOST, Room};
use super::lists::{ChunkIndex, LargeList, PeerList};
use super::peer::{COMPLETED, Family, Peer, RECORD_SIZES, Role, V4_BYTES};
use super::sample::Pool;
use super::small;
use crate::base::memory::{reserve, reserve_exact, reserve_total};
use crate::sys::memory::prefetch;

/// A torrent's peers, or where they are: 8 bytes.
#[derive(Debug)]
pub enum Peers {
    /// There has been no peer since this second.
    Empty(u32),
    Leecher([u8; V4_BYTES]),
    Seeder([u8; V4_BYTES]),
    /// The flag is that of [`Peers::is_crowded`].
    Small(Block, bool),
    Large(u32, bool),
}

const _: () = assert!(size_of::<Peers>() == 8);

impl Peers {
    /// Whether some host has more peers than a reply may name of it, or had so many: none of it is forgotten until the
    /// swarm is gone.
    pub fn is_crowded(&self) -> bool {
        matches!(self, Peers::Small(_, true) | Peers::Large(_, true))
    }

    fn note_crowd(&mut self) {
        if let Peers::Small(_, is_crowded) | Peers::Large(_, is_crowded) = self {
            *is_crowded = true;
        }
    }
}

/// A swarm too large for a block.
type Large = [LargeList; 4];

/// A peer that was stored or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its rank among those of its role and family.
    pub rank: usize,
    pub newly_completed: bool,
    /// Its role and tag before; none for a newcomer.
    pub before: Option<(Role, u8)>,
}

/// A place in a swarm by key: the list, and a record in it to go on from.
#[derive(Clone, Copy, Debug)]
pub struct SwarmCursor {
    pub list: usize,
    from: Peer,
}

impl SwarmCursor {
    pub const START: SwarmCursor = SwarmCursor {
        list: 0,
        from: Peer::V4([0; V4_BYTES]),
    };

    /// This record in the same list, or the beginning of the next list; none at the end of the last.
    fn next(self, record: Option<&[u8]>) -> Option<SwarmCursor> {
        const ZEROS: &[u8] = &[0; 19];
        let (list, from) = match record {
            Some(record) => (self.list, record),
            None => (self.list + 1, ZEROS),
        };
        let from = Peer::from_record(list, from)?;
        (list < RECORD_SIZES.len()).then_some(SwarmCursor { list, from })
    }
}

/// The storage of all swarms.
#[derive(Debug, Default)]
pub struct Swarms {
    blocks: Blocks,
    large: Vec<Option<Box<Large>>>,
    /// Free places in `large`.
    vacant: Vec<u32>,
    /// Peers of all swarms, by list.
    pub totals: [usize; 4],
}

impl Swarms {
    /// Bytes of the blocks that hold peers.
    pub fn bytes(&self) -> usize {
        self.blocks.bytes
    }

    /// Sets how many bytes [`Swarms::bytes`] may be, beside a page for each size of blocks.
    pub fn set_max_bytes(&mut self, bytes: usize) {
        self.blocks.max_bytes = bytes.saturating_add(self.blocks.least_bytes());
    }

    /// Whether a peer was refused because of that. Until [`Swarms::expire`] has visited all swarms, pages may be kept
    /// for few peers.
    pub fn is_short(&self) -> bool {
        self.blocks.is_short
    }

    pub fn forget_shortage(&mut self) {
        self.blocks.is_short = false;
    }

    fn large(&self, number: u32) -> Option<&Large> {
        self.large.get(number as usize)?.as_deref()
    }

    fn large_mut(&mut self, number: u32) -> Option<(&mut Large, &mut Blocks)> {
        let large = self.large.get_mut(number as usize)?.as_deref_mut()?;
        Some((large, &mut self.blocks))
    }

    /// One of the four lists of a swarm.
    pub fn list<'a>(&'a self, peers: &'a Peers, list: usize) -> PeerList<'a> {
        let records: &[u8] = match (peers, list) {
            (Peers::Leecher(lone), 0) | (Peers::Seeder(lone), 1) => lone,
            (Peers::Small(block, _), _) => small::records(self.blocks.get(*block), list),
            (&Peers::Large(number, _), _) => match self.large(number) {
                Some(large) => return PeerList::Large(&large[list], &self.blocks),
                None => &[],
            },
            _ => &[],
        };
        PeerList::Slice(records, RECORD_SIZES[list])
    }

    /// Role and place of a peer, which is looked for in this role first; if it is not stored, the places where it
    /// belongs in this role and in the other.
    fn locate(
        &self,
        peers: &Peers,
        peer: &Peer,
        role: Role,
    ) -> Result<(Role, ChunkIndex), [ChunkIndex; 2]> {
        let find = |role| self.list(peers, peer.list(role)).find(peer);
        find(role).map(|at| (role, at)).or_else(|own| {
            let other = find(role.other()).map(|at| (role.other(), at));
            other.map_err(|other| [own, other])
        })
    }

    /// Role and tag of a peer, which is looked for in this role first.
    pub fn find<'a>(
        &'a mut self,
        peers: &'a mut Peers,
        peer: Peer,
        first: Role,
    ) -> Option<(Role, &'a mut u8)> {
        let (role, at) = self.locate(peers, &peer, first).ok()?;
        Some((role, self.tag_mut(peers, peer.list(role), at)?))
    }

    fn tag_mut<'a>(
        &'a mut self,
        peers: &'a mut Peers,
        list: usize,
        at: ChunkIndex,
    ) -> Option<&'a mut u8> {
        match peers {
            Peers::Empty(_) => None,
            Peers::Leecher(lone) | Peers::Seeder(lone) => lone.last_mut(),
            Peers::Small(block, _) => {
                let bytes = self.blocks.get_mut(*block);
                let start = small::range(bytes, list).start;
                bytes.get_mut(start + (at.1 + 1) * RECORD_SIZES[list] - 1)
            }
            &mut Peers::Large(number, _) => {
                let (large, blocks) = self.large_mut(number)?;
                large[list].tag_mut(at, blocks)
            }
        }
    }

    /// Adds or renews a peer. A completion that was counted stays counted. None if the peer is new and there is no
    /// room, or if it changes its role and there is no memory for that.
    pub fn update(
        &mut self,
        peers: &mut Peers,
        mut peer: Peer,
        role: Role,
        room: &mut Room,
    ) -> Option<Seen> {
        let (mut tag, mut before) = (peer.tag(), None);
        let rank = match self.locate(peers, &peer, role) {
            Ok((stored, at)) if stored == role => {
                let rank = self.list(peers, peer.list(role)).rank(at);
                let stored = self.tag_mut(peers, peer.list(role), at)?;
                before = Some((role, *stored));
                tag |= *stored & COMPLETED;
                *stored = tag;
                rank
            }
            Ok(_) => {
                let stored = self.take_out(peers, &peer, role.other())?;
                before = Some((role.other(), stored));
                tag |= stored & COMPLETED;
                peer = peer.with_tag(tag);
                let changed = self.add(peers, &peer, role);
                if changed.is_none() {
                    // Renewed, but the completion that is not counted now is counted later.
                    let kept = tag & !COMPLETED | stored & COMPLETED;
                    self.add(peers, &peer.with_tag(kept), role.other());
                }
                changed?
            }
            Err(places) => {
                let belongs = self.admit(peers, &peer, role, places, room)?;
                self.insert(peers, belongs, &peer, role)?
            }
        };
        let was_completed = before.is_some_and(|(_, tag)| tag & COMPLETED != 0);
        Some(Seen {
            rank,
            newly_completed: tag & COMPLETED != 0 && !was_completed,
            before,
        })
    }

    /// Adds a peer that is not stored.
    fn add(&mut self, peers: &mut Peers, peer: &Peer, role: Role) -> Option<usize> {
        let belongs = self.list(peers, peer.list(role)).find(peer).err()?;
        self.insert(peers, belongs, peer, role)
    }

    /// Where a newcomer belongs, by the places in the lists of its role and of the other. It takes the place of the
    /// oldest peer of its host if that has no more. None if there is no room for it.
    fn admit(
        &mut self,
        peers: &mut Peers,
        peer: &Peer,
        role: Role,
        places: [ChunkIndex; 2],
        room: &mut Room,
    ) -> Option<ChunkIndex> {
        let [belongs, _] = places;
        let roles = [role, role.other()].into_iter().zip(places);
        let counts = roles.map(|(role, at)| {
            let list = self.list(peers, peer.list(role));
            match list.has_host_beside(at, peer) {
                true => list.of_host(peer).len(),
                false => 0,
            }
        });
        let count = counts.sum();
        if count >= MAX_OF_HOST {
            peers.note_crowd();
        }
        if !room.hosts.is_full(count, peer) {
            room.is_free = room.table.admits(self.len(peers));
            return room.is_free.then_some(belongs);
        }
        room.is_free = self.take_out_oldest(peers, peer, room.clock).is_some();
        if !room.is_free {
            return None;
        }
        self.list(peers, peer.list(role)).find(peer).err()
    }

    /// Takes out the peer of this one's host that announced longest ago; none if all of them did after this one.
    #[cold]
    fn take_out_oldest(&mut self, peers: &mut Peers, peer: &Peer, clock: Clock) -> Option<u8> {
        let mut oldest: Option<(u8, Peer, Role)> = None;
        for role in Role::ALL {
            let list = self.list(peers, peer.list(role));
            for record in list.records_of(list.of_host(peer)) {
                let record = Peer::from_record(peer.list(role), record)?;
                let age = clock.age(record.tag());
                if oldest.is_none_or(|(oldest, ..)| age > oldest) {
                    oldest = Some((age, record, role));
                }
            }
        }
        let (_, oldest, role) = oldest.filter(|(age, ..)| *age >= clock.age(peer.tag()))?;
        self.take_out(peers, &oldest, role)
    }

    /// Inserts a peer where it belongs; returns its rank. None if there is no memory for it.
    fn insert(
        &mut self,
        peers: &mut Peers,
        mut at: ChunkIndex,
        peer: &Peer,
        role: Role,
    ) -> Option<usize> {
        let list = peer.list(role);
        if let (Peers::Empty(_), Peer::V4(record)) = (&*peers, *peer) {
            *peers = match role {
                Role::Leecher => Peers::Leecher(record),
                Role::Seeder => Peers::Seeder(record),
            };
        } else if self.make_room(peers, list)? {
            at = self.list(peers, list).find(peer).err()?;
        }
        let rank = match *peers {
            Peers::Small(block, _) => {
                small::insert(self.blocks.get_mut(block), list, at.1, peer.record());
                at.1
            }
            Peers::Large(number, _) => {
                let (large, blocks) = self.large_mut(number)?;
                large[list].insert(at, peer, blocks)?
            }
            _ => 0,
        };
        self.totals[list] += 1;
        Some(rank)
    }

    /// Gives a swarm a shape that has room for another record of this list: a block, or large lists. True if places
    /// have changed.
    fn make_room(&mut self, peers: &mut Peers, list: usize) -> Option<bool> {
        let size = RECORD_SIZES[list];
        let (role, lone) = match *peers {
            Peers::Large(..) => return Some(false),
            Peers::Small(block, is_crowded) => {
                let bytes = self.blocks.get(block);
                let used = small::used(bytes);
                if small::is_full(bytes, list) || used + size > small::MAX_BYTES {
                    *peers = Peers::Large(self.make_large(block)?, is_crowded);
                    return Some(true);
                }
                if used + size > bytes.len() {
                    let block = self.blocks.move_to(block, used, used + size)?;
                    *peers = Peers::Small(block, is_crowded);
                }
                return Some(false);
            }
            Peers::Empty(_) => (Role::Leecher, None),
            Peers::Leecher(lone) => (Role::Leecher, Some(lone)),
            Peers::Seeder(lone) => (Role::Seeder, Some(lone)),
        };
        let lone_bytes = lone.map_or(0, |_| V4_BYTES);
        let block = self.blocks.take(small::HEADER + lone_bytes + size)?;
        let bytes = self.blocks.get_mut(block);
        bytes[..small::HEADER].fill(0);
        if let Some(lone) = lone {
            small::insert(bytes, role as usize, 0, &lone);
        }
        *peers = Peers::Small(block, false);
        Some(false)
    }

    /// Moves a swarm out of its block, and returns its number. None if there is no memory for it; then nothing has
    /// changed.
    fn make_large(&mut self, block: Block) -> Option<u32> {
        if self.vacant.is_empty() {
            self.add_vacant()?;
        }
        let number = *self.vacant.last()?;
        let place = self.large.get_mut(number as usize)?;
        let mut copy = [0; small::MAX_BYTES];
        let bytes = self.blocks.get(block);
        let used = small::used(bytes);
        let copy = copy.get_mut(..used)?;
        copy.copy_from_slice(bytes.get(..used)?);
        // As a vector, since `Box::new` ends the process if there is no memory.
        let mut large = Vec::new();
        reserve_exact(&mut large, RECORD_SIZES.len())?;
        large.extend(RECORD_SIZES.map(LargeList::new));
        let mut large: Box<Large> = large.try_into().ok()?;
        for list in 0..large.len() {
            let records = small::records(copy, list);
            if large[list].append(records, &mut self.blocks).is_none() {
                large.iter_mut().for_each(|l| l.clear(&mut self.blocks));
                return None;
            }
        }
        *place = Some(large);
        self.vacant.pop();
        self.blocks.free(block);
        Some(number)
    }

    /// Adds a free place for a large swarm, and room to note every place as free.
    fn add_vacant(&mut self) -> Option<()> {
        let number = u32::try_from(self.large.len()).ok()?;
        reserve(&mut self.large, 1)?;
        reserve_total(&mut self.vacant, self.large.len() + 1)?;
        self.large.push(None);
        self.vacant.push(number);
        Some(())
    }

    /// Takes a peer out; `now` in seconds is noted if it was the last.
    pub fn remove(&mut self, peers: &mut Peers, peer: Peer, now: u32) {
        let mut roles = Role::ALL.into_iter();
        if roles.any(|role| self.take_out(peers, &peer, role).is_some()) {
            self.settle(peers, now);
        }
    }

    /// Takes a peer out if it has this role, and leaves the swarm in its shape; returns the tag.
    fn take_out(&mut self, peers: &mut Peers, peer: &Peer, role: Role) -> Option<u8> {
        let list = peer.list(role);
        let at = self.list(peers, list).find(peer).ok()?;
        let tag = *self.tag_mut(peers, list, at)?;
        match *peers {
            Peers::Small(block, _) => small::remove(self.blocks.get_mut(block), list, at.1),
            Peers::Large(number, _) => {
                if let Some((large, blocks)) = self.large_mut(number) {
                    large[list].remove(at, blocks);
                }
            }
            _ => *peers = Peers::Empty(0),
        }
        self.totals[list] -= 1;
        Some(tag)
    }

    /// Moves a swarm that has shrunk into the smallest shape that fits.
    fn settle(&mut self, peers: &mut Peers, now: u32) {
        if let Peers::Large(number, is_crowded) = *peers {
            if let Some(block) = self.shrink_large(number) {
                *peers = Peers::Small(block, is_crowded);
            }
        }
        match *peers {
            Peers::Empty(_) => *peers = Peers::Empty(now),
            Peers::Small(block, is_crowded) => {
                let bytes = self.blocks.get(block);
                let lone = bytes[small::HEADER..].first_chunk().copied();
                let shrunk = match small::counts(bytes) {
                    [0, 0, 0, 0] => Some(Peers::Empty(now)),
                    [1, 0, 0, 0] => lone.map(Peers::Leecher),
                    [0, 1, 0, 0] => lone.map(Peers::Seeder),
                    _ => None,
                };
                let used = small::used(bytes);
                if let Some(shrunk) = shrunk {
                    self.blocks.free(block);
                    *peers = shrunk;
                } else if let Some(block) = self.blocks.shrink(block, used) {
                    *peers = Peers::Small(block, is_crowded);
                }
            }
            _ => {}
        }
    }

    /// Back into a block, which it returns, once the swarm would fill no more than half of the largest for small
    /// swarms.
    fn shrink_large(&mut self, number: u32) -> Option<Block> {
        let (large, blocks) = self.large_mut(number)?;
        let counts = large.each_ref().map(LargeList::len);
        let sizes = std::iter::zip(counts, RECORD_SIZES).map(|(count, size)| count * size);
        let bytes = small::HEADER + sizes.sum::<usize>();
        if bytes > small::MAX_BYTES / 2 || counts.iter().any(|&n| n > u8::MAX.into()) {
            return None;
        }
        let block = blocks.take(bytes)?;
        let mut content = [0; small::MAX_BYTES / 2];
        let (header, mut rest) = content.split_at_mut(small::HEADER);
        header.copy_from_slice(&counts.map(|count| count as u8));
        for list in large {
            for piece in list.pieces(blocks) {
                let (part, after) = rest.split_at_mut(piece.len());
                part.copy_from_slice(piece);
                rest = after;
            }
            list.clear(blocks);
        }
        blocks.get_mut(block)[..bytes].copy_from_slice(&content[..bytes]);
        self.large[number as usize] = None;
        self.vacant.push(number);
        Some(block)
    }

    /// Drops peers whose timeout has passed. A large swarm is done a chunk at a time. Returns how many records were
    /// looked at, and where to go on if that was not all.
    pub fn expire(
        &mut self,
        peers: &mut Peers,
        from: Option<SwarmCursor>,
        clock: Clock,
        now: u32,
    ) -> (usize, Option<SwarmCursor>) {
        let (mut looked_at, mut next) = (1, None);
        let before = self.counts(peers);
        match *peers {
            Peers::Leecher([.., tag]) | Peers::Seeder([.., tag]) if clock.expired(tag) => {
                *peers = Peers::Empty(now);
            }
            Peers::Small(block, is_crowded) => {
                looked_at = before.iter().sum();
                small::expire(self.blocks.get_mut(block), clock);
                let used = small::used(self.blocks.get(block));
                *peers = Peers::Small(self.blocks.move_together(block, used), is_crowded);
            }
            Peers::Large(number, _) => {
                let from = from.unwrap_or(SwarmCursor::START);
                if let Some((large, blocks)) = self.large_mut(number) {
                    let list = &mut large[from.list];
                    let (chunk, _) = list.find(&from.from, blocks).unwrap_or_else(|at| at);
                    next = from.next(PeerList::Large(list, blocks).after_chunk((chunk, 0)));
                    looked_at += list.expire(chunk, clock, blocks);
                }
            }
            _ => return (1, None),
        }
        let after = self.counts(peers);
        for ((total, before), after) in self.totals.iter_mut().zip(before).zip(after) {
            *total -= before - after;
        }
        // The sweep may have passed other parts of a large swarm before.
        if next.is_none() && (after != before || matches!(peers, Peers::Large(..))) {
            self.settle(peers, now);
        }
        (looked_at, next)
    }

    /// The records from this cursor on, as many as lie together, and where to go on after them.
    pub fn run<'a>(
        &'a self,
        peers: &'a Peers,
        from: SwarmCursor,
    ) -> (&'a [u8], Option<SwarmCursor>) {
        let list = self.list(peers, from.list);
        let at = list.find(&from.from).unwrap_or_else(|at| at);
        (list.records_at(at), from.next(list.after_chunk(at)))
    }

    /// How many peers each list has. A lone peer that has expired is not counted; in larger swarms the expired count
    /// until the sweep passes.
    pub fn sizes(&self, peers: &Peers, clock: Clock) -> [usize; 4] {
        match peers {
            Peers::Leecher([.., tag]) | Peers::Seeder([.., tag]) if clock.expired(*tag) => [0; 4],
            _ => self.counts(peers),
        }
    }

    /// How many peers a swarm has, the expired included.
    pub fn len(&self, peers: &Peers) -> usize {
        self.counts(peers).iter().sum()
    }

    /// How many peers each list has, the expired included.
    fn counts(&self, peers: &Peers) -> [usize; 4] {
        match *peers {
            Peers::Empty(_) => [0; 4],
            Peers::Leecher(_) => [1, 0, 0, 0],
            Peers::Seeder(_) => [0, 1, 0, 0],
            Peers::Small(block, _) => small::counts(self.blocks.get(block)),
            Peers::Large(number, _) => match self.large(number) {
                Some(large) => large.each_ref().map(LargeList::len),
                None => [0; 4],
            },
        }
    }

    /// The peers of one family that a reply to an asker of this role may hold: a seeder has no use for seeders (BEP 3).
    /// `asker` is its rank if it is of this family.
    pub fn pool<'a>(
        &'a self,
        peers: &'a Peers,
        family: Family,
        role: Role,
        asker: Option<usize>,
    ) -> Pool<'a> {
        let leechers = self.list(peers, family.list(Role::Leecher));
        let (seeders, asker) = match role {
            Role::Leecher => (self.list(peers, family.list(Role::Seeder)), asker),
            Role::Seeder => (PeerList::Slice(&[], leechers.size()), None),
        };
        Pool {
            leechers,
            seeders,
            asker,
            is_crowded: peers.is_crowded(),
        }
    }

    /// Prefetches what an update of this swarm will read first, or as many cache lines of it.
    pub fn prefetch(&self, peers: &Peers, lines: usize) {
        match *peers {
            Peers::Small(block, _) => {
                let lines = self.blocks.get(block).chunks(64).take(lines);
                lines.for_each(prefetch);
            }
            Peers::Large(number, _) => {
                self.large(number).into_iter().for_each(prefetch);
            }
            _ => {}
        }
    }
}
