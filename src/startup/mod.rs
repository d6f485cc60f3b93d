//! The order of the start. Threads come last: privileges have been given up by then, and the daemon never forks
//! after them.

pub mod threads;
