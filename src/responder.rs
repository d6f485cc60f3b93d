//! An announce or scrape, from the decoded request to counts and peers: what UDP and HTTP share.
//!
//! An announce comes in as a [`Pending`] one, which a codec has decoded, one of a batch or alone:
//!
//! 1. [`Responder::prefetch`], for a batch: finds the torrents and brings them into the cache, so that the batch
//!    waits for memory once and not once for each request.
//! 2. [`Responder::announce`]: the access list refuses it, or its shard of the table stores the peer and picks the
//!    peers of the reply into the request's sinks. It returns the [`Reply`].
//! 3. The codec encodes reply and sinks.
//!
//! Each thread has a responder of its own, with its generator, its counters and its clock. Table and access list are
//! shared: a batch takes the list's read lock once, and each shard's lock once for each of three passes. A position
//! that was looked up is verified when it is used, as another thread may have changed the shard in between.

use crate::access::{Refusal, SharedRules};
use crate::base::addresses::{Addresses, Named, is_local};
use crate::base::log;
use crate::base::random::Random;
use crate::stats::cluster::{Health, SharedOverview};
use crate::stats::completed;
use crate::stats::history::Sample;
use crate::stats::{Board, Counters, Monitor, View};
use crate::tracker::{
    Announce, Counts, Event, Hint, InfoHash, Locked, MAX_BATCH, Sinks, Table, Tracked,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// An announce that waits for its reply.
pub struct Pending<'a> {
    pub announce: Announce,
    pub peer_id: Option<[u8; 20]>,
    /// The room of the reply for peers.
    pub sinks: Sinks<'a>,
}

/// The reply to an announce, without its peers.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// The access list refuses the torrent.
    Refused(Refusal),
    /// Counts, and the interval in seconds.
    Accepted(Counts, u32),
}

pub struct Responder {
    pub table: Arc<Table>,
    /// The access list, if there is one.
    pub rules: Option<SharedRules>,
    /// Where clients are stored under other addresses than they send from, if there are such.
    pub addresses: Option<Arc<Addresses>>,
    /// The report on the cluster, if this is a node of one. The thread that does the chores renews it.
    pub cluster: Option<SharedOverview>,
    pub random: Random,
    pub counters: Counters,
    /// The counters of all threads, and the place of this one's.
    pub board: Board,
    pub monitor: Monitor,
    /// Whether completed downloads are logged.
    pub log_completed: bool,
    interval: u32,
    max_numwant: usize,
    /// Whether the first peer with a local address is still to be logged, if it comes in this turn.
    is_watching: bool,
    /// Whether a thread has logged it.
    has_seen_local: Arc<AtomicBool>,
    /// Milliseconds since the start as the table counts them.
    table_now: u64,
}

impl Responder {
    /// `interval` in seconds; a reply holds `max_numwant` peers at most.
    pub fn new(table: Arc<Table>, interval: u32, max_numwant: usize, random: Random) -> Responder {
        Responder {
            table,
            rules: None,
            addresses: None,
            cluster: None,
            random,
            counters: Counters::default(),
            board: Board::default(),
            monitor: Monitor::default(),
            log_completed: false,
            interval,
            max_numwant,
            is_watching: false,
            has_seen_local: Arc::default(),
            table_now: 0,
        }
    }

    /// After a reload.
    pub fn set_replies(&mut self, interval: u32, max_numwant: usize) {
        (self.interval, self.max_numwant) = (interval, max_numwant);
    }

    /// The interval that clients are told, in seconds.
    pub fn interval(&self) -> u32 {
        self.interval
    }

    /// A responder for another thread, over the same table.
    pub fn for_thread(&self, random: Random, board: Board) -> Responder {
        Responder {
            table: self.table.clone(),
            rules: self.rules.clone(),
            addresses: self.addresses.clone(),
            cluster: self.cluster.clone(),
            random,
            counters: Counters::default(),
            board,
            monitor: self.monitor.clone(),
            has_seen_local: self.has_seen_local.clone(),
            ..*self
        }
    }

    /// Begins the turn of a socket or a request. `is_local`: other networks cannot reach the socket.
    pub fn begin_turn(&mut self, is_local: bool) {
        self.is_watching = !is_local && !self.has_seen_local.load(Relaxed);
    }

    /// The address under which a client is stored. `named` reads those that its request names.
    #[inline]
    pub fn address_of(&self, client: IpAddr, named: impl FnOnce() -> Named) -> IpAddr {
        match &self.addresses {
            None => client,
            Some(addresses) => addresses.of(client, named),
        }
    }

    /// Logs the first peer with an address that other networks cannot reach. Its clients would not know why nobody
    /// connects to them.
    fn watch(&mut self, requests: &[Option<Pending>]) {
        let mut peers = requests.iter().flatten().map(|r| r.announce.peer.ip());
        if peers.any(is_local) {
            self.is_watching = false;
            if !self.has_seen_local.swap(true, Relaxed) {
                log::line(format_args!(
                    "peers: the first with a loopback or private address announced: other networks cannot reach it, \
                     see --map and --trust-ip in announced(8)"
                ));
            }
        }
    }

    /// Finds the torrents of a batch and prefetches their swarms.
    pub fn prefetch(&self, hashes: &[Option<InfoHash>]) -> [Hint; MAX_BATCH] {
        let mut hints = [Hint::default(); MAX_BATCH];
        let mut found = [None; MAX_BATCH];
        let order = self.table.order(hashes.iter().map(Option::as_ref));
        let now = self.table_now;
        let hash = |index: usize| hashes.get(index)?.as_ref();
        self.table.visit(&order, now, &mut |tracker, index| {
            if let (Some(hash), Some(found)) = (hash(index), found.get_mut(index)) {
                *found = Some(tracker.look_ahead(hash));
            }
        });
        self.table.visit(&order, now, &mut |tracker, index| {
            let found = found.get(index).and_then(Option::as_ref);
            if let (Some(hash), Some(found)) = (hash(index), found) {
                hints[index] = tracker.look_further(hash, found);
            }
        });
        hints
    }

    /// Answers announces: a batch, or a single one. The replies are in their order.
    pub fn announce(&mut self, requests: &mut [Option<Pending>]) -> [Option<Reply>; MAX_BATCH] {
        if self.is_watching {
            self.watch(requests);
        }
        let mut replies = [None; MAX_BATCH];
        let mut completions = [false; MAX_BATCH];
        self.apply(requests, &mut replies, &mut completions);
        if self.log_completed {
            let completed = requests.iter().zip(completions).filter(|(_, it)| *it);
            for Pending {
                announce, peer_id, ..
            } in completed.filter_map(|(it, _)| it.as_ref())
            {
                completed::log(&announce.info_hash, peer_id.as_ref(), announce.peer.ip());
            }
        }
        replies
    }

    /// The part that holds locks.
    fn apply(
        &mut self,
        requests: &mut [Option<Pending>],
        replies: &mut [Option<Reply>; MAX_BATCH],
        completions: &mut [bool; MAX_BATCH],
    ) {
        if let Some(rules) = self.rules.as_ref().map(SharedRules::read) {
            for request in requests.iter().flatten() {
                rules.prefetch(&request.announce.info_hash);
            }
            for (request, reply) in requests.iter().zip(&mut *replies) {
                let refusal = |it: &Pending| rules.refuses(&it.announce.info_hash);
                *reply = request.as_ref().and_then(refusal).map(Reply::Refused);
            }
        }
        let tracked = requests.iter().zip(&*replies).map(|(request, refusal)| {
            let request = request.as_ref().filter(|_| refusal.is_none())?;
            Some(&request.announce.info_hash)
        });
        let order = self.table.order(tracked);
        let (random, counters) = (&mut self.random, &mut self.counters);
        let (interval, max_numwant) = (self.interval, self.max_numwant);
        self.table
            .visit(&order, self.table_now, &mut |tracker, index| {
                let request = requests.get_mut(index).and_then(Option::as_mut);
                let results = replies.get_mut(index).zip(completions.get_mut(index));
                let (Some(request), Some((reply, is_completion))) = (request, results) else {
                    return;
                };
                let announce = &mut request.announce;
                announce.want = announce.want.min(max_numwant);
                if let Some(count) = counters.numwants.get_mut(announce.want) {
                    *count += 1;
                }
                let outcome = tracker.announce(announce, random, &mut request.sinks);
                *reply = Some(Reply::Accepted(outcome.counts, jittered(interval, random)));
                *is_completion = outcome.is_completion;
            });
    }

    /// Whether an announce with this event may be logged as a completion.
    pub fn logs(&self, event: Event) -> bool {
        self.log_completed && event == Event::Completed
    }

    /// Visits each of these torrents with its counts; none if it is unknown or refused.
    pub fn scrape<'h>(
        &self,
        hashes: impl IntoIterator<Item = &'h InfoHash>,
        visit: &mut dyn FnMut(&InfoHash, Option<Counts>),
    ) {
        let rules = self.rules.as_ref().map(SharedRules::read);
        let mut locked: Option<(usize, Locked)> = None;
        for hash in hashes {
            if rules.as_ref().is_some_and(|rules| !rules.tracks(hash)) {
                visit(hash, None);
                continue;
            }
            let shard = self.table.shard_of(hash);
            if locked.as_ref().is_none_or(|(other, _)| *other != shard) {
                // One lock at a time.
                locked = None;
            }
            let (_, tracker) =
                locked.get_or_insert_with(|| (shard, self.table.lock(shard, self.table_now)));
            visit(hash, tracker.scrape(hash));
        }
    }

    /// Does work over the table that leaves out torrents that the list refuses.
    pub fn with_tracked<T>(&self, work: impl FnOnce(Tracked) -> T) -> T {
        let Some(rules) = &self.rules else {
            return work(None);
        };
        let rules = rules.read();
        work(Some(&|hash| rules.tracks(hash)))
    }

    /// Milliseconds since the start, as the table counts them.
    pub fn table_now(&self) -> u64 {
        self.table_now
    }

    /// Whether requests must wait, as the table's clock is held after a long pause.
    pub fn is_held(&self) -> bool {
        self.table.is_held(self.table_now)
    }

    /// Sets the time, in milliseconds since the start.
    pub fn advance(&mut self, now: u64) {
        self.table_now = now;
        self.monitor.now = now;
    }

    /// Publishes this thread's counters to the others.
    pub fn publish(&self) {
        self.board.publish(&self.counters);
    }

    /// Takes a sample for the history if one is due.
    pub fn record_history(&self) -> Option<Sample> {
        let now = self.monitor.now;
        let is_due = self.monitor.history().is_due(now);
        is_due.then(|| {
            let sample = self.view().sample();
            self.monitor.history().record(now, sample);
            sample
        })
    }

    /// When a sweep is due, in milliseconds since the start.
    pub fn next_sweep(&self) -> Option<u64> {
        self.table.next_sweep(self.table_now)
    }

    /// Whether this node has the peers of the other nodes; none without a cluster.
    pub fn health(&self) -> Option<Health> {
        self.cluster.as_ref().map(SharedOverview::health)
    }

    /// The counts of all threads, for reports.
    pub fn view(&self) -> View<'_> {
        let now = self.table_now;
        let survey = self.table.survey(now);
        View {
            counters: self.board.sum(&self.counters),
            threads: self.board.threads(),
            monitor: &self.monitor,
            tally: survey.tally,
            table: &self.table,
            table_now: now,
            totals: survey.totals,
            limits: survey.limits,
            peers: survey.peers,
            table_bytes: survey.bytes,
            interval: self.interval,
            list: self.rules.as_ref().map(|rules| rules.read().list_size()),
            cluster: self.cluster.as_ref().map(SharedOverview::get),
        }
    }
}

/// An interval give or take a thirtieth, so that clients that announced together do not announce together again.
fn jittered(interval: u32, random: &mut Random) -> u32 {
    let slack = interval / 30;
    let jitter = random.below(2 * slack as usize + 1);
    interval - slack + u32::try_from(jitter).unwrap_or(slack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, WHITELIST};
    use crate::tracker::{Limits, Peer, Role};

    fn responder(interval: u32, max_numwant: usize) -> Responder {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1000,
            max_torrents: 1000,
        };
        let table = Arc::new(Table::new(limits, 1));
        Responder::new(table, interval, max_numwant, Random::seeded(1))
    }

    const HASH: InfoHash = [7; 20];

    fn announce(responder: &mut Responder, want: usize) -> Reply {
        let announce = Announce {
            info_hash: HASH,
            peer: Peer::new([192, 0, 2, 1].into(), 1),
            role: Role::Leecher,
            event: Event::None,
            want,
            hint: None,
        };
        let mut requests = [Some(Pending {
            announce,
            peer_id: None,
            sinks: Sinks::new(&mut [], &mut []),
        })];
        let [reply, ..] = responder.announce(&mut requests);
        reply.expect("is answered")
    }

    #[test]
    fn intervals_are_spread_by_a_thirtieth() {
        let mut responder = responder(1800, 200);
        let interval = |_| match announce(&mut responder, 50) {
            Reply::Accepted(_, interval) => interval,
            Reply::Refused(_) => 0,
        };
        let all: Vec<u32> = (0..10_000).map(interval).collect();
        assert_eq!(all.iter().min(), Some(&1740));
        assert_eq!(all.iter().max(), Some(&1860));
        assert_eq!(jittered(1, &mut Random::seeded(1)), 1);
    }

    #[test]
    fn numwant_has_a_maximum() {
        let counted = |max_numwant, want, counted: usize| {
            let mut responder = responder(1800, max_numwant);
            announce(&mut responder, want);
            responder.counters.numwants[counted] == 1
        };
        assert!(counted(200, 0, 0));
        assert!(counted(200, 100_000, 200));
        assert!(counted(10, 50, 10));
    }

    #[test]
    fn announces_and_scrapes_of_a_torrent_in_the_table_are_refused_if_the_list_refuses_it() {
        let mut responder = responder(1800, 200);
        announce(&mut responder, 50);
        let mut access = Access::new(WHITELIST.refusal(), "list".into());
        responder.rules = Some(access.rules());
        let known = |responder: &Responder| {
            let mut known = false;
            responder.scrape([&HASH], &mut |_, counts| known = counts.is_some());
            known
        };
        for listed in [false, true, false] {
            access.change("flag", &[HASH], listed);
            let reply = announce(&mut responder, 50);
            assert_eq!(matches!(reply, Reply::Accepted(..)), listed);
            assert_eq!(known(&responder), listed);
        }
    }

    #[test]
    fn prefetching_finds_known_torrents_only() {
        let mut responder = responder(1800, 200);
        announce(&mut responder, 50);
        let hints = responder.prefetch(&[None, Some([8; 20]), Some(HASH)]);
        assert_eq!(hints.map(|hint| hint.is_some())[..3], [false, false, true]);
    }
}
