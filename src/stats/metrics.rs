//! All numbers by name, for Prometheus and for the log.
//!
//! A table of metrics is a text: of each family a line with `#`, name and help, then a line for each sample with its
//! name in the log and its labels. As structs and closures the tables took 8 KiB more, half of it relocations. The
//! macro [`metrics!`] makes the text of a table, and a function that collects its numbers, from the same rows.

use super::counters::{COUNTERS, Counters, counts};
use super::{View, cluster};
use crate::base::job::{Job, Run};
use crate::base::log;
use crate::base::text::{decimal, fill, padded, text, texts};
use crate::sys::process;

/// Declares a table, and the function that collects its numbers. Samples named `_` are not logged.
macro_rules! metrics {
    ($table:ident, $numbers:ident($source:ident: $type:ty) -> $number_type:ty;
     $($family:literal $help:literal { $($name:tt $labels:literal = $number:expr;)+ })+) => {
        pub(super) const $table: &str = concat!($(
            "# ", $family, " ", $help, "\n", $(stringify!($name), " ", $labels, "\n",)+
        )+);

        pub(super) fn $numbers($source: $type) -> Vec<$number_type> {
            vec![$($($number,)+)+]
        }
    };
}

pub(super) use metrics;

#[rustfmt::skip]
metrics! {
    GAUGES, gauges(view: &View) -> Option<Number>;
    "start_time_seconds" "Time of the start of the process, in seconds since 1970."
        { _ "" = some(view.monitor.started); }
    "torrents" "Torrents stored." { torrents "" = whole(view.totals.torrents); }
    "peers" "Peers stored." {
        leechers4 "family=ipv4,role=leecher" = whole(view.peers[0]);
        seeders4 "family=ipv4,role=seeder" = whole(view.peers[1]);
        leechers6 "family=ipv6,role=leecher" = whole(view.peers[2]);
        seeders6 "family=ipv6,role=seeder" = whole(view.peers[3]);
    }
    "interval_seconds" "The interval that clients are told." { interval "" = some(view.interval.into()); }
    "max_torrents" "Torrents that are stored at most." { _ "" = whole(view.limits.max_torrents); }
    "max_peers" "Peers that are stored at most." { _ "" = whole(view.limits.max_peers); }
    "table_bytes" "Memory of the table of torrents and peers." {
        _ "part=torrents" = Some(Bytes(view.table_bytes[0] as u64));
        _ "part=swarms" = Some(Bytes(view.table_bytes[1] as u64));
    }
    "resident_memory_bytes" "Resident memory of the process."
        { _ "" = Some(Bytes(view.monitor.resident.bytes())); }
    "cpu_seconds_total" "CPU time of the process." { _ "" = Some(Milliseconds(process::cpu_ms())); }
    "descriptors" "Open descriptors of the process." { _ "" = some(view.monitor.descriptors.count()); }
    "max_descriptors" "The limit of open descriptors." { _ "" = some(view.monitor.max_descriptors); }
    "connections" "Open TCP connections." { connections "" = whole(view.monitor.connections()); }
    "max_connections" "TCP connections that may be open at once." { _ "" = whole(view.monitor.max_connections()); }
    "log_dropped_lines_total" "Log lines that were not written, as the log had no room."
        { dropped "" = some(log::dropped()); }
    "list_hashes" "Info-hashes in the file of the list." { _ "" = view.list.and_then(|list| whole(list.hashes)); }
    "list_changes" "Changes made to the list through FIFOs since it was loaded."
        { _ "" = view.list.and_then(|list| whole(list.changes)); }
    "list_load_time_seconds" "Time of the end of the last load of the list, in seconds since 1970."
        { _ "" = ended(view, &view.monitor.loads); }
    "list_load_success" "1 if the last load of the list succeeded, else 0."
        { _ "" = succeeded(&view.monitor.loads); }
    "list_load_duration_seconds" "Duration of the last load of the list." { _ "" = took(&view.monitor.loads); }
    "state_save_time_seconds" "Time of the end of the last save of the state, or else of the start."
        { _ "" = ended(view, &view.monitor.saves); }
    "state_save_success" "1 if the last save of the state succeeded, else 0."
        { _ "" = succeeded(&view.monitor.saves); }
    "state_save_duration_seconds" "Duration of the last save of the state." { _ "" = took(&view.monitor.saves); }
    "completed_total" "Peers that completed a torrent." { completed "" = some(view.tally.completed); }
    "renewals_total" "Announces of peers that were known." { renewals "" = some(view.tally.renewals.iter().sum()); }
    "refused_peers_total" "Peers that announced and were not stored." {
        refused "reason=full" = some(view.tally.refused[0]);
        refused "reason=no_memory" = some(view.tally.refused[1]);
    }
    "synced_peers_total" "Peers received from other nodes; 0 without a cluster." { synced "" = some(view.synced()); }
}

fn some(number: u64) -> Option<Number> {
    Some(Count(number))
}

fn whole(number: usize) -> Option<Number> {
    some(number as u64)
}

fn last(job: &Option<Job>) -> Option<Run> {
    job.as_ref().map(Job::last)
}

/// Of the start before the first run, so that an alert on its age needs no exception.
fn ended(view: &View, job: &Option<Job>) -> Option<Number> {
    last(job).map(|run| Count(run.ended.max(view.monitor.started)))
}

fn succeeded(job: &Option<Job>) -> Option<Number> {
    last(job).map(|run| Count((!run.has_failed).into()))
}

fn took(job: &Option<Job>) -> Option<Number> {
    last(job).map(|run| Milliseconds(run.took_ms))
}

/// A number by its unit.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Count(u64),
    Bytes(u64),
    Milliseconds(u64),
    /// Milliseconds ahead.
    #[allow(dead_code, reason = "used by the `cluster` feature only")]
    Ahead(i64),
}

use Number::{Ahead, Bytes, Count, Milliseconds};

impl Number {
    /// Appends the number of a metric, whose base unit of time is the second.
    pub(super) fn write_base(self, out: &mut Vec<u8>) {
        let ms = match self {
            Count(number) | Bytes(number) => return decimal(out, number),
            Milliseconds(ms) => ms,
            Ahead(ms) => {
                text(out, if ms < 0 { "-" } else { "" });
                ms.unsigned_abs()
            }
        };
        fill(out, "$.", &[ms / 1000]);
        padded(out, ms % 1000, 3);
    }
}

/// A table, and its numbers. A sample that this node does not have has none.
pub(super) type Numbered = (&'static str, Vec<Option<Number>>);

pub(super) fn counted(table: &'static str, counts: Vec<u64>) -> Numbered {
    (table, counts.into_iter().map(some).collect())
}

/// A sample of a table, without its number.
pub struct Row<'a> {
    pub family: &'a str,
    pub help: &'a str,
    /// The name in the log.
    pub name: &'a str,
    pub labels: &'a str,
}

/// The samples of a table.
pub fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    let mut family = ("", "");
    table.lines().filter_map(move |line| {
        let (name, labels) = line.split_once(' ')?;
        if name == "#" {
            family = labels.split_once(' ')?;
            return None;
        }
        let (family, help) = family;
        Some(Row {
            family,
            help,
            name,
            labels,
        })
    })
}

/// Appends the lines ahead of a family's samples. A family is a counter if its name ends with `_total`.
pub fn write_family(out: &mut Vec<u8>, family: &str, help: &str) {
    let is_counter = family.ends_with("_total");
    let kind = if is_counter { " counter\n" } else { " gauge\n" };
    texts(out, &["# HELP announced_", family, " ", help]);
    texts(out, &["\n# TYPE announced_", family, kind]);
}

/// Appends a sample up to its number. The name of a node, if there is one, is escaped and becomes another label.
pub fn write_name(out: &mut Vec<u8>, family: &str, node: &str, labels: &str) {
    texts(out, &["announced_", family]);
    let node = Some(("node", node)).filter(|_| !node.is_empty());
    let labels = labels.split(',').filter_map(|label| label.split_once('='));
    let mut start = "{";
    for (name, value) in node.into_iter().chain(labels) {
        texts(out, &[start, name, "=\"", value, "\""]);
        start = ",";
    }
    text(out, if start == "{" { " " } else { "} " });
}

fn write_sample(out: &mut Vec<u8>, family: &str, labels: &str, number: Number) {
    write_name(out, family, "", labels);
    number.write_base(out);
    text(out, "\n");
}

pub(super) fn write_table(out: &mut Vec<u8>, (table, numbers): Numbered) {
    let mut family = "";
    for (row, number) in rows(table).zip(numbers) {
        let Some(number) = number else { continue };
        if row.family != family {
            family = row.family;
            write_family(out, family, row.help);
        }
        write_sample(out, family, row.labels, number);
    }
}

/// All tables but those of the other nodes.
fn tables(view: &View) -> Vec<Numbered> {
    let cluster = view.cluster.as_ref().map(cluster::tables);
    let own = [
        (GAUGES, gauges(view)),
        counted(COUNTERS, counts(&view.counters)),
    ];
    own.into_iter()
        .chain(cluster.into_iter().flatten())
        .collect()
}

/// Appends all metrics in Prometheus's text format, version 0.0.4. Names of other nodes are for admins.
pub fn write(view: &View, is_admin: bool, out: &mut Vec<u8>) {
    const VERSION: &str = concat!("version=", env!("CARGO_PKG_VERSION"));
    write_family(out, "build_info", "1; the label is the version.");
    write_sample(out, "build_info", VERSION, Count(1));
    for table in tables(view) {
        write_table(out, table);
    }
    write_threads(&view.threads, out);
    if let Some(overview) = view.cluster.as_ref().filter(|_| is_admin) {
        cluster::write_links(overview, out);
    }
}

/// The name of a metric, and the values of the labels of a sample.
fn path<'a>(row: &Row<'a>) -> Vec<&'a str> {
    let labels = row
        .labels
        .split(',')
        .filter_map(|label| label.split_once('='));
    let values = labels.map(|(_, value)| value);
    std::iter::once(row.family).chain(values).collect()
}

/// Appends the same as JSON, without the other nodes: an object in an object for each label.
pub(super) fn write_json(view: &View, out: &mut Vec<u8>) {
    text(
        out,
        concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\""),
    );
    let mut open: Vec<&str> = Vec::new();
    for (table, numbers) in tables(view) {
        for (row, number) in rows(table).zip(numbers) {
            let mut path = path(&row);
            let (Some(number), Some(last)) = (number, path.pop()) else {
                continue;
            };
            let common = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
            text(out, &"}".repeat(open.len() - common));
            let mut start = ",\"";
            for name in path.iter().skip(common) {
                texts(out, &[start, name, "\":{"]);
                start = "\"";
            }
            texts(out, &[start, last, "\":"]);
            number.write_base(out);
            open = path;
        }
    }
    texts(out, &[&"}".repeat(open.len()), "}\n"]);
}

/// Appends the requests of each thread, which show how evenly the system spreads them; nothing with one thread.
fn write_threads(threads: &[Counters], out: &mut Vec<u8>) {
    let family = "thread_requests_total";
    for (number, counters) in threads.iter().enumerate() {
        if number == 0 {
            write_family(out, family, "Valid requests that each thread answered.");
        }
        for protocol in ["udp", "http"] {
            let labels = format!("thread={number},protocol={protocol}");
            let requests = counters.requests(protocol);
            write_sample(out, family, &labels, Count(requests));
        }
    }
}

/// The counts other than zero for the log, in one line or, where they are too long for it, in several. Their names are
/// those of the metrics, with the values of the labels behind them.
pub fn log_lines(view: &View) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let gauges = rows(GAUGES).zip(gauges(view));
    let counts = rows(COUNTERS).zip(counted(COUNTERS, counts(&view.counters)).1);
    for (row, number) in gauges.chain(counts) {
        let (false, Some(Count(number @ 1..))) = (row.name == "_", number) else {
            continue;
        };
        let entry = format!("{} {number}", path(&row).join("."));
        match lines.last_mut() {
            Some(line) if line.len() + 2 + entry.len() <= log::ROOM => {
                line.push_str(", ");
                line.push_str(&entry);
            }
            _ => lines.push(entry),
        }
    }
    lines
}
