//! Limits full scrapes, by far the largest replies.
//!
//! By default an address has one every five minutes, and four are in progress at the same time, each for another
//! address. A second request within five minutes gets 429; a fifth at the same time, 503.
//!
//! A slow client keeps its permit until another client needs it. Then the one that is furthest behind a minimum rate
//! loses it to the newcomer. If none is behind, the newcomer has to retry, since fast clients soon finish. A client
//! that rotates through the /64s of a /48 gets at most four full scrapes in five minutes.
//!
//! The limiter and the connection share the permit, which ends with the connection. A counter of permits would not do:
//! one could not be taken from a slow client.

use super::response::Status;
use crate::base::lock::lock;
use crate::options::FullScrapes;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};

/// Seconds from one full scrape of a client to its next.
const INTERVAL_S: u64 = 300;

const MAX_IN_PROGRESS: usize = 4;

/// Seconds after which a client retries if its wait is not known.
const RETRY_S: u64 = 10;

/// Clients that are remembered. Beyond them the oldest is forgotten.
const MAX_REMEMBERED: usize = 1024;

/// IPv6 /64s of one /48 that may have a full scrape in five minutes, or in progress.
const MAX_PER_48: usize = 4;

/// A client keeps its permit at this many bytes a second.
const MIN_RATE: u64 = 64 * 1024;

/// Seconds that a new client has to show its rate, and by which a fast one can be ahead at most.
const GRACE_S: u64 = 30;

/// Admits clients of all threads.
pub struct Limiter {
    policy: FullScrapes,
    /// Those in progress, or begun less than five minutes ago, the oldest first.
    scrapes: Arc<Mutex<Vec<Scrape>>>,
}

struct Scrape {
    client: u128,
    /// Seconds since the start.
    began: u64,
    /// Gone when the scrape has ended.
    permit: Weak<Permit>,
}

/// Held while a full scrape is in progress. It counts the bytes that the client has taken, from `began` times the
/// minimum rate on: the client is too slow if that is less than the present second times the rate. None: it was revoked
/// for another client.
pub struct Permit(Mutex<Option<u64>>);

impl Limiter {
    pub fn new(policy: FullScrapes) -> Limiter {
        Limiter {
            policy,
            scrapes: Arc::default(),
        }
    }

    pub fn is_off(&self) -> bool {
        self.policy == FullScrapes::Off
    }

    /// Another policy for the same clients, whose scrapes are remembered.
    pub fn with(&self, policy: FullScrapes) -> Limiter {
        let scrapes = self.scrapes.clone();
        Limiter { policy, scrapes }
    }

    /// Admits a client at this second, or returns the status of the refusal. A `HEAD` request takes no permit, is not
    /// remembered, and ends no other scrape. Without limits there is no permit.
    pub fn admit(
        &self,
        client: IpAddr,
        is_admin: bool,
        is_head: bool,
        second: u64,
    ) -> Result<Option<Arc<Permit>>, Status> {
        match self.policy {
            FullScrapes::Off => return Err(Status::Forbidden),
            FullScrapes::Admin if !is_admin => return Err(Status::Forbidden),
            FullScrapes::Admin | FullScrapes::Open => return Ok(None),
            FullScrapes::Modest => {}
        }
        let client = key_of(client);
        let mut scrapes = lock(&self.scrapes);
        scrapes.retain(|scrape| scrape.in_progress().is_some() || scrape.age(second) < INTERVAL_S);
        check_client(&scrapes, client, second)?;
        let slowest = choose_slowest(&scrapes, second)?;
        if is_head {
            return Ok(None);
        }
        if let Some(permit) = slowest {
            *lock(&permit.0) = None;
        }
        if scrapes.len() >= MAX_REMEMBERED {
            let oldest = scrapes.iter().position(|s| s.in_progress().is_none());
            scrapes.remove(oldest.unwrap_or(0));
        }
        let permit = Arc::new(Permit(Mutex::new(Some(second * MIN_RATE))));
        scrapes.push(Scrape {
            client,
            began: second,
            permit: Arc::downgrade(&permit),
        });
        Ok(Some(permit))
    }
}

impl Scrape {
    fn age(&self, second: u64) -> u64 {
        second.saturating_sub(self.began)
    }

    fn in_progress(&self) -> Option<Arc<Permit>> {
        self.permit.upgrade().filter(|permit| !permit.is_revoked())
    }
}

/// Refuses a client that has had a full scrape too recently.
fn check_client(scrapes: &[Scrape], client: u128, second: u64) -> Result<(), Status> {
    // The same /64 or IPv4 address, then the same /48.
    for (max, bits) in [(1, 0), (MAX_PER_48, 80)] {
        let same = scrapes.iter().filter(|s| (s.client ^ client) >> bits == 0);
        let ages = same.map(|scrape| scrape.age(second));
        if ages.clone().count() >= max {
            let oldest = ages.filter(|age| *age < INTERVAL_S).max();
            let wait = oldest.map_or(RETRY_S, |age| INTERVAL_S - age);
            return Err(Status::TooManyRequests(wait));
        }
    }
    Ok(())
}

/// The permit to revoke for another client, if one has to be revoked.
fn choose_slowest(scrapes: &[Scrape], second: u64) -> Result<Option<Arc<Permit>>, Status> {
    let with_age = |s: &Scrape| Some((s.age(second), s.in_progress()?));
    let in_progress: Vec<_> = scrapes.iter().filter_map(with_age).collect();
    if in_progress.len() < MAX_IN_PROGRESS {
        return Ok(None);
    }
    let slow = in_progress.into_iter().filter_map(|(age, permit)| {
        let progress = (*lock(&permit.0))?;
        (age >= GRACE_S && progress < second * MIN_RATE).then_some((progress, permit))
    });
    let slowest = slow.min_by_key(|(progress, _)| *progress);
    let (_, permit) = slowest.ok_or(Status::Unavailable(RETRY_S))?;
    Ok(Some(permit))
}

impl Permit {
    pub fn is_revoked(&self) -> bool {
        lock(&self.0).is_none()
    }

    /// Counts bytes that the client has taken by this second.
    pub fn count(&self, bytes: usize, second: u64) {
        if let Some(progress) = &mut *lock(&self.0) {
            let most = (second + GRACE_S) * MIN_RATE;
            *progress = progress.saturating_add(bytes as u64).min(most);
        }
    }
}

/// One client: an IPv6 /64, all of whose addresses one host may use, or an IPv4 address, as the /48 of an unused
/// prefix.
fn key_of(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => (0xffff << 32 | u128::from(v4.to_bits())) << 80,
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<Status> = Some(Status::Unavailable(RETRY_S));

    fn limiter() -> Limiter {
        Limiter::new(FullScrapes::Modest)
    }

    fn begin(limiter: &Limiter, client: &str, second: u64) -> Result<Option<Arc<Permit>>, Status> {
        limiter.admit(client.parse().expect("an address"), false, false, second)
    }

    /// The refusal of a client, whose scrape is over at once if it is admitted.
    fn refused(limiter: &Limiter, client: &str, second: u64) -> Option<Status> {
        begin(limiter, client, second).err()
    }

    fn too_soon(seconds: u64) -> Option<Status> {
        Some(Status::TooManyRequests(seconds))
    }

    /// Four scrapes of 192.0.2.1 to 192.0.2.4 that begin at second 100.
    fn four(limiter: &Limiter) -> Vec<Arc<Permit>> {
        let begin = |n| begin(limiter, &format!("192.0.2.{n}"), 100);
        (1..=4)
            .map(|n| begin(n).expect("is admitted").expect("a permit"))
            .collect()
    }

    /// The numbers of those that were revoked, from 1.
    fn revoked(permits: &[Arc<Permit>]) -> Vec<usize> {
        let revoked = (1..).zip(permits).filter(|(_, permit)| permit.is_revoked());
        revoked.map(|(number, _)| number).collect()
    }

    fn read(permit: &Permit, rate: u64, seconds: std::ops::Range<u64>) {
        let bytes = usize::try_from(rate).expect("is small");
        seconds.for_each(|second| permit.count(bytes, second));
    }

    #[test]
    fn client_is_admitted_once_in_5_minutes() {
        let limiter = limiter();
        for (client, second, refusal) in [
            ("192.0.2.1", 100, None),
            ("192.0.2.1", 100, too_soon(300)),
            ("192.0.2.1", 399, too_soon(1)),
            ("192.0.2.1", 400, None),
            ("192.0.2.1", 401, too_soon(299)),
            ("192.0.2.2", 401, None),
            ("::ffff:192.0.2.2", 401, too_soon(300)),
            ("2001:db8::1", 401, None),
            ("2001:db8::ffff:0:1", 401, too_soon(300)),
            ("2001:db8:0:1::1", 401, None),
            ("::1", 401, None),
            ("0.0.0.1", 401, None),
        ] {
            assert_eq!(
                refused(&limiter, client, second),
                refusal,
                "{client} {second}"
            );
        }
    }

    #[test]
    fn at_most_four_64s_of_a_48_are_admitted_in_5_minutes() {
        let limiter = limiter();
        for n in 0..4 {
            assert_eq!(
                refused(&limiter, &format!("2001:db8:1:{n}::1"), n),
                None,
                "{n}"
            );
        }
        let fifth = "2001:db8:1:ffff::1";
        assert_eq!(refused(&limiter, fifth, 100), too_soon(200));
        assert_eq!(refused(&limiter, "2001:db8:2::1", 100), None);
        assert_eq!(refused(&limiter, fifth, 300), None);
        assert_eq!(refused(&limiter, "2001:db8:1:5::1", 300), too_soon(1));
        // IPv4 addresses are not in one /48, although they are mapped into one.
        for n in 1..=9 {
            assert_eq!(refused(&limiter, &format!("192.0.2.{n}"), 300), None);
        }
    }

    #[test]
    fn scrape_of_more_than_5_minutes_still_counts() {
        let limiter = limiter();
        let permit = begin(&limiter, "192.0.2.1", 0);
        assert_eq!(refused(&limiter, "192.0.2.1", 1000), too_soon(RETRY_S));
        assert_eq!(refused(&limiter, "192.0.2.2", 1000), None);
        drop(permit);
        assert_eq!(refused(&limiter, "192.0.2.1", 1000), None);
        let permits: Vec<_> = (0..4)
            .map(|n| begin(&limiter, &format!("2001:db8:1:{n}::1"), 0))
            .collect();
        assert_eq!(
            refused(&limiter, "2001:db8:1:4::1", 1000),
            too_soon(RETRY_S)
        );
        drop(permits);
        assert_eq!(refused(&limiter, "2001:db8:1:4::1", 1000), None);
    }

    #[test]
    fn head_takes_no_permit_and_ends_no_scrape() {
        let limiter = limiter();
        let head = |client: [u8; 4], second| limiter.admit(client.into(), false, true, second);
        for _ in 0..2 {
            assert!(matches!(head([192, 0, 2, 1], 5), Ok(None)));
        }
        let permits = four(&limiter);
        assert!(head([198, 51, 100, 1], 200).is_ok());
        assert_eq!(head([192, 0, 2, 1], 200).err(), too_soon(200));
        assert_eq!(revoked(&permits), []);
    }

    #[test]
    fn four_scrapes_are_in_progress_at_once() {
        let limiter = limiter();
        let mut permits = four(&limiter);
        assert_eq!(refused(&limiter, "198.51.100.1", 100), FULL);
        permits.pop();
        // The refused client is not remembered.
        assert_eq!(refused(&limiter, "198.51.100.1", 100), None);
    }

    #[test]
    fn slowest_scrape_ends_for_a_newcomer_after_30_seconds() {
        let limiter = limiter();
        let permits = four(&limiter);
        for (permit, rate) in permits.iter().zip([40_000, 20_000, 30_000, 0]) {
            read(permit, rate, 100..130);
        }
        assert_eq!(refused(&limiter, "198.51.100.1", 129), FULL);
        assert_eq!(revoked(&permits), []);
        let mut newcomers = Vec::new();
        for (client, slowest) in [
            ("198.51.100.1", &[4][..]),
            ("198.51.100.2", &[2, 4]),
            ("198.51.100.3", &[2, 3, 4]),
        ] {
            newcomers.push(begin(&limiter, client, 130).expect("is admitted"));
            assert_eq!(revoked(&permits), slowest);
        }
        assert_eq!(refused(&limiter, "192.0.2.4", 130), too_soon(270));
    }

    #[test]
    fn scrape_at_64_kib_a_second_is_not_ended() {
        let limiter = limiter();
        let permits = four(&limiter);
        permits
            .iter()
            .for_each(|permit| read(permit, MIN_RATE, 100..500));
        for second in [100, 130, 131, 159, 160, 250, 499] {
            assert_eq!(refused(&limiter, "198.51.100.1", second), FULL, "{second}");
        }
        assert_eq!(revoked(&permits), []);
    }

    #[test]
    fn fast_start_does_not_protect_a_scrape_that_has_become_slow() {
        let limiter = limiter();
        let permits = four(&limiter);
        for permit in &permits[1..] {
            read(permit, MIN_RATE, 100..200);
        }
        permits[0].count(1 << 30, 100);
        read(&permits[0], MIN_RATE / 2, 101..200);
        assert_eq!(refused(&limiter, "198.51.100.1", 150), FULL);
        assert_eq!(refused(&limiter, "198.51.100.1", 199), None);
        assert_eq!(revoked(&permits), [1]);
    }

    #[test]
    fn policy_decides_which_clients_are_admitted_and_limited() {
        for (policy, stranger, admin) in [
            (FullScrapes::Off, false, false),
            (FullScrapes::Admin, false, true),
            (FullScrapes::Modest, true, true),
            (FullScrapes::Open, true, true),
        ] {
            let limiter = Limiter::new(policy);
            let admits = |n, is_admin| {
                let client = [192, 0, 2, n].into();
                limiter.admit(client, is_admin, false, 0).is_ok()
            };
            let is_limited = policy == FullScrapes::Modest;
            for is_first in [true, false] {
                let may = is_first || !is_limited;
                assert_eq!(admits(1, false), stranger && may, "{policy:?}");
                assert_eq!(admits(2, true), admin && may, "{policy:?}");
            }
        }
    }

    #[test]
    fn memory_of_clients_is_bounded() {
        let limiter = limiter();
        for n in 0..3000_u32 {
            let client = IpAddr::V4(n.into());
            assert!(limiter.admit(client, false, false, 0).is_ok());
        }
        assert_eq!(lock(&limiter.scrapes).len(), MAX_REMEMBERED);
        assert_eq!(refused(&limiter, "0.0.11.183", 1), too_soon(299));
        assert_eq!(refused(&limiter, "0.0.0.1", 1), None, "long forgotten");
    }
}
