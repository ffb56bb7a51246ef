//! Three hosts as network namespaces: controller, node, container, each joined to the node by a veth pair.
//!
//! The namespaces have no name, so the kernel takes them down in whatever way the run ends. Nothing appears in the
//! namespace that the run was started from.

use std::net::Ipv4Addr;

use anyhow::Context;
use portsplice_testkit::net::Netns;

/// Where the proxies listen: the node's address on the link to the controller.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 1);
/// The container's address on the link to the node.
pub(crate) const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 2);

/// Same in all three: many short connections from one address must not run out of ports, nor 1,000 idle ones of
/// neighbours or backlog.
const SYSCTLS: [(&str, &str); 3] =
    [("net/ipv4/ip_local_port_range", "10000 65000"), ("net/ipv4/tcp_tw_reuse", "1"), ("net/ipv4/ip_forward", "1")];

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
    /// Makes the namespaces and the links between them. Panics where this process may not.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let all = Self { controller: Netns::unnamed(), node: Netns::unnamed(), container: Netns::unnamed() };
        for netns in [&all.controller, &all.node, &all.container] {
            netns.enter(set_sysctls)?;
        }
        all.node.veth(&format!("{NODE}/24"), &all.controller, "10.71.1.2/24");
        all.node.veth("10.71.2.1/24", &all.container, &format!("{CONTAINER}/24"));
        all.controller.ip(&["route", "add", "default", "via", "10.71.1.1"]);
        all.container.ip(&["route", "add", "default", "via", "10.71.2.1"]);
        Ok(all)
    }
}

/// Sets them in the namespace of the thread.
fn set_sysctls() -> anyhow::Result<()> {
    for (name, value) in SYSCTLS {
        let path = format!("/proc/sys/{name}");
        std::fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}
