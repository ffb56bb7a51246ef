//! How the publisher does, for metrics and probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::{Kind, Metrics, Sample};
use crate::readiness::Readiness;
use crate::registry::{SharedRegistry, StoreError};

/// Counters of one publisher.
#[derive(Debug, Default)]
pub struct Status {
    pending: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    /// Unix seconds; 0 is never.
    last_success: AtomicI64,
    /// Why the last attempt failed; `None` when it did not.
    problem: Mutex<Option<String>>,
    /// Which container's record is not taken, and why, where there is one.
    refusal: Mutex<Option<String>>,
}

impl Status {
    /// Changes that the store has not been told yet.
    pub(super) fn pending(&self, changes: usize) {
        self.pending.store(changes as u64, Ordering::Relaxed);
    }

    /// The store holds what runs, but for the containers `refused`.
    pub(super) fn succeeded(&self, refused: &HashMap<String, (Instant, String)>) {
        let first = refused.iter().min_by_key(|(uuid, _)| *uuid);
        *self.refusal.lock() = first.map(|(uuid, (_, why))| {
            let others = refused.len() - 1;
            let others = if others > 0 { format!(" (and of {others} others)") } else { String::new() };
            format!("the record of {uuid}{others} is not taken: {why}")
        });

        self.succeeded.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_success.store(i64::try_from(now.as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
        if self.problem.lock().take().is_some() {
            tracing::info!("the registry takes reports again and holds what runs here");
        }
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let text = error.to_string();
        // One line for each kind of trouble, not one for each attempt.
        if self.problem.lock().replace(text.clone()).is_none_or(|before| before != text) {
            tracing::warn!("reports wait, and traffic goes on: {text}");
        }
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What keeps reports from the store now.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// The same, or what the store itself has noticed.
    fn problem_with(&self, registry: &SharedRegistry) -> Option<String> {
        self.problem().or_else(|| registry.problem()).or_else(|| self.refusal.lock().clone())
    }

    /// Adds metrics and a probe. A registry that is away makes the node degraded and not unready: connections do not need
    /// it, and what runs is reported when it is back.
    pub(super) fn register(self: &Arc<Self>, registry: &SharedRegistry, metrics: &Metrics, readiness: &Readiness) {
        let s = Arc::clone(self);
        metrics.observe("registry_pending", "Changes that the registry was not told yet", Kind::Gauge, move || {
            vec![Sample::plain(s.pending.load(Ordering::Relaxed) as f64)]
        });
        let s = Arc::clone(self);
        metrics.observe("registry_reports", "Reports to the registry, by result", Kind::Counter, move || {
            let results = [("succeeded", &s.succeeded), ("failed", &s.failed), ("refused", &s.refused)];
            let sample = |(result, n): (&str, &AtomicU64)| {
                Sample::labelled([("result", result.to_owned())], n.load(Ordering::Relaxed) as f64)
            };
            results.map(sample).into()
        });
        let s = Arc::clone(self);
        let help = "When the registry last held all that runs here, in seconds since 1970; 0 is never";
        metrics.observe("registry_last_success_timestamp_seconds", help, Kind::Gauge, move || {
            vec![Sample::plain(s.last_success.load(Ordering::Relaxed) as f64)]
        });
        let (s, r) = (Arc::clone(self), Arc::clone(registry));
        let help = "Whether the registry was reached the last time, and took all";
        metrics.observe("registry_up", help, Kind::Gauge, move || {
            vec![Sample::plain(f64::from(u8::from(s.problem_with(&r).is_none())))]
        });
        let (s, r) = (Arc::clone(self), Arc::clone(registry));
        readiness
            .watch(move || s.problem_with(&r).map(|problem| ("registry".to_owned(), problem)).into_iter().collect());
    }
}
