//! The threads that connections live on.
//!
//! Each thread has a scheduler and a reactor of its own, and a connection stays on the thread it was given to: both its
//! sockets wake the thread that uses them, and no work is handed between threads. With one scheduler for all threads every
//! batch of events wakes a second thread that looks for something to steal, which for small messages costs more than it
//! brings.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A fixed set of threads.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    /// Ends the threads when the last owner is gone.
    _stop: DropGuard,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's share of a worker; given back when dropped.
#[derive(Debug)]
pub(super) struct Share(Arc<AtomicUsize>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Workers {
    /// Starts `threads` threads, at least one.
    ///
    /// # Errors
    /// When a thread or its reactor cannot be made.
    pub fn start(threads: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let workers = (0..threads.max(1)).map(|number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let stopped = stop.clone();
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(stopped.cancelled()))?;
            Ok(Worker { handle, connections: Arc::default() })
        });
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, _stop: stop.drop_guard() })
    }

    /// The worker that accepts connections. A connection that it keeps for itself then needs no other thread.
    pub(super) fn acceptor(&self) -> &Handle {
        &self.workers[0].handle
    }

    /// The worker with the fewest connections, and a share of it.
    pub(super) fn least_busy(&self) -> (&Handle, Share) {
        let worker = self.workers.iter().min_by_key(|worker| worker.connections.load(Relaxed));
        let worker = worker.expect("there is at least one worker");
        worker.connections.fetch_add(1, Relaxed);
        (&worker.handle, Share(worker.connections.clone()))
    }
}
