//! What attacks do to a daemon and to an honest client beside them: `make bench-attacks`, which needs Linux.
//!
//! For each attack a daemon is started, and a client announces to it five hundred times a second: before the attack,
//! during it, and after it. The table has the client's waiting times and losses in these three, and the daemon's
//! memory, processor time and descriptors. Nothing here passes or fails. Faults that can be told from right behaviour
//! without a clock are tests of their own: unauthenticated replies and shed connects in `src/udp/mod.rs`, strangers
//! and hostile nodes in `tests/simulation/frames.rs`, slow and many connections in `tests/limits.rs`.
//!
//! - [`measure`]: the daemon, the honest client, the row
//! - [`datagrams`], [`streams`], [`files`], [`nodes`]: the attacks

#[cfg(target_os = "linux")]
#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
mod datagrams;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
#[path = "../bench/sys.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod sys;

#[cfg(target_os = "linux")]
fn main() {
    measure::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("bench-attacks: needs Linux");
}
