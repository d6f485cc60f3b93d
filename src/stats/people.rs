//! Numbers as people read them, without floating point, whose formatting would be larger than all that is
//! told.

use super::fill;
use super::modes::padded;
use crate::proto::bencode::decimal;

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Hundredths: `1,234,567`, or with decimals where they matter.
pub fn number(out: &mut Vec<u8>, hundredths: u64) {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let mut groups = [0; 7];
    let mut count = 0;
    let mut left = whole;
    for group in &mut groups {
        *group = left % 1000;
        count += 1;
        left /= 1000;
        if left == 0 {
            break;
        }
    }
    let mut groups = groups.iter().take(count).rev();
    decimal(out, groups.next().copied().unwrap_or(0));
    for &group in groups {
        out.push(b',');
        padded(out, group, 3);
    }
    if rest == 0 || whole >= 100 {
        return;
    }
    out.push(b'.');
    match rest % 10 {
        0 => decimal(out, rest / 10),
        _ => padded(out, rest, 2),
    }
}

/// Hundredths, shortened: `2.5M`.
pub fn short_number(out: &mut Vec<u8>, hundredths: u64) {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    for (unit, name) in units {
        // Ten thousand has five digits, for which there is no room.
        if hundredths / 100 >= unit.max(10_000) {
            number(out, hundredths / unit);
            return text(out, name);
        }
    }
    number(out, hundredths);
}

/// The end of a noun that is counted.
pub fn plural(count: u64) -> &'static str {
    match count {
        1 => "",
        _ => "s",
    }
}

pub fn bytes(out: &mut Vec<u8>, bytes: u64) {
    let units = [
        (1 << 40, " TiB"),
        (1 << 30, " GiB"),
        (1 << 20, " MiB"),
        (1 << 10, " KiB"),
    ];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    let (unit, name) = unit.unwrap_or((1, " B"));
    // In tenths.
    number(out, bytes / unit * 100 + bytes % unit * 10 / unit * 10);
    text(out, name);
}

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
            // In tenths.
            number(out, ms / 100 * 10);
            text(out, " s");
        }
        _ => duration(out, ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&mut Vec<u8>, u64), value: u64) -> String {
        let mut out = Vec::new();
        write(&mut out, value);
        String::from_utf8(out).expect("is text")
    }

    #[test]
    fn numbers_are_for_people() {
        for (hundredths, text) in [
            (0, "0"),
            (5, "0.05"),
            (50, "0.5"),
            (100, "1"),
            (1234, "12.34"),
            (12_345, "123"),
            (123_456_700, "1,234,567"),
            (100_000_000, "1,000,000"),
            (u64::MAX, "184,467,440,737,095,516"),
        ] {
            assert_eq!(written(number, hundredths), text);
        }
        for (hundredths, text) in [
            (0, "0"),
            (50, "0.5"),
            (500_000, "5,000"),
            (1_000_000, "10k"),
            (2_500_000, "25k"),
            (250_000_000, "2.5M"),
            (500_000_000_000, "5G"),
        ] {
            assert_eq!(written(short_number, hundredths), text);
        }
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(plural), ["s", "", "s"]);
    }

    #[test]
    fn sizes_and_times_too() {
        assert_eq!(written(bytes, 1023), "1,023 B");
        assert_eq!(written(bytes, 1536), "1.5 KiB");
        assert_eq!(written(bytes, 10 << 20), "10 MiB");
        assert_eq!(written(bytes, u64::MAX), "16,777,215 TiB");
        assert_eq!(written(duration, 59), "0 min");
        assert_eq!(written(duration, 3700), "1 h 1 min");
        assert_eq!(written(duration, 200_000), "2 d 7 h");
    }

    #[test]
    fn short_times_are_told_in_short_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1567, "1.5 s"),
            (99_999, "99.9 s"),
            (100_000, "1 min"),
            (u64::MAX, "213503982334 d 14 h"),
        ] {
            assert_eq!(written(milliseconds, ms), text);
        }
    }
}
