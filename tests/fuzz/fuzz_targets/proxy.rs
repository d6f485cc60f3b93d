//! Fuzzes `bodies/proxy.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::proxy::run(data));
