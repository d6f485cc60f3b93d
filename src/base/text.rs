//! Text appended to a buffer: templates, and numbers with separators and units.
//!
//! A report is bytes pushed one behind the other, without `core::fmt` and without floats: a call with a template and
//! its numbers is a fraction of the machine code of `write!`, and formatting floats alone costs 20 KiB. Fractions are
//! whole numbers of hundredths.

use std::io;

/// The text of an error without the number that the standard library puts behind it: "(os error 98)".
pub fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let (Some(_), Some(end)) = (error.raw_os_error(), text.rfind(" (os error ")) {
        text.truncate(end);
    }
    text
}

/// Never inlined: a copy of this for each part of each report is 2 KiB.
#[inline(never)]
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub fn texts(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        text(out, part);
    }
}

/// Appends a template with a number in place of each `$`.
pub fn fill(out: &mut Vec<u8>, template: &str, numbers: &[u64]) {
    fill_with(out, template, numbers, decimal);
}

/// The same, with numbers in another format.
pub fn fill_with(out: &mut Vec<u8>, template: &str, numbers: &[u64], write: fn(&mut Vec<u8>, u64)) {
    let mut parts = template.split('$');
    text(out, parts.next().unwrap_or_default());
    for (part, &number) in parts.zip(numbers) {
        write(out, number);
        text(out, part);
    }
}

pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

/// A number with leading zeros, as `printf` writes it.
pub fn padded(out: &mut Vec<u8>, number: u64, digits: usize) {
    if digits > 1 || number > 9 {
        padded(out, number / 10, digits.saturating_sub(1));
    }
    out.push(b'0' + (number % 10) as u8);
}

/// Bytes as capital hexadecimal digits, as opentracker writes them.
pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value & 15)];
    out.extend(bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]));
}

/// `1,234,567`
pub fn count(out: &mut Vec<u8>, number: u64) {
    if number < 1000 {
        return decimal(out, number);
    }
    count(out, number / 1000);
    out.push(b',');
    padded(out, number % 1000, 3);
}

/// Hundredths: `1,234`, and below a hundred `12.34`.
pub fn fraction(out: &mut Vec<u8>, hundredths: u64) {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    count(out, whole);
    if rest == 0 || whole >= 100 {
        return;
    }
    out.push(b'.');
    match rest % 10 {
        0 => decimal(out, rest / 10),
        _ => padded(out, rest, 2),
    }
}

/// Hundredths, shortened: `2.5M`. Numbers below 10,000 fit as they are.
pub fn short(out: &mut Vec<u8>, hundredths: u64) {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| hundredths / 100 >= *unit.max(&10_000));
    let (unit, name) = unit.unwrap_or((1, ""));
    fraction(out, hundredths / unit);
    text(out, name);
}

pub fn bytes(out: &mut Vec<u8>, bytes: u64) {
    let units = [" KiB", " MiB", " GiB", " TiB"];
    let (mut unit, mut name) = (1, " B");
    for larger in units {
        if bytes / unit >= 1024 {
            (unit, name) = (unit * 1024, larger);
        }
    }
    let tenths = bytes / unit * 10 + bytes % unit * 10 / unit;
    fraction(out, tenths * 10);
    text(out, name);
}

/// `5 min`, `3 h 5 min`, `2 d 3 h`
pub fn duration(out: &mut Vec<u8>, seconds: u64) {
    let minutes = seconds / 60;
    let (days, hours) = (minutes / 1440, minutes / 60 % 24);
    match (days, hours) {
        (0, 0) => fill(out, "$ min", &[minutes]),
        (0, _) => fill(out, "$ h $ min", &[hours, minutes % 60]),
        _ => fill(out, "$ d $ h", &[days, hours]),
    }
}

/// `20 ms`, `1.5 s`, `3 min`
pub fn milliseconds(out: &mut Vec<u8>, ms: u64) {
    match ms {
        0..1000 => fill(out, "$ ms", &[ms]),
        1000..100_000 => {
            let tenths = ms / 100;
            fraction(out, tenths * 10);
            text(out, " s");
        }
        _ => duration(out, ms / 1000),
    }
}

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A number with its noun: `1 torrent`, `2 torrents`, `0 hashes`.
pub fn counted(number: u64, noun: &str) -> String {
    let ending = match plural(number) {
        "s" if noun.ends_with('h') => "es",
        ending => ending,
    };
    format!("{number} {noun}{ending}")
}

/// The ending of a noun with a count.
pub fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_told_without_its_number() {
        let missing = std::fs::metadata("/nowhere/at/all").expect_err("no such file");
        assert_eq!(reason(&missing), "No such file or directory");
        let own = io::Error::other("no room (os error 1)");
        assert_eq!(reason(&own), "no room (os error 1)");
    }

    #[track_caller]
    fn check(write: fn(&mut Vec<u8>, u64), cases: &[(u64, &str)]) {
        for (value, expected) in cases {
            let mut out = Vec::new();
            write(&mut out, *value);
            assert_eq!(String::from_utf8_lossy(&out), *expected);
        }
    }

    #[test]
    fn templates_hold_numbers_where_they_have_a_dollar_sign() {
        let mut out = Vec::new();
        fill(&mut out, "$ of $\n", &[7, 10]);
        fill(&mut out, "none", &[]);
        fill(&mut out, "$", &[u64::MAX]);
        fill_with(&mut out, ": $.", &[1000], count);
        assert_eq!(out, b"7 of 10\nnone18446744073709551615: 1,000.");
    }

    #[test]
    fn numbers_have_separators_and_as_many_decimals_as_matter() {
        let fractions = [
            (0, "0"),
            (5, "0.05"),
            (50, "0.5"),
            (100, "1"),
            (1234, "12.34"),
            (12_345, "123"),
            (100_000_000, "1,000,000"),
            (u64::MAX, "184,467,440,737,095,516"),
        ];
        check(fraction, &fractions);
        let shortened = [
            (0, "0"),
            (50, "0.5"),
            (500_000, "5,000"),
            (999_999, "9,999"),
            (1_000_000, "10k"),
            (2_500_000, "25k"),
            (250_000_000, "2.5M"),
            (500_000_000_000, "5G"),
        ];
        check(short, &shortened);
        check(
            |out, n| padded(out, n, 3),
            &[(0, "000"), (7, "007"), (1234, "1234")],
        );
        let mut digits = Vec::new();
        hex(&mut digits, &[0x00, 0xab, 0x9f]);
        assert_eq!(digits, b"00AB9F");
        assert_eq!([0, 1, 2].map(plural), ["s", "", "s"]);
        let hashes = [0, 1, 2].map(|number| counted(number, "hash"));
        assert_eq!(hashes, ["0 hashes", "1 hash", "2 hashes"]);
        assert_eq!(counted(2, "line"), "2 lines");
    }

    #[test]
    fn sizes_and_durations_have_a_suitable_unit() {
        let sizes = [
            (1023, "1,023 B"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1,023 KiB"),
            (10 << 20, "10 MiB"),
            (u64::MAX, "16,777,215 TiB"),
        ];
        check(bytes, &sizes);
        check(
            duration,
            &[(59, "0 min"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")],
        );
        let times = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1567, "1.5 s"),
            (99_999, "99.9 s"),
            (100_000, "1 min"),
            (u64::MAX, "213503982334 d 14 h"),
        ];
        check(milliseconds, &times);
    }
}
