//! Records outlive their node's silence for a while, and then go.
//!
//! The store says for how long, this for how long still. After a restart each record has its whole time again, so that
//! nodes find the edge back before anything is lost.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::registry::embedded::{Embedded, Standing};
use crate::registry::{Change, Record, Registry, StoreError};

/// How often it is looked what is over.
const LOOK: Duration = Duration::from_secs(1);

/// The store's leased records with their times.
#[derive(Debug)]
pub(super) struct Leases {
    store: Embedded,
    /// By uuid. Locked while the store is changed, so that nothing is removed as expired that was just renewed.
    until: Mutex<HashMap<String, Held>>,
    len: AtomicUsize,
}

#[derive(Debug)]
struct Held {
    node: String,
    until: Instant,
}

fn after(ttl: u32) -> Instant {
    Instant::now() + Duration::from_secs(ttl.into())
}

impl Leases {
    pub(super) async fn resume(store: Embedded) -> Result<Self, StoreError> {
        let held =
            |lease: crate::registry::embedded::Lease| (lease.uuid, Held { node: lease.node, until: after(lease.ttl) });
        let until: HashMap<String, Held> = store.leases().await?.into_iter().map(held).collect();
        Ok(Self { len: until.len().into(), store, until: Mutex::new(until) })
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) async fn record(&self, uuid: &str) -> Result<Option<Record>, StoreError> {
        self.store.record(uuid).await
    }

    pub(super) async fn put(&self, ttl: u32, record: Record) -> Result<(), StoreError> {
        let mut held = self.until.lock().await;
        let (uuid, node) = (record.uuid.clone(), record.node.clone());
        self.store.report_leased(&node, ttl, vec![Change::Put(Box::new(record))]).await?;
        held.insert(uuid, Held { node, until: after(ttl) });
        self.len.store(held.len(), Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn remove(&self, node: &str, uuid: String) -> Result<(), StoreError> {
        let mut held = self.until.lock().await;
        // No ttl is written by a removal.
        self.store.report_leased(node, 0, vec![Change::Remove(uuid.clone())]).await?;
        if held.get(&uuid).is_some_and(|held| held.node == node) {
            held.remove(&uuid);
        }
        self.len.store(held.len(), Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn alive(&self, node: &str, ttl: u32, running: Vec<String>) -> Result<Standing, StoreError> {
        let mut held = self.until.lock().await;
        let standing = self.store.retain_leased(node, running).await?;
        let theirs: HashSet<&str> = standing.held.iter().map(String::as_str).collect();
        held.retain(|uuid, held| held.node != node || theirs.contains(uuid.as_str()));
        for uuid in &standing.held {
            held.insert(uuid.clone(), Held { node: node.to_owned(), until: after(ttl) });
        }
        self.len.store(held.len(), Ordering::Relaxed);
        Ok(standing)
    }

    pub(super) async fn expire(&self) {
        loop {
            let began = Instant::now();
            sleep(LOOK).await;
            let mut held = self.until.lock().await;
            // While this process did not run, nobody could tell it anything: that is no silence of the nodes'.
            let lost = began.elapsed().saturating_sub(2 * LOOK);
            held.values_mut().for_each(|held| held.until += lost);
            let now = Instant::now();
            let over: Vec<String> =
                held.iter().filter(|(_, held)| held.until <= now).map(|(uuid, _)| uuid.clone()).collect();
            if over.is_empty() {
                continue;
            }
            match self.store.expire(over.clone()).await {
                Ok(()) => {
                    for uuid in &over {
                        if let Some(Held { node, .. }) = held.remove(uuid) {
                            tracing::info!(container = uuid, node, "its node is silent: the record is removed");
                        }
                    }
                }
                Err(error) => tracing::warn!("records of silent nodes cannot be removed yet: {error}"),
            }
            self.len.store(held.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::State;

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
        let standing = leases.alive("n1", 3600, vec!["a".into(), "lost".into(), "c".into()]).await.unwrap();
        assert_eq!((standing.held, standing.missing), (vec!["a".to_owned()], vec!["lost".to_owned()]));
        assert_eq!((standing.elsewhere, leases.len()), (vec!["c".to_owned()], 2));
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
}
