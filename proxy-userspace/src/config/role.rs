//! What tells the configurations of the program's roles apart.

use std::io;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::setting::AnySetting;
use super::{Layers, Sources};
use portsplice_files::regular_file;

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A role that has a configuration of its own.
pub struct Role {
    /// The file that is read when no other is named; it may be missing.
    pub default_file: &'static str,
    /// What its variables' names begin with.
    pub prefix: &'static str,
    /// What other roles' variables begin with, where that begins with this role's prefix.
    pub(super) others: &'static [&'static str],
    /// Its settings, in the order in which they are shown.
    pub settings: &'static [&'static dyn AnySetting],
}

impl Role {
    /// The environment variable of a setting: `limits.head-timeout` is `PORTSPLICE_LIMITS_HEAD_TIMEOUT` for the node.
    pub fn variable(&self, setting: &dyn AnySetting) -> String {
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        format!("{}{}", self.prefix, setting.key().chars().map(upper).collect::<String>())
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

    pub(super) fn setting(&self, key: &str) -> Option<&'static dyn AnySetting> {
        self.settings.iter().copied().find(|setting| setting.key() == key)
    }

    pub(super) fn is_section(&self, key: &str) -> bool {
        self.settings.iter().any(|s| s.key().split_once('.').is_some_and(|(section, _)| section == key))
    }

    /// What may stand at the place where an unknown key was found.
    pub(super) fn known(&self, section: &str) -> String {
        let mut names: Vec<String> = Vec::new();
        for key in self.settings.iter().map(|s| s.key()) {
            let name = match (section, key.split_once('.')) {
                ("", None) => format!("`{key}`"),
                ("", Some((inner, _))) => format!("[{inner}]"),
                (section, Some((inner, name))) if inner == section => format!("`{name}`"),
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
