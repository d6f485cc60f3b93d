//! The inputs that fuzzing has found, each run once: `make fuzz` looks for more.

#![forbid(unsafe_code)]

#[path = "fuzz/bodies/mod.rs"]
mod bodies;

use std::fs;
use std::panic;
use std::path::Path;

#[test]
fn every_input_of_the_corpora_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, run) in bodies::BODIES {
        let packed = fs::read(folder.join(name)).expect("a corpus");
        let mut count = 0;
        for input in bodies::unpacked(&packed) {
            count += 1;
            let result = panic::catch_unwind(|| run(input));
            assert!(result.is_ok(), "{name}: {}", input.escape_ascii());
        }
        println!("{name}: {count} inputs");
        assert!(count > 10, "{name}: {count} inputs");
    }
}
