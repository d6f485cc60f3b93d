//! The report on the cluster: a plain value that the cluster makes, and the texts written from it.
//!
//! Each number of a link is one row of a table: its column in `/stats?mode=cluster` and its metric follow from that.

use super::View;
use super::metrics::Number::{self, Ahead, Bytes, Count, Milliseconds};
use super::metrics::{Numbered, counted, metrics, rows, write_family, write_name};
use crate::base::lock::lock;
use crate::base::text::{
    self, bytes, count, escaped, fill, fill_with, milliseconds, plural, short, text, texts,
};
use crate::tracker::Totals;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Whether a node has the peers of the other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It waits for the peers of other nodes.
    #[default]
    Syncing,
    /// It has reached no other node for ten seconds.
    Alone,
    Ok,
}

impl Health {
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
    /// The nodes that the operator names, then the unnamed nodes that are linked.
    pub links: Vec<LinkReport>,
    /// Records received through all links, also through those that are no longer listed.
    pub link_records_in: u64,
    /// Stops and completions kept to be sent again, and how many milliseconds back they reach.
    pub events: u64,
    pub events_reach_ms: u64,
    /// Records and counts of torrents that the list refuses.
    pub refused: u64,
    /// Connections that did not become links, by [`Failure::number`].
    pub failures: [u64; Failure::COUNT],
    pub multicast: Option<Multicast>,
}

/// One other node.
#[derive(Clone, Debug, Default)]
pub struct LinkReport {
    /// The operator's name for the node, or else its address.
    pub name: String,
    /// The name has no address so far.
    pub is_unresolved: bool,
    pub is_up: bool,
    /// Milliseconds since it went up or down.
    pub since_ms: u64,
    /// The reason of the last failure to connect, while the link is down.
    pub failure: Option<Failure>,
    pub traffic: Traffic,
    /// Bytes that wait to be sent.
    pub queue: u64,
    /// The last walk that the other node completed.
    pub walk: Option<WalkReport>,
    pub round_trip_ms: Option<u64>,
    /// Milliseconds by which the wall clock of the other host is ahead.
    pub clock_ahead_ms: Option<i64>,
    /// The totals of the other node.
    pub theirs: Option<Totals>,
}

/// The sums of all links to a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct WalkReport {
    /// Milliseconds since its end.
    pub ago_ms: u64,
    pub records: u64,
    /// Records of peers that were unknown here or had another role.
    pub news: u64,
}

/// The reason why a connection did not become a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was refused, or there is no route.
    Unreachable,
    /// The handshake took more than three seconds.
    TimedOut,
    Closed,
    /// The first bytes were not those of a node.
    Foreign,
    Version(u16),
    PeerTimeout(u32),
    PerHost(u32),
    WrongKey,
    /// The node connected to itself.
    Own,
    /// Too many connections from addresses that no `--cluster-peer` names.
    Crowded,
}

impl Failure {
    pub const COUNT: usize = 10;

    /// The index in [`Overview::failures`].
    pub fn number(self) -> usize {
        self.row().0
    }

    fn row(self) -> (usize, &'static str) {
        match self {
            Failure::Unreachable => (0, "unreachable"),
            Failure::TimedOut => (1, "timeout"),
            Failure::Closed => (2, "connection closed by the other side"),
            Failure::Foreign => (3, "not a node of a cluster, or of an incompatible release"),
            Failure::Version(_) => (4, "other protocol version: "),
            Failure::PeerTimeout(_) => (5, "other peer timeout: "),
            Failure::WrongKey => (6, "wrong key"),
            Failure::Own => (7, "the other side is this node itself"),
            Failure::Crowded => (8, "too many connections from unknown addresses"),
            Failure::PerHost(_) => (9, "other bound of peers per host: "),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.row().1)?;
        match self {
            Failure::Version(version) => write!(f, "{version}"),
            Failure::PeerTimeout(seconds) => write!(f, "{seconds} s"),
            Failure::PerHost(max) => write!(f, "{max}"),
            _ => Ok(()),
        }
    }
}

/// Counts of opentracker's live sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Multicast {
    /// Packets accepted, and the peers in them.
    pub packets_in: u64,
    pub records_in: u64,
    pub packets_out: u64,
    pub records_out: u64,
    /// Packets ignored, by reason: own ones, of strangers, malformed, above the limit.
    pub ignored: [u64; 4],
    /// Packets that the system did not send.
    pub unsent: u64,
}

/// The overview, shared by the threads.
#[derive(Clone, Debug, Default)]
pub struct SharedOverview(Arc<Mutex<Overview>>);

impl SharedOverview {
    pub fn get(&self) -> Overview {
        lock(&self.0).clone()
    }

    pub fn set(&self, overview: Overview) {
        *lock(&self.0) = overview;
    }

    pub fn health(&self) -> Health {
        lock(&self.0).health
    }
}

impl Overview {
    /// Records received from other nodes.
    pub fn records_in(&self) -> u64 {
        let multicast = self.multicast.map_or(0, |multicast| multicast.records_in);
        self.link_records_in.saturating_add(multicast)
    }
}

/// A difference of the totals of two nodes up to this is no fault: records are under way.
const MAX_UNDER_WAY: u64 = 20;

impl LinkReport {
    /// Whether the totals of the two nodes differ by more than 1 percent, and not only by records under way.
    fn differs(&self, own: &Totals) -> bool {
        let is_far = |a: u64, b: u64| a.abs_diff(b) > (a.max(b) / 100).max(MAX_UNDER_WAY);
        self.theirs.is_some_and(|theirs| {
            is_far(theirs.torrents as u64, own.torrents as u64)
                || is_far(peers(&theirs), peers(own))
        })
    }
}

fn peers(totals: &Totals) -> u64 {
    totals.leechers.saturating_add(totals.seeders) as u64
}

#[rustfmt::skip]
metrics! {
    // Names are the titles of columns in the text. A row without a family is only in the text.
    LINK, link_numbers(l: &LinkReport) -> Option<Number>;
    "cluster_link_up" "1 while the link to the node is up." { _ "" = Some(Count(l.is_up.into())); }
    "" "" { since "" = Some(Milliseconds(l.since_ms)); }
    "cluster_link_bytes_total" "Bytes received from and sent to the node." {
        bytes_in "direction=in" = Some(Bytes(l.traffic.bytes_in));
        out "direction=out" = Some(Bytes(l.traffic.bytes_out));
    }
    "cluster_link_records_total" "Records received from and sent to the node." {
        records_in "direction=in" = Some(Count(l.traffic.records_in));
        out "direction=out" = Some(Count(l.traffic.records_out));
    }
    "cluster_link_queue_bytes" "Bytes waiting to be sent to the node." { queue "" = Some(Bytes(l.queue)); }
    "cluster_walk_age_seconds" "Time since the node completed its last walk."
        { last_walk "" = l.walk.map(|walk| Milliseconds(walk.ago_ms)); }
    "cluster_walk_records" "Records in that walk." { records "" = l.walk.map(|walk| Count(walk.records)); }
    "cluster_walk_news" "Records in that walk that were news here."
        { news "" = l.walk.map(|walk| Count(walk.news)); }
    "cluster_link_round_trip_seconds" "Round-trip time to the node."
        { round_trip "" = l.round_trip_ms.map(Milliseconds); }
    "cluster_clock_ahead_seconds" "Time by which the wall clock of the node's host is ahead."
        { clock "" = l.clock_ahead_ms.map(Ahead); }
    "cluster_node_torrents" "Torrents stored by the node."
        { torrents "" = l.theirs.map(|totals| Count(totals.torrents as u64)); }
    "cluster_node_peers" "Peers stored by the node."
        { peers "" = l.theirs.map(|totals| Count(peers(&totals))); }
}

#[rustfmt::skip]
metrics! {
    NODE, node_numbers(o: &Overview) -> u64;
    "cluster_health" "1 for the state of this node." {
        _ "state=syncing" = (o.health == Health::Syncing).into();
        _ "state=alone" = (o.health == Health::Alone).into();
        _ "state=ok" = (o.health == Health::Ok).into();
    }
    "cluster_failed_handshakes_total" "Connections that did not become links." {
        failed_handshakes "reason=unreachable" = o.failures[0];
        failed_handshakes "reason=timed_out" = o.failures[1];
        failed_handshakes "reason=closed" = o.failures[2];
        failed_handshakes "reason=foreign" = o.failures[3];
        failed_handshakes "reason=version" = o.failures[4];
        failed_handshakes "reason=peer_timeout" = o.failures[5];
        failed_handshakes "reason=per_host" = o.failures[9];
        failed_handshakes "reason=wrong_key" = o.failures[6];
        failed_handshakes "reason=own" = o.failures[7];
        failed_handshakes "reason=crowded" = o.failures[8];
    }
    "cluster_events_kept" "Stops and completions kept to be sent again." { events_kept "" = o.events; }
    "cluster_events_reach_seconds" "Time that these reach back."
        { seconds_that_events_reach_back "" = o.events_reach_ms / 1000; }
    "cluster_refused_records_total" "Records received of torrents that the list refuses."
        { refused_records "" = o.refused; }
}

#[rustfmt::skip]
metrics! {
    MULTICAST, multicast_numbers(m: &Multicast) -> u64;
    "multicast_received_packets_total" "Packets of opentracker's live sync received."
        { multicast_packets_received "" = m.packets_in; }
    "multicast_received_records_total" "Peers in the packets received."
        { multicast_records_received "" = m.records_in; }
    "multicast_sent_packets_total" "Packets of opentracker's live sync sent."
        { multicast_packets_sent "" = m.packets_out; }
    "multicast_sent_records_total" "Peers in the packets sent." { multicast_records_sent "" = m.records_out; }
    "multicast_unsent_packets_total" "Packets that the system did not send."
        { multicast_packets_unsent "" = m.unsent; }
    "multicast_ignored_packets_total" "Packets received and ignored." {
        multicast_packets_ignored "reason=own" = m.ignored[0];
        multicast_packets_ignored "reason=stranger" = m.ignored[1];
        multicast_packets_ignored "reason=malformed" = m.ignored[2];
        multicast_packets_ignored "reason=shed" = m.ignored[3];
    }
}

/// The metrics of a node that name no other node.
pub(super) fn tables(overview: &Overview) -> Vec<Numbered> {
    let multicast = overview.multicast.as_ref();
    let multicast = multicast.map(|m| counted(MULTICAST, multicast_numbers(m)));
    let own = [counted(NODE, node_numbers(overview))];
    own.into_iter().chain(multicast).collect()
}

/// Appends the metrics of the other nodes, without those that are unknown.
pub fn write_links(overview: &Overview, out: &mut Vec<u8>) {
    let links: Vec<_> = others(overview)
        .map(|link| (label(&link.name), link_numbers(link)))
        .collect();
    let mut family = "";
    for (index, row) in rows(LINK).enumerate() {
        let numbers = links.iter().filter_map(|(name, numbers)| {
            let number = numbers.get(index).copied().flatten();
            number.map(|number| (name, number))
        });
        for (name, number) in numbers.filter(|_| !row.family.is_empty()) {
            if family != row.family {
                family = row.family;
                write_family(out, family, row.help);
            }
            write_name(out, family, name, row.labels);
            number.write_base(out);
            text(out, "\n");
        }
    }
}

fn label(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    name.replace('\n', "\\n")
}

/// The report `mode=cluster`.
pub fn report(view: &View, out: &mut Vec<u8>) {
    let none = "no cluster: neither --cluster-listen nor --sync-multicast is given\n";
    match &view.cluster {
        Some(overview) => write(overview, &view.totals, out),
        None => text(out, none),
    }
}

/// Appends the part of the status page.
pub fn write_html(overview: &Overview, own: &Totals, out: &mut Vec<u8>) {
    text(out, "<h2>Cluster</h2>\n<p>");
    write_title(overview, out);
    text(out, "</p>\n<div class=\"wide\"><table>\n");
    for (row, cells) in cells(overview, own).iter().enumerate() {
        let head = |tag| if row == 0 { tag } else { "" };
        texts(out, &[head("<thead>"), "<tr>"]);
        for (column, cell) in cells.iter().enumerate() {
            let [start, end] = match (row, column) {
                (0, _) => ["<th scope=\"col\">", "</th>"],
                (_, 0) => ["<th scope=\"row\">", "</th>"],
                _ => ["<td>", "</td>"],
            };
            texts(out, &[start, &escaped(cell), end]);
        }
        texts(out, &["</tr>", head("</thead>"), "\n"]);
    }
    text(out, "</table></div>\n<pre>");
    write_all_lines(overview, out);
    text(out, "</pre>\n");
}

/// Finds links that are down, and a node that lacks peers.
pub(super) fn find_troubles(overview: &Overview, is_admin: bool, found: &mut Vec<String>) {
    match overview.health {
        Health::Ok => {}
        health => found.push(format!("this node is {}", health.name())),
    }
    let down = others(overview).filter(|link| !link.is_up);
    let names: Vec<&str> = down.map(|link| &*link.name).collect();
    if !names.is_empty() {
        let links = text::counted(names.len() as u64, "link");
        found.push(match is_admin {
            true => format!("{links} down: {}", names.join(", ")),
            false => format!("{links} down"),
        });
    }
}

/// Appends the text of the report.
fn write(o: &Overview, own: &Totals, out: &mut Vec<u8>) {
    write_title(o, out);
    text(out, "\n\n");
    write_rows(o, own, out);
    write_all_lines(o, out);
}

fn write_title(o: &Overview, out: &mut Vec<u8>) {
    let up = others(o).filter(|link| link.is_up).count() as u64;
    let all = others(o).count() as u64;
    texts(out, &["cluster ", o.health.name()]);
    fill(out, ": $ of $ other node", &[up, all]);
    texts(out, &[plural(all), " up"]);
}

fn write_all_lines(o: &Overview, out: &mut Vec<u8>) {
    write_lines(out, NODE, &node_numbers(o));
    if let Some(multicast) = &o.multicast {
        write_lines(out, MULTICAST, &multicast_numbers(multicast));
    }
}

/// Appends a line for each number other than zero.
fn write_lines(out: &mut Vec<u8>, table: &str, numbers: &[u64]) {
    for (row, &number) in rows(table).zip(numbers) {
        if row.name == "_" || number == 0 {
            continue;
        }
        text(out, &row.name.replace('_', " "));
        if let Some((_, reason)) = row.labels.split_once('=') {
            texts(out, &[", ", &reason.replace('_', " ")]);
        }
        fill_with(out, ": $\n", &[number], count);
    }
}

/// The other nodes, without this node, which an operator may name among them.
fn others(overview: &Overview) -> impl Iterator<Item = &LinkReport> {
    let links = overview.links.iter();
    links.filter(|link| link.failure != Some(Failure::Own))
}

/// Appends the table as text.
fn write_rows(overview: &Overview, own: &Totals, out: &mut Vec<u8>) {
    let cells = cells(overview, own);
    let lengths = cells
        .iter()
        .filter_map(|cells| cells.first().map(String::len));
    let width = lengths.max().unwrap_or(0);
    for cells in &cells {
        let [name, state, note, numbers @ ..] = &cells[..] else {
            continue;
        };
        let mut line = format!("{name:width$}  {state:5}");
        for number in numbers {
            line.push_str(&format!("{number:>11}"));
        }
        line = format!("{line}  {note}");
        texts(out, &[line.trim_end(), "\n"]);
    }
    text(out, "\n");
}

/// The cells of the table: titles, the totals of this node, and a row for each other node.
fn cells(overview: &Overview, own: &Totals) -> Vec<Vec<String>> {
    let mut cells = Vec::new();
    let mut line = |name: &str, state: &str, cell: &dyn Fn(&str, usize) -> String, note: &str| {
        let mut line: Vec<String> = [name, state, note].map(str::to_owned).to_vec();
        let columns = rows(LINK).enumerate().filter(|(_, row)| row.name != "_");
        line.extend(columns.map(|(index, row)| cell(row.name, index)));
        cells.push(line);
    };
    line("node", "state", &|title, _| title.replace('_', " "), "note");
    let totals = |title: &str, _| match title {
        "torrents" => shown(Some(Count(own.torrents as u64))),
        "peers" => shown(Some(Count(peers(own)))),
        _ => String::new(),
    };
    line("this node", "", &totals, "");
    for link in others(overview) {
        let note = match link.failure {
            _ if link.is_up && link.differs(own) => "differs".into(),
            _ if link.is_up => String::new(),
            _ if link.is_unresolved => "name has no address".into(),
            failure => failure.map_or_else(String::new, |failure| failure.to_string()),
        };
        let state = if link.is_up { "up" } else { "down" };
        let numbers = link_numbers(link);
        let cell = |_: &str, index| shown(numbers.get(index).copied().flatten());
        line(&link.name, state, &cell, &note);
    }
    cells
}

/// A number in the table.
fn shown(number: Option<Number>) -> String {
    let mut out = Vec::new();
    match number {
        Some(Count(number)) => short(&mut out, number.saturating_mul(100)),
        Some(Bytes(number)) => bytes(&mut out, number),
        Some(Milliseconds(ms)) => milliseconds(&mut out, ms),
        Some(Ahead(ms)) => {
            text(&mut out, if ms < 0 { "-" } else { "+" });
            milliseconds(&mut out, ms.unsigned_abs());
        }
        None => text(&mut out, "-"),
    }
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::write_table;
    use super::*;

    const OWN: Totals = Totals {
        torrents: 1000,
        leechers: 4000,
        seeders: 6000,
    };

    /// A node that is up, one with other totals, one with another key, this node, and one without an address.
    fn mixed() -> Overview {
        let up = LinkReport {
            name: "192.0.2.1:6970".into(),
            is_up: true,
            since_ms: 7_320_000,
            traffic: Traffic {
                bytes_in: 43 << 20,
                bytes_out: 40_894_464,
                records_in: 1_234_567,
                records_out: 1_180_000,
            },
            queue: 118,
            walk: Some(WalkReport {
                ago_ms: 152_000,
                records: 81_234,
                news: 3,
            }),
            round_trip_ms: Some(12),
            clock_ahead_ms: Some(-3),
            theirs: Some(OWN),
            ..LinkReport::default()
        };
        let differs = LinkReport {
            name: "[2001:db8::2]:6970".into(),
            walk: None,
            clock_ahead_ms: Some(7_200_000),
            theirs: Some(Totals {
                seeders: 5000,
                ..OWN
            }),
            ..up.clone()
        };
        let failed = |name: &str, failure| LinkReport {
            name: name.into(),
            since_ms: 4200,
            failure: Some(failure),
            ..LinkReport::default()
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
                LinkReport {
                    name: "e.example:6970".into(),
                    is_unresolved: true,
                    ..LinkReport::default()
                },
            ],
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
        written(|out| {
            write_links(overview, out);
            for table in tables(overview) {
                write_table(out, table);
            }
        })
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

failed handshakes, timed out: 1
failed handshakes, wrong key: 4
events kept: 1,200
seconds that events reach back: 299
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
            multicast packets received: 2\nmulticast records received: 10\n\
            multicast packets ignored, stranger: 7\nmulticast packets ignored, shed: 1\n";
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
            let link = LinkReport {
                theirs: Some(theirs),
                ..LinkReport::default()
            };
            link.differs(&OWN)
        };
        assert!(!differs(1000, 6000));
        assert!(!differs(980, 6000) && !differs(1020, 6000));
        assert!(differs(979, 6000) && differs(1021, 6000));
        assert!(!differs(1000, 5900) && !differs(1000, 6101));
        assert!(differs(1000, 5899) && differs(1000, 6102));
        assert!(!LinkReport::default().differs(&OWN));
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
            "cluster_events_reach_seconds 299",
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
    }

    #[test]
    fn names_are_escaped() {
        let mut overview = Overview::default();
        overview.links.push(LinkReport {
            name: "a\"b\\c<d>&e\nf:1".into(),
            ..LinkReport::default()
        });
        let line = "\nannounced_cluster_link_up{node=\"a\\\"b\\\\c<d>&e\\nf:1\"} 0\n";
        assert!(metrics(&overview).contains(line));
        let page = written(|out| write_html(&overview, &OWN, out));
        let start = "<p>cluster syncing: 0 of 1 other node up</p>\n";
        let name = "<th scope=\"row\">a\"b\\c&lt;d>&amp;e\nf:1</th><td>down</td>";
        assert!(page.contains(start) && page.contains(name), "{page}");
    }

    #[test]
    fn links_that_are_down_are_named_to_admins_only() {
        let troubles = |overview: &Overview, is_admin| {
            let mut found = Vec::new();
            find_troubles(overview, is_admin, &mut found);
            found
        };
        let mut overview = mixed();
        let down = "2 links down: c.example:6970, e.example:6970";
        assert_eq!(troubles(&overview, true), [down]);
        assert_eq!(troubles(&overview, false), ["2 links down"]);
        overview.links.truncate(2);
        assert!(troubles(&overview, true).is_empty());
        overview.health = Health::Syncing;
        assert_eq!(troubles(&overview, true).len(), 1);
    }
}
