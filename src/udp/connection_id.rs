//! Connection ids of BEP 15 without memory: hashes instead of a list of clients.

use crate::base::siphash::siphash24;
use std::net::IpAddr;

/// A connection id is a hash of the source address and a time slot under a secret key, with the slot's low two bits
/// in it. It is valid in the slot in which it was made and in the next: for two to four minutes, as BEP 15 recommends.
///
/// Threads, and the nodes of a cluster, share key and slots, so that each accepts the ids of the others. Their clocks
/// differ a little. An id may be of a slot that has not begun here, so ids of the next slot are valid too.
#[derive(Clone)]
pub struct ConnectionIds {
    /// In a cluster all nodes have the same key, and slots of wall-clock time.
    pub are_shared: bool,
    key: [u64; 2],
    slot: u64,
}

const SLOT_MS: u64 = 120_000;
const SLOT_BITS: u64 = 3;

impl ConnectionIds {
    pub fn new(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            are_shared: false,
            key,
            slot: 0,
        }
    }

    /// For the nodes of a cluster, whose clock counts from 1970.
    pub fn shared(key: [u64; 2]) -> ConnectionIds {
        ConnectionIds {
            are_shared: true,
            ..ConnectionIds::new(key)
        }
    }

    /// Sets the clock, in milliseconds: since 1970 if the ids are shared, else since the start.
    pub fn advance(&mut self, now: u64) {
        self.slot = now / SLOT_MS;
    }

    pub(super) fn make(&self, source: IpAddr) -> u64 {
        self.of_slot(source, self.slot)
    }

    pub(super) fn verify(&self, source: IpAddr, id: u64) -> bool {
        let slot = match id.wrapping_sub(self.slot) & SLOT_BITS {
            0 => Some(self.slot),
            1 => self.slot.checked_add(1),
            SLOT_BITS => self.slot.checked_sub(1),
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
        siphash24(self.key, &message) & !SLOT_BITS | slot & SLOT_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn id_is_valid_for_two_slots_and_one_source() {
        let mut ids = ConnectionIds::new([1, 2]);
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for slot in 0..20 {
            ids.advance(slot * SLOT_MS);
            let id = ids.make(here);
            for later in 0..10 {
                ids.advance((slot + later) * SLOT_MS + SLOT_MS - 1);
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
        let [mut one, mut other] = [[1, 2]; 2].map(ConnectionIds::new);
        for slot in 14_000_000..14_000_008 {
            one.advance(slot * SLOT_MS);
            let id = one.make(here);
            for ahead in 0..8 {
                other.advance((slot + ahead - 4) * SLOT_MS);
                assert_eq!(other.verify(here, id), (3..=5).contains(&ahead), "{ahead}");
                assert!(!other.verify(ip("192.0.2.2"), id));
            }
        }
    }
}
