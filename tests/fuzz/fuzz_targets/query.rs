//! Fuzzes `bodies/query.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::query::run(data));
