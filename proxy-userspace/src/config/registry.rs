//! `[registry]`: where the cluster's record is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::setting::section;
use super::value::{Keyword, duration, keyword, optional_path, path, seconds, text, urls};
use portsplice_model::url::Url;

/// Where the cluster's record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryStore {
    /// Nowhere: the node reports to nobody.
    None,
    /// A file on this host.
    Embedded,
    /// An edge's record API.
    Edge,
    /// An etcd cluster.
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

section! {
    /// `[registry]`
    pub struct RegistryConfig in "registry." {
        /// Where the cluster's record is kept.
        store: RegistryStore = "none", keyword,
            r#""none", "embedded" (a file on this host), "edge" (the record API of a `portsplice edge`), "etcd" or "arvados""#,
            restart;
        /// The embedded store's file.
        path: PathBuf = "/var/lib/portsplice/registry.db", path,
            "the path of a file; its directory is created if missing", restart;
        /// The servers of the stores `edge`, `etcd` and `arvados`.
        url: Vec<Url> = "", urls,
            r#"http:// or https:// and HOST:PORT (of etcd, several with commas between them), or """#, restart;
        /// The certificates that the store's certificate is checked against.
        ca_file: Option<PathBuf> = "", optional_path,
            r#"the path of a PEM file of certificates, or "" for the system's"#, restart;
        /// The node's certificate for etcd.
        certificate: Option<PathBuf> = "", optional_path,
            r#"the path of a PEM file with this node's certificate for etcd, or """#, restart;
        /// The key of `registry.certificate`.
        key: Option<PathBuf> = "", optional_path,
            r#"the path of a PEM file with the key of `registry.certificate`, or """#, restart;
        /// The file with the secret that etcd or Arvados asks for.
        token_file: Option<PathBuf> = "", optional_path,
            r#"the path of a file with Arvados's token, or with USER:PASSWORD for etcd, or "" for none"#, restart;
        /// What the keys in etcd begin with.
        prefix: String = "/portsplice/", text, "the prefix of all keys in etcd", restart;
        /// Where it is noted which containers have accepted connections.
        accepted_file: Option<PathBuf> = "/run/portsplice/accepted", optional_path,
            r#"the path of a file that outlives the daemon but not a reboot, or "" to forget at shutdown which containers have accepted connections"#,
            restart;
        /// How long a record outlives a node that no longer reports.
        ttl: Duration = "15s", seconds::<2, 3600>, r#"a time from "2s" to "1h""#, restart;
        /// How long changes are collected before they are reported.
        debounce: Duration = "100ms", duration, r#"a time such as "100ms""#, restart;
    }
}

impl RegistryConfig {
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
            problems.push("set both `registry.certificate` and `registry.key`, or neither".into());
        }
        if self.store == RegistryStore::Etcd && self.prefix.is_empty() {
            problems.push(
                "`registry.prefix` is empty, which would be all of etcd; write something like \"/portsplice/\"".into(),
            );
        }
        problems
    }
}
