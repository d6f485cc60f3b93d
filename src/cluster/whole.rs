//! A node asks the others for the records that it lacks: at its start until it is whole, and after its list has
//! changed.

use super::link::Link;
use super::node::Node;
use super::records::{JOINING, LATER, LEARNT, Received, WITH_COUNTS};
use crate::stats::cluster::Health;

/// Milliseconds without a link after which a node that is not whole is alone.
const ALONE_MS: u64 = 10_000;

/// Milliseconds after the start from which a node no longer waits for the others: one that answers never, or slowly,
/// must not keep clients away from this one.
const LONGEST_MS: u64 = 600_000;

/// Milliseconds for links to come up before any node is asked for everything.
const SETTLE_MS: u64 = 3000;

/// Milliseconds between two requests because of the list.
const LIST_MS: u64 = 60_000;

impl Node {
    /// Asks for missing records, and decides whether this node is whole: a whole node has sent everything, or all named
    /// nodes have. The first node that is reached may be an empty one.
    pub(super) fn seek(&mut self, now: u64) {
        let are_all_linked =
            self.is_whole() || (0..self.peers.len()).all(|index| !self.is_silent(index));
        // All nodes send their news by then, so hardly a completion is in neither the news nor the counts.
        if are_all_linked || now >= self.started + SETTLE_MS {
            self.ask_for_missing();
        }
        if self.is_whole() {
            return;
        }
        let answered = || {
            self.ups()
                .filter(|link| link.is_source() && link.is_answered())
        };
        let has_everything = self.has_everything || answered().any(|link| link.theirs.is_whole);
        let is_sure = has_everything || are_all_linked && answered().next().is_some();
        self.has_everything = has_everything;
        let is_waiting = !self.ups().all(Link::is_answered);
        if is_waiting {
            self.linked_at = now;
        }
        let is_alone = now >= (self.linked_at + ALONE_MS).min(self.started + LONGEST_MS);
        if !is_waiting && is_sure {
            self.health = Health::Ok;
            self.lines
                .push("received the peers of the other nodes".into());
        } else if self.health == Health::Syncing && is_alone {
            self.health = Health::Alone;
            self.lines
                .push("cannot reach the other nodes: serving alone".into());
        }
    }

    /// A node that is not whole asks one whole node for everything, learnt peers and counts included, and the others
    /// for their local peers; if none is whole, it asks each for everything.
    fn ask_for_missing(&mut self) {
        const EVERYTHING: u64 = JOINING | LEARNT | WITH_COUNTS;
        let is_whole_source = |link: &Link| link.is_source() && link.theirs.is_whole;
        let mut has_source = self.is_whole() || self.has_everything;
        has_source |= self.links.iter().any(is_whole_source);
        let is_any_whole = self.ups().any(|link| link.theirs.is_whole);
        for link in self.links.iter_mut().filter(|link| link.is_up) {
            let is_next = !has_source && link.theirs.is_whole == is_any_whole;
            if is_next && !link.is_source() {
                link.ask(Received::default(), EVERYTHING);
                has_source = is_any_whole;
            } else if link.wishes == LATER {
                link.ask(Received::default(), JOINING);
            }
        }
    }

    /// The list of torrents has changed. If it has refused records, the other nodes are asked for their peers and
    /// counts again, at most once a minute.
    pub fn list_changed(&mut self) {
        self.is_list_changed = self.refused > self.refused_before;
    }

    pub(super) fn ask_for_listed(&mut self, now: u64) {
        let is_soon = |at| now < at + LIST_MS;
        if !self.is_list_changed || self.listed_at.is_some_and(is_soon) {
            return;
        }
        self.is_list_changed = false;
        self.listed_at = Some(now);
        self.refused_before = self.refused;
        for link in self.links.iter_mut().filter(|link| link.is_up) {
            let wishes = link.wishes & LEARNT | WITH_COUNTS;
            match link.is_joining() {
                true => link.ask(Received::default(), wishes | JOINING),
                false => link.ask_again(wishes),
            }
        }
    }
}
