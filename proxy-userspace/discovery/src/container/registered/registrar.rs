//! Containers that are registered over the control socket, and kept in a file.
//!
//! A registration goes when it is taken back; when its process ends, its namespace's path leads to another one, or nothing is
//! left of its namespace (see [`super::presence`]); and when nobody has connected within the time that it says. With it go its connections, its key, and what is kept of
//! it. When the daemon starts, those whose very process or namespace is still there are registered again.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::description::Target;
use super::presence::Survey;
use super::registration::Registration;
use super::resolved_target::{Failure, PidCheck, ResolvedTarget, Running, watch};
use super::state_file::{Row, StateFile};
use super::watch::Watch;
use crate::container::cache::{Cache, Lookup};
use crate::container::process::{Process, after_boot};
use crate::container::{Container, Health, HostNetworkRule, Peer};
use portsplice_auth::RegisteredKeys;
use portsplice_model::Timestamp;

/// How often it looks for namespaces that were replaced and for registrations that nobody uses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a container cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// What was said makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The name leads to another container.
    #[error("{0}")]
    NameTaken(String),
    /// The process has ended, or is another one than was meant.
    #[error("{0}")]
    NoProcess(String),
    /// The namespace cannot be opened or entered.
    #[error("{0}")]
    NoNamespace(String),
    /// It cannot be kept, so that a restart would forget it.
    #[error("{0}")]
    PersistFailed(String),
}

/// Registers containers.
pub struct Registrar {
    host_network: HostNetworkRule,
    cache: Arc<Cache>,
    keys: Arc<RegisteredKeys>,
    state_file: Option<StateFile>,
    /// Held while the file is written, which waits for the disk: not to be locked on the runtime's threads.
    registrations: Mutex<HashMap<String, Entry>>,
    changed: Notify,
    health: Health,
    runtime: Handle,
}

/// One registration.
struct Entry {
    row: Row,
    running: Running,
}

impl Entry {
    fn names(&self) -> Vec<String> {
        self.row.registration.names()
    }

    /// Whether it expired unused.
    fn has_expired(&self, now: SystemTime) -> bool {
        let Row { registration, registered_at, used, .. } = &self.row;
        let since = now.duration_since(SystemTime::from(*registered_at)).unwrap_or_default();
        !used && registration.expires > 0 && since >= Duration::from_secs(registration.expires)
    }
}

impl Registrar {
    /// Registers what was kept and is still there, and looks after it until `shutdown`. Must be called within a runtime.
    pub(in crate::container) fn start(
        state: Option<PathBuf>,
        keys: Arc<RegisteredKeys>,
        host_network: HostNetworkRule,
        cache: Arc<Cache>,
        health: Health,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let this = Arc::new(Self {
            host_network,
            cache,
            keys,
            state_file: state.map(StateFile::at),
            registrations: Mutex::default(),
            changed: Notify::new(),
            health,
            runtime: Handle::current(),
        });
        this.restore();
        tokio::spawn(Arc::clone(&this).follow(shutdown));
        this
    }

    /// Registers a container. Registering it again under the same name is fine as long as it is the same process or
    /// namespace: then the rules change, and connections stay.
    ///
    /// A pid is what `caller` calls the process, which may be in another pid namespace than the daemon.
    ///
    /// Reads and writes files: not for a thread that others wait for.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn register(
        self: &Arc<Self>,
        mut registration: Registration,
        caller: &Peer,
    ) -> Result<Arc<Container>, RegisterError> {
        // What makes no sense is told before who is meant by it.
        registration.describe().map_err(RegisterError::Invalid)?;
        if let Some(pid) = registration.pid {
            let process = caller.process_called(pid).map_err(RegisterError::NoProcess)?;
            let start = process.start_ticks().map_err(|error| RegisterError::NoProcess(error.to_string()))?;
            registration.pid = Some(process.pid());
            registration.start_time.get_or_insert(start);
        }
        let description = registration.describe().map_err(RegisterError::Invalid)?;
        let target = &description.target;
        let opened = ResolvedTarget::open(target, PidCheck::Current);
        let mut registrations = self.registrations.lock();
        let previous = registrations.get(&registration.name).map(|entry| &entry.running);
        let resolved = opened
            .or_else(|failure| ResolvedTarget::hidden(target, previous).ok_or(failure))
            .map_err(|failure| register_error(target, failure))?;
        // From now on it means this very process.
        registration.start_time = resolved.started().map(|(_, start)| start);
        self.check_names(&registrations, &registration, &resolved)?;
        let row = Row {
            namespace: (resolved.netns.id().device(), resolved.netns.id().inode()),
            registered_at: Timestamp::now(),
            used: registrations
                .get(&registration.name)
                .is_some_and(|entry| entry.row.used && resolved.is_of(&entry.running)),
            registration,
        };
        let others = registrations.values().filter(|entry| entry.row.registration.name != row.registration.name);
        let rows = others.map(|entry| entry.row.clone()).chain([row.clone()]).collect();
        self.save(rows).map_err(RegisterError::PersistFailed)?;
        Ok(self.enter(&mut registrations, row, description, resolved))
    }

    /// Takes a registration back, by any of its names; false if there is none.
    ///
    /// Writes a file, as [`Self::register`] does.
    pub fn unregister(&self, name: &str) -> bool {
        let mut registrations = self.registrations.lock();
        let found = registrations.iter().find(|(_, entry)| entry.names().iter().any(|own| own == name));
        let Some(key) = found.map(|(key, _)| key.clone()) else { return false };
        self.remove(&mut registrations, &key, "it was unregistered");
        self.save_what_is_left(&registrations);
        true
    }

    fn check_names(
        &self,
        registrations: &HashMap<String, Entry>,
        registration: &Registration,
        resolved: &ResolvedTarget,
    ) -> Result<(), RegisterError> {
        let taken = |text: String| Err(RegisterError::NameTaken(text));
        let own = registrations.get(&registration.name);
        if own.is_some_and(|entry| !resolved.is_of(&entry.running) && !entry.running.container.is_gone()) {
            let name = &registration.name;
            return taken(format!("{name:?} is registered for another process or namespace: unregister it first"));
        }
        for name in registration.names() {
            let others = registrations.values().filter(|entry| entry.row.registration.name != registration.name);
            if let Some(other) = others.into_iter().find(|entry| entry.names().contains(&name)) {
                let other = &other.row.registration.name;
                return taken(format!("{name:?} belongs to the registration {other:?}: choose another name"));
            }
            // Two that go by one name can both not be reached.
            match self.cache.lookup(&name) {
                Lookup::Found(other) if own.is_none_or(|own| !own.running.container.is_same_as(&other)) => {
                    return taken(format!(
                        "{name:?} is already the name of container {}: choose another name",
                        other.id
                    ));
                }
                Lookup::Ambiguous => return taken(format!("{name:?} is already the name of several containers")),
                Lookup::Found(_) | Lookup::Missing => {}
            }
        }
        Ok(())
    }

    /// Puts a registration in force, in place of the one of the same name.
    fn enter(
        self: &Arc<Self>,
        registrations: &mut HashMap<String, Entry>,
        row: Row,
        description: super::description::Description,
        resolved: ResolvedTarget,
    ) -> Arc<Container> {
        let registration = &row.registration;
        let previous = registrations.remove(&registration.name);
        self.put_keys(previous.as_ref(), registration);
        let (started, previous) = (resolved.started(), previous.map(|entry| entry.running));
        let id = format!("control/{}", registration.name);
        let since = after_boot(row.registered_at.into());
        let (container, process) = resolved.container(&id, &description, &self.host_network, previous.as_ref(), since);
        self.cache.insert(container.clone(), registration.names());
        let hidden = previous.as_ref().is_some_and(|old| old.hidden && old.container.is_same_as(&container));
        if previous.is_none_or(|previous| !previous.container.is_same_as(&container)) {
            tracing::info!(container = container.name, netns = %container.netns.id(), "container registered");
            if let Some((process, _)) = process {
                self.watch(process, registration.name.clone(), &container);
            }
        }
        let running = Running { container: container.clone(), description, process: started, hidden };
        registrations.insert(registration.name.clone(), Entry { row, running });
        self.changed.notify_one();
        container
    }

    /// Before the container itself: a request that finds it is to find its key.
    fn put_keys(&self, previous: Option<&Entry>, registration: &Registration) {
        let key = registration.container_key().ok().flatten();
        let names = registration.names();
        for name in previous.map(Entry::names).unwrap_or_default() {
            if key.is_none() || !names.contains(&name) {
                self.keys.remove(&name);
            }
        }
        if let Some(key) = key {
            names.into_iter().for_each(|name| self.keys.insert(name, key.clone()));
        }
    }

    fn watch(self: &Arc<Self>, process: Process, name: String, container: &Arc<Container>) {
        let (this, ended) = (Arc::downgrade(self), container.clone());
        watch(&self.runtime, process, container.clone(), move || {
            let Some(this) = this.upgrade() else { return };
            // At once for whoever holds it; the book follows, on a thread that may wait for the file.
            this.cache.remove(&ended);
            this.runtime.clone().spawn_blocking(move || {
                let mut registrations = this.registrations.lock();
                if registrations.get(&name).is_some_and(|entry| entry.running.container.is_same_as(&ended)) {
                    this.remove(&mut registrations, &name, "its process has exited");
                    this.save_what_is_left(&registrations);
                }
            });
        });
    }

    /// Ends a registration, without keeping that yet.
    fn remove(&self, registrations: &mut HashMap<String, Entry>, name: &str, why: &str) {
        let Some(entry) = registrations.remove(name) else { return };
        if !entry.running.container.is_gone() {
            tracing::info!(container = name, "container gone: {why}");
        }
        entry.names().iter().for_each(|name| self.keys.remove(name));
        self.cache.remove(&entry.running.container);
    }

    fn save(&self, rows: Vec<Row>) -> Result<(), String> {
        let saved = self
            .state_file
            .as_ref()
            .map_or(Ok(()), |state_file| state_file.save(rows).map_err(|error| error.to_string()));
        *self.health.lock() = Some(saved.clone());
        saved
    }

    /// A registration that has ended and is still kept does no harm: it is found out at the next start.
    fn save_what_is_left(&self, registrations: &HashMap<String, Entry>) {
        if let Err(error) = self.save(registrations.values().map(|entry| entry.row.clone()).collect()) {
            tracing::warn!("cannot remove ended registrations from the file: {error}");
        }
    }

    fn restore(self: &Arc<Self>) {
        let Some(state_file) = &self.state_file else { return };
        let rows = state_file.load();
        let kept = rows.len();
        let mut registrations = self.registrations.lock();
        for row in rows {
            let name = row.registration.name.clone();
            if let Err(reason) = self.restore_one(&mut registrations, row) {
                tracing::info!(container = name, "dropping a saved registration: {reason}");
            }
        }
        if registrations.len() < kept {
            self.save_what_is_left(&registrations);
        }
    }

    fn restore_one(self: &Arc<Self>, registrations: &mut HashMap<String, Entry>, row: Row) -> Result<(), String> {
        let description = row.registration.describe()?;
        let resolved =
            ResolvedTarget::open(&description.target, PidCheck::StartedBefore(None)).map_err(
                |failure| match failure {
                    Failure::NotYet(reason) | Failure::Never(reason) => reason,
                },
            )?;
        if (resolved.netns.id().device(), resolved.netns.id().inode()) != row.namespace {
            return Err("its namespace has changed".to_owned());
        }
        self.enter(registrations, row, description, resolved);
        Ok(())
    }

    async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut watch = Watch::new(CHECK_INTERVAL);
        let mut check = false;
        loop {
            let this = Arc::clone(&self);
            // Elsewhere, since whoever holds the book may be waiting for the disk. It ends in a panic only with a mistake
            // in it, which the log shows.
            let paths = tokio::task::spawn_blocking(move || {
                if check {
                    this.check();
                }
                this.paths()
            });
            if let Ok(paths) = paths.await {
                watch.set(paths);
            }
            check = tokio::select! {
                () = shutdown.cancelled() => return,
                () = watch.changed() => true,
                () = self.changed.notified() => false,
                () = tokio::time::sleep(CHECK_INTERVAL) => true,
            };
        }
    }

    /// The directories in which a namespace may come, go or be replaced.
    fn paths(&self) -> BTreeSet<PathBuf> {
        let registrations = self.registrations.lock();
        let paths = registrations.values().filter_map(|entry| match &entry.running.description.target {
            Target::Path(path) => path.parent().map(PathBuf::from),
            Target::Process { .. } => None,
        });
        paths.collect()
    }

    /// Ends what has ended by itself.
    fn check(&self) {
        let mut registrations = self.registrations.lock();
        let (now, survey, mut changed, mut ended) = (SystemTime::now(), Survey::default(), false, Vec::new());
        for (name, entry) in registrations.iter_mut() {
            if !entry.row.used && entry.running.container.connection_counts().total > 0 {
                entry.row.used = true;
                changed = true;
            }
            if let Some(why) = entry.running.end_of_namespace(&survey) {
                ended.push((name.clone(), why));
            } else if entry.has_expired(now) {
                ended.push((name.clone(), "it expired unused"));
            }
        }
        changed |= !ended.is_empty();
        ended.iter().for_each(|(name, why)| self.remove(&mut registrations, name, why));
        if changed {
            self.save_what_is_left(&registrations);
        }
    }
}

fn register_error(target: &Target, failure: Failure) -> RegisterError {
    match (target, failure) {
        (Target::Process { .. }, Failure::Never(reason)) => RegisterError::NoProcess(reason),
        (_, Failure::NotYet(reason) | Failure::Never(reason)) => RegisterError::NoNamespace(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::events::Events;
    use portsplice_net::netns::Netns;

    /// The book is locked for as long as the disk takes to keep it; who runs connections, probes and the control socket has
    /// no part in that.
    #[tokio::test]
    async fn a_slow_disk_holds_up_nobody_else() {
        let own = Arc::new(Netns::current().unwrap());
        let host_network = HostNetworkRule { own, allow_host_network: false };
        let cache = Arc::new(Cache::new(Events::default(), Arc::new(())));
        let shutdown = CancellationToken::new();
        let registrar =
            Registrar::start(None, Arc::default(), host_network, cache, Health::default(), shutdown.clone());
        let ((locked, is_locked), (done, is_done)) = (tokio::sync::oneshot::channel(), mpsc::channel());
        let slow = Arc::clone(&registrar);
        let writer = thread::spawn(move || {
            let _book = slow.registrations.lock();
            let _ = locked.send(());
            is_done.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        is_locked.await.unwrap();
        // Longer than it takes until the book is looked at again.
        for _ in 0..20 {
            registrar.changed.notify_one();
            tokio::time::sleep(CHECK_INTERVAL / 10).await;
        }
        let _ = done.send(());
        assert!(writer.join().unwrap(), "the runtime's only thread has waited for the book");
        shutdown.cancel();
    }
}
