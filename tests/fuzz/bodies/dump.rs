//! opentracker's statedump, plain and compressed.

use super::with_file;
use announced::base::gzip::{self, Gzip};
use announced::base::log;
use announced::state::load_dump;
use announced::tracker::{Limits, Table};
use std::io::{BufReader, Read};
use std::path::Path;

fn load(path: &Path) -> Result<(String, usize, u64), String> {
    let limits = Limits {
        peer_timeout: 2700,
        max_peers: 1000,
        max_torrents: 100,
    };
    let table = Table::new(limits, 1);
    let summary = load_dump(path, &table, None).map_err(|error| error.to_string())?;
    let torrents = table.survey(0).totals.torrents;
    assert!(torrents as u64 <= summary.loaded && torrents <= 100);
    Ok((summary.to_string(), torrents, summary.loaded))
}

pub fn run(data: &[u8]) {
    // Lines are logged about what is invalid.
    log::use_stderr(false);
    let plain = with_file("dump", data, load);
    let mut packed = Vec::new();
    Gzip::new().compress(data, true, &mut packed);
    let mut unpacked = Vec::new();
    let file = gzip::decompressed(BufReader::new(std::io::Cursor::new(packed.clone())));
    let read = file.and_then(|mut file| file.read_to_end(&mut unpacked));
    assert!(read.is_ok() && unpacked == data, "{read:?}");
    // What looks like gzip already is decompressed once.
    if !data.starts_with(b"\x1f\x8b") {
        assert_eq!(with_file("dump", &packed, load), plain);
    }
}
