//! Fuzzes `bodies/dump.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::dump::run(data));
