//! What a fuzzer does with bytes: it feeds a parser, or everything behind it, and asserts what must hold for any bytes.
//!
//! `fuzz_targets/` runs these bodies under libFuzzer, `tests/corpora.rs` with the inputs that fuzzing has found. So a
//! body depends on its bytes alone: no clock, no randomness, no state from one call to the next.

pub mod bounds;
pub mod config;
pub mod dump;
pub mod forwarded;
pub mod frames;
pub mod http;
pub mod list;
pub mod multicast;
pub mod node;
pub mod proxy;
pub mod query;
pub mod state;
pub mod table;
pub mod udp;

use std::path::Path;

pub type Body = fn(&[u8]);

/// The bodies by the names of their targets.
pub const BODIES: [(&str, Body); 14] = [
    ("bounds", bounds::run),
    ("config", config::run),
    ("dump", dump::run),
    ("forwarded", forwarded::run),
    ("frames", frames::run),
    ("http", http::run),
    ("list", list::run),
    ("multicast", multicast::run),
    ("node", node::run),
    ("proxy", proxy::run),
    ("query", query::run),
    ("state", state::run),
    ("table", table::run),
    ("udp", udp::run),
];

/// Bytes that are read as numbers and pieces; zeros after their end.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece with its length in two bytes before it.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.bytes(length.into())
    }
}

/// Lengths at which an input is cut: all of a short one, of a long one those near its ends and some between them.
pub fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < 128 || length - at < 128 || at % 251 == 0)
}

/// The inputs of a packed corpus.
pub fn unpacked(packed: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut packed = Input(packed);
    std::iter::from_fn(move || (!packed.is_empty()).then(|| packed.piece()))
}

/// Lets a function read a file with these bytes.
pub fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let name = format!("announced-{name}-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).expect("can write a temporary file");
    let result = read(&path);
    std::fs::remove_file(&path).expect("can remove it");
    result
}
