//! Swarms: all peers of a torrent, kept in whichever of four shapes is the smallest.
//!
//! Nobody; one IPv4 peer, in the torrent's own entry; a few peers of any kind, in a block of
//! [`Blocks`]; many, in four [`PeerList`]s. A swarm moves between the shapes as it grows and shrinks,
//! and nothing outside this module can tell.

use super::blocks::{Block, Blocks};
use super::clock::Clock;
use super::peers::{COMPLETED, Peer, PeerList, Record, Role, V4, V6, reserve_one};
use super::sample::{List, Pool};
use super::small;
use crate::sys::memory::prefetch;

/// A torrent's peers, or where they are: 8 bytes.
#[derive(Debug)]
pub enum Peers {
    /// Since this second nobody has been here.
    Empty(u32),
    Leecher(V4),
    Seeder(V4),
    /// A [`Block`]; not as one field, since a nested struct would cost four bytes of padding.
    Small {
        class: u8,
        place: u32,
    },
    Large(u32),
}

const _: () = assert!(size_of::<Peers>() == 8);

impl Peers {
    fn lone(role: Role, peer: V4) -> Peers {
        match role {
            Role::Leecher => Peers::Leecher(peer),
            Role::Seeder => Peers::Seeder(peer),
        }
    }

    fn small(Block { class, place }: Block) -> Peers {
        Peers::Small { class, place }
    }
}

/// A swarm too large for a block: leechers and seeders of each family apart.
#[derive(Debug, Default)]
pub struct Large {
    v4: [PeerList<V4>; 2],
    v6: [PeerList<V6>; 2],
}

impl Large {
    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    fn counts(&self) -> [usize; 4] {
        let [a, b] = &self.v4;
        let [c, d] = &self.v6;
        [a.len(), b.len(), c.len(), d.len()]
    }

    /// Bytes that it would take in a block.
    fn size_as_small(&self) -> usize {
        let [a, b, c, d] = self.counts();
        small::HEADER + (a + b) * V4::SIZE + (c + d) * V6::SIZE
    }
}

/// A record of either family, and where a large swarm keeps those.
pub trait Stored: Record {
    /// The peer of a torrent's own entry, as a list of this family.
    fn lone(peer: &V4) -> &[Self];
    fn lone_mut(peer: &mut V4) -> &mut [Self];
    fn to_lone(self) -> Option<V4>;
    fn lists(large: &Large) -> &[PeerList<Self>; 2];
    fn lists_mut(large: &mut Large) -> &mut [PeerList<Self>; 2];
}

impl Stored for V4 {
    fn lone(peer: &V4) -> &[V4] {
        std::slice::from_ref(peer)
    }
    fn lone_mut(peer: &mut V4) -> &mut [V4] {
        std::slice::from_mut(peer)
    }
    fn to_lone(self) -> Option<V4> {
        Some(self)
    }
    fn lists(large: &Large) -> &[PeerList<V4>; 2] {
        &large.v4
    }
    fn lists_mut(large: &mut Large) -> &mut [PeerList<V4>; 2] {
        &mut large.v4
    }
}

impl Stored for V6 {
    fn lone(_: &V4) -> &[V6] {
        &[]
    }
    fn lone_mut(_: &mut V4) -> &mut [V6] {
        &mut []
    }
    fn to_lone(self) -> Option<V4> {
        None
    }
    fn lists(large: &Large) -> &[PeerList<V6>; 2] {
        &large.v6
    }
    fn lists_mut(large: &mut Large) -> &mut [PeerList<V6>; 2] {
        &mut large.v6
    }
}

/// The new state of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    pub role: Role,
    /// The stamp, with `LOCAL` and `COMPLETED` if they apply. A completion that was counted stays counted.
    pub tag: u8,
    /// Whether a peer that is not known yet may be stored.
    pub room: bool,
}

impl Update {
    /// What comes of it for a peer at this rank that was stored like this.
    fn seen(&self, rank: usize, before: Option<(Role, u8)>) -> Seen {
        let was_completed = before.is_some_and(|(_, tag)| tag & COMPLETED != 0);
        Seen {
            rank,
            newly_completed: self.tag & COMPLETED != 0 && !was_completed,
            before,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The peer's rank among those of its role and family.
    pub rank: usize,
    pub newly_completed: bool,
    /// Its role and tag before; none for a newcomer.
    pub before: Option<(Role, u8)>,
}

/// A peer where it is stored.
#[derive(Debug)]
pub struct Found<'a> {
    pub role: Role,
    pub tag: &'a mut u8,
}

/// Where the sweep of one large swarm goes on: the list, and a peer to go on from.
#[derive(Clone, Copy, Debug)]
pub struct Within {
    pub list: u8,
    from: V6,
}

pub const FIRST: Within = Within {
    list: 0,
    from: [0; 19],
};

impl Within {
    /// This record's place in the same list.
    fn at<R: Record>(self, record: &R) -> Within {
        let mut from = [0; 19];
        from[..R::SIZE].copy_from_slice(record.bytes());
        Within { from, ..self }
    }
}

impl<'a, R: Stored> List<'a, R> {
    fn run(self, within: Within) -> (&'a [u8], Option<Within>) {
        let Some(from) = R::from_bytes(&within.from).first().map(R::key) else {
            return (&[], None);
        };
        let (records, next) = match self {
            List::Slice(all) => (&all[all.partition_point(|r| r.key() < from)..], None),
            List::Chunked(list, blocks) => list.run(from, blocks),
        };
        (R::to_bytes(records), next.map(|fence| within.at(&fence)))
    }

    fn find(self, key: R::Key) -> Option<&'a R> {
        match self {
            List::Slice(all) => {
                let index = all.binary_search_by_key(&key, R::key).ok()?;
                all.get(index)
            }
            List::Chunked(list, blocks) => list.get(list.find(key, blocks).ok()?, blocks),
        }
    }
}

/// Where swarms live, and how many peers there are.
#[derive(Debug, Default)]
pub struct Swarms {
    blocks: Blocks,
    large: Vec<Option<Box<Large>>>,
    vacant: Vec<u32>,
    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders.
    pub totals: [usize; 4],
}

impl Swarms {
    /// Bytes of the blocks that hold peers.
    pub fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// Adds or renews a peer. None if it is new and there is no room.
    pub fn update(&mut self, peers: &mut Peers, peer: Peer, update: Update) -> Option<Seen> {
        match peer {
            Peer::V4(record) => self.update_as(peers, record, update),
            Peer::V6(record) => self.update_as(peers, record, update),
        }
    }

    /// What is stored of a peer: its role and its tag.
    pub fn get(&self, peers: &Peers, peer: Peer) -> Option<(Role, u8)> {
        match peer {
            Peer::V4(record) => self.get_as::<V4>(peers, record.key()),
            Peer::V6(record) => self.get_as::<V6>(peers, record.key()),
        }
    }

    fn get_as<R: Stored>(&self, peers: &Peers, key: R::Key) -> Option<(Role, u8)> {
        [Role::Leecher, Role::Seeder].into_iter().find_map(|role| {
            let found = self.list::<R>(peers, role).find(key);
            found.map(|record| (role, record.tag()))
        })
    }

    /// Finds a peer, which is looked for in this role first.
    pub fn find<'a>(
        &'a mut self,
        peers: &'a mut Peers,
        peer: Peer,
        first: Role,
    ) -> Option<Found<'a>> {
        match peer {
            Peer::V4(record) => self.find_as::<V4>(peers, record.key(), first),
            Peer::V6(record) => self.find_as::<V6>(peers, record.key(), first),
        }
    }

    fn find_as<'a, R: Stored + 'a>(
        &'a mut self,
        peers: &'a mut Peers,
        key: R::Key,
        first: Role,
    ) -> Option<Found<'a>> {
        let mut roles = [first, first.other()].into_iter();
        let (role, tag) = match peers {
            Peers::Empty(_) => return None,
            Peers::Leecher(lone) => (Role::Leecher, lone_tag::<R>(lone, key)?),
            Peers::Seeder(lone) => (Role::Seeder, lone_tag::<R>(lone, key)?),
            &mut Peers::Small { class, place } => {
                let bytes = self.blocks.get_mut(Block { class, place });
                let (role, rank) = roles.find_map(|role| {
                    let list = small::list::<R>(bytes, role);
                    let rank = list.binary_search_by_key(&key, R::key).ok()?;
                    Some((role, rank))
                })?;
                let record = small::list_mut::<R>(bytes, role).get_mut(rank)?;
                (role, record.tag_mut())
            }
            &mut Peers::Large(number) => {
                let large = self.large.get(number as usize)?.as_deref()?;
                let (lists, blocks) = (R::lists(large), &mut self.blocks);
                let (role, place) = roles.find_map(|role| {
                    let place = lists[role as usize].find(key, blocks).ok()?;
                    Some((role, place))
                })?;
                let list = &lists[role as usize];
                (role, list.get_mut(place, blocks)?.tag_mut())
            }
        };
        Some(Found { role, tag })
    }

    /// Prefetches what an update of this swarm will read first.
    pub fn prefetch(&self, peers: &Peers) {
        match *peers {
            Peers::Small { class, place } => {
                for line in self.blocks.get(Block { class, place }).chunks(64).take(8) {
                    prefetch(line);
                }
            }
            Peers::Large(number) => {
                if let Some(large) = self.large(number) {
                    prefetch(large);
                }
            }
            _ => {}
        }
    }

    /// Prefetches what a search for this peer in a large swarm will read.
    pub fn prefetch_peer(&self, peers: &Peers, peer: Peer) {
        let &Peers::Large(number) = peers else {
            return;
        };
        if let Some(large) = self.large(number) {
            for role in [Role::Leecher, Role::Seeder] {
                match peer {
                    Peer::V4(record) => {
                        large.v4[role as usize].prefetch(record.key(), &self.blocks)
                    }
                    Peer::V6(record) => {
                        large.v6[role as usize].prefetch(record.key(), &self.blocks)
                    }
                }
            }
        }
    }

    /// Prefetches what [`Swarms::counts`] will read.
    pub fn prefetch_counts(&self, peers: &Peers) {
        match *peers {
            Peers::Small { class, place } => prefetch(self.blocks.get(Block { class, place })),
            Peers::Large(number) => {
                if let Some(large) = self.large(number) {
                    prefetch(large);
                }
            }
            _ => {}
        }
    }

    fn update_as<R: Stored>(
        &mut self,
        peers: &mut Peers,
        mut record: R,
        update: Update,
    ) -> Option<Seen> {
        record.set_tag(0);
        match peers {
            Peers::Empty(_) => self.insert_first(peers, record, update),
            Peers::Leecher(lone) | Peers::Seeder(lone) => {
                let known = R::lone(lone).first().filter(|p| p.key() == record.key());
                match known.and_then(|known| known.to_lone()) {
                    Some(known) => Some(self.renew_lone(peers, known, update)),
                    None if update.room => {
                        self.make_small(peers)?;
                        self.update_as(peers, record, update)
                    }
                    None => None,
                }
            }
            &mut Peers::Small { class, place } => {
                self.update_small(peers, Block { class, place }, record, update)
            }
            &mut Peers::Large(number) => self.update_large(number, record, update),
        }
    }

    fn insert_first<R: Stored>(
        &mut self,
        peers: &mut Peers,
        mut record: R,
        update: Update,
    ) -> Option<Seen> {
        if !update.room {
            return None;
        }
        record.renew(update.tag);
        match record.to_lone() {
            Some(lone) => *peers = Peers::lone(update.role, lone),
            None => {
                let block = self.blocks.take(small::HEADER + R::SIZE)?;
                let bytes = self.blocks.get_mut(block);
                bytes[..small::HEADER].fill(0);
                small::insert(bytes, update.role, 0, &record);
                *peers = Peers::small(block);
            }
        }
        self.totals[small::list_number::<R>(update.role)] += 1;
        Some(update.seen(0, None))
    }

    fn renew_lone(&mut self, peers: &mut Peers, mut known: V4, update: Update) -> Seen {
        let role = match peers {
            Peers::Seeder(_) => Role::Seeder,
            _ => Role::Leecher,
        };
        let seen = update.seen(0, Some((role, known.tag())));
        known.renew(update.tag);
        self.totals[role as usize] -= 1;
        self.totals[update.role as usize] += 1;
        *peers = Peers::lone(update.role, known);
        seen
    }

    /// Moves the lone peer into a block with room for another.
    fn make_small(&mut self, peers: &mut Peers) -> Option<()> {
        let (role, lone) = match *peers {
            Peers::Leecher(lone) => (Role::Leecher, lone),
            Peers::Seeder(lone) => (Role::Seeder, lone),
            _ => return None,
        };
        let block = self.blocks.take(small::HEADER + 2 * V4::SIZE)?;
        let bytes = self.blocks.get_mut(block);
        bytes[..small::HEADER].fill(0);
        small::insert(bytes, role, 0, &lone);
        *peers = Peers::small(block);
        Some(())
    }

    fn update_small<R: Stored>(
        &mut self,
        peers: &mut Peers,
        block: Block,
        mut record: R,
        update: Update,
    ) -> Option<Seen> {
        let role = update.role;
        let bytes = self.blocks.get_mut(block);
        let list = small::list_mut::<R>(bytes, role);
        let rank = match list.binary_search_by_key(&record.key(), R::key) {
            Ok(rank) => {
                let seen = update.seen(rank, Some((role, list[rank].tag())));
                list[rank].renew(update.tag);
                return Some(seen);
            }
            Err(rank) => rank,
        };
        let others = small::list::<R>(bytes, role.other());
        let known = others.binary_search_by_key(&record.key(), R::key).ok();
        if known.is_none() && !update.room {
            return None;
        }
        let block = match known {
            // Its bytes are in the block already; only the list may be at its end.
            Some(_) if !small::is_full::<R>(bytes, role) => Some(block),
            Some(_) => None,
            None => self.with_room::<R>(block, role),
        };
        let Some(block) = block else {
            let number = self.make_large(peers)?;
            return self.update_large(number, record, update);
        };
        *peers = Peers::small(block);
        let bytes = self.blocks.get_mut(block);
        let mut before = None;
        if let Some(index) = known {
            record = small::list::<R>(bytes, role.other())[index];
            before = Some((role.other(), record.tag()));
            small::remove::<R>(bytes, role.other(), index);
            self.totals[small::list_number::<R>(role.other())] -= 1;
        }
        record.renew(update.tag);
        small::insert(bytes, role, rank, &record);
        self.totals[small::list_number::<R>(role)] += 1;
        Some(update.seen(rank, before))
    }

    /// This block if another such peer fits, else a larger one with the same contents; none if the
    /// swarm has outgrown blocks.
    fn with_room<R: Stored>(&mut self, block: Block, role: Role) -> Option<Block> {
        let bytes = self.blocks.get(block);
        let needed = small::used(bytes) + R::SIZE;
        if small::is_full::<R>(bytes, role) || needed > small::MOST {
            None
        } else if needed <= bytes.len() {
            Some(block)
        } else {
            self.blocks.move_to(block, needed - R::SIZE, needed)
        }
    }

    /// Moves a swarm out of its block.
    fn make_large(&mut self, peers: &mut Peers) -> Option<u32> {
        let &mut Peers::Small { class, place } = peers else {
            return None;
        };
        let block = Block { class, place };
        let bytes = self.blocks.get(block).to_vec();
        let large = Large {
            v4: lists_of(&bytes, &mut self.blocks)?,
            v6: lists_of(&bytes, &mut self.blocks)?,
        };
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                let number = u32::try_from(self.large.len()).ok()?;
                reserve_one(&mut self.large);
                self.large.push(None);
                number
            }
        };
        self.large[number as usize] = Some(Box::new(large));
        self.blocks.free(block);
        *peers = Peers::Large(number);
        Some(number)
    }

    fn large(&self, number: u32) -> Option<&Large> {
        self.large.get(number as usize)?.as_deref()
    }

    fn update_large<R: Stored>(
        &mut self,
        number: u32,
        mut record: R,
        update: Update,
    ) -> Option<Seen> {
        let role = update.role;
        let large = self.large.get_mut(number as usize)?.as_deref_mut()?;
        let lists = R::lists_mut(large);
        let blocks = &mut self.blocks;
        let list = &lists[role as usize];
        let place = match list.find(record.key(), blocks) {
            Ok(place) => {
                let known = list.get_mut(place, blocks)?;
                let before = Some((role, known.tag()));
                known.renew(update.tag);
                return Some(update.seen(list.rank(place), before));
            }
            Err(place) => place,
        };
        let others = &mut lists[role.other() as usize];
        let known = match others.find(record.key(), blocks) {
            Ok(place) => others.remove(place, blocks),
            Err(_) => None,
        };
        let mut before = None;
        match known {
            Some(known) => {
                before = Some((role.other(), known.tag()));
                record = known;
                self.totals[small::list_number::<R>(role.other())] -= 1;
            }
            None if !update.room => return None,
            None => {}
        }
        record.renew(update.tag);
        let rank = lists[role as usize].insert(place, record, blocks)?;
        self.totals[small::list_number::<R>(role)] += 1;
        Some(update.seen(rank, before))
    }

    /// Takes a peer out; `now` in seconds is noted if it was the last. Tells whether it was there.
    pub fn remove(&mut self, peers: &mut Peers, peer: Peer, now: u32) -> bool {
        let removed = match peer {
            Peer::V4(record) => self.remove_as(peers, record),
            Peer::V6(record) => self.remove_as(peers, record),
        };
        if removed {
            self.settle(peers, now);
        }
        removed
    }

    fn remove_as<R: Stored>(&mut self, peers: &mut Peers, record: R) -> bool {
        let key = record.key();
        let found = match peers {
            Peers::Empty(_) => None,
            Peers::Leecher(lone) | Peers::Seeder(lone) => {
                let found = R::lone(lone).iter().any(|p| p.key() == key);
                let role = match peers {
                    Peers::Seeder(_) => Role::Seeder,
                    _ => Role::Leecher,
                };
                if found {
                    *peers = Peers::Empty(0);
                }
                found.then_some(role)
            }
            &mut Peers::Small { class, place } => {
                let bytes = self.blocks.get_mut(Block { class, place });
                [Role::Leecher, Role::Seeder].into_iter().find(|&role| {
                    let list = small::list::<R>(bytes, role);
                    let found = list.binary_search_by_key(&key, R::key);
                    if let Ok(index) = found {
                        small::remove::<R>(bytes, role, index);
                    }
                    found.is_ok()
                })
            }
            &mut Peers::Large(number) => {
                let large = self.large.get_mut(number as usize).and_then(Option::as_mut);
                let blocks = &mut self.blocks;
                large.and_then(|large| {
                    [Role::Leecher, Role::Seeder].into_iter().find(|&role| {
                        let list = &mut R::lists_mut(large)[role as usize];
                        let place = list.find(key, blocks).ok();
                        place.and_then(|place| list.remove(place, blocks)).is_some()
                    })
                })
            }
        };
        if let Some(role) = found {
            self.totals[small::list_number::<R>(role)] -= 1;
        }
        found.is_some()
    }

    /// Moves a swarm that has shrunk into the smallest shape that fits.
    fn settle(&mut self, peers: &mut Peers, now: u32) {
        if let &mut Peers::Large(number) = peers {
            self.shrink_large(peers, number);
        }
        match *peers {
            Peers::Empty(_) => *peers = Peers::Empty(now),
            Peers::Small { class, place } => {
                let block = Block { class, place };
                let bytes = self.blocks.get(block);
                let first = |role| small::list::<V4>(bytes, role).first().copied();
                let shrunk = match small::counts(bytes) {
                    [0, 0, 0, 0] => Some(Peers::Empty(now)),
                    [1, 0, 0, 0] => first(Role::Leecher).map(Peers::Leecher),
                    [0, 1, 0, 0] => first(Role::Seeder).map(Peers::Seeder),
                    _ => None,
                };
                let used = small::used(bytes);
                if let Some(shrunk) = shrunk {
                    self.blocks.free(block);
                    *peers = shrunk;
                } else if Blocks::is_roomy(block, used) {
                    if let Some(block) = self.blocks.move_to(block, used, used) {
                        *peers = Peers::small(block);
                    }
                }
            }
            _ => {}
        }
    }

    /// Back into a block once it would fill no more than half of the largest for small swarms.
    fn shrink_large(&mut self, peers: &mut Peers, number: u32) {
        let Some(large) = self.large(number) else {
            return;
        };
        let size = large.size_as_small();
        let counts = large.counts().map(u8::try_from);
        let [Ok(a), Ok(b), Ok(c), Ok(d)] = counts else {
            return;
        };
        if size > small::MOST / 2 {
            return;
        }
        let Some(block) = self.blocks.take(size) else {
            return;
        };
        let Some(mut large) = self.large.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        self.vacant.push(number);
        let bytes = self.blocks.get_mut(block);
        bytes[..small::HEADER].copy_from_slice(&[a, b, c, d]);
        for role in [Role::Leecher, Role::Seeder] {
            move_list::<V4>(&mut large, role, block, &mut self.blocks);
            move_list::<V6>(&mut large, role, block, &mut self.blocks);
        }
        *peers = Peers::small(block);
    }

    /// Drops peers whose timeout has passed. A large swarm is done a chunk at a time: what is returned
    /// is how many records were looked at, and where to go on if that was not all.
    pub fn expire(
        &mut self,
        peers: &mut Peers,
        within: Option<Within>,
        clock: Clock,
        now: u32,
    ) -> (usize, Option<Within>) {
        let (looked_at, next) = match *peers {
            Peers::Empty(_) => return (1, None),
            Peers::Leecher(lone) | Peers::Seeder(lone) => {
                if !lone.expired(clock) {
                    return (1, None);
                }
                let role = usize::from(matches!(peers, Peers::Seeder(_)));
                self.totals[role] -= 1;
                *peers = Peers::Empty(now);
                (1, None)
            }
            Peers::Small { class, place } => {
                let (looked_at, dropped) = self.expire_small(Block { class, place }, clock);
                if dropped == 0 {
                    return (looked_at, None);
                }
                (looked_at, None)
            }
            Peers::Large(number) => self.expire_large(number, within.unwrap_or(FIRST), clock),
        };
        if next.is_none() {
            self.settle(peers, now);
        }
        (looked_at, next)
    }

    /// How many peers there were, and how many have gone.
    fn expire_small(&mut self, block: Block, clock: Clock) -> (usize, usize) {
        let bytes = self.blocks.get_mut(block);
        let looked_at = small::counts(bytes).iter().sum();
        let dropped = small::expire(bytes, clock);
        for (total, dropped) in self.totals.iter_mut().zip(dropped) {
            *total -= dropped;
        }
        (looked_at, dropped.iter().sum())
    }

    fn expire_large(
        &mut self,
        number: u32,
        within: Within,
        clock: Clock,
    ) -> (usize, Option<Within>) {
        let list = usize::from(within.list);
        let Some(large) = self.large.get_mut(number as usize).and_then(Option::as_mut) else {
            return (1, None);
        };
        let before = large.counts()[list];
        let blocks = &mut self.blocks;
        let (looked_at, next) = match &mut **large {
            Large { v4: [l, _], .. } if list == 0 => expire_list(l, within, clock, blocks),
            Large { v4: [_, s], .. } if list == 1 => expire_list(s, within, clock, blocks),
            Large { v6: [l, _], .. } if list == 2 => expire_list(l, within, clock, blocks),
            Large { v6: [_, s], .. } => expire_list(s, within, clock, blocks),
        };
        self.totals[list] -= before - large.counts()[list];
        let next_list = (list < 3).then_some(Within {
            list: within.list + 1,
            ..FIRST
        });
        (looked_at + 1, next.or(next_list))
    }

    /// The records from this place on, as far as they lie together, and where to go on after them.
    pub fn run<'a>(&'a self, peers: &'a Peers, within: Within) -> (&'a [u8], Option<Within>) {
        let role = match within.list % 2 {
            0 => Role::Leecher,
            _ => Role::Seeder,
        };
        let (records, next) = match within.list {
            0 | 1 => self.list::<V4>(peers, role).run(within),
            _ => self.list::<V6>(peers, role).run(within),
        };
        let next_list = (within.list < 3).then_some(Within {
            list: within.list + 1,
            ..FIRST
        });
        (records, next.or(next_list))
    }

    /// IPv4 leechers, IPv4 seeders, IPv6 leechers, IPv6 seeders. A lone peer that has expired is not
    /// counted; in larger swarms the expired count until the sweep passes.
    pub fn sizes(&self, peers: &Peers, clock: Clock) -> [usize; 4] {
        match *peers {
            Peers::Empty(_) => [0; 4],
            Peers::Leecher(lone) => [usize::from(!lone.expired(clock)), 0, 0, 0],
            Peers::Seeder(lone) => [0, usize::from(!lone.expired(clock)), 0, 0],
            Peers::Small { class, place } => small::counts(self.blocks.get(Block { class, place })),
            Peers::Large(number) => self.large(number).map_or([0; 4], Large::counts),
        }
    }

    /// The peers of one family that may be named to an asker of this role: a seeder has no use for
    /// seeders (BEP 3). `asker` is its rank where it is of this family.
    pub fn pool<'a, R: Stored>(
        &'a self,
        peers: &'a Peers,
        role: Role,
        asker: Option<usize>,
    ) -> Pool<'a, R> {
        match role {
            Role::Leecher => Pool {
                leechers: self.list(peers, Role::Leecher),
                seeders: self.list(peers, Role::Seeder),
                asker,
            },
            Role::Seeder => Pool {
                leechers: self.list(peers, Role::Leecher),
                seeders: List::Slice(&[]),
                asker: None,
            },
        }
    }

    fn list<'a, R: Stored>(&'a self, peers: &'a Peers, role: Role) -> List<'a, R> {
        match (peers, role) {
            (Peers::Leecher(lone), Role::Leecher) | (Peers::Seeder(lone), Role::Seeder) => {
                List::Slice(R::lone(lone))
            }
            (&Peers::Small { class, place }, _) => {
                List::Slice(small::list(self.blocks.get(Block { class, place }), role))
            }
            (&Peers::Large(number), _) => match self.large(number) {
                Some(large) => List::Chunked(&R::lists(large)[role as usize], &self.blocks),
                None => List::Slice(&[]),
            },
            _ => List::Slice(&[]),
        }
    }
}

fn lone_tag<'a, R: Stored + 'a>(lone: &'a mut V4, key: R::Key) -> Option<&'a mut u8> {
    let known = R::lone_mut(lone).first_mut().filter(|p| p.key() == key)?;
    Some(known.tag_mut())
}

fn lists_of<R: Stored>(block: &[u8], blocks: &mut Blocks) -> Option<[PeerList<R>; 2]> {
    let leechers = PeerList::from_sorted(small::list(block, Role::Leecher), blocks)?;
    let seeders = PeerList::from_sorted(small::list(block, Role::Seeder), blocks)?;
    Some([leechers, seeders])
}

/// Moves a list into a block whose header is already in place.
fn move_list<R: Stored>(large: &mut Large, role: Role, block: Block, blocks: &mut Blocks) {
    let list = &mut R::lists_mut(large)[role as usize];
    let records: Vec<R> = list.chunks(blocks).flatten().copied().collect();
    small::list_mut(blocks.get_mut(block), role).copy_from_slice(&records);
    list.clear(blocks);
}

fn expire_list<R: Stored>(
    list: &mut PeerList<R>,
    within: Within,
    clock: Clock,
    blocks: &mut Blocks,
) -> (usize, Option<Within>) {
    let Some(from) = R::from_bytes(&within.from).first() else {
        return (0, None);
    };
    let (looked_at, next) = list.expire(from.key(), clock, blocks);
    (looked_at, next.map(|fence| within.at(&fence)))
}
