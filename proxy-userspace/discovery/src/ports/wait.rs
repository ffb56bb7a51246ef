//! Waiting for a port to listen.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use super::{ListeningPort, Ports};
use portsplice_net::netns::NetnsId;

/// What happens in one namespace from the moment on at which this was made.
#[derive(Debug)]
pub struct PortWatch {
    ports: Option<watch::Receiver<Arc<[ListeningPort]>>>,
    seen: Arc<[ListeningPort]>,
}

impl Ports {
    /// The events of a namespace from now on.
    pub fn watch(&self, netns: NetnsId) -> PortWatch {
        let ports = self.namespace(netns).map(|namespace| namespace.ports.subscribe());
        let seen = ports.as_ref().map(|ports| ports.borrow().clone()).unwrap_or_default();
        PortWatch { ports, seen }
    }
}

impl PortWatch {
    /// Returns when something has started to listen on `port` since this was made, or since this returned last. That it
    /// listened before is no change, and neither is what becomes of other ports. Never returns in a namespace that is
    /// not known, or not any more. May be cancelled.
    pub async fn opened(&mut self, port: u16) {
        let Some(ports) = &mut self.ports else { return pending().await };
        loop {
            if ports.changed().await.is_err() {
                return pending().await;
            }
            let now = ports.borrow_and_update().clone();
            let began = |p: &&ListeningPort| p.port == port && !self.seen.iter().any(|s| is_same(s, p));
            let opened = now.iter().find(began).is_some();
            self.seen = now;
            if opened {
                return;
            }
        }
    }
}

/// Whether it has listened all the time.
fn is_same(before: &ListeningPort, now: &ListeningPort) -> bool {
    (before.port, before.address, before.since) == (now.port, now.address, now.since)
}
