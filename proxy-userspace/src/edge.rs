//! The front of a cluster. So far it is where nodes report what they run: it owns the store and serves the record API.
//!
//! - [`Edge::serve`] (`accept`): connections, TLS handshakes, one HTTP/1.1 conversation each.
//! - `records`: the record API: a request is authenticated by its head, then its body is read and done.
//! - `permits`: how many requests one key holder or one address may have under way.
//! - `leases`: which records outlive which node's silence, and for how long.
//!
//! Requests of users for host names will be served beside the record API; they need none of `records`.

mod accept;
mod leases;
mod records;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use leases::Leases;
use portsplice_net::limits::ConnectionLimits;
use portsplice_registry::StoreError;
use portsplice_registry::embedded::Embedded;
use slots::RequestLimits;

/// Large bodies that are read at once: such may have a mebibyte, and others wait. No address has more than a part of these
/// places (see `permits`).
const LARGE_BODIES: usize = 64;

/// Bounds on what a client may use. Zero timeouts and zero caps are off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeLimits {
    /// For a request's body.
    pub body_timeout: Duration,
    /// For a TLS handshake.
    pub handshake_timeout: Duration,
    /// Between two requests of a connection, the head of the second included.
    pub keep_alive_timeout: Duration,
    /// Most connections in all; 0 is no limit.
    pub connections: u32,
    /// Most connections of one client address; 0 is no limit.
    pub connections_per_client: u32,
}

/// What a reload may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// Bounds on connections.
    pub limits: EdgeLimits,
    /// The shortest and the longest time that a record may outlive its node.
    pub ttl: (Duration, Duration),
}

/// An edge.
#[derive(Debug)]
pub struct Edge {
    settings: ArcSwap<EdgeSettings>,
    leases: Leases,
    metrics: Arc<Metrics>,
    connections: ConnectionLimits,
    requests: RequestLimits,
    large_bodies: Semaphore,
}

impl Edge {
    /// Takes over what the store holds: each leased record has its time from now on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn new(settings: EdgeSettings, store: Embedded, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            leases: Leases::resume(store).await?,
            metrics,
            connections: ConnectionLimits::default(),
            requests: RequestLimits::default(),
            large_bodies: Semaphore::new(LARGE_BODIES),
        }))
    }

    /// Puts other settings in force.
    pub fn reload(&self, settings: EdgeSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Removes records whose nodes are silent, for as long as the future is polled.
    pub async fn expire(&self) {
        self.leases.expire().await;
    }

    /// How many records nodes have reported.
    pub fn records(&self) -> usize {
        self.leases.len()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }
}
