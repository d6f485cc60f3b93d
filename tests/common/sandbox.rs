//! A part of the system that a test may fill with networks and processes without leaving anything behind.
//!
//! The test runs its own binary again in new namespaces for the network, mounts and processes, and does its work
//! there. No name made there can collide with another. When the first process in it ends, however it ends, the kernel
//! ends all others and removes the networks. Only a directory is left, which the test outside removes.

use super::Directory;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An environment variable that is set inside a sandbox, to the directory for its files.
const MARK: &str = "ANNOUNCED_TEST_SANDBOX";

/// The command that runs another in a sandbox. Interrupting the test kills the sandbox: `setpriv` kills `unshare`,
/// which by `--kill-child` kills the rest.
fn enter() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "unshare", "--net", "--mount", "--pid"]);
    command.args(["--fork", "--kill-child", "--mount-proc"]);
    command
}

/// The directory for files, where this process runs in a sandbox.
pub fn inside() -> Option<PathBuf> {
    env::var_os(MARK).map(PathBuf::from)
}

/// The reason why this machine has no sandboxes.
pub fn missing() -> Option<String> {
    let output = match enter().arg("true").output() {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("setpriv: {error}"),
    };
    Some(format!(
        "no new namespaces here, which needs root and Debian's util-linux: {output}"
    ))
}

/// Runs the test of that name again in a sandbox, and fails if that fails. Its stderr is shown.
pub fn run_inside(test: &str) {
    let dir = Directory::new(test);
    let status = enter()
        .arg(env::current_exe().expect("the path of this test"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(MARK, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("setpriv ran a moment ago");
    assert!(status.success(), "{test} failed in its sandbox, see above");
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
