//! Containers of the Docker Engine (or of anything that speaks its API on a unix socket, Podman for one).
//!
//! The engine's events only say where to look: every piece of news makes the container be inspected, and what the
//! inspection says is what counts, so that lost, doubled or reordered events do no harm. While the engine is away the
//! containers found before stay: their processes are watched by pidfd, without the engine. A container of which the engine
//! does not tell is that container's trouble alone, and is asked for again at its next event, or with the next list.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::{Container, HostNetworkRule, RefreshRequest, ResolverHandle};
use portsplice_model::error_line;
use portsplice_net::backoff::Backoff;

mod api;
mod identify;
mod images;
mod inspections;

pub use api::Failure;
use api::{Api, Event, EventsError};
use identify::{Known, Outcome};
use images::Images;
use inspections::Inspections;

/// How often the list is compared although no event said so.
const RESYNC: Duration = Duration::from_secs(60);
/// The least time between two lists asked for by requests for unknown names.
const LIST_PAUSE: Duration = Duration::from_millis(200);
/// How long the start of the daemon waits for the first list.
const START: Duration = Duration::from_secs(3);
/// What must have gone well for this long, before the pause after the next loss is short again.
const STABLE: Duration = Duration::from_secs(10);

/// Why an engine is followed no longer.
#[derive(Debug, thiserror::Error)]
enum Loss {
    #[error("asking for its version at {}", .socket.display())]
    Version { socket: PathBuf, source: Failure },
    #[error("listing containers")]
    List(#[source] Failure),
    #[error("inspecting a container")]
    Inspect(#[source] Failure),
    #[error("following its events")]
    Events(#[source] EventsError),
    #[error("it closed the event stream")]
    Ended,
    /// A fault of this program.
    #[error(transparent)]
    Panic(#[from] JoinError),
}

/// How an engine is followed.
pub(super) struct Settings {
    pub(super) socket: PathBuf,
    /// There may be none; one that comes later is followed like any other.
    pub(super) optional: bool,
    pub(super) trust_image_labels: bool,
}

/// The version of the engine at `socket`.
///
/// # Errors
/// Why it does not answer.
pub async fn version(socket: &Path) -> Result<String, Failure> {
    Ok(Api::connect(socket.to_owned()).await?.version)
}

/// Follows the engine until `shutdown`. Returns when its containers are known, or it has failed, or [`START`] is over.
pub(super) async fn start(
    Settings { socket, optional, trust_image_labels }: Settings,
    host_network: HostNetworkRule,
    cache: Arc<Cache>,
    handle: ResolverHandle,
    shutdown: CancellationToken,
) {
    *handle.health.lock() = Some(Err("not connected yet".into()));
    let (ready, first_list) = oneshot::channel();
    let resolver = Resolver {
        socket,
        optional,
        images: Images::new(trust_image_labels),
        host_network,
        cache,
        handle,
        known: HashMap::new(),
        warnings: HashMap::new(),
        names: HashMap::new(),
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
    images: Images,
    host_network: HostNetworkRule,
    cache: Arc<Cache>,
    handle: ResolverHandle,
    /// The containers in the cache that are the engine's, by id.
    known: HashMap<String, Known>,
    /// What was already said about containers that cannot be entered, by id.
    warnings: HashMap<String, String>,
    /// What the engine's list calls its containers, by id.
    names: HashMap<String, String>,
    waiting: Vec<RefreshRequest>,
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
            let pause = sleep(backoff.pause());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(request) = self.handle.requests.recv() => {
                        if self.optional && !self.is_absent() {
                            // It has just come, and may know of what is asked for.
                            self.waiting.push(request);
                            break;
                        }
                        // Whoever asks now learns at once that the engine is away.
                        drop(request);
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
        if self.handle.health.lock().take().is_some() {
            tracing::info!(
                socket = %self.socket.display(),
                "no container engine found; still watching for one to start"
            );
        }
    }

    fn lost(&self, error: &Loss) {
        let text = error_line(error);
        let mut health = self.handle.health.lock();
        let said = matches!(&*health, Some(Err(before)) if *before == text);
        if said {
            tracing::debug!(socket = %self.socket.display(), "container engine still unreachable: {text}");
        } else {
            tracing::warn!(
                socket = %self.socket.display(), containers = self.known.len(),
                "container engine unreachable; known containers remain reachable: {text}"
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
    async fn connect_and_follow(&mut self) -> Loss {
        match Api::connect(self.socket.clone()).await {
            Ok(api) => match self.follow(&api).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(source) => Loss::Version { socket: self.socket.clone(), source },
        }
    }

    async fn follow(&mut self, api: &Api) -> Result<std::convert::Infallible, Loss> {
        let (mut events, _following) = api.events();
        let mut inspections = Inspections::new(api.clone(), self.images.clone(), self.host_network.clone());
        let mut resync = interval_at(Instant::now() + RESYNC, RESYNC);
        // Set when a list is to be made, to the time it may be.
        let mut list_due = Some(Instant::now());
        let mut last_list = Instant::now();
        loop {
            if list_due.is_none() && inspections.is_settled() {
                self.up_to_date();
            }
            tokio::select! {
                () = sleep_until(list_due.unwrap_or_else(Instant::now)), if list_due.is_some() => {
                    list_due = None;
                    last_list = Instant::now();
                    self.list(api, &mut inspections).await?;
                }
                event = events.recv() => match event.ok_or(Loss::Ended)?.map_err(Loss::Events)? {
                    Event::Container(id, name) => {
                        if let Some(name) = name {
                            self.names.insert(id.clone(), name);
                        }
                        inspections.want(id, &self.known);
                    }
                    Event::Unclear => list_due = list_due.or(Some(last_list + LIST_PAUSE)),
                },
                done = inspections.next(), if !inspections.is_idle() => match done? {
                    Some((id, outcome)) => {
                        let troubled = matches!(outcome, Outcome::Troubled(_));
                        // In this order: another inspection must know of the outcome, or it would find the same run anew.
                        self.apply(id.clone(), outcome)?;
                        inspections.finished(&id, troubled, &self.known);
                    }
                    None => inspections.go_on(&self.known),
                },
                Some(request) = self.handle.requests.recv() => {
                    self.waiting.push(request);
                    list_due = list_due.or(Some(last_list + LIST_PAUSE));
                }
                _ = resync.tick() => list_due = list_due.or(Some(Instant::now())),
            }
        }
    }

    fn up_to_date(&mut self) {
        self.answer();
        self.optional = false;
        let mut health = self.handle.health.lock();
        if *health != Some(Ok(())) {
            *health = Some(Ok(()));
            tracing::info!(
                socket = %self.socket.display(), containers = self.known.len(),
                "connected to the container engine"
            );
        }
    }

    /// Inspects what the engine lists and is not known, or is known and not listed.
    async fn list(&mut self, api: &Api, inspections: &mut Inspections) -> Result<(), Loss> {
        let (listed, without) = api.list().await.map_err(Loss::List)?;
        if without > 0 {
            tracing::debug!(containers = without, "the engine lists containers with an invalid ID");
        }
        let mut names = HashMap::with_capacity(listed.len());
        for container in listed {
            names.insert(container.id, container.names.unwrap_or_default());
        }
        let name = |names: &Vec<String>| names.first().map(|name| name.trim_start_matches('/').to_owned());
        self.names = names.iter().filter_map(|(id, names)| Some((id.clone(), name(names)?))).collect();
        inspections.retain(|id| names.contains_key(id));
        self.warnings.retain(|id, _| names.contains_key(id));
        let vanished: Vec<_> = self.known.keys().filter(|id| !names.contains_key(*id)).cloned().collect();
        for id in vanished {
            inspections.want(id, &self.known);
        }
        for (id, names) in names {
            let is_known = self.known.get(&id).is_some_and(|known| {
                let name = &known.container.name;
                !known.container.is_gone() && names.iter().any(|listed| listed.strip_prefix('/') == Some(name))
            });
            if !is_known || inspections.is_troubled(&id) {
                inspections.want(id, &self.known);
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: String, outcome: Outcome) -> Result<(), Loss> {
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
                self.warnings.remove(&id);
            }
            Outcome::Running { known, process, names } => {
                let container = known.container.clone();
                tracing::info!(container = container.name, id = short(&id), netns = %container.netns.id(), "container found");
                self.cache.insert(container.clone(), names);
                self.warnings.remove(&id);
                self.known.insert(id, known);
                let cache = self.cache.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = process.exited() => {
                            tracing::info!(container = container.name, "container gone: its process has exited");
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
                if self.warnings.get(&id) != Some(&reason) {
                    tracing::warn!(id = short(&id), "cannot serve this container: {reason}");
                    self.warnings.insert(id, reason);
                }
            }
            // One that was found before stays: its process is watched.
            Outcome::Troubled(reason) => {
                if self.warnings.get(&id) != Some(&reason) {
                    let name = self.names.get(&id).map_or("", String::as_str);
                    tracing::warn!(
                        container = name,
                        id = short(&id),
                        "cannot inspect this container, will retry: {reason}"
                    );
                    self.warnings.insert(id, reason);
                }
            }
            Outcome::EngineLost(failure) => return Err(Loss::Inspect(failure)),
        }
        Ok(())
    }

    fn end(&self, container: &Container) {
        if !container.is_gone() {
            tracing::info!(container = container.name, "container gone: the engine reports it is not running");
        }
        self.cache.remove(container);
    }
}

/// An id as people know it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
