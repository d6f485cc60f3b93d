//! A tick of a node sends what is due: news, the walk, catch-up, heartbeats.

use super::clocks::clock;
use super::link::{
    ATTEMPT_MS, HANDSHAKE_MS, HEARTBEAT_MS, LOW_QUEUE, Link, MAX_QUEUE, Pass, SILENCE_MS, STALE_MS,
};
use super::node::{Node, World};
use super::records::{self, Contents, Heartbeat, Received};
use crate::stats::cluster::Failure;
use crate::tracker::{COMPLETED, Cursor, Found, LATE, LOCAL, Lost, RECORD_SIZES, Role, Tracker};

/// Torrents and peers visited by a step of a walk or of a catch-up: about 100 µs.
const BUDGET: usize = 1024;

/// Events in a step of a catch-up.
const EVENTS_AT_ONCE: u64 = 300;

/// Milliseconds in which a node that ends sends the last news and renewals.
const FINISH_MS: u64 = 2000;

/// After so many milliseconds without a tick, silence is not the fault of the other nodes.
const PAUSE_MS: u64 = 2000;

/// Stops of unknown peers that are noted in a second while this node is syncing.
const UNKNOWN_STOPS: u32 = 1000;

/// Milliseconds between two collections of the shards' news, and news that is sent at once.
const COLLECT_MS: u64 = 25;
const NEWS_AT_ONCE: usize = 4096;

impl Node {
    /// Sends what is due. Returns whether there is more to do at once. To be called at least ten times a second, after
    /// [`Node::receive`], since a silent link ends here.
    pub fn tick(&mut self, world: &World) -> bool {
        if world.now > self.ticked_at + PAUSE_MS {
            self.forgive(world.now);
        }
        self.ticked_at = world.now;
        self.watch_wall(world);
        self.end_silent(world.now);
        let has_news = self.collect(world);
        self.kept.forget(world.now);
        let is_walking = self.walk_on(world);
        let is_catching_up = self.catch_up(world);
        self.seek(world.now);
        self.ask_for_listed(world.now);
        self.log_links(world.now);
        self.send_heartbeats(world);
        if self.granted_at.is_none_or(|at| world.now >= at + 1000) {
            self.granted_at = Some(world.now);
            let stops = if self.is_whole() { 0 } else { UNKNOWN_STOPS };
            let shards = u32::try_from(world.table.shards()).unwrap_or(1);
            let stops = stops.div_ceil(shards);
            let table = world.table;
            table.each(world.now, &mut |tracker| tracker.allow_unknown_stops(stops));
        }
        has_news || is_walking || is_catching_up
    }

    /// After a pause of this process, gives the other nodes a moment to send something.
    fn forgive(&mut self, now: u64) {
        let heard_at = now.saturating_sub(SILENCE_MS - STALE_MS);
        for link in &mut self.links {
            link.heard_at = link.heard_at.max(heard_at);
        }
    }

    fn end_silent(&mut self, now: u64) {
        let is_over = |link: &Link| match (link.is_up, link.is_dialler) {
            _ if link.ending.is_some() && link.queue() == 0 => true,
            (true, _) => link.heard_at + SILENCE_MS < now,
            (false, true) => link.since + ATTEMPT_MS < now,
            (false, false) => link.since + HANDSHAKE_MS < now,
        };
        while let Some(at) = self.links.iter().position(is_over) {
            let link = self.links.swap_remove(at);
            self.end(link, Failure::TimedOut, now);
        }
    }

    /// Takes the news of all shards and sends it. Returns whether some is left for the next tick.
    fn collect(&mut self, world: &World) -> bool {
        if self.news.is_empty() && world.now >= self.collected_at + COLLECT_MS {
            self.collected_at = world.now;
            for shard in 0..world.table.shards() {
                let lost = world.table.lock(shard, world.now).take_news(&mut self.news);
                self.note_loss(lost, world);
            }
        }
        self.send_news(world);
        !self.news.is_empty()
    }

    /// News that a shard could not keep was lost by all links.
    fn note_loss(&mut self, lost: Lost, world: &World) {
        match lost {
            Lost::Nothing => return,
            Lost::Peers => {}
            Lost::Events => self.kept.skip(),
        }
        let (_, unit) = clock(world.table, world.now);
        for link in &mut self.links {
            link.lose(unit.saturating_sub(1));
        }
    }

    /// Sends a bounded number of the news that was taken from the shards. Events get their numbers here.
    fn send_news(&mut self, world: &World) {
        if self.news.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.news);
        let (now, later) = news.split_at(news.len().min(NEWS_AT_ONCE));
        let (_, unit) = clock(world.table, world.now);
        let mut contents = Contents::new(records::RECORDS, unit, self.kept.next());
        for news in now {
            if news.is_event() {
                self.kept.push(*news, world.now);
            }
            // Earlier renewals are for the live sync alone.
            if news.is_event() || news.renews.is_none_or(|age| age >= LATE) {
                contents.push_news(news, false);
            }
        }
        self.broadcast(contents, unit.saturating_sub(1));
        let next = self.kept.next();
        for link in self.links.iter_mut().filter(|link| link.keeps_up()) {
            link.next_event = next;
        }
        if self.settings.has_live_sync {
            self.outside.extend_from_slice(now);
        }
        self.news = later.to_vec();
    }

    /// Sends contents to all links that keep up. A link with a full queue loses the peers stamped in or after unit
    /// `oldest`.
    fn broadcast(&mut self, contents: Contents, oldest: u64) {
        let records = contents.records;
        let contents = contents.finish();
        for link in self.links.iter_mut().filter(|link| link.keeps_up()) {
            // All or nothing: after a part of the events, the completions in it would be sent again.
            if link.queue() > MAX_QUEUE {
                link.lose(oldest);
                continue;
            }
            link.traffic.records_out += records;
            contents.iter().for_each(|content| link.push(content));
        }
    }

    /// Goes on with the walk as far as it is due. Returns whether more is due.
    fn walk_on(&mut self, world: &World) -> bool {
        let is_last = self.finish_by.is_some();
        let is_full = |link: &Link| link.queue() > LOW_QUEUE;
        let takers = || self.links.iter().filter(|link| link.keeps_up());
        let has_takers = takers().next().is_some();
        let must_wait = has_takers && takers().all(is_full);
        if is_last && (self.has_walked || must_wait) {
            return false;
        }
        let (clock_ms, unit) = clock(world.table, world.now);
        let unit_ms = world.table.unit_ms();
        let Some(slice) = self.walk.next(clock_ms, unit, unit_ms, is_last) else {
            return false;
        };
        // A link that comes up later begins with a catch-up.
        let mut next = None;
        if has_takers {
            let (rest, contents, _) = self.step(world, records::WALK, &slice);
            self.broadcast(contents, slice.since);
            next = rest;
        }
        let ended = self.walk.passed(next, unit);
        for link in self.links.iter_mut().filter(|link| link.is_behind) {
            let pass = link.next_pass.as_ref();
            if pass.is_some_and(|pass| pass.since > link.sent_before) {
                link.lose(slice.since);
            }
        }
        if let Some(began) = ended {
            self.end_walk(began, world.now);
        }
        true
    }

    /// A walk has ended that began in this unit.
    fn end_walk(&mut self, began: u64, now: u64) {
        self.has_walked = self.finish_by.is_some();
        // The catch-up of a link has included the slices of the walk that were not sent to it.
        let links = self.links.iter_mut();
        for link in links.filter(|link| link.is_up && link.has_caught_up()) {
            link.sent_before = link.sent_before.max(began);
            link.heartbeat_at = now;
        }
    }

    /// Visits some torrents of a shard. Returns where to go on in this shard, and the records and counts to be sent.
    /// The news of the shard is sent before, since a count may include it.
    fn step(
        &mut self,
        world: &World,
        kind: u8,
        pass: &Pass,
    ) -> (Option<Cursor>, Contents, Contents) {
        let mut counts = Contents::new(records::COUNTS, 0, 0);
        let shard = world.table.shard_of(pass.cursor.torrent());
        let mut tracker = world.table.lock(shard, world.now);
        let lost = tracker.take_news(&mut self.news);
        let mut records = Contents::new(kind, tracker.clock().unit(), 0);
        let next = match self.news.len() <= NEWS_AT_ONCE {
            true => pass.walk(&tracker, &mut records, &mut counts),
            false => Some(pass.cursor),
        };
        drop(tracker);
        self.note_loss(lost, world);
        self.send_news(world);
        (next, records, counts)
    }

    /// Makes catch-up frames for the next link with little in its queue. Returns whether there are more to make.
    fn catch_up(&mut self, world: &World) -> bool {
        let last = self.caught_up;
        let hungry = self.links.iter().filter(|link| link.is_hungry());
        let hungry = hungry.map(|link| link.conn);
        // In turn.
        let Some(id) = hungry.min_by_key(|id| (*id <= last, *id)) else {
            return false;
        };
        self.caught_up = id;
        self.catch_up_link(id, world);
        self.links.iter().any(Link::is_hungry)
    }

    fn catch_up_link(&mut self, id: u64, world: &World) {
        let (_, unit) = clock(world.table, world.now);
        let (first, next) = (self.kept.first(), self.kept.next());
        let Some(link) = self.links.iter_mut().find(|link| link.conn == id) else {
            return;
        };
        if link.is_behind {
            if link.next_event < first {
                link.next_event = first;
                link.lose(unit);
                if let Some(pass) = &mut link.next_pass {
                    pass.has_counts = true;
                }
            }
            let end = next.min(link.next_event + EVENTS_AT_ONCE);
            let mut events = Contents::new(records::RECORDS, unit, link.next_event);
            for number in link.next_event..end {
                if let Some(event) = self.kept.get(number) {
                    events.push_news(event, number < link.counted_before);
                }
            }
            link.next_event = end;
            link.is_behind = end < next;
            link.push_all(events);
        } else if let Some(pass) = link.pass {
            self.pass_on(id, pass, world);
        } else if let Some(pass) = link.next_pass.take() {
            link.pass = Some(Pass {
                began: unit,
                ..pass
            });
        }
    }

    /// Goes on with the pass of a link that is not behind.
    fn pass_on(&mut self, id: u64, pass: Pass, world: &World) {
        let (next, records, counts) = self.step(world, records::RECORDS, &pass);
        let shard = world.table.shard_of(pass.cursor.torrent());
        let next = next.or_else(|| world.table.first_behind(shard).map(Cursor::at));
        let Some(link) = self.link_mut(id) else {
            return;
        };
        // Counts follow the records that mark their completions as counted.
        link.push_all(records);
        link.push_all(counts);
        link.pass = next.map(|cursor| Pass { cursor, ..pass });
        if link.pass.is_none() {
            // A pass for lost news lacks the renewals before it, which the walk sends.
            if pass.since <= link.sent_before {
                link.sent_before = link.sent_before.max(pass.began);
            }
            link.answered = link.asked;
            link.heartbeat_at = world.now;
        }
    }

    /// Begins to send what the other node asks for: events after the last one that it received, then peers.
    pub(super) fn answer(&mut self, link: &mut Link, [event, unit, wishes]: [u64; 3]) {
        let (first, next) = (self.kept.first(), self.kept.next());
        let is_joining = wishes & records::JOINING != 0;
        let lacks_events = !is_joining && event.saturating_add(1) < first;
        link.asked += 1;
        if wishes & records::LATER != 0 {
            link.next_event = next;
            return;
        }
        link.next_event = event.saturating_add(1).clamp(first, next);
        // A joining node receives counts that include the completions so far, from this node or another.
        link.counted_before = if is_joining { next } else { 0 };
        link.is_behind = true;
        link.sent_before = unit;
        link.pass = None;
        link.next_pass = Some(Pass {
            since: unit,
            is_everything: wishes & records::LEARNT != 0,
            has_counts: wishes & records::WITH_COUNTS != 0 || lacks_events,
            ..Pass::default()
        });
    }

    fn send_heartbeats(&mut self, world: &World) {
        let is_due =
            |link: &Link| link.is_up && link.heartbeat_at <= world.now && link.queue() <= MAX_QUEUE;
        if !self.links.iter().any(is_due) {
            return;
        }
        let totals = world.table.survey(world.now).totals;
        let is_whole = self.is_whole();
        for link in self.links.iter_mut().filter(|link| is_due(link)) {
            link.heartbeat_at = world.now + HEARTBEAT_MS;
            let echo = link.last_heartbeat;
            let heartbeat = Heartbeat {
                uptime_ms: world.now,
                wall_ms: world.wall,
                totals,
                sent: Received {
                    event: link.next_event.saturating_sub(1),
                    unit: link.sent_before,
                },
                answers: link.answered,
                echo_ms: echo.map_or(0, |(theirs, at)| {
                    theirs.uptime_ms.saturating_add(world.now - at)
                }),
                is_whole,
            };
            link.push(&heartbeat.write());
        }
    }

    /// Begins the end: sends the news, then the renewals that the walk has not sent yet.
    pub fn finish(&mut self, world: &World) {
        if self.finish_by.is_none() {
            self.finish_by = Some(world.now + FINISH_MS);
            self.walk.restart();
        }
        self.tick(world);
    }

    /// Whether the end has begun and all was sent, or its time is over.
    pub fn is_finished(&self, now: u64) -> bool {
        let has_sent = self.has_walked && self.links.iter().all(|link| link.queue() == 0);
        let has_links = self.ups().next().is_some();
        self.is_late(now) || self.finish_by.is_some() && (has_sent || !has_links)
    }

    /// Whether the time of the end is over.
    pub fn is_late(&self, now: u64) -> bool {
        self.finish_by.is_some_and(|by| by <= now)
    }
}

impl Pass {
    /// Visits torrents and peers of a shard, and appends those that are to be sent. Returns where to go on.
    fn walk(
        &self,
        tracker: &Tracker,
        records: &mut Contents,
        counts: &mut Contents,
    ) -> Option<Cursor> {
        let clock = tracker.clock();
        // A walk that goes on within a swarm does not name its torrent again.
        let (mut torrent, mut is_in_slice) = (*self.cursor.torrent(), true);
        tracker.walk(self.cursor, BUDGET, &mut |found| match found {
            Found::Torrent {
                info_hash,
                downloaded,
                empty_for,
            } => {
                torrent = *info_hash;
                is_in_slice = self.slice.is_none_or(|first| first == info_hash[0]);
                if self.has_counts && downloaded > 0 {
                    counts.push_count(info_hash, downloaded, empty_for.unwrap_or(0));
                }
            }
            Found::Peers { .. } if !is_in_slice => {}
            Found::Peers {
                list,
                records: found,
            } => {
                let size = RECORD_SIZES.get(usize::from(list)).copied().unwrap_or(1);
                let role = [Role::Leecher, Role::Seeder][usize::from(list % 2)];
                let peers = found.chunks_exact(size).filter_map(<[u8]>::split_last);
                for (tag, endpoint) in peers {
                    let unit = clock.unit_of(*tag);
                    let is_sent = self.is_everything || tag & LOCAL != 0;
                    if is_sent && unit >= self.since && !clock.expired(*tag) {
                        let completed = self.has_counts && tag & COMPLETED != 0;
                        records.push(&torrent, endpoint, role, unit, completed);
                    }
                }
            }
        })
    }
}
