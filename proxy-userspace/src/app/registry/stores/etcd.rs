//! The store in etcd.

use std::sync::Arc;

use anyhow::Result;

use crate::app::registry::records::Identity;
use crate::config::RegistryConfig;
use portsplice_registry::SharedReporter;
use portsplice_registry::etcd::{Access, EtcdRegistry, NodeIdentity};

/// The store, for the node of this identity.
pub(super) fn open(config: &RegistryConfig, identity: &Identity) -> Result<SharedReporter> {
    let Identity { node, address } = identity.clone();
    let node = NodeIdentity { name: node, address, ttl: config.ttl };
    Ok(Arc::new(EtcdRegistry::new(access(config), &config.prefix, Some(node))?))
}

/// Reads the files that the configuration names.
pub(super) fn check(config: &RegistryConfig) -> Result<()> {
    Ok(access(config).check()?)
}

fn access(config: &RegistryConfig) -> Access {
    Access {
        endpoints: config.url.clone(),
        ca_file: config.ca_file.clone(),
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        token_file: config.token_file.clone(),
    }
}
