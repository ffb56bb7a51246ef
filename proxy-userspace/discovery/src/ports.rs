//! Which TCP ports are listening in which container.
//!
//! The kernel's program reports every socket of a registered namespace that starts or stops listening (`events`); a
//! dump of sock_diag(7) shows what listens at one time (`scanner`, on a thread of its own). `table` puts both together
//! for one namespace, `schedule` says when which one is scanned, `owner` finds the names of processes that no event
//! reported.
//!
//! A port that listens is known, and nothing more: whether it may be reached is for its container's policy to say.

mod clock;
mod diff;
mod events;
mod owner;
mod scanner;
mod schedule;
mod table;
mod wait;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::events::{Events, StateEvent};
use clock::Now;
use diff::Change;
use portsplice_model::ListeningPort;
use portsplice_net::netns::{Netns, NetnsId};
use scanner::ScanQueue;
use table::Table;

pub use events::{ListenSource, follow};
pub use proxy_common::ListenEvent;
pub use wait::PortWatch;

/// How often namespaces are scanned when nobody has said.
const RESCAN: Duration = Duration::from_secs(60);

/// The listening ports of all namespaces that have containers.
#[derive(Debug)]
pub struct Ports {
    namespaces: RwLock<Namespaces>,
    events: Events,
    queue: Arc<ScanQueue>,
    /// The kernel's events have ended, or some never come.
    events_lost: AtomicBool,
    events_seen: AtomicU64,
    lost: AtomicU64,
    dumps: AtomicU64,
}

#[derive(Debug, Default)]
struct Namespaces {
    by_id: HashMap<NetnsId, Arc<Namespace>>,
    by_cookie: HashMap<u64, Arc<Namespace>>,
}

#[derive(Debug)]
struct Namespace {
    netns: Arc<Netns>,
    /// Whether the kernel reports its sockets.
    has_events: bool,
    /// The kernel was found not to report some of its sockets.
    misses_events: AtomicBool,
    /// `None` once it has gone: whoever is still at it must not bring its ports back.
    table: Mutex<Option<Table>>,
    ports: watch::Sender<Arc<[ListeningPort]>>,
    /// How many of its events were lost when that was last asked.
    lost: AtomicU64,
}

/// What there is to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Ports that listen now.
    pub listening: usize,
    /// Events that came.
    pub events_seen: u64,
    /// Events that did not.
    pub lost: u64,
    /// Dumps that were taken.
    pub dumps: u64,
}

/// Knows nothing, and looks for nothing.
impl Default for Ports {
    fn default() -> Self {
        Self::new(Events::default(), RESCAN)
    }
}

impl Ports {
    /// Knows nothing yet. Changes are told to `events`; each namespace that is [added](Self::added) is scanned now, in
    /// doubt, and every `rescan` in any case, by a thread that ends with this.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(events: Events, rescan: Duration) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self::new(events, rescan));
        scanner::start(&this)?;
        Ok(this)
    }

    fn new(events: Events, rescan: Duration) -> Self {
        Self {
            namespaces: RwLock::default(),
            events,
            queue: Arc::new(ScanQueue::new(rescan)),
            events_lost: AtomicBool::new(false),
            events_seen: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dumps: AtomicU64::new(0),
        }
    }

    /// What listens in a namespace, in the order of ports and addresses.
    pub fn of(&self, netns: NetnsId) -> Arc<[ListeningPort]> {
        self.namespace(netns).map(|namespace| namespace.ports.borrow().clone()).unwrap_or_default()
    }

    /// Whether something listens on a port of a namespace, at any address.
    pub fn listens(&self, netns: NetnsId, port: u16) -> bool {
        self.of(netns).iter().any(|listening| listening.port == port)
    }

    /// What there is to count.
    pub fn counts(&self) -> Counts {
        let namespaces = self.namespaces.read();
        Counts {
            listening: namespaces.by_id.values().map(|namespace| namespace.ports.borrow().len()).sum(),
            events_seen: self.events_seen.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            dumps: self.dumps.load(Ordering::Acquire),
        }
    }

    /// Begins to look after a namespace. `told`: the kernel's program reports its sockets from now on or longer; else
    /// it is looked at as often as is cheap.
    pub fn added(&self, netns: &Arc<Netns>, has_events: bool) {
        let namespace = Arc::new(Namespace {
            netns: Arc::clone(netns),
            has_events,
            misses_events: AtomicBool::new(false),
            table: Mutex::new(Some(Table::default())),
            ports: watch::Sender::default(),
            lost: AtomicU64::new(0),
        });
        let mut namespaces = self.namespaces.write();
        if let Some(cookie) = netns.cookie() {
            namespaces.by_cookie.insert(cookie, Arc::clone(&namespace));
        }
        namespaces.by_id.insert(netns.id(), namespace);
        drop(namespaces);
        self.queue.add(netns.id());
    }

    /// Forgets a namespace. Its ports count as closed.
    pub fn removed(&self, netns: &Netns) {
        self.queue.remove(netns.id());
        let mut namespaces = self.namespaces.write();
        if let Some(cookie) = netns.cookie() {
            namespaces.by_cookie.remove(&cookie);
        }
        let removed = namespaces.by_id.remove(&netns.id());
        drop(namespaces);
        if let Some(namespace) = removed {
            let mut table = namespace.table.lock();
            *table = None;
            self.publish(&namespace, Vec::new());
        }
    }

    /// Takes changes of the kernel's, in the order in which they came.
    pub fn on_events(&self, events: &[ListenEvent]) {
        self.events_seen.fetch_add(events.len() as u64, Ordering::Relaxed);
        let now = Now::read();
        let mut touched: HashMap<u64, Arc<Namespace>> = HashMap::new();
        let namespaces = self.namespaces.read();
        for event in events {
            let Some(namespace) = namespaces.by_cookie.get(&event.netns) else { continue };
            let stale = namespace.table.lock().as_mut().is_some_and(|table| table.on_event(event, &now));
            if stale {
                self.queue.mark_stale(namespace.netns.id());
            }
            touched.entry(event.netns).or_insert_with(|| Arc::clone(namespace));
        }
        drop(namespaces);
        // Once for all that came together: a port that flaps costs its listeners no more than the others.
        for namespace in touched.values() {
            self.change(namespace, |_| ());
        }
    }

    /// Events were lost: `so_far` says how many of each namespace, by its cookie. Those that lost some are scanned
    /// again.
    pub fn on_lost(&self, so_far: impl Fn(u64) -> u64) {
        for (&cookie, namespace) in &self.namespaces.read().by_cookie {
            let lost = so_far(cookie);
            let before = namespace.lost.swap(lost, Ordering::Relaxed);
            if lost > before {
                self.lost.fetch_add(lost - before, Ordering::Relaxed);
                if let Some(table) = &mut *namespace.table.lock() {
                    table.lost(clock::monotonic());
                }
                self.queue.mark_stale(namespace.netns.id());
            }
        }
    }

    /// No news come any more, from no namespace: all are scanned as often as is cheap.
    pub fn events_lost(&self) {
        self.events_lost.store(true, Ordering::Relaxed);
        self.namespaces.read().by_id.keys().for_each(|&id| self.queue.mark_stale(id));
    }

    /// A connection to a port was refused. If it was thought to listen, that is looked into.
    pub fn refused(&self, netns: NetnsId, port: u16) {
        if self.listens(netns, port) {
            self.queue.mark_stale(netns);
        }
    }

    fn namespace(&self, netns: NetnsId) -> Option<Arc<Namespace>> {
        self.namespaces.read().by_id.get(&netns).cloned()
    }

    /// Changes what is known of a namespace, and tells what that means.
    fn change<T>(&self, namespace: &Namespace, change: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let mut table = namespace.table.lock();
        let table = table.as_mut()?;
        let result = change(table);
        self.publish(namespace, table.ports());
        Some(result)
    }

    /// Puts `ports` in the place of what was known; with the table's lock held, so that changes are told in their order.
    fn publish(&self, namespace: &Namespace, ports: Vec<ListeningPort>) {
        let netns = namespace.netns.id();
        namespace.ports.send_if_modified(|known| {
            if **known == *ports {
                return false;
            }
            diff::diff(known, &ports, |change| match change {
                Change::Opened(port) => {
                    tracing::debug!(%netns, address = %port.address, port = port.port, process = port.process, "port listening");
                    self.events.emit(StateEvent::PortOpened(netns, port.clone()));
                }
                Change::Closed(port) => {
                    tracing::debug!(%netns, address = %port.address, port = port.port, "port closed");
                    self.events.emit(StateEvent::PortClosed(netns, port.clone()));
                }
            });
            *known = ports.into();
            true
        });
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.queue.close();
    }
}
