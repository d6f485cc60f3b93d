//! Time as the table knows it: units of a 48th of the peer timeout, and stamps of six bits.
//!
//! A peer's age matters only up to its timeout, so a stamp is the unit of the last announce modulo [`Clock::STAMPS`]
//! and takes no byte of its own. That is correct as long as no stored peer is [`Clock::STAMPS`] units old: the sweep
//! passes everything at least every [`Clock::SWEEP_WITHIN`] units. After a longer pause the clock is held where every
//! stamp is still unambiguous, until a sweep that judges by the true time has passed everything (see
//! `Tracker::advance`).
//!
//! An announce that contradicts the stored state takes the next unit, so a stamp may be up to [`Clock::AHEAD`] units
//! ahead of the clock. Such a stamp counts as one of now.

/// Units in a peer's life: an older peer has expired.
pub const LIFE: u64 = 48;

/// Bits of a tag that hold the stamp.
const STAMP_BITS: u32 = 6;

/// The bits of a tag that are the stamp.
pub const STAMP_MASK: u8 = (Clock::STAMPS - 1) as u8; // At most six bits.

// A stamp shares its byte with two flags.
const _: () = assert!(STAMP_BITS <= 6);

// Stamps distinguish all units of a peer's life and the units ahead, and some are left: `SWEEP_VALID` does not
// underflow.
const _: () = assert!(Clock::STAMPS - 1 > LIFE + Clock::AHEAD as u64);

// An ordinary sweep ends before the clock would have to be held.
const _: () = assert!(Clock::SWEEP_WITHIN < Clock::SWEEP_VALID);

/// The table's present time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    unit: u64,
    /// Units by which the true time is ahead of `unit`: zero unless the clock is held.
    behind: u64,
}

impl Clock {
    /// Units from the start of one sweep to the end of the next.
    pub const SWEEP_WITHIN: u64 = 8;

    /// Stamps are modulo this.
    pub const STAMPS: u64 = 1 << STAMP_BITS;

    /// Units from the start of a whole sweep during which every stamp is unambiguous: the oldest peer that the sweep
    /// left had just reached its timeout, and its stamp differs from those up to [`Clock::AHEAD`] units ahead.
    pub const SWEEP_VALID: u64 = Clock::STAMPS - 1 - LIFE - Clock::AHEAD as u64;

    /// The unit of the start. Peers that another node saw before the start have earlier units.
    pub const FIRST: u64 = Clock::STAMPS;

    /// Units by which a stamp may be ahead of the clock.
    pub const AHEAD: u8 = 2;

    pub fn at(unit: u64) -> Clock {
        Clock { unit, behind: 0 }
    }

    /// This clock, held although the true time is `unit`: peers are judged by that.
    pub fn judging_at(self, unit: u64) -> Clock {
        Clock {
            unit: self.unit,
            behind: unit.saturating_sub(self.unit),
        }
    }

    /// This clock's stamps, judged as if every peer's time were over.
    pub fn judging_all_expired(self) -> Clock {
        Clock {
            unit: self.unit,
            behind: LIFE + 1 + u64::from(Self::AHEAD),
        }
    }

    pub fn unit(self) -> u64 {
        self.unit
    }

    /// The unit of the true time, which is later if the clock is held.
    pub fn true_unit(self) -> u64 {
        self.unit.saturating_add(self.behind)
    }

    pub fn is_held(self) -> bool {
        self.behind > 0
    }

    /// The stamp of an announce made now, in the low bits.
    pub fn stamp(self) -> u8 {
        self.unit as u8 & STAMP_MASK
    }

    /// Units from the announce that left this tag to the last unit that a stamp can name, which is
    /// [`Clock::AHEAD`] units ahead.
    pub fn age_from_ahead(self, tag: u8) -> u8 {
        let last = self.stamp().wrapping_add(Self::AHEAD);
        last.wrapping_sub(tag) & STAMP_MASK
    }

    /// The clock of so many units ago, for the stamp of that time.
    pub fn ago(self, units: u8) -> Clock {
        Clock::at(self.unit.wrapping_sub(units.into()))
    }

    /// Units since the announce that left this tag (its flags do not matter).
    pub fn age(self, tag: u8) -> u8 {
        self.age_from_ahead(tag).saturating_sub(Self::AHEAD)
    }

    /// The unit of the announce that left this tag.
    pub fn unit_of(self, tag: u8) -> u64 {
        let last = self.unit.wrapping_add(Self::AHEAD.into());
        last.wrapping_sub(self.age_from_ahead(tag).into())
    }

    /// This unit, or the last that a stamp can name.
    pub fn nearest(self, unit: u64) -> u64 {
        unit.min(self.unit.saturating_add(Self::AHEAD.into()))
    }

    pub fn expired(self, tag: u8) -> bool {
        u64::from(self.age_from_ahead(tag)) + self.behind > LIFE + u64::from(Self::AHEAD)
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
    fn a_peer_lives_for_48_units() {
        assert_eq!((Clock::STAMPS, Clock::SWEEP_VALID), (64, 13));
        for start in [0, 1, 31, 32, 63, 64, 1 << 40] {
            let tag = Clock::at(start).stamp();
            for age in 0..62 {
                let now = Clock::at(start + age);
                assert_eq!(now.expired(tag), age > 48, "start {start}, age {age}");
                assert_eq!(now.expired(tag | 0xc0), age > 48);
            }
        }
    }

    #[test]
    fn a_stamp_names_its_unit_from_61_units_ago_to_2_ahead() {
        for now in [200, 255, 256, 1 << 40] {
            for unit in now - 61..=now + 2 {
                let tag = Clock::at(unit).stamp();
                let clock = Clock::at(now);
                assert_eq!(clock.unit_of(tag), unit);
                assert_eq!(clock.unit_of(tag | 0xc0), unit);
                assert_eq!(u64::from(clock.age(tag)), now.saturating_sub(unit));
            }
        }
    }

    #[test]
    fn a_held_clock_judges_by_the_true_time() {
        let clock = Clock::at(1010);
        for unit in 1010 - 61..=1010 + 2 {
            let tag = Clock::at(unit).stamp();
            for now in (1010..1200).chain([1_000_000]) {
                let held = clock.judging_at(now);
                assert_eq!(held.expired(tag), unit + 48 < now, "{unit} at {now}");
                assert_eq!(held.unit_of(tag), unit);
            }
            assert!(clock.judging_all_expired().expired(tag));
        }
    }

    #[test]
    fn a_unit_is_a_48th_of_the_timeout_and_at_least_a_millisecond() {
        assert_eq!(Clock::unit_ms(2700), 56_250);
        assert_eq!(Clock::unit_ms(0), 1);
    }
}
