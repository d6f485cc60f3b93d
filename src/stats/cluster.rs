//! The cluster as statistics tell of it: a table for people, which `--cluster-status` prints, and metrics.
//!
//! All of it is made from an [`Overview`], a plain value: whoever has the sockets fills one in when
//! somebody asks.

use super::metrics::{Number, begin_family, sample};
use super::people::{bytes, milliseconds, plural, short_number, text};
use super::{View, fill};
use crate::sync::cluster::Cluster;
use crate::sync::link::Counters;
use crate::sync::multicast::{Counters as Multicast, Ignored};
use crate::sync::node::Report;
use crate::sync::wire::Rejection;
use crate::tracker::Tracker;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What is told of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Names this process to other nodes.
    pub id: u64,
    /// Milliseconds by which cluster time is ahead of the host's clock.
    pub ahead: i64,
    /// Changes that wait to be told.
    pub pending: u64,
    /// Changes that were too many to be told, and left to repair.
    pub untold: u64,
    /// Whether it is still to have the table from another node.
    pub is_joining: bool,
    /// Whether digests are at hand to compare tables by; they are not while they are made anew.
    pub is_counted: bool,
    /// Peers that others told of.
    pub synced: u64,
    pub nodes: Vec<Report>,
    /// Nodes whose names have no address yet.
    pub unresolved: Vec<String>,
    /// Packets that did not leave, by [`UNSENT`].
    pub unsent: [u64; UNSENT.len()],
    /// Packets that no node can be named for, by the number of the [`Rejection`].
    pub rejections: [u64; Rejection::COUNT],
    /// If there is opentracker's live sync.
    pub multicast: Option<Multicast>,
}

/// The metrics contain this for a node whose name has no address yet.
const NOBODY: Report = Report {
    address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    id: 0,
    is_up: false,
    is_own: false,
    counters: Counters::NONE,
    lag: 0,
    clock_offset: None,
    agrees: None,
};

/// Why a packet did not leave: the send buffer was full, or the system said no.
const UNSENT: [&str; 2] = ["no_room", "refused"];

impl Overview {
    /// What a node knows; `wall` is the host's clock, in milliseconds.
    pub fn of(cluster: &Cluster, tracker: &Tracker, wall: u64) -> Overview {
        let (node, ledger) = (cluster.node(), tracker.ledger());
        let multicast = cluster.multicast().copied();
        Overview {
            id: node.id(),
            ahead: node.cluster_time().wrapping_sub(wall) as i64,
            pending: node.pending() as u64,
            untold: node.untold() + ledger.map_or(0, |ledger| ledger.lost),
            is_joining: node.is_joining,
            is_counted: ledger.is_some_and(|ledger| ledger.counted_to.is_none()),
            synced: node.synced() + multicast.map_or(0, |m| m.records_in),
            nodes: node.reports().collect(),
            unresolved: cluster.unresolved().map(ToString::to_string).collect(),
            unsent: [cluster.counters.dropped, cluster.counters.refused],
            rejections: node.rejections(),
            multicast,
        }
    }

    /// Leaves out where others are, which is for admins.
    pub fn hide_nodes(&mut self) {
        self.nodes.clear();
        self.unresolved.clear();
    }

    /// Without this one, in case that it is listed too.
    fn others(&self) -> impl Iterator<Item = &Report> {
        self.nodes.iter().filter(|node| !node.is_own)
    }

    fn count(&self, is: impl Fn(&Report) -> bool) -> u64 {
        self.others().filter(|node| is(node)).count() as u64
    }
}

/// The report of the mode of this name.
pub fn report(view: &View, out: &mut Vec<u8>) {
    match &view.cluster {
        Some(overview) => write(overview, out),
        None => text(out, NONE),
    }
}

/// What is reported outside of a cluster.
pub const NONE: &str = "no cluster: --cluster-listen or --sync-multicast begins one\n";

/// How a report begins of a cluster in which nothing is amiss.
pub const WELL: &str = "cluster ok";

/// Appends the table for people.
pub fn write(overview: &Overview, out: &mut Vec<u8>) {
    write_verdict(overview, out);
    out.push(b'\n');
    write_own(overview, out);
    if !overview.nodes.is_empty() {
        nodes(overview).write(out);
        traffic(overview).write(out);
    }
    for name in &overview.unresolved {
        text(out, "\nno address is known of ");
        text(out, name);
        out.push(b'\n');
    }
    write_rejections(overview, out);
    if let Some(multicast) = &overview.multicast {
        write_multicast(multicast, out);
    }
}

/// The worst that can be said comes first.
fn write_verdict(overview: &Overview, out: &mut Vec<u8>) {
    let unresolved = overview.unresolved.len() as u64;
    let all = overview.count(|_| true) + unresolved;
    let down = overview.count(|node| !node.is_up) + unresolved;
    let differ = overview.count(|node| node.is_up && node.agrees == Some(false));
    let unknown = overview.count(|node| node.is_up && node.agrees.is_none());
    let (verdict, count, are) = match () {
        () if overview.is_joining => {
            return text(out, "cluster starting: this node has no whole table yet");
        }
        () if down > 0 => ("cluster incomplete", down, " down"),
        () if differ > 0 => ("cluster differs", differ, " with other peers"),
        () if unknown > 0 => ("cluster starting", unknown, " not compared yet"),
        () if all > 0 => (WELL, all, " up and agreeing"),
        () => {
            text(out, WELL);
            return match overview.multicast {
                None => text(out, ": no other node has been heard"),
                Some(_) => text(out, ": multicast alone, by which nothing can be compared"),
            };
        }
    };
    text(out, verdict);
    fill(out, ": $ of $ node", &[count, all]);
    text(out, plural(all));
    text(out, are);
}

fn write_own(overview: &Overview, out: &mut Vec<u8>) {
    text(out, "this node is ");
    write_id(overview.id, out);
    text(out, ", its clock ");
    write_offset(-overview.ahead, out);
    text(out, " against the cluster's\nchanges waiting to be told ");
    short_number(out, hundredths(overview.pending));
    text(out, ", left to repair ");
    short_number(out, hundredths(overview.untold));
    if !overview.is_counted {
        text(out, "; the table is being summed up");
    }
    out.push(b'\n');
}

fn hundredths(count: u64) -> u64 {
    count.saturating_mul(100)
}

fn write_id(id: u64, out: &mut Vec<u8>) {
    for shift in (0..16).rev() {
        let digit = (id >> (4 * shift) & 15) as usize;
        out.push(b"0123456789abcdef"[digit]);
    }
}

/// `+3 ms`
fn write_offset(ms: i64, out: &mut Vec<u8>) {
    out.push(if ms < 0 { b'-' } else { b'+' });
    milliseconds(out, ms.unsigned_abs());
}

/// Rows of as many cells as there are titles.
struct Table {
    titles: &'static [&'static str],
    rows: Vec<Vec<Vec<u8>>>,
    /// Columns that are not numbers.
    words: usize,
}

impl Table {
    fn new(words: usize, titles: &'static [&'static str]) -> Table {
        Table {
            titles,
            rows: Vec::new(),
            words,
        }
    }

    /// With an empty line ahead. Words begin at the left of their columns, numbers end at the right.
    fn write(&self, out: &mut Vec<u8>) {
        let titles = self.titles.iter().map(|title| title.as_bytes());
        let mut widths: Vec<usize> = titles.clone().map(<[u8]>::len).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        out.push(b'\n');
        self.write_row(titles, &widths, out);
        for row in &self.rows {
            self.write_row(row.iter().map(Vec::as_slice), &widths, out);
        }
    }

    fn write_row<'a>(
        &self,
        cells: impl Iterator<Item = &'a [u8]>,
        widths: &[usize],
        out: &mut Vec<u8>,
    ) {
        let mut owed = 0;
        for (column, (cell, width)) in cells.zip(widths).enumerate() {
            let fill = width - cell.len();
            let (before, after) = match column < self.words {
                true => (0, fill + 2),
                false => (fill, 2),
            };
            out.resize(out.len() + owed + before, b' ');
            out.extend_from_slice(cell);
            owed = after;
        }
        out.push(b'\n');
    }

    fn write_html(&self, out: &mut Vec<u8>) {
        text(out, "<table><thead><tr>");
        for title in self.titles {
            for part in ["<th scope=\"col\">", title, "</th>"] {
                text(out, part);
            }
        }
        text(out, "</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            text(out, "<tr>");
            for (column, cell) in row.iter().enumerate() {
                let (open, close) = match column {
                    0 => ("<th scope=\"row\">", "</th>"),
                    _ => ("<td>", "</td>"),
                };
                text(out, open);
                out.extend_from_slice(cell);
                text(out, close);
            }
            text(out, "</tr>\n");
        }
        text(out, "</tbody></table>\n");
    }
}

fn cell(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut cell = Vec::new();
    write(&mut cell);
    cell
}

fn state(node: &Report) -> &'static str {
    match (node.is_own, node.is_up) {
        (true, _) => "self",
        (false, true) => "up",
        (false, false) => "down",
    }
}

/// How the other nodes are.
fn nodes(overview: &Overview) -> Table {
    let titles = &["#", "node", "id", "state", "tables", "lag", "clock"];
    let mut table = Table::new(5, titles);
    for (number, node) in (1..).zip(&overview.nodes) {
        let told = |word: &str| word.as_bytes().to_vec();
        let tables = match (node.is_up, node.agrees) {
            (false, _) | (_, None) => "-",
            (true, Some(true)) => "agree",
            (true, Some(false)) => "differ",
        };
        let lag = |out: &mut Vec<u8>| match node.is_up {
            true => milliseconds(out, node.lag),
            false => out.push(b'-'),
        };
        let clock = |out: &mut Vec<u8>| match node.clock_offset {
            Some(offset) if node.is_up => write_offset(offset, out),
            _ => out.push(b'-'),
        };
        table.rows.push(vec![
            cell(|out| fill(out, "$", &[number])),
            node.address.to_string().into_bytes(),
            cell(|out| match node.id {
                0 => out.push(b'-'),
                id => write_id(id, out),
            }),
            told(state(node)),
            told(tables),
            cell(lag),
            cell(clock),
        ]);
    }
    table
}

/// What went back and forth.
fn traffic(overview: &Overview) -> Table {
    let titles = &[
        "#",
        "records in",
        "out",
        "bytes in",
        "out",
        "repaired in",
        "out",
        "gaps",
        "resent",
        "lost",
    ];
    let mut table = Table::new(1, titles);
    for (number, node) in (1..).zip(&overview.nodes) {
        let c = &node.counters;
        let count = |n: u64| cell(|out| short_number(out, hundredths(n)));
        table.rows.push(vec![
            cell(|out| fill(out, "$", &[number])),
            count(c.records_in),
            count(c.records_out),
            cell(|out| bytes(out, c.bytes_in)),
            cell(|out| bytes(out, c.bytes_out)),
            count(c.repairs_in),
            count(c.repairs_out),
            count(c.gaps),
            count(c.resends),
            count(c.lost),
        ]);
    }
    table
}

/// Appends what the status page has of it: the tables, below what they come to.
pub fn write_html(overview: &Overview, out: &mut Vec<u8>) {
    text(out, "<h2>Cluster</h2>\n<details open><summary>");
    write_verdict(overview, out);
    text(out, "</summary>\n");
    for table in [nodes(overview), traffic(overview)] {
        table.write_html(out);
    }
    text(out, "</details>\n");
}

/// A line for whoever sent something that was dropped.
fn write_rejections(overview: &Overview, out: &mut Vec<u8>) {
    let mut is_first = true;
    let nodes = overview.nodes.iter();
    let nodes = nodes.map(|node| (node.address.to_string(), node.counters.rejections));
    for (name, counts) in nodes.chain([("others".into(), overview.rejections)]) {
        if counts.iter().all(|&count| count == 0) {
            continue;
        }
        if std::mem::take(&mut is_first) {
            out.push(b'\n');
        }
        text(out, "dropped of ");
        text(out, &name);
        write_counts(&Rejection::NAMES, &counts, out);
    }
}

fn write_counts(names: &[&str], counts: &[u64], out: &mut Vec<u8>) {
    let mut before = ": ";
    for (name, &count) in names.iter().zip(counts) {
        if count > 0 {
            text(out, before);
            text(out, name);
            fill(out, " $", &[count]);
            before = ", ";
        }
    }
    out.push(b'\n');
}

fn write_multicast(multicast: &Multicast, out: &mut Vec<u8>) {
    let m = multicast;
    let counts = [m.records_in, m.packets_in, m.records_out, m.packets_out];
    let line = "\nmulticast: records in $, in packets $; records out $, in packets $\n";
    fill(out, line, &counts);
    if m.ignored.iter().any(|&count| count > 0) {
        text(out, "dropped of multicast");
        write_counts(&Ignored::NAMES, &m.ignored, out);
    }
}

/// A name, what it means, further labels, and the number: none if there is none yet.
type Family<T> = (
    &'static str,
    &'static str,
    &'static [(&'static str, fn(&T) -> Option<Number>)],
);

/// Appends the families, each with a sample for each subject that has its number. `subjects` are with
/// their labels.
fn write_families<T>(families: &[Family<T>], subjects: &[(String, &T)], out: &mut Vec<u8>) {
    for (name, help, samples) in families {
        let mut has_begun = false;
        for (labels, subject) in subjects {
            for (more, number) in *samples {
                let Some(number) = number(subject) else {
                    continue;
                };
                if !std::mem::replace(&mut has_begun, true) {
                    begin_family(name, help, out);
                }
                sample(name, &[labels, more], number, out);
            }
        }
    }
}

/// Appends the cluster's metrics; without one that is little.
pub fn write_metrics(overview: Option<&Overview>, out: &mut Vec<u8>) {
    if overview.is_none_or(|overview| overview.count(|node| node.is_up) == 0) {
        begin_family(LAG, LAG_HELP, out);
        sample(LAG, &[], Number::Count(0), out);
    }
    let Some(overview) = overview else {
        return;
    };
    write_families(OWN, &[(String::new(), overview)], out);
    let labelled = overview.others().map(|node| (labels(node), node));
    let unresolved = overview.unresolved.iter();
    let unresolved = unresolved.map(|name| (labels_of(name, 0), &NOBODY));
    write_families(NODES, &labelled.chain(unresolved).collect::<Vec<_>>(), out);
    write_rejected(overview, out);
    if let Some(multicast) = &overview.multicast {
        write_families(MULTICAST, &[(String::new(), multicast)], out);
        let name = "multicast_ignored_packets_total";
        begin_family(
            name,
            "Packets of the multicast group that were not taken.",
            out,
        );
        write_reasons(name, "", &Ignored::NAMES, &multicast.ignored, out);
    }
}

/// An address is not enough: a node may come from where another one was.
fn labels(node: &Report) -> String {
    labels_of(&node.address.to_string(), node.id)
}

fn labels_of(name: &str, id: u64) -> String {
    let mut digits = Vec::new();
    write_id(id, &mut digits);
    let id = String::from_utf8(digits).unwrap_or_default();
    format!("node=\"{name}\",id=\"{id}\"")
}

fn write_rejected(overview: &Overview, out: &mut Vec<u8>) {
    let name = "sync_rejected_packets_total";
    begin_family(
        name,
        "Packets that were dropped; others' are of no known node.",
        out,
    );
    for node in overview.others() {
        let counts = &node.counters.rejections;
        write_reasons(name, &labels(node), &Rejection::NAMES, counts, out);
    }
    let counts = &overview.rejections;
    write_reasons(name, "node=\"others\"", &Rejection::NAMES, counts, out);
    let name = "sync_unsent_packets_total";
    begin_family(name, "Packets that did not leave.", out);
    write_reasons(name, "", &UNSENT, &overview.unsent, out);
}

fn write_reasons(name: &str, labels: &str, reasons: &[&str], counts: &[u64], out: &mut Vec<u8>) {
    for (reason, &count) in reasons.iter().zip(counts) {
        let reason = ["reason=\"", reason, "\""].concat();
        sample(name, &[labels, &reason], Number::Count(count), out);
    }
}

const fn count(n: u64) -> Option<Number> {
    Some(Number::Count(n))
}

fn thousandths(n: u64) -> Option<Number> {
    Some(Number::Thousandths(i64::try_from(n).unwrap_or(i64::MAX)))
}

#[rustfmt::skip]
const OWN: &[Family<Overview>] = &[
    ("cluster_time_offset_seconds", "By how much the cluster's time is ahead of the host's clock.", &[
        ("", |o| Some(Number::Thousandths(o.ahead))),
    ]),
    ("sync_pending_changes", "Changes that wait to be told to other nodes.", &[
        ("", |o| count(o.pending)),
    ]),
    ("sync_untold_changes_total", "Changes that were too many to be told, and left to repair.", &[
        ("", |o| count(o.untold)),
    ]),
    ("sync_joining", "1 while the node is to have the table from another one.", &[
        ("", |o| count(o.is_joining.into())),
    ]),
    ("sync_digests_ready", "1 if tables can be compared; 0 while digests are made anew.", &[
        ("", |o| count(o.is_counted.into())),
    ]),
];

#[rustfmt::skip]
const NODES: &[Family<Report>] = &[
    ("sync_up", "1 if the node was heard in the last seconds.", &[
        ("", |n| count(n.is_up.into())),
    ]),
    ("sync_agrees", "1 if its table was the same when last compared; not there before that.", &[
        ("", |n| count(n.agrees.filter(|_| n.is_up)?.into())),
    ]),
    (LAG, LAG_HELP, &[
        ("", |n| thousandths(if n.is_up { n.lag } else { return None })),
    ]),
    ("sync_clock_offset_seconds", "By how much the node's cluster time is ahead of the own.", &[
        ("", |n| Some(Number::Thousandths(n.clock_offset?))),
    ]),
    ("sync_received_packets_total", "Genuine packets from the node.", &[
        ("", |n| count(n.counters.packets_in)),
    ]),
    ("sync_sent_packets_total", "Packets to the node.", &[
        ("", |n| count(n.counters.packets_out)),
    ]),
    ("sync_received_bytes_total", "Bytes of those, without headers of UDP and IP.", &[
        ("", |n| count(n.counters.bytes_in)),
    ]),
    ("sync_sent_bytes_total", "Bytes of those, without headers of UDP and IP.", &[
        ("", |n| count(n.counters.bytes_out)),
    ]),
    ("sync_received_records_total", "Changes that the node told.", &[
        ("", |n| count(n.counters.records_in)),
    ]),
    ("sync_sent_records_total", "Changes that the node was told.", &[
        ("", |n| count(n.counters.records_out)),
    ]),
    ("sync_received_repairs_total", "Peers that repair brought from the node.", &[
        ("", |n| count(n.counters.repairs_in)),
    ]),
    ("sync_sent_repairs_total", "Peers that repair sent to the node.", &[
        ("", |n| count(n.counters.repairs_out)),
    ]),
    ("sync_sent_repair_bytes_total", "Bytes that repair sent to the node, digests included.", &[
        ("", |n| count(n.counters.repair_bytes_out)),
    ]),
    ("sync_gaps_total", "Batches of the node that did not come in order, or not at all.", &[
        ("", |n| count(n.counters.gaps)),
    ]),
    ("sync_resends_total", "Batches sent again as the node asked for them.", &[
        ("", |n| count(n.counters.resends)),
    ]),
    ("sync_lost_batches_total", "Batches of the node that were given up, and left to repair.", &[
        ("", |n| count(n.counters.lost)),
    ]),
];

const LAG: &str = "sync_lag_seconds";
const LAG_HELP: &str =
    "From the first announce in a node's last batch to its arrival; 0 without a cluster.";

#[rustfmt::skip]
const MULTICAST: &[Family<Multicast>] = &[
    ("multicast_received_packets_total", "Packets of opentracker's live sync that were taken.", &[
        ("", |m| count(m.packets_in)),
    ]),
    ("multicast_sent_packets_total", "Packets of opentracker's live sync.", &[
        ("", |m| count(m.packets_out)),
    ]),
    ("multicast_received_records_total", "Peers in those that were taken.", &[
        ("", |m| count(m.records_in)),
    ]),
    ("multicast_sent_records_total", "Peers in those that were sent.", &[
        ("", |m| count(m.records_out)),
    ]),
];

#[cfg(test)]
mod tests;
