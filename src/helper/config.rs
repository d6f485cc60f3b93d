//! The process for configuration files: it reads them again at each reload.
//!
//! It is a process of its own, because it never enters the root directory: the files are outside, and one that was
//! replaced by a rename is found only by its path. It keeps the privileges of the start and opens no other file.

use super::frame;
use super::{CONFIG_END, CONFIG_FAILED, CONFIG_FILE_END, CONFIG_TEXT};
use crate::base::text;
use crate::sys::{files, process, sandbox, signals};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
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

/// Serves until the daemon has ended, which is an error of the socket.
pub fn run(paths: &[PathBuf], socket: &UnixStream) -> io::Result<()> {
    signals::ignore()?;
    process::keep_only(&[socket.as_fd()]);
    process::yield_to_others();
    sandbox::enter(sandbox::FILES)?;
    loop {
        frame::receive(socket)?;
        match send_all(paths, socket)? {
            Ok(()) => frame::send(socket, CONFIG_END, &[])?,
            Err(why) => frame::send(socket, CONFIG_FAILED, why.as_bytes())?,
        }
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
