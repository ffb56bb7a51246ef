//! `stats`: put together from what the parts count anyway.

use crate::build_info;
use crate::control::Control;
use crate::metrics::Path;
use portsplice_bpf::Fastpath;
use portsplice_control::api::{Bytes, FastPath, Source, Stats};
use portsplice_model::Direction;

impl Control {
    pub(super) fn stats(&self) -> Stats {
        let parts = &self.parts;
        let report = parts.readiness.report();
        let bytes = |path: Path| Bytes {
            path: path.label().to_owned(),
            up: parts.metrics.relayed(Direction::Up, path),
            down: parts.metrics.relayed(Direction::Down, path),
        };
        let sources = parts.containers.health().into_iter();
        Stats {
            version: build_info::VERSION.to_owned(),
            pid: std::process::id(),
            since: self.started.into(),
            ready: report.ready,
            waiting: report.waiting.into_iter().map(|(what, reason)| format!("{what}: {reason}")).collect(),
            containers: parts.containers.list().len() as u64,
            connections: parts.connections.list().len() as u64,
            requests: parts.metrics.requests(),
            bytes: Path::ALL.iter().map(|&path| bytes(path)).collect(),
            fast: fast(&parts.fastpath),
            sources: sources.map(|(name, health)| Source { name: name.to_owned(), error: health.err() }).collect(),
        }
    }
}

fn fast(fastpath: &Fastpath) -> FastPath {
    match fastpath.flows() {
        Ok(flows) => {
            let (used, capacity) = flows.used();
            let counts = flows.counts();
            FastPath {
                unavailable: None,
                flows: u64::from(used),
                capacity: u64::from(capacity),
                attached: counts.attached,
                bytes: counts.fast_bytes,
            }
        }
        Err(reason) => FastPath { unavailable: Some(reason.to_string()), flows: 0, capacity: 0, attached: 0, bytes: 0 },
    }
}
