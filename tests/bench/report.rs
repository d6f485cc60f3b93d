//! Numbers for people: medians, spreads, and the table at the end.

use std::fmt;

/// The middle and the ends of some measurements.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// None where there is nothing to summarise.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread {
            median,
            least,
            most,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.digits$} ({:.digits$} to {:.digits$})",
            self.median, self.least, self.most
        )
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Told for comparison.
    None,
}

/// A figure, and how it is written.
#[derive(Clone, Debug)]
pub struct Figure {
    pub value: f64,
    pub text: String,
}

struct Row {
    what: String,
    who: String,
    figure: String,
    goal: String,
    remark: String,
}

/// Rows of the table, in the order in which they were measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn new() -> Report {
        Report::default()
    }

    /// Opens a case on the screen.
    pub fn begin(&self, what: &str) {
        println!("\n{what}");
    }

    /// A line of detail on the screen.
    pub fn say(&self, who: &str, detail: impl fmt::Display) {
        println!("  {who:<18} {detail}");
    }

    /// A row of the table. A figure that must not be counted has no verdict.
    pub fn row(&mut self, what: &str, who: &str, figure: &Figure, goal: Goal, remark: &str) {
        let counted = !remark.contains(NOT_COUNTED);
        let verdict = |met| match (counted, met) {
            (false, _) => "",
            (true, true) => ", met",
            (true, false) => ", missed",
        };
        let goal = match goal {
            Goal::AtLeast(limit) => format!("≥ {limit}{}", verdict(figure.value >= limit)),
            Goal::AtMost(limit) => format!("≤ {limit}{}", verdict(figure.value <= limit)),
            Goal::None => String::new(),
        };
        self.say(who, format_args!("{} {goal} {remark}", figure.text));
        self.push(what, who, &figure.text, goal, remark);
    }

    /// A row for what could not be measured, and why.
    pub fn skip(&mut self, what: &str, who: &str, why: impl fmt::Display) {
        self.say(who, format_args!("not measured: {why}"));
        self.push(what, who, "not measured", String::new(), &why.to_string());
    }

    fn push(&mut self, what: &str, who: &str, figure: &str, goal: String, remark: &str) {
        self.rows.push(Row {
            what: what.to_string(),
            who: who.to_string(),
            figure: figure.to_string(),
            goal,
            remark: remark.replace('\n', " "),
        });
    }

    pub fn print(&self) {
        println!("\n| what | who | figure | goal | remark |\n|---|---|---|---|---|");
        for Row {
            what,
            who,
            figure,
            goal,
            remark,
        } in &self.rows
        {
            println!("| {what} | {who} | {figure} | {goal} | {remark} |");
        }
    }
}

/// Stands in the remark of a figure that says nothing about the server.
pub const NOT_COUNTED: &str = "not counted";

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn megabytes(octets: u64) -> String {
    format!("{:.2} MB", octets as f64 / 1e6)
}
