//! How the publisher does, for whoever shows it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{SharedReporter, StoreError};
use portsplice_model::unix_time;

/// Counters of one publisher.
#[derive(Debug)]
pub struct Status {
    /// Asked for what it has noticed by itself.
    registry: SharedReporter,
    pending: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    /// Unix seconds; 0 is never.
    last_success: AtomicI64,
    /// Why the last attempt failed; `None` when it did not.
    problem: Mutex<Option<String>>,
    /// Which container's record is not taken, and why, where there is one.
    rejection: Mutex<Option<String>>,
}

impl Status {
    pub(super) fn new(registry: SharedReporter) -> Self {
        Self {
            registry,
            pending: AtomicU64::default(),
            succeeded: AtomicU64::default(),
            failed: AtomicU64::default(),
            refused: AtomicU64::default(),
            last_success: AtomicI64::default(),
            problem: Mutex::default(),
            rejection: Mutex::default(),
        }
    }

    /// Changes that the store has not been told yet.
    pub(super) fn pending(&self, changes: usize) {
        self.pending.store(changes as u64, Ordering::Relaxed);
    }

    /// The store holds what runs, but for the containers `refused`.
    pub(super) fn succeeded(&self, refused: &HashMap<String, (Instant, String)>) {
        let first = refused.iter().min_by_key(|(uuid, _)| *uuid);
        *self.rejection.lock() = first.map(|(uuid, (_, why))| {
            let others = refused.len() - 1;
            let others = if others > 0 { format!(" (and of {others} others)") } else { String::new() };
            format!("the record of {uuid}{others} was rejected: {why}")
        });

        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.last_success.store(i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
        if self.problem.lock().take().is_some() {
            tracing::info!("registry available again; all records are up to date");
        }
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let text = error.to_string();
        // One line for each kind of trouble, not one for each attempt.
        if self.problem.lock().replace(text.clone()).is_none_or(|before| before != text) {
            tracing::warn!("registry unavailable, retrying (traffic unaffected): {text}");
        }
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What keeps reports from the store now.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// All of it, as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            pending: self.pending.load(Ordering::Relaxed),
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            last_success: self.last_success.load(Ordering::Relaxed),
            problem: self.problem().or_else(|| self.registry.problem()).or_else(|| self.rejection.lock().clone()),
        }
    }
}

/// How a publisher did at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Changes that the store has not been told yet.
    pub pending: u64,
    /// Reports that the store has taken.
    pub succeeded: u64,
    /// Reports that did not reach the store, or that it could not keep. Each is tried again.
    pub failed: u64,
    /// Changes that the store did not take for what is in them, or for want of a key.
    pub refused: u64,
    /// When the store last held all that runs here, in seconds since 1970; 0 is never.
    pub last_success: i64,
    /// What keeps reports from the store, what the store itself has noticed, or whose record it does not take; one line.
    pub problem: Option<String>,
}
