//! What `portsplice edge` is configured with.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::error::Problems;
use super::role::{Role, RoleSettings};
use super::setting::{all, section};
use super::shared::{ClientLimits, Shared, TIMEOUT};
use super::value::{duration, path, seconds};
use super::{Loaded, ROOT_CREDENTIAL};
use portsplice_auth::Scheme;
use portsplice_net::listen::ListenConfig;

/// The edge's configuration.
pub static EDGE: Role = Role {
    name: "edge",
    default_file: "/etc/portsplice/edge.toml",
    prefix: "PORTSPLICE_EDGE_",
    others: &[],
    listen_example: "0.0.0.0:7460",
    defaults: &[("auth.used-file", "/var/lib/portsplice-edge/used")],
    settings: LazyLock::new(all::<Edge>),
};

/// An edge's configuration that is in order.
pub type EdgeConfig = Loaded<Edge>;

section! {
    /// All settings of an edge but its listeners.
    pub struct Edge in "" {}
    sections {
        /// What it shares with the node.
        shared: Shared,
        /// `[store]`
        store: StoreConfig,
        /// `[records]`
        records: RecordsConfig,
        /// `[limits]` of requests
        limits: RequestLimits,
        /// `[limits]` of connections
        clients: ClientLimits,
    }
}

section! {
    /// Where records and links are kept.
    pub struct StoreConfig in "store." {
        /// The file that records and links are kept in.
        path: PathBuf = "/var/lib/portsplice-edge/registry.db", path,
            "the path of a file; its directory is created if missing", restart, flag("--store", "FILE", Storage);
    }
}

section! {
    /// How long records are kept.
    pub struct RecordsConfig in "records." {
        /// The shortest time that a record may outlive its node.
        ttl_min: Duration = "5s", seconds::<2, 3600>, r#"a time from "2s" to "1h""#, reload;
        /// The longest time that a record may outlive its node.
        ttl_max: Duration = "5m", seconds::<2, 3600>, r#"a time from "2s" to "1h""#, reload;
    }
}

section! {
    /// Bounds on what a request may use. Zero timeouts are off.
    pub struct RequestLimits in "limits." {
        /// For the body of a request.
        body_timeout: Duration = "10s", duration, TIMEOUT, reload;
    }
}

impl RoleSettings for Edge {
    fn role() -> &'static Role {
        &EDGE
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn clients(&self) -> &ClientLimits {
        &self.clients
    }

    fn check(&self, listen: &[ListenConfig], problems: &mut Problems) {
        for listen in listen.iter().filter(|listen| listen.credentials != [Scheme::Bound]) {
            problems.add(format!(
                "listener {} accepts credentials other than `bound`, the only one an edge supports; remove `credentials`",
                listen.address
            ));
        }
        if self.records.ttl_min > self.records.ttl_max {
            problems.add("`records.ttl-min` is longer than `records.ttl-max`; swap them");
        }
        if !self.shared.secrets.has_root() && self.shared.secrets.keys_dir.is_none() {
            problems.add(format!(
                "no secret is configured, so no report can be authenticated; name a file with `secrets.root-file` (--root-secret-file), or pass the systemd credential {ROOT_CREDENTIAL}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::layers::Layers;
    use super::super::show::Origins;
    use super::super::{ConfigError, Sources};
    use super::*;

    fn load(file: &str) -> Result<EdgeConfig, ConfigError> {
        let sources = Sources::default();
        EdgeConfig::resolve(Layers::of(&EDGE, Some((Path::new("e.toml"), file)), &sources)?)
    }

    #[test]
    fn an_edge_needs_a_secret_and_a_listener() {
        let text = load("").unwrap_err().to_string();
        assert!(text.contains("no secret") && text.contains("tls://0.0.0.0:7460, PORTSPLICE_EDGE_LISTEN"), "{text}");
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let file = format!("secrets.root-file = \"/s\"\n[records]\nttl-max = \"1m\"\n{listen}");
        let config = load(&file).unwrap();
        let records = RecordsConfig { ttl_min: Duration::from_secs(5), ttl_max: Duration::from_secs(60) };
        assert_eq!(config.records, records);
        assert_eq!(config.shared.auth.used_file.as_deref(), Some(Path::new("/var/lib/portsplice-edge/used")));
        let again = load(&config.to_string()).unwrap();
        assert_eq!(
            EdgeConfig { origins: Origins::default(), ..again },
            EdgeConfig { origins: Origins::default(), ..config }
        );

        let text = load(&format!("{file}credentials = [\"certificate\"]\n")).unwrap_err().to_string();
        assert!(text.contains("credentials other than `bound`"), "{text}");
        let text = load(&file.replace("1m", "2s")).unwrap_err().to_string();
        assert!(text.contains("is longer than"), "{text}");
        let text = load(&format!("{listen}[containers]\nwait-for-port = \"1s\"\n")).unwrap_err().to_string();
        assert!(text.contains("unknown key `containers`") && text.contains("[records]"), "{text}");
    }

    #[test]
    fn its_variables_are_its_own() {
        let variables = [("PORTSPLICE_DRAIN_TIMEOUT", "1s"), ("PORTSPLICE_EDGE_DRAIN_TIMEOUT", "2s")];
        let variables: Vec<_> = variables.iter().map(|(n, v)| (String::from(*n), String::from(*v))).collect();
        let sources = Sources { variables, listen: vec!["tcp://127.0.0.1:0".into()], ..Sources::default() };
        let file = (Path::new("e.toml"), "secrets.root-file = \"/s\"");
        let config = EdgeConfig::resolve(Layers::of(&EDGE, Some(file), &sources).unwrap()).unwrap();
        assert_eq!((config.shared.drain_timeout, config.warnings.len()), (Duration::from_secs(2), 0));
    }
}
