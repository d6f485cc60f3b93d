//! The order of the start. Threads come last: privileges have been given up by then, and the daemon never forks
//! after them.

use std::fmt::Display;
use std::io;

pub mod cluster;
pub mod sockets;
pub mod threads;

/// An error, as one line for the admin.
pub type Problem = String;

pub fn problem(doing: impl Display) -> impl FnOnce(io::Error) -> Problem {
    move |error| format!("{doing}: {error}")
}
