//! Joins the table of listening ports with what fills it.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::PortsConfig;
use crate::events::Events;
use crate::fastpath::Fastpath;
use crate::metrics::{Kind, Metrics, Sample};
use crate::ports::{self, Counts, Ports};

/// Starts the table, and the task that reads the kernel's news for it.
pub(super) fn start(config: &PortsConfig, events: &Events, fastpath: &Arc<Fastpath>) -> Result<Arc<Ports>> {
    let ports = Ports::start(events.clone(), config.rescan).context("cannot start the thread that looks for ports")?;
    match fastpath.listen_events() {
        Some(news) => {
            tokio::spawn(ports::follow(news, Arc::clone(fastpath), Arc::clone(&ports)));
        }
        None => {
            tracing::info!(
                "listening ports are looked for every second, or less often where there are many containers"
            );
            ports.deaf();
        }
    }
    Ok(ports)
}

/// Shows it in the metrics.
pub(super) fn register(metrics: &Metrics, ports: &Arc<Ports>) {
    let show = |name, help, kind, read: fn(&Counts) -> f64| {
        let ports = Arc::clone(ports);
        metrics.observe(name, help, kind, move || vec![Sample::plain(read(&ports.counts()))]);
    };
    let help = "Ports that something listens on in containers' namespaces";
    show("ports_listening", help, Kind::Gauge, |c| c.listening as f64);
    let help = "Times that the kernel told of a socket that begins or ceases to listen";
    show("ports_events", help, Kind::Counter, |c| c.heard as f64);
    let help = "Times that it could not, so that the namespace was looked at";
    show("ports_events_lost", help, Kind::Counter, |c| c.lost as f64);
    show("ports_dumps", "Looks at a namespace", Kind::Counter, |c| c.dumps as f64);
}
