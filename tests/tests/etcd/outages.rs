//! While etcd is away, and after.

use std::time::Duration;

use futures_util::future::join_all;
use portsplice_registry::{Actor, Change, StoreError};
use portsplice_tests::HANG;
use portsplice_tests::etcd::Etcd;
use tokio::time::{sleep, timeout};

use crate::conformance::{View, link, name, put, record};
use crate::{TTL, access, edge, edge_at, node, report, until_uuids, uuids};

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_reports_it_has_the_last_of_each_afterwards() {
    let mut etcd = Etcd::start();
    let nodes = ["n1", "n2"].map(|name| node(&etcd, name));
    let work = nodes.iter().zip(["n1", "n2"]).map(|(node, name)| {
        let node = node.clone();
        tokio::spawn(async move {
            for round in 0..200 {
                let uuid = format!("{name}-{}", round % 10);
                let mut record = record(&uuid, name);
                record.connections.total = round;
                report(&*node, &[put(&record), Change::Remove(format!("{name}-{}", (round + 5) % 10))]).await;
            }
        })
    });
    let work: Vec<_> = work.collect();
    let mut view = View::new(&*edge(&etcd));
    for _ in 0..2 {
        sleep(Duration::from_millis(150)).await;
        etcd.kill();
        etcd.restart();
    }
    for done in join_all(work).await {
        done.unwrap();
    }
    let there = nodes[0].records().await.unwrap();
    let expected = |name| (5..10).map(move |i| (format!("{name}-{i}"), 190 + i));
    let expected: Vec<(String, u64)> = expected("n1").chain(expected("n2")).collect();
    let found: Vec<(String, u64)> = there.into_iter().map(|r| (r.uuid, r.connections.total)).collect();
    assert_eq!(found, expected);
    view.until(|v| v.records.iter().map(|(uuid, r)| (uuid.clone(), r.connections.total)).eq(expected.iter().cloned()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_lost_is_made_anew_and_everything_is_reported_again() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    node.report(&[put(&record("a", "n1")), put(&record("b", "n1"))]).await.unwrap();
    node.report(&[Change::Remove("b".into())]).await.unwrap();
    let leases = etcd.ctl(&["lease", "list"]);
    let lease = leases.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap();
    let mut view = View::new(&*node);
    view.until(|view| view.records.contains_key("a")).await;
    etcd.ctl(&["lease", "revoke", lease]);
    view.until(|view| view.records.is_empty()).await;
    view.until(|view| view.records.keys().eq(["a"])).await;

    // etcd's own clock runs on: when it wakes, the lease has ended.
    etcd.stop();
    sleep(2 * TTL).await;
    etcd.go_on();
    view.until(|view| view.records.is_empty()).await;
    view.until(|view| view.records.keys().eq(["a"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_late_brings_nothing_back() {
    let etcd = Etcd::start();
    let node = node(&etcd, "n1");
    node.report(&[put(&record("a", "n1")), put(&record("b", "n1"))]).await.unwrap();
    etcd.stop();
    // Sent, and lying in the connection that etcd does not read, until it is given up.
    let mut late = record("a", "n1");
    late.accepted_any_connection = true;
    let (first, second) = (node.clone(), node.clone());
    let sent = tokio::spawn(async move { first.report(&[put(&late), put(&record("c", "n1"))]).await });
    sleep(Duration::from_millis(200)).await;
    let removed = tokio::spawn(async move { report(&*second, &["a", "c"].map(|u| Change::Remove(u.into()))).await });
    assert!(sent.await.unwrap().is_err(), "nobody has answered");
    etcd.go_on();
    removed.await.unwrap();
    until_uuids(&*node, &["b"]).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(uuids(&*node).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hangs_while_it_is_stopped() {
    let etcd = Etcd::start();
    let (node, edge) = (node(&etcd, "n1"), edge(&etcd));
    node.report(&[put(&record("a", "n1"))]).await.unwrap();
    edge.create_link(&link("app", "ann")).await.unwrap();
    etcd.stop();
    let app = name("app");
    let (other, removal) = (link("other", "ann"), [Change::Remove("a".into())]);
    let calls = async {
        tokio::join!(
            node.report(&removal),
            async { edge.record("a").await.map(drop) },
            async { edge.records().await.map(drop) },
            async { edge.link(&app).await.map(drop) },
            async { edge.links().await.map(drop) },
            async { edge.create_link(&other).await.map_err(|e| StoreError::unavailable(e.to_string())) },
            async { edge.delete_link(&app, &Actor::Admin).await.map_err(|e| StoreError::unavailable(e.to_string())) },
            node.retain("n1", &[]),
        )
    };
    let results = timeout(HANG, calls).await.expect("an answer to each");
    let results: [Result<(), StoreError>; 8] = results.into();
    for (call, result) in results.into_iter().enumerate() {
        assert!(result.as_ref().is_err_and(StoreError::is_transient), "call {call}: {result:?}");
    }
    timeout(HANG, node.close()).await.expect("an end");
    etcd.go_on();
    until_uuids(&*edge, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_takes_over() {
    let etcd = Etcd::start();
    // Nothing listens on the one; the other takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = ["http://127.0.0.1:1".to_owned(), format!("http://{}", silent.local_addr().unwrap()), etcd.url()];
    for _ in 0..3 {
        let edge = edge_at(access(&urls));
        edge.records().await.expect("from the one that answers");
    }
    let node = crate::node_at(access(&urls), "n1");
    report(&*node, &[put(&record("a", "n1"))]).await;
}
