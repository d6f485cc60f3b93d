//! A thread's open connections in two orders, and the limits that all threads share.
//!
//! By deadline: a heap has an entry for each connection. Deadlines only become later, so an entry may be too early; it
//! is put right when it reaches the top. Answering a request thus costs the heap nothing. By bytes held: the few
//! connections that hold any are in a tree, the one that holds the most last. Neither order is ever searched.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct ConnectionPool<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
    /// Deadline and index. No deadline is later than the connection's own.
    deadlines: BinaryHeap<Reverse<(u64, u32)>>,
    /// Bytes held and index of connections that hold any.
    holders: BTreeSet<(usize, u32)>,
    held: usize,
    limits: Arc<SharedLimits>,
}

struct Slot<T> {
    connection: Option<T>,
    /// In milliseconds since the start.
    deadline: u64,
    /// Bytes that the connection holds.
    held: usize,
    /// `deadlines` has an entry of this index, which may stay when its connection is gone.
    has_entry: bool,
}

/// Limits of the connections of all threads together. At a limit, a thread closes connections of its own. One that
/// has none exceeds the limit by the one that it serves, until another thread closes two for one.
pub struct SharedLimits {
    max_connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    held: AtomicUsize,
    /// Bytes that connections may hold half-read and half-written.
    max_held: usize,
    /// Bytes that the connections of one thread may hold in any case.
    share: usize,
}

impl SharedLimits {
    /// `open` counts the open connections. Reports show it and the maximum.
    pub fn new(
        max_connections: Arc<AtomicUsize>,
        max_held: usize,
        threads: usize,
        open: Arc<AtomicUsize>,
    ) -> SharedLimits {
        SharedLimits {
            max_connections,
            open,
            held: AtomicUsize::new(0),
            max_held,
            share: max_held / threads.max(1),
        }
    }

    /// Connections above the limit stay until newcomers replace them, two for each.
    pub fn set_max_connections(&self, max: usize) {
        self.max_connections.store(max, Relaxed);
    }
}

impl<T> ConnectionPool<T> {
    pub fn new(limits: Arc<SharedLimits>) -> ConnectionPool<T> {
        ConnectionPool {
            slots: Vec::new(),
            vacant: Vec::new(),
            deadlines: BinaryHeap::new(),
            holders: BTreeSet::new(),
            held: 0,
            limits,
        }
    }

    /// Whether there are as many connections as there may be.
    pub fn is_full(&self) -> bool {
        self.limits.open.load(Relaxed) >= self.limits.max_connections.load(Relaxed)
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.connection.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.connection.as_mut()
    }

    /// All indexes that a connection may have.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + use<T> {
        (0..).zip(0..self.slots.len()).map(|(index, _)| index)
    }

    /// Adds a connection that holds nothing. None: there are 2^32 already.
    pub fn add(&mut self, connection: T, deadline: u64) -> Option<u32> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot {
                    connection: None,
                    deadline,
                    held: 0,
                    has_entry: false,
                });
                index
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.connection = Some(connection);
        slot.deadline = deadline;
        if !std::mem::replace(&mut slot.has_entry, true) {
            self.deadlines.push(Reverse((deadline, index)));
        }
        self.limits.open.fetch_add(1, Relaxed);
        Some(index)
    }

    /// Notes a connection's deadline, which must not become earlier, and the bytes that it holds.
    pub fn update(&mut self, index: u32, deadline: u64, held: usize) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        slot.deadline = deadline;
        let before = std::mem::replace(&mut slot.held, held);
        if before == held {
            return;
        }
        self.holders.remove(&(before, index));
        if held > 0 {
            self.holders.insert((held, index));
        }
        self.held = self.held - before + held;
        self.limits.held.fetch_add(held, Relaxed);
        self.limits.held.fetch_sub(before, Relaxed);
    }

    /// Drops a connection, which closes its stream. Returns whether there was one.
    pub fn remove(&mut self, index: u32) -> bool {
        let removed = self.slots.get_mut(index as usize).and_then(|slot| {
            slot.connection.take()?;
            Some(slot.deadline)
        });
        if let Some(deadline) = removed {
            self.update(index, deadline, 0);
            self.vacant.push(index);
            self.limits.open.fetch_sub(1, Relaxed);
        }
        removed.is_some()
    }

    /// The connection with the earliest deadline: the one that has been idle for longest.
    pub fn oldest(&mut self) -> Option<u32> {
        loop {
            let mut top = self.deadlines.peek_mut()?;
            let Reverse((deadline, index)) = *top;
            let slot = self.slots.get_mut(index as usize)?;
            if slot.connection.is_none() {
                slot.has_entry = false;
                PeekMut::pop(top);
            } else if slot.deadline == deadline {
                return Some(index);
            } else {
                *top = Reverse((slot.deadline, index));
            }
        }
    }

    /// No connection has an earlier deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        let Reverse((deadline, _)) = self.deadlines.peek()?;
        Some(*deadline)
    }

    /// A connection whose deadline has passed.
    pub fn expired(&mut self, now: u64) -> Option<u32> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        let index = self.oldest()?;
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        Some(index)
    }

    /// The connection that holds the most, if it is to be closed: all together hold too much, and these more than their
    /// share.
    pub fn heaviest_to_close(&self) -> Option<u32> {
        let is_over = self.limits.held.load(Relaxed) > self.limits.max_held;
        let &(_, index) = self.holders.last()?;
        (is_over && self.held > self.limits.share).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    const MAX_HELD: usize = 1 << 20;

    fn pool(threads: usize) -> ConnectionPool<()> {
        ConnectionPool::new(Arc::new(SharedLimits::new(
            Arc::new(100.into()),
            MAX_HELD,
            threads,
            Arc::default(),
        )))
    }

    #[test]
    fn oldest_connection_is_the_one_with_the_earliest_deadline_after_any_changes() {
        let mut random = Random::seeded(7);
        let mut pool = pool(1);
        for now in 0..20_000_u64 {
            let index = random.below(100) as u32;
            let is_there = pool.get_mut(index).is_some();
            match random.below(4) {
                0 if pool.len() < 100 => drop(pool.add((), now)),
                1 => assert_eq!(pool.remove(index), is_there),
                2 if is_there => pool.update(index, now, random.below(4) * 100),
                _ => {}
            }
            let open = || pool.slots.iter().filter(|slot| slot.connection.is_some());
            let earliest = open().map(|slot| slot.deadline).min();
            let held: usize = open().map(|slot| slot.held).sum();
            let most = open().map(|slot| slot.held).max().unwrap_or(0);
            assert_eq!(open().count(), pool.len());
            assert_eq!(
                (held, most),
                (pool.held, pool.holders.last().map_or(0, |h| h.0))
            );
            assert_eq!(pool.limits.held.load(Relaxed), held);
            assert_eq!(pool.limits.open.load(Relaxed), pool.len());
            assert!(pool.next_deadline() <= earliest || earliest.is_none());
            if random.below(10) == 0 {
                let oldest = pool
                    .oldest()
                    .map(|index| pool.slots[index as usize].deadline);
                assert_eq!(oldest, earliest);
                assert_eq!(pool.next_deadline(), earliest);
            }
            assert!(pool.deadlines.len() <= pool.slots.len());
        }
    }

    #[test]
    fn connections_expire_in_the_order_of_their_deadlines() {
        let mut pool = pool(1);
        for deadline in [1, 2, 3] {
            pool.add((), deadline);
        }
        pool.update(0, 5, 0);
        let mut expired = Vec::new();
        while let Some(index) = pool.expired(4) {
            expired.push(index);
            pool.remove(index);
        }
        assert_eq!(expired, [1, 2]);
        assert_eq!(pool.next_deadline(), Some(5));
    }

    #[test]
    fn connection_that_holds_the_most_is_closed_first() {
        let mut pool = pool(1);
        for held in [0, MAX_HELD / 2, MAX_HELD, 1] {
            let index = pool.add((), 1).expect("an index");
            pool.update(index, 1, held);
        }
        assert_eq!(pool.heaviest_to_close(), Some(2));
        pool.remove(2);
        assert_eq!(pool.heaviest_to_close(), None);
    }

    #[test]
    fn thread_that_holds_less_than_its_share_closes_nothing() {
        let mut greedy = pool(2);
        let mut other = ConnectionPool::new(greedy.limits.clone());
        for (pool, held) in [(&mut greedy, MAX_HELD), (&mut other, 100)] {
            pool.add((), 1);
            pool.update(0, 1, held);
        }
        assert!(greedy.heaviest_to_close().is_some() && other.heaviest_to_close().is_none());
        greedy.remove(0);
        assert_eq!(greedy.heaviest_to_close(), None);
    }
}
