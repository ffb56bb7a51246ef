//! Opens the store that the configuration names.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;

use super::records::Identity;
use crate::config::{RegistryConfig, RegistryStore};
use crate::registry::SharedReporter;
use crate::registry::arvados::{self, ArvadosRegistry};
use crate::registry::embedded::Embedded;
use crate::registry::etcd::{self, EtcdRegistry, NodeIdentity};
use crate::registry::remote::{Remote, RemoteSettings};
use portsplice_auth::Keyring;

/// The store, for the node of this identity.
pub(super) fn open(
    config: &RegistryConfig,
    identity: &Identity,
    keyring: &Arc<ArcSwap<Keyring>>,
) -> Result<SharedReporter> {
    let Identity { node, address } = identity.clone();
    Ok(match config.store {
        RegistryStore::None => bail!("`registry.store` names no store"),
        RegistryStore::Embedded => Arc::new(Embedded::open(&config.path, &node)?),
        RegistryStore::Edge => {
            let url = config.url.first().context("`registry.url` is empty; write the edge's")?.clone();
            let settings = RemoteSettings { url, ca_file: config.ca_file.clone(), node, ttl: config.ttl };
            Arc::new(Remote::start(settings, Arc::clone(keyring))?)
        }
        RegistryStore::Etcd => {
            let node = NodeIdentity { name: node, address, ttl: config.ttl };
            Arc::new(EtcdRegistry::new(etcd(config), &config.prefix, Some(node))?)
        }
        RegistryStore::Arvados => Arc::new(ArvadosRegistry::new(&arvados(config)?, Some(address))?),
    })
}

/// Reads the files of the store, as [`open`] would, and changes none: a daemon may run on them.
///
/// # Errors
/// What the node would not start with.
pub(super) fn check(config: &RegistryConfig) -> Result<()> {
    match config.store {
        RegistryStore::None | RegistryStore::Edge => Ok(()),
        RegistryStore::Embedded if config.path.exists() => Ok(Embedded::check(&config.path)?),
        RegistryStore::Embedded => Ok(()),
        RegistryStore::Etcd => etcd(config).check(),
        RegistryStore::Arvados => ArvadosRegistry::new(&arvados(config)?, None).map(drop),
    }
}

fn etcd(config: &RegistryConfig) -> etcd::Access {
    etcd::Access {
        endpoints: config.url.clone(),
        ca_file: config.ca_file.clone(),
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        token_file: config.token_file.clone(),
    }
}

fn arvados(config: &RegistryConfig) -> Result<arvados::Access> {
    Ok(arvados::Access {
        url: config.url.first().context("`registry.url` is empty; write the API's")?.clone(),
        ca_file: config.ca_file.clone(),
        token_file: config.token_file.clone().context("`registry.token-file` is empty; Arvados asks for a token")?,
    })
}
