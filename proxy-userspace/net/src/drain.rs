//! Ending without breaking what runs: whoever holds a [`DrainWatch`] keeps the process alive until it lets go.
//!
//! Drain works by ownership. Each listener and each connection holds a watch; [`Drain::begin`] tells all of them that no
//! new work is wanted, and [`Drain::finished`] returns when the last watch is dropped. When that takes too long,
//! [`Drain::cut`] tells what is still there to end at once. Nothing is registered by name and nothing has to be
//! deregistered, so a task that panics or is aborted cannot hold the process open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Shared {
    started: CancellationToken,
    abort: CancellationToken,
    watches: AtomicUsize,
    empty: Notify,
}

/// The owner's side: begins the drain and waits for its end.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun and that nobody holds open.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                started: CancellationToken::new(),
                abort: CancellationToken::new(),
                watches: AtomicUsize::new(0),
                empty: Notify::new(),
            }),
        }
    }

    /// A watch that holds the drain open until it and all its clones are dropped.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch::new(&self.shared)
    }

    /// Says that no new work is wanted. Calling it again changes nothing.
    pub fn begin(&self) {
        self.shared.started.cancel();
    }

    /// Ends what still runs, without waiting for a deadline. Also begins the drain.
    pub fn abort(&self) {
        self.shared.started.cancel();
        self.shared.abort.cancel();
    }

    /// Whether [`Drain::begin`] was called.
    pub fn draining(&self) -> bool {
        self.shared.started.is_cancelled()
    }

    /// How many watches are held, listeners' included.
    pub fn watches(&self) -> usize {
        self.shared.watches.load(Ordering::Acquire)
    }

    /// Waits until every watch is dropped. Dropping the future loses nothing.
    pub async fn finished(&self) {
        loop {
            let mut notified = std::pin::pin!(self.shared.empty.notified());
            // Registered before the count is read, so that a drop in between is not missed.
            notified.as_mut().enable();
            if self.watches() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// The worker's side: holds the drain open, and tells when to finish and when to stop. One pointer wide.
#[derive(Debug)]
pub struct DrainWatch {
    shared: Arc<Shared>,
}

impl DrainWatch {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.watches.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(shared) }
    }

    /// Whether the drain has begun: take no new work, close after the work at hand.
    pub fn draining(&self) -> bool {
        self.shared.started.is_cancelled()
    }

    /// Waits until the drain begins.
    pub async fn started(&self) {
        self.shared.started.cancelled().await;
    }

    /// Whether the deadline has passed: end at once.
    #[cfg(test)]
    fn is_aborted(&self) -> bool {
        self.shared.abort.is_cancelled()
    }

    /// Waits until the deadline has passed; a connection then ends at once, with a reset.
    pub async fn abort(&self) {
        self.shared.abort.cancelled().await;
    }
}

impl Clone for DrainWatch {
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if self.shared.watches.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn nothing_held_is_finished() {
        let drain = Drain::new();
        drop(drain.watch());
        drain.finished().await;
        assert!(!drain.draining());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_clone() {
        let drain = Drain::new();
        let watch = drain.watch();
        let second = watch.clone();
        drop(watch);
        assert_eq!(drain.watches(), 1);
        tokio::spawn(async move {
            second.started().await;
            assert!(second.draining() && !second.is_aborted());
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(second);
        });
        let before = Instant::now();
        drain.begin();
        drain.finished().await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert_eq!(drain.watches(), 0);
    }

    #[tokio::test]
    async fn a_cut_begins_the_drain_and_ends_what_listens_to_it() {
        let drain = Drain::new();
        for _ in 0..3 {
            let watch = drain.watch();
            tokio::spawn(async move { watch.abort().await });
        }
        drain.abort();
        assert!(drain.draining() && drain.watch().is_aborted());
        drain.finished().await;
    }

    #[tokio::test]
    async fn a_panicking_or_aborted_holder_lets_go() {
        let drain = Drain::new();
        let (first, second) = (drain.watch(), drain.watch());
        let aborted = tokio::spawn(async move {
            let _held = first;
            std::future::pending::<()>().await;
        });
        let panicked = tokio::spawn(async move {
            let _held = second;
            panic!("as a mistake would");
        });
        aborted.abort();
        drain.finished().await;
        assert!(panicked.await.unwrap_err().is_panic());
    }

    #[test]
    fn a_watch_is_one_pointer() {
        assert_eq!(size_of::<DrainWatch>(), size_of::<usize>());
    }
}
