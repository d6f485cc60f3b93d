//! A file of random bytes and the torrent made of it by `mktorrent`.

use crate::common::sandbox::run;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = (1 << 20) + 12_345;

/// A piece of 2^21 bytes, so only one: aria2 1.36 announces the pieces that it got by a second bitfield where that is
/// shorter than the messages meant for it, and rtorrent hangs up at the sight of one.
const PIECE_BITS: &str = "21";

const FILE: &str = "file.bin";

pub struct Torrent {
    /// The directory of the pair, with one for the data of each client.
    pub dir: PathBuf,
    /// The torrent file.
    pub path: PathBuf,
    pub info_hash: [u8; 20],
    content: Vec<u8>,
}

/// The reason why this machine can make no torrents.
pub fn missing() -> Option<String> {
    let error = Command::new("mktorrent").arg("-h").output().err()?;
    Some(format!("mktorrent, of Debian's mktorrent: {error}"))
}

impl Torrent {
    /// Makes `dir` and fills it. No other torrent has the same info-hash.
    /// Each of its announce URLs is a tier of its own: a client uses the next one if there is no reply.
    pub fn new(dir: &Path, announce_urls: &[&str]) -> Torrent {
        for role in ["seeder", "fetcher"] {
            fs::create_dir_all(dir.join(format!("{role}-data"))).expect("a directory for data");
        }
        let mut content = Vec::new();
        let random = fs::File::open("/dev/urandom").expect("/dev/urandom");
        let read = random.take(SIZE).read_to_end(&mut content);
        read.expect("random bytes");
        fs::write(dir.join("seeder-data").join(FILE), &content).expect("the file to seed");
        let path = dir.join("file.torrent");
        // Private, which by BEP 27 means no peers but the tracker's.
        let mut arguments = vec!["-p", "-d", "-l", PIECE_BITS];
        arguments.extend(announce_urls.iter().flat_map(|url| ["-a", *url]));
        arguments.extend(["-o", "file.torrent", "seeder-data/file.bin"]);
        run("mktorrent", &arguments, dir);
        let info_hash = info_hash(&fs::read(&path).expect("the torrent"), dir);
        Torrent {
            dir: dir.into(),
            path,
            info_hash,
            content,
        }
    }

    /// Whether the fetched file is there and the same byte for byte.
    pub fn is_fetched(&self) -> bool {
        let fetched = fs::read(self.dir.join("fetcher-data").join(FILE));
        fetched.is_ok_and(|fetched| fetched == self.content)
    }
}

/// The SHA-1 of the value of `info`, by coreutils. That value is the last of mktorrent's, so only the end of the
/// outer dictionary comes after it.
fn info_hash(torrent: &[u8], dir: &Path) -> [u8; 20] {
    const KEY: &[u8] = b"4:info";
    let key = torrent.windows(KEY.len()).position(|window| window == KEY);
    let info = &torrent[key.expect("an info dictionary") + KEY.len()..torrent.len() - 1];
    let file = dir.join("info");
    fs::write(&file, info).expect("is written");
    let sum = Command::new("sha1sum").arg(&file).output();
    let output = sum.expect("sha1sum").stdout;
    let hex = std::str::from_utf8(&output[..40]).expect("hexadecimal digits");
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("two digits"))
}
