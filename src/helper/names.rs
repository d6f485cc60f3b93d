//! The process for names: it resolves them one after the other, however long that takes.

use super::{FOUND, NOT_FOUND, frame};
use crate::base::text;
use crate::sys::privileges::{self, Identity};
use crate::sys::{process, sandbox, signals};
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Further addresses of a name are ignored.
const MAX_ADDRESSES: usize = 16;

/// The process never enters the root directory, because the files that configure name resolution are outside.
pub fn run(
    names: &[String],
    socket: &UnixStream,
    identity: Option<Identity>,
    daemon: u32,
) -> io::Result<()> {
    signals::end_at_once()?;
    process::keep_only(&[socket.as_fd()]);
    process::yield_to_others();
    if let Some(identity) = identity {
        privileges::become_user(identity)?;
    }
    // A name server may not answer before the daemon ends.
    process::end_with_parent();
    // The daemon may have ended before that call.
    if std::os::unix::process::parent_id() != daemon {
        return Ok(());
    }
    sandbox::enter(sandbox::NAMES)?;
    serve(names, socket)
}

/// Answers until the daemon has ended, which is an error of the socket.
pub fn serve(names: &[String], socket: &UnixStream) -> io::Result<()> {
    loop {
        let (_, number) = frame::receive(socket)?;
        let index = number.first_chunk().map_or(0, |n| u16::from_le_bytes(*n));
        let name = names.get(usize::from(index)).map_or("", String::as_str);
        let (kind, text) = match look_up(name) {
            Ok(addresses) => (FOUND, addresses),
            Err(why) => (NOT_FOUND, why),
        };
        frame::send(socket, kind, &[&number, text.as_bytes()].concat())?;
    }
}

/// The addresses of a name, each in a line.
fn look_up(name: &str) -> Result<String, String> {
    let found = (name, 0).to_socket_addrs();
    let found = found.map_err(|error| text::reason(&error))?;
    let mut addresses = Vec::new();
    for address in found.map(|address| address.ip().to_canonical().to_string()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(String::from("no address")),
        false => Ok(addresses.join("\n")),
    }
}
