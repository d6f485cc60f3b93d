//! How much memory the process may have.

use super::filled;
use std::path::Path;
use std::sync::OnceLock;

/// The least of all limits, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    pub bytes: u64,
    pub name: &'static str,
}

impl HostMemory {
    /// It is found once, by the first call: another root directory has no files that tell it.
    pub fn find() -> HostMemory {
        static FOUND: OnceLock<HostMemory> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let mut least = HostMemory {
                bytes: usize::MAX as u64,
                name: "the address space",
            };
            for (bytes, name) in [
                (physical(), "the host's memory"),
                (of_cgroups(), "the cgroup's memory"),
                (address_space(), "RLIMIT_AS"),
                (data(), "RLIMIT_DATA"),
            ] {
                if let Some(bytes) = bytes.filter(|bytes| *bytes < least.bytes) {
                    least = HostMemory { bytes, name };
                }
            }
            least
        })
    }
}

fn physical() -> Option<u64> {
    // SAFETY: the calls have no preconditions.
    let numbers = unsafe {
        [
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        ]
    };
    let [pages, size] = numbers.map(|number| u64::try_from(number).ok());
    pages?.checked_mul(size?)
}

/// The least limit of the process's control groups and of those above them. Only Linux has these files.
fn of_cgroups() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least_of_cgroups(&groups, Path::new("/sys/fs/cgroup"))
}

/// Version 2 has one line, without a controller, and version 1 a line for each controller. A host may have both.
fn least_of_cgroups(groups: &str, root: &Path) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (folders, file) = match controllers {
            "" => (["", "unified"], "memory.max"),
            _ => (["memory"; 2], "memory.limit_in_bytes"),
        };
        if !controllers.is_empty() && controllers.split(',').all(|name| name != "memory") {
            continue;
        }
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let files = folders.map(|folder| root.join(folder).join(group).join(file));
            let limits = files
                .iter()
                .filter_map(|file| std::fs::read_to_string(file).ok());
            // Without a limit it is a word, or a number above all memory.
            let limits = limits.filter_map(|text| text.trim().parse().ok());
            least = limits.chain(least).min();
        }
    }
    least
}

#[cfg(not(target_os = "openbsd"))]
fn address_space() -> Option<u64> {
    // SAFETY: two integers, filled by the call.
    soft_limit(unsafe { filled(|limit| libc::getrlimit(libc::RLIMIT_AS, limit)) })
}

/// OpenBSD limits the data alone.
#[cfg(target_os = "openbsd")]
fn address_space() -> Option<u64> {
    None
}

fn data() -> Option<u64> {
    // SAFETY: as above.
    soft_limit(unsafe { filled(|limit| libc::getrlimit(libc::RLIMIT_DATA, limit)) })
}

fn soft_limit(limit: std::io::Result<libc::rlimit>) -> Option<u64> {
    let limit = limit.ok()?.rlim_cur;
    let is_limit = limit != libc::RLIM_INFINITY;
    is_limit.then(|| super::limits::to_u64(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_host_has_memory() {
        let found = HostMemory::find();
        assert!(found.bytes > 16 << 20, "{found:?}");
        assert!(physical().is_some_and(|bytes| bytes >= found.bytes));
    }

    /// A control group's limit may be that of a group above it, in either version.
    #[test]
    fn the_least_limit_of_all_control_groups_counts() {
        let root = std::env::temp_dir().join(format!("announced-cgroups-{}", std::process::id()));
        let limits = |limits: &[(&str, &str)]| {
            let _ = fs::remove_dir_all(&root);
            for (file, text) in limits {
                let file = root.join(file);
                fs::create_dir_all(file.parent().expect("a folder")).expect("can be made");
                fs::write(file, text).expect("can be written");
            }
        };
        let least = |groups| least_of_cgroups(groups, &root);
        let v2 = "0::/system.slice/announced.service\n";
        limits(&[]);
        assert_eq!(least(v2), None);
        limits(&[("system.slice/announced.service/memory.max", "max\n")]);
        assert_eq!(least(v2), None);
        limits(&[
            ("system.slice/announced.service/memory.max", "3000\n"),
            ("system.slice/memory.max", "2000\n"),
            ("user.slice/memory.max", "1000\n"),
            ("memory/memory.limit_in_bytes", "500\n"),
        ]);
        assert_eq!(least(v2), Some(2000));
        // In a container, with and without a namespace of its own.
        limits(&[("memory.max", "700\n")]);
        assert_eq!(least("0::/\n"), Some(700));
        assert_eq!(least("0::/../other\n"), Some(700));
        let v1 = "9:name=systemd:/\n4:cpu,memory:/docker/x\n3:cpuset:/y\n0::/z\n";
        limits(&[
            (
                "memory/docker/x/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("memory/docker/memory.limit_in_bytes", "4000\n"),
            ("memory/y/memory.limit_in_bytes", "100\n"),
            ("unified/z/memory.max", "5000\n"),
        ]);
        assert_eq!(least(v1), Some(4000));
        for nonsense in ["", "x", "4:memory", "::", ":memory:"] {
            assert!(least(nonsense) < Some(4001));
        }
        let _ = fs::remove_dir_all(&root);
    }
}
