//! From a description to the container that it stands for: its namespace, opened, and its process, held.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use super::description::{Description, Target};
use super::presence::{Presence, Survey};
use crate::container::process::{Process, time_of_start};
use crate::container::{Container, HostNetworkRule};
use portsplice_net::netns::Netns;

/// How much younger than its description a process may seem: the times are rounded to ticks of the kernel's clocks, 10 ms
/// each.
const ROUNDING: Duration = Duration::from_millis(50);

/// A container that runs, and what it was described as.
pub(super) struct Running {
    pub(super) container: Arc<Container>,
    pub(super) description: Description,
    /// Pid and start time of the process, if it is registered by one.
    pub(super) process: Option<(u32, u64)>,
    /// Its path was found to lead to no namespace, and the log says so.
    pub(super) hidden: bool,
}

impl Running {
    /// Why it has ended by what has become of its namespace; `None` if it has not. Says once what is out of the ordinary.
    pub(super) fn end_of_namespace(&mut self, survey: &Survey) -> Option<&'static str> {
        let Target::Path(path) = &self.description.target else { return None };
        let presence = survey.presence(path, &self.container.netns);
        let container = &self.container.name;
        match (presence, self.hidden) {
            (Presence::Replaced, _) => return Some("its namespace was replaced"),
            (Presence::Ended, _) => return Some("its namespace was removed"),
            (Presence::Hidden, false) => tracing::warn!(
                container, path = %path.display(),
                "the path of this container no longer leads to its network namespace, which still exists: something may be mounted over it; the container is served until its registration is removed or its namespace is gone"
            ),
            (Presence::AtItsPath, true) => {
                tracing::info!(container, "the namespace of this container is back at its path")
            }
            (Presence::Hidden, true) | (Presence::AtItsPath, false) => {}
        }
        self.hidden = presence == Presence::Hidden;
        None
    }
}

/// Where a description leads to.
pub(super) struct ResolvedTarget {
    pub(super) netns: Netns,
    /// The process and its start time, if it goes by one.
    pub(super) process: Option<(Process, u64)>,
}

/// Which process a pid without a start time means.
#[derive(Clone, Copy)]
pub(super) enum PidCheck {
    /// One that had started when this was written; unknown is never.
    StartedBefore(Option<SystemTime>),
    /// The one that has it now.
    Current,
}

/// Why a description does not lead to a container now.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may later.
    NotYet(String),
    /// It never will, as it is.
    Never(String),
}

impl ResolvedTarget {
    /// # Errors
    /// What is not there, or cannot be entered.
    pub(super) fn open(target: &Target, pid_check: PidCheck) -> Result<Self, Failure> {
        match target {
            Target::Process { pid, start_time } => open_process(*pid, *start_time, pid_check),
            Target::Path(path) => {
                let netns = Netns::open(path).map_err(|e| Failure::NotYet(format!("{path:?}: {}", explain(&e))))?;
                Ok(Self { netns, process: None })
            }
        }
    }

    /// Where `old` is, if `target` is the path that it went by, and its namespace is in being although that path leads to none
    /// now: so its policy can be changed meanwhile.
    pub(super) fn hidden(target: &Target, old: Option<&Running>) -> Option<Self> {
        let (Target::Path(path), Some(old)) = (target, old) else { return None };
        let netns = &old.container.netns;
        let same = old.description.target == *target && !old.container.is_gone();
        let hidden = same && Survey::default().presence(path, netns) == Presence::Hidden;
        hidden.then(|| netns.held_again().ok()).flatten().map(|netns| Self { netns, process: None })
    }

    pub(super) fn started(&self) -> Option<(u32, u64)> {
        self.process.as_ref().map(|(process, start)| (process.pid(), *start))
    }

    /// Whether it is where `running` is.
    pub(super) fn is_of(&self, running: &Running) -> bool {
        running.process == self.started()
            && running.container.netns.id() == self.netns.id()
            && !running.container.is_gone()
    }

    /// The container that `description` stands for, which claims its name `since` then (after the machine's start): that of `previous` under another policy if it is the same one still.
    /// The process is to be [watched](watch).
    pub(super) fn container(
        self,
        id: &str,
        description: &Description,
        host_network: &HostNetworkRule,
        previous: Option<&Running>,
        since: Duration,
    ) -> (Arc<Container>, Option<(Process, u64)>) {
        let policy = host_network.apply(&self.netns, description.policy.clone());
        let started = self.started();
        let container = match previous {
            // A container that is closed now loses the connections that it has.
            Some(old) if self.is_of(old) && policy.deny.is_none() => {
                old.container.with_policy(description.name.clone(), policy)
            }
            _ => Container::new(id.to_owned(), description.name.clone(), Arc::new(self.netns), policy)
                .of_process(started)
                .claiming_since(since),
        };
        (Arc::new(container), self.process)
    }
}

/// Calls `ended` when the process ends while the container is there.
pub(super) fn watch(
    runtime: &Handle,
    process: Process,
    container: Arc<Container>,
    ended: impl FnOnce() + Send + 'static,
) {
    runtime.spawn(async move {
        tokio::select! {
            () = process.exited() => {
                tracing::info!(container = container.name, "container gone: its process has exited");
                ended();
            }
            () = container.gone() => {}
        }
    });
}

fn open_process(pid: u32, start_time: Option<u64>, pid_check: PidCheck) -> Result<ResolvedTarget, Failure> {
    let failure = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Never(format!("process {pid} has exited: give the pid of a running one")),
        _ => Failure::NotYet(format!("process {pid}: {}", explain(&error))),
    };
    let process = Process::open(pid).map_err(failure)?;
    let start = process.start_ticks().map_err(failure)?;
    match (start_time, pid_check) {
        (Some(expected), _) if expected != start => {
            return Err(Failure::Never(format!(
                "the start time of process {pid} is {start} (field 22 of /proc/{pid}/stat) and not {expected}: it is \
                 another process"
            )));
        }
        (None, PidCheck::StartedBefore(written)) if is_younger(start, written) => {
            return Err(Failure::Never(format!(
                "process {pid} started after the file was written, so it cannot be the intended one: rewrite the file, or add start-time = field 22 of /proc/{pid}/stat"
            )));
        }
        _ => {}
    }
    let netns = process.netns().map_err(failure)?;
    Ok(ResolvedTarget { netns, process: Some((process, start)) })
}

/// Whether the process with this start time started after `written`. If that is unknown it is taken to have.
fn is_younger(start_ticks: u64, written: Option<SystemTime>) -> bool {
    written.is_none_or(|written| time_of_start(start_ticks) > written + ROUNDING)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}: the daemon needs CAP_SYS_ADMIN and CAP_SYS_PTRACE to enter it")
        }
        _ => error.to_string(),
    }
}
