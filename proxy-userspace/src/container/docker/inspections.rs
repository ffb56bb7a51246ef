//! Inspects several containers at a time, each by one task at a time, and once more if there was news meanwhile.

use std::collections::{HashMap, VecDeque};

use bollard::Docker;
use tokio::task::JoinSet;

use super::identify::{Known, Outcome, identify};
use crate::container::Entrance;

/// Inspections that run at a time: an engine that starts fifty containers should not be asked fifty times at once.
const AT_A_TIME: usize = 8;

pub(super) struct Inspections {
    docker: Docker,
    entrance: Entrance,
    tasks: JoinSet<(String, Outcome)>,
    wanted: HashMap<String, Stage>,
    queue: VecDeque<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Running,
    /// There was news while it ran, which it may have missed.
    RunningOutdated,
}

impl Inspections {
    pub(super) fn new(docker: Docker, entrance: Entrance) -> Self {
        Self { docker, entrance, tasks: JoinSet::new(), wanted: HashMap::new(), queue: VecDeque::new() }
    }

    /// Nothing runs and nothing is queued.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Asks for `id` to be inspected after this moment.
    pub(super) fn want(&mut self, id: String, known: &HashMap<String, Known>) {
        match self.wanted.get_mut(&id) {
            Some(Stage::Queued) => {}
            Some(stage) => *stage = Stage::RunningOutdated,
            None => {
                self.wanted.insert(id.clone(), Stage::Queued);
                self.queue.push_back(id);
            }
        }
        self.start(known);
    }

    fn start(&mut self, known: &HashMap<String, Known>) {
        while self.tasks.len() < AT_A_TIME
            && let Some(id) = self.queue.pop_front()
        {
            self.wanted.insert(id.clone(), Stage::Running);
            let (docker, entrance, known) = (self.docker.clone(), self.entrance.clone(), known.get(&id).cloned());
            self.tasks.spawn(async move {
                let outcome = identify(&docker, &id, known.as_ref(), &entrance).await;
                (id, outcome)
            });
        }
    }

    /// The next result; waits for ever when idle. Cancel safe. To be followed by [`Inspections::finished`].
    ///
    /// # Errors
    /// A task has panicked.
    pub(super) async fn next(&mut self) -> anyhow::Result<(String, Outcome)> {
        match self.tasks.join_next().await {
            Some(result) => Ok(result?),
            None => std::future::pending().await,
        }
    }

    /// The result for `id` is there and part of `known`; there may be need for another.
    pub(super) fn finished(&mut self, id: &str, known: &HashMap<String, Known>) {
        if self.wanted.remove(id) == Some(Stage::RunningOutdated) {
            self.wanted.insert(id.to_owned(), Stage::Queued);
            self.queue.push_back(id.to_owned());
        }
        self.start(known);
    }
}
