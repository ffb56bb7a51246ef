//! Reports what runs on this node to the registry.
//!
//! It works from states, not from news: any news only says that it is time to look, and what is reported is the difference
//! between what runs and what the store is known to hold. So news may be lost, doubled or reordered; of many changes of one
//! container only the last is told; and what waits while the store is away takes no memory. After a failure it is not known
//! what the store holds, so everything is reported again.
//!
//! Events are collected for a moment (`registry.debounce`), and a container that keeps changing is reported once in
//! [`PACE`]: the first change after quiet at once, and the last one when the time has come. Counts of connections and
//! the time of the last activity change all the time: they go with other changes, and every [`COUNTS`] by themselves.
//! That a container has accepted its first connection is reported at once.
//!
//! A store that is away shows in the metrics and as degraded in `/readyz`. The node stays ready: requests do not need it.

mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Change, Record, SharedReporter, StoreError};
use portsplice_net::backoff::Backoff;
pub use status::{Snapshot, Status};

/// How often counts are reported though nothing else has changed.
pub const COUNTS: Duration = Duration::from_secs(10);
/// The shortest time between two reports of one container, but for its first connection.
pub const PACE: Duration = Duration::from_secs(1);
/// How long a container is left alone whose record the store does not take, for want of a key, say.
const REFUSED: Duration = Duration::from_secs(15);
/// Records in one report.
const BATCH: usize = 256;

/// What is to be reported.
pub trait Source: Send + Sync + 'static {
    /// The records of all containers that run now. May block for a moment.
    fn records(&self) -> Vec<Record>;
}

/// How, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherSettings {
    /// The node's name.
    pub node: String,
    /// How long events are collected.
    pub debounce: Duration,
}

/// A publisher that runs; dropping it ends it without a word to the store.
#[derive(Debug)]
pub struct Publishing {
    status: Arc<Status>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Starts to report to `registry`. `news` say when to look, whatever they are, and `first` when to look at once.
    pub fn start<T: Clone + Send + 'static>(
        settings: PublisherSettings,
        registry: SharedReporter,
        source: Arc<dyn Source>,
        events: broadcast::Receiver<T>,
        first: Arc<Notify>,
    ) -> Self {
        let (status, stop) = (Arc::new(Status::new(Arc::clone(&registry))), CancellationToken::new());
        let publisher = Publisher {
            settings,
            registry,
            source,
            status: Arc::clone(&status),
            reported: None,
            refused: HashMap::new(),
            reported_at: HashMap::new(),
            deferred_until: None,
            backoff: Backoff::default(),
        };
        let task = tokio::spawn(publisher.run(events, first, stop.clone()));
        Self { status, stop, task }
    }

    /// How it does.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Takes this node's records away and ends, within `time_limit`.
    pub async fn finish(mut self, time_limit: Duration) {
        self.stop.cancel();
        match timeout(time_limit, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!("cannot remove this node's records from the registry: the task failed: {error}")
            }
            Err(_) => tracing::warn!("could not remove this node's records from the registry in time"),
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Publisher {
    settings: PublisherSettings,
    registry: SharedReporter,
    source: Arc<dyn Source>,
    status: Arc<Status>,
    /// What the store holds of this node; `None` when that is not known.
    reported: Option<BTreeMap<String, Record>>,
    /// Containers whose last change the store has refused: until when they are left alone, and why.
    refused: HashMap<String, (Instant, String)>,
    /// When containers were last reported, for as long as that matters.
    reported_at: HashMap<String, Instant>,
    /// When a change is due that came too soon after the one before.
    deferred_until: Option<Instant>,
    backoff: Backoff,
}

/// What a report is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// What has changed but counts.
    Changes,
    /// Counts too.
    All,
}

impl Publisher {
    async fn run<T: Clone>(mut self, events: broadcast::Receiver<T>, first: Arc<Notify>, stop: CancellationToken) {
        tokio::select! {
            () = self.publish(events, &first) => return, // nobody is left to tell any news
            () = stop.cancelled() => {}
        }
        match self.registry.retain(&self.settings.node, &[]).await {
            Ok(()) => tracing::debug!("removed this node's records from the registry"),
            Err(error) => tracing::warn!("cannot remove this node's records from the registry: {error}"),
        }
        self.registry.close().await;
    }

    async fn publish<T: Clone>(&mut self, mut events: broadcast::Receiver<T>, first: &Notify) {
        let mut counts = interval(COUNTS);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let scope = tokio::select! {
                biased;
                () = first.notified() => Scope::Changes,
                event = events.recv() => match event {
                    Err(broadcast::error::RecvError::Closed) => return,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        sleep(self.settings.debounce).await;
                        Scope::Changes
                    }
                },
                () = sleep_until(self.deferred_until.unwrap_or_else(Instant::now)), if self.deferred_until.is_some() => Scope::Changes,
                _ = counts.tick() => Scope::All,
            };
            // What was told until now is in the state that is looked at next.
            while !matches!(
                events.try_recv(),
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
            ) {}
            while let Err(error) = self.report(scope).await {
                self.reported = None;
                self.reported_at.clear();
                self.status.failed(&error);
                sleep(self.backoff.pause()).await;
            }
            self.backoff = Backoff::default();
        }
    }

    /// Brings the store to what runs now.
    async fn report(&mut self, scope: Scope) -> Result<(), StoreError> {
        let source = Arc::clone(&self.source);
        // Nothing was told when they could not be made, so that is no success.
        let running = tokio::task::spawn_blocking(move || source.records())
            .await
            .map_err(|e| StoreError::internal(format!("cannot list the running containers: {e}")).because(e))?;
        let running: BTreeMap<String, Record> = running.into_iter().map(|r| (r.uuid.clone(), r)).collect();
        if self.reported.is_none() {
            self.status.pending(running.len());
            let uuids: Vec<String> = running.keys().cloned().collect();
            self.registry.retain(&self.settings.node, &uuids).await?;
            self.reported = Some(BTreeMap::new());
        }
        self.refused.retain(|uuid, _| running.contains_key(uuid));
        let now = Instant::now();
        self.reported_at.retain(|_, reported_at| *reported_at + PACE > now);
        let changes = self.difference(&running, scope);
        let (changes, early): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| self.may_report(change));
        self.deferred_until = early
            .iter()
            .filter_map(|change| self.reported_at.get(change.uuid()))
            .min()
            .map(|reported_at| *reported_at + PACE);
        self.status.pending(changes.len());
        for (number, batch) in changes.chunks(BATCH).enumerate() {
            self.report_batch(batch).await?;
            self.status.pending(changes.len().saturating_sub((number + 1) * BATCH));
        }
        self.status.succeeded(&self.refused);
        Ok(())
    }

    fn difference(&self, running: &BTreeMap<String, Record>, scope: Scope) -> Vec<Change> {
        let now = Instant::now();
        let is_backing_off = |uuid: &str| self.refused.get(uuid).is_some_and(|(until, _)| *until > now);
        let none = BTreeMap::new();
        let reported = self.reported.as_ref().unwrap_or(&none);
        let has_changed = |record: &&Record| match reported.get(&record.uuid) {
            None => true,
            Some(old) if scope == Scope::All => old != *record,
            Some(old) => !is_same_but_for_counts(old, record),
        };
        let put = running.values().filter(has_changed).map(|record| Change::Put(Box::new(record.clone())));
        let gone = reported.keys().filter(|uuid| !running.contains_key(*uuid));
        let changes = put.chain(gone.map(|uuid| Change::Remove(uuid.clone())));
        changes.filter(|change| !is_backing_off(change.uuid())).collect()
    }

    /// Whether the last report of a container is long enough ago for this one.
    fn may_report(&self, change: &Change) -> bool {
        let reported = self.reported.as_ref().and_then(|reported| reported.get(change.uuid()));
        // Whoever waits for it is reported at once, and it happens once.
        let is_first_connection = match change {
            Change::Put(record) => {
                record.accepted_any_connection && reported.is_some_and(|before| !before.accepted_any_connection)
            }
            Change::Remove(_) => false,
        };
        is_first_connection || !self.reported_at.contains_key(change.uuid())
    }

    /// A change that the store will not take must not keep it from taking the others.
    async fn report_batch(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        match self.registry.report(batch).await {
            Ok(()) => self.is_reported(batch),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) if batch.len() > 1 => {
                for change in batch {
                    Box::pin(self.report_batch(std::slice::from_ref(change))).await?;
                }
            }
            Err(error) => {
                for change in batch {
                    let why = (Instant::now() + REFUSED, error.to_string());
                    let before = self.refused.insert(change.uuid().to_owned(), why);
                    // It is tried again and again.
                    if before.is_none_or(|(_, before)| before != error.to_string()) {
                        tracing::error!(
                            container = change.uuid(),
                            "the registry rejects the record of this container: {error}"
                        );
                    }
                }
                self.status.refused();
            }
        }
        Ok(())
    }

    fn is_reported(&mut self, batch: &[Change]) {
        let Some(reported) = &mut self.reported else { return };
        let now = Instant::now();
        for change in batch {
            self.reported_at.insert(change.uuid().to_owned(), now);
            self.refused.remove(change.uuid());
            match change {
                Change::Put(record) => drop(reported.insert(record.uuid.clone(), (**record).clone())),
                Change::Remove(uuid) => drop(reported.remove(uuid)),
            }
        }
    }
}

fn is_same_but_for_counts(old: &Record, new: &Record) -> bool {
    let Record { connections, last_activity, .. } = *old;
    *old == Record { connections, last_activity, ..new.clone() }
}

#[cfg(test)]
mod tests;
