//! The reports of `/stats?mode=`, with opentracker's names and, line for line, its formats: scripts have read them for
//! many years. The name "opentracker" in them is part of the format.
//!
//! The formats are those of Debian's opentracker of 2021. A test compares the two programs.

use super::metrics::write_json;
use super::walks::TableWalk;
use super::{View, cluster};
use crate::base::random::Random;
use crate::base::text::{fill, padded, text, texts};
use crate::tracker::{LIFE, Tally};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub struct Mode {
    pub name: &'static str,
    /// Whether it names torrents or peers: then it is for admins only.
    pub is_private: bool,
    pub report: Report,
}

#[derive(Clone, Copy)]
pub enum Report {
    Text(fn(&View, &mut Vec<u8>)),
    Json(fn(&View, &mut Vec<u8>)),
    /// The status page.
    Html,
    /// The result of a walk over the table.
    Walk(fn(&mut Random) -> TableWalk),
    /// Every torrent, in the format of the parameter `format`.
    Torrents,
    /// Every torrent, as opentracker saves and loads them.
    State,
    /// Opentracker accepts the name, but no longer has the report.
    Gone,
}

use Report::{Gone, Html, Json, State, Text, Torrents, Walk};

/// All modes. The first is the default.
pub const MODES: &[Mode] = &[
    mode("peer", PUBLIC, Text(peers)),
    mode(
        "conn",
        PUBLIC,
        Text(|view, out| mrtg(view, out, both(view), CONNECTIONS, &both(view))),
    ),
    mode("scrp", PUBLIC, Text(scrapes)),
    mode(
        "udp4",
        PUBLIC,
        Text(|view, out| mrtg(view, out, udp(view), UDP, &udp(view))),
    ),
    mode(
        "tcp4",
        PUBLIC,
        Text(|view, out| mrtg(view, out, tcp(view), TCP, &tcp(view))),
    ),
    mode("torr", PUBLIC, Text(torrents)),
    mode("fscr", PUBLIC, Text(full_scrapes)),
    mode("herr", PUBLIC, Text(http_errors)),
    mode("completed", PUBLIC, Text(completed)),
    mode("renew", PUBLIC, Text(renewals)),
    mode("syncs", PUBLIC, Text(synced)),
    mode("s24s", PRIVATE, Walk(TableWalk::networks)),
    mode("top10", PRIVATE, Walk(|_| TableWalk::top(10))),
    mode("top100", PRIVATE, Walk(|_| TableWalk::top(100))),
    mode("woodpeckers", PRIVATE, Text(woodpeckers)),
    mode("version", PUBLIC, Text(|_, out| text(out, VERSION))),
    mode("everything", PUBLIC, Text(everything)),
    mode("numwants", PUBLIC, Text(numwants)),
    mode("cluster", PRIVATE, Text(cluster::report)),
    mode("html", PUBLIC, Html),
    mode("json", PUBLIC, Json(write_json)),
    mode("tpbs", PRIVATE, Torrents),
    mode("statedump", PRIVATE, State),
    mode("busy", PUBLIC, Gone),
    mode("fulllog", PUBLIC, Gone),
];

const PUBLIC: bool = false;
const PRIVATE: bool = true;

const fn mode(name: &'static str, is_private: bool, report: Report) -> Mode {
    Mode {
        name,
        is_private,
        report,
    }
}

pub fn find(name: &[u8]) -> Option<&'static Mode> {
    MODES.iter().find(|mode| mode.name.as_bytes() == name)
}

const VERSION: &str = concat!("announced ", env!("CARGO_PKG_VERSION"), "\n");

/// Titles of MRTG's graphs.
const CONNECTIONS: &str = " connections, $ conns/s :: $ success/s.";
const UDP: &str = " udp4 stats, $ conns/s :: $ success/s.";
const TCP: &str = " tcp4 stats, $ conns/s :: $ success/s.";

/// The format that MRTG reads: two counts, the time that they took, and a title with counts as rates.
fn mrtg(view: &View, out: &mut Vec<u8>, [first, second]: [u64; 2], title: &str, rates: &[u64]) {
    let seconds = view.uptime();
    let numbers = [first, second, seconds, seconds / 3600];
    fill(out, "$\n$\n$ seconds ($ hours)\nopentracker", &numbers);
    let rate = |count: &u64| count / seconds.max(1);
    fill(out, title, &rates.iter().map(rate).collect::<Vec<_>>());
}

/// Arrivals and successes.
fn tcp(view: &View) -> [u64; 2] {
    [view.counters.tcp_accepted, view.counters.http_announces]
}

fn udp(view: &View) -> [u64; 2] {
    let c = &view.counters;
    let packets = c.requests("udp") + c.udp_strangers + c.udp_invalid;
    [packets, c.udp_announces + c.udp_connects]
}

fn both(view: &View) -> [u64; 2] {
    let (tcp, udp) = (tcp(view), udp(view));
    [tcp[0] + udp[0], tcp[1] + udp[1]]
}

/// Peers received from other nodes. As in opentracker, the rates are those of all connections.
fn synced(view: &View, out: &mut Vec<u8>) {
    mrtg(view, out, [view.synced(), 0], CONNECTIONS, &both(view));
}

fn scrapes(view: &View, out: &mut Vec<u8>) {
    let counts = [view.counters.http_scrapes, view.counters.udp_scrapes];
    let title = " scrape stats, $ scrape/s (tcp and udp)";
    mrtg(view, out, counts, title, &[counts.iter().sum()]);
}

/// The first count is in thousandths, so that MRTG's graph of it is not flat.
fn full_scrapes(view: &View, out: &mut Vec<u8>) {
    let (count, bytes) = (view.counters.full_scrapes, view.counters.full_scrape_bytes);
    let counts = [count.saturating_mul(1000), bytes];
    let title = " full scrape stats, $ conns/s :: $ bytes/s.";
    mrtg(view, out, counts, title, &[count, bytes]);
}

fn completed(view: &View, out: &mut Vec<u8>) {
    let count = view.tally.completed;
    mrtg(view, out, [count, 0], "", &[]);
    let hours = view.uptime() / 3600;
    fill(out, ", $ completed/h.", &[count / hours.max(1)]);
}

const SERVING: &str = "$\n$\nopentracker serving $ torrents\nopentracker";

fn peers(view: &View, out: &mut Vec<u8>) {
    let [torrents, leechers, seeders] = totals(view);
    fill(out, SERVING, &[leechers + seeders, seeders, torrents]);
}

fn torrents(view: &View, out: &mut Vec<u8>) {
    let [torrents, ..] = totals(view);
    fill(out, SERVING, &[torrents, 0, torrents]);
}

fn totals(view: &View) -> [u64; 3] {
    let totals = &view.totals;
    [totals.torrents, totals.leechers, totals.seeders].map(|count| count as u64)
}

/// Errors in the order of [`XML_END`]. A failure reason counts as an invalid parameter, for which opentracker sends
/// 400.
fn errors(view: &View) -> [u64; 7] {
    let c = &view.counters;
    [
        c.http_redirects,
        c.http_bad_requests + c.http_wrong_methods + c.http_large_heads,
        c.http_failures,
        c.http_too_many,
        c.http_forbidden,
        c.http_not_found,
        c.http_unavailable,
    ]
}

/// Opentracker's seven kinds, which lack status 429.
fn http_errors(view: &View, out: &mut Vec<u8>) {
    let [found, invalid, failures, _, others @ ..] = errors(view);
    fill(
        out,
        "302 RED $\n400 ... $\n400 PAR $\n400 COM 0\n",
        &[found, invalid, failures],
    );
    fill(out, "403 IP  $\n404 INV $\n500 SRV $\n", &others);
}

/// Rows of minutes at most, as in opentracker.
const MAX_MINUTES: u64 = 180;

/// Renewals by the minutes since the peer's last announce: a row for each minute up to the peer timeout. The last row
/// includes all later ones.
fn renewals_by_minute(tally: &Tally) -> Vec<u64> {
    let timeout = tally.unit_ms * LIFE;
    let minutes = timeout.div_ceil(60_000).clamp(1, MAX_MINUTES);
    let mut before = 0;
    let row = |minute| {
        let is_last = minute == minutes;
        let until = if is_last { u64::MAX } else { minute * 60_000 };
        let count = renewals_within(tally, until);
        count - std::mem::replace(&mut before, count)
    };
    (1..=minutes).map(row).collect()
}

/// Renewals less than `ms` milliseconds after the last announce. They are counted by unit, which is nearly a minute by
/// default, and taken to be spread evenly over it: else some minutes would have two units and most one.
fn renewals_within(tally: &Tally, ms: u64) -> u64 {
    let unit_ms = tally.unit_ms;
    let within = |(age, count): (u64, u64)| {
        let part = ms.saturating_sub(age * unit_ms).min(unit_ms);
        count / unit_ms * part + count % unit_ms * part / unit_ms
    };
    (0..).zip(tally.renewals).map(within).sum()
}

fn renewals(view: &View, out: &mut Vec<u8>) {
    write_counts(out, &renewals_by_minute(&view.tally), "", 2, " $\n");
}

fn numwants(view: &View, out: &mut Vec<u8>) {
    write_counts(out, &view.counters.numwants, "", 3, " => $\n");
}

/// Appends a line for each count, with its index.
fn write_counts(out: &mut Vec<u8>, counts: &[u64], start: &str, digits: usize, end: &str) {
    for (index, &count) in (0..).zip(counts) {
        text(out, start);
        padded(out, index, digits);
        fill(out, end, &[count]);
    }
}

/// Rows in a ranking of networks.
pub(super) const MAX_NETWORKS: usize = 128;

/// The largest key of an IPv4 address: no IPv6 network begins with as many zeros.
const MAX_V4: u64 = u32::MAX as u64;

fn woodpeckers(view: &View, out: &mut Vec<u8>) {
    let woodpeckers = view.table.woodpeckers(view.table_now);
    let top = |is_listed: fn(u64) -> bool| {
        let woodpeckers = woodpeckers.as_ref();
        woodpeckers.map_or_else(Vec::new, |all| all.top(MAX_NETWORKS, is_listed))
    };
    networks(out, 32, &top(|key| key <= MAX_V4));
    networks(out, 64, &top(|key| key > MAX_V4));
}

/// Appends a table of networks with this prefix length and their counts.
pub(super) fn networks(out: &mut Vec<u8>, prefix: u64, counts: &[(u64, u32)]) {
    fill(out, "Networks, limit /$:\n", &[prefix]);
    for &(key, count) in counts {
        let address: IpAddr = match u32::try_from(key) {
            Ok(key) => Ipv4Addr::from_bits(key).into(),
            Err(_) => Ipv6Addr::from_bits(u128::from(key) << 64).into(),
        };
        padded(out, count.into(), 8);
        texts(out, &[": ", &address.to_string(), "\n"]);
    }
    text(out, "\n");
}

/// Opentracker's summary in XML, with its misspellings.
fn everything(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let [torrents, leechers, seeders] = totals(view);
    let numbers = [
        view.monitor.id.into(),
        view.uptime(),
        torrents,
        torrents,
        leechers + seeders,
        seeders,
        view.tally.completed,
        c.tcp_accepted,
        c.http_announces,
        c.http_scrapes,
        udp(view)[0],
        c.udp_connects,
        c.udp_announces,
        c.udp_scrapes,
        c.udp_strangers,
        view.synced(),
    ];
    fill(out, XML_START, &numbers);
    let rows = renewals_by_minute(&view.tally);
    write_counts(out, &rows, "      <count interval=\"", 2, "\">$</count>\n");
    fill(out, XML_END, &errors(view));
}

#[rustfmt::skip]
const XML_START: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<stats>\n  <tracker_id>$</tracker_id>\n",
    "  <version>\nannounced ", env!("CARGO_PKG_VERSION"), "\n  </version>\n  <uptime>$</uptime>\n",
    "  <torrents>\n    <count_mutex>$</count_mutex>\n    <count_iterator>$</count_iterator>\n  </torrents>\n",
    "  <peers>\n    <count>$</count>\n  </peers>\n  <seeds>\n    <count>$</count>\n  </seeds>\n",
    "  <completed>\n    <count>$</count>\n  </completed>\n",
    "  <connections>\n    <tcp>\n      <accept>$</accept>\n      <announce>$</announce>\n      <scrape>$</scrape>\n",
    "    </tcp>\n    <udp>\n      <overall>$</overall>\n      <connect>$</connect>\n      <announce>$</announce>\n",
    "      <scrape>$</scrape>\n      <missmatch>$</missmatch>\n    </udp>\n",
    "    <livesync>\n      <count>$</count>\n    </livesync>\n  </connections>\n  <debug>\n    <renew>\n",
);

const XML_END: &str = "    </renew>
    <http_error>
      <count code=\"302 Redirect\">$</count>
      <count code=\"400 Parse Error\">$</count>
      <count code=\"400 Invalid Parameter\">$</count>
      <count code=\"400 Invalid Parameter (compact=0)\">0</count>
      <count code=\"400 Not Modest\">$</count>
      <count code=\"402 Payment Required\">0</count>
      <count code=\"403 Access Denied\">$</count>
      <count code=\"404 Not found\">$</count>
      <count code=\"500 Internal Server Error\">$</count>
    </http_error>
    <mutex_stall>\n      <count>0</count>\n    </mutex_stall>\n  </debug>\n</stats>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_of_a_unit_are_spread_over_its_minutes() {
        for (peer_timeout, rows) in [(1, 1), (900, 15), (2700, 45), (129_600, 180)] {
            let mut tally = Tally::new(peer_timeout * 1000 / LIFE);
            assert_eq!(renewals_by_minute(&tally), vec![0; rows]);
            tally.renewals[..48].fill(1000);
            let by_minute = renewals_by_minute(&tally);
            assert_eq!(
                (by_minute.len(), by_minute.iter().sum()),
                (rows, 48_000_u64)
            );
            let share = 48_000 * 60 / peer_timeout;
            let all_but_last = by_minute.iter().take(rows - 1);
            let uneven: Vec<_> = all_but_last.filter(|row| row.abs_diff(share) > 1).collect();
            assert!(uneven.is_empty(), "{uneven:?} are not {share}");
        }
        let mut tally = Tally::new(56_250);
        tally.renewals = [0; Tally::RENEWALS];
        tally.renewals[0] = 3;
        tally.renewals[63] = u64::MAX / 2;
        let by_minute = renewals_by_minute(&tally);
        assert_eq!((by_minute[0], by_minute[44]), (3, u64::MAX / 2));
        assert_eq!(by_minute[1..44], [0; 43]);
    }
}
