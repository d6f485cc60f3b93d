//! Every number under a name, in one table: for Prometheus in its text format, and for the log. Those of
//! other nodes, of which there are as many as there are nodes, are with the [`cluster`].

use super::modes::padded;
use super::people::text;
use super::{Counters, View, cluster, fill};
use crate::log;

/// A name and its numbers. Names are of Prometheus's kind: base units, `_total` for what only grows.
struct Family {
    name: &'static str,
    help: &'static str,
    samples: &'static [Sample],
}

/// The labels, what the number is called in the log (if it is there), and the number.
type Sample = (&'static str, &'static str, fn(&View) -> u64);

const fn family(name: &'static str, help: &'static str, samples: &'static [Sample]) -> Family {
    Family {
        name,
        help,
        samples,
    }
}

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    family("build_info", "1; the label tells the version.", &[
        (concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), "", |_| 1),
    ]),
    family("start_time_seconds", "When the process started, since 1970.", &[
        ("", "", |v| v.monitor.started),
    ]),
    family("torrents", "Torrents in the table.", &[
        ("", "torrents", |v| v.totals.torrents as u64),
    ]),
    family("peers", "Peers in the table.", &[
        ("family=\"ipv4\",role=\"leecher\"", "leechers4", |v| v.peers[0] as u64),
        ("family=\"ipv4\",role=\"seeder\"", "seeders4", |v| v.peers[1] as u64),
        ("family=\"ipv6\",role=\"leecher\"", "leechers6", |v| v.peers[2] as u64),
        ("family=\"ipv6\",role=\"seeder\"", "seeders6", |v| v.peers[3] as u64),
    ]),
    family("table_bytes", "Bytes of the table.", &[
        ("part=\"torrents\"", "", |v| v.table_bytes[0] as u64),
        ("part=\"swarms\"", "", |v| v.table_bytes[1] as u64),
    ]),
    family("resident_memory_bytes", "Memory of the process.", &[
        ("", "", |v| v.monitor.resident.bytes()),
    ]),
    family("connections", "TCP connections that are open.", &[
        ("", "connections", |v| v.monitor.connections() as u64),
    ]),
    family("connections_accepted_total", "TCP connections that were accepted.", &[
        ("", "tcp-accepted", |v| v.counters.tcp_accepted),
    ]),
    family("connections_evicted_total", "TCP connections closed early to make room.", &[
        ("", "tcp-evicted", |v| v.counters.tcp_evicted),
    ]),
    family("requests_total", "Requests that were answered.", &[
        ("protocol=\"udp\",kind=\"connect\"", "udp-connects", |v| v.counters.udp_connects),
        ("protocol=\"udp\",kind=\"announce\"", "udp-announces", |v| v.counters.udp_announces),
        ("protocol=\"udp\",kind=\"scrape\"", "udp-scrapes", |v| v.counters.udp_scrapes),
        ("protocol=\"http\",kind=\"announce\"", "http-announces", |v| v.counters.http_announces),
        ("protocol=\"http\",kind=\"scrape\"", "http-scrapes", |v| v.counters.http_scrapes),
        ("protocol=\"http\",kind=\"full_scrape\"", "", |v| v.counters.full_scrapes),
        ("protocol=\"http\",kind=\"other\"", "", |v| v.counters.http_others),
    ]),
    family("errors_total", "Requests that were refused, and what was no request.", &[
        ("protocol=\"udp\",kind=\"connection_id\"", "udp-strangers", |v| v.counters.udp_strangers),
        ("protocol=\"udp\",kind=\"unauthorized\"", "udp-unauthorized", |v| v.counters.udp_unauthorized),
        ("protocol=\"udp\",kind=\"invalid\"", "udp-invalid", |v| v.counters.udp_invalid),
        ("protocol=\"http\",kind=\"unauthorized\"", "http-unauthorized", |v| v.counters.http_unauthorized),
        ("protocol=\"http\",kind=\"failure_reason\"", "http-refused", |v| v.counters.http_refused),
        ("protocol=\"http\",kind=\"bad_request\"", "", |v| v.counters.http_error(400)),
        ("protocol=\"http\",kind=\"forbidden\"", "", |v| v.counters.http_error(403)),
        ("protocol=\"http\",kind=\"not_found\"", "", |v| v.counters.http_error(404)),
        ("protocol=\"http\",kind=\"method_not_allowed\"", "", |v| v.counters.http_error(405)),
        ("protocol=\"http\",kind=\"too_many_requests\"", "", |v| v.counters.http_error(429)),
        ("protocol=\"http\",kind=\"head_too_large\"", "", |v| v.counters.http_error(431)),
        ("protocol=\"http\",kind=\"unavailable\"", "", |v| v.counters.http_error(503)),
        // The sum of the six above.
        ("", "http-errors", |v| v.counters.http_failures()),
    ]),
    family("received_bytes_total", "Bytes of requests.", &[
        ("protocol=\"udp\"", "", |v| v.counters.udp_received),
        ("protocol=\"http\"", "", |v| v.counters.tcp_received),
    ]),
    family("sent_bytes_total", "Bytes of replies.", &[
        ("protocol=\"udp\"", "", |v| v.counters.udp_sent),
        ("protocol=\"http\"", "", |v| v.counters.tcp_sent),
    ]),
    family("dropped_replies_total", "UDP replies that did not leave.", &[
        ("reason=\"no_room\"", "udp-dropped", |v| v.counters.udp_dropped),
        ("reason=\"refused\"", "udp-refused", |v| v.counters.udp_refused),
    ]),
    family("completed_total", "Peers that were seen to complete a torrent.", &[
        ("", "completed", |v| v.tally.completed),
    ]),
    family("renewals_total", "Announces of peers that were known.", &[
        ("", "", |v| v.tally.renewals.iter().sum()),
    ]),
    family("full_scrape_bytes_total", "Bytes of full scrapes.", &[
        ("", "", |v| v.counters.full_scrape_bytes),
    ]),
    family("synced_peers_total", "Peers that other nodes told of; 0 without a cluster.", &[
        ("", "synced", |v| v.synced()),
    ]),
];

/// Samples of the log alone have no labels in a family where others have some.
fn is_exported(family: &Family, labels: &str) -> bool {
    !labels.is_empty() || family.samples.len() == 1
}

/// A number of a sample.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    Count(u64),
    Thousandths(i64),
}

/// Appends the lines ahead of a family's samples. What only grows is a counter, by its name.
pub fn begin_family(name: &str, help: &str, out: &mut Vec<u8>) {
    let kind = match name.ends_with("_total") {
        true => " counter\n",
        false => " gauge\n",
    };
    for part in ["# HELP announced_", name, " ", help] {
        text(out, part);
    }
    for part in ["\n# TYPE announced_", name, kind] {
        text(out, part);
    }
}

/// Appends a sample, with labels as they are written between braces.
pub fn sample(name: &str, labels: &[&str], number: Number, out: &mut Vec<u8>) {
    text(out, "announced_");
    text(out, name);
    let mut labels = labels.iter().filter(|label| !label.is_empty());
    if let Some(label) = labels.next() {
        text(out, "{");
        text(out, label);
        for label in labels {
            text(out, ",");
            text(out, label);
        }
        text(out, "}");
    }
    match number {
        Number::Count(count) => fill(out, " $\n", &[count]),
        Number::Thousandths(number) => {
            text(out, if number < 0 { " -" } else { " " });
            let number = number.unsigned_abs();
            fill(out, "$.", &[number / 1000]);
            padded(out, number % 1000, 3);
            text(out, "\n");
        }
    }
}

/// Appends all in Prometheus's text format, version 0.0.4.
pub fn write(view: &View, out: &mut Vec<u8>) {
    for family in FAMILIES {
        begin_family(family.name, family.help, out);
        for &(labels, _, number) in family.samples {
            if is_exported(family, labels) {
                sample(family.name, &[labels], Number::Count(number(view)), out);
            }
        }
    }
    write_threads(&view.threads, out);
    cluster::write_metrics(view.cluster.as_ref(), out);
}

/// Appends the requests that each thread has answered, which show how evenly the system spreads them; nothing
/// where there is one thread.
fn write_threads(threads: &[Counters], out: &mut Vec<u8>) {
    if threads.is_empty() {
        return;
    }
    let name = "thread_requests_total";
    begin_family(name, "Valid requests that each thread has answered.", out);
    for (number, counters) in threads.iter().enumerate() {
        let thread = format!("thread=\"{number}\"");
        for (label, count) in [
            ("protocol=\"udp\"", counters.udp_requests()),
            ("protocol=\"http\"", counters.http_requests()),
        ] {
            sample(name, &[&thread, label], Number::Count(count), out);
        }
    }
}

/// The counts for the log, in one line or, where they are too long for it, in several.
pub fn log_lines(view: &View) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let samples = FAMILIES.iter().flat_map(|family| family.samples);
    for (_, name, number) in samples.filter(|(_, name, _)| !name.is_empty()) {
        let count = format!("{name} {}", number(view));
        match lines.last_mut() {
            Some(line) if line.len() + 2 + count.len() <= log::ROOM => {
                line.push_str(", ");
                line.push_str(&count);
            }
            _ => lines.push(count),
        }
    }
    lines
}
