//! What credentials are checked with, as the configuration names it.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};

use crate::auth::{KeySources, Keyring, ReplayMemory};
use crate::config::{AuthConfig, SecretsConfig};

/// The keys that the configuration names.
pub(super) fn keyring(secrets: &SecretsConfig) -> Result<Keyring> {
    let sources = KeySources {
        root_file: secrets.root_file.clone(),
        keys_dir: secrets.keys_dir.clone(),
        credentials_directory: secrets.credentials_directory.clone(),
    };
    Keyring::load(&sources).map_err(|error| {
        let denied = error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
        });
        // Root has given up the capability that would let it read everybody's files.
        if denied { anyhow!("{error:#}; give it to the user that the node runs as (chown)") } else { error }
    })
}

/// The memory of credentials that were used.
pub(super) fn replay_memory(auth: &AuthConfig) -> ReplayMemory {
    let memory = ReplayMemory::new(auth.replay_entries);
    if auth.only_since_start {
        memory.accept_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    }
    memory
}
