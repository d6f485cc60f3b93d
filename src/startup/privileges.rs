//! From root to another user: which one, the directory that confines it, and the point of no return.

use super::{Problem, file_problem, problem};
use crate::base::log;
use crate::options::{DEFAULT_USER, Options};
use crate::sys::privileges::{self, Identity};
use crate::sys::sandbox;

/// The user to become; none if this is not root.
pub fn identity(options: &Options) -> Result<Option<Identity>, Problem> {
    if !privileges::is_root() {
        return Ok(None);
    }
    let user = &options.user;
    let ids = user.split_once(':');
    let identity = match ids.map(|(uid, gid)| (uid.parse(), gid.parse())) {
        Some((Ok(uid), Ok(gid))) => Identity { uid, gid },
        _ => {
            let found = privileges::find_user(user.as_ref());
            let found = found.map_err(problem(&format!("cannot look up user '{user}'")))?;
            found.ok_or_else(|| format!("-u/--user '{user}': no such user"))?
        }
    };
    match identity.uid == 0 || identity.gid == 0 {
        true => Err("-u/--user: refusing to run as root or in root's group".into()),
        false => Ok(Some(identity)),
    }
}

pub fn enter_root(options: &Options) -> Result<(), Problem> {
    match &options.root {
        Some(root) => privileges::enter(root).map_err(file_problem("-d/--root", root)),
        None => Ok(()),
    }
}

/// Becomes this user, if this is root.
pub fn become_user(identity: Option<Identity>) -> Result<(), Problem> {
    let become_user = identity.map_or(Ok(()), privileges::become_user);
    become_user.map_err(problem("cannot drop privileges"))
}

/// Drops the privileges of root for good.
pub fn give_up(options: &Options, identity: Option<Identity>) -> Result<(), Problem> {
    become_user(identity)?;
    if let Some(Identity { uid, gid }) = identity {
        match options.user.contains(':') {
            true => log::line(format_args!("running as user {uid}, group {gid}")),
            false => {
                let user = &options.user;
                log::line(format_args!("running as user {user} ({uid}), group {gid}"));
            }
        }
    } else if options.user != DEFAULT_USER {
        log::line(format_args!("not started as root: -u/--user has no effect"));
    }
    Ok(())
}

/// Gives up all that a server does not need.
pub fn enter_sandbox(options: &Options) -> Result<(), Problem> {
    let promises = match options.has_unix_socket() {
        true => sandbox::SERVE_UNIX,
        false => sandbox::SERVE,
    };
    sandbox::enter(promises).map_err(problem("cannot enter the sandbox"))
}
