//! Whether a container is paused: its control group is frozen, as `docker pause` does it.
//!
//! Seen in the kernel and not asked of an engine: whoever has frozen it, and whether or not an engine knows. Two kernels'
//! interfaces are in use, on some hosts both at once: the freezer of cgroup v1 (Documentation/admin-guide/cgroup-v1/
//! freezer-subsystem.rst) and `cgroup.freeze` of v2 (Documentation/admin-guide/cgroup-v2.rst).

use std::io;
use std::path::{Path, PathBuf};

use super::process::Process;
use portsplice_files::mounts::{self, Mount};

/// Whether the control group of `process` is frozen, itself or with a group above it. Where the hierarchy is not mounted or
/// shows another part of itself, nothing is known, and the answer is no.
pub(super) fn is_frozen(process: &Process) -> bool {
    let cgroups = process.cgroups();
    let Ok((cgroups, mounts)) = cgroups.and_then(|cgroups| Ok((cgroups, std::fs::read(MOUNTS)?))) else {
        return false;
    };
    says_frozen(&cgroups, &mounts, |path| std::fs::read_to_string(path))
}

/// What this process sees mounted, proc_pid_mountinfo(5).
const MOUNTS: &str = "/proc/self/mountinfo";

/// The same of the text of /proc/PID/cgroup, with what is mounted, and a way to read files.
fn says_frozen(cgroups: &str, mounts: &[u8], read: impl Fn(&Path) -> io::Result<String>) -> bool {
    let says = |hierarchy: &Hierarchy, group: &str| {
        let group = mounts::parse(mounts).find_map(|mount| hierarchy.find(&mount, group))?;
        let text = read(&group.join(hierarchy.file)).ok()?;
        Some(text.lines().any(|line| hierarchy.words.contains(&line)))
    };
    cgroups.lines().any(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return false };
        let hierarchy = match controllers {
            "" => &V2,
            _ if controllers.split(',').any(|name| name == "freezer") => &V1,
            _ => return false,
        };
        says(hierarchy, group).unwrap_or(false)
    })
}

/// Where a freezer says what it does.
struct Hierarchy {
    /// The type of its file system.
    kind: &'static str,
    /// What its mount's own options contain.
    option: Option<&'static str>,
    file: &'static str,
    /// Lines of the file that say so. A group that is being frozen does nothing more either, or nearly so.
    words: &'static [&'static str],
}

const V1: Hierarchy =
    Hierarchy { kind: "cgroup", option: Some("freezer"), file: "freezer.state", words: &["FROZEN", "FREEZING"] };
const V2: Hierarchy = Hierarchy { kind: "cgroup2", option: None, file: "cgroup.events", words: &["frozen 1"] };

impl Hierarchy {
    /// Where `group` is, if this is a mount of the hierarchy that shows it.
    fn find(&self, mount: &Mount, group: &str) -> Option<PathBuf> {
        let fits =
            mount.kind == self.kind && self.option.is_none_or(|option| mount.options.iter().any(|one| one == option));
        let below = Path::new(group).strip_prefix(&mount.root).ok().filter(|_| fits)?;
        // What is seen from another cgroup namespace leads out of what is mounted.
        (!group.split('/').any(|part| part == "..")).then(|| mount.point.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    /// The only file there is.
    fn asks(cgroups: &str, mounts: &str, file: &str, text: &str) -> bool {
        let read = |path: &Path| {
            (path == Path::new(file)).then(|| text.to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        says_frozen(cgroups, mounts.as_bytes(), read)
    }

    #[test]
    fn both_freezers_are_asked() {
        let cgroups = "9:name=systemd:/x\n6:cpu,freezer:/docker/c\n2:cpu:/docker/c\n0::/docker/c\n";
        let (v1, v2) =
            ("/sys/fs/cgroup/freezer/docker/c/freezer.state", "/sys/fs/cgroup/unified/docker/c/cgroup.events");
        for (file, text, frozen) in [
            (v1, "FROZEN\n", true),
            (v1, "FREEZING\n", true),
            (v1, "THAWED\n", false),
            (v2, "populated 1\nfrozen 1\n", true),
            (v2, "populated 1\nfrozen 0\n", false),
            (v2, "populated 1\n", false),
            (v2, "frozen 11\n", false),
            ("/sys/fs/cgroup/cpu/docker/c/freezer.state", "FROZEN\n", false),
            ("/elsewhere", "FROZEN\n", false),
        ] {
            assert_eq!(asks(cgroups, MOUNTS, file, text), frozen, "{file}: {text}");
        }
    }

    #[test]
    fn a_part_that_is_mounted_is_looked_into() {
        let mounts = "41 31 0:38 /docker /mnt rw - cgroup2 none rw\n";
        assert!(asks("0::/docker/c\n", mounts, "/mnt/c/cgroup.events", "frozen 1\n"));
        assert!(asks("0::/docker\n", mounts, "/mnt/cgroup.events", "frozen 1\n"));
        assert!(!asks("0::/docker-other/c\n", mounts, "/mnt/c/cgroup.events", "frozen 1\n"));
        assert!(!asks("0::/docker/../c\n", mounts, "/mnt/../c/cgroup.events", "frozen 1\n"));
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        for (cgroups, mounts) in
            [("", MOUNTS), ("0:", MOUNTS), ("nonsense", MOUNTS), ("0::/a", ""), ("0::/a", "1 2 - ")]
        {
            assert!(
                !asks(cgroups, mounts, "/sys/fs/cgroup/unified/a/cgroup.events", "frozen 1\n"),
                "{cgroups} {mounts}"
            );
        }
    }
}
