//! The report on the cluster: a plain value that the cluster fills in, and the texts made of it.

use super::metrics::{Number, begin_family, sample};
use super::people::{bytes, milliseconds, plural, short_number, text};
use super::{View, fill};
use crate::tracker::Totals;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether a node has the peers of the other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It still waits for other nodes' peers.
    #[default]
    Syncing,
    /// No other node was reachable for ten seconds after the start.
    Alone,
    Ok,
}

impl Health {
    const ALL: [Health; 3] = [Health::Syncing, Health::Alone, Health::Ok];

    pub fn name(self) -> &'static str {
        match self {
            Health::Syncing => "syncing",
            Health::Alone => "alone",
            Health::Ok => "ok",
        }
    }
}

/// The state of the cluster as one node sees it.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    pub health: Health,
    /// The nodes that the operator names, then those that only connect here.
    pub links: Vec<Link>,
    /// Names of links that have no address so far.
    pub unresolved: Vec<String>,
    /// Stops and completions that are kept to be sent again, and how many milliseconds back they reach.
    pub events: u64,
    pub events_reach_ms: u64,
    /// Records and counts that were dropped because the list refuses their torrent.
    pub refused: u64,
    /// Connections that ended before they were links, by the number of the [`Failure`].
    pub failures: [u64; Failure::COUNT],
    pub multicast: Option<Multicast>,
}

/// One other node.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// As the operator names the node; of others the address.
    pub name: String,
    pub address: Option<SocketAddr>,
    pub is_up: bool,
    /// Milliseconds since it went up or down.
    pub since_ms: u64,
    /// Why the last attempt to connect failed, while it is down.
    pub failure: Option<Failure>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
    /// Bytes that wait to be sent.
    pub queue: u64,
    /// The last walk that the other node completed.
    pub walk: Option<Walk>,
    pub round_trip_ms: Option<u64>,
    /// Milliseconds by which the other host's wall clock is ahead of this one's.
    pub clock_ahead_ms: Option<i64>,
    /// The totals of the other node.
    pub theirs: Option<Totals>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Milliseconds since it ended.
    pub ago_ms: u64,
    pub records: u64,
    /// Of these, peers that were unknown here or known in another state.
    pub news: u64,
}

/// Why a connection did not become a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused or unreachable.
    Unreachable,
    /// Nothing or too little came within three seconds.
    TimedOut,
    Closed,
    /// The first bytes were not those of a node.
    Foreign,
    Version(u16),
    PeerTimeout(u32),
    WrongKey,
    /// It reached the node itself.
    Own,
    /// There were too many connections from addresses that no `--cluster-peer` names.
    Crowded,
}

impl Failure {
    pub const COUNT: usize = 9;
    #[rustfmt::skip]
    pub const NAMES: [&str; Failure::COUNT] = [
        "unreachable", "timed_out", "closed", "foreign", "version", "peer_timeout", "wrong_key", "own",
        "crowded",
    ];

    /// Its place in [`Failure::NAMES`].
    pub fn number(self) -> usize {
        match self {
            Failure::Unreachable => 0,
            Failure::TimedOut => 1,
            Failure::Closed => 2,
            Failure::Foreign => 3,
            Failure::Version(_) => 4,
            Failure::PeerTimeout(_) => 5,
            Failure::WrongKey => 6,
            Failure::Own => 7,
            Failure::Crowded => 8,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Unreachable => f.write_str("unreachable"),
            Failure::TimedOut => f.write_str("timeout"),
            Failure::Closed => f.write_str("connection closed by the other side"),
            Failure::Foreign => {
                f.write_str("not a node of a cluster, or of an incompatible release")
            }
            Failure::Version(version) => write!(f, "other protocol version: {version}"),
            Failure::PeerTimeout(seconds) => write!(f, "other peer timeout: {seconds} s"),
            Failure::WrongKey => f.write_str("wrong key"),
            Failure::Own => f.write_str("the other side is this node itself"),
            Failure::Crowded => f.write_str("too many connections from unknown addresses"),
        }
    }
}

/// Counts of opentracker's live sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multicast {
    /// Packets that were read, and the peers in them.
    pub packets_in: u64,
    pub records_in: u64,
    pub packets_out: u64,
    pub records_out: u64,
    /// Packets that were not read, in the order of [`Multicast::IGNORED`].
    pub ignored: [u64; Multicast::IGNORED.len()],
    /// Packets that the system did not send.
    pub unsent: u64,
}

impl Multicast {
    pub const IGNORED: [&str; 4] = ["own", "stranger", "malformed", "shed"];
}

/// The overview as the threads share it.
#[derive(Clone, Debug, Default)]
pub struct SharedOverview(Arc<Mutex<Overview>>);

impl SharedOverview {
    pub fn get(&self) -> Overview {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set(&self, overview: Overview) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = overview;
    }

    pub fn health(&self) -> Health {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).health
    }
}

impl Overview {
    /// Leaves out addresses and names of other nodes, which are for admins.
    pub fn hide_nodes(&mut self) {
        self.links.clear();
        self.unresolved.clear();
    }

    /// Records that other nodes sent.
    pub fn records_in(&self) -> u64 {
        let multicast = self.multicast.map_or(0, |multicast| multicast.records_in);
        let links = self.links.iter().map(|link| link.records_in);
        links.fold(multicast, u64::saturating_add)
    }
}

/// Peers and torrents by which the totals of two nodes differ without a fault.
const MAX_ON_THE_WAY: u64 = 20;

impl Link {
    /// Whether the operator names this node among the others.
    fn is_own(&self) -> bool {
        self.failure == Some(Failure::Own)
    }

    /// Whether the other node stores 1 % more or less than this one, and not only some that are on their way.
    fn differs(&self, own: &Totals) -> bool {
        let is_far = |a: u64, b: u64| a.abs_diff(b) > (a.max(b) / 100).max(MAX_ON_THE_WAY);
        self.theirs.is_some_and(|theirs| {
            is_far(theirs.torrents as u64, own.torrents as u64)
                || is_far(peers(&theirs), peers(own))
        })
    }
}

fn peers(totals: &Totals) -> u64 {
    totals.leechers.saturating_add(totals.seeders) as u64
}

/// The report `mode=cluster`.
pub fn report(view: &View, out: &mut Vec<u8>) {
    match &view.cluster {
        Some(overview) => write(overview, &view.totals, out),
        None => text(out, NONE),
    }
}

/// The report without a cluster.
pub const NONE: &str = "no cluster: --cluster-listen or --sync-multicast begins one\n";

/// Appends the part of the status page.
pub fn write_html(overview: &Overview, own: &Totals, out: &mut Vec<u8>) {
    let mut report = Vec::new();
    write(overview, own, &mut report);
    let report = String::from_utf8_lossy(&report).replace('&', "&amp;");
    let report = report.replace('<', "&lt;");
    text(
        out,
        "<h2>Cluster</h2>\n<details open><summary>As this node sees it</summary><pre>",
    );
    text(out, &report);
    text(out, "</pre></details>\n");
}

/// Appends the text for people.
fn write(overview: &Overview, own: &Totals, out: &mut Vec<u8>) {
    let o = overview;
    let up = nodes(o).filter(|link| link.is_up).count() as u64;
    for part in ["cluster ", o.health.name()] {
        text(out, part);
    }
    let all = nodes(o).count() as u64;
    fill(out, ": $ of $ other node", &[up, all]);
    for part in [plural(all), " up\n\n"] {
        text(out, part);
    }
    write_table(o, own, out);
    write_counts("failed handshakes", &Failure::NAMES, &o.failures, out);
    let events = [o.events, o.events_reach_ms / 1000];
    fill(out, "events: $ kept, reaching back $ s\n", &events);
    if o.refused > 0 {
        fill(out, "refused records: $\n", &[o.refused]);
    }
    if let Some(m) = &o.multicast {
        let received = [m.records_in, m.packets_in];
        fill(out, "multicast: $ records in $ packets received", &received);
        let sent = [m.records_out, m.packets_out, m.unsent];
        fill(out, ", $ in $ sent, $ packets unsent\n", &sent);
        write_counts("multicast ignored", &Multicast::IGNORED, &m.ignored, out);
    }
}

/// A line of the counts that are not zero, if there are any.
fn write_counts(title: &str, names: &[&str], counts: &[u64], out: &mut Vec<u8>) {
    let counts = names.iter().zip(counts).filter(|(_, count)| **count > 0);
    let counts = counts.map(|(name, count)| format!("{} {count}", name.replace('_', " ")));
    let counts = counts.collect::<Vec<_>>().join(", ");
    if !counts.is_empty() {
        text(out, &format!("{title}: {counts}\n"));
    }
}

/// The other nodes.
fn nodes(overview: &Overview) -> impl Iterator<Item = &Link> {
    overview.links.iter().filter(|link| !link.is_own())
}

/// The titles of the columns of numbers, and the numbers, if they are known.
type Column = (&'static str, fn(&Link) -> Option<String>);

#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    ("since", |l| cell(milliseconds, l.since_ms)),
    ("bytes in", |l| cell(bytes, l.bytes_in)),
    ("out", |l| cell(bytes, l.bytes_out)),
    ("records in", |l| cell(short, l.records_in)),
    ("out", |l| cell(short, l.records_out)),
    ("queue", |l| cell(bytes, l.queue)),
    ("last walk", |l| cell(milliseconds, l.walk?.ago_ms)),
    ("records", |l| cell(short, l.walk?.records)),
    ("news", |l| cell(short, l.walk?.news)),
    ("round trip", |l| cell(milliseconds, l.round_trip_ms?)),
    ("clock", |l| cell(signed, l.clock_ahead_ms?)),
    ("torrents", |l| cell(short, l.theirs?.torrents as u64)),
    ("peers", |l| cell(short, peers(&l.theirs?))),
];

/// Appends a line for each node, and the titles and the own totals above them.
fn write_table(overview: &Overview, own: &Totals, out: &mut Vec<u8>) {
    let lengths = nodes(overview).map(|link| link.name.len());
    let width = lengths.max().unwrap_or(0).max("this node".len());
    let mut row = |name: &str, state: &str, cell: &dyn Fn(&Column) -> String, note: &str| {
        let cells: String = COLUMNS.iter().map(|c| format!("{:>11}", cell(c))).collect();
        let line = format!("{name:width$}  {state:5}{cells}  {note}");
        text(out, &(line.trim_end().to_owned() + "\n"));
    };
    row("node", "state", &|column| column.0.into(), "note");
    let this = Link {
        theirs: Some(*own),
        ..Link::default()
    };
    let own_cell = |(title, cell): &Column| match *title {
        "torrents" | "peers" => cell(&this).unwrap_or_default(),
        _ => String::new(),
    };
    row("this node", "", &own_cell, "");
    for link in nodes(overview) {
        let note = match link.failure {
            _ if link.is_up && link.differs(own) => "differs".into(),
            _ if link.is_up => String::new(),
            _ if overview.unresolved.contains(&link.name) => "name has no address".into(),
            failure => failure.map_or_else(String::new, |failure| failure.to_string()),
        };
        let state = if link.is_up { "up" } else { "down" };
        let cell = |(_, cell): &Column| cell(link).unwrap_or("-".into());
        row(&link.name, state, &cell, &note);
    }
    text(out, "\n");
}

fn cell<T>(write: fn(&mut Vec<u8>, T), value: T) -> Option<String> {
    let mut cell = Vec::new();
    write(&mut cell, value);
    String::from_utf8(cell).ok()
}

fn short(out: &mut Vec<u8>, count: u64) {
    short_number(out, count.saturating_mul(100));
}

fn signed(out: &mut Vec<u8>, ms: i64) {
    text(out, if ms < 0 { "-" } else { "+" });
    milliseconds(out, ms.unsigned_abs());
}

/// Appends the metrics of the cluster, if there is one.
pub fn write_metrics(overview: Option<&Overview>, out: &mut Vec<u8>) {
    for (name, help, samples) in FAMILIES {
        let samples = overview.and_then(samples).unwrap_or_default();
        if !samples.is_empty() {
            begin_family(name, help, out);
        }
        for (labels, number) in samples {
            sample(name, &[&labels], number, out);
        }
    }
}

/// Labels and numbers.
type Samples = Vec<(String, Number)>;

/// Name, help, and the samples; none where there is nothing to report.
type Family = (&'static str, &'static str, fn(&Overview) -> Option<Samples>);

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    ("cluster_health", "1 for the state in which this node is.", |o| {
        named("state", Health::ALL.map(|health| (health.name(), (health == o.health).into())))
    }),
    ("cluster_link_up", "1 while there is a link to the node.", |o| links(o, |l| count(l.is_up.into()))),
    ("cluster_link_bytes_total", "Bytes from and to the node.", |o| both(o, |l| [l.bytes_in, l.bytes_out])),
    ("cluster_link_records_total", "Records from and to the node.", |o| both(o, |l| [l.records_in, l.records_out])),
    ("cluster_link_queue_bytes", "Bytes that wait to be sent to the node.", |o| links(o, |l| count(l.queue))),
    ("cluster_link_round_trip_seconds", "Time to the node and back.", |o| links(o, |l| seconds(l.round_trip_ms?))),
    ("cluster_walk_age_seconds", "Time since the last whole walk of the node.", |o| links(o, |l| seconds(l.walk?.ago_ms))),
    ("cluster_walk_records", "Records in that walk.", |o| links(o, |l| count(l.walk?.records))),
    ("cluster_walk_news", "Records of these that were news here.", |o| links(o, |l| count(l.walk?.news))),
    ("cluster_node_torrents", "Torrents in the table of the node.", |o| links(o, |l| count(l.theirs?.torrents as u64))),
    ("cluster_node_peers", "Peers in the table of the node.", |o| links(o, |l| count(peers(&l.theirs?)))),
    ("cluster_clock_ahead_seconds", "Time by which the clock of the node's host is ahead.", |o| {
        links(o, |l| l.clock_ahead_ms.map(Number::Thousandths))
    }),
    ("cluster_failed_handshakes_total", "Connections that did not become links.", |o| {
        named("reason", Failure::NAMES.into_iter().zip(o.failures))
    }),
    ("cluster_events_kept", "Stops and completions that are kept to be sent again.", |o| one(count(o.events))),
    ("cluster_events_reach_seconds", "Time that these reach back.", |o| one(seconds(o.events_reach_ms))),
    ("cluster_refused_records_total", "Records of torrents that the list refuses.", |o| one(count(o.refused))),
    ("multicast_received_packets_total", "Packets of opentracker's live sync that were read.", |o| one(count(o.multicast?.packets_in))),
    ("multicast_sent_packets_total", "Packets of opentracker's live sync that were sent.", |o| one(count(o.multicast?.packets_out))),
    ("multicast_received_records_total", "Peers in the packets that were read.", |o| one(count(o.multicast?.records_in))),
    ("multicast_sent_records_total", "Peers in the packets that were sent.", |o| one(count(o.multicast?.records_out))),
    ("multicast_ignored_packets_total", "Packets of the multicast group that were not read.", |o| {
        named("reason", Multicast::IGNORED.into_iter().zip(o.multicast?.ignored))
    }),
    ("multicast_unsent_packets_total", "Packets that the system did not send.", |o| one(count(o.multicast?.unsent))),
];

fn count(count: u64) -> Option<Number> {
    Some(Number::Count(count))
}

fn seconds(ms: u64) -> Option<Number> {
    i64::try_from(ms).ok().map(Number::Thousandths)
}

fn one(number: Option<Number>) -> Option<Samples> {
    Some(vec![(String::new(), number?)])
}

fn named<'a>(label: &str, counts: impl IntoIterator<Item = (&'a str, u64)>) -> Option<Samples> {
    let samples = counts.into_iter();
    Some(
        samples
            .map(|(name, n)| (format!("{label}=\"{name}\""), Number::Count(n)))
            .collect(),
    )
}

/// A sample for each other node of which the number is known.
fn links(overview: &Overview, number: fn(&Link) -> Option<Number>) -> Option<Samples> {
    let samples = nodes(overview).filter_map(|link| Some((label(link), number(link)?)));
    Some(samples.collect())
}

/// A sample for each other node and direction.
fn both(overview: &Overview, counts: fn(&Link) -> [u64; 2]) -> Option<Samples> {
    let samples = nodes(overview).flat_map(|link| {
        let ways = ["in", "out"].into_iter().zip(counts(link));
        ways.map(|(way, n)| {
            (
                format!("{},direction=\"{way}\"", label(link)),
                Number::Count(n),
            )
        })
    });
    Some(samples.collect())
}

/// The name, which a restart does not change.
fn label(link: &Link) -> String {
    let name = link
        .name
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("node=\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Totals = Totals {
        torrents: 1000,
        leechers: 4000,
        seeders: 6000,
    };

    /// One node up, one with other totals, one that has another key, this node itself.
    fn mixed() -> Overview {
        let up = Link {
            name: "192.0.2.1:6970".into(),
            is_up: true,
            since_ms: 7_320_000,
            bytes_in: 43 << 20,
            bytes_out: 40_894_464,
            records_in: 1_234_567,
            records_out: 1_180_000,
            queue: 118,
            walk: Some(Walk {
                ago_ms: 152_000,
                records: 81_234,
                news: 3,
            }),
            round_trip_ms: Some(12),
            clock_ahead_ms: Some(-3),
            theirs: Some(OWN),
            ..Link::default()
        };
        let differs = Link {
            name: "[2001:db8::2]:6970".into(),
            walk: None,
            clock_ahead_ms: Some(7_200_000),
            theirs: Some(Totals {
                seeders: 5000,
                ..OWN
            }),
            ..up.clone()
        };
        let failed = |name: &str, failure| Link {
            name: name.into(),
            since_ms: 4200,
            failure: Some(failure),
            ..Link::default()
        };
        let mut failures = [0; Failure::COUNT];
        failures[Failure::WrongKey.number()] = 4;
        failures[Failure::TimedOut.number()] = 1;
        Overview {
            health: Health::Ok,
            links: vec![
                up,
                differs,
                failed("c.example:6970", Failure::WrongKey),
                failed("d.example:6970", Failure::Own),
                Link {
                    name: "e.example:6970".into(),
                    ..Link::default()
                },
            ],
            unresolved: vec!["e.example:6970".into()],
            events: 1200,
            events_reach_ms: 299_999,
            failures,
            ..Overview::default()
        }
    }

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("is text")
    }

    fn metrics(overview: &Overview) -> String {
        written(|out| write_metrics(Some(overview), out))
    }

    #[test]
    fn text_has_a_line_for_each_node() {
        let mut overview = mixed();
        let text = written(|out| write(&overview, &OWN, out));
        let expected = "\
cluster ok: 2 of 4 other nodes up

node                state      since   bytes in        out records in        out      queue  last walk    records       news round trip      clock   torrents      peers  note
this node                                                                                                                                               1,000        10k
192.0.2.1:6970      up     2 h 2 min     43 MiB     39 MiB      1.23M      1.18M      118 B      2 min     81.23k          3      12 ms      -3 ms      1,000        10k
[2001:db8::2]:6970  up     2 h 2 min     43 MiB     39 MiB      1.23M      1.18M      118 B          -          -          -      12 ms +2 h 0 min      1,000      9,000  differs
c.example:6970      down       4.2 s        0 B        0 B          0          0        0 B          -          -          -          -          -          -          -  wrong key
e.example:6970      down        0 ms        0 B        0 B          0          0        0 B          -          -          -          -          -          -          -  name has no address

failed handshakes: timed out 1, wrong key 4
events: 1200 kept, reaching back 299 s
";
        assert_eq!(text, expected);

        overview.refused = 5;
        overview.multicast = Some(Multicast {
            packets_in: 2,
            records_in: 10,
            ignored: [0, 7, 0, 1],
            ..Multicast::default()
        });
        let text = written(|out| write(&overview, &OWN, out));
        let more = "refused records: 5\n\
            multicast: 10 records in 2 packets received, 0 in 0 sent, 0 packets unsent\n\
            multicast ignored: stranger 7, shed 1\n";
        assert_eq!(text, format!("{expected}{more}"));
    }

    #[test]
    fn text_begins_with_the_health() {
        let mut overview = mixed();
        let first = |overview: &Overview| {
            let text = written(|out| write(overview, &OWN, out));
            text.lines().next().map(str::to_owned).expect("a line")
        };
        assert_eq!(first(&overview), "cluster ok: 2 of 4 other nodes up");
        overview.health = Health::Syncing;
        assert_eq!(first(&overview), "cluster syncing: 2 of 4 other nodes up");
        overview.health = Health::Alone;
        overview.links.drain(..4);
        assert_eq!(first(&overview), "cluster alone: 0 of 1 other node up");
    }

    #[test]
    fn totals_differ_above_one_percent_and_above_twenty() {
        let differs = |torrents, seeders| {
            let theirs = Totals {
                torrents,
                seeders,
                ..OWN
            };
            let link = Link {
                theirs: Some(theirs),
                ..Link::default()
            };
            link.differs(&OWN)
        };
        assert!(!differs(1000, 6000));
        assert!(!differs(980, 6000) && !differs(1020, 6000));
        assert!(differs(979, 6000) && differs(1021, 6000));
        assert!(!differs(1000, 5900) && !differs(1000, 6101));
        assert!(differs(1000, 5899) && differs(1000, 6102));
        assert!(!Link::default().differs(&OWN));
    }

    #[test]
    fn metrics_name_nodes_and_have_each_sample_once() {
        let mut overview = mixed();
        overview.multicast = Some(Multicast::default());
        let text = metrics(&overview);
        for line in [
            "cluster_health{state=\"syncing\"} 0",
            "cluster_health{state=\"ok\"} 1",
            "cluster_link_up{node=\"192.0.2.1:6970\"} 1",
            "cluster_link_up{node=\"c.example:6970\"} 0",
            "cluster_link_up{node=\"e.example:6970\"} 0",
            "cluster_link_bytes_total{node=\"192.0.2.1:6970\",direction=\"in\"} 45088768",
            "cluster_link_records_total{node=\"192.0.2.1:6970\",direction=\"out\"} 1180000",
            "cluster_link_queue_bytes{node=\"192.0.2.1:6970\"} 118",
            "cluster_link_round_trip_seconds{node=\"192.0.2.1:6970\"} 0.012",
            "cluster_walk_age_seconds{node=\"192.0.2.1:6970\"} 152.000",
            "cluster_walk_records{node=\"192.0.2.1:6970\"} 81234",
            "cluster_walk_news{node=\"192.0.2.1:6970\"} 3",
            "cluster_node_torrents{node=\"[2001:db8::2]:6970\"} 1000",
            "cluster_node_peers{node=\"[2001:db8::2]:6970\"} 9000",
            "cluster_clock_ahead_seconds{node=\"192.0.2.1:6970\"} -0.003",
            "cluster_failed_handshakes_total{reason=\"wrong_key\"} 4",
            "cluster_failed_handshakes_total{reason=\"foreign\"} 0",
            "cluster_events_kept 1200",
            "cluster_events_reach_seconds 299.999",
            "cluster_refused_records_total 0",
            "multicast_ignored_packets_total{reason=\"shed\"} 0",
        ] {
            assert!(text.contains(&format!("\nannounced_{line}\n")), "{line}");
        }
        assert!(!text.contains("walk_age_seconds{node=\"[2001") && !text.contains("d.example"));

        let mut seen = std::collections::BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().expect("a name").into();
            } else if !line.starts_with('#') {
                let (series, number) = line.rsplit_once(' ').expect("a number");
                assert_eq!(series.split('{').next(), Some(&family[..]));
                assert!(number.parse::<f64>().is_ok(), "{line}");
                assert!(seen.insert(series), "{line} is there twice");
            }
        }
        assert_eq!(written(|out| write_metrics(None, out)), "");
    }

    #[test]
    fn names_are_escaped() {
        let mut overview = Overview::default();
        overview.links.push(Link {
            name: "a\"b\\c<d>&e\nf:1".into(),
            ..Link::default()
        });
        let line = "\nannounced_cluster_link_up{node=\"a\\\"b\\\\c<d>&e\\nf:1\"} 0\n";
        assert!(metrics(&overview).contains(line));
        let page = written(|out| write_html(&overview, &OWN, out));
        let start =
            "<summary>As this node sees it</summary><pre>cluster syncing: 0 of 1 other node up\n";
        assert!(
            page.contains(start) && page.contains("c&lt;d>&amp;e"),
            "{page}"
        );
    }

    #[test]
    fn hidden_nodes_are_in_no_metric() {
        let mut overview = mixed();
        overview.hide_nodes();
        let text = metrics(&overview);
        assert!(
            !text.contains("node=") && !text.contains("example"),
            "{text}"
        );
        assert!(text.contains("cluster_failed_handshakes_total{reason=\"wrong_key\"} 4\n"));
    }
}
