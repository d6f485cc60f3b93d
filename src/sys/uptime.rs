//! The clock of the table: it never goes back, and goes on while the machine is suspended. `Instant` stops then on
//! Linux, so that peers would outlive their timeout by the length of a suspension.
//!
//! Linux has `CLOCK_BOOTTIME` for this. On OpenBSD both clocks go on. The other BSDs have no such clock: a
//! suspension does not count there.
//!
//! `epoll_wait` measures its timeout by `CLOCK_MONOTONIC`, so an idle daemon notices a suspension at its next wake-up,
//! which is late by up to the rest of that timeout.
//!
//! No test suspends its machine, and a process cannot set either clock: a time namespace has a fixed offset from its
//! first process on. Tests stop the daemon instead, which `CLOCK_MONOTONIC` counts too.

use super::filled;

/// The clock, and its replacement where the system refuses it: a kernel before Linux 2.6.39, or a sandbox.
const CLOCKS: &[libc::clockid_t] = &[
    #[cfg(any(target_os = "linux", target_os = "openbsd"))]
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_MONOTONIC,
];

/// A point in time: milliseconds of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

impl Moment {
    pub fn now() -> Moment {
        Moment(read_first(CLOCKS))
    }

    /// Milliseconds since this moment.
    pub fn elapsed_ms(self) -> u64 {
        Moment::now().0.saturating_sub(self.0)
    }
}

/// The first of these clocks that the system has; if it has none, zero, so that time stands still.
fn read_first(clocks: &[libc::clockid_t]) -> u64 {
    clocks.iter().find_map(|clock| read(*clock)).unwrap_or(0)
}

/// Microseconds of `CLOCK_MONOTONIC`, by which a service manager orders messages.
pub fn monotonic_us() -> u64 {
    read_us(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// Milliseconds since the system started; none if there is no such clock.
fn read(clock: libc::clockid_t) -> Option<u64> {
    read_us(clock).map(|us| us / 1000)
}

fn read_us(clock: libc::clockid_t) -> Option<u64> {
    // SAFETY: a struct of integers, filled by the call.
    let time = unsafe { filled(|time| libc::clock_gettime(clock, time)) };
    let time: libc::timespec = time.ok()?;
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let us = u64::try_from(time.tv_nsec).ok()? / 1000;
    Some(seconds.saturating_mul(1_000_000).saturating_add(us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_at_least_as_the_monotonic_clock_does() {
        let before = Moment::now();
        let monotonic = read_first(&[libc::CLOCK_MONOTONIC]);
        assert!(monotonic > 0 && Moment::now().0 >= monotonic);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(before.elapsed_ms() >= 20);
    }

    #[test]
    fn a_clock_that_the_system_lacks_is_replaced_by_the_next() {
        const UNKNOWN: libc::clockid_t = 9999;
        assert_eq!(read(UNKNOWN), None);
        let monotonic = read_first(&[libc::CLOCK_MONOTONIC]);
        assert!(read_first(&[UNKNOWN, libc::CLOCK_MONOTONIC]) >= monotonic);
        assert_eq!(read_first(&[UNKNOWN]), 0);
    }
}
