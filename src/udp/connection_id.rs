//! Connection ids of BEP 15 without state: hashes instead of a list of clients.

use crate::base::siphash::siphash24;
use std::net::IpAddr;

/// A connection id is a hash of the source address and a time slot under a secret key, with the slot's low two bits
/// in it. It is valid in the slot in which it was made and in the next: for five to ten minutes. BEP 15 recommends two,
/// but some clients use an id for five.
///
/// Slots are of wall-clock time. A daemon that is started again with the same key accepts the ids from before, and
/// threads and the nodes of a cluster accept the ids of each other. Their clocks differ a little. An id may be of a
/// slot that has not begun here, so ids of the next slot are valid too.
///
/// A step of the wall clock, as at the first contact with a time server, would make every id invalid at once. So the
/// clock from before the last step goes on, and ids that were made by it expire by it.
#[derive(Clone)]
pub struct ConnectionIds {
    key: [u64; 2],
    /// The slots by the wall clock, and by the clock from before its last step.
    slots: [u64; 2],
    /// Milliseconds by which these clocks are ahead of the time since the start, modulo 2^64.
    ahead: [u64; 2],
    /// When the wall clock is read again.
    read_at: u64,
}

const SLOT_MS: u64 = 300_000;
const SLOT_MASK: u64 = 3;

/// Between two readings of the wall clock the loop's own time goes on, so that a round does not pay for it.
const READ_MS: u64 = 1000;

/// Smaller differences are steps that ids of the neighbouring slots allow for.
const STEP_MS: u64 = 60_000;

impl ConnectionIds {
    pub fn new(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            key,
            slots: [0; 2],
            ahead: [0; 2],
            read_at: 0,
        }
    }

    /// Sets the time, in milliseconds since the start. The wall clock counts milliseconds since 1970.
    pub fn advance(&mut self, now: u64, wall_ms: impl FnOnce() -> u64) {
        if self.read_at <= now {
            self.read_at = now.saturating_add(READ_MS);
            let [last, _] = self.ahead;
            let ahead = wall_ms().wrapping_sub(now);
            let step = ahead.wrapping_sub(last);
            if step.min(step.wrapping_neg()) > STEP_MS {
                self.ahead = [ahead, last];
            } else {
                self.ahead[0] = ahead;
            }
        }
        self.slots = self.ahead.map(|ahead| now.wrapping_add(ahead) / SLOT_MS);
    }

    pub(super) fn make(&self, source: IpAddr) -> u64 {
        let [slot, _] = self.slots;
        self.of_slot(source, slot)
    }

    pub(super) fn verify(&self, source: IpAddr, id: u64) -> bool {
        let mut slots = self.slots.into_iter();
        slots.any(|slot| self.is_of_about(slot, source, id))
    }

    /// Whether an id was made in this slot or in one beside it.
    fn is_of_about(&self, slot: u64, source: IpAddr, id: u64) -> bool {
        let slot = match id.wrapping_sub(slot) & SLOT_MASK {
            0 => Some(slot),
            1 => slot.checked_add(1),
            SLOT_MASK => slot.checked_sub(1),
            _ => None,
        };
        slot.is_some_and(|slot| self.of_slot(source, slot) == id)
    }

    fn of_slot(&self, source: IpAddr, slot: u64) -> u64 {
        let mut message = [0; 24];
        let address = match source {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        message[..16].copy_from_slice(&address.octets());
        message[16..].copy_from_slice(&slot.to_le_bytes());
        siphash24(self.key, &message) & !SLOT_MASK | slot & SLOT_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The time of a clock that began in this slot.
    fn set(ids: &mut ConnectionIds, slot: u64, now: u64) {
        ids.advance(now, || slot * SLOT_MS + now);
    }

    #[test]
    fn id_is_valid_for_two_slots_and_one_source() {
        let mut ids = ConnectionIds::new([1, 2]);
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for slot in 0..20 {
            set(&mut ids, 6_000_000, slot * SLOT_MS);
            let id = ids.make(here);
            for later in 0..10 {
                let mut ids = ids.clone();
                set(&mut ids, 6_000_000, (slot + later) * SLOT_MS + SLOT_MS - 1);
                assert_eq!(ids.verify(here, id), later <= 1, "{slot} + {later}");
                assert!(!ids.verify(there, id));
                assert!(!ids.verify(here, id ^ (1 << 63)));
            }
        }
        let other = ConnectionIds::new([1, 3]);
        assert_ne!(other.make(here), ConnectionIds::new([1, 2]).make(here));
        assert_eq!(other.make(here), other.make(ip("::ffff:192.0.2.1")));
    }

    #[test]
    fn id_is_valid_where_the_clock_is_a_slot_behind_or_ahead() {
        let here = ip("192.0.2.1");
        for slot in 6_000_000..6_000_008 {
            let mut one = ConnectionIds::new([1, 2]);
            set(&mut one, slot, 1);
            let id = one.make(here);
            for ahead in 0..8 {
                let mut other = ConnectionIds::new([1, 2]);
                set(&mut other, slot + ahead - 4, 1);
                assert_eq!(other.verify(here, id), (3..=5).contains(&ahead), "{ahead}");
                assert!(!other.verify(ip("192.0.2.2"), id));
            }
        }
    }

    #[test]
    fn a_restart_with_the_same_key_keeps_ids_valid() {
        let here = ip("192.0.2.1");
        let [mut before, mut after] = [[1, 2]; 2].map(ConnectionIds::new);
        set(&mut before, 6_000_000, 12_345_678);
        let id = before.make(here);
        set(&mut after, 6_000_000 + 12_345_678 / SLOT_MS, 0);
        assert!(after.verify(here, id));
    }

    /// By hours, weeks and from 1970, forward and back.
    #[test]
    fn a_step_of_the_clock_refuses_nobody_and_lets_ids_expire_as_before() {
        let here = ip("192.0.2.1");
        for (from, to) in [
            (6_000_000, 6_000_007),
            (6_000_000, 5_998_000),
            (1, 6_000_000),
        ] {
            let mut ids = ConnectionIds::new([1, 2]);
            set(&mut ids, from, 10_000);
            let old = ids.make(here);
            set(&mut ids, to, 11_000);
            let new = ids.make(here);
            assert_ne!(old, new);
            for (now, is_valid) in [(11_000, true), (SLOT_MS, true), (2 * SLOT_MS, false)] {
                set(&mut ids, to, now);
                let verified = [old, new].map(|id| ids.verify(here, id));
                assert_eq!(verified, [is_valid; 2], "{from} to {to}: {now}");
            }
        }
    }

    /// A clock that a time server sets every few minutes.
    #[test]
    fn small_steps_refuse_nobody() {
        let here = ip("192.0.2.1");
        let mut ids = ConnectionIds::new([1, 2]);
        let mut wall = 6_000_000 * SLOT_MS;
        for round in 0..1000 {
            ids.advance(round * 100_000, || wall);
            let id = ids.make(here);
            wall = wall + 100_000 + round % 3 * 40_000 - 40_000;
            ids.advance((round + 1) * 100_000, || wall);
            assert!(ids.verify(here, id), "{round}");
        }
    }
}
