//! Fuzzes `bodies/forwarded.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::forwarded::run(data));
