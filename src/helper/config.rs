//! Configuration files: the start reads them, and the worker at each reload. One that was replaced by a rename is found
//! by its path only.

use super::frame;
use super::{CONFIG_END, CONFIG_FAILED, CONFIG_FILE_END, CONFIG_TEXT};
use crate::base::text;
use crate::sys::files;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A device or a disk image that is given by mistake is not read without end.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads a file at the start, when it may also be a pipe.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = File::open(path).and_then(load);
    text.map_err(|error| text::reason(&error))
}

fn load(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    match text.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// Sends the daemon all files, or the reason why one cannot be read. An error is that of the socket.
pub(super) fn send(paths: &[PathBuf], socket: &UnixStream) -> io::Result<()> {
    match send_all(paths, socket)? {
        Ok(()) => frame::send(socket, CONFIG_END, &[]),
        Err(why) => frame::send(socket, CONFIG_FAILED, why.as_bytes()),
    }
}

/// The inner error is that of a file.
fn send_all(paths: &[PathBuf], socket: &UnixStream) -> io::Result<Result<(), String>> {
    for path in paths {
        let text = match files::open_regular(path).and_then(load) {
            Ok(text) => text,
            Err(error) => {
                let (path, why) = (path.display(), text::reason(&error));
                return Ok(Err(format!("-f/--config '{path}': {why}")));
            }
        };
        for part in text.chunks(frame::MAX_PAYLOAD) {
            frame::send(socket, CONFIG_TEXT, part)?;
        }
        frame::send(socket, CONFIG_FILE_END, &[])?;
    }
    Ok(Ok(()))
}
