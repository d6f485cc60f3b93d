//! The status page: one HTML document that loads nothing else, with plots as inline SVG. The same numbers are in
//! tables, for text browsers and screen readers.
//!
//! Plotted numbers are in hundredths, so that slow rates show.

use super::history::{INTERVAL_MS, MAX_SAMPLES, Sample};
use super::{View, cluster};
use crate::base::text::{bytes, count, duration, fill, fill_with, fraction, short, text, texts};

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
    "<title>announced</title>\n<style>\n",
    include_str!("page.css"),
    "</style>\n</head>\n<body>\n<header><h1>announced</h1>\n<p>BitTorrent tracker, version ",
    env!("CARGO_PKG_VERSION"),
    ", up ",
);

/// Appends the page.
pub fn write(view: &View, out: &mut Vec<u8>) {
    text(out, HEAD);
    duration(out, view.uptime());
    text(out, "</p></header>\n<main>\n");
    write_now(view, out);
    text(out, "<h2>The last hour</h2>\n<div class=\"plots\">\n");
    for plot in SERIES.chunk_by(|one, next| one.title == next.title) {
        write_plot(plot, view, out);
    }
    text(out, "</div>\n");
    write_hour(view, out);
    write_totals(view, out);
    if let Some(cluster) = &view.cluster {
        cluster::write_html(cluster, &view.totals, out);
    }
    text(out, "</main>\n</body>\n</html>\n");
}

const NOW: &str = "<dl>
<div><dt>Torrents</dt><dd>$</dd></div>
<div><dt>Seeders</dt><dd>$</dd></div>
<div><dt>Leechers</dt><dd>$</dd></div>
<div><dt>Peers over IPv4</dt><dd>$</dd></div>
<div><dt>Peers over IPv6</dt><dd>$</dd></div>
<div><dt>TCP connections</dt><dd>$</dd></div>
<div><dt>Memory</dt><dd>";

/// Appends the sizes at this moment.
fn write_now(view: &View, out: &mut Vec<u8>) {
    let [leechers4, seeders4, leechers6, seeders6] = view.peers.map(|count| count as u64);
    let numbers = [
        view.totals.torrents as u64,
        seeders4 + seeders6,
        leechers4 + leechers6,
        leechers4 + seeders4,
        leechers6 + seeders6,
        view.monitor.connections() as u64,
    ];
    fill_with(out, NOW, &numbers, count);
    bytes(out, view.monitor.resident.bytes());
    text(out, "</dd></div>\n</dl>\n");
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
    write_axes(scale, out);
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

fn write_axes(scale: u64, out: &mut Vec<u8>) {
    for (part, value) in [(0, scale), (1, scale / 2), (2, 0)] {
        let y = TOP + (BOTTOM - TOP) * part / 2;
        let line = "<path class=\"grid\" d=\"M$ $H$\"/><text x=\"$\" y=\"$\" class=\"end\">";
        fill(out, line, &[LEFT, y, RIGHT, LEFT - 50, y + 38]);
        short(out, value);
        text(out, "</text>\n");
    }
    let labels = "<text x=\"$\" y=\"1430\">60 min ago</text><text x=\"$\" y=\"1430\" class=\"mid\">30 min ago\
        </text><text x=\"$\" y=\"1430\" class=\"end\">now</text>\n";
    fill(out, labels, &[LEFT, LEFT.midpoint(RIGHT), RIGHT]);
}

/// Appends a line and the area below it. The newest value is at the right.
fn write_line(series: &Series, values: &[u64], scale: u64, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let last = MAX_SAMPLES as u64 - 2;
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

/// Appends a table of every fifth minute.
fn write_hour(view: &View, out: &mut Vec<u8>) {
    let start = "<details><summary>The last hour in numbers</summary>\n<table><thead><tr><th scope=\"col\">Minutes ago";
    text(out, start);
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
    text(out, "</tbody></table></details>\n");
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
