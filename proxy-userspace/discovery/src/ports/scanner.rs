//! The thread that looks at namespaces. One, so that it never takes more than one processor, whatever is due.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::clock::{self, Now};
use super::schedule::Schedule;
use super::{Ports, owner};
use portsplice_net::netns::NetnsId;

/// How many times as long as a search for names has taken the next one waits: no more than a twentieth of one processor.
const SEARCH_PAUSE: u32 = 20;
/// How long a search may be put off by namespaces that are to be looked at.
const SEARCH_LATEST: Duration = Duration::from_secs(1);

/// Where it is said what is to be looked at.
#[derive(Debug)]
pub(super) struct ScanQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    closed: bool,
}

/// What to do next.
enum Task {
    Scan(NetnsId),
    Search,
    End,
}

impl ScanQueue {
    pub(super) fn new(rescan: Duration) -> Self {
        Self {
            state: Mutex::new(State { schedule: Schedule::new(rescan, Instant::now()), closed: false }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn add(&self, id: NetnsId) {
        self.state.lock().schedule.add(id, Instant::now(), rand::random());
        self.changed.notify_one();
    }

    pub(super) fn remove(&self, id: NetnsId) {
        self.state.lock().schedule.remove(id);
    }

    pub(super) fn mark_stale(&self, id: NetnsId) {
        if self.state.lock().schedule.mark_stale(id, Instant::now()) {
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to do; `search` is when a search is due, if one is.
    fn next(&self, search: Option<Instant>) -> Task {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            if state.closed {
                return Task::End;
            }
            if search.is_some_and(|due| due + SEARCH_LATEST <= now) {
                return Task::Search;
            }
            if let Some(id) = state.schedule.take(now) {
                return Task::Scan(id);
            }
            if search.is_some_and(|due| due <= now) {
                return Task::Search;
            }
            match [state.schedule.next(), search].into_iter().flatten().min() {
                Some(due) => {
                    self.changed.wait_until(&mut state, due);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}

/// Starts the thread. It ends when `ports` is dropped.
pub(super) fn start(ports: &Arc<Ports>) -> io::Result<()> {
    let (queue, ports) = (Arc::clone(&ports.queue), Arc::downgrade(ports));
    std::thread::Builder::new().name("ports".into()).spawn(move || run(&queue, &ports))?;
    Ok(())
}

fn run(queue: &ScanQueue, ports: &Weak<Ports>) {
    let mut search = Search::default();
    loop {
        let task = queue.next(search.due());
        let Some(ports) = ports.upgrade() else { return };
        match task {
            Task::Scan(id) => {
                let (began, computed) = (Instant::now(), clock::computed());
                let scan = ports.scan(id);
                let cost = clock::computed().saturating_sub(computed);
                search.add(id, scan.nameless);
                queue.state.lock().schedule.scanned(id, began, Instant::now(), cost, scan.often);
                // Whoever sees the number sees all that the look has brought.
                ports.dumps.fetch_add(1, Ordering::Release);
                if scan.again {
                    queue.mark_stale(id);
                }
            }
            Task::Search => search.run(&ports),
            Task::End => return,
        }
    }
}

/// What a look at a namespace leaves to do.
#[derive(Default)]
struct ScanResult {
    /// Sockets whose process is not known, by inode.
    nameless: Vec<u32>,
    /// The kernel may not report everything that happens there.
    often: bool,
    /// What was seen is not certain.
    again: bool,
}

impl Ports {
    fn scan(&self, id: NetnsId) -> ScanResult {
        let Some(namespace) = self.namespace(id) else { return ScanResult::default() };
        let began = clock::monotonic();
        let dump = match namespace.netns.listening() {
            Ok(dump) => dump,
            Err(error) => {
                tracing::debug!(netns = %id, %error, "cannot list the listening sockets of a container");
                return ScanResult { often: true, ..ScanResult::default() };
            }
        };
        let had_events = namespace.has_events
            && !self.events_lost.load(Ordering::Relaxed)
            && !namespace.misses_events.load(Ordering::Relaxed);
        let mut misses_events = false;
        let scan = self.change(&namespace, |table| {
            let again = table.dumped(&dump, began, &Now::read());
            misses_events = had_events && table.misses_events();
            ScanResult {
                nameless: table.nameless(),
                often: !had_events || misses_events || table.has_unreported(),
                again,
            }
        });
        // Of this namespace alone: where others' processes are is another matter, and none may speak for them.
        if misses_events && !namespace.misses_events.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                netns = %id,
                "the eBPF program missed a listening port of this namespace: its processes may be in a cgroup outside of the one that the program is attached to (`bpf.cgroup`); its ports are now found by scanning only"
            );
        }
        scan.unwrap_or_default()
    }
}

/// Processes' names that are yet to be found, for all namespaces together.
#[derive(Default)]
struct Search {
    wanted: HashMap<NetnsId, HashSet<u32>>,
    not_before: Option<Instant>,
}

impl Search {
    fn add(&mut self, id: NetnsId, inodes: Vec<u32>) {
        if !inodes.is_empty() {
            self.not_before.get_or_insert_with(Instant::now);
            self.wanted.entry(id).or_default().extend(inodes);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.wanted.is_empty())
    }

    fn run(&mut self, ports: &Ports) {
        let computed = clock::computed();
        let wanted = std::mem::take(&mut self.wanted);
        let names = owner::find(Path::new("/proc"), &wanted);
        for id in wanted.into_keys() {
            if let Some(namespace) = ports.namespace(id) {
                ports.change(&namespace, |table| table.named(&names));
            }
        }
        let cost = clock::computed().saturating_sub(computed);
        self.not_before = Some(Instant::now() + cost * SEARCH_PAUSE);
    }
}
