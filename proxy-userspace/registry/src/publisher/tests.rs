use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::Reporter;
use portsplice_model::{ConnectionCounts, State};

/// A store in memory that can be away or give no answer, and refuses what is named `bad`.
#[derive(Debug, Default)]
struct Store {
    records: Mutex<BTreeMap<String, Record>>,
    away: AtomicBool,
    reports: AtomicUsize,
    retained: AtomicUsize,
    silent: AtomicBool,
    told: Notify,
}

impl Store {
    fn away(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) { Err(StoreError::unavailable("away")) } else { Ok(()) }
    }

    async fn until(&self, fits: impl Fn(&BTreeMap<String, Record>) -> bool) {
        loop {
            let told = self.told.notified();
            if fits(&self.records.lock()) {
                return;
            }
            told.await;
        }
    }

    async fn until_uuids(&self, uuids: &[&str]) {
        self.until(|records| records.keys().eq(uuids)).await;
    }
}

impl Reporter for Store {
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.reports.fetch_add(1, Ordering::Relaxed);
            self.away()?;
            if changes.iter().any(|change| change.uuid() == "bad") {
                return Err(StoreError::refused("bad"));
            }
            for change in changes {
                match change {
                    Change::Put(record) => drop(self.records.lock().insert(record.uuid.clone(), (**record).clone())),
                    Change::Remove(uuid) => drop(self.records.lock().remove(uuid)),
                }
            }
            self.told.notify_waiters();
            Ok(())
        })
    }

    fn retain<'a>(&'a self, node: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.retained.fetch_add(1, Ordering::Relaxed);
            if self.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.away()?;
            self.records.lock().retain(|uuid, record| record.node != node || running.contains(uuid));
            self.told.notify_waiters();
            Ok(())
        })
    }
}

#[derive(Default)]
struct Running(Mutex<BTreeMap<String, Record>>, AtomicBool);

impl Source for Running {
    fn records(&self) -> Vec<Record> {
        assert!(!self.1.load(Ordering::Relaxed), "fails on purpose");
        self.0.lock().values().cloned().collect()
    }
}

struct Rig {
    store: Arc<Store>,
    running: Arc<Running>,
    news: broadcast::Sender<()>,
    first: Arc<Notify>,
    publishing: Publishing,
}

fn record(uuid: &str) -> Record {
    Record {
        uuid: uuid.into(),
        container_request_uuid: None,
        node: "n1".into(),
        address: "n1:7450".into(),
        state: State::Running,
        service: false,
        published_ports: BTreeMap::new(),
        listening: Vec::new(),
        accepted_any_connection: false,
        connections: ConnectionCounts::default(),
        last_activity: None,
    }
}

impl Rig {
    fn new(store: Store, running: &[&str]) -> Self {
        // As many as an event channel of the daemon holds.
        let (store, source, news, first) =
            (Arc::new(store), Arc::new(Running::default()), broadcast::channel(4096).0, Arc::new(Notify::new()));
        source.0.lock().extend(running.iter().map(|uuid| (String::from(*uuid), record(uuid))));
        let settings = PublisherSettings { node: "n1".into(), debounce: Duration::from_millis(100) };
        let publishing =
            Publishing::start(settings, store.clone(), source.clone(), news.subscribe(), Arc::clone(&first));
        Self { store, running: source, news, first, publishing }
    }

    /// Something has happened, whatever it is.
    fn tell(&self) {
        let _ = self.news.send(());
    }

    fn set(&self, record: Record) {
        self.running.0.lock().insert(record.uuid.clone(), record);
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_told_and_what_a_crash_left_behind_is_removed() {
    let store = Store::default();
    for (uuid, node) in [("a", "n1"), ("old", "n1"), ("other", "n2")] {
        store.records.lock().insert(uuid.into(), Record { node: node.into(), ..record(uuid) });
    }
    let rig = Rig::new(store, &["a", "b"]);
    rig.store.until_uuids(&["a", "b", "other"]).await;
    rig.running.0.lock().remove("a");
    rig.set(record("c"));
    rig.tell();
    rig.store.until_uuids(&["b", "c", "other"]).await;
    rig.publishing.finish(Duration::from_secs(5)).await;
    rig.store.until_uuids(&["other"]).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_changes_only_the_last_is_told() {
    let rig = Rig::new(Store::default(), &["a"]);
    rig.store.until_uuids(&["a"]).await;
    let before = rig.store.reports.load(Ordering::Relaxed);
    // More than the channel holds: the receiver lags.
    for n in 0..10_000 {
        rig.set(Record { container_request_uuid: Some(n.to_string()), ..record("a") });
        rig.tell();
    }
    rig.store.until(|records| records["a"].container_request_uuid.as_deref() == Some("9999")).await;
    assert_eq!(rig.store.reports.load(Ordering::Relaxed), before + 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_reports_wait_and_all_is_told_again_when_it_is_back() {
    let rig = Rig::new(Store::default(), &["a", "b"]);
    rig.store.until_uuids(&["a", "b"]).await;
    rig.store.away.store(true, Ordering::Relaxed);
    rig.running.0.lock().remove("a");
    rig.tell();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.publishing.status().problem().unwrap(), "the registry is unreachable: away");
    // It comes back with something else than it had.
    rig.store.records.lock().remove("b");
    rig.store.records.lock().insert("stale".into(), record("stale"));
    rig.store.away.store(false, Ordering::Relaxed);
    rig.store.until_uuids(&["b"]).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.publishing.status().problem(), None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_keeps_no_other_from_the_store() {
    let rig = Rig::new(Store::default(), &["a", "bad", "c"]);
    rig.store.until_uuids(&["a", "c"]).await;
    rig.set(record("d"));
    rig.tell();
    rig.store.until_uuids(&["a", "c", "d"]).await;
    sleep(Duration::from_millis(1)).await;
    let status = rig.publishing.status().snapshot();
    assert!(status.problem.as_ref().is_some_and(|p| p.contains("the record of bad was rejected")), "{status:?}");
    assert!(status.refused > 0 && status.failed == 0, "{status:?}");
    // It is tried again, and what is taken is no problem any more.
    rig.running.0.lock().remove("bad");
    rig.tell();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.publishing.status().snapshot().problem, None);
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_is_told_at_once_and_counts_in_time() {
    let rig = Rig::new(Store::default(), &["a"]);
    rig.store.until_uuids(&["a"]).await;
    let began = Instant::now();
    let counts = |total| Record { connections: ConnectionCounts { active: 0, total }, ..record("a") };
    rig.set(Record { accepted_any_connection: true, ..counts(1) });
    rig.first.notify_one();
    rig.store.until(|records| records["a"].accepted_any_connection).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());

    let before = rig.store.reports.load(Ordering::Relaxed);
    rig.set(Record { accepted_any_connection: true, ..counts(2) });
    rig.tell();
    sleep(COUNTS / 2).await;
    assert_eq!(rig.store.reports.load(Ordering::Relaxed), before, "counts are no news");
    rig.store.until(|records| records["a"].connections.total == 2).await;
}

/// The clock stands still but for timers, so that the times here are exact whatever the machine does.
#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_store_that_is_away() {
    let rig = Rig::new(Store { away: true.into(), ..Store::default() }, &["a"]);
    sleep(Duration::from_secs(1)).await;
    let before = rig.store.retained.load(Ordering::Relaxed);
    assert!(before > 0, "it tries");
    let began = Instant::now();
    rig.publishing.finish(Duration::from_secs(2)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "it ends by itself, in {:?}", began.elapsed());
    assert_eq!(rig.store.retained.load(Ordering::Relaxed), before + 1, "it tries to say goodbye, once");
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_long_for_a_store_that_never_answers() {
    let rig = Rig::new(Store::default(), &["a"]);
    rig.store.until_uuids(&["a"]).await;
    rig.store.silent.store(true, Ordering::Relaxed);
    let began = Instant::now();
    timeout(Duration::from_secs(60), rig.publishing.finish(Duration::from_secs(2))).await.expect("it ends");
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_made_are_no_success() {
    let rig = Rig::new(Store::default(), &["a"]);
    rig.store.until_uuids(&["a"]).await;
    rig.running.1.store(true, Ordering::Relaxed);
    rig.set(record("b"));
    rig.tell();
    while rig.publishing.status().problem().is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.publishing.status().problem().unwrap().contains("fails on purpose"));
    rig.running.1.store(false, Ordering::Relaxed);
    rig.store.until_uuids(&["a", "b"]).await; // and it tries again
}

#[tokio::test(start_paused = true)]
async fn a_container_that_keeps_changing_is_told_once_a_second_and_its_last_state_too() {
    let rig = Rig::new(Store::default(), &["a", "b"]);
    rig.store.until_uuids(&["a", "b"]).await;
    sleep(Duration::from_secs(30)).await;
    let before = rig.store.reports.load(Ordering::Relaxed);
    let changed = |n: u32| Record { container_request_uuid: Some(n.to_string()), ..record("a") };
    for n in 0..150_u32 {
        rig.set(changed(n));
        rig.tell();
        sleep(Duration::from_millis(200)).await;
        if n == 0 {
            assert_eq!(rig.store.records.lock()["a"], changed(0), "the first after quiet is told at once");
        }
        if n == 100 {
            rig.set(Record { container_request_uuid: Some("x".into()), ..record("b") });
            rig.tell();
            sleep(Duration::from_millis(200)).await;
            let told = rig.store.records.lock()["b"].container_request_uuid.clone();
            assert_eq!(told.as_deref(), Some("x"), "another one does not wait for it");
        }
    }
    rig.store.until(|records| records["a"] == changed(149)).await;
    let reports = rig.store.reports.load(Ordering::Relaxed) - before;
    assert!((25..=33).contains(&reports), "{reports} reports in 30 s");
}
