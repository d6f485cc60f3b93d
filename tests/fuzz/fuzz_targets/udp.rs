//! Fuzzes `bodies/udp.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::udp::run(data));
