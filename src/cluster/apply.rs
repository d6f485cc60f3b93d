//! The records of other nodes enter the table here, unless the list refuses their torrent.

use super::link::Link;
use super::node::{Node, World};
use super::records::{self, Group, Groups, Reader};
use crate::tracker::{Hint, InfoHash, MAX_BATCH};

impl Node {
    /// Applies records in order. The torrents of a batch are looked up ahead.
    pub(super) fn apply_records(
        &mut self,
        link: &mut Link,
        kind: u8,
        mut reader: Reader,
        world: &World,
    ) {
        let Some([unit, mut number]) = reader.numbers() else {
            return;
        };
        let unit = link.own_unit(unit);
        let (mut count, mut news) = (0, 0);
        let mut batches = Groups::new(reader);
        loop {
            let mut groups = batches.next_batch();
            if groups[0].is_none() {
                break;
            }
            for place in &mut groups {
                let Some(group) = place else { break };
                count += group.count();
                let mut is_known = false;
                if group.is_event() {
                    let received = link.received.event;
                    // A completion that is repeated must not be added again.
                    is_known = number <= link.known || group.is_completion() && number <= received;
                    link.received.event = received.max(number);
                    number = number.saturating_add(1);
                }
                if is_known || self.is_refused(group.info_hash, world) {
                    *place = None;
                }
            }
            news += u64::from(apply_groups(&groups, unit, world));
        }
        self.records_in += count;
        link.traffic.records_in += count;
        if let Some(walk) = link.walk.as_mut().filter(|_| kind == records::WALK) {
            walk.records += count;
            walk.news += news;
        }
    }

    pub(super) fn apply_counts(&mut self, mut reader: Reader, world: &World) {
        while let Some((info_hash, downloaded, empty_for)) = records::read_count(&mut reader) {
            if !self.is_refused(&info_hash, world) {
                let mut tracker = world.table.lock_for(&info_hash, world.now);
                tracker.raise_downloaded(&info_hash, downloaded, empty_for);
            }
        }
    }

    fn is_refused(&mut self, info_hash: &InfoHash, world: &World) -> bool {
        let is_refused = (world.refuses)(info_hash);
        self.refused += u64::from(is_refused);
        is_refused
    }
}

/// Applies groups, most of which are in the order of info-hashes. Returns the number of peers that were news.
fn apply_groups(groups: &[Option<Group>; MAX_BATCH], unit: u64, world: &World) -> u32 {
    let group = |index: usize| groups.get(index).copied().flatten();
    let hashes = (0..MAX_BATCH).map(|index| group(index).map(|group| group.info_hash));
    let (table, now) = (world.table, world.now);
    let order = table.order(hashes);
    let mut hints = [Hint::default(); MAX_BATCH];
    let mut last = Hint::default();
    table.visit(&order, now, &mut |tracker, index| {
        if let (Some(group), Some(hint)) = (group(index), hints.get_mut(index)) {
            last = tracker.look_behind(group.info_hash, last);
            *hint = last;
        }
    });
    let mut news = 0;
    table.visit(&order, now, &mut |tracker, index| {
        let (Some(group), Some(hint)) = (group(index), hints.get(index)) else {
            return;
        };
        let records = group.records(unit);
        match group.is_completion() {
            true => records.for_each(|record| tracker.apply_completion(group.info_hash, &record)),
            false => news += tracker.apply(group.info_hash, *hint, records),
        }
    });
    news
}
