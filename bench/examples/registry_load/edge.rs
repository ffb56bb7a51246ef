//! The one that follows.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use portsplice_registry::{Directory, Update};
use portsplice_tests::etcd::Etcd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::reader;

/// When changes began, by number, and how long they took to be known.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    begun: HashMap<u64, Instant>,
    delays: Vec<Duration>,
}

impl Clock {
    /// The change of this number is about to be reported.
    pub(crate) fn begins(&self, number: u64) {
        self.0.lock().expect("the clock").begun.insert(number, Instant::now());
    }

    fn ends(&self, number: u64) {
        let mut times = self.0.lock().expect("the clock");
        if let Some(begun) = times.begun.remove(&number) {
            times.delays.push(begun.elapsed());
        }
    }
}

/// An edge that knows all there is.
pub(crate) struct Edge {
    clock: Clock,
    count: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Edge {
    /// Follows, and returns when all that there is now is known.
    pub(crate) async fn follow(etcd: &Etcd) -> Self {
        let clock = Clock::default();
        let (counted, count) = watch::channel(0);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (registry, times) = (reader(etcd), clock.clone());
        let task = tokio::spawn(async move {
            let (mut updates, mut records, mut ready) = (registry.watch(), HashSet::new(), Some(ready));
            while let Some(update) = updates.next().await {
                match update {
                    Update::Reset => records.clear(),
                    Update::Record(record) => {
                        times.ends(record.connections.total);
                        records.insert(record.uuid);
                    }
                    Update::RecordGone(uuid) => drop(records.remove(&uuid)),
                    Update::Current => drop(ready.take().map(|ready| ready.send(()))),
                    Update::Link(_) | Update::LinkGone(_) => {}
                }
                counted.send_replace(records.len());
            }
        });
        is_ready.await.expect("an edge");
        Self { clock, count, task }
    }

    /// Waits until so many records are known.
    pub(crate) async fn until(&mut self, records: usize) {
        self.count.wait_for(|&count| count == records).await.expect("an edge");
    }

    /// How many records are known.
    pub(crate) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// To be told of changes.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The delays of so many changes, once all are known. A change that was overwritten before it was seen has none.
    pub(crate) async fn delays(&self, changes: usize) -> Vec<Duration> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.clock.0.lock().expect("the clock").delays.len() < changes && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut times = self.clock.0.lock().expect("the clock");
        times.begun.clear();
        std::mem::take(&mut times.delays)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.task.abort();
    }
}
