//! Which keys this node holds, and where it reads them from.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::RwLock;
use portsplice_files::regular_file;
use portsplice_model::ContainerName;
use zeroize::Zeroizing;

use super::key::{ContainerKey, RootKey};

/// Where the secrets are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySources {
    /// The file with the cluster's root secret.
    pub root_file: Option<PathBuf>,
    /// A directory with one file per container, named by its UUID, that holds the container's key.
    pub keys_dir: Option<PathBuf>,
    /// The directory in which systemd puts credentials (`$CREDENTIALS_DIRECTORY`); `portsplice.root` there is the root
    /// secret where `root_file` is not given.
    pub credentials_directory: Option<PathBuf>,
}

/// Name of the systemd credential with the root secret.
const ROOT_CREDENTIAL: &str = "portsplice.root";
/// What the name of a node's own key begins with; no container's does. It signs what a node says of itself to an edge.
pub const NODE: char = '@';
/// How many keys derived from the root secret are kept ready.
const DERIVED_KEYS: usize = 4096;
/// Largest file that can be a secret.
const MAX_SECRET: u64 = 64 * 1024;

/// Why the secrets cannot be had. The texts say what to do and hold no secret; what the system said is the source.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// [`KeySources`] names no place.
    #[error(
        "no secret is configured: give secrets.root-file or secrets.keys-dir, or the systemd credential {}",
        ROOT_CREDENTIAL
    )]
    NotConfigured,
    /// The directory with the containers' keys cannot be listed.
    #[error("cannot read the keys directory {}", .path.display())]
    KeysDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file among the keys whose name is neither a container's nor a node's.
    #[error(
        "{} is not named after a container: rename it to the container's UUID (or to {}NAME for a node's key), or remove it",
        .path.display(),
        NODE
    )]
    KeyName {
        /// The file.
        path: PathBuf,
    },
    /// A file among the keys that holds something else.
    #[error("{} does not contain a key: expected 64 lower-case hexadecimal digits and nothing else", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A file with a secret cannot be read.
    #[error("cannot {doing} the secret file {}", .path.display())]
    Unreadable {
        /// What was tried: `open`, `examine` or `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More than 64 KiB.
    #[error("{} is too large to be a secret", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Somebody other than the file's owner may access it.
    #[error("{} can be read by others (mode {mode:03o}): run `chmod 600 {}`", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is nothing in it but line ends.
    #[error("{} is empty: write the secret into it", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The keys of containers that were registered while the node runs. They go before all others.
#[derive(Debug, Default)]
pub struct RegisteredKeys {
    /// Whether there are any: without, nobody takes the lock.
    any: AtomicBool,
    keys: RwLock<HashMap<Box<str>, ContainerKey>>,
}

impl RegisteredKeys {
    /// Adds the key of a container, in place of the one it had.
    pub fn insert(&self, uuid: String, key: ContainerKey) {
        let mut keys = self.keys.write();
        keys.insert(uuid.into_boxed_str(), key);
        self.any.store(true, Relaxed);
    }

    /// Forgets the key of a container.
    pub fn remove(&self, uuid: &str) {
        let mut keys = self.keys.write();
        keys.remove(uuid);
        self.any.store(!keys.is_empty(), Relaxed);
    }

    fn get(&self, uuid: &str) -> Option<ContainerKey> {
        if self.any.load(Relaxed) { self.keys.read().get(uuid).cloned() } else { None }
    }
}

/// The keys that this node holds: the root secret, from which all others follow, or those of its containers, or both.
#[derive(Debug, Default)]
pub struct Keyring {
    root: Option<RootKey>,
    own: HashMap<Box<str>, ContainerKey>,
    /// Keys that came while the node runs; they outlive this, when the secrets are read again.
    registered: Arc<RegisteredKeys>,
    /// Keys derived from the root that fitted a request; nobody without a key can crowd others out.
    derived: RwLock<HashMap<Box<str>, ContainerKey>>,
}

impl Keyring {
    /// Holds the root secret only.
    #[must_use]
    pub fn from_root(root: RootKey) -> Self {
        Self { root: Some(root), ..Self::default() }
    }

    /// Holds the keys of these containers only.
    #[cfg(test)]
    pub(crate) fn from_keys(keys: impl IntoIterator<Item = (String, ContainerKey)>) -> Self {
        Self { own: keys.into_iter().map(|(uuid, key)| (uuid.into_boxed_str(), key)).collect(), ..Self::default() }
    }

    /// Reads the secrets from files.
    ///
    /// # Errors
    /// Where there is none, or one cannot be read, is empty, malformed, or can be read by others.
    pub fn load(sources: &KeySources) -> Result<Self, KeyringError> {
        let mut keyring = Self { root: load_root(sources)?, ..Self::default() };
        if let Some(dir) = &sources.keys_dir {
            keyring.own = load_keys(dir)?;
        }
        if keyring.root.is_none() && sources.keys_dir.is_none() {
            return Err(KeyringError::NotConfigured);
        }
        Ok(keyring)
    }

    /// Whether the root secret is held; the `timestamp` scheme needs it.
    #[cfg(test)]
    pub(crate) fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// How many containers have keys of their own here.
    #[cfg(test)]
    pub(crate) fn own_keys(&self) -> usize {
        self.own.len()
    }

    /// The same with the keys of containers that are registered while the node runs.
    #[must_use]
    pub fn with_registered(self, registered: Arc<RegisteredKeys>) -> Self {
        Self { registered, ..self }
    }

    /// The key of a container: the one it was registered with, else its own where there is one, else the one derived from the
    /// root.
    #[must_use]
    pub fn key(&self, uuid: &str) -> Option<ContainerKey> {
        self.find(uuid).map(|(key, _)| key)
    }

    /// The same, and whether it was derived from the root just now.
    pub(super) fn find(&self, uuid: &str) -> Option<(ContainerKey, Derived)> {
        if let Some(key) = self.registered.get(uuid).or_else(|| self.own.get(uuid).cloned()) {
            return Some((key, Derived(false)));
        }
        let root = self.root.as_ref()?;
        let ready = self.derived.read().get(uuid).cloned();
        Some(ready.map_or_else(|| (root.container(uuid), Derived(true)), |key| (key, Derived(false))))
    }

    pub(super) fn root(&self) -> Option<&RootKey> {
        self.root.as_ref()
    }

    /// How many derived keys are kept ready.
    #[cfg(test)]
    pub(crate) fn derived_keys(&self) -> usize {
        self.derived.read().len()
    }

    /// Keeps a key ready that was derived, once it has fitted a request. No other is kept: a key that a container was
    /// registered with ends with the registration.
    pub(super) fn remember(&self, uuid: &str, key: &ContainerKey, derived: Derived) {
        if !derived.0 {
            return;
        }
        let mut derived = self.derived.write();
        if derived.len() >= DERIVED_KEYS {
            derived.clear();
        }
        derived.insert(uuid.into(), key.clone());
    }
}

/// Whether a key was derived from the root just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Derived(bool);

fn load_root(sources: &KeySources) -> Result<Option<RootKey>, KeyringError> {
    let secret = match (&sources.root_file, &sources.credentials_directory) {
        (Some(path), _) => read_secret(path, true)?,
        (None, Some(dir)) => {
            let path = dir.join(ROOT_CREDENTIAL);
            if !path.exists() {
                return Ok(None);
            }
            // systemd itself keeps others out of this directory, with an ACL that a mode cannot show.
            read_secret(&path, false)?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(RootKey::new(&secret)))
}

fn load_keys(dir: &Path) -> Result<HashMap<Box<str>, ContainerKey>, KeyringError> {
    let unlisted = |source| KeyringError::KeysDirectory { path: dir.to_owned(), source };
    let mut keys = HashMap::new();
    for entry in dir.read_dir().map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        // Hidden files belong to whoever writes the directory: editors, and Kubernetes with its `..data`.
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        if ContainerName::parse(name.strip_prefix(NODE).unwrap_or(name)).is_none() {
            return Err(KeyringError::KeyName { path });
        }
        let secret = read_secret(&path, true)?;
        let key = std::str::from_utf8(&secret).ok().and_then(|text| ContainerKey::from_hex(text.trim()).ok());
        keys.insert(name.into(), key.ok_or(KeyringError::NoKey { path })?);
    }
    Ok(keys)
}

/// Reads a secret, without the line end that editors add.
fn read_secret(path: &Path, private: bool) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let unreadable = |doing| move |source| KeyringError::Unreadable { doing, path: path.to_owned(), source };
    let file = regular_file::open(path).map_err(unreadable("open"))?;
    let metadata = file.metadata().map_err(unreadable("examine"))?;
    if metadata.len() > MAX_SECRET {
        return Err(KeyringError::TooLarge { path: path.to_owned() });
    }
    if private && metadata.mode() & 0o077 != 0 {
        return Err(KeyringError::Exposed { path: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    let mut secret = regular_file::read_opened(&file, MAX_SECRET).map_err(unreadable("read"))?;
    regular_file::strip_line_end(&mut secret);
    if secret.is_empty() {
        return Err(KeyringError::Empty { path: path.to_owned() });
    }
    Ok(secret)
}
