//! The configuration of `portsplice edge`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::layers::Layers;
use super::setting::{Setting, Shape, path, seconds};
use super::settings::*;
use super::show::Origins;
use super::{AuthConfig, ConfigError, LogConfig, Role, SecretsConfig, Sources, check_listeners};
use crate::edge::EdgeLimits;
use crate::listen::ListenConfig;
use portsplice_auth::Scheme;

/// The store's file.
pub static STORE_PATH: Setting<PathBuf> = Setting {
    key: "store.path",
    default: "/var/lib/portsplice-edge/registry.db",
    allowed: "the path of a file; its directory is made if it is missing",
    shape: Shape::Text,
    restart: true,
    parse: path,
};

/// The shortest time that a record may outlive its node.
pub static TTL_MIN: Setting<Duration> = Setting {
    key: "records.ttl-min",
    default: "5s",
    allowed: r#"a time from "2s" to "1h""#,
    shape: Shape::Text,
    restart: false,
    parse: seconds::<2, 3600>,
};

/// The longest.
pub static TTL_MAX: Setting<Duration> = Setting { key: "records.ttl-max", default: "5m", ..TTL_MIN };

/// For the body of a request.
pub static BODY_TIMEOUT: Setting<Duration> = Setting { key: "limits.body-timeout", ..HEAD_TIMEOUT };

/// Where it is kept which credentials were used.
pub static EDGE_USED_FILE: Setting<Option<PathBuf>> = Setting { default: "/var/lib/portsplice-edge/used", ..USED_FILE };

/// The edge's configuration.
pub static EDGE: Role = Role {
    default_file: "/etc/portsplice/edge.toml",
    prefix: "PORTSPLICE_EDGE_",
    others: &[],
    settings: &[
        &ADMIN,
        &DRAIN_TIMEOUT,
        &LOG_LEVEL,
        &LOG_FORMAT,
        &ROOT_FILE,
        &KEYS_DIR,
        &STORE_PATH,
        &TTL_MIN,
        &TTL_MAX,
        &BODY_TIMEOUT,
        &HANDSHAKE_TIMEOUT,
        &KEEP_ALIVE_TIMEOUT,
        &CONNECTIONS,
        &CONNECTIONS_PER_CLIENT,
        &AUTH_WINDOW,
        &REPLAY_ENTRIES,
        &EDGE_USED_FILE,
        &ONLY_SINCE_START,
    ],
};

/// A configuration that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeConfig {
    /// Where metrics and probes are served.
    pub admin: Option<SocketAddr>,
    /// How long running requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// `[log]`
    pub log: LogConfig,
    /// `[secrets]`
    pub secrets: SecretsConfig,
    /// `[[listen]]`, at least one.
    pub listen: Vec<ListenConfig>,
    /// `store.path`
    pub store: PathBuf,
    /// `records.ttl-min` and `records.ttl-max`: how long a record outlives its node.
    pub ttl: (Duration, Duration),
    /// `[limits]`
    pub limits: EdgeLimits,
    /// `[auth]`
    pub auth: AuthConfig,
    /// What should be logged about the configuration itself.
    pub warnings: Vec<String>,
    origins: Origins,
}

impl EdgeConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with what to do.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::resolve(EDGE.read(sources)?, sources)
    }

    fn resolve(mut layers: Layers, sources: &Sources) -> Result<Self, ConfigError> {
        let l = &layers;
        let config = Self {
            admin: l.get(&ADMIN),
            drain_timeout: l.get(&DRAIN_TIMEOUT),
            log: LogConfig { level: l.get(&LOG_LEVEL), format: l.get(&LOG_FORMAT), access: true },
            secrets: SecretsConfig::of(l, sources),
            listen: l.listen.clone(),
            store: l.get(&STORE_PATH),
            ttl: (l.get(&TTL_MIN), l.get(&TTL_MAX)),
            limits: EdgeLimits {
                body_timeout: l.get(&BODY_TIMEOUT),
                handshake_timeout: l.get(&HANDSHAKE_TIMEOUT),
                keep_alive_timeout: l.get(&KEEP_ALIVE_TIMEOUT),
                connections: l.get(&CONNECTIONS),
                connections_per_client: l.get(&CONNECTIONS_PER_CLIENT),
            },
            auth: AuthConfig {
                window: l.get(&AUTH_WINDOW),
                replay_entries: l.get(&REPLAY_ENTRIES),
                used_file: l.get(&EDGE_USED_FILE),
                only_since_start: l.get(&ONLY_SINCE_START),
            },
            warnings: l.warnings.clone(),
            origins: l.origins(),
        };
        config.check(&mut layers);
        layers.problems.finish().map(|()| config)
    }

    /// What only the whole can tell.
    fn check(&self, layers: &mut Layers) {
        check_listeners(layers, "0.0.0.0:7460");
        for listen in &self.listen {
            if listen.credentials != [Scheme::Bound] {
                layers.problems.add(format!(
                    "listener {} accepts other credentials than `bound`, which is all that an edge takes; leave `credentials` out",
                    listen.address
                ));
            }
        }
        if self.ttl.0 > self.ttl.1 {
            layers.problems.add("`records.ttl-min` is longer than `records.ttl-max`; make it the shorter of the two");
        }
        if !self.secrets.has_root() && self.secrets.keys_dir.is_none() {
            layers.problems.add(format!(
                "no secret is configured, so that no report could be authenticated; name a file with `secrets.root-file` (--root-secret-file), or pass the systemd credential {}",
                super::ROOT_CREDENTIAL
            ));
        }
    }

    /// The keys of settings that differ in `new` but take effect only after a restart.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        self.origins.needs_restart(&new.origins)
    }
}

impl fmt::Display for EdgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origins.show(f, &self.secrets, &self.listen)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(file: &str) -> Result<EdgeConfig, ConfigError> {
        let sources = Sources::default();
        EdgeConfig::resolve(Layers::of(&EDGE, Some((Path::new("e.toml"), file)), &sources)?, &sources)
    }

    #[test]
    fn an_edge_needs_a_secret_and_a_listener() {
        let text = load("").unwrap_err().to_string();
        assert!(text.contains("no secret") && text.contains("tls://0.0.0.0:7460, PORTSPLICE_EDGE_LISTEN"), "{text}");
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let file = format!("secrets.root-file = \"/s\"\n[records]\nttl-max = \"1m\"\n{listen}");
        let config = load(&file).unwrap();
        assert_eq!(config.ttl, (Duration::from_secs(5), Duration::from_secs(60)));
        let again = load(&config.to_string()).unwrap();
        assert_eq!(
            EdgeConfig { origins: Origins::default(), ..again },
            EdgeConfig { origins: Origins::default(), ..config }
        );

        let text = load(&format!("{file}credentials = [\"certificate\"]\n")).unwrap_err().to_string();
        assert!(text.contains("other credentials than `bound`"), "{text}");
        let text = load(&file.replace("1m", "2s")).unwrap_err().to_string();
        assert!(text.contains("is longer than"), "{text}");
        let text = load(&format!("{listen}[containers]\nhold = \"1s\"\n")).unwrap_err().to_string();
        assert!(text.contains("unknown key `containers`") && text.contains("[records]"), "{text}");
    }

    #[test]
    fn its_variables_are_its_own() {
        let variables = [("PORTSPLICE_DRAIN_TIMEOUT", "1s"), ("PORTSPLICE_EDGE_DRAIN_TIMEOUT", "2s")];
        let variables: Vec<_> = variables.iter().map(|(n, v)| (String::from(*n), String::from(*v))).collect();
        let sources = Sources { variables, listen: vec!["tcp://127.0.0.1:0".into()], ..Sources::default() };
        let file = (Path::new("e.toml"), "secrets.root-file = \"/s\"");
        let config = EdgeConfig::resolve(Layers::of(&EDGE, Some(file), &sources).unwrap(), &sources).unwrap();
        assert_eq!((config.drain_timeout, config.warnings.len()), (Duration::from_secs(2), 0));
    }
}
