//! Every client connection while it lives: who, where to, how much; and the means to cut it.
//!
//! A request costs its entry a few relaxed atomics, and each poll of its task an uncontended exchange or two for the waker,
//! all of them in memory that is the connection's own. The one lock of an entry is taken when the connection begins to lead
//! to another port; the table's locks when one is opened or closed, and by whoever lists them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use portsplice_discovery::container::Container;
use portsplice_discovery::events::{ConnectionEvent, Events};
use portsplice_model::Direction;
use portsplice_model::Traffic;
use portsplice_relay::Meter;

/// How many parts the table has, so that threads that open and close connections rarely meet.
const SHARDS: usize = 16;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// It was accepted and has no TLS yet.
    Handshake,
    /// It waits for a request.
    Idle,
    /// A request or its response is under way.
    Request,
    /// It is opaque: a WebSocket, or a raw tunnel.
    Tunnel,
    /// Its last response is on its way.
    Closing,
}

impl Activity {
    const ALL: [Self; 5] = [Self::Handshake, Self::Idle, Self::Request, Self::Tunnel, Self::Closing];
}

/// All connections of a node.
#[derive(Debug)]
pub struct Connections {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<Connection>>>; SHARDS],
    events: Events,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    tls: bool,
    since: SystemTime,
    meter: Meter,
    requests: AtomicU64,
    /// Bytes up, down and fast of requests that are over: those are in the container's counts.
    counted: [AtomicU64; 3],
    activity: AtomicU8,
    /// Weak, so that an idle connection holds no container that has gone.
    target: Mutex<Option<(Weak<Container>, u16)>>,
    closed: AtomicBool,
    task: AtomicWaker,
    table: Arc<Connections>,
}

/// A connection's place in the table; given up when dropped.
#[derive(Debug)]
pub(super) struct Listed(Arc<Connection>);

impl Connections {
    /// An empty table, whose changes go to `events`.
    pub fn new(events: Events) -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(1), shards: Default::default(), events })
    }

    /// Enters a connection that was just accepted.
    pub(super) fn open(self: &Arc<Self>, peer: SocketAddr, tls: bool) -> Listed {
        let id = self.next.fetch_add(1, Relaxed);
        let connection = Arc::new(Connection {
            id,
            peer,
            tls,
            since: SystemTime::now(),
            meter: Meter::default(),
            requests: AtomicU64::new(0),
            counted: Default::default(),
            activity: AtomicU8::new(Activity::Handshake as u8),
            target: Mutex::new(None),
            closed: AtomicBool::new(false),
            task: AtomicWaker::new(),
            table: Arc::clone(self),
        });
        self.shard(id).lock().insert(id, Arc::clone(&connection));
        self.events.emit_connection(|| ConnectionEvent::Opened { id, peer });
        Listed(connection)
    }

    /// All that are open, in the order in which they came.
    pub fn list(&self) -> Vec<Arc<Connection>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().values().map(Arc::clone));
        }
        all.sort_unstable_by_key(|connection| connection.id);
        all
    }

    /// The one of this number, if it is open.
    pub fn get(&self, id: u64) -> Option<Arc<Connection>> {
        self.shard(id).lock().get(&id).map(Arc::clone)
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Connection>>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }
}

impl Connection {
    /// Its number, unique as long as the daemon runs.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The controller's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether its listener speaks TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// When it was accepted.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// What it has moved.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// How many requests have begun on it.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    fn moved(&self) -> [u64; 3] {
        [self.meter.bytes(Direction::Up), self.meter.bytes(Direction::Down), self.meter.fast_bytes()]
    }

    /// What it has moved until now is in its container's counts.
    pub(super) fn counted(&self) {
        for (counted, moved) in self.counted.iter().zip(self.moved()) {
            counted.store(moved, Relaxed);
        }
    }

    /// What it has moved for the request that is under way.
    pub fn uncounted(&self) -> Traffic {
        let [bytes_up, bytes_down, bytes_fast] = self.moved();
        let [up, down, fast] = [0, 1, 2].map(|n: usize| self.counted[n].load(Relaxed));
        Traffic { requests: 0, bytes_up, bytes_down, bytes_fast }
            - Traffic { requests: 0, bytes_up: up, bytes_down: down, bytes_fast: fast }
    }

    /// What it is doing.
    pub fn activity(&self) -> Activity {
        Activity::ALL.get(usize::from(self.activity.load(Relaxed))).copied().unwrap_or(Activity::Idle)
    }

    /// The container and port that it leads to; none before its first request, and after the container has gone.
    pub fn target(&self) -> Option<(Arc<Container>, u16)> {
        let (container, port) = self.target.lock().clone()?;
        Some((container.upgrade()?, port))
    }

    /// Cuts it: both sides get a reset. It takes a moment until it is no longer in the table.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        // Orders the store before the look that the woken task takes (futures::task::AtomicWaker).
        self.task.wake();
    }

    /// Whether somebody has [closed](Self::close) it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Ready when somebody closes it. For the connection's own task only: one task is woken.
    fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until somebody closes it.
    pub(super) async fn closed(&self) {
        poll_fn(|cx| self.poll_closed(cx)).await;
    }

    pub(super) fn does(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// A request begins.
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.does(Activity::Request);
    }

    /// It leads to `port` of `container` from now on.
    pub(super) fn set_target(&self, container: &Arc<Container>, port: u16) {
        *self.target.lock() = Some((Arc::downgrade(container), port));
        self.table.events.emit_connection(|| ConnectionEvent::Routed {
            id: self.id,
            container: container.name.clone(),
            uuid: container.uuid().to_owned(),
            port,
        });
    }
}

impl Listed {
    /// The connection itself.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Connection { id, ref table, .. } = *self.0;
        table.shard(id).lock().remove(&id);
        table.events.emit_connection(|| ConnectionEvent::Closed { id });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7);

    #[test]
    fn what_is_open_is_listed_in_its_order() {
        let table = Connections::new(Events::default());
        let mut open: Vec<Listed> = (0..100).map(|n| table.open(PEER, n % 2 == 0)).collect();
        let ids = |table: &Connections| table.list().iter().map(|c| c.id()).collect::<Vec<_>>();
        assert_eq!(ids(&table), (1..=100).collect::<Vec<_>>());
        open.truncate(1);
        let again = table.open(PEER, true);
        assert_eq!(ids(&table), [1, 101], "no number is used twice");
        assert!(table.get(101).is_some() && table.get(2).is_none());
        drop(again);
    }

    #[test]
    fn an_entry_tells_what_its_connection_does() {
        let table = Connections::new(Events::default());
        let listed = table.open(PEER, false);
        let entry = table.get(1).unwrap();
        assert_eq!((entry.activity(), entry.requests(), entry.tls()), (Activity::Handshake, 0, false));
        listed.connection().request();
        listed.connection().meter().moved(Direction::Up, 7);
        assert_eq!((entry.activity(), entry.requests()), (Activity::Request, 1));
        assert_eq!(entry.meter().bytes(Direction::Up), 7);
        assert_eq!(entry.uncounted(), Traffic { bytes_up: 7, ..Traffic::default() });
        listed.connection().counted();
        assert_eq!(entry.uncounted(), Traffic::default());
        for activity in Activity::ALL {
            listed.connection().does(activity);
            assert_eq!(entry.activity(), activity);
        }
        assert!(entry.target().is_none());
    }

    #[test]
    fn an_entry_is_small() {
        // It is there for each connection, idle ones too.
        let size = size_of::<Connection>();
        assert!(size <= 288, "the entry of a connection has grown to {size} bytes");
    }

    #[test]
    fn news_are_told_while_anybody_listens() {
        let events = Events::default();
        let table = Connections::new(events.clone());
        drop(table.open(PEER, false));
        let mut news = events.connections();
        drop(table.open(PEER, false));
        assert!(matches!(news.try_recv().unwrap(), ConnectionEvent::Opened { id: 2, peer: PEER }));
        assert!(matches!(news.try_recv().unwrap(), ConnectionEvent::Closed { id: 2 }));
        assert!(news.try_recv().is_err());
    }

    #[tokio::test]
    async fn closing_wakes_the_task_whenever_it_comes() {
        let table = Connections::new(Events::default());
        let before = table.open(PEER, false);
        table.get(before.connection().id()).unwrap().close();
        before.connection().closed().await;

        let during = table.open(PEER, false);
        let task = tokio::spawn({
            let connection = Arc::clone(during.connection());
            async move { connection.closed().await }
        });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        during.connection().close();
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}
