//! What credentials are checked with, as the configuration names it.

use std::io;

use anyhow::{Error, Result, anyhow};

use crate::config::{AuthConfig, SecretsConfig};
use portsplice_auth::used_file::{Known, UsedFile};
use portsplice_auth::{KeySources, Keyring, ReplayMemory};
use portsplice_model::unix_time;

/// The keys that the configuration names.
pub(super) fn keyring(secrets: &SecretsConfig) -> Result<Keyring> {
    let sources = KeySources {
        root_file: secrets.root_file.clone(),
        keys_dir: secrets.keys_dir.clone(),
        credentials_directory: secrets.credentials_directory.clone(),
    };
    Keyring::load(&sources).map_err(|error| {
        let error = Error::new(error);
        let denied = error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
        });
        // Root has given up the capability that would let it read everybody's files.
        if denied { anyhow!("{error:#}; give it to the user that the node runs as (chown)") } else { error }
    })
}

/// The memory of credentials that were used, with what is still known of the daemon before this one. What could have been
/// used and is not known is refused.
pub(super) fn replay_memory(auth: &AuthConfig) -> ReplayMemory {
    let now = unix_time().as_secs();
    let opened =
        auth.used_file.as_deref().map(|path| (path, UsedFile::open(path, auth.window, auth.replay_entries, now)));
    let entries = auth.replay_entries;
    let (memory, since) = match opened {
        Some((path, Ok((file, known)))) => {
            let key = file.key();
            let (used, since) = match known {
                Known::All(used) => (used, 0),
                Known::Nothing => (Vec::new(), now),
                Known::Lost(why) => {
                    tracing::warn!(
                        "cannot use the record of used credentials in {} (`auth.used-file`): {why}; starting a new one, and credentials that were signed before this start are refused on plain TCP",
                        path.display()
                    );
                    (Vec::new(), now + 1)
                }
            };
            (ReplayMemory::kept(entries, key, Box::new(file), &used), since)
        }
        unknown => {
            if let Some((path, Err(error))) = unknown {
                tracing::warn!(
                    "cannot record used credentials in {} (`auth.used-file`): {error}; after each start, those that were signed before are refused on plain TCP. Name another place, or make the directory writable for the daemon",
                    path.display()
                );
            }
            // The daemon before this one may have ended in this very second.
            (ReplayMemory::new(entries), now + 1)
        }
    };
    memory.refuse_before(since);
    if auth.only_since_start {
        memory.refuse_before(now + 1);
    }
    memory
}
