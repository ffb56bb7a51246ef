//! The cluster's record in a real etcd, which is killed, stopped, cut off, compacted and filled up.

use std::sync::Arc;
use std::time::Duration;

use portsplice_registry::etcd::{Access, EtcdRegistry, NodeIdentity};
use portsplice_registry::{Registry, SharedRegistry};
use portsplice_tests::HANG;
use portsplice_tests::etcd::Etcd;

#[path = "../registry/stores/conformance.rs"]
mod conformance;
mod nodes;
mod outages;
mod permissions;
mod relay;
mod store;
mod watching;

/// The least that etcd gives.
const TTL: Duration = Duration::from_secs(2);

/// How these endpoints are reached, without TLS and user.
fn access(urls: &[String]) -> Access {
    let endpoints = urls.iter().map(|url| url.parse().expect("a URL")).collect();
    Access { endpoints, ca_file: None, certificate: None, key: None, token_file: None }
}

/// The registry as a node has it.
fn node_at(access: Access, name: &str) -> SharedRegistry {
    let node = NodeIdentity { name: name.into(), address: format!("{name}.example:7450"), ttl: TTL };
    Arc::new(EtcdRegistry::new(access, "/portsplice/", Some(node)).expect("a registry"))
}

fn node(etcd: &Etcd, name: &str) -> SharedRegistry {
    node_at(access(&[etcd.url()]), name)
}

/// The registry as an edge has it.
fn edge_at(access: Access) -> SharedRegistry {
    Arc::new(EtcdRegistry::new(access, "/portsplice/", None).expect("a registry"))
}

fn edge(etcd: &Etcd) -> SharedRegistry {
    edge_at(access(&[etcd.url()]))
}

/// The uuids of all records, in order.
async fn uuids(store: &dyn Registry) -> Vec<String> {
    store.records().await.expect("records").into_iter().map(|record| record.uuid).collect()
}

/// Waits until the store has just these records.
async fn until_uuids(store: &dyn Registry, expected: &[&str]) {
    let ask = async {
        while store.records().await.ok().is_none_or(|r| !r.iter().map(|r| r.uuid.as_str()).eq(expected.iter().copied()))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(HANG, ask).await.is_err() {
        panic!("waited in vain for {expected:?}; there is {:?}", store.records().await);
    }
}

/// Reports until it succeeds, as the publisher of a node does.
async fn report(store: &dyn Registry, changes: &[portsplice_registry::Change]) {
    let tries = async {
        while let Err(error) = store.report(changes).await {
            assert!(error.is_transient(), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANG, tries).await.expect("a report that succeeds");
}
