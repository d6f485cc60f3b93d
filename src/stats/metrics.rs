//! All numbers by name, for Prometheus and for the log.
//!
//! A table of metrics is a text: of each family a line with `#`, name and help, then a line for each sample with its
//! name in the log and its labels. As structs and closures the tables took 8 KiB more, half of it relocations. The
//! macro [`metrics!`] makes the text of a table, and a function that collects its numbers, from the same rows.

use super::counters::{COUNTERS, Counters, counts};
use super::{View, cluster};
use crate::base::log;
use crate::base::text::{decimal, text, texts};

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
    GAUGES, gauges(view: &View) -> u64;
    "start_time_seconds" "Time of the start of the process, in seconds since 1970." { _ "" = view.monitor.started; }
    "torrents" "Torrents stored." { torrents "" = view.totals.torrents as u64; }
    "peers" "Peers stored." {
        leechers4 "family=ipv4,role=leecher" = view.peers[0] as u64;
        seeders4 "family=ipv4,role=seeder" = view.peers[1] as u64;
        leechers6 "family=ipv6,role=leecher" = view.peers[2] as u64;
        seeders6 "family=ipv6,role=seeder" = view.peers[3] as u64;
    }
    "table_bytes" "Memory of the table of torrents and peers." {
        _ "part=torrents" = view.table_bytes[0] as u64;
        _ "part=swarms" = view.table_bytes[1] as u64;
    }
    "resident_memory_bytes" "Resident memory of the process." { _ "" = view.monitor.resident.bytes(); }
    "connections" "Open TCP connections." { connections "" = view.monitor.connections() as u64; }
    "completed_total" "Peers that completed a torrent." { completed "" = view.tally.completed; }
    "renewals_total" "Announces of peers that were known." { renewals "" = view.tally.renewals.iter().sum(); }
    "synced_peers_total" "Peers received from other nodes; 0 without a cluster." { synced "" = view.synced(); }
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

fn write_sample(out: &mut Vec<u8>, family: &str, labels: &str, number: u64) {
    write_name(out, family, "", labels);
    decimal(out, number);
    text(out, "\n");
}

pub fn write_table(out: &mut Vec<u8>, table: &str, numbers: &[u64]) {
    let mut family = "";
    for (row, number) in rows(table).zip(numbers) {
        if row.family != family {
            family = row.family;
            write_family(out, family, row.help);
        }
        write_sample(out, family, row.labels, *number);
    }
}

/// Appends all metrics in Prometheus's text format, version 0.0.4. Names of other nodes are for admins.
pub fn write(view: &View, is_admin: bool, out: &mut Vec<u8>) {
    const VERSION: &str = concat!("version=", env!("CARGO_PKG_VERSION"));
    write_family(out, "build_info", "1; the label is the version.");
    write_sample(out, "build_info", VERSION, 1);
    write_table(out, GAUGES, &gauges(view));
    write_table(out, COUNTERS, &counts(&view.counters));
    write_threads(&view.threads, out);
    if let Some(overview) = &view.cluster {
        cluster::write_metrics(overview, is_admin, out);
    }
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
            write_sample(out, family, &labels, counters.requests(protocol));
        }
    }
}

/// The numbers other than zero for the log, in one line or, where they are too long for it, in several.
pub fn log_lines(view: &View) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let gauges = rows(GAUGES).zip(gauges(view));
    let counts = rows(COUNTERS).zip(counts(&view.counters));
    for (row, number) in gauges.chain(counts) {
        if row.name == "_" || number == 0 {
            continue;
        }
        let entry = format!("{} {number}", row.name.replace('_', "-"));
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
