//! Who may have a full scrape, and when.
//!
//! It is by far the largest reply there is, so by default an address has one every five minutes, and four
//! are underway at once, each for another address. Addresses are remembered only while that matters, and
//! only those let in; if there should be more than a thousand of them, the oldest is forgotten.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

/// What `--full-scrape` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullScrapes {
    /// Nobody.
    Off,
    /// Admins, as often as they like.
    Admin,
    /// Everybody, admins too, so often and so many at once.
    #[default]
    Modest,
    /// Everybody.
    Open,
}

impl FullScrapes {
    pub const ALL: [(FullScrapes, &'static str); 4] = [
        (FullScrapes::Off, "off"),
        (FullScrapes::Admin, "admin"),
        (FullScrapes::Modest, "modest"),
        (FullScrapes::Open, "open"),
    ];
}

impl fmt::Display for FullScrapes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            FullScrapes::Off => "for nobody",
            FullScrapes::Admin => "for admins",
            FullScrapes::Modest => "for an address every five minutes, four at once",
            FullScrapes::Open => "for everybody",
        })
    }
}

/// Seconds from one full scrape of an address to its next.
const EVERY: u64 = 300;

/// How many may be underway at once, and the seconds after which one that found no place is to ask again.
const SEATS: usize = 4;
const TRY_AGAIN: u32 = 10;

/// Addresses that are remembered: 32 KiB.
const MOST_REMEMBERED: usize = 1024;

/// Held while a full scrape is underway.
#[derive(Debug)]
pub struct Seat {
    _site: Rc<u128>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Not for this client.
    Forbidden,
    /// This address had one; it may have another in so many seconds.
    TooSoon(u32),
    /// All places are taken; in so many seconds there may be one.
    Full(u32),
}

pub struct Gate {
    policy: FullScrapes,
    /// Where the modest are that are underway. Whoever reads slowly holds a seat for long, but only one.
    seats: Vec<Weak<u128>>,
    /// Who was let in at which second, the oldest first.
    recent: VecDeque<(u128, u64)>,
}

impl Gate {
    pub fn new(policy: FullScrapes) -> Gate {
        Gate {
            policy,
            seats: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// Lets a client in at this second, or says why not. With `only_ask` nothing is remembered.
    pub fn enter(
        &mut self,
        client: IpAddr,
        is_admin: bool,
        only_ask: bool,
        second: u64,
    ) -> Result<Seat, Closed> {
        let site = Rc::new(site_of(client));
        match self.policy {
            FullScrapes::Off => return Err(Closed::Forbidden),
            FullScrapes::Admin if !is_admin => return Err(Closed::Forbidden),
            FullScrapes::Modest => {
                self.check(*site, only_ask, second)?;
                self.seats.push(Rc::downgrade(&site));
            }
            FullScrapes::Admin | FullScrapes::Open => {}
        }
        Ok(Seat { _site: site })
    }

    fn check(&mut self, site: u128, only_ask: bool, second: u64) -> Result<(), Closed> {
        let age = |then: u64| second.saturating_sub(then);
        while self.recent.front().is_some_and(|r| age(r.1) >= EVERY) {
            self.recent.pop_front();
        }
        if let Some(&(_, then)) = self.recent.iter().find(|r| r.0 == site) {
            return Err(Closed::TooSoon(
                u32::try_from(EVERY - age(then)).unwrap_or(0),
            ));
        }
        self.seats.retain(|seat| seat.strong_count() > 0);
        let is_underway = |seat: &Weak<u128>| seat.upgrade().is_some_and(|other| *other == site);
        if self.seats.iter().any(is_underway) {
            return Err(Closed::TooSoon(TRY_AGAIN));
        }
        if self.seats.len() >= SEATS {
            return Err(Closed::Full(TRY_AGAIN));
        }
        if !only_ask {
            if self.recent.len() >= MOST_REMEMBERED {
                self.recent.pop_front();
            }
            self.recent.push_back((site, second));
        }
        Ok(())
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, of which one host may use every address.
fn site_of(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn enter(gate: &mut Gate, client: &str, second: u64) -> Option<Closed> {
        gate.enter(ip(client), false, false, second).err()
    }

    #[test]
    fn the_modest_come_every_five_minutes() {
        let mut gate = Gate::new(FullScrapes::Modest);
        assert_eq!(enter(&mut gate, "192.0.2.1", 100), None);
        let again = [
            (100, Some(Closed::TooSoon(300))),
            (399, Some(Closed::TooSoon(1))),
            (400, None),
            (401, Some(Closed::TooSoon(299))),
        ];
        for (second, expected) in again {
            assert_eq!(enter(&mut gate, "192.0.2.1", second), expected, "{second}");
        }
        assert_eq!(enter(&mut gate, "192.0.2.2", 401), None);
        let mapped = enter(&mut gate, "::ffff:192.0.2.2", 401);
        assert_eq!(mapped, Some(Closed::TooSoon(300)));
    }

    #[test]
    fn a_site_is_an_address_or_a_64() {
        let mut gate = Gate::new(FullScrapes::Modest);
        assert_eq!(enter(&mut gate, "2001:db8::1", 0), None);
        let neighbour = enter(&mut gate, "2001:db8::ffff:0:1", 0);
        assert_eq!(neighbour, Some(Closed::TooSoon(300)));
        assert_eq!(enter(&mut gate, "2001:db8:0:1::1", 0), None);
        assert_eq!(enter(&mut gate, "::1", 0), None);
        assert_eq!(enter(&mut gate, "0.0.0.1", 0), None);
    }

    #[test]
    fn who_only_asks_is_not_remembered() {
        let mut gate = Gate::new(FullScrapes::Modest);
        for _ in 0..2 {
            assert!(gate.enter(ip("192.0.2.1"), false, true, 5).is_ok());
        }
        assert_eq!(enter(&mut gate, "192.0.2.1", 5), None);
        let asked = gate.enter(ip("192.0.2.1"), false, true, 5).err();
        assert_eq!(asked, Some(Closed::TooSoon(300)));
    }

    #[test]
    fn there_are_four_seats() {
        let mut gate = Gate::new(FullScrapes::Modest);
        let mut sit = |n: u8| gate.enter([192, 0, 2, n].into(), false, false, 0);
        let mut seated: Vec<Seat> = (0..4).map(|n| sit(n).expect("a seat")).collect();
        assert_eq!(sit(9).err(), Some(Closed::Full(TRY_AGAIN)));
        seated.pop();
        // Whom there was no seat for is not counted as having had one.
        assert!(sit(9).is_ok());
    }

    #[test]
    fn a_site_has_one_seat_however_slowly_it_reads() {
        let mut gate = Gate::new(FullScrapes::Modest);
        let seat = gate.enter(ip("192.0.2.1"), false, false, 0);
        assert_eq!(
            enter(&mut gate, "192.0.2.1", 1000),
            Some(Closed::TooSoon(TRY_AGAIN))
        );
        assert_eq!(enter(&mut gate, "192.0.2.2", 1000), None);
        drop(seat);
        assert_eq!(enter(&mut gate, "192.0.2.1", 1000), None);
    }

    #[test]
    fn policies_let_in_whom_they_say() {
        for (policy, stranger, admin) in [
            (FullScrapes::Off, false, false),
            (FullScrapes::Admin, false, true),
            (FullScrapes::Modest, true, true),
            (FullScrapes::Open, true, true),
        ] {
            let mut gate = Gate::new(policy);
            let mut enters = |n, is_admin| {
                let client = [192, 0, 2, n].into();
                gate.enter(client, is_admin, false, 0).is_ok()
            };
            assert_eq!(enters(1, false), stranger, "{policy:?}");
            assert_eq!(enters(2, true), admin, "{policy:?}");
            let is_limited = policy == FullScrapes::Modest;
            assert_eq!(enters(1, false), stranger && !is_limited, "{policy:?}");
            assert_eq!(enters(2, true), admin && !is_limited, "{policy:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut gate = Gate::new(FullScrapes::Modest);
        for n in 0..3000_u32 {
            let client = IpAddr::V4(n.into());
            assert!(gate.enter(client, false, false, 0).is_ok());
        }
        assert_eq!(gate.recent.len(), MOST_REMEMBERED);
        assert_eq!(
            enter(&mut gate, "0.0.11.183", 1),
            Some(Closed::TooSoon(299))
        );
        assert_eq!(enter(&mut gate, "0.0.0.1", 1), None, "long forgotten");
    }
}
