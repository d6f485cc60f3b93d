//! The printed figures: medians with their spread, and the table at the end.

use super::options::Bench;
use std::fmt;

/// Median, minimum and maximum of some measurements.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Spread { median, min, max }
    }

    /// The median, and the spread with a unit.
    pub fn figure(self, unit: &str) -> (f64, String) {
        (self.median, format!("{self}{unit}"))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Spread { median, min, max } = self;
        write!(f, "{median:.3} ({min:.3} to {max:.3})")
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// The figure is for comparison, or does not count.
    None,
}

impl Bench {
    /// Prints the headline of a case.
    pub fn begin(&self, subject: &str) {
        println!("\n{subject}");
    }

    /// Prints a line of detail, which is not in the table.
    pub fn detail(&self, server: &str, detail: impl fmt::Display) {
        println!("  {server:<18} {detail}");
    }

    /// Adds a row with a figure: its value, which is held to the goal, and its text.
    pub fn row(
        &self,
        subject: &str,
        server: &str,
        (value, text): (f64, String),
        goal: Goal,
        remark: &str,
    ) {
        let verdict = |is_met| if is_met { "met" } else { "missed" };
        let goal = match goal {
            Goal::AtLeast(limit) => format!("≥ {limit}, {}", verdict(value >= limit)),
            Goal::AtMost(limit) => format!("≤ {limit}, {}", verdict(value <= limit)),
            Goal::None => String::new(),
        };
        self.detail(server, format_args!("{text} {goal} {remark}"));
        let row = format!("| {subject} | {server} | {text} | {goal} | {remark} |");
        self.rows.borrow_mut().push(row);
    }

    /// Adds a row for a figure that could not be measured.
    pub fn skip(&self, subject: &str, server: &str, why: &str) {
        let figure = (0.0, "not measured".to_string());
        self.row(subject, server, figure, Goal::None, &why.replace('\n', " "));
    }

    /// Prints the rows in the order in which they were measured.
    pub fn print(&self) {
        println!("\n| subject | server | figure | goal | remark |\n|---|---|---|---|---|");
        println!("{}", self.rows.borrow().join("\n"));
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
