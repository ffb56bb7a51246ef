//! While etcd is there.

use portsplice_registry::{Change, Reporter, StoreError};
use portsplice_tests::etcd::Etcd;

use crate::conformance::{conformance, put, record};
use crate::{edge, node, until_uuids, uuids};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_what_every_store_promises() {
    let etcd = Etcd::start();
    conformance(node(&etcd, "n1"), node(&etcd, "n2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_a_node_that_dies_vanish_and_those_of_others_stay() {
    let etcd = Etcd::start();
    let (dying, living) = (node(&etcd, "n1"), node(&etcd, "n2"));
    dying.report(&[put(&record("a", "n1")), put(&record("b", "n1"))]).await.unwrap();
    living.report(&[put(&record("c", "n2"))]).await.unwrap();
    // Its task ends with it and renews nothing more; to etcd that is what a crash is.
    drop(dying);
    until_uuids(&*living, &["c"]).await;
    assert!(!etcd.ctl(&["get", "--prefix", "--keys-only", "/portsplice/nodes/"]).contains("n1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_in_order_takes_its_records_along() {
    let etcd = Etcd::start();
    let (ending, other) = (node(&etcd, "n1"), edge(&etcd));
    ending.report(&[put(&record("a", "n1"))]).await.unwrap();
    ending.close().await;
    assert!(uuids(&*other).await.is_empty(), "at once, without a lease that has to end first");
    assert!(ending.report(&[put(&record("a", "n1"))]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_started_again_takes_over_what_the_one_before_has_left() {
    let etcd = Etcd::start();
    let before = node(&etcd, "n1");
    before.report(&["a", "b", "c"].map(|uuid| put(&record(uuid, "n1")))).await.unwrap();
    let after = node(&etcd, "n1");
    after.report(&[put(&record("a", "n1"))]).await.unwrap();
    after.report(&[Change::Remove("b".into())]).await.unwrap();
    assert_eq!(uuids(&*after).await, ["a", "c"]);
    after.retain("n1", &["a".into()]).await.unwrap();
    assert_eq!(uuids(&*after).await, ["a"]);
    let error = before.report(&[put(&record("late", "n1"))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("started later")), "{error}");
    drop(before);
    after.report(&[put(&record("d", "n1"))]).await.unwrap();
    assert_eq!(uuids(&*after).await, ["a", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_one_name_are_found_out() {
    let etcd = Etcd::start();
    let first = node(&etcd, "n1");
    first.report(&[put(&record("a", "n1"))]).await.unwrap();
    let access = crate::access(&[etcd.url()]);
    let node = portsplice_registry::etcd::NodeIdentity {
        name: "n1".into(),
        address: "other.example:7450".into(),
        ttl: crate::TTL,
    };
    let second = portsplice_registry::etcd::EtcdRegistry::new(access, "/portsplice/", Some(node)).unwrap();
    let error = second.report(&[put(&record("b", "n1"))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("`node.name`")), "{error}");
    assert!(error.to_string().contains("n1.example:7450"), "{error}");
    assert_eq!(uuids(&*first).await, ["a"]);
    first.close().await;
    second.report(&[put(&record("b", "n1"))]).await.expect("the name is free now");
    assert_eq!(uuids(&second).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_are_written_and_read() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    let all: Vec<Change> = (0..1234).map(|i| put(&record(&format!("c-{i:04}"), "n1"))).collect();
    node.report(&all).await.unwrap();
    let there = uuids(&*node).await;
    assert!(there.iter().eq(all.iter().map(Change::uuid)), "{} records", there.len());
    node.retain("n1", &[]).await.unwrap();
    assert!(uuids(&*node).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_harms_nothing_else() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    node.report(&[put(&record("a", "n1"))]).await.unwrap();
    etcd.ctl(&["put", "/portsplice/records/b", "{"]);
    // Whoever may write one record may not answer for another container by it.
    let stolen = serde_json::to_string(&record("a", "evil")).unwrap();
    etcd.ctl(&["put", "/portsplice/records/c", &stolen]);
    etcd.ctl(&["put", "/portsplice/links/x", "[]"]);
    assert_eq!(uuids(&*node).await, ["a"]);
    assert!(node.links().await.unwrap().is_empty());
    assert!(matches!(node.record("b").await, Err(StoreError::Corrupt(_))));
    assert!(matches!(node.record("c").await, Err(StoreError::Corrupt(_))));
    let mut view = crate::conformance::View::new(&*node);
    view.until(|view| view.records.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_any_size_are_read_in_pages_that_fit() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    let mut all = Vec::new();
    for i in 0..90 {
        let mut big = record(&format!("c-{i:02}"), "n1");
        big.container_request_uuid = Some("x".repeat(1_000_000));
        node.report(&[put(&big)]).await.unwrap();
        all.push(big.uuid);
    }
    assert_eq!(uuids(&*node).await, all);
    let mut view = crate::conformance::View::new(&*node);
    view.until(|view| view.records.len() == 90).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_says_so_and_is_used_again_once_it_is_not() {
    let etcd = Etcd::with(&["--quota-backend-bytes", "200000"]);
    let node = node(&etcd, "n1");
    node.report(&[put(&record("a", "n1"))]).await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    let mut revision = 0;
    while let Ok(answer) = client.put("/elsewhere", vec![b'x'; 20_000], None).await {
        revision = answer.header().unwrap().revision();
    }
    let mut busy = record("a", "n1");
    busy.accepted_any_connection = true;
    let error = node.report(&[put(&busy), put(&record("b", "n1"))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("alarm disarm")), "{error}");
    assert_eq!(uuids(&*node).await, ["a"], "reading goes on");
    etcd.ctl(&["compact", &revision.to_string()]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    // Of what is there already the newest is written by itself; what is not was refused, and stays so until it is reported again.
    let mut view = crate::conformance::View::new(&*node);
    view.until(|view| view.records.get("a") == Some(&busy)).await;
    node.report(&[put(&record("c", "n1"))]).await.unwrap();
    assert_eq!(uuids(&*node).await, ["a", "c"]);
}
