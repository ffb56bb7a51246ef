//! The configuration: a TOML file, the environment and flags, in that order of rising precedence, become one checked
//! [`Config`].
//!
//! Nothing is guessed: unknown keys are errors, and every error names the key, the value, where it was given and what is
//! allowed. Secrets are named by path only; no flag or variable takes a secret's value.

pub mod docs;
pub mod edge;
mod error;
mod layers;
mod listen;
mod node;
mod registry;
mod role;
mod setting;
mod shared;
mod show;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashMap;
use std::env;
use std::ops::Deref;
use std::path::PathBuf;

pub use error::{ConfigError, Problems, Source};
pub use node::{
    AccessLogConfig, BpfConfig, ContainersConfig, ControlConfig, LimitsConfig, NODE, Node, NodeConfig, PortsConfig,
    RelayConfig, RelayPath, WorkersConfig,
};
pub use registry::{RegistryConfig, RegistryStore};
pub use role::{Role, RoleSettings};
pub use setting::{Flag, Heading, Section, Setting, Shape};
pub use shared::{AuthConfig, ClientLimits, LogConfig, SecretsConfig, Shared};
pub use value::Keyword;

use layers::Layers;
use portsplice_net::listen::{ListenAddress, ListenConfig};
use show::Origins;

/// What all variables' names begin with.
const PREFIX: &str = "PORTSPLICE_";

/// The systemd credential (`LoadCredential=portsplice.root:PATH`) that is the root secret when no file is named.
pub const ROOT_CREDENTIAL: &str = "portsplice.root";

/// A role's configuration that is in order; it dereferences to the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<S> {
    /// All but the listeners.
    pub settings: S,
    /// `[[listen]]`, at least one.
    pub listen: Vec<ListenConfig>,
    /// What should be logged about the configuration itself.
    pub warnings: Vec<String>,
    origins: Origins,
}

/// A node's configuration that is in order.
pub type Config = Loaded<Node>;

impl<S> Deref for Loaded<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.settings
    }
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

impl<S: RoleSettings> Loaded<S> {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with what to do.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::resolve(S::role().read(sources)?)
    }

    fn resolve(mut layers: Layers) -> Result<Self, ConfigError> {
        let settings = S::of(&layers);
        check_listeners(&mut layers);
        settings.check(&layers.listen, &mut layers.problems);
        let origins = layers.origins();
        let Layers { listen, warnings, problems, .. } = layers;
        problems.finish().map(|()| Self { settings, listen, warnings, origins })
    }

    /// The keys of settings that differ in `new` but take effect only after a restart.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        self.origins.needs_restart(&new.origins)
    }
}

/// There is a listener, and no address twice.
fn check_listeners(layers: &mut Layers) {
    let example = layers.role.listen_example;
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
                "two listeners have the address {}; give each its own, or use one with both credentials",
                listen.address
            ));
        }
    }
}
