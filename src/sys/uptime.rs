//! The clock that the table goes by: it never goes back, and goes on while the machine is suspended. `Instant` stands
//! still then on Linux, so that peers would outlive their timeout by the length of a suspension.

#[cfg(any(target_os = "linux", target_os = "openbsd"))]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;

// Here it goes on during a suspension, or there is no clock that does.
#[cfg(not(any(target_os = "linux", target_os = "openbsd")))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// A moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    ms: u64,
}

impl Moment {
    pub fn now() -> Moment {
        Moment { ms: read(CLOCK) }
    }

    /// Milliseconds since then.
    pub fn elapsed_ms(self) -> u64 {
        read(CLOCK).saturating_sub(self.ms)
    }
}

/// Milliseconds since the system started.
fn read(clock: libc::clockid_t) -> u64 {
    // SAFETY: zeros are valid for a struct of integers.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of that type, alive for the call. It fails for unknown clocks only.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ms = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds.saturating_mul(1000).saturating_add(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_and_counts_what_the_monotonic_clock_counts() {
        let before = Moment::now();
        let monotonic = read(libc::CLOCK_MONOTONIC);
        assert!(monotonic > 0 && Moment::now().ms >= monotonic);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(before.elapsed_ms() >= 20);
    }
}
