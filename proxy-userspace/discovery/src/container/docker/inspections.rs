//! Inspects several containers at a time, each by one task at a time, and once more if there was news meanwhile.
//!
//! One that takes long holds up no other: it no longer counts among those that run at a time, and nobody waits for it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::identify::{Known, Outcome, identify};
use super::images::Images;
use crate::container::HostNetworkRule;

/// Inspections that run at a time: an engine that starts fifty containers should not be asked fifty times at once.
const AT_A_TIME: usize = 8;
/// Those that take long, of which the engine did not tell the last time say, may be as many beside them.
const SLOW_ONES: usize = 64;
/// Those of them of which the engine did not tell the last time.
const TROUBLED_ONES: usize = 2;
/// What takes longer than this is slow.
const SLOW: Duration = Duration::from_secs(1);

pub(super) struct Inspections {
    api: Api,
    images: Images,
    host_network: HostNetworkRule,
    tasks: JoinSet<(String, Outcome)>,
    wanted: HashMap<String, Stage>,
    queue: VecDeque<String>,
    /// Containers of which the engine did not tell the last time; they wait here.
    troubled: HashSet<String>,
    troubled_queue: VecDeque<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Running {
        since: Instant,
        /// There was news while it ran, which it may have missed.
        outdated: bool,
    },
}

impl Stage {
    fn is_slow(self) -> bool {
        matches!(self, Self::Running { since, .. } if since.elapsed() >= SLOW)
    }
}

impl Inspections {
    pub(super) fn new(api: Api, images: Images, host_network: HostNetworkRule) -> Self {
        Self {
            api,
            images,
            host_network,
            tasks: JoinSet::new(),
            wanted: HashMap::new(),
            queue: VecDeque::new(),
            troubled: HashSet::new(),
            troubled_queue: VecDeque::new(),
        }
    }

    /// Nothing runs and nothing is queued, but what takes long.
    pub(super) fn is_settled(&self) -> bool {
        self.wanted.iter().all(|(id, stage)| self.troubled.contains(id) || stage.is_slow())
    }

    /// Nothing runs and nothing is queued.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether the engine did not tell of this container the last time.
    pub(super) fn is_troubled(&self, id: &str) -> bool {
        self.troubled.contains(id)
    }

    /// Forgets those that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.troubled.retain(|id| is_there(id) || self.wanted.contains_key(id));
    }

    /// Asks for `id` to be inspected after this moment.
    pub(super) fn want(&mut self, id: String, known: &HashMap<String, Known>) {
        match self.wanted.get_mut(&id) {
            Some(Stage::Queued) => {}
            Some(Stage::Running { outdated, .. }) => *outdated = true,
            None => self.enqueue(id),
        }
        self.start(known);
    }

    fn enqueue(&mut self, id: String) {
        self.wanted.insert(id.clone(), Stage::Queued);
        let queue = if self.troubled.contains(&id) { &mut self.troubled_queue } else { &mut self.queue };
        queue.push_back(id);
    }

    fn start(&mut self, known: &HashMap<String, Known>) {
        let running = self.wanted.iter().filter(|(_, stage)| **stage != Stage::Queued);
        let (mut quick, mut troubled) = (0, 0);
        for (id, stage) in running {
            match () {
                () if self.troubled.contains(id) => troubled += 1,
                () if !stage.is_slow() => quick += 1,
                () => {}
            }
        }
        while quick < AT_A_TIME
            && self.tasks.len() < AT_A_TIME + SLOW_ONES
            && let Some(id) = self.queue.pop_front()
        {
            quick += 1;
            self.spawn(id, known);
        }
        while troubled < TROUBLED_ONES
            && let Some(id) = self.troubled_queue.pop_front()
        {
            troubled += 1;
            self.spawn(id, known);
        }
    }

    fn spawn(&mut self, id: String, known: &HashMap<String, Known>) {
        self.wanted.insert(id.clone(), Stage::Running { since: Instant::now(), outdated: false });
        let (api, images, host_network) = (self.api.clone(), self.images.clone(), self.host_network.clone());
        let known = known.get(&id).cloned();
        self.tasks.spawn(async move {
            let outcome = identify(&api, &images, &id, known.as_ref(), &host_network).await;
            (id, outcome)
        });
    }

    /// The next result; none when one has become slow, so that others may go on. Waits for ever when idle. Cancel safe. To be
    /// followed by [`Inspections::finished`].
    ///
    /// # Errors
    /// A task has panicked.
    pub(super) async fn next(&mut self) -> Result<Option<(String, Outcome)>, JoinError> {
        let quick = self.wanted.values().filter_map(|stage| match stage {
            Stage::Running { since, .. } if !stage.is_slow() => Some(*since + SLOW),
            _ => None,
        });
        let becomes_slow = quick.min();
        tokio::select! {
            Some(result) = self.tasks.join_next() => Ok(Some(result?)),
            () = sleep_until(becomes_slow.unwrap_or_else(Instant::now)), if becomes_slow.is_some() => Ok(None),
            else => std::future::pending().await,
        }
    }

    /// One has become slow: others may begin.
    pub(super) fn go_on(&mut self, known: &HashMap<String, Known>) {
        self.start(known);
    }

    /// The result for `id` is there and part of `known`; there may be need for another.
    pub(super) fn finished(&mut self, id: &str, troubled: bool, known: &HashMap<String, Known>) {
        let outdated = matches!(self.wanted.remove(id), Some(Stage::Running { outdated: true, .. }));
        if troubled {
            self.troubled.insert(id.to_owned());
        } else {
            self.troubled.remove(id);
        }
        if outdated {
            self.enqueue(id.to_owned());
        }
        self.start(known);
    }
}
