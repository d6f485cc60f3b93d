//! What the status page's first line says: nothing if all is well, else what is not.

use super::{View, cluster};
use crate::base::job::Job;
use crate::base::text::{count, fill_with};

/// What is not well. The names of other nodes are for admins.
pub fn find(view: &View, is_admin: bool) -> Vec<String> {
    let monitor = view.monitor;
    let mut found = Vec::new();
    if let Some(overview) = &view.cluster {
        cluster::find_troubles(overview, is_admin, &mut found);
    }
    let has_failed = |job: &Option<Job>| job.as_ref().is_some_and(|job| job.last().has_failed);
    if has_failed(&monitor.saves) {
        found.push("the last save of the state failed".into());
    }
    if let Some(list) = view.list.filter(|_| has_failed(&monitor.loads)) {
        found.push(format!("the last reload of the {} failed", list.name));
    }
    let before = monitor
        .history()
        .oldest()
        .map_or(0, |sample| sample.dropped);
    let dropped = view.counters.dropped().saturating_sub(before);
    if dropped > 0 {
        found.push(filled("$ UDP replies dropped in the last hour", dropped));
    }
    for (size, max, text) in [
        (
            view.all_peers(),
            // The rest is a reserve.
            view.limits.max_peers - view.limits.max_peers / 20,
            "the table is full: $ peers",
        ),
        (
            view.totals.torrents,
            view.limits.max_torrents,
            "the table is full: $ torrents",
        ),
        (
            monitor.connections(),
            monitor.max_connections(),
            "all $ TCP connections are in use",
        ),
    ] {
        if size >= max && max > 0 {
            found.push(filled(text, size as u64));
        }
    }
    found
}

fn filled(template: &str, number: u64) -> String {
    let mut out = Vec::new();
    fill_with(&mut out, template, &[number], count);
    String::from_utf8(out).unwrap_or_default()
}
