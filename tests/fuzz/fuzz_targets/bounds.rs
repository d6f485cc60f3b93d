//! Fuzzes `bodies/bounds.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::bounds::run(data));
