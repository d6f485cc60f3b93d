//! Whether the daemon's user may read and write the files that options name. The system judges it: this process must be
//! that user. An error of a later step would name neither the user nor the directory on the path that denies access.

use super::{Problem, data};
use crate::options::Options;
use crate::sys::files::{Right, directory, may, with_suffix};
use crate::sys::privileges::{self, Identity};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The user, as messages name it.
pub struct User(String);

impl User {
    pub fn new(options: &Options, identity: Option<Identity>) -> User {
        let own = || privileges::user().to_string();
        User(identity.map_or_else(own, |_| options.user.clone()))
    }

    /// Checks the configuration files.
    pub fn check_configuration(&self, files: &[&Path]) -> Result<(), Problem> {
        let mut files = files.iter();
        files.try_for_each(|path| self.check("-f/--config", path, path, Right::Read))
    }

    /// Checks the files of the root directory. Whether they exist is for later steps.
    pub fn check_files(&self, options: &Options) -> Result<(), Problem> {
        for (flag, path) in [
            ("-w/--whitelist", &options.whitelist),
            ("-b/--blacklist", &options.blacklist),
            ("-l/--load-dump", &options.load_dump),
        ] {
            if let Some(path) = path {
                self.check(flag, path, path, Right::Read)?;
            }
        }
        for (flag, path, _) in data::fifos(options) {
            self.check(flag, path, path, Right::Read)?;
            self.check(flag, path, path, Right::Write)?;
            if !path.exists() {
                self.check(flag, path, directory(path), Right::Write)?;
            }
        }
        if let Some(path) = &options.state {
            let flag = "--state";
            self.check(flag, path, path, Right::Read)?;
            self.check(flag, path, &with_suffix(path, ".lock"), Right::Write)?;
            if directory(path).is_dir() {
                self.check(flag, path, directory(path), Right::Write)?;
            }
        }
        Ok(())
    }

    /// An error if the user lacks this right to `judged`, which is the file of this flag or belongs to it.
    fn check(&self, flag: &str, path: &Path, judged: &Path, right: Right) -> Result<(), Problem> {
        let is_denied = |path: &Path, right| {
            may(path, right).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        if !is_denied(judged, right) {
            return Ok(());
        }
        let closed = judged
            .ancestors()
            .skip(1)
            .filter(|path| is_denied(path, Right::Search));
        let closed = closed.filter(|path| !path.as_os_str().is_empty()).last();
        let (culprit, right) = closed.map_or((judged, right), |path| (path, Right::Search));
        let name = match (culprit == path, culprit.is_dir()) {
            (true, _) => String::new(),
            (_, true) => format!("directory '{}' ", culprit.display()),
            _ => format!("'{}' ", culprit.display()),
        };
        let right = match right {
            Right::Read => "readable",
            Right::Write => "writable",
            Right::Search => "searchable",
        };
        let owner = culprit.metadata().map_or(String::new(), |of| {
            let mode = of.mode() & 0o7777;
            format!(": mode {mode:04o}, owner {}:{}", of.uid(), of.gid())
        });
        let (path, user) = (path.display(), &self.0);
        Err(format!("{flag} '{path}': {name}not {right} by user {user}{owner}").into())
    }
}
