//! Why the kernel does not help.

use std::path::PathBuf;

use aya::EbpfError;
use aya::programs::ProgramError;
use portsplice_model::error_line;

/// Why the programs are not in the kernel; each message is one line and says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The configuration does not want them.
    #[error("disabled by the configuration")]
    Off,
    /// The binary carries no object.
    #[error("this binary was built without the eBPF object: run `cargo xtask build-ebpf`, then build it again")]
    NotBuilt,
    /// The process may not load programs.
    #[error("missing {}: run the daemon as root, or grant it these capabilities", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// The kernel lacks what the programs use.
    #[error("Linux {0} is too old: the programs need 5.15 or later")]
    KernelTooOld(String),
    /// There is nothing to attach to.
    #[error("no cgroup v2 hierarchy is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`)")]
    NoCgroup,
    /// What there is to attach to cannot be opened, or is none.
    #[error("the cgroup {path} cannot be used: {error}")]
    Cgroup {
        /// The cgroup's folder.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The kernel refused the object or one of its programs.
    #[error("the kernel refused the programs: {0}")]
    Refused(String),
    /// The kernel took the programs, and they do not do what they must.
    #[error("the fast path does not work on this kernel: {0}")]
    Unproven(String),
    /// The kernel loaded the program but does not attach it.
    #[error("the program cannot be attached to the cgroup {path}: {error}")]
    Attach {
        /// The cgroup's folder.
        path: PathBuf,
        /// The kernel's reason.
        error: String,
    },
}

impl From<EbpfError> for Unavailable {
    fn from(error: EbpfError) -> Self {
        Self::Refused(error_line(&error))
    }
}

impl From<ProgramError> for Unavailable {
    fn from(error: ProgramError) -> Self {
        if let ProgramError::LoadError { io_error, verifier_log } = &error {
            let log = verifier_log.to_string();
            tracing::debug!("the verifier's log:\n{log}");
            return Self::Refused(match verdict(&log) {
                Some(verdict) => format!("{io_error}: {verdict}"),
                None => io_error.to_string(),
            });
        }
        Self::Refused(error_line(&error))
    }
}

/// The line in which the verifier says what it does not like: the last one, but for statistics. The whole log is long.
fn verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let is_statistics = |line: &str| line.is_empty() || STATISTICS.iter().any(|start| line.starts_with(start));
    log.lines().rev().map(str::trim).find(|line| !is_statistics(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn each_reason_is_error_line() {
        let path = PathBuf::from("/sys/fs/cgroup");
        let reasons = [
            Unavailable::Off,
            Unavailable::NotBuilt,
            Unavailable::Capabilities(vec!["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]),
            Unavailable::KernelTooOld("5.10.0".into()),
            Unavailable::NoCgroup,
            Unavailable::Cgroup { path: path.clone(), error: "not a directory".into() },
            Unavailable::Refused(error_line(&io::Error::other("first\nsecond"))),
            Unavailable::Attach { path, error: "busy".into() },
        ];
        for reason in reasons {
            assert!(!reason.to_string().contains('\n'), "{reason}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        let reason = Unavailable::Capabilities(vec!["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]).to_string();
        assert!(reason.starts_with("missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN:"), "{reason}");
    }

    #[test]
    fn the_verdict_is_the_last_line_that_is_no_statistics() {
        let log = "0: R1=ctx() R10=fp0\n0: (95) exit\nR0 !read_ok\nverification time 80 usec\nstack depth 120+0\n\
                   processed 1 insns (limit 1000000) max_states_per_insn 0\n\n";
        assert_eq!(verdict(log), Some("R0 !read_ok"));
        assert_eq!(verdict("processed 1 insns"), None);
    }
}
