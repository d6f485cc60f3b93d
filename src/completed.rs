//! The line that tells of a completed download, for `--log-completed`: that of opentracker with its
//! `WANT_SYSLOGS`, so that what reads it goes on reading. Every line that is logged otherwise leaves
//! peers' addresses out; this option is there for trackers whose members know of it.

use crate::log::{self, Level};
use crate::tracker::InfoHash;
use std::fmt;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Logs that a client at this address has completed this torrent. A client may say so again and again; the
/// tracker tells the first time.
pub fn log(info_hash: &InfoHash, peer_id: Option<&[u8; 20]>, address: IpAddr) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    // Asked for by itself, so that it does not depend on -v.
    log::write(
        Level::Info,
        format_args!(
            "time={} event=completed info_hash={} peer_id={} ip={}",
            Utc(now),
            Hex(info_hash),
            Hex(peer_id.map_or(&[], |id| id)),
            address.to_canonical()
        ),
    );
}

/// Capital digits, as opentracker writes them.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// Seconds since 1970 as `strftime` writes `%FT%T%z`; always UTC, as there are no time zones in a chroot.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+0000"
        )
    }
}

/// Year, month and day of a number of days since 1970. The years are counted from March of the year 0,
/// so that a leap day is a year's last (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (next, month) = match month {
        0..10 => (0, month + 3),
        _ => (1, month - 9),
    };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00+0000"),
            (951_782_399, "2000-02-28T23:59:59+0000"),
            (951_782_400, "2000-02-29T00:00:00+0000"),
            (1_709_251_200, "2024-03-01T00:00:00+0000"),
            (1_767_225_599, "2025-12-31T23:59:59+0000"),
            (4_107_542_400, "2100-03-01T00:00:00+0000"),
        ] {
            assert_eq!(Utc(seconds).to_string(), expected);
        }
        // Each day follows the one before it.
        let mut last = (1969, 12, 31);
        for days in 0..200_000 {
            let (year, month, day) = date(days);
            let is_next = match (year - last.0, month, day) {
                (1, 1, 1) => (last.1, last.2) == (12, 31),
                (0, _, 1) => month == last.1 + 1 && last.2 >= 28,
                (0, _, _) => month == last.1 && day == last.2 + 1,
                _ => false,
            };
            assert!(is_next && day <= 31, "{last:?}, {:?}", (year, month, day));
            last = (year, month, day);
        }
    }

    #[test]
    fn hashes_are_capital_digits() {
        assert_eq!(Hex(&[0x00, 0xab, 0x9f]).to_string(), "00AB9F");
        assert_eq!(Hex(&[]).to_string(), "");
    }
}
