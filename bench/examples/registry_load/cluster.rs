//! Nodes that report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portsplice_model::{Access as Visibility, ListeningPort, PublishedPort, Record, State, Timestamp};
use portsplice_registry::etcd::{Access, EtcdRegistry, NodeIdentity};
use portsplice_registry::{Change, SharedRegistry};
use portsplice_tests::etcd::Etcd;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::edge::Edge;

/// Many nodes.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// Counts changes, each of which the edge recognizes by its number.
    next: u64,
}

#[derive(Clone)]
struct Node {
    registry: SharedRegistry,
    records: Arc<Vec<Record>>,
}

impl Cluster {
    /// None of them has said anything yet.
    pub(crate) fn new(etcd: &Etcd, nodes: usize, containers: usize, ttl: Duration) -> Self {
        let nodes = (0..nodes).map(|number| {
            let (name, address) = (format!("node-{number:04}"), format!("node-{number:04}.cluster.example:7450"));
            let records = (0..containers).map(|container| record(&name, &address, container)).collect();
            let node = NodeIdentity { name, address, ttl };
            let registry = EtcdRegistry::new(access(etcd), "/portsplice/", Some(node)).expect("a registry");
            Node { registry: Arc::new(registry), records: Arc::new(records) }
        });
        Self { nodes: nodes.collect(), next: 1 }
    }

    /// All report everything, so many records at a time.
    pub(crate) async fn publish(&mut self, report: usize) {
        let tasks = self.nodes.iter().cloned().map(|node| {
            tokio::spawn(async move {
                for some in node.records.chunks(report) {
                    let changes: Vec<Change> =
                        some.iter().cloned().map(|record| Change::Put(Box::new(record))).collect();
                    node.report(&changes).await;
                }
            })
        });
        for done in join_all(tasks).await {
            done.expect("a node");
        }
    }

    /// So many changes in a second, spread over the nodes. How many there were.
    pub(crate) async fn churn(&mut self, edge: &Edge, rate: usize, time: Duration) -> usize {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).expect("a rate"));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (end, mut tasks) = (Instant::now() + time, Vec::new());
        while Instant::now() < end {
            ticks.tick().await;
            let (number, node) = self.change();
            let edge = edge.clock();
            tasks.push(tokio::spawn(async move { node.change(number, &edge).await }));
        }
        join_all(tasks.drain(..)).await.len()
    }

    /// Each node changes one record after the other. How many there were.
    pub(crate) async fn storm(&mut self, edge: &Edge, time: Duration) -> usize {
        let end = Instant::now() + time;
        let many = self.nodes.len() as u64;
        let tasks = self.nodes.iter().cloned().enumerate().map(|(at, node)| {
            let (edge, mut number) = (edge.clock(), self.next + at as u64);
            tokio::spawn(async move {
                let mut changes = 0;
                while Instant::now() < end {
                    node.change(number, &edge).await;
                    (number, changes) = (number + many, changes + 1);
                }
                changes
            })
        });
        let counts = join_all(tasks).await;
        let counts: Vec<usize> = counts.into_iter().map(|count| count.expect("a node")).collect();
        self.next += many * (1 + *counts.iter().max().unwrap_or(&0) as u64);
        counts.iter().sum()
    }

    /// These end without a word, as in a crash.
    pub(crate) fn kill(&mut self, nodes: usize) {
        self.nodes.truncate(self.nodes.len() - nodes);
    }

    fn change(&mut self) -> (u64, Node) {
        let number = self.next;
        self.next += 1;
        (number, self.nodes[usize::try_from(number).expect("small") % self.nodes.len()].clone())
    }
}

impl Node {
    /// Reports one record that carries `number`.
    async fn change(&self, number: u64, clock: &crate::edge::Clock) {
        let container = usize::try_from(number).expect("small") / 7 % self.records.len();
        let mut record = self.records[container].clone();
        record.connections.total = number;
        clock.begins(number);
        self.report(&[Change::Put(Box::new(record))]).await;
    }

    /// As the publisher of a node does it: again until it is done.
    async fn report(&self, changes: &[Change]) {
        while let Err(error) = self.registry.report(changes).await {
            assert!(error.is_transient(), "{error}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn access(etcd: &Etcd) -> Access {
    let endpoints = vec![etcd.url().parse().expect("a URL")];
    Access { endpoints, ca_file: None, certificate: None, key: None, token_file: None }
}

/// The registry as an edge has it.
pub(crate) fn reader(etcd: &Etcd) -> EtcdRegistry {
    EtcdRegistry::new(access(etcd), "/portsplice/", None).expect("a registry")
}

/// A record as there are many: one published port, three that listen.
fn record(node: &str, address: &str, number: usize) -> Record {
    let published = PublishedPort { access: Visibility::Private, label: "Notebook".into(), initial_path: "lab".into() };
    let listening = |port| ListeningPort {
        port,
        address: "0.0.0.0".parse().expect("an address"),
        dual_stack: false,
        since: Timestamp::now(),
        process: Some("jupyter-lab".into()),
    };
    let container = format!("{}{number:04}", node.trim_start_matches("node-"));
    Record {
        uuid: format!("zzzzz-dz642-0000000{container}"),
        container_request_uuid: Some(format!("zzzzz-xvhdp-0000000{container}")),
        node: node.into(),
        address: address.into(),
        state: State::Running,
        service: true,
        published_ports: [(8888, published)].into(),
        listening: [8888, 40001, 40002].map(listening).into(),
        accepted_any_connection: false,
        connections: Default::default(),
        last_activity: Some(Timestamp::now()),
    }
}
