//! Fuzzes `bodies/table.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::table::run(data));
