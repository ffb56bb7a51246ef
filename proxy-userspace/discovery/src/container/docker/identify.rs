//! From a container's id to its namespace, without ever taking another's.
//!
//! The engine names a pid, and a pid may end and be given to another process at any moment. So: hold the process by
//! pidfd, open its namespace, then let the engine confirm that the container still runs with this pid since the same
//! time, and see that the process has not ended and sits in the container's own control group. Only then is the
//! namespace the container's; from then on the pidfd watches.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::api::{Api, Failure, Inspected};
use super::images::Images;
use crate::container::policy::{self, label};
use crate::container::process::{Process, start_after_boot};
use crate::container::{Container, HostNetworkRule, Policy};
use portsplice_model::{Denied, error_line};

/// A container of the engine as it is in the cache.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) container: Arc<Container>,
    run: Run,
}

/// One run of a container, from a start to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    pid: u32,
    started_at: String,
}

/// What an inspection says.
pub(super) enum Outcome {
    /// The container does not exist or does not run.
    NotRunning,
    /// It is the run that was known; these are its names now.
    Renamed { name: String, names: Vec<String> },
    /// It runs, and was not known.
    Running { known: Known, process: Process, names: Vec<String> },
    /// It runs but cannot be entered, for this reason.
    Unusable(String),
    /// The engine does not tell about this container, for this reason.
    Troubled(String),
    /// There is no engine any more.
    EngineLost(Failure),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotFound => Self::NotRunning,
            Failure::Away(_) => Self::EngineLost(failure),
            failure => Self::Troubled(error_line(&failure)),
        }
    }
}

/// Inspects container `id`, of which `known` is known.
pub(super) async fn identify(
    api: &Api,
    images: &Images,
    id: &str,
    known: Option<&Known>,
    host_network: &HostNetworkRule,
) -> Outcome {
    try_identify(api, images, id, known, host_network).await.unwrap_or_else(Outcome::from)
}

async fn try_identify(
    api: &Api,
    images: &Images,
    id: &str,
    known: Option<&Known>,
    host_network: &HostNetworkRule,
) -> Result<Outcome, Failure> {
    let mut misled = None;
    // A second try: the container may be restarted between the two inspections.
    for _ in 0..2 {
        let (first, ignored) = inspect(api, images, id).await?;
        let Some(run) = run_of(&first) else { return Ok(Outcome::NotRunning) };
        let description = Description::of(first);
        if known.is_some_and(|known| known.run == run && !known.container.is_gone()) {
            return Ok(Outcome::Renamed { name: description.name, names: description.names });
        }
        // The namespace's socket for the cookie is made on this thread; all of it takes microseconds.
        let (process, container, doubt) = match enter(api, id, &run, &description, host_network) {
            Ok(entered) => entered,
            Err(Entry::Misled(reason)) => {
                misled = Some(format!("{}: {reason}", description.name));
                continue;
            }
            Err(Entry::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {
                misled = None;
                continue;
            }
            Err(Entry::Failed(error)) => return Ok(Outcome::Unusable(explain(&description.name, &error))),
        };
        let (second, _) = inspect(api, images, id).await?;
        if run_of(&second).as_ref() == Some(&run) && process.is_alive() {
            description.warn(&ignored, doubt);
            let known = Known { container: Arc::new(container), run };
            return Ok(Outcome::Running { known, process, names: Description::of(second).names });
        }
    }
    if let Some(reason) = misled {
        return Ok(Outcome::Unusable(reason));
    }
    // It ends as fast as it is started; its next start is news again.
    tracing::debug!(id, "this container's process keeps changing, so it cannot be identified");
    Ok(Outcome::NotRunning)
}

/// What the engine says of a container, without those labels that do not count since they come from its image: these are
/// named beside.
async fn inspect(api: &Api, images: &Images, id: &str) -> Result<(Inspected, Vec<String>), Failure> {
    let mut inspected = api.inspect(id).await?;
    let ignored = images.take_out(api, &mut inspected).await?;
    Ok((inspected, ignored))
}

/// The run that is going on; `None` if none is: it is created, restarting, stopped, or in a state of which nobody has heard
/// yet. A paused container runs.
fn run_of(response: &Inspected) -> Option<Run> {
    let state = response.state.as_ref()?;
    let pid = u32::try_from(state.pid?).ok().filter(|&pid| pid != 0)?;
    let runs = state.running == Some(true) || state.paused == Some(true);
    runs.then_some(())?;
    Some(Run { pid, started_at: state.started_at.clone()? })
}

struct Description {
    name: String,
    names: Vec<String>,
    labels: HashMap<String, String>,
}

impl Description {
    fn of(response: Inspected) -> Self {
        let name = response.name.unwrap_or_default().trim_start_matches('/').to_owned();
        let labels = response.config.and_then(|config| config.labels).unwrap_or_default();
        let uuids = [label::UUID, label::ARVADOS_UUID].into_iter().filter_map(|key| labels.get(key).cloned());
        let mut names: Vec<String> = uuids.chain([name.clone()]).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        Self { name, names, labels }
    }

    /// What is to be known of a container that was found: labels that do not count, and a pid that only the engine vouches for.
    fn warn(&self, ignored: &[String], doubt: bool) {
        if !ignored.is_empty() {
            tracing::warn!(
                container = self.name, labels = ?ignored,
                "ignoring labels set by the image: they may not claim a name or publish a port unless containers.trust-image-labels is set"
            );
        }
        if doubt {
            tracing::warn!(
                container = self.name,
                "its process is in no control group (cgroup) that names the container; trusting the engine, which shares the daemon's pid namespace"
            );
        }
    }

    /// What the labels allow; with a word in the log about those that are wrong.
    fn policy(&self) -> Policy {
        for unknown in policy::unknown_labels(&self.labels) {
            tracing::warn!(container = self.name, "unknown label {unknown}");
        }
        Policy::from_labels(&self.labels).unwrap_or_else(|error| {
            tracing::warn!(container = self.name, "{error}; until this is fixed nobody can connect to the container");
            Policy::closed(Denied::Denied)
        })
    }
}

/// Why a container's process was not entered.
enum Entry {
    /// The pid is not what the engine means by it.
    Misled(String),
    Failed(io::Error),
}

impl From<io::Error> for Entry {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The container's process, its namespace, and whether there is doubt that it is the container's.
fn enter(
    api: &Api,
    id: &str,
    run: &Run,
    description: &Description,
    host_network: &HostNetworkRule,
) -> Result<(Process, Container, bool), Entry> {
    let pid = run.pid;
    let foreign = || match api.peer.shares_pids() {
        Ok(true) => None,
        Ok(false) => Some("the engine runs in another pid namespace than the daemon".to_owned()),
        Err(reason) => Some(format!("cannot determine the engine's pid namespace: {reason}")),
    };
    let remedy = "run both in one pid namespace, or register the container by its network namespace";
    let process = match Process::open(pid) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(match foreign() {
                Some(why) => Entry::Misled(format!("process {pid} does not exist here; {why}: {remedy}")),
                None => Entry::Failed(error),
            });
        }
        opened => opened?,
    };
    let owner = owner(&process.cgroups()?, id);
    if owner == Owner::Another {
        let why = foreign().unwrap_or_else(|| "according to its control group".to_owned());
        return Err(Entry::Misled(format!("process {pid} is another container's; {why}: {remedy}")));
    }
    if owner == Owner::Unknown
        && let Some(why) = foreign()
    {
        return Err(Entry::Misled(format!(
            "process {pid} is in no control group of this container, and {why}: {remedy}"
        )));
    }
    let netns = process.netns()?;
    let start = process.start_ticks()?;
    let policy = host_network.apply(&netns, description.policy());
    let container = Container::new(id.to_owned(), description.name.clone(), Arc::new(netns), policy);
    let container = container.of_process(Some((pid, start))).claiming_since(start_after_boot(start));
    Ok((process, container, owner == Owner::Unknown))
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    This,
    Another,
    Unknown,
}

/// Whose these control groups (/proc/PID/cgroup) are, seen from the container `id`.
///
/// Engines put a container into a group named after it: `docker/ID`, `docker-ID.scope`, `libpod-ID`. Below it the
/// container may make more; above it there may be another container's, with Docker in Docker. So the innermost id counts.
/// Groups without any id prove nothing.
fn owner(cgroups: &str, id: &str) -> Owner {
    let mut owner = Owner::Unknown;
    for line in cgroups.lines() {
        let innermost = line
            .rsplit(|c: char| !c.is_ascii_alphanumeric())
            .find(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        match innermost {
            Some(found) if found == id => return Owner::This,
            Some(_) => owner = Owner::Another,
            None => {}
        }
    }
    owner
}

fn explain(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{name}: {error}: the daemon needs CAP_SYS_ADMIN and CAP_SYS_PTRACE, and must see the host's processes"
        ),
        _ => format!("{name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::container::docker::api::{Config, State};

    const X: &str = "8db47905f395e1a0c0c56a8b3d7bc1c35fa5234f8bf59817e67560181b870692";
    const Y: &str = "67ea3a0eaca9037a7ee11dab3a7ba2443d9d1107123e21aa300c122cc2251dce";

    #[test]
    fn control_groups() {
        for (cgroups, expected) in [
            (String::new(), Owner::Unknown),
            ("0::/".into(), Owner::Unknown),
            ("0::/user.slice/session-1.scope".into(), Owner::Unknown),
            (format!("0::/docker/{X}"), Owner::This),
            (format!("0::/system.slice/docker-{X}.scope"), Owner::This),
            (format!("0::/machine.slice/libpod-{X}.scope/container"), Owner::This),
            (format!("0::/docker/{X}/init.scope"), Owner::This),
            (format!("0::/docker/{Y}/docker/{X}"), Owner::This),
            (format!("0::/docker/{X}/docker/{Y}"), Owner::Another),
            (format!("0::/docker/{Y}"), Owner::Another),
            (format!("1:cpu:/docker/{Y}\n0::/docker/{X}"), Owner::This),
            (format!("1:cpu:/\n0::/system.slice/docker-{Y}.scope"), Owner::Another),
        ] {
            assert_eq!(owner(&cgroups, X), expected, "{cgroups}");
        }
    }

    #[test]
    fn only_a_running_container_has_a_run() {
        let with = |running, pid| Inspected {
            state: Some(State {
                running: Some(running),
                pid: Some(pid),
                started_at: Some("2026-01-01T00:00:00Z".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(run_of(&with(true, 7)).is_some_and(|run| run.pid == 7));
        for response in [with(false, 7), with(true, 0), with(true, -1), with(true, i64::MAX), Inspected::default()] {
            assert_eq!(run_of(&response), None);
        }
        let mut paused = with(false, 7);
        paused.state.as_mut().unwrap().paused = Some(true);
        assert!(run_of(&paused).is_some(), "Podman's");
    }

    #[test]
    fn names_come_from_the_name_and_both_labels() {
        let labels = [(label::UUID, "u-1"), (label::ARVADOS_UUID, "u-2"), (label::PORTS, "80")];
        let response = |labels: HashMap<String, String>| Inspected {
            name: Some("/web".into()),
            config: Some(Config { labels: Some(labels) }),
            ..Default::default()
        };
        let description = Description::of(response(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()));
        assert_eq!(
            (description.name.as_str(), description.names.clone()),
            ("web", vec!["u-1".into(), "u-2".into(), "web".to_owned()])
        );
        assert_eq!(description.policy().check(81), Err(Denied::Port));

        let bad = Description::of(response(
            [(label::PORTS.to_owned(), "http".to_owned()), (label::UUID.to_owned(), String::new())].into(),
        ));
        assert_eq!(bad.policy().check(80), Err(Denied::Denied));
        assert_eq!(bad.names, ["web"]);
    }
}
