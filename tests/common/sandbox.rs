//! A part of the system that a test may fill with networks and processes without leaving anything behind.
//!
//! The test runs its own binary again in new namespaces for the network, mounts and processes. What the test does it
//! does in that network, no name made there can collide with another, and when the first process in it ends, however
//! it ends, the kernel ends all others and takes the networks away: there is nothing to clean up but a directory,
//! which the test outside removes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, process};

/// Set inside a sandbox, to the directory for its files.
const MARK: &str = "ANNOUNCED_TEST_SANDBOX";

/// The command that runs another in a sandbox. Interrupting the test kills the sandbox: `setpriv` sees to `unshare`,
/// `--kill-child` to the rest.
const ENTER: [&str; 9] = [
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// The directory for files, where this process runs in a sandbox.
pub fn inside() -> Option<PathBuf> {
    env::var_os(MARK).map(PathBuf::from)
}

/// Why this machine has no sandboxes.
pub fn missing() -> Option<String> {
    let output = match Command::new(ENTER[0])
        .args(&ENTER[1..])
        .arg("true")
        .output()
    {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("{}: {error}", ENTER[0]),
    };
    Some(format!(
        "no new namespaces here, which needs root and Debian's util-linux: {output}"
    ))
}

/// Runs the test of that name again, in a sandbox, and fails if it does. What it writes to stderr is seen.
pub fn run_inside(test: &str) {
    let dir = Directory::new(test);
    let status = Command::new(ENTER[0])
        .args(&ENTER[1..])
        .arg(env::current_exe().expect("the path of this test"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(MARK, &dir.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("setpriv ran a moment ago");
    assert!(status.success(), "{test} failed in its sandbox, see above");
}

/// A new directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let dir = env::temp_dir().join(format!("announced-{test}-{}", process::id()));
        // One with this id may have been killed before it could remove its own.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Directory(dir)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command that has to succeed.
pub fn run(program: &str, arguments: &[&str], directory: &Path) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
