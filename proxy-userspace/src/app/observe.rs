//! Metrics of parts that do not count for themselves, and what the kernel's programs are told of containers.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::build_info;
use crate::container::{Containers, Observer};
use crate::fastpath::{Counters, Counts, Fastpath, Passed};
use crate::metrics::{Kind, Metrics, Sample};
use crate::netns::{self, Netns};
use crate::ports::Ports;
use crate::readiness::Readiness;
use crate::registry::publisher::Snapshot;
use crate::relay::pipe::PipePool;
use portsplice_auth::ReplayMemory;

/// The labels of `portsplice_build_info`.
pub(super) fn build_labels() -> Vec<(&'static str, String)> {
    vec![
        ("version", build_info::VERSION.to_owned()),
        ("commit", build_info::COMMIT.to_owned()),
        ("build_date", build_info::BUILD_DATE.to_owned()),
        ("ebpf_sha256", build_info::EBPF_SHA256.to_owned()),
    ]
}

/// Tells the kernel's programs and the table of ports which namespaces to look at.
pub(super) struct Watcher {
    pub(super) fastpath: Arc<Fastpath>,
    pub(super) ports: Arc<Ports>,
}

impl Observer for Watcher {
    fn added(&self, netns: &Arc<Netns>) {
        let told = netns.cookie().is_some_and(|cookie| self.fastpath.register(cookie));
        // Afterwards: what begins to listen from now on is told, and what listens already is looked for.
        self.ports.added(netns, told);
    }

    fn removed(&self, netns: &Netns) {
        self.ports.removed(netns);
        if let Some(cookie) = netns.cookie() {
            self.fastpath.unregister(cookie);
        }
    }
}

/// Adds what is read from the parts when a scraper or a probe asks.
pub(super) fn register(
    metrics: &Metrics,
    readiness: &Readiness,
    containers: &Arc<Containers>,
    fastpath: &Arc<Fastpath>,
) {
    let c = Arc::clone(containers);
    metrics.observe("containers", "Running containers that are known", Kind::Gauge, move || {
        vec![Sample::plain(c.list().len() as f64)]
    });
    let c = Arc::clone(containers);
    let help = "Whether a source of containers works: 1, or 0 while it is away and its containers are those last known";
    metrics.observe("container_source_up", help, Kind::Gauge, move || {
        let up = |health: Result<(), String>| f64::from(u8::from(health.is_ok()));
        c.health().into_iter().map(|(name, h)| Sample::labelled([("source", name.to_owned())], up(h))).collect()
    });
    let c = Arc::clone(containers);
    readiness.watch(move || {
        let failing = c.health().into_iter().filter_map(|(name, health)| Some((name.to_owned(), health.err()?)));
        failing.collect()
    });
    readiness.watch(|| {
        let told =
            |reason| ("sock_diag".to_owned(), format!("{reason}: what listens in containers is read from /proc"));
        netns::sock_diag_missing().map(told).into_iter().collect()
    });
    kernel(metrics, fastpath);
    fast(metrics, fastpath);
}

/// Adds the size of the replay memory.
pub(super) fn replay(metrics: &Metrics, replay: &Arc<ReplayMemory>) {
    let r = Arc::clone(replay);
    metrics.observe("replay_entries", "Nonces that are remembered against replay", Kind::Gauge, move || {
        vec![Sample::plain(r.len() as f64)]
    });
}

/// Adds metrics and a probe of the reports to the registry. A registry that is away makes the node degraded and not
/// unready: connections do not need it, and what runs is reported when it is back.
pub(super) fn reports(
    metrics: &Metrics,
    readiness: &Readiness,
    status: impl Fn() -> Snapshot + Clone + Send + Sync + 'static,
) {
    let s = status.clone();
    metrics.observe("registry_pending", "Changes that the registry was not told yet", Kind::Gauge, move || {
        vec![Sample::plain(s().pending as f64)]
    });
    let s = status.clone();
    metrics.observe("registry_reports", "Reports to the registry, by result", Kind::Counter, move || {
        let status = s();
        let results = [("succeeded", status.succeeded), ("failed", status.failed), ("refused", status.refused)];
        results.map(|(result, n)| Sample::labelled([("result", result.to_owned())], n as f64)).into()
    });
    let s = status.clone();
    let help = "When the registry last held all that runs here, in seconds since 1970; 0 is never";
    metrics.observe("registry_last_success_timestamp_seconds", help, Kind::Gauge, move || {
        vec![Sample::plain(s().last_success as f64)]
    });
    let s = status.clone();
    let help = "Whether the registry was reached the last time, and took all";
    metrics.observe("registry_up", help, Kind::Gauge, move || {
        vec![Sample::plain(f64::from(u8::from(s().problem.is_none())))]
    });
    readiness.watch(move || status().problem.map(|problem| ("registry".to_owned(), problem)).into_iter().collect());
}

fn kernel(metrics: &Metrics, fastpath: &Arc<Fastpath>) {
    let f = Arc::clone(fastpath);
    metrics.observe("bpf_up", "Whether the kernel programs are loaded and attached", Kind::Gauge, move || {
        let reason = f.unavailable().map(ToString::to_string).unwrap_or_default();
        vec![Sample::labelled([("reason", reason)], f64::from(u8::from(f.kernel().is_some())))]
    });
    let f = Arc::clone(fastpath);
    let help = "Socket events in containers' namespaces, as the kernel program saw them";
    metrics.observe("bpf_socket_events", help, Kind::Counter, move || {
        f.counters().map(|counters| events(&counters)).unwrap_or_default()
    });
}

/// The counts of the fast path, where there is one.
fn fast(metrics: &Metrics, fastpath: &Arc<Fastpath>) {
    let up = fastpath.flows().err().map(ToString::to_string).unwrap_or_default();
    metrics.observe("fast_up", "Whether the kernel carries responses past the daemon", Kind::Gauge, move || {
        vec![Sample::labelled([("reason", up.clone())], f64::from(u8::from(up.is_empty())))]
    });
    let Ok(flows) = fastpath.flows() else { return };
    let f = Arc::clone(flows);
    let counter = |name, help, read: fn(&Counts) -> Vec<Sample>| {
        let f = Arc::clone(&f);
        metrics.observe(name, help, Kind::Counter, move || read(&f.counts()));
    };
    counter("fast_bytes", "Bytes that the kernel carried past the daemon", |c| {
        vec![Sample::plain(c.fast_bytes as f64)]
    });
    counter("fast_messages", "Messages that the kernel carried past the daemon", |c| {
        vec![Sample::plain(c.fast_messages as f64)]
    });
    counter("fast_armed", "Responses that took the fast path", |c| vec![Sample::plain(c.armed as f64)]);
    counter("fast_refused", "Attempts to put a response on the fast path that were in vain, by reason", |c| {
        let sample = |&(reason, n): &(&str, u64)| Sample::labelled([("reason", reason.to_owned())], n as f64);
        c.refused.iter().map(sample).collect()
    });
    counter("fast_passed", "Messages on the fast path that had to pass the daemon, by reason", |c| {
        let sample = |(reason, &n): (Passed, &u64)| {
            Sample::labelled([("reason", format!("{reason:?}").to_lowercase())], n as f64)
        };
        Passed::ALL.into_iter().zip(&c.passed).map(sample).collect()
    });
    counter("fast_returned", "Times that a response came back to the fast path after messages had passed", |c| {
        vec![Sample::plain(c.returned as f64)]
    });
    metrics.observe("fast_flows", "Responses on the fast path now", Kind::Gauge, move || {
        vec![Sample::plain(f64::from(f.used().0))]
    });
}

fn events(counters: &Counters) -> Vec<Sample> {
    let events = [
        ("listen_opened", counters.listen_opened),
        ("listen_closed", counters.listen_closed),
        ("established_active", counters.established_active),
        ("established_passive", counters.established_passive),
        ("closed", counters.closed),
    ];
    events.map(|(event, n)| Sample::labelled([("event", event.to_owned())], n as f64)).into()
}

/// The relay's present pool of pipes; a reload may put another in its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipes(Arc<Mutex<Weak<PipePool>>>);

impl Pipes {
    /// Shows `pool` in the metrics.
    pub(super) fn new(metrics: &Metrics, pool: &Arc<PipePool>) -> Self {
        let this = Self::default();
        this.set(pool);
        let pipes = this.clone();
        metrics.observe("pipes_open", "Pipes of the relay, used and unused", Kind::Gauge, move || {
            let pool = pipes.0.lock().upgrade();
            pool.map(|pool| Sample::plain(pool.open() as f64)).into_iter().collect()
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

    #[test]
    fn a_registry_with_a_problem_makes_the_node_degraded_and_not_unready() {
        let (metrics, readiness) = (Metrics::new(Vec::new()), Readiness::new());
        let problem = Arc::new(Mutex::new(Some("away".to_owned())));
        let p = Arc::clone(&problem);
        reports(&metrics, &readiness, move || Snapshot { failed: 3, problem: p.lock().clone(), ..Snapshot::default() });
        let report = readiness.report();
        assert!(report.ready, "{report}");
        assert_eq!(report.degraded, [("registry".to_owned(), "away".to_owned())]);
        let text = metrics.render();
        assert!(text.contains("\nportsplice_registry_up 0.0\n"), "{text}");
        assert!(text.contains("\nportsplice_registry_reports_total{result=\"failed\"} 3.0\n"), "{text}");
        *problem.lock() = None;
        assert!(readiness.report().degraded.is_empty());
        assert!(metrics.render().contains("\nportsplice_registry_up 1.0\n"));
    }
}
