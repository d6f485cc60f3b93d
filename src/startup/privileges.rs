//! From root to another user: which one, the directory that confines it, and the point of no return.

use super::{Problem, file_problem, problem};
use crate::base::log;
use crate::base::text::reason;
use crate::options::{DEFAULT_USER, Options};
use crate::sys::privileges::{self, Identity};
use crate::sys::sandbox::{self, Role};
use std::path::{Path, PathBuf};

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

/// Gives up all that a server does not need. There must be no other thread yet.
pub fn enter_sandbox(options: &Options) -> Result<(), Problem> {
    let directories = options.unix_directories();
    let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
    let role = match directories.is_empty() {
        true => Role::Serve,
        false => Role::ServeUnix(&directories),
    };
    let parts = sandbox::enter(role).map_err(problem("cannot enter the sandbox"))?;
    let Some(parts) = parts else {
        log::line(format_args!("sandbox: off"));
        return Ok(());
    };
    let present = parts.iter().filter(|(_, part)| part.is_ok());
    let present: Vec<&str> = present.map(|(name, _)| name.as_str()).collect();
    let mut text = match present.is_empty() {
        true => "none".into(),
        false => present.join(", "),
    };
    for (name, part) in &parts {
        if let Err(error) = part {
            text += &format!("; missing: {name}: {}", reason(error));
        }
    }
    log::line(format_args!("sandbox: {text}"));
    Ok(())
}
