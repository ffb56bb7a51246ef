//! Whose a socket is: the names of the processes that hold sockets, found through /proc.
//!
//! One search answers for any number of namespaces and sockets. It looks at the namespace of every process, and at the
//! descriptors only of those in the namespaces in question.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::{fs, io};

use portsplice_net::netns::NetnsId;

/// The names of the processes that hold these sockets, by inode. Of several processes it is the one with the lowest number,
/// which as a rule is the others' parent. What ends meanwhile, or cannot be looked at, is left out.
pub(super) fn find(proc: &Path, wanted: &HashMap<NetnsId, HashSet<u32>>) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    let mount = socket_mount();
    let mut left: usize = wanted.values().map(HashSet::len).sum();
    let Ok(entries) = fs::read_dir(proc) else { return names };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        if left == 0 {
            break;
        }
        let process = proc.join(pid.to_string());
        let Some(inodes) = NetnsId::at(&process.join("ns/net")).ok().and_then(|id| wanted.get(&id)) else { continue };
        let held =
            sockets_of(&process, mount.as_deref(), |inode| inodes.contains(&inode) && !names.contains_key(&inode));
        if held.is_empty() {
            continue;
        }
        if let Ok(name) = fs::read(process.join("comm")) {
            let name = String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned();
            left -= held.len();
            names.extend(held.into_iter().map(|inode| (inode, name.clone())));
        }
    }
    names
}

/// The sockets in question that a process has open.
fn sockets_of(process: &Path, mount: Option<&str>, wanted: impl Fn(u32) -> bool) -> HashSet<u32> {
    let held = match fs::read_dir(process.join("fd")) {
        Ok(entries) => entries.flatten().filter_map(|entry| linked_socket(&entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => described_sockets(process, mount),
        Err(_) => Vec::new(),
    };
    held.into_iter().filter(|&inode| wanted(inode)).collect()
}

/// The inode of the socket that /proc/PID/fd/N leads to.
fn linked_socket(link: &Path) -> Option<u32> {
    fs::read_link(link).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The same from /proc/PID/fdinfo. Its files, unlike the links, can be read of another user's process without
/// `CAP_DAC_READ_SEARCH`, which the daemon does not have; they hold the inode since Linux 5.14 (fs/proc/fd.c, `seq_show`).
/// An inode is a socket's only on the mount that all sockets of the kernel are on.
fn described_sockets(process: &Path, mount: Option<&str>) -> Vec<u32> {
    let (Some(mount), Ok(entries)) = (mount, fs::read_dir(process.join("fdinfo"))) else { return Vec::new() };
    let socket = |entry: fs::DirEntry| {
        let description = fs::read_to_string(entry.path()).ok()?;
        (field(&description, "mnt_id:")? == mount).then(|| field(&description, "ino:")?.parse().ok())?
    };
    entries.flatten().filter_map(socket).collect()
}

/// The number (`mnt_id`) of the mount that sockets are on.
fn socket_mount() -> Option<String> {
    let socket = UnixDatagram::unbound().ok()?;
    let description = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", socket.as_raw_fd())).ok()?;
    field(&description, "mnt_id:").map(str::to_owned)
}

fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use portsplice_net::netns::Netns;

    fn inode(listener: &TcpListener) -> u32 {
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn finds_this_process_and_only_what_is_asked_for() {
        let [a, b] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let here = Netns::current().unwrap().id();
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let find = |id, inodes: &[u32]| {
            super::find(Path::new("/proc"), &HashMap::from([(id, inodes.iter().copied().collect())]))
        };
        assert_eq!(find(here, &[inode(&a)]), HashMap::from([(inode(&a), own.trim_end().to_owned())]));
        assert_eq!(find(here, &[inode(&a), inode(&b), 1]).len(), 2);
        assert_eq!(find(NetnsId::at(Path::new("/")).unwrap(), &[inode(&a)]).len(), 0);
    }

    #[test]
    fn descriptions_name_the_same_sockets_as_links() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Path::new("/proc/self");
        let mount = socket_mount();
        assert!(mount.is_some());
        assert!(described_sockets(own, mount.as_deref()).contains(&inode(&listener)));
        assert!(!described_sockets(own, Some("1")).contains(&inode(&listener)));
        assert_eq!(sockets_of(own, None, |found| found == inode(&listener)), HashSet::from([inode(&listener)]));
    }

    #[test]
    fn a_proc_that_is_not_there_names_nobody() {
        assert!(find(Path::new("/nonexistent"), &HashMap::new()).is_empty());
    }
}
