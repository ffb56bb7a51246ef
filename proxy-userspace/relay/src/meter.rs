//! What moved, and when it last did: the idle timeout, the access log and the byte counters read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use portsplice_model::Direction;

use crate::bypass::FastFlow;

/// Counts of one connection. The two directions are futures of one task, which share it by reference; whoever lists
/// connections reads it from another thread. All of it is counts, which relaxed atomics keep right.
#[derive(Debug)]
pub struct Meter {
    epoch: Instant,
    last: AtomicU64,
    bytes: [AtomicU64; 2],
    spliced: AtomicBool,
    fast: Mutex<FastCount>,
}

/// Bytes that go past this process, which only the kernel counts.
#[derive(Debug, Default)]
struct FastCount {
    flow: Option<Arc<dyn FastFlow>>,
    /// Of this flow's bytes, those that are in the counts already.
    seen: u64,
    /// All flows' bytes of the current request.
    bytes: u64,
    /// All flows' bytes.
    total: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            bytes: Default::default(),
            spliced: AtomicBool::new(false),
            fast: Mutex::default(),
        }
    }
}

impl Meter {
    /// Notes `n` bytes that were handed to the kernel in `direction`.
    pub fn moved(&self, direction: Direction, n: u64) {
        self.bytes[direction as usize].fetch_add(n, Relaxed);
        self.touch();
    }

    /// The same, for what is no activity: a peer that sends nothing else is as good as silent.
    pub fn counted(&self, direction: Direction, n: u64) {
        self.bytes[direction as usize].fetch_add(n, Relaxed);
    }

    /// Notes that splice(2) moved bytes of the current request.
    pub fn spliced(&self) {
        self.spliced.store(true, Relaxed);
    }

    /// Counts from now on what goes past this process by `flow`, too.
    pub fn fast_begins(&self, flow: Arc<dyn FastFlow>) {
        let mut fast = self.fast.lock();
        fast.flow = Some(flow);
        fast.seen = 0;
    }

    /// The flow is over: what it has counted is all.
    pub fn fast_ends(&self) {
        self.refresh();
        self.fast.lock().flow = None;
    }

    /// Bytes that went past this process since the last call.
    pub fn take_fast(&self) -> u64 {
        self.refresh();
        std::mem::take(&mut self.fast.lock().bytes)
    }

    /// Of the bytes that moved down, those that went past this process.
    pub fn fast_bytes(&self) -> u64 {
        self.refresh();
        self.fast.lock().total
    }

    /// Takes over what the kernel has counted meanwhile.
    fn refresh(&self) {
        let mut fast = self.fast.lock();
        let Some(flow) = &fast.flow else { return };
        let total = flow.fast_bytes();
        let new = total.saturating_sub(fast.seen);
        if new > 0 {
            fast.seen = total;
            fast.bytes += new;
            fast.total += new;
            self.moved(Direction::Down, new);
        }
    }

    /// Notes activity that moves no counted bytes.
    pub fn touch(&self) {
        self.last.store(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long nothing has moved, to the millisecond.
    pub fn idle_for(&self) -> Duration {
        self.refresh();
        self.epoch.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }

    /// Bytes moved in `direction` since the connection began.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.refresh();
        self.bytes[direction as usize].load(Relaxed)
    }

    /// Whether splice(2) moved anything since the last call.
    pub fn take_spliced(&self) -> bool {
        self.spliced.swap(false, Relaxed)
    }
}
