//! The tracker and what goes with every answer, whichever protocol it travels by: how many peers, when
//! to come back, and the counters.

use crate::access::{Access, Kind};
use crate::random::Random;
use crate::state::wall_ms;
use crate::stats::cluster::Overview;
use crate::stats::{Counters, Monitor, View};
use crate::sync::cluster::Cluster;
use crate::sync::node::Refuses;
use crate::tracker::{Ahead, Counts, InfoHash, Limits, Progress, Tracker};
use crate::worker::board::Gauges;
use crate::worker::machine::Machine;
use std::cell::Cell;

/// Peers in a reply where the client does not say how many it wants.
const DEFAULT_WANT: usize = 50;

pub struct Service {
    pub tracker: Tracker,
    /// Which torrents are tracked, if not all are.
    pub access: Option<Access>,
    /// The other nodes, if this is one of several.
    pub cluster: Option<Box<Cluster>>,
    pub random: Random,
    pub counters: Counters,
    pub monitor: Monitor,
    /// The other processes that serve with this one, if there are any.
    pub machine: Option<Box<Machine>>,
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
            random,
            counters: Counters::default(),
            monitor: Monitor::default(),
            machine: None,
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
        let Some(access) = &self.access else {
            return self.tracker.sweep(budget, None);
        };
        let is_tracked = |hash: &InfoHash| access.refuses(hash).is_none();
        self.tracker.sweep(budget, Some(&is_tracked))
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
        if self
            .machine
            .as_ref()
            .is_some_and(|machine| machine.is_due(now))
        {
            self.publish();
        }
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

    /// Whether clients may come to a process that does not know yet what other nodes know: this one, or another worker.
    pub fn is_partial(&self) -> bool {
        let machine = self.machine.as_ref();
        self.is_syncing() || machine.is_some_and(|machine| !machine.is_whole())
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
        let access = self.access.as_ref();
        let refused = Cell::new(0);
        let refuses = |info_hash: &InfoHash, _| {
            let is_refused = access.is_some_and(|access| access.refuses(info_hash).is_some());
            refused.set(refused.get() + u64::from(is_refused));
            is_refused
        };
        let done = work(cluster, &mut self.tracker, &refuses);
        cluster.note_refused(refused.get());
        done
    }

    /// Tells the other processes what this one has counted.
    fn publish(&mut self) {
        if let Some(machine) = &mut self.machine {
            let gauges = Gauges {
                connections: self.monitor.connections as u64,
                resident: self.monitor.resident.bytes(),
            };
            let tally = self.tracker.tally();
            machine.publish(self.monitor.now, &self.counters, tally, gauges);
            if let (true, Some(cluster)) = (machine.is_gateway(), &self.cluster) {
                machine.tell_cluster(&Overview::of(cluster, &self.tracker, wall_ms()));
            }
        }
    }

    /// How the cluster is, which of several processes the gateway knows.
    fn overview(&self) -> Option<Overview> {
        let others = self
            .machine
            .as_ref()
            .filter(|machine| !machine.is_gateway());
        let told = others.and_then(|machine| machine.cluster());
        let own = |cluster: &Cluster| Overview::of(cluster, &self.tracker, wall_ms());
        told.or_else(|| self.cluster.as_deref().map(own))
    }

    /// What reports are made of; where several processes serve, with the counts of all.
    pub fn view(&mut self) -> View<'_> {
        self.publish();
        let cluster = self.overview();
        let own = self.tracker.tally();
        let (counters, tally, workers): (_, _, &[_]) = match &mut self.machine {
            Some(machine) => {
                machine.gather(own.unit_ms);
                (&machine.counters, &machine.tally, &machine.workers)
            }
            None => (&self.counters, own, &[]),
        };
        View {
            counters,
            monitor: &self.monitor,
            tally,
            woodpeckers: own.woodpeckers.as_deref(),
            totals: self.tracker.totals(),
            peers: self.tracker.peers(),
            table: self.tracker.table_bytes(),
            cluster,
            workers,
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
