//! The reports of `/stats?mode=`, with opentracker's names and, line for line, its formats: scripts of
//! many years read them. What they say of themselves is part of that, "opentracker" and all.
//!
//! Formats are those of Debian's opentracker of 2021, which the tests hold them to.

use super::walks::Walk;
use super::{View, cluster, fill};
use crate::proto::bencode::decimal;
use crate::random::Random;
use crate::tracker::Tally;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A report by its name.
pub struct Mode {
    pub name: &'static str,
    /// Whether it names torrents or peers: then it is for admins alone.
    pub is_private: bool,
    pub report: Report,
}

#[derive(Clone, Copy)]
pub enum Report {
    Text(fn(&View, &mut Vec<u8>)),
    /// The page for people.
    Html,
    /// What a walk over the table finds.
    Walk(fn(&mut Random) -> Walk),
    /// Every torrent, in the format that is named besides.
    Torrents,
    /// Every torrent, as opentracker saves and loads them.
    State,
    /// Opentracker has the name and no longer the report.
    Gone,
}

const fn open(name: &'static str, report: fn(&View, &mut Vec<u8>)) -> Mode {
    Mode {
        name,
        is_private: false,
        report: Report::Text(report),
    }
}

/// All of them; the first is the one that is meant where none is named.
pub const MODES: &[Mode] = &[
    open("peer", peers),
    open("conn", connections),
    open("scrp", scrapes),
    open("udp4", udp),
    open("tcp4", tcp),
    open("torr", torrents),
    open("fscr", full_scrapes),
    open("herr", http_errors),
    open("completed", completed),
    open("renew", renewals),
    open("syncs", syncs),
    private("s24s", Report::Walk(Walk::networks)),
    private("top10", Report::Walk(|_| Walk::top(10))),
    private("top100", Report::Walk(|_| Walk::top(100))),
    private("woodpeckers", Report::Text(woodpeckers)),
    open("version", version),
    open("everything", everything),
    open("numwants", wanted),
    private("cluster", Report::Text(cluster::report)),
    Mode {
        name: "html",
        is_private: false,
        report: Report::Html,
    },
    private("tpbs", Report::Torrents),
    private("statedump", Report::State),
    gone("busy"),
    gone("fulllog"),
];

const fn private(name: &'static str, report: Report) -> Mode {
    Mode {
        name,
        is_private: true,
        report,
    }
}

const fn gone(name: &'static str) -> Mode {
    Mode {
        name,
        is_private: false,
        report: Report::Gone,
    }
}

/// The report of this name.
pub fn find(name: &[u8]) -> Option<&'static Mode> {
    MODES.iter().find(|mode| mode.name.as_bytes() == name)
}

const VERSION: &str = concat!("announced ", env!("CARGO_PKG_VERSION"), "\n");

/// Two counts, the time that they took, and a title with rates: what MRTG reads.
fn mrtg(view: &View, out: &mut Vec<u8>, counts: [u64; 2], title: &str, rates: &[u64]) {
    let [first, second] = counts;
    let seconds = view.uptime();
    let times = [first, second, seconds, seconds / 3600];
    fill(out, "$\n$\n$ seconds ($ hours)\nopentracker", &times);
    fill(out, title, rates);
}

fn peers(view: &View, out: &mut Vec<u8>) {
    let seeders = view.totals.seeders as u64;
    let peers = seeders + view.totals.leechers as u64;
    serving(view, out, [peers, seeders]);
}

fn torrents(view: &View, out: &mut Vec<u8>) {
    serving(view, out, [view.totals.torrents as u64, 0]);
}

fn serving(view: &View, out: &mut Vec<u8>, [first, second]: [u64; 2]) {
    let torrents = view.totals.torrents as u64;
    let text = "$\n$\nopentracker serving $ torrents\nopentracker";
    fill(out, text, &[first, second, torrents]);
}

fn connections(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let arrived = c.tcp_accepted + c.udp_packets();
    let successes = c.http_announces + c.udp_announces + c.udp_connects;
    conns(view, out, [arrived, successes], " connections");
}

fn udp(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let counts = [c.udp_packets(), c.udp_announces + c.udp_connects];
    conns(view, out, counts, " udp4 stats");
}

fn tcp(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    conns(view, out, [c.tcp_accepted, c.http_announces], " tcp4 stats");
}

fn conns(view: &View, out: &mut Vec<u8>, counts: [u64; 2], title: &str) {
    mrtg(view, out, counts, title, &[]);
    let rates = counts.map(|count| view.per_second(count));
    fill(out, ", $ conns/s :: $ success/s.", &rates);
}

fn scrapes(view: &View, out: &mut Vec<u8>) {
    let counts = [view.counters.http_scrapes, view.counters.udp_scrapes];
    let rate = view.per_second(counts.iter().sum());
    let title = " scrape stats, $ scrape/s (tcp and udp)";
    mrtg(view, out, counts, title, &[rate]);
}

fn full_scrapes(view: &View, out: &mut Vec<u8>) {
    let (count, bytes) = (view.counters.full_scrapes, view.counters.full_scrape_bytes);
    let rates = [view.per_second(count), view.per_second(bytes)];
    let title = " full scrape stats, $ conns/s :: $ bytes/s.";
    // Thousandths, so that MRTG's graph of it is not flat.
    mrtg(
        view,
        out,
        [count.saturating_mul(1000), bytes],
        title,
        &rates,
    );
}

fn completed(view: &View, out: &mut Vec<u8>) {
    let count = view.tally.completed;
    let rate = count / (view.uptime() / 3600).max(1);
    mrtg(view, out, [count, 0], ", $ completed/h.", &[rate]);
}

/// Peers that other nodes told of, which opentracker counts for its live sync; the rates are of all
/// connections, as they are there.
fn syncs(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let arrived = view.per_second(c.tcp_accepted + c.udp_packets());
    let successes = view.per_second(c.http_announces + c.udp_announces + c.udp_connects);
    let title = " connections, $ conns/s :: $ success/s.";
    mrtg(view, out, [view.synced(), 0], title, &[arrived, successes]);
}

/// Opentracker's seven kinds; a failure reason counts as a wrong parameter, which there is a 400.
fn http_errors(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let server = c.http_error(500) + c.http_error(503);
    let counts = [
        c.http_error(302),
        c.http_error(400) + c.http_error(405) + c.http_error(431),
        c.http_refused,
        0,
        c.http_error(403),
        c.http_error(404),
        server,
    ];
    let text = "302 RED $\n400 ... $\n400 PAR $\n400 COM $\n403 IP  $\n404 INV $\n500 SRV $\n";
    fill(out, text, &counts);
}

/// Minutes for which there are rows: the peer timeout, up to opentracker's longest.
const MOST_MINUTES: u64 = 180;

/// Renewals by the minutes since the peer's last announce, a row for each minute up to the peer
/// timeout; older ones are in the last row.
fn renewals_by_minute(tally: &Tally) -> Vec<u64> {
    let timeout = tally.unit_ms * Tally::LIFE;
    let minutes = timeout.div_ceil(60_000).clamp(1, MOST_MINUTES);
    let mut before = 0;
    let row = |minute| {
        let until = if minute < minutes {
            minute * 60_000
        } else {
            u64::MAX
        };
        let count = renewals_within(tally, until);
        count - std::mem::replace(&mut before, count)
    };
    (1..=minutes).map(row).collect()
}

/// Renewals less than so many milliseconds after the last announce. Those of a unit are taken to be spread evenly
/// over it: a unit is nearly a minute by default, so that some minutes would have two units and most one.
fn renewals_within(tally: &Tally, ms: u64) -> u64 {
    let unit_ms = tally.unit_ms;
    let within = |(age, count): (u64, u64)| {
        let part = ms.saturating_sub(age * unit_ms).min(unit_ms);
        count / unit_ms * part + count % unit_ms * part / unit_ms
    };
    (0..).zip(tally.renewals).map(within).sum()
}

fn renewals(view: &View, out: &mut Vec<u8>) {
    for (minute, count) in (0..).zip(renewals_by_minute(&view.tally)) {
        padded(out, minute, 2);
        fill(out, " $\n", &[count]);
    }
}

fn wanted(view: &View, out: &mut Vec<u8>) {
    for (number, count) in (0..).zip(view.counters.wanted) {
        padded(out, number, 3);
        fill(out, " => $\n", &[count]);
    }
}

/// Networks in the reports of the busiest.
pub(super) const BUSIEST: usize = 128;

fn woodpeckers(view: &View, out: &mut Vec<u8>) {
    let woodpeckers = view.table.woodpeckers(view.table_now);
    let top = |is_meant: fn(u64) -> bool| match &woodpeckers {
        Some(woodpeckers) => woodpeckers.top(BUSIEST, is_meant),
        None => Vec::new(),
    };
    networks(out, 32, &top(|key| key <= MOST_V4), v4_address);
    networks(out, 64, &top(|key| key > MOST_V4), |key| {
        Ipv6Addr::from_bits(u128::from(key) << 64).into()
    });
}

/// What is not above this is an IPv4 address: no IPv6 network has as many zeros in front.
const MOST_V4: u64 = u32::MAX as u64;

pub(super) fn v4_address(key: u64) -> IpAddr {
    Ipv4Addr::from_bits(u32::try_from(key).unwrap_or(0)).into()
}

/// A table of networks with a prefix of so many bits, and how much was counted for each.
pub(super) fn networks(
    out: &mut Vec<u8>,
    prefix: u64,
    counts: &[(u64, u32)],
    address: fn(u64) -> IpAddr,
) {
    fill(out, "Networks, limit /$:\n", &[prefix]);
    for &(key, count) in counts {
        padded(out, count.into(), 8);
        out.extend_from_slice(format!(": {}\n", address(key)).as_bytes());
    }
    out.push(b'\n');
}

/// A number with zeros in front, as `printf` has it.
pub(super) fn padded(out: &mut Vec<u8>, number: u64, digits: usize) {
    let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
    out.extend((length..digits).map(|_| b'0'));
    decimal(out, number);
}

fn version(_: &View, out: &mut Vec<u8>) {
    out.extend_from_slice(VERSION.as_bytes());
}

fn everything(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let (torrents, seeders) = (view.totals.torrents as u64, view.totals.seeders as u64);
    let peers = seeders + view.totals.leechers as u64;
    let id = [u64::from(view.monitor.id)];
    fill(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<stats>\n  <tracker_id>$</tracker_id>\n  <version>\n",
        &id,
    );
    version(view, out);
    let text = "  </version>\n  <uptime>$</uptime>\n  <torrents>\n    <count_mutex>$</count_mutex>\n    \
        <count_iterator>$</count_iterator>\n  </torrents>\n  <peers>\n    <count>$</count>\n  \
        </peers>\n  <seeds>\n    <count>$</count>\n  </seeds>\n  <completed>\n    <count>$</count>\n  \
        </completed>\n";
    let completed = view.tally.completed;
    fill(
        out,
        text,
        &[view.uptime(), torrents, torrents, peers, seeders, completed],
    );
    let text = "  <connections>\n    <tcp>\n      <accept>$</accept>\n      <announce>$</announce>\n      \
        <scrape>$</scrape>\n    </tcp>\n";
    fill(
        out,
        text,
        &[c.tcp_accepted, c.http_announces, c.http_scrapes],
    );
    let text = "    <udp>\n      <overall>$</overall>\n      <connect>$</connect>\n      \
        <announce>$</announce>\n      <scrape>$</scrape>\n      <missmatch>$</missmatch>\n    </udp>\n    \
        <livesync>\n      <count>$</count>\n    </livesync>\n  </connections>\n";
    let udp = [
        c.udp_packets(),
        c.udp_connects,
        c.udp_announces,
        c.udp_scrapes,
        c.udp_strangers,
        view.synced(),
    ];
    fill(out, text, &udp);
    out.extend_from_slice(b"  <debug>\n    <renew>\n");
    for (minute, count) in (0..).zip(renewals_by_minute(&view.tally)) {
        out.extend_from_slice(b"      <count interval=\"");
        padded(out, minute, 2);
        fill(out, "\">$</count>\n", &[count]);
    }
    out.extend_from_slice(b"    </renew>\n    <http_error>\n");
    everything_errors(view, out);
    let text = "    </http_error>\n    <mutex_stall>\n      <count>0</count>\n    </mutex_stall>\n  \
        </debug>\n</stats>";
    fill(out, text, &[]);
}

/// Opentracker's names for its errors.
fn everything_errors(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let counts = [
        ("302 Redirect", c.http_error(302)),
        (
            "400 Parse Error",
            c.http_error(400) + c.http_error(405) + c.http_error(431),
        ),
        ("400 Invalid Parameter", c.http_refused),
        ("400 Invalid Parameter (compact=0)", 0),
        ("400 Not Modest", c.http_error(429)),
        ("402 Payment Required", 0),
        ("403 Access Denied", c.http_error(403)),
        ("404 Not found", c.http_error(404)),
        (
            "500 Internal Server Error",
            c.http_error(500) + c.http_error(503),
        ),
    ];
    for (name, count) in counts {
        out.extend_from_slice(b"      <count code=\"");
        out.extend_from_slice(name.as_bytes());
        fill(out, "\">$</count>\n", &[count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_of_a_unit_are_spread_over_the_minutes_that_it_is_part_of() {
        for (peer_timeout, rows) in [(1, 1), (900, 15), (2700, 45), (129_600, 180)] {
            let mut tally = Tally::new(peer_timeout * 1000 / Tally::LIFE);
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
