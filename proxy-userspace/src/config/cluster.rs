//! What concerns the cluster and its operators: the node's name, port discovery, the record, the control socket.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Source;
use super::layers::Layers;
use super::setting::Keyword;
use super::settings::*;
use portsplice_model::ContainerName;
use portsplice_model::url::{Url, authority};

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's name in the record; empty is the host's.
    pub name: String,
    /// Where it is reached; empty is the first listener's address.
    pub address: String,
}

/// `[ports]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsConfig {
    /// How often each namespace is looked at without news.
    pub rescan: Duration,
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlConfig {
    /// The socket; `None` is none.
    pub socket: Option<PathBuf>,
    /// Whether that is only the default, so that a daemon that may not make it there does as well without.
    pub socket_optional: bool,
    /// The group whose members may use it; empty is root alone.
    pub group: String,
    /// Where registrations are kept.
    pub state: Option<PathBuf>,
}

/// Where the cluster's record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryStore {
    /// Nowhere.
    None,
    /// A file on this host.
    Embedded,
    /// An edge's record API.
    Edge,
    /// etcd.
    Etcd,
    /// Arvados's API server.
    Arvados,
}

impl Keyword for RegistryStore {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("embedded", Self::Embedded),
        ("edge", Self::Edge),
        ("etcd", Self::Etcd),
        ("arvados", Self::Arvados),
    ];
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Which store.
    pub store: RegistryStore,
    /// The embedded store's file.
    pub path: PathBuf,
    /// Servers of the other stores.
    pub url: Vec<Url>,
    /// Certificates that theirs are checked against; `None` is the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The file with the store's secret.
    pub token_file: Option<PathBuf>,
    /// What etcd's keys begin with.
    pub prefix: String,
    /// Where it is noted which containers have accepted connections; `None` is nowhere.
    pub accepted_file: Option<PathBuf>,
    /// How long a record outlives its node.
    pub ttl: Duration,
    /// How long news are collected.
    pub debounce: Duration,
}

impl NodeConfig {
    pub(super) fn of(l: &Layers) -> Self {
        Self { name: l.get(&NODE_NAME), address: l.get(&NODE_ADDRESS) }
    }

    /// What is wrong with it.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.name.is_empty() && ContainerName::parse(&self.name).is_none() {
            problems.push(format!(
                "`node.name` is {:?}; write letters, digits, '.', '_' and '-', 255 at most, the first a letter or digit",
                self.name
            ));
        }
        if !self.address.is_empty() && authority(&self.address).is_none() {
            problems.push(format!(
                "`node.address` is {:?}; write HOST:PORT, such as \"node1.example:7450\" or \"[2001:db8::1]:7450\"",
                self.address
            ));
        }
        problems
    }
}

impl PortsConfig {
    pub(super) fn of(l: &Layers) -> Self {
        Self { rescan: l.get(&PORTS_RESCAN) }
    }
}

impl ControlConfig {
    pub(super) fn of(l: &Layers) -> Self {
        Self {
            socket: l.get(&CONTROL_SOCKET),
            socket_optional: l.text(&CONTROL_SOCKET).1 == Source::Default,
            group: l.get(&CONTROL_GROUP),
            state: l.get(&CONTROL_STATE),
        }
    }
}

impl RegistryConfig {
    pub(super) fn of(l: &Layers) -> Self {
        Self {
            store: l.get(&REGISTRY_STORE),
            path: l.get(&REGISTRY_PATH),
            url: l.get(&REGISTRY_URL),
            ca_file: l.get(&REGISTRY_CA),
            certificate: l.get(&REGISTRY_CERTIFICATE),
            key: l.get(&REGISTRY_KEY),
            token_file: l.get(&REGISTRY_TOKEN),
            prefix: l.get(&REGISTRY_PREFIX),
            accepted_file: l.get(&REGISTRY_ACCEPTED),
            ttl: l.get(&REGISTRY_TTL),
            debounce: l.get(&REGISTRY_DEBOUNCE),
        }
    }

    /// What is wrong with it as a whole.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let remote = match self.store {
            RegistryStore::None | RegistryStore::Embedded => None,
            RegistryStore::Edge => Some(("edge", "https://edge.example:7460")),
            RegistryStore::Etcd => Some(("etcd", "http://127.0.0.1:2379")),
            RegistryStore::Arvados => Some(("arvados", "https://zzzzz.arvadosapi.com")),
        };
        if let Some((store, example)) = remote {
            if self.url.is_empty() {
                problems.push(format!("registry.store = {store:?} needs `registry.url`, such as {example:?}"));
            } else if self.url.len() > 1 && self.store != RegistryStore::Etcd {
                problems.push(format!("registry.store = {store:?} takes one `registry.url`; only etcd takes several"));
            }
        }
        if self.store == RegistryStore::Arvados && self.token_file.is_none() {
            problems.push("registry.store = \"arvados\" needs `registry.token-file`, a file with an API token".into());
        }
        if self.certificate.is_some() != self.key.is_some() {
            problems.push("`registry.certificate` and `registry.key` belong together: set both or neither".into());
        }
        if self.store == RegistryStore::Etcd && self.prefix.is_empty() {
            problems.push(
                "`registry.prefix` is empty, which would be all of etcd; write something like \"/portsplice/\"".into(),
            );
        }
        problems
    }
}
