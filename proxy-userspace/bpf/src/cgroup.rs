//! Finds the top of the cgroup v2 hierarchy.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use portsplice_files::mounts;

/// Where the cgroup v2 hierarchy is mounted: at `/sys/fs/cgroup`, or beside version 1 at `/sys/fs/cgroup/unified`, or
/// anywhere else.
pub(crate) fn find_root() -> io::Result<Option<PathBuf>> {
    Ok(root_in(&fs::read("/proc/self/mountinfo")?))
}

/// The best mount point of type cgroup2 in the text of `/proc/self/mountinfo`.
///
/// A mount that shows the hierarchy's top is better than one that shows only a part of it. Of several the last one wins: it
/// was mounted last, so it is the one that cannot be hidden below another.
fn root_in(mountinfo: &[u8]) -> Option<PathBuf> {
    let hierarchies = mounts::parse(mountinfo).filter(|mount| mount.kind == "cgroup2");
    hierarchies.max_by_key(|mount| mount.root == Path::new("/")).map(|mount| mount.point)
}

/// Whether this process sees the host's cgroups from their top, and not only those below its own.
///
/// The initial cgroup namespace has a fixed inode number (`PROC_CGROUP_INIT_INO` in the kernel's
/// `include/linux/proc_ns.h`). True when it cannot be told.
pub(crate) fn namespace_is_initial() -> bool {
    const PROC_CGROUP_INIT_INO: u64 = 0xEFFF_FFFB;
    fs::metadata("/proc/self/ns/cgroup").map_or(true, |namespace| namespace.ino() == PROC_CGROUP_INIT_INO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(mountinfo: &str) -> Option<PathBuf> {
        root_in(mountinfo.as_bytes())
    }

    #[test]
    fn unified() {
        let text = "24 30 0:22 / /proc rw,nosuid - proc proc rw\n\
                    35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(root(text).as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn hybrid() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(root(text).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn the_top_is_preferred_to_a_part() {
        let top = "1 0 0:38 / /top rw - cgroup2 cgroup2 rw\n";
        let part = "2 0 0:38 /system.slice /part rw - cgroup2 cgroup2 rw\n";
        assert_eq!(root(&format!("{top}{part}")).as_deref(), Some(Path::new("/top")));
        assert_eq!(root(&format!("{part}{top}")).as_deref(), Some(Path::new("/top")));
        assert_eq!(root(part).as_deref(), Some(Path::new("/part")));
    }

    #[test]
    fn several_optional_fields_and_escapes() {
        let text = "41 31 0:38 / /a\\040b\\134c rw shared:1 master:2 - cgroup2 none rw\n";
        assert_eq!(root(text).as_deref(), Some(Path::new("/a b\\c")));
    }

    #[test]
    fn none_and_nonsense() {
        assert_eq!(root(""), None);
        assert_eq!(root("31 23 0:28 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\n"), None);
        assert_eq!(root("41 31 0:38 / /x rw cgroup2\n\n - \ncgroup2\n"), None);
    }

    #[test]
    fn this_host_has_one_if_it_says_so() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let expected = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"));
        assert_eq!(find_root().unwrap().is_some(), expected);
    }
}
