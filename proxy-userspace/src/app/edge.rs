//! The parts of an edge.

use std::io;
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::BoxFuture;
use tokio::runtime;
use tokio_util::task::AbortOnDropHandle;

use super::daemon::{Role, Starting};
use super::listeners::Serve;
use super::{observe, store_error};
use crate::config;
use crate::config::edge::EdgeConfig;
use crate::descriptors::{Cost, Descriptors, threads};
use crate::edge::{Edge, EdgeLimits, EdgeSettings};
use crate::privileges::{self, Privileges};
use portsplice_net::drain::DrainWatch;
use portsplice_net::listen::Listener;
use portsplice_registry::embedded::Embedded;

/// The daemon `portsplice edge`.
pub(crate) struct EdgeRole {
    edge: Arc<Edge>,
    /// Removes records of silent nodes.
    _expiry: AbortOnDropHandle<()>,
}

impl Serve for EdgeRole {
    fn serve(&self, listener: Listener, drain: DrainWatch) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(Arc::clone(&self.edge).serve(listener, drain))
    }
}

impl Role for EdgeRole {
    type Settings = config::edge::Edge;
    type Prepared = ();

    fn check(config: &EdgeConfig) -> Result<()> {
        if config.store.path.exists() {
            Embedded::check(&config.store.path).map_err(store_error)?;
        }
        Ok(())
    }

    fn prepare(_: &EdgeConfig) -> Result<((), Privileges)> {
        let privileges = privileges::reduce_to_network()?;
        // An edge on ports above 1023 needs none.
        Ok(((), Privileges { missing: Vec::new(), ..privileges }))
    }

    fn runtime() -> runtime::Builder {
        runtime::Builder::new_multi_thread()
    }

    fn descriptors(_: &Self::Settings, open_files: Option<u64>) -> Descriptors {
        Descriptors::new(open_files, threads(0), Cost::Served)
    }

    async fn start((): (), starting: &Starting<'_, Self::Settings>) -> Result<Self> {
        let Starting { config, descriptors, metrics, .. } = starting;
        let store = Embedded::open(&config.store.path, "").map_err(store_error)?;
        let edge = Edge::new(settings(config, descriptors), store, Arc::clone(metrics)).await.map_err(store_error)?;
        observe::edge(metrics, &edge);
        let expiring = Arc::clone(&edge);
        let expiry = AbortOnDropHandle::new(tokio::spawn(async move { expiring.expire().await }));
        Ok(Self { edge, _expiry: expiry })
    }

    fn reload(&mut self, _: &Self::Settings, new: &Self::Settings, descriptors: &Descriptors) {
        self.edge.reload(settings(new, descriptors));
    }

    fn connections(&self) -> usize {
        self.edge.connections()
    }
}

fn settings(config: &config::edge::Edge, descriptors: &Descriptors) -> EdgeSettings {
    let clients = &config.clients;
    EdgeSettings {
        limits: EdgeLimits {
            body_timeout: config.limits.body_timeout,
            handshake_timeout: clients.handshake_timeout,
            keep_alive_timeout: clients.keep_alive_timeout,
            connections: descriptors.share(clients.connections).connections,
            connections_per_client: clients.connections_per_client,
        },
        ttl: (config.records.ttl_min, config.records.ttl_max),
    }
}
