//! Who else has a say in the steps of a flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::bypass::{self, FastFlow, Unaccounted};

/// Who has a say in each step of a flow.
#[derive(Clone, Copy)]
pub(crate) enum StepHook<'a> {
    /// The fast path, which other bytes of the same response take.
    FastFlow(&'a dyn FastFlow),
    /// The other direction of a tunnel.
    TunnelGuard(&'a TunnelGuard),
}

impl StepHook<'_> {
    /// So many bytes were read, and none of them is written yet; gives how many of them may be.
    pub(crate) async fn read(&self, bytes: u64) -> Result<u64, Unaccounted> {
        match *self {
            Self::FastFlow(fast_flow) => {
                bypass::claim(fast_flow).await?;
                Ok(fast_flow.take(bytes))
            }
            Self::TunnelGuard(guard) => {
                guard.interrupt();
                Ok(bytes)
            }
        }
    }

    /// So many bytes were read, and those that may be are written.
    pub(crate) fn written(&self, bytes: u64) {
        if let Self::FastFlow(fast_flow) = self {
            fast_flow.release(bytes);
        }
    }
}

/// The other direction of a tunnel on a kernel where a server's socket must not be attached while it has something to read:
/// what comes for it detaches it first.
#[derive(Debug, Default)]
pub struct TunnelGuard {
    fast_flow: Mutex<Option<Arc<dyn FastFlow>>>,
    interrupted: AtomicBool,
}

impl TunnelGuard {
    pub(crate) fn begins(&self, fast_flow: Arc<dyn FastFlow>) {
        *self.fast_flow.lock() = Some(fast_flow);
    }

    pub(crate) fn ends(&self) {
        *self.fast_flow.lock() = None;
    }

    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted.swap(false, Relaxed)
    }

    /// Something comes for the server.
    fn interrupt(&self) {
        if let Some(fast_flow) = self.fast_flow.lock().take() {
            fast_flow.detach();
        }
        self.interrupted.store(true, Relaxed);
    }
}
