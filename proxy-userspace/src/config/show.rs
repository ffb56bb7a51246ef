//! The resolved configuration as a TOML file that says where each value is from.

use std::fmt;

use super::error::Source;
use super::role::RoleSettings;
use super::setting::{Setting, Shape};
use super::{Loaded, ROOT_CREDENTIAL};
use portsplice_net::listen::ListenConfig;

/// A setting, its text, and where that is from.
type Origin = (&'static Setting, String, Source);

/// Where each setting is from, in the order in which they are shown.
#[derive(Clone, Default)]
pub(super) struct Origins(pub(super) Vec<Origin>);

impl PartialEq for Origins {
    fn eq(&self, other: &Self) -> bool {
        let same = |((a, at, af), (b, bt, bf)): (&Origin, &Origin)| a.key == b.key && at == bt && af == bf;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Eq for Origins {}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(setting, text, _)| (setting.key, text))).finish()
    }
}

impl Origins {
    /// The keys of settings that differ in `new` but take effect only after a restart.
    pub(super) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&new.0);
        pairs.filter(|(old, new)| old.0.restart && old.1 != new.1).map(|(old, _)| old.0.key).collect()
    }
}

/// A configuration file that means the same.
impl<S: RoleSettings> fmt::Display for Loaded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for (setting, text, source) in &self.origins.0 {
            let (own, name) = setting.split();
            if own != section {
                writeln!(f, "\n[{own}]")?;
                section = own;
            }
            line(f, name, &value(setting, text), source)?;
            let credentials = &self.shared().secrets.credentials_directory;
            if let ("secrets.root-file", Some(directory)) = (setting.key, credentials) {
                let path = directory.join(ROOT_CREDENTIAL);
                writeln!(f, "# the root secret is the systemd credential {}", one_line(&path.to_string_lossy()))?;
            }
        }
        self.listen.iter().try_for_each(|listen| listener(f, listen))
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str, source: &Source) -> fmt::Result {
    match source {
        Source::Default => writeln!(f, "{name} = {value}"),
        source => writeln!(f, "{name} = {value}  # {}", one_line(&source.to_string())),
    }
}

fn listener(f: &mut fmt::Formatter<'_>, listen: &ListenConfig) -> fmt::Result {
    let credentials: Vec<String> = listen.credentials.iter().map(|scheme| quoted(scheme.name())).collect();
    writeln!(f, "\n[[listen]]\naddress = {}", quoted(&listen.address.to_string()))?;
    writeln!(f, "tls = {}\ncredentials = [{}]", listen.tls, credentials.join(", "))?;
    if let Some(files) = &listen.certificate {
        writeln!(f, "certificate-file = {}", quoted(&files.certificate.to_string_lossy()))?;
        writeln!(f, "key-file = {}", quoted(&files.key.to_string_lossy()))?;
    }
    Ok(())
}

pub(super) fn value(setting: &Setting, text: &str) -> String {
    match setting.shape {
        Shape::Text => quoted(text),
        Shape::Number | Shape::Switch => text.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A path may hold a line break, which would end the comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
