//! Watches: over cut and dead connections, compaction and restarts.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use portsplice_registry::{Change, Update};
use portsplice_tests::HANG;
use portsplice_tests::etcd::Etcd;
use tokio::time::timeout;

use crate::conformance::{View, put, record};
use crate::relay::Relay;
use crate::{access, edge, edge_at, node};

/// The next news.
async fn next(updates: &mut BoxStream<'static, Update>) -> Update {
    timeout(HANG, updates.next()).await.expect("news").expect("a stream without end")
}

/// Reads on to what tells of this record, and gives what came before.
async fn until_record(updates: &mut BoxStream<'static, Update>, uuid: &str) -> Vec<Update> {
    let mut before = Vec::new();
    loop {
        match next(updates).await {
            Update::Record(record) if record.uuid == uuid => return before,
            update => before.push(update),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_it_resumes_and_after_a_compaction_it_begins_anew() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.address()).await;
    let node = node(&etcd, "n1");
    node.report(&[put(&record("a", "n1")), put(&record("gone", "n1"))]).await.unwrap();
    let mut updates = edge_at(access(std::slice::from_ref(&relay.url))).watch();
    until_record(&mut updates, "a").await;
    node.report(&[put(&record("b", "n1"))]).await.unwrap();
    until_record(&mut updates, "b").await;

    relay.cut();
    node.report(&[put(&record("c", "n1"))]).await.unwrap();
    relay.open();
    let before = until_record(&mut updates, "c").await;
    assert!(!before.contains(&Update::Reset), "etcd still has what came since: {before:?}");

    relay.cut();
    node.report(&[Change::Remove("gone".into())]).await.unwrap();
    node.report(&[put(&record("d", "n1"))]).await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    relay.open();
    while next(&mut updates).await != Update::Reset {}
    let mut all = Vec::new();
    loop {
        match next(&mut updates).await {
            Update::Current => break,
            Update::Record(record) => all.push(record.uuid),
            update => panic!("{update:?}"),
        }
    }
    assert_eq!(all, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_is_noticed() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.address()).await;
    let node = node(&etcd, "n1");
    let mut view = View::new(&*edge_at(access(std::slice::from_ref(&relay.url))));
    node.report(&[put(&record("a", "n1"))]).await.unwrap();
    view.until(|view| view.records.contains_key("a")).await;
    relay.freeze();
    node.report(&[put(&record("b", "n1"))]).await.unwrap();
    view.until(|view| view.records.contains_key("b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_restarts_nothing_is_missed() {
    let mut etcd = Etcd::start();
    let node = node(&etcd, "n1");
    let mut view = View::new(&*edge(&etcd));
    for round in ["a", "b", "c"] {
        crate::report(&*node, &[put(&record(round, "n1"))]).await;
        etcd.kill();
        etcd.restart();
        view.until(|view| view.records.contains_key(round)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_has_begun_anew_is_taken_for_what_it_is() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.address()).await;
    let first = node(&etcd, "n1");
    first.report(&[put(&record("old", "n1"))]).await.unwrap();
    let mut view = View::new(&*edge_at(access(std::slice::from_ref(&relay.url))));
    view.until(|view| view.records.contains_key("old")).await;
    relay.cut();
    // Another cluster at the same address, whose history happens to be longer.
    drop(first);
    let address = etcd.address();
    drop(etcd);
    let other = Etcd::at(address);
    for _ in 0..20 {
        other.ctl(&["put", "/elsewhere", "x"]);
    }
    let second = node(&other, "n2");
    second.report(&[put(&record("new", "n2"))]).await.unwrap();
    relay.open();
    view.until(|view| view.records.keys().eq(["new"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_loses_nothing() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    let mut view = View::new(&*edge(&etcd));
    view.until(|_| true).await;
    let many: Vec<Change> = (0..3000).map(|i| put(&record(&format!("c-{i:04}"), "n1"))).collect();
    node.report(&many).await.unwrap();
    node.report(&[Change::Remove("c-0000".into())]).await.unwrap();
    // Nothing was read meanwhile.
    view.until(|view| view.records.len() == 2999 && !view.records.contains_key("c-0000")).await;
}
