//! A node's records, out and in: news, the walk and catch-up are sent, those of other nodes applied. Also when a node is whole.

use super::link::{
    Asked, HANDSHAKE_MS, HEARTBEAT_MS, LOW_QUEUE, Link, MAX_QUEUE, Pass, SILENCE_MS, STALE_MS,
};
use super::node::{ConnId, Node, Notice, World, clock};
use super::records::{self, Contents, Group, Heartbeat, Reader, Received};
use super::walk::Slice;
use crate::stats::cluster::Failure;
use crate::tracker::{
    COMPLETED, Clock, Cursor, Found, Hint, InfoHash, LATE, LOCAL, MAX_BATCH, RECORD_SIZES, Role,
    State, Totals, Tracker,
};

/// Torrents and peers that a step of a walk or of a catch-up looks at: some 100 µs.
const BUDGET: usize = 1024;

/// Events in a step of a catch-up.
const EVENTS_AT_ONCE: u64 = 300;

/// Milliseconds without any link after which a node that is not whole serves alone.
const ALONE_MS: u64 = 10_000;

/// Milliseconds for which the links to other nodes are awaited before a node that is not whole itself is asked.
const SETTLE_MS: u64 = 3000;

/// Milliseconds that a node takes at its end to send what it knows.
const FINISH_MS: u64 = 2000;

/// Milliseconds between two ticks after which silence is not the other nodes' fault.
const PAUSE_MS: u64 = 2000;

/// Milliseconds after which a link that is down is told.
const DOWN_MS: u64 = 1000;

/// Stops of unknown peers that a node which is syncing notes in a second.
const UNKNOWN_STOPS: u32 = 1000;

/// Milliseconds between two requests because of the list.
const LIST_MS: u64 = 60_000;

/// Milliseconds between two times that the news of the shards is taken, and pieces of it that are sent at once.
const COLLECT_MS: u64 = 25;
const NEWS_AT_ONCE: usize = 4096;

impl Node {
    /// Does what is due; true if there is more to do at once. To be called some ten times a second, after the bytes that have come
    /// were handed to [`Node::receive`], as a link that is silent ends here.
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
        self.seek(world);
        self.ask_for_listed(world.now);
        self.tell_links(world.now);
        self.send_heartbeats(world);
        if world.now >= self.granted_at + 1000 {
            self.granted_at = world.now;
            let stops = if self.is_whole { 0 } else { UNKNOWN_STOPS };
            let shards = u32::try_from(world.table.shards()).unwrap_or(1);
            let stops = stops.div_ceil(shards);
            world
                .table
                .each(world.now, &mut |tracker| tracker.allow_unknown_stops(stops));
        }
        has_news || is_walking || is_catching_up
    }

    /// After a pause of this process: the other nodes have a moment to show that they are there.
    fn forgive(&mut self, now: u64) {
        let heard_at = now.saturating_sub(SILENCE_MS - STALE_MS);
        self.links
            .values_mut()
            .for_each(|link| link.heard_at = link.heard_at.max(heard_at));
    }

    fn end_silent(&mut self, now: u64) {
        let is_over = |link: &Link| {
            let handshake = if link.is_dialler {
                HANDSHAKE_MS
            } else {
                HANDSHAKE_MS + 2000
            };
            match (link.is_up, link.ending) {
                (_, Some(_)) => link.queue() == 0 || link.opened_at + handshake < now,
                (true, None) => link.heard_at + SILENCE_MS < now,
                (false, None) => link.opened_at + handshake < now,
            }
        };
        let over: Vec<ConnId> = self
            .links
            .iter()
            .filter(|(_, link)| is_over(link))
            .map(|(id, _)| id)
            .collect();
        for id in over {
            self.end(id, Failure::TimedOut, now);
        }
    }

    /// Takes the news of all shards and sends it; true if some is left for the next tick.
    fn collect(&mut self, world: &World) -> bool {
        if self.news.is_empty() && world.now >= self.collected_at + COLLECT_MS {
            self.collected_at = world.now;
            for shard in 0..world.table.shards() {
                let is_complete = world.table.lock(shard, world.now).take_news(&mut self.news);
                self.note_loss(is_complete, world);
            }
        }
        self.send_news(world);
        !self.news.is_empty()
    }

    /// News that a shard could not keep is as if all links had lost it.
    fn note_loss(&mut self, is_complete: bool, world: &World) {
        if is_complete {
            return;
        }
        self.kept.skip();
        let (_, unit) = clock(world.table, world.now);
        self.links
            .values_mut()
            .for_each(|link| link.lose(unit.saturating_sub(1)));
    }

    /// Sends news that was taken from the shards, a bounded number at once: events with numbers, the rest as records.
    fn send_news(&mut self, world: &World) {
        let news = std::mem::take(&mut self.news);
        let (now, later) = news.split_at(news.len().min(NEWS_AT_ONCE));
        if now.is_empty() {
            return;
        }
        let (_, unit) = clock(world.table, world.now);
        let mut events = Contents::events(unit);
        let mut others = Contents::records(records::NEWS, unit);
        for news in now {
            if news.is_event() {
                events.push_event(self.kept.next(), news);
                self.kept.push(*news, world.now);
            } else if let (State::Present(role), true) =
                (news.record.state, news.renews.is_none_or(|age| age >= LATE))
            {
                let (record, hash) = (&news.record, &news.info_hash);
                others.push(hash, record.peer.endpoint(), role, record.unit, false);
            }
        }
        let oldest = unit.saturating_sub(1);
        self.broadcast(others, oldest);
        let next = self.kept.next();
        self.broadcast(events, oldest);
        self.links
            .values_mut()
            .filter(|link| link.keeps_up())
            .for_each(|link| link.next_event = next);
        if let Some(outside) = &mut self.outside {
            outside.extend_from_slice(now);
        }
        self.news.extend_from_slice(later);
    }

    /// Sends contents to all links that keep up. One whose queue is full loses what was stamped from unit `oldest` on.
    fn broadcast(&mut self, contents: Contents, oldest: u64) {
        let records = contents.records;
        let contents = contents.finish();
        for link in self.links.values_mut().filter(|link| link.keeps_up()) {
            link.counters.records_out += records;
            for content in &contents {
                if link.queue() > MAX_QUEUE {
                    link.lose(oldest);
                    break;
                }
                link.push(content);
            }
        }
    }

    /// Goes on with the walk as far as it is due; true if more is due now.
    fn walk_on(&mut self, world: &World) -> bool {
        let is_last = self.finish_by.is_some();
        let is_full = |link: &Link| link.queue() > LOW_QUEUE;
        let takers = || self.links.values().filter(|link| link.keeps_up());
        let must_wait = takers().next().is_some() && takers().all(is_full);
        if is_last && (self.has_walked || must_wait) {
            return false;
        }
        let (clock_ms, unit) = clock(world.table, world.now);
        let Some(slice) = self
            .walk
            .next(clock_ms, unit, world.table.unit_ms(), is_last)
        else {
            return false;
        };
        let is_sent = self.links.values().any(Link::keeps_up);
        let has_ended = match is_sent {
            true => self.walk_slice(&slice, world),
            // Links that come up later begin with a catch-up.
            false => self.walk.passed(None),
        };
        let behind = self
            .links
            .values_mut()
            .filter(|link| link.is_behind && link.lost_from.is_some());
        behind.for_each(|link| link.lose(slice.since));
        if has_ended {
            self.end_walk(clock_ms, unit, world);
        }
        true
    }

    fn walk_slice(&mut self, slice: &Slice, world: &World) -> bool {
        let mut first = [0; 20];
        first[0] = slice.first_byte;
        let filter = Filter {
            since: slice.since,
            is_everything: false,
            has_counts: false,
            first_byte: Some(slice.first_byte),
        };
        let (next, contents, _) = self.step(
            world,
            records::WALK,
            world.table.shard_of(&first),
            slice.cursor,
            &filter,
        );
        self.broadcast(contents, slice.since);
        self.walk.passed(next)
    }

    fn end_walk(&mut self, clock_ms: u64, unit: u64, world: &World) {
        for link in self.links.values_mut().filter(|link| link.is_up) {
            let is_whole = link.has_whole_walk && !link.is_behind;
            if is_whole && link.pass.is_none() && link.lost_from.is_none() && !link.awaits_request {
                link.sent_before = link.sent_before.max(self.walk.began);
                link.heartbeat_at = world.now;
            }
            link.has_whole_walk = !link.is_behind;
        }
        self.has_walked = self.finish_by.is_some();
        self.walk.begin(clock_ms, unit, world.table.unit_ms());
    }

    /// Looks at some torrents of a shard from there on, and returns where to go on in this shard, the records that pass the filter,
    /// and the counts. News of the shard that waits is sent first, as a count may include it.
    fn step(
        &mut self,
        world: &World,
        purpose: u8,
        shard: usize,
        from: Cursor,
        filter: &Filter,
    ) -> (Option<Cursor>, Contents, Contents) {
        let mut counts = Contents::counts();
        let mut tracker = world.table.lock(shard, world.now);
        let is_complete = tracker.take_news(&mut self.news);
        let mut records = Contents::records(purpose, tracker.clock().unit());
        let next = match self.news.len() <= NEWS_AT_ONCE {
            true => filter.walk(&tracker, from, &mut records, &mut counts),
            false => Some(from),
        };
        drop(tracker);
        self.note_loss(is_complete, world);
        self.send_news(world);
        (next, records, counts)
    }

    /// Makes catch-up frames for the next link that has little left to send; true if there are more to make.
    fn catch_up(&mut self, world: &World) -> bool {
        let last = self.caught_up;
        let ready_ids = || {
            self.links
                .iter()
                .filter(|(_, link)| link.is_hungry())
                .map(|(id, _)| id)
        };
        let Some(id) = ready_ids()
            .find(|id| *id > last)
            .or_else(|| ready_ids().next())
        else {
            return false;
        };
        self.caught_up = id;
        self.catch_up_link(id, world);
        self.links.values().any(Link::is_hungry)
    }

    fn catch_up_link(&mut self, id: ConnId, world: &World) {
        let (_, unit) = clock(world.table, world.now);
        let (first, next) = (self.kept.first(), self.kept.next());
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if !link.stops.is_empty() {
            let stops = link.stops.start.max(first)
                ..link
                    .stops
                    .end
                    .min(link.stops.start.max(first) + EVENTS_AT_ONCE);
            link.stops.start = stops.end.max(stops.start);
            let mut events = Contents::events(unit);
            for number in stops {
                if let Some(stop) = self
                    .kept
                    .get(number)
                    .filter(|news| news.record.state == State::Stopped)
                {
                    events.push_event(0, stop);
                }
            }
            link.counters.records_out += events.records;
            events
                .finish()
                .iter()
                .for_each(|content| link.push(content));
        } else if link.is_behind {
            if link.next_event < first {
                link.next_event = first;
                link.has_lost_counts = true;
                link.lost_from = Some(link.lost_from.unwrap_or(unit));
            }
            let end = next.min(link.next_event + EVENTS_AT_ONCE);
            let mut events = Contents::events(unit);
            for number in link.next_event..end {
                if let Some(event) = self.kept.get(number) {
                    events.push_event(number, event);
                }
            }
            link.next_event = end;
            link.is_behind = end < next;
            link.counters.records_out += events.records;
            events
                .finish()
                .iter()
                .for_each(|content| link.push(content));
        } else if link.pass.is_some() {
            self.pass_on(id, world);
        } else if let Some(since) = link.lost_from.take() {
            link.pass = Some(Pass {
                cursor: Some(Cursor::default()),
                since,
                is_everything: false,
                has_counts: std::mem::take(&mut link.has_lost_counts),
                began: unit,
            });
        }
    }

    /// Goes on with the pass for a link that is not behind.
    fn pass_on(&mut self, id: ConnId, world: &World) {
        let Some(pass) = self.links.get_mut(id).and_then(|link| link.pass.take()) else {
            return;
        };
        let Some(cursor) = pass.cursor else {
            return;
        };
        let filter = Filter {
            since: pass.since,
            is_everything: pass.is_everything,
            has_counts: pass.has_counts,
            first_byte: None,
        };
        let shard = world.table.shard_of(cursor.torrent());
        let (next, records, counts) = self.step(world, records::CATCH_UP, shard, cursor, &filter);
        let next = next.or_else(|| world.table.first_behind(shard).map(Cursor::at));
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.counters.records_out += records.records;
        // Counts come behind the records that carry the mark of a counted completion.
        for content in records.finish().iter().chain(&counts.finish()) {
            link.push(content);
        }
        if next.is_none() {
            // A pass for news that was lost says nothing of renewals before it: the next walk does.
            if pass.since <= link.sent_before {
                link.sent_before = link.sent_before.max(pass.began);
            }
            link.requests_answered = link.requests_in;
            link.heartbeat_at = world.now;
        }
        link.pass = next.map(|next| Pass {
            cursor: Some(next),
            ..pass
        });
    }

    /// Answers a request for peers.
    pub(super) fn answer(&mut self, id: ConnId, flags: u8, world: &World) {
        let (_, unit) = clock(world.table, world.now);
        let stops = self.kept.first()..self.kept.next();
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        // A pass under way begins again with the wishes of both.
        let (learnt, counts) = link
            .pass
            .as_ref()
            .map_or((false, false), |pass| (pass.is_everything, pass.has_counts));
        link.awaits_request = false;
        link.requests_in += 1;
        link.stops = stops;
        link.pass = Some(Pass {
            cursor: Some(Cursor::default()),
            since: 0,
            is_everything: learnt || flags & records::LEARNT != 0,
            has_counts: counts || flags & records::WITH_COUNTS != 0,
            began: unit,
        });
    }

    /// Has the log name the peers whose links have come up, or have been down for a moment: one that is replaced by
    /// another comes back at once.
    fn tell_links(&mut self, now: u64) {
        for index in 0..self.peers.len() {
            let is_up = !self.is_silent(index);
            let Some(peer) = self.peers.get_mut(index) else {
                continue;
            };
            let is_settled = is_up || now >= peer.since + DOWN_MS;
            if peer.is_told_up != is_up && is_settled && peer.failure != Some(Failure::Own) {
                peer.is_told_up = is_up;
                let why = peer.failure.unwrap_or(Failure::Closed);
                let notice = if is_up { Notice::Up } else { Notice::Down(why) };
                self.notices.push_back(((Some(index), None), notice));
            }
        }
    }

    /// Asks other nodes for their peers, and sees whether this node is whole: a whole node has sent everything, or all nodes
    /// that are named have. Else a node that is reached first could be an empty one.
    fn seek(&mut self, world: &World) {
        let now = world.now;
        self.ask(now);
        let ups = || self.links.values().filter(|link| link.is_up);
        let sources = || ups().filter(|link| link.asked == Asked::Everything && link.is_answered());
        let is_whole = |link: &Link| link.theirs.is_some_and(|theirs| theirs.is_whole);
        self.has_everything |= sources().any(is_whole);
        let is_answered = ups().all(Link::is_answered);
        let is_sure = match self.has_everything {
            // A node that is linked later sends completions again which the counts of the others include.
            true => self.has_settled(now),
            false => sources().next().is_some() && self.are_all_linked(),
        };
        if is_answered && is_sure && !self.is_whole {
            self.is_whole = true;
            self.notices.push_back(((None, None), Notice::Whole));
        }
        if !is_answered {
            self.linked_at = now;
        }
        if !self.is_whole && !self.is_alone && now >= self.linked_at + ALONE_MS {
            self.is_alone = true;
            self.notices.push_back(((None, None), Notice::Alone));
        }
    }

    fn are_all_linked(&self) -> bool {
        (0..self.peers.len()).all(|index| !self.is_silent(index))
    }

    /// Whether every node that is named is linked, or has had its time.
    fn has_settled(&self, now: u64) -> bool {
        now >= self.started + SETTLE_MS || self.are_all_linked()
    }

    /// A node that is not whole asks one whole node for everything and the others for their local peers; if none is whole, each
    /// for everything.
    fn ask(&mut self, now: u64) {
        let is_whole = |link: &Link| link.theirs.is_some_and(|theirs| theirs.is_whole);
        let ups = || self.links.values().filter(|link| link.is_up);
        let asked = || ups().filter(|link| link.asked == Asked::Everything);
        let mut has_source = self.is_whole || self.has_everything || asked().any(is_whole);
        let is_any_asked = has_source || asked().next().is_some();
        let has_settled = self.has_settled(now);
        let is_any_whole = ups().any(is_whole);
        for link in self
            .links
            .values_mut()
            .filter(|link| link.is_up && link.awaits_own_request())
        {
            let is_missing = link.asked == Asked::Local && !is_any_asked;
            if link.asked != Asked::Not && !is_missing {
                continue;
            }
            link.asked = match (has_source, is_whole(link)) {
                (true, _) => Asked::Local,
                (false, true) => Asked::Everything,
                // A whole node is next, or may still come.
                (false, false) if is_any_whole || !has_settled => continue,
                (false, false) => Asked::Everything,
            };
            has_source |= is_whole(link);
            link.ask(match link.asked {
                Asked::Everything => records::LEARNT | records::WITH_COUNTS,
                _ => 0,
            });
        }
    }

    fn send_heartbeats(&mut self, world: &World) {
        if !self
            .links
            .values()
            .any(|link| link.is_up && link.heartbeat_at <= world.now)
        {
            return;
        }
        let totals: Totals = world.table.totals(world.now);
        for link in self.links.values_mut() {
            if !link.is_up || link.heartbeat_at > world.now || link.queue() > MAX_QUEUE {
                continue;
            }
            link.heartbeat_at = world.now + HEARTBEAT_MS;
            let (echo_ms, held) = link
                .last_heartbeat
                .map_or((0, 0), |(theirs, at)| (theirs.uptime_ms, world.now - at));
            let heartbeat = Heartbeat {
                uptime_ms: world.now,
                wall_ms: world.wall,
                totals,
                sent: Received {
                    event: link.next_event.saturating_sub(1),
                    unit: link.sent_before,
                },
                answers: link.requests_answered,
                echo_ms,
                held_ms: u32::try_from(held).unwrap_or(u32::MAX),
            };
            link.push(&heartbeat.write());
        }
    }

    /// The end is near: sends the news, then all renewals that the walk has not sent yet.
    pub fn finish(&mut self, world: &World) {
        if self.finish_by.is_none() {
            self.finish_by = Some(world.now + FINISH_MS);
            self.walk.restart();
        }
        self.tick(world);
    }

    /// Whether all that is to be sent before the end was sent, or has had its time.
    pub fn is_finished(&self, now: u64) -> bool {
        let has_sent = self.has_walked && self.links.values().all(|link| link.queue() == 0);
        let has_links = self.links.values().any(|link| link.is_up);
        self.finish_by
            .is_none_or(|by| has_sent || !has_links || by <= now)
    }

    /// The list of torrents has changed. If some were refused, the other nodes are asked for their peers and counts again,
    /// at most once a minute.
    pub fn list_changed(&mut self) {
        self.is_list_changed = self.refused_count > self.refused_before;
    }

    fn ask_for_listed(&mut self, now: u64) {
        if !self.is_list_changed || now < self.listed_at {
            return;
        }
        self.is_list_changed = false;
        self.listed_at = now + LIST_MS;
        self.refused_before = self.refused_count;
        for link in self.links.values_mut().filter(|link| link.is_up) {
            link.ask(records::WITH_COUNTS);
        }
    }

    fn is_refused(&mut self, info_hash: &InfoHash, world: &World) -> bool {
        let is_refused = (world.refuses)(info_hash);
        self.refused_count += u64::from(is_refused);
        is_refused
    }

    /// Applies records in order, looked up a batch of torrents ahead.
    pub(super) fn apply_records(&mut self, id: ConnId, mut reader: Reader, world: &World) {
        let (Some((purpose, unit)), Some(link)) =
            (records::read_head(&mut reader), self.links.get(id))
        else {
            return;
        };
        let unit = link.own_unit(unit);
        let (mut count, mut news) = (0, 0);
        let mut last = None;
        loop {
            let (mut groups, length) = records::read_groups(&mut reader, &mut last);
            if length == 0 {
                break;
            }
            for place in &mut groups {
                if let Some(group) = place {
                    count += group.count() as u64;
                    if self.is_refused(group.info_hash, world) {
                        *place = None;
                    }
                }
            }
            news += apply_groups(&groups, unit, world);
        }
        if let Some(link) = self.links.get_mut(id) {
            link.counters.records_in += count;
            if purpose == records::WALK {
                link.walk.records += count;
                link.walk.news += u64::from(news);
            }
        }
    }

    pub(super) fn apply_events(&mut self, id: ConnId, mut reader: Reader, world: &World) {
        let (Some((first, unit)), Some(link)) =
            (records::read_events_head(&mut reader), self.links.get(id))
        else {
            return;
        };
        let unit = link.own_unit(unit);
        let mut received = link.received.event;
        let mut count = 0;
        while let Some(event) = records::read_event(&mut reader, unit) {
            count += 1;
            if first > 0 {
                let number = first.saturating_add(count - 1);
                // Another connection to the same node may have brought it.
                if number <= received {
                    continue;
                }
                received = number;
            }
            if self.is_refused(&event.info_hash, world) {
                continue;
            }
            let mut tracker = world.table.lock_for(&event.info_hash, world.now);
            match event.is_completion {
                true => tracker.apply_completion(&event.info_hash, &event.record),
                false => {
                    let record = std::iter::once(event.record);
                    tracker.apply(&event.info_hash, Hint::default(), record);
                }
            }
        }
        if let Some(link) = self.links.get_mut(id) {
            link.counters.records_in += count;
            link.received.event = received;
        }
    }

    pub(super) fn apply_counts(&mut self, _: ConnId, mut reader: Reader, world: &World) {
        while let Some((info_hash, downloaded, empty_for)) = records::read_count(&mut reader) {
            if !self.is_refused(&info_hash, world) {
                let mut tracker = world.table.lock_for(&info_hash, world.now);
                tracker.raise_downloaded(&info_hash, downloaded, empty_for);
            }
        }
    }
}

/// Applies groups, which are in the order of info-hashes; how many peers were news.
fn apply_groups(groups: &[Option<Group>; MAX_BATCH], unit: u64, world: &World) -> u32 {
    let order = world.table.order(
        groups
            .iter()
            .map(|group| group.map(|group| group.info_hash)),
    );
    let mut hints = [Hint::default(); MAX_BATCH];
    let group = |index: usize| groups.get(index).copied().flatten();
    let (table, now) = (world.table, world.now);
    let mut last = Hint::default();
    table.visit(&order, now, &mut |tracker, index| {
        if let (Some(group), Some(hint)) = (group(index), hints.get_mut(index)) {
            last = tracker.look_behind(group.info_hash, last);
            *hint = last;
        }
    });
    let mut news = 0;
    table.visit(&order, now, &mut |tracker, index| {
        if let (Some(group), Some(hint)) = (group(index), hints.get(index)) {
            news += tracker.apply(group.info_hash, *hint, group.records(unit));
        }
    });
    news
}

/// Which peers of a walk are sent.
struct Filter {
    since: u64,
    is_everything: bool,
    has_counts: bool,
    /// Of the info-hashes, if only one slice is walked.
    first_byte: Option<u8>,
}

impl Filter {
    fn walk(
        &self,
        tracker: &Tracker,
        from: Cursor,
        records: &mut Contents,
        counts: &mut Contents,
    ) -> Option<Cursor> {
        let clock = tracker.clock();
        // In the middle of a swarm the walk does not name its torrent again.
        let (mut torrent, mut is_in_slice) = (*from.torrent(), true);
        tracker.walk(from, BUDGET, &mut |found| match found {
            Found::Torrent {
                info_hash,
                downloaded,
                empty_for,
            } => {
                torrent = *info_hash;
                is_in_slice = self.first_byte.is_none_or(|first| first == info_hash[0]);
                if self.has_counts && downloaded > 0 {
                    counts.push_count(info_hash, downloaded, empty_for.unwrap_or(0));
                }
            }
            Found::Peers {
                list,
                records: found,
            } if is_in_slice => self.take(clock, &torrent, list, found, records),
            Found::Peers { .. } => {}
        })
    }

    fn take(
        &self,
        clock: Clock,
        info_hash: &InfoHash,
        list: u8,
        found: &[u8],
        records: &mut Contents,
    ) {
        let size = RECORD_SIZES.get(usize::from(list)).copied().unwrap_or(1);
        let role = if list % 2 == 0 {
            Role::Leecher
        } else {
            Role::Seeder
        };
        for record in found.chunks_exact(size) {
            let Some((tag, endpoint)) = record.split_last() else {
                continue;
            };
            let unit = clock.unit_of(*tag);
            let is_told = self.is_everything || tag & LOCAL != 0;
            if is_told && unit >= self.since && !clock.expired(*tag) {
                let completed = self.has_counts && tag & COMPLETED != 0;
                records.push(info_hash, endpoint, role, unit, completed);
            }
        }
    }
}
