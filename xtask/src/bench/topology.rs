//! Three hosts as network namespaces: controller, node, container, each joined to the node by a veth pair.
//!
//! The namespaces have no name and no mount: descriptors held here and the processes inside keep them alive, so
//! whatever way the run ends, the kernel takes them down with their interfaces. Nothing appears in the namespace that
//! the run was started from.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::thread;

use anyhow::{Context, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::child::contain;

/// Where the proxies listen: the node's address on the link to the controller.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 1);
/// The container's address on the link to the node.
pub(crate) const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 2);

/// Same in all three: many short connections from one address must not run out of ports, nor 1,000 idle ones of
/// neighbours or backlog.
const SYSCTLS: [(&str, &str); 3] =
    [("net/ipv4/ip_local_port_range", "10000 65000"), ("net/ipv4/tcp_tw_reuse", "1"), ("net/ipv4/ip_forward", "1")];

const CONTROLLER_LINKS: &str = "\
link set lo up
address add 10.71.1.2/24 dev eth0
link set eth0 up
route add default via 10.71.1.1
";
const CONTAINER_LINKS: &str = "\
link set lo up
address add 10.71.2.2/24 dev eth0
link set eth0 up
route add default via 10.71.2.1
";

/// One network namespace.
pub(crate) struct Netns(File);

impl Netns {
    /// A new namespace with nothing in it but a loopback interface that is down.
    fn new() -> anyhow::Result<Self> {
        let made = thread::spawn(|| -> anyhow::Result<Self> {
            // SAFETY: CLONE_NEWNET changes only this thread's network namespace; it does not unshare the file table,
            // which is what makes `unshare` unsafe. The thread ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("make a network namespace; this needs root (CAP_SYS_ADMIN)")?;
            Ok(Self(File::open("/proc/thread-self/ns/net").context("open the new namespace")?))
        });
        made.join().map_err(|_| anyhow!("the thread making a network namespace panicked"))?
    }

    /// Runs `work` on a thread of its own inside the namespace; threads that it starts are inside too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter a network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a load thread panicked"))?
        })
    }

    /// A path by which another process can open this namespace while this process lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }

    fn sysctls(&self) -> anyhow::Result<()> {
        self.run(|| {
            for (name, value) in SYSCTLS {
                let path = format!("/proc/sys/{name}");
                std::fs::write(&path, value).with_context(|| format!("write {path}"))?;
            }
            Ok(())
        })
    }

    /// Runs `ip -batch` with `script` inside the namespace.
    fn ip(&self, script: &str) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        contain(&mut command, Some(self.as_fd()), None);
        let mut ip = command.spawn().context("start `ip` (Debian package iproute2)")?;
        ip.stdin.take().context("ip has no standard input")?.write_all(script.as_bytes())?;
        let status = ip.wait()?;
        ensure!(status.success(), "ip -batch: {status}");
        Ok(())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The three hosts, wired.
pub(crate) struct Topology {
    /// Where the load comes from.
    pub(crate) controller: Netns,
    /// Where the proxies run; it also routes between its two links.
    pub(crate) node: Netns,
    /// Where the server runs.
    pub(crate) container: Netns,
}

impl Topology {
    /// Makes the namespaces and the links between them.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let all = Self { controller: Netns::new()?, node: Netns::new()?, container: Netns::new()? };
        for netns in [&all.controller, &all.node, &all.container] {
            netns.sysctls()?;
        }
        all.node.ip(&format!(
            "link set lo up\n\
             link add controller type veth peer name eth0 netns {}\n\
             link add container type veth peer name eth0 netns {}\n\
             address add {NODE}/24 dev controller\n\
             address add 10.71.2.1/24 dev container\n\
             link set controller up\n\
             link set container up\n",
            all.controller.path().display(),
            all.container.path().display(),
        ))?;
        all.controller.ip(CONTROLLER_LINKS)?;
        all.container.ip(CONTAINER_LINKS)?;
        Ok(all)
    }
}
