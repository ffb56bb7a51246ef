//! Containers of the Docker Engine (or of anything that speaks its API on a unix socket, Podman for one).
//!
//! The engine's events only say where to look: every piece of news makes the container be inspected, and what the
//! inspection says is what counts, so that lost, doubled or reordered events do no harm. While the engine is away the
//! containers found before stay: their processes are watched by pidfd, without the engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::{Ask, Container, Desk, Entrance};
use crate::backoff::Backoff;

mod identify;
mod inspections;

use identify::{Known, Outcome};
use inspections::Inspections;

/// How long one answer of the engine may take, in seconds.
const ANSWER: u64 = 10;
/// How often the list is compared although no event said so.
const RESYNC: Duration = Duration::from_secs(60);
/// The least time between two lists asked for by requests for unknown names.
const LIST_PAUSE: Duration = Duration::from_millis(200);
/// How long the start of the daemon waits for the first list.
const START: Duration = Duration::from_secs(3);
/// How far back events are asked for, so that none falls between subscribing and listing.
const OVERLAP: Duration = Duration::from_secs(2);
/// What must have gone well for this long, before the pause after the next loss is short again.
const STABLE: Duration = Duration::from_secs(10);

/// Follows the engine at `socket` until `shutdown`. Returns when its containers are known, or it has failed, or
/// [`START`] is over. With `optional` there may be none; one that comes later is followed like any other.
pub(super) async fn start(
    socket: &Path,
    optional: bool,
    entrance: Entrance,
    cache: Arc<Cache>,
    desk: Desk,
    shutdown: CancellationToken,
) {
    *desk.health.lock() = Some(Err("not connected yet".into()));
    let (ready, first_list) = oneshot::channel();
    let resolver = Resolver {
        socket: socket.to_owned(),
        optional,
        entrance,
        cache,
        desk,
        known: HashMap::new(),
        complaints: HashMap::new(),
        waiting: Vec::new(),
        ready: Some(ready),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = resolver.run() => {}
            () = shutdown.cancelled() => {}
        }
    });
    let _ = timeout(START, first_list).await;
}

struct Resolver {
    socket: PathBuf,
    /// Nobody expects an engine here, and none was seen yet.
    optional: bool,
    entrance: Entrance,
    cache: Arc<Cache>,
    desk: Desk,
    /// The containers in the cache that are the engine's, by id.
    known: HashMap<String, Known>,
    /// What was already said about containers that cannot be entered, by id.
    complaints: HashMap<String, String>,
    waiting: Vec<Ask>,
    ready: Option<oneshot::Sender<()>>,
}

impl Resolver {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let start = Instant::now();
            let error = self.connect_and_follow().await;
            if start.elapsed() > STABLE {
                backoff = Backoff::default();
            }
            match self.is_absent() {
                true => self.without(),
                false => self.lost(&error),
            }
            self.answer();
            let pause = sleep(backoff.next());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(ask) = self.desk.asks.recv() => {
                        if self.optional && !self.is_absent() {
                            // It has just come, and may know of what is asked for.
                            self.waiting.push(ask);
                            break;
                        }
                        // Whoever asks now learns at once that the engine is away.
                        drop(ask);
                    }
                }
            }
        }
    }

    /// Whether this is a machine without an engine, as far as anybody can tell.
    fn is_absent(&self) -> bool {
        self.optional && self.socket.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    fn without(&self) {
        if self.desk.health.lock().take().is_some() {
            tracing::info!(
                socket = %self.socket.display(),
                "there is no container engine here; one that is started later will be followed"
            );
        }
    }

    fn lost(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let mut health = self.desk.health.lock();
        let said = matches!(&*health, Some(Err(before)) if *before == text);
        if said {
            tracing::debug!(socket = %self.socket.display(), "the container engine is still away: {text}");
        } else {
            tracing::warn!(
                socket = %self.socket.display(), containers = self.known.len(),
                "the container engine is away, known containers stay reachable: {text}"
            );
        }
        *health = Some(Err(text));
    }

    /// The engine has been asked everything: whoever waits may look into the cache.
    fn answer(&mut self) {
        self.waiting.clear();
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(());
        }
    }

    /// Returns only when the engine is lost, with the reason.
    async fn connect_and_follow(&mut self) -> anyhow::Error {
        match connect(&self.socket).await {
            Ok(docker) => match self.follow(&docker).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(error) => error,
        }
    }

    async fn follow(&mut self, docker: &Docker) -> anyhow::Result<std::convert::Infallible> {
        let mut events = pin!(events(docker));
        let mut inspections = Inspections::new(docker.clone(), self.entrance.clone());
        let mut resync = interval_at(Instant::now() + RESYNC, RESYNC);
        // Set when a list is to be made, to the time it may be.
        let mut list_due = Some(Instant::now());
        let mut last_list = Instant::now();
        loop {
            if list_due.is_none() && inspections.is_idle() {
                self.up_to_date();
            }
            tokio::select! {
                () = sleep_until(list_due.unwrap_or_else(Instant::now)), if list_due.is_some() => {
                    list_due = None;
                    last_list = Instant::now();
                    self.list(docker, &mut inspections).await?;
                }
                event = events.next() => {
                    let id = event.ok_or_else(|| anyhow!("it ended the stream of events"))??;
                    inspections.want(id, &self.known);
                }
                done = inspections.next(), if !inspections.is_idle() => {
                    let (id, outcome) = done?;
                    // In this order: another inspection must know of the outcome, or it would find the same run anew.
                    self.apply(id.clone(), outcome)?;
                    inspections.finished(&id, &self.known);
                }
                Some(ask) = self.desk.asks.recv() => {
                    self.waiting.push(ask);
                    list_due = list_due.or(Some(last_list + LIST_PAUSE));
                }
                _ = resync.tick() => list_due = list_due.or(Some(Instant::now())),
            }
        }
    }

    fn up_to_date(&mut self) {
        self.answer();
        self.optional = false;
        let mut health = self.desk.health.lock();
        if *health != Some(Ok(())) {
            *health = Some(Ok(()));
            tracing::info!(
                socket = %self.socket.display(), containers = self.known.len(),
                "following the container engine"
            );
        }
    }

    /// Inspects what the engine lists and is not known, or is known and not listed.
    async fn list(&mut self, docker: &Docker, inspections: &mut Inspections) -> anyhow::Result<()> {
        let listed = docker.list_containers(None::<ListContainersOptions>).await.context("listing containers")?;
        let mut names = HashMap::with_capacity(listed.len());
        for container in listed {
            if let Some(id) = container.id {
                names.insert(id, container.names.unwrap_or_default());
            }
        }
        self.complaints.retain(|id, _| names.contains_key(id));
        let vanished: Vec<_> = self.known.keys().filter(|id| !names.contains_key(*id)).cloned().collect();
        for id in vanished {
            inspections.want(id, &self.known);
        }
        for (id, names) in names {
            let is_known = self.known.get(&id).is_some_and(|known| {
                let name = &known.container.name;
                !known.container.is_gone() && names.iter().any(|listed| listed.strip_prefix('/') == Some(name))
            });
            if !is_known {
                inspections.want(id, &self.known);
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: String, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::NotRunning => {
                if let Some(known) = self.known.remove(&id) {
                    self.end(&known.container);
                }
            }
            Outcome::Renamed { name, names } => {
                if let Some(known) = self.known.get_mut(&id)
                    && known.container.name != name
                {
                    tracing::info!(container = known.container.name, name, "container renamed");
                    known.container = Arc::new(known.container.renamed(name));
                    self.cache.insert(known.container.clone(), names);
                }
            }
            Outcome::Running { known, process, names } => {
                let container = known.container.clone();
                tracing::info!(container = container.name, id = short(&id), netns = %container.netns.id(), "container found");
                self.cache.insert(container.clone(), names);
                self.complaints.remove(&id);
                self.known.insert(id, known);
                let cache = self.cache.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = process.exited() => {
                            tracing::info!(container = container.name, "container gone: its process has ended");
                            cache.remove(&container);
                        }
                        () = container.gone() => {}
                    }
                });
            }
            Outcome::Unusable(reason) => {
                if let Some(known) = self.known.remove(&id) {
                    self.end(&known.container);
                }
                if self.complaints.get(&id) != Some(&reason) {
                    tracing::warn!(id = short(&id), "this container cannot be reached: {reason}");
                    self.complaints.insert(id, reason);
                }
            }
            Outcome::EngineLost(error) => return Err(error),
        }
        Ok(())
    }

    fn end(&self, container: &Container) {
        if !container.is_gone() {
            tracing::info!(container = container.name, "container gone: the engine says that it does not run");
        }
        self.cache.remove(container);
    }
}

/// An id as people know it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

async fn connect(socket: &Path) -> anyhow::Result<Docker> {
    let path = socket.to_str().context("the path of the engine's socket is not UTF-8")?;
    let docker = Docker::connect_with_unix(path, ANSWER, API_DEFAULT_VERSION)?;
    docker.negotiate_version().await.context("asking for its version")
}

/// The ids of containers of which there is news.
fn events(docker: &Docker) -> impl Stream<Item = anyhow::Result<String>> + use<> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(OVERLAP);
    let only = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>();
    let filters = HashMap::from([
        ("type".to_owned(), only(&["container"])),
        ("event".to_owned(), only(&["start", "die", "destroy", "rename"])),
    ]);
    let options = EventsOptionsBuilder::new()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    docker.events(Some(options)).filter_map(async |event| match event {
        Ok(event) => event.actor.and_then(|actor| actor.id).map(Ok),
        Err(error) => Some(Err(anyhow::Error::new(error).context("following its events"))),
    })
}
