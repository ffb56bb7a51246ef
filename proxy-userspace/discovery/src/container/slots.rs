//! Places among a container's connections, which a cap may make scarce. A connection that only waits for another request gives
//! its place, and its server's attention, up as soon as somebody needs it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Container, ContainerState};

/// How long a place may take to become free whose connection was asked to end. Nobody's peer is waited for then, so this only
/// guards against a mistake.
const HANDOVER: Duration = Duration::from_secs(1);

/// A request or its answer is under way, or a tunnel.
const BUSY: u8 = 0;
/// The connection waits for the next request.
const IDLE: u8 = 1;
/// It is to end, and waited for nothing when it was told so.
const CLOSE_REQUESTED: u8 = 2;
/// It is to end once its request is answered.
const RETIRED: u8 = 3;

/// The places of one container.
#[derive(Debug, Default)]
pub(super) struct Slots {
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// By number, the oldest first.
    taken: BTreeMap<u64, Arc<SlotState>>,
    /// How many were ever taken; the next one's number.
    total: u64,
}

#[derive(Debug)]
struct SlotState {
    port: u16,
    state: AtomicU8,
    /// The task of an idle connection.
    task: AtomicWaker,
}

impl SlotState {
    fn transition(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Has the connection end if it is idle.
    fn request_close(&self) -> bool {
        let requested = self.transition(IDLE, CLOSE_REQUESTED);
        if requested {
            self.task.wake();
        }
        requested
    }
}

impl Slots {
    /// How many are taken, and how many ever were.
    pub(super) fn counts(&self) -> (usize, u64) {
        let table = self.table.lock();
        (table.taken.len(), table.total)
    }

    /// Makes the oldest idle connection end. Whether a place will be free for that, or for an earlier call.
    fn make_room(&self) -> bool {
        let table = self.table.lock();
        let mut leaving = false;
        for slot in table.taken.values() {
            if slot.request_close() {
                return true;
            }
            leaving |= slot.state.load(Ordering::Acquire) == CLOSE_REQUESTED;
        }
        leaving
    }

    fn each_on(&self, port: u16, act: impl Fn(&SlotState)) {
        self.table.lock().taken.values().filter(|slot| slot.port == port).for_each(|slot| act(slot));
    }
}

impl Container {
    /// Takes a place for one more connection to `port`, unless `limit` (the node's, `None` is no limit) or the container's own
    /// limit is reached. The place is given back when the slot is dropped.
    pub fn try_acquire(&self, port: u16, limit: Option<u32>) -> Option<ConnectionSlot> {
        let limit = [limit, self.policy.max_connections].into_iter().flatten().min().map_or(usize::MAX, |n| n as usize);
        let mut table = self.state.slots.table.lock();
        if table.taken.len() >= limit {
            return None;
        }
        let number = table.total;
        table.total += 1;
        let slot = Arc::new(SlotState { port, state: AtomicU8::new(BUSY), task: AtomicWaker::new() });
        table.taken.insert(number, Arc::clone(&slot));
        drop(table);
        self.state.touch();
        if number == 0 {
            self.state.notify_first();
        }
        Some(ConnectionSlot { state: Arc::clone(&self.state), slot, number })
    }

    /// The same; where the limit is reached, an idle connection ends first and leaves its place.
    pub async fn acquire(&self, port: u16, limit: Option<u32>) -> Option<ConnectionSlot> {
        let taken = self.try_acquire(port, limit);
        if taken.is_some() {
            return taken;
        }
        // Boxed, so that requests that need not wait do not hold the memory of one that does.
        Box::pin(timeout(HANDOVER, self.take_over(port, limit))).await.ok().flatten()
    }

    async fn take_over(&self, port: u16, limit: Option<u32>) -> Option<ConnectionSlot> {
        loop {
            let mut freed = pin!(self.state.slots.freed.notified());
            // Before looking, so that no place becomes free unseen.
            freed.as_mut().enable();
            let taken = self.try_acquire(port, limit);
            if taken.is_some() || !self.state.slots.make_room() {
                return taken;
            }
            freed.await;
        }
    }

    /// Ends the idle connections to `port`: its server may serve one connection at a time, and a request waits for it.
    pub fn close_idle(&self, port: u16) {
        self.state.slots.each_on(port, |slot| {
            slot.request_close();
        });
    }

    /// Ends the connections to `port` as soon as they are idle: the server that they lead to may be about to end.
    pub fn retire(&self, port: u16) {
        self.state.slots.each_on(port, |slot| {
            if !slot.request_close() {
                slot.transition(BUSY, RETIRED);
            }
        });
    }
}

/// A place among a container's connections.
#[derive(Debug)]
#[must_use = "the slot is released when this is dropped"]
pub struct ConnectionSlot {
    state: Arc<ContainerState>,
    slot: Arc<SlotState>,
    number: u64,
}

impl ConnectionSlot {
    /// The connection is idle from now on. `false` when it is to end instead.
    pub fn rest(&self) -> bool {
        self.slot.transition(BUSY, IDLE)
    }

    /// An idle connection is in use again. `false` when it is to end instead.
    pub fn resume(&self) -> bool {
        self.slot.transition(IDLE, BUSY)
    }

    /// Ready when an idle connection is to end. For the connection's own task only: one task is woken.
    pub fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        self.slot.task.register(cx.waker());
        if self.slot.state.load(Ordering::Acquire) == CLOSE_REQUESTED { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.state.touch();
        self.state.slots.table.lock().taken.remove(&self.number);
        self.state.slots.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::container::Policy;
    use portsplice_net::netns::Netns;

    fn container(max_connections: Option<u32>) -> Container {
        let policy = Policy { max_connections, ..Policy::default() };
        Container::new("id".into(), "name".into(), Arc::new(Netns::current().unwrap()), policy)
    }

    /// A connection that is idle, until its place is wanted.
    fn idle(slot: ConnectionSlot) -> tokio::task::JoinHandle<()> {
        assert!(slot.rest());
        tokio::spawn(async move {
            poll_fn(|cx| slot.poll_wanted(cx)).await;
            assert!(!slot.resume(), "it is promised to somebody");
        })
    }

    #[test]
    fn slots_keep_to_the_smaller_limit() {
        for (own, node, limit) in [(Some(2), None, 2), (Some(2), Some(3), 2), (Some(3), Some(2), 2), (None, Some(1), 1)]
        {
            let container = container(own);
            let mut slots: Vec<_> = (0..limit).map(|_| container.try_acquire(80, node).unwrap()).collect();
            assert!(container.try_acquire(80, node).is_none(), "{own:?} {node:?}");
            assert_eq!(container.active(), limit);
            slots.pop();
            drop(container.try_acquire(80, node).unwrap());
            drop(slots);
            assert_eq!(container.active(), 0);
        }
        assert!(container(Some(0)).try_acquire(80, None).is_none());
        let unlimited = container(None);
        let _slots: Vec<_> = (0..100).map(|_| unlimited.try_acquire(80, None).unwrap()).collect();
    }

    #[tokio::test]
    async fn an_idle_connection_leaves_its_place_and_a_busy_one_does_not() {
        let container = container(Some(2));
        let busy = container.try_acquire(80, None).unwrap();
        let other = idle(container.try_acquire(81, None).unwrap());
        let third = container.acquire(80, None).await.unwrap();
        other.await.unwrap();
        assert!(container.acquire(80, None).await.is_none(), "nobody is idle");
        assert!(third.rest() && third.resume(), "whoever came back in time goes on");
        drop((busy, third));
        assert_eq!((container.active(), container.connection_counts().total), (0, 3));
    }

    #[tokio::test]
    async fn as_many_as_there_are_idle_places_get_one() {
        let container = Arc::new(container(Some(8)));
        let leaving: Vec<_> = (0..8).map(|_| idle(container.try_acquire(80, None).unwrap())).collect();
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let container = Arc::clone(&container);
                tokio::spawn(async move { container.acquire(80, None).await })
            })
            .collect();
        let mut got = Vec::new();
        for one in asking {
            got.extend(one.await.unwrap());
        }
        assert_eq!((got.len(), container.active()), (8, 8));
        for one in leaving {
            one.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_that_closes_ends_its_idle_connections_and_in_time_the_others() {
        let container = container(None);
        let [busy, resting, elsewhere] = [80, 80, 81].map(|port| container.try_acquire(port, None).unwrap());
        assert!(elsewhere.rest());
        let resting = idle(resting);
        container.close_idle(80);
        resting.await.unwrap();
        assert!(busy.rest() && busy.resume(), "what only makes room harms no busy connection");
        container.retire(80);
        assert!(!busy.rest(), "it ends with its answer");
        assert!(elsewhere.resume());
    }
}
