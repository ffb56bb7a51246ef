//! The configuration: a TOML file, the environment and flags, in that order of rising precedence, become one checked
//! [`Config`].
//!
//! Nothing is guessed: unknown keys are errors, and every error names the key, the value, where it was given and what is
//! allowed. Secrets are named by path only; no flag or variable takes a secret's value.

mod cluster;
pub mod edge;
mod error;
mod layers;
mod listen;
mod role;
mod setting;
pub mod settings;
mod show;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::{ControlConfig, NodeConfig, PortsConfig, RegistryConfig, RegistryStore};
pub use error::{ConfigError, Source};
pub use role::Role;
pub use setting::{AnySetting, Keyword, Setting, Shape};

use crate::fastpath::BpfMode;
use crate::listen::{ListenAddress, ListenConfig};
use crate::logging::LogFormat;
use layers::Layers;
use portsplice_auth::Scheme;
use show::Origins;

/// What all variables' names begin with.
const PREFIX: &str = "PORTSPLICE_";

/// The node's configuration.
pub static NODE: Role = Role {
    default_file: "/etc/portsplice/node.toml",
    prefix: PREFIX,
    others: &["PORTSPLICE_EDGE_"],
    settings: settings::ALL,
};

/// The systemd credential (`LoadCredential=portsplice.root:PATH`) that is the root secret when no file is named.
pub const ROOT_CREDENTIAL: &str = "portsplice.root";

impl Keyword for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// How bytes are moved between plain sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayPath {
    /// Past the daemon where it pays, else by splice(2) where that pays, else by copy.
    Auto,
    /// Past the daemon wherever it can, however short a response is.
    Fast,
    /// By splice(2) wherever it can.
    Splice,
    /// By copy always.
    Copy,
}

impl Keyword for RelayPath {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("fast", Self::Fast), ("splice", Self::Splice), ("copy", Self::Copy)];
}

impl Keyword for BpfMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("off", Self::Off), ("required", Self::Required)];
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or a list of filters in the syntax of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Whether each request gets a line.
    pub access: bool,
}

/// Where secrets are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretsConfig {
    /// A file that holds the cluster's root secret.
    pub root_file: Option<PathBuf>,
    /// A directory with one file for each container, named by uuid.
    pub keys_dir: Option<PathBuf>,
    /// Where the service manager put the credential [`ROOT_CREDENTIAL`]; only when it is there and no root file is named.
    pub credentials_directory: Option<PathBuf>,
}

impl SecretsConfig {
    fn of(l: &Layers, sources: &Sources) -> Self {
        let root_file = l.get(&settings::ROOT_FILE);
        let credentials_directory = if root_file.is_none() { sources.root_credential() } else { None };
        Self { root_file, keys_dir: l.get(&settings::KEYS_DIR), credentials_directory }
    }

    /// Whether the root secret is among them.
    pub fn has_root(&self) -> bool {
        self.root_file.is_some() || self.credentials_directory.is_some()
    }
}

/// Bounds on what a client or a container may use. Zero timeouts and zero caps are off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Longest head of a request, in bytes.
    pub head_bytes: usize,
    /// Most fields of a request's head.
    pub head_fields: usize,
    /// Longest request target, in bytes.
    pub target_bytes: usize,
    /// Longest field line of a request, in bytes; `usize::MAX` for as long as the head.
    pub field_bytes: usize,
    /// Longest head of a response, in bytes.
    pub response_head_bytes: usize,
    /// Most fields of a response's head.
    pub response_head_fields: usize,
    /// Most memory for request heads that are not whole yet, in bytes.
    pub unfinished_heads: usize,
    /// From the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// For a TLS handshake.
    pub handshake_timeout: Duration,
    /// For a connection to a container.
    pub connect_timeout: Duration,
    /// Between two requests of a connection.
    pub keep_alive_timeout: Duration,
    /// Between two requests of a connection to a container.
    pub origin_idle_timeout: Duration,
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// From a request's last byte to the end of its response's head.
    pub answer_timeout: Duration,
    /// Most connections of controllers.
    pub connections: u32,
    /// Most connections to one container, beside what its labels say.
    pub connections_per_container: u32,
    /// Most connections of one client address.
    pub connections_per_client: u32,
}

/// Where containers are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainersConfig {
    /// Docker's unix socket.
    pub docker: Option<PathBuf>,
    /// Whether that is only the default, so that a machine without an engine is as good.
    pub docker_optional: bool,
    /// Where runtimes register containers.
    pub directory: Option<PathBuf>,
    /// Whether containers that share the host's network may be reached.
    pub allow_host_network: bool,
    /// Whether labels that come from an image may claim names and publish ports.
    pub trust_image_labels: bool,
    /// How long a request waits for a port that nothing listens on yet.
    pub hold: Duration,
}

/// How credentials are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// How far a credential's time may be from the node's clock, either way.
    pub window: Duration,
    /// How many nonces are remembered.
    pub replay_entries: usize,
    /// Where it is kept which credentials were used that hold on any connection, for the daemon that starts next.
    pub used_file: Option<PathBuf>,
    /// Whether such credentials, if they were made before the start, are refused although it is known which were used. A
    /// client whose clock is slow is refused for as long.
    pub only_since_start: bool,
}

/// How bytes are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// The path between plain sockets.
    pub path: RelayPath,
    /// The size of a pipe.
    pub pipe_bytes: usize,
    /// Pipes that are kept open though unused.
    pub idle_pipes: usize,
    /// Bytes that may be held of what servers sent before their containers ended.
    pub tail_bytes: usize,
}

/// The kernel programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfConfig {
    /// Whether they are loaded.
    pub mode: BpfMode,
    /// The cgroup v2 directory they are attached to; `None` finds the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// How many responses can be on the fast path at once.
    pub max_flows: u32,
}

/// A configuration that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where metrics and probes are served.
    pub admin: Option<SocketAddr>,
    /// How long running requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Threads that connections are spread over; 0 is one for each processor.
    pub threads: usize,
    /// `[log]`
    pub log: LogConfig,
    /// `[secrets]`
    pub secrets: SecretsConfig,
    /// `[[listen]]`, at least one.
    pub listen: Vec<ListenConfig>,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[containers]`
    pub containers: ContainersConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[relay]`
    pub relay: RelayConfig,
    /// `[bpf]`
    pub bpf: BpfConfig,
    /// `[node]`
    pub node: NodeConfig,
    /// `[ports]`
    pub ports: PortsConfig,
    /// `[control]`
    pub control: ControlConfig,
    /// `[registry]`
    pub registry: RegistryConfig,
    /// What should be logged about the configuration itself.
    pub warnings: Vec<String>,
    origins: Origins,
}

/// What a configuration is made from. Kept, so that it can be made again on SIGHUP.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that a flag names; it must exist then.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(String, String)>,
    /// Values of flags: the setting's key, the flag, the text.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Listeners given as `--listen URL`; they replace all others.
    pub listen: Vec<String>,
}

impl Sources {
    /// Sources with this process's environment.
    ///
    /// # Errors
    /// When a variable of ours is not Unicode.
    pub fn with_environment() -> Result<Self, ConfigError> {
        let mut variables = Vec::new();
        for (name, value) in env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with(PREFIX) && name != "CREDENTIALS_DIRECTORY" {
                continue;
            }
            match value.into_string() {
                Ok(value) => variables.push((name, value)),
                Err(value) => {
                    let problem = format!("environment variable {name} is {value:?}, which is not UTF-8; write UTF-8");
                    return Err(ConfigError { problems: vec![problem] });
                }
            }
        }
        Ok(Self { variables, ..Self::default() })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The service manager's directory of credentials, if the root secret is among them.
    fn root_credential(&self) -> Option<PathBuf> {
        let directory = PathBuf::from(self.variable("CREDENTIALS_DIRECTORY")?);
        directory.join(ROOT_CREDENTIAL).exists().then_some(directory)
    }
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with what to do.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::resolve(NODE.read(sources)?, sources)
    }

    fn resolve(mut layers: Layers, sources: &Sources) -> Result<Self, ConfigError> {
        use settings::*;
        let l = &layers;
        let config = Self {
            admin: l.get(&ADMIN),
            drain_timeout: l.get(&DRAIN_TIMEOUT),
            threads: l.get(&THREADS),
            log: LogConfig { level: l.get(&LOG_LEVEL), format: l.get(&LOG_FORMAT), access: l.get(&LOG_ACCESS) },
            secrets: SecretsConfig::of(l, sources),
            listen: l.listen.clone(),
            limits: LimitsConfig {
                head_bytes: l.get(&HEAD_BYTES),
                head_fields: l.get(&HEAD_FIELDS),
                target_bytes: l.get(&TARGET_BYTES),
                field_bytes: l.get(&FIELD_BYTES),
                response_head_bytes: l.get(&RESPONSE_HEAD_BYTES),
                response_head_fields: l.get(&RESPONSE_HEAD_FIELDS),
                unfinished_heads: l.get(&UNFINISHED_HEADS),
                head_timeout: l.get(&HEAD_TIMEOUT),
                handshake_timeout: l.get(&HANDSHAKE_TIMEOUT),
                connect_timeout: l.get(&CONNECT_TIMEOUT),
                keep_alive_timeout: l.get(&KEEP_ALIVE_TIMEOUT),
                origin_idle_timeout: l.get(&ORIGIN_IDLE_TIMEOUT),
                idle_timeout: l.get(&IDLE_TIMEOUT),
                answer_timeout: l.get(&ANSWER_TIMEOUT),
                connections: l.get(&CONNECTIONS),
                connections_per_container: l.get(&CONNECTIONS_PER_CONTAINER),
                connections_per_client: l.get(&CONNECTIONS_PER_CLIENT),
            },
            containers: ContainersConfig {
                docker: l.get(&DOCKER),
                docker_optional: l.text(&DOCKER).1 == Source::Default,
                directory: l.get(&DIRECTORY),
                allow_host_network: l.get(&ALLOW_HOST_NETWORK),
                trust_image_labels: l.get(&TRUST_IMAGE_LABELS),
                hold: l.get(&HOLD),
            },
            auth: AuthConfig {
                window: l.get(&AUTH_WINDOW),
                replay_entries: l.get(&REPLAY_ENTRIES),
                used_file: l.get(&USED_FILE),
                only_since_start: l.get(&ONLY_SINCE_START),
            },
            relay: RelayConfig {
                path: l.get(&RELAY_PATH),
                pipe_bytes: l.get(&PIPE_BYTES),
                idle_pipes: l.get(&IDLE_PIPES),
                tail_bytes: l.get(&TAIL_BYTES),
            },
            bpf: BpfConfig { mode: l.get(&BPF_MODE), cgroup: l.get(&BPF_CGROUP), max_flows: l.get(&BPF_MAX_FLOWS) },
            node: NodeConfig::of(l),
            ports: PortsConfig::of(l),
            control: ControlConfig::of(l),
            registry: RegistryConfig::of(l),
            warnings: l.warnings.clone(),
            origins: l.origins(),
        };
        config.check(&mut layers);
        layers.problems.finish().map(|()| config)
    }

    /// What only the whole can tell.
    fn check(&self, layers: &mut Layers) {
        check_listeners(layers, "0.0.0.0:7450");
        if !self.secrets.has_root() && self.secrets.keys_dir.is_none() {
            layers.problems.add(format!(
                "no secret is configured, so that no request could be authenticated; name a file with `secrets.root-file` (--root-secret-file), a directory of keys with `secrets.keys-dir` (--keys-dir), or pass the systemd credential {ROOT_CREDENTIAL}"
            ));
        } else if !self.secrets.has_root()
            && let Some(listen) = self.listen.iter().find(|l| l.credentials.contains(&Scheme::Timestamp))
        {
            layers.problems.add(format!(
                "listener {} accepts the credential `timestamp`, which is signed with the root secret; name its file with `secrets.root-file`, or remove `timestamp`",
                listen.address
            ));
        }
        self.node.problems().into_iter().for_each(|problem| layers.problems.add(problem));
        self.registry.problems().into_iter().for_each(|problem| layers.problems.add(problem));
        if self.containers.docker.is_none() && self.containers.directory.is_none() {
            layers.problems.add(
                "neither `containers.docker` nor `containers.directory` is set, so that no container could be found; set one of them",
            );
        }
    }

    /// The keys of settings that differ in `new` but take effect only after a restart.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        self.origins.needs_restart(&new.origins)
    }
}

/// There is a listener, and no address twice. `example` is an address for this role.
fn check_listeners(layers: &mut Layers, example: &str) {
    if layers.listen.is_empty() && !layers.listen_given {
        let variable = layers.role.listen_variable();
        layers.problems.add(format!(
            "no listener is configured; give one with --listen tls://{example}, {variable}, or in the file:\n    [[listen]]\n    address = \"{example}\"",
        ));
    }
    let mut seen = HashMap::new();
    for listen in &layers.listen {
        let free_port = matches!(listen.address, ListenAddress::Socket(a) if a.port() == 0);
        if !free_port && seen.insert(&listen.address, ()).is_some() {
            layers.problems.add(format!(
                "two listeners have the address {}; give each its own, or one with both credentials",
                listen.address
            ));
        }
    }
}
