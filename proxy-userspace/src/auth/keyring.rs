//! Which keys this node holds, and where it reads them from.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::key::{ContainerKey, RootKey};
use crate::http::ContainerName;

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

/// The keys that this node holds: the root secret, from which all others follow, or those of its containers, or both.
#[derive(Debug, Default)]
pub struct Keyring {
    root: Option<RootKey>,
    own: HashMap<Box<str>, ContainerKey>,
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
    pub fn from_keys(keys: impl IntoIterator<Item = (String, ContainerKey)>) -> Self {
        Self { own: keys.into_iter().map(|(uuid, key)| (uuid.into_boxed_str(), key)).collect(), ..Self::default() }
    }

    /// Reads the secrets from files.
    ///
    /// # Errors
    /// Where there is none, or one cannot be read, is empty, malformed, or can be read by others. The text says what to do and
    /// holds no secret.
    pub fn load(sources: &KeySources) -> anyhow::Result<Self> {
        let mut keyring = Self { root: load_root(sources)?, ..Self::default() };
        if let Some(dir) = &sources.keys_dir {
            keyring.own = load_keys(dir)?;
        }
        if keyring.root.is_none() && sources.keys_dir.is_none() {
            bail!(
                "no secret is configured: give secrets.root-file or secrets.keys-dir, or the systemd credential {ROOT_CREDENTIAL}"
            );
        }
        Ok(keyring)
    }

    /// Whether the root secret is held; the `timestamp` scheme needs it.
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// How many containers have keys of their own here.
    #[must_use]
    pub fn own_keys(&self) -> usize {
        self.own.len()
    }

    /// The key of a container: its own where there is one, else the one derived from the root.
    #[must_use]
    pub fn key(&self, uuid: &str) -> Option<ContainerKey> {
        if let Some(key) = self.own.get(uuid) {
            return Some(key.clone());
        }
        let root = self.root.as_ref()?;
        let ready = self.derived.read().get(uuid).cloned();
        Some(ready.unwrap_or_else(|| root.container(uuid)))
    }

    pub(super) fn root(&self) -> Option<&RootKey> {
        self.root.as_ref()
    }

    /// How many derived keys are kept ready.
    #[must_use]
    pub fn derived_keys(&self) -> usize {
        self.derived.read().len()
    }

    /// Keeps a derived key ready, once it has fitted a request.
    pub(super) fn remember(&self, uuid: &str, key: &ContainerKey) {
        if self.own.contains_key(uuid) || self.derived.read().contains_key(uuid) {
            return;
        }
        let mut derived = self.derived.write();
        if derived.len() >= DERIVED_KEYS {
            derived.clear();
        }
        derived.insert(uuid.into(), key.clone());
    }
}

fn load_root(sources: &KeySources) -> anyhow::Result<Option<RootKey>> {
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

fn load_keys(dir: &Path) -> anyhow::Result<HashMap<Box<str>, ContainerKey>> {
    let mut keys = HashMap::new();
    let entries = dir.read_dir().with_context(|| format!("cannot read the keys directory {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read the keys directory {}", dir.display()))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        // Hidden files belong to whoever writes the directory: editors, and Kubernetes with its `..data`.
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        ensure!(
            ContainerName::parse(name.strip_prefix(NODE).unwrap_or(name)).is_some(),
            "{} is not named like a container: rename it to the container's UUID (or to {NODE}NAME for a node's key), or remove it",
            path.display()
        );
        let secret = read_secret(&path, true)?;
        let key = std::str::from_utf8(&secret).ok().and_then(|text| ContainerKey::from_hex(text.trim()).ok());
        let key = key.with_context(|| {
            format!("{} holds no key: it must hold 64 lower-case hexadecimal digits and nothing else", path.display())
        })?;
        keys.insert(name.into(), key);
    }
    Ok(keys)
}

/// Reads a secret, without the line end that editors add.
fn read_secret(path: &Path, private: bool) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path).with_context(|| format!("cannot open the secret file {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot examine the secret file {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is no file", path.display());
    ensure!(metadata.len() <= MAX_SECRET, "{} is too large to be a secret", path.display());
    if private && metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        bail!("{0} can be read by others (mode {mode:03o}): run `chmod 600 {0}`", path.display());
    }
    // Sized in advance: a growing vector would leave copies of the secret behind.
    let mut secret = Zeroizing::new(vec![0; metadata.len() as usize + 1]);
    let mut length = 0;
    loop {
        match file.read(&mut secret[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read the secret file {}", path.display())),
        }
    }
    while length > 0 && matches!(secret[length - 1], b'\n' | b'\r') {
        length -= 1;
    }
    secret.truncate(length);
    ensure!(!secret.is_empty(), "{} is empty: write the secret into it", path.display());
    Ok(secret)
}
