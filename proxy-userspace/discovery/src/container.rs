//! Which containers run on this node, under which names, and how to get at them.
//!
//! Resolvers fill one cache: `docker` follows the Docker Engine's API, `registered` a directory of files that any other
//! runtime may write, and what is registered over the control socket. A request asks only the cache. What makes the cache safe to trust is that a [`Container`]
//! holds its namespace by descriptor and is watched by pidfd: when its process ends it is gone at that moment, whether or
//! not the engine says so, or is there at all.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use portsplice_auth::RegisteredKeys;
use portsplice_model::ConnectionCounts;
use portsplice_model::Denied;
use portsplice_model::Traffic;
use portsplice_net::netns::{DialError, DialHints, Netns, NetnsId, dial};
use portsplice_net::sock::Sock;

mod cache;
mod docker;
mod freezer;
mod peer;
pub mod policy;
mod process;
mod publication;
mod registered;
mod slots;
mod traffic;

pub use docker::{Failure as EngineError, version as engine_version};
pub use peer::Peer;
pub use policy::{Policy, PortSet, Publication, UpstreamScheme};

pub use registered::{DirectoryError, KeyText, PortRange, RegisterError, Registrar, Registration};
pub use slots::ConnectionSlot;

use cache::{Cache, Lookup};
use portsplice_model::unix_time;
use process::Process;
use slots::Slots;
use traffic::Totals;

/// How long a request for an unknown name waits for the resolvers to look again.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests for unknown names that wait at a time, for each resolver.
const MAX_REFRESH_REQUESTS: usize = 1024;

/// Where containers are looked for.
#[derive(Clone, Debug, Default)]
pub struct ContainersSettings {
    /// The Docker Engine's unix socket; `None` is no Docker.
    pub docker: Option<PathBuf>,
    /// Whether this machine may as well have no engine: as long as there is no socket, nothing is expected of it.
    pub docker_optional: bool,
    /// The directory of registered containers; `None` is none.
    pub directory: Option<PathBuf>,
    /// Whether containers that share the node's own network may be connected to.
    pub allow_host_network: bool,
    /// Whether labels that come from an image may claim names and publish ports.
    pub trust_image_labels: bool,
    /// Registration while the daemon runs; `None` is none.
    pub registrar: Option<RegistrarSettings>,
}

/// What registration over the control socket needs.
#[derive(Clone, Debug, Default)]
pub struct RegistrarSettings {
    /// The file that registrations are kept in; `None` forgets them at the end.
    pub state: Option<PathBuf>,
    /// Where the containers' keys go.
    pub keys: Arc<RegisteredKeys>,
}

/// One running container. It stays valid for whoever holds it, but see [`Container::is_gone`].
#[derive(Debug)]
pub struct Container {
    /// Docker's 64 hex digits, or `registered/FILE`, or `control/NAME`.
    pub id: String,
    /// What a log shows.
    pub name: String,
    /// The network namespace, which outlives the container for as long as anyone holds this.
    pub netns: Arc<Netns>,
    /// What the owner allows.
    pub policy: Policy,
    /// Pid and start of the process that it was found by, see [`Process::start_ticks`].
    process: Option<(u32, u64)>,
    /// When it began to claim its names, as time since the machine's start: of two that claim one name the first has it.
    since: Duration,
    /// What goes on when the same container gets another name or another policy.
    state: Arc<ContainerState>,
}

#[derive(Debug, Default)]
struct ContainerState {
    slots: Slots,
    /// Who is told of the first of them that is taken.
    first: OnceLock<Arc<Notify>>,
    /// Seconds since the epoch; 0 is never.
    last_activity: AtomicU64,
    traffic: Totals,
    hints: DialHints,
    /// Says what `ended` says, without its lock: it is read for every request.
    gone: AtomicBool,
    ended: CancellationToken,
}

impl Container {
    pub(crate) fn new(id: String, name: String, netns: Arc<Netns>, policy: Policy) -> Self {
        Self { id, name, netns, policy, process: None, since: process::uptime(), state: Arc::default() }
    }

    fn claiming_since(self, since: Duration) -> Self {
        Self { since, ..self }
    }

    fn of_process(self, process: Option<(u32, u64)>) -> Self {
        Self { process, ..self }
    }

    fn renamed(&self, name: String) -> Self {
        Self {
            id: self.id.clone(),
            name,
            netns: self.netns.clone(),
            policy: self.policy.clone(),
            process: self.process,
            since: self.since,
            state: self.state.clone(),
        }
    }

    fn with_policy(&self, name: String, policy: Policy) -> Self {
        Self { policy, ..self.renamed(name) }
    }

    /// Whether the container was stopped, restarted, replaced or removed. It never comes back: after a restart there is
    /// another `Container`.
    pub fn is_gone(&self) -> bool {
        self.state.gone.load(Ordering::Acquire)
    }

    /// Whether it is paused: its processes are frozen, by `docker pause` for instance. Its ports still take connections and
    /// requests, as many as its servers' backlogs and buffers hold, but nothing answers. One that is known by its namespace
    /// alone cannot be asked. This reads files below /proc and /sys.
    pub fn is_paused(&self) -> bool {
        let process = self.process.and_then(|(pid, start)| {
            let process = Process::open(pid).ok()?;
            (process.start_ticks().ok()? == start).then_some(process)
        });
        process.is_some_and(|process| freezer::is_frozen(&process))
    }

    /// Returns once the container is gone; see [`Container::is_gone`].
    pub async fn gone(&self) {
        self.state.ended.cancelled().await;
    }

    fn mark_gone(&self) {
        self.state.gone.store(true, Ordering::Release);
        self.state.ended.cancel();
    }

    /// Whether both are one run of one container, under whatever names.
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// How many [`ConnectionSlot`]s are held.
    pub fn active(&self) -> usize {
        self.state.slots.counts().0
    }

    /// What was moved for it, requests that are over only.
    pub fn traffic(&self) -> Traffic {
        self.state.traffic.sum()
    }

    /// A request is over, or an upgraded connection, for which this was moved.
    pub fn count(&self, traffic: Traffic) {
        self.state.traffic.add(traffic);
    }

    /// How many connections there are and were.
    pub fn connection_counts(&self) -> ConnectionCounts {
        let (active, total) = self.state.slots.counts();
        ConnectionCounts { active: active as u64, total }
    }

    /// When a connection was last opened, [used](Container::touch) or closed, in whole seconds.
    pub fn last_activity(&self) -> Option<SystemTime> {
        match self.state.last_activity.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    /// Wakes `told` when the first connection is made. Only the first caller's is taken; ask for
    /// [`Container::connection_counts`] afterwards, since there may have been one already.
    pub fn notify_on_first(&self, notify: &Arc<Notify>) {
        // Whoever takes the first slot looks for this afterwards, and the counts are behind the same lock.
        let _ = self.state.first.set(Arc::clone(notify));
    }

    /// A connection into the container is used: a request begins or ends, or a tunnel moves bytes.
    pub fn touch(&self) {
        self.state.touch();
    }

    /// Where it was found: `docker`, `directory` or `control`.
    pub fn source(&self) -> &'static str {
        match self.id.split_once('/') {
            Some(("control", _)) => "control",
            Some(_) => "directory",
            None => "docker",
        }
    }

    /// The name under which the cluster knows it.
    pub fn uuid(&self) -> &str {
        self.policy.publication.uuid.as_deref().unwrap_or(&self.name)
    }

    /// Connects to `port` inside the container. The caller has asked [`Policy::check`] before.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, port: u16, timeout: Duration) -> Result<Sock, DialError> {
        dial(&self.netns, port, self.policy.source, &self.state.hints, timeout).await
    }
}

impl ContainerState {
    fn touch(&self) {
        let now = unix_time().as_secs();
        // Mostly the same second: then the line stays shared between the processors.
        if self.last_activity.load(Ordering::Relaxed) != now {
            self.last_activity.store(now, Ordering::Relaxed);
        }
    }

    /// The first slot was taken.
    fn notify_first(&self) {
        if let Some(notify) = self.first.get() {
            notify.notify_one();
        }
    }
}

/// Is told which namespaces have containers that may be connected to, each once however many containers share it.
///
/// Called with the cache's lock held: it must be quick and must not call back.
pub trait Observer: Send + Sync {
    /// The first container of this namespace has come.
    fn added(&self, netns: &Arc<Netns>);
    /// The last container of this namespace has gone.
    fn removed(&self, netns: &Netns);
}

/// Observes nothing.
impl Observer for () {
    fn added(&self, _: &Arc<Netns>) {}
    fn removed(&self, _: &Netns) {}
}

/// Why a name leads to no container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No running container of this node goes by the name.
    #[error("the container does not run on this node")]
    NotOnThisNode,
    /// What was given is the beginning of the ids of several, and guessing is not done.
    #[error("several running containers go by this name")]
    Ambiguous,
    /// The engine does not answer, so nothing is known of a container by this name.
    #[error("the container engine does not respond")]
    EngineUnavailable,
}

/// Why containers cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// This process's own network namespace cannot be opened.
    #[error(transparent)]
    Namespace(#[from] io::Error),
    /// The directory in which containers are registered cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// All containers of this node.
pub struct Containers {
    cache: Arc<Cache>,
    sources: Vec<Source>,
    registrar: Option<Arc<Registrar>>,
}

impl Containers {
    /// Starts the resolvers and waits for what they know now, a few seconds at most: an engine that is not there yet is
    /// no error, see [`Containers::health`]. They stop when `shutdown` is cancelled. Containers that come and go are told to
    /// `events`, and their namespaces to `observer`.
    ///
    /// # Errors
    /// See [`ContainersError`]; the text says what to do.
    pub async fn start(
        settings: &ContainersSettings,
        events: Events,
        observer: Arc<dyn Observer>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, ContainersError> {
        let cache = Arc::new(Cache::new(events, observer));
        let host_network =
            HostNetworkRule { own: Arc::new(Netns::current()?), allow_host_network: settings.allow_host_network };
        let mut sources = Vec::new();
        if let Some(directory) = &settings.directory {
            let (source, handle) = Source::new("directory");
            registered::start(directory, host_network.clone(), cache.clone(), handle, shutdown.clone()).await?;
            sources.push(source);
        }
        let registrar = settings.registrar.clone().map(|RegistrarSettings { state, keys }| {
            // There is nowhere to look again: what is registered is known at once.
            let (source, ResolverHandle { health, .. }) = Source::new("control");
            sources.push(source);
            Registrar::start(state, keys, host_network.clone(), cache.clone(), health, shutdown.clone())
        });
        if let Some(socket) = &settings.docker {
            let (source, handle) = Source::new("docker");
            let engine = docker::Settings {
                socket: socket.clone(),
                optional: settings.docker_optional,
                trust_image_labels: settings.trust_image_labels,
            };
            docker::start(engine, host_network, cache.clone(), handle, shutdown).await;
            sources.push(source);
        }
        Ok(Arc::new(Self { cache, sources, registrar }))
    }

    /// Registers containers while the daemon runs, where that is wanted.
    pub fn registrar(&self) -> Option<&Arc<Registrar>> {
        self.registrar.as_ref()
    }

    /// The running container that goes by `name`.
    ///
    /// Takes no lock and allocates nothing when the name is known. When it is not, all resolvers look again, once for all
    /// who ask at the time, since the engine's events of a new container may be on their way.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, name: &str) -> Result<Arc<Container>, ResolveError> {
        match self.cache.lookup(name) {
            Lookup::Found(container) => Ok(container),
            Lookup::Ambiguous => Err(ResolveError::Ambiguous),
            // Boxed to keep the common case, which is part of every session's future, small.
            Lookup::Missing => Box::pin(self.refresh(name)).await,
        }
    }

    async fn refresh(&self, name: &str) -> Result<Arc<Container>, ResolveError> {
        let answers = futures_util::future::join_all(self.sources.iter().map(Source::refresh));
        let answered = tokio::time::timeout(REFRESH_TIMEOUT, answers).await.is_ok();
        match self.cache.lookup(name) {
            Lookup::Found(container) => Ok(container),
            Lookup::Ambiguous => Err(ResolveError::Ambiguous),
            Lookup::Missing if answered && self.health().iter().all(|(_, health)| health.is_ok()) => {
                Err(ResolveError::NotOnThisNode)
            }
            Lookup::Missing => Err(ResolveError::EngineUnavailable),
        }
    }

    /// The running container that has `name` now, as far as is known already.
    pub fn holder(&self, name: &str) -> Option<Arc<Container>> {
        match self.cache.lookup(name) {
            Lookup::Found(container) => Some(container),
            Lookup::Ambiguous | Lookup::Missing => None,
        }
    }

    /// `port` of a namespace listens no more: connections to it end as soon as they are idle.
    pub fn port_closed(&self, netns: NetnsId, port: u16) {
        self.cache.each_in(netns, |container| container.retire(port));
    }

    /// The running container of this id, in full.
    pub fn with_id(&self, id: &str) -> Option<Arc<Container>> {
        self.cache.get(id)
    }

    /// All running containers.
    pub fn list(&self) -> Vec<Arc<Container>> {
        self.cache.list()
    }

    /// The resolvers by name, and what is wrong with those that do not work. An optional one is among them once it has
    /// something to follow.
    pub fn health(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.sources.iter().filter_map(|source| Some((source.name, source.health.lock().clone()?))).collect()
    }
}

/// What all resolvers need to judge a namespace.
#[derive(Clone)]
struct HostNetworkRule {
    /// The daemon's own namespace.
    own: Arc<Netns>,
    allow_host_network: bool,
}

impl HostNetworkRule {
    /// Closes a container that has no network of its own, unless that is allowed.
    fn apply(&self, netns: &Netns, policy: Policy) -> Policy {
        if netns.id() == self.own.id() && !self.allow_host_network {
            Policy { deny: Some(Denied::HostNetwork), ..policy }
        } else {
            policy
        }
    }
}

/// How a resolver does; `None` while it has nothing to follow and nobody expects it to.
type Health = Arc<Mutex<Option<Result<(), String>>>>;

/// One resolver, seen from here.
struct Source {
    name: &'static str,
    health: Health,
    requests: mpsc::Sender<RefreshRequest>,
}

/// Somebody who waits for a resolver to look again; told by being dropped.
type RefreshRequest = oneshot::Sender<()>;

/// The same, seen from the resolver.
struct ResolverHandle {
    health: Health,
    requests: mpsc::Receiver<RefreshRequest>,
}

impl Source {
    fn new(name: &'static str) -> (Self, ResolverHandle) {
        let health = Health::new(Mutex::new(Some(Ok(()))));
        let (sender, requests) = mpsc::channel(MAX_REFRESH_REQUESTS);
        (Self { name, health: health.clone(), requests: sender }, ResolverHandle { health, requests })
    }

    async fn refresh(&self) {
        let (request, answer) = oneshot::channel();
        // With so many asking already, one more learns what they learn.
        if self.requests.try_send(request).is_ok() {
            let _ = answer.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        Container::new("id".into(), "name".into(), Arc::new(Netns::current().unwrap()), Policy::default())
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_is_woken() {
        let container = Arc::new(container());
        let waiter = tokio::spawn({
            let container = container.clone();
            async move { container.gone().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished() && !container.is_gone());
        container.mark_gone();
        waiter.await.unwrap();
        assert!(container.is_gone());
    }

    #[test]
    fn the_hosts_network_is_closed_unless_allowed() {
        let own = Arc::new(Netns::current().unwrap());
        for (allow_host_network, deny) in [(false, Some(Denied::HostNetwork)), (true, None)] {
            let host_network = HostNetworkRule { own: own.clone(), allow_host_network };
            assert_eq!(host_network.apply(&Netns::current().unwrap(), Policy::default()).deny, deny);
        }
    }
}
