//! The tracker and what goes with every answer, whichever protocol it travels by: how many peers, when
//! to come back, and the counters.

use crate::access::{Access, Kind};
use crate::random::Random;
use crate::stats::{Counters, Monitor, View};
use crate::tracker::{Ahead, Counts, InfoHash, Limits, Progress, Tracker};

/// Peers in a reply where the client does not say how many it wants.
const DEFAULT_WANT: usize = 50;

pub struct Service {
    pub tracker: Tracker,
    /// Which torrents are tracked, if not all are.
    pub access: Option<Access>,
    pub random: Random,
    pub counters: Counters,
    pub monitor: Monitor,
    /// Whether completed downloads are logged.
    pub log_completed: bool,
    interval: u32,
    most_wanted: usize,
}

impl Service {
    /// `interval` in seconds; `most_wanted` is the most peers that a reply may hold.
    pub fn new(limits: Limits, interval: u32, most_wanted: usize, random: Random) -> Service {
        Service {
            tracker: Tracker::new(limits),
            access: None,
            random,
            counters: Counters::default(),
            monitor: Monitor::default(),
            log_completed: false,
            interval,
            most_wanted,
        }
    }

    /// By what kind of list a torrent is refused; none if it is tracked.
    pub fn refuses(&self, info_hash: &InfoHash) -> Option<Kind> {
        self.access.as_ref()?.refuses(info_hash)
    }

    /// Brings what an announce will read first into the cache: see [`Tracker::look_ahead`].
    pub fn look_ahead(&self, info_hash: &InfoHash) -> Ahead {
        if let Some(access) = &self.access {
            access.look_ahead(info_hash);
        }
        self.tracker.look_ahead(info_hash)
    }

    /// What is known of a torrent that is tracked.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<Counts> {
        match self.refuses(info_hash) {
            Some(_) => None,
            None => self.tracker.scrape(info_hash),
        }
    }

    /// Sweeps the table, in which torrents may be that are no longer tracked.
    pub fn sweep(&mut self, budget: usize) -> Progress {
        match &self.access {
            Some(access) => {
                let is_tracked = |hash: &InfoHash| access.refuses(hash).is_none();
                self.tracker.sweep(budget, Some(&is_tracked))
            }
            None => self.tracker.sweep(budget, None),
        }
    }

    /// Seconds until the next announce: the configured interval give or take a thirtieth, so that
    /// clients that came together do not return together.
    pub fn interval(&mut self) -> u32 {
        let slack = self.interval / 30;
        let jitter = self.random.below(2 * slack as usize + 1);
        self.interval - slack + u32::try_from(jitter).unwrap_or(slack)
    }

    /// How many peers to send to a client that asks for so many; none asks for the default.
    pub fn want(&mut self, asked: Option<usize>) -> usize {
        let want = asked.unwrap_or(DEFAULT_WANT).min(self.most_wanted);
        if let Some(count) = self.counters.wanted.get_mut(want) {
            *count += 1;
        }
        want
    }

    /// Moves the clock of the statistics to this many milliseconds since the start.
    pub fn advance_statistics(&mut self, now: u64) {
        self.monitor.now = now;
        if self.monitor.history.is_due(now) {
            let sample = self.view().sample();
            self.monitor.history.record(now, sample);
        }
    }

    /// What reports are made of.
    pub fn view(&self) -> View<'_> {
        View {
            counters: &self.counters,
            monitor: &self.monitor,
            tally: self.tracker.tally(),
            totals: self.tracker.totals(),
            peers: self.tracker.peers(),
            table: self.tracker.table_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_spread_and_numwant_is_bounded() {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1,
            max_torrents: 1,
        };
        let mut service = Service::new(limits, 1800, 200, Random::seeded(1));
        let all: Vec<u32> = (0..10_000).map(|_| service.interval()).collect();
        assert_eq!(all.iter().min(), Some(&1740));
        assert_eq!(all.iter().max(), Some(&1860));
        assert_eq!(service.want(None), 50);
        assert_eq!(service.want(Some(0)), 0);
        assert_eq!(service.want(Some(100_000)), 200);
        let mut service = Service::new(limits, 1, 10, Random::seeded(1));
        assert_eq!(service.interval(), 1);
        assert_eq!(service.want(None), 10);
    }
}
