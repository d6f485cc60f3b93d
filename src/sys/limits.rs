//! The limit of open descriptors.

use super::filled;
use std::io;

/// Raises the limit of open descriptors to the hard limit, if the system allows it; the limit from then on.
pub fn raise_descriptors() -> io::Result<u64> {
    // SAFETY: two integers, filled by the call.
    let limit = unsafe { filled(|limit| libc::getrlimit(libc::RLIMIT_NOFILE, limit)) }?;
    let mut raised: libc::rlimit = limit;
    raised.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a struct of the right type, which is only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } {
        0 => Ok(to_u64(raised.rlim_cur)),
        _ => Ok(to_u64(limit.rlim_cur)),
    }
}

/// `rlim_t` is signed on FreeBSD only.
fn to_u64(limit: impl TryInto<u64>) -> u64 {
    limit.try_into().unwrap_or(u64::MAX)
}
