//! Packs the inputs of a folder into one file, or unpacks them: `corpus pack|unpack FILE FOLDER`.
//!
//! A file of the repository holds the corpus of a target: thousands of inputs of some dozen bytes. Each has its length
//! in two bytes before it. They are in order, so that a change of the corpus is a small change of the file.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pack", file, folder] => pack(Path::new(file), Path::new(folder)),
        ["unpack", file, folder] => unpack(Path::new(file), Path::new(folder)),
        _ => panic!("expected pack FILE FOLDER or unpack FILE FOLDER"),
    }
}

fn pack(file: &Path, folder: &Path) {
    let entries = fs::read_dir(folder).expect("a folder");
    let read = |entry: fs::DirEntry| fs::read(entry.path()).expect("an input");
    let mut inputs: Vec<Vec<u8>> = entries
        .map(|entry| read(entry.expect("an entry")))
        .collect();
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    inputs.dedup();
    let mut packed = Vec::new();
    for input in &inputs {
        let length = u16::try_from(input.len()).expect("an input below 64 KiB");
        packed.extend_from_slice(&length.to_be_bytes());
        packed.extend_from_slice(input);
    }
    fs::write(file, packed).expect("can write");
}

fn unpack(file: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("can make the folder");
    let packed = fs::read(file).unwrap_or_default();
    for (number, input) in bodies::unpacked(&packed).enumerate() {
        fs::write(folder.join(format!("packed-{number}")), input).expect("can write");
    }
}
