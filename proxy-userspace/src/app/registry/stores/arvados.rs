//! The store in Arvados.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::app::registry::records::Identity;
use crate::config::RegistryConfig;
use portsplice_registry::SharedReporter;
use portsplice_registry::arvados::{Access, ArvadosRegistry};

/// The store, for the node of this identity.
pub(super) fn open(config: &RegistryConfig, identity: &Identity) -> Result<SharedReporter> {
    Ok(Arc::new(ArvadosRegistry::new(&access(config)?, Some(identity.address.clone()))?))
}

/// Reads the files that the configuration names.
pub(super) fn check(config: &RegistryConfig) -> Result<()> {
    ArvadosRegistry::new(&access(config)?, None)?;
    Ok(())
}

fn access(config: &RegistryConfig) -> Result<Access> {
    Ok(Access {
        url: config.url.first().context("`registry.url` is empty; write the API's")?.clone(),
        ca_file: config.ca_file.clone(),
        token_file: config.token_file.clone().context("`registry.token-file` is empty; Arvados asks for a token")?,
    })
}
