//! From a container's id to its namespace, without ever taking another's.
//!
//! The engine names a pid, and a pid may end and be given to another process at any moment. So: hold the process by
//! pidfd, open its namespace, then let the engine confirm that the container still runs with this pid since the same
//! time, and see that the process has not ended and sits in the container's own control group. Only then is the
//! namespace the container's; from then on the pidfd watches.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::InspectContainerOptions;

use crate::container::policy::{self, label};
use crate::container::process::Process;
use crate::container::{Container, Denied, Entrance, Policy};

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
    /// The engine does not answer.
    EngineLost(anyhow::Error),
}

/// Inspects container `id`, of which `known` is known.
pub(super) async fn identify(docker: &Docker, id: &str, known: Option<&Known>, entrance: &Entrance) -> Outcome {
    // A second try: the container may be restarted between the two inspections.
    for _ in 0..2 {
        let first = match inspect(docker, id).await {
            Ok(Some(first)) => first,
            Ok(None) => return Outcome::NotRunning,
            Err(error) => return Outcome::EngineLost(error),
        };
        let Some(run) = run_of(&first) else { return Outcome::NotRunning };
        let description = Description::of(first);
        if known.is_some_and(|known| known.run == run && !known.container.is_gone()) {
            return Outcome::Renamed { name: description.name, names: description.names };
        }
        // The namespace's socket for the cookie is made on this thread; all of it takes microseconds.
        let (process, container) = match enter(id, &run, &description, entrance) {
            Ok(entered) => entered,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Outcome::Unusable(explain(&description.name, &error)),
        };
        match inspect(docker, id).await {
            Ok(Some(second)) if run_of(&second).as_ref() == Some(&run) && process.is_alive() => {
                let known = Known { container: Arc::new(container), run };
                return Outcome::Running { known, process, names: Description::of(second).names };
            }
            Ok(_) => {}
            Err(error) => return Outcome::EngineLost(error),
        }
    }
    // It ends as fast as it is started; its next start is news again.
    tracing::debug!(id, "this container's process does not stay the same for long enough to be identified");
    Outcome::NotRunning
}

/// `None`: there is no such container.
async fn inspect(docker: &Docker, id: &str) -> anyhow::Result<Option<ContainerInspectResponse>> {
    match docker.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(response) => Ok(Some(response)),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context("inspecting a container")),
    }
}

/// The run that is going on; `None` if none is. A paused container runs.
fn run_of(response: &ContainerInspectResponse) -> Option<Run> {
    let state = response.state.as_ref()?;
    let pid = u32::try_from(state.pid?).ok().filter(|&pid| pid != 0)?;
    state.running?.then_some(())?;
    Some(Run { pid, started_at: state.started_at.clone()? })
}

struct Description {
    name: String,
    names: Vec<String>,
    labels: HashMap<String, String>,
}

impl Description {
    fn of(response: ContainerInspectResponse) -> Self {
        let name = response.name.unwrap_or_default().trim_start_matches('/').to_owned();
        let labels = response.config.and_then(|config| config.labels).unwrap_or_default();
        let uuids = [label::UUID, label::ARVADOS_UUID].into_iter().filter_map(|key| labels.get(key).cloned());
        let mut names: Vec<String> = uuids.chain([name.clone()]).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        Self { name, names, labels }
    }

    /// What the labels allow; with a word in the log about those that are wrong.
    fn policy(&self) -> Policy {
        for unknown in policy::unknown_labels(&self.labels) {
            tracing::warn!(container = self.name, "label {unknown} means nothing to this version of Portsplice");
        }
        Policy::from_labels(&self.labels).unwrap_or_else(|error| {
            tracing::warn!(container = self.name, "{error}; until then nobody can connect to the container");
            Policy::closed(Denied::Denied)
        })
    }
}

fn enter(id: &str, run: &Run, description: &Description, entrance: &Entrance) -> io::Result<(Process, Container)> {
    let process = Process::open(run.pid)?;
    if is_of_another_container(&process.cgroups()?, id) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the pid is another container's"));
    }
    let netns = process.netns()?;
    let policy = entrance.judge(&netns, description.policy());
    Ok((process, Container::new(id.to_owned(), description.name.clone(), Arc::new(netns), policy)))
}

/// Whether these control groups (/proc/PID/cgroup) belong to a container with another id.
///
/// Engines put a container into a group named after it: `docker/ID`, `docker-ID.scope`, `libpod-ID`. Below it the
/// container may make more; above it there may be another container's, with Docker in Docker. So the innermost id counts.
/// Groups without any id prove nothing.
fn is_of_another_container(cgroups: &str, id: &str) -> bool {
    let mut another = false;
    for line in cgroups.lines() {
        let innermost = line
            .rsplit(|c: char| !c.is_ascii_alphanumeric())
            .find(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        match innermost {
            Some(found) if found == id => return false,
            Some(_) => another = true,
            None => {}
        }
    }
    another
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

    use bollard::models::{ContainerConfig, ContainerState};

    const X: &str = "8db47905f395e1a0c0c56a8b3d7bc1c35fa5234f8bf59817e67560181b870692";
    const Y: &str = "67ea3a0eaca9037a7ee11dab3a7ba2443d9d1107123e21aa300c122cc2251dce";

    #[test]
    fn control_groups() {
        for (cgroups, another) in [
            (String::new(), false),
            ("0::/".into(), false),
            ("0::/user.slice/session-1.scope".into(), false),
            (format!("0::/docker/{X}"), false),
            (format!("0::/system.slice/docker-{X}.scope"), false),
            (format!("0::/machine.slice/libpod-{X}.scope/container"), false),
            (format!("0::/docker/{X}/init.scope"), false),
            (format!("0::/docker/{Y}/docker/{X}"), false),
            (format!("0::/docker/{X}/docker/{Y}"), true),
            (format!("0::/docker/{Y}"), true),
            (format!("1:cpu:/docker/{Y}\n0::/docker/{X}"), false),
            (format!("1:cpu:/\n0::/system.slice/docker-{Y}.scope"), true),
        ] {
            assert_eq!(is_of_another_container(&cgroups, X), another, "{cgroups}");
        }
    }

    #[test]
    fn only_a_running_container_has_a_run() {
        let with = |running, pid| ContainerInspectResponse {
            state: Some(ContainerState {
                running: Some(running),
                pid: Some(pid),
                started_at: Some("2026-01-01T00:00:00Z".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(run_of(&with(true, 7)).is_some_and(|run| run.pid == 7));
        for response in [with(false, 7), with(true, 0), with(true, -1), ContainerInspectResponse::default()] {
            assert_eq!(run_of(&response), None);
        }
    }

    #[test]
    fn names_come_from_the_name_and_both_labels() {
        let labels = [(label::UUID, "u-1"), (label::ARVADOS_UUID, "u-2"), (label::PORTS, "80")];
        let response = |labels: HashMap<String, String>| ContainerInspectResponse {
            name: Some("/web".into()),
            config: Some(ContainerConfig { labels: Some(labels), ..Default::default() }),
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
