//! Fuzzes `bodies/node.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::node::run(data));
