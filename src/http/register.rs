//! The register of open connections, in two orders.
//!
//! Every connection has one deadline, a fixed time after it was accepted or last answered, so a list in which
//! a connection moves to the end when its deadline changes is in the order of deadlines: the next to expire, and
//! the one that has been idle for longest, is its head. The few connections that hold bytes are besides in a tree
//! in the order of how many: the one to close when memory is short is its last. Neither order is ever searched
//! through.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Properties of a connection that the register orders by.
pub trait Entry {
    /// Bytes in buffers of its own.
    fn held(&self) -> usize;
    /// In milliseconds since the start.
    fn deadline(&self) -> u64;
}

/// A place in the register, linked to its neighbours in the order of deadlines.
struct Slot<E> {
    entry: Option<E>,
    before: Option<u32>,
    after: Option<u32>,
}

pub struct Register<E> {
    slots: Vec<Slot<E>>,
    vacant: Vec<u32>,
    oldest: Option<u32>,
    newest: Option<u32>,
    /// The entries that hold bytes: how many, the deadline, the index.
    holders: BTreeSet<(usize, Reverse<u64>, u32)>,
    /// The sum of what all entries hold.
    held: usize,
    room: Arc<Room>,
}

/// The limits of the connections of all threads together. A thread at a limit closes connections of its own;
/// one that has none exceeds the limit by the one that it serves, until another thread closes two for one.
pub struct Room {
    max_connections: usize,
    open: Arc<AtomicUsize>,
    held: AtomicUsize,
    /// Bytes that the connections of one thread may hold in any case.
    share: usize,
}

/// Bytes that connections may leave half-read and half-written. It is reached only by clients that send and do
/// not read, many at once.
const MAX_HELD: usize = 32 * 1024 * 1024;

impl Room {
    /// `open` is where the number of open connections is counted.
    pub fn new(max_connections: usize, threads: usize, open: Arc<AtomicUsize>) -> Room {
        Room {
            max_connections,
            open,
            held: AtomicUsize::new(0),
            share: MAX_HELD / threads.max(1),
        }
    }

    /// Whether there are as many connections as there may be.
    pub fn is_full(&self) -> bool {
        self.open.load(Relaxed) >= self.max_connections
    }
}

impl<E: Entry> Register<E> {
    pub fn new(room: Arc<Room>) -> Register<E> {
        Register {
            slots: Vec::new(),
            vacant: Vec::new(),
            oldest: None,
            newest: None,
            holders: BTreeSet::new(),
            held: 0,
            room,
        }
    }

    /// Whether connections of this thread are to be closed, as all together hold too much and these more than
    /// their share.
    pub fn is_out_of_memory(&self) -> bool {
        self.held > self.room.share && self.room.held.load(Relaxed) > MAX_HELD
    }

    pub fn room(&self) -> &Room {
        &self.room
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub fn get(&self, index: u32) -> Option<&E> {
        self.slots.get(index as usize)?.entry.as_ref()
    }

    /// All indexes that an entry may have.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + use<E> {
        (0..).zip(0..self.slots.len()).map(|(index, _)| index)
    }

    /// The entry whose deadline is next.
    pub fn oldest(&self) -> Option<u32> {
        self.oldest
    }

    /// The entry that holds the most bytes and, of several, has been idle for longest; none if none holds any.
    pub fn heaviest(&self) -> Option<u32> {
        self.holders.last().map(|&(_, _, index)| index)
    }

    /// Adds an entry, which must be due after all others; none if there are 2^32 already.
    pub fn add(&mut self, entry: E) -> Option<u32> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot {
                    entry: None,
                    before: None,
                    after: None,
                });
                index
            }
        };
        self.count(index, entry.held(), entry.deadline());
        self.slots[index as usize].entry = Some(entry);
        self.link(index);
        self.room.open.fetch_add(1, Relaxed);
        Some(index)
    }

    /// Lets an entry change, and both orders with it. Nothing else changes one, so that the sum is always that of
    /// what the entries hold. A deadline must become later than all others or stay.
    pub fn change<T>(&mut self, index: u32, work: impl FnOnce(&mut E) -> T) -> Option<T> {
        let entry = self.slots.get_mut(index as usize)?.entry.as_mut()?;
        let (held, deadline) = (entry.held(), entry.deadline());
        let done = work(entry);
        let (holds, due) = (entry.held(), entry.deadline());
        if due != deadline {
            self.unlink(index);
            self.link(index);
        }
        if (held, deadline) != (holds, due) {
            self.uncount(index, held, deadline);
            self.count(index, holds, due);
        }
        Some(done)
    }

    pub fn remove(&mut self, index: u32) -> Option<E> {
        let entry = self.slots.get_mut(index as usize)?.entry.take()?;
        self.uncount(index, entry.held(), entry.deadline());
        self.unlink(index);
        self.vacant.push(index);
        self.room.open.fetch_sub(1, Relaxed);
        Some(entry)
    }

    /// Whether both orders are those of the entries. It looks at all of them.
    pub fn is_consistent(&self) -> bool {
        let entries = || self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        let holders = entries().filter(|entry| entry.held() > 0).count();
        entries().map(E::held).sum::<usize>() == self.held && holders == self.holders.len()
    }

    fn count(&mut self, index: u32, held: usize, deadline: u64) {
        if held > 0 {
            self.held += held;
            self.room.held.fetch_add(held, Relaxed);
            self.holders.insert((held, Reverse(deadline), index));
        }
    }

    fn uncount(&mut self, index: u32, held: usize, deadline: u64) {
        if held > 0 {
            self.held -= held;
            self.room.held.fetch_sub(held, Relaxed);
            self.holders.remove(&(held, Reverse(deadline), index));
        }
    }

    /// Puts an entry at the end of the list.
    fn link(&mut self, index: u32) {
        let before = self.newest.replace(index);
        let slot = &mut self.slots[index as usize];
        slot.before = before;
        slot.after = None;
        match before {
            Some(before) => self.slots[before as usize].after = Some(index),
            None => self.oldest = Some(index),
        }
    }

    fn unlink(&mut self, index: u32) {
        let Slot { before, after, .. } = self.slots[index as usize];
        match before {
            Some(before) => self.slots[before as usize].after = after,
            None => self.oldest = after,
        }
        match after {
            Some(after) => self.slots[after as usize].before = before,
            None => self.newest = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Bytes held, and a deadline.
    struct Toy(usize, u64);

    impl Entry for Toy {
        fn held(&self) -> usize {
            self.0
        }

        fn deadline(&self) -> u64 {
            self.1
        }
    }

    fn register(toys: &[(usize, u64)]) -> Register<Toy> {
        let room = Room::new(100, 1, Arc::default());
        let mut register = Register::new(Arc::new(room));
        for &(held, deadline) in toys {
            register.add(Toy(held, deadline)).expect("has room");
        }
        register
    }

    /// The deadlines in the order in which `next` names the entries, each of which is then removed.
    fn removed(
        mut register: Register<Toy>,
        next: impl Fn(&Register<Toy>) -> Option<u32>,
    ) -> Vec<u64> {
        let mut deadlines = Vec::new();
        while let Some(index) = next(&register) {
            let toy = register.remove(index).expect("is there");
            assert!(register.is_consistent());
            deadlines.push(toy.1);
        }
        deadlines
    }

    #[test]
    fn the_heaviest_entry_comes_first_and_of_equals_the_one_idle_for_longest() {
        let toys = [(0, 1), (7, 2), (9, 3), (7, 4), (0, 5), (9, 6), (1, 7)];
        assert_eq!(
            removed(register(&toys), Register::heaviest),
            [3, 6, 2, 4, 7]
        );
        assert_eq!(
            removed(register(&toys), Register::oldest),
            [1, 2, 3, 4, 5, 6, 7]
        );
    }

    #[test]
    fn a_changed_entry_moves_in_both_orders() {
        let mut register = register(&[(5, 1), (4, 2), (3, 3)]);
        register.change(1, |toy| toy.0 = 6);
        assert_eq!((register.heaviest(), register.held), (Some(1), 14));
        register.change(1, |toy| *toy = Toy(5, 4));
        assert_eq!((register.heaviest(), register.held), (Some(0), 13));
        register.change(0, |toy| *toy = Toy(0, 5));
        assert_eq!((register.heaviest(), register.held), (Some(1), 8));
        assert_eq!(removed(register, Register::oldest), [3, 4, 5]);
    }

    #[test]
    fn an_index_without_an_entry_is_no_harm() {
        let mut register = register(&[(5, 1)]);
        assert_eq!(register.remove(0).map(|toy| toy.0), Some(5));
        assert!(register.remove(0).is_none());
        assert_eq!(register.change(0, |toy| toy.0 = 9), None);
        assert_eq!(register.change(1, |toy| toy.0 = 9), None);
        assert_eq!((register.len(), register.held), (0, 0));
        assert_eq!(register.add(Toy(2, 2)), Some(0));
    }

    #[test]
    fn a_thread_that_holds_less_than_its_share_closes_nothing() {
        let room = Arc::new(Room::new(100, 2, Arc::default()));
        let [mut greedy, mut modest] = [(); 2].map(|()| Register::new(room.clone()));
        greedy.add(Toy(MAX_HELD, 1));
        modest.add(Toy(100, 1));
        assert!(greedy.is_out_of_memory() && !modest.is_out_of_memory());
        greedy.remove(0);
        assert!(!greedy.is_out_of_memory());
    }

    #[test]
    fn the_sum_is_that_of_all_entries_after_any_changes() {
        let mut random = Random::seeded(7);
        let mut register = register(&[]);
        for now in 0..20_000 {
            let (index, held) = (random.below(100) as u32, random.below(4) * 100);
            match random.below(4) {
                0 if register.len() < 100 => drop(register.add(Toy(held, now))),
                1 => drop(register.remove(index)),
                2 => drop(register.change(index, |toy| toy.0 = held)),
                _ => drop(register.change(index, |toy| *toy = Toy(held, now))),
            }
            assert!(register.is_consistent());
            assert_eq!(register.room.held.load(Relaxed), register.held);
            assert_eq!(register.room.open.load(Relaxed), register.len());
            let most = register.slots.iter().filter_map(|slot| slot.entry.as_ref());
            let most = most.map(Toy::held).max().unwrap_or(0);
            let heaviest = register.heaviest().and_then(|index| register.get(index));
            assert_eq!(heaviest.map_or(0, Toy::held), most);
        }
    }
}
