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
use super::ledger::{Ledger, Row};
use super::place::{Failure, Meant, Place, Running, watch};
use super::presence::Survey;
use super::registration::Registration;
use super::watch::Watch;
use crate::container::cache::{Cache, Lookup};
use crate::container::process::{Process, after_boot};
use crate::container::{Container, Entrance, Health, Peer};
use portsplice_auth::RegisteredKeys;
use portsplice_model::Timestamp;

/// How often it is looked for namespaces that were replaced and for registrations that nobody uses.
const LOOK: Duration = Duration::from_secs(1);

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
    NotKept(String),
}

/// Registers containers.
pub struct Registrar {
    entrance: Entrance,
    cache: Arc<Cache>,
    keys: Arc<RegisteredKeys>,
    ledger: Option<Ledger>,
    /// Held while the file is written, which waits for the disk: not to be locked on the runtime's threads.
    book: Mutex<HashMap<String, Entry>>,
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

    /// Whether nobody has used it for as long as it said.
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
        entrance: Entrance,
        cache: Arc<Cache>,
        health: Health,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let this = Arc::new(Self {
            entrance,
            cache,
            keys,
            ledger: state.map(Ledger::at),
            book: Mutex::default(),
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
        let opened = Place::open(target, Meant::Now);
        let mut book = self.book.lock();
        let previous = book.get(&registration.name).map(|entry| &entry.running);
        let place = opened
            .or_else(|failure| Place::hidden(target, previous).ok_or(failure))
            .map_err(|failure| refusal(target, failure))?;
        // From now on it means this very process.
        registration.start_time = place.started().map(|(_, start)| start);
        self.check_names(&book, &registration, &place)?;
        let row = Row {
            namespace: (place.netns.id().device(), place.netns.id().inode()),
            registered_at: Timestamp::now(),
            used: book.get(&registration.name).is_some_and(|entry| entry.row.used && place.is_of(&entry.running)),
            registration,
        };
        let others = book.values().filter(|entry| entry.row.registration.name != row.registration.name);
        let rows = others.map(|entry| entry.row.clone()).chain([row.clone()]).collect();
        self.save(rows).map_err(RegisterError::NotKept)?;
        Ok(self.enter(&mut book, row, description, place))
    }

    /// Takes a registration back, by any of its names; false if there is none.
    ///
    /// Writes a file, as [`Self::register`] does.
    pub fn unregister(&self, name: &str) -> bool {
        let mut book = self.book.lock();
        let found = book.iter().find(|(_, entry)| entry.names().iter().any(|own| own == name));
        let Some(key) = found.map(|(key, _)| key.clone()) else { return false };
        self.remove(&mut book, &key, "it was unregistered");
        self.save_what_is_left(&book);
        true
    }

    fn check_names(
        &self,
        book: &HashMap<String, Entry>,
        registration: &Registration,
        place: &Place,
    ) -> Result<(), RegisterError> {
        let taken = |text: String| Err(RegisterError::NameTaken(text));
        let own = book.get(&registration.name);
        if own.is_some_and(|entry| !place.is_of(&entry.running) && !entry.running.container.is_gone()) {
            let name = &registration.name;
            return taken(format!("{name:?} is registered for another process or namespace: unregister it first"));
        }
        for name in registration.names() {
            let others = book.values().filter(|entry| entry.row.registration.name != registration.name);
            if let Some(other) = others.into_iter().find(|entry| entry.names().contains(&name)) {
                let other = &other.row.registration.name;
                return taken(format!("{name:?} belongs to the registration {other:?}: choose another name"));
            }
            // Two that go by one name can both not be reached.
            match self.cache.lookup(&name) {
                Lookup::Found(other) if own.is_none_or(|own| !own.running.container.is_same_as(&other)) => {
                    return taken(format!("{name:?} leads to the container {} already: choose another name", other.id));
                }
                Lookup::Ambiguous => return taken(format!("{name:?} leads to several containers already")),
                Lookup::Found(_) | Lookup::Missing => {}
            }
        }
        Ok(())
    }

    /// Puts a registration in force, in place of the one of the same name.
    fn enter(
        self: &Arc<Self>,
        book: &mut HashMap<String, Entry>,
        row: Row,
        description: super::description::Description,
        place: Place,
    ) -> Arc<Container> {
        let registration = &row.registration;
        let previous = book.remove(&registration.name);
        self.put_keys(previous.as_ref(), registration);
        let (started, previous) = (place.started(), previous.map(|entry| entry.running));
        let id = format!("control/{}", registration.name);
        let since = after_boot(row.registered_at.into());
        let (container, process) = place.container(&id, &description, &self.entrance, previous.as_ref(), since);
        self.cache.insert(container.clone(), registration.names());
        let hidden = previous.as_ref().is_some_and(|old| old.hidden && old.container.is_same_as(&container));
        if previous.is_none_or(|previous| !previous.container.is_same_as(&container)) {
            tracing::info!(container = container.name, netns = %container.netns.id(), "container registered");
            if let Some((process, _)) = process {
                self.watch(process, registration.name.clone(), &container);
            }
        }
        let running = Running { container: container.clone(), description, process: started, hidden };
        book.insert(registration.name.clone(), Entry { row, running });
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
                let mut book = this.book.lock();
                if book.get(&name).is_some_and(|entry| entry.running.container.is_same_as(&ended)) {
                    this.remove(&mut book, &name, "its process has ended");
                    this.save_what_is_left(&book);
                }
            });
        });
    }

    /// Ends a registration, without keeping that yet.
    fn remove(&self, book: &mut HashMap<String, Entry>, name: &str, why: &str) {
        let Some(entry) = book.remove(name) else { return };
        if !entry.running.container.is_gone() {
            tracing::info!(container = name, "container gone: {why}");
        }
        entry.names().iter().for_each(|name| self.keys.remove(name));
        self.cache.remove(&entry.running.container);
    }

    fn save(&self, rows: Vec<Row>) -> Result<(), String> {
        let saved = self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.save(rows).map_err(|error| error.to_string()));
        *self.health.lock() = Some(saved.clone());
        saved
    }

    /// A registration that has ended and is still kept does no harm: it is found out at the next start.
    fn save_what_is_left(&self, book: &HashMap<String, Entry>) {
        if let Err(error) = self.save(book.values().map(|entry| entry.row.clone()).collect()) {
            tracing::warn!("registrations that have ended stay in the file: {error}");
        }
    }

    fn restore(self: &Arc<Self>) {
        let Some(ledger) = &self.ledger else { return };
        let rows = ledger.load();
        let kept = rows.len();
        let mut book = self.book.lock();
        for row in rows {
            let name = row.registration.name.clone();
            if let Err(reason) = self.restore_one(&mut book, row) {
                tracing::info!(container = name, "a registration of before is dropped: {reason}");
            }
        }
        if book.len() < kept {
            self.save_what_is_left(&book);
        }
    }

    fn restore_one(self: &Arc<Self>, book: &mut HashMap<String, Entry>, row: Row) -> Result<(), String> {
        let description = row.registration.describe()?;
        let place = Place::open(&description.target, Meant::WrittenAt(None)).map_err(|failure| match failure {
            Failure::NotYet(reason) | Failure::Never(reason) => reason,
        })?;
        if (place.netns.id().device(), place.netns.id().inode()) != row.namespace {
            return Err("its namespace is another one".to_owned());
        }
        self.enter(book, row, description, place);
        Ok(())
    }

    async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut watch = Watch::new(LOOK);
        let mut look = false;
        loop {
            let this = Arc::clone(&self);
            // Elsewhere, since whoever holds the book may be waiting for the disk. It ends in a panic only with a mistake
            // in it, which the log shows.
            let places = tokio::task::spawn_blocking(move || {
                if look {
                    this.look();
                }
                this.places()
            });
            if let Ok(places) = places.await {
                watch.set(places);
            }
            look = tokio::select! {
                () = shutdown.cancelled() => return,
                () = watch.changed() => true,
                () = self.changed.notified() => false,
                () = tokio::time::sleep(LOOK) => true,
            };
        }
    }

    /// The directories in which a namespace may come, go or be replaced.
    fn places(&self) -> BTreeSet<PathBuf> {
        let book = self.book.lock();
        let paths = book.values().filter_map(|entry| match &entry.running.description.target {
            Target::Path(path) => path.parent().map(PathBuf::from),
            Target::Process { .. } => None,
        });
        paths.collect()
    }

    /// Ends what has ended by itself.
    fn look(&self) {
        let mut book = self.book.lock();
        let (now, survey, mut changed, mut ended) = (SystemTime::now(), Survey::default(), false, Vec::new());
        for (name, entry) in book.iter_mut() {
            if !entry.row.used && entry.running.container.connection_counts().total > 0 {
                entry.row.used = true;
                changed = true;
            }
            if let Some(why) = entry.running.end_of_namespace(&survey) {
                ended.push((name.clone(), why));
            } else if entry.has_expired(now) {
                ended.push((name.clone(), "nobody has used it for as long as it said"));
            }
        }
        changed |= !ended.is_empty();
        ended.iter().for_each(|(name, why)| self.remove(&mut book, name, why));
        if changed {
            self.save_what_is_left(&book);
        }
    }
}

fn refusal(target: &Target, failure: Failure) -> RegisterError {
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
        let entrance = Entrance { own, allow_host_network: false };
        let cache = Arc::new(Cache::new(Events::default(), Arc::new(())));
        let shutdown = CancellationToken::new();
        let registrar = Registrar::start(None, Arc::default(), entrance, cache, Health::default(), shutdown.clone());
        let ((locked, is_locked), (done, is_done)) = (tokio::sync::oneshot::channel(), mpsc::channel());
        let slow = Arc::clone(&registrar);
        let writer = thread::spawn(move || {
            let _book = slow.book.lock();
            let _ = locked.send(());
            is_done.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        is_locked.await.unwrap();
        // Longer than it takes until the book is looked at again.
        for _ in 0..20 {
            registrar.changed.notify_one();
            tokio::time::sleep(LOOK / 10).await;
        }
        let _ = done.send(());
        assert!(writer.join().unwrap(), "the runtime's only thread has waited for the book");
        shutdown.cancel();
    }
}
