//! Metrics of parts that do not count for themselves, and what the kernel's programs are told of containers.

mod groups;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::build_info;
use crate::edge::Edge;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::readiness::Readiness;
pub(super) use groups::metrics_document;
use groups::{Buffers, FastPath};
use portsplice_auth::ReplayMemory;
use portsplice_bpf::Fastpath;
use portsplice_discovery::container::{Containers, Observer};
use portsplice_discovery::ports::Ports;
use portsplice_net::netns;
use portsplice_net::netns::Netns;
use portsplice_registry::publisher::Snapshot;
use portsplice_relay::pipe::PipePool;

/// The values of the labels of `portsplice_build_info`.
pub(super) const BUILD: [&str; 4] =
    [build_info::VERSION, build_info::COMMIT, build_info::BUILD_DATE, build_info::EBPF_SHA256];

/// Tells the kernel's programs and the table of ports which namespaces to look at.
pub(super) struct Watcher {
    pub(super) fastpath: Arc<Fastpath>,
    pub(super) ports: Arc<Ports>,
}

impl Observer for Watcher {
    fn added(&self, netns: &Arc<Netns>) {
        let has_events = netns.cookie().is_some_and(|cookie| self.fastpath.register(cookie));
        // Afterwards: what begins to listen from now on is told, and what listens already is looked for.
        self.ports.added(netns, has_events);
    }

    fn removed(&self, netns: &Netns) {
        self.ports.removed(netns);
        if let Some(cookie) = netns.cookie() {
            self.fastpath.unregister(cookie);
        }
    }
}

/// Adds what is read from the parts of a node when a scraper or a probe asks.
pub(super) fn register(
    metrics: &Metrics,
    readiness: &Readiness,
    containers: &Arc<Containers>,
    fastpath: &Arc<Fastpath>,
    ports: &Arc<Ports>,
) {
    let c = Arc::clone(containers);
    metrics.observe(&groups::CONTAINERS, move || Some(Arc::clone(&c)));
    let p = Arc::clone(ports);
    metrics.observe(&groups::PORTS, move || Some(p.counts()));
    let f = Arc::clone(fastpath);
    metrics.observe(&groups::KERNEL, move || Some(Arc::clone(&f)));
    if let Ok(flows) = fastpath.flows() {
        let f = Arc::clone(flows);
        metrics.observe(&groups::FAST_PATH, move || Some(FastPath { counts: f.counts(), flows: f.used().0 }));
    }
    let c = Arc::clone(containers);
    readiness.watch(move || {
        let failing = c.health().into_iter().filter_map(|(name, health)| Some((name.to_owned(), health.err()?)));
        failing.collect()
    });
    readiness.watch(|| {
        let has_events = |reason| ("sock_diag".to_owned(), format!("{reason}: listening ports are read from /proc"));
        netns::sock_diag_missing().map(has_events).into_iter().collect()
    });
}

/// Adds the size of the replay memory.
pub(super) fn replay(metrics: &Metrics, replay: &Arc<ReplayMemory>) {
    let r = Arc::clone(replay);
    metrics.observe(&groups::AUTH, move || Some(Arc::clone(&r)));
}

/// Adds what an edge keeps.
pub(super) fn edge(metrics: &Metrics, edge: &Arc<Edge>) {
    let e = Arc::downgrade(edge);
    metrics.observe(&groups::EDGE, move || e.upgrade());
}

/// Adds metrics and a probe of the reports to the registry. A registry that is away makes the node degraded and not
/// unready: connections do not need it, and what runs is reported when it is back.
pub(super) fn reports(
    metrics: &Metrics,
    readiness: &Readiness,
    status: impl Fn() -> Snapshot + Clone + Send + Sync + 'static,
) {
    let s = status.clone();
    metrics.observe(&groups::REPORTS, move || Some(s()));
    readiness.watch(move || status().problem.map(|problem| ("registry".to_owned(), problem)).into_iter().collect());
}

/// The relay's present pool of pipes; a reload may put another in its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipes(Arc<Mutex<Weak<PipePool>>>);

impl Pipes {
    /// Shows `pool` in the metrics, with what else the node's data path keeps.
    pub(super) fn new(metrics: &Metrics, node: &Arc<Node>, pool: &Arc<PipePool>) -> Self {
        let this = Self::default();
        this.set(pool);
        let (pipes, node) = (this.clone(), Arc::downgrade(node));
        metrics.observe(&groups::BUFFERS, move || {
            let node = node.upgrade()?;
            let pool = pipes.0.lock().upgrade();
            Some(Buffers {
                tail_bytes: node.tail_bytes(),
                unfinished_heads: node.unfinished_head_bytes(),
                pipes: pool.map(|pool| pool.open()),
            })
        });
        this
    }

    /// Shows another pool from now on.
    pub(super) fn set(&self, pool: &Arc<PipePool>) {
        *self.0.lock() = Arc::downgrade(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::unknown;

    #[test]
    fn a_registry_with_a_problem_makes_the_node_degraded_and_not_unready() {
        let (metrics, readiness) = (Metrics::new([""; 4]), Readiness::new());
        let problem = Arc::new(Mutex::new(Some("away".to_owned())));
        let p = Arc::clone(&problem);
        reports(&metrics, &readiness, move || Snapshot { failed: 3, problem: p.lock().clone(), ..Snapshot::default() });
        let report = readiness.report();
        assert!(report.ready, "{report}");
        assert_eq!(report.degraded, [("registry".to_owned(), "away".to_owned())]);
        let text = metrics.render();
        assert!(text.contains("\nportsplice_registry_up 0.0\n"), "{text}");
        assert!(text.contains("\nportsplice_registry_reports_total{result=\"failed\"} 3.0\n"), "{text}");
        assert_eq!(unknown(&groups::sections(), &text), Vec::<&str>::new());
        *problem.lock() = None;
        assert!(readiness.report().degraded.is_empty());
        assert!(metrics.render().contains("\nportsplice_registry_up 1.0\n"));
    }
}
