//! The log line of a completed download, for `--log-completed`, in the format of opentracker's `WANT_SYSLOGS`.
//!
//! No other line names a peer's address: the option is for trackers whose members know of it.

use crate::base::log::{self, Level};
use crate::base::text::hex;
use crate::state::wall_ms;
use crate::tracker::InfoHash;
use std::fmt;
use std::net::IpAddr;

/// Logs the first completion of a torrent by a client, whatever `-v` says.
pub fn log(info_hash: &InfoHash, peer_id: Option<&[u8; 20]>, address: IpAddr) {
    log::write(
        Level::Info,
        format_args!(
            "time={} event=completed info_hash={} peer_id={} ip={}",
            Utc(wall_ms() / 1000),
            digits(info_hash),
            peer_id.map_or_else(String::new, |id| digits(id)),
            address.to_canonical()
        ),
    );
}

fn digits(bytes: &[u8]) -> String {
    let mut digits = Vec::new();
    hex(&mut digits, bytes);
    String::from_utf8(digits).unwrap_or_default()
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
    fn seconds_since_1970_are_formatted_as_dates() {
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
}
