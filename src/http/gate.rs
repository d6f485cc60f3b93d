//! Which clients may have a full scrape, and when.
//!
//! It is by far the largest reply there is, so by default an address has one every five minutes, and four
//! are underway at once, each for another address. Addresses are remembered only while that matters, and
//! only those let in; if there should be more than a thousand of them, the oldest is forgotten.
//!
//! A slow reader holds its place until another client finds no place free. Then the slowest reader below a
//! minimum rate is ended and the newcomer is served. A reader has half a minute to show its rate. If all
//! readers are faster, the newcomer has to retry, since fast readers soon leave by themselves.
//! A client that rotates through the /64s of a /48 gets at most four full scrapes in five minutes.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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

/// Bytes per second below which a reader is ended when a newcomer finds no place.
const MIN_RATE: u64 = 64 * 1024;

/// A rate is measured over one to two spans of so many seconds. A reader in its first span has no rate.
const SPAN: u64 = 30;

/// IPv6 /64s of one /48 that may have a full scrape at once, or one after the other in five minutes.
const MAX_OF_A_48: usize = 4;

/// Held while a full scrape is underway.
#[derive(Debug)]
pub struct Seat(Arc<Reader>);

impl Seat {
    /// Whether this reader had to leave for a newcomer. Its connection is to be closed.
    pub fn is_ended(&self) -> bool {
        self.0.is_ended.load(Relaxed)
    }

    /// Counts bytes that the client has taken by this second.
    pub fn count(&self, bytes: usize, second: u64) {
        let mut current = lock(&self.0.pace);
        let mut pace = current.at(second);
        pace.taken = pace.taken.saturating_add(bytes as u64);
        *current = pace;
    }
}

/// A client with a full scrape underway.
#[derive(Debug)]
struct Reader {
    site: u128,
    pace: Mutex<Pace>,
    is_ended: AtomicBool,
}

/// A thread that panics ends the process, so no lock is ever found poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How fast a reader takes bytes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The second in which it began to read.
    began: u64,
    /// The second in which the current span began.
    span: u64,
    /// Bytes in the current span, and in the one before it.
    taken: u64,
    before: u64,
}

impl Pace {
    fn new(second: u64) -> Pace {
        Pace {
            began: second,
            span: second,
            taken: 0,
            before: 0,
        }
    }

    /// The same with the span that is current at this second.
    fn at(self, second: u64) -> Pace {
        let spans = second.saturating_sub(self.span) / SPAN;
        let (taken, before) = match spans {
            0 => return self,
            1 => (0, self.taken),
            _ => (0, 0),
        };
        Pace {
            span: self.span + spans * SPAN,
            taken,
            before,
            ..self
        }
    }

    /// Bytes per second, once a whole span is over.
    fn rate(self, second: u64) -> Option<u64> {
        if second.saturating_sub(self.began) < SPAN {
            return None;
        }
        let pace = self.at(second);
        let bytes = pace.taken.saturating_add(pace.before);
        bytes.checked_div(SPAN + second.saturating_sub(pace.span))
    }
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

/// Shared by all threads.
#[derive(Clone)]
pub struct Gate {
    policy: FullScrapes,
    visits: Arc<Mutex<Visits>>,
}

#[derive(Default)]
struct Visits {
    /// The modest readers whose full scrapes are underway, each of another site.
    seats: Vec<Weak<Reader>>,
    /// Sites and the seconds at which they were let in, the oldest first.
    recent: VecDeque<(u128, u64)>,
}

impl Gate {
    pub fn new(policy: FullScrapes) -> Gate {
        Gate {
            policy,
            visits: Arc::default(),
        }
    }

    /// Lets a client in at this second, or says why not. With `only_ask` nothing is remembered, and no
    /// reader is ended.
    pub fn enter(
        &self,
        client: IpAddr,
        is_admin: bool,
        only_ask: bool,
        second: u64,
    ) -> Result<Seat, Closed> {
        let reader = Arc::new(Reader {
            site: site_of(client),
            pace: Mutex::new(Pace::new(second)),
            is_ended: AtomicBool::new(false),
        });
        match self.policy {
            FullScrapes::Off => return Err(Closed::Forbidden),
            FullScrapes::Admin if !is_admin => return Err(Closed::Forbidden),
            FullScrapes::Modest => {
                let mut visits = lock(&self.visits);
                visits.check(reader.site, second)?;
                visits.find_seat(only_ask, second)?;
                if !only_ask {
                    visits.remember(reader.site, second);
                    visits.seats.push(Arc::downgrade(&reader));
                }
            }
            FullScrapes::Admin | FullScrapes::Open => {}
        }
        Ok(Seat(reader))
    }
}

impl Visits {
    /// Whether this site may have a full scrape now, if there is a place.
    fn check(&mut self, site: u128, second: u64) -> Result<(), Closed> {
        while self
            .recent
            .front()
            .is_some_and(|r| age(r.1, second) >= EVERY)
        {
            self.recent.pop_front();
        }
        self.seats.retain(|seat| seat.strong_count() > 0);
        if let Some(&(_, then)) = self.recent.iter().find(|r| r.0 == site) {
            return Err(too_soon(then, second));
        }
        let mut underway = self.readers().map(|reader| reader.site);
        if underway.any(|other| other == site) {
            return Err(Closed::TooSoon(TRY_AGAIN));
        }
        self.check_48(site, second)
    }

    /// Counts a /48 as one client once many of its /64s have had a full scrape, or have one underway.
    fn check_48(&self, site: u128, second: u64) -> Result<(), Closed> {
        let Some(network) = network_of(site) else {
            return Ok(());
        };
        let is_of_it = |site: u128| network_of(site) == Some(network);
        let mut recent = self.recent.iter().filter(|r| is_of_it(r.0)).peekable();
        let oldest = recent.peek().map(|r| r.1);
        let is_remembered = |site| self.recent.iter().any(|r| r.0 == site);
        let underway = self.readers().map(|reader| reader.site);
        let others = underway.filter(|&site| is_of_it(site) && !is_remembered(site));
        if recent.count() + others.count() < MAX_OF_A_48 {
            return Ok(());
        }
        Err(oldest.map_or(Closed::TooSoon(TRY_AGAIN), |then| too_soon(then, second)))
    }

    /// Makes sure that there is a place, if need be by ending the slowest reader.
    fn find_seat(&mut self, only_ask: bool, second: u64) -> Result<(), Closed> {
        if self.seats.len() < SEATS {
            return Ok(());
        }
        let rates = self.seats.iter().enumerate().filter_map(|(place, seat)| {
            let rate = lock(&seat.upgrade()?.pace).rate(second)?;
            (rate < MIN_RATE).then_some((rate, place))
        });
        let Some((_, slowest)) = rates.min() else {
            return Err(Closed::Full(TRY_AGAIN));
        };
        if !only_ask {
            if let Some(reader) = self.seats.swap_remove(slowest).upgrade() {
                reader.is_ended.store(true, Relaxed);
            }
        }
        Ok(())
    }

    fn remember(&mut self, site: u128, second: u64) {
        if self.recent.len() >= MOST_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((site, second));
    }

    fn readers(&self) -> impl Iterator<Item = Arc<Reader>> {
        self.seats.iter().filter_map(Weak::upgrade)
    }
}

fn age(then: u64, second: u64) -> u64 {
    second.saturating_sub(then)
}

/// The refusal of a site that was let in at the second `then`, or whose /48 was.
fn too_soon(then: u64, second: u64) -> Closed {
    let seconds = EVERY.saturating_sub(age(then, second));
    Closed::TooSoon(u32::try_from(seconds).unwrap_or(0))
}

/// One client: an IPv4 address, or an IPv6 /64, of which one host may use every address.
fn site_of(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// The /48 of an IPv6 site. An IPv4 site has none.
fn network_of(site: u128) -> Option<u128> {
    let is_v4 = site >> 32 == 0xffff;
    (!is_v4).then_some(site >> 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn enter(gate: &Gate, client: &str, second: u64) -> Option<Closed> {
        gate.enter(ip(client), false, false, second).err()
    }

    #[test]
    fn the_modest_come_every_five_minutes() {
        let gate = Gate::new(FullScrapes::Modest);
        assert_eq!(enter(&gate, "192.0.2.1", 100), None);
        let again = [
            (100, Some(Closed::TooSoon(300))),
            (399, Some(Closed::TooSoon(1))),
            (400, None),
            (401, Some(Closed::TooSoon(299))),
        ];
        for (second, expected) in again {
            assert_eq!(enter(&gate, "192.0.2.1", second), expected, "{second}");
        }
        assert_eq!(enter(&gate, "192.0.2.2", 401), None);
        let mapped = enter(&gate, "::ffff:192.0.2.2", 401);
        assert_eq!(mapped, Some(Closed::TooSoon(300)));
    }

    #[test]
    fn a_site_is_an_address_or_a_64() {
        let gate = Gate::new(FullScrapes::Modest);
        assert_eq!(enter(&gate, "2001:db8::1", 0), None);
        let neighbour = enter(&gate, "2001:db8::ffff:0:1", 0);
        assert_eq!(neighbour, Some(Closed::TooSoon(300)));
        assert_eq!(enter(&gate, "2001:db8:0:1::1", 0), None);
        assert_eq!(enter(&gate, "::1", 0), None);
        assert_eq!(enter(&gate, "0.0.0.1", 0), None);
    }

    #[test]
    fn who_only_asks_is_not_remembered() {
        let gate = Gate::new(FullScrapes::Modest);
        for _ in 0..2 {
            assert!(gate.enter(ip("192.0.2.1"), false, true, 5).is_ok());
        }
        assert_eq!(enter(&gate, "192.0.2.1", 5), None);
        let asked = gate.enter(ip("192.0.2.1"), false, true, 5).err();
        assert_eq!(asked, Some(Closed::TooSoon(300)));
    }

    #[test]
    fn there_are_four_seats() {
        let gate = Gate::new(FullScrapes::Modest);
        let sit = |n: u8| gate.enter([192, 0, 2, n].into(), false, false, 0);
        let mut seated: Vec<Seat> = (0..4).map(|n| sit(n).expect("a seat")).collect();
        assert_eq!(sit(9).err(), Some(Closed::Full(TRY_AGAIN)));
        seated.pop();
        // Whom there was no seat for is not counted as having had one.
        assert!(sit(9).is_ok());
    }

    #[test]
    fn a_site_has_one_seat_however_slowly_it_reads() {
        let gate = Gate::new(FullScrapes::Modest);
        let seat = gate.enter(ip("192.0.2.1"), false, false, 0);
        assert_eq!(
            enter(&gate, "192.0.2.1", 1000),
            Some(Closed::TooSoon(TRY_AGAIN))
        );
        assert_eq!(enter(&gate, "192.0.2.2", 1000), None);
        drop(seat);
        assert_eq!(enter(&gate, "192.0.2.1", 1000), None);
    }

    /// Seats of 192.0.2.1 and so on, taken at second 100.
    fn full(gate: &Gate) -> Vec<Seat> {
        let sit = |n: u8| {
            let seat = gate.enter([192, 0, 2, n].into(), false, false, 100);
            seat.expect("a seat")
        };
        (1..=4).map(sit).collect()
    }

    /// The numbers of those that were ended, from 1.
    fn ended(seats: &[Seat]) -> Vec<usize> {
        let numbered = (1..).zip(seats);
        numbered
            .filter(|(_, seat)| seat.is_ended())
            .map(|(number, _)| number)
            .collect()
    }

    fn read(seat: &Seat, rate: u64, seconds: std::ops::Range<u64>) {
        let bytes = usize::try_from(rate).expect("is small");
        seconds.for_each(|second| seat.count(bytes, second));
    }

    #[test]
    fn slowest_reader_leaves_for_a_newcomer_after_30_seconds() {
        let gate = Gate::new(FullScrapes::Modest);
        let seats = full(&gate);
        for (seat, rate) in seats.iter().zip([40_000, 20_000, 30_000, 0]) {
            read(seat, rate, 100..130);
        }
        assert_eq!(
            enter(&gate, "198.51.100.1", 129),
            Some(Closed::Full(TRY_AGAIN))
        );
        assert_eq!(ended(&seats), []);
        for (client, slowest) in [
            ("198.51.100.1", &[4][..]),
            ("198.51.100.2", &[2, 4]),
            ("198.51.100.3", &[2, 3, 4]),
        ] {
            let newcomer = gate.enter(ip(client), false, false, 130);
            assert_eq!(ended(&seats), slowest);
            // It keeps its place.
            std::mem::forget(newcomer.expect("a seat"));
        }
    }

    #[test]
    fn readers_at_64_kib_a_second_keep_their_places() {
        let gate = Gate::new(FullScrapes::Modest);
        let seats = full(&gate);
        seats.iter().for_each(|seat| read(seat, MIN_RATE, 100..500));
        for second in [100, 130, 131, 159, 160, 250, 499] {
            let newcomer = enter(&gate, "198.51.100.1", second);
            assert_eq!(newcomer, Some(Closed::Full(TRY_AGAIN)), "{second}");
        }
        assert_eq!(ended(&seats), []);
    }

    #[test]
    fn fast_start_does_not_protect_a_reader_that_has_become_slow() {
        let gate = Gate::new(FullScrapes::Modest);
        let seats = full(&gate);
        for seat in &seats[1..] {
            read(seat, MIN_RATE, 100..160);
        }
        seats[0].count(1 << 30, 100);
        read(&seats[0], MIN_RATE - 1, 101..160);
        let full = Some(Closed::Full(TRY_AGAIN));
        assert_eq!(enter(&gate, "198.51.100.1", 159), full);
        assert_eq!(enter(&gate, "198.51.100.1", 160), None);
        assert_eq!(ended(&seats), [1]);
    }

    #[test]
    fn no_reader_is_ended_for_a_client_that_only_asks_or_comes_too_soon() {
        let gate = Gate::new(FullScrapes::Modest);
        let seats = full(&gate);
        assert!(gate.enter(ip("198.51.100.1"), false, true, 200).is_ok());
        let again = enter(&gate, "192.0.2.1", 200);
        assert_eq!(again, Some(Closed::TooSoon(200)));
        assert_eq!(ended(&seats), []);
        assert_eq!(enter(&gate, "198.51.100.1", 200), None);
        assert_eq!(ended(&seats), [1]);
        drop(seats);
    }

    #[test]
    fn a_48_is_one_client_once_four_of_its_64s_have_read() {
        let gate = Gate::new(FullScrapes::Modest);
        for n in 0..4 {
            let client = format!("2001:db8:1:{n}::1");
            assert_eq!(enter(&gate, &client, n), None, "{client}");
        }
        let fifth = "2001:db8:1:4::1";
        assert_eq!(enter(&gate, fifth, 100), Some(Closed::TooSoon(200)));
        assert_eq!(enter(&gate, "2001:db8:2::1", 100), None);
        assert_eq!(enter(&gate, fifth, 300), None);
        let sixth = enter(&gate, "2001:db8:1:5::1", 300);
        assert_eq!(sixth, Some(Closed::TooSoon(1)));
        // IPv4 addresses are not in one /48, although they are mapped into one.
        for n in 1..=9 {
            assert_eq!(enter(&gate, &format!("192.0.2.{n}"), 300), None);
        }
    }

    #[test]
    fn a_48_that_reads_for_long_stays_one_client() {
        let gate = Gate::new(FullScrapes::Modest);
        let sit = |n: u32| gate.enter(ip(&format!("2001:db8:1:{n}::1")), false, false, 0);
        let seats: Vec<Seat> = (0..4).map(sit).map(|seat| seat.expect("a seat")).collect();
        let fifth = "2001:db8:1:4::1";
        let wait = Some(Closed::TooSoon(TRY_AGAIN));
        assert_eq!(enter(&gate, fifth, 1000), wait);
        drop(seats);
        assert_eq!(enter(&gate, fifth, 1000), None);
    }

    #[test]
    fn policies_let_in_whom_they_say() {
        for (policy, stranger, admin) in [
            (FullScrapes::Off, false, false),
            (FullScrapes::Admin, false, true),
            (FullScrapes::Modest, true, true),
            (FullScrapes::Open, true, true),
        ] {
            let gate = Gate::new(policy);
            let enters = |n, is_admin| {
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
        let gate = Gate::new(FullScrapes::Modest);
        for n in 0..3000_u32 {
            let client = IpAddr::V4(n.into());
            assert!(gate.enter(client, false, false, 0).is_ok());
        }
        assert_eq!(lock(&gate.visits).recent.len(), MOST_REMEMBERED);
        assert_eq!(enter(&gate, "0.0.11.183", 1), Some(Closed::TooSoon(299)));
        assert_eq!(enter(&gate, "0.0.0.1", 1), None, "long forgotten");
    }
}
