//! The status page: one HTML document that asks for nothing else, with plots as inline SVG and the same
//! numbers in tables, for browsers that show no pictures and for people who cannot see them.
//!
//! Numbers are in hundredths throughout, so that slow rates show.

use super::history::{EVERY, MOST, Sample};
use super::people::{bytes, duration, number, short_number, text};
use super::{View, cluster, fill};

/// A number to plot, from a sample and the one before.
struct Series {
    name: &'static str,
    /// Its colour, as a class of the style sheet.
    class: &'static str,
    value: fn(&Sample, &Sample) -> u64,
}

struct Plot {
    title: &'static str,
    series: &'static [Series],
    /// The top of the scale is not below this.
    least: u64,
    /// A rate is that of the last sample; what is not can be told as it is now.
    is_rate: bool,
}

const fn series(
    name: &'static str,
    class: &'static str,
    value: fn(&Sample, &Sample) -> u64,
) -> Series {
    Series { name, class, value }
}

static PLOTS: [Plot; 4] = [
    Plot {
        title: "Requests a second",
        series: &[
            series("UDP", "a", |before, now| rate(now.udp, before.udp)),
            series("HTTP", "b", |before, now| rate(now.http, before.http)),
        ],
        least: 100,
        is_rate: true,
    },
    Plot {
        title: "Peers",
        series: &[series("", "a", |_, now| now.peers * 100)],
        least: 1000,
        is_rate: false,
    },
    Plot {
        title: "Torrents",
        series: &[series("", "a", |_, now| now.torrents * 100)],
        least: 1000,
        is_rate: false,
    },
    Plot {
        title: "Dropped replies a second",
        series: &[series("", "c", |before, now| {
            rate(now.dropped, before.dropped)
        })],
        least: 100,
        is_rate: true,
    },
];

fn rate(now: u64, before: u64) -> u64 {
    now.saturating_sub(before).saturating_mul(100_000) / EVERY
}

const HEAD: &str = concat!(
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"robots\" content=\"noindex\">\n<meta http-equiv=\"refresh\" content=\"30\">\n",
    "<title>announced</title>\n<style>\n",
    include_str!("page.css"),
    "</style>\n</head>\n<body>\n<header><h1>announced</h1>\n<p>BitTorrent tracker, version ",
    env!("CARGO_PKG_VERSION"),
);

/// Appends the page.
pub fn write(view: &View, out: &mut Vec<u8>) {
    text(out, HEAD);
    text(out, ", up ");
    duration(out, view.uptime());
    text(out, "</p></header>\n<main>\n");
    write_now(view, out);
    text(out, "<h2>The last hour</h2>\n<div class=\"plots\">\n");
    for plot in &PLOTS {
        write_plot(plot, view, out);
    }
    text(out, "</div>\n");
    write_hour(view, out);
    text(out, "<h2>Since the start</h2>\n");
    write_totals(view, out);
    if let Some(cluster) = &view.cluster {
        cluster::write_html(cluster, &view.totals, out);
    }
    text(out, "</main>\n</body>\n</html>\n");
}

/// What there is at this moment.
fn write_now(view: &View, out: &mut Vec<u8>) {
    let [leechers4, seeders4, leechers6, seeders6] = view.peers.map(|count| count as u64);
    let cards = [
        ("Torrents", view.totals.torrents as u64),
        ("Seeders", seeders4 + seeders6),
        ("Leechers", leechers4 + leechers6),
        ("Peers over IPv4", leechers4 + seeders4),
        ("Peers over IPv6", leechers6 + seeders6),
        ("TCP connections", view.monitor.connections() as u64),
    ];
    text(out, "<dl>\n");
    for (name, count) in cards {
        card(out, name, |out| number(out, count.saturating_mul(100)));
    }
    card(out, "Memory", |out| {
        bytes(out, view.monitor.resident.bytes())
    });
    text(out, "</dl>\n");
}

fn card(out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    for part in ["<div><dt>", name, "</dt><dd>"] {
        text(out, part);
    }
    value(out);
    text(out, "</dd></div>\n");
}

/// The drawing's own units: the plot's field, with room for the labels at its left and below.
const LEFT: u64 = 480;
const RIGHT: u64 = 3960;
const TOP: u64 = 80;
const BOTTOM: u64 = 1280;

fn write_plot(plot: &Plot, view: &View, out: &mut Vec<u8>) {
    let values = |series: &Series| -> Vec<u64> {
        let history = view.monitor.history();
        history
            .steps()
            .map(|(before, now)| (series.value)(before, now))
            .collect()
    };
    let all: Vec<Vec<u64>> = plot.series.iter().map(values).collect();
    let highest = all.iter().flatten().copied().max().unwrap_or(0);
    let scale = round_up(highest.max(plot.least));
    for part in ["<figure><figcaption>", plot.title] {
        text(out, part);
    }
    for (series, values) in plot.series.iter().zip(&all) {
        for part in [" <span class=\"", series.class, "\">", series.name, " <b>"] {
            text(out, part);
        }
        let latest = match plot.is_rate {
            true => values.last().copied().unwrap_or(0),
            false => (series.value)(&Sample::default(), &view.sample()),
        };
        number(out, latest);
        text(out, "</b></span>");
    }
    text(
        out,
        "</figcaption>\n<svg viewBox=\"0 0 4000 1500\" role=\"img\" aria-label=\"",
    );
    text(out, plot.title);
    text(
        out,
        " over the last hour, plotted; the table below has the numbers\">\n",
    );
    write_axes(scale, out);
    for (series, values) in plot.series.iter().zip(&all) {
        write_line(series, values, scale, out);
    }
    if all.iter().all(Vec::is_empty) {
        text(
            out,
            "<text x=\"2220\" y=\"440\" class=\"mid\">The first samples are being taken.</text>\n",
        );
    }
    text(out, "</svg></figure>\n");
}

fn write_axes(scale: u64, out: &mut Vec<u8>) {
    for (part, value) in [(0, scale), (1, scale / 2), (2, 0)] {
        let y = TOP + (BOTTOM - TOP) * part / 2;
        fill(
            out,
            "<path class=\"grid\" d=\"M$ $H$\"/><text x=\"$\" y=\"$\" class=\"end\">",
            &[LEFT, y, RIGHT, LEFT - 50, y + 38],
        );
        short_number(out, value);
        text(out, "</text>\n");
    }
    let middle = LEFT.midpoint(RIGHT);
    fill(
        out,
        "<text x=\"$\" y=\"1430\">60 min ago</text><text x=\"$\" y=\"1430\" class=\"mid\">30 min ago\
        </text><text x=\"$\" y=\"1430\" class=\"end\">now</text>\n",
        &[LEFT, middle, RIGHT],
    );
}

/// The newest value is at the right, wherever the oldest may be.
fn write_line(series: &Series, values: &[u64], scale: u64, out: &mut Vec<u8>) {
    let most = MOST as u64 - 2;
    let Some(first) = (most + 1)
        .checked_sub(values.len() as u64)
        .filter(|_| !values.is_empty())
    else {
        return;
    };
    let x = |i: u64| LEFT + (RIGHT - LEFT) * i / most;
    let point = |out: &mut Vec<u8>, before: &str, i: u64, value: u64| {
        let height = u128::from(BOTTOM - TOP) * u128::from(value) / u128::from(scale.max(1));
        text(out, before);
        fill(
            out,
            "$ $",
            &[x(i), BOTTOM - u64::try_from(height).unwrap_or(0)],
        );
    };
    for (class, is_area) in [("area ", true), ("line ", false)] {
        for part in ["<path class=\"", class, series.class, "\" d=\""] {
            text(out, part);
        }
        if is_area {
            fill(out, "M$ $", &[x(first), BOTTOM]);
        }
        let mut before = if is_area { "L" } else { "M" };
        for (i, &value) in (first..).zip(values) {
            point(out, before, i, value);
            before = " ";
        }
        // A single sample would be a line without length.
        if values.len() == 1 {
            text(out, "h1");
        }
        if is_area {
            fill(out, "V$Z", &[BOTTOM]);
        }
        text(out, "\"/>\n");
    }
}

/// Every fifth minute in numbers.
fn write_hour(view: &View, out: &mut Vec<u8>) {
    text(
        out,
        "<details><summary>The last hour in numbers</summary>\n<table><thead><tr><th scope=\"col\">Minutes ago",
    );
    for (plot, series) in all_series() {
        text(out, "</th><th scope=\"col\">");
        if !series.name.is_empty() {
            text(out, series.name);
            text(out, " ");
            // In the middle of a line.
            text(out, "requests a second");
        } else {
            text(out, plot.title);
        }
    }
    text(out, "</th></tr></thead>\n<tbody>\n");
    let a_minute = usize::try_from(60_000 / EVERY).unwrap_or(1);
    let history = view.monitor.history();
    for (i, (before, now)) in history.steps().rev().enumerate() {
        if i % (5 * a_minute) != 0 {
            continue;
        }
        fill(
            out,
            "<tr><th scope=\"row\">$</th>",
            &[(i / a_minute) as u64],
        );
        for (_, series) in all_series() {
            text(out, "<td>");
            number(out, (series.value)(before, now));
            text(out, "</td>");
        }
        text(out, "</tr>\n");
    }
    text(out, "</tbody></table></details>\n");
}

fn all_series() -> impl Iterator<Item = (&'static Plot, &'static Series)> {
    PLOTS
        .iter()
        .flat_map(|plot| plot.series.iter().map(move |series| (plot, series)))
}

fn write_totals(view: &View, out: &mut Vec<u8>) {
    let c = &view.counters;
    let http_errors = c.http_refused + c.http_failures();
    let rows = [
        ("Connects", Some(c.udp_connects), None),
        ("Announces", Some(c.udp_announces), Some(c.http_announces)),
        ("Scrapes", Some(c.udp_scrapes), Some(c.http_scrapes)),
        ("Full scrapes", None, Some(c.full_scrapes)),
        ("Other requests", None, Some(c.http_others)),
        (
            "Refused or invalid",
            Some(c.udp_strangers + c.udp_invalid),
            Some(http_errors),
        ),
        ("Replies dropped", Some(c.dropped()), None),
    ];
    text(
        out,
        "<table><thead><tr><td></td><th scope=\"col\">UDP</th><th scope=\"col\">HTTP</th></tr></thead>\n\
         <tbody>\n",
    );
    for (name, udp, http) in rows {
        let count = |out: &mut Vec<u8>, n: u64| number(out, n.saturating_mul(100));
        row(out, name, [udp, http], count);
    }
    row(
        out,
        "Received",
        [Some(c.udp_received), Some(c.tcp_received)],
        bytes,
    );
    row(out, "Sent", [Some(c.udp_sent), Some(c.tcp_sent)], bytes);
    text(out, "</tbody></table>\n<p>Completed downloads: ");
    number(out, view.tally.completed.saturating_mul(100));
    text(out, "</p>\n");
}

fn row(out: &mut Vec<u8>, name: &str, values: [Option<u64>; 2], write: fn(&mut Vec<u8>, u64)) {
    for part in ["<tr><th scope=\"row\">", name, "</th>"] {
        text(out, part);
    }
    for value in values {
        text(out, "<td>");
        if let Some(value) = value {
            write(out, value);
        }
        text(out, "</td>");
    }
    text(out, "</tr>\n");
}

/// The least of 1, 2 and 5 times a power of ten that is not below this.
fn round_up(value: u64) -> u64 {
    let mut power: u64 = 1;
    loop {
        for step in [1, 2, 5] {
            match power.checked_mul(step) {
                Some(rounded) if rounded < value => {}
                Some(rounded) => return rounded,
                None => return value,
            }
        }
        power = power.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, rounded) in [(1, 1), (3, 5), (100, 100), (101, 200), (2001, 5000)] {
            assert_eq!(round_up(value), rounded);
        }
        assert!(round_up(u64::MAX) == u64::MAX);
    }
}
