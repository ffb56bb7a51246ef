//! Whether a namespace that is registered by its path is still in being.
//!
//! That its path leads to no namespace is no proof of its end. A mount over the directory hides it, even a second bind of
//! `/run/netns` on itself, and `ip netns delete` takes a name away while "the network namespace persists until it has no more
//! users" (ip-netns(8)). The daemon holds the namespace itself, so the kernel does not tell of its end either. It has ended
//! when nothing is left of it that could answer anybody: no mount, no socket that listens, no process. Another namespace at the
//! path ends it at once, since whoever put that there says what the name means now.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::Path;

use portsplice_files::mounts;
use portsplice_net::netns::{Netns, NetnsId};

/// What was found out about a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Its path leads to it.
    AtItsPath,
    /// Its path leads to no namespace, but it is in being.
    Hidden,
    /// Its path leads to another namespace.
    Replaced,
    /// Its path leads to no namespace, and nothing is left of it.
    Ended,
}

/// One look at what is left of namespaces. The machine's tables are read when they are first asked for, and once for all
/// namespaces.
#[derive(Default)]
pub(super) struct Survey {
    /// Inodes of the namespaces that are mounted somewhere, hidden or not.
    mounted: OnceCell<BTreeSet<u64>>,
    /// The namespaces that processes are in.
    inhabited: OnceCell<BTreeSet<NetnsId>>,
}

impl Survey {
    /// What has become of `netns`, which was found at `path`.
    pub(super) fn presence(&self, path: &Path, netns: &Netns) -> Presence {
        match NetnsId::at(path) {
            Ok(id) if id == netns.id() => Presence::AtItsPath,
            // All namespaces are files of one file system, so this is one too.
            Ok(id) if id.device() == netns.id().device() => Presence::Replaced,
            _ if self.is_in_being(netns) => Presence::Hidden,
            _ => Presence::Ended,
        }
    }

    /// The cheap questions first. One that fails is no proof of anything, and leaves it to the others.
    fn is_in_being(&self, netns: &Netns) -> bool {
        self.mounted.get_or_init(mounted).contains(&netns.id().inode())
            || netns.listening().is_ok_and(|dump| !dump.sockets.is_empty())
            || self.inhabited.get_or_init(inhabited).contains(&netns.id())
    }
}

fn mounted() -> BTreeSet<u64> {
    let table = std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
    mounted_in(&table).collect()
}

/// The inodes of the network namespaces that a mountinfo says are mounted. What is mounted from within another file system
/// has a path for a root, which begins with a slash.
fn mounted_in(table: &[u8]) -> impl Iterator<Item = u64> {
    let inode = |root: &str| root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok();
    mounts::parse(table).filter_map(move |mount| inode(mount.root.to_str()?))
}

/// Not the daemon's own, whose threads are in containers' namespaces for moments.
fn inhabited() -> BTreeSet<NetnsId> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && name != own.as_str()
    });
    processes.filter_map(|entry| NetnsId::at(&entry.path().join("ns/net")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table() {
        let namespace = "301 28 0:4 net:[4026532281] /run/netns/web rw shared:160 - nsfs nsfs rw";
        assert_eq!(mounted_in(namespace.as_bytes()).collect::<Vec<_>>(), [4_026_532_281]);
        for other in [
            "302 28 0:4 mnt:[4026532281] /run/ns rw - nsfs nsfs rw",
            "303 28 0:25 /net:[4026532281] /mnt rw - tmpfs tmpfs rw",
            "304 28 0:25 / /net:[4026532281] rw - tmpfs tmpfs rw",
            "305 28 0:4 net:[] /x rw - nsfs nsfs rw",
            "",
        ] {
            assert_eq!(mounted_in(other.as_bytes()).next(), None, "{other}");
        }
    }

    #[test]
    fn processes_are_seen() {
        let own = NetnsId::at(Path::new("/proc/self/ns/net")).unwrap();
        let parent = std::os::unix::process::parent_id();
        let there = NetnsId::at(Path::new(&format!("/proc/{parent}/ns/net"))).unwrap();
        assert_eq!((there, inhabited().contains(&there)), (own, true));
    }
}
