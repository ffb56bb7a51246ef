//! Opens the store that the configuration names.

#[cfg(feature = "arvados")]
mod arvados;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(not(all(feature = "arvados", feature = "etcd")))]
mod missing;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
#[cfg(not(feature = "arvados"))]
use missing::arvados;
#[cfg(not(feature = "etcd"))]
use missing::etcd;
use portsplice_auth::Keyring;

use super::records::Identity;
use crate::app::store_error;
use crate::config::{RegistryConfig, RegistryStore};
use portsplice_registry::SharedReporter;
use portsplice_registry::embedded::Embedded;
use portsplice_registry::remote::{Remote, RemoteSettings};

/// The store, for the node of this identity.
pub(super) fn open(
    config: &RegistryConfig,
    identity: &Identity,
    keyring: &Arc<ArcSwap<Keyring>>,
) -> Result<SharedReporter> {
    match config.store {
        RegistryStore::None => bail!("`registry.store` names no store"),
        RegistryStore::Embedded => Ok(Arc::new(Embedded::open(&config.path, &identity.node).map_err(store_error)?)),
        RegistryStore::Edge => {
            let url = config.url.first().context("`registry.url` is empty; write the edge's")?.clone();
            let node = identity.node.clone();
            let settings = RemoteSettings { url, ca_file: config.ca_file.clone(), node, ttl: config.ttl };
            Ok(Arc::new(Remote::start(settings, Arc::clone(keyring))?))
        }
        RegistryStore::Etcd => etcd::open(config, identity),
        RegistryStore::Arvados => arvados::open(config, identity),
    }
}

/// Reads the files of the store, as [`open`] would, and changes none: a daemon may run on them.
///
/// # Errors
/// What the node would not start with.
pub(super) fn check(config: &RegistryConfig) -> Result<()> {
    match config.store {
        RegistryStore::None | RegistryStore::Edge => Ok(()),
        RegistryStore::Embedded if config.path.exists() => Embedded::check(&config.path).map_err(store_error),
        RegistryStore::Embedded => Ok(()),
        RegistryStore::Etcd => etcd::check(config),
        RegistryStore::Arvados => arvados::check(config),
    }
}
