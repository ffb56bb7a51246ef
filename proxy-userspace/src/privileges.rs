//! What the process may do: starts as root, keeps only what the node needs, and can never get more.
//!
//! | capability | needed to |
//! | --- | --- |
//! | `CAP_SYS_ADMIN` | enter a container's network namespace (setns(2)) |
//! | `CAP_SYS_PTRACE` | open `/proc/PID/ns/net` of processes of other users, or with capabilities that the node gave up |
//! | `CAP_NET_BIND_SERVICE` | listen on ports below 1024, also after a reload |
//! | `CAP_NET_ADMIN`, `CAP_BPF` | load the kernel programs and attach them to the cgroup; kept only with `bpf.mode` other than `off` |
//! | `CAP_PERFMON` | let the kernel programs read kernel memory; kept only with `bpf.mode` other than `off` |
//!
//! Deliberately not among them: `CAP_DAC_OVERRIDE` and `CAP_DAC_READ_SEARCH` (secrets, Docker's socket and the
//! configuration belong to root, who may read them as their owner), `CAP_SETUID`, `CAP_SYS_RESOURCE`, `CAP_NET_RAW`.
//!
//! Capabilities, the bounding set and `no_new_privs` belong to a thread and are inherited by the threads it starts, so
//! that [`reduce`] must run before the runtime starts any.

use std::fmt;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

use portsplice_bpf::BpfMode;

/// A capability and what the node cannot do without it.
#[derive(Debug, Clone, Copy)]
struct Need {
    capability: Capability,
    cost: &'static str,
    only_for_bpf: bool,
}

const NEEDS: [Need; 6] = [
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        cost: "cannot enter containers' network namespaces, so no request can reach any container",
        only_for_bpf: false,
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        cost: "cannot find the network namespaces of containers that run as other users or with capabilities",
        only_for_bpf: false,
    },
    Need {
        capability: Capability::CAP_NET_BIND_SERVICE,
        cost: "cannot open listeners on ports below 1024",
        only_for_bpf: false,
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        cost: "cannot attach kernel programs; responses are relayed in userspace",
        only_for_bpf: true,
    },
    Need {
        capability: Capability::CAP_BPF,
        cost: "cannot load kernel programs; responses are relayed in userspace",
        only_for_bpf: true,
    },
    Need {
        capability: Capability::CAP_PERFMON,
        cost: "kernel programs cannot read kernel memory; responses are relayed in userspace",
        only_for_bpf: true,
    },
];

/// What the process has after [`reduce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges {
    /// What was kept.
    pub kept: Vec<Capability>,
    /// What the node could use but does not have.
    pub missing: Vec<Missing>,
    /// How many files may be open now.
    pub open_files: Option<u64>,
}

/// A capability that the process was not given, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The capability that is missing.
    pub capability: Capability,
    /// What does not work without it.
    pub cost: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing: {}", self.capability, self.cost)
    }
}

impl Privileges {
    /// # Errors
    /// When the node could serve nothing at all; the text says what to do.
    pub fn check(&self) -> Result<()> {
        match self.missing.iter().find(|m| m.capability == Capability::CAP_SYS_ADMIN) {
            None => Ok(()),
            Some(missing) => {
                anyhow::bail!("{missing}; start the node as root, or give it at least CAP_SYS_ADMIN and CAP_SYS_PTRACE")
            }
        }
    }
}

/// Gives up everything the node does not need, on this thread and all that it starts later, and raises the limit of open
/// files as far as it goes.
///
/// # Errors
/// When the kernel refuses to take privileges away. A capability that is missing is no error here, see
/// [`Privileges::check`].
pub fn reduce(bpf: BpfMode) -> Result<Privileges> {
    reduce_to(|need| !need.only_for_bpf || bpf != BpfMode::Off)
}

/// As [`reduce`], for a role that does nothing but listen and connect.
///
/// # Errors
/// When the kernel refuses to take privileges away.
pub fn reduce_to_network() -> Result<Privileges> {
    reduce_to(|need| need.capability == Capability::CAP_NET_BIND_SERVICE)
}

fn reduce_to(is_needed: impl Fn(&Need) -> bool) -> Result<Privileges> {
    let open_files = raise_limits();
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    let (kept, missing) = plan(&permitted, is_needed);

    // Dropping from the bounding set needs CAP_SETPCAP, so it comes first. Without it the set stays, and
    // no_new_privs alone has to keep an executed program from gaining anything.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for capability in caps::all() {
            // Capabilities that the kernel does not know are not in the set.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    if has_nothing(&permitted) {
        // A service manager's filter of system calls may forbid even to try.
        return Ok(Privileges { kept, missing, open_files });
    }
    let none = CapsHashSet::new();
    let keep: CapsHashSet = kept.iter().copied().collect();
    // Kernels before 4.3 have no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Inheritable, &none).context("cannot drop inheritable capabilities")?;
    caps::set(None, CapSet::Effective, &keep).context("cannot drop effective capabilities")?;
    caps::set(None, CapSet::Permitted, &keep).context("cannot drop permitted capabilities")?;
    Ok(Privileges { kept, missing, open_files })
}

/// Whether there is no capability to give up: neither one to use nor one for a program that is executed.
fn has_nothing(permitted: &CapsHashSet) -> bool {
    permitted.is_empty() && caps::read(None, CapSet::Inheritable).is_ok_and(|inheritable| inheritable.is_empty())
}

/// What to keep of `permitted`, and what is missing in it.
fn plan(permitted: &CapsHashSet, is_needed: impl Fn(&Need) -> bool) -> (Vec<Capability>, Vec<Missing>) {
    let needs = NEEDS.iter().filter(|need| is_needed(need));
    let (have, lack): (Vec<&Need>, Vec<&Need>) = needs.partition(|need| permitted.contains(&need.capability));
    let is_missed = |need: &&&Need| !is_implied(need.capability, permitted);
    let missing = lack.iter().filter(is_missed).map(|need| Missing { capability: need.capability, cost: need.cost });
    (have.iter().map(|need| need.capability).collect(), missing.collect())
}

/// Whether another capability of `permitted` does the same: `CAP_SYS_ADMIN` is asked where these are not there
/// (`bpf_capable` and `perfmon_capable` in include/linux/capability.h). Docker before 23 cannot give them.
fn is_implied(capability: Capability, permitted: &CapsHashSet) -> bool {
    matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON)
        && permitted.contains(&Capability::CAP_SYS_ADMIN)
}

/// How many files a daemon that is started from here may have open: up to the hard limit, which it takes.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

fn raise_limits() -> Option<u64> {
    // Kernels before 5.11 charge maps of kernel programs to locked memory. Where this is not allowed (it needs
    // CAP_SYS_RESOURCE), loading them says what is wrong.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let files = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }) {
        Ok(()) => files.maximum,
        Err(_) => files.current,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn the_plan_keeps_what_is_needed_and_names_what_is_missing() {
        let (kept, missing) = plan(&caps::all(), |_| true);
        assert_eq!((kept.len(), missing.len()), (NEEDS.len(), 0));
        let few = CapsHashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE]);
        let missing: Vec<Capability> = plan(&few, |_| true).1.iter().map(|missing| missing.capability).collect();
        assert_eq!(missing, [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_ADMIN], "the others are implied");
        let without_bpf = |need: &Need| !need.only_for_bpf;
        let (kept, _) = plan(&caps::all(), without_bpf);
        assert!(!kept.contains(&Capability::CAP_BPF) && !kept.contains(&Capability::CAP_NET_ADMIN));
        let (kept, missing) = plan(&CapsHashSet::from([Capability::CAP_CHOWN]), without_bpf);
        assert!(kept.is_empty());
        let privileges = Privileges { kept, missing, open_files: None };
        let error = privileges.check().unwrap_err().to_string();
        assert!(error.starts_with("CAP_SYS_ADMIN is missing: cannot enter containers' network namespaces"), "{error}");
        assert!(error.contains("start the node as root"), "{error}");
    }

    /// Privileges belong to a thread, so that one that ends with the test can give them up.
    #[test]
    fn what_is_given_up_is_gone_also_for_later_threads() {
        thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            let privileges = reduce(BpfMode::Off).unwrap();
            assert_eq!(privileges.kept, plan(&before, |need| !need.only_for_bpf).0);
            thread::spawn(move || {
                let kept: CapsHashSet = privileges.kept.iter().copied().collect();
                for set in [CapSet::Permitted, CapSet::Effective] {
                    assert_eq!(caps::read(None, set).unwrap(), kept, "{set:?}");
                }
                assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
                assert!(caps::raise(None, CapSet::Effective, Capability::CAP_SYS_CHROOT).is_err());
                let status = fs::read_to_string("/proc/thread-self/status").unwrap();
                assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
                if before.contains(&Capability::CAP_SETPCAP) {
                    assert!(status.contains("CapBnd:\t0000000000000000\n"), "{status}");
                }
            })
            .join()
            .unwrap();
            // A second time takes nothing more.
            reduce(BpfMode::Off).unwrap();
        })
        .join()
        .unwrap();
        assert!(!fs::read_to_string("/proc/thread-self/status").unwrap().contains("NoNewPrivs:\t1\n"));
    }
}
