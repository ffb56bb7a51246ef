//! Records outlive their node's silence for a while, and then go.
//!
//! The store says for how long, this for how long still. After a restart each record has its whole time again, so that
//! nodes find the edge back before anything is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use portsplice_model::Record;
use portsplice_registry::embedded::{Embedded, Lease, RetainOutcome};
use portsplice_registry::{Change, Directory, StoreError};

/// How often it is looked what is over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The store's leased records with their times.
#[derive(Debug)]
pub(super) struct Leases {
    store: Embedded,
    times: Arc<Times>,
}

/// The times. Changed on the thread of the store, right after what they are about: so in the same order, for requests too
/// that nobody waits for any more, and without keeping one request waiting for another's.
#[derive(Debug, Default)]
struct Times {
    /// By uuid.
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    node: String,
    until: Instant,
}

impl Held {
    fn new(node: &str, ttl: u32) -> Self {
        Self { node: node.to_owned(), until: Instant::now() + Duration::from_secs(ttl.into()) }
    }
}

impl Leases {
    pub(super) async fn resume(store: Embedded) -> Result<Self, StoreError> {
        let held = |lease: Lease| (lease.uuid, Held::new(&lease.node, lease.ttl));
        let held: HashMap<String, Held> = store.leases().await?.into_iter().map(held).collect();
        Ok(Self { store, times: Arc::new(Times { held: Mutex::new(held) }) })
    }

    pub(super) fn len(&self) -> usize {
        self.times.held.lock().len()
    }

    pub(super) async fn record(&self, uuid: &str) -> Result<Option<Record>, StoreError> {
        self.store.record(uuid).await
    }

    pub(super) async fn put(&self, ttl: u32, record: Record) -> Result<(), StoreError> {
        let (uuid, node) = (record.uuid.clone(), record.node.clone());
        let (times, holder) = (Arc::clone(&self.times), node.clone());
        let renew = move || drop(times.held.lock().insert(uuid, Held::new(&holder, ttl)));
        self.store.report_leased(&node, ttl, vec![Change::Put(Box::new(record))], renew).await
    }

    pub(super) async fn remove(&self, node: &str, uuid: String) -> Result<(), StoreError> {
        let (times, holder, removed) = (Arc::clone(&self.times), node.to_owned(), uuid.clone());
        let forget = move || {
            let mut held = times.held.lock();
            if held.get(&removed).is_some_and(|held| held.node == holder) {
                held.remove(&removed);
            }
        };
        // No ttl is written by a removal.
        self.store.report_leased(node, 0, vec![Change::Remove(uuid)], forget).await
    }

    pub(super) async fn alive(&self, node: &str, ttl: u32, running: Vec<String>) -> Result<RetainOutcome, StoreError> {
        let (times, holder) = (Arc::clone(&self.times), node.to_owned());
        let renew = move |outcome: &RetainOutcome| {
            let theirs: HashSet<&str> = outcome.held.iter().map(String::as_str).collect();
            let mut held = times.held.lock();
            held.retain(|uuid, held| held.node != holder || theirs.contains(uuid.as_str()));
            held.extend(outcome.held.iter().map(|uuid| (uuid.clone(), Held::new(&holder, ttl))));
        };
        self.store.retain_leased(node, running, renew).await
    }

    pub(super) async fn expire(&self) {
        loop {
            let began = Instant::now();
            sleep(CHECK_INTERVAL).await;
            // While this process did not run, nobody could tell it anything: that is no silence of the nodes'.
            self.times.put_off(began.elapsed().saturating_sub(2 * CHECK_INTERVAL));
            if self.times.over().is_empty() {
                continue;
            }
            let (asked, told) = (Arc::clone(&self.times), Arc::clone(&self.times));
            if let Err(error) = self.store.expire(move || asked.over(), move |uuids| told.forget(uuids)).await {
                tracing::warn!("cannot remove the records of silent nodes yet: {error}");
            }
        }
    }
}

impl Times {
    fn put_off(&self, lost: Duration) {
        self.held.lock().values_mut().for_each(|held| held.until += lost);
    }

    /// The uuids of those whose time is over.
    fn over(&self) -> Vec<String> {
        let now = Instant::now();
        let held = self.held.lock();
        held.iter().filter(|(_, held)| held.until <= now).map(|(uuid, _)| uuid.clone()).collect()
    }

    fn forget(&self, uuids: &[String]) {
        let mut held = self.held.lock();
        for uuid in uuids {
            if let Some(Held { node, .. }) = held.remove(uuid) {
                tracing::info!(container = uuid, node, "removing a record: no heartbeat from its node");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;
    use portsplice_model::State;
    use portsplice_registry::Reporter;

    fn record(uuid: &str, node: &str) -> Record {
        Record {
            uuid: uuid.into(),
            container_request_uuid: None,
            node: node.into(),
            address: "n1:7450".into(),
            state: State::Running,
            service: false,
            published_ports: Default::default(),
            listening: Vec::new(),
            accepted_any_connection: false,
            connections: Default::default(),
            last_activity: None,
        }
    }

    #[tokio::test]
    async fn silence_ends_records_and_signs_of_life_renew_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.db");
        let store = Embedded::open(&path, "").unwrap();
        let leases = Leases::resume(store.clone()).await.unwrap();
        for (uuid, node) in [("a", "n1"), ("b", "n1"), ("c", "n2")] {
            leases.put(2, record(uuid, node)).await.unwrap();
        }
        // A local node's own record is nobody's lease.
        Embedded::open(&path, "n3").unwrap().report(&[Change::Put(Box::new(record("own", "n3")))]).await.unwrap();
        let outcome = leases.alive("n1", 3600, vec!["a".into(), "lost".into(), "c".into()]).await.unwrap();
        assert_eq!((outcome.held, outcome.missing), (vec!["a".to_owned()], vec!["lost".to_owned()]));
        assert_eq!((outcome.elsewhere, leases.len()), (vec!["c".to_owned()], 2));
        leases.remove("n1", "c".into()).await.unwrap();
        assert_eq!(leases.len(), 2, "it is n2's");
        let uuids = || async { store.records().await.unwrap().into_iter().map(|r| r.uuid).collect::<Vec<_>>() };
        tokio::select! {
            () = leases.expire() => {}
            () = async { while uuids().await != ["a", "own"] { sleep(Duration::from_millis(20)).await } } => {}
        }
        drop(leases);
        let resumed = Leases::resume(store.clone()).await.unwrap();
        assert_eq!(resumed.len(), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_request_that_stands_still_or_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::resume(Embedded::open(&dir.path().join("r.db"), "").unwrap()).await.unwrap();
        let mut still = pin!(leases.put(3600, record("a", "n1")));
        // It has asked the store, and nobody goes on with it.
        let _ = still.as_mut().now_or_never();
        let others = async {
            leases.put(3600, record("b", "n2")).await?;
            leases.alive("n2", 3600, vec!["b".into()]).await
        };
        let outcome = timeout(Duration::from_secs(5), others).await.expect("the others go on").unwrap();
        assert_eq!(outcome.held, ["b"]);
        assert_eq!(leases.len(), 2, "what is in the store has its time, though nobody has taken the answer");
    }
}
