//! The resolver: it resolves names one after the other, however long that takes.

use super::monitor::Ends;
use super::{FOUND, NOT_FOUND, Plan, RESOLVE, frame};
use crate::base::text;
use crate::sys::process;
use crate::sys::sandbox::Role;
use std::io::{self, ErrorKind};
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Further addresses of a name are ignored.
const MAX_ADDRESSES: usize = 16;

/// Drops all that the process does not need, then serves.
pub fn run(plan: &Plan, ends: &Ends) -> io::Result<()> {
    process::keep_only(&[ends.daemon.as_fd(), ends.monitor.as_fd()]);
    process::yield_to_others();
    ends.confine(plan, Role::Names)?;
    serve(&plan.names, &ends.daemon)
}

/// Answers until the daemon has ended, which is an error of the socket.
pub fn serve(names: &[String], socket: &UnixStream) -> io::Result<()> {
    loop {
        let (RESOLVE, number) = frame::receive(socket)? else {
            return Err(ErrorKind::InvalidData.into());
        };
        let index = number.first_chunk().ok_or(ErrorKind::InvalidData)?;
        let found = match names.get(usize::from(u16::from_le_bytes(*index))) {
            Some(name) => look_up(name),
            None => Err(String::from("no such name")),
        };
        let (kind, text) = match found {
            Ok(addresses) => (FOUND, addresses),
            Err(why) => (NOT_FOUND, why),
        };
        frame::send(socket, kind, &[index, text.as_bytes()].concat())?;
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
