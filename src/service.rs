//! The tracker and what goes with every answer, whichever protocol it travels by: how many peers, when
//! to come back, and the counters.

use crate::access::{Access, Kind};
use crate::random::Random;
use crate::state::wall_ms;
use crate::stats::cluster::Overview;
use crate::stats::{Counters, Monitor, View};
use crate::sync::cluster::Cluster;
use crate::sync::node::Refuses;
use crate::tracker::{Ahead, Counts, Hint, InfoHash, Limits, Progress, Tracker};
use std::cell::Cell;

/// Peers in a reply where the client does not say how many it wants.
const DEFAULT_WANT: usize = 50;

pub struct Service {
    pub tracker: Tracker,
    /// Which torrents are tracked, if not all are.
    pub access: Option<Access>,
    /// The other nodes, if this is one of several.
    pub cluster: Option<Box<Cluster>>,
    /// The version of the list of which a whole sweep has left nothing that it refuses, and the one with
    /// which the sweep that is underway began. What is in the table then need not be looked up.
    vouched: Option<u64>,
    sweeping: Option<u64>,
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
            cluster: None,
            vouched: None,
            sweeping: None,
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

    /// The same for an announce, for which it was looked ahead.
    pub fn refuses_announce(&self, info_hash: &InfoHash, hint: Hint) -> Option<Kind> {
        let access = self.access.as_ref()?;
        refuses_found(access, self.vouches(access), info_hash, hint)
    }

    /// Whether the table holds nothing that is refused: nothing comes into it that is, and what was there
    /// when a list changed goes with the next sweep.
    fn vouches(&self, access: &Access) -> bool {
        self.vouched == Some(access.version())
    }

    /// Whether torrents may be in the table that are no longer tracked: [`Service::refuses`] tells.
    pub fn is_doubtful(&self) -> bool {
        self.access
            .as_ref()
            .is_some_and(|access| !self.vouches(access))
    }

    /// Brings what an announce will read first into the cache: see [`Tracker::look_ahead`].
    pub fn look_ahead(&self, info_hash: &InfoHash) -> Ahead {
        if let Some(access) = self.access.as_ref().filter(|list| !self.vouches(list)) {
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
        let Some(access) = &self.access else {
            return self.tracker.sweep(budget, None);
        };
        let is_tracked = |hash: &InfoHash| access.refuses(hash).is_none();
        let progress = self.tracker.sweep(budget, Some(&is_tracked));
        let version = access.version();
        match progress {
            Progress::Underway => {
                self.sweeping.get_or_insert(version);
            }
            Progress::Finished => self.vouched = self.sweeping.take().or(Some(version)),
            Progress::NotDue if self.tracker.totals().torrents == 0 => self.vouched = Some(version),
            Progress::NotDue => {}
        }
        progress
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

    /// Moves all clocks to this many milliseconds since the start.
    pub fn advance(&mut self, now: u64) {
        let cluster = self.cluster.as_mut();
        let tracker_time = cluster.map_or(now, |cluster| cluster.advance(now));
        self.tracker.advance(tracker_time);
        self.monitor.now = now;
        if self.monitor.history.is_due(now) {
            let sample = self.view().sample();
            self.monitor.history.record(now, sample);
        }
    }

    /// When a sweep is due, in milliseconds since the start.
    pub fn next_sweep(&self) -> Option<u64> {
        let at = self.tracker.next_sweep()?;
        let cluster = self.cluster.as_ref();
        Some(cluster.map_or(at, |cluster| cluster.loop_time(at)))
    }

    /// When there is something to do for the cluster, likewise.
    pub fn next_tick(&self) -> Option<u64> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.next_tick(&self.tracker))
    }

    /// Whether this is a node of a cluster that does not know yet what the others know.
    pub fn is_syncing(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.node().is_joining)
    }

    /// Lets the cluster have the tracker, and tells it which torrents are not tracked; what that returns,
    /// or false without a cluster.
    pub fn with_cluster(
        &mut self,
        work: &mut dyn FnMut(&mut Cluster, &mut Tracker, Refuses) -> bool,
    ) -> bool {
        let Some(cluster) = &mut self.cluster else {
            return false;
        };
        let (access, vouched) = (self.access.as_ref(), self.vouched);
        let refused = Cell::new(0);
        let refuses = |info_hash: &InfoHash, hint: Hint| {
            let is_refused = access.is_some_and(|access| {
                let is_vouched_for = vouched == Some(access.version());
                refuses_found(access, is_vouched_for, info_hash, hint).is_some()
            });
            refused.set(refused.get() + u64::from(is_refused));
            is_refused
        };
        let done = work(cluster, &mut self.tracker, &refuses);
        cluster.note_refused(refused.get());
        done
    }

    /// What reports are made of.
    pub fn view(&self) -> View<'_> {
        let tally = self.tracker.tally();
        let overview = |cluster: &Cluster| Overview::of(cluster, &self.tracker, wall_ms());
        View {
            counters: &self.counters,
            monitor: &self.monitor,
            tally,
            woodpeckers: tally.woodpeckers.as_deref(),
            totals: self.tracker.totals(),
            peers: self.tracker.peers(),
            table: self.tracker.table_bytes(),
            cluster: self.cluster.as_deref().map(overview),
        }
    }
}

/// By what kind of list a torrent is refused that was looked for in the table, for which the list may vouch.
fn refuses_found(
    access: &Access,
    is_vouched_for: bool,
    info_hash: &InfoHash,
    hint: Hint,
) -> Option<Kind> {
    match hint.is_known() && is_vouched_for {
        true => None,
        false => access.refuses(info_hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Event, Peer, Role};

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

    /// What is in the table is looked up after a change until a whole sweep has passed, and then no more.
    #[test]
    fn the_table_is_vouched_for_between_a_sweep_and_a_change() {
        let limits = Limits {
            peer_timeout: 96,
            max_peers: 1000,
            max_torrents: 1000,
        };
        let hash = [7; 20];
        let mut service = Service::new(limits, 60, 200, Random::seeded(1));
        service.access = Some(Access::new(Kind::White, "list".into()));
        let change = |service: &mut Service, listed| {
            if let Some(access) = &mut service.access {
                access.change("flag", &[hash], listed, 0);
            }
        };
        let vouches = |service: &Service| service.access.as_ref().map(|a| service.vouches(a));
        let hint = |service: &Service| {
            let ahead = service.look_ahead(&hash);
            service.tracker.look_further(&hash, &ahead)
        };
        change(&mut service, true);
        assert_eq!(vouches(&service), Some(false));
        service.sweep(1);
        assert_eq!(vouches(&service), Some(true), "it is empty");
        assert!(!hint(&service).is_known());
        let peer = Peer::new([192, 0, 2, 1].into(), 1);
        service.tracker.tell(&hash, peer, Role::Seeder, Event::None);
        assert!(hint(&service).is_known());
        let refused = |service: &Service| service.refuses_announce(&hash, hint(service));
        assert_eq!(refused(&service), None);
        change(&mut service, false);
        assert_eq!(
            (refused(&service), vouches(&service)),
            (Some(Kind::White), Some(false))
        );
        service.tracker.advance(10_000);
        while service.sweep(1) == Progress::Underway {}
        assert_eq!(vouches(&service), Some(true));
        assert_eq!(service.tracker.totals().torrents, 0);
        assert_eq!(refused(&service), Some(Kind::White));
        change(&mut service, true);
        assert_eq!(vouches(&service), Some(true), "nothing more is refused");
        assert_eq!(refused(&service), None);
    }
}
