//! The node's reports to the cluster's registry: which store, under which name and address.

mod accepted;
mod records;
mod stores;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;

use super::host::hostname;
use super::observe;
use crate::config::{Config, RegistryStore};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use portsplice_auth::Keyring;
use portsplice_discovery::container::Containers;
use portsplice_discovery::events::Events;
use portsplice_discovery::ports::Ports;
use portsplice_files::regular_file;
use portsplice_model::ContainerName;
use portsplice_net::tls;
use portsplice_registry::publisher::{PublisherSettings, Publishing};
use records::{Identity, NodeRecords};

/// How long the registry is waited for when the node ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the reports are made of.
pub(super) struct Sources<'a> {
    pub(super) containers: &'a Arc<Containers>,
    pub(super) ports: &'a Arc<Ports>,
    pub(super) events: &'a Events,
    /// Signs reports to an edge.
    pub(super) keyring: &'a Arc<ArcSwap<Keyring>>,
}

/// The reports; none without a store.
#[derive(Debug, Default)]
pub(super) struct Reports(Option<Publishing>);

impl Reports {
    /// Opens the store that `config` names and begins to report. `listening` is the address of the first listener.
    ///
    /// # Errors
    /// Where the configuration cannot be used. A store that is away is no error.
    pub(super) fn start(
        config: &Config,
        listening: Option<SocketAddr>,
        sources: &Sources<'_>,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> Result<Self> {
        if config.registry.store == RegistryStore::None {
            return Ok(Self::default());
        }
        let identity = identity(config, listening)?;
        tracing::info!(store = ?config.registry.store, node = identity.node, address = identity.address, "reports to the registry");
        let registry = stores::open(&config.registry, &identity, sources.keyring)?;
        let settings = PublisherSettings { node: identity.node.clone(), debounce: config.registry.debounce };
        let Sources { containers, ports, events, .. } = *sources;
        let records = NodeRecords::new(
            identity,
            Arc::clone(containers),
            Arc::clone(ports),
            config.registry.accepted_file.clone(),
        );
        let first = records.first();
        let publishing = Publishing::start(settings, registry, records, events.state(), first);
        let status = Arc::clone(publishing.status());
        observe::reports(metrics, readiness, move || status.snapshot());
        Ok(Self(Some(publishing)))
    }

    /// Takes the node's records away while its connections finish; a bounded time.
    pub(super) async fn end(&mut self) {
        if let Some(publishing) = self.0.take() {
            publishing.finish(SHUTDOWN_TIMEOUT).await;
        }
    }
}

/// Reads the files that the configuration of the registry names.
///
/// # Errors
/// What the node would not start with.
pub(super) fn check(config: &Config) -> Result<()> {
    let registry = &config.registry;
    if registry.store == RegistryStore::None {
        return Ok(());
    }
    if let Some(path) = &registry.ca_file {
        tls::certificates(path).context("`registry.ca-file`")?;
    }
    for (key, path) in [
        ("registry.certificate", &registry.certificate),
        ("registry.key", &registry.key),
        ("registry.token-file", &registry.token_file),
    ] {
        if let Some(path) = path {
            regular_file::open(path).with_context(|| format!("`{key}` is {}", path.display()))?;
        }
    }
    stores::check(registry)?;
    node_name(&config.node.name).map(drop)
}

fn identity(config: &Config, listening: Option<SocketAddr>) -> Result<Identity> {
    let node = node_name(&config.node.name)?;
    let address = match (&*config.node.address, listening) {
        ("", Some(listening)) => reachable(listening),
        ("", None) => bail!("no listener has an address that tells where this node can be reached; set `node.address`"),
        (address, _) => address.to_owned(),
    };
    Ok(Identity { node, address })
}

/// The address under which others reach a listener. One on all addresses is reached by the host's name.
fn reachable(listening: SocketAddr) -> String {
    if listening.ip().is_unspecified() { format!("{}:{}", hostname(), listening.port()) } else { listening.to_string() }
}

/// The configured name, or the host's.
fn node_name(configured: &str) -> Result<String> {
    let name = if configured.is_empty() { hostname() } else { configured.to_owned() };
    ensure!(
        ContainerName::parse(&name).is_some(),
        "the host's name is {name:?}, which cannot be the node's in the registry; set `node.name`"
    );
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_name() {
        let host = hostname();
        assert_eq!(reachable("0.0.0.0:7450".parse().unwrap()), format!("{host}:7450"));
        assert_eq!(reachable("[::]:1".parse().unwrap()), format!("{host}:1"));
        assert_eq!(reachable("192.0.2.1:7450".parse().unwrap()), "192.0.2.1:7450");
        assert_eq!(node_name("n1").unwrap(), "n1");
    }
}
