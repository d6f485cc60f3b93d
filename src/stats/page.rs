//! The status page: one HTML document that loads nothing else, with plots as inline SVG. The same numbers are in
//! tables, for text browsers and screen readers.
//!
//! The page refreshes itself and runs no script. An element that the reader opens would be closed by the next refresh,
//! so the page's address says whether the table of the last hour is shown.
//!
//! Plotted numbers are in hundredths, so that slow rates show.

use super::history::{INTERVAL_MS, Sample};
use super::modes::{MODES, Report};
use super::{View, cluster, troubles};
use crate::base::text::{
    bytes, count, duration, escaped, fill, fill_with, fraction, short, text, texts,
};

struct Series {
    /// Series with the same title share a plot.
    title: &'static str,
    name: &'static str,
    /// Its colour, as a class of the style sheet.
    class: &'static str,
    /// Whether it shows how much a count grows a second, else a size.
    is_rate: bool,
    number: fn(&Sample) -> u64,
}

#[rustfmt::skip]
static SERIES: [Series; 5] = [
    Series { title: "Requests a second", name: "UDP", class: "a", is_rate: true, number: |sample| sample.udp },
    Series { title: "Requests a second", name: "HTTP", class: "b", is_rate: true, number: |sample| sample.http },
    Series { title: "Peers", name: "", class: "a", is_rate: false, number: |sample| sample.peers },
    Series { title: "Torrents", name: "", class: "a", is_rate: false, number: |sample| sample.torrents },
    Series { title: "Dropped replies a second", name: "", class: "c", is_rate: true, number: |sample| sample.dropped },
];

impl Series {
    /// The number to show for a sample and the one before.
    fn value(&self, before: &Sample, now: &Sample) -> u64 {
        let [before, now] = [before, now].map(self.number);
        match self.is_rate {
            true => now.saturating_sub(before).saturating_mul(100_000) / INTERVAL_MS,
            false => now.saturating_mul(100),
        }
    }
}

const HEAD: &str = concat!(
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"robots\" content=\"noindex\">\n<meta http-equiv=\"refresh\" content=\"30\">\n",
    "<style>\n",
    include_str!("page.css"),
    "</style>\n<title>",
);

const VERSION: &str = concat!(
    "<p>BitTorrent tracker, version ",
    env!("CARGO_PKG_VERSION"),
    ", up "
);

/// Appends the page. The names of other nodes are for admins, and private modes are linked for them only.
pub fn write(view: &View, is_admin: bool, shows_hour: bool, out: &mut Vec<u8>) {
    let host = escaped(&view.monitor.host);
    let on = if host.is_empty() { "" } else { " on " };
    let titles = ["</title>\n</head>\n<body>\n<header><h1>", "</h1>\n"];
    text(out, HEAD);
    for title in titles {
        texts(out, &["announced", on, &host, title]);
    }
    write_troubles(view, is_admin, out);
    text(out, VERSION);
    duration(out, view.uptime());
    text(out, "</p></header>\n<main>\n");
    write_now(view, out);
    text(out, "<h2>The last hour</h2>\n<div class=\"plots\">\n");
    for plot in SERIES.chunk_by(|one, next| one.title == next.title) {
        write_plot(plot, view, out);
    }
    text(out, "</div>\n");
    write_hour(view, shows_hour, out);
    write_totals(view, out);
    if let Some(cluster) = view.cluster.as_ref().filter(|_| is_admin) {
        cluster::write_html(cluster, &view.totals, out);
    }
    text(out, "</main>\n<nav><h2>Other reports</h2>\n<p>");
    let is_linked = |report: Report| !matches!(report, Report::Html | Report::Gone);
    for mode in MODES.iter().filter(|mode| is_admin || !mode.is_private) {
        if is_linked(mode.report) {
            let name = mode.name;
            texts(out, &["<a href=\"?mode=", name, "\">", name, "</a>\n"]);
        }
    }
    text(out, "</p></nav>\n</body>\n</html>\n");
}

fn write_troubles(view: &View, is_admin: bool, out: &mut Vec<u8>) {
    let troubles = troubles::find(view, is_admin);
    match &troubles[..] {
        [] => text(out, "<p class=\"well\">All is well.</p>\n"),
        _ => {
            let troubles = escaped(&troubles.join("; "));
            texts(out, &["<p class=\"ill\">Not well: ", &troubles, ".</p>\n"]);
        }
    }
}

const NOW: &str = "<dl>
<div><dt>Peers</dt><dd>$ <small>of $</small></dd></div>
<div><dt>Torrents</dt><dd>$ <small>of $</small></dd></div>
<div><dt>Seeders</dt><dd>$</dd></div>
<div><dt>Leechers</dt><dd>$</dd></div>
<div><dt>Peers over IPv4</dt><dd>$</dd></div>
<div><dt>Peers over IPv6</dt><dd>$</dd></div>
<div><dt>TCP connections</dt><dd>$ <small>of $</small></dd></div>
<div><dt>Interval</dt><dd>";

const MEMORY: &str = "</dd></div>
<div><dt>Memory</dt><dd>";

/// Appends the sizes at this moment.
fn write_now(view: &View, out: &mut Vec<u8>) {
    let [leechers4, seeders4, leechers6, seeders6] = view.peers.map(|count| count as u64);
    let numbers = [
        view.all_peers() as u64,
        view.limits.max_peers as u64,
        view.totals.torrents as u64,
        view.limits.max_torrents as u64,
        seeders4 + seeders6,
        leechers4 + leechers6,
        leechers4 + seeders4,
        leechers6 + seeders6,
        view.monitor.connections() as u64,
        view.monitor.max_connections() as u64,
    ];
    fill_with(out, NOW, &numbers, count);
    duration(out, view.interval.into());
    text(out, MEMORY);
    bytes(out, view.monitor.resident.bytes());
    text(out, "</dd></div>\n");
    if let Some(list) = &view.list {
        texts(out, &["<div><dt>", list.name, "</dt><dd>"]);
        let template = match list.changes {
            0 => "$ <small>info-hashes</small></dd></div>\n",
            _ => "$ <small>info-hashes, $ changes</small></dd></div>\n",
        };
        let numbers = [list.hashes, list.changes].map(|number| number as u64);
        fill_with(out, template, &numbers, count);
    }
    if let Some(saves) = &view.monitor.saves {
        let last = saves.last();
        text(out, "<div><dt>Last save</dt><dd>");
        match last.ended {
            0 => text(out, "none"),
            ended => {
                let ago = view.monitor.seconds_since_1970().saturating_sub(ended);
                duration(out, ago);
                text(out, " ago");
            }
        }
        text(
            out,
            if last.has_failed {
                " <small>failed</small>"
            } else {
                ""
            },
        );
        text(out, "</dd></div>\n");
    }
    text(out, "</dl>\n");
}

/// The plot's field in units of the drawing, with room for labels at its left and below.
const LEFT: u64 = 480;
const RIGHT: u64 = 3960;
const TOP: u64 = 80;
const BOTTOM: u64 = 1280;

fn write_plot(plot: &[Series], view: &View, out: &mut Vec<u8>) {
    let Some(&Series { title, is_rate, .. }) = plot.first() else {
        return;
    };
    let history = view.monitor.history();
    let values = |series: &Series| {
        let values = history
            .steps()
            .map(|(before, now)| series.value(before, now));
        values.collect::<Vec<u64>>()
    };
    let all: Vec<Vec<u64>> = plot.iter().map(values).collect();
    let max = all.iter().flatten().copied().max().unwrap_or(0);
    let scale = round_up(max.max(if is_rate { 100 } else { 1000 }));
    texts(out, &["<figure><figcaption>", title]);
    for (series, values) in plot.iter().zip(&all) {
        let latest = match is_rate {
            true => values.last().copied().unwrap_or(0),
            false => series.value(&Sample::default(), &view.sample()),
        };
        texts(out, &[" <span class=\"", series.class, "\">", series.name]);
        text(out, " <b>");
        fraction(out, latest);
        text(out, "</b></span>");
    }
    let start = "</figcaption>\n<svg viewBox=\"0 0 4000 1500\" role=\"img\" aria-label=\"";
    let end = " over the last hour, plotted; the table below has the numbers\">\n";
    texts(out, &[start, title, end]);
    write_axes(scale, history.steps().len() as u64, out);
    for (series, values) in plot.iter().zip(&all) {
        write_line(series, values, scale, out);
    }
    if all.iter().all(Vec::is_empty) {
        let wait =
            "<text x=\"2220\" y=\"440\" class=\"mid\">The first samples are being taken.</text>\n";
        text(out, wait);
    }
    text(out, "</svg></figure>\n");
}

/// Appends the lines of a plot over so many steps, and their labels.
fn write_axes(scale: u64, steps: u64, out: &mut Vec<u8>) {
    for (part, value) in [(0, scale), (1, scale / 2), (2, 0)] {
        let y = TOP + (BOTTOM - TOP) * part / 2;
        let line = "<path class=\"grid\" d=\"M$ $H$\"/><text x=\"$\" y=\"$\" class=\"end\">";
        fill(out, line, &[LEFT, y, RIGHT, LEFT - 50, y + 38]);
        short(out, value);
        text(out, "</text>\n");
    }
    let minutes = steps * INTERVAL_MS / 600;
    for (x, class, hundredths) in [
        (LEFT, "", minutes),
        (LEFT.midpoint(RIGHT), " class=\"mid\"", minutes / 2),
        (RIGHT, " class=\"end\"", 0),
    ] {
        fill(out, "<text x=\"$\" y=\"1430\"", &[x]);
        texts(out, &[class, ">"]);
        match hundredths {
            0 => text(out, if x == RIGHT { "now" } else { "" }),
            _ => {
                fraction(out, hundredths);
                text(out, " min ago");
            }
        }
        text(out, "</text>\n");
    }
}

/// Appends a line and the area below it. The newest value is at the right.
fn write_line(series: &Series, values: &[u64], scale: u64, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let last = values.len().max(2) as u64 - 1;
    let first = (last + 1).saturating_sub(values.len() as u64);
    let x = |index: u64| LEFT + (RIGHT - LEFT) * index / last;
    let mut points = Vec::new();
    for (index, &value) in (first..).zip(values) {
        let height = u128::from(BOTTOM - TOP) * u128::from(value) / u128::from(scale.max(1));
        let y = BOTTOM - u64::try_from(height).unwrap_or(0);
        fill(&mut points, "$ $ ", &[x(index), y]);
    }
    // A single sample would be a line without length.
    if values.len() == 1 {
        text(&mut points, "h1");
    }
    texts(out, &["<path class=\"area ", series.class, "\" d=\"M"]);
    fill(out, "$ $L", &[x(first), BOTTOM]);
    out.extend_from_slice(&points);
    fill(out, "V$Z\"/>\n", &[BOTTOM]);
    texts(out, &["<path class=\"line ", series.class, "\" d=\"M"]);
    out.extend_from_slice(&points);
    text(out, "\"/>\n");
}

const SHOW_HOUR: &str =
    "<p><a href=\"?mode=html&amp;hour=shown\">Show the last hour in numbers</a></p>\n";
const HOUR: &str = "<p><a href=\"?mode=html\">Hide the numbers</a></p>\n<div class=\"wide\">\
    <table><thead><tr><th scope=\"col\">Minutes ago";

/// Appends a table of every fifth minute, or a link to the page with it.
fn write_hour(view: &View, shows_hour: bool, out: &mut Vec<u8>) {
    text(out, if shows_hour { HOUR } else { SHOW_HOUR });
    if !shows_hour {
        return;
    }
    for series in &SERIES {
        text(out, "</th><th scope=\"col\">");
        texts(out, &[series.title, " ", series.name]);
    }
    text(out, "</th></tr></thead>\n<tbody>\n");
    const STEP: usize = (5 * 60_000 / INTERVAL_MS) as usize;
    let history = view.monitor.history();
    for ((before, now), minutes) in history.steps().rev().step_by(STEP).zip((0..).step_by(5)) {
        fill(out, "<tr><th scope=\"row\">$</th>", &[minutes]);
        for series in &SERIES {
            text(out, "<td>");
            fraction(out, series.value(before, now));
            text(out, "</td>");
        }
        text(out, "</tr>\n");
    }
    text(out, "</tbody></table></div>\n");
}

const TOTALS: &str = "<h2>Since the start</h2>
<table><thead><tr><td></td><th scope=\"col\">UDP</th><th scope=\"col\">HTTP</th></tr></thead>
<tbody>
<tr><th scope=\"row\">Connects</th><td>$</td><td></td></tr>
<tr><th scope=\"row\">Announces</th><td>$</td><td>$</td></tr>
<tr><th scope=\"row\">Scrapes</th><td>$</td><td>$</td></tr>
<tr><th scope=\"row\">Full scrapes</th><td></td><td>$</td></tr>
<tr><th scope=\"row\">Other requests</th><td></td><td>$</td></tr>
<tr><th scope=\"row\">Refused or invalid</th><td>$</td><td>$</td></tr>
<tr><th scope=\"row\">Replies dropped</th><td>$</td><td></td></tr>
";

const TRAFFIC: &str = "<tr><th scope=\"row\">Received</th><td>$</td><td>$</td></tr>
<tr><th scope=\"row\">Sent</th><td>$</td><td>$</td></tr>
</tbody></table>
";

fn write_totals(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let numbers = [
        c.udp_connects,
        c.udp_announces,
        c.http_announces,
        c.udp_scrapes,
        c.http_scrapes,
        c.full_scrapes,
        c.http_others,
        c.errors("udp"),
        c.errors("http"),
        c.dropped(),
    ];
    fill_with(out, TOTALS, &numbers, count);
    let traffic = [c.udp_received, c.tcp_received, c.udp_sent, c.tcp_sent];
    fill_with(out, TRAFFIC, &traffic, bytes);
    let completed = [view.tally.completed];
    fill_with(out, "<p>Completed downloads: $</p>\n", &completed, count);
}

/// The least of 1, 2 and 5 times a power of ten that is not below a value.
fn round_up(value: u64) -> u64 {
    let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
    let mut steps = powers.flat_map(|power| [1, 2, 5].map(|step| power.saturating_mul(step)));
    steps.find(|step| *step >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_1_2_or_5_times_a_power_of_ten() {
        for (value, rounded) in [(1, 1), (3, 5), (100, 100), (101, 200), (2001, 5000)] {
            assert_eq!(round_up(value), rounded);
        }
        assert!(round_up(u64::MAX) == u64::MAX);
    }
}
