//! Fuzzes `bodies/multicast.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::multicast::run(data));
