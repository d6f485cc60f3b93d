//! The file with the key of a cluster, which all its nodes have.

use crate::base::text::plural;
use crate::sys::files;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a key. A shorter one could be guessed, a longer one is another file.
const MIN_BYTES: usize = 32;
const MAX_BYTES: usize = 4096;

/// Writes a random key to a new file, which only its owner may read.
pub fn make(path: &Path) -> io::Result<()> {
    let mut key = [0; MIN_BYTES];
    getrandom::fill(&mut key).map_err(|_| io::Error::other("no random bytes available"))?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&key).and_then(|()| file.sync_all())
}

/// Reads a key. An error if other users can read or change it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let wrong = |why| Err(io::Error::new(ErrorKind::InvalidData, why));
    let file = files::open_regular(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        let mode = mode & 0o777;
        return wrong(format!(
            "mode {mode:o}: accessible by other users: expected 600"
        ));
    }
    let mut key = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut key)?;
    match key.len() {
        0..MIN_BYTES => wrong(format!(
            "{} byte{}: expected at least {MIN_BYTES}",
            key.len(),
            plural(key.len() as u64)
        )),
        MIN_BYTES..=MAX_BYTES => Ok(key),
        _ => wrong(format!("expected at most {MAX_BYTES} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_is_made_once_and_read_only_if_it_is_secret_and_of_valid_length() {
        let name = format!("announced-key-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).expect("can be made");
        let [one, other] = ["one", "other"].map(|name| directory.join(name));
        make(&one).and_then(|()| make(&other)).expect("are made");
        let error = make(&one).expect_err("is there");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let key = read(&one).expect("is good");
        assert_eq!(key.len(), 32);
        assert_ne!(key, read(&other).expect("is good"));

        for (mode, is_good) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            fs::set_permissions(&one, Permissions::from_mode(mode)).expect("is ours");
            assert_eq!(read(&one).is_ok(), is_good, "{mode:o}");
        }
        for (length, is_good) in [
            (0, false),
            (31, false),
            (32, true),
            (4096, true),
            (4097, false),
        ] {
            fs::write(&other, vec![7; length]).expect("is written");
            assert_eq!(read(&other).is_ok(), is_good, "{length}");
        }
        fs::remove_dir_all(&directory).expect("is ours");
    }
}
