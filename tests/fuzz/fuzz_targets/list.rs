//! Fuzzes `bodies/list.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::list::run(data));
