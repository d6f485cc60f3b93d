//! What each of several processes has for itself, as metrics. Sums of all are under the same names as those
//! of a process alone.

use super::metrics::{Number, begin_family, sample};
use crate::proto::bencode::decimal;
use crate::worker::board::Counts;

/// A name, a help, and numbers with their labels.
type Family = (&'static str, &'static str, &'static [Sample]);
type Sample = (&'static str, fn(&Counts) -> u64);

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    ("worker_requests_total", "Requests that a worker has answered.", &[
        ("protocol=\"udp\"", |c| c.counters.udp_requests()),
        ("protocol=\"http\"", |c| c.counters.http_requests()),
    ]),
    ("worker_connections", "TCP connections that a worker has open.", &[
        ("", |c| c.gauges.connections),
    ]),
    ("worker_resident_memory_bytes", "Memory of a worker.", &[
        ("", |c| c.gauges.resident),
    ]),
];

/// Appends all; nothing where there are no workers.
pub fn write(workers: &[Counts], out: &mut Vec<u8>) {
    if workers.is_empty() {
        return;
    }
    for (name, help, samples) in FAMILIES {
        begin_family(name, help, out);
        for (number, counts) in (0..).zip(workers) {
            let mut worker = b"worker=\"".to_vec();
            decimal(&mut worker, number);
            worker.push(b'"');
            let worker = String::from_utf8(worker).unwrap_or_default();
            for (label, count) in *samples {
                sample(name, &[&worker, label], Number::Count(count(counts)), out);
            }
        }
    }
}
