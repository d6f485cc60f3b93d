//! The process for names: it resolves them one after the other, however long that takes.

use super::{FOUND, NOT_FOUND, RESOLVE, frame};
use crate::base::text;
use crate::sys::privileges::{self, Identity};
use crate::sys::{process, sandbox, signals};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Addresses that are used of a name.
const MAX_ADDRESSES: usize = 16;

/// It never enters the root directory, because the files that say how names are resolved are outside.
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
    // A name server may keep it waiting for longer than the daemon lives.
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
        let (RESOLVE, mut payload) = frame::receive(socket)? else {
            continue;
        };
        let number = payload.first_chunk().map_or(0, |n| u16::from_le_bytes(*n));
        let name = names.get(usize::from(number)).map_or("", String::as_str);
        let kind = match look_up(name) {
            Ok(addresses) => {
                payload.extend(addresses.into_iter().flat_map(octets));
                FOUND
            }
            Err(why) => {
                payload.extend_from_slice(why.as_bytes());
                NOT_FOUND
            }
        };
        frame::send(socket, kind, &payload)?;
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs();
    let found = found.map_err(|error| text::reason(&error).to_string())?;
    let mut addresses = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(String::from("no address")),
        false => Ok(addresses),
    }
}
