//! Time as the table knows it: units of a 96th of the peer timeout, and stamps of seven bits.
//!
//! A peer's age matters only up to its timeout, so a stamp is the unit of the last announce modulo
//! 128 and costs no byte of its own. That is sound as long as no stored peer is ever 128 units old:
//! the sweep passes everything at least every [`Clock::SWEEP_WITHIN`] units, and after a longer
//! pause it sweeps before the clock moves (see `Tracker::advance`).
//!
//! Nodes of a cluster share stamps, and one whose clock is a little ahead may have stamped a peer with a
//! unit that is still to come: a stamp up to [`Clock::AHEAD`] units ahead counts as one of now.

/// Units in a peer's life: a peer is expired when it is older than this.
pub const LIFE: u64 = 96;

/// Bits of a tag that hold the stamp.
const STAMP: u8 = 0x7f;

/// What the table takes for now.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    unit: u64,
    /// How far the real time is ahead of `unit`: zero but while a pause is made up for.
    ahead: u64,
}

impl Clock {
    /// Units from the start of one sweep to the end of the next.
    pub const SWEEP_WITHIN: u64 = 8;

    /// A sweep that began longer ago than this no longer vouches for the stamps: a peer that it
    /// passed at age 96 would come too near to 124, where stamps are of units to come.
    pub const SWEEP_VALID: u64 = 24;

    /// The unit of the start: a peer that others have seen before has a unit too.
    pub const FIRST: u64 = 128;

    /// Units by which a stamp may be ahead of the clock.
    pub const AHEAD: u8 = 4;

    pub fn at(unit: u64) -> Clock {
        Clock { unit, ahead: 0 }
    }

    /// This clock's stamps, judged as if it were already `unit`.
    pub fn judging_at(self, unit: u64) -> Clock {
        Clock {
            unit: self.unit,
            ahead: unit.saturating_sub(self.unit),
        }
    }

    /// This clock's stamps, judged as if every peer's time were over.
    pub fn judging_all_expired(self) -> Clock {
        Clock {
            unit: self.unit,
            ahead: LIFE + 1,
        }
    }

    pub fn unit(self) -> u64 {
        self.unit
    }

    /// The stamp of an announce made now, in the low seven bits.
    pub fn stamp(self) -> u8 {
        (self.unit & u64::from(STAMP)) as u8
    }

    /// The clock of so many units ago, for the stamp that it gave then.
    pub fn ago(self, units: u8) -> Clock {
        Clock::at(self.unit.wrapping_sub(units.into()))
    }

    /// Units since the announce that left this tag (its top bit does not matter).
    pub fn age(self, tag: u8) -> u8 {
        let age = self.stamp().wrapping_add(Self::AHEAD).wrapping_sub(tag) & STAMP;
        age.saturating_sub(Self::AHEAD)
    }

    /// The unit of the announce that left this tag.
    pub fn unit_of(self, tag: u8) -> u64 {
        let last = self.unit.wrapping_add(Self::AHEAD.into());
        last.wrapping_sub(last.wrapping_sub(tag.into()) & u64::from(STAMP))
    }

    pub fn expired(self, tag: u8) -> bool {
        u64::from(self.age(tag)) + self.ahead > LIFE
    }

    /// Milliseconds in a unit for a peer timeout in seconds; never zero.
    pub fn unit_ms(peer_timeout: u32) -> u64 {
        (u64::from(peer_timeout) * 1000 / LIFE).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_lives_for_96_units_and_no_longer_than_98() {
        for start in [0, 1, 31, 32, 127, 128, 1 << 40] {
            let tag = Clock::at(start).stamp();
            for age in 0..124 {
                let now = Clock::at(start + age);
                assert_eq!(now.expired(tag), age > 96, "start {start}, age {age}");
                assert_eq!(now.expired(tag | 0x80), age > 96);
            }
        }
    }

    #[test]
    fn a_stamp_names_its_unit_from_123_units_ago_to_4_ahead() {
        for now in [200, 255, 256, 1 << 40] {
            for unit in now - 123..=now + 4 {
                let tag = Clock::at(unit).stamp();
                let clock = Clock::at(now);
                assert_eq!(clock.unit_of(tag), unit);
                assert_eq!(clock.unit_of(tag | 0x80), unit);
                assert_eq!(u64::from(clock.age(tag)), now.saturating_sub(unit));
            }
        }
    }

    #[test]
    fn a_pause_ages_everybody_at_once() {
        let tag = Clock::at(1000).stamp();
        let clock = Clock::at(1010);
        assert!(!clock.judging_at(1096).expired(tag));
        assert!(clock.judging_at(1097).expired(tag));
        assert!(clock.judging_at(1_000_000).expired(tag));
    }

    #[test]
    fn a_unit_is_a_96th_of_the_timeout_and_never_nothing() {
        assert_eq!(Clock::unit_ms(2700), 28_125);
        assert_eq!(Clock::unit_ms(0), 1);
    }
}
