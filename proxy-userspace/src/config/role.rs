//! What tells the configurations of the program's roles apart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::Sources;
use super::error::{ConfigError, Problems};
use super::layers::Layers;
use super::setting::{Section, Setting};
use super::shared::{ClientLimits, Shared};
use portsplice_files::regular_file;
use portsplice_net::listen::ListenConfig;

/// Keys that settings had in 0.1, and what they are called now. The old ones are errors: ignored, they would change what the
/// daemon does without a word.
const RENAMED: &[(&str, &str)] = &[
    ("containers.hold", "containers.wait-for-port"),
    ("limits.answer-timeout", "limits.response-header-timeout"),
    ("limits.origin-idle-timeout", "limits.upstream-idle-timeout"),
];

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A role that has a configuration of its own.
pub struct Role {
    /// What it is called, as the subcommand that runs it.
    pub name: &'static str,
    /// The file that is read when no other is named; it may be missing.
    pub default_file: &'static str,
    /// What its variables' names begin with.
    pub prefix: &'static str,
    /// What other roles' variables begin with, where that begins with this role's prefix.
    pub(super) others: &'static [&'static str],
    /// An address that it could listen on, for advice and documentation.
    pub listen_example: &'static str,
    /// Defaults, by key, that are others for this role than where the setting is declared.
    pub(super) defaults: &'static [(&'static str, &'static str)],
    /// Its settings, in the order in which they are shown.
    pub settings: LazyLock<Vec<&'static Setting>>,
}

/// The settings of a role, and what only the whole of them can tell.
pub trait RoleSettings: Section {
    /// Whose they are.
    fn role() -> &'static Role;

    /// What all roles have.
    fn shared(&self) -> &Shared;

    /// What all roles have of `[limits]`.
    fn clients(&self) -> &ClientLimits;

    /// All defaults.
    fn defaults() -> Self {
        Self::of(&Layers::new(Self::role(), None))
    }

    /// Adds what is wrong although each value is allowed.
    fn check(&self, listen: &[ListenConfig], problems: &mut Problems);
}

impl Role {
    /// The environment variable of a setting: `limits.head-timeout` is `PORTSPLICE_LIMITS_HEAD_TIMEOUT` for the node.
    pub fn variable(&self, key: &str) -> String {
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        format!("{}{}", self.prefix, key.chars().map(upper).collect::<String>())
    }

    /// What a setting is called now whose key was `key`; `None` if it was never renamed, or is not this role's.
    pub(super) fn renamed(&self, key: &str) -> Option<&'static str> {
        let (_, new) = RENAMED.iter().find(|(old, _)| *old == key)?;
        self.setting(new).map(|_| *new)
    }

    /// The same for an environment variable.
    pub(super) fn renamed_variable(&self, variable: &str) -> Option<String> {
        let (_, new) = RENAMED.iter().find(|(old, _)| self.variable(old) == variable)?;
        self.setting(new).map(|_| self.variable(new))
    }

    /// The variable with listeners as `tls://ADDRESS` or `tcp://ADDRESS`, separated by white space.
    pub(super) fn listen_variable(&self) -> String {
        format!("{}LISTEN", self.prefix)
    }

    /// The variable with the path of the file.
    pub(super) fn file_variable(&self) -> String {
        format!("{}CONFIG", self.prefix)
    }

    pub(super) fn is_anothers(&self, variable: &str) -> bool {
        self.others.iter().any(|prefix| variable.starts_with(prefix))
    }

    pub(super) fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings.iter().copied().find(|setting| setting.key == key)
    }

    /// The value of a setting when nobody sets it, as text.
    pub fn default(&self, setting: &Setting) -> &'static str {
        let own = self.defaults.iter().find(|(key, _)| *key == setting.key);
        own.map_or(setting.default, |(_, default)| default)
    }

    pub(super) fn is_section(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.split().0 == key)
    }

    /// What may stand at the place where an unknown key was found.
    pub(super) fn known(&self, section: &str) -> String {
        let mut names: Vec<String> = Vec::new();
        for setting in self.settings.iter() {
            let name = match setting.split() {
                (inner, name) if inner == section => format!("`{name}`"),
                (inner, _) if section.is_empty() => format!("[{inner}]"),
                _ => continue,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if section.is_empty() {
            names.push("[[listen]]".to_owned());
            format!("the file may have {}", names.join(", "))
        } else {
            format!("[{section}] may have {}", names.join(", "))
        }
    }

    /// Reads all layers, the file among them.
    ///
    /// # Errors
    /// When the file cannot be read or is no TOML.
    pub(super) fn read(&'static self, sources: &Sources) -> Result<Layers, ConfigError> {
        let (path, required) = self.path(sources);
        let text = match regular_file::read_text(&path, MAX_FILE) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => None,
            Err(e) => {
                let problem = format!(
                    "cannot read the configuration file {}: {e}; name another with --config or {}",
                    path.display(),
                    self.file_variable()
                );
                return Err(ConfigError { problems: vec![problem] });
            }
        };
        Layers::of(self, text.as_ref().map(|text| (path.as_path(), text.as_str())), sources)
    }

    /// The file to read, and whether it has to exist.
    fn path(&self, sources: &Sources) -> (PathBuf, bool) {
        let variable = self.file_variable();
        match sources.file.clone().or_else(|| sources.variable(&variable).map(PathBuf::from)) {
            Some(path) => (path, true),
            None => (Path::new(self.default_file).to_owned(), false),
        }
    }
}
